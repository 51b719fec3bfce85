//! How a change is carried out: one that cuts nodes off is agreed to, and `--now` is said to all nodes.

mod program;

use std::fs;

use program::{Lab, cluster, seed};
use serde_json::Value;

const CUT: &str = "k8s-master-01, k8s-worker-01, k8s-worker-02 would no longer reach one another (without a path: \
                   172.16.36.192/26, 172.16.118.64/26)";

fn now(lab: &Lab) -> Option<String> {
    let run = lab.run(&["get", "bgpconfig", "default", "-o", "json"]);
    let object: Value = serde_json::from_str(&run.stdout).ok()?;
    object["metadata"]["annotations"]["manx.dev/now"].as_str().map(str::to_owned)
}

#[test]
fn what_would_cut_nodes_off_is_refused_by_every_verb_and_nothing_is_written() {
    let lab = cluster();
    let off = seed("2.1-bgpconfiguration.yaml");
    let refused = |args: &[&str]| {
        let stderr = lab.fails(1, args);
        assert!(stderr.contains(CUT) && stderr.contains("or say --yes"), "{args:?}: {stderr}");
    };
    refused(&["apply", "-f", &off]);
    refused(&["create", "-f", &off]);
    assert!(!lab.store().join("bgpconfiguration.default.yaml").exists());
    // What brings the new sessions may come with it.
    let whole = [&off, &seed("2.2-node.yaml"), &seed("2.3-bgppeer.yaml")];
    lab.ok(&["apply", "-f", whole[0], "-f", whole[1], "-f", whole[2]]);
    let before = fs::read_to_string(lab.store().join("bgppeer.bgppeer-global.yaml")).unwrap();
    for args in [
        &["delete", "bgppeer", "bgppeer-global"][..],
        &["patch", "bgppeer", "bgppeer-global", "-p", "{spec: {node: k8s-worker-01}}"],
    ] {
        let stderr = lab.fails(1, args);
        assert!(stderr.contains("no longer reach") || stderr.contains("no routes would pass"), "{stderr}");
    }
    let after = fs::read_to_string(lab.store().join("bgppeer.bgppeer-global.yaml")).unwrap();
    assert_eq!(before, after);
    // The mesh again, and then the peer is needed no more.
    lab.ok(&["patch", "bgpconfig", "default", "-p", "{spec: {nodeToNodeMeshEnabled: true}}"]);
    lab.ok(&["patch", "node", "k8s-master-01", "-p", "{spec: {bgp: {routeReflectorClusterID: null}}}"]);
    lab.ok(&["delete", "bgppeer", "bgppeer-global"]);
    // Labels choose peers, too.
    let peer = "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: racks}, spec: {nodeSelector: \
                has(rack), peerSelector: has(rack)}}";
    for node in ["k8s-master-01", "k8s-worker-01", "k8s-worker-02"] {
        lab.ok(&["label", "nodes", node, "rack=1"]);
    }
    lab.ok(&["apply", "-f", &lab.file("racks.yaml", peer), "-f", &off]);
    let stderr = lab.fails(1, &["label", "nodes", "k8s-worker-02", "rack", "--remove"]);
    let told = "no routes would pass any longer between k8s-master-01, k8s-worker-01 and k8s-worker-02";
    assert!(stderr.contains(told), "{stderr}");
    lab.agreed(&["label", "nodes", "k8s-worker-02", "rack", "--remove"]);
}

#[test]
fn with_now_every_node_is_told_that_nothing_is_kept() {
    let lab = cluster();
    assert_eq!(now(&lab), None);
    // There is no BGPConfiguration yet.
    let said = lab.agreed(&["apply", "--now", "-f", &seed("2.2-node.yaml"), "-f", &seed("2.3-bgppeer.yaml")]);
    assert_eq!(said, "Successfully applied 2 resource(s)\n");
    let first = now(&lab).unwrap();
    assert!(first.parse::<jiff::Timestamp>().is_ok(), "{first}");
    // It is there, and is one of what is written: comments stay.
    let off = seed("2.1-bgpconfiguration.yaml");
    let commented = format!("# why\n{}", fs::read_to_string(&off).unwrap());
    let commented = lab.file("off.yaml", &commented);
    assert_eq!(
        lab.ok(&["apply", "--now", "-f", &commented]),
        "Successfully applied 1 'BGPConfiguration' resource(s)\n"
    );
    let second = now(&lab).unwrap();
    assert_ne!(first, second);
    let all =
        fs::read_dir(lab.store()).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    let all: Vec<String> = all.filter(|text| text.contains("manx.dev/now")).collect();
    assert!(matches!(&all[..], [one] if one.contains("nodeToNodeMeshEnabled: false")), "{all:?}");
    // It is there, and something else is written.
    lab.ok(&["patch", "--now", "bgpconfig", "default", "-p", "{spec: {logSeverityScreen: Info}}"]);
    let third = now(&lab).unwrap();
    assert_ne!(second, third);
    lab.agreed(&["delete", "--now", "bgppeer", "bgppeer-global"]);
    assert_ne!(third, now(&lab).unwrap());
    assert_eq!(lab.fails(1, &["get", "bgppeer", "bgppeer-global"]).lines().count(), 1);
    let stderr = lab.fails(1, &["delete", "--now", "bgpconfig", "default"]);
    assert!(stderr.contains("which is deleted here"), "{stderr}");
}

#[test]
fn the_sessions_of_all_nodes_are_told_beforehand() {
    let lab = cluster();
    let off = seed("2.1-bgpconfiguration.yaml");
    assert_eq!(lab.ok(&["plan", "--diff", "--all"]), "No session would change.\n");
    let run = lab.run(&["plan", "--diff", "--all", "-f", &off]);
    assert_eq!((run.code, run.stderr.as_str()), (3, ""));
    let rows: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NODE", "KEPT", "MADE", "ANEW", "ADDED", "CLOSED"]);
    assert_eq!(rows[1], ["k8s-master-01", "0", "0", "0", "2"]);
    assert!(run.stdout.ends_with(&format!("\nWarning: {CUT}\n")), "{}", run.stdout);
    let (node, peer) = (seed("2.2-node.yaml"), seed("2.3-bgppeer.yaml"));
    let run = lab.run(&["plan", "--diff", "--all", "-f", &off, "-f", &node, "-f", &peer]);
    assert!(
        run.stdout.ends_with("\nNo node would be without a path to another that it has a path to now.\n")
    );
    let run = lab.run(&["plan", "--diff", "--all", "-f", &off, "-o", "json"]);
    let said: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(said["cut"][0]["bothWays"], true);
    assert_eq!(said["sessions"][0]["closed"], 2);
}
