//! `manxctl apply`: all that is given, or nothing.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use manx_datastore::{Datastore, Manifest};
use manx_resources::Problem;
use serde_json::json;

use crate::{input::Input, output};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl apply -f cluster.yaml
  manxctl apply -f peers/ -f pools/
  calicoctl get ippool -o yaml | manxctl apply -f -")]
pub struct Args {
    /// A file, a directory of files, or - for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// What was applied as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    let input = Input::read(&args.filename)?;
    let collected = input.collect();
    output::problems(&collected.problems);
    if collected.problems.iter().any(Problem::is_error) {
        anyhow::bail!("Failed to apply any resources");
    }
    let manifests = input.manifests();
    if manifests.is_empty() {
        anyhow::bail!("No resources specified");
    }
    if let Err(error) = datastore.apply(&manifests) {
        match manifests.as_slice() {
            [manifest] => anyhow::bail!("Failed to apply '{}' resource: [{error}]", manifest.resource.kind()),
            _ => anyhow::bail!("Failed to apply any resources: [{error}]"),
        }
    }
    let applied: Vec<_> = manifests
        .iter()
        .map(|manifest| json!({ "kind": manifest.resource.kind().name(), "name": manifest.resource.name() }))
        .collect();
    output::print(&match args.output {
        Some(_) => format!("{}\n", serde_json::to_string_pretty(&json!({ "applied": applied }))?),
        None => success(&manifests),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn success(manifests: &[Manifest]) -> String {
    let kinds: BTreeSet<_> = manifests.iter().map(|manifest| manifest.resource.kind()).collect();
    let count = manifests.len();
    match (kinds.first(), kinds.len()) {
        (Some(kind), 1) => format!("Successfully applied {count} '{kind}' resource(s)\n"),
        _ => format!("Successfully applied {count} resource(s)\n"),
    }
}
