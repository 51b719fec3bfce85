//! The programs, embedded so that the agent is one file.

/// The ELF object that `cargo xtask build-ebpf` made, aligned as ELF headers want it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MANX_EBPF_OBJECT"));
