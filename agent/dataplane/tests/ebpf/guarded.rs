//! The table, continued: what is carried past netfilter and what is not. The connections are written into conntrack as
//! its own tool does; real ones are the lab's.

use manx_abi::Verdict::{self, *};

use crate::{
    frame::{Frame, udp},
    namespace::run,
    world::{Condition, HOST1, NARROW_MTU, POD1, POD1_MAC, UDP, UDP_STREAM, UPLINK, Vector, check, vector},
};

/// A pod, a pod of another node by the uplink and one by a narrow one, an address in no pool, an explicit blackhole.
type Addresses = [&'static str; 5];

const V4: Addresses = ["172.16.36.193", "172.16.118.66", "172.16.120.1", "10.66.9.1", "172.16.123.1"];
const V6: Addresses = ["fd00:36::193", "fd00:118::66", "fd00:120::1", "fd00:66:9::1", "fd00:123::1"];

/// Source ports of the flows, by what conntrack knows of them.
const BOTH_WAYS: u16 = 40_001;
const ONE_WAY: u16 = 40_002;
const TO_SERVICE: u16 = 40_003;
const MASQUERADED: u16 = 40_004;
const STREAM: u16 = 40_005;
const RUNS_OUT: u16 = 40_006;
const UNACKNOWLEDGED: u16 = 40_007;
const CLOSING: u16 = 40_008;
const NARROW: u16 = 40_009;
const UNKNOWN: u16 = 40_999;
const PORT: u16 = 80;

/// Octets of a header that begins with ports; TCP's flags are the fourteenth.
fn segment(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut bytes = [from.to_be_bytes(), to.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend([0; 12]);
    bytes
}

fn datagram(a: Addresses, port: u16) -> Frame {
    udp(a[0], a[1]).body(&segment(port, PORT, 0))
}

fn tcp(a: Addresses, port: u16, flags: u8) -> Frame {
    udp(a[0], a[1]).protocol(6).body(&segment(port, PORT, flags))
}

/// What conntrack is told: protocol, ports, the seconds that are left, and the rest.
fn track(a: Addresses) {
    let v4 = a[0].contains('.');
    let seen = "-u SEEN_REPLY";
    let open = "--state ESTABLISHED -u SEEN_REPLY,ASSURED";
    let [service, outside] =
        if v4 { ["172.16.118.99", "192.168.80.124"] } else { ["fd00:118::99", "fd00:80::124"] };
    let (service, masquerade) = (format!("{seen} -g {service}"), format!("{seen} -n {outside}"));
    for (protocol, to, port, seconds, rest) in [
        ("udp", a[1], BOTH_WAYS, UDP, seen),
        ("udp", a[1], ONE_WAY, UDP, ""),
        ("udp", a[1], TO_SERVICE, UDP, &service),
        ("udp", a[1], MASQUERADED, UDP, &masquerade),
        ("udp", a[1], STREAM, UDP_STREAM, "-u SEEN_REPLY,ASSURED"),
        ("udp", a[1], RUNS_OUT, 100, "-u SEEN_REPLY,ASSURED"),
        ("udp", a[2], NARROW, UDP_STREAM, "-u SEEN_REPLY,ASSURED"),
        ("tcp", a[1], BOTH_WAYS, 432_000, open),
        ("tcp", a[1], ONE_WAY, 432_000, "--state ESTABLISHED -u SEEN_REPLY"),
        ("tcp", a[1], TO_SERVICE, 432_000, &format!("--state ESTABLISHED {service}")),
        ("tcp", a[1], RUNS_OUT, 431_000, open),
        ("tcp", a[1], UNACKNOWLEDGED, 300, open),
        ("tcp", a[1], CLOSING, 60, "--state CLOSE_WAIT -u SEEN_REPLY,ASSURED"),
    ] {
        let flow = format!("-s {} -d {to} --sport {port} --dport {PORT}", a[0]);
        run("conntrack", &format!("-I -p {protocol} {flow} -t {seconds} {rest}"));
    }
}

#[rustfmt::skip]
fn guarded(a: Addresses) -> Vec<Vector> {
    track(a);
    let v4 = a[0].contains('.');
    let from_pod = |says, frame: Frame, verdict: Verdict| vector(says, POD1, frame, verdict).when(Condition::Guarded);
    let back = |protocol: u8, port: u16| udp(a[1], a[0]).protocol(protocol).body(&segment(PORT, port, 0x10));
    let large = |octets: usize| {
        let mut body = segment(NARROW, PORT, 0);
        body.resize(octets, 0);
        udp(a[0], a[2]).body(&body)
    };
    let header = if v4 { 20 } else { 40 };
    let mut all = vec![
        from_pod("a flow that is known both ways is carried", datagram(a, BOTH_WAYS), RedirectedNeigh).onward(),
        vector("and its answers", UPLINK, back(17, BOTH_WAYS), RedirectedPeer).when(Condition::Guarded).into_pod(POD1_MAC, HOST1),
        from_pod("a stream is carried", datagram(a, STREAM), RedirectedNeigh).onward(),
        from_pod("a flow that nobody knows is the stack's", datagram(a, UNKNOWN), Untracked),
        from_pod("so is one that nobody answered", datagram(a, ONE_WAY), Unconfirmed),
        from_pod("one to a Service is the stack's to translate", datagram(a, TO_SERVICE), Translated),
        from_pod("so is one that is masqueraded", datagram(a, MASQUERADED), Translated),
        from_pod("a flow whose time runs low is the stack's to renew", datagram(a, RUNS_OUT), KeepAlive),
        from_pod("a connection is carried", tcp(a, BOTH_WAYS, 0x10), RedirectedNeigh).onward(),
        vector("and what comes back", UPLINK, back(6, BOTH_WAYS), RedirectedPeer).when(Condition::Guarded).into_pod(POD1_MAC, HOST1),
        from_pod("with data to be handed on at once too", tcp(a, BOTH_WAYS, 0x18), RedirectedNeigh).onward(),
        from_pod("with the congestion bits too", tcp(a, BOTH_WAYS, 0xd0), RedirectedNeigh).onward(),
        from_pod("one with data on its way is carried", tcp(a, UNACKNOWLEDGED, 0x10), RedirectedNeigh).onward(),
        from_pod("what opens a connection is the stack's", tcp(a, BOTH_WAYS, 0x02), TcpControl),
        from_pod("so is what answers to that", tcp(a, BOTH_WAYS, 0x12), TcpControl),
        from_pod("what closes one", tcp(a, BOTH_WAYS, 0x11), TcpControl),
        from_pod("what breaks one", tcp(a, BOTH_WAYS, 0x04), TcpControl),
        from_pod("a connection that nobody knows is the stack's", tcp(a, UNKNOWN, 0x10), Untracked),
        from_pod("so is one whose handshake is not over", tcp(a, ONE_WAY, 0x10), Unconfirmed),
        from_pod("one to a Service", tcp(a, TO_SERVICE, 0x10), Translated),
        from_pod("one whose time runs low", tcp(a, RUNS_OUT, 0x10), KeepAlive),
        from_pod("one that is being closed", tcp(a, CLOSING, 0x10), KeepAlive),
        from_pod("the source port of a Service's flow says nothing of another's", tcp(a, NARROW, 0x10), Untracked),
        from_pod("ICMP is the stack's", udp(a[0], a[1]).protocol(if v4 { 1 } else { 58 }).body(&[128, 0, 0, 0, 0, 1, 0, 1]), NotGuarded),
        from_pod("so is SCTP", udp(a[0], a[1]).protocol(132), NotGuarded),
        from_pod("and ESP", udp(a[0], a[1]).protocol(50), NotGuarded),
        from_pod("a UDP header that is cut short is the stack's", udp(a[0], a[1]).body(&[0x9c, 0x41, 0]), NotGuarded),
        from_pod("a TCP header that is cut short too", udp(a[0], a[1]).protocol(6).body(&segment(BOTH_WAYS, PORT, 0x10)[..12]), NotGuarded),
        from_pod("a known flow's packet that fits is carried", large(NARROW_MTU - header), RedirectedNeigh).onward(),
        from_pod("one that is too big is not", large(NARROW_MTU - header + 1), TooBig),
        from_pod("one that expires is not", datagram(a, BOTH_WAYS).hops(1), TtlExpiring),
        from_pod("a blackhole needs no connection", udp(a[0], a[4]), BlackholeExplicit),
        from_pod("a forged source is none of a connection's", udp(a[1], a[0]).body(&segment(PORT, BOTH_WAYS, 0)), Spoofed),
        from_pod("outside the pools nothing is asked", udp(a[0], a[3]), OutsidePools),
        vector("unguarded, everything is carried", POD1, datagram(a, UNKNOWN), RedirectedNeigh).onward(),
        vector("a guarded interface asks", POD1, datagram(a, UNKNOWN), Untracked).when(Condition::InterfaceGuarded),
        vector("and carries what is known", POD1, datagram(a, BOTH_WAYS), RedirectedNeigh).when(Condition::InterfaceGuarded).onward(),
        vector("another interface does not", UPLINK, back(17, UNKNOWN), RedirectedPeer).when(Condition::InterfaceGuarded).into_pod(POD1_MAC, HOST1),
        vector("an interface that is off carries nothing", POD1, datagram(a, BOTH_WAYS), InterfaceOff).when(Condition::InterfaceOff),
        vector("another one does", UPLINK, back(17, BOTH_WAYS), RedirectedPeer).when(Condition::InterfaceOff).into_pod(POD1_MAC, HOST1),
        vector("a guarded pool asks", POD1, datagram(a, UNKNOWN), Untracked).when(Condition::PoolsGuarded),
        vector("from the wire too", UPLINK, back(17, UNKNOWN), Untracked).when(Condition::PoolsGuarded),
        vector("and carries what is known", POD1, datagram(a, BOTH_WAYS), RedirectedNeigh).when(Condition::PoolsGuarded).onward(),
        vector("a pool that is off carries nothing", POD1, datagram(a, BOTH_WAYS), PoolOff).when(Condition::PoolsOff),
        vector("from the wire neither", UPLINK, back(17, BOTH_WAYS), PoolOff).when(Condition::PoolsOff),
        vector("it drops blackholes all the same", POD1, udp(a[0], a[4]), BlackholeExplicit).when(Condition::PoolsOff),
        vector("and forged sources", POD1, udp(a[1], a[0]), Spoofed).when(Condition::PoolsOff),
    ];
    if v4 {
        all.push(from_pod("a first fragment is the stack's", datagram(a, BOTH_WAYS).fragment(0x2000), NotGuarded));
        all.push(from_pod("a later one too", datagram(a, BOTH_WAYS).fragment(0x0010), NotGuarded));
        all.push(from_pod("options are the stack's", datagram(a, BOTH_WAYS).options(&[1, 1, 1, 0]), Options));
    } else {
        all.push(from_pod("a fragment is the stack's", datagram(a, BOTH_WAYS).protocol(44), ExtensionHeaders));
    }
    all
}

#[test]
fn only_what_conntrack_has_admitted_is_carried_in_ipv4() {
    check(|| guarded(V4));
}

#[test]
fn only_what_conntrack_has_admitted_is_carried_in_ipv6() {
    check(|| guarded(V6));
}
