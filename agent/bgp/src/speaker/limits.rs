//! How much a peer may announce, and how much all of them together may: a peer that announces more is sent away
//! for a while, so that nobody's mistake costs the memory of the node.

use std::time::Duration;

use super::{Speaker, subject, view_of};
use crate::{
    Time,
    config::{Family, MaxPrefixes},
    event::{About, Output, Warning},
    message::notification::{Notification, cease},
    rib::{paths::MOST_PATHS, table::PeerSlot},
    session::peer::{LIMIT_HOLD_BACK, MAX_LIMIT_HOLD_BACK, Peer},
    view::{Cause, LimitView},
};

/// So many octets of UPDATEs may pass between two looks at the whole RIB's size, for a look costs a visit to every
/// peer.
const LOOK_AFTER: usize = 64 * 1024;

/// A peer that has taken nothing for so long does not read.
const STUCK: Duration = Duration::from_secs(5);

impl Speaker {
    /// A peer sent an UPDATE of so many octets.
    pub(super) fn check_limits(&mut self, slot: PeerSlot, octets: usize, now: Time) {
        self.check_max_prefixes(slot, now);
        if let Some((slot, prefix)) = self.rib.take_crowded() {
            self.warn(slot, About::PathsOfPrefixOverLimit { prefix, limit: MOST_PATHS }, now);
            self.send_away(slot, &Notification::cease(cease::OUT_OF_RESOURCES), now);
        }
        self.unweighed += octets;
        if self.unweighed > LOOK_AFTER {
            self.unweighed = 0;
            self.check_max_paths(now);
            self.check_unread(now);
        }
    }

    /// What of the peer's counts against its limit: not what is kept of an earlier session, which it may be about to say
    /// again under other names (RFC 7911 §3); with that, twice the limit is the most.
    fn held_against_limit(&self, slot: PeerSlot, family: Family, max: MaxPrefixes) -> u64 {
        let of =
            |(received, refused): (u64, u64)| if max.accepted_only { received - refused } else { received };
        let (held, heard) = (of(self.rib.held(slot, family)), of(self.rib.heard(slot, family)));
        heard.max(held.saturating_sub(max.limit.into()))
    }

    /// Behaviour 59.
    pub(super) fn check_max_prefixes(&mut self, slot: PeerSlot, now: Time) {
        for family in Family::ALL {
            let Some(peer) = self.peer_at(slot).filter(|peer| peer.established.is_some()) else { return };
            let Some(max) = peer.config.max_prefixes else { return };
            let held = self.held_against_limit(slot, family, max);
            let limit = u64::from(max.limit);
            if held > limit {
                self.warn(slot, About::PrefixesOverLimit { family, limit }, now);
                // RFC 4486 §4.
                let mut data = [0; 7];
                data[..2].copy_from_slice(&family.afi().to_be_bytes());
                data[2] = 1;
                data[3..].copy_from_slice(&max.limit.to_be_bytes());
                self.send_away(slot, &Notification::new(6, cease::MAXIMUM_PREFIXES, &data), now);
                return;
            }
            let near = max.warn_at > 0 && held * 100 >= limit * u64::from(max.warn_at);
            let Some(peer) = self.peer_at_mut(slot) else { return };
            let was_near = std::mem::replace(&mut peer.near_limit[family], near);
            if near && !was_near {
                self.warn(slot, About::PrefixesNearLimit { family, held, limit }, now);
            }
        }
    }

    pub(super) fn near_limits(&self, peer: &Peer) -> Vec<LimitView> {
        let max = peer.config.max_prefixes.filter(|_| peer.established.is_some());
        let Some(max) = max else { return Vec::new() };
        let near = Family::ALL.into_iter().filter(|&family| peer.near_limit[family]);
        near.map(|family| {
            let held = self.held_against_limit(peer.slot, family, max);
            LimitView { family, held, limit: max.limit }
        })
        .collect()
    }

    /// [`crate::Config::max_paths`] as it is in force.
    pub fn max_paths(&self) -> u64 {
        self.config.max_paths
    }

    /// From so many paths on the bound is near.
    pub fn near_max_paths(&self) -> u64 {
        let bound = self.config.max_paths;
        (bound - bound / 10).max(1)
    }

    /// Of those who hold too much together, whoever holds the most has to go.
    fn check_max_paths(&mut self, now: Time) {
        let bound = self.config.max_paths;
        loop {
            // What is on its way out already, piece by piece, counts against nobody.
            let holders = self.by_key.values().copied().filter(|&slot| {
                self.peer_at(slot)
                    .is_some_and(|peer| peer.established.is_some() || peer.stale.iter().any(|&stale| stale))
            });
            let held: Vec<(u64, PeerSlot)> = holders.map(|slot| (self.rib.counts(slot).0, slot)).collect();
            let total: u64 = held.iter().map(|(paths, _)| paths).sum();
            let Some(&(most, slot)) = held.iter().max() else { return };
            if total <= bound {
                let near = total >= self.near_max_paths();
                if near && !std::mem::replace(&mut self.near_bound, near) {
                    self.warn(slot, About::PathsNearBound { held: most, total, bound }, now);
                }
                self.near_bound = near;
                return;
            }
            self.warn(slot, About::PathsOverBound { held: most, total, bound }, now);
            if self.peer_at(slot).is_some_and(|peer| peer.established.is_some()) {
                self.send_away(slot, &Notification::cease(cease::OUT_OF_RESOURCES), now);
                continue;
            }
            // What was kept for its return.
            for family in Family::ALL {
                self.stale_over(slot, family, now);
            }
        }
    }

    /// A route that is gone has its place until every peer has read that it is. What a peer that does not read keeps so
    /// is bounded like paths are, and the peer with the most to read has to go. One that reads, if slowly, is given
    /// twice the room.
    fn check_unread(&mut self, now: Time) {
        let (gone, bound) = (self.rib.empty_routes(), self.config.max_paths);
        let paths: u64 = self.by_key.values().map(|&slot| self.rib.counts(slot).0).sum();
        if gone + paths <= bound {
            return;
        }
        let established = self.by_key.values().filter_map(|&slot| {
            let conn = self.peer_at(slot)?.established?;
            let stuck = self.connections.get(&conn)?.taken + STUCK <= now;
            (stuck || gone + paths > 2 * bound).then(|| (self.rib.unread(slot), slot))
        });
        // Who has read nearly all keeps next to nothing.
        if let Some((unread, slot)) = established.max().filter(|&(unread, _)| unread > gone / 2) {
            self.warn(slot, About::UnreadOverBound { unread, gone, bound }, now);
            self.send_away(slot, &Notification::cease(cease::OUT_OF_RESOURCES), now);
        }
    }

    /// Ends the session, and leaves the peer alone: a minute, and twice as long each time that it comes to the same.
    fn send_away(&mut self, slot: PeerSlot, notification: &Notification, now: Time) {
        let Some(conn) = self.peer_at(slot).and_then(|peer| peer.established) else { return };
        let seen = self.close(conn, Some(notification), now);
        // Where routes would outlive a Cease it went in a Hard Reset.
        let last_word = self.peer_at(slot).and_then(|peer| peer.notification_sent.clone());
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.last_error = Some(subject(notification));
            peer.errors = peer.errors.saturating_add(1);
            let doublings = peer.errors.saturating_sub(1).min(8);
            let time: Duration = LIMIT_HOLD_BACK.saturating_mul(1 << doublings).min(MAX_LIMIT_HOLD_BACK);
            self.hold_back(slot, time, now);
        }
        self.gone(
            slot,
            seen,
            Cause::NotificationSent(last_word.unwrap_or_else(|| view_of(notification, now))),
            now,
        );
    }

    pub(super) fn warn(&mut self, slot: PeerSlot, about: About, now: Time) {
        if let Some(peer) = self.peer_at(slot) {
            let warning = Warning { at: now, peer: peer.config.key(), about };
            self.outputs.push_back(Output::Warning(warning));
        }
    }
}
