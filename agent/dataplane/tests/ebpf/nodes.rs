//! Two nodes on a wire with pods, as the article has them, wired for IPv4 and IPv6. The kernel's FIB has all the
//! routes too, so that what the fast path leaves alone arrives by the stack.

use manx_dataplane::{
    ebpf::{Counters, EbpfSink, Mode, Options, PoolSpec},
    route::{Action, BlackholeKind, NextHop, Route},
};
use manx_net::Prefix;

use crate::namespace::{Namespace, ip, run};

pub const UPLINK: &str = "ens33";

pub struct Pod {
    pub namespace: Namespace,
    pub v4: String,
    pub v6: String,
    pub host_side: &'static str,
}

pub struct Node {
    pub namespace: Namespace,
    pub pods: Vec<Pod>,
    /// Third octet of the node's block, and its last on the wire.
    block: u8,
    number: u8,
    first: u8,
}

/// kw01 with two pods and kw02 with one.
pub fn pair() -> (Node, Node) {
    let (kw01, kw02) = (node(36, 124, 193, &["cali1", "cali2"]), node(118, 125, 66, &["cali1"]));
    kw01.namespace.veth(UPLINK, &kw02.namespace, UPLINK);
    for (node, peer) in [(&kw01, &kw02), (&kw02, &kw01)] {
        node.namespace.ip(&format!("addr add 192.168.80.{}/24 dev {UPLINK}", node.number));
        node.namespace.ip(&format!("-6 addr add fd00:80::{}/64 dev {UPLINK} nodad", node.number));
        node.namespace.ip(&format!("route add {} via 192.168.80.{}", peer.block4(), peer.number));
        node.namespace.ip(&format!("-6 route add {} via fd00:80::{}", peer.block6(), peer.number));
        node.namespace.ip(&format!("route add blackhole {}", node.block4()));
        node.namespace.ip(&format!("-6 route add blackhole {}", node.block6()));
    }
    (kw01, kw02)
}

fn node(block: u8, number: u8, first: u8, names: &[&'static str]) -> Node {
    let namespace = Namespace::new();
    let pods = names
        .iter()
        .zip(first..)
        .map(|(name, last)| {
            let pod = Pod {
                namespace: Namespace::new(),
                v4: format!("172.16.{block}.{last}"),
                v6: format!("fd00:{block}::{last}"),
                host_side: name,
            };
            connect(&namespace, &pod, block, last);
            pod
        })
        .collect();
    Node { namespace, pods, block, number, first }
}

/// As Calico wires a pod: a host route on the node, and a gateway that exists nowhere but in the pod's neighbours.
fn connect(node: &Namespace, pod: &Pod, block: u8, last: u8) {
    let name = pod.host_side;
    node.veth(name, &pod.namespace, "eth0");
    node.ip(&format!("link set {name} address ee:00:00:00:{block:02x}:{last:02x}"));
    pod.namespace.ip(&format!("link set eth0 address 0a:00:00:00:{block:02x}:{last:02x}"));
    for (family, gateway, address, length) in
        [("-4", "169.254.1.1", &pod.v4, 32), ("-6", "fe80::1", &pod.v6, 128)]
    {
        let nodad = if family == "-6" { " nodad" } else { "" };
        pod.namespace.ip(&format!("{family} addr add {address}/{length} dev eth0{nodad}"));
        pod.namespace
            .ip(&format!("{family} neigh add {gateway} lladdr ee:00:00:00:{block:02x}:{last:02x} dev eth0"));
        pod.namespace.ip(&format!("{family} route add {gateway} dev eth0 scope link"));
        pod.namespace.ip(&format!("{family} route add default via {gateway} dev eth0"));
        node.ip(&format!("{family} route add {address}/{length} dev {name}"));
    }
}

impl Node {
    /// Plugs a pod in again whose interface is gone.
    pub fn rewire(&self, pod: usize) {
        let last = self.first + pod as u8;
        connect(&self.namespace, &self.pods[pod], self.block, last);
    }

    pub fn block4(&self) -> String {
        format!("172.16.{}.{}/26", self.block, self.first & 0xc0)
    }

    pub fn block6(&self) -> String {
        format!("fd00:{}::/64", self.block)
    }

    /// What the desired table of this node says, with `peer` as the only other node.
    pub fn routes(&self, peer: &Node) -> Vec<Route> {
        let uplink = self.namespace.ifindex(UPLINK);
        let route = |text: &str, action| Route { prefix: text.parse::<Prefix>().unwrap(), action };
        let via = |gateway: String| {
            Action::Via(vec![NextHop { gateway: gateway.parse().unwrap(), ifindex: uplink }])
        };
        let mut routes = vec![
            route(&self.block4(), Action::Blackhole(BlackholeKind::Own)),
            route(&self.block6(), Action::Blackhole(BlackholeKind::Own)),
            route(&peer.block4(), via(format!("192.168.80.{}", peer.number))),
            route(&peer.block6(), via(format!("fd00:80::{}", peer.number))),
        ];
        for pod in &self.pods {
            let action =
                Action::Local { ifindex: self.namespace.ifindex(pod.host_side), mac: Some(pod.mac()) };
            routes.push(route(&format!("{}/32", pod.v4), action.clone()));
            routes.push(route(&format!("{}/128", pod.v6), action));
        }
        routes
    }

    /// A sink with all routes in its map, on all interfaces, carrying packets.
    pub fn sink(&self, peer: &Node) -> EbpfSink {
        let routes = self.routes(peer);
        let names: Vec<&'static str> = self.pods.iter().map(|pod| pod.host_side).collect();
        self.namespace.run(move || {
            let (mut sink, _) = EbpfSink::open(&Options::default()).unwrap();
            sink.set_pools(&pools()).unwrap();
            let applied = sink.reconcile(&routes).unwrap();
            assert!(applied.refused.is_empty(), "{applied:?}");
            attach(&mut sink, &names);
            sink.set_whole_mode(Mode::Unguarded);
            sink
        })
    }
}

/// Where the pods' addresses come from. The blocks of IPv6 are longer than the routes, as of a fleet that routes /64s.
pub fn pools() -> Vec<PoolSpec> {
    let pool = |(prefix, block_len): (&str, u8)| PoolSpec {
        name: prefix.to_owned(),
        prefix: prefix.parse().unwrap(),
        block_len,
        mode: Mode::Unguarded,
    };
    [("172.16.0.0/16", 26), ("fd00:36::/32", 122), ("fd00:100::/24", 122)].map(pool).to_vec()
}

/// To the uplink and these pods, in the namespace of this thread.
pub fn attach(sink: &mut EbpfSink, pods: &[&str]) {
    let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
    sink.attach_uplink(index(UPLINK)).unwrap();
    for pod in pods {
        sink.attach_pod(index(pod)).unwrap();
    }
}

impl Pod {
    pub fn mac(&self) -> manx_dataplane::route::Mac {
        let text = self.namespace.run(|| run("ip", "-br link show eth0"));
        let mac = text.split_whitespace().find(|word| word.matches(':').count() == 5).unwrap();
        let octets: Vec<u8> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16).unwrap()).collect();
        manx_dataplane::route::Mac(octets.try_into().unwrap())
    }

    /// Answers to `count` pings, one each `interval` seconds.
    pub fn answers(&self, to: &str, count: u32, interval: f32) -> u32 {
        let arguments = format!("-q -n -W 1 -c {count} -i {interval} {to}");
        self.namespace.run(move || {
            let output =
                std::process::Command::new("ping").args(arguments.split_whitespace()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let received = text.split(" received").next().and_then(|text| text.rsplit(' ').next());
            received.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text}"))
        })
    }
}

/// What was counted meanwhile.
pub fn since(before: &Counters, now: &Counters) -> Counters {
    let mut difference = now.clone();
    for verdict in manx_abi::VERDICTS {
        *difference.pod_tc.get_mut(*verdict) -= before.pod_tc.get(*verdict);
        *difference.uplink_tc.get_mut(*verdict) -= before.uplink_tc.get(*verdict);
        *difference.uplink_xdp.get_mut(*verdict) -= before.uplink_xdp.get(*verdict);
    }
    difference
}

/// The uplink's MTU.
pub fn set_mtu(node: &Node, mtu: u32) {
    node.namespace.run(move || ip(&format!("link set {UPLINK} mtu {mtu}")));
}
