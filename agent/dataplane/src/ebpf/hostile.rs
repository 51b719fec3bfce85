//! Octets that no kernel gives and no agent wrote: whatever stands in maps that an earlier run left is adopted or left,
//! and types of a kernel are read or refused; nothing panics. For the fuzzer (`cargo xtask fuzz`) and a test beside it.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use manx_abi::{self as abi, PoolSet, Settings};
use manx_net::Prefix;

use super::{
    btf::Btf,
    entries::Entries,
    groups::{Found, Groups, Hops, Sizes},
    held::{hop_of, slot_of},
    index::{Answer, Index, Known},
    pools,
};

/// Words that the maps of this have room for.
const WORDS: u32 = 1 << 14;
const IDS: u32 = 64;

/// Takes values off the front; beyond the end there are zeros.
struct Octets<'a>(&'a [u8]);

impl Octets<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut taken = [0; N];
        let (now, rest) = self.0.split_at(N.min(self.0.len()));
        for (to, from) in taken.iter_mut().zip(now) {
            *to = *from;
        }
        self.0 = rest;
        taken
    }

    fn octet(&mut self) -> u8 {
        let [octet] = self.take();
        octet
    }

    fn word(&mut self) -> u32 {
        u32::from_ne_bytes(self.take())
    }

    /// Few, so that they meet.
    fn id(&mut self) -> u32 {
        u32::from(self.octet()) % (IDS + 2)
    }
}

/// A kernel's types and a module's, one after the other: the first octets say where the second begin.
pub(crate) fn types(input: &[u8]) {
    let mut octets = Octets(input);
    let cut = usize::from(u16::from_ne_bytes(octets.take()));
    let (kernel, module) = octets.0.split_at(cut.min(octets.0.len()));
    let ask = |types: &Btf<'_>| {
        let _ = types.function("ask");
        let _ = types.member("flow", "timeout");
        let _ = types.members([("flow", "dev"), ("flow", "status"), ("int", "dev")]);
    };
    let Ok(kernel) = Btf::parse(kernel) else { return };
    ask(&kernel);
    if let Ok(module) = Btf::parse_module(module, &kernel) {
        ask(&module);
    }
}

/// A set of pools, then routes, pages, groups and what they name; then what an agent does with it at its start.
pub(crate) fn maps(input: &[u8]) {
    let mut octets = Octets(input);
    let _ = Settings::from_bytes(octets.take());
    let set = PoolSet::from_bytes(&octets.take());
    let (entries, named) = entries(&mut octets);
    index(&set, &entries, &mut octets);
    groups(named, &mut octets);
}

fn address(octets: &mut Octets<'_>, is_v4: bool) -> IpAddr {
    if is_v4 { Ipv4Addr::from(octets.take()).into() } else { Ipv6Addr::from(octets.take()).into() }
}

/// Routes, and by how many of them each group is named.
fn entries(octets: &mut Octets<'_>) -> (Entries, BTreeMap<u32, usize>) {
    let (mut entries, mut named) = (Entries::default(), BTreeMap::new());
    for _ in 0..octets.octet() % 32 {
        let head = octets.octet();
        let address = address(octets, head & 1 == 0);
        let Some(prefix) = Prefix::new(address, octets.octet()) else { continue };
        let mut value: [u8; abi::Route::SIZE] = octets.take();
        // As often as not one that means something.
        if let (Some(action), true) = (value.first_mut(), head & 2 == 0) {
            *action = 2 + head / 4 % 6;
        }
        let Ok(route) = abi::Route::from_bytes(value) else { continue };
        if route.action == abi::Action::Via {
            *named.entry(route.target).or_default() += 1;
        }
        entries.insert(prefix, route);
    }
    (entries, named)
}

fn index(set: &PoolSet, entries: &Entries, octets: &mut Octets<'_>) {
    let found = pools::indexed(set);
    let mut pages = HashMap::new();
    for _ in 0..octets.octet() % 16 {
        let place = usize::from(octets.octet());
        let Some(pool) = found.get(place % found.len().max(1)) else { break };
        let block = match address(octets, pool.cut.prefix.is_v4()) {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        pages.insert((pool.cut.number, block), octets.word() % (2 * WORDS));
    }
    let (used, cuts): (_, Vec<_>) =
        (octets.word() % (2 * WORDS), found.iter().map(|pool| pool.cut).collect());
    let mut now = Instant::now();
    let known = Known { pools: found, pages, used };
    let mut index = Index::adopt(WORDS, known, entries, now);
    index.set_pools(&cuts, entries, now);
    let _ = (index.take_changes(entries, now), index.take_pools(entries));
    let mut entries = entries.clone();
    for (prefix, route) in entries.clone().iter() {
        let _ = index.covers(prefix);
        entries.remove(prefix);
        index.remove(&entries, prefix, now);
        now += Duration::from_secs(20);
        let _ = index.take_changes(&entries, now);
        let answer = Answer { word: route.word().0, counter: route.counter };
        let is_new = entries.insert(prefix, route).is_none();
        index.upsert(&entries, prefix, answer, is_new, now);
        let _ = index.take_changes(&entries, now);
    }
    index.set_pools(&[], &entries, now);
}

fn groups(named: BTreeMap<u32, usize>, octets: &mut Octets<'_>) {
    let mut found = Found { routes: named, ..Found::default() };
    for _ in 0..octets.octet() % 32 {
        found.next_hops.insert(octets.id(), octets.take());
    }
    for _ in 0..octets.octet() % 8 {
        let set = octets.id();
        let few = [octets.id(), octets.id(), octets.id()];
        let buckets = std::array::from_fn(|at| few.get(at % few.len()).copied().unwrap_or_default());
        found.sets.insert(set, buckets);
    }
    for _ in 0..octets.octet() % 32 {
        // The highest bit says which of both it names.
        let kind = u32::from(octets.octet() & 1) << 31;
        let (id, target) = (octets.id(), octets.id());
        found.groups.insert(id, kind | target);
        *found.routes.entry(id).or_default() += usize::from(octets.octet() % 3);
    }
    let hops: Vec<_> = found.next_hops.values().filter_map(|slot| hop_of(*slot)).collect();
    let mut now = Instant::now();
    let ids: Vec<u32> = found.groups.keys().copied().collect();
    let mut groups = Groups::adopt(Sizes { next_hops: IDS, sets: IDS, groups: IDS }, found, now);
    let _ = (groups.expected(), groups.take_writes(), groups.counts());
    for hop in &hops {
        assert_eq!(hop_of(slot_of(hop)).as_ref(), Some(hop));
    }
    for id in ids {
        let mut wanted: Vec<_> = hops.iter().skip(usize::from(octets.octet() % 8)).take(3).cloned().collect();
        wanted.sort();
        wanted.dedup();
        if !wanted.is_empty() {
            let _ = groups.acquire(&Hops::from(wanted), Some(id), now);
        }
        groups.release(id, now);
        now += Duration::from_secs(20);
        let _ = groups.take_writes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_stands_in_the_maps_is_adopted_or_left(input in prop::collection::vec(any::<u8>(), 0..3000)) {
            maps(&input);
        }

        #[test]
        fn any_types_are_read_or_refused(input in prop::collection::vec(any::<u8>(), 0..300)) {
            types(&input);
        }
    }
}
