//! Reading and rewriting a packet that TC has as an skb.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::__sk_buff,
    helpers::{bpf_csum_update, bpf_skb_load_bytes},
    programs::TcContext,
};
use manx_abi::header::{self, ETHERNET};

/// The kernel's, of `<linux/if_packet.h>`: the frame's destination is this interface's MAC.
pub const PACKET_HOST: u32 = 0;
/// It is another's; such frames come only where the interface is promiscuous.
pub const PACKET_OTHERHOST: u32 = 3;

/// What TC says of a frame beside its bytes. Each is read from the skb when it is asked for.
#[derive(Clone, Copy)]
pub struct Frame {
    skb: *mut __sk_buff,
    pub ifindex: u32,
}

impl Frame {
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Frame {
        let skb = ctx.skb.skb;
        // SAFETY: the context is valid while the program runs; the verifier checks each field's access.
        Frame { skb, ifindex: unsafe { (*skb).ifindex } }
    }

    /// Octets behind the Ethernet header, padding included.
    #[inline(always)]
    pub fn length(self) -> u32 {
        // SAFETY: as in `of`. TC has no frame without an Ethernet header.
        unsafe { (*self.skb).len }.wrapping_sub(ETHERNET as u32)
    }

    #[inline(always)]
    pub fn packet_type(self) -> u32 {
        // SAFETY: as in `of`.
        unsafe { (*self.skb).pkt_type }
    }

    /// The VLAN id of a tag that the driver or the kernel has taken out of the frame; 0 is a tag of priority only.
    #[inline(always)]
    pub fn vlan(self) -> Option<u32> {
        // SAFETY: as in `of`.
        unsafe { ((*self.skb).vlan_present != 0).then(|| (*self.skb).vlan_tci & 0xfff) }
    }

    /// Several packets in one.
    #[inline(always)]
    pub fn is_gso(self) -> bool {
        // SAFETY: as in `of`.
        unsafe { (*self.skb).gso_size != 0 }
    }

    /// How many packets it is on the wire.
    #[inline(always)]
    pub fn packets(self) -> u64 {
        // SAFETY: as in `of`.
        match unsafe { (*self.skb).gso_segs } {
            // Not several, or not counted by whoever made it.
            0 => 1,
            segments => u64::from(segments),
        }
    }
}

/// Copies a value at `offset`. A driver may have left headers outside the linear part: they are pulled in once.
#[inline(always)]
pub fn read<T: Plain>(ctx: &TcContext, offset: usize) -> Option<T> {
    if let Some(value) = peek(ctx, offset) {
        return Some(value);
    }
    ctx.pull_data((offset + size_of::<T>()) as u32).ok()?;
    peek(ctx, offset)
}

/// Numbers of any bits.
///
/// # Safety
/// Every pattern of its octets is a value, and it has no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: of each, every pattern is a value, and arrays have no padding.
unsafe impl<const N: usize> Plain for [u8; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u16; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u32; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u64; N] {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}

#[inline(always)]
fn peek<T: Plain>(ctx: &TcContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the range was just compared with the packet's end, which the verifier insists on too. On machines that
    // cannot load what is not aligned the kernel puts the IP header at a multiple of four (NET_IP_ALIGN), and the
    // verifier refuses a program that would rely on more; on the others a load is the same at any address.
    Some(unsafe { (start as *const T).read() })
}

/// Copies a value at an offset that only the packet knows.
#[inline(always)]
pub fn load<T: Plain>(ctx: &TcContext, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let length = size_of::<T>() as u32;
    // SAFETY: the helper compares the range with the packet, and fills the value or zeroes it; it lives on our stack.
    let result =
        unsafe { bpf_skb_load_bytes(ctx.as_ptr().cast(), offset, value.as_mut_ptr().cast(), length) };
    // SAFETY: written, and any octets are a value.
    (result == 0).then(|| unsafe { value.assume_init() })
}

/// Writes TTL and checksum of an IPv4 header. What the one changes in the packet's sum the other takes back, so a
/// checksum that the NIC computed over the packet (CHECKSUM_COMPLETE) stays right.
#[inline(always)]
pub fn write_ttl(ctx: &TcContext, ttl: u8, checksum: [u8; 2]) -> Option<()> {
    let ip = ctx.data() + ETHERNET;
    if ip + header::IPV4 > ctx.data_end() {
        return None;
    }
    // SAFETY: both fields lie within the header, whose end was just compared with the packet's; two octets in, the
    // checksum is aligned as the header is.
    unsafe {
        ((ip + 8) as *mut u8).write(ttl);
        ((ip + 10) as *mut u16).write(u16::from_ne_bytes(checksum));
    }
    Some(())
}

/// Lowers the hop limit of an IPv6 header, which has no checksum to take the change back: a sum that the NIC computed
/// over the packet is corrected.
#[inline(always)]
pub fn write_hop_limit(ctx: &TcContext, next_header: u8, hops: u8) -> Option<()> {
    let ip = ctx.data() + ETHERNET;
    if ip + header::IPV6 > ctx.data_end() {
        return None;
    }
    // SAFETY: the octet lies within the header, whose end was just compared with the packet's.
    unsafe { ((ip + 7) as *mut u8).write(hops.wrapping_sub(1)) };
    // SAFETY: plain numbers. The helper says "not supported" of a packet that has no such sum, which is right.
    unsafe { bpf_csum_update(ctx.skb.skb, header::hop_limit_sum(next_header, hops)) };
    Some(())
}

/// Writes destination and source of the Ethernet header, which no checksum covers.
#[inline(always)]
pub fn write_macs(ctx: &TcContext, macs: [u32; 3]) -> Option<()> {
    let start = ctx.data();
    if start + ETHERNET > ctx.data_end() {
        return None;
    }
    // SAFETY: the header's end was just compared with the packet's. It stands two octets before a multiple of four
    // where that matters (see `peek`), so its twelve octets are written by halves of a word.
    unsafe {
        let words = start as *mut u16;
        let mut word = 0;
        while word < 3 {
            let octets = macs[word];
            words.add(2 * word).write(octets as u16);
            words.add(2 * word + 1).write((octets >> 16) as u16);
            word += 1;
        }
    }
    Some(())
}
