//! From a prefix to its route's number. An entry keeps eight more bits of the hash beside the number, so that a
//! search that passes foreign entries looks at no foreign route: that would cost a line of memory each time. To grow,
//! the index is built anew from the routes in their own order, for in its order they lie anywhere.

use hashbrown::{
    HashTable,
    hash_table::{self, Entry, OccupiedEntry},
};

use super::table::RouteId;

/// Five octets without padding.
#[derive(Clone, Copy, Debug)]
struct Entered {
    id: [u8; 4],
    more: u8,
}

impl Entered {
    fn new(hash: u64, id: RouteId) -> Entered {
        Entered { id: id.to_ne_bytes(), more: more(hash) }
    }

    fn id(self) -> RouteId {
        RouteId::from_ne_bytes(self.id)
    }
}

/// Bits that the table uses neither for an entry's place nor for its mark.
fn more(hash: u64) -> u8 {
    (hash >> 48) as u8
}

#[derive(Debug, Default)]
pub struct Index {
    entries: HashTable<Entered>,
}

/// Where a number goes that was not found.
pub struct Vacant<'a> {
    entry: hash_table::VacantEntry<'a, Entered>,
    hash: u64,
}

impl Vacant<'_> {
    pub fn insert(self, id: RouteId) {
        self.entry.insert(Entered::new(self.hash, id));
    }
}

impl Index {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn find(&self, hash: u64, is_it: impl Fn(RouteId) -> bool) -> Option<RouteId> {
        let more = more(hash);
        self.entries.find(hash, |entered| entered.more == more && is_it(entered.id())).map(|found| found.id())
    }

    /// The number, or where it goes. `rebuild` gives all hashes with their numbers, should the index have to grow.
    pub fn find_or_vacant<I: Iterator<Item = (u64, RouteId)>>(
        &mut self,
        hash: u64,
        is_it: impl Fn(RouteId) -> bool,
        all: impl FnOnce() -> I,
    ) -> Result<RouteId, Vacant<'_>> {
        if self.entries.len() == self.entries.capacity() {
            if let Some(found) = self.find(hash, &is_it) {
                return Ok(found);
            }
            self.grow(all());
        }
        let more = more(hash);
        let same = |entered: &Entered| entered.more == more && is_it(entered.id());
        // There is room for one.
        let rehash = |_: &Entered| unreachable!("the index has just grown");
        match self.entries.entry(hash, same, rehash) {
            Entry::Occupied(held) => Ok(held.get().id()),
            Entry::Vacant(entry) => Err(Vacant { entry, hash }),
        }
    }

    fn grow(&mut self, all: impl Iterator<Item = (u64, RouteId)>) {
        let room = 2 * self.entries.len().max(2);
        // The old one goes first: both at once would be the most memory that is ever taken.
        self.entries = HashTable::new();
        self.entries = HashTable::with_capacity(room);
        for (hash, id) in all {
            self.entries
                .insert_unique(hash, Entered::new(hash, id), |_| unreachable!("there is room for all"));
        }
    }

    pub fn remove(&mut self, hash: u64, id: RouteId) {
        if let Ok(entry) = self.entries.find_entry(hash, |entered| entered.id() == id) {
            OccupiedEntry::remove(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_five_octets() {
        assert_eq!(size_of::<Entered>(), 5);
    }

    #[test]
    fn an_index_that_has_just_grown_has_room_and_lets_nothing_go() {
        let mut index = Index::default();
        let hash = |id: RouteId| u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for id in 0..10_000 {
            let all = || (0..id).map(|id| (hash(id), id));
            let Err(vacant) = index.find_or_vacant(hash(id), |held| held == id, all) else {
                panic!("{id} was found")
            };
            vacant.insert(id);
            let found = index.find_or_vacant(
                hash(id / 2),
                |held| held == id / 2,
                || (0..=id).map(|id| (hash(id), id)),
            );
            assert!(matches!(found, Ok(found) if found == id / 2));
        }
        // Removals leave marks that count as taken until the index is built anew.
        for id in 0..10_000 {
            index.remove(hash(id), id);
            let new = id + 10_000;
            let all = || (id + 1..new).map(|id| (hash(id), id));
            let Err(vacant) = index.find_or_vacant(hash(new), |held| held == new, all) else {
                panic!("{new} was found")
            };
            vacant.insert(new);
        }
        assert_eq!(index.len(), 10_000);
        assert!((0..10_000).all(|id| index.find(hash(id), |held| held == id).is_none()));
        assert!((10_000..20_000).all(|id| index.find(hash(id), |held| held == id) == Some(id)));
    }
}
