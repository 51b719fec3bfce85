//! What XDP does with a frame: blackholes die here, before an skb exists. Everything else goes on to TC, which
//! counts what it does with it.

use aya_ebpf::{EbpfContext, programs::XdpContext};
use manx_abi::{
    Action, Verdict,
    header::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
};

use crate::{
    fib::{self, Addresses},
    maps::{self, Address},
};

#[inline(always)]
pub fn decide(ctx: &XdpContext) -> Verdict {
    let Some(ethernet) = read::<ETHERNET>(ctx, 0) else {
        return Verdict::Unreadable;
    };
    let [d0, d1, d2, d3, d4, d5, .., high, low] = ethernet;
    let ifindex = ctx.ingress_ifindex() as u32;
    // A promiscuous interface, or one below a bridge or macvlan, sees frames that are not this node's to judge.
    if maps::uplink_mac(ifindex) != Some([d0, d1, d2, d3, d4, d5]) {
        return Verdict::NotForUs;
    }
    match u16::from_be_bytes([high, low]) {
        ETHERTYPE_IPV4 => match read::<{ header::IPV4 }>(ctx, ETHERNET) {
            Some([.., s0, s1, s2, s3, d0, d1, d2, d3]) if header::is_routable4([d0, d1, d2, d3]) => {
                blackhole(ctx, ifindex, [s0, s1, s2, s3], [d0, d1, d2, d3])
            }
            Some(_) => Verdict::Scope,
            None => Verdict::Unreadable,
        },
        ETHERTYPE_IPV6 => match read::<{ header::IPV6 }>(ctx, ETHERNET) {
            Some(bytes) => {
                let (mut source, mut destination) = ([0; 16], [0; 16]);
                source.copy_from_slice(&bytes[8..24]);
                destination.copy_from_slice(&bytes[24..40]);
                if !header::is_routable6(destination) {
                    return Verdict::Scope;
                }
                blackhole(ctx, ifindex, source, destination)
            }
            None => Verdict::Unreadable,
        },
        _ => Verdict::NotIp,
    }
}

#[inline(always)]
fn blackhole<A: Address + Addresses>(ctx: &XdpContext, ifindex: u32, source: A, destination: A) -> Verdict {
    let Some(route) = destination.route() else {
        return Verdict::NoRoute;
    };
    if route.is(Action::BlackholeExplicit) {
        return Verdict::BlackholeExplicit;
    }
    if !route.is(Action::BlackholeOwn) {
        return Verdict::NotBlackholed;
    }
    if fib::is_blackhole(ctx.as_ptr(), ifindex, source, destination) {
        Verdict::BlackholeOwn
    } else {
        Verdict::FibDisagrees
    }
}

/// Headers stand in the first buffer of a frame with fragments too.
#[inline(always)]
fn read<const N: usize>(ctx: &XdpContext, offset: usize) -> Option<[u8; N]> {
    let start = ctx.data() + offset;
    if start + N > ctx.data_end() {
        return None;
    }
    // SAFETY: the range was just compared with the frame's end; an array of octets needs no alignment.
    Some(unsafe { (start as *const [u8; N]).read() })
}
