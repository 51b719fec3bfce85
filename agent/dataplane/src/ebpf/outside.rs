//! Where outside the indexed pools the tries say more than ways, part by part of the addresses: [`manx_abi::outside`].

use std::collections::{BTreeSet, HashMap};

use manx_abi::outside::{PARTS, WORDS, part4, part6, position};
use manx_net::Prefix;

use super::{maps::Maps, settings::place};

/// How many entries lie in each part or around it.
#[derive(Debug, Default)]
pub(super) struct Outside {
    v4: Parts,
    v6: Parts,
    /// Words that may have to be stored.
    touched: BTreeSet<u32>,
}

#[derive(Debug, Default)]
struct Parts {
    entries: usize,
    by_part: HashMap<u32, u32>,
    /// Those that surround every part.
    everywhere: u32,
}

/// What a prefix is in: one part, some in a row, or all.
enum In {
    These(std::ops::Range<u32>),
    All,
}

fn parts(prefix: Prefix) -> In {
    match prefix {
        Prefix::V4(prefix) => {
            let first = part4(prefix.bits());
            match 16u8.checked_sub(prefix.len()) {
                None | Some(0) => In::These(first..first + 1),
                Some(16) => In::All,
                Some(more) => In::These(first..first + (1 << more)),
            }
        }
        Prefix::V6(prefix) if prefix.len() >= 32 => {
            let part = part6((prefix.bits() >> 64) as u64);
            In::These(part..part + 1)
        }
        Prefix::V6(_) => In::All,
    }
}

impl Parts {
    fn holds(&self, part: u32) -> bool {
        self.everywhere > 0 || self.by_part.contains_key(&part)
    }

    fn word(&self, first: u32) -> u32 {
        (0..32).fold(0, |word, bit| word | u32::from(self.holds(first + bit)) << bit)
    }
}

impl Outside {
    pub fn of(prefixes: impl Iterator<Item = Prefix>) -> Outside {
        let mut outside = Outside { touched: (0..WORDS as u32).collect(), ..Outside::default() };
        prefixes.for_each(|prefix| outside.add(prefix));
        outside
    }

    fn family(&mut self, prefix: Prefix) -> &mut Parts {
        if prefix.is_v4() { &mut self.v4 } else { &mut self.v6 }
    }

    pub fn add(&mut self, prefix: Prefix) {
        self.touch(prefix);
        let family = self.family(prefix);
        family.entries += 1;
        match parts(prefix) {
            In::All => family.everywhere += 1,
            In::These(parts) => parts.for_each(|part| *family.by_part.entry(part).or_default() += 1),
        }
    }

    /// Of one that was added.
    pub fn remove(&mut self, prefix: Prefix) {
        self.touch(prefix);
        let family = self.family(prefix);
        family.entries = family.entries.saturating_sub(1);
        match parts(prefix) {
            In::All => family.everywhere = family.everywhere.saturating_sub(1),
            In::These(parts) => {
                for part in parts {
                    if let Some(count) = family.by_part.get_mut(&part) {
                        *count -= 1;
                        if *count == 0 {
                            family.by_part.remove(&part);
                        }
                    }
                }
            }
        }
    }

    fn touch(&mut self, prefix: Prefix) {
        let range = match parts(prefix) {
            In::All => 0..PARTS,
            In::These(parts) => parts,
        };
        let word = |part| position(prefix.is_v4(), part).0;
        self.touched.extend(word(range.start)..=word(range.end - 1));
    }

    /// Says so of these before they are in the tries; [`Self::write`] says the rest.
    pub fn raise(&mut self, maps: &Maps, prefixes: impl Iterator<Item = Prefix>) {
        let (mut v4, mut v6) = (false, false);
        for prefix in prefixes {
            self.touch(prefix);
            *if prefix.is_v4() { &mut v4 } else { &mut v6 } = true;
            let range = match parts(prefix) {
                In::All => 0..PARTS,
                In::These(parts) => parts,
            };
            for part in range {
                let (at, bit) = position(prefix.is_v4(), part);
                let before = maps.outside.load(at as usize).unwrap_or(0);
                if before >> bit & 1 == 0 {
                    maps.outside.store(at as usize, before | 1 << bit);
                }
            }
        }
        for (is_there, at) in [(v4, place!(outside4)), (v6, place!(outside6))] {
            if is_there {
                maps.settings.store(at, 1);
            }
        }
    }

    /// What is counted now.
    pub fn write(&mut self, maps: &Maps) {
        for at in std::mem::take(&mut self.touched) {
            maps.outside.store(at as usize, self.word(at));
        }
        let [v4, v6] = self.flags();
        maps.settings.store(place!(outside4), v4);
        maps.settings.store(place!(outside6), v6);
    }

    /// All of it, whatever is there.
    pub fn write_all(&mut self, maps: &Maps) {
        self.touched.extend(0..WORDS as u32);
        self.write(maps);
    }

    /// Of IPv4, and of IPv6, whether anything is asked.
    pub fn flags(&self) -> [u32; 2] {
        [&self.v4, &self.v6].map(|family| u32::from(family.entries > 0))
    }

    fn word(&self, at: u32) -> u32 {
        let first = at * 32;
        if first < PARTS { self.v4.word(first) } else { self.v6.word(first - PARTS) }
    }

    /// Words that say something else: what they are, and what they should be.
    pub fn faults(&self, maps: &Maps) -> Vec<(u32, u32, u32)> {
        (0..WORDS as u32)
            .filter_map(|at| {
                let (found, expected) = (maps.outside.load(at as usize).unwrap_or(0), self.word(at));
                (found != expected).then_some((at, found, expected))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bit(outside: &Outside, prefix: Prefix) -> bool {
        let part = match prefix {
            Prefix::V4(prefix) => part4(prefix.bits()),
            Prefix::V6(prefix) => part6((prefix.bits() >> 64) as u64),
        };
        let (at, bit) = position(prefix.is_v4(), part);
        outside.word(at) >> bit & 1 == 1
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        prop_oneof![
            (any::<u32>(), 0u8..=32)
                .prop_map(|(bits, length)| Prefix::new(std::net::Ipv4Addr::from(bits).into(), length)),
            (any::<u128>(), 0u8..=128)
                .prop_map(|(bits, length)| Prefix::new(std::net::Ipv6Addr::from(bits).into(), length)),
        ]
        .prop_filter_map("a prefix", |prefix| prefix)
    }

    proptest! {
        #[test]
        fn every_address_of_an_entry_is_asked_for_and_none_when_all_are_gone(
            entries in prop::collection::vec((any_prefix(), any::<u128>()), 1..20),
        ) {
            let mut outside = Outside::default();
            for (prefix, _) in &entries {
                outside.add(*prefix);
            }
            for (prefix, within) in &entries {
                let address = match prefix {
                    Prefix::V4(prefix) => {
                        let host = (*within as u32).checked_shr(prefix.len().into()).unwrap_or(0);
                        Prefix::host(std::net::Ipv4Addr::from(prefix.bits() | host).into())
                    }
                    Prefix::V6(prefix) => {
                        let host = within.checked_shr(prefix.len().into()).unwrap_or(0);
                        Prefix::host(std::net::Ipv6Addr::from(prefix.bits() | host).into())
                    }
                };
                prop_assert!(bit(&outside, address), "{prefix}: {address}");
            }
            for (prefix, _) in &entries {
                outside.remove(*prefix);
            }
            prop_assert_eq!(outside.flags(), [0, 0]);
            prop_assert!((0..WORDS as u32).all(|at| outside.word(at) == 0));
        }
    }
}
