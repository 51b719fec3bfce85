//! Where outside the indexed pools the tries are to be asked: a bit for each part of the address space, so that one blackhole
//! there does not cost every packet to the world a lookup among all routes.

/// Parts of one family's addresses. A power of two.
pub const PARTS: u32 = 1 << 16;
/// Words of 32 bits, for IPv4 and then for IPv6.
pub const WORDS: usize = 2 * PARTS as usize / 32;

/// By the first 16 bits.
#[inline(always)]
pub const fn part4(address: u32) -> u32 {
    address >> 16
}

/// By the first 32 bits, which meet others: no more is said than that the trie is asked.
#[inline(always)]
pub const fn part6(high: u64) -> u32 {
    let first = (high >> 32) as u32;
    (first ^ first >> 16) & (PARTS - 1)
}

/// Which word, and which bit of it.
#[inline(always)]
pub const fn position(is_v4: bool, part: u32) -> (u32, u32) {
    let part = if is_v4 { part } else { PARTS + part };
    (part / 32, part % 32)
}
