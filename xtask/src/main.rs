//! The chores of this repository, one file per command: what is missing is brought (`setup`), the eBPF programs are
//! built (`build-ebpf`), the article's story is played (`demo`), everything is tested (`test`), the speaker
//! is measured beside its peers (`bench`), fed with anything (`fuzz`), played in whole clusters in virtual time
//! (`sim`), and changed under traffic (`soak`). Run as `cargo xtask COMMAND`.
#![warn(clippy::unwrap_used)]

mod bench;
mod build_ebpf;
mod demo;
mod ebpf_budget;
mod fuzz;
mod kernels;
mod progress;
mod setup;
mod sim;
mod soak;
mod test;
mod tree;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The chores of this repository", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Setup(setup::Args),
    Bench(bench::Args),
    BuildEbpf(build_ebpf::Args),
    Demo(demo::Args),
    Fuzz(fuzz::Args),
    Kernels(kernels::Args),
    Sim(sim::Args),
    Soak(soak::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup(args) => setup::run(args),
        Command::Bench(args) => bench::run(args),
        Command::BuildEbpf(args) => build_ebpf::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Fuzz(args) => fuzz::run(args),
        Command::Kernels(args) => kernels::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Soak(args) => soak::run(args),
        Command::Test(args) => test::run(args),
    }
}
