//! Whole messages for whoever stands at one place of a group's log, and how much goes into one batch of them. A peer
//! whose socket is full holds on to the batch that it is in the middle of, and every such peer may be in the middle of
//! another: so a batch is small where that costs no message more. Routes of one attribute set fill messages together,
//! and there many of them make a batch; of many sets each has messages of its own anyway.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use super::table::PeerSlot;
use crate::attr::Attributes;

/// So many routes go into one batch, or paths where several of a route do; more by those of one route at most.
pub const MOST_ROUTES: usize = 32 * 1024;
/// And so many attribute sets.
const MOST_SETS: usize = 1024;

/// For whom a part of a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    All,
    /// Not for the peer from which these routes came.
    AllBut(PeerSlot),
    Only(PeerSlot),
}

impl Audience {
    pub fn includes(self, peer: PeerSlot) -> bool {
        match self {
            Audience::All => true,
            Audience::AllBut(other) => other != peer,
            Audience::Only(one) => one == peer,
        }
    }

    /// For whom what goes to either may go out as one. A peer then hears what it need not, but nobody gets two messages
    /// where one would do.
    pub(super) fn and(self, other: Option<Audience>) -> Audience {
        if other.is_none_or(|other| other == self) { self } else { Audience::All }
    }
}

/// Whole messages, in parts by audience.
#[derive(Debug, Default)]
pub struct Batch {
    pub octets: Bytes,
    /// Where each part ends.
    pub parts: Vec<(usize, Audience)>,
    /// The place in the log after what is in here.
    pub to: u64,
    /// [`Group::superseded`] when it was encoded.
    pub(super) superseded: u64,
}

impl Batch {
    pub(super) fn new(octets: Bytes, parts: Vec<(usize, Audience)>) -> Batch {
        Batch { octets, parts, to: 0, superseded: 0 }
    }
}

/// Ends a part at `end`; joins it to the one before if that has the same audience.
pub(super) fn close_part(parts: &mut Vec<(usize, Audience)>, end: usize, audience: Audience) {
    match parts.last_mut() {
        Some((last, same)) if *same == audience => *last = end,
        Some((last, _)) if *last == end => {}
        None if end == 0 => {}
        _ => parts.push((end, audience)),
    }
}

/// What is in a batch so far.
#[derive(Debug, Default)]
pub struct Extent {
    routes: usize,
    sets: HashSet<*const Attributes>,
    last: Option<*const Attributes>,
}

impl Extent {
    pub fn is_full(&self) -> bool {
        self.routes >= MOST_ROUTES || self.sets.len() >= MOST_SETS
    }

    /// A route with the sets of what is announced of it.
    pub fn add<'a>(&mut self, announced: impl IntoIterator<Item = &'a Arc<Attributes>>) {
        let before = self.routes;
        for set in announced.into_iter().map(Arc::as_ptr) {
            self.routes += 1;
            if self.last != Some(set) {
                self.sets.insert(set);
                self.last = Some(set);
            }
        }
        // A withdrawal.
        if self.routes == before {
            self.routes += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds routes whose sets take turns until the batch is full.
    fn fill(sets: usize) -> usize {
        let sets: Vec<_> = (0..sets).map(|n| Arc::new(Attributes::own(&[n as u32]))).collect();
        let mut extent = Extent::default();
        let mut rounds = sets.iter().cycle();
        while !extent.is_full()
            && let Some(set) = rounds.next()
        {
            extent.add([set]);
        }
        extent.routes
    }

    #[test]
    fn a_batch_ends_where_more_would_save_no_message() {
        assert_eq!(fill(1), MOST_ROUTES);
        assert_eq!(fill(MOST_SETS - 1), MOST_ROUTES);
        assert_eq!(fill(100_000), MOST_SETS);
    }
}
