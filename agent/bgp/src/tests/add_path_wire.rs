//! Prefixes with the names of their paths (RFC 7911 §3), written and read again.

use std::net::IpAddr;

use bytes::BytesMut;
use manx_net::{Prefix4, Prefix6};
use proptest::prelude::*;

use crate::{
    Family,
    attr::{
        Attributes,
        encode::{Outgoing, OutgoingKind, encode},
        parse::Reading,
    },
    config::PerFamily,
    message::{
        HEADER_LEN, MAX_LEN, Message, next_message,
        update::{Listed, Named, Nlri, PathId, Prefixes, Update, write_announcements, write_withdrawals},
    },
};

const READING: Reading = Reading {
    families: PerFamily::both(true),
    ebgp: false,
    four_octet: true,
    add_path: PerFamily::both(true),
    extended_next_hop: false,
};

/// The bodies of whole UPDATEs, none longer than it may be.
fn bodies(mut stream: BytesMut) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    while let Some(Message::Update(body)) = next_message(&mut stream, MAX_LEN).unwrap() {
        assert!(body.len() + HEADER_LEN <= MAX_LEN);
        out.push(body.to_vec());
    }
    assert!(stream.is_empty());
    out
}

fn of<P: Nlri>(wire: &[u8]) -> Vec<(PathId, P)> {
    Prefixes::parse(wire, true).unwrap().collect()
}

/// What UPDATEs with these prefixes say, announced and withdrawn, by somebody who reads them.
fn read<P: Nlri>(named: &[Named<P>], next_hop: IpAddr) -> [Vec<(PathId, P)>; 2]
where
    Named<P>: Listed,
{
    let (mut announcing, mut withdrawing, mut attributes) =
        (BytesMut::new(), BytesMut::new(), BytesMut::new());
    let outgoing = Outgoing {
        next_hop,
        link_local: None,
        four_octet: true,
        kind: OutgoingKind::Ibgp,
        only_to_customers: None,
    };
    encode(&mut attributes, &Attributes::own(&[]), &outgoing);
    write_announcements(&mut announcing, named, &attributes, &outgoing.mp_next_hop(), false).unwrap();
    write_withdrawals(&mut withdrawing, named);
    let (mut announced, mut withdrawn) = (Vec::new(), Vec::new());
    for body in bodies(announcing).iter().chain(&bodies(withdrawing)) {
        let update = Update::parse(body, READING).unwrap();
        assert_eq!(update.attributes.errors, []);
        let own = |prefixes: Prefixes<'_, Prefix4>| -> Vec<(PathId, P)> {
            prefixes.filter_map(|(id, prefix)| Some((id, P::of(prefix.into())?))).collect()
        };
        announced.extend(own(update.announced));
        withdrawn.extend(own(update.withdrawn));
        announced.extend(update.attributes.mp_reach.iter().flat_map(|reach| of(reach.nlri)));
        withdrawn.extend(update.attributes.mp_unreach.iter().flat_map(|unreach| of(unreach.nlri)));
    }
    [announced, withdrawn]
}

fn check<P: Nlri>(named: &[Named<P>], next_hop: &str)
where
    Named<P>: Listed,
{
    let expected: Vec<(PathId, P)> = named.iter().map(|named| (named.id, named.prefix)).collect();
    let [announced, withdrawn] = read(named, next_hop.parse().unwrap());
    assert_eq!((&announced, &withdrawn), (&expected, &expected), "{}", <P as Nlri>::FAMILY);
    assert!(<P as Nlri>::FAMILY == Family::Ipv4Unicast || next_hop.contains(':'));
}

proptest! {
    /// RFC 7911 §3, in all four places where prefixes stand.
    #[test]
    fn what_is_written_with_names_is_read_with_them(
        ipv4 in prop::collection::vec((any::<u32>(), any::<u32>(), 0u8..=32), 1..1500),
        ipv6 in prop::collection::vec((any::<u32>(), any::<u128>(), 0u8..=128), 1..700),
    ) {
        let ipv4: Vec<Named<Prefix4>> = ipv4
            .into_iter()
            .map(|(id, bits, length)| Named { id, prefix: Prefix4::from_bits(bits, length).unwrap() })
            .collect();
        let ipv6: Vec<Named<Prefix6>> = ipv6
            .into_iter()
            .map(|(id, bits, length)| Named { id, prefix: Prefix6::from_bits(bits, length).unwrap() })
            .collect();
        check(&ipv4, "10.0.0.1");
        check(&ipv6, "2001:db8::1");
    }
}
