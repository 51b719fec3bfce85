//! What two pods notice, on one node and on two: the kernel alone, Manx, and a redirect that looks at nothing take
//! turns, round by round. The uplinks
//! are macvlan devices: native XDP on a veth takes segmentation offload from its peer, which no NIC does, and would
//! be all that is measured.

use std::{collections::BTreeMap, net::IpAddr, path::Path as File, time::Duration};

use anyhow::{Context, Result, bail};

use super::{
    floor::{Floor, Target},
    ground::Ground,
    node::{self, Neighbour, Node, UPLINKS, uplink_mac, uplink_v4},
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
    /// One stream whose segments the sender cuts itself, so that each is a packet on its way.
    Segments,
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
            Figure::Segments => "TCP, one stream without segmentation offload, Gbit/s",
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
    /// With programs that redirect and do nothing else.
    pub floor: Vec<f64>,
}

/// Who carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Kernel,
    Manx,
    Redirect,
}

impl Carrier {
    const ALL: [Carrier; 3] = [Carrier::Kernel, Carrier::Manx, Carrier::Redirect];

    fn name(self) -> &'static str {
        match self {
            Carrier::Kernel => "the kernel",
            Carrier::Manx => "Manx",
            Carrier::Redirect => "the redirect alone",
        }
    }
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
    fn new(ground: Ground, carrier: Carrier) -> Result<Pair> {
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
            if carrier == Carrier::Manx {
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

    /// Redirects what the two ends of a path say to each other, as long as what is returned lives.
    fn redirect(&self, path: Path, object: &File) -> Result<Vec<Floor>> {
        let mut floors = Vec::new();
        let mut add = |node: &Node, device: &str, target: Target| -> Result<()> {
            floors.push(Floor::new(object)?.begin(&node.ns, device, target)?);
            Ok(())
        };
        for (node, peer) in self.nodes.iter().zip([1, 0]) {
            let into = |pod: &node::Pod| -> Result<Target> {
                Ok(Target::IpToPod(node::index(&node.ns, &pod.host_side)?, [pod.mac, pod.host_mac]))
            };
            let [first, second] = node.pods.as_slice() else { bail!("two pods on a node") };
            match path {
                Path::SameNode => {
                    add(node, &first.host_side, into(second)?)?;
                    add(node, &second.host_side, into(first)?)?;
                }
                Path::OtherNode => {
                    let gateway = uplink_v4(NUMBERS[peer], 0).parse()?;
                    let out = Target::IpToGateway(node::index(&node.ns, UPLINKS[0])?, gateway);
                    add(node, &first.host_side, out)?;
                    add(node, UPLINKS[0], into(first)?)?;
                }
            }
        }
        Ok(floors)
    }

    fn look(&mut self, path: Path, plan: Plan) -> Result<Vec<(Figure, f64)>> {
        let figures = [
            Figure::Responses,
            Figure::OneStream,
            Figure::ManyStreams,
            Figure::Segments,
            Figure::Datagrams,
            Figure::Ping,
        ];
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
                Figure::Segments => {
                    let offload =
                        |state: &str| apart.client.sh(&format!("ethtool -K eth0 tso {state} gso {state}"));
                    offload("off")?;
                    seen.push((figure, apart.streams(1, plan.during)? / 1e9));
                    offload("on")?;
                }
                Figure::Datagrams => seen.push((figure, apart.datagrams(plan.during)? / 1e3)),
                Figure::Ping => seen.push((figure, near.ping(plan.pings)?)),
                // Seen with the responses.
                Figure::ResponsesP50 | Figure::ResponsesP99 => {}
            }
        }
        Ok(seen)
    }
}

/// `object` holds the benchmark's own programs.
pub fn measure(object: &File, plan: Plan) -> Result<Results> {
    let mut sites = Vec::new();
    for ground in Ground::ALL {
        for carrier in Carrier::ALL {
            sites.push((ground, carrier, Pair::new(ground, carrier)?));
        }
    }
    let mut results = Results::new();
    for round in 0..plan.rounds {
        // None is always the first.
        for contenders in sites.chunks_mut(Carrier::ALL.len()) {
            contenders.rotate_left(1);
            for path in Path::ALL {
                for (ground, carrier, pair) in contenders.iter_mut() {
                    let context =
                        || format!("{}, {}, {}, round {round}", carrier.name(), ground.title(), path.title());
                    let floors = if *carrier == Carrier::Redirect {
                        pair.redirect(path, object)
                    } else {
                        Ok(Vec::new())
                    };
                    let mut floors = floors.with_context(context)?;
                    for (figure, value) in pair.look(path, plan).with_context(context)? {
                        let case = Case { ground: *ground, path, figure };
                        let seen = results.entry(case).or_default();
                        match carrier {
                            Carrier::Kernel => seen.kernel.push(value),
                            Carrier::Manx => seen.manx.push(value),
                            Carrier::Redirect => seen.floor.push(value),
                        }
                    }
                    floors.iter_mut().try_for_each(Floor::end).with_context(context)?;
                }
            }
        }
    }
    Ok(results)
}
