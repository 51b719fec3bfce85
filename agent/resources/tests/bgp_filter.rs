//! BGPFilter: what of it is read, what is refused and in which words, and how plans carry it.

use manx_resources::{
    Key, Kind, Resource, collect, parse, plan,
    spec::{CidrMatch, Community, FilterAction, FilterOperation, FilterRule, MatchOperator, PeerType},
};

fn filter(spec: &str) -> String {
    format!("apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata:\n  name: f\nspec:\n{spec}")
}

#[track_caller]
fn expect(spec: &str, expected: &[&str]) {
    let parsed = parse("f", &filter(spec));
    let found: Vec<String> = parsed
        .problems
        .iter()
        .map(|p| format!("{}{p}", if p.is_error() { "" } else { "warning " }))
        .collect();
    assert_eq!(found, expected, "\n{}", found.join("\n"));
}

fn read(spec: &str) -> manx_resources::spec::BgpFilter {
    let text = filter(spec);
    let collected = collect([("f", text.as_str())]);
    assert_eq!(collected.problems, []);
    match collected.snapshot.get(&Key::new(Kind::BgpFilter, "f")) {
        Some(Resource::BgpFilter(object)) => object.spec.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_field_of_a_rule_is_read() {
    let spec = read(
        "  importV4:
  - cidr: 10.0.0.0/8
    matchOperator: NotIn
    prefixLength: {min: 4, max: 24}
    source: RemotePeers
    interface: 'eth*'
    peerType: eBGP
    communities: {values: ['65535:666']}
    asPathPrefix: [64512, '1.10']
    priority: 1024
    action: Accept
    operations:
    - addCommunity: {value: '4200000000:0:1'}
    - prependASPath: {prefix: [65001, 65002]}
    - setPriority: {value: 2147483646}
  exportV6:
  - action: Reject
",
    );
    let asn = |number| manx_net::Asn::new(number).unwrap();
    assert_eq!(
        spec.import_v4,
        [FilterRule {
            cidr: Some(CidrMatch {
                prefix: "10.0.0.0/8".parse().unwrap(),
                operator: MatchOperator::NotIn,
                // Not less than the cidr's own length.
                lengths: Some((8, 24)),
            }),
            remote_peers: true,
            interface: Some("eth*".into()),
            peer_type: Some(PeerType::Ebgp),
            community: Some(Community::Standard(65535, 666)),
            as_path_prefix: vec![asn(64512), asn(65546)],
            priority: Some(1024),
            action: FilterAction::Accept,
            operations: vec![
                FilterOperation::AddCommunity(Community::Large(4200000000, 0, 1)),
                FilterOperation::PrependAsPath(vec![asn(65001), asn(65002)]),
                FilterOperation::SetPriority(2147483646),
            ],
        }]
    );
    assert_eq!(
        spec.export_v6,
        [FilterRule {
            cidr: None,
            remote_peers: false,
            interface: None,
            peer_type: None,
            community: None,
            as_path_prefix: Vec::new(),
            priority: None,
            action: FilterAction::Reject,
            operations: Vec::new(),
        }]
    );
    assert!(spec.export_v4.is_empty() && spec.import_v6.is_empty());
}

#[test]
fn a_filter_without_rules_is_one() {
    assert_eq!(read("  importV4: []\n"), manx_resources::spec::BgpFilter::default());
    let bare = "apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {name: f}\n";
    assert!(parse("f", bare).problems.is_empty());
}

#[test]
fn calicos_rules_for_rules_hold_with_its_words() {
    expect(
        "  importV4:
  - {cidr: 10.0.0.0/8, action: Accept}
  - {matchOperator: In, action: Accept}
  - {prefixLength: {min: 8}, action: Accept}
  - {action: Reject, operations: [{setPriority: {value: 1}}]}
  - {action: Accept, operations: [{}]}
  - {action: Accept, operations: [{setPriority: {value: 1}, addCommunity: {value: '1:2'}}]}
",
        &[
            "f:7:5: BGPFilter \"f\": spec.importV4[0].matchOperator: cidr and matchOperator must both be set or both be empty",
            "f:8:5: BGPFilter \"f\": spec.importV4[1].cidr: cidr and matchOperator must both be set or both be empty",
            "f:9:20: BGPFilter \"f\": spec.importV4[2].prefixLength: cidr is required when prefixLength is set",
            "f:10:34: BGPFilter \"f\": spec.importV4[3].operations: operations may only be used with action Accept",
            "f:11:35: BGPFilter \"f\": spec.importV4[4].operations[0]: exactly one operation must be set: one of \
             addCommunity, prependASPath, setPriority",
            "f:12:35: BGPFilter \"f\": spec.importV4[5].operations[0]: exactly one operation must be set: one of \
             addCommunity, prependASPath, setPriority",
        ],
    );
}

#[test]
fn a_value_out_of_bounds_is_refused_with_its_place_and_a_remedy() {
    expect(
        "  exportV4:
  - {cidr: 'fd00::/8', matchOperator: In, action: Accept}
  - {cidr: 10.0.0.1/8, matchOperator: Within, action: Drop}
  - {cidr: 10.0.0.0/8, matchOperator: In, prefixLength: {max: 33}, action: Accept}
  - {source: Elsewhere, peerType: EBGP, priority: 0, action: Accept}
  - {interface: 'a b', asPathPrefix: [0], communities: {values: []}, action: Accept}
  - {communities: {values: ['65536:1']}, comunities: x}
",
        &[
            "f:7:12: BGPFilter \"f\": spec.exportV4[0].cidr: fd00::/8 is an IPv6 prefix in a list of rules for IPv4",
            "f:8:12: BGPFilter \"f\": spec.exportV4[1].cidr: \"10.0.0.1/8\" has host bits set; the network is 10.0.0.0/8",
            "f:8:39: BGPFilter \"f\": spec.exportV4[1].matchOperator: \"Within\" is not one of Equal, NotEqual, In, NotIn",
            "f:8:55: BGPFilter \"f\": spec.exportV4[1].action: \"Drop\" is not one of Accept, Reject",
            "f:9:63: BGPFilter \"f\": spec.exportV4[2].prefixLength.max: \"33\" is not a number from 0 to 32",
            "f:10:14: BGPFilter \"f\": spec.exportV4[3].source: \"Elsewhere\" is not one of RemotePeers",
            "f:10:35: BGPFilter \"f\": spec.exportV4[3].peerType: \"EBGP\" is not one of eBGP, iBGP",
            "f:10:51: BGPFilter \"f\": spec.exportV4[3].priority: \"0\" is not a number from 1 to 2147483646",
            "f:11:17: BGPFilter \"f\": spec.exportV4[4].interface: \"a b\" is not a pattern of interfaces; write 1 to 15 \
             letters, digits, '_', '.', '-', and '*' for any text",
            "f:11:39: BGPFilter \"f\": spec.exportV4[4].asPathPrefix[0]: AS 0 is reserved (RFC 7607); an AS number is 1 to \
             4294967295",
            "f:11:65: BGPFilter \"f\": spec.exportV4[4].communities.values: must be exactly one community, not 0",
            "f:12:5: BGPFilter \"f\": spec.exportV4[5].action: is missing; write Accept or Reject",
            "f:12:29: BGPFilter \"f\": spec.exportV4[5].communities.values[0]: \"65536:1\" is not a community; write aa:nn \
             with numbers to 65535, or aa:nn:mm with numbers to 4294967295",
            "warning f:12:42: BGPFilter \"f\": spec.exportV4[5].comunities: unknown field; did you mean communities?",
        ],
    );
    expect(
        "  importV6:
  - {cidr: 'fd00::/64', matchOperator: In, prefixLength: {max: 48}, action: Accept}
  - {action: Accept, operations: [{prependASPath: {prefix: []}}, {addCommunity: {}}]}
",
        &[
            "warning f:7:58: BGPFilter \"f\": spec.importV6[0].prefixLength: no length is at least 64 and at most 48 (the \
             cidr's own is 64): no prefix fits",
            "f:8:60: BGPFilter \"f\": spec.importV6[1].operations[0].prependASPath.prefix: must be 1 to 10 AS numbers, not 0",
            "f:8:81: BGPFilter \"f\": spec.importV6[1].operations[1].addCommunity.value: is missing",
        ],
    );
}

#[test]
fn communities_are_decimal_and_fit_their_fields() {
    for bad in ["1", "1:2:3:4", "01:2", "+1:2", "1:", ":", "1:4294967296:1", "65535:65536", "a:b", "1: 2"] {
        let text = filter(&format!("  importV4: [{{communities: {{values: ['{bad}']}}, action: Accept}}]\n"));
        assert!(parse("f", &text).has_errors(), "{bad}");
    }
    for good in ["0:0", "65535:65535", "0:0:0", "4294967295:4294967295:4294967295"] {
        let text =
            filter(&format!("  importV4: [{{communities: {{values: ['{good}']}}, action: Accept}}]\n"));
        assert!(parse("f", &text).problems.is_empty(), "{good}");
    }
}

#[test]
fn a_plan_carries_the_filters_that_its_peers_name_and_names_those_that_are_missing() {
    let cluster = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: p}
spec: {peerIP: 10.0.0.254, asNumber: 65000, filters: [gone, f]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: f}
spec: {importV4: [{interface: eth0, action: Reject}]}
---
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: {name: unused}
spec: {importV4: [{interface: eth0, action: Reject}]}
";
    let collected = collect([("f", cluster)]);
    assert_eq!(collected.problems, []);
    let plan = plan(&collected.snapshot, "a").unwrap();
    assert_eq!(plan.peers[0].filters, ["gone", "f"]);
    assert_eq!(plan.filters.keys().collect::<Vec<_>>(), ["f"]);
    let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["BGPPeer/p names BGPFilter/gone, which does not exist; it is skipped"]);
    assert!(serde_json::to_value(&plan).unwrap().get("filters").is_none(), "the plan's JSON is an interface");
}
