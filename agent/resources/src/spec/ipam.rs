//! What Calico's IPAM and its installation say of themselves. No plan depends on them; the tool shows them.

use std::collections::BTreeMap;

use manx_net::Prefix;

/// `IPAMBlock`: which addresses of a block are given out, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpamBlock {
    pub cidr: Prefix,
    /// `host:NODE` or `virtual:NAME`; none for a block that nobody owns.
    pub affinity: Option<String>,
    /// Of each address in order the place among `attributes`; none where it is free.
    pub allocations: Vec<Option<usize>>,
    pub attributes: Vec<Allocation>,
    pub deleted: bool,
}

/// Who has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    pub handle: Option<String>,
    /// `node`, `namespace`, `pod`, `type`, …
    pub owner: BTreeMap<String, String>,
    /// Who has it next, while a virtual machine moves.
    pub alternate: BTreeMap<String, String>,
}

/// `ClusterInformation`: one object, named `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterInformation {
    pub guid: Option<String>,
    pub cluster_type: Option<String>,
    /// Such as `v3.30.1`.
    pub calico_version: Option<String>,
    pub datastore_ready: Option<bool>,
}

/// `IPReservation`: addresses that IPAM gives to nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpReservation {
    pub reserved: Vec<Prefix>,
}

/// `IPAMConfiguration`: one object, named `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpamConfiguration {
    /// A node takes addresses from its own blocks only.
    pub strict_affinity: bool,
    /// A node that needs addresses takes another block.
    pub auto_allocate_blocks: bool,
    /// 0: as many as there are.
    pub max_blocks_per_host: u32,
}

impl Default for IpamConfiguration {
    fn default() -> IpamConfiguration {
        IpamConfiguration { strict_affinity: false, auto_allocate_blocks: true, max_blocks_per_host: 0 }
    }
}
