//! What the eBPF programs and the loader must agree on: map names, keys and values, and the verdicts that the
//! programs count. `repr(C)`, no pointers, no padding that is not named, so that a value is the same bytes on both
//! sides and `bpftool map dump` prints it by field. Addresses are in network order. Any change of a layout or of a
//! meaning here raises [`ABI_VERSION`], which is part of the pin path: an older agent's maps are then left alone
//! until the new ones are filled.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod header;
mod route;
mod verdict;

pub use route::{Action, BadValue, Endpoint, Family, NextHop, Route, Settings, Uplink};
pub use verdict::{Counts, Disposition, Program, VERDICTS, Verdict};

/// Part of the pin path, `<bpf-dir>/v<ABI_VERSION>`.
pub const ABI_VERSION: u32 = 1;

/// The names under which maps are defined in the object and pinned.
pub mod map {
    /// LPM trie, network-order `[u8; 4]` → [`super::Route`].
    pub const ROUTES4: &str = "ROUTES4";
    /// LPM trie, network-order `[u8; 16]` → [`super::Route`].
    pub const ROUTES6: &str = "ROUTES6";
    /// Array by next-hop id → [`super::NextHop`]. Id 0 is never given out.
    pub const NEXTHOPS: &str = "NEXTHOPS";
    /// Array by endpoint id → [`super::Endpoint`]. Id 0 is never given out.
    pub const ENDPOINTS: &str = "ENDPOINTS";
    /// Hash by interface index → [`super::Uplink`], for `uplink_xdp` only.
    pub const UPLINKS: &str = "UPLINKS";
    /// Array of one [`super::Settings`].
    pub const SETTINGS: &str = "SETTINGS";
    /// Per-CPU array by [`super::Program`] → [`super::Counts`].
    pub const COUNTERS: &str = "COUNTERS";

    pub const ALL: [&str; 7] = [ROUTES4, ROUTES6, NEXTHOPS, ENDPOINTS, UPLINKS, SETTINGS, COUNTERS];
}

/// Entries of the maps as built. The loader may make the tries larger.
pub mod capacity {
    pub const ROUTES4: usize = 1 << 18;
    pub const ROUTES6: usize = 1 << 18;
    /// Every node of the largest cluster that one reflector serves, over two uplinks.
    pub const NEXTHOPS: usize = 1 << 14;
    /// Pods of one node; Kubernetes stops at some hundreds.
    pub const ENDPOINTS: usize = 1 << 12;
    pub const UPLINKS: usize = 256;
}
