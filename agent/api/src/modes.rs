//! What of the fast path is on, by pool and by interface, and why: part of `GET /v1/dataplane`.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Modes {
    /// In the plan's order.
    pub pools: Vec<PoolMode>,
    /// Of interfaces with programs of ours.
    pub interfaces: Vec<InterfaceMode>,
    /// Rules of the host that keep packets with the stack, each with where it stands and what follows from it.
    pub found: Vec<String>,
    /// Settings that are for nothing here, and where the guard is used what was set in the kernel for it.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolMode {
    /// The IPPool.
    pub name: String,
    pub cidr: String,
    /// "off", "guarded" or "unguarded".
    pub mode: String,
    /// One sentence.
    pub reason: String,
    /// RFC 3339: since when it is so.
    pub since: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceMode {
    pub name: String,
    /// "off", or null: as the pools of the packets that come by it.
    pub mode: Option<String>,
    /// One sentence, where it has a mode of its own.
    pub reason: Option<String>,
    /// "Strict", "Loose" or "Off" of a pod's interface; null: an uplink, where it does not apply.
    pub source_check: Option<String>,
    /// RFC 3339: since when mode and source check are so.
    #[serde(default)]
    pub since: Option<String>,
}
