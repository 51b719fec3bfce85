//! Sessions that come up and go down, and graceful restart (RFC 4724) in both roles.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{Speaker, rules::export_of};
use crate::{
    ConnId, PeerKey, Time,
    config::{AddPath, Config, Family, PerFamily},
    message::{
        notification::Notification,
        refresh::{RefreshKind, RouteRefresh},
    },
    rib::{
        export::{GroupKey, PeerKind},
        table::PeerSlot,
    },
    session::{
        connection::Connection,
        peer::{Peer, REDEEMED, STALE_AFTER_RETURN},
        timers::Timer,
    },
};

/// Restarting: so long all peers are waited for, after that those that have a session.
const SETTLING: Duration = Duration::from_secs(10);

/// So many losses of one peer a route may outlive without being heard again; the RIB can count few more.
const MOST_LOSSES: i8 = 100;
/// So often a peer that begins to send everything again before it has ended makes all stale anew.
const MOST_BEGINNINGS: u8 = 16;

/// What a restarting speaker waits for peers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The first choice, and first tables after it (RFC 4724 §4.1).
    Choice,
    /// The End-of-RIB of first tables: without a client's routes a reflector would have the other clients drop them. A
    /// client does not wait for ours, and so nobody waits in a circle, nor longer than for a peer that has not come.
    Clients,
    /// The end of forwarding state that an earlier run left. A peer that restarts as we do is not waited for with the
    /// choice, and sends its routes a moment later; until then packets go where they went.
    Leftovers,
}

/// Whether the peer is another AS, a client, or neither.
pub(super) fn kind_of(peer: &Peer) -> PeerKind {
    if peer.ours.is_ebgp() {
        PeerKind::Ebgp { local_as: peer.ours.local_as }
    } else {
        PeerKind::Ibgp { client: peer.config.rr_client }
    }
}

/// The cluster under whose id we reflect to the peer, and the peer's routes (RFC 4456 §7).
pub(super) fn cluster_of(config: &Config, peer: &Peer) -> Ipv4Addr {
    peer.config.cluster_id.or(config.cluster_id).unwrap_or(config.router_id)
}

/// Our address of this family towards a peer to whom we are `local`.
fn self_next_hop(
    config: &Config,
    local: Option<IpAddr>,
    family: Family,
    extended_next_hop: bool,
) -> Option<IpAddr> {
    match (family, local) {
        (Family::Ipv4Unicast, Some(local @ IpAddr::V4(_))) => Some(local),
        // RFC 8950: by the link that the session proves to work, whatever IPv4 address may be somewhere.
        (Family::Ipv4Unicast, local) if extended_next_hop => {
            self_next_hop(config, local, Family::Ipv6Unicast, extended_next_hop)
        }
        (Family::Ipv4Unicast, _) => config.next_hop_v4.map(IpAddr::V4),
        // A link-local address means something on one link only; a global one is announced if there is one.
        (Family::Ipv6Unicast, Some(IpAddr::V6(local))) if !local.is_unicast_link_local() => {
            Some(IpAddr::V6(local))
        }
        (Family::Ipv6Unicast, local) => config.next_hop_v6.map(IpAddr::V6).or(local.filter(IpAddr::is_ipv6)),
    }
}

impl Speaker {
    pub(super) fn session_up(&mut self, conn: ConnId, now: Time) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let slot = connection.peer;
        let Some(negotiated) = connection.negotiated.clone() else { return };
        let Some(peer) = self.peer_at_mut(slot) else { return };
        peer.established = Some(conn);
        peer.established_count += 1;
        peer.last_established = Some(now);
        peer.failures = 0;
        peer.end_of_rib = PerFamily::default();
        peer.refreshing = PerFamily::default();
        peer.near_limit = PerFamily::default();
        self.rib.set_router_id(slot, negotiated.remote_id);
        self.judge_imports(slot);
        self.timers.clear(Timer::Dial(slot));
        for family in Family::ALL {
            let stale = self.peer_at(slot).is_some_and(|peer| peer.stale[family]);
            if !stale {
                continue;
            }
            // Our own plan is why the session went: until they have come by another way, or by this one.
            if self.peer_at(slot).is_some_and(|peer| peer.held.is_some()) {
                continue;
            }
            // RFC 4724 §4.2, RFC 9494 §4.5: kept only if the peer says that it still forwards.
            let long_lived = self.is_long_lived(slot, family);
            let preserved = match negotiated.long_lived(family) {
                Some(theirs) if long_lived => theirs.preserved,
                None if long_lived => false,
                _ => negotiated.preserved(family),
            };
            if negotiated.families.contains(&family) && preserved {
                self.timers.set(Timer::Stale(slot, family), now + STALE_AFTER_RETURN);
            } else if self.is_changing() {
                self.keep_for_change(slot, family, now);
            } else {
                self.stale_over(slot, family, now);
            }
        }
        self.release_held(slot);
        self.join_groups(slot);
        self.check_deferral();
    }

    /// Puts the peer into the groups that its session and configuration call for.
    pub(super) fn join_groups(&mut self, slot: PeerSlot) {
        let local = self.local_address(slot);
        let Some(peer) = self.peer_at(slot) else { return };
        let Some(connection) = peer.established.and_then(|conn| self.connections.get(&conn)) else { return };
        let Some(negotiated) = &connection.negotiated else { return };
        let cluster_id = cluster_of(&self.config, peer);
        let keys: Vec<GroupKey> = negotiated
            .families
            .iter()
            .map(|&family| {
                let extended = negotiated.extended_next_hop;
                (family, self_next_hop(&self.config, local, family, extended))
            })
            .map(|(family, self_next_hop)| GroupKey {
                family,
                kind: kind_of(peer),
                next_hop_mode: peer.config.next_hop,
                self_next_hop,
                extended_next_hop: negotiated.extended_next_hop,
                role: peer.ours.role,
                link_local: connection.link_local.filter(|_| self_next_hop.is_some_and(|own| own.is_ipv6())),
                cluster_id,
                client_to_client: self.config.client_to_client,
                four_octet: negotiated.four_octet,
                extended_messages: negotiated.extended_messages,
                long_lived: peer.ours.long_lived.is_none() || negotiated.long_lived(family).is_some(),
                add_path: if negotiated.add_path[family].send {
                    peer.config.add_path.send.min(AddPath::MOST)
                } else {
                    0
                },
                rules: export_of(&self.config, &peer.config, &peer.ours, family),
            })
            .collect();
        for key in keys {
            self.rib.join(slot, key);
        }
    }

    /// `keep_routes`: the connection went without a NOTIFICATION, and what the peer asked us to keep is kept.
    pub(super) fn session_down(&mut self, connection: &Connection, keep_routes: bool, now: Time) {
        let slot = connection.peer;
        let shutting_down = self.shutting_down;
        let Some(peer) = self.peer_at_mut(slot) else { return };
        if peer.last_established.is_some_and(|at| now.since(at) > REDEEMED) {
            peer.errors = 0;
        }
        for family in Family::ALL {
            self.rib.leave(slot, family);
            // Our own end takes nothing from the dataplane, which goes on without us.
            if shutting_down {
                continue;
            }
            let negotiated = connection.negotiated.as_ref();
            if self.peer_at(slot).is_some_and(|peer| peer.parting.is_some() || peer.held.is_some()) {
                self.hold_routes(slot, family, now);
                continue;
            }
            let long_lived_time = negotiated
                .and_then(|n| n.long_lived(family))
                .map(|long_lived| long_lived.time)
                .filter(|&time| time > 0 && keep_routes);
            // RFC 9494 §4.2: a restart time of 0 goes over into the long-lived at once.
            let restart_time = negotiated.and_then(|n| n.restart_time(family)).or(long_lived_time.map(|_| 0));
            if let Some(peer) = self.peer_at_mut(slot) {
                peer.long_lived_time[family] = long_lived_time;
            }
            match restart_time {
                Some(seconds) if keep_routes => {
                    self.rib.make_stale(slot, family);
                    let over = now + Duration::from_secs(u64::from(seconds));
                    let end = self.running_long_lived(slot, family, now);
                    // What had not been heard again since the loss before this one is too old (RFC 4724 §4.2); what a
                    // refresh had yet to repeat is not, nor what is long-lived (RFC 9494 §4.2).
                    let refreshing = self.peer_at(slot).is_some_and(|peer| peer.refreshing[family] > 0);
                    let grace = if end.is_some() || refreshing { MOST_LOSSES } else { 1 };
                    self.rib.sweep(slot, family, grace);
                    self.set_stale(slot, family, true);
                    self.timers.set(Timer::Stale(slot, family), end.map_or(over, |end| end.min(over)));
                }
                _ => {
                    self.rib.flush(slot, family);
                    self.set_stale(slot, family, false);
                    self.end_long_lived(slot, family);
                    self.timers.clear(Timer::Stale(slot, family));
                }
            }
        }
        self.check_deferral();
    }

    fn set_stale(&mut self, slot: PeerSlot, family: Family, stale: bool) {
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.stale[family] = stale;
        }
    }

    fn set_refreshing(&mut self, slot: PeerSlot, family: Family, refreshing: u8) {
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.refreshing[family] = refreshing;
        }
    }

    /// The restart time is over, or the long-lived time, or the time for End-of-RIB after the peer's return.
    pub(super) fn stale_timer(&mut self, slot: PeerSlot, family: Family, now: Time) {
        let Some(peer) = self.peer_at_mut(slot) else { return };
        let away = peer.established.is_none();
        let fresh =
            peer.long_lived_time[family].take().map(|time| now + Duration::from_secs(u64::from(time)));
        // RFC 9494 §4.2: a timer that runs is not set anew.
        let end = peer.long_lived_until[family].or(fresh).filter(|&end| away && fresh.is_some() && end > now);
        match end {
            Some(end) => {
                peer.long_lived_until[family] = Some(end);
                self.rib.make_long_lived(slot, family);
                self.timers.set(Timer::Stale(slot, family), end);
            }
            None => self.stale_over(slot, family, now),
        }
    }

    /// Has the long-lived time of routes of the peer begun?
    fn is_long_lived(&self, slot: PeerSlot, family: Family) -> bool {
        self.peer_at(slot).is_some_and(|peer| peer.long_lived_until[family].is_some())
    }

    /// The end of the long-lived time that began with an earlier loss. One that has passed while the peer was here and
    /// had not sent everything yet is over, and what it was for goes with this loss (RFC 9494 §4.2).
    fn running_long_lived(&mut self, slot: PeerSlot, family: Family, now: Time) -> Option<Time> {
        let end = self.peer_at(slot)?.long_lived_until[family]?;
        if end > now {
            return Some(end);
        }
        self.end_long_lived(slot, family);
        None
    }

    fn end_long_lived(&mut self, slot: PeerSlot, family: Family) {
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.long_lived_until[family] = None;
        }
    }

    /// What is still stale has had its time.
    pub(super) fn stale_over(&mut self, slot: PeerSlot, family: Family, now: Time) {
        self.timers.clear(Timer::Stale(slot, family));
        self.set_stale(slot, family, false);
        self.set_refreshing(slot, family, 0);
        self.end_long_lived(slot, family);
        self.may_be_forgotten(slot);
        self.rib.sweep(slot, family, 0);
        self.held_over(slot, now);
    }

    pub(super) fn end_of_rib(&mut self, slot: PeerSlot, family: Family, now: Time) {
        let Some(peer) = self.peer_at_mut(slot) else { return };
        peer.end_of_rib[family] = true;
        let is_over = peer.stale[family] && peer.held.is_none();
        if is_over && self.is_changing() {
            self.keep_for_change(slot, family, now);
        } else if is_over {
            self.stale_over(slot, family, now);
        }
        self.check_deferral();
    }

    pub(super) fn refresh(&mut self, conn: ConnId, body: &[u8], now: Time) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let slot = connection.peer;
        let Some(negotiated) = &connection.negotiated else { return };
        let refresh = match RouteRefresh::parse(body, negotiated.enhanced_refresh) {
            Ok(Some(refresh)) if negotiated.families.contains(&refresh.family) => refresh,
            Ok(_) => return,
            Err(notification) => return self.fail(conn, notification, now),
        };
        match refresh.kind {
            RefreshKind::Request => {
                let enhanced = negotiated.enhanced_refresh;
                self.rib.replay(slot, refresh.family, enhanced);
            }
            // RFC 7313 §4: what is not heard again until the end is gone. Before the End-of-RIB of a restart the
            // mark is ignored: that marker will say the same.
            RefreshKind::Begin => {
                let Some(peer) = self.peer_at(slot) else { return };
                let begun = peer.refreshing[refresh.family];
                if peer.stale[refresh.family] && begun == 0 {
                    return;
                }
                // The RIB cannot count without end how old a path is.
                if begun < MOST_BEGINNINGS {
                    self.rib.make_stale(slot, refresh.family);
                    self.set_stale(slot, refresh.family, true);
                    self.set_refreshing(slot, refresh.family, begun + 1);
                }
                self.timers.set(Timer::Stale(slot, refresh.family), now + STALE_AFTER_RETURN);
            }
            RefreshKind::End => {
                if self.peer_at(slot).is_some_and(|peer| peer.refreshing[refresh.family] > 0) {
                    self.stale_over(slot, refresh.family, now);
                }
            }
        }
    }

    pub(super) fn ask_refresh(&mut self, key: PeerKey) {
        let Some(conn) = self.by_key.get(&key).and_then(|&slot| self.peer_at(slot)?.established) else {
            return;
        };
        let Some(negotiated) = self.connections.get(&conn).and_then(|c| c.negotiated.as_ref()) else {
            return;
        };
        if negotiated.route_refresh {
            for family in negotiated.families.clone() {
                self.send(conn, RouteRefresh { family, kind: RefreshKind::Request }.encode());
            }
        }
    }

    // Restarting.

    pub(super) fn begin_deferral(&mut self, now: Time) {
        let longest = Duration::from_secs(u64::from(self.config.graceful_restart.restart_time));
        self.timers.set(Timer::Settling, now + SETTLING.min(longest));
        self.timers.set(Timer::Deferral, now + longest);
        self.check_deferral();
    }

    /// Ends the deferral, and then the wait with what an earlier run left, if every peer that counts has sent all it
    /// has. (First tables get their End-of-RIB when the driver has taken what there is: [`Self::is_end_of_rib_due`].)
    pub(super) fn check_deferral(&mut self) {
        if self.rib.is_deferred() && self.is_complete(Awaited::Choice) {
            self.rib.end_deferral();
        }
        if self.keeps_leftovers && !self.rib.is_deferred() && self.is_complete(Awaited::Leftovers) {
            self.release_leftovers();
        }
    }

    fn is_complete(&self, awaited: Awaited) -> bool {
        // Nobody knows who may still come from a range.
        if self.config.dynamic_peers.iter().any(|peers| !peers.is_closed()) && !self.settling_over {
            return false;
        }
        self.by_key.values().all(|&slot| {
            let Some(peer) = self.peer_at(slot) else { return true };
            let Some(conn) = peer.established else {
                return self.settling_over || peer.disabled || peer.parting.is_some();
            };
            let Some(negotiated) = self.connections.get(&conn).and_then(|c| c.negotiated.as_ref()) else {
                return true;
            };
            let heard = negotiated.families.iter().all(|&family| peer.end_of_rib[family]);
            match &negotiated.restart {
                // Who knows nothing of it sends no marker.
                None => true,
                // RFC 4724 §4.1: who restarts too waits for us.
                Some(restart) if restart.restarting && awaited == Awaited::Choice => true,
                Some(restart) if restart.restarting && awaited == Awaited::Clients => {
                    heard || self.settling_over || kind_of(peer) != PeerKind::Ibgp { client: true }
                }
                Some(_) => heard,
            }
        })
    }

    /// True once, when the first tables are whole: then the driver is asked to send what ends them.
    pub(super) fn is_end_of_rib_due(&mut self) -> bool {
        let due = self.keeps_end_of_rib
            && !self.rib.is_deferred()
            && !self.rib.has_work()
            && (!self.keeps_leftovers || self.is_complete(Awaited::Clients));
        if due {
            self.keeps_end_of_rib = false;
            self.rib.release_end_of_rib();
            self.ask_touched();
        }
        due
    }

    /// Time is up, whoever has not spoken.
    pub(super) fn deferral_timer(&mut self) {
        self.rib.end_deferral();
        self.release_leftovers();
    }

    /// What no best path claims may go.
    fn release_leftovers(&mut self) {
        self.timers.clear(Timer::Settling);
        self.timers.clear(Timer::Deferral);
        self.keeps_leftovers = false;
    }

    /// Sends the peer's session away for a reason of ours.
    pub(super) fn cease(&mut self, slot: PeerSlot, subcode: u8, now: Time) -> bool {
        let connections: Vec<ConnId> =
            self.peer_at(slot).into_iter().flat_map(|peer| peer.connections()).collect();
        for &conn in &connections {
            self.close(conn, Some(&Notification::cease(subcode)), now);
        }
        !connections.is_empty()
    }
}
