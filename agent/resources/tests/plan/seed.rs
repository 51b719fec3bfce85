//! The article's story, as plans: the mesh, the mesh switched off, km01 made a reflector, the global peer.

use crate::common::*;

const KM01: &str = "k8s-master-01";
const KW01: &str = "k8s-worker-01";
const KW02: &str = "k8s-worker-02";

#[test]
fn in_the_mesh_every_node_peers_with_every_other_in_the_default_as() {
    let texts = [CLUSTER];
    assert_eq!(
        peers(&texts, KM01),
        [
            "192.168.80.124 179 as64512 mesh later by BGPConfiguration/default",
            "192.168.80.125 179 as64512 mesh later by BGPConfiguration/default",
        ]
    );
    assert_eq!(
        peers(&texts, KW01),
        [
            "192.168.80.121 179 as64512 mesh first by BGPConfiguration/default",
            "192.168.80.125 179 as64512 mesh later by BGPConfiguration/default",
        ]
    );
    assert_eq!(
        peers(&texts, KW02),
        [
            "192.168.80.121 179 as64512 mesh first by BGPConfiguration/default",
            "192.168.80.124 179 as64512 mesh first by BGPConfiguration/default",
        ]
    );
    for node in [KM01, KW01, KW02] {
        assert_eq!(warnings(&texts, node), [] as [&str; 0]);
    }
}

#[test]
fn each_worker_owns_its_block_and_the_master_none() {
    let blocks = |node| plan_of(&[CLUSTER], node).blocks.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(blocks(KM01), [] as [&str; 0]);
    assert_eq!(blocks(KW01), ["172.16.36.192/26"]);
    assert_eq!(blocks(KW02), ["172.16.118.64/26"]);
}

#[test]
fn with_the_mesh_off_nobody_has_a_peer_and_the_plan_says_so() {
    for node in [KM01, KW01, KW02] {
        assert_eq!(peers(&[CLUSTER, MESH_OFF], node), [] as [&str; 0]);
        assert_eq!(
            warnings(&[CLUSTER, MESH_OFF], node),
            [format!(
                "Node/{node} has no peers: the node-to-node mesh is off and no BGPPeer concerns it; \
             without one its pods reach no pod of another node"
            )]
        );
    }
}

#[test]
fn a_cluster_id_alone_changes_no_session() {
    for node in [KM01, KW01, KW02] {
        assert_eq!(peers(&[CLUSTER, MESH_OFF, REFLECTOR], node), [] as [&str; 0]);
    }
    let plan = plan_of(&[CLUSTER, MESH_OFF, REFLECTOR], KM01);
    assert_eq!(plan.cluster_id, Some("224.0.0.1".parse().unwrap()));
    assert_eq!(plan.as_number.get(), 61234);
}

#[test]
fn a_cluster_id_while_the_mesh_is_on_cuts_the_reflector_off_and_both_sides_say_so() {
    let texts = [CLUSTER, REFLECTOR];
    assert_eq!(peers(&texts, KM01), [] as [&str; 0]);
    assert_eq!(peers(&texts, KW01), ["192.168.80.125 179 as64512 mesh later by BGPConfiguration/default"]);
    for node in [KM01, KW01, KW02] {
        assert_eq!(
            warnings(&texts, node),
            [
                "Node/k8s-master-01 is cut off: its routeReflectorClusterID 224.0.0.1 takes it out of the node-to-node \
             mesh, and no BGPPeer leads to it; add a BGPPeer with its address or a peerSelector for its labels"
            ]
        );
    }
}

#[test]
fn the_global_peer_makes_the_workers_clients_of_the_reflector() {
    let texts = [CLUSTER, MESH_OFF, REFLECTOR, PEER];
    assert_eq!(
        peers(&texts, KM01),
        [
            "192.168.80.124 179 as61234 node later client of 224.0.0.1 by BGPPeer/bgppeer-global",
            "192.168.80.125 179 as61234 node later client of 224.0.0.1 by BGPPeer/bgppeer-global",
        ]
    );
    for node in [KW01, KW02] {
        assert_eq!(
            peers(&texts, node),
            ["192.168.80.121 179 as61234 global first by BGPPeer/bgppeer-global"]
        );
        assert_eq!(warnings(&texts, node), [] as [&str; 0]);
    }
    assert_eq!(warnings(&texts, KM01), [] as [&str; 0]);
}

#[test]
fn an_as_that_is_not_the_reflectors_leaves_the_reflector_without_peers_and_every_node_is_told() {
    let wrong = PEER.replace("asNumber: 61234", "asNumber: 64512");
    let texts = [CLUSTER, MESH_OFF, REFLECTOR, &wrong];
    assert_eq!(peers(&texts, KM01), [] as [&str; 0]);
    let sentence = "BGPPeer/bgppeer-global says that 192.168.80.121 is in AS 64512, but Node/k8s-master-01 is in AS \
        61234: the session is refused (bad peer AS), and the peers of Node/k8s-master-01 towards the other nodes do \
        not exist; write asNumber: 61234";
    for node in [KM01, KW01, KW02] {
        assert!(warnings(&texts, node).iter().any(|warning| warning == sentence), "{node}");
    }
}

#[test]
fn the_plans_json_is_the_interface() {
    let plan = plan_of(&[CLUSTER, MESH_OFF, REFLECTOR, PEER], KM01);
    let expected = serde_json::json!({
        "node": "k8s-master-01",
        "asNumber": 61234,
        "routerId": "192.168.80.121",
        "clusterId": "224.0.0.1",
        "listenPort": 179,
        "listenAddresses": [],
        "speaker": {
            "multipath": {"ebgp": 1, "ibgp": 1},
            "longLivedRestartTime": null,
            "restartAfterNotification": false,
            "ebgpRequiresPolicy": false,
            "maxPaths": null,
            "clientToClient": true,
            "closeAfter": 30,
            "holdRoutes": 300,
            "now": null,
            "gracefulShutdown": false,
            "ipv4NormalRoutePriority": null,
            "ipv6NormalRoutePriority": null,
        },
        "fastPath": {
            "whole": null,
            "interfaces": [],
            "sourceCheck": "Strict",
            "sourceCheckInterfaces": [],
        },
        "ranges": [],
        "peers": (["192.168.80.124", "192.168.80.125"].map(|address| serde_json::json!({
            "address": address,
            "port": 179,
            "asNumber": 61234,
            "localAsNumber": null,
            "kind": "node",
            "rrClient": true,
            "clusterId": "224.0.0.1",
            "dial": "later",
            "sourceAddress": "192.168.80.121",
            "nextHop": "auto",
            "ttlSecurity": null,
            "passwordFrom": null,
            "restartTime": null,
            "keepaliveTime": null,
            "allowLocalAs": 0,
            "filters": [],
            "maxPrefixes": null,
            "blackholes": [],
            "addPath": {"send": 0, "receive": false},
            "localRole": null,
            "strictRole": false,
            "extendedNextHop": false,
            "bfd": null,
            "reachableBy": null,
            "resource": "BGPPeer/bgppeer-global",
        }))),
        "blocks": [],
        "pools": [{
            "name": "default-ipv4-ippool",
            "cidr": "172.16.0.0/16",
            "ipipMode": "Never",
            "vxlanMode": "Never",
            "natOutgoing": true,
            "disabled": false,
            "disableBGPExport": false,
            "blockSize": 26,
            "allowedUses": ["Workload", "Tunnel"],
            "write": "always",
            "fastPath": null,
            "unallocatedBlocks": null,
            "unassignedAddresses": "Drop",
        }],
        "services": [],
        "announcedServices": [],
        "passedServices": [],
        "communities": [],
        "warnings": [],
    });
    assert_eq!(serde_json::to_value(&plan).unwrap(), expected);
}

#[test]
fn the_seeds_documents_keep_every_field_when_they_are_printed_again() {
    let snapshot = snapshot(&[REFLECTOR]);
    let node = snapshot.node(KM01).unwrap();
    assert_eq!(node.document["metadata"]["uid"], "dbf7cf79-d3f0-4950-b6f2-93f37d74d047");
    assert_eq!(node.document["spec"]["orchRefs"][0]["orchestrator"], "k8s");
    assert_eq!(node.metadata.labels["node-role.kubernetes.io/master"], "");
}
