//! Which counter counts a prefix. A number that was given back rests before another prefix gets it, and a prefix
//! that comes back meanwhile finds its count. Without a number a prefix is counted with all others that have none.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use manx_net::Prefix;

use super::ids::REST;

/// One in so many numbers is for those that count first.
const KEPT: u32 = 16;

#[derive(Debug)]
pub(super) struct CounterIds {
    by_id: HashMap<u32, Prefix>,
    resting: HashMap<Prefix, (u32, Instant)>,
    /// Oldest first; those that were taken back are still in it.
    order: VecDeque<(Instant, Prefix)>,
    /// What an earlier run may have had in use.
    loose: VecDeque<(Instant, u32)>,
    /// Never given out so far.
    fresh: std::ops::Range<u32>,
    /// What has never been given out reads zero.
    clean: bool,
    /// Have to read zero before an entry names them.
    to_zero: Vec<u32>,
}

impl CounterIds {
    /// Numbers 1 to `slots - 1`. `found`: those that an earlier run's entries name.
    pub fn adopt(slots: u32, found: HashMap<u32, Prefix>, clean: bool, now: Instant) -> CounterIds {
        let highest = found.keys().max().copied().unwrap_or(0);
        let loose =
            (1..highest.min(slots)).filter(|id| !found.contains_key(id)).map(|id| (now, id)).collect();
        CounterIds {
            by_id: found,
            resting: HashMap::new(),
            order: VecDeque::new(),
            loose,
            fresh: highest.saturating_add(1).min(slots)..slots,
            clean,
            to_zero: Vec::new(),
        }
    }

    /// 0 if there is none left. The last are kept for those that count first: of what is dropped each is wanted.
    pub fn acquire(&mut self, prefix: Prefix, first: bool, now: Instant) -> u32 {
        let kept = if first { 0 } else { self.fresh.end / KEPT };
        let id = match self.resting.remove(&prefix) {
            Some((id, _)) => id,
            None => match (self.fresh.len() as u64 > u64::from(kept)).then(|| self.fresh.next()).flatten() {
                Some(id) => {
                    if !self.clean {
                        self.to_zero.push(id);
                    }
                    id
                }
                None => match self.rested(now) {
                    Some(id) => {
                        self.to_zero.push(id);
                        id
                    }
                    None => return 0,
                },
            },
        };
        self.by_id.insert(id, prefix);
        id
    }

    pub fn release(&mut self, id: u32, now: Instant) {
        let Some(prefix) = self.by_id.remove(&id) else { return };
        self.resting.insert(prefix, (id, now));
        self.order.push_back((now, prefix));
        // What came back meanwhile has its place in the order no more: or one prefix that flaps
        // would fill it without end.
        while self.order.front().is_some_and(|(since, prefix)| !self.rests_since(*prefix, *since)) {
            self.order.pop_front();
        }
        if self.order.len() > 2 * self.resting.len() + 64 {
            let resting = &self.resting;
            self.order.retain(|(since, prefix)| resting.get(prefix).is_some_and(|(_, rests)| rests == since));
        }
    }

    fn rests_since(&self, prefix: Prefix, since: Instant) -> bool {
        self.resting.get(&prefix).is_some_and(|(_, rests)| *rests == since)
    }

    /// What an earlier state of this run knows beside what the maps tell: which numbers rest for whom. Where somebody
    /// else has changed the entries, the maps' word counts alone.
    pub fn remember(&mut self, before: CounterIds) {
        if self.by_id == before.by_id {
            *self = before;
        }
    }

    /// By prefix, those that entries name.
    pub fn live(&self) -> impl Iterator<Item = (u32, Prefix)> + '_ {
        self.by_id.iter().map(|(id, prefix)| (*id, *prefix))
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn take_to_zero(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.to_zero)
    }

    fn rested(&mut self, now: Instant) -> Option<u32> {
        if let Some((_, id)) =
            self.loose.pop_front_if(|(since, _)| now.saturating_duration_since(*since) >= REST)
        {
            return Some(id);
        }
        while let Some((since, prefix)) = self.order.front().copied() {
            if now.saturating_duration_since(since) < REST {
                return None;
            }
            self.order.pop_front();
            if self.rests_since(prefix, since) {
                return self.resting.remove(&prefix).map(|(id, _)| id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_that_comes_back_finds_its_count_and_another_begins_at_zero() {
        let (mut ids, now) = (CounterIds::adopt(3, HashMap::new(), true, Instant::now()), Instant::now());
        let (a, b, c) = (p("10.0.0.0/26"), p("10.0.0.64/26"), p("10.0.0.128/26"));
        assert_eq!(
            (ids.acquire(a, false, now), ids.acquire(b, false, now), ids.acquire(c, false, now)),
            (1, 2, 0)
        );
        ids.release(1, now);
        assert_eq!(ids.acquire(c, false, now), 0, "it rests");
        assert_eq!(ids.acquire(a, false, now), 1);
        assert_eq!(ids.take_to_zero(), Vec::<u32>::new());
        ids.release(1, now);
        assert_eq!(ids.acquire(c, false, now + REST), 1);
        assert_eq!(ids.take_to_zero(), [1]);
        assert_eq!(ids.live().collect::<HashMap<_, _>>(), HashMap::from([(1, c), (2, b)]));
    }

    #[test]
    fn the_last_numbers_are_for_those_that_count_first() {
        let (mut ids, now) = (CounterIds::adopt(32, HashMap::new(), true, Instant::now()), Instant::now());
        let host = |last: u8| Prefix::host([10, 0, 0, last].into());
        let given: Vec<u32> = (0..31).map(|last| ids.acquire(host(last), false, now)).collect();
        assert_eq!(given.iter().filter(|id| **id == 0).count(), 2);
        assert_eq!((ids.acquire(host(101), true, now), ids.acquire(host(102), true, now)), (30, 31));
        assert_eq!(ids.acquire(host(103), true, now), 0);
    }

    #[test]
    fn after_a_restart_a_number_that_may_have_counted_begins_at_zero() {
        let (a, b) = (p("10.0.0.0/26"), p("10.0.0.64/26"));
        let mut ids = CounterIds::adopt(9, HashMap::from([(4, a)]), false, Instant::now());
        assert_eq!(ids.acquire(b, false, Instant::now()), 5);
        assert_eq!(ids.take_to_zero(), [5]);
        assert_eq!(ids.len(), 2);
    }

    #[test]
    fn a_prefix_that_comes_back_after_the_maps_were_read_anew_finds_its_count() {
        let now = Instant::now();
        let (a, b) = (p("10.0.0.0/26"), p("10.0.0.64/26"));
        let mut ids = CounterIds::adopt(9, HashMap::new(), true, now);
        assert_eq!((ids.acquire(a, false, now), ids.acquire(b, false, now)), (1, 2));
        ids.release(1, now);
        let mut read = CounterIds::adopt(9, HashMap::from([(2, b)]), false, now);
        read.remember(ids);
        assert_eq!(read.acquire(a, false, now), 1);
        assert_eq!(read.take_to_zero(), Vec::<u32>::new());
        let mut other = CounterIds::adopt(9, HashMap::from([(3, b)]), false, now);
        other.remember(read);
        assert_eq!(other.live().collect::<Vec<_>>(), [(3, b)], "somebody has changed the entry");
    }

    #[test]
    fn a_prefix_that_flaps_takes_no_memory() {
        let (mut ids, mut now) =
            (CounterIds::adopt(32, HashMap::new(), true, Instant::now()), Instant::now());
        let (flapping, gone) = (p("10.0.0.0/26"), p("10.0.0.64/26"));
        let id = ids.acquire(gone, false, now);
        ids.release(id, now);
        for _ in 0..10_000 {
            now += std::time::Duration::from_millis(1);
            let id = ids.acquire(flapping, false, now);
            ids.release(id, now);
        }
        assert!(ids.order.len() < 100, "{}", ids.order.len());
        assert_eq!(ids.acquire(gone, false, now), 1, "what rests keeps its place");
    }
}
