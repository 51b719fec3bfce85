//! Three places on one switch. Of two of Manx's peers the one whose address is the greater string dials: the middle
//! place dials the low one and waits for the high one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use manx_tests::{
    host::Host,
    lab::{Lab, UPLINK},
    peers::{Announced, Marks, Neighbour, Program, Side, Speaking, manx},
};

pub const POOLS: [&str; 2] = ["172.16.0.0/16", "fd00:172::/32"];
/// RFC 6996: an AS for private use that two octets do not hold.
pub const AS: u32 = 4_200_000_050;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: &'static str,
    number: u8,
}

pub const LOW: Place = Place { name: "low", number: 10 };
pub const MIDDLE: Place = Place { name: "middle", number: 50 };
/// Beyond the high place.
pub const FAR: Place = Place { name: "far", number: 99 };
pub const HIGH: Place = Place { name: "high", number: 90 };

impl Place {
    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, 80, self.number)
    }

    pub fn ipv6(self) -> Ipv6Addr {
        // The digits are the IPv4 address's, so that both compare alike as strings.
        format!("fd00:80::{}", self.number).parse().expect("two digits are a group of IPv6")
    }

    pub fn addresses(self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }

    pub fn blocks(self) -> [String; 2] {
        let number = self.number;
        [format!("172.16.{number}.0/26"), format!("fd00:172:0:{number}::/122")]
    }

    /// The blocks without their lengths.
    pub fn networks(self) -> [IpAddr; 2] {
        let number = self.number;
        let ipv6 = format!("fd00:172:0:{number}::").parse().expect("two digits are a group of IPv6");
        [Ipv4Addr::new(172, 16, number, 0).into(), ipv6]
    }

    /// An address in each of the blocks.
    pub fn pod_addresses(self) -> [IpAddr; 2] {
        let number = self.number;
        let ipv6 = format!("fd00:172:0:{number}::1").parse().expect("two digits are a group of IPv6");
        [Ipv4Addr::new(172, 16, number, 1).into(), ipv6]
    }

    /// An AS of its own.
    pub fn as_number(self) -> u32 {
        4_200_000_000 + u32::from(self.number)
    }

    /// What it attaches to its routes.
    pub fn marks(self) -> Marks {
        let number = self.number;
        Marks {
            plain: [format!("65001:{number}"), String::from("65002:7")].into(),
            extended: [format!("rt:65001:{number}")].into(),
            large: [format!("4200000007:{number}:1")].into(),
        }
    }

    pub fn host(self, lab: &mut Lab) -> Result<Host> {
        let host = lab.host(self.name, self.ipv4(), 24)?;
        host.sh(&format!("ip address add {}/64 dev {UPLINK} nodad", self.ipv6()))?;
        // Without a way to everywhere a host does not answer for its pods' gateway. Nobody is there.
        host.sh(&format!("ip route add default via 192.168.80.2 dev {UPLINK} proto static metric 100"))?;
        Ok(host)
    }

    pub fn node(self, cluster_id: Option<Ipv4Addr>) -> manx::Node {
        manx::Node {
            name: self.name.to_owned(),
            ipv4: (self.ipv4(), 24),
            ipv6: (self.ipv6(), 64),
            cluster_id,
            blocks: self.blocks().to_vec(),
        }
    }

    pub fn peers(self, as_number: u32) -> impl Iterator<Item = manx::BgpPeer> {
        self.addresses().into_iter().map(move |address| manx::BgpPeer { address, as_number, more: "" })
    }

    /// What a speaker in this place says to others in theirs, each with its AS.
    pub fn speaking(self, as_number: u32, others: &[(Place, u32)]) -> Speaking {
        let to = |(other, as_number): &(Place, u32)| {
            let ends = other.addresses().into_iter().zip(self.addresses());
            let as_number = *as_number;
            ends.map(move |(address, local)| Neighbour { address, as_number, local }).collect::<Vec<_>>()
        };
        let own = self.blocks().into_iter().zip(self.addresses());
        Speaking {
            router_id: self.ipv4(),
            as_number,
            cluster_id: None,
            side: Side::Both,
            two_octets: false,
            password: None,
            next_link_only: false,
            ipv4_by_ipv6: false,
            add_path: false,
            role: None,
            long_lived: None,
            neighbours: others.iter().flat_map(to).collect(),
            routes: own
                .map(|(prefix, next_hop)| Announced { prefix, next_hop, marks: self.marks() })
                .collect(),
        }
    }
}

pub type Other = &'static dyn Program;
