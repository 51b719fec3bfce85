//! Switches: the one value of `SETTINGS` and an interface's entry. They stand in memory that the agent maps, each
//! field is a u32 that is stored alone, and takes effect with the next packet.

use crate::{BadValue, pool::POOL_NUMBERS};

/// How far the fast path goes. A packet's mode is the least of the whole's, its ingress interface's and those of
/// its source's and its destination's pools.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing is redirected. Blackholes and the source check stay: they drop what the stack would drop.
    Off = 0,
    /// What conntrack knows, has seen in both directions and does not translate.
    Guarded = 1,
    Unguarded = 2,
    /// This one leaves it to the others. Of a pool: never.
    NoSay = 3,
}

impl TryFrom<u32> for Mode {
    type Error = BadValue;

    fn try_from(found: u32) -> Result<Mode, BadValue> {
        Ok(match found {
            0 => Mode::Off,
            1 => Mode::Guarded,
            2 => Mode::Unguarded,
            3 => Mode::NoSay,
            found => return Err(BadValue { field: "mode", found }),
        })
    }
}

/// What a pod may send from.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceCheck {
    Off = 0,
    /// From any address to which there is a unicast route.
    Loose = 1,
    /// From addresses whose route leads back to this interface.
    Strict = 2,
}

impl TryFrom<u32> for SourceCheck {
    type Error = BadValue;

    fn try_from(found: u32) -> Result<SourceCheck, BadValue> {
        Ok(match found {
            0 => SourceCheck::Off,
            1 => SourceCheck::Loose,
            2 => SourceCheck::Strict,
            found => return Err(BadValue { field: "source check", found }),
        })
    }
}

/// The one value of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of the node as a whole.
    pub mode: Mode,
    /// Which value of `POOLS` holds.
    pub pool_set: u32,
    /// 0: of addresses outside the indexed pools `ROUTES4` says nothing but [`crate::Action::Pass`], or a way to what is in no
    /// pool and never carried, so it is not asked. Else it is where the map `OUTSIDE` says so.
    pub outside4: u32,
    pub outside6: u32,
    /// Of TCP connections: by the timeouts of established ones, of those with data not acknowledged, and of those with
    /// too many retransmissions. Conntrack takes the second where it sees one direction of a flow only now and then.
    pub tcp: [Window; 3],
    /// Of UDP flows: of streams, and of others.
    pub udp: [Window; 2],
    /// Enters the hash that spreads flows, so that two nodes in a row spread differently. It never changes while flows live.
    pub hash_seed: u32,
    /// The time ([`pulse()`]), stored by a living agent every second or so; 0: nobody says.
    pub pulse: u32,
    /// A pulse older than this is a dead agent's, or a stopped one's. Then the kernel's FIB is asked before
    /// each redirect, since a pod may have come, gone or moved meanwhile.
    pub pulse_limit: u32,
    /// How many jiffies the FIB's word on an address of an own block holds while its routes stay as they are ([`crate::Vacancy`]);
    /// 0: it is asked each time.
    pub vacancy: u32,
    /// Of the pools, by number.
    pub pool_modes: [Mode; POOL_NUMBERS],
}

/// Fields before the pools'.
const HEAD: usize = 18;

impl Settings {
    pub const SIZE: usize = 4 * (HEAD + POOL_NUMBERS);
    /// What zeroed memory says.
    pub const ZERO: Settings = Settings {
        mode: Mode::Off,
        pool_set: 0,
        outside4: 0,
        outside6: 0,
        tcp: [Window::NONE; 3],
        udp: [Window::NONE; 2],
        hash_seed: 0,
        pulse: 0,
        pulse_limit: 0,
        vacancy: 0,
        pool_modes: [Mode::Off; POOL_NUMBERS],
    };

    pub fn to_bytes(&self) -> [u8; Settings::SIZE] {
        let head: [u32; HEAD] = [
            self.mode as u32,
            self.pool_set,
            self.outside4,
            self.outside6,
            self.tcp[0].low,
            self.tcp[0].high,
            self.tcp[1].low,
            self.tcp[1].high,
            self.tcp[2].low,
            self.tcp[2].high,
            self.udp[0].low,
            self.udp[0].high,
            self.udp[1].low,
            self.udp[1].high,
            self.hash_seed,
            self.pulse,
            self.pulse_limit,
            self.vacancy,
        ];
        let mut out = [0; Settings::SIZE];
        let words = head.into_iter().chain(self.pool_modes.into_iter().map(|mode| mode as u32));
        for (place, word) in out.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        out
    }

    #[expect(clippy::indexing_slicing, reason = "`place` is below SIZE / 4 at every call")]
    pub fn from_bytes(bytes: [u8; Settings::SIZE]) -> Result<Settings, BadValue> {
        let word = |place: usize| {
            let at = 4 * place;
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let window = |place| Window { low: word(place), high: word(place + 1) };
        let mut pool_modes = [Mode::Off; POOL_NUMBERS];
        for (number, mode) in pool_modes.iter_mut().enumerate() {
            *mode = word(HEAD + number).try_into()?;
        }
        Ok(Settings {
            mode: word(0).try_into()?,
            pool_set: word(1),
            outside4: word(2),
            outside6: word(3),
            tcp: [window(4), window(6), window(8)],
            udp: [window(10), window(12)],
            hash_seed: word(14),
            pulse: word(15),
            pulse_limit: word(16),
            vacancy: word(17),
            pool_modes,
        })
    }
}

/// The kernel's jiffies as pulses have them. 32 bits of this come round after 8 years at 1000 Hz; the low 32 bits of
/// jiffies do after 50 days, and an agent that died then would be alive again for some seconds.
#[inline(always)]
pub const fn pulse(jiffies: u64) -> u32 {
    (jiffies >> 6) as u32
}

/// Whether a pulse is not older than `limit`. The agent may have stored it after the clock was read.
#[inline(always)]
pub const fn is_fresh(pulse: u32, limit: u32, now: u32) -> bool {
    let age = now.wrapping_sub(pulse);
    age <= limit || age >= u32::MAX - limit
}

/// The fast path carries a packet of a tracked flow while the flow's remaining time, in jiffies, is above `low` and
/// not above `high`: its entry was renewed a short while ago, by the state that the window is of. Else the packet goes
/// by the stack, which renews it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub low: u32,
    pub high: u32,
}

impl Window {
    /// What zeroed memory says: no packet is carried by it.
    pub const NONE: Window = Window { low: 0, high: 0 };

    /// Of a timeout in jiffies, at `hz` jiffies a second: conntrack forgets a flow that the fast path carried at most
    /// a sixteenth of the timeout, and at most 30 s, sooner than with the stack alone.
    pub const fn of(timeout: u32, hz: u32) -> Window {
        let sixteenth = timeout / 16;
        let most = 30 * hz;
        let slack = if sixteenth < 1 {
            1
        } else if sixteenth > most {
            most
        } else {
            sixteenth
        };
        Window { low: timeout.saturating_sub(slack), high: timeout }
    }

    #[inline(always)]
    pub const fn holds(self, remaining: u32) -> bool {
        self.low < remaining && remaining <= self.high
    }
}

/// How many places an interface's entry may stand after its own.
pub const INTERFACE_PROBES: u32 = 8;

/// Value of `INTERFACES`: an interface that has one of our programs. It stands at `ifindex & mask`, or at one of
/// the next [`INTERFACE_PROBES`] - 1 places (around the end).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interface {
    /// 0: the place is not in use. Stored last, and cleared first.
    pub ifindex: u32,
    pub mode: Mode,
    /// Of a pod's interface.
    pub source_check: SourceCheck,
    /// The interface's own: XDP sees every frame on the wire and no packet type, so it compares addresses itself.
    pub mac: [u8; 6],
    /// Of an uplink. Families ([`way_back`]) of which a packet has to come by the way back to its source, as strict
    /// `rp_filter` wants it: others are the stack's to judge.
    pub way_back: u8,
    pub unused: [u8; 5],
}

/// Bits of [`Interface::way_back`].
pub mod way_back {
    pub const IPV4: u8 = 1;
    pub const IPV6: u8 = 2;
}

impl Interface {
    pub const SIZE: usize = 24;
    pub const UNUSED: Interface = Interface {
        ifindex: 0,
        mode: Mode::Off,
        source_check: SourceCheck::Off,
        mac: [0; 6],
        way_back: 0,
        unused: [0; 5],
    };

    pub fn to_bytes(self) -> [u8; Interface::SIZE] {
        let mut out = [0; Interface::SIZE];
        out[..4].copy_from_slice(&self.ifindex.to_ne_bytes());
        out[4..8].copy_from_slice(&(self.mode as u32).to_ne_bytes());
        out[8..12].copy_from_slice(&(self.source_check as u32).to_ne_bytes());
        out[12..18].copy_from_slice(&self.mac);
        out[18] = self.way_back;
        out
    }

    #[expect(clippy::indexing_slicing, reason = "constants below SIZE")]
    pub fn from_bytes(bytes: [u8; Interface::SIZE]) -> Result<Interface, BadValue> {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut mac = [0; 6];
        mac.copy_from_slice(&bytes[12..18]);
        Ok(Interface {
            ifindex: word(0),
            mode: word(4).try_into()?,
            source_check: word(8).try_into()?,
            mac,
            way_back: bytes[18],
            unused: [0; 5],
        })
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn the_sizes_and_places_are_those_that_the_loader_writes() {
        assert_eq!(size_of::<Settings>(), Settings::SIZE);
        assert_eq!(offset_of!(Settings, pool_modes), 4 * HEAD);
        assert_eq!(size_of::<Interface>(), Interface::SIZE);
        assert_eq!(offset_of!(Interface, mac), 12);
        assert_eq!(offset_of!(Interface, way_back), 18);
    }

    #[test]
    fn switches_are_read_back_as_they_were_written() {
        let mut settings =
            Settings { mode: Mode::NoSay, pool_set: 3, hash_seed: 9, vacancy: 25, ..Settings::ZERO };
        settings.tcp[1] = Window { low: 5, high: 6 };
        settings.udp[1] = Window { low: 7, high: 8 };
        settings.pool_modes[31] = Mode::Guarded;
        assert_eq!(Settings::from_bytes(settings.to_bytes()), Ok(settings));
        assert_eq!(Settings::from_bytes([0; Settings::SIZE]), Ok(Settings::ZERO));
        let interface = Interface {
            ifindex: 7,
            mode: Mode::NoSay,
            source_check: SourceCheck::Strict,
            mac: *b"hstmac",
            way_back: way_back::IPV6,
            unused: [0; 5],
        };
        assert_eq!(Interface::from_bytes(interface.to_bytes()), Ok(interface));
    }

    #[test]
    fn the_least_mode_is_the_strictest() {
        assert!(
            Mode::Off < Mode::Guarded && Mode::Guarded < Mode::Unguarded && Mode::Unguarded < Mode::NoSay
        );
    }

    #[test]
    fn an_agent_that_died_is_not_alive_again_when_jiffies_of_32_bits_come_round() {
        // Three seconds at 1000 Hz.
        let limit = pulse(3000) + 1;
        // The kernel lets the low 32 bits come round five minutes after it has started.
        for died in [0xffff_0000u64, 0xffff_ffff, 1 << 32, 7 << 32 | 12345] {
            let is_alive = |later: u64| is_fresh(pulse(died), limit, pulse(died + later));
            assert!((0..=3000).all(is_alive), "{died}");
            for turn in 1..=63u64 {
                for later in [-4000, -3000, 0, 3000, 4000] {
                    let later = (turn << 32).wrapping_add_signed(later);
                    assert!(!is_alive(later), "{died}, {later} jiffies later");
                }
            }
            assert!((3100..100_000).all(|later| !is_alive(later)), "{died}");
        }
        assert!(is_fresh(7, limit, 6) && is_fresh(0, limit, u32::MAX) && is_fresh(u32::MAX, limit, 0));
    }

    #[test]
    fn a_connection_is_forgotten_hardly_sooner_than_by_the_stack_alone() {
        // Five days at 250 Hz: the stack sees a packet in the last 30 s of silence.
        let five_days = 432_000 * 250;
        assert_eq!(Window::of(five_days, 250), Window { low: five_days - 30 * 250, high: five_days });
        // UDP's 30 s at 1000 Hz: a sixteenth.
        assert_eq!(Window::of(30_000, 1000), Window { low: 30_000 - 1875, high: 30_000 });
        // Shorter than sixteen jiffies.
        assert_eq!(Window::of(10, 100), Window { low: 9, high: 10 });
        assert_eq!(Window::of(0, 100), Window::NONE);
    }

    #[test]
    fn a_window_holds_what_was_renewed_a_short_while_ago() {
        let window = Window { low: 90, high: 100 };
        for (remaining, holds) in
            [(0, false), (90, false), (91, true), (100, true), (101, false), (u32::MAX, false)]
        {
            assert_eq!(window.holds(remaining), holds, "{remaining}");
        }
        assert!((0..5).all(|remaining| !Window::NONE.holds(remaining)));
    }
}
