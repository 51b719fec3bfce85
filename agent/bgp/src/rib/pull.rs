//! What a peer is sent, when it asks for it: its first table, the log of its group, and the markers between.
//! Nothing is prepared earlier, so a peer whose socket is full costs its cursor and at most one batch.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{
    Kept, PathKey, PeerSlot, Rib, Route, RouteId, Table,
    batch::{Batch, Extent},
    by_family,
    earlier::Announced,
    export::{GroupKey, Source},
    group::Group,
    group_paths::judged_paths,
    judged, source,
};
use crate::{
    config::Family,
    message::{
        length_of_first,
        refresh::{RefreshKind, RouteRefresh},
        update::{Named, end_of_rib},
    },
    view::Export,
};

/// Routes of one batch of a first table.
const DUMP_ROUTES: u32 = 32 * 1024;

/// A peer's place in a group.
#[derive(Debug)]
pub struct Membership {
    pub(super) group: usize,
    phase: Phase,
    /// What the peer is in the middle of: the batch, and the octets of it that have been handed out.
    current: Option<(Arc<Batch>, usize)>,
    /// Messages to go before anything else of this family.
    queued: VecDeque<Bytes>,
    /// The table has gone out, and its End-of-RIB waits ([`Rib::hold_end_of_rib`]).
    owes_end: bool,
}

#[derive(Debug)]
enum Phase {
    /// The speaker is restarting and says nothing yet.
    Held,
    /// The table as it is, from this route on.
    Dump {
        next: RouteId,
        held: Option<Arc<Announced>>,
        then: Then,
        /// Nothing has been given out yet, so the peer knows no more than is `held`.
        fresh: bool,
    },
    /// The group's log.
    Follow,
}

/// What ends a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    EndOfRib,
    EndOfRefresh,
    Nothing,
}

impl Membership {
    /// Must the route's number not be given to another prefix, on this peer's account?
    pub fn holds(&self, id: RouteId) -> bool {
        match &self.phase {
            Phase::Dump { next, held: Some(held), .. } => id >= *next && held.contains(id),
            _ => false,
        }
    }

    /// What an earlier group may have told the peer, of the routes from this one on.
    pub(super) fn held(&self) -> Option<(RouteId, &Arc<Announced>)> {
        match &self.phase {
            Phase::Dump { next, held: Some(held), .. } => Some((*next, held)),
            _ => None,
        }
    }

    /// Has the peer's table yet to reach this route?
    pub fn awaits(&self, id: RouteId) -> bool {
        match self.phase {
            Phase::Held => true,
            Phase::Dump { next, .. } => id >= next,
            Phase::Follow => false,
        }
    }
}

/// What a pull gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    pub octets: usize,
    pub messages: u64,
}

impl Rib {
    /// The peer belongs to the group with this key from now on. A new member gets the whole table and End-of-RIB; one
    /// that comes from another group gets the table again, and withdrawals for what it may have and should not.
    pub fn join(&mut self, slot: PeerSlot, key: GroupKey) {
        let family = key.family;
        let Some(peer) = self.peer(slot) else { return };
        if let Some(member) = &peer.members[family]
            && let Some(Some(group)) = self.groups.get(member.group)
        {
            let number = member.group;
            if group.key == key || self.follow_rules(slot, &key) {
                return;
            }
            let Some(held) = self.announced_by(number) else { return };
            let Some(left) = self.leave(slot, family) else { return };
            let phase = match left.phase {
                Phase::Held => Phase::Held,
                Phase::Dump { then, .. } => Phase::Dump { next: 0, held: Some(held), then, fresh: true },
                Phase::Follow => Phase::Dump { next: 0, held: Some(held), then: Then::Nothing, fresh: true },
            };
            self.enter(slot, key, Membership { phase, ..left });
            return;
        }
        let phase = if self.deferred || self.jobs_hold_members() {
            Phase::Held
        } else {
            Phase::Dump { next: 0, held: None, then: Then::EndOfRib, fresh: true }
        };
        let member = Membership { group: 0, phase, current: None, queued: VecDeque::new(), owes_end: false };
        self.enter(slot, key, member);
    }

    /// After a restart the first tables wait until everything is chosen.
    fn jobs_hold_members(&self) -> bool {
        self.peers
            .iter()
            .flatten()
            .flat_map(|peer| peer.members.iter())
            .flatten()
            .any(|m| matches!(m.phase, Phase::Held))
    }

    /// Whatever group it was in.
    fn enter(&mut self, slot: PeerSlot, key: GroupKey, member: Membership) {
        let family = key.family;
        let found = self.group_of(&key);
        let number = found.unwrap_or_else(|| self.add_group(Group::new(key)));
        if let Some(Some(group)) = self.groups.get_mut(number) {
            let end = group.end();
            group.move_to(slot, end);
        }
        if let Some(peer) = self.peer_mut(slot) {
            peer.members[family] = Some(Membership { group: number, ..member });
        }
        self.touch(number);
    }

    pub(super) fn group_of(&self, key: &GroupKey) -> Option<usize> {
        self.groups.iter().position(|group| group.as_ref().is_some_and(|group| group.key == *key))
    }

    /// Its number is a free one.
    pub(super) fn add_group(&mut self, group: Group) -> usize {
        if group.key.add_path > 0 {
            self.rank_paths();
        }
        match self.groups.iter().position(Option::is_none) {
            Some(free) => {
                #[expect(clippy::indexing_slicing, reason = "`position` found it")]
                let place = &mut self.groups[free];
                *place = Some(group);
                free
            }
            None => {
                self.groups.push(Some(group));
                self.groups.len() - 1
            }
        }
    }

    pub(super) fn touch(&mut self, number: usize) {
        if !self.touched.contains(&number) {
            self.touched.push(number);
        }
    }

    /// The peer's session is over, or goes to another group.
    pub fn leave(&mut self, slot: PeerSlot, family: Family) -> Option<Membership> {
        let member = self.peer_mut(slot)?.members[family].take()?;
        // It may have been the last that referred to many routes.
        self.freeing = true;
        let group = self.groups.get_mut(member.group)?;
        if let Some(left) = group {
            left.leave(slot);
            if left.is_empty() {
                *group = None;
                self.moves.retain(|&(from, _)| from != member.group);
            }
        }
        Some(member)
    }

    /// The peer wants everything again (RFC 2918), between the marks of RFC 7313 if both sides know them.
    pub fn replay(&mut self, slot: PeerSlot, family: Family, enhanced: bool) {
        let Some(peer) = self.peer_mut(slot) else { return };
        let Some(member) = &mut peer.members[family] else { return };
        match &mut member.phase {
            // It is about to get everything anyway.
            Phase::Held => return,
            Phase::Dump { next, then, .. } => {
                *next = 0;
                if *then == Then::Nothing {
                    *then = if enhanced { Then::EndOfRefresh } else { Then::Nothing };
                }
            }
            phase @ Phase::Follow => {
                let then = if enhanced { Then::EndOfRefresh } else { Then::Nothing };
                *phase = Phase::Dump { next: 0, held: None, then, fresh: false };
            }
        }
        if let Phase::Dump { then: Then::EndOfRefresh, .. } = member.phase {
            // One that the peer has yet to read says it for this request, too.
            let begin = RouteRefresh { family, kind: RefreshKind::Begin }.encode();
            if !member.queued.contains(&begin) {
                member.queued.push_back(begin);
            }
        }
        let number = member.group;
        self.touch(number);
    }

    /// First tables go out without their End-of-RIB until [`Self::release_end_of_rib`].
    pub fn hold_end_of_rib(&mut self) {
        self.holds_end_of_rib = true;
    }

    /// Whoever waits for End-of-RIB gets it after all that has changed by now.
    pub fn release_end_of_rib(&mut self) {
        self.holds_end_of_rib = false;
        for number in 0..self.groups.len() {
            self.touch(number);
        }
    }

    /// Members that were held get their first tables.
    pub(super) fn release_members(&mut self) {
        for slot in 0..self.peers.len() {
            for family in Family::ALL {
                #[expect(clippy::indexing_slicing, reason = "`slot` is below the number of peers")]
                let Some(member) = self.peers[slot].as_mut().and_then(|p| p.members[family].as_mut()) else {
                    continue;
                };
                if matches!(member.phase, Phase::Held) {
                    member.phase = Phase::Dump { next: 0, held: None, then: Then::EndOfRib, fresh: true };
                    let number = member.group;
                    if let Some(Some(group)) = self.groups.get_mut(number) {
                        let end = group.end();
                        group.move_to(slot as PeerSlot, end);
                    }
                    self.touch(number);
                }
            }
        }
    }

    /// Changes that the peer has yet to take.
    pub fn unread(&self, slot: PeerSlot) -> u64 {
        let Some(peer) = self.peer(slot) else { return 0 };
        let unread = |family: Family| {
            let member = peer.members[family].as_ref()?;
            let group = self.groups.get(member.group)?.as_ref()?;
            let table = match member.phase {
                Phase::Dump { next, .. } => {
                    let end = by_family!(family, P => P::table(&self.tables).end());
                    u64::from(end.saturating_sub(next))
                }
                Phase::Held | Phase::Follow => 0,
            };
            Some(table + group.end().saturating_sub(group.cursor(slot)))
        };
        Family::ALL.into_iter().filter_map(unread).sum()
    }

    /// Peers for whom something new may be waiting.
    pub fn take_touched(&mut self) -> Vec<PeerSlot> {
        let touched = std::mem::take(&mut self.touched);
        touched
            .into_iter()
            .filter_map(|number| self.groups.get(number)?.as_ref())
            .flat_map(Group::members)
            .collect()
    }

    pub fn has_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Prefixes announced to the peer, or about to be.
    pub fn announced_count(&self, slot: PeerSlot) -> u64 {
        let Some(peer) = self.peer(slot) else { return 0 };
        let members = peer.members.iter().flatten();
        members.filter_map(|member| Some(self.groups.get(member.group)?.as_ref()?.announced_to(slot))).sum()
    }

    /// Appends whole messages of this family for the peer, up to `budget` octets but at least one message.
    pub fn pull(&mut self, slot: PeerSlot, family: Family, budget: usize, out: &mut Vec<Bytes>) -> Pulled {
        let mut pulled = Pulled::default();
        while pulled.octets < budget {
            let Some(member) = self.peer_mut(slot).and_then(|peer| peer.members[family].as_mut()) else {
                break;
            };
            if let Some((batch, done)) = &mut member.current {
                let batch = batch.clone();
                if hand_out(&batch, done, slot, budget, out, &mut pulled) {
                    member.current = None;
                }
            } else if let Some(message) = member.queued.pop_front() {
                pulled.octets += message.len();
                pulled.messages += 1;
                out.push(message);
            } else if !by_family!(family, P => self.next_batch::<P>(slot)) {
                break;
            }
        }
        pulled
    }

    /// Gets the member its next batch. False: there is nothing to send now.
    fn next_batch<P: Kept>(&mut self, slot: PeerSlot) -> bool {
        let family = P::FAMILY;
        let Some(member) = self
            .peers
            .get_mut(usize::from(slot))
            .and_then(Option::as_mut)
            .and_then(|p| p.members[family].take())
        else {
            return false;
        };
        let (member, more) = self.fill::<P>(slot, member);
        if let Some(peer) = self.peer_mut(slot) {
            peer.members[family] = Some(member);
        }
        more
    }

    fn fill<P: Kept>(&mut self, slot: PeerSlot, mut member: Membership) -> (Membership, bool) {
        let table = P::table(&self.tables);
        let Some(Some(group)) = self.groups.get_mut(member.group) else { return (member, false) };
        let peers = &self.peers;
        // What was logged since the peer joined is in the table that it is about to get.
        if let Phase::Dump { fresh, .. } = &mut member.phase
            && std::mem::take(fresh)
        {
            let end = group.end();
            group.move_to(slot, end);
        }
        let batch = match &mut member.phase {
            Phase::Held => return (member, false),
            Phase::Dump { next, held, .. } if *next < table.end() => {
                let end = table.end().min(next.saturating_add(DUMP_ROUTES));
                let key = group.key.clone();
                if key.add_path > 0 {
                    let (batch, to) = dump_paths(
                        group,
                        *next..end,
                        held.as_deref(),
                        table,
                        |route| {
                            let policy = self.policy.judge(route.prefix.into());
                            judged_paths(route, self.wanted, |slot| source(peers, slot), policy, &key)
                        },
                        |slot| source(peers, slot),
                    );
                    *next = to;
                    member.current = Some((Arc::new(batch), 0));
                    return (member, true);
                }
                let (mut ids, mut gone) = (Vec::new(), Vec::new());
                let mut extent = Extent::default();
                let unlooked = *next..end;
                for id in unlooked {
                    if extent.is_full() {
                        break;
                    }
                    *next = id + 1;
                    let Some(route) = table.get(id) else { continue };
                    group.see(id, || judged(route, peers, self.policy.judge(route.prefix.into()), &key));
                    let from_here = route.best().is_some_and(|best| best.peer == slot);
                    if group.export(id) == Some(Export::Sent) && !from_here {
                        ids.push(id);
                        extent.add(route.best().map(|best| &best.attributes));
                    } else if held.as_ref().is_some_and(|held| held.contains(id)) {
                        gone.push(route.prefix);
                    }
                }
                Arc::new(group.encode(&ids, gone, table, |slot| source(peers, slot)))
            }
            Phase::Dump { then, .. } => {
                match then {
                    Then::EndOfRib if self.holds_end_of_rib => member.owes_end = true,
                    Then::EndOfRib => member.queued.push_back(end_of_rib(P::FAMILY)),
                    Then::EndOfRefresh => {
                        let end = RouteRefresh { family: P::FAMILY, kind: RefreshKind::End };
                        member.queued.push_back(end.encode());
                    }
                    Then::Nothing => {}
                }
                member.phase = Phase::Follow;
                return (member, true);
            }
            Phase::Follow => {
                let cursor = group.cursor(slot);
                if cursor == group.end() && member.owes_end && !self.holds_end_of_rib {
                    member.owes_end = false;
                    member.queued.push_back(end_of_rib(P::FAMILY));
                    return (member, true);
                }
                if cursor == group.end() {
                    // It may have been the last that referred to many routes.
                    self.freeing = true;
                    return (member, false);
                }
                let batch = group.batch_after(cursor, table, |slot| source(peers, slot));
                group.move_to(slot, batch.to);
                batch
            }
        };
        member.current = Some((batch, 0));
        (member, true)
    }
}

/// A piece of a table, for a group whose members take several paths for a prefix, and where it ends: before the end of
/// `ids` if it is full.
fn dump_paths<P: Kept>(
    group: &mut Group,
    ids: Range<RouteId>,
    held: Option<&Announced>,
    table: &Table<P>,
    judge: impl Fn(&Route<P>) -> SmallVec<[(PathKey, Export); 4]>,
    source: impl Fn(PeerSlot) -> Option<Source>,
) -> (Batch, RouteId) {
    let (mut dumped, mut gone) = (Vec::new(), Vec::new());
    let (mut extent, mut end) = (Extent::default(), ids.start);
    for id in ids {
        if extent.is_full() {
            break;
        }
        end = id + 1;
        let Some(route) = table.get(id) else { continue };
        group.see_paths(id, || judge(route));
        extent.add(group.sets(id, route));
        dumped.push(id);
        let is_sent =
            |name| group.path_exports(id).any(|path| path.export == Export::Sent && path.key.name() == name);
        let names = held.into_iter().flat_map(|held| held.names(id));
        gone.extend(names.filter(|&name| !is_sent(name)).map(|id| Named { id, prefix: route.prefix }));
    }
    (group.encode_paths(&dumped, gone, true, table, source), end)
}

/// Hands out what of the batch is for this peer, cut at messages. True when all of it is out.
fn hand_out(
    batch: &Batch,
    done: &mut usize,
    slot: PeerSlot,
    budget: usize,
    out: &mut Vec<Bytes>,
    pulled: &mut Pulled,
) -> bool {
    for &(end, audience) in &batch.parts {
        if *done >= end {
            continue;
        }
        if !audience.includes(slot) {
            *done = end;
            continue;
        }
        let start = *done;
        while *done < end && (pulled.octets < budget) {
            // Parts are whole messages that we wrote.
            let Some(length) = batch.octets.get(*done..end).and_then(length_of_first) else {
                *done = end;
                break;
            };
            *done += length;
            pulled.octets += length;
            pulled.messages += 1;
        }
        if *done > start {
            out.push(batch.octets.slice(start..*done));
        }
        if *done < end {
            return false;
        }
    }
    true
}
