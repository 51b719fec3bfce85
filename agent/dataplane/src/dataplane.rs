//! The dataplane as the daemon drives it: kernel events and best paths in; FIB writes, changes for the eBPF map
//! and next-hop changes for the speaker out.
//!
//! ```text
//! loop {
//!     select! { kernel = dataplane.changed() => kernel?, _ = sleep_until(dataplane.next_wakeup()) => (), … }
//!     let step = dataplane.step(Instant::now());      // bounded; again while step.more
//!     // step.next_hops → speaker, step.map → eBPF sink, step.links → eBPF sink, step.reports → log
//! }
//! ```

use std::{io, time::Instant};

use manx_net::Prefix;

use crate::{
    fib::{AuditReport, FibError, FibRoute, FibState, FibStatus},
    kernel::Link,
    resolve::{Gateway, Resolution},
    route::Route,
    table::{Delta, Plan},
};

#[derive(Clone, Debug)]
pub struct Config {
    /// Manx's own number in the `protocol` field of its routes; 77 unless the fleet looks for another.
    pub protocol: u8,
    /// The routing table for our routes; 254 is `main`.
    pub table: u32,
    /// The metric of our routes; `None` leaves it to the kernel (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// Regular expression for uplinks; Calico's `bpfDataIfacePattern` by default.
    pub uplinks: String,
    /// What the names of pod interfaces begin with.
    pub pod_prefix: String,
    /// Receive buffer of the event socket, in bytes. Overflow costs a dump, not correctness.
    pub receive_buffer: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("\"{pattern}\" is not a regular expression for interface names: {source}")]
    Pattern { pattern: String, source: regex_lite::Error },
    #[error("protocol {0} belongs to the kernel; choose 5 to 255")]
    Protocol(u8),
    #[error("cannot watch the kernel's routes: {0}")]
    Netlink(#[from] io::Error),
}

/// Something worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Said once for each pool after a plan: its mode asks for encapsulation, so its routes are not written.
    PoolNotWritten { pool: String },
    /// Said once for each pool after a plan: CrossSubnet, and this route's next hop is behind a router.
    PoolNotOnLink { pool: String, prefix: Prefix },
    /// A route could not be written; it is tried again. Said when the error changes.
    NotInstalled { prefix: Prefix, error: FibError },
    /// A route that could not be written is in the FIB now.
    Recovered { prefix: Prefix },
    /// Somebody else deleted or changed this route of ours; it has been queued to be written again.
    /// `netlink_port` is mostly the process id of the one who did it, 0 is the kernel.
    Tampered { prefix: Prefix, netlink_port: u32 },
    /// The kernel dropped events (ENOBUFS); everything was read again.
    Resynchronised,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// New, or anything about it changed.
    Present(Link),
    Gone {
        ifindex: u32,
        name: String,
    },
}

/// What one call to [`Dataplane::step`] did.
#[derive(Debug, Default)]
pub struct Step {
    /// For the eBPF map, in the order in which it may be applied.
    pub map: Delta,
    /// Watched next hops whose resolution changed.
    pub next_hops: Vec<(Gateway, Resolution)>,
    pub links: Vec<LinkChange>,
    pub reports: Vec<Report>,
    /// FIB writes remain that could be done now: call again soon.
    pub more: bool,
}

#[derive(Debug)]
pub struct Dataplane {}

#[allow(unused_variables)]
impl Dataplane {
    /// Subscribes to the kernel's events in this thread's network namespace, reads everything, and takes over the
    /// routes of our protocol that an earlier run left; they stay until [`Self::finish_startup`]. Must be called
    /// inside a tokio runtime with I/O enabled.
    pub fn open(config: Config) -> Result<Dataplane, OpenError> {
        todo!()
    }

    /// Pools and own blocks, as a whole; what did not change is not touched.
    pub fn configure(&mut self, plan: Plan) {
        todo!()
    }

    /// The best paths' next hops for a prefix; none withdraws it.
    pub fn set_path(&mut self, prefix: Prefix, next_hops: Vec<Gateway>) {
        todo!()
    }

    /// Resolves a next hop now, and reports its changes in [`Step::next_hops`] from now on.
    pub fn watch(&mut self, gateway: Gateway) -> Resolution {
        todo!()
    }

    pub fn unwatch(&mut self, gateway: Gateway) {
        todo!()
    }

    /// Waits for the kernel to say something and takes it in. Cancel-safe.
    pub async fn changed(&mut self) -> io::Result<()> {
        todo!()
    }

    /// Carries out what is due: recomputes, writes a bounded number of routes, and says what changed.
    pub fn step(&mut self, now: Instant) -> Step {
        todo!()
    }

    /// When `step` wants to be called even if nothing happens.
    pub fn next_wakeup(&self) -> Option<Instant> {
        todo!()
    }

    /// Everything has been learned: routes of an earlier run that nobody claimed are removed by the next steps.
    pub fn finish_startup(&mut self) {
        todo!()
    }

    /// Compares what the kernel has with what we believe it has, and queues repairs.
    pub fn audit(&mut self) -> io::Result<AuditReport> {
        todo!()
    }

    /// What the eBPF map should hold, whole, in the order of a delta's upserts.
    pub fn map_routes(&self) -> Vec<Route> {
        todo!()
    }

    pub fn links(&self) -> impl Iterator<Item = &Link> {
        std::iter::empty()
    }

    /// The routes of our protocol as the kernel has them now, all tables, both families.
    pub fn read_back(&mut self) -> io::Result<Vec<FibRoute>> {
        todo!()
    }

    /// How far the FIB sink is with this prefix; `None` if it neither wants nor holds it.
    pub fn fib_state(&self, prefix: Prefix) -> Option<FibState> {
        todo!()
    }

    pub fn fib_status(&self) -> FibStatus {
        todo!()
    }
}

/// Deletes every route of `protocol` in all tables of this thread's network namespace, and says how many.
pub fn cleanup(protocol: u8) -> io::Result<usize> {
    let _ = protocol;
    todo!()
}
