//! `manxctl label`: one label of one object.

use std::process::ExitCode;

use anyhow::{bail, ensure};
use manx_datastore::{Datastore, WriteError};
use manx_resources::{Key, Kind};
use serde_json::{Map, Value, json};

use super::{LABEL, carry::Carry, edit, object, parse_kind, scope::Scope};
use crate::output;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl label nodes kw01 route-reflector=true
  manxctl label nodes kw01 rack=8 --overwrite
  manxctl label nodes kw01 rack --remove")]
pub struct Args {
    /// bgppeer, ippool, node, ... by any of their names
    kind: String,
    /// The resource to label
    name: String,
    /// KEY=VALUE, or KEY with --remove
    label: String,
    /// Change the value of a label that is there
    #[arg(long, conflicts_with = "remove")]
    overwrite: bool,
    /// Take the label off
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    carry: Carry,
    /// What was labelled as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

/// What is done to the label.
enum Done {
    Set,
    Updated,
    Removed,
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    let (kind, name): (Kind, _) = (parse_kind(&args.kind).map_err(anyhow::Error::msg)?, &args.name);
    args.scope.check_kind(kind)?;
    ensure!(!name.is_empty(), "resource name may not be empty");
    let at = format!("{} {name}", args.kind);
    let (label, value) = match args.label.split_once('=') {
        Some((label, value)) if !args.remove => (label, Some(value)),
        None if args.remove => (args.label.as_str(), None),
        Some(_) => bail!("invalid label {}; with --remove write the key alone", args.label),
        None => bail!("invalid label {}; write KEY=VALUE, or KEY with --remove", args.label),
    };
    ensure!(!label.is_empty(), "invalid label {}; it has no key", args.label);
    let key = Key::new(kind, name.as_str());
    let mut done = Done::Set;
    let written = edit(datastore, &key, &args.carry, LABEL, |document| {
        let mut document = document.clone();
        let old =
            document.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
        let mut labels: Map<String, Value> = old.clone();
        done = match (value, old.get(label)) {
            (Some(value), Some(before)) if before != value && !args.overwrite => bail!(
                "failed to update label of {at}, key {label} is already present with value {before}. please use \
                 '--overwrite' to set a new value"
            ),
            (Some(_), Some(_)) => Done::Updated,
            (Some(_), None) => Done::Set,
            (None, Some(_)) => Done::Removed,
            (None, None) => bail!("cannot remove label of {at}, key {label} does not exist"),
        };
        match value {
            Some(value) => drop(labels.insert(label.to_owned(), json!(value))),
            None => drop(labels.remove(label)),
        }
        if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
            if labels.is_empty() {
                metadata.remove("labels");
            } else {
                metadata.insert("labels".to_owned(), Value::Object(labels));
            }
        }
        Ok(document)
    });
    let written = match written {
        Err(error) if matches!(error.downcast_ref(), Some(WriteError::Absent { .. })) => {
            return Err(error.context(format!("{at} not found")));
        }
        other => other?,
    };
    output::print(&match (&args.output, done) {
        (Some(_), done) => {
            let what = match done {
                Done::Set => "set",
                Done::Updated => "updated",
                Done::Removed => "removed",
            };
            let said = json!({
                "labelled": object(&key, written),
                "label": { "key": label, "value": value, "result": what },
            });
            format!("{}\n", serde_json::to_string_pretty(&said)?)
        }
        (None, Done::Set) => format!("Successfully set label {label} on {at}\n"),
        (None, Done::Updated) => format!("Successfully updated label {label} on {at}\n"),
        (None, Done::Removed) => format!("Successfully removed label {label} from {at}\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}
