//! The programs: packets and maps in; redirect, drop or pass out. An entry point only turns a verdict into the
//! hook's action and counts it; what is decided stands in [`forward`] and [`wire`]. When in doubt a packet is the
//! stack's, whose FIB says the same as our map. Three things drop: a blackhole, a forged source (and ARP or neighbour
//! discovery that is forged), a header that no router forwards.
#![no_std]
#![no_main]

mod fib;
mod forward;
mod generation;
mod guard;
mod index;
mod maps;
mod room;
mod skb;
mod source;
mod vacancy;
mod wire;

use aya_ebpf::{
    bindings::{TC_ACT_REDIRECT, TC_ACT_SHOT, xdp_action},
    helpers::bpf_jiffies64,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use manx_abi::{Disposition, Program};

use crate::{maps::Port, skb::Frame};

/// "Nothing to say": the next program on the hook is asked. TC_ACT_OK would end the chain and skip other people's
/// programs.
const TCX_NEXT: i32 = -1;

/// The host side of a pod's veth: what a pod sends.
#[classifier]
pub fn pod_tc(ctx: TcContext) -> i32 {
    tc::<true>(&ctx)
}

/// A host interface: what comes from the wire.
#[classifier]
pub fn uplink_tc(ctx: TcContext) -> i32 {
    tc::<false>(&ctx)
}

/// A host interface whose driver runs XDP natively: blackholes, before an skb exists.
#[xdp(frags)]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    let ifindex = ctx.ingress_ifindex() as u32;
    let port = Port::of(ifindex);
    let verdict = wire::decide(&ctx, ifindex, port);
    maps::count(port, Program::UplinkXdp, verdict, 1);
    match verdict.disposition() {
        Disposition::Dropped => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// Never attached: a test run of it returns the time as pulses have it, for the agent to store.
#[xdp]
pub fn jiffies(_ctx: XdpContext) -> u32 {
    // SAFETY: a number out of the kernel's clock.
    manx_abi::pulse(unsafe { bpf_jiffies64() })
}

#[inline(always)]
fn tc<const POD: bool>(ctx: &TcContext) -> i32 {
    let frame = Frame::of(ctx);
    let port = Port::of(frame.ifindex);
    let verdict = forward::decide::<POD>(ctx, frame, port);
    maps::count(port, if POD { Program::PodTc } else { Program::UplinkTc }, verdict, frame.packets());
    match verdict.disposition() {
        Disposition::Redirected => TC_ACT_REDIRECT,
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
