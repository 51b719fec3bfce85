//! `GET /v1/explain?prefix=…` and `GET /v1/history?peer=…`: why a route is as it is, and what became of sessions.

use std::net::{IpAddr, Ipv4Addr};

use manx_net::Prefix;
use serde::{Deserialize, Serialize};

/// All that the node knows of one prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub node: String,
    /// The prefix that was asked for, or the longest that covers the address.
    pub prefix: Prefix,
    /// The best first, if there is one.
    pub paths: Vec<PathRow>,
    /// For each peer with a session that carries the prefix's family.
    pub sent: Vec<SentRow>,
    /// What became of it here.
    pub route: Option<super::RouteRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathRow {
    /// The peer that announced it; `None` is this node.
    pub from: Option<IpAddr>,
    pub best: bool,
    /// The best, and what is used beside it.
    pub used: bool,
    /// The peer's name for it, if it has names for its paths (RFC 7911).
    pub path_id: Option<u32>,
    /// Best, or the step at which it lost, or why it is not considered. A sentence's end.
    pub standing: String,
    /// The rule of a filter that let it in or refused it.
    pub rule: Option<String>,
    /// Kept for a peer that is away.
    pub stale: bool,
    pub next_hop: Option<IpAddr>,
    /// Of the kernel's way to the next hop.
    pub metric: Option<u32>,
    /// "IGP", "EGP" or "Incomplete".
    pub origin: String,
    pub as_path: String,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    /// The priority (a metric of Calico's) that LOCAL_PREF stands for, if it does.
    #[serde(default)]
    pub priority: Option<u32>,
    pub communities: Vec<String>,
    pub large_communities: Vec<String>,
    pub extended_communities: Vec<String>,
    pub originator_id: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
    /// The AS that said that it should go to customers only (RFC 9234).
    pub only_to_customers: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SentRow {
    pub peer: IpAddr,
    pub port: u16,
    /// Any path.
    pub sent: bool,
    /// A sentence's end.
    pub why: String,
    /// Each of the best paths, where the peer takes several for a prefix (RFC 7911).
    pub paths: Vec<SentPathRow>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SentPathRow {
    /// Our name for it, by which the peer has it if it is sent.
    pub path_id: u32,
    /// The peer that announced it; `None` is this node.
    pub from: Option<IpAddr>,
    /// That peer's name for it.
    pub received_id: Option<u32>,
    pub sent: bool,
    /// A sentence's end.
    pub why: String,
}
