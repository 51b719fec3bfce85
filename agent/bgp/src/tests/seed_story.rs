//! The seed's cluster: a full mesh of three, the mesh switched off with a new AS, a reflector, and a global peer
//! that points to it.

use std::{net::Ipv4Addr, time::Duration};

use super::network::{Network, ip, ms, peer, prefix, secs};
use crate::{
    Config, Dial, ExportRule, Originated, PeerConfig, PoolRule, session::timers::Jitter, view::SessionState,
};

const NODES: [&str; 3] = ["192.168.80.121", "192.168.80.124", "192.168.80.125"];
const BLOCKS: [Option<&str>; 3] = [None, Some("172.16.36.192/26"), Some("172.16.118.64/26")];

/// Calico's rule, for every kind of peer: the greater address as a string dials.
fn between(node: usize, other: usize, number: u32) -> PeerConfig {
    let mut config = peer(NODES[other], number);
    config.dial = if NODES[node] > NODES[other] { Dial::First } else { Dial::Later };
    config.local_address = Some(ip(NODES[node]));
    config
}

fn plan(node: usize, number: u32, peers: &[usize], seed: u64) -> Config {
    let router_id: Ipv4Addr = NODES[node].parse().unwrap();
    let mut config = Config::new(super::network::asn(number), router_id);
    config.peers = peers.iter().map(|&other| between(node, other, number)).collect();
    if node == 0 && number == 61234 && !peers.is_empty() {
        config.cluster_id = Some(Ipv4Addr::new(244, 0, 0, 1));
        config.peers.iter_mut().for_each(|peer| peer.rr_client = true);
    }
    config.originated = BLOCKS[node]
        .map(|block| Originated { prefix: prefix(block), communities: Vec::new() })
        .into_iter()
        .collect();
    config.export = ExportRule {
        pools: vec![PoolRule { prefix: prefix("172.16.0.0/16"), export: true }],
        transit: false,
        ..ExportRule::default()
    };
    config.seed = seed.wrapping_mul(31) + node as u64;
    config
}

fn reflected(network: &Network) -> bool {
    network.next_hop(1, BLOCKS[2].unwrap()) == Some(ip(NODES[2]))
        && network.next_hop(2, BLOCKS[1].unwrap()) == Some(ip(NODES[1]))
}

/// Gives each node its plan, each at a time of its own within `spread`, and runs a second beyond it.
fn apply(network: &mut Network, jitter: &mut Jitter, spread: Duration, plans: [Config; 3]) {
    let mut plans: Vec<(Duration, usize, Config)> = plans
        .into_iter()
        .enumerate()
        .map(|(node, plan)| (jitter.between(Duration::ZERO, spread), node, plan))
        .collect();
    plans.sort_by_key(|(at, ..)| *at);
    let mut passed = Duration::ZERO;
    for (at, node, plan) in plans {
        network.run(at - passed);
        passed = at;
        network.configure(node, plan);
    }
    network.run(spread - passed);
}

fn third_apply(seed: u64, spread: Duration, latency: Duration) -> (Duration, Network) {
    let mut network = Network::new(seed);
    network.latency = latency;
    let mut jitter = Jitter::new(seed ^ 77);
    for address in NODES {
        network.add(address);
    }
    let everyone = [vec![1, 2], vec![0, 2], vec![0, 1]];

    apply(&mut network, &mut jitter, spread, [0, 1, 2].map(|n| plan(n, 64512, &everyone[n], seed)));
    let up = network.run_until(secs(2), |n| reflected(n) && (0..3).all(|node| n.sessions(node) == 2));
    assert!(up < secs(1), "the mesh took {up:?}");

    // Section 2.1: no mesh, and another AS for all.
    apply(&mut network, &mut jitter, spread, [0, 1, 2].map(|n| plan(n, 61234, &[], seed)));
    network.run(secs(20));
    assert!(network.nodes[1].best.len() == 1 && network.nodes[2].best.len() == 1, "only own blocks are left");

    // Sections 2.2 and 2.3: the reflector, and the peer that everybody has.
    for node in &mut network.nodes {
        node.history.clear();
        node.learned.clear();
    }
    let start = network.now;
    apply(
        &mut network,
        &mut jitter,
        spread,
        [plan(0, 61234, &[1, 2], seed), plan(1, 61234, &[0], seed), plan(2, 61234, &[0], seed)],
    );
    network.run_until(secs(40), reflected);
    (network.now - start, network)
}

#[test]
fn after_the_third_apply_both_workers_have_each_others_block_within_a_second_in_every_run() {
    for seed in 0..60 {
        let spread = ms([1, 30, 200, 500][seed as usize % 4]);
        let latency = Duration::from_micros([50, 200, 3000][seed as usize % 3]);
        let (took, mut network) = third_apply(seed, spread, latency);
        assert!(took < spread + ms(250), "seed {seed}: {took:?}");
        network.run(secs(60));
        for (node, of) in [(0, 1), (0, 2), (1, 0), (2, 0)] {
            let view = network.view(node, NODES[of]);
            assert_eq!(view.state, SessionState::Established, "seed {seed}");
            let ups = network.nodes[node]
                .history
                .iter()
                .filter(|event| event.peer.address == ip(NODES[of]) && event.to == SessionState::Established);
            assert_eq!(ups.count(), 1, "seed {seed}: node {node} and {of} came up once");
        }
        // The workers dialled, being the greater strings.
        assert_eq!(network.view(0, NODES[1]).dialled_by, Some(crate::view::Direction::Peer));
        assert_eq!(network.view(2, NODES[0]).dialled_by, Some(crate::view::Direction::Us));
        assert!(network.nodes[0].best.len() == 2 && network.nodes[1].best.len() == 2);
    }
}

#[test]
fn the_other_side_dials_after_five_seconds_if_the_first_cannot() {
    let mut network = Network::new(1);
    network.add(NODES[0]);
    network.add(NODES[1]);
    network.start(0, plan(0, 64512, &[1], 1));
    let mut passive = plan(1, 64512, &[0], 1);
    passive.peers[0].dial = Dial::Never;
    network.start(1, passive);
    let took = network.run_until(secs(10), |n| n.established(0, NODES[1]));
    assert!((secs(5)..ms(5200)).contains(&took), "{took:?}");
}

/// The first dials come before the other side has read its configuration, and must not slow the later ones.
#[test]
fn a_peer_that_is_configured_late_is_reached_at_once() {
    for (late, old_as) in [(ms(900), None), (secs(4), None), (secs(4), Some(64512)), (secs(9), Some(64512))] {
        let mut network = Network::new(1);
        network.add(NODES[0]);
        network.add(NODES[1]);
        match old_as {
            // It is there with its old AS, and answers Bad Peer AS.
            Some(old) => network.start(0, plan(0, old, &[1], 1)),
            None => network.start(0, plan(0, 61234, &[], 1)),
        }
        network.start(1, plan(1, 61234, &[0], 1));
        network.run(late);
        assert!(network.state(1, NODES[0]) != SessionState::Established);
        network.configure(0, plan(0, 61234, &[1], 1));
        let took = network.run_until(secs(1), |n| n.established(1, NODES[0]) && n.established(0, NODES[1]));
        assert!(took < ms(210), "{late:?}, {old_as:?}: {took:?}");
    }
}

/// A change of the AS on all nodes, each in its own instant: one session each, and soon.
#[test]
fn a_change_of_the_as_everywhere_brings_the_mesh_back_within_a_second() {
    for seed in 0..20 {
        let mut network = Network::new(seed);
        let mut jitter = Jitter::new(seed);
        for address in NODES {
            network.add(address);
        }
        let everyone = [vec![1, 2], vec![0, 2], vec![0, 1]];
        for number in [64512, 61000] {
            apply(
                &mut network,
                &mut jitter,
                ms(300),
                [0, 1, 2].map(|n| {
                    let mut plan = plan(n, number, &everyone[n], seed);
                    plan.peers.iter_mut().for_each(|peer| peer.rr_client = false);
                    plan
                }),
            );
            let took = network.run_until(secs(5), |n| (0..3).all(|node| n.sessions(node) == 2));
            assert!(took < ms(700), "seed {seed}, AS {number}: {took:?}");
        }
    }
}

/// The grace leaves nothing behind: what failed in it does not count when it is over.
#[test]
fn failures_in_the_grace_do_not_slow_the_dials_after_it() {
    let mut network = Network::new(1);
    network.add(NODES[0]);
    network.add(NODES[1]);
    network.start(1, plan(1, 64512, &[0], 1));
    // Once more than the grace allows.
    network.run(ms(10_300));
    network.start(0, {
        let mut plan = plan(0, 64512, &[1], 1);
        plan.peers[0].dial = Dial::Never;
        plan
    });
    let took = network.run_until(secs(5), |n| n.established(0, NODES[1]));
    assert!(took < secs(1), "{took:?}");
}

/// Who listens first waits five seconds in all, however often the plan changes meanwhile.
#[test]
fn changes_of_the_plan_do_not_put_off_the_dial_of_the_later_side() {
    let mut network = Network::new(1);
    network.add(NODES[0]);
    network.add(NODES[1]);
    let mut changing = plan(0, 64512, &[1], 1);
    network.start(0, changing.clone());
    let mut silent = plan(1, 64512, &[0], 1);
    silent.peers[0].dial = Dial::Never;
    network.start(1, silent);
    for n in 0..4 {
        network.run(secs(1));
        changing.peers[0].allow_local_as = n;
        changing.peers[0].rr_client = n % 2 == 0;
        network.configure(0, changing.clone());
    }
    let took = network.run_until(secs(5), |n| n.established(0, NODES[1]));
    assert!(took < ms(1100), "{took:?}");
}
