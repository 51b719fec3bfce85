//! What XDP does with a frame: blackholes die here, before an skb exists. Everything else goes on to TC, which
//! counts what it does with it.

use aya_ebpf::{helpers::bpf_xdp_get_buff_len, programs::XdpContext};
use manx_abi::{
    Kind, Verdict,
    header::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
};

use crate::{
    fib::{self, Addresses},
    index::{Address, Answer},
    maps::{self, Port, Switches},
    skb::Plain,
};

#[inline(always)]
pub fn decide(ctx: &XdpContext, ifindex: u32, port: Option<Port>) -> Verdict {
    let Some(port) = port else {
        return Verdict::InterfaceUnknown;
    };
    let Some([d0, d1, d2, .., ethertype]) = read::<[u16; ETHERNET / 2]>(ctx, 0) else {
        return Verdict::Unreadable;
    };
    let [[a, b], [c, d], [e, f]] = [d0.to_ne_bytes(), d1.to_ne_bytes(), d2.to_ne_bytes()];
    // A promiscuous interface, or one below a bridge or macvlan, sees frames that are not this node's to judge.
    if port.mac() != [a, b, c, d, e, f] {
        return Verdict::NotForUs;
    }
    match u16::from_be(ethertype) {
        ETHERTYPE_IPV4 => match read::<[u32; header::IPV4 / 4]>(ctx, ETHERNET) {
            Some([_, _, _, source, destination]) => {
                let destination = destination.to_ne_bytes();
                if !header::is_routable4(destination) {
                    return Verdict::Scope;
                }
                blackhole(ctx, ifindex, source.to_ne_bytes(), destination)
            }
            None => Verdict::Unreadable,
        },
        ETHERTYPE_IPV6 => match read::<[u64; header::IPV6 / 8]>(ctx, ETHERNET) {
            Some([_, s0, s1, d0, d1]) => {
                if !header::is_routable6([d0, d1]) {
                    return Verdict::Scope;
                }
                blackhole(ctx, ifindex, [s0, s1], [d0, d1])
            }
            None => Verdict::Unreadable,
        },
        _ => Verdict::NotIp,
    }
}

#[inline(always)]
fn blackhole<A: Address + Addresses>(ctx: &XdpContext, ifindex: u32, source: A, destination: A) -> Verdict {
    let Some(switches) = Switches::read() else {
        return Verdict::BadEntry;
    };
    let Some(pools) = switches.pools() else {
        return Verdict::BadEntry;
    };
    let route = destination.find(switches, pools);
    let verdict = fib::blackhole(ctx, ifindex, &source, &destination, route.word, switches);
    match verdict {
        None if route.word.is(Kind::NoRoute) => Verdict::NoRoute,
        None => Verdict::NotBlackholed,
        Some(Verdict::FibDisagrees) => Verdict::FibDisagrees,
        Some(verdict) => {
            count_prefix(ctx, &route);
            verdict
        }
    }
}

#[inline(always)]
fn count_prefix(ctx: &XdpContext, route: &Answer) {
    // SAFETY: the context is the program's own.
    let length = unsafe { bpf_xdp_get_buff_len(ctx.ctx) };
    maps::count_prefix(route.counter(), 1, length.wrapping_sub(ETHERNET as u64));
}

/// Headers stand in the first buffer of a frame with fragments too.
#[inline(always)]
fn read<T: Plain>(ctx: &XdpContext, offset: usize) -> Option<T> {
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the range was just compared with the frame's end; of alignment what stands in `skb::read` holds here.
    Some(unsafe { (start as *const T).read() })
}
