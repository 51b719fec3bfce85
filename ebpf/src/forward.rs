//! What TC does with a packet. The order matters: first what no router forwards, then whose source it is, then the
//! destination's route, and only at last whether the packet can be carried here. So whatever drops, drops also where
//! the fast path is off or the packet has options.

use aya_ebpf::{
    EbpfContext,
    bindings::{TC_ACT_REDIRECT, bpf_check_mtu_flags::BPF_MTU_CHK_SEGS, bpf_redir_neigh},
    helpers::{bpf_check_mtu, bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use manx_abi::{
    Action, Family, Program, Verdict,
    header::{self, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header},
};

use crate::{
    fib::{self, Addresses},
    maps::{self, Address, Found, Hop},
    skb::{self, Frame, PACKET_HOST},
};

const ENODEV: i64 = -19;

/// A packet that has been rewritten and handed to another interface.
pub struct Redirect {
    pub verdict: Verdict,
    /// What the helper says that the program shall return.
    pub action: i32,
}

/// A refusal is a verdict that drops or passes.
#[inline(always)]
pub fn decide(ctx: &TcContext, program: Program) -> Result<Redirect, Verdict> {
    let frame = Frame::of(ctx);
    // An accelerated tag belongs to a VLAN device, which this interface is not.
    if frame.tagged {
        return Err(Verdict::NotIp);
    }
    if frame.packet_type != PACKET_HOST {
        return Err(Verdict::NotForUs);
    }
    let ethertype = skb::read::<2>(ctx, ETHERNET - 2).ok_or(Verdict::Unreadable)?;
    let length = frame.length - ETHERNET as u32;
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => {
            let bytes = skb::read(ctx, ETHERNET).ok_or(Verdict::Unreadable)?;
            let header = header::ipv4(&bytes, length, frame.gso)?;
            let checksum = header::checksum_after_hop([bytes[10], bytes[11]]);
            forward(ctx, program, &frame, header, V4 { checksum })
        }
        ETHERTYPE_IPV6 => {
            let bytes = skb::read(ctx, ETHERNET).ok_or(Verdict::Unreadable)?;
            let header = header::ipv6(&bytes, length)?;
            forward(ctx, program, &frame, header, V6)
        }
        _ => Err(Verdict::NotIp),
    }
}

/// What differs between the families once the header has been read.
trait Hopping: Copy {
    const FAMILY: Family;
    /// Writes the header as it is after this hop.
    fn hop(self, ctx: &TcContext, hops: u8) -> Option<()>;
}

#[derive(Clone, Copy)]
struct V4 {
    checksum: [u8; 2],
}

impl Hopping for V4 {
    const FAMILY: Family = Family::Inet;

    #[inline(always)]
    fn hop(self, ctx: &TcContext, hops: u8) -> Option<()> {
        skb::write_ttl(ctx, hops, self.checksum)
    }
}

#[derive(Clone, Copy)]
struct V6;

impl Hopping for V6 {
    const FAMILY: Family = Family::Inet6;

    #[inline(always)]
    fn hop(self, ctx: &TcContext, hops: u8) -> Option<()> {
        skb::write_hop_limit(ctx, hops)
    }
}

#[inline(always)]
fn forward<A: Address + Addresses, H: Hopping>(
    ctx: &TcContext,
    program: Program,
    frame: &Frame,
    header: Header<A>,
    hopping: H,
) -> Result<Redirect, Verdict> {
    let settings = maps::settings();
    let source = match program {
        Program::PodTc => Some(pod_source(ctx, frame, &header, settings.source_check != 0)?),
        _ => None,
    };
    let route = header.destination.route().ok_or(Verdict::NoRoute)?;
    if route.is(Action::BlackholeExplicit) {
        return Err(Verdict::BlackholeExplicit);
    }
    if route.is(Action::BlackholeOwn) {
        let agreed = fib::is_blackhole(ctx.as_ptr(), frame.ifindex, header.source, header.destination);
        return Err(if agreed { Verdict::BlackholeOwn } else { Verdict::FibDisagrees });
    }
    if route.is(Action::Pass) {
        return Err(Verdict::RouteSaysPass);
    }
    if route.is(Action::Unreachable) {
        return Err(Verdict::Unreachable);
    }
    if settings.fast_path == 0 {
        return Err(Verdict::FastPathOff);
    }
    let source = match source {
        Some(source) => source,
        None => wire_source(&header)?,
    };
    if !source.in_pool || !route.in_pool {
        return Err(Verdict::OutsidePools);
    }
    if let Some(doubt) = header.doubt {
        return Err(doubt);
    }
    // At least 2, or there were a doubt.
    let hops = header.hops - 1;
    if route.is(Action::Local) {
        to_pod(ctx, frame, hopping, hops, route.target)
    } else if route.is(Action::Via) {
        to_next_hop(ctx, frame, hopping, hops, route.target)
    } else {
        Err(Verdict::BadEntry)
    }
}

/// A pod sends only from addresses whose route leads back to it. Where the map does not say so the kernel's FIB is
/// asked before anything is dropped, since a pod may have got an address of which the agent has not heard.
#[inline(always)]
fn pod_source<A: Address + Addresses>(
    ctx: &TcContext,
    frame: &Frame,
    header: &Header<A>,
    check: bool,
) -> Result<Found, Verdict> {
    if let Some(source) = header.source.route()
        && source.is(Action::Local)
        && let Some(endpoint) = maps::endpoint(source.target)
        && endpoint.ifindex == frame.ifindex
    {
        return Ok(source);
    }
    if check && fib::leads_elsewhere(ctx.as_ptr(), frame.ifindex, header.source, header.destination) {
        return Err(Verdict::Spoofed);
    }
    Err(Verdict::SourceUnknown)
}

/// From the wire only what another node's pod may send; what claims to be ours is the stack's to judge (rp_filter).
#[inline(always)]
fn wire_source<A: Address>(header: &Header<A>) -> Result<Found, Verdict> {
    let source = header.source.route().ok_or(Verdict::OutsidePools)?;
    if source.is(Action::Via) {
        return Ok(source);
    }
    if source.is(Action::Local) || source.is(Action::BlackholeOwn) {
        return Err(Verdict::SourceIsLocal);
    }
    Err(Verdict::RouteSaysPass)
}

#[inline(always)]
fn to_pod<H: Hopping>(
    ctx: &TcContext,
    frame: &Frame,
    hopping: H,
    hops: u8,
    target: u32,
) -> Result<Redirect, Verdict> {
    let endpoint = maps::endpoint(target).ok_or(Verdict::BadEntry)?;
    if endpoint.ifindex == frame.ifindex {
        return Err(Verdict::SameInterface);
    }
    if endpoint.pod_mac == [0; 6] {
        return Err(Verdict::NoMac);
    }
    fits(ctx, endpoint.ifindex)?;
    hopping.hop(ctx, hops).ok_or(Verdict::Unreadable)?;
    skb::write_macs(ctx, endpoint.pod_mac, endpoint.host_mac).ok_or(Verdict::Unreadable)?;
    // SAFETY: plain numbers; the helper notes the target and the kernel carries it out when the program has ended.
    let action = unsafe { bpf_redirect_peer(endpoint.ifindex, 0) };
    redirected(Verdict::RedirectedPeer, action)
}

#[inline(always)]
fn to_next_hop<H: Hopping>(
    ctx: &TcContext,
    frame: &Frame,
    hopping: H,
    hops: u8,
    target: u32,
) -> Result<Redirect, Verdict> {
    let Hop { ifindex, family, gateway } = maps::next_hop(target).ok_or(Verdict::BadEntry)?;
    if ifindex == frame.ifindex {
        // The stack tells the sender about the shorter way (ICMP redirect).
        return Err(Verdict::SameInterface);
    }
    // IPv4 over an IPv6 next hop is RFC 8950; the other way round nobody can send.
    if H::FAMILY as u32 != family && family == Family::Inet as u32 {
        return Err(Verdict::NextHopFamily);
    }
    fits(ctx, ifindex)?;
    hopping.hop(ctx, hops).ok_or(Verdict::Unreadable)?;
    // SAFETY: a structure of numbers.
    let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    params.nh_family = family;
    // SAFETY: both are sixteen octets in which every value is allowed; an IPv4 address stands in the first four.
    params.__bindgen_anon_1.ipv6_nh = unsafe { core::mem::transmute::<[u8; 16], [u32; 4]>(gateway) };
    // SAFETY: the structure lives on our stack and its size is given; the helper copies it.
    let action =
        unsafe { bpf_redirect_neigh(ifindex, &raw mut params, size_of::<bpf_redir_neigh>() as i32, 0) };
    redirected(Verdict::RedirectedNeigh, action)
}

#[inline(always)]
fn redirected(verdict: Verdict, action: i64) -> Result<Redirect, Verdict> {
    // The helpers refuse nothing but wrong flags and sizes.
    if action != i64::from(TC_ACT_REDIRECT) {
        return Err(Verdict::Unreadable);
    }
    Ok(Redirect { verdict, action: TC_ACT_REDIRECT })
}

/// The interface is there and takes the packet as it is; of GSO each segment. The kernel is asked each time, so an
/// MTU that changes and an interface that goes are seen by the next packet.
#[inline(always)]
fn fits(ctx: &TcContext, ifindex: u32) -> Result<(), Verdict> {
    // Zero on the way in: the packet's own length.
    let mut mtu = 0u32;
    // SAFETY: the context is the program's own; the number lives on our stack.
    let answer =
        unsafe { bpf_check_mtu(ctx.as_ptr(), ifindex, &raw mut mtu, 0, u64::from(BPF_MTU_CHK_SEGS)) };
    match answer {
        0 => Ok(()),
        1.. => Err(Verdict::TooBig),
        ENODEV => Err(Verdict::InterfaceGone),
        // Of several packets in one the kernel finds no transport header to measure by.
        _ => Err(Verdict::Unreadable),
    }
}
