//! Finds the eBPF object that the agent embeds. It is built by another compiler than this crate, so it has to be
//! there already.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

const REMEDY: &str = "cargo xtask build-ebpf";

fn main() {
    println!("cargo::rerun-if-env-changed=MANX_EBPF_OBJECT");
    // Cargo sets it for every build script.
    let crate_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = crate_dir.join("../..");
    let given = env::var_os("MANX_EBPF_OBJECT").map(PathBuf::from);
    let sources = root.join("ebpf");
    let (object, is_ours) = match given {
        Some(path) => (path, false),
        None => (root.join("target/ebpf/manx-ebpf.o"), true),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    let Ok(object) = fs::canonicalize(&object) else {
        println!("cargo::error=the eBPF object {} is missing; build it with: {REMEDY}", object.display());
        return;
    };
    println!("cargo::rustc-env=MANX_EBPF_OBJECT={}", object.display());
    if is_ours {
        for dir in [sources.join("src"), sources.join("abi/src")] {
            println!("cargo::rerun-if-changed={}", dir.display());
            if newest(&dir) > modified(&object) {
                println!(
                    "cargo::warning=the eBPF sources are newer than the object; build it with: {REMEDY}"
                );
                return;
            }
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

fn newest(dir: &Path) -> Option<SystemTime> {
    fs::read_dir(dir).ok()?.flatten().filter_map(|entry| modified(&entry.path())).max()
}
