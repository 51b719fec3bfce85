//! Annotations under `manx.dev/`: what they may say, and what is said about those that say something else.

use manx_resources::{
    Resource, parse,
    spec::{
        AddPath, Bfd, FastPathExtensions, FastPathSetting, ForInterfaces, MaxPrefixes, Multipath,
        PeerExtensions, PoolExtensions, Reply, Role, SourceCheck, SpeakerExtensions,
    },
};

fn document(kind: &str, name: &str, annotations: &[(&str, &str)], spec: &str) -> String {
    let mut text = format!(
        "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\n  annotations:\n"
    );
    for (name, value) in annotations {
        text.push_str(&format!("    manx.dev/{name}: '{value}'\n"));
    }
    text.push_str(&format!("spec: {spec}\n"));
    text
}

fn peer(annotations: &[(&str, &str)]) -> String {
    document("BGPPeer", "p", annotations, "{peerIP: 192.0.2.1, asNumber: 65000}")
}

/// What the text says, and every problem with it.
fn read(text: &str) -> (Resource, Vec<String>) {
    let parsed = parse("f", text);
    let problems = parsed.problems.iter().map(|problem| {
        assert!(!problem.is_error(), "{problem}");
        problem.to_string()
    });
    let problems = problems.collect();
    let [document] = parsed.documents.as_slice() else { panic!("one document of {text}") };
    (document.resource.clone(), problems)
}

fn of_peer(annotations: &[(&str, &str)]) -> (PeerExtensions, Vec<String>) {
    match read(&peer(annotations)) {
        (Resource::BgpPeer(object), problems) => (object.spec.extensions.clone(), problems),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pools_annotations_say_what_becomes_of_packets_to_addresses_that_nobody_has() {
    let pool = |annotations: &[(&str, &str)]| match read(&document(
        "IPPool",
        "p",
        annotations,
        "{cidr: 172.16.0.0/16}",
    )) {
        (Resource::IpPool(object), problems) => (object.spec.extensions, problems),
        other => panic!("{other:?}"),
    };
    assert_eq!(pool(&[]).0, PoolExtensions { unallocated_blocks: None, unassigned_addresses: Reply::Drop });
    for (word, unallocated_blocks) in
        [("Forward", None), ("Drop", Some(Reply::Drop)), ("Reject", Some(Reply::Reject))]
    {
        let (read, problems) = pool(&[("unallocatedBlocks", word), ("unassignedAddresses", "Reject")]);
        assert_eq!((read.unallocated_blocks, read.unassigned_addresses), (unallocated_blocks, Reply::Reject));
        assert!(problems.is_empty(), "{problems:?}");
    }
    let (read, problems) = pool(&[("unallocatedBlocks", "drop"), ("unassignedAddresses", "Forward")]);
    assert_eq!(read, PoolExtensions::default());
    let [first, second] = problems.as_slice() else { panic!("{problems:?}") };
    assert!(first.contains("did you mean Drop?; until then it counts as not set"), "{first}");
    assert!(second.contains("\"Forward\" is not known; write one of Drop, Reject"), "{second}");
    let (_, problems) = of_peer(&[("unallocatedBlocks", "Drop")]);
    assert!(problems[0].contains("it belongs on an IPPool"), "{problems:?}");
}

#[test]
fn a_peers_annotations_are_read() {
    let (read, problems) = of_peer(&[
        ("maxPrefixes", "1000"),
        ("maxPrefixesWarnAt", "90%"),
        ("maxPrefixesAcceptedOnly", "true"),
        ("blackholes", "10.1.0.0/16, 2001:db8::/32 10.0.0.0/16"),
        ("addPath", "receive, send=8"),
        ("localRole", "rs-client"),
        ("strictRole", "true"),
        ("extendedNextHop", "true"),
        ("bfd", "interval=100ms, multihop"),
    ]);
    let prefix = |text: &str| text.parse().unwrap();
    let expected = PeerExtensions {
        max_prefixes: Some(MaxPrefixes { limit: 1000, warn_at: 90, accepted_only: true }),
        blackholes: vec![prefix("10.0.0.0/16"), prefix("10.1.0.0/16"), prefix("2001:db8::/32")],
        add_path: AddPath { send: 8, receive: true },
        local_role: Some(Role::RsClient),
        strict_role: true,
        extended_next_hop: true,
        bfd: Some(Bfd { interval: 100, multiplier: 3, multihop: Some(true) }),
        range: None,
    };
    assert_eq!((read, problems), (expected, vec![]));
}

#[test]
fn add_path_may_be_said_in_several_ways() {
    for (text, send, receive) in [
        ("receive", 0, true),
        ("send", 4, false),
        ("send=2", 2, false),
        ("both", 4, true),
        ("both=64", 64, true),
        ("send=2,receive", 2, true),
    ] {
        assert_eq!(of_peer(&[("addPath", text)]).0.add_path, AddPath { send, receive }, "{text}");
    }
}

#[test]
fn bfd_is_true_false_or_as_it_is_said() {
    let usual = Bfd { interval: 300, multiplier: 3, multihop: None };
    for (text, expected) in [
        ("true", Some(usual)),
        ("false", None),
        ("interval=1s", Some(Bfd { interval: 1000, ..usual })),
        ("multiplier=5 singlehop", Some(Bfd { multiplier: 5, multihop: Some(false), ..usual })),
    ] {
        let (read, problems) = of_peer(&[("bfd", text)]);
        assert_eq!((read.bfd, problems), (expected, vec![]), "{text}");
    }
    for (text, said) in [
        ("on", "\"on\" is nothing that BFD has; write true, false, or interval=300ms"),
        ("interval=5ms", "\"5ms\" is no interval; write 10ms to 60s"),
        ("interval=300", "\"300\" is no interval"),
        ("interval=99999999s", "is no interval"),
        ("multiplier=0", "\"0\" is no number of packets lost in a row; write 1 to 255"),
    ] {
        let (read, problems) = of_peer(&[("bfd", text)]);
        assert_eq!(read.bfd, None, "{text}");
        assert!(problems.iter().any(|problem| problem.contains(said)), "{text}: {problems:?}");
    }
    let (_, problems) = of_peer(&[("bfd", "true"), ("peerRange", "10.0.0.0/24")]);
    assert!(problems[0].contains("has no effect with manx.dev/peerRange"), "{problems:?}");
}

#[test]
fn a_limit_warns_at_three_quarters_unless_told_otherwise() {
    let limit = of_peer(&[("maxPrefixes", "8")]).0.max_prefixes;
    assert_eq!(limit, Some(MaxPrefixes { limit: 8, warn_at: 75, accepted_only: false }));
}

#[test]
fn a_speakers_annotations_are_read_and_those_of_the_mesh_beside_them() {
    let text = document(
        "BGPConfiguration",
        "default",
        &[
            ("multipath", "ebgp=4, ibgp=2"),
            ("longLivedRestartTime", "24h"),
            ("restartAfterNotification", "true"),
            ("ebgpRequiresPolicy", "true"),
            ("maxPaths", "1000000"),
            ("clientToClient", "false"),
            ("closeAfter", "1m"),
            ("holdRoutes", "0s"),
            ("now", "2026-11-22T12:00:00Z"),
            ("nodeMeshMaxPrefixes", "50"),
            ("nodeMeshAddPath", "both=2"),
        ],
        "{}",
    );
    let (Resource::BgpConfiguration(object), problems) = read(&text) else { panic!("{text}") };
    let expected = SpeakerExtensions {
        multipath: Some(Multipath { ebgp: 4, ibgp: 2 }),
        long_lived_restart_time: Some(86_400),
        restart_after_notification: Some(true),
        ebgp_requires_policy: Some(true),
        max_paths: Some(1_000_000),
        client_to_client: Some(false),
        close_after: Some(60),
        hold_routes: Some(0),
        now: Some("2026-11-22T12:00:00Z".to_owned()),
    };
    assert_eq!((&object.spec.extensions, problems), (&expected, vec![]));
    assert_eq!(object.spec.mesh.max_prefixes.map(|limit| limit.limit), Some(50));
    assert_eq!(object.spec.mesh.add_path, AddPath { send: 2, receive: true });
}

#[test]
fn one_number_is_the_multipath_of_both_kinds() {
    let text = document("BGPConfiguration", "node.a", &[("multipath", "4")], "{}");
    let (Resource::BgpConfiguration(object), _) = read(&text) else { panic!("{text}") };
    assert_eq!(object.spec.extensions.multipath, Some(Multipath { ebgp: 4, ibgp: 4 }));
}

#[test]
fn a_node_that_leaves_says_so() {
    let text = document("Node", "n", &[("gracefulShutdown", "true")], "{}");
    let (Resource::Node(object), problems) = read(&text) else { panic!("{text}") };
    assert_eq!((object.spec.graceful_shutdown, problems), (true, vec![]));
}

#[test]
fn a_bad_annotation_costs_itself_alone_and_is_told_with_place_unit_and_remedy() {
    let (read, problems) = of_peer(&[
        ("maxPrefixes", "0"),
        ("maxPrefixesWarnAt", "101"),
        ("blackholes", "10.1.0.0/16, 10.1.0.1"),
        ("addPath", "send=0"),
        ("localRole", "custmer"),
        ("strictRole", "yes"),
        ("extendedNextHop", "true"),
    ]);
    assert_eq!(read, PeerExtensions { extended_next_hop: true, ..PeerExtensions::default() });
    let expected = [
        "f:6:27: BGPPeer \"p\": metadata.annotations[manx.dev/maxPrefixes]: \"0\" is no number of prefixes for \
         each family; write 1 to 4294967295; until then it counts as not set",
        "f:7:33: BGPPeer \"p\": metadata.annotations[manx.dev/maxPrefixesWarnAt]: \"101\" is no percentage of the limit \
         (0: no warning); write 0 to 100; until then it counts as not set",
        "f:8:26: BGPPeer \"p\": metadata.annotations[manx.dev/blackholes]: \"10.1.0.1\" is not a prefix; write \
         ADDRESS/LENGTH, such as 172.16.0.0/16; until then it counts as not set",
        "f:9:23: BGPPeer \"p\": metadata.annotations[manx.dev/addPath]: \"0\" is no number of paths for a prefix; write \
         1 to 64; until then it counts as not set",
        "f:10:25: BGPPeer \"p\": metadata.annotations[manx.dev/localRole]: \"custmer\" is no role; did you mean customer?; \
         until then it counts as not set",
        "f:11:26: BGPPeer \"p\": metadata.annotations[manx.dev/strictRole]: \"yes\" is neither \"true\" nor \"false\"; \
         write one of them; until then it counts as not set",
    ];
    assert_eq!(problems, expected, "\n{}", problems.join("\n"));
}

#[test]
fn an_unknown_annotation_is_named_with_the_nearest_one() {
    let (_, problems) = of_peer(&[("maxPrefixs", "5"), ("holdTime", "3s")]);
    let expected = [
        "f:6:5: BGPPeer \"p\": metadata.annotations[manx.dev/maxPrefixs]: unknown annotation; did you mean \
         manx.dev/maxPrefixes?",
        "f:7:5: BGPPeer \"p\": metadata.annotations[manx.dev/holdTime]: unknown annotation; it has no effect; here there \
         are ",
    ];
    assert_eq!(problems.len(), expected.len());
    for (found, expected) in problems.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn an_annotation_on_the_wrong_kind_is_sent_where_it_belongs() {
    for (kind, name, annotation, remedy) in [
        ("BGPPeer", "p", "maxPaths", "it belongs on a BGPConfiguration"),
        ("BGPPeer", "p", "gracefulShutdown", "it belongs on a Node"),
        ("Node", "n", "localRole", "it belongs on a BGPPeer"),
        (
            "BGPConfiguration",
            "default",
            "addPath",
            "it belongs on a BGPPeer; for the node-to-node mesh write manx.dev/nodeMeshAddPath",
        ),
        ("BGPConfiguration", "node.a", "nodeMeshAddPath", "it belongs on BGPConfiguration/default"),
    ] {
        let spec = if kind == "BGPPeer" { "{peerIP: 192.0.2.1, asNumber: 65000}" } else { "{}" };
        let (_, problems) = read(&document(kind, name, &[(annotation, "1")], spec));
        assert!(
            matches!(problems.as_slice(), [one] if one.ends_with(&format!("unknown annotation; {remedy}"))),
            "{problems:?}"
        );
    }
}

#[test]
fn what_depends_on_another_annotation_says_so() {
    let (_, problems) = of_peer(&[("maxPrefixesWarnAt", "50"), ("strictRole", "true")]);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].ends_with("has no effect without manx.dev/maxPrefixes"), "{}", problems[0]);
    assert!(problems[1].ends_with("has no effect without manx.dev/localRole"), "{}", problems[1]);
}

#[test]
fn annotations_of_others_are_left_alone() {
    let text = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n, annotations: {a.dev/maxPrefixes: x}}\n";
    assert_eq!(read(text).1, Vec::<String>::new());
}

#[test]
fn a_pool_says_whether_its_packets_may_be_fast() {
    for (text, expected) in [("Auto", FastPathSetting::Auto), ("Enabled", FastPathSetting::Enabled)] {
        let (Resource::IpPool(pool), problems) = read(&pool(&[("fastPath", text)])) else { panic!("{text}") };
        assert_eq!((pool.spec.fast_path, problems), (Some(expected), vec![]));
    }
    let (Resource::IpPool(pool), problems) = read(&pool(&[("fastPath", "disable")])) else { panic!() };
    assert_eq!(pool.spec.fast_path, None);
    assert_eq!(
        problems,
        [
            "f:6:24: IPPool \"p\": metadata.annotations[manx.dev/fastPath]: \"disable\" is not one of Auto, Enabled, Disabled; \
          did you mean Disabled?; until then it counts as not set"
        ]
    );
}

fn pool(annotations: &[(&str, &str)]) -> String {
    document("IPPool", "p", annotations, "{cidr: 172.16.0.0/16}")
}

#[test]
fn a_configuration_says_it_for_the_whole_and_by_interface() {
    let text = document(
        "BGPConfiguration",
        "node.a",
        &[
            ("fastPath", "Enabled"),
            ("fastPathInterfaces", "ens34=Disabled, cali*=Auto,"),
            ("sourceCheck", "Loose"),
            ("sourceCheckInterfaces", "cali0=Off"),
        ],
        "{}",
    );
    let (Resource::BgpConfiguration(object), problems) = read(&text) else { panic!("{text}") };
    let expected = FastPathExtensions {
        whole: Some(FastPathSetting::Enabled),
        interfaces: Some(vec![
            ForInterfaces { pattern: "ens34".into(), setting: FastPathSetting::Disabled },
            ForInterfaces { pattern: "cali*".into(), setting: FastPathSetting::Auto },
        ]),
        source_check: Some(SourceCheck::Loose),
        source_check_interfaces: Some(vec![ForInterfaces {
            pattern: "cali0".into(),
            setting: SourceCheck::Off,
        }]),
    };
    assert_eq!((&object.spec.fast_path, problems), (&expected, vec![]));
}

#[test]
fn what_is_wrong_with_a_list_of_interfaces_is_said() {
    for (text, said) in [
        ("ens34", "\"ens34\" is without a setting; write INTERFACE=SETTING, such as ens34=Disabled"),
        ("ens34=off", "\"off\" is not one of Auto, Enabled, Disabled; write one of them"),
        ("ens34=Auto, ens34=Disabled", "\"ens34\" stands there twice; write one of them"),
        ("averylonginterface=Auto", "\"averylonginterface\" is no name of an interface"),
        ("=Auto", "\"\" is no name of an interface"),
    ] {
        let text = document("BGPConfiguration", "default", &[("fastPathInterfaces", text)], "{}");
        let (Resource::BgpConfiguration(object), problems) = read(&text) else { panic!("{text}") };
        assert_eq!(object.spec.fast_path.interfaces, None);
        assert!(problems.len() == 1 && problems[0].contains(said), "{problems:?}");
    }
}

#[test]
fn a_setting_of_the_fast_path_in_the_wrong_place_is_told_the_right_one() {
    let (_, problems) = read(&pool(&[("fastPathInterfaces", "ens34=Auto")]));
    let said = "it belongs on a BGPConfiguration; for the pool write manx.dev/fastPath";
    assert!(problems[0].contains(said), "{problems:?}");
    let (_, problems) = of_peer(&[("fastPath", "Auto")]);
    assert!(problems[0].contains("it belongs on an IPPool"), "{problems:?}");
}
