//! What can be said of nodes and rules of peering one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use super::{Findings, Rule, default_configuration, list};
use crate::{
    Key, Kind, Object, Snapshot,
    plan::{Cluster, Family, address, cluster_id, router_id_of_name},
};

/// Interfaces that a host has for itself alone, by the address that they have where nobody changes it.
const BRIDGES: [(Ipv4Addr, &str); 4] = [
    (Ipv4Addr::new(172, 17, 0, 1), "docker0, Docker's bridge"),
    (Ipv4Addr::new(192, 168, 122, 1), "virbr0, libvirt's bridge"),
    (Ipv4Addr::new(10, 88, 0, 1), "cni-podman0, Podman's bridge"),
    (Ipv4Addr::new(10, 0, 3, 1), "lxcbr0, LXC's bridge"),
];

/// Calico's own advice: above a hundred nodes a mesh is too much.
const LARGE_MESH: usize = 100;

/// A node without an IPv4 address has one of its name, which may be another's. Two nodes of one IPv4 address are told as that.
pub(super) fn router_ids(cluster: &Cluster<'_>, found: &mut Findings) {
    let mut of_names: BTreeMap<Ipv4Addr, Vec<String>> = BTreeMap::new();
    for node in cluster.nodes() {
        if address(node, Family::V4).is_none() && address(node, Family::V6).is_some() {
            of_names.entry(router_id_of_name(node.name())).or_default().push(node.name().to_owned());
        }
    }
    for (id, mut nodes) in of_names {
        nodes.extend(cluster.index.nodes_at(IpAddr::V4(id)).map(|node| node.name().to_owned()));
        if let [first, _, ..] = nodes.as_slice() {
            let remedy = format!(
                "start manxd on {first} with a --router-id of its own, such as an unused IPv4 address"
            );
            found.error(
                Rule::SharedRouterId,
                nodes.iter().map(|name| Key::new(Kind::Node, name)).collect(),
                nodes.clone(),
                format!(
                    "{} have the router ID {id}, made of the names of those without an IPv4 address: within an AS they refuse \
                     each other's sessions, and drop what a reflector passes on",
                    list(&nodes)
                ),
                remedy,
            );
        }
    }
}

pub(super) fn nodes(cluster: &Cluster<'_>, found: &mut Findings) {
    let without: Vec<String> = cluster.index.without_address().iter().cloned().collect();
    if !without.is_empty() {
        found.error(
            Rule::NoAddress,
            without.iter().map(|name| Key::new(Kind::Node, name)).collect(),
            without.clone(),
            format!(
                "{} has no address in spec.bgp: nobody peers with it, and its pods cannot be reached",
                list(&without)
            ),
            "set spec.bgp.ipv4Address or spec.bgp.ipv6Address".to_owned(),
        );
    }
    for (address, nodes) in cluster.index.shared_addresses() {
        found.error(
            Rule::SharedAddress,
            nodes.iter().map(|name| Key::new(Kind::Node, name)).collect(),
            nodes.clone(),
            format!(
                "{address} is the address of several nodes ({}): sessions reach one of them",
                list(&nodes)
            ),
            "give each node its own address".to_owned(),
        );
    }
    for (address, bridge) in BRIDGES {
        let nodes: Vec<String> =
            cluster.index.nodes_at(IpAddr::V4(address)).map(|node| node.name().to_owned()).collect();
        if !nodes.is_empty() {
            found.error(
                Rule::BridgeAddress,
                nodes.iter().map(|name| Key::new(Kind::Node, name)).collect(),
                nodes.clone(),
                format!(
                    "{address} is as a rule the address of {bridge}, which each host has for itself: no other node \
                     reaches {} there",
                    list(&nodes)
                ),
                "write the address of the interface that leads to the other nodes; where it is found by autodetection, leave \
                 the bridge out (IP_AUTODETECTION_METHOD, such as interface=eth0 or kubernetes-internal-ip)"
                    .to_owned(),
            );
        }
    }
    let mesh = cluster.mesh.then(|| cluster.nodes().filter(|node| cluster_id(node).is_none()).count());
    if let Some(nodes) = mesh.filter(|nodes| *nodes > LARGE_MESH) {
        found.warn(
            Rule::LargeMesh,
            vec![default_configuration()],
            Vec::new(),
            format!("{nodes} nodes are in a full mesh: {} sessions, and each change is sent {nodes} times", nodes * (nodes - 1) / 2),
            "make some nodes route reflectors, let all nodes peer with them, and set nodeToNodeMeshEnabled: false".to_owned(),
        );
    }
    for object in cluster.snapshot.bgp_configurations() {
        if let Some(node) = object.name().strip_prefix("node.")
            && cluster.snapshot.node(node).is_none()
        {
            unknown_node(Key::new(Kind::BgpConfiguration, object.name()), node, found);
        }
    }
}

fn unknown_node(resource: Key, node: &str, found: &mut Findings) {
    found.warn(
        Rule::UnknownNode,
        vec![resource],
        Vec::new(),
        format!("it is for Node/{node}, which does not exist, so it does nothing"),
        "correct the name, or delete it".to_owned(),
    );
}

pub(super) fn rules(cluster: &Cluster<'_>, found: &mut Findings) {
    for object in cluster.snapshot.bgp_peers() {
        let (key, spec) = (Key::new(Kind::BgpPeer, object.name()), &object.spec);
        if let Some(node) = spec.node.as_deref().filter(|node| cluster.snapshot.node(node).is_none()) {
            unknown_node(key.clone(), node, found);
        }
        for (field, selector) in
            [("nodeSelector", &spec.node_selector), ("peerSelector", &spec.peer_selector)]
        {
            if let Some(selector) = selector
                && cluster.nodes_matching(selector).next().is_none()
            {
                found.warn(
                    Rule::SelectsNobody,
                    vec![key.clone()],
                    Vec::new(),
                    format!("its {field} selects no node, so it makes no session"),
                    "compare it with the nodes' labels (manxctl get nodes -o yaml)".to_owned(),
                );
            }
        }
        let Some(peer) = spec.peer_ip else { continue };
        let Some(node) = cluster.node_at(peer.addr) else { continue };
        let (says, is) = (spec.as_number.unwrap_or(cluster.as_number), cluster.as_number_of(node));
        if says != is {
            found.error(
                Rule::WrongAs,
                vec![key, Key::new(Kind::Node, node.name())],
                vec![node.name().to_owned()],
                format!(
                    "it says that {} is in AS {says}{}, but Node/{} is in AS {is}: the session is refused (bad peer AS), \
                     and the node has no peers towards those that the rule is for",
                    peer.addr,
                    if spec.as_number.is_none() { " (the cluster's, as it names none)" } else { "" },
                    node.name()
                ),
                format!("write asNumber: {is}"),
            );
            continue;
        }
        if spec.as_number.is_none() {
            found.warn(
                Rule::AsAssumed,
                vec![key.clone()],
                Vec::new(),
                format!("it names no AS; the cluster's, {says}, is taken, and another tomorrow if the cluster's changes"),
                format!("write asNumber: {says}"),
            );
        }
        let listens = cluster.listen_port_of(node);
        if let Some(says) = peer.port.filter(|port| *port != listens) {
            found.error(
                Rule::WrongPort,
                vec![key],
                vec![node.name().to_owned()],
                format!(
                    "it says that {} listens on port {says}, but Node/{} listens on {listens}",
                    peer.addr,
                    node.name()
                ),
                format!("write peerIP: {}", with_port(peer.addr, listens)),
            );
        }
    }
}

fn with_port(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:{port}"),
        IpAddr::V6(address) => format!("\"[{address}]:{port}\""),
    }
}

pub(super) fn filters(snapshot: &Snapshot, found: &mut Findings) {
    let mut used = BTreeSet::new();
    let mut missing: BTreeMap<&str, Vec<Key>> = BTreeMap::new();
    for object in snapshot.bgp_peers() {
        for name in &object.spec.filters {
            used.insert(name.as_str());
            if snapshot.bgp_filter(name).is_none() {
                missing.entry(name).or_default().push(Key::new(Kind::BgpPeer, object.name()));
            }
        }
    }
    for (name, peers) in missing {
        found.error(
            Rule::UnknownFilter,
            peers,
            Vec::new(),
            format!("BGPFilter/{name} does not exist: it is skipped, and what it should keep out passes"),
            format!("create BGPFilter/{name}, or take its name out"),
        );
    }
    for filter in snapshot.bgp_filters().filter(|filter| !used.contains(filter.name())) {
        found.warn(
            Rule::UnusedFilter,
            vec![Key::new(Kind::BgpFilter, filter.name())],
            Vec::new(),
            "no BGPPeer names it, so it filters nothing".to_owned(),
            "name it in spec.filters of a BGPPeer, or delete it".to_owned(),
        );
    }
}

pub(super) fn without_effect(snapshot: &Snapshot, found: &mut Findings) {
    let mut look = |kind: Kind, name: &str, fields: &[String]| {
        if !fields.is_empty() {
            let verb = if fields.len() == 1 { "has" } else { "have" };
            found.warn(
                Rule::WithoutEffect,
                vec![Key::new(kind, name)],
                Vec::new(),
                format!("{} {verb} no effect in Manx yet", fields.join(", ")),
                "take it out, or do not rely on it".to_owned(),
            );
        }
    };
    fn of<'s, S: 's>(
        kind: Kind,
        objects: impl Iterator<Item = &'s Object<S>>,
    ) -> Vec<(Kind, &'s str, &'s [String])> {
        objects.map(|object| (kind, object.name(), object.without_effect.as_slice())).collect()
    }
    let configurations = of(Kind::BgpConfiguration, snapshot.bgp_configurations());
    let peers = of(Kind::BgpPeer, snapshot.bgp_peers());
    let filters = of(Kind::BgpFilter, snapshot.bgp_filters());
    let (nodes, pools) = (of(Kind::Node, snapshot.nodes()), of(Kind::IpPool, snapshot.ip_pools()));
    for (kind, name, fields) in [configurations, peers, filters, nodes, pools].into_iter().flatten() {
        look(kind, name, fields);
    }
}
