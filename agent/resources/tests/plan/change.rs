//! What a change means for all nodes together: the article's, and any at random against a slow account of whose routes go
//! where.

use std::collections::{BTreeMap, BTreeSet};

use manx_resources::{Change, NodePlan, Snapshot, change, unreached};
use proptest::prelude::*;

use crate::{
    common::*,
    symmetry::{cluster, own_address, plans},
};

fn changes(before: &[&str], after: &[&str]) -> Change {
    change(&snapshot(before), &snapshot(after))
}

/// kept, anew, added, closed
fn counts(change: &Change) -> Vec<(&str, [usize; 4])> {
    let counts = change.sessions.iter().map(|of| (of.node.as_str(), [of.kept, of.anew, of.added, of.closed]));
    counts.collect()
}

fn cuts(change: &Change) -> Vec<String> {
    change.cut.iter().map(ToString::to_string).collect()
}

#[test]
fn what_changes_nothing_says_nothing() {
    assert_eq!(changes(&[CLUSTER], &[CLUSTER]), Change::default());
    // A cluster id alone makes and ends no session.
    assert_eq!(changes(&[CLUSTER, MESH_OFF], &[CLUSTER, MESH_OFF, REFLECTOR]), Change::default());
}

#[test]
fn the_mesh_switched_off_alone_cuts_all_off_and_with_a_reflector_nobody() {
    let off = changes(&[CLUSTER], &[CLUSTER, MESH_OFF]);
    let all = ["k8s-master-01", "k8s-worker-01", "k8s-worker-02"];
    assert_eq!(counts(&off), all.map(|node| (node, [0, 0, 0, 2])));
    assert_eq!(
        cuts(&off),
        ["k8s-master-01, k8s-worker-01, k8s-worker-02 would no longer reach one another (without a path: \
             172.16.36.192/26, 172.16.118.64/26)"]
    );
    let whole = changes(&[CLUSTER], &[CLUSTER, MESH_OFF, REFLECTOR, PEER]);
    assert_eq!(
        counts(&whole),
        // The AS is another, too.
        [(all[0], [0, 2, 0, 0]), (all[1], [0, 1, 0, 1]), (all[2], [0, 1, 0, 1])]
    );
    assert_eq!(cuts(&whole), [] as [&str; 0]);
    let back = changes(&[CLUSTER, MESH_OFF, REFLECTOR, PEER], &[CLUSTER]);
    assert_eq!(cuts(&back), [] as [&str; 0]);
}

#[test]
fn who_is_cut_off_from_whom_is_told_with_the_blocks() {
    let worker_out = "{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: bgppeer-global}, spec: {\
                      node: k8s-worker-01, peerIP: 192.168.80.121, asNumber: 61234}}";
    let reflected = [CLUSTER, MESH_OFF, REFLECTOR, PEER];
    let mut without = reflected.to_vec();
    without.push(worker_out);
    let change = changes(&reflected, &without);
    assert_eq!(
        cuts(&change),
        [
            "no routes would pass any longer between k8s-master-01 and k8s-worker-02 (without a path: 172.16.118.64/26)",
            "no routes would pass any longer between k8s-worker-01 and k8s-worker-02 (without a path: 172.16.36.192/26, \
             172.16.118.64/26)",
        ]
    );
    let lost = unreached(&snapshot(&without), "k8s-worker-01");
    let lost: Vec<_> = lost.iter().map(|(node, blocks)| (node.as_str(), blocks.len())).collect();
    assert_eq!(lost, [("k8s-worker-02", 1)]);
}

#[test]
fn a_node_that_goes_is_cut_off_from_nobody_and_takes_with_it_who_hung_on_it() {
    let reflected = snapshot(&[CLUSTER, MESH_OFF, REFLECTOR, PEER]);
    let mut without = reflected.clone();
    without.remove(&manx_resources::Key::new(manx_resources::Kind::Node, "k8s-worker-02"));
    assert_eq!(cuts(&change(&reflected, &without)), [] as [&str; 0]);
    without = reflected.clone();
    without.remove(&manx_resources::Key::new(manx_resources::Kind::Node, "k8s-master-01"));
    assert_eq!(
        cuts(&change(&reflected, &without)),
        [
            "k8s-worker-01, k8s-worker-02 would no longer reach one another (without a path: 172.16.36.192/26, \
             172.16.118.64/26)"
        ]
    );
}

/// How a route stands at a node: whether it came from a client, from within the AS at all, and what it has been through.
type Standing = (bool, bool, BTreeSet<std::net::Ipv4Addr>, BTreeSet<u32>);

/// Everybody to whom the routes of a node come, session by session.
fn reached(plans: &BTreeMap<String, NodePlan>, origin: &str) -> BTreeSet<String> {
    let node_at = |address| {
        plans.values().find(|plan| [true, false].iter().any(|v4| own_address(plan, *v4) == Some(address)))
    };
    let mut seen: BTreeSet<(String, Standing)> = BTreeSet::new();
    let mut open = vec![(origin.to_owned(), (false, false, BTreeSet::new(), BTreeSet::new()))];
    let mut outside = false;
    while let Some((at, standing)) = open.pop() {
        if !seen.insert((at.clone(), standing.clone())) {
            continue;
        }
        let (client, internal, clusters, path) = standing;
        let plan = &plans[&at];
        for peer in &plan.peers {
            let Some(other) = node_at(peer.address) else {
                let ibgp = peer.as_number == plan.as_number;
                if !(internal && ibgp) || client || peer.rr_client {
                    outside = true;
                }
                continue;
            };
            let mut clusters = clusters.clone();
            let mut path = path.clone();
            let ibgp = other.as_number == plan.as_number;
            // The two families' sessions between two nodes are of one kind.
            let own = own_address(plan, peer.address.is_ipv4());
            let back = other.peers.iter().find(|back| Some(back.address) == own).expect("both ends");
            if ibgp {
                if internal {
                    let Some(id) = plan.cluster_id.filter(|_| client || peer.rr_client) else { continue };
                    clusters.insert(id);
                }
                if other.cluster_id.is_some_and(|id| clusters.contains(&id)) || other.node == origin {
                    continue;
                }
                open.push((other.node.clone(), (back.rr_client, true, clusters, path)));
            } else {
                path.insert(plan.as_number.get());
                if path.contains(&other.as_number.get()) || other.node == origin {
                    continue;
                }
                open.push((other.node.clone(), (false, false, BTreeSet::new(), path)));
            }
        }
        if std::mem::take(&mut outside) {
            // What lies outside passes everything on, to everybody who peers with it.
            for plan in plans.values().filter(|plan| plan.node != origin) {
                for peer in plan.peers.iter().filter(|peer| node_at(peer.address).is_none()) {
                    let ibgp = peer.as_number == plan.as_number;
                    let standing = (ibgp && peer.rr_client, ibgp, BTreeSet::new(), BTreeSet::new());
                    open.push((plan.node.clone(), standing));
                }
            }
        }
    }
    seen.into_iter().map(|(node, _)| node).collect()
}

fn all_unreached(snapshot: &Snapshot) -> BTreeSet<(String, String)> {
    let plans = plans(snapshot);
    let mut pairs = BTreeSet::new();
    for of in plans.keys() {
        let reached = reached(&plans, of);
        pairs.extend(plans.keys().filter(|to| !reached.contains(*to)).map(|to| (of.clone(), to.clone())));
    }
    pairs
}

proptest! {
    #[test]
    fn who_is_cut_off_is_as_counted_route_by_route(before in cluster(), after in cluster()) {
        let (before, after) = (snapshot(&[&before]), snapshot(&[&after]));
        let (old, new) = (all_unreached(&before), all_unreached(&after));
        for node in after.nodes().map(|node| node.name()) {
            let of: BTreeSet<String> = unreached(&after, node).into_keys().collect();
            let wanted: BTreeSet<String> =
                new.iter().filter(|(_, to)| to == node).map(|(of, _)| of.clone()).collect();
            prop_assert_eq!(of, wanted, "whose routes do not come to {}", node);
        }
        let stays = |node: &String| before.node(node).is_some() && after.node(node).is_some();
        let wanted: BTreeSet<(String, String)> =
            new.difference(&old).filter(|(of, to)| stays(of) && stays(to)).cloned().collect();
        let mut found = BTreeSet::new();
        for cut in change(&before, &after).cut {
            for (of, to) in cut.of.iter().flat_map(|of| cut.to.iter().map(move |to| (of, to))) {
                if of != to {
                    found.insert((of.clone(), to.clone()));
                    if cut.both_ways {
                        found.insert((to.clone(), of.clone()));
                    }
                }
            }
        }
        prop_assert_eq!(found, wanted);
    }
}
