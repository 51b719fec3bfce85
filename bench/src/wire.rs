//! As much of BGP as a generator and a counter need (RFC 4271, 4724, 6793): OPEN, KEEPALIVE and UPDATE to send, and
//! the prefixes of a received UPDATE. It shares no code with the speaker that is measured, and trusts nothing about
//! lengths. IPv4 unicast only, with 4-octet AS numbers.

use std::net::Ipv4Addr;

use anyhow::{Result, bail, ensure};

pub const HEADER: usize = 19;
/// RFC 4271 §4.1; extended messages (RFC 8654) are not offered.
pub const LARGEST: usize = 4096;
pub const MARKER: [u8; 16] = [0xff; 16];
/// Long enough for any scenario; a keepalive every 20 s satisfies the least that a daemon here asks for (90 s).
pub const HOLD_TIME: u16 = 240;
/// RFC 1997.
const NO_ADVERTISE: u32 = 0xffff_ff02;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Open,
    Update,
    Notification,
    Keepalive,
    RouteRefresh,
}

/// The header at the start of `bytes`: what kind of message, and its whole length.
pub fn header(bytes: &[u8; HEADER]) -> Result<(Kind, usize)> {
    let length = usize::from(u16::from_be_bytes([bytes[16], bytes[17]]));
    ensure!(bytes[..16] == MARKER, "a message without the marker");
    ensure!((HEADER..=LARGEST).contains(&length), "a message of {length} octets");
    let kind = match bytes[18] {
        1 => Kind::Open,
        2 => Kind::Update,
        3 => Kind::Notification,
        4 => Kind::Keepalive,
        5 => Kind::RouteRefresh,
        other => bail!("a message of type {other}"),
    };
    Ok((kind, length))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).expect("callers keep bodies below LARGEST");
    let mut bytes = MARKER.to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// With IPv4 unicast, 4-octet AS, route refresh, and graceful restart without families: that asks for End-of-RIB
/// and for nothing else (RFC 4724 §3).
pub fn open(asn: u32, identifier: Ipv4Addr, hold_time: u16) -> Vec<u8> {
    let mut capabilities = vec![1, 4, 0, 1, 0, 1, 2, 0, 64, 2, 0, 0, 65, 4];
    capabilities.extend(asn.to_be_bytes());
    let length = u8::try_from(capabilities.len()).expect("it is 18");
    let mut body = vec![4];
    // AS_TRANS where the number does not fit (RFC 6793 §4.1).
    body.extend(u16::try_from(asn).unwrap_or(23456).to_be_bytes());
    body.extend(hold_time.to_be_bytes());
    body.extend(identifier.octets());
    body.extend([length + 2, 2, length]);
    body.extend(capabilities);
    message(1, &body)
}

pub fn keepalive() -> Vec<u8> {
    message(4, &[])
}

/// Of IPv4 unicast (RFC 4724 §2).
pub fn end_of_rib() -> Vec<u8> {
    message(2, &[0; 4])
}

/// What distinguishes the attribute sets of a scenario.
#[derive(Clone, Debug)]
pub struct Attributes {
    pub next_hop: Ipv4Addr,
    pub as_path: Vec<u32>,
    /// With the well-known community: the route ends at the one who gets it.
    pub no_advertise: bool,
}

impl Attributes {
    fn encode(&self) -> Vec<u8> {
        // ORIGIN IGP, well-known and transitive.
        let mut bytes = vec![0x40, 1, 1, 0, 0x40, 2];
        if self.as_path.is_empty() {
            bytes.push(0);
        } else {
            let count = u8::try_from(self.as_path.len()).expect("paths here are short");
            bytes.extend([2 + 4 * count, 2, count]);
            bytes.extend(self.as_path.iter().flat_map(|asn| asn.to_be_bytes()));
        }
        bytes.extend([0x40, 3, 4]);
        bytes.extend(self.next_hop.octets());
        // LOCAL_PREF 100.
        bytes.extend([0x40, 5, 4, 0, 0, 0, 100]);
        if self.no_advertise {
            bytes.extend([0xc0, 8, 4]);
            bytes.extend(NO_ADVERTISE.to_be_bytes());
        }
        bytes
    }
}

/// Appends as few UPDATEs as announce all of `prefixes` with these attributes.
pub fn announce(out: &mut Vec<u8>, attributes: &Attributes, prefixes: impl Iterator<Item = (Ipv4Addr, u8)>) {
    let attributes = attributes.encode();
    let mut prefixes = prefixes.peekable();
    while prefixes.peek().is_some() {
        let mut body = vec![0, 0];
        body.extend(u16::try_from(attributes.len()).expect("sets here are small").to_be_bytes());
        body.extend(&attributes);
        fill(&mut body, &mut prefixes, LARGEST - HEADER);
        out.extend(message(2, &body));
    }
}

/// Appends as few UPDATEs as withdraw all of `prefixes`.
pub fn withdraw(out: &mut Vec<u8>, prefixes: impl Iterator<Item = (Ipv4Addr, u8)>) {
    let mut prefixes = prefixes.peekable();
    while prefixes.peek().is_some() {
        let mut body = vec![0, 0];
        fill(&mut body, &mut prefixes, LARGEST - HEADER - 2);
        let length = u16::try_from(body.len() - 2).expect("it fits a message");
        body[..2].copy_from_slice(&length.to_be_bytes());
        body.extend([0, 0]);
        out.extend(message(2, &body));
    }
}

fn fill(
    body: &mut Vec<u8>,
    prefixes: &mut std::iter::Peekable<impl Iterator<Item = (Ipv4Addr, u8)>>,
    limit: usize,
) {
    while let Some((address, length)) =
        prefixes.next_if(|(_, length)| body.len() + 1 + octets(*length) <= limit)
    {
        body.push(length);
        body.extend(&address.octets()[..octets(length)]);
    }
}

/// How many octets a prefix of this length has on the wire (RFC 4271 §4.3).
fn octets(length: u8) -> usize {
    usize::from(length.div_ceil(8)).min(4)
}

/// One change that an UPDATE makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Announced(u32, u8),
    Withdrawn(u32, u8),
}

/// Calls `tell` for every prefix in the body of an UPDATE. True if it is the End-of-RIB of IPv4 unicast.
pub fn update(body: &[u8], mut tell: impl FnMut(Change)) -> Result<bool> {
    let (withdrawn, rest) = counted(body)?;
    let (attributes, announced) = counted(rest)?;
    each(withdrawn, |address, length| tell(Change::Withdrawn(address, length)))?;
    each(announced, |address, length| tell(Change::Announced(address, length)))?;
    Ok(withdrawn.is_empty() && attributes.is_empty() && announced.is_empty())
}

/// A field with its length in two octets before it, and what follows.
fn counted(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let split = bytes.split_first_chunk().and_then(|(length, rest)| {
        let length = usize::from(u16::from_be_bytes(*length));
        rest.split_at_checked(length)
    });
    split.ok_or_else(|| anyhow::anyhow!("an UPDATE whose lengths contradict each other"))
}

fn each(mut bytes: &[u8], mut tell: impl FnMut(u32, u8)) -> Result<()> {
    while let Some((&length, rest)) = bytes.split_first() {
        let count = octets(length);
        ensure!(length <= 32 && rest.len() >= count, "a prefix that does not end");
        let (prefix, rest) = rest.split_at(count);
        let mut address = [0; 4];
        address[..count].copy_from_slice(prefix);
        tell(u32::from_be_bytes(address), length);
        bytes = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(stream: &[u8]) -> (usize, Vec<Change>) {
        let (mut messages, mut found, mut rest) = (0, Vec::new(), stream);
        while let Some((head, _)) = rest.split_first_chunk() {
            let (kind, length) = header(head).unwrap();
            assert_eq!(kind, Kind::Update);
            assert!(!update(&rest[HEADER..length], |change| found.push(change)).unwrap());
            (messages, rest) = (messages + 1, &rest[length..]);
        }
        (messages, found)
    }

    #[test]
    fn a_thousand_routes_of_one_set_fit_one_update_and_come_out_as_they_went_in() {
        let attributes =
            Attributes { next_hop: Ipv4Addr::new(10, 0, 16, 1), as_path: vec![64600], no_advertise: true };
        let prefixes = || (0..2000_u32).map(|n| (Ipv4Addr::from_bits(0x1000_0000 + (n << 8)), 24));
        let mut stream = Vec::new();
        announce(&mut stream, &attributes, prefixes());
        let (messages, found) = changes(&stream);
        assert_eq!(messages, 2);
        let expected: Vec<_> = prefixes().map(|(a, l)| Change::Announced(a.to_bits(), l)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn withdrawals_come_out_as_they_went_in() {
        let mut stream = Vec::new();
        withdraw(&mut stream, (0..1500_u32).map(|n| (Ipv4Addr::from_bits(0xac10_0000 + (n << 6)), 26)));
        let (messages, found) = changes(&stream);
        assert_eq!((messages, found.len()), (2, 1500));
        assert_eq!(found[1], Change::Withdrawn(0xac10_0040, 26));
    }

    #[test]
    fn an_empty_update_is_the_end_of_rib_and_a_truncated_one_is_an_error() {
        assert!(update(&[0, 0, 0, 0], |_| panic!("it has no prefix")).unwrap());
        for broken in
            [&[0][..], &[0, 5, 0], &[0, 0, 0, 9, 1], &[0, 0, 0, 0, 24, 10], &[0, 0, 0, 0, 33, 1, 1, 1, 1, 1]]
        {
            assert!(update(broken, |_| ()).is_err(), "{broken:?}");
        }
    }
}
