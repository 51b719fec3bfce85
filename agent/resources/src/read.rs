//! Text into validated resources: the envelope that all kinds share (`apiVersion`, `kind`, `metadata`), lists, and
//! what is wrong with any of it. One kind's fields are read by the module named after it.

mod annotations;
mod bgp_configuration;
mod bgp_filter;
mod bgp_peer;
mod block_affinity;
mod extensions;
mod fast_path;
mod felix;
mod ip_pool;
mod ipam;
mod node;
mod secret;
mod value;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use crate::{
    Key, Kind, Metadata, Object, Problem, Resource, Severity, Snapshot,
    fields::{Fields, Form, Sink},
    nearest::nearest,
    read::annotations::Annotations,
    tree::{self, Tree, Value, excerpt},
};

const API_VERSION: &str = "projectcalico.org/v3";
/// Kubernetes' form of the same resources, as its custom resource definitions store them.
const CRD_API_VERSION: &str = "crd.projectcalico.org/v1";

/// A file with more problems than this is of another kind altogether.
const MAX_PROBLEMS: usize = 100;

/// Calico's other kinds. A file may hold them; Manx has no use for them.
const OTHER_KINDS: &[&str] = &[
    "ExternalNetwork",
    "GlobalNetworkPolicy",
    "GlobalNetworkSet",
    "HostEndpoint",
    "IPAMConfig",
    "IPAMHandle",
    "KubeControllersConfiguration",
    "NetworkPolicy",
    "NetworkSet",
    "Profile",
    "StagedGlobalNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "StagedNetworkPolicy",
    "Tier",
    "WorkloadEndpoint",
];

/// One resource, and where it stands in its text.
#[derive(Clone, Debug)]
pub struct Document {
    pub resource: Resource,
    /// Line and column of the document's first field.
    pub place: (usize, usize),
    /// The bytes of the text that say this resource and nothing else: whole lines, without separators and without
    /// the comments before and after. None for a member of a list.
    pub body: Option<Range<usize>>,
}

/// What a text holds.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    pub documents: Vec<Document>,
    /// Errors and warnings, in the order of the text. A document with an error is not in `documents`.
    pub problems: Vec<Problem>,
    /// Documents of kinds that Calico knows and Manx does not use: a warning each.
    pub skipped: Vec<Problem>,
}

impl Parsed {
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

/// Reads all documents of a text, YAML or JSON. `file` is the name by which problems call the text.
pub fn parse(file: &str, text: &str) -> Parsed {
    let (documents, fault) = tree::parse(text);
    let mut parsed = Parsed::default();
    for document in &documents {
        if document.root.is_null() && document.faults.is_empty() {
            continue;
        }
        read_document(file, document, &mut parsed);
    }
    if let Some(fault) = fault {
        let sink = Sink::new(file, None);
        sink.note(Severity::Error, fault.place, "", fault.message);
        parsed.problems.append(&mut sink.problems.take());
    }
    parsed.problems.sort_by_key(|problem| problem.place);
    shorten(file, &mut parsed.problems);
    parsed
}

/// Keeps what a person may read: of very many problems the first ones, errors before warnings.
fn shorten(file: &str, problems: &mut Vec<Problem>) {
    if problems.len() <= MAX_PROBLEMS {
        return;
    }
    problems.sort_by_key(|problem| (!problem.is_error(), problem.place));
    let more = problems.split_off(MAX_PROBLEMS);
    problems.sort_by_key(|problem| problem.place);
    let severity = if more.iter().any(Problem::is_error) { Severity::Error } else { Severity::Warning };
    let message = format!("and {} more problems", more.len());
    let file = file.to_owned();
    problems.push(Problem { severity, file, place: None, subject: None, field: None, message });
}

fn read_document(file: &str, document: &tree::Document, parsed: &mut Parsed) {
    let members = match list_items(&document.root) {
        Some(items) => items.iter().flat_map(flattened).map(|item| (item, None)).collect(),
        None => vec![(&document.root, Some(document.body.clone()))],
    };
    // The text's own faults are told once, under the name of the document if it is one.
    let subject_of_all = if members.len() == 1 { subject(&document.root) } else { None };
    let sink = Sink::new(file, subject_of_all);
    for fault in &document.faults {
        sink.note(Severity::Error, fault.place, "", fault.message.clone());
    }
    let broken = sink.failed();
    parsed.problems.append(&mut sink.problems.take());
    for (root, body) in members {
        let sink = Sink::new(file, subject(root));
        match read_root(root, &sink) {
            Read::Resource(resource) if !broken => {
                parsed.documents.push(Document { resource, place: root.place, body });
            }
            Read::Resource(_) | Read::Refused => {}
            Read::Skipped => parsed.skipped.append(&mut sink.problems.borrow_mut()),
        }
        parsed.problems.append(&mut sink.problems.take());
    }
}

/// A member of an array may be a list again: that is how `get -o yaml` prints several kinds.
fn flattened(item: &Tree) -> &[Tree] {
    list_items(item).unwrap_or(std::slice::from_ref(item))
}

/// The members of a `List`, `BGPPeerList`, … as `get -o yaml` prints all resources of a kind, and of an array, as it
/// prints those that were named.
fn list_items(root: &Tree) -> Option<&[Tree]> {
    let entries = match &root.value {
        Value::Mapping(entries) => entries,
        Value::Sequence(items) => return Some(items),
        Value::Scalar(_) => return None,
    };
    let kind = field_text(root, "kind")?;
    let of = kind.strip_suffix("List")?;
    if !of.is_empty() && Kind::from_name(of).is_none() && !OTHER_KINDS.contains(&of) {
        return None;
    }
    match &entries.iter().find(|entry| entry.key == "items")?.value.value {
        Value::Sequence(items) => Some(items),
        _ => None,
    }
}

/// The text of a field before anything is known of the document.
fn field_text<'t>(tree: &'t Tree, name: &str) -> Option<&'t str> {
    let Value::Mapping(entries) = &tree.value else { return None };
    match &entries.iter().find(|entry| entry.key == name)?.value.value {
        Value::Scalar(scalar) => Some(&scalar.text),
        _ => None,
    }
}

/// How problems call a document: by its kind and name, as far as it has them.
fn subject(root: &Tree) -> Option<String> {
    let kind = field_text(root, "kind")?;
    let Value::Mapping(entries) = &root.value else { return None };
    let metadata = entries.iter().find(|entry| entry.key == "metadata");
    Some(match metadata.and_then(|metadata| field_text(&metadata.value, "name")) {
        Some(name) if !name.is_empty() => format!("{} \"{}\"", excerpt(kind), excerpt(name)),
        _ => excerpt(kind),
    })
}

enum Read {
    Resource(Resource),
    Skipped,
    Refused,
}

fn read_root(root: &Tree, sink: &Sink<'_>) -> Read {
    let Some(mut fields) = Fields::of(root, "", sink) else { return Read::Refused };
    let Some(kind) = read_kind(&mut fields) else { return Read::Refused };
    let Known::Kind(kind) = kind else { return Read::Skipped };
    let metadata = read_metadata(&mut fields, kind);
    let mut annotations = Annotations::of(root, sink);
    let document = root.to_json();
    macro_rules! object {
        ($variant:ident, $read:expr) => {{
            let spec = $read;
            fields.accept(&[("status", Form::Any)]);
            fields.finish();
            annotations.finish(|name| {
                extensions::elsewhere(kind, name).or_else(|| fast_path::elsewhere(kind, name))
            });
            match (metadata, spec) {
                (Some(metadata), Some(spec)) if !sink.failed() => {
                    let without_effect = sink.without_effect.take();
                    let object = Object { metadata, spec, document, without_effect };
                    Read::Resource(Resource::$variant(Arc::new(object)))
                }
                _ => Read::Refused,
            }
        }};
    }
    let name = metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
    match kind {
        Kind::BgpConfiguration => {
            object!(BgpConfiguration, { bgp_configuration::read(&mut fields, &mut annotations, name) })
        }
        Kind::BgpPeer => object!(BgpPeer, bgp_peer::read(&mut fields, &mut annotations)),
        Kind::BgpFilter => object!(BgpFilter, bgp_filter::read(&mut fields)),
        Kind::Node => object!(Node, node::read(&mut fields, &mut annotations)),
        Kind::IpPool => object!(IpPool, ip_pool::read(&mut fields, &mut annotations)),
        Kind::BlockAffinity => object!(BlockAffinity, block_affinity::read(&mut fields)),
        Kind::IpamBlock => object!(IpamBlock, ipam::block(&mut fields)),
        Kind::ClusterInformation => object!(ClusterInformation, ipam::cluster_information(&mut fields)),
        Kind::IpReservation => object!(IpReservation, ipam::reservation(&mut fields)),
        Kind::IpamConfiguration => object!(IpamConfiguration, ipam::configuration(&mut fields)),
        Kind::FelixConfiguration => object!(FelixConfiguration, felix::configuration(&mut fields, name)),
        Kind::CalicoNodeStatus => object!(CalicoNodeStatus, felix::node_status(&mut fields)),
        Kind::Secret => object!(Secret, secret::read(&mut fields)),
    }
}

enum Known {
    Kind(Kind),
    Other,
}

fn read_kind(fields: &mut Fields<'_, '_>) -> Option<Known> {
    let version = fields.text("apiVersion");
    let name = fields.text("kind");
    match version {
        None if !fields.is_set("apiVersion") => {
            fields.refuse("apiVersion", format!("is missing; write {API_VERSION}"));
        }
        // The one kind here that is Kubernetes' own.
        Some("v1") if name == Some(Kind::Secret.name()) => {}
        Some(version) if name == Some(Kind::Secret.name()) => {
            fields.refuse("apiVersion", format!("\"{}\" is not known; a Secret is of v1", excerpt(version)));
        }
        Some(version) if version != API_VERSION && version != CRD_API_VERSION => {
            let near = nearest(version, [API_VERSION, CRD_API_VERSION]).unwrap_or(API_VERSION);
            fields.refuse("apiVersion", format!("\"{}\" is not known; write {near}", excerpt(version)));
        }
        _ => {}
    }
    let names = || Kind::ALL.iter().map(|kind| kind.name());
    let Some(name) = name else {
        if !fields.is_set("kind") {
            let names: Vec<_> = names().collect();
            fields.refuse("kind", format!("is missing; write one of {}", names.join(", ")));
        }
        return None;
    };
    if let Some(kind) = Kind::from_name(name) {
        return Some(Known::Kind(kind));
    }
    let known = version.is_some_and(|version| version == API_VERSION || version == CRD_API_VERSION);
    if known && OTHER_KINDS.contains(&name) {
        fields.warn("kind", format!("{name} is not used by Manx; the document is skipped"));
        return Some(Known::Other);
    }
    let remedy = match nearest(name, names()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("Manx knows {}", names().collect::<Vec<_>>().join(", ")),
    };
    fields.refuse("kind", format!("\"{}\" is not known; {remedy}", excerpt(name)));
    None
}

fn read_metadata(fields: &mut Fields<'_, '_>, kind: Kind) -> Option<Metadata> {
    let Some(mut metadata) = fields.object("metadata") else {
        if !fields.is_set("metadata") {
            fields.refuse("metadata", "is missing; write metadata: and name: below it");
        }
        return None;
    };
    let name = metadata.text("name").map(str::to_owned);
    match &name {
        None if !metadata.is_set("name") => {
            metadata.refuse("name", format!("is missing; every {kind} has a name"))
        }
        None => {}
        Some(name) => {
            if let Err(error) = value::name(name) {
                metadata.refuse("name", error.to_string());
            }
        }
    }
    let labels = metadata.map("labels");
    for (key, value) in &labels {
        if let Err(error) = value::label(key, value) {
            metadata.refuse("labels", error.to_string());
        }
    }
    let annotations = metadata.map("annotations");
    if metadata.text("namespace").is_some() && kind != Kind::Secret {
        metadata
            .refuse("namespace", format!("{kind} belongs to the cluster, not to a namespace; leave it out"));
    }
    metadata.accept(&[
        ("uid", Form::Text),
        ("resourceVersion", Form::Any),
        ("creationTimestamp", Form::Any),
        ("deletionTimestamp", Form::Any),
        ("deletionGracePeriodSeconds", Form::Any),
        ("generation", Form::Any),
        ("generateName", Form::Any),
        ("selfLink", Form::Any),
        ("managedFields", Form::Any),
        ("ownerReferences", Form::Any),
        ("finalizers", Form::Any),
    ]);
    metadata.finish();
    Some(Metadata { name: name?, labels, annotations })
}

/// A snapshot of several texts, and all that is wrong with them.
#[derive(Clone, Debug, Default)]
pub struct Collected {
    pub snapshot: Snapshot,
    pub problems: Vec<Problem>,
}

/// Reads texts, each with the name of its file, into one snapshot. The same resource in two places is an error
/// that names both; the first stays.
pub fn collect<'t>(texts: impl IntoIterator<Item = (&'t str, &'t str)>) -> Collected {
    let parsed = texts.into_iter().map(|(file, text)| (file, parse(file, text)));
    combine(parsed.collect::<Vec<_>>().iter().map(|(file, parsed)| (*file, parsed)))
}

/// As [`collect`], from texts that have been read already.
pub fn combine<'t>(texts: impl IntoIterator<Item = (&'t str, &'t Parsed)>) -> Collected {
    let mut collected = Collected::default();
    let mut seen: BTreeMap<Key, (&str, (usize, usize))> = BTreeMap::new();
    for (file, parsed) in texts {
        collected.problems.extend(parsed.problems.iter().chain(&parsed.skipped).cloned());
        for document in &parsed.documents {
            let key = document.resource.key();
            if let Some((first, place)) = seen.get(&key) {
                collected.problems.push(Problem {
                    severity: Severity::Error,
                    file: file.to_owned(),
                    place: Some(document.place),
                    subject: Some(format!("{} \"{}\"", key.kind, key.name)),
                    field: None,
                    message: format!(
                        "the same resource stands in {first}:{}:{}; keep one of them",
                        place.0, place.1
                    ),
                });
                continue;
            }
            seen.insert(key, (file, document.place));
            collected.snapshot.insert(document.resource.clone());
        }
    }
    collected
}
