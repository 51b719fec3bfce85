//! ARP and neighbour discovery as a pod sends them: who says what about which address. Whether the address is the
//! pod's the caller asks its routes.

use crate::header::{Address6, is_link_local6, is_unspecified6};

/// Octets of an ARP packet for IPv4 over Ethernet (RFC 826).
pub const ARP: usize = 28;
pub const ETHERTYPE_ARP: u16 = 0x0806;

/// What is to be checked of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<A> {
    /// It claims nothing: a probe, or no neighbour discovery at all.
    Nothing,
    /// It speaks for this address, which must be the sender's own.
    Address(A),
    /// No pod may say this.
    Forged,
}

/// Words as they lie in memory; `source` is that of the Ethernet header. What the kernel's `arp_process` ignores claims
/// nothing.
#[inline(always)]
pub fn arp(words: &[u16; ARP / 2], source: [u16; 3]) -> Claim<[u8; 4]> {
    let [hardware, protocol, lengths, _, m0, m1, m2, s0, s1, ..] = *words;
    // Hardware type 1 is Ethernet; the kernel takes 6 (IEEE 802) for the same.
    if !matches!(u16::from_be(hardware), 1 | 6)
        || u16::from_be(protocol) != 0x0800
        || lengths.to_ne_bytes() != [6, 4]
    {
        return Claim::Nothing;
    }
    if [m0, m1, m2] != source {
        return Claim::Forged;
    }
    // A probe (RFC 5227 §1.1) has no sender address.
    if s0 | s1 == 0 {
        return Claim::Nothing;
    }
    let ([a, b], [c, d]) = (s0.to_ne_bytes(), s1.to_ne_bytes());
    Claim::Address([a, b, c, d])
}

pub const ROUTER_SOLICITATION: u8 = 133;
pub const ROUTER_ADVERTISEMENT: u8 = 134;
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
pub const REDIRECT: u8 = 137;

/// A message of RFC 4861, of which at least the ICMPv6 type has been read.
#[inline(always)]
pub const fn is_discovery(icmp_type: u8) -> bool {
    icmp_type >= ROUTER_SOLICITATION && icmp_type <= REDIRECT
}

/// What an ICMPv6 message of type `icmp_type` claims beside its source address. `target` is that of an
/// advertisement (octets 8 to 23 of the message).
#[inline(always)]
pub fn discovery(icmp_type: u8, target: Address6) -> Claim<Address6> {
    match icmp_type {
        // Routers and redirects are the node's to announce.
        ROUTER_ADVERTISEMENT | REDIRECT => Claim::Forged,
        // A pod may take any link-local address: it is seen on this one link only.
        NEIGHBOUR_ADVERTISEMENT if !is_link_local6(target) => Claim::Address(target),
        _ => Claim::Nothing,
    }
}

/// Whether a source is allowed whoever sends it: link-local, or unspecified (duplicate address detection, DHCPv6's
/// first messages have link-local).
#[inline(always)]
pub const fn is_link_scope6(source: Address6) -> bool {
    is_link_local6(source) || is_unspecified6(source)
}

#[cfg(test)]
mod tests {
    use super::{arp as arp_of, *};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn arp(bytes: &[u8; ARP], source: [u8; 6]) -> Claim<[u8; 4]> {
        arp_of(&words(bytes), words(&source))
    }

    fn words<const N: usize>(bytes: &[u8]) -> [u16; N] {
        core::array::from_fn(|word| u16::from_ne_bytes(bytes[word * 2..][..2].try_into().unwrap()))
    }

    fn packet(sender: [u8; 6], address: [u8; 4]) -> [u8; ARP] {
        let mut bytes = [0; ARP];
        bytes[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        bytes[8..14].copy_from_slice(&sender);
        bytes[14..18].copy_from_slice(&address);
        bytes
    }

    #[test]
    fn an_arp_packet_speaks_for_its_sender_address() {
        assert_eq!(arp(&packet(MAC, [10, 0, 0, 1]), MAC), Claim::Address([10, 0, 0, 1]));
        let mut other_type = packet(MAC, [10, 0, 0, 1]);
        other_type[1] = 6;
        assert_eq!(arp(&other_type, MAC), Claim::Address([10, 0, 0, 1]));
    }

    #[test]
    fn an_arp_probe_claims_nothing() {
        assert_eq!(arp(&packet(MAC, [0; 4]), MAC), Claim::Nothing);
    }

    #[test]
    fn an_arp_packet_with_another_senders_mac_is_forged() {
        assert_eq!(arp(&packet([2, 0, 0, 0, 0, 2], [0; 4]), MAC), Claim::Forged);
    }

    #[test]
    fn what_the_kernel_ignores_of_arp_claims_nothing() {
        for (at, value) in [(0, 1), (1, 2), (2, 9), (4, 8), (5, 16)] {
            let mut bytes = packet([9; 6], [10, 0, 0, 1]);
            bytes[at] = value;
            assert_eq!(arp(&bytes, MAC), Claim::Nothing, "octet {at}");
        }
    }

    #[test]
    fn an_advertisement_speaks_for_its_target() {
        let claim = |first: u16| {
            let target = [u64::from(first).rotate_right(16).to_be(), 0];
            (discovery(NEIGHBOUR_ADVERTISEMENT, target), target)
        };
        for first in [0xfd00, 0, 0xfe7f, 0xfec0] {
            let (claim, target) = claim(first);
            assert_eq!(claim, Claim::Address(target), "{first:x}");
        }
        for first in [0xfe80, 0xfebf] {
            assert_eq!(claim(first).0, Claim::Nothing, "{first:x}");
        }
    }

    #[test]
    fn a_pod_is_no_router() {
        assert_eq!(discovery(ROUTER_ADVERTISEMENT, [0; 2]), Claim::Forged);
        assert_eq!(discovery(REDIRECT, [0; 2]), Claim::Forged);
        assert_eq!(discovery(ROUTER_SOLICITATION, [0; 2]), Claim::Nothing);
        assert_eq!(discovery(NEIGHBOUR_SOLICITATION, [1; 2]), Claim::Nothing);
        assert!(is_discovery(133) && is_discovery(137) && !is_discovery(132) && !is_discovery(138));
    }
}
