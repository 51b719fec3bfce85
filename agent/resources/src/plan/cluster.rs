//! The cluster as the rules of peering see it: who has which address, AS and port. Built once per plan.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use manx_net::Asn;

use crate::{Object, Snapshot, selector::Selector, spec};

/// Calico's default, and BGP's port.
const DEFAULT_PORT: u16 = 179;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn of(addr: IpAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

pub(super) type NodeObject = Object<spec::Node>;

#[derive(Debug)]
pub(super) struct Cluster<'s> {
    pub(super) snapshot: &'s Snapshot,
    /// The AS of nodes that say nothing else.
    pub(super) as_number: Asn,
    pub(super) mesh: bool,
    listen_port: u16,
    by_address: BTreeMap<IpAddr, &'s NodeObject>,
    /// Addresses that more than one node claims, with the names of those nodes.
    pub(super) shared_addresses: BTreeMap<IpAddr, BTreeSet<&'s str>>,
}

impl<'s> Cluster<'s> {
    pub(super) fn new(snapshot: &'s Snapshot) -> Cluster<'s> {
        let default = snapshot.bgp_configuration("default").map(|object| &object.spec);
        let mut by_address: BTreeMap<IpAddr, &NodeObject> = BTreeMap::new();
        let mut shared_addresses: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
        for node in snapshot.nodes() {
            for addr in Family::BOTH.into_iter().filter_map(|family| address(node, family)) {
                match by_address.get(&addr) {
                    Some(first) => {
                        shared_addresses.entry(addr).or_default().extend([first.name(), node.name()]);
                    }
                    None => {
                        by_address.insert(addr, node);
                    }
                }
            }
        }
        Cluster {
            snapshot,
            as_number: default.and_then(|spec| spec.as_number).unwrap_or(Asn::CALICO_DEFAULT),
            mesh: default.and_then(|spec| spec.node_to_node_mesh_enabled).unwrap_or(true),
            listen_port: default.and_then(|spec| spec.listen_port).unwrap_or(DEFAULT_PORT),
            by_address,
            shared_addresses,
        }
    }

    pub(super) fn as_number_of(&self, node: &NodeObject) -> Asn {
        bgp(node).and_then(|bgp| bgp.as_number).unwrap_or(self.as_number)
    }

    /// The port that a node listens on: its own setting, else the cluster's.
    pub(super) fn listen_port_of(&self, node: &NodeObject) -> u16 {
        let own = self.snapshot.bgp_configuration(&format!("node.{}", node.name()));
        own.and_then(|object| object.spec.listen_port).unwrap_or(self.listen_port)
    }

    /// The node with this address; of several the first by name.
    pub(super) fn node_at(&self, addr: IpAddr) -> Option<&'s NodeObject> {
        self.by_address.get(&addr).copied()
    }

    pub(super) fn nodes_matching(&self, selector: &Selector) -> impl Iterator<Item = &'s NodeObject> {
        self.snapshot.nodes().filter(|node| selector.matches(&node.metadata.labels))
    }
}

fn bgp(node: &NodeObject) -> Option<&spec::NodeBgp> {
    node.spec.bgp.as_ref()
}

pub(super) fn address(node: &NodeObject, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => Some(bgp(node)?.ipv4?.addr.into()),
        Family::V6 => Some(bgp(node)?.ipv6?.addr.into()),
    }
}

pub(super) fn cluster_id(node: &NodeObject) -> Option<Ipv4Addr> {
    bgp(node)?.route_reflector_cluster_id
}
