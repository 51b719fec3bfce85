//! The table: what each program does with a packet, sentence by sentence. What holds for both families is written
//! once and run with the addresses of each.

use manx_abi::Verdict::{self, *};

use crate::{
    frame::{Frame, udp},
    world::{
        BROADCAST, Condition, HOST1, HOST2, NARROW, NARROW_MTU, POD1, POD1_MAC, POD2, POD2_MAC, STRANGER,
        UPLINK, UPLINK_MAC, Vector, check, vector,
    },
};

/// Who is who in [`crate::world`].
struct Addresses {
    header: usize,
    pod1: &'static str,
    pod2: &'static str,
    without_mac: &'static str,
    /// Its interface was gone before the agent heard of it.
    gone: &'static str,
    /// Its interface went later.
    went: &'static str,
    /// A number that no agent of this ABI writes; a next hop of nobody.
    undefined: &'static str,
    unnamed: &'static str,
    /// In the own block; the kernel knows it behind POD2, the agent does not.
    unheard_of: &'static str,
    /// In the own block, nobody's.
    nobody: &'static str,
    remote: &'static str,
    narrow: &'static str,
    unreachable: &'static str,
    blackhole: &'static str,
    two_ways: &'static str,
    passed: &'static str,
    lost_uplink: &'static str,
    back_to_pod1: &'static str,
    /// In the map, in no pool.
    outside: &'static str,
    /// As that, and no blackhole is near.
    far: &'static str,
    /// A blackhole in no pool.
    refused: &'static str,
    /// Nowhere in the map.
    unknown: &'static str,
    multicast: &'static str,
    link_local: &'static str,
    loopback: &'static str,
    unspecified: &'static str,
}

const V4: Addresses = Addresses {
    header: 20,
    pod1: "172.16.36.193",
    pod2: "172.16.36.194",
    without_mac: "172.16.36.195",
    gone: "172.16.36.196",
    went: "172.16.36.197",
    undefined: "172.16.127.1",
    unnamed: "172.16.127.2",
    unheard_of: "172.16.36.200",
    nobody: "172.16.36.201",
    remote: "172.16.118.66",
    narrow: "172.16.120.1",
    unreachable: "172.16.122.1",
    blackhole: "172.16.123.1",
    two_ways: "172.16.124.1",
    passed: "172.16.118.70",
    lost_uplink: "172.16.125.1",
    back_to_pod1: "172.16.126.1",
    outside: "10.66.9.1",
    far: "10.9.1.1",
    refused: "10.66.0.1",
    unknown: "8.8.8.8",
    multicast: "224.0.0.251",
    link_local: "169.254.1.1",
    loopback: "127.0.0.1",
    unspecified: "0.0.0.0",
};

const V6: Addresses = Addresses {
    header: 40,
    pod1: "fd00:36::193",
    pod2: "fd00:36::194",
    without_mac: "fd00:36::195",
    gone: "fd00:36::196",
    went: "fd00:36::197",
    undefined: "fd00:127::1",
    unnamed: "fd00:127::2",
    unheard_of: "fd00:36::200",
    nobody: "fd00:36::201",
    remote: "fd00:118::66",
    narrow: "fd00:120::1",
    unreachable: "fd00:122::1",
    blackhole: "fd00:123::1",
    two_ways: "fd00:124::1",
    passed: "fd00:118::70",
    lost_uplink: "fd00:125::1",
    back_to_pod1: "fd00:126::1",
    outside: "fd00:66:9::1",
    far: "fd09::1",
    refused: "fd00:66::1",
    unknown: "2001:db8::8",
    multicast: "ff02::fb",
    link_local: "fe80::1",
    loopback: "::1",
    unspecified: "::",
};

fn from_pod(says: &'static str, from: &str, to: &str, verdict: Verdict) -> Vector {
    vector(says, POD1, udp(from, to), verdict)
}

fn from_wire(says: &'static str, from: &str, to: &str, verdict: Verdict) -> Vector {
    vector(says, UPLINK, udp(from, to), verdict)
}

fn edited(vector: Vector, edit: impl FnOnce(Frame) -> Frame) -> Vector {
    Vector { frame: edit(vector.frame), ..vector }
}

#[rustfmt::skip]
fn carried(a: &Addresses) -> Vec<Vector> {
    let largest = 1500 - a.header;
    vec![
        from_pod("a pod reaches its neighbour on the node", a.pod1, a.pod2, RedirectedPeer).into_pod(POD2_MAC, HOST2),
        vector("and the neighbour it", POD2, udp(a.pod2, a.pod1), RedirectedPeer).into_pod(POD1_MAC, HOST1),
        from_pod("a pod reaches a pod of another node", a.pod1, a.remote, RedirectedNeigh).onward(),
        from_wire("a pod of another node reaches ours", a.remote, a.pod1, RedirectedPeer).into_pod(POD1_MAC, HOST1),
        from_wire("a node routes for others", a.remote, a.narrow, RedirectedNeigh).onward(),
        edited(from_pod("a packet of two hops goes on with one", a.pod1, a.remote, RedirectedNeigh), |f| f.hops(2)).onward(),
        edited(from_pod("a packet of 255 hops goes on with 254", a.pod1, a.remote, RedirectedNeigh), |f| f.hops(255)).onward(),
        edited(from_pod("DSCP and ECN are kept", a.pod1, a.remote, RedirectedNeigh), |f| f.traffic_class(0xb9)).onward(),
        edited(from_pod("TCP is carried", a.pod1, a.pod2, RedirectedPeer), |f| f.protocol(6)).into_pod(POD2_MAC, HOST2),
        edited(from_pod("a protocol nobody knows is carried", a.pod1, a.pod2, RedirectedPeer), |f| f.protocol(200)).into_pod(POD2_MAC, HOST2),
        edited(from_pod("a packet without payload is carried", a.pod1, a.pod2, RedirectedPeer), |f| f.payload(0)).into_pod(POD2_MAC, HOST2),
        edited(from_wire("what pads a short frame is no part of the packet", a.remote, a.pod1, RedirectedPeer), |f| f.payload(1).padding(25)).into_pod(POD1_MAC, HOST1),
        edited(from_pod("a packet as large as the MTU is carried", a.pod1, a.remote, RedirectedNeigh), |f| f.payload(largest)).onward(),
    ]
}

#[rustfmt::skip]
fn dropped(a: &Addresses) -> Vec<Vector> {
    vec![
        from_pod("a pod's packet to an address of the block that nobody has dies", a.pod1, a.nobody, BlackholeOwn),
        from_wire("so does the wire's", a.remote, a.nobody, BlackholeOwn),
        from_wire("whoever sends it", a.unknown, a.nobody, BlackholeOwn),
        from_pod("a pod's packet to an explicit blackhole dies", a.pod1, a.blackhole, BlackholeExplicit),
        from_wire("so does the wire's, from wherever", a.unknown, a.blackhole, BlackholeExplicit),
        from_wire("a blackhole drops with the fast path off", a.remote, a.blackhole, BlackholeExplicit).when(Condition::FastPathOff),
        from_wire("an own blackhole too", a.remote, a.nobody, BlackholeOwn).when(Condition::FastPathOff),
        edited(from_wire("a blackhole drops what would expire here", a.remote, a.blackhole, BlackholeExplicit), |f| f.hops(1)),
        from_pod("a pod cannot send as its neighbour", a.pod2, a.remote, Spoofed),
        from_pod("nor as a pod of another node", a.remote, a.pod2, Spoofed),
        from_pod("nor as the outside", a.unknown, a.remote, Spoofed),
        from_pod("nor as an address of the block that nobody has", a.nobody, a.remote, Spoofed),
        from_pod("nor to where the stack would send it", a.pod2, a.unknown, Spoofed),
        from_pod("a forged source is dropped with the fast path off", a.pod2, a.remote, Spoofed).when(Condition::FastPathOff),
        edited(from_pod("a header of another version is no packet", a.pod1, a.pod2, Malformed), |f| f.version(5)),
        edited(from_wire("a packet longer than its frame is none", a.remote, a.pod1, Malformed), |f| f.length(1000)),
    ]
}

#[rustfmt::skip]
fn passed(a: &Addresses) -> Vec<Vector> {
    vec![
        from_pod("a new pod is not hidden by its block: the kernel knows it", a.pod1, a.unheard_of, FibDisagrees),
        from_wire("nor from the wire", a.remote, a.unheard_of, FibDisagrees),
        vector("a new pod may send: the kernel knows it", POD2, udp(a.unheard_of, a.remote), SourceUnknown),
        from_pod("without the source check a forged source is the stack's", a.pod2, a.remote, SourceUnknown).when(Condition::SourceCheckOff),
        from_pod("with the fast path off a pod's packet is the stack's", a.pod1, a.remote, FastPathOff).when(Condition::FastPathOff),
        from_wire("and the wire's", a.remote, a.pod1, FastPathOff).when(Condition::FastPathOff),
        from_pod("what leaves the cluster is the stack's", a.pod1, a.unknown, NoRoute),
        from_wire("what comes from outside is the stack's", a.unknown, a.pod1, OutsidePools),
        from_pod("a prefix outside the pools is the stack's", a.pod1, a.outside, OutsidePools),
        from_pod("where no blackhole is near none is asked for", a.pod1, a.far, NoRoute),
        from_wire("so is a source outside the pools", a.outside, a.pod1, OutsidePools),
        from_pod("a blackhole outside the pools drops too", a.pod1, a.refused, BlackholeExplicit),
        from_pod("what the kernel knows better is the stack's", a.pod1, a.passed, RouteSaysPass),
        from_wire("its packets too", a.passed, a.pod1, RouteSaysPass),
        from_pod("the stack says that there is no way", a.pod1, a.unreachable, Unreachable),
        edited(from_pod("the stack says that a packet expired", a.pod1, a.remote, TtlExpiring), |f| f.hops(1)),
        edited(from_wire("one that should not have come too", a.remote, a.pod1, TtlExpiring), |f| f.hops(0)),
        edited(from_wire("the stack says that a packet is too big", a.remote, a.narrow, TooBig), |f| f.payload(NARROW_MTU + 1 - a.header)),
        edited(from_pod("one octet over the MTU is too big", a.pod1, a.remote, TooBig), |f| f.payload(1501 - a.header)),
        edited(from_pod("several in one that the kernel cannot measure are the stack's", a.pod1, a.remote, Unreadable), |f| f.payload(2800)).when(Condition::Gso(1000)),
        from_pod("a pod whose MAC is not known is the stack's to ask for", a.pod1, a.without_mac, NoMac),
        from_pod("a pod whose interface is gone is the stack's", a.pod1, a.gone, NoMac),
        from_pod("one that went since the agent wrote it too", a.pod1, a.went, InterfaceGone),
        from_wire("from the wire as well", a.remote, a.went, InterfaceGone),
        from_pod("an entry that no agent of this ABI wrote is left to the stack", a.pod1, a.undefined, BadEntry),
        from_pod("a next hop that nobody wrote too", a.pod1, a.unnamed, BadEntry),
        from_pod("so is an uplink that is gone", a.pod1, a.lost_uplink, InterfaceGone),
        from_pod("a pod's packet to itself is the stack's", a.pod1, a.pod1, SameInterface),
        from_pod("what would go back where it came from is the stack's", a.pod1, a.back_to_pod1, SameInterface),
        from_wire("and back to the wire", a.remote, a.remote, SameInterface),
        from_wire("our own pod's address from the wire is the stack's to judge", a.pod1, a.pod2, SourceIsLocal),
        from_wire("our own block's too", a.nobody, a.pod2, SourceIsLocal),
        from_wire("strictly, a source is carried whose way back leads by the uplink", a.remote, a.pod1, RedirectedPeer).into_pod(POD1_MAC, HOST1).when(Condition::WayBack),
        from_wire("and one that leads by another uplink is the stack's", a.narrow, a.pod1, SourceElsewhere).when(Condition::WayBack),
        from_wire("which otherwise is carried", a.narrow, a.pod1, RedirectedPeer).into_pod(POD1_MAC, HOST1),
        from_pod("multicast is the stack's", a.pod1, a.multicast, Scope),
        from_pod("a gateway's link-local address is the stack's", a.pod1, a.link_local, if a.header == 20 { NoRoute } else { Scope }),
        from_pod("loopback is nobody's to forward", a.pod1, a.loopback, Scope),
        from_pod("a pod without an address yet may ask for one", a.unspecified, a.multicast, Scope),
        from_wire("a frame for another MAC is not ours", a.remote, a.pod1, NotForUs).for_mac(STRANGER),
        from_wire("nor is a broadcast", a.remote, a.pod1, NotForUs).for_mac(BROADCAST),
        vector("an interface of which nobody was told carries nothing", "lo", udp(a.remote, a.pod1), InterfaceUnknown),
        edited(from_wire("a VLAN's frame is not this interface's", a.remote, a.pod1, NotIp), |f| f.tag(7)),
        edited(from_pod("ARP, and whatever is no IP, is the stack's", a.pod1, a.pod2, NotIp), |f| f.ethertype(0x0806)),
    ]
}

#[rustfmt::skip]
fn of_ipv4() -> Vec<Vector> {
    let a = &V4;
    vec![
        from_wire("strictly, a source is carried of whose ways back one leads by the uplink", V4.two_ways, V4.pod1, RedirectedPeer).into_pod(POD1_MAC, HOST1).when(Condition::WayBack),
        vector("and one whose two ways lead by another is the stack's", NARROW, udp(V4.two_ways, V4.pod1), SourceElsewhere).when(Condition::WayBack),
        from_pod("one of several next hops carries it", a.pod1, a.two_ways, RedirectedNeigh).onward(),
        from_pod("IPv4 goes by an IPv4 next hop as well as by an IPv6 one", a.pod1, "172.16.119.1", RedirectedNeigh).onward(),
        edited(from_pod("a checksum that overflows is carried over", a.pod1, a.pod2, RedirectedPeer), |f| f.identified_by_checksum(0xff12)).into_pod(POD2_MAC, HOST2),
        edited(from_pod("of the two zeros the kernel's is sent", a.pod1, a.pod2, RedirectedPeer), |f| f.identified_by_checksum(0xfeff)).into_pod(POD2_MAC, HOST2),
        edited(from_pod("a first fragment is carried", a.pod1, a.pod2, RedirectedPeer), |f| f.fragment(0x2000)).into_pod(POD2_MAC, HOST2),
        edited(from_pod("a fragment takes one of several next hops", a.pod1, a.two_ways, RedirectedNeigh), |f| f.fragment(0x2000)).onward(),
        edited(from_pod("a later fragment is carried", a.pod1, a.pod2, RedirectedPeer), |f| f.fragment(0x00b9)).into_pod(POD2_MAC, HOST2),
        edited(from_pod("options are the stack's", a.pod1, a.pod2, Options), |f| f.options(&[7, 3, 4, 0])),
        edited(from_pod("options do not hide a forged source", a.pod2, a.remote, Spoofed), |f| f.options(&[7, 3, 4, 0])),
        edited(from_wire("nor a blackhole", a.remote, a.blackhole, BlackholeExplicit), |f| f.options(&[7, 3, 4, 0])),
        edited(from_wire("a wrong checksum is no packet", a.remote, a.pod1, Malformed), |f| f.checksum(0x1234)),
        edited(from_wire("a header shorter than a header is none", a.remote, a.pod1, Malformed), |f| f.ihl(4)),
        edited(from_wire("a packet shorter than its header is none", a.remote, a.pod1, Malformed), |f| f.length(19)),
        from_pod("class E is nobody's to forward", a.pod1, "240.0.0.1", Scope),
        from_pod("nor is the broadcast address", a.pod1, "255.255.255.255", Scope),
        from_pod("a pod that asks for an address by DHCP is heard", "0.0.0.0", "255.255.255.255", Scope),
        from_pod("a link-local source is not a pod's", a.link_local, a.pod2, Spoofed),
    ]
}

#[rustfmt::skip]
fn of_ipv6() -> Vec<Vector> {
    let a = &V6;
    let mut all = vec![
        from_pod("IPv4 next hops cannot carry IPv6", a.pod1, a.two_ways, RouteSaysPass),
        from_pod("no IPv6 packet goes by an IPv4 next hop", a.pod1, "fd00:127::3", NextHopFamily),
        from_pod("a neighbour solicitation is the stack's", a.pod1, "ff02::1:ff00:194", Scope),
        from_pod("so is one by a link-local address", a.link_local, a.pod2, Scope),
        from_pod("and duplicate address detection", "::", "ff02::1:ff00:193", Scope),
        edited(from_pod("a jumbogram is the stack's", a.pod1, a.pod2, ExtensionHeaders), |f| f.protocol(0).length(0)),
        edited(from_pod("ESP is payload to a router", a.pod1, a.pod2, RedirectedPeer), |f| f.protocol(50)).into_pod(POD2_MAC, HOST2),
        edited(from_pod("an extension header does not hide a forged source", a.pod2, a.remote, Spoofed), |f| f.protocol(43)),
        edited(from_wire("nor a blackhole", a.remote, a.blackhole, BlackholeExplicit), |f| f.protocol(44)),
        from_pod("an IPv4-mapped address is nobody's to forward", a.pod1, "::ffff:172.16.36.194", Scope),
    ];
    let extensions = [
        (0, "hop-by-hop options are the stack's"),
        (43, "a routing header is the stack's"),
        (44, "a fragment is the stack's"),
        (51, "an authentication header is the stack's"),
        (60, "destination options are the stack's"),
    ];
    for (header, says) in extensions {
        all.push(edited(from_pod(says, a.pod1, a.remote, ExtensionHeaders), |f| f.protocol(header)));
    }
    all
}

#[rustfmt::skip]
fn in_xdp(a: &Addresses) -> Vec<Vector> {
    let xdp = |says, from: &str, to: &str, verdict| from_wire(says, from, to, verdict).xdp();
    vec![
        xdp("an explicit blackhole drops on the wire", a.unknown, a.blackhole, BlackholeExplicit),
        xdp("an own block drops on the wire where no pod is", a.remote, a.nobody, BlackholeOwn),
        xdp("a new pod is not hidden: the kernel knows it", a.remote, a.unheard_of, FibDisagrees),
        xdp("a blackhole drops with the fast path off", a.remote, a.blackhole, BlackholeExplicit).when(Condition::FastPathOff),
        xdp("a pod's packet goes on to TC", a.remote, a.pod1, NotBlackholed),
        xdp("a blackhole outside the pools drops on the wire", a.remote, a.refused, BlackholeExplicit),
        xdp("what is in no map goes on", a.remote, a.unknown, NoRoute),
        xdp("multicast goes on", a.remote, a.multicast, Scope),
        xdp("a frame for another MAC goes on", a.remote, a.blackhole, NotForUs).for_mac(STRANGER),
        xdp("a broadcast goes on", a.remote, a.blackhole, NotForUs).for_mac(BROADCAST),
        edited(xdp("a VLAN's frame goes on", a.remote, a.blackhole, NotIp), |f| f.tag(7)),
        edited(xdp("what is no IP goes on", a.remote, a.blackhole, NotIp), |f| f.ethertype(0x0806)),
        edited(xdp("a cut header goes on", a.remote, a.blackhole, Unreadable), |f| f.cut(30)),
        vector("each uplink drops by its own MAC", NARROW, udp(a.remote, a.blackhole), BlackholeExplicit).xdp().for_mac(UPLINK_MAC),
    ]
}

#[test]
fn what_tc_does_with_ipv4() {
    check(|| [carried(&V4), dropped(&V4), passed(&V4), of_ipv4()].concat());
}

#[test]
fn what_tc_does_with_ipv6() {
    check(|| [carried(&V6), dropped(&V6), passed(&V6), of_ipv6()].concat());
}

#[test]
fn what_xdp_does_with_ipv4() {
    check(|| in_xdp(&V4));
}

#[test]
fn what_xdp_does_with_ipv6() {
    check(|| in_xdp(&V6));
}
