//! The two nodes, wired alike: the same interfaces, MACs, addresses, neighbours and routes.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use manx_abi::{VERDICTS, Verdict};
use manx_dataplane::{
    ebpf::{Counters, EbpfSink, Mode, Options, PoolSpec},
    route::Route,
};

use crate::{
    model::{
        BORROWED, DEFAULT, FAR_MTU, GATEWAYS, INTERFACES, KNOWN, LINK_LOCAL, NODE, OWN, PODS, POOLS, TUNNEL,
        UNHEARD, in_pool, on_wire, text,
    },
    namespace::{Namespace, run},
    packets::{Sent, checksum},
    tables::Table,
    wire::{Offload, Tap, stay_on_one_processor},
};

/// By the interface's number.
pub type Frames = Vec<(usize, Offload, Vec<u8>)>;

/// Longer than any scheduler keeps a processor from its backlog.
const PATIENCE: Duration = Duration::from_secs(10);

/// One node and the far ends of its interfaces.
pub struct Node {
    pub namespace: Namespace,
    _far: Namespace,
    taps: Vec<Tap>,
    /// By the interface's number.
    ifindex: Vec<u32>,
    markers: u32,
}

impl Node {
    fn new() -> Node {
        let (node, far) = (Namespace::new(), Namespace::new());
        // The far ends say nothing by themselves.
        far.run(|| {
            set("ipv6/conf/default/disable_ipv6", "1");
            set("ipv4/ip_forward", "0");
        });
        node.run(|| {
            for (setting, value) in [
                // Errors are owed for each packet, not for some a second.
                ("ipv4/icmp_ratelimit", "0"),
                ("ipv4/icmp_ratemask", "0"),
                ("ipv6/icmp/ratelimit", "0"),
                ("ipv6/icmp/ratemask", "\n"),
                ("ipv4/icmp_msgs_per_sec", "100000000"),
                ("ipv4/icmp_msgs_burst", "100000000"),
                // By the clock, and limited by it: ICMP redirects.
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
                ("ipv6/auto_flowlabels", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
                // What the node itself would put together is never given up within a test.
                ("ipv4/ipfrag_time", "3600"),
                ("ipv6/ip6frag_time", "3600"),
            ] {
                set(setting, value);
            }
        });
        for interface in &INTERFACES {
            let (name, far_end) = (interface.name, format!("{}-far", interface.name));
            node.veth(name, &far, &far_end);
            // The kernel cuts up what goes to an interface with XDP; so it does for the twin's, which has none.
            if !interface.is_pod() {
                let off = format!("-K {far_end} tso off gso off");
                far.run(move || drop(run("ethtool", &off)));
            }
            far.ip(&format!("link set {far_end} address {} mtu {FAR_MTU}", text(interface.far_mac)));
            node.ip(&format!("link set {name} down"));
            node.ip(&format!("link set {name} address {} mtu {}", text(interface.mac), interface.mtu));
            node.ip(&format!("link set {name} up"));
        }
        node.run(|| batch(&wiring()));
        let ifindex = INTERFACES.iter().map(|interface| node.ifindex(interface.name)).collect();
        let taps = far.run(|| {
            let open = |interface: &crate::model::Interface| {
                let name = format!("{}-far", interface.name);
                Tap::open(nix::net::if_::if_nametoindex(name.as_str()).expect("it was made"))
            };
            INTERFACES.iter().map(|interface| open(interface).expect("root may open it")).collect()
        });
        Node { namespace: node, _far: far, taps, ifindex, markers: 0 }
    }

    /// Sends these and gives what came out until the node was quiet. Whatever it owes is out when a marker is that
    /// was sent after it: the interfaces' queues and the processor's backlog keep their order.
    pub fn exchange(&mut self, packets: &[&Sent]) -> Frames {
        for sent in packets {
            let interface = &INTERFACES[sent.interface];
            match self.taps[sent.interface].send(sent.offload, &sent.frame) {
                Ok(()) => {}
                // A veth refuses what is larger than the receiver's MTU and a tag.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOBUFS)
                        && sent.frame.len() > interface.mtu + 18 => {}
                Err(error) => panic!("{error}: {} octets into {}", sent.frame.len(), interface.name),
            }
        }
        let mut out = Frames::new();
        self.mark(&[0, 1, 2, 3, 4, 5], &mut out);
        // A marker that was redirected into a pod may have overtaken what the stack had put on the backlog.
        self.mark(&[0], &mut out);
        out
    }

    fn mark(&mut self, interfaces: &[usize], out: &mut Frames) {
        self.markers += 1;
        let number = self.markers;
        for interface in interfaces {
            self.taps[*interface]
                .send(Offload::default(), &marker(*interface, number))
                .expect("as large as any");
        }
        let mut missing = interfaces.len();
        let started = Instant::now();
        while missing > 0 {
            let mut idle = true;
            for (interface, tap) in self.taps.iter_mut().enumerate() {
                while let Some((offload, frame)) = tap.receive().expect("the interface is up") {
                    idle = false;
                    if is_marker(&frame, number) {
                        missing -= 1;
                    } else {
                        out.push((interface, offload, frame));
                    }
                }
            }
            assert!(started.elapsed() < PATIENCE, "{missing} markers were lost; came out: {out:02x?}");
            if idle && missing > 0 {
                thread::yield_now();
            }
        }
    }

    fn batch(&self, lines: String) {
        self.namespace.run(move || batch(&lines));
    }
}

const MARKER: &[u8] = b"manx: all before this";

/// From a pod to another node's, or from the wire to the first pod: forwarded whatever the table says of the rest.
fn marker(interface: usize, number: u32) -> Vec<u8> {
    let pod = INTERFACES[interface].is_pod();
    let own = PODS.iter().find(|(behind, _)| *behind == interface).map_or(PODS[0].1, |(_, last)| *last);
    let remote = [172, 16, KNOWN, 1];
    let ours = [172, 16, OWN, own];
    let (from, to) = if pod { (ours, remote) } else { (remote, ours) };
    let mut frame = [INTERFACES[interface].mac, INTERFACES[interface].far_mac].concat();
    frame.extend([0x08, 0]);
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 253, 0, 0];
    header[2..4].copy_from_slice(&((20 + MARKER.len() + 4) as u16).to_be_bytes());
    header.extend([from, to].concat());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(MARKER);
    frame.extend(number.to_be_bytes());
    frame
}

fn is_marker(frame: &[u8], number: u32) -> bool {
    frame.ends_with(&number.to_be_bytes()) && frame.get(34..34 + MARKER.len()) == Some(MARKER)
}

/// Addresses and neighbours; nobody on the wires is asked for, nothing is found by the clock.
fn wiring() -> String {
    let mut lines = String::new();
    let neighbour = |address: std::net::IpAddr, mac, interface: usize| {
        format!("neigh add {address} lladdr {} dev {} nud permanent\n", text(mac), INTERFACES[interface].name)
    };
    for v4 in [true, false] {
        for interface in INTERFACES.iter().filter(|interface| !interface.is_pod()) {
            let rest = if v4 { "24 brd +" } else { "64 nodad" };
            let address = on_wire(interface.subnet, NODE, v4);
            lines += &format!("addr add {address}/{rest} dev {}\n", interface.name);
        }
        for gateway in GATEWAYS.into_iter().chain([DEFAULT]) {
            lines += &neighbour(gateway.address(v4), gateway.mac(), gateway.interface);
        }
        for (interface, last) in PODS.into_iter().chain([(1, UNHEARD)]) {
            lines += &neighbour(in_pool(OWN, last, v4), INTERFACES[interface].far_mac, interface);
        }
        lines += &neighbour(in_pool(KNOWN, BORROWED, v4), INTERFACES[1].far_mac, 1);
        let (tunnel, length) = (in_pool(OWN, TUNNEL, v4), if v4 { "32" } else { "128 nodad" });
        lines += &format!("addr add {tunnel}/{length} dev lo\n");
        let family = if v4 { "-4" } else { "-6" };
        let (via, dev) = (DEFAULT.address(v4), INTERFACES[DEFAULT.interface].name);
        lines += &format!("{family} route add default via {via} dev {dev}\n");
    }
    for (number, interface) in INTERFACES.iter().enumerate() {
        for address in LINK_LOCAL {
            lines += &neighbour(address.into(), interface.far_mac, number);
        }
    }
    lines
}

/// `ip -batch`, in the namespace of this thread. `-4` and `-6` in front of a line are for that line.
fn batch(lines: &str) {
    for family in ["-4", "-6"] {
        let of_family = |line: &str| match line.split_once(' ') {
            Some((first @ ("-4" | "-6"), rest)) => (first == family).then(|| rest.to_owned()),
            // Addresses and neighbours say by themselves what they are.
            _ => (line.contains("::") == (family == "-6")).then(|| line.to_owned()),
        };
        let lines: Vec<String> = lines.lines().filter_map(of_family).collect();
        let mut child = Command::new("ip")
            .args([family, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("iproute2 is there");
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(lines.join("\n").as_bytes()).expect("ip reads");
        input.write_all(b"\n").expect("ip reads");
        drop(input);
        let output = child.wait_with_output().expect("it was started");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}\n{}", lines.join("\n"));
    }
}

/// Settings that this kernel does not have per namespace are left alone.
fn set(setting: &str, value: &str) {
    let path = format!("/proc/sys/net/{setting}");
    match fs::write(&path, value) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => panic!("{path}: {error}"),
    }
}

/// Both nodes, and the sink of the one that has programs.
pub struct Lab {
    pub with: Node,
    pub without: Node,
    sink: Arc<Mutex<EbpfSink>>,
    pub table: Table,
    held: Vec<Route>,
    /// Both nodes track connections.
    pub tracks: bool,
    /// How many frames of several packets in one came out of the node with programs.
    pub several: usize,
}

impl Lab {
    pub fn new() -> Lab {
        stay_on_one_processor();
        let (with, without) = (Node::new(), Node::new());
        for node in [&with, &without] {
            // IPv4's own check of a pod's source, as Calico sets it; IPv6 has none.
            node.namespace.run(|| {
                for interface in &INTERFACES {
                    let strict = if interface.is_pod() { "1" } else { "0" };
                    set(&format!("ipv4/conf/{}/rp_filter", interface.name), strict);
                }
            });
        }
        let ifindex = with.ifindex.clone();
        let sink = with.namespace.run(move || {
            let (mut sink, _) = EbpfSink::open(&Options::default()).expect("the programs load");
            for (interface, ifindex) in INTERFACES.iter().zip(ifindex) {
                if interface.is_pod() {
                    sink.attach_pod(ifindex).expect("a veth");
                } else {
                    sink.attach_uplink(ifindex).expect("a veth");
                }
            }
            sink.set_whole_mode(Mode::Unguarded);
            sink.set_vacancy(true);
            sink
        });
        for node in [&with, &without] {
            // XDP switches GRO on; what it merges is right, and differs with the clock.
            for interface in &INTERFACES {
                let name = interface.name;
                node.namespace.run(move || run("ethtool", &format!("-K {name} gro off")));
            }
        }
        let (sink, table) = (Arc::new(Mutex::new(sink)), Table::default());
        Lab { with, without, sink, table, held: Vec::new(), tracks: false, several: 0 }
    }

    /// Another table in both kernels and in the maps; `pools_on` by their place in [`crate::model::POOLS`].
    pub fn set_table(&mut self, table: Table, pools_on: [bool; 4]) {
        for node in [&self.with, &self.without] {
            node.batch(self.table.commands("del") + &table.commands("add"));
        }
        let routes = table.routes(&self.with.ifindex);
        let pools: Vec<PoolSpec> = POOLS
            .iter()
            .zip(pools_on)
            .map(|((pool, block_len), on)| PoolSpec {
                name: (*pool).to_owned(),
                prefix: pool.parse().expect("a prefix"),
                block_len: *block_len,
                mode: if on { Mode::Unguarded } else { Mode::Off },
            })
            .collect();
        let not_indexed = self.sink(move |sink| sink.set_pools(&pools).expect("the maps are there"));
        assert_eq!(not_indexed, []);
        let gone = self.held.iter().map(|route| route.prefix);
        let gone = gone.filter(|prefix| routes.iter().all(|route| route.prefix != *prefix)).collect();
        (self.table, self.held) = (table, routes.clone());
        self.apply(routes, gone);
    }

    pub fn apply(&self, upserts: Vec<Route>, removals: Vec<manx_net::Prefix>) {
        let applied = self.sink(move |sink| sink.apply(&upserts, &removals).expect("the maps are there"));
        assert!(applied.refused.is_empty(), "{applied:?}");
    }

    /// Runs in the node's namespace, where the sink belongs.
    pub fn sink<T: Send + 'static>(&self, job: impl FnOnce(&mut EbpfSink) -> T + Send + 'static) -> T {
        let sink = Arc::clone(&self.sink);
        self.with.namespace.run(move || job(&mut sink.lock().expect("no test goes on after a panic")))
    }

    pub fn with_ifindex(&self) -> Vec<u32> {
        self.with.ifindex.clone()
    }

    pub fn counters(&self) -> Counters {
        self.sink(|sink| sink.counters().expect("the map is there"))
    }

    pub fn exchange(&mut self, packets: &[&Sent]) -> (Frames, Frames) {
        let (with, without) = (self.with.exchange(packets), self.without.exchange(packets));
        self.several += with.iter().filter(|(_, offload, _)| offload.is_several()).count();
        (with, without)
    }
}

/// What was counted, over all programs, markers included.
pub fn counted(before: &Counters, after: &Counters) -> Vec<(Verdict, u64)> {
    let more = |verdict: &Verdict| (*verdict, after.total(*verdict) - before.total(*verdict));
    VERDICTS.iter().map(more).filter(|(_, count)| *count > 0).collect()
}
