//! Rules by longest prefix as prefixes that do not overlap, each of one class: what a listener's keys must be, for
//! the kernel has no key that means "unsigned" and could stand inside a signed range.

use std::collections::BTreeMap;

use manx_net::{Prefix, Prefix4, Prefix6};

/// How much may be said about addresses that no rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They are in none of the prefixes.
    Excluded,
    /// They may be in any, so that few prefixes are enough for many rules of few classes.
    Whatever,
}

/// For every address that a rule covers the one prefix that holds it has the class of its longest rule.
pub fn classes<T: Copy + Eq>(rules: &BTreeMap<Prefix, T>, others: Others) -> Vec<(Prefix, T)> {
    let rules: Vec<(Prefix, T)> = rules.iter().map(|(prefix, class)| (*prefix, *class)).collect();
    let mut out = Vec::new();
    match others {
        Others::Whatever => {
            // IPv4 sorts first.
            let (ipv4, ipv6) = rules.split_at(rules.partition_point(|(prefix, _)| prefix.is_v4()));
            walk(Prefix4::DEFAULT.into(), None, ipv4, &mut out);
            walk(Prefix6::DEFAULT.into(), None, ipv6, &mut out);
        }
        Others::Excluded => {
            let mut rest = rules.as_slice();
            // What a prefix covers follows it in their order.
            while let Some((outermost, _)) = rest.first() {
                let (inside, after) = rest.split_at(rest.partition_point(|(p, _)| outermost.covers(*p)));
                walk(*outermost, None, inside, &mut out);
                rest = after;
            }
        }
    }
    out
}

/// `rules` lie in `node`; `around` is the class of the rule that covers the node, if there is one.
fn walk<T: Copy + Eq>(node: Prefix, around: Option<T>, rules: &[(Prefix, T)], out: &mut Vec<(Prefix, T)>) {
    let (around, rules) = match rules.split_first() {
        Some((&(prefix, class), rest)) if prefix == node => (Some(class), rest),
        _ => (around, rules),
    };
    let Some(class) = around.or(rules.first().map(|(_, class)| *class)) else { return };
    if rules.iter().all(|(_, other)| *other == class) {
        return out.push((node, class));
    }
    // A host has no rules inside it, and so all of them are of one class.
    let Some((low, high)) = halves(node) else { return };
    let (in_low, in_high) = rules.split_at(rules.partition_point(|(prefix, _)| prefix.addr() < high.addr()));
    walk(low, around, in_low, out);
    walk(high, around, in_high, out);
}

fn halves(prefix: Prefix) -> Option<(Prefix, Prefix)> {
    let len = prefix.len() + 1;
    let low = Prefix::new(prefix.addr(), len)?;
    let high: Prefix = match low {
        Prefix::V4(low) => Prefix4::from_bits(low.bits() | 1 << (Prefix4::MAX_LEN - len), len)?.into(),
        Prefix::V6(low) => Prefix6::from_bits(low.bits() | 1 << (Prefix6::MAX_LEN - len), len)?.into(),
    };
    Some((low, high))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(list: &[(&str, u8)]) -> BTreeMap<Prefix, u8> {
        list.iter().map(|(prefix, class)| (prefix.parse().unwrap(), *class)).collect()
    }

    fn text(classes: &[(Prefix, u8)]) -> Vec<String> {
        classes.iter().map(|(prefix, class)| format!("{prefix}={class}")).collect()
    }

    #[test]
    fn a_range_is_cut_around_an_address_of_another_class() {
        let rules = rules(&[("10.0.0.0/30", 1), ("10.0.0.1/32", 0), ("192.0.2.1/32", 1)]);
        let cut = classes(&rules, Others::Excluded);
        assert_eq!(text(&cut), ["10.0.0.0/32=1", "10.0.0.1/32=0", "10.0.0.2/31=1", "192.0.2.1/32=1"]);
    }

    #[test]
    fn five_thousand_addresses_of_one_class_are_one_prefix_if_the_others_do_not_matter() {
        let many = (0..5000_u32).map(|n| (Prefix4::from_bits(0x0a00_0000 + n * 3, 32).unwrap().into(), 7));
        let rules: BTreeMap<Prefix, u8> = many.collect();
        assert_eq!(classes(&rules, Others::Excluded).len(), 5000);
        assert_eq!(text(&classes(&rules, Others::Whatever)), ["0.0.0.0/0=7"]);
    }

    proptest! {
        #[test]
        fn every_covered_address_has_the_class_of_its_longest_rule_and_just_one_prefix(
            rules in proptest::collection::btree_map(
                // Few bits, so that the rules overlap.
                (0_u32..64, 26_u8..=32).prop_map(|(bits, len)| Prefix4::from_bits(bits, len).unwrap().into()),
                0_u8..3,
                1..12,
            ),
        ) {
            for others in [Others::Excluded, Others::Whatever] {
                let cut = classes(&rules, others);
                for bits in 0..64 {
                    let host: Prefix = Prefix4::from_bits(bits, 32).unwrap().into();
                    let longest = rules.iter().filter(|(p, _)| p.covers(host)).max_by_key(|(p, _)| p.len());
                    let found: Vec<u8> =
                        cut.iter().filter(|(p, _)| p.covers(host)).map(|(_, class)| *class).collect();
                    match longest {
                        Some((_, class)) => prop_assert_eq!(found, [*class]),
                        None if others == Others::Excluded => prop_assert!(found.is_empty()),
                        None => prop_assert!(found.len() <= 1),
                    }
                }
            }
        }
    }
}
