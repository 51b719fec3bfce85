//! The node that packets are sent through: two pods and two uplinks, wired as Calico wires them, with routes to a
//! thousand other blocks in the FIB, and in the maps where Manx carries. MACs and neighbours are fixed, so that
//! address resolution is not what is measured.

use std::{fmt::Write as _, io::Write as _};

use anyhow::{Context, Result, anyhow, ensure};
use manx_dataplane::{
    ebpf::EbpfSink,
    route::{self, Action, BlackholeKind, NextHop, Route},
};
use manx_net::Prefix;
use manx_tests::netns::Netns;
use nix::mount::{MsFlags, mount};

use super::{fast, frame::Mac, ground::Ground};

pub const UPLINKS: [&str; 2] = ["ens33", "ens34"];
/// Blocks of other nodes behind the first uplink.
const OTHERS: u32 = 1_000;

#[derive(Debug)]
pub struct Pod {
    pub ns: Netns,
    /// The host's side of its veth.
    pub host_side: String,
    pub mac: Mac,
    pub host_mac: Mac,
    pub v4: String,
    pub v6: String,
}

#[derive(Debug)]
pub struct Node {
    pub ns: Netns,
    pub pods: Vec<Pod>,
    pub sink: Option<EbpfSink>,
    /// Third octet of its block 172.16.N.64/26 and fd00:N::40/122.
    pub block: u8,
    /// Last octet on the wire.
    number: u8,
}

/// How a node reaches another one's block.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    pub uplink: usize,
    pub block: u8,
    pub number: u8,
    pub mac: Mac,
}

pub fn uplink_mac(number: u8, uplink: usize) -> Mac {
    // There are two uplinks.
    [2, 0, 0, 0, number, uplink as u8]
}

pub fn uplink_v4(number: u8, uplink: usize) -> String {
    format!("192.168.{}.{number}", 80 + uplink)
}

pub fn uplink_v6(number: u8, uplink: usize) -> String {
    format!("fdff:{}::{number}", 80 + uplink)
}

/// Several commands of `ip` at once.
pub fn batch(ns: &Netns, lines: &str) -> Result<()> {
    feed(ns, "ip -batch", lines)
}

/// Runs a command on a file of its own that holds `text`.
pub fn feed(ns: &Netns, command: &str, text: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(text.as_bytes())?;
    ns.sh(&format!("{command} {}", file.path().display())).map(drop)
}

/// A namespace that forwards, with a BPF filesystem of its own at the usual place.
pub fn host(name: &str) -> Result<Netns> {
    let ns = Netns::with_own_system(name, || {
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).context("a BPF filesystem")
    })?;
    for (key, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv6.conf.default.accept_dad", "0"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
    ] {
        ns.sysctl(key, value)?;
    }
    ns.sh("ip link set lo up")?;
    Ok(ns)
}

impl Node {
    /// With two pods, and no uplink yet.
    pub fn new(block: u8, number: u8) -> Result<Node> {
        let ns = host("node")?;
        let mut pods = Vec::new();
        for last in [65, 66] {
            let pod = Pod {
                ns: Netns::inside("pod", &ns)?,
                host_side: format!("cali{last}"),
                mac: [0x0a, 0, 0, 0, block, last],
                host_mac: [0xee, 0, 0, 0, block, last],
                v4: format!("172.16.{block}.{last}"),
                v6: format!("fd00:{block}::{last}"),
            };
            wire_pod(&ns, &pod)?;
            pods.push(pod);
        }
        batch(
            &ns,
            &format!(
                "route add blackhole 172.16.{block}.64/26\nroute add blackhole fd00:{block}::40/122\n\
                 route add blackhole 172.16.250.0/26\nroute add blackhole fd00:250::/122"
            ),
        )?;
        Ok(Node { ns, pods, sink: None, block, number })
    }

    /// Addresses of an uplink whose device is there, and what lies behind it.
    pub fn uplink(&self, uplink: usize, neighbour: Neighbour) -> Result<()> {
        let name = UPLINKS.get(uplink).context("there are two uplinks")?;
        let (number, peer) = (self.number, neighbour.number);
        let (gateway4, gateway6) = (uplink_v4(peer, uplink), uplink_v6(peer, uplink));
        let (block, mac) = (neighbour.block, text(neighbour.mac));
        batch(
            &self.ns,
            &format!(
                "link set {name} address {own}\nlink set {name} up\n\
                 addr add {v4}/24 dev {name}\naddr add {v6}/64 dev {name} nodad\n\
                 neigh replace {gateway4} lladdr {mac} dev {name} nud permanent\n\
                 neigh replace {gateway6} lladdr {mac} dev {name} nud permanent\n\
                 route add 172.16.{block}.64/26 via {gateway4}\nroute add fd00:{block}::40/122 via {gateway6}",
                own = text(uplink_mac(number, uplink)),
                v4 = uplink_v4(number, uplink),
                v6 = uplink_v6(number, uplink),
            ),
        )
    }

    /// The other blocks, in the FIB.
    pub fn crowd(&self, gateway: u8) -> Result<()> {
        let (v4, v6) = (uplink_v4(gateway, 0), uplink_v6(gateway, 0));
        let mut lines = String::new();
        for (block4, block6) in others() {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "route add {block4} via {v4}\nroute add {block6} via {v6}");
        }
        batch(&self.ns, &lines)
    }

    /// Puts Manx on this node: all routes in the maps, programs on all interfaces.
    pub fn carry(&mut self, neighbours: &[Neighbour], ground: Ground) -> Result<()> {
        let routes = self.routes(neighbours)?;
        let pods: Vec<String> = self.pods.iter().map(|pod| pod.host_side.clone()).collect();
        let uplinks: Vec<&str> = neighbours.iter().filter_map(|n| UPLINKS.get(n.uplink)).copied().collect();
        self.sink = Some(self.ns.run(move || fast::start(&routes, &pods, &uplinks, ground))?);
        Ok(())
    }

    /// As the daemon does: the programs hear that an agent lives.
    pub fn pulse(&mut self) -> Result<()> {
        Ok(self.sink.as_mut().map_or(Ok(()), EbpfSink::pulse)?)
    }

    fn routes(&self, neighbours: &[Neighbour]) -> Result<Vec<Route>> {
        let route = |prefix: &str, action: Action| -> Result<Route> {
            let prefix: Prefix = prefix.parse().map_err(|error| anyhow!("{prefix}: {error:?}"))?;
            Ok(Route { prefix, action })
        };
        let block = self.block;
        let mut routes = vec![
            route(&format!("172.16.{block}.64/26"), Action::Blackhole(BlackholeKind::Own))?,
            route(&format!("fd00:{block}::40/122"), Action::Blackhole(BlackholeKind::Own))?,
            route("172.16.250.0/26", Action::Blackhole(BlackholeKind::Explicit))?,
            route("fd00:250::/122", Action::Blackhole(BlackholeKind::Explicit))?,
        ];
        for pod in &self.pods {
            let local =
                Action::Local { ifindex: index(&self.ns, &pod.host_side)?, mac: Some(route::Mac(pod.mac)) };
            routes.push(route(&format!("{}/32", pod.v4), local.clone())?);
            routes.push(route(&format!("{}/128", pod.v6), local)?);
        }
        for neighbour in neighbours {
            let name = UPLINKS.get(neighbour.uplink).context("there are two uplinks")?;
            let ifindex = index(&self.ns, name)?;
            let via = |gateway: String| -> Result<Action> {
                Ok(Action::Via(vec![NextHop { gateway: gateway.parse()?, ifindex }]))
            };
            let via4 = via(uplink_v4(neighbour.number, neighbour.uplink))?;
            let via6 = via(uplink_v6(neighbour.number, neighbour.uplink))?;
            routes.push(route(&format!("172.16.{}.64/26", neighbour.block), via4.clone())?);
            routes.push(route(&format!("fd00:{}::40/122", neighbour.block), via6.clone())?);
            if neighbour.uplink == 0 {
                for (block4, block6) in others() {
                    routes.push(route(&block4, via4.clone())?);
                    routes.push(route(&block6, via6.clone())?);
                }
            }
        }
        Ok(routes)
    }
}

/// Blocks of nodes that are only there to be many.
fn others() -> impl Iterator<Item = (String, String)> {
    (0..OTHERS).map(|n| (format!("172.17.{}.{}/26", n / 4, n % 4 * 64), format!("fd00:1::{:x}/122", n * 64)))
}

/// The veth of a pod, with its addresses, and its routes on the node.
pub fn wire_pod(node: &Netns, pod: &Pod) -> Result<()> {
    let name = &pod.host_side;
    let (mac, host_mac) = (text(pod.mac), text(pod.host_mac));
    node.sh(&format!(
        "ip link add {name} type veth peer name eth0 netns {}",
        pod.ns.proc_path("ns/net").display()
    ))?;
    batch(&pod.ns, &format!("link set lo up\nlink set eth0 address {mac}\nlink set eth0 up"))?;
    batch(node, &format!("link set {name} address {host_mac}\nlink set {name} up"))?;
    for (gateway, address, length) in [("169.254.1.1", &pod.v4, 32), ("fe80::1", &pod.v6, 128)] {
        let nodad = if length == 128 { " nodad" } else { "" };
        batch(
            &pod.ns,
            &format!(
                "addr add {address}/{length} dev eth0{nodad}\n\
                 neigh replace {gateway} lladdr {host_mac} dev eth0 nud permanent\n\
                 route add {gateway} dev eth0 scope link\n\
                 route add default via {gateway} dev eth0"
            ),
        )?;
        batch(
            node,
            &format!(
                "route add {address}/{length} dev {name}\n\
                 neigh replace {address} lladdr {mac} dev {name} nud permanent"
            ),
        )?;
    }
    Ok(())
}

pub fn index(ns: &Netns, name: &str) -> Result<u32> {
    let of = name.to_owned();
    let index = ns.run(move || nix::net::if_::if_nametoindex(of.as_str()));
    let index = index.with_context(|| format!("no interface {name}"))?;
    ensure!(index != 0, "no interface {name}");
    Ok(index)
}

pub fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
