//! What the matches of a rule leave of the packets that come to it: a walk over its expressions that remembers what
//! the registers hold.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use manx_net::Prefix;

use super::{
    expression::{Base, Expression, Operator, Register, Verdict, ct, fib, meta},
    ruleset::{Key, Ruleset, Set, TableKey, family},
};
use crate::reach::{Addresses, Family, InterfaceMatch, Interfaces, Reach};

/// Flags of TCP by which the guard leaves a packet to the stack: FIN, SYN and RST.
const OPENING_OR_CLOSING: u8 = 0x07;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Matches of iptables by what is the same for all packets that a flow has in one direction. Not so `set`: an ipset changes
/// without an event, and its elements may expire.
const BY_FLOW: [&str; 9] =
    ["addrtype", "comment", "iprange", "mac", "multiport", "physdev", "pkttype", "sctp", "udp"];

/// The packets that a place in the rules is met by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packets {
    pub reach: Reach,
    /// None of them belongs to an established flow as the guard carries it: it leaves them to the stack anyway.
    pub guard_leaves_them: bool,
    /// Whether one is met is the same for all packets that its flow has in this direction.
    pub by_flow: bool,
    /// `reach` says all of what was asked of them.
    pub exact: bool,
    /// The kernel has no way back to their source.
    pub no_way_back: Option<WayBack>,
}

impl Default for Packets {
    fn default() -> Packets {
        Packets {
            reach: Reach::default(),
            guard_leaves_them: false,
            by_flow: true,
            exact: true,
            no_way_back: None,
        }
    }
}

/// How a source's route has to lead back (RFC 3704 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WayBack {
    /// By the interface that the packet came by.
    Strict,
    /// By any.
    Loose,
}

/// The one condition of a rule, if it has no other: what it takes away, the rules after it do not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sole {
    By(InterfaceMatch),
    Out(InterfaceMatch),
    From(Vec<Prefix>),
    To(Vec<Prefix>),
}

impl Sole {
    pub fn exclude(self, reach: &mut Reach) {
        match self {
            Sole::By(one) => reach.by.none_of.push(one),
            Sole::Out(one) => reach.out.none_of.push(one),
            Sole::From(prefixes) => reach.from.none_of.extend(prefixes),
            Sole::To(prefixes) => reach.to.none_of.extend(prefixes),
        }
    }
}

/// Of a rule, while its expressions are read in order.
#[derive(Clone)]
pub(super) struct Narrowing<'r> {
    ruleset: &'r Ruleset,
    table: &'r TableKey,
    pub packets: Packets,
    /// Some packet of an established flow may not have come so far.
    pub some_established_left: bool,
    /// What was looked at that differs among the packets of a flow.
    pub content: Option<Cow<'static, str>>,
    held: HashMap<Register, Held>,
    /// Matches other than by family, and the one that narrowed the reach last.
    conditions: usize,
    names_family: bool,
    sole: Option<Sole>,
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
    InterfaceName {
        out: bool,
    },
    InterfaceIndex {
        out: bool,
    },
    /// Something else that is the same for all packets that a flow has in one direction.
    Flow,
    /// The interface of the route to the source, asked by the one that the packet came by or by none.
    Back(WayBack),
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
            conditions: 0,
            names_family: false,
            sole: None,
        }
    }

    /// Of a rule without other conditions: what its verdict takes is this.
    pub fn sole(&self) -> Option<Sole> {
        let of_addresses = matches!(self.sole, Some(Sole::From(_) | Sole::To(_)));
        // The match by family is part of that by address.
        self.sole.clone().filter(|_| self.conditions == 1 && (of_addresses || !self.names_family))
    }

    /// The rule has no condition.
    pub fn takes_all(&self) -> bool {
        self.conditions == 0 && !self.names_family
    }

    /// A match that `reach` does not say.
    fn beyond_reach(&mut self) {
        self.conditions += 1;
        self.packets.exact = false;
        self.some_established_left = true;
    }

    /// One that may differ among the packets of a flow.
    fn by_packet(&mut self) {
        self.packets.by_flow = false;
        self.beyond_reach();
    }

    fn hold(&mut self, register: Register, held: Held) {
        if let Held::Content(what) = held {
            self.content = Some(Cow::Borrowed(what));
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
                    meta::IIFNAME => Held::InterfaceName { out: false },
                    meta::OIFNAME => Held::InterfaceName { out: true },
                    meta::IIF => Held::InterfaceIndex { out: false },
                    meta::OIF => Held::InterfaceIndex { out: true },
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
            Expression::Fib { result, flags, to } => {
                let held = match *result {
                    fib::ADDRESS_TYPE => Held::Flow,
                    fib::OIF_NUMBER | fib::OIF_NAME if flags & fib::SOURCE != 0 => {
                        Held::Back(if flags & fib::IIF != 0 { WayBack::Strict } else { WayBack::Loose })
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
                    Some(Held::Flow) => Held::Flow,
                    _ => Held::Unknown,
                };
                self.hold(*to, held);
            }
            Expression::Compare { register, operator, value } => {
                let held = self.held.get(register).cloned().unwrap_or(Held::Unknown);
                self.compare(held, *operator, value);
            }
            Expression::Lookup { set, register, inverted, to } => {
                self.look_up(set, *register, *inverted);
                to.iter().copied().for_each(|to| self.hold(to, Held::Unknown));
            }
            Expression::Match { name, revision, parameters } => self.extension(name, *revision, parameters),
            Expression::Other { name, to } => {
                if let Some(to) = to {
                    self.hold(*to, Held::Unknown);
                }
                match name.as_str() {
                    "counter" | "log" | "last" | "immediate" | "byteorder" | "bitwise" | "reject" => {}
                    "range" if self.holds_flow_only() => self.beyond_reach(),
                    _ => self.by_packet(),
                }
            }
            Expression::PayloadWrite
            | Expression::MetaWrite { .. }
            | Expression::CtWrite { .. }
            | Expression::Verdict(_)
            | Expression::Target { .. }
            | Expression::Object { .. }
            | Expression::ObjectOf { .. } => {}
            // A set that is full takes no more, and the rule ends there.
            Expression::Fill { .. } => self.by_packet(),
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
            (Base::Network, Some(Family::Ipv4), 12..=19) | (Base::Network, Some(Family::Ipv6), 8..=39) => {
                Held::Flow
            }
            (Base::Network, Some(Family::Ipv4), 6) => Held::Unknown,
            (Base::Network, Some(_), _) => Held::Content("a header field"),
            (Base::Transport, _, 13) if length == 1 => Held::TcpFlags(u8::MAX),
            // Ports, or the kind of an ICMP message.
            (Base::Transport, _, 0..=3) if offset + length <= 4 => Held::Flow,
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
                self.by_packet();
            }
            (Held::Address { source, ipv4, length, mask }, Operator::Equal | Operator::NotEqual) => {
                match address_prefix(ipv4, length, mask.as_deref(), value) {
                    Some(prefix) => self.addresses(source, vec![prefix], !equal),
                    None => self.beyond_reach(),
                }
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
                // What is neither TCP nor UDP is the stack's.
                match value.first() {
                    Some(&TCP | &UDP) | None => {}
                    Some(_) => self.packets.guard_leaves_them = true,
                }
                self.beyond_reach();
            }
            (Held::InterfaceName { out }, Operator::Equal | Operator::NotEqual) => {
                let name = super::netlink::text(value);
                // A name is padded to IFNAMSIZ; what is shorter and not closed is a beginning.
                let found = if value.contains(&0) {
                    InterfaceMatch::Name(name)
                } else {
                    InterfaceMatch::Prefix(name)
                };
                self.interface(out, found, equal);
            }
            (Held::InterfaceIndex { out }, Operator::Equal | Operator::NotEqual) => match host_order(value) {
                Some(index) => self.interface(out, InterfaceMatch::Index(index), equal),
                None => self.by_packet(),
            },
            // No interface, or a name without letters.
            (Held::Back(how), Operator::Equal) if value.iter().all(|octet| *octet == 0) => {
                self.packets.no_way_back = Some(how);
                self.by_packet();
            }
            (
                Held::Flow
                | Held::Address { .. }
                | Held::Family
                | Held::EtherType
                | Held::Protocol
                | Held::InterfaceName { .. }
                | Held::InterfaceIndex { .. },
                _,
            ) => self.beyond_reach(),
            (Held::Back(_) | Held::Content(_) | Held::Unknown, _) => self.by_packet(),
        }
    }

    fn only(&mut self, family: Option<Family>) {
        self.some_established_left = true;
        self.names_family = true;
        match family {
            Some(family) => self.packets.reach.family = Some(family),
            None => self.packets.exact = false,
        }
    }

    fn addresses(&mut self, source: bool, prefixes: Vec<Prefix>, inverted: bool) {
        self.conditions += 1;
        self.some_established_left = true;
        let sole = if source { Sole::From } else { Sole::To };
        self.sole = (!inverted).then(|| sole(prefixes.clone()));
        let reach = &mut self.packets.reach;
        let addresses: &mut Addresses = if source { &mut reach.from } else { &mut reach.to };
        if inverted {
            addresses.none_of.extend(prefixes);
        } else {
            addresses.narrow(prefixes);
        }
    }

    fn interface(&mut self, out: bool, found: InterfaceMatch, equal: bool) {
        self.conditions += 1;
        self.some_established_left = true;
        let sole = if out { Sole::Out } else { Sole::By };
        self.sole = equal.then(|| sole(found.clone()));
        let reach = &mut self.packets.reach;
        let interfaces: &mut Interfaces = if out { &mut reach.out } else { &mut reach.by };
        if !equal {
            interfaces.none_of.push(found);
            return;
        }
        // One that an earlier match does not cover leaves nobody; which of the two is kept does not matter then.
        self.packets.exact &=
            interfaces.any_of.as_ref().is_none_or(|any| any.iter().all(|had| had.covers(&found)));
        interfaces.any_of = Some(vec![found]);
    }

    /// `mask` are the bits that were looked at.
    fn state(&mut self, mask: u32, operator: Operator, value: Option<u32>) {
        let admits_established = match (operator, value) {
            // Some of these bits.
            (Operator::NotEqual, Some(0)) => mask & ct::ESTABLISHED != 0,
            (Operator::Equal, Some(0)) => mask & ct::ESTABLISHED == 0,
            (Operator::Equal, Some(value)) => value & mask == ct::ESTABLISHED & mask,
            (Operator::NotEqual, Some(value)) => value & mask != ct::ESTABLISHED & mask,
            _ => return self.by_packet(),
        };
        self.of_states(admits_established);
    }

    fn of_states(&mut self, admits_established: bool) {
        self.packets.guard_leaves_them |= !admits_established;
        self.packets.by_flow = false;
        self.packets.exact = false;
        self.conditions += 1;
    }

    /// Whether the register holds the whole state of the connection, for a map of verdicts by it.
    pub fn is_state(&self, register: Register) -> bool {
        matches!(self.held.get(&register), Some(Held::State(u32::MAX)))
    }

    /// The interface of this name, if the register holds one of the packet's: `true` for that by which it leaves.
    pub fn interface_at(&self, register: Register) -> Option<bool> {
        match self.held.get(&register) {
            Some(Held::InterfaceName { out }) => Some(*out),
            _ => None,
        }
    }

    /// As if the rule asked for this interface, and nothing else if it asked for nothing else.
    pub fn by_interface(&mut self, out: bool, name: &[u8]) {
        // The lookup itself is the condition.
        self.conditions = self.conditions.saturating_sub(1);
        self.interface(out, InterfaceMatch::Name(super::netlink::text(name)), true);
    }

    /// As if the rule asked for none of the interfaces that the map names.
    pub fn by_none_of(&mut self, out: bool, elements: &[(Key, Verdict)]) {
        let reach = &mut self.packets.reach;
        let interfaces: &mut Interfaces = if out { &mut reach.out } else { &mut reach.by };
        interfaces.none_of.extend(elements.iter().filter_map(|(key, _)| match key {
            Key::Exact(name) => Some(InterfaceMatch::Name(super::netlink::text(name))),
            Key::Several | Key::Others => None,
        }));
    }

    /// What registers hold may be looked up together: the first only is named.
    fn holds_flow_only(&self) -> bool {
        !self.held.values().any(|held| {
            matches!(
                held,
                Held::State(_) | Held::TcpFlags(_) | Held::Content(_) | Held::Back(_) | Held::Unknown
            )
        })
    }

    fn look_up(&mut self, set: &str, register: Register, inverted: bool) {
        let found = self.ruleset.sets.get(&(self.table.clone(), set.to_owned()));
        if let Some(Set::Unread { why, .. }) = found
            && let Some(what) = why.changes(set)
        {
            self.content = Some(Cow::Owned(what));
            return self.by_packet();
        }
        if let (Some(Held::State(mask)), Some(Set::Prefixes(states))) = (self.held.get(&register), found) {
            let established = (ct::ESTABLISHED & mask).to_ne_bytes();
            // Four octets are read as an address.
            let named = states.iter().any(|state| state.addr() == Ipv4Addr::from(established));
            return self.of_states(named != inverted);
        }
        let (Some(Held::Address { source, ipv4, length, mask: None }), Some(Set::Prefixes(prefixes))) =
            (self.held.get(&register), found)
        else {
            return if self.holds_flow_only() { self.beyond_reach() } else { self.by_packet() };
        };
        let whole = if *ipv4 { 4 } else { 16 };
        let fits = |prefix: &Prefix| prefix.is_v4() == *ipv4;
        // A set that others may write to may hold more by the time that a packet comes; that is a change of rules.
        if *length == whole && prefixes.iter().all(fits) {
            let (source, prefixes) = (*source, prefixes.clone());
            self.addresses(source, prefixes, inverted);
        } else {
            self.beyond_reach();
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
                    return self.by_packet();
                };
                if matched & STATE != 0 {
                    let mask = if inverted & STATE != 0 { !mask } else { mask };
                    self.state(u32::from(mask), Operator::NotEqual, Some(0));
                }
                if matched != STATE {
                    self.by_packet();
                }
            }
            ("tcp", _) => {
                // struct xt_tcp: two ranges of ports come first; then an option, the flags and what is inverted.
                match parameters.get(8..12) {
                    Some([0, 0, ..]) => self.beyond_reach(),
                    Some([_, _, compared, inverted]) => {
                        self.packets.guard_leaves_them |=
                            inverted & 0x04 == 0 && compared & OPENING_OR_CLOSING != 0;
                        self.by_packet();
                    }
                    _ => self.by_packet(),
                }
            }
            ("icmp" | "icmp6", _) => {
                self.packets.guard_leaves_them = true;
                self.beyond_reach();
            }
            ("rpfilter", 0) => {
                // struct xt_rpfilter_info.
                const LOOSE: u8 = 1;
                const INVERT: u8 = 8;
                if let Some(flags) = parameters.first().filter(|flags| *flags & INVERT != 0) {
                    let how = if flags & LOOSE != 0 { WayBack::Loose } else { WayBack::Strict };
                    self.packets.no_way_back = Some(how);
                }
                self.by_packet();
            }
            (name, _) if BY_FLOW.contains(&name) => self.beyond_reach(),
            _ => self.by_packet(),
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
