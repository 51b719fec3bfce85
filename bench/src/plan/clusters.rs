//! Clusters of many nodes, as the documents that their users would write.

use std::fmt::Write;

use super::changes::Change;

/// A cluster, and the nodes whose plans are measured.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    pub title: &'static str,
    /// The documents that are not nodes and affinities, by the number of nodes.
    rules: fn(usize) -> String,
    reflectors: usize,
    /// What is planned: a node's number, and what it is.
    pub planned: &'static [(usize, &'static str)],
    changes: &'static [Change],
}

/// Nodes in one rack.
const RACK: usize = 40;

const BOTH: &[(usize, &str)] = &[(100, "a node"), (0, "a reflector")];

const MESH: Cluster = Cluster {
    title: "full mesh",
    rules: |_| String::new(),
    reflectors: 0,
    planned: &[(100, "a node")],
    changes: &[Change::Label, Change::Address, Change::Node, Change::Block],
};

const REFLECTORS: Cluster = Cluster {
    title: "eight reflectors, by selectors",
    rules: |_| reflectors(),
    reflectors: 8,
    planned: BOTH,
    changes: &[Change::Label, Change::Address, Change::Node, Change::Block, Change::Selector],
};

pub const RACKS: Cluster = Cluster {
    title: "eight reflectors, and two switches in each rack, by selectors",
    rules: |nodes| reflectors() + &racks(nodes),
    reflectors: 8,
    planned: BOTH,
    changes: &[
        Change::Label,
        Change::Address,
        Change::Node,
        Change::Block,
        Change::OtherRack,
        Change::OwnRack,
        Change::Selector,
    ],
};

pub const CLUSTERS: [Cluster; 3] = [MESH, REFLECTORS, RACKS];

fn reflectors() -> String {
    "\
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {nodeToNodeMeshEnabled: false, asNumber: 64512}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: to-the-reflectors}
spec: {nodeSelector: \"!has(route-reflector)\", peerSelector: route-reflector == 'true'}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: among-the-reflectors}
spec: {nodeSelector: has(route-reflector), peerSelector: has(route-reflector)}
"
    .to_owned()
}

fn racks(nodes: usize) -> String {
    let mut out = String::new();
    for rack in 0..nodes.div_ceil(RACK) {
        for switch in 0..2 {
            // Writing to a String cannot fail.
            let _ = write!(
                out,
                "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{name: rack-{rack}-switch-{switch}}}
spec: {{nodeSelector: rack == '{rack}', peerIP: 192.168.{rack}.{switch}, asNumber: 65000}}
"
            );
        }
    }
    out
}

pub fn node_name(number: usize) -> String {
    format!("node-{number:05}")
}

impl Cluster {
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.changes.iter().copied()
    }

    /// The document of a node; `label` is a label that no selector asks for.
    pub fn node(&self, number: usize, label: &str) -> String {
        let reflector = number < self.reflectors;
        let (labels, id) = if reflector {
            (", route-reflector: 'true'", ", routeReflectorClusterID: 244.0.0.1")
        } else {
            ("", "")
        };
        format!(
            "---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {{name: {}, labels: {{rack: '{}', kubernetes.io/os: linux, zone: {label}{labels}}}}}
spec: {{bgp: {{ipv4Address: 10.{}.{}.1/16, ipv6Address: 'fd00:10::{number:x}/64'{id}}}}}
",
            node_name(number),
            number / RACK,
            number / 250,
            number % 250,
        )
    }

    /// Each node's block.
    pub fn affinity(&self, number: usize) -> String {
        let block = number as u32 * 64;
        let [_, a, b, c] = block.to_be_bytes();
        format!(
            "---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {{name: {node}-block}}
spec: {{node: {node}, cidr: 172.{}.{b}.{c}/26, state: confirmed, deleted: 'false'}}
",
            16 + a,
            node = node_name(number),
        )
    }

    fn pool() -> &'static str {
        "---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 172.16.0.0/12}
"
    }

    /// All of it.
    pub fn documents(&self, nodes: usize) -> String {
        let mut out = (self.rules)(nodes);
        out.push_str(Self::pool());
        for number in 0..nodes {
            out.push_str(&self.node(number, "a"));
            out.push_str(&self.affinity(number));
        }
        out
    }
}
