//! What is known of an address: by its block's place where its pool is indexed, else by the trie.

use core::ptr::{addr_of, read_volatile};

use manx_abi::{
    Kind, Pool4, Pool6, PoolSet, Word,
    header::{self, Address6},
    pool::{self, POOLS},
};

use crate::maps::{self, Found, Switches, number};

/// What is known of an address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Answer {
    /// Neither `Trie` nor `Page`, but maybe of a kind that this ABI does not have.
    pub word: Word,
    /// The number of the pool plus one; 0: in none.
    pub pool: u32,
    /// Where the counter id of the prefix stands that answered, plus one; 0: it is the next field.
    at: u32,
    id: u32,
}

impl Answer {
    /// Counter id of the prefix that answered. Looked up only for a packet that is counted.
    #[inline(always)]
    pub fn counter(&self) -> u32 {
        if self.at == 0 { self.id } else { maps::counter_id(self.at.wrapping_sub(1)) }
    }

    #[inline(always)]
    fn at(word: Word, pool: u32, position: u32) -> Answer {
        Answer { word, pool, at: position.wrapping_add(1), id: 0 }
    }

    /// The trie's, which knows no pool better than the index does.
    #[inline(always)]
    fn of(found: Option<Found>, pool: u32) -> Answer {
        match found {
            Some(Found { word, pool: of_route, counter }) => {
                Answer { word, pool: if pool != 0 { pool } else { of_route }, at: 0, id: counter }
            }
            None => Answer { word: Word::NO_ROUTE, pool, at: 0, id: 0 },
        }
    }
}

/// An address of either family.
pub trait Address: Copy {
    /// Asks the index of `pools`, and the trie for what is irregular.
    fn find(&self, switches: Switches, pools: *const PoolSet) -> Answer;
}

impl Address for [u8; 4] {
    #[inline(always)]
    fn find(&self, switches: Switches, pools: *const PoolSet) -> Answer {
        let address = u32::from_be_bytes(*self);
        match pool4(pools, address) {
            Some(pool) => match at(pool.block(address), || pool.in_block(address)) {
                Some((word, position)) => Answer::at(word, pool.pool, position),
                None => Answer::of(maps::trie4(u32::from_ne_bytes(*self)), pool.pool),
            },
            None if switches.outside4(address) => Answer::of(maps::trie4(u32::from_ne_bytes(*self)), 0),
            None => Answer::of(None, 0),
        }
    }
}

impl Address for Address6 {
    #[inline(always)]
    fn find(&self, switches: Switches, pools: *const PoolSet) -> Answer {
        let halves = header::halves(*self);
        match pool6(pools, halves) {
            Some(pool) => {
                in_pool6(&pool, halves).unwrap_or_else(|| Answer::of(maps::trie6(*self), pool.pool))
            }
            None if switches.outside6(halves[0]) => Answer::of(maps::trie6(*self), 0),
            None => Answer::of(None, 0),
        }
    }
}

/// None where the trie is to be asked.
#[inline(always)]
fn in_pool6(pool: &Pool6, address: pool::Halves) -> Option<Answer> {
    let (word, counter) =
        maps::block6(pool.block(address)).unwrap_or((Word(pool.fallback), pool.fallback_counter));
    if word.is(Kind::Page) {
        let position = word.target().wrapping_add(pool.in_block(address));
        let word = maps::word(position)?;
        if word.is(Kind::Trie) { None } else { Some(Answer::at(word, pool.pool, position)) }
    } else if word.is(Kind::Trie) {
        None
    } else {
        Some(Answer { word, pool: pool.pool, at: 0, id: counter })
    }
}

/// The word at a block's position, or of its page, and where it stands. None where the trie is to be asked, and where
/// there is no such position.
#[inline(always)]
fn at(block: u32, in_block: impl FnOnce() -> u32) -> Option<(Word, u32)> {
    let mut position = block;
    let mut word = maps::word(position)?;
    if word.is(Kind::Page) {
        position = word.target().wrapping_add(in_block());
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
