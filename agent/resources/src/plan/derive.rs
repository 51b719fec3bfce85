//! Calico's rules for who peers with whom, in its order: explicit global peers, explicit peers of nodes, then the
//! reverse of each where the other end is a node, then the mesh. The first to name an address and port wins; where
//! Calico leaves the order within a pass to chance, here it is the order of the resources' names.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use manx_net::{Asn, Prefix};

use super::{
    BfdPlan, Dial, NextHopMode, PeerKind, PeerPlan, RangeAs, RangePlan, Warning,
    cluster::{Cluster, Family, NodeObject, address, cluster_id},
};
use crate::{
    Key, Kind, Object,
    spec::{self, Bfd, Interface, PeerExtensions, PeerRange, Role},
};

type PeerObject = Object<spec::BgpPeer>;

/// The other end of a session, before anything is said about this end.
struct Remote {
    address: IpAddr,
    port: u16,
    as_number: Asn,
    /// Known only where a selector or a reverse pass leads to a node: a peer named by its address has none, even
    /// if a reflector has that address (Calico's rule).
    cluster_id: Option<Ipv4Addr>,
}

/// A node's peers, and what was seen on the way to them.
#[derive(Clone, Debug)]
pub(crate) struct Derived {
    /// By address, then port.
    pub peers: Vec<Arc<PeerPlan>>,
    /// By prefix.
    pub ranges: Vec<RangePlan>,
    pub warnings: Vec<Warning>,
    /// Addresses that more than one BGPPeer names, whether or not they say the same of it.
    pub met: BTreeSet<IpAddr>,
}

struct Derivation<'c, 's> {
    cluster: &'c Cluster<'s>,
    own: &'s NodeObject,
    peers: BTreeMap<(IpAddr, u16), PeerPlan>,
    ranges: BTreeMap<Prefix, RangePlan>,
    warnings: Vec<Warning>,
    met: BTreeSet<IpAddr>,
}

impl<'c, 's> Derivation<'c, 's> {
    fn new(cluster: &'c Cluster<'s>, own: &'s NodeObject) -> Derivation<'c, 's> {
        Derivation {
            cluster,
            own,
            peers: BTreeMap::new(),
            ranges: BTreeMap::new(),
            warnings: Vec::new(),
            met: BTreeSet::new(),
        }
    }
}

/// The peers of `own`. What is said of the peers at an address, and warned of them, depends on no other nodes than those
/// that have it, which `planner` relies on.
pub(crate) fn peers<'s>(cluster: &Cluster<'s>, own: &'s NodeObject) -> Derived {
    let mut derivation = Derivation::new(cluster, own);
    derivation.explicit(PeerKind::Global);
    derivation.explicit(PeerKind::Node);
    derivation.reverse();
    derivation.mesh();
    Derived {
        peers: derivation.peers.into_values().map(Arc::new).collect(),
        ranges: derivation.ranges.into_values().collect(),
        warnings: derivation.warnings,
        met: derivation.met,
    }
}

/// Where the peers may be that this node has by a BGPPeer, at most; None: anywhere.
pub(super) fn leads_to(
    cluster: &Cluster<'_>,
    own: &NodeObject,
    object: &PeerObject,
) -> Option<BTreeSet<IpAddr>> {
    let spec = &object.spec;
    let addresses =
        |node: &NodeObject| Family::BOTH.map(|family| address(node, family)).into_iter().flatten();
    let mut reached = BTreeSet::new();
    reached.extend(spec.peer_ip.map(|peer| peer.addr));
    if is_local_to(own, object)
        && let Some(selector) = &spec.peer_selector
    {
        reached.extend(cluster.nodes_matching(selector).flat_map(addresses));
    }
    let leads_here = match (&spec.peer_selector, spec.peer_ip) {
        (Some(selector), _) => selector.matches(&own.metadata.labels),
        (None, Some(peer)) => address(own, Family::of(peer.addr)) == Some(peer.addr),
        (None, None) => false,
    };
    if leads_here {
        match (&spec.node, &spec.node_selector) {
            (Some(name), _) => reached.extend(cluster.node(name).into_iter().flat_map(addresses)),
            (None, Some(selector)) => reached.extend(cluster.nodes_matching(selector).flat_map(addresses)),
            (None, None) => return None,
        }
    }
    Some(reached)
}

/// Whether two states of a BGPPeer make the same peers, though with other settings.
pub(super) fn choose_alike(old: &PeerObject, new: &PeerObject) -> bool {
    let ends = |PeerObject { spec, .. }: &PeerObject| {
        (spec.peer_ip, spec.as_number, spec.local_as_number, spec.reverse_peering_manual)
    };
    ends(old) == ends(new)
        && old.spec.node == new.spec.node
        && old.spec.node_selector == new.spec.node_selector
        && old.spec.peer_selector == new.spec.peer_selector
        && old.spec.local_workload_selector == new.spec.local_workload_selector
        && old.spec.extensions == new.spec.extensions
}

/// Whether a BGPPeer makes peers of this node's pods.
pub(super) fn chooses_workloads(own: &NodeObject, object: &PeerObject) -> bool {
    object.spec.local_workload_selector.is_some() && is_local_to(own, object)
}

/// A pod's session: it dials the address that its node shows it, and from where is its own affair.
pub(super) fn workload_peer(
    cluster: &Cluster<'_>,
    own: &NodeObject,
    object: &PeerObject,
    own_address: IpAddr,
    address: IpAddr,
    as_number: Asn,
) -> PeerPlan {
    let derivation = Derivation::new(cluster, own);
    let settings = Settings {
        reachable_by: None,
        local_as: object.spec.local_as_number,
        allow_local_as: object.spec.allow_local_as,
        keep_next_hop: object.spec.keep_original_next_hop,
        extensions: object.spec.extensions.clone(),
    };
    let remote = Remote { address, port: 179, as_number, cluster_id: None };
    PeerPlan {
        dial: Dial::Never,
        source_address: None,
        ..derivation.peer_plan(object, PeerKind::LocalWorkload, own_address, remote, settings)
    }
}

/// The AS that this node shows instead of its own: to a peer that is named by its address. Nodes that a selector chooses,
/// and those that a rule leads back from, see each node's own (Calico's rule).
fn local_as_towards(object: &PeerObject) -> Option<Asn> {
    object.spec.peer_ip.and(object.spec.local_as_number)
}

fn is_local_to(own: &NodeObject, object: &PeerObject) -> bool {
    match (&object.spec.node, &object.spec.node_selector) {
        (Some(name), _) => name == own.name(),
        (None, Some(selector)) => selector.matches(&own.metadata.labels),
        (None, None) => true,
    }
}

impl<'s> Derivation<'_, 's> {
    /// Peers that this node has because a BGPPeer names it, or names no node at all.
    fn explicit(&mut self, kind: PeerKind) {
        for object in self.cluster.snapshot.bgp_peers() {
            let global = object.spec.node.is_none() && object.spec.node_selector.is_none();
            if global != (kind == PeerKind::Global) || !is_local_to(self.own, object) {
                continue;
            }
            if let Some(range) = &object.spec.extensions.range {
                self.add_range(object, kind, range);
                continue;
            }
            for remote in self.remotes(object) {
                let allow_local_as =
                    if object.spec.peer_ip.is_some() { object.spec.allow_local_as } else { 0 };
                let settings = Settings {
                    reachable_by: object.spec.reachable_by,
                    local_as: local_as_towards(object),
                    allow_local_as,
                    keep_next_hop: object.spec.keep_original_next_hop,
                    extensions: object.spec.extensions.clone(),
                };
                self.add(object, kind, remote, settings);
            }
        }
    }

    /// Peers that this node has because a BGPPeer leads another node here.
    fn reverse(&mut self) {
        for object in self.cluster.snapshot.bgp_peers() {
            if object.spec.reverse_peering_manual || object.spec.local_workload_selector.is_some() {
                continue;
            }
            let Some(families) = self.families_leading_here(object) else { continue };
            let others: Vec<&NodeObject> = match (&object.spec.node, &object.spec.node_selector) {
                (Some(name), _) => self.cluster.node(name).into_iter().collect(),
                (None, Some(selector)) => self.cluster.nodes_matching(selector).collect(),
                (None, None) => self.cluster.nodes().collect(),
            };
            for other in others {
                for family in families.iter().copied() {
                    let Some(mut remote) = self.node_as_remote(other, family) else { continue };
                    // The forward end shows us this AS instead of its own.
                    remote.as_number = local_as_towards(object).unwrap_or(remote.as_number);
                    let settings = Settings {
                        // How the other end is reached from here is nothing that it can say.
                        reachable_by: None,
                        local_as: None,
                        allow_local_as: 0,
                        keep_next_hop: object.spec.keep_original_next_hop,
                        extensions: reversed(&object.spec.extensions),
                    };
                    self.add(object, PeerKind::Node, remote, settings);
                }
            }
        }
    }

    /// The full mesh of all nodes that are no reflectors. An explicit peer with the same address stands for the
    /// mesh peer.
    fn mesh(&mut self) {
        if !self.cluster.mesh || cluster_id(self.own).is_some() {
            return;
        }
        let default = self.cluster.snapshot.bgp_configuration("default").map(|object| &object.spec);
        let extensions = default.map(|spec| spec.mesh.clone()).unwrap_or_default();
        for other in self.cluster.nodes() {
            if cluster_id(other).is_some() {
                continue;
            }
            for family in Family::BOTH {
                let Some(remote) = self.node_as_remote(other, family) else { continue };
                let Some(own_address) = self.own_address_towards(remote.address) else { continue };
                let explicit = (remote.address, 0)..=(remote.address, u16::MAX);
                if self.peers.range(explicit).next().is_some() {
                    continue;
                }
                let peer = PeerPlan {
                    address: remote.address,
                    port: remote.port,
                    as_number: remote.as_number,
                    local_as_number: None,
                    kind: PeerKind::Mesh,
                    rr_client: false,
                    cluster_id: None,
                    dial: dial(own_address, remote.address),
                    source_address: Some(own_address),
                    next_hop: NextHopMode::Auto,
                    ttl_security: None,
                    password_from: default.and_then(|spec| spec.node_mesh_password.clone()),
                    restart_time: default.and_then(|spec| spec.node_mesh_max_restart_time),
                    keepalive_time: None,
                    allow_local_as: 0,
                    filters: Vec::new(),
                    max_prefixes: extensions.max_prefixes,
                    blackholes: extensions.blackholes.clone(),
                    add_path: extensions.add_path,
                    local_role: None,
                    strict_role: false,
                    extended_next_hop: extensions.extended_next_hop,
                    bfd: extensions.bfd.map(|bfd| self.bfd_plan(bfd, remote.address)),
                    reachable_by: None,
                    resource: Key::new(Kind::BgpConfiguration, "default"),
                };
                self.peers.insert((remote.address, remote.port), peer);
            }
        }
    }

    /// What a BGPPeer leads to.
    fn remotes(&mut self, object: &PeerObject) -> Vec<Remote> {
        if let Some(selector) = &object.spec.peer_selector {
            let nodes: Vec<_> = self.cluster.nodes_matching(selector).collect();
            let ends = nodes.into_iter().flat_map(|node| Family::BOTH.map(|family| (node, family)));
            return ends.filter_map(|(node, family)| self.node_as_remote(node, family)).collect();
        }
        let Some(peer) = object.spec.peer_ip else { return Vec::new() };
        let as_number = object.spec.as_number.unwrap_or(self.cluster.as_number);
        let node = self.cluster.node_at(peer.addr);
        let same_as = node.filter(|node| self.cluster.as_number_of(node) == as_number);
        let port = peer.port.or(same_as.map(|node| self.cluster.listen_port_of(node))).unwrap_or(179);
        vec![Remote { address: peer.addr, port, as_number, cluster_id: None }]
    }

    fn node_as_remote(&self, node: &NodeObject, family: Family) -> Option<Remote> {
        Some(Remote {
            address: address(node, family)?,
            port: self.cluster.listen_port_of(node),
            as_number: self.cluster.as_number_of(node),
            cluster_id: cluster_id(node),
        })
    }

    /// The families in which a BGPPeer leads to this node; None if it leads elsewhere. By address it does so only
    /// if the AS is right, and the port where one is given and somebody has said on which one the node listens.
    fn families_leading_here(&mut self, object: &PeerObject) -> Option<Vec<Family>> {
        if let Some(selector) = &object.spec.peer_selector {
            return selector.matches(&self.own.metadata.labels).then(|| Family::BOTH.to_vec());
        }
        let peer = object.spec.peer_ip?;
        let family = Family::of(peer.addr);
        if address(self.own, family) != Some(peer.addr) {
            return None;
        }
        let as_number = object.spec.as_number.unwrap_or(self.cluster.as_number);
        let port = self.cluster.set_port_of(self.own);
        let here = as_number == self.cluster.as_number_of(self.own)
            && peer.port.zip(port).is_none_or(|(says, is)| says == is);
        here.then(|| vec![family])
    }

    /// Over one hop where the peer is on a link of this node.
    fn bfd_plan(&self, bfd: Bfd, remote: IpAddr) -> BfdPlan {
        let bgp = self.own.spec.bgp.as_ref();
        let links = [
            bgp.and_then(|bgp| bgp.ipv4).map(Interface::network),
            bgp.and_then(|bgp| bgp.ipv6).map(Interface::network),
        ];
        let on_link = links.into_iter().flatten().any(|link| link.covers(Prefix::host(remote)));
        BfdPlan {
            interval: bfd.interval,
            multiplier: bfd.multiplier,
            multihop: bfd.multihop.unwrap_or(!on_link),
        }
    }

    fn own_address_towards(&self, remote: IpAddr) -> Option<IpAddr> {
        address(self.own, Family::of(remote)).filter(|own| *own != remote)
    }

    fn add(&mut self, object: &PeerObject, kind: PeerKind, remote: Remote, settings: Settings) {
        let resource = Key::new(Kind::BgpPeer, object.name());
        let family = Family::of(remote.address);
        let Some(own_address) = address(self.own, family) else {
            if object.spec.peer_ip.is_some() && kind != PeerKind::Mesh {
                self.warnings.push(Warning::NoOwnAddress { resource, address: remote.address });
            }
            return;
        };
        if own_address == remote.address {
            return;
        }
        let peer = self.peer_plan(object, kind, own_address, remote, settings);
        match self.peers.entry((peer.address, peer.port)) {
            Entry::Vacant(entry) => {
                entry.insert(peer);
            }
            Entry::Occupied(entry) => {
                let kept = entry.get();
                // What another BGPPeer says of the same session counts for nothing; only a difference is worth
                // a word, and both ends naming each other is not one.
                let same = PeerPlan { kind: peer.kind, resource: peer.resource.clone(), ..kept.clone() };
                if peer.resource == kept.resource {
                    return;
                }
                self.met.insert(peer.address);
                if peer != same {
                    self.warnings.push(Warning::DuplicatePeer {
                        address: peer.address,
                        kept: kept.resource.clone(),
                        dropped: peer.resource,
                    });
                }
            }
        }
    }

    /// Peers by range: each is as if a BGPPeer had its address, but that it is never dialled.
    fn add_range(&mut self, object: &PeerObject, kind: PeerKind, range: &PeerRange) {
        let resource = Key::new(Kind::BgpPeer, object.name());
        let network = range.prefix.addr();
        let Some(own_address) = address(self.own, Family::of(network)) else {
            self.warnings.push(Warning::NoOwnAddress { resource, address: network });
            return;
        };
        let as_numbers = match (object.spec.as_number, &range.as_numbers) {
            (Some(number), _) => RangeAs::OneOf(vec![number]),
            (None, Some(as_numbers)) => as_numbers.clone(),
            (None, None) => RangeAs::OneOf(vec![self.cluster.as_number]),
        };
        let own_as = object.spec.local_as_number.unwrap_or(self.cluster.as_number_of(self.own));
        // What depends on the AS is for a peer of our own where there may be one; to another it means nothing.
        let as_number = match &as_numbers {
            RangeAs::OneOf(numbers) if numbers.contains(&own_as) => own_as,
            RangeAs::OneOf(numbers) => numbers.first().copied().unwrap_or(Asn::TRANS),
            RangeAs::External => Asn::TRANS,
        };
        let remote = Remote { address: network, port: 179, as_number, cluster_id: None };
        let settings = Settings {
            reachable_by: None,
            local_as: object.spec.local_as_number,
            allow_local_as: object.spec.allow_local_as,
            keep_next_hop: object.spec.keep_original_next_hop,
            extensions: object.spec.extensions.clone(),
        };
        let mut settings = PeerPlan {
            dial: Dial::Never,
            source_address: None,
            ..self.peer_plan(object, kind, own_address, remote, settings)
        };
        // And the other way round: what means nothing within the AS is for the others.
        if as_numbers.has_other_than(own_as) {
            settings.local_role = object.spec.extensions.local_role;
            settings.strict_role = object.spec.extensions.strict_role;
            if object.spec.keep_original_next_hop && object.spec.next_hop_mode.is_none() {
                settings.next_hop = NextHopMode::Keep;
            }
        }
        let plan = RangePlan { range: range.prefix, as_numbers, limit: range.limit, settings };
        match self.ranges.entry(range.prefix) {
            Entry::Vacant(entry) => {
                entry.insert(plan);
            }
            Entry::Occupied(entry) => {
                let kept = entry.get().settings.resource.clone();
                self.warnings.push(Warning::DuplicateRange { range: range.prefix, kept, dropped: resource });
            }
        }
    }

    fn peer_plan(
        &self,
        object: &PeerObject,
        kind: PeerKind,
        own_address: IpAddr,
        remote: Remote,
        settings: Settings,
    ) -> PeerPlan {
        let spec = &object.spec;
        let extensions = settings.extensions;
        let own_as = settings.local_as.unwrap_or(self.cluster.as_number_of(self.own));
        let internal = remote.as_number == own_as;
        let own_cluster = cluster_id(self.own);
        let client_of = own_cluster.filter(|own| internal && remote.cluster_id != Some(*own));
        let keep = settings.keep_next_hop && !internal;
        let next_hop = spec.next_hop_mode.unwrap_or(if keep { NextHopMode::Keep } else { NextHopMode::Auto });
        PeerPlan {
            address: remote.address,
            port: remote.port,
            as_number: remote.as_number,
            local_as_number: settings.local_as,
            kind,
            rr_client: client_of.is_some(),
            cluster_id: client_of,
            dial: dial(own_address, remote.address),
            source_address: (!spec.source_address_none).then_some(own_address),
            next_hop,
            ttl_security: spec.ttl_security,
            password_from: spec.password.clone(),
            restart_time: spec.max_restart_time,
            keepalive_time: spec.keepalive_time,
            allow_local_as: settings.allow_local_as,
            filters: spec.filters.clone(),
            max_prefixes: extensions.max_prefixes,
            blackholes: extensions.blackholes,
            add_path: extensions.add_path,
            local_role: extensions.local_role.filter(|_| !internal),
            strict_role: extensions.strict_role && !internal,
            extended_next_hop: extensions.extended_next_hop,
            bfd: extensions.bfd.map(|bfd| self.bfd_plan(bfd, remote.address)),
            reachable_by: settings.reachable_by,
            resource: Key::new(Kind::BgpPeer, object.name()),
        }
    }
}

/// What holds at one end of a session only.
struct Settings {
    reachable_by: Option<IpAddr>,
    local_as: Option<Asn>,
    allow_local_as: u32,
    keep_next_hop: bool,
    extensions: PeerExtensions,
}

/// The other end's: what the two agree on is turned round, and what one end allows the other is not given back.
fn reversed(extensions: &PeerExtensions) -> PeerExtensions {
    PeerExtensions {
        max_prefixes: None,
        blackholes: Vec::new(),
        add_path: extensions.add_path.reversed(),
        local_role: extensions.local_role.map(Role::reversed),
        strict_role: extensions.strict_role,
        extended_next_hop: extensions.extended_next_hop,
        bfd: extensions.bfd,
        range: None,
    }
}

/// Calico compares addresses as text, so that "10.0.0.9" is greater than "10.0.0.10"; both ends must agree, so
/// this does too.
fn dial(own: IpAddr, remote: IpAddr) -> Dial {
    if own.to_string() > remote.to_string() { Dial::First } else { Dial::Later }
}
