//! The maps for reading, from whatever thread: a large table takes a while to read, which the sink's owner may not have.

use std::collections::{BTreeMap, HashMap};

use manx_abi::map;
use manx_net::Prefix;

use super::{
    Error, Tally,
    held::{Held, hop_of},
    maps::Maps,
};
use crate::route::{Action, NextHop, Route};

#[derive(Debug)]
pub struct Reader {
    pub(super) maps: Maps,
}

/// Packets and octets by prefix.
#[derive(Clone, Debug, Default)]
pub struct CountedRoutes {
    /// In order. Without a tally: counted with all others that have no counter.
    pub routes: Vec<(Route, Option<Tally>)>,
    /// What has no counter of its own, together.
    pub others: Tally,
}

impl Reader {
    /// As [`super::EbpfSink::dump`].
    pub fn dump(&self) -> Result<Vec<Route>, Error> {
        Held::dump(&self.maps)
    }

    /// Every entry by its prefix: no action for one that cannot be read or leads nowhere, which the programs pass.
    pub fn entries(&self) -> Result<Vec<(Prefix, Option<Action>)>, Error> {
        let entries = Held::dump_entries(&self.maps)?.into_iter();
        Ok(entries.map(|(prefix, action, _)| (prefix, action)).collect())
    }

    /// As [`Self::dump`], with what each prefix counted since it got its counter.
    pub fn counted(&self) -> Result<CountedRoutes, Error> {
        let tallies = self.tallies(map::PREFIX_COUNTS)?;
        let of = |id: u32| tallies.get(&id).copied().unwrap_or_default();
        let routes = Held::dump_with_counters(&self.maps)?.into_iter();
        let routes = routes.map(|(route, id)| (route, (id != 0).then(|| of(id))));
        Ok(CountedRoutes { routes: routes.collect(), others: of(0) })
    }

    /// Packets and octets to each next hop that the maps name, since it came into use.
    pub fn next_hop_counts(&self) -> Result<Vec<(NextHop, Tally)>, Error> {
        let tallies = self.tallies(map::HOP_COUNTS)?;
        let mut sums: BTreeMap<NextHop, Tally> = BTreeMap::new();
        for (id, slot) in self.maps.next_hops()? {
            if let (Some(hop), Some(tally)) = (hop_of(slot), tallies.get(&id)) {
                let sum = sums.entry(hop).or_default();
                sum.packets += tally.packets;
                sum.bytes += tally.bytes;
            }
        }
        Ok(sums.into_iter().collect())
    }

    fn tallies(&self, name: &'static str) -> Result<HashMap<u32, Tally>, Error> {
        self.maps.tallies(name)
    }
}
