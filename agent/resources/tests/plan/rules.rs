//! Calico's rules for peerings, one by one, beyond what the article's story needs.

use crate::common::*;

/// A node: name, addresses, and whatever else its spec.bgp and labels say.
fn node(name: &str, ipv4: &str, more: &str) -> String {
    let labels = more.strip_prefix("labels:").map(|rest| rest.split_once(';').unwrap_or((rest, "")));
    let (labels, bgp) = labels.unwrap_or(("", more));
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
         spec: {{bgp: {{ipv4Address: {ipv4}/24, {bgp}}}}}\n"
    )
}

fn peer(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn config(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn three() -> String {
    node("a", "10.0.0.1", "") + &node("b", "10.0.0.2", "") + &node("c", "10.0.0.10", "")
}

fn mesh_off() -> String {
    config("default", "nodeToNodeMeshEnabled: false")
}

#[test]
fn who_dials_is_decided_by_the_addresses_as_text() {
    // "10.0.0.10" is less than "10.0.0.2" as text.
    let all = three();
    assert_eq!(
        peers(&[&all], "b"),
        [
            "10.0.0.1 179 as64512 mesh first by BGPConfiguration/default",
            "10.0.0.10 179 as64512 mesh first by BGPConfiguration/default",
        ]
    );
    assert_eq!(
        peers(&[&all], "c"),
        [
            "10.0.0.1 179 as64512 mesh first by BGPConfiguration/default",
            "10.0.0.2 179 as64512 mesh later by BGPConfiguration/default",
        ]
    );
}

#[test]
fn of_two_ends_always_exactly_one_dials_first() {
    let all = [
        three(),
        node("rr", "10.0.0.200", "routeReflectorClusterID: 1.1.1.1"),
        peer("p", "peerIP: 10.0.0.200, asNumber: 64512"),
        peer("q", "nodeSelector: all(), peerSelector: all()"),
    ]
    .concat();
    let snapshot = snapshot(&[&all]);
    for own in snapshot.nodes() {
        let plan = manx_resources::plan(&snapshot, own.name()).unwrap();
        let address = plan.address.ipv4.unwrap().addr;
        for peer in &plan.peers {
            let other = snapshot
                .nodes()
                .find(|node| node.spec.bgp.as_ref().unwrap().ipv4.unwrap().addr == peer.address)
                .unwrap();
            let back = manx_resources::plan(&snapshot, other.name()).unwrap();
            let back = back.peers.iter().find(|back| back.address == address).unwrap();
            assert_ne!(peer.dial, back.dial, "{} and {}", own.name(), other.name());
        }
    }
}

#[test]
fn the_mesh_takes_each_nodes_own_as_and_port() {
    let all = three().replace("10.0.0.2/24, ", "10.0.0.2/24, asNumber: 65001")
        + &config("default", "listenPort: 1179, asNumber: 65000")
        + &config("node.c", "listenPort: 2179");
    assert_eq!(
        peers(&[&all], "a"),
        [
            "10.0.0.2 1179 as65001 mesh later by BGPConfiguration/default",
            "10.0.0.10 2179 as65000 mesh later by BGPConfiguration/default",
        ]
    );
    assert_eq!(plan_of(&[&all], "a").listen_port, 1179);
    assert_eq!(plan_of(&[&all], "c").listen_port, 2179);
    assert_eq!(plan_of(&[&all], "b").as_number.get(), 65001);
}

#[test]
fn mesh_settings_come_from_the_default_configuration() {
    let all = three()
        + &config(
            "default",
            "nodeMeshMaxRestartTime: 90s, nodeMeshPassword: {secretKeyRef: {name: s, key: k}}",
        );
    let plan = plan_of(&[&all], "a");
    assert_eq!(plan.peers[0].restart_time, Some(90));
    assert_eq!(plan.peers[0].password_from.as_ref().map(|secret| secret.key.as_str()), Some("k"));
}

#[test]
fn a_session_of_each_family_exists_where_both_ends_have_an_address_of_it() {
    let all = node("a", "10.0.0.1", "ipv6Address: '2001:db8::1/64'")
        + &node("b", "10.0.0.2", "ipv6Address: '2001:db8::2/64'")
        + &node("c", "10.0.0.3", "");
    assert_eq!(
        peers(&[&all], "a"),
        [
            "10.0.0.2 179 as64512 mesh later by BGPConfiguration/default",
            "10.0.0.3 179 as64512 mesh later by BGPConfiguration/default",
            "2001:db8::2 179 as64512 mesh later by BGPConfiguration/default",
        ]
    );
    assert_eq!(peers(&[&all], "c").len(), 2);
    let selected = mesh_off() + &all + &peer("p", "node: a, peerSelector: all()");
    assert_eq!(peers(&[&selected], "c"), ["10.0.0.1 179 as64512 node first by BGPPeer/p"]);
    assert_eq!(
        peers(&[&selected], "b"),
        ["10.0.0.1 179 as64512 node first by BGPPeer/p", "2001:db8::1 179 as64512 node first by BGPPeer/p",]
    );
}

#[test]
fn a_node_specific_peer_concerns_its_node_alone() {
    for spec in ["node: a", "nodeSelector: rack == '1'"] {
        let all = mesh_off()
            + &node("a", "10.0.0.1", "labels:rack: '1'")
            + &node("b", "10.0.0.2", "labels:rack: '2'")
            + &peer("tor", &format!("{spec}, peerIP: 10.0.0.254, asNumber: 65000"));
        assert_eq!(peers(&[&all], "a"), ["10.0.0.254 179 as65000 node later by BGPPeer/tor"]);
        assert_eq!(peers(&[&all], "b"), [] as [&str; 0]);
    }
}

#[test]
fn a_global_peer_outside_the_cluster_is_every_nodes() {
    let all = mesh_off() + &three() + &peer("tor", "peerIP: '10.0.0.254:1790', asNumber: 65000");
    for name in ["a", "b", "c"] {
        assert_eq!(peers(&[&all], name), ["10.0.0.254 1790 as65000 global later by BGPPeer/tor"]);
    }
}

#[test]
fn a_global_peer_suppresses_a_node_specific_one_with_the_same_address_and_port() {
    let all = mesh_off()
        + &three()
        + &peer("a-specific", "node: a, peerIP: 10.0.0.254, asNumber: 65001")
        + &peer("z-global", "peerIP: 10.0.0.254, asNumber: 65000");
    assert_eq!(peers(&[&all], "a"), ["10.0.0.254 179 as65000 global later by BGPPeer/z-global"]);
    assert_eq!(
        warnings(&[&all], "a"),
        [
            "BGPPeer/a-specific says otherwise than BGPPeer/z-global about the peer 10.0.0.254; BGPPeer/z-global counts"
        ]
    );
    let ports = all.replace("node: a, peerIP: 10.0.0.254", "node: a, peerIP: '10.0.0.254:1790'");
    assert_eq!(
        peers(&[&ports], "a"),
        [
            "10.0.0.254 179 as65000 global later by BGPPeer/z-global",
            "10.0.0.254 1790 as65001 node later by BGPPeer/a-specific",
        ]
    );
}

#[test]
fn of_two_rules_for_one_address_the_first_by_name_counts_whatever_the_order_of_files() {
    let x = peer("x", "peerIP: 10.0.0.254, asNumber: 65001");
    let y = peer("y", "peerIP: 10.0.0.254, asNumber: 65002");
    let nodes = three();
    for texts in [[&nodes, &x, &y], [&y, &x, &nodes]] {
        let all = texts.map(String::as_str).concat();
        assert_eq!(peers(&[&all, &mesh_off()], "a"), ["10.0.0.254 179 as65001 global later by BGPPeer/x"]);
    }
}

#[test]
fn two_rules_that_say_the_same_are_no_surprise() {
    let all = mesh_off()
        + &three()
        + &peer("x", "node: a, peerIP: 10.0.0.2, asNumber: 64512")
        + &peer("y", "node: b, peerIP: 10.0.0.1, asNumber: 64512");
    assert_eq!(peers(&[&all], "a"), ["10.0.0.2 179 as64512 node later by BGPPeer/x"]);
    assert_eq!(peers(&[&all], "b"), ["10.0.0.1 179 as64512 node first by BGPPeer/y"]);
    assert_eq!(warnings(&[&all], "a"), [] as [&str; 0]);
}

#[test]
fn an_explicit_peer_stands_for_the_mesh_peer_of_the_same_address() {
    let all = three() + &peer("x", "node: a, peerIP: 10.0.0.2, asNumber: 64512, keepaliveTime: 5s");
    assert_eq!(
        peers(&[&all], "a"),
        [
            "10.0.0.2 179 as64512 node later by BGPPeer/x",
            "10.0.0.10 179 as64512 mesh later by BGPConfiguration/default",
        ]
    );
    assert_eq!(
        peers(&[&all], "b"),
        [
            "10.0.0.1 179 as64512 node first by BGPPeer/x",
            "10.0.0.10 179 as64512 mesh first by BGPConfiguration/default",
        ]
    );
}

#[test]
fn the_reverse_of_a_peer_by_address_needs_the_nodes_as_and_port() {
    let reverse = |spec: &str, more: &str| {
        let all = mesh_off().replace("false", "false, listenPort: 1179")
            + &three()
            + &peer("p", &format!("node: b, peerIP: {spec}"))
            + more;
        peers(&[&all], "a")
    };
    let expected = ["10.0.0.2 1179 as64512 node later by BGPPeer/p"];
    assert_eq!(reverse("10.0.0.1, asNumber: 64512", ""), expected);
    assert_eq!(reverse("'10.0.0.1:1179', asNumber: 64512", ""), expected);
    assert_eq!(reverse("10.0.0.1", ""), expected);
    assert_eq!(reverse("10.0.0.1, asNumber: 65000", ""), [] as [&str; 0]);
    assert_eq!(reverse("'10.0.0.1:179', asNumber: 64512", ""), [] as [&str; 0]);
    assert_eq!(reverse("10.0.0.1, asNumber: 64512, reversePeering: Manual", ""), [] as [&str; 0]);
}

#[test]
fn with_selectors_on_both_sides_each_family_has_its_session_and_manual_leaves_the_other_end_out() {
    let both = |name: &str, last: u8, labels: &str| {
        let addresses = format!("labels:{labels};ipv6Address: 'fd00::{last}/64'");
        node(name, &format!("10.0.0.{last}"), &addresses)
    };
    let nodes = both("a", 1, "rack: one") + &both("b", 2, "rack: one") + &both("t", 3, "top: one");
    let down = |manual: &str| {
        peer("down", &format!("nodeSelector: rack == 'one', peerSelector: top == 'one'{manual}"))
    };
    let up = |manual: &str| {
        peer("up", &format!("nodeSelector: top == 'one', peerSelector: rack == 'one'{manual}"))
    };
    let of = |texts: &[String], node: &str| {
        let all = mesh_off() + &nodes + &texts.concat();
        assert_eq!(warnings(&[&all], node).iter().filter(|text| text.contains("otherwise")).count(), 0);
        peers(&[&all], node)
    };
    let manual = ", reversePeering: Manual";
    let (of_a, of_t) = (
        ["10.0.0.3 179 as64512 node later by BGPPeer/down", "fd00::3 179 as64512 node later by BGPPeer/down"],
        |by: &str| {
            ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]
                .map(|address| format!("{address} 179 as64512 node first by BGPPeer/{by}"))
        },
    );
    // One resource makes both ends, or one alone; two of them make an end each.
    assert_eq!(of(&[down("")], "a"), of_a);
    assert_eq!(of(&[down("")], "t"), of_t("down"));
    assert_eq!(of(&[down(manual)], "a"), of_a);
    assert_eq!(of(&[down(manual)], "t"), [] as [&str; 0]);
    assert_eq!(of(&[down(manual), up(manual)], "a"), of_a);
    assert_eq!(of(&[down(manual), up(manual)], "t"), of_t("up"));
    // Whose forward end it is says what holds there, whatever the other's reverse would be.
    assert_eq!(of(&[down(""), up("")], "a"), of_a);
    assert_eq!(of(&[down(""), up("")], "t"), of_t("up"));
}

#[test]
fn a_port_that_the_node_does_not_listen_on_is_told_at_both_ends() {
    let told = |port: &str, end: &str| {
        let all = mesh_off().replace("false", port)
            + &three()
            + &peer("p", "node: b, peerIP: '10.0.0.1:1790', asNumber: 64512");
        for name in ["a", "b"] {
            let expected =
                format!("BGPPeer/p says that 10.0.0.1 listens on port 1790, but Node/a listens on {end}");
            assert!(warnings(&[&all], name).contains(&expected), "{name}: {:?}", warnings(&[&all], name));
        }
        peers(&[&all], "a")
    };
    let peers =
        told("false, listenPort: 1179", "1179: the peers of Node/a towards the other nodes do not exist");
    assert_eq!(peers, [] as [&str; 0]);
    // Where nobody has set a port any other leads to the node (Calico's rule), which dials.
    let peers = told("false", "179: nobody answers there, and the session waits for that node to dial");
    assert_eq!(peers, ["10.0.0.2 179 as64512 node later by BGPPeer/p"]);
}

#[test]
fn an_explicit_forward_peer_is_not_overwritten_by_a_reverse_one() {
    let all = mesh_off()
        + &three()
        + &peer("a-to-b", "node: a, peerIP: 10.0.0.2, asNumber: 64512, maxRestartTime: 30s")
        + &peer("a-all", "nodeSelector: all(), peerSelector: all()");
    let plan = plan_of(&[&all], "a");
    // "a-all" comes first by name within the pass of node-specific peers.
    assert_eq!(plan.peers[0].resource.to_string(), "BGPPeer/a-all");
    let back = peer("z", "node: b, peerIP: 10.0.0.1, asNumber: 64512");
    let all = mesh_off()
        + &three()
        + &peer("zz", "node: a, peerIP: 10.0.0.2, asNumber: 64512, maxRestartTime: 30s")
        + &back;
    let plan = plan_of(&[&all], "a");
    assert_eq!(
        (plan.peers[0].resource.to_string().as_str(), plan.peers[0].restart_time),
        ("BGPPeer/zz", Some(30))
    );
}

#[test]
fn a_reflectors_clients_are_its_internal_peers_outside_its_cluster() {
    let all = mesh_off()
        + &node("rr1", "10.0.0.1", "labels:rr: 'true';routeReflectorClusterID: 1.1.1.1")
        + &node("rr2", "10.0.0.2", "labels:rr: 'true';routeReflectorClusterID: 1.1.1.1")
        + &node("rr3", "10.0.0.3", "labels:rr: 'true';routeReflectorClusterID: 2.2.2.2")
        + &node("w", "10.0.0.4", "")
        + &node("x", "10.0.0.5", "asNumber: 65001")
        + &peer("rrs", "nodeSelector: all(), peerSelector: has(rr)");
    assert_eq!(
        peers(&[&all], "rr1"),
        [
            "10.0.0.2 179 as64512 node later by BGPPeer/rrs",
            "10.0.0.3 179 as64512 node later client of 1.1.1.1 by BGPPeer/rrs",
            "10.0.0.4 179 as64512 node later client of 1.1.1.1 by BGPPeer/rrs",
            "10.0.0.5 179 as65001 node later by BGPPeer/rrs",
        ]
    );
    assert_eq!(
        peers(&[&all], "w"),
        [
            "10.0.0.1 179 as64512 node first by BGPPeer/rrs",
            "10.0.0.2 179 as64512 node first by BGPPeer/rrs",
            "10.0.0.3 179 as64512 node first by BGPPeer/rrs",
        ]
    );
}

#[test]
fn reflectors_of_one_cluster_that_peer_by_address_are_each_others_clients() {
    let all = mesh_off()
        + &node("rr1", "10.0.0.1", "routeReflectorClusterID: 1.1.1.1")
        + &node("rr2", "10.0.0.2", "routeReflectorClusterID: 1.1.1.1")
        + &peer("p", "node: rr1, peerIP: 10.0.0.2, asNumber: 64512, reversePeering: Manual")
        + &peer("q", "node: rr2, peerIP: 10.0.0.1, asNumber: 64512, reversePeering: Manual");
    assert_eq!(peers(&[&all], "rr1"), ["10.0.0.2 179 as64512 node later client of 1.1.1.1 by BGPPeer/p"]);
}

#[test]
fn a_local_as_is_ours_at_one_end_and_the_peers_at_the_other() {
    let all = mesh_off()
        + &node("a", "10.0.0.1", "routeReflectorClusterID: 1.1.1.1")
        + &node("b", "10.0.0.2", "asNumber: 65002")
        + &peer("p", "node: a, peerIP: 10.0.0.2, asNumber: 65002, localASNumber: 65002");
    let plan = plan_of(&[&all], "a");
    assert_eq!(plan.peers[0].local_as_number.map(|asn| asn.get()), Some(65002));
    // Internal by the AS that is shown, so a client.
    assert!(plan.peers[0].rr_client);
    assert_eq!(peers(&[&all], "b"), ["10.0.0.1 179 as65002 node first by BGPPeer/p"]);
    // Nodes that a selector chooses see each node's own.
    let selected = all.replace("peerIP: 10.0.0.2, asNumber: 65002", "peerSelector: all()");
    assert_eq!(plan_of(&[&selected], "a").peers[0].local_as_number, None);
    assert_eq!(peers(&[&selected], "b"), ["10.0.0.1 179 as64512 node first by BGPPeer/p"]);
}

#[test]
fn keep_original_next_hop_holds_towards_another_as_only() {
    let next_hop = |spec: &str| {
        let all = mesh_off() + &three() + &peer("p", &format!("node: a, peerIP: 10.0.0.254, {spec}"));
        serde_json::to_value(plan_of(&[&all], "a").peers[0].next_hop).unwrap()
    };
    assert_eq!(next_hop("asNumber: 65000, keepOriginalNextHop: true"), "keep");
    assert_eq!(next_hop("asNumber: 64512, keepOriginalNextHop: true"), "auto");
    assert_eq!(next_hop("asNumber: 64512, nextHopMode: Keep"), "keep");
    assert_eq!(next_hop("asNumber: 64512, nextHopMode: Self"), "self");
    assert_eq!(next_hop("asNumber: 64512"), "auto");
    // Towards nodes that a selector chooses too, and from them back.
    let all = mesh_off()
        + &node("a", "10.0.0.1", "asNumber: 65001")
        + &node("b", "10.0.0.2", "asNumber: 65002")
        + &peer("p", "node: a, peerSelector: all(), keepOriginalNextHop: true");
    for name in ["a", "b"] {
        let next_hop = serde_json::to_value(plan_of(&[&all], name).peers[0].next_hop).unwrap();
        assert_eq!(next_hop, "keep", "{name}");
    }
}

#[test]
fn settings_of_a_peer_are_carried_into_the_plan() {
    let all = mesh_off()
        + &three()
        + &peer(
            "p",
            "node: a, peerIP: 10.0.0.254, asNumber: 65000, sourceAddress: None, maxRestartTime: 2m, \
             keepaliveTime: 20s, numAllowedLocalASNumbers: 2, ttlSecurity: 3, filters: [f, g], \
             password: {secretKeyRef: {name: s, key: k}}",
        );
    let plan = plan_of(&[&all], "a");
    let peer = serde_json::to_value(&plan.peers[0]).unwrap();
    for (key, value) in [
        ("sourceAddress", serde_json::json!(null)),
        ("restartTime", 120.into()),
        ("keepaliveTime", 20.into()),
        ("allowLocalAs", 2.into()),
        ("ttlSecurity", 3.into()),
        ("filters", serde_json::json!(["f", "g"])),
        ("passwordFrom", serde_json::json!({"name": "s", "key": "k"})),
    ] {
        assert_eq!(peer[key], value, "{key}");
    }
    assert_eq!(
        plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "BGPPeer/p names BGPFilter/f, which does not exist; it is skipped",
            "BGPPeer/p names BGPFilter/g, which does not exist; it is skipped",
        ]
    );
}

#[test]
fn a_router_leads_to_a_peer_from_the_end_that_names_it() {
    let led =
        [three(), peer("p", "node: a, peerIP: 10.0.0.2, asNumber: 64512, reachableBy: 10.0.0.254")].concat();
    let router = |node: &str| {
        let plan = plan_of(&[&led], node);
        assert_eq!(plan.warnings, []);
        plan.peers.iter().find_map(|peer| peer.reachable_by).map(|router| router.to_string())
    };
    assert_eq!(router("a").as_deref(), Some("10.0.0.254"));
    assert_eq!(router("b"), None, "how b reaches a is nothing that the resource says");
}

#[test]
fn a_node_does_not_peer_with_itself_whatever_the_port() {
    let all = mesh_off() + &three() + &peer("p", "peerIP: '10.0.0.1:1790', asNumber: 64512");
    let own = peers(&[&all], "a");
    assert!(!own.iter().any(|peer| peer.starts_with("10.0.0.1 ")), "{own:?}");
    assert_eq!(
        peers(
            &[&all.replace(
                "10.0.0.1:1790', asNumber: 64512",
                "10.0.0.1:1790', asNumber: 64512, reversePeering: Manual"
            )],
            "a"
        ),
        [] as [&str; 0]
    );
}

#[test]
fn a_peer_of_a_family_that_the_node_lacks_is_no_session_and_said() {
    let all = mesh_off() + &three() + &peer("p", "node: a, peerIP: '2001:db8::254', asNumber: 65000");
    assert_eq!(peers(&[&all], "a"), [] as [&str; 0]);
    assert!(
        warnings(&[&all], "a")
            .iter()
            .any(|warning| warning.starts_with("BGPPeer/p leads to 2001:db8::254, but"))
    );
}

#[test]
fn nodes_without_addresses_are_in_no_session_and_said() {
    let all = three()
        + "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: d}\n---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: e}\n";
    assert_eq!(peers(&[&all], "d"), [] as [&str; 0]);
    assert!(warnings(&[&all], "d")[0].starts_with("Node/d has no address in spec.bgp"));
    assert_eq!(
        warnings(&[&all], "a"),
        ["2 of the other nodes have no address in spec.bgp, so no node peers with them: d, e"]
    );
}

#[test]
fn a_node_without_an_ipv4_address_has_a_router_id_of_its_own() {
    let v6 = |name: &str, addr: &str| {
        node(name, "10.0.0.1", &format!("ipv6Address: '{addr}/64'")).replace("ipv4Address: 10.0.0.1/24, ", "")
    };
    let all = v6("a", "2001:db8::1") + &v6("b", "2001:db8::2");
    let (a, b) = (plan_of(&[&all], "a").router_id, plan_of(&[&all], "b").router_id);
    assert!(!a.is_unspecified() && a != b);
}

#[test]
fn only_confirmed_blocks_of_this_node_are_its_own() {
    let block = |name: &str, node: &str, cidr: &str, more: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata: {{name: {name}}}\n\
             spec: {{node: {node}, cidr: {cidr}, {more}}}\n"
        )
    };
    let all = three()
        + &block("b1", "a", "172.16.1.0/26", "state: confirmed")
        + &block("b2", "a", "172.16.0.0/26", "")
        + &block("b3", "a", "172.16.2.0/26", "state: pending")
        + &block("b4", "a", "172.16.3.0/26", "state: pendingDeletion")
        + &block("b5", "a", "172.16.4.0/26", "state: confirmed, deleted: 'true'")
        + &block("b6", "a", "172.16.5.0/26", "state: confirmed, type: virtual")
        + &block("b7", "b", "172.16.6.0/26", "state: confirmed")
        + &block("b8", "b", "172.16.1.0/26", "state: confirmed");
    let plan = plan_of(&[&all], "a");
    assert_eq!(
        plan.blocks.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["172.16.0.0/26", "172.16.1.0/26"]
    );
    assert_eq!(
        plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["the block 172.16.1.0/26 is claimed by several nodes: a, b; traffic for it goes to one of them"]
    );
}

#[test]
fn a_pool_that_wants_encapsulation_says_which_of_its_routes_are_written() {
    let pool = |name: &str, cidr: &str, more: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}, {more}}}\n"
        )
    };
    let all = three()
        + &pool("plain", "10.1.0.0/16", "ipipMode: Never, vxlanMode: Never")
        + &pool("ipip", "10.2.0.0/16", "ipipMode: Always")
        + &pool("cross", "10.3.0.0/16", "ipipMode: CrossSubnet")
        + &pool("vxlan", "10.4.0.0/16", "vxlanMode: CrossSubnet");
    let plan = plan_of(&[&all], "a");
    let writes: Vec<_> = plan.pools.iter().map(|pool| format!("{} {:?}", pool.name, pool.write)).collect();
    assert_eq!(writes, ["plain Always", "ipip Never", "cross OnLinkOnly", "vxlan OnLinkOnly"]);
    assert_eq!(
        plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "IPPool/cross (10.3.0.0/16) has ipipMode CrossSubnet, and Manx does not encapsulate: its routes are written only where the next hop is on-link",
            "IPPool/ipip (10.2.0.0/16) has ipipMode Always, and Manx does not encapsulate: its routes are not written",
            "IPPool/vxlan (10.4.0.0/16) has vxlanMode CrossSubnet, and Manx does not encapsulate: its routes are written only where the next hop is on-link",
        ]
    );
}

#[test]
fn pools_that_overlap_are_said() {
    let pool = |name: &str, cidr: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: {cidr}}}\n"
        )
    };
    let all = three() + &pool("x", "10.3.0.0/16") + &pool("y", "10.2.0.0/15") + &pool("z", "10.4.0.0/16");
    assert_eq!(
        warnings(&[&all], "a"),
        [
            "IPPool/y (10.2.0.0/15) and IPPool/x (10.3.0.0/16) overlap; an address in both may be given to two pods"
        ]
    );
}

#[test]
fn an_unknown_node_is_an_error_that_names_the_nearest() {
    let all = three().replace("name: c,", "name: k8s-worker-01,");
    let snapshot = snapshot(&[&all]);
    let error = |name: &str| manx_resources::plan(&snapshot, name).unwrap_err().to_string();
    assert_eq!(error("k8s-worker-1"), "there is no Node \"k8s-worker-1\"; did you mean k8s-worker-01?");
    assert_eq!(error("kw01"), "there is no Node \"kw01\"; there are a, b, k8s-worker-01");
    let empty = manx_resources::Snapshot::default();
    assert_eq!(manx_resources::plan(&empty, "a").unwrap_err().to_string(), {
        "there is no Node \"a\"; there are no Node resources at all"
    });
}

#[test]
fn shared_addresses_and_missing_nodes_are_said() {
    let all =
        three().replace("10.0.0.10", "10.0.0.2") + &peer("p", "node: x, peerIP: 10.0.0.254, asNumber: 65000");
    assert_eq!(
        warnings(&[&all], "a"),
        [
            "BGPPeer/p is for Node/x, which does not exist",
            "10.0.0.2 is the address of several nodes: b, c; peers reach one of them",
        ]
    );
}

#[test]
fn a_peer_without_an_as_gets_the_clusters_and_it_is_said() {
    let all = mesh_off() + &three() + &peer("p", "node: a, peerIP: 10.0.0.2");
    assert_eq!(peers(&[&all], "a"), ["10.0.0.2 179 as64512 node later by BGPPeer/p"]);
    assert_eq!(warnings(&[&all], "a"), ["BGPPeer/p has no asNumber; the cluster's, 64512, is taken"]);
}

#[test]
fn with_bind_mode_node_ip_a_node_listens_on_its_own_addresses_only() {
    let both = "---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a}\n\
                spec: {bgp: {ipv4Address: 10.0.0.1/24, ipv6Address: 'fd00::1/64'}}\n";
    let four = node("b", "10.0.0.2", "");
    let listens = |configuration: &str, node| -> Vec<String> {
        let plan = plan_of(&[both, &four, configuration], node);
        plan.listen_addresses.iter().map(ToString::to_string).collect()
    };
    let node_ip = config("default", "bindMode: NodeIP");
    assert_eq!(listens(&node_ip, "a"), ["10.0.0.1", "fd00::1"]);
    assert_eq!(listens(&node_ip, "b"), ["10.0.0.2"]);
    assert_eq!(listens(&config("default", "bindMode: None"), "a"), [""; 0]);
    assert_eq!(listens(&config("default", ""), "a"), [""; 0]);
}
