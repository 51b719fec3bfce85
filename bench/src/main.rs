//! The benchmark of the speaker beside BIRD, FRR and GoBGP. `run` plays every scenario with every daemon and writes
//! a page of results; `play` is the generator, which `run` starts again for each run, in a process and a namespace of
//! its own, so that what it costs can be told from what it measures. `cargo xtask bench bgp` builds and calls this.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used)]

mod daemons;
mod dataplane;
mod lab;
mod measure;
mod plan;
mod player;
mod report;
mod run;
mod scenario;
mod script;
mod session;
mod table;
mod wire;

use std::{collections::BTreeMap, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    daemons::Which,
    scenario::{SCENARIOS, Scenario},
};

/// As a nice value.
const PRECEDENCE: &str = "-15";

#[derive(Debug, Parser)]
#[command(name = "manx-bench", about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play the scenarios with Manx and its peers, and write the results as Markdown
    Run(RunArgs),
    /// Measure the dataplane
    Dataplane(dataplane::DataplaneArgs),
    /// Measure what planning costs among thousands of nodes
    Plan(plan::PlanArgs),
    /// Be the generator of one scenario
    #[command(hide = true)]
    Play {
        #[arg(value_name = "SCENARIO")]
        name: String,
    },
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The daemons to compare with
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bird,frr,gobgp")]
    against: Vec<Which>,
    /// Only scenarios whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// How often each daemon plays each scenario; what is over in less than 0.3 s is played ten times
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Once each, and nothing of more than 100k routes
    #[arg(long)]
    quick: bool,
    /// Also what takes GoBGP minutes
    #[arg(long)]
    full: bool,
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

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Dataplane(args) => dataplane::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Play { name } => play(&name),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play(name: &str) -> Result<()> {
    let scenario =
        SCENARIOS.iter().find(|s| s.name == name).with_context(|| format!("no scenario {name}"))?;
    script::play(scenario.play, Duration::from_secs(scenario.limit))
}

/// Where the scheduler shares the processors between sessions (sched(7), autogroup), a process's nice value counts only
/// within its own: the session of the benchmark is one of its own, and is put first. What is refused only makes the
/// figures less steady, and the page says how much others took.
fn take_precedence() {
    // In a session of its own an interrupt from the terminal does not come here; the end of the caller does.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM);
    if nix::unistd::setsid().is_ok() {
        let _ = fs::write("/proc/self/autogroup", PRECEDENCE);
    }
}

fn run(args: &RunArgs) -> Result<()> {
    ensure!(nix::unistd::Uid::effective().is_root(), "it makes network namespaces: run it as root");
    take_precedence();
    // A thousand clients are a thousand descriptors, here and in the daemons, which inherit the limit.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(1 << 16), hard)?;

    let wanted = |s: &&Scenario| {
        (args.scenario.is_empty() || args.scenario.iter().any(|name| s.name.contains(name.as_str())))
            && !(args.quick && s.routes() > 100_000)
    };
    let scenarios: Vec<Scenario> = SCENARIOS.iter().filter(wanted).copied().collect();
    ensure!(
        !scenarios.is_empty(),
        "no such scenario; there are {}",
        SCENARIOS.iter().map(|s| s.name).collect::<Vec<_>>().join(", ")
    );
    let mut daemons = vec![Which::Manx];
    daemons.extend(args.against.iter().filter(|which| **which != Which::Manx));
    daemons.dedup();
    let mut versions = BTreeMap::new();
    for which in &daemons {
        versions.insert(*which, which.version()?);
    }
    let plan = run::Plan {
        runs: if args.quick { 1 } else { usize::from(args.runs) },
        extend: !args.quick && args.runs > 1,
        full: args.full,
    };
    let mut results = Vec::new();
    for scenario in scenarios {
        println!("{}: {}", scenario.name, scenario.title);
        results.push(run::scenario(&scenario, &daemons, plan)?);
    }
    let made_by = args.made_by.clone().unwrap_or_else(|| std::env::args().collect::<Vec<_>>().join(" "));
    let page =
        report::markdown(&report::Head { command: made_by, commit: args.commit.clone(), versions }, &results);
    match &args.output {
        Some(path) => {
            fs::write(path, page).with_context(|| format!("{}", path.display()))?;
            println!("\nwritten to {}", path.display());
        }
        None => println!("\n{page}"),
    }
    Ok(())
}
