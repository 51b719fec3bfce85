//! Expressions of nftables' rules, as far as anything is concluded from them. Numbers are those of
//! `<linux/netfilter/nf_tables.h>`.

use super::netlink::{Attributes, number, text};

/// By 4 octets, numbered as the kernel does (`nft_parse_register`): 4 is the first that holds data.
pub(super) type Register = u32;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        to: Register,
    },
    /// Changes the packet.
    PayloadWrite,
    Meta {
        key: u32,
        to: Register,
    },
    MetaWrite {
        key: u32,
    },
    Ct {
        key: u32,
        to: Register,
    },
    CtWrite {
        key: u32,
    },
    /// A question to the kernel's FIB.
    Fib {
        result: u32,
        flags: u32,
        to: Register,
    },
    Compare {
        register: Register,
        operator: Operator,
        value: Vec<u8>,
    },
    Mask {
        from: Register,
        to: Register,
        mask: Vec<u8>,
    },
    Lookup {
        set: String,
        register: Register,
        inverted: bool,
        /// Where a map's answer goes, if it is no verdict.
        to: Option<Register>,
    },
    /// Puts what the packet brings into a set.
    Fill {
        set: String,
    },
    Verdict(Verdict),
    /// A match of iptables, by name and with its parameters.
    Match {
        name: String,
        revision: u32,
        parameters: Vec<u8>,
    },
    Target {
        name: String,
        parameters: Vec<u8>,
    },
    /// A named object of this type.
    Object {
        kind: u32,
    },
    /// One that is looked up by what the packet brings.
    ObjectOf {
        map: String,
    },
    /// Anything else, which may write to this register.
    Other {
        name: String,
        to: Option<Register>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Link,
    Network,
    Transport,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Order,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Drop,
    Queue,
    /// And back, to the next rule.
    Jump(String),
    /// And back to where this chain was called from.
    Goto(String),
    Return,
    /// To the next rule.
    GoesOn,
}

pub(super) mod meta {
    pub const LENGTH: u32 = 0;
    pub const PROTOCOL: u32 = 1;
    pub const PRIORITY: u32 = 2;
    pub const MARK: u32 = 3;
    pub const IIF: u32 = 4;
    pub const OIF: u32 = 5;
    pub const IIFNAME: u32 = 6;
    pub const OIFNAME: u32 = 7;
    pub const NFPROTO: u32 = 15;
    pub const L4PROTO: u32 = 16;
    pub const PRANDOM: u32 = 24;
    /// Nanoseconds, day and hour.
    pub const TIMES: std::ops::RangeInclusive<u32> = 30..=32;
}

pub(super) mod ct {
    pub const STATE: u32 = 0;
    pub const PACKETS: u32 = 14;
    pub const BYTES: u32 = 15;
    pub const AVERAGE: u32 = 16;
    pub const ZONE: u32 = 17;
    /// `NF_CT_STATE_BIT(IP_CT_ESTABLISHED)`.
    pub const ESTABLISHED: u32 = 1 << 1;
}

/// `NFTA_FIB_F_*` and `NFT_FIB_RESULT_*`.
pub(super) mod fib {
    pub const SOURCE: u32 = 1;
    pub const IIF: u32 = 1 << 3;
    pub const OIF_NUMBER: u32 = 1;
    pub const OIF_NAME: u32 = 2;
    pub const ADDRESS_TYPE: u32 = 3;
}

pub(super) mod object {
    pub const QUOTA: u32 = 2;
    pub const LIMIT: u32 = 4;
    pub const SYNPROXY: u32 = 10;
    pub const TIMEOUT: u32 = 7;
    pub const TRACKING: [u32; 4] = [3, 5, TIMEOUT, 9];
}

impl Expression {
    /// From `NFTA_EXPR_*`.
    pub fn read(attributes: Attributes<'_>) -> Expression {
        let name = attributes.text(1);
        let inside = attributes.nested(2);
        let register = |kind| inside.number(kind).map(slot);
        let octets = |kind| inside.nested(kind).find_kind(1).unwrap_or_default().to_vec();
        let read = match name.as_str() {
            "payload" if inside.find_kind(5).is_some() => Some(Expression::PayloadWrite),
            "payload" => register(1).map(|to| Expression::Payload {
                base: match inside.number(2) {
                    Some(0) => Base::Link,
                    Some(1) => Base::Network,
                    Some(2) => Base::Transport,
                    _ => Base::Other,
                },
                offset: inside.number(3).unwrap_or(u32::MAX),
                length: inside.number(4).unwrap_or(0),
                to,
            }),
            "meta" => match (inside.number(2), register(1), inside.find_kind(3)) {
                (Some(key), _, Some(_)) => Some(Expression::MetaWrite { key }),
                (Some(key), Some(to), None) => Some(Expression::Meta { key, to }),
                _ => None,
            },
            "ct" => match (inside.number(2), register(1), inside.find_kind(4)) {
                (Some(key), _, Some(_)) => Some(Expression::CtWrite { key }),
                (Some(key), Some(to), None) => Some(Expression::Ct { key, to }),
                _ => None,
            },
            "fib" => register(1).map(|to| Expression::Fib {
                result: inside.number(2).unwrap_or(0),
                flags: inside.number(3).unwrap_or(0),
                to,
            }),
            "cmp" => register(1).map(|register| Expression::Compare {
                register,
                operator: match inside.number(2) {
                    Some(0) => Operator::Equal,
                    Some(1) => Operator::NotEqual,
                    _ => Operator::Order,
                },
                value: octets(3),
            }),
            // Operation 0, or none named: and a mask, exclusive-or a value.
            "bitwise" if inside.number(6).unwrap_or(0) == 0 && octets(5).iter().all(|octet| *octet == 0) => {
                match (register(1), register(2)) {
                    (Some(from), Some(to)) => Some(Expression::Mask { from, to, mask: octets(4) }),
                    _ => None,
                }
            }
            "lookup" => register(2).map(|register| Expression::Lookup {
                set: inside.text(1),
                register,
                inverted: inside.number(5).unwrap_or(0) & 1 != 0,
                // 0 is the verdict.
                to: inside.number(3).filter(|to| *to != 0).map(slot),
            }),
            "dynset" => Some(Expression::Fill { set: inside.text(1) }),
            "immediate" => {
                let verdict = inside.nested(2).find_kind(2);
                verdict.map(|verdict| Expression::Verdict(Verdict::read(Attributes(verdict))))
            }
            "queue" => Some(Expression::Verdict(Verdict::Queue)),
            "match" => Some(Expression::Match {
                name: inside.text(1),
                revision: inside.number(2).unwrap_or(0),
                parameters: inside.find_kind(3).unwrap_or_default().to_vec(),
            }),
            "target" => Some(Expression::Target {
                name: inside.text(1),
                parameters: inside.find_kind(3).unwrap_or_default().to_vec(),
            }),
            "objref" => Some(match inside.number(1) {
                Some(kind) => Expression::Object { kind },
                None => Expression::ObjectOf { map: inside.text(4) },
            }),
            _ => None,
        };
        read.unwrap_or_else(|| {
            let to = match name.as_str() {
                "bitwise" | "byteorder" => register(2),
                "immediate" | "payload" | "meta" | "ct" | "exthdr" | "rt" | "numgen" | "socket" | "osf"
                | "xfrm" | "tunnel" => register(1),
                "hash" => register(2),
                _ => None,
            };
            Expression::Other { name, to }
        })
    }
}

impl Verdict {
    /// From `NFTA_VERDICT_*`.
    pub fn read(attributes: Attributes<'_>) -> Verdict {
        const JUMP: i32 = -3;
        const GOTO: i32 = -4;
        const RETURN: i32 = -5;
        let chain = || attributes.find_kind(2).map(text).unwrap_or_default();
        // The upper half of NF_QUEUE names the queue.
        match attributes.find_kind(1).and_then(number).map(u32::cast_signed) {
            Some(0) => Verdict::Drop,
            Some(1) => Verdict::Accept,
            Some(JUMP) => Verdict::Jump(chain()),
            Some(GOTO) => Verdict::Goto(chain()),
            Some(RETURN) => Verdict::Return,
            Some(code) if code > 0 && code & 0xff == 3 => Verdict::Queue,
            _ => Verdict::GoesOn,
        }
    }
}

/// Registers of 16 octets have the numbers 1 to 4, those of 4 octets 8 to 23, in the same place.
fn slot(register: u32) -> Register {
    if register < 8 { register * 4 } else { register - 4 }
}
