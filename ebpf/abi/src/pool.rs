//! Where the block index finds an address: the pools, and for IPv6 the hash of their blocks. Pools are cut into
//! blocks of one size, so an IPv4 block's number is a subtraction and a shift; IPv6 pools have too many for an array.

use crate::Word;

/// Indexed pools of a family. More are not indexed: their routes answer from the trie.
pub const POOLS: usize = 16;
/// Sets in `POOLS`, used in turn: the agent fills one that is not in use and then names it in the settings.
pub const POOL_SETS: usize = 8;
/// Pool numbers: IPv4 0 to 15, IPv6 16 to 31. A number stays with its pool as long as the pool lives.
pub const POOL_NUMBERS: usize = 2 * POOLS;
/// An address of a block of this length or less has a page of at most 4096 words.
pub const SHIFT_MAX: u32 = 12;

/// Numbers in host order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool4 {
    pub base: u32,
    pub mask: u32,
    /// 32 less the block's prefix length: at most [`SHIFT_MAX`].
    pub shift: u32,
    /// Where in `WORDS` the pool's words begin, one for each block.
    pub position: u32,
    /// Its number plus one, as in [`crate::Route::pool`]: where every place says its own, the verifier has one way
    /// to follow from here and not one for each place.
    pub pool: u32,
}

impl Pool4 {
    /// Matches nothing.
    pub const UNUSED: Pool4 = Pool4 { base: u32::MAX, mask: 0, shift: 0, position: 0, pool: 0 };

    #[inline(always)]
    pub const fn contains(&self, address: u32) -> bool {
        address & self.mask == self.base
    }

    /// The position of the block's word. The address lies in the pool.
    #[inline(always)]
    pub const fn block(&self, address: u32) -> u32 {
        self.position.wrapping_add((address & !self.mask) >> (self.shift & 31))
    }

    /// Which word of its block's page is the address's.
    #[inline(always)]
    pub const fn in_block(&self, address: u32) -> u32 {
        address & !(u32::MAX << (self.shift & 31))
    }
}

/// Halves of an address as numbers in host order, the high one first.
pub type Halves = [u64; 2];

/// Blocks are of /116 to /128, so their mask is one of the low half.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool6 {
    pub base: Halves,
    pub mask: Halves,
    /// Low half of the blocks' mask.
    pub block_mask: u64,
    /// What a block says that is not in `BLOCKS6`: a [`Word`], never a page.
    pub fallback: u32,
    pub fallback_counter: u32,
    /// As in [`Pool4`].
    pub pool: u32,
    pub unused: u32,
}

impl Pool6 {
    /// Matches nothing.
    pub const UNUSED: Pool6 = Pool6 {
        base: [u64::MAX; 2],
        mask: [0; 2],
        block_mask: 0,
        fallback: Word::TRIE.0,
        fallback_counter: 0,
        pool: 0,
        unused: 0,
    };

    #[inline(always)]
    pub const fn contains(&self, [high, low]: Halves) -> bool {
        high & self.mask[0] == self.base[0] && low & self.mask[1] == self.base[1]
    }

    /// Key of `BLOCKS6`: the block's first address.
    #[inline(always)]
    pub const fn block(&self, [high, low]: Halves) -> Halves {
        [high, low & self.block_mask]
    }

    /// Which word of its block's page is the address's.
    #[inline(always)]
    pub const fn in_block(&self, [_, low]: Halves) -> u32 {
        (low & !self.block_mask) as u32
    }
}

#[inline(always)]
pub const fn halves(address: [u8; 16]) -> Halves {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p])]
}

#[inline(always)]
pub const fn from_halves([high, low]: Halves) -> [u8; 16] {
    ((high as u128) << 64 | low as u128).to_be_bytes()
}

/// A slot of `BLOCKS6`. A block stands at the place of its hash or at one of the next, with none between that was
/// never in use. Who gives it a slot writes the word first and the high half last. Who looks for it reads the high half,
/// the low half and the word, which a processor of weak order may do in any order: so a slot that is given up loses the
/// high half, then the low one, then the word, and rests until nobody can have read it as it was.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block6 {
    /// The block's [`Self::key`], or one of [`Self::FREE`] and [`Self::GONE`] in the high half and 0 in the low one.
    pub block: Halves,
    /// A [`Word`]; 0, "ask the trie", where the slot is no block's.
    pub word: u32,
    pub counter: u32,
    pub unused: u64,
}

/// How many slots are looked at for a block.
pub const BLOCK6_PROBES: u32 = 32;

/// An odd factor with well spread bits: 2^64 over the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The place of a block's first slot, once it is cut to the table's size. By one factor alone blocks side by side come to
/// lie in rows that grow with their number.
#[inline(always)]
pub const fn place6([high, low]: Halves) -> u32 {
    let mixed = (high.wrapping_mul(FACTOR) ^ low).wrapping_mul(FACTOR);
    ((mixed ^ mixed >> 29).wrapping_mul(FACTOR) >> 32) as u32
}

impl Block6 {
    pub const SIZE: usize = 32;
    /// Never in use: no block that is looked for stands further on. High half of `::/64`, which no router forwards.
    pub const FREE: u64 = 0;
    /// No longer in use. High half of multicast addresses.
    pub const GONE: u64 = u64::MAX;

    /// By which a block's first address is found: the low half is one more than the address has, since that of memory
    /// that was never written must not be a block's. None for an address that ends in 64 ones.
    #[inline(always)]
    pub const fn key([high, low]: Halves) -> Option<Halves> {
        match low.wrapping_add(1) {
            0 => None,
            low => Some([high, low]),
        }
    }

    /// A block with such an address can stand in the table.
    #[inline(always)]
    pub const fn has_place([high, low]: Halves) -> bool {
        high != Block6::FREE && high != Block6::GONE && low != u64::MAX
    }
}

/// Value of `POOLS`. A pool with number n stands in place n of `v4`, or n - 16 of `v6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSet {
    /// Places beyond these are not looked at.
    pub count4: u32,
    pub count6: u32,
    pub v4: [Pool4; POOLS],
    pub v6: [Pool6; POOLS],
}

impl PoolSet {
    pub const SIZE: usize = 8 + 20 * POOLS + 56 * POOLS;
    pub const EMPTY: PoolSet =
        PoolSet { count4: 0, count6: 0, v4: [Pool4::UNUSED; POOLS], v6: [Pool6::UNUSED; POOLS] };

    pub fn to_bytes(&self) -> [u8; PoolSet::SIZE] {
        let mut out = [0; PoolSet::SIZE];
        let mut rest = out.as_mut_slice();
        let mut put = |bytes: &[u8]| {
            // SIZE is the sum of what is put, which the test of the size proves.
            let (place, left) = core::mem::take(&mut rest).split_at_mut(bytes.len());
            place.copy_from_slice(bytes);
            rest = left;
        };
        put(&self.count4.to_ne_bytes());
        put(&self.count6.to_ne_bytes());
        for pool in &self.v4 {
            for word in [pool.base, pool.mask, pool.shift, pool.position, pool.pool] {
                put(&word.to_ne_bytes());
            }
        }
        for pool in &self.v6 {
            for half in [pool.base[0], pool.base[1], pool.mask[0], pool.mask[1], pool.block_mask] {
                put(&half.to_ne_bytes());
            }
            for word in [pool.fallback, pool.fallback_counter, pool.pool, pool.unused] {
                put(&word.to_ne_bytes());
            }
        }
        out
    }
}

impl PoolSet {
    #[expect(
        clippy::indexing_slicing,
        reason = "every place below lies within SIZE, which the test of the size proves"
    )]
    pub fn from_bytes(bytes: &[u8; PoolSet::SIZE]) -> PoolSet {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let half = |at: usize| {
            let mut half = [0; 8];
            half.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(half)
        };
        let v4 = core::array::from_fn(|place| {
            let at = 8 + 20 * place;
            let [base, mask, shift, position, pool] = [0, 4, 8, 12, 16].map(|field| word(at + field));
            Pool4 { base, mask, shift, position, pool }
        });
        let v6 = core::array::from_fn(|place| {
            let at = 8 + 20 * POOLS + 56 * place;
            let [fallback, fallback_counter, pool, unused] = [40, 44, 48, 52].map(|field| word(at + field));
            Pool6 {
                base: [half(at), half(at + 8)],
                mask: [half(at + 16), half(at + 24)],
                block_mask: half(at + 32),
                fallback,
                fallback_counter,
                pool,
                unused,
            }
        });
        PoolSet { count4: word(0), count6: word(4), v4, v6 }
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};
    use std::vec;

    use super::*;

    fn pool4() -> Pool4 {
        // 10.32.0.0/12 with blocks of /26.
        Pool4 { base: 0x0a20_0000, mask: 0xfff0_0000, shift: 6, position: 1000, pool: 2 }
    }

    #[test]
    fn the_words_of_a_pool_stand_in_the_order_of_its_blocks() {
        let pool = pool4();
        assert!(pool.contains(0x0a20_0000) && pool.contains(0x0a2f_ffff));
        assert!(!pool.contains(0x0a1f_ffff) && !pool.contains(0x0a30_0000));
        assert_eq!(pool.block(0x0a20_0000), 1000);
        assert_eq!(pool.block(0x0a20_003f), 1000);
        assert_eq!(pool.block(0x0a20_0040), 1001);
        assert_eq!(pool.block(0x0a2f_ffff), 1000 + (1 << 14) - 1);
        assert_eq!(pool.in_block(0x0a20_0041), 1);
        assert_eq!(pool.in_block(0x0a20_007f), 63);
    }

    #[test]
    fn a_pool_of_one_block_and_a_block_of_one_address_have_a_place() {
        let one = Pool4 { base: 0x0a00_0000, mask: 0xffff_ffc0, shift: 6, position: 5, pool: 1 };
        assert_eq!((one.block(0x0a00_003f), one.in_block(0x0a00_003f)), (5, 63));
        let single = Pool4 { base: 0x0a00_0000, mask: 0xffff_ffc0, shift: 0, position: 5, pool: 1 };
        assert_eq!((single.block(0x0a00_003f), single.in_block(0x0a00_003f)), (68, 0));
    }

    #[test]
    fn a_place_that_is_not_in_use_matches_no_address() {
        for address in [0, 1, 0x0a00_0000, u32::MAX] {
            assert!(!Pool4::UNUSED.contains(address));
        }
        for address in [[0, 0], [0, 1], [u64::MAX, u64::MAX]] {
            assert!(!Pool6::UNUSED.contains(address));
        }
    }

    #[test]
    fn an_ipv6_address_has_a_block_and_a_place_in_it() {
        let pool = Pool6 {
            base: [0xfd00_0000_0000_0001, 0],
            mask: [u64::MAX, 0],
            block_mask: !0x3f,
            ..Pool6::UNUSED
        };
        let address = halves([0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0x41]);
        assert!(pool.contains(address));
        assert!(!pool.contains([0xfd00_0000_0000_0002, 0x141]));
        assert_eq!(pool.block(address), [0xfd00_0000_0000_0001, 0x140]);
        assert_eq!(pool.in_block(address), 1);
        assert_eq!(halves(from_halves(address)), address);
    }

    #[test]
    fn the_sizes_are_those_that_the_loader_writes() {
        assert_eq!(size_of::<PoolSet>(), PoolSet::SIZE);
        assert_eq!(size_of::<Block6>(), Block6::SIZE);
        assert_eq!(align_of::<Block6>(), 8);
        assert_eq!(offset_of!(Block6, word), 16);
    }

    #[test]
    fn a_set_is_written_as_it_lies_in_memory() {
        let mut set = PoolSet::EMPTY;
        set.count4 = 2;
        set.v4[1] = pool4();
        set.v6[15].pool = 0x0102_0304;
        let bytes = set.to_bytes();
        let at = offset_of!(PoolSet, v4) + size_of::<Pool4>();
        assert_eq!(bytes[..4], 2u32.to_ne_bytes());
        assert_eq!(bytes[at..at + 4], 0x0a20_0000u32.to_ne_bytes());
        assert_eq!(bytes[at + 12..at + 16], 1000u32.to_ne_bytes());
        assert_eq!(bytes[PoolSet::SIZE - 8..PoolSet::SIZE - 4], 0x0102_0304u32.to_ne_bytes());
        assert_eq!(PoolSet::from_bytes(&bytes), set);
    }

    #[test]
    fn blocks_are_spread_over_a_table_of_any_size() {
        // As many as half the slots: side by side, one in each of as many /64s, and 256 in each.
        let beside: &dyn Fn(u64) -> Halves = &|n| [0xfd00 << 48, n << 6];
        let apart: &dyn Fn(u64) -> Halves = &|n| [0xfd00 << 48 | n, 0x40];
        let gathered: &dyn Fn(u64) -> Halves = &|n| [0xfd00 << 48 | n >> 8, (n & 255) << 6];
        for slots in [1 << 12, 1 << 17, 1 << 21] {
            for block in [beside, apart, gathered] {
                let mut taken = vec![false; slots];
                let (mut looks, mut without) = (0, 0);
                for n in 0..slots as u64 / 2 {
                    let first = place6(block(n));
                    let found = (0..BLOCK6_PROBES).find(|probe| {
                        let place = first.wrapping_add(*probe) as usize & (slots - 1);
                        !core::mem::replace(&mut taken[place], true)
                    });
                    looks += found.map_or(0, |probe| u64::from(probe) + 1);
                    without += u64::from(found.is_none());
                }
                // What numbers that are drawn by lot would need: one and a half.
                assert!(looks * 10 <= slots as u64 / 2 * 16, "{slots}: {looks} looks");
                assert!(without <= 10, "{slots}: {without} without a place");
            }
        }
    }

    #[test]
    fn no_block_that_is_looked_for_reads_as_a_slot_without_one() {
        assert!(Block6::has_place([0xfd00 << 48, 0]) && Block6::has_place([1, 0]));
        assert!(!Block6::has_place([Block6::FREE, 64]) && !Block6::has_place([Block6::GONE, 64]));
        assert!(!Block6::has_place([1, u64::MAX]));
        assert_eq!(Block6::key([1, u64::MAX]), None);
        assert_eq!(Block6::key([1, 0]), Some([1, 1]), "memory that was never written has a 0 there");
    }
}
