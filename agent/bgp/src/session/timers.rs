//! All timers of a speaker in one ordered set.

use std::collections::{BTreeSet, HashMap};

use crate::{Time, config::Family, event::ConnId, rib::table::PeerSlot};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// RFC 4271 §8.2.1: no message for the hold time, or no OPEN on a fresh connection.
    Hold(ConnId),
    Keepalive(ConnId),
    /// RFC 9687: the peer takes nothing any more.
    SendHold(ConnId),
    /// A dial takes too long.
    DialTimeout(ConnId),
    /// ConnectRetryTimer.
    Dial(PeerSlot),
    /// The peer was held back after errors (IdleHoldTimer).
    HoldBack(PeerSlot),
    /// Stale routes of this family have had their time (RFC 4724 §4.2).
    Stale(PeerSlot, Family),
    /// The session of a peer that is no longer wanted has had its time.
    Part(PeerSlot),
    /// Who is no client any longer has been treated as one long enough.
    Demote(PeerSlot),
    /// A change of the topology has had its time.
    Change,
    /// Which routes of leaving peers have come by another way is looked at.
    Look,
    /// Restarting: only peers with a session count from here on.
    Settling,
    /// Restarting: nobody is waited for any longer (RFC 4724 §4.1).
    Deferral,
}

#[derive(Debug, Default)]
pub struct Timers {
    by_time: BTreeSet<(Time, Timer)>,
    at: HashMap<Timer, Time>,
}

impl Timers {
    /// In place of an earlier time.
    pub fn set(&mut self, timer: Timer, at: Time) {
        if let Some(before) = self.at.insert(timer, at) {
            self.by_time.remove(&(before, timer));
        }
        self.by_time.insert((at, timer));
    }

    pub fn clear(&mut self, timer: Timer) {
        if let Some(at) = self.at.remove(&timer) {
            self.by_time.remove(&(at, timer));
        }
    }

    pub fn get(&self, timer: Timer) -> Option<Time> {
        self.at.get(&timer).copied()
    }

    pub fn next(&self) -> Option<Time> {
        self.by_time.first().map(|&(at, _)| at)
    }

    pub fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let &(at, timer) = self.by_time.first()?;
        if at > now {
            return None;
        }
        self.clear(timer);
        Some(timer)
    }
}

/// Jitter: splitmix64, from the configuration's seed.
#[derive(Debug)]
pub struct Jitter(u64);

impl Jitter {
    pub fn new(seed: u64) -> Jitter {
        Jitter(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between both, the first included.
    pub fn between(&mut self, from: std::time::Duration, to: std::time::Duration) -> std::time::Duration {
        let span = to.saturating_sub(from).as_nanos() as u64;
        from + std::time::Duration::from_nanos(self.next() % span.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_set_again_fires_once_at_the_later_time() {
        let mut timers = Timers::default();
        timers.set(Timer::Dial(1), Time::from_nanos(5));
        timers.set(Timer::Dial(1), Time::from_nanos(9));
        timers.set(Timer::Deferral, Time::from_nanos(7));
        assert_eq!(timers.pop_due(Time::from_nanos(6)), None);
        assert_eq!(timers.pop_due(Time::from_nanos(9)), Some(Timer::Deferral));
        assert_eq!(timers.pop_due(Time::from_nanos(9)), Some(Timer::Dial(1)));
        assert_eq!(timers.next(), None);
    }
}
