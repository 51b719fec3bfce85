//! `cargo xtask test`: everything that must hold before a change lands, in the order of what fails soonest. It ends
//! with the test runner's own summary; nothing that can run here is skipped.

use std::{
    env,
    process::{Command, exit},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;

use crate::{build_ebpf, fuzz, kernels, progress, setup, sim, tree};

/// How often scenarios that are repeated are repeated with `--full`.
const FULL_RUNS: &str = "20";
/// How large a table flips under packets with `--full`, and how long.
const FULL_FLIP_ROUTES: &str = "100000";
const FULL_FLIP_SECONDS: &str = "60";
/// How many random packets each comparison with the kernel's own forwarding sends with `--full`.
const FULL_PACKETS: &str = "400000";

const DENIED: [&str; 3] = ["bans", "licenses", "sources"];

/// Check formatting, lints and licences, and run all tests
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Repeat what is measured twenty times, and show the distribution; fuzz a while, simulate hundreds of nodes, and boot
    /// other kernels
    #[arg(long)]
    full: bool,
    /// Only tests whose name contains this; no other checks
    #[arg(value_name = "NAME")]
    only: Vec<String>,
}

pub fn run(args: Args) -> Result<()> {
    ensure!(
        Uid::effective().is_root(),
        "the tests load programs and make network namespaces: run them as root, such as by: \
         sudo -E env \"PATH=$PATH\" cargo xtask test"
    );
    let started = Instant::now();
    setup::ensure(setup::Need::Tests)?;
    build_ebpf::ensure_within_budget()?;
    if args.only.is_empty() {
        check_sources()?;
    }
    step("build", cargo().args(["build", "--workspace", "--bins"]))?;
    if args.full && args.only.is_empty() {
        fuzz::briefly()?;
        for options in sim::BRIEFLY {
            step("simulation", sim::command().args(*options))?;
        }
        println!("other kernels");
        kernels::run(kernels::Args::default())?;
    }
    tests(&args, started)
}

fn check_sources() -> Result<()> {
    step("formatting", cargo().args(["fmt", "--all", "--check"]))?;
    step(
        "formatting of the programs",
        cargo().current_dir(tree::root().join("ebpf")).args(["fmt", "--all", "--check"]),
    )?;
    step(
        "lints",
        cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
    )?;
    // Clippy cannot drive the compiler that knows the eBPF target; the programs compile for this machine, too.
    let host = progress::first_line(Command::new("rustc").args(["--print", "host-tuple"]))
        .context("rustc does not say for which machine it compiles")?;
    let mut lints = cargo();
    lints.current_dir(tree::root().join("ebpf")).args(["clippy", "--quiet", "--release", "--locked"]);
    lints.args(["--target", &host, "--target-dir", "../target/ebpf-clippy", "--", "-D", "warnings"]);
    step("lints of the programs", &mut lints)?;
    // Advisories are a matter of the day and of a network, not of this tree: `cargo deny check advisories`.
    step("licences and sources", cargo().args(["deny", "--log-level", "error", "check"]).args(DENIED))?;
    step("examples in the documentation", cargo().args(["test", "--workspace", "--doc", "--quiet"]))
}

fn tests(args: &Args, started: Instant) -> Result<()> {
    let mut nextest = cargo();
    nextest
        .args(["nextest", "run", "--workspace", "--run-ignored", "all"])
        .args(&args.only)
        .env(manx_tests::programs::BIN_DIR, tree::programs());
    if args.full {
        nextest.env("MANX_RUNS", FULL_RUNS).env("MANX_PACKETS", FULL_PACKETS);
        nextest.env("MANX_FLIP_ROUTES", FULL_FLIP_ROUTES).env("MANX_FLIP_SECONDS", FULL_FLIP_SECONDS);
    }
    println!("tests ({:.0} s until here)", started.elapsed().as_secs_f32());
    let status = nextest.status().context("cannot run cargo nextest")?;
    // Its summary is the last line.
    exit(status.code().unwrap_or(1));
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    let started = Instant::now();
    println!("{what}");
    let status =
        command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(status.success(), "{what}: `{}` failed", line(command));
    println!("{what}: ok in {:.1} s", started.elapsed().as_secs_f32());
    Ok(())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Cargo in the repository's root, with what setup brought on its path.
fn cargo() -> Command {
    let mut path = vec![tree::tools().join("bin")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut command = tree::cargo_command();
    command.current_dir(tree::root()).env("CARGO_TARGET_DIR", tree::target());
    if let Ok(path) = env::join_paths(path) {
        command.env("PATH", path);
    }
    command
}
