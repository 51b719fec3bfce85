//! What the matches of a rule leave of the packets that come to it: a walk over its expressions that remembers what
//! the registers hold.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use manx_net::Prefix;

use super::{
    expression::{Base, Expression, Operator, Register, ct, meta},
    ruleset::{Ruleset, Set, TableKey, family},
};
use crate::reach::{Family, InterfaceMatch, Reach};

/// Flags of TCP by which the guard leaves a packet to the stack: FIN, SYN and RST.
const OPENING_OR_CLOSING: u8 = 0x07;

/// The packets that a place in the rules is met by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packets {
    pub reach: Reach,
    /// None of them belongs to an established flow as the guard carries it: it leaves them to the stack anyway.
    pub guard_leaves_them: bool,
}

/// Of a rule, while its expressions are read in order.
pub(super) struct Narrowing<'r> {
    ruleset: &'r Ruleset,
    table: &'r TableKey,
    pub packets: Packets,
    /// Some packet of an established flow may not have come so far.
    pub some_established_left: bool,
    /// What was looked at that differs among the packets of a flow.
    pub content: Option<&'static str>,
    held: HashMap<Register, Held>,
}

#[derive(Clone, Debug)]
enum Held {
    Address {
        source: bool,
        ipv4: bool,
        length: u32,
        mask: Option<Vec<u8>>,
    },
    /// `NFPROTO_*`.
    Family,
    /// As Ethernet numbers them.
    EtherType,
    Protocol,
    InterfaceName,
    InterfaceIndex,
    /// Of the connection, with the bits that are looked at.
    State(u32),
    TcpFlags(u8),
    /// Looks into each packet for what is not the same for all of a flow.
    Content(&'static str),
    Unknown,
}

impl<'r> Narrowing<'r> {
    pub fn new(ruleset: &'r Ruleset, table: &'r TableKey, packets: &Packets) -> Narrowing<'r> {
        Narrowing {
            ruleset,
            table,
            packets: packets.clone(),
            some_established_left: false,
            content: None,
            held: HashMap::new(),
        }
    }

    fn hold(&mut self, register: Register, held: Held) {
        if let Held::Content(what) = held {
            self.content = Some(what);
        }
        self.held.insert(register, held);
    }

    /// Takes in a match; others have no effect here.
    pub fn take(&mut self, expression: &Expression) {
        match expression {
            Expression::Payload { base, offset, length, to } => {
                let held = self.payload(*base, *offset, *length);
                self.hold(*to, held);
            }
            Expression::Meta { key, to } => {
                let held = match *key {
                    meta::NFPROTO => Held::Family,
                    meta::PROTOCOL => Held::EtherType,
                    meta::L4PROTO => Held::Protocol,
                    meta::IIFNAME => Held::InterfaceName,
                    meta::IIF => Held::InterfaceIndex,
                    meta::LENGTH => Held::Content("length"),
                    meta::PRANDOM => Held::Content("random"),
                    key if meta::TIMES.contains(&key) => Held::Content("time"),
                    _ => Held::Unknown,
                };
                self.hold(*to, held);
            }
            Expression::Ct { key, to } => {
                let held = match *key {
                    ct::STATE => Held::State(u32::MAX),
                    ct::PACKETS | ct::BYTES | ct::AVERAGE => {
                        Held::Content("bytes or packets of a connection")
                    }
                    _ => Held::Unknown,
                };
                self.hold(*to, held);
            }
            Expression::Mask { from, to, mask } => {
                let held = match self.held.get(from) {
                    Some(Held::Address { source, ipv4, length, mask: None }) => Held::Address {
                        source: *source,
                        ipv4: *ipv4,
                        length: *length,
                        mask: Some(mask.clone()),
                    },
                    Some(Held::State(had)) => Held::State(had & host_order(mask).unwrap_or(u32::MAX)),
                    Some(Held::TcpFlags(had)) => Held::TcpFlags(had & mask.first().unwrap_or(&u8::MAX)),
                    _ => Held::Unknown,
                };
                self.hold(*to, held);
            }
            Expression::Compare { register, operator, value } => {
                let held = self.held.get(register).cloned().unwrap_or(Held::Unknown);
                self.compare(held, *operator, value);
            }
            Expression::Lookup { set, register, inverted } => self.look_up(set, *register, *inverted),
            Expression::Match { name, revision, parameters } => self.extension(name, *revision, parameters),
            Expression::Other { name, to } => {
                if let Some(to) = to {
                    self.hold(*to, Held::Unknown);
                }
                if !["counter", "log", "last", "immediate", "byteorder", "bitwise"].contains(&name.as_str()) {
                    self.some_established_left = true;
                }
            }
            Expression::PayloadWrite
            | Expression::MetaWrite { .. }
            | Expression::Verdict(_)
            | Expression::Target { .. }
            | Expression::Object { .. } => {}
        }
    }

    fn payload(&self, base: Base, offset: u32, length: u32) -> Held {
        let address = |source, ipv4| Held::Address { source, ipv4, length, mask: None };
        match (base, self.family(), offset) {
            (Base::Network, Some(Family::Ipv4), 12) if (1..=4).contains(&length) => address(true, true),
            (Base::Network, Some(Family::Ipv4), 16) if (1..=4).contains(&length) => address(false, true),
            (Base::Network, Some(Family::Ipv6), 8) if (1..=16).contains(&length) => address(true, false),
            (Base::Network, Some(Family::Ipv6), 24) if (1..=16).contains(&length) => address(false, false),
            (Base::Network, Some(Family::Ipv4), 9) | (Base::Network, Some(Family::Ipv6), 6)
                if length == 1 =>
            {
                Held::Protocol
            }
            // Parts of addresses, and fragments, which are the stack's.
            (Base::Network, Some(Family::Ipv4), 6 | 12..=19)
            | (Base::Network, Some(Family::Ipv6), 8..=39) => Held::Unknown,
            (Base::Network, Some(_), _) => Held::Content("a header field"),
            (Base::Transport, _, 13) if length == 1 => Held::TcpFlags(u8::MAX),
            // Ports, or the kind of an ICMP message.
            (Base::Transport, _, 0..=3) if offset + length <= 4 => Held::Unknown,
            (Base::Transport, ..) => Held::Content("a header field"),
            (Base::Other, ..) => Held::Content("the payload"),
            (Base::Network, None, _) | (Base::Link, ..) => Held::Unknown,
        }
    }

    fn family(&self) -> Option<Family> {
        match self.table.0 {
            family::IPV4 => Some(Family::Ipv4),
            family::IPV6 => Some(Family::Ipv6),
            _ => self.packets.reach.family,
        }
    }

    fn compare(&mut self, held: Held, operator: Operator, value: &[u8]) {
        let equal = operator == Operator::Equal;
        match (held, operator) {
            (Held::State(mask), _) => self.state(mask, operator, host_order(value)),
            (Held::TcpFlags(mask), _) => {
                let value = value.first().copied().unwrap_or(0);
                let opening = match operator {
                    Operator::Equal => value & mask & OPENING_OR_CLOSING != 0,
                    Operator::NotEqual => value == 0 && mask & !OPENING_OR_CLOSING == 0,
                    Operator::Order => false,
                };
                self.packets.guard_leaves_them |= opening;
                self.some_established_left = true;
            }
            (Held::Address { source, ipv4, length, mask }, Operator::Equal | Operator::NotEqual) => {
                self.some_established_left = true;
                let Some(prefix) = address_prefix(ipv4, length, mask.as_deref(), value) else { return };
                self.addresses(source, vec![prefix], !equal);
            }
            (Held::Family, Operator::Equal) => {
                let found = match value.first() {
                    Some(&family::IPV4) => Some(Family::Ipv4),
                    Some(&family::IPV6) => Some(Family::Ipv6),
                    _ => None,
                };
                self.only(found);
            }
            (Held::EtherType, Operator::Equal) => {
                let found = match value {
                    [0x08, 0x00, ..] => Some(Family::Ipv4),
                    [0x86, 0xdd, ..] => Some(Family::Ipv6),
                    _ => None,
                };
                self.only(found);
            }
            (Held::Protocol, Operator::Equal) => {
                // ICMP of either family is the stack's.
                self.packets.guard_leaves_them |= matches!(value.first(), Some(1 | 58));
                self.some_established_left = true;
            }
            (Held::InterfaceName, Operator::Equal) => {
                let name = super::netlink::text(value);
                // A name is padded to IFNAMSIZ; what is shorter and not closed is a beginning.
                let found = if value.contains(&0) {
                    InterfaceMatch::Name(name)
                } else {
                    InterfaceMatch::Prefix(name)
                };
                self.packets.reach.by = Some(vec![found]);
                self.some_established_left = true;
            }
            (Held::InterfaceIndex, Operator::Equal) => {
                self.packets.reach.by = host_order(value).map(|index| vec![InterfaceMatch::Index(index)]);
                self.some_established_left = true;
            }
            _ => self.some_established_left = true,
        }
    }

    fn only(&mut self, family: Option<Family>) {
        self.some_established_left = true;
        if family.is_some() {
            self.packets.reach.family = family;
        }
    }

    fn addresses(&mut self, source: bool, prefixes: Vec<Prefix>, inverted: bool) {
        let reach = &mut self.packets.reach;
        let addresses = if source { &mut reach.from } else { &mut reach.to };
        if inverted {
            addresses.none_of.extend(prefixes);
        } else {
            addresses.narrow(prefixes);
        }
    }

    /// `mask` are the bits that were looked at.
    fn state(&mut self, mask: u32, operator: Operator, value: Option<u32>) {
        let admits_established = match (operator, value) {
            // Some of these bits.
            (Operator::NotEqual, Some(0)) => mask & ct::ESTABLISHED != 0,
            (Operator::Equal, Some(0)) => mask & ct::ESTABLISHED == 0,
            (Operator::Equal, Some(value)) => value & mask == ct::ESTABLISHED & mask,
            (Operator::NotEqual, Some(value)) => value & mask != ct::ESTABLISHED & mask,
            _ => {
                self.some_established_left = true;
                return;
            }
        };
        self.packets.guard_leaves_them |= !admits_established;
    }

    /// Whether the register holds the state of the connection, for a map of verdicts by it.
    pub fn is_state(&self, register: Register) -> bool {
        matches!(self.held.get(&register), Some(Held::State(_)))
    }

    fn look_up(&mut self, set: &str, register: Register, inverted: bool) {
        self.some_established_left = true;
        let found = self.ruleset.sets.get(&(self.table.clone(), set.to_owned()));
        let (Some(Held::Address { source, ipv4, length, mask: None }), Some(Set::Prefixes(prefixes))) =
            (self.held.get(&register), found)
        else {
            return;
        };
        let whole = if *ipv4 { 4 } else { 16 };
        let fits = |prefix: &Prefix| prefix.is_v4() == *ipv4;
        // A set that others may write to may hold more by the time that a packet comes; that is a change of rules.
        if *length == whole && prefixes.iter().all(fits) {
            let (source, prefixes) = (*source, prefixes.clone());
            self.addresses(source, prefixes, inverted);
        }
    }

    fn extension(&mut self, name: &str, revision: u32, parameters: &[u8]) {
        match (name, revision) {
            ("comment", _) => {}
            ("state", 0) => {
                let mask = host_order(parameters).unwrap_or(u32::MAX);
                self.state(mask, Operator::NotEqual, Some(0));
            }
            ("conntrack", 2 | 3) => {
                // struct xt_conntrack_mtinfo2 and 3: eight addresses, expiry, protocol and four ports come first.
                const MATCHED: usize = 146;
                const STATE: u16 = 1;
                let half = |at: usize| {
                    parameters
                        .get(at..at + 2)
                        .and_then(|octets| octets.first_chunk().copied())
                        .map(u16::from_ne_bytes)
                };
                let (Some(matched), Some(inverted), Some(mask)) =
                    (half(MATCHED), half(MATCHED + 2), half(MATCHED + 4))
                else {
                    self.some_established_left = true;
                    return;
                };
                if matched & STATE != 0 {
                    let mask = if inverted & STATE != 0 { !mask } else { mask };
                    self.state(u32::from(mask), Operator::NotEqual, Some(0));
                }
                self.some_established_left |= matched != STATE;
            }
            ("tcp", _) => {
                // struct xt_tcp: two ranges of ports and an option come first.
                self.some_established_left = true;
                if let Some([_, compared, inverted]) = parameters.get(9..12)
                    && inverted & 0x04 == 0
                {
                    self.packets.guard_leaves_them |= compared & OPENING_OR_CLOSING != 0;
                }
            }
            ("icmp" | "icmp6", _) => {
                self.packets.guard_leaves_them = true;
                self.some_established_left = true;
            }
            _ => self.some_established_left = true,
        }
    }
}

fn host_order(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

/// `ip saddr 10.0.0.0/8` compares one octet, others come with a mask.
fn address_prefix(ipv4: bool, length: u32, mask: Option<&[u8]>, value: &[u8]) -> Option<Prefix> {
    let value = value.get(..length as usize)?;
    let bits = match mask {
        None => length * 8,
        Some(mask) => {
            let ones = mask.iter().take_while(|octet| **octet == 0xff).count();
            let next = mask.get(ones).copied().unwrap_or(0);
            let rest = mask.get(ones + 1..).unwrap_or_default();
            let contiguous = next.leading_ones() + next.trailing_zeros() == 8 || next == 0;
            if !contiguous || rest.iter().any(|octet| *octet != 0) {
                return None;
            }
            ones as u32 * 8 + next.leading_ones()
        }
    };
    let bits = u8::try_from(bits).ok()?;
    if ipv4 {
        let mut octets = [0; 4];
        octets.get_mut(..value.len())?.copy_from_slice(value);
        Prefix::new(Ipv4Addr::from(octets).into(), bits)
    } else {
        let mut octets = [0; 16];
        octets.get_mut(..value.len())?.copy_from_slice(value);
        Prefix::new(Ipv6Addr::from(octets).into(), bits)
    }
}
