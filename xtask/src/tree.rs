//! Where things are in this repository.

use std::{path::PathBuf, process::Command};

/// The repository's root. `cargo run` says at run time where it is: what is compiled in is wrong when the folder has
/// moved since.
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    // `xtask/` stands in the root, so there is a parent.
    manifest.parent().unwrap_or(&manifest).to_owned()
}

/// What setup brings. Nothing outside of it changes but the system's packages.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}

/// Binaries that setup built.
pub fn tool(name: &str) -> PathBuf {
    tools().join("bin").join(name)
}

/// Where the object is that the agent embeds.
pub fn ebpf_object() -> PathBuf {
    root().join("target/ebpf/manx-ebpf.o")
}

/// Where an object is that only the benchmark loads.
pub fn ebpf_bench_object(binary: &str) -> PathBuf {
    root().join("target/ebpf").join(binary).with_extension("o")
}

/// Where our own calls of cargo put what they build, whatever the environment says.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The programs that they build.
pub fn programs() -> PathBuf {
    target().join("debug")
}

/// The cargo that runs us.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Cargo, as from a shell: a crate that asks for the directory of whoever runs it (ring) would be built anew each time
/// that it is another's.
pub fn cargo_command() -> Command {
    let mut command = Command::new(cargo());
    command.env_remove("CARGO_MANIFEST_DIR");
    command
}
