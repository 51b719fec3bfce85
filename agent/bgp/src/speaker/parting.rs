//! Make before break. A peer that is no longer configured keeps its session until all that came by it has come by another
//! one, or for a bounded time; what has nothing in its place by then is held as stale for another. A session that has to be
//! opened anew (its AS is another) leaves its routes in the same way, and who is a reflector's client no longer remains
//! one until the others may have found their own way.

use std::time::Duration;

use super::Speaker;
use crate::{
    ConnId, Output, PeerKey, Time,
    config::Family,
    event::{Parted, PartingEvent},
    message::notification::{Notification, cease},
    rib::table::PeerSlot,
    session::{connection::Stage, timers::Timer},
    view::Cause,
};

/// How often the routes are looked through for such as have come by another way.
const LOOK: Duration = Duration::from_secs(1);

impl Speaker {
    /// The peer is configured no longer.
    pub(super) fn part(&mut self, key: PeerKey, now: Time) {
        let parting = &self.config.parting;
        let at_once = parting.at_once.contains(&key.address);
        let never = parting.close_after.is_zero() && parting.hold.is_zero();
        let close_after = parting.close_after;
        let Some(&slot) = self.by_key.get(&key) else { return };
        let Some(peer) = self.peer_at_mut(slot) else { return };
        let established = peer.established;
        let brings = established.is_some() || peer.stale.iter().any(|&stale| stale);
        if at_once || never || !brings || peer.of_range.is_some() {
            return self.remove_peer(key, Cause::Removed, now);
        }
        if peer.parting.is_some() {
            return;
        }
        peer.parting = Some(now);
        self.begin_change(now);
        let Some(peer) = self.peer_at(slot) else { return };
        let others: Vec<ConnId> = peer.connections().filter(|&conn| Some(conn) != established).collect();
        for conn in others {
            self.close(conn, Some(&Notification::cease(cease::DECONFIGURED)), now);
        }
        for timer in [Timer::Dial(slot), Timer::HoldBack(slot)] {
            self.timers.clear(timer);
        }
        self.rib.set_parting(slot, true);
        if established.is_some() && !close_after.is_zero() {
            self.timers.set(Timer::Part(slot), now + close_after);
            self.say_parting(slot, Parted::Kept { at_most: close_after }, now);
            self.look_soon(now);
        } else {
            self.close_parting(slot, false, now);
        }
    }

    /// If it was leaving it stays.
    pub(super) fn unpart(&mut self, slot: PeerSlot) -> bool {
        let left = self.peer_at_mut(slot).is_some_and(|peer| peer.parting.take().is_some());
        if left {
            self.timers.clear(Timer::Part(slot));
            self.rib.set_parting(slot, false);
        }
        left
    }

    pub(super) fn part_timer(&mut self, slot: PeerSlot, now: Time) {
        self.close_parting(slot, false, now);
    }

    /// Ends the session of a peer that is leaving. `replaced`: all its routes have come by another way.
    fn close_parting(&mut self, slot: PeerSlot, replaced: bool, now: Time) {
        self.timers.clear(Timer::Part(slot));
        self.close_to_hold(slot, cease::DECONFIGURED, now);
        let routes = self.rib.counts(slot).0;
        let holds = !replaced && !self.config.parting.hold.is_zero();
        let held = if holds { routes } else { 0 };
        self.say_parting(slot, Parted::Closed { replaced, held, at_most: self.config.parting.hold }, now);
        self.note_state(slot, Cause::Removed, None, now);
        if routes == 0
            && let Some(key) = self.peer_at(slot).map(|peer| peer.config.key())
        {
            self.remove_peer(key, Cause::Removed, now);
        }
    }

    /// Closes the peer's connections and keeps what came by them. One of us that has not read of the change yet does so, too
    /// ([`Self::is_of_change`]).
    pub(super) fn close_to_hold(&mut self, slot: PeerSlot, subcode: u8, now: Time) {
        self.hold(slot, now);
        self.look_soon(now);
        // What was kept for the peer's return is held for another way.
        let hold = self.config.parting.hold;
        for family in Family::ALL {
            if self.peer_at(slot).is_some_and(|peer| peer.stale[family] && peer.established.is_none()) {
                self.timers.set(Timer::Stale(slot, family), now + hold);
            }
        }
        let connections: Vec<ConnId> =
            self.peer_at(slot).into_iter().flat_map(|peer| peer.connections()).collect();
        for conn in connections {
            self.close_keeping(conn, Some(&Notification::cease(subcode)), true, now);
        }
        self.release_held(slot);
    }

    fn hold(&mut self, slot: PeerSlot, now: Time) {
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.held.get_or_insert(now);
        }
        self.rib.set_held(slot, true);
    }

    fn hold_no_longer(&mut self, slot: PeerSlot) {
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.held = None;
        }
        self.rib.set_held(slot, false);
    }

    /// The topology changes, here and maybe elsewhere: for a while what is lost and has nothing in its place is kept.
    pub(super) fn begin_change(&mut self, now: Time) {
        let parting = &self.config.parting;
        if !parting.hold.is_zero() && !parting.close_after.is_zero() {
            self.timers.set(Timer::Change, now + parting.close_after);
            self.rib.set_withholding(true);
        }
    }

    /// Whatever is under way is carried out now.
    pub(super) fn hold_nothing(&mut self, now: Time) {
        self.timers.clear(Timer::Change);
        self.end_change();
        let held: Vec<PeerSlot> =
            self.peers.iter().flatten().filter(|peer| peer.held.is_some()).map(|peer| peer.slot).collect();
        for slot in held {
            for family in Family::ALL {
                if self.peer_at(slot).is_some_and(|peer| peer.stale[family]) {
                    self.stale_over(slot, family, now);
                }
            }
        }
    }

    pub(super) fn is_changing(&self) -> bool {
        self.timers.get(Timer::Change).is_some()
    }

    /// The peer's routes of the session before go on though it has lost its own: so do those of a speaker whose session was
    /// opened anew for the change.
    pub(super) fn keep_for_change(&mut self, slot: PeerSlot, family: Family, now: Time) {
        self.hold(slot, now);
        self.timers.set(Timer::Stale(slot, family), now + self.config.parting.close_after);
        self.look_soon(now);
    }

    /// The peer has read of a change, which this node may read of in a moment: it says that we are no longer its peer, or
    /// another one. What it forwards it still does.
    pub(super) fn is_of_change(&self, conn: ConnId, notification: &Notification) -> bool {
        let Some(connection) = self.connections.get(&conn) else { return false };
        let parting = &self.config.parting;
        notification.code == 6
            && [cease::DECONFIGURED, cease::CONFIGURATION_CHANGE].contains(&notification.subcode)
            && connection.stage == Stage::Established
            && !parting.hold.is_zero()
            && !parting.close_after.is_zero()
            && !parting.at_once.contains(&connection.remote.ip())
    }

    pub(super) fn hold_for_change(&mut self, slot: PeerSlot, now: Time) {
        self.begin_change(now);
        self.hold(slot, now);
    }

    /// Without a change of our own the peer's routes have the time of one, and no more.
    pub(super) fn bound_change(&mut self, slot: PeerSlot, now: Time) {
        let over = now + self.config.parting.close_after;
        for family in Family::ALL {
            let parting = |peer: &crate::session::peer::Peer| peer.parting.is_some();
            if self.peer_at(slot).is_some_and(|peer| peer.stale[family] && !parting(peer)) {
                self.timers.set(Timer::Stale(slot, family), over);
            }
        }
        self.release_held(slot);
    }

    pub(super) fn end_change(&mut self) {
        self.rib.set_withholding(false);
    }

    /// What the RIB has kept though it was lost gets its time.
    pub(super) fn note_withheld(&mut self, now: Time) {
        let at_most = self.config.parting.close_after;
        for (slot, family) in self.rib.take_withheld() {
            self.hold(slot, now);
            if let Some(peer) = self.peer_at_mut(slot)
                && !peer.stale[family]
            {
                peer.stale[family] = true;
                self.timers.set(Timer::Stale(slot, family), now + at_most);
            }
            self.look_soon(now);
        }
    }

    /// Nothing of the peer is held any longer once nothing of it is stale.
    pub(super) fn release_held(&mut self, slot: PeerSlot) {
        let over = |peer: &crate::session::peer::Peer| !peer.stale.iter().any(|&stale| stale);
        if self.peer_at(slot).is_some_and(|peer| peer.held.is_some() && over(peer)) {
            self.hold_no_longer(slot);
        }
    }

    /// The session is gone, and its routes of this family are held by our own plan.
    pub(super) fn hold_routes(&mut self, slot: PeerSlot, family: Family, now: Time) {
        let hold = self.config.parting.hold;
        if hold.is_zero() || self.rib.held(slot, family).0 == 0 {
            self.rib.flush(slot, family);
            return self.forget_stale(slot, family);
        }
        self.hold(slot, now);
        self.rib.make_stale(slot, family);
        // What earlier sessions have left goes on with it, but not for ever.
        if self.peer_at(slot).and_then(|peer| peer.held).is_some_and(|since| now.since(since) > hold) {
            self.rib.sweep(slot, family, 1);
        }
        self.forget_stale(slot, family);
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.stale[family] = true;
        }
        self.timers.set(Timer::Stale(slot, family), now + hold);
        self.look_soon(now);
    }

    fn forget_stale(&mut self, slot: PeerSlot, family: Family) {
        self.timers.clear(Timer::Stale(slot, family));
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.stale[family] = false;
            peer.refreshing[family] = 0;
            peer.long_lived_time[family] = None;
            peer.long_lived_until[family] = None;
        }
    }

    fn look_soon(&mut self, now: Time) {
        if self.timers.get(Timer::Look).is_none() {
            self.begin_look(now);
        }
    }

    fn begin_look(&mut self, now: Time) {
        if self.rib.begin_look() {
            self.look_began = now;
        }
        self.timers.set(Timer::Look, now + LOOK);
    }

    /// What the look before has found is acted on, and the next begins.
    pub(super) fn look(&mut self, now: Time) {
        if let Some(needed) = self.rib.take_look() {
            let parting: Vec<(PeerSlot, PeerKey, bool)> = self
                .peers
                .iter()
                .flatten()
                .filter(|peer| peer.parting.is_some())
                .map(|peer| (peer.slot, peer.config.key(), peer.established.is_some()))
                .collect();
            for (slot, key, established) in parting {
                if established && !needed.contains_key(&slot) {
                    self.close_parting(slot, true, now);
                } else if !established && self.rib.counts(slot).0 == 0 {
                    self.say_parting(slot, Parted::Over { expired: 0 }, now);
                    self.remove_peer(key, Cause::Removed, now);
                }
            }
            let began = self.look_began;
            let held = |peer: &&crate::session::peer::Peer| peer.held.is_some_and(|since| since < began);
            let held: Vec<PeerSlot> =
                self.peers.iter().flatten().filter(held).map(|peer| peer.slot).collect();
            for slot in held {
                if self.rib.stale_count(slot) > 0 {
                    continue;
                }
                for family in Family::ALL {
                    self.forget_stale(slot, family);
                }
                self.hold_no_longer(slot);
                // What is in their place came a moment ago, and from who may not have read the change.
                self.begin_change(now);
            }
        }
        if self.peers.iter().flatten().any(|peer| peer.parting.is_some() || peer.held.is_some()) {
            self.begin_look(now);
        }
    }

    /// Stale routes of a family have had their time, or are confirmed.
    pub(super) fn held_over(&mut self, slot: PeerSlot, now: Time) {
        let Some(peer) = self.peer_at(slot).filter(|peer| !peer.stale.iter().any(|&stale| stale)) else {
            return;
        };
        let (key, gone) = (peer.config.key(), peer.parting.is_some() && peer.established.is_none());
        self.hold_no_longer(slot);
        if gone {
            let expired = self.rib.counts(slot).0;
            self.say_parting(slot, Parted::Over { expired }, now);
            self.remove_peer(key, Cause::Removed, now);
        }
    }

    /// Is the peer to remain a client for a while? Others may still need what is reflected for its sake.
    pub(super) fn remains_client(&mut self, slot: PeerSlot, address: std::net::IpAddr, now: Time) -> bool {
        let parting = &self.config.parting;
        let at_most = parting.close_after;
        let established = self.peer_at(slot).is_some_and(|peer| peer.established.is_some());
        if at_most.is_zero() || !established || parting.at_once.contains(&address) {
            return false;
        }
        if self.timers.get(Timer::Demote(slot)).is_none() {
            self.begin_change(now);
            self.timers.set(Timer::Demote(slot), now + at_most);
            self.say_parting(slot, Parted::StillClient { at_most }, now);
        }
        true
    }

    pub(super) fn demote(&mut self, slot: PeerSlot, now: Time) {
        let Some(key) = self.peer_at(slot).map(|peer| peer.config.key()) else { return };
        let wanted = self.config.peers.iter().find(|peer| peer.key() == key).cloned();
        // Of one that is leaving nothing is wanted any more.
        if let Some(wanted) = wanted {
            self.take_client(slot, wanted.rr_client, wanted.cluster_id);
            self.join_groups(slot);
            self.after(now);
        }
    }

    fn say_parting(&mut self, slot: PeerSlot, what: Parted, now: Time) {
        if let Some(peer) = self.peer_at(slot).map(|peer| peer.config.key()) {
            self.outputs.push_back(Output::Parting(PartingEvent { at: now, peer, what }));
        }
    }
}
