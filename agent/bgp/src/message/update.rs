//! UPDATE (RFC 4271 §4.3, RFC 4760): its parts, its prefixes, and the End-of-RIB marker (RFC 4724 §2). The
//! attributes are read in [`crate::attr::parse`].

use std::{
    marker::PhantomData,
    net::{Ipv4Addr, Ipv6Addr},
};

use bytes::{BufMut, Bytes, BytesMut};
use manx_net::{Prefix, Prefix4, Prefix6};

use super::{HEADER_LEN, MAX_EXTENDED_LEN, MAX_LEN, UPDATE, write_message};
use crate::{
    attr::{
        code, flag,
        parse::{FatalError, Outcome, Parsed, Reading, parse},
    },
    config::{Family, PerFamily},
};

/// The prefixes of one family, on the wire and in a table.
pub trait Nlri: Copy + Ord + std::hash::Hash + std::fmt::Debug + Into<Prefix> {
    const FAMILY: Family;
    /// `octets` has just as many as the length needs. Host bits are cleared (behaviour 34).
    fn from_wire(length: u8, octets: &[u8]) -> Option<Self>;
    fn length(self) -> u8;
    fn put_address(self, out: &mut BytesMut, octets: usize);
    fn of(prefix: Prefix) -> Option<Self>;
    /// For hashing: what this prefix and those beside it have in common, and which of them it is. Those differ in no
    /// more than the last [`NEIGHBOUR_BITS`] bits of the network.
    fn neighbourhood(self) -> ([u64; 2], u8);
    /// Does it lie wholly where no route can lead (RFC 6890)? What is wider than such a block is not meant by this,
    /// the default route least of all.
    fn is_bogus(self) -> bool;
    fn names_host(self) -> bool;
}

/// Up to 2 to the power of so many prefixes are neighbours.
pub const NEIGHBOUR_BITS: u32 = 4;

/// "This network", loopback, link-local, multicast with everything above it.
const BOGUS4: [Prefix4; 4] = [
    block4(Ipv4Addr::UNSPECIFIED, 8),
    block4(Ipv4Addr::LOCALHOST, 8),
    block4(Ipv4Addr::new(169, 254, 0, 0), 16),
    block4(Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// Unspecified and loopback, link-local, multicast.
const BOGUS6: [Prefix6; 3] = [
    block6(Ipv6Addr::UNSPECIFIED, 127),
    block6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    block6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

#[expect(clippy::unwrap_used, reason = "evaluated by the compiler: a length that cannot be does not compile")]
const fn block4(address: Ipv4Addr, length: u8) -> Prefix4 {
    Prefix4::new(address, length).unwrap()
}

#[expect(clippy::unwrap_used, reason = "evaluated by the compiler, as above")]
const fn block6(address: Ipv6Addr, length: u8) -> Prefix6 {
    Prefix6::new(address, length).unwrap()
}

impl Nlri for Prefix4 {
    const FAMILY: Family = Family::Ipv4Unicast;

    fn from_wire(length: u8, octets: &[u8]) -> Option<Prefix4> {
        // By number of octets: a copy of unknown length would be read back before it is written.
        let address = match *octets {
            [] => [0; 4],
            [a] => [a, 0, 0, 0],
            [a, b] => [a, b, 0, 0],
            [a, b, c] => [a, b, c, 0],
            [a, b, c, d] => [a, b, c, d],
            _ => return None,
        };
        Prefix4::from_bits(u32::from_be_bytes(address), length)
    }

    fn length(self) -> u8 {
        self.len()
    }

    fn put_address(self, out: &mut BytesMut, octets: usize) {
        out.put_slice(self.bits().to_be_bytes().get(..octets).unwrap_or_default());
    }

    fn of(prefix: Prefix) -> Option<Prefix4> {
        if let Prefix::V4(prefix) = prefix { Some(prefix) } else { None }
    }

    fn neighbourhood(self) -> ([u64; 2], u8) {
        let network = u64::from(self.bits()) >> (32 - self.len());
        // The bit above the others tells networks of different lengths apart.
        let shared = network >> NEIGHBOUR_BITS | 1 << self.len();
        ([shared, 0], network as u8 & 0xf)
    }

    fn is_bogus(self) -> bool {
        BOGUS4.iter().any(|block| block.covers(self))
    }

    fn names_host(self) -> bool {
        self.is_host()
    }
}

impl Nlri for Prefix6 {
    const FAMILY: Family = Family::Ipv6Unicast;

    fn from_wire(length: u8, octets: &[u8]) -> Option<Prefix6> {
        let mut address = [0; 16];
        address.get_mut(..octets.len())?.copy_from_slice(octets);
        Prefix6::from_bits(u128::from_be_bytes(address), length)
    }

    fn length(self) -> u8 {
        self.len()
    }

    fn put_address(self, out: &mut BytesMut, octets: usize) {
        out.put_slice(self.bits().to_be_bytes().get(..octets).unwrap_or_default());
    }

    fn of(prefix: Prefix) -> Option<Prefix6> {
        if let Prefix::V6(prefix) = prefix { Some(prefix) } else { None }
    }

    fn neighbourhood(self) -> ([u64; 2], u8) {
        let network = self.bits().checked_shr(128 - u32::from(self.len())).unwrap_or(0);
        // The bit above the others tells networks of different lengths apart; those of the shortest share theirs.
        let above = 1 << u32::from(self.len()).saturating_sub(NEIGHBOUR_BITS);
        let shared = network >> NEIGHBOUR_BITS | above;
        ([(shared >> 64) as u64, shared as u64], network as u8 & 0xf)
    }

    fn is_bogus(self) -> bool {
        BOGUS6.iter().any(|block| block.covers(self))
    }

    fn names_host(self) -> bool {
        self.is_host()
    }
}

/// What tells a peer's paths for one prefix apart (RFC 7911 §3); 0 where the session has no names for them.
pub type PathId = u32;

/// Prefixes as an UPDATE has them, with the names of their paths, checked to be whole.
#[derive(Clone, Copy, Debug)]
pub struct Prefixes<'a, P> {
    wire: &'a [u8],
    with_ids: bool,
    family: PhantomData<P>,
}

/// Cuts the path's name off, if there has to be one. `None`: there is nothing left, or not enough of it.
fn cut_id(wire: &[u8], with_ids: bool) -> Option<(PathId, &[u8])> {
    if !with_ids {
        return Some((0, wire));
    }
    let (id, rest) = wire.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*id), rest))
}

impl<'a, P: Nlri> Prefixes<'a, P> {
    /// Behaviour 26: a length beyond the family's, or octets missing, is fatal.
    pub fn parse(wire: &'a [u8], with_ids: bool) -> Result<Prefixes<'a, P>, FatalError<'static>> {
        let mut rest = wire;
        while !rest.is_empty() {
            let Some((_, [length, after @ ..])) = cut_id(rest, with_ids) else {
                return Err(FatalError::Network);
            };
            let octets = usize::from(*length).div_ceil(8);
            let (Some(octets), after) = (after.get(..octets), after.get(octets..).unwrap_or_default()) else {
                return Err(FatalError::Network);
            };
            P::from_wire(*length, octets).ok_or(FatalError::Network)?;
            rest = after;
        }
        Ok(Prefixes { wire, with_ids, family: PhantomData })
    }

    pub fn is_empty(&self) -> bool {
        self.wire.is_empty()
    }
}

impl<P: Nlri> Iterator for Prefixes<'_, P> {
    type Item = (PathId, P);

    fn next(&mut self) -> Option<(PathId, P)> {
        let (id, rest) = cut_id(self.wire, self.with_ids)?;
        let (&length, rest) = rest.split_first()?;
        let (octets, rest) = rest.split_at_checked(usize::from(length).div_ceil(8))?;
        self.wire = rest;
        Some((id, P::from_wire(length, octets)?))
    }
}

/// An UPDATE, read.
#[derive(Debug)]
pub struct Update<'a> {
    pub withdrawn: Prefixes<'a, Prefix4>,
    pub announced: Prefixes<'a, Prefix4>,
    pub attributes: Parsed<'a>,
    /// The family of which this is the End-of-RIB marker.
    pub end_of_rib: Option<Family>,
    /// As in [`Reading::add_path`].
    pub with_ids: PerFamily<bool>,
}

impl<'a> Update<'a> {
    pub fn parse(body: &'a [u8], reading: Reading) -> Result<Update<'a>, FatalError<'a>> {
        // Behaviour 25: lengths that do not add up leave nothing to hold on to.
        let (withdrawn, rest) = length_prefixed(body).ok_or(FatalError::AttributeList)?;
        let (block, announced) = length_prefixed(rest).ok_or(FatalError::AttributeList)?;
        let with_ids = reading.add_path;
        let withdrawn = Prefixes::parse(withdrawn, with_ids[Family::Ipv4Unicast])?;
        let announced: Prefixes<'_, Prefix4> = Prefixes::parse(announced, with_ids[Family::Ipv4Unicast])?;
        let mut attributes = parse(block, reading)?;
        // The other family's prefixes, so that nothing is taken before all is known to be whole.
        for (family, nlri) in [
            attributes.mp_reach.map(|reach| (reach.family, reach.nlri)),
            attributes.mp_unreach.map(|unreach| (unreach.family, unreach.nlri)),
        ]
        .into_iter()
        .flatten()
        {
            match family {
                Family::Ipv4Unicast => drop(Prefixes::<Prefix4>::parse(nlri, with_ids[family])?),
                Family::Ipv6Unicast => drop(Prefixes::<Prefix6>::parse(nlri, with_ids[family])?),
            }
        }
        let reaches = attributes.mp_reach.is_some_and(|reach| !reach.nlri.is_empty());
        if !announced.is_empty() || reaches {
            attributes.check_mandatory(!announced.is_empty());
        } else if attributes.others
            && !attributes.reaches_elsewhere
            && attributes.outcome() == Some(Outcome::TreatAsWithdraw)
        {
            // RFC 7606 §5.2: attributes stand beside routes, and there are none. So we do not know what to withdraw.
            return Err(FatalError::WithoutRoutes);
        }
        let end_of_rib = match attributes.mp_unreach {
            _ if !withdrawn.is_empty() || !announced.is_empty() || attributes.others => None,
            Some(unreach) if unreach.nlri.is_empty() => Some(unreach.family),
            None if block.is_empty() => Some(Family::Ipv4Unicast),
            _ => None,
        };
        Ok(Update { withdrawn, announced, attributes, end_of_rib, with_ids })
    }

    /// The first that is announced.
    pub fn first_prefix(&self) -> Option<Prefix> {
        let mut announced = self.announced;
        announced.next().map(|(_, prefix)| Prefix::V4(prefix)).or_else(|| {
            let reach = self.attributes.mp_reach?;
            let with_ids = self.with_ids[reach.family];
            Some(match reach.family {
                Family::Ipv4Unicast => Prefix::V4(Prefixes::parse(reach.nlri, with_ids).ok()?.next()?.1),
                Family::Ipv6Unicast => Prefix::V6(Prefixes::parse(reach.nlri, with_ids).ok()?.next()?.1),
            })
        })
    }

    /// Are the routes of this UPDATE to be treated as withdrawn?
    pub fn treat_as_withdraw(&self) -> bool {
        self.attributes.outcome() == Some(Outcome::TreatAsWithdraw)
    }
}

fn length_prefixed(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// The End-of-RIB marker of a family.
pub fn end_of_rib(family: Family) -> Bytes {
    let mut out = BytesMut::with_capacity(32);
    write_message(&mut out, UPDATE, |out| match family {
        Family::Ipv4Unicast => out.put_slice(&[0; 4]),
        Family::Ipv6Unicast => {
            out.put_slice(&[0, 0, 0, 6, flag::OPTIONAL, code::MP_UNREACH, 3, 0, 2, 1]);
        }
    });
    out.freeze()
}

/// What stands in an UPDATE's list of prefixes.
pub trait Listed: Copy {
    const FAMILY: Family;
    /// In octets.
    fn wire_len(self) -> usize;
    fn put(self, out: &mut BytesMut);
}

impl<P: Nlri> Listed for P {
    const FAMILY: Family = <P as Nlri>::FAMILY;

    fn wire_len(self) -> usize {
        1 + usize::from(self.length()).div_ceil(8)
    }

    fn put(self, out: &mut BytesMut) {
        out.put_u8(self.length());
        self.put_address(out, usize::from(self.length()).div_ceil(8));
    }
}

/// A prefix with the name of one of its paths (RFC 7911 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<P> {
    pub id: PathId,
    pub prefix: P,
}

impl<P: Nlri> Listed for Named<P> {
    const FAMILY: Family = <P as Nlri>::FAMILY;

    fn wire_len(self) -> usize {
        4 + self.prefix.wire_len()
    }

    fn put(self, out: &mut BytesMut) {
        out.put_u32(self.id);
        self.prefix.put(out);
    }
}

/// What is left for prefixes after the fixed parts of an UPDATE.
const ROOM: usize = MAX_LEN - HEADER_LEN - 4;
/// The same, with extended messages.
const EXTENDED_ROOM: usize = MAX_EXTENDED_LEN - HEADER_LEN - 4;

/// How many of `prefixes`, from the front, fit into `room` octets.
fn fitting<P: Listed>(prefixes: &[P], room: usize) -> usize {
    let mut used = 0;
    prefixes
        .iter()
        .take_while(|prefix| {
            used += prefix.wire_len();
            used <= room
        })
        .count()
}

/// Appends UPDATEs that withdraw these prefixes, each as full as it can be (behaviour 52), and returns their number.
pub fn write_withdrawals<P: Listed>(out: &mut BytesMut, mut prefixes: &[P]) -> u32 {
    let mut messages = 0;
    while !prefixes.is_empty() {
        // MP_UNREACH needs seven octets more.
        let (now, later) = prefixes.split_at(fitting(prefixes, ROOM - 7));
        write_message(out, UPDATE, |out| {
            let octets: usize = now.iter().map(|&p| p.wire_len()).sum();
            match P::FAMILY {
                Family::Ipv4Unicast => {
                    out.put_u16(octets as u16);
                    now.iter().for_each(|&p| p.put(out));
                    out.put_u16(0);
                }
                Family::Ipv6Unicast => {
                    out.put_u16(0);
                    out.put_u16(octets as u16 + 7);
                    out.put_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, code::MP_UNREACH]);
                    out.put_u16(octets as u16 + 3);
                    out.put_slice(&[0, 2, 1]);
                    now.iter().for_each(|&p| p.put(out));
                }
            }
        });
        messages += 1;
        prefixes = later;
    }
    messages
}

/// Appends UPDATEs that announce these prefixes with these attributes (without MP_REACH), each as full as it can be,
/// and returns their number. `None`, and nothing appended, if not even one prefix fits beside the attributes
/// (behaviour 51). With `extended` there is more room (RFC 8654), and it is used only where the attributes leave no
/// choice: long messages delay what comes behind them and save nothing. `next_hop` is what MP_REACH says, in 16 or 32
/// octets; empty where NEXT_HOP stands among the attributes.
pub fn write_announcements<P: Listed>(
    out: &mut BytesMut,
    mut prefixes: &[P],
    attributes: &[u8],
    next_hop: &[u8],
    extended: bool,
) -> Option<u32> {
    // MP_REACH: four octets of attribute header, five of its own, and the next hop.
    let own = if next_hop.is_empty() { 0 } else { 9 + next_hop.len() };
    let fixed = attributes.len() + own;
    let longest = prefixes.iter().map(|&p| p.wire_len()).max()?;
    let beside = |room: usize| room.checked_sub(fixed).filter(|&room| longest <= room);
    let room = beside(ROOM).or_else(|| if extended { beside(EXTENDED_ROOM) } else { None })?;
    let mut messages = 0;
    while !prefixes.is_empty() {
        let (now, later) = prefixes.split_at(fitting(prefixes, room));
        write_message(out, UPDATE, |out| {
            out.put_u16(0);
            let octets: usize = now.iter().map(|&p| p.wire_len()).sum();
            match next_hop {
                [] => {
                    out.put_u16(attributes.len() as u16);
                    out.put_slice(attributes);
                    now.iter().for_each(|&p| p.put(out));
                }
                next_hop => {
                    out.put_u16((fixed + octets) as u16);
                    // RFC 7606 §5.1: first, so that a receiver finds the routes whatever follows.
                    out.put_slice(&[flag::OPTIONAL | flag::EXTENDED_LENGTH, code::MP_REACH]);
                    out.put_u16((own - 4 + octets) as u16);
                    out.put_u16(P::FAMILY.afi());
                    out.put_slice(&[1, next_hop.len() as u8]);
                    out.put_slice(next_hop);
                    out.put_u8(0);
                    now.iter().for_each(|&p| p.put(out));
                    out.put_slice(attributes);
                }
            }
        });
        messages += 1;
        prefixes = later;
    }
    Some(messages)
}
