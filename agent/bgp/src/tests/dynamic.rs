//! Peers of ranges: who dials from inside one is a peer for as long as there is something to remember of it.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{
    network::{asn, ip, ms, prefix, secs},
    script::{Script, THEM, US, config, mandatory, their_open, update},
};
use crate::{
    Config, ConnId, DynamicPeers, Event, Output, PeerConfig, Refusal, RemoteAs,
    message::{keepalive, open::Open},
    view::{Cause, SessionState},
};

const A: &str = "10.1.0.0/16";

/// Nobody is configured; 10.0.0.0/24 may dial.
fn ranged(remote_as: RemoteAs, limit: u32) -> Config {
    let template = PeerConfig { rr_client: true, ..config(64512).peers.remove(0) };
    let mut config = config(64512);
    config.peers.clear();
    config.dynamic_peers.push(DynamicPeers { range: prefix("10.0.0.0/24"), remote_as, template, limit });
    config
}

fn own_as() -> RemoteAs {
    RemoteAs::OneOf(vec![asn(64512)])
}

/// The OPEN of a peer in this AS.
fn open(remote_as: u32) -> Bytes {
    their_open(&config(remote_as)).encode()
}

fn established(config: Config, remote_as: u32) -> Script {
    let mut script = Script::connected(config);
    script.give(&open(remote_as));
    script.give(&keepalive());
    assert_eq!(script.state(), SessionState::Established);
    script.take();
    script
}

fn dial_from(script: &mut Script, address: &str) -> Result<ConnId, Refusal> {
    let remote = SocketAddr::new(ip(address), 40001);
    let accepted = script.speaker.accept(SocketAddr::new(ip(US), 179), remote, script.now);
    script.drain();
    accepted
}

fn lost(script: &mut Script, conn: ConnId) {
    script.speaker.handle(Event::Closed { conn, reason: "Connection reset by peer".into() }, script.now);
    script.drain();
}

#[test]
fn who_dials_from_the_range_is_a_peer_with_the_ranges_settings_and_is_never_dialled() {
    let mut script = established(ranged(own_as(), 10), 64512);
    let view = script.view();
    assert_eq!((view.address, view.range, view.rr_client), (ip(THEM), Some(prefix("10.0.0.0/24")), true));
    script.wait(secs(3600));
    assert_eq!(script.dials, []);
    assert_eq!(dial_from(&mut script, "10.0.1.2"), Err(Refusal::UnknownPeer));
}

#[test]
fn a_peer_of_a_range_is_forgotten_once_its_routes_are_not_kept_for_it_any_longer() {
    let mut script = established(ranged(own_as(), 10), 64512);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    let conn = script.conn;
    lost(&mut script, conn);
    assert!(script.explain(A).unwrap().paths[0].stale);
    script.wait(ms(119_900));
    assert_eq!(script.speaker.peers().len(), 1);
    script.wait(ms(200));
    assert_eq!(script.speaker.peers(), []);
    assert!(script.explain(A).is_none());
    assert_eq!(script.history.last().unwrap().cause, Cause::Forgotten);
    // An empty route goes with the next piece of work.
    script.speaker.advance(script.now);
    assert_eq!(script.speaker.sizes(), (0, 0, 0));
}

#[test]
fn a_peer_of_a_range_that_comes_back_in_time_finds_its_routes() {
    let mut script = established(ranged(own_as(), 10), 64512);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    let conn = script.conn;
    lost(&mut script, conn);
    script.wait(secs(60));
    script.conn = script.accept();
    script.give(&open(64512));
    script.give(&keepalive());
    assert_eq!(script.view().established_count, 2);
    assert!(script.explain(A).unwrap().paths[0].stale);
}

/// Behaviour 3: nothing stays of those who connect and say nothing, or nonsense.
#[test]
fn the_limit_counts_who_is_there_and_who_has_gone_leaves_a_place() {
    let mut script = Script::connected(ranged(own_as(), 3));
    let second = dial_from(&mut script, "10.0.0.3").unwrap();
    let third = dial_from(&mut script, "10.0.0.4").unwrap();
    for n in 5..200 {
        assert_eq!(dial_from(&mut script, &format!("10.0.0.{n}")), Err(Refusal::RangeFull));
    }
    assert_eq!(script.speaker.peers().len(), 3);
    lost(&mut script, second);
    dial_from(&mut script, "10.0.0.5").unwrap();
    // A second connection of a peer that is there takes no place.
    dial_from(&mut script, "10.0.0.5").unwrap();
    // Who breaks the protocol is held back, and remembered for that long.
    script.give_on(third, &[0; 19]);
    assert_eq!(dial_from(&mut script, "10.0.0.4"), Err(Refusal::HeldBack));
    assert_eq!(dial_from(&mut script, "10.0.0.6"), Err(Refusal::RangeFull));
    script.wait(secs(6));
    dial_from(&mut script, "10.0.0.6").unwrap();
    // The others have not sent their OPENs.
    script.wait(secs(70));
    assert_eq!(script.speaker.peers(), []);
}

/// Behaviour 17.
#[test]
fn a_range_takes_only_the_ases_that_it_is_for() {
    let several = RemoteAs::OneOf(vec![asn(65001), asn(4_200_000_000)]);
    for (remote_as, theirs, allowed) in [
        (own_as(), 64512, true),
        (own_as(), 65001, false),
        (several.clone(), 65001, true),
        (several.clone(), 4_200_000_000, true),
        (several, 65002, false),
        (RemoteAs::External, 65002, true),
        (RemoteAs::External, 64512, false),
    ] {
        let mut script = Script::connected(ranged(remote_as.clone(), 10));
        script.give(&open(theirs));
        if allowed {
            script.give(&keepalive());
            assert_eq!((script.state(), script.view().remote_as), (SessionState::Established, asn(theirs)));
            // RFC 4456 is about the own AS only.
            assert_eq!(script.view().rr_client, theirs == 64512);
        } else {
            assert_eq!(script.notification(), (2, 2, vec![]), "{remote_as:?} {theirs}");
            assert_eq!(script.speaker.peers(), []);
        }
    }
    let mut script = Script::connected(with_the_played_peer(ranged(RemoteAs::OneOf(vec![]), 10)));
    assert_eq!(dial_from(&mut script, "10.0.0.3"), Err(Refusal::UnknownPeer));
}

/// It is configured, the rest of the range is not.
fn with_the_played_peer(ranged: Config) -> Config {
    Config { peers: config(64512).peers, ..ranged }
}

#[test]
fn a_peer_that_comes_back_in_another_as_while_its_routes_are_kept_is_refused() {
    let mut script = established(ranged(RemoteAs::External, 10), 65001);
    script.give(&update(&[], &mandatory(&[65001]), &[A]));
    let conn = script.conn;
    lost(&mut script, conn);
    script.conn = script.accept();
    script.give(&open(65002));
    assert_eq!(script.notification(), (2, 2, vec![]));
    assert!(script.explain(A).unwrap().paths[0].stale);
}

#[test]
fn a_configured_peer_and_a_longer_range_come_first() {
    let mut both = with_the_played_peer(ranged(RemoteAs::External, 10));
    let longer =
        DynamicPeers { range: prefix("10.0.0.128/25"), remote_as: own_as(), ..both.dynamic_peers[0].clone() };
    both.dynamic_peers.push(longer);
    let mut script = Script::connected(both);
    assert_eq!(script.view().range, None);
    dial_from(&mut script, "10.0.0.200").unwrap();
    dial_from(&mut script, "10.0.0.3").unwrap();
    let ranges: Vec<_> = script.speaker.peers().into_iter().map(|peer| peer.range).collect();
    assert_eq!(ranges, [None, Some(prefix("10.0.0.0/24")), Some(prefix("10.0.0.128/25"))]);
}

#[test]
fn a_range_that_goes_takes_its_peers_along_and_one_that_stays_keeps_them() {
    let mut script = established(ranged(own_as(), 10), 64512);
    let mut other = ranged(own_as(), 1);
    other.graceful_shutdown = true;
    script.speaker.configure(other, script.now);
    script.drain();
    assert_eq!(script.closed, []);
    // The peer is configured now, and nothing of it changes but its settings.
    let mut configured = config(64512);
    configured.peers[0].rr_client = true;
    script.speaker.configure(configured.clone(), script.now);
    script.drain();
    assert_eq!((script.closed.len(), script.view().range), (0, None));
    // It is in the range again, but no longer of it; and then nobody knows it.
    configured.peers.clear();
    script.speaker.configure(configured, script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 3, vec![]));
    assert_eq!(script.speaker.peers(), []);
}

#[test]
fn a_range_for_other_ases_and_a_changed_key_end_the_sessions_that_they_concern() {
    let mut script = established(ranged(RemoteAs::External, 10), 65001);
    let mut rewired = ranged(RemoteAs::External, 10);
    rewired.dynamic_peers[0].template.transport = 1;
    script.speaker.configure(rewired, script.now);
    script.drain();
    assert_eq!(script.closed, [script.conn]);
    let conn = script.conn;
    assert_eq!(script.take_on(conn), []);

    let mut script = established(ranged(RemoteAs::External, 10), 65001);
    script.speaker.configure(ranged(own_as(), 10), script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 3, vec![]));
}

/// Behaviour 58.
#[test]
fn who_restarts_waits_for_peers_that_nobody_can_name() {
    let mut restarting = ranged(own_as(), 10);
    restarting.graceful_restart.restarting = true;
    let mut script = Script::connected(restarting);
    let mut theirs: Open = their_open(&config(64512));
    theirs.capabilities.graceful_restart = None;
    script.give(&theirs.encode());
    script.give(&keepalive());
    script.give(&update(&[], &mandatory(&[]), &[A]));
    assert_eq!(script.settled, 0, "others may be on their way");
    script.wait(secs(11));
    assert_eq!(script.settled, 1);
}

/// Behaviour 58: nobody comes from a range that is closed.
#[test]
fn who_restarts_does_not_wait_for_a_closed_range() {
    let mut restarting = with_the_played_peer(ranged(RemoteAs::OneOf(vec![]), 10));
    restarting.graceful_restart.restarting = true;
    let mut script = Script::connected(restarting);
    let mut theirs: Open = their_open(&config(64512));
    theirs.capabilities.graceful_restart = None;
    script.give(&theirs.encode());
    script.give(&keepalive());
    script.give(&update(&[], &mandatory(&[]), &[A]));
    assert_eq!(script.settled, 1);
}

#[test]
fn a_closed_range_or_address_takes_its_peers_from_the_wider_range() {
    for closed in ["10.0.0.0/28", "10.0.0.2/32"] {
        let open = ranged(own_as(), 10);
        let mut script = established(open.clone(), 64512);
        let mut narrowed = open.clone();
        let none = RemoteAs::OneOf(Vec::new());
        narrowed.dynamic_peers.push(DynamicPeers {
            range: prefix(closed),
            remote_as: none,
            ..open.dynamic_peers[0].clone()
        });
        script.speaker.configure(narrowed, script.now);
        script.drain();
        assert_eq!(script.notification(), (6, 3, vec![]), "{closed}");
        assert_eq!(dial_from(&mut script, THEM), Err(Refusal::UnknownPeer));
        dial_from(&mut script, "10.0.0.200").unwrap();
    }
}

#[test]
fn a_peer_of_a_range_whose_back_off_or_routes_a_new_configuration_ends_is_forgotten() {
    for held_back in [true, false] {
        let mut script = established(ranged(own_as(), 10), 64512);
        let conn = script.conn;
        let mut other = ranged(own_as(), 10);
        if held_back {
            script.give_on(conn, &[0; 19]);
            other.dynamic_peers[0].template.rr_client = false;
        } else {
            script.give(&update(&[], &mandatory(&[]), &[A]));
            lost(&mut script, conn);
            other.dynamic_peers[0].template.hold_time = crate::HoldTime::new(30);
        }
        assert_eq!(script.speaker.peers().len(), 1);
        script.speaker.configure(other, script.now);
        script.drain();
        assert_eq!(script.speaker.peers(), [], "held back: {held_back}");
    }
}

#[test]
fn at_our_own_end_the_routes_of_a_ranges_peers_stay_in_the_dataplane() {
    let mut script = established(ranged(own_as(), 10), 64512);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    script.speaker.handle(Event::Shutdown { graceful: true, text: String::new() }, script.now);
    while script.speaker.advance(script.now) {}
    let outputs: Vec<Output> = std::iter::from_fn(|| script.speaker.poll_output()).collect();
    assert!(!outputs.iter().any(|output| matches!(output, Output::Best { best: None, .. })));
    assert!(script.explain(A).is_some());
}
