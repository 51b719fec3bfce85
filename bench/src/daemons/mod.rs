//! The daemons that are compared: for each, its configuration for N passive clients of one reflector, its command
//! line, and its version. All log warnings only, none writes to the kernel's FIB, none knows more of the others.

mod bird;
mod frr;
mod gobgp;
pub mod manx;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Which {
    Manx,
    Bird,
    Frr,
    Gobgp,
}

impl Which {
    pub fn name(self) -> &'static str {
        match self {
            Which::Manx => "Manx",
            Which::Bird => "BIRD",
            Which::Frr => "FRR",
            Which::Gobgp => "GoBGP",
        }
    }

    /// Writes its configuration below `dir` and gives the command that runs it in the foreground.
    pub fn command(self, scenario: &Scenario, dir: &Path) -> Result<Command> {
        let clients = scenario.clients();
        match self {
            Which::Manx => manx::command(clients, dir),
            Which::Bird => bird::command(clients, dir),
            Which::Frr => frr::command(dir),
            Which::Gobgp => gobgp::command(scenario, dir),
        }
    }

    /// What its program says of itself.
    pub fn version(self) -> Result<String> {
        let (program, flag) = match self {
            Which::Manx => (manx::program(), "--version"),
            Which::Bird => (PathBuf::from("bird"), "--version"),
            Which::Frr => (PathBuf::from(frr::PROGRAM), "--version"),
            Which::Gobgp => (PathBuf::from("gobgpd"), "--version"),
        };
        let output = Command::new(&program)
            .arg(flag)
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        Ok(String::from_utf8_lossy(&said).lines().next().unwrap_or("unknown").trim().to_owned())
    }
}

fn write(dir: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}
