//! What goes wrong in a cluster and what its operators do to it, one thing at a time, and how all of it is put right.

use std::time::Duration;

use manx_bgp::{Event, PeerKey};

use super::{Cluster, Topology, address};

/// A configuration reaches the nodes within this.
const SPREAD: Duration = Duration::from_millis(800);

impl Cluster {
    fn tell(&mut self, what: String) {
        self.story.push(format!("{:>10.3} s: {what}", self.network.elapsed().as_secs_f64()));
    }

    /// One thing, by the dice.
    pub(super) fn disturb(&mut self) {
        let node = self.dice.roll(self.members.len());
        let other = self.dice.roll(self.members.len());
        let alive = self.members[node].alive;
        let coin = self.dice.once_in(2);
        match self.dice.roll(20) {
            0 | 1 if alive => {
                self.tell(format!("the daemon of {node} dies"));
                self.members[node].alive = false;
                self.network.kill(node);
            }
            2 if alive => {
                self.tell(format!("the machine of {node} dies"));
                self.members[node].alive = false;
                self.network.power_off(node);
            }
            0..=3 if !alive => {
                self.tell(format!("{node} starts, taking over what was there: {coin}"));
                self.start(node, coin);
            }
            3 => {
                self.tell(format!("the daemon of {node} dies and starts at once, taking over: {coin}"));
                self.network.kill(node);
                self.start(node, coin);
            }
            4 | 5 => {
                self.tell(format!("{node} gets another block"));
                let number = self.next_block;
                self.next_block += 1;
                let blocks = &mut self.members[node].blocks;
                if blocks.len() > 2 {
                    blocks.pop_first();
                }
                blocks.insert(number);
                self.spread([node]);
            }
            6 => {
                let Some(block) = self.members[node].blocks.pop_first() else { return };
                self.tell(format!("block {block} moves from {node} to {other}"));
                self.members[other].blocks.insert(block);
                self.spread([node, other]);
            }
            7 => {
                let number = self.dice.roll(4) as u8;
                self.tell(format!("{node} announces service {number}, or no more"));
                let services = &mut self.members[node].services;
                if !services.remove(&number) {
                    services.insert(number);
                }
                self.spread([node]);
            }
            8 | 9 => {
                self.tell(format!("nothing passes between {node} and {other}"));
                self.network.cut(node, other);
            }
            10 => {
                self.tell("all cuts are healed".into());
                self.network.heal();
            }
            11 | 12 => {
                self.tell(format!("a connection of {node} breaks"));
                let which = self.dice.roll(1 << 16);
                self.network.reset_one(node, which);
            }
            13 => {
                self.tell(format!("{node} freezes, or goes on"));
                if self.network.nodes[node].frozen {
                    self.network.thaw(node);
                } else {
                    self.network.freeze(node);
                }
            }
            14 => {
                self.tell(format!("{node} disables its session with {other}, or enables it"));
                let peer = PeerKey { address: address(other).into(), port: 179 };
                let event = match coin {
                    true => Event::Disable { peer, text: "maintenance".into() },
                    false => Event::Enable { peer },
                };
                self.tell_daemon(node, event);
            }
            15 => {
                self.tell(format!("{node} asks {other} for its routes again"));
                let peer = PeerKey { address: address(other).into(), port: 179 };
                self.tell_daemon(node, Event::Refresh { peer });
            }
            16 => {
                let metric = [None, Some(0), Some(20)][self.dice.roll(3)];
                self.tell(format!("{node} reaches {other} with metric {metric:?}"));
                self.network.set_metric(node, address(other).into(), metric);
            }
            17 => {
                self.tell(format!("{node} leaves the cluster, or joins it"));
                // Without its spine a cluster is no cluster.
                if node >= self.spine {
                    self.members[node].joined ^= true;
                    self.spread(0..self.members.len());
                }
            }
            18 => {
                self.tell(format!("{node} has another hold time"));
                // Not 0: then nobody ever notices that a machine is gone (RFC 4271 §4.2).
                self.members[node].hold_time = [90, 30, 9, 3][self.dice.roll(4)];
                self.spread([node]);
            }
            _ => {
                if let Topology::Reflectors(most) = self.scenario.topology
                    && most > 1
                {
                    self.spine = 1 + self.dice.roll(most);
                    // Whoever reflects belongs to the cluster.
                    (0..self.spine).for_each(|node| self.members[node].joined = true);
                    self.tell(format!("{} reflect now", self.spine));
                    self.spread(0..self.members.len());
                }
            }
        }
    }

    fn tell_daemon(&mut self, node: usize, event: Event) {
        if !self.network.nodes[node].frozen {
            self.network.handle(node, event);
        }
    }

    /// These nodes read what has changed, each in its own time.
    fn spread(&mut self, nodes: impl IntoIterator<Item = usize>) {
        for node in nodes {
            let at = self.network.now + self.dice.between(Duration::ZERO, SPREAD);
            self.reading.insert((at, node));
        }
    }

    /// The faults end; what operators wanted stays. A spine that is down is started, for nothing else could be known
    /// without it.
    pub(super) fn repair(&mut self) {
        self.tell("all is put right".into());
        self.network.heal();
        for node in 0..self.members.len() {
            if node < self.spine && !self.members[node].alive {
                self.start(node, true);
            }
            self.network.thaw(node);
            let strange: Vec<_> = self.network.nodes[node].metrics.keys().copied().collect();
            for to in strange {
                self.network.set_metric(node, to, Some(0));
            }
            for other in self.neighbours(node) {
                let peer = PeerKey { address: address(other).into(), port: 179 };
                self.network.handle(node, Event::Enable { peer });
            }
        }
        self.spread(0..self.members.len());
        self.pass(SPREAD);
    }
}
