//! `manxctl delete`: by kind and names, or what files name.

use std::{path::PathBuf, process::ExitCode};

use manx_datastore::{Datastore, Write};
use manx_resources::{Key, Kind};

use super::{DELETE, Files, carry::Carry, nothing, parse_kind, scope::Scope, write_all};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl delete bgppeer rack-7 rack-8
  manxctl delete -f old-peers.yaml --skip-not-exists")]
pub struct Args {
    /// bgppeer, ippool, node, ... by any of their names
    #[arg(value_parser = parse_kind, required_unless_present = "filename", conflicts_with = "filename", requires = "name")]
    kind: Option<Kind>,
    /// The resources to delete
    name: Vec<String>,
    /// What a file, the files of a directory, or - for standard input, names; may be given several times
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,
    /// Directories inside directories, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// It is no fault if nothing is given
    #[arg(long)]
    skip_empty: bool,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    carry: Carry,
    /// Pass over what is not there, instead of refusing all
    #[arg(short, long)]
    skip_not_exists: bool,
    /// What was deleted as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    let (as_json, skip_absent) = (args.output.is_some(), args.skip_not_exists);
    let writes: Vec<Write> = match args.kind {
        Some(kind) => {
            args.scope.check_kind(kind)?;
            anyhow::ensure!(args.name.iter().all(|name| !name.is_empty()), "resource name may not be empty");
            let delete = |name: &String| Write::Delete {
                key: Key::new(kind, name.as_str()),
                version: None,
                skip_absent,
            };
            args.name.iter().map(delete).collect()
        }
        None => {
            let (filename, recursive, skip_empty) = (args.filename.clone(), args.recursive, args.skip_empty);
            let files = Files { filename, recursive, skip_empty, scope: args.scope.clone() };
            let Some(manifests) = files.manifests(DELETE)? else { return nothing(DELETE, as_json) };
            let delete = |manifest: manx_datastore::Manifest| Write::Delete {
                key: manifest.resource.key(),
                version: manifest.version,
                skip_absent,
            };
            manifests.into_iter().map(delete).collect()
        }
    };
    write_all(writes, &args.carry, DELETE, as_json, datastore)
}
