//! Answers of nf_tables that no kernel gives: whatever comes, reading and judging it ends, and nothing panics. For the
//! fuzzer (`cargo xtask fuzz`) and a test beside it.

use super::{Chain, Description, Element, Rule, Ruleset};
use crate::netfilter::{
    analyse,
    netlink::{Attributes, Message, Messages},
};

/// `NFT_MSG_NEW*`, without the subsystem.
mod new {
    pub const TABLE: u16 = 0;
    pub const CHAIN: u16 = 3;
    pub const RULE: u16 = 6;
    pub const SET: u16 = 9;
    pub const ELEMENTS: u16 = 12;
}

/// A datagram as the kernel sends it, messages of all kinds in one.
pub(crate) fn judge(datagram: &[u8]) {
    let mut ruleset = Ruleset::default();
    let mut described: Option<Description> = None;
    for (kind, body) in Messages(datagram) {
        let (Some(&family), Some(attributes)) = (body.first(), body.get(4..)) else { continue };
        let message = Message { family, attributes: Attributes(attributes) };
        match kind & 0xff {
            new::TABLE => drop(ruleset.dormant.insert((family, message.attributes.text(1)))),
            new::CHAIN => ruleset.chains.push(Chain::read(message)),
            new::RULE => ruleset.rules.push(Rule::read(message)),
            new::SET => described = Some(Description::read(message)),
            new::ELEMENTS => {
                let elements = message.attributes.nested(3);
                let elements = elements.map(|(_, element)| Element::read(Attributes(element))).collect();
                if let Some(set) = &described {
                    ruleset.sets.insert((set.table.clone(), set.name.clone()), set.set_of(elements));
                }
            }
            _ => {}
        }
    }
    analyse::tracking(&ruleset);
    analyse::rules(&ruleset);
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;
    use crate::netfilter::netlink::attribute;

    /// A value as often as not, else attributes in it; names are few, so that they meet.
    fn attributes() -> impl Strategy<Value = Vec<u8>> {
        let value = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..20),
            prop::sample::select(vec![
                "ip",
                "a",
                "b",
                "ct",
                "lookup",
                "immediate",
                "cmp",
                "payload",
                "bitwise"
            ])
            .prop_map(|name| [name.as_bytes(), &[0]].concat()),
            (0u32..20).prop_map(|number| number.to_be_bytes().to_vec()),
        ];
        value.prop_recursive(6, 60, 8, |inner| {
            prop::collection::vec((1u16..13, inner), 0..8)
                .prop_map(|all| all.iter().flat_map(|(kind, value)| attribute(*kind, value)).collect())
        })
    }

    fn message() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop::sample::select(vec![new::TABLE, new::CHAIN, new::RULE, new::SET, new::ELEMENTS]);
        (
            kind,
            prop::sample::select(vec![1u8, 2, 5, 10]),
            prop::collection::vec((1u16..9, attributes()), 0..8),
        )
            .prop_map(|(kind, family, all)| {
                let body: Vec<u8> = all.iter().flat_map(|(kind, value)| attribute(*kind, value)).collect();
                let mut out = (body.len() as u32 + 20).to_ne_bytes().to_vec();
                out.extend((10 << 8 | kind).to_ne_bytes());
                out.extend([0; 10]);
                out.extend([family, 0, 0, 0]);
                out.extend(body);
                out
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn any_answers_of_the_kernel_are_read_and_judged(
            messages in prop::collection::vec(message(), 0..20),
            damage in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        ) {
            let mut datagram = messages.concat();
            judge(&datagram);
            for (place, octet) in damage {
                if !datagram.is_empty() {
                    *place.get_mut(&mut datagram) = octet;
                }
            }
            judge(&datagram);
        }

        #[test]
        fn any_octets_are_read_and_judged(datagram in prop::collection::vec(any::<u8>(), 0..300)) {
            judge(&datagram);
        }
    }
}
