//! Route reflection and the rules between ASes, end to end over several speakers.

use std::net::Ipv4Addr;

use super::network::{Network, asn, ip, peer, prefix, secs};
use crate::{
    Config, ExportRule, NextHopMode, Originated, PeerConfig, PoolRule, WellKnown,
    policy::{Action, Change, Community, Match, Operator, PeerRules, PrefixMatch, Rule, RuleName, Rules},
    view::{Export, LostAt, RefusedBy, Standing},
};

const POOL: &str = "172.16.0.0/16";

pub fn address(node: usize) -> String {
    format!("10.0.0.{}", node + 1)
}

/// The block that a node owns.
pub fn block(node: usize) -> String {
    format!("172.16.{node}.0/26")
}

pub struct Lab {
    pub network: Network,
    pub configs: Vec<Config>,
}

impl Lab {
    /// Nodes with these AS numbers, each with its block, all exporting the pool.
    pub fn new(numbers: &[u32]) -> Lab {
        let mut network = Network::new(9);
        let configs = numbers.iter().enumerate().map(|(node, &number)| {
            network.add(&address(node));
            let mut config = Config::new(asn(number), Ipv4Addr::new(10, 0, 0, node as u8 + 1));
            config.originated.push(Originated { prefix: prefix(&block(node)), communities: Vec::new() });
            let pools = vec![PoolRule { prefix: prefix(POOL), export: true }];
            config.export = ExportRule { pools, transit: false, ..ExportRule::default() };
            config
        });
        let configs = configs.collect();
        Lab { network, configs }
    }

    /// A session between two nodes; the first dials, and treats the other as its client if told so.
    pub fn link(&mut self, from: usize, to: usize, client: bool) -> &mut Lab {
        let numbers = [from, to].map(|node| self.configs[node].local_as.get());
        let mut there = peer(&address(to), numbers[1]);
        there.rr_client = client;
        let mut back = peer(&address(from), numbers[0]);
        back.dial = crate::Dial::Never;
        self.configs[from].peers.push(there);
        self.configs[to].peers.push(back);
        self
    }

    pub fn peer_of(&mut self, node: usize, other: usize) -> &mut PeerConfig {
        let of = ip(&address(other));
        self.configs[node].peers.iter_mut().find(|peer| peer.address == of).unwrap()
    }

    pub fn apply(&mut self) {
        for (node, config) in self.configs.iter().enumerate() {
            self.network.configure(node, config.clone());
        }
        self.network.run(secs(8));
    }

    pub fn knows(&self, node: usize, of: usize) -> bool {
        self.network.nodes[node].best.contains_key(&prefix(&block(of)))
    }

    pub fn path(&mut self, node: usize, of: usize) -> crate::view::PathView {
        let route = self.network.speaker(node).best(prefix(&block(of)));
        route.unwrap_or_else(|| panic!("{node} has no path to {of}")).best
    }

    pub fn export(&mut self, node: usize, of: usize, to: usize) -> Export {
        let view = self.network.speaker(node).explain(prefix(&block(of))).unwrap();
        let to = ip(&address(to));
        view.sent.iter().find(|sent| sent.peer.address == to).unwrap().export
    }
}

/// Behaviours 38, 39, 42 and 49.
#[test]
fn a_reflector_passes_clients_routes_to_all_and_others_to_clients_only() {
    // 0 reflects; 1 and 2 are clients, 3 and 4 are not, 5 is another AS.
    let mut lab = Lab::new(&[64512, 64512, 64512, 64512, 64512, 64999]);
    lab.link(0, 1, true).link(0, 2, true).link(0, 3, false).link(0, 4, false).link(0, 5, false);
    lab.apply();
    for (node, of, expected) in [
        (2, 1, true),
        (3, 1, true),
        (5, 1, true),
        (1, 3, true),
        (4, 3, false),
        (5, 3, true),
        (1, 5, true),
        (3, 5, true),
        (1, 0, true),
        (3, 0, true),
    ] {
        assert_eq!(lab.knows(node, of), expected, "{node} knows {of}'s block");
    }
    let reflected = lab.path(2, 1);
    assert_eq!(reflected.attributes.originator_id, Some(Ipv4Addr::new(10, 0, 0, 2)));
    assert_eq!(reflected.attributes.cluster_list, [Ipv4Addr::new(10, 0, 0, 1)]);
    assert_eq!(reflected.next_hop.unwrap().address, ip(&address(1)));
    assert_eq!(reflected.attributes.local_pref, Some(100));
    assert!(lab.path(2, 0).attributes.cluster_list.is_empty());
    assert_eq!(lab.export(0, 3, 4), Export::NotReflected);
    assert_eq!(lab.export(0, 1, 1), Export::FromThisPeer);
    assert_eq!(lab.export(0, 1, 2), Export::Sent);
    // A route is not sent back to where it came from.
    let view = lab.network.speaker(1).explain(prefix(&block(1))).unwrap();
    assert_eq!(view.paths.len(), 1);
    assert_eq!(lab.network.view(1, &address(0)).counters.prefixes_received, 5);
}

#[test]
fn prefixes_of_services_are_announced_by_many_and_single_addresses_in_them_are_passed_on() {
    // 0 reflects; 1 and 2 are clients; 3 is a switch of another AS.
    let mut lab = Lab::new(&[64512, 64512, 64512, 64999]);
    lab.link(0, 1, true).link(0, 2, true).link(0, 3, false);
    let services = prefix("10.96.0.0/12");
    for node in [0, 1] {
        lab.configs[node].services = vec![services];
    }
    // What has a pod behind it here alone.
    lab.configs[2].hosts = vec![prefix("10.97.1.1/32").into(), prefix("192.0.2.1/32").into()];
    lab.apply();
    let knows = |lab: &Lab, node: usize, of: &str| lab.network.nodes[node].best.contains_key(&prefix(of));
    for node in [2, 3] {
        assert!(knows(&lab, node, "10.96.0.0/12"), "{node}");
    }
    // 0 has the prefix itself, and is not asked whether others' routes in it may pass.
    assert!(!knows(&lab, 3, "10.97.1.1/32"));
    lab.configs[0].export.services = vec![services];
    lab.apply();
    assert!(knows(&lab, 1, "10.97.1.1/32") && knows(&lab, 3, "10.97.1.1/32"));
    assert!(!knows(&lab, 3, "192.0.2.1/32"), "nobody becomes transit for the rest");
    // They go one by one: as long as one node has it, it is there.
    lab.configs[0].services.clear();
    lab.apply();
    assert!(knows(&lab, 2, "10.96.0.0/12"));
    lab.configs[1].services.clear();
    lab.apply();
    assert!(!knows(&lab, 2, "10.96.0.0/12"));
}

/// Calico's prefixAdvertisements.
#[test]
fn communities_of_a_prefix_stand_on_own_routes_and_on_those_passed_on_and_let_nothing_out() {
    // 0 reflects; 1 and 2 are clients; 3 is a switch of another AS.
    let mut lab = Lab::new(&[64512, 64512, 64512, 64999]);
    lab.link(0, 1, true).link(0, 2, true).link(0, 3, false);
    lab.configs[1].hosts = vec![prefix("192.0.2.1/32").into()];
    let amend = |name: &str, of: &str, communities: &[Community]| Rule {
        name: RuleName::new(name),
        matches: Match {
            prefix: Some(PrefixMatch { prefix: prefix(of), operator: Operator::In, lengths: None }),
            ..Match::default()
        },
        action: Action::Amend(communities.iter().map(|community| Change::AddCommunity(*community)).collect()),
    };
    let (standard, large) = (Community::Standard(64512 << 16 | 7), Community::Large([64512, 1, 2]));
    let rules = Rules::from_iter([amend("all", "0.0.0.0/0", &[standard, large])]);
    for other in [1, 2, 3] {
        lab.peer_of(0, other).export = PeerRules::both(rules.clone());
    }
    // A rule that decides comes first, and then nobody amends.
    let accept = Rule {
        name: RuleName::new("first"),
        matches: Match {
            prefix: Some(PrefixMatch { prefix: prefix(&block(0)), operator: Operator::Equal, lengths: None }),
            ..Match::default()
        },
        action: Action::Accept(Box::default()),
    };
    let after = amend("all", "0.0.0.0/0", &[standard]);
    lab.peer_of(0, 2).export = PeerRules::both(Rules::from_iter([accept, after]));
    lab.apply();
    let communities = |lab: &mut Lab, node: usize, of: usize| {
        let attributes = lab.path(node, of).attributes;
        (attributes.communities, attributes.large_communities)
    };
    let both = (vec!["64512:7".to_owned()], vec!["64512:1:2".to_owned()]);
    assert_eq!(communities(&mut lab, 3, 0), both, "its own");
    assert_eq!(communities(&mut lab, 3, 1), both, "passed on");
    assert_eq!(communities(&mut lab, 1, 2), both, "reflected");
    assert_eq!(communities(&mut lab, 2, 1).0, ["64512:7"]);
    assert_eq!(communities(&mut lab, 2, 0), (Vec::new(), Vec::new()), "a filter has decided");
    // What may not leave does not leave for its communities.
    assert!(!lab.network.nodes[3].best.contains_key(&prefix("192.0.2.1/32")));
    // And they are no policy of an eBGP peer (RFC 8212).
    lab.configs[0].ebgp_requires_policy = true;
    lab.apply();
    assert!(!lab.knows(3, 0) && lab.knows(1, 0));
}

/// Behaviours 41 and 49.
#[test]
fn between_ases_the_path_grows_by_one_and_what_is_ours_stays_here() {
    // 1 is a client of 0, which speaks to AS 64999 at 2, which speaks to AS 65001 at 3.
    let mut lab = Lab::new(&[64512, 64512, 64999, 65001]);
    lab.link(0, 1, true).link(0, 2, false).link(2, 3, false);
    lab.apply();
    let there = lab.path(2, 1);
    assert_eq!(
        (there.attributes.as_path.as_str(), there.next_hop.unwrap().address),
        ("64512", ip(&address(0)))
    );
    assert_eq!((there.attributes.originator_id, there.attributes.cluster_list.len()), (None, 0));
    assert_eq!(there.attributes.local_pref, None);
    let farther = lab.path(3, 1);
    assert_eq!(farther.attributes.as_path, "64999 64512");
    assert_eq!(farther.next_hop.unwrap().address, ip(&address(2)));
    let back = lab.path(1, 3);
    assert_eq!(back.attributes.as_path, "64999 65001");
    assert_eq!(back.next_hop.unwrap().address, ip(&address(2)), "unchanged within the AS");
}

#[test]
fn next_hop_self_and_keep_are_obeyed() {
    let mut lab = Lab::new(&[64512, 64512, 64999]);
    lab.link(0, 1, true).link(0, 2, false);
    lab.peer_of(0, 1).next_hop = NextHopMode::Self_;
    lab.peer_of(0, 2).next_hop = NextHopMode::Keep;
    lab.apply();
    assert_eq!(lab.path(1, 2).next_hop.unwrap().address, ip(&address(0)));
    assert_eq!(lab.path(2, 1).next_hop.unwrap().address, ip(&address(1)));
    assert_eq!(lab.path(2, 0).next_hop.unwrap().address, ip(&address(0)));
}

/// Behaviour 38: without a reset, in both directions.
#[test]
fn a_client_that_becomes_a_non_client_is_sent_the_withdrawals_and_back() {
    let mut lab = Lab::new(&[64512; 4]);
    lab.link(0, 1, true).link(0, 2, true).link(0, 3, false);
    lab.apply();
    assert!(lab.knows(3, 1) && lab.knows(1, 3) && lab.knows(2, 1));
    lab.peer_of(0, 1).rr_client = false;
    lab.apply();
    assert!(!lab.knows(3, 1) && !lab.knows(1, 3));
    assert!(lab.knows(2, 1) && lab.knows(1, 2), "2 is a client still");
    lab.peer_of(0, 1).rr_client = true;
    lab.apply();
    assert!(lab.knows(3, 1) && lab.knows(1, 3));
    for other in 1..4 {
        assert_eq!(lab.network.view(0, &address(other)).established_count, 1);
    }
}

/// Behaviours 40 and 41: two reflectors, with one cluster id and with two.
#[test]
fn two_reflectors_serve_their_clients_and_loops_end_at_the_cluster_list() {
    for same in [true, false] {
        let mut lab = Lab::new(&[64512; 4]);
        // 0 and 1 reflect for 2 and 3, and are clients to nobody.
        for reflector in [0, 1] {
            lab.link(reflector, 2, true).link(reflector, 3, true);
            let id = Ipv4Addr::new(244, 0, 0, if same { 1 } else { reflector as u8 + 1 });
            lab.configs[reflector].cluster_id = Some(id);
        }
        lab.link(0, 1, false);
        lab.apply();
        let view = lab.network.speaker(3).explain(prefix(&block(2))).unwrap();
        assert_eq!(view.paths.len(), 2, "one from each reflector");
        assert_eq!(view.paths[0].standing, Standing::Best);
        assert_eq!(view.paths[1].standing, Standing::Lost(LostAt::PeerAddress));
        let between = lab.network.speaker(0).explain(prefix(&block(2))).unwrap();
        let other = between.paths.iter().find(|path| !path.attributes.cluster_list.is_empty()).unwrap();
        let expected = if same {
            Standing::Refused(RefusedBy::ClusterLoop)
        } else {
            Standing::Lost(LostAt::ClusterListLength)
        };
        assert_eq!(other.standing, expected, "same cluster id: {same}");
        // One reflector goes, and nobody is cut off.
        lab.network.kill(0, true);
        lab.network.run(secs(200));
        assert_eq!(lab.network.next_hop(3, &block(2)), Some(ip(&address(2))));
    }
}

/// Behaviour 42; RFC 4456 §10: clients that have sessions with each other need no reflection among them.
#[test]
fn with_client_to_client_off_a_client_reaches_all_but_the_clients_of_its_cluster() {
    // 0 reflects: 1 and 2 in its own cluster, 3 and 4 in another; 5 is no client, 6 is another AS.
    let mut lab = Lab::new(&[64512, 64512, 64512, 64512, 64512, 64512, 64999]);
    for client in 1..=4 {
        lab.link(0, client, true);
    }
    lab.link(0, 5, false).link(0, 6, false);
    for client in [3, 4] {
        lab.peer_of(0, client).cluster_id = Some(Ipv4Addr::new(244, 0, 0, 2));
    }
    let same = |a: usize, b: usize| (1..=2).contains(&a) == (1..=2).contains(&b);
    for on in [true, false, true, false] {
        lab.configs[0].client_to_client = on;
        lab.apply();
        for from in 1..=6 {
            for to in (1..=6).filter(|&to| to != from) {
                let both_clients = from <= 4 && to <= 4;
                let expected = on || !(both_clients && same(from, to));
                assert_eq!(lab.knows(to, from), expected, "{on}: {to} knows {from}'s block");
                let export = lab.export(0, from, to);
                assert_eq!(export == Export::ClientToClient, !expected, "{on}: {from} to {to}: {export:?}");
            }
            assert!(lab.knows(from, 0) && lab.knows(0, from));
        }
    }
    // A client that moves to the other cluster is told what it missed, and the others are told of what is gone.
    lab.peer_of(0, 2).cluster_id = Some(Ipv4Addr::new(244, 0, 0, 2));
    lab.apply();
    assert!(lab.knows(1, 2) && lab.knows(2, 1) && !lab.knows(3, 2) && !lab.knows(2, 3));
    assert_eq!(lab.network.view(0, &address(2)).established_count, 1);
}

/// Behaviour 50.
#[test]
fn well_known_communities_stop_a_route_where_they_say() {
    let mut lab = Lab::new(&[64512, 64512, 64999, 64512]);
    lab.link(0, 1, true).link(0, 2, false).link(0, 3, true);
    lab.configs[1].originated[0].communities = vec![WellKnown::NO_EXPORT];
    lab.configs[2].originated[0].communities = vec![WellKnown::NO_ADVERTISE];
    lab.apply();
    // NO_ADVERTISE holds for its own originator too, which tells nobody.
    assert!(lab.knows(0, 1) && lab.knows(3, 1) && !lab.knows(2, 1));
    assert!(!lab.knows(0, 2));
    assert_eq!(lab.export(0, 1, 2), Export::NoExport);
    assert_eq!(lab.export(2, 2, 0), Export::NoAdvertise);
    assert_eq!(lab.path(3, 1).attributes.communities, ["no-export"]);
}

/// Calico's export rule on a reflector, and its change at run time (behaviour 56).
#[test]
fn only_what_lies_in_an_exported_pool_is_passed_on_and_a_changed_rule_sends_the_difference() {
    let mut lab = Lab::new(&[64512; 3]);
    lab.link(0, 1, true).link(0, 2, true);
    let foreign = Originated { prefix: prefix("10.99.0.0/16"), communities: Vec::new() };
    let inside = Originated { prefix: prefix("172.16.0.1/32"), communities: Vec::new() };
    lab.configs[1].originated.extend([foreign, inside]);
    lab.apply();
    let knows = |lab: &Lab, what: &str| lab.network.nodes[2].best.contains_key(&prefix(what));
    assert!(lab.knows(2, 1) && !knows(&lab, "10.99.0.0/16") && !knows(&lab, "172.16.0.1/32"));
    let explained = |lab: &mut Lab, what: &str| {
        let view = lab.network.speaker(0).explain(prefix(what)).unwrap();
        view.sent.iter().find(|sent| sent.peer.address == ip(&address(2))).unwrap().export
    };
    assert_eq!(explained(&mut lab, "10.99.0.0/16"), Export::NoTransit);
    assert_eq!(explained(&mut lab, "172.16.0.1/32"), Export::InsideOwnBlock);

    let before = lab.network.view(0, &address(2)).counters.updates_sent;
    lab.configs[0].export.pools.insert(0, PoolRule { prefix: prefix("10.99.0.0/16"), export: true });
    lab.apply();
    assert!(knows(&lab, "10.99.0.0/16"));
    assert_eq!(lab.network.view(0, &address(2)).counters.updates_sent, before + 1, "only the difference");
    lab.configs[0].export.pools.insert(0, PoolRule { prefix: prefix(POOL), export: false });
    lab.apply();
    assert!(!lab.knows(2, 1) && lab.knows(2, 0), "own routes leave whatever the pools say");
    assert_eq!(lab.export(0, 1, 2), Export::PoolNotExported);
}

/// Own prefixes change: differences only, and no session notices.
#[test]
fn own_prefixes_come_and_go_without_disturbing_the_others() {
    let mut lab = Lab::new(&[64512; 2]);
    lab.link(0, 1, false);
    lab.apply();
    let before = lab.network.view(0, &address(1)).counters.updates_sent;
    let more = Originated { prefix: prefix("172.16.9.0/26"), communities: vec![] };
    lab.configs[0].originated.push(more);
    lab.apply();
    assert!(lab.network.nodes[1].best.contains_key(&prefix("172.16.9.0/26")));
    lab.configs[0].originated.remove(0);
    lab.apply();
    assert!(!lab.knows(1, 0));
    let view = lab.network.view(0, &address(1));
    assert_eq!((view.counters.updates_sent, view.established_count), (before + 2, 1));
    assert_eq!(view.counters.prefixes_sent, 1);
}

/// Behaviour 45, through the reflector's choice and the client's.
#[test]
fn a_next_hop_that_goes_and_comes_moves_the_routes_without_an_update() {
    let mut lab = Lab::new(&[64512; 3]);
    lab.link(0, 1, true).link(0, 2, true);
    lab.apply();
    let next_hop = crate::NextHop { address: ip(&address(1)), link_of: None };
    for (metric, there) in [(None, false), (Some(7), true), (None, false), (Some(0), true)] {
        lab.network.handle(0, crate::Event::NextHop { next_hop, metric });
        lab.network.run(secs(1));
        assert_eq!((lab.knows(0, 1), lab.knows(2, 1)), (there, there));
    }
    lab.network.handle(0, crate::Event::NextHop { next_hop, metric: None });
    let view = lab.network.speaker(0).explain(prefix(&block(1))).unwrap();
    assert_eq!(view.paths[0].standing, Standing::Unreachable);
}

/// IPv6 routes over an IPv4 session and IPv4 routes over an IPv6 one.
#[test]
fn both_families_travel_over_sessions_of_either() {
    let mut network = Network::new(3);
    let pairs = [["10.0.0.1", "10.0.0.2"], ["2001:db8::1", "2001:db8::2"]];
    for addresses in pairs {
        let first = network.nodes.len();
        for (i, address) in addresses.iter().enumerate() {
            let node = network.add(address);
            let mut config = Config::new(asn(64512), Ipv4Addr::new(10, 0, 0, i as u8 + 1));
            config.next_hop_v4 = Some(Ipv4Addr::new(10, 0, 0, i as u8 + 1));
            config.next_hop_v6 = Some(format!("2001:db8::{}", i + 1).parse().unwrap());
            config.peers.push(peer(addresses[1 - i], 64512));
            for text in [format!("172.16.{i}.0/26"), format!("fd00:10:{i}::/122")] {
                config.originated.push(Originated { prefix: prefix(&text), communities: vec![] });
            }
            network.start(node, config);
        }
        network.run(secs(3));
        let hop = |text: &str| network.next_hop(first, text);
        assert_eq!(hop("172.16.1.0/26"), Some(ip("10.0.0.2")), "{addresses:?}");
        assert_eq!(hop("fd00:10:1::/122"), Some(ip("2001:db8::2")), "{addresses:?}");
    }
}
