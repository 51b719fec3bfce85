//! Packets that nobody in his right mind sends, and those that everybody does.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::ControlFlow,
};

use crate::{
    flows,
    model::{
        BORROWED, FAR_MTU, GATEWAYS, INTERFACES, KNOWN, LINK_LOCAL, Mac, NODE, OWN, PODS, TUNNEL, UNHEARD,
        in_pool, on_wire,
    },
    random::Random,
    tables::Table,
    wire::Offload,
};

/// A frame, and the interface by which the node gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub interface: usize,
    pub offload: Offload,
    pub frame: Vec<u8>,
}

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;

pub fn random(random: &mut Random, table: &Table) -> Sent {
    let interface = random.below(INTERFACES.len());
    let v4 = random.percent(50);
    if INTERFACES[interface].is_pod() && random.percent(12) {
        let (from, to) = (source(random, table, interface, v4), destination(random, table, v4));
        return flows::large(random, interface, from, to);
    }
    if random.percent(4) {
        return neighbours(random, table, interface, v4);
    }
    let from = source(random, table, interface, v4);
    let to = destination(random, table, v4);
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(random, from, to),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(random, from, to),
        _ => unreachable!("both were asked for in one family"),
    };
    let ethertype: u16 = match random.below(200) {
        0 => 0x0806,
        1 => 0x88cc,
        2 => {
            if v4 {
                0x86dd
            } else {
                0x0800
            }
        }
        3 => random.word() as u16,
        _ => {
            if v4 {
                0x0800
            } else {
                0x86dd
            }
        }
    };
    // Nobody's control frames: LACP, PAUSE and the bridge's are the driver's to swallow.
    if random.percent(3) {
        packet.truncate(random.below(packet.len() + 1));
    }
    // As short frames have it.
    if random.percent(6) {
        let length = 1 + random.below(60);
        packet.extend(random.bytes(length));
    }
    let mut frame = [destination_mac(random, interface), INTERFACES[interface].far_mac].concat();
    match random.below(100) {
        0 => tag(&mut frame, 0x8100, 0),
        1 => tag(&mut frame, 0x8100, 7),
        2 => tag(&mut frame, 0x88a8, 7),
        3 => {
            tag(&mut frame, 0x88a8, *random.of(&[0, 0, 7]));
            tag(&mut frame, 0x8100, *random.of(&[0, 8]));
        }
        _ => {}
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    if random.percent(2) {
        for _ in 0..=random.below(3) {
            // The MACs stay: a frame for nobody says nothing.
            let place = 12 + random.below(frame.len() - 12);
            frame[place] ^= 1 << random.below(8);
        }
    }
    frame.truncate(FAR_MTU + 14);
    Sent { interface, offload: Offload::default(), frame }
}

/// ARP and neighbour discovery, honest and forged.
fn neighbours(random: &mut Random, table: &Table, interface: usize, v4: bool) -> Sent {
    let far_mac = INTERFACES[interface].far_mac;
    let claimed = if random.percent(85) { far_mac } else { [0x02, 0, 0, 0, 9, random.byte()] };
    let (mine, theirs) = (source(random, table, interface, v4), well_known(random, v4));
    let other = source(random, table, interface, v4);
    let target = if random.percent(70) { theirs } else { other };
    let (mac, packet, ethertype) = match (mine, target) {
        (IpAddr::V4(mine), IpAddr::V4(target)) => {
            let mine = if random.percent(10) { Ipv4Addr::UNSPECIFIED } else { mine };
            let mut arp = vec![0, if random.percent(95) { 1 } else { random.byte() }, 8, 0, 6, 4];
            arp.extend([0, *random.of(&[1, 1, 1, 2, 3])]);
            arp.extend(claimed);
            arp.extend(mine.octets());
            arp.extend([0; 6]);
            arp.extend(target.octets());
            let mac = if random.percent(70) { [0xff; 6] } else { INTERFACES[interface].mac };
            (mac, arp, [0x08, 0x06])
        }
        (IpAddr::V6(mine), IpAddr::V6(target)) => {
            let mine = match random.below(10) {
                0 => Ipv6Addr::UNSPECIFIED,
                1..4 => LINK_LOCAL[0],
                _ => mine,
            };
            let kind = *random.of(&[133, 134, 135, 135, 135, 135, 136, 136, 137]);
            let mut message = vec![kind, 0, 0, 0, 0x20, 0, 0, 0];
            message.extend(target.octets());
            if random.percent(60) && !mine.is_unspecified() {
                message.extend([if kind == 136 { 2 } else { 1 }, 1]);
                message.extend(claimed);
            }
            let [.., a, b, c] = target.octets();
            let group =
                Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
            let to = if random.percent(60) { group } else { target };
            let length = message.len() as u32;
            let pseudo =
                [&mine.octets()[..], &to.octets(), &length.to_be_bytes(), &[0, 0, 0, ICMP6]].concat();
            let sum = checksum(&[&pseudo[..], &message].concat());
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut packet = vec![0x60, 0, 0, 0, 0, message.len() as u8, ICMP6];
            packet.push(if random.percent(95) { 255 } else { 64 });
            packet.extend([mine.octets(), to.octets()].concat());
            packet.extend(message);
            let mac = if to == group { [0x33, 0x33, 0xff, a, b, c] } else { INTERFACES[interface].mac };
            (mac, packet, [0x86, 0xdd])
        }
        _ => unreachable!("both were asked for in one family"),
    };
    let frame = [&mac[..], &far_mac, &ethertype, &packet].concat();
    Sent { interface, offload: Offload::default(), frame }
}

fn tag(frame: &mut Vec<u8>, protocol: u16, number: u16) {
    frame.extend(protocol.to_be_bytes());
    frame.extend(number.to_be_bytes());
}

fn destination_mac(random: &mut Random, interface: usize) -> Mac {
    match random.below(100) {
        0 => [0xff; 6],
        1 => [0x01, 0, 0x5e, 0, 0, 0xfb],
        2 => [0x33, 0x33, 0, 0, 0, 1],
        3 => INTERFACES[(interface + 1) % INTERFACES.len()].mac,
        4 => [0x02, 0, 0, 0, 9, random.byte()],
        _ => INTERFACES[interface].mac,
    }
}

fn source(random: &mut Random, table: &Table, interface: usize, v4: bool) -> IpAddr {
    let pod = INTERFACES[interface].is_pod();
    let own: Vec<u8> =
        PODS.iter().filter(|(behind, _)| *behind == interface).map(|(_, last)| *last).collect();
    match random.below(100) {
        0..84 if pod => match (interface, random.below(8)) {
            (1, 0) => in_pool(OWN, UNHEARD, v4),
            (1, 1) => in_pool(KNOWN, BORROWED, v4),
            _ => in_pool(OWN, *random.of(&own), v4),
        },
        0..50 => {
            let last = random.byte();
            in_pool(KNOWN, last, v4)
        }
        50..88 => table.address(random, v4),
        88..94 => outside(random, v4),
        94..97 => well_known(random, v4),
        _ => odd(random, v4),
    }
}

fn destination(random: &mut Random, table: &Table, v4: bool) -> IpAddr {
    match random.below(100) {
        0..30 => in_pool(OWN, random.of(&PODS).1, v4),
        30..55 => {
            let last = random.byte();
            in_pool(KNOWN, last, v4)
        }
        55..85 => table.address(random, v4),
        85..89 => {
            // Most are nobody's.
            let last = 192 + random.below(64) as u8;
            in_pool(OWN, last, v4)
        }
        89..92 => outside(random, v4),
        92..97 => well_known(random, v4),
        _ => odd(random, v4),
    }
}

/// By the default route, or in pools without a route.
fn outside(random: &mut Random, v4: bool) -> IpAddr {
    let (third, last) = (random.byte(), random.byte());
    if v4 {
        let (first, second) = *random.of(&[(8, 8), (203, 7), (172, 16), (10, 48)]);
        Ipv4Addr::new(first, second, third, last).into()
    } else {
        let (first, second) = *random.of(&[(0x2001, 0xdb8), (0xfd10, 0x16), (0xfd10, 0x48)]);
        Ipv6Addr::new(first, second, 0, third.into(), 0, 0, 0, last.into()).into()
    }
}

/// Routers on the wire and the node's own. Nobody else is on the wires: whom the kernel has to ask for there would
/// answer by the clock.
fn well_known(random: &mut Random, v4: bool) -> IpAddr {
    match random.below(3) {
        0 => random.of(&GATEWAYS).address(v4),
        1 => on_wire(*random.of(&[80, 81, 82]), NODE, v4),
        _ => in_pool(OWN, TUNNEL, v4),
    }
}

/// What no router forwards.
fn odd(random: &mut Random, v4: bool) -> IpAddr {
    let v4_odd = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "127.255.255.255",
        "169.254.1.1",
        "224.0.0.1",
        "224.0.0.251",
        "239.1.2.3",
        "240.0.0.1",
        "255.255.255.255",
        "192.168.80.255",
    ];
    let v6_odd = [
        "::",
        "::1",
        "::ffff:172.16.36.193",
        "fe80::1",
        "fe80::ecff:fe00:77",
        "ff02::1",
        "ff02::2",
        "ff02::fb",
        "ff05::1",
        "ff0e::1",
        "fd00:80::",
        "64:ff9b::808:808",
    ];
    let text = if v4 { random.of(&v4_odd) } else { random.of(&v6_odd) };
    text.parse().expect("an address")
}

/// Octets of the whole packet: small ones, and those around the MTUs.
fn size(random: &mut Random) -> usize {
    match random.below(10) {
        0..6 => random.below(200),
        6 => 200 + random.below(1000),
        _ => {
            let mtu = *random.of(&[1280, 1280, 1400, 1400, 1500, 1500, 1500, 9000]);
            mtu - 3 + random.below(7)
        }
    }
}

fn ipv4(random: &mut Random, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut options = match random.below(100) {
        0..88 => Vec::new(),
        88..90 => vec![1, 1, 1, 0],
        90..92 => vec![7, 7, 4, 0, 0, 0, 0, 0],
        92..94 => vec![68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        94..96 => vec![148, 4, 0, 0],
        96 => [&[131, 7, 4][..], &in_pool_octets(KNOWN), &[0]].concat(),
        97 => vec![134, 4, 0, 0],
        _ => {
            let length = 4 * random.below(11);
            random.bytes(length)
        }
    };
    // A time stamp that the router puts in differs with the clock; the others stay.
    if options.first() == Some(&68) {
        options[2] = 13;
    }
    let header = 20 + options.len();
    let payload = size(random).saturating_sub(header);
    let fragment = match random.below(20) {
        0 => 0x2000,
        1 => 0x2000 | random.below(0x400) as u16,
        2 => random.below(0x400) as u16,
        3 => random.word() as u16,
        4..12 => 0,
        _ => 0x4000,
    };
    let protocol = protocol(random, ICMP);
    let body = body(random, protocol, payload, IpAddr::V4(from), IpAddr::V4(to));
    let mut bytes = vec![0x40 | (header / 4) as u8, class(random)];
    bytes.extend(((header + body.len()) as u16).to_be_bytes());
    bytes.extend((random.word() as u16).to_be_bytes());
    bytes.extend(u16::to_be_bytes(fragment));
    bytes.extend([hops(random), protocol, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(options);
    let wrong = random.percent(4);
    if wrong {
        match random.below(4) {
            0 => bytes[0] = random.byte(),
            1 => bytes[3] = random.byte(),
            2 => bytes[2] = random.byte(),
            _ => {}
        }
    }
    let checksum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    if wrong && random.percent(40) {
        bytes[10] ^= 1 << random.below(8);
    }
    bytes.extend(body);
    bytes
}

fn in_pool_octets(block: u8) -> [u8; 4] {
    [172, 16, block, 1]
}

fn ipv6(random: &mut Random, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut headers: Vec<(u8, Vec<u8>)> = Vec::new();
    if random.percent(14) {
        for _ in 0..=random.below(3) {
            headers.push(extension(random));
        }
    }
    let last = protocol(random, ICMP6);
    let taken: usize = 40 + headers.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    let payload = size(random).saturating_sub(taken);
    let body = body(random, last, payload, IpAddr::V6(from), IpAddr::V6(to));
    let mut rest = Vec::new();
    let mut next = headers.iter().map(|(number, _)| *number).skip(1).chain([last]);
    for (_, bytes) in &headers {
        let start = rest.len();
        rest.extend(bytes);
        rest[start] = next.next().unwrap_or(last);
    }
    rest.extend(body);
    let first = headers.first().map_or(last, |(number, _)| *number);
    let class = class(random);
    let flow = if random.percent(50) { 0 } else { random.word() as u32 & 0xf_ffff };
    let mut bytes = (6u32 << 28 | u32::from(class) << 20 | flow).to_be_bytes().to_vec();
    let length = match random.below(60) {
        0 => random.word() as u16,
        1 => 0,
        _ => rest.len() as u16,
    };
    bytes.extend(length.to_be_bytes());
    bytes.extend([first, hops(random)]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    if random.percent(1) {
        bytes[0] = random.byte();
    }
    bytes.extend(rest);
    bytes
}

/// Number and octets of an extension header; its first octet is filled in later.
fn extension(random: &mut Random) -> (u8, Vec<u8>) {
    let options = |random: &mut Random| match random.below(5) {
        0 => vec![0, 0, 1, 4, 0, 0, 0, 0],
        1 => vec![0, 0, 5, 2, 0, 0, 1, 0],
        // Unknown, with each of the four things to do (RFC 8200 §4.2).
        2 => vec![0, 0, 0x1e | (random.byte() & 0xc0), 4, 0, 0, 0, 0],
        3 => vec![0, 0, 0xc2, 4, 0, 1, 0, 0],
        _ => [&[0, random.byte() & 3][..], &random.bytes(6)].concat(),
    };
    match random.below(12) {
        0..3 => (0, options(random)),
        3..5 => (60, options(random)),
        5 => (43, vec![0, 0, 0, 0, 0, 0, 0, 0]),
        6 => (43, [&[0, 2, *random.of(&[0, 2, 4]), random.byte() & 3][..], &random.bytes(20)].concat()),
        7..10 => {
            let offset = match random.below(4) {
                0 => 0,
                1 => 1,
                _ => random.word() as u16 & !6,
            };
            let mut bytes = vec![0, 0];
            bytes.extend(offset.to_be_bytes());
            bytes.extend(random.bytes(4));
            (44, bytes)
        }
        10 => (51, [&[0, 4, 0, 0][..], &random.bytes(20)].concat()),
        _ => (*random.of(&[135, 139, 140, 253, 254]), vec![0, 0, 0, 0, 0, 0, 0, 0]),
    }
}

pub fn hops(random: &mut Random) -> u8 {
    match random.below(20) {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 255,
        4..8 => random.byte(),
        _ => 64,
    }
}

/// DSCP and ECN.
pub fn class(random: &mut Random) -> u8 {
    if random.percent(50) { 0 } else { random.byte() }
}

fn protocol(random: &mut Random, icmp: u8) -> u8 {
    match random.below(20) {
        0..7 => UDP,
        7..13 => TCP,
        13..16 => icmp,
        16 => *random.of(&[132, 33, 136]),
        17 => *random.of(&[4, 41, 47, 50, 51, 59]),
        18 => random.byte(),
        _ => *random.of(&[ICMP, ICMP6, 2, 89, 103, 112]),
    }
}

fn body(random: &mut Random, protocol: u8, length: usize, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut bytes = random.bytes(length.min(64));
    bytes.extend((bytes.len()..length).map(|place| place as u8));
    let built = match protocol {
        UDP => udp(random, &mut bytes),
        TCP => tcp(random, &mut bytes),
        ICMP | ICMP6 => icmp(random, &mut bytes, protocol),
        _ => ControlFlow::Break(()),
    };
    if let ControlFlow::Continue(place) = built
        && !random.percent(6)
        && place + 2 <= bytes.len()
    {
        bytes[place..place + 2].fill(0);
        let mut all = Vec::new();
        if protocol != ICMP {
            match (from, to) {
                (IpAddr::V4(from), IpAddr::V4(to)) => all.extend([from.octets(), to.octets()].concat()),
                (IpAddr::V6(from), IpAddr::V6(to)) => all.extend([from.octets(), to.octets()].concat()),
                _ => {}
            }
            all.extend((bytes.len() as u32).to_be_bytes());
            all.extend([0, 0, 0, protocol]);
        }
        all.extend(&bytes);
        let sum = checksum(&all);
        bytes[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Ports of a few flows, so that some meet again.
pub fn ports(random: &mut Random) -> [u8; 4] {
    let source = 40_000 + random.below(8) as u16;
    let [a, b] = source.to_be_bytes();
    let [c, d] = random.of(&[80u16, 443, 53, 9, 67, 68, 546, 547, 4789]).to_be_bytes();
    if random.percent(50) { [a, b, c, d] } else { [c, d, a, b] }
}

/// Where the checksum stands, or nothing to be right.
fn udp(random: &mut Random, bytes: &mut [u8]) -> ControlFlow<(), usize> {
    if bytes.len() < 8 {
        return ControlFlow::Break(());
    }
    bytes[0..4].copy_from_slice(&ports(random));
    let length = if random.percent(4) { random.word() as u16 } else { bytes.len() as u16 };
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    if random.percent(10) {
        bytes[6..8].fill(0);
        return ControlFlow::Break(());
    }
    ControlFlow::Continue(6)
}

fn tcp(random: &mut Random, bytes: &mut [u8]) -> ControlFlow<(), usize> {
    if bytes.len() < 20 {
        return ControlFlow::Break(());
    }
    bytes[0..4].copy_from_slice(&ports(random));
    bytes[12] = if random.percent(90) { 0x50 } else { random.byte() };
    // SYN, FIN, RST, ACK and PSH|ACK by themselves, or whatever.
    bytes[13] = if random.percent(70) { *random.of(&[2, 1, 4, 16, 24, 18, 17, 0xd0]) } else { random.byte() };
    ControlFlow::Continue(16)
}

fn icmp(random: &mut Random, bytes: &mut [u8], protocol: u8) -> ControlFlow<(), usize> {
    if bytes.len() < 8 {
        return ControlFlow::Break(());
    }
    let kinds: &[(u8, u8)] = if protocol == ICMP {
        &[(8, 0), (0, 0), (3, 1), (3, 3), (3, 4), (11, 0), (12, 0), (5, 1), (17, 0)]
    } else {
        &[(128, 0), (129, 0), (1, 0), (1, 4), (2, 0), (3, 0), (4, 1), (137, 0), (133, 0), (136, 0)]
    };
    let (kind, code) = *random.of(kinds);
    bytes[0..2].copy_from_slice(&[kind, code]);
    ControlFlow::Continue(2)
}

/// RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
