//! The real program against directories of its own: what it prints, what it writes, how it ends.

mod program;

use std::{
    fs,
    process::{Command, Stdio},
};

use program::{Lab, cluster, seed};

#[test]
fn the_articles_documents_are_applied_one_by_one_with_calicos_messages() {
    let lab = Lab::new();
    let apply = |name: &str| lab.ok(&["apply", "-f", &seed(name)]);
    assert_eq!(apply("1-cluster.yaml"), "Successfully applied 6 resource(s)\n");
    let run = lab.run(&["apply", "--yes", "-f", &seed("2.1-bgpconfiguration.yaml")]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (
            0,
            "Successfully applied 1 'BGPConfiguration' resource(s)\n",
            "warning: k8s-master-01, k8s-worker-01, k8s-worker-02 would no longer reach one another (without a path: \
             172.16.36.192/26, 172.16.118.64/26)\n"
        )
    );
    assert_eq!(apply("2.2-node.yaml"), "Successfully applied 1 'Node' resource(s)\n");
    assert_eq!(apply("2.3-bgppeer.yaml"), "Successfully applied 1 'BGPPeer' resource(s)\n");
    // Its comments are kept.
    assert_eq!(
        fs::read_to_string(lab.store().join("bgppeer.bgppeer-global.yaml")).unwrap(),
        fs::read_to_string(seed("2.3-bgppeer.yaml")).unwrap()
    );
}

#[test]
fn get_nodes_prints_the_articles_table() {
    let lab = cluster();
    assert_eq!(
        lab.ok(&["get", "node", "-o", "wide"]),
        "\
NAME            ASN       IPV4                IPV6   \n\
k8s-master-01   (64512)   192.168.80.121/24          \n\
k8s-worker-01   (64512)   192.168.80.124/24          \n\
k8s-worker-02   (64512)   192.168.80.125/24          \n\n"
    );
    assert_eq!(lab.ok(&["get", "nodes"]), {
        "NAME            \nk8s-master-01   \nk8s-worker-01   \nk8s-worker-02   \n\n"
    });
}

#[test]
fn an_as_of_its_own_stands_without_parentheses() {
    let lab = Lab::new();
    let file = lab.file("n.yaml", "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: a}\nspec: {bgp: {asNumber: 1.10, ipv6Address: '2001:db8::1/64'}}\n");
    lab.ok(&["apply", "-f", &file]);
    assert_eq!(
        lab.ok(&["get", "no", "-o", "wide"]),
        "\
NAME   ASN     IPV4   IPV6             \n\
a      65546          2001:db8::1/64   \n\n"
    );
}

#[test]
fn get_prints_calicos_columns_for_the_other_kinds() {
    let lab = cluster();
    lab.agreed(&["apply", "-f", &seed("2.1-bgpconfiguration.yaml"), "-f", &seed("2.3-bgppeer.yaml")]);
    assert_eq!(lab.ok(&["get", "bgpconfig"]), {
        "NAME      LOGSEVERITY   MESHENABLED   ASNUMBER   \ndefault   Info          false         61234      \n\n"
    });
    assert_eq!(lab.ok(&["get", "BGPPeers"]), {
        "NAME             PEERIP           NODE       ASN     \nbgppeer-global   192.168.80.121   (global)   61234   \n\n"
    });
    assert_eq!(lab.ok(&["get", "pool"]), {
        "NAME                  CIDR            SELECTOR   \ndefault-ipv4-ippool   172.16.0.0/16   all()      \n\n"
    });
    assert_eq!(lab.ok(&["get", "blockaffinity", "-o", "name"]), {
        "BlockAffinity/k8s-worker-01-172-16-36-192-26\nBlockAffinity/k8s-worker-02-172-16-118-64-26\n"
    });
}

#[test]
fn what_get_prints_as_yaml_or_json_can_be_applied_as_it_is() {
    let lab = cluster();
    lab.agreed(&["apply", "-f", &seed("2.2-node.yaml")]);
    for form in ["yaml", "json"] {
        for name in ["k8s-master-01", ""] {
            let other = Lab::new();
            let mut args = vec!["get", "nodes", "-o", form];
            args.extend((!name.is_empty()).then_some(name));
            let text = lab.ok(&args);
            let run = other.run_with(&["apply", "-f", "-"], &text);
            assert_eq!((run.code, run.stderr.as_str()), (0, ""));
            assert_eq!(other.ok(&args), text);
        }
    }
}

#[test]
fn a_bad_document_is_refused_with_its_place_and_what_would_be_right() {
    let lab = Lab::new();
    let file = lab.file(
        "peers.yaml",
        "\
apiVersion: projectcalico.org/v3
kind: Node
metadata:
  name: a
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: bgppeer-global
spec:
  peerIP: 192.168.80.121
  asNumber: 61234x
  nodeSelctor: all()
",
    );
    assert_eq!(
        lab.fails(1, &["apply", "-f", &file]),
        "\
error: DIR/peers.yaml:12:13: BGPPeer \"bgppeer-global\": spec.asNumber: \"61234x\" is not an AS number; write 64512, or 1.10 for 65546
warning: DIR/peers.yaml:13:3: BGPPeer \"bgppeer-global\": spec.nodeSelctor: unknown field; did you mean nodeSelector?
error: Failed to apply any resources
"
    );
    // All or nothing.
    assert_eq!(fs::read_dir(lab.store()).unwrap().count(), 0);
}

#[test]
fn apply_takes_a_directory_and_standard_input_and_several_files() {
    let lab = Lab::new();
    fs::create_dir(lab.dir.path().join("in")).unwrap();
    fs::copy(seed("1-cluster.yaml"), lab.dir.path().join("in/cluster.yaml")).unwrap();
    fs::write(lab.dir.path().join("in/README"), "words").unwrap();
    let peer = fs::read_to_string(seed("2.3-bgppeer.yaml")).unwrap();
    let run = lab.run_with(&["apply", "-f", "in", "-f", "-"], &peer);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "Successfully applied 7 resource(s)\n"),
        "{}",
        run.stderr
    );
}

#[test]
fn the_same_resource_twice_in_the_input_is_refused() {
    let lab = Lab::new();
    let peer = seed("2.3-bgppeer.yaml");
    let stderr = lab.fails(1, &["apply", "-f", &peer, "-f", &peer]);
    assert!(stderr.contains("BGPPeer \"bgppeer-global\": the same resource stands in"), "{stderr}");
}

#[test]
fn nothing_to_apply_is_an_error() {
    let lab = Lab::new();
    let file = lab.file("empty.yaml", "# nothing\n");
    assert_eq!(lab.fails(1, &["apply", "-f", &file]), "error: No resources specified\n");
    assert_eq!(lab.fails(1, &["apply", "-f", "missing.yaml"]), "error: missing.yaml: does not exist\n");
    let other = lab.file(
        "controllers.yaml",
        "apiVersion: projectcalico.org/v3\nkind: KubeControllersConfiguration\nmetadata: {name: default}\n",
    );
    assert_eq!(
        lab.fails(1, &["apply", "-f", &other]),
        "warning: DIR/controllers.yaml:2:7: KubeControllersConfiguration \"default\": kind: KubeControllersConfiguration is not used by Manx; the document is skipped\nerror: No resources specified\n"
    );
}

#[test]
fn a_datastore_that_is_missing_or_not_understood_is_said() {
    let lab = Lab::new();
    assert_eq!(
        lab.fails(1, &["--datastore", "dir:missing", "apply", "-f", &seed("2.3-bgppeer.yaml")]),
        "error: Failed to apply 'BGPPeer' resource: [missing does not exist; create it with: mkdir -p missing]\n"
    );
    assert_eq!(
        lab.fails(1, &["--datastore", "dir:missing", "get", "nodes"]),
        "error: missing: does not exist; create the directory, or name another as the datastore\n"
    );
    assert_eq!(
        lab.fails(1, &["--datastore", "etc/manx", "get", "nodes"]),
        "error: datastore \"etc/manx\" is not known; write dir:PATH, such as dir:/etc/manx, or \
         etcd://HOST:PORT, such as etcd://10.0.0.1:2379,10.0.0.2:2379\n"
    );
}

#[test]
fn get_shows_what_is_good_and_says_what_is_not() {
    let lab = cluster();
    fs::write(lab.store().join("bad.yaml"), "kind: Nodde\n").unwrap();
    let run = lab.run(&["get", "nodes"]);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("k8s-worker-02"));
    assert_eq!(
        run.stderr,
        "\
error: DIR/store/bad.yaml:1:1: Nodde: apiVersion: is missing; write projectcalico.org/v3
error: DIR/store/bad.yaml:1:7: Nodde: kind: \"Nodde\" is not known; did you mean Node?
"
    );
}

#[test]
fn a_slip_of_the_finger_is_answered_with_what_was_meant() {
    let lab = cluster();
    assert!(lab.fails(2, &["gett", "nodes"]).contains("a similar subcommand exists: 'get'"));
    assert!(lab.fails(2, &["get", "bgppear"]).contains("did you mean 'bgppeer'?"));
    assert!(lab.fails(2, &["get", "nodes", "-o", "wid"]).contains("a similar value exists: 'wide'"));
    assert_eq!(lab.fails(1, &["get", "node", "k8s-worker-1"]), {
        "error: resource does not exist: Node(k8s-worker-1); did you mean k8s-worker-01?\n"
    });
    assert_eq!(lab.fails(1, &["plan", "--node", "k8s-worker-1"]), {
        "error: there is no Node \"k8s-worker-1\"; did you mean k8s-worker-01?\n"
    });
}

#[test]
fn plan_prints_each_peer_with_the_rule_that_made_it() {
    let lab = Lab::new();
    let files =
        ["1-cluster.yaml", "2.1-bgpconfiguration.yaml", "2.2-node.yaml", "2.3-bgppeer.yaml"].map(seed);
    let mut args = vec!["plan", "--node", "k8s-worker-01"];
    let merged = lab.dir.path().join("merged");
    fs::create_dir(&merged).unwrap();
    lab.ok(&["--datastore", "dir:merged", "apply", "-f", &files[0]]);
    for file in &files[1..] {
        lab.agreed(&["--datastore", "dir:merged", "apply", "-f", file]);
    }
    args.extend(["-f", "merged"]);
    assert_eq!(
        lab.ok(&args),
        "\
Node k8s-worker-01, AS 61234, router ID 192.168.80.124, listens on port 179

PEER             AS      PEER TYPE   DIALS     SETTINGS   RULE
192.168.80.121   61234   global      at once   -          BGPPeer/bgppeer-global

Own blocks: 172.16.36.192/26

POOL                  CIDR            BLOCKS   EXPORTED   ROUTES WRITTEN
default-ipv4-ippool   172.16.0.0/16   /26      yes        all
"
    );
    args[2] = "k8s-master-01";
    assert!(
        lab.ok(&args).contains(
            "192.168.80.124   61234   node specific   after 5 s   client     BGPPeer/bgppeer-global"
        )
    );
    args.extend(["-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&lab.ok(&args)).unwrap();
    assert_eq!(json["peers"][0]["rrClient"], true);
    assert_eq!(json["clusterId"], "224.0.0.1");
}

#[test]
fn plan_says_what_will_surprise() {
    let lab = Lab::new();
    let files = [seed("1-cluster.yaml"), seed("2.1-bgpconfiguration.yaml")];
    assert_eq!(
        lab.ok(&["plan", "--node", "k8s-master-01", "-f", &files[0], "-f", &files[1]]),
        "\
Node k8s-master-01, AS 61234, router ID 192.168.80.121, listens on port 179

No peers.

No own blocks.

POOL                  CIDR            BLOCKS   EXPORTED   ROUTES WRITTEN
default-ipv4-ippool   172.16.0.0/16   /26      yes        all

Warning: Node/k8s-master-01 has no peers: the node-to-node mesh is off and no BGPPeer concerns it; without one its pods reach no pod of another node
"
    );
}

#[test]
fn plan_shows_what_annotations_say() {
    let lab = Lab::new();
    let file = lab.file(
        "a.yaml",
        "apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: a, annotations: {manx.dev/gracefulShutdown: 'true'}}
spec: {bgp: {ipv4Address: 10.0.0.1/24}}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata:
  name: default
  annotations:
    manx.dev/multipath: ebgp=4
    manx.dev/maxPaths: '1000'
    manx.dev/fastPath: Auto
    manx.dev/fastPathInterfaces: ens34=Disabled, ens*=Auto
    manx.dev/sourceCheck: Loose
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: p
  annotations:
    manx.dev/maxPrefixes: '10'
    manx.dev/blackholes: 10.1.0.0/16
    manx.dev/addPath: both=2
    manx.dev/localRole: customer
spec: {peerIP: 10.0.0.9, asNumber: 65000}
",
    );
    assert_eq!(
        lab.ok(&["plan", "--node", "a", "-f", &file]),
        "\
Node a, AS 64512, router ID 10.0.0.1, listens on port 179
Leaving: asks everybody to go another way (GRACEFUL_SHUTDOWN)
Multipath: up to 4 external and 1 internal paths together
At most 1000 paths of all peers together
Fast path: Auto; interfaces ens34=Disabled, ens*=Auto
Source check of pods: Loose

PEER       AS      PEER TYPE   DIALS       SETTINGS                                                                                      RULE
10.0.0.9   65000   global      after 5 s   at most 10 prefixes, blackholes in 10.1.0.0/16, takes several paths, sends 2, role customer   BGPPeer/p

No own blocks.
"
    );
}

#[test]
fn there_is_no_plan_of_wrong_files() {
    let lab = Lab::new();
    let file = lab.file("bad.yaml", "a: [\n");
    let run = lab.run(&["plan", "--node", "a", "-f", &file]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(run.stderr.starts_with("error: DIR/bad.yaml:2:1: "), "{}", run.stderr);
    assert!(run.stderr.ends_with("error: there is no plan while there are errors\n"), "{}", run.stderr);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let lab = Lab::new();
    let nodes: String = (0..5000)
        .map(|n| format!("---\napiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: n{n}}}\n"))
        .collect();
    fs::write(lab.store().join("nodes.yaml"), nodes).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_manxctl"))
        .args(["get", "nodes", "-o", "yaml", "--datastore", &format!("dir:{}", lab.store().display())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}

#[test]
fn without_a_daemon_its_questions_end_in_an_error() {
    let lab = Lab::new();
    for args in [&["node", "status"][..], &["routes"]] {
        let mut args = args.to_vec();
        args.extend(["--socket", "nobody.sock"]);
        let stderr = lab.fails(1, &args);
        assert!(stderr.starts_with("error: nobody answers at nobody.sock (No such file"), "{stderr}");
    }
}

#[test]
fn who_asks_a_dead_daemon_learns_what_it_left_at_work() {
    let lab = Lab::new();
    fs::create_dir_all(lab.dir.path().join("bpf/links")).unwrap();
    lab.file("bpf/links/pod_tc-4", "");
    let stderr = lab.fails(1, &["dataplane", "status", "--socket", "nobody.sock"]);
    assert!(stderr.contains("\n1 program of an earlier run is still attached (DIR/bpf/links)."), "{stderr}");
    assert!(stderr.contains("start manxd") && stderr.contains("`manxd cleanup` removes"), "{stderr}");
}

#[test]
fn a_socket_at_which_no_manxd_is_says_so_whatever_it_is() {
    let lab = Lab::new();
    let file = lab.file("file", "");
    for (socket, why) in
        [("nobody.sock", "No such file"), (file.as_str(), "Connection refused"), (".", "refused")]
    {
        for line in [
            "node status",
            "routes",
            "history",
            "explain 10.0.0.1",
            "peer refresh 10.0.0.1",
            "blackhole list",
            "blackhole add 192.0.2.1",
            "dataplane status",
            "dataplane routes",
            "dataplane counters",
            "dataplane top",
        ] {
            let args: Vec<&str> = line.split(' ').chain(["--socket", socket]).collect();
            let stderr = lab.fails(1, &args);
            let remedy = "start manxd, or name its socket with --socket";
            assert!(
                stderr.starts_with("error: nobody answers at ") && stderr.contains(why),
                "{line}: {stderr}"
            );
            assert!(stderr.trim_end().ends_with(remedy) && stderr.lines().count() == 1, "{line}: {stderr}");
        }
        // Its 1 is a finding.
        lab.fails(2, &["dataplane", "audit", "--socket", socket]);
    }
}

#[test]
fn a_slip_in_a_command_line_is_answered_with_what_was_meant() {
    let lab = Lab::new();
    for (line, meant) in [
        ("dataplan status", "'dataplane'"),
        ("dataplane statsu", "'status'"),
        ("blackhole ad 10.0.0.1", "'add'"),
        ("blackhole add 10.0.0.1 --reply unreachble", "'unreachable'"),
        ("dataplane counters --by prefx", "'prefix'"),
        ("dataplane audit --dryrun", "'--dry-run'"),
        ("get nods", "'nodes'"),
        ("dataplane top --interval 0", "not between 0.1 and 60 seconds"),
        ("routes -o yaml", "[possible values: json]"),
    ] {
        let stderr = lab.fails(2, &line.split(' ').collect::<Vec<_>>());
        assert!(stderr.contains(meant), "{line}: {stderr}");
    }
}

#[test]
fn what_was_applied_is_told_to_programs() {
    let lab = Lab::new();
    let answer = lab.ok(&["apply", "-o", "json", "-f", &seed("2.3-bgppeer.yaml")]);
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["applied"][0]["kind"], "BGPPeer");
    assert_eq!(answer["applied"][0]["name"], "bgppeer-global");
}

#[test]
fn a_reason_that_no_notification_holds_is_refused_before_anybody_is_asked() {
    let lab = Lab::new();
    let long = "x".repeat(256);
    let complaint = lab.fails(1, &["peer", "disable", "10.0.0.1", "--text", &long]);
    assert!(complaint.contains("the text has 256 octets; a NOTIFICATION takes 255"), "{complaint}");
    let complaint = lab.fails(2, &["peer", "refresh", "kw01"]);
    assert!(complaint.contains("invalid value 'kw01' for '<PEER>'"), "{complaint}");
}

#[test]
fn what_is_wrong_with_a_prefix_is_said_whether_a_daemon_runs_or_not() {
    let lab = Lab::new();
    for line in ["explain", "blackhole add", "blackhole delete", "dataplane routes"] {
        let words: Vec<&str> = line.split(' ').chain(["--socket", "nobody.sock"]).collect();
        let fails = |prefix| lab.fails(1, &[words.as_slice(), &[prefix]].concat());
        for (prefix, wrong) in [
            ("172.16.36.192/33", "\"172.16.36.192/33\": the length of an IPv4 prefix is 0 to 32"),
            ("172.16.36.193/26", "has host bits set; the network is 172.16.36.192/26"),
            ("pod-7", "\"pod-7\" is neither an address nor a prefix; write 172.16.36.193 or 172.16.0.0/16"),
        ] {
            let stderr = fails(prefix);
            assert!(stderr.contains(wrong), "{line} {prefix}: {stderr}");
        }
        let stderr = fails("172.16.36.192/26");
        assert!(stderr.contains("nobody answers"), "{line}: {stderr}");
    }
    for duration in ["soon", "-1s", "0s"] {
        let stderr = lab.fails(1, &["blackhole", "add", "192.0.2.1", "--for", duration]);
        assert!(stderr.starts_with(&format!("error: --for \"{duration}\"")), "{stderr}");
    }
}

#[test]
fn lint_says_what_follows_and_what_to_do_and_ends_in_a_code_for_scripts() {
    let lab = cluster();
    assert_eq!(lab.ok(&["lint"]), "0 errors and 0 warnings in 6 resources.\n");
    // The mesh goes before anything is in its place.
    lab.agreed(&["apply", "-f", &seed("2.1-bgpconfiguration.yaml")]);
    let run = lab.run(&["lint"]);
    assert_eq!((run.code, run.stderr.as_str()), (3, ""));
    assert_eq!(
        run.stdout,
        "error: no-peers BGPConfiguration/default\n    \
         The node-to-node mesh is off and no BGPPeer concerns k8s-master-01, k8s-worker-01,\n    \
         k8s-worker-02: pods there reach no pod of another node.\n    \
         Set nodeToNodeMeshEnabled: true, or add a BGPPeer that leads these nodes to reflectors or\n    \
         switches.\n\n1 error and 0 warnings in 7 resources.\n"
    );
    // A single reflector is a warning: it counts where the caller says so.
    lab.ok(&["apply", "-f", &seed("2.2-node.yaml"), "-f", &seed("2.3-bgppeer.yaml")]);
    assert!(lab.ok(&["lint"]).starts_with("warning: one-reflector Node/k8s-master-01\n"));
    assert_eq!(lab.fails(3, &["lint", "--strict"]), "");
    let found: serde_json::Value = serde_json::from_str(&lab.ok(&["lint", "-o", "json"])).unwrap();
    assert_eq!(found[0]["rule"], "one-reflector");
    assert_eq!(found[0]["gravity"], "warning");
    assert_eq!(found[0]["resources"], serde_json::json!(["Node/k8s-master-01"]));
    assert_eq!(found[0]["nodes"], serde_json::json!(["k8s-worker-01", "k8s-worker-02"]));
    // What cannot be read cannot be looked at.
    let broken = lab.file("broken.yaml", "kind: [");
    let complaint = lab.fails(1, &["lint", "-f", &broken]);
    assert!(complaint.contains("broken.yaml:2:1: "), "{complaint}");
    assert!(complaint.ends_with("error: what has errors cannot be looked at as a whole\n"), "{complaint}");
}

#[test]
fn all_nodes_are_planned_a_line_each() {
    let lab = cluster();
    lab.ok(&[
        "apply",
        "-f",
        &seed("2.1-bgpconfiguration.yaml"),
        "-f",
        &seed("2.2-node.yaml"),
        "-f",
        &seed("2.3-bgppeer.yaml"),
    ]);
    let all = lab.ok(&["plan"]);
    let lines: Vec<Vec<&str>> = all.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NODE", "AS", "REFLECTOR", "OF", "PEERS", "BY", "BLOCKS"]);
    assert_eq!(lines[1], ["k8s-master-01", "61234", "224.0.0.1", "2", "2", "BGPPeer/bgppeer-global", "0"]);
    assert_eq!(lines[2], ["k8s-worker-01", "61234", "-", "1", "1", "BGPPeer/bgppeer-global", "1"]);
    assert!(all.ends_with("What is wrong with all together: manxctl lint.\n"), "{all}");
    let plans: serde_json::Value = serde_json::from_str(&lab.ok(&["plan", "--all", "-o", "json"])).unwrap();
    let one: serde_json::Value =
        serde_json::from_str(&lab.ok(&["plan", "--node", "k8s-worker-02", "-o", "json"])).unwrap();
    assert_eq!(plans.as_array().unwrap().len(), 3);
    assert_eq!(plans[2], one);
    // Without a daemon there is nothing to differ from.
    let complaint = lab.fails(1, &["plan", "--diff", "--socket", "/nonexistent/manx.sock"]);
    assert!(complaint.starts_with("error: nobody answers at /nonexistent/manx.sock"), "{complaint}");
}
