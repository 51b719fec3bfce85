//! `manxctl apply`: all that is given, or nothing.

use std::process::ExitCode;

use manx_datastore::{Datastore, Write};

use super::{APPLY, Files, write_files};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl apply -f cluster.yaml
  manxctl apply -f peers/ -f pools/
  calicoctl get ippool -o yaml | manxctl apply -f -")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// What was applied as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    write_files(&args.files, APPLY, args.output.is_some(), datastore, Write::Apply)
}
