//! `manxctl log-level`: what the log of the running manxd lets through, and another level until it ends.

use std::{path::Path, process::ExitCode};

use manx_api::{LogLevel, path};

use crate::{client, output};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl log-level
  manxctl log-level debug
  manxctl log-level info,manx_bgp=trace")]
pub struct Args {
    /// error, warn, info, debug or trace, or directives; without it the level is only shown
    #[arg(value_name = "LEVEL")]
    level: Option<String>,

    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let answer: LogLevel = match &args.level {
        None => client::ask(socket, path::LOG_LEVEL)?,
        Some(level) => {
            client::order(socket, &format!("{}?level={}", path::LOG_LEVEL, client::escaped(level)))?
        }
    };
    let text = match (&args.output, &answer.before) {
        (Some(_), _) => format!("{}\n", serde_json::to_string_pretty(&answer)?),
        (None, None) => format!("{}\n", answer.level),
        (None, Some(before)) => {
            format!("The log level is {} until manxd ends; it was {before}.\n", answer.level)
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}
