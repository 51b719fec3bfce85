//! The scenarios, as data: what peers do in each, how long it may take, and how the table names it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::table::Range;

/// The two ends of the veth, and the clients' addresses behind the second. As text each of them is greater than the
/// daemon's, so that by Manx's rule the clients dial.
pub const DAEMON: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const GENERATOR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const CLIENTS: &str = "10.0.16.0/20";
pub const ASN: u32 = 64512;

/// The address of a client, which is also its BGP identifier.
pub fn client(number: usize) -> Ipv4Addr {
    let offset = u32::try_from(number).expect("scenarios have at most some thousand clients");
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 16, 1).to_bits() + offset)
}

/// A million /24 and more from 16.0.0.0.
const ROUTES: Range = Range { base: Ipv4Addr::new(16, 0, 0, 0), length: 24, count: 0 };
/// The last route of a load into the RIB, and the only one that is passed on.
pub const LAST: Range = Range { base: Ipv4Addr::new(192, 0, 2, 0), length: 24, count: 1 };
/// Pod blocks.
const BLOCKS: Range = Range { base: Ipv4Addr::new(172, 16, 0, 0), length: 26, count: 0 };

pub fn routes(count: u32) -> Range {
    Range { count, ..ROUTES }
}

pub fn blocks(count: usize) -> Range {
    Range { count: u32::try_from(count).expect("scenarios have at most some thousand clients"), ..BLOCKS }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Play {
    /// One client announces `routes` in `sets` attribute sets; complete when each of `receivers` has them all.
    Load { routes: u32, sets: u32, receivers: usize },
    /// The same with NO_ADVERTISE; complete when the route that follows them, without it, is with another client.
    IntoRib { routes: u32, sets: u32 },
    /// Every client announces one block as soon as it is up; complete when each has all the others'. The clock runs
    /// from the first SYN, or from when all sessions stand.
    Storm { clients: usize, sessions_first: bool },
    /// One client withdraws its block and announces it again, `times` over, until the last of the others knows.
    Flap { clients: usize, times: usize },
}

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    pub play: Play,
    /// In seconds, from the clock's start.
    pub limit: u64,
    /// GoBGP takes minutes for it: only with `--full`.
    pub long_for_gobgp: bool,
}

impl Scenario {
    pub fn clients(&self) -> usize {
        match self.play {
            Play::Load { receivers, .. } => 1 + receivers,
            Play::IntoRib { .. } => 2,
            Play::Storm { clients, .. } | Play::Flap { clients, .. } => clients,
        }
    }

    /// How many routes the daemon holds when it is done.
    pub fn routes(&self) -> usize {
        match self.play {
            Play::Load { routes, .. } | Play::IntoRib { routes, .. } => {
                usize::try_from(routes).expect("a u32 fits a usize")
            }
            Play::Storm { clients, .. } | Play::Flap { clients, .. } => clients,
        }
    }
}

const fn scenario(name: &'static str, title: &'static str, limit: u64, play: Play) -> Scenario {
    Scenario { name, title, play, limit, long_for_gobgp: false }
}

const fn long_for_gobgp(scenario: Scenario) -> Scenario {
    Scenario { long_for_gobgp: true, ..scenario }
}

pub const SCENARIOS: &[Scenario] = &[
    scenario(
        "rib-100k",
        "one session, 100k routes into the RIB",
        60,
        Play::IntoRib { routes: 100_000, sets: 1 },
    ),
    long_for_gobgp(scenario(
        "rib-1m",
        "one session, 1M routes into the RIB",
        120,
        Play::IntoRib { routes: 1_000_000, sets: 1 },
    )),
    long_for_gobgp(scenario(
        "rib-500k-sets",
        "500k routes, 100k attribute sets",
        120,
        Play::IntoRib { routes: 500_000, sets: 100_000 },
    )),
    scenario("one-100k", "1 → 1, 100k", 60, Play::Load { routes: 100_000, sets: 1, receivers: 1 }),
    long_for_gobgp(scenario(
        "one-1m",
        "1 → 1, 1M",
        300,
        Play::Load { routes: 1_000_000, sets: 1, receivers: 1 },
    )),
    long_for_gobgp(scenario(
        "fan10",
        "reflector 1 → 10, 100k, one attribute set",
        200,
        Play::Load { routes: 100_000, sets: 1, receivers: 10 },
    )),
    long_for_gobgp(scenario(
        "fan10-sets",
        "reflector 1 → 10, 100k, 20k attribute sets",
        200,
        Play::Load { routes: 100_000, sets: 20_000, receivers: 10 },
    )),
    long_for_gobgp(scenario(
        "fan50-sets",
        "reflector 1 → 50, 100k, 20k attribute sets",
        600,
        Play::Load { routes: 100_000, sets: 20_000, receivers: 50 },
    )),
    scenario(
        "storm250",
        "250 clients × one /26, all connect at once",
        240,
        Play::Storm { clients: 250, sessions_first: false },
    ),
    scenario("up250", "the same, sessions up first", 60, Play::Storm { clients: 250, sessions_first: true }),
    scenario("flap250", "flap, until the last of 249 knows", 60, Play::Flap { clients: 250, times: 10 }),
    scenario(
        "storm1000",
        "1000 clients, all connect at once",
        120,
        Play::Storm { clients: 1000, sessions_first: false },
    ),
];
