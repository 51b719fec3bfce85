//! The index by block in front of the tries: for each pool a word per block, and for blocks that have something
//! more specific inside a page of one word per address. Pure: it is told which routes the tries hold, keeps what
//! the maps should read, and hands out what has to be stored, in the order in which it may be. A change touches
//! only the words whose answer it changes, and each of those once, however many routes changed with it.

mod extents;
mod memory;
mod pool;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    time::Instant,
};

use manx_abi::{self as abi, Kind, Word};
use manx_net::Prefix;

use super::entries::Entries;
pub(super) use memory::Store;
use memory::{Cell, Memory};
pub(super) use pool::Cut;
pub use pool::NotIndexed;
use pool::{Blocks, Pool};

/// What an address's packets get, and which prefix's counter counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    pub word: u32,
    pub counter: u32,
}

const TRIE: Answer = Answer { word: Word::TRIE.0, counter: 0 };
/// Where no route answers.
const NOTHING: Cell = Cell { answer: Answer { word: Word::NO_ROUTE.0, counter: 0 }, owner: 0 };

/// As an entry of a trie says it.
pub(super) fn answer(entry: abi::Route) -> Answer {
    Answer { word: entry.word().0, counter: entry.counter }
}

/// What a block says that has a page.
fn page_word(at: u32) -> Answer {
    Answer { word: Word::new(Kind::Page, at).0, counter: 0 }
}

fn page_at(word: u32) -> Option<u32> {
    Word(word).is(Kind::Page).then(|| Word(word).target())
}

#[derive(Debug)]
pub(super) struct Index {
    memory: Memory,
    pools: Vec<Pool>,
    /// The set of pools in the map is no longer this one.
    pools_changed: bool,
}

/// What the maps have to be told, in this order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub stores: Vec<Store>,
    /// IPv6 blocks, by their first address. Those that the hash refuses have to be told to [`Index::note_refused`].
    pub blocks6: Vec<([u8; 16], Answer)>,
    /// Only after what [`Index::take_pools`] then gives.
    pub gone6: Vec<[u8; 16]>,
}

/// A pool as `POOLS` tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Indexed {
    pub cut: Cut,
    /// Where an IPv4 pool's words begin.
    pub at: u32,
    /// What an IPv6 pool says of blocks that are not in the hash.
    pub fallback: Answer,
}

/// What is known of an earlier run's index, so that its words need not move.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub pools: Vec<Indexed>,
    /// Pages by pool number and first address of the block.
    pub pages: HashMap<(u32, u128), u32>,
    /// All positions that may be in use lie below.
    pub used: u32,
}

impl Index {
    pub fn new(capacity: u32) -> Index {
        Index { memory: Memory::new(capacity), pools: Vec::new(), pools_changed: false }
    }

    /// Over words that an earlier run, or this one, has written. What is handed out next is everything.
    pub fn adopt(capacity: u32, known: Known, entries: &Entries, now: Instant) -> Index {
        let mut index = Index::new(capacity);
        index.memory.begin_adoption(known.used);
        for Indexed { cut, at, .. } in known.pools {
            let pages = known.pages.iter().filter(|((number, _), _)| *number == cut.number);
            let pages = pages.map(|((_, block), at)| (*block, *at)).collect();
            // One that does not fit is missed, and reported, when the pools are set.
            if let Ok(pool) = Pool::begin(cut, Some(at), pages, &mut index.memory, entries, now) {
                index.pools.push(pool);
            }
        }
        index.memory.end_adoption(now);
        index.pools_changed = true;
        index
    }

    /// Those of these pools that are here already, cut in the same way.
    pub fn staying(&self, cuts: &[Cut]) -> Vec<Cut> {
        self.pools.iter().map(|pool| pool.cut).filter(|cut| cuts.contains(cut)).collect()
    }

    /// These pools and no others; those that stay keep their words. Those that cannot be are in the answer. What goes
    /// has to have gone from the maps before others come in its place: a block of either may have the other's key.
    pub fn set_pools(&mut self, cuts: &[Cut], entries: &Entries, now: Instant) -> Vec<(Cut, NotIndexed)> {
        let (stay, go): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.pools).into_iter().partition(|pool| cuts.contains(&pool.cut));
        self.pools = stay;
        self.pools_changed |= !go.is_empty();
        for pool in go {
            pool.end(&mut self.memory, now);
        }
        let mut refused = Vec::new();
        for cut in cuts {
            if self.pools.iter().any(|pool| pool.cut == *cut) {
                continue;
            }
            let overlapping = self.pools.iter().find(|pool| pool.cut.prefix.overlaps(cut.prefix));
            let pool = match overlapping {
                Some(pool) => Err(NotIndexed::Overlaps { other: pool.cut.prefix }),
                None => Pool::begin(*cut, None, HashMap::new(), &mut self.memory, entries, now),
            };
            match pool {
                Ok(pool) => {
                    self.pools.push(pool);
                    self.pools_changed = true;
                }
                Err(why) => refused.push((*cut, why)),
            }
        }
        refused
    }

    /// A route that `entries` has had for a moment; `is_new` if there was none for its prefix.
    pub fn upsert(&mut self, entries: &Entries, prefix: Prefix, answer: Answer, is_new: bool, now: Instant) {
        for pool in self.pools.iter_mut().filter(|pool| pool.cut.prefix.overlaps(prefix)) {
            pool.upsert(&mut self.memory, entries, prefix, answer, is_new, now);
        }
    }

    /// A route that `entries` has no longer.
    pub fn remove(&mut self, entries: &Entries, prefix: Prefix, now: Instant) {
        for pool in self.pools.iter_mut().filter(|pool| pool.cut.prefix.overlaps(prefix)) {
            pool.remove(&mut self.memory, entries, prefix, now);
        }
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self, entries: &Entries, now: Instant) -> Changes {
        for pool in &mut self.pools {
            pool.feed(&mut self.memory, entries, now);
        }
        let mut changes = Changes { stores: self.memory.take_stores(), ..Changes::default() };
        for (block, answer) in self.memory.take_blocks6() {
            match answer {
                Some(answer) => changes.blocks6.push((block.to_be_bytes(), answer)),
                None => changes.gone6.push(block.to_be_bytes()),
            }
        }
        changes
    }

    /// All pools, if any of them came, went or changed its fallback.
    pub fn take_pools(&mut self, entries: &Entries) -> Option<Vec<Indexed>> {
        for pool in &mut self.pools {
            self.pools_changed |= pool.refresh_fallback(entries);
        }
        std::mem::take(&mut self.pools_changed).then(|| self.indexed().collect())
    }

    /// Which of these blocks the hash had no room for.
    pub fn note_refused(&mut self, changes: &Changes, refused: &[[u8; 16]]) {
        for pool in self.pools.iter_mut().filter(|pool| !pool.cut.prefix.is_v4()) {
            if !pool.lacking.is_empty() {
                for block in changes.blocks6.iter().map(|(block, _)| block).chain(&changes.gone6) {
                    pool.lacking.remove(&u128::from_be_bytes(*block));
                }
            }
            let refused = refused.iter().map(|block| u128::from_be_bytes(*block));
            pool.lacking.extend(refused.filter(|block| (pool.first..=pool.last).contains(block)));
        }
    }

    /// There may be room in the hash: what it lacks is handed out once more. True if there is any.
    pub fn offer_lacking(&mut self) -> bool {
        let mut any = false;
        for pool in &self.pools {
            for block in &pool.lacking {
                self.memory.set_block6(*block, pool.block6(*block));
                any = true;
            }
        }
        any
    }

    /// The pools that have words.
    pub fn indexed(&self) -> impl Iterator<Item = Indexed> + '_ {
        self.pools.iter().map(|pool| match &pool.blocks {
            Blocks::Dense { at } => Indexed { cut: pool.cut, at: *at, fallback: Answer::default() },
            Blocks::Sparse { fallback, .. } => Indexed { cut: pool.cut, at: 0, fallback: *fallback },
        })
    }

    /// The pool of a route, or of an address.
    pub fn covers(&self, prefix: Prefix) -> bool {
        self.pools.iter().any(|pool| pool.cut.prefix.covers(prefix))
    }

    /// Blocks that ask the trie because there was no room for a page.
    pub fn starved(&self) -> BTreeSet<Prefix> {
        let blocks = |pool: &'_ Pool| -> Vec<Prefix> {
            pool.starved.iter().filter_map(|block| pool.prefix(*block, pool.cut.block_len)).collect()
        };
        self.pools.iter().flat_map(blocks).collect()
    }

    /// IPv6 blocks that ask the trie because the hash is full.
    pub fn lacking(&self) -> usize {
        self.pools.iter().map(|pool| pool.lacking.len()).sum()
    }

    /// Words in use or at rest, and how many there are.
    pub fn room(&self) -> (u32, u32) {
        self.memory.room()
    }

    /// All words that are in use as they should read, for comparison with what the map says.
    pub fn words(&self) -> impl Iterator<Item = Store> + '_ {
        let runs = self.pools.iter().flat_map(|pool| pool.runs(&self.memory));
        runs.flat_map(|(at, length)| at..at + length)
            .map(|position| Store { position, answer: self.memory.answer(position) })
    }

    /// All blocks of IPv6 pools as the hash should have them.
    pub fn blocks6(&self) -> HashMap<[u8; 16], Answer> {
        let mut all = HashMap::new();
        for pool in &self.pools {
            if let Blocks::Sparse { words, .. } = &pool.blocks {
                let there = words.iter().filter(|(block, _)| !pool.lacking.contains(block));
                all.extend(there.map(|(block, cell)| (block.to_be_bytes(), cell.answer)));
            }
        }
        all
    }

    /// The block or address that a word is about.
    pub fn prefix_at(&self, position: u32) -> Option<Prefix> {
        self.pools.iter().find_map(|pool| pool.prefix_at(&self.memory, position))
    }

    /// As a program would find it; `None` outside of all pools.
    #[cfg(test)]
    pub fn look_up(&self, address: std::net::IpAddr) -> Option<Answer> {
        let is_v4 = address.is_ipv4();
        let address = match address {
            std::net::IpAddr::V4(address) => address.to_bits().into(),
            std::net::IpAddr::V6(address) => address.to_bits(),
        };
        let pool =
            self.pools.iter().find(|pool| pool.cut.prefix.is_v4() == is_v4 && pool.contains(address))?;
        Some(pool.look_up(&self.memory, address))
    }
}
