//! What a router has to know of a packet's IP header, read from its fixed part. Pure, so that it is tested on the
//! host; the programs call it with words that they have copied out of the packet, as they lie in memory.

use crate::{
    Verdict,
    pool::{self, Halves},
};

pub const ETHERNET: usize = 14;
pub const IPV4: usize = 20;
pub const IPV6: usize = 40;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

/// What was read of a header that is in order. The first three fields are the kernel's `struct bpf_sock_tuple`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<A> {
    pub source: A,
    pub destination: A,
    /// The first four octets behind the header as they lie in memory, once somebody has read them; else 0.
    pub ports: u32,
    /// TTL or hop limit.
    pub hops: u8,
    /// IPv4's protocol or IPv6's next header.
    pub protocol: u8,
    /// Part of a larger packet, the first part too: its ports are not those of all parts.
    pub fragment: bool,
    /// Both addresses are of a scope that routers forward.
    pub routable: bool,
    /// Why the packet is the stack's although its header is in order. Drops are decided before this is asked.
    pub doubt: Option<Verdict>,
}

/// `length` is that of the packet from here to the end of the frame, padding included; `gso` says that the packet
/// is several in one. The same is refused that the kernel's `ip_rcv` drops.
#[inline(always)]
pub fn ipv4(words: &[u32; IPV4 / 4], length: u32, gso: bool) -> Result<Header<[u8; 4]>, Verdict> {
    let [version_ihl, _, total_0, total_1] = words[0].to_ne_bytes();
    let [_, _, part_0, part_1] = words[1].to_ne_bytes();
    let [hops, protocol, ..] = words[2].to_ne_bytes();
    let header_length = u32::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || header_length < IPV4 as u32 {
        return Err(Verdict::Malformed);
    }
    let total = u32::from(u16::from_be_bytes([total_0, total_1]));
    let mut doubt = None;
    if total == 0 && gso {
        // More than 64 kB in one (BIG TCP): the length is the skb's.
        doubt = Some(Verdict::Unreadable);
    } else if total < header_length || total > length {
        return Err(Verdict::Malformed);
    }
    if header_length > IPV4 as u32 {
        // The checksum covers the options too, which are not at hand: the stack's.
        doubt = Some(Verdict::Options);
    } else if !ipv4_checksum_is_right(words) {
        return Err(Verdict::Malformed);
    }
    let (source, destination) = (words[3].to_ne_bytes(), words[4].to_ne_bytes());
    Ok(Header {
        source,
        destination,
        ports: 0,
        hops,
        protocol,
        // More Fragments, or an offset; not Don't Fragment.
        fragment: part_0 & 0x3f != 0 || part_1 != 0,
        routable: is_routable4(source) && is_routable4(destination),
        doubt: doubt.or(expiring(hops)),
    })
}

/// As [`ipv4`]; the kernel's `ip6_rcv_core`. The words after the first two are the addresses.
#[inline(always)]
pub fn ipv6(words: &[u64; IPV6 / 8], length: u32) -> Result<Header<Address6>, Verdict> {
    let [version, _, _, _, payload_0, payload_1, next_header, hops] = words[0].to_ne_bytes();
    if version >> 4 != 6 {
        return Err(Verdict::Malformed);
    }
    let payload = u32::from(u16::from_be_bytes([payload_0, payload_1]));
    // Zero with hop-by-hop options is a jumbogram (RFC 2675 §3), and what GSO makes of more than 64 kB.
    if (payload != 0 || next_header != HOP_BY_HOP) && payload + IPV6 as u32 > length {
        return Err(Verdict::Malformed);
    }
    let (source, destination) = ([words[1], words[2]], [words[3], words[4]]);
    Ok(Header {
        source,
        destination,
        ports: 0,
        hops,
        protocol: next_header,
        // A fragment's header is an extension.
        fragment: false,
        routable: is_routable6(source) && is_routable6(destination),
        doubt: if is_extension(next_header) { Some(Verdict::ExtensionHeaders) } else { expiring(hops) },
    })
}

/// An IPv6 address as two words that lie in memory as the address does.
pub type Address6 = [u64; 2];

#[inline(always)]
pub const fn address6(octets: [u8; 16]) -> Address6 {
    let [high, low] = pool::halves(octets);
    [high.to_be(), low.to_be()]
}

/// The address as two numbers.
#[inline(always)]
pub const fn halves(address: Address6) -> Halves {
    [u64::from_be(address[0]), u64::from_be(address[1])]
}

/// Not even one more hop: the stack answers with Time Exceeded.
#[inline(always)]
fn expiring(hops: u8) -> Option<Verdict> {
    if hops <= 1 { Some(Verdict::TtlExpiring) } else { None }
}

pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const AUTHENTICATION: u8 = 51;
pub const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers of RFC 8200 §4 and the IANA registry; ESP (50) is payload to a router.
#[inline(always)]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(
        next_header,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS | 135 | 139 | 140 | 253 | 254
    )
}

/// Neither "this network" (0/8), loopback (127/8), multicast nor class E with the broadcast address (RFC 6890).
/// Link-local (169.254/16) is routed by the kernel, so it is here.
#[inline(always)]
pub const fn is_routable4(address: [u8; 4]) -> bool {
    let first = address[0];
    first != 0 && first != 127 && first < 224
}

/// Neither multicast nor link-local, and nothing in `::/64`, where the unspecified, the loopback and the IPv4-mapped
/// addresses lie.
#[inline(always)]
pub const fn is_routable6(address: Address6) -> bool {
    let high = u64::from_be(address[0]);
    high >> 56 != 0xff && !is_link_local6(address) && high != 0
}

/// fe80::/10 (RFC 4291 §2.4).
#[inline(always)]
pub const fn is_link_local6(address: Address6) -> bool {
    u64::from_be(address[0]) >> 54 == 0xfe80 >> 6
}

#[inline(always)]
pub const fn is_unspecified6(address: Address6) -> bool {
    address[0] | address[1] == 0
}

/// The header's own sum, RFC 1071: all words, the checksum included, add up to all ones.
#[inline(always)]
pub fn ipv4_checksum_is_right(words: &[u32; IPV4 / 4]) -> bool {
    let [a, b, c, d, e] = *words;
    // A sum of words of 32 bits is one of words of 16 once it is folded: 2^32 - 1 is a multiple of 2^16 - 1.
    let sum = u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d) + u64::from(e);
    // Five of them carry at most four, so this is below 2^32 + 4.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    // At most 3 * 0xffff, then 0xffff + 2, then 0xffff.
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum == 0xffff
}

/// The checksum after the TTL has been lowered by one (RFC 1624), with the kernel's choice between the two zeros,
/// so that fast path and stack send the same bytes.
#[inline(always)]
pub const fn checksum_after_hop(checksum: [u8; 2]) -> [u8; 2] {
    let sum = u16::from_be_bytes(checksum) as u32 + 0x0100;
    let sum = if sum >= 0xffff { sum + 1 } else { sum };
    (sum as u16).to_be_bytes()
}

/// What lowering the hop limit by one adds to the sum over a packet that a NIC computed (CHECKSUM_COMPLETE), as
/// `bpf_csum_update` takes it: IPv6 has no header checksum that would take the change back.
#[inline(always)]
pub const fn hop_limit_sum(next_header: u8, hops: u8) -> u32 {
    let old = u16::from_ne_bytes([next_header, hops]);
    let new = u16::from_ne_bytes([next_header, hops.wrapping_sub(1)]);
    !old as u32 + new as u32
}

#[cfg(test)]
mod tests {
    use super::{ipv4 as ipv4_of, ipv4_checksum_is_right as checksum_is_right, ipv6 as ipv6_of, *};

    fn ipv4(bytes: &[u8; IPV4], length: u32, gso: bool) -> Result<Header<[u8; 4]>, Verdict> {
        ipv4_of(&words(bytes), length, gso)
    }

    fn ipv6(bytes: &[u8; IPV6], length: u32) -> Result<Header<Address6>, Verdict> {
        ipv6_of(&words64(bytes), length)
    }

    fn ipv4_checksum_is_right(bytes: &[u8; IPV4]) -> bool {
        checksum_is_right(&words(bytes))
    }

    fn words(bytes: &[u8; IPV4]) -> [u32; 5] {
        core::array::from_fn(|word| u32::from_ne_bytes(bytes[word * 4..][..4].try_into().unwrap()))
    }

    fn words64(bytes: &[u8; IPV6]) -> [u64; 5] {
        core::array::from_fn(|word| u64::from_ne_bytes(bytes[word * 8..][..8].try_into().unwrap()))
    }

    /// A UDP packet of 20 + `payload` octets with a right checksum.
    fn v4(edit: impl FnOnce(&mut [u8; IPV4])) -> [u8; IPV4] {
        let mut bytes =
            [0x45, 0, 0, 28, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 172, 16, 36, 193, 172, 16, 118, 65];
        edit(&mut bytes);
        fix(&mut bytes);
        bytes
    }

    fn fix(bytes: &mut [u8; IPV4]) {
        bytes[10..12].fill(0);
        let mut sum: u32 = bytes.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        bytes[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }

    fn v6(next_header: u8, payload: u16, hops: u8) -> [u8; IPV6] {
        let mut bytes = [0; IPV6];
        bytes[0] = 0x60;
        bytes[4..6].copy_from_slice(&payload.to_be_bytes());
        bytes[6] = next_header;
        bytes[7] = hops;
        bytes[8] = 0xfd;
        bytes[23] = 1;
        bytes[24] = 0xfd;
        bytes[39] = 2;
        bytes
    }

    #[test]
    fn a_plain_ipv4_header_is_read() {
        let header = ipv4(&v4(|_| ()), 28, false).unwrap();
        assert_eq!(header.source, [172, 16, 36, 193]);
        assert_eq!(header.destination, [172, 16, 118, 65]);
        assert_eq!((header.hops, header.doubt, header.routable), (64, None, true));
    }

    #[test]
    fn padding_after_the_packet_is_not_an_error_and_truncation_is() {
        assert!(ipv4(&v4(|_| ()), 46, false).is_ok());
        assert_eq!(ipv4(&v4(|_| ()), 27, false), Err(Verdict::Malformed));
    }

    #[test]
    fn what_ip_rcv_drops_is_malformed() {
        for edit in [
            (|b: &mut [u8; IPV4]| b[0] = 0x55) as fn(&mut [u8; IPV4]),
            |b| b[0] = 0x44,
            |b| b[3] = 19,
            |b| b[2] = 1,
        ] {
            assert_eq!(ipv4(&v4(edit), 28, false), Err(Verdict::Malformed));
        }
        let mut wrong = v4(|_| ());
        wrong[10] ^= 1;
        assert_eq!(ipv4(&wrong, 28, false), Err(Verdict::Malformed));
    }

    #[test]
    fn every_single_bit_error_of_a_header_is_seen() {
        let right = v4(|_| ());
        for bit in 0..IPV4 * 8 {
            let mut wrong = right;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!ipv4_checksum_is_right(&wrong), "bit {bit}");
        }
    }

    #[test]
    fn options_and_an_expiring_ttl_are_the_stacks() {
        let options = ipv4(&v4(|b| b[0] = 0x46), 28, false).unwrap();
        assert_eq!(options.doubt, Some(Verdict::Options));
        for ttl in [0, 1] {
            let header = ipv4(&v4(|b| b[8] = ttl), 28, false).unwrap();
            assert_eq!(header.doubt, Some(Verdict::TtlExpiring));
        }
        assert_eq!(ipv4(&v4(|b| b[8] = 2), 28, false).unwrap().doubt, None);
    }

    #[test]
    fn every_part_of_a_fragmented_packet_is_a_fragment() {
        for (flags, offset, fragment) in [
            (0, 0, false),
            (0x40, 0, false),
            (0x80, 0, false),
            (0x20, 0, true),
            (0x20, 9, true),
            (0, 9, true),
            (0x01, 0, true),
        ] {
            let bytes = v4(|b| b[6..8].copy_from_slice(&[flags, offset]));
            assert_eq!(ipv4(&bytes, 28, false).unwrap().fragment, fragment, "{flags:x} {offset}");
        }
    }

    #[test]
    fn a_length_of_zero_is_right_only_for_gso() {
        assert_eq!(ipv4(&v4(|b| b[3] = 0), 70_000, false), Err(Verdict::Malformed));
        assert_eq!(ipv4(&v4(|b| b[3] = 0), 70_000, true).unwrap().doubt, Some(Verdict::Unreadable));
    }

    #[test]
    fn addresses_that_no_router_forwards_are_told_apart() {
        for first in [0, 127, 224, 239, 240, 255] {
            assert!(!ipv4(&v4(|b| b[16] = first), 28, false).unwrap().routable);
            assert!(!ipv4(&v4(|b| b[12] = first), 28, false).unwrap().routable);
        }
        for (high, low) in [(0xff, 2), (0xfe, 0x80), (0xfe, 0xbf), (0, 0)] {
            for at in [8, 24] {
                let mut bytes = v6(17, 8, 64);
                bytes[at..at + 2].copy_from_slice(&[high, low]);
                assert!(!ipv6(&bytes, 48).unwrap().routable, "{high:x}{low:x}");
            }
        }
        assert!(is_routable6([0xfec0_u64.rotate_right(16).to_be(), 1]));
    }

    #[test]
    fn the_ipv6_header_is_read_and_checked() {
        let header = ipv6(&v6(17, 8, 64), 48).unwrap();
        assert_eq!(halves(header.source), [0xfd << 56, 1]);
        assert_eq!(halves(header.destination), [0xfd << 56, 2]);
        assert_eq!((header.hops, header.doubt, header.routable), (64, None, true));
        assert_eq!(ipv6(&v6(17, 9, 64), 48), Err(Verdict::Malformed));
        let mut wrong = v6(17, 8, 64);
        wrong[0] = 0x45;
        assert_eq!(ipv6(&wrong, 48), Err(Verdict::Malformed));
        assert_eq!(ipv6(&v6(17, 8, 1), 48).unwrap().doubt, Some(Verdict::TtlExpiring));
    }

    #[test]
    fn extension_headers_and_jumbograms_are_the_stacks() {
        for next_header in [0, 43, 44, 51, 60, 135] {
            let header = ipv6(&v6(next_header, 8, 64), 48).unwrap();
            assert_eq!(header.doubt, Some(Verdict::ExtensionHeaders), "{next_header}");
        }
        for next_header in [6, 17, 50, 58, 59] {
            assert_eq!(ipv6(&v6(next_header, 8, 64), 48).unwrap().doubt, None, "{next_header}");
        }
        assert_eq!(ipv6(&v6(0, 0, 64), 70_000).unwrap().doubt, Some(Verdict::ExtensionHeaders));
    }

    #[test]
    fn the_checksum_after_a_hop_is_right_for_every_ttl_and_every_checksum() {
        for ttl in 1..=255 {
            // The identification runs over all values, and with it the checksum.
            for id in 0..=u16::MAX {
                let mut bytes = v4(|b| {
                    b[4..6].copy_from_slice(&id.to_be_bytes());
                    b[8] = ttl;
                });
                let after = checksum_after_hop([bytes[10], bytes[11]]);
                bytes[8] -= 1;
                bytes[10..12].copy_from_slice(&after);
                assert!(ipv4_checksum_is_right(&bytes), "TTL {ttl}, id {id}");
                if ttl % 64 != 1 && id > 0x0fff {
                    break;
                }
            }
        }
    }

    #[test]
    fn the_sum_over_an_ipv6_packet_is_right_after_a_hop() {
        let sum = |bytes: &[u8; IPV6]| {
            let mut sum = bytes.chunks(2).map(|w| u64::from(u16::from_ne_bytes([w[0], w[1]]))).sum::<u64>();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            sum
        };
        for next_header in 0..=255 {
            for hops in 1..=255 {
                let mut bytes = v6(next_header, 8, hops);
                let mut updated = sum(&bytes) + u64::from(hop_limit_sum(next_header, hops));
                while updated > 0xffff {
                    updated = (updated & 0xffff) + (updated >> 16);
                }
                bytes[7] -= 1;
                assert_eq!(updated, sum(&bytes), "next header {next_header}, hop limit {hops}");
            }
        }
    }

    #[test]
    fn of_the_two_zeros_the_kernels_is_taken() {
        assert_eq!(checksum_after_hop([0xfe, 0xff]), [0, 0]);
        assert_eq!(checksum_after_hop([0xff, 0xff]), [1, 0]);
        assert_eq!(checksum_after_hop([0xff, 0x00]), [0, 1]);
    }
}
