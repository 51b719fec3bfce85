//! `/v1/dataplane/routes`, `/v1/dataplane/counters` and `/v1/dataplane/top`: what is in the eBPF maps, and what packets
//! met there.

use std::net::IpAddr;

use manx_net::Prefix;
use serde::{Deserialize, Serialize};

/// The eBPF maps' side of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapRoutes {
    pub node: String,
    /// Where a limit cut the table: ask for what comes after this prefix.
    #[serde(default)]
    pub next: Option<Prefix>,
    /// Sorted by prefix.
    pub routes: Vec<MapEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapEntry {
    pub prefix: Prefix,
    pub action: MapAction,
    /// Several: balanced by flow.
    #[serde(default)]
    pub next_hops: Vec<MapNextHop>,
    /// Of a pod: the host's side of its veth.
    pub interface: Option<String>,
    /// Of a pod; absent where it is not known, or of no use to the programs: then the stack delivers.
    pub mac: Option<String>,
    /// The IPPool's name.
    pub pool: Option<String>,
    /// That the programs carried or dropped, since this prefix got a counter. Absent if it has none.
    pub counts: Option<Tally>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MapAction {
    Via,
    /// To a pod of this node.
    Local,
    /// A block or pool of ours: dropped if the kernel's own routes say the same.
    Blackhole,
    /// Asked for by an operator or by RFC 7999's community.
    BlackholeExplicit,
    /// The stack answers with an ICMP error.
    Unreachable,
    /// Left to the stack.
    Pass,
}

impl MapAction {
    pub const ALL: [MapAction; 6] = [
        MapAction::Via,
        MapAction::Local,
        MapAction::Blackhole,
        MapAction::BlackholeExplicit,
        MapAction::Unreachable,
        MapAction::Pass,
    ];

    /// As in a query.
    pub fn name(self) -> &'static str {
        match self {
            MapAction::Via => "via",
            MapAction::Local => "local",
            MapAction::Blackhole => "blackhole",
            MapAction::BlackholeExplicit => "blackholeExplicit",
            MapAction::Unreachable => "unreachable",
            MapAction::Pass => "pass",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapNextHop {
    pub address: IpAddr,
    pub interface: String,
}

/// Packets, those of a GSO packet each for itself, and their octets from the IP header on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    pub packets: u64,
    pub bytes: u64,
}

/// Packets by verdict on one interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceCounters {
    pub interface: String,
    pub ifindex: u32,
    pub program: String,
    pub verdicts: Vec<super::Counter>,
}

/// `GET /v1/dataplane/counters/prefixes` and `/v1/dataplane/counters/nexthops`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tallies {
    pub node: String,
    /// The most packets first; those that nothing was counted for are left out, but for next hops that do not answer.
    pub rows: Vec<NamedTally>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedTally {
    /// A prefix, a next hop with its interface, or "others".
    pub name: String,
    #[serde(flatten)]
    pub counts: Tally,
    /// Since when a next hop does not answer: the stack has its packets, of which none is counted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent_since: Option<String>,
}

/// Rates between two looks at the counters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Top {
    pub node: String,
    /// Of the second look.
    pub at: String,
    /// Between the looks, milliseconds.
    pub interval_ms: u64,
    /// By program and verdict.
    pub reasons: Vec<Rate>,
    pub prefixes: Vec<Rate>,
    pub next_hops: Vec<Rate>,
    pub interfaces: Vec<Rate>,
}

/// The busiest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    pub name: String,
    pub packets_per_second: f64,
    /// Absent where octets are not counted.
    pub bits_per_second: Option<f64>,
}
