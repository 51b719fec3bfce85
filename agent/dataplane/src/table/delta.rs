//! The difference between two states of what a sink should hold, in the order in which it may be applied.

use manx_net::Prefix;

use crate::route::Route;

/// First the upserts, longest prefixes first, then the removals, shortest first: a more specific route is there
/// before the blackhole that surrounds it, and leaves after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    pub upserts: Vec<Route>,
    pub removals: Vec<Prefix>,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.upserts.is_empty() && self.removals.is_empty()
    }

    pub(crate) fn sort(&mut self) {
        self.upserts.sort_by_key(|route| (std::cmp::Reverse(route.prefix.len()), route.prefix));
        self.removals.sort_by_key(|prefix| (prefix.len(), *prefix));
    }
}
