//! The kernel's objects as the rest of this crate sees them: links, routes and neighbours, without netlink's
//! attribute lists.

use std::net::IpAddr;

use manx_net::Prefix;
use serde::Serialize;

use crate::route::Mac;

/// What a link is to this node, by its name and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// Matches the uplink pattern, and belongs to no other device.
    Uplink,
    /// The host side of a pod's veth (`cali…`).
    Pod,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// Absent on links that are not Ethernet.
    pub mac: Option<Mac>,
    pub mtu: u32,
    /// Administratively up and with carrier: what is sent here leaves.
    pub up: bool,
    /// Administratively up. Losing this costs the link its routes, losing the carrier does not.
    pub admin_up: bool,
    /// `veth`, `bridge`, …; absent on physical devices.
    pub kind: Option<String>,
    /// The bridge or bond to which this link belongs.
    pub master: Option<u32>,
    pub role: Role,
}

/// The kernel's route types that mean something here (`RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteKind {
    Unicast,
    Local,
    /// Broadcast, anycast and multicast: never forwarded by a unicast next hop.
    NotUnicast,
    Blackhole,
    Unreachable,
    Prohibit,
    Throw,
    Other(u8),
}

/// One leg of a kernel route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Leg {
    /// Absent: the destination itself is a neighbour on the interface.
    pub gateway: Option<IpAddr>,
    /// 0 on routes without an interface (an IPv4 blackhole).
    pub ifindex: u32,
    /// `RTNH_F_ONLINK`: the gateway is taken to be a neighbour whatever the addresses say.
    pub onlink: bool,
}

/// What makes a route one of its kind to NLM_F_REPLACE and NLM_F_EXCL: not its protocol, not its next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    pub prefix: Prefix,
    pub table: u32,
    /// DSCP bits; always 0 in IPv6.
    pub tos: u8,
    /// 0 is the most preferred; IPv6 routes without a metric get 1024 from the kernel.
    pub metric: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelRoute {
    pub key: RouteKey,
    /// `RTPROT_*`: who wrote it.
    pub protocol: u8,
    pub kind: RouteKind,
    pub legs: Vec<Leg>,
    /// It has what only the stack heeds when it forwards: an MTU of its own, or a tunnel (`encap`).
    pub special: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub mac: Option<Mac>,
    /// In a state in which the kernel uses the address (`NUD_VALID`).
    pub valid: bool,
    /// It has not answered: `NUD_FAILED`, and what follows when it is asked again, until it does.
    pub failed: bool,
}

impl Neighbour {
    /// As it is now, after `before`. The kernel says nothing when it asks a failed one again.
    pub(super) fn after(self, before: Option<&Neighbour>) -> Neighbour {
        let failed = self.failed || (!self.valid && before.is_some_and(|before| before.failed));
        Neighbour { failed, ..self }
    }
}
