//! The examples of Calico's own tests of its templates (`confd/tests` in projectcalico/calico), as facts: what the
//! resources say, and which sessions BIRD is then told to hold. Mesh examples that differ in pools alone stand here once.
//! Not here: local workloads. Peers that Calico has at multicast addresses
//! (`ffee::10`), which are refused here, have others.

use manx_resources::{Dial, NextHopMode, PeerPlan};

use crate::common::*;

/// One example.
///
/// A line of `peers` is a session of Calico's: kind (the prefix of the protocol's name), address, port, AS, then what
/// else is said of it. How it is opened comes last: `passive` where Calico's end waits to be dialled, and ours does
/// for 5 s; `waits` where Calico's dials and ours waits, which is meant (decision 001); nothing where both dial.
struct Example {
    named: &'static str,
    on: &'static str,
    /// Kind, name, labels, spec.
    resources: &'static [[&'static str; 4]],
    peers: &'static [&'static str],
}

const CONFIG: &str = "BGPConfiguration";
const PEER: &str = "BGPPeer";
const NODE: &str = "Node";
const MESH_OFF: [&str; 4] = [CONFIG, "default", "", "nodeToNodeMeshEnabled: false"];
const MASTER_4: [&str; 4] = [NODE, "kube-master", "", "bgp: {ipv4Address: 10.192.0.2/16}"];
const NODE_1_4: [&str; 4] = [NODE, "kube-node-1", "", "bgp: {ipv4Address: 10.192.0.3/16}"];
const NODE_2_4: [&str; 4] = [NODE, "kube-node-2", "", "bgp: {ipv4Address: 10.192.0.4/16}"];
const MASTER: [&str; 4] =
    [NODE, "kube-master", "", "bgp: {ipv4Address: 10.192.0.2/16, ipv6Address: '2001::103/64'}"];
const NODE_1: [&str; 4] =
    [NODE, "kube-node-1", "", "bgp: {ipv4Address: 10.192.0.3/16, ipv6Address: '2001::102/64'}"];
const NODE_2: [&str; 4] =
    [NODE, "kube-node-2", "", "bgp: {ipv4Address: 10.192.0.4/16, ipv6Address: '2001::104/64'}"];

const REFLECTOR: [&str; 4] = [
    NODE,
    "kube-master",
    "routeReflector: 'true'",
    "bgp: {ipv4Address: 10.192.0.2/16, ipv6Address: 'fe0a::2/96', routeReflectorClusterID: 10.0.0.1}",
];
const CLIENT_1: [&str; 4] =
    [NODE, "kube-node-1", "", "bgp: {ipv4Address: 10.192.0.3/16, ipv6Address: 'fe0a::3/96'}"];
const CLIENT_2: [&str; 4] =
    [NODE, "kube-node-2", "", "bgp: {ipv4Address: 10.192.0.4/16, ipv6Address: 'fe0a::4/96'}"];

/// The same node with labels.
const fn labelled(node: [&'static str; 4], labels: &'static str) -> [&'static str; 4] {
    [node[0], node[1], labels, node[3]]
}

const EXAMPLES: &[Example] = &[
    Example {
        named: "mesh, IPv4 (ipip-always, ipip-off, hash, vxlan-always)",
        on: "kube-master",
        resources: &[MASTER_4, NODE_1_4, NODE_2_4],
        peers: &["mesh 10.192.0.3 179 as 64512 passive", "mesh 10.192.0.4 179 as 64512 passive"],
    },
    Example {
        named: "mesh/restart-time, both families",
        on: "kube-master",
        resources: &[MASTER, NODE_1, NODE_2, [CONFIG, "default", "", "nodeMeshMaxRestartTime: 10s"]],
        peers: &[
            "mesh 10.192.0.3 179 as 64512 restart 10 passive",
            "mesh 10.192.0.4 179 as 64512 restart 10 passive",
            "mesh 2001::102 179 as 64512 restart 10",
            "mesh 2001::104 179 as 64512 restart 10 passive",
        ],
    },
    Example {
        named: "mesh_password",
        on: "kube-master",
        resources: &[
            MASTER,
            NODE_1,
            NODE_2,
            [
                CONFIG,
                "default",
                "",
                "nodeToNodeMeshEnabled: true, nodeMeshPassword: {secretKeyRef: {name: my-secrets-1, key: a}}",
            ],
        ],
        peers: &[
            "mesh 10.192.0.3 179 as 64512 password my-secrets-1/a passive",
            "mesh 10.192.0.4 179 as 64512 password my-secrets-1/a passive",
            "mesh 2001::102 179 as 64512 password my-secrets-1/a",
            "mesh 2001::104 179 as 64512 password my-secrets-1/a passive",
        ],
    },
    Example {
        named: "mesh/route-reflector-mesh-enabled",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "asNumber: 64532, nodeToNodeMeshEnabled: true"],
            [NODE, "kube-master", "", "bgp: {ipv4Address: 10.192.0.2/16, ipv6Address: 'fe0a::2/96'}"],
            [NODE, "kube-node-1", "", "bgp: {ipv4Address: 10.192.0.3/16, ipv6Address: 'fe0a::4/96'}"],
            [
                NODE,
                "kube-node-2",
                "routeReflector: 'true'",
                "bgp: {ipv4Address: 10.192.0.4/16, ipv6Address: 'fe0a::6/96', routeReflectorClusterID: 10.0.0.1}",
            ],
            [PEER, "4", "", "peerIP: 172.19.4.87, asNumber: 64533, nodeSelector: has(routeReflector)"],
            [PEER, "6", "", "peerIP: '[ac13::57]:50', asNumber: 64533, nodeSelector: has(routeReflector)"],
            [PEER, "others", "", "nodeSelector: has(routeReflector), peerSelector: '!has(routeReflector)'"],
        ],
        peers: &[
            "mesh 10.192.0.3 179 as 64532 passive",
            "node 10.192.0.4 179 as 64532 waits",
            "mesh fe0a::4 179 as 64532 passive",
            "node fe0a::6 179 as 64532 waits",
        ],
    },
    Example {
        named: "explicit_peering/global",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "nodeToNodeMeshEnabled: false, asNumber: 64567, listenPort: 150"],
            MASTER_4,
            NODE_1_4,
            [NODE, "kube-node-2", "", "bgp: {ipv4Address: 10.192.0.1/16}"],
            [PEER, "1", "", "peerIP: 10.192.0.3, asNumber: 64567, sourceAddress: None"],
            [PEER, "2", "", "peerIP: '10.192.0.1:166', asNumber: 64567"],
            [PEER, "3", "", "peerIP: 10.192.0.1, asNumber: 64567"],
        ],
        peers: &[
            "global 10.192.0.1 150 as 64567",
            "global 10.192.0.1 166 as 64567",
            "global 10.192.0.3 150 as 64567 source none passive",
        ],
    },
    Example {
        named: "explicit_peering/global-external: the port of the cluster is that of its nodes only",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "nodeToNodeMeshEnabled: false, asNumber: 64567, listenPort: 150"],
            MASTER_4,
            NODE_1_4,
            [NODE, "kube-node-2", "", "bgp: {ipv4Address: 10.192.0.5/16}"],
            [PEER, "1", "", "peerIP: 10.192.0.3, asNumber: 64567, sourceAddress: None"],
            [PEER, "2", "", "peerIP: '10.192.0.4:166', asNumber: 64567"],
            [PEER, "3", "", "peerIP: 10.192.0.4, asNumber: 64567"],
        ],
        peers: &[
            "global 10.192.0.3 150 as 64567 source none passive",
            "global 10.192.0.4 179 as 64567 waits",
            "global 10.192.0.4 166 as 64567 waits",
        ],
    },
    Example {
        named: "explicit_peering/global-ipv6",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "nodeToNodeMeshEnabled: false, asNumber: 64567"],
            MASTER,
            NODE_1,
            NODE_2,
            [PEER, "1", "", "peerIP: '2001::102', asNumber: 64567, sourceAddress: None"],
            [PEER, "2", "", "peerIP: '2001::104', asNumber: 64567"],
        ],
        peers: &["global 2001::102 179 as 64567 source none", "global 2001::104 179 as 64567 passive"],
    },
    Example {
        named: "explicit_peering/keepnexthop",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "nodeToNodeMeshEnabled: false, asNumber: 64532"],
            REFLECTOR,
            NODE_1_4,
            NODE_2_4,
            [
                PEER,
                "4",
                "",
                "peerIP: 172.19.4.87, asNumber: 64533, nodeSelector: has(routeReflector), keepOriginalNextHop: true",
            ],
            [
                PEER,
                "6",
                "",
                "peerIP: '[ac13::57]:50', asNumber: 64533, nodeSelector: has(routeReflector), keepOriginalNextHop: true",
            ],
            [PEER, "others", "", "nodeSelector: all(), peerSelector: has(routeReflector)"],
        ],
        peers: &[
            "node 10.192.0.3 179 as 64532 client of 10.0.0.1 waits",
            "node 10.192.0.4 179 as 64532 client of 10.0.0.1 waits",
            "node 172.19.4.87 179 as 64533 next hop keep waits",
            "node ac13::57 50 as 64533 next hop keep",
        ],
    },
    Example {
        named: "explicit_peering/keepnexthop-global",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "nodeToNodeMeshEnabled: false, asNumber: 64532"],
            REFLECTOR,
            NODE_1_4,
            NODE_2_4,
            [PEER, "4", "", "peerIP: 172.19.4.87, asNumber: 64533, keepOriginalNextHop: true"],
            [PEER, "6", "", "peerIP: '[ac13::57]:50', asNumber: 64533, keepOriginalNextHop: true"],
        ],
        peers: &[
            "global 172.19.4.87 179 as 64533 next hop keep waits",
            "global ac13::57 50 as 64533 next hop keep",
        ],
    },
    Example {
        named: "explicit_peering/local-as",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            MASTER_4,
            NODE_1_4,
            NODE_2_4,
            [
                PEER,
                "1",
                "",
                "peerIP: 10.192.0.3, asNumber: 64512, localASNumber: 64512, node: kube-master, numAllowedLocalASNumbers: 1",
            ],
            [PEER, "2", "", "peerIP: 10.192.0.4, asNumber: 64566, localASNumber: 65001, node: kube-master"],
        ],
        peers: &[
            "node 10.192.0.3 179 as 64512 local as 64512 allowed 1 waits",
            "node 10.192.0.4 179 as 64566 local as 65001 waits",
        ],
    },
    Example {
        named: "explicit_peering/local-as-ipv6",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            MASTER,
            NODE_1,
            [NODE, "kube-node-2", "", "bgp: {ipv4Address: 10.192.0.4/16, ipv6Address: '2001::101/64'}"],
            [
                PEER,
                "1",
                "",
                "peerIP: '2001::102', asNumber: 64512, localASNumber: 64512, node: kube-master, numAllowedLocalASNumbers: 1",
            ],
            [PEER, "2", "", "peerIP: '2001::101', asNumber: 64566, localASNumber: 65001, node: kube-master"],
        ],
        peers: &[
            "node 2001::101 179 as 64566 local as 65001",
            "node 2001::102 179 as 64512 local as 64512 allowed 1",
        ],
    },
    Example {
        named: "explicit_peering/local-as-global",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "nodeToNodeMeshEnabled: false, asNumber: 64567, listenPort: 150"],
            MASTER_4,
            NODE_1_4,
            [NODE, "kube-node-2", "", "bgp: {ipv4Address: 10.192.0.1/16}"],
            [PEER, "1", "", "peerIP: 10.192.0.3, asNumber: 64567, localASNumber: 64515, sourceAddress: None"],
            [PEER, "2", "", "peerIP: '10.192.0.1:166', asNumber: 64567, localASNumber: 64567"],
            [
                PEER,
                "3",
                "",
                "peerIP: 10.192.0.1, asNumber: 64567, localASNumber: 64567, numAllowedLocalASNumbers: 1",
            ],
        ],
        peers: &[
            "global 10.192.0.1 150 as 64567 local as 64567 allowed 1",
            "global 10.192.0.1 166 as 64567 local as 64567",
            "global 10.192.0.3 150 as 64567 local as 64515 source none passive",
        ],
    },
    Example {
        named: "explicit_peering/route_reflector",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "nodeToNodeMeshEnabled: false, asNumber: 64532"],
            REFLECTOR,
            CLIENT_1,
            CLIENT_2,
            [PEER, "4", "", "peerIP: 172.19.4.87, asNumber: 64533, nodeSelector: has(routeReflector)"],
            [PEER, "6", "", "peerIP: '[ac13::57]:50', asNumber: 64533, nodeSelector: has(routeReflector)"],
            [PEER, "others", "", "nodeSelector: has(routeReflector), peerSelector: '!has(routeReflector)'"],
        ],
        peers: &[
            "node 10.192.0.3 179 as 64532 client of 10.0.0.1 waits",
            "node 10.192.0.4 179 as 64532 client of 10.0.0.1 waits",
            "node 172.19.4.87 179 as 64533 waits",
            "node ac13::57 50 as 64533",
            "node fe0a::3 179 as 64532 client of 10.0.0.1 waits",
            "node fe0a::4 179 as 64532 client of 10.0.0.1 waits",
        ],
    },
    Example {
        named: "explicit_peering/route_reflector_v6_by_ip: the reverse of a global peer",
        on: "kube-master",
        resources: &[
            [CONFIG, "default", "", "nodeToNodeMeshEnabled: false, asNumber: 64532"],
            REFLECTOR,
            CLIENT_1,
            CLIENT_2,
            [PEER, "4", "", "peerIP: 172.19.4.87, asNumber: 64533, nodeSelector: has(routeReflector)"],
            [PEER, "6", "", "peerIP: '[ac13::57]:50', asNumber: 64533, nodeSelector: has(routeReflector)"],
            [PEER, "others", "", "peerIP: 'fe0a::2'"],
        ],
        peers: &[
            "node 172.19.4.87 179 as 64533 waits",
            "node ac13::57 50 as 64533",
            "node fe0a::3 179 as 64532 client of 10.0.0.1 waits",
            "node fe0a::4 179 as 64532 client of 10.0.0.1 waits",
        ],
    },
    Example {
        named: "explicit_peering/selectors: a node with a port of its own",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            [CONFIG, "node.kube-node-1", "", "listenPort: 500"],
            labelled(MASTER, "group: one"),
            labelled(NODE_1, "group: two"),
            labelled(NODE_2, "group: two"),
            [PEER, "1", "", "nodeSelector: group=='one', peerSelector: group=='two'"],
        ],
        peers: &[
            "node 10.192.0.3 500 as 64512 waits",
            "node 10.192.0.4 179 as 64512 waits",
            "node 2001::102 500 as 64512",
            "node 2001::104 179 as 64512 waits",
        ],
    },
    Example {
        named: "explicit_peering/specific_node",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            MASTER_4,
            NODE_1_4,
            NODE_2_4,
            [PEER, "1", "", "peerIP: 10.192.0.3, asNumber: 64512, node: kube-master"],
            [PEER, "2", "", "peerIP: 10.192.0.4, asNumber: 64566, node: kube-master"],
        ],
        peers: &["node 10.192.0.3 179 as 64512 waits", "node 10.192.0.4 179 as 64566 waits"],
    },
    Example {
        named: "next_hop_mode/global_peers",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            MASTER,
            NODE_1,
            NODE_2,
            [PEER, "a4", "", "peerIP: 10.225.0.4, asNumber: 65515, nextHopMode: Keep"],
            [PEER, "b4", "", "peerIP: 10.225.0.5, asNumber: 64512, nextHopMode: Self"],
            [PEER, "a6", "", "peerIP: 'fdee::10', asNumber: 65515, nextHopMode: Keep"],
            [PEER, "b6", "", "peerIP: 'fdee::11', asNumber: 64512, nextHopMode: Self"],
        ],
        peers: &[
            "global 10.225.0.4 179 as 65515 next hop keep waits",
            "global 10.225.0.5 179 as 64512 next hop self waits",
            "global fdee::10 179 as 65515 next hop keep waits",
            "global fdee::11 179 as 64512 next hop self waits",
        ],
    },
    Example {
        named: "next_hop_mode/route_reflectors, and by the way reverse_peering/auto",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            labelled(MASTER, "route-reflector: 'true'"),
            NODE_1,
            NODE_2,
            [PEER, "with", "", "nodeSelector: all(), peerSelector: route-reflector == 'true'"],
            [
                PEER,
                "a4",
                "",
                "peerIP: 10.225.0.4, asNumber: 65515, nextHopMode: Keep, nodeSelector: route-reflector == 'true'",
            ],
            [
                PEER,
                "b6",
                "",
                "peerIP: 'fdee::11', asNumber: 64512, nextHopMode: Self, nodeSelector: route-reflector == 'true'",
            ],
        ],
        peers: &[
            "node 10.192.0.3 179 as 64512 waits",
            "node 10.192.0.4 179 as 64512 waits",
            "node 10.225.0.4 179 as 65515 next hop keep waits",
            "node 2001::102 179 as 64512",
            "node 2001::104 179 as 64512 waits",
            "node fdee::11 179 as 64512 next hop self waits",
        ],
    },
    Example {
        named: "reverse_peering/manual: nothing leads back",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            labelled(MASTER, "route-reflector: 'true'"),
            NODE_1,
            NODE_2,
            [
                PEER,
                "with",
                "",
                "nodeSelector: all(), peerSelector: route-reflector == 'true', reversePeering: Manual",
            ],
        ],
        peers: &[],
    },
    Example {
        named: "password",
        on: "node1",
        resources: &[
            MESH_OFF,
            [NODE, "node1", "node: 'yes'", "bgp: {ipv4Address: 10.24.0.1/24}"],
            [NODE, "node2", "node: 'yes'", "bgp: {ipv4Address: 10.24.0.2/24}"],
            [NODE, "node3", "node: 'yes'", "bgp: {ipv4Address: 10.24.0.3/24}"],
            [
                PEER,
                "1",
                "",
                "nodeSelector: has(node), peerIP: 10.24.0.2, asNumber: 64512, \
                 password: {secretKeyRef: {name: my-secrets-1, key: a}}",
            ],
            [
                PEER,
                "2",
                "",
                "nodeSelector: has(node), peerIP: 10.24.0.3, asNumber: 64512, \
                 password: {secretKeyRef: {name: my-secrets-1, key: b}}",
            ],
            [
                PEER,
                "3",
                "",
                "node: node1, peerIP: 10.24.10.10, asNumber: 64512, \
                 password: {secretKeyRef: {name: my-secrets-2, key: c}}",
            ],
        ],
        peers: &[
            "node 10.24.0.2 179 as 64512 password my-secrets-1/a waits",
            "node 10.24.0.3 179 as 64512 password my-secrets-1/b waits",
            "node 10.24.10.10 179 as 64512 password my-secrets-2/c waits",
        ],
    },
    Example {
        named: "sourceaddr_gracefulrestart, its last step",
        on: "node1",
        resources: &[
            MESH_OFF,
            [NODE, "node1", "", "bgp: {ipv4Address: 172.17.0.5/24}"],
            [NODE, "node2", "", "bgp: {ipv4Address: 172.17.0.6/24}"],
            [
                PEER,
                "1",
                "",
                "node: node1, peerIP: 172.17.0.6, asNumber: 64512, sourceAddress: None, maxRestartTime: 10s",
            ],
        ],
        peers: &["node 172.17.0.6 179 as 64512 source none restart 10 waits"],
    },
    Example {
        named: "ttl_security/explicit_node",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            MASTER,
            NODE_1,
            NODE_2,
            [PEER, "1", "", "node: kube-master, peerIP: 10.192.0.3, asNumber: 64517, ttlSecurity: 1"],
            [PEER, "2", "", "node: kube-master, peerIP: 10.192.0.4, asNumber: 64517, ttlSecurity: 2"],
        ],
        peers: &[
            "node 10.192.0.3 179 as 64517 ttl security 1 waits",
            "node 10.192.0.4 179 as 64517 ttl security 2 waits",
        ],
    },
    Example {
        named: "ttl_security/global, and bgpfilter/peer_type: a global peer by selector is never passive",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            labelled(MASTER, "global-peer: 'true'"),
            labelled(NODE_1, "global-peer: 'true'"),
            labelled(NODE_2, "global-peer: 'true'"),
            [
                PEER,
                "1",
                "",
                "peerSelector: has(global-peer), ttlSecurity: 1, filters: [test-filter-peertype]",
            ],
        ],
        peers: &[
            "global 10.192.0.3 179 as 64512 ttl security 1 filters test-filter-peertype waits",
            "global 10.192.0.4 179 as 64512 ttl security 1 filters test-filter-peertype waits",
            "global 2001::102 179 as 64512 ttl security 1 filters test-filter-peertype",
            "global 2001::104 179 as 64512 ttl security 1 filters test-filter-peertype waits",
        ],
    },
    Example {
        named: "ttl_security/peer_selector",
        on: "kube-master",
        resources: &[
            MESH_OFF,
            MASTER,
            labelled(NODE_1, "ttl-security-node: 'true'"),
            labelled(NODE_2, "ttl-security-node: 'true'"),
            [PEER, "1", "", "node: kube-master, peerSelector: has(ttl-security-node), ttlSecurity: 1"],
        ],
        peers: &[
            "node 10.192.0.3 179 as 64512 ttl security 1 waits",
            "node 10.192.0.4 179 as 64512 ttl security 1 waits",
            "node 2001::102 179 as 64512 ttl security 1",
            "node 2001::104 179 as 64512 ttl security 1 waits",
        ],
    },
];

fn document([kind, name, labels, spec]: &[&str; 4]) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: '{name}', labels: {{{labels}}}}}\n\
         spec: {{{spec}}}\n"
    )
}

/// All that a session is told, in the order of the lines above.
fn session(peer: &PeerPlan) -> String {
    let mut line =
        format!("{:?} {} {} as {}", peer.kind, peer.address, peer.port, peer.as_number).to_lowercase();
    let mut say = |words: &str, value: Option<String>| {
        if let Some(value) = value {
            line.push_str(&format!(" {words} {value}"));
        }
    };
    say("local as", peer.local_as_number.map(|number| number.to_string()));
    say("client of", peer.cluster_id.filter(|_| peer.rr_client).map(|cluster| cluster.to_string()));
    let next_hop = match peer.next_hop {
        NextHopMode::Auto => None,
        NextHopMode::SelfAddress => Some("self".to_owned()),
        NextHopMode::Keep => Some("keep".to_owned()),
    };
    say("next hop", next_hop);
    say("source", peer.source_address.is_none().then(|| "none".to_owned()));
    say("ttl security", peer.ttl_security.map(|hops| hops.to_string()));
    say("restart", peer.restart_time.map(|seconds| seconds.to_string()));
    say("password", peer.password_from.as_ref().map(|secret| format!("{}/{}", secret.name, secret.key)));
    say("allowed", Some(peer.allow_local_as).filter(|count| *count > 0).map(|count| count.to_string()));
    say("filters", (!peer.filters.is_empty()).then(|| peer.filters.join(",")));
    if peer.dial != Dial::First {
        line.push_str(" later");
    }
    line
}

/// Calico's line in the words of `session`: whoever is passive there, and whoever waits here alone, dials later.
fn ours(line: &str) -> String {
    match line.strip_suffix(" passive").or(line.strip_suffix(" waits")) {
        Some(rest) => format!("{rest} later"),
        None => line.to_owned(),
    }
}

#[test]
fn the_plan_of_calicos_own_examples_is_its_bird_cfg() {
    for example in EXAMPLES {
        let texts: Vec<String> = example.resources.iter().map(document).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut planned: Vec<String> =
            plan_of(&texts, example.on).peers.iter().map(|peer| session(peer)).collect();
        let mut expected: Vec<String> = example.peers.iter().map(|line| ours(line)).collect();
        planned.sort();
        expected.sort();
        assert_eq!(planned, expected, "{}", example.named);
    }
}
