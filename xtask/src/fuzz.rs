//! `cargo xtask fuzz`: feeds the speaker what a fuzzer thinks of. cargo-fuzz is built under `target/tools` when it is
//! missing, and says so. What is found beyond the kept corpus stays under `target/fuzz/found` and is built upon next time.

use std::{env, fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{progress, tree};

const VERSION: &str = "0.13.2";
/// The fuzz targets, in `agent/bgp/fuzz`.
const TARGETS: [&str; 2] = ["messages", "events"];
/// Longer inputs say nothing that shorter ones cannot.
const LONGEST: u32 = 2000;

/// Fuzz the speaker: message parsing, and whole histories of events
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For how long altogether
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Only this target
    #[arg(long, value_parser = TARGETS)]
    target: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let targets: Vec<&str> =
        TARGETS.into_iter().filter(|&t| args.target.as_deref().is_none_or(|only| only == t)).collect();
    let seconds = args.minutes * 60 / targets.len() as u32;
    fuzz(&targets, seconds)
}

/// A look at each target, as part of the long tests.
pub fn briefly() -> Result<()> {
    fuzz(&TARGETS, 15)
}

fn fuzz(targets: &[&str], seconds: u32) -> Result<()> {
    ensure!(
        progress::first_line(Command::new("cargo").args(["+nightly", "--version"])).is_some(),
        "the fuzzer's instrumentation needs a nightly compiler; bring one with: rustup toolchain install nightly"
    );
    bring_cargo_fuzz()?;
    for target in targets {
        let found = tree::target().join("fuzz/found").join(target);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        progress::run(&format!("building fuzz target {target}"), cargo_fuzz("build").arg(target))?;
        let mut command = cargo_fuzz("run");
        // The first folder is where new inputs go.
        command.arg(target).arg(&found).arg(folder().join("corpus").join(target));
        command.args(["--", &format!("-max_total_time={seconds}"), &format!("-max_len={LONGEST}")]);
        progress::run(&format!("fuzzing {target} for {seconds} s"), &mut command).with_context(|| {
            let kept = folder().join("artifacts").join(target);
            format!("an input makes the speaker do what it must not; it is kept in {}", kept.display())
        })?;
    }
    Ok(())
}

fn folder() -> std::path::PathBuf {
    tree::root().join("agent/bgp/fuzz")
}

fn bring_cargo_fuzz() -> Result<()> {
    let present = progress::first_line(Command::new(tree::tool("cargo-fuzz")).args(["fuzz", "--version"]));
    if present.is_some_and(|line| line.ends_with(VERSION)) {
        return Ok(());
    }
    println!("cargo-fuzz {VERSION} is missing; it is built into {}", tree::tools().display());
    let mut command = Command::new(tree::cargo());
    command.args(["install", "cargo-fuzz", "--version", VERSION, "--locked", "--force", "--root"]);
    command.arg(tree::tools()).env_remove("CARGO_TARGET_DIR");
    progress::run("building cargo-fuzz", &mut command)
}

/// A subcommand of cargo-fuzz. It goes through rustup's cargo, which alone knows `+nightly`; our own compiler's
/// variables would name another one.
fn cargo_fuzz(subcommand: &str) -> Command {
    let mut path = vec![tree::tools().join("bin")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", subcommand, "-O", "--fuzz-dir"]).arg(folder());
    command.arg("--target-dir").arg(tree::target().join("fuzz"));
    command.current_dir(tree::root());
    for variable in ["CARGO", "RUSTC", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
        command.env_remove(variable);
    }
    if let Ok(path) = env::join_paths(path) {
        command.env("PATH", path);
    }
    command
}
