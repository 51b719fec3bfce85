//! What can be asked of a speaker: peers, paths and decisions, as values for the local API. Everything here was
//! decided and stored before somebody asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use manx_net::{Asn, Prefix};
use serde::Serialize;

use crate::{
    PeerKey,
    config::{Dial, Family, Role},
    event::{NextHop, PathSource},
    policy::RuleName,
    time::Time,
};

/// RFC 4271 §8.2.2. With two connections to one peer it is the state of the one that is further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum SessionState {
    /// Disabled, or held back after errors.
    Idle,
    /// A dial is under way.
    Connect,
    /// Waiting: for the peer to dial, or for the next own dial.
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

impl SessionState {
    pub const fn name(self) -> &'static str {
        match self {
            SessionState::Idle => "Idle",
            SessionState::Connect => "Connect",
            SessionState::Active => "Active",
            SessionState::OpenSent => "OpenSent",
            SessionState::OpenConfirm => "OpenConfirm",
            SessionState::Established => "Established",
        }
    }
}

/// Who dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    Us,
    Peer,
}

/// A NOTIFICATION by number and by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationView {
    pub at: Time,
    pub code: u8,
    pub subcode: u8,
    /// "OPEN Message Error / Bad Peer AS".
    pub name: String,
    /// The shutdown communication (RFC 9003), control characters escaped.
    pub text: Option<String>,
    /// Of one that we sent: what we found wrong, where that is more than the name says.
    pub why: Option<String>,
}

/// Why a session changed its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    Configured,
    Removed,
    /// A peer of a range, of which nothing is left.
    Forgotten,
    ConfigurationChanged,
    Disabled,
    Enabled,
    ShuttingDown,
    /// We dial.
    Dialling,
    /// The dial succeeded, or the peer's connection was accepted.
    Connected,
    DialFailed(String),
    OpenReceived,
    KeepaliveReceived,
    ConnectionClosed(String),
    NotificationSent(NotificationView),
    NotificationReceived(NotificationView),
    /// The other of two connections between us was kept (RFC 4271 §6.8).
    Collision,
    /// The peer came back on a new connection while the old one still stood (RFC 4724 §4.2).
    PeerRestarted,
    /// The time for which the peer was held back is over.
    BackOffOver,
}

/// One peer's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerView {
    pub address: IpAddr,
    pub port: u16,
    pub remote_as: Asn,
    pub local_as: Asn,
    pub rr_client: bool,
    /// The range that it was let in by, if it is not configured itself ([`crate::DynamicPeers`]).
    pub range: Option<Prefix>,
    pub dial: Dial,
    pub state: SessionState,
    /// Since when it is in this state.
    pub since: Time,
    /// Since when there is a session, or since when there is none: the retries in between do not count.
    pub session_since: Time,
    /// How often it has become Established.
    pub established_count: u64,
    pub last_established: Option<Time>,
    /// Who dialled the connection that stands or is under way.
    pub dialled_by: Option<Direction>,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    /// From the peer's OPEN.
    pub remote_id: Option<Ipv4Addr>,
    pub negotiated: Option<NegotiatedView>,
    /// When the next own dial is due.
    pub next_dial: Option<Time>,
    pub counters: PeerCounters,
    /// The last thing that went wrong, as a sentence's end ("Socket: Connection refused").
    pub last_error: Option<String>,
    pub notification_sent: Option<NotificationView>,
    pub notification_received: Option<NotificationView>,
    /// Families of which it holds nearly as much as it may ([`crate::MaxPrefixes::warn_at`]).
    pub near_limit: Vec<LimitView>,
    /// Families whose routes are kept though the session was lost, until when.
    pub stale_until: Option<Time>,
    /// So many are kept so.
    pub stale: u64,
    /// They are kept by this node's own plan, until they come by another way.
    pub held: bool,
    /// Since when it is no longer configured ([`crate::config::Parting`]).
    pub parting_since: Option<Time>,
    /// When its session ends though some routes have not come by another way.
    pub closes_at: Option<Time>,
}

/// How much a peer holds of what it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitView {
    pub family: Family,
    /// Only what counts, see [`crate::MaxPrefixes::accepted_only`].
    pub held: u64,
    pub limit: u32,
}

/// What both OPENs agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NegotiatedView {
    pub families: Vec<Family>,
    pub hold_time: u16,
    pub keepalive_time: u16,
    pub four_octet_as: bool,
    pub route_refresh: bool,
    pub enhanced_refresh: bool,
    /// RFC 8654: UPDATEs may be longer than 4096 octets.
    pub extended_messages: bool,
    /// RFC 8950: IPv4 routes may have IPv6 next hops.
    pub extended_next_hop: bool,
    /// What the peer says that it is to us (RFC 9234).
    pub role: Option<Role>,
    /// Families in which several paths for a prefix are announced (RFC 7911).
    pub add_path: Vec<AddPathView>,
    pub graceful_restart: Option<GracefulRestartView>,
}

/// Who announces several paths for a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddPathView {
    pub family: Family,
    /// We do.
    pub send: bool,
    /// The peer does.
    pub receive: bool,
}

/// The peer's graceful restart capability.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestartView {
    pub restarting: bool,
    /// Routes are kept after a NOTIFICATION, too, unless it says Hard Reset (RFC 8538).
    pub notifications: bool,
    pub restart_time: u16,
    /// Families whose forwarding state the peer says it preserved.
    pub preserved: Vec<Family>,
    pub families: Vec<Family>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerCounters {
    /// In the Adj-RIB-In now.
    pub prefixes_received: u64,
    /// Of these, not refused.
    pub prefixes_accepted: u64,
    /// Announced to the peer, or about to be.
    pub prefixes_sent: u64,
    pub messages_received: u64,
    pub messages_sent: u64,
    pub updates_received: u64,
    pub updates_sent: u64,
    /// UPDATEs whose routes were treated as withdrawn (RFC 7606 §2).
    pub treated_as_withdraw: u64,
    /// Attributes discarded (RFC 7606 §2).
    pub attributes_discarded: u64,
}

/// How far a walk over the Loc-RIB has come; the default is its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    pub(crate) ipv6: bool,
    /// The number of the next route in the family's table.
    pub(crate) next: u32,
}

/// Where a path stands in the choice of the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    Best,
    /// As good as the best one, and used beside it ([`crate::Config::multipath`]).
    Multipath,
    Lost(LostAt),
    Refused(RefusedBy),
    /// Its next hop is not reachable.
    Unreachable,
    /// Nothing is chosen yet: the speaker is restarting.
    Deferred,
}

/// The step of RFC 4271 §9.1.2.2 (with RFC 4456 §9) that decided against a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LostAt {
    /// An own route beats a learned one.
    Own,
    /// Kept long after its peer was lost: the last resort (RFC 9494 §4.3).
    LongLivedStale,
    LocalPref,
    AsPathLength,
    Origin,
    Med,
    EbgpOverIbgp,
    IgpMetric,
    /// ORIGINATOR_ID stands in for the peer's identifier.
    RouterId,
    ClusterListLength,
    PeerAddress,
    /// Two of one peer's (RFC 7911): the lesser name.
    PathId,
}

/// Why a route in the Adj-RIB-In is not considered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusedBy {
    AsLoop,
    OriginatorIsUs,
    ClusterLoop,
    /// Unspecified, loopback, multicast, or an address of our own.
    InvalidNextHop,
    /// It should go to customers only, and comes from somebody who may not pass it on (RFC 9234 §5).
    RouteLeak,
    /// The prefix lies where no route can lead: "this network", loopback, link-local, multicast, reserved
    /// (RFC 6890), or is an address of our own.
    InvalidPrefix,
    /// A rule of the peer's; its name is in [`PathView::rule`].
    Filter,
}

/// A path for one prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathView {
    pub source: PathSource,
    pub standing: Standing,
    /// The peer's name for it, if it has names for its paths (RFC 7911).
    pub path_id: Option<u32>,
    /// The rule that let it in or refused it (`BGPFilter/edge importV4[2]`), if one decided.
    pub rule: Option<RuleName>,
    /// Kept though its session was lost (RFC 4724), or not yet heard again.
    pub stale: bool,
    pub next_hop: Option<NextHop>,
    /// Of the way to the next hop.
    pub metric: Option<u32>,
    pub attributes: AttributesView,
}

/// RFC 4271 §5 and its kin, as text where operators know a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttributesView {
    /// "IGP", "EGP" or "Incomplete".
    pub origin: &'static str,
    /// "64512 64513 {64514 64515}".
    pub as_path: String,
    pub med: Option<u32>,
    pub local_pref: Option<u32>,
    pub atomic_aggregate: bool,
    /// "64512 192.168.80.121".
    pub aggregator: Option<String>,
    /// "64512:100", or the well-known name.
    pub communities: Vec<String>,
    /// Sixteen hexadecimal digits each.
    pub extended_communities: Vec<String>,
    /// "64512:1:2".
    pub large_communities: Vec<String>,
    pub originator_id: Option<Ipv4Addr>,
    pub cluster_list: Vec<Ipv4Addr>,
    /// RFC 9234: which AS said that it should go to customers only.
    pub only_to_customers: Option<u32>,
    /// Type codes of attributes that Manx passes on without knowing them.
    pub unknown: Vec<u8>,
}

/// The best path of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    pub prefix: Prefix,
    pub best: PathView,
    /// Used beside the best ([`Standing::Multipath`]).
    pub others: Vec<PathView>,
}

/// All that is known of a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PrefixView {
    pub prefix: Prefix,
    /// The best first, if there is one.
    pub paths: Vec<PathView>,
    /// For each peer with a session that carries the prefix's family.
    pub sent: Vec<SentView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SentView {
    pub peer: PeerKey,
    /// Of the best path; where the peer takes several, `Sent` or `Queued` if any of them goes there.
    pub export: Export,
    /// The rule that let it out or refused it, if one decided.
    pub rule: Option<RuleName>,
    /// Each of the best paths, where the peer takes several for a prefix.
    pub paths: Vec<SentPathView>,
}

/// What became of one path for a peer that takes several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SentPathView {
    pub source: PathSource,
    /// Our name for it, by which the peer has it if it is sent.
    pub path_id: u32,
    /// Its source's name for it.
    pub received_id: Option<u32>,
    pub export: Export,
    pub rule: Option<RuleName>,
}

/// Whether the best path goes to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Export {
    Sent,
    /// Will be sent; the peer has not taken it yet.
    Queued,
    /// There is no best path.
    NoRoute,
    /// The peer takes several paths for a prefix, and so many better ones go there.
    NotAmongBest,
    /// It came from there.
    FromThisPeer,
    /// iBGP to iBGP, and neither side is a client (RFC 4456 §6).
    NotReflected,
    /// From a client to a client of the same cluster, and they have sessions with each other (RFC 4456 §10).
    ClientToClient,
    /// Inside a prefix of our own.
    InsideOwnBlock,
    /// In a pool that is not exported.
    PoolNotExported,
    /// In no pool: nobody becomes transit by accident.
    NoTransit,
    /// Community NO_ADVERTISE.
    NoAdvertise,
    /// Community NO_EXPORT or NO_EXPORT_SUBCONFED, to another AS; BLACKHOLE of another's route (RFC 7999 §3.2).
    NoExport,
    /// A rule of the peer's; its name is in [`SentView::rule`].
    Filter,
    /// Kept long after its peer was lost, and this peer does not know what that means (RFC 9494 §4.4).
    LongLivedStale,
    /// We have no address of this family to announce as next hop.
    NoNextHop,
    /// It should go to customers only, and the peer is none (RFC 9234 §5).
    OnlyToCustomers,
    /// Its next hop is an IPv6 address, it is of IPv4, and the peer has not agreed to that (RFC 8950 §4).
    NextHopFamily,
    /// Its attributes do not fit into one message.
    TooLong,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_json_are_camel_case() {
        fn json(value: &impl Serialize) -> String {
            serde_json::to_string(value).unwrap()
        }
        assert_eq!(json(&Standing::Lost(LostAt::EbgpOverIbgp)), r#"{"lost":"ebgpOverIbgp"}"#);
        assert_eq!(json(&Standing::Best), r#""best""#);
        assert_eq!(json(&Export::InsideOwnBlock), r#""insideOwnBlock""#);
        assert_eq!(json(&Cause::DialFailed("no".into())), r#"{"dialFailed":"no"}"#);
        assert_eq!(json(&SessionState::OpenConfirm), r#""OpenConfirm""#);
        assert!(json(&PeerCounters::default()).contains(r#""prefixesReceived":0"#));
    }
}
