//! What may be written, and what is asked of the object that is there. The stores differ in how they write; what they
//! refuse, and in which words, is the same.

pub(crate) mod draft;
pub(crate) mod files;

use std::{collections::BTreeSet, io, path::PathBuf};

use manx_resources::{
    Document, Key, Kind, Parsed, Problem, Resource, Snapshot, admit, edit, nearest, parse, to_yaml,
};
use serde_json::{Map, Value};

/// A resource, and the text that says it.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Without a version.
    pub resource: Resource,
    /// The version of the object that its author has seen, if the document said so.
    pub version: Option<String>,
    /// The document's own lines.
    pub(crate) body: String,
    /// The whole text that it came from, comments before the document included, if that holds nothing else.
    pub(crate) whole: Option<String>,
}

impl Manifest {
    /// The documents of a text that was parsed.
    pub fn of(text: &str, parsed: &Parsed) -> Vec<Manifest> {
        let only = parsed.documents.len() == 1 && parsed.skipped.is_empty();
        let manifest = |document: &Document| {
            let body = document.body.clone().filter(|body| text.get(body.clone()).is_some());
            let own = body.clone().and_then(|body| text.get(body)).map(str::to_owned);
            let resource = document.resource.clone();
            let body_of = |resource: &Resource| to_yaml(resource.document());
            let Some((version, bare)) = without_version(resource.document()) else {
                let whole = own.as_ref().filter(|_| only).map(|_| text.to_owned());
                let body = own.unwrap_or_else(|| body_of(&resource));
                return Manifest { resource, version: None, body, whole };
            };
            // A version is the store's, and stands in no file.
            let own = own.and_then(|own| edit(&own, &bare)).unwrap_or_else(|| to_yaml(&bare));
            let mut again = parse("", &own);
            let resource = again.documents.pop().map_or(resource, |document| document.resource);
            let around =
                body.filter(|_| only).and_then(|body| Some((text.get(..body.start)?, text.get(body.end..)?)));
            let whole = around.map(|(before, after)| format!("{before}{own}{after}"));
            Manifest { resource, version: Some(version), body: own, whole }
        };
        parsed.documents.iter().map(manifest).collect()
    }

    /// The same with an annotation of this value.
    #[must_use]
    pub fn annotated(self, annotation: &str, value: &str) -> Manifest {
        let document = annotated(self.resource.document(), annotation, value);
        let body = edit(&self.body, &document).unwrap_or_else(|| to_yaml(&document));
        let Some(parsed) = parse("", &body).documents.pop() else { return self };
        let whole = self.whole.map(|whole| whole.replacen(&self.body, &body, 1));
        Manifest { resource: parsed.resource, version: self.version, body, whole }
    }

    /// Its text is what `get` would print, or JSON: it says nothing that the resource does not.
    pub(crate) fn is_printed(&self) -> bool {
        self.body.trim_end() == to_yaml(self.resource.document()).trim_end()
            || serde_json::from_str::<Value>(&self.body).is_ok()
    }
}

/// The document with an annotation of this value.
pub fn annotated(document: &Value, annotation: &str, value: &str) -> Value {
    let mut document = document.clone();
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if annotations.is_null() {
            *annotations = Value::Object(Map::new());
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(annotation.to_owned(), value.into());
        }
    }
    document
}

/// The version that a document has, and the document without it.
fn without_version(document: &Value) -> Option<(String, Value)> {
    let version = match document.get("metadata")?.get("resourceVersion")? {
        Value::String(version) => version.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut bare = document.clone();
    bare.get_mut("metadata")?.as_object_mut()?.remove("resourceVersion");
    Some((version, bare))
}

/// One change of one object.
#[derive(Clone, Debug)]
pub enum Write {
    /// Creates, or replaces. A version counts where the object is there and the version is of this store.
    Apply(Manifest),
    /// Refused if the object is there, or passed over.
    Create { manifest: Manifest, skip_existing: bool },
    /// Refused if the object is not there, or is not of the manifest's version if that has one.
    Replace(Manifest),
    /// Refused if the object is not there, or passed over; or is not of the version.
    Delete { key: Key, version: Option<String>, skip_absent: bool },
    /// Replaces what was seen as this version, by as small a change of its text as can be.
    Edit { resource: Resource, version: String },
}

impl Write {
    /// What is written; none where something is deleted.
    pub(crate) fn resource(&self) -> Option<&Resource> {
        match self {
            Write::Apply(manifest) | Write::Create { manifest, .. } | Write::Replace(manifest) => {
                Some(&manifest.resource)
            }
            Write::Edit { resource, .. } => Some(resource),
            Write::Delete { .. } => None,
        }
    }

    pub fn key(&self) -> Key {
        match self {
            Write::Apply(manifest) | Write::Create { manifest, .. } | Write::Replace(manifest) => {
                manifest.resource.key()
            }
            Write::Delete { key, .. } => key.clone(),
            Write::Edit { resource, .. } => resource.key(),
        }
    }
}

/// What the resources would be once all is written that is not refused.
pub fn after(snapshot: &Snapshot, writes: &[Write]) -> Snapshot {
    let mut after = snapshot.clone();
    for write in writes {
        match write {
            Write::Create { manifest, skip_existing: true }
                if after.get(&manifest.resource.key()).is_some() => {}
            Write::Delete { key, .. } => drop(after.remove(key)),
            write => write.resource().into_iter().for_each(|resource| after.insert(resource.clone())),
        }
    }
    after
}

/// What became of a [`Write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Created,
    Replaced,
    /// The file's document as a whole took the place of what was edited: its comments are gone.
    Rewritten,
    /// It said the same already.
    Unchanged,
    Deleted,
    /// It was there, or not there, and that was no fault.
    Skipped,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} does not exist; create it with: mkdir -p {0}")]
    NoDirectory(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0}: another program has been writing there for ten seconds; try again")]
    Locked(PathBuf),
    #[error("{0} is given twice")]
    GivenTwice(Key),
    /// Stands before what hindered the rest.
    #[error(
        "{store}: {done} of {of} resources were written, and the rest was not; what is given may be given again"
    )]
    Partly { store: String, done: usize, of: usize },
    #[error("{store}: {why}")]
    Store { store: String, why: String },
    #[error("resource already exists: {}({}); it stands in {place}; apply or replace changes it", key.kind, key.name)]
    Exists { key: Key, place: String },
    #[error("resource does not exist: {}({}){}", key.kind, key.name, did_you_mean(near))]
    Absent { key: Key, near: Option<String> },
    #[error(
        "update conflict: {}({}); version {given} was changed, and {found} is there now: read it again (manxctl get {} {} \
         -o yaml), make the change there, and write that",
        key.kind, key.name, key.kind.name().to_ascii_lowercase(), key.name
    )]
    Conflict { key: Key, given: String, found: String },
    #[error(
        "update conflict: {}({}); version {given} is of another datastore, and {found} is there: leave resourceVersion out \
         to replace that, whatever it says",
        key.kind, key.name
    )]
    ForeignVersion { key: Key, given: String, found: String },
    #[error(
        "error with field Metadata.ResourceVersion = '{given}' (field must not be set for a Create request): {}({}); leave \
         it out, or print the object by get --export",
        key.kind, key.name
    )]
    VersionOfNew { key: Key, given: String },
    /// Right by itself, but not in the place of what was there, or beside the others.
    #[error("{0}")]
    NotAdmitted(Box<Problem>),
    /// The file that holds the resource is wrong as it is.
    #[error("{0}; correct the file first")]
    Wrong(Box<Problem>),
    /// The whole would be wrong afterwards.
    #[error("{0}")]
    WouldBeWrong(Box<Problem>),
    #[error("{key} stands in {first} and in {second}; remove one of them first")]
    InTwoPlaces { key: Key, first: PathBuf, second: PathBuf },
    #[error("{key} is a member of a list in {file}; make it a document of its own there first")]
    InList { key: Key, file: PathBuf },
    #[error(
        "{key} cannot be changed in {file} without touching what stands around it; edit the file by hand"
    )]
    Entangled { key: Key, file: PathBuf },
}

fn did_you_mean(near: &Option<String>) -> String {
    near.as_ref().map(|near| format!("; did you mean {near}?")).unwrap_or_default()
}

/// All that hinders a write; nothing was written.
pub type Refused = Vec<WriteError>;

/// What is to be done about one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Skip,
    Put,
    Remove,
}

/// An object as it is in the store.
pub(crate) struct Found {
    pub version: String,
    /// A file, or the store.
    pub place: String,
}

/// Whether the object that is there, or that none is, lets this be written.
pub(crate) fn check(
    write: &Write,
    found: Option<Found>,
    is_own: impl Fn(&str) -> bool,
    names: impl FnOnce(Kind) -> Vec<String>,
) -> Result<Action, WriteError> {
    let key = write.key();
    let absent = |key: Key| {
        let names = names(key.kind);
        let near = nearest(&key.name, names.iter().map(String::as_str)).map(str::to_owned);
        WriteError::Absent { key, near }
    };
    let same = |key: Key, given: &Option<String>, found: Found, strict: bool| match given {
        Some(given) if !given.is_empty() && *given != found.version => {
            let (given, found) = (given.clone(), found.version);
            if is_own(&given) {
                Err(WriteError::Conflict { key, given, found })
            } else if strict {
                Err(WriteError::ForeignVersion { key, given, found })
            } else {
                Ok(Action::Put)
            }
        }
        _ => Ok(Action::Put),
    };
    match (write, found) {
        (Write::Create { skip_existing: true, .. }, Some(_))
        | (Write::Delete { skip_absent: true, .. }, None) => Ok(Action::Skip),
        (Write::Create { .. }, Some(Found { place, .. })) => Err(WriteError::Exists { key, place }),
        (Write::Create { manifest, .. }, None) => match &manifest.version {
            Some(given) if !given.is_empty() => Err(WriteError::VersionOfNew { key, given: given.clone() }),
            _ => Ok(Action::Put),
        },
        (Write::Apply(_), None) => Ok(Action::Put),
        (Write::Apply(manifest), Some(found)) => same(key, &manifest.version, found, false),
        (Write::Replace(_) | Write::Delete { .. } | Write::Edit { .. }, None) => Err(absent(key)),
        (Write::Replace(manifest), Some(found)) => same(key, &manifest.version, found, true),
        (Write::Edit { version, .. }, Some(found)) => same(key, &Some(version.clone()), found, true),
        (Write::Delete { version, .. }, Some(found)) => {
            same(key, version, found, true).map(|_| Action::Remove)
        }
    }
}

/// What of what is written is not admitted, from one snapshot to the other.
pub(crate) fn not_admitted<'w>(
    file: &str,
    written: impl IntoIterator<Item = &'w Write>,
    before: &Snapshot,
    after: &Snapshot,
) -> Refused {
    let resources = written.into_iter().filter_map(Write::resource);
    let problems =
        resources.flat_map(|resource| admit(file, before.get(&resource.key()).as_ref(), resource, after));
    problems.map(|problem| WriteError::NotAdmitted(Box::new(problem))).collect()
}

/// The keys that are written, each once.
pub(crate) fn keys(writes: &[Write]) -> Result<BTreeSet<Key>, Refused> {
    let (mut keys, mut twice) = (BTreeSet::new(), Vec::new());
    for key in writes.iter().map(Write::key) {
        if !keys.insert(key.clone()) {
            twice.push(WriteError::GivenTwice(key));
        }
    }
    if twice.is_empty() { Ok(keys) } else { Err(twice) }
}
