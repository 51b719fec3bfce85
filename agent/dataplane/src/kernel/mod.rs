//! What the kernel has: links, foreign routes and neighbours, kept current by netlink's multicast groups.

mod types;

pub use types::{KernelRoute, Leg, Link, Neighbour, Role, RouteKey, RouteKind};
