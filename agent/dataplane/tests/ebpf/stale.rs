//! The table, continued: what the programs do while nobody keeps the maps, and where conntrack does not understand them.

use manx_abi::Verdict::*;

use crate::{
    frame::{Frame, udp},
    namespace::run,
    world::{Condition, HOST1, POD1, POD1_MAC, UDP, UPLINK, Vector, check, vector},
};

struct Addresses {
    pod: &'static str,
    /// Of routes that the kernel has as the map has them.
    same: &'static [&'static str],
    /// Of routes that the kernel has by another gateway of the same uplink, and by another uplink or not at all.
    changed: [&'static str; 2],
    /// In explicit blackholes of the map: the kernel has one of them.
    blackholes: [&'static str; 2],
}

const V4: Addresses = Addresses {
    pod: "172.16.36.193",
    same: &["172.16.121.1", "172.16.119.1"],
    changed: ["172.16.118.66", "172.16.120.1"],
    blackholes: ["172.16.123.1", "172.16.123.40"],
};

const V6: Addresses = Addresses {
    pod: "fd00:36::193",
    same: &["fd00:121::1"],
    changed: ["fd00:118::66", "fd00:120::1"],
    blackholes: ["fd00:123::1", "fd00:123:0:0:1::1"],
};

fn datagram(from: &str, to: &str) -> Frame {
    udp(from, to).body(&[0x9c, 0x41, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4])
}

fn answer(from: &str, to: &str) -> Frame {
    udp(from, to).body(&[0, 80, 0x9c, 0x41, 0, 12, 0, 0, 1, 2, 3, 4])
}

fn stale(a: &Addresses) -> Vec<Vector> {
    for to in a.same.iter().chain(&a.changed) {
        let flow = format!("-s {} -d {to} --sport 40001 --dport 80", a.pod);
        run("conntrack", &format!("-I -p udp {flow} -t {UDP} -u SEEN_REPLY"));
    }
    let from_pod = |says, to, verdict| vector(says, POD1, datagram(a.pod, to), verdict);
    let to_blackhole = |says, to, verdict| vector(says, UPLINK, answer(a.same[0], to), verdict);
    let [kept, gone] = a.blackholes;
    let mut all = Vec::new();
    for to in a.same {
        all.push(
            from_pod("what the kernel sends to the same gateway is carried", to, RedirectedNeigh).onward(),
        );
    }
    all.extend([
        from_pod("a gateway that has changed on the same uplink is the kernel's", a.changed[0], FibDisagrees),
        from_pod("so is a way by another uplink, or none", a.changed[1], FibDisagrees),
        vector("a pod is reached", UPLINK, answer(a.same[0], a.pod), RedirectedPeer)
            .into_pod(POD1_MAC, HOST1),
        from_pod("a blackhole that the kernel has drops", kept, BlackholeExplicit),
        from_pod("one that somebody has deleted does not", gone, FibDisagrees),
        to_blackhole("from the wire one that the kernel has drops", kept, BlackholeExplicit),
        to_blackhole("and the other does not", gone, FibDisagrees),
        to_blackhole("in XDP one that the kernel has drops", kept, BlackholeExplicit).xdp(),
        to_blackhole("and the other does not", gone, FibDisagrees).xdp(),
    ]);
    all.iter_mut().for_each(|vector| vector.condition = Condition::Stale);
    all.extend([
        from_pod("an agent that died weeks ago is not alive again", a.changed[0], FibDisagrees)
            .when(Condition::StaleForWeeks),
        from_pod("while the agent lives the map alone counts", a.changed[0], RedirectedNeigh).onward(),
        from_pod("and in a blackhole too", gone, BlackholeExplicit),
        from_pod("a question that conntrack refuses is no unknown flow", a.same[0], ConntrackRefuses)
            .when(Condition::Refused),
        from_pod("one that it takes is carried", a.same[0], RedirectedNeigh)
            .when(Condition::Guarded)
            .onward(),
    ]);
    all
}

#[test]
fn while_nobody_keeps_the_maps_the_kernel_has_the_last_word_in_ipv4() {
    check(|| stale(&V4));
}

#[test]
fn while_nobody_keeps_the_maps_the_kernel_has_the_last_word_in_ipv6() {
    check(|| stale(&V6));
}
