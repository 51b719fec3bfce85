//! Two nodes with two pods each, and somebody outside who has never heard of pods, all of both families. The nodes
//! have the rules of [`crate::rules`], every pod and the outside a server that says who it is. The nodes learn each
//! other's blocks by BGP; beneath lie static routes of an administrator, less specific, for when no manxd runs.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use manx_api::Counters;
use manx_tests::{
    echo::{PORT, Server},
    host::{Host, Pod},
    kernel::Family,
    lab::{Lab, UPLINK},
    netns::Netns,
    peers::manx::{self, Manx, resources},
    wait::eventually,
};

use crate::rules::{ON_A, ON_B, SERVICE_PORT, Service, TABLE, table};

pub const POOLS: [&str; 2] = ["172.16.0.0/16", "fd00:172::/32"];
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const AS: u32 = 64512;
const RULES: &str = "/etc/kube.nft";
const SETTLED: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    name: &'static str,
    number: u8,
}

pub const A: Place = Place { name: "a", number: 10 };
pub const B: Place = Place { name: "b", number: 20 };
/// Beyond the pools, and the nodes' way to everywhere.
pub const OUTSIDE: Place = Place { name: "outside", number: 2 };

impl Place {
    fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 80, self.number)
    }

    fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x80, 0, 0, 0, 0, 0, u16::from(self.number))
    }

    /// The host's own.
    pub fn address(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ipv4().into(),
            Family::V6 => self.ipv6().into(),
        }
    }

    pub fn pod(self, family: Family, n: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(172, 16, self.number, n + 1).into(),
            Family::V6 => {
                Ipv6Addr::new(0xfd00, 0x172, 0, u16::from(self.number), 0, 0, 0, u16::from(n) + 1).into()
            }
        }
    }

    fn blocks(self) -> [String; 2] {
        [
            format!("172.16.{}.0/26", self.number),
            format!("{}/122", Ipv6Addr::new(0xfd00, 0x172, 0, u16::from(self.number), 0, 0, 0, 0)),
        ]
    }

    /// What an administrator routed by hand: wider than the blocks.
    fn by_hand(self) -> [String; 2] {
        self.blocks().map(|block| block.replace("/26", "/25").replace("/122", "/120"))
    }

    fn node(self) -> manx::Node {
        manx::Node {
            name: self.name.to_owned(),
            ipv4: (self.ipv4(), 24),
            ipv6: (self.ipv6(), 64),
            cluster_id: None,
            blocks: self.blocks().to_vec(),
        }
    }
}

/// What forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel alone: programs count and pass.
    Stack,
    /// As Auto chooses: the programs, for what conntrack knows and does not translate, where the kernel can be asked.
    Auto,
    /// The programs, whatever the rules say.
    Unguarded,
}

impl Mode {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Mode::Stack => &["--fast-path", "off"],
            Mode::Auto => &["--fast-path", "auto"],
            Mode::Unguarded => &["--fast-path", "on"],
        }
    }
}

#[derive(Debug)]
pub struct Node {
    // Dropped in this order.
    _servers: Vec<Server>,
    pub pods: Vec<Pod>,
    pub manx: Manx,
    place: Place,
}

#[derive(Debug)]
pub struct World {
    pub a: Node,
    pub b: Node,
    _server: Server,
    pub outside: Host,
    mode: Mode,
    has_rules: bool,
    /// The programs forward, as far as the mode and the rules let them.
    pub carries: bool,
    _lab: Lab,
}

impl World {
    /// With manxd on both nodes, when all routes are where they belong.
    pub fn new(mode: Mode) -> Result<World> {
        let mut world = World::without_manxd(mode)?;
        world.start()?;
        Ok(world)
    }

    /// The rules stand, the pods talk, and manxd has never run.
    pub fn without_manxd(mode: Mode) -> Result<World> {
        let mut world = World::without_rules(mode)?;
        world.write_rules()?;
        Ok(world)
    }

    /// No rules stand either: nothing tracks connections.
    pub fn without_rules(mode: Mode) -> Result<World> {
        let mut lab = Lab::new()?;
        let peers: Vec<_> = [A, B]
            .iter()
            .flat_map(|place| FAMILIES.map(|family| place.address(family)))
            .map(|address| manx::BgpPeer { address, as_number: AS, more: "" })
            .collect();
        let nodes = [A.node(), B.node()];
        fs::write(lab.store().join("cluster.yaml"), resources(AS, &POOLS, &nodes, &peers))?;
        let outside = lab.host(OUTSIDE.name, OUTSIDE.ipv4(), 24)?;
        outside.sh(&format!("ip address add {}/64 dev {UPLINK} nodad", OUTSIDE.ipv6()))?;
        // What is not for the outside itself leads nowhere.
        for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
            outside.sysctl(key, "0")?;
        }
        let server = Server::start(&outside)?;
        let (a, b) = (Node::new(&mut lab, A, B, mode)?, Node::new(&mut lab, B, A, mode)?);
        Ok(World { a, b, _server: server, outside, mode, has_rules: false, carries: false, _lab: lab })
    }

    /// Starts manxd where it does not run.
    pub fn start(&mut self) -> Result<()> {
        self.start_with_uplinks(1)
    }

    /// The same on nodes that have got so many.
    pub fn start_with_uplinks(&mut self, uplinks: usize) -> Result<()> {
        for node in [&mut self.a, &mut self.b] {
            node.manx.start_again()?;
        }
        for (node, other) in [(&self.a, B), (&self.b, A)] {
            eventually(&format!("{} has its routes and programs", node.place.name), SETTLED, || {
                node.has_settled(other, uplinks)
            })
            .with_context(|| node.manx.account())?;
        }
        self.has_decided()
    }

    /// The nodes' own word on the mode of their pools is what it has to be, or soon will be.
    pub fn has_decided(&mut self) -> Result<()> {
        let expected = match self.mode {
            Mode::Stack => "off",
            Mode::Unguarded => "unguarded",
            Mode::Auto if !self.has_rules => "unguarded",
            Mode::Auto if kernel_can_be_asked()? => "guarded",
            // What the kernel cannot be asked about is left to it.
            Mode::Auto => "off",
        };
        self.have_mode(expected)?;
        self.carries = expected != "off";
        Ok(())
    }

    /// What stood in the way of the guarded mode is gone, and the nodes have seen it.
    pub fn has_the_fast_path_again(&self) -> Result<()> {
        self.have_mode(if self.carries { "guarded" } else { "off" })
    }

    fn have_mode(&self, expected: &str) -> Result<()> {
        [&self.a, &self.b].into_iter().try_for_each(|node| {
            eventually(&format!("{}: all pools are {expected}", node.place.name), SETTLED, || {
                let pools = node.manx.dataplane()?.modes.pools;
                ensure!(pools.len() == POOLS.len() && pools.iter().all(|p| p.mode == expected), "{pools:?}");
                Ok(())
            })
        })
    }

    /// Writes the rules of both nodes.
    pub fn write_rules(&mut self) -> Result<()> {
        self.has_rules = true;
        [&self.a, &self.b].iter().try_for_each(|node| node.write_rules())
    }

    /// Packets that the programs of each node carried, since the maps were made.
    pub fn carried(&self) -> Result<Carried> {
        Ok(Carried { a: carried(&self.a.manx.counters()?), b: carried(&self.b.manx.counters()?) })
    }

    /// Nothing was dropped because conntrack made no sense of it.
    pub fn nothing_was_invalid(&self) -> Result<()> {
        for node in [&self.a, &self.b] {
            let text = node.host().sh(&format!("nft list counter {TABLE} invalid"))?;
            ensure!(text.contains("packets 0 "), "{}: dropped as invalid: {text}", node.place.name);
        }
        Ok(())
    }
}

/// The kernel's types, or those of its module, know the function by which a program asks conntrack.
fn kernel_can_be_asked() -> Result<bool> {
    let knows = |types: Vec<u8>| types.split(|octet| *octet == 0).any(|name| name == b"bpf_skb_ct_lookup");
    Ok(knows(fs::read("/sys/kernel/btf/vmlinux")?)
        || fs::read("/sys/kernel/btf/nf_conntrack").is_ok_and(knows))
}

/// Redirected by the programs of node a and of node b.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub a: u64,
    pub b: u64,
}

impl Carried {
    pub fn since(self, before: Carried) -> Carried {
        Carried { a: self.a - before.a, b: self.b - before.b }
    }
}

fn carried(counters: &Counters) -> u64 {
    let verdicts = counters.rows.iter().flat_map(|row| &row.verdicts);
    verdicts.filter(|v| v.verdict.starts_with("redirected")).map(|v| v.packets).sum()
}

impl Node {
    fn new(lab: &mut Lab, place: Place, other: Place, mode: Mode) -> Result<Node> {
        let host = lab.host(place.name, place.ipv4(), 24)?;
        host.sh(&format!("ip address add {}/64 dev {UPLINK} nodad", place.ipv6()))?;
        for (family, route) in FAMILIES.into_iter().zip(other.by_hand()) {
            let gateway = OUTSIDE.address(family);
            host.sh(&format!("ip route add default via {gateway} dev {UPLINK} proto static metric 100"))?;
            let gateway = other.address(family);
            host.sh(&format!("ip route add {route} via {gateway} dev {UPLINK} proto static metric 5000"))?;
        }
        // The first line makes the table, so that there is one to delete.
        host.write_file(RULES, &format!("table {TABLE}\ndelete table {TABLE}\n{}", table()))?;
        every_icmp_error(&host)?;
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        for n in 0..2 {
            let addresses = FAMILIES.map(|family| place.pod(family, n));
            let pod = host.pod(&format!("{}{}", place.name, n + 1), &addresses)?;
            every_icmp_error(&pod)?;
            servers.push(Server::start(&pod)?);
            pods.push(pod);
        }
        let manx = Manx::idle(host, mode.flags(), &lab.logs())?;
        Ok(Node { _servers: servers, pods, manx, place })
    }

    pub fn host(&self) -> &Host {
        &self.manx.host
    }

    /// Puts the rules in the place of those that are there, in one step.
    pub fn write_rules(&self) -> Result<()> {
        self.host().sh(&format!("nft -f {RULES}")).map(drop)
    }

    pub fn remove_rules(&self) -> Result<()> {
        self.host().sh(&format!("nft delete table {TABLE}")).map(drop)
    }

    fn has_settled(&self, other: Place, uplinks: usize) -> Result<()> {
        for prefix in other.blocks() {
            let row = self.manx.route(&prefix)?;
            ensure!(row.agree && row.fib.is_some(), "{row:?}");
        }
        for family in FAMILIES {
            for n in 0..2 {
                let address = self.place.pod(family, n);
                let length = if family == Family::V4 { 32 } else { 128 };
                let row = self.manx.route(&format!("{address}/{length}"))?;
                ensure!(row.agree && row.map.is_some(), "{row:?}");
            }
        }
        let interfaces = self.manx.dataplane()?.interfaces;
        let attached = interfaces.iter().filter(|interface| !interface.programs.is_empty()).count();
        ensure!(attached == 2 + uplinks, "{interfaces:?}");
        Ok(())
    }
}

/// Errors to one peer would otherwise be limited to six at once and one a second.
fn every_icmp_error(ns: &Netns) -> Result<()> {
    ns.sysctl("net.ipv4.icmp_ratelimit", "0")?;
    ns.sysctl("net.ipv6.icmp.ratelimit", "0")
}

/// The ways from pod a2 to the servers of b1 and a1, by their own addresses.
pub fn direct_ends(family: Family) -> [(SocketAddr, &'static str); 2] {
    [(pod_end(B, family, 0), "b1"), (pod_end(A, family, 0), "a1")]
}

/// The same by Services' addresses.
pub fn service_ends(family: Family) -> [(SocketAddr, &'static str); 2] {
    [(service_end(&ON_B, family), "b1"), (service_end(&ON_A, family), "a1")]
}

/// Where pod `n` of a node serves.
pub fn pod_end(place: Place, family: Family, n: u8) -> SocketAddr {
    (place.pod(family, n), PORT).into()
}

pub fn service_end(service: &Service, family: Family) -> SocketAddr {
    (service.address(family), SERVICE_PORT).into()
}
