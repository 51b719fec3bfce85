//! What manxd answers on its local API and manxctl reads: JSON over HTTP on a unix socket. Types only; the
//! server is in `manxd`, the client in `manxctl`. Field names are camelCase and are an interface: fields are
//! added, never renamed. Times are RFC 3339 with an offset.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod audit;
mod blackholes;
mod dataplane;
mod drain;
mod explain;
mod history;
mod modes;
mod ready;
mod routes;
mod status;
mod traffic;

pub use audit::{Audit, AuditFinding, Audited, Fault, FoundIn, Repair, RepairCount, RepairKind};
pub use blackholes::{
    AddBlackholes, AskedBy, BlackholeCause, BlackholeReply, BlackholeRow, Blackholes, BlackholesOrdered,
    DeleteBlackholes,
};
pub use dataplane::{
    Counter, CounterRow, Counters, DataplaneStatus, FastPath, InterfaceStatus, MapStatus, ProgramLink,
    SilentNextHop,
};
pub use drain::{Drain, DrainStage, DrainStatus};
pub use explain::{Explanation, PathRow, SentPathRow, SentRow};
pub use history::{Happened, History, HistoryEvent, HistoryPath, MoreOf};
pub use modes::{InterfaceMode, Modes, PoolMode};
pub use ready::Readiness;
pub use routes::{BgpRoute, FibRoute, MapRoute, RouteRow, Routes};
pub use status::{
    AddPath, BfdNeighbour, BfdStatus, Connection, DatastoreStatus, Dialler, Family, LeftoverStatus,
    NodeStatus, NotificationStatus, Ordered, PartingStatus, PeerKind, PeerStatus, RangeStatus, SessionState,
};

pub use traffic::{
    InterfaceCounters, MapAction, MapEntry, MapNextHop, MapRoutes, NamedTally, Rate, Tallies, Tally, Top,
};

use serde::{Deserialize, Serialize};

/// The socket that manxd serves and manxctl asks, if neither is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/manx/manx.sock";

/// Where manxd pins maps and links, if it is not told otherwise.
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/manx";

/// The socket by which manxd and the BFD process talk, if neither is told otherwise.
pub const DEFAULT_BFD_SOCKET: &str = "/run/manx/bfd.sock";

/// The paths that the local API answers: by GET, but for the orders.
pub mod path {
    /// [`super::NodeStatus`]
    pub const STATUS: &str = "/v1/status";
    /// 200 or 503, and text for people: whether this node is ready. `?format=json` answers [`super::Readiness`], always
    /// with 200.
    pub const READY: &str = "/readyz";
    /// 200 while the daemon's loop comes round, else 503.
    pub const LIVE: &str = "/livez";
    /// OpenMetrics text.
    pub const METRICS: &str = "/metrics";
    /// The running `NodePlan`, as `manxctl plan -o json` prints it.
    pub const PLAN: &str = "/v1/plan";
    /// [`super::Routes`]; `?limit=` rows at most, of those after the prefix `?after=`.
    pub const ROUTES: &str = "/v1/routes";
    /// [`super::Explanation`]; `?prefix=` takes a prefix or an address.
    pub const EXPLAIN: &str = "/v1/explain";
    /// [`super::History`]; `?peer=` takes an address, and without it all peers are told.
    pub const HISTORY: &str = "/v1/history";
    /// [`super::DataplaneStatus`]
    pub const DATAPLANE: &str = "/v1/dataplane";
    /// [`super::Counters`]
    pub const COUNTERS: &str = "/v1/dataplane/counters";
    /// [`super::MapRoutes`]; `?prefix=` (itself and what is inside; of an address what covers it), `?nextHop=`, `?action=`,
    /// `?limit=` rows at most, of those after the prefix `?after=`.
    pub const MAP_ROUTES: &str = "/v1/dataplane/routes";
    /// [`super::Tallies`]
    pub const PREFIX_COUNTERS: &str = "/v1/dataplane/counters/prefixes";
    /// [`super::Tallies`]
    pub const NEXT_HOP_COUNTERS: &str = "/v1/dataplane/counters/nexthops";
    /// [`super::Top`]; `?intervalMs=` between the two looks, `?limit=` rows of each kind. White space comes first.
    pub const TOP: &str = "/v1/dataplane/top";
    /// By POST, `?dryRun=true` to repair nothing. The document begins with white space while the audit goes on.
    /// [`super::Audit`]
    pub const AUDIT: &str = "/v1/dataplane/audit";
    /// By POST, `?peer=`: asks the peer for its routes again (RFC 2918). [`super::Ordered`]
    pub const REFRESH: &str = "/v1/peers/refresh";
    /// By POST, `?peer=&text=`: ends the session and opens none until [`ENABLE`], or until manxd starts again.
    /// [`super::Ordered`]
    pub const DISABLE: &str = "/v1/peers/disable";
    /// By POST, `?peer=`: [`super::Ordered`]
    pub const ENABLE: &str = "/v1/peers/enable";
    /// [`super::DrainStatus`]; by POST, `?text=&now=`: the node leaves.
    pub const DRAIN: &str = "/v1/drain";
    /// By POST: it comes back. [`super::DrainStatus`]
    pub const UNDRAIN: &str = "/v1/undrain";
    /// [`super::LogLevel`]; by POST, `?level=`: the log lets that through until manxd ends.
    pub const LOG_LEVEL: &str = "/v1/log-level";
    /// [`super::LogLines`]
    pub const LOG: &str = "/v1/log";
    /// [`super::Blackholes`]: those of operators and peers; `?all=true` also own blocks and closed pools.
    pub const BLACKHOLES: &str = "/v1/blackholes";
    /// By POST, [`super::AddBlackholes`]: all of them, or none with an error that names each that cannot be. Answers
    /// [`super::BlackholesOrdered`].
    pub const BLACKHOLE_ADD: &str = "/v1/blackholes/add";
    /// By POST, [`super::DeleteBlackholes`], likewise. Answers [`super::BlackholesOrdered`].
    pub const BLACKHOLE_DELETE: &str = "/v1/blackholes/delete";
}

/// What the log lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevel {
    /// A level, or directives such as `warn,manxd=debug`.
    pub level: String,
    /// What it was before an order.
    pub before: Option<String>,
}

/// The last lines of the log, oldest first, each with its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLines {
    pub lines: Vec<String>,
}

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// What was wrong and what to do.
    pub error: String,
}
