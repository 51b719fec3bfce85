//! The cluster as the rules of peering see it: who has which address, AS and port.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use manx_net::Asn;

use super::index::Index;
use crate::{Object, Snapshot, selector::Selector, spec};

/// Calico's default, and BGP's port.
const DEFAULT_PORT: u16 = 179;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

    pub(crate) fn of(addr: IpAddr) -> Family {
        if addr.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

pub(crate) type NodeObject = Object<spec::Node>;

#[derive(Debug)]
pub(crate) struct Cluster<'s> {
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) index: &'s Index,
    /// Only these nodes are looked at where a rule is for all nodes.
    scope: Option<&'s [Arc<NodeObject>]>,
    /// The AS of nodes that say nothing else.
    pub(crate) as_number: Asn,
    pub(crate) mesh: bool,
    /// Of nodes that say nothing else, if it is set.
    listen_port: Option<u16>,
}

impl<'s> Cluster<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot, index: &'s Index) -> Cluster<'s> {
        let default = snapshot.bgp_configuration("default").map(|object| &object.spec);
        Cluster {
            snapshot,
            index,
            scope: None,
            as_number: default.and_then(|spec| spec.as_number).unwrap_or(Asn::CALICO_DEFAULT),
            mesh: default.and_then(|spec| spec.node_to_node_mesh_enabled).unwrap_or(true),
            listen_port: default.and_then(|spec| spec.listen_port),
        }
    }

    /// The same cluster, of which rules for all nodes see these alone, sorted by name.
    pub(crate) fn with_scope(self, nodes: &'s [Arc<NodeObject>]) -> Cluster<'s> {
        Cluster { scope: Some(nodes), ..self }
    }

    /// By name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &'s NodeObject> + use<'s> {
        let all = self.scope.is_none().then(|| self.snapshot.nodes());
        let some = self.scope.unwrap_or_default().iter().map(Arc::as_ref);
        all.into_iter().flatten().chain(some)
    }

    pub(crate) fn node(&self, name: &str) -> Option<&'s NodeObject> {
        match self.scope {
            None => self.snapshot.node(name),
            Some(nodes) => {
                let at = nodes.binary_search_by(|node| node.name().cmp(name)).ok()?;
                nodes.get(at).map(Arc::as_ref)
            }
        }
    }

    /// Whether a BGPPeer names a filter at all.
    pub(crate) fn has_filters(&self) -> bool {
        self.snapshot.bgp_peers().any(|object| !object.spec.filters.is_empty())
    }

    pub(crate) fn as_number_of(&self, node: &NodeObject) -> Asn {
        bgp(node).and_then(|bgp| bgp.as_number).unwrap_or(self.as_number)
    }

    /// The port that a node listens on: its own setting, else the cluster's.
    pub(crate) fn listen_port_of(&self, node: &NodeObject) -> u16 {
        self.set_port_of(node).unwrap_or(DEFAULT_PORT)
    }

    /// The same, where it is set at all.
    pub(crate) fn set_port_of(&self, node: &NodeObject) -> Option<u16> {
        let own = self.snapshot.bgp_configuration(&format!("node.{}", node.name()));
        own.and_then(|object| object.spec.listen_port).or(self.listen_port)
    }

    /// The node with this address; of several the first by name.
    pub(crate) fn node_at(&self, addr: IpAddr) -> Option<&'s NodeObject> {
        self.index.node_at(addr)
    }

    pub(crate) fn nodes_matching<'a>(
        &self,
        selector: &'a Selector,
    ) -> impl Iterator<Item = &'s NodeObject> + use<'s, 'a> {
        self.nodes().filter(|node| selector.matches(&node.metadata.labels))
    }
}

fn bgp(node: &NodeObject) -> Option<&spec::NodeBgp> {
    node.spec.bgp.as_ref()
}

pub(crate) fn address(node: &NodeObject, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => Some(bgp(node)?.ipv4?.addr.into()),
        Family::V6 => Some(bgp(node)?.ipv6?.addr.into()),
    }
}

pub(crate) fn cluster_id(node: &NodeObject) -> Option<Ipv4Addr> {
    bgp(node)?.route_reflector_cluster_id
}
