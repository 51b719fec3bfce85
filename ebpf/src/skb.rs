//! Reading and rewriting a packet that TC has as an skb.

use aya_ebpf::{
    EbpfContext, bindings::BPF_F_RECOMPUTE_CSUM, helpers::bpf_skb_store_bytes, programs::TcContext,
};
use manx_abi::header::ETHERNET;

/// The kernel's, of `<linux/if_packet.h>`: the frame's destination is this interface's MAC.
pub const PACKET_HOST: u32 = 0;

/// What TC says of a frame beside its bytes.
pub struct Frame {
    pub ifindex: u32,
    /// From the Ethernet header on.
    pub length: u32,
    pub packet_type: u32,
    pub tagged: bool,
    pub gso: bool,
}

impl Frame {
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Frame {
        // SAFETY: the context is valid while the program runs; the verifier checks each field's access.
        unsafe {
            let skb = ctx.skb.skb;
            Frame {
                ifindex: (*skb).ifindex,
                length: (*skb).len,
                packet_type: (*skb).pkt_type,
                tagged: (*skb).vlan_present != 0,
                gso: (*skb).gso_size != 0,
            }
        }
    }
}

/// Copies `N` octets at `offset`. A driver may have left headers outside the linear part: they are pulled in once.
#[inline(always)]
pub fn read<const N: usize>(ctx: &TcContext, offset: usize) -> Option<[u8; N]> {
    if let Some(bytes) = peek(ctx, offset) {
        return Some(bytes);
    }
    ctx.pull_data((offset + N) as u32).ok()?;
    peek(ctx, offset)
}

#[inline(always)]
fn peek<const N: usize>(ctx: &TcContext, offset: usize) -> Option<[u8; N]> {
    let start = ctx.data() + offset;
    if start + N > ctx.data_end() {
        return None;
    }
    // SAFETY: the range was just compared with the packet's end, which the verifier insists on too. The packet
    // has no alignment to rely on, and an array of octets needs none.
    Some(unsafe { (start as *const [u8; N]).read() })
}

/// Writes TTL and checksum of an IPv4 header. What the one changes in the packet's sum the other takes back, so a
/// checksum that the NIC computed over the packet (CHECKSUM_COMPLETE) stays right.
#[inline(always)]
pub fn write_ttl(ctx: &TcContext, ttl: u8, checksum: [u8; 2]) -> Option<()> {
    let ip = ctx.data() + ETHERNET;
    if ip + manx_abi::header::IPV4 > ctx.data_end() {
        return None;
    }
    // SAFETY: both fields lie within the header, whose end was just compared with the packet's.
    unsafe {
        ((ip + 8) as *mut u8).write(ttl);
        ((ip + 10) as *mut [u8; 2]).write(checksum);
    }
    Some(())
}

/// Writes the hop limit of an IPv6 header, which has no checksum to take the change back: the helper corrects the
/// one that the NIC computed.
#[inline(always)]
pub fn write_hop_limit(ctx: &TcContext, hops: u8) -> Option<()> {
    // SAFETY: the helper checks the range; the octet lives on our stack.
    let result = unsafe {
        bpf_skb_store_bytes(
            ctx.as_ptr().cast(),
            (ETHERNET + 7) as u32,
            (&raw const hops).cast(),
            1,
            u64::from(BPF_F_RECOMPUTE_CSUM),
        )
    };
    (result == 0).then_some(())
}

/// Writes destination and source of the Ethernet header, which no checksum covers.
#[inline(always)]
pub fn write_macs(ctx: &TcContext, destination: [u8; 6], source: [u8; 6]) -> Option<()> {
    let start = ctx.data();
    if start + ETHERNET > ctx.data_end() {
        return None;
    }
    // SAFETY: the header's end was just compared with the packet's.
    unsafe {
        (start as *mut [u8; 6]).write(destination);
        ((start + 6) as *mut [u8; 6]).write(source);
    }
    Some(())
}
