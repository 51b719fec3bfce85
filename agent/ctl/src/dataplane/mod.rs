//! `manxctl dataplane`: the programs, where they run, what they did with packets, and whether all is as it should be.

mod audit;
mod counters;
mod modes;
mod routes;
mod status;
mod top;
pub(crate) mod units;

use std::{path::Path, process::ExitCode};

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Whether the fast path is on and why, programs per interface, fill of the maps, repairs, the last audit
    Status(status::Args),
    /// What the eBPF maps hold by prefix: action, next hops, pool, packets and bytes
    Routes(routes::Args),
    /// Packets since the maps were made, by reason, interface, prefix or next hop
    Counters(counters::Args),
    /// Live rates by reason, interface, next hop and prefix
    Top(top::Args),
    /// Compare BGP, table, kernel, maps and programs now, and put right what differs
    Audit(audit::Args),
}

pub fn run(command: &Command, socket: &Path) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status(args) => status::run(args, socket),
        Command::Routes(args) => routes::run(args, socket),
        Command::Top(args) => top::run(args, socket),
        Command::Counters(args) => counters::run(args, socket),
        Command::Audit(args) => audit::run(args, socket),
    }
}
