//! The speaker's answers to questions.

use manx_net::Prefix;

use super::Speaker;
use crate::{
    PeerKey,
    config::Family,
    event::BestPath,
    rib::table::PeerSlot,
    session::{peer::Peer, timers::Timer},
    view::{PeerCounters, PeerView, PrefixView, RouteView, Walk},
};

impl Speaker {
    /// All configured peers, by address.
    pub fn peers(&self) -> Vec<PeerView> {
        self.by_key.values().filter_map(|&slot| Some(self.peer_view(self.peer_at(slot)?))).collect()
    }

    pub fn peer(&self, peer: PeerKey) -> Option<PeerView> {
        let &slot = self.by_key.get(&peer)?;
        Some(self.peer_view(self.peer_at(slot)?))
    }

    fn peer_view(&self, peer: &Peer) -> PeerView {
        // The connection that is furthest, and whose state is the peer's.
        let connection =
            peer.connections().filter_map(|conn| self.connections.get(&conn)).max_by_key(|c| c.state());
        let negotiated = connection.and_then(|connection| connection.negotiated.as_ref());
        let (received, refused) = self.rib.counts(peer.slot);
        PeerView {
            address: peer.config.address,
            port: peer.config.port,
            remote_as: peer.ours.remote_as,
            local_as: peer.ours.local_as,
            rr_client: peer.config.rr_client && !peer.ours.is_ebgp(),
            range: peer.of_range.map(|of_range| of_range.range),
            dial: peer.config.dial,
            state: peer.state,
            since: peer.since,
            session_since: peer.session_since,
            established_count: peer.established_count,
            last_established: peer.last_established,
            dialled_by: connection.map(|connection| connection.direction),
            local: connection.and_then(|connection| connection.local),
            remote: connection.map(|connection| connection.remote),
            remote_id: negotiated.map(|negotiated| negotiated.remote_id),
            negotiated: negotiated.map(|negotiated| negotiated.view(peer.config.keepalive_time)),
            next_dial: self.timers.get(Timer::Dial(peer.slot)),
            counters: PeerCounters {
                prefixes_received: received,
                prefixes_accepted: received - refused,
                prefixes_sent: self.rib.announced_count(peer.slot),
                ..peer.counters
            },
            last_error: peer.last_error.clone(),
            notification_sent: peer.notification_sent.clone(),
            notification_received: peer.notification_received.clone(),
            near_limit: self.near_limits(peer),
            stale_until: Family::ALL
                .into_iter()
                .filter_map(|family| self.timers.get(Timer::Stale(peer.slot, family)))
                .max(),
            stale: self.rib.stale_count(peer.slot),
            held: peer.held.is_some(),
            parting_since: peer.parting,
            closes_at: self.timers.get(Timer::Part(peer.slot)),
        }
    }

    /// The Loc-RIB, in order: up to `limit` prefixes after `after`.
    pub fn routes(&self, after: Option<Prefix>, limit: usize) -> Vec<RouteView> {
        self.rib.routes(after, limit)
    }

    /// The Loc-RIB's prefixes, and those whose paths only lack a next hop that can be reached, in pieces, in no order: of
    /// each piece at most `slots` places are looked at, whatever the table's size. `None`: that was the last. What stands
    /// throughout a walk is met once.
    pub fn walk(&self, from: Walk, slots: u32) -> (Vec<Prefix>, Option<Walk>) {
        self.rib.walk(from, slots)
    }

    pub fn best(&self, prefix: Prefix) -> Option<RouteView> {
        self.rib.best(prefix)
    }

    /// What the last [`crate::Output::Best`] said of a prefix, and what it says now if nothing has changed since. The outer
    /// `None`: another one is on its way.
    pub fn told(&self, prefix: Prefix) -> Option<Option<BestPath>> {
        self.rib.told(prefix)
    }

    /// All paths of a prefix, with the step at which each lost, and to whom the best one went. `None` if nobody
    /// announces it.
    pub fn explain(&self, prefix: Prefix) -> Option<PrefixView> {
        let family = Family::of(prefix);
        let sessions: Vec<(PeerSlot, PeerKey)> = self
            .by_key
            .iter()
            .filter(|&(_, &slot)| {
                let conn = self.peer_at(slot).and_then(|peer| peer.established);
                let negotiated = conn.and_then(|conn| self.connections.get(&conn)?.negotiated.as_ref());
                negotiated.is_some_and(|negotiated| negotiated.families.contains(&family))
            })
            .map(|(&key, &slot)| (slot, key))
            .collect();
        self.rib.explain(prefix, &sessions).filter(|view| !view.paths.is_empty())
    }

    /// How many routes, attribute sets and next hops are held: what must return to its beginning when all
    /// routes are gone.
    pub fn sizes(&self) -> (usize, usize, usize) {
        self.rib.sizes()
    }
}
