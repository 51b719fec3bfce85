//! cargo-nextest: each test is a process of its own, which is what tests with namespaces of their own want.

use std::process::Command;

use anyhow::Result;

use super::{Args, Found};
use crate::{progress, tree};

const VERSION: &str = "0.9.143";

pub fn find(_: &Args) -> Result<Found> {
    let users = progress::first_line(Command::new(tree::cargo()).args(["nextest", "--version"]));
    let ours =
        || progress::first_line(Command::new(tree::tool("cargo-nextest")).args(["nextest", "--version"]));
    Ok(match users.or_else(ours) {
        Some(line) => Found::Present(line),
        None => Found::Missing(VERSION.into()),
    })
}

pub fn bring(_: &Args) -> Result<()> {
    let mut command = Command::new(tree::cargo());
    command.args(["install", "cargo-nextest", "--version", VERSION, "--locked", "--root"]).arg(tree::tools());
    progress::run("building cargo-nextest", &mut command)
}
