//! Whose packet it is: what a pod may send from and speak for, and what the wire may claim.

use aya_ebpf::{EbpfContext, programs::TcContext};
use manx_abi::{
    Kind, PoolSet, SourceCheck, Verdict,
    flow::ICMPV6,
    header::{self, ETHERNET, Header, IPV6},
    neighbour::{self, Claim},
};

use crate::{
    fib::{self, Addresses, Way},
    index::{Address, Answer},
    maps::{Pod, Switches},
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
    address: A,
    peer: A,
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
    match owner(ctx, frame, &answer, check, header.source, header.destination) {
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

/// ARP from a pod. An error drops it.
#[inline(always)]
pub fn arp(
    ctx: &TcContext,
    frame: Frame,
    switches: Switches,
    pools: *const PoolSet,
    check: Check,
) -> Result<(), Verdict> {
    let Some(packet) = skb::read::<[u8; neighbour::ARP]>(ctx, ETHERNET) else {
        // The kernel drops it as too short.
        return Ok(());
    };
    let [_, _, _, s0, s1, s2] = skb::read::<[u16; 6]>(ctx, 0).ok_or(Verdict::Unreadable)?;
    let [[a, b], [c, d], [e, f]] = [s0.to_ne_bytes(), s1.to_ne_bytes(), s2.to_ne_bytes()];
    spoken_for(ctx, frame, switches, pools, check, neighbour::arp(&packet, [a, b, c, d, e, f]))
}

/// Neighbour discovery from a pod, wherever it stands in the packet: the kernel takes it behind extension headers
/// too. An error drops it.
#[inline(always)]
pub fn discovery(
    ctx: &TcContext,
    frame: Frame,
    switches: Switches,
    pools: *const PoolSet,
    check: Check,
    header: &Header<[u8; 16]>,
) -> Result<(), Verdict> {
    if header.protocol == ICMPV6 {
        let at = (ETHERNET + IPV6) as u32;
        let Some([icmp_type]) = skb::load(ctx, at) else {
            return Ok(());
        };
        if !neighbour::is_discovery(icmp_type) {
            return Ok(());
        }
        // One that is too short to have a target the kernel drops.
        let target = skb::load(ctx, at + 8).unwrap_or_default();
        return spoken_for(ctx, frame, switches, pools, check, neighbour::discovery(icmp_type, target));
    }
    if header::is_extension(header.protocol) && hides_discovery(ctx, header.protocol) {
        return Err(Verdict::ForgedNeighbour);
    }
    Ok(())
}

/// No honest sender puts extension headers before neighbour discovery; fragmented it may not be (RFC 6980).
#[inline(always)]
fn hides_discovery(ctx: &TcContext, first: u8) -> bool {
    let mut at = (ETHERNET + IPV6) as u32;
    let mut next = first;
    let mut headers = 0;
    while headers < EXTENSIONS_MAX {
        if next == ICMPV6 {
            return skb::load(ctx, at).is_some_and(|[icmp_type]| neighbour::is_discovery(icmp_type));
        }
        if !header::is_extension(next) {
            return false;
        }
        let Some([after, length, offset_0, offset_1]) = skb::load(ctx, at) else {
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
fn spoken_for<A: Address + Addresses>(
    ctx: &TcContext,
    frame: Frame,
    switches: Switches,
    pools: *const PoolSet,
    check: Check,
    claim: Claim<A>,
) -> Result<(), Verdict> {
    match claim {
        Claim::Nothing => Ok(()),
        Claim::Forged => Err(Verdict::ForgedNeighbour),
        Claim::Address(address) => {
            let answer = address.find(switches, pools);
            match owner(ctx, frame, &answer, check, address, address) {
                Owner::Known | Owner::Unknown => Ok(()),
                Owner::Other => Err(Verdict::ForgedNeighbour),
            }
        }
    }
}
