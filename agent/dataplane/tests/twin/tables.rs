//! Route tables: what every one of them has, and what chance puts beside it. Each is written into both kernels'
//! FIBs and, as the desired table has it, into the maps of the one.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use manx_dataplane::route::{Action, BlackholeKind, Mac, NextHop, Route};
use manx_net::Prefix;

use crate::{
    model::{
        BORROWED, DEFAULT, GATEWAYS, Gateway, INTERFACES, KNOWN, LENT, LINK_LOCAL, NODE, OWN, PODS, TUNNEL,
        UNHEARD, in_pool, on_wire,
    },
    random::Random,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    Via(Vec<Gateway>),
    Blackhole(BlackholeKind),
    Unreachable,
    /// A pod behind the interface of this number.
    Pod(usize),
    /// A pod of which the agent has not heard.
    Unheard(usize),
    /// A route of somebody else's, which the agent leaves to the kernel.
    Foreign(Gateway),
    /// An address of the host.
    Host,
}

#[derive(Clone, Debug, Default)]
pub struct Table {
    pub entries: BTreeMap<Prefix, Way>,
}

/// Where the kernel sends packets for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lead {
    /// Out of these interfaces.
    Out(Vec<usize>),
    Nowhere,
    Host,
}

impl Table {
    pub fn random(random: &mut Random) -> Table {
        let mut table = Table::plain();
        for v4 in [true, false] {
            for _ in 0..random.below(60) {
                table.chance(random, v4);
            }
        }
        table
    }

    /// Without anything by chance.
    pub fn plain() -> Table {
        let mut table = Table::default();
        table.usual(true);
        table.usual(false);
        table
    }

    /// What a node has: its block with its pods, blocks of others, and the irregular ones of each kind.
    fn usual(&mut self, v4: bool) {
        let (host, block) = if v4 { (32, 26) } else { (128, 122) };
        let mut put = |number, last, length, way| {
            let prefix = Prefix::new(in_pool(number, last, v4), length).expect("no host bits");
            self.entries.insert(prefix, way);
        };
        put(OWN, 192, block, Way::Blackhole(BlackholeKind::Own));
        for (interface, last) in PODS {
            put(OWN, last, host, Way::Pod(interface));
        }
        put(OWN, UNHEARD, host, Way::Unheard(1));
        put(OWN, LENT, host, Way::Via(vec![GATEWAYS[2]]));
        put(OWN, TUNNEL, host, Way::Host);
        put(KNOWN, 0, block, Way::Via(vec![GATEWAYS[0]]));
        put(KNOWN, 64, block, Way::Via(vec![GATEWAYS[2]]));
        put(KNOWN, 128, block, Way::Via(vec![GATEWAYS[4]]));
        put(KNOWN, 192, block, Way::Via(vec![GATEWAYS[1], GATEWAYS[3]]));
        put(KNOWN, BORROWED, host, Way::Pod(1));
    }

    fn chance(&mut self, random: &mut Random, v4: bool) {
        let (host, block) = if v4 { (32, 26) } else { (128, 122) };
        let length = match random.below(20) {
            0..10 => block,
            10..14 => host,
            14..16 => block + 1 + random.below(5) as u8,
            16..19 => block - 1 - random.below(8) as u8,
            // The pool itself.
            _ => {
                if v4 {
                    16
                } else {
                    48
                }
            }
        };
        let address = if length <= block || random.percent(50) {
            anywhere(random, v4)
        } else {
            // Inside of something that is there.
            self.address(random, v4)
        };
        let Some(prefix) = masked(address, length) else { return };
        let untouched = [KNOWN, OWN].map(|number| {
            let length = if v4 { 24 } else { 64 };
            masked(in_pool(number, 0, v4), length).expect("no longer than the address")
        });
        if untouched.iter().any(|block| block.covers(prefix)) {
            return;
        }
        let way = match random.below(100) {
            0..45 => Way::Via(vec![*random.of(&GATEWAYS)]),
            45..60 => {
                let (first, second) = (random.below(6), 1 + random.below(5));
                let mut hops = vec![GATEWAYS[first], GATEWAYS[(first + second) % 6]];
                hops.sort_unstable();
                Way::Via(hops)
            }
            60..72 => Way::Blackhole(BlackholeKind::Explicit),
            72..80 => Way::Blackhole(BlackholeKind::Own),
            80..88 => Way::Unreachable,
            _ => Way::Foreign(*random.of(&GATEWAYS)),
        };
        self.entries.insert(prefix, way);
    }

    /// An address that some entry has, at one of its ends or anywhere in it.
    pub fn address(&self, random: &mut Random, v4: bool) -> IpAddr {
        let of_family: Vec<Prefix> =
            self.entries.keys().copied().filter(|prefix| prefix.is_v4() == v4).collect();
        let prefix = *random.of(&of_family);
        let inside = match random.below(6) {
            0 => 0,
            1 => u128::MAX,
            2 => 1,
            _ => u128::from(random.word()) << 64 | u128::from(random.word()),
        };
        match prefix.addr() {
            IpAddr::V4(base) => {
                let mask = u32::MAX.checked_shr(prefix.len().into()).unwrap_or(0);
                Ipv4Addr::from_bits(base.to_bits() | inside as u32 & mask).into()
            }
            IpAddr::V6(base) => {
                let mask = u128::MAX.checked_shr(prefix.len().into()).unwrap_or(0);
                Ipv6Addr::from_bits(base.to_bits() | inside & mask).into()
            }
        }
    }

    /// The entry that answers for an address.
    pub fn entry(&self, address: IpAddr) -> Option<(Prefix, &Way)> {
        let holds = self.entries.iter().filter(|(prefix, _)| prefix.contains(address));
        holds.max_by_key(|(prefix, _)| prefix.len()).map(|(prefix, way)| (*prefix, way))
    }

    /// What the kernel does with packets for this address.
    pub fn lead(&self, address: IpAddr) -> Lead {
        let own = INTERFACES.iter().filter(|interface| !interface.is_pod());
        if own.into_iter().any(|interface| on_wire(interface.subnet, NODE, address.is_ipv4()) == address) {
            return Lead::Host;
        }
        match self.entry(address) {
            Some((_, Way::Via(hops))) => Lead::Out(hops.iter().map(|hop| hop.interface).collect()),
            Some((_, Way::Foreign(hop))) => Lead::Out(vec![hop.interface]),
            Some((_, Way::Pod(interface) | Way::Unheard(interface))) => Lead::Out(vec![*interface]),
            Some((_, Way::Blackhole(_) | Way::Unreachable)) => Lead::Nowhere,
            Some((_, Way::Host)) => Lead::Host,
            None => Lead::Out(vec![self.wire(address).unwrap_or(DEFAULT.interface)]),
        }
    }

    /// The wire on whose subnet the address is.
    fn wire(&self, address: IpAddr) -> Option<usize> {
        INTERFACES.iter().position(|interface| {
            let length = if address.is_ipv4() { 24 } else { 64 };
            !interface.is_pod()
                && masked(on_wire(interface.subnet, 0, address.is_ipv4()), length)
                    .is_some_and(|subnet| subnet.contains(address))
        })
    }

    /// On the subnet of a wire, where only routers and this node are.
    pub fn is_nobody_on_a_wire(&self, address: IpAddr) -> bool {
        let v4 = address.is_ipv4();
        if let IpAddr::V6(address) = address
            && address.is_unicast_link_local()
        {
            return !LINK_LOCAL.contains(&address);
        }
        let Some(interface) = self.wire(address) else { return false };
        let subnet = INTERFACES[interface].subnet;
        let routers = GATEWAYS.into_iter().chain([DEFAULT]).map(|gateway| gateway.address(v4));
        // The broadcast address, and the anycast address of the subnet's routers.
        let last = if v4 { 255 } else { 0 };
        let others = [NODE, last].map(|number| on_wire(subnet, number, v4));
        self.entry(address).is_none() && routers.chain(others).all(|known| known != address)
    }

    /// Lines for `ip -batch`, with `add` or `del`.
    pub fn commands(&self, verb: &str) -> String {
        let mut lines = String::new();
        for (prefix, way) in &self.entries {
            let family = if prefix.is_v4() { "-4" } else { "-6" };
            let v4 = prefix.is_v4();
            let hop =
                |hop: &Gateway| format!("via {} dev {}", hop.address(v4), INTERFACES[hop.interface].name);
            let rest = match way {
                Way::Via(hops) if hops.len() == 1 => hop(&hops[0]),
                Way::Via(hops) => hops.iter().map(|one| format!("nexthop {} ", hop(one))).collect(),
                Way::Foreign(one) => hop(one),
                Way::Pod(interface) | Way::Unheard(interface) => {
                    format!("dev {}", INTERFACES[*interface].name)
                }
                Way::Blackhole(_) | Way::Unreachable => String::new(),
                // It is there as long as the node.
                Way::Host => continue,
            };
            let kind = match way {
                Way::Blackhole(_) => "blackhole ",
                Way::Unreachable => "unreachable ",
                _ => "",
            };
            writeln!(lines, "{family} route {verb} {kind}{prefix} {rest}").expect("a string takes it");
        }
        lines
    }

    /// As the desired table has it. `ifindex` by the interface's number.
    pub fn routes(&self, ifindex: &[u32]) -> Vec<Route> {
        let route = |(prefix, way): (&Prefix, &Way)| {
            let action = match way {
                Way::Via(hops) => {
                    let hop = |hop: &Gateway| NextHop {
                        gateway: hop.address(prefix.is_v4()),
                        ifindex: ifindex[hop.interface],
                    };
                    let mut hops: Vec<NextHop> = hops.iter().map(hop).collect();
                    hops.sort_unstable();
                    Action::Via(hops)
                }
                Way::Blackhole(kind) => Action::Blackhole(*kind),
                Way::Unreachable => Action::Unreachable,
                Way::Pod(interface) => Action::Local {
                    ifindex: ifindex[*interface],
                    mac: Some(Mac(INTERFACES[*interface].far_mac)),
                },
                Way::Foreign(_) | Way::Host => Action::Pass,
                Way::Unheard(_) => return None,
            };
            Some(Route { prefix: *prefix, action })
        };
        self.entries.iter().filter_map(route).collect()
    }
}

fn anywhere(random: &mut Random, v4: bool) -> IpAddr {
    let (second, third, last) = (random.percent(50), random.byte(), random.byte());
    if v4 {
        let (first, second) = *random.of(&[(172, 16), (172, 16), (10, 48), (10, 9), (203, 0)]);
        Ipv4Addr::new(first, second, third, last).into()
    } else {
        let second = if second { 0x16 } else { *random.of(&[0x48, 9]) };
        Ipv6Addr::new(0xfd10, second, 0, third.into(), 0, 0, 0, last.into()).into()
    }
}

fn masked(address: IpAddr, length: u8) -> Option<Prefix> {
    let prefix = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::from(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::from(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    };
    Prefix::new(prefix, length)
}
