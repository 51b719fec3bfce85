//! Peers that are known by the range that they dial from (`manx.dev/peerRange`).

use manx_resources::{Dial, NextHopMode, NodePlan, RangeAs, Role, collect, plan};

/// Its name, annotations and spec.
type Peer<'t> = (&'t str, &'t [(&'t str, &'t str)], &'t str);

/// Node `a` of AS 64512, 10.0.0.1 and fd00::1, with these BGPPeers.
fn plan_of(peers: &[Peer<'_>]) -> (NodePlan, Vec<String>) {
    let mut text = String::from(
        "kind: Node\napiVersion: projectcalico.org/v3\nmetadata: {name: a}\n\
         spec: {bgp: {ipv4Address: 10.0.0.1/24, ipv6Address: 'fd00::1/64', routeReflectorClusterID: 1.0.0.1}}\n",
    );
    for (name, annotations, spec) in peers {
        let annotations: Vec<String> =
            annotations.iter().map(|(name, value)| format!("manx.dev/{name}: '{value}'")).collect();
        text.push_str(&format!(
            "---\nkind: BGPPeer\napiVersion: projectcalico.org/v3\n\
             metadata: {{name: {name}, annotations: {{{}}}}}\nspec: {{{spec}}}\n",
            annotations.join(", ")
        ));
    }
    let collected = collect([("f", text.as_str())]);
    let problems = collected.problems.iter().map(ToString::to_string).collect();
    (plan(&collected.snapshot, "a").unwrap(), problems)
}

#[test]
fn a_range_has_the_settings_of_its_peer_and_is_never_dialled() {
    let (plan, problems) = plan_of(&[(
        "rack",
        &[("peerRange", "10.0.0.0/24"), ("peerRangeLimit", "40"), ("maxPrefixes", "8")],
        "asNumber: 64512, ttlSecurity: 1, password: {secretKeyRef: {name: s, key: k}}",
    )]);
    assert_eq!(problems, [] as [String; 0]);
    assert!(plan.peers.is_empty());
    let [range] = plan.ranges.as_slice() else { panic!("{:?}", plan.ranges) };
    assert_eq!((range.range.to_string().as_str(), range.limit), ("10.0.0.0/24", 40));
    assert_eq!(range.as_numbers, RangeAs::OneOf(vec![plan.as_number]));
    let settings = &range.settings;
    assert_eq!((settings.dial, settings.source_address), (Dial::Never, None));
    assert_eq!((settings.ttl_security, settings.max_prefixes.unwrap().limit), (Some(1), 8));
    assert_eq!((settings.rr_client, settings.cluster_id), (true, plan.cluster_id));
    assert_eq!(settings.password_from.as_ref().unwrap().name, "s");
    assert_eq!(settings.resource.to_string(), "BGPPeer/rack");
}

#[test]
fn a_range_is_for_the_ases_that_it_names_or_for_all_others_and_at_first_for_the_clusters() {
    for (annotations, spec, expected) in [
        (&[("peerRange", "fd00::/64")][..], "", "[64512]"),
        (&[("peerRange", "fd00::/64"), ("peerRangeAS", "external")], "", "external"),
        (&[("peerRange", "fd00::/64"), ("peerRangeAS", "65001, 1.2")], "", "[65001, 65538]"),
        (&[("peerRange", "fd00::/64"), ("peerRangeAS", "external")], "asNumber: 65009", "[65009]"),
    ] {
        let (plan, problems) = plan_of(&[("rack", annotations, spec)]);
        assert_eq!(problems, [] as [String; 0]);
        let found = match &plan.ranges[0].as_numbers {
            RangeAs::External => "external".to_owned(),
            RangeAs::OneOf(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                format!("[{}]", numbers.join(", "))
            }
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn a_range_beside_an_address_two_of_one_prefix_and_one_for_another_node_are_told() {
    let (plan, problems) = plan_of(&[
        ("both", &[("peerRange", "10.1.0.0/24")], "peerIP: 10.0.0.2, asNumber: 64512"),
        ("first", &[("peerRange", "10.2.0.0/24")], ""),
        ("second", &[("peerRange", "10.2.0.0/24")], ""),
        ("theirs", &[("peerRange", "10.3.0.0/24")], "node: a2"),
        ("limit", &[("peerRangeLimit", "3")], "peerIP: 10.0.0.3, asNumber: 64512"),
    ]);
    let ranges: Vec<String> = plan.ranges.iter().map(|range| range.settings.resource.to_string()).collect();
    assert_eq!(ranges, ["BGPPeer/first"]);
    assert_eq!(plan.peers.len(), 2);
    let told = |text: &str| problems.iter().any(|problem| problem.contains(text));
    assert!(told("has no effect beside spec.peerIP"), "{problems:?}");
    assert!(told("has no effect without manx.dev/peerRange"), "{problems:?}");
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    let duplicate =
        "BGPPeer/second is for the range 10.2.0.0/24, and so is BGPPeer/first; BGPPeer/first counts";
    assert!(warnings.iter().any(|warning| warning == duplicate), "{warnings:?}");
}

#[test]
fn a_range_for_our_as_and_another_keeps_what_is_for_the_other() {
    for (numbers, role, next_hop) in [
        ("64512, 65001", Some(Role::Customer), NextHopMode::Keep),
        ("65001, 65002", Some(Role::Customer), NextHopMode::Keep),
        ("64512", None, NextHopMode::Auto),
    ] {
        let annotations = [
            ("peerRange", "10.0.0.0/24"),
            ("peerRangeAS", numbers),
            ("localRole", "customer"),
            ("strictRole", "true"),
        ];
        let (plan, _) = plan_of(&[("rack", &annotations, "keepOriginalNextHop: true")]);
        let settings = &plan.ranges[0].settings;
        assert_eq!((settings.local_role, settings.strict_role), (role, role.is_some()), "{numbers}");
        assert_eq!(settings.next_hop, next_hop, "{numbers}");
        // What is for our own AS stays, too.
        assert_eq!(settings.rr_client, numbers.contains("64512"));
    }
}
