//! What the programs decided, by reason. One counter for each verdict, interface and hook; the order is the layout
//! of a value in `COUNTERS`. Of several packets in one skb (GSO) each is counted.

/// The programs. An interface has one of the first two, and may have the third.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    /// TCX ingress on the host side of a pod's veth.
    PodTc = 0,
    /// TCX ingress on a host interface.
    UplinkTc = 1,
    /// XDP on a host interface whose driver runs it natively.
    UplinkXdp = 2,
}

impl Program {
    pub const ALL: [Program; 3] = [Program::PodTc, Program::UplinkTc, Program::UplinkXdp];

    /// Its place among the counters of its interface, which has one program on each hook.
    #[inline(always)]
    pub const fn hook(self) -> u32 {
        match self {
            Program::PodTc | Program::UplinkTc => 0,
            Program::UplinkXdp => 1,
        }
    }

    /// As the function is called in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Program::PodTc => "pod_tc",
            Program::UplinkTc => "uplink_tc",
            Program::UplinkXdp => "uplink_xdp",
        }
    }
}

/// Where a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    Redirected,
    Dropped,
    /// To the stack, or to the next program on the hook.
    Passed,
}

impl Disposition {
    /// As `manxctl dataplane counters` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Disposition::Redirected => "carried",
            Disposition::Dropped => "dropped",
            Disposition::Passed => "to the stack",
        }
    }
}

macro_rules! verdicts {
    ($(#[doc = $meaning:literal] $variant:ident $field:ident $disposition:ident,)+) => {
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Verdict {
            $(#[doc = $meaning] $variant,)+
        }

        /// Every verdict, in the order of [`Counts`].
        pub const VERDICTS: &[Verdict] = &[$(Verdict::$variant,)+];

        impl Verdict {
            pub const fn name(self) -> &'static str {
                match self {
                    $(Verdict::$variant => stringify!($field),)+
                }
            }

            /// What it means, in a sentence for whoever reads the counters.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Verdict::$variant => $meaning.trim_ascii(),)+
                }
            }

            pub const fn disposition(self) -> Disposition {
                match self {
                    $(Verdict::$variant => Disposition::$disposition,)+
                }
            }
        }

        /// Packets by verdict: one CPU's value of `COUNTERS` for one hook of an interface. Fields, not an array, because
        /// bpftool prints their names.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $(pub $field: u64,)+
        }

        impl Counts {
            pub const fn get(&self, verdict: Verdict) -> u64 {
                match verdict {
                    $(Verdict::$variant => self.$field,)+
                }
            }

            pub const fn get_mut(&mut self, verdict: Verdict) -> &mut u64 {
                match verdict {
                    $(Verdict::$variant => &mut self.$field,)+
                }
            }

            pub fn from_words(words: [u64; VERDICTS.len()]) -> Counts {
                let [$($field,)+] = words;
                Counts { $($field,)+ }
            }
        }
    };
}

verdicts! {
    /// Straight into a pod of this node.
    RedirectedPeer redirected_peer Redirected,
    /// Out of an interface, to a next hop.
    RedirectedNeigh redirected_neigh Redirected,
    /// To a block or pool of ours where no pod is, and the kernel's FIB agrees.
    BlackholeOwn blackhole_own Dropped,
    /// To a prefix that an operator or RFC 7999's community blackholes.
    BlackholeExplicit blackhole_explicit Dropped,
    /// From a pod, with a source that is not the pod's.
    Spoofed spoofed Dropped,
    /// From a pod: ARP or neighbour discovery for an address that is not the pod's, or as a router.
    ForgedNeighbour forged_neighbour Dropped,
    /// A header that no router forwards: version, lengths or IPv4 header checksum.
    Malformed malformed Dropped,
    /// ARP, a VLAN tag, anything but IPv4 and IPv6.
    NotIp not_ip Passed,
    /// Multicast, broadcast, or a frame for another MAC.
    NotForUs not_for_us Passed,
    /// The fast path is switched off on this node.
    FastPathOff fast_path_off Passed,
    /// It is switched off on the interface.
    InterfaceOff interface_off Passed,
    /// It is switched off for the source's pool or the destination's.
    PoolOff pool_off Passed,
    /// The interface has the program but no entry among `INTERFACES`.
    InterfaceUnknown interface_unknown Passed,
    /// Link-local, loopback or unspecified: neighbour discovery, DHCP, and what no router forwards.
    Scope scope Passed,
    /// No route in the map, or outside the pools none that would change anything.
    NoRoute no_route Passed,
    /// XDP drops nothing else than blackholes: on to TC and the stack.
    NotBlackholed not_blackholed Passed,
    /// The map says that the kernel knows better.
    RouteSaysPass route_says_pass Passed,
    /// The stack answers with an ICMP error.
    Unreachable unreachable Passed,
    /// Source or destination lies in no pool.
    OutsidePools outside_pools Passed,
    /// TTL or hop limit would run out.
    TtlExpiring ttl_expiring Passed,
    /// IPv4 options.
    Options options Passed,
    /// IPv6 extension headers.
    ExtensionHeaders extension_headers Passed,
    /// Larger than the egress interface's MTU.
    TooBig too_big Passed,
    /// A block of ours, but the kernel's FIB knows a way; or no agent keeps the maps, and the FIB says otherwise.
    FibDisagrees fib_disagrees Passed,
    /// A source that the map does not give to this pod, but the kernel's FIB does.
    SourceUnknown source_unknown Passed,
    /// From the wire, with the source of a pod or block of this node.
    SourceIsLocal source_is_local Passed,
    /// The way back to its source leads by another interface, and the interface wants it to lead by itself (rp_filter).
    SourceElsewhere source_elsewhere Passed,
    /// It would leave by the interface that it came from.
    SameInterface same_interface Passed,
    /// The pod's MAC is not known yet.
    NoMac no_mac Passed,
    /// The egress interface is gone.
    InterfaceGone interface_gone Passed,
    /// The next hop does not answer to ARP or neighbour discovery: the stack asks on, and tells the sender.
    NextHopSilent next_hop_silent Passed,
    /// The packet's family cannot be sent to the next hop's.
    NextHopFamily next_hop_family Passed,
    /// Not to be read or changed where it lies in memory; a length that only GSO has.
    Unreadable unreadable Passed,
    /// Guarded: ICMP, a fragment, or a protocol that is neither TCP nor UDP.
    NotGuarded not_guarded Passed,
    /// Guarded: a TCP segment with SYN, FIN or RST.
    TcpControl tcp_control Passed,
    /// Guarded: conntrack does not know the flow.
    Untracked untracked Passed,
    /// Guarded: conntrack has not seen both directions of the flow, or does not hold it yet or any more.
    Unconfirmed unconfirmed Passed,
    /// Guarded: the flow is translated, or a helper reads along.
    Translated translated Passed,
    /// Guarded: its time runs low, the stack renews it.
    KeepAlive keep_alive Passed,
    /// Guarded: this kernel cannot be asked for a flow.
    NoGuard no_guard Passed,
    /// Guarded: conntrack refuses the question itself.
    ConntrackRefuses conntrack_refuses Passed,
    /// A map value that this program does not understand.
    BadEntry bad_entry Passed,
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_verdicts_number_is_its_place_among_the_counters() {
        for (place, verdict) in VERDICTS.iter().enumerate() {
            assert_eq!(*verdict as usize, place);
            let mut words = [0; VERDICTS.len()];
            words[place] = 5;
            assert_eq!(Counts::from_words(words).get(*verdict), 5, "{}", verdict.name());
        }
        assert_eq!(size_of::<Counts>(), 8 * VERDICTS.len());
    }

    #[test]
    fn every_verdict_has_a_sentence() {
        for verdict in VERDICTS {
            let meaning = verdict.meaning();
            assert!(meaning.len() > 10 && meaning.ends_with('.') && !meaning.starts_with(' '), "{meaning}");
        }
    }

    #[test]
    fn names_are_distinct() {
        let names: BTreeSet<_> = VERDICTS.iter().map(|v| v.name()).collect();
        assert_eq!(names.len(), VERDICTS.len());
    }
}
