//! Real packets between real pods: what the programs carry arrives, and what they leave alone does too.

use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use manx_abi::Verdict;
use manx_dataplane::ebpf::Mode;

use crate::nodes::{pair, set_mtu, since};

#[test]
fn pods_of_two_nodes_ping_each_other_through_the_programs_alone() {
    let (kw01, kw02) = pair();
    let (here, there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    let (pod, other) = (&kw01.pods[0], &kw02.pods[0]);
    for address in [&other.v4, &other.v6] {
        let before = (here.counters().unwrap(), there.counters().unwrap());
        assert_eq!(pod.answers(address, 10, 0.01), 10);
        let here = since(&before.0, &here.counters().unwrap());
        let there = since(&before.1, &there.counters().unwrap());
        assert_eq!(here.pod_tc.redirected_neigh, 10, "requests leave the node: {here:?}");
        assert_eq!(there.uplink_tc.redirected_peer, 10, "and enter the pod: {there:?}");
        assert_eq!(there.pod_tc.redirected_neigh, 10, "answers leave the other node: {there:?}");
        assert_eq!(here.uplink_tc.redirected_peer, 10, "and enter the pod: {here:?}");
    }
}

#[test]
fn pods_of_one_node_ping_each_other_through_the_programs_alone() {
    let (kw01, kw02) = pair();
    let sink = kw01.sink(&kw02);
    for address in [&kw01.pods[1].v4, &kw01.pods[1].v6] {
        let before = sink.counters().unwrap();
        assert_eq!(kw01.pods[0].answers(address, 10, 0.01), 10);
        assert_eq!(since(&before, &sink.counters().unwrap()).pod_tc.redirected_peer, 20);
    }
}

#[test]
fn without_the_fast_path_everything_arrives_by_the_stack() {
    let (kw01, kw02) = pair();
    let mut sink = kw01.sink(&kw02);
    sink.set_whole_mode(Mode::Off);
    let before = sink.counters().unwrap();
    for address in [&kw02.pods[0].v4, &kw02.pods[0].v6, &kw01.pods[1].v4, &kw01.pods[1].v6] {
        assert_eq!(kw01.pods[0].answers(address, 3, 0.01), 3);
    }
    let counted = since(&before, &sink.counters().unwrap());
    assert_eq!(counted.total(Verdict::RedirectedPeer) + counted.total(Verdict::RedirectedNeigh), 0);
    assert!(counted.pod_tc.fast_path_off >= 12, "{counted:?}");
}

#[test]
fn what_nobody_has_dies_on_the_wire_and_a_pod_that_comes_later_does_not() {
    let (kw01, kw02) = pair();
    let (here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    for (address, route) in [("172.16.36.240", "-4 route"), ("fd00:36::240", "-6 route")] {
        let before = here.counters().unwrap();
        assert_eq!(kw02.pods[0].answers(address, 3, 0.01), 0);
        let counted = since(&before, &here.counters().unwrap());
        assert_eq!(counted.uplink_xdp.blackhole_own, 3, "{counted:?}");
        // The agent is not told; the kernel's own route to the pod is enough.
        kw01.pods[1].namespace.ip(&format!("addr add {address} dev eth0"));
        kw01.namespace.ip(&format!("{route} add {address} dev cali2"));
        assert_eq!(kw02.pods[0].answers(address, 3, 0.01), 3);
    }
}

#[test]
fn while_nobody_keeps_the_maps_the_kernel_says_where_a_pod_is() {
    let (kw01, kw02) = pair();
    let mut sink = kw01.sink(&kw02);
    let (here, there) = (&kw01.pods[0], &kw01.pods[1]);
    for (address, family) in [(&here.v4, "-4"), (&here.v6, "-6")] {
        // The address moves to the other pod, whose interface lives on as the first one's does.
        here.namespace.ip(&format!("addr flush to {address} dev eth0"));
        there.namespace.ip(&format!("{family} addr add {address} dev eth0"));
        kw01.namespace.ip(&format!("{family} route replace {address} dev {}", there.host_side));
    }
    // Duplicate address detection, and the limit of a pulse.
    sink.pulse().unwrap();
    thread::sleep(Duration::from_secs(4));
    let before = sink.counters().unwrap();
    for address in [&here.v4, &here.v6] {
        assert_eq!(kw02.pods[0].answers(address, 3, 0.01), 3, "{address}");
    }
    let moved = since(&before, &sink.counters().unwrap());
    assert!(moved.uplink_tc.fib_disagrees >= 6, "{moved:?}");
    assert_eq!(kw02.pods[0].answers(&there.v4, 3, 0.01), 3);
    let stayed = since(&before, &sink.counters().unwrap());
    assert_eq!(
        (stayed.uplink_tc.redirected_peer, stayed.uplink_tc.not_guarded),
        (0, 3),
        "where the kernel agrees, the guard still asks, for nobody sees what netfilter does: {stayed:?}"
    );
    // With a living agent the map is believed, and it was not told.
    sink.pulse().unwrap();
    assert_eq!(kw02.pods[0].answers(&here.v4, 3, 0.01), 0);
}

#[test]
fn what_a_pod_forges_does_not_leave_the_node() {
    let (kw01, kw02) = pair();
    let sink = kw01.sink(&kw02);
    kw01.pods[0].namespace.ip("addr add 172.16.36.250 dev eth0");
    let to = kw02.pods[0].v4.clone();
    let before = sink.counters().unwrap();
    kw01.pods[0].namespace.run(move || {
        let output = std::process::Command::new("ping")
            .args(["-q", "-c", "3", "-i", "0.01", "-W", "1", "-I", "172.16.36.250", &to])
            .output()
            .unwrap();
        assert!(!output.status.success());
    });
    assert_eq!(since(&before, &sink.counters().unwrap()).pod_tc.spoofed, 3);
}

#[test]
fn tcp_at_full_size_arrives_octet_for_octet() {
    let (kw01, kw02) = pair();
    let (here, there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    for address in [&kw02.pods[0].v4, &kw02.pods[0].v6] {
        let before = (here.counters().unwrap(), there.counters().unwrap());
        transfer(&kw01.pods[0].namespace, &kw02.pods[0].namespace, address);
        let here = since(&before.0, &here.counters().unwrap());
        let there = since(&before.1, &there.counters().unwrap());
        assert!(here.pod_tc.redirected_neigh > 60, "{here:?}");
        assert!(there.uplink_tc.redirected_peer > 60, "{there:?}");
        assert_eq!(here.total(Verdict::TooBig) + here.total(Verdict::Unreadable), 0, "{here:?}");
    }
}

#[test]
fn tcp_within_the_node_arrives_octet_for_octet() {
    let (kw01, kw02) = pair();
    let sink = kw01.sink(&kw02);
    for address in [&kw01.pods[1].v4, &kw01.pods[1].v6] {
        let before = sink.counters().unwrap();
        transfer(&kw01.pods[0].namespace, &kw01.pods[1].namespace, address);
        let counted = since(&before, &sink.counters().unwrap());
        assert!(counted.pod_tc.redirected_peer > 60, "{counted:?}");
    }
}

#[test]
fn tcp_learns_of_a_smaller_mtu_on_the_way_from_the_stack() {
    let (kw01, kw02) = pair();
    let (here, _there) = (kw01.sink(&kw02), kw02.sink(&kw01));
    set_mtu(&kw01, 1400);
    for address in [&kw02.pods[0].v4, &kw02.pods[0].v6] {
        let before = here.counters().unwrap();
        transfer(&kw01.pods[0].namespace, &kw02.pods[0].namespace, address);
        let counted = since(&before, &here.counters().unwrap());
        assert!(counted.pod_tc.too_big > 0, "{counted:?}");
        assert!(counted.pod_tc.redirected_neigh > 60, "then it fits: {counted:?}");
    }
}

/// Four megabytes, compared at the far end.
pub fn transfer(from: &crate::namespace::Namespace, to: &crate::namespace::Namespace, address: &str) {
    const SIZE: usize = 4 << 20;
    let address: IpAddr = address.parse().unwrap();
    let listener = to.run(move || TcpListener::bind((address, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::with_capacity(SIZE);
        stream.read_to_end(&mut received).unwrap();
        received
    });
    let pattern = || (0..SIZE).map(|at| ((at * 31) >> 3) as u8).collect::<Vec<u8>>();
    from.run(move || {
        let mut stream = TcpStream::connect((address, port)).unwrap();
        stream.write_all(&pattern()).unwrap();
    });
    assert!(reader.join().unwrap() == pattern(), "what arrived is not what was sent");
}
