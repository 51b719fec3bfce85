//! Where the programs under test are: built before they are used, so that no scenario runs with yesterday's daemon.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// Names the directory with `manxd` and `manxctl`; whoever sets it has built them.
pub const BIN_DIR: &str = "MANX_BIN_DIR";

/// The directory with fresh `manxd` and `manxctl`.
pub fn directory() -> Result<PathBuf> {
    if let Some(dir) = env::var_os(BIN_DIR) {
        let dir = PathBuf::from(dir);
        for program in ["manxd", "manxctl"] {
            ensure!(
                dir.join(program).is_file(),
                "{BIN_DIR} is {}, where there is no {program}",
                dir.display()
            );
        }
        return Ok(dir);
    }
    let dir = own_directory()?;
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Of this test's crate; what asks for it (ring) would be built anew.
    cargo.env_remove("CARGO_MANIFEST_DIR");
    cargo.current_dir(workspace()).args(["build", "--quiet", "--package", "manxd", "--package", "manxctl"]);
    if dir.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "manxd and manxctl cannot be built:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(dir)
}

pub fn workspace() -> &'static Path {
    // This crate lies one level below the workspace.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// Where cargo puts programs of the profile that this one was built with: tests lie one level deeper.
fn own_directory() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let dir = own.parent().context("a program in no directory")?;
    let dir = if dir.ends_with("deps") { dir.parent().context("deps in no directory")? } else { dir };
    Ok(dir.to_owned())
}
