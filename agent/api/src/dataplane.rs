//! `GET /v1/dataplane` and `/v1/dataplane/counters`: the programs, where they are attached, and what they did.

use serde::{Deserialize, Serialize};

/// Whether the eBPF programs forward, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FastPath {
    /// As asked for by `--fast-path`: auto, on or off.
    pub mode: String,
    pub on: bool,
    /// One sentence.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneStatus {
    pub fast_path: FastPath,
    pub interfaces: Vec<InterfaceStatus>,
    pub maps: Vec<MapStatus>,
    /// Routes that a sink could not take, each with its cause.
    pub failures: Vec<String>,
    /// Routes of ours that others deleted or changed and that were put back, since the start.
    pub repairs: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    pub name: String,
    pub ifindex: u32,
    /// "pod" or "uplink".
    pub role: String,
    /// Such as "pod_tc (TCX ingress)".
    pub programs: Vec<String>,
    /// Such as why XDP could not be attached.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapStatus {
    pub name: String,
    pub entries: u64,
    pub max_entries: u64,
    /// Where bpftool finds it.
    pub pin: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    pub node: String,
    pub rows: Vec<CounterRow>,
}

/// All verdicts of one program, summed over processors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterRow {
    pub program: String,
    pub verdicts: Vec<Counter>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counter {
    /// The verdict's name, such as `redirect_peer` or `pass_ttl`.
    pub verdict: String,
    pub packets: u64,
}
