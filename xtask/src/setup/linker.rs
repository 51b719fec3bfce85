//! bpf-linker, built against the LLVM of the eBPF compiler itself: an older LLVM cannot read that compiler's
//! bitcode. The library is found relative to the program, so the folder may move.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use super::{Args, Found, compiler};
use crate::{progress, tree};

const VERSION: &str = "0.13.0";

pub fn find(_: &Args) -> Result<Found> {
    let Some(compiler) = compiler::installed() else {
        return Ok(Found::Missing("comes after the compiler, against whose LLVM it is built".into()));
    };
    if fs::read_link(tree::tools().join("llvm/lib/libLLVM.so")).ok() != Some(compiler.llvm_link()?) {
        return Ok(Found::Missing(format!("{VERSION}, for LLVM {}", compiler.llvm_major()?)));
    }
    // Also fails where the library it was linked to is gone.
    let mut command = Command::new(tree::tool("bpf-linker"));
    match progress::first_line(compiler.with_libraries(command.arg("--version"))) {
        Some(line) if line.ends_with(VERSION) => {
            Ok(Found::Present(format!("{VERSION}, for LLVM {}", compiler.llvm_major()?)))
        }
        Some(line) => Ok(Found::Missing(format!("{VERSION} is wanted, {line} is there"))),
        None => Ok(Found::Missing(format!("{VERSION}, for LLVM {}", compiler.llvm_major()?))),
    }
}

pub fn bring(_: &Args) -> Result<()> {
    let compiler = compiler::installed().context("the compiler is missing")?;
    let prefix = tree::tools().join("llvm");
    // Its own directory, because the linker asks for `-lLLVM` and compilers name the file otherwise.
    let lib = prefix.join("lib");
    if lib.exists() {
        fs::remove_dir_all(&lib)?;
    }
    fs::create_dir_all(&lib)?;
    let library = compiler.llvm_link()?;
    for name in ["libLLVM.so".as_ref(), library.file_name().context("the library has a name")?] {
        std::os::unix::fs::symlink(&library, lib.join(name))?;
    }
    // Relative to the program; the one that its build adds is absolute.
    let mut flags = "-Clink-arg=-Wl,-rpath,$ORIGIN/../llvm/lib".to_owned();
    for dir in compiler.library_dirs().unwrap_or_default() {
        // So that the system's linker finds what libLLVM itself needs.
        flags += &format!(" -Clink-arg=-Wl,-rpath-link,{}", dir.display());
    }
    let mut command = tree::cargo_command();
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features"])
        .args(["--features", &format!("llvm-{}", compiler.llvm_major()?), "--root"])
        .arg(tree::tools())
        .env("LLVM_PREFIX", &prefix)
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    progress::run("building bpf-linker", &mut command)
}
