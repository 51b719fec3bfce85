//! Makes the recording that is replayed: real hosts at the far ends of a node that is the kernel alone, with the lab's
//! own addresses, and all that they send.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    model::{INTERFACES, KNOWN, NODE, OWN, in_pool, on_wire, text},
    namespace::{Namespace, run},
    wire::Tap,
};

/// Whoever is at the far end: two pods, and a router on the wire behind which a block is.
const HOSTS: [(usize, u8); 3] = [(0, 193), (1, 194), (3, 1)];
/// The router's own number on the wire.
const ROUTER: u8 = 125;
const PORT: u16 = 5001;
/// Octets of a transfer; the recording is kept small.
const TRANSFER: usize = 6_000;

struct Host {
    namespace: Namespace,
    interface: usize,
    address: [IpAddr; 2],
}

/// A pcap file of what the hosts sent.
pub fn record() -> Vec<u8> {
    let node = Namespace::new();
    let hosts = HOSTS.map(|(interface, number)| host(&node, interface, number));
    // What the kernel says for itself when an interface comes up.
    thread::sleep(Duration::from_secs(2));
    let mut taps = hosts.each_ref().map(|host| {
        let far_end = far_end(host.interface);
        host.namespace.run(move || {
            let ifindex = nix::net::if_::if_nametoindex(far_end.as_str()).expect("it was made");
            Tap::of_outgoing(ifindex).expect("root may open it")
        })
    });
    let [pod, neighbour, remote] = &hosts;
    for (from, to) in [(pod, neighbour), (pod, remote), (remote, neighbour)] {
        for family in [0, 1] {
            talk(from, to, family);
        }
    }
    let mut frames = Vec::new();
    for tap in &mut taps {
        while let Some((_, frame)) = tap.receive().expect("the interface is up") {
            frames.push((tap.time, frame));
        }
    }
    // As they were said, an answer after its question.
    frames.sort();
    let mut file = header();
    for (time, frame) in &frames {
        write(&mut file, *time, frame);
    }
    file
}

fn far_end(interface: usize) -> String {
    format!("{}-far", INTERFACES[interface].name)
}

/// As [`crate::lab`] wires the far ends, but with somebody there.
fn host(node: &Namespace, interface: usize, number: u8) -> Host {
    let (namespace, wiring) = (Namespace::new(), &INTERFACES[interface]);
    let far_end = far_end(interface);
    node.veth(wiring.name, &namespace, &far_end);
    node.ip(&format!("link set {} address {}", wiring.name, text(wiring.mac)));
    namespace.ip(&format!("link set {far_end} address {}", text(wiring.far_mac)));
    let block = if wiring.is_pod() { OWN } else { KNOWN };
    let address = [true, false].map(|v4| in_pool(block, number, v4));
    for own in address {
        let (v4, length) = (own.is_ipv4(), if own.is_ipv4() { "32" } else { "128 nodad" });
        let family = if v4 { "-4" } else { "-6" };
        let gateway = if wiring.is_pod() {
            if v4 { IpAddr::from([169, 254, 1, 1]) } else { "fe80::1".parse().expect("an address") }
        } else {
            on_wire(wiring.subnet, NODE, v4)
        };
        let gateway_length = if v4 { 32 } else { 128 };
        namespace.ip(&format!("addr add {own}/{length} dev lo"));
        namespace.ip(&format!("neigh add {gateway} lladdr {} dev {far_end}", text(wiring.mac)));
        namespace.ip(&format!("{family} route add {gateway}/{gateway_length} dev {far_end}"));
        namespace.ip(&format!("{family} route add default via {gateway} dev {far_end} src {own}"));
        if wiring.is_pod() {
            node.ip(&format!("neigh add {own} lladdr {} dev {}", text(wiring.far_mac), wiring.name));
            node.ip(&format!("{family} route add {own} dev {}", wiring.name));
        } else {
            let (router, nodad) = (on_wire(wiring.subnet, ROUTER, v4), if v4 { "24" } else { "64 nodad" });
            node.ip(&format!("addr add {}/{nodad} dev {}", on_wire(wiring.subnet, NODE, v4), wiring.name));
            node.ip(&format!("neigh add {router} lladdr {} dev {}", text(wiring.far_mac), wiring.name));
            node.ip(&format!("{family} route add {own} via {router} dev {}", wiring.name));
        }
    }
    Host { namespace, interface, address }
}

/// Everything that hosts usually do to each other.
fn talk(from: &Host, to: &Host, family: usize) {
    let (source, target) = (from.address[family], to.address[family]);
    let ping = |arguments: &str| {
        let arguments = format!("-n -q -c 2 -i 0.01 -W 1 {arguments} -I {source} {target}");
        // One whose packets expire on the way fails, as it should.
        from.namespace.run(move || {
            drop(Command::new("ping").args(arguments.split_whitespace()).output().expect("ping is there"));
        });
    };
    ping("");
    ping("-s 1400 -c 1");
    // More than the MTU: fragments.
    ping("-s 2000 -c 1");
    ping("-t 1");
    ping("-t 2");
    ping("-Q 184");
    for offloads in ["on", "off"] {
        for host in [from, to] {
            let arguments = format!("-K {} tso {offloads} gso {offloads}", far_end(host.interface));
            host.namespace.run(move || drop(run("ethtool", &arguments)));
        }
        transfer(from, to, source, target);
    }
    datagrams(from, to, source, target);
}

fn transfer(from: &Host, to: &Host, source: IpAddr, target: IpAddr) {
    let listener = to.namespace.run(move || TcpListener::bind((target, 0)).expect("an address of its own"));
    let there = listener.local_addr().expect("it is bound");
    let reader = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("somebody connects");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("all of it comes");
        stream.write_all(&received[..1000]).expect("and some goes back");
        received.len()
    });
    from.namespace.run(move || {
        let mut stream = TcpStream::connect(there).expect("it listens");
        assert_eq!(stream.local_addr().expect("it is connected").ip(), source);
        stream.write_all(&vec![0x55; TRANSFER]).expect("the window is larger");
        stream.shutdown(std::net::Shutdown::Write).expect("it is connected");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("all of it comes");
        // Nobody listens there.
        drop(TcpStream::connect_timeout(&SocketAddr::new(target, 9), Duration::from_millis(100)));
    });
    assert_eq!(reader.join().expect("the reader does not panic"), TRANSFER);
}

/// Small ones, fragments, one to nobody, and what traceroute sends.
fn datagrams(from: &Host, to: &Host, source: IpAddr, target: IpAddr) {
    let receiver = to.namespace.run(move || UdpSocket::bind((target, PORT)).expect("an address of its own"));
    from.namespace.run(move || {
        let socket = UdpSocket::bind((source, 0)).expect("an address of its own");
        for length in [0, 1, 100, 1400, 2500] {
            socket.send_to(&vec![0x2a; length], (target, PORT)).expect("there is a route");
        }
        for hops in [1, 2, 3] {
            if source.is_ipv4() {
                socket.set_ttl(hops).expect("a number of hops");
            }
            // An error for an earlier one may be told here.
            drop(socket.send_to(b"whoever is there", (target, 33_434 + hops as u16)));
        }
    });
    drop(receiver);
}

/// The magic number, version 2.4, and Ethernet with up to 256 kB of each frame.
pub fn header() -> Vec<u8> {
    let mut header = 0xa1b2_c3d4u32.to_le_bytes().to_vec();
    header.extend([2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    header.extend((1u32 << 18).to_le_bytes());
    header.extend(1u32.to_le_bytes());
    header
}

fn write(file: &mut Vec<u8>, time: Duration, frame: &[u8]) {
    let length = frame.len() as u32;
    for word in [time.as_secs() as u32, time.subsec_micros(), length, length] {
        file.extend(word.to_le_bytes());
    }
    file.extend(frame);
}
