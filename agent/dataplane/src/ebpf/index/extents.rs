//! Room in `WORDS`: runs of positions for a pool's blocks and for pages. What was given back rests before it is
//! given out anew, for a program that has just read a word may still follow it there.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use super::super::ids::REST;

/// Runs begin and end at a cache line, 16 words.
const GRAIN: u32 = 16;

#[derive(Debug)]
pub(super) struct Extents {
    capacity: u32,
    /// Start → length. No two touch.
    free: BTreeMap<u32, u32>,
    /// Oldest first.
    resting: VecDeque<(Instant, u32, u32)>,
    /// Nothing is given out below: an earlier run may have had it in use.
    floor: u32,
}

impl Extents {
    pub fn new(capacity: u32) -> Extents {
        let capacity = capacity / GRAIN * GRAIN;
        let free = (capacity > 0).then_some((0, capacity)).into_iter().collect();
        Extents { capacity, free, resting: VecDeque::new(), floor: 0 }
    }

    /// `None` if no run is as long, or what is rests.
    pub fn take(&mut self, words: u32, now: Instant) -> Option<u32> {
        let words = words.checked_next_multiple_of(GRAIN)?.max(GRAIN);
        while let Some((since, at, length)) = self.resting.front().copied() {
            if now.saturating_duration_since(since) < REST {
                break;
            }
            self.resting.pop_front();
            self.join(at, length);
        }
        let fits = |(at, length): (&u32, &u32)| *at >= self.floor && *length >= words;
        let at = self.free.iter().find(|run| fits(*run)).map(|(at, _)| *at)?;
        self.carve(at, words).then_some(at)
    }

    /// A run that is known to be in use. False if it is not free.
    pub fn reserve(&mut self, at: u32, words: u32) -> bool {
        at.is_multiple_of(GRAIN)
            && words.checked_next_multiple_of(GRAIN).is_some_and(|words| self.carve(at, words))
    }

    pub fn give_back(&mut self, at: u32, words: u32, now: Instant) {
        // What was taken could be rounded up.
        self.resting.push_back((now, at, words.next_multiple_of(GRAIN).max(GRAIN)));
    }

    /// Before reserving: what lies below `used` may have been in use by an earlier run.
    pub fn begin_adoption(&mut self, used: u32) {
        let used = used.next_multiple_of(GRAIN).min(self.capacity);
        self.floor = used;
        // Runs do not straddle it, so that what lies above is free to be given out.
        if used > 0 && used < self.capacity && self.free.remove(&0).is_some() {
            self.free.insert(0, used);
            self.free.insert(used, self.capacity - used);
        }
    }

    /// After reserving: the rest below rests.
    pub fn end_adoption(&mut self, now: Instant) {
        let above = self.free.split_off(&self.floor);
        for (at, length) in std::mem::replace(&mut self.free, above) {
            self.resting.push_back((now, at, length));
        }
        self.floor = 0;
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Words in use, those that rest included.
    pub fn used(&self) -> u32 {
        self.capacity - self.free.values().sum::<u32>()
    }

    fn carve(&mut self, at: u32, words: u32) -> bool {
        let Some((&start, &length)) = self.free.range(..=at).next_back() else { return false };
        let (before, Some(end)) = (at - start, at.checked_add(words)) else { return false };
        if end > start + length {
            return false;
        }
        self.free.remove(&start);
        if before > 0 {
            self.free.insert(start, before);
        }
        if end < start + length {
            self.free.insert(end, start + length - end);
        }
        true
    }

    fn join(&mut self, mut at: u32, mut length: u32) {
        if let Some((&before, &its)) = self.free.range(..at).next_back()
            && before + its == at
        {
            self.free.remove(&before);
            (at, length) = (before, its + length);
        }
        if let Some(its) = self.free.remove(&(at + length)) {
            length += its;
        }
        self.free.insert(at, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_rests_and_joins_its_neighbours() {
        let (mut extents, now) = (Extents::new(128), Instant::now());
        let runs: Vec<_> = (0..3).map(|_| extents.take(40, now)).collect();
        assert_eq!(runs, [Some(0), Some(48), None]);
        extents.give_back(0, 40, now);
        extents.give_back(48, 40, now);
        assert_eq!(extents.take(40, now), None);
        assert_eq!(extents.used(), 96);
        assert_eq!(extents.take(128, now + REST), Some(0));
        assert_eq!(extents.used(), 128);
    }

    #[test]
    fn an_adopted_run_is_not_given_out_and_what_lay_beside_it_rests() {
        let (mut extents, now) = (Extents::new(256), Instant::now());
        extents.begin_adoption(100);
        assert!(extents.reserve(32, 16));
        assert!(!extents.reserve(32, 16) && !extents.reserve(250, 16) && !extents.reserve(240, 32));
        assert_eq!(extents.take(16, now), Some(112), "above all that was in use");
        extents.end_adoption(now);
        assert_eq!(extents.take(16, now), Some(128));
        assert_eq!(extents.take(16, now + REST), Some(0));
        assert_eq!(extents.take(32, now + REST), Some(48), "16 to 32 is too short, 32 is taken");
    }
}
