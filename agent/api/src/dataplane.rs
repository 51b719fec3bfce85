//! `GET /v1/dataplane` and `/v1/dataplane/counters`: the programs, where they are attached, and what they did.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Audit, InterfaceCounters, Modes, Repair, RepairCount};

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
    /// The same by pool and by interface.
    #[serde(default)]
    pub modes: Modes,
    pub interfaces: Vec<InterfaceStatus>,
    pub maps: Vec<MapStatus>,
    /// Routes that a sink could not take, each with its cause.
    pub failures: Vec<String>,
    /// Next hops in use that do not answer.
    #[serde(default)]
    pub silent_next_hops: Vec<SilentNextHop>,
    /// What others did to what is ours and was put right, since the start.
    pub repairs: u64,
    /// The same by kind; kinds that never happened are left out.
    #[serde(default)]
    pub repairs_by_kind: Vec<RepairCount>,
    /// The last of them, the newest first.
    #[serde(default)]
    pub last_repairs: Vec<Repair>,
    /// The last audit, if there was one.
    #[serde(default)]
    pub audit: Option<Audit>,
}

/// A next hop whose neighbour entry is FAILED: the stack has its packets, and tells the senders, until it answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SilentNextHop {
    pub address: IpAddr,
    pub interface: String,
    pub since: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    pub name: String,
    pub ifindex: u32,
    /// "pod" or "uplink".
    pub role: String,
    /// When this manxd attached its programs, or took over those of the run before.
    #[serde(default)]
    pub since: Option<String>,
    /// Such as "pod_tc (TCX ingress)".
    pub programs: Vec<String>,
    /// The same programs by the kernel's numbers.
    #[serde(default)]
    pub links: Vec<ProgramLink>,
    /// Such as why XDP could not be attached.
    pub notes: Vec<String>,
}

/// A program of ours on an interface, as the kernel has it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramLink {
    pub program: String,
    /// As `bpftool prog show id` and `bpftool link show id` take them; 0 if the kernel has none.
    pub program_id: u32,
    pub link_id: u32,
    pub pin: String,
    /// "attached", or what somebody did to it: "detached", "unpinned", "replaced".
    pub state: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapStatus {
    pub name: String,
    pub entries: u64,
    pub max_entries: u64,
    /// Octets of kernel memory that it takes now; 0 if the kernel does not say.
    #[serde(default)]
    pub bytes: u64,
    /// Where bpftool finds it.
    pub pin: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    pub node: String,
    pub rows: Vec<CounterRow>,
    /// The same by interface; what interfaces counted that are gone is in `rows` only.
    #[serde(default)]
    pub interfaces: Vec<InterfaceCounters>,
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
    /// The verdict's name, such as `redirected_peer` or `ttl_expiring`.
    pub verdict: String,
    pub packets: u64,
    /// What became of the packets: "carried", "dropped", "to the stack".
    #[serde(default)]
    pub became: String,
    /// A sentence.
    #[serde(default)]
    pub meaning: String,
}
