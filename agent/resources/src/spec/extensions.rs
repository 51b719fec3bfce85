//! What annotations under `manx.dev/` say: settings of the speaker for which Calico's schema has no field. What is
//! None is not set; the defaults are the plan's.

use manx_net::{Asn, Prefix};
use serde::Serialize;

/// One peering's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerExtensions {
    pub max_prefixes: Option<MaxPrefixes>,
    /// Within these the peer's host routes with the community BLACKHOLE are blackholes (RFC 7999).
    pub blackholes: Vec<Prefix>,
    pub add_path: AddPath,
    /// This node's part in the peering, not the peer's (RFC 9234).
    pub local_role: Option<Role>,
    /// A peer that names no role of its own is refused.
    pub strict_role: bool,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Whether the path to the peer is watched, and how.
    pub bfd: Option<Bfd>,
    /// In place of one peer: whoever dials from inside it.
    pub range: Option<PeerRange>,
}

/// RFC 5880.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// In ms, for sending and for receiving.
    pub interval: u32,
    /// So many packets lost in a row mean that the path is down.
    pub multiplier: u8,
    /// None: over one hop if the peer's address is on a link of this node.
    pub multihop: Option<bool>,
}

impl Default for Bfd {
    fn default() -> Bfd {
        Bfd { interval: 300, multiplier: 3, multihop: None }
    }
}

/// Peers that are not known one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRange {
    pub prefix: Prefix,
    /// None: as `spec.asNumber` says.
    pub as_numbers: Option<RangeAs>,
    /// So many at once, at least 1.
    pub limit: u32,
}

impl PeerRange {
    pub const DEFAULT_LIMIT: u32 = 1000;
}

/// Which AS a peer of a range may be in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RangeAs {
    /// Any but this node's.
    External,
    /// At least one.
    OneOf(Vec<Asn>),
}

impl RangeAs {
    /// Whether a peer may be in another AS than `own`, this node's towards the range.
    pub fn has_other_than(&self, own: Asn) -> bool {
        match self {
            RangeAs::External => true,
            RangeAs::OneOf(numbers) => numbers.iter().any(|number| *number != own),
        }
    }
}

/// How much a peer may announce (RFC 4486 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MaxPrefixes {
    /// For each family, at least 1.
    pub limit: u32,
    /// Per cent of the limit at which a warning is given; 0: none.
    pub warn_at: u8,
    /// Routes that a filter refuses do not count.
    pub accepted_only: bool,
}

/// Several paths for one prefix (RFC 7911), as this node sends and takes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddPath {
    /// At most so many paths for a prefix; 0: the best alone, as without ADD-PATH.
    pub send: u8,
    pub receive: bool,
}

impl AddPath {
    /// How many paths are sent where no number is given.
    pub const DEFAULT_SEND: u8 = 4;

    /// The same session's other end: it takes what this one sends, and sends what this one takes.
    pub fn reversed(self) -> AddPath {
        let send = match (self.receive, self.send) {
            (false, _) => 0,
            (true, 0) => AddPath::DEFAULT_SEND,
            (true, send) => send,
        };
        AddPath { send, receive: self.send > 0 }
    }
}

/// RFC 9234 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Provider,
    RsServer,
    RsClient,
    Customer,
    Peer,
}

impl Role {
    /// What the other end of the session is (RFC 9234 §4.2).
    pub fn reversed(self) -> Role {
        match self {
            Role::Provider => Role::Customer,
            Role::Customer => Role::Provider,
            Role::RsServer => Role::RsClient,
            Role::RsClient => Role::RsServer,
            Role::Peer => Role::Peer,
        }
    }

    /// As annotations, plans and FRR write it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Provider => "provider",
            Role::RsServer => "rs-server",
            Role::RsClient => "rs-client",
            Role::Customer => "customer",
            Role::Peer => "peer",
        }
    }
}

/// A pool's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolExtensions {
    /// Packets to addresses that lie in no block. `None`: they go where the node's other routes lead.
    pub unallocated_blocks: Option<Reply>,
    /// Packets to addresses of a node's own blocks that no pod has.
    pub unassigned_addresses: Reply,
}

/// What the sender of a packet that leads nowhere hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Reply {
    /// Nothing.
    #[default]
    Drop,
    /// ICMP destination unreachable, as often as the kernel's limits let it.
    Reject,
}

impl Reply {
    /// As annotations and plans write it.
    pub fn name(self) -> &'static str {
        match self {
            Reply::Drop => "Drop",
            Reply::Reject => "Reject",
        }
    }
}

/// The whole speaker's: of `BGPConfiguration/default`, and for one node of `BGPConfiguration/node.NAME`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpeakerExtensions {
    pub multipath: Option<Multipath>,
    /// Seconds beyond the restart time, at most 2^24 − 1 (RFC 9494 §3.1).
    pub long_lived_restart_time: Option<u32>,
    /// RFC 8538.
    pub restart_after_notification: Option<bool>,
    /// RFC 8212.
    pub ebgp_requires_policy: Option<bool>,
    /// Of all peers together in the RIB.
    pub max_paths: Option<u32>,
    /// A reflector's clients hear of one another through it (RFC 4456 §4).
    pub client_to_client: Option<bool>,
    /// Seconds that the session of a peer no longer wanted goes on for its routes' sake.
    pub close_after: Option<u32>,
    /// Seconds that routes are held which have nothing in their place.
    pub hold_routes: Option<u32>,
    /// When somebody asked last that a change be carried out at once; any text that differs from the one before.
    pub now: Option<String>,
}

impl SpeakerExtensions {
    /// What is set here, and `wider` for what is not.
    pub fn or(&self, wider: &SpeakerExtensions) -> SpeakerExtensions {
        SpeakerExtensions {
            multipath: self.multipath.or(wider.multipath),
            long_lived_restart_time: self.long_lived_restart_time.or(wider.long_lived_restart_time),
            restart_after_notification: self.restart_after_notification.or(wider.restart_after_notification),
            ebgp_requires_policy: self.ebgp_requires_policy.or(wider.ebgp_requires_policy),
            max_paths: self.max_paths.or(wider.max_paths),
            client_to_client: self.client_to_client.or(wider.client_to_client),
            close_after: self.close_after.or(wider.close_after),
            hold_routes: self.hold_routes.or(wider.hold_routes),
            now: self.now.clone().or_else(|| wider.now.clone()),
        }
    }
}

/// How many equally good paths of each kind carry traffic together; 1: the best alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Multipath {
    pub ebgp: u8,
    pub ibgp: u8,
}

impl Default for Multipath {
    fn default() -> Multipath {
        Multipath { ebgp: 1, ibgp: 1 }
    }
}
