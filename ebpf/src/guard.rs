//! The guard: what netfilter does to a flow must not be undone by carrying it past netfilter. So only flows are
//! carried that conntrack knows, has seen in both directions and does not translate; the rest is the stack's, and
//! so is a packet now and then that renews the flow's entry.

use core::{mem::transmute, ptr::read_volatile};

use aya_ebpf::{Global, bindings::__sk_buff, helpers::bpf_jiffies64, programs::TcContext};
use manx_abi::{
    Verdict, flow,
    header::{ETHERNET, Header},
    kernel,
};

use crate::{maps::Switches, skb};

/// The loader says here whether the kernel has what [`ask`] calls. At 0 the verifier takes the calls out.
#[unsafe(no_mangle)]
static GUARD: Global<u32> = Global::new(0);

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

/// What conntrack answers of a flow that it does not know; anything else refuses the question itself.
const ENOENT: u32 = 2;

/// The kernel's `struct bpf_ct_opts` as it was before it had a zone (Linux 6.11). Every kernel takes this size, and
/// means the default zone; the older ones take no other.
#[repr(C)]
struct Options {
    /// -1: the device's.
    netns: i32,
    error: i32,
    protocol: u8,
    direction: u8,
    reserved: [u8; 2],
}

/// Whether this packet may be carried past netfilter. `transport` is how long the IP header is.
#[inline(always)]
pub fn admits<A: Copy>(
    ctx: &TcContext,
    switches: Switches,
    header: &mut Header<A>,
    transport: usize,
) -> Result<(), Verdict> {
    if GUARD.load() == 0 {
        return Err(Verdict::NoGuard);
    }
    let protocol = header.protocol;
    match protocol {
        flow::TCP => {
            // Up to the flags; a TCP header is longer.
            let start: [u32; 4] = skb::read(ctx, ETHERNET + transport).ok_or(Verdict::NotGuarded)?;
            let [_, flags, ..] = start[3].to_ne_bytes();
            if flags & CONTROL != 0 {
                return Err(Verdict::TcpControl);
            }
            header.ports = start[0];
        }
        flow::UDP => {
            let start: [u32; 2] = skb::read(ctx, ETHERNET + transport).ok_or(Verdict::NotGuarded)?;
            header.ports = start[0];
        }
        _ => return Err(Verdict::NotGuarded),
    }
    let size = 2 * size_of::<A>() + size_of::<u32>();
    let tracked = ask(ctx.skb.skb, (&raw const *header).cast(), size as u32, protocol);
    let (status, remaining) = (tracked as u32, (tracked >> 32) as u32);
    if status == 0 {
        return Err(if remaining == ENOENT { Verdict::Untracked } else { Verdict::ConntrackRefuses });
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

/// What conntrack holds of a flow: its status in the low half, and the jiffies that it has left in the high one. Without
/// a flow the status is 0, and the other half says why ([`ENOENT`] if there is none). `tuple` is `size` octets of the
/// kernel's `struct bpf_sock_tuple`. A function of its own, so that each number that the loader replaces is in the object
/// once.
#[inline(never)]
fn ask(skb: *mut __sk_buff, tuple: *const u32, size: u32, protocol: u8) -> u64 {
    type Lookup = extern "C" fn(*mut __sk_buff, *const u32, u32, *mut Options, u32) -> *const u8;
    type Release = extern "C" fn(*const u8);
    // SAFETY: calls of the kernel's functions, in the shape in which a program calls helpers; the verifier compares
    // what is given with what they take.
    let (lookup, release) = unsafe {
        (
            transmute::<usize, Lookup>(kernel::SKB_CT_LOOKUP as usize),
            transmute::<usize, Release>(kernel::CT_RELEASE as usize),
        )
    };
    let mut options = Options { netns: -1, error: 0, protocol, direction: 0, reserved: [0; 2] };
    let connection = lookup(skb, tuple, size, &raw mut options, size_of::<Options>() as u32);
    if connection.is_null() {
        return u64::from(options.error.unsigned_abs()) << 32;
    }
    // SAFETY: both fields lie within the connection, at offsets from its type; it lives until it is released.
    let (status, timeout) = unsafe {
        (
            read_volatile(connection.add(kernel::STATUS as usize).cast::<u64>()) as u32,
            read_volatile(connection.add(kernel::TIMEOUT as usize).cast::<u32>()),
        )
    };
    release(connection);
    // SAFETY: a number out of the kernel's clock.
    let now = unsafe { bpf_jiffies64() } as u32;
    u64::from(timeout.wrapping_sub(now)) << 32 | u64::from(status)
}
