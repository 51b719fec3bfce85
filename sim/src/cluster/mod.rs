//! A cluster as its operators mean it: who is in it, who owns what, who peers with whom. From this follow each node's
//! configuration, and what every node must know in the end.

mod check;
mod disturb;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use manx_bgp::{
    AddPath, Config, Dial, ExportRule, HoldTime, Multipath, Originated, PeerConfig, PoolRule, Time,
};
use manx_net::{Asn, Prefix, Prefix4, Prefix6};

use crate::{
    dice::Dice,
    network::{Network, Tally},
};
pub use check::Wrong;

/// The block numbers that IPv4 has room for: /26 in 10.64.0.0/10.
const BLOCKS: u32 = 1 << 16;
/// Seconds, where nodes offer it.
const LONG_LIVED: u32 = 45;
/// How long everything that waits may wait: hold time 90 s, restart time 120 s, long-lived 45 s, stale routes 300 s.
const PATIENCE: Duration = Duration::from_secs(420);
/// After all is right it must stay right: so long, which is longer than a restart time.
const LINGER: Duration = Duration::from_secs(130);

/// Of sites: so many stand above all of them.
const TOP: usize = 2;

/// Who peers with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// iBGP, all with all.
    Mesh,
    /// iBGP; the first so many nodes reflect, the others are their clients.
    Reflectors(usize),
    /// iBGP; the first so many nodes reflect, but not among their clients, who are meshed (RFC 4456 §10).
    MeshedClients(usize),
    /// iBGP in two levels: two reflectors of reflectors at the top, and so many sites with two reflectors each. With an
    /// even seed each pair has one cluster id.
    Sites(usize),
    /// eBGP, an AS each; the first so many nodes are switches, all others connect to two of them.
    Racks(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// At least 2, at most [`Scenario::MOST_NODES`].
    pub nodes: usize,
    pub topology: Topology,
    /// How many things go wrong before they are put right.
    pub events: usize,
    pub seed: u64,
}

impl Scenario {
    pub const MOST_NODES: usize = 4000;
}

/// What a run that went well came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub tally: Tally,
    /// Virtual time of the whole run.
    pub time: Duration,
    /// After the start, and after the last repair, until everything was as it must be.
    pub up_after: Duration,
    pub right_after: Duration,
    pub sessions: usize,
    pub routes: usize,
}

/// What a run that failed is told by. The scenario repeats it.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{wrong}\nat {at:?} of {scenario:?}, after:\n{}", story.join("\n"))]
pub struct Failure {
    pub scenario: Scenario,
    pub wrong: Wrong,
    pub at: Duration,
    /// The last things that were done to the cluster.
    pub story: Vec<String>,
}

#[derive(Clone, Debug)]
struct Member {
    /// Its daemon runs.
    alive: bool,
    /// It belongs to the cluster: the others are configured to peer with it.
    joined: bool,
    blocks: BTreeSet<u32>,
    /// Prefixes that several nodes may announce.
    services: BTreeSet<u8>,
    hold_time: u16,
}

#[derive(Debug)]
pub struct Cluster {
    scenario: Scenario,
    network: Network,
    members: Vec<Member>,
    /// How many reflect at present; never more than the scenario says.
    spine: usize,
    next_block: u32,
    dice: Dice,
    /// Nodes that read a changed configuration, and when.
    reading: BTreeSet<(Time, usize)>,
    story: Vec<String>,
}

fn address(node: usize) -> Ipv4Addr {
    // Scenarios are small enough.
    Ipv4Addr::from_bits(0x0a00_0001 + node as u32)
}

fn address_v6(node: usize) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfd00_0000_0000_0000_0000_0000_0000_0001 + node as u128)
}

/// The node with this address.
fn node_at(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(address) => (address.to_bits() - 0x0a00_0001) as usize,
        IpAddr::V6(address) => (address.to_bits() as u64 - 1) as usize,
    }
}

fn block_v4(number: u32) -> Prefix {
    Prefix4::from_bits(0x0a40_0000 + (number % BLOCKS) * 64, 26).map_or(Prefix4::DEFAULT, |p| p).into()
}

fn block_v6(number: u32) -> Prefix {
    let bits = 0xfd40_0000_0000_0000_0000_0000_0000_0000 + u128::from(number % BLOCKS) * 64;
    Prefix6::from_bits(bits, 122).map_or(Prefix6::DEFAULT, |p| p).into()
}

fn service(number: u8) -> Prefix {
    Prefix4::from_bits(0xc0a8_0000 + u32::from(number) * 256, 24).map_or(Prefix4::DEFAULT, |p| p).into()
}

impl Cluster {
    /// Runs the scenario: all nodes start, much goes wrong, all is put right, and in the end all is as it must be.
    pub fn run(scenario: Scenario) -> Result<Outcome, Box<Failure>> {
        let mut cluster = Cluster::new(scenario);
        match cluster.play() {
            Ok(outcome) => Ok(outcome),
            Err(wrong) => {
                let story = cluster.story.split_off(cluster.story.len().saturating_sub(60));
                Err(Box::new(Failure { scenario, wrong, at: cluster.network.elapsed(), story }))
            }
        }
    }

    fn new(scenario: Scenario) -> Cluster {
        let nodes = scenario.nodes.clamp(2, Scenario::MOST_NODES);
        let mut network = Network::new(scenario.seed);
        for node in 0..nodes {
            network.add(address(node).into());
        }
        let member = |node: usize| Member {
            alive: false,
            joined: true,
            blocks: BTreeSet::from([node as u32]),
            services: BTreeSet::new(),
            hold_time: 90,
        };
        Cluster {
            scenario,
            network,
            members: (0..nodes).map(member).collect(),
            spine: match scenario.topology {
                Topology::Mesh => 0,
                Topology::Reflectors(n) | Topology::MeshedClients(n) | Topology::Racks(n) => {
                    n.clamp(1, nodes)
                }
                Topology::Sites(n) => (TOP + 2 * n.max(1)).min(nodes),
            },
            next_block: nodes as u32,
            dice: Dice::new(!scenario.seed),
            reading: BTreeSet::new(),
            story: Vec::new(),
        }
    }

    fn play(&mut self) -> Result<Outcome, Wrong> {
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        self.dice.shuffle(&mut order);
        for node in order {
            self.start(node, false);
            let pause = Duration::from_secs(1) / self.members.len() as u32;
            self.network.run(pause);
        }
        let up_after = self.until_right()?;
        for _ in 0..self.scenario.events {
            self.disturb();
            // Now and then several things at once.
            if !self.dice.once_in(4) {
                let pause = self.dice.between(Duration::from_millis(1), Duration::from_secs(4));
                self.pass(pause);
            }
        }
        self.repair();
        let right_after = self.until_right()?;
        self.network.run(LINGER);
        self.network.wake_all();
        self.check()?;
        let (sessions, routes) = self.totals();
        let outcome = Outcome {
            tally: self.network.tally,
            time: self.network.elapsed(),
            up_after,
            right_after,
            sessions,
            routes,
        };
        self.dissolve()?;
        Ok(outcome)
    }

    /// Lets time pass, and nodes read their configuration when it is their turn.
    fn pass(&mut self, time: Duration) {
        let end = self.network.now + time;
        while let Some((at, node)) = self.reading.first().copied().filter(|&(at, _)| at <= end) {
            self.reading.pop_first();
            self.network.run(at - self.network.now);
            if self.members[node].alive && !self.network.nodes[node].frozen {
                let config = self.config(node, false);
                self.network.configure(node, config);
            }
        }
        self.network.run(end - self.network.now);
    }

    /// How long it takes until all is right; what is wrong if that is too long.
    fn until_right(&mut self) -> Result<Duration, Wrong> {
        let start = self.network.now;
        let mut pause = Duration::from_millis(100);
        loop {
            self.pass(pause);
            self.network.wake_all();
            let passed = self.network.now - start;
            match self.check() {
                Ok(()) => return Ok(passed),
                Err(wrong) if passed > PATIENCE => return Err(wrong),
                Err(_) => pause = (passed / 4).max(pause),
            }
        }
    }

    fn start(&mut self, node: usize, restarting: bool) {
        self.members[node].alive = true;
        let config = self.config(node, restarting);
        self.network.configure(node, config);
    }

    /// Members that this node is configured to peer with.
    fn neighbours(&self, node: usize) -> Vec<usize> {
        let is_spine = |node: usize| node < self.spine;
        let among = |other: usize| match self.scenario.topology {
            Topology::Mesh | Topology::MeshedClients(_) => true,
            Topology::Sites(_) => {
                self.reflects_to(node, other) || self.reflects_to(other, node) || node + other == 1
            }
            Topology::Reflectors(_) => is_spine(node) || is_spine(other),
            Topology::Racks(_) => match (is_spine(node), is_spine(other)) {
                (true, true) => true,
                (false, false) => false,
                (true, false) => self.connected(other, node),
                (false, true) => self.connected(node, other),
            },
        };
        if !self.members[node].joined {
            return Vec::new();
        }
        (0..self.members.len())
            .filter(|&other| other != node && self.members[other].joined && among(other))
            .collect()
    }

    /// Is the other one this node's client?
    fn reflects_to(&self, node: usize, other: usize) -> bool {
        match self.scenario.topology {
            Topology::Mesh | Topology::Racks(_) => false,
            Topology::Reflectors(_) | Topology::MeshedClients(_) => other >= self.spine,
            Topology::Sites(_) if node < TOP => (TOP..self.spine).contains(&other),
            Topology::Sites(_) => {
                let sites = (self.spine - TOP) / 2;
                node < self.spine && other >= self.spine && other % sites == (node - TOP) / 2
            }
        }
    }

    /// Of racks: does this host connect to this switch?
    fn connected(&self, host: usize, switch: usize) -> bool {
        host % self.spine == switch || (host + 1) % self.spine == switch
    }

    fn asn(&self, node: usize) -> Asn {
        match self.scenario.topology {
            Topology::Mesh | Topology::Reflectors(_) | Topology::MeshedClients(_) | Topology::Sites(_) => {
                Asn::CALICO_DEFAULT
            }
            Topology::Racks(_) => Asn::new(4_200_000_000 + node as u32).unwrap_or(Asn::CALICO_DEFAULT),
        }
    }

    fn prefixes(&self, node: usize) -> impl Iterator<Item = Prefix> {
        let member = &self.members[node];
        let blocks = member.blocks.iter().flat_map(|&number| [block_v4(number), block_v6(number)]);
        blocks.chain(member.services.iter().map(|&number| service(number)))
    }

    fn config(&self, node: usize, restarting: bool) -> Config {
        let mut config = Config::new(self.asn(node), address(node));
        config.seed = self.scenario.seed.wrapping_add(node as u64);
        config.client_to_client = !matches!(self.scenario.topology, Topology::MeshedClients(_));
        if matches!(self.scenario.topology, Topology::Sites(_)) && self.scenario.seed.is_multiple_of(2) {
            // The node at the other end of the pair has the same.
            config.cluster_id = Some(address(node / 2 * 2));
        }
        config.next_hop_v6 = Some(address_v6(node));
        config.graceful_restart.restarting = restarting;
        // Some clusters keep routes a while longer (RFC 9494), half of the nodes in them.
        let long_lived = self.scenario.seed % 3 == 1 && node.is_multiple_of(2);
        config.graceful_restart.long_lived = long_lived.then_some(LONG_LIVED);
        config.hold_time = HoldTime::new(self.members[node].hold_time).unwrap_or(HoldTime::DEFAULT);
        let most = self.most_next_hops(node) as u8;
        config.multipath = Multipath { ebgp: most, ibgp: most };
        for other in self.neighbours(node) {
            let mut peer = PeerConfig::new(address(other).into(), self.asn(other));
            peer.dial = if node > other { Dial::First } else { Dial::Later };
            peer.add_path = self.add_path(node);
            peer.rr_client = self.reflects_to(node, other);
            config.peers.push(peer);
        }
        let own = self.prefixes(node).map(|prefix| Originated { prefix, communities: Vec::new() });
        config.originated = own.collect();
        let pool = |text: Option<Prefix4>| PoolRule {
            prefix: text.unwrap_or(Prefix4::DEFAULT).into(),
            export: true,
        };
        let pools = vec![
            pool(Prefix4::from_bits(0x0a40_0000, 10)),
            pool(Prefix4::from_bits(0xc0a8_0000, 16)),
            PoolRule {
                prefix: Prefix6::from_bits(0xfd40 << 112, 16).unwrap_or(Prefix6::DEFAULT).into(),
                export: true,
            },
        ];
        config.export = ExportRule { pools, transit: false, ..ExportRule::default() };
        config
    }

    /// Two of three nodes send several paths for a prefix and take several, between whom the session then has them; how
    /// many differs.
    fn add_path(&self, node: usize) -> AddPath {
        let number = self.scenario.seed.wrapping_add(node as u64);
        if number.is_multiple_of(3) {
            AddPath::default()
        } else {
            AddPath { send: 1 + (number % 4) as u8, receive: true }
        }
    }

    /// Half of the nodes use several equally good paths at once.
    fn most_next_hops(&self, node: usize) -> usize {
        if (self.scenario.seed / 2 + node as u64).is_multiple_of(2) { 3 } else { 1 }
    }

    /// Which prefixes exist for a node, and who has them.
    fn expected(&self) -> BTreeMap<Prefix, BTreeSet<usize>> {
        let mut owners: BTreeMap<Prefix, BTreeSet<usize>> = BTreeMap::new();
        for (node, member) in self.members.iter().enumerate() {
            if member.alive && member.joined {
                for prefix in self.prefixes(node) {
                    owners.entry(prefix).or_default().insert(node);
                }
            }
        }
        owners
    }
}
