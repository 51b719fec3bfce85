//! `manxctl get`: resources as `calicoctl get` prints them.

use std::process::ExitCode;

use anyhow::bail;
use manx_datastore::Datastore;
use manx_net::Asn;
use manx_resources::{AffinityState, Key, Kind, Resource, Snapshot, nearest, to_yaml};
use serde_json::{Value, json};

use crate::{output, table};

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl get nodes -o wide
  manxctl get bgppeer rack-7 -o yaml")]
pub struct Args {
    /// nodes, bgpconfig, bgppeer, bgpfilter, ippool or blockaffinity
    #[arg(value_parser = parse_kind)]
    kind: Kind,

    /// Only the resources of these names
    name: Vec<String>,

    /// In which form
    #[arg(short, long, value_enum, default_value_t = Form::Ps)]
    output: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// A table
    Ps,
    /// A table with more columns
    Wide,
    Yaml,
    Json,
    /// KIND/NAME, one in a line
    Name,
}

fn parse_kind(text: &str) -> Result<Kind, String> {
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

pub fn run(args: &Args, datastore: &Datastore) -> anyhow::Result<ExitCode> {
    let read = datastore.read();
    output::problems(read.problems.iter().filter(|problem| problem.is_error()));
    let resources = select(&read.snapshot, args.kind, &args.name)?;
    let text = match args.output {
        Form::Ps => rows(args.kind, &resources, &read.snapshot, false),
        Form::Wide => rows(args.kind, &resources, &read.snapshot, true),
        Form::Yaml => to_yaml(&value(args.kind, &resources)),
        Form::Json => format!("{}\n", serde_json::to_string_pretty(&value(args.kind, &resources))?),
        Form::Name => resources.iter().map(|resource| format!("{}\n", resource.key())).collect(),
    };
    // Where nothing could be read, an empty table would say that there is nothing.
    if !(read.has_errors() && resources.is_empty()) {
        output::print(&text)?;
    }
    // What is shown may not be all that there is.
    Ok(if read.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn select(snapshot: &Snapshot, kind: Kind, names: &[String]) -> anyhow::Result<Vec<Resource>> {
    if names.is_empty() {
        return Ok(snapshot.of_kind(kind));
    }
    let mut resources = Vec::new();
    for name in names {
        match snapshot.get(&Key::new(kind, name.as_str())) {
            Some(resource) => resources.push(resource),
            None => {
                let all = snapshot.of_kind(kind);
                match nearest(name, all.iter().map(Resource::name)) {
                    Some(near) => bail!("resource does not exist: {kind}({name}); did you mean {near}?"),
                    None => bail!("resource does not exist: {kind}({name})"),
                }
            }
        }
    }
    Ok(resources)
}

/// One resource bare, several as a list.
fn value(kind: Kind, resources: &[Resource]) -> Value {
    match resources {
        [resource] => resource.document().clone(),
        several => json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": format!("{kind}List"),
            "items": several.iter().map(|resource| resource.document().clone()).collect::<Vec<_>>(),
        }),
    }
}

fn rows(kind: Kind, resources: &[Resource], snapshot: &Snapshot, wide: bool) -> String {
    let headings: &[&str] = match (kind, wide) {
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
    };
    let rows: Vec<Vec<String>> = resources.iter().map(|resource| row(resource, snapshot, wide)).collect();
    // calicoctl ends each table with an empty line.
    table::columns(headings, &rows) + "\n"
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
