//! Long-lived stale routes (RFC 9494): what a lost peer announced stays, marked with LLGR_STALE, as the last resort.
//! The mark is in the attribute set, and so the choice and the update groups see it like any other change.

use super::{Kept, PeerSlot, Rib, RouteId, jobs::Job};
use crate::{
    attr::Attributes,
    config::{Family, WellKnown},
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
        let Some(path) = route.paths.iter().find(|path| stale(path)) else { return };
        let received = path.attributes.as_received();
        if received.has_community(WellKnown::NO_LLGR) {
            return self.remove_path::<P>(id, stale);
        }
        if received.has_community(WellKnown::LLGR_STALE) {
            return;
        }
        let communities = received.communities.iter().copied().chain([WellKnown::LLGR_STALE]).collect();
        let marked = Attributes { communities, ..(**received).clone() };
        let marked = self.intern(marked);
        self.judge_import::<P>(id, slot, &marked);
        self.release(marked);
    }
}
