//! `/v1/blackholes`: prefixes whose packets die here because somebody asked for it, and why.

use manx_net::Prefix;
use serde::{Deserialize, Serialize};

/// What the sender of a packet to a blackhole hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BlackholeReply {
    /// Nothing.
    #[default]
    Drop,
    /// ICMP destination unreachable, from the kernel and within its limits.
    Unreachable,
}

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AskedBy {
    /// By `manxctl blackhole add`.
    Operator,
    /// By the community BLACKHOLE (RFC 7999).
    Peer,
    /// It is a block of this node, and of the addresses in it only pods' are reached.
    OwnBlock,
    /// It is a pool that is closed where no block covers.
    Pool,
}

/// Why a prefix is a blackhole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlackholeCause {
    pub asked_by: AskedBy,
    /// The operator's name and user id, the peer's address, or the resource.
    pub who: String,
    /// When an operator ordered it, else since when this manxd has known of it.
    pub since: String,
    /// By the wall clock; absent where it stands until it is taken back.
    pub expires_at: Option<String>,
    pub comment: Option<String>,
    pub reply: BlackholeReply,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blackholes {
    pub node: String,
    /// Sorted by prefix.
    pub blackholes: Vec<BlackholeRow>,
    /// What is wrong with keeping them over a restart.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlackholeRow {
    pub prefix: Prefix,
    #[serde(flatten)]
    pub cause: BlackholeCause,
    /// Seconds until it expires.
    pub seconds_left: Option<u64>,
    /// The kernel's FIB has our route for it.
    pub in_kernel: bool,
    /// The eBPF map has it; absent where there is no map.
    pub in_map: Option<bool>,
    /// Why a sink does not have it, or has it otherwise than asked.
    pub reason: Option<String>,
    /// What the programs dropped, or left to the kernel to answer, since it was ordered, or since the map has it;
    /// absent where nothing counts. What the kernel's route alone drops, of the host's own packets, is not in it.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
}

/// The body of [`super::path::BLACKHOLE_ADD`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddBlackholes {
    pub prefixes: Vec<Prefix>,
    /// Seconds from now; absent: until it is deleted.
    pub seconds: Option<u64>,
    #[serde(default)]
    pub reply: BlackholeReply,
    pub comment: Option<String>,
    /// The name under which whoever asks is logged in. The user id is taken from the socket.
    pub operator: Option<String>,
    /// From where whoever asks is logged in: not to be cut off.
    pub operator_address: Option<std::net::IpAddr>,
    /// Also where it cuts the node off from something that it needs.
    #[serde(default)]
    pub even_if_it_cuts_off: bool,
}

/// The body of [`super::path::BLACKHOLE_DELETE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeleteBlackholes {
    pub prefixes: Vec<Prefix>,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlackholesOrdered {
    pub node: String,
    pub prefixes: Vec<Prefix>,
    /// Of `prefixes`: those that were ordered before, and are now as this order says.
    pub replaced: Vec<Prefix>,
    pub expires_at: Option<String>,
    /// What else there is to know, a sentence each.
    pub notes: Vec<String>,
}
