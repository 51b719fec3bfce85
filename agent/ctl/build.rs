//! Tells the program which commit it is built from: what MANX_GIT_COMMIT says, else git, else nothing.

use std::{path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=MANX_GIT_COMMIT");
    if std::env::var_os("MANX_GIT_COMMIT").is_some() {
        return;
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // Grows with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=MANX_GIT_COMMIT={commit}");
    }
}
