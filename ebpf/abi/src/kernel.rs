//! Numbers in the programs that stand for what only the running kernel's BTF knows. The loader finds each exactly
//! once in the object and writes the kernel's over it.

/// The helper number of a call to `bpf_skb_ct_lookup`, which is no helper but a function of the kernel's (kfunc).
pub const SKB_CT_LOOKUP: u32 = 0x0bad_0001;
/// The same for `bpf_ct_release`.
pub const CT_RELEASE: u32 = 0x0bad_0002;
/// The offset at which `nf_conn.status` is loaded.
pub const STATUS: i16 = 0x6b10;
/// The offset at which `nf_conn.timeout` is loaded.
pub const TIMEOUT: i16 = 0x6b2c;
