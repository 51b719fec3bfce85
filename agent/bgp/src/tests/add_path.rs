//! Several paths for a prefix on one session (RFC 7911), from a peer and to a peer.

use manx_net::Prefix;

use super::{
    hub::{Hub, Said, add_path, clients},
    network::secs,
};
use crate::{
    About, MaxPrefixes,
    config::WellKnown,
    event::PathSource,
    rib::paths::MOST_PATHS,
    view::{Export, LostAt, PathView, RefusedBy, Standing},
};

const P: &str = "10.1.0.0/16";

fn prefix() -> Prefix {
    P.parse().unwrap()
}

/// One that sends several, and as many as said that are sent three at most.
fn reflector(receivers: usize) -> Hub {
    let mut peers = vec![add_path(0, true)];
    peers.extend(vec![add_path(3, false); receivers]);
    Hub::new(clients(&peers))
}

fn paths(hub: &Hub) -> Vec<PathView> {
    hub.speaker.explain(prefix()).map_or(Vec::new(), |view| view.paths)
}

fn ids(hub: &Hub) -> Vec<Option<u32>> {
    paths(hub).iter().map(|path| path.path_id).collect()
}

fn received(hub: &Hub, n: usize) -> u64 {
    hub.speaker.peers()[n].counters.prefixes_received
}

/// RFC 7911 §5: a path is the prefix and the name together.
#[test]
fn a_path_is_replaced_and_withdrawn_by_its_name_and_the_others_stay() {
    let mut hub = reflector(1);
    hub.announce(0, 7, P, Said::pref(100));
    hub.announce(0, 9, P, Said::pref(200));
    assert_eq!((ids(&hub), received(&hub, 0)), (vec![Some(9), Some(7)], 2));
    // Implicitly.
    hub.announce(0, 9, P, Said::pref(50));
    assert_eq!((ids(&hub), received(&hub, 0)), (vec![Some(7), Some(9)], 2));
    assert_eq!(paths(&hub)[1].standing, Standing::Lost(LostAt::LocalPref));
    // A name that was never announced.
    hub.withdraw(0, 8, P);
    assert_eq!(received(&hub, 0), 2);
    hub.withdraw(0, 7, P);
    assert_eq!(ids(&hub), [Some(9)]);
    hub.withdraw(0, 9, P);
    hub.take_all();
    hub.tidy();
    assert_eq!((ids(&hub), received(&hub, 0), hub.speaker.sizes()), (vec![], 0, (0, 0, 0)));
}

/// What decides between two of one peer's that are alike otherwise; behaviour 43's order has no word for it.
#[test]
fn of_two_equal_paths_of_one_peer_the_lesser_name_wins_in_either_order() {
    for order in [[3, 5], [5, 3]] {
        let mut hub = reflector(0);
        order.into_iter().for_each(|id| hub.announce(0, id, P, Said::PLAIN));
        assert_eq!(paths(&hub)[0].path_id, Some(3));
        assert_eq!(paths(&hub)[1].standing, Standing::Lost(LostAt::PathId));
    }
}

#[test]
fn the_best_paths_go_out_as_many_as_agreed_and_the_next_takes_the_place_of_one_that_goes() {
    let mut hub = reflector(1);
    for id in 1..=5u8 {
        hub.announce(0, id.into(), P, Said::pref(100 + id));
    }
    hub.take_all();
    let names = hub.names(1, P);
    assert_eq!(names.len(), 3);
    let prefs = |hub: &Hub| {
        let mut prefs: Vec<u32> = (101..=105)
            .filter(|n| hub.states[1].values().any(|text| text.contains(&format!("Some({n})"))))
            .collect();
        prefs.reverse();
        prefs
    };
    assert_eq!(prefs(&hub), [105, 104, 103]);
    hub.news(1);
    hub.withdraw(0, 4, P);
    // One goes and one comes; the two that stay are not told again (behaviour 48).
    assert_eq!(hub.news(1), (1, 1));
    assert_eq!(prefs(&hub), [105, 103, 102]);
    let stayed: Vec<u32> = hub.names(1, P).into_iter().filter(|name| names.contains(name)).collect();
    assert_eq!(stayed.len(), 2, "names stay while their paths live");
    // One that is none of the three changes nothing.
    hub.announce(0, 1, P, Said::pref(50));
    assert_eq!(hub.news(1), (0, 0));
    assert_eq!(hub.speaker.peers()[1].counters.prefixes_sent, 3);
}

/// Behaviour 42, path by path.
#[test]
fn a_path_goes_to_everyone_but_the_peer_that_it_came_from() {
    let mut hub = Hub::new(clients(&[add_path(4, true), add_path(4, true), add_path(4, false)]));
    hub.announce(0, 1, P, Said::pref(100));
    hub.announce(0, 2, P, Said::pref(90));
    hub.announce(1, 1, P, Said::pref(80));
    hub.take_all();
    assert_eq!([0, 1, 2].map(|n| hub.names(n, P).len()), [1, 2, 3]);
    let sent = hub.speaker.explain(prefix()).unwrap().sent;
    let exports = |n: usize| -> Vec<Export> { sent[n].paths.iter().map(|path| path.export).collect() };
    assert_eq!(exports(0), [Export::FromThisPeer, Export::FromThisPeer, Export::Sent]);
    assert_eq!(exports(1), [Export::Sent, Export::Sent, Export::FromThisPeer]);
    assert_eq!(exports(2), [Export::Sent; 3]);
    assert_eq!([0, 1, 2].map(|n| hub.speaker.peers()[n].counters.prefixes_sent), [1, 2, 3]);
}

/// Behaviours 39 and 40 for each path: the names that tell them apart say nothing of who made them.
#[test]
fn each_reflected_path_has_the_originator_of_its_own_source() {
    let mut hub = Hub::new(clients(&[add_path(0, false), add_path(0, true), add_path(4, false)]));
    hub.announce(0, 0, P, Said::pref(100));
    hub.announce(1, 6, P, Said::pref(90));
    hub.take_all();
    let mut texts: Vec<&String> = hub.states[2].values().collect();
    texts.sort_unstable();
    for (text, (pref, originator)) in texts.into_iter().zip([(100, "10.0.0.2"), (90, "10.0.0.3")]) {
        assert!(text.contains(&format!("Some({pref})")) && text.contains(originator), "{text}");
        assert!(text.contains("cluster_list: [10.0.0.1]"), "{text}");
    }
}

/// Rules are asked about each path, and what they refuse takes nobody's place.
#[test]
fn a_filter_refuses_one_path_and_the_next_best_goes_instead() {
    use crate::policy::{Action, Community, Match, PeerRules, Rule, RuleName};
    let reject = Rule {
        name: RuleName::new("no 65000:1"),
        matches: Match { community: Some(Community::Standard(0xfde8_0001)), ..Match::default() },
        action: Action::Reject,
    };
    let mut hub = reflector(1);
    hub.configure(|config| {
        config.peers[1].add_path.send = 2;
        config.peers[1].export = PeerRules::both([reject.clone()].into_iter().collect());
    });
    let marked = |local_pref| Said { community: Some(0xfde8_0001), ..Said::pref(local_pref) };
    hub.announce(0, 1, P, marked(200));
    hub.announce(0, 2, P, Said::pref(190));
    hub.announce(0, 3, P, marked(180));
    hub.announce(0, 4, P, Said::pref(170));
    hub.announce(0, 5, P, Said::pref(160));
    hub.take_all();
    let exports = |hub: &Hub| -> Vec<Export> {
        let sent = &hub.speaker.explain(prefix()).unwrap().sent[1];
        sent.paths.iter().map(|path| path.export).collect()
    };
    let (sent, filter, beyond) = (Export::Sent, Export::Filter, Export::NotAmongBest);
    assert_eq!(exports(&hub), [filter, sent, filter, sent, beyond]);
    let rule = hub.speaker.explain(prefix()).unwrap().sent[1].paths[0].rule.clone();
    assert_eq!(rule, Some(reject.name.clone()));
    assert_eq!(hub.states[1].len(), 2);
    // Without the rule only the difference is sent (behaviour 56).
    hub.news(1);
    hub.configure(|config| config.peers[1].export = PeerRules::default());
    assert_eq!(hub.news(1), (1, 1));
    assert_eq!(exports(&hub), [sent, sent, beyond, beyond, beyond]);
    // On the way in as well: a refused path is in nobody's way.
    hub.configure(|config| config.peers[0].import = PeerRules::both([reject].into_iter().collect()));
    hub.take_all();
    assert_eq!(hub.states[1].len(), 2);
    let refused = |path: &PathView| path.standing == Standing::Refused(RefusedBy::Filter);
    assert_eq!(paths(&hub).iter().filter(|path| refused(path)).count(), 2);
}

/// Behaviours 46 and 57.
#[test]
fn stale_paths_go_one_by_one_and_those_heard_again_keep_their_names() {
    let mut hub = reflector(1);
    hub.announce(0, 1, P, Said::pref(110));
    hub.announce(0, 2, P, Said::pref(105));
    hub.take_all();
    let before = hub.states[1].clone();
    hub.lose(0, false);
    assert!(paths(&hub).iter().all(|path| path.stale));
    hub.join(0);
    hub.announce(0, 2, P, Said::pref(105));
    hub.take_all();
    assert_eq!(hub.states[1], before, "nothing has changed for others");
    assert_eq!(paths(&hub).iter().filter(|path| path.stale).count(), 1);
    hub.give(0, crate::message::update::end_of_rib(crate::Family::Ipv4Unicast));
    hub.take_all();
    assert_eq!((ids(&hub), hub.states[1].len()), (vec![Some(2)], 1));
    // A peer that comes back without names: its one path is another than those that it had.
    hub.announce(0, 4, P, Said::pref(100));
    hub.lose(0, false);
    hub.join_with(0, |open| open.capabilities.add_path.clear());
    let plain = super::script::update(&[], &super::script::mandatory(&[]), &[P]);
    hub.give(0, plain);
    assert_eq!(paths(&hub).len(), 3);
    hub.give(0, crate::message::update::end_of_rib(crate::Family::Ipv4Unicast));
    assert_eq!(ids(&hub), [None]);
}

/// Behaviour 46: each stale path is marked, and one that forbids it goes.
#[test]
fn long_lived_stale_paths_are_marked_each() {
    let mut config = clients(&[add_path(0, true), add_path(4, false)]);
    config.graceful_restart.long_lived = Some(3600);
    config.hold_time = crate::HoldTime::new(0).unwrap();
    let mut hub = Hub::new(config);
    let offers = |open: &mut crate::message::open::Open| {
        open.capabilities.long_lived = vec![crate::message::open::LongLived {
            family: crate::Family::Ipv4Unicast,
            preserved: true,
            time: 600,
        }];
    };
    for n in 0..2 {
        hub.lose(n, true);
        hub.join_with(n, offers);
    }
    hub.announce(0, 1, P, Said::pref(110));
    hub.announce(0, 2, P, Said::pref(105));
    hub.announce(0, 3, P, Said { community: Some(WellKnown::NO_LLGR), ..Said::pref(100) });
    hub.lose(0, false);
    hub.now = hub.now + secs(121);
    hub.speaker.advance(hub.now);
    hub.drain();
    assert_eq!(ids(&hub), [Some(1), Some(2)]);
    hub.take_all();
    let marked = hub.states[1].values().filter(|text| text.contains(&WellKnown::LLGR_STALE.to_string()));
    assert_eq!(marked.count(), 2);
}

/// Behaviour 55: what is not repeated between the marks is gone, path by path.
#[test]
fn an_enhanced_refresh_sweeps_the_paths_that_it_does_not_repeat() {
    use crate::message::refresh::{RefreshKind, RouteRefresh};
    let mut hub = reflector(1);
    (1..=3u8).for_each(|id| hub.announce(0, id.into(), P, Said::pref(id)));
    let mark = |kind| RouteRefresh { family: crate::Family::Ipv4Unicast, kind }.encode();
    hub.give(0, mark(RefreshKind::Begin));
    hub.announce(0, 2, P, Said::pref(2));
    hub.give(0, mark(RefreshKind::End));
    assert_eq!(ids(&hub), [Some(2)]);
    hub.take_all();
    assert_eq!(hub.states[1].len(), 1);
}

/// Behaviour 59: paths are counted, for they are what costs.
#[test]
fn a_limit_counts_paths() {
    let mut config = clients(&[add_path(0, true)]);
    config.peers[0].max_prefixes = Some(MaxPrefixes::new(4));
    let mut hub = Hub::new(config);
    (1..=4).for_each(|id| hub.announce(0, id, P, Said::PLAIN));
    assert_eq!(received(&hub, 0), 4);
    hub.announce(0, 5, P, Said::PLAIN);
    assert!(hub.warnings.iter().any(|w| matches!(w.about, About::PrefixesOverLimit { limit: 4, .. })));
    hub.tidy();
    assert_eq!(hub.speaker.sizes(), (0, 0, 0));
}

/// A router that restarts may name its paths anew; until its End-of-RIB the old ones are still here.
#[test]
fn a_restarted_peer_with_other_names_is_within_the_limits_that_it_kept_before() {
    for (limit, paths) in [(10, 6), (1000, 200)] {
        let mut config = clients(&[add_path(0, true), add_path(4, false)]);
        config.peers[0].max_prefixes = Some(MaxPrefixes::new(limit));
        let mut hub = Hub::new(config);
        (0..paths).for_each(|id| hub.announce(0, id, P, Said::pref(id as u8)));
        hub.lose(0, false);
        hub.join(0);
        (0..paths).for_each(|id| hub.announce(0, 1000 + id, P, Said::pref(id as u8)));
        assert_eq!(hub.warnings, []);
        hub.take_all();
        assert_eq!(hub.names(1, P).len(), 4);
        hub.give(0, crate::message::update::end_of_rib(crate::Family::Ipv4Unicast));
        hub.tidy();
        let mut now: Vec<u32> = ids(&hub).into_iter().flatten().collect();
        now.sort_unstable();
        assert!(now.into_iter().eq(1000..1000 + paths));
        // The stale ones hide no excess.
        (paths..=limit.min(u32::from(MOST_PATHS))).for_each(|id| hub.announce(0, 1000 + id, P, Said::PLAIN));
        let told = hub.warnings.last().map(|warning| &warning.about);
        assert!(matches!(told, Some(About::PrefixesOverLimit { .. } | About::PathsOfPrefixOverLimit { .. })));
    }
}

/// Marks that never end, and other names each time: twice the limit is the most.
#[test]
fn a_peer_cannot_hide_an_excess_behind_refreshes() {
    use crate::message::refresh::{RefreshKind, RouteRefresh};
    let mut config = clients(&[add_path(0, true)]);
    config.peers[0].max_prefixes = Some(MaxPrefixes::new(4));
    let mut hub = Hub::new(config);
    hub.lose(0, true);
    hub.join_with(0, |open| open.capabilities.enhanced_refresh = true);
    for round in 0..3 {
        (0..4).for_each(|n| hub.announce(0, round * 4 + n, P, Said::PLAIN));
        if round == 1 {
            assert!(hub.warnings.iter().all(|w| matches!(w.about, About::PrefixesNearLimit { .. })));
            assert_eq!(received(&hub, 0), 8);
        }
        let begin = RouteRefresh { family: crate::Family::Ipv4Unicast, kind: RefreshKind::Begin };
        hub.give(0, begin.encode());
    }
    assert!(hub.warnings.iter().any(|w| matches!(w.about, About::PrefixesOverLimit { limit: 4, .. })));
}

#[test]
fn a_peer_that_names_paths_without_end_is_sent_away_and_leaves_nothing() {
    let mut hub = reflector(1);
    for id in 0..u32::from(MOST_PATHS) {
        hub.announce(0, id, P, Said::PLAIN);
    }
    assert_eq!(received(&hub, 0), u64::from(MOST_PATHS));
    hub.take_all();
    assert_eq!(hub.states[1].len(), 3);
    hub.announce(0, 1000, P, Said::PLAIN);
    let about = About::PathsOfPrefixOverLimit { prefix: prefix(), limit: MOST_PATHS };
    assert_eq!(hub.warnings.last().map(|warning| &warning.about), Some(&about));
    hub.take_all();
    assert!(hub.states[1].is_empty());
    hub.tidy();
    assert_eq!(hub.speaker.sizes(), (0, 0, 0));
}

/// What a peer that does not read holds on to is out of date: it is a batch at most, however many paths a route has.
#[test]
fn a_batch_ends_at_so_many_sets_of_paths_too() {
    for joins_late in [true, false] {
        let mut hub = Hub::new(clients(&[add_path(0, true), add_path(64, false)]));
        if joins_late {
            hub.lose(1, true);
        }
        for n in 0..50 {
            for id in 0..64u8 {
                hub.announce(0, id.into(), &format!("10.{n}.0.0/16"), Said { med: n, ..Said::pref(id) });
            }
        }
        if joins_late {
            hub.join(1);
        }
        while hub.told[1].0 == 0 {
            hub.take(1, 1);
        }
        hub.lose(0, true);
        hub.tidy();
        // Of more than three thousand.
        let (announced, _) = hub.news(1);
        assert!((1024..1024 + 64).contains(&announced), "{announced}");
        assert!(hub.states[1].is_empty());
    }
}

/// Behaviour 51, for a path alone.
#[test]
fn a_path_too_long_for_a_message_is_left_out_and_the_others_go() {
    let mut hub = reflector(1);
    hub.lose(1, true);
    hub.join_with(1, |open| open.capabilities.extended_messages = false);
    hub.announce(0, 1, P, Said::pref(100));
    hub.announce(0, 2, P, Said { ballast: 100, ..Said::pref(110) });
    hub.take_all();
    assert_eq!(hub.states[1].len(), 2);
    // It fits on the way in, and not with ORIGINATOR_ID and CLUSTER_LIST.
    hub.announce(0, 2, P, Said { ballast: 4025, ..Said::pref(110) });
    hub.take_all();
    assert_eq!(hub.states[1].len(), 1);
    let exports: Vec<Export> =
        hub.speaker.explain(prefix()).unwrap().sent[1].paths.iter().map(|p| p.export).collect();
    assert_eq!(exports, [Export::TooLong, Export::Sent]);
    // Another path's change does not try it again.
    hub.news(1);
    hub.announce(0, 1, P, Said::pref(99));
    assert_eq!(hub.news(1), (1, 0));
    hub.announce(0, 2, P, Said::pref(110));
    assert_eq!(hub.news(1), (1, 0));
}

/// RFC 7911 §4: without the peer's word nothing is changed on the wire.
#[test]
fn a_peer_that_offers_nothing_gets_and_gives_one_path_without_a_name() {
    let mut hub = reflector(2);
    hub.lose(2, true);
    hub.join_with(2, |open| open.capabilities.add_path.clear());
    hub.announce(0, 1, P, Said::pref(100));
    hub.announce(0, 2, P, Said::pref(110));
    hub.take_all();
    assert_eq!((hub.names(1, P).len(), hub.names(2, P)), (2, vec![0]));
    let view = hub.speaker.peers()[2].negotiated.clone().unwrap();
    assert_eq!(view.add_path, []);
}

/// How many is no part of OPEN.
#[test]
fn another_number_of_paths_needs_no_new_session_and_sends_the_differences() {
    let mut hub = reflector(1);
    (1..=5u8).for_each(|id| hub.announce(0, id.into(), P, Said::pref(id)));
    hub.take_all();
    let first = hub.states[1].clone();
    hub.configure(|config| config.peers[1].add_path.send = 1);
    hub.take_all();
    assert_eq!(hub.states[1].len(), 1);
    hub.configure(|config| config.peers[1].add_path.send = 5);
    hub.take_all();
    assert_eq!(hub.states[1].len(), 5);
    hub.configure(|config| config.peers[1].add_path.send = 3);
    hub.take_all();
    assert_eq!(hub.states[1], first);
    assert_eq!(hub.speaker.peers()[1].established_count, 1);
}

/// Own routes are paths like others: they win, and the learned ones follow.
#[test]
fn an_own_route_goes_out_beside_what_others_announce() {
    let mut hub = reflector(1);
    hub.announce(0, 1, P, Said::PLAIN);
    hub.configure(|config| {
        config.originated = vec![crate::Originated { prefix: prefix(), communities: vec![] }];
    });
    hub.take_all();
    // Inside an own prefix learned routes stay in.
    assert_eq!(hub.names(1, P), [1]);
    let sent = &hub.speaker.explain(prefix()).unwrap().sent[1];
    assert_eq!(sent.paths[0].source, PathSource::Own);
    assert_eq!(sent.paths[1].export, Export::InsideOwnBlock);
}

/// Behaviour 26 with names in front: cut anywhere, it is 3/10.
#[test]
fn a_name_or_a_prefix_that_is_cut_off_ends_the_session() {
    for cut in 1..7 {
        let mut hub = reflector(0);
        let nlri = &[0, 0, 0, 1, 16, 10, 1][..cut];
        let mandatory = super::script::mandatory(&[]).concat();
        hub.give(0, super::script::raw_update(&[], &mandatory, nlri));
        let sent = hub.speaker.peers()[0].notification_sent.clone().unwrap();
        assert_eq!((sent.code, sent.subcode), (3, 10), "{cut}");
    }
}

/// Behaviour 58, path by path.
#[test]
fn a_restarting_speaker_sends_the_best_paths_once_it_has_heard_all() {
    let mut config = clients(&[add_path(0, true), add_path(2, true)]);
    config.graceful_restart.restarting = true;
    let mut hub = Hub::new(config);
    (1..=4u8).for_each(|id| hub.announce(0, id.into(), P, Said::pref(100 + id)));
    hub.take_all();
    assert!(hub.states[1].is_empty() && paths(&hub).iter().all(|path| path.standing == Standing::Deferred));
    for n in 0..2 {
        hub.give(n, crate::message::update::end_of_rib(crate::Family::Ipv4Unicast));
        hub.give(n, crate::message::update::end_of_rib(crate::Family::Ipv6Unicast));
    }
    hub.take_all();
    assert_eq!((hub.states[1].len(), ids(&hub)), (2, vec![Some(4), Some(3), Some(2), Some(1)]));
}

/// Behaviour 49 for each path, and GRACEFUL_SHUTDOWN (RFC 8326) on all of them.
#[test]
fn another_as_gets_several_paths_by_our_address_and_with_our_as() {
    let mut config = clients(&[add_path(0, true), add_path(2, false)]);
    config.peers[1].remote_as = super::network::asn(64600);
    let mut hub = Hub::new(config);
    hub.announce(0, 1, P, Said::by(1));
    hub.announce(0, 2, P, Said::by(2));
    hub.take_all();
    let same_for_all = |hub: &Hub, part: &str| {
        hub.states[1].len() == 2 && hub.states[1].values().all(|text| text.contains(part))
    };
    assert!(same_for_all(&hub, "next_hop: 10.0.0.1") && same_for_all(&hub, "64512"), "{:?}", hub.states[1]);
    hub.configure(|config| config.graceful_shutdown = true);
    hub.take_all();
    let community = WellKnown::GRACEFUL_SHUTDOWN.to_string();
    assert!(same_for_all(&hub, &community), "{:?}", hub.states[1]);
}
