//! What the driver tells the speaker, and what the speaker wants from the driver.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use manx_net::Prefix;
use serde::Serialize;

use crate::{
    Family, PeerKey,
    attr::parse::{AttributeError, Outcome},
    time::Time,
    view::{Cause, Direction, NotificationView, SessionState},
};

/// A TCP connection, dialled or accepted. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Something happened. A connection that the speaker does not know (any more) is ignored.
#[derive(Clone, Debug)]
pub enum Event {
    /// The dial that [`Output::Dial`] asked for succeeded.
    Connected { conn: ConnId, local: SocketAddr, remote: SocketAddr },
    /// It failed; the text says why, in the kernel's words ("Connection refused").
    DialFailed { conn: ConnId, error: String },
    /// The two ends of the connection are on one link, and this is our link-local address there: IPv6 next hops of ours
    /// then go out with both addresses (RFC 2545 §3). Say it right after the connection has been accepted or dialled.
    OnLink { conn: ConnId, link_local: Ipv6Addr },
    /// Bytes arrived, in any portions. Give at most 64 KiB at a time, then drain and transmit.
    Received { conn: ConnId, bytes: Bytes },
    /// The peer closed the connection, or it broke; the text says how.
    Closed { conn: ConnId, reason: String },
    /// The answer to [`Output::Watch`], and again at every change: metric of the kernel's route to the next hop,
    /// or `None` if there is none. Until the first answer a next hop counts as unreachable.
    NextHop { next_hop: NextHop, metric: Option<u32> },
    /// By which interface the next hop is reached, for rules that ask; `None`: not at all. Say it before
    /// [`Event::NextHop`], and again at every change.
    Interface { next_hop: NextHop, interface: Option<Arc<str>> },
    /// Close the session with Cease/2 and this text (RFC 9003), and keep it closed.
    Disable { peer: PeerKey, text: String },
    /// Undo [`Event::Disable`].
    Enable { peer: PeerKey },
    /// Ask the peer for its routes again (RFC 2918), if it can.
    Refresh { peer: PeerKey },
    /// BFD says that there is no path to the peer any more, and why (RFC 5882 §4.3). Its session ends at once with Cease/10
    /// (RFC 9384), and with graceful restart what came by it is kept: of third next hops nothing is said. The peer's own are
    /// the driver's to call unreachable, by [`Event::NextHop`].
    PathDown { peer: PeerKey, why: String },
    /// This process ends. With `graceful` the connections just close, so that peers keep our routes while we
    /// restart (RFC 4724 §4); else each peer is told with Cease/2 and the text. No dial, no accept afterwards.
    Shutdown { graceful: bool, text: String },
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Dial, then say [`Event::Connected`] or [`Event::DialFailed`].
    Dial { conn: ConnId, peer: PeerKey, from: Option<IpAddr>, to: SocketAddr },
    /// The connection has bytes to send: call [`crate::Speaker::transmit`] when its socket is writable. Said once
    /// until `transmit` has returned less than it was asked for.
    Transmit { conn: ConnId },
    /// Send what [`crate::Speaker::transmit`] still gives for this connection (a last NOTIFICATION), shut down
    /// the sending side, and close (after a few seconds even if the peer does not read); for a dial under way: give
    /// up. The speaker has forgotten it once `transmit` returned 0; no [`Event::Closed`] is needed.
    Close { conn: ConnId },
    /// The best path for a prefix changed. `None`: there is no path any more. Newest state only; `cause` is of the first
    /// change since the one that was told last.
    Best { prefix: Prefix, best: Option<BestPath>, cause: BestCause },
    /// The first complete set of best paths has been put out: at once, or after a restart when the peers have sent
    /// theirs, those included that restart themselves and that the choice does not wait for. Forwarding state of an earlier process that no best path claims may go now.
    Settled,
    /// A session changed its state. For the state as it is now ask [`crate::Speaker::peers`].
    Session(SessionEvent),
    /// A change of the peers is being carried out. For the log.
    Parting(PartingEvent),
    /// For the log; nothing is to be done about it.
    Warning(Warning),
    /// Resolve this next hop and report with [`Event::NextHop`], now and at each change.
    Watch { next_hop: NextHop },
    /// No path uses it any more.
    Unwatch { next_hop: NextHop },
}

/// A step on the way of a peer that is no longer what it was ([`crate::config::Parting`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartingEvent {
    pub at: Time,
    pub peer: PeerKey,
    pub what: Parted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Parted {
    /// It is no longer configured; its session goes on until its routes have come by another way.
    #[serde(rename_all = "camelCase")]
    Kept { at_most: Duration },
    /// Its session is closed.
    #[serde(rename_all = "camelCase")]
    Closed {
        /// All its routes have come by another way.
        replaced: bool,
        /// So many are held, as stale, no longer than this.
        held: u64,
        at_most: Duration,
    },
    /// Nothing is held of it any longer.
    Over {
        /// So many had nothing in their place when their time was over.
        expired: u64,
    },
    /// It is no client any more, but is treated as one for so long.
    #[serde(rename_all = "camelCase")]
    StillClient { at_most: Duration },
}

/// Why a connection is to be closed without a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no peer is configured with this address")]
    UnknownPeer,
    /// [`crate::DynamicPeers::limit`].
    #[error("there are as many peers of its range as there may be")]
    RangeFull,
    #[error("the peer is disabled")]
    Disabled,
    #[error("the peer is held back after errors")]
    HeldBack,
    #[error("the speaker is shutting down")]
    ShuttingDown,
}

/// An address to forward to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NextHop {
    pub address: IpAddr,
    /// Only for a link-local address: it lies on the link to this peer.
    pub link_of: Option<PeerKey>,
}

/// Where a path comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathSource {
    /// [`crate::Config::originated`].
    Own,
    Peer(PeerKey),
}

/// What made another path the best, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BestCause {
    pub what: BestChange,
    /// Whose path came or went; None also if the speaker has forgotten who that was.
    pub peer: Option<PeerKey>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BestChange {
    /// The peer announced it, or announced it otherwise.
    Announced,
    /// The peer withdrew it, or announced what counts as withdrawn (RFC 7606).
    Withdrawn,
    /// The peer's session is over, or what was kept of an earlier one has had its time.
    Dropped,
    /// A next hop can be reached, or cannot, or by another way.
    NextHop,
    /// The configuration: own prefixes, filters, how paths are compared.
    #[default]
    Configured,
    /// The first choice after a restart.
    FirstChoice,
    /// A path that was held for want of another has one beside it.
    Replaced,
}

/// What the dataplane needs of a best path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BestPath {
    pub source: PathSource,
    /// Sorted and distinct; empty for an own route.
    pub next_hops: Vec<NextHop>,
    /// 100 where the route has none (RFC 4271 §9.1.1 leaves it to policy).
    pub local_pref: u32,
    /// The peer asks for it to be a blackhole and may (RFC 7999, [`crate::PeerConfig::blackholes`]).
    pub blackhole: bool,
}

/// A step of a session's history. Dials that fail again with the same error are told once, so `from` need not be
/// the `to` of the step before.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionEvent {
    pub at: Time,
    pub peer: PeerKey,
    pub from: SessionState,
    pub to: SessionState,
    pub cause: Cause,
    /// The NOTIFICATION that a connection of the peer's was ended with, where `cause` says why and not how: a peer that
    /// is removed or changed, one connection of two.
    pub sent: Option<NotificationView>,
    /// Who dialled the connection that this is about, if there is one.
    pub dialled_by: Option<Direction>,
}

/// What an operator should know of a peer though its session goes on. Rate limited where a peer could flood the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Warning {
    pub at: Time,
    pub peer: PeerKey,
    pub about: About,
}

/// What a [`Warning`] is about; as text, a sentence without its subject, the peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum About {
    /// An UPDATE with a malformed attribute (RFC 7606 §8). Of each outcome one a minute is told.
    #[serde(rename_all = "camelCase")]
    Malformed {
        fault: AttributeError,
        outcome: Outcome,
        /// The first that the UPDATE announces.
        prefix: Option<Prefix>,
        /// Faults with this outcome since the last one that was told.
        untold: u64,
    },
    /// Told once, and again when it has been further from the limit in between.
    #[serde(rename_all = "camelCase")]
    PrefixesNearLimit { family: Family, held: u64, limit: u64 },
    /// The session ends.
    #[serde(rename_all = "camelCase")]
    PrefixesOverLimit { family: Family, limit: u64 },
    /// The session ends: so many paths for one prefix are nobody's.
    #[serde(rename_all = "camelCase")]
    PathsOfPrefixOverLimit { prefix: Prefix, limit: u16 },
    /// The RIB is nearly full ([`crate::Config::max_paths`]), and this peer holds the most.
    #[serde(rename_all = "camelCase")]
    PathsNearBound { held: u64, total: u64, bound: u64 },
    /// The RIB is full, and this peer's session ends, for it holds the most.
    #[serde(rename_all = "camelCase")]
    PathsOverBound { held: u64, total: u64, bound: u64 },
    /// The peer does not read, so that the RIB cannot forget routes that are gone, and it is full of them. The session
    /// ends.
    #[serde(rename_all = "camelCase")]
    UnreadOverBound { unread: u64, gone: u64, bound: u64 },
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            About::Malformed { fault, outcome, prefix, untold } => {
                write!(f, "sent a malformed UPDATE ({fault}); {outcome}")?;
                if let Some(prefix) = prefix {
                    write!(f, ", first {prefix}")?;
                }
                if *untold > 0 {
                    write!(f, "; {untold} more since the last report")?;
                }
                Ok(())
            }
            About::PrefixesNearLimit { family, held, limit } => {
                write!(f, "announces {held} {family} prefixes of the {limit} that it may")
            }
            About::PrefixesOverLimit { family, limit } => {
                write!(
                    f,
                    "announced more than the {limit} {family} prefixes that it may; closing its session"
                )
            }
            About::PathsOfPrefixOverLimit { prefix, limit } => {
                write!(f, "announced more than {limit} paths for {prefix}; closing its session")
            }
            About::PathsNearBound { held, total, bound } => {
                write!(f, "holds {held} of {total} paths in a RIB that may hold {bound}")
            }
            About::UnreadOverBound { unread, gone, bound } => {
                write!(
                    f,
                    "has {unread} changes to read, and until it has, {gone} routes that are gone stay in a RIB that \
                     may hold {bound}; closing its session"
                )
            }
            About::PathsOverBound { held, total, bound } => {
                write!(
                    f,
                    "holds {held} of {total} paths in a RIB that may hold {bound}, more than any other; \
                     closing its session"
                )
            }
        }
    }
}
