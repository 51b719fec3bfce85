//! Clusters under random change: whatever happened, in the end every node has exactly the routes that exist.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use super::network::{Network, asn, ip, ms, peer, prefix, secs};
use crate::{Config, Dial, ExportRule, Originated, PoolRule, session::timers::Jitter};

struct Cluster {
    network: Network,
    /// The first ones reflect, if any do; else it is a full mesh.
    reflectors: usize,
    /// A number that makes each node's block another one.
    blocks: Vec<u8>,
    alive: Vec<bool>,
    seed: u64,
}

fn address(node: usize) -> String {
    format!("10.0.0.{}", node + 1)
}

impl Cluster {
    fn new(nodes: usize, reflectors: usize, seed: u64) -> Cluster {
        let mut network = Network::new(seed);
        network.latency = Duration::from_micros(100 + seed % 2000);
        for node in 0..nodes {
            network.add(&address(node));
        }
        Cluster { network, reflectors, blocks: vec![0; nodes], alive: vec![false; nodes], seed }
    }

    fn block(&self, node: usize) -> String {
        format!("172.16.{}.{}/26", node, u32::from(self.blocks[node] % 4) * 64)
    }

    fn config(&self, node: usize, restarting: bool) -> Config {
        let mut config = Config::new(asn(64512), Ipv4Addr::new(10, 0, 0, node as u8 + 1));
        config.seed = self.seed + node as u64;
        config.graceful_restart.restarting = restarting;
        let reflects = |node: usize| node < self.reflectors;
        for other in (0..self.blocks.len()).filter(|&other| other != node) {
            if self.reflectors > 0 && !reflects(node) && !reflects(other) {
                continue;
            }
            let mut peer = peer(&address(other), 64512);
            peer.dial = if address(node) > address(other) { Dial::First } else { Dial::Later };
            peer.rr_client = reflects(node) && !reflects(other);
            config.peers.push(peer);
        }
        config.originated.push(Originated { prefix: prefix(&self.block(node)), communities: vec![] });
        let pools = vec![PoolRule { prefix: prefix("172.16.0.0/16"), export: true }];
        config.export = ExportRule { pools, transit: false, ..ExportRule::default() };
        config
    }

    fn start(&mut self, node: usize, restarting: bool) {
        self.network.nodes[node].watched.clear();
        self.network.nodes[node].best.clear();
        self.alive[node] = true;
        let config = self.config(node, restarting);
        self.network.start(node, config);
    }

    fn disturb(&mut self, dice: &mut Jitter) {
        let mut roll =
            |sides: u64| dice.between(Duration::ZERO, Duration::from_nanos(sides)).as_nanos() as usize;
        let node = roll(self.blocks.len() as u64);
        let other = roll(self.blocks.len() as u64);
        match roll(8) {
            0 | 1 if self.alive[node] => {
                self.network.kill(node, roll(2) == 0);
                self.alive[node] = false;
            }
            2 | 3 if !self.alive[node] => self.start(node, roll(2) == 0),
            4 if self.alive[node] => {
                self.blocks[node] += 1;
                let config = self.config(node, false);
                self.network.configure(node, config);
            }
            5 => drop(self.network.cut.insert((ip(&address(node)), ip(&address(other))))),
            6 => self.network.cut.clear(),
            7 if self.reflectors > 0 && self.blocks.len() > 4 => {
                // From two reflectors to one, or back, each node in its own time.
                self.reflectors = 3 - self.reflectors;
                for node in (0..self.blocks.len()).filter(|&node| self.alive[node]).collect::<Vec<_>>() {
                    let config = self.config(node, false);
                    self.network.configure(node, config);
                    self.network.run(ms(roll(300) as u64));
                }
            }
            _ => {}
        }
    }

    fn check(&mut self) {
        let expected: BTreeMap<_, _> = (0..self.blocks.len())
            .filter(|&node| self.alive[node])
            .map(|node| (prefix(&self.block(node)), node))
            .collect();
        for node in (0..self.blocks.len()).filter(|&node| self.alive[node]).collect::<Vec<_>>() {
            let best = &self.network.nodes[node].best;
            let found: Vec<_> = best.keys().collect();
            assert_eq!(found, expected.keys().collect::<Vec<_>>(), "seed {}, node {node}", self.seed);
            for (prefix, best) in best {
                let hop = best.next_hops.first().map(|hop| hop.address);
                let owner = expected[prefix];
                let right = (owner != node).then(|| ip(&address(owner)));
                assert_eq!(hop, right, "seed {}, node {node}, {prefix}", self.seed);
            }
            let speaker = self.network.speaker(node);
            assert!(speaker.routes(None, 1000).iter().all(|route| !route.best.stale), "seed {}", self.seed);
            let (routes, ..) = speaker.sizes();
            assert_eq!(routes, expected.len(), "seed {}, node {node} holds no leftovers", self.seed);
        }
    }
}

#[test]
fn after_any_disturbance_every_node_has_exactly_the_routes_that_exist() {
    for seed in 0..60 {
        let (nodes, reflectors) = [(5, 0), (8, 1), (10, 2), (3, 0)][seed as usize % 4];
        let mut cluster = Cluster::new(nodes, reflectors, seed);
        let mut dice = Jitter::new(seed ^ 0xdead);
        for node in 0..nodes {
            cluster.start(node, false);
            cluster.network.run(ms(7));
        }
        for _ in 0..30 {
            cluster.disturb(&mut dice);
            let pause = dice.between(ms(1), secs(3));
            cluster.network.run(pause);
        }
        cluster.network.cut.clear();
        for reflector in 0..cluster.reflectors {
            if !cluster.alive[reflector] {
                cluster.start(reflector, true);
            }
        }
        // Everything that waits has a bound: hold time, restart time, back-off, stale routes.
        cluster.network.run(secs(400));
        cluster.check();
    }
}

#[test]
fn a_hundred_nodes_in_full_mesh_are_complete_in_a_second() {
    let mut cluster = Cluster::new(100, 0, 1);
    for node in 0..100 {
        cluster.start(node, false);
    }
    cluster.network.run(secs(1));
    cluster.check();
    assert!((0..100).all(|node| cluster.network.sessions(node) == 99));
}
