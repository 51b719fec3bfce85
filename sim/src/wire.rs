//! A peer's side of the wire, written by hand from the RFCs and not with the speaker's own code: messages to send to a
//! speaker, and a reader that keeps the table which a speaker's messages describe.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use bytes::{BufMut, Bytes, BytesMut};
use manx_bgp::Family;
use manx_net::{Prefix, Prefix4, Prefix6};

const HEADER: usize = 19;
/// RFC 4271 §4.1, without extended messages.
const LONGEST: usize = 4096;

pub const OPEN: u8 = 1;
pub const UPDATE: u8 = 2;
pub const NOTIFICATION: u8 = 3;
pub const KEEPALIVE: u8 = 4;
pub const REFRESH: u8 = 5;

/// A message of any type with any body. A body that is too long for the length field is cut.
pub fn frame(kind: u8, body: &[u8]) -> Bytes {
    let body = &body[..body.len().min(usize::from(u16::MAX) - HEADER)];
    let mut out = BytesMut::with_capacity(HEADER + body.len());
    out.put_bytes(0xff, 16);
    out.put_u16((HEADER + body.len()) as u16);
    out.put_u8(kind);
    out.put_slice(body);
    out.freeze()
}

pub fn keepalive() -> Bytes {
    frame(KEEPALIVE, &[])
}

/// What a played peer says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Hello {
    pub asn: u32,
    pub id: Ipv4Addr,
    pub hold_time: u16,
    pub four_octet: bool,
    pub refresh: bool,
    /// Seconds of graceful restart, forwarding state preserved; `None`: not offered.
    pub restart: Option<u16>,
    /// With the restart: that routes outlive a NOTIFICATION (RFC 8538).
    pub outlives: bool,
    /// Seconds of long-lived graceful restart (RFC 9494).
    pub long_lived: Option<u32>,
    /// RFC 8654.
    pub extended: bool,
    /// Several paths for a prefix come from here (RFC 7911).
    pub sends_paths: bool,
    /// RFC 9234.
    pub role: Option<u8>,
}

impl Hello {
    pub fn new(asn: u32, id: Ipv4Addr) -> Hello {
        Hello {
            asn,
            id,
            hold_time: 90,
            four_octet: true,
            refresh: true,
            restart: None,
            outlives: false,
            long_lived: None,
            extended: false,
            sends_paths: false,
            role: None,
        }
    }

    /// OPEN with both families.
    pub fn open(&self) -> Bytes {
        let mut capabilities: Vec<u8> = vec![1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1];
        if self.refresh {
            capabilities.extend([2, 0, 70, 0]);
        }
        if let Some(seconds) = self.restart {
            capabilities.extend([64, 10]);
            capabilities.put_u16(seconds & 0x0fff | u16::from(self.outlives) << 14);
            capabilities.extend([0, 1, 1, 0x80, 0, 2, 1, 0x80]);
        }
        if let Some(seconds) = self.long_lived {
            let [_, time @ ..] = seconds.to_be_bytes();
            capabilities.extend([71, 14]);
            for afi in [1, 2] {
                capabilities.extend([0, afi, 1, 0x80]);
                capabilities.extend(time);
            }
        }
        if self.extended {
            capabilities.extend([6, 0]);
        }
        if self.sends_paths {
            capabilities.extend([69, 8, 0, 1, 1, 2, 0, 2, 1, 2]);
        }
        capabilities.extend(self.role.iter().flat_map(|&role| [9, 1, role]));
        if self.four_octet {
            capabilities.extend([65, 4]);
            capabilities.put_u32(self.asn);
        }
        let mut body = vec![4];
        body.put_u16(u16::try_from(self.asn).unwrap_or(23456));
        body.put_u16(self.hold_time);
        body.put_slice(&self.id.octets());
        // A handful of capabilities fits into one parameter.
        body.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
        body.extend(capabilities);
        frame(OPEN, &body)
    }
}

/// What is said of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub origin: u8,
    pub path: Vec<u32>,
    pub next_hop: Ipv4Addr,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub communities: Vec<u32>,
    pub originator: Option<Ipv4Addr>,
    pub four_octet: bool,
}

impl Attributes {
    /// IGP, an empty path.
    pub fn new(next_hop: Ipv4Addr) -> Attributes {
        Attributes {
            origin: 0,
            path: Vec::new(),
            next_hop,
            med: None,
            local_pref: None,
            communities: Vec::new(),
            originator: None,
            four_octet: true,
        }
    }

    fn put(&self, out: &mut Vec<u8>, with_next_hop: bool) {
        let mut put = |flags: u8, code: u8, value: &[u8]| {
            out.extend([flags | 0x10, code]);
            out.put_u16(value.len() as u16);
            out.extend_from_slice(value);
        };
        put(0x40, 1, &[self.origin]);
        let mut path = Vec::new();
        for segment in self.path.chunks(255) {
            path.extend([2, segment.len() as u8]);
            for &asn in segment {
                match self.four_octet {
                    true => path.put_u32(asn),
                    false => path.put_u16(u16::try_from(asn).unwrap_or(23456)),
                }
            }
        }
        put(0x40, 2, &path);
        if with_next_hop {
            put(0x40, 3, &self.next_hop.octets());
        }
        if let Some(med) = self.med {
            put(0x80, 4, &med.to_be_bytes());
        }
        if let Some(pref) = self.local_pref {
            put(0x40, 5, &pref.to_be_bytes());
        }
        if !self.communities.is_empty() {
            let value: Vec<u8> = self.communities.iter().flat_map(|c| c.to_be_bytes()).collect();
            put(0xc0, 8, &value);
        }
        if let Some(originator) = self.originator {
            put(0x80, 9, &originator.octets());
        }
    }
}

fn put_prefix(out: &mut Vec<u8>, prefix: &Prefix) {
    let len = prefix.len();
    out.push(len);
    let octets = usize::from(len.div_ceil(8));
    match prefix {
        Prefix::V4(prefix) => out.extend(&prefix.addr().octets()[..octets]),
        Prefix::V6(prefix) => out.extend(&prefix.addr().octets()[..octets]),
    }
}

fn update(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Bytes {
    let mut body = Vec::new();
    body.put_u16(withdrawn.len() as u16);
    body.extend(withdrawn);
    body.put_u16(attributes.len() as u16);
    body.extend(attributes);
    body.extend(announced);
    frame(UPDATE, &body)
}

/// The IPv6 next hop of a peer with this IPv4 one: in the prefix for documentation.
pub fn next_hop_v6(next_hop: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(next_hop.to_bits()))
}

/// One prefix, with these attributes.
pub fn announce(attributes: &Attributes, prefix: Prefix) -> Bytes {
    announce_path(attributes, prefix, None)
}

/// The same where paths have numbers (RFC 7911 §3).
pub fn announce_path(attributes: &Attributes, prefix: Prefix, id: Option<u32>) -> Bytes {
    let (mut set, mut nlri) = (Vec::new(), Vec::new());
    nlri.extend(id.iter().flat_map(|id| id.to_be_bytes()));
    put_prefix(&mut nlri, &prefix);
    attributes.put(&mut set, prefix.is_v4());
    if prefix.is_v4() {
        return update(&[], &set, &nlri);
    }
    let mut reach = vec![0, 2, 1, 16];
    reach.extend(next_hop_v6(attributes.next_hop).octets());
    reach.push(0);
    reach.extend(nlri);
    set.extend([0x90, 14]);
    set.put_u16(reach.len() as u16);
    set.extend(reach);
    update(&[], &set, &[])
}

/// IPv4 prefixes with one set of attributes, as many as one message takes.
pub fn announce_all(attributes: &Attributes, prefixes: impl IntoIterator<Item = Prefix4>) -> Bytes {
    let (mut set, mut nlri) = (Vec::new(), Vec::new());
    prefixes.into_iter().for_each(|prefix| put_prefix(&mut nlri, &prefix.into()));
    attributes.put(&mut set, true);
    update(&[], &set, &nlri)
}

pub fn withdraw(prefix: Prefix) -> Bytes {
    withdraw_path(prefix, None)
}

pub fn withdraw_path(prefix: Prefix, id: Option<u32>) -> Bytes {
    let mut nlri: Vec<u8> = id.iter().flat_map(|id| id.to_be_bytes()).collect();
    put_prefix(&mut nlri, &prefix);
    if prefix.is_v4() {
        return update(&nlri, &[], &[]);
    }
    let mut set = vec![0x90, 15];
    set.put_u16(nlri.len() as u16 + 3);
    set.extend([0, 2, 1]);
    set.extend(nlri);
    update(&[], &set, &[])
}

pub fn end_of_rib(family: Family) -> Bytes {
    match family {
        Family::Ipv4Unicast => update(&[], &[], &[]),
        Family::Ipv6Unicast => update(&[], &[0x90, 15, 0, 3, 0, 2, 1], &[]),
    }
}

/// ROUTE-REFRESH: 0 asks, 1 begins, 2 ends (RFC 7313).
pub fn refresh(family: Family, subtype: u8) -> Bytes {
    let [high, low] = family.afi().to_be_bytes();
    frame(REFRESH, &[high, low, subtype, 1])
}

/// Why what a speaker sent is no BGP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("a header that is none")]
    Header,
    #[error("lengths that do not add up")]
    Lengths,
    #[error("a prefix that is none")]
    Prefix,
    #[error("routes without attributes")]
    Attributes,
}

/// Reads what a speaker sends, and keeps the table.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    input: Vec<u8>,
    /// Each prefix with its attributes' octets, NLRI left out.
    pub table: BTreeMap<Prefix, Vec<u8>>,
    pub updates: usize,
    pub ends_of_rib: usize,
    /// It said that it takes longer messages (RFC 8654).
    pub extended: bool,
    /// Code and subcode of the speaker's last word.
    pub notification: Option<(u8, u8)>,
}

impl Follower {
    /// Bytes in any portions.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.input.extend_from_slice(bytes);
        while let Some(header) = self.input.first_chunk::<HEADER>() {
            let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
            let longest = if self.extended { usize::from(u16::MAX) } else { LONGEST };
            if header[..16] != [0xff; 16] || !(HEADER..=longest).contains(&length) {
                return Err(Malformed::Header);
            }
            let kind = header[18];
            if self.input.len() < length {
                break;
            }
            let message: Vec<u8> = self.input.drain(..length).collect();
            self.message(kind, &message[HEADER..])?;
        }
        Ok(())
    }

    fn message(&mut self, kind: u8, body: &[u8]) -> Result<(), Malformed> {
        match kind {
            UPDATE => self.update(body),
            NOTIFICATION => {
                let &[code, subcode, ..] = body else { return Err(Malformed::Lengths) };
                self.notification = Some((code, subcode));
                Ok(())
            }
            OPEN if body.len() >= 10 => Ok(()),
            KEEPALIVE if body.is_empty() => Ok(()),
            REFRESH if body.len() == 4 => Ok(()),
            _ => Err(Malformed::Header),
        }
    }

    fn update(&mut self, body: &[u8]) -> Result<(), Malformed> {
        self.updates += 1;
        let (withdrawn, rest) = counted(body)?;
        let (attributes, announced) = counted(rest)?;
        if withdrawn.is_empty() && attributes.is_empty() && announced.is_empty() {
            self.ends_of_rib += 1;
        }
        for prefix in prefixes(withdrawn, false)? {
            self.table.remove(&prefix);
        }
        let (mut set, mut reached) = (Vec::new(), Vec::new());
        let mut rest = attributes;
        while let [flags, code, tail @ ..] = rest {
            let (value, after) = match (flags & 0x10 != 0, tail) {
                (true, [_, _, ..]) => counted(tail)?,
                (false, [length, tail @ ..]) => {
                    tail.split_at_checked(usize::from(*length)).ok_or(Malformed::Lengths)?
                }
                _ => return Err(Malformed::Lengths),
            };
            rest = after;
            match code {
                14 => {
                    let [0, 2, 1, length, tail @ ..] = value else { return Err(Malformed::Lengths) };
                    let (hop, nlri) =
                        tail.split_at_checked(usize::from(*length) + 1).ok_or(Malformed::Lengths)?;
                    reached = prefixes(nlri, true)?;
                    set.extend_from_slice(hop);
                }
                15 => {
                    let [0, 2, 1, nlri @ ..] = value else { return Err(Malformed::Lengths) };
                    self.ends_of_rib += usize::from(nlri.is_empty());
                    for prefix in prefixes(nlri, true)? {
                        self.table.remove(&prefix);
                    }
                }
                _ => {
                    set.push(*code);
                    set.extend_from_slice(value);
                }
            }
        }
        if !rest.is_empty() {
            return Err(Malformed::Lengths);
        }
        reached.extend(prefixes(announced, false)?);
        if !reached.is_empty() && set.is_empty() {
            return Err(Malformed::Attributes);
        }
        for prefix in reached {
            self.table.insert(prefix, set.clone());
        }
        Ok(())
    }
}

/// Octets with their number in front, and the rest.
fn counted(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let [high, low, tail @ ..] = bytes else { return Err(Malformed::Lengths) };
    tail.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))).ok_or(Malformed::Lengths)
}

fn prefixes(mut bytes: &[u8], v6: bool) -> Result<Vec<Prefix>, Malformed> {
    let mut out = Vec::new();
    while let [len, tail @ ..] = bytes {
        let (octets, after) = tail.split_at_checked(usize::from(len.div_ceil(8))).ok_or(Malformed::Prefix)?;
        bytes = after;
        let mut address = [0; 16];
        address.get_mut(..octets.len()).ok_or(Malformed::Prefix)?.copy_from_slice(octets);
        let [a, b, c, d, ..] = address;
        let prefix = match v6 {
            false => Prefix4::new(Ipv4Addr::new(a, b, c, d), *len).map(Prefix::V4),
            true => Prefix6::new(Ipv6Addr::from(address), *len).map(Prefix::V6),
        };
        out.push(prefix.ok_or(Malformed::Prefix)?);
    }
    Ok(out)
}
