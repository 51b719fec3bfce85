//! What one node has to do, given all resources: its peers, pools and own blocks. [`plan()`] is a pure function of
//! a snapshot and a node's name; equal snapshots give equal plans, byte for byte. How the peers come about is in
//! `derive`. The JSON form of [`NodePlan`] is an interface: camelCase, every key present, absent is null.

mod blackholes;
mod cluster;
pub(crate) mod derive;
mod fast_path;
mod index;
mod planner;
mod services;
mod speaker;
mod warning;
mod workloads;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use manx_net::{Asn, Prefix};
use serde::Serialize;

use crate::{
    Key, Object, Snapshot,
    nearest::nearest,
    spec::{self, AllowedUse, Encapsulation, Interface, IpPool},
};
pub(crate) use cluster::{Cluster, Family, NodeObject, address, cluster_id};
pub(crate) use derive::Derived;
pub(crate) use index::{Index, is_owned};

pub use crate::spec::{
    AddPath, FastPathSetting, ForInterfaces, MaxPrefixes, Multipath, NextHopMode, RangeAs, Reply, Role,
    SecretKey, SourceCheck,
};
pub use blackholes::WhyForwarded;
pub use fast_path::FastPathPlan;
pub use planner::Planner;
pub use speaker::SpeakerPlan;
pub use warning::Warning;
pub(crate) use warning::felix_beside;
pub use workloads::{LocalWorkload, with_workloads};

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
    /// Where to listen, at most one of each family; none: on every address.
    pub listen_addresses: Vec<IpAddr>,
    pub speaker: SpeakerPlan,
    pub fast_path: FastPathPlan,
    /// By address, then port; no two have the same address and port.
    pub peers: Vec<Arc<PeerPlan>>,
    /// Who else may dial, sorted by prefix. The longest counts, and `peers` come first.
    pub ranges: Vec<RangePlan>,
    /// The blocks that this node owns, sorted.
    pub blocks: Vec<Prefix>,
    /// All pools of the cluster, sorted by prefix.
    pub pools: Vec<PoolPlan>,
    /// Prefixes of services and load balancers, sorted: no pod has such an address, and nothing in them is a blackhole.
    pub services: Vec<Prefix>,
    /// Of those what this node announces, sorted.
    pub announced_services: Vec<Prefix>,
    /// Others' routes inside of these are passed on, too. Sorted.
    pub passed_services: Vec<Prefix>,
    /// Communities that routes within a prefix get on their way out; by prefix, and of nested ones each has those around it.
    pub communities: Vec<CommunityPlan>,
    pub warnings: Vec<Warning>,
    /// The node's own addresses. Not part of the JSON form: its peers' `sourceAddress` is.
    #[serde(skip)]
    pub address: OwnAddress,
    /// The BGPFilters that the peers name, as far as they exist. Not part of the JSON form: the peers' `filters`
    /// name them.
    #[serde(skip)]
    pub filters: BTreeMap<String, Arc<Object<spec::BgpFilter>>>,
}

impl NodePlan {
    /// The peers, and what holds for those of each range.
    pub fn every_peer(&self) -> impl Iterator<Item = &PeerPlan> {
        self.peers.iter().map(Arc::as_ref).chain(self.ranges.iter().map(|range| &range.settings))
    }

    /// Peers from this address on.
    fn peers_from(&self, address: IpAddr) -> impl Iterator<Item = &PeerPlan> {
        let first = self.peers.partition_point(|peer| peer.address < address);
        self.peers.iter().skip(first).map(Arc::as_ref)
    }

    fn peers_at(&self, address: IpAddr) -> impl Iterator<Item = &PeerPlan> {
        self.peers_from(address).take_while(move |peer| peer.address == address)
    }
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
    /// The names of BGPFilter resources, in order; one that does not exist is skipped.
    pub filters: Vec<String>,
    pub max_prefixes: Option<MaxPrefixes>,
    /// Within these prefixes the peer's host routes with the community BLACKHOLE are blackholes (RFC 7999).
    pub blackholes: Vec<Prefix>,
    pub add_path: AddPath,
    /// This node's part in the peering (RFC 9234); None within an AS.
    pub local_role: Option<Role>,
    /// A peer that names no role of its own is refused.
    pub strict_role: bool,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// None: the path to the peer is not watched.
    pub bfd: Option<BfdPlan>,
    /// A router on a link of this node, by which the peer's address is reached.
    pub reachable_by: Option<IpAddr>,
    /// The rule that made this peer. `BGPConfiguration/default` for a mesh peer, also where that object does not
    /// exist: the mesh is its default.
    pub resource: Key,
}

/// How the path to a peer is watched (RFC 5880).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdPlan {
    /// In ms, for sending and for receiving.
    pub interval: u32,
    pub multiplier: u8,
    /// RFC 5883; false: over one hop (RFC 5881).
    pub multihop: bool,
}

/// Peers that are not known one by one: whoever dials from inside the range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RangePlan {
    pub range: Prefix,
    pub as_numbers: RangeAs,
    /// So many at once.
    pub limit: u32,
    /// What holds for each of them. Its address and AS stand for all of them.
    pub settings: PeerPlan,
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

/// What routes within a prefix get on their way to every peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommunityPlan {
    pub cidr: Prefix,
    pub communities: Vec<spec::Community>,
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
    /// None: as the node's as a whole.
    pub fast_path: Option<FastPathSetting>,
    /// What becomes of packets to addresses of the pool that lie in no block; null: they go where the node's other
    /// routes lead.
    pub unallocated_blocks: Option<Reply>,
    /// What becomes of packets to addresses of this node's blocks that no pod has.
    pub unassigned_addresses: Reply,
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

impl PoolWrite {
    /// The rule for a pool with these modes.
    pub fn of(ipip: Encapsulation, vxlan: Encapsulation) -> PoolWrite {
        match (ipip, vxlan) {
            (Encapsulation::Never, Encapsulation::Never) => PoolWrite::Always,
            (Encapsulation::Always, _) | (_, Encapsulation::Always) => PoolWrite::Never,
            _ => PoolWrite::OnLinkOnly,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("there is no Node \"{name}\"{remedy}")]
    UnknownNode { name: String, remedy: String },
}

/// The plan of the node that the Node resource `node` describes.
pub fn plan(snapshot: &Snapshot, node: &str) -> Result<NodePlan, PlanError> {
    let own = snapshot.node(node).ok_or_else(|| unknown_node(snapshot, node))?;
    let index = Index::new(snapshot, node);
    let cluster = Cluster::new(snapshot, &index);
    let derived = derive::peers(&cluster, own);
    Ok(assemble(&cluster, own, derived))
}

/// The plans of all nodes, by name.
pub fn plan_all(snapshot: &Snapshot) -> Vec<NodePlan> {
    let mut index = Index::new(snapshot, "");
    let mut plans = Vec::new();
    for own in snapshot.nodes() {
        index.see_as(own.name());
        let cluster = Cluster::new(snapshot, &index);
        let derived = derive::peers(&cluster, own);
        plans.push(assemble(&cluster, own, derived));
    }
    plans
}

/// The plan with these peers, and whatever else it says.
fn assemble(cluster: &Cluster<'_>, own: &NodeObject, derived: Derived) -> NodePlan {
    let (snapshot, node) = (cluster.snapshot, own.name());
    let Derived { peers, ranges, mut warnings, .. } = derived;
    let bgp = own.spec.bgp.as_ref();
    let address = OwnAddress { ipv4: bgp.and_then(|bgp| bgp.ipv4), ipv6: bgp.and_then(|bgp| bgp.ipv6) };
    let announced_services = services::announced(cluster, own);
    let mut pools: Vec<PoolPlan> =
        snapshot.ip_pools().map(|object| pool_plan(object.name(), &object.spec)).collect();
    pools.sort_by(|a, b| (a.cidr, &a.name).cmp(&(b.cidr, &b.name)));
    let mut plan = NodePlan {
        node: node.to_owned(),
        as_number: cluster.as_number_of(own),
        router_id: address.ipv4.map_or_else(|| router_id_of_name(node), |interface| interface.addr),
        cluster_id: cluster_id(own),
        listen_port: cluster.listen_port_of(own),
        listen_addresses: listen_addresses(snapshot, address),
        speaker: speaker::speaker(cluster, own),
        fast_path: fast_path::fast_path(cluster, own),
        peers,
        ranges,
        blocks: cluster.index.own_blocks().iter().copied().collect(),
        pools,
        services: blackholes::services(cluster),
        passed_services: services::passed_on(cluster, own, &announced_services),
        announced_services,
        communities: communities(cluster, own),
        warnings: Vec::new(),
        address,
        filters: BTreeMap::new(),
    };
    if cluster.has_filters() {
        let named = plan.every_peer().flat_map(|peer| &peer.filters);
        plan.filters =
            named.filter_map(|name| Some((name.clone(), snapshot.bgp_filter(name)?.clone()))).collect();
    }
    blackholes::decide(cluster, &mut plan, &mut warnings);
    warning::look_over(cluster, own, &plan, &mut warnings);
    warnings.sort();
    warnings.dedup();
    plan.warnings = warnings;
    plan
}

/// With `bindMode: NodeIP` the node's own, in a family without one nothing. A node without any address listens as without.
fn listen_addresses(snapshot: &Snapshot, own: OwnAddress) -> Vec<IpAddr> {
    if !snapshot.bgp_configuration("default").is_some_and(|object| object.spec.bind_node_ip) {
        return Vec::new();
    }
    let ipv4 = own.ipv4.map(|interface| IpAddr::V4(interface.addr));
    let ipv6 = own.ipv6.map(|interface| IpAddr::V6(interface.addr));
    ipv4.into_iter().chain(ipv6).collect()
}

/// A node's own prefixAdvertisements stand in the place of the cluster's.
fn communities(cluster: &Cluster<'_>, own: &NodeObject) -> Vec<CommunityPlan> {
    let of = |name: &str| {
        let object = cluster.snapshot.bgp_configuration(name)?;
        let advertisements = object.spec.prefix_advertisements.as_slice();
        (!advertisements.is_empty()).then_some(advertisements)
    };
    let said = of(&format!("node.{}", own.name())).or_else(|| of("default")).unwrap_or_default();
    let mut cidrs: Vec<Prefix> = said.iter().map(|advertisement| advertisement.cidr).collect();
    cidrs.sort();
    cidrs.dedup();
    let plan = |cidr: Prefix| {
        let mut communities = Vec::new();
        for advertisement in said.iter().filter(|advertisement| advertisement.cidr.covers(cidr)) {
            for community in &advertisement.communities {
                if !communities.contains(community) {
                    communities.push(*community);
                }
            }
        }
        CommunityPlan { cidr, communities }
    };
    cidrs.into_iter().map(plan).collect()
}

fn pool_plan(name: &str, pool: &IpPool) -> PoolPlan {
    PoolPlan {
        name: name.to_owned(),
        cidr: pool.cidr,
        ipip_mode: pool.ipip_mode,
        vxlan_mode: pool.vxlan_mode,
        nat_outgoing: pool.nat_outgoing,
        disabled: pool.disabled,
        disable_bgp_export: pool.disable_bgp_export,
        block_size: pool.block_size,
        allowed_uses: pool.allowed_uses.clone(),
        write: PoolWrite::of(pool.ipip_mode, pool.vxlan_mode),
        fast_path: pool.fast_path,
        unallocated_blocks: pool.extensions.unallocated_blocks,
        unassigned_addresses: pool.extensions.unassigned_addresses,
    }
}

/// FNV-1a over the name, for a node without an IPv4 address. Speakers older than RFC 6286 take an address that a host may
/// have and no other, so what would be multicast is put below (Calico's rule, whose hash is another).
pub fn router_id_of_name(name: &str) -> Ipv4Addr {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let [first, rest @ ..] = hash.max(1).to_be_bytes();
    let [second, third, fourth] = rest;
    Ipv4Addr::new(if first > 223 { first - 32 } else { first }, second, third, fourth)
}

fn unknown_node(snapshot: &Snapshot, name: &str) -> PlanError {
    let known: Vec<&str> = snapshot.nodes().map(|node| node.name()).collect();
    let remedy = match (nearest(name, known.iter().copied()), known.as_slice()) {
        (Some(near), _) => format!("; did you mean {near}?"),
        (None, []) => "; there are no Node resources at all".to_owned(),
        (None, few) if few.len() <= 5 => format!("; there are {}", few.join(", ")),
        (None, many @ [first, ..]) => format!("; there are {}, such as {first}", many.len()),
    };
    PlanError::UnknownNode { name: name.to_owned(), remedy }
}
