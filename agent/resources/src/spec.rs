//! The specs of the kinds, after validation. A field is here if something in Manx acts on it or prints
//! it; every other field that Calico knows is accepted by the reader and stays in the object's document.

mod extensions;
mod fast_path;
mod felix;
mod filter;
mod ipam;
mod secret;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use manx_net::{Asn, Prefix};
use serde::Serialize;

use crate::selector::Selector;
pub use extensions::{
    AddPath, Bfd, MaxPrefixes, Multipath, PeerExtensions, PeerRange, PoolExtensions, RangeAs, Reply, Role,
    SpeakerExtensions,
};
pub use fast_path::{FastPathExtensions, FastPathSetting, ForInterfaces, SourceCheck};
pub use felix::{CalicoNodeStatus, FelixConfiguration, ProgramClusterRoutes};
pub use filter::{
    BgpFilter, CidrMatch, Community, FilterAction, FilterOperation, FilterRule, MatchOperator, PeerType,
};
pub use ipam::{Allocation, ClusterInformation, IpReservation, IpamBlock, IpamConfiguration};
pub use secret::{Hidden, Secret};

/// `BGPConfiguration`: `default` for the cluster, or `node.NAME` for one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpConfiguration {
    pub log_severity_screen: Option<String>,
    pub node_to_node_mesh_enabled: Option<bool>,
    pub as_number: Option<Asn>,
    pub listen_port: Option<u16>,
    /// `bindMode: NodeIP`. Counts on `default` only (Calico's rule).
    pub bind_node_ip: bool,
    pub node_mesh_password: Option<SecretKey>,
    /// In seconds, at most 4095, which is what the capability can say (RFC 4724 §3).
    pub node_mesh_max_restart_time: Option<u32>,
    pub services: Services,
    /// The priority of a usual route (a metric of Calico's), 1 to 2147483646.
    pub ipv4_normal_route_priority: Option<u32>,
    pub ipv6_normal_route_priority: Option<u32>,
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    pub extensions: SpeakerExtensions,
    pub fast_path: FastPathExtensions,
    /// Of the peers of the mesh; only on `default`.
    pub mesh: PeerExtensions,
}

/// Communities for whatever is announced inside of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixAdvertisement {
    pub cidr: Prefix,
    /// Names are resolved.
    pub communities: Vec<Community>,
}

/// Prefixes of services: no pod has an address of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services {
    /// `serviceClusterIPs`
    pub cluster: Vec<Prefix>,
    /// `serviceExternalIPs`
    pub external: Vec<Prefix>,
    /// `serviceLoadBalancerIPs`
    pub load_balancer: Vec<Prefix>,
    /// `serviceLoadBalancerAggregation: Disabled`: their single addresses are announced, by whoever has a pod behind them.
    pub single_load_balancers: bool,
}

impl Services {
    pub fn all(&self) -> impl Iterator<Item = Prefix> {
        self.cluster.iter().chain(&self.external).chain(&self.load_balancer).copied()
    }
}

/// `BGPPeer`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpPeer {
    pub node: Option<String>,
    pub node_selector: Option<Selector>,
    pub peer_ip: Option<PeerIp>,
    pub as_number: Option<Asn>,
    pub local_as_number: Option<Asn>,
    pub peer_selector: Option<Selector>,
    pub local_workload_selector: Option<Selector>,
    pub next_hop_mode: Option<NextHopMode>,
    /// Deprecated in Calico; means [`NextHopMode::Keep`] towards another AS where `next_hop_mode` is not set.
    pub keep_original_next_hop: bool,
    pub password: Option<SecretKey>,
    pub source_address_none: bool,
    /// In seconds, at most 4095 (RFC 4724 §3).
    pub max_restart_time: Option<u32>,
    /// In seconds.
    pub keepalive_time: Option<u32>,
    pub allow_local_as: u32,
    /// Hops, at least 1.
    pub ttl_security: Option<u8>,
    pub reachable_by: Option<IpAddr>,
    pub filters: Vec<String>,
    pub reverse_peering_manual: bool,
    pub extensions: PeerExtensions,
}

/// `Node`. `bgp` is absent on a node that takes no part in BGP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub bgp: Option<NodeBgp>,
    /// The node is about to leave, and asks everybody to go another way (RFC 8326).
    pub graceful_shutdown: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeBgp {
    pub as_number: Option<Asn>,
    pub ipv4: Option<Interface<Ipv4Addr>>,
    pub ipv6: Option<Interface<Ipv6Addr>>,
    pub route_reflector_cluster_id: Option<Ipv4Addr>,
}

/// `IPPool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPool {
    pub cidr: Prefix,
    pub ipip_mode: Encapsulation,
    pub vxlan_mode: Encapsulation,
    pub nat_outgoing: bool,
    pub disabled: bool,
    pub disable_bgp_export: bool,
    /// 26 for IPv4 and 122 for IPv6 where the document says nothing.
    pub block_size: u8,
    pub node_selector: String,
    pub allowed_uses: Vec<AllowedUse>,
    pub assignment_mode: AssignmentMode,
    /// None: as the node's as a whole.
    pub fast_path: Option<FastPathSetting>,
    pub extensions: PoolExtensions,
}

/// `BlockAffinity`: which node owns which block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockAffinity {
    pub state: AffinityState,
    pub node: String,
    pub cidr: Prefix,
    pub deleted: bool,
    /// False for a virtual affinity, which belongs to no node.
    pub host: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AffinityState {
    /// Also where the document says nothing.
    #[default]
    Confirmed,
    Pending,
    PendingDeletion,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Encapsulation {
    #[default]
    Never,
    Always,
    CrossSubnet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum AllowedUse {
    Workload,
    Tunnel,
    LoadBalancer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum AssignmentMode {
    #[default]
    Automatic,
    Manual,
}

/// As resources write it.
impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Encapsulation::Never => "Never",
            Encapsulation::Always => "Always",
            Encapsulation::CrossSubnet => "CrossSubnet",
        })
    }
}

/// As resources write it.
impl fmt::Display for AssignmentMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            AssignmentMode::Automatic => "Automatic",
            AssignmentMode::Manual => "Manual",
        })
    }
}

/// How a peer rewrites the next hop of what it sends; `Auto` is BGP's own rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NextHopMode {
    #[default]
    Auto,
    #[serde(rename = "self")]
    SelfAddress,
    Keep,
}

/// Where a password stands: a key in a secret. Never the password itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct SecretKey {
    pub name: String,
    pub key: String,
}

/// An address on a link, with the length of the link's prefix: `192.168.80.121/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interface<A> {
    pub addr: A,
    pub len: u8,
}

impl<A: Copy + Into<IpAddr>> Interface<A> {
    /// The prefix of the link.
    pub fn network(self) -> Prefix {
        let addr = self.addr.into();
        // The reader checks the length; a longer one can only mean the address alone.
        Prefix::new(addr, self.len).unwrap_or(Prefix::host(addr))
    }
}

impl<A: fmt::Display> fmt::Display for Interface<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// `spec.peerIP`: `192.0.2.1`, `192.0.2.1:1790` or `[2001:db8::1]:1790`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIp {
    pub addr: IpAddr,
    pub port: Option<u16>,
}
