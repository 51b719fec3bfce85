//! The benchmark of the dataplane: what a lookup costs, what a packet costs, what two ends notice, and how fast
//! routes reach both sinks. Everything runs in namespaces of its own, bounded in time.

mod changes;
mod ends;
mod fast;
mod floor;
mod frame;
mod ground;
mod inject;
mod lookup;
mod netlink;
mod node;
mod packets;
mod peer;
mod report;
mod sinks;
mod traffic;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use crate::measure::Machine;

/// Everything that is timed by the kernel runs here.
const CPU: usize = 1;

#[derive(Args, Debug)]
pub struct DataplaneArgs {
    /// The object with the benchmark's own programs
    #[arg(long, value_name = "FILE")]
    programs: PathBuf,
    /// The object with the programs that only look up
    #[arg(long, value_name = "FILE")]
    lookups: PathBuf,
    /// How often each figure is measured
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Only these parts; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// Only packets whose way contains this, such as "out of a pod", and of the sinks only those whose title does, such as
    /// "manxd"; may be repeated
    #[arg(long, value_name = "TEXT")]
    way: Vec<String>,
    /// Few rounds of few packets: to see that it works
    #[arg(long)]
    quick: bool,
    /// Where the page goes [default: only to the terminal]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the page names as the command that made it
    #[arg(long, value_name = "TEXT", hide = true)]
    made_by: Option<String>,
    /// What the page names as the commit that was built
    #[arg(long, value_name = "TEXT", hide = true)]
    commit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The cost of a lookup
    Lookups,
    /// The cost of a packet
    Packets,
    /// What two ends notice
    Ends,
    /// How fast routes reach the sinks
    Sinks,
    /// What a change costs when many routes stand
    Changes,
}

/// What was measured; a part that was not asked for is not there.
#[derive(Debug, Default)]
struct Results {
    lookups: Option<lookup::Results>,
    packets: Option<packets::Results>,
    ends: Option<ends::Results>,
    sinks: Option<sinks::Results>,
    changes: Option<changes::Results>,
}

pub fn run(args: &DataplaneArgs) -> Result<()> {
    ensure!(nix::unistd::Uid::effective().is_root(), "it makes network namespaces: run it as root");
    crate::take_precedence();
    let wanted = |part: Part| args.part.is_empty() || args.part.contains(&part);
    let rounds = if args.quick { 3 } else { usize::from(args.rounds) };
    let machine = Machine::look()?;
    let mut results = Results::default();
    if wanted(Part::Lookups) {
        println!("lookups: {rounds} rounds");
        let counts = if args.quick { &[1, 1_000][..] } else { &[1, 1_000, 10_000, 100_000, 1_000_000] };
        results.lookups = Some(lookup::measure(&args.lookups, CPU, counts, rounds)?);
    }
    if wanted(Part::Packets) {
        println!("packets: {rounds} rounds");
        let plan = packets::Plan { rounds, frames: if args.quick { 5_000 } else { 50_000 } };
        results.packets = Some(packets::measure(&args.programs, CPU, plan, &args.way)?);
    }
    if wanted(Part::Ends) {
        // They take longer, and differ less.
        let rounds = if args.quick { 1 } else { rounds.div_ceil(2).max(5) };
        println!("ends: {rounds} rounds");
        let plan = ends::Plan {
            rounds,
            during: Duration::from_millis(if args.quick { 50 } else { 400 }),
            pings: if args.quick { 100 } else { 1_000 },
        };
        results.ends = Some(ends::measure(&args.programs, plan)?);
    }
    if wanted(Part::Sinks) {
        // A million takes some seconds each, and differs less.
        let counts =
            if args.quick { &[(10_000, 1)][..] } else { &[(10_000, 5), (100_000, 5), (1_000_000, 3)][..] };
        println!("sinks: {counts:?} (routes, rounds)");
        results.sinks = Some(sinks::measure(counts, &args.way)?);
    }
    if wanted(Part::Changes) {
        let plan = if args.quick {
            changes::Plan { routes: 10_000, flaps: 50, rounds: 1 }
        } else {
            changes::Plan { routes: 100_000, flaps: 200, rounds: 5 }
        };
        println!("changes: {plan:?}");
        results.changes = Some(changes::measure(plan)?);
    }
    let head = report::Head {
        command: args.made_by.clone().unwrap_or_else(|| std::env::args().collect::<Vec<_>>().join(" ")),
        commit: args.commit.clone(),
        others: machine.others()?,
        rounds,
    };
    let page = report::markdown(&head, &results);
    match &args.output {
        Some(path) => {
            fs::write(path, page).with_context(|| format!("{}", path.display()))?;
            println!("\nwritten to {}", path.display());
        }
        None => println!("\n{page}"),
    }
    Ok(())
}
