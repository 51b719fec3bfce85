//! Which prefixes of services a node announces, and in which of them others' routes are passed on.

use crate::common::plan_of;

fn cluster(more: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: default}}\nspec:\n  \
         serviceClusterIPs: [{{cidr: 10.96.0.0/12}}, {{cidr: 'fd00:96::/112'}}]\n  \
         serviceExternalIPs: [{{cidr: 192.0.2.0/24}}, {{cidr: 198.51.100.7/32}}]\n  \
         serviceLoadBalancerIPs: [{{cidr: 203.0.113.0/24}}, {{cidr: 203.0.114.9/32}}]\n{more}"
    )
}

fn node(name: &str, last: u8, labels: &str, more: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{bgp: {{ipv4Address: 10.0.0.{last}/24{more}}}}}\n"
    )
}

fn texts(prefixes: &[manx_net::Prefix]) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

const RANGES: [&str; 4] = ["10.96.0.0/12", "192.0.2.0/24", "203.0.113.0/24", "fd00:96::/112"];

#[test]
fn every_node_announces_prefixes_but_no_single_addresses_of_load_balancers() {
    let all = cluster("") + &node("a", 1, "", "");
    let plan = plan_of(&[&all], "a");
    assert_eq!(texts(&plan.announced_services), RANGES);
    assert_eq!(texts(&plan.passed_services), RANGES);
    assert_eq!(plan.services.len(), 6, "no pod has an address of any of them");
    assert!(
        !plan.warnings.iter().any(|warning| warning.to_string().contains("no effect")),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn without_aggregation_prefixes_of_load_balancers_are_announced_by_nobody() {
    let all = cluster("  serviceLoadBalancerAggregation: Disabled\n") + &node("a", 1, "", "");
    assert_eq!(
        texts(&plan_of(&[&all], "a").announced_services),
        ["10.96.0.0/12", "192.0.2.0/24", "fd00:96::/112"]
    );
}

#[test]
fn a_node_that_takes_no_traffic_from_outside_announces_none() {
    let excluded = "node.kubernetes.io/exclude-from-external-load-balancers";
    for (value, count) in [("'true'", 0), ("'false'", 4)] {
        let all = cluster("") + &node("a", 1, &format!("{excluded}: {value}"), "");
        assert_eq!(plan_of(&[&all], "a").announced_services.len(), count, "{value}");
    }
}

#[test]
fn a_reflector_passes_on_what_others_announce_of_external_and_load_balancers_prefixes() {
    let all = cluster("") + &node("a", 1, "", ", routeReflectorClusterID: 1.1.1.1");
    let plan = plan_of(&[&all], "a");
    assert_eq!(texts(&plan.announced_services), RANGES);
    let mut passed = RANGES.to_vec();
    passed.insert(2, "198.51.100.7/32");
    passed.insert(4, "203.0.114.9/32");
    assert_eq!(texts(&plan.passed_services), passed);
}
