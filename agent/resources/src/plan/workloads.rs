//! Pods that peer with their node. Which pods a BGPPeer's `localWorkloadSelector` chooses is Felix's to say, who knows
//! them and their labels; the plan of a node has them beside the peers that come from resources alone.

use std::{net::IpAddr, sync::Arc};

use super::{
    NodePlan,
    cluster::{Cluster, address},
    derive,
    index::Index,
};
use crate::{Snapshot, plan::Family};

/// A pod of this node that a BGPPeer has chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalWorkload {
    /// The BGPPeer's name.
    pub peer: String,
    /// At most one of each family.
    pub addresses: Vec<IpAddr>,
}

/// The plan with these. One whose BGPPeer does not exist, is for another node or chooses no pods is left out, as is one
/// at the address of another peer.
pub fn with_workloads(plan: &NodePlan, snapshot: &Snapshot, workloads: &[LocalWorkload]) -> NodePlan {
    let mut plan = plan.clone();
    let Some(own) = snapshot.node(&plan.node) else { return plan };
    let index = Index::new(snapshot, &plan.node);
    let cluster = Cluster::new(snapshot, &index);
    for workload in workloads {
        let object =
            snapshot.bgp_peer(&workload.peer).filter(|object| derive::chooses_workloads(own, object));
        let Some((object, as_number)) = object.and_then(|object| Some((object, object.spec.as_number?)))
        else {
            continue;
        };
        for remote in &workload.addresses {
            // Who stands where nobody dials is of no account.
            let own_address = address(own, Family::of(*remote)).unwrap_or(*remote);
            let peer = derive::workload_peer(&cluster, own, object, own_address, *remote, as_number);
            let Err(place) =
                plan.peers.binary_search_by_key(&(peer.address, peer.port), |peer| (peer.address, peer.port))
            else {
                continue;
            };
            for name in &peer.filters {
                let filter = snapshot.bgp_filter(name).map(|filter| (name.clone(), filter.clone()));
                plan.filters.extend(filter);
            }
            plan.peers.insert(place, Arc::new(peer));
        }
    }
    plan
}
