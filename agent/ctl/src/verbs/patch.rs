//! `manxctl patch`: some fields of one object; what stands around them in its file stays.

use std::process::ExitCode;

use anyhow::Context;
use manx_datastore::Datastore;
use manx_resources::{Key, Kind, PatchKind, parse_patch, patch};
use serde_json::json;

use super::{PATCH, carry::Carry, edit, object, parse_kind, scope::Scope};
use crate::output;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl patch bgppeer rack-7 -p '{\"spec\": {\"asNumber\": 64513}}'
  manxctl patch node kw01 --type json -p '[{\"op\": \"remove\", \"path\": \"/spec/bgp/asNumber\"}]'

strategic and merge take a mapping of fields: null takes a field out, and a list takes the place of the old list.
json takes a list of operations (RFC 6902). The patch may be YAML as well.")]
pub struct Args {
    /// bgppeer, ippool, node, ... by any of their names
    #[arg(value_parser = parse_kind)]
    kind: Kind,
    /// The resource to change
    name: String,
    /// The patch
    #[arg(short, long, value_name = "PATCH")]
    patch: String,
    /// What the patch is
    #[arg(short, long = "type", value_name = "TYPE", value_enum, default_value_t = Type::Strategic)]
    type_: Type,
    #[command(flatten)]
    scope: Scope,
    #[command(flatten)]
    carry: Carry,
    /// What was patched as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    Strategic,
    Merge,
    Json,
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(!args.name.is_empty(), "resource name may not be empty");
    args.scope.check_kind(args.kind)?;
    let key = Key::new(args.kind, args.name.as_str());
    let kind = match args.type_ {
        Type::Strategic => PatchKind::Strategic,
        Type::Merge => PatchKind::Merge,
        Type::Json => PatchKind::Json,
    };
    let given = parse_patch(&args.patch).context("Hit error")?;
    let written = edit(datastore, &key, &args.carry, PATCH, |document| Ok(patch(document, kind, &given)?))
        .context("Hit error")?;
    output::print(&match args.output {
        Some(_) => {
            format!("{}\n", serde_json::to_string_pretty(&json!({ "patched": object(&key, written) }))?)
        }
        None => format!("Successfully patched 1 '{}' resource\n", args.kind),
    })?;
    Ok(ExitCode::SUCCESS)
}
