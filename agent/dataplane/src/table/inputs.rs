//! What the desired table is made from, apart from what the kernel says.

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
    /// The fast path is on for this pool: its addresses are marked `in_pool`.
    pub fast_path: bool,
}

/// What this node's plan says about routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub pools: Vec<Pool>,
    /// The blocks that this node owns: blackholes, in which the pods are holes. Blocks of one address are none.
    pub own_blocks: Vec<Prefix>,
}
