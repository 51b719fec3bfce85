//! Whose packet it is: what a pod may send from and speak for, and what the wire may claim.

use core::hint::black_box;

use aya_ebpf::{EbpfContext, bindings::__sk_buff, programs::TcContext};
use manx_abi::{
    BUCKETS, Kind, PoolSet, SourceCheck, Verdict,
    flow::ICMPV6,
    header::{self, ETHERNET, Header, IPV6},
    neighbour::{self, Claim},
};

use crate::{
    fib::{self, Addresses, Way},
    index::{Address, Answer},
    maps::{self, Pod, Switches},
    skb::{self, Frame},
};

/// More than any honest packet has.
const EXTENSIONS_MAX: u32 = 8;

/// How a pod's address is checked.
#[derive(Clone, Copy)]
pub struct Check(u32);

impl Check {
    /// `number` is that of a [`SourceCheck`]; what is none of them is the strict one.
    #[inline(always)]
    pub fn new(number: u32) -> Check {
        Check(number)
    }

    #[inline(always)]
    pub fn is_on(self) -> bool {
        self.0 != SourceCheck::Off as u32
    }

    #[inline(always)]
    fn is_loose(self) -> bool {
        self.0 == SourceCheck::Loose as u32
    }
}

/// An address that a pod sends from or speaks for.
enum Owner {
    /// The map gives it to this pod, or the check is loose and the map has a way to it.
    Known,
    /// The map does not, but the kernel's FIB may: a pod may have got an address of which the agent has not heard.
    Unknown,
    Other,
}

#[inline(always)]
fn owner<A: Address + Addresses>(
    ctx: &TcContext,
    frame: Frame,
    answer: &Answer,
    check: Check,
    address: &A,
    peer: &A,
) -> Owner {
    if is_at(answer, frame.ifindex)
        || check.is_loose() && (answer.word.is(Kind::Via) || answer.word.is(Kind::Local))
    {
        return Owner::Known;
    }
    if !check.is_on() {
        return Owner::Unknown;
    }
    match fib::way(ctx.as_ptr(), frame.ifindex, peer, address) {
        Way::By(interface) if interface == frame.ifindex || check.is_loose() => Owner::Unknown,
        Way::By(_) | Way::None => Owner::Other,
        Way::Unknown => Owner::Unknown,
    }
}

/// The address is that of the pod behind this interface.
#[inline(always)]
fn is_at(answer: &Answer, ifindex: u32) -> bool {
    answer.word.is(Kind::Local) && Pod::of(answer.word.target()).is_some_and(|pod| pod.ifindex() == ifindex)
}

/// What the map says of a pod's source; an error is a verdict on the packet.
#[inline(always)]
pub fn pod<A: Address + Addresses>(
    ctx: &TcContext,
    frame: Frame,
    switches: Switches,
    pools: *const PoolSet,
    header: &Header<A>,
    check: Check,
) -> Result<Answer, Verdict> {
    let answer = header.source.find(switches, pools);
    // The FIB says of every address "not forwarded" where the other one is of the link.
    let peer = if header.routable { header.destination } else { header.source };
    match owner(ctx, frame, &answer, check, &header.source, &peer) {
        Owner::Known => Ok(answer),
        Owner::Unknown => Err(Verdict::SourceUnknown),
        Owner::Other => Err(Verdict::Spoofed),
    }
}

/// From the wire only what another node's pod may send; what claims to be ours is the stack's to judge (rp_filter).
#[inline(always)]
pub fn wire(answer: &Answer) -> Result<(), Verdict> {
    if answer.word.is(Kind::Via) {
        Ok(())
    } else if answer.word.is(Kind::Local) || answer.word.is(Kind::BlackholeOwn) {
        Err(Verdict::SourceIsLocal)
    } else if answer.word.is(Kind::NoRoute) {
        Err(Verdict::OutsidePools)
    } else {
        Err(Verdict::RouteSaysPass)
    }
}

/// As strict `rp_filter` has it: the route to the source leads by this interface, or one of its next hops does. What does
/// not is the stack's to drop.
#[inline(always)]
pub fn comes_the_way_back(source: &Answer, ifindex: u32) -> Result<(), Verdict> {
    // What comes by a wire has passed `wire`, so its source's route is one by next hops.
    if group_leads_by(source.word.target(), ifindex) != 0 { Ok(()) } else { Err(Verdict::SourceElsewhere) }
}

/// By its name and linkage one that the verifier looks at once and by itself, whatever its callers know; else it would
/// follow the buckets in each of their states. It says 0 for "no".
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn group_leads_by(id: u32, ifindex: u32) -> u32 {
    let leads = |hop: u32| maps::next_hop_ifindex(hop) == Some(ifindex);
    let Some(group) = maps::group(id) else { return 0 };
    let set = match group.target() {
        Ok(hop) => return u32::from(leads(hop)),
        Err(set) => set,
    };
    let mut place = 0;
    // Hidden from the compiler, which would write the loop out.
    while place < black_box(BUCKETS) {
        if maps::bucket(set, place).is_some_and(leads) {
            return 1;
        }
        place += 1;
    }
    0
}

/// ARP from a pod. An error drops it.
#[inline(always)]
pub fn arp(ctx: &TcContext, check: Check) -> Result<(), Verdict> {
    if is_forged_arp(ctx.skb.skb, check.0) == 0 { Ok(()) } else { Err(Verdict::ForgedNeighbour) }
}

/// Neighbour discovery from a pod, wherever it stands in the packet: the kernel takes it behind extension headers
/// too. An error drops it.
#[inline(always)]
pub fn discovery(ctx: &TcContext, check: Check, next_header: u8) -> Result<(), Verdict> {
    if next_header != ICMPV6 && !header::is_extension(next_header)
        || is_forged_discovery(ctx.skb.skb, check.0, next_header) == 0
    {
        Ok(())
    } else {
        Err(Verdict::ForgedNeighbour)
    }
}

/// A function of its own, as the next: rare packets, and much to keep on the stack. They say 0 for "no".
#[inline(never)]
fn is_forged_arp(skb: *mut __sk_buff, check: u32) -> u32 {
    let ctx = TcContext::new(skb);
    let Some(packet) = skb::load::<[u16; neighbour::ARP / 2]>(&ctx, ETHERNET as u32) else {
        // The kernel drops it as too short.
        return 0;
    };
    let Some(source) = skb::load::<[u16; 3]>(&ctx, 6) else {
        return 0;
    };
    speaks_for_another(&ctx, Check(check), neighbour::arp(&packet, source))
}

#[inline(never)]
fn is_forged_discovery(skb: *mut __sk_buff, check: u32, next_header: u8) -> u32 {
    let ctx = TcContext::new(skb);
    if next_header != ICMPV6 {
        return u32::from(hides_discovery(&ctx, next_header));
    }
    let at = (ETHERNET + IPV6) as u32;
    let Some([icmp_type]) = skb::load::<[u8; 1]>(&ctx, at) else {
        return 0;
    };
    if !neighbour::is_discovery(icmp_type) {
        return 0;
    }
    // One that is too short to have a target the kernel drops.
    let target = skb::load(&ctx, at + 8).unwrap_or([0u64; 2]);
    speaks_for_another(&ctx, Check(check), neighbour::discovery(icmp_type, target))
}

/// No honest sender puts extension headers before neighbour discovery; fragmented it may not be (RFC 6980).
#[inline(always)]
fn hides_discovery(ctx: &TcContext, first: u8) -> bool {
    let mut at = (ETHERNET + IPV6) as u32;
    let mut next = first;
    let mut headers = 0;
    while headers < EXTENSIONS_MAX {
        if next == ICMPV6 {
            return skb::load::<[u8; 1]>(ctx, at)
                .is_some_and(|[icmp_type]| neighbour::is_discovery(icmp_type));
        }
        if !header::is_extension(next) {
            return false;
        }
        let Some([after, length, offset_0, offset_1]) = skb::load::<[u8; 4]>(ctx, at) else {
            return false;
        };
        at += match next {
            header::FRAGMENT if offset_0 != 0 || offset_1 & 0xf8 != 0 => return false,
            header::FRAGMENT => 8,
            header::AUTHENTICATION => (u32::from(length) + 2) * 4,
            _ => (u32::from(length) + 1) * 8,
        };
        next = after;
        headers += 1;
    }
    true
}

#[inline(always)]
fn speaks_for_another<A: Address + Addresses>(ctx: &TcContext, check: Check, claim: Claim<A>) -> u32 {
    let address = match claim {
        Claim::Nothing => return 0,
        Claim::Forged => return 1,
        Claim::Address(address) => address,
    };
    let Some(switches) = Switches::read() else {
        return 0;
    };
    let Some(pools) = switches.pools() else {
        return 0;
    };
    let answer = address.find(switches, pools);
    match owner(ctx, Frame::of(ctx), &answer, check, &address, &address) {
        Owner::Known | Owner::Unknown => 0,
        Owner::Other => 1,
    }
}
