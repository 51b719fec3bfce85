//! Attributes from the wire, with the outcomes of RFC 7606: an error in one attribute costs that attribute or
//! the UPDATE's routes, and only what leaves the routes themselves in doubt costs the session. The table
//! [`rule`] says for each attribute which flags it must have and what an error in it means.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use manx_net::Asn;
use nom::{
    IResult, Parser,
    bytes::complete::take,
    number::complete::{be_u8, be_u16},
};
use serde::Serialize;

use super::{Attributes, Origin, PartialOnes, Unknown, as_path::AsPath, code, flag, name};
use crate::{
    config::{Family, PerFamily},
    message::notification::Notification,
};

/// What the session knows that decides how attributes read.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub ebgp: bool,
    /// Both sides announced RFC 6793.
    pub four_octet: bool,
    /// Those that both sides announced.
    pub families: PerFamily<bool>,
    /// The families whose prefixes come with the names of their paths (RFC 7911).
    pub add_path: PerFamily<bool>,
    /// Both sides announced RFC 8950.
    pub extended_next_hop: bool,
}

/// What becomes of an UPDATE in which an attribute is wrong (RFC 7606 §2), the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The attribute is gone, the routes stay.
    #[error("the attribute was discarded")]
    Discard,
    #[error("its routes were treated as withdrawn")]
    TreatAsWithdraw,
}

/// What is wrong with an attribute, by its type code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
pub enum AttributeError {
    #[error("{} with flags {flags:#04x}", name(*code))]
    Flags { code: u8, flags: u8 },
    #[error("{} with length {length}", name(*code))]
    Length { code: u8, length: usize },
    #[error("{} with a value that it cannot have", name(*code))]
    Malformed { code: u8 },
    #[error("{} twice", name(*code))]
    Duplicate { code: u8 },
    #[error("attributes that run past their end")]
    Overrun,
    #[error("{} missing", name(*code))]
    Missing { code: u8 },
    #[error("{} has no place on this session", name(*code))]
    Unexpected { code: u8 },
}

/// What an UPDATE must be answered with by ending the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FatalError<'a> {
    #[error("the lengths within the UPDATE do not add up, or MP_REACH/MP_UNREACH appears twice")]
    AttributeList,
    #[error("a well-known attribute that Manx does not know")]
    UnknownWellKnown(&'a [u8]),
    #[error("a multiprotocol attribute whose routes cannot be told")]
    Multiprotocol(&'a [u8]),
    #[error("a prefix that is too long or cut off")]
    Network,
    #[error("a wrong attribute beside no routes at all, so that some may have been overlooked")]
    WithoutRoutes,
}

impl FatalError<'_> {
    pub fn notification(self) -> Notification {
        match self {
            FatalError::AttributeList | FatalError::WithoutRoutes => Notification::new(3, 1, &[]),
            FatalError::UnknownWellKnown(attribute) => Notification::new(3, 2, attribute),
            FatalError::Multiprotocol(attribute) => Notification::new(3, 9, attribute),
            FatalError::Network => Notification::new(3, 10, &[]),
        }
    }
}

/// MP_REACH_NLRI of a family that the session carries (RFC 4760 §3).
#[derive(Clone, Copy, Debug)]
pub struct MpReach<'a> {
    pub family: Family,
    pub next_hop: IpAddr,
    pub nlri: &'a [u8],
}

/// MP_UNREACH_NLRI of a family that the session carries (RFC 4760 §4).
#[derive(Clone, Copy, Debug)]
pub struct MpUnreach<'a> {
    pub family: Family,
    pub nlri: &'a [u8],
}

/// The attribute part of an UPDATE.
#[derive(Debug, Default)]
pub struct Parsed<'a> {
    pub origin: Option<Origin>,
    pub as_path: Option<AsPath>,
    pub next_hop: Option<Ipv4Addr>,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<(Asn, Ipv4Addr)>,
    pub communities: Box<[u32]>,
    pub extended: Box<[u64]>,
    pub large: Box<[[u32; 3]]>,
    pub originator_id: Option<Ipv4Addr>,
    pub cluster_list: Box<[Ipv4Addr]>,
    pub only_to_customers: Option<u32>,
    pub partial: PartialOnes,
    pub unknown: Vec<Unknown>,
    pub mp_reach: Option<MpReach<'a>>,
    pub mp_unreach: Option<MpUnreach<'a>>,
    /// There was a multiprotocol attribute of whatever family: the UPDATE is no End-of-RIB of IPv4.
    pub multiprotocol: bool,
    /// There was any attribute besides MP_UNREACH: the UPDATE is no End-of-RIB of its family.
    pub others: bool,
    /// There was an MP_REACH of a family that the session does not carry.
    pub reaches_elsewhere: bool,
    pub errors: Vec<(AttributeError, Outcome)>,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<(Asn, Ipv4Addr)>,
}

impl Parsed<'_> {
    pub fn outcome(&self) -> Option<Outcome> {
        self.errors.iter().map(|&(_, outcome)| outcome).max()
    }

    /// The worst fault. What only has no place on this session is none: some peers send LOCAL_PREF to everybody.
    pub fn worst_fault(&self) -> Option<(AttributeError, Outcome)> {
        let faults = self.errors.iter().filter(|(e, _)| !matches!(e, AttributeError::Unexpected { .. }));
        // Of equally bad ones the first.
        faults.copied().rev().max_by_key(|&(_, outcome)| outcome)
    }

    /// Notes what a route with NLRI must have and this one has not (RFC 7606 §3 d). A missing LOCAL_PREF
    /// counts as 100, as with everybody.
    pub fn check_mandatory(&mut self, with_next_hop: bool) {
        for (missing, code) in [
            (self.origin.is_none(), code::ORIGIN),
            (self.as_path.is_none(), code::AS_PATH),
            (with_next_hop && self.next_hop.is_none(), code::NEXT_HOP),
        ] {
            let known = |&(error, _): &(AttributeError, Outcome)| error.code() == Some(code);
            if missing && !self.errors.iter().any(known) {
                self.errors.push((AttributeError::Missing { code }, Outcome::TreatAsWithdraw));
            }
        }
    }

    /// The set for routes with this next hop. `None` if a mandatory one is missing.
    pub fn attributes(&self, next_hop: IpAddr) -> Option<Attributes> {
        // RFC 6793 §4.2.3: beside an AS4_AGGREGATOR, an AGGREGATOR that is not AS_TRANS was set by somebody on the way
        // who knew neither of the AS4 attributes, and then they say nothing.
        let set_since = self.aggregator.is_some_and(|(number, _)| number != Asn::TRANS);
        let as4_counts = !(set_since && self.as4_aggregator.is_some());
        let as_path = self.as_path.as_ref()?;
        let as_path = match &self.as4_path {
            Some(as4) if as4_counts => as_path.merged(as4),
            _ => as_path.clone(),
        };
        let aggregator = match (self.aggregator, self.as4_aggregator) {
            (Some((Asn::TRANS, _)), Some(as4)) => Some(as4),
            (aggregator, _) => aggregator,
        };
        Some(Attributes {
            origin: self.origin?,
            as_path,
            next_hop,
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator,
            communities: self.communities.clone(),
            extended: self.extended.clone(),
            large: self.large.clone(),
            originator_id: self.originator_id,
            cluster_list: self.cluster_list.clone(),
            only_to_customers: self.only_to_customers,
            partial: self.partial,
            unknown: self.unknown.clone().into_boxed_slice(),
            received: None,
        })
    }
}

impl AttributeError {
    pub fn code(self) -> Option<u8> {
        match self {
            AttributeError::Flags { code, .. }
            | AttributeError::Length { code, .. }
            | AttributeError::Malformed { code }
            | AttributeError::Duplicate { code }
            | AttributeError::Missing { code }
            | AttributeError::Unexpected { code } => Some(code),
            AttributeError::Overrun => None,
        }
    }
}

/// The flags an attribute must have, and what an error in it costs (RFC 7606 §7, RFC 8092 §6, RFC 8669 §6, RFC 9234 §5).
/// `None`: unknown.
fn rule(code: u8) -> Option<(u8, Outcome)> {
    use Outcome::{Discard, TreatAsWithdraw};
    use flag::{OPTIONAL, TRANSITIVE};
    Some(match code {
        code::ORIGIN | code::AS_PATH | code::NEXT_HOP | code::LOCAL_PREF => (TRANSITIVE, TreatAsWithdraw),
        code::ATOMIC_AGGREGATE => (TRANSITIVE, Discard),
        code::AGGREGATOR | code::AS4_PATH | code::AS4_AGGREGATOR | code::PREFIX_SID => {
            (OPTIONAL | TRANSITIVE, Discard)
        }
        code::AIGP => (OPTIONAL, Discard),
        code::COMMUNITIES
        | code::EXTENDED_COMMUNITIES
        | code::LARGE_COMMUNITIES
        | code::ONLY_TO_CUSTOMERS => (OPTIONAL | TRANSITIVE, TreatAsWithdraw),
        code::MED | code::ORIGINATOR_ID | code::CLUSTER_LIST | code::MP_REACH | code::MP_UNREACH => {
            (OPTIONAL, TreatAsWithdraw)
        }
        _ => return None,
    })
}

/// Flags, code, value.
fn header(input: &[u8]) -> IResult<&[u8], (u8, u8, &[u8])> {
    let (rest, (flags, code)) = (be_u8, be_u8).parse(input)?;
    let (rest, length) = if flags & flag::EXTENDED_LENGTH != 0 {
        be_u16.parse(rest)?
    } else {
        be_u8.map(u16::from).parse(rest)?
    };
    let (rest, value) = take(length).parse(rest)?;
    Ok((rest, (flags, code, value)))
}

/// Reads the attribute part of an UPDATE. An error ends the session; everything milder is in
/// [`Parsed::errors`].
pub fn parse(block: &[u8], reading: Reading) -> Result<Parsed<'_>, FatalError<'_>> {
    let mut parsed = Parsed::default();
    let mut seen = [0u64; 4];
    let mut rest = block;
    while !rest.is_empty() {
        let Ok((after, (flags, code, value))) = header(rest) else {
            // RFC 7606 §4: the block as a whole is intact, so the routes are known, and withdrawn.
            parsed.errors.push((AttributeError::Overrun, Outcome::TreatAsWithdraw));
            parsed.others = true;
            break;
        };
        #[expect(clippy::indexing_slicing, reason = "`after` is the tail of `rest`")]
        let whole = &rest[..rest.len() - after.len()];
        rest = after;
        let multiprotocol = matches!(code, code::MP_REACH | code::MP_UNREACH);
        #[expect(clippy::indexing_slicing, reason = "a code is below 256: four words hold one bit for each")]
        let (word, bit) = (&mut seen[usize::from(code >> 6)], 1u64 << (code & 63));
        if *word & bit != 0 {
            if multiprotocol {
                return Err(FatalError::AttributeList);
            }
            parsed.errors.push((AttributeError::Duplicate { code }, Outcome::Discard));
            continue;
        }
        *word |= bit;
        parsed.multiprotocol |= multiprotocol;
        parsed.others |= code != code::MP_UNREACH;
        match rule(code) {
            None if flags & flag::OPTIONAL == 0 => return Err(FatalError::UnknownWellKnown(whole)),
            None if flags & flag::TRANSITIVE != 0 => {
                parsed.unknown.push(Unknown { code, value: value.into() });
            }
            // RFC 4271 §9: quietly ignored.
            None => {}
            Some((expected, on_error)) => {
                let on_error = if is_foreign(code, reading) { Outcome::Discard } else { on_error };
                if (flags & (flag::OPTIONAL | flag::TRANSITIVE)) != expected {
                    parsed.errors.push((AttributeError::Flags { code, flags }, on_error));
                    if !multiprotocol {
                        continue;
                    }
                }
                if multiprotocol {
                    read_multiprotocol(&mut parsed, code, value, whole, reading)?;
                } else if let Err(error) = read(&mut parsed, code, value, reading) {
                    parsed.errors.push((error, on_error));
                } else if flags & flag::PARTIAL != 0 {
                    parsed.partial.add(code);
                }
            }
        }
    }
    parsed.unknown.sort_by_key(|unknown| unknown.code);
    Ok(parsed)
}

fn read(parsed: &mut Parsed<'_>, code: u8, value: &[u8], reading: Reading) -> Result<(), AttributeError> {
    let wrong_length = AttributeError::Length { code, length: value.len() };
    let malformed = AttributeError::Malformed { code };
    let number = || value.try_into().map(u32::from_be_bytes).map_err(|_| wrong_length);
    match code {
        code::ORIGIN => {
            parsed.origin = Some(match value {
                [0] => Origin::Igp,
                [1] => Origin::Egp,
                [2] => Origin::Incomplete,
                [_] => return Err(malformed),
                _ => return Err(wrong_length),
            });
        }
        code::AS_PATH => {
            parsed.as_path = Some(AsPath::parse(value, reading.four_octet).ok_or(malformed)?);
        }
        code::NEXT_HOP => parsed.next_hop = Some(Ipv4Addr::from_bits(number()?)),
        code::MED => parsed.med = Some(number()?),
        _ if is_foreign(code, reading) => return Err(AttributeError::Unexpected { code }),
        code::LOCAL_PREF => parsed.local_pref = Some(number()?),
        code::ATOMIC_AGGREGATE => {
            if !value.is_empty() {
                return Err(wrong_length);
            }
            parsed.atomic_aggregate = true;
        }
        code::AGGREGATOR => {
            let (number, address) = if reading.four_octet {
                let (number, address) = value.split_first_chunk::<4>().ok_or(wrong_length)?;
                (u32::from_be_bytes(*number), address)
            } else {
                let (number, address) = value.split_first_chunk::<2>().ok_or(wrong_length)?;
                (u32::from(u16::from_be_bytes(*number)), address)
            };
            if address.len() != 4 {
                return Err(wrong_length);
            }
            parsed.aggregator = Some(aggregator(number, address).ok_or(malformed)?);
        }
        // RFC 6793 §6: it carries at least one number.
        code::AS4_PATH if value.is_empty() => return Err(wrong_length),
        code::AS4_PATH => parsed.as4_path = Some(AsPath::parse_as4(value).ok_or(malformed)?),
        code::AS4_AGGREGATOR => {
            let (head, address) = value.split_first_chunk::<4>().ok_or(wrong_length)?;
            parsed.as4_aggregator = Some(aggregator(u32::from_be_bytes(*head), address).ok_or(wrong_length)?);
        }
        code::COMMUNITIES => {
            parsed.communities =
                whole_chunks(value).ok_or(wrong_length)?.iter().map(|&c| u32::from_be_bytes(c)).collect();
        }
        code::EXTENDED_COMMUNITIES => {
            parsed.extended =
                whole_chunks(value).ok_or(wrong_length)?.iter().map(|&c| u64::from_be_bytes(c)).collect();
        }
        code::LARGE_COMMUNITIES => {
            let triples = whole_chunks::<12>(value).ok_or(wrong_length)?;
            parsed.large = triples
                .iter()
                .map(|&[a, b, c, d, e, f, g, h, i, j, k, l]| {
                    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_be_bytes)
                })
                .collect();
        }
        code::ONLY_TO_CUSTOMERS => parsed.only_to_customers = Some(number()?),
        code::ORIGINATOR_ID => parsed.originator_id = Some(Ipv4Addr::from_bits(number()?)),
        code::CLUSTER_LIST => {
            parsed.cluster_list =
                whole_chunks::<4>(value).ok_or(wrong_length)?.iter().map(|&c| Ipv4Addr::from(c)).collect();
        }
        // RFC 7311 §3.3: where it is not enabled, and here it never is, it is quietly ignored.
        code::AIGP => {}
        // Passed on as one that we do not know, but not if it is wrong.
        code::PREFIX_SID if is_prefix_sid(value) => {
            parsed.unknown.push(Unknown { code, value: value.into() });
        }
        code::PREFIX_SID => return Err(malformed),
        // `rule` names the same codes, and the multiprotocol ones are read elsewhere.
        _ => {}
    }
    Ok(())
}

/// Has the attribute no place on this session? Then it is discarded whatever it says (RFC 7606 §7.5, §7.9 and §7.10,
/// RFC 6793 §3).
fn is_foreign(code: u8, reading: Reading) -> bool {
    match code {
        code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST => reading.ebgp,
        code::AS4_PATH | code::AS4_AGGREGATOR => reading.four_octet,
        _ => false,
    }
}

/// Types, lengths and values that fill the attribute; a Label-Index is 7 octets (RFC 8669 §6).
fn is_prefix_sid(mut value: &[u8]) -> bool {
    while let [kind, a, b, ref rest @ ..] = *value {
        let length = usize::from(u16::from_be_bytes([a, b]));
        let Some((_, rest)) = rest.split_at_checked(length) else { return false };
        if kind == 1 && length != 7 {
            return false;
        }
        value = rest;
    }
    value.is_empty()
}

fn aggregator(number: u32, address: &[u8]) -> Option<(Asn, Ipv4Addr)> {
    // AS 0: RFC 7607 §2.
    Some((Asn::new(number)?, Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)))
}

/// At least one, and nothing left over (behaviour 31).
fn whole_chunks<const N: usize>(value: &[u8]) -> Option<&[[u8; N]]> {
    let (chunks, rest) = value.as_chunks::<N>();
    (!chunks.is_empty() && rest.is_empty()).then_some(chunks)
}

fn read_multiprotocol<'a>(
    parsed: &mut Parsed<'a>,
    code: u8,
    value: &'a [u8],
    whole: &'a [u8],
    reading: Reading,
) -> Result<(), FatalError<'a>> {
    let fatal = FatalError::Multiprotocol(whole);
    let [a, b, safi, ref rest @ ..] = *value else { return Err(fatal) };
    // Of another family nothing is read, so it may be as wrong as it likes: what RFC 4760 §7 asks for in that case (to
    // drop the family's routes and ignore what comes) is how it stands already, and the others go on (RFC 7606 §2, "AFI/SAFI
    // disable"). Where it ends the attribute's own length says.
    let family = Family::from_wire(u16::from_be_bytes([a, b]), safi);
    let Some(family) = family.filter(|&family| reading.families[family]) else {
        parsed.reaches_elsewhere |= code == code::MP_REACH;
        return Ok(());
    };
    if code == code::MP_UNREACH {
        parsed.mp_unreach = Some(MpUnreach { family, nlri: rest });
        return Ok(());
    }
    let [length, ref rest @ ..] = *rest else { return Err(fatal) };
    let Some((next_hop, [_reserved, nlri @ ..])) = rest.split_at_checked(usize::from(length)) else {
        return Err(fatal);
    };
    let next_hop = mp_next_hop(family, next_hop, reading.extended_next_hop).ok_or(fatal)?;
    parsed.mp_reach = Some(MpReach { family, next_hop, nlri });
    Ok(())
}

/// Behaviour 37: 16 octets, or 32 with a link-local address after the global one (RFC 2545 §3); 4 for IPv4, and as for
/// IPv6 only where that was agreed on (RFC 8950 §3).
fn mp_next_hop(family: Family, wire: &[u8], extended: bool) -> Option<IpAddr> {
    let ipv6 = family == Family::Ipv6Unicast || extended;
    match wire.len() {
        4 if family == Family::Ipv4Unicast => {
            Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(wire).ok()?)))
        }
        16 if ipv6 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(wire).ok()?))),
        32 if ipv6 => {
            let (halves, _) = wire.as_chunks::<16>();
            let [global, link_local] = *halves else { return None };
            let global = Ipv6Addr::from(global);
            let chosen = if global.is_unspecified() { Ipv6Addr::from(link_local) } else { global };
            Some(IpAddr::V6(chosen))
        }
        _ => None,
    }
}
