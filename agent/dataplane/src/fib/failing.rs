//! Prefixes whose last write failed, and when each is tried again. Every turn of the loop asks for the next of them,
//! and an interface that is gone may fail a whole table.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use manx_net::Prefix;

#[derive(Debug, Default)]
pub(super) struct Failing {
    due: BTreeMap<Prefix, Instant>,
    by_due: BTreeSet<(Instant, Prefix)>,
}

impl Failing {
    pub fn insert(&mut self, prefix: Prefix, due: Instant) {
        self.remove(prefix);
        self.due.insert(prefix, due);
        self.by_due.insert((due, prefix));
    }

    /// True if it was there.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        let due = self.due.remove(&prefix);
        due.is_some_and(|due| self.by_due.remove(&(due, prefix)))
    }

    pub fn contains(&self, prefix: Prefix) -> bool {
        self.due.contains_key(&prefix)
    }

    pub fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.due.keys().copied()
    }

    pub fn next(&self) -> Option<Instant> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// Takes out the first of those whose time has come.
    pub fn pop_due(&mut self, now: Instant) -> Option<Prefix> {
        let (_, prefix) = self.by_due.first().copied().filter(|(due, _)| *due <= now)?;
        self.remove(prefix);
        Some(prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_next_to_be_tried_is_the_first_that_is_due_and_not_one_that_was_taken_out() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let prefix = |n: u8| format!("10.0.{n}.0/24").parse::<Prefix>().unwrap();
        let mut failing = Failing::default();
        for n in 0..4 {
            failing.insert(prefix(n), begin + second * u32::from(4 - n));
        }
        // Its pause grew.
        failing.insert(prefix(3), begin + second * 9);
        assert_eq!(failing.next(), Some(begin + second * 2));
        assert!(failing.remove(prefix(2)) && !failing.remove(prefix(2)));
        assert_eq!(failing.next(), Some(begin + second * 3));
        assert_eq!(failing.pop_due(begin + second * 2), None);
        assert_eq!(failing.pop_due(begin + second * 3), Some(prefix(1)));
        let left: Vec<_> = failing.prefixes().collect();
        assert_eq!(left, [prefix(0), prefix(3)]);
    }
}
