//! `cargo xtask setup`: finds out what is missing for building, testing and the demo, and brings it. Each part is
//! looked at before anything is done to it, so a second run changes nothing.

pub mod compiler;
mod crates;
mod linker;
mod packages;

use anyhow::{Context, Result, bail};

/// Bring what building, testing and the demo need and this machine lacks
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Change nothing; exit 1 if something is missing
    #[arg(long)]
    check: bool,
    /// Where the eBPF compiler comes from [default: rustup where it has a network, else the distribution]
    #[arg(long, value_enum)]
    compiler: Option<compiler::Source>,
    /// What it is for.
    #[arg(skip)]
    need: Need,
}

/// What parts are for: the demo does not wait for what only the tests use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Building, and the demo.
    Demo,
    #[default]
    Tests,
}

/// What was found out about one part.
pub enum Found {
    /// It is there; a word about which.
    Present(String),
    /// What is missing, or wrong with what is there.
    Missing(String),
}

struct Part {
    name: &'static str,
    need: Need,
    find: fn(&Args) -> Result<Found>,
    bring: fn(&Args) -> Result<()>,
}

const PARTS: &[Part] = &[
    Part { name: "packages", need: Need::Demo, find: packages::find, bring: packages::bring },
    Part { name: "ebpf compiler", need: Need::Demo, find: compiler::find, bring: compiler::bring },
    Part { name: "bpf-linker", need: Need::Demo, find: linker::find, bring: linker::bring },
    Part {
        name: "cargo-nextest",
        need: Need::Tests,
        find: |_| crates::find(&crates::NEXTEST),
        bring: |_| crates::bring(&crates::NEXTEST),
    },
    Part {
        name: "cargo-deny",
        need: Need::Tests,
        find: |_| crates::find(&crates::DENY),
        bring: |_| crates::bring(&crates::DENY),
    },
];

pub fn run(args: Args) -> Result<()> {
    let mut missing = 0;
    for part in PARTS.iter().filter(|part| part.need <= args.need) {
        let found = (part.find)(&args).with_context(|| format!("cannot look for {}", part.name))?;
        let lack = match found {
            Found::Present(which) => {
                println!("{:<15} present  {which}", part.name);
                continue;
            }
            Found::Missing(lack) => lack,
        };
        println!("{:<15} missing  {lack}", part.name);
        if args.check {
            missing += 1;
            continue;
        }
        (part.bring)(&args).with_context(|| format!("cannot bring {}", part.name))?;
        match (part.find)(&args)? {
            Found::Present(which) => println!("{:<15} ready    {which}", part.name),
            Found::Missing(lack) => bail!("{} was brought, but still: {lack}", part.name),
        }
    }
    if missing > 0 {
        eprintln!("{missing} of {} missing; bring them with: cargo xtask setup", PARTS.len());
        std::process::exit(1);
    }
    Ok(())
}

/// For other commands: brings what is missing and says nothing when all is there.
pub fn ensure(need: Need) -> Result<()> {
    let args = Args { check: false, compiler: None, need };
    for part in PARTS.iter().filter(|part| part.need <= need) {
        if let Found::Missing(_) = (part.find)(&args)? {
            return run(args);
        }
    }
    Ok(())
}
