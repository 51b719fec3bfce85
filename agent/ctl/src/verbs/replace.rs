//! `manxctl replace`: what is there, and what was seen of it.

use std::process::ExitCode;

use manx_datastore::{Datastore, Write};

use super::{Files, REPLACE, carry::Carry, write_files};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl replace -f peer.yaml
  manxctl get bgppeer rack-7 -o yaml | sed s/64512/64513/ | manxctl replace -f -

A document with metadata.resourceVersion, as get prints it, replaces only what was read as that version.")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    carry: Carry,
    /// What was replaced as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    write_files(&args.files, &args.carry, REPLACE, args.output.is_some(), datastore, Write::Replace)
}
