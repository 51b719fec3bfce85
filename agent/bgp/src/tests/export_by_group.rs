//! What update groups send: full messages, the newest state only, to slow and fast members alike, and the same as
//! if each peer were alone.

use std::{collections::BTreeMap, net::Ipv4Addr};

use bytes::Bytes;
use manx_net::{Prefix, Prefix4, Prefix6};
use proptest::prelude::*;

use super::{
    network::{Network, asn, ip, peer, prefix, secs},
    script::{Script, attribute, config, mandatory, their_open, update, with},
};
use crate::{
    Config, ConnId, Event, ExportRule, Originated, Speaker, Time,
    attr::{
        flag::{OPTIONAL, PARTIAL, TRANSITIVE},
        parse::Reading,
    },
    config::PerFamily,
    message::{
        MAX_EXTENDED_LEN, Message, next_message,
        open::Capabilities,
        update::{Prefixes, Update},
    },
    view::Export,
};

const READING: Reading = Reading {
    families: PerFamily::both(true),
    ebgp: false,
    four_octet: true,
    add_path: PerFamily::both(false),
    extended_next_hop: true,
};

/// What a receiver knows after these messages: prefixes, with their attributes as text.
pub fn apply(state: &mut BTreeMap<Prefix, String>, messages: &[Message]) -> usize {
    let mut announcements = 0;
    for message in messages {
        let Message::Update(body) = message else { continue };
        let update = Update::parse(body, READING).unwrap();
        assert_eq!(update.attributes.errors, []);
        for (_, prefix) in update.withdrawn {
            state.remove(&Prefix::V4(prefix));
        }
        if let Some(unreach) = update.attributes.mp_unreach {
            for (_, prefix) in Prefixes::<Prefix6>::parse(unreach.nlri, false).unwrap() {
                state.remove(&Prefix::V6(prefix));
            }
        }
        let text = |next_hop| format!("{:?}", update.attributes.attributes(next_hop).unwrap());
        for (_, prefix) in update.announced {
            announcements += 1;
            state.insert(Prefix::V4(prefix), text(update.attributes.next_hop.unwrap().into()));
        }
        if let Some(reach) = update.attributes.mp_reach {
            for (_, prefix) in Prefixes::<Prefix6>::parse(reach.nlri, false).unwrap() {
                announcements += 1;
                state.insert(Prefix::V6(prefix), text(reach.next_hop));
            }
        }
    }
    announcements
}

pub fn originating(count: u32, v6: bool) -> Config {
    let mut config = config(64512);
    config.next_hop_v6 = Some("2001:db8::1".parse().unwrap());
    config.originated = (0..count)
        .map(|n| {
            let prefix = if v6 {
                Prefix::V6(Prefix6::from_bits(u128::from(n) << 64, 64).unwrap())
            } else {
                Prefix::V4(Prefix4::from_bits(0x0a00_0000 + (n << 8), 24).unwrap())
            };
            Originated { prefix, communities: vec![] }
        })
        .collect();
    config
}

/// Behaviours 52 and 55.
#[test]
fn a_hundred_thousand_routes_of_one_set_leave_in_at_most_110_updates_and_end_with_the_marker() {
    let open = their_open(&config(64512));
    let mut script = Script::connected(originating(100_000, false));
    script.give(&open.encode());
    script.give(&crate::message::keepalive());
    let sent = script.take();
    let updates: Vec<&Message> = sent.iter().filter(|m| matches!(m, Message::Update(_))).collect();
    assert!(updates.len() <= 110 + 2, "{}", updates.len());
    let mut state = BTreeMap::new();
    assert_eq!(apply(&mut state, &sent), 100_000);
    assert_eq!(state.len(), 100_000);
    let markers = updates.iter().rev().take(2).filter(|message| {
        let Message::Update(body) = message else { return false };
        Update::parse(body, READING).unwrap().end_of_rib.is_some()
    });
    assert_eq!(markers.count(), 2);

    // And their withdrawals, a thousand in each.
    script.speaker.configure(config(64512), script.now);
    script.drain();
    let sent = script.take();
    assert!(sent.len() <= 110, "{}", sent.len());
    apply(&mut state, &sent);
    assert!(state.is_empty());
}

/// Behaviour 52.
#[test]
fn ipv6_routes_are_packed_as_well() {
    let open = their_open(&config(64512));
    let mut script = Script::connected(originating(10_000, true));
    script.give(&open.encode());
    script.give(&crate::message::keepalive());
    let sent = script.take();
    let mut state = BTreeMap::new();
    apply(&mut state, &sent);
    assert_eq!(state.len(), 10_000);
    // Nine octets each, some 440 to a message.
    assert!(sent.len() <= 10_000 / 430 + 5, "{}", sent.len());
}

/// Behaviour 55.
#[test]
fn an_empty_table_is_the_markers_only() {
    let mut script = Script::connected(config(64512));
    script.give(&their_open(&config(64512)).encode());
    script.give(&crate::message::keepalive());
    let updates = script.take().into_iter().filter(|m| matches!(m, Message::Update(_)));
    assert_eq!(updates.count(), 2);
}

/// A speaker that reflects between clients 10.0.0.2 and on; connections by number.
pub struct Star {
    speaker: Speaker,
    now: Time,
    conns: Vec<ConnId>,
}

impl Star {
    pub fn new(clients: u8, ebgp: bool) -> Star {
        let mut config = Config::new(asn(64512), Ipv4Addr::new(10, 0, 0, 1));
        config.export = ExportRule { pools: vec![], transit: true, ..ExportRule::default() };
        for n in 0..clients {
            let number = if ebgp { 64600 + u32::from(n) } else { 64512 };
            let mut peer = peer(&format!("10.0.0.{}", n + 2), number);
            peer.dial = crate::Dial::Never;
            peer.rr_client = true;
            config.peers.push(peer);
        }
        let now = Time::from_nanos(1);
        let mut star = Star { speaker: Speaker::new(config.clone(), now), now, conns: vec![] };
        for n in 0..clients {
            let conn = star.join(n);
            star.conns.push(conn);
        }
        for n in 0..clients {
            star.take(n, usize::MAX);
        }
        star
    }

    fn join(&mut self, n: u8) -> ConnId {
        self.join_with(n, |_| ())
    }

    /// The session of a client that says something else in its OPEN.
    fn rejoin(&mut self, n: u8, change: impl FnOnce(&mut Capabilities)) {
        let conn = self.conns[usize::from(n)];
        self.speaker.handle(Event::Closed { conn, reason: "gone".into() }, self.now);
        self.conns[usize::from(n)] = self.join_with(n, change);
        self.take(n, usize::MAX);
    }

    fn join_with(&mut self, n: u8, change: impl FnOnce(&mut Capabilities)) -> ConnId {
        let address = |last: u8| std::net::SocketAddr::new(ip(&format!("10.0.0.{last}")), 179);
        let conn = self.speaker.accept(address(1), address(n + 2), self.now).unwrap();
        let mut open = their_open(&config(64512));
        open.identifier = Ipv4Addr::new(10, 0, 0, n + 2);
        let number = self.speaker.config().peers[usize::from(n)].remote_as;
        open.my_as = number.get() as u16;
        open.capabilities.four_octet_as = Some(number.get());
        change(&mut open.capabilities);
        self.speaker.handle(Event::Received { conn, bytes: open.encode() }, self.now);
        self.speaker.handle(Event::Received { conn, bytes: crate::message::keepalive() }, self.now);
        self.drain();
        conn
    }

    fn drain(&mut self) {
        loop {
            while let Some(output) = self.speaker.poll_output() {
                if let crate::Output::Watch { next_hop } = output {
                    self.speaker.handle(Event::NextHop { next_hop, metric: Some(0) }, self.now);
                }
            }
            if self.speaker.next_wakeup() != Some(Time::ZERO) {
                break;
            }
            self.speaker.advance(self.now);
        }
    }

    pub fn give(&mut self, from: u8, bytes: Bytes) {
        let conn = self.conns[usize::from(from)];
        self.speaker.handle(Event::Received { conn, bytes }, self.now);
        self.drain();
    }

    pub fn take(&mut self, to: u8, budget: usize) -> Vec<Message> {
        let mut out = Vec::new();
        let mut left = budget;
        while left > 0 {
            let octets =
                self.speaker.transmit(self.conns[usize::from(to)], left.min(4096), &mut out, self.now);
            if octets == 0 {
                break;
            }
            left = left.saturating_sub(octets);
        }
        let mut stream = bytes::BytesMut::from(&out.concat()[..]);
        std::iter::from_fn(|| next_message(&mut stream, MAX_EXTENDED_LEN).unwrap()).collect()
    }
}

fn marked(n: u8) -> Vec<Vec<u8>> {
    with(mandatory(&[]), attribute(OPTIONAL, 4, &[0, 0, 0, n]))
}

/// Behaviour 53.
#[test]
fn a_slow_peer_finds_the_newest_state_once_and_delays_nobody() {
    let mut star = Star::new(3, false);
    let mut fast = BTreeMap::new();
    let mut fast_announcements = 0;
    for n in 0..100 {
        star.give(0, update(&[], &marked(n), &["10.1.0.0/16"]));
        fast_announcements += apply(&mut fast, &star.take(1, usize::MAX));
        star.give(0, update(&["10.1.0.0/16"], &[], &[]));
        apply(&mut fast, &star.take(1, usize::MAX));
    }
    star.give(0, update(&[], &marked(7), &["10.1.0.0/16"]));
    fast_announcements += apply(&mut fast, &star.take(1, usize::MAX));
    assert_eq!(fast_announcements, 101);
    let slow = star.take(2, usize::MAX);
    assert_eq!(slow.len(), 1, "{slow:?}");
    let mut state = BTreeMap::new();
    apply(&mut state, &slow);
    assert_eq!(state, fast);
}

/// Behaviour 53: what waits for a slow peer is bounded by the routes, not by their changes.
#[test]
fn the_log_of_a_group_does_not_grow_with_the_flaps() {
    let mut star = Star::new(3, false);
    for n in 0..20_000u32 {
        let text = format!("10.{}.0.0/16", n % 10);
        star.give(0, update(&[], &marked((n % 251) as u8), &[&text]));
        if n % 1000 == 0 {
            star.take(1, usize::MAX);
        }
    }
    let slow = star.take(2, usize::MAX);
    let mut state = BTreeMap::new();
    assert_eq!(apply(&mut state, &slow), 10);
    let mut fast = BTreeMap::new();
    apply(&mut fast, &star.take(1, usize::MAX));
    for (prefix, attributes) in fast {
        assert_eq!(state[&prefix], attributes);
    }
}

/// Behaviour 42: when the best path moves to the receiver itself, what it was told before is withdrawn.
#[test]
fn a_peer_whose_own_route_becomes_the_best_is_told_that_the_other_is_gone() {
    let mut star = Star::new(3, false);
    let pref = |n: u8| with(mandatory(&[]), attribute(TRANSITIVE, 5, &[0, 0, 0, n]));
    star.give(0, update(&[], &pref(100), &["10.1.0.0/16"]));
    let mut states = vec![BTreeMap::new(); 3];
    let sync = |star: &mut Star, states: &mut Vec<BTreeMap<Prefix, String>>| {
        for n in 0..3 {
            let messages = star.take(n, usize::MAX);
            apply(&mut states[usize::from(n)], &messages);
        }
        states.iter().map(BTreeMap::len).collect::<Vec<_>>()
    };
    assert_eq!(sync(&mut star, &mut states), [0, 1, 1]);
    star.give(1, update(&[], &pref(200), &["10.1.0.0/16"]));
    assert_eq!(sync(&mut star, &mut states), [1, 0, 1]);
    star.give(1, update(&["10.1.0.0/16"], &[], &[]));
    assert_eq!(sync(&mut star, &mut states), [0, 1, 1]);
    star.give(0, update(&["10.1.0.0/16"], &[], &[]));
    assert_eq!(sync(&mut star, &mut states), [0, 0, 0]);
}

/// Behaviours 38 and 42: what a peer was about to be told when it moved to another group is not forgotten.
#[test]
fn a_withdrawal_that_waits_survives_the_change_of_the_group() {
    let pref = |n: u8| with(mandatory(&[]), attribute(TRANSITIVE, 5, &[0, 0, 0, n]));
    for (gone, other_mode) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut star = Star::new(3, false);
        let mut state = BTreeMap::new();
        star.give(0, update(&[], &pref(100), &["10.1.0.0/16", "10.2.0.0/16"]));
        apply(&mut state, &star.take(1, usize::MAX));
        assert_eq!(state.len(), 2);
        if gone {
            star.give(0, update(&["10.1.0.0/16"], &[], &[]));
        } else {
            star.give(1, update(&[], &pref(200), &["10.1.0.0/16"]));
        }
        let mut config = star.speaker.config().clone();
        if other_mode {
            config.peers[1].next_hop = crate::NextHopMode::Self_;
        } else {
            config.peers[1].rr_client = false;
        }
        star.speaker.configure(config.clone(), star.now);
        star.drain();
        // And once more, before it has taken anything.
        config.peers[1].cluster_id = Some(Ipv4Addr::new(244, 0, 0, 9));
        star.speaker.configure(config, star.now);
        star.drain();
        apply(&mut state, &star.take(1, usize::MAX));
        assert_eq!(state.keys().copied().collect::<Vec<_>>(), [prefix("10.2.0.0/16")]);
    }
}

/// Behaviour 48.
#[test]
fn the_same_announcement_again_sends_nothing() {
    let mut star = Star::new(2, false);
    star.give(0, update(&[], &marked(1), &["10.1.0.0/16"]));
    assert_eq!(star.take(1, usize::MAX).len(), 1);
    star.give(0, update(&[], &marked(1), &["10.1.0.0/16"]));
    assert_eq!(star.take(1, usize::MAX), []);
}

/// Behaviour 48: what stays within the AS changes nothing for those outside.
#[test]
fn a_change_that_leaves_the_same_bytes_sends_nothing() {
    let mut star = Star::new(2, true);
    let med = |n: u8| with(mandatory(&[64600]), attribute(OPTIONAL, 4, &[0, 0, 0, n]));
    star.give(0, update(&[], &med(1), &["10.1.0.0/16"]));
    assert_eq!(star.take(1, usize::MAX).len(), 1);
    star.give(0, update(&[], &med(2), &["10.1.0.0/16"]));
    assert_eq!(star.take(1, usize::MAX), []);
    assert_eq!(star.speaker.best(prefix("10.1.0.0/16")).unwrap().best.attributes.med, Some(2));
    let longer = mandatory(&[64600, 7]);
    star.give(0, update(&[], &longer, &["10.1.0.0/16"]));
    assert_eq!(star.take(1, usize::MAX).len(), 1);
}

/// Behaviours 21, 32 and 49, as bytes.
#[test]
fn a_two_octet_peer_in_another_as_gets_as_trans_and_the_as4_attributes() {
    let mut star = Star::new(2, true);
    let conn = star.conns[1];
    star.speaker.handle(Event::Closed { conn, reason: "gone".into() }, star.now);
    let address = |last: u8| std::net::SocketAddr::new(ip(&format!("10.0.0.{last}")), 179);
    let conn = star.speaker.accept(address(1), address(3), star.now).unwrap();
    let mut open = their_open(&config(64512));
    open.identifier = Ipv4Addr::new(10, 0, 0, 3);
    open.my_as = 64601;
    open.capabilities.four_octet_as = None;
    star.speaker.handle(Event::Received { conn, bytes: open.encode() }, star.now);
    star.speaker.handle(Event::Received { conn, bytes: crate::message::keepalive() }, star.now);
    star.conns[1] = conn;
    star.take(1, usize::MAX);

    let mut attributes = mandatory(&[64600, 70000]);
    attributes.push(attribute(OPTIONAL, 4, &[0, 0, 0, 9]));
    attributes.push(attribute(OPTIONAL | TRANSITIVE, 7, &[0, 1, 0x11, 0x70, 9, 9, 9, 9]));
    attributes.push(attribute(OPTIONAL | TRANSITIVE, 99, &[1, 2]));
    star.give(0, update(&[], &attributes, &["10.1.0.0/16"]));
    let Some(Message::Update(body)) = star.take(1, usize::MAX).pop() else { panic!("nothing sent") };
    let both = OPTIONAL | TRANSITIVE;
    let expected = [
        attribute(TRANSITIVE, 1, &[0]),
        attribute(TRANSITIVE, 2, &[2, 3, 0xfc, 0, 0xfc, 0x58, 0x5b, 0xa0]),
        attribute(TRANSITIVE, 3, &[10, 0, 0, 1]),
        attribute(both, 7, &[0x5b, 0xa0, 9, 9, 9, 9]),
        attribute(both, 17, &[2, 3, 0, 0, 0xfc, 0, 0, 0, 0xfc, 0x58, 0, 1, 0x11, 0x70]),
        attribute(both, 18, &[0, 1, 0x11, 0x70, 9, 9, 9, 9]),
        attribute(both | PARTIAL, 99, &[1, 2]),
    ]
    .concat();
    assert_eq!(body[4..4 + expected.len()], expected[..]);
    assert_eq!(body[4 + expected.len()..], [16, 10, 1]);
}

/// Behaviours 23 and 51.
#[test]
fn attributes_too_large_for_a_peers_messages_withdraw_the_route_there_and_say_so() {
    let mut star = Star::new(3, false);
    star.rejoin(1, |capabilities| capabilities.extended_messages = false);
    star.give(0, update(&[], &marked(1), &["10.1.0.0/16"]));
    let mut state = BTreeMap::new();
    apply(&mut state, &star.take(1, usize::MAX));
    assert_eq!(state.len(), 1);
    // It fits on the way in; ORIGINATOR_ID and CLUSTER_LIST make it too long on the way out.
    let large = with(mandatory(&[]), attribute(OPTIONAL | TRANSITIVE, 99, &vec![7; 4035]));
    star.give(0, update(&[], &large, &["10.1.0.0/16"]));
    apply(&mut state, &star.take(1, usize::MAX));
    assert!(state.is_empty());
    let exports = |star: &Star| {
        let sent = star.speaker.explain(prefix("10.1.0.0/16")).unwrap().sent;
        (sent[1].export, sent[2].export)
    };
    let mut extended = BTreeMap::new();
    apply(&mut extended, &star.take(2, usize::MAX));
    assert_eq!((extended.len(), exports(&star)), (1, (Export::TooLong, Export::Sent)));
    // As long as a message can be; the reflected form is just one octet beyond what fits.
    let most = MAX_EXTENDED_LEN - 23 - 3 - mandatory(&[]).concat().len() - 4;
    for (octets, expected) in [(most - 7 - 14, Export::Sent), (most - 7 - 14 + 1, Export::TooLong)] {
        let huge = with(mandatory(&[]), attribute(OPTIONAL | TRANSITIVE, 99, &vec![7; octets]));
        star.give(0, update(&[], &huge, &["10.1.0.0/16"]));
        let longest = star.take(2, usize::MAX).iter().map(length).max().unwrap();
        assert_eq!(exports(&star).1, expected);
        assert!(expected != Export::Sent || longest == MAX_EXTENDED_LEN, "{longest}");
    }
}

fn length(message: &Message) -> usize {
    let Message::Update(body) = message else { panic!("{message:?}") };
    crate::message::HEADER_LEN + body.len()
}

/// Behaviours 23 and 52.
#[test]
fn an_extended_session_still_gets_messages_of_ordinary_size() {
    let mut star = Star::new(2, false);
    let mut prefixes = Vec::new();
    for n in 0..3000u16 {
        prefixes.extend([24, 10, (n >> 8) as u8, n as u8]);
    }
    for part in prefixes.chunks(4000) {
        star.give(0, super::script::raw_update(&[], &marked(1).concat(), part));
    }
    let sent = star.take(1, usize::MAX);
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|message| length(message) <= crate::message::MAX_LEN));
}

#[test]
fn explain_says_queued_until_the_peer_has_taken_it() {
    let mut star = Star::new(2, false);
    star.give(0, update(&[], &marked(1), &["10.1.0.0/16"]));
    let export = |star: &Star| star.speaker.explain(prefix("10.1.0.0/16")).unwrap().sent[1].export;
    assert_eq!(export(&star), Export::Queued);
    star.take(1, usize::MAX);
    assert_eq!(export(&star), Export::Sent);
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Announce { from: u8, prefix: u8, mark: u8 },
    Withdraw { from: u8, prefix: u8 },
    Take { to: u8, octets: usize },
    Reset { peer: u8 },
    Client { peer: u8, client: bool },
    Advance,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0u8..4, 0u8..6, 0u8..4).prop_map(|(from, prefix, mark)| Step::Announce { from, prefix, mark }),
        3 => (0u8..4, 0u8..6).prop_map(|(from, prefix)| Step::Withdraw { from, prefix }),
        4 => (0u8..4, 1usize..300).prop_map(|(to, octets)| Step::Take { to, octets }),
        1 => (0u8..4).prop_map(|peer| Step::Reset { peer }),
        1 => (0u8..4, any::<bool>()).prop_map(|(peer, client)| Step::Client { peer, client }),
        1 => Just(Step::Advance),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happened, in whatever portions each peer took it, in the end each has what a fresh session would get.
    #[test]
    fn every_history_ends_where_a_fresh_session_begins(history in steps()) {
        let mut star = Star::new(4, false);
        let mut states = vec![BTreeMap::new(); 4];
        for step in history {
            match step {
                Step::Announce { from, prefix, mark } => {
                    // LOCAL_PREF moves the best path between peers.
                    let attributes = with(mandatory(&[]), attribute(TRANSITIVE, 5, &[0, 0, 0, mark]));
                    star.give(from, update(&[], &attributes, &[&format!("10.{prefix}.0.0/16")]));
                }
                Step::Withdraw { from, prefix } => {
                    star.give(from, update(&[&format!("10.{prefix}.0.0/16")], &[], &[]));
                }
                Step::Take { to, octets } => {
                    let messages = star.take(to, octets);
                    apply(&mut states[usize::from(to)], &messages);
                }
                Step::Reset { peer } => {
                    let conn = star.conns[usize::from(peer)];
                    let cease = crate::message::notification::Notification::cease(4).encode();
                    star.speaker.handle(Event::Received { conn, bytes: cease }, star.now);
                    star.drain();
                    star.conns[usize::from(peer)] = star.join(peer);
                    states[usize::from(peer)].clear();
                }
                Step::Client { peer, client } => {
                    let mut config = star.speaker.config().clone();
                    config.peers[usize::from(peer)].rr_client = client;
                    star.speaker.configure(config, star.now);
                    star.drain();
                }
                Step::Advance => drop(star.speaker.advance(star.now)),
            }
        }
        star.drain();
        for n in 0..4u8 {
            let messages = star.take(n, usize::MAX);
            apply(&mut states[usize::from(n)], &messages);
        }
        for n in 0..4u8 {
            let conn = star.conns[usize::from(n)];
            let refresh = crate::message::refresh::RouteRefresh {
                family: crate::Family::Ipv4Unicast,
                kind: crate::message::refresh::RefreshKind::Request,
            };
            star.speaker.handle(Event::Received { conn, bytes: refresh.encode() }, star.now);
            star.drain();
            let mut fresh = BTreeMap::new();
            let messages = star.take(n, usize::MAX);
            apply(&mut fresh, &messages);
            prop_assert_eq!(&states[usize::from(n)], &fresh, "peer {}", n);
        }
        // And when all has gone, nothing is left.
        for n in 0..4u8 {
            let all: Vec<String> = (0..6).map(|p| format!("10.{p}.0.0/16")).collect();
            let all: Vec<&str> = all.iter().map(String::as_str).collect();
            star.give(n, update(&all, &[], &[]));
        }
        for n in 0..4u8 {
            star.take(n, usize::MAX);
        }
        star.speaker.advance(star.now);
        star.drain();
        prop_assert_eq!(star.speaker.sizes(), (0, 0, 0));
    }
}

/// A peer whose socket is full for a while, in a network: the others do not notice, and it catches up.
#[test]
fn a_stuck_socket_holds_back_its_own_peer_only() {
    let mut network = Network::new(4);
    let addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    for (node, address) in addresses.iter().enumerate() {
        network.add(address);
        let mut config = Config::new(asn(64512), address.parse().unwrap());
        config.hold_time = crate::HoldTime::new(0).unwrap();
        for (other, there) in addresses.iter().enumerate().filter(|(other, _)| *other != node) {
            let mut peer = peer(there, 64512);
            peer.dial = if node > other { crate::Dial::First } else { crate::Dial::Never };
            config.peers.push(peer);
        }
        network.start(node, config);
    }
    network.run(secs(2));
    network.nodes[0].stuck.insert(ip("10.0.0.3"));
    let mut config = network.speaker(0).config().clone();
    config.originated.push(Originated { prefix: prefix("172.16.0.0/26"), communities: vec![] });
    network.configure(0, config.clone());
    network.run(secs(2));
    assert!(network.next_hop(1, "172.16.0.0/26").is_some() && network.next_hop(2, "172.16.0.0/26").is_none());
    network.nodes[0].stuck.clear();
    config.originated.push(Originated { prefix: prefix("172.16.0.64/26"), communities: vec![] });
    network.configure(0, config);
    network.run(secs(1));
    assert_eq!(network.nodes[2].best.len(), 2);
}
