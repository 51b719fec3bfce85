//! Which pools are blackholes where no block covers them, and what never is one: addresses that are not pods', and those
//! that the node itself must reach.

use std::net::IpAddr;

use manx_net::Prefix;

use super::{NodePlan, PoolPlan, PoolWrite, Warning, cluster::Cluster};
use crate::{Key, Kind, spec::AllowedUse};

/// Why a pool is no blackhole though its annotation asks for it. Prints as the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum WhyForwarded {
    #[error("the pool is disabled, and may stand for addresses that are not pods'")]
    Disabled,
    #[error("its allowedUses have no Workload, so its addresses are not pods'")]
    NotForPods,
    #[error("it is encapsulated, and routes to its blocks may be there that Manx does not write")]
    Encapsulated,
    #[error("it is one address, whose place belongs to the pod's own route")]
    OneAddress,
    #[error(
        "the service prefix {0} overlaps it, and the kernel would drop packets to services before netfilter translates \
         them"
    )]
    Service(Prefix),
    #[error("{0} lies in it, the address of a node or of a peer, which this node would cut itself off from")]
    Peer(IpAddr),
    #[error("{0} lies in it, a range of peers, which this node would cut itself off from")]
    Range(Prefix),
}

/// What the cluster says are prefixes of services, and pools that are for load balancers.
pub(super) fn services(cluster: &Cluster<'_>) -> Vec<Prefix> {
    let default = cluster.snapshot.bgp_configuration("default");
    let announced = default.iter().flat_map(|object| object.spec.services.all());
    let pools = cluster.snapshot.ip_pools();
    let balanced = pools.filter(|pool| pool.spec.allowed_uses.contains(&AllowedUse::LoadBalancer));
    let mut services: Vec<Prefix> = announced.chain(balanced.map(|pool| pool.spec.cidr)).collect();
    services.sort();
    services.dedup();
    services
}

/// Lets `unallocated_blocks` stand only where nothing else speaks against it, and says what does.
pub(super) fn decide(cluster: &Cluster<'_>, plan: &mut NodePlan, found: &mut Vec<Warning>) {
    let mut refused = Vec::new();
    for (index, pool) in plan.pools.iter().enumerate() {
        if pool.unallocated_blocks.is_some()
            && let Some(why) = why_forwarded(cluster, plan, pool)
        {
            refused.push((index, why));
        }
    }
    for (index, why) in refused {
        #[expect(clippy::indexing_slicing, reason = "one of the indices of `enumerate` above")]
        let pool = &mut plan.pools[index];
        pool.unallocated_blocks = None;
        let resource = Key::new(Kind::IpPool, &*pool.name);
        found.push(Warning::UnallocatedForwarded { resource, cidr: pool.cidr, why });
    }
    for block in &plan.blocks {
        if let Some(service) = plan.services.iter().find(|service| service.overlaps(*block)) {
            found.push(Warning::ServiceInBlock { block: *block, service: *service });
        }
    }
}

fn why_forwarded(cluster: &Cluster<'_>, plan: &NodePlan, pool: &PoolPlan) -> Option<WhyForwarded> {
    if pool.disabled {
        return Some(WhyForwarded::Disabled);
    }
    if !pool.allowed_uses.contains(&AllowedUse::Workload) {
        return Some(WhyForwarded::NotForPods);
    }
    if pool.write != PoolWrite::Always {
        return Some(WhyForwarded::Encapsulated);
    }
    if pool.cidr.is_host() {
        return Some(WhyForwarded::OneAddress);
    }
    if let Some(service) = plan.services.iter().find(|service| service.overlaps(pool.cidr)) {
        return Some(WhyForwarded::Service(*service));
    }
    let peer = plan.peers_from(pool.cidr.addr()).next().map(|peer| peer.address);
    let peer = peer.filter(|address| pool.cidr.contains(*address));
    if let Some(address) = cluster.index.address_in(pool.cidr).or(peer) {
        return Some(WhyForwarded::Peer(address));
    }
    let mut ranges = plan.ranges.iter().map(|range| range.range);
    ranges.find(|range| range.overlaps(pool.cidr)).map(WhyForwarded::Range)
}
