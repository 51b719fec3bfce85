//! A route after a change: the choice among its paths anew, and what of it concerns the driver and each update group.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    Kept, Rib, RibPeer, announcer,
    export::{GroupKey, leaves_alike, outgoing},
    group::Group,
    group_paths::judged_paths,
    judged,
    select::{Wanted, select},
    source,
    table::{NextHopId, PackedStanding, Path, PathKey, PeerSlot, Route, RouteId},
};
use crate::{
    attr::{Attributes, encode::OutgoingKind},
    config::WellKnown,
    policy::NORMAL_PRIORITY,
    view::Export,
};

/// Why a route is judged.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why<'a> {
    /// Its best path is another than this one, if there was one.
    Best { before: Option<(&'a Attributes, PeerSlot)> },
    /// The rules are others; only what flips is told.
    Rules,
    /// This peer has another BGP identifier.
    Identifier(PeerSlot),
}

/// Why the paths of a route are judged.
#[derive(Clone, Copy)]
pub(super) enum WhyPaths<'a> {
    /// They are others, or in another order. If one peer put one in the place of its earlier one: that.
    Ranked { before: &'a [(*const Attributes, PathKey)], replaced: Option<&'a Path> },
    /// The rules are others; only what flips is told.
    Rules,
    /// This peer has another BGP identifier.
    Identifier(PeerSlot),
}

/// What decides whether the choice among a route's paths is another one.
#[derive(PartialEq, Eq)]
pub(super) struct Identity {
    best: Option<(*const Attributes, PeerSlot, NextHopId)>,
    /// Used beside the best, and whether they might ask for a blackhole instead.
    others: SmallVec<[(NextHopId, bool); 4]>,
    /// The best and the next best, where that matters to some group.
    ranked: SmallVec<[(*const Attributes, PathKey); 2]>,
}

pub(super) fn identity<P>(route: &Route<P>, wanted: Wanted) -> Identity {
    let mut identity = Identity {
        best: route.best().map(|best| (Arc::as_ptr(&best.attributes), best.peer, best.next_hop)),
        others: SmallVec::new(),
        ranked: SmallVec::new(),
    };
    if route.paths.len() > 1 {
        let beside = route.used_beside_best();
        identity
            .others
            .extend(beside.map(|path| (path.next_hop, path.attributes.has_community(WellKnown::BLACKHOLE))));
    }
    if wanted.ranked > 1 {
        let ranked = route.ranked(wanted.ranked);
        identity.ranked.extend(ranked.map(|path| (Arc::as_ptr(&path.attributes), path.key())));
    }
    identity
}

impl Rib {
    /// Chooses among a route's paths, and passes on what came of it. `replaced` is the path that is no longer there: its
    /// peer has put another in its place, or withdrawn it.
    pub(super) fn settle<P: Kept>(&mut self, id: RouteId, before: Identity, replaced: Option<&Path>) {
        let wanted = self.wanted;
        let Some(route) = P::table_mut(&mut self.tables).get_mut(id) else { return };
        if self.deferred {
            for path in route.paths.iter_mut().filter(|path| !path.standing.is_refused()) {
                path.standing = PackedStanding::DEFERRED;
            }
        } else {
            let peers = &self.peers;
            let normal = self.normal_priority.of(P::FAMILY).unwrap_or(NORMAL_PRIORITY);
            select(&mut route.paths, &self.next_hops, wanted, normal, |slot| announcer(peers, slot));
        }
        if route.paths.is_empty() {
            self.empty.push_back((P::FAMILY, id));
        }
        let after = identity(route, wanted);
        if before == after {
            return;
        }
        if (before.best, &before.others) != (after.best, &after.others) {
            self.tell::<P>(id);
        }
        let exported = |identity: &Identity| identity.best.map(|(attributes, peer, _)| (attributes, peer));
        if exported(&before) != exported(&after) {
            let was_best =
                |path: &&Path| exported(&before) == Some((Arc::as_ptr(&path.attributes), path.peer));
            // It may have lost to another peer's.
            let held = || P::table(&self.tables).get(id)?.paths.iter().find(was_best);
            let old = before.best.and_then(|_| replaced.filter(was_best).or_else(held));
            let old = old.map(|path| (path.attributes.clone(), path.peer));
            self.judge::<P>(id, Why::Best { before: old.as_ref().map(|(set, peer)| (&**set, *peer)) });
        }
        if before.ranked != after.ranked {
            self.judge_paths::<P>(id, WhyPaths::Ranked { before: &before.ranked, replaced });
        }
    }

    /// The driver is to be told of the route's best path.
    pub(super) fn tell<P: Kept>(&mut self, id: RouteId) {
        if self.best_paths
            && let Some(route) = P::table_mut(&mut self.tables).get_mut(id)
            && !route.to_tell
        {
            route.to_tell = true;
            self.to_tell.push_back((P::FAMILY, id, self.acting));
        }
    }

    /// Decides for each group whether the best path goes to it.
    pub(super) fn judge<P: Kept>(&mut self, id: RouteId, why: Why<'_>) {
        let table = P::table(&self.tables);
        let Some(route) = table.get(id) else { return };
        let mut policy = None;
        for (number, group) in self.groups.iter_mut().enumerate() {
            let its = |group: &&mut Group| group.key.family == P::FAMILY && group.key.add_path == 0;
            let Some(group) = group.as_mut().filter(its) else { continue };
            let policy = *policy.get_or_insert_with(|| self.policy.judge(route.prefix.into()));
            let (export, slot) = judged(route, &self.peers, policy, &group.key);
            let told = match why {
                Why::Rules => group.rejudge(id, export, slot, table.len()),
                Why::Best { before: Some((old, from)) }
                    if export == Export::Sent
                        && group.export(id) == Some(Export::Sent)
                        && !group.is_in_transition(id)
                        // A member is not told of its own route.
                        && (from == slot || !(group.has(from) || group.has(slot)))
                        && route.best().is_some_and(|best| {
                            leaves_alike(
                                route.prefix.into(),
                                (old, source(&self.peers, from)),
                                (&best.attributes, source(&self.peers, slot)),
                                &group.key,
                            )
                        }) =>
                {
                    group.hand_over(id, slot);
                    false
                }
                Why::Best { .. } => group.record(id, export, slot, table.len()),
                Why::Identifier(of) => {
                    let names_it =
                        |best: &Path| best.peer == of && names_source(best, &self.peers, &group.key);
                    group.export(id) == Some(Export::Sent)
                        && route.best().is_some_and(names_it)
                        && group.record(id, export, slot, table.len())
                }
            };
            if told && !self.touched.contains(&number) {
                self.touched.push(number);
            }
        }
    }

    /// The same for the groups that take several paths.
    pub(super) fn judge_paths<P: Kept>(&mut self, id: RouteId, why: WhyPaths<'_>) {
        let (table, peers, wanted) = (P::table(&self.tables), &self.peers, self.wanted);
        let Some(route) = table.get(id) else { return };
        let mut policy = None;
        for (number, group) in self.groups.iter_mut().enumerate() {
            let its = |group: &&mut Group| group.key.family == P::FAMILY && group.key.add_path > 0;
            let Some(group) = group.as_mut().filter(its) else { continue };
            let policy = *policy.get_or_insert_with(|| self.policy.judge(route.prefix.into()));
            let judged = judged_paths(route, wanted, |slot| source(peers, slot), policy, &group.key);
            let told = match why {
                WhyPaths::Rules => {
                    group.export(id).is_some() && group.record_paths(id, &judged, |_| false, table.len())
                }
                WhyPaths::Identifier(of) => {
                    let key = group.key.clone();
                    let names_it = |path: &Path| names_source(path, peers, &key);
                    let changed =
                        |which: PathKey| which.peer == of && route.path_at(which).is_some_and(names_it);
                    group.export(id).is_some() && group.record_paths(id, &judged, changed, table.len())
                }
                WhyPaths::Ranked { before, replaced } => {
                    let in_transition = group.is_in_transition(id);
                    let key = group.key.clone();
                    let changed = |which: PathKey| {
                        let Some(path) = route.path_at(which) else { return true };
                        let set = Arc::as_ptr(&path.attributes);
                        if before.contains(&(set, which)) {
                            return false;
                        }
                        let alike = |old: &Path| {
                            let source = source(peers, path.peer);
                            leaves_alike(
                                route.prefix.into(),
                                (&old.attributes, source),
                                (&path.attributes, source),
                                &key,
                            )
                        };
                        in_transition || !replaced.filter(|old| old.key() == which).is_some_and(alike)
                    };
                    group.record_paths(id, &judged, changed, table.len())
                }
            };
            if told && !self.touched.contains(&number) {
                self.touched.push(number);
            }
        }
    }
}

/// Does the path go to such a group with its source's BGP identifier (RFC 4456 §8)?
fn names_source(path: &Path, peers: &[Option<RibPeer>], key: &GroupKey) -> bool {
    let outgoing = outgoing(&path.attributes, source(peers, path.peer), key);
    path.attributes.originator_id.is_none()
        && outgoing.is_some_and(|outgoing| matches!(outgoing.kind, OutgoingKind::Reflected { .. }))
}
