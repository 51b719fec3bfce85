//! The maps, and reads of them that trust nothing they find: values are read as numbers, so that a value that no
//! agent of this ABI wrote is a verdict and not undefined behaviour. Each number is read once, though the agent may
//! be writing.

use core::{
    hint::black_box,
    ptr::{addr_of, null, read_volatile},
};

use aya_ebpf::{
    Global,
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, LpmTrie, PerCpuArray, lpm_trie::Key},
    helpers::bpf_jiffies64,
    macros::btf_map,
};
use manx_abi::{
    Block6, BucketSet, Counts, Endpoint, Family, Group, INTERFACE_PROBES, Interface, NextHop, PACKED, Packed,
    PoolSet, Program, Room, Route, Settings, Tally, VERDICTS, Vacancy, Verdict, Window, Word, capacity, flow,
    header::Address6, outside, pool,
};

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
static ROUTES4: LpmTrie<[u8; 4], Route, { capacity::ROUTES4 }> = LpmTrie::new();

#[btf_map]
static ROUTES6: LpmTrie<[u8; 16], Route, { capacity::ROUTES6 }> = LpmTrie::new();

#[btf_map]
static WORDS: Array<Packed, { capacity::packed(capacity::WORDS) }, MMAPABLE> = Array::new();

#[btf_map]
static COUNTER_IDS: Array<Packed, { capacity::packed(capacity::WORDS) }, MMAPABLE> = Array::new();

#[btf_map]
static BLOCKS6: Array<Block6, { capacity::BLOCK6_SLOTS }, MMAPABLE> = Array::new();

#[btf_map]
static POOLS: Array<PoolSet, { pool::POOL_SETS }> = Array::new();

#[btf_map]
static GROUPS: Array<Packed, { capacity::packed(capacity::GROUPS) }, MMAPABLE> = Array::new();

#[btf_map]
static BUCKETS: Array<BucketSet, { capacity::BUCKET_SETS }, MMAPABLE> = Array::new();

#[btf_map]
static NEXTHOPS: Array<NextHop, { capacity::NEXTHOPS }> = Array::new();

#[btf_map]
static ENDPOINTS: Array<Endpoint, { capacity::ENDPOINTS }> = Array::new();

#[btf_map]
static INTERFACES: Array<Interface, { capacity::INTERFACES }, MMAPABLE> = Array::new();

#[btf_map]
static SETTINGS: Array<Settings, 1, MMAPABLE> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counts, { capacity::COUNTERS }> = PerCpuArray::new();

#[btf_map]
static PREFIX_COUNTS: PerCpuArray<Tally, { capacity::PREFIX_COUNTS }> = PerCpuArray::new();

#[btf_map]
static HOP_COUNTS: PerCpuArray<Tally, { capacity::NEXTHOPS }> = PerCpuArray::new();

#[btf_map]
static VACANCIES: PerCpuArray<Vacancy, { capacity::VACANCIES }> = PerCpuArray::new();

#[btf_map]
static ROOMS: PerCpuArray<Room, { capacity::ROOMS }> = PerCpuArray::new();

#[btf_map]
static OUTSIDE: Array<Packed, { capacity::packed(outside::WORDS) }, MMAPABLE> = Array::new();

#[unsafe(no_mangle)]
static INTERFACE_MASK: Global<u32> = Global::new(capacity::INTERFACES as u32 - 1);

#[unsafe(no_mangle)]
static BLOCK6_MASK: Global<u32> = Global::new(capacity::BLOCK6_SLOTS as u32 - 1);

/// Reads a field of a live map value as the number that it is in memory.
macro_rules! number {
    ($value:expr, $($field:tt)+) => {
        // SAFETY: the value was found in a map of ours, whose arrays live as long as the program and whose hash
        // entries outlive the program's run (RCU); the field lies within it, is of this width, and any bits in it
        // are a number.
        unsafe { read_volatile(addr_of!((*$value).$($field)+).cast::<u32>()) }
    };
}
pub(crate) use number;

/// The switches, of which each is read when it is asked for.
#[derive(Clone, Copy)]
pub struct Switches(*const Settings);

impl Switches {
    #[inline(always)]
    pub fn read() -> Option<Switches> {
        SETTINGS.get_ptr(0).map(Switches)
    }

    /// The number of a `Mode`.
    #[inline(always)]
    pub fn mode(self) -> u32 {
        number!(self.0, mode)
    }

    /// The mode of a pool by its number plus one.
    #[inline(always)]
    pub fn pool_mode(self, pool: u32) -> u32 {
        let number = pool.wrapping_sub(1) as usize & (pool::POOL_NUMBERS - 1);
        // SAFETY: as in `number!`; there is a mode for each number below POOL_NUMBERS, a power of two.
        unsafe { read_volatile(addr_of!((*self.0).pool_modes).cast::<u32>().add(number)) }
    }

    #[inline(always)]
    pub fn pools(self) -> Option<*const PoolSet> {
        POOLS.get_ptr(number!(self.0, pool_set))
    }

    #[inline(always)]
    pub fn outside4(self, address: u32) -> bool {
        number!(self.0, outside4) != 0 && is_outside(outside::position(true, outside::part4(address)))
    }

    #[inline(always)]
    pub fn outside6(self, high: u64) -> bool {
        number!(self.0, outside6) != 0 && is_outside(outside::position(false, outside::part6(high)))
    }

    #[inline(always)]
    pub fn hash_seed(self) -> u32 {
        number!(self.0, hash_seed)
    }

    /// A flow with so much time left, in jiffies, was renewed a short while ago.
    #[inline(always)]
    pub fn is_renewed(self, protocol: u8, remaining: u32) -> bool {
        // SAFETY: as in `number!`; a window is two numbers.
        unsafe {
            if protocol == flow::TCP {
                let windows = addr_of!((*self.0).tcp).cast::<Window>();
                (0..3).any(|state| read_volatile(windows.add(state)).holds(remaining))
            } else {
                let windows = addr_of!((*self.0).udp).cast::<Window>();
                (0..2).any(|state| read_volatile(windows.add(state)).holds(remaining))
            }
        }
    }

    /// For how many jiffies a [`Vacancy`] holds.
    #[inline(always)]
    pub fn vacancy(self) -> u32 {
        number!(self.0, vacancy)
    }

    /// Whether an agent keeps the maps now: it was known to live not longer ago than it says itself.
    #[inline(always)]
    pub fn is_kept(self) -> bool {
        let (pulse, limit) = (number!(self.0, pulse), number!(self.0, pulse_limit));
        if pulse == 0 {
            return true;
        }
        // SAFETY: a number out of the kernel's clock.
        manx_abi::is_fresh(pulse, limit, manx_abi::pulse(unsafe { bpf_jiffies64() }))
    }
}

/// An interface that has one of the programs, and where its counters stand.
#[derive(Clone, Copy)]
pub struct Port {
    entry: *const Interface,
    place: u32,
}

impl Port {
    #[inline(always)]
    pub fn of(ifindex: u32) -> Option<Port> {
        let mask = INTERFACE_MASK.load();
        let mut probe = 0;
        // Hidden from the compiler, which would write the loop out eight times.
        while probe < black_box(INTERFACE_PROBES) {
            let place = ifindex.wrapping_add(probe) & mask;
            let entry = INTERFACES.get_ptr(place)?;
            if number!(entry, ifindex) == ifindex {
                return Some(Port { entry, place });
            }
            probe += 1;
        }
        None
    }

    /// The number of a `Mode`.
    #[inline(always)]
    pub fn mode(self) -> u32 {
        number!(self.entry, mode)
    }

    /// The number of a `SourceCheck`.
    #[inline(always)]
    pub fn source_check(self) -> u32 {
        number!(self.entry, source_check)
    }

    /// A packet of this family ([`manx_abi::way_back`]) has to come by the way back to its source.
    #[inline(always)]
    pub fn wants_way_back(self, family: u8) -> bool {
        // SAFETY: as in `number!`; an octet of any value.
        unsafe { read_volatile(addr_of!((*self.entry).way_back)) & family != 0 }
    }

    #[inline(always)]
    pub fn mac(self) -> [u8; 6] {
        // SAFETY: as in `number!`; six octets of any value.
        unsafe { read_volatile(addr_of!((*self.entry).mac)) }
    }
}

/// What a trie says of an address.
#[derive(Clone, Copy)]
pub struct Found {
    pub word: Word,
    pub pool: u32,
    pub counter: u32,
}

#[inline(always)]
fn found(route: &Route) -> Found {
    let route: *const Route = route;
    // An action that is none shows as a kind that nobody answers to, and so does one that has more than four bits.
    let action = number!(route, action);
    let kind = if action > 0xf { 0xf } else { action };
    let target = number!(route, target);
    Found {
        word: Word(kind << 28 | target & Word::TARGET_MAX),
        pool: number!(route, pool),
        counter: number!(route, counter),
    }
}

#[inline(always)]
pub fn trie4(address: u32) -> Option<Found> {
    // SAFETY: a live map value or null.
    unsafe { longest4(address).as_ref() }.map(found)
}

#[inline(always)]
pub fn trie6(address: Address6) -> Option<Found> {
    // SAFETY: as above.
    unsafe { longest6(address[0], address[1]).as_ref() }.map(found)
}

/// A function of its own, as the trie is asked where no nanosecond counts: the code is there once, and its key is
/// not on the caller's stack. Null if there is no route.
#[inline(never)]
fn longest4(address: u32) -> *const Route {
    ROUTES4.get(&Key::new(32, address.to_ne_bytes())).map_or(null(), |route| route)
}

/// As [`longest4`].
#[inline(never)]
fn longest6(first: u64, second: u64) -> *const Route {
    ROUTES6
        .get(&Key::new(128, pool::from_halves([u64::from_be(first), u64::from_be(second)])))
        .map_or(null(), |route| route)
}

/// A word of a packed array; none beyond its end.
macro_rules! packed {
    ($map:ident, $position:expr) => {{
        let position: u32 = $position;
        $map.get_ptr(position / PACKED as u32).map(|words| {
            // SAFETY: the element is a live map value of PACKED words, a power of two.
            unsafe { read_volatile(words.cast::<u32>().add(position as usize % PACKED)) }
        })
    }};
}

/// Where there is no such word the trie is asked.
#[inline(always)]
fn is_outside((position, bit): (u32, u32)) -> bool {
    packed!(OUTSIDE, position).is_none_or(|word| word >> bit & 1 != 0)
}

#[inline(always)]
pub fn word(position: u32) -> Option<Word> {
    packed!(WORDS, position).map(Word)
}

#[inline(always)]
pub fn counter_id(position: u32) -> u32 {
    packed!(COUNTER_IDS, position).unwrap_or(0)
}

#[inline(always)]
pub fn group(id: u32) -> Option<Group> {
    packed!(GROUPS, id).map(Group)
}

/// The next-hop id in a set's bucket.
#[inline(always)]
pub fn bucket(set: u32, bucket: usize) -> Option<u32> {
    let ids = BUCKETS.get_ptr(set)?;
    // SAFETY: the set is a live map value of BUCKETS ids, a power of two.
    Some(unsafe { read_volatile(ids.cast::<u32>().add(bucket % manx_abi::BUCKETS)) })
}

/// Word and counter id of a block. A slot that is given up meanwhile says "ask the trie". The reads of a slot may be
/// carried out in any order, which [`Block6`] allows for.
#[inline(always)]
pub fn block6(block: pool::Halves) -> Option<(Word, u32)> {
    let [high, low] = Block6::key(block)?;
    let mask = BLOCK6_MASK.load();
    let mut place = pool::place6(block);
    let mut probe = 0;
    while probe < pool::BLOCK6_PROBES {
        let entry = BLOCKS6.get_ptr(place & mask)?;
        // SAFETY: as in `number!`, of both halves.
        let found = unsafe { read_volatile(addr_of!((*entry).block[0])) };
        if found == Block6::FREE {
            return None;
        }
        // SAFETY: as above.
        if found == high && unsafe { read_volatile(addr_of!((*entry).block[1])) } == low {
            return Some((Word(number!(entry, word)), number!(entry, counter)));
        }
        place = place.wrapping_add(1);
        probe += 1;
    }
    None
}

/// A next hop in use.
#[derive(Clone, Copy)]
pub struct Hop {
    pub ifindex: u32,
    pub family: u32,
    pub gateway: [u32; 4],
}

#[inline(always)]
pub fn next_hop(id: u32) -> Result<Hop, Verdict> {
    let hop = NEXTHOPS.get_ptr(id).ok_or(Verdict::BadEntry)?;
    let (ifindex, family) = (number!(hop, ifindex), number!(hop, family));
    // SAFETY: as in `number!`: sixteen octets that follow two numbers, so they are aligned as four.
    let gateway = unsafe { read_volatile(addr_of!((*hop).gateway).cast::<[u32; 4]>()) };
    let known = family == Family::Inet as u32 || family == Family::Inet6 as u32;
    if known && ifindex != 0 {
        Ok(Hop { ifindex, family, gateway })
    } else if family & NextHop::SILENT != 0 {
        Err(Verdict::NextHopSilent)
    } else {
        Err(Verdict::BadEntry)
    }
}

/// The interface of a next hop, be it silent or not; 0: the slot is not in use.
#[inline(always)]
pub fn next_hop_ifindex(id: u32) -> Option<u32> {
    NEXTHOPS.get_ptr(id).map(|hop| number!(hop, ifindex))
}

/// A pod's interface in use.
#[derive(Clone, Copy)]
pub struct Pod(*const Endpoint);

impl Pod {
    #[inline(always)]
    pub fn of(id: u32) -> Option<Pod> {
        ENDPOINTS.get_ptr(id).map(Pod)
    }

    /// 0: the slot is not in use.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        number!(self.0, ifindex)
    }

    /// The pod's MAC and the host side's, which are the first twelve octets of a frame to it.
    #[inline(always)]
    pub fn macs(self) -> [u32; 3] {
        // SAFETY: as in `number!`: twelve octets that follow a number, so they are aligned as three.
        unsafe { read_volatile(addr_of!((*self.0).pod_mac).cast::<[u32; 3]>()) }
    }
}

#[inline(always)]
pub fn count(port: Option<Port>, program: Program, verdict: Verdict, packets: u64) {
    let place = match port {
        Some(port) => port.place,
        None => INTERFACE_MASK.load().wrapping_add(1),
    };
    let Some(counts) = COUNTERS.get_ptr_mut(place * 2 + program.hook()) else {
        return;
    };
    // The compiler knows that a verdict has a counter and would leave the comparison out; the verifier, which loses
    // sight of a number that was kept on the stack, insists on it.
    let place = black_box(verdict as u64) as usize;
    if place < VERDICTS.len() {
        // SAFETY: a `Counts` is one u64 for each verdict in their order, so the place lies within it; the CPU's value
        // is ours alone, as the program is neither preempted by itself nor migrated.
        unsafe { *counts.cast::<u64>().add(place) += packets };
    }
}

#[inline(always)]
pub fn count_prefix(id: u32, packets: u64, bytes: u64) {
    tally(PREFIX_COUNTS.get_ptr_mut(id), packets, bytes);
}

#[inline(always)]
pub fn count_hop(id: u32, packets: u64, bytes: u64) {
    tally(HOP_COUNTS.get_ptr_mut(id), packets, bytes);
}

#[inline(always)]
fn tally(found: Option<*mut Tally>, packets: u64, bytes: u64) {
    if let Some(tally) = found {
        // SAFETY: as in `count`.
        unsafe {
            (*tally).packets += packets;
            (*tally).bytes += bytes;
        }
    }
}

/// This CPU's, which nobody else reads or writes while the program runs.
#[inline(always)]
pub fn vacancy(address: [u64; 2]) -> Option<*mut Vacancy> {
    VACANCIES.get_ptr_mut(Vacancy::slot(address))
}

/// This CPU's, as [`vacancy`].
#[inline(always)]
pub fn room(ifindex: u32) -> Option<*mut Room> {
    ROOMS.get_ptr_mut(Room::slot(ifindex))
}
