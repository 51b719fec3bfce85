//! Choosing what is written next, and taking in what became of it. A prefix that is being written is not touched again
//! before the kernel has answered, so that nothing overtakes; and nothing that surrounds it is written before what is
//! wanted of it by then.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv6Addr,
    ops::Bound,
    sync::Arc,
    time::Instant,
};

use manx_net::Prefix;

use super::{
    BATCH, BUDGET, DEPTH, Event, Failure, FibError, FibSink, Held, REMOVALS_COMPARED, REPLACES, RETRY_FIRST,
    RETRY_LONGEST, SETTLE_PAUSE,
    audit::dump_places,
    message::Mode,
    spec::Spec,
    writer::{Answer, Change, Outcome, carry_out},
};
use crate::{
    kernel::{KernelView, RouteKey},
    netlink::{Refusal, Requests},
};

impl FibSink {
    /// Writes and removes what is due, up to a bound. `view` tells where foreign routes stand. After an error of the
    /// netlink socket it is open what the kernel did: what was being written is queued again, and an audit has to
    /// settle it.
    pub fn step(&mut self, now: Instant, view: &KernelView, requests: &mut Requests) -> io::Result<()> {
        while let Some(prefix) = self.failing.pop_due(now) {
            self.schedule(prefix);
        }
        let budget = if self.writer.is_some() { DEPTH } else { BUDGET };
        let idle = self.flying == 0;
        // Many writes leave room for removals.
        let kept = if self.to_remove.is_empty() { 0 } else { BATCH };
        let mut due = self.next_writes(budget.saturating_sub(self.flying + kept), now, view);
        // The thread carries them out in this order. Here what was refused and is tried again comes first, too.
        if self.writer.is_none() || (idle && due.len() <= self.at_once) {
            self.write_here(due, now, requests)?;
            due = self.next_removals(budget.saturating_sub(self.flying));
            if self.writer.is_none() || due.len() <= self.at_once {
                return self.write_here(due, now, requests);
            }
        } else {
            due.extend(self.next_removals(budget.saturating_sub(self.flying)));
        }
        self.give(due, now, requests)
    }

    fn write_here(&mut self, due: Vec<Change>, now: Instant, requests: &mut Requests) -> io::Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        let outcome = carry_out(self.place, &due, requests);
        let occupied = self.answered(Answer { batch: due, outcome }, now)?;
        self.settle(&occupied, now, requests)
    }

    fn give(&mut self, mut due: Vec<Change>, now: Instant, requests: &mut Requests) -> io::Result<()> {
        while !due.is_empty() {
            let rest = due.split_off(due.len().min(BATCH));
            let batch = std::mem::replace(&mut due, rest);
            match &self.writer {
                Some(writer) => {
                    if let Err(batch) = writer.give(batch) {
                        // It is told when its answers are looked for; what was given before it is in doubt.
                        self.write_here(batch, now, requests)?;
                    }
                }
                None => self.write_here(batch, now, requests)?,
            }
        }
        Ok(())
    }

    /// What is answered so far, to be taken in by [`Self::take_answers`] when all events are that came before it.
    pub fn collect_answers(&mut self) {
        let Some(writer) = &self.writer else { return };
        if !writer.take(&mut self.answers)
            && let Some(writer) = self.writer.take()
        {
            self.events.push(Event::WriterEnded(writer.cause()));
            self.lost_writer = true;
        }
    }

    pub fn take_answers(&mut self, now: Instant, requests: &mut Requests) -> io::Result<()> {
        let mut result = Ok(());
        // Who holds these places takes a dump: one for all of them.
        let mut occupied = Vec::new();
        for answer in std::mem::take(&mut self.answers) {
            match self.answered(answer, now) {
                Ok(places) => occupied.extend(places),
                Err(error) => result = result.and(Err(error)),
            }
        }
        result = result.and(self.settle(&occupied, now, requests));
        if std::mem::take(&mut self.lost_writer) {
            self.in_doubt = true;
            let flying = self.routes.iter().filter(|(_, entry)| entry.flying).map(|(prefix, _)| *prefix);
            for prefix in flying.collect::<Vec<_>>() {
                self.landed(prefix, now);
                self.schedule(prefix);
            }
            self.flying = 0;
            self.replacing = 0;
            self.strays.append(&mut self.leaving);
        }
        result
    }

    /// Waits until all that is being written is answered.
    pub fn wait(&mut self, now: Instant, requests: &mut Requests) -> io::Result<()> {
        self.collect_answers();
        self.take_answers(now, requests)?;
        while self.flying > 0 {
            match self.writer.as_ref().and_then(super::writer::Writer::wait) {
                Some(answer) => self.answers.push(answer),
                None => self.collect_answers(),
            }
            self.take_answers(now, requests)?;
        }
        Ok(())
    }

    /// Waits until something may have been answered; for ever where nothing is asked. Cancel-safe.
    pub async fn may_be_answered(&self) {
        match &self.writer {
            Some(writer) => writer.answered().await,
            None => std::future::pending().await,
        }
    }

    /// Longest first. What is being written already waits, and with it whatever is shorter.
    fn next_writes(&mut self, room: usize, now: Instant, view: &KernelView) -> Vec<Change> {
        let mut chosen = Vec::new();
        let mut waiting: Option<u8> = None;
        let mut replacing = self.replacing;
        for (_, prefix) in &self.to_write {
            if chosen.len() >= room || waiting.is_some_and(|length| prefix.len() < length) {
                break;
            }
            match self.routes.get(prefix) {
                Some(entry) if entry.flying => waiting = Some(prefix.len()),
                Some(entry) if entry.held != Held::Nothing && replacing >= REPLACES => {
                    waiting = Some(prefix.len());
                    break;
                }
                Some(entry) => {
                    replacing += usize::from(entry.held != Held::Nothing);
                    chosen.push(*prefix);
                }
                None => chosen.push(*prefix),
            }
        }
        self.waits = waiting.is_some() || chosen.len() >= room;
        let (mut due, mut displaced) = (Vec::with_capacity(chosen.len()), Vec::new());
        for prefix in chosen {
            self.to_write.remove(&(Reverse(prefix.len()), prefix));
            let Some(entry) = self.routes.get_mut(&prefix) else { continue };
            entry.queued = false;
            let Some(wanted) = entry.wanted.clone() else { continue };
            if let Some(error) = impossible(prefix, &wanted) {
                self.failed(prefix, error, now);
                continue;
            }
            let mode = if entry.held == Held::Nothing { Mode::Create } else { Mode::Replace };
            let Some(holder) = view.routes().holder(&self.place.key(prefix)) else {
                entry.flying = true;
                self.replacing += usize::from(mode == Mode::Replace);
                due.push(Change::Write { prefix, spec: wanted, mode });
                continue;
            };
            // A foreign route was put in front of ours: a replacement would hit that one. Ours, being outdated, goes.
            if mode == Mode::Replace {
                entry.flying = true;
                displaced.push(Change::Remove(prefix));
            }
            let error = FibError::Foreign { protocol: holder.protocol, table: holder.key.table };
            self.failed(prefix, error, now);
        }
        self.flying += due.len() + displaced.len();
        displaced.append(&mut due);
        displaced
    }

    /// Shortest first, when all that has to do with it is written or on its way.
    fn next_removals(&mut self, room: usize) -> Vec<Change> {
        if !self.to_write.is_empty() {
            let chosen = self.removals_apart(room);
            return self.remove(chosen.into_iter().map(|(_, prefix)| prefix));
        }
        let mut chosen = Vec::new();
        let mut waiting: Option<u8> = None;
        for (_, prefix) in &self.to_remove {
            if chosen.len() >= room || waiting.is_some_and(|length| prefix.len() > length) {
                break;
            }
            match self.routes.get(prefix) {
                Some(entry) if entry.flying => waiting = Some(prefix.len()),
                _ => chosen.push(*prefix),
            }
        }
        let mut due = self.remove(chosen);
        let before = due.len();
        if self.learned && waiting.is_none() {
            while due.len() < room
                && let Some(key) = self.strays.pop_first()
            {
                self.leaving.insert(key);
                due.push(Change::RemoveStray(key));
            }
        }
        self.waits |= waiting.is_some() || due.len() >= room;
        self.flying += due.len() - before;
        due
    }

    /// Removals that nothing queued has to do with: nothing is to be written inside them or around them, and nothing
    /// around them is to be removed before. Under churn there is always something to be written somewhere.
    fn removals_apart(&mut self, room: usize) -> BTreeSet<(u8, Prefix)> {
        let (writes, removals) = (lengths(&self.to_write), lengths(&self.to_remove));
        let mut chosen = BTreeSet::new();
        let after = self.compared.take().map_or(Bound::Unbounded, Bound::Excluded);
        for (looked_at, (length, prefix)) in self.to_remove.range((after, Bound::Unbounded)).enumerate() {
            if looked_at == REMOVALS_COMPARED || chosen.len() >= room {
                break;
            }
            // The first of this length that may lie inside it, or what of it lies around.
            let at = |length| Prefix::new(prefix.addr(), length);
            let is_written = |other: &Reverse<u8>| {
                let next = |first| self.to_write.range((*other, first)..).next();
                at(other.0)
                    .and_then(next)
                    .is_some_and(|(length, found)| length == other && found.overlaps(*prefix))
            };
            let stays = |around| self.to_remove.contains(&around) && !chosen.contains(&around);
            let is_removed = |other: &u8| other < length && at(*other).is_some_and(|p| stays((*other, p)));
            let is_flying = self.routes.get(prefix).is_some_and(|entry| entry.flying);
            if !is_flying && !writes.iter().any(is_written) && !removals.iter().any(is_removed) {
                chosen.insert((*length, *prefix));
            }
            self.compared = Some((*length, *prefix));
        }
        chosen
    }

    fn remove(&mut self, chosen: impl IntoIterator<Item = Prefix>) -> Vec<Change> {
        let mut due = Vec::new();
        for prefix in chosen {
            self.to_remove.remove(&(prefix.len(), prefix));
            if let Some(entry) = self.routes.get_mut(&prefix) {
                entry.queued = false;
                entry.flying = true;
                due.push(Change::Remove(prefix));
            }
        }
        self.flying += due.len();
        due
    }

    /// It is not being written any more.
    fn landed(&mut self, prefix: Prefix, now: Instant) {
        if let Some(entry) = self.routes.get_mut(&prefix) {
            entry.flying = false;
            // Somebody else changed it meanwhile: who was first, only the kernel knows.
            if std::mem::take(&mut entry.disturbed) {
                let earliest = self.settled_at.map_or(now, |at| now.max(at + SETTLE_PAUSE));
                self.settle_due.get_or_insert(earliest);
            }
        }
        self.note(prefix);
    }

    /// Takes in what became of a batch, and returns what others may hold the places of.
    fn answered(&mut self, answer: Answer, now: Instant) -> io::Result<Vec<Prefix>> {
        let Answer { batch, outcome } = answer;
        self.flying = self.flying.saturating_sub(batch.len());
        let replaced = batch.iter().filter(|change| change.replaces()).count();
        self.replacing = self.replacing.saturating_sub(replaced);
        self.writes += batch.len() as u64;
        let Outcome { refused, doubt } = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                for change in batch {
                    match change {
                        Change::Write { prefix, .. } | Change::Remove(prefix) => {
                            self.landed(prefix, now);
                            self.schedule(prefix);
                        }
                        Change::RemoveStray(key) => {
                            self.leaving.remove(&key);
                            self.strays.insert(key);
                        }
                    }
                }
                self.in_doubt = true;
                return Err(error);
            }
        };
        self.in_doubt |= doubt;
        let mut refused = refused.into_iter().peekable();
        let mut occupied = Vec::new();
        for (position, change) in batch.into_iter().enumerate() {
            let refusal = refused.next_if(|(place, _)| *place == position).map(|(_, refusal)| refusal);
            match change {
                Change::Write { prefix, spec, .. } => {
                    self.landed(prefix, now);
                    match refusal {
                        None => self.written(prefix, spec),
                        Some(refusal) if refusal.errno == libc::EEXIST => occupied.push(prefix),
                        Some(refusal) => self.not_written(prefix, &spec, &refusal, now),
                    }
                }
                Change::Remove(prefix) => {
                    self.landed(prefix, now);
                    match refusal {
                        Some(refusal) if !is_absence(&refusal) => {
                            self.failed(prefix, FibError::from_refusal(&refusal, None), now);
                        }
                        // Gone already, with its interface or by another's hand: as wanted.
                        _ => self.removed(prefix),
                    }
                }
                Change::RemoveStray(key) => {
                    self.leaving.remove(&key);
                    self.note(key.prefix);
                    if let Some(refusal) = refusal.filter(|refusal| !is_absence(refusal)) {
                        tracing::warn!(prefix = %key.prefix, table = key.table, error = refusal.text,
                            "a route of our protocol that we do not want cannot be removed");
                    }
                }
            }
        }
        Ok(occupied)
    }

    fn written(&mut self, prefix: Prefix, spec: Arc<Spec>) {
        if let Some(entry) = self.routes.get_mut(&prefix) {
            entry.held = Held::Route(spec);
            self.repaired += u64::from(std::mem::take(&mut entry.damaged));
        }
        self.failing.remove(prefix);
        self.schedule(prefix);
    }

    fn not_written(&mut self, prefix: Prefix, spec: &Arc<Spec>, refusal: &Refusal, now: Instant) {
        let wanted = self.routes.get(&prefix).and_then(|entry| entry.wanted.as_ref());
        if wanted == Some(spec) {
            self.failed(prefix, FibError::from_refusal(refusal, spec.gateway()), now);
        } else {
            // Something else is wanted since.
            self.schedule(prefix);
        }
    }

    fn removed(&mut self, prefix: Prefix) {
        if let Some(entry) = self.routes.get_mut(&prefix) {
            entry.held = Held::Nothing;
            self.repaired += u64::from(entry.wanted.is_none() && std::mem::take(&mut entry.damaged));
            if entry.wanted.is_none() {
                self.failing.remove(prefix);
            }
        }
        self.schedule(prefix);
    }

    /// Somebody is in these places, and neither we nor the view know who: look.
    fn settle(&mut self, occupied: &[Prefix], now: Instant, requests: &mut Requests) -> io::Result<()> {
        if occupied.is_empty() {
            return Ok(());
        }
        let places: BTreeSet<RouteKey> = occupied.iter().map(|prefix| self.place.key(*prefix)).collect();
        let mut holders = BTreeMap::new();
        for route in dump_places(requests, &places)? {
            // Of several in one place ours is the one to know about: it can be replaced.
            if route.protocol == self.place.protocol || !holders.contains_key(&route.key) {
                holders.insert(route.key, route);
            }
        }
        for prefix in occupied {
            let is_wanted = self.routes.get(prefix).is_some_and(|entry| entry.wanted.is_some());
            match holders.get(&self.place.key(*prefix)) {
                Some(route) if route.protocol == self.place.protocol => {
                    let held = self.held(route);
                    // What we thought: then the refusal has another reason, and trying at once would go on for ever.
                    if !self.found(*prefix, held, false, None) {
                        let text = nix::errno::Errno::EEXIST.desc().to_owned();
                        self.failed(*prefix, FibError::Refused { errno: libc::EEXIST, text }, now);
                    }
                }
                Some(route) if is_wanted => {
                    let error = FibError::Foreign { protocol: route.protocol, table: route.key.table };
                    self.failed(*prefix, error, now);
                }
                // Gone meanwhile, or not wanted any more.
                _ => self.schedule(*prefix),
            }
        }
        Ok(())
    }

    fn failed(&mut self, prefix: Prefix, error: FibError, now: Instant) {
        let Some(entry) = self.routes.get_mut(&prefix) else { return };
        let before = entry.failure.take();
        let pause = before.as_ref().map_or(RETRY_FIRST, |failure| (failure.pause * 2).min(RETRY_LONGEST));
        if before.is_none_or(|failure| failure.error != error) {
            self.events.push(Event::Failed(prefix, error.clone()));
        }
        entry.failure = Some(Box::new(Failure { error, pause }));
        self.unqueue(prefix);
        self.failing.insert(prefix, now + pause);
    }
}

/// The lengths of which there are any in a queue.
fn lengths<L: Copy + Ord>(queue: &BTreeSet<(L, Prefix)>) -> Vec<L> {
    let last = Prefix::host(Ipv6Addr::from(u128::MAX).into());
    let mut found = Vec::new();
    let mut next = queue.first();
    while let Some((length, _)) = next {
        found.push(*length);
        next = queue.range((Bound::Excluded((*length, last)), Bound::Unbounded)).next();
    }
    found
}

/// What need not be tried.
fn impossible(prefix: Prefix, spec: &Spec) -> Option<FibError> {
    match spec {
        Spec::Via(next_hops) if !prefix.is_v4() && next_hops.iter().any(|hop| hop.gateway.is_ipv4()) => {
            Some(FibError::Family)
        }
        _ => None,
    }
}

fn is_absence(refusal: &Refusal) -> bool {
    matches!(refusal.errno, libc::ESRCH | libc::ENOENT | libc::ENODEV)
}

impl FibError {
    fn from_refusal(refusal: &Refusal, gateway: Option<std::net::IpAddr>) -> FibError {
        let text = refusal.text.clone();
        match (refusal.errno, gateway) {
            (libc::ENODEV | libc::ENETDOWN | libc::ENXIO, _) => FibError::Interface,
            (libc::ENETUNREACH | libc::EHOSTUNREACH, Some(gateway)) => FibError::Gateway { gateway, text },
            (libc::EPERM | libc::EACCES, _) => FibError::Permission,
            (libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC, _) => FibError::Memory,
            (errno, _) => FibError::Refused { errno, text },
        }
    }
}
