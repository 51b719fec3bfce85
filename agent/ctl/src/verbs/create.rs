//! `manxctl create`: what is not there yet.

use std::process::ExitCode;

use manx_datastore::{Datastore, Write};

use super::{CREATE, Files, carry::Carry, write_files};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl create -f peer.yaml
  manxctl create -R -f cluster/ --skip-exists")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    carry: Carry,
    /// Leave alone what is there already, instead of refusing all
    #[arg(long)]
    skip_exists: bool,
    /// What was created as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    let create = |manifest| Write::Create { manifest, skip_existing: args.skip_exists };
    write_files(&args.files, &args.carry, CREATE, args.output.is_some(), datastore, create)
}
