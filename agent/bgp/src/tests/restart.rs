//! Graceful restart (RFC 4724): as the peer that helps, and as the one that restarts.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
};

use super::{
    hub::{self, Hub, Said},
    network::{Network, asn, ip, ms, peer, prefix, secs},
    script::{Script, config, mandatory, raw_update, their_open, update},
};
use crate::{
    Config, Dial, Event, ExportRule, Family, Originated,
    message::{
        Message, keepalive,
        notification::Notification,
        open::Open,
        refresh::{RefreshKind, RouteRefresh},
        update::end_of_rib,
    },
    view::{SessionState, Standing},
};

const A: &str = "10.1.0.0/16";
const B: &str = "10.2.0.0/16";

fn lost(script: &mut Script) {
    let conn = script.conn;
    script.speaker.handle(Event::Closed { conn, reason: "Connection reset by peer".into() }, script.now);
    script.drain();
}

fn back(script: &mut Script, open: &Open) {
    script.conn = script.accept();
    script.give(&open.encode());
    script.give(&keepalive());
    assert_eq!(script.state(), SessionState::Established);
}

/// With A and B announced, and the session then lost.
fn helper() -> (Script, Open) {
    let open = their_open(&config(64512));
    let mut script = Script::established(config(64512));
    script.give(&update(&[], &mandatory(&[]), &[A, B]));
    lost(&mut script);
    (script, open)
}

/// Whether the path is stale; `None`: it is gone.
fn stale(script: &Script, prefix: &str) -> Option<bool> {
    let path = script.explain(prefix)?.paths[0].clone();
    assert_eq!(path.standing, Standing::Best, "behaviour 46: stale is still eligible");
    Some(path.stale)
}

/// Behaviour 57.
#[test]
fn routes_outlive_the_session_until_the_peer_is_back_and_has_sent_end_of_rib() {
    let (mut script, open) = helper();
    assert_eq!((stale(&script, A), stale(&script, B)), (Some(true), Some(true)));
    assert_eq!(script.view().stale_until, Some(script.now + secs(120)));
    script.wait(secs(100));
    back(&mut script, &open);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    assert_eq!((stale(&script, A), stale(&script, B)), (Some(false), Some(true)));
    script.give(&end_of_rib(Family::Ipv6Unicast));
    assert_eq!(stale(&script, B), Some(true), "that was the other family's marker");
    script.give(&end_of_rib(Family::Ipv4Unicast));
    assert_eq!((stale(&script, A), stale(&script, B)), (Some(false), None));
    assert_eq!(script.view().stale_until, None);
}

/// RFC 5882 §4.3: the session is over at once; what leads by the peer itself goes by its next hop, which the driver calls
/// dead, and what it had from others may still be true.
#[test]
fn a_peer_to_which_there_is_no_path_is_left_at_once_and_routes_by_third_next_hops_are_kept() {
    let mut script = Script::established(config(64512));
    script.give(&update(&[], &mandatory(&[]), &[A, B]));
    let (peer, now) = (script.speaker.config().peers[0].key(), script.now);
    script.speaker.handle(Event::PathDown { peer, why: "Control Detection Time Expired".into() }, now);
    script.drain();
    assert_ne!(script.state(), SessionState::Established);
    assert_eq!((stale(&script, A), stale(&script, B)), (Some(true), Some(true)));
    let sent = script.view().notification_sent.unwrap();
    assert_eq!(
        (sent.name.as_str(), sent.why.as_deref()),
        ("Cease / BFD Down", Some("Control Detection Time Expired"))
    );
    // Once more, and of a peer that there is not: nothing.
    script.speaker.handle(Event::PathDown { peer, why: String::new() }, now);
    script.wait(ms(120_100));
    assert_eq!((stale(&script, A), stale(&script, B)), (None, None));
}

/// Behaviour 57.
#[test]
fn a_peer_that_does_not_come_back_in_its_time_loses_its_routes() {
    let (mut script, _) = helper();
    script.wait(ms(119_900));
    assert_eq!(stale(&script, A), Some(true));
    script.wait(ms(200));
    assert_eq!((stale(&script, A), stale(&script, B)), (None, None));
}

#[test]
fn a_peer_that_never_sends_end_of_rib_loses_what_it_did_not_repeat_after_a_while() {
    let (mut script, open) = helper();
    back(&mut script, &open);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    for _ in 0..5 {
        assert_eq!(stale(&script, B), Some(true), "longer than the restart time, now that the peer is there");
        script.wait(secs(60));
        script.give(&keepalive());
    }
    script.wait(secs(1));
    assert_eq!((stale(&script, A), stale(&script, B)), (Some(false), None));
}

/// Behaviour 57: the F bit, and a family that is no longer in the capability.
#[test]
fn a_peer_that_did_not_preserve_its_forwarding_state_loses_its_routes_at_once() {
    for change in [
        |open: &mut Open| {
            open.capabilities.graceful_restart.as_mut().unwrap().families[0].1 = false;
        },
        |open: &mut Open| {
            open.capabilities.graceful_restart.as_mut().unwrap().families.remove(0);
        },
        |open: &mut Open| open.capabilities.graceful_restart = None,
    ] {
        let (mut script, mut open) = helper();
        change(&mut open);
        back(&mut script, &open);
        assert_eq!((stale(&script, A), stale(&script, B)), (None, None));
    }
}

/// Behaviour 57: a second restart while the first is not over.
#[test]
fn what_was_stale_before_a_second_loss_is_gone_and_the_rest_stays() {
    let (mut script, open) = helper();
    back(&mut script, &open);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    lost(&mut script);
    assert_eq!((stale(&script, A), stale(&script, B)), (Some(true), None));
    back(&mut script, &open);
    script.give(&end_of_rib(Family::Ipv4Unicast));
    assert_eq!(stale(&script, A), None);
}

/// Behaviour 57.
#[test]
fn a_notification_from_either_side_flushes() {
    let open = their_open(&config(64512));
    for ours in [true, false] {
        let mut script = Script::established_with(config(64512), &open);
        script.give(&update(&[], &mandatory(&[]), &[A, B]));
        if ours {
            script.wait(secs(91));
        } else {
            script.give(&Notification::cease(4).encode());
        }
        assert_eq!((stale(&script, A), stale(&script, B)), (None, None));
    }
}

/// RFC 8538 agreed on, two routes in the table.
fn outliving() -> (Script, Open) {
    let mut config = config(64512);
    config.graceful_restart.after_notification = true;
    let mut open = their_open(&config);
    open.capabilities.graceful_restart.as_mut().unwrap().notifications = true;
    let mut script = Script::established_with(config, &open);
    script.give(&update(&[], &mandatory(&[]), &[A, B]));
    (script, open)
}

/// Behaviour 57.
#[test]
fn with_the_n_bit_routes_outlive_an_error_of_either_side_until_the_restart_time_is_over() {
    let ends: [fn(&mut Script); 4] = [
        |script| script.wait(secs(91)),
        |script| script.give(&[0; 19]),
        |script| script.give(&Notification::new(3, 1, &[]).encode()),
        |script| script.give(&Notification::cease(4).encode()),
    ];
    for end in ends {
        let (mut script, open) = outliving();
        end(&mut script);
        assert_ne!(script.state(), crate::view::SessionState::Established);
        assert_eq!((stale(&script, A), stale(&script, B)), (Some(true), Some(true)));
        // What is held back after an error comes back within the restart time.
        script.wait(secs(6));
        back(&mut script, &open);
        script.give(&update(&[], &mandatory(&[]), &[A]));
        script.give(&end_of_rib(Family::Ipv4Unicast));
        assert_eq!((stale(&script, A), stale(&script, B)), (Some(false), None));
        script.give(&Notification::new(3, 1, &[]).encode());
        script.wait(secs(119));
        assert_eq!(stale(&script, A), Some(true));
        script.wait(secs(2));
        assert_eq!(stale(&script, A), None);
    }
}

#[test]
fn a_hard_reset_flushes_and_what_we_end_on_purpose_is_one() {
    let (mut script, _) = outliving();
    script.give(&Notification::cease_with_text(2, "for good").hard_reset().encode());
    assert_eq!((stale(&script, A), stale(&script, B)), (None, None));
    let received = script.view().notification_received.unwrap();
    assert_eq!(
        (received.name.as_str(), received.text.as_deref()),
        ("Cease / Hard Reset (Cease / Administrative Shutdown)", Some("for good"))
    );

    let (mut script, _) = outliving();
    let peer = script.speaker.config().peers[0].key();
    script.speaker.handle(crate::Event::Disable { peer, text: "over".into() }, script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 9, b"\x06\x02\x04over".to_vec()));
    assert_eq!((stale(&script, A), stale(&script, B)), (None, None));
    // Who has not agreed to it is told in the plain form.
    let mut script = Script::established(config(64512));
    script.speaker.handle(crate::Event::Disable { peer, text: "over".into() }, script.now);
    script.drain();
    assert_eq!(script.notification(), (6, 2, b"\x04over".to_vec()));
}

#[test]
fn without_the_capability_on_both_sides_nothing_is_kept() {
    let mut off = config(64512);
    off.graceful_restart.enabled = false;
    let mut bare = their_open(&config(64512));
    bare.capabilities.graceful_restart = None;
    for (config, open) in [(off, their_open(&config(64512))), (config(64512), bare)] {
        let mut script = Script::established_with(config, &open);
        script.give(&update(&[], &mandatory(&[]), &[A]));
        lost(&mut script);
        assert_eq!(stale(&script, A), None);
    }
}

fn restarting() -> Config {
    let mut config = config(64512);
    config.graceful_restart.restarting = true;
    config.originated.push(Originated { prefix: prefix("10.9.0.0/16"), communities: vec![] });
    config
}

fn updates(messages: Vec<Message>) -> usize {
    messages.into_iter().filter(|message| matches!(message, Message::Update(_))).count()
}

/// Behaviour 58.
#[test]
fn a_restarting_speaker_says_so_and_sends_and_chooses_nothing_before_end_of_rib() {
    let mut script = Script::connected(restarting());
    let Some(Message::Open(body)) = script.take().pop() else { panic!("no OPEN") };
    let said = Open::parse(&body).unwrap().capabilities.graceful_restart.unwrap();
    assert!(said.restarting && said.families.iter().all(|(_, preserved)| *preserved));

    script.give(&their_open(&config(64512)).encode());
    script.give(&keepalive());
    script.give(&update(&[], &mandatory(&[]), &[A]));
    script.give(&end_of_rib(Family::Ipv6Unicast));
    assert_eq!(updates(script.take()), 0);
    assert_eq!(script.explain(A).unwrap().paths[0].standing, Standing::Deferred);
    assert!(script.speaker.best(prefix(A)).is_none());

    script.give(&end_of_rib(Family::Ipv4Unicast));
    assert_eq!(script.explain(A).unwrap().paths[0].standing, Standing::Best);
    // The own prefix, and the two markers.
    assert_eq!(updates(script.take()), 3);
}

/// Behaviour 58: the bounds of the waiting.
#[test]
fn the_deferral_ends_when_those_who_are_up_have_spoken_or_time_is_up() {
    // Nobody comes: after the settling time.
    let mut script = Script::connected(restarting());
    script.wait(secs(9));
    assert_eq!(script.explain("10.9.0.0/16").unwrap().paths[0].standing, Standing::Deferred);
    script.wait(secs(2));
    assert_eq!(script.explain("10.9.0.0/16").unwrap().paths[0].standing, Standing::Best);

    // One comes and never finishes: after the restart time.
    let mut script = Script::established(restarting());
    for _ in 0..11 {
        script.wait(secs(10));
        script.give(&keepalive());
        assert_eq!(script.explain("10.9.0.0/16").unwrap().paths[0].standing, Standing::Deferred);
    }
    script.wait(secs(15));
    assert_eq!(script.explain("10.9.0.0/16").unwrap().paths[0].standing, Standing::Best);

    // Both restart: they do not wait for each other.
    let mut open = their_open(&config(64512));
    open.capabilities.graceful_restart.as_mut().unwrap().restarting = true;
    let script = Script::established_with(restarting(), &open);
    assert_eq!(script.explain("10.9.0.0/16").unwrap().paths[0].standing, Standing::Best);

    // No peers at all: at once.
    let mut alone = restarting();
    alone.peers.clear();
    let mut speaker = crate::Speaker::new(alone, crate::Time::from_nanos(5));
    while speaker.advance(crate::Time::from_nanos(5)) {}
    assert!(std::iter::from_fn(|| speaker.poll_output()).any(|output| output == crate::Output::Settled));
}

/// A peer that has just restarted, too, or says so for its first two minutes, has not sent its routes when the choice is
/// made: packets to them go on by what the earlier run left.
#[test]
fn what_an_earlier_run_left_stays_until_those_have_spoken_who_restart_too() {
    let mut theirs = their_open(&config(64512));
    theirs.capabilities.graceful_restart.as_mut().unwrap().restarting = true;
    let mut script = Script::established_with(restarting(), &theirs);
    assert_eq!(script.explain("10.9.0.0/16").unwrap().paths[0].standing, Standing::Best);
    assert_eq!(script.settled, 0);
    script.give(&update(&[], &mandatory(&[]), &[A]));
    script.give(&end_of_rib(Family::Ipv4Unicast));
    assert_eq!(script.settled, 0, "it carries IPv6, too");
    script.give(&end_of_rib(Family::Ipv6Unicast));
    assert_eq!(script.settled, 1);
    assert_eq!(script.told.last().unwrap(), &prefix(A), "the best paths come first");

    // Who never speaks is waited for until the restart time is over.
    let mut script = Script::established_with(restarting(), &theirs);
    for _ in 0..11 {
        script.wait(secs(10));
        script.give(&keepalive());
        assert_eq!(script.settled, 0);
    }
    script.wait(secs(11));
    assert_eq!(script.settled, 1);
    // Who goes away again, as long as one that never came.
    let mut script = Script::established_with(restarting(), &theirs);
    lost(&mut script);
    assert_eq!(script.settled, 0);
    script.wait(secs(11));
    assert_eq!(script.settled, 1);
}

/// Two clients of a restarting reflector, of which the first has restarted, too. Its routes go to the second as they come
/// (RFC 4724 §3: nobody waits for it with routes), and End-of-RIB after them, which would have the second drop them.
#[test]
fn a_restarting_reflector_ends_its_tables_when_restarting_clients_have_spoken() {
    let start = || {
        let mut config = restarting();
        config.peers[0].rr_client = true;
        super::limits::two_peers(config, |n, open| {
            open.capabilities.graceful_restart.as_mut().unwrap().restarting = n == 0;
        })
    };
    let markers = |messages: &[Message]| {
        let marker = |message: &&Message| matches!(message, Message::Update(body) if body.len() == 4 || body.len() == 10);
        messages.iter().filter(marker).count()
    };
    let (mut script, first, second) = start();
    for family in Family::ALL {
        script.give_on(second, &end_of_rib(family));
    }
    let sent = script.take_on(second);
    assert_eq!((updates(sent.clone()), markers(&sent)), (1, 0), "our own route, at once");
    script.give_on(first, &update(&[], &mandatory(&[]), &[A]));
    let sent = script.take_on(second);
    assert_eq!((updates(sent.clone()), markers(&sent)), (1, 0), "and the client's");
    // The last route and the markers in one piece.
    let rest = [
        update(&[], &mandatory(&[]), &[B]),
        end_of_rib(Family::Ipv4Unicast),
        end_of_rib(Family::Ipv6Unicast),
    ];
    script.give_on(first, &rest.concat());
    let sent = script.take_on(second);
    assert_eq!((updates(sent.clone()), markers(&sent[..1]), markers(&sent[1..])), (3, 0, 2), "{sent:?}");
    assert_eq!((markers(&script.take_on(first)), script.settled), (2, 1));

    // Who never speaks is waited for as long as one that does not come.
    let (mut script, _, second) = start();
    for family in Family::ALL {
        script.give_on(second, &end_of_rib(family));
    }
    assert_eq!(markers(&script.take_on(second)), 0);
    script.wait(secs(11));
    assert_eq!((markers(&script.take_on(second)), script.settled), (2, 0));
}

fn cluster(network: &mut Network, restarting: Option<usize>) -> Vec<Config> {
    let address = |node: usize| format!("10.0.0.{}", node + 1);
    let configs: Vec<Config> = (0..3)
        .map(|node| {
            let mut config = Config::new(asn(64512), Ipv4Addr::new(10, 0, 0, node as u8 + 1));
            let others: Vec<usize> = if node == 0 { vec![1, 2] } else { vec![0] };
            for other in others {
                let mut peer = peer(&address(other), 64512);
                peer.rr_client = node == 0;
                peer.dial = if node > other { Dial::First } else { Dial::Later };
                config.peers.push(peer);
            }
            config
                .originated
                .push(Originated { prefix: prefix(&format!("172.16.{node}.0/26")), communities: vec![] });
            config.export = ExportRule { pools: vec![], transit: true, ..ExportRule::default() };
            config.graceful_restart.restarting = restarting == Some(node);
            config
        })
        .collect();
    if network.nodes.is_empty() {
        (0..3).for_each(|node| assert_eq!(network.add(&address(node)), node));
    }
    configs
}

/// A reflector is killed and comes back: nobody loses a best path for an instant.
#[test]
fn nobody_loses_a_route_when_a_reflector_restarts() {
    for seed in 0..20 {
        let mut network = Network::new(seed);
        for (node, config) in cluster(&mut network, None).into_iter().enumerate() {
            network.start(node, config);
        }
        network.run(secs(3));
        let before: HashMap<usize, _> = (0..3).map(|node| (node, network.nodes[node].best.clone())).collect();
        assert!(before.values().all(|best| best.len() == 3));
        network.kill(0, true);
        network.nodes[0].best.clear();
        network.run(secs(seed));
        for node in [1, 2] {
            assert_eq!(network.nodes[node].best, before[&node], "while it is away");
            network.nodes[node].learned.clear();
        }
        let config = cluster(&mut network, Some(0)).remove(0);
        network.nodes[0].watched.clear();
        network.start(0, config);
        for _ in 0..12_000 {
            if network.nodes[0].settled {
                break;
            }
            network.run(ms(1));
            for node in [1, 2] {
                assert_eq!(network.nodes[node].best, before[&node], "while it comes back");
            }
        }
        assert!(network.nodes[0].settled);
        network.run(secs(20));
        for (node, expected) in &before {
            assert_eq!(network.nodes[*node].best, *expected, "afterwards");
        }
        assert!(
            !network.nodes[1].speaker.as_ref().unwrap().routes(None, 9).iter().any(|route| route.best.stale)
        );
    }
}

/// The machine dies without a word: the hold timer finds out, and the routes go.
#[test]
fn a_dead_machine_is_noticed_within_the_hold_time_and_its_routes_go() {
    let mut network = Network::new(1);
    for (node, config) in cluster(&mut network, None).into_iter().enumerate() {
        network.start(node, config);
    }
    network.run(secs(3));
    network.kill(1, false);
    network.run(secs(60));
    assert_eq!(network.next_hop(2, "172.16.1.0/26"), Some(ip("10.0.0.2")));
    network.run(secs(31));
    assert_eq!(network.next_hop(2, "172.16.1.0/26"), None);
}

/// Behaviour 58: the choice takes several pieces. Whoever comes between two of them gets its first table, and End-of-RIB
/// after it, when all is chosen; else it would take the marker for the end of half a table, and drop the rest.
#[test]
fn who_comes_up_during_the_first_choice_gets_the_whole_table_before_the_marker() {
    const ROUTES: u32 = 20_000;
    let mut config = restarting();
    config.peers[0].rr_client = true;
    let mut second = peer("10.0.0.3", 64512);
    second.dial = Dial::Never;
    config.peers.push(second);
    let mut script = Script::established(config.clone());
    script.wait(secs(11));
    let numbers: Vec<u32> = (0..ROUTES).collect();
    for part in numbers.chunks(1000) {
        let nlri: Vec<u8> = part.iter().flat_map(|n| [24, 11, (n >> 8) as u8, *n as u8]).collect();
        script.give(&raw_update(&[], &mandatory(&[]).concat(), &nlri));
    }
    script.give(&end_of_rib(Family::Ipv6Unicast));
    let bytes = end_of_rib(Family::Ipv4Unicast);
    script.speaker.handle(Event::Received { conn: script.conn, bytes }, script.now);
    // One piece of several.
    assert!(script.speaker.advance(script.now));
    let mut open = their_open(&config);
    open.identifier = Ipv4Addr::new(10, 0, 0, 3);
    let (local, remote) = (SocketAddr::new(ip("10.0.0.1"), 179), SocketAddr::new(ip("10.0.0.3"), 9));
    let conn = script.speaker.accept(local, remote, script.now).unwrap();
    for bytes in [open.encode(), keepalive()] {
        script.speaker.handle(Event::Received { conn, bytes }, script.now);
    }
    let mut sent = script.take_on(conn);
    script.drain();
    sent.extend(script.take_on(conn));
    let marker = &end_of_rib(Family::Ipv4Unicast)[19..];
    let at = sent.iter().position(|message| matches!(message, Message::Update(body) if body == marker));
    let (before, after) = sent.split_at(at.expect("a marker"));
    let mut state = std::collections::BTreeMap::new();
    super::export_by_group::apply(&mut state, before);
    assert_eq!(state.len(), ROUTES as usize + 1);
    assert_eq!(super::export_by_group::apply(&mut state, after), 0, "nothing comes after the marker");
}

/// Behaviour 58: neither a refresh nor another group takes away the End-of-RIB that a peer has yet to get.
#[test]
fn who_asks_for_a_refresh_and_changes_its_group_while_end_of_rib_waits_gets_it_still() {
    let mut config = restarting();
    config.peers[0].rr_client = true;
    let (mut script, first, second) = super::limits::two_peers(config, |n, open| {
        open.capabilities.graceful_restart.as_mut().unwrap().restarting = n == 0;
    });
    let markers = |messages: &[Message]| {
        let ends = |message: &&Message| {
            matches!(message, Message::Update(body)
                if Family::ALL.iter().any(|&family| body[..] == end_of_rib(family)[19..]))
        };
        messages.iter().filter(ends).count()
    };
    for family in Family::ALL {
        script.give_on(second, &end_of_rib(family));
    }
    assert_eq!(markers(&script.take_on(second)), 0);
    let request = RouteRefresh { family: Family::Ipv4Unicast, kind: RefreshKind::Request };
    script.give_on(second, &request.encode());
    let mut config = script.speaker.config().clone();
    config.peers[1].rr_client = false;
    script.speaker.configure(config, script.now);
    script.drain();
    assert_eq!(markers(&script.take_on(second)), 0);
    for family in Family::ALL {
        script.give_on(first, &end_of_rib(family));
    }
    assert_eq!(markers(&script.take_on(second)), 2, "one for each family");
}

/// RFC 4456 §8: what is told of a peer's routes has its identifier, of which it may come back with another.
#[test]
fn routes_repeated_under_another_identifier_are_reflected_under_it() {
    const NEW: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 200);
    for send in [0, 4] {
        let mut hub = Hub::new(hub::clients(&[hub::add_path(0, false), hub::add_path(send, false)]));
        hub.announce(0, 0, A, Said::PLAIN);
        hub.take_all();
        let said = |hub: &Hub| hub.states[1].values().cloned().collect::<Vec<String>>();
        assert!(said(&hub)[0].contains("10.0.0.2)"), "{:?}", said(&hub));
        hub.lose(0, false);
        hub.join_with(0, |open| open.identifier = NEW);
        hub.announce(0, 0, A, Said::PLAIN);
        hub.give(0, end_of_rib(Family::Ipv4Unicast));
        hub.take_all();
        assert!(
            said(&hub).len() == 1 && said(&hub)[0].contains(&NEW.to_string()),
            "{send}: {:?}",
            said(&hub)
        );
    }
}

/// RFC 4271 §9.1.2.2 f: the identifier decides between equals, and a peer that comes back with another one is another
/// equal. Its stale routes are compared anew, without an UPDATE.
#[test]
fn a_peer_that_returns_with_another_identifier_wins_or_loses_its_ties_anew() {
    let (mut script, first, second) = super::limits::two_peers(config(64512), |_, open| {
        // As in `two_peers`, but for the restart of whoever comes back.
        assert!(open.capabilities.graceful_restart.is_some());
    });
    for conn in [first, second] {
        script.give_on(conn, &update(&[], &mandatory(&[]), &[A]));
    }
    let best = |script: &Script| match script.explain(A).unwrap().paths[0].source {
        crate::PathSource::Peer(peer) => peer.address,
        crate::PathSource::Own => panic!("it is not ours"),
    };
    assert_eq!(best(&script), ip("10.0.0.2"));
    lost(&mut script);
    let mut open = their_open(&config(64512));
    open.identifier = Ipv4Addr::new(10, 0, 0, 200);
    back(&mut script, &open);
    assert_eq!(best(&script), ip("10.0.0.3"), "10.0.0.200 is higher than 10.0.0.3");
    let loser = &script.explain(A).unwrap().paths[1];
    assert_eq!((loser.stale, loser.standing), (true, Standing::Lost(crate::view::LostAt::RouterId)));
}
