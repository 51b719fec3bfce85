//! Packets that are in order: what TCP and UDP of real hosts make, of both of which a program carries most.

use std::net::IpAddr;

use crate::{
    model::{INTERFACES, KNOWN, OWN, in_pool},
    packets::{Sent, TCP, UDP, checksum, class, hops, ports},
    random::Random,
    wire::Offload,
};

/// What a pod's TCP hands to its interface: a checksum still to be worked out, and mostly several packets in one.
pub fn large(random: &mut Random, interface: usize, from: IpAddr, to: IpAddr) -> Sent {
    let v4 = from.is_ipv4();
    let headers = if v4 { 40 } else { 60 };
    // Often one of the MTUs, sometimes an octet more.
    let mtu = *random.of(&[536, 1280, 1280, 1281, 1400, 1401, 1500, 1500, 1501, 9000]);
    let size = if random.percent(80) { (mtu - headers) as u16 } else { 0 };
    let length = match size {
        0 => random.below(1240),
        _ => (usize::from(size) * (1 + random.below(12)) + 1 + random.below(size.into())).min(60_000),
    };
    let mut tcp = ports(random).to_vec();
    tcp.extend(random.bytes(8));
    let flags = *random.of(&[0x10, 0x18, 0x90, 0x50, 0x11]);
    tcp.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let start = random.byte();
    tcp.extend((0..length).map(|place| (place as u8).wrapping_add(start)));
    // What the interface adds up from: the sum over the pseudo header.
    let total = tcp.len() as u32;
    let pseudo =
        [addresses_of(from), addresses_of(to), total.to_be_bytes().to_vec(), vec![0, 0, 0, TCP]].concat();
    let sum = !checksum(&pseudo);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut frame = [INTERFACES[interface].mac, INTERFACES[interface].far_mac].concat();
    frame.extend(header(random, from, to, TCP, tcp.len()));
    let offload =
        Offload::tcp(v4, frame.len(), if length > size.into() { size } else { 0 }, flags & 0x80 != 0);
    frame.extend(tcp);
    Sent { interface, offload, frame }
}

fn addresses_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// UDP of a few flows, each of which is heard in both directions.
pub fn dialogue(random: &mut Random) -> Sent {
    let v4 = random.percent(50);
    let pod = |number| in_pool(OWN, number, v4);
    let ends = [(0, pod(193)), (1, pod(194)), (2, pod(195)), (3, in_pool(KNOWN, 1, v4))];
    let (one, two) = *random.of(&[(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]);
    let forth = random.percent(50);
    let ((interface, from), (_, to)) = if forth { (ends[one], ends[two]) } else { (ends[two], ends[one]) };
    let ports =
        if forth { [40_000, PORT + random.below(3) as u16] } else { [PORT + random.below(3) as u16, 40_000] };
    let length = random.below(1400);
    let payload = random.bytes(length);
    datagram(random, interface, from, to, ports, &payload)
}

const PORT: u16 = 53;

/// A UDP packet into an interface of the node.
pub fn datagram(
    random: &mut Random,
    interface: usize,
    from: IpAddr,
    to: IpAddr,
    ports: [u16; 2],
    payload: &[u8],
) -> Sent {
    let length = 8 + payload.len() as u16;
    let mut body = [ports[0], ports[1], length, 0].map(u16::to_be_bytes).concat();
    body.extend(payload);
    let total = u32::from(length).to_be_bytes().to_vec();
    let pseudo = [addresses_of(from), addresses_of(to), total, vec![0, 0, 0, UDP]].concat();
    let sum = checksum(&[&pseudo[..], &body].concat());
    body[6..8].copy_from_slice(&if sum == 0 { [0xff; 2] } else { sum.to_be_bytes() });
    let mut frame = [INTERFACES[interface].mac, INTERFACES[interface].far_mac].concat();
    frame.extend(header(random, from, to, UDP, body.len()));
    frame.extend(body);
    Sent { interface, offload: Offload::default(), frame }
}

/// The checksum of an IPv4 header in which something was changed.
pub fn mend_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// EtherType and IP header.
fn header(random: &mut Random, from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let class = class(random);
    let mut bytes;
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            bytes = vec![0x08, 0x00, 0x45, class];
            bytes.extend(((20 + length) as u16).to_be_bytes());
            bytes.extend((random.word() as u16).to_be_bytes());
            let fragment: u16 = if random.percent(75) { 0x4000 } else { 0 };
            bytes.extend(fragment.to_be_bytes());
            bytes.extend([hops(random), protocol, 0, 0]);
            bytes.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&bytes[2..]);
            bytes[12..14].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            bytes = vec![0x86, 0xdd];
            bytes.extend((6u32 << 28 | u32::from(class) << 20 | 7).to_be_bytes());
            bytes.extend((length as u16).to_be_bytes());
            bytes.extend([protocol, hops(random)]);
            bytes.extend([from.octets(), to.octets()].concat());
        }
        _ => unreachable!("a packet has addresses of one family"),
    }
    bytes
}
