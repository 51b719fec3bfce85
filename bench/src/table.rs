//! What a receiver has: one bit for every prefix that a scenario announces. The prefixes of a scenario lie side by
//! side, so that a prefix is found by a subtraction and a shift, and counting costs the generator next to nothing.

use std::net::Ipv4Addr;

use crate::wire::Change;

/// `count` prefixes of equal length, the first at `base`, each next to the last.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub base: Ipv4Addr,
    pub length: u8,
    pub count: u32,
}

impl Range {
    /// The prefix with this number.
    pub fn prefix(self, number: u32) -> (Ipv4Addr, u8) {
        (Ipv4Addr::from_bits(self.base.to_bits() + (number << (32 - self.length))), self.length)
    }

    fn number(self, address: u32, length: u8) -> Option<u32> {
        let number = address.checked_sub(self.base.to_bits())? >> (32 - self.length);
        (length == self.length && number < self.count).then_some(number)
    }
}

#[derive(Debug)]
pub struct Table {
    range: Range,
    bits: Vec<u64>,
    have: u32,
    want: u32,
    /// The prefix that its owner announces itself. Some daemons echo it; it counts for nothing.
    own: Option<u32>,
}

impl Table {
    /// A table that wants all of `range` but its `own`.
    pub fn new(range: Range, own: Option<u32>) -> Table {
        let words = usize::try_from(range.count.div_ceil(64)).expect("a u32 fits a usize");
        let want = range.count - u32::from(own.is_some());
        Table { range, bits: vec![0; words], have: 0, want, own }
    }

    /// The table of one who only announces: it wants nothing.
    pub fn indifferent() -> Table {
        Table::new(Range { base: Ipv4Addr::UNSPECIFIED, length: 32, count: 0 }, None)
    }

    pub fn is_complete(&self) -> bool {
        self.have == self.want
    }

    /// Distinct prefixes.
    pub fn have(&self) -> u32 {
        self.have
    }

    pub fn has(&self, number: u32) -> bool {
        self.word(number).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    fn word(&self, number: u32) -> Option<u64> {
        self.bits.get(usize::try_from(number / 64).ok()?).copied()
    }

    pub fn take(&mut self, change: Change) {
        let (address, length, announced) = match change {
            Change::Announced(address, length) => (address, length, true),
            Change::Withdrawn(address, length) => (address, length, false),
        };
        let Some(number) = self.range.number(address, length) else { return };
        let index = usize::try_from(number / 64).expect("a u32 fits a usize");
        let (Some(word), true) = (self.bits.get_mut(index), self.own != Some(number)) else { return };
        let bit = 1 << (number % 64);
        match (announced, *word & bit != 0) {
            (true, false) => self.have += 1,
            (false, true) => self.have -= 1,
            _ => return,
        }
        *word ^= bit;
    }

    /// The session is gone, and with it what it brought.
    pub fn forget(&mut self) {
        self.bits.fill(0);
        self.have = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_counts_once_however_often_it_comes_and_its_own_never() {
        let range = Range { base: Ipv4Addr::new(172, 16, 0, 0), length: 26, count: 3 };
        let mut table = Table::new(range, Some(1));
        let announced = |n| Change::Announced(range.prefix(n).0.to_bits(), 26);
        for n in [0, 0, 1] {
            table.take(announced(n));
        }
        assert_eq!((table.have(), table.is_complete()), (1, false));
        table.take(announced(2));
        assert!(table.is_complete());
        table.take(Change::Withdrawn(range.prefix(2).0.to_bits(), 26));
        table.take(Change::Withdrawn(range.prefix(2).0.to_bits(), 26));
        assert_eq!((table.have(), table.has(0), table.has(2)), (1, true, false));
        table.take(Change::Announced(range.base.to_bits(), 24));
        table.take(Change::Announced(0, 26));
        assert_eq!(table.have(), 1, "prefixes of other lengths or places are not counted");
    }
}
