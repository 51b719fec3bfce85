//! Long-lived stale routes (RFC 9494): what a lost peer announced stays, marked with LLGR_STALE, as the last resort.
//! The mark is in the attribute set, and so the choice and the update groups see it like any other change.

use smallvec::SmallVec;

use super::{Kept, PeerSlot, Rib, RouteId, jobs::Job};
use crate::{
    attr::Attributes,
    config::{Family, WellKnown},
    message::update::PathId,
};

impl Rib {
    /// The peer's stale paths are long-lived from now on.
    pub fn make_long_lived(&mut self, slot: PeerSlot, family: Family) {
        let Some(peer) = self.peer(slot) else { return };
        if peer.received[family] > 0 {
            let generation = peer.generation[family];
            self.jobs.push_back(Job::long_live(slot, family, generation));
        }
    }

    pub(super) fn long_live<P: Kept>(&mut self, id: RouteId, slot: PeerSlot, generation: u8) {
        let Some(route) = P::table(&self.tables).get(id) else { return };
        let stale =
            |path: &super::Path| path.peer == slot && generation.wrapping_sub(path.generation) as i8 > 0;
        // From the peer, or by a rule of ours.
        let says_no = |path: &super::Path| path.attributes.has_community(WellKnown::NO_LLGR);
        if route.paths.iter().any(|path| stale(path) && says_no(path)) {
            self.remove_paths::<P>(id, |path| stale(path) && says_no(path));
        }
        let Some(route) = P::table(&self.tables).get(id) else { return };
        let stale: SmallVec<[PathId; 1]> =
            route.paths.iter().filter(|path| stale(path)).map(|path| path.id).collect();
        for path_id in stale {
            let Some(path) = P::table(&self.tables).get(id).and_then(|route| route.path_of(slot, path_id))
            else {
                continue;
            };
            let received = path.attributes.as_received();
            if received.has_community(WellKnown::LLGR_STALE) {
                continue;
            }
            let communities = received.communities.iter().copied().chain([WellKnown::LLGR_STALE]).collect();
            let marked = Attributes { communities, ..(**received).clone() };
            let marked = self.intern(marked);
            self.judge_import::<P>(id, slot, path_id, &marked);
            self.release(marked);
        }
    }
}
