//! Rules that ask by which interface a route leads: on the way in and on the way out, and when that changes.

use std::{net::Ipv4Addr, sync::Arc};

use proptest::prelude::*;

use super::{
    network::{ip, peer, prefix},
    script::{Script, config, mandatory, their_open, update},
};
use crate::{
    Config, ConnId, Event, NextHop, PeerKey,
    message::{Message, keepalive},
    policy::{Action, Change, Community, Match, PeerRules, Rule, RuleName},
    view::{Export, RefusedBy, Standing},
};

const ROUTE: &str = "10.1.0.0/24";

/// A single rule, for routes that lead out of an interface whose name fits.
fn rule(pattern: &str, action: Action) -> PeerRules {
    let matches = Match { interface: Some(pattern.into()), ..Match::default() };
    PeerRules::both([Rule { name: RuleName::new("by interface"), matches, action }].into_iter().collect())
}

fn tell(script: &mut Script, interface: Option<&str>) {
    let next_hop = NextHop { address: ip("10.0.0.2"), link_of: None };
    script.speaker.handle(Event::Interface { next_hop, interface: interface.map(Arc::from) }, script.now);
    script.drain();
}

fn standing(script: &Script) -> Standing {
    script.explain(ROUTE).expect("it is in the Adj-RIB-In").paths[0].standing
}

const REFUSED: Standing = Standing::Refused(RefusedBy::Filter);

#[test]
fn a_route_comes_in_or_not_by_the_interface_of_its_next_hop_as_it_is_now() {
    let mut config = config(64512);
    config.peers[0].import = rule("eth*", Action::Reject);
    let mut script = Script::established(config);
    script.give(&update(&[], &mandatory(&[]), &[ROUTE]));
    assert_eq!(standing(&script), Standing::Best, "no interface is known");
    tell(&mut script, Some("eth0"));
    assert_eq!(standing(&script), REFUSED);
    let shown = script.explain(ROUTE).unwrap().paths.remove(0);
    assert_eq!(shown.rule, Some(RuleName::new("by interface")));
    tell(&mut script, Some("ens3"));
    assert_eq!(standing(&script), Standing::Best);
    tell(&mut script, Some("eth1"));
    assert_eq!(standing(&script), REFUSED);
    // One that comes now is judged at the door.
    script.give(&update(&[], &mandatory(&[]), &["10.2.0.0/24"]));
    assert_eq!(script.explain("10.2.0.0/24").unwrap().paths[0].standing, REFUSED);
    tell(&mut script, None);
    assert_eq!(standing(&script), Standing::Best);

    script.give(&update(&[ROUTE, "10.2.0.0/24"], &[], &[]));
    script.drain();
    script.speaker.advance(script.now);
    assert_eq!(script.speaker.sizes(), (0, 0, 0), "nothing stays behind");
}

#[test]
fn a_rule_that_comes_to_ask_is_told_what_is_known_and_one_that_goes_leaves_nothing() {
    let mut config = config(64512);
    let plain = config.clone();
    config.peers[0].import = rule("eth0", Action::Reject);
    let mut script = Script::established(plain.clone());
    script.give(&update(&[], &mandatory(&[]), &[ROUTE]));
    tell(&mut script, Some("eth0"));
    assert_eq!((standing(&script), script.speaker.sizes().1), (Standing::Best, 1), "nobody asks");
    for _ in 0..2 {
        script.speaker.configure(config.clone(), script.now);
        script.drain();
        assert_eq!(standing(&script), REFUSED);
        script.speaker.configure(plain.clone(), script.now);
        script.drain();
        assert_eq!((standing(&script), script.speaker.sizes().1), (Standing::Best, 1));
    }
}

/// Ours is AS 64512; routes come from AS 65001 and go to AS 65003, under this rule.
fn to_another(export: PeerRules) -> (Script, ConnId) {
    let mut config: Config = config(65001);
    let mut other = peer("10.0.0.3", 65003);
    other.dial = crate::Dial::Never;
    other.export = export;
    config.peers.push(other.clone());
    let mut script = Script::established(config.clone());
    let conn = script.accept_from("10.0.0.3");
    let mut theirs = config.clone();
    theirs.peers = vec![other];
    let mut open = their_open(&theirs);
    open.identifier = Ipv4Addr::new(10, 0, 0, 3);
    script.give_on(conn, &open.encode());
    script.give_on(conn, &keepalive());
    script.take_on(conn);
    (script, conn)
}

fn sent(script: &Script) -> Export {
    let other = PeerKey { address: ip("10.0.0.3"), port: 179 };
    let view = script.explain(ROUTE).expect("somebody announces it");
    view.sent.iter().find(|sent| sent.peer == other).expect("a session").export
}

#[test]
fn a_route_goes_out_or_not_by_the_interface_of_its_next_hop_as_it_is_now() {
    let (mut script, conn) = to_another(rule("eth0", Action::Reject));
    script.give(&update(&[], &mandatory(&[65001]), &[ROUTE]));
    script.take_on(conn);
    assert_eq!(sent(&script), Export::Sent);
    tell(&mut script, Some("eth0"));
    assert_eq!(script.take_on(conn).len(), 1, "a withdrawal");
    assert_eq!(sent(&script), Export::Filter);
    tell(&mut script, Some("eth1"));
    assert_eq!(script.take_on(conn).len(), 1, "and it is back");
    assert_eq!(sent(&script), Export::Sent);
    tell(&mut script, Some("eth2"));
    assert_eq!(script.take_on(conn).len(), 0, "nothing that anybody could see has changed");
    assert!(script.speaker.best(prefix(ROUTE)).is_some());
}

#[test]
fn what_a_rule_does_to_a_route_follows_its_interface() {
    let tag = Action::Accept([Change::AddCommunity(Community::Standard(7))].into());
    let (mut script, conn) = to_another(rule("eth0", tag));
    script.give(&update(&[], &mandatory(&[65001]), &[ROUTE]));
    script.take_on(conn);
    // Type COMMUNITIES, four octets, 0:7.
    let tagged = |messages: &[Message]| match messages {
        [Message::Update(body)] => body.windows(6).any(|octets| octets == [8, 4, 0, 0, 0, 7]),
        other => panic!("{other:?}"),
    };
    tell(&mut script, Some("eth0"));
    assert!(tagged(&script.take_on(conn)));
    tell(&mut script, Some("eth1"));
    assert!(!tagged(&script.take_on(conn)));
}

const ROUTES: [&str; 3] = ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"];
const HOPS: [[u8; 4]; 2] = [[10, 0, 0, 2], [10, 0, 0, 8]];
const INTERFACES: [Option<&str>; 3] = [None, Some("eth0"), Some("ens3")];

#[derive(Clone, Copy, Debug)]
enum Step {
    Announce { route: usize, hop: usize },
    Withdraw { route: usize },
    Interface { hop: usize, interface: usize },
    Rules { import: bool, export: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3usize, 0..2usize).prop_map(|(route, hop)| Step::Announce { route, hop }),
        (0..3usize).prop_map(|route| Step::Withdraw { route }),
        (0..2usize, 0..3usize).prop_map(|(hop, interface)| Step::Interface { hop, interface }),
        any::<(bool, bool)>().prop_map(|(import, export)| Step::Rules { import, export }),
    ]
}

fn take(script: &mut Script, known: &mut [usize; 2], step: Step) {
    match step {
        Step::Announce { route, hop } => {
            let mut attributes = mandatory(&[65001]);
            attributes[2] = super::script::attribute(crate::attr::flag::TRANSITIVE, 3, &HOPS[hop]);
            script.give(&update(&[], &attributes, &[ROUTES[route]]));
        }
        Step::Withdraw { route } => script.give(&update(&[ROUTES[route]], &[], &[])),
        Step::Interface { hop, interface } => known[hop] = interface,
        Step::Rules { import, export } => {
            let config = asking(import, export);
            script.speaker.configure(config, script.now);
            script.drain();
        }
    }
    // The driver answers for what is watched; a next hop that comes is answered for at once.
    for (hop, interface) in HOPS.iter().zip(*known) {
        let next_hop = NextHop { address: Ipv4Addr::from(*hop).into(), link_of: None };
        let interface = INTERFACES[interface].map(Arc::from);
        script.speaker.handle(Event::Interface { next_hop, interface }, script.now);
        script.drain();
    }
}

/// What a peer has yet to hear of keeps its route's number.
fn everything_heard(script: &mut Script, conn: ConnId) {
    for _ in 0..2 {
        script.take_on(conn);
        script.take();
        script.speaker.advance(script.now);
    }
}

/// Both peers, with rules that ask or without any.
fn asking(import: bool, export: bool) -> Config {
    let mut config = config(65001);
    let mut other = peer("10.0.0.3", 65003);
    other.dial = crate::Dial::Never;
    if import {
        config.peers[0].import = rule("eth*", Action::Reject);
    }
    if export {
        other.export = rule("ens*", Action::Reject);
    }
    config.peers.push(other);
    config
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_happened_before_rules_and_interfaces_as_they_are_decide(steps in proptest::collection::vec(step(), 0..24)) {
        let (mut script, conn) = to_another(PeerRules::default());
        let mut known = [0; 2];
        let (mut announced, mut rules) = ([None; 3], (false, false));
        for step in steps {
            take(&mut script, &mut known, step);
            script.take_on(conn);
            match step {
                Step::Announce { route, hop } => announced[route] = Some(hop),
                Step::Withdraw { route } => announced[route] = None,
                Step::Rules { import, export } => rules = (import, export),
                Step::Interface { .. } => {}
            }
        }
        let held = |script: &Script| ROUTES.map(|route| {
            let view = script.explain(route)?;
            let other = view.sent.iter().find(|sent| sent.peer.address == ip("10.0.0.3"))?;
            Some((view.paths[0].standing, other.export, other.rule.clone()))
        });

        let (mut scratch, to) = to_another(PeerRules::default());
        let (import, export) = rules;
        take(&mut scratch, &mut known, Step::Rules { import, export });
        for (route, hop) in announced.iter().enumerate() {
            if let Some(hop) = *hop {
                take(&mut scratch, &mut known, Step::Announce { route, hop });
            }
        }
        everything_heard(&mut script, conn);
        everything_heard(&mut scratch, to);
        prop_assert_eq!(held(&script), held(&scratch));
        prop_assert_eq!(script.speaker.sizes(), scratch.speaker.sizes());

        for route in 0..ROUTES.len() {
            take(&mut script, &mut known, Step::Withdraw { route });
        }
        everything_heard(&mut script, conn);
        prop_assert_eq!(script.speaker.sizes(), (0, 0, 0));
    }
}
