//! One object that changes.

use super::clusters::Cluster;

#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// A label of another node for which no selector asks.
    Label,
    /// Another node's address.
    Address,
    /// Another node appears.
    Node,
    /// Another node's block.
    Block,
    /// The AS of a switch of another rack.
    OtherRack,
    /// The AS of a switch of the planned node's rack.
    OwnRack,
    /// What selects all peers of a reflector.
    Selector,
}

/// A node that is not planned.
const OTHER: usize = 150;

impl Change {
    pub fn title(self) -> &'static str {
        match self {
            Change::Label => "a label of another node",
            Change::Address => "another node's address",
            Change::Node => "a new node",
            Change::Block => "another node's block",
            Change::OtherRack => "another rack's switch",
            Change::OwnRack => "the switch of rack 2, which is the node's",
            Change::Selector => "the BGPPeer of all nodes",
        }
    }

    /// The object as it is then.
    pub fn text(self, cluster: &Cluster) -> String {
        let switch = |rack: usize| {
            format!(
                "{{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {{name: rack-{rack}-switch-0}}, \
                 spec: {{nodeSelector: rack == '{rack}', peerIP: 192.168.{rack}.0, asNumber: 65009}}}}"
            )
        };
        match self {
            Change::Label => cluster.node(OTHER, "b"),
            Change::Address => cluster.node(OTHER, "a").replace("ipv4Address: 10.", "ipv4Address: 11."),
            Change::Node => cluster.node(60_000, "a"),
            Change::Block => cluster.affinity(OTHER).replace("state: confirmed", "state: pendingDeletion"),
            Change::OtherRack => switch(9),
            Change::OwnRack => switch(2),
            Change::Selector => {
                "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: to-the-reflectors}, \
                 spec: {nodeSelector: \"!has(route-reflector)\", peerSelector: route-reflector == 'true', \
                 maxRestartTime: 60s}}"
                    .to_owned()
            }
        }
    }
}
