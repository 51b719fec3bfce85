//! The guard: what netfilter does to a flow must not be undone by carrying it past netfilter. So only flows are
//! carried that conntrack knows, has seen in both directions and does not translate; the rest is the stack's, and
//! so is a packet now and then that renews the flow's entry.

use core::{
    mem::transmute,
    ptr::{addr_of, read_volatile},
};

use aya_ebpf::{Global, bindings::__sk_buff, helpers::bpf_jiffies64, programs::TcContext};
use manx_abi::{Verdict, flow, header::ETHERNET};

use crate::{maps::Switches, skb};

/// The loader says here whether the kernel has what [`ask`] calls. At 0 the verifier takes the calls out.
#[unsafe(no_mangle)]
static GUARD: Global<u32> = Global::new(0);

/// Stand for what only the running kernel's BTF knows: the ids of two functions of its own, and the offsets of two
/// fields of its `struct nf_conn`. The loader writes the right numbers over them, and insists that each is there once.
const SKB_CT_LOOKUP: usize = 0x0bad_0001;
const CT_RELEASE: usize = 0x0bad_0002;
const STATUS: usize = 0x6b10;
const TIMEOUT: usize = 0x6b2c;

/// Bits of `nf_conn.status`, of `<linux/netfilter/nf_conntrack_common.h>`.
mod status {
    pub const SEEN_REPLY: u32 = 1 << 1;
    pub const ASSURED: u32 = 1 << 2;
    pub const CONFIRMED: u32 = 1 << 3;
    pub const SRC_NAT: u32 = 1 << 4;
    pub const DST_NAT: u32 = 1 << 5;
    pub const SEQ_ADJUST: u32 = 1 << 6;
    pub const DYING: u32 = 1 << 9;
    pub const HELPER: u32 = 1 << 13;
    /// A flow table of netfilter's own carries it, which would time it out.
    pub const OFFLOAD: u32 = 1 << 14;

    pub const CHANGED: u32 = SRC_NAT | DST_NAT | SEQ_ADJUST | HELPER | OFFLOAD;
}

/// TCP's flags of segments that open or close a connection: FIN, SYN, RST.
const CONTROL: u8 = 0x07;

/// What is asked for, as the kernel's `struct bpf_sock_tuple` wants it.
#[repr(C)]
struct Tuple<A> {
    source: A,
    destination: A,
    ports: u32,
}

/// The kernel's `struct bpf_ct_opts`.
#[repr(C)]
struct Options {
    /// -1: the device's.
    netns: i32,
    error: i32,
    protocol: u8,
    direction: u8,
    zone: u16,
    zone_direction: u8,
    reserved: [u8; 3],
}

/// Whether this packet may be carried past netfilter. `transport` is where the header behind IP begins.
#[inline(always)]
pub fn admits<A: Copy>(
    ctx: &TcContext,
    switches: Switches,
    source: A,
    destination: A,
    protocol: u8,
    transport: usize,
) -> Result<(), Verdict> {
    if GUARD.load() == 0 {
        return Err(Verdict::NoGuard);
    }
    let ports = match protocol {
        flow::TCP => {
            // Up to the flags; a TCP header is longer.
            let [ports, _, _, flags] =
                skb::read::<[u32; 4]>(ctx, ETHERNET + transport).ok_or(Verdict::NotGuarded)?;
            if flags.to_ne_bytes()[1] & CONTROL != 0 {
                return Err(Verdict::TcpControl);
            }
            ports
        }
        flow::UDP => {
            let [ports, _] = skb::read::<[u32; 2]>(ctx, ETHERNET + transport).ok_or(Verdict::NotGuarded)?;
            ports
        }
        _ => return Err(Verdict::NotGuarded),
    };
    let tuple = Tuple { source, destination, ports };
    let tracked = ask(ctx.skb.skb, addr_of!(tuple).cast(), size_of::<Tuple<A>>() as u32, protocol);
    let (status, remaining) = (tracked as u32, (tracked >> 32) as u32);
    if status == 0 {
        return Err(Verdict::Untracked);
    }
    if status & status::CHANGED != 0 {
        return Err(Verdict::Translated);
    }
    // A TCP connection is assured from the third packet of its handshake on, which conntrack has to see.
    let wanted = match protocol {
        flow::TCP => status::CONFIRMED | status::SEEN_REPLY | status::ASSURED,
        _ => status::CONFIRMED | status::SEEN_REPLY,
    };
    if status & (wanted | status::DYING) != wanted {
        return Err(Verdict::Unconfirmed);
    }
    // A connection that is being closed has a timeout of its own, in no window.
    if !switches.is_renewed(protocol, remaining) {
        return Err(Verdict::KeepAlive);
    }
    Ok(())
}

/// What conntrack holds of a flow: its status in the low half, 0 if it does not know it, and the jiffies that it has
/// left in the high one. A function of its own, so that each number that the loader replaces is in the object once.
#[inline(never)]
fn ask(skb: *mut __sk_buff, tuple: *const u32, size: u32, protocol: u8) -> u64 {
    type Lookup = extern "C" fn(*mut __sk_buff, *const u32, u32, *mut Options, u32) -> *const u8;
    type Release = extern "C" fn(*const u8);
    // SAFETY: calls of the kernel's functions, in the shape in which a program calls helpers; the verifier compares
    // what is given with what they take.
    let (lookup, release) =
        unsafe { (transmute::<usize, Lookup>(SKB_CT_LOOKUP), transmute::<usize, Release>(CT_RELEASE)) };
    let mut options =
        Options { netns: -1, error: 0, protocol, direction: 0, zone: 0, zone_direction: 0, reserved: [0; 3] };
    let connection = lookup(skb, tuple, size, &raw mut options, size_of::<Options>() as u32);
    if connection.is_null() {
        return 0;
    }
    // SAFETY: both fields lie within the connection, at offsets from its type; it lives until it is released.
    let (status, timeout) = unsafe {
        (
            read_volatile(connection.add(STATUS).cast::<u64>()) as u32,
            read_volatile(connection.add(TIMEOUT).cast::<u32>()),
        )
    };
    release(connection);
    // SAFETY: a number out of the kernel's clock.
    let now = unsafe { bpf_jiffies64() } as u32;
    u64::from(timeout.wrapping_sub(now)) << 32 | u64::from(status)
}
