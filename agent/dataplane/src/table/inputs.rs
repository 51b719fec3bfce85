//! What the desired table is made from, apart from what the kernel says.

use std::{collections::BTreeMap, net::IpAddr};

use manx_net::Prefix;

/// When a pool's routes may be written (`ipipMode` and `vxlanMode`: Never, CrossSubnet, Always). This node does
/// not encapsulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolWrite {
    Always,
    /// Only where the next hop is a neighbour: beyond a router the packets would need encapsulation.
    OnLinkOnly,
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The resource's name, for reports.
    pub name: String,
    pub prefix: Prefix,
    pub write: PoolWrite,
    /// The map has its prefix, as `Pass`, also where no block covers: its addresses are pods'.
    pub fast_path: bool,
}

/// What the sender of a packet to a blackhole hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Reply {
    /// Nothing.
    #[default]
    Drop,
    /// ICMP destination unreachable, from the kernel.
    Unreachable,
}

/// A prefix of which no packet leaves this node but by a longer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blackhole {
    pub prefix: Prefix,
    pub reply: Reply,
}

/// One that says nothing.
impl From<Prefix> for Blackhole {
    fn from(prefix: Prefix) -> Blackhole {
        Blackhole { prefix, reply: Reply::Drop }
    }
}

/// What this node's plan says about routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub pools: Vec<Pool>,
    /// The blocks that this node owns: blackholes, in which the pods are holes. Blocks of one address are none.
    pub own_blocks: Vec<Blackhole>,
    /// Pools that are blackholes where nothing more specific is known, as soon as all has been learned. Neither these
    /// hold anything but pods' addresses, nor are they of one address.
    pub closed_pools: Vec<Blackhole>,
    /// Prefixes of services and load balancers. Programs act before netfilter translates, so what overlaps one of these
    /// is no blackhole.
    pub services: Vec<Prefix>,
    /// Addresses of peers that are reached by a router on a link of this node, with that router. Routes to these and no
    /// more: the map has none, for no pod is there.
    pub routers: BTreeMap<IpAddr, IpAddr>,
}
