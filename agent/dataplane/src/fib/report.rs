//! What the FIB sink says about itself: single routes, totals, and the result of an audit.

use manx_net::Prefix;
use serde::Serialize;

use super::FibError;
use crate::kernel::{KernelRoute, Leg, RouteKey, RouteKind};

/// A route of our protocol as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FibRoute {
    pub prefix: Prefix,
    pub table: u32,
    /// DSCP bits; ours have none.
    pub tos: u8,
    pub metric: u32,
    pub kind: RouteKind,
    pub legs: Vec<Leg>,
}

impl FibRoute {
    pub(super) fn key(&self) -> RouteKey {
        RouteKey { prefix: self.prefix, table: self.table, tos: self.tos, metric: self.metric }
    }

    pub(super) fn kernel_route(&self, protocol: u8) -> KernelRoute {
        KernelRoute { key: self.key(), protocol, kind: self.kind, legs: self.legs.clone(), special: false }
    }
}

/// What somebody else did to a route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Tampering {
    Deleted,
    /// It has other next hops, or another type.
    Changed,
    /// A foreign route was written in its place.
    Displaced,
    /// A route with our protocol, which we do not want.
    Added,
}

/// How the kernel differs from what the sink believes of one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Difference {
    /// Believed to be there.
    Missing,
    /// There, with other next hops or of another type.
    Changed,
    /// There with our protocol, and nobody wants it.
    Unwanted,
}

/// How far the sink is with one prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum FibState {
    /// The kernel has what is wanted.
    Installed,
    /// Left by an earlier run and not claimed again yet.
    Stale,
    /// A write or a removal is waiting for its turn.
    Pending,
    Failed(FibError),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FibStatus {
    pub installed: usize,
    pub stale: usize,
    /// Routes of our protocol with another table or metric, of an earlier run that was told otherwise.
    pub elsewhere: usize,
    pub pending: usize,
    pub failed: usize,
    /// Routes that somebody else deleted or changed and that were written again, since the start.
    pub repaired: u64,
    /// Messages written to the kernel, since the start.
    pub writes: u64,
}

/// What an audit found; all of it is queued for repair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditReport {
    pub checked: usize,
    /// Believed to be in the kernel, and not there.
    pub missing: Vec<Prefix>,
    /// There, with other next hops or of another type.
    pub changed: Vec<Prefix>,
    /// There with our protocol, and nobody wants them.
    pub unwanted: Vec<Prefix>,
}

impl AuditReport {
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.changed.is_empty() && self.unwanted.is_empty()
    }
}
