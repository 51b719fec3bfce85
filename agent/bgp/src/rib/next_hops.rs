//! Next hops in use, what the driver says of them, and when it need watch one no longer.

use std::{collections::HashMap, sync::Arc};

use super::table::{NO_NEXT_HOP, NextHopId};
use crate::event::NextHop;

#[derive(Debug)]
struct Entry {
    next_hop: NextHop,
    /// `None`: unreachable, or not answered yet.
    metric: Option<u32>,
    /// `None`: not told, or there is none.
    interface: Option<Arc<str>>,
    paths: u32,
}

#[derive(Debug, Default)]
pub struct NextHops {
    entries: Vec<Entry>,
    free: Vec<NextHopId>,
    index: HashMap<NextHop, NextHopId>,
}

impl NextHops {
    /// The number of a next hop, and whether the driver has to be asked to watch it.
    pub fn number(&mut self, next_hop: NextHop) -> (NextHopId, bool) {
        if let Some(&id) = self.index.get(&next_hop) {
            return (id, false);
        }
        let entry = Entry { next_hop, metric: None, interface: None, paths: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                #[expect(clippy::indexing_slicing, reason = "a free number was given out before")]
                let place = &mut self.entries[id as usize];
                *place = entry;
                id
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as NextHopId
            }
        };
        self.index.insert(next_hop, id);
        (id, true)
    }

    pub fn hold(&mut self, id: NextHopId) {
        if let Some(entry) = self.entries.get_mut(id as usize) {
            entry.paths += 1;
        }
    }

    pub fn let_go(&mut self, id: NextHopId) {
        if let Some(entry) = self.entries.get_mut(id as usize) {
            entry.paths -= 1;
        }
    }

    /// Frees the number if no path holds it; the next hop to watch no longer.
    pub fn forget_unused(&mut self, id: NextHopId) -> Option<NextHop> {
        let entry = self.entries.get(id as usize).filter(|entry| entry.paths == 0)?;
        let next_hop = entry.next_hop;
        // A number may be looked at twice; it is freed once.
        if self.index.get(&next_hop) != Some(&id) {
            return None;
        }
        self.index.remove(&next_hop);
        self.free.push(id);
        Some(next_hop)
    }

    /// The number, if that is news.
    pub fn set_metric(&mut self, next_hop: NextHop, metric: Option<u32>) -> Option<NextHopId> {
        let id = *self.index.get(&next_hop)?;
        let entry = self.entries.get_mut(id as usize)?;
        if entry.metric == metric {
            return None;
        }
        entry.metric = metric;
        Some(id)
    }

    /// The number, if that is news.
    pub fn set_interface(&mut self, next_hop: NextHop, interface: Option<Arc<str>>) -> Option<NextHopId> {
        let id = *self.index.get(&next_hop)?;
        let entry = self.entries.get_mut(id as usize)?;
        if entry.interface == interface {
            return None;
        }
        entry.interface = interface;
        Some(id)
    }

    pub fn interface(&self, id: NextHopId) -> Option<&Arc<str>> {
        self.entries.get(id as usize)?.interface.as_ref()
    }

    /// `Some(0)` for a path that needs none.
    pub fn metric(&self, id: NextHopId) -> Option<u32> {
        if id == NO_NEXT_HOP { Some(0) } else { self.entries.get(id as usize)?.metric }
    }

    pub fn get(&self, id: NextHopId) -> Option<NextHop> {
        self.entries.get(id as usize).map(|entry| entry.next_hop)
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }
}
