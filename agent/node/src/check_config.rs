//! `manxd --check-config`: whether the daemon could do its work with these flags, these resources and these secrets. It
//! changes nothing and needs no rights but to read them.

use std::{io::Write, io::stdout, path::Path};

use anyhow::Context;
use manx_datastore::Datastore;

use crate::{cli::RunArgs, daemon, logging, secrets::Secrets};

/// What was found, all of it at once.
#[derive(Debug, Default)]
struct Findings {
    errors: Vec<String>,
    warnings: Vec<String>,
    /// What the node would do, where that can be said.
    summary: Option<String>,
}

/// Prints what is wrong; an error if anything keeps the daemon from its work.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let found = look(args)?;
    let mut out = stdout().lock();
    for (severity, lines) in [("error", &found.errors), ("warning", &found.warnings)] {
        for line in lines {
            writeln!(out, "{severity}: {line}").context("cannot print")?;
        }
    }
    if let Some(summary) = found.summary {
        writeln!(out, "{summary}").context("cannot print")?;
    }
    let errors = found.errors.len();
    anyhow::ensure!(
        errors == 0,
        "manxd would not do all that is asked for: {errors} error{}",
        if errors == 1 { "" } else { "s" }
    );
    writeln!(out, "the configuration is good").context("cannot print")
}

fn look(args: &RunArgs) -> anyhow::Result<Findings> {
    let mut found = Findings::default();
    if let Err(error) = logging::filter(&args.log_level) {
        found.errors.push(format!("{error:#}"));
    }
    if let Some(uplink) = &args.uplink
        && let Err(error) = manx_dataplane::kernel::Naming::new(uplink, &args.pod_interface_prefix)
    {
        found.errors.push(format!("--uplink \"{uplink}\" is no regular expression: {error}"));
    }
    for (flag, path) in [("--state-dir", &args.places.state_dir), ("--bpf-dir", &args.places.bpf_dir)] {
        found.errors.extend(not_a_directory(path).map(|why| format!("{flag} {}: {why}", path.display())));
    }
    let node = daemon::node_name(args)?;
    let read = match Datastore::open(&args.datastore) {
        Ok(datastore) => datastore.read(),
        Err(error) => {
            found.errors.push(error.to_string());
            return Ok(found);
        }
    };
    for problem in read.problems.iter() {
        let lines = if problem.is_error() { &mut found.errors } else { &mut found.warnings };
        lines.push(problem.to_string());
    }
    let plan = match manx_resources::plan(&read.snapshot, &node) {
        Ok(plan) => plan,
        Err(error) => {
            found.errors.push(error.to_string());
            return Ok(found);
        }
    };
    found.warnings.extend(plan.warnings.iter().map(ToString::to_string));
    let mut secrets = Secrets::new(&args.secrets);
    secrets.read(&read.snapshot, plan.every_peer().filter_map(|peer| peer.password_from.as_ref()));
    let mut refused: Vec<String> = plan
        .every_peer()
        .filter_map(|peer| {
            let why = secrets.get(peer.password_from.as_ref()?).err()?;
            Some(format!(
                "{}: the password for {} ({why}): there would be no session",
                peer.resource, peer.address
            ))
        })
        .collect();
    refused.dedup();
    found.errors.extend(refused);
    found.summary = Some(format!(
        "Node {node}: AS {}, {} peers, {} own blocks, {} pools",
        plan.as_number,
        plan.peers.len() + plan.ranges.len(),
        plan.blocks.len(),
        plan.pools.len()
    ));
    Ok(found)
}

/// It is made when it is not there; something else in its place is not put away.
fn not_a_directory(path: &Path) -> Option<&'static str> {
    path.metadata().ok().filter(|found| !found.is_dir()).map(|_| "is there, and is no directory")
}
