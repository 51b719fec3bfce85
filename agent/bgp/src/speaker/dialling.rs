//! Getting a connection: own dials and their back-off, accepted connections, peers held back or disabled.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Gone, Speaker};
use crate::{
    ConnId, Dial, Output, PeerKey, Refusal, Time,
    message::notification::{Notification, cease},
    rib::table::PeerSlot,
    session::{
        connection::{Connection, Stage},
        peer::{DIAL_TIMEOUT, FIRST_RETRY, OPEN_TIMEOUT},
        timers::Timer,
    },
    view::{Cause, Direction, SessionState},
};

impl Speaker {
    fn new_conn(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    /// Dials, unless there is a connection already or none is wanted.
    pub(super) fn dial(&mut self, slot: PeerSlot, now: Time) {
        let Some(peer) = self.peer_at(slot) else { return };
        let idle = peer.connections().next().is_none();
        if self.shutting_down || !idle || !peer.may_connect() || peer.config.dial == Dial::Never {
            return;
        }
        let (key, from, to) = (peer.config.key(), peer.config.local_address, peer.address());
        let conn = self.new_conn();
        let connection = Connection::new(conn, slot, Direction::Us, Stage::Dialling, to, now);
        self.connections.insert(conn, connection);
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.outgoing = Some(conn);
        }
        self.timers.clear(Timer::Dial(slot));
        self.timers.set(Timer::DialTimeout(conn), now + DIAL_TIMEOUT);
        self.outputs.push_back(Output::Dial { conn, peer: key, from, to });
        self.note_state(slot, Cause::Dialling, Some(Direction::Us), now);
    }

    /// Sets the time of the next own dial, if there is to be one.
    pub(super) fn schedule_dial(&mut self, slot: PeerSlot, now: Time) {
        let fresh = self.in_grace(now);
        let Some(peer) = self.peers.get(usize::from(slot)).and_then(Option::as_ref) else { return };
        if self.shutting_down || !peer.may_connect() || peer.connections().next().is_some() {
            return;
        }
        if let Some(delay) = peer.dial_delay(fresh, &mut self.jitter) {
            self.timers.set(Timer::Dial(slot), now + delay);
        }
    }

    /// Brings a waiting dial forward: the configuration has changed, and what failed before may work now.
    pub(super) fn dial_soon(&mut self, slot: PeerSlot, now: Time) {
        let soon = now + self.jitter.between(FIRST_RETRY.0, FIRST_RETRY.1);
        let first = self.peer_at(slot).is_some_and(|peer| peer.config.dial == Dial::First);
        match self.timers.get(Timer::Dial(slot)) {
            Some(at) if first && at > soon => self.timers.set(Timer::Dial(slot), soon),
            Some(_) => {}
            None => self.schedule_dial(slot, now),
        }
    }

    pub(super) fn connected(&mut self, conn: ConnId, local: SocketAddr, remote: SocketAddr, now: Time) {
        let Some(connection) = self.connections.get_mut(&conn).filter(|c| c.stage == Stage::Dialling) else {
            return;
        };
        connection.local = Some(local);
        connection.remote = remote;
        connection.since = now;
        self.timers.clear(Timer::DialTimeout(conn));
        self.begin(conn, now);
    }

    /// The connection stands: our OPEN goes out (RFC 4271 §8.2.2, events 16 and 17).
    fn begin(&mut self, conn: ConnId, now: Time) {
        let restarting = self.rib.is_deferred();
        let restarted = self.config.graceful_restart.restarting;
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        connection.stage = Stage::OpenSent;
        connection.heard = now;
        let (slot, direction) = (connection.peer, connection.direction);
        let Some(peer) = self.peer_at(slot) else { return };
        // RFC 4724 §3: what was forwarded before is forwarded still if this process took it over, or if it is the
        // one that spoke to the peer before.
        let preserved =
            restarted || peer.established_count > 0 || self.spoken_to.contains(&peer.config.key());
        let open = peer.ours.open(restarting, preserved).encode();
        self.send(conn, open);
        self.timers.set(Timer::Hold(conn), now + OPEN_TIMEOUT);
        self.note_state(slot, Cause::Connected, Some(direction), now);
    }

    pub(super) fn dial_failed(&mut self, conn: ConnId, error: String, now: Time) {
        let Some(connection) = self.connections.get(&conn).filter(|c| c.stage == Stage::Dialling) else {
            return;
        };
        let slot = connection.peer;
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.last_error = Some(format!("Socket: {error}"));
        }
        let gone = self.drop_connection(conn, false, now);
        self.gone(slot, gone, Cause::DialFailed(error), now);
    }

    /// After a connection is gone: the back-off, the next dial, the state.
    pub(super) fn gone(&mut self, slot: PeerSlot, gone: Option<Gone>, cause: Cause, now: Time) {
        let Some(gone) = gone else { return };
        let grace = self.in_grace(now);
        let Some(peer) = self.peer_at_mut(slot) else { return };
        if gone.was_established {
            peer.failures = 0;
        } else if !grace && peer.connections().next().is_none() {
            peer.failures = peer.failures.saturating_add(1);
        }
        self.schedule_dial(slot, now);
        self.note_state(slot, cause, Some(gone.direction), now);
    }

    pub(super) fn take_connection(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        now: Time,
    ) -> Result<ConnId, Refusal> {
        if self.shutting_down {
            return Err(Refusal::ShuttingDown);
        }
        // A dual-stack listener shows IPv4 peers as mapped addresses.
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (local, remote) = (plain(local), plain(remote));
        let slot = match self.whose(remote.ip()) {
            Some(slot) => slot,
            None => self.admit_from_range(remote.ip(), now)?,
        };
        let Some(peer) = self.peer_at(slot) else { return Err(Refusal::UnknownPeer) };
        if peer.parting.is_some() {
            return Err(Refusal::UnknownPeer);
        }
        if peer.disabled {
            return Err(Refusal::Disabled);
        }
        if peer.held_back {
            return Err(Refusal::HeldBack);
        }
        // The peer gave up its earlier attempt, or it would not make another.
        if let Some(older) = peer.incoming.filter(|_| peer.established != peer.incoming) {
            self.close(older, Some(&Notification::cease(cease::COLLISION)), now);
        }
        let conn = self.new_conn();
        let mut connection = Connection::new(conn, slot, Direction::Peer, Stage::OpenSent, remote, now);
        connection.local = Some(local);
        self.connections.insert(conn, connection);
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.incoming = Some(conn);
        }
        self.timers.clear(Timer::Dial(slot));
        self.begin(conn, now);
        Ok(conn)
    }

    /// Of several peers with one address the one that lacks a session.
    fn whose(&self, address: IpAddr) -> Option<PeerSlot> {
        let range = PeerKey { address, port: 0 }..=PeerKey { address, port: u16::MAX };
        let slots: Vec<PeerSlot> = self.by_key.range(range).map(|(_, &slot)| slot).collect();
        let waiting = |slot: &PeerSlot| {
            self.peer_at(*slot).is_some_and(|peer| peer.may_connect() && peer.established.is_none())
        };
        slots.iter().copied().find(waiting).or(slots.first().copied())
    }

    /// Whoever breaks the protocol is left alone for a while (RFC 4271 §8.1.1, DampPeerOscillations). A wrong OPEN is a
    /// matter of configuration and only slows our dials, so that the peer gets through as soon as it is right.
    pub(super) fn hold_back_if_error(&mut self, slot: PeerSlot, notification: &Notification, now: Time) {
        if !notification.is_error() || notification.code == 2 {
            return;
        }
        let Some(peer) = self.peer_at_mut(slot) else { return };
        // Nonsense on one connection is no reason to give up another that is in order.
        if peer.connections().next().is_some() {
            return;
        }
        peer.errors = peer.errors.saturating_add(1);
        let time = peer.hold_back_time();
        self.hold_back(slot, time, now);
    }

    pub(super) fn hold_back(&mut self, slot: PeerSlot, time: Duration, now: Time) {
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.held_back = true;
            self.timers.clear(Timer::Dial(slot));
            self.timers.set(Timer::HoldBack(slot), now + time);
        }
    }

    pub(super) fn disable(&mut self, key: PeerKey, text: &str, now: Time) {
        let Some(&slot) = self.by_key.get(&key) else { return };
        let Some(peer) = self.peer_at_mut(slot) else { return };
        peer.disabled = true;
        let (connections, had_session): (Vec<ConnId>, bool) =
            (peer.connections().collect(), peer.established.is_some());
        let mut direction = None;
        for conn in connections {
            let gone = self.close(conn, Some(&Notification::cease_with_text(cease::SHUTDOWN, text)), now);
            direction = direction.or(gone.map(|gone| gone.direction));
        }
        self.timers.clear(Timer::Dial(slot));
        self.timers.clear(Timer::HoldBack(slot));
        let Some(peer) = self.peer_at_mut(slot) else { return };
        peer.last_error = Some("disabled".to_owned());
        // The last word says more than that.
        let cause = match peer.notification_sent.clone().filter(|_| had_session) {
            Some(last_word) => Cause::NotificationSent(last_word),
            None => Cause::Disabled,
        };
        self.note_state(slot, cause, direction, now);
    }

    pub(super) fn enable(&mut self, key: PeerKey, now: Time) {
        let Some(&slot) = self.by_key.get(&key) else { return };
        let Some(peer) = self.peer_at_mut(slot).filter(|peer| peer.disabled) else { return };
        (peer.disabled, peer.held_back, peer.failures) = (false, false, 0);
        peer.last_error = None;
        self.may_be_forgotten(slot);
        self.note_state(slot, Cause::Enabled, None, now);
        self.start(slot, now);
    }

    /// The first dial of a peer: at once, or after the other side had its chance.
    pub(super) fn start(&mut self, slot: PeerSlot, now: Time) {
        match self.peer_at(slot).map(|peer| peer.config.dial) {
            Some(Dial::First) => self.dial(slot, now),
            Some(Dial::Later) => self.schedule_dial(slot, now),
            Some(Dial::Never) | None => {}
        }
        if self.peer_at(slot).is_some_and(|peer| peer.state == SessionState::Idle) {
            self.note_state(slot, Cause::Configured, None, now);
        }
    }

    pub(super) fn shut_down(&mut self, graceful: bool, text: &str, now: Time) {
        self.shutting_down = true;
        for slot in self.slots() {
            let connections: Vec<ConnId> =
                self.peer_at(slot).into_iter().flat_map(|peer| peer.connections()).collect();
            for conn in connections {
                let notification = Notification::cease_with_text(cease::SHUTDOWN, text);
                self.close(conn, (!graceful).then_some(&notification), now);
            }
            self.timers.clear(Timer::Dial(slot));
            self.note_state(slot, Cause::ShuttingDown, None, now);
        }
    }
}
