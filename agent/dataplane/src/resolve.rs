//! Whether and how a BGP next hop can be reached: a lookup in the kernel's other routes, never our own.
//!
//! The kernel stores every gateway already resolved to an interface and refuses one that is not a neighbour
//! there, so one lookup resolves any depth of recursion; a next hop behind a router becomes that router.

use std::net::IpAddr;

use serde::Serialize;

use crate::route::NextHop;

/// A next hop as BGP names it. A link-local address means something only together with its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    pub address: IpAddr,
    /// Needed for an IPv6 link-local address, ignored otherwise.
    pub ifindex: Option<u32>,
}

impl From<IpAddr> for Gateway {
    fn from(address: IpAddr) -> Gateway {
        Gateway { address, ifindex: None }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Resolution {
    Reachable {
        /// One or more, sorted and distinct: what to put into a route.
        next_hops: Vec<NextHop>,
        /// The metric of the kernel's route, for BGP's comparison of interior cost.
        metric: u32,
        /// The next hop is itself a neighbour on the interface.
        onlink: bool,
    },
    Unreachable(Unreachable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum Unreachable {
    #[error("no route to it")]
    NoRoute,
    #[error("it is this node's own address")]
    OwnAddress,
    #[error("its route is a blackhole, unreachable or prohibit route")]
    Refused,
    #[error("the interface towards it is down or has no carrier")]
    LinkDown,
    #[error("a link-local next hop without an interface")]
    NoInterface,
}
