//! Every path through a node with real hosts at its ends: offloads on and off, MTUs that differ, uplinks of other
//! kinds than a wire, and neighbours and interfaces that change under the traffic.

use manx_abi::Verdict;
use manx_dataplane::ebpf::{EbpfSink, InterfaceSettings, Options};

use crate::{
    forwarding::transfer,
    namespace::{Namespace, run},
    nodes::{Node, UPLINK, pair, since},
};

fn offloads(namespace: &Namespace, device: &str, state: &str) {
    let arguments = format!("-K {device} tso {state} gso {state} gro {state} tx {state}");
    namespace.run(move || drop(run("ethtool", &arguments)));
}

#[test]
fn tcp_takes_every_path_with_offloads_on_and_off() {
    let (kw01, kw02) = pair();
    let (here, there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    for state in ["off", "on"] {
        for node in [&kw01, &kw02] {
            offloads(&node.namespace, UPLINK, state);
            for pod in &node.pods {
                offloads(&node.namespace, pod.host_side, state);
                offloads(&pod.namespace, "eth0", state);
            }
        }
        let (pod, neighbour, remote) = (&kw01.pods[0], &kw01.pods[1], &kw02.pods[0]);
        for (from, to, addresses) in [
            (pod, neighbour, [&neighbour.v4, &neighbour.v6]),
            (pod, remote, [&remote.v4, &remote.v6]),
            (remote, neighbour, [&neighbour.v4, &neighbour.v6]),
        ] {
            for address in addresses {
                let before = (here.counters().unwrap(), there.counters().unwrap());
                transfer(&from.namespace, &to.namespace, address);
                let (here, there) = (
                    since(&before.0, &here.counters().unwrap()),
                    since(&before.1, &there.counters().unwrap()),
                );
                for counted in [&here, &there] {
                    let big = counted.total(Verdict::TooBig) + counted.total(Verdict::Unreadable);
                    assert_eq!(big, 0, "offloads {state}, to {address}: {counted:?}");
                }
                let carried = here.total(Verdict::RedirectedPeer) + there.total(Verdict::RedirectedPeer);
                assert!(carried > 60, "offloads {state}, to {address}: {here:?} {there:?}");
            }
        }
    }
}

#[test]
fn hosts_and_pods_reach_each_other_by_the_stack() {
    let (kw01, kw02) = pair();
    let (here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let pod = &kw01.pods[0];
    for (host, pod_address, own, wire) in [
        ("192.168.80.125", &pod.v4, "192.168.80.124", &kw02.namespace),
        ("fd00:80::125", &pod.v6, "fd00:80::124", &kw02.namespace),
    ] {
        // The host needs a way back that is not by the peer's block.
        let before = here.counters().unwrap();
        transfer(&pod.namespace, wire, host);
        transfer(wire, &pod.namespace, pod_address);
        transfer(&pod.namespace, &kw01.namespace, own);
        transfer(&kw01.namespace, &pod.namespace, pod_address);
        let counted = since(&before, &here.counters().unwrap());
        let fast = counted.total(Verdict::RedirectedPeer) + counted.total(Verdict::RedirectedNeigh);
        assert_eq!(fast, 0, "a host is in no pool: {counted:?}");
    }
}

#[test]
fn pods_with_jumbo_frames_learn_of_the_smaller_mtus_on_their_way() {
    let (kw01, kw02) = pair();
    let (here, there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let (pod, neighbour, remote) = (&kw01.pods[0], &kw01.pods[1], &kw02.pods[0]);
    for (node, pods) in [(&kw01, &kw01.pods), (&kw02, &kw02.pods)] {
        for pod in pods {
            node.namespace.ip(&format!("link set {} mtu 9000", pod.host_side));
            pod.namespace.ip("link set eth0 mtu 9000");
        }
    }
    // The neighbour has 1280, which TCP is told and pings are not; the wire 1500, with 9000 behind it.
    kw01.namespace.ip(&format!("link set {} mtu 1280", neighbour.host_side));
    neighbour.namespace.ip("link set eth0 mtu 1280");
    for (from, to, address) in [
        (pod, remote, &remote.v4),
        (pod, remote, &remote.v6),
        (pod, neighbour, &neighbour.v4),
        (pod, neighbour, &neighbour.v6),
    ] {
        let before = here.counters().unwrap();
        transfer(&from.namespace, &to.namespace, address);
        let counted = since(&before, &here.counters().unwrap());
        let learns = std::ptr::eq(to, remote);
        assert!(!learns || counted.pod_tc.too_big > 0, "the stack says so, to {address}: {counted:?}");
        let carried = counted.pod_tc.redirected_neigh + counted.pod_tc.redirected_peer;
        assert!(carried > 60, "then it fits, to {address}: {counted:?}");
    }
    // What is larger than an MTU is cut up: by the stack where it may (IPv4 without DF), else by the pod itself once
    // it has learned, which costs the first.
    for (address, how) in [(&remote.v4, "dont"), (&neighbour.v4, "dont"), (&remote.v6, "want")] {
        let said = pings(&pod.namespace, &format!("-c 3 -M {how} -s 4000"), address);
        assert!(said.contains("icmp_seq=2 ttl=6") && said.contains("icmp_seq=3 ttl=6"), "{said}");
    }
    drop(there);
}

fn pings(from: &Namespace, options: &str, to: &str) -> String {
    let arguments = format!("-n -i 0.01 -W 1 {options} {to}");
    from.run(move || {
        let output = std::process::Command::new("ping").args(arguments.split_whitespace()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

#[test]
fn each_hop_of_a_route_answers_for_itself() {
    let (kw01, kw02) = pair();
    let (_here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let (pod, remote) = (&kw01.pods[0], &kw02.pods[0]);
    for (address, hops) in
        [(&remote.v4, ["192.168.80.124", "192.168.80.125"]), (&remote.v6, ["fd00:80::124", "fd00:80::125"])]
    {
        for (hop, router) in (1..).zip(hops) {
            let said = pings(&pod.namespace, &format!("-c 1 -t {hop}"), address);
            let line = said.lines().find(|line| line.contains("Time")).unwrap_or_else(|| panic!("{said}"));
            assert!(line.contains(&format!("From {router} ")), "{line}");
        }
        assert!(pings(&pod.namespace, "-c 1 -t 3", address).contains(" 1 received"));
    }
}

#[test]
fn a_neighbour_that_moves_to_another_mac_is_followed() {
    let (kw01, kw02) = pair();
    let (here, mut there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let (pod, remote) = (&kw01.pods[0], &kw02.pods[0]);
    assert_eq!(pod.answers(&remote.v4, 3, 0.01), 3);
    kw02.namespace.ip(&format!("link set {UPLINK} address 02:00:00:00:00:77"));
    kw01.namespace.ip(&format!("neigh flush dev {UPLINK}"));
    // The agent hears of its own interface's new MAC.
    there = again(&kw02, there);
    for address in [&remote.v4, &remote.v6] {
        let before = here.counters().unwrap();
        assert_eq!(pod.answers(address, 10, 0.01), 10, "{address}");
        let counted = since(&before, &here.counters().unwrap());
        assert_eq!(counted.pod_tc.redirected_neigh, 10, "{counted:?}");
    }
    drop(there);
}

#[test]
fn a_neighbour_that_was_dead_is_reached_when_it_is_back() {
    let (kw01, kw02) = pair();
    let (here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let (pod, remote) = (&kw01.pods[0], &kw02.pods[0]);
    assert_eq!(pod.answers(&remote.v4, 3, 0.01), 3);
    // It answers nobody, ARP included, while the wire is up.
    kw02.namespace.ip(&format!("link set {UPLINK} arp off"));
    kw01.namespace.ip(&format!("neigh flush dev {UPLINK}"));
    kw02.namespace.ip("addr flush dev ens33 to 192.168.80.0/24");
    assert_eq!(pod.answers(&remote.v4, 2, 0.01), 0);
    kw02.namespace.ip(&format!("link set {UPLINK} arp on"));
    kw02.namespace.ip(&format!("addr add 192.168.80.125/24 dev {UPLINK}"));
    kw02.namespace.ip(&format!("route replace {} via 192.168.80.124", kw01.block4()));
    kw01.namespace.ip(&format!("neigh flush dev {UPLINK}"));
    let before = here.counters().unwrap();
    assert_eq!(pod.answers(&remote.v4, 5, 0.01), 5);
    assert_eq!(since(&before, &here.counters().unwrap()).pod_tc.redirected_neigh, 5);
}

/// Attaches again, as the daemon does when an interface changed.
fn again(node: &Node, mut sink: EbpfSink) -> EbpfSink {
    let names: Vec<&'static str> = node.pods.iter().map(|pod| pod.host_side).collect();
    node.namespace.run(move || {
        crate::nodes::attach(&mut sink, &names);
        sink
    })
}

/// What uplinks in the lab are beside wires.
pub const KINDS: [&str; 2] = ["bridge", "macvlan"];

/// The wire gets another name and no addresses, and `uplink` is what `kind` makes of it.
pub fn above(node: &Namespace, uplink: &str, mtu: u32, kind: &str) {
    let port = format!("p-{uplink}");
    let of_kind =
        if kind == "bridge" { "type bridge" } else { &format!("link {port} type macvlan mode bridge") };
    for command in [
        format!("link set {uplink} down"),
        format!("link set {uplink} name {port}"),
        format!("link set {port} mtu {mtu} up"),
        format!("addr flush dev {port}"),
        format!("link add {uplink} {of_kind}"),
    ] {
        node.ip(&command);
    }
    if kind == "bridge" {
        node.ip(&format!("link set {port} master {uplink}"));
    }
    node.ip(&format!("link set {uplink} mtu {mtu} up"));
}

fn uplink_above(node: &Node, peer: &Node, number: u8, kind: &str) {
    let other = if number == 124 { 125 } else { 124 };
    above(&node.namespace, UPLINK, 1500, kind);
    for command in [
        format!("addr add 192.168.80.{number}/24 dev {UPLINK}"),
        format!("-6 addr add fd00:80::{number}/64 dev {UPLINK} nodad"),
        format!("route add {} via 192.168.80.{other}", peer.block4()),
        format!("-6 route add {} via fd00:80::{other}", peer.block6()),
    ] {
        node.namespace.ip(&command);
    }
}

#[test]
fn a_bridge_and_a_macvlan_are_uplinks_like_any_other() {
    for kind in KINDS {
        let (kw01, kw02) = pair();
        uplink_above(&kw01, &kw02, 124, kind);
        kw02.namespace.ip(&format!("neigh flush dev {UPLINK}"));
        let (here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
        let (pod, remote) = (&kw01.pods[0], &kw02.pods[0]);
        // A bridge learns first.
        assert!(pod.answers(&remote.v4, 20, 0.05) > 0);
        for (address, back) in [(&remote.v4, &pod.v4), (&remote.v6, &pod.v6)] {
            let before = here.counters().unwrap();
            assert_eq!(pod.answers(address, 10, 0.01), 10, "{kind}, {address}");
            let counted = since(&before, &here.counters().unwrap());
            assert_eq!(counted.pod_tc.redirected_neigh, 10, "{kind}: {counted:?}");
            assert_eq!(counted.uplink_tc.redirected_peer, 10, "{kind}: {counted:?}");
            for (from, to, address) in [(pod, remote, address), (remote, pod, back)] {
                let before = here.counters().unwrap();
                transfer(&from.namespace, &to.namespace, address);
                let counted = since(&before, &here.counters().unwrap());
                let (out, into) = (counted.pod_tc.redirected_neigh, counted.uplink_tc.redirected_peer);
                assert!(out > 20 && into > 20 && out + into > 100, "{kind}, to {address}: {counted:?}");
                assert_eq!(counted.total(Verdict::TooBig), 0, "{kind}, to {address}: {counted:?}");
            }
        }
    }
}

#[test]
fn what_is_for_a_pod_whose_interface_has_a_qdisc_passes_it() {
    let (kw01, kw02) = pair();
    let (mut here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let (pod, neighbour, remote) = (&kw01.pods[0], &kw01.pods[1], &kw02.pods[0]);
    let index = kw01.namespace.ifindex(pod.host_side);
    let (name, routes) = (pod.host_side, kw01.routes(&kw02));
    for (change, qdisc) in [("add", Some("a qdisc (tbf)")), ("del", None), ("add", Some("a qdisc (tbf)"))] {
        let options = if change == "add" { "tbf rate 1gbit burst 1m latency 50ms" } else { "" };
        let routes = routes.clone();
        here = kw01.namespace.run(move || {
            assert_eq!(here.look_around().unwrap(), []);
            run("tc", &format!("qdisc {change} dev {name} root {options}"));
            assert_eq!(here.look_around().unwrap(), [index]);
            here.attach_pod(index).unwrap();
            assert_eq!((here.look_around().unwrap(), here.passes(index)), (vec![], qdisc));
            let expected: Vec<_> = routes.iter().map(|route| here.expected(route)).collect();
            assert!(here.dump().unwrap().iter().all(|route| expected.contains(route)));
            here
        });
        for (from, address) in
            [(remote, &pod.v4), (remote, &pod.v6), (neighbour, &pod.v4), (neighbour, &pod.v6)]
        {
            let before = here.counters().unwrap();
            assert_eq!(from.answers(address, 10, 0.01), 10, "{change}, {address}");
            let counted = since(&before, &here.counters().unwrap());
            // The pod's own answers to its neighbour are carried.
            let into = if std::ptr::eq(from, remote) {
                (counted.uplink_tc.redirected_peer, counted.uplink_tc.no_mac)
            } else {
                (counted.pod_tc.redirected_peer - 10, counted.pod_tc.no_mac)
            };
            let expected = if qdisc.is_some() { (0, 10) } else { (10, 0) };
            assert_eq!(into, expected, "{change}, {address}: {counted:?}");
        }
        if qdisc.is_some() {
            let passed = kw01.namespace.run(move || run("tc", &format!("-s qdisc show dev {name}")));
            let packets = passed.split(" pkt").next().and_then(|text| text.rsplit(' ').next());
            assert!(packets.and_then(|packets| packets.parse::<u32>().ok()) >= Some(40), "{passed}");
        }
    }
}

#[test]
fn a_pods_interface_that_goes_and_comes_back_carries_again() {
    let (kw01, kw02) = pair();
    let (mut here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let (pod, remote) = (&kw01.pods[0], &kw02.pods[0]);
    for round in 0..3 {
        let before = here.counters().unwrap();
        assert_eq!(remote.answers(&pod.v4, 5, 0.01), 5, "round {round}");
        assert_eq!(since(&before, &here.counters().unwrap()).uplink_tc.redirected_peer, 5, "round {round}");
        kw01.namespace.ip(&format!("link del {}", pod.host_side));
        assert_eq!(remote.answers(&pod.v4, 2, 0.01), 0, "round {round}");
        kw01.rewire(0);
        let (routes, index) = (kw01.routes(&kw02), kw01.namespace.ifindex(pod.host_side));
        here = kw01.namespace.run(move || {
            here.apply(&routes, &[]).unwrap();
            here.attach_pod(index).unwrap();
            here
        });
    }
}

#[test]
fn what_others_have_behind_ours_is_seen_by_the_next_agent_before_it_says_how_far_an_interface_goes() {
    let (kw01, kw02) = pair();
    let (mut here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let (pod, remote) = (&kw01.pods[0], &kw02.pods[0]);
    let (name, index) = (pod.host_side, kw01.namespace.ifindex(pod.host_side));
    here = kw01.namespace.run(move || {
        run("tc", &format!("qdisc add dev {name} clsact"));
        run("tc", &format!("filter add dev {name} ingress protocol all u32 match u32 0 0 classid 1:1"));
        assert_eq!(here.look_around().unwrap(), []);
        assert!(matches!(here.behind(index), [filter] if filter.contains("u32")), "{:?}", here.behind(index));
        here
    });
    let carried = |here: &EbpfSink| {
        let before = here.counters().unwrap();
        assert_eq!(pod.answers(&remote.v4, 5, 0.01), 5);
        let counted = since(&before, &here.counters().unwrap()).pod_tc;
        (counted.redirected_neigh, counted.interface_off)
    };
    assert_eq!(carried(&here), (0, 5));
    drop(here);
    let mut here = kw01.namespace.run(move || {
        let (mut here, _) = EbpfSink::open(&Options::default()).unwrap();
        // As the agent decides before it attaches.
        here.set_interface(index, InterfaceSettings::default());
        here
    });
    assert_eq!(carried(&here), (0, 5));
    here = kw01.namespace.run(move || {
        run("tc", &format!("qdisc del dev {name} clsact"));
        here.attach_pod(index).unwrap();
        assert!(here.behind(index).is_empty());
        here
    });
    assert_eq!(carried(&here), (5, 0));
}
