//! Numbers for what map entries point to. A slot's content never changes while an entry, or a program that has
//! just read an entry, may still name it: an id whose last entry has gone rests before it is given out anew.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

/// A program runs within one RCU read section, which the kernel itself reports as stalled after some 20 s.
pub(super) const REST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Ids<T> {
    live: BTreeMap<T, Live>,
    by_id: BTreeMap<u32, T>,
    /// With what still stands in the slot, as far as that is known; oldest first.
    resting: VecDeque<(Instant, u32, Option<T>)>,
    /// Ids beside the one that has their content, with their entries: an earlier run's.
    twins: BTreeMap<u32, usize>,
    /// Never given out so far.
    fresh: std::ops::Range<u32>,
}

#[derive(Debug)]
struct Live {
    id: u32,
    entries: usize,
}

/// What [`Ids::acquire`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acquired {
    pub id: u32,
    /// The slot has to be written before any entry names it.
    pub is_new: bool,
}

impl<T: Ord + Copy> Ids<T> {
    /// Ids 1 to `slots - 1`; 0 is what an empty map value says.
    pub fn new(slots: u32) -> Ids<T> {
        Ids {
            live: BTreeMap::new(),
            by_id: BTreeMap::new(),
            resting: VecDeque::new(),
            twins: BTreeMap::new(),
            fresh: 1..slots.max(1),
        }
    }

    /// The state after a restart: slots as they were found, by id, and how many entries name each.
    pub fn adopt(
        slots: u32,
        found: &BTreeMap<u32, T>,
        entries: &BTreeMap<u32, usize>,
        now: Instant,
    ) -> Ids<T> {
        let mut ids = Ids::new(slots);
        let highest = found.keys().next_back().copied().unwrap_or(0);
        ids.fresh.start = ids.fresh.end.min(highest.saturating_add(1)).max(1);
        for (&id, &content) in found {
            let entries = entries.get(&id).copied().unwrap_or(0);
            if entries == 0 || ids.live.contains_key(&content) {
                // A twin's entries are rewritten when their routes are next applied; its id stays named until then.
                if entries == 0 {
                    ids.resting.push_back((now, id, Some(content)));
                } else {
                    ids.twins.insert(id, entries);
                    ids.by_id.insert(id, content);
                }
                continue;
            }
            ids.live.insert(content, Live { id, entries });
            ids.by_id.insert(id, content);
        }
        ids
    }

    /// `None` when every id is named or rests.
    pub fn acquire(&mut self, content: T, now: Instant) -> Option<Acquired> {
        if let Some(live) = self.live.get_mut(&content) {
            live.entries += 1;
            return Some(Acquired { id: live.id, is_new: false });
        }
        let resting = self.resting.iter().position(|(_, _, rests)| *rests == Some(content));
        let acquired = if let Some(at) = resting.and_then(|at| self.resting.remove(at)) {
            Acquired { id: at.1, is_new: false }
        } else if let Some(id) = self.fresh.next() {
            Acquired { id, is_new: true }
        } else {
            let rested =
                |(since, _, _): &(Instant, u32, Option<T>)| now.saturating_duration_since(*since) >= REST;
            self.resting.front().filter(|front| rested(front))?;
            let (_, id, _) = self.resting.pop_front()?;
            Acquired { id, is_new: true }
        };
        self.live.insert(content, Live { id: acquired.id, entries: 1 });
        self.by_id.insert(acquired.id, content);
        Some(acquired)
    }

    /// One entry less names `id`.
    pub fn release(&mut self, id: u32, now: Instant) {
        let Some(content) = self.by_id.get(&id).copied() else { return };
        let entries = match self.twins.get_mut(&id) {
            Some(entries) => entries,
            None => match self.live.get_mut(&content) {
                Some(live) if live.id == id => &mut live.entries,
                _ => return,
            },
        };
        *entries -= 1;
        if *entries == 0 {
            if self.twins.remove(&id).is_none() {
                self.live.remove(&content);
            }
            self.by_id.remove(&id);
            self.resting.push_back((now, id, Some(content)));
        }
    }

    /// The slot of an id that has just been given out could not be written. Nothing names it, and something else stands
    /// in it, so that the content may not be found there again.
    pub fn give_back(&mut self, id: u32, now: Instant) {
        let Some(content) = self.by_id.remove(&id) else { return };
        self.live.remove(&content);
        self.resting.push_back((now, id, None));
    }

    pub fn content(&self, id: u32) -> Option<T> {
        self.by_id.get(&id).copied()
    }

    /// Those that entries name, by id.
    pub fn live(&self) -> impl Iterator<Item = (u32, T)> + '_ {
        self.by_id.iter().map(|(id, content)| (*id, *content))
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acquire(ids: &mut Ids<&'static str>, content: &'static str, now: Instant) -> Option<(u32, bool)> {
        ids.acquire(content, now).map(|acquired| (acquired.id, acquired.is_new))
    }

    #[test]
    fn one_content_has_one_id() {
        let (mut ids, now) = (Ids::new(8), Instant::now());
        assert_eq!(acquire(&mut ids, "a", now), Some((1, true)));
        assert_eq!(acquire(&mut ids, "a", now), Some((1, false)));
        assert_eq!(acquire(&mut ids, "b", now), Some((2, true)));
        assert_eq!(ids.content(2), Some("b"));
    }

    #[test]
    fn an_id_rests_before_it_gets_new_content() {
        let (mut ids, now) = (Ids::new(2), Instant::now());
        assert_eq!(acquire(&mut ids, "a", now), Some((1, true)));
        assert_eq!(acquire(&mut ids, "b", now), None);
        ids.release(1, now);
        assert_eq!(acquire(&mut ids, "b", now), None);
        assert_eq!(acquire(&mut ids, "b", now + REST), Some((1, true)));
    }

    #[test]
    fn content_that_comes_back_finds_its_slot_as_it_was() {
        let (mut ids, now) = (Ids::new(4), Instant::now());
        acquire(&mut ids, "a", now);
        ids.release(1, now);
        assert_eq!(acquire(&mut ids, "a", now), Some((1, false)));
    }

    #[test]
    fn an_id_is_released_only_by_its_last_entry() {
        let (mut ids, now) = (Ids::new(2), Instant::now());
        acquire(&mut ids, "a", now);
        acquire(&mut ids, "a", now);
        ids.release(1, now);
        assert_eq!(acquire(&mut ids, "b", now + REST), None);
        ids.release(1, now + REST);
        assert_eq!(acquire(&mut ids, "b", now + 2 * REST), Some((1, true)));
    }

    #[test]
    fn after_a_restart_no_named_id_is_given_out() {
        let now = Instant::now();
        let found = BTreeMap::from([(1, "a"), (3, "c")]);
        let mut ids = Ids::adopt(5, &found, &BTreeMap::from([(3, 2)]), now);
        assert_eq!(acquire(&mut ids, "c", now), Some((3, false)));
        assert_eq!(acquire(&mut ids, "d", now), Some((4, true)));
        // Id 2 was never used, but nobody can tell: only what lies above the highest is fresh.
        assert_eq!(acquire(&mut ids, "e", now), None);
        assert_eq!(acquire(&mut ids, "a", now), Some((1, false)));
    }

    #[test]
    fn of_twins_after_a_restart_neither_is_given_out_while_named() {
        let now = Instant::now();
        let found = BTreeMap::from([(1, "a"), (2, "a")]);
        let mut ids = Ids::adopt(3, &found, &BTreeMap::from([(1, 1), (2, 1)]), now);
        assert_eq!(ids.content(2), Some("a"));
        assert_eq!(acquire(&mut ids, "b", now + 2 * REST), None);
        ids.release(2, now);
        assert_eq!(ids.content(2), None);
        assert_eq!(acquire(&mut ids, "b", now), None, "it rests");
        assert_eq!(acquire(&mut ids, "b", now + REST), Some((2, true)));
        assert_eq!(acquire(&mut ids, "a", now + REST), Some((1, false)), "the other one is named still");
    }

    #[test]
    fn a_slot_that_could_not_be_written_is_not_taken_for_written() {
        let (mut ids, now) = (Ids::new(2), Instant::now());
        assert_eq!(acquire(&mut ids, "a", now), Some((1, true)));
        ids.give_back(1, now);
        assert_eq!((ids.content(1), ids.len()), (None, 0));
        assert_eq!(acquire(&mut ids, "a", now), None, "it rests");
        assert_eq!(acquire(&mut ids, "a", now + REST), Some((1, true)));
    }
}
