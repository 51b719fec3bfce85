//! Two nodes with two wires between them, where connections are tracked: a flow's two directions need not take the same
//! wire. Conntrack sees both wherever they come by, so what it knows is carried, and no connection breaks.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use manx_dataplane::{
    ebpf::{Counters, EbpfSink, KeepAlive, Mode},
    route::{Action, NextHop, Route},
};

use crate::{
    namespace::{Namespace, run},
    nodes::{Node, UPLINK, pair, since},
};

/// Name and subnet.
const WIRES: [(&str, u8); 2] = [(UPLINK, 80), ("ens34", 81)];
/// Of each transport.
const FLOWS: u64 = 12;
const ROUNDS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// A node with its last octet on the wires, and its sink.
struct End {
    node: Node,
    number: u8,
    sink: EbpfSink,
}

/// On both nodes rules track, and what conntrack takes for invalid is dropped.
fn ends() -> [End; 2] {
    let (kw01, kw02) = pair();
    let [_, (second, subnet)] = WIRES;
    kw01.namespace.veth(second, &kw02.namespace, second);
    let sinks = [kw01.sink(&kw02), kw02.sink(&kw01)];
    let ends = [(kw01, 124), (kw02, 125)].into_iter().zip(sinks).map(|((node, number), mut sink)| {
        node.namespace.ip(&format!("addr add 192.168.{subnet}.{number}/24 dev {second}"));
        node.namespace.ip(&format!("-6 addr add fd00:{subnet}::{number}/64 dev {second} nodad"));
        let sink = node.namespace.run(move || {
            for name in ["all", UPLINK, second] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
            }
            run("nft", "add table inet track");
            run("nft", "add chain inet track forward { type filter hook forward priority 0 ; }");
            run("nft", "add rule inet track forward ct state invalid counter drop");
            for liberal in ["tcp_be_liberal", "tcp_ignore_invalid_rst"] {
                std::fs::write(format!("/proc/sys/net/netfilter/nf_conntrack_{liberal}"), "1").unwrap();
            }
            sink.attach_uplink(nix::net::if_::if_nametoindex(second).unwrap()).unwrap();
            sink.set_keep_alive(KeepAlive::default());
            sink.set_whole_mode(Mode::Guarded);
            sink
        });
        End { node, number, sink }
    });
    <[End; 2]>::try_from(ends.collect::<Vec<_>>()).unwrap_or_else(|_| unreachable!("there are two"))
}

impl End {
    /// Sends by these wires what is the other's, in the map and in the FIB.
    fn sends_by(&mut self, wires: &[usize], other: &End) {
        for (v4, block) in [(true, other.node.block4()), (false, other.node.block6())] {
            let (mut hops, mut by) = (Vec::new(), String::new());
            for (name, subnet) in wires.iter().map(|wire| WIRES[*wire]) {
                let wire = if v4 { format!("192.168.{subnet}.") } else { format!("fd00:{subnet}::") };
                let gateway = format!("{wire}{}", other.number);
                by += &format!(" nexthop via {gateway} dev {name}");
                let gateway = gateway.parse().unwrap();
                hops.push(NextHop { gateway, ifindex: self.node.namespace.ifindex(name) });
            }
            let family = if v4 { "-4" } else { "-6" };
            self.node.namespace.ip(&format!("{family} route replace {block}{by}"));
            let route = Route { prefix: block.parse().unwrap(), action: Action::Via(hops) };
            assert!(self.sink.apply(&[route], &[]).unwrap().refused.is_empty());
        }
    }

    fn counted(&self) -> Counters {
        self.sink.counters().unwrap()
    }

    /// Packets that it sent to each wire by the map's next hops.
    fn sent(&self) -> [u64; 2] {
        let counts = self.sink.next_hop_counts().unwrap();
        WIRES.map(|(name, _)| {
            let ifindex = self.node.namespace.ifindex(name);
            counts.iter().filter(|(hop, _)| hop.ifindex == ifindex).map(|(_, tally)| tally.packets).sum()
        })
    }
}

enum Flow {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Flow {
    /// So many requests, each with its answer.
    fn ask(&mut self, times: u64) {
        for number in 0..times {
            let (request, mut answer) = ([number as u8; 600], [0xff; 600]);
            match self {
                Flow::Tcp(stream) => {
                    stream.write_all(&request).unwrap();
                    stream.read_exact(&mut answer).unwrap();
                }
                Flow::Udp(socket) => {
                    socket.send(&request).unwrap();
                    assert_eq!(socket.recv(&mut answer).unwrap(), request.len());
                }
            }
            assert!(answer == request);
        }
    }
}

/// Answers at this address with what it gets; its ports by TCP and UDP.
fn serve(at: &Namespace, address: IpAddr) -> [u16; 2] {
    let (listener, socket) =
        at.run(move || (TcpListener::bind((address, 0)).unwrap(), UdpSocket::bind((address, 0)).unwrap()));
    let ports = [listener.local_addr().unwrap().port(), socket.local_addr().unwrap().port()];
    std::thread::spawn(move || {
        for mut stream in listener.incoming().take(FLOWS as usize).map(Result::unwrap) {
            std::thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    std::thread::spawn(move || {
        let mut request = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut request) {
            socket.send_to(&request[..length], from).unwrap();
        }
    });
    ports
}

fn open(from: &Namespace, address: IpAddr, [tcp, udp]: [u16; 2]) -> Vec<Flow> {
    from.run(move || {
        let streams = (0..FLOWS).map(|_| {
            let stream = TcpStream::connect((address, tcp)).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            Flow::Tcp(stream)
        });
        let unspecified: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let datagrams = (0..FLOWS).map(|_| {
            let socket = UdpSocket::bind((unspecified, 0)).unwrap();
            socket.connect((address, udp)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            Flow::Udp(socket)
        });
        streams.chain(datagrams).collect()
    })
}

#[test]
fn a_guarded_flow_whose_directions_take_different_next_hops_is_carried_and_unbroken() {
    let [mut here, mut there] = ends();
    if !here.sink.guard().is_available() {
        return println!("no guard: {:?}", here.sink.guard());
    }
    for address in [there.node.pods[0].v4.clone(), there.node.pods[0].v6.clone()] {
        let address: IpAddr = address.parse().unwrap();
        let ports = serve(&there.node.pods[0].namespace, address);
        here.sends_by(&[0], &there);
        there.sends_by(&[1], &here);
        let mut flows = open(&here.node.pods[0].namespace, address, ports);
        // Conntrack's own view of UDP changes after two seconds; by then it has seen both directions.
        flows.iter_mut().for_each(|flow| flow.ask(2));
        // One wire there and the other back; the other way round; and each direction of each flow by its own choice.
        for (out, back) in [(&[0][..], &[1][..]), (&[1], &[0]), (&[0, 1], &[0, 1]), (&[0, 1], &[1])] {
            here.sends_by(out, &there);
            there.sends_by(back, &here);
            let before = [(here.counted(), here.sent()), (there.counted(), there.sent())];
            flows.iter_mut().for_each(|flow| flow.ask(ROUNDS));
            let asked = 2 * FLOWS * ROUNDS;
            for ((end, wires), (counted, sent)) in [(&here, out), (&there, back)].into_iter().zip(&before) {
                let counted = since(counted, &end.counted());
                let (away, into) = (counted.pod_tc.redirected_neigh, counted.uplink_tc.redirected_peer);
                // Where this takes long, one packet of a flow goes by the stack, which renews its entry.
                for (carried, renewed) in
                    [(away, counted.pod_tc.keep_alive), (into, counted.uplink_tc.keep_alive)]
                {
                    let counts = || format!("{address} {out:?} {back:?}: {counted:?}");
                    assert!(renewed <= 2 * FLOWS, "{}", counts());
                    // But for acknowledgements of their own, each packet is a request or an answer.
                    assert!(carried + renewed >= asked, "{}", counts());
                }
                let now = end.sent();
                for wire in [0, 1] {
                    let used = now[wire] - sent[wire] > 0;
                    assert_eq!(used, wires.contains(&wire), "{address} {out:?} {back:?}: {sent:?} {now:?}");
                }
            }
        }
        for end in [&here, &there] {
            let rules = end.node.namespace.run(|| run("nft", "list table inet track"));
            assert!(rules.contains("invalid counter packets 0 "), "{rules}");
        }
    }
}
