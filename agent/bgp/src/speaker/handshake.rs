//! From our OPEN to Established: the peer's OPEN judged, collisions resolved (RFC 4271 §6.8), the first keepalive.

use std::time::Duration;

use super::{Speaker, hold_limit, send_hold_limit};
use crate::{
    ConnId, Time,
    message::{
        keepalive,
        notification::{Notification, cease},
        open::Open,
    },
    rib::table::PeerSlot,
    session::{
        connection::Stage,
        negotiation::Negotiated,
        peer::{NO_COLLISION, survivor},
        timers::Timer,
    },
    view::{Cause, Direction},
};

impl Speaker {
    pub(super) fn opened(&mut self, conn: ConnId, body: &[u8], now: Time) {
        let Some(slot) = self.connections.get(&conn).map(|connection| connection.peer) else { return };
        let negotiated = match self.negotiate(slot, body) {
            Ok(negotiated) => negotiated,
            Err(notification) => {
                let why = self.objection(slot, body, &notification);
                return self.fail_because(conn, notification, why, now);
            }
        };
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.negotiated = Some(negotiated);
        if !self.survives_collisions(conn, now) {
            let gone = self.close(conn, Some(&Notification::cease(cease::COLLISION)), now);
            return self.gone(slot, gone, Cause::Collision, now);
        }
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.stage = Stage::OpenConfirm;
        let direction = connection.direction;
        if let Some(limit) = hold_limit(connection) {
            self.timers.set(Timer::Hold(conn), now + limit);
        }
        self.send(conn, keepalive());
        self.set_keepalive(conn, now);
        self.note_state(slot, Cause::OpenReceived, Some(direction), now);
    }

    fn negotiate(&mut self, slot: PeerSlot, body: &[u8]) -> Result<Negotiated, Notification> {
        let open = Open::parse(body).map_err(|error| error.notification())?;
        self.take_as(slot, &open)?;
        let peer = self.peer_at(slot).ok_or_else(|| Notification::cease(cease::DECONFIGURED))?;
        peer.ours.negotiate(&open)
    }

    /// What the peer's OPEN says that it should not, and what was expected.
    fn objection(&self, slot: PeerSlot, body: &[u8], answer: &Notification) -> Option<String> {
        let theirs = match Open::parse(body) {
            Ok(theirs) => theirs,
            Err(error) => return Some(error.to_string()),
        };
        let ours = &self.peer_at(slot)?.ours;
        Some(match (answer.code, answer.subcode) {
            (2, 2) => match theirs.as_number() {
                Some(number) => format!("the peer says AS {number}, configured is {}", ours.remote_as),
                None => format!("the peer says AS 0 or two different ones, configured is {}", ours.remote_as),
            },
            (2, 3) if theirs.identifier == ours.router_id => {
                format!("the peer's identifier {} is ours, too", theirs.identifier)
            }
            (2, 3) => format!("the peer's identifier is {}", theirs.identifier),
            (2, 6) => format!("the peer asks for {} s", theirs.hold_time),
            (2, 7) => "no address family is configured on both sides".to_owned(),
            _ => return None,
        })
    }

    /// Judges this connection, whose OPEN has come, against the peer's others; closes those that lose. The identifier
    /// is known now, and so connections in OpenSent are judged too, as RFC 4271 §6.8 allows: both sides then come to
    /// the same result whichever OPEN they read first.
    fn survives_collisions(&mut self, conn: ConnId, now: Time) -> bool {
        let Some(connection) = self.connections.get(&conn) else { return false };
        let (slot, direction, opened_at) = (connection.peer, connection.direction, connection.since);
        let Some(negotiated) = &connection.negotiated else { return false };
        let returns = negotiated.restart.as_ref().is_some_and(|restart| restart.restarting);
        let remote_id = negotiated.remote_id;
        let Some(peer) = self.peer_at(slot) else { return false };

        if let Some(old) = peer.established {
            // RFC 4724 §4.2: a peer that restarts gracefully and comes back has lost the old connection, though we
            // have not noticed. Two dials that crossed are not that.
            let restartable = self
                .connections
                .get(&old)
                .and_then(|old| old.negotiated.as_ref())
                .is_some_and(|negotiated| negotiated.restart.is_some());
            let later = peer.last_established.is_some_and(|at| opened_at.since(at) > NO_COLLISION);
            if !(restartable && direction == Direction::Peer && (returns || later)) {
                return false;
            }
            // No NOTIFICATION, for the session goes on.
            self.drop_connection(old, true, now);
            self.outputs.push_back(crate::Output::Close { conn: old });
            self.note_state(slot, Cause::PeerRestarted, Some(direction), now);
            return true;
        }
        let Some(peer) = self.peer_at(slot) else { return false };
        let wins = survivor(&peer.ours, remote_id);
        let others: Vec<ConnId> = peer.connections().filter(|&other| other != conn).collect();
        for other in others {
            let Some(rival) = self.connections.get(&other) else { continue };
            // A dial under way is no connection yet.
            if rival.stage == Stage::Dialling {
                continue;
            }
            if wins != direction {
                return false;
            }
            self.close(other, Some(&Notification::cease(cease::COLLISION)), now);
        }
        true
    }

    /// A keepalive in OpenConfirm: the session is up, and what else was under way is not needed.
    pub(super) fn establish(&mut self, conn: ConnId, now: Time) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.stage = Stage::Established;
        match hold_limit(connection) {
            Some(limit) => self.timers.set(Timer::Hold(conn), now + limit),
            None => self.timers.clear(Timer::Hold(conn)),
        }
        connection.taken = now;
        if let Some(limit) = send_hold_limit(connection) {
            self.timers.set(Timer::SendHold(conn), now + limit);
        }
        let (slot, direction) = (connection.peer, connection.direction);
        let Some(peer) = self.peer_at_mut(slot) else { return };
        let others: Vec<ConnId> = peer.connections().filter(|&other| other != conn).collect();
        for other in others {
            self.close(other, Some(&Notification::cease(cease::COLLISION)), now);
        }
        self.session_up(conn, now);
        self.note_state(slot, Cause::KeepaliveReceived, Some(direction), now);
    }

    /// RFC 4271 §10: three quarters to all of the interval.
    pub(super) fn set_keepalive(&mut self, conn: ConnId, now: Time) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let configured = self.peer_at(connection.peer).and_then(|peer| peer.config.keepalive_time);
        let interval = connection.negotiated.as_ref().and_then(|n| n.keepalive_time(configured));
        if let Some(interval) = interval {
            let interval = Duration::from_secs(u64::from(interval));
            let at = now + self.jitter.between(interval * 3 / 4, interval);
            self.timers.set(Timer::Keepalive(conn), at);
        }
    }
}
