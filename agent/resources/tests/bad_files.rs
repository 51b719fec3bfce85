//! What is wrong with a document is told with its place, its field and the remedy, all of it at once.

use manx_resources::parse;
use proptest::prelude::*;

fn problems(text: &str) -> Vec<String> {
    let parsed = parse("f", text);
    parsed
        .problems
        .iter()
        .chain(&parsed.skipped)
        .map(|problem| {
            let severity = if problem.is_error() { "error" } else { "warning" };
            format!("{severity} {problem}")
        })
        .collect()
}

#[track_caller]
fn expect(text: &str, expected: &[&str]) {
    let found = problems(text);
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

fn peer(spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: p\nspec:\n{spec}")
}

fn config(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: {name}\nspec:\n{spec}"
    )
}

fn node(spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: n\nspec:\n{spec}")
}

fn pool(spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: i\nspec:\n{spec}")
}

#[test]
fn the_seeds_documents_have_no_fault() {
    for text in [
        include_str!("seed/1-cluster.yaml"),
        include_str!("../../../examples/seed/2.1-bgpconfiguration.yaml"),
        include_str!("../../../examples/seed/2.2-node.yaml"),
        include_str!("../../../examples/seed/2.3-bgppeer.yaml"),
    ] {
        expect(text, &[]);
    }
}

#[test]
fn all_faults_of_a_file_are_told_at_once() {
    expect(
        &format!(
            "{}---\n{}",
            peer("  peerIP: 192.0.2.1.5\n  asNumber: 61234x\n  nodeSelctor: all()\n"),
            node("  bgp: {}\n")
        ),
        &[
            "error f:6:11: BGPPeer \"p\": spec.peerIP: \"192.0.2.1.5\" is not an address to peer with; write 192.0.2.1, \
             192.0.2.1:1790, 2001:db8::1 or [2001:db8::1]:1790",
            "error f:7:13: BGPPeer \"p\": spec.asNumber: \"61234x\" is not an AS number; write 64512, or 1.10 for 65546",
            "warning f:8:3: BGPPeer \"p\": spec.nodeSelctor: unknown field; did you mean nodeSelector?",
            "error f:15:8: Node \"n\": spec.bgp: Spec.BGP should not be empty; leave bgp out, or set ipv4Address or \
             ipv6Address",
        ],
    );
}

#[test]
fn json_has_lines_and_columns_too() {
    expect(
        "{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"Node\",\n  \"metadata\": {\"name\": \"n\"},\n  \"spec\": {\"bgp\": {\"asNumber\": 0}}}",
        &[
            "error f:3:32: Node \"n\": spec.bgp.asNumber: AS 0 is reserved (RFC 7607); an AS number is 1 to 4294967295",
        ],
    );
}

#[test]
fn a_fault_of_the_text_itself_has_its_place() {
    expect(
        "a: b\n c: d\n",
        &[
            "error f:2:3: mapping values are not allowed in this context; indent the line as its neighbours are, or put text \
             that has \": \" in it in quotes",
        ],
    );
    expect(
        &peer("  peerIP: 192.0.2.1\n  peerIP: 192.0.2.2\n"),
        &["error f:7:3: BGPPeer \"p\": the key \"peerIP\" stands twice; the first is in line 6"],
    );
}

#[test]
fn what_is_no_yaml_is_told_with_its_remedy() {
    for (text, place, remedy) in [
        ("a:\n\tb: c\n", "2:2", "spaces, not with tabs"),
        ("a:\n  b: 1\n\tc: 2\n", "2:6", "spaces, not with tabs"),
        ("a:\n  b: c\n d: e\n", "3:2", "as its neighbours are"),
        ("a: has(x) && b == 'c': d\n", "1:22", "in it in quotes"),
        ("a: [1, 2\nb: c\n", "2:2", "is a ] or } missing"),
        ("{\"a\": 1 \"b\": 2}\n", "1:12", "is a comma, ] or } missing?"),
        ("a: b\nc\n", "3:1", "with a space behind the colon"),
        ("a: @x\n", "1:4", "begins with it in quotes"),
        ("a: \"\\q\"\n", "1:4", "for a backslash"),
        ("a: 'it's'\n", "1:8", "write '' for a quote"),
        ("a: \"x\nb: c\n", "1:4", "is the last quote missing?"),
    ] {
        let found = problems(text).join("\n");
        assert!(
            found.starts_with(&format!("error f:{place}: ")) && found.contains(remedy),
            "{text:?}: {found}"
        );
    }
}

#[test]
fn kind_and_version_are_named_by_what_is_nearest() {
    expect(
        "apiVersion: projectcalico.org/v1\nkind: BGPPer\nmetadata: {name: p}\n",
        &[
            "error f:1:13: BGPPer \"p\": apiVersion: \"projectcalico.org/v1\" is not known; write projectcalico.org/v3",
            "error f:2:7: BGPPer \"p\": kind: \"BGPPer\" is not known; did you mean BGPPeer?",
        ],
    );
    expect(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: p}\n",
        &[
            "error f:1:13: ConfigMap \"p\": apiVersion: \"v1\" is not known; write projectcalico.org/v3",
            "error f:2:7: ConfigMap \"p\": kind: \"ConfigMap\" is not known; Manx knows BGPConfiguration, BGPPeer, BGPFilter, Node, \
             IPPool, BlockAffinity, IPAMBlock, ClusterInformation, IPReservation, IPAMConfiguration, FelixConfiguration, CalicoNodeStatus, Secret",
        ],
    );
    expect(
        "x: 1\n",
        &[
            "error f:1:1: apiVersion: is missing; write projectcalico.org/v3",
            "error f:1:1: kind: is missing; write one of BGPConfiguration, BGPPeer, BGPFilter, Node, IPPool, BlockAffinity, \
             IPAMBlock, ClusterInformation, IPReservation, IPAMConfiguration, FelixConfiguration, CalicoNodeStatus, Secret",
        ],
    );
    expect("- 1\n", &["error f:1:3: \"1\" stands where a mapping must; write fields below it"]);
}

#[test]
fn calicos_other_kinds_are_skipped_with_a_word() {
    expect(
        "apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: {name: default}\nspec: {x: 1}\n",
        &[
            "warning f:2:7: KubeControllersConfiguration \"default\": kind: KubeControllersConfiguration is not used by Manx; the document is skipped",
        ],
    );
}

#[test]
fn metadata_is_checked() {
    expect(
        "apiVersion: projectcalico.org/v3\nkind: Node\n",
        &["error f:1:1: Node: metadata: is missing; write metadata: and name: below it"],
    );
    expect(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {labels: {a: 1, b: x}}\n",
        &[
            "error f:3:11: Node: metadata.name: is missing; every Node has a name",
            "error f:3:24: Node: metadata.labels[a]: 1 stands where text must; put it in quotes: \"1\"",
        ],
    );
    expect(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: A_b, namespace: x, nam: y}\n",
        &[
            "error f:3:18: Node \"A_b\": metadata.name: \"A_b\" is not a name; use lower case letters, digits, '-' and '.', \
         with a letter or digit at both ends and at most 253 characters",
            "error f:3:34: Node \"A_b\": metadata.namespace: Node belongs to the cluster, not to a namespace; leave it out",
            "warning f:3:37: Node \"A_b\": metadata.nam: unknown field; did you mean name?",
        ],
    );
}

#[test]
fn what_excludes_one_another_in_a_peer_is_told_in_calicos_words() {
    expect(
        &peer(
            "  node: a\n  nodeSelector: all()\n  peerIP: 192.0.2.1\n  peerSelector: has(rr)\n  asNumber: 1\n",
        ),
        &[
            "error f:7:17: BGPPeer \"p\": spec.nodeSelector: node and nodeSelector cannot both be set",
            "error f:9:17: BGPPeer \"p\": spec.peerSelector: peerIP and peerSelector cannot both be set",
            "error f:10:13: BGPPeer \"p\": spec.asNumber: asNumber must be empty when peerSelector is set",
        ],
    );
    expect(
        &peer("  node: a\n"),
        &[
            "warning f:6:3: BGPPeer \"p\": spec.peerIP: is missing; without peerIP or peerSelector this object makes no peer",
        ],
    );
    expect(
        &peer("  peerIP: 192.0.2.1\n  reachableBy: 2001:db8::1\n  nextHopMode: self\n"),
        &[
            "error f:7:16: BGPPeer \"p\": spec.reachableBy: ReachableBy and PeerIP address family mismatched: 2001:db8::1 and 192.0.2.1",
            "error f:8:16: BGPPeer \"p\": spec.nextHopMode: \"self\" is not one of Auto, Self, Keep",
        ],
    );
    expect(
        &peer(
            "  peerSelector: has(rr\n  maxRestartTime: 2\n  keepaliveTime: 0s\n  password: {secretKeyRef: {name: s}}\n",
        ),
        &[
            "error f:6:17: BGPPeer \"p\": spec.peerSelector: \"has(rr\" is not a selector: character 7: expected ) after the \
         label of has(",
            "error f:7:19: BGPPeer \"p\": spec.maxRestartTime: \"2\" is not a duration; write 90s, 2m or 1m30s",
            "error f:8:18: BGPPeer \"p\": spec.keepaliveTime: must be 1s to 65535s",
            "error f:9:28: BGPPeer \"p\": spec.password.secretKeyRef.key: is missing; a password is named by a secret's name and a key in it",
        ],
    );
}

#[test]
fn only_the_default_configuration_may_say_what_concerns_the_cluster() {
    expect(
        &config("node.a", "  asNumber: 64512\n  listenPort: 1179\n  nodeToNodeMeshEnabled: true\n"),
        &[
            "error f:6:13: BGPConfiguration \"node.a\": spec.asNumber: Cannot set asNumber on a non default BGP Configuration.",
            "error f:8:26: BGPConfiguration \"node.a\": spec.nodeToNodeMeshEnabled: Cannot set nodeToNodeMeshEnabled on a non \
         default BGP Configuration.",
        ],
    );
    expect(
        &config("other", "  listenPort: 70000\n  logSeverityScreen: Loud\n"),
        &[
            "warning f:4:3: BGPConfiguration \"other\": metadata: a BGPConfiguration has an effect under the name default or \
         node.NAME only, not \"other\"",
            "error f:6:15: BGPConfiguration \"other\": spec.listenPort: \"70000\" is not a number from 1 to 65535",
            "error f:7:22: BGPConfiguration \"other\": spec.logSeverityScreen: \"Loud\" is not one of Trace, Debug, Info, \
         Warning, Error, Fatal",
        ],
    );
    expect(
        &config("default", "  nodeToNodeMeshEnabled: maybe\n"),
        &[
            "error f:6:26: BGPConfiguration \"default\": spec.nodeToNodeMeshEnabled: \"maybe\" is neither true nor false",
        ],
    );
}

#[test]
fn there_are_no_settings_of_a_mesh_that_is_off() {
    expect(
        &config("default", "  nodeToNodeMeshEnabled: false\n  nodeMeshMaxRestartTime: 2m\n"),
        &[
            "error f:7:27: BGPConfiguration \"default\": spec.nodeMeshMaxRestartTime: nodeMeshMaxRestartTime cannot be \
             set when nodeToNodeMeshEnabled is false",
        ],
    );
}

#[test]
fn a_local_workload_peer_has_no_other_remote() {
    expect(
        &peer("  localWorkloadSelector: all()\n  peerIP: 192.0.2.1\n"),
        &[
            "error f:6:26: BGPPeer \"p\": spec.localWorkloadSelector: asNumber is required when localWorkloadSelector is set",
            "error f:7:11: BGPPeer \"p\": spec.peerIP: peerIP must be empty when localWorkloadSelector is set",
        ],
    );
}

#[test]
fn a_disabled_pool_may_be_smaller_than_a_block() {
    expect(&pool("  cidr: 10.0.0.0/27\n  disabled: true\n"), &[]);
}

#[test]
fn a_pool_must_make_sense_as_a_whole() {
    expect(
        &pool("  cidr: 10.0.0.0/27\n  ipipMode: Always\n  vxlanMode: Always\n"),
        &[
            "error f:6:9: IPPool \"i\": spec.cidr: IP pool size is too small for use with Calico IPAM. It must be equal to or greater than the block size: 10.0.0.0/27 holds no block of size 26",
            "error f:8:14: IPPool \"i\": spec.vxlanMode: ipipMode and vxlanMode cannot both be enabled on the same IP pool",
        ],
    );
    expect(
        &pool("  cidr: 2001:db8::/64\n  ipipMode: Always\n  blockSize: 26\n"),
        &[
            "error f:7:13: IPPool \"i\": spec.ipipMode: IPIP is not supported on IPv6 pools; use vxlanMode, or Never",
            "error f:8:14: IPPool \"i\": spec.blockSize: blockSize must be between 20 and 32 for IPv4 pools, and between 116 and 128 for IPv6 pools, not 26",
        ],
    );
    expect(
        &pool(
            "  cidr: 169.254.0.0/16\n  allowedUses: [LoadBalancer, Tunnel, Lunch]\n  nodeSelector: global()\n",
        ),
        &[
            "error f:6:9: IPPool \"i\": spec.cidr: IPPool CIDR overlaps with IPv4 link local range 169.254.0.0/16; pods cannot be reached by such addresses",
            "error f:7:16: IPPool \"i\": spec.allowedUses: \"Lunch\" is not one of Workload, Tunnel, LoadBalancer",
            "error f:7:16: IPPool \"i\": spec.allowedUses: LoadBalancer cannot be combined with Workload or Tunnel allowed uses",
            "error f:8:17: IPPool \"i\": spec.nodeSelector: global() selector is not valid for IPPool nodeSelector; leave it out",
            "error f:8:17: IPPool \"i\": spec.nodeSelector: IP Pool with AllowedUse LoadBalancer must have nodeSelector set to all()",
        ],
    );
}

#[test]
fn a_value_of_the_wrong_form_is_told_with_the_form() {
    expect(
        &node("  bgp: 7\n  orchRefs: x\n"),
        &[
            "error f:6:8: Node \"n\": spec.bgp: \"7\" stands where a mapping must; write fields below it",
            "error f:7:13: Node \"n\": spec.orchRefs: \"x\" stands where a list must",
        ],
    );
    expect(
        &node("  bgp: {ipv4Address: [1], asNumber: {}}\n"),
        &[
            "error f:6:22: Node \"n\": spec.bgp.ipv4Address: a list stands where one value must",
            "error f:6:37: Node \"n\": spec.bgp.asNumber: a mapping stands where one value must",
        ],
    );
}

#[test]
fn interfaces_that_bird_alone_would_ignore_are_told_to_be_no_matter_here() {
    expect(
        &config("default", "  ignoredInterfaces: [eth9]\n"),
        &[
            "warning f:6:22: BGPConfiguration \"default\": spec.ignoredInterfaces: has no effect: it keeps Calico's BIRD from \
             taking the prefixes of these interfaces as routes of its own, and Manx takes those of no interface; what is \
             announced are blocks, services and pods' addresses",
        ],
    );
}

#[test]
fn every_field_that_calico_knows_is_known() {
    let documents = [
        config("default", "  {logSeverityScreen: Info, nodeToNodeMeshEnabled: true, asNumber: 64512, serviceLoadBalancerIPs: [{cidr: 10.0.0.0/24}], serviceExternalIPs: [], serviceClusterIPs: [], serviceLoadBalancerAggregation: Enabled, communities: [{name: c, value: '1:2'}], prefixAdvertisements: [{cidr: 10.0.0.0/8, communities: [c]}], listenPort: 179, nodeMeshPassword: {secretKeyRef: {name: s, key: k, optional: true}}, nodeMeshMaxRestartTime: 2m0s, bindMode: NodeIP, ignoredInterfaces: [], localWorkloadPeeringIPV4: 169.254.1.1, localWorkloadPeeringIPV6: 'fe80::1', programClusterRoutes: Enabled, ipv4NormalRoutePriority: 1024, ipv6NormalRoutePriority: 1024}\n"),
        peer("  {node: a, peerIP: '[2001:db8::1]:179', asNumber: '1.10', localASNumber: 1, keepOriginalNextHop: yes, password: {secretKeyRef: {name: s, key: k}}, sourceAddress: UseNodeIP, maxRestartTime: 120s, keepaliveTime: 60s, numAllowedLocalASNumbers: 1, ttlSecurity: 1, reachableBy: '2001:db8::2', filters: [f], reversePeering: Auto}\n"),
        peer("  {nodeSelector: all(), localWorkloadSelector: app == 'x', asNumber: 65000}\n"),
        node("  {bgp: {asNumber: 1, ipv4Address: 10.0.0.1/24, ipv6Address: '2001:db8::1/64', ipv4IPIPTunnelAddr: 10.0.0.1, routeReflectorClusterID: 1.0.0.1}, ipv4VXLANTunnelAddr: 10.0.0.1, ipv6VXLANTunnelAddr: '::1', vxlanTunnelMACAddr: '66:00:00:00:00:00', vxlanTunnelMACAddrV6: '66:00:00:00:00:00', orchRefs: [{nodeName: n, orchestrator: k8s}], wireguard: {interfaceIPv4Address: 10.0.0.1}, addresses: [{address: 10.0.0.1, type: InternalIP}], interfaces: [{name: e, addresses: []}]}\nstatus: {wireguardPublicKey: k, podCIDRs: []}\n"),
        pool("  {cidr: 10.0.0.0/16, vxlanMode: Never, ipipMode: CrossSubnet, natOutgoing: true, disabled: false, disableBGPExport: true, blockSize: 26, nodeSelector: all(), namespaceSelector: all(), allowedUses: [Workload], assignmentMode: Manual}\nstatus: {conditions: []}\n"),
        "apiVersion: crd.projectcalico.org/v1\nkind: BlockAffinity\nmetadata: {name: b, uid: u, resourceVersion: '1', creationTimestamp: 2026-11-22T00:00:00Z, generation: 1, managedFields: [], ownerReferences: [], finalizers: [], annotations: {}, labels: null, selfLink: s}\nspec: {state: confirmed, node: n, type: host, cidr: 10.0.0.0/26, deleted: 'false'}\n".to_owned(),
    ];
    for document in documents {
        expect(&document, &[]);
    }
}

#[test]
fn of_very_many_problems_the_errors_are_told_first_and_the_rest_is_counted() {
    let unknown: String = (0..200).map(|n| format!("  k{n}: 1\n")).collect();
    let found = problems(&node(&format!("{unknown}  bgp: 7\n")));
    assert_eq!(found.len(), 101);
    assert!(found[99].starts_with("error f:206:8: Node \"n\": spec.bgp:"), "{}", found[99]);
    assert_eq!(found[100], "warning f: and 101 more problems");
    let wrong = "---\nkind: Nod\n".repeat(200);
    assert_eq!(problems(&wrong)[100], "error f: and 300 more problems");
}

#[test]
fn a_list_is_read_as_its_members() {
    let text = "apiVersion: projectcalico.org/v3\nkind: NodeList\nmetadata: {resourceVersion: '1'}\nitems:\n- apiVersion: projectcalico.org/v3\n  kind: Node\n  metadata: {name: a}\n- apiVersion: projectcalico.org/v3\n  kind: Node\n  metadata: {name: b}\n  spec: {bgp: x}\n";
    let parsed = parse("f", text);
    assert_eq!(parsed.documents.len(), 1);
    assert_eq!(parsed.problems[0].to_string(), {
        "f:11:15: Node \"b\": spec.bgp: \"x\" stands where a mapping must; write fields below it"
    });
}

#[test]
fn what_calicoctl_prints_of_several_names_is_read_as_its_members() {
    let node = |name: &str| {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: Node, metadata: {{name: {name}, creationTimestamp: null}}, spec: {{}}}}"
        )
    };
    let list = format!(
        "{{apiVersion: projectcalico.org/v3, kind: NodeList, metadata: {{}}, items: [{}, {}]}}",
        node("c"),
        node("d")
    );
    for text in [
        format!("- {}\n- {}\n- {list}\n", node("a"), node("b")),
        format!("[{}, {}, {list}]", node("a"), node("b")),
    ] {
        let parsed = parse("f", &text);
        assert_eq!(parsed.problems, []);
        let names: Vec<&str> = parsed.documents.iter().map(|document| document.resource.name()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert!(parsed.documents.iter().all(|document| document.body.is_none()));
    }
    let parsed = parse("f", "[]");
    assert!(parsed.documents.is_empty() && parsed.problems.is_empty());
    // A list within a list within a list is nothing that anybody prints.
    let deep = parse("f", &format!("[[[{}]]]", node("a")));
    assert!(deep.documents.is_empty() && deep.has_errors());
}

#[test]
fn what_says_nothing_excludes_nothing() {
    expect(
        &peer("  peerIP: 192.0.2.1\n  asNumber: 65001\n  keepOriginalNextHop: false\n  nextHopMode: Self\n"),
        &[],
    );
    expect(&peer("  peerSelector: has(rr)\n  asNumber: 0\n"), &[]);
    expect(
        &peer("  peerIP: 192.0.2.1\n  asNumber: 65001\n  keepOriginalNextHop: true\n  nextHopMode: Self\n"),
        &[
            "error f:8:24: BGPPeer \"p\": spec.keepOriginalNextHop: keepOriginalNextHop and nextHopMode cannot both be set; \
         keepOriginalNextHop is deprecated, use nextHopMode instead",
        ],
    );
    expect(
        &peer("  peerSelector: has(rr)\n  reachableBy: 192.0.2.1\n"),
        &["error f:7:16: BGPPeer \"p\": spec.reachableBy: reachableBy must be empty when peerIP is empty"],
    );
}

#[test]
fn empty_documents_are_nothing() {
    for text in ["", "\n", "---\n", "# words\n", "---\n---\n# words\n...\n"] {
        expect(text, &[]);
        assert!(parse("f", text).documents.is_empty());
    }
}

/// Text that is near to a document: pieces of real ones, in any order and broken.
fn near_document() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("apiVersion: projectcalico.org/v3\n".to_owned()),
        prop::sample::select(manx_resources::Kind::ALL.to_vec()).prop_map(|kind| format!("kind: {kind}\n")),
        Just("metadata:\n  name: a\n".to_owned()),
        Just("spec:\n".to_owned()),
        Just("  bgp:\n    ipv4Address: 10.0.0.1/24\n".to_owned()),
        Just("  peerIP: 10.0.0.1\n  asNumber: 1.10\n".to_owned()),
        Just("  cidr: 10.0.0.0/16\n  blockSize: 26\n".to_owned()),
        Just("  node: &x a\n  nodeSelector: *x\n".to_owned()),
        Just("---\n".to_owned()),
        "[ -~\n]{0,20}",
        "\\PC{0,10}",
    ];
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

/// A real document with a few characters removed, replaced or put in.
fn broken_document() -> impl Strategy<Value = String> {
    let real = [
        include_str!("seed/1-cluster.yaml"),
        include_str!("../../../examples/seed/2.2-node.yaml"),
        include_str!("../../../examples/seed/2.3-bgppeer.yaml"),
    ];
    let edit = (any::<prop::sample::Index>(), 0..4_usize, "[-:#&*!|>'\"%@`{}\\[\\],?~ \n\t0-9a-z\\\\]{0,3}");
    (prop::sample::select(real.to_vec()), prop::collection::vec(edit, 1..6)).prop_map(|(text, edits)| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, removed, put) in edits {
            let at = at.index(chars.len());
            let end = (at + removed).min(chars.len());
            chars.splice(at..end, put.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in prop_oneof![near_document(), broken_document()]) {
        let parsed = parse("f", &text);
        for document in &parsed.documents {
            if let Some(body) = &document.body {
                // What a document's body says alone is what it says in its text.
                let alone = parse("f", &text[body.clone()]);
                prop_assert_eq!(alone.documents.len(), 1);
                prop_assert_eq!(alone.documents[0].resource.document(), document.resource.document());
            }
        }
        let collected = manx_resources::collect([("f", text.as_str())]);
        for node in collected.snapshot.nodes() {
            prop_assert!(manx_resources::plan(&collected.snapshot, node.name()).is_ok());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        parse("f", &String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn what_is_printed_of_a_resource_is_read_as_the_same(
        text in prop_oneof![near_document(), broken_document()],
    ) {
        for document in parse("f", &text).documents {
            let printed = manx_resources::to_yaml(document.resource.document());
            let again = parse("f", &printed);
            prop_assert_eq!(again.documents.len(), 1, "{}", printed);
            prop_assert_eq!(again.documents[0].resource.document(), document.resource.document());
        }
    }
}

#[test]
fn labels_are_as_kubernetes_wants_them() {
    let with = |label: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: n\n  labels: {{{label}}}\n")
    };
    let long = "x".repeat(64);
    for good in ["a: ''", "example.com/a_b.c-d: 'X.1'", "node-role.kubernetes.io/control-plane: ''"] {
        expect(&with(good), &[]);
    }
    for bad in [
        "bad key: a",
        "-a: b",
        "a/b/c: d",
        "Ex.com/a: b",
        "a: 'b c'",
        "a: b-",
        &format!("a: {long}"),
        &format!("{long}: a"),
    ] {
        let found = problems(&with(bad));
        assert!(
            found.len() == 1 && found[0].contains("Node \"n\": metadata.labels: the label's "),
            "{bad}: {found:?}"
        );
    }
}
