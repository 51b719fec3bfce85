//! What two pods notice, on one node and on two: the kernel alone and Manx take turns, round by round. The uplinks
//! are macvlan devices: native XDP on a veth takes segmentation offload from its peer, which no NIC does, and would
//! be all that is measured.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context, Result};

use super::{
    ground::Ground,
    node::{self, Neighbour, Node, UPLINKS, uplink_mac},
    traffic::Ends,
};

const NUMBERS: [u8; 2] = [124, 125];
const BLOCKS: [u8; 2] = [36, 118];

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Path {
    SameNode,
    OtherNode,
}

impl Path {
    pub const ALL: [Path; 2] = [Path::SameNode, Path::OtherNode];

    pub fn title(self) -> &'static str {
        match self {
            Path::SameNode => "pod to pod on one node",
            Path::OtherNode => "pod to pod of another node",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Figure {
    Responses,
    ResponsesP50,
    ResponsesP99,
    OneStream,
    ManyStreams,
    Datagrams,
    Ping,
}

impl Figure {
    pub fn title(self) -> &'static str {
        match self {
            Figure::Responses => "TCP requests and responses, thousands/s",
            Figure::ResponsesP50 => "the same, p50, µs",
            Figure::ResponsesP99 => "the same, p99, µs",
            Figure::OneStream => "TCP, one stream, Gbit/s",
            Figure::ManyStreams => "TCP, eight streams, Gbit/s",
            Figure::Datagrams => "UDP, 64-octet frames received, thousands/s",
            Figure::Ping => "ping, mean, µs",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub ground: Ground,
    pub path: Path,
    pub figure: Figure,
}

/// One of each round.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub kernel: Vec<f64>,
    pub manx: Vec<f64>,
}

pub type Results = BTreeMap<Case, Seen>;

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub rounds: usize,
    /// Of each figure.
    pub during: Duration,
    pub pings: u32,
}

/// Two nodes on a wire.
struct Pair {
    nodes: Vec<Node>,
}

impl Pair {
    fn new(ground: Ground, with_manx: bool) -> Result<Pair> {
        let mut nodes = vec![Node::new(BLOCKS[0], NUMBERS[0])?, Node::new(BLOCKS[1], NUMBERS[1])?];
        let other = nodes.last().context("there are two")?.ns.proc_path("ns/net");
        let here = nodes.first().context("there are two")?;
        here.ns.sh(&format!("ip link add wire type veth peer name wire netns {}", other.display()))?;
        for (node, peer) in nodes.iter_mut().zip([1, 0]) {
            let uplink = UPLINKS[0];
            node::batch(
                &node.ns,
                &format!("link set wire up\nlink add link wire name {uplink} type macvlan mode private"),
            )?;
            let number = NUMBERS[peer];
            let neighbour = Neighbour { uplink: 0, block: BLOCKS[peer], number, mac: uplink_mac(number, 0) };
            node.uplink(0, neighbour)?;
            node.crowd(number)?;
            ground.prepare(&node.ns)?;
            if with_manx {
                node.carry(&[neighbour], ground)?;
            }
        }
        Ok(Pair { nodes })
    }

    fn ends(&self, path: Path, cpus: (usize, usize)) -> Result<Ends<'_>> {
        let pod = |node: usize, pod: usize| {
            self.nodes.get(node).and_then(|node| node.pods.get(pod)).context("two nodes with two pods")
        };
        let client = pod(0, 0)?;
        let server = match path {
            Path::SameNode => pod(0, 1)?,
            Path::OtherNode => pod(1, 0)?,
        };
        let address: IpAddr = server.v4.parse()?;
        Ok(Ends { client: &client.ns, server: &server.ns, address, cpus })
    }

    fn look(&mut self, path: Path, plan: Plan) -> Result<Vec<(Figure, f64)>> {
        let figures =
            [Figure::Responses, Figure::OneStream, Figure::ManyStreams, Figure::Datagrams, Figure::Ping];
        let mut seen = Vec::new();
        for figure in figures {
            self.nodes.iter_mut().try_for_each(Node::pulse)?;
            // A response's way is one after the other on whatever CPU: to wake another one costs more than the way.
            let near = self.ends(path, (1, 1))?;
            let apart = self.ends(path, (0, 1))?;
            match figure {
                Figure::Responses => {
                    let responses = near.responses(plan.during)?;
                    seen.push((Figure::Responses, responses.rate / 1e3));
                    seen.push((Figure::ResponsesP50, responses.p50));
                    seen.push((Figure::ResponsesP99, responses.p99));
                }
                Figure::OneStream => seen.push((figure, apart.streams(1, plan.during)? / 1e9)),
                Figure::ManyStreams => seen.push((figure, apart.streams(8, plan.during)? / 1e9)),
                Figure::Datagrams => seen.push((figure, apart.datagrams(plan.during)? / 1e3)),
                Figure::Ping => seen.push((figure, near.ping(plan.pings)?)),
                // Seen with the responses.
                Figure::ResponsesP50 | Figure::ResponsesP99 => {}
            }
        }
        Ok(seen)
    }
}

pub fn measure(plan: Plan) -> Result<Results> {
    let mut pairs = Vec::new();
    for ground in Ground::ALL {
        pairs.push((ground, Pair::new(ground, false)?, Pair::new(ground, true)?));
    }
    let mut results = Results::new();
    for round in 0..plan.rounds {
        for (ground, alone, manx) in &mut pairs {
            for path in Path::ALL {
                // Neither is always the first.
                for turn in 0..2 {
                    let with_manx = (turn + round) % 2 == 1;
                    let pair = if with_manx { &mut *manx } else { &mut *alone };
                    let seen = pair.look(path, plan).with_context(|| {
                        let who = if with_manx { "Manx" } else { "the kernel" };
                        format!("{who}, {}, {}", ground.title(), path.title())
                    })?;
                    for (figure, value) in seen {
                        let case = Case { ground: *ground, path, figure };
                        let seen = results.entry(case).or_default();
                        if with_manx { seen.manx.push(value) } else { seen.kernel.push(value) }
                    }
                }
            }
        }
    }
    Ok(results)
}
