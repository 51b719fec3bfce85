//! The routes that the tries hold, with the longest-prefix questions about them.

use std::collections::BTreeMap;

use manx_abi as abi;
use manx_net::Prefix;

use crate::kernel::{Lengths, within};

#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    by_prefix: BTreeMap<Prefix, abi::Route>,
    lengths: Lengths,
    v4: usize,
}

impl Entries {
    pub fn get(&self, prefix: Prefix) -> Option<abi::Route> {
        self.by_prefix.get(&prefix).copied()
    }

    /// What was there.
    pub fn insert(&mut self, prefix: Prefix, entry: abi::Route) -> Option<abi::Route> {
        let before = self.by_prefix.insert(prefix, entry);
        if before.is_none() {
            self.lengths.add(prefix);
            self.v4 += usize::from(prefix.is_v4());
        }
        before
    }

    pub fn remove(&mut self, prefix: Prefix) -> Option<abi::Route> {
        let before = self.by_prefix.remove(&prefix);
        if before.is_some() {
            self.lengths.remove(prefix);
            self.v4 -= usize::from(prefix.is_v4());
        }
        before
    }

    pub fn iter(&self) -> impl Iterator<Item = (Prefix, abi::Route)> + '_ {
        self.by_prefix.iter().map(|(prefix, entry)| (*prefix, *entry))
    }

    /// What `prefix` covers, itself included.
    pub fn inside(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, abi::Route)> + '_ {
        self.by_prefix.range(within(prefix)).map(|(prefix, entry)| (*prefix, *entry))
    }

    /// The longest that covers `prefix`, itself included.
    pub fn cover(&self, prefix: Prefix) -> Option<(Prefix, abi::Route)> {
        self.lengths.covering(prefix).find_map(|cover| Some((cover, self.get(cover)?)))
    }

    /// The longest that covers `prefix` and is shorter.
    pub fn parent(&self, prefix: Prefix) -> Option<(Prefix, abi::Route)> {
        let shorter = self.lengths.covering(prefix).filter(|cover| *cover != prefix);
        shorter.into_iter().find_map(|cover| Some((cover, self.get(cover)?)))
    }

    /// Of IPv4, and of IPv6.
    pub fn counts(&self) -> (usize, usize) {
        (self.v4, self.by_prefix.len() - self.v4)
    }
}
