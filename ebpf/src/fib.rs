//! Questions to the kernel's FIB. Asked only where a drop hangs on the answer: the agent may be late or dead, the
//! FIB is never.

use core::{ffi::c_void, mem::zeroed, ptr::copy_nonoverlapping};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LKUP_RET_UNSUPP_LWT, BPF_FIB_LOOKUP_SKIP_NEIGH,
        bpf_fib_lookup as Params,
    },
    helpers::bpf_fib_lookup,
};
use manx_abi::{
    Family, Kind, Vacancy, Verdict, Word,
    header::{self, Address6},
    kernel,
};

use crate::{
    generation::Context,
    maps::{Hop, Switches},
    vacancy::Memory,
};

/// An address as the helper wants it.
pub trait Addresses: Copy {
    const FAMILY: Family;
    /// Where the namespace has the number of changes to the family's routes.
    const GENERATION: i16;
    /// As a [`Vacancy`] has it.
    fn number(&self) -> [u64; 2];
}

impl Addresses for [u8; 4] {
    const FAMILY: Family = Family::Inet;
    const GENERATION: i16 = kernel::RT_GENID;

    #[inline(always)]
    fn number(&self) -> [u64; 2] {
        Vacancy::of4(u32::from_be_bytes(*self))
    }
}

impl Addresses for Address6 {
    const FAMILY: Family = Family::Inet6;
    const GENERATION: i16 = kernel::FIB6_SERNUM;

    #[inline(always)]
    fn number(&self) -> [u64; 2] {
        header::halves(*self)
    }
}

/// What the FIB would do with a packet that came in by `ifindex`: its answer, and the interface that the packet would
/// leave by. Errors of the helper are negative and thereby no answer that anybody asks for below.
#[inline(always)]
fn ask<A: Addresses>(ctx: *mut c_void, ifindex: u32, source: &A, destination: &A) -> (u32, u32) {
    let (source, destination) = ((&raw const *source).cast(), (&raw const *destination).cast());
    // SAFETY: both point to an address of the family that is said.
    let answer = unsafe { ask_by(ctx, ifindex, A::FAMILY as u8, source, destination) };
    (answer as u32, (answer >> 32) as u32)
}

/// A function of its own, since it is needed where no nanosecond counts and its structure is an eighth of the stack.
///
/// # Safety
/// `source` and `destination` point to four octets where `family` is IPv4's, else to sixteen.
#[inline(never)]
unsafe fn ask_by(
    ctx: *mut c_void,
    ifindex: u32,
    family: u8,
    source: *const u8,
    destination: *const u8,
) -> u64 {
    // SAFETY: a structure of numbers, for which zero is the helper's own "not given".
    let mut params: Params = unsafe { zeroed() };
    // SAFETY: as the caller has promised.
    let answer = unsafe { look_up(ctx, ifindex, family, source, destination, &mut params) };
    u64::from(params.ifindex) << 32 | u64::from(answer as u32)
}

/// `params` are zero before, and after it what the helper says of the way.
///
/// # Safety
/// As of [`ask_by`].
#[inline(always)]
unsafe fn look_up(
    ctx: *mut c_void,
    ifindex: u32,
    family: u8,
    source: *const u8,
    destination: *const u8,
    params: &mut Params,
) -> i64 {
    params.family = family;
    params.ifindex = ifindex;
    let (to_source, to_destination) =
        ((&raw mut params.__bindgen_anon_3).cast::<u8>(), (&raw mut params.__bindgen_anon_4).cast::<u8>());
    // SAFETY: an IPv4 address stands in the first four octets of either union, an IPv6 address fills it; how much may
    // be read the caller has promised.
    unsafe {
        if family == Family::Inet as u8 {
            copy_nonoverlapping(source, to_source, 4);
            copy_nonoverlapping(destination, to_destination, 4);
        } else {
            copy_nonoverlapping(source, to_source, 16);
            copy_nonoverlapping(destination, to_destination, 16);
        }
    }
    // SAFETY: the context is the program's own; the structure lives on our stack and its size is given.
    unsafe { bpf_fib_lookup(ctx, &raw mut *params, size_of::<Params>() as i32, BPF_FIB_LOOKUP_SKIP_NEIGH) }
}

/// What becomes of a packet to which the map says `word`; `None` where that is no blackhole. For an own block the FIB has
/// to agree always, since a pod may have come into it. For an explicit one it has to while nobody keeps the maps: then
/// nobody takes it out of the map when somebody has deleted the route.
#[inline(always)]
pub fn blackhole<C: Context, A: Addresses>(
    ctx: &C,
    ifindex: u32,
    source: &A,
    destination: &A,
    word: Word,
    switches: Switches,
) -> Option<Verdict> {
    let verdict = if word.is(Kind::BlackholeOwn) {
        if let Some(memory) = Memory::of(ctx, ifindex, destination, switches) {
            return Some(if memory.is_vacant(|| is_blackhole(ctx, ifindex, source, destination)) {
                Verdict::BlackholeOwn
            } else {
                Verdict::FibDisagrees
            });
        }
        Verdict::BlackholeOwn
    } else if word.is(Kind::BlackholeExplicit) {
        if switches.is_kept() {
            return Some(Verdict::BlackholeExplicit);
        }
        Verdict::BlackholeExplicit
    } else {
        return None;
    };
    Some(if is_blackhole(ctx, ifindex, source, destination) { verdict } else { Verdict::FibDisagrees })
}

#[inline(always)]
fn is_blackhole<C: Context, A: Addresses>(ctx: &C, ifindex: u32, source: &A, destination: &A) -> bool {
    ask(ctx.raw(), ifindex, source, destination).0 == BPF_FIB_LKUP_RET_BLACKHOLE
}

/// How the FIB would send packets to `address`, asked by the interface `ifindex`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Out by this interface.
    By(u32),
    /// It would not, or this node is the destination.
    None,
    /// It does not say: forwarding is off there, or the interface is gone.
    Unknown,
}

#[inline(always)]
pub fn way<A: Addresses>(ctx: *mut c_void, ifindex: u32, source: &A, address: &A) -> Way {
    let (answer, out) = ask(ctx, ifindex, source, address);
    match answer {
        answer if is_way(answer) => Way::By(out),
        BPF_FIB_LKUP_RET_BLACKHOLE
        | BPF_FIB_LKUP_RET_UNREACHABLE
        | BPF_FIB_LKUP_RET_PROHIBIT
        | BPF_FIB_LKUP_RET_NOT_FWDED
        | BPF_FIB_LKUP_RET_UNSUPP_LWT => Way::None,
        _ => Way::Unknown,
    }
}

#[inline(always)]
fn is_way(answer: u32) -> bool {
    matches!(answer, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED)
}

/// Whether the FIB sends packets to `destination` to this next hop, and not only out of the same interface. Of several
/// it names the one that it would take itself.
#[inline(always)]
pub fn leads_to<A: Addresses>(
    ctx: *mut c_void,
    ifindex: u32,
    source: &A,
    destination: &A,
    hop: &Hop,
) -> bool {
    let from = u64::from(A::FAMILY as u8) << 32 | u64::from(ifindex);
    let (source, destination) = ((&raw const *source).cast(), (&raw const *destination).cast());
    // SAFETY: both point to an address of the family that is said.
    unsafe { is_next_hop(ctx, from, source, destination, hop) != 0 }
}

/// A function of its own, as [`ask_by`]; it takes no more than five arguments. `from` is the family and the interface;
/// 0 means no.
///
/// # Safety
/// As of [`ask_by`].
#[inline(never)]
unsafe fn is_next_hop(
    ctx: *mut c_void,
    from: u64,
    source: *const u8,
    destination: *const u8,
    hop: &Hop,
) -> u32 {
    // SAFETY: as in `ask_by`.
    let mut params: Params = unsafe { zeroed() };
    // SAFETY: as the caller has promised.
    let answer = unsafe { look_up(ctx, from as u32, (from >> 32) as u8, source, destination, &mut params) };
    // SAFETY: numbers, whichever member of the union was written. Of an IPv4 gateway the last three stay zero, as in
    // a hop.
    let gateway = unsafe { params.__bindgen_anon_4.ipv6_dst };
    u32::from(
        is_way(answer as u32)
            && params.ifindex == hop.ifindex
            && u32::from(params.family) == hop.family
            && gateway == hop.gateway,
    )
}
