//! `cargo xtask sim`: plays a scenario of the simulation, compiled for speed. The options are the program's own.

use std::{ffi::OsString, process::Command};

use anyhow::{Context, Result};

use crate::tree;

/// Scenarios of the long tests, a minute altogether, with another seed each time.
pub const BRIEFLY: &[&[&str]] = &[
    &["--nodes", "120", "--mesh", "--events", "60"],
    &["--nodes", "300", "--reflectors", "3", "--events", "60"],
    &["--nodes", "100", "--sites", "4", "--events", "60"],
    &["--nodes", "40", "--racks", "4", "--events", "60"],
];

/// Simulate a cluster of hundreds to thousands of speakers in virtual time
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// As `--nodes 1000 --reflectors 2 --events 50 --seed 1`; `--help` shows all
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

pub fn run(args: Args) -> Result<()> {
    let mut command = command();
    let status = command.args(args.options).status().context("cannot run cargo")?;
    std::process::exit(status.code().unwrap_or(1));
}

/// The program, to be given its options.
pub fn command() -> Command {
    let mut command = tree::cargo_command();
    command.current_dir(tree::root()).env("CARGO_TARGET_DIR", tree::target());
    command.args(["run", "--quiet", "--release", "--package", "manx-sim", "--"]);
    command
}
