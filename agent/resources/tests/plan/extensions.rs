//! What annotations under `manx.dev/` make of a plan, at both ends of a session.

use manx_resources::{
    AddPath, BfdPlan, FastPathSetting, MaxPrefixes, Multipath, NodePlan, PeerPlan, Role, SourceCheck,
};

use crate::common::*;

fn object(kind: &str, name: &str, annotations: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\n\
         spec: {{{spec}}}\n"
    )
}

fn node(name: &str, last: u8, more: &str) -> String {
    object("Node", name, "", &format!("bgp: {{ipv4Address: 10.0.0.{last}/24, {more}}}"))
}

#[track_caller]
fn peer_of(plan: &NodePlan, last: u8) -> PeerPlan {
    let address = std::net::IpAddr::from([10, 0, 0, last]);
    plan.every_peer().find(|peer| peer.address == address).expect("a peer with this address").clone()
}

#[test]
fn a_nodes_own_configuration_stands_before_the_clusters() {
    let all = node("a", 1, "")
        + &node("b", 2, "")
        + &object(
            "BGPConfiguration",
            "default",
            "manx.dev/multipath: '4', manx.dev/longLivedRestartTime: 1h, manx.dev/maxPaths: '1000'",
            "",
        )
        + &object(
            "BGPConfiguration",
            "node.b",
            "manx.dev/multipath: 'ebgp=2', manx.dev/longLivedRestartTime: 0s, manx.dev/clientToClient: 'false'",
            "",
        );
    let a = plan_of(&[&all], "a").speaker;
    assert_eq!((a.multipath, a.long_lived_restart_time), (Multipath { ebgp: 4, ibgp: 4 }, Some(3600)));
    assert_eq!((a.max_paths, a.client_to_client), (Some(1000), true));
    let b = plan_of(&[&all], "b").speaker;
    assert_eq!((b.multipath, b.long_lived_restart_time), (Multipath { ebgp: 2, ibgp: 1 }, None));
    assert_eq!((b.max_paths, b.client_to_client), (Some(1000), false));
}

#[test]
fn without_annotations_nothing_is_other_than_calicos() {
    let plan = plan_of(&[&(node("a", 1, "") + &node("b", 2, ""))], "a");
    let speaker = &plan.speaker;
    assert_eq!(speaker.multipath, Multipath { ebgp: 1, ibgp: 1 });
    assert!(!speaker.restart_after_notification && !speaker.ebgp_requires_policy);
    assert!(speaker.client_to_client && !speaker.graceful_shutdown);
    let peer = peer_of(&plan, 2);
    assert_eq!((peer.max_prefixes, peer.add_path, peer.local_role), (None, AddPath::default(), None));
    assert!(peer.blackholes.is_empty() && !peer.extended_next_hop);
}

#[test]
fn the_mesh_has_the_clusters_settings_at_both_ends() {
    let all = node("a", 1, "")
        + &node("b", 2, "")
        + &object(
            "BGPConfiguration",
            "default",
            "manx.dev/nodeMeshMaxPrefixes: '64', manx.dev/nodeMeshAddPath: both=2, manx.dev/nodeMeshExtendedNextHop: 'true', \
             manx.dev/nodeMeshBfd: multiplier=4",
            "",
        );
    for (node, other) in [("a", 2), ("b", 1)] {
        let peer = peer_of(&plan_of(&[&all], node), other);
        assert_eq!(peer.max_prefixes, Some(MaxPrefixes { limit: 64, warn_at: 75, accepted_only: false }));
        assert_eq!(peer.add_path, AddPath { send: 2, receive: true });
        assert!(peer.extended_next_hop);
        assert_eq!(peer.bfd, Some(BfdPlan { interval: 300, multiplier: 4, multihop: false }));
    }
}

#[test]
fn a_peer_that_is_on_no_link_is_watched_over_several_hops_and_so_is_this_node_by_it() {
    let all = node("a", 1, "")
        + &node("rr", 2, "routeReflectorClusterID: 1.1.1.1")
        + &object("BGPPeer", "far", "manx.dev/bfd: 'true'", "peerIP: 10.9.0.1, asNumber: 64512")
        + &object("BGPPeer", "near", "manx.dev/bfd: 'true'", "peerIP: 10.0.0.2, asNumber: 64512")
        + &object("BGPPeer", "said", "manx.dev/bfd: multihop", "peerIP: 10.0.0.7, asNumber: 64512");
    let plan = plan_of(&[&all], "a");
    let multihop = |last: u8| peer_of(&plan, last).bfd.map(|bfd| bfd.multihop);
    assert_eq!((multihop(2), multihop(7)), (Some(false), Some(true)));
    let far = plan.peers.iter().find(|peer| peer.address.to_string() == "10.9.0.1").unwrap();
    assert_eq!(far.bfd, Some(BfdPlan { interval: 300, multiplier: 3, multihop: true }));
    assert!(peer_of(&plan_of(&[&all], "rr"), 1).bfd.is_some(), "the other end has it, too");
}

#[test]
fn the_other_end_takes_what_this_one_sends_and_has_no_limit_of_its() {
    let all = node("a", 1, "")
        + &node("rr", 2, "routeReflectorClusterID: 1.1.1.1")
        + &object(
            "BGPPeer",
            "p",
            "manx.dev/addPath: receive, manx.dev/maxPrefixes: '9', manx.dev/blackholes: 10.1.0.0/16, \
             manx.dev/extendedNextHop: 'true'",
            "peerIP: 10.0.0.2, asNumber: 64512",
        );
    let forward = peer_of(&plan_of(&[&all], "a"), 2);
    assert_eq!(forward.add_path, AddPath { send: 0, receive: true });
    assert_eq!(forward.max_prefixes.map(|max| max.limit), Some(9));
    assert_eq!(forward.blackholes, ["10.1.0.0/16".parse().unwrap()]);
    let reverse = peer_of(&plan_of(&[&all], "rr"), 1);
    assert_eq!(reverse.add_path, AddPath { send: 4, receive: false });
    assert_eq!((reverse.max_prefixes, reverse.blackholes.len()), (None, 0));
    assert!(forward.extended_next_hop && reverse.extended_next_hop);
}

#[test]
fn a_role_is_the_other_one_at_the_other_end() {
    let all = node("a", 1, "asNumber: 65001")
        + &node("b", 2, "asNumber: 65002")
        + &object("BGPConfiguration", "default", "", "nodeToNodeMeshEnabled: false")
        + &object(
            "BGPPeer",
            "p",
            "manx.dev/localRole: customer, manx.dev/strictRole: 'true'",
            "node: a, peerIP: 10.0.0.2, asNumber: 65002",
        );
    let here = peer_of(&plan_of(&[&all], "a"), 2);
    assert_eq!((here.local_role, here.strict_role), (Some(Role::Customer), true));
    let there = peer_of(&plan_of(&[&all], "b"), 1);
    assert_eq!((there.local_role, there.strict_role), (Some(Role::Provider), true));
}

#[test]
fn a_role_within_the_as_has_no_effect_and_is_named() {
    let all = node("a", 1, "")
        + &object("BGPPeer", "p", "manx.dev/localRole: peer", "peerIP: 10.0.0.9, asNumber: 64512");
    assert_eq!(peer_of(&plan_of(&[&all], "a"), 9).local_role, None);
    assert_eq!(
        warnings(&[&all], "a"),
        [
            "BGPPeer/p gives this node a role towards 10.0.0.9, which is in the same AS; roles are for peers of other ASes \
          (RFC 9234), and this one has no effect"
        ]
    );
}

#[test]
fn an_external_peer_without_rules_is_named_where_rules_are_required() {
    let all = node("a", 1, "")
        + &object("BGPConfiguration", "default", "manx.dev/ebgpRequiresPolicy: 'true'", "")
        + &object("BGPFilter", "f", "", "exportV4: [{action: Accept}], importV6: [{action: Accept}]")
        + &object("BGPPeer", "p", "", "peerIP: 10.0.0.9, asNumber: 65000, filters: [f]");
    assert_eq!(
        warnings(&[&all], "a"),
        [
            "no IPv4 route is taken from 10.0.0.9, which is in another AS: BGPPeer/p has no BGPFilter with rules for it, \
          and manx.dev/ebgpRequiresPolicy is on (RFC 8212)"
        ]
    );
}

#[test]
fn rules_are_missed_in_ranges_and_in_each_family_of_a_session() {
    let all = node("a", 1, "ipv6Address: 'fd00::1/64'")
        + &object("BGPConfiguration", "default", "manx.dev/ebgpRequiresPolicy: 'true'", "")
        + &object("BGPFilter", "f", "", "exportV6: [{action: Accept}], importV6: [{action: Accept}]")
        + &object("BGPFilter", "in", "", "importV4: [{action: Accept}]")
        + &object(
            "BGPPeer",
            "both",
            "manx.dev/extendedNextHop: 'true'",
            "peerIP: 'fd00::9', asNumber: 65000, filters: [f]",
        )
        + &object("BGPPeer", "own", "manx.dev/peerRange: 10.0.1.0/24", "")
        + &object(
            "BGPPeer",
            "rack",
            "manx.dev/peerRange: 10.0.2.0/24, manx.dev/peerRangeAS: '64512, 65001'",
            "filters: [in]",
        );
    let told = |way: &str, resource: &str| {
        format!(
            "no IPv4 route {way}: BGPPeer/{resource} has no BGPFilter with rules for it, and \
             manx.dev/ebgpRequiresPolicy is on (RFC 8212)"
        )
    };
    assert_eq!(
        warnings(&[&all], "a"),
        [
            told("goes to fd00::9, which is in another AS", "both"),
            told("is taken from fd00::9, which is in another AS", "both"),
            told("goes to peers of other ASes in 10.0.2.0/24", "rack"),
        ]
    );
}

#[test]
fn a_nodes_own_word_about_the_fast_path_stands_before_the_clusters() {
    let all = node("a", 1, "")
        + &node("b", 2, "")
        + &object(
            "BGPConfiguration",
            "default",
            "manx.dev/fastPath: Enabled, manx.dev/sourceCheck: Loose, manx.dev/fastPathInterfaces: 'ens34=Disabled'",
            "",
        )
        + &object(
            "BGPConfiguration",
            "node.b",
            "manx.dev/fastPath: Auto, manx.dev/sourceCheckInterfaces: 'cali1=Off'",
            "",
        )
        + &object("IPPool", "p", "manx.dev/fastPath: Disabled", "cidr: 172.16.0.0/16");
    let a = plan_of(&[&all], "a");
    assert_eq!(a.fast_path.whole, Some(FastPathSetting::Enabled));
    assert_eq!(a.fast_path.interface("ens34"), Some(FastPathSetting::Disabled));
    assert_eq!(
        (a.fast_path.interface("ens33"), a.fast_path.source_check("cali1")),
        (None, SourceCheck::Loose)
    );
    assert_eq!(a.pools[0].fast_path, Some(FastPathSetting::Disabled));
    let b = plan_of(&[&all], "b").fast_path;
    assert_eq!(
        (b.whole, b.interface("ens34")),
        (Some(FastPathSetting::Auto), Some(FastPathSetting::Disabled))
    );
    assert_eq!((b.source_check("cali1"), b.source_check("cali2")), (SourceCheck::Off, SourceCheck::Loose));
}

#[test]
fn the_priority_of_own_routes_is_the_nodes_before_the_clusters() {
    let cluster = "---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {ipv4NormalRoutePriority: 2048, ipv6NormalRoutePriority: 1024}\n---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: node.a}\nspec: {ipv4NormalRoutePriority: 512}\n";
    let node = |name: &str, last: u8| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{bgp: {{ipv4Address: 10.0.0.{last}/24}}}}\n"
        )
    };
    let texts = [cluster, &node("a", 1), &node("b", 2)];
    for (name, ipv4) in [("a", 512), ("b", 2048)] {
        let speaker = plan_of(&texts, name).speaker;
        assert_eq!(
            (speaker.ipv4_normal_route_priority, speaker.ipv6_normal_route_priority),
            (Some(ipv4), Some(1024))
        );
    }
    let plain = plan_of(&[&node("a", 1)], "a").speaker;
    assert_eq!((plain.ipv4_normal_route_priority, plain.ipv6_normal_route_priority), (None, None));
}
