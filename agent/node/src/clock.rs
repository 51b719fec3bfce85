//! The daemon's two clocks: the monotonic one that drives the speaker, and the wall's for people.

use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use manx_bgp::Time;

/// The speaker's time starts here, so that no moment of ours is [`Time::ZERO`], which means "at once".
const EPOCH: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    wall: SystemTime,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now(), wall: SystemTime::now() }
    }

    pub fn now(&self) -> Time {
        Time::ZERO + EPOCH + self.start.elapsed()
    }

    /// When a timer for `time` must fire.
    pub fn instant(&self, time: Time) -> Instant {
        self.start + time.since(Time::ZERO + EPOCH)
    }

    /// The wall clock's reading at `time`, RFC 3339. Steps of the wall clock since the start are not followed.
    pub fn rfc3339(&self, time: Time) -> String {
        stamp(self.wall + time.since(Time::ZERO + EPOCH))
    }

    pub fn running_for(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn started_at(&self) -> String {
        stamp(self.wall)
    }
}

/// To the millisecond, in UTC.
pub fn stamp(at: SystemTime) -> String {
    // Out of range only where the system's clock says a year past 9999.
    Timestamp::try_from(at).map_or_else(|_| String::from("unknown"), |t| format!("{t:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speakers_time_and_the_timers_agree() {
        let clock = Clock::start();
        let now = clock.now();
        assert!(now > Time::ZERO);
        let later = clock.instant(now + Duration::from_secs(3));
        let ahead = later.saturating_duration_since(Instant::now());
        assert!(ahead <= Duration::from_secs(3) && ahead > Duration::from_secs(2), "{ahead:?}");
    }

    #[test]
    fn a_stamp_is_rfc_3339_to_the_millisecond() {
        let text = stamp(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500));
        assert_eq!(text, "1970-01-01T00:00:01.500Z");
    }
}
