//! Path attributes: one value per distinct set, compared and hashed as a whole, so that a set exists once in
//! memory however many routes share it. Reading them from the wire is in [`parse`], writing in [`encode`].

pub mod as_path;
pub mod encode;
pub mod parse;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use manx_net::Asn;

use crate::{config::WellKnown, view::AttributesView};
use as_path::AsPath;

/// Attribute type codes (IANA "BGP Path Attributes").
pub mod code {
    pub const ORIGIN: u8 = 1;
    pub const AS_PATH: u8 = 2;
    pub const NEXT_HOP: u8 = 3;
    pub const MED: u8 = 4;
    pub const LOCAL_PREF: u8 = 5;
    pub const ATOMIC_AGGREGATE: u8 = 6;
    pub const AGGREGATOR: u8 = 7;
    pub const COMMUNITIES: u8 = 8;
    pub const ORIGINATOR_ID: u8 = 9;
    pub const CLUSTER_LIST: u8 = 10;
    pub const MP_REACH: u8 = 14;
    pub const MP_UNREACH: u8 = 15;
    pub const EXTENDED_COMMUNITIES: u8 = 16;
    pub const AS4_PATH: u8 = 17;
    pub const AS4_AGGREGATOR: u8 = 18;
    pub const AIGP: u8 = 26;
    pub const LARGE_COMMUNITIES: u8 = 32;
    pub const ONLY_TO_CUSTOMERS: u8 = 35;
    pub const PREFIX_SID: u8 = 40;
}

/// As the RFCs write it, or by number.
pub fn name(code: u8) -> std::borrow::Cow<'static, str> {
    std::borrow::Cow::Borrowed(match code {
        code::ORIGIN => "ORIGIN",
        code::AS_PATH => "AS_PATH",
        code::NEXT_HOP => "NEXT_HOP",
        code::MED => "MULTI_EXIT_DISC",
        code::LOCAL_PREF => "LOCAL_PREF",
        code::ATOMIC_AGGREGATE => "ATOMIC_AGGREGATE",
        code::AGGREGATOR => "AGGREGATOR",
        code::COMMUNITIES => "COMMUNITIES",
        code::ORIGINATOR_ID => "ORIGINATOR_ID",
        code::CLUSTER_LIST => "CLUSTER_LIST",
        code::MP_REACH => "MP_REACH_NLRI",
        code::MP_UNREACH => "MP_UNREACH_NLRI",
        code::EXTENDED_COMMUNITIES => "EXTENDED COMMUNITIES",
        code::AS4_PATH => "AS4_PATH",
        code::AS4_AGGREGATOR => "AS4_AGGREGATOR",
        code::AIGP => "AIGP",
        code::LARGE_COMMUNITIES => "LARGE_COMMUNITY",
        code::ONLY_TO_CUSTOMERS => "ONLY_TO_CUSTOMER",
        code::PREFIX_SID => "PREFIX_SID",
        other => return std::borrow::Cow::Owned(format!("attribute {other}")),
    })
}

/// Attribute flag bits (RFC 4271 §4.3).
pub mod flag {
    pub const OPTIONAL: u8 = 0x80;
    pub const TRANSITIVE: u8 = 0x40;
    pub const PARTIAL: u8 = 0x20;
    pub const EXTENDED_LENGTH: u8 = 0x10;
}

/// The optional transitive attributes among those that Manx knows which somebody on the way did not: they go on with
/// the Partial bit that they came with (RFC 4271 §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PartialOnes(u8);

impl PartialOnes {
    /// No attribute without a bit has the flag kept: AS4_PATH and AS4_AGGREGATOR are made anew where they are sent.
    const fn bit(code: u8) -> u8 {
        match code {
            code::AGGREGATOR => 1,
            code::COMMUNITIES => 1 << 1,
            code::EXTENDED_COMMUNITIES => 1 << 2,
            code::LARGE_COMMUNITIES => 1 << 3,
            code::ONLY_TO_CUSTOMERS => 1 << 4,
            _ => 0,
        }
    }

    pub fn add(&mut self, code: u8) {
        self.0 |= PartialOnes::bit(code);
    }

    /// For the attribute's flags.
    pub const fn flag(self, code: u8) -> u8 {
        if self.0 & PartialOnes::bit(code) != 0 { flag::PARTIAL } else { 0 }
    }
}

/// The lower wins (RFC 4271 §9.1.2.2 b).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    Igp = 0,
    Egp = 1,
    Incomplete = 2,
}

/// What a route carries, in the sense that Manx gives it: four-octet AS numbers merged, no attribute that the
/// session's kind does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    pub origin: Origin,
    pub as_path: AsPath,
    /// Global where there is a global one, else link-local.
    pub next_hop: IpAddr,
    pub med: Option<u32>,
    /// Never from eBGP.
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    pub aggregator: Option<(Asn, Ipv4Addr)>,
    pub communities: Box<[u32]>,
    pub extended: Box<[u64]>,
    pub large: Box<[[u32; 3]]>,
    /// Never from eBGP.
    pub originator_id: Option<Ipv4Addr>,
    /// Never from eBGP. The reflector nearest to us first.
    pub cluster_list: Box<[Ipv4Addr]>,
    /// RFC 9234 §5: the AS that said so.
    pub only_to_customers: Option<u32>,
    pub partial: PartialOnes,
    /// Optional transitive ones, in the order of their codes.
    pub unknown: Box<[Unknown]>,
    /// What this one was made of, if no peer sent it as it is.
    pub received: Option<Box<Received>>,
}

/// What a peer sent, and what is known of it here beside that.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Received {
    pub set: Arc<Attributes>,
    /// By which the next hop is reached; known where some rule asks.
    pub interface: Option<Arc<str>>,
}

/// An attribute that we pass on without knowing it (RFC 4271 §9).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unknown {
    pub code: u8,
    pub value: Box<[u8]>,
}

/// RFC 4271 §9.1.1 leaves the preference of a route without LOCAL_PREF to policy; everybody's policy is 100.
pub const DEFAULT_LOCAL_PREF: u32 = 100;

impl Attributes {
    /// Of a route of our own. Its next hop is each session's own address, and stands in no set.
    pub fn own(communities: &[u32]) -> Attributes {
        Attributes {
            origin: Origin::Igp,
            as_path: AsPath::default(),
            next_hop: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: communities.into(),
            extended: Box::default(),
            large: Box::default(),
            originator_id: None,
            cluster_list: Box::default(),
            only_to_customers: None,
            partial: PartialOnes::default(),
            unknown: Box::default(),
            received: None,
        }
    }

    /// The set before our rules changed it.
    pub fn as_received(self: &Arc<Self>) -> &Arc<Attributes> {
        self.received.as_ref().map_or(self, |received| &received.set)
    }

    /// By which the next hop is reached, if some rule asks and it is known.
    pub fn interface(&self) -> Option<&str> {
        self.received.as_ref()?.interface.as_deref()
    }

    pub fn local_pref(&self) -> u32 {
        self.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
    }

    pub fn has_community(&self, community: u32) -> bool {
        self.communities.contains(&community)
    }

    pub fn view(&self) -> AttributesView {
        AttributesView {
            origin: match self.origin {
                Origin::Igp => "IGP",
                Origin::Egp => "EGP",
                Origin::Incomplete => "Incomplete",
            },
            as_path: self.as_path.to_string(),
            med: self.med,
            local_pref: self.local_pref,
            atomic_aggregate: self.atomic_aggregate,
            aggregator: self.aggregator.map(|(number, address)| format!("{number} {address}")),
            communities: self.communities.iter().map(|&c| community_name(c)).collect(),
            extended_communities: self.extended.iter().map(|&c| extended_name(c)).collect(),
            large_communities: self.large.iter().map(|[a, b, c]| format!("{a}:{b}:{c}")).collect(),
            originator_id: self.originator_id,
            cluster_list: self.cluster_list.to_vec(),
            only_to_customers: self.only_to_customers,
            unknown: self.unknown.iter().map(|u| u.code).collect(),
        }
    }
}

/// Route targets and route origins (RFC 4360 §4 and §5, RFC 5668) as everybody writes them, `rt:65001:7`; all else in
/// hexadecimal digits.
fn extended_name(community: u64) -> String {
    let [kind, subtype, a, b, c, d, e, f] = community.to_be_bytes();
    let name = match subtype {
        2 => "rt",
        3 => "ro",
        _ => return format!("{community:016x}"),
    };
    match kind {
        0 => format!("{name}:{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])),
        1 => format!("{name}:{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, f])),
        2 => format!("{name}:{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f])),
        _ => format!("{community:016x}"),
    }
}

fn community_name(community: u32) -> String {
    match community {
        WellKnown::GRACEFUL_SHUTDOWN => "graceful-shutdown".to_owned(),
        WellKnown::BLACKHOLE => "blackhole".to_owned(),
        WellKnown::LLGR_STALE => "llgr-stale".to_owned(),
        WellKnown::NO_LLGR => "no-llgr".to_owned(),
        WellKnown::NO_EXPORT => "no-export".to_owned(),
        WellKnown::NO_ADVERTISE => "no-advertise".to_owned(),
        WellKnown::NO_EXPORT_SUBCONFED => "no-export-subconfed".to_owned(),
        other => format!("{}:{}", other >> 16, other & 0xffff),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extended_community_is_written_as_other_speakers_write_it() {
        for (community, expected) in [
            (0x0002_fde9_0000_0007, "rt:65001:7"),
            (0x0003_fde9_ffff_ffff, "ro:65001:4294967295"),
            (0x0102_0a00_0001_0007, "rt:10.0.0.1:7"),
            (0x0202_fa56_ea00_0007, "rt:4200000000:7"),
            // Not transitive, opaque, and a subtype that has no name here.
            (0x4002_fde9_0000_0007, "4002fde900000007"),
            (0x0302_0000_0000_0001, "0302000000000001"),
            (0x0008_fde9_0000_0007, "0008fde900000007"),
        ] {
            assert_eq!(extended_name(community), expected);
        }
    }
}
