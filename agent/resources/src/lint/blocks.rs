//! Pools, and the blocks that nodes have of them.

use std::collections::{BTreeMap, BTreeSet};

use manx_net::Prefix;

use super::{Findings, Rule, default_configuration, list};
use crate::{
    Key, Kind, Object, PoolWrite, Snapshot,
    plan::{Cluster, is_owned},
    spec::{AllowedUse, IpPool},
};

pub(super) fn pools(snapshot: &Snapshot, found: &mut Findings) {
    let mut pools: Vec<&Object<IpPool>> = snapshot.ip_pools().collect();
    pools.sort_by_key(|pool| pool.spec.cidr);
    let key = |pool: &Object<IpPool>| Key::new(Kind::IpPool, pool.name());
    let mut widest: Option<&Object<IpPool>> = None;
    for pool in &pools {
        match widest {
            Some(wide) if wide.spec.cidr.overlaps(pool.spec.cidr) => found.error(
                Rule::PoolsOverlap,
                vec![key(pool), key(wide)],
                Vec::new(),
                format!(
                    "{} and {} overlap: an address in both may be given to two pods",
                    pool.spec.cidr, wide.spec.cidr
                ),
                "give each pool prefixes of its own; Calico refuses to create the second".to_owned(),
            ),
            _ => widest = Some(pool),
        }
        match PoolWrite::of(pool.spec.ipip_mode, pool.spec.vxlan_mode) {
            PoolWrite::Always => {}
            PoolWrite::OnLinkOnly => found.warn(
                Rule::Encapsulated,
                vec![key(pool)],
                Vec::new(),
                "it is encapsulated across subnets, and Manx does not encapsulate: routes to nodes of other subnets are not \
                 written"
                    .to_owned(),
                "set ipipMode: Never and vxlanMode: Never where the network between the nodes knows the pods' blocks".to_owned(),
            ),
            PoolWrite::Never => found.error(
                Rule::Encapsulated,
                vec![key(pool)],
                Vec::new(),
                "it is encapsulated, and Manx does not encapsulate: none of its routes is written".to_owned(),
                "set ipipMode: Never and vxlanMode: Never where the network between the nodes knows the pods' blocks".to_owned(),
            ),
        }
    }
    let default = snapshot.bgp_configuration("default");
    let services: Vec<Prefix> = default.into_iter().flat_map(|object| object.spec.services.all()).collect();
    for service in services {
        let is_for_pods = |pool: &&&Object<IpPool>| {
            pool.spec.allowed_uses.contains(&AllowedUse::Workload) && service.overlaps(pool.spec.cidr)
        };
        for pool in pools.iter().filter(is_for_pods) {
            found.warn(
                Rule::ServiceInPool,
                vec![default_configuration(), key(pool)],
                Vec::new(),
                format!(
                    "the service prefix {service} overlaps the pods' {}: a pod and a service may get one address",
                    pool.spec.cidr
                ),
                "give pods and services prefixes of their own".to_owned(),
            );
        }
    }
}

/// Affinities, and the nodes that they are of.
type Claims<'s> = (Vec<Key>, BTreeSet<&'s str>);

pub(super) fn blocks(cluster: &Cluster<'_>, found: &mut Findings) {
    let snapshot = cluster.snapshot;
    let mut owners: BTreeMap<Prefix, BTreeSet<&str>> = BTreeMap::new();
    let mut unknown: BTreeMap<&str, Vec<Key>> = BTreeMap::new();
    let mut outside: Vec<(Key, Prefix, &str)> = Vec::new();
    let mut of_size: BTreeMap<(&str, u8), Claims<'_>> = BTreeMap::new();
    let mut disabled: BTreeMap<&str, Claims<'_>> = BTreeMap::new();
    for affinity in snapshot.block_affinities().filter(|affinity| is_owned(&affinity.spec)) {
        let (key, spec) = (Key::new(Kind::BlockAffinity, affinity.name()), &affinity.spec);
        owners.entry(spec.cidr).or_default().insert(&spec.node);
        if snapshot.node(&spec.node).is_none() {
            unknown.entry(&spec.node).or_default().push(key.clone());
        }
        let Some(pool) = snapshot.ip_pools().find(|pool| pool.spec.cidr.covers(spec.cidr)) else {
            outside.push((key, spec.cidr, &spec.node));
            continue;
        };
        if pool.spec.block_size != spec.cidr.len() {
            let (keys, nodes) = of_size.entry((pool.name(), spec.cidr.len())).or_default();
            keys.push(key.clone());
            nodes.insert(&spec.node);
        }
        if pool.spec.disabled {
            let (keys, nodes) = disabled.entry(pool.name()).or_default();
            keys.push(key);
            nodes.insert(&spec.node);
        }
    }
    let owned = |nodes: BTreeSet<&str>| nodes.into_iter().map(str::to_owned).collect::<Vec<_>>();
    for (block, nodes) in owners.into_iter().filter(|(_, nodes)| nodes.len() > 1) {
        let nodes = owned(nodes);
        found.error(
            Rule::BlockClaimedTwice,
            Vec::new(),
            nodes.clone(),
            format!("the block {block} is claimed by {}: traffic for it goes to one of them", list(&nodes)),
            "delete the affinity of the node that has no pod there".to_owned(),
        );
    }
    for (node, keys) in unknown {
        found.warn(
            Rule::BlockOfUnknownNode,
            keys.clone(),
            Vec::new(),
            format!("{} blocks belong to Node/{node}, which does not exist: nobody announces them, and no pod gets their addresses", keys.len()),
            "delete the affinities, once no pod has such an address".to_owned(),
        );
    }
    for (key, block, node) in outside {
        found.warn(
            Rule::BlockOutsidePools,
            vec![key],
            vec![node.to_owned()],
            format!("no pool holds the block {block}: what pools say of encapsulation, NAT and export does not hold for it"),
            "create the IPPool that it is of, or delete the affinity, once no pod has such an address".to_owned(),
        );
    }
    for ((pool, length), (keys, nodes)) in of_size {
        found.warn(
            Rule::BlockSize,
            std::iter::once(Key::new(Kind::IpPool, pool)).chain(keys.iter().cloned()).collect(),
            owned(nodes),
            format!("{} of its blocks are /{length}, which is not its blockSize", keys.len()),
            "a pool's blockSize does not change; move the pods to a new pool".to_owned(),
        );
    }
    for (pool, (keys, nodes)) in disabled {
        found.warn(
            Rule::BlockInDisabledPool,
            std::iter::once(Key::new(Kind::IpPool, pool)).chain(keys.iter().cloned()).collect(),
            owned(nodes),
            format!("it is disabled, and {} blocks of it are still there", keys.len()),
            "restart the pods that have addresses of it, so that they get others".to_owned(),
        );
    }
}
