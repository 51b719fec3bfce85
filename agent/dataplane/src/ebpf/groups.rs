//! Next-hop groups: what the routes' words name. A group is one next hop or a set of buckets, and its one word can
//! be made to say something else: so a next hop that changes under ten thousand routes is one store. Pure: what has
//! to be written comes out as [`Write`]s, in the order in which it may be.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use manx_abi::{BUCKETS, Group as Word, NextHop as Slot};

use super::{
    Refusal,
    buckets::{Assignment, agrees, assign},
    ids::{Ids, REST},
    maps::NextHopSlot,
};
use crate::route::NextHop;

/// Sorted and distinct, as a route has them.
pub(super) type Hops = Arc<[NextHop]>;

/// Groups that lead where another does are kept apart only if as many routes would have to be written to join them.
const TWIN: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    NextHop { id: u32, slot: NextHopSlot },
    Buckets { id: u32, hops: Box<Assignment<u32>> },
    Group { id: u32, word: u32 },
}

#[derive(Debug)]
struct Group {
    /// Empty where an earlier run's group says nothing that can be read.
    hops: Hops,
    target: Option<Word>,
    buckets: Option<Assignment<NextHop>>,
    /// Routes that name it.
    routes: usize,
    /// Since when none does.
    idle: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Groups {
    next_hops: Ids<NextHopSlot>,
    sets: Ids<Assignment<u32>>,
    groups: BTreeMap<u32, Group>,
    by_hops: HashMap<Hops, Vec<u32>>,
    resting: VecDeque<(Instant, u32)>,
    free: Vec<u32>,
    /// Never given out so far.
    fresh: std::ops::Range<u32>,
    writes: Vec<Write>,
    /// Neighbours that do not answer, next hops or not.
    silent: BTreeSet<NextHop>,
    /// Next hops of which the map says so.
    marked: BTreeSet<u32>,
}

/// A group that is about to lead elsewhere. It has to be carried out.
#[derive(Debug)]
#[must_use]
pub(super) struct Move {
    pub id: u32,
    pub hops: Hops,
    target: Word,
    buckets: Option<Assignment<NextHop>>,
}

/// What the maps of an earlier run say.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub next_hops: BTreeMap<u32, NextHopSlot>,
    pub sets: BTreeMap<u32, Assignment<u32>>,
    /// Words by group id.
    pub groups: BTreeMap<u32, u32>,
    /// Routes by group id.
    pub routes: BTreeMap<u32, usize>,
}

/// How many of each there can be; ids run from 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub next_hops: u32,
    pub sets: u32,
    pub groups: u32,
}

impl Groups {
    pub fn adopt(sizes: Sizes, found: Found, now: Instant) -> Groups {
        let used: BTreeMap<u32, u32> = found
            .groups
            .iter()
            .filter(|(id, _)| found.routes.contains_key(id))
            .map(|(id, word)| (*id, *word))
            .collect();
        let targets = || used.values().map(|word| Word(*word));
        let (mut hop_uses, mut set_uses) = (BTreeMap::<u32, usize>::new(), BTreeMap::<u32, usize>::new());
        for target in targets() {
            match target.target() {
                Ok(id) => *hop_uses.entry(id).or_default() += 1,
                Err(id) => {
                    *set_uses.entry(id).or_default() += 1;
                    let hops: BTreeSet<u32> = found.sets.get(&id).into_iter().flatten().copied().collect();
                    for hop in hops {
                        *hop_uses.entry(hop).or_default() += 1;
                    }
                }
            }
        }
        let is_marked = |(id, slot): (&u32, &NextHopSlot)| Slot::is_marked(slot).then_some(*id);
        let marked: BTreeSet<u32> = found.next_hops.iter().filter_map(is_marked).collect();
        let plain = found.next_hops.iter().map(|(id, slot)| (*id, Slot::marked(*slot, false)));
        let plain: BTreeMap<u32, NextHopSlot> = plain.collect();
        let silent = marked.iter().filter_map(|id| super::held::hop_of(*plain.get(id)?)).collect();
        let next_hops = Ids::adopt(sizes.next_hops, &plain, &hop_uses, now);
        let sets = Ids::adopt(sizes.sets, &found.sets, &set_uses, now);
        let highest = found.groups.keys().next_back().copied().unwrap_or(0);
        let mut groups = Groups {
            next_hops,
            sets,
            groups: BTreeMap::new(),
            by_hops: HashMap::new(),
            resting: VecDeque::new(),
            free: Vec::new(),
            fresh: (highest + 1).min(sizes.groups)..sizes.groups,
            writes: Vec::new(),
            silent,
            marked,
        };
        for id in 1..=highest.min(sizes.groups.saturating_sub(1)) {
            let routes = found.routes.get(&id).copied().unwrap_or(0);
            let target = used.get(&id).map(|word| Word(*word));
            let read = target.and_then(|target| groups.read(target));
            let (hops, buckets) = read.unwrap_or((Hops::default(), None));
            let idle = (routes == 0).then_some(now);
            if !hops.is_empty() {
                groups.by_hops.entry(hops.clone()).or_default().push(id);
            }
            if idle.is_some() {
                groups.resting.push_back((now, id));
            }
            groups.groups.insert(id, Group { hops, target, buckets, routes, idle });
        }
        groups
    }

    fn read(&self, target: Word) -> Option<(Hops, Option<Assignment<NextHop>>)> {
        let hop = |id: u32| super::held::hop_of(self.next_hops.content(id)?);
        match target.target() {
            Ok(id) => Some(([hop(id)?].into(), None)),
            Err(id) => {
                let ids = self.sets.content(id)?;
                let all: Vec<NextHop> = ids.iter().map(|id| hop(*id)).collect::<Option<_>>()?;
                let buckets: Assignment<NextHop> = all.clone().try_into().ok()?;
                let distinct: BTreeSet<NextHop> = all.into_iter().collect();
                Some((distinct.into_iter().collect(), Some(buckets)))
            }
        }
    }

    /// A group for one route more. `from` is the group that the route has had: its flows stay where they can.
    pub fn acquire(&mut self, hops: &Hops, from: Option<u32>, now: Instant) -> Result<u32, Refusal> {
        let before = from.and_then(|id| self.assignment(id));
        let known = self.by_hops.get(hops).map_or(&[][..], Vec::as_slice);
        let fits = |id: &&u32| match (&before, self.assignment(**id)) {
            (Some(before), Some(now)) => agrees(&now, before),
            _ => true,
        };
        // A newcomer takes its share from others: where that must be, the group that takes no more is as good as a
        // new one. Without it each of ten thousand routes that get a path more would have a group of its own.
        let best = || {
            let best = assign(hops, before.as_ref())?;
            known.iter().find(|id| self.assignment(**id) == Some(best))
        };
        let id = match known.iter().find(fits).or_else(best).copied() {
            Some(id) => id,
            None => match self.make(hops, before.as_ref(), now) {
                Ok(id) => id,
                // Flows may change their next hop, but they have one.
                Err(refusal) => known_first(&self.by_hops, hops).ok_or(refusal)?,
            },
        };
        if let Some(group) = self.groups.get_mut(&id) {
            group.routes += 1;
            group.idle = None;
        }
        Ok(id)
    }

    /// One route less names it.
    pub fn release(&mut self, id: u32, now: Instant) {
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.routes > 0) else { return };
        group.routes -= 1;
        if group.routes == 0 {
            group.idle = Some(now);
            self.resting.push_back((now, id));
            self.sweep(now);
        }
    }

    /// Whether a group whose routes all move to `hops` is better told so than its routes. With few routes it is not
    /// if there is a group already that leads there.
    pub fn is_worth_moving(&self, id: u32, hops: &Hops) -> bool {
        let routes = self.groups.get(&id).map_or(0, |group| group.routes);
        let others = self.by_hops.get(hops).is_some_and(|ids| ids.iter().any(|other| *other != id));
        routes > 0 && (routes >= TWIN || !others)
    }

    /// Makes ready that a group leads elsewhere, with all its routes. For packets nothing changes before
    /// [`Self::carry_out`]; but no other route gets the group any more, neither for where it leads now nor for where it will.
    pub fn prepare(&mut self, id: u32, hops: &Hops, now: Instant) -> Result<Move, Refusal> {
        let before = self.assignment(id);
        let (target, buckets) = self.target(hops, before.as_ref(), now)?;
        if let Some(led) = self.groups.get(&id).map(|group| group.hops.clone()) {
            self.forget(id, &led);
        }
        Ok(Move { id, hops: hops.clone(), target, buckets })
    }

    pub fn carry_out(&mut self, moved: Move, now: Instant) {
        let Move { id, hops, target, buckets } = moved;
        let Some(group) = self.groups.get_mut(&id) else { return };
        let old = Group {
            hops: std::mem::replace(&mut group.hops, hops.clone()),
            target: group.target.replace(target),
            buckets: std::mem::replace(&mut group.buckets, buckets),
            routes: 0,
            idle: None,
        };
        self.writes.push(Write::Group { id, word: target.0 });
        self.by_hops.entry(hops).or_default().push(id);
        self.let_go(&old, now);
    }

    /// The neighbours that do not answer, next hops or not: of those that are the slots say so from now on.
    pub fn set_silent(&mut self, silent: BTreeSet<NextHop>) -> Vec<(NextHop, bool)> {
        self.silent = silent;
        let hops = self.next_hops.live().filter_map(|(id, slot)| {
            let hop = super::held::hop_of(slot)?;
            let silent = self.silent.contains(&hop);
            (silent != self.marked.contains(&id)).then_some((id, slot, hop, silent))
        });
        let changed: Vec<_> = hops.collect();
        changed.iter().for_each(|(id, slot, _, silent)| self.mark(*id, *slot, *silent));
        changed.into_iter().map(|(_, _, hop, silent)| (hop, silent)).collect()
    }

    pub fn silent(&self) -> &BTreeSet<NextHop> {
        &self.silent
    }

    fn mark(&mut self, id: u32, slot: NextHopSlot, silent: bool) {
        if silent {
            self.marked.insert(id);
        } else {
            self.marked.remove(&id);
        }
        self.writes.push(Write::NextHop { id, slot: Slot::marked(slot, silent) });
    }

    /// What has to be written before any route names what [`Self::acquire`] gave.
    pub fn take_writes(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }

    pub fn hops(&self, id: u32) -> Option<&Hops> {
        self.groups.get(&id).map(|group| &group.hops).filter(|hops| !hops.is_empty())
    }

    pub fn routes(&self, id: u32) -> usize {
        self.groups.get(&id).map_or(0, |group| group.routes)
    }

    /// Next hops by id, those to which a route leads.
    pub fn next_hops(&self) -> impl Iterator<Item = (u32, NextHop)> + '_ {
        let used: BTreeSet<NextHop> = self.used().flat_map(|group| group.hops.iter().copied()).collect();
        let hops = self.next_hops.live().filter_map(|(id, slot)| Some((id, super::held::hop_of(slot)?)));
        hops.filter(move |(_, hop)| used.contains(hop))
    }

    /// In use: next hops, sets of buckets, groups.
    pub fn counts(&self) -> (usize, usize, usize) {
        let sets: BTreeSet<u32> = self.used().filter_map(|group| group.target?.target().err()).collect();
        (self.next_hops().count(), sets.len(), self.used().count())
    }

    fn used(&self) -> impl Iterator<Item = &Group> {
        self.groups.values().filter(|group| group.routes > 0)
    }

    /// All that is in use as the maps should say it.
    pub fn expected(&self) -> Vec<Write> {
        let hops = self.next_hops.live().map(|(id, slot)| {
            let slot = Slot::marked(slot, self.marked.contains(&id));
            Write::NextHop { id, slot }
        });
        let sets = self.sets.live().map(|(id, hops)| Write::Buckets { id, hops: Box::new(hops) });
        let groups = self.groups.iter().filter(|(_, group)| group.routes > 0);
        let groups = groups.filter_map(|(id, group)| Some(Write::Group { id: *id, word: group.target?.0 }));
        hops.chain(sets).chain(groups).collect()
    }

    fn assignment(&self, id: u32) -> Option<Assignment<NextHop>> {
        let group = self.groups.get(&id)?;
        match &*group.hops {
            [] => None,
            [hop] => Some([*hop; BUCKETS]),
            _ => group.buckets,
        }
    }

    fn make(
        &mut self,
        hops: &Hops,
        before: Option<&Assignment<NextHop>>,
        now: Instant,
    ) -> Result<u32, Refusal> {
        self.sweep(now);
        let id = self.free.pop().or_else(|| self.fresh.next()).ok_or(Refusal::NoGroupId)?;
        let (target, buckets) = match self.target(hops, before, now) {
            Ok(made) => made,
            Err(refusal) => {
                self.free.push(id);
                return Err(refusal);
            }
        };
        self.writes.push(Write::Group { id, word: target.0 });
        self.by_hops.entry(hops.clone()).or_default().push(id);
        let group = Group { hops: hops.clone(), target: Some(target), buckets, routes: 0, idle: None };
        self.groups.insert(id, group);
        Ok(id)
    }

    /// Slots for these next hops, and for their buckets if they are several.
    fn target(
        &mut self,
        hops: &Hops,
        before: Option<&Assignment<NextHop>>,
        now: Instant,
    ) -> Result<(Word, Option<Assignment<NextHop>>), Refusal> {
        let mut ids = HashMap::new();
        for hop in hops.iter() {
            let slot = super::held::slot_of(hop);
            match self.next_hops.acquire(slot, now) {
                Some(acquired) => {
                    // One that has rested may be marked as it was then.
                    let silent = self.silent.contains(hop);
                    if acquired.is_new || silent != self.marked.contains(&acquired.id) {
                        self.mark(acquired.id, slot, silent);
                    }
                    ids.insert(*hop, acquired.id);
                }
                None => {
                    ids.values().for_each(|id| self.next_hops.release(*id, now));
                    return Err(Refusal::NoNextHopId);
                }
            }
        }
        if let [hop] = &**hops {
            let id = ids.get(hop).copied().ok_or(Refusal::NoNextHopId)?;
            return Ok((Word::single(id), None));
        }
        let buckets = assign(hops, before);
        let set = buckets.map(|buckets| buckets.map(|hop| ids.get(&hop).copied().unwrap_or(0)));
        let acquired = set.and_then(|set| Some((set, self.sets.acquire(set, now)?)));
        let Some((set, acquired)) = acquired else {
            ids.values().for_each(|id| self.next_hops.release(*id, now));
            return Err(Refusal::NoBuckets);
        };
        if acquired.is_new {
            self.writes.push(Write::Buckets { id: acquired.id, hops: Box::new(set) });
        }
        Ok((Word::spread(acquired.id), buckets))
    }

    /// Groups that have rested lose their slots, which then rest in turn.
    fn sweep(&mut self, now: Instant) {
        while let Some((since, id)) = self.resting.front().copied() {
            if now.saturating_duration_since(since) < REST {
                return;
            }
            self.resting.pop_front();
            // It may have been taken again meanwhile, and may rest anew.
            if self.groups.get(&id).is_some_and(|group| group.idle == Some(since))
                && let Some(group) = self.groups.remove(&id)
            {
                self.forget(id, &group.hops);
                self.let_go(&group, now);
                self.free.push(id);
            }
        }
    }

    fn forget(&mut self, id: u32, hops: &Hops) {
        if let Some(ids) = self.by_hops.get_mut(hops) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_hops.remove(hops);
            }
        }
    }

    fn let_go(&mut self, group: &Group, now: Instant) {
        let Some(target) = group.target.filter(|_| !group.hops.is_empty()) else { return };
        match target.target() {
            Ok(id) => self.next_hops.release(id, now),
            Err(id) => {
                let hops = self.sets.content(id);
                let hops: BTreeSet<u32> = hops.into_iter().flatten().collect();
                hops.into_iter().for_each(|hop| self.next_hops.release(hop, now));
                self.sets.release(id, now);
            }
        }
    }
}

fn known_first(by_hops: &HashMap<Hops, Vec<u32>>, hops: &Hops) -> Option<u32> {
    by_hops.get(hops)?.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(last: &[u8]) -> Hops {
        last.iter().map(|last| NextHop { gateway: [192, 0, 2, *last].into(), ifindex: 1 }).collect()
    }

    fn groups() -> Groups {
        Groups::adopt(Sizes { next_hops: 64, sets: 64, groups: 64 }, Found::default(), Instant::now())
    }

    #[test]
    fn routes_that_leave_one_group_for_the_same_next_hops_share_a_group_whatever_is_left_behind() {
        let (mut groups, now) = (groups(), Instant::now());
        for (before, after) in [(&[1][..], &[1, 2][..]), (&[1, 2], &[1, 2, 3]), (&[3, 4], &[1, 2, 3, 4])] {
            let from = groups.acquire(&hops(before), None, now).unwrap();
            let ids: BTreeSet<u32> =
                (0..100).map(|_| groups.acquire(&hops(after), Some(from), now).unwrap()).collect();
            assert_eq!(ids.len(), 1, "{before:?} to {after:?}");
        }
    }

    #[test]
    fn flows_of_routes_that_were_apart_stay_where_they_can_though_it_takes_two_groups() {
        let (mut groups, now) = (groups(), Instant::now());
        let (one, other) = (
            groups.acquire(&hops(&[1]), None, now).unwrap(),
            groups.acquire(&hops(&[2]), None, now).unwrap(),
        );
        let both = [one, other].map(|from| groups.acquire(&hops(&[1, 2]), Some(from), now).unwrap());
        assert_ne!(both[0], both[1]);
        for (id, stays) in both.into_iter().zip([1, 2]) {
            let stays = hops(&[stays])[0];
            let kept = groups.assignment(id).unwrap().iter().filter(|hop| **hop == stays).count();
            assert_eq!(kept, BUCKETS / 2, "half of its buckets went to the newcomer, which is its share");
        }
    }

    fn slots(writes: &[Write]) -> Vec<bool> {
        let slot = |write: &Write| match write {
            Write::NextHop { slot, .. } => Some(Slot::is_marked(slot)),
            _ => None,
        };
        writes.iter().filter_map(slot).collect()
    }

    #[test]
    fn a_slot_says_whether_its_next_hop_is_silent_also_after_it_has_rested() {
        let (mut groups, now) = (groups(), Instant::now());
        let silent = BTreeSet::from([hops(&[1])[0], hops(&[9])[0]]);
        let id = groups.acquire(&hops(&[1]), None, now).unwrap();
        assert_eq!(slots(&groups.take_writes()), [false]);
        assert_eq!(groups.set_silent(silent.clone()), [(hops(&[1])[0], true)], "9 is no next hop");
        assert_eq!(slots(&groups.take_writes()), [true]);
        assert_eq!(groups.set_silent(silent.clone()), []);
        assert_eq!(slots(&groups.expected()), [true]);

        // Group and slot go one after the other, and it answers meanwhile.
        groups.release(id, now);
        groups.sweep(now + REST);
        assert_eq!(groups.set_silent(BTreeSet::new()), [], "nothing names it");
        groups.acquire(&hops(&[1]), None, now + REST).unwrap();
        assert_eq!(slots(&groups.take_writes()), [false], "it was marked when it began to rest");

        // One that is silent before it is a next hop.
        groups.set_silent(silent);
        groups.acquire(&hops(&[9]), None, now).unwrap();
        assert_eq!(slots(&groups.take_writes()), [true, true]);
    }
}
