//! The speaker: sessions and RIB put together behind one event loop's interface. The state machine of RFC 4271
//! §8 is spread by subject: [`dialling`] (Connect and Active), [`handshake`] (OpenSent and OpenConfirm, collisions),
//! [`established`] (up, down, graceful restart), [`ingest`] (UPDATE), [`reconfigure`].

mod dialling;
mod dynamic;
mod established;
mod handshake;
mod ingest;
mod limits;
mod parting;
mod reconfigure;
mod rules;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    Config, ConnId, Event, Output, PeerKey, Refusal, Time,
    config::Family,
    event::SessionEvent,
    message::{
        Message, keepalive,
        notification::{Notification, cease},
    },
    rib::{Rib, WatchOrder, table::PeerSlot},
    session::{
        connection::{Connection, Stage},
        peer::{OPEN_TIMEOUT, Peer, SEND_HOLD},
        timers::{Jitter, Timer, Timers},
    },
    view::{Cause, Direction, NotificationView, SessionState},
};

/// See the crate's page for the way to drive it.
#[derive(Debug)]
pub struct Speaker {
    config: Config,
    /// Of all clusters that the configuration has us reflect in.
    clusters: Arc<[Ipv4Addr]>,
    rib: Rib,
    /// By slot; a slot is empty while the RIB still cleans up after its last peer.
    peers: Vec<Option<Peer>>,
    by_key: BTreeMap<PeerKey, PeerSlot>,
    leaving: Vec<PeerSlot>,
    /// Peers of ranges that may have nothing left to be remembered for.
    forgettable: Vec<PeerSlot>,
    connections: HashMap<ConnId, Connection>,
    next_conn: u64,
    timers: Timers,
    jitter: Jitter,
    outputs: VecDeque<Output>,
    /// Until then failures are taken for the other side's not having read its configuration yet.
    grace_until: Time,
    /// Restarting, and the time for peers to come up is over.
    settling_over: bool,
    /// Restarting: forwarding state of the earlier run stays, for peers have yet to say what they know.
    keeps_leftovers: bool,
    /// Restarting: first tables have no End-of-RIB yet, for clients have yet to say what they know.
    keeps_end_of_rib: bool,
    shutting_down: bool,
    /// Octets of UPDATEs since the RIB's size was last looked at.
    unweighed: usize,
    /// Peers that were removed after a session with this process: should they come again, what they keep of ours is good.
    spoken_to: BTreeSet<PeerKey>,
    /// When the RIB was last asked to look for routes that have come by another way.
    look_began: Time,
    /// The RIB's size was near its bound when it was last looked at.
    near_bound: bool,
}

impl Speaker {
    /// Peers that dial first ask for their dials at once.
    pub fn new(config: Config, now: Time) -> Speaker {
        let restart = config.graceful_restart;
        let deferred = restart.enabled && restart.restarting;
        let mut speaker = Speaker {
            rib: Rib::new(config.seed, deferred, config.best_paths),
            peers: Vec::new(),
            by_key: BTreeMap::new(),
            leaving: Vec::new(),
            forgettable: Vec::new(),
            connections: HashMap::new(),
            next_conn: 0,
            timers: Timers::default(),
            jitter: Jitter::new(config.seed),
            outputs: VecDeque::new(),
            grace_until: Time::ZERO,
            settling_over: false,
            keeps_leftovers: deferred,
            keeps_end_of_rib: deferred,
            shutting_down: false,
            unweighed: 0,
            near_bound: false,
            clusters: Arc::default(),
            spoken_to: BTreeSet::new(),
            look_began: Time::ZERO,
            config: Config {
                peers: Vec::new(),
                originated: Vec::new(),
                hosts: Vec::new(),
                services: Vec::new(),
                ..config.clone()
            },
        };
        speaker.configure(config, now);
        if deferred {
            speaker.rib.hold_end_of_rib();
            speaker.begin_deferral(now);
        }
        speaker
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A connection came in on the listener. On refusal close it; the speaker keeps nothing of it.
    pub fn accept(&mut self, local: SocketAddr, remote: SocketAddr, now: Time) -> Result<ConnId, Refusal> {
        let result = self.take_connection(local, remote, now);
        self.after(now);
        result
    }

    pub fn handle(&mut self, event: Event, now: Time) {
        match event {
            Event::Connected { conn, local, remote } => self.connected(conn, local, remote, now),
            Event::DialFailed { conn, error } => self.dial_failed(conn, error, now),
            Event::OnLink { conn, link_local } => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.link_local = Some(link_local);
                    let slot = connection.peer;
                    self.judge_imports(slot);
                }
            }
            Event::Received { conn, bytes } => self.received(conn, bytes, now),
            Event::Closed { conn, reason } => self.closed(conn, reason, now),
            Event::NextHop { next_hop, metric } => self.rib.set_next_hop(next_hop, metric),
            Event::Interface { next_hop, interface } => self.rib.set_interface(next_hop, interface),
            Event::Disable { peer, text } => self.disable(peer, &text, now),
            Event::Enable { peer } => self.enable(peer, now),
            Event::PathDown { peer, why } => self.path_down(peer, why, now),
            Event::Refresh { peer } => self.ask_refresh(peer),
            Event::Shutdown { graceful, text } => self.shut_down(graceful, &text, now),
        }
        self.after(now);
    }

    /// Fires the timers that are due and does one bounded piece of waiting work (withdrawing a lost peer's
    /// routes, a changed rule's verdicts). True: more is waiting; serve the sockets and call again.
    pub fn advance(&mut self, now: Time) -> bool {
        while let Some(timer) = self.timers.pop_due(now) {
            self.fire(timer, now);
        }
        self.rib.work();
        let rib = &mut self.rib;
        self.leaving.retain(|&slot| !rib.forget_peer(slot));
        self.after(now);
        self.rib.has_work()
    }

    /// When [`Self::advance`] wants to be called; [`Time::ZERO`] if work is waiting.
    pub fn next_wakeup(&self) -> Option<Time> {
        if self.rib.has_work() { Some(Time::ZERO) } else { self.timers.next() }
    }

    /// The next thing for the driver to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if let Some(order) = self.rib.next_order() {
            return Some(match order {
                WatchOrder::Watch(next_hop) => Output::Watch { next_hop },
                WatchOrder::Unwatch(next_hop) => Output::Unwatch { next_hop },
            });
        }
        if let Some((prefix, best, cause)) = self.rib.next_best() {
            return Some(Output::Best { prefix, best, cause });
        }
        // After the best paths that they are about.
        if self.is_end_of_rib_due()
            && let Some(output) = self.outputs.pop_front()
        {
            return Some(output);
        }
        let settled = !self.keeps_leftovers && !self.rib.has_work() && self.rib.take_settled();
        settled.then_some(Output::Settled)
    }

    /// Appends whole messages for `conn` to `out`, up to about `budget` bytes but at least one message if there is
    /// one, and returns their number of bytes; less than `budget` is all that there is now. What is handed out counts
    /// as sent: write it all. Nothing is prepared before it is asked for, so a slow peer costs no memory and gets the
    /// newest state only.
    pub fn transmit(&mut self, conn: ConnId, budget: usize, out: &mut Vec<Bytes>, now: Time) -> usize {
        let Some(connection) = self.connections.get_mut(&conn) else { return 0 };
        let (mut octets, mut messages, mut updates) = (0, 0, 0);
        while octets < budget.max(1)
            && let Some(message) = connection.next_output()
        {
            octets += message.len();
            messages += 1;
            out.push(message);
        }
        let (slot, stage) = (connection.peer, connection.stage);
        if stage == Stage::Established {
            for family in Family::ALL {
                if octets < budget.max(1) {
                    let pulled = self.rib.pull(slot, family, budget.max(1) - octets, out);
                    octets += pulled.octets;
                    updates += pulled.messages;
                }
            }
        }
        if octets == 0 && stage == Stage::Closing {
            self.connections.remove(&conn);
        } else if let Some(connection) = self.connections.get_mut(&conn) {
            connection.asked = octets >= budget.max(1);
            if octets > 0 {
                connection.taken = now;
            }
        }
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.counters.messages_sent += messages + updates;
            peer.counters.updates_sent += updates;
        }
        octets
    }

    fn peer_at(&self, slot: PeerSlot) -> Option<&Peer> {
        self.peers.get(usize::from(slot))?.as_ref()
    }

    fn peer_at_mut(&mut self, slot: PeerSlot) -> Option<&mut Peer> {
        self.peers.get_mut(usize::from(slot))?.as_mut()
    }

    fn slots(&self) -> Vec<PeerSlot> {
        self.by_key.values().copied().collect()
    }

    fn in_grace(&self, now: Time) -> bool {
        now < self.grace_until
    }

    /// Says whose bytes are waiting.
    fn after(&mut self, now: Time) {
        self.note_withheld(now);
        self.forget_dynamic_peers(now);
        self.ask_touched();
    }

    fn ask_touched(&mut self) {
        if self.rib.has_touched() {
            for slot in self.rib.take_touched() {
                if let Some(conn) = self.peer_at(slot).and_then(|peer| peer.established) {
                    self.ask(conn);
                }
            }
        }
    }

    /// Asks the driver to call [`Self::transmit`].
    fn ask(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn)
            && !connection.asked
        {
            connection.asked = true;
            self.outputs.push_back(Output::Transmit { conn });
        }
    }

    fn send(&mut self, conn: ConnId, message: Bytes) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.queue(message);
            self.ask(conn);
        }
    }

    /// Notes and reports the peer's state if it is another than before.
    fn note_state(&mut self, slot: PeerSlot, cause: Cause, dialled_by: Option<Direction>, now: Time) {
        let connections = &self.connections;
        let Some(peer) = self.peers.get_mut(usize::from(slot)).and_then(Option::as_mut) else { return };
        let to = peer.state_of(|conn| connections.get(&conn));
        let ended = peer.ended.take();
        let from = std::mem::replace(&mut peer.state, to);
        if from == to {
            return;
        }
        peer.since = now;
        if (from == SessionState::Established) != (to == SessionState::Established) {
            peer.session_since = now;
        }
        if peer.is_news(&cause) {
            let peer = peer.config.key();
            let dialled_by = dialled_by.or(ended.as_ref().map(|&(direction, _)| direction));
            let told = matches!(cause, Cause::NotificationSent(_));
            let sent = ended.and_then(|(_, last_word)| last_word).filter(|_| !told);
            self.outputs.push_back(Output::Session(SessionEvent {
                at: now,
                peer,
                from,
                to,
                cause,
                sent,
                dialled_by,
            }));
        }
    }

    fn received(&mut self, conn: ConnId, bytes: Bytes, now: Time) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if matches!(connection.stage, Stage::Closing | Stage::Dialling) {
            return;
        }
        connection.feed(bytes);
        // Ends when the connection is gone, closing, or has no whole message left.
        while let Some(connection) = self.connections.get_mut(&conn).filter(|c| c.stage != Stage::Closing) {
            let slot = connection.peer;
            match connection.next_message() {
                Ok(None) => break,
                Ok(Some(message)) => {
                    connection.heard = now;
                    if let Some(peer) = self.peer_at_mut(slot) {
                        peer.counters.messages_received += 1;
                    }
                    self.message(conn, message, now);
                }
                Err(error) => self.fail_because(conn, error.notification(), Some(error.to_string()), now),
            }
        }
    }

    /// RFC 4271 §8.2.2, by state; behaviour 8 for what a state does not expect (RFC 6608).
    fn message(&mut self, conn: ConnId, message: Message, now: Time) {
        let Some(stage) = self.connections.get(&conn).map(|connection| connection.stage) else { return };
        match (stage, message) {
            (_, Message::Notification(body)) => self.notified(conn, &Notification::parse(&body), now),
            (Stage::OpenSent, Message::Open(body)) => self.opened(conn, &body, now),
            (Stage::OpenSent, _) => self.fail(conn, Notification::new(5, 1, &[]), now),
            (Stage::OpenConfirm, Message::Keepalive) => self.establish(conn, now),
            (Stage::OpenConfirm, _) => self.fail(conn, Notification::new(5, 2, &[]), now),
            (Stage::Established, Message::Update(body)) => self.update(conn, &body, now),
            (Stage::Established, Message::Keepalive) => {}
            (Stage::Established, Message::RouteRefresh(body)) => self.refresh(conn, &body, now),
            (Stage::Established, Message::Open(_)) => self.fail(conn, Notification::new(5, 3, &[]), now),
            (Stage::Dialling | Stage::Closing, _) => {}
        }
    }

    /// The peer broke the protocol: NOTIFICATION, and the connection goes.
    fn fail(&mut self, conn: ConnId, notification: Notification, now: Time) {
        self.fail_because(conn, notification, None, now);
    }

    /// The same, with what an operator will want to know and the NOTIFICATION does not say.
    fn fail_because(&mut self, conn: ConnId, notification: Notification, why: Option<String>, now: Time) {
        let Some(slot) = self.connections.get(&conn).map(|connection| connection.peer) else { return };
        let seen = self.close(conn, Some(&notification), now);
        if let Some(peer) = self.peer_at_mut(slot)
            && let Some(why) = &why
        {
            peer.last_error = Some(format!("{}: {why}", subject(&notification)));
            if let Some(sent) = &mut peer.notification_sent {
                sent.why = Some(why.clone());
            }
        }
        self.hold_back_if_error(slot, &notification, now);
        let view = NotificationView { why, ..view_of(&notification, now) };
        self.gone(slot, seen, Cause::NotificationSent(view), now);
    }

    fn path_down(&mut self, key: PeerKey, why: String, now: Time) {
        let Some(&slot) = self.by_key.get(&key) else { return };
        let Some(conn) = self.peer_at(slot).and_then(|peer| peer.established) else { return };
        let notification = Notification::cease(cease::BFD_DOWN);
        let seen = self.close_keeping(conn, Some(&notification), true, now);
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.last_error = Some(format!("{}: {why}", subject(&notification)));
            if let Some(sent) = &mut peer.notification_sent {
                sent.why = Some(why.clone());
            }
        }
        let view = NotificationView { why: Some(why), ..view_of(&notification, now) };
        self.gone(slot, seen, Cause::NotificationSent(view), now);
    }

    /// A NOTIFICATION is never answered (behaviour 9).
    fn notified(&mut self, conn: ConnId, notification: &Notification, now: Time) {
        let Some(slot) = self.connections.get(&conn).map(|connection| connection.peer) else { return };
        let keeps = self.outlives_notification(conn) && !notification.is_hard_reset();
        let changed = self.is_of_change(conn, notification);
        if changed {
            self.hold_for_change(slot, now);
        }
        let seen = self.close_keeping(conn, None, keeps || changed, now);
        if changed {
            self.bound_change(slot, now);
        }
        let view = view_of(notification, now);
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.last_error = Some(format!("Received: {}", subject(notification)));
            peer.notification_received = Some(view.clone());
        }
        // RFC 6608: the peer's machine was not in the state for us (FRR answers so while it starts). That it dials soon
        // is what we want; only our own dials wait.
        if notification.code != 5 {
            self.hold_back_if_error(slot, notification, now);
        }
        self.gone(slot, seen, Cause::NotificationReceived(view), now);
    }

    /// The peer or the network closed the connection.
    fn closed(&mut self, conn: ConnId, reason: String, now: Time) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let slot = connection.peer;
        match connection.stage {
            Stage::Closing => {
                self.connections.remove(&conn);
            }
            Stage::Dialling => self.dial_failed(conn, reason, now),
            _ => {
                if let Some(peer) = self.peer_at_mut(slot) {
                    peer.last_error = Some(format!("Socket: {reason}"));
                }
                let seen = self.drop_connection(conn, true, now);
                self.gone(slot, seen, Cause::ConnectionClosed(reason), now);
            }
        }
    }

    /// Closes a connection on our side, with a last word if there is one. The session's routes are flushed, for a
    /// session that ends by NOTIFICATION restarts from nothing (RFC 4724 §4); unless both sides have agreed that routes
    /// outlive it (RFC 8538 §4). Then only what we end on purpose is a Hard Reset, and what is the network's fault or
    /// a bug's costs no traffic.
    fn close(&mut self, conn: ConnId, notification: Option<&Notification>, now: Time) -> Option<Gone> {
        match notification {
            Some(ours) if self.outlives_notification(conn) => {
                let on_purpose = ours.code == 6;
                let hard = on_purpose.then(|| ours.hard_reset());
                self.close_keeping(conn, hard.as_ref().or(notification), !on_purpose, now)
            }
            _ => self.close_keeping(conn, notification, false, now),
        }
    }

    /// Is it an Established session whose routes outlive a NOTIFICATION?
    fn outlives_notification(&self, conn: ConnId) -> bool {
        self.connections.get(&conn).is_some_and(|connection| {
            connection.stage == Stage::Established
                && connection.negotiated.as_ref().is_some_and(|n| n.after_notification)
        })
    }

    fn close_keeping(
        &mut self,
        conn: ConnId,
        notification: Option<&Notification>,
        keep_routes: bool,
        now: Time,
    ) -> Option<Gone> {
        // One that is closing has had its last word.
        if self.connections.get(&conn)?.stage == Stage::Closing {
            return None;
        }
        let mut connection = self.connections.remove(&conn)?;
        let gone = self.detach(&connection, keep_routes, now);
        // Nothing can be said where nobody has answered yet.
        let notification = notification.filter(|_| connection.stage != Stage::Dialling);
        let last_word = notification.map(|notification| view_of(notification, now));
        let slot = connection.peer;
        if let Some(peer) = self.peer_at_mut(slot) {
            peer.ended.get_or_insert((connection.direction, last_word.clone()));
        }
        if let Some(notification) = notification {
            connection.queue(notification.encode());
            connection.stage = Stage::Closing;
            self.connections.insert(conn, connection);
            if let Some(peer) = self.peer_at_mut(slot) {
                peer.notification_sent = last_word;
                if notification.is_error() || notification.code == 4 {
                    peer.last_error = Some(subject(notification));
                }
            }
        }
        self.outputs.push_back(Output::Close { conn });
        Some(gone)
    }

    fn drop_connection(&mut self, conn: ConnId, keep_routes: bool, now: Time) -> Option<Gone> {
        let connection = self.connections.remove(&conn)?;
        Some(self.detach(&connection, keep_routes, now))
    }

    /// Takes a connection from its peer, timers and session included.
    fn detach(&mut self, connection: &Connection, keep_routes: bool, now: Time) -> Gone {
        for timer in [Timer::Hold, Timer::Keepalive, Timer::SendHold, Timer::DialTimeout] {
            self.timers.clear(timer(connection.id));
        }
        let was_established = connection.stage == Stage::Established;
        if let Some(peer) = self.peer_at_mut(connection.peer) {
            peer.forget(connection.id);
        }
        self.may_be_forgotten(connection.peer);
        if was_established {
            self.session_down(connection, keep_routes, now);
        }
        Gone { direction: connection.direction, was_established }
    }

    fn fire(&mut self, timer: Timer, now: Time) {
        match timer {
            Timer::Hold(conn) => self.hold_timer(conn, now),
            Timer::SendHold(conn) => self.send_hold_timer(conn, now),
            Timer::Keepalive(conn) => {
                if let Some(connection) = self.connections.get_mut(&conn) {
                    connection.queue_keepalive(keepalive());
                    self.ask(conn);
                    self.set_keepalive(conn, now);
                }
            }
            Timer::DialTimeout(conn) => {
                self.outputs.push_back(Output::Close { conn });
                self.dial_failed(conn, "no answer".to_owned(), now);
            }
            Timer::Dial(slot) => self.dial(slot, now),
            Timer::HoldBack(slot) => {
                if let Some(peer) = self.peer_at_mut(slot) {
                    peer.held_back = false;
                }
                self.may_be_forgotten(slot);
                self.note_state(slot, Cause::BackOffOver, None, now);
                self.dial(slot, now);
            }
            Timer::Stale(slot, family) => self.stale_timer(slot, family, now),
            Timer::Part(slot) => self.part_timer(slot, now),
            Timer::Demote(slot) => self.demote(slot, now),
            Timer::Change => self.end_change(),
            Timer::Look => self.look(now),
            Timer::Settling => {
                self.settling_over = true;
                self.check_deferral();
            }
            Timer::Deferral => self.deferral_timer(),
        }
    }

    /// Messages only note when they came; so the timer may find that it has to go on.
    fn hold_timer(&mut self, conn: ConnId, now: Time) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let Some(limit) = hold_limit(connection) else { return };
        let due = connection.heard + limit;
        if due > now {
            self.timers.set(Timer::Hold(conn), due);
        } else {
            self.fail(conn, Notification::hold_timer_expired(), now);
        }
    }

    /// Keepalives see to it that there is always something to take.
    fn send_hold_timer(&mut self, conn: ConnId, now: Time) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let Some(limit) = send_hold_limit(connection) else { return };
        let due = connection.taken + limit;
        if due > now {
            self.timers.set(Timer::SendHold(conn), due);
        } else {
            self.fail(conn, Notification::send_hold_timer_expired(), now);
        }
    }

    fn local_address(&self, slot: PeerSlot) -> Option<IpAddr> {
        let conn = self.peer_at(slot)?.established?;
        Some(self.connections.get(&conn)?.local?.ip())
    }
}

/// What went with a connection.
#[derive(Clone, Copy, Debug)]
struct Gone {
    direction: Direction,
    was_established: bool,
}

/// How long the connection may be silent; `None`: for ever, once a session with hold time 0 is up.
fn hold_limit(connection: &Connection) -> Option<Duration> {
    let negotiated = connection.negotiated.as_ref().map(|negotiated| u64::from(negotiated.hold_time));
    match (connection.stage, negotiated) {
        (Stage::Established, Some(0)) => None,
        (Stage::OpenConfirm | Stage::Established, Some(seconds)) if seconds > 0 => {
            Some(Duration::from_secs(seconds))
        }
        _ => Some(OPEN_TIMEOUT),
    }
}

/// How long an Established peer may take nothing (RFC 9687 §6). `None`: for ever, with hold time 0.
fn send_hold_limit(connection: &Connection) -> Option<Duration> {
    let hold_time = u64::from(connection.negotiated.as_ref()?.hold_time);
    (hold_time > 0).then(|| SEND_HOLD.max(Duration::from_secs(2 * hold_time)))
}

fn view_of(notification: &Notification, now: Time) -> NotificationView {
    NotificationView {
        at: now,
        code: notification.code,
        subcode: notification.subcode,
        name: notification.name(),
        text: notification.text(),
        why: None,
    }
}

/// "Bad Peer AS": the subcode's name where it has one, as BIRD prints it.
fn subject(notification: &Notification) -> String {
    let name = notification.name();
    match name.split_once(" / ") {
        Some((_, subject)) => subject.to_owned(),
        None => name,
    }
}
