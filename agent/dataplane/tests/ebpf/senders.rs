//! The table, continued: who may say what. Sources by the three ways to check them, ARP, neighbour discovery, DHCP,
//! and tags of priority, which must hide nothing.

use manx_abi::Verdict::{self, *};

use crate::{
    frame::{Frame, arp, discovery, udp},
    world::{BROADCAST, Condition, HOST2, POD1, POD2, POD2_MAC, STRANGER, UPLINK, Vector, check, vector},
};

const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// The MAC that the vectors' frames come from.
const SENDER: [u8; 6] = STRANGER;

fn from_pod(says: &'static str, frame: Frame, verdict: Verdict) -> Vector {
    vector(says, POD1, frame, verdict)
}

fn shouted(says: &'static str, frame: Frame, verdict: Verdict) -> Vector {
    from_pod(says, frame, verdict).for_mac(BROADCAST)
}

#[rustfmt::skip]
fn by_arp() -> Vec<Vector> {
    let (own, neighbour, gateway) = ("172.16.36.193", "172.16.36.194", "169.254.1.1");
    let ask = |from: &str| arp(1, SENDER, from, gateway);
    vec![
        shouted("a pod asks for its gateway", ask(own), NotIp),
        from_pod("and asks it alone", ask(own), NotIp),
        from_pod("a pod answers for itself", arp(2, SENDER, own, gateway), NotIp),
        shouted("a pod announces itself", arp(1, SENDER, own, own), NotIp),
        shouted("a pod probes an address before it takes it", arp(1, SENDER, "0.0.0.0", own), NotIp),
        shouted("a pod cannot ask as its neighbour", ask(neighbour), ForgedNeighbour),
        from_pod("nor answer for it", arp(2, SENDER, neighbour, gateway), ForgedNeighbour),
        shouted("nor announce it", arp(1, SENDER, neighbour, neighbour), ForgedNeighbour),
        shouted("nor be the gateway", arp(2, SENDER, gateway, own), ForgedNeighbour),
        shouted("nor the node", arp(2, SENDER, "192.168.80.124", own), ForgedNeighbour),
        shouted("nor another node", arp(1, SENDER, "192.168.80.125", own), ForgedNeighbour),
        shouted("nor a pod of another node", ask("172.16.118.66"), ForgedNeighbour),
        shouted("nor an address of the block that nobody has", ask("172.16.36.201"), ForgedNeighbour),
        shouted("nor an address of the outside", ask("8.8.8.8"), ForgedNeighbour),
        shouted("its own address by another's MAC is forged", arp(1, POD2_MAC, own, gateway), ForgedNeighbour),
        shouted("a probe by another's MAC too", arp(1, POD2_MAC, "0.0.0.0", own), ForgedNeighbour),
        vector("an address that only the kernel gives to the pod is the pod's", POD2, arp(1, SENDER, "172.16.36.200", gateway), NotIp).for_mac(HOST2),
        from_pod("ARP of a hardware that is none is nobody's", arp(1, SENDER, neighbour, own).edit_raw(|a| a[1] = 7), NotIp),
        from_pod("ARP of IEEE 802 is checked as Ethernet's", arp(1, SENDER, neighbour, own).edit_raw(|a| a[1] = 6), ForgedNeighbour),
        from_pod("ARP for another protocol is nobody's", arp(1, SENDER, neighbour, own).edit_raw(|a| a[2] = 0x86), NotIp),
        from_pod("ARP that is cut short is dropped by the kernel", arp(1, SENDER, neighbour, own).cut(40), NotIp),
        shouted("loosely, a neighbour's address may be spoken for", ask(neighbour), NotIp).when(Condition::SourceCheckLoose),
        shouted("but none that has no way back", ask("172.16.36.201"), ForgedNeighbour).when(Condition::SourceCheckLoose),
        shouted("nor another's MAC", arp(1, POD2_MAC, own, gateway), ForgedNeighbour).when(Condition::SourceCheckLoose),
        shouted("unchecked, everybody may speak for everybody", arp(2, POD2_MAC, neighbour, gateway), NotForUs).when(Condition::SourceCheckOff),
        shouted("forged ARP is dropped with the fast path off", ask(neighbour), ForgedNeighbour).when(Condition::FastPathOff),
        vector("on the wire ARP is the stack's", UPLINK, arp(2, SENDER, own, gateway), NotIp),
    ]
}

#[rustfmt::skip]
fn by_discovery() -> Vec<Vector> {
    let (own, neighbour, gateway) = ("fd00:36::193", "fd00:36::194", "fe80::1");
    let (all, solicited) = ("ff02::1", "ff02::1:ff00:194");
    let behind = |header: u8, frame: Frame, kind: u8, target: &str| {
        // Eight octets of padding options, then the message.
        let target = target.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let message = [&[58, 0, 1, 4, 0, 0, 0, 0, kind, 0, 0, 0, 0, 0, 0, 0][..], &target].concat();
        frame.protocol(header).hops(255).body(&message)
    };
    let to_all = |says, frame, verdict| from_pod(says, frame, verdict).for_mac(ALL_NODES);
    vec![
        to_all("a pod asks for its neighbour", discovery(135, own, solicited, neighbour), NotForUs),
        from_pod("a pod asks whether its gateway is still there", discovery(135, own, gateway, gateway), Scope),
        to_all("a pod asks by its link-local address", discovery(135, "fe80::193", solicited, neighbour), Scope),
        to_all("a pod looks whether its address is taken", discovery(135, "::", "ff02::1:ff00:193", own), Scope),
        to_all("a pod cannot ask as its neighbour", discovery(135, neighbour, solicited, own), Spoofed),
        to_all("nor as a pod of another node", discovery(135, "fd00:118::66", solicited, own), Spoofed),
        to_all("nor as the node", discovery(135, "fd00:80::124", solicited, own), Spoofed),
        from_pod("a pod answers for itself", discovery(136, own, gateway, own), Scope),
        from_pod("also by its link-local address", discovery(136, "fe80::193", gateway, own), Scope),
        from_pod("and for its link-local address", discovery(136, "fe80::193", gateway, "fe80::193"), Scope),
        from_pod("a pod cannot answer for its neighbour", discovery(136, own, gateway, neighbour), ForgedNeighbour),
        to_all("nor announce it", discovery(136, "fe80::193", all, neighbour), ForgedNeighbour),
        to_all("nor the node", discovery(136, "fe80::193", all, "fd00:80::124"), ForgedNeighbour),
        to_all("nor a pod of another node", discovery(136, "fe80::193", all, "fd00:118::66"), ForgedNeighbour),
        to_all("nor an address of the block that nobody has", discovery(136, "fe80::193", all, "fd00:36::201"), ForgedNeighbour),
        vector("an address that only the kernel gives to the pod is the pod's", POD2, discovery(136, "fe80::194", all, "fd00:36::200"), Scope).for_mac(ALL_NODES),
        vector("a pod that only the kernel knows asks whether its gateway is there", POD2, discovery(135, "fd00:36::200", gateway, gateway), SourceUnknown),
        vector("and for its neighbour", POD2, discovery(135, "fd00:36::200", "ff02::1:ff00:193", own), SourceUnknown).for_mac(ALL_NODES),
        to_all("a pod may ask for routers", discovery(133, "fe80::193", "ff02::2", "::"), Scope),
        to_all("a pod is no router", discovery(134, "fe80::193", all, "::"), ForgedNeighbour),
        from_pod("nor for one alone", discovery(134, "fe80::193", "fe80::1", "::"), ForgedNeighbour),
        from_pod("a pod redirects nobody", discovery(137, "fe80::193", gateway, neighbour), ForgedNeighbour),
        from_pod("not on another node either", discovery(137, own, "fd00:118::66", neighbour), ForgedNeighbour),
        from_pod("what has been routed is none, and is routed on", discovery(137, own, "fd00:118::66", neighbour).hops(254), RedirectedNeigh).onward(),
        to_all("an answer behind destination options is forged", behind(60, udp("fe80::193", all), 136, neighbour), ForgedNeighbour),
        to_all("a router's word behind hop-by-hop options too", behind(0, udp("fe80::193", all), 134, neighbour), ForgedNeighbour),
        to_all("loosely, a neighbour's address may be answered for", discovery(136, "fe80::193", all, neighbour), Scope).when(Condition::SourceCheckLoose),
        to_all("a router is forged as ever", discovery(134, "fe80::193", all, "::"), ForgedNeighbour).when(Condition::SourceCheckLoose),
        to_all("unchecked, a pod may be a router", discovery(134, "fe80::193", all, "::"), NotForUs).when(Condition::SourceCheckOff),
        to_all("forged discovery is dropped with the fast path off", discovery(134, "fe80::193", all, "::"), ForgedNeighbour).when(Condition::FastPathOff),
        from_pod("an echo is no discovery", udp(own, "fd00:118::66").protocol(58).body(&[128, 0, 0, 0, 0, 1, 0, 1]), RedirectedNeigh).onward(),
        to_all("a listener reports behind an option of its own", behind(0, udp("fe80::193", "ff02::16"), 143, "::"), Scope),
        vector("on the wire discovery is the stack's", UPLINK, discovery(136, "fe80::193", all, own), NotForUs).for_mac(ALL_NODES),
    ]
}

#[rustfmt::skip]
fn by_dhcp() -> Vec<Vector> {
    let ports = |from: u16, to: u16| [from.to_be_bytes(), to.to_be_bytes(), [0, 8], [0, 0]].concat();
    vec![
        shouted("a pod without an address asks by DHCP", udp("0.0.0.0", "255.255.255.255").body(&ports(68, 67)), Scope),
        shouted("one with an address renews it", udp("172.16.36.193", "255.255.255.255").body(&ports(68, 67)), NotForUs),
        shouted("but not its neighbour's", udp("172.16.36.194", "255.255.255.255").body(&ports(68, 67)), Spoofed),
        from_pod("a pod asks by DHCPv6", udp("fe80::193", "ff02::1:2").body(&ports(546, 547)), Scope).for_mac(ALL_NODES),
        from_pod("but not as its neighbour", udp("fd00:36::194", "ff02::1:2").body(&ports(546, 547)), Spoofed).for_mac(ALL_NODES),
    ]
}

/// The same for both families: the pod, its neighbour, a pod of another node, an address that nobody has, the outside,
/// an own address of the node, a group, the loopback.
type Addresses = [&'static str; 8];

const V4: Addresses = [
    "172.16.36.193",
    "172.16.36.194",
    "172.16.118.66",
    "172.16.36.201",
    "8.8.8.8",
    "192.168.80.124",
    "224.0.0.251",
    "127.0.0.1",
];
const V6: Addresses = [
    "fd00:36::193",
    "fd00:36::194",
    "fd00:118::66",
    "fd00:36::201",
    "2001:db8::8",
    "fd00:80::124",
    "ff02::fb",
    "::1",
];

#[rustfmt::skip]
fn by_source(a: Addresses) -> Vec<Vector> {
    let [own, neighbour, remote, nobody, outside, node, group, loopback] = a;
    let loose = |says, from, verdict| from_pod(says, udp(from, remote), verdict).when(Condition::SourceCheckLoose);
    let off = |says, from, verdict| from_pod(says, udp(from, remote), verdict).when(Condition::SourceCheckOff);
    vec![
        from_pod("strictly, a pod sends as itself", udp(own, remote), RedirectedNeigh).onward(),
        from_pod("not as the node", udp(node, remote), Spoofed),
        from_pod("not as the loopback", udp(loopback, remote), Spoofed),
        from_pod("not as a group", udp(group, remote), Spoofed),
        from_pod("not as another to the node", udp(neighbour, node), Spoofed),
        from_pod("not as another to a group", udp(neighbour, group), Spoofed),
        shouted("not as another to all", udp(neighbour, group), Spoofed),
        from_pod("a frame for another MAC is nobody's", udp(neighbour, remote), NotForUs).for_mac(STRANGER),
        loose("loosely, a pod sends as itself", own, RedirectedNeigh).onward(),
        loose("as its neighbour", neighbour, RedirectedNeigh).onward(),
        loose("as a pod of another node", remote, RedirectedNeigh).onward(),
        loose("but not as one that nobody has", nobody, Spoofed),
        loose("nor as the node", node, Spoofed),
        loose("nor as the loopback", loopback, Spoofed),
        off("unchecked, a pod sends as itself", own, RedirectedNeigh).onward(),
        off("as its neighbour by the stack", neighbour, SourceUnknown),
        off("as one that nobody has by the stack", nobody, SourceUnknown),
        off("as the outside by the stack", outside, SourceUnknown),
        off("as the loopback by the stack, which drops it", loopback, Scope),
        from_pod("a tag of priority in the frame hides nothing", udp(own, remote).tag(0), Spoofed),
        from_pod("nor one with a priority", udp(own, remote).tag(0xe000), Spoofed),
        from_pod("a VLAN's frame is not this interface's", udp(neighbour, remote).tag(7), NotIp),
        from_pod("unchecked, a tag of priority is the stack's to take off", udp(own, remote).tag(0), NotIp).when(Condition::SourceCheckOff),
        vector("on the wire too", UPLINK, udp(remote, own).tag(0), NotIp),
    ]
}

#[test]
fn a_pod_speaks_for_itself_alone_by_arp() {
    check(by_arp);
}

#[test]
fn a_pod_speaks_for_itself_alone_by_neighbour_discovery() {
    check(by_discovery);
}

#[test]
fn a_pod_gets_its_address_by_dhcp() {
    check(by_dhcp);
}

#[test]
fn a_pod_sends_as_itself_alone_in_ipv4() {
    check(|| by_source(V4));
}

#[test]
fn a_pod_sends_as_itself_alone_in_ipv6() {
    check(|| by_source(V6));
}
