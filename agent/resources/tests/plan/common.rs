//! What the tests of this crate share: snapshots from text, and plans in a form that a reader takes in at a
//! glance.

use manx_resources::{NodePlan, PeerPlan, Snapshot, collect, plan};

pub const CLUSTER: &str = include_str!("../seed/1-cluster.yaml");
pub const MESH_OFF: &str = include_str!("../../../../examples/seed/2.1-bgpconfiguration.yaml");
pub const REFLECTOR: &str = include_str!("../../../../examples/seed/2.2-node.yaml");
pub const PEER: &str = include_str!("../../../../examples/seed/2.3-bgppeer.yaml");

/// A snapshot of texts without any problem; a later text replaces what an earlier one says of a resource, as
/// `manxctl apply` does.
pub fn snapshot(texts: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for text in texts {
        let collected = collect([("test.yaml", *text)]);
        assert_eq!(collected.problems, [], "{text}");
        for kind in manx_resources::Kind::ALL {
            collected.snapshot.of_kind(kind).into_iter().for_each(|resource| snapshot.insert(resource));
        }
    }
    snapshot
}

pub fn plan_of(texts: &[&str], node: &str) -> NodePlan {
    plan(&snapshot(texts), node).expect("the node exists")
}

/// One line for each peer.
pub fn peers(texts: &[&str], node: &str) -> Vec<String> {
    plan_of(texts, node).peers.iter().map(|peer| line(peer)).collect()
}

pub fn warnings(texts: &[&str], node: &str) -> Vec<String> {
    plan_of(texts, node).warnings.iter().map(ToString::to_string).collect()
}

fn line(peer: &PeerPlan) -> String {
    let mut line =
        format!("{} {} AS{} {:?}", peer.address, peer.port, peer.as_number, peer.kind).to_lowercase();
    line.push_str(&format!(" {:?}", peer.dial).to_lowercase());
    if peer.rr_client {
        line.push_str(&format!(" client of {}", peer.cluster_id.expect("a client has a cluster")));
    }
    line.push_str(&format!(" by {}", peer.resource));
    line
}
