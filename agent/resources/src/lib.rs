//! Calico's resources (`projectcalico.org/v3`) as Manx understands them: read from YAML or JSON text with the
//! place of every field, validated, kept in a consistent [`Snapshot`], and turned into what one node has to do
//! by [`plan()`], a pure function. No I/O, no clock, no async: where resources live and when they change is
//! `manx-datastore`'s business, and what a plan does to the network is `manxd`'s.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod admit;
mod by_name;
mod change;
mod duration;
mod edit;
mod emit;
mod fields;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod kind;
mod lint;
mod nearest;
mod patch;
mod plan;
mod problem;
mod read;
mod remedy;
mod selector;
mod snapshot;
pub mod spec;
mod stored;
mod tree;

pub use admit::admit;
pub use change::{Change, Cut, NodeSessions, change, unreached};
pub use edit::edit;
pub use emit::to_yaml;
pub use kind::{Key, Kind};
pub use lint::{Finding, Gravity, Rule, lint};
pub use nearest::nearest;
pub use patch::{PatchError, PatchKind, parse_patch, patch, read_document};
pub use plan::{
    AddPath, BfdPlan, CommunityPlan, Dial, FastPathPlan, FastPathSetting, ForInterfaces, LocalWorkload,
    MaxPrefixes, Multipath, NextHopMode, NodePlan, OwnAddress, PeerKind, PeerPlan, PlanError, Planner,
    PoolPlan, PoolWrite, RangeAs, RangePlan, Reply, Role, SecretKey, SourceCheck, SpeakerPlan, Warning,
    WhyForwarded, plan, plan_all, router_id_of_name, with_workloads,
};
pub use problem::{Problem, Severity};
pub use read::{Collected, Document, Parsed, collect, combine, parse};
pub use selector::{ParseSelectorError, Selector};
pub use snapshot::{Metadata, Object, Resource, Snapshot};
pub use spec::AffinityState;
pub use stored::{
    parse_stored, stored_key, stored_key_of, stored_prefixes, stored_prefixes_with, stored_value,
};
