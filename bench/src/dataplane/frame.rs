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

/// A direction of a way: from whom to whom, by MAC and address.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    pub from: (Mac, IpAddr),
    pub to: (Mac, IpAddr),
    /// The answers to another course: its destination ports vary.
    pub answers: bool,
}

/// Value of the map `TEMPLATE`.
pub type Template = [u8; LENGTH + 16];

pub fn template(course: &Course) -> Result<Template> {
    let (sport, dport) = if course.answers { (SERVER, FIRST) } else { (FIRST, SERVER) };
    let mut frame = Vec::with_capacity(LENGTH);
    frame.extend_from_slice(&course.to.0);
    frame.extend_from_slice(&course.from.0);
    let mut pseudo = Vec::new();
    let (udp, ethertype) = match (course.from.1, course.to.1) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0, 0, (LENGTH - ETHERNET) as u8, 0, 1, 0x40, 0, 64, 17, 0, 0];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let sum = checksum(&header).to_be_bytes();
            header.splice(10..12, sum);
            pseudo.extend_from_slice(&from.octets());
            pseudo.extend_from_slice(&to.octets());
            frame.extend_from_slice(&[0x08, 0x00]);
            frame.extend_from_slice(&header);
            (ETHERNET + 20, 4)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend_from_slice(&[0, (LENGTH - ETHERNET - 40) as u8, 17, 64]);
            frame.extend_from_slice(&from.octets());
            frame.extend_from_slice(&to.octets());
            pseudo.extend_from_slice(&from.octets());
            pseudo.extend_from_slice(&to.octets());
            (ETHERNET + 40, 6)
        }
        _ => bail!("a course of two families"),
    };
    debug_assert!(ethertype == 4 || ethertype == 6);
    // At most 46.
    let length = (LENGTH - udp) as u16;
    let mut datagram = Vec::new();
    for word in [sport, dport, length, 0] {
        datagram.extend_from_slice(&word.to_be_bytes());
    }
    datagram.extend_from_slice(&MARK.to_be_bytes());
    datagram.extend_from_slice(&BALANCE.to_be_bytes());
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
    let mut out = [0; LENGTH + 16];
    let (bytes, numbers) = out.split_at_mut(LENGTH);
    bytes.copy_from_slice(&frame);
    let port = udp + if course.answers { 2 } else { 0 };
    let words = [port, udp + 12, usize::from(FLOWS) - 1, 0];
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

    fn course(from: &str, to: &str, answers: bool) -> Course {
        Course { from: ([2; 6], from.parse().unwrap()), to: ([4; 6], to.parse().unwrap()), answers }
    }

    #[test]
    fn a_frame_keeps_its_checksum_in_every_flow() {
        for (from, to, ip) in [("172.16.1.1", "172.16.2.2", 20), ("fd00:1::1", "fd00:2::2", 40)] {
            for answers in [false, true] {
                let template = template(&course(from, to, answers)).unwrap();
                let udp = ETHERNET + ip;
                for flow in [0, 1, FLOWS - 1] {
                    let mut frame = template[..LENGTH].to_vec();
                    let port = udp + if answers { 2 } else { 0 };
                    let word = |at: usize| u16::from_be_bytes([template[at], template[at + 1]]);
                    frame.splice(port..port + 2, (word(port) + flow).to_be_bytes());
                    frame.splice(udp + 12..udp + 14, (word(udp + 12) - flow).to_be_bytes());
                    let addresses = if ip == 20 { &frame[26..34] } else { &frame[22..54] };
                    let mut pseudo = addresses.to_vec();
                    pseudo.extend_from_slice(&[0, 17]);
                    pseudo.extend_from_slice(&((LENGTH - udp) as u16).to_be_bytes());
                    pseudo.extend_from_slice(&frame[udp..]);
                    assert_eq!(checksum(&pseudo), 0, "{from} {answers} {flow}");
                }
            }
        }
    }

    #[test]
    fn a_course_has_one_family() {
        assert!(template(&course("172.16.1.1", "fd00::1", false)).is_err());
    }
}
