//! What the speaker is told to be: its own numbers, its peers, what it originates and what it may pass on.
//! Everything here is plain values; [`crate::Speaker::configure`] works out what a change means.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{Index, IndexMut},
    time::Duration,
};

use manx_net::{Asn, Prefix};
use serde::Serialize;

use crate::policy::PeerRules;

/// The whole configuration of one speaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub local_as: Asn,
    /// The BGP identifier. A change resets every session, for the peers know us by it.
    pub router_id: Ipv4Addr,
    /// For route reflection; `None` is the router id (RFC 4456 §7).
    pub cluster_id: Option<Ipv4Addr>,
    /// Reflect the routes of a client to the other clients of its cluster. Off where they have sessions with each other
    /// (RFC 4456 §10). Default true.
    pub client_to_client: bool,
    /// The next hop to announce with IPv4 routes where the session itself runs over IPv6.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// The next hop to announce with IPv6 routes where the session itself runs over IPv4.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// What is proposed in OPEN; the lesser of both sides' counts.
    pub hold_time: HoldTime,
    pub graceful_restart: GracefulRestart,
    /// Distinct by [`PeerConfig::key`]; of two with one key the first counts.
    pub peers: Vec<PeerConfig>,
    /// Ranges whose addresses may dial without being among `peers`, which come first. The longest range counts.
    pub dynamic_peers: Vec<DynamicPeers>,
    /// Own prefixes, announced to every peer. Of two with one prefix the first counts.
    pub originated: Vec<Originated>,
    /// Host routes of our own beside those, such as of a pod whose address lies in another node's block. They are announced, and
    /// of routes that come from peers they say nothing, so that none is judged anew when one of them comes or goes. One wins
    /// against what peers announce for the same prefix, but for a priority better than its own: whose it is now says so.
    pub hosts: Vec<OwnHost>,
    /// Prefixes of services of our own, which many nodes announce. As of `hosts`, nothing follows from them for others' routes.
    pub services: Vec<Prefix>,
    pub export: ExportRule,
    /// Nothing passes to or from an eBGP peer that has no rules for the direction (RFC 8212). Off by default.
    pub ebgp_requires_policy: bool,
    /// This node is about to leave: what it announces carries GRACEFUL_SHUTDOWN, and LOCAL_PREF 0 within the AS
    /// (RFC 8326 §4), so that everybody who has another way takes it.
    pub graceful_shutdown: bool,
    /// How many paths all peers together may have in the RIB. Beyond it the peer that holds the most is sent away
    /// (Cease/8), so that the node's memory does not depend on what the network says; and so is a peer that does not
    /// read, where together with the routes that are gone and must yet be told to it the paths are more. Default four million, some
    /// 400 MB.
    pub max_paths: u64,
    pub parting: Parting,
    /// Say each change of a best path ([`crate::Output::Best`]): a driver that forwards nothing wants none. Default true;
    /// counts when the speaker is made.
    pub best_paths: bool,
    /// Several equally good paths at once (ECMP). Off by default.
    pub multipath: Multipath,
    pub normal_priority: NormalPriority,
    /// For jitter, and for the hashes that a peer should not be able to foresee. Any number; a test fixes it.
    pub seed: u64,
}

impl Config {
    /// No peers, nothing originated, nothing passed on; hold time 90 s, graceful restart 120 s.
    pub fn new(local_as: Asn, router_id: Ipv4Addr) -> Config {
        Config {
            local_as,
            router_id,
            cluster_id: None,
            client_to_client: true,
            next_hop_v4: None,
            next_hop_v6: None,
            hold_time: HoldTime::DEFAULT,
            graceful_restart: GracefulRestart::default(),
            peers: Vec::new(),
            dynamic_peers: Vec::new(),
            originated: Vec::new(),
            hosts: Vec::new(),
            services: Vec::new(),
            export: ExportRule::default(),
            ebgp_requires_policy: false,
            graceful_shutdown: false,
            max_paths: 4_000_000,
            parting: Parting::default(),
            best_paths: true,
            multipath: Multipath::default(),
            normal_priority: NormalPriority::default(),
            seed: 0,
        }
    }
}

/// Make before break: how a change of the peers is carried out. By default it is carried out at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parting {
    /// The session of a peer that is no longer configured goes on until every route that came by it has come by another
    /// one, too, and no longer than this. For so long a peer that is no client any more is still treated as one.
    pub close_after: Duration,
    /// What had nothing in its place when a session was closed (because its peer is no longer configured, or must be
    /// opened anew) is held as stale for so long.
    pub hold: Duration,
    /// Only routes inside these are held.
    pub within: Vec<Prefix>,
    /// Peers at these addresses go at once, and their routes with them.
    pub at_once: BTreeSet<IpAddr>,
}

/// A host route of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnHost {
    pub prefix: Prefix,
    /// Sent in LOCAL_PREF within the AS (see [`crate::policy::local_pref_of_priority`]); None: that of a usual route.
    pub priority: Option<u32>,
}

impl From<Prefix> for OwnHost {
    fn from(prefix: Prefix) -> OwnHost {
        OwnHost { prefix, priority: None }
    }
}

/// The priority of a usual route, as Calico counts it (see [`crate::policy::priority_of_local_pref`]). Within the AS, own
/// routes carry it in LOCAL_PREF; without one they carry 100, and what others send is compared with Calico's own, 1024.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NormalPriority {
    pub ipv4: Option<u32>,
    pub ipv6: Option<u32>,
}

impl NormalPriority {
    pub const fn of(self, family: Family) -> Option<u32> {
        match family {
            Family::Ipv4Unicast => self.ipv4,
            Family::Ipv6Unicast => self.ipv6,
        }
    }
}

/// Seconds: 0 (no keepalives, no expiry) or at least 3 (RFC 4271 §4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct HoldTime(u16);

impl HoldTime {
    /// 90 s, as RFC 4271 §10 suggests.
    pub const DEFAULT: HoldTime = HoldTime(90);

    /// `None` for 1 and 2.
    pub const fn new(seconds: u16) -> Option<HoldTime> {
        if seconds == 1 || seconds == 2 { None } else { Some(HoldTime(seconds)) }
    }

    pub const fn seconds(self) -> u16 {
        self.0
    }
}

/// RFC 4724, in both roles. As a helper Manx always acts on what the peer announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestart {
    /// Announce the capability at all.
    pub enabled: bool,
    /// Seconds that the peers are asked to keep our routes, at most 4095. Default 120.
    pub restart_time: u16,
    /// This process took over forwarding state from an earlier one: say so in OPEN (R bit), and hold back best
    /// paths and announcements until the peers have sent their End-of-RIB or a timer has run out. Counts when
    /// the speaker is made, not in `configure`.
    pub restarting: bool,
    /// Offer RFC 8538: routes outlive errors and an expired hold timer, too, and only a Hard Reset takes them at once.
    /// Off by default, since a machine that died is then forwarded to for the restart time beyond the hold time.
    pub after_notification: bool,
    /// Offer RFC 9494, and ask the peers to keep our routes for so many seconds beyond the restart time, at most 2^24
    /// − 1; theirs are not kept longer than that, either. Default: not offered.
    pub long_lived: Option<u32>,
}

impl Default for GracefulRestart {
    fn default() -> GracefulRestart {
        GracefulRestart {
            enabled: true,
            restart_time: 120,
            restarting: false,
            after_notification: false,
            long_lived: None,
        }
    }
}

/// Who a peer is. The port is the one we dial; a connection from the peer comes from any port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PeerKey {
    pub address: IpAddr,
    pub port: u16,
}

impl fmt::Display for PeerKey {
    /// The address alone at the usual port, else with the port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port, self.address) {
            (179, address) => write!(f, "{address}"),
            (port, IpAddr::V4(address)) => write!(f, "{address}:{port}"),
            (port, IpAddr::V6(address)) => write!(f, "[{address}]:{port}"),
        }
    }
}

/// One peer. What resets a session when it changes: `remote_as`, `local_as`, `local_address`, `families`,
/// `extended_next_hop`, `role`, `strict_role`, `hold_time` and `restart_time`, since OPEN says them, or the defaults in [`Config`] that stand for them. The rest
/// takes effect on the running session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    pub address: IpAddr,
    pub port: u16,
    /// The source of our own dials; `None` leaves it to the kernel. Accepted connections are not held to it.
    pub local_address: Option<IpAddr>,
    pub remote_as: Asn,
    /// Shown to this peer in place of [`Config::local_as`].
    pub local_as: Option<Asn>,
    /// An iBGP peer whose routes we reflect to everyone (RFC 4456). Without meaning for eBGP.
    pub rr_client: bool,
    /// The cluster id under which we reflect to this peer, if not [`Config::cluster_id`].
    pub cluster_id: Option<Ipv4Addr>,
    pub dial: Dial,
    pub next_hop: NextHopMode,
    /// IPv4 routes may have IPv6 next hops, in both directions, if the peer offers it, too (RFC 8950). Over an IPv6
    /// session our own IPv4 next hop is then the session's address.
    pub extended_next_hop: bool,
    /// What we are to a peer of another AS (RFC 9234). Without meaning within the AS.
    pub role: Option<Role>,
    /// With a role: a peer that names none is refused (RFC 9234 §4.2).
    pub strict_role: bool,
    /// What we offer; what both offer is used.
    pub families: Vec<Family>,
    pub hold_time: Option<HoldTime>,
    /// Seconds between keepalives at most; `None` is a third of the negotiated hold time.
    pub keepalive_time: Option<u16>,
    /// Seconds, in place of [`GracefulRestart::restart_time`].
    pub restart_time: Option<u16>,
    /// How often our own AS may stand in the AS_PATH of a route that we accept (allowas-in).
    pub allow_local_as: u8,
    /// What of the peer's routes comes in. A route that no rule matches does.
    pub import: PeerRules,
    /// What goes out to the peer, own routes included. What a rule accepts goes out whatever [`ExportRule`] says of
    /// it; a route that no rule matches is left to that.
    pub export: PeerRules,
    /// Within these prefixes a host route with BLACKHOLE (RFC 7999) is a blackhole; elsewhere the community
    /// means nothing.
    pub blackholes: Vec<Prefix>,
    pub max_prefixes: Option<MaxPrefixes>,
    /// Stands for what the driver puts on the peer's sockets (a key, a minimum TTL), which is none of the speaker's
    /// business. When it changes, the connection is made anew, and what the peer has announced is kept meanwhile if
    /// graceful restart was agreed on.
    pub transport: u64,
    /// Whether either side announces several paths for a prefix. A change of whether, not of how many, resets the
    /// session.
    pub add_path: AddPath,
}

/// Peers that are not known one by one: whoever dials from inside the range becomes one, and is forgotten when its
/// session has ended and its routes are not kept for it any longer. None of them is ever dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicPeers {
    pub range: Prefix,
    pub remote_as: RemoteAs,
    /// What holds for each of them; its own address, port, AS and dial mean nothing.
    pub template: PeerConfig,
    /// So many at once, sessions that are only being opened included. Whoever comes then is refused.
    pub limit: u32,
}

/// Which AS the peers of a range may be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteAs {
    /// Empty: nobody may connect, and who is in the range falls to no wider one.
    OneOf(Vec<Asn>),
    /// Any but our own.
    External,
}

/// RFC 7911, on one session and in each direction for itself; what both sides offer is used, in every family that
/// the session carries. Off by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddPath {
    /// So many paths of a prefix, the best first, go to the peer at most; more than [`AddPath::MOST`] count as that.
    /// 0: the best alone, as without the extension.
    pub send: u8,
    /// Take several from the peer.
    pub receive: bool,
}

impl AddPath {
    /// The best so many paths of a prefix are those of which some may be sent.
    pub const MOST: u8 = 64;
}

/// How many paths are used at once, of those that are as good as the best one up to the metric of their next hops
/// (RFC 4271 §9.1.2.2 a to e), each with another next hop. 0 and 1: the best alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Multipath {
    /// Where the best path comes from another AS.
    pub ebgp: u8,
    /// Where it comes from our own.
    pub ibgp: u8,
}

impl Default for Multipath {
    fn default() -> Multipath {
        Multipath { ebgp: 1, ibgp: 1 }
    }
}

/// How much a peer may announce: paths, where it may announce several for a prefix. Beyond the limit the session ends with Cease/1 (RFC 4486 §4), and the peer is left
/// alone for a minute, and for twice as long each time after that, up to an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPrefixes {
    /// For each family.
    pub limit: u32,
    /// Per cent of the limit at which a warning is given; 0: none.
    pub warn_at: u8,
    /// Count only what is not refused.
    pub accepted_only: bool,
}

impl MaxPrefixes {
    /// Warns at 75 per cent and counts what is refused, too.
    pub const fn new(limit: u32) -> MaxPrefixes {
        MaxPrefixes { limit, warn_at: 75, accepted_only: false }
    }
}

impl PeerConfig {
    /// Both families over port 179, dialling at once, no reflection.
    pub fn new(address: IpAddr, remote_as: Asn) -> PeerConfig {
        PeerConfig {
            address,
            port: 179,
            local_address: None,
            remote_as,
            local_as: None,
            rr_client: false,
            cluster_id: None,
            dial: Dial::First,
            next_hop: NextHopMode::Auto,
            extended_next_hop: false,
            role: None,
            strict_role: false,
            families: vec![Family::Ipv4Unicast, Family::Ipv6Unicast],
            hold_time: None,
            keepalive_time: None,
            restart_time: None,
            allow_local_as: 0,
            import: PeerRules::default(),
            export: PeerRules::default(),
            blackholes: Vec::new(),
            max_prefixes: None,
            transport: 0,
            add_path: AddPath::default(),
        }
    }

    pub fn key(&self) -> PeerKey {
        PeerKey { address: self.address, port: self.port }
    }
}

/// Who dials. Of a pair one end should be `First` and the other `Later`: then there is one connection, at
/// once, and still one if the first cannot dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Dial {
    /// At once, and again after 50 to 200 ms. While it fails, half a second, a second, and so on up to 30 s; but
    /// within 10 s of a change of the peering every retry comes after 50 to 200 ms, for the other side may not have
    /// read it yet.
    First,
    /// Listens; dials after 5 s without a connection.
    Later,
    /// Listens only.
    Never,
}

impl Dial {
    /// How long a [`Dial::Later`] peer waits for the other side.
    pub const PATIENCE: Duration = Duration::from_secs(5);
}

/// Our part in the peering of two ASes (RFC 9234 §3.1); the number is the capability's (§4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// We carry the peer's traffic to anywhere.
    Provider = 0,
    RouteServer = 1,
    RouteServerClient = 2,
    /// The peer carries ours.
    Customer = 3,
    /// Each only to what is its own or its customers'.
    Peer = 4,
}

impl Role {
    pub const fn from_wire(value: u8) -> Option<Role> {
        Some(match value {
            0 => Role::Provider,
            1 => Role::RouteServer,
            2 => Role::RouteServerClient,
            3 => Role::Customer,
            4 => Role::Peer,
            _ => return None,
        })
    }

    /// What the other side must be (RFC 9234 §4.2).
    pub const fn counterpart(self) -> Role {
        match self {
            Role::Provider => Role::Customer,
            Role::RouteServer => Role::RouteServerClient,
            Role::RouteServerClient => Role::RouteServer,
            Role::Customer => Role::Provider,
            Role::Peer => Role::Peer,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum NextHopMode {
    /// Self towards eBGP and for own routes, else unchanged.
    Auto,
    /// Self always.
    #[serde(rename = "self")]
    Self_,
    /// Unchanged always, but for own routes.
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    Ipv4Unicast,
    Ipv6Unicast,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4Unicast => "IPv4",
            Family::Ipv6Unicast => "IPv6",
        })
    }
}

impl Family {
    pub const ALL: [Family; 2] = [Family::Ipv4Unicast, Family::Ipv6Unicast];

    pub const fn of(prefix: Prefix) -> Family {
        match prefix {
            Prefix::V4(_) => Family::Ipv4Unicast,
            Prefix::V6(_) => Family::Ipv6Unicast,
        }
    }

    pub const fn afi(self) -> u16 {
        match self {
            Family::Ipv4Unicast => 1,
            Family::Ipv6Unicast => 2,
        }
    }

    /// `None` for what Manx does not carry.
    pub const fn from_wire(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4Unicast),
            (2, 1) => Some(Family::Ipv6Unicast),
            _ => None,
        }
    }
}

/// One of something for each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PerFamily<T> {
    ipv4: T,
    ipv6: T,
}

impl<T: Copy> PerFamily<T> {
    #[cfg(test)]
    pub(crate) const fn both(value: T) -> PerFamily<T> {
        PerFamily { ipv4: value, ipv6: value }
    }
}

impl<T> PerFamily<T> {
    pub(crate) fn from_fn(of: impl Fn(Family) -> T) -> PerFamily<T> {
        PerFamily { ipv4: of(Family::Ipv4Unicast), ipv6: of(Family::Ipv6Unicast) }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.ipv4, &self.ipv6].into_iter()
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;

    fn index(&self, family: Family) -> &T {
        match family {
            Family::Ipv4Unicast => &self.ipv4,
            Family::Ipv6Unicast => &self.ipv6,
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::Ipv4Unicast => &mut self.ipv4,
            Family::Ipv6Unicast => &mut self.ipv6,
        }
    }
}

/// A prefix of our own (a block, a service range).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Originated {
    pub prefix: Prefix,
    /// RFC 1997 communities to attach, as `high << 16 | low`.
    pub communities: Vec<u32>,
}

/// What may leave besides own prefixes, by Calico's rule: an own prefix exactly and nothing inside it, then
/// what lies in a pool that may be exported, and nothing else, so that nobody becomes transit by accident.
/// The same rule for every peer. The prefixes in [`Config::originated`] are always allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportRule {
    /// The first pool that covers the route decides.
    pub pools: Vec<PoolRule>,
    /// Pass on what no pool covers, too: a plain router or reflector without pools.
    pub transit: bool,
    /// Prefixes of services: what lies in one of them may be passed on, too.
    pub services: Vec<Prefix>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolRule {
    pub prefix: Prefix,
    /// False for a pool with `disableBGPExport`.
    pub export: bool,
}

/// Communities with a meaning of their own (RFC 1997, 7999, 8326).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WellKnown;

impl WellKnown {
    /// RFC 8326.
    pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
    /// RFC 7999.
    pub const BLACKHOLE: u32 = 0xffff_029a;
    /// RFC 9494 §4.2.
    pub const LLGR_STALE: u32 = 0xffff_0006;
    pub const NO_LLGR: u32 = 0xffff_0007;
    pub const NO_EXPORT: u32 = 0xffff_ff01;
    pub const NO_ADVERTISE: u32 = 0xffff_ff02;
    pub const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
}
