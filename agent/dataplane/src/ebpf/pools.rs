//! The pools as the programs know them: a number for each, its mode, and the sets in `POOLS` from which the index is
//! found. A set is written while it is not in use, and then named by one store.

use std::collections::{BTreeMap, HashMap};

use manx_abi::{
    self as abi, Pool4, Pool6, PoolSet,
    pool::{POOL_NUMBERS, POOL_SETS, POOLS},
};
use manx_net::{Prefix, Prefix4, Prefix6};

use super::{
    Error, Mode,
    index::{Answer, Cut, Indexed, NotIndexed},
    maps::Maps,
    settings::place,
};

/// A pool as the daemon wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// For reports.
    pub name: String,
    pub prefix: Prefix,
    /// Prefix length of its blocks: the IPPool's `blockSize`.
    pub block_len: u8,
    pub mode: Mode,
}

/// A pool whose addresses are looked up in the trie, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolNotIndexed {
    pub name: String,
    pub prefix: Prefix,
    pub reason: NotIndexed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Numbered {
    number: u32,
    name: String,
}

/// Pools that have a number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pools {
    by_prefix: BTreeMap<Prefix, Numbered>,
    /// When a number was last given back: the oldest is given out first.
    given_back: BTreeMap<u32, u64>,
    turn: u64,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub(super) struct InMaps {
    pub pools: Pools,
    pub indexed: Vec<Indexed>,
}

impl Pools {
    pub fn read(maps: &Maps) -> Result<InMaps, Error> {
        let number = maps.settings.load(place!(pool_set)).unwrap_or(0);
        if number as usize >= POOL_SETS {
            return Ok(InMaps::default());
        }
        let set = PoolSet::from_bytes(&maps.pool_set(number)?);
        let indexed = indexed(&set);
        let mut pools = Pools::default();
        for Indexed { cut, .. } in &indexed {
            pools.by_prefix.insert(cut.prefix, Numbered { number: cut.number, name: String::new() });
        }
        Ok(InMaps { pools, indexed })
    }

    /// These pools and no others; those that stay keep their number. Says how they are to be cut, and which have
    /// no number.
    pub fn set(&mut self, specs: &[PoolSpec]) -> (Vec<Cut>, Vec<PoolNotIndexed>) {
        let before = std::mem::take(&mut self.by_prefix);
        let mut refused = Vec::new();
        for spec in specs {
            if let Some(known) = before.get(&spec.prefix) {
                self.by_prefix.insert(spec.prefix, Numbered { name: spec.name.clone(), ..*known });
            }
        }
        self.turn += 1;
        for (prefix, gone) in &before {
            if !self.by_prefix.contains_key(prefix) {
                self.given_back.insert(gone.number, self.turn);
            }
        }
        for spec in specs {
            if self.by_prefix.contains_key(&spec.prefix) {
                continue;
            }
            match self.free_number(spec.prefix.is_v4()) {
                Some(number) => {
                    drop(self.by_prefix.insert(spec.prefix, Numbered { number, name: spec.name.clone() }))
                }
                None => refused.push(spec.not_indexed(NotIndexed::TooMany)),
            }
        }
        let cut = |spec: &PoolSpec| {
            let number = self.by_prefix.get(&spec.prefix)?.number;
            Some(Cut { number, prefix: spec.prefix, block_len: spec.block_len })
        };
        (specs.iter().filter_map(cut).collect(), refused)
    }

    fn free_number(&self, v4: bool) -> Option<u32> {
        let first = if v4 { 0 } else { POOLS as u32 };
        let taken: Vec<u32> = self.by_prefix.values().map(|pool| pool.number).collect();
        let free = (first..first + POOLS as u32).filter(|number| !taken.contains(number));
        free.min_by_key(|number| (self.given_back.get(number).copied().unwrap_or(0), *number))
    }

    /// What an entry says of its pool: the number plus one, 0 outside of all.
    pub fn mark(&self, prefix: Prefix) -> u32 {
        let covering = self.by_prefix.iter().filter(|(pool, _)| pool.covers(prefix));
        covering.max_by_key(|(pool, _)| pool.len()).map_or(0, |(_, pool)| pool.number + 1)
    }

    /// The modes of these pools, by number.
    pub fn modes(&self, specs: &[PoolSpec]) -> BTreeMap<u32, Mode> {
        let mode = |spec: &PoolSpec| Some((self.by_prefix.get(&spec.prefix)?.number, spec.mode));
        specs.iter().filter_map(mode).collect()
    }
}

/// Every number, those of no pool off.
pub(super) fn all(modes: &BTreeMap<u32, Mode>) -> impl Iterator<Item = (u32, Mode)> + '_ {
    (0..POOL_NUMBERS as u32).map(|number| (number, modes.get(&number).copied().unwrap_or(Mode::Off)))
}

impl PoolSpec {
    pub(super) fn not_indexed(&self, reason: NotIndexed) -> PoolNotIndexed {
        PoolNotIndexed { name: self.name.clone(), prefix: self.prefix, reason }
    }
}

/// The modes as they are while numbers pass from pools to others: of what was and what will be the lower.
pub(super) fn meanwhile(before: &BTreeMap<u32, Mode>, after: &BTreeMap<u32, Mode>) -> Vec<(u32, Mode)> {
    let of = |number: &u32| before.get(number).copied().unwrap_or(Mode::Off);
    after.iter().map(|(number, mode)| (*number, of(number).min(*mode))).collect()
}

/// As they are now, by number.
pub(super) fn modes(maps: &Maps) -> BTreeMap<u32, Mode> {
    let mode = |number: u32| {
        let word = maps.settings.load(place!(pool_modes) + number as usize).unwrap_or(0);
        (number, Mode::of(word))
    };
    (0..POOL_NUMBERS as u32).map(mode).collect()
}

pub(super) fn write_modes(maps: &Maps, modes: impl IntoIterator<Item = (u32, Mode)>) {
    for (number, mode) in modes {
        maps.settings.store(place!(pool_modes) + number as usize, mode.to_abi() as u32);
    }
}

/// The next set in turn, and then its name.
pub(super) fn write_set(maps: &Maps, indexed: &[Indexed]) -> Result<(), Error> {
    let used = maps.settings.load(place!(pool_set)).unwrap_or(0);
    let next = used.wrapping_add(1) % POOL_SETS as u32;
    maps.write_pool_set(next, &set_of(indexed))?;
    maps.settings.store(place!(pool_set), next);
    Ok(())
}

pub(super) fn set_of(indexed: &[Indexed]) -> PoolSet {
    let mut set = PoolSet::EMPTY;
    for pool in indexed {
        let number = pool.cut.number as usize;
        match pool.cut.prefix {
            Prefix::V4(prefix) => {
                if let Some(place) = set.v4.get_mut(number) {
                    *place = pool4(prefix, pool);
                    set.count4 = set.count4.max(pool.cut.number + 1);
                }
            }
            Prefix::V6(prefix) => {
                if let Some(place) = number.checked_sub(POOLS).and_then(|place| set.v6.get_mut(place)) {
                    *place = pool6(prefix, pool);
                    set.count6 = set.count6.max(pool.cut.number + 1 - POOLS as u32);
                }
            }
        }
    }
    set
}

fn pool4(prefix: Prefix4, pool: &Indexed) -> Pool4 {
    Pool4 {
        base: prefix.bits(),
        mask: mask(prefix.len(), 32) as u32,
        shift: u32::from(32 - pool.cut.block_len),
        position: pool.at,
        pool: pool.cut.number + 1,
    }
}

fn pool6(prefix: Prefix6, pool: &Indexed) -> Pool6 {
    let halves = |number: u128| [(number >> 64) as u64, number as u64];
    Pool6 {
        base: halves(prefix.bits()),
        mask: halves(mask(prefix.len(), 128)),
        block_mask: mask(pool.cut.block_len, 128) as u64,
        fallback: pool.fallback.word,
        fallback_counter: pool.fallback.counter,
        pool: pool.cut.number + 1,
        unused: 0,
    }
}

fn mask(length: u8, width: u32) -> u128 {
    let all = u128::MAX >> (128 - width);
    all & !all.checked_shr(length.into()).unwrap_or(0)
}

/// Pools stand at their number's place; what says else is nothing that this agent wrote.
/// The pools of a set that make sense.
pub(super) fn indexed(set: &PoolSet) -> Vec<Indexed> {
    read4(set).chain(read6(set)).collect()
}

fn read4(set: &PoolSet) -> impl Iterator<Item = Indexed> + '_ {
    set.v4.iter().zip(0..).filter_map(|(pool, place)| {
        let number = pool.pool.checked_sub(1).filter(|number| *number == place)?;
        let prefix = Prefix4::from_bits(pool.base, pool.mask.count_ones() as u8)?;
        let block_len = 32u32.checked_sub(pool.shift)? as u8;
        let cut = Cut { number, prefix: prefix.into(), block_len };
        Some(Indexed { cut, at: pool.position, fallback: Answer::default() })
    })
}

fn read6(set: &PoolSet) -> impl Iterator<Item = Indexed> + '_ {
    set.v6.iter().zip(POOLS as u32..).filter_map(|(pool, place)| {
        let number = pool.pool.checked_sub(1).filter(|number| *number == place)?;
        let length = pool.mask.iter().map(|half| half.count_ones()).sum::<u32>() as u8;
        let bits = u128::from(pool.base[0]) << 64 | u128::from(pool.base[1]);
        let prefix = Prefix6::from_bits(bits, length)?;
        let cut = Cut { number, prefix: prefix.into(), block_len: 64 + pool.block_mask.count_ones() as u8 };
        let fallback = Answer { word: pool.fallback, counter: pool.fallback_counter };
        Some(Indexed { cut, at: 0, fallback })
    })
}

/// Pages that are named, by pool number and first address of the block.
pub(super) fn known_pages(maps: &Maps, in_maps: &InMaps) -> Result<HashMap<(u32, u128), u32>, Error> {
    let page = |word: u32| abi::Word(word).is(abi::Kind::Page).then(|| abi::Word(word).target());
    let mut pages = HashMap::new();
    let room = maps.capacity(abi::map::WORDS)? * abi::PACKED as u32;
    let blocks6 = if in_maps.indexed.iter().any(|pool| !pool.cut.prefix.is_v4()) {
        maps.blocks6.contents()
    } else {
        HashMap::new()
    };
    for Indexed { cut, at, .. } in &in_maps.indexed {
        match cut.prefix {
            Prefix::V4(prefix) => {
                let count = 1u64 << cut.block_len.saturating_sub(prefix.len());
                for number in 0..count {
                    // A position beyond the words is none of ours.
                    let position = u32::try_from(u64::from(*at) + number).ok();
                    let Some(position) = position.filter(|position| *position < room) else { break };
                    if let Some(page) = page(maps.word(position).word) {
                        let block = u128::from(prefix.bits()) + (u128::from(number) << (32 - cut.block_len));
                        pages.insert((cut.number, block), page);
                    }
                }
            }
            Prefix::V6(prefix) => {
                for (block, value) in &blocks6 {
                    if prefix.contains((*block).into())
                        && let Some(page) = page(value.word)
                    {
                        pages.insert((cut.number, u128::from_be_bytes(*block)), page);
                    }
                }
            }
        }
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::ebpf::{
        entries::Entries,
        index::{Index, Known},
    };

    #[test]
    fn a_number_that_passes_to_another_pool_has_the_lower_mode_until_all_say_so() {
        let before = BTreeMap::from([(0, Mode::Off), (1, Mode::Unguarded), (2, Mode::Guarded)]);
        let after =
            BTreeMap::from([(0, Mode::Unguarded), (1, Mode::Off), (2, Mode::Guarded), (3, Mode::Guarded)]);
        assert_eq!(
            meanwhile(&before, &after),
            [(0, Mode::Off), (1, Mode::Off), (2, Mode::Guarded), (3, Mode::Off)]
        );
    }

    /// What is adopted of a set: its pools with some routes in them, over few words.
    fn adopt(set: &PoolSet, positions: &[u32]) {
        let pools: Vec<Indexed> = read4(set).chain(read6(set)).collect();
        for pool in &pools {
            let places = if pool.cut.prefix.is_v4() { 0..POOLS } else { POOLS..2 * POOLS };
            assert!(places.contains(&(pool.cut.number as usize)), "{pool:?}");
        }
        let mut entries = Entries::default();
        let mut pages = HashMap::new();
        for (pool, at) in pools.iter().zip(positions) {
            let prefix = pool.cut.prefix;
            let local =
                abi::Route { action: abi::Action::Local, target: 1, pool: pool.cut.number + 1, counter: 0 };
            entries.insert(Prefix::host(prefix.addr()), local);
            let first = match prefix {
                Prefix::V4(prefix) => prefix.bits().into(),
                Prefix::V6(prefix) => prefix.bits(),
            };
            pages.insert((pool.cut.number, first), *at);
        }
        let used = positions.first().copied().unwrap_or(0).min(4096);
        let now = Instant::now();
        let cuts: Vec<Cut> = pools.iter().map(|pool| pool.cut).collect();
        let mut index = Index::adopt(4096, Known { pools, pages, used }, &entries, now);
        index.set_pools(&cuts, &entries, now);
        let _ = index.words().count();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn whatever_stands_in_the_map_of_pools_is_adopted_or_left(
            octets in prop::collection::vec(any::<u8>(), PoolSet::SIZE),
            positions in prop::collection::vec(any::<u32>(), 2 * POOLS),
        ) {
            let octets: [u8; PoolSet::SIZE] = octets.try_into().unwrap();
            adopt(&PoolSet::from_bytes(&octets), &positions);
        }

        /// Nearly right: masks are possible ones, and what they lead to may overlap.
        #[test]
        fn pools_that_nobody_would_make_are_adopted_or_left(
            pools in prop::collection::vec((any::<u32>(), 0u32..=32, 0u32..40, 0u32..6000, 0u32..80), POOLS),
            positions in prop::collection::vec(0u32..6000, 2 * POOLS),
        ) {
            let mut set = PoolSet::EMPTY;
            for (number, (base, length, shift, position, stray)) in pools.into_iter().enumerate() {
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                let base = base & mask;
                // One in two says another number than its place.
                let pool = if stray < 40 { stray } else { number as u32 + 1 };
                set.v4[number] = Pool4 { base, mask, shift, position, pool };
                let half = u64::from(base) << 32;
                let mask = [u64::from(mask) << 32, 0];
                let block_mask = u64::MAX.checked_shl(shift).unwrap_or(0);
                set.v6[number] = Pool6 { base: [half, 0], mask, block_mask, pool: pool + POOLS as u32, ..Pool6::UNUSED };
            }
            adopt(&set, &positions);
        }
    }
}
