//! A peer: its configuration, its connections, when to dial it, and what there is to tell of it.

use std::{net::SocketAddr, time::Duration};

use manx_net::Prefix;

use super::{connection::Connection, negotiation::Ours, timers::Jitter};
use crate::{
    Time,
    attr::parse::Outcome,
    config::{Dial, PeerConfig, PerFamily},
    event::ConnId,
    rib::table::PeerSlot,
    view::{Cause, Direction, NotificationView, PeerCounters, SessionState},
};

/// A dial that has not succeeded by then is given up.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a fresh connection waits for the peer's OPEN. RFC 4271 §8.2.2 suggests four minutes; a pod network's
/// node that has not answered in one has no daemon that reads.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that takes nothing for this long is given up, or for twice the hold time if that is longer (RFC 9687 §6).
pub const SEND_HOLD: Duration = Duration::from_secs(480);
/// For so long after a change of the configuration a failure is taken for the other side's not having read it yet.
pub const GRACE: Duration = Duration::from_secs(10);
/// The longest wait between dials.
pub const MAX_BACK_OFF: Duration = Duration::from_secs(30);
/// The first retry comes within this.
pub const FIRST_RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(200));
/// A peer that breaks the protocol is left alone for this long, doubling up to [`MAX_HOLD_BACK`].
pub const HOLD_BACK: Duration = Duration::from_secs(5);
pub const MAX_HOLD_BACK: Duration = Duration::from_secs(120);
/// A peer that announces more than it may is left alone for this long, doubling up to [`MAX_LIMIT_HOLD_BACK`].
pub const LIMIT_HOLD_BACK: Duration = Duration::from_secs(60);
pub const MAX_LIMIT_HOLD_BACK: Duration = Duration::from_secs(3600);
/// A session that lasted so long redeems earlier errors.
pub const REDEEMED: Duration = Duration::from_secs(60);
/// How long stale routes wait for End-of-RIB once the session is back. RFC 4724 §4.2 wants a bound and leaves it open.
pub const STALE_AFTER_RETURN: Duration = Duration::from_secs(300);
/// A connection that the peer opened so long after the last one was Established is no collision: the peer has lost
/// the old one (RFC 4724 §4.2).
pub const NO_COLLISION: Duration = Duration::from_secs(1);
/// Of the faults in a peer's UPDATEs that cost the same one is reported within this.
pub const FAULT_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Peer {
    pub slot: PeerSlot,
    pub config: PeerConfig,
    pub ours: Ours,
    /// It is not configured itself.
    pub of_range: Option<OfRange>,
    /// Dialled by us, by the peer, and which of them is Established.
    pub outgoing: Option<ConnId>,
    pub incoming: Option<ConnId>,
    pub established: Option<ConnId>,
    /// Since when it is no longer configured, though something of it is kept.
    pub parting: Option<Time>,
    /// Since when what is stale of it is held by our own plan, for want of another way.
    pub held: Option<Time>,
    pub disabled: bool,
    pub held_back: bool,
    /// Dials in a row that came to nothing, beyond the grace.
    pub failures: u32,
    /// Protocol errors in a row.
    pub errors: u32,
    /// By family: routes are kept that the present session has not confirmed yet.
    pub stale: PerFamily<bool>,
    /// By family: for how many seconds stale routes go on after the restart time (RFC 9494).
    pub long_lived_time: PerFamily<Option<u32>>,
    /// By family: until when routes are long-lived that were stale when the restart time was over. It stands until the
    /// peer has sent everything again, through whatever sessions come and go before that (RFC 9494 §4.2).
    pub long_lived_until: PerFamily<Option<Time>>,
    /// By family: the peer is sending everything again (RFC 7313), and that is why routes are stale. How often it has
    /// begun to; 0: it is not.
    pub refreshing: PerFamily<u8>,
    /// By family: the present session has sent End-of-RIB.
    pub end_of_rib: PerFamily<bool>,
    pub state: SessionState,
    pub since: Time,
    /// Since when there is a session, or since when there is none.
    pub session_since: Time,
    /// The failure to dial that was reported last, if nothing else has happened since.
    unreachable: Option<String>,
    pub established_count: u64,
    pub last_established: Option<Time>,
    pub counters: PeerCounters,
    pub faults: FaultReports,
    /// By family: it was told that the peer comes near its limit.
    pub near_limit: PerFamily<bool>,
    pub last_error: Option<String>,
    pub notification_sent: Option<NotificationView>,
    pub notification_received: Option<NotificationView>,
    /// The first connection that was closed since the state was noted last: who had dialled it, and our last word.
    pub ended: Option<(Direction, Option<NotificationView>)>,
}

impl Peer {
    pub fn new(slot: PeerSlot, config: PeerConfig, ours: Ours, now: Time) -> Peer {
        Peer {
            slot,
            config,
            ours,
            of_range: None,
            outgoing: None,
            incoming: None,
            established: None,
            parting: None,
            held: None,
            disabled: false,
            held_back: false,
            failures: 0,
            errors: 0,
            stale: PerFamily::default(),
            long_lived_time: PerFamily::default(),
            long_lived_until: PerFamily::default(),
            refreshing: PerFamily::default(),
            end_of_rib: PerFamily::default(),
            state: SessionState::Idle,
            since: now,
            session_since: now,
            unreachable: None,
            established_count: 0,
            last_established: None,
            counters: PeerCounters::default(),
            faults: FaultReports::default(),
            near_limit: PerFamily::default(),
            last_error: None,
            notification_sent: None,
            notification_received: None,
            ended: None,
        }
    }

    /// Each once; a session may stand beside a newer connection of the peer.
    pub fn connections(&self) -> impl Iterator<Item = ConnId> + use<> {
        let established = self.established;
        let others = [self.outgoing, self.incoming].into_iter().flatten();
        established.into_iter().chain(others.filter(move |&other| established != Some(other)))
    }

    /// The connection is no longer one of the peer's.
    pub fn forget(&mut self, conn: ConnId) {
        for held in [&mut self.established, &mut self.outgoing, &mut self.incoming] {
            if *held == Some(conn) {
                *held = None;
            }
        }
    }

    /// As the connections and the peer's own circumstances have it.
    pub fn state_of<'a>(&self, connection: impl Fn(ConnId) -> Option<&'a Connection>) -> SessionState {
        let furthest = self.connections().filter_map(connection).map(Connection::state).max();
        match furthest {
            Some(state) => state,
            None if !self.may_connect() => SessionState::Idle,
            None => SessionState::Active,
        }
    }

    /// Is a change of state with this cause worth telling? A peer that cannot be reached is dialled again and again;
    /// that is told once, and again when the error is another.
    pub fn is_news(&mut self, cause: &Cause) -> bool {
        match cause {
            Cause::Dialling => self.unreachable.is_none(),
            Cause::DialFailed(error) if self.unreachable.as_ref() == Some(error) => false,
            Cause::DialFailed(error) => {
                self.unreachable = Some(error.clone());
                true
            }
            _ => {
                self.unreachable = None;
                true
            }
        }
    }

    /// How long to wait before the next own dial; `None`: never. `fresh`: within the grace after a change of the
    /// configuration, when failures do not count.
    pub fn dial_delay(&self, fresh: bool, jitter: &mut Jitter) -> Option<Duration> {
        let failures = if fresh { 0 } else { self.failures };
        let (from, to) = match failures {
            0 => FIRST_RETRY,
            n => {
                let doubled = Duration::from_millis(250).saturating_mul(1 << n.min(8));
                let longest = doubled.min(MAX_BACK_OFF);
                (longest * 3 / 4, longest)
            }
        };
        let delay = jitter.between(from, to);
        match self.config.dial {
            Dial::Never => None,
            Dial::First => Some(delay),
            Dial::Later => Some(delay.max(Dial::PATIENCE)),
        }
    }

    pub fn hold_back_time(&self) -> Duration {
        HOLD_BACK.saturating_mul(1 << self.errors.saturating_sub(1).min(8)).min(MAX_HOLD_BACK)
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.config.address, self.config.port)
    }

    pub fn may_connect(&self) -> bool {
        !self.disabled && !self.held_back && self.parting.is_none()
    }
}

/// The range that a peer was let in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfRange {
    pub range: Prefix,
    /// The AS in the peer's configuration is its own, and not presumed.
    pub as_known: bool,
}

/// Which faults in UPDATEs were reported, so that a peer cannot flood the log.
#[derive(Debug, Default)]
pub struct FaultReports {
    discard: Reported,
    treat_as_withdraw: Reported,
}

#[derive(Debug, Default)]
struct Reported {
    last: Option<Time>,
    untold: u64,
}

impl FaultReports {
    /// May a fault with this outcome be reported now? Then: how many were not, since the last.
    pub fn report(&mut self, outcome: Outcome, now: Time) -> Option<u64> {
        let reported = match outcome {
            Outcome::Discard => &mut self.discard,
            Outcome::TreatAsWithdraw => &mut self.treat_as_withdraw,
        };
        if reported.last.is_some_and(|last| now.since(last) < FAULT_INTERVAL) {
            reported.untold += 1;
            return None;
        }
        reported.last = Some(now);
        Some(std::mem::take(&mut reported.untold))
    }
}

/// Which of two connections to a peer stays (RFC 4271 §6.8): the one that the side with the higher identifier
/// opened; with equal identifiers, which only different ASes may have, the side with the higher AS (RFC 6286
/// §2.3).
pub fn survivor(ours: &Ours, remote_id: std::net::Ipv4Addr) -> Direction {
    let local = (ours.router_id.to_bits(), ours.local_as);
    let remote = (remote_id.to_bits(), ours.remote_as);
    if local > remote { Direction::Us } else { Direction::Peer }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use manx_net::Asn;

    use super::*;
    use crate::Config;

    fn peer(dial: Dial) -> Peer {
        let config = Config::new(Asn::CALICO_DEFAULT, Ipv4Addr::new(10, 0, 0, 1));
        let mut peer = PeerConfig::new("10.0.0.2".parse().unwrap(), Asn::CALICO_DEFAULT);
        peer.dial = dial;
        let ours = Ours::new(&config, &peer);
        Peer::new(0, peer, ours, Time::ZERO)
    }

    /// Behaviour 14.
    #[test]
    fn the_back_off_grows_to_its_bound_and_not_in_the_grace() {
        let mut jitter = Jitter::new(3);
        let mut first = peer(Dial::First);
        let delay = first.dial_delay(false, &mut jitter).unwrap();
        assert!((FIRST_RETRY.0..FIRST_RETRY.1).contains(&delay));
        let mut last = Duration::ZERO;
        for failures in 1..=7 {
            first.failures = failures;
            let delay = first.dial_delay(false, &mut jitter).unwrap();
            assert!(delay > last, "{failures}: {delay:?}");
            last = delay;
            assert!(first.dial_delay(true, &mut jitter).unwrap() < FIRST_RETRY.1);
        }
        first.failures = 1000;
        assert!(first.dial_delay(false, &mut jitter).unwrap() <= MAX_BACK_OFF);
        assert_eq!(peer(Dial::Never).dial_delay(true, &mut jitter), None);
        assert_eq!(peer(Dial::Later).dial_delay(true, &mut jitter), Some(Dial::PATIENCE));
    }

    /// Behaviour 1.
    #[test]
    fn the_higher_identifier_wins_as_a_number_and_then_the_higher_as() {
        let mut ours = peer(Dial::First).ours;
        assert_eq!(survivor(&ours, Ipv4Addr::new(9, 255, 255, 255)), Direction::Us);
        assert_eq!(survivor(&ours, Ipv4Addr::new(10, 0, 0, 2)), Direction::Peer);
        assert_eq!(survivor(&ours, Ipv4Addr::new(200, 0, 0, 1)), Direction::Peer);
        ours.remote_as = Asn::new(1).unwrap();
        assert_eq!(survivor(&ours, ours.router_id), Direction::Us);
        ours.remote_as = Asn::new(65000).unwrap();
        assert_eq!(survivor(&ours, ours.router_id), Direction::Peer);
    }
}
