//! What is known of an address: by its block's place where its pool is indexed, else by the trie.

use core::ptr::{addr_of, read_volatile};

use manx_abi::{
    Kind, Pool4, Pool6, PoolSet, Word,
    pool::{self, POOLS},
};

use crate::maps::{self, Found, Switches, number};

/// A [`Word`] that is neither `Trie` nor `Page`, or of a kind that this ABI does not have.
#[derive(Clone, Copy)]
pub struct Answer {
    pub word: Word,
    /// The number of the pool plus one; 0: in none.
    pub pool: u32,
    counter: Counter,
}

/// Where the counter id of the prefix that answered is found, if the packet is to be counted.
#[derive(Clone, Copy)]
enum Counter {
    At(u32),
    Is(u32),
}

impl Answer {
    #[inline(always)]
    pub fn counter(&self) -> u32 {
        match self.counter {
            Counter::At(position) => maps::counter_id(position),
            Counter::Is(id) => id,
        }
    }

    /// Nobody knows the address.
    #[inline(always)]
    fn none(pool: u32) -> Answer {
        Answer { word: Word::NO_ROUTE, pool, counter: Counter::Is(0) }
    }

    /// The trie's, which knows no pool better than the index does.
    #[inline(always)]
    fn of(found: Option<Found>, pool: u32) -> Answer {
        match found {
            Some(found) => Answer {
                word: found.word,
                pool: if pool != 0 { pool } else { found.pool },
                counter: Counter::Is(found.counter),
            },
            None => Answer::none(pool),
        }
    }
}

/// An address of either family.
pub trait Address: Copy {
    /// Asks the index of `pools`, and the trie for what is irregular.
    fn find(self, switches: Switches, pools: *const PoolSet) -> Answer;
}

impl Address for [u8; 4] {
    #[inline(always)]
    fn find(self, switches: Switches, pools: *const PoolSet) -> Answer {
        let address = u32::from_be_bytes(self);
        let Some(pool) = pool4(pools, address) else {
            if switches.outside4() {
                return Answer::of(maps::trie4(self), 0);
            }
            return Answer::none(0);
        };
        let block = pool.block(address);
        match at(block, || pool.in_block(address)) {
            Some((word, position)) => Answer { word, pool: pool.pool, counter: Counter::At(position) },
            None => Answer::of(maps::trie4(self), pool.pool),
        }
    }
}

impl Address for [u8; 16] {
    #[inline(always)]
    fn find(self, switches: Switches, pools: *const PoolSet) -> Answer {
        let address = pool::halves(self);
        let Some(pool) = pool6(pools, address) else {
            if switches.outside6() {
                return Answer::of(maps::trie6(self), 0);
            }
            return Answer::none(0);
        };
        let (word, counter) = match maps::block6(pool.block(address)) {
            Some(Ok(found)) => found,
            None => (Word(pool.fallback), pool.fallback_counter),
            Some(Err(maps::Recycled)) => (Word::TRIE, 0),
        };
        if word.is(Kind::Page) {
            let position = word.target() + pool.in_block(address);
            if let Some(word) = maps::word(position)
                && !word.is(Kind::Trie)
            {
                return Answer { word, pool: pool.pool, counter: Counter::At(position) };
            }
        } else if !word.is(Kind::Trie) {
            return Answer { word, pool: pool.pool, counter: Counter::Is(counter) };
        }
        Answer::of(maps::trie6(self), pool.pool)
    }
}

/// The word at a block's position, or of its page, and where it stands. None where the trie is to be asked, and where
/// there is no such position.
#[inline(always)]
fn at(block: u32, in_block: impl FnOnce() -> u32) -> Option<(Word, u32)> {
    let mut position = block;
    let mut word = maps::word(position)?;
    if word.is(Kind::Page) {
        position = word.target() + in_block();
        word = maps::word(position)?;
    }
    if word.is(Kind::Trie) { None } else { Some((word, position)) }
}

/// The indexed pool in which `address` lies. Read field by field: the set is the agent's to fill again once it is no
/// longer in use.
#[inline(always)]
fn pool4(pools: *const PoolSet, address: u32) -> Option<Pool4> {
    let count = number!(pools, count4) as usize;
    let mut place = 0;
    while place < POOLS && place < count {
        // SAFETY: `pools` is a live map value with POOLS places.
        let pool = unsafe { addr_of!((*pools).v4).cast::<Pool4>().add(place) };
        let (base, mask) = (number!(pool, base), number!(pool, mask));
        if address & mask == base {
            let (shift, position) = (number!(pool, shift), number!(pool, position));
            return Some(Pool4 { base, mask, shift, position, pool: number!(pool, pool) });
        }
        place += 1;
    }
    None
}

#[inline(always)]
fn pool6(pools: *const PoolSet, [high, low]: pool::Halves) -> Option<Pool6> {
    let count = number!(pools, count6) as usize;
    let mut place = 0;
    while place < POOLS && place < count {
        // SAFETY: as in `pool4`; the halves are aligned numbers in it.
        let (pool, base, mask) = unsafe {
            let pool = addr_of!((*pools).v6).cast::<Pool6>().add(place);
            (pool, read_volatile(addr_of!((*pool).base)), read_volatile(addr_of!((*pool).mask)))
        };
        if high & mask[0] == base[0] && low & mask[1] == base[1] {
            return Some(Pool6 {
                base,
                mask,
                // SAFETY: as above.
                block_mask: unsafe { read_volatile(addr_of!((*pool).block_mask)) },
                fallback: number!(pool, fallback),
                fallback_counter: number!(pool, fallback_counter),
                pool: number!(pool, pool),
                unused: 0,
            });
        }
        place += 1;
    }
    None
}
