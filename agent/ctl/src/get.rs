//! `manxctl get`: resources as `calicoctl get` prints them.

use std::{ffi::OsStr, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{
    Arg, Command,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use manx_datastore::{Datastore, Reading};
use manx_net::Asn;
use manx_resources::{AffinityState, Key, Kind, Problem, Resource, Snapshot, nearest, to_yaml};
use serde_json::{Value, json};

use crate::{
    input::Input,
    output,
    print::{
        columns::{self, Column, Columns, ColumnsError},
        jsonpath::Template,
    },
    table,
    verbs::parse_kind,
};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl get nodes -o wide
  manxctl get bgppeer rack-7 -o yaml
  manxctl get bgppeer rack-7 -o yaml --export > rack-7.yaml
  manxctl get nodes -o custom-columns=NAME,ASN
  manxctl get ippools -o jsonpath='{range .items[*]}{.spec.cidr}{\"\\n\"}{end}'

YAML and JSON can be applied as they are. Without names they are a List, with one name the object, with several an array
of objects. A custom column is a heading of the table, or HEADING:.path.")]
pub struct Args {
    /// nodes, bgpconfig, bgppeer, bgpfilter, ippool, blockaffinity, ... by any of their names
    #[arg(value_parser = parse_kind, required_unless_present = "filename", conflicts_with = "filename")]
    kind: Option<Kind>,

    /// Only the resources of these names
    name: Vec<String>,

    /// The resources that a file, the files of a directory, or - for standard input, name; may be given several times
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<PathBuf>,

    /// Directories inside directories, too
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Without what belongs to this datastore: version, uid and times; needs names
    #[arg(long)]
    export: bool,

    /// Refused: these resources belong to the cluster
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Refused: these resources belong to the cluster
    #[arg(short = 'A', long, visible_short_alias = 'a')]
    all_namespaces: bool,

    /// In which form
    #[arg(short, long, value_name = "FORM", value_parser = FormParser, default_value = "ps")]
    output: Form,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    Ps,
    Wide,
    Yaml,
    Json,
    Name,
    Columns(Columns),
    Template(Template),
}

const COLUMNS: &str = "custom-columns=";
const TEMPLATE: &str = "jsonpath=";

/// Words, and two forms that go on after a `=`.
#[derive(Clone)]
struct FormParser;

impl FormParser {
    fn words() -> PossibleValuesParser {
        PossibleValuesParser::new([
            PossibleValue::new("ps").help("A table"),
            PossibleValue::new("wide").help("A table with more columns"),
            PossibleValue::new("yaml").alias("yml"),
            PossibleValue::new("json"),
            PossibleValue::new("name").help("KIND/NAME, one in a line"),
            PossibleValue::new(COLUMNS).help("Such as NAME,ASN or NAME:.metadata.name,IP:.spec.peerIP"),
            PossibleValue::new(TEMPLATE).help("A template as kubectl's, such as {.items[*].metadata.name}"),
        ])
    }
}

impl TypedValueParser for FormParser {
    type Value = Form;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Form, clap::Error> {
        let text = value.to_str().unwrap_or_default();
        let wrong = |why: String| {
            let said = format!(
                "invalid value '{text}' for '--output <FORM>': {why}\n\nFor more information, try '--help'.\n"
            );
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, said)
        };
        if let Some(columns) = text.strip_prefix(COLUMNS) {
            return columns
                .parse()
                .map(Form::Columns)
                .map_err(|error: ColumnsError| wrong(error.to_string()));
        }
        if let Some(template) = text.strip_prefix(TEMPLATE) {
            return Template::parse(template).map(Form::Template).map_err(|error| wrong(error.to_string()));
        }
        if text.starts_with("go-template") {
            return Err(wrong(
                "templates of Go are not supported; write jsonpath={.metadata.name}".to_owned(),
            ));
        }
        Ok(match FormParser::words().parse_ref(command, arg, value)?.as_str() {
            "wide" => Form::Wide,
            "yaml" | "yml" => Form::Yaml,
            "json" => Form::Json,
            "name" => Form::Name,
            _ => Form::Ps,
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let values: Vec<_> = FormParser::words().possible_values()?.collect();
        Some(Box::new(values.into_iter()))
    }
}

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    let keys = keys(args)?;
    let mut kinds: Vec<Kind> = args.kind.into_iter().collect();
    kinds.extend(keys.iter().flatten().map(|key| key.kind));
    let reading = datastore.read_versions(&kinds);
    let read = &reading.update;
    output::problems(read.problems.iter().filter(|problem| problem.is_error()));
    let (mut resources, mut missing) = (Vec::new(), Vec::new());
    match (&keys, args.kind) {
        (Some(keys), _) => {
            for key in keys {
                match read.snapshot.get(key) {
                    Some(resource) => resources.push(resource),
                    None => missing.push(absent(&read.snapshot, key)),
                }
            }
        }
        (None, kind) => resources.extend(kind.into_iter().flat_map(|kind| read.snapshot.of_kind(kind))),
    }
    let export = args.export && keys.is_some();
    let shape = match (&keys, args.kind) {
        (Some(keys), _) if keys.len() == 1 => Shape::One,
        (None, Some(kind)) => Shape::List(kind),
        _ => Shape::Several,
    };
    let documents =
        || resources.iter().map(|resource| document(resource, &reading, export)).collect::<Vec<_>>();
    // kubectl's templates know one object, or a list.
    let for_template = || match shape {
        Shape::One => value(&shape, documents(), &reading),
        _ => json!({ "apiVersion": "v1", "kind": "List", "items": documents() }),
    };
    let text = match &args.output {
        Form::Ps => tables(&resources, &shape, &read.snapshot, false),
        Form::Wide => tables(&resources, &shape, &read.snapshot, true),
        Form::Yaml => to_yaml(&value(&shape, documents(), &reading)),
        Form::Json => {
            format!("{}\n", serde_json::to_string_pretty(&value(&shape, documents(), &reading))?)
        }
        Form::Name => resources.iter().map(|resource| format!("{}\n", resource.key())).collect(),
        Form::Columns(columns) => custom(columns, args.kind, &resources, &documents(), &read.snapshot)?,
        Form::Template(template) => template.print(&for_template())?,
    };
    // Where nothing could be read, an empty table would say that there is nothing.
    let nothing = resources.is_empty() && (read.has_errors() || !missing.is_empty());
    if !nothing {
        output::print(&text)?;
    }
    missing.iter().for_each(|missing| output::complain("error", missing));
    // What is shown may not be all that there is.
    let all = !read.has_errors() && missing.is_empty();
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Which resources are asked for by name; None: all of a kind.
fn keys(args: &Args) -> anyhow::Result<Option<Vec<Key>>> {
    let namespaced = args.namespace.is_some() || args.all_namespaces;
    let Some(kind) = args.kind else {
        let input = Input::read(&args.filename, args.recursive)?;
        let collected = input.collect();
        output::problems(collected.problems.iter().filter(|problem| problem.is_error()));
        anyhow::ensure!(!collected.problems.iter().any(Problem::is_error), "Failed to get any resources");
        let keys: Vec<Key> = input.manifests().iter().map(|manifest| manifest.resource.key()).collect();
        anyhow::ensure!(!keys.is_empty(), "No resources specified");
        return Ok(Some(keys));
    };
    anyhow::ensure!(!namespaced || kind == Kind::Secret, "{kind} is not namespaced; leave -n and -A out");
    anyhow::ensure!(
        args.namespace.is_none(),
        "secrets are found by their names, whatever namespace they are in; leave -n out"
    );
    anyhow::ensure!(args.name.iter().all(|name| !name.is_empty()), "resource name may not be empty");
    let keys: Vec<Key> = args.name.iter().map(|name| Key::new(kind, name.as_str())).collect();
    Ok(Some(keys).filter(|keys| !keys.is_empty()))
}

fn absent(snapshot: &Snapshot, key: &Key) -> String {
    let all = snapshot.of_kind(key.kind);
    let Key { kind, name } = key;
    match nearest(name, all.iter().map(Resource::name)) {
        Some(near) => format!("resource does not exist: {kind}({name}); did you mean {near}?"),
        None => format!("resource does not exist: {kind}({name})"),
    }
}

/// As what YAML and JSON print what was found.
enum Shape {
    List(Kind),
    One,
    Several,
}

/// As it is stored, with its version.
fn document(resource: &Resource, reading: &Reading, export: bool) -> Value {
    let mut document = resource.document().clone();
    let version = reading.versions.get(&resource.key());
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.extend(version.map(|version| ("resourceVersion".to_owned(), json!(version))));
        for field in OF_THE_STORE.iter().filter(|_| export) {
            metadata.remove(*field);
        }
    }
    document
}

/// What `--export` leaves out, as calicoctl does.
const OF_THE_STORE: &[&str] = &[
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

fn value(shape: &Shape, mut documents: Vec<Value>, reading: &Reading) -> Value {
    match shape {
        Shape::One => documents.pop().unwrap_or(Value::Null),
        Shape::Several => Value::Array(documents),
        Shape::List(kind) => {
            let metadata = match &reading.version {
                Some(version) => json!({ "resourceVersion": version }),
                None => json!({}),
            };
            json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": format!("{kind}List"),
                "metadata": metadata,
                "items": documents,
            })
        }
    }
}

/// One table for each kind, in the order in which they come.
fn tables(resources: &[Resource], shape: &Shape, snapshot: &Snapshot, wide: bool) -> String {
    if let Shape::List(kind) = shape {
        return rows(*kind, resources, snapshot, wide);
    }
    let mut text = String::new();
    for run in resources.chunk_by(|a, b| a.kind() == b.kind()) {
        text.extend(run.first().map(|first| rows(first.kind(), run, snapshot, wide)));
    }
    text
}

fn custom(
    columns: &Columns,
    kind: Option<Kind>,
    resources: &[Resource],
    documents: &[Value],
    snapshot: &Snapshot,
) -> anyhow::Result<String> {
    let headings: Vec<&str> = columns
        .0
        .iter()
        .map(|column| match column {
            Column::Heading(heading) | Column::Path(heading, _) => heading.as_str(),
        })
        .collect();
    // A heading that no kind has is one even where there is nothing.
    let known: Vec<&str> = match kind {
        Some(kind) => headings_of(kind, true).to_vec(),
        None => Kind::ALL.into_iter().flat_map(|kind| headings_of(kind, true)).copied().collect(),
    };
    for column in &columns.0 {
        if let Column::Heading(heading) = column
            && !known.iter().any(|known| known.eq_ignore_ascii_case(heading))
        {
            anyhow::bail!("unknown heading {heading}, valid values are: {}", known.join(", "));
        }
    }
    let mut table = Vec::new();
    for (resource, document) in resources.iter().zip(documents) {
        let (known, cells) = (headings_of(resource.kind(), true), row(resource, snapshot, true));
        let cell = |column: &Column| match column {
            Column::Path(_, path) => Ok(columns::cell(path, document)?),
            Column::Heading(heading) => {
                let place = known.iter().position(|known| known.eq_ignore_ascii_case(heading));
                place.and_then(|place| cells.get(place).cloned()).with_context(|| {
                    format!("unknown heading {heading}, valid values are: {}", known.join(", "))
                })
            }
        };
        table.push(columns.0.iter().map(cell).collect::<anyhow::Result<Vec<String>>>()?);
    }
    Ok(table::columns(&headings, &table) + "\n")
}

fn rows(kind: Kind, resources: &[Resource], snapshot: &Snapshot, wide: bool) -> String {
    let rows: Vec<Vec<String>> = resources.iter().map(|resource| row(resource, snapshot, wide)).collect();
    // calicoctl ends each table with an empty line.
    table::columns(headings_of(kind, wide), &rows) + "\n"
}

fn headings_of(kind: Kind, wide: bool) -> &'static [&'static str] {
    match (kind, wide) {
        (Kind::BgpConfiguration, _) => &["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"],
        (Kind::BgpPeer, _) => &["NAME", "PEERIP", "NODE", "ASN"],
        (Kind::BgpFilter, _) => &["NAME", "NUMEXPORTV4", "NUMIMPORTV4", "NUMEXPORTV6", "NUMIMPORTV6"],
        (Kind::Node, false) => &["NAME"],
        (Kind::Node, true) => &["NAME", "ASN", "IPV4", "IPV6"],
        (Kind::IpPool, false) => &["NAME", "CIDR", "SELECTOR"],
        (Kind::IpPool, true) => &[
            "NAME",
            "CIDR",
            "NAT",
            "IPIPMODE",
            "VXLANMODE",
            "DISABLED",
            "DISABLEBGPEXPORT",
            "SELECTOR",
            "ASSIGNMENTMODE",
        ],
        (Kind::BlockAffinity, _) => &["NAME", "NODE", "CIDR", "STATE"],
        (Kind::IpamBlock, _) => &["NAME", "CIDR", "AFFINITY", "INUSE", "FREE"],
        (Kind::ClusterInformation, _) => {
            &["NAME", "CLUSTERGUID", "CLUSTERTYPE", "CALICOVERSION", "DATASTOREREADY"]
        }
        (Kind::IpReservation, false) => &["NAME"],
        (Kind::IpReservation, true) => &["NAME", "CIDRS"],
        (Kind::IpamConfiguration, false) => &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"],
        (Kind::IpamConfiguration, true) => {
            &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"]
        }
        (Kind::FelixConfiguration, _) => &["NAME"],
        (Kind::Secret, _) => &["NAME", "KEYS"],
        (Kind::CalicoNodeStatus, false) => &["NAME", "NODE"],
        (Kind::CalicoNodeStatus, true) => &["NAME", "NODE", "CLASSES"],
    }
}

fn row(resource: &Resource, snapshot: &Snapshot, wide: bool) -> Vec<String> {
    let name = resource.name().to_owned();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    match resource {
        Resource::BgpConfiguration(object) => {
            let spec = &object.spec;
            vec![
                name,
                spec.log_severity_screen.clone().unwrap_or_default(),
                or_dash(spec.node_to_node_mesh_enabled.map(|enabled| enabled.to_string())),
                or_dash(spec.as_number.map(|asn| asn.to_string())),
            ]
        }
        Resource::BgpPeer(object) => {
            let spec = &object.spec;
            let node = match (&spec.node, field(resource, "nodeSelector")) {
                (Some(node), _) => node.clone(),
                (None, Some(selector)) => selector,
                (None, None) => "(global)".to_owned(),
            };
            let asn = spec.as_number.map_or(0, Asn::get);
            vec![name, field(resource, "peerIP").unwrap_or_default(), node, asn.to_string()]
        }
        Resource::BgpFilter(object) => {
            let spec = &object.spec;
            let lists = [&spec.export_v4, &spec.import_v4, &spec.export_v6, &spec.import_v6];
            std::iter::once(name).chain(lists.map(|rules| rules.len().to_string())).collect()
        }
        Resource::Node(_) if !wide => vec![name],
        Resource::Node(object) => {
            let Some(bgp) = &object.spec.bgp else {
                return vec![name, String::new(), String::new(), String::new()];
            };
            let asn = match bgp.as_number {
                Some(asn) => asn.to_string(),
                None => format!("({})", inherited_as(snapshot)),
            };
            let ipv4 = bgp.ipv4.map(|address| address.to_string()).unwrap_or_default();
            let ipv6 = bgp.ipv6.map(|address| address.to_string()).unwrap_or_default();
            vec![name, asn, ipv4, ipv6]
        }
        Resource::IpPool(object) => {
            let spec = &object.spec;
            if !wide {
                return vec![name, spec.cidr.to_string(), spec.node_selector.clone()];
            }
            vec![
                name,
                spec.cidr.to_string(),
                spec.nat_outgoing.to_string(),
                spec.ipip_mode.to_string(),
                spec.vxlan_mode.to_string(),
                spec.disabled.to_string(),
                spec.disable_bgp_export.to_string(),
                spec.node_selector.clone(),
                spec.assignment_mode.to_string(),
            ]
        }
        Resource::BlockAffinity(object) => {
            let spec = &object.spec;
            let state = match spec.state {
                _ if spec.deleted => "deleted",
                AffinityState::Confirmed => "confirmed",
                AffinityState::Pending => "pending",
                AffinityState::PendingDeletion => "pendingDeletion",
            };
            vec![name, spec.node.clone(), spec.cidr.to_string(), state.to_owned()]
        }
        Resource::IpamBlock(object) => {
            let spec = &object.spec;
            let used = spec.allocations.iter().flatten().count();
            let (affinity, free) = (spec.affinity.clone(), spec.allocations.len() - used);
            vec![name, spec.cidr.to_string(), or_dash(affinity), used.to_string(), free.to_string()]
        }
        Resource::ClusterInformation(object) => {
            let spec = object.spec.clone();
            let ready = spec.datastore_ready.map(|ready| ready.to_string());
            let texts = [spec.guid, spec.cluster_type, spec.calico_version, ready];
            std::iter::once(name).chain(texts.map(Option::unwrap_or_default)).collect()
        }
        Resource::IpReservation(_) if !wide => vec![name],
        Resource::IpReservation(object) => {
            let cidrs: Vec<String> = object.spec.reserved.iter().map(ToString::to_string).collect();
            vec![name, truncated(&cidrs.join(","))]
        }
        Resource::IpamConfiguration(object) => {
            let spec = &object.spec;
            let flags = [spec.strict_affinity, spec.auto_allocate_blocks].map(|flag| flag.to_string());
            let most = wide.then(|| spec.max_blocks_per_host.to_string());
            std::iter::once(name).chain(flags).chain(most).collect()
        }
        Resource::FelixConfiguration(_) => vec![name],
        Resource::Secret(object) => {
            let keys: Vec<&str> = object.spec.data.keys().map(String::as_str).collect();
            vec![name, keys.join(",")]
        }
        Resource::CalicoNodeStatus(object) => {
            let classes = wide.then(|| object.spec.classes.join(","));
            [name, object.spec.node.clone()].into_iter().chain(classes).collect()
        }
    }
}

/// As calicoctl cuts long lists.
fn truncated(text: &str) -> String {
    match text.char_indices().nth(77).filter(|_| text.chars().count() > 80) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

/// A text of the spec, as its author wrote it.
fn field(resource: &Resource, name: &str) -> Option<String> {
    let text = resource.document().get("spec")?.get(name)?.as_str()?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn inherited_as(snapshot: &Snapshot) -> Asn {
    let default = snapshot.bgp_configuration("default");
    default.and_then(|object| object.spec.as_number).unwrap_or(Asn::CALICO_DEFAULT)
}
