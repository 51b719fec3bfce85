//! Paths that come and go. A path is its peer's by a name that the peer gives it (RFC 7911), and all that befalls one
//! befalls that one alone: it is replaced, withdrawn, refused and stale by itself.

use std::sync::Arc;

use manx_net::Prefix;
use smallvec::SmallVec;

use super::{
    Acting, Kept, Rib, RouteId,
    settle::identity,
    table::{NO_NEXT_HOP, NextHopId, PackedStanding, Path, PeerSlot},
};
use crate::{attr::Attributes, event::BestChange, message::update::PathId, view::RefusedBy};

/// So many paths a peer may have for one prefix, stale ones included; but these make way. Each change looks at all paths of its prefix, and so a peer that
/// names paths without end would cost more than its share of time.
pub const MOST_PATHS: u16 = 256;

/// For a new path of the peer's: the least that none of its paths has. `None`: it has enough.
fn free_number(paths: &[Path], slot: PeerSlot) -> Option<u16> {
    const BITS: u16 = u64::BITS as u16;
    let mut taken = [0u64; (MOST_PATHS / BITS) as usize];
    for path in paths.iter().filter(|path| path.peer == slot) {
        if let Some(word) = taken.get_mut(usize::from(path.number / BITS)) {
            *word |= 1 << (path.number % BITS);
        }
    }
    (0..).step_by(BITS.into()).zip(taken).find(|&(_, word)| word != u64::MAX).map(|(first, word)| {
        // Of a word that is not full at most 63 bits are ahead of the free one.
        first + word.trailing_ones() as u16
    })
}

impl Rib {
    /// A path in place of the one that the peer has for the prefix by this name. Nothing else happens if it is the same.
    #[expect(clippy::too_many_arguments, reason = "all that a path is made of")]
    pub(super) fn put<P: Kept>(
        &mut self,
        slot: PeerSlot,
        path_id: PathId,
        prefix: P,
        attributes: &Arc<Attributes>,
        next_hop: NextHopId,
        refused: Option<RefusedBy>,
        generation: u8,
    ) {
        let family = P::FAMILY;
        let Some(peer) = self.peers.get_mut(usize::from(slot)).and_then(Option::as_mut) else { return };
        let standing = refused.map_or(PackedStanding::DEFERRED, PackedStanding::refused);
        let wanted = self.wanted;
        let table = P::table_mut(&mut self.tables);
        let id = table.insert(prefix);
        let Some(route) = table.get_mut(id) else { return };
        let before = identity(route, wanted);
        let mut path = Path {
            attributes: attributes.clone(),
            next_hop,
            id: path_id,
            peer: slot,
            number: 0,
            generation,
            standing,
        };
        let mut place = route.paths.iter().position(|path| path.peer == slot && path.id == path_id);
        if place.is_none() {
            // A restarted peer may name anew what it announces again, for names mean nothing but themselves (RFC 7911
            // §3). What is stale must not take the room of what is not.
            let stale = |path: &Path| path.peer == slot && path.generation != generation;
            match free_number(&route.paths, slot) {
                Some(number) => path.number = number,
                None => {
                    place = route.paths.iter().rposition(stale);
                    if place.is_none() {
                        self.crowded.get_or_insert((slot, prefix.into()));
                        return;
                    }
                }
            }
        }
        let old = match place {
            Some(at) => {
                #[expect(clippy::indexing_slicing, reason = "just found")]
                let held = &mut route.paths[at];
                path.number = held.number;
                let same_refusal = match refused {
                    None => !held.standing.is_refused(),
                    Some(by) => held.standing == PackedStanding::refused(by),
                };
                let same =
                    Arc::ptr_eq(&held.attributes, attributes) && held.next_hop == next_hop && same_refusal;
                peer.discount(family, held);
                peer.count(family, &path);
                if same && held.id == path_id {
                    // Heard again: no longer stale, and nothing else is new.
                    held.generation = path.generation;
                    return;
                }
                Some(std::mem::replace(held, path))
            }
            None => {
                peer.count(family, &path);
                route.paths.push(path);
                None
            }
        };
        self.next_hops.hold(next_hop);
        self.settle::<P>(id, before, old.as_ref());
        if let Some(old) = old {
            self.let_go(old);
        }
        if self.holding > 0 {
            self.drop_held::<P>(id);
        }
    }

    /// A peer withdraws a path. One that it never announced is nothing (behaviour 48).
    pub fn withdraw<P: Kept>(&mut self, slot: PeerSlot, prefix: P, path_id: PathId) {
        self.acting = Acting { slot, what: BestChange::Withdrawn };
        if let Some(id) = P::table(&self.tables).find(prefix)
            && !self.withholds::<P>(id, slot, path_id)
        {
            self.remove_paths::<P>(id, |path| path.peer == slot && path.id == path_id);
        }
    }

    pub(super) fn remove_paths<P: Kept>(&mut self, id: RouteId, which: impl Fn(&Path) -> bool) {
        let wanted = self.wanted;
        let Some(route) = P::table_mut(&mut self.tables).get_mut(id) else { return };
        let before = identity(route, wanted);
        let mut removed: SmallVec<[Path; 1]> = SmallVec::new();
        let mut seen = 0;
        while let Some(next) = route.paths.iter().skip(seen).position(&which) {
            seen += next;
            removed.push(route.paths.remove(seen));
        }
        if removed.is_empty() {
            return;
        }
        for path in &removed {
            if let Some(peer) = self.peer_mut(path.peer) {
                peer.discount(P::FAMILY, path);
            }
        }
        // If the best is among them, it was the first.
        self.settle::<P>(id, before, removed.first());
        removed.into_iter().for_each(|path| self.let_go(path));
    }

    /// A peer that has named more than [`MOST_PATHS`] paths for a prefix; said once.
    pub fn take_crowded(&mut self) -> Option<(PeerSlot, Prefix)> {
        self.crowded.take()
    }

    pub(super) fn let_go(&mut self, path: Path) {
        self.interner.release(path.attributes);
        if path.next_hop != NO_NEXT_HOP {
            self.next_hops.let_go(path.next_hop);
            self.idle_next_hops.push(path.next_hop);
            if self.idle_next_hops.len() > 4096 {
                self.drop_idle_next_hops();
            }
        }
    }
}
