//! What keeps packets of one flow together: a hash over addresses, protocol and ports, ours because the kernel's
//! (`skb->hash`) changes when TCP retransmits. Its two directions may take different next hops.

use crate::{pool::Halves, word::BUCKETS};

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;

/// Its header begins with source and destination port.
#[inline(always)]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | SCTP | UDP_LITE)
}

/// An odd factor with well spread bits: 2^64 over the golden ratio.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// `ports` are the first four octets after the IP header, or 0: of a protocol without ports, of a fragment (only
/// the first has them), of a header that is cut short.
#[inline(always)]
pub const fn hash4(source: u32, destination: u32, protocol: u8, ports: u32, seed: u32) -> u32 {
    let addresses = (source as u64) << 32 | destination as u64;
    finish(mix(start(protocol, seed), addresses), ports)
}

#[inline(always)]
pub const fn hash6(source: Halves, destination: Halves, protocol: u8, ports: u32, seed: u32) -> u32 {
    let mut hash = start(protocol, seed);
    hash = mix(hash, source[0]);
    hash = mix(hash, source[1]);
    hash = mix(hash, destination[0]);
    hash = mix(hash, destination[1]);
    finish(hash, ports)
}

#[inline(always)]
const fn start(protocol: u8, seed: u32) -> u64 {
    (seed as u64) << 8 | protocol as u64
}

#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(FACTOR);
    product ^ product >> 32
}

#[inline(always)]
const fn finish(hash: u64, ports: u32) -> u32 {
    (mix(mix(hash, ports as u64), 0) >> 32) as u32
}

/// The flow's place in a set of `BUCKETS`.
#[inline(always)]
pub const fn bucket(hash: u32) -> usize {
    hash as usize % BUCKETS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Flows in each bucket; 6400 flows are a hundred for each, and chance alone leaves 60 to 145.
    fn spread(of: impl Iterator<Item = u32>) -> [u32; BUCKETS] {
        let mut buckets = [0; BUCKETS];
        for hash in of {
            buckets[bucket(hash)] += 1;
        }
        buckets
    }

    fn is_even(buckets: [u32; BUCKETS]) -> bool {
        buckets.iter().all(|flows| (55..=150).contains(flows))
    }

    const POD: u32 = 0x0a20_0041;

    #[test]
    fn flows_that_differ_in_one_field_only_are_spread_evenly() {
        let ports = spread((0..6400).map(|port| hash4(POD, POD + 0x40, TCP, (30_000 + port) << 16 | 80, 7)));
        assert!(is_even(ports), "source ports: {ports:?}");
        let to = spread((0..6400).map(|port| hash4(POD, POD + 0x40, TCP, 80 << 16 | port, 7)));
        assert!(is_even(to), "destination ports: {to:?}");
        let sources = spread((0..6400).map(|pod| hash4(POD + pod, POD - 1, UDP, 53, 7)));
        assert!(is_even(sources), "sources: {sources:?}");
        let targets = spread((0..6400).map(|pod| hash4(POD - 1, POD + (pod << 6), 50, 0, 7)));
        assert!(is_even(targets), "destinations: {targets:?}");
        let v6 = spread((0..6400).map(|pod| hash6([0xfd << 56, pod], [0xfd << 56, 1], TCP, 80, 7)));
        assert!(is_even(v6), "IPv6 sources: {v6:?}");
    }

    #[test]
    fn nodes_in_a_row_spread_differently() {
        // All flows that the first node sends one way: the second one still uses all its buckets.
        let first = |port: u32| hash4(POD, POD + 0x40, TCP, port << 16 | 80, 1);
        let kept = (0..65_536).filter(|port| bucket(first(*port)) < 8).take(6400);
        let second = spread(kept.map(|port| hash4(POD, POD + 0x40, TCP, port << 16 | 80, 2)));
        assert!(is_even(second), "{second:?}");
    }

    #[test]
    fn a_flow_keeps_its_bucket() {
        assert_eq!(hash4(POD, POD + 1, TCP, 5, 9), hash4(POD, POD + 1, TCP, 5, 9));
        // Agents of other versions on the same pinned maps agree: changed only together with ABI_VERSION.
        assert_eq!(bucket(hash4(0x0a20_0041, 0x0a20_0081, TCP, 0x8000_0050, 0)), HELD_BUCKET);
    }

    const HELD_BUCKET: usize = 13;
}
