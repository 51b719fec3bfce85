//! What TC does with a packet. The order matters: first what no router forwards, then whose source it is, then the
//! destination's route, and only at last whether the packet can be carried here. So whatever drops, drops also where
//! the fast path is off or the packet has options.

use aya_ebpf::{
    EbpfContext,
    bindings::{__sk_buff, TC_ACT_REDIRECT, bpf_redir_neigh},
    helpers::{bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use manx_abi::{
    Family, Kind, Mode, PoolSet, SourceCheck, Verdict, flow,
    header::{
        self, Address6, ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_VLAN, Header,
    },
    neighbour, way_back,
};

use crate::{
    fib::{self, Addresses, Way},
    guard,
    index::{Address, Answer},
    maps::{self, Hop, Pod, Port, Switches},
    room,
    skb::{self, Frame, PACKET_HOST, PACKET_OTHERHOST},
    source::{self, Check},
};

/// Where and how a packet is looked at.
#[derive(Clone, Copy)]
struct Hook {
    is_pod: bool,
    frame: Frame,
    port: Port,
    switches: Switches,
    pools: *const PoolSet,
    check: Check,
    /// Nothing but the stack may have it, though its source is checked.
    stack: Option<Verdict>,
}

/// A verdict that redirects says that the packet has been rewritten and handed to another interface.
#[inline(always)]
pub fn decide<const POD: bool>(ctx: &TcContext, frame: Frame, port: Option<Port>) -> Verdict {
    match of_frame::<POD>(ctx, frame, port) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[inline(always)]
fn of_frame<const POD: bool>(ctx: &TcContext, frame: Frame, port: Option<Port>) -> Result<Verdict, Verdict> {
    let port = port.ok_or(Verdict::InterfaceUnknown)?;
    let check = if POD { Check::new(port.source_check()) } else { Check::new(SourceCheck::Off as u32) };
    let stack = of_link(frame, check)?;
    let ethertype: u16 = skb::read(ctx, ETHERNET - 2).ok_or(Verdict::Unreadable)?;
    match u16::from_be(ethertype) {
        ETHERTYPE_IPV4 => Ok(ipv4::<POD>(ctx.skb.skb, port, check, stack)),
        ETHERTYPE_IPV6 => {
            if check.is_on() {
                let [next_header, hops]: [u8; 2] = skb::read(ctx, ETHERNET + 6).ok_or(Verdict::Unreadable)?;
                // With less it has been routed, and nobody takes it for neighbour discovery (RFC 4861 §6.1, §7.1).
                if hops == u8::MAX {
                    source::discovery(ctx, check, next_header)?;
                }
            }
            Ok(ipv6::<POD>(ctx.skb.skb, port, check, stack))
        }
        neighbour::ETHERTYPE_ARP if check.is_on() => {
            source::arp(ctx, check)?;
            Err(Verdict::NotIp)
        }
        ETHERTYPE_VLAN | ETHERTYPE_QINQ if check.is_on() => {
            let tag: u16 = skb::read(ctx, ETHERNET).ok_or(Verdict::Unreadable)?;
            // VLAN 0 is a priority, which the kernel takes off before it looks at the packet; so it would hide what
            // is not looked at here.
            if u16::from_be(tag) & 0xfff == 0 { Err(Verdict::Spoofed) } else { Err(Verdict::NotIp) }
        }
        _ => Err(Verdict::NotIp),
    }
}

#[inline(always)]
fn ipv4<const POD: bool>(skb: *mut __sk_buff, port: Port, check: Check, stack: Option<Verdict>) -> Verdict {
    let ctx = TcContext::new(skb);
    let decide = || -> Result<Verdict, Verdict> {
        let hook = Hook::new(POD, &ctx, port, check, stack)?;
        let words: [u32; 5] = skb::read(&ctx, ETHERNET).ok_or(Verdict::Unreadable)?;
        let mut header = header::ipv4(&words, hook.frame.length(), hook.frame.is_gso())?;
        let [_, _, c0, c1] = words[2].to_ne_bytes();
        hook.forward(&ctx, &mut header, V4 { checksum: header::checksum_after_hop([c0, c1]) })
    };
    match decide() {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[inline(always)]
fn ipv6<const POD: bool>(skb: *mut __sk_buff, port: Port, check: Check, stack: Option<Verdict>) -> Verdict {
    let ctx = TcContext::new(skb);
    let decide = || -> Result<Verdict, Verdict> {
        let hook = Hook::new(POD, &ctx, port, check, stack)?;
        let words: [u64; 5] = skb::read(&ctx, ETHERNET).ok_or(Verdict::Unreadable)?;
        let mut header = header::ipv6(&words, hook.frame.length())?;
        hook.forward(&ctx, &mut header, V6)
    };
    match decide() {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

/// What the link says of a frame. Only the check of a pod's source looks further into one that is the stack's.
#[inline(always)]
fn of_link(frame: Frame, check: Check) -> Result<Option<Verdict>, Verdict> {
    let mut stack = None;
    if let Some(vlan) = frame.vlan() {
        // A tag belongs to a VLAN device, which this interface is not; one of VLAN 0 is a priority, and the kernel
        // goes on as without it.
        if !check.is_on() || vlan != 0 {
            return Err(Verdict::NotIp);
        }
        stack = Some(Verdict::NotIp);
    }
    match frame.packet_type() {
        PACKET_HOST => Ok(stack),
        PACKET_OTHERHOST => Err(Verdict::NotForUs),
        _ if check.is_on() => Ok(Some(Verdict::NotForUs)),
        _ => Err(Verdict::NotForUs),
    }
}

/// What differs between the families once the header has been read.
trait Hopping<A>: Copy {
    const FAMILY: Family;
    const HEADER: usize;
    /// Of [`manx_abi::way_back`].
    const WAY_BACK: u8;
    /// A source that is nobody's, or of this link only.
    fn is_of_link(source: A) -> bool;
    fn hash(header: &Header<A>, seed: u32) -> u32;
    /// Writes the header as it is after this hop.
    fn hop(self, ctx: &TcContext, header: &Header<A>) -> Option<()>;
}

#[derive(Clone, Copy)]
struct V4 {
    checksum: [u8; 2],
}

impl Hopping<[u8; 4]> for V4 {
    const FAMILY: Family = Family::Inet;
    const HEADER: usize = header::IPV4;
    const WAY_BACK: u8 = way_back::IPV4;

    #[inline(always)]
    fn is_of_link(source: [u8; 4]) -> bool {
        // DHCP's first messages. The kernel takes such a source only for broadcast and for IGMP.
        source == [0; 4]
    }

    #[inline(always)]
    fn hash(header: &Header<[u8; 4]>, seed: u32) -> u32 {
        let (source, destination) =
            (u32::from_be_bytes(header.source), u32::from_be_bytes(header.destination));
        flow::hash4(source, destination, header.protocol, u32::from_be(header.ports), seed)
    }

    #[inline(always)]
    fn hop(self, ctx: &TcContext, header: &Header<[u8; 4]>) -> Option<()> {
        skb::write_ttl(ctx, header.hops - 1, self.checksum)
    }
}

#[derive(Clone, Copy)]
struct V6;

impl Hopping<Address6> for V6 {
    const FAMILY: Family = Family::Inet6;
    const HEADER: usize = header::IPV6;
    const WAY_BACK: u8 = way_back::IPV6;

    #[inline(always)]
    fn is_of_link(source: Address6) -> bool {
        neighbour::is_link_scope6(source)
    }

    #[inline(always)]
    fn hash(header: &Header<Address6>, seed: u32) -> u32 {
        let (source, destination) = (header::halves(header.source), header::halves(header.destination));
        flow::hash6(source, destination, header.protocol, u32::from_be(header.ports), seed)
    }

    #[inline(always)]
    fn hop(self, ctx: &TcContext, header: &Header<Address6>) -> Option<()> {
        skb::write_hop_limit(ctx, header.protocol, header.hops)
    }
}

impl Hook {
    #[inline(always)]
    fn new(
        is_pod: bool,
        ctx: &TcContext,
        port: Port,
        check: Check,
        stack: Option<Verdict>,
    ) -> Result<Hook, Verdict> {
        let switches = Switches::read().ok_or(Verdict::BadEntry)?;
        let pools = switches.pools().ok_or(Verdict::BadEntry)?;
        Ok(Hook { is_pod, frame: Frame::of(ctx), port, switches, pools, check, stack })
    }

    #[inline(always)]
    fn forward<A: Address + Addresses, H: Hopping<A>>(
        &self,
        ctx: &TcContext,
        header: &mut Header<A>,
        hopping: H,
    ) -> Result<Verdict, Verdict> {
        if self.check.is_on() && H::is_of_link(header.source) {
            return Err(Verdict::Scope);
        }
        let source = if self.is_pod && (self.check.is_on() || header.routable) {
            Some(source::pod(ctx, self.frame, self.switches, self.pools, header, self.check)?)
        } else {
            None
        };
        if let Some(verdict) = self.stack {
            return Err(verdict);
        }
        if !header.routable {
            return Err(Verdict::Scope);
        }
        let route = header.destination.find(self.switches, self.pools);
        self.refuse(ctx, header, &route)?;
        let source = match source {
            Some(source) => source,
            None => {
                let source = header.source.find(self.switches, self.pools);
                source::wire(&source)?;
                if self.port.wants_way_back(H::WAY_BACK) {
                    source::comes_the_way_back(&source, self.frame.ifindex)?;
                }
                source
            }
        };
        let mode = self.mode(source.pool, route.pool)?;
        if let Some(doubt) = header.doubt {
            return Err(doubt);
        }
        if route.word.is(Kind::Local) {
            self.carry_to_pod(ctx, header, hopping, mode, &route)
        } else {
            self.carry_to_group(ctx, header, hopping, mode, &route)
        }
    }

    /// What is not carried whatever the mode is.
    #[inline(always)]
    fn refuse<A: Address + Addresses>(
        &self,
        ctx: &TcContext,
        header: &Header<A>,
        route: &Answer,
    ) -> Result<(), Verdict> {
        let word = route.word;
        if word.is(Kind::Via) || word.is(Kind::Local) {
            return Ok(());
        }
        let (from, to) = (&header.source, &header.destination);
        Err(if let Some(verdict) = fib::blackhole(ctx, self.frame.ifindex, from, to, word, self.switches) {
            if verdict != Verdict::FibDisagrees {
                self.count_prefix(route);
            }
            verdict
        } else if word.is(Kind::NoRoute) {
            Verdict::NoRoute
        } else if word.is(Kind::Pass) {
            Verdict::RouteSaysPass
        } else if word.is(Kind::Unreachable) {
            // The kernel's to answer, and counted as what it is: a packet that goes no further.
            self.count_prefix(route);
            Verdict::Unreachable
        } else {
            Verdict::BadEntry
        })
    }

    /// The number of a [`Mode`] that lets the packet be carried, and how.
    #[inline(always)]
    fn mode(&self, from: u32, to: u32) -> Result<u32, Verdict> {
        let whole = self.switches.mode();
        if whole == Mode::Off as u32 {
            return Err(Verdict::FastPathOff);
        }
        let port = self.port.mode();
        if port == Mode::Off as u32 {
            return Err(Verdict::InterfaceOff);
        }
        if from == 0 || to == 0 {
            return Err(Verdict::OutsidePools);
        }
        let pools = min(self.switches.pool_mode(from), self.switches.pool_mode(to));
        if pools == Mode::Off as u32 {
            return Err(Verdict::PoolOff);
        }
        Ok(min(min(whole, port), pools))
    }

    /// While nobody keeps the maps nobody sees either that netfilter begins to track connections: what was carried
    /// without the guard is carried with it.
    #[inline(always)]
    fn guard<A: Address, H: Hopping<A>>(
        &self,
        ctx: &TcContext,
        header: &mut Header<A>,
        mode: u32,
        kept: bool,
    ) -> Result<(), Verdict> {
        // A mode that this ABI does not have is the guarded one too.
        if kept && mode == Mode::Unguarded as u32 {
            return Ok(());
        }
        if header.fragment {
            return Err(Verdict::NotGuarded);
        }
        guard::admits(ctx, self.switches, header, H::HEADER)
    }

    /// The last questions before a packet is carried out of an interface, and its header as it is after this hop.
    /// `is_right` asks the kernel's FIB, which has the last word on the way while nobody keeps the maps: a pod may have
    /// come, gone or moved, and so may a gateway.
    #[inline(always)]
    fn depart<A: Address + Addresses, H: Hopping<A>>(
        &self,
        ctx: &TcContext,
        header: &mut Header<A>,
        hopping: H,
        mode: u32,
        ifindex: u32,
        is_right: impl FnOnce(&Header<A>) -> bool,
    ) -> Result<(), Verdict> {
        let kept = self.switches.is_kept();
        if !kept && !is_right(header) {
            return Err(Verdict::FibDisagrees);
        }
        self.guard::<A, H>(ctx, header, mode, kept)?;
        room::fits(ctx, ifindex, self.frame.length())?;
        hopping.hop(ctx, header).ok_or(Verdict::Unreadable)
    }

    #[inline(always)]
    fn carry_to_pod<A: Address + Addresses, H: Hopping<A>>(
        &self,
        ctx: &TcContext,
        header: &mut Header<A>,
        hopping: H,
        mode: u32,
        route: &Answer,
    ) -> Result<Verdict, Verdict> {
        let pod = Pod::of(route.word.target()).ok_or(Verdict::BadEntry)?;
        let ifindex = pod.ifindex();
        if ifindex == 0 {
            return Err(Verdict::BadEntry);
        }
        if ifindex == self.frame.ifindex {
            return Err(Verdict::SameInterface);
        }
        let macs = pod.macs();
        // The first six octets are the pod's.
        if macs[0] == 0 && macs[1].to_ne_bytes()[..2] == [0; 2] {
            return Err(Verdict::NoMac);
        }
        let from = self.frame.ifindex;
        self.depart(ctx, header, hopping, mode, ifindex, |header| {
            fib::way(ctx.as_ptr(), from, &header.source, &header.destination) == Way::By(ifindex)
        })?;
        skb::write_macs(ctx, macs).ok_or(Verdict::Unreadable)?;
        self.count_prefix(route);
        // SAFETY: plain numbers; the helper notes the target and the kernel carries it out when the program has ended.
        redirected(Verdict::RedirectedPeer, unsafe { bpf_redirect_peer(ifindex, 0) })
    }

    #[inline(always)]
    fn carry_to_group<A: Address + Addresses, H: Hopping<A>>(
        &self,
        ctx: &TcContext,
        header: &mut Header<A>,
        hopping: H,
        mode: u32,
        route: &Answer,
    ) -> Result<Verdict, Verdict> {
        let group = maps::group(route.word.target()).ok_or(Verdict::BadEntry)?;
        let id = match group.target() {
            Ok(id) => id,
            Err(set) => {
                if !header.fragment && flow::has_ports(header.protocol) {
                    header.ports = skb::read(ctx, ETHERNET + H::HEADER).unwrap_or(0);
                }
                let hash = H::hash(header, self.switches.hash_seed());
                maps::bucket(set, flow::bucket(hash)).ok_or(Verdict::BadEntry)?
            }
        };
        let hop = maps::next_hop(id)?;
        let Hop { ifindex, family, gateway } = hop;
        if ifindex == self.frame.ifindex {
            // The stack tells the sender about the shorter way (ICMP redirect).
            return Err(Verdict::SameInterface);
        }
        // IPv4 over an IPv6 next hop is RFC 8950; the other way round nobody can send.
        if H::FAMILY as u32 != family && family == Family::Inet as u32 {
            return Err(Verdict::NextHopFamily);
        }
        let from = self.frame.ifindex;
        self.depart(ctx, header, hopping, mode, ifindex, |header| {
            fib::leads_to(ctx.as_ptr(), from, &header.source, &header.destination, &hop)
        })?;
        self.count_prefix(route);
        maps::count_hop(id, self.frame.packets(), u64::from(self.frame.length()));
        // SAFETY: a structure of numbers.
        let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
        params.nh_family = family;
        params.__bindgen_anon_1.ipv6_nh = gateway;
        // SAFETY: the structure lives on our stack and its size is given; the helper copies it.
        let action =
            unsafe { bpf_redirect_neigh(ifindex, &raw mut params, size_of::<bpf_redir_neigh>() as i32, 0) };
        redirected(Verdict::RedirectedNeigh, action)
    }

    #[inline(always)]
    fn count_prefix(&self, route: &Answer) {
        maps::count_prefix(route.counter(), self.frame.packets(), u64::from(self.frame.length()));
    }
}

#[inline(always)]
fn min(a: u32, b: u32) -> u32 {
    if a < b { a } else { b }
}

#[inline(always)]
fn redirected(verdict: Verdict, action: i64) -> Result<Verdict, Verdict> {
    // The helpers refuse nothing but wrong flags and sizes.
    if action != i64::from(TC_ACT_REDIRECT) {
        return Err(Verdict::Unreadable);
    }
    Ok(verdict)
}
