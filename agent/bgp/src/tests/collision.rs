//! Two connections between the same two speakers (RFC 4271 §6.8).

use std::time::Duration;

use super::{
    network::{Network, asn, ms, peer, secs},
    script::{Script, config, their_open},
};
use crate::{
    Config, Dial, Event,
    message::keepalive,
    view::{Cause, Direction, SessionState},
};

fn both_dial(seed: u64, latency: Duration, gap: Duration, ids: [&str; 2], numbers: [u32; 2]) -> Network {
    let mut network = Network::new(seed);
    network.latency = latency;
    let addresses = ["10.0.0.1", "10.0.0.2"];
    for node in [0, 1] {
        network.add(addresses[node]);
    }
    for node in [0, 1] {
        let mut config = Config::new(asn(numbers[node]), ids[node].parse().unwrap());
        config.peers.push(peer(addresses[1 - node], numbers[1 - node]));
        config.seed = seed + node as u64;
        network.start(node, config);
        network.run(gap);
    }
    network
}

/// Behaviour 1: whatever the timing, one session, established once at both ends.
#[test]
fn when_both_dial_one_session_is_left_and_it_never_flaps() {
    for seed in 0..200u64 {
        let latency = Duration::from_micros([20, 200, 2000, 30_000][seed as usize % 4]);
        let gap = latency * (seed % 9) as u32 / 2;
        let mut network = both_dial(seed, latency, gap, ["10.0.0.1", "10.0.0.2"], [64512, 64512]);
        network.run_until(secs(3), |n| n.established(0, "10.0.0.2") && n.established(1, "10.0.0.1"));
        network.run(secs(30));
        for (node, other) in [(0, "10.0.0.2"), (1, "10.0.0.1")] {
            assert!(network.established(node, other), "seed {seed}");
            let count = network.view(node, other).established_count;
            assert_eq!(count, 1, "seed {seed}, gap {gap:?}, node {node}: {:#?}", network.nodes[node].history);
        }
        assert_ne!(network.view(0, "10.0.0.2").dialled_by, network.view(1, "10.0.0.1").dialled_by);
    }
}

/// Behaviour 1: both dials in one instant; the higher identifier's connection stays, by number and not by text.
#[test]
fn the_connection_of_the_higher_identifier_stays() {
    for (ids, numbers, kept) in [
        (["10.0.0.1", "9.255.255.255"], [64512, 64512], Direction::Us),
        (["9.255.255.255", "10.0.0.1"], [64512, 64512], Direction::Peer),
        (["1.1.1.1", "1.1.1.1"], [64513, 64512], Direction::Us),
        (["1.1.1.1", "1.1.1.1"], [64512, 64513], Direction::Peer),
    ] {
        let mut network = both_dial(1, ms(1), Duration::ZERO, ids, numbers);
        network.run_until(secs(1), |n| n.established(0, "10.0.0.2") && n.established(1, "10.0.0.1"));
        assert_eq!(network.view(0, "10.0.0.2").dialled_by, Some(kept), "{ids:?} {numbers:?}");
    }
}

/// Behaviour 2.
#[test]
fn a_second_connection_beside_a_session_is_closed_and_the_session_stays() {
    let mut open = their_open(&config(64512));
    open.capabilities.graceful_restart = None;
    let mut script = Script::established_with(config(64512), &open);
    script.wait(secs(20));
    let second = script.accept();
    script.give_on(second, &open.encode());
    let (code, subcode, _) = script.notification_on(second);
    assert_eq!((code, subcode), (6, 7));
    assert_eq!(script.state(), SessionState::Established);
    script.give(&keepalive());
    assert_eq!(script.closed, [second]);
}

/// Behaviour 2 and RFC 4724 §4.2: a peer that restarts gracefully is let in over its own corpse.
#[test]
fn with_graceful_restart_a_later_connection_takes_the_place_of_the_session() {
    let open = their_open(&config(64512));
    let mut script = Script::established(config(64512));
    let first = script.conn;
    // Two dials that crossed are a collision still.
    let crossed = script.accept();
    script.give_on(crossed, &open.encode());
    assert_eq!(script.notification_on(crossed).1, 7);
    script.wait(secs(2));
    let second = script.accept();
    script.give_on(second, &open.encode());
    assert_eq!(script.closed, [crossed, first]);
    assert_eq!(script.take_on(first), [], "no NOTIFICATION, the session goes on");
    script.give_on(second, &keepalive());
    assert_eq!(script.state(), SessionState::Established);
    assert!(script.history.iter().any(|event| event.cause == Cause::PeerRestarted));
}

/// A peer that opens one connection after the other holds one of ours at a time.
#[test]
fn a_newer_connection_of_the_peer_replaces_its_unfinished_one() {
    let mut script = Script::connected(config(64512));
    let mut last = script.conn;
    for _ in 0..1000 {
        let next = script.accept();
        assert_eq!(script.notification_on(last).1, 7);
        last = next;
    }
    assert_eq!(script.closed.len(), 1000);
    script.give_on(last, &their_open(&config(64512)).encode());
    assert_eq!(script.state(), SessionState::OpenConfirm);
}

/// While the peer's connection is being opened, our own waiting dial keeps quiet.
#[test]
fn an_accepted_connection_stops_the_dial_that_was_due() {
    let mut later = config(64512);
    later.peers[0].dial = Dial::Later;
    let mut script = Script::connected(later);
    assert_eq!(script.view().next_dial, None);
    script.wait(secs(10));
    assert!(script.dials.is_empty());
    script.give(&their_open(&config(64512)).encode());
    script.give(&keepalive());
    assert_eq!(script.state(), SessionState::Established);
}

/// Behaviour 1: the first OPEN tells the peer's identifier, and that decides about the connection whose OPEN is still
/// to come as well.
#[test]
fn the_first_open_decides_whichever_connection_it_comes_on() {
    for (remote, ours_stays) in [([9, 0, 0, 1], true), ([11, 0, 0, 1], false)] {
        for on_ours in [true, false] {
            let mut dialling = config(64512);
            dialling.peers[0].dial = Dial::First;
            let mut script = Script::connected(dialling);
            let theirs = script.conn;
            // Accepting has left the dial of the beginning alone.
            let ours = script.dials[0];
            let local = std::net::SocketAddr::new("10.0.0.1".parse().unwrap(), 5);
            let there = std::net::SocketAddr::new("10.0.0.2".parse().unwrap(), 179);
            script.speaker.handle(Event::Connected { conn: ours, local, remote: there }, script.now);
            script.drain();
            assert!(script.closed.is_empty());
            let mut open = their_open(&config(64512));
            open.identifier = remote.into();
            script.give_on(if on_ours { ours } else { theirs }, &open.encode());
            let (kept, lost) = if ours_stays { (ours, theirs) } else { (theirs, ours) };
            assert_eq!(script.closed, [lost], "{remote:?}, {on_ours}");
            let (code, subcode, _) = script.notification_on(lost);
            assert_eq!((code, subcode), (6, 7));
            if on_ours != ours_stays {
                script.give_on(kept, &open.encode());
            }
            script.give_on(kept, &keepalive());
            assert_eq!(script.state(), SessionState::Established);
        }
    }
}
