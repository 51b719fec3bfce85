//! Plans one node again and again. After a change only those peers are derived anew that it can reach; everything else is
//! asked of what was kept. The result is that of [`plan()`](super::plan()), always.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::IpAddr,
    sync::Arc,
};

use super::{
    NodePlan, PeerPlan, PlanError, Warning, assemble,
    cluster::{Cluster, Family, NodeObject, address},
    derive::{self, Derived},
    index::Index,
    unknown_node,
};
use crate::{Kind, Snapshot, by_name::changes};

#[derive(Debug)]
pub struct Planner {
    node: String,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    snapshot: Arc<Snapshot>,
    index: Index,
    /// What deriving the peers said.
    said: Vec<Warning>,
    /// Addresses that more than one BGPPeer names: which of them says what, others' warnings depend on.
    met: BTreeSet<IpAddr>,
    plan: Arc<NodePlan>,
}

/// So many addresses are few in any cluster.
const FEW: usize = 64;

/// Which peers a change may have changed.
enum Reach {
    Everything,
    /// Those with these addresses.
    Addresses(BTreeSet<IpAddr>),
}

impl Planner {
    /// For the node of this name.
    pub fn new(node: impl Into<String>) -> Planner {
        Planner { node: node.into(), last: None }
    }

    /// The node's plan. After an error it is the next snapshot that counts.
    pub fn plan(&mut self, snapshot: &Arc<Snapshot>) -> Result<Arc<NodePlan>, PlanError> {
        let own = snapshot.node(&self.node).ok_or_else(|| unknown_node(snapshot, &self.node))?;
        let last = match self.last.take() {
            None => {
                let index = Index::new(snapshot, &self.node);
                let cluster = Cluster::new(snapshot, &index);
                let derived = derive::peers(&cluster, own);
                let (said, met) = (derived.warnings.clone(), derived.met.clone());
                let plan = Arc::new(assemble(&cluster, own, derived));
                Last { snapshot: snapshot.clone(), index, said, met, plan }
            }
            Some(last) => last.again(snapshot, own),
        };
        Ok(self.last.insert(last).plan.clone())
    }
}

impl Last {
    fn again(mut self, snapshot: &Arc<Snapshot>, own: &NodeObject) -> Last {
        if Arc::ptr_eq(&self.snapshot, snapshot) {
            return self;
        }
        let before = self.snapshot.clone();
        for (old, new) in changes(before.nodes_by_name(), snapshot.nodes_by_name()) {
            old.into_iter().for_each(|node| self.index.remove_node(node));
            new.into_iter().for_each(|node| self.index.add_node(node));
        }
        for (old, new) in changes(before.affinities_by_name(), snapshot.affinities_by_name()) {
            old.into_iter().for_each(|affinity| self.index.remove_affinity(affinity));
            new.into_iter().for_each(|affinity| self.index.add_affinity(affinity));
        }
        let cluster = Cluster::new(snapshot, &self.index);
        let derived = match reach(&before, &cluster, own, (&self.plan, &self.met)) {
            Reach::Everything => derive::peers(&cluster, own),
            Reach::Addresses(addresses) => {
                let mut nodes: BTreeMap<&str, &Arc<NodeObject>> = addresses
                    .iter()
                    .flat_map(|addr| self.index.nodes_at(*addr))
                    .map(|node| (node.name(), node))
                    .collect();
                if let Some(own) = snapshot.nodes_by_name().get(own.name()) {
                    nodes.insert(own.name(), own);
                }
                let nodes: Vec<Arc<NodeObject>> = nodes.into_values().cloned().collect();
                let some = derive::peers(&Cluster::new(snapshot, &self.index).with_scope(&nodes), own);
                let peers = replaced(&self.plan.peers, &addresses, some.peers);
                let is_elsewhere = |warning: &Warning| match warning {
                    Warning::DuplicatePeer { address, .. } => !addresses.contains(address),
                    _ => false,
                };
                let elsewhere = self.said.iter().filter(|warning| is_elsewhere(warning)).cloned();
                let here = some.warnings.into_iter().filter(|warning| !is_elsewhere(warning));
                let met = self.met.difference(&addresses).chain(&some.met).copied().collect();
                Derived { peers, ranges: some.ranges, warnings: elsewhere.chain(here).collect(), met }
            }
        };
        let (said, met) = (derived.warnings.clone(), derived.met.clone());
        let plan = Arc::new(assemble(&cluster, own, derived));
        Last { snapshot: snapshot.clone(), index: self.index, said, met, plan }
    }
}

/// The peers of before, but at these addresses those of now.
fn replaced(
    before: &[Arc<PeerPlan>],
    addresses: &BTreeSet<IpAddr>,
    now: Vec<Arc<PeerPlan>>,
) -> Vec<Arc<PeerPlan>> {
    let mut peers = Vec::with_capacity(before.len() + now.len());
    let mut rest = before;
    let mut now = now.into_iter().peekable();
    for addr in addresses {
        let (kept, behind) = rest.split_at(rest.partition_point(|peer| peer.address < *addr));
        peers.extend_from_slice(kept);
        rest = behind.get(behind.partition_point(|peer| peer.address == *addr)..).unwrap_or_default();
        while now.next_if(|peer| peer.address < *addr).is_some() {}
        peers.extend(iter::from_fn(|| now.next_if(|peer| peer.address == *addr)));
    }
    peers.extend_from_slice(rest);
    peers
}

/// Where the peers of `own` may differ from what they were.
fn reach(
    before: &Snapshot,
    cluster: &Cluster<'_>,
    own: &NodeObject,
    last: (&NodePlan, &BTreeSet<IpAddr>),
) -> Reach {
    let now = cluster.snapshot;
    let mut reached = BTreeSet::new();
    for (old, new) in changes(before.nodes_by_name(), now.nodes_by_name()) {
        let is_same = |old: &NodeObject, new: &NodeObject| {
            old.spec == new.spec && old.metadata.labels == new.metadata.labels
        };
        if old.zip(new).is_some_and(|(old, new)| is_same(old, new)) {
            continue;
        }
        if [old, new].into_iter().flatten().any(|node| node.name() == own.name()) {
            return Reach::Everything;
        }
        reached.extend([old, new].into_iter().flatten().flat_map(|node| addresses(node)));
    }
    for (old, new) in changes(before.configurations_by_name(), now.configurations_by_name()) {
        if old.zip(new).is_some_and(|(old, new)| old.spec == new.spec) {
            continue;
        }
        let name = old.or(new).map(|object| object.name()).unwrap_or_default();
        match name.strip_prefix("node.") {
            Some(node) if node != own.name() => {
                let nodes = [before.node(node), now.node(node)];
                reached.extend(nodes.into_iter().flatten().flat_map(addresses));
            }
            _ => return Reach::Everything,
        }
    }
    for (old, new) in changes(before.peers_by_name(), now.peers_by_name()) {
        if old.zip(new).is_some_and(|(old, new)| old.spec == new.spec) {
            continue;
        }
        if let Some(object) = old.filter(|old| new.is_some_and(|new| derive::choose_alike(old, new))) {
            let is_its = |peer: &&Arc<PeerPlan>| {
                peer.resource.kind == Kind::BgpPeer && peer.resource.name == object.name()
            };
            let (plan, met) = last;
            reached
                .extend(plan.peers.iter().filter(is_its).map(|peer| peer.address).chain(met.iter().copied()));
            continue;
        }
        for object in [old, new].into_iter().flatten() {
            // Of the nodes that have changed all addresses are in already, those of before too.
            match derive::leads_to(cluster, own, object) {
                Some(some) => reached.extend(some),
                None => return Reach::Everything,
            }
        }
    }
    // With more, whoever derives all of it has less to do.
    if reached.len() > (cluster.index.addresses() / 4).max(FEW) {
        Reach::Everything
    } else {
        Reach::Addresses(reached)
    }
}

fn addresses(node: &NodeObject) -> impl Iterator<Item = IpAddr> {
    Family::BOTH.into_iter().filter_map(|family| address(node, family))
}
