//! `manxctl apply`: all that is given, or nothing.

use std::process::ExitCode;

use manx_datastore::{Datastore, Write};

use super::{APPLY, Files, carry::Carry, write_files};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl apply -f cluster.yaml
  manxctl apply -f peers/ -f pools/
  calicoctl get ippool -o yaml | manxctl apply -f -

What would cut nodes off from one another is refused without --yes; manxctl plan --diff -f says what would
change. Sessions that are no longer wanted are kept until all that came by them has come by another way,
or for 30 s (manx.dev/closeAfter), and routes without another way for five minutes (manx.dev/holdRoutes).")]
pub struct Args {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    carry: Carry,
    /// What was applied as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    write_files(&args.files, &args.carry, APPLY, args.output.is_some(), datastore, Write::Apply)
}
