//! Which pools are blackholes where no block covers them.

use manx_resources::{NodePlan, Reply};

use crate::common::*;

const NODES: &str = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: b}
spec: {bgp: {ipv4Address: 10.0.0.2/24}}
---
";

fn plan_with(spec: &str, more: &str) -> NodePlan {
    let pool = format!(
        "apiVersion: projectcalico.org/v3\nkind: IPPool\n\
         metadata: {{name: p, annotations: {{manx.dev/unallocatedBlocks: Reject}}}}\nspec: {{{spec}}}\n"
    );
    plan_of(&[&(NODES.to_owned() + &pool + more)], "a")
}

fn block(cidr: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata: {{name: x}}\n\
         spec: {{node: a, state: confirmed, cidr: {cidr}}}\n"
    )
}

fn configuration(spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\nspec: {{{spec}}}\n"
    )
}

fn said(plan: &NodePlan) -> Vec<String> {
    plan.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn a_pool_for_pods_is_one() {
    let plan = plan_with("cidr: 172.16.0.0/16", &block("172.16.1.0/26"));
    assert_eq!(plan.pools[0].unallocated_blocks, Some(Reply::Reject));
    assert_eq!(said(&plan), [""; 0]);
}

#[test]
fn a_pool_that_is_none_of_pods_or_that_the_node_needs_is_not_and_the_warning_says_why() {
    let peer = "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: x}\n\
                spec: {peerIP: 172.16.9.9, asNumber: 65000}\n";
    let cases = [
        ("cidr: 172.16.0.0/16, disabled: true", "", "the pool is disabled"),
        ("cidr: 172.16.0.0/16, allowedUses: [Tunnel]", "", "no Workload"),
        ("cidr: 172.16.0.0/16, allowedUses: [LoadBalancer]", "", "no Workload"),
        ("cidr: 172.16.0.0/16, vxlanMode: CrossSubnet", "", "encapsulated"),
        ("cidr: 172.16.0.7/32, blockSize: 32", "", "one address"),
        ("cidr: 10.0.0.0/16", "", "10.0.0.1 lies in it"),
        ("cidr: 172.16.0.0/16", peer, "172.16.9.9 lies in it"),
    ];
    for (spec, more, why) in cases {
        let plan = plan_with(spec, more);
        assert_eq!(plan.pools[0].unallocated_blocks, None, "{spec}");
        assert!(said(&plan).iter().any(|text| text.contains(why)), "{spec}: {:?}", said(&plan));
    }
}

#[test]
fn service_prefixes_keep_a_pool_and_a_block_from_being_one() {
    for (field, cidr) in [
        ("serviceClusterIPs", "172.16.128.0/17"),
        ("serviceExternalIPs", "172.16.0.1/32"),
        ("serviceLoadBalancerIPs", "172.0.0.0/8"),
    ] {
        let plan = plan_with("cidr: 172.16.0.0/16", &configuration(&format!("{field}: [{{cidr: {cidr}}}]")));
        assert_eq!(plan.pools[0].unallocated_blocks, None, "{field}");
        assert_eq!(plan.services, [cidr.parse().unwrap()]);
        assert!(said(&plan).iter().any(|text| text.contains(&format!("service prefix {cidr} overlaps"))));
    }
    let services = configuration("serviceClusterIPs: [{cidr: 172.16.1.0/24}]");
    let plan = plan_with("cidr: 172.16.0.0/16", &(services + &block("172.16.1.0/26")));
    assert!(said(&plan).iter().any(|text| text.starts_with("the block 172.16.1.0/26 overlaps")));
}

#[test]
fn a_pool_of_load_balancers_inside_one_of_pods_counts_as_services() {
    let inside = "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: balancers}\n\
                  spec: {cidr: 172.16.200.0/24, allowedUses: [LoadBalancer]}\n";
    let plan = plan_with("cidr: 172.16.0.0/16", inside);
    assert_eq!(plan.pools[0].unallocated_blocks, None);
    assert_eq!(plan.services, ["172.16.200.0/24".parse().unwrap()]);
}
