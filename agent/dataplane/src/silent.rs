//! Neighbours that do not answer, as the kernel finds them (`NUD_FAILED`). What goes to a next hop among them is the
//! stack's, which tells the senders; the fast path's redirect would drop it without a word.
//!
//! Somebody has to go on asking, or nobody would learn that it answers again: packets do where the stack sends
//! them there, and we do for next hops in use, since the stack may prefer another of several.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rtnetlink::packet_core::NLM_F_CREATE;

use crate::{
    kernel::{Changes, KernelView},
    netlink::Requests,
    pods::question,
    resolve::Resolver,
    route::NextHop,
};

/// Between two questions; the kernel's own three take as many seconds.
const PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(crate) struct Silent {
    neighbours: BTreeSet<NextHop>,
    /// They have been told once.
    told: bool,
    /// While there are any.
    next_probe: Option<Instant>,
}

impl Silent {
    /// All of them, if they are others than before. That the kernel forgets a next hop's entry is no answer: where it has
    /// more than 128 it drops failed ones first, again and again.
    pub fn refresh(
        &mut self,
        changes: &Changes,
        view: &KernelView,
        resolver: &Resolver,
        now: Instant,
    ) -> Option<BTreeSet<NextHop>> {
        let mut changed = !self.told;
        for (ifindex, gateway) in &changes.neighbours {
            let hop = NextHop { gateway: *gateway, ifindex: *ifindex };
            let was_silent = self.neighbours.contains(&hop);
            let is_silent = match view.neighbour(*ifindex, *gateway) {
                Some(neighbour) => neighbour.failed || (was_silent && !neighbour.valid),
                None => was_silent && !resolver.used(&BTreeSet::from([hop])).is_empty(),
            };
            changed |= if is_silent { self.neighbours.insert(hop) } else { self.neighbours.remove(&hop) };
        }
        self.told = true;
        if self.neighbours.is_empty() {
            self.next_probe = None;
        } else {
            self.next_probe.get_or_insert(now + PAUSE);
        }
        changed.then(|| self.neighbours.clone())
    }

    pub fn next_probe(&self) -> Option<Instant> {
        self.next_probe
    }

    /// Has the kernel ask for next hops again when it is time.
    pub fn probe(&mut self, resolver: &Resolver, requests: &mut Requests, now: Instant) {
        if self.next_probe.is_none_or(|due| now < due) {
            return;
        }
        self.next_probe = Some(now + PAUSE);
        let used = resolver.used(&self.neighbours).into_iter();
        let questions: Vec<_> = used.map(|hop| (question(hop.ifindex, hop.gateway), NLM_F_CREATE)).collect();
        if questions.is_empty() {
            return;
        }
        // A refusal (the interface is just going) is answered by an event or by the next question.
        if let Err(error) = requests.transact(questions) {
            tracing::debug!(%error, "asking for next hops that do not answer");
        }
    }
}
