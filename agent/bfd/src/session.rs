//! One session in asynchronous mode (RFC 5880 §6), without sockets or clocks: whoever drives it hands in packets and the
//! time, and sends what it gives out. Demand mode and echo are not used; a neighbour's demand is respected.

use std::time::Duration;

use crate::packet::{Diagnostic, Packet, State};

/// Since any fixed moment.
pub type Time = Duration;

/// RFC 5880 §6.8.3: what is not up sends no faster.
pub const SLOW: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    pub desired_min_tx: Duration,
    pub required_min_rx: Duration,
    /// So many packets may be lost in a row, less one.
    pub detect_multiplier: u8,
}

/// What the neighbour said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    pub discriminator: u32,
    pub state: State,
    pub diagnostic: Diagnostic,
    /// Its C bit.
    pub independent: bool,
    pub demand: bool,
    pub detect_multiplier: u8,
    pub desired_min_tx: Duration,
    pub required_min_rx: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub from: State,
    pub to: State,
    /// Ours; [`Diagnostic::NONE`] on the way up.
    pub diagnostic: Diagnostic,
    /// The neighbour has taken the session down on purpose, which says nothing of the path (RFC 5882 §3.2).
    pub by_administrator: bool,
}

#[derive(Debug)]
pub struct Session {
    config: Config,
    discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    /// Of the last packet that came; its discriminator is 0 again once packets have failed to come.
    remote: Option<Remote>,
    polling: bool,
    /// What the neighbour may not have heard of yet does not count yet (RFC 5880 §6.8.3).
    tx_in_force: Duration,
    rx_in_force: Duration,
    last_tx: Option<Time>,
    next_tx: Time,
    detect_at: Option<Time>,
    /// What was sent last, without P and F.
    sent: Option<Packet>,
    random: u64,
}

impl Session {
    /// `discriminator`: not 0, and no other session's. `seed`: for the jitter.
    pub fn new(config: Config, discriminator: u32, seed: u64, now: Time) -> Session {
        Session {
            config,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            remote: None,
            polling: false,
            tx_in_force: config.desired_min_tx.max(SLOW),
            rx_in_force: config.required_min_rx,
            last_tx: None,
            next_tx: now,
            detect_at: None,
            sent: None,
            random: seed,
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    pub fn discriminator(&self) -> u32 {
        self.discriminator
    }

    pub fn remote(&self) -> Option<&Remote> {
        self.remote.as_ref()
    }

    /// The longest time without a packet; None: the neighbour has sent none yet.
    pub fn detection_time(&self) -> Option<Duration> {
        let remote = self.remote.as_ref()?;
        Some(self.rx_in_force.max(remote.desired_min_tx) * u32::from(remote.detect_multiplier))
    }

    /// The pause between two packets, before jitter. None: nothing is sent by itself.
    pub fn transmit_interval(&self) -> Option<Duration> {
        let Some(remote) = &self.remote else { return Some(self.tx_in_force) };
        let rests = remote.demand && remote.state == State::Up && self.state == State::Up && !self.polling;
        if rests || remote.required_min_rx.is_zero() {
            return None;
        }
        Some(self.tx_in_force.max(remote.required_min_rx))
    }

    pub fn configure(&mut self, config: Config, now: Time) {
        if self.config == config {
            return;
        }
        self.config = config;
        self.change_intervals(now);
    }

    /// RFC 5880 §6.8.3: while the session is up the neighbour is told first, by a poll.
    fn change_intervals(&mut self, now: Time) {
        let (tx, rx) = (self.desired_min_tx(), self.config.required_min_rx);
        if self.state == State::Up {
            self.polling = true;
            self.tx_in_force = self.tx_in_force.min(tx);
            self.rx_in_force = self.rx_in_force.max(rx);
        } else {
            self.polling = false;
            (self.tx_in_force, self.rx_in_force) = (tx, rx);
        }
        self.pace(now);
    }

    fn desired_min_tx(&self) -> Duration {
        if self.state == State::Up {
            self.config.desired_min_tx
        } else {
            self.config.desired_min_tx.max(SLOW)
        }
    }

    /// A packet for this session, parsed and from where it has to come from. The answer is to be sent at once.
    pub fn receive(&mut self, packet: &Packet, now: Time) -> (Option<Change>, Option<Packet>) {
        let before = self.remote;
        self.remote = Some(Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            independent: packet.independent,
            demand: packet.demand,
            detect_multiplier: packet.detect_multiplier,
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
        });
        if packet.is_final && self.polling {
            self.polling = false;
            (self.tx_in_force, self.rx_in_force) = (self.desired_min_tx(), self.config.required_min_rx);
        }
        self.detect_at = self.detection_time().map(|time| now + time);
        let change = match (self.state, packet.state) {
            (State::AdminDown, _) => None,
            (State::Down, State::AdminDown) => None,
            (State::Init | State::Up, State::AdminDown) => {
                self.enter(State::Down, Diagnostic::NEIGHBOR_SAID, true, now)
            }
            (State::Down, State::Down) => self.enter(State::Init, Diagnostic::NONE, false, now),
            (State::Down, State::Init) => self.enter(State::Up, Diagnostic::NONE, false, now),
            (State::Init, State::Init | State::Up) => self.enter(State::Up, Diagnostic::NONE, false, now),
            (State::Up, State::Down) => self.enter(State::Down, Diagnostic::NEIGHBOR_SAID, false, now),
            _ => None,
        };
        let demands = |remote: &Remote| (remote.required_min_rx, remote.demand);
        if before.as_ref().map(demands) != self.remote.as_ref().map(demands) {
            self.pace(now);
        }
        let answer = packet.poll.then(|| {
            let answer = Packet { is_final: true, poll: false, ..self.packet() };
            self.note_sent(answer, now);
            answer
        });
        (change, answer)
    }

    fn enter(
        &mut self,
        to: State,
        diagnostic: Diagnostic,
        by_administrator: bool,
        now: Time,
    ) -> Option<Change> {
        let from = std::mem::replace(&mut self.state, to);
        self.diagnostic = diagnostic;
        self.change_intervals(now);
        // What differs from what was sent last is said at once (RFC 5880 §6.8.7).
        self.next_tx = now;
        Some(Change { from, to, diagnostic, by_administrator })
    }

    /// Fires what is due: the packet is to be sent. Call again until there is neither.
    pub fn advance(&mut self, now: Time) -> (Option<Change>, Option<Packet>) {
        let mut change = None;
        if self.detect_at.is_some_and(|at| at <= now) {
            self.detect_at = None;
            // RFC 5880 §6.8.1: who is silent may come back as another.
            if let Some(remote) = &mut self.remote {
                remote.discriminator = 0;
                remote.state = State::Down;
                remote.demand = false;
                remote.required_min_rx = remote.required_min_rx.max(Duration::from_micros(1));
            }
            if matches!(self.state, State::Init | State::Up) {
                change = self.enter(State::Down, Diagnostic::TIME_EXPIRED, false, now);
            }
        }
        let due = self.next_tx <= now && (self.transmit_interval().is_some() || self.has_news());
        let packet = due.then(|| {
            let packet = self.packet();
            self.note_sent(packet, now);
            packet
        });
        (change, packet)
    }

    /// For good: the neighbour is told that nothing is wrong with the path.
    pub fn shut_down(&mut self, now: Time) -> Packet {
        self.state = State::AdminDown;
        self.diagnostic = Diagnostic::ADMIN_DOWN;
        self.polling = false;
        let packet = self.packet();
        self.note_sent(packet, now);
        packet
    }

    pub fn next_wakeup(&self) -> Option<Time> {
        let tx = (self.transmit_interval().is_some() || self.has_news()).then_some(self.next_tx);
        [tx, self.detect_at].into_iter().flatten().min()
    }

    fn has_news(&self) -> bool {
        self.sent != Some(Packet { poll: false, ..self.packet() }) || self.polling
    }

    fn packet(&self) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling,
            is_final: false,
            independent: true,
            demand: false,
            detect_multiplier: self.config.detect_multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.discriminator),
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.config.required_min_rx,
            required_min_echo_rx: Duration::ZERO,
        }
    }

    fn note_sent(&mut self, packet: Packet, now: Time) {
        self.sent = Some(Packet { poll: false, is_final: false, ..packet });
        // An answer to a poll does not put off what is due.
        if !packet.is_final {
            self.last_tx = Some(now);
            self.next_tx = now + self.jittered();
        }
    }

    /// The next packet, after what decides about its time has changed.
    fn pace(&mut self, now: Time) {
        if let Some(last) = self.last_tx {
            self.next_tx = (last + self.jittered()).clamp(now, self.next_tx.max(now));
        }
    }

    /// RFC 5880 §6.8.7: shorter by up to a quarter; with a multiplier of 1 by a tenth at least.
    fn jittered(&mut self) -> Duration {
        let interval = self.transmit_interval().unwrap_or(self.tx_in_force);
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let most = if self.config.detect_multiplier == 1 { 150 } else { 250 };
        let per_mille = 750 + ((z ^ (z >> 31)) % (most + 1)) as u32;
        interval * per_mille / 1000
    }
}

#[cfg(test)]
mod tests;
