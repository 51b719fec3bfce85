//! How many addresses of pools and blocks are given out, and to whom, by what IPAM wrote down.

use std::net::IpAddr;

use manx_net::Prefix;
use manx_resources::{
    Snapshot,
    spec::{Allocation, IpamBlock},
};
use serde::Serialize;

/// A pool, or the blocks that lie in none.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolUse {
    /// None for blocks outside of all pools.
    pub pool: Option<String>,
    pub cidr: Option<Prefix>,
    /// Addresses; as many as an IPv6 pool has fit into no integer.
    pub total: f64,
    pub in_use: f64,
    /// That an IPReservation covers, in use or not.
    pub reserved: f64,
    /// Neither in use nor reserved.
    pub free: f64,
    pub blocks: Vec<BlockUse>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockUse {
    pub cidr: Prefix,
    pub affinity: Option<String>,
    pub total: f64,
    pub in_use: f64,
    pub reserved: f64,
    pub free: f64,
}

/// An address that a node has from a block of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Borrowed {
    pub ip: IpAddr,
    pub borrowing_node: String,
    pub block: Prefix,
    pub block_owner: String,
    #[serde(rename = "type")]
    pub of: String,
    pub allocated_to: String,
}

fn blocks(snapshot: &Snapshot) -> impl Iterator<Item = &IpamBlock> {
    snapshot.ipam_blocks().map(|object| &object.spec).filter(|block| !block.deleted)
}

fn addresses(cidr: Prefix) -> f64 {
    let bits: u8 = if cidr.is_v4() { 32 } else { 128 };
    2_f64.powi(i32::from(bits - cidr.len()))
}

/// Each block counts for the first pool that it overlaps, as in Calico.
pub fn pools(snapshot: &Snapshot) -> Vec<PoolUse> {
    let pool = |cidr: Prefix, name: &str| PoolUse {
        pool: Some(name.to_owned()),
        cidr: Some(cidr),
        total: addresses(cidr),
        in_use: 0.0,
        reserved: 0.0,
        free: 0.0,
        blocks: Vec::new(),
    };
    let reserved = reservations(snapshot);
    let mut pools: Vec<PoolUse> =
        snapshot.ip_pools().map(|object| pool(object.spec.cidr, object.name())).collect();
    let mut outside = PoolUse {
        pool: None,
        cidr: None,
        total: 0.0,
        in_use: 0.0,
        reserved: 0.0,
        free: 0.0,
        blocks: Vec::new(),
    };
    for block in blocks(snapshot) {
        let found = pools.iter_mut().find(|pool| pool.cidr.is_some_and(|cidr| cidr.overlaps(block.cidr)));
        let pool = found.unwrap_or(&mut outside);
        let (cidr, affinity, total) = (block.cidr, block.affinity.clone(), addresses(block.cidr));
        let (mut in_use, mut both) = (0.0, 0.0);
        for (ordinal, _) in (0_u32..).zip(&block.allocations).filter(|(_, place)| place.is_some()) {
            let ip = address(cidr, ordinal);
            in_use += 1.0;
            both += f64::from(u8::from(reserved.iter().any(|reserved| reserved.contains(ip))));
        }
        pool.in_use += in_use;
        // What is in use and reserved was taken away twice.
        pool.free += both;
        let reserved = within(&reserved, cidr);
        let free = total - in_use - reserved + both;
        pool.blocks.push(BlockUse { cidr, affinity, total, in_use, reserved, free });
    }
    outside.reserved = outside.blocks.iter().map(|block| block.reserved).sum();
    outside.total = outside.blocks.iter().map(|block| block.total).sum();
    pools.extend(Some(outside).filter(|outside| !outside.blocks.is_empty()));
    for pool in &mut pools {
        pool.blocks.sort_by_key(|block| block.cidr);
        pool.reserved = pool.cidr.map_or(pool.reserved, |cidr| within(&reserved, cidr));
        pool.free += pool.total - pool.in_use - pool.reserved;
    }
    pools
}

/// None of which lies in another.
fn reservations(snapshot: &Snapshot) -> Vec<Prefix> {
    let mut all: Vec<Prefix> =
        snapshot.ip_reservations().flat_map(|object| &object.spec.reserved).copied().collect();
    all.sort_by_key(|cidr| cidr.len());
    let mut largest: Vec<Prefix> = Vec::new();
    for cidr in all {
        if !largest.iter().any(|other| other.covers(cidr)) {
            largest.push(cidr);
        }
    }
    largest
}

/// How many addresses of a prefix they cover.
fn within(reserved: &[Prefix], cidr: Prefix) -> f64 {
    if reserved.iter().any(|reserved| reserved.covers(cidr)) {
        return addresses(cidr);
    }
    reserved.iter().filter(|reserved| cidr.covers(**reserved)).map(|reserved| addresses(*reserved)).sum()
}

/// Who has an address; none where it is not given out.
pub fn holder(snapshot: &Snapshot, ip: IpAddr) -> Option<&Allocation> {
    let block = blocks(snapshot).find(|block| block.cidr.contains(ip))?;
    let ordinal = usize::try_from(number(ip).checked_sub(number(block.cidr.addr()))?).ok()?;
    block.attributes.get((*block.allocations.get(ordinal)?)?)
}

/// The addresses that lie in other nodes' blocks, and how many say of no node that it has them.
pub fn borrowed(snapshot: &Snapshot) -> (Vec<Borrowed>, usize) {
    let (mut found, mut unknown) = (Vec::new(), 0);
    for block in blocks(snapshot) {
        let affinity = block.affinity.as_deref().unwrap_or_default();
        let block_owner = affinity.split_once(':').map_or(affinity, |(_, node)| node);
        for (ordinal, place) in (0_u32..).zip(&block.allocations) {
            let Some(who) = place.and_then(|place| block.attributes.get(place)) else { continue };
            let Some(node) = who.owner.get("node") else {
                unknown += 1;
                continue;
            };
            if node == block_owner {
                continue;
            }
            let attribute = |name: &str| who.owner.get(name).cloned().unwrap_or_default();
            let (of, name) = match (who.owner.get("vmi-name"), who.owner.get("pod")) {
                (Some(machine), _) => ("vmi".to_owned(), Some(machine)),
                (None, Some(pod)) => ("pod".to_owned(), Some(pod)),
                (None, None) => (attribute("type"), None),
            };
            found.push(Borrowed {
                ip: address(block.cidr, ordinal),
                borrowing_node: node.clone(),
                block: block.cidr,
                block_owner: block_owner.to_owned(),
                of,
                allocated_to: name
                    .map(|name| format!("{}/{name}", attribute("namespace")))
                    .unwrap_or_default(),
            });
        }
    }
    (found, unknown)
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

fn address(block: Prefix, ordinal: u32) -> IpAddr {
    match block.addr() {
        IpAddr::V4(ip) => IpAddr::V4(ip.to_bits().wrapping_add(ordinal).into()),
        IpAddr::V6(ip) => IpAddr::V6(ip.to_bits().wrapping_add(u128::from(ordinal)).into()),
    }
}
