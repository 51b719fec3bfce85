//! What one node has to do, given all resources: its peers, pools and own blocks. [`plan`] is a pure function of
//! a snapshot and a node's name; equal snapshots give equal plans, byte for byte. How the peers come about is in
//! `derive`. The JSON form of [`NodePlan`] is an interface: camelCase, every key present, absent is null.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use manx_net::{Asn, Prefix};
use serde::{Serialize, Serializer};

use crate::{
    Key, Snapshot,
    spec::{AllowedUse, Encapsulation, Interface},
};

pub use crate::spec::{NextHopMode, SecretKey};

/// What one node has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePlan {
    /// The name of the Node resource.
    pub node: String,
    pub as_number: Asn,
    /// The node's IPv4 address; on a node without one a value made from its name (RFC 6286 asks only that it be
    /// unique in the AS and not zero).
    pub router_id: Ipv4Addr,
    /// Set on a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    pub listen_port: u16,
    /// By address, then port; no two have the same address and port.
    pub peers: Vec<PeerPlan>,
    /// The blocks that this node owns, sorted.
    pub blocks: Vec<Prefix>,
    /// All pools of the cluster, sorted by prefix.
    pub pools: Vec<PoolPlan>,
    pub warnings: Vec<Warning>,
    /// The node's own addresses. Not part of the JSON form: its peers' `sourceAddress` is.
    #[serde(skip)]
    pub address: OwnAddress,
}

/// The addresses of a node, each with the length of its link's prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnAddress {
    pub ipv4: Option<Interface<Ipv4Addr>>,
    pub ipv6: Option<Interface<Ipv6Addr>>,
}

/// One session that this node must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerPlan {
    pub address: IpAddr,
    /// The port that the peer listens on.
    pub port: u16,
    /// The peer's AS.
    pub as_number: Asn,
    /// The AS that this node shows to this peer, where it is not the node's own.
    pub local_as_number: Option<Asn>,
    pub kind: PeerKind,
    /// The peer is our route reflector client.
    pub rr_client: bool,
    /// The cluster id under which routes of an `rr_client` are reflected: this node's own. None for other peers.
    pub cluster_id: Option<Ipv4Addr>,
    pub dial: Dial,
    /// The local address of the session; None: the kernel chooses.
    pub source_address: Option<IpAddr>,
    pub next_hop: NextHopMode,
    /// The greatest number of hops to the peer (RFC 5082); None: off.
    pub ttl_security: Option<u8>,
    pub password_from: Option<SecretKey>,
    /// Graceful restart time in seconds; None: the speaker's default.
    pub restart_time: Option<u32>,
    /// In seconds; None: a third of the hold time.
    pub keepalive_time: Option<u32>,
    /// How often our own AS may stand in a path that the peer sends.
    pub allow_local_as: u32,
    /// The names of BGPFilter resources, in order.
    pub filters: Vec<String>,
    /// The rule that made this peer. `BGPConfiguration/default` for a mesh peer, also where that object does not
    /// exist: the mesh is its default.
    pub resource: Key,
}

/// How a peer came about, which is also its PEER TYPE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerKind {
    Mesh,
    Global,
    Node,
    LocalWorkload,
}

/// Who opens the TCP connection. Of the two ends the one whose address is the greater string dials `First`; the
/// other listens, and dials `Later`, when 5 s have passed without a connection. The rule is the same for a peer
/// that no Node resource describes, which may itself dial whenever it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Dial {
    First,
    Later,
    /// Passive: local workloads connect to us.
    Never,
}

/// A pool of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolPlan {
    /// The name of the IPPool resource.
    pub name: String,
    pub cidr: Prefix,
    pub ipip_mode: Encapsulation,
    pub vxlan_mode: Encapsulation,
    pub nat_outgoing: bool,
    pub disabled: bool,
    #[serde(rename = "disableBGPExport")]
    pub disable_bgp_export: bool,
    pub block_size: u8,
    pub allowed_uses: Vec<AllowedUse>,
    /// Which of the pool's routes are written to the FIB and the maps.
    pub write: PoolWrite,
}

/// Manx does not encapsulate: a route of an encapsulated pool may be written only where the pool's mode says
/// that the packet would go plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PoolWrite {
    Always,
    /// CrossSubnet: only where the next hop is on-link.
    OnLinkOnly,
    Never,
}

/// Something in the resources that will not do what its author may expect. Prints as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Warning {
    #[error(
        "Node/{0} has no spec.bgp address: it has no peers, and nobody peers with it; \
         set spec.bgp.ipv4Address or spec.bgp.ipv6Address"
    )]
    NodeWithoutAddress(String),
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("there is no Node/{name}{}", nearest(.known))]
    UnknownNode { name: String, known: Vec<String> },
}

fn nearest(known: &[String]) -> String {
    if known.is_empty() {
        "; there are no Node resources at all".to_owned()
    } else {
        format!("; the nearest are {}", known.join(", "))
    }
}

/// The plan of the node that the Node resource `node` describes.
pub fn plan(snapshot: &Snapshot, node: &str) -> Result<NodePlan, PlanError> {
    let unknown = || PlanError::UnknownNode { name: node.to_owned(), known: Vec::new() };
    let object = snapshot.node(node).ok_or_else(unknown)?;
    let bgp = object.spec.bgp.clone().unwrap_or_default();
    let default = snapshot.bgp_configuration("default");
    Ok(NodePlan {
        node: node.to_owned(),
        as_number: bgp
            .as_number
            .or(default.and_then(|object| object.spec.as_number))
            .unwrap_or(Asn::CALICO_DEFAULT),
        router_id: bgp.ipv4.map_or(Ipv4Addr::LOCALHOST, |interface| interface.addr),
        cluster_id: bgp.route_reflector_cluster_id,
        listen_port: default.and_then(|object| object.spec.listen_port).unwrap_or(179),
        peers: Vec::new(),
        blocks: Vec::new(),
        pools: Vec::new(),
        warnings: Vec::new(),
        address: OwnAddress { ipv4: bgp.ipv4, ipv6: bgp.ipv6 },
    })
}
