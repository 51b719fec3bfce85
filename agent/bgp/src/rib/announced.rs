//! How many routes a group announces, in all and by the peer that they came from. It counts with every route, so it
//! is a plain array by peer.

use super::table::{OWN, PeerSlot};

#[derive(Clone, Debug, Default)]
pub struct AnnouncedCounts {
    all: u64,
    own: u64,
    by_peer: Vec<u64>,
}

impl AnnouncedCounts {
    fn of(&mut self, source: PeerSlot) -> &mut u64 {
        if source == OWN {
            return &mut self.own;
        }
        let at = usize::from(source);
        if self.by_peer.len() <= at {
            self.by_peer.resize(at + 1, 0);
        }
        #[expect(clippy::indexing_slicing, reason = "just made to reach it")]
        let count = &mut self.by_peer[at];
        count
    }

    pub fn add(&mut self, source: PeerSlot) {
        self.all += 1;
        *self.of(source) += 1;
    }

    pub fn remove(&mut self, source: PeerSlot) {
        self.all -= 1;
        *self.of(source) -= 1;
    }

    /// All but the peer's own.
    pub fn told_to(&self, peer: PeerSlot) -> u64 {
        self.all - self.by_peer.get(usize::from(peer)).copied().unwrap_or(0)
    }
}
