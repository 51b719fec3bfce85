//! `cargo xtask bench bgp`, `bench dataplane` and `bench plan`: brings the daemons that Manx is compared with, builds the daemon and
//! the benchmark with optimisation, and runs it. What is measured and how stands in `bench/`.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, exit},
};

use anyhow::{Context, Result, ensure};
use clap::{Subcommand, ValueEnum};
use nix::unistd::Uid;

use crate::{build_ebpf, progress, setup, tree};

/// Where a complete run leaves its page.
const PAGE: &str = "docs/benchmarks/bgp.md";
const PLAN_PAGE: &str = "docs/benchmarks/plan.md";
const DATAPLANE_PAGE: &str = "docs/benchmarks/dataplane.md";

/// Measure Manx beside its peers
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Debug, Subcommand)]
enum Subject {
    /// The speaker as a reflector, beside BIRD, FRR and GoBGP. All scenarios write docs/benchmarks/bgp.md; some of
    /// them, or --quick, only print
    Bgp(BgpArgs),
    /// Lookups, packets, connections, sinks and changes, beside the kernel's own. All parts write
    /// docs/benchmarks/dataplane.md; some of them, or --quick, only print
    Dataplane(DataplaneArgs),
    /// What it costs to plan a node among thousands, and to read ten thousand objects. Writes docs/benchmarks/plan.md
    Plan(PlanArgs),
}

#[derive(Debug, clap::Args)]
struct PlanArgs {
    /// Nodes in each cluster
    #[arg(long, value_name = "N")]
    nodes: Option<u16>,
    /// How often each figure is measured
    #[arg(long, value_name = "N", default_value_t = 25)]
    rounds: u16,
    /// Write the page here
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct BgpArgs {
    /// The daemons to compare with; what is missing is installed by apt
    #[arg(long, value_enum, value_delimiter = ',', default_value = "bird,frr,gobgp")]
    against: Vec<Peer>,
    /// Only scenarios whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// How often each daemon plays each scenario; what is over in less than 0.3 s is played ten times
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: u16,
    /// Once each, and nothing of more than 100k routes
    #[arg(long)]
    quick: bool,
    /// Also what takes GoBGP minutes
    #[arg(long)]
    full: bool,
    /// Write the page here
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct DataplaneArgs {
    /// Only these parts: lookups, packets, ends, sinks, changes
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    part: Vec<String>,
    /// Only packets whose way contains this, such as "out of a pod"; may be repeated
    #[arg(long, value_name = "TEXT")]
    way: Vec<String>,
    /// How often each figure is measured
    #[arg(long, value_name = "N", default_value_t = 15)]
    rounds: u16,
    /// Few rounds of few packets: to see that it works
    #[arg(long)]
    quick: bool,
    /// Write the page here
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Peer {
    Bird,
    Frr,
    Gobgp,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Bird => "bird",
            Peer::Frr => "frr",
            Peer::Gobgp => "gobgp",
        }
    }

    /// Debian's package, a program of it, and the service that the package would start.
    fn package(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Peer::Bird => ("bird2", "/usr/sbin/bird", "bird.service"),
            Peer::Frr => ("frr", "/usr/lib/frr/bgpd", "frr.service"),
            Peer::Gobgp => ("gobgpd", "/usr/bin/gobgpd", "gobgpd.service"),
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "the benchmark makes network namespaces: run it as root, such as by: \
         sudo -E env \"PATH=$PATH\" cargo xtask bench bgp"
    );
    match args.subject {
        Subject::Bgp(args) => bgp(args),
        Subject::Dataplane(args) => dataplane(args),
        Subject::Plan(args) => plan(args),
    }
}

fn plan(args: PlanArgs) -> Result<()> {
    setup::ensure(setup::Need::Tests)?;
    build_ebpf::ensure()?;
    build()?;
    let mut bench = program("plan");
    bench.args(["--rounds", &args.rounds.to_string()]);
    if let Some(nodes) = args.nodes {
        bench.args(["--nodes", &nodes.to_string()]);
    }
    finish(bench, args.output, args.nodes.is_none().then_some(PLAN_PAGE))
}

fn bgp(args: BgpArgs) -> Result<()> {
    bring(&args.against)?;
    build_ebpf::ensure()?;
    build()?;
    let mut bench = program("run");
    bench.args(["--runs", &args.runs.to_string()]);
    let against: Vec<&str> = args.against.iter().map(|peer| peer.name()).collect();
    bench.args(["--against", &against.join(",")]);
    for name in &args.scenario {
        bench.args(["--scenario", name]);
    }
    for (flag, wanted) in [("--quick", args.quick), ("--full", args.full)] {
        if wanted {
            bench.arg(flag);
        }
    }
    let complete = args.scenario.is_empty() && !args.quick;
    finish(bench, args.output, complete.then_some(PAGE))
}

fn dataplane(args: DataplaneArgs) -> Result<()> {
    bring(&[Peer::Bird, Peer::Frr])?;
    build_ebpf::ensure()?;
    build()?;
    let mut bench = program("dataplane");
    bench.arg("--programs").arg(tree::ebpf_bench_object("manx-ebpf-bench"));
    bench.arg("--lookups").arg(tree::ebpf_bench_object("manx-ebpf-lookup"));
    bench.args(["--rounds", &args.rounds.to_string()]);
    for (flag, values) in [("--part", &args.part), ("--way", &args.way)] {
        for value in values {
            bench.args([flag, value]);
        }
    }
    if args.quick {
        bench.arg("--quick");
    }
    let complete = args.part.is_empty() && args.way.is_empty() && !args.quick;
    finish(bench, args.output, complete.then_some(DATAPLANE_PAGE))
}

/// The daemons inherit the priority: what else runs on this machine then disturbs less.
fn program(subject: &str) -> Command {
    let mut bench = Command::new("nice");
    bench.args(["-n", "-15"]).arg(tree::target().join("release/manx-bench"));
    bench.current_dir(tree::root()).arg(subject);
    bench
}

/// Runs it, and ends as it does.
fn finish(mut bench: Command, output: Option<PathBuf>, page: Option<&str>) -> Result<()> {
    if let Some(page) = output.or_else(|| page.map(|page| tree::root().join(page))) {
        bench.arg("--output").arg(page);
    }
    let words: Vec<String> = env::args().skip(1).collect();
    bench.arg("--made-by").arg(format!("cargo xtask {}", words.join(" ")));
    if let Some(commit) = commit() {
        bench.arg("--commit").arg(commit);
    }
    let status = bench.status().context("cannot run manx-bench")?;
    exit(status.code().unwrap_or(1));
}

/// What was built: the commit, and whether the tree differs from it. `None` outside of a repository.
fn commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").current_dir(tree::root()).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    // What lies in docs is not measured.
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit} with changes") })
}

/// Installs what is missing of the daemons. Nobody asked for a router on this machine: their services stay off.
fn bring(peers: &[Peer]) -> Result<()> {
    let missing: Vec<_> = peers
        .iter()
        .map(|peer| peer.package())
        .filter(|(_, program, _)| !Path::new(program).is_file())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(package, ..)| *package).collect();
    println!("missing for the comparison: {}", names.join(" "));
    ensure!(
        Path::new("/usr/bin/apt-get").is_file(),
        "no apt here; install by your system's own means what has these programs, or leave them out with --against"
    );
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "--yes", "--no-install-recommends"]).args(&names);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        progress::run("apt-get install", &mut command)
    };
    // A fresh system has no lists, and old ones name versions that the mirror has dropped.
    install().or_else(|_| {
        progress::run("apt-get update", Command::new("apt-get").arg("update")).and_then(|()| install())
    })?;
    for (_, _, service) in missing {
        // Where systemd does not run, nothing was started and there is nothing to stop.
        let _ = Command::new("systemctl").args(["disable", "--now", service]).output();
    }
    Ok(())
}

fn build() -> Result<()> {
    let mut cargo = tree::cargo_command();
    cargo.current_dir(tree::root()).args([
        "build",
        "--release",
        "--package",
        "manxd",
        "--package",
        "manx-bench",
    ]);
    cargo.env("CARGO_TARGET_DIR", tree::target());
    progress::run("building manxd and the benchmark", &mut cargo)
}
