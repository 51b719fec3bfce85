//! What the rules ask of all nodes and blocks of a cluster, kept as these come and go, so that no rule looks at all of
//! them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use manx_net::Prefix;

use super::cluster::{Family, NodeObject, address, cluster_id};
use crate::{
    Object, Snapshot,
    spec::{AffinityState, BlockAffinity},
};

type AffinityObject = Object<BlockAffinity>;

/// Nodes by what they have, as one of them sees it.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    own: String,
    /// Who has an address, by name.
    by_address: BTreeMap<IpAddr, Few<Arc<NodeObject>>>,
    /// Those that more than one node has.
    shared: BTreeSet<IpAddr>,
    without_address: BTreeSet<String>,
    reflectors: BTreeMap<String, Ipv4Addr>,
    /// Who claims a block, sorted, once for each claim.
    claims: BTreeMap<Prefix, Few<String>>,
    claimed_by_several: BTreeSet<Prefix>,
    own_blocks: BTreeSet<Prefix>,
}

/// One in nearly every case, for which nothing is allocated.
#[derive(Clone, Debug)]
struct Few<T> {
    first: T,
    rest: Vec<T>,
}

impl<T> Few<T> {
    fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Puts `new` behind all that are not greater.
    fn add(&mut self, mut new: T, is_less: impl Fn(&T, &T) -> bool) {
        if is_less(&new, &self.first) {
            std::mem::swap(&mut new, &mut self.first);
        }
        let at = self.rest.partition_point(|one| !is_less(&new, one));
        self.rest.insert(at, new);
    }

    /// Takes the first out that is the one. False if none is left.
    fn take(&mut self, is_it: impl Fn(&T) -> bool) -> bool {
        if is_it(&self.first) {
            if self.rest.is_empty() {
                return false;
            }
            self.first = self.rest.remove(0);
        } else if let Some(at) = self.rest.iter().position(is_it) {
            self.rest.remove(at);
        }
        true
    }
}

impl Index {
    /// As the node of this name sees the cluster.
    pub(crate) fn new(snapshot: &Snapshot, own: &str) -> Index {
        let mut index = Index {
            own: own.to_owned(),
            by_address: BTreeMap::new(),
            shared: BTreeSet::new(),
            without_address: BTreeSet::new(),
            reflectors: BTreeMap::new(),
            claims: BTreeMap::new(),
            claimed_by_several: BTreeSet::new(),
            own_blocks: BTreeSet::new(),
        };
        snapshot.nodes_by_name().values().for_each(|node| index.add_node(node));
        snapshot.block_affinities().for_each(|affinity| index.add_affinity(affinity));
        index
    }

    /// The same cluster, as another of its nodes sees it.
    pub(crate) fn see_as(&mut self, own: &str) {
        self.own = own.to_owned();
        let own = self.claims.iter().filter(|(_, nodes)| nodes.iter().any(|name| *name == self.own));
        self.own_blocks = own.map(|(block, _)| *block).collect();
    }

    pub(crate) fn add_node(&mut self, node: &Arc<NodeObject>) {
        let mut has_address = false;
        for addr in Family::BOTH.into_iter().filter_map(|family| address(node, family)) {
            has_address = true;
            match self.by_address.get_mut(&addr) {
                Some(nodes) => {
                    nodes.add(node.clone(), |a, b| a.name() < b.name());
                    self.shared.insert(addr);
                }
                None => {
                    self.by_address.insert(addr, Few { first: node.clone(), rest: Vec::new() });
                }
            }
        }
        if !has_address {
            self.without_address.insert(node.name().to_owned());
        }
        if let Some(id) = cluster_id(node) {
            self.reflectors.insert(node.name().to_owned(), id);
        }
    }

    /// Undoes [`Index::add_node`].
    pub(crate) fn remove_node(&mut self, node: &NodeObject) {
        for addr in Family::BOTH.into_iter().filter_map(|family| address(node, family)) {
            let Some(nodes) = self.by_address.get_mut(&addr) else { continue };
            let is_left = nodes.take(|one| one.name() == node.name());
            let is_shared = !nodes.rest.is_empty();
            if !is_left {
                self.by_address.remove(&addr);
            }
            if !is_shared {
                self.shared.remove(&addr);
            }
        }
        self.without_address.remove(node.name());
        self.reflectors.remove(node.name());
    }

    pub(crate) fn add_affinity(&mut self, affinity: &AffinityObject) {
        if !is_owned(&affinity.spec) {
            return;
        }
        let BlockAffinity { cidr, node, .. } = &affinity.spec;
        match self.claims.get_mut(cidr) {
            Some(nodes) => nodes.add(node.clone(), |a, b| a < b),
            None => {
                self.claims.insert(*cidr, Few { first: node.clone(), rest: Vec::new() });
            }
        }
        self.look_at_claims(*cidr);
    }

    /// Undoes [`Index::add_affinity`].
    pub(crate) fn remove_affinity(&mut self, affinity: &AffinityObject) {
        if !is_owned(&affinity.spec) {
            return;
        }
        let BlockAffinity { cidr, node, .. } = &affinity.spec;
        let Some(nodes) = self.claims.get_mut(cidr) else { return };
        if !nodes.take(|one| one == node) {
            self.claims.remove(cidr);
        }
        self.look_at_claims(*cidr);
    }

    fn look_at_claims(&mut self, block: Prefix) {
        let claims = self.claims.get(&block);
        let set = |set: &mut BTreeSet<Prefix>, is_in: bool| {
            if is_in {
                set.insert(block)
            } else {
                set.remove(&block)
            };
        };
        let several = claims.is_some_and(|nodes| nodes.rest.iter().any(|name| *name != nodes.first));
        set(&mut self.claimed_by_several, several);
        let own = claims.is_some_and(|nodes| nodes.iter().any(|name| *name == self.own));
        set(&mut self.own_blocks, own);
    }

    /// The node with this address; of several the first by name.
    pub(crate) fn node_at(&self, addr: IpAddr) -> Option<&NodeObject> {
        self.by_address.get(&addr).map(|nodes| nodes.first.as_ref())
    }

    /// All with this address, by name.
    pub(crate) fn nodes_at(&self, addr: IpAddr) -> impl Iterator<Item = &Arc<NodeObject>> {
        self.by_address.get(&addr).into_iter().flat_map(Few::iter)
    }

    /// How many addresses all nodes have.
    pub(crate) fn addresses(&self) -> usize {
        self.by_address.len()
    }

    /// The least address of a node in the prefix.
    pub(crate) fn address_in(&self, prefix: Prefix) -> Option<IpAddr> {
        let (addr, _) = self.by_address.range(prefix.addr()..).next()?;
        prefix.contains(*addr).then_some(*addr)
    }

    /// Addresses that more than one node has, with the names of those nodes.
    pub(crate) fn shared_addresses(&self) -> impl Iterator<Item = (IpAddr, Vec<String>)> {
        self.shared
            .iter()
            .map(|addr| (*addr, self.nodes_at(*addr).map(|node| node.name().to_owned()).collect()))
    }

    pub(crate) fn without_address(&self) -> &BTreeSet<String> {
        &self.without_address
    }

    pub(crate) fn reflectors(&self) -> &BTreeMap<String, Ipv4Addr> {
        &self.reflectors
    }

    /// The blocks that the node owns whose view this is.
    pub(crate) fn own_blocks(&self) -> &BTreeSet<Prefix> {
        &self.own_blocks
    }

    /// The node's own blocks that others claim too, with the names of all who do.
    pub(crate) fn contested_blocks(&self) -> impl Iterator<Item = (Prefix, Vec<String>)> {
        self.claimed_by_several.intersection(&self.own_blocks).map(|block| {
            let mut nodes: Vec<String> =
                self.claims.get(block).into_iter().flat_map(Few::iter).cloned().collect();
            nodes.dedup();
            (*block, nodes)
        })
    }
}

/// A block whose claim is still pending, or is being given up, is nobody's.
pub(crate) fn is_owned(affinity: &BlockAffinity) -> bool {
    affinity.host && !affinity.deleted && affinity.state == AffinityState::Confirmed
}
