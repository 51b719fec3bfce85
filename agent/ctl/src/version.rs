//! `manxctl version`: which manxctl this is, and what ClusterInformation says of the cluster.

use std::process::ExitCode;

use manx_datastore::{Datastore, OpenError};
use serde_json::{Value, json};

use crate::output;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl version
  manxctl version --client -o json")]
pub struct Args {
    /// Do not ask the datastore
    #[arg(long)]
    client: bool,
    /// The same as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

/// Where it was built from, if that was known then.
const COMMIT: Option<&str> = option_env!("MANX_GIT_COMMIT");

pub fn run(args: &Args, datastore: &dyn Fn() -> Result<Datastore, OpenError>) -> anyhow::Result<ExitCode> {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let mut said = json!({ "client": { "version": version, "commit": COMMIT } });
    let mut text =
        format!("Client Version:    {version}\nGit commit:        {}\n", COMMIT.unwrap_or("unknown"));
    let mut failed = None;
    if !args.client {
        let read = datastore()?.read();
        let found = read.snapshot.cluster_information().map(|object| object.spec.clone());
        let missing = found.is_none();
        let (version, of) = found.map_or((None, None), |found| (found.calico_version, found.cluster_type));
        if let Some(said) = said.as_object_mut() {
            said.insert("cluster".to_owned(), json!({ "version": version, "type": of }));
        }
        let known = |field: Option<String>| field.unwrap_or_else(|| "unknown".to_owned());
        // Calico's own tool pads so.
        text.push_str(&format!("Cluster Version:   {}\nCluster Type:      {}\n", known(version), known(of)));
        failed = read.problems.iter().find(|problem| problem.is_error() && missing).cloned();
    }
    output::print(&if args.output.is_some() { pretty(&said)? } else { text })?;
    match failed {
        Some(problem) => anyhow::bail!("unable to retrieve Cluster Version or Type: {problem}"),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn pretty(value: &Value) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}
