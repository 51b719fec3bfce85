//! Questions to the kernel's FIB. Asked only where a drop hangs on the answer: the agent may be late or dead, the
//! FIB is never.

use core::{ffi::c_void, mem::zeroed};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_BLACKHOLE, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_PROHIBIT, BPF_FIB_LKUP_RET_SUCCESS,
        BPF_FIB_LKUP_RET_UNREACHABLE, BPF_FIB_LKUP_RET_UNSUPP_LWT, BPF_FIB_LOOKUP_SKIP_NEIGH,
        bpf_fib_lookup as Params,
    },
    helpers::bpf_fib_lookup,
};
use manx_abi::Family;

/// A pair of addresses as the helper wants them.
pub trait Addresses: Copy {
    fn put(source: Self, destination: Self, params: &mut Params);
}

impl Addresses for [u8; 4] {
    #[inline(always)]
    fn put(source: Self, destination: Self, params: &mut Params) {
        params.family = Family::Inet as u8;
        params.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
        params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
    }
}

impl Addresses for [u8; 16] {
    #[inline(always)]
    fn put(source: Self, destination: Self, params: &mut Params) {
        params.family = Family::Inet6 as u8;
        params.__bindgen_anon_3.ipv6_src = words(source);
        params.__bindgen_anon_4.ipv6_dst = words(destination);
    }
}

#[inline(always)]
fn words(address: [u8; 16]) -> [u32; 4] {
    // SAFETY: both are sixteen octets in which every value is allowed.
    unsafe { core::mem::transmute(address) }
}

/// What the FIB would do with a packet that came in by `ifindex`.
#[inline(always)]
fn ask<A: Addresses>(ctx: *mut c_void, ifindex: u32, source: A, destination: A) -> (u32, u32) {
    // SAFETY: a structure of numbers, for which zero is the helper's own "not given".
    let mut params: Params = unsafe { zeroed() };
    A::put(source, destination, &mut params);
    params.ifindex = ifindex;
    // SAFETY: the context is the program's own; the structure lives on our stack and its size is given.
    let answer = unsafe {
        bpf_fib_lookup(ctx, &raw mut params, size_of::<Params>() as i32, BPF_FIB_LOOKUP_SKIP_NEIGH)
    };
    // Errors are negative and thereby no answer that anybody asks for below.
    (answer as u32, params.ifindex)
}

/// The FIB drops packets to `destination` without a word.
#[inline(always)]
pub fn is_blackhole<A: Addresses>(ctx: *mut c_void, ifindex: u32, source: A, destination: A) -> bool {
    ask(ctx, ifindex, source, destination).0 == BPF_FIB_LKUP_RET_BLACKHOLE
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
pub fn way<A: Addresses>(ctx: *mut c_void, ifindex: u32, source: A, address: A) -> Way {
    let (answer, out) = ask(ctx, ifindex, source, address);
    match answer {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => Way::By(out),
        BPF_FIB_LKUP_RET_BLACKHOLE
        | BPF_FIB_LKUP_RET_UNREACHABLE
        | BPF_FIB_LKUP_RET_PROHIBIT
        | BPF_FIB_LKUP_RET_NOT_FWDED
        | BPF_FIB_LKUP_RET_UNSUPP_LWT => Way::None,
        _ => Way::Unknown,
    }
}
