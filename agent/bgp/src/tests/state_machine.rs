//! RFC 4271 §8, from both sides of each state.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    network::{Network, ip, ms, peer, prefix, secs},
    script::{Script, config, mandatory, raw_update, their_open, update},
};
use crate::{
    Config, Dial, Event, HoldTime, Originated, Output, Refusal, Speaker, Time,
    message::{
        Message, keepalive,
        notification::Notification,
        refresh::{RefreshKind, RouteRefresh},
    },
    view::{Cause, SessionState},
};

/// Behaviour 8 and 13 (RFC 6608).
#[test]
fn a_message_in_the_wrong_state_is_an_error_that_names_the_state() {
    let some_update = update(&[], &mandatory(&[]), &["10.1.0.0/16"]);
    for bytes in [keepalive(), some_update.clone()] {
        let mut script = Script::connected(config(64512));
        script.give(&bytes);
        assert_eq!(script.notification(), (5, 1, vec![]));
    }
    for bytes in [some_update, their_open(&config(64512)).encode()] {
        let mut script = Script::connected(config(64512));
        script.give(&their_open(&config(64512)).encode());
        assert_eq!(script.state(), SessionState::OpenConfirm);
        script.give(&bytes);
        assert_eq!(script.notification(), (5, 2, vec![]));
    }
    let mut script = Script::established(config(64512));
    script.give(&their_open(&config(64512)).encode());
    assert_eq!(script.notification(), (5, 3, vec![]));
}

/// Behaviours 6 and 7, through a session.
#[test]
fn a_broken_header_ends_the_session_and_what_follows_is_not_read() {
    let mut script = Script::established(config(64512));
    let mut bytes = keepalive().to_vec();
    bytes[17] = 20;
    bytes.push(0);
    bytes.extend_from_slice(&update(&[], &mandatory(&[]), &["10.1.0.0/16"]));
    script.give(&bytes);
    assert_eq!(script.notification(), (1, 2, vec![0, 20]));
    assert!(script.explain("10.1.0.0/16").is_none());
}

/// Behaviour 9.
#[test]
fn a_notification_is_never_answered_in_any_state() {
    let cease = Notification::cease(2).encode();
    let mut open_sent = Script::connected(config(64512));
    open_sent.take();
    let mut open_confirm = Script::connected(config(64512));
    open_confirm.give(&their_open(&config(64512)).encode());
    open_confirm.take();
    let mut established = Script::established(config(64512));
    for script in [&mut open_sent, &mut open_confirm, &mut established] {
        script.give(&cease);
        assert!(script.closed.contains(&script.conn));
        assert_eq!(script.take(), []);
        assert_eq!(script.view().notification_received.unwrap().name, "Cease / Administrative Shutdown");
    }
}

/// Behaviour 10.
#[test]
fn silence_for_the_hold_time_ends_the_session_and_any_keepalive_or_update_prolongs_it() {
    let mut script = Script::established(config(64512));
    for bytes in [keepalive(), raw_update(&[], &[], &[]), keepalive()] {
        script.wait(secs(89));
        assert_eq!(script.state(), SessionState::Established);
        script.give(&bytes);
    }
    script.wait(ms(89_900));
    assert_eq!(script.state(), SessionState::Established);
    script.wait(ms(200));
    assert_eq!(script.notification(), (4, 0, vec![]));
    assert!(matches!(script.history.last().unwrap().cause, Cause::NotificationSent(_)));
}

/// Behaviour 10: what has arrived counts, even if the timer was due before it was read.
#[test]
fn bytes_read_before_the_timer_is_judged_keep_the_session() {
    let mut script = Script::established(config(64512));
    script.now = script.now + secs(100);
    script.give(&keepalive());
    script.wait(secs(1));
    assert_eq!(script.state(), SessionState::Established);
}

/// Behaviour 11.
#[test]
fn with_hold_time_zero_nothing_is_sent_and_nothing_expires() {
    let mut zero = config(64512);
    zero.hold_time = HoldTime::new(0).unwrap();
    let mut unfinished = Script::connected(zero.clone());
    unfinished.give(&their_open(&zero).encode());
    unfinished.wait(secs(61));
    assert_eq!(unfinished.state(), SessionState::Active, "before it is up there is a limit");
    let mut script = Script::established(zero);
    script.take();
    script.wait(secs(100_000));
    assert_eq!(script.state(), SessionState::Established);
    assert_eq!(script.take(), []);
    assert_eq!(script.speaker.next_wakeup(), None);
}

/// Behaviour 11.
#[test]
fn keepalives_come_within_a_third_of_the_hold_time_and_only_one_waits() {
    let mut script = Script::established(config(64512));
    for _ in 0..20 {
        script.wait(secs(30));
        script.give(&keepalive());
        let sent = script.take();
        assert!((1..=2).contains(&sent.len()), "{sent:?}");
        assert!(sent.iter().all(|message| *message == Message::Keepalive));
    }
    // The peer reads nothing for a long time, though less than the send hold time.
    for _ in 0..15 {
        script.wait(secs(30));
        script.give(&keepalive());
    }
    assert_eq!(script.take().len(), 1);
}

#[test]
fn another_keepalive_time_holds_at_once_and_the_session_stays() {
    let mut script = Script::established(config(64512));
    script.take();
    for (seconds, most) in [(Some(1), 1), (Some(4), 4), (None, 30)] {
        let mut changed = config(64512);
        changed.peers[0].keepalive_time = seconds;
        script.speaker.configure(changed, script.now);
        script.wait(secs(most));
        assert!((1..=2).contains(&script.take().len()), "each {seconds:?}");
        assert_eq!(script.state(), SessionState::Established);
    }
}

#[test]
fn a_connection_on_which_no_open_comes_is_given_up() {
    let mut script = Script::connected(config(64512));
    script.wait(secs(61));
    assert_eq!(script.notification(), (4, 0, vec![]));
    assert_eq!(script.state(), SessionState::Active);
}

/// Behaviour 3.
#[test]
fn strangers_and_peers_held_back_after_errors_are_refused_and_leave_nothing() {
    let mut script = Script::established(config(64512));
    let local = SocketAddr::new(ip("10.0.0.1"), 179);
    let refused = |script: &mut Script, from: &str| {
        let now = script.now;
        script.speaker.accept(local, SocketAddr::new(ip(from), 5), now).unwrap_err()
    };
    assert_eq!(refused(&mut script, "10.0.0.3"), Refusal::UnknownPeer);
    script.give(&[0; 19]);
    assert_eq!(script.notification(), (1, 1, vec![]));
    assert_eq!(script.state(), SessionState::Idle);
    assert_eq!(refused(&mut script, "10.0.0.2"), Refusal::HeldBack);
    let wakeup = script.speaker.next_wakeup();
    assert_eq!(refused(&mut script, "10.0.0.2"), Refusal::HeldBack);
    assert_eq!(script.speaker.next_wakeup(), wakeup, "the back-off is undisturbed");
    script.wait(secs(6));
    assert_eq!(script.state(), SessionState::Active);
    script.accept();
    // A mapped address is the same peer.
    assert_eq!(refused(&mut script, "::ffff:10.0.0.9"), Refusal::UnknownPeer);
}

#[test]
fn a_peer_that_was_not_ready_for_us_may_dial_at_once() {
    let mut script = Script::connected(config(64512));
    script.give(&Notification::new(5, 0, &[]).encode());
    assert_eq!(script.state(), SessionState::Active);
    let conn = script.accept();
    script.give_on(conn, &their_open(&config(64512)).encode());
    assert_eq!(script.state(), SessionState::OpenConfirm);
}

/// Behaviour 60.
#[test]
fn a_peer_in_a_loop_of_errors_is_left_alone_longer_each_time() {
    let mut script = Script::established(config(64512));
    let mut waits = Vec::new();
    for _ in 0..4 {
        script.give(&[0; 19]);
        let start = script.now;
        while script.state() == SessionState::Idle {
            script.wait(ms(500));
        }
        waits.push((script.now - start).as_secs());
        script.conn = script.accept();
        script.give(&their_open(&config(64512)).encode());
        script.give(&keepalive());
        assert_eq!(script.state(), SessionState::Established);
    }
    assert_eq!(waits, [5, 10, 20, 40]);
}

#[test]
fn a_wrong_as_is_answered_and_does_not_hold_the_peer_back() {
    let mut script = Script::connected(config(64513));
    script.give(&their_open(&config(64512)).encode());
    assert_eq!(script.notification(), (2, 2, vec![]));
    assert_eq!(script.state(), SessionState::Active);
    let why = "the peer says AS 64512, configured is 64513";
    assert_eq!(script.view().last_error.unwrap(), format!("Bad Peer AS: {why}"));
    let Some(Cause::NotificationSent(said)) = script.history.last().map(|event| event.cause.clone()) else {
        panic!("{:?}", script.history)
    };
    assert_eq!(said.why.as_deref(), Some(why));
    assert_eq!(script.view().notification_sent, Some(said));
    script.conn = script.accept();
    script.give(&their_open(&config(64513)).encode());
    assert_eq!(script.state(), SessionState::OpenConfirm);
}

/// Behaviour 60.
#[test]
fn each_reason_of_ours_has_its_cease_and_the_notification_goes_out_before_the_close() {
    let original = config(64512);
    let key = original.peers[0].key();
    let mut script = Script::established(original.clone());
    script.speaker.handle(Event::Disable { peer: key, text: "back at noon".into() }, script.now);
    script.drain();
    let (code, subcode, data) = script.notification();
    assert_eq!((code, subcode, &data[1..]), (6, 2, &b"back at noon"[..]));
    assert_eq!(script.state(), SessionState::Idle);
    assert_eq!(script.view().last_error.as_deref(), Some("disabled"));
    let Some(Cause::NotificationSent(said)) = script.history.last().map(|event| event.cause.clone()) else {
        panic!("{:?}", script.history)
    };
    assert_eq!(
        (said.name.as_str(), said.text.as_deref()),
        ("Cease / Administrative Shutdown", Some("back at noon"))
    );
    let remote = SocketAddr::new(key.address, 9);
    let refused = script.speaker.accept(SocketAddr::new(ip("10.0.0.1"), 179), remote, script.now);
    assert_eq!(refused, Err(Refusal::Disabled));
    script.speaker.handle(Event::Enable { peer: key }, script.now);
    script.accept();

    let mut script = Script::established(original.clone());
    let mut without = original.clone();
    without.peers.clear();
    script.speaker.configure(without, script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 3, vec![]));

    let mut script = Script::established(original.clone());
    let mut changed = original.clone();
    changed.peers[0].hold_time = HoldTime::new(30);
    script.speaker.configure(changed, script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 6, vec![]));
    assert_eq!(script.state(), SessionState::Active);

    let mut script = Script::established(original);
    script.speaker.handle(Event::Shutdown { graceful: false, text: "bye".into() }, script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 2, b"\x03bye".to_vec()));
}

/// A change that needs no reset resets nothing.
#[test]
fn client_flag_next_hop_mode_policy_and_keepalives_change_on_the_running_session() {
    let original = config(64512);
    let mut script = Script::established(original.clone());
    let mut changed = original;
    changed.peers[0].rr_client = true;
    changed.peers[0].next_hop = crate::NextHopMode::Self_;
    changed.peers[0].keepalive_time = Some(5);
    changed.peers[0].dial = Dial::First;
    changed.export.transit = false;
    script.speaker.configure(changed, script.now);
    script.drain();
    assert_eq!(script.state(), SessionState::Established);
    assert!(script.closed.is_empty() && script.dials.is_empty());
}

#[test]
fn a_graceful_shutdown_says_nothing_and_leaves_the_best_paths_alone() {
    let mut script = Script::established(config(64512));
    script.give(&update(&[], &mandatory(&[]), &["10.1.0.0/16"]));
    script.speaker.handle(Event::Shutdown { graceful: true, text: String::new() }, script.now);
    let outputs: Vec<Output> = std::iter::from_fn(|| script.speaker.poll_output()).collect();
    assert!(outputs.contains(&Output::Close { conn: script.conn }));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Best { best: None, .. })));
    assert_eq!(script.take(), []);
    assert!(script.explain("10.1.0.0/16").is_some());
}

/// Behaviour 14: a peer that cannot be reached costs a bounded number of dials.
#[test]
fn dials_to_nowhere_back_off_and_a_silent_one_is_given_up() {
    let mut config = config(64512);
    config.peers[0].dial = Dial::First;
    let mut now = Time::from_nanos(0);
    let mut speaker = Speaker::new(config, now);
    let mut dials = 0;
    let end = now + secs(3600);
    while now < end {
        while let Some(output) = speaker.poll_output() {
            if let Output::Dial { conn, .. } = output {
                dials += 1;
                speaker.handle(Event::DialFailed { conn, error: "Connection refused".into() }, now);
            }
        }
        now = speaker.next_wakeup().unwrap();
        speaker.advance(now);
    }
    // Ten seconds of grace at 50 to 200 ms, then an hour at 30 s.
    assert!((150..350).contains(&dials), "{dials}");

    // Nobody answers at all.
    let mut network = Network::new(5);
    network.add("10.0.0.1");
    let mut config = Config::new(super::network::asn(64512), "10.0.0.1".parse().unwrap());
    config.peers.push(peer("10.0.0.99", 64512));
    network.start(0, config);
    network.run(secs(4));
    assert_eq!(network.state(0, "10.0.0.99"), SessionState::Connect);
    network.run(ms(1040));
    assert_eq!(network.state(0, "10.0.0.99"), SessionState::Active);
    assert_eq!(network.view(0, "10.0.0.99").last_error.unwrap(), "Socket: no answer");
}

/// Behaviour 55 (RFC 2918, RFC 7313).
#[test]
fn a_refresh_replays_the_table_between_its_marks_and_only_that_family() {
    let mut own = config(64512);
    own.originated.push(Originated { prefix: prefix("10.9.0.0/16"), communities: vec![] });
    let mut script = Script::established(own);
    script.take();
    let request = RouteRefresh { family: crate::Family::Ipv4Unicast, kind: RefreshKind::Request };
    script.give(&request.encode());
    let sent = script.take();
    let kinds: Vec<_> = sent
        .iter()
        .map(|message| match message {
            Message::RouteRefresh(body) => RouteRefresh::parse(body, true).unwrap().unwrap().kind,
            Message::Update(_) => RefreshKind::Request,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [RefreshKind::Begin, RefreshKind::Request, RefreshKind::End]);
}

/// Behaviour 55.
#[test]
fn routes_not_heard_again_between_the_marks_are_gone() {
    let mut script = Script::established(config(64512));
    let both = update(&[], &mandatory(&[]), &["10.1.0.0/16", "10.2.0.0/16"]);
    script.give(&both);
    let mark = |kind| RouteRefresh { family: crate::Family::Ipv4Unicast, kind }.encode();
    script.give(&mark(RefreshKind::Begin));
    script.give(&update(&[], &mandatory(&[]), &["10.2.0.0/16"]));
    assert!(script.explain("10.1.0.0/16").unwrap().paths[0].stale);
    script.give(&mark(RefreshKind::End));
    assert!(script.explain("10.1.0.0/16").is_none());
    assert!(!script.explain("10.2.0.0/16").unwrap().paths[0].stale);
}

/// RFC 7313 §4: all is stale from each beginning on, and the end takes what was not heard since, however many there were.
#[test]
fn what_is_not_heard_again_after_the_last_of_several_beginnings_is_gone() {
    for beginnings in [2, 200] {
        let mut script = Script::established(config(64512));
        let all = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"];
        script.give(&update(&[], &mandatory(&[]), &all));
        let mark = |kind| RouteRefresh { family: crate::Family::Ipv4Unicast, kind }.encode();
        script.give(&mark(RefreshKind::Begin));
        script.give(&update(&[], &mandatory(&[]), &all[1..2]));
        (1..beginnings).for_each(|_| script.give(&mark(RefreshKind::Begin)));
        script.give(&update(&[], &mandatory(&[]), &all[2..]));
        script.give(&mark(RefreshKind::End));
        assert_eq!(all.map(|prefix| script.explain(prefix).is_some()), [false, false, true], "{beginnings}");
    }
}

/// A peer that is away fills no history, and how long it has been away is known.
#[test]
fn dials_that_fail_the_same_way_are_told_once() {
    let mut first = config(64512);
    first.peers[0].dial = Dial::First;
    let start = Time::from_nanos(7);
    let mut now = start;
    let mut speaker = Speaker::new(first, now);
    let mut told = Vec::new();
    while now < start + secs(100) {
        while let Some(output) = speaker.poll_output() {
            match output {
                Output::Dial { conn, .. } => {
                    let error =
                        if now < start + secs(50) { "Connection refused" } else { "No route to host" };
                    speaker.handle(Event::DialFailed { conn, error: error.into() }, now);
                }
                Output::Session(event) => told.push(event.cause),
                _ => {}
            }
        }
        now = speaker.next_wakeup().unwrap();
        speaker.advance(now);
    }
    let failed = |error: &str| Cause::DialFailed(error.into());
    assert_eq!(told, [Cause::Dialling, failed("Connection refused"), failed("No route to host")]);
    assert_eq!(speaker.peers()[0].session_since, start);
}

#[test]
fn the_counters_count_what_passed() {
    let mut own = config(64512);
    own.originated.push(Originated { prefix: prefix("10.9.0.0/16"), communities: vec![] });
    let mut script = Script::connected(own.clone());
    script.give(&their_open(&own).encode());
    script.give(&keepalive());
    script.give(&update(&[], &mandatory(&[]), &["10.1.0.0/16", "10.2.0.0/16"]));
    script.take();
    let counters = script.view().counters;
    // OPEN, KEEPALIVE, UPDATE; and OPEN, KEEPALIVE, UPDATE and two markers.
    assert_eq!((counters.messages_received, counters.updates_received), (3, 1));
    assert_eq!((counters.messages_sent, counters.updates_sent), (5, 3));
    assert_eq!((counters.prefixes_received, counters.prefixes_accepted, counters.prefixes_sent), (2, 2, 1));
}

#[test]
fn events_for_connections_that_are_gone_are_ignored() {
    let mut script = Script::established(config(64512));
    let conn = script.conn;
    script.give(&Notification::cease(4).encode());
    for event in [
        Event::Received { conn, bytes: Bytes::from_static(b"more") },
        Event::Closed { conn, reason: "late".into() },
        Event::DialFailed { conn, error: "late".into() },
        Event::Connected {
            conn,
            local: SocketAddr::new(ip("10.0.0.1"), 1),
            remote: SocketAddr::new(ip("10.0.0.2"), 2),
        },
    ] {
        script.speaker.handle(event, script.now);
    }
    assert_eq!(script.state(), SessionState::Active);
}

/// Nonsense on a second connection is no reason to give up the session.
#[test]
fn garbage_beside_a_session_costs_only_its_own_connection() {
    let mut script = Script::established(config(64512));
    let second = script.accept();
    script.give_on(second, &[0; 19]);
    assert_eq!(script.notification_on(second).0, 1);
    assert_eq!(script.state(), SessionState::Established);
    assert_eq!(script.closed, [second]);
}

/// A refresh that a loss interrupts: what it had yet to repeat is kept as everything else is.
#[test]
fn a_session_lost_in_the_middle_of_a_refresh_keeps_all_its_routes() {
    let open = their_open(&config(64512));
    let mut script = Script::established(config(64512));
    script.give(&update(&[], &mandatory(&[]), &["10.1.0.0/16", "10.2.0.0/16"]));
    let begin = RouteRefresh { family: crate::Family::Ipv4Unicast, kind: RefreshKind::Begin };
    script.give(&begin.encode());
    script.give(&update(&[], &mandatory(&[]), &["10.2.0.0/16"]));
    let conn = script.conn;
    script.speaker.handle(Event::Closed { conn, reason: "reset".into() }, script.now);
    script.drain();
    for prefix in ["10.1.0.0/16", "10.2.0.0/16"] {
        assert!(script.explain(prefix).unwrap().paths[0].stale);
    }
    script.conn = script.accept();
    script.give(&open.encode());
    script.give(&keepalive());
    // A mark before End-of-RIB says nothing (RFC 7313 §4).
    script.give(&begin.encode());
    script.give(&RouteRefresh { kind: RefreshKind::End, ..begin }.encode());
    assert!(script.explain("10.1.0.0/16").is_some());
    script.give(&crate::message::update::end_of_rib(crate::Family::Ipv4Unicast));
    assert!(script.explain("10.1.0.0/16").is_none());
}

/// Own prefixes come and go with every pod block; that is no reason to dial the dead anew.
#[test]
fn a_change_of_own_prefixes_leaves_the_back_off_alone() {
    let mut first = config(64512);
    first.peers[0].dial = Dial::First;
    let mut now = Time::from_nanos(0);
    let mut speaker = Speaker::new(first.clone(), now);
    while now < Time::ZERO + secs(300) {
        while let Some(output) = speaker.poll_output() {
            if let Output::Dial { conn, .. } = output {
                speaker.handle(Event::DialFailed { conn, error: "Connection refused".into() }, now);
            }
        }
        now = speaker.next_wakeup().unwrap();
        speaker.advance(now);
    }
    while let Some(output) = speaker.poll_output() {
        if let Output::Dial { conn, .. } = output {
            speaker.handle(Event::DialFailed { conn, error: "Connection refused".into() }, now);
        }
    }
    let next = speaker.peers()[0].next_dial.unwrap();
    assert!(next.since(now) > secs(20));
    first.originated.push(Originated { prefix: prefix("10.9.0.0/16"), communities: vec![] });
    speaker.configure(first.clone(), now);
    assert_eq!(speaker.peers()[0].next_dial, Some(next));
    first.peers[0].rr_client = true;
    speaker.configure(first, now);
    assert!(speaker.peers()[0].next_dial.unwrap().since(now) < ms(201));
}

/// Behaviour 12.
#[test]
fn a_peer_that_keeps_talking_but_takes_nothing_is_given_up_after_the_send_hold_time() {
    // Its keepalives come all the time, as from a peer with a window of zero.
    fn talk(script: &mut Script, seconds: u64, takes: bool) {
        for _ in 0..seconds / 20 {
            script.wait(secs(20));
            script.give(&keepalive());
            if takes {
                script.take();
            }
        }
    }
    let mut script = Script::established(config(64512));
    talk(&mut script, 1000, true);
    talk(&mut script, 460, false);
    assert_eq!(script.state(), SessionState::Established);
    talk(&mut script, 40, false);
    assert_ne!(script.state(), SessionState::Established);
    assert_eq!(script.notification(), (8, 0, vec![]));
    // No error of the peer's: it may come back at once.
    script.conn = script.accept();

    let mut long = config(64512);
    long.hold_time = HoldTime::new(600).unwrap();
    let mut script = Script::established(long);
    talk(&mut script, 1180, false);
    assert_eq!(script.state(), SessionState::Established);
    talk(&mut script, 40, false);
    assert_eq!(script.notification(), (8, 0, vec![]));

    let mut endless = config(64512);
    endless.hold_time = HoldTime::new(0).unwrap();
    let mut script = Script::established(endless);
    talk(&mut script, 5000, false);
    assert_eq!(script.state(), SessionState::Established);
}

/// Behaviour 23.
#[test]
fn an_update_of_4097_octets_takes_both_sides_capability() {
    for (extended, expected) in [(true, SessionState::Established), (false, SessionState::Idle)] {
        let mut open = their_open(&config(64512));
        open.capabilities.extended_messages = extended;
        let mut script = Script::established_with(config(64512), &open);
        // Withdrawals of one prefix over and over, and of the default route.
        let bytes = raw_update(&[[24, 10, 1, 2].repeat(1018), vec![0, 0]].concat(), &[], &[]);
        assert_eq!(bytes.len(), 4097);
        script.give(&bytes);
        assert_eq!(script.state(), expected);
        if !extended {
            assert_eq!(script.notification(), (1, 2, vec![0x10, 1]));
        }
    }
}
