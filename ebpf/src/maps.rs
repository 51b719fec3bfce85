//! The maps, and lookups in them that trust nothing they find: values are read as numbers, so that a value that no
//! agent of this ABI wrote is a verdict and not undefined behaviour.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};
use manx_abi::{
    Action, Counts, Endpoint, Family, NextHop, Program, Route, Settings, Uplink, Verdict, capacity,
};

#[btf_map]
static ROUTES4: LpmTrie<[u8; 4], Route, { capacity::ROUTES4 }> = LpmTrie::new();

#[btf_map]
static ROUTES6: LpmTrie<[u8; 16], Route, { capacity::ROUTES6 }> = LpmTrie::new();

#[btf_map]
static NEXTHOPS: Array<NextHop, { capacity::NEXTHOPS }> = Array::new();

#[btf_map]
static ENDPOINTS: Array<Endpoint, { capacity::ENDPOINTS }> = Array::new();

#[btf_map]
static UPLINKS: HashMap<u32, Uplink, { capacity::UPLINKS }> = HashMap::new();

#[btf_map]
static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counts, { Program::ALL.len() }> = PerCpuArray::new();

/// A value of the route maps as it was found.
#[derive(Clone, Copy)]
pub struct Found {
    action: u32,
    pub target: u32,
    pub in_pool: bool,
}

impl Found {
    #[inline(always)]
    pub fn is(&self, action: Action) -> bool {
        self.action == action as u32
    }

    #[inline(always)]
    fn read(route: &Route) -> Found {
        // SAFETY: `route` is a live map value. Its first field is read as the number that it is in memory, because
        // a number that is no `Action` may stand there. Volatile: one read each, though the agent may be writing.
        unsafe {
            Found {
                action: read_volatile(addr_of!(route.action).cast::<u32>()),
                target: read_volatile(addr_of!(route.target)),
                in_pool: read_volatile(addr_of!(route.in_pool)) != 0,
            }
        }
    }
}

/// An address of either family, with its trie.
pub trait Address: Copy {
    fn route(self) -> Option<Found>;
}

impl Address for [u8; 4] {
    #[inline(always)]
    fn route(self) -> Option<Found> {
        ROUTES4.get(&Key::new(32, self)).map(Found::read)
    }
}

impl Address for [u8; 16] {
    #[inline(always)]
    fn route(self) -> Option<Found> {
        ROUTES6.get(&Key::new(128, self)).map(Found::read)
    }
}

/// A next hop in use.
#[derive(Clone, Copy)]
pub struct Hop {
    pub ifindex: u32,
    pub family: u32,
    pub gateway: [u8; 16],
}

#[inline(always)]
pub fn next_hop(id: u32) -> Option<Hop> {
    let hop = NEXTHOPS.get(id)?;
    // SAFETY: as in `Found::read`; `family` may hold a number that is no `Family`.
    let (ifindex, family, gateway) = unsafe {
        (
            read_volatile(addr_of!(hop.ifindex)),
            read_volatile(addr_of!(hop.family).cast::<u32>()),
            read_volatile(addr_of!(hop.gateway)),
        )
    };
    let known = family == Family::Inet as u32 || family == Family::Inet6 as u32;
    (known && ifindex != 0).then_some(Hop { ifindex, family, gateway })
}

#[inline(always)]
pub fn endpoint(id: u32) -> Option<Endpoint> {
    let endpoint = *ENDPOINTS.get(id)?;
    (endpoint.ifindex != 0).then_some(endpoint)
}

#[inline(always)]
pub fn uplink_mac(ifindex: u32) -> Option<[u8; 6]> {
    // SAFETY: an entry that is removed meanwhile stays readable until this program has ended (RCU); one that is
    // replaced is another interface's, and then this MAC decides nothing but "not for us".
    unsafe { UPLINKS.get(ifindex) }.map(|uplink| uplink.mac)
}

#[inline(always)]
pub fn settings() -> Settings {
    SETTINGS.get(0).copied().unwrap_or(Settings { fast_path: 0, source_check: 0 })
}

#[inline(always)]
pub fn count(program: Program, verdict: Verdict) {
    let Some(counts) = COUNTERS.get_ptr_mut(program as u32) else {
        return;
    };
    // SAFETY: a `Counts` is one u64 for each verdict in their order, so the place lies within it; the CPU's value
    // is ours alone, as the program is neither preempted by itself nor migrated.
    unsafe {
        let counter = counts.cast::<u64>().add(verdict as usize);
        *counter += 1;
    }
}
