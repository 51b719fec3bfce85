//! MTUs that the programs remember: one that shrinks and an interface that goes are seen by the next packet.

use std::{
    net::{IpAddr, UdpSocket},
    path::Path,
    thread::sleep,
    time::Duration,
};

use aya::maps::{Map, MapData, PerCpuArray};
use manx_abi::{
    Room,
    Verdict::{self, InterfaceGone, RedirectedNeigh, RedirectedPeer, TooBig},
};
use manx_dataplane::ebpf::EbpfSink;

use crate::nodes::{Node, Pod, UPLINK, pair};

const MTU: u32 = 1400;
/// Addresses, UDP's header and so much are more than `MTU` in both families, and less than 1500.
const LARGE: usize = 1400;

/// Datagrams from a pod; the pod's own stack knows of no smaller MTU yet.
fn send(from: &Pod, to: &str, count: u32) {
    let to: IpAddr = to.parse().unwrap();
    let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    from.namespace.run(move || {
        let socket = UdpSocket::bind((any, 0)).unwrap();
        for _ in 0..count {
            socket.send_to(&[7; LARGE], (to, 7)).unwrap();
            sleep(Duration::from_millis(1));
        }
    });
}

/// Takes what is sent to the pod, which else would answer that nobody is there.
fn listen(pod: &Pod) -> UdpSocket {
    pod.namespace.run(|| UdpSocket::bind("[::]:7").unwrap())
}

fn count(sink: &EbpfSink, verdict: Verdict) -> u64 {
    *sink.counters().unwrap().pod_tc.get_mut(verdict)
}

/// MTUs that this node's processors remember of the interface.
fn remembered(node: &Node, name: &str) -> Vec<u32> {
    let ifindex = node.namespace.ifindex(name);
    node.namespace.run(move || {
        let pin = format!("/sys/fs/bpf/manx/v{}/{}", manx_abi::ABI_VERSION, manx_abi::map::ROOMS);
        let map = Map::PerCpuArray(MapData::from_pin(Path::new(&pin)).unwrap());
        let map: PerCpuArray<_, [u32; 4]> = map.try_into().unwrap();
        let values = map.get(&Room::slot(ifindex), 0).unwrap();
        values.iter().filter(|[of, ..]| *of == ifindex).map(|[_, _, mtu, _]| *mtu).collect()
    })
}

/// All of a kind pass, the MTU of `name` shrinks, and not one more passes.
fn an_mtu_that_shrinks(node: &Node, sink: &EbpfSink, to: &str, name: &str, carried: Verdict) {
    let before = count(sink, carried);
    send(&node.pods[0], to, 50);
    assert_eq!(count(sink, carried) - before, 50, "{to}");
    let mtus = remembered(node, name);
    assert!(!mtus.is_empty() && mtus.iter().all(|mtu| *mtu == 1500), "{to}: {mtus:?}");
    let big = count(sink, TooBig);
    node.namespace.ip(&format!("link set {name} mtu {MTU}"));
    send(&node.pods[0], to, 1);
    assert_eq!((count(sink, carried) - before, count(sink, TooBig) - big), (50, 1), "{to}");
    node.namespace.ip(&format!("link set {name} mtu 1500"));
}

#[test]
fn a_remembered_mtu_that_shrinks_is_seen_by_the_next_packet() {
    let (kw01, kw02) = pair();
    let sink = kw01.sink(&kw02);
    let _listener = listen(&kw01.pods[1]);
    for (to, name, carried) in [
        (&kw02.pods[0].v4, UPLINK, RedirectedNeigh),
        (&kw02.pods[0].v6, UPLINK, RedirectedNeigh),
        (&kw01.pods[1].v4, "cali2", RedirectedPeer),
        (&kw01.pods[1].v6, "cali2", RedirectedPeer),
    ] {
        an_mtu_that_shrinks(&kw01, &sink, to, name, carried);
    }
}

#[test]
fn a_remembered_interface_that_goes_is_seen_by_the_next_packet() {
    for v6 in [false, true] {
        let (kw01, kw02) = pair();
        let sink = kw01.sink(&kw02);
        let pod = &kw01.pods[1];
        let _listener = listen(pod);
        let to = if v6 { &pod.v6 } else { &pod.v4 };
        send(&kw01.pods[0], to, 50);
        assert_eq!(count(&sink, RedirectedPeer), 50);
        assert_ne!(remembered(&kw01, pod.host_side), []);
        kw01.namespace.ip(&format!("link del {}", pod.host_side));
        send(&kw01.pods[0], to, 1);
        assert_eq!((count(&sink, RedirectedPeer), count(&sink, InterfaceGone)), (50, 1), "{to}");
    }
}
