//! `POST /v1/dataplane/audit`, and what `/v1/dataplane` says of audits and repairs.

use serde::{Deserialize, Serialize};

/// BGP, table, kernel, maps and programs compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    pub node: String,
    /// When it began.
    pub at: String,
    pub took_ms: u64,
    /// By `manxctl dataplane audit`; else the time had come.
    pub asked_for: bool,
    /// Nothing was repaired.
    pub dry_run: bool,
    pub checked: Audited,
    /// How many differences there were.
    pub found: u64,
    /// The first of them.
    pub findings: Vec<AuditFinding>,
    /// What could not be compared, and why.
    pub errors: Vec<String>,
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audited {
    /// Prefixes that BGP, the table, the kernel or the maps know.
    pub prefixes: u64,
    /// Routes of our protocol in the kernel.
    pub fib: u64,
    /// Entries of the maps.
    pub map: u64,
    pub programs: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditFinding {
    pub found_in: FoundIn,
    pub fault: Fault,
    /// A prefix, or a program and its interface.
    pub what: String,
    /// What should be there; absent if nothing should.
    pub wanted: Option<String>,
    /// What was there; absent if nothing was.
    pub found: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FoundIn {
    /// The table did not have BGP's best path.
    Table,
    /// The kernel's routes.
    Fib,
    /// The eBPF maps.
    Map,
    /// The eBPF programs on interfaces.
    Programs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    Missing,
    Changed,
    Unwanted,
}

/// How often something was put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairCount {
    pub kind: RepairKind,
    pub count: u64,
    /// When last.
    pub last: String,
}

/// One thing that somebody did to what is ours, and that was put right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    pub at: String,
    pub kind: RepairKind,
    /// A prefix, a pin, or a program and its interface.
    pub what: String,
    /// Who did it, if the kernel told.
    pub by: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RepairKind {
    RouteDeleted,
    RouteChanged,
    /// A foreign route was written over ours, which waits until the place is free.
    RouteDisplaced,
    RouteAdded,
    MapEntryMissing,
    MapEntryChanged,
    MapEntryAdded,
    PinRemoved,
    /// Something else was pinned in the place of ours.
    PinReplaced,
    ProgramDetached,
    ProgramReplaced,
    /// The table had lost what BGP said: a fault of ours.
    PathLost,
}

impl RepairKind {
    pub fn text(self) -> &'static str {
        match self {
            RepairKind::RouteDeleted => "route deleted",
            RepairKind::RouteChanged => "route changed",
            RepairKind::RouteDisplaced => "route displaced",
            RepairKind::RouteAdded => "route added",
            RepairKind::MapEntryMissing => "map entry removed",
            RepairKind::MapEntryChanged => "map entry changed",
            RepairKind::MapEntryAdded => "map entry added",
            RepairKind::PinRemoved => "pin removed",
            RepairKind::PinReplaced => "pin replaced",
            RepairKind::ProgramDetached => "program detached",
            RepairKind::ProgramReplaced => "program replaced",
            RepairKind::PathLost => "path lost",
        }
    }
}
