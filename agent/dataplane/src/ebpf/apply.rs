//! Bringing changes into the maps. The order is what makes each change atomic for a packet: slots before what names
//! them, the more specific before what surrounds it, tries before the index that may send a packet there; groups that
//! lead elsewhere after what comes and before what goes; and what goes last, shortest first.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
    time::Instant,
};

use manx_abi as abi;
use manx_net::Prefix;

use super::{
    Applied, Error, Refusal,
    groups::{Hops, Move},
    held::{Held, Unwritten, held_as},
    index,
    interface::Interface,
    maps::Maps,
    pools,
};
use crate::{
    kernel::within,
    route::{Action, Route},
};

/// Routes that are turned into entries before they are written.
const CHUNK: usize = 8192;

type KnownInterface<'a> = &'a mut dyn FnMut(u32) -> Option<Interface>;

/// An entry that is about to be written; its references to slots are taken.
struct Pending<'a> {
    route: &'a Route,
    entry: abi::Route,
}

/// Groups that lead elsewhere with all their routes, by id.
type Moves = HashMap<u32, Hops>;

impl Held {
    /// `interface` tells what is known of a pod's.
    pub fn apply(
        &mut self,
        maps: &Maps,
        upserts: &[Route],
        removals: &[Prefix],
        interface: KnownInterface<'_>,
    ) -> Result<Applied, Error> {
        let now = Instant::now();
        let mut upserts: Vec<&Route> = upserts.iter().collect();
        upserts.sort_by_key(|route| Reverse(route.prefix.len()));
        let mut removals: Vec<Prefix> = removals
            .iter()
            .copied()
            .filter(|prefix| self.entries.get(*prefix).is_some() || self.unwritten.contains_key(prefix))
            .collect();
        removals.sort_by_key(|prefix| prefix.len());

        let (moves, prepared) = self.moves(&upserts, now);
        let mut written = 0;
        for chunk in upserts.chunks(CHUNK) {
            written += self.upsert(maps, chunk, &moves, now, interface)?;
        }
        self.flush(maps, now)?;
        for moved in prepared {
            self.groups.carry_out(moved, now);
        }
        maps.execute(&self.groups.take_writes())?;

        let removed = self.remove(maps, &removals, now)?;
        if removed.made_room && !self.unwritten.is_empty() {
            written += self.try_again(maps, now, interface)?;
        }
        self.flush(maps, now)?;
        self.outside.write(maps);
        Ok(self.applied(written, removed.entries))
    }

    /// Groups of which every route moves, and all to the same next hops: one store instead of one for each route.
    fn moves(&mut self, upserts: &[&Route], now: Instant) -> (Moves, Vec<Move>) {
        struct Seen {
            hops: Option<Hops>,
            routes: usize,
        }
        let mut seen: HashMap<u32, Seen> = HashMap::new();
        let mut known: HashMap<Vec<crate::route::NextHop>, Hops> = HashMap::new();
        for route in upserts {
            let Some(entry) = self.entries.get(route.prefix).filter(|entry| entry.action == abi::Action::Via)
            else {
                continue;
            };
            let hops = match &route.action {
                Action::Via(hops) if held_as(route).action == route.action => {
                    Some(known.entry(hops.clone()).or_insert_with(|| Hops::from(hops.as_slice())).clone())
                }
                _ => None,
            };
            match seen.get_mut(&entry.target) {
                None => drop(seen.insert(entry.target, Seen { hops, routes: 1 })),
                Some(seen) => {
                    seen.routes += 1;
                    if seen.hops != hops {
                        seen.hops = None;
                    }
                }
            }
        }
        let (mut moves, mut prepared) = (Moves::new(), Vec::new());
        for (id, Seen { hops, routes }) in seen {
            let Some(hops) = hops.filter(|_| routes == self.groups.routes(id)) else { continue };
            let stays = self.groups.hops(id) == Some(&hops);
            if stays || !self.groups.is_worth_moving(id, &hops) {
                continue;
            }
            // Where there is no room for it each of its routes is refused, with its name.
            if let Ok(moved) = self.groups.prepare(id, &hops, now) {
                moves.insert(id, hops);
                prepared.push(moved);
            }
        }
        (moves, prepared)
    }

    /// How many entries of the maps changed.
    fn upsert(
        &mut self,
        maps: &Maps,
        routes: &[&Route],
        moves: &Moves,
        now: Instant,
        interface: KnownInterface<'_>,
    ) -> Result<usize, Error> {
        let mut written = 0;
        let mut pending: Vec<Pending<'_>> = Vec::with_capacity(routes.len());
        for route in routes {
            let prefix = route.prefix;
            if matches!(route.action, Action::Local { .. }) {
                self.pods.insert(prefix, (*route).clone());
            } else {
                self.pods.remove(&prefix);
            }
            if self.unwritten.remove(&prefix).is_some_and(|before| before.refusal.is_some()) {
                self.tried.insert(prefix);
            }
            let before = self.entries.get(prefix);
            if let Some(before) = before.filter(|entry| entry.action == abi::Action::Via)
                && moves.contains_key(&before.target)
            {
                written += 1;
                continue;
            }
            let action = if route.action != Action::Pass && self.hides_refused(prefix) {
                let desired = (*route).clone();
                self.unwritten.insert(prefix, Unwritten { desired, refusal: None });
                Ok((abi::Action::Pass, 0))
            } else {
                self.encode(maps, route, before, now, interface)
            };
            let (action, target) = match action {
                Ok(action) => action,
                Err(refusal) => {
                    written += self.refuse(maps, route, refusal, moves, now)?;
                    continue;
                }
            };
            let counter = match before {
                Some(before) => before.counter,
                None => {
                    let drops = matches!(action, abi::Action::BlackholeOwn | abi::Action::BlackholeExplicit);
                    self.counters.acquire(prefix, drops, now)
                }
            };
            let entry = abi::Route { action, target, pool: self.pools.mark(prefix), counter };
            if before == Some(entry) {
                self.release(entry, now);
                continue;
            }
            pending.push(Pending { route, entry });
        }
        maps.execute(&self.groups.take_writes())?;
        maps.clear_tallies(abi::map::PREFIX_COUNTS, &self.counters.take_to_zero())?;
        let outside = pending.iter().filter(|pending| self.is_outside(pending.route.prefix, pending.entry));
        let outside: Vec<Prefix> = outside.map(|pending| pending.route.prefix).collect();
        self.outside.raise(maps, outside.into_iter());
        let (v4, v6): (Vec<_>, Vec<_>) =
            pending.into_iter().partition(|pending| pending.route.prefix.is_v4());
        Ok(written + self.write(maps, v4, moves, now)? + self.write(maps, v6, moves, now)?)
    }

    /// Entries of one family, in order.
    fn write(
        &mut self,
        maps: &Maps,
        mut pending: Vec<Pending<'_>>,
        moves: &Moves,
        now: Instant,
    ) -> Result<usize, Error> {
        let mut written = 0;
        while !pending.is_empty() {
            let batch: Vec<_> = pending.iter().map(|pending| (pending.route.prefix, pending.entry)).collect();
            let (done, refusal) = maps.write_routes(&batch);
            for (prefix, entry) in batch.into_iter().take(done) {
                self.commit(prefix, entry, now);
            }
            written += done;
            let Some(refusal) = refusal else { break };
            let mut rest = pending.split_off(done.min(pending.len())).into_iter();
            // What needs room of its own finds none any more either, so it is not asked for; what is there already can be
            // overwritten.
            let full = matches!(refusal, Refusal::MapFull(_));
            let mut refused: Vec<Pending<'_>> = rest.next().into_iter().collect();
            let (new, mut known): (Vec<_>, Vec<_>) =
                rest.partition(|pending| full && self.entries.get(pending.route.prefix).is_none());
            refused.extend(new);
            for Pending { route, entry } in refused {
                self.release(entry, now);
                if self.entries.get(route.prefix).is_none() {
                    self.counters.release(entry.counter, now);
                }
                written += self.refuse(maps, route, refusal.clone(), moves, now)?;
            }
            // Those that come after one are shorter, and may surround it.
            for Pending { route, entry } in &mut known {
                if entry.action != abi::Action::Pass && self.hides_refused(route.prefix) {
                    let desired = (*route).clone();
                    self.unwritten.insert(route.prefix, Unwritten { desired, refusal: None });
                    self.release(*entry, now);
                    *entry = pass(*entry);
                }
            }
            pending = known;
        }
        Ok(written)
    }

    /// The map has taken it.
    fn commit(&mut self, prefix: Prefix, entry: abi::Route, now: Instant) {
        let before = self.entries.insert(prefix, entry);
        if self.is_outside(prefix, entry) {
            self.outside.add(prefix);
        }
        if let Some(before) = before {
            if self.is_outside(prefix, before) {
                self.outside.remove(prefix);
            }
            self.release(before, now);
        }
        self.index.upsert(&self.entries, prefix, index::answer(entry), before.is_none(), now);
    }

    fn hides_refused(&self, prefix: Prefix) -> bool {
        let mut inside = self.unwritten.range(within(prefix));
        inside.any(|(other, unwritten)| unwritten.refusal.is_some() && *other != prefix)
    }

    /// A route that could not be written must not be answered by an older or a shorter one. An entry that exists
    /// can always be overwritten. How many entries changed.
    fn refuse(
        &mut self,
        maps: &Maps,
        route: &Route,
        refusal: Refusal,
        moves: &Moves,
        now: Instant,
    ) -> Result<usize, Error> {
        let prefix = route.prefix;
        self.unwritten.insert(prefix, Unwritten { desired: route.clone(), refusal: Some(refusal) });
        if !self.tried.contains(&prefix) {
            self.news.insert(prefix);
        }
        let Some((holder, entry)) = self.entries.cover(prefix) else { return Ok(0) };
        if entry.action == abi::Action::Pass {
            return Ok(0);
        }
        if holder != prefix
            && let Some(mut desired) = self.decode(holder, entry)
        {
            if let Some(hops) = moves.get(&entry.target).filter(|_| entry.action == abi::Action::Via) {
                desired.action = Action::Via(hops.to_vec());
            }
            let desired = self.pods.get(&holder).cloned().unwrap_or(desired);
            self.unwritten.entry(holder).or_insert(Unwritten { desired, refusal: None });
        }
        let entry = pass(entry);
        let (done, _) = maps.write_routes(&[(holder, entry)]);
        if done == 1 {
            self.commit(holder, entry, now);
        }
        Ok(done)
    }

    /// Shortest first.
    fn remove(&mut self, maps: &Maps, prefixes: &[Prefix], now: Instant) -> Result<Removed, Error> {
        let mut removed = Removed::default();
        let mut there = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            self.pods.remove(prefix);
            removed.made_room |= self.unwritten.remove(prefix).is_some();
            if self.entries.get(*prefix).is_some() {
                there.push(*prefix);
            }
        }
        maps.remove_routes(&there)?;
        for prefix in &there {
            let Some(entry) = self.entries.remove(*prefix) else { continue };
            if self.is_outside(*prefix, entry) {
                self.outside.remove(*prefix);
            }
            self.release(entry, now);
            self.counters.release(entry.counter, now);
            self.index.remove(&self.entries, *prefix, now);
        }
        removed.entries = there.len();
        removed.made_room |= !there.is_empty();
        Ok(removed)
    }

    /// What could not be written so far, now that there is room. As far as it goes.
    fn try_again(
        &mut self,
        maps: &Maps,
        now: Instant,
        interface: KnownInterface<'_>,
    ) -> Result<usize, Error> {
        let mut written = 0;
        let mut full = HashSet::new();
        // There may be very many, of which few find room: no more is copied than what tells whether to try.
        let mut again: Vec<(Reverse<u8>, Prefix)> =
            self.unwritten.keys().map(|prefix| (Reverse(prefix.len()), *prefix)).collect();
        again.sort_unstable();
        for (_, prefix) in again {
            // One that is not there needs room of its own; where there is none there is none for the next either.
            if full.contains(&prefix.is_v4()) && self.entries.get(prefix).is_none() {
                continue;
            }
            let Some(Unwritten { desired, refusal }) = self.unwritten.get(&prefix) else { continue };
            if refusal.is_none() && self.hides_refused(prefix) {
                continue;
            }
            let route = desired.clone();
            written += self.upsert(maps, &[&route], &Moves::new(), now, interface)?;
            if matches!(self.refusal(prefix), Some(Refusal::MapFull(_))) {
                full.insert(prefix.is_v4());
            }
        }
        Ok(written)
    }

    /// Writes what the index has to say, after the slots that it names.
    pub fn flush(&mut self, maps: &Maps, now: Instant) -> Result<(), Error> {
        maps.execute(&self.groups.take_writes())?;
        loop {
            let changes = self.index.take_changes(&self.entries, now);
            maps.store(&changes.stores);
            let refused = maps.blocks6.write(&changes.blocks6, now);
            self.index.note_refused(&changes, &refused);
            if let Some(indexed) = self.index.take_pools(&self.entries) {
                pools::write_set(maps, &indexed)?;
            }
            maps.blocks6.remove(&changes.gone6, now);
            let more = !changes.gone6.is_empty() && self.index.offer_lacking();
            if !more {
                return Ok(());
            }
        }
    }

    /// Each entry's mark of its pool, where it is another's now.
    pub fn mark_pools(&mut self, maps: &Maps) -> Result<(), Error> {
        let changed: Vec<(Prefix, abi::Route)> = self
            .entries
            .iter()
            .filter_map(|(prefix, entry)| {
                let pool = self.pools.mark(prefix);
                (pool != entry.pool).then_some((prefix, abi::Route { pool, ..entry }))
            })
            .collect();
        let (v4, v6): (Vec<_>, Vec<_>) = changed.into_iter().partition(|(prefix, _)| prefix.is_v4());
        for routes in [v4, v6] {
            let (done, refusal) = maps.write_routes(&routes);
            for (prefix, entry) in routes.into_iter().take(done) {
                // The same slots are named as before.
                self.entries.insert(prefix, entry);
            }
            if let Some(refusal) = refusal {
                let reason = refusal.to_string();
                return Err(Error::Map { map: abi::map::ROUTES4, action: "marking pools", reason });
            }
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Removed {
    entries: usize,
    made_room: bool,
}

fn pass(entry: abi::Route) -> abi::Route {
    abi::Route { action: abi::Action::Pass, target: 0, ..entry }
}
