//! The frame that a way begins with, as the injector's template: UDP of 80 octets with a right checksum, which stays
//! right when the injector counts a port up, since it counts a word of the payload down.

use std::net::IpAddr;

use anyhow::{Result, bail};

pub type Mac = [u8; 6];

/// As in `ebpf/src/bench.rs`.
pub const LENGTH: usize = 80;
const MARK: u32 = 0x4d61_6e78;
const ETHERNET: usize = 14;
/// Of which a flow's number is taken.
const BALANCE: u16 = 0x8000;
/// A power of two.
pub const FLOWS: u16 = 256;
/// The varied port of the first flow, and the other one.
const FIRST: u16 = 10_000;
const SERVER: u16 = 20_000;

/// Blocks lie so many addresses apart.
const APART: u16 = 64;
/// IPv4's identification, of which an address's distance is taken: more than the last flow's.
const IDENTIFICATION: u16 = 0xc000;

/// Which side's address differs from flow to flow, by a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    From,
    To,
}

/// A direction of a way: from whom to whom, by MAC and address.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    pub from: (Mac, IpAddr),
    pub to: (Mac, IpAddr),
    /// The answers to another course: its destination ports vary.
    pub answers: bool,
    pub many: Option<Many>,
    pub begin: Begin,
}

/// How a course begins; each is an XDP action of the injector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The other end of the device receives a frame by NAPI, as from a NIC (XDP_TX).
    Wire,
    /// The device's own namespace has a packet, which it sends, as from a process (XDP_PASS).
    Process,
}

/// Value of the map `TEMPLATE`.
pub type Template = [u8; LENGTH + NUMBERS * 4];

const NUMBERS: usize = 8;

pub fn template(course: &Course) -> Result<Template> {
    let (sport, dport) = if course.answers { (SERVER, FIRST) } else { (FIRST, SERVER) };
    let mut frame = Vec::with_capacity(LENGTH);
    frame.extend_from_slice(&course.to.0);
    frame.extend_from_slice(&course.from.0);
    let mut pseudo = Vec::new();
    // UDP's header, the low halves of both addresses, and IPv4's identification.
    let (udp, addresses, identification) = match (course.from.1, course.to.1) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, (LENGTH - ETHERNET) as u8];
            header.extend_from_slice(&IDENTIFICATION.to_be_bytes());
            header.extend_from_slice(&[0x40, 0, 64, 17, 0, 0]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let sum = checksum(&header).to_be_bytes();
            header.splice(10..12, sum);
            pseudo.extend_from_slice(&from.octets());
            pseudo.extend_from_slice(&to.octets());
            frame.extend_from_slice(&[0x08, 0x00]);
            frame.extend_from_slice(&header);
            (ETHERNET + 20, [ETHERNET + 14, ETHERNET + 18], ETHERNET + 4)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend_from_slice(&[0, (LENGTH - ETHERNET - 40) as u8, 17, 64]);
            frame.extend_from_slice(&from.octets());
            frame.extend_from_slice(&to.octets());
            pseudo.extend_from_slice(&from.octets());
            pseudo.extend_from_slice(&to.octets());
            (ETHERNET + 40, [ETHERNET + 22, ETHERNET + 38], 0)
        }
        _ => bail!("a course of two families"),
    };
    // At most 46.
    let length = (LENGTH - udp) as u16;
    let mut datagram = Vec::new();
    for word in [sport, dport, length, 0] {
        datagram.extend_from_slice(&word.to_be_bytes());
    }
    datagram.extend_from_slice(&MARK.to_be_bytes());
    for _ in 0..2 {
        datagram.extend_from_slice(&BALANCE.to_be_bytes());
    }
    datagram.resize(usize::from(length), 0);
    pseudo.extend_from_slice(&[0, 17]);
    pseudo.extend_from_slice(&length.to_be_bytes());
    pseudo.extend_from_slice(&datagram);
    // Zero would say "none" (RFC 768).
    let sum = match checksum(&pseudo) {
        0 => 0xffff,
        sum => sum,
    };
    datagram.splice(6..8, sum.to_be_bytes());
    frame.extend_from_slice(&datagram);
    let mut out = [0; LENGTH + NUMBERS * 4];
    let (bytes, numbers) = out.split_at_mut(LENGTH);
    bytes.copy_from_slice(&frame);
    let port = udp + if course.answers { 2 } else { 0 };
    let [low_from, low_to] = addresses;
    let address = match course.many {
        None => 0,
        Some(Many::From) => low_from,
        Some(Many::To) => low_to,
    };
    let begin = match course.begin {
        Begin::Process => 2,
        Begin::Wire => 3,
    };
    let flows = usize::from(FLOWS) - 1;
    let words = [port, udp + 12, flows, address, usize::from(APART), udp + 14, identification, begin];
    for (place, word) in numbers.chunks_exact_mut(4).zip(words) {
        // Offsets in the frame.
        place.copy_from_slice(&(word as u32).to_ne_bytes());
    }
    Ok(out)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            u32::from(pair.first().copied().unwrap_or(0)) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Folded to sixteen bits.
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(from: &str, to: &str, answers: bool, many: Option<Many>) -> Course {
        Course {
            from: ([2; 6], from.parse().unwrap()),
            to: ([4; 6], to.parse().unwrap()),
            answers,
            many,
            begin: Begin::Wire,
        }
    }

    /// What the injector makes of a template.
    fn made(template: &Template, flow: u16) -> Vec<u8> {
        let number = |place: usize| {
            let at = LENGTH + place * 4;
            u32::from_ne_bytes(template[at..at + 4].try_into().unwrap()) as usize
        };
        let mut frame = template[..LENGTH].to_vec();
        let mut add = |at: usize, summand: u16| {
            let word = u16::from_be_bytes([frame[at], frame[at + 1]]).wrapping_add(summand);
            frame.splice(at..at + 2, word.to_be_bytes());
        };
        let away = flow * number(4) as u16;
        add(number(0), flow);
        add(number(1), flow.wrapping_neg());
        if number(3) != 0 {
            add(number(3), away);
            add(number(5), away.wrapping_neg());
            if number(6) != 0 {
                add(number(6), away.wrapping_neg());
            }
        }
        frame
    }

    #[test]
    fn a_frame_keeps_its_checksums_in_every_flow() {
        for (from, to, ip) in [("172.16.1.1", "172.17.0.7", 20), ("fd00:1::1", "fd00:2::7", 40)] {
            for answers in [false, true] {
                for many in [None, Some(Many::From), Some(Many::To)] {
                    let template = template(&course(from, to, answers, many)).unwrap();
                    let mut frames = std::collections::BTreeSet::new();
                    for flow in 0..FLOWS {
                        let frame = made(&template, flow);
                        let udp = ETHERNET + ip;
                        let addresses = if ip == 20 { &frame[26..34] } else { &frame[22..54] };
                        let mut pseudo = addresses.to_vec();
                        pseudo.extend_from_slice(&[0, 17]);
                        pseudo.extend_from_slice(&((LENGTH - udp) as u16).to_be_bytes());
                        pseudo.extend_from_slice(&frame[udp..]);
                        assert_eq!(checksum(&pseudo), 0, "{from} {answers} {many:?} {flow}");
                        if ip == 20 {
                            assert_eq!(checksum(&frame[ETHERNET..ETHERNET + 20]), 0, "{many:?} {flow}");
                        }
                        frames.insert(addresses.to_vec());
                    }
                    assert_eq!(frames.len(), if many.is_some() { usize::from(FLOWS) } else { 1 });
                }
            }
        }
    }

    #[test]
    fn a_course_has_one_family() {
        assert!(template(&course("172.16.1.1", "fd00::1", false, None)).is_err());
    }
}
