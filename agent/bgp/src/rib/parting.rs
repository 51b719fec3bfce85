//! Make before break, as far as the RIB knows: which routes of a peer that is no longer wanted have come by another way,
//! and which of those that outlive their session may go.

use std::collections::BTreeMap;

use manx_net::Prefix;
use smallvec::SmallVec;

use super::{
    Kept, PeerSlot, Rib, RouteId,
    jobs::Job,
    table::{OWN, Path, PathKey},
};
use crate::{config::Family, message::update::PathId};

/// A look at all routes: how many of each leaving peer's have nothing in their place.
#[derive(Debug, Default)]
pub struct Look {
    needed: BTreeMap<PeerSlot, u64>,
    under_way: bool,
    over: bool,
}

impl Rib {
    /// Nothing new will come from the peer, once its session has ended.
    pub fn set_parting(&mut self, slot: PeerSlot, parting: bool) {
        if let Some(peer) = self.peer_mut(slot) {
            peer.parting = parting;
        }
    }

    /// The peer's stale paths are held for want of others: one that has another beside it goes, and so does one outside
    /// what may be held.
    pub fn set_held(&mut self, slot: PeerSlot, held: bool) {
        let Some(peer) = self.peer_mut(slot) else { return };
        if std::mem::replace(&mut peer.held, held) != held {
            self.holding = if held { self.holding + 1 } else { self.holding.saturating_sub(1) };
        }
    }

    /// Only routes inside these are held.
    pub fn set_held_within(&mut self, within: &[Prefix]) {
        if self.held_within != within {
            self.held_within = within.to_vec();
        }
    }

    /// While the topology changes, what is lost and has nothing in its place is kept as stale: who announced it may only
    /// have learned of the change first.
    pub fn set_withholding(&mut self, withholding: bool) {
        self.withholding = withholding;
    }

    /// Whose routes were kept so, since this was asked last.
    pub fn take_withheld(&mut self) -> Vec<(PeerSlot, Family)> {
        std::mem::take(&mut self.withheld)
    }

    /// Is the path that is about to go kept instead? Host routes go: a block covers them.
    pub(super) fn withholds<P: Kept>(&mut self, id: RouteId, slot: PeerSlot, path_id: PathId) -> bool {
        if !self.withholding && self.holding == 0 {
            return false;
        }
        let Some(route) = P::table(&self.tables).get(id) else { return false };
        let Some(path) = route.path_of(slot, path_id) else { return false };
        let prefix: Prefix = route.prefix.into();
        let inside = self.held_within.iter().any(|within| within.covers(prefix));
        let others = route.paths.iter().filter(|other| (other.peer, other.id) != (slot, path_id));
        if !inside || prefix.is_host() || !path.standing.is_eligible() || self.any_stays::<P>(others) {
            return false;
        }
        let Some(peer) = self.peer(slot) else { return false };
        let fresh = peer.generation[P::FAMILY];
        if path.generation == fresh {
            let (prefix, attributes, next_hop) = (route.prefix, path.attributes.clone(), path.next_hop);
            self.put(slot, path_id, prefix, &attributes, next_hop, None, fresh.wrapping_sub(1));
            self.release(attributes);
        }
        if !self.withheld.contains(&(slot, P::FAMILY)) {
            self.withheld.push((slot, P::FAMILY));
        }
        true
    }

    /// Is one of these heard, by a peer that is wanted?
    fn any_stays<'p, P: Kept>(&self, mut paths: impl Iterator<Item = &'p Path>) -> bool {
        paths.any(|path| {
            let fresh =
                |peer: &super::RibPeer| !peer.parting && peer.generation[P::FAMILY] == path.generation;
            path.standing.is_eligible() && (path.peer == OWN || self.peer(path.peer).is_some_and(fresh))
        })
    }

    /// False: one is under way.
    pub fn begin_look(&mut self) -> bool {
        if self.look.under_way {
            return false;
        }
        self.look = Look { under_way: true, ..Look::default() };
        self.jobs.push_back(Job::look());
        true
    }

    pub(super) fn end_look(&mut self) {
        self.look.under_way = false;
        self.look.over = true;
    }

    /// What the last look has found, once.
    pub fn take_look(&mut self) -> Option<BTreeMap<PeerSlot, u64>> {
        std::mem::take(&mut self.look.over).then(|| std::mem::take(&mut self.look.needed))
    }

    /// Of the paths that are held for a route: what goes, and how much is needed of those whose session goes on.
    pub(super) fn look_at<P: Kept>(&mut self, id: RouteId) {
        self.drop_held::<P>(id);
        let Some(route) = P::table(&self.tables).get(id) else { return };
        let leaves = |path: &&Path| {
            let parting = self.peer(path.peer).is_some_and(|peer| peer.parting);
            parting && !path.standing.is_refused()
        };
        let mut leaving = route.paths.iter().filter(leaves).map(|path| path.peer).peekable();
        if leaving.peek().is_none() || self.any_stays::<P>(route.paths.iter()) {
            return;
        }
        let leaving: SmallVec<[PeerSlot; 2]> = leaving.collect();
        for slot in leaving {
            *self.look.needed.entry(slot).or_default() += 1;
        }
    }

    /// What is held for want of another path goes where there is another, and where nothing may be held.
    pub(super) fn drop_held<P: Kept>(&mut self, id: RouteId) {
        let Some(route) = P::table(&self.tables).get(id) else { return };
        let held = |path: &Path| {
            self.peer(path.peer)
                .is_some_and(|peer| peer.held && peer.generation[P::FAMILY] != path.generation)
        };
        let goes: SmallVec<[PathKey; 2]> =
            route.paths.iter().filter(|path| held(path)).map(Path::key).collect();
        if goes.is_empty() {
            return;
        }
        let prefix: Prefix = route.prefix.into();
        let may_stay = self.held_within.iter().any(|within| within.covers(prefix));
        if !may_stay || self.any_stays::<P>(route.paths.iter()) {
            self.remove_paths::<P>(id, |path| goes.contains(&path.key()));
        }
    }
}
