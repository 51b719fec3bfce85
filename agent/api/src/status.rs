//! `GET /v1/status`: the node, its sessions and where its resources come from.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use manx_net::{Asn, Prefix};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub node: String,
    pub version: String,
    pub pid: u32,
    pub started_at: String,
    /// `None` until a first plan exists.
    pub as_number: Option<Asn>,
    pub router_id: Option<Ipv4Addr>,
    /// Set where this node is a route reflector.
    pub cluster_id: Option<Ipv4Addr>,
    /// True while a restarting speaker still waits for its peers' End-of-RIB (RFC 4724 §4.1).
    pub restarting: bool,
    pub datastore: DatastoreStatus,
    pub fast_path: super::FastPath,
    pub peers: Vec<PeerStatus>,
    /// Who else may dial.
    #[serde(default)]
    pub ranges: Vec<RangeStatus>,
    /// What is kept though the plan would have it otherwise, until routes have come by another way.
    #[serde(default)]
    pub partings: Vec<PartingStatus>,
    /// Routes of the run before that are held, since the peerings have changed.
    #[serde(default)]
    pub leftovers: Option<LeftoverStatus>,
    /// Of the process that has the BFD sessions; null: there is none.
    #[serde(default)]
    pub bfd_pid: Option<u32>,
    /// What the plan warns of.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatastoreStatus {
    /// As given by `--datastore`.
    pub location: String,
    /// When the resources in force were read.
    pub loaded_at: Option<String>,
    /// If they are those that an earlier run kept on disk, since nothing good was read: when it wrote them.
    #[serde(default)]
    pub kept_at: Option<String>,
    /// Why newer resources were not taken, or the plan could not be made; empty when all is well.
    pub problems: Vec<String>,
}

/// Why a peer exists, in Calico's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerKind {
    Mesh,
    Global,
    Node,
    LocalWorkload,
}

/// The PEER TYPE column of `calicoctl node status`.
impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PeerKind::Mesh => "node-to-node mesh",
            PeerKind::Global => "global",
            PeerKind::Node => "node specific",
            PeerKind::LocalWorkload => "local workload",
        })
    }
}

/// RFC 4271 §8.2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionState {
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

impl fmt::Display for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            SessionState::Idle => "Idle",
            SessionState::Connect => "Connect",
            SessionState::Active => "Active",
            SessionState::OpenSent => "OpenSent",
            SessionState::OpenConfirm => "OpenConfirm",
            SessionState::Established => "Established",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Dialler {
    /// This node opened the TCP connection: its end is the client.
    Local,
    /// The peer did: its end is the client, ours is port 179.
    Remote,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub address: IpAddr,
    pub port: u16,
    pub as_number: Asn,
    pub kind: PeerKind,
    /// The resource that asks for this peer, such as `BGPPeer/bgppeer-global`.
    pub resource: String,
    /// The name of the Node resource that has this address, if one has.
    pub node: Option<String>,
    /// The range that let it in, if no resource names the peer itself.
    #[serde(default)]
    pub range: Option<Prefix>,
    /// We reflect routes to and from it (RFC 4456).
    pub rr_client: bool,
    pub state: SessionState,
    /// When it entered that state.
    pub since: String,
    /// What follows the state in the INFO column: empty, or why it is not Established.
    pub info: String,
    /// If it is not Established, in a sentence or two: which address, by which interface, what went wrong, who should dial,
    /// since when.
    #[serde(default)]
    pub why_down: Option<String>,
    /// Null: no resource asks for it.
    #[serde(default)]
    pub bfd: Option<BfdStatus>,
    /// Sessions established since this peer was configured.
    pub times_established: u64,
    /// The connection of the session, if there is one.
    pub connection: Option<Connection>,
    /// Who of the two announces several paths for a prefix (RFC 7911), by family; empty: nobody.
    #[serde(default)]
    pub add_path: Vec<AddPath>,
    /// The peer is gone and its routes are kept for it (RFC 4724 §4.2).
    pub stale: bool,
    /// Paths in the Adj-RIB-In.
    pub prefixes_received: u64,
    /// Of these, paths that import rules accept.
    pub prefixes_accepted: u64,
    /// Paths advertised to it.
    pub prefixes_sent: u64,
    #[serde(default)]
    pub messages_received: u64,
    #[serde(default)]
    pub messages_sent: u64,
    #[serde(default)]
    pub updates_received: u64,
    #[serde(default)]
    pub updates_sent: u64,
    /// UPDATEs whose routes were treated as withdrawn because an attribute was wrong (RFC 7606 §2).
    pub treated_as_withdraw: u64,
    /// Attributes that were wrong and discarded (RFC 7606 §2).
    pub attributes_discarded: u64,
    pub last_notification_sent: Option<NotificationStatus>,
    pub last_notification_received: Option<NotificationStatus>,
}

/// A peer that is no longer wanted and of which something is kept until it has come by another way; or one whose session
/// had to be opened anew, while its routes are kept so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartingStatus {
    pub address: IpAddr,
    pub port: u16,
    /// The name of the Node resource that has this address, if one has.
    pub node: Option<String>,
    /// It is among the peers, too.
    pub wanted: bool,
    pub since: String,
    /// When its session ends, whatever has come by another way then; None: it has none.
    pub closes_at: Option<String>,
    /// Of a session that goes on, what came by it; else what is held as stale.
    pub routes: u64,
    /// When what is held is gone.
    pub until: Option<String>,
}

/// Routes that an earlier run left in the kernel, and that no peer has announced since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftoverStatus {
    pub routes: u64,
    /// When they are gone.
    pub until: String,
}

/// What BFD says of the path to a peer (RFC 5880).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdStatus {
    /// RFC 5883; false: over one hop (RFC 5881).
    pub multihop: bool,
    /// AdminDown, Down, Init or Up; null: not known.
    pub state: Option<String>,
    /// Why it was last down.
    pub diagnostic: String,
    pub since: Option<String>,
    /// How often it has gone down from Up.
    pub failures: u64,
    /// In ms, before jitter; null: nothing is sent by itself.
    pub transmit_interval: Option<u64>,
    /// In ms; null: the peer has sent nothing yet.
    pub detection_time: Option<u64>,
    pub sent: u64,
    pub received: u64,
    pub remote: Option<BfdNeighbour>,
    /// Why nothing can be sent or received.
    pub error: Option<String>,
}

/// What the peer said last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BfdNeighbour {
    pub state: String,
    pub diagnostic: String,
    /// Its BFD outlives a restart of its control plane (the C bit).
    pub control_plane_independent: bool,
}

/// ADD-PATH as both sides agreed on it for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddPath {
    pub family: Family,
    /// This node does.
    pub send: bool,
    /// The peer does.
    pub receive: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Family {
    Ipv4Unicast,
    Ipv6Unicast,
}

/// Peers that are not known one by one. Those that are there are among the peers, each with its range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeStatus {
    pub range: Prefix,
    /// The resource that asks for it, such as `BGPPeer/rack`.
    pub resource: String,
    /// How many are there, and how many may be.
    pub peers: u64,
    pub limit: u32,
    /// Empty, or why nobody may connect.
    pub info: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub dialled_by: Dialler,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotificationStatus {
    pub at: String,
    pub code: u8,
    pub subcode: u8,
    /// Such as "Cease / Connection Collision Resolution".
    pub name: String,
    /// The shutdown communication (RFC 9003), control characters escaped.
    pub text: Option<String>,
    /// Of one that this node sent: what it found wrong, where that is more than the name says.
    pub why: Option<String>,
}

/// An order that was carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ordered {
    pub node: String,
    /// The peers that it was about: more than one if several have the address, on ports of their own.
    pub peers: Vec<SocketAddr>,
}
