//! Policy rules (`ip rule`): which table is asked for a route. Ours are in one table, and the programs know no other:
//! what a rule sends to another table they must not carry.

use std::fmt::Write;

use manx_net::Prefix;
use rtnetlink::packet_route::{
    AddressFamily,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};

use super::{TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::reach::{Addresses, Family, InterfaceMatch, Reach};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    pub priority: u32,
    /// Of forwarded packets; None: it meets none of them.
    pub reach: Option<Reach>,
    /// It meets packets with a mark only, as netfilter's rules set it: by itself a packet has none.
    pub needs_mark: bool,
    /// As `ip rule` prints it.
    pub text: String,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Table(u32),
    Nothing,
    /// Skips rules, or refuses the packet.
    Other,
}

impl PolicyRule {
    /// The forwarded packets that it may route otherwise than the tables that everybody has and `table`, ours.
    pub fn diverts(&self, table: u32) -> Option<&Reach> {
        let usual = match self.action {
            Action::Table(to) => [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT, table].contains(&to),
            Action::Nothing => true,
            Action::Other => false,
        };
        self.reach.as_ref().filter(|_| !usual)
    }
}

/// None for a family that is not IP's.
pub(super) fn policy_rule(message: RuleMessage) -> Option<PolicyRule> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    let mut reach = Reach { family: Some(family), ..Reach::default() };
    let (mut priority, mut table) = (0, u32::from(message.header.table));
    let (mut mark, mut mask, mut local_only, mut of_vrf) = (None, u32::MAX, false, false);
    let inverted = message.header.flags.contains(RuleFlags::Invert);
    let mut text = String::from(if inverted { "not " } else { "" });
    let mut more = String::new();
    // Writing to a String cannot fail; so below.
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => {
                let prefix = Prefix::new(*address, message.header.src_len)?;
                reach.from = Addresses { any_of: Some(vec![prefix]), none_of: Vec::new() };
            }
            RuleAttribute::Destination(address) => {
                let prefix = Prefix::new(*address, message.header.dst_len)?;
                reach.to = Addresses { any_of: Some(vec![prefix]), none_of: Vec::new() };
                let _ = write!(more, " to {prefix}");
            }
            RuleAttribute::Iifname(name) => {
                // What this host itself sends comes "from lo".
                local_only |= name == "lo";
                let _ = write!(more, " iif {name}");
                reach.by = InterfaceMatch::Name(name.clone()).into();
            }
            RuleAttribute::Oifname(name) => {
                // Sockets that are bound to an interface; a forwarded packet has none (`fib_rule_match`).
                local_only = true;
                let _ = write!(more, " oif {name}");
            }
            RuleAttribute::Priority(value) => priority = *value,
            RuleAttribute::Table(value) => table = *value,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::L3MDev(true) => {
                // For what comes by an interface that belongs to a VRF: those are looked at one by one.
                of_vrf = true;
                more.push_str(" [l3mdev-table]");
            }
            RuleAttribute::UidRange(range) => {
                let _ = write!(more, " uidrange {}-{}", range.start, range.end);
            }
            RuleAttribute::IpProtocol(protocol) => {
                let _ = write!(more, " ipproto {}", u8::from(*protocol));
            }
            RuleAttribute::SourcePortRange(range) => {
                let _ = write!(more, " sport {}-{}", range.start, range.end);
            }
            RuleAttribute::DestinationPortRange(range) => {
                let _ = write!(more, " dport {}-{}", range.start, range.end);
            }
            _ => {}
        }
    }
    match &reach.from.any_of {
        Some(from) => text.extend(from.iter().map(|prefix| format!("from {prefix}"))),
        None => text.push_str("from all"),
    }
    if let Some(mark) = mark {
        let _ = write!(text, " fwmark {mark:#x}");
        if mask != u32::MAX {
            let _ = write!(text, "/{mask:#x}");
        }
    }
    text.push_str(&more);
    let action = match message.header.action {
        RuleAction::ToTable => {
            let _ = match table {
                TABLE_LOCAL => write!(text, " lookup local"),
                TABLE_MAIN => write!(text, " lookup main"),
                TABLE_DEFAULT => write!(text, " lookup default"),
                table => write!(text, " lookup {table}"),
            };
            Action::Table(table)
        }
        RuleAction::Nop => {
            text.push_str(" nop");
            Action::Nothing
        }
        other => {
            let _ = write!(text, " {}", format!("{other:?}").to_lowercase());
            Action::Other
        }
    };
    let needs_mark = !inverted && mark.is_some_and(|mark| mark & mask != 0);
    let reach = match (inverted, local_only || of_vrf) {
        // All but those that it names.
        (true, _) => Some(Reach { family: Some(family), ..Reach::default() }),
        (false, true) => None,
        (false, false) => Some(reach),
    };
    Some(PolicyRule { priority, reach, needs_mark, text: format!("{priority}: {text}"), action })
}
