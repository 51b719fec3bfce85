//! `cargo xtask setup`: finds out what is missing for building, testing and the demo, and brings it. Each part is
//! looked at before anything is done to it, so a second run changes nothing.

pub mod compiler;
mod linker;
mod nextest;
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
    find: fn(&Args) -> Result<Found>,
    bring: fn(&Args) -> Result<()>,
}

const PARTS: &[Part] = &[
    Part { name: "packages", find: packages::find, bring: packages::bring },
    Part { name: "ebpf compiler", find: compiler::find, bring: compiler::bring },
    Part { name: "bpf-linker", find: linker::find, bring: linker::bring },
    Part { name: "cargo-nextest", find: nextest::find, bring: nextest::bring },
];

pub fn run(args: Args) -> Result<()> {
    let mut missing = 0;
    for part in PARTS {
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
pub fn ensure() -> Result<()> {
    let args = Args { check: false, compiler: None };
    for part in PARTS {
        if let Found::Missing(_) = (part.find)(&args)? {
            return run(args);
        }
    }
    Ok(())
}
