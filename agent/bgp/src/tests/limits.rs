//! Peers that announce too much: the limit of one, and the bound of all.

use std::net::{Ipv4Addr, SocketAddr};

use super::{
    network::{ip, prefix, secs},
    script::{Script, attribute, config, mandatory, raw_update, their_open, update},
};
use crate::{
    About, Config, ConnId, Event, Family, MaxPrefixes, PeerConfig, Refusal,
    attr::flag::{OPTIONAL, TRANSITIVE},
    message::{Message, keepalive, notification::Notification, open::Open},
    view::SessionState,
};

fn limited(max_prefixes: MaxPrefixes) -> Config {
    let mut config = config(64512);
    config.peers[0].max_prefixes = Some(max_prefixes);
    config
}

fn announce(script: &mut Script, prefixes: &[&str]) {
    script.give(&update(&[], &mandatory(&[]), prefixes));
}

fn told(script: &mut Script) -> Vec<About> {
    std::mem::take(&mut script.warnings).into_iter().map(|warning| warning.about).collect()
}

/// How many there are when all waiting work is done.
fn routes(script: &mut Script) -> usize {
    script.drain();
    for _ in 0..100 {
        script.speaker.advance(script.now);
        script.drain();
    }
    script.speaker.sizes().0
}

const FOUR: [&str; 4] = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"];

/// Behaviour 59.
#[test]
fn near_the_limit_there_is_a_warning_and_beyond_it_cease_1_with_family_and_limit() {
    let mut script = Script::established(limited(MaxPrefixes::new(4)));
    announce(&mut script, &FOUR[..2]);
    assert_eq!(told(&mut script), []);
    let near = |held| About::PrefixesNearLimit { family: Family::Ipv4Unicast, held, limit: 4 };
    announce(&mut script, &FOUR[..3]);
    announce(&mut script, &FOUR);
    assert_eq!(told(&mut script), [near(3)], "once");
    script.give(&update(&FOUR[..3], &[], &[]));
    announce(&mut script, &FOUR);
    assert_eq!(told(&mut script), [near(4)], "again, after it had gone down");
    // Announced again is not announced more.
    announce(&mut script, &FOUR);
    assert_eq!(script.state(), SessionState::Established);
    announce(&mut script, &["10.5.0.0/16"]);
    assert_eq!(told(&mut script), [About::PrefixesOverLimit { family: Family::Ipv4Unicast, limit: 4 }]);
    assert_eq!(script.notification(), (6, 1, vec![0, 1, 1, 0, 0, 0, 4]));
    assert_eq!(script.state(), SessionState::Idle);
    assert_eq!(script.view().last_error.as_deref(), Some("Maximum Number of Prefixes Reached"));
    assert_eq!(routes(&mut script), 0);
}

/// Behaviour 59.
#[test]
fn a_peer_over_its_limit_is_left_alone_for_longer_each_time_but_not_after_a_change_of_the_limit() {
    let mut script = Script::connected(limited(MaxPrefixes::new(1)));
    let open = their_open(script.speaker.config()).encode();
    let addresses = (SocketAddr::new(ip("10.0.0.1"), 179), SocketAddr::new(ip("10.0.0.2"), 40000));
    for seconds in [60, 120, 240] {
        script.give(&open);
        script.give(&keepalive());
        announce(&mut script, &FOUR);
        script.notification();
        let refused = script.speaker.accept(addresses.0, addresses.1, script.now);
        assert_eq!(refused, Err(Refusal::HeldBack));
        script.wait(secs(seconds - 1));
        assert_eq!(script.speaker.accept(addresses.0, addresses.1, script.now), Err(Refusal::HeldBack));
        script.wait(secs(1));
        script.conn = script.accept();
    }
    script.give(&open);
    script.give(&keepalive());
    announce(&mut script, &FOUR);
    assert_eq!(script.state(), SessionState::Idle);
    script.speaker.configure(limited(MaxPrefixes::new(4)), script.now);
    script.conn = script.accept();
    script.give(&open);
    script.give(&keepalive());
    announce(&mut script, &FOUR);
    assert_eq!(script.state(), SessionState::Established);
    // And a limit that is lowered below what the peer holds takes effect at once.
    script.speaker.configure(limited(MaxPrefixes::new(3)), script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 1, vec![0, 1, 1, 0, 0, 0, 3]));
}

/// Behaviour 59.
#[test]
fn what_changes_for_others_lifts_no_back_off() {
    let limited = limited(MaxPrefixes::new(3));
    let mut script = Script::established(limited.clone());
    announce(&mut script, &FOUR);
    assert_eq!(script.state(), SessionState::Idle);
    let mut other = limited;
    other.peers.push(PeerConfig { address: ip("10.0.0.3"), ..other.peers[0].clone() });
    script.speaker.configure(other.clone(), script.now);
    script.drain();
    let dial = |script: &mut Script| {
        let remote = SocketAddr::new(ip("10.0.0.2"), 40000);
        script.speaker.accept(SocketAddr::new(ip("10.0.0.1"), 179), remote, script.now)
    };
    assert_eq!((dial(&mut script), script.state()), (Err(Refusal::HeldBack), SessionState::Idle));
    other.peers[0].max_prefixes = Some(MaxPrefixes::new(4));
    script.speaker.configure(other, script.now);
    script.drain();
    assert!(dial(&mut script).is_ok());
}

/// Behaviour 59.
#[test]
fn what_is_refused_counts_only_if_asked_for() {
    let all = ["10.1.0.0/16", "127.0.0.0/8", "224.0.0.0/4"];
    let mut script = Script::established(limited(MaxPrefixes { accepted_only: true, ..MaxPrefixes::new(1) }));
    announce(&mut script, &all);
    assert_eq!(script.state(), SessionState::Established);
    let mut script = Script::established(limited(MaxPrefixes::new(1)));
    announce(&mut script, &all);
    assert_eq!(script.state(), SessionState::Idle);
}

/// `count` /24s from the `first` one of 10/8 on, in full UPDATEs.
pub fn announce_many(script: &mut Script, conn: ConnId, first: u32, count: u32) {
    let numbers: Vec<u32> = (first..first + count).collect();
    for part in numbers.chunks(1000) {
        let nlri: Vec<u8> = part.iter().flat_map(|n| [24, 10, (n >> 8) as u8, *n as u8]).collect();
        script.give_on(conn, &raw_update(&[], &mandatory(&[]).concat(), &nlri));
    }
}

/// Two peers up, 10.0.0.2 and 10.0.0.3, that say the same but for `change`; both connections.
pub fn two_peers(mut config: Config, change: impl Fn(usize, &mut Open)) -> (Script, ConnId, ConnId) {
    config.peers.push(PeerConfig { address: ip("10.0.0.3"), ..config.peers[0].clone() });
    let mut open = their_open(&config);
    change(0, &mut open);
    let mut script = Script::established_with(config.clone(), &open);
    let (local, remote) = (SocketAddr::new(ip("10.0.0.1"), 179), SocketAddr::new(ip("10.0.0.3"), 40000));
    let second = script.speaker.accept(local, remote, script.now).unwrap();
    let mut open = their_open(&config);
    open.identifier = Ipv4Addr::new(10, 0, 0, 3);
    change(1, &mut open);
    script.give_on(second, &open.encode());
    script.give_on(second, &keepalive());
    let first = script.conn;
    (script, first, second)
}

fn bounded(max_paths: u64) -> (Script, ConnId, ConnId) {
    two_peers(Config { max_paths, ..config(64512) }, |_, _| ())
}

#[test]
fn when_the_rib_is_full_whoever_holds_the_most_is_named_and_goes_and_the_others_stay() {
    let (mut script, greedy, modest) = bounded(60_000);
    announce_many(&mut script, modest, 60_000, 5000);
    announce_many(&mut script, greedy, 0, 40_000);
    assert_eq!(told(&mut script), []);
    announce_many(&mut script, greedy, 0, 59_000);
    let warnings = told(&mut script);
    let Some(About::PathsOverBound { held, total, bound: 60_000 }) = warnings[..].last() else {
        panic!("{warnings:?}")
    };
    // The RIB is looked at every 64 KiB: some 16 UPDATEs of a thousand routes.
    assert!(*total == held + 5000 && (60_001..80_000).contains(total), "{warnings:?}");
    announce_many(&mut script, modest, 65_000, 17);
    let Some(Message::Notification(body)) = script.take_on(greedy).pop() else { panic!("no last word") };
    assert_eq!(Notification::parse(&body), Notification::cease(8));
    let peers = script.speaker.peers();
    assert_eq!((peers[0].state, peers[1].state), (SessionState::Idle, SessionState::Established));
    // The others go on while the pieces are being taken away, and afterwards.
    assert_eq!(routes(&mut script), 5017);
    assert!(script.speaker.best(prefix("10.234.96.0/24")).is_some());
    announce_many(&mut script, modest, 0, 30_000);
    assert_eq!(script.speaker.peers()[1].state, SessionState::Established);
}

#[test]
fn near_the_bound_there_is_one_warning() {
    let (mut script, greedy, _) = bounded(60_000);
    for _ in 0..3 {
        announce_many(&mut script, greedy, 0, 56_000);
    }
    let warnings = told(&mut script);
    assert!(matches!(warnings[..], [About::PathsNearBound { bound: 60_000, .. }]), "{warnings:?}");
}

/// Nobody is near a bound of a few paths who has announced none.
#[test]
fn a_small_bound_is_near_only_when_there_are_paths() {
    for (bound, near) in [(1, 1), (9, 9), (10, 9), (4_000_000, 3_600_000)] {
        assert_eq!(bounded(bound).0.speaker.near_max_paths(), near);
    }
}

#[test]
fn routes_kept_for_a_peers_return_count_and_go_first_if_they_are_the_most() {
    let (mut script, gone, modest) = bounded(60_000);
    announce_many(&mut script, gone, 0, 40_000);
    script.speaker.handle(Event::Closed { conn: gone, reason: "reset".into() }, script.now);
    script.drain();
    assert_eq!(script.speaker.sizes().0, 40_000);
    announce_many(&mut script, modest, 0, 38_000);
    announce_many(&mut script, modest, 0, 30_000);
    assert_eq!(routes(&mut script), 38_000);
    assert_eq!(script.speaker.peers()[1].state, SessionState::Established);
    assert_eq!(script.view().stale_until, None);
}

/// A look at what may be freed finds a few that may not, and ends; those behind them have their turn all the same.
#[test]
fn routes_that_are_kept_for_a_peer_that_does_not_read_do_not_hide_those_that_may_go() {
    let mut config = config(64512);
    config.peers[0].rr_client = true;
    let (mut script, first, second) = two_peers(config, |_, _| ());
    let withdraw_many = |script: &mut Script, from: u32, count: u32| {
        let nlri: Vec<u8> = (from..from + count).flat_map(|n| [24, 10, (n >> 8) as u8, n as u8]).collect();
        nlri.chunks(4000).for_each(|part| script.give_on(first, &raw_update(part, &[], &[])));
    };
    announce_many(&mut script, first, 0, 3000);
    script.take_on(second);
    withdraw_many(&mut script, 0, 3000);
    assert_eq!(script.speaker.sizes().0, 3000, "the peer has yet to read that they are gone");
    // Of these it is never told.
    let mut unheard = mandatory(&[]);
    unheard.push(attribute(OPTIONAL | TRANSITIVE, 8, &[0xff, 0xff, 0xff, 2]));
    script.give_on(first, &raw_update(&[], &unheard.concat(), &[16, 20, 1, 16, 20, 2]));
    script.give_on(first, &raw_update(&[16, 20, 1, 16, 20, 2], &[], &[]));
    assert_eq!(script.speaker.sizes().0, 3002);
    let mut looks = 0;
    while script.speaker.sizes().0 > 3000 {
        looks += 1;
        assert!(looks < 200, "{} are left", script.speaker.sizes().0);
        // Whoever has read all that there is gives reason to look.
        script.take_on(first);
        script.drain();
        script.speaker.advance(script.now);
    }
    assert!(looks > 10, "a look took in {} and more", 3000 / looks);
    script.take_on(second);
    assert_eq!(routes(&mut script), 0);
}
