//! What the eBPF programs and the loader must agree on: map names, keys and values, and the verdicts that the
//! programs count. `repr(C)`, no pointers, no padding that is not named, so that a value is the same bytes on both
//! sides and `bpftool map dump` prints it by field. Addresses are in network order but where a field says else. Any
//! change of a layout or of a meaning here raises [`ABI_VERSION`], which is part of the pin path: an older agent's
//! maps are then left alone until the new ones are filled.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

#[cfg(test)]
extern crate std;

pub mod flow;
pub mod header;
pub mod kernel;
pub mod neighbour;
pub mod outside;
pub mod pool;
mod room;
mod route;
mod settings;
mod tally;
mod vacancy;
mod verdict;
pub mod word;

pub use pool::{Block6, Pool4, Pool6, PoolSet};
pub use room::Room;
pub use route::{Action, BadValue, Endpoint, Family, NextHop, Route};
pub use settings::{
    INTERFACE_PROBES, Interface, Mode, Settings, SourceCheck, Window, is_fresh, pulse, way_back,
};
pub use tally::Tally;
pub use vacancy::Vacancy;
pub use verdict::{Counts, Disposition, Program, VERDICTS, Verdict};
pub use word::{BUCKETS, BucketSet, Group, Kind, PACKED, Packed, Word};

/// Part of the pin path, `<bpf-dir>/v<ABI_VERSION>`.
pub const ABI_VERSION: u32 = 6;

/// The names under which maps are defined in the object and pinned.
pub mod map {
    /// LPM trie with all IPv4 routes, network-order `[u8; 4]` → [`super::Route`].
    pub const ROUTES4: &str = "ROUTES4";
    /// LPM trie with all IPv6 routes, network-order `[u8; 16]` → [`super::Route`].
    pub const ROUTES6: &str = "ROUTES6";
    /// Packed array by position → [`super::Word`]: the words of IPv4 pools and of pages. In shared memory.
    pub const WORDS: &str = "WORDS";
    /// Packed array by position → counter id of the prefix that answers there. In shared memory.
    pub const COUNTER_IDS: &str = "COUNTER_IDS";
    /// Array, open-addressed by the first address of an IPv6 block → [`super::Block6`]; its size is a power of two. In
    /// shared memory.
    pub const BLOCKS6: &str = "BLOCKS6";
    /// Array of [`super::pool::POOL_SETS`] → [`super::PoolSet`].
    pub const POOLS: &str = "POOLS";
    /// Packed array by group id → [`super::Group`]. Id 0 is never given out. In shared memory.
    pub const GROUPS: &str = "GROUPS";
    /// Array by set id → [`super::BucketSet`]. In shared memory.
    pub const BUCKETS: &str = "BUCKETS";
    /// Array by next-hop id → [`super::NextHop`]. Id 0 is never given out.
    pub const NEXTHOPS: &str = "NEXTHOPS";
    /// Array by endpoint id → [`super::Endpoint`]. Id 0 is never given out.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Array, open-addressed by interface index → [`super::Interface`]; its size is a power of two. In shared memory.
    pub const INTERFACES: &str = "INTERFACES";
    /// Array of one [`super::Settings`]. In shared memory.
    pub const SETTINGS: &str = "SETTINGS";
    /// Per-CPU array by 2 × place in `INTERFACES` + [`super::Program::hook`] → [`super::Counts`]. The next two are
    /// for interfaces that have no place, where the agent also adds what uplinks counted that are gone; the last is
    /// for pods' interfaces that are gone.
    pub const COUNTERS: &str = "COUNTERS";
    /// Per-CPU array by counter id → [`super::Tally`]; id 0 counts what has no counter of its own.
    pub const PREFIX_COUNTS: &str = "PREFIX_COUNTS";
    /// Per-CPU array by next-hop id → [`super::Tally`].
    pub const HOP_COUNTS: &str = "HOP_COUNTS";
    /// Per-CPU array by [`super::Vacancy::slot`] → [`super::Vacancy`].
    pub const VACANCIES: &str = "VACANCIES";
    /// Per-CPU array by [`super::Room::slot`] → [`super::Room`].
    pub const ROOMS: &str = "ROOMS";
    /// Packed array of bits by [`super::outside::position`]: where outside the indexed pools the tries say more than ways. In
    /// shared memory.
    pub const OUTSIDE: &str = "OUTSIDE";

    pub const ALL: [&str; 18] = [
        ROUTES4,
        ROUTES6,
        WORDS,
        COUNTER_IDS,
        BLOCKS6,
        POOLS,
        GROUPS,
        BUCKETS,
        NEXTHOPS,
        ENDPOINTS,
        INTERFACES,
        SETTINGS,
        COUNTERS,
        PREFIX_COUNTS,
        HOP_COUNTS,
        VACANCIES,
        ROOMS,
        OUTSIDE,
    ];
}

/// Read-only numbers that the loader sets before the programs are loaded.
pub mod global {
    /// u32: entries of `INTERFACES` less one.
    pub const INTERFACE_MASK: &str = "INTERFACE_MASK";
    /// u32: entries of `BLOCKS6` less one.
    pub const BLOCK6_MASK: &str = "BLOCK6_MASK";
    /// u32: 1 if the kernel can be asked for a tracked flow. At 0 the verifier takes the question out.
    pub const GUARD: &str = "GUARD";
    /// u32: 1 if the kernel can be asked how often its routes have changed. At 0 the verifier takes the question out.
    pub const GENERATIONS: &str = "GENERATIONS";
}

/// Entries of the maps as built; the loader may take others.
pub mod capacity {
    use crate::{Program, word::PACKED};

    pub const ROUTES4: usize = 1 << 18;
    pub const ROUTES6: usize = 1 << 18;
    /// Words, so positions: 1 << 20 is a /8 of /26 blocks four times, at 4 MB for them and 4 MB for counter ids.
    pub const WORDS: usize = 1 << 20;
    /// Blocks of IPv6 pools; at most half the slots are in use.
    pub const BLOCKS6: usize = 1 << 16;
    pub const BLOCK6_SLOTS: usize = block6_slots(BLOCKS6);
    pub const GROUPS: usize = 1 << 14;
    pub const BUCKET_SETS: usize = 1 << 10;
    /// Every node of the largest cluster that one reflector serves, over two uplinks.
    pub const NEXTHOPS: usize = 1 << 14;
    /// Pods of one node; Kubernetes stops at some hundreds.
    pub const ENDPOINTS: usize = 1 << 12;
    /// A power of two.
    pub const INTERFACES: usize = 1 << 10;
    pub const COUNTERS: usize = counters(INTERFACES);
    pub const PREFIX_COUNTS: usize = 1 << 16;
    /// A power of two: sixteen blocks of 64 addresses.
    pub const VACANCIES: usize = 1 << 10;
    /// A power of two: more than a node has pods.
    pub const ROOMS: usize = 1 << 10;

    /// Elements of the packed array that holds `words`.
    pub const fn packed(words: usize) -> usize {
        words.div_ceil(PACKED)
    }

    /// Slots of `BLOCKS6` for so many blocks: a power of two, 32 octets each.
    pub const fn block6_slots(blocks: usize) -> usize {
        (2 * blocks).next_power_of_two()
    }

    /// Values of `COUNTERS` for so many places in `INTERFACES`: two hooks each, those without a place, and pods that
    /// are gone.
    pub const fn counters(interfaces: usize) -> usize {
        2 * interfaces + 3
    }

    const _: () = assert!(Program::UplinkXdp.hook() == 1);
}
