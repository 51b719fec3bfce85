//! `cargo xtask soak`: each change of the topology twenty times under traffic, and then anything for as many minutes as one
//! likes. What is asserted is that no packet is lost, and that nothing has grown in the end.

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;

use crate::{build_ebpf, setup, tree};

/// Change the topology under traffic, and do anything to the daemons for some minutes
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long anything is done to the daemons
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u64,
    /// How often each walk is walked; 0: not at all
    #[arg(long, value_name = "N", default_value_t = 20)]
    runs: u64,
    /// What is done, as an earlier run has printed it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(Uid::effective().is_root(), "the lab makes network namespaces: it has to be run as root");
    setup::ensure(setup::Need::Tests)?;
    build_ebpf::ensure_within_budget()?;
    let built = tree::cargo_command()
        .current_dir(tree::root())
        .env("CARGO_TARGET_DIR", tree::target())
        .args(["build", "--workspace", "--bins"])
        .status()
        .context("cannot run cargo")?;
    ensure!(built.success(), "the programs cannot be built");
    let mut nextest = tree::cargo_command();
    nextest.current_dir(tree::root()).env("CARGO_TARGET_DIR", tree::target());
    nextest.args(["nextest", "run", "--profile", "soak", "--package", "manx-tests", "--no-capture"]);
    let only = if args.runs == 0 { "binary(changes) & test(soak)" } else { "binary(changes)" };
    nextest.args(["--filter-expr", only]);
    nextest.env(manx_tests::programs::BIN_DIR, tree::programs());
    nextest.env("MANX_RUNS", args.runs.to_string()).env("MANX_SOAK_SECONDS", (args.minutes * 60).to_string());
    if let Some(seed) = args.seed {
        nextest.env("MANX_SEED", seed.to_string());
    }
    let status = nextest.status().context("cannot run cargo nextest")?;
    // Its summary is the last line.
    std::process::exit(status.code().unwrap_or(1));
}
