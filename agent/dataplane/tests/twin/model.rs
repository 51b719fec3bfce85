//! Who is who in the lab: the node's interfaces, the pods and routers at their far ends, and what the addresses mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

#[derive(Debug)]
pub struct Interface {
    pub name: &'static str,
    /// The node's, and the far end's.
    pub mac: Mac,
    pub far_mac: Mac,
    pub mtu: usize,
    /// Third octet of the subnet on the wire; 0 for a pod's interface.
    pub subnet: u8,
}

impl Interface {
    pub fn is_pod(&self) -> bool {
        self.subnet == 0
    }
}

const fn pod(name: &'static str, number: u8, mtu: usize) -> Interface {
    let (mac, far_mac) = ([0xee, 0, 0, 0, 0, number], [0x0a, 0, 0, 0, 0, number]);
    Interface { name, mac, far_mac, mtu, subnet: 0 }
}

const fn uplink(name: &'static str, subnet: u8, mtu: usize) -> Interface {
    let (mac, far_mac) = ([0x02, 0, 0, 0, 1, subnet], [0x02, 0, 0, 0, 2, subnet]);
    Interface { name, mac, far_mac, mtu, subnet }
}

pub const INTERFACES: [Interface; 6] = [
    pod("cali1", 1, 1500),
    pod("cali2", 2, 1500),
    pod("cali3", 3, 1280),
    uplink("ens33", 80, 1500),
    uplink("ens34", 81, 1400),
    uplink("ens35", 82, 9000),
];

/// Far ends take more than any interface of the node, so that too large a frame reaches it.
pub const FAR_MTU: usize = 9100;

/// A router at the far end of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gateway {
    pub interface: usize,
    pub number: u8,
}

pub const GATEWAYS: [Gateway; 6] = [
    Gateway { interface: 3, number: 125 },
    Gateway { interface: 3, number: 126 },
    Gateway { interface: 4, number: 125 },
    Gateway { interface: 4, number: 126 },
    Gateway { interface: 5, number: 125 },
    Gateway { interface: 5, number: 126 },
];

/// Where the default route leads.
pub const DEFAULT: Gateway = Gateway { interface: 3, number: 1 };

/// The node's own number on each wire.
pub const NODE: u8 = 124;

impl Gateway {
    pub fn address(self, v4: bool) -> IpAddr {
        on_wire(INTERFACES[self.interface].subnet, self.number, v4)
    }

    pub fn mac(self) -> Mac {
        [0x02, 0, 0, 0, INTERFACES[self.interface].subnet, self.number]
    }
}

/// `192.168.SUBNET.NUMBER`, `fd00:SUBNET::NUMBER`.
pub fn on_wire(subnet: u8, number: u8, v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::new(192, 168, subnet, number).into()
    } else {
        Ipv6Addr::new(0xfd00, subnet.into(), 0, 0, 0, 0, 0, number.into()).into()
    }
}

/// An address of the first pool by its block's number and its own in it.
pub fn in_pool(block: u8, number: u8, v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::new(172, 16, block, number).into()
    } else {
        Ipv6Addr::new(0xfd10, 0x16, 0, block.into(), 0, 0, 0, number.into()).into()
    }
}

/// Pools with the length of their blocks.
pub const POOLS: [(&str, u8); 4] =
    [("172.16.0.0/16", 26), ("10.48.0.0/16", 26), ("fd10:16::/48", 122), ("fd10:48::/48", 122)];

/// The node's own block is 192 to 255 of this number.
pub const OWN: u8 = 36;
/// Blocks of other nodes that every table has, and that nothing random is put into.
pub const KNOWN: u8 = 250;
/// Numbers in the own block, by interface.
pub const PODS: [(usize, u8); 4] = [(0, 193), (0, 198), (1, 194), (2, 195)];
/// A pod behind `cali2` of which only the kernel has heard.
pub const UNHEARD: u8 = 200;
/// An address of the own block that lives on another node.
pub const LENT: u8 = 210;
/// The host's own address in its block, as a tunnel has it.
pub const TUNNEL: u8 = 255;
/// In a block of another node, behind `cali2`.
pub const BORROWED: u8 = 9;

/// What no router forwards for or to: "this network", loopback, multicast, class E; and their like in IPv6.
pub fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => {
            let in_first_block = address.segments()[..4] == [0; 4];
            !address.is_multicast() && !address.is_unicast_link_local() && !in_first_block
        }
    }
}

pub fn text(mac: Mac) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Whom every wire and every pod has.
pub const LINK_LOCAL: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xecff, 0xfe00, 0x77)];
