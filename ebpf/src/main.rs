//! The programs: packets and maps in; redirect, drop or pass out. An entry point only turns a verdict into the
//! hook's action and counts it; what is decided stands in [`forward`] and [`wire`]. When in doubt a packet is the
//! stack's, whose FIB says the same as our map. Three things drop: a blackhole, a forged source, a header that no
//! router forwards.
#![no_std]
#![no_main]

mod fib;
mod forward;
mod maps;
mod skb;
mod wire;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use manx_abi::{Disposition, Program};

/// "Nothing to say": the next program on the hook is asked. TC_ACT_OK would end the chain and skip other people's
/// programs.
const TCX_NEXT: i32 = -1;

/// The host side of a pod's veth: what a pod sends.
#[classifier]
pub fn pod_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Program::PodTc)
}

/// A host interface: what comes from the wire.
#[classifier]
pub fn uplink_tc(ctx: TcContext) -> i32 {
    tc(&ctx, Program::UplinkTc)
}

/// A host interface whose driver runs XDP natively: blackholes, before an skb exists.
#[xdp(frags)]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    let verdict = wire::decide(&ctx);
    maps::count(Program::UplinkXdp, verdict);
    match verdict.disposition() {
        Disposition::Dropped => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn tc(ctx: &TcContext, program: Program) -> i32 {
    let (verdict, redirect) = match forward::decide(ctx, program) {
        Ok(forward::Redirect { verdict, action }) => (verdict, action),
        Err(verdict) => (verdict, TCX_NEXT),
    };
    maps::count(program, verdict);
    match verdict.disposition() {
        Disposition::Redirected => redirect,
        Disposition::Dropped => TC_ACT_SHOT,
        Disposition::Passed => TCX_NEXT,
    }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: what could panic is compiled away, or the verifier refuses the program.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
