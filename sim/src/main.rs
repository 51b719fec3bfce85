//! Plays one scenario and says what it came to, or why it is wrong and how to see it again.
#![forbid(unsafe_code)]

use std::{
    process::ExitCode,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use manx_sim::cluster::{Cluster, Scenario, Topology};

/// Simulate a cluster of speakers in virtual time
#[derive(Debug, Parser)]
#[command(name = "cargo xtask sim", max_term_width = 100)]
struct Args {
    /// How many nodes there are
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=4000))]
    nodes: u16,
    /// What everything follows from [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
    /// iBGP, all with all: the default
    #[arg(long, group = "topology")]
    mesh: bool,
    /// iBGP, the first so many nodes reflect
    #[arg(long, value_name = "R", group = "topology", value_parser = clap::value_parser!(u16).range(1..))]
    reflectors: Option<u16>,
    /// iBGP, the first so many nodes reflect, but not among their clients, who are meshed
    #[arg(long, value_name = "R", group = "topology", value_parser = clap::value_parser!(u16).range(1..))]
    meshed_clients: Option<u16>,
    /// iBGP, reflectors of reflectors: so many sites with two each, and two above them
    #[arg(long, value_name = "S", group = "topology", value_parser = clap::value_parser!(u16).range(1..))]
    sites: Option<u16>,
    /// eBGP, the first so many nodes are switches, all others connect to two of them
    #[arg(long, value_name = "R", group = "topology", value_parser = clap::value_parser!(u16).range(1..))]
    racks: Option<u16>,
    /// How many things go wrong
    #[arg(long, default_value_t = 50)]
    events: usize,
    /// How many runs, with this seed and those after it
    #[arg(long, default_value_t = 1)]
    runs: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let topology = match args {
        Args { reflectors: Some(n), .. } => Topology::Reflectors(n.into()),
        Args { meshed_clients: Some(n), .. } => Topology::MeshedClients(n.into()),
        Args { sites: Some(n), .. } => Topology::Sites(n.into()),
        Args { racks: Some(n), .. } => Topology::Racks(n.into()),
        _ => Topology::Mesh,
    };
    let clock =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| u64::from(time.subsec_nanos()));
    let first = args.seed.unwrap_or_else(clock);
    for seed in first..first.saturating_add(args.runs) {
        let scenario = Scenario { nodes: args.nodes.into(), topology, events: args.events, seed };
        println!("{} nodes, {topology:?}, {} events, seed {seed}", args.nodes, args.events);
        let started = Instant::now();
        match Cluster::run(scenario) {
            Ok(outcome) => {
                let tally = outcome.tally;
                println!(
                    "  right: {} sessions, {} routes; up after {:.1} s, right again after {:.1} s",
                    outcome.sessions / 2,
                    outcome.routes,
                    outcome.up_after.as_secs_f64(),
                    outcome.right_after.as_secs_f64(),
                );
                println!(
                    "  {:.0} s of the cluster's time in {:.1} s of ours: {} connections, {:.1} MB, {} happenings, \
                     {} changes of best paths; digest {:016x}",
                    outcome.time.as_secs_f64(),
                    started.elapsed().as_secs_f64(),
                    tally.connections,
                    tally.octets as f64 / 1e6,
                    tally.happenings,
                    tally.changes,
                    tally.digest,
                );
            }
            Err(failure) => {
                eprintln!("wrong: {failure}");
                eprintln!("see it again with the same options and: --seed {seed}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
