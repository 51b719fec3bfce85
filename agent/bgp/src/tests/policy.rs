//! Rules at work: what comes in and what goes out under them, and what a change of rules sends.

use std::net::Ipv4Addr;

use manx_net::Prefix;
use proptest::prelude::*;

use super::{
    network::{Network, asn, ip, peer, prefix, secs},
    script::{Script, attribute, config, mandatory, update, with},
};
use crate::{
    Config, Event, ExportRule, Originated, Output, PeerKey, PoolRule, WellKnown,
    attr::flag::{OPTIONAL, TRANSITIVE},
    policy::{Action, Change, Community, Match, Operator, PeerRules, PrefixMatch, Rule, RuleName, Rules},
    view::{Export, LostAt, PathView, RefusedBy, SentView, Standing},
};

fn within(text: &str) -> Match {
    let matched = PrefixMatch { prefix: prefix(text), operator: Operator::In, lengths: None };
    Match { prefix: Some(matched), ..Match::default() }
}

fn rules(list: &[(&str, Match, Action)]) -> PeerRules {
    let rules: Rules = list
        .iter()
        .map(|(name, matches, action)| Rule {
            name: RuleName::new(*name),
            matches: matches.clone(),
            action: action.clone(),
        })
        .collect();
    PeerRules::both(rules)
}

fn accept(changes: &[Change]) -> Action {
    Action::Accept(changes.into())
}

fn communities(list: &[u32]) -> Vec<u8> {
    let value: Vec<u8> = list.iter().flat_map(|c| c.to_be_bytes()).collect();
    attribute(OPTIONAL | TRANSITIVE, 8, &value)
}

/// The path of the only peer.
fn path(script: &Script, prefix: &str) -> PathView {
    script.explain(prefix).expect("it is in the Adj-RIB-In").paths.remove(0)
}

#[track_caller]
fn expect(path: &PathView, standing: Standing, rule: Option<&str>) {
    assert_eq!((path.standing, path.rule.clone()), (standing, rule.map(RuleName::new)));
}

/// Behaviours 47 and 56.
#[test]
fn a_refused_route_stays_under_its_rules_name_and_other_rules_bring_it_in_without_the_peer() {
    let mut config = config(64512);
    config.peers[0].import = rules(&[
        ("inside", within("10.1.0.0/16"), Action::Reject),
        ("better", within("10.2.0.0/16"), accept(&[Change::SetLocalPref(500)])),
    ]);
    let mut script = Script::established(config.clone());
    script.give(&update(&[], &mandatory(&[]), &["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"]));
    expect(&path(&script, "10.1.0.0/24"), Standing::Refused(RefusedBy::Filter), Some("inside"));
    expect(&path(&script, "10.2.0.0/24"), Standing::Best, Some("better"));
    expect(&path(&script, "10.3.0.0/24"), Standing::Best, None);
    assert_eq!(path(&script, "10.2.0.0/24").attributes.local_pref, Some(500));
    assert_eq!(path(&script, "10.3.0.0/24").attributes.local_pref, None);
    let counters = script.view().counters;
    assert_eq!((counters.prefixes_received, counters.prefixes_accepted), (3, 2));

    config.peers[0].import = rules(&[("other", within("10.3.0.0/16"), Action::Reject)]);
    script.speaker.configure(config, script.now);
    script.drain();
    expect(&path(&script, "10.1.0.0/24"), Standing::Best, None);
    expect(&path(&script, "10.2.0.0/24"), Standing::Best, None);
    expect(&path(&script, "10.3.0.0/24"), Standing::Refused(RefusedBy::Filter), Some("other"));
    assert_eq!(path(&script, "10.2.0.0/24").attributes.local_pref, None, "as it was received");
    assert_eq!(script.view().established_count, 1, "the session stays");

    // What was changed and what was refused leave nothing behind.
    script.give(&update(&["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"], &[], &[]));
    assert_eq!(script.explain("10.1.0.0/24"), None);
    script.speaker.advance(script.now);
    assert_eq!(script.speaker.sizes(), (0, 0, 0));
}

#[test]
fn changed_sets_are_shared_and_leave_with_their_last_route() {
    let mut config = config(64512);
    config.peers[0].import = rules(&[("all", Match::default(), accept(&[Change::SetLocalPref(7)]))]);
    let mut script = Script::established(config);
    for third in 0..10 {
        let prefix = format!("10.{third}.0.0/16");
        script.give(&update(&[], &mandatory(&[]), &[&prefix]));
    }
    // The set that was received, and the one that was made of it.
    assert_eq!(script.speaker.sizes().1, 2);
    for third in 0..10 {
        let prefix = format!("10.{third}.0.0/16");
        script.give(&update(&[&prefix], &[], &[]));
    }
    script.speaker.advance(script.now);
    assert_eq!(script.speaker.sizes(), (0, 0, 0));
}

/// Behaviour 50, and RFC 8326: the last choice, whatever a rule says, and again its old self when it is over.
#[test]
fn a_route_with_graceful_shutdown_counts_with_local_pref_0() {
    let mut config = config(64512);
    config.peers[0].import = rules(&[("better", Match::default(), accept(&[Change::SetLocalPref(500)]))]);
    let mut script = Script::established(config);
    let tagged = with(mandatory(&[]), communities(&[WellKnown::GRACEFUL_SHUTDOWN]));
    script.give(&update(&[], &tagged, &["10.1.0.0/24"]));
    let shown = path(&script, "10.1.0.0/24");
    expect(&shown, Standing::Best, Some("better"));
    assert_eq!(shown.attributes.local_pref, Some(0));
    assert_eq!(shown.attributes.communities, ["graceful-shutdown"]);
    script.give(&update(&[], &mandatory(&[]), &["10.1.0.0/24"]));
    assert_eq!(path(&script, "10.1.0.0/24").attributes.local_pref, Some(500));
}

fn best(script: &mut Script, prefix: Prefix) -> Option<bool> {
    let mut last = None;
    loop {
        let more = script.speaker.advance(script.now);
        while let Some(output) = script.speaker.poll_output() {
            match output {
                Output::Watch { next_hop } => {
                    let event = Event::NextHop { next_hop, metric: Some(0) };
                    script.speaker.handle(event, script.now);
                }
                Output::Best { prefix: of, best, .. } if of == prefix => last = best.map(|b| b.blackhole),
                _ => {}
            }
        }
        if !more {
            return last;
        }
    }
}

/// Behaviour 50 and RFC 7999: only a host route, only where configured, only within what the peer may speak for.
#[test]
fn blackhole_counts_for_host_routes_within_what_the_peer_may_speak_for() {
    for (route, tag, allowed, expected) in [
        ("10.1.0.1/32", WellKnown::BLACKHOLE, Some("10.1.0.0/16"), true),
        ("10.1.0.1/32", WellKnown::BLACKHOLE, None, false),
        ("10.2.0.1/32", WellKnown::BLACKHOLE, Some("10.1.0.0/16"), false),
        ("10.1.0.0/24", WellKnown::BLACKHOLE, Some("10.1.0.0/16"), false),
        ("10.1.0.1/32", 1, Some("10.1.0.0/16"), false),
    ] {
        let mut config = config(65001);
        config.peers[0].blackholes = allowed.into_iter().map(prefix).collect();
        let mut script = Script::established(config.clone());
        let message = update(&[], &with(mandatory(&[65001]), communities(&[tag])), &[route]);
        let conn = script.conn;
        script.speaker.handle(Event::Received { conn, bytes: message }, script.now);
        assert_eq!(best(&mut script, prefix(route)), Some(expected), "{route} {tag} {allowed:?}");
        if expected {
            // Taken back by configuration, without a word from the peer.
            config.peers[0].blackholes.clear();
            script.speaker.configure(config, script.now);
            assert_eq!(best(&mut script, prefix(route)), Some(false));
        }
    }
}

/// Nodes 10.0.0.1, .2, … of AS 64512; the second reflects between all others.
/// The community may be the operator's doing, and what it does is told all the same when it does something else.
#[test]
fn a_blackhole_that_a_rule_asks_for_comes_and_goes_with_what_the_peer_may_speak_for() {
    let mut config = config(65001);
    let change = Change::AddCommunity(Community::Standard(WellKnown::BLACKHOLE));
    config.peers[0].import = rules(&[("drop it", within("10.1.0.0/16"), accept(&[change]))]);
    let mut script = Script::established(config.clone());
    let route = "10.1.0.1/32";
    let bytes = update(&[], &mandatory(&[65001]), &[route]);
    script.speaker.handle(Event::Received { conn: script.conn, bytes }, script.now);
    assert_eq!(best(&mut script, prefix(route)), Some(false));
    for allowed in [vec![prefix("10.1.0.0/16")], vec![]] {
        config.peers[0].blackholes = allowed.clone();
        script.speaker.configure(config.clone(), script.now);
        assert_eq!(best(&mut script, prefix(route)), Some(!allowed.is_empty()));
    }
}

fn star(count: u8) -> (Network, Vec<Config>) {
    let mut network = Network::new(5);
    let mut configs = Vec::new();
    for n in 1..=count {
        network.add(&format!("10.0.0.{n}"));
        let mut config = Config::new(asn(64512), Ipv4Addr::new(10, 0, 0, n));
        config.export = ExportRule { pools: Vec::new(), transit: true, ..ExportRule::default() };
        let others = (1..=count).filter(|&other| other != n && (n == 2 || other == 2));
        for other in others {
            let mut peer = peer(&format!("10.0.0.{other}"), 64512);
            peer.rr_client = n == 2;
            peer.dial = if n == 2 { crate::Dial::Never } else { crate::Dial::First };
            config.peers.push(peer);
        }
        configs.push(config);
    }
    (network, configs)
}

fn key(n: u8) -> PeerKey {
    PeerKey { address: ip(&format!("10.0.0.{n}")), port: 179 }
}

/// Behaviour 56.
#[test]
fn other_import_rules_send_only_what_they_change() {
    let (mut network, mut configs) = star(3);
    configs[0].originated = (0..100)
        .map(|n| Originated { prefix: prefix(&format!("172.16.{n}.0/24")), communities: Vec::new() })
        .collect();
    for (node, config) in configs.iter().enumerate() {
        network.start(node, config.clone());
    }
    network.run(secs(30));
    let received = |network: &mut Network| {
        let view = network.speaker(2).peer(key(2)).unwrap();
        (view.counters.prefixes_received, view.counters.updates_received)
    };
    let (prefixes, updates) = received(&mut network);
    assert_eq!(prefixes, 100);
    configs[1].peers[0].import = rules(&[("seven", within("172.16.7.0/24"), Action::Reject)]);
    network.configure(1, configs[1].clone());
    network.run(secs(5));
    assert_eq!(received(&mut network), (99, updates + 1));
    let refused = network.speaker(1).explain(prefix("172.16.7.0/24")).unwrap().paths.remove(0);
    expect(&refused, Standing::Refused(RefusedBy::Filter), Some("seven"));
    configs[1].peers[0].import =
        rules(&[("eight", within("172.16.8.0/24"), accept(&[Change::SetLocalPref(500)]))]);
    network.configure(1, configs[1].clone());
    network.run(secs(5));
    let (prefixes, updates_now) = received(&mut network);
    assert_eq!(prefixes, 100);
    assert!(updates_now <= updates + 3, "two sets of attributes changed");
    let shown = network.speaker(2).best(prefix("172.16.8.0/24")).unwrap().best;
    assert_eq!(shown.attributes.local_pref, Some(500));
}

/// A lower preference by rule loses where everything else is alike.
#[test]
fn a_rules_preference_decides_the_best_path() {
    let (mut network, mut configs) = star(4);
    for node in [0, 2] {
        configs[node].originated =
            vec![Originated { prefix: prefix("172.16.0.0/24"), communities: Vec::new() }];
    }
    configs[1].peers[0].import = rules(&[("worse", Match::default(), accept(&[Change::SetLocalPref(50)]))]);
    for (node, config) in configs.iter().enumerate() {
        network.start(node, config.clone());
    }
    network.run(secs(30));
    let paths = network.speaker(1).explain(prefix("172.16.0.0/24")).unwrap().paths;
    expect(&paths[0], Standing::Best, None);
    expect(&paths[1], Standing::Lost(LostAt::LocalPref), Some("worse"));
}

/// Node 1 and its peer node 2, each in an AS of its own or both in one; the first originates these.
fn pair(numbers: [u32; 2], originated: &[&str]) -> (Network, [Config; 2]) {
    let mut network = Network::new(6);
    let configs = [1u8, 2].map(|n| {
        network.add(&format!("10.0.0.{n}"));
        let own = usize::from(n - 1);
        let mut config = Config::new(asn(numbers[own]), Ipv4Addr::new(10, 0, 0, n));
        let mut peer = peer(&format!("10.0.0.{}", 3 - n), numbers[1 - own]);
        peer.dial = if n == 1 { crate::Dial::First } else { crate::Dial::Never };
        config.peers.push(peer);
        config
    });
    let mut configs = configs;
    configs[0].originated =
        originated.iter().map(|own| Originated { prefix: prefix(own), communities: Vec::new() }).collect();
    (network, configs)
}

fn start(network: &mut Network, configs: &[Config]) {
    for (node, config) in configs.iter().enumerate() {
        network.start(node, config.clone());
    }
    network.run(secs(30));
}

fn sent(network: &mut Network, node: usize, of: &str, to: u8) -> (Export, Option<RuleName>) {
    let view = network.speaker(node).explain(prefix(of)).expect("the node has it");
    let SentView { export, rule, .. } = view.sent.into_iter().find(|sent| sent.peer == key(to)).unwrap();
    (export, rule)
}

fn received(network: &mut Network, node: usize, of: &str) -> Option<PathView> {
    network.speaker(node).explain(prefix(of)).map(|mut view| view.paths.remove(0))
}

#[test]
fn rules_of_a_peer_decide_on_what_goes_out_own_routes_included_and_change_it() {
    let own = ["172.16.1.0/26", "172.16.2.0/26", "172.16.3.0/26"];
    let (mut network, mut configs) = pair([65001, 65002], &own);
    let changes = [
        Change::Prepend([asn(65009), asn(65008)].into()),
        Change::AddCommunity(Community::Standard(65001 << 16 | 7)),
        Change::AddCommunity(Community::Large([1, 2, 3])),
    ];
    configs[0].peers[0].export = rules(&[
        ("kept", within("172.16.1.0/24"), Action::Reject),
        ("marked", within("172.16.2.0/24"), accept(&changes)),
    ]);
    start(&mut network, &configs);
    assert_eq!(sent(&mut network, 0, own[0], 2), (Export::Filter, Some(RuleName::new("kept"))));
    assert_eq!(sent(&mut network, 0, own[1], 2), (Export::Sent, Some(RuleName::new("marked"))));
    assert_eq!(sent(&mut network, 0, own[2], 2), (Export::Sent, None));
    assert_eq!(received(&mut network, 1, own[0]), None);
    let marked = received(&mut network, 1, own[1]).unwrap().attributes;
    // Our own number comes last, in front.
    assert_eq!(marked.as_path, "65001 65009 65008");
    assert_eq!(
        (marked.communities, marked.large_communities),
        (vec!["65001:7".into()], vec!["1:2:3".into()])
    );
    let plain = received(&mut network, 1, own[2]).unwrap().attributes;
    assert_eq!((plain.as_path.as_str(), plain.communities.len()), ("65001", 0));
    // Nothing of it stays with us.
    let here = received(&mut network, 0, own[1]).unwrap().attributes;
    assert_eq!((here.as_path.as_str(), here.communities.len()), ("", 0));
}

/// A pod with an address of another's block is announced beside the blocks, and costs nobody a word but for itself.
#[test]
fn a_host_of_ours_is_announced_and_goes_and_no_other_route_is_told_anew() {
    let own: Vec<String> = (0..100).map(|n| format!("172.16.{n}.0/24")).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let (mut network, mut configs) = pair([64512, 64512], &own);
    start(&mut network, &configs);
    let updates = |network: &mut Network| network.speaker(1).peer(key(1)).unwrap().counters.updates_received;
    let before = updates(&mut network);
    // The second is inside a block of its own, which says the same.
    configs[0].hosts = vec![prefix("172.20.36.200/32").into(), prefix("172.16.5.7/32").into()];
    network.configure(0, configs[0].clone());
    network.run(secs(5));
    assert_eq!(received(&mut network, 1, "172.20.36.200/32").unwrap().standing, Standing::Best);
    assert_eq!(sent(&mut network, 0, "172.20.36.200/32", 2), (Export::Sent, None));
    assert_eq!(network.speaker(1).peer(key(1)).unwrap().established_count, 1, "the session stays");
    assert_eq!(updates(&mut network), before + 1);
    configs[0].hosts.remove(0);
    network.configure(0, configs[0].clone());
    network.run(secs(5));
    assert_eq!(received(&mut network, 1, "172.20.36.200/32"), None);
    assert_eq!(updates(&mut network), before + 2);
}

#[test]
fn what_a_rule_accepts_leaves_though_no_pool_holds_it_and_the_source_can_be_asked_for() {
    let (mut network, mut configs) = star(3);
    configs[0].originated = ["192.0.2.0/24", "198.51.100.0/24", "172.16.1.0/26"]
        .map(|own| Originated { prefix: prefix(own), communities: Vec::new() })
        .into();
    configs[1].originated = vec![Originated { prefix: prefix("172.16.2.0/26"), communities: Vec::new() }];
    let pools = vec![PoolRule { prefix: prefix("172.16.0.0/16"), export: true }];
    configs[1].export = ExportRule { pools, transit: false, ..ExportRule::default() };
    let learned = Match { learned: true, ..within("172.16.0.0/16") };
    let to_third = &mut configs[1].peers[1];
    to_third.export =
        rules(&[("outside", within("192.0.2.0/24"), accept(&[])), ("others", learned, Action::Reject)]);
    start(&mut network, &configs);
    for (of, expected) in [
        ("192.0.2.0/24", (Export::Sent, Some(RuleName::new("outside")))),
        ("198.51.100.0/24", (Export::NoTransit, None)),
        ("172.16.1.0/26", (Export::Filter, Some(RuleName::new("others")))),
        ("172.16.2.0/26", (Export::Sent, None)),
    ] {
        assert_eq!(sent(&mut network, 1, of, 3), expected, "{of}");
        assert_eq!(received(&mut network, 2, of).is_some(), expected.0 == Export::Sent, "{of}");
    }
}

/// RFC 8326 §4: the sender's side, and back.
#[test]
fn a_node_that_leaves_says_so_on_all_it_announces() {
    let (mut network, mut configs) = pair([64512, 64512], &["172.16.1.0/26"]);
    start(&mut network, &configs);
    configs[0].graceful_shutdown = true;
    network.configure(0, configs[0].clone());
    network.run(secs(5));
    let shown = received(&mut network, 1, "172.16.1.0/26").unwrap().attributes;
    assert_eq!((shown.local_pref, shown.communities), (Some(0), vec!["graceful-shutdown".into()]));
    configs[0].graceful_shutdown = false;
    network.configure(0, configs[0].clone());
    network.run(secs(5));
    let shown = received(&mut network, 1, "172.16.1.0/26").unwrap().attributes;
    assert_eq!((shown.local_pref, shown.communities), (Some(100), vec![]));
    assert_eq!(network.view(0, "10.0.0.2").established_count, 1);
}

#[test]
fn where_a_policy_is_required_an_ebgp_peer_without_one_gets_and_gives_nothing() {
    for (numbers, expected) in [([65001, 65002], Export::Filter), ([65001, 65001], Export::Sent)] {
        let (mut network, mut configs) = pair(numbers, &["172.16.1.0/26"]);
        configs[0].ebgp_requires_policy = true;
        start(&mut network, &configs);
        assert_eq!(sent(&mut network, 0, "172.16.1.0/26", 2).0, expected);
    }
    let (mut network, mut configs) = pair([65001, 65002], &["172.16.1.0/26"]);
    configs[1].ebgp_requires_policy = true;
    start(&mut network, &configs);
    let rfc = "no policy for an eBGP peer (RFC 8212)";
    let shown = received(&mut network, 1, "172.16.1.0/26").unwrap();
    expect(&shown, Standing::Refused(RefusedBy::Filter), Some(rfc));
    configs[1].peers[0].import = rules(&[("all", Match::default(), accept(&[]))]);
    network.configure(1, configs[1].clone());
    network.run(secs(5));
    expect(&received(&mut network, 1, "172.16.1.0/26").unwrap(), Standing::Best, Some("all"));
}

fn hundred() -> Vec<Originated> {
    (0..100)
        .map(|n| Originated { prefix: prefix(&format!("172.16.{n}.0/24")), communities: Vec::new() })
        .collect()
}

/// Behaviour 56, towards peers that share a group, one after the other and all at once.
#[test]
fn other_export_rules_send_only_what_they_change_and_only_to_whom_they_are_for() {
    let (mut network, mut configs) = star(5);
    configs[0].originated = hundred();
    start(&mut network, &configs);
    let received = |network: &mut Network, n: usize| {
        let counters = network.speaker(n - 1).peer(key(2)).unwrap().counters;
        (counters.prefixes_received, counters.updates_received)
    };
    let before = [3, 4, 5].map(|n| received(&mut network, n));
    assert_eq!(before.map(|(prefixes, _)| prefixes), [100; 3]);
    let seven = rules(&[
        ("seven", within("172.16.7.0/24"), Action::Reject),
        ("eight", within("172.16.8.0/24"), accept(&[Change::SetLocalPref(500)])),
    ]);
    // Peers in the order 1, 3, 4, 5.
    configs[1].peers[1].export = seven.clone();
    network.configure(1, configs[1].clone());
    network.run(secs(5));
    assert_eq!(received(&mut network, 3), (99, before[0].1 + 2), "a withdrawal and an announcement");
    assert_eq!([4, 5].map(|n| received(&mut network, n)), before[1..]);
    // The rest of the group follows, each to a group of its own or together; who was first hears nothing more.
    let nine = rules(&[("nine", within("172.16.9.0/24"), Action::Reject)]);
    for of in [2, 3] {
        configs[1].peers[of].export = nine.clone();
    }
    network.configure(1, configs[1].clone());
    network.run(secs(5));
    assert_eq!(received(&mut network, 3), (99, before[0].1 + 2));
    for (n, (_, updates)) in [(4, before[1]), (5, before[2])] {
        assert_eq!(received(&mut network, n), (99, updates + 1));
    }
    // And when it is over everybody has everything again.
    for of in [1, 2, 3] {
        configs[1].peers[of].export = PeerRules::default();
    }
    network.configure(1, configs[1].clone());
    network.run(secs(5));
    assert_eq!([3, 4, 5].map(|n| received(&mut network, n).0), [100; 3]);
    let eight = network.speaker(2).best(prefix("172.16.8.0/24")).unwrap().best;
    assert_eq!(eight.attributes.local_pref, Some(100));
}

/// Rules by number: nothing, a refusal or a change of some of the routes.
fn some_rules(number: u8) -> PeerRules {
    let range = format!("172.16.{}.0/22", u32::from(number % 4) * 4);
    match number % 5 {
        0 => PeerRules::default(),
        1 => rules(&[("no", within(&range), Action::Reject)]),
        2 => rules(&[("yes", within(&range), accept(&[])), ("others", Match::default(), Action::Reject)]),
        3 => rules(&[("better", within(&range), accept(&[Change::SetLocalPref(u32::from(number))]))]),
        _ => rules(&[("longer", within(&range), accept(&[Change::Prepend([asn(65001)].into())]))]),
    }
}

/// What every node has of every prefix, as far as rules and routes decide it.
fn all_routes(network: &mut Network, nodes: usize) -> Vec<String> {
    let mut all = Vec::new();
    for node in 0..nodes {
        for route in network.speaker(node).routes(None, 1000) {
            let best = route.best;
            all.push(format!("{node} {} {:?} {:?}", route.prefix, best.source, best.attributes));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever rules came and went, and whatever routes between: in the end all is as if the last had been there
    /// from the start.
    #[test]
    fn after_any_changes_of_rules_all_is_as_under_the_last_ones(
        steps in prop::collection::vec((0usize..4, any::<bool>(), any::<u8>(), 0usize..16, 0u64..40), 1..12),
    ) {
        let (mut network, mut configs) = star(5);
        configs[0].originated = hundred().into_iter().take(16).collect();
        start(&mut network, &configs);
        for (of, import, number, route, pause) in steps {
            let peer = &mut configs[1].peers[of];
            *(if import { &mut peer.import } else { &mut peer.export }) = some_rules(number);
            network.configure(1, configs[1].clone());
            // Milliseconds: some changes meet an earlier one under way.
            network.run(std::time::Duration::from_millis(pause));
            let communities = &mut configs[0].originated[route].communities;
            *communities = if communities.is_empty() { vec![u32::from(number)] } else { Vec::new() };
            network.configure(0, configs[0].clone());
        }
        network.run(secs(10));
        let found = all_routes(&mut network, 5);
        let (mut fresh, _) = star(5);
        start(&mut fresh, &configs);
        prop_assert_eq!(found, all_routes(&mut fresh, 5));
    }
}
