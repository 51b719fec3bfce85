//! The speaker: sessions and RIB put together behind one event loop's interface.

use std::net::SocketAddr;

use bytes::Bytes;
use manx_net::Prefix;

use crate::{
    Config, ConnId, Event, Output, PeerKey, Refusal, Time,
    view::{PeerView, PrefixView, RouteView},
};

/// See the crate's page for the way to drive it.
#[derive(Debug)]
pub struct Speaker {
    config: Config,
}

impl Speaker {
    /// Peers that dial first ask for their dials at once.
    pub fn new(config: Config, _now: Time) -> Speaker {
        Speaker { config }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes a new configuration in place of the old one. A peer that stays as it was keeps its session; of a changed
    /// one, only what is in OPEN resets it ([`crate::PeerConfig`]). Removed: Cease/3. Own prefixes and the export
    /// rule: only differences are sent.
    pub fn configure(&mut self, config: Config, _now: Time) {
        self.config = config;
    }

    /// A connection came in on the listener. On refusal close it; the speaker keeps nothing of it.
    pub fn accept(&mut self, _local: SocketAddr, _remote: SocketAddr, _now: Time) -> Result<ConnId, Refusal> {
        Err(Refusal::UnknownPeer)
    }

    pub fn handle(&mut self, _event: Event, _now: Time) {}

    /// Fires the timers that are due and does one bounded piece of waiting work (withdrawing a lost peer's
    /// routes, a new peer's first table). True: more is waiting; serve the sockets and call again.
    pub fn advance(&mut self, _now: Time) -> bool {
        false
    }

    /// When [`Self::advance`] wants to be called; [`Time::ZERO`] if work is waiting.
    pub fn next_wakeup(&self) -> Option<Time> {
        None
    }

    /// The next thing for the driver to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }

    /// Appends whole messages for `conn` to `out`, up to about `budget` bytes but at least one message if there is
    /// one, and returns their number of bytes. What is handed out counts as sent: write it all. Nothing is
    /// prepared before it is asked for, so a slow peer costs no memory and gets the newest state only.
    pub fn transmit(&mut self, _conn: ConnId, _budget: usize, _out: &mut Vec<Bytes>, _now: Time) -> usize {
        0
    }

    /// All configured peers, by address.
    pub fn peers(&self) -> Vec<PeerView> {
        Vec::new()
    }

    pub fn peer(&self, _peer: PeerKey) -> Option<PeerView> {
        None
    }

    /// The Loc-RIB, in order: up to `limit` prefixes after `after`.
    pub fn routes(&self, _after: Option<Prefix>, _limit: usize) -> Vec<RouteView> {
        Vec::new()
    }

    pub fn best(&self, _prefix: Prefix) -> Option<RouteView> {
        None
    }

    /// All paths of a prefix, with the step at which each lost, and to whom the best one went. `None` if nobody ever
    /// announced it.
    pub fn explain(&self, _prefix: Prefix) -> Option<PrefixView> {
        None
    }
}
