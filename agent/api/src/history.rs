//! What became of sessions, paths, routes and repairs, in their order.

use std::net::IpAddr;

use manx_net::Prefix;
use serde::{Deserialize, Serialize};

use crate::{Dialler, NotificationStatus, RepairKind, SessionState};

/// Oldest first. Bounded, for each kind by itself; the oldest go first, and it outlives a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    pub node: String,
    pub events: Vec<HistoryEvent>,
    /// Older events that were forgotten since this manxd started.
    pub forgotten: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEvent {
    /// Grows from one to the next, over restarts too.
    pub number: u64,
    pub at: String,
    /// The event that led to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<u64>,
    #[serde(flatten)]
    pub what: Happened,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Happened {
    /// manxd itself.
    Daemon { text: String },
    /// Other resources are in force.
    Resources { text: String },
    /// A session is in another state.
    Session {
        peer: IpAddr,
        port: u16,
        from: SessionState,
        to: SessionState,
        /// NOTIFICATIONs by name, with their text.
        cause: String,
        /// The NOTIFICATION that ended the connection, from whichever side.
        notification: Option<NotificationStatus>,
        dialled_by: Option<Dialler>,
    },
    /// Something to know of a peer whose session goes on.
    Warning { peer: IpAddr, port: u16, state: SessionState, text: String },
    /// A peer is no longer wanted, and what is kept of it.
    Parting { peer: IpAddr, port: u16, text: String },
    /// The path to a peer is there, or is no more (RFC 5880); the names of states.
    Bfd { peer: IpAddr, port: u16, from: Option<String>, to: String, cause: String },
    /// A next hop can be reached, or by another way, or cannot.
    NextHop { address: IpAddr, reachable: bool, text: String },
    /// Another path is the best, or there is none.
    Path { prefix: Prefix, path: Option<HistoryPath>, peer: Option<IpAddr>, cause: String },
    /// What the kernel and the map are to have for a prefix; null: nothing.
    Route { prefix: Prefix, wanted: Option<String> },
    /// The kernel does not take a route; null: it has it now.
    Refused { prefix: Prefix, error: Option<String> },
    /// Others changed what is ours, and it was put right.
    Repair { repair: RepairKind, of: String, by: Option<String> },
    /// So many more of the same at the same time, which are not kept one by one.
    More { of: MoreOf, count: u64, cause: String },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPath {
    /// The peer that announced it; null: this node.
    pub from: Option<IpAddr>,
    pub next_hops: Vec<IpAddr>,
    pub blackhole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MoreOf {
    Paths,
    Routes,
}

impl Happened {
    /// Whose session it is about.
    pub fn peer(&self) -> Option<(IpAddr, u16)> {
        match self {
            Happened::Session { peer, port, .. }
            | Happened::Warning { peer, port, .. }
            | Happened::Parting { peer, port, .. }
            | Happened::Bfd { peer, port, .. } => Some((*peer, *port)),
            _ => None,
        }
    }

    pub fn prefix(&self) -> Option<Prefix> {
        match self {
            Happened::Path { prefix, .. }
            | Happened::Route { prefix, .. }
            | Happened::Refused { prefix, .. } => Some(*prefix),
            Happened::Repair { of, .. } => of.parse().ok(),
            _ => None,
        }
    }
}
