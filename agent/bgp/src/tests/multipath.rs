//! Equally good paths used together (ECMP): which count as equal, and what becomes of their next hops.

use super::{
    hub::{Hub, Said, add_path, clients},
    network::{asn, peer},
};
use crate::{
    Config, Multipath,
    config::WellKnown,
    view::{LostAt, Standing},
};

const P: &str = "10.1.0.0/16";

/// Four clients, one path each.
fn four(ibgp: u8) -> Hub {
    let mut config = clients(&[add_path(0, false); 4]);
    config.multipath = Multipath { ebgp: 1, ibgp };
    Hub::new(config)
}

/// One peer in each of three other ASes.
fn uplinks(ebgp: u8) -> Config {
    let mut config = clients(&[]);
    config.multipath = Multipath { ebgp, ibgp: 1 };
    for n in 0..3 {
        let mut peer = peer(&format!("10.0.0.{}", n + 2), 64600 + n);
        peer.dial = crate::Dial::Never;
        config.peers.push(peer);
    }
    assert_eq!(config.local_as, asn(64512));
    config
}

fn standings(hub: &Hub) -> Vec<Standing> {
    hub.speaker.explain(P.parse().unwrap()).unwrap().paths.iter().map(|path| path.standing).collect()
}

#[test]
fn paths_that_only_the_last_steps_tell_apart_are_used_together_up_to_the_limit() {
    for (limit, expected) in [(0, 1), (1, 1), (2, 2), (3, 3), (8, 4)] {
        let mut hub = four(limit);
        (0..4).for_each(|n| hub.announce(n, 0, P, Said::by(n as u8 + 1)));
        let hops = hub.next_hops(P);
        assert_eq!(hops, ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4"][..expected]);
        let used = standings(&hub).into_iter().filter(|s| matches!(s, Standing::Best | Standing::Multipath));
        assert_eq!(used.count(), expected);
        let view = hub.speaker.best(P.parse().unwrap()).unwrap();
        assert_eq!(view.others.len(), expected - 1);
    }
}

/// RFC 4271 §9.1.2.2 a to e: what differs before the metric's end is not equal.
#[test]
fn what_an_earlier_step_strikes_out_is_not_used() {
    let plain = Said::by(1);
    let mut worse = vec![
        (Said { local_pref: 99, ..Said::by(2) }, LostAt::LocalPref),
        (Said { med: 1, ..Said::by(2) }, LostAt::Med),
        (Said { community: Some(WellKnown::LLGR_STALE), ..Said::by(2) }, LostAt::LongLivedStale),
        (Said { community: Some(WellKnown::GRACEFUL_SHUTDOWN), ..Said::by(2) }, LostAt::LocalPref),
    ];
    worse.push((Said::by(9), LostAt::IgpMetric));
    for (said, step) in worse {
        let mut hub = four(4);
        hub.metric("10.9.0.9", Some(5));
        hub.announce(0, 0, P, plain);
        hub.announce(1, 0, P, said);
        assert_eq!(standings(&hub), [Standing::Best, Standing::Lost(step)]);
        assert_eq!(hub.next_hops(P), ["10.9.0.1"]);
    }
}

#[test]
fn one_next_hop_is_used_once_however_many_announce_it() {
    let mut hub = four(4);
    for (n, next_hop) in [(0, 1), (1, 1), (2, 2), (3, 2)] {
        hub.announce(n, 0, P, Said::by(next_hop));
    }
    assert_eq!(hub.next_hops(P), ["10.9.0.1", "10.9.0.2"]);
    let lost = Standing::Lost(LostAt::RouterId);
    let mut all = standings(&hub);
    all[1..].sort_by_key(|standing| format!("{standing:?}"));
    assert_eq!(all, [Standing::Best, lost, lost, Standing::Multipath]);
    // The one that speaks for it may change; the dataplane is not told of what is the same to it.
    hub.withdraw(2, 0, P);
    assert_eq!(hub.next_hops(P), ["10.9.0.1", "10.9.0.2"]);
}

/// Behaviour 45: a lost next hop takes only its own, and comes back without an UPDATE.
#[test]
fn a_lost_next_hop_leaves_the_others_in_use() {
    let mut hub = four(4);
    (0..3).for_each(|n| hub.announce(n, 0, P, Said::by(n as u8 + 1)));
    let updates = |hub: &Hub| hub.speaker.peers().iter().map(|p| p.counters.updates_received).sum::<u64>();
    let before = updates(&hub);
    hub.metric("10.9.0.1", None);
    assert_eq!(hub.next_hops(P), ["10.9.0.2", "10.9.0.3"]);
    assert!(standings(&hub).contains(&Standing::Unreachable));
    // Farther is not equal.
    hub.metric("10.9.0.3", Some(7));
    assert_eq!(hub.next_hops(P), ["10.9.0.2"]);
    hub.metric("10.9.0.3", Some(0));
    hub.metric("10.9.0.1", Some(0));
    assert_eq!(hub.next_hops(P), ["10.9.0.1", "10.9.0.2", "10.9.0.3"]);
    assert_eq!(updates(&hub), before);
    // And a session takes its own with it, too.
    hub.lose(1, true);
    assert_eq!(hub.next_hops(P), ["10.9.0.1", "10.9.0.3"]);
}

/// As BIRD's `merge paths`: AS_PATHs of one length, whatever stands in them. Beyond the AS the limit is another one.
#[test]
fn uplinks_in_different_ases_are_used_together_by_the_limit_for_them() {
    for (ebgp, expected) in [(1, 1), (3, 3)] {
        let mut hub = Hub::new(uplinks(ebgp));
        (0..3).for_each(|n| hub.announce(n, 0, P, Said::by(n as u8 + 1)));
        assert_eq!(hub.next_hops(P).len(), expected);
    }
}

#[test]
fn several_paths_of_one_peer_are_used_together() {
    let mut config = clients(&[add_path(0, true)]);
    config.multipath = Multipath { ebgp: 1, ibgp: 4 };
    let mut hub = Hub::new(config);
    hub.announce(0, 5, P, Said::by(5));
    hub.announce(0, 6, P, Said::by(6));
    assert_eq!(hub.next_hops(P), ["10.9.0.5", "10.9.0.6"]);
    hub.withdraw(0, 5, P);
    assert_eq!(hub.next_hops(P), ["10.9.0.6"]);
}

/// The best alone is announced to who takes one path, whatever is used beside it (behaviour 48).
#[test]
fn what_is_used_beside_the_best_is_no_news_for_peers() {
    let mut hub = four(4);
    hub.announce(0, 0, P, Said::by(1));
    hub.take_all();
    hub.news(3);
    hub.announce(1, 0, P, Said::by(2));
    assert_eq!((hub.news(3), hub.next_hops(P).len()), ((0, 0), 2));
}

#[test]
fn another_limit_is_applied_to_the_routes_that_are_there() {
    let mut hub = four(1);
    (0..4).for_each(|n| hub.announce(n, 0, P, Said::by(n as u8 + 1)));
    for limit in [3, 1, 4, 0] {
        hub.configure(|config| config.multipath.ibgp = limit);
        assert_eq!(hub.next_hops(P).len(), usize::from(limit.max(1)));
    }
}

/// RFC 7999: a blackhole takes no share of what others forward.
#[test]
fn a_path_that_asks_for_a_blackhole_is_not_used_beside_one_that_does_not() {
    let host = "10.1.0.1/32";
    let mut config = clients(&[add_path(0, false); 2]);
    config.multipath = Multipath { ebgp: 1, ibgp: 4 };
    config.peers[1].blackholes = vec![P.parse().unwrap()];
    let mut hub = Hub::new(config);
    hub.announce(0, 0, host, Said::by(1));
    hub.announce(1, 0, host, Said { community: Some(WellKnown::BLACKHOLE), ..Said::by(2) });
    let best = &hub.best[&host.parse().unwrap()];
    assert!(!best.blackhole);
    assert_eq!(hub.next_hops(host), ["10.9.0.1"]);
    // Nothing but the community comes and goes.
    for (community, hops) in [(None, 2), (Some(WellKnown::BLACKHOLE), 1)] {
        hub.announce(1, 0, host, Said { community, ..Said::by(2) });
        assert_eq!(hub.next_hops(host).len(), hops);
    }
    hub.withdraw(0, 0, host);
    assert!(hub.best[&host.parse().unwrap()].blackhole);
}
