//! IPv4 routes with IPv6 next hops (RFC 8950), and next hops of two addresses (RFC 2545 §3).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    network::{Network, asn, ip, peer, prefix, secs},
    script::{Script, config, mandatory, update},
};
use crate::{
    Config, Dial, Event, ExportRule, Family, NextHopMode, Originated, WellKnown, attr::code,
    message::Message, view::Export,
};

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn address(node: usize) -> String {
    format!("fd00::{}", node + 1)
}

fn block(node: usize) -> String {
    format!("172.16.{node}.0/26")
}

/// Node 0 reflects between the others. `extended`: which of them offer it; the reflector does to all.
fn start(extended: [bool; 2]) -> Network {
    let mut network = Network::new(3);
    for node in 0..3 {
        network.add(&address(node));
    }
    for node in 0..3 {
        let mut config = Config::new(asn(64512), Ipv4Addr::new(10, 0, 0, node as u8 + 1));
        config.originated.push(Originated { prefix: prefix(&block(node)), communities: Vec::new() });
        config.export = ExportRule { pools: Vec::new(), transit: true, ..ExportRule::default() };
        for other in if node == 0 { vec![1, 2] } else { vec![0] } {
            let mut peer = peer(&address(other), 64512);
            peer.rr_client = node == 0;
            peer.dial = if node == 0 { Dial::First } else { Dial::Never };
            peer.extended_next_hop = node == 0 || extended[node - 1];
            config.peers.push(peer);
        }
        network.start(node, config);
    }
    network.run(secs(3));
    network
}

#[test]
fn ipv4_routes_cross_an_ipv6_session_with_its_addresses_as_next_hops_and_leave_again() {
    let mut network = start([true, true]);
    assert_eq!(network.next_hop(1, &block(0)), Some(ip(&address(0))));
    assert_eq!(network.next_hop(0, &block(1)), Some(ip(&address(1))));
    assert_eq!(network.next_hop(1, &block(2)), Some(ip(&address(2))), "reflection keeps it");
    let mut config = network.speaker(2).config().clone();
    config.originated.clear();
    network.configure(2, config);
    network.run(secs(1));
    assert_eq!(network.next_hop(1, &block(2)), None);
    assert!(network.speaker(1).peers()[0].negotiated.as_ref().unwrap().extended_next_hop);
}

#[test]
fn whoever_has_not_agreed_to_it_gets_no_such_route_and_is_named() {
    let mut network = start([true, false]);
    assert_eq!(network.next_hop(2, &block(1)), None);
    let sent = network.speaker(0).explain(prefix(&block(1))).unwrap().sent;
    assert_eq!(
        sent.iter().find(|sent| sent.peer.address == ip(&address(2))).unwrap().export,
        Export::NextHopFamily
    );
    let own = network.speaker(0).explain(prefix(&block(0))).unwrap().sent;
    let exports =
        [1, 2].map(|n| own.iter().find(|sent| sent.peer.address == ip(&address(n))).unwrap().export);
    assert_eq!(exports, [Export::Sent, Export::NoNextHop], "no IPv4 address to name");

    // With an IPv4 address the old one is served by it, if the reflector is to stand in.
    let mut config = network.speaker(0).config().clone();
    config.next_hop_v4 = Some(Ipv4Addr::new(10, 0, 0, 1));
    config.peers[1].next_hop = NextHopMode::Self_;
    network.configure(0, config);
    network.run(secs(2));
    assert_eq!(network.next_hop(2, &block(1)), Some(ip("10.0.0.1")));
    assert_eq!(network.next_hop(1, &block(0)), Some(ip(&address(0))), "the session's address goes before");
}

/// The lengths of the next hops in the MP_REACH attributes that the speaker sends.
fn next_hop_lengths(script: &mut Script) -> Vec<u8> {
    let lengths = script.take().into_iter().filter_map(|message| {
        let Message::Update(body) = message else { return None };
        let attributes = body.get(4..)?;
        // MP_REACH comes first, with a length of two octets.
        (attributes.get(1) == Some(&code::MP_REACH)).then(|| attributes[7])
    });
    lengths.collect()
}

/// Behaviour 37.
#[test]
fn an_own_next_hop_has_the_link_local_address_beside_it_where_the_peer_is_on_the_link() {
    let own = |on_link: bool| {
        let mut config = config(64512);
        config.next_hop_v6 = Some("2001:db8::1".parse().unwrap());
        for prefix in ["2001:db8:1::/48", "2001:db8:2::/48"] {
            let communities = if prefix.contains(":2:") { vec![WellKnown::NO_EXPORT] } else { Vec::new() };
            config.originated.push(Originated { prefix: prefix.parse().unwrap(), communities });
        }
        let open = super::script::their_open(&config);
        let mut script = Script::connected(config);
        if on_link {
            let (conn, link_local) = (script.conn, LINK_LOCAL);
            script.speaker.handle(Event::OnLink { conn, link_local }, script.now);
        }
        script.give(&open.encode());
        script.give(&crate::message::keepalive());
        next_hop_lengths(&mut script)
    };
    assert_eq!(own(true), [32, 32]);
    assert_eq!(own(false), [16, 16]);
}

/// IPv4 over IPv4 is what it was, whatever both sides could do.
#[test]
fn over_ipv4_nothing_changes() {
    let mut config = config(64512);
    config.peers[0].extended_next_hop = true;
    config.originated.push(Originated { prefix: prefix("10.9.0.0/16"), communities: Vec::new() });
    let open = super::script::their_open(&config);
    let mut script = Script::connected(config);
    script.give(&open.encode());
    script.give(&crate::message::keepalive());
    assert!(next_hop_lengths(&mut script).is_empty());
    script.give(&update(&[], &mandatory(&[]), &["10.1.0.0/16"]));
    assert_eq!(script.explain("10.1.0.0/16").unwrap().paths[0].next_hop.unwrap().address, ip("10.0.0.2"));
    assert!(script.view().negotiated.unwrap().families.contains(&Family::Ipv4Unicast));
}
