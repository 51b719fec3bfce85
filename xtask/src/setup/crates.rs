//! Programs that cargo builds from crates.io, for the tests. One that the user has is taken as it is.

use std::process::Command;

use anyhow::Result;

use super::Found;
use crate::{progress, tree};

pub struct Program {
    name: &'static str,
    /// As cargo's subcommand.
    subcommand: &'static str,
    version: &'static str,
}

/// Each test is a process of its own, which is what tests with namespaces of their own want.
pub const NEXTEST: Program = Program { name: "cargo-nextest", subcommand: "nextest", version: "0.9.143" };
/// Licences and sources of what we depend on.
pub const DENY: Program = Program { name: "cargo-deny", subcommand: "deny", version: "0.20.2" };

pub fn find(program: &Program) -> Result<Found> {
    let version = [program.subcommand, "--version"];
    let users = progress::first_line(tree::cargo_command().args(version));
    let ours = || progress::first_line(Command::new(tree::tool(program.name)).args(version));
    Ok(match users.or_else(ours) {
        Some(line) => Found::Present(line),
        None => Found::Missing(program.version.into()),
    })
}

pub fn bring(program: &Program) -> Result<()> {
    let mut command = tree::cargo_command();
    command
        .args(["install", program.name, "--version", program.version, "--locked", "--root"])
        .arg(tree::tools());
    progress::run(&format!("building {}", program.name), &mut command)
}
