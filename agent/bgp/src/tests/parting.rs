//! Make before break: whatever becomes of the peerings, no node is without a way to a block whose node lives.

use std::{net::Ipv4Addr, time::Duration};

use super::network::{Network, asn, ip, peer, prefix, secs};
use crate::{
    Config, Dial, ExportRule, Originated, Parted, Parting, PoolRule, session::timers::Jitter,
    view::SessionState,
};

const POOL: &str = "172.16.0.0/16";
const HOLD: Duration = Duration::from_secs(300);
const CLOSE_AFTER: Duration = Duration::from_secs(30);

/// Who has sessions with whom.
#[derive(Clone, Debug, PartialEq)]
enum Topology {
    Mesh,
    Nobody,
    /// These nodes reflect to all others.
    Reflectors(Vec<usize>),
}

use Topology::{Mesh, Nobody, Reflectors};

fn address(node: usize) -> String {
    format!("10.0.0.{}", node + 1)
}

fn block(node: usize) -> String {
    format!("172.16.{node}.0/26")
}

fn plan(of: usize, nodes: usize, topology: &Topology, number: u32) -> Config {
    let router_id: Ipv4Addr = address(of).parse().unwrap();
    let mut config = Config::new(asn(number), router_id);
    let others = (0..nodes).filter(|&other| other != of);
    for other in others {
        let (wanted, client) = match topology {
            Mesh => (true, false),
            Nobody => (false, false),
            Reflectors(all) => {
                let (mine, theirs) = (all.contains(&of), all.contains(&other));
                (mine || theirs, mine && !theirs)
            }
        };
        if wanted {
            let mut between = peer(&address(other), number);
            between.dial = if address(of) > address(other) { Dial::First } else { Dial::Later };
            between.local_address = Some(ip(&address(of)));
            between.rr_client = client;
            config.peers.push(between);
        }
    }
    if let Reflectors(all) = topology
        && all.contains(&of)
    {
        config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
    }
    config.originated = vec![Originated { prefix: prefix(&block(of)), communities: Vec::new() }];
    config.export = ExportRule {
        pools: vec![PoolRule { prefix: prefix(POOL), export: true }],
        transit: false,
        ..ExportRule::default()
    };
    config.seed = of as u64;
    config.parting =
        Parting { close_after: CLOSE_AFTER, hold: HOLD, within: vec![prefix(POOL)], ..Parting::default() };
    config
}

struct Cluster {
    network: Network,
    jitter: Jitter,
    nodes: usize,
    /// Each node reads a change at a time of its own within this.
    spread: Duration,
}

impl Cluster {
    fn new(nodes: usize, seed: u64, spread: Duration) -> Cluster {
        let mut network = Network::new(seed);
        for node in 0..nodes {
            network.add(&address(node));
        }
        let mut cluster = Cluster { network, jitter: Jitter::new(seed ^ 0xabc), nodes, spread };
        cluster.apply(&Mesh, 64512);
        cluster.network.run(secs(5));
        cluster.assert_whole("at the beginning");
        for node in &mut cluster.network.nodes {
            (node.lost, node.history) = (Vec::new(), Vec::new());
        }
        cluster
    }

    fn apply(&mut self, topology: &Topology, number: u32) {
        let plans = (0..self.nodes).map(|node| plan(node, self.nodes, topology, number)).collect();
        self.configure(plans);
    }

    fn configure(&mut self, plans: Vec<Config>) {
        let mut plans: Vec<(Duration, usize, Config)> = plans
            .into_iter()
            .enumerate()
            .map(|(node, plan)| (self.jitter.between(Duration::ZERO, self.spread), node, plan))
            .collect();
        plans.sort_by_key(|(at, ..)| *at);
        let mut passed = Duration::ZERO;
        for (at, node, plan) in plans {
            self.network.run(at - passed);
            passed = at;
            self.network.configure(node, plan);
        }
        self.network.run(self.spread - passed);
    }

    /// Every node knows the way to every block, and has known it all the time.
    fn assert_whole(&self, when: &str) {
        for node in 0..self.nodes {
            let told = || {
                let (parted, history) = (&self.network.nodes[node].parted, &self.network.nodes[node].history);
                format!("{parted:#?} {history:#?}")
            };
            assert_eq!(self.network.nodes[node].lost, [], "{when}: node {node} was without a way {}", told());
            for other in (0..self.nodes).filter(|&other| other != node) {
                let next_hop = self.network.next_hop(node, &block(other));
                assert_eq!(next_hop, Some(ip(&address(other))), "{when}: node {node} to {other}");
            }
        }
    }

    /// No session is left that is not wanted, nothing is stale, and nobody says so.
    fn assert_settled(&self, topology: &Topology) {
        for node in 0..self.nodes {
            let wanted = plan(node, self.nodes, topology, 1).peers;
            let views = self.network.nodes[node].speaker.as_ref().unwrap().peers();
            assert_eq!(views.len(), wanted.len(), "{views:#?}");
            for view in views {
                assert_eq!((view.state, view.stale), (SessionState::Established, 0));
                assert_eq!(view.parting_since, None);
                let wanted = wanted.iter().find(|peer| peer.address == view.address).unwrap();
                assert_eq!(view.rr_client, wanted.rr_client);
            }
        }
    }
}

/// The seed's walk and back: no mesh and another AS at once, a while of nothing, the reflector, and the mesh again.
#[test]
fn the_seeds_walk_and_back_costs_no_node_a_route() {
    for seed in 0..48 {
        let spread = Duration::from_millis([1, 200, 3000][seed as usize % 3]);
        let pause = [0, 3, 45, 150][seed as usize % 4];
        let mut cluster = Cluster::new(3, seed, spread);
        for (topology, number) in
            [(Nobody, 61234), (Nobody, 61234), (Reflectors(vec![0]), 61234), (Nobody, 61234), (Mesh, 64512)]
        {
            cluster.apply(&topology, number);
            cluster.network.run(secs(pause));
            cluster.assert_whole(&format!("seed {seed}, {topology:?}"));
        }
        cluster.network.run(secs(120));
        cluster.assert_whole(&format!("seed {seed}, at the end"));
        cluster.assert_settled(&Mesh);
    }
}

#[test]
fn any_change_of_topology_and_as_costs_no_node_a_route() {
    for seed in 0..80u64 {
        let spread = Duration::from_millis([1, 100, 1000, 5000][seed as usize % 4]);
        let mut cluster = Cluster::new(6, seed, spread);
        let mut chance = Jitter::new(seed);
        let mut pick = |n: u64| chance.between(Duration::ZERO, secs(n)).as_secs() as usize;
        let mut last = (Mesh, 64512);
        for step in 0..8 {
            let topology = match pick(6) {
                0 | 1 => Mesh,
                2 => Nobody,
                3 => Reflectors(vec![0]),
                4 => Reflectors(vec![5]),
                _ => Reflectors(vec![1, 2]),
            };
            let number = [64512, 61234][pick(2)];
            // What has nothing in its place must get it before the time is over, and a topology needs one to settle.
            cluster.apply(&topology, number);
            cluster.network.run(secs(pick(if topology == Nobody { 120 } else { 60 }) as u64));
            cluster.assert_whole(&format!("seed {seed}, step {step}: {last:?} to {topology:?}, AS {number}"));
            last = (topology, number);
        }
        let end = if last.0 == Nobody { Reflectors(vec![3]) } else { last.0 };
        cluster.apply(&end, last.1);
        cluster.network.run(secs(400));
        cluster.assert_whole(&format!("seed {seed}, at the end"));
        cluster.assert_settled(&end);
    }
}

#[test]
fn a_session_that_stays_wanted_is_not_opened_anew() {
    let mut cluster = Cluster::new(4, 5, Duration::from_millis(50));
    cluster.apply(&Reflectors(vec![0]), 64512);
    cluster.network.run(secs(60));
    cluster.apply(&Mesh, 64512);
    cluster.network.run(secs(60));
    cluster.assert_whole("and back");
    for other in 1..4 {
        assert_eq!(cluster.network.view(0, &address(other)).established_count, 1);
        assert_eq!(cluster.network.view(other, &address(0)).established_count, 1);
    }
}

/// Unwanted for less than it would have gone on.
#[test]
fn a_session_that_is_wanted_again_in_time_is_kept() {
    let mut cluster = Cluster::new(3, 5, Duration::from_millis(50));
    cluster.apply(&Nobody, 64512);
    cluster.network.run(secs(20));
    let kept = |event: &crate::PartingEvent| event.what == Parted::Kept { at_most: CLOSE_AFTER };
    assert!(cluster.network.nodes.iter().all(|node| node.parted.iter().filter(|e| kept(e)).count() == 2));
    cluster.apply(&Mesh, 64512);
    cluster.network.run(secs(60));
    cluster.assert_whole("in time");
    cluster.assert_settled(&Mesh);
    for (node, other) in [(0, 1), (1, 2), (2, 0)] {
        assert_eq!(cluster.network.view(node, &address(other)).established_count, 1);
    }
}

#[test]
fn a_session_closes_as_soon_as_all_that_it_brought_has_come_by_another_way() {
    let mut cluster = Cluster::new(5, 7, Duration::from_millis(50));
    cluster.apply(&Reflectors(vec![0]), 64512);
    cluster.network.run(secs(10));
    cluster.assert_whole("after the reflector");
    for node in 1..5 {
        let views = cluster.network.nodes[node].speaker.as_ref().unwrap().peers();
        assert_eq!(views.len(), 1, "only the reflector is left: {views:#?}");
        let closed = |e: &&crate::PartingEvent| matches!(e.what, Parted::Closed { replaced: true, .. });
        assert!(cluster.network.nodes[node].parted.iter().filter(closed).count() <= 3);
    }
    cluster.network.run(secs(60));
    cluster.assert_settled(&Reflectors(vec![0]));
}

#[test]
fn what_gets_no_other_way_is_gone_when_its_time_is_over_and_not_before() {
    let mut cluster = Cluster::new(3, 9, Duration::from_millis(1));
    cluster.apply(&Nobody, 64512);
    cluster.network.run(CLOSE_AFTER + HOLD - secs(5));
    cluster.assert_whole("just before");
    for node in 0..3 {
        let views = cluster.network.nodes[node].speaker.as_ref().unwrap().peers();
        assert!(views.iter().all(|view| view.stale == 1 && view.parting_since.is_some()), "{views:#?}");
    }
    cluster.network.run(secs(10));
    for node in 0..3 {
        assert_eq!(cluster.network.nodes[node].best.len(), 1, "its own block");
        assert!(cluster.network.nodes[node].speaker.as_ref().unwrap().peers().is_empty());
        let over = |e: &crate::PartingEvent| matches!(e.what, Parted::Over { expired: 1 });
        assert_eq!(cluster.network.nodes[node].parted.iter().filter(|e| over(e)).count(), 2);
    }
}

#[test]
fn a_peer_that_is_to_go_at_once_does_and_so_does_what_lies_outside_of_what_may_be_held() {
    let mut cluster = Cluster::new(3, 11, Duration::from_millis(1));
    let outside = "10.9.0.0/24";
    let plans = |topology: &Topology, at_once: &[usize]| -> Vec<Config> {
        (0..3)
            .map(|node| {
                let mut plan = plan(node, 3, topology, 64512);
                if node == 1 {
                    plan.originated.push(Originated { prefix: prefix(outside), communities: Vec::new() });
                }
                plan.export.pools.push(PoolRule { prefix: prefix("10.9.0.0/16"), export: true });
                plan.parting.at_once = at_once.iter().map(|&node| ip(&address(node))).collect();
                plan
            })
            .collect()
    };
    cluster.configure(plans(&Mesh, &[]));
    cluster.network.run(secs(1));
    assert!(cluster.network.next_hop(0, outside).is_some());
    cluster.configure(plans(&Nobody, &[2]));
    cluster.network.run(secs(1));
    assert_eq!(cluster.network.next_hop(0, &block(2)), None, "dropped at once");
    assert!(cluster.network.next_hop(0, outside).is_some(), "the session goes on");
    cluster.network.run(CLOSE_AFTER + secs(3));
    assert_eq!(cluster.network.next_hop(0, outside), None, "not held");
    assert_eq!(cluster.network.next_hop(0, &block(1)), Some(ip(&address(1))), "held");
    // And what is held already.
    cluster.configure(plans(&Nobody, &[1, 2]));
    cluster.network.run(secs(1));
    assert_eq!(cluster.network.next_hop(0, &block(1)), None);
    assert!(cluster.network.nodes[0].speaker.as_ref().unwrap().peers().is_empty());
}

/// As BIRD ends a session that it is told to forget. It may have been told first.
#[test]
fn an_end_that_is_told_that_it_is_no_peer_keeps_the_routes_for_a_moment() {
    let mut cluster = Cluster::new(2, 17, Duration::from_millis(1));
    let mut gone = plan(0, 2, &Nobody, 64512);
    gone.parting = Parting::default();
    cluster.network.configure(0, gone);
    cluster.network.run(secs(20));
    assert_eq!(cluster.network.next_hop(1, &block(0)), Some(ip(&address(0))), "it might read of it soon");
    cluster.network.run(secs(20));
    assert_eq!(cluster.network.next_hop(1, &block(0)), None, "it has not");
}

/// The other end still wants the session for a while.
#[test]
fn an_end_that_has_not_read_the_change_keeps_the_routes_too() {
    let mut cluster = Cluster::new(2, 13, Duration::from_millis(1));
    cluster.network.configure(0, plan(0, 2, &Nobody, 64512));
    cluster.network.run(CLOSE_AFTER + secs(20));
    cluster.assert_whole("while one end knows");
    cluster.network.configure(1, plan(1, 2, &Nobody, 64512));
    cluster.network.run(secs(100));
    cluster.assert_whole("held by both");
    cluster.apply(&Mesh, 61234);
    cluster.network.run(secs(30));
    cluster.assert_whole("at the end");
    cluster.assert_settled(&Mesh);
}
