//! `manxd`, the node daemon: sockets, timers and the local API around the speaker and the dataplane, which do
//! the work. This is the only room that knows both.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod adopt;
mod api;
mod audit;
mod bfd;
mod bird;
mod blackholes;
mod check_config;
mod cleanup;
mod cli;
mod clock;
mod connection;
mod daemon;
mod gather;
mod health;
mod history_file;
mod logging;
mod metrics;
mod netstat;
mod process;
mod secrets;
mod state_file;
mod traffic;
mod unix_socket;
mod workloads;

use std::{
    io::{Write, stderr},
    process::ExitCode,
};

use anyhow::Context;
use clap::{CommandFactory, Parser};

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Bfd(args)) => bfd::run(&args),
        Some(Command::Cleanup(args)) => cleanup::run(&args),
        Some(Command::Run(args)) => run(*args),
        Some(Command::Completion { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "manxd", &mut script);
            std::io::stdout().write_all(&script).context("cannot print")
        }
        Some(Command::Man { directory }) => clap_mangen::generate_to(Cli::command(), &directory)
            .with_context(|| format!("cannot write manual pages to {}", directory.display())),
        None => run(cli.run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where nobody reads it, the exit code says it.
            let _untold = writeln!(stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: cli::RunArgs) -> anyhow::Result<()> {
    let args = args.with_calicos_environment()?;
    if args.check_config {
        return check_config::run(&args);
    }
    logging::start(args.log_format, &args.log_level)?;
    daemon::run(args)
}
