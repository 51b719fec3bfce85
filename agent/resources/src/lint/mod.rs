//! What is wrong with the resources of a whole cluster, before anybody acts on them: each with the consequence in one
//! sentence, and what to write instead. [`lint()`] is a pure function of a snapshot. A node's own view is its plan's
//! [`Warning`](crate::Warning)s.

mod blocks;
mod felix;
mod peers;
mod reach;
mod sessions;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::{
    Key, Kind, Snapshot,
    plan::{Cluster, Index},
};
pub(crate) use reach::Network;
pub(crate) use sessions::Sessions;

/// How bad it is. The worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Gravity {
    /// Pods cannot be reached, or the wrong ones are.
    Error,
    /// Something does not do what its author may expect, or will not for long.
    Warning,
}

impl fmt::Display for Gravity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Gravity::Error => "error",
            Gravity::Warning => "warning",
        })
    }
}

/// What a finding is about. The name is for programs, and stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    AsAssumed,
    AsMismatch,
    BlockClaimedTwice,
    BlockInDisabledPool,
    BlockOfUnknownNode,
    BlockOutsidePools,
    BlockSize,
    BridgeAddress,
    DuplicatePeer,
    DuplicateRange,
    Encapsulated,
    FelixBpf,
    FelixPrograms,
    FelixRoutes,
    LargeMesh,
    NetworkManagerPods,
    NetworkdForeign,
    NoAddress,
    NoPeers,
    NoOwnAddress,
    OneReflector,
    OneSided,
    PoolsOverlap,
    PriorityMismatch,
    RoutingDaemon,
    SelectsNobody,
    ServiceInPool,
    SharedAddress,
    SharedRouterId,
    UnknownFilter,
    UnknownNode,
    Unreached,
    UnusedFilter,
    WithoutEffect,
    WrongAs,
    WrongPort,
}

impl Rule {
    pub const fn name(self) -> &'static str {
        match self {
            Rule::AsAssumed => "as-assumed",
            Rule::AsMismatch => "as-mismatch",
            Rule::BlockClaimedTwice => "block-claimed-twice",
            Rule::BlockInDisabledPool => "block-in-disabled-pool",
            Rule::BlockOfUnknownNode => "block-of-unknown-node",
            Rule::BlockOutsidePools => "block-outside-pools",
            Rule::BlockSize => "block-size",
            Rule::BridgeAddress => "bridge-address",
            Rule::DuplicatePeer => "duplicate-peer",
            Rule::DuplicateRange => "duplicate-range",
            Rule::Encapsulated => "encapsulated",
            Rule::FelixBpf => "felix-bpf",
            Rule::FelixPrograms => "felix-programs",
            Rule::FelixRoutes => "felix-routes",
            Rule::LargeMesh => "large-mesh",
            Rule::NetworkManagerPods => "networkmanager-pods",
            Rule::NetworkdForeign => "networkd-foreign",
            Rule::NoAddress => "no-address",
            Rule::NoPeers => "no-peers",
            Rule::NoOwnAddress => "no-own-address",
            Rule::OneReflector => "one-reflector",
            Rule::OneSided => "one-sided",
            Rule::PoolsOverlap => "pools-overlap",
            Rule::PriorityMismatch => "priority-mismatch",
            Rule::RoutingDaemon => "routing-daemon",
            Rule::SelectsNobody => "selects-nobody",
            Rule::ServiceInPool => "service-in-pool",
            Rule::SharedAddress => "shared-address",
            Rule::SharedRouterId => "shared-router-id",
            Rule::UnknownFilter => "unknown-filter",
            Rule::UnknownNode => "unknown-node",
            Rule::Unreached => "unreached",
            Rule::UnusedFilter => "unused-filter",
            Rule::WithoutEffect => "without-effect",
            Rule::WrongAs => "wrong-as",
            Rule::WrongPort => "wrong-port",
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub gravity: Gravity,
    pub rule: Rule,
    /// What has to be changed, the likeliest first. `BGPConfiguration/default` also where that object does not exist.
    pub resources: Vec<Key>,
    /// What is so, and what follows.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// The nodes that it concerns, sorted; empty where it concerns all.
    pub nodes: Vec<String>,
}

/// Where findings are collected.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn error(
        &mut self,
        rule: Rule,
        resources: Vec<Key>,
        nodes: Vec<String>,
        message: String,
        remedy: String,
    ) {
        self.0.push(Finding { gravity: Gravity::Error, rule, resources, message, remedy, nodes });
    }

    fn warn(&mut self, rule: Rule, resources: Vec<Key>, nodes: Vec<String>, message: String, remedy: String) {
        self.0.push(Finding { gravity: Gravity::Warning, rule, resources, message, remedy, nodes });
    }
}

/// Everything that is wrong, the worst first.
pub fn lint(snapshot: &Snapshot) -> Vec<Finding> {
    let index = Index::new(snapshot, "");
    let cluster = Cluster::new(snapshot, &index);
    let sessions = Sessions::of(&cluster);
    let mut found = Findings::default();
    peers::nodes(&cluster, &mut found);
    peers::router_ids(&cluster, &mut found);
    peers::rules(&cluster, &mut found);
    peers::filters(snapshot, &mut found);
    peers::without_effect(snapshot, &mut found);
    sessions::two_ends(&cluster, &sessions, &mut found);
    sessions::derived(&cluster, &sessions, &mut found);
    reach::reflectors(&cluster, &sessions, &mut found);
    reach::unreached(&cluster, &sessions, &mut found);
    felix::beside(snapshot, &mut found);
    blocks::pools(snapshot, &mut found);
    blocks::blocks(&cluster, &mut found);
    let mut found = found.0;
    found.sort();
    found
}

fn default_configuration() -> Key {
    Key::new(Kind::BgpConfiguration, "default")
}

/// The first few names, and how many more there are.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    const SHOWN: usize = 3;
    let mut text = names.iter().take(SHOWN).map(AsRef::as_ref).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}
