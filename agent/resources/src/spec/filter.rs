//! The spec of BGPFilter, after validation: ordered rules for each direction and family. What a rule does to a
//! route is `manx-bgp`'s business.

use std::fmt;

use manx_net::{Asn, Prefix};
use serde::{Serialize, Serializer};

/// `BGPFilter`. The first rule that matches decides; a route that none matches goes on to the peer's next filter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BgpFilter {
    pub export_v4: Vec<FilterRule>,
    pub import_v4: Vec<FilterRule>,
    pub export_v6: Vec<FilterRule>,
    pub import_v6: Vec<FilterRule>,
}

/// Matches a route for which all that is said here holds; one that says nothing matches every route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilterRule {
    pub cidr: Option<CidrMatch>,
    /// `source: RemotePeers`: only routes that a BGP peer announced.
    pub remote_peers: bool,
    /// A pattern of an interface's name, in which `*` stands for any text.
    pub interface: Option<String>,
    pub peer_type: Option<PeerType>,
    pub community: Option<Community>,
    /// What the AS path begins with.
    pub as_path_prefix: Vec<Asn>,
    /// 1 to 2147483646; what it is in LOCAL_PREF see `manx-bgp`.
    pub priority: Option<u32>,
    pub action: FilterAction,
    /// In order; empty unless the action is [`FilterAction::Accept`].
    pub operations: Vec<FilterOperation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CidrMatch {
    pub prefix: Prefix,
    pub operator: MatchOperator,
    /// The least and the greatest length, clamped into what lies between the prefix's own and the family's.
    /// None where the document has no `prefixLength`.
    pub lengths: Option<(u8, u8)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MatchOperator {
    Equal,
    NotEqual,
    In,
    NotIn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerType {
    Ebgp,
    Ibgp,
}

/// `aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Community {
    Standard(u16, u16),
    Large(u32, u32, u32),
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Community::Standard(a, b) => write!(f, "{a}:{b}"),
            Community::Large(a, b, c) => write!(f, "{a}:{b}:{c}"),
        }
    }
}

impl Serialize for Community {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FilterAction {
    Accept,
    Reject,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FilterOperation {
    AddCommunity(Community),
    /// 1 to 10 numbers; the path begins with them in this order.
    PrependAsPath(Vec<Asn>),
    /// 1 to 2147483646.
    SetPriority(u32),
}
