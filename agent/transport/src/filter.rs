//! The listener's packet filter (classic BPF, which takes no privilege): drops what comes with a lesser TTL than its
//! source must have. The kernel runs it on each segment for the listener, so that a SYN from too far is not
//! answered, and on those of the connections that have inherited it.

use std::num::NonZeroU8;

use manx_net::{Prefix, Prefix4, Prefix6};
use socket2::SockFilter;

/// The kernel's limit, `BPF_MAXINSNS`.
const MAX_INSTRUCTIONS: usize = 4096;

/// linux/filter.h: offsets from here on count from the network header, wherever the data begins.
const NETWORK: i32 = -0x10_0000;
const IPV4_TTL: i32 = 8;
const IPV4_SOURCE: i32 = 12;
const IPV6_HOP_LIMIT: i32 = 7;
const IPV6_SOURCE: i32 = 8;

/// linux/bpf_common.h.
const LOAD_WORD: u16 = 0x20;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const WHOLE_PACKET: u32 = u32::MAX;

/// One instruction of classic BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    k: u32,
}

impl From<Instruction> for SockFilter {
    fn from(i: Instruction) -> SockFilter {
        SockFilter::new(i.code, i.if_true, i.if_false, i.k)
    }
}

/// The filter for a listener of one family; prefixes of the other are left out. `None` if it would be longer than the
/// kernel takes.
pub fn program(ipv4: bool, least: &[(Prefix, NonZeroU8)]) -> Option<Vec<Instruction>> {
    let rules: Vec<(Vec<Word>, NonZeroU8)> = least
        .iter()
        .filter(|(prefix, _)| prefix.is_v4() == ipv4)
        .map(|(prefix, least)| (words(*prefix), *least))
        .collect();
    let mut minima: Vec<NonZeroU8> = rules.iter().map(|(_, least)| *least).collect();
    minima.sort_unstable();
    minima.dedup();

    // Each rule ends in a jump to the check of its minimum. The checks stand behind all rules and behind the verdict
    // on those whom no rule concerns.
    let length = |words: &[Word]| words.iter().map(Word::length).sum::<usize>() + 1;
    let checks = rules.iter().map(|(words, _)| length(words)).sum::<usize>() + 1;
    const CHECK: usize = 4;
    if checks + minima.len() * CHECK > MAX_INSTRUCTIONS {
        return None;
    }
    let mut out = Vec::new();
    for (words, least) in &rules {
        let end = out.len() + length(words);
        for word in words {
            out.push(load(LOAD_WORD, word.offset));
            if word.mask != u32::MAX {
                out.push(plain(AND, word.mask));
            }
            // At most twelve instructions are skipped: a rule has four words.
            let rest = u8::try_from(end - out.len() - 1).ok()?;
            out.push(Instruction { code: JUMP_IF_EQUAL, if_true: 0, if_false: rest, k: word.value });
        }
        let check = checks + minima.binary_search(least).ok()? * CHECK;
        out.push(plain(JUMP, u32::try_from(check - out.len() - 1).ok()?));
    }
    out.push(plain(RETURN, WHOLE_PACKET));
    for least in minima {
        out.push(load(LOAD_BYTE, if ipv4 { IPV4_TTL } else { IPV6_HOP_LIMIT }));
        let k = u32::from(least.get());
        out.push(Instruction { code: JUMP_IF_AT_LEAST, if_true: 1, if_false: 0, k });
        out.push(plain(RETURN, 0));
        out.push(plain(RETURN, WHOLE_PACKET));
    }
    Some(out)
}

/// Four octets of the source address that a prefix fixes, wholly or by a mask.
struct Word {
    /// From the beginning of the network header.
    offset: i32,
    mask: u32,
    value: u32,
}

impl Word {
    fn length(&self) -> usize {
        if self.mask == u32::MAX { 2 } else { 3 }
    }
}

fn words(prefix: Prefix) -> Vec<Word> {
    // As an IPv6 address, the IPv4 address in front.
    let (first, bits, mask) = match prefix {
        Prefix::V4(prefix) => (IPV4_SOURCE, u128::from(prefix.bits()) << 96, mask(prefix.len())),
        Prefix::V6(prefix) => (IPV6_SOURCE, prefix.bits(), mask(prefix.len())),
    };
    const { assert!(Prefix4::MAX_LEN == 32 && Prefix6::MAX_LEN == 128) };
    let word = |n: i32| Word {
        offset: first + 4 * n,
        mask: (mask >> (96 - 32 * n)) as u32,
        value: (bits >> (96 - 32 * n)) as u32,
    };
    (0..4).map(word).filter(|word| word.mask != 0).collect()
}

fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

fn load(code: u16, offset: i32) -> Instruction {
    plain(code, NETWORK.wrapping_add(offset).cast_unsigned())
}

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, if_true: 0, if_false: 0, k }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// As the kernel would: true if the packet passes.
    fn passes(program: &[Instruction], source: IpAddr, ttl: u8) -> bool {
        let header = match source {
            IpAddr::V4(source) => {
                let mut header = [0_u8; 40];
                header[8] = ttl;
                header[12..16].copy_from_slice(&source.octets());
                header
            }
            IpAddr::V6(source) => {
                let mut header = [0_u8; 40];
                header[7] = ttl;
                header[8..24].copy_from_slice(&source.octets());
                header
            }
        };
        let (mut at, mut a) = (0, 0_u32);
        loop {
            let Instruction { code, if_true, if_false, k } = program[at];
            at += 1;
            let offset = || usize::try_from(k.cast_signed() - NETWORK).unwrap();
            let jump = |taken: bool| usize::from(if taken { if_true } else { if_false });
            match code {
                LOAD_WORD => a = u32::from_be_bytes(header[offset()..offset() + 4].try_into().unwrap()),
                LOAD_BYTE => a = u32::from(header[offset()]),
                AND => a &= k,
                JUMP => at += k as usize,
                JUMP_IF_EQUAL => at += jump(a == k),
                JUMP_IF_AT_LEAST => at += jump(a >= k),
                RETURN => return k > 0,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    fn rules(list: &[(&str, u8)]) -> Vec<(Prefix, NonZeroU8)> {
        list.iter().map(|(p, least)| (p.parse().unwrap(), NonZeroU8::new(*least).unwrap())).collect()
    }

    /// Behaviour 15.
    #[test]
    fn each_source_is_held_to_its_own_minimum_and_strangers_to_none() {
        let rules = rules(&[
            ("10.0.0.1/32", 255),
            ("10.0.0.2/32", 254),
            ("10.1.0.0/20", 255),
            ("fd00::1/128", 255),
            ("fd00:1::/36", 250),
        ]);
        let (ipv4, ipv6) = (program(true, &rules).unwrap(), program(false, &rules).unwrap());
        for (source, least) in [
            ("10.0.0.1", 255),
            ("10.0.0.2", 254),
            ("10.1.15.255", 255),
            ("10.1.16.0", 0),
            ("10.0.0.3", 0),
            ("fd00::1", 255),
            ("fd00::2", 0),
            ("fd00:1:0fff::7", 250),
            ("fd00:1:1000::7", 0),
            ("fd01::1", 0),
        ] {
            let source: IpAddr = source.parse().unwrap();
            let program = if source.is_ipv4() { &ipv4 } else { &ipv6 };
            for ttl in [0, 1, 249, 250, 253, 254, 255] {
                assert_eq!(passes(program, source, ttl), ttl >= least, "{source} {ttl}");
            }
        }
    }

    #[test]
    fn a_default_route_holds_everybody_to_its_minimum() {
        let program = program(true, &rules(&[("0.0.0.0/0", 255)])).unwrap();
        assert!(!passes(&program, "192.0.2.1".parse().unwrap(), 254));
        assert!(passes(&program, "192.0.2.1".parse().unwrap(), 255));
    }

    #[test]
    fn more_rules_than_the_kernel_takes_are_refused() {
        let many = |n: u32| -> Vec<(Prefix, NonZeroU8)> {
            (0..n).map(|n| (Prefix4::from_bits(n, 32).unwrap().into(), NonZeroU8::MAX)).collect()
        };
        assert!(program(true, &many(1300)).unwrap().len() <= MAX_INSTRUCTIONS);
        assert!(program(true, &many(1400)).is_none());
    }
}
