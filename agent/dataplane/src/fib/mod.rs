//! The kernel FIB sink: keeps the kernel's routes of our protocol as the desired table wants them, and touches
//! no other.
//!
//! Every write is answered by the kernel, a few before the call returns and many by a thread of the sink's, so it knows
//! what is there; it learns of what others do to our routes from events, and compares with a dump where events cannot
//! tell (a link went down, events were lost, an audit). Multipath routes are written whole with RTA_MULTIPATH; replacing one
//! removes all legs of the old one in both families.

mod adopt;
mod audit;
mod error;
mod failing;
mod message;
mod report;
mod spec;
mod write;
mod writer;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use manx_net::Prefix;

use crate::{
    kernel::{Author, KernelRoute, OwnEvent, RouteKey},
    netlink::Requests,
    route::{Action, NextHop},
    table::Delta,
};
pub use error::FibError;
use failing::Failing;
pub use report::{AuditReport, Difference, FibRoute, FibState, FibStatus, Tampering};
use spec::Spec;
use writer::{Answer, Writer};

pub use adopt::Relabelled;
pub(crate) use adopt::relabel;
pub(crate) use audit::{cleanup, read_back};

/// Changes written to the kernel in one call of [`FibSink::step`] where there is no thread for them.
const BUDGET: usize = 1024;
/// Changes that are answered together.
const BATCH: usize = 512;
/// Changes that are on their way: enough for the kernel while the loop is busy with something else for some 80 ms.
const DEPTH: usize = 16 * 1024;
/// Replacements of them: NLM_F_REPLACE does not look at the protocol, so a foreign route that comes before the kernel has
/// taken one is lost. Enough for the thread not to wait for the loop.
const REPLACES: usize = 2 * BATCH;
/// Removals that are looked at in one step while there is something to write: each is compared with all of that.
const REMOVALS_COMPARED: usize = 1024;
/// After a reading for the sake of what others changed while ours was on its way, the next is so much later. Who
/// keeps at it must not cost a dump each time.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// A failed write is repeated after this long, doubled each time up to [`RETRY_LONGEST`].
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(60);
/// What the kernel gives an IPv6 route that asks for no metric (`IP6_RT_PRIO_USER`).
const METRIC_V6: u32 = 1024;

/// Whose place in the table is ours to write to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub protocol: u8,
    pub table: u32,
    pub metric: Option<u32>,
}

impl Place {
    pub fn key(&self, prefix: Prefix) -> RouteKey {
        let default = if prefix.is_v4() { 0 } else { METRIC_V6 };
        let metric = match self.metric {
            // IPv6 knows no metric 0: it means the default.
            Some(0) | None => default,
            Some(metric) => metric,
        };
        RouteKey { prefix, table: self.table, tos: 0, metric }
    }
}

/// What happened that is worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Failed(Prefix, FibError),
    Recovered(Prefix),
    Tampered {
        prefix: Prefix,
        how: Tampering,
        by: Option<Author>,
    },
    /// The thread that writes is no more, and why.
    WriterEnded(String),
}

#[derive(Debug)]
struct Failure {
    error: FibError,
    pause: Duration,
}

/// What is in the kernel, of our protocol, in our place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    Nothing,
    Route(Arc<Spec>),
    /// A route that we would never write: replaced or removed all the same, since it carries our protocol.
    Odd,
}

impl Held {
    fn is(&self, wanted: &Option<Arc<Spec>>) -> bool {
        match (self, wanted) {
            (Held::Nothing, None) => true,
            (Held::Route(held), Some(wanted)) => held == wanted,
            _ => false,
        }
    }
}

#[derive(Debug, Default)]
struct Entry {
    wanted: Option<Arc<Spec>>,
    held: Held,
    /// Held since before this run; it stays until the end of learning even if nobody wants it.
    adopted: bool,
    /// It was right, and somebody else deleted or changed it.
    damaged: bool,
    /// In one of the queues.
    queued: bool,
    /// Being written or removed: `held` is what was there before.
    flying: bool,
    /// Somebody else changed it meanwhile.
    disturbed: bool,
    failure: Option<Box<Failure>>,
}

#[derive(Debug)]
pub(crate) struct FibSink {
    place: Place,
    routes: BTreeMap<Prefix, Entry>,
    /// Routes of our protocol in other places (another table or metric, by an earlier configuration). They go at the
    /// end of learning.
    strays: BTreeSet<RouteKey>,
    /// Those of them that are being removed.
    leaving: BTreeSet<RouteKey>,
    /// Longest first: a more specific route is there before the blackhole that surrounds it.
    to_write: BTreeSet<(Reverse<u8>, Prefix)>,
    /// Shortest first, and nothing that is to be written inside or around it: it leaves after it.
    to_remove: BTreeSet<(u8, Prefix)>,
    /// Removals up to here were looked at in the last step.
    compared: Option<(u8, Prefix)>,
    failing: Failing,
    learned: bool,
    /// A refused write may have changed something: compare with the kernel.
    in_doubt: bool,
    /// Somebody changed what was on its way, and who was first is open: compare with the kernel then.
    settle_due: Option<Instant>,
    /// The last such comparison.
    settled_at: Option<Instant>,
    specs: HashSet<Arc<Spec>>,
    events: Vec<Event>,
    /// Prefixes of which anything changed since an audit began; see [`Self::note_changes`].
    noted: Option<HashSet<Prefix>>,
    repaired: u64,
    writes: u64,
    /// `None`: whoever calls writes everything.
    writer: Option<Writer>,
    /// So many changes are not worth its while.
    at_once: usize,
    /// It has ended, and what it was given last is open.
    lost_writer: bool,
    /// Come from the thread, and not taken in yet.
    answers: Vec<Answer>,
    /// Changes that are not answered yet.
    flying: usize,
    /// Those of them that are replacements.
    replacing: usize,
    /// What is queued has to wait for answers.
    waits: bool,
}

impl FibSink {
    /// Adopts what an earlier run left.
    pub fn open(place: Place, requests: &mut Requests) -> io::Result<FibSink> {
        let mut sink = FibSink {
            place,
            routes: BTreeMap::new(),
            strays: BTreeSet::new(),
            leaving: BTreeSet::new(),
            to_write: BTreeSet::new(),
            to_remove: BTreeSet::new(),
            compared: None,
            failing: Failing::default(),
            learned: false,
            in_doubt: false,
            settle_due: None,
            settled_at: None,
            specs: HashSet::new(),
            events: Vec::new(),
            noted: None,
            repaired: 0,
            writes: 0,
            writer: None,
            at_once: 0,
            lost_writer: false,
            answers: Vec::new(),
            flying: 0,
            replacing: 0,
            waits: false,
        };
        for route in audit::dump_own(requests, place.protocol)? {
            let prefix = route.key.prefix;
            if route.key == place.key(prefix) {
                let held = sink.held(&route);
                sink.routes.insert(prefix, Entry { held, adopted: true, ..Entry::default() });
            } else {
                sink.strays.insert(route.key);
            }
        }
        Ok(sink)
    }

    /// From now on a thread writes, except what are at most `at_once` changes. Returns the port of its socket.
    pub fn start_writer(&mut self, at_once: usize) -> io::Result<u32> {
        let (writer, port) = Writer::start(self.place)?;
        self.writer = Some(writer);
        self.at_once = at_once;
        Ok(port)
    }

    /// One copy of each set of next hops, however many routes share it.
    fn intern(&mut self, spec: Spec) -> Arc<Spec> {
        if let Some(known) = self.specs.get(&spec) {
            return known.clone();
        }
        if self.specs.len().is_power_of_two() {
            self.specs.retain(|spec| Arc::strong_count(spec) > 1);
        }
        let spec = Arc::new(spec);
        self.specs.insert(spec.clone());
        spec
    }

    fn held(&mut self, route: &KernelRoute) -> Held {
        match Spec::found(route) {
            Some(spec) => Held::Route(self.intern(spec)),
            None => Held::Odd,
        }
    }

    /// What the table wants from now on.
    pub fn want(&mut self, delta: Delta) {
        let mut last: Option<(Action, Arc<Spec>)> = None;
        for route in delta.upserts {
            let spec = match &last {
                Some((action, spec)) if *action == route.action => spec.clone(),
                _ => {
                    let Some(spec) = Spec::wanted(&route.action) else { continue };
                    let spec = self.intern(spec);
                    last = Some((route.action, spec.clone()));
                    spec
                }
            };
            self.routes.entry(route.prefix).or_default().wanted = Some(spec);
            self.note(route.prefix);
            self.forgive(route.prefix);
            self.schedule(route.prefix);
        }
        for prefix in delta.removals {
            if let Some(entry) = self.routes.get_mut(&prefix) {
                entry.wanted = None;
                // Claimed by this run and given up by it: not an adopted route any more.
                entry.adopted = false;
            }
            self.note(prefix);
            self.forgive(prefix);
            self.schedule(prefix);
        }
    }

    /// Routes of an earlier run that lead by gateways and that nobody has claimed so far.
    pub fn leftovers(&self) -> impl Iterator<Item = (Prefix, &[NextHop])> {
        self.routes.iter().filter(|(_, entry)| entry.adopted && entry.wanted.is_none()).filter_map(
            |(prefix, entry)| match &entry.held {
                Held::Route(spec) => spec.next_hops().map(|hops| (*prefix, hops)),
                Held::Nothing | Held::Odd => None,
            },
        )
    }

    /// Everything has been learned; what nobody claimed may go.
    pub fn finish_startup(&mut self) {
        self.learned = true;
        let unclaimed: Vec<Prefix> = self
            .routes
            .iter()
            .filter(|(_, entry)| entry.adopted && entry.wanted.is_none())
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in unclaimed {
            self.schedule(prefix);
        }
    }

    /// Puts the prefix into the queue where it belongs now.
    fn schedule(&mut self, prefix: Prefix) {
        self.unqueue(prefix);
        let Some(entry) = self.routes.get_mut(&prefix) else { return };
        if entry.wanted.is_some() {
            entry.adopted = false;
        }
        if entry.flying {
            // Judged when it is answered; until then nothing of what depends on it may go before it.
            entry.queued = true;
            if entry.wanted.is_some() {
                self.to_write.insert((Reverse(prefix.len()), prefix));
            } else {
                self.to_remove.insert((prefix.len(), prefix));
            }
        } else if entry.held.is(&entry.wanted) {
            let failed = entry.failure.take().is_some();
            let gone = entry.wanted.is_none();
            self.failing.remove(prefix);
            if gone {
                self.routes.remove(&prefix);
            } else if failed {
                self.events.push(Event::Recovered(prefix));
            }
        } else if self.failing.contains(prefix) {
            // Waits for its time.
        } else if entry.wanted.is_some() {
            entry.queued = true;
            self.to_write.insert((Reverse(prefix.len()), prefix));
        } else if !entry.adopted || self.learned {
            entry.queued = true;
            self.to_remove.insert((prefix.len(), prefix));
        }
    }

    fn unqueue(&mut self, prefix: Prefix) {
        if let Some(entry) = self.routes.get_mut(&prefix)
            && std::mem::take(&mut entry.queued)
        {
            self.to_write.remove(&(Reverse(prefix.len()), prefix));
            self.to_remove.remove(&(prefix.len(), prefix));
        }
    }

    /// The circumstances changed: a failed write need not wait. Its error is kept until it succeeds.
    fn forgive(&mut self, prefix: Prefix) {
        self.failing.remove(prefix);
    }

    fn retry(&mut self, prefix: Prefix) {
        if self.failing.remove(prefix) {
            self.schedule(prefix);
        }
    }

    /// Foreign routes for these prefixes changed: a place may be free.
    pub fn places_changed(&mut self, prefixes: &BTreeSet<Prefix>) {
        if !self.failing.is_empty() {
            prefixes.iter().for_each(|prefix| self.retry(*prefix));
        }
    }

    /// Links or routes changed: a gateway that was refused may be good.
    pub fn topology_changed(&mut self) {
        for prefix in self.failing.prefixes().collect::<Vec<_>>() {
            let entry = self.routes.get(&prefix);
            let error = entry.and_then(|entry| entry.failure.as_ref()).map(|failure| &failure.error);
            if matches!(error, Some(FibError::Gateway { .. } | FibError::Interface)) {
                self.retry(prefix);
            }
        }
    }

    /// What others did to routes of our protocol. Call after [`Self::want`], so that what is not wanted any more
    /// is not taken for damage.
    pub fn observe(&mut self, events: Vec<OwnEvent>) {
        for event in events {
            let displaced = matches!(event, OwnEvent::Overwritten { .. });
            let (key, now, by) = match event {
                OwnEvent::Added { route, by } => (route.key, Some(route), by),
                OwnEvent::Deleted { route, by } => (route.key, None, by),
                OwnEvent::Overwritten { key, by } => (key, None, by),
            };
            if key != self.place.key(key.prefix) {
                match now {
                    Some(_) => self.strays.insert(key),
                    None => self.strays.remove(&key),
                };
                continue;
            }
            if let Some(entry) = self.routes.get_mut(&key.prefix).filter(|entry| entry.flying) {
                entry.disturbed = true;
                continue;
            }
            let held = now.map_or(Held::Nothing, |route| self.held(&route));
            self.found(key.prefix, held, displaced, Some(by));
        }
    }

    /// The kernel holds this for the prefix, whatever we believed. True if it was something else. `displaced`: by a
    /// foreign route; `by`: who did it, if an event told.
    fn found(&mut self, prefix: Prefix, now: Held, displaced: bool, by: Option<Author>) -> bool {
        let learned = self.learned;
        let entry = self.routes.entry(prefix).or_default();
        let differs = entry.held != now;
        if differs {
            let intact = entry.held.is(&entry.wanted);
            let how = match now {
                Held::Nothing if displaced => Tampering::Displaced,
                Held::Nothing => Tampering::Deleted,
                _ if entry.wanted.is_none() => Tampering::Added,
                _ => Tampering::Changed,
            };
            entry.held = now;
            // While routes are learned, what nobody wants is an earlier run's.
            if intact && (entry.wanted.is_some() || learned) {
                entry.damaged = true;
                self.events.push(Event::Tampered { prefix, how, by });
            }
            self.note(prefix);
            self.forgive(prefix);
        }
        self.schedule(prefix);
        differs
    }

    /// True once after something whose outcome only an audit can tell.
    pub fn take_doubt(&mut self, now: Instant) -> bool {
        let settles = self.settle_due.take_if(|due| *due <= now).is_some();
        if settles {
            self.settled_at = Some(now);
        }
        std::mem::take(&mut self.in_doubt) | settles
    }

    /// When something is due even if nothing happens.
    pub fn next_wakeup(&self) -> Option<Instant> {
        [self.failing.next(), self.settle_due].into_iter().flatten().min()
    }

    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Something is being written by the thread.
    pub fn is_writing(&self) -> bool {
        self.flying > 0
    }

    pub fn has_writer(&self) -> bool {
        self.writer.is_some()
    }

    /// The next call of [`Self::step`] could do something without an answer to what is being written.
    pub fn can_go_on(&self) -> bool {
        self.has_work() && !(self.waits && self.flying > 0)
    }

    pub fn has_work(&self) -> bool {
        !self.to_write.is_empty() || !self.to_remove.is_empty() || (self.learned && !self.strays.is_empty())
    }

    pub fn state(&self, prefix: Prefix) -> Option<FibState> {
        let entry = self.routes.get(&prefix)?;
        Some(match (&entry.failure, entry.held.is(&entry.wanted)) {
            (_, true) => FibState::Installed,
            (Some(failure), _) => FibState::Failed(failure.error.clone()),
            (None, _) if entry.adopted => FibState::Stale,
            (None, _) => FibState::Pending,
        })
    }

    /// Routes that the kernel did not take, and why; each is tried again.
    pub fn failures(&self) -> impl Iterator<Item = (Prefix, &FibError)> {
        let failure = |prefix: Prefix| Some((prefix, &self.routes.get(&prefix)?.failure.as_ref()?.error));
        self.failing.prefixes().filter_map(failure)
    }

    pub fn status(&self) -> FibStatus {
        let mut status = FibStatus {
            elsewhere: self.strays.len() + self.leaving.len(),
            repaired: self.repaired,
            writes: self.writes,
            ..FibStatus::default()
        };
        for prefix in self.routes.keys() {
            match self.state(*prefix) {
                Some(FibState::Installed) => status.installed += 1,
                Some(FibState::Stale) => status.stale += 1,
                Some(FibState::Pending) => status.pending += 1,
                Some(FibState::Failed(_)) => status.failed += 1,
                None => {}
            }
        }
        status
    }
}

#[cfg(test)]
mod tests;
