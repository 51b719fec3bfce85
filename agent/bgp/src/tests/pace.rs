//! What goes out when: nothing waits for a timer, and a keepalive waits for nothing.

use super::{
    export_by_group::{Star, apply, originating},
    hub::{Hub, Said, add_path, clients},
    network::{ms, secs},
    script::{Script, attribute, config, mandatory, raw_update, their_open, update, with},
};
use crate::{
    Time,
    attr::flag::OPTIONAL,
    message::{Message, keepalive},
    view::SessionState,
};

/// A change that only the newest of several is to be told by.
fn marked(n: u8) -> Vec<Vec<u8>> {
    with(mandatory(&[]), attribute(OPTIONAL, 4, &[0, 0, 0, n]))
}

/// Behaviour 11: a table on its way does not keep the peer waiting for the sign of life that its hold timer needs.
#[test]
fn a_keepalive_that_is_due_overtakes_the_updates_that_wait() {
    let mut script = Script::connected(originating(100_000, false));
    script.give(&their_open(&config(64512)).encode());
    script.give(&keepalive());
    let mut gap = Time::ZERO;
    let mut updates = 0;
    // The peer takes one message a second of the hundred that its first table needs.
    for _ in 0..100 {
        let mut out = Vec::new();
        script.speaker.transmit(script.conn, 1, &mut out, script.now);
        let mut stream = bytes::BytesMut::from(&out.concat()[..]);
        while let Some(message) = crate::message::next_message(&mut stream, 65535).unwrap() {
            match message {
                Message::Keepalive => {
                    assert!(script.now.since(gap) <= secs(31) || gap == Time::ZERO);
                    gap = script.now;
                }
                Message::Update(_) => updates += 1,
                _ => {}
            }
        }
        script.wait(secs(1));
        script.give(&keepalive());
    }
    assert!((90..100).contains(&updates), "{updates}");
    assert!(script.now.since(gap) <= secs(31), "the last keepalive went out in the middle of the table");
    assert_eq!(script.state(), SessionState::Established);
}

/// Behaviour 11: RFC 4271 §10 spreads them over the last quarter of the interval.
#[test]
fn keepalives_of_a_session_come_neither_too_soon_nor_in_step() {
    let mut script = Script::established(config(64512));
    let (mut last, mut gaps) = (script.now, std::collections::BTreeSet::new());
    for _ in 0..40 {
        script.wait(script.speaker.next_wakeup().unwrap().since(script.now));
        script.give(&keepalive());
        if script.take().contains(&Message::Keepalive) {
            let gap = script.now.since(last);
            assert!(gap >= ms(22_500) && gap <= secs(30), "{gap:?}");
            gaps.insert(gap);
            last = script.now;
        }
    }
    assert!(gaps.len() > 10, "{gaps:?}");
}

/// Behaviour 54: there is no MinRouteAdvertisementInterval, for either direction of change and for neither kind of peer.
#[test]
fn every_change_leaves_at_once_and_the_last_one_counts() {
    for ebgp in [false, true] {
        let path: &[u32] = if ebgp { &[64600] } else { &[] };
        let marked = |n: u8| with(mandatory(path), attribute(OPTIONAL, 4, &[0, 0, 0, n]));
        let longer = || with(mandatory(&[path, &[7]].concat()), attribute(OPTIONAL, 4, &[0, 0, 0, 9]));
        let mut star = Star::new(2, ebgp);
        let mut state = std::collections::BTreeMap::new();
        for _ in 0..50 {
            star.give(0, update(&[], &marked(1), &["10.1.0.0/16"]));
            assert_eq!(apply(&mut state, &star.take(1, usize::MAX)), 1, "no time has passed");
            star.give(0, update(&[], &longer(), &["10.1.0.0/16"]));
            assert_eq!(apply(&mut state, &star.take(1, usize::MAX)), 1);
            star.give(0, update(&["10.1.0.0/16"], &[], &[]));
            apply(&mut state, &star.take(1, usize::MAX));
            assert!(state.is_empty(), "a withdrawal waits as little");
        }
        // Gone and back before the peer has looked: it ends in the announcement, and in one message.
        star.give(0, update(&[], &marked(1), &["10.1.0.0/16"]));
        apply(&mut state, &star.take(1, usize::MAX));
        star.give(0, update(&["10.1.0.0/16"], &[], &[]));
        star.give(0, update(&[], &longer(), &["10.1.0.0/16"]));
        let sent = star.take(1, usize::MAX);
        assert_eq!((sent.len(), apply(&mut state, &sent), state.len()), (1, 1, 1));
    }
}

/// Behaviour 5: 200 messages in one segment, and a segment for each octet.
#[test]
fn how_the_stream_is_cut_changes_nothing_of_what_it_says() {
    let mut stream = Vec::new();
    for n in 0..200u8 {
        let host = format!("10.{n}.0.0/16");
        stream.extend(match n % 5 {
            0..3 => update(&[], &marked(n), &[&host]),
            3 => update(&[&format!("10.{}.0.0/16", n - 1)], &[], &[]),
            _ => keepalive(),
        });
    }
    let known = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut script = Script::established(config(64512));
        pieces.for_each(|piece| script.give(piece));
        // What is empty goes when there is time.
        script.speaker.advance(script.now);
        let routes = format!("{:?}", script.speaker.routes(None, usize::MAX));
        (routes, script.view().counters, script.speaker.sizes())
    };
    let whole = known(&mut std::iter::once(&stream[..]));
    assert_eq!(whole.1.messages_received, 2 + 200);
    assert_eq!(whole.1.prefixes_received, 80);
    assert!(known(&mut stream.chunks(1)) == whole);
    assert!(known(&mut stream.chunks(18)) == whole);
}

/// Behaviour 34: the same route, however its host bits are set, in both families and both ways.
#[test]
fn host_bits_are_no_part_of_a_route() {
    let mut script = Script::established(config(64512));
    let block = mandatory(&[]).concat();
    script.give(&raw_update(&[], &block, &[12, 10, 0x1f]));
    script.give(&raw_update(&[], &block, &[12, 10, 0x13]));
    assert_eq!(script.view().counters.prefixes_received, 1);
    script.give(&raw_update(&[12, 10, 0x1e], &[], &[]));
    assert_eq!(script.view().counters.prefixes_received, 0);
    let reach = |last: u8| {
        let mut value = vec![0, 2, 1, 16];
        value.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0]);
        value.extend([44, 0x20, 1, 0xd, 0xb8, 0, last]);
        let mut all = mandatory(&[]);
        all[2] = attribute(OPTIONAL, 14, &value);
        raw_update(&[], &all.concat(), &[])
    };
    script.give(&reach(0x1f));
    script.give(&reach(0x12));
    assert_eq!(script.view().counters.prefixes_received, 1);
    assert!(script.explain("2001:db8:10::/44").is_some());
    let unreach = attribute(OPTIONAL, 15, &[0, 2, 1, 44, 0x20, 1, 0xd, 0xb8, 0, 0x1a]);
    script.give(&raw_update(&[], &unreach, &[]));
    assert_eq!(script.view().counters.prefixes_received, 0);
}

/// Behaviour 10: octets are no sign of life, only whole messages are. Else one that is never finished holds a session,
/// and what it was told, for ever.
#[test]
fn a_message_that_comes_octet_by_octet_does_not_prolong_the_session() {
    let mut script = Script::established(config(64512));
    let mut stream = update(&[], &marked(1), &["10.1.0.0/16"]).to_vec();
    stream[16..18].copy_from_slice(&4096u16.to_be_bytes());
    stream.resize(4095, 0);
    for octet in stream.chunks(1).take(95) {
        script.give(octet);
        script.wait(secs(1));
    }
    assert_ne!(script.state(), SessionState::Established);
    assert_eq!(script.notification(), (4, 0, vec![]));
}

/// What changes between a session's beginning and the first table is in that table, and is said once.
#[test]
fn a_route_that_changes_before_the_first_table_is_taken_goes_out_once() {
    for send in [0, 4] {
        let mut hub = Hub::new(clients(&[add_path(0, false), add_path(send, false), add_path(send, false)]));
        hub.announce(0, 0, "10.1.0.0/16", Said::PLAIN);
        hub.announce(0, 0, "10.2.0.0/16", Said::PLAIN);
        hub.take_all();
        hub.lose(1, true);
        // Another member is in the group all the time, so the log goes on.
        hub.join(1);
        hub.told[1] = (0, 0);
        hub.announce(0, 0, "10.1.0.0/16", Said::pref(200));
        hub.announce(0, 0, "10.3.0.0/16", Said::PLAIN);
        hub.withdraw(0, 0, "10.2.0.0/16");
        assert_eq!(hub.news(1), (2, 0), "{send}");
        assert_eq!(hub.news(2).0, 4, "{send}: two of before");
        assert_eq!(hub.states[1], hub.states[2], "{send}");
    }
}

#[test]
fn a_withdrawal_does_not_go_back_to_the_only_one_from_whom_the_route_came() {
    let mut hub = Hub::new(clients(&[add_path(0, false); 3]));
    const A: &str = "10.1.0.0/16";
    const B: &str = "10.2.0.0/16";
    for _ in 0..3 {
        hub.announce(0, 0, A, Said::PLAIN);
        hub.take_all();
        hub.withdraw(0, 0, A);
        assert_eq!([0, 1, 2].map(|n| hub.news(n)), [(0, 0), (1, 1), (1, 1)]);
        hub.tidy();
    }
    // Two sources in one batch: one message for all.
    hub.announce(0, 0, A, Said::PLAIN);
    hub.announce(1, 0, B, Said::PLAIN);
    hub.take_all();
    hub.withdraw(0, 0, A);
    hub.withdraw(1, 0, B);
    hub.take_all();
    assert!(hub.states.iter().all(|state| state.is_empty()), "{:?}", hub.states);
    hub.told = vec![(0, 0); 3];
    // Who was told of another's route before its own was the best hears that it is gone.
    hub.announce(1, 0, A, Said::PLAIN);
    hub.take_all();
    assert_eq!(hub.names(0, A), [0]);
    hub.announce(0, 0, A, Said::pref(200));
    hub.withdraw(1, 0, A);
    hub.withdraw(0, 0, A);
    hub.take_all();
    assert!(hub.states.iter().all(|state| state.is_empty()), "{:?}", hub.states);
}
