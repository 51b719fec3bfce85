//! Whatever the resources say, the plans of all nodes fit together: who peers with a node is its peer, expects the
//! AS that it has, and of two ends one dials first.

use std::{collections::BTreeMap, net::IpAddr};

use manx_resources::{NodePlan, Snapshot, plan};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::common::snapshot;

#[derive(Clone, Debug)]
struct Node {
    rack: u8,
    reflector: Option<u8>,
    as_number: Option<u32>,
    port: Option<u16>,
    v6: bool,
}

fn node() -> impl Strategy<Value = Node> {
    let some = |range: std::ops::Range<u32>| prop::option::weighted(0.3, range);
    (0..3_u8, some(1..3), some(65001..65003), some(1790..1792), any::<bool>()).prop_map(
        |(rack, reflector, as_number, port, v6)| Node {
            rack,
            reflector: reflector.map(|id| id as u8),
            as_number,
            port: port.map(|port| port as u16),
            v6,
        },
    )
}

#[derive(Clone, Debug)]
enum Remote {
    Selector(&'static str),
    /// A node by its address, with its AS or without one.
    Node(prop::sample::Index, bool),
    Outside,
}

fn peer() -> impl Strategy<Value = (Option<&'static str>, Remote)> {
    let selectors = || select(vec!["all()", "has(rr)", "!has(rr)", "rack == '1'", "rack in {'0', '2'}"]);
    let remote = prop_oneof![
        3 => selectors().prop_map(Remote::Selector),
        2 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(index, known)| Remote::Node(index, known)),
        1 => Just(Remote::Outside),
    ];
    (prop::option::of(selectors()), remote)
}

pub fn cluster() -> impl Strategy<Value = String> {
    (
        vec(node(), 1..6),
        vec(peer(), 0..5),
        prop::option::of(any::<bool>()),
        prop::option::of(select(vec![64999_u32])),
    )
        .prop_map(|(nodes, peers, mesh, as_number)| {
            let head = |kind: &str, name: &str| {
                format!("---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata:\n  name: {name}\n")
            };
            let mut text = head("BGPConfiguration", "default") + "spec:\n  listenPort: 179\n";
            text += &mesh.map(|mesh| format!("  nodeToNodeMeshEnabled: {mesh}\n")).unwrap_or_default();
            text += &as_number.map(|asn| format!("  asNumber: {asn}\n")).unwrap_or_default();
            for (index, node) in nodes.iter().enumerate() {
                let name = format!("n{index}");
                if let Some(port) = node.port {
                    text += &head("BGPConfiguration", &format!("node.{name}"));
                    text += &format!("spec: {{listenPort: {port}}}\n");
                }
                text += &head("Node", &name);
                text += &format!("  labels:\n    rack: '{}'\n", node.rack);
                text += if node.reflector.is_some() { "    rr: 'true'\n" } else { "" };
                text += &format!("spec:\n  bgp:\n    ipv4Address: 10.0.0.{}/24\n", 8 + index);
                text += &if node.v6 {
                    format!("    ipv6Address: 2001:db8::{}/64\n", 8 + index)
                } else {
                    String::new()
                };
                text += &node.as_number.map(|asn| format!("    asNumber: {asn}\n")).unwrap_or_default();
                text += &node
                    .reflector
                    .map(|id| format!("    routeReflectorClusterID: 1.1.1.{id}\n"))
                    .unwrap_or_default();
            }
            for (index, (local, remote)) in peers.iter().enumerate() {
                text += &head("BGPPeer", &format!("p{index}"));
                text += "spec:\n";
                text +=
                    &local.map(|selector| format!("  nodeSelector: \"{selector}\"\n")).unwrap_or_default();
                text += &match remote {
                    Remote::Selector(selector) => format!("  peerSelector: \"{selector}\"\n"),
                    Remote::Outside => "  peerIP: 10.0.0.250\n  asNumber: 65000\n".to_owned(),
                    Remote::Node(node, known) => {
                        let node = node.index(nodes.len());
                        let asn = nodes[node].as_number.or(as_number).unwrap_or(64512);
                        // Without an AS the cluster's is taken, which need not be the node's.
                        let known = *known || nodes[node].as_number.is_some();
                        let asn = if known { format!("  asNumber: {asn}\n") } else { String::new() };
                        format!("  peerIP: 10.0.0.{}\n{asn}", 8 + node)
                    }
                };
            }
            text
        })
}

pub fn plans(snapshot: &Snapshot) -> BTreeMap<String, NodePlan> {
    let names: Vec<String> = snapshot.nodes().map(|node| node.name().to_owned()).collect();
    names.into_iter().map(|name| (name.clone(), plan(snapshot, &name).unwrap())).collect()
}

pub fn own_address(plan: &NodePlan, v4: bool) -> Option<IpAddr> {
    if v4 {
        plan.address.ipv4.map(|interface| interface.addr.into())
    } else {
        plan.address.ipv6.map(|interface| interface.addr.into())
    }
}

proptest! {
    #[test]
    fn the_plans_of_all_nodes_fit_together(text in cluster()) {
        let plans = plans(&snapshot(&[&text]));
        for plan in plans.values() {
            for peer in &plan.peers {
                let v4 = peer.address.is_ipv4();
                let Some(other) = plans.values().find(|other| own_address(other, v4) == Some(peer.address)) else {
                    prop_assert_eq!(peer.address.to_string(), "10.0.0.250");
                    continue;
                };
                let own = own_address(plan, v4).unwrap();
                prop_assert_ne!(own, peer.address);
                prop_assert_eq!(peer.as_number, other.as_number);
                prop_assert_eq!(peer.port, other.listen_port);
                let back: Vec<_> = other.peers.iter().filter(|back| back.address == own).collect();
                prop_assert_eq!(back.len(), 1, "{} has {} but not the reverse\n{}", plan.node, peer.address, text);
                prop_assert_ne!(back[0].dial, peer.dial);
                // Never both clients of each other unless they are reflectors of different clusters, or met by
                // address, where the other's cluster is not known.
                if peer.rr_client {
                    prop_assert_eq!(peer.cluster_id, plan.cluster_id);
                    prop_assert_eq!(peer.as_number, plan.as_number);
                }
            }
        }
    }

    #[test]
    fn a_plan_depends_on_what_the_resources_say_and_not_on_their_order(text in cluster()) {
        let mut documents: Vec<&str> = text.split("---\n").collect();
        documents.reverse();
        let reversed = documents.join("---\n") + "---\n";
        prop_assert_eq!(plans(&snapshot(&[&text])), plans(&snapshot(&[&reversed])));
    }
}
