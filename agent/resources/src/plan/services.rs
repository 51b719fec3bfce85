//! Prefixes of services that nodes announce, so that whoever is outside sends to them; what is known of services without
//! Kubernetes is no more than their prefixes.

use manx_net::Prefix;

use super::cluster::{Cluster, NodeObject, cluster_id};

/// Kubernetes' label for nodes that take no traffic from outside.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What `own` announces: prefixes of cluster addresses, and of external and load balancers' addresses those that are more
/// than one address, for a single one is announced by whoever has a pod behind it.
pub(super) fn announced(cluster: &Cluster<'_>, own: &NodeObject) -> Vec<Prefix> {
    if own.metadata.labels.get(EXCLUDED).is_some_and(|value| value == "true") {
        return Vec::new();
    }
    let Some(default) = cluster.snapshot.bgp_configuration("default") else { return Vec::new() };
    let services = &default.spec.services;
    let several = |prefixes: &[Prefix]| prefixes.iter().copied().filter(|prefix| !prefix.is_host()).collect();
    let external: Vec<Prefix> = several(&services.external);
    let balanced = if services.single_load_balancers { Vec::new() } else { several(&services.load_balancer) };
    sorted(services.cluster.iter().copied().chain(external).chain(balanced))
}

/// In which of others' routes may be passed on: in what this node announces itself, and from a reflector also single addresses of
/// external and load balancers' prefixes.
pub(super) fn passed_on(cluster: &Cluster<'_>, own: &NodeObject, announced: &[Prefix]) -> Vec<Prefix> {
    let default = cluster.snapshot.bgp_configuration("default").filter(|_| cluster_id(own).is_some());
    let more = default.into_iter().flat_map(|object| {
        let services = &object.spec.services;
        services.external.iter().chain(&services.load_balancer).copied()
    });
    sorted(announced.iter().copied().chain(more))
}

fn sorted(prefixes: impl Iterator<Item = Prefix>) -> Vec<Prefix> {
    let mut prefixes: Vec<Prefix> = prefixes.collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes
}
