//! What the FIB has said of addresses of own blocks.

use crate::capacity;

/// One CPU's value of `VACANCIES`: an address that the FIB has called a blackhole. It need not be asked again while nothing
/// has changed in it, which it says by a number of its own, and for no longer than [`crate::Settings::vacancy`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vacancy {
    /// As two numbers; IPv4 in the low half of the second, beside ones that no IPv6 address of a pool has.
    pub address: [u64; 2],
    /// Where the packet came in: it may choose the table.
    pub ifindex: u32,
    /// How often the routes had changed before the FIB was asked.
    pub generation: u32,
    /// When it was asked, in jiffies.
    pub asked: u32,
    /// 1: it was asked again some jiffies after the first time, and nothing had changed since. IPv6 counts a change before it
    /// is made, so that the first answer may be older than the number.
    pub settled: u32,
}

impl Vacancy {
    pub const SIZE: usize = 32;
    /// Jiffies between the first answer and the one that counts: a change is made with interrupts of the network held off.
    pub const SETTLES: u32 = 2;

    #[inline(always)]
    pub const fn of4(address: u32) -> [u64; 2] {
        [0, 0xffff << 32 | address as u64]
    }

    /// The addresses of a block have slots side by side.
    #[inline(always)]
    pub const fn slot(address: [u64; 2]) -> u32 {
        let low = address[0] ^ address[1];
        ((low ^ low >> 10 ^ low >> 20 ^ low >> 32) as u32) & (capacity::VACANCIES as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_addresses_of_a_block_do_not_meet() {
        assert_eq!(size_of::<Vacancy>(), Vacancy::SIZE);
        for block in [0xac10_24c0u32, 0x0a00_0000, 0xc0a8_ffc0] {
            let slots: BTreeSet<u32> =
                (0..64).map(|host| Vacancy::slot(Vacancy::of4(block + host))).collect();
            assert_eq!(slots.len(), 64, "{block:x}");
        }
        for block in [[0xfd00_0000_0000_0000u64, 0x40], [0x2001_0db8_0000_0001, 0xabcd_0000_0000_1fc0]] {
            let slots: BTreeSet<u32> =
                (0..64).map(|host| Vacancy::slot([block[0], block[1] + host])).collect();
            assert_eq!(slots.len(), 64, "{block:x?}");
        }
        assert!(
            (0..5000).all(|address| (Vacancy::slot([address << 40, address]) as usize) < capacity::VACANCIES)
        );
    }
}
