//! A counted set of prefixes that answers whether any of them covers another.

use std::collections::HashMap;

use manx_net::Prefix;

use crate::kernel::Lengths;

#[derive(Debug, Default)]
pub(super) struct Cover {
    counts: HashMap<Prefix, u32>,
    lengths: Lengths,
}

impl Cover {
    /// True if the prefix was not in the set.
    pub fn add(&mut self, prefix: Prefix) -> bool {
        let count = self.counts.entry(prefix).or_default();
        *count += 1;
        let new = *count == 1;
        if new {
            self.lengths.add(prefix);
        }
        new
    }

    /// True if the prefix is in the set no more.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        let Some(count) = self.counts.get_mut(&prefix) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.counts.remove(&prefix);
            self.lengths.remove(prefix);
        }
        last
    }

    /// A member is covered by itself.
    pub fn covers(&self, prefix: Prefix) -> bool {
        self.lengths.covering(prefix).any(|covering| self.counts.contains_key(&covering))
    }
}
