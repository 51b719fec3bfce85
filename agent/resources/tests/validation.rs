//! What Calico refuses is refused here, in its words where its users know them.

use manx_resources::parse;

fn problems(kind: &str, name: &str, spec: &str) -> Vec<String> {
    let text =
        format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n");
    let parsed = parse("f", &text);
    let errors = parsed.problems.iter().filter(|problem| problem.is_error());
    errors.map(ToString::to_string).collect()
}

/// The first is refused, with these words and the field's place; the second is the same without what is wrong.
const ROWS: &[(&str, &str, &str, &str, &str)] = &[
    ("IPPool", "{cidr: 10.0.1.5/24}", "{cidr: 10.0.1.0/24}", "f:4:14", "IPPool CIDR must be strictly masked"),
    (
        "IPPool",
        "{cidr: 169.254.7.0/24}",
        "{cidr: 169.253.7.0/24}",
        "f:4:14",
        "IPPool CIDR overlaps with IPv4 link local range 169.254.0.0/16",
    ),
    ("IPPool", "{cidr: 160.0.0.0/4}", "{cidr: 176.0.0.0/4}", "f:4:14", "overlaps with IPv4 link local range"),
    (
        "IPPool",
        "{cidr: 'fe80:1::/64'}",
        "{cidr: 'fd80:1::/64'}",
        "f:4:14",
        "IPPool CIDR overlaps with IPv6 link local range fe80::/10",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/27}",
        "{cidr: 10.0.0.0/26}",
        "f:4:14",
        "IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size",
    ),
    ("IPPool", "{cidr: 10.0.0.0/27}", "{cidr: 10.0.0.0/27, disabled: true}", "f:4:14", "too small"),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, blockSize: 19}",
        "{cidr: 10.0.0.0/16, blockSize: 20}",
        "f:4:38",
        "blockSize must be between 20 and 32 for IPv4 pools, and between 116 and 128 for IPv6 pools",
    ),
    (
        "IPPool",
        "{cidr: 'fd00::/64', blockSize: 115}",
        "{cidr: 'fd00::/64', blockSize: 116}",
        "f:4:38",
        "blockSize must be between",
    ),
    (
        "IPPool",
        "{cidr: 'fd00::/64', ipipMode: Always}",
        "{cidr: 'fd00::/64', vxlanMode: Always}",
        "f:4:37",
        "IPIP is not supported on IPv6 pools",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: CrossSubnet}",
        "{cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: Never}",
        "f:4:56",
        "ipipMode and vxlanMode cannot both be enabled",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, nodeSelector: 'global()'}",
        "{cidr: 10.0.0.0/16, nodeSelector: 'all()'}",
        "f:4:41",
        "global() selector is not valid for IPPool nodeSelector",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, namespaceSelector: 'global()'}",
        "{cidr: 10.0.0.0/16, namespaceSelector: 'all()'}",
        "f:4:46",
        "global() selector is not valid for IPPool namespaceSelector",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer, Workload]}",
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer]}",
        "f:4:40",
        "LoadBalancer cannot be combined with Workload or Tunnel allowed uses",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], vxlanMode: Always}",
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], vxlanMode: Never}",
        "f:4:40",
        "LoadBalancer IP pool cannot have IPIP or VXLAN enabled",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], disableBGPExport: true}",
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], disableBGPExport: false}",
        "f:4:74",
        "LoadBalancer IP pools cannot disable BGP export",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, allowedUses: [LoadBalancer], nodeSelector: has(a)}",
        "{cidr: 10.0.0.0/16, allowedUses: [Workload], nodeSelector: has(a)}",
        "f:4:70",
        "IP Pool with AllowedUse LoadBalancer must have nodeSelector set to all()",
    ),
    (
        "IPPool",
        "{cidr: 10.0.0.0/16, allowedUses: [Tunnel], namespaceSelector: has(a)}",
        "{cidr: 10.0.0.0/16, namespaceSelector: has(a)}",
        "f:4:69",
        "IP Pool with AllowedUse Tunnel cannot have namespaceSelector",
    ),
    (
        "BGPConfiguration",
        "{ignoredInterfaces: [eth0, 'a b']}",
        "{ignoredInterfaces: [eth0, 'docker*']}",
        "f:4:34",
        "\"a b\" is not a pattern of interfaces",
    ),
    (
        "BGPConfiguration",
        "{programClusterRoutes: Yes}",
        "{programClusterRoutes: EnabledIPIPOnly}",
        "f:4:30",
        "is not one of Enabled, Disabled, EnabledIPIPOnly, EnabledNoEncapOnly",
    ),
    (
        "BGPConfiguration",
        "{localWorkloadPeeringIPV4: 'fd00::1'}",
        "{localWorkloadPeeringIPV4: 10.0.0.1}",
        "f:4:34",
        "is of the other family",
    ),
    (
        "BGPConfiguration",
        "{localWorkloadPeeringIPV6: 10.0.0.1}",
        "{localWorkloadPeeringIPV6: 'fd00::1'}",
        "f:4:34",
        "is of the other family",
    ),
    (
        "BGPPeer",
        "{peerIP: 10.0.0.1, asNumber: 1, node: 'Rack 7'}",
        "{peerIP: 10.0.0.1, asNumber: 1, node: rack-7}",
        "f:4:45",
        "\"Rack 7\" is not a name",
    ),
    (
        "BGPPeer",
        "{peerIP: 10.0.0.1, asNumber: 1, filters: [good, 'Bad Name']}",
        "{peerIP: 10.0.0.1, asNumber: 1, filters: [good, good-name]}",
        "f:4:55",
        "\"Bad Name\" is not a name",
    ),
    (
        "Node",
        "{addresses: [{address: nowhere}], bgp: {ipv4Address: 10.0.0.1/24}}",
        "{addresses: [{address: 10.0.0.1/24, type: CalicoNodeIP}, {address: 'fd00::1'}], bgp: {ipv4Address: 10.0.0.1/24}}",
        "f:4:30",
        "\"nowhere\"",
    ),
];

#[test]
fn each_rule_of_calicos_is_kept_with_its_words_and_the_place() {
    for (kind, wrong, right, place, words) in ROWS {
        let found = problems(kind, "default", wrong);
        assert!(
            found.iter().any(|problem| problem.contains(words) && problem.starts_with(place)),
            "{kind} {wrong}: {place} {words}: {found:#?}"
        );
        let found = problems(kind, "default", right);
        assert!(!found.iter().any(|problem| problem.contains(words)), "{kind} {right}: {found:#?}");
        assert_eq!(found, [] as [String; 0], "{kind} {right}");
    }
}
