//! A peer may send anything, and the driver may say anything in any order: nothing panics, nothing grows, and the
//! other peers go on.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    network::{asn, ip, peer},
    script::{attribute, config, mandatory, raw_update, their_open, update},
};
use crate::{
    Config, ConnId, DynamicPeers, Event, ExportRule, NextHop, Output, RemoteAs, Speaker, Time,
    attr::{
        Attributes, Origin, PartialOnes, Unknown,
        as_path::{AsPath, tests::path as as_path},
        code,
        encode::{Outgoing, OutgoingKind, encode},
        parse::{Reading, parse},
    },
    config::PerFamily,
    message::{keepalive, notification::Notification, refresh::*, update::end_of_rib},
    view::SessionState,
};

fn attributes() -> impl Strategy<Value = Attributes> {
    let numbers = prop::collection::vec(1u32..200_000, 0..6);
    let many = |n| prop::collection::vec(any::<u32>(), 0..n);
    let first = (0u8..3, numbers, any::<u32>(), any::<Option<u32>>(), any::<Option<u32>>(), any::<bool>());
    let second = (any::<Option<(u16, u32)>>(), many(70), prop::collection::vec(any::<u64>(), 0..9), many(9));
    let third = (any::<([Option<u32>; 2], u8)>(), many(5), prop::collection::vec(any::<u8>(), 0..400));
    (first, second, third).prop_map(
        |(
            (origin, path, hop, med, pref, atomic),
            (aggregator, communities, extended, large),
            (([id, only_to_customers], bits), list, unknown),
        )| {
            let large: Vec<u32> = large;
            let mut partial = PartialOnes::default();
            for (n, (code, there)) in [
                (code::AGGREGATOR, aggregator.is_some()),
                (code::COMMUNITIES, !communities.is_empty()),
                (code::EXTENDED_COMMUNITIES, !extended.is_empty()),
                (code::LARGE_COMMUNITIES, large.len() >= 3),
                (code::ONLY_TO_CUSTOMERS, only_to_customers.is_some()),
            ]
            .into_iter()
            .enumerate()
            {
                if there && bits >> n & 1 != 0 {
                    partial.add(code);
                }
            }
            Attributes {
                partial,
                origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][usize::from(origin)],
                as_path: if path.is_empty() { AsPath::default() } else { as_path(&path) },
                next_hop: Ipv4Addr::from_bits(hop).into(),
                med,
                local_pref: Some(pref.unwrap_or(100)),
                atomic_aggregate: atomic,
                aggregator: aggregator.map(|(n, a)| (asn(u32::from(n) * 3 + 1), Ipv4Addr::from_bits(a))),
                communities: communities.into(),
                extended: extended.into(),
                large: large.chunks_exact(3).map(|c| [c[0], c[1], c[2]]).collect(),
                originator_id: id.map(Ipv4Addr::from_bits),
                cluster_list: list.into_iter().map(Ipv4Addr::from_bits).collect(),
                only_to_customers,
                unknown: if unknown.is_empty() {
                    Box::default()
                } else {
                    [Unknown { code: 99, value: unknown.into() }].into()
                },
                received: None,
            }
        },
    )
}

proptest! {
    /// What leaves and comes back is what it was, but for what the kind of session changes.
    #[test]
    fn attributes_survive_the_wire(attributes in attributes(), four_octet: bool) {
        // As a reflector sends them, which writes every attribute.
        let originator = Ipv4Addr::new(7, 7, 7, 7);
        let cluster_id = Ipv4Addr::new(8, 8, 8, 8);
        let kind = OutgoingKind::Reflected { originator, cluster_id };
        let mut wire = bytes::BytesMut::new();
        encode(&mut wire, &attributes, &Outgoing { next_hop: attributes.next_hop, link_local: None, only_to_customers: None, four_octet, kind });
        let parsed = parse(&wire, Reading { families: PerFamily::both(true), ebgp: false, four_octet, add_path: PerFamily::both(false), extended_next_hop: true }).unwrap();
        prop_assert_eq!(&parsed.errors, &[]);
        let mut expected = attributes.clone();
        expected.originator_id = Some(attributes.originator_id.unwrap_or(originator));
        expected.cluster_list = [cluster_id].into_iter().chain(attributes.cluster_list).collect();
        prop_assert_eq!(parsed.attributes(attributes.next_hop), Some(expected));
    }

    #[test]
    fn no_attribute_block_makes_the_parser_panic(block in prop::collection::vec(any::<u8>(), 0..300), ebgp: bool, four_octet: bool) {
        if let Ok(mut parsed) = parse(&block, Reading { families: PerFamily::both(true), ebgp, four_octet, add_path: PerFamily::both(false), extended_next_hop: true }) {
            parsed.check_mandatory(true);
            let _ = parsed.attributes(ip("10.0.0.2"));
        }
    }
}

/// Half sense, half nonsense.
fn any_message() -> impl Strategy<Value = Bytes> {
    let raw = prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from);
    let parts = |n| prop::collection::vec(any::<u8>(), 0..n);
    let framed = (0u8..7, parts(60)).prop_map(|(kind, body)| {
        let mut out = bytes::BytesMut::new();
        crate::message::write_message(&mut out, kind, |out| out.extend_from_slice(&body));
        out.freeze()
    });
    let bent = (parts(6), any::<u8>(), any::<u8>(), parts(40), parts(8)).prop_map(
        |(gone, flags, code, value, nlri)| {
            let mut block = mandatory(&[]).concat();
            block.extend(attribute(flags & 0xe0, code % 36, &value));
            raw_update(&gone, &block, &nlri)
        },
    );
    let sense = prop_oneof![
        Just(keepalive()),
        Just(their_open(&config(64512)).encode()),
        Just(Notification::cease(2).encode()),
        Just(update(&[], &mandatory(&[]), &["10.1.0.0/16", "10.2.0.0/16"])),
        Just(update(&["10.1.0.0/16"], &[], &[])),
        Just(end_of_rib(crate::Family::Ipv4Unicast)),
        Just(end_of_rib(crate::Family::Ipv6Unicast)),
        (0usize..2, 0usize..3).prop_map(|(family, kind)| {
            let kind = [RefreshKind::Request, RefreshKind::Begin, RefreshKind::End][kind];
            RouteRefresh { family: crate::Family::ALL[family], kind }.encode()
        }),
    ];
    prop_oneof![6 => sense, 2 => bent, 1 => framed, 1 => raw]
}

#[derive(Clone, Debug)]
enum Step {
    Accept(u8),
    Give(u8, Bytes),
    Handshake(u8),
    Closed(u8),
    Connected(u8),
    DialFailed(u8),
    NextHop(bool),
    Wait(u16),
    Transmit(u8, u16),
    Configure(u8),
    Toggle(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u8..4).prop_map(Step::Accept),
        8 => (any::<u8>(), any_message()).prop_map(|(conn, bytes)| Step::Give(conn, bytes)),
        3 => any::<u8>().prop_map(Step::Handshake),
        1 => any::<u8>().prop_map(Step::Closed),
        1 => any::<u8>().prop_map(Step::Connected),
        1 => any::<u8>().prop_map(Step::DialFailed),
        1 => any::<bool>().prop_map(Step::NextHop),
        2 => any::<u16>().prop_map(Step::Wait),
        3 => (any::<u8>(), any::<u16>()).prop_map(|(conn, budget)| Step::Transmit(conn, budget)),
        1 => (0u8..32).prop_map(Step::Configure),
        1 => any::<bool>().prop_map(Step::Toggle),
    ]
}

fn variant(n: u8) -> Config {
    let mut all = config(64512);
    all.peers.push(peer("10.0.0.3", 64512));
    all.peers.push(peer("10.0.0.4", 64600));
    all.export = ExportRule { transit: n & 1 == 0, ..ExportRule::default() };
    all.peers[0].rr_client = n & 2 == 0;
    if n & 4 != 0 {
        all.peers.remove(1);
        all.peers[0].families = vec![crate::Family::Ipv4Unicast];
    }
    all.graceful_restart.restarting = n == 3;
    all.peers[0].transport = u64::from(n & 16);
    if n & 8 != 0 {
        // Whom no peer stands for may come from a range; in the second half of the variants the first peer is gone.
        let remote_as = if n & 1 == 0 { RemoteAs::External } else { RemoteAs::OneOf(vec![asn(64512)]) };
        let template = all.peers[0].clone();
        all.dynamic_peers.push(DynamicPeers {
            range: "10.0.0.0/29".parse().unwrap(),
            remote_as,
            template,
            limit: 2,
        });
        if n & 16 != 0 {
            all.peers.remove(0);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_panics_and_all_memory_returns(
        first in 0u8..32, steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut now = Time::from_nanos(1);
        let mut speaker = Speaker::new(variant(first), now);
        let mut conns: Vec<ConnId> = vec![ConnId(999)];
        for step in steps {
            let pick = |n: u8| conns[usize::from(n) % conns.len()];
            match step {
                Step::Accept(last) => {
                    let remote = SocketAddr::new(ip(&format!("10.0.0.{}", last + 2)), 9);
                    if let Ok(conn) = speaker.accept(SocketAddr::new(ip("10.0.0.1"), 179), remote, now) {
                        conns.push(conn);
                    }
                }
                Step::Give(conn, bytes) => speaker.handle(Event::Received { conn: pick(conn), bytes }, now),
                Step::Handshake(conn) => {
                    for bytes in [their_open(&config(64512)).encode(), keepalive()] {
                        speaker.handle(Event::Received { conn: pick(conn), bytes }, now);
                    }
                }
                Step::Closed(conn) => speaker.handle(Event::Closed { conn: pick(conn), reason: "x".into() }, now),
                Step::DialFailed(conn) => {
                    speaker.handle(Event::DialFailed { conn: pick(conn), error: "x".into() }, now);
                }
                Step::Connected(conn) => {
                    let local = SocketAddr::new(ip("10.0.0.1"), 5);
                    let remote = SocketAddr::new(ip("10.0.0.3"), 179);
                    speaker.handle(Event::Connected { conn: pick(conn), local, remote }, now);
                }
                Step::NextHop(there) => {
                    let next_hop = NextHop { address: ip("10.0.0.2"), link_of: None };
                    speaker.handle(Event::NextHop { next_hop, metric: there.then_some(1) }, now);
                }
                Step::Wait(ms) => {
                    now = now + std::time::Duration::from_millis(u64::from(ms));
                    speaker.advance(now);
                }
                Step::Transmit(conn, budget) => {
                    speaker.transmit(pick(conn), usize::from(budget), &mut Vec::new(), now);
                }
                Step::Configure(n) => speaker.configure(variant(n), now),
                Step::Toggle(on) => {
                    let peer = variant(0).peers[0].key();
                    let event = if on { Event::Enable { peer } } else { Event::Disable { peer, text: "x".into() } };
                    speaker.handle(event, now);
                }
            }
            while let Some(output) = speaker.poll_output() {
                match output {
                    Output::Dial { conn, .. } => conns.push(conn),
                    Output::Watch { next_hop } => speaker.handle(Event::NextHop { next_hop, metric: Some(0) }, now),
                    _ => {}
                }
            }
            for view in speaker.peers() {
                prop_assert!(view.counters.prefixes_accepted <= view.counters.prefixes_received);
            }
            speaker.explain("10.1.0.0/16".parse().unwrap());
        }
        // All peers go; nothing of theirs may stay.
        let mut empty = variant(0);
        empty.peers.clear();
        speaker.configure(empty, now);
        for conn in conns {
            while speaker.transmit(conn, 65536, &mut Vec::new(), now) > 0 {}
        }
        for _ in 0..20 {
            while speaker.poll_output().is_some() {}
            speaker.advance(now);
        }
        prop_assert_eq!(speaker.sizes(), (0, 0, 0));
        prop_assert!(speaker.peers().is_empty());
    }
}

/// A peer that sends garbage, stalls or opens a thousand connections disturbs no other.
#[test]
fn one_bad_peer_disturbs_no_other() {
    let mut config = config(64512);
    let mut good = peer("10.0.0.3", 64512);
    good.dial = crate::Dial::Never;
    config.peers.push(good);
    let mut script = super::script::Script::connected(config.clone());
    let other = SocketAddr::new(ip("10.0.0.3"), 9);
    let conn = script.speaker.accept(SocketAddr::new(ip("10.0.0.1"), 179), other, script.now).unwrap();
    let mut open = their_open(&config);
    open.identifier = Ipv4Addr::new(10, 0, 0, 3);
    script.give_on(conn, &open.encode());
    script.give_on(conn, &keepalive());
    for n in 0..500u16 {
        let bad = SocketAddr::new(ip("10.0.0.2"), 1000 + n);
        if let Ok(conn) = script.speaker.accept(SocketAddr::new(ip("10.0.0.1"), 179), bad, script.now) {
            script.give_on(conn, &[n as u8; 30]);
        }
        script.wait(super::network::ms(100));
        script.give_on(conn, &keepalive());
    }
    assert_eq!(script.speaker.peers()[1].state, SessionState::Established);
    assert_eq!(script.speaker.peers()[1].established_count, 1);
}
