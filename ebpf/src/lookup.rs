//! What only the benchmark loads: the lookups of the real programs, by the same code and the same maps, many of
//! them in one run, for addresses that a generator makes. `nothing4` and `nothing6` are the generator alone.
#![no_std]
#![no_main]
// Of the programs' modules only the lookups are used here.
#![allow(dead_code, unused_macros, unused_imports)]

mod index;
mod maps;

use core::{mem::zeroed, ptr::addr_of, ptr::read_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_SKIP_NEIGH, bpf_fib_lookup as Params, xdp_action},
    btf_maps::{Array, PerCpuArray},
    helpers::bpf_fib_lookup,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use manx_abi::{Family, Kind, header::Address6};

use index::Address;
use maps::Switches;

/// Lookups in one run.
const LOOKUPS: u32 = 32;

/// Which addresses are asked for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Question {
    /// The first address, as two numbers; IPv4 uses the low half of the second.
    pub base: [u64; 2],
    /// Among so many blocks of 64 addresses,
    pub choices: u32,
    /// that lie so many blocks apart.
    pub stride: u32,
    /// For the FIB: where packets come in.
    pub ifindex: u32,
    pub unused: u32,
}

#[btf_map]
static QUESTION: Array<Question, 1> = Array::new();

/// Where the generator goes on.
#[btf_map]
static STATE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Lookups that found a way.
#[btf_map]
static FOUND: PerCpuArray<u64, 1> = PerCpuArray::new();

trait Generated: Copy {
    const FAMILY: Family;
    fn at(base: [u64; 2], offset: u64) -> Self;
    fn put(self, params: &mut Params);
    fn low(self) -> u64;
}

impl Generated for [u8; 4] {
    const FAMILY: Family = Family::Inet;

    #[inline(always)]
    fn at(base: [u64; 2], offset: u64) -> Self {
        (base[1] as u32).wrapping_add(offset as u32).to_be_bytes()
    }

    #[inline(always)]
    fn put(self, params: &mut Params) {
        params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(self);
    }

    #[inline(always)]
    fn low(self) -> u64 {
        u32::from_ne_bytes(self) as u64
    }
}

impl Generated for Address6 {
    const FAMILY: Family = Family::Inet6;

    #[inline(always)]
    fn at(base: [u64; 2], offset: u64) -> Self {
        [base[0].to_be(), base[1].wrapping_add(offset).to_be()]
    }

    #[inline(always)]
    fn put(self, params: &mut Params) {
        // SAFETY: both are sixteen octets in which every value is allowed.
        params.__bindgen_anon_4.ipv6_dst = unsafe { core::mem::transmute::<[u64; 2], [u32; 4]>(self) };
    }

    #[inline(always)]
    fn low(self) -> u64 {
        self[1]
    }
}

/// Asks `LOOKUPS` times; an answer is true where there is a way.
#[inline(always)]
fn many<A: Generated>(mut ask: impl FnMut(A, u32) -> bool) -> u32 {
    let (Some(question), Some(state), Some(found)) =
        (QUESTION.get_ptr(0), STATE.get_ptr_mut(0), FOUND.get_ptr_mut(0))
    else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: live map values of numbers; this CPU's own where they are written.
    unsafe {
        let base = read_volatile(addr_of!((*question).base));
        let (choices, stride) = ((*question).choices as u64, (*question).stride as u64);
        let ifindex = (*question).ifindex;
        let mut x = *state as u32;
        let mut hits = 0;
        let mut count = 0;
        while count < LOOKUPS {
            // Numerical Recipes' generator: its high bits choose the block, others the address in it.
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let block = ((x as u64 * choices) >> 32) * stride;
            let address = A::at(base, (block << 6) + (x as u64 >> 8 & 63));
            hits += ask(address, ifindex) as u64;
            count += 1;
        }
        *state = x as u64;
        *found += hits;
    }
    xdp_action::XDP_PASS
}

#[inline(always)]
fn nothing<A: Generated>() -> u32 {
    // True, but not known to be.
    many::<A>(|address, ifindex| address.low() ^ ifindex as u64 != u64::MAX)
}

#[inline(always)]
fn by_index<A: Generated + Address>() -> u32 {
    let Some(switches) = Switches::read() else {
        return xdp_action::XDP_ABORTED;
    };
    let Some(pools) = switches.pools() else {
        return xdp_action::XDP_ABORTED;
    };
    many::<A>(|address, _| address.find(switches, pools).word.is(Kind::Via))
}

#[inline(always)]
fn by_fib<A: Generated>(ctx: &XdpContext) -> u32 {
    many::<A>(|address, ifindex| {
        // SAFETY: a structure of numbers, for which zero is the helper's own "not given".
        let mut params: Params = unsafe { zeroed() };
        params.family = A::FAMILY as u8;
        params.ifindex = ifindex;
        address.put(&mut params);
        let flags = BPF_FIB_LOOKUP_SKIP_NEIGH;
        // SAFETY: the context is the program's own; the structure lives on our stack and its size is given.
        let answer =
            unsafe { bpf_fib_lookup(ctx.as_ptr(), &raw mut params, size_of::<Params>() as i32, flags) };
        answer == BPF_FIB_LKUP_RET_SUCCESS as i64
    })
}

#[xdp]
pub fn nothing4(_: XdpContext) -> u32 {
    nothing::<[u8; 4]>()
}

#[xdp]
pub fn nothing6(_: XdpContext) -> u32 {
    nothing::<Address6>()
}

#[xdp]
pub fn index4(_: XdpContext) -> u32 {
    by_index::<[u8; 4]>()
}

#[xdp]
pub fn index6(_: XdpContext) -> u32 {
    by_index::<Address6>()
}

#[xdp]
pub fn trie4(_: XdpContext) -> u32 {
    many::<[u8; 4]>(|address, _| {
        maps::trie4(u32::from_ne_bytes(address)).is_some_and(|found| found.word.is(Kind::Via))
    })
}

#[xdp]
pub fn trie6(_: XdpContext) -> u32 {
    many::<Address6>(|address, _| maps::trie6(address).is_some_and(|found| found.word.is(Kind::Via)))
}

#[xdp]
pub fn fib4(ctx: XdpContext) -> u32 {
    by_fib::<[u8; 4]>(&ctx)
}

#[xdp]
pub fn fib6(ctx: XdpContext) -> u32 {
    by_fib::<Address6>(&ctx)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: what could panic is compiled away, or the verifier refuses the program.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
