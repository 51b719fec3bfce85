//! The sessions that all nodes together plan: do two ends agree?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{Findings, Rule, list};
use crate::{
    Key, Kind, PeerPlan, Warning,
    plan::{Cluster, Derived, Family, NodeObject, address, derive},
};

/// A node's number is its place among the nodes.
pub(crate) struct Sessions<'s> {
    pub nodes: Vec<&'s NodeObject>,
    pub derived: Vec<Derived>,
    by_address: BTreeMap<IpAddr, usize>,
}

impl<'s> Sessions<'s> {
    pub fn of(cluster: &Cluster<'s>) -> Sessions<'s> {
        let nodes: Vec<&NodeObject> = cluster.nodes().collect();
        let mut by_address = BTreeMap::new();
        for (number, node) in nodes.iter().enumerate() {
            for address in Family::BOTH.into_iter().filter_map(|family| address(node, family)) {
                by_address.entry(address).or_insert(number);
            }
        }
        let derived = nodes.iter().map(|node| derive::peers(cluster, node)).collect();
        Sessions { nodes, derived, by_address }
    }

    /// The node at the other end; None: it is none of the cluster's.
    pub fn other_end(&self, peer: &PeerPlan) -> Option<usize> {
        self.by_address.get(&peer.address).copied()
    }

    /// Each node with its peers, by number.
    pub fn each(&self) -> impl Iterator<Item = (usize, &'s NodeObject, &[Arc<PeerPlan>])> {
        self.nodes
            .iter()
            .zip(&self.derived)
            .enumerate()
            .map(|(number, (node, derived))| (number, *node, derived.peers.as_slice()))
    }

    /// How the node sees whoever has this address.
    pub fn peer_at(&self, node: usize, address: IpAddr) -> Option<&PeerPlan> {
        let peers = &self.derived.get(node)?.peers;
        let first = peers.partition_point(|peer| peer.address < address);
        peers.get(first).filter(|peer| peer.address == address).map(Arc::as_ref)
    }

    /// The other end's view of a session that `node` plans with it, and who that is.
    pub fn back(&self, node: usize, peer: &PeerPlan) -> Option<(usize, Option<&PeerPlan>)> {
        let other = self.other_end(peer)?;
        let own = address(self.nodes.get(node)?, Family::of(peer.address))?;
        Some((other, self.peer_at(other, own)))
    }

    /// Whoever dials in from this address is taken by a range.
    fn in_a_range(&self, node: usize, address: IpAddr) -> bool {
        self.derived
            .get(node)
            .is_some_and(|derived| derived.ranges.iter().any(|range| range.range.contains(address)))
    }
}

/// Sessions that only one end plans, or of which the ends believe different things.
pub(super) fn two_ends(cluster: &Cluster<'_>, sessions: &Sessions<'_>, found: &mut Findings) {
    let mut one_sided: BTreeMap<(Key, &str), BTreeSet<&str>> = BTreeMap::new();
    let mut mismatched: BTreeMap<(Key, String), BTreeSet<&str>> = BTreeMap::new();
    for (number, node, peers) in sessions.each() {
        for peer in peers {
            let Some((other, back)) = sessions.back(number, peer) else { continue };
            let Some(other_node) = sessions.nodes.get(other) else { continue };
            let shown = match back {
                Some(back) => back.local_as_number.unwrap_or(cluster.as_number_of(other_node)),
                None => {
                    let own = address(node, Family::of(peer.address));
                    // What names the node wrongly is told by itself.
                    let is_told = peer.as_number != cluster.as_number_of(other_node);
                    if !is_told && !own.is_some_and(|own| sessions.in_a_range(other, own)) {
                        one_sided
                            .entry((peer.resource.clone(), other_node.name()))
                            .or_default()
                            .insert(node.name());
                    }
                    continue;
                }
            };
            if shown != peer.as_number && peer.resource.kind == Kind::BgpPeer {
                let what = format!(
                    "expects Node/{} in AS {}, which shows it AS {shown}",
                    other_node.name(),
                    peer.as_number
                );
                mismatched.entry((peer.resource.clone(), what)).or_default().insert(node.name());
            }
        }
    }
    for ((resource, other), nodes) in one_sided {
        let nodes: Vec<String> = nodes.into_iter().map(str::to_owned).collect();
        found.error(
            Rule::OneSided,
            vec![resource],
            nodes.clone(),
            format!("{} dials Node/{other}, which has no peer with that address and refuses", list(&nodes)),
            format!(
                "let a BGPPeer lead from Node/{other} back, or take reversePeering: Manual out, with which nobody else does"
            ),
        );
    }
    for ((resource, what), nodes) in mismatched {
        let nodes: Vec<String> = nodes.into_iter().map(str::to_owned).collect();
        found.error(
            Rule::AsMismatch,
            vec![resource],
            nodes.clone(),
            format!("{} {what}: the session is refused (bad peer AS)", list(&nodes)),
            "let both ends name the same AS: asNumber of the rule, localASNumber of the rule at the other end, or the node's own"
                .to_owned(),
        );
    }
}

/// Addresses of peers, and the nodes that have them.
type Ends<'s> = (BTreeSet<IpAddr>, BTreeSet<&'s str>);

/// What deriving the peers said, once for all nodes.
pub(super) fn derived(cluster: &Cluster<'_>, sessions: &Sessions<'_>, found: &mut Findings) {
    let mut duplicates: BTreeMap<(&Key, &Key), Ends<'_>> = BTreeMap::new();
    let mut ranges: BTreeMap<(&Key, &Key), BTreeSet<&str>> = BTreeMap::new();
    let mut without_address: BTreeMap<&Key, BTreeSet<&str>> = BTreeMap::new();
    for (node, derived) in sessions.nodes.iter().zip(&sessions.derived) {
        for warning in &derived.warnings {
            match warning {
                Warning::DuplicatePeer { address, kept, dropped } => {
                    let (addresses, nodes) = duplicates.entry((kept, dropped)).or_default();
                    addresses.insert(*address);
                    nodes.insert(node.name());
                }
                Warning::DuplicateRange { kept, dropped, .. } => {
                    ranges.entry((kept, dropped)).or_default().insert(node.name());
                }
                Warning::NoOwnAddress { resource, .. } => {
                    without_address.entry(resource).or_default().insert(node.name());
                }
                _ => {}
            }
        }
    }
    let owned = |nodes: BTreeSet<&str>| nodes.into_iter().map(str::to_owned).collect::<Vec<_>>();
    for ((kept, dropped), (addresses, nodes)) in duplicates {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        found.warn(
            Rule::DuplicatePeer,
            vec![dropped.clone(), kept.clone()],
            owned(nodes),
            format!(
                "both make a session with {}, and say different things of it; here {kept} counts, and in Calico whichever comes \
                 first",
                list(&addresses)
            ),
            "delete one of them, or let their selectors choose different nodes".to_owned(),
        );
    }
    for ((kept, dropped), nodes) in ranges {
        found.warn(
            Rule::DuplicateRange,
            vec![dropped.clone(), kept.clone()],
            owned(nodes),
            format!("both are for the same range; {kept} counts"),
            "delete one of them".to_owned(),
        );
    }
    for (resource, nodes) in without_address {
        let nodes = owned(nodes);
        found.warn(
            Rule::NoOwnAddress,
            vec![resource.clone()],
            nodes.clone(),
            format!(
                "its peerIP is of a family in which {} has no address in spec.bgp, so there is no session",
                list(&nodes)
            ),
            "give the node an address of that family, or choose other nodes".to_owned(),
        );
    }
    let alone = sessions.nodes.len() < 2;
    let lonely = sessions.each().filter(|(number, node, peers)| {
        let ranges = sessions.derived.get(*number).is_some_and(|derived| !derived.ranges.is_empty());
        peers.is_empty() && !ranges && Family::BOTH.into_iter().any(|family| address(node, family).is_some())
    });
    let (reflectors, others): (Vec<_>, Vec<_>) =
        lonely.map(|(_, node, _)| node).partition(|node| crate::plan::cluster_id(node).is_some());
    for node in reflectors.iter().filter(|_| !alone) {
        found.error(
            Rule::NoPeers,
            vec![Key::new(Kind::Node, node.name())],
            vec![node.name().to_owned()],
            format!(
                "Node/{} is cut off: its routeReflectorClusterID takes it out of the node-to-node mesh, and no BGPPeer leads \
                 to it",
                node.name()
            ),
            "add a BGPPeer with a peerSelector for its labels, or take routeReflectorClusterID out".to_owned(),
        );
    }
    if !others.is_empty() && !alone {
        let names: Vec<String> = others.iter().map(|node| node.name().to_owned()).collect();
        let (first, remedy) = if cluster.mesh {
            ("there is nobody else in the node-to-node mesh", "add a BGPPeer that leads to other nodes")
        } else {
            (
                "the node-to-node mesh is off",
                "set nodeToNodeMeshEnabled: true, or add a BGPPeer that leads these nodes to reflectors or switches",
            )
        };
        found.error(
            Rule::NoPeers,
            vec![super::default_configuration()],
            names.clone(),
            format!(
                "{first} and no BGPPeer concerns {}: pods there reach no pod of another node",
                list(&names)
            ),
            remedy.to_owned(),
        );
    }
}
