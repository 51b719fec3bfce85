//! Whether an interface takes a packet as it is.

use aya_ebpf::{
    EbpfContext, bindings::bpf_check_mtu_flags::BPF_MTU_CHK_SEGS, helpers::bpf_check_mtu, programs::TcContext,
};
use manx_abi::{Room, Verdict, kernel};

use crate::{generation, maps};

const ENODEV: i64 = -19;

/// The interface is there and takes `length` octets behind the Ethernet header, which the packet has. The kernel is asked
/// where this CPU does not remember its answer, or its number says that an MTU or an interface has changed since; and for
/// whatever is larger than the MTU, of which with GSO each segment counts.
#[inline(always)]
pub fn fits(ctx: &TcContext, ifindex: u32, length: u32) -> Result<(), Verdict> {
    let memory = generation::of(ctx, kernel::RT_GENID)
        .and_then(|generation| maps::room(ifindex).map(|room| (room, generation)));
    if let Some((room, generation)) = memory {
        // SAFETY: a live map value of numbers, of this CPU's.
        let known = unsafe { room.read() };
        if known.ifindex == ifindex && known.generation == generation && length <= known.mtu {
            return Ok(());
        }
    }
    // Zero on the way in: the packet's own length.
    let mut mtu = 0u32;
    // SAFETY: the context is the program's own; the number lives on our stack.
    let answer =
        unsafe { bpf_check_mtu(ctx.as_ptr(), ifindex, &raw mut mtu, 0, u64::from(BPF_MTU_CHK_SEGS)) };
    match answer {
        0 => {
            if let Some((room, generation)) = memory {
                // SAFETY: as above.
                unsafe { room.write(Room { ifindex, generation, mtu, unused: 0 }) };
            }
            Ok(())
        }
        1.. => Err(Verdict::TooBig),
        ENODEV => Err(Verdict::InterfaceGone),
        // Of several packets in one the kernel finds no transport header to measure by.
        _ => Err(Verdict::Unreadable),
    }
}
