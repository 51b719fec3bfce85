//! Communities of prefixes: by name or by value, nested, and a node's own in the place of the cluster's.

use manx_resources::collect;

use crate::common::plan_of;

const NODES: &str = "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a}\nspec: {bgp: {ipv4Address: 10.0.0.1/24}}\n---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: b}\nspec: {bgp: {ipv4Address: 10.0.0.2/24}}\n";

fn configuration(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn planned(texts: &[&str], node: &str) -> Vec<String> {
    let plan = plan_of(texts, node);
    let line = |of: &manx_resources::CommunityPlan| {
        let communities: Vec<String> = of.communities.iter().map(ToString::to_string).collect();
        format!("{}: {}", of.cidr, communities.join(" "))
    };
    plan.communities.iter().map(line).collect()
}

#[test]
fn a_prefix_has_its_own_communities_and_those_around_it() {
    let wide = configuration(
        "default",
        "communities: [{name: pods, value: '65000:100'}, {name: large, value: '65000:1:2'}], \
         prefixAdvertisements: [{cidr: 172.16.0.0/12, communities: [pods, '65000:7']}, \
         {cidr: 172.20.0.0/16, communities: [large, pods]}, {cidr: 'fd00::/8', communities: [large]}]",
    );
    let expected = [
        "172.16.0.0/12: 65000:100 65000:7",
        "172.20.0.0/16: 65000:100 65000:7 65000:1:2",
        "fd00::/8: 65000:1:2",
    ];
    assert_eq!(planned(&[NODES, &wide], "a"), expected);
    // A node's own stand in their place.
    let own =
        configuration("node.a", "prefixAdvertisements: [{cidr: 172.16.0.0/12, communities: ['65000:9']}]");
    assert_eq!(planned(&[NODES, &wide, &own], "a"), ["172.16.0.0/12: 65000:9"]);
    assert_eq!(planned(&[NODES, &wide, &own], "b"), expected);
}

#[test]
fn what_is_wrong_with_them_is_said_in_calicos_words() {
    let faults = |spec: &str| {
        let text = configuration("default", spec);
        let collected = collect([("f", text.as_str())]);
        collected.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let named = "communities: [{name: pods, value: '65000:100'}]";
    for (spec, expected) in [
        (named.to_owned(), "communities are defined but not used in prefixAdvertisements"),
        (
            format!("{named}, prefixAdvertisements: [{{cidr: 10.0.0.0/8, communities: [pod]}}]"),
            "community used is invalid or not defined; did you mean pods?",
        ),
        (
            "prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: ['65000:70000']}]".to_owned(),
            "\"65000:70000\" is not a community",
        ),
        (
            "prefixAdvertisements: [{communities: ['65000:7']}]".to_owned(),
            "spec.prefixAdvertisements[0].cidr: is missing",
        ),
        (
            "communities: [{name: pods}], prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [pods]}]"
                .to_owned(),
            "spec.communities[0].value: is missing",
        ),
        (
            format!(
                "prefixAdvertisements: [{{cidr: 10.0.0.0/8, communities: [{}]}}]",
                vec!["'1:1'"; 51].join(", ")
            ),
            "has 51 members; Calico takes 50 at most",
        ),
    ] {
        assert!(faults(&spec).contains(expected), "{spec}: {}", faults(&spec));
    }
    assert_eq!(
        faults(&format!("{named}, prefixAdvertisements: [{{cidr: 10.0.0.0/8, communities: [pods]}}]")),
        ""
    );
}
