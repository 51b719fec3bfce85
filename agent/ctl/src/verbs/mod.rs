//! The verbs that write resources, with what they share: which files are given, what became of it, and Calico's words.

pub mod apply;
pub mod carry;
pub mod create;
pub mod delete;
pub mod label;
pub mod patch;
pub mod replace;
pub mod scope;
pub mod validate;

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};

use anyhow::bail;
use manx_datastore::{Datastore, Manifest, Write, WriteError, Written};
use manx_resources::{Key, Kind, Problem, Resource, nearest, parse};
use serde_json::{Value, json};

use self::{carry::Carry, scope::Scope};
use crate::{input::Input, output};

/// How often others may come first before an edit is given up.
const ATTEMPTS: usize = 5;

/// What all verbs that take files take.
#[derive(Clone, Debug, clap::Args)]
pub struct Files {
    /// A file, a directory of files, or - for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    filename: Vec<PathBuf>,
    /// Directories inside directories, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// It is no fault if nothing is given
    #[arg(long)]
    skip_empty: bool,
    #[command(flatten)]
    scope: Scope,
}

/// A verb's forms, as Calico's messages have them.
#[derive(Clone, Copy)]
pub(crate) struct Verb {
    bare: &'static str,
    past: &'static str,
}

const APPLY: Verb = Verb { bare: "apply", past: "applied" };
const CREATE: Verb = Verb { bare: "create", past: "created" };
const REPLACE: Verb = Verb { bare: "replace", past: "replaced" };
const DELETE: Verb = Verb { bare: "delete", past: "deleted" };
const PATCH: Verb = Verb { bare: "patch", past: "patched" };
const LABEL: Verb = Verb { bare: "label", past: "labelled" };

impl Files {
    /// What is given; None where that is nothing, and need not be anything.
    fn manifests(&self, verb: Verb) -> anyhow::Result<Option<Vec<Manifest>>> {
        let input = Input::read(&self.filename, self.recursive)?;
        let collected = input.collect();
        output::problems(&collected.problems);
        if collected.problems.iter().any(Problem::is_error) {
            bail!("Failed to {} any resources", verb.bare);
        }
        let manifests = input.manifests();
        manifests.iter().try_for_each(|manifest| self.scope.check(&manifest.resource))?;
        match (manifests.is_empty(), self.skip_empty) {
            (true, true) => Ok(None),
            (true, false) => bail!("No resources specified"),
            (false, _) => Ok(Some(manifests)),
        }
    }
}

/// Writes all that is given, and says what became of it.
fn write_files(
    files: &Files,
    carry: &Carry,
    verb: Verb,
    as_json: bool,
    datastore: &Datastore,
    write: impl FnMut(Manifest) -> Write,
) -> anyhow::Result<ExitCode> {
    let Some(manifests) = files.manifests(verb)? else { return nothing(verb, as_json) };
    let writes: Vec<Write> = manifests.into_iter().map(write).collect();
    write_all(writes, carry, verb, as_json, datastore)
}

fn nothing(verb: Verb, as_json: bool) -> anyhow::Result<ExitCode> {
    output::print(&if as_json {
        format!("{}\n", json!({ verb.past: [] }))
    } else {
        "No resources specified\n".to_owned()
    })?;
    Ok(ExitCode::SUCCESS)
}

fn write_all(
    writes: Vec<Write>,
    carry: &Carry,
    verb: Verb,
    as_json: bool,
    datastore: &Datastore,
) -> anyhow::Result<ExitCode> {
    let keys: Vec<Key> = writes.iter().map(Write::key).collect();
    let writes = carry.prepare(writes, verb, datastore)?;
    let written = match datastore.write(&writes) {
        Ok(written) => written,
        Err(refused) => bail!(failure(&keys, verb, &refused)),
    };
    // What was written beside them is no matter of the caller's.
    let written: Vec<Written> = written.into_iter().take(keys.len()).collect();
    output::print(&if as_json {
        let objects: Vec<Value> =
            keys.iter().zip(&written).map(|(key, written)| object(key, *written)).collect();
        format!("{}\n", serde_json::to_string_pretty(&json!({ verb.past: objects }))?)
    } else {
        success(&keys, &written, verb)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn object(key: &Key, written: Written) -> Value {
    let result = match written {
        Written::Created => "created",
        Written::Replaced | Written::Rewritten => "replaced",
        Written::Unchanged => "unchanged",
        Written::Deleted => "deleted",
        Written::Skipped => "skipped",
    };
    json!({ "kind": key.kind.name(), "name": key.name, "result": result })
}

fn success(keys: &[Key], written: &[Written], verb: Verb) -> String {
    let count = written.iter().filter(|written| **written != Written::Skipped).count();
    match one_kind(keys) {
        Some(kind) => format!("Successfully {} {count} '{kind}' resource(s)\n", verb.past),
        None => format!("Successfully {} {count} resource(s)\n", verb.past),
    }
}

fn one_kind(keys: &[Key]) -> Option<Kind> {
    let kinds: BTreeSet<Kind> = keys.iter().map(|key| key.kind).collect();
    kinds.first().copied().filter(|_| kinds.len() == 1)
}

fn failure(keys: &[Key], verb: Verb, refused: &[WriteError]) -> String {
    let said: Vec<String> = refused.iter().map(ToString::to_string).collect();
    let said = said.join("\n ");
    match (one_kind(keys), keys.len()) {
        (Some(kind), 1) => format!("Failed to {} '{kind}' resource: [{said}]", verb.bare),
        (Some(kind), _) => format!("Failed to {} any '{kind}' resources: [{said}]", verb.bare),
        (None, _) => format!("Failed to {} any resources: [{said}]", verb.bare),
    }
}

/// For command lines: a kind by any of its aliases.
pub fn parse_kind(text: &str) -> Result<Kind, String> {
    if let Some(kind) = Kind::from_alias(text) {
        return Ok(kind);
    }
    let aliases = || Kind::ALL.iter().flat_map(|kind| kind.aliases().iter().copied());
    Err(match nearest(text, aliases()) {
        Some(near) => format!("resource type '{text}' is not supported; did you mean '{near}'?"),
        None => {
            let kinds: Vec<_> = Kind::ALL.iter().filter_map(|kind| kind.aliases().first().copied()).collect();
            format!("resource type '{text}' is not supported; there are {}", kinds.join(", "))
        }
    })
}

/// Reads an object, changes what it says, and writes it if nobody else did meanwhile; else all again, a few times.
fn edit(
    datastore: &Datastore,
    key: &Key,
    carry: &Carry,
    verb: Verb,
    mut change: impl FnMut(&Value) -> anyhow::Result<Value>,
) -> anyhow::Result<Written> {
    for attempt in 1.. {
        let reading = datastore.read_versions(&[key.kind]);
        let snapshot = &reading.update.snapshot;
        let (Some(before), Some(version)) = (snapshot.get(key), reading.versions.get(key)) else {
            // Why it is not there may be that it cannot be read.
            output::problems(reading.update.problems.iter().filter(|problem| problem.is_error()));
            let all = snapshot.of_kind(key.kind);
            let near = nearest(&key.name, all.iter().map(Resource::name)).map(str::to_owned);
            bail!(WriteError::Absent { key: key.clone(), near });
        };
        let resource = checked(key, before.document(), &change(before.document())?)?;
        let write = Write::Edit { resource, version: version.clone() };
        let writes = carry.prepare(vec![write], verb, datastore)?;
        match datastore.write(&writes).map(|written| written.first().copied()) {
            Ok(written) => {
                if written == Some(Written::Rewritten) {
                    let said = format!(
                        "{key}: its document was written anew, without its comments: anchors, tags and flow style cannot be \
                         edited in place"
                    );
                    output::complain("warning", &said);
                }
                return Ok(written.unwrap_or(Written::Unchanged));
            }
            Err(refused)
                if attempt < ATTEMPTS && matches!(refused.as_slice(), [WriteError::Conflict { .. }]) => {}
            Err(mut refused) => bail!(refused.swap_remove(0)),
        }
    }
    bail!("others changed {key} each time; try again")
}

/// The changed document as a resource, if it is one, and still the same one.
fn checked(key: &Key, before: &Value, document: &Value) -> anyhow::Result<Resource> {
    for field in ["/apiVersion", "/kind", "/metadata/name"] {
        let (old, new) = (before.pointer(field), document.pointer(field));
        if old != new {
            let field = field.trim_start_matches('/').replace('/', ".");
            let show = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), Value::to_string);
            bail!("{field} cannot be changed from {} to {}; create another object", show(old), show(new));
        }
    }
    let parsed = parse(&format!("{key} as it would be"), &document.to_string());
    // The text is ours, and no place in it tells anybody anything.
    let problems =
        parsed.problems.iter().map(|problem| Problem { place: None, subject: None, ..problem.clone() });
    let problems: Vec<Problem> = problems.collect();
    let mut errors = problems.iter().filter(|problem| problem.is_error()).peekable();
    if let Some(first) = errors.next() {
        errors.for_each(|problem| output::problems([problem]));
        bail!("{first}");
    }
    output::problems(&problems);
    match parsed.documents.as_slice() {
        [document] => Ok(document.resource.clone()),
        _ => bail!("{key} would be no object any more"),
    }
}
