//! `cargo xtask fuzz`: feeds the speaker, the dataplane's readers, and the reader of resources what a fuzzer thinks of. cargo-fuzz is built under `target/tools` when it is
//! missing, and says so. What is found beyond the kept corpus stays under `target/fuzz/found` and is built upon next time.

use std::{env, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{progress, tree};

const VERSION: &str = "0.13.2";
struct Target {
    name: &'static str,
    /// From the root.
    folder: &'static str,
    /// Octets: longer inputs say nothing that shorter ones cannot.
    longest: u32,
}

const SPEAKER: &str = "agent/bgp/fuzz";
const DATAPLANE: &str = "agent/dataplane/fuzz";
const RESOURCES: &str = "agent/resources/fuzz";
const TARGETS: [Target; 7] = [
    Target { name: "messages", folder: SPEAKER, longest: 2000 },
    Target { name: "events", folder: SPEAKER, longest: 2000 },
    // A ruleset is long before it says anything.
    Target { name: "netfilter", folder: DATAPLANE, longest: 8000 },
    Target { name: "types", folder: DATAPLANE, longest: 1000 },
    Target { name: "maps", folder: DATAPLANE, longest: 3000 },
    Target { name: "selectors", folder: RESOURCES, longest: 1100 },
    Target { name: "documents", folder: RESOURCES, longest: 6000 },
];

fn names() -> Vec<&'static str> {
    TARGETS.iter().map(|target| target.name).collect()
}

/// Fuzz the speaker (messages, whole histories of events), the dataplane (netfilter's rules, a kernel's types, maps) and
/// the reader of resources (selectors, documents)
#[derive(Debug, clap::Args)]
pub struct Args {
    /// For how long altogether
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Only this target
    #[arg(long, value_parser = names())]
    target: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let wanted = |target: &&Target| args.target.as_deref().is_none_or(|only| only == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(wanted).collect();
    let seconds = args.minutes * 60 / targets.len() as u32;
    fuzz(&targets, seconds)
}

/// A look at each target, as part of the long tests.
pub fn briefly() -> Result<()> {
    fuzz(&TARGETS.iter().collect::<Vec<_>>(), 15)
}

fn fuzz(targets: &[&Target], seconds: u32) -> Result<()> {
    ensure!(
        progress::first_line(Command::new("cargo").args(["+nightly", "--version"])).is_some(),
        "the fuzzer's instrumentation needs a nightly compiler; bring one with: rustup toolchain install nightly"
    );
    bring_cargo_fuzz()?;
    for Target { name, folder, longest } in targets {
        let folder = tree::root().join(folder);
        let found = tree::target().join("fuzz/found").join(name);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        progress::run(&format!("building fuzz target {name}"), cargo_fuzz("build", &folder).arg(name))?;
        let mut command = cargo_fuzz("run", &folder);
        // The first folder is where new inputs go.
        command.arg(name).arg(&found).arg(folder.join("corpus").join(name));
        command.args(["--", &format!("-max_total_time={seconds}"), &format!("-max_len={longest}")]);
        progress::run(&format!("fuzzing {name} for {seconds} s"), &mut command).with_context(|| {
            let kept = folder.join("artifacts").join(name);
            format!("an input makes the program do what it must not; it is kept in {}", kept.display())
        })?;
    }
    Ok(())
}

fn bring_cargo_fuzz() -> Result<()> {
    let present = progress::first_line(Command::new(tree::tool("cargo-fuzz")).args(["fuzz", "--version"]));
    if present.is_some_and(|line| line.ends_with(VERSION)) {
        return Ok(());
    }
    println!("cargo-fuzz {VERSION} is missing; it is built into {}", tree::tools().display());
    let mut command = tree::cargo_command();
    command.args(["install", "cargo-fuzz", "--version", VERSION, "--locked", "--force", "--root"]);
    command.arg(tree::tools()).env_remove("CARGO_TARGET_DIR");
    progress::run("building cargo-fuzz", &mut command)
}

/// A subcommand of cargo-fuzz. It goes through rustup's cargo, which alone knows `+nightly`; our own compiler's
/// variables would name another one.
fn cargo_fuzz(subcommand: &str, folder: &Path) -> Command {
    let mut path = vec![tree::tools().join("bin")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", subcommand, "-O", "--fuzz-dir"]).arg(folder);
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
