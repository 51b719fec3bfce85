//! Attributes to the wire, changed on the way as the kind of session demands (RFC 4271 §5, RFC 4456 §8, RFC
//! 6793 §4.2.2). The same function serves every peer of an update group, once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use manx_net::Asn;
use smallvec::SmallVec;

use super::{Attributes, code, flag};

/// How a route leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub next_hop: IpAddr,
    /// Beside a global next hop, the same interface's address on the link to these peers (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
    pub four_octet: bool,
    /// RFC 9234 §5: the peer may pass it on to its customers alone, we say, unless somebody has said so before.
    pub only_to_customers: Option<u32>,
    pub kind: OutgoingKind,
}

impl Outgoing {
    /// As it stands in MP_REACH; empty for an IPv4 next hop, which has an attribute of its own.
    pub fn mp_next_hop(&self) -> SmallVec<[u8; 32]> {
        let IpAddr::V6(next_hop) = self.next_hop else { return SmallVec::new() };
        [next_hop].into_iter().chain(self.link_local).flat_map(|address| address.octets()).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutgoingKind {
    /// To another AS: this number is prepended; LOCAL_PREF, ORIGINATOR_ID and CLUSTER_LIST stay here, and so
    /// does a MED that somebody else set (RFC 4271 §5.1.4).
    Ebgp { prepend: Asn, own: bool },
    /// Within the AS, unchanged: own routes, and those learned from another AS.
    Ibgp,
    /// From an iBGP peer to another.
    Reflected { originator: Ipv4Addr, cluster_id: Ipv4Addr },
}

const WELL_KNOWN: u8 = flag::TRANSITIVE;
const OPTIONAL: u8 = flag::OPTIONAL;
const OPTIONAL_TRANSITIVE: u8 = flag::OPTIONAL | flag::TRANSITIVE;

/// Appends all attributes but MP_REACH, in the order of their codes. NEXT_HOP only for an IPv4 next hop, since IPv6
/// routes carry theirs in MP_REACH.
pub fn encode(out: &mut BytesMut, attributes: &Attributes, outgoing: &Outgoing) {
    let ebgp = matches!(outgoing.kind, OutgoingKind::Ebgp { .. });
    let transitive = |code| OPTIONAL_TRANSITIVE | attributes.partial.flag(code);
    put_attribute(out, WELL_KNOWN, code::ORIGIN, &[attributes.origin as u8]);

    let prepended = match outgoing.kind {
        OutgoingKind::Ebgp { prepend, .. } => Some(attributes.as_path.prepended(prepend)),
        _ => None,
    };
    let as_path = prepended.as_ref().unwrap_or(&attributes.as_path);
    if outgoing.four_octet {
        put_attribute(out, WELL_KNOWN, code::AS_PATH, as_path.wire());
    } else {
        put_attribute(out, WELL_KNOWN, code::AS_PATH, &as_path.two_octet_wire());
    }
    if let IpAddr::V4(next_hop) = outgoing.next_hop {
        put_attribute(out, WELL_KNOWN, code::NEXT_HOP, &next_hop.octets());
    }
    if let Some(med) = attributes.med
        && !matches!(outgoing.kind, OutgoingKind::Ebgp { own: false, .. })
    {
        put_attribute(out, OPTIONAL, code::MED, &med.to_be_bytes());
    }
    if !ebgp {
        put_attribute(out, WELL_KNOWN, code::LOCAL_PREF, &attributes.local_pref().to_be_bytes());
    }
    if attributes.atomic_aggregate {
        put_attribute(out, WELL_KNOWN, code::ATOMIC_AGGREGATE, &[]);
    }
    if let Some((number, address)) = attributes.aggregator {
        let mut value = BytesMut::with_capacity(8);
        if outgoing.four_octet {
            value.put_u32(number.get());
        } else {
            value.put_u16(number.to_two_octets());
        }
        value.put_slice(&address.octets());
        put_attribute(out, transitive(code::AGGREGATOR), code::AGGREGATOR, &value);
    }
    if !attributes.communities.is_empty() {
        let value: Vec<u8> = attributes.communities.iter().flat_map(|c| c.to_be_bytes()).collect();
        put_attribute(out, transitive(code::COMMUNITIES), code::COMMUNITIES, &value);
    }
    let cluster_id = match outgoing.kind {
        OutgoingKind::Reflected { originator, cluster_id } => {
            // RFC 4456 §8: only if there is none yet.
            let originator = attributes.originator_id.unwrap_or(originator);
            put_attribute(out, OPTIONAL, code::ORIGINATOR_ID, &originator.octets());
            Some(cluster_id)
        }
        _ => None,
    };
    if let Some(cluster_id) = cluster_id {
        let list = std::iter::once(cluster_id).chain(attributes.cluster_list.iter().copied());
        let value: Vec<u8> = list.flat_map(|id| id.octets()).collect();
        put_attribute(out, OPTIONAL, code::CLUSTER_LIST, &value);
    }
    if !attributes.extended.is_empty() {
        // RFC 4360 §6: what is not transitive stays within the AS. The bit is set for "non-transitive".
        let leaves = |c: &&u64| !ebgp || **c & 0x4000_0000_0000_0000 == 0;
        let value: Vec<u8> =
            attributes.extended.iter().filter(leaves).flat_map(|c| c.to_be_bytes()).collect();
        if !value.is_empty() {
            put_attribute(out, transitive(code::EXTENDED_COMMUNITIES), code::EXTENDED_COMMUNITIES, &value);
        }
    }
    if !outgoing.four_octet {
        if as_path.needs_four_octets() {
            put_attribute(out, OPTIONAL_TRANSITIVE, code::AS4_PATH, as_path.wire());
        }
        if let Some((number, address)) = attributes.aggregator
            && number.get() > 0xffff
        {
            let mut value = BytesMut::with_capacity(8);
            value.put_u32(number.get());
            value.put_slice(&address.octets());
            put_attribute(out, OPTIONAL_TRANSITIVE, code::AS4_AGGREGATOR, &value);
        }
    }
    if !attributes.large.is_empty() {
        let value: Vec<u8> = attributes.large.iter().flatten().flat_map(|c| c.to_be_bytes()).collect();
        put_attribute(out, transitive(code::LARGE_COMMUNITIES), code::LARGE_COMMUNITIES, &value);
    }
    if let Some(number) = attributes.only_to_customers.or(outgoing.only_to_customers) {
        put_attribute(
            out,
            transitive(code::ONLY_TO_CUSTOMERS),
            code::ONLY_TO_CUSTOMERS,
            &number.to_be_bytes(),
        );
    }
    for unknown in &attributes.unknown {
        // RFC 4271 §9: Partial, for we did not know what it says.
        put_attribute(out, OPTIONAL_TRANSITIVE | flag::PARTIAL, unknown.code, &unknown.value);
    }
}

/// Appends an attribute, with a two-octet length only where one does not do.
pub fn put_attribute(out: &mut impl BufMut, flags: u8, code: u8, value: &[u8]) {
    if value.len() > 255 {
        out.put_slice(&[flags | flag::EXTENDED_LENGTH, code]);
        out.put_u16(value.len() as u16);
    } else {
        out.put_slice(&[flags, code, value.len() as u8]);
    }
    out.put_slice(value);
}
