//! Switches that take effect with the next packet: the words of `SETTINGS`, each stored alone.

use std::time::Duration;

use manx_abi as abi;

use super::maps::Maps;

/// How far the fast path goes. A packet's mode is the least of the whole's, its ingress interface's and those of its
/// source's and its destination's pools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// Nothing is redirected. Blackholes and the source check stay: they drop what the stack would drop.
    #[default]
    Off,
    /// What conntrack knows, has seen in both directions and does not translate.
    Guarded,
    Unguarded,
}

impl Mode {
    pub(super) fn to_abi(self) -> abi::Mode {
        match self {
            Mode::Off => abi::Mode::Off,
            Mode::Guarded => abi::Mode::Guarded,
            Mode::Unguarded => abi::Mode::Unguarded,
        }
    }

    /// What no agent writes is as good as off.
    pub(super) fn of(word: u32) -> Mode {
        match abi::Mode::try_from(word) {
            Ok(abi::Mode::Guarded) => Mode::Guarded,
            Ok(abi::Mode::Unguarded | abi::Mode::NoSay) => Mode::Unguarded,
            Ok(abi::Mode::Off) | Err(_) => Mode::Off,
        }
    }
}

/// What a pod may send from, and speak for in ARP and neighbour discovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceCheck {
    Off,
    /// Any address to which there is a unicast route.
    Loose,
    /// Addresses whose route leads back to the interface.
    #[default]
    Strict,
}

impl SourceCheck {
    pub(super) fn to_abi(self) -> abi::SourceCheck {
        match self {
            SourceCheck::Off => abi::SourceCheck::Off,
            SourceCheck::Loose => abi::SourceCheck::Loose,
            SourceCheck::Strict => abi::SourceCheck::Strict,
        }
    }
}

/// What an interface has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceSettings {
    /// `None`: the whole and the pools decide.
    pub mode: Option<Mode>,
    /// Of a pod's interface.
    pub source_check: SourceCheck,
    /// Of an uplink.
    pub way_back: WayBack,
}

/// Families of which what comes by an uplink has to come by the way back to its source; other packets are left to the
/// stack, which drops them (`rp_filter`, or a rule of netfilter).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WayBack {
    pub ipv4: bool,
    pub ipv6: bool,
}

impl WayBack {
    pub(super) fn to_abi(self) -> u8 {
        let bit = |wanted: bool, bit: u8| if wanted { bit } else { 0 };
        bit(self.ipv4, abi::way_back::IPV4) | bit(self.ipv6, abi::way_back::IPV6)
    }
}

/// Conntrack's timeouts, as the kernel has them in `net.netfilter`. A connection whose time runs low goes by the stack
/// once, which renews it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// `nf_conntrack_tcp_timeout_established`.
    pub tcp_established: Duration,
    /// `nf_conntrack_tcp_timeout_unacknowledged`: what request and response mostly have.
    pub tcp_unacknowledged: Duration,
    /// `nf_conntrack_tcp_timeout_max_retrans`.
    pub tcp_max_retrans: Duration,
    /// `nf_conntrack_udp_timeout_stream`.
    pub udp_stream: Duration,
    /// `nf_conntrack_udp_timeout`.
    pub udp: Duration,
}

/// The kernel's own defaults.
impl Default for KeepAlive {
    fn default() -> KeepAlive {
        KeepAlive {
            tcp_established: Duration::from_secs(5 * 24 * 3600),
            tcp_unacknowledged: Duration::from_secs(300),
            tcp_max_retrans: Duration::from_secs(300),
            udp_stream: Duration::from_secs(120),
            udp: Duration::from_secs(30),
        }
    }
}

/// The place of a field among the words.
macro_rules! place {
    ($field:ident) => {
        std::mem::offset_of!(manx_abi::Settings, $field) / 4
    };
}
pub(super) use place;

pub(super) fn set_mode(maps: &Maps, mode: Mode) {
    maps.settings.store(place!(mode), mode.to_abi() as u32);
}

pub(super) fn mode(maps: &Maps) -> Mode {
    Mode::of(maps.settings.load(place!(mode)).unwrap_or(0))
}

pub(super) fn set_keep_alive(maps: &Maps, keep_alive: KeepAlive) {
    let hz = jiffies_a_second();
    let KeepAlive { tcp_established, tcp_unacknowledged, tcp_max_retrans, udp_stream, udp } = keep_alive;
    let window = |at: usize, timeout: Duration| {
        let jiffies = timeout.as_millis().saturating_mul(hz.into()) / 1000;
        let window = abi::Window::of(u32::try_from(jiffies).unwrap_or(u32::MAX), hz);
        if maps.settings.load(at) == Some(window.low) && maps.settings.load(at + 1) == Some(window.high) {
            return;
        }
        // In between it holds nothing: a packet more for the stack.
        maps.settings.store(at + 1, 0);
        maps.settings.store(at, window.low);
        maps.settings.store(at + 1, window.high);
    };
    for (number, timeout) in [tcp_established, tcp_unacknowledged, tcp_max_retrans].into_iter().enumerate() {
        window(place!(tcp) + 2 * number, timeout);
    }
    for (number, timeout) in [udp_stream, udp].into_iter().enumerate() {
        window(place!(udp) + 2 * number, timeout);
    }
}

/// For how long the FIB's word on an address of an own block holds while its routes stay as they are. What changes the
/// answer without a route (`ip nexthop replace`, forwarding that is switched off) is noticed so late; IPv6 does not count
/// a route that goes.
const VACANCY: Duration = Duration::from_millis(100);

/// Whether the programs may remember what the FIB said of an own block's address. They do so by address and
/// interface; where rules choose the table by more they may not.
pub(super) fn set_vacancy(maps: &Maps, may: bool) {
    let jiffies = VACANCY.as_millis() as u32 * jiffies_a_second() / 1000;
    maps.settings.store(place!(vacancy), if may { jiffies.max(1) } else { 0 });
}

/// Says to the programs that an agent lives, for `limit` from now on. `pulse` is the time by the kernel's clock.
pub(super) fn set_pulse(maps: &Maps, pulse: u32, limit: Duration) {
    let limit = limit.as_millis().saturating_mul(jiffies_a_second().into()) / 1000;
    // One more, for the parts of a unit at both ends.
    let limit = abi::pulse(u64::try_from(limit).unwrap_or(u64::MAX)).saturating_add(1);
    maps.settings.store(place!(pulse_limit), limit);
    // Zero says that nobody tells.
    maps.settings.store(place!(pulse), pulse.max(1));
}

/// Chosen once for the life of the maps: flows that are spread by it keep their next hops.
pub(super) fn seed_hash(maps: &Maps) {
    let at = place!(hash_seed);
    while maps.settings.load(at) == Some(0) {
        let mut seed = [0u8; 4];
        // SAFETY: four octets of ours.
        if unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) } == 4 {
            maps.settings.store(at, u32::from_ne_bytes(seed));
        }
    }
}

/// The kernel's HZ: what the coarse clocks count in.
pub(super) fn jiffies_a_second() -> u32 {
    let mut tick = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours.
    let told = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut tick) } == 0;
    match u32::try_from(tick.tv_nsec) {
        Ok(tick) if told && tick > 0 => (1_000_000_000 + tick / 2) / tick,
        // What most distributions have.
        _ => 250,
    }
}
