//! `GET /v1/routes`: what BGP knows, what the kernel has and what the map has, side by side.

use std::net::IpAddr;

use manx_net::Prefix;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Routes {
    pub node: String,
    /// Where a limit was asked for and cut the table: ask for what comes after this prefix.
    #[serde(default)]
    pub next: Option<Prefix>,
    /// Sorted by prefix.
    pub routes: Vec<RouteRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    pub prefix: Prefix,
    /// What the table wants for it, such as "via 192.168.80.124 dev ens33", "blackhole" or "local cali1234".
    pub wanted: Option<String>,
    /// Why nothing is wanted though BGP has a path, such as an unreachable next hop.
    pub reason: Option<String>,
    pub bgp: Option<BgpRoute>,
    /// Our route in the kernel.
    pub fib: Option<FibRoute>,
    /// Somebody else's route in the kernel: the host route to a pod, an address of the host, or what stands where ours
    /// would.
    pub theirs: Option<String>,
    pub map: Option<MapRoute>,
    /// Every sink has what the table wants of it.
    pub agree: bool,
    /// Who wants it to be a blackhole, if it is to be one.
    #[serde(default)]
    pub blackhole: Option<super::BlackholeCause>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpRoute {
    /// True for what this node advertises itself.
    pub originated: bool,
    pub next_hop: Option<IpAddr>,
    /// Next hops that are used beside it (ECMP).
    pub other_next_hops: Vec<IpAddr>,
    /// The peer whose path is best.
    pub peer: Option<IpAddr>,
    pub as_path: String,
    pub local_pref: Option<u32>,
    /// RFC 4456: the router identifier of the speaker that brought it into the AS.
    pub originator_id: Option<IpAddr>,
    pub cluster_list: Vec<IpAddr>,
    /// Kept for a peer that restarts.
    pub stale: bool,
    /// The peers to which it was advertised.
    pub sent_to: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FibRoute {
    /// As iproute2 prints it, such as "via 192.168.80.124 dev ens33".
    pub text: String,
    /// The routing protocol's number.
    pub protocol: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapRoute {
    pub text: String,
}
