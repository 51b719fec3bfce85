//! The verbs that write resources: Calico's messages and exit codes, and what stands in the files afterwards.

mod program;

use std::fs;

use program::{Lab, cluster, seed};

const PEER: &str = "\
# who: the network team
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata:
  name: rack-7
spec:
  # the reflector
  asNumber: 64512 # of all
  peerIP: 10.0.0.1
";

fn with_peer() -> Lab {
    let lab = Lab::new();
    let file = lab.file("peer.yaml", PEER);
    assert_eq!(lab.ok(&["create", "-f", &file]), "Successfully created 1 'BGPPeer' resource(s)\n");
    lab
}

fn stored(lab: &Lab) -> String {
    fs::read_to_string(lab.store().join("bgppeer.rack-7.yaml")).unwrap()
}

#[test]
fn what_get_prints_changes_nothing_when_it_is_applied() {
    let later = "  later:\n    a: 18446744073709551615\n    b: 0.1000\n    c: 1e400\n    d: 123456789012345678901234567890\n    e: 0x1F\n";
    let text = format!("{PEER}{later}");
    let lab = Lab::new();
    fs::write(lab.store().join("bgppeer.rack-7.yaml"), &text).unwrap();
    for form in ["yaml", "json"] {
        let printed = lab.run(&["get", "bgppeer", "rack-7", "-o", form]);
        assert_eq!(printed.code, 0, "{}", printed.stderr);
        for verb in ["apply", "replace"] {
            let run = lab.run_with(&[verb, "-f", "-"], &printed.stdout);
            assert_eq!(run.code, 0, "{}", run.stderr);
            assert_eq!(stored(&lab), text, "{verb} of {form}");
        }
    }
    // Somebody's own text is taken over with its comments.
    let own =
        text.replace("the network team", "the other team").replace("the reflector", "the old reflector");
    let run = lab.run_with(&["apply", "-f", "-"], &own);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(stored(&lab).contains("the old reflector"), "{}", stored(&lab));
}

#[test]
fn each_verb_says_what_calicoctl_says() {
    let lab = with_peer();
    let file = lab.file("peer.yaml", PEER);
    assert_eq!(
        lab.fails(1, &["create", "-f", &file]),
        "error: Failed to create 'BGPPeer' resource: [resource already exists: BGPPeer(rack-7); it stands in \
         DIR/store/bgppeer.rack-7.yaml; apply or replace changes it]\n"
    );
    assert_eq!(
        lab.ok(&["create", "-f", &file, "--skip-exists"]),
        "Successfully created 0 'BGPPeer' resource(s)\n"
    );
    assert_eq!(lab.ok(&["replace", "-f", &file]), "Successfully replaced 1 'BGPPeer' resource(s)\n");
    assert_eq!(lab.ok(&["validate", "-f", &file]), "Successfully validated 1 resource(s)\n");
    let nodes = seed("1-cluster.yaml");
    let said = lab.fails(1, &["replace", "-f", &nodes]);
    assert!(said.starts_with("error: Failed to replace any resources: [resource does not exist: Node(k8s-master-01)\n resource does"), "{said}");
    assert_eq!(
        lab.ok(&["patch", "bgppeer", "rack-7", "-p", "{spec: {asNumber: 64513}}"]),
        "Successfully patched 1 'BGPPeer' resource\n"
    );
    assert_eq!(lab.fails(1, &["delete", "bgpp", "rack-7", "rack-8"]), {
        "error: Failed to delete any 'BGPPeer' resources: [resource does not exist: BGPPeer(rack-8); did you mean rack-7?]\n"
    });
    assert_eq!(
        lab.ok(&["delete", "bgpp", "rack-7", "rack-8", "-s"]),
        "Successfully deleted 1 'BGPPeer' resource(s)\n"
    );
    assert_eq!(lab.fails(1, &["delete", "-f", &file]), {
        "error: Failed to delete 'BGPPeer' resource: [resource does not exist: BGPPeer(rack-7)]\n"
    });
    assert_eq!(lab.fails(1, &["patch", "bgppeer", "rack-7", "-p", "{}"]), {
        "error: Hit error: resource does not exist: BGPPeer(rack-7)\n"
    });
    assert_eq!(lab.fails(1, &["delete", "node", ""]), "error: resource name may not be empty\n");
    let empty = lab.file("empty.yaml", "# nothing\n");
    assert_eq!(lab.ok(&["delete", "-f", &empty, "--skip-empty"]), "No resources specified\n");
    assert_eq!(lab.fails(1, &["replace", "-f", &empty]), "error: No resources specified\n");
    assert_eq!(lab.fails(1, &["validate", "-f", &empty]), "error: No resources specified\n");
    assert_eq!(lab.ok(&["validate", "-f", &empty, "--skip-empty"]), "No resources specified\n");
}

/// Scripts that were written for calicoctl.
#[test]
fn what_calicoctl_takes_is_taken_or_refused_in_its_words() {
    let lab = with_peer();
    let file = lab.file("peer.yaml", PEER);
    lab.ok(&["apply", "-f", &file, "--allow-version-mismatch"]);
    for line in [
        &["apply", "-f", &file, "-n", "kube-system"][..],
        &["replace", "-f", &file, "--namespace", "kube-system"],
        &["delete", "bgpp", "rack-7", "-n", "a"],
        &["patch", "bgpp", "rack-7", "-p", "{}", "-n", "a"],
        &["label", "bgpp", "rack-7", "a=b", "-n", "a"],
    ] {
        assert_eq!(lab.fails(1, line), "error: BGPPeer is not namespaced; leave -n out\n", "{line:?}");
    }
    let secret = lab.file(
        "secret.yaml",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: kube-system}\nstringData: {a: b}\n",
    );
    lab.ok(&["apply", "-f", &secret, "-n", "kube-system"]);
    assert_eq!(
        lab.fails(1, &["apply", "-f", &secret, "-n", "default"]),
        "error: resource namespace does not match client namespace. kube-system != default\n"
    );
    assert!(lab.fails(2, &["get", "nodes", "--context", "prod"]).contains("manxctl asks no Kubernetes API"));
    let kubernetes = lab.file(
        "calicoctl.cfg",
        "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nspec: {datastoreType: kubernetes}\n",
    );
    assert_eq!(
        lab.fails(1, &["get", "nodes", "-c", &kubernetes]),
        "error: DIR/calicoctl.cfg says datastoreType: kubernetes, and manxctl asks no Kubernetes API; name a directory \
         (--datastore dir:PATH) or an etcd\n"
    );
    let both = ["get", "nodes", "-c", &kubernetes, "--datastore", "dir:store"];
    assert!(lab.fails(2, &both).contains("each names a datastore"));
}

#[test]
fn labels_are_set_changed_and_removed_in_calicos_words() {
    let lab = with_peer();
    let label = |args: &[&str]| lab.ok(&[&["label", "bgppeers", "rack-7"], args].concat());
    assert_eq!(label(&["rack=7"]), "Successfully set label rack on bgppeers rack-7\n");
    assert_eq!(label(&["rack=7"]), "Successfully updated label rack on bgppeers rack-7\n");
    assert_eq!(
        lab.fails(1, &["label", "bgppeers", "rack-7", "rack=8"]),
        "error: failed to update label of bgppeers rack-7, key rack is already present with value \"7\". please use \
         '--overwrite' to set a new value\n"
    );
    assert_eq!(label(&["rack=8", "--overwrite"]), "Successfully updated label rack on bgppeers rack-7\n");
    let labelled = PEER.replace("  name: rack-7\n", "  name: rack-7\n  labels:\n    rack: '8'\n");
    assert_eq!(stored(&lab), labelled);
    assert_eq!(label(&["rack", "--remove"]), "Successfully removed label rack from bgppeers rack-7\n");
    assert_eq!(stored(&lab), PEER, "as if it had never been");
    assert_eq!(
        lab.fails(1, &["label", "bgppeers", "rack-7", "rack", "--remove"]),
        "error: cannot remove label of bgppeers rack-7, key rack does not exist\n"
    );
    assert!(
        lab.fails(1, &["label", "bgppeers", "rack-8", "a=b"])
            .starts_with("error: bgppeers rack-8 not found: ")
    );
    assert!(
        lab.fails(1, &["label", "bgppeers", "rack-7", "bad key=a"])
            .contains("metadata.labels: the label's key")
    );
    assert!(lab.fails(1, &["label", "bgppeers", "rack-7", "a"]).starts_with("error: invalid label a; "));
}

#[test]
fn a_patch_leaves_every_comment_in_its_place() {
    let lab = with_peer();
    lab.ok(&["patch", "bgppeer", "rack-7", "-p", r#"{"spec": {"asNumber": 65000, "filters": ["a"]}}"#]);
    let patched = PEER.replace("64512", "65000") + "  filters:\n  - a\n";
    assert_eq!(stored(&lab), patched);
    let remove = r#"[{"op": "test", "path": "/spec/filters/0", "value": "a"}, {"op": "remove", "path": "/spec/filters"}]"#;
    lab.ok(&["patch", "bgppeer", "rack-7", "--type", "json", "-p", remove]);
    lab.ok(&["patch", "bgppeer", "rack-7", "--type", "merge", "-p", "{spec: {asNumber: 64512}}"]);
    assert_eq!(stored(&lab), PEER);
}

#[test]
fn a_patch_that_makes_no_resource_changes_nothing_and_says_why() {
    let lab = with_peer();
    let fails = |args: &[&str]| {
        let said = lab.fails(1, &[&["patch", "bgppeer", "rack-7", "-p"], args].concat());
        assert_eq!(stored(&lab), PEER);
        said
    };
    assert_eq!(
        fails(&["{spec: {asNumber: many}}"]),
        "error: Hit error: BGPPeer/rack-7 as it would be: spec.asNumber: \"many\" is not an AS number; write 64512, or 1.10 for \
         65546\n"
    );
    assert_eq!(
        fails(&["{metadata: {name: rack-8}}"]),
        "error: Hit error: metadata.name cannot be changed from \"rack-7\" to \"rack-8\"; create another object\n"
    );
    assert!(
        fails(&["{}", "--type", "json"]).contains("a json patch is a list of operations, such as [{\"op\"")
    );
    assert!(fails(&["{a: "]).contains("the patch is neither JSON nor YAML"));
}

#[test]
fn what_was_changed_meanwhile_is_not_replaced() {
    let lab = with_peer();
    let seen = lab.ok(&["get", "bgppeer", "rack-7", "-o", "yaml"]);
    lab.ok(&["patch", "bgppeer", "rack-7", "-p", "{spec: {asNumber: 64513}}"]);
    let run = lab.run_with(&["replace", "-f", "-"], &seen);
    assert_eq!(run.code, 1);
    assert!(
        run.stderr.starts_with(
            "error: Failed to replace 'BGPPeer' resource: [update conflict: BGPPeer(rack-7); version d"
        ),
        "{}",
        run.stderr
    );
    let seen = lab.ok(&["get", "bgppeer", "rack-7", "-o", "yaml"]);
    let run = lab.run_with(&["replace", "-f", "-"], &seen.replace("10.0.0.1", "10.0.0.2"));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(!stored(&lab).contains("resourceVersion"));
}

#[test]
fn directories_inside_directories_are_read_if_asked_for() {
    let lab = Lab::new();
    let inside = lab.dir.path().join("in/deeper/still");
    fs::create_dir_all(&inside).unwrap();
    fs::write(inside.join("peer.yaml"), PEER.trim_start_matches("# who: the network team\n")).unwrap();
    fs::create_dir(lab.dir.path().join("in/.git")).unwrap();
    fs::write(lab.dir.path().join("in/.git/x.yaml"), "kind: Nodde\n").unwrap();
    assert_eq!(lab.fails(1, &["create", "-f", "in"]), "error: No resources specified\n");
    assert_eq!(lab.ok(&["create", "-R", "-f", "in"]), "Successfully created 1 'BGPPeer' resource(s)\n");
    assert_eq!(lab.ok(&["delete", "-R", "-f", "in"]), "Successfully deleted 1 'BGPPeer' resource(s)\n");
    assert_eq!(fs::read_dir(lab.store()).unwrap().count(), 0);
}

#[test]
fn get_prints_a_list_an_object_or_an_array_and_each_can_be_applied() {
    let lab = cluster();
    let list = lab.ok(&["get", "ippool", "-o", "yaml"]);
    assert!(list.contains("\nkind: IPPoolList\n"), "{list}");
    let one = lab.ok(&["get", "node", "k8s-worker-01", "-o", "yaml"]);
    assert!(one.contains("\nkind: Node\n") && one.contains("\n  resourceVersion: d"), "{one}");
    let array = lab.ok(&["get", "node", "k8s-worker-01", "k8s-worker-02", "-o", "json"]);
    assert!(array.starts_with("[\n"), "{array}");
    for text in [list, one, array] {
        let run = lab.run_with(&["apply", "-f", "-"], &text);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    }
    let exported = lab.ok(&["get", "node", "k8s-worker-01", "-o", "yaml", "--export"]);
    assert!(!exported.contains("resourceVersion"), "{exported}");
    let run = lab.run(&["get", "node", "k8s-worker-01", "k8s-worker-9", "-o", "name"]);
    assert_eq!((run.code, run.stdout.as_str()), (1, "Node/k8s-worker-01\n"));
    assert_eq!(
        run.stderr,
        "error: resource does not exist: Node(k8s-worker-9); did you mean k8s-worker-01?\n"
    );
    assert_eq!(lab.fails(1, &["get", "nodes", "-A"]), "error: Node is not namespaced; leave -n and -A out\n");
    let given = lab.ok(&["get", "-f", &seed("1-cluster.yaml"), "-o", "name"]);
    assert_eq!(given.lines().count(), 6, "{given}");
}

#[test]
fn columns_and_templates_print_what_is_asked_for() {
    let lab = cluster();
    let get = |form: &str| lab.ok(&["get", "nodes", "-o", form]);
    assert_eq!(get("custom-columns=IPV4,NAME").lines().nth(1), Some("192.168.80.121/24   k8s-master-01   "));
    assert_eq!(
        get("custom-columns=N:.metadata.name,X:.spec.nothing").lines().next_back().map(str::trim),
        Some("")
    );
    assert_eq!(
        get("custom-columns=N:.metadata.name,X:.spec.nothing").lines().nth(1),
        Some("k8s-master-01   <none>   ")
    );
    assert_eq!(
        get("jsonpath={range .items[*]}{.metadata.name}{';'}{end}"),
        "k8s-master-01;k8s-worker-01;k8s-worker-02;"
    );
    assert_eq!(
        lab.fails(1, &["get", "nodes", "-o", "custom-columns=CPU"]),
        "error: unknown heading CPU, valid values are: NAME, ASN, IPV4, IPV6\n"
    );
    assert!(
        lab.fails(2, &["get", "nodes", "-o", "jsonpath={.a"])
            .contains("at character 4: a brace is not closed")
    );
    assert!(lab.fails(2, &["get", "nodes", "-o", "go-template={{.}}"]).contains("write jsonpath="));
}

#[test]
fn every_verb_answers_programs_too() {
    let lab = cluster();
    let json = |args: &[&str]| -> serde_json::Value { serde_json::from_str(&lab.ok(args)).unwrap() };
    let file = lab.file("peer.yaml", PEER);
    let object = |result: &str| serde_json::json!({ "kind": "BGPPeer", "name": "rack-7", "result": result });
    assert_eq!(json(&["create", "-f", &file, "-o", "json"])["created"][0], object("created"));
    assert_eq!(
        json(&["create", "-f", &file, "--skip-exists", "-o", "json"])["created"][0],
        object("skipped")
    );
    assert_eq!(json(&["replace", "-f", &file, "-o", "json"])["replaced"][0], object("unchanged"));
    assert_eq!(
        json(&["patch", "bp", "rack-7", "-p", "{spec: {asNumber: 1}}", "-o", "json"])["patched"],
        object("replaced")
    );
    assert_eq!(json(&["label", "bp", "rack-7", "a=b", "-o", "json"])["label"]["result"], "set");
    assert_eq!(json(&["delete", "bp", "rack-7", "-o", "json"])["deleted"][0], object("deleted"));
    let run = lab.run(&["validate", "-f", &lab.file("bad.yaml", "kind: Nodde\n"), "-o", "json"]);
    let said: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &said["valid"]), (1, &serde_json::json!(false)));
}

#[test]
fn version_says_which_program_and_which_cluster() {
    let lab = cluster();
    let said = lab.ok(&["version"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        lines[0].starts_with("Client Version:    v0.") && lines[1].starts_with("Git commit:        "),
        "{said}"
    );
    assert_eq!(lines[2..], ["Cluster Version:   unknown", "Cluster Type:      unknown"]);
    assert_eq!(lab.ok(&["version", "--client"]).lines().count(), 2);
    let run = lab.run(&["--datastore", "dir:missing", "version"]);
    assert!(run.code == 1 && run.stdout.starts_with("Client Version:"), "{}", run.stdout);
    assert!(
        run.stderr.starts_with("error: unable to retrieve Cluster Version or Type: missing: does not exist")
    );
}

#[test]
fn shells_and_man_are_told_of_every_command() {
    let lab = Lab::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = lab.ok(&["completion", shell]);
        assert!(script.contains("skip-not-exists") && script.contains("blackhole"), "{shell}");
    }
    lab.ok(&["man", "store"]);
    let page = fs::read_to_string(lab.store().join("manxctl-get.1")).unwrap();
    assert!(page.contains("custom\\-columns"), "{page}");
    assert!(lab.store().join("manxctl.1").exists());
    assert!(
        lab.fails(1, &["man", "missing"])
            .starts_with("error: cannot write manual pages to missing: No such file")
    );
}

const BLOCKS: &str = "\
apiVersion: crd.projectcalico.org/v1
kind: IPAMBlock
metadata:
  name: 172-16-36-192-29
spec:
  cidr: 172.16.36.192/29
  affinity: host:kw01
  allocations: [0, null, 1, 2, null, null, null, null]
  unallocated: [1, 4, 5, 6, 7]
  attributes:
  - handle_id: h0
    secondary: {node: kw01, namespace: default, pod: web}
  - handle_id: h1
    secondary: {node: kw02, namespace: default, pod: db}
  - {}
  deleted: false
---
apiVersion: projectcalico.org/v3
kind: IPAMBlock
metadata: {name: 10-9-0-0-30}
spec: {cidr: 10.9.0.0/30, allocations: [null, null, null, null], unallocated: [0, 1, 2, 3], attributes: []}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 172.16.0.0/16, blockSize: 29}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: six}
spec: {cidr: 'fd00::/48'}
---
apiVersion: projectcalico.org/v3
kind: ClusterInformation
metadata: {name: default}
spec: {clusterGUID: abc, clusterType: 'k8s,bgp', calicoVersion: v3.30.1, datastoreReady: true}
";

#[test]
fn ipam_show_prints_calicos_tables() {
    let lab = Lab::new();
    fs::write(lab.store().join("all.yaml"), BLOCKS).unwrap();
    assert_eq!(
        lab.ok(&["ipam", "show", "--show-blocks"]),
        "\
+----------+------------------+------------+------------+-------------------+
| GROUPING |       CIDR       | IPS TOTAL  | IPS IN USE |     IPS FREE      |
+----------+------------------+------------+------------+-------------------+
| IP Pool  | 172.16.0.0/16    |      65536 | 3 (0%)     | 65533 (100%)      |
| Block    | 172.16.36.192/29 |          8 | 3 (38%)    | 5 (62%)           |
| IP Pool  | fd00::/48        | 1.2089e+24 | 0 (0%)     | 1.2089e+24 (100%) |
| Block    | 10.9.0.0/30      |          4 | 0 (0%)     | 4 (100%)          |
+----------+------------------+------------+------------+-------------------+
"
    );
    assert_eq!(lab.ok(&["ipam", "show"]).lines().count(), 6, "blocks only if asked for");
    assert_eq!(lab.ok(&["ipam", "show", "--ip", "172.16.36.193"]), "172.16.36.193 is not assigned\n");
    assert_eq!(lab.ok(&["ipam", "show", "--ip", "10.200.0.1"]), "10.200.0.1 is not assigned\n");
    assert_eq!(
        lab.ok(&["ipam", "show", "--ip", "172.16.36.194"]),
        "IP 172.16.36.194 is in use\nHandle ID: h1\nActive Owner Attributes:\n  namespace: default\n  node: kw02\n  pod: db\n"
    );
    assert_eq!(
        lab.ok(&["ipam", "show", "--ip", "172.16.36.195"]),
        "IP 172.16.36.195 is in use\nHandle ID: <none>\nNo Active Owner attributes defined\n"
    );
    let borrowed = lab.ok(&["ipam", "show", "--show-borrowed"]);
    assert!(
        borrowed.contains(
            "| 172.16.36.194 | kw02           | 172.16.36.192/29 | kw01        | pod  | default/db   |"
        ),
        "{borrowed}"
    );
    assert!(borrowed.ends_with("\nNote: found 1 IP allocations without an explicit node association. Unable to determine if they are borrowed.\n"));
    let said: serde_json::Value = serde_json::from_str(&lab.ok(&["ipam", "show", "-o", "json"])).unwrap();
    assert_eq!(said["pools"][0]["inUse"], 3.0);
    assert_eq!(
        lab.ok(&["get", "ipamblock"]).lines().nth(2),
        Some("172-16-36-192-29   172.16.36.192/29   host:kw01   3       5      ")
    );
    let version = lab.ok(&["version"]);
    assert!(version.contains("Cluster Version:   v3.30.1\nCluster Type:      k8s,bgp\n"), "{version}");
    let more = "apiVersion: projectcalico.org/v3\nkind: IPReservation\nmetadata: {name: r}\nspec: {reservedCIDRs: [172.16.36.192/31, 172.16.36.192/32, 172.16.0.0/31]}\n---\napiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\nmetadata: {name: default}\nspec: {strictAffinity: true, autoAllocateBlocks: true, maxBlocksPerHost: 4}\n";
    fs::write(lab.store().join("more.yaml"), more).unwrap();
    let shown = lab.ok(&["ipam", "show", "--show-blocks"]);
    assert!(shown.contains("| IPS IN USE | IPS RESERVED |     IPS FREE      |\n"), "{shown}");
    assert!(
        shown.contains(
            "| Block    | 172.16.36.192/29 |          8 | 3 (38%)    | 2 (25%)      | 4 (50%)           |\n"
        ),
        "{shown}"
    );
    assert!(
        shown.contains(
            "| IP Pool  | 172.16.0.0/16    |      65536 | 3 (0%)     | 4 (0%)       | 65530 (100%)      |\n"
        ),
        "{shown}"
    );
    let shown = lab.ok(&["ipam", "show", "--show-configuration"]);
    assert!(
        shown.contains("| StrictAffinity     | true  |\n")
            && shown.contains("| MaxBlocksPerHost   |     4 |\n"),
        "{shown}"
    );
    assert_eq!(
        lab.ok(&["get", "ipamconfig"]).lines().nth(1),
        Some("default   true             true                 ")
    );
    assert_eq!(
        lab.ok(&["get", "reservations", "-o", "wide"]).lines().nth(1),
        Some("r      172.16.36.192/31,172.16.36.192/32,172.16.0.0/31   ")
    );
    let cluster = cluster();
    let run = cluster.run(&["ipam", "show"]);
    assert!(run.code == 0 && run.stderr.contains("there is no IPAMBlock in the datastore"), "{}", run.stderr);
}
