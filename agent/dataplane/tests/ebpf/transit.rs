//! A node between two wires: it routes for others, and its own pods use both. One wire takes jumbo frames, the other
//! is narrow. The uplinks are the wires themselves, or bridges or macvlans above them.

use manx_abi::Verdict;
use manx_dataplane::{
    ebpf::{EbpfSink, Mode, Options},
    route::{Action, Mac, NextHop, Route},
};

use crate::{
    forwarding::transfer,
    namespace::{Namespace, run},
    nodes::{pools, since},
    paths::{KINDS, above},
};

pub const WIRES: [(&str, u8, u32); 2] = [("ens33", 80, 9000), ("ens34", 81, 1400)];
/// Third octets of the blocks behind the wires.
pub const BLOCKS: [u8; 2] = [118, 120];
const POD_MAC: [u8; 6] = [0x0a, 0, 0, 0, 0, 1];

pub struct Transit {
    pub node: Namespace,
    pub pod: Namespace,
    /// A host behind each wire, with a pod's address of its block.
    pub ends: [Namespace; 2],
    pub sink: EbpfSink,
}

pub fn address(block: u8, last: u8, v4: bool) -> String {
    if v4 { format!("172.16.{block}.{last}") } else { format!("fd00:{block}::{last}") }
}

pub fn on_wire(subnet: u8, number: u8, v4: bool) -> String {
    if v4 { format!("192.168.{subnet}.{number}") } else { format!("fd00:{subnet}::{number}") }
}

pub fn transit() -> Transit {
    transit_over(None)
}

/// With uplinks of a kind above the wires, or the wires themselves.
fn transit_over(kind: Option<&str>) -> Transit {
    let (node, pod) = (Namespace::new(), Namespace::new());
    let ends = [Namespace::new(), Namespace::new()];
    node.veth("cali1", &pod, "eth0");
    node.ip("link set cali1 address ee:00:00:00:00:01 mtu 9000");
    pod.ip("link set eth0 address 0a:00:00:00:00:01 mtu 9000");
    for ((wire, _, mtu), end) in WIRES.into_iter().zip(&ends) {
        node.veth(wire, end, "eth0");
        node.ip(&format!("link set {wire} mtu {mtu}"));
        end.ip(&format!("link set eth0 mtu {mtu}"));
        if let Some(kind) = kind {
            above(&node, wire, mtu, kind);
        }
    }
    for v4 in [true, false] {
        let (family, length, nodad) = if v4 { ("-4", 24, "") } else { ("-6", 64, " nodad") };
        let host = if v4 { 32 } else { 128 };
        for (((wire, subnet, _), block), end) in WIRES.into_iter().zip(BLOCKS).zip(&ends) {
            node.ip(&format!("{family} addr add {}/{length} dev {wire}{nodad}", on_wire(subnet, 124, v4)));
            end.ip(&format!("{family} addr add {}/{length} dev eth0{nodad}", on_wire(subnet, 125, v4)));
            let own = address(block, 66, v4);
            end.ip(&format!("{family} addr add {own}/{host} dev lo{nodad}"));
            let gateway = on_wire(subnet, 124, v4);
            end.ip(&format!("{family} route add default via {gateway} src {own}"));
            node.ip(&format!("{family} route add {own}/{host} via {}", on_wire(subnet, 125, v4)));
        }
        let (own, gateway) = (address(36, 193, v4), if v4 { "169.254.1.1" } else { "fe80::1" });
        pod.ip(&format!("{family} addr add {own}/{host} dev eth0{nodad}"));
        pod.ip(&format!("{family} neigh add {gateway} lladdr ee:00:00:00:00:01 dev eth0"));
        pod.ip(&format!("{family} route add {gateway} dev eth0"));
        pod.ip(&format!("{family} route add default via {gateway} dev eth0"));
        node.ip(&format!("{family} route add {own}/{host} dev cali1"));
    }
    let sink = node.run(|| {
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
        sink.set_pools(&pools()).unwrap();
        let mut routes = Vec::new();
        for v4 in [true, false] {
            let host = if v4 { 32 } else { 128 };
            let mut route = |own: String, action| {
                routes.push(Route { prefix: format!("{own}/{host}").parse().unwrap(), action });
            };
            for ((wire, subnet, _), block) in WIRES.into_iter().zip(BLOCKS) {
                let gateway = on_wire(subnet, 125, v4).parse().unwrap();
                let hops = vec![NextHop { gateway, ifindex: index(wire) }];
                route(address(block, 66, v4), Action::Via(hops));
            }
            let local = Action::Local { ifindex: index("cali1"), mac: Some(Mac(POD_MAC)) };
            route(address(36, 193, v4), local);
        }
        assert!(sink.apply(&routes, &[]).unwrap().refused.is_empty());
        for (wire, ..) in WIRES {
            sink.attach_uplink(index(wire)).unwrap();
        }
        sink.attach_pod(index("cali1")).unwrap();
        sink.set_whole_mode(Mode::Unguarded);
        sink
    });
    Transit { node, pod, ends, sink }
}

impl Transit {
    fn offloads(&self, state: &str) {
        let set = |namespace: &Namespace, device: &str| {
            let arguments = format!("-K {device} tso {state} gso {state} gro {state} tx {state}");
            namespace.run(move || drop(run("ethtool", &arguments)));
        };
        for device in ["ens33", "ens34", "cali1"] {
            set(&self.node, device);
        }
        for end in self.ends.iter().chain([&self.pod]) {
            set(end, "eth0");
        }
    }
}

#[test]
fn a_node_routes_tcp_for_others_between_wires_of_different_mtus() {
    let transit = transit();
    for state in ["off", "on"] {
        transit.offloads(state);
        transit.routes_for_others(state);
    }
}

#[test]
fn a_node_routes_tcp_for_others_over_bridges_and_macvlans() {
    for kind in KINDS {
        transit_over(Some(kind)).routes_for_others(kind);
    }
}

#[test]
fn hosts_and_pods_reach_each_other_by_the_stack_over_any_uplink_and_with_any_mtu() {
    for kind in [None].into_iter().chain(KINDS.map(Some)) {
        let transit = transit_over(kind);
        for v4 in [true, false] {
            let pod = address(36, 193, v4);
            for ((_, subnet, _), end) in WIRES.into_iter().zip(&transit.ends) {
                let (own, host) = (on_wire(subnet, 124, v4), on_wire(subnet, 125, v4));
                let family = if v4 { "-4" } else { "-6" };
                // As a host it has no pod's address.
                end.ip(&format!("{family} route add {pod} via {own} src {host}"));
                let before = transit.sink.counters().unwrap();
                transfer(&transit.pod, end, &host);
                transfer(end, &transit.pod, &pod);
                transfer(&transit.pod, &transit.node, &own);
                transfer(&transit.node, &transit.pod, &pod);
                let counted = since(&before, &transit.sink.counters().unwrap());
                let carried =
                    counted.total(Verdict::RedirectedPeer) + counted.total(Verdict::RedirectedNeigh);
                let dropped = counted.total(Verdict::Spoofed) + counted.total(Verdict::Malformed);
                assert_eq!((carried, dropped), (0, 0), "{kind:?}, {host} is in no pool: {counted:?}");
            }
        }
    }
}

impl Transit {
    /// Between the ends, both ways.
    fn routes_for_others(&self, how: &str) {
        for v4 in [true, false] {
            for (from, to) in [(0, 1), (1, 0)] {
                let target = address(BLOCKS[to], 66, v4);
                let before = self.sink.counters().unwrap();
                transfer(&self.ends[from], &self.ends[to], &target);
                let counted = since(&before, &self.sink.counters().unwrap());
                let carried = counted.uplink_tc.redirected_neigh;
                assert!(carried > 60, "{how}, to {target}: {counted:?}");
            }
        }
    }
}

#[test]
fn a_pod_uses_each_uplink_and_learns_of_the_narrow_ones_mtu() {
    let transit = transit();
    for v4 in [true, false] {
        let own = address(36, 193, v4);
        for (end, block) in transit.ends.iter().zip(BLOCKS) {
            let target = address(block, 66, v4);
            let before = transit.sink.counters().unwrap();
            transfer(&transit.pod, end, &target);
            transfer(end, &transit.pod, &own);
            let counted = since(&before, &transit.sink.counters().unwrap());
            assert!(counted.pod_tc.redirected_neigh > 60, "to {target}: {counted:?}");
            assert!(counted.uplink_tc.redirected_peer > 60, "from {target}: {counted:?}");
            assert_eq!(counted.total(Verdict::Unreadable), 0, "{target}: {counted:?}");
        }
    }
    // What says so when the way narrows is the stack: a datagram as large as the pod's own interface takes.
    let before = transit.sink.counters().unwrap();
    let target = address(BLOCKS[1], 66, true);
    let said = transit.pod.run(move || {
        let arguments = format!("-n -c 2 -i 0.01 -W 1 -M do -s 8000 {target}");
        // It fails, as nothing comes back.
        let output = std::process::Command::new("ping").args(arguments.split(' ')).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
    });
    assert!(said.contains("mtu = 1400") || said.contains("mtu=1400"), "{said}");
    assert!(since(&before, &transit.sink.counters().unwrap()).pod_tc.redirected_neigh == 0);
}
