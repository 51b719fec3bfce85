//! `manxctl dataplane`: the programs, where they run, what they did with packets, and whether all is as it should be.

mod audit;
mod counters;
mod status;

use std::{path::Path, process::ExitCode};

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Whether the fast path is on and why, programs per interface, fill of the maps, repairs, the last audit
    Status(status::Args),
    /// Packets by program and verdict since the maps were made
    Counters(counters::Args),
    /// Compare BGP, table, kernel, maps and programs now, and put right what differs
    Audit(audit::Args),
}

pub fn run(command: &Command, socket: &Path) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status(args) => status::run(args, socket),
        Command::Counters(args) => counters::run(args, socket),
        Command::Audit(args) => audit::run(args, socket),
    }
}
