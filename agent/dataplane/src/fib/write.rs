//! Carrying out what is queued: a bounded number of changes in one go, each with its own outcome.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Instant,
};

use manx_net::Prefix;
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::{
    BUDGET, Event, Failure, FibError, FibSink, Held, RETRY_FIRST, RETRY_LONGEST,
    audit::dump_places,
    spec::{Mode, Spec, delete, write},
};
use crate::{
    kernel::{KernelView, RouteKey},
    netlink::{Refusal, Requests},
};

impl FibSink {
    /// Writes and removes what is due, up to a bound. `view` tells where foreign routes stand. After an error of the
    /// netlink socket it is open what the kernel did: everything is queued again, and an audit has to settle it.
    pub fn step(&mut self, now: Instant, view: &KernelView, requests: &mut Requests) -> io::Result<()> {
        let result = self.carry_out(now, view, requests);
        if result.is_err() {
            for prefix in self.routes.keys().copied().collect::<Vec<_>>() {
                self.schedule(prefix);
            }
        }
        result
    }

    fn carry_out(&mut self, now: Instant, view: &KernelView, requests: &mut Requests) -> io::Result<()> {
        for prefix in self.failing.clone() {
            let failure = self.routes.get(&prefix).and_then(|entry| entry.failure.as_ref());
            if failure.is_none_or(|failure| failure.due <= now) {
                self.retry(prefix);
            }
        }
        let written = self.write_due(now, view, requests)?;
        if self.to_write.is_empty() {
            let left = BUDGET.saturating_sub(written);
            self.remove_due(left, now, requests)?;
            self.remove_strays(left, requests)?;
        }
        Ok(())
    }

    fn write_due(&mut self, now: Instant, view: &KernelView, requests: &mut Requests) -> io::Result<usize> {
        let mut due: Vec<(Prefix, Arc<Spec>, Mode)> = Vec::new();
        let mut displaced = Vec::new();
        while due.len() < BUDGET {
            let Some((_, prefix)) = self.to_write.pop_first() else { break };
            let Some(entry) = self.routes.get(&prefix) else { continue };
            let Some(wanted) = entry.wanted.clone() else { continue };
            if let Some(error) = impossible(prefix, &wanted) {
                self.failed(prefix, error, now);
                continue;
            }
            let mode = if entry.held == Held::Nothing { Mode::Create } else { Mode::Replace };
            let Some(holder) = view.routes().holder(&self.place.key(prefix)) else {
                due.push((prefix, wanted, mode));
                continue;
            };
            // A foreign route was put in front of ours: a replacement would hit that one. Ours, being outdated, goes.
            if mode == Mode::Replace {
                displaced.push(prefix);
            }
            let error = FibError::Foreign { protocol: holder.protocol, table: holder.key.table };
            self.failed(prefix, error, now);
        }
        self.withdraw(displaced, now, requests)?;
        let refused = self.submit(&due, false, requests)?;

        // What the kernel does not take for a neighbour by its own routes (an IPv6 link-local address always is
        // one, a gateway behind an onlink route is not) is written as onlink: the resolver knows better.
        let mut again = Vec::new();
        let mut occupied = Vec::new();
        for (position, refusal) in refused {
            let Some((prefix, wanted, mode)) = due.get(position) else { continue };
            if refusal.errno == libc::EEXIST {
                occupied.push(*prefix);
            } else if gateway_refused(wanted, &refusal) {
                again.push((*prefix, wanted.clone(), *mode));
            } else {
                self.failed(*prefix, FibError::from_refusal(&refusal, wanted.gateway()), now);
            }
        }
        for (position, refusal) in self.submit(&again, true, requests)? {
            let Some((prefix, wanted, _)) = again.get(position) else { continue };
            if refusal.errno == libc::EEXIST {
                occupied.push(*prefix);
            } else {
                self.failed(*prefix, FibError::from_refusal(&refusal, wanted.gateway()), now);
            }
        }
        self.settle(&occupied, now, requests)?;
        Ok(due.len() + again.len())
    }

    /// Sends routes and notes those that the kernel took. Returns the others with their place in `due`.
    fn submit(
        &mut self,
        due: &[(Prefix, Arc<Spec>, Mode)],
        onlink: bool,
        requests: &mut Requests,
    ) -> io::Result<Vec<(usize, Refusal)>> {
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let messages: Vec<(RouteNetlinkMessage, u16)> = due
            .iter()
            .map(|(prefix, spec, mode)| {
                write(&self.place.key(*prefix), self.place.protocol, spec, *mode, onlink)
            })
            .collect();
        self.writes += messages.len() as u64;
        let mut refused = Vec::new();
        let answers = requests.transact(messages)?;
        for (position, ((prefix, spec, _), answer)) in due.iter().zip(answers).enumerate() {
            match answer {
                Ok(()) => {
                    if let Some(entry) = self.routes.get_mut(prefix) {
                        entry.held = Held::Route(spec.clone());
                        self.repaired += u64::from(std::mem::take(&mut entry.damaged));
                    }
                    self.note(*prefix);
                    self.failing.remove(prefix);
                    self.schedule(*prefix);
                }
                Err(refusal) => {
                    // IPv6 replaces leg by leg: a refusal half-way leaves neither the old route nor the new one.
                    self.in_doubt |= !prefix.is_v4() && matches!(&**spec, Spec::Via(hops) if hops.len() > 1);
                    refused.push((position, refusal));
                }
            }
        }
        Ok(refused)
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
            match holders.get(&self.place.key(*prefix)) {
                Some(route) if route.protocol == self.place.protocol => {
                    let held = self.held(route);
                    // What we thought: then the refusal has another reason, and trying at once would go on for ever.
                    if !self.found(*prefix, held, false, None) {
                        let text = nix::errno::Errno::EEXIST.desc().to_owned();
                        self.failed(*prefix, FibError::Refused { errno: libc::EEXIST, text }, now);
                    }
                }
                Some(route) => {
                    let error = FibError::Foreign { protocol: route.protocol, table: route.key.table };
                    self.failed(*prefix, error, now);
                }
                // Gone meanwhile.
                None => self.schedule(*prefix),
            }
        }
        Ok(())
    }

    fn remove_due(&mut self, budget: usize, now: Instant, requests: &mut Requests) -> io::Result<()> {
        let mut due = Vec::new();
        while due.len() < budget {
            let Some((_, prefix)) = self.to_remove.pop_first() else { break };
            due.push(prefix);
        }
        self.withdraw(due, now, requests)
    }

    /// Deletes routes of ours.
    fn withdraw(&mut self, due: Vec<Prefix>, now: Instant, requests: &mut Requests) -> io::Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        self.writes += due.len() as u64;
        let messages =
            due.iter().map(|prefix| delete(&self.place.key(*prefix), self.place.protocol)).collect();
        for (prefix, answer) in due.into_iter().zip(requests.transact(messages)?) {
            match answer {
                Err(refusal) if !is_absence(&refusal) => {
                    self.failed(prefix, FibError::from_refusal(&refusal, None), now);
                }
                // Gone already, with its interface or by another's hand: as wanted.
                _ => {
                    self.note(prefix);
                    if let Some(entry) = self.routes.get_mut(&prefix) {
                        entry.held = Held::Nothing;
                        self.repaired +=
                            u64::from(entry.wanted.is_none() && std::mem::take(&mut entry.damaged));
                        if entry.wanted.is_none() {
                            self.failing.remove(&prefix);
                        }
                    }
                    self.schedule(prefix);
                }
            }
        }
        Ok(())
    }

    fn remove_strays(&mut self, budget: usize, requests: &mut Requests) -> io::Result<()> {
        if !self.learned || self.strays.is_empty() {
            return Ok(());
        }
        let due: Vec<RouteKey> = self.strays.iter().take(budget).copied().collect();
        self.writes += due.len() as u64;
        let messages = due.iter().map(|key| delete(key, self.place.protocol)).collect();
        for (key, answer) in due.into_iter().zip(requests.transact(messages)?) {
            self.strays.remove(&key);
            self.note(key.prefix);
            if let Err(refusal) = answer
                && !is_absence(&refusal)
            {
                tracing::warn!(prefix = %key.prefix, table = key.table, error = refusal.text,
                    "a route of our protocol that we do not want cannot be removed");
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
        entry.failure = Some(Box::new(Failure { error, due: now + pause, pause }));
        self.to_write.remove(&(Reverse(prefix.len()), prefix));
        self.to_remove.remove(&(prefix.len(), prefix));
        self.failing.insert(prefix);
    }
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

/// The kernel's words for a gateway that is no neighbour by its own routes: ENETUNREACH from IPv4, EHOSTUNREACH or
/// EINVAL from IPv6.
fn gateway_refused(spec: &Spec, refusal: &Refusal) -> bool {
    spec.gateway().is_some() && matches!(refusal.errno, libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL)
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
