//! What the kernel has: links, foreign routes, neighbours and policy rules ([`KernelView`]), kept current by netlink's
//! multicast groups (`monitor`). Our own routes are not kept here; their changes are passed on to the FIB
//! sink, which knows what it wrote.

mod author;
pub(crate) mod monitor;
mod naming;
pub(crate) mod parse;
mod policy_rule;
mod prefixes;
mod routes;
mod types;
mod view;

pub use author::Author;
pub use naming::{DEFAULT_POD_PREFIX, DEFAULT_UPLINKS, Naming};
pub use policy_rule::PolicyRule;
pub(crate) use prefixes::{Lengths, within};
pub use routes::Routes;
pub use types::{KernelRoute, Leg, Link, Neighbour, Role, RouteKey, RouteKind};
pub use view::KernelView;
pub(crate) use view::{Changes, OwnEvent, RESYNC_RETRY};

/// Routing tables that every kernel has (`RT_TABLE_*`).
pub const TABLE_DEFAULT: u32 = 253;
pub const TABLE_MAIN: u32 = 254;
pub const TABLE_LOCAL: u32 = 255;
