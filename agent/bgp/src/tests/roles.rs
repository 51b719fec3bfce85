//! Roles between ASes, and the attribute that keeps routes from leaking (RFC 9234). Who may be what to whom is tested
//! where it is negotiated.

use super::{
    network::{asn, ip, peer, prefix},
    script::{Script, attribute, config, mandatory, their_open, update, with},
};
use crate::{
    Dial, NextHopMode, Originated, Role,
    attr::{
        code,
        flag::{OPTIONAL, PARTIAL, TRANSITIVE},
        parse::{Reading, parse},
    },
    message::{Message, keepalive, open::OfferedRole},
    view::{Export, RefusedBy, SessionState, Standing},
};

const THEM: u32 = 64513;
const A: &str = "10.1.0.0/16";
const ROLES: [Role; 5] =
    [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer];

fn otc(number: u32) -> Vec<u8> {
    attribute(OPTIONAL | TRANSITIVE, code::ONLY_TO_CUSTOMERS, &number.to_be_bytes())
}

/// Up, with this role of ours.
fn script(role: Option<Role>) -> Script {
    let mut config = config(THEM);
    config.peers[0].role = role;
    config.originated.push(Originated { prefix: prefix("10.9.0.0/16"), communities: Vec::new() });
    let mut open = their_open(&config);
    open.capabilities.role =
        role.map_or(OfferedRole::None, |role| OfferedRole::One(role.counterpart() as u8));
    let mut script = Script::connected(config);
    script.give(&open.encode());
    script.give(&keepalive());
    assert_eq!(script.state(), SessionState::Established);
    script
}

/// What becomes of a route that the peer sends with this attribute, and what the attribute says afterwards.
fn received(role: Option<Role>, sent: Option<u32>) -> (Standing, Option<u32>) {
    let mut script = script(role);
    let attributes = match sent {
        Some(number) => with(mandatory(&[THEM]), otc(number)),
        None => mandatory(&[THEM]),
    };
    script.give(&update(&[], &attributes, &[A]));
    let path = script.explain(A).unwrap().paths.remove(0);
    (path.standing, path.attributes.only_to_customers)
}

/// RFC 9234 §5, the ingress procedure, each case of it.
#[test]
fn a_leaked_route_is_refused_and_one_from_above_or_beside_is_marked() {
    let leak = Standing::Refused(RefusedBy::RouteLeak);
    for role in [Role::Provider, Role::RouteServer] {
        assert_eq!(received(Some(role), Some(THEM)), (leak, Some(THEM)), "{role:?}");
        assert_eq!(received(Some(role), None), (Standing::Best, None), "{role:?}");
    }
    for role in [Role::Customer, Role::RouteServerClient] {
        assert_eq!(received(Some(role), Some(7)), (Standing::Best, Some(7)), "{role:?}");
        assert_eq!(received(Some(role), None), (Standing::Best, Some(THEM)), "{role:?}");
    }
    assert_eq!(received(Some(Role::Peer), Some(THEM)), (Standing::Best, Some(THEM)));
    assert_eq!(received(Some(Role::Peer), Some(7)), (leak, Some(7)));
    assert_eq!(received(Some(Role::Peer), None), (Standing::Best, Some(THEM)));
    for sent in [None, Some(7)] {
        assert_eq!(received(None, sent), (Standing::Best, sent), "without a role it is passed on as it is");
    }
}

/// A route that was good and comes again as a leak is no longer there for anybody.
#[test]
fn a_leak_replaces_what_was_announced_before() {
    let mut script = script(Some(Role::Provider));
    script.give(&update(&[], &mandatory(&[THEM]), &[A]));
    script.give(&update(&[], &with(mandatory(&[THEM]), otc(5)), &[A]));
    assert!(script.speaker.best(prefix(A)).is_none());
}

/// Our own route as it goes out: what the attribute says.
fn announced(role: Option<Role>) -> Option<u32> {
    let mut script = script(role);
    let bodies = script.take().into_iter().filter_map(|message| match message {
        Message::Update(body) if body.len() > 4 && body[..2] == [0, 0] && body[2..4] != [0, 6] => Some(body),
        _ => None,
    });
    let bodies: Vec<_> = bodies.collect();
    assert_eq!(bodies.len(), 1, "{role:?}");
    let length = usize::from(u16::from_be_bytes([bodies[0][2], bodies[0][3]]));
    let reading = Reading {
        families: crate::config::PerFamily::both(true),
        ebgp: true,
        four_octet: true,
        add_path: Default::default(),
        extended_next_hop: false,
    };
    parse(&bodies[0][4..4 + length], reading).unwrap().only_to_customers
}

/// RFC 9234 §5, the egress procedure.
#[test]
fn what_goes_down_or_beside_is_marked_and_what_is_marked_goes_down_only() {
    for role in ROLES {
        let marks = matches!(role, Role::Provider | Role::RouteServer | Role::Peer);
        assert_eq!(announced(Some(role)), marks.then_some(64512), "{role:?}");
    }
    assert_eq!(announced(None), None);

    for role in ROLES.into_iter().map(Some).chain([None]) {
        // From another peer, without a role, and marked by somebody.
        let mut script = script(role);
        let mut config = script.speaker.config().clone();
        let mut other = peer("10.0.0.3", 64514);
        other.dial = Dial::Never;
        config.peers.push(other);
        script.speaker.configure(config, script.now);
        let first = script.conn;
        script.conn = script.accept_from("10.0.0.3");
        let mut open = their_open(&super::script::config(64514));
        open.identifier = std::net::Ipv4Addr::new(10, 0, 0, 3);
        script.give(&open.encode());
        script.give(&keepalive());
        script.give(&update(&[], &with(mandatory(&[64514]), otc(7)), &[A]));
        let sent = script.explain(A).unwrap().sent;
        let to_them = sent.iter().find(|sent| sent.peer.address == ip("10.0.0.2")).unwrap().export;
        let kept = matches!(role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
        assert_eq!(to_them == Export::OnlyToCustomers, kept, "{role:?} {to_them:?}");
        let passed = script
            .take_on(first)
            .into_iter()
            .any(|message| matches!(message, Message::Update(body) if body.windows(7).any(|w| w == otc(7))));
        assert_eq!(passed, !kept, "as it was, by whoever set it");
    }
}

/// Within the AS the attribute goes along, and a role means nothing.
#[test]
fn within_the_as_it_is_passed_on() {
    let mut config = config(64512);
    config.peers[0].role = Some(Role::Provider);
    let mut script = Script::established(config);
    script.give(&update(&[], &with(mandatory(&[THEM]), otc(7)), &[A]));
    let path = script.explain(A).unwrap().paths.remove(0);
    assert_eq!((path.standing, path.attributes.only_to_customers), (Standing::Best, Some(7)));
}

/// Behaviour 30; RFC 9234 §5: another length than four makes the routes withdrawn. A Partial bit is no fault.
#[test]
fn a_malformed_one_costs_the_routes_and_not_the_session() {
    for (flags, value, there) in [
        (OPTIONAL | TRANSITIVE, &[0, 0, 0, 7][..], true),
        (OPTIONAL | TRANSITIVE | PARTIAL, &[0, 0, 0, 7], true),
        (OPTIONAL | TRANSITIVE, &[0, 0, 7], false),
        (OPTIONAL | TRANSITIVE, &[0, 0, 0, 0, 7], false),
        (OPTIONAL | TRANSITIVE, &[], false),
        (OPTIONAL, &[0, 0, 0, 7], false),
        (TRANSITIVE, &[0, 0, 0, 7], false),
    ] {
        let mut script = script(None);
        let bad = attribute(flags, code::ONLY_TO_CUSTOMERS, value);
        script.give(&update(&[], &with(mandatory(&[THEM]), bad), &[A]));
        assert_eq!(script.explain(A).is_some(), there, "{flags:#x} {value:?}");
        assert_eq!(script.state(), SessionState::Established);
    }
}

/// OPEN says the role: another one needs another session. What is asked of the peer's OPEN, too.
#[test]
fn a_changed_role_opens_the_session_anew() {
    let changes: [fn(&mut crate::PeerConfig); 3] = [
        |peer| peer.role = Some(Role::Peer),
        |peer| peer.strict_role = true,
        |peer| peer.extended_next_hop = true,
    ];
    for change in changes {
        let mut script = script(Some(Role::Provider));
        let mut config = script.speaker.config().clone();
        change(&mut config.peers[0]);
        script.speaker.configure(config, script.now);
        script.drain();
        assert_eq!(script.notification().0, 6);
    }
    let mut script = script(Some(Role::Provider));
    let mut config = script.speaker.config().clone();
    config.peers[0].next_hop = NextHopMode::Self_;
    script.speaker.configure(config, script.now);
    script.drain();
    assert_eq!(script.state(), SessionState::Established);
    assert_eq!(script.view().remote_as, asn(THEM));
}
