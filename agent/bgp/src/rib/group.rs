//! An update group: the peers to which the same bytes go. It keeps eight octets for each route (what was decided
//! for these peers, and where the route's latest entry in the log is) and a log of route numbers. A peer is a
//! cursor into the log. Only a route's latest entry counts, so a peer that lags finds the newest state once,
//! however often the route changed; a batch is encoded once, for whoever stands at the same place.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::BytesMut;

use super::{
    announced::AnnouncedCounts,
    batch::{self, Audience, Batch, Extent, close_part},
    export::{ExportRules, GroupKey, Source, outgoing},
    forms::{Form, Sorted},
    group_paths::PathsOut,
    table::{OWN, PeerSlot, Route, RouteId, Table},
};
use crate::{
    attr::encode::encode,
    message::update::{Nlri, write_announcements, write_withdrawals},
    view::Export,
};

/// Nobody: [`OutState::source`] of a route that was never announced.
const NOBODY: PeerSlot = PeerSlot::MAX - 1;
/// Encoded batches are kept for members that come to the same place later, up to so many octets.
const KEPT_OCTETS: usize = 1 << 20;

/// What a group keeps of a route.
#[derive(Clone, Copy, Debug)]
struct OutState {
    /// The low bits of the place of the latest log entry.
    latest: u32,
    /// From whom the route came that was announced last.
    source: PeerSlot,
    /// `None`: not looked at yet, and nothing sent to anybody.
    export: Option<Export>,
    /// The source of what is announced now may hold an earlier announcement of ours, made for a route of
    /// somebody else, and must be told that it is gone.
    displaced: bool,
}

const UNSEEN: OutState = OutState { latest: 0, source: NOBODY, export: None, displaced: false };

impl OutState {
    /// To whom it may be news that the route is gone: not to the only one from whom it has ever come.
    fn knowing(self) -> Audience {
        if self.displaced { Audience::All } else { Audience::AllBut(self.source) }
    }
}

#[derive(Debug)]
pub struct Group {
    pub key: GroupKey,
    state: Vec<OutState>,
    /// Only where the members take several paths for a prefix.
    pub(super) paths: Vec<PathsOut>,
    log: VecDeque<RouteId>,
    /// The place of the log's first entry.
    base: u64,
    /// Where each member stands, and how many stand where.
    members: BTreeMap<PeerSlot, u64>,
    cursors: BTreeMap<u64, usize>,
    kept: BTreeMap<u64, Arc<Batch>>,
    kept_octets: usize,
    /// How often an entry was outdated that some member had yet to pass.
    superseded: u64,
    /// Routes announced, in all and by source.
    announced: AnnouncedCounts,
    /// Set while the routes are judged under new rules one after the other.
    pub transition: Option<Transition>,
}

/// A group on its way to new rules.
#[derive(Debug)]
pub struct Transition {
    pub number: u64,
    /// What the members know of the routes from `next` on was sent under these.
    pub earlier: ExportRules,
    pub next: RouteId,
}

impl Group {
    pub fn new(key: GroupKey) -> Group {
        Group {
            key,
            state: Vec::new(),
            paths: Vec::new(),
            log: VecDeque::new(),
            base: 0,
            members: BTreeMap::new(),
            cursors: BTreeMap::new(),
            kept: BTreeMap::new(),
            kept_octets: 0,
            superseded: 0,
            announced: AnnouncedCounts::default(),
            transition: None,
        }
    }

    /// A group without members that has told them all that this one has, for those who go on under other rules.
    pub fn split(&self, rules: ExportRules, number: u64) -> Group {
        let transition = Transition { number, earlier: self.key.rules.clone(), next: 0 };
        Group {
            key: GroupKey { rules, ..self.key.clone() },
            state: self.state.clone(),
            paths: self.paths.clone(),
            log: self.log.clone(),
            base: self.base,
            superseded: self.superseded,
            announced: self.announced.clone(),
            transition: Some(transition),
            ..Group::new(self.key.clone())
        }
    }

    /// Is what was sent of the route still what earlier rules made of it?
    pub fn is_in_transition(&self, id: RouteId) -> bool {
        self.transition.as_ref().is_some_and(|transition| id >= transition.next)
    }

    pub fn end(&self) -> u64 {
        self.base + self.log.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn members(&self) -> impl Iterator<Item = PeerSlot> {
        self.members.keys().copied()
    }

    pub fn has(&self, peer: PeerSlot) -> bool {
        self.members.contains_key(&peer)
    }

    /// Where a member stands; the end for who is none.
    pub fn cursor(&self, peer: PeerSlot) -> u64 {
        self.members.get(&peer).copied().unwrap_or_else(|| self.end())
    }

    /// The peer stands at `cursor` from now on.
    pub fn move_to(&mut self, peer: PeerSlot, cursor: u64) {
        *self.cursors.entry(cursor).or_default() += 1;
        if let Some(before) = self.members.insert(peer, cursor) {
            self.vacate(before);
        }
    }

    pub fn leave(&mut self, peer: PeerSlot) {
        if let Some(before) = self.members.remove(&peer) {
            self.vacate(before);
        }
    }

    fn vacate(&mut self, cursor: u64) {
        if let Some(count) = self.cursors.get_mut(&cursor) {
            *count -= 1;
            if *count == 0 {
                self.cursors.remove(&cursor);
                self.trim();
            }
        }
    }

    /// Drops what every member has passed.
    pub(super) fn trim(&mut self) {
        let first = self.cursors.keys().next().copied().unwrap_or_else(|| self.end());
        let passed = first.saturating_sub(self.base) as usize;
        self.log.drain(..passed.min(self.log.len()));
        self.base = self.base.max(first);
        while let Some(entry) = self.kept.first_entry()
            && entry.get().to <= first
        {
            self.kept_octets -= entry.remove().octets.len();
        }
        if self.log.is_empty() && self.log.capacity() > 4 * batch::MOST_ROUTES {
            self.log = VecDeque::new();
        }
    }

    pub fn export(&self, id: RouteId) -> Option<Export> {
        self.state.get(id as usize)?.export
    }

    /// Is the route's latest state still ahead of a member that stands at `cursor`?
    pub fn is_ahead(&self, id: RouteId, cursor: u64) -> bool {
        let Some(state) = self.state.get(id as usize) else { return false };
        let place = state.latest.wrapping_sub(self.base as u32) as usize;
        self.log.get(place) == Some(&id) && self.base + place as u64 >= cursor
    }

    /// Does any member have yet to pass the route's latest state?
    pub fn refers_to(&self, id: RouteId) -> bool {
        self.is_ahead(id, self.base)
    }

    /// The route's number is free.
    pub fn forget(&mut self, id: RouteId) {
        if let Some(state) = self.state.get_mut(id as usize) {
            *state = UNSEEN;
        }
        self.forget_paths(id);
    }

    /// Routes announced to a member, or paths where it takes several: all but its own.
    pub fn announced_to(&self, peer: PeerSlot) -> u64 {
        self.announced.told_to(peer)
    }

    pub(super) fn make_room(&mut self, id: RouteId) {
        if self.state.len() <= id as usize {
            self.state.resize(id as usize + 1, UNSEEN);
        }
    }

    pub(super) fn set_export(&mut self, id: RouteId, export: Export) {
        if let Some(state) = self.state.get_mut(id as usize) {
            state.export = Some(export);
        }
    }

    /// One more of the source's is announced, or one less.
    pub(super) fn count(&mut self, source: PeerSlot, more: bool) {
        if more {
            self.announced.add(source);
        } else {
            self.announced.remove(source);
        }
    }

    fn set(&mut self, id: RouteId, export: Export, source: PeerSlot) -> bool {
        self.make_room(id);
        #[expect(clippy::indexing_slicing, reason = "`make_room` made it reach `id`")]
        let OutState { source: before, export: exported, .. } = self.state[id as usize];
        let was_sent = exported == Some(Export::Sent);
        if was_sent {
            self.count(before, false);
        }
        if export == Export::Sent {
            self.count(source, true);
        }
        #[expect(clippy::indexing_slicing, reason = "as above")]
        let state = &mut self.state[id as usize];
        state.export = Some(export);
        if export == Export::Sent && state.source != source {
            state.displaced = state.source != NOBODY;
            state.source = source;
        }
        was_sent
    }

    /// The best path of a route is another, or none any more. True if the members have to be told.
    pub fn record(&mut self, id: RouteId, export: Export, source: PeerSlot, routes: usize) -> bool {
        let was_sent = self.set(id, export, source);
        if !was_sent && export != Export::Sent {
            return false;
        }
        self.append(id, routes);
        true
    }

    /// What is announced comes from another source now, and nobody who is told of it can tell.
    pub fn hand_over(&mut self, id: RouteId, source: PeerSlot) {
        self.set(id, Export::Sent, source);
    }

    /// The rules changed and the best path did not: tells only what flips.
    pub fn rejudge(&mut self, id: RouteId, export: Export, source: PeerSlot, routes: usize) -> bool {
        match self.export(id) {
            None => false,
            Some(before) => {
                self.set(id, export, source);
                let flips = (before == Export::Sent) != (export == Export::Sent);
                if flips {
                    self.append(id, routes);
                }
                flips
            }
        }
    }

    /// A member's first table reaches a route that nobody has looked at.
    pub fn see(&mut self, id: RouteId, export: impl FnOnce() -> (Export, PeerSlot)) {
        if self.export(id).is_none() {
            let (export, source) = export();
            self.set(id, export, source);
        }
    }

    pub(super) fn append(&mut self, id: RouteId, routes: usize) {
        // Of more entries than this at least half are dead.
        if self.log.len() > 2 * routes + 1024 {
            self.compact();
        }
        self.superseded += u64::from(self.refers_to(id));
        let place = self.end();
        #[expect(clippy::indexing_slicing, reason = "`set` made room")]
        let state = &mut self.state[id as usize];
        state.latest = place as u32;
        self.log.push_back(id);
    }

    /// Drops dead entries for the sake of a member that lags. Places change, but never to one used before.
    fn compact(&mut self) {
        let old_base = self.base;
        let new_base = self.end();
        let mut moved: BTreeMap<u64, u64> = BTreeMap::new();
        let mut cursors = self.cursors.keys().copied().peekable();
        let mut alive = VecDeque::new();
        for (offset, id) in std::mem::take(&mut self.log).into_iter().enumerate() {
            let place = old_base + offset as u64;
            while let Some(cursor) = cursors.next_if(|&cursor| cursor <= place) {
                moved.insert(cursor, new_base + alive.len() as u64);
            }
            #[expect(clippy::indexing_slicing, reason = "what is logged has state")]
            let state = &mut self.state[id as usize];
            if state.latest == place as u32 {
                state.latest = (new_base + alive.len() as u64) as u32;
                alive.push_back(id);
            }
        }
        for cursor in cursors {
            moved.insert(cursor, new_base + alive.len() as u64);
        }
        self.log = alive;
        self.base = new_base;
        self.cursors.clear();
        for cursor in self.members.values_mut() {
            // Every member's place is among the keys that were just moved.
            *cursor = moved.get(cursor).copied().unwrap_or(new_base);
            *self.cursors.entry(*cursor).or_default() += 1;
        }
        self.kept.clear();
        self.kept_octets = 0;
    }

    /// What comes after `cursor`, encoded; from the kept batches if somebody was here before.
    pub fn batch_after<P: Nlri>(
        &mut self,
        cursor: u64,
        table: &Table<P>,
        source: impl Fn(PeerSlot) -> Option<Source>,
    ) -> Arc<Batch> {
        // A batch that tells of what has changed since would make a member that lags live through history.
        if let Some(batch) = self.kept.get(&cursor).filter(|batch| batch.superseded == self.superseded) {
            return batch.clone();
        }
        let (mut ids, mut extent) = (Vec::new(), Extent::default());
        let mut place = cursor;
        let start = cursor.saturating_sub(self.base) as usize;
        for &id in self.log.iter().skip(start) {
            if extent.is_full() {
                break;
            }
            #[expect(clippy::indexing_slicing, reason = "what is logged has state")]
            if self.state[id as usize].latest == place as u32 {
                ids.push(id);
                match table.get(id) {
                    Some(route) if self.key.add_path > 0 => extent.add(self.sets(id, route)),
                    route => extent.add(route.and_then(Route::best).map(|best| &best.attributes)),
                }
            }
            place += 1;
        }
        let mut batch = if self.key.add_path > 0 {
            self.encode_paths(&ids, Vec::new(), false, table, source)
        } else {
            self.encode(&ids, Vec::new(), table, source)
        };
        (batch.to, batch.superseded) = (place, self.superseded);
        let batch = Arc::new(batch);
        self.kept_octets += batch.octets.len();
        if let Some(outdated) = self.kept.insert(cursor, batch.clone()) {
            self.kept_octets -= outdated.octets.len();
        }
        while self.kept_octets > KEPT_OCTETS
            && let Some((_, oldest)) = self.kept.pop_first()
        {
            self.kept_octets -= oldest.octets.len();
        }
        batch
    }

    /// The present state of these routes: announcements by attribute set, withdrawals for what is not announced,
    /// and for `gone`.
    pub fn encode<P: Nlri>(
        &mut self,
        ids: &[RouteId],
        gone: Vec<P>,
        table: &Table<P>,
        source: impl Fn(PeerSlot) -> Option<Source>,
    ) -> Batch {
        let rules = self.key.rules.clone();
        let mut told_to = if gone.is_empty() { None } else { Some(Audience::All) };
        let mut sorted = Sorted::withdrawing(gone);
        for &id in ids {
            let Some(route) = table.get(id) else { continue };
            let state = self.state.get(id as usize).copied().unwrap_or(UNSEEN);
            match (state.export, route.best()) {
                (Some(Export::Sent), Some(best)) => {
                    let (set, learned) = (&best.attributes, best.peer != OWN);
                    let verdict = rules.judge(route.prefix.into(), set, learned, self.key.kind);
                    // What the rules refuse is not sent even while the verdicts of earlier ones still stand.
                    let Some(changes) = verdict.changes() else {
                        sorted.withdrawn.push(route.prefix);
                        told_to = Some(state.knowing().and(told_to));
                        continue;
                    };
                    let displaced = state.displaced;
                    let form = Form { attributes: set, changes, source: best.peer, displaced };
                    sorted.announce(id, route.prefix, form);
                }
                _ => {
                    sorted.withdrawn.push(route.prefix);
                    told_to = Some(state.knowing().and(told_to));
                }
            }
        }

        let mut out = BytesMut::new();
        let mut parts = Vec::new();
        write_withdrawals(&mut out, &sorted.withdrawn);
        close_part(&mut parts, out.len(), told_to.unwrap_or(Audience::All));
        let mut attributes = BytesMut::new();
        let mut too_long = Vec::new();
        for bucket in sorted.buckets() {
            let form = bucket.form;
            let set = rules.changed(form.attributes, form.changes);
            let written = outgoing(&set, source(form.source), &self.key).and_then(|outgoing| {
                attributes.clear();
                encode(&mut attributes, &set, &outgoing);
                write_announcements(
                    &mut out,
                    &bucket.prefixes,
                    &attributes,
                    &outgoing.mp_next_hop(),
                    self.key.extended_messages,
                )
            });
            if written.is_some() {
                close_part(&mut parts, out.len(), Audience::AllBut(form.source));
                if form.displaced {
                    write_withdrawals(&mut out, &bucket.prefixes);
                    close_part(&mut parts, out.len(), Audience::Only(form.source));
                }
            } else {
                // Behaviour 51.
                write_withdrawals(&mut out, &bucket.prefixes);
                close_part(&mut parts, out.len(), Audience::All);
                too_long.extend(bucket.ids);
            }
        }
        for id in too_long {
            self.set(id, Export::TooLong, NOBODY);
        }
        Batch::new(out.freeze(), parts)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::{
        config::{Family, NextHopMode},
        rib::export::PeerKind,
    };

    fn group() -> Group {
        Group::new(GroupKey {
            family: Family::Ipv4Unicast,
            kind: PeerKind::Ibgp { client: true },
            next_hop_mode: NextHopMode::Auto,
            self_next_hop: None,
            extended_next_hop: false,
            role: None,
            link_local: None,
            cluster_id: Ipv4Addr::LOCALHOST,
            client_to_client: true,
            four_octet: true,
            extended_messages: false,
            long_lived: true,
            add_path: 0,
            rules: ExportRules::default(),
        })
    }

    /// Behaviour 53.
    #[test]
    fn a_member_that_lags_keeps_at_most_a_few_entries_for_each_route() {
        let mut group = group();
        group.move_to(1, 0);
        for n in 0..100_000 {
            group.record(n % 10, Export::Sent, 7, 10);
            assert!(group.log.len() <= 2 * 10 + 1025, "{}", group.log.len());
        }
        assert!((0..10).all(|id| group.is_ahead(id, group.cursor(1))));
        group.move_to(1, group.end());
        assert!(group.log.is_empty() && !group.refers_to(3));
        assert_eq!((group.announced_to(1), group.announced_to(7)), (10, 0));
    }

    /// Whoever stood between live entries still does after the log has been cleared of dead ones.
    #[test]
    fn members_keep_their_places_when_the_log_is_compacted() {
        let mut group = group();
        group.move_to(1, 0);
        group.record(100, Export::Sent, 7, 10);
        group.record(101, Export::Sent, 7, 10);
        group.move_to(2, group.end());
        for _ in 0..5000 {
            group.record(5, Export::Sent, 7, 10);
        }
        for (peer, expected) in [(1, [true, true, true]), (2, [false, false, true])] {
            let cursor = group.cursor(peer);
            assert_eq!([100, 101, 5].map(|id| group.is_ahead(id, cursor)), expected, "{peer}");
        }
    }
}
