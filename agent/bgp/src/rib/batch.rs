//! How much goes into one batch. A peer whose socket is full holds on to the batch that it is in the middle of, and
//! every such peer may be in the middle of another: so a batch is small where that costs no message more. Routes
//! of one attribute set fill messages together, and there many of them make a batch; of many sets each has messages
//! of its own anyway.

use std::{collections::HashSet, sync::Arc};

use crate::attr::Attributes;

/// So many routes go into one batch, or paths where several of a route do; more by those of one route at most.
pub const MOST_ROUTES: usize = 32 * 1024;
/// And so many attribute sets.
const MOST_SETS: usize = 1024;

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
