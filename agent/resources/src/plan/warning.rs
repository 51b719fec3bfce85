//! What in the resources will not do what its author may expect, seen from one node.

use std::net::{IpAddr, Ipv4Addr};

use manx_net::{Asn, Prefix};
use serde::{Serialize, Serializer};

use super::{
    NodePlan, PeerPlan, PoolPlan, PoolWrite, WhyForwarded,
    cluster::{Cluster, Family, NodeObject, address},
};
use crate::{Key, Kind, Object, Snapshot, spec};

/// Prints as a sentence that says the consequence. In JSON it is that sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Warning {
    #[error(
        "Node/{0} has no address in spec.bgp: it has no peers, and no node peers with it; \
         set spec.bgp.ipv4Address or spec.bgp.ipv6Address"
    )]
    NodeWithoutAddress(String),
    #[error("{} of the other nodes have no address in spec.bgp, so no node peers with them: {}", .0.len(), list(.0))]
    OthersWithoutAddress(Vec<String>),
    #[error(
        "Node/{node} has no peers: the node-to-node mesh is off and no BGPPeer concerns it; \
         without one its pods reach no pod of another node"
    )]
    NoPeersWithoutMesh { node: String },
    #[error(
        "Node/{node} is cut off: its routeReflectorClusterID {cluster_id} takes it out of the node-to-node mesh, \
         and no BGPPeer leads to it; add a BGPPeer with its address or a peerSelector for its labels"
    )]
    ReflectorCutOff { node: String, cluster_id: Ipv4Addr },
    #[error(
        "{resource} says that {address} is in AS {says}, but Node/{node} is in AS {is}: the session is refused \
         (bad peer AS), and the peers of Node/{node} towards the other nodes do not exist; write asNumber: {is}"
    )]
    WrongAs { resource: Key, address: IpAddr, says: Asn, node: String, is: Asn },
    #[error(
        "{resource} says that {address} listens on port {says}, but Node/{node} listens on {is}: {}",
        if *.leads_back {
            "nobody answers there, and the session waits for that node to dial".to_owned()
        } else {
            format!("the peers of Node/{} towards the other nodes do not exist", .node)
        }
    )]
    WrongPort { resource: Key, address: IpAddr, says: u16, node: String, is: u16, leads_back: bool },
    #[error("{resource} has no asNumber; the cluster's, {assumed}, is taken")]
    AsAssumed { resource: Key, assumed: Asn },
    #[error("{dropped} says otherwise than {kept} about the peer {address}; {kept} counts")]
    DuplicatePeer { address: IpAddr, kept: Key, dropped: Key },
    #[error("{dropped} is for the range {range}, and so is {kept}; {kept} counts")]
    DuplicateRange { range: Prefix, kept: Key, dropped: Key },
    #[error(
        "{resource} leads to {address}, but this node has no address of that family in spec.bgp; there is no session"
    )]
    NoOwnAddress { resource: Key, address: IpAddr },
    #[error("{resource} is for Node/{node}, which does not exist")]
    UnknownNode { resource: Key, node: String },
    #[error("{resource} names BGPFilter/{filter}, which does not exist; it is skipped")]
    UnknownFilter { resource: Key, filter: String },
    #[error("{address} is the address of several nodes: {}; peers reach one of them", list(.nodes))]
    SharedAddress { address: IpAddr, nodes: Vec<String> },
    #[error("the block {block} is claimed by several nodes: {}; traffic for it goes to one of them", list(.nodes))]
    BlockClaimedTwice { block: Prefix, nodes: Vec<String> },
    #[error("{resource} ({cidr}) has {mode}, and Manx does not encapsulate: {}", match .write {
        PoolWrite::OnLinkOnly => "its routes are written only where the next hop is on-link",
        _ => "its routes are not written",
    })]
    Encapsulated { resource: Key, cidr: Prefix, mode: &'static str, write: PoolWrite },
    #[error(
        "{first} ({first_cidr}) and {second} ({second_cidr}) overlap; an address in both may be given to two pods"
    )]
    PoolsOverlap { first: Key, first_cidr: Prefix, second: Key, second_cidr: Prefix },
    #[error(
        "{resource} gives this node a role towards {whom}, which is in the same AS; roles are for peers of other \
         ASes (RFC 9234), and this one has no effect"
    )]
    RoleWithinAs { resource: Key, whom: String },
    #[error(
        "no {} route {} {whom}: {resource} has no BGPFilter with rules for it, and manx.dev/ebgpRequiresPolicy is on \
         (RFC 8212)",
        if *.ipv4 { "IPv4" } else { "IPv6" },
        if *.import { "is taken from" } else { "goes to" }
    )]
    NoPolicy { resource: Key, whom: String, ipv4: bool, import: bool },
    #[error(
        "{resource} ({cidr}) has manx.dev/unallocatedBlocks, but packets to addresses outside its blocks are forwarded \
         as if it had not: {why}"
    )]
    UnallocatedForwarded { resource: Key, cidr: Prefix, why: WhyForwarded },
    #[error(
        "the block {block} overlaps the service prefix {service}: none of its addresses is blackholed here, for packets \
         to a service must reach netfilter; give pods and services prefixes of their own"
    )]
    ServiceInBlock { block: Prefix, service: Prefix },
    #[error(
        "{0} switches Felix's own BPF dataplane on: its programs stand on the same interfaces, carry packets past ours, and know \
         no route that BGP brought; switch bpfEnabled off, or start manxd with --fast-path off"
    )]
    FelixBpf(Key),
    #[error(
        "{0} has Felix write the routes of pools that are not encapsulated, which Manx writes, too: who comes second leaves \
         the other's route where it is; write programClusterRoutes: EnabledIPIPOnly"
    )]
    FelixRoutes(Key),
    #[error(
        "{felix} says {field}: {is}, and the BGPConfiguration {says}: a node that follows the one takes the other's routes \
         for better or worse ones; write the same in both"
    )]
    PriorityMismatch { felix: Key, field: &'static str, is: u32, says: u32 },
    #[error("{resource}: {} {} no effect yet", .fields.join(", "), if .fields.len() == 1 { "has" } else { "have" })]
    WithoutEffect { resource: Key, fields: Vec<String> },
}

/// The first few names, and how many more there are.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Adds what is seen once the plan stands.
pub(super) fn look_over(cluster: &Cluster<'_>, own: &NodeObject, plan: &NodePlan, found: &mut Vec<Warning>) {
    nodes(cluster, own, plan, found);
    peers(cluster, own, plan, found);
    filters(cluster, plan, found);
    external(cluster, plan, found);
    blocks(cluster, found);
    pools(plan, found);
    overlaps(plan, found);
    felix(cluster, own, found);
    without_effect(cluster, own, plan, found);
}

/// What Felix, where it runs, does on this node.
fn felix(cluster: &Cluster<'_>, own: &NodeObject, found: &mut Vec<Warning>) {
    found.extend(felix_beside(cluster.snapshot, Some(own.name())));
}

/// The same for a node, or for all that have no settings of their own.
pub(crate) fn felix_beside(snapshot: &Snapshot, node: Option<&str>) -> Vec<Warning> {
    let of_node = node.and_then(|node| snapshot.felix_configuration(&format!("node.{node}")));
    let default = snapshot.felix_configuration("default");
    let mut found = Vec::new();
    if of_node.or(default).is_none() {
        return found;
    }
    // Whose field it is.
    let key = |is_set: &dyn Fn(&spec::FelixConfiguration) -> bool| {
        let of = of_node.filter(|object| is_set(&object.spec)).or(default);
        Key::new(Kind::FelixConfiguration, of.map_or("default", Object::name))
    };
    let specs: Vec<&spec::FelixConfiguration> =
        [of_node, default].into_iter().flatten().map(|object| &object.spec).collect();
    let felix = specs.iter().fold(spec::FelixConfiguration::default(), |all, next| all.or(next));
    if felix.bpf_enabled == Some(true) {
        found.push(Warning::FelixBpf(key(&|spec| spec.bpf_enabled.is_some())));
    }
    if felix.program_cluster_routes.is_some_and(spec::ProgramClusterRoutes::is_plain) {
        found.push(Warning::FelixRoutes(key(&|spec| spec.program_cluster_routes.is_some())));
    }
    let configuration = |field: fn(&spec::BgpConfiguration) -> Option<u32>| {
        let of_node = node.and_then(|node| snapshot.bgp_configuration(&format!("node.{node}")));
        let default = snapshot.bgp_configuration("default");
        [of_node, default].into_iter().flatten().find_map(|object| field(&object.spec))
    };
    let ipv4 = (felix.ipv4_normal_route_priority, configuration(|spec| spec.ipv4_normal_route_priority));
    let ipv6 = (felix.ipv6_normal_route_priority, configuration(|spec| spec.ipv6_normal_route_priority));
    for (field, (is, says)) in [("ipv4NormalRoutePriority", ipv4), ("ipv6NormalRoutePriority", ipv6)] {
        if let (Some(is), Some(says)) = (is, says)
            && is != says
        {
            let felix = key(&|spec| match field {
                "ipv4NormalRoutePriority" => spec.ipv4_normal_route_priority.is_some(),
                _ => spec.ipv6_normal_route_priority.is_some(),
            });
            found.push(Warning::PriorityMismatch { felix, field, is, says });
        }
    }
    found
}

fn nodes(cluster: &Cluster<'_>, own: &NodeObject, plan: &NodePlan, found: &mut Vec<Warning>) {
    let has_address = |node: &NodeObject| Family::BOTH.iter().any(|family| address(node, *family).is_some());
    let others = cluster.index.without_address().iter().filter(|name| *name != own.name());
    let others: Vec<String> = others.cloned().collect();
    if !others.is_empty() {
        found.push(Warning::OthersWithoutAddress(others));
    }
    for (address, nodes) in cluster.index.shared_addresses() {
        found.push(Warning::SharedAddress { address, nodes });
    }
    if !has_address(own) {
        found.push(Warning::NodeWithoutAddress(own.name().to_owned()));
        return;
    }
    let alone = cluster.snapshot.nodes().take(2).count() == 1;
    if plan.peers.is_empty() && plan.ranges.is_empty() && !alone {
        let node = own.name().to_owned();
        match plan.cluster_id {
            Some(cluster_id) if cluster.mesh => found.push(Warning::ReflectorCutOff { node, cluster_id }),
            _ if !cluster.mesh => found.push(Warning::NoPeersWithoutMesh { node }),
            _ => {}
        }
    }
    // Seen from a node of the mesh: a reflector that the mesh leaves out and that this node has no session with.
    if cluster.mesh && plan.cluster_id.is_none() {
        for (name, cluster_id) in cluster.index.reflectors() {
            let Some(node) = cluster.snapshot.node(name) else { continue };
            let addresses = Family::BOTH.into_iter().filter_map(|family| address(node, family));
            let reached = addresses
                .filter(|address| cluster.node_at(*address).is_some_and(|at| at.name() == name))
                .any(|address| plan.peers_at(address).next().is_some());
            if !reached && has_address(node) {
                found.push(Warning::ReflectorCutOff { node: name.clone(), cluster_id: *cluster_id });
            }
        }
    }
}

/// What is wrong with BGPPeers that concern this node, at either end.
fn peers(cluster: &Cluster<'_>, own: &NodeObject, plan: &NodePlan, found: &mut Vec<Warning>) {
    for object in cluster.snapshot.bgp_peers() {
        let resource = Key::new(Kind::BgpPeer, object.name());
        if let Some(node) = &object.spec.node
            && cluster.snapshot.node(node).is_none()
        {
            found.push(Warning::UnknownNode { resource: resource.clone(), node: node.clone() });
        }
        let Some(peer) = object.spec.peer_ip else { continue };
        let leads_here = address(own, Family::of(peer.addr)) == Some(peer.addr);
        if !leads_here && !plan.peers_at(peer.addr).any(|peer| peer.resource == resource) {
            continue;
        }
        let node = if leads_here { Some(own) } else { cluster.node_at(peer.addr) };
        if object.spec.as_number.is_none() {
            found.push(Warning::AsAssumed { resource: resource.clone(), assumed: cluster.as_number });
        }
        let Some(node) = node else { continue };
        let says = object.spec.as_number.unwrap_or(cluster.as_number);
        let is = cluster.as_number_of(node);
        let (address, name) = (peer.addr, node.name().to_owned());
        if says != is {
            found.push(Warning::WrongAs { resource, address, says, node: name, is });
        } else if let Some(says) = peer.port.filter(|port| *port != cluster.listen_port_of(node)) {
            let (is, leads_back) = (cluster.listen_port_of(node), cluster.set_port_of(node).is_none());
            found.push(Warning::WrongPort { resource, address, says, node: name, is, leads_back });
        }
    }
}

/// Calico skips a missing filter without a word.
fn filters(cluster: &Cluster<'_>, plan: &NodePlan, found: &mut Vec<Warning>) {
    if !cluster.has_filters() {
        return;
    }
    for peer in plan.every_peer() {
        for filter in peer.filters.iter().filter(|name| !plan.filters.contains_key(*name)) {
            let (resource, filter) = (peer.resource.clone(), filter.clone());
            found.push(Warning::UnknownFilter { resource, filter });
        }
    }
}

/// What holds only towards other ASes.
fn external(cluster: &Cluster<'_>, plan: &NodePlan, found: &mut Vec<Warning>) {
    let own_as = |peer: &PeerPlan| peer.local_as_number.unwrap_or(plan.as_number);
    let has_roles = cluster.snapshot.bgp_peers().any(|object| object.spec.extensions.local_role.is_some());
    if !has_roles && !plan.speaker.ebgp_requires_policy {
        return;
    }
    for peer in &plan.peers {
        if peer.as_number == own_as(peer) {
            role_within_as(cluster, peer, peer.address.to_string(), found);
        } else {
            policy(plan, peer, format!("{}, which is in another AS", peer.address), found);
        }
    }
    for range in &plan.ranges {
        let peer = &range.settings;
        if range.as_numbers.has_other_than(own_as(peer)) {
            policy(plan, peer, format!("peers of other ASes in {}", range.range), found);
        } else {
            role_within_as(cluster, peer, range.range.to_string(), found);
        }
    }
}

fn role_within_as(cluster: &Cluster<'_>, peer: &PeerPlan, whom: String, found: &mut Vec<Warning>) {
    let resource = &peer.resource;
    let object =
        (resource.kind == Kind::BgpPeer).then(|| cluster.snapshot.bgp_peer(&resource.name)).flatten();
    if object.is_some_and(|object| object.spec.extensions.local_role.is_some()) {
        found.push(Warning::RoleWithinAs { resource: resource.clone(), whom });
    }
}

/// In each direction and in each family that the session carries.
fn policy(plan: &NodePlan, peer: &PeerPlan, whom: String, found: &mut Vec<Warning>) {
    if !plan.speaker.ebgp_requires_policy {
        return;
    }
    for ipv4 in [true, false] {
        if ipv4 != peer.address.is_ipv4() && !(ipv4 && peer.extended_next_hop) {
            continue;
        }
        for import in [true, false] {
            let mut filters = peer.filters.iter().filter_map(|name| plan.filters.get(name));
            let has_rules = filters.any(|filter| match (import, ipv4) {
                (true, true) => !filter.spec.import_v4.is_empty(),
                (true, false) => !filter.spec.import_v6.is_empty(),
                (false, true) => !filter.spec.export_v4.is_empty(),
                (false, false) => !filter.spec.export_v6.is_empty(),
            });
            if !has_rules {
                let (resource, whom) = (peer.resource.clone(), whom.clone());
                found.push(Warning::NoPolicy { resource, whom, ipv4, import });
            }
        }
    }
}

fn blocks(cluster: &Cluster<'_>, found: &mut Vec<Warning>) {
    for (block, nodes) in cluster.index.contested_blocks() {
        found.push(Warning::BlockClaimedTwice { block, nodes });
    }
}

fn pools(plan: &NodePlan, found: &mut Vec<Warning>) {
    for pool in plan.pools.iter().filter(|pool| pool.write != PoolWrite::Always) {
        use crate::spec::Encapsulation::{Always, CrossSubnet, Never};
        let mode = match (pool.ipip_mode, pool.vxlan_mode) {
            (Always, _) => "ipipMode Always",
            (CrossSubnet, _) => "ipipMode CrossSubnet",
            (Never, Always) => "vxlanMode Always",
            (Never, CrossSubnet) => "vxlanMode CrossSubnet",
            (Never, Never) => continue,
        };
        let resource = Key::new(Kind::IpPool, &*pool.name);
        found.push(Warning::Encapsulated { resource, cidr: pool.cidr, mode, write: pool.write });
    }
}

/// Pools are sorted by prefix, so that what overlaps a pool follows it at once, or follows something that does.
fn overlaps(plan: &NodePlan, found: &mut Vec<Warning>) {
    let mut widest: Option<&PoolPlan> = None;
    for pool in &plan.pools {
        match widest {
            Some(wide) if wide.cidr.overlaps(pool.cidr) => found.push(Warning::PoolsOverlap {
                first: Key::new(Kind::IpPool, &*wide.name),
                first_cidr: wide.cidr,
                second: Key::new(Kind::IpPool, &*pool.name),
                second_cidr: pool.cidr,
            }),
            _ => widest = Some(pool),
        }
    }
}

fn without_effect(cluster: &Cluster<'_>, own: &NodeObject, plan: &NodePlan, found: &mut Vec<Warning>) {
    fn add<S>(kind: Kind, object: &Object<S>, found: &mut Vec<Warning>) {
        if !object.without_effect.is_empty() {
            let resource = Key::new(kind, object.name());
            found.push(Warning::WithoutEffect { resource, fields: object.without_effect.clone() });
        }
    }
    let snapshot = cluster.snapshot;
    for name in ["default".to_owned(), format!("node.{}", own.name())] {
        if let Some(object) = snapshot.bgp_configuration(&name) {
            add(Kind::BgpConfiguration, object, found);
        }
    }
    for object in snapshot.bgp_peers() {
        add(Kind::BgpPeer, object, found);
    }
    for object in plan.filters.values() {
        add(Kind::BgpFilter, object, found);
    }
    add(Kind::Node, own, found);
    for object in snapshot.ip_pools() {
        add(Kind::IpPool, object, found);
    }
}
