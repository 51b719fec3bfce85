//! What lint finds: for each rule a cluster in which it finds something, and one that differs in what is wrong alone.

use manx_resources::{Finding, Gravity, Rule, Snapshot, collect, lint};

const CLUSTER: &str = include_str!("../../../../examples/seed/1-cluster.yaml");
const MESH_OFF: &str = include_str!("../../../../examples/seed/2.1-bgpconfiguration.yaml");
const REFLECTOR: &str = include_str!("../../../../examples/seed/2.2-node.yaml");
const PEER: &str = include_str!("../../../../examples/seed/2.3-bgppeer.yaml");

/// A later text replaces what an earlier one says of a resource.
fn findings(texts: &[&str]) -> Vec<Finding> {
    let mut snapshot = Snapshot::default();
    for text in texts {
        let collected = collect([("test.yaml", *text)]);
        assert!(
            collected.problems.iter().all(|problem| !problem.is_error()),
            "{text}: {:?}",
            collected.problems
        );
        for kind in manx_resources::Kind::ALL {
            collected.snapshot.of_kind(kind).into_iter().for_each(|resource| snapshot.insert(resource));
        }
    }
    lint(&snapshot)
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    let mut rules: Vec<Rule> = findings(texts).iter().map(|finding| finding.rule).collect();
    rules.dedup();
    rules
}

fn head(kind: &str, name: &str) -> String {
    format!("---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: '{name}'}}\n")
}

fn node(name: &str, last: u8, more: &str) -> String {
    head("Node", name) + &format!("spec: {{bgp: {{ipv4Address: 10.0.0.{last}/24{more}}}}}\n")
}

fn labelled(name: &str, last: u8, labels: &str, more: &str) -> String {
    node(name, last, more)
        .replace(&format!("name: '{name}'"), &format!("name: '{name}', labels: {{{labels}}}"))
}

fn spec(kind: &str, name: &str, spec: &str) -> String {
    head(kind, name) + &format!("spec: {{{spec}}}\n")
}

fn mesh_off() -> String {
    spec("BGPConfiguration", "default", "nodeToNodeMeshEnabled: false")
}

/// The one finding of the rule.
fn one(rule: Rule, texts: &[&str]) -> Finding {
    let found: Vec<Finding> = findings(texts).into_iter().filter(|finding| finding.rule == rule).collect();
    let [finding] = found.as_slice() else { panic!("{rule:?}: {found:#?}") };
    assert!(!finding.message.is_empty() && !finding.remedy.is_empty());
    finding.clone()
}

/// The rule finds something in the first, and nothing in the second.
fn only_in_the_first(rule: Rule, first: &[&str], second: &[&str]) -> Finding {
    let near: Vec<Finding> = findings(second).into_iter().filter(|finding| finding.rule == rule).collect();
    assert_eq!(near, [], "{rule:?}");
    one(rule, first)
}

#[test]
fn the_story_of_the_seed_is_clean_but_for_its_single_reflector() {
    assert_eq!(rules(&[CLUSTER]), []);
    assert_eq!(rules(&[CLUSTER, MESH_OFF, REFLECTOR, PEER]), [Rule::OneReflector]);
    let single = one(Rule::OneReflector, &[CLUSTER, MESH_OFF, REFLECTOR, PEER]);
    assert_eq!(single.gravity, Gravity::Warning);
    assert_eq!(single.nodes, ["k8s-worker-01", "k8s-worker-02"]);
}

#[test]
fn the_story_half_way_is_told_by_what_is_cut_off() {
    // The mesh goes before anything is in its place.
    let off = one(Rule::NoPeers, &[CLUSTER, MESH_OFF]);
    assert_eq!((off.gravity, off.nodes.len()), (Gravity::Error, 3));
    assert!(
        off.message.starts_with("the node-to-node mesh is off and no BGPPeer concerns"),
        "{}",
        off.message
    );
    // The reflector leaves the mesh before anybody peers with it.
    let cut = one(Rule::NoPeers, &[CLUSTER, REFLECTOR]);
    assert_eq!(cut.nodes, ["k8s-master-01"]);
    assert!(cut.message.contains("is cut off"), "{}", cut.message);
}

#[test]
fn a_wrong_as_that_kills_the_reverse_peers_is_found() {
    let nodes = node("a", 1, "") + &node("b", 2, "");
    let peer =
        |asn: u32| nodes.clone() + &spec("BGPPeer", "p", &format!("peerIP: 10.0.0.2, asNumber: {asn}"));
    let finding = only_in_the_first(Rule::WrongAs, &[&peer(64513)], &[&peer(64512)]);
    assert_eq!(finding.remedy, "write asNumber: 64512");
    assert_eq!(finding.nodes, ["b"]);
}

#[test]
fn a_port_on_which_the_node_does_not_listen_is_found() {
    let nodes =
        node("a", 1, "") + &node("b", 2, "") + &spec("BGPConfiguration", "node.b", "listenPort: 1790");
    let peer = |port: u16| {
        nodes.clone() + &spec("BGPPeer", "p", &format!("peerIP: '10.0.0.2:{port}', asNumber: 64512"))
    };
    let finding = only_in_the_first(Rule::WrongPort, &[&peer(179)], &[&peer(1790)]);
    assert_eq!(finding.remedy, "write peerIP: 10.0.0.2:1790");
}

/// Two reflectors, each with a client of its own, that peer with each other.
fn reflectors(second_id: &str, shared: bool) -> String {
    let to = |name: &str, reflector: u8, clients: &str| {
        spec(
            "BGPPeer",
            name,
            &format!("nodeSelector: \"{clients}\", peerIP: 10.0.0.{reflector}, asNumber: 64512"),
        )
    };
    let (first, second) =
        if shared { ("has(client)", "has(client)") } else { ("client == '1'", "client == '2'") };
    mesh_off()
        + &labelled("r1", 1, "rr: 'true'", ", routeReflectorClusterID: 1.1.1.1")
        + &labelled("r2", 2, "rr: 'true'", &format!(", routeReflectorClusterID: {second_id}"))
        + &labelled("c1", 11, "client: '1'", "")
        + &labelled("c2", 12, "client: '2'", "")
        + &to("to-r1", 1, first)
        + &to("to-r2", 2, second)
        + &spec("BGPPeer", "among", "nodeSelector: has(rr), peerSelector: has(rr)")
}

#[test]
fn reflectors_of_one_cluster_id_with_clients_of_their_own_are_found() {
    let finding = only_in_the_first(
        Rule::Unreached,
        &[&reflectors("1.1.1.1", false)],
        &[&reflectors("2.2.2.2", false)],
    );
    assert_eq!(finding.gravity, Gravity::Error);
    assert_eq!(finding.nodes, ["c1", "c2", "r1", "r2"]);
    assert!(
        finding.message.starts_with("Node/r1 and Node/r2 have the same routeReflectorClusterID"),
        "{}",
        finding.message
    );
    assert!(finding.message.contains("no routes pass between c1 and c2"), "{}", finding.message);
    assert!(finding.remedy.contains("routeReflectorClusterID of its own"), "{}", finding.remedy);
    // With one id it is well, too, as long as every client peers with both.
    assert!(!rules(&[&reflectors("1.1.1.1", true)]).contains(&Rule::Unreached));
}

#[test]
fn a_reflector_that_the_rest_of_the_mesh_does_not_hear_is_found() {
    // Out of the mesh, with one client inside: routes that a client hears in the mesh it does not pass on.
    let cluster = |to: &str| {
        labelled("r", 1, "rr: 'true'", ", routeReflectorClusterID: 1.1.1.1")
            + &node("a", 2, "")
            + &node("b", 3, "")
            + &spec("BGPPeer", "p", &format!("{to}peerSelector: has(rr)"))
    };
    let finding = only_in_the_first(Rule::Unreached, &[&cluster("node: a, ")], &[&cluster("")]);
    assert_eq!(finding.nodes, ["b", "r"]);
}

#[test]
fn what_a_switch_may_pass_on_is_not_called_cut() {
    let cluster = mesh_off()
        + &node("a", 1, "")
        + &node("b", 2, "")
        + &spec("BGPPeer", "tor-a", "node: a, peerIP: 10.0.0.250, asNumber: 65001")
        + &spec("BGPPeer", "tor-b", "node: b, peerIP: 10.0.0.251, asNumber: 65002");
    assert_eq!(rules(&[&cluster]), []);
    // But a third that has no switch is.
    let third = cluster.clone()
        + &node("c", 3, "")
        + &spec("BGPPeer", "to-a", "node: c, peerIP: 10.0.0.1, asNumber: 64512");
    assert_eq!(rules(&[&third]), []);
    let cut = cluster + &node("c", 3, "");
    assert_eq!(rules(&[&cut]), [Rule::NoPeers]);
}

#[test]
fn a_chain_within_one_as_passes_nothing_on() {
    let cluster = mesh_off()
        + &node("a", 1, "")
        + &node("b", 2, "")
        + &node("c", 3, "")
        + &spec("BGPPeer", "ab", "node: a, peerIP: 10.0.0.2, asNumber: 64512")
        + &spec("BGPPeer", "bc", "node: b, peerIP: 10.0.0.3, asNumber: 64512");
    assert_eq!(one(Rule::Unreached, &[&cluster]).nodes, ["a", "c"]);
    // Of three ASes each passes on what it hears.
    let external = cluster
        .replace("ipv4Address: 10.0.0.2/24", "ipv4Address: 10.0.0.2/24, asNumber: 65002")
        .replace("ipv4Address: 10.0.0.3/24", "ipv4Address: 10.0.0.3/24, asNumber: 65003")
        .replace("10.0.0.2, asNumber: 64512", "10.0.0.2, asNumber: 65002")
        .replace("10.0.0.3, asNumber: 64512", "10.0.0.3, asNumber: 65003");
    assert_eq!(rules(&[&external]), []);
}

#[test]
fn a_session_that_one_end_alone_plans_is_found() {
    let nodes = mesh_off() + &node("a", 1, "") + &node("b", 2, "");
    let peer = |more: &str| {
        nodes.clone() + &spec("BGPPeer", "p", &format!("node: a, peerIP: 10.0.0.2, asNumber: 64512{more}"))
    };
    let manual = peer(", reversePeering: Manual");
    let back = spec("BGPPeer", "back", "node: b, peerIP: 10.0.0.1, asNumber: 64512, reversePeering: Manual");
    let finding = only_in_the_first(Rule::OneSided, &[&manual], &[&manual, &back]);
    assert_eq!(finding.nodes, ["a"]);
    assert!(!rules(&[&peer("")]).contains(&Rule::OneSided));
}

#[test]
fn ends_that_name_different_ases_are_found() {
    let nodes = mesh_off() + &node("a", 1, "") + &node("b", 2, "");
    let both = |local: &str| {
        nodes.clone()
            + &spec(
                "BGPPeer",
                "ab",
                &format!("node: a, peerIP: 10.0.0.2, asNumber: 64512, reversePeering: Manual{local}"),
            )
            + &spec("BGPPeer", "ba", "node: b, peerIP: 10.0.0.1, asNumber: 64512, reversePeering: Manual")
    };
    let finding = only_in_the_first(Rule::AsMismatch, &[&both(", localASNumber: 65009")], &[&both("")]);
    assert_eq!(finding.nodes, ["b"]);
}

#[test]
fn what_names_or_selects_nobody_is_found() {
    let nodes = labelled("a", 1, "rack: '1'", "") + &node("b", 2, "");
    let peer = |spec_: &str| nodes.clone() + &spec("BGPPeer", "p", spec_);
    let all = "peerIP: 10.0.0.250, asNumber: 65001";
    only_in_the_first(
        Rule::SelectsNobody,
        &[&peer(&format!("nodeSelector: rack == '2', {all}"))],
        &[&peer(&format!("nodeSelector: rack == '1', {all}"))],
    );
    only_in_the_first(
        Rule::UnknownNode,
        &[&peer(&format!("node: c, {all}"))],
        &[&peer(&format!("node: b, {all}"))],
    );
    let of_node =
        |name: &str| nodes.clone() + &spec("BGPConfiguration", &format!("node.{name}"), "listenPort: 179");
    only_in_the_first(Rule::UnknownNode, &[&of_node("c")], &[&of_node("a")]);
    let filtered = peer(&format!("{all}, filters: [f]"));
    let filter = spec("BGPFilter", "f", "");
    only_in_the_first(Rule::UnknownFilter, &[&filtered], &[&filtered, &filter]);
    only_in_the_first(Rule::UnusedFilter, &[&nodes, &filter], &[&filtered, &filter]);
    only_in_the_first(
        Rule::AsAssumed,
        &[&peer("peerIP: 10.0.0.2")],
        &[&peer("peerIP: 10.0.0.2, asNumber: 64512")],
    );
}

#[test]
fn rules_that_say_different_things_of_one_session_are_found() {
    let peers = |second: &str| {
        node("a", 1, "")
            + &spec("BGPPeer", "p1", "peerIP: 10.0.0.250, asNumber: 65001")
            + &spec("BGPPeer", "p2", &format!("peerIP: 10.0.0.{second}"))
    };
    let finding = only_in_the_first(
        Rule::DuplicatePeer,
        &[&peers("250, asNumber: 65002")],
        &[&peers("251, asNumber: 65002")],
    );
    assert!(finding.message.contains("BGPPeer/p1 counts"), "{}", finding.message);
    let named: Vec<String> = finding.resources.iter().map(ToString::to_string).collect();
    assert!(["BGPPeer/p1", "BGPPeer/p2"].iter().all(|name| named.iter().any(|is| is == name)), "{named:?}");
    // What says the same is none.
    assert!(!rules(&[&peers("250, asNumber: 65001")]).contains(&Rule::DuplicatePeer));
}

#[test]
fn addresses_that_are_none_of_a_node_are_found() {
    let bridge =
        |address: &str| head("Node", "a") + &format!("spec: {{bgp: {{ipv4Address: {address}/16}}}}\n");
    let finding = only_in_the_first(Rule::BridgeAddress, &[&bridge("172.17.0.1")], &[&bridge("172.17.0.2")]);
    assert!(finding.message.contains("docker0"), "{}", finding.message);
    let a = node("a", 1, "");
    only_in_the_first(Rule::SharedAddress, &[&a, &node("b", 1, "")], &[&a, &node("b", 2, "")]);
    only_in_the_first(Rule::NoAddress, &[&a, &(head("Node", "b") + "spec: {}\n")], &[&a, &node("b", 2, "")]);
    let v6 = spec("BGPPeer", "p", "peerIP: 'fd00::9', asNumber: 65001");
    only_in_the_first(Rule::NoOwnAddress, &[&a, &v6], &[&node("a", 1, ", ipv6Address: 'fd00::1/64'"), &v6]);
}

#[test]
fn a_large_mesh_is_found() {
    let mesh = |nodes: u8| (1..=nodes).map(|last| node(&format!("n{last}"), last, "")).collect::<String>();
    let finding = only_in_the_first(Rule::LargeMesh, &[&mesh(101)], &[&mesh(100)]);
    assert!(finding.message.contains("5050 sessions"), "{}", finding.message);
    assert_eq!(rules(&[&mesh(100)]), []);
}

#[test]
fn pools_and_blocks_that_do_not_fit_are_found() {
    let pool = |name: &str, spec_: &str| spec("IPPool", name, spec_);
    let block = |name: &str, node: &str, cidr: &str| {
        spec(
            "BlockAffinity",
            name,
            &format!("node: {node}, cidr: {cidr}, state: confirmed, deleted: 'false'"),
        )
    };
    let a = node("a", 1, "") + &node("b", 2, "");
    let wide = pool("wide", "cidr: 172.16.0.0/16");
    only_in_the_first(
        Rule::PoolsOverlap,
        &[&a, &wide, &pool("narrow", "cidr: 172.16.8.0/24")],
        &[&a, &wide, &pool("narrow", "cidr: 172.17.8.0/24")],
    );
    let never = pool("wide", "cidr: 172.16.0.0/16, ipipMode: Always");
    assert_eq!(only_in_the_first(Rule::Encapsulated, &[&a, &never], &[&a, &wide]).gravity, Gravity::Error);
    let across = pool("wide", "cidr: 172.16.0.0/16, vxlanMode: CrossSubnet");
    assert_eq!(one(Rule::Encapsulated, &[&a, &across]).gravity, Gravity::Warning);
    let of_a = block("b1", "a", "172.16.8.0/26");
    only_in_the_first(Rule::BlockOutsidePools, &[&a, &of_a], &[&a, &wide, &of_a]);
    only_in_the_first(
        Rule::BlockOfUnknownNode,
        &[&a, &wide, &block("b1", "c", "172.16.8.0/26")],
        &[&a, &wide, &of_a],
    );
    only_in_the_first(
        Rule::BlockClaimedTwice,
        &[&a, &wide, &of_a, &block("b2", "b", "172.16.8.0/26")],
        &[&a, &wide, &of_a, &block("b2", "b", "172.16.8.64/26")],
    );
    only_in_the_first(Rule::BlockSize, &[&a, &wide, &block("b1", "a", "172.16.8.0/28")], &[&a, &wide, &of_a]);
    let disabled = pool("wide", "cidr: 172.16.0.0/16, disabled: true");
    only_in_the_first(Rule::BlockInDisabledPool, &[&a, &disabled, &of_a], &[&a, &wide, &of_a]);
    let services =
        |cidr: &str| spec("BGPConfiguration", "default", &format!("serviceClusterIPs: [{{cidr: {cidr}}}]"));
    only_in_the_first(
        Rule::ServiceInPool,
        &[&a, &wide, &services("172.16.9.0/24")],
        &[&a, &wide, &services("10.96.0.0/12")],
    );
}

#[test]
fn a_router_id_that_two_nodes_have_is_found() {
    let six = |name: &str| head("Node", name) + "spec: {bgp: {ipv6Address: 'fd00::6/64'}}\n";
    let id = manx_resources::router_id_of_name("six");
    let four =
        |address: &str| head("Node", "four") + &format!("spec: {{bgp: {{ipv4Address: {address}/24}}}}\n");
    let finding = only_in_the_first(
        Rule::SharedRouterId,
        &[&six("six"), &four(&id.to_string())],
        &[&six("six"), &four("10.0.0.1")],
    );
    assert!(finding.message.contains(&id.to_string()), "{finding:?}");
    assert_eq!(finding.nodes, ["six", "four"]);
}

#[test]
fn what_has_no_effect_is_found() {
    let with = spec("BGPConfiguration", "default", "localWorkloadPeeringIPV4: 10.0.0.1");
    let found = rules(&[&with]);
    assert!(found.is_empty() || found == [Rule::WithoutEffect], "{found:?}");
}

#[test]
fn what_felix_does_to_the_same_routes_is_told_once_for_the_cluster_and_for_nodes_that_differ() {
    let felix = |name: &str, of: &str| spec("FelixConfiguration", name, of);
    let two = [node("a", 1, ""), node("b", 2, "")].concat();
    let finding = only_in_the_first(
        Rule::FelixBpf,
        &[&two, &felix("default", "bpfEnabled: true")],
        &[&two, &felix("default", "bpfEnabled: false")],
    );
    assert!(finding.message.starts_with("switches Felix's own BPF dataplane on"), "{finding:?}");
    assert_eq!(
        (finding.nodes.len(), finding.resources[0].to_string().as_str()),
        (0, "FelixConfiguration/default")
    );
    // One node alone has it.
    let finding = one(
        Rule::FelixBpf,
        &[&two, &felix("default", "bpfEnabled: false"), &felix("node.b", "bpfEnabled: true")],
    );
    assert_eq!(
        (finding.nodes.as_slice(), finding.resources[0].name.as_str()),
        (&["b".to_owned()][..], "node.b")
    );
    for (routes, is) in
        [("Enabled", true), ("EnabledNoEncapOnly", true), ("EnabledIPIPOnly", false), ("Disabled", false)]
    {
        let found = rules(&[&two, &felix("default", &format!("programClusterRoutes: {routes}"))]);
        assert_eq!(found.contains(&Rule::FelixRoutes), is, "{routes}");
    }
    let says =
        |priority: u32| spec("BGPConfiguration", "default", &format!("ipv4NormalRoutePriority: {priority}"));
    let finding = only_in_the_first(
        Rule::PriorityMismatch,
        &[&two, &says(2048), &felix("default", "ipv4NormalRoutePriority: 1024")],
        &[&two, &says(1024), &felix("default", "ipv4NormalRoutePriority: 1024")],
    );
    assert!(finding.message.contains("1024, and the BGPConfiguration 2048"), "{finding:?}");
}
