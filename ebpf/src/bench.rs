//! Programs that only the benchmark loads. `inject` makes frames for a device, `arrive_tc` and `arrive_xdp` count
//! them where they arrive and end them there; `only_peer` and `only_neigh` redirect whatever comes, `ip_to_peer` and
//! `ip_to_neigh` IPv4 packets such that a host takes them. No program of the agent is in this object, and none of these is
//! in the agent's.
#![no_std]
#![no_main]

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, bpf_redir_neigh, xdp_action},
    btf_maps::{Array, PerCpuArray},
    helpers::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

const TCX_NEXT: i32 = -1;
const ETHERNET: usize = 14;
/// The kernel's, of `<linux/if_packet.h>`: the frame's destination is another interface's MAC.
const PACKET_OTHERHOST: u32 = 3;

/// Every frame is this long: Ethernet, IPv6 and UDP headers with the mark and the balance behind them.
const FRAME: usize = 80;
const WORDS: usize = FRAME / 8;

/// Of the benchmark's own frames, the first four octets of UDP's payload.
const MARK: u32 = 0x4d61_6e78;

/// The frame as it is before a flow is chosen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Template {
    pub bytes: [u64; WORDS],
    /// Where the port stands that tells flows apart.
    pub port: u32,
    /// Where the word stands that a flow's number is taken from, behind the port.
    pub balance: u32,
    /// Flows less one; the number of flows is a power of two.
    pub flows: u32,
    /// Where the low half of the address stands that differs from flow to flow by [`Self::apart`]; 0: none does.
    pub address: u32,
    pub apart: u32,
    /// Where the words stand that it is taken from: behind the port for UDP's checksum, and for IPv4's, where it is not 0.
    pub balance_address: u32,
    pub identification: u32,
    /// What becomes of a frame: an XDP action.
    pub action: u32,
}

/// Where all that comes is sent to.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Target {
    pub ifindex: u32,
    /// The gateway's, numbered as the kernel does; an IPv4 address stands in its first word.
    pub family: u32,
    pub gateway: [u32; 4],
    /// What a frame to a pod begins with: the pod's MAC and the host side's.
    pub macs: [u16; 6],
}

#[btf_map]
static TARGET: Array<Target, 1> = Array::new();

#[btf_map]
static TEMPLATE: Array<Template, 1> = Array::new();

/// Frames made so far.
#[btf_map]
static MADE: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Frames that arrived.
#[btf_map]
static ARRIVED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Makes a frame of the template, another for each flow, and sends it by the device that it is run for (XDP_TX), or has
/// it received there (XDP_PASS). Live frames come back as the last receiver left them, so every octet is written each time.
#[xdp]
pub fn inject(ctx: XdpContext) -> u32 {
    let (start, end) = (ctx.data(), ctx.data_end());
    if start + FRAME > end {
        return xdp_action::XDP_ABORTED;
    }
    let (Some(template), Some(made)) = (TEMPLATE.get(0), MADE.get_ptr_mut(0)) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: this CPU's value is ours alone.
    let number = unsafe {
        let number = *made;
        *made = number + 1;
        number
    };
    // SAFETY: the template is a live map value of numbers; the frame's range was just compared with its end, and a test
    // run puts it at a multiple of eight.
    let flow = unsafe {
        let frame = start as *mut u64;
        let mut word = 0;
        while word < WORDS {
            frame.add(word).write(read_volatile(addr_of!(template.bytes).cast::<u64>().add(word)));
            word += 1;
        }
        number as u32 & read_volatile(addr_of!(template.flows))
    };
    // What is added to port and address is taken from words that mean nothing: checksums stay right.
    let away = flow.wrapping_mul(template.apart) as u16;
    let back = away.wrapping_neg();
    let done = add(&ctx, template.port, flow as u16)
        && add(&ctx, template.balance, (flow as u16).wrapping_neg())
        && (template.address == 0
            || add(&ctx, template.address, away)
                && add(&ctx, template.balance_address, back)
                && (template.identification == 0 || add(&ctx, template.identification, back)));
    if !done {
        return xdp_action::XDP_ABORTED;
    }
    template.action
}

/// Adds to the big-endian word at `offset`.
#[inline(always)]
fn add(ctx: &XdpContext, offset: u32, summand: u16) -> bool {
    // Bounded for the verifier: both stand in the first 128 octets.
    let at = ctx.data() + (offset as usize & 127);
    if at + 2 > ctx.data_end() {
        return false;
    }
    // SAFETY: the range was just compared with the frame's end; octets need no alignment.
    unsafe {
        let word = at as *mut [u8; 2];
        word.write(u16::from_be_bytes(word.read()).wrapping_add(summand).to_be_bytes());
    }
    true
}

/// The far end of a way through the stack. A frame for another MAC was made here, as if a process sent it: it leaves by
/// this device.
#[classifier]
pub fn arrive_tc(ctx: TcContext) -> i32 {
    if !is_marked(ctx.data(), ctx.data_end()) {
        return TCX_NEXT;
    }
    // SAFETY: the context is valid while the program runs; the verifier checks the fields' access.
    let (kind, ifindex) = unsafe { ((*ctx.skb.skb).pkt_type, (*ctx.skb.skb).ifindex) };
    if kind == PACKET_OTHERHOST {
        // SAFETY: plain numbers; the kernel carries it out when the program has ended.
        return unsafe { bpf_redirect(ifindex, 0) } as i32;
    }
    count();
    TC_ACT_SHOT
}

/// The other end of the injector's device: what remains is the injector's own cost.
#[xdp]
pub fn arrive_xdp(ctx: XdpContext) -> u32 {
    if !is_marked(ctx.data(), ctx.data_end()) {
        return xdp_action::XDP_PASS;
    }
    count();
    xdp_action::XDP_DROP
}

/// What no program can be cheaper than that sends packets into a pod: it looks at nothing and changes nothing.
#[classifier]
pub fn only_peer(_: TcContext) -> i32 {
    to_peer()
}

#[inline(always)]
fn to_peer() -> i32 {
    let Some(target) = TARGET.get_ptr(0) else {
        return TCX_NEXT;
    };
    // SAFETY: a live map value of numbers; the kernel carries it out when the program has ended.
    unsafe { bpf_redirect_peer(read_volatile(addr_of!((*target).ifindex)), 0) as i32 }
}

/// As [`only_peer`], by a gateway.
#[classifier]
pub fn only_neigh(_: TcContext) -> i32 {
    to_neigh()
}

#[inline(always)]
fn to_neigh() -> i32 {
    let Some(target) = TARGET.get_ptr(0) else {
        return TCX_NEXT;
    };
    // SAFETY: a structure of numbers, and a live map value of them; the helper copies what it is given.
    unsafe {
        let mut params: bpf_redir_neigh = core::mem::zeroed();
        params.nh_family = read_volatile(addr_of!((*target).family));
        params.__bindgen_anon_1.ipv6_nh = read_volatile(addr_of!((*target).gateway));
        let ifindex = read_volatile(addr_of!((*target).ifindex));
        bpf_redirect_neigh(ifindex, &raw mut params, size_of::<bpf_redir_neigh>() as i32, 0) as i32
    }
}

/// As [`only_peer`], for a pod that looks at what it gets.
#[classifier]
pub fn ip_to_peer(ctx: TcContext) -> i32 {
    let Some(target) = TARGET.get_ptr(0) else {
        return TCX_NEXT;
    };
    let start = ctx.data();
    if start + ETHERNET > ctx.data_end() || !is_ipv4(&ctx) {
        return TCX_NEXT;
    }
    // SAFETY: a live map value of numbers; the header's end was just compared with the packet's.
    unsafe {
        let mut word = 0;
        while word < 6 {
            let octets = read_volatile(addr_of!((*target).macs).cast::<u16>().add(word));
            (start as *mut u16).add(word).write(octets);
            word += 1;
        }
    }
    to_peer()
}

/// As [`only_neigh`], but for what is not IPv4, ARP above all.
#[classifier]
pub fn ip_to_neigh(ctx: TcContext) -> i32 {
    if is_ipv4(&ctx) { to_neigh() } else { TCX_NEXT }
}

#[inline(always)]
fn is_ipv4(ctx: &TcContext) -> bool {
    // SAFETY: the context is valid while the program runs; the verifier checks the field's access.
    unsafe { (*ctx.skb.skb).protocol == u32::from(0x0800_u16.to_be()) }
}

/// Neighbour discovery and the like are not the benchmark's.
#[inline(always)]
fn is_marked(start: usize, end: usize) -> bool {
    const UDP: usize = 8;
    [20, 40].into_iter().any(|ip| {
        let at = start + ETHERNET + ip + UDP;
        // SAFETY: the range is compared with the packet's end before it is read; octets need no alignment.
        at + 4 <= end && u32::from_be_bytes(unsafe { (at as *const [u8; 4]).read() }) == MARK
    })
}

#[inline(always)]
fn count() {
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: this CPU's value is ours alone, as the program is not migrated.
        unsafe { *arrived += 1 };
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
