//! Longest-prefix questions about ordered maps keyed by [`Prefix`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use manx_net::Prefix;

/// The keys of an ordered map that `prefix` covers, itself included: a prefix sorts by its address, then the
/// shorter first.
pub(crate) fn within(prefix: Prefix) -> RangeInclusive<Prefix> {
    let last = match prefix {
        Prefix::V4(p) => {
            let hosts = u32::MAX.checked_shr(p.len().into()).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(p.bits() | hosts))
        }
        Prefix::V6(p) => {
            let hosts = u128::MAX.checked_shr(p.len().into()).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(p.bits() | hosts))
        }
    };
    prefix..=Prefix::host(last)
}

/// How many prefixes of each length a map holds, so that a lookup asks only for lengths that exist.
#[derive(Clone, Debug)]
pub(crate) struct Lengths {
    v4: [u32; 33],
    v6: [u32; 129],
}

impl Default for Lengths {
    fn default() -> Lengths {
        Lengths { v4: [0; 33], v6: [0; 129] }
    }
}

impl Lengths {
    #[expect(clippy::indexing_slicing, reason = "a prefix is never longer than the addresses of its family")]
    fn of(&mut self, prefix: Prefix) -> &mut u32 {
        match prefix {
            Prefix::V4(p) => &mut self.v4[usize::from(p.len())],
            Prefix::V6(p) => &mut self.v6[usize::from(p.len())],
        }
    }

    pub fn add(&mut self, prefix: Prefix) {
        *self.of(prefix) += 1;
    }

    pub fn remove(&mut self, prefix: Prefix) {
        let count = self.of(prefix);
        *count = count.saturating_sub(1);
    }

    /// The prefixes that cover `prefix` and could exist, longest first, itself included.
    pub fn covering(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> + '_ {
        let counts: &[u32] = if prefix.is_v4() { &self.v4 } else { &self.v6 };
        (0..=prefix.len())
            .rev()
            .filter(|length| counts.get(usize::from(*length)).is_some_and(|count| *count > 0))
            .filter_map(move |length| Prefix::new(prefix.addr(), length))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_holds_what_the_prefix_covers_and_nothing_else() {
        let all: BTreeSet<Prefix> =
            ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.255.255.255/32", "11.0.0.0/8", "::/0", "fd00::/8"]
                .map(p)
                .into();
        let inside = |prefix| all.range(within(p(prefix))).copied().collect::<Vec<_>>();
        assert_eq!(inside("10.0.0.0/8"), ["10.0.0.0/8", "10.0.0.0/16", "10.255.255.255/32"].map(p));
        assert_eq!(inside("::/0"), ["::/0", "fd00::/8"].map(p));
        assert_eq!(inside("0.0.0.0/0").len(), 5);
        assert_eq!(inside("10.255.255.255/32").len(), 1);
    }

    #[test]
    fn covering_prefixes_come_longest_first_and_only_where_the_length_exists() {
        let mut lengths = Lengths::default();
        for prefix in ["10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0"] {
            lengths.add(p(prefix));
        }
        lengths.remove(p("10.1.0.0/16"));
        let found: Vec<_> = lengths.covering(p("10.1.2.3/32")).collect();
        assert_eq!(found, [p("10.0.0.0/8"), p("0.0.0.0/0")]);
    }
}
