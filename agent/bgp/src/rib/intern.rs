//! Attribute sets, one copy each. A set lives as long as some path holds it.

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use hashbrown::{HashTable, hash_table::Entry};

use crate::{attr::Attributes, message::update::Nlri};

/// A quick hash whose seed a peer does not know, so that it cannot choose its prefixes to collide: each word is
/// folded in by a full multiplication.
#[derive(Clone, Copy, Debug)]
pub struct SeededHash(u64);

impl SeededHash {
    pub fn new(seed: u64) -> SeededHash {
        SeededHash(seed ^ 0x243f_6a88_85a3_08d3)
    }

    /// For a table whose place comes from the low bits and whose mark, by which entries at one place are told apart,
    /// is the top seven: neighbouring prefixes get one place and marks of their own. What comes in order then lies
    /// in one line of the table, and a peer can choose no more than these few to collide.
    pub fn prefix<P: Nlri>(self, prefix: P) -> u64 {
        let (shared, which) = prefix.neighbourhood();
        fold(fold(self.0, shared[0]), shared[1]) ^ u64::from(which) << 57
    }
}

fn fold(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word) * u128::from(0x9e37_79b9_7f4a_7c15_u64);
    // Both halves take part, so that high bits of the word reach the table's low ones.
    (product as u64) ^ (product >> 64) as u64 ^ state.rotate_left(23)
}

impl BuildHasher for SeededHash {
    type Hasher = SeededHasher;

    fn build_hasher(&self) -> SeededHasher {
        SeededHasher(self.0)
    }
}

#[derive(Clone, Copy, Debug)]
pub struct SeededHasher(u64);

impl Hasher for SeededHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.0 = fold(self.0, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        #[expect(clippy::indexing_slicing, reason = "a remainder of a division by 8 is shorter than 8")]
        last[..rest.len()].copy_from_slice(rest);
        self.0 = fold(self.0, u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, n: u8) {
        self.0 = fold(self.0, u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = fold(self.0, u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = fold(self.0, n);
    }

    fn write_usize(&mut self, n: usize) {
        self.0 = fold(self.0, n as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// With its hash: to work it out anew for each set whenever the table grows costs more than to keep it.
#[derive(Debug)]
struct Interned {
    hash: u64,
    set: Arc<Attributes>,
}

#[derive(Debug)]
pub struct Interner {
    sets: HashTable<Interned>,
    hash: SeededHash,
}

impl Interner {
    pub fn new(hash: SeededHash) -> Interner {
        Interner { sets: HashTable::new(), hash }
    }

    /// The one copy of this set.
    pub fn intern(&mut self, attributes: Attributes) -> Arc<Attributes> {
        let hash = self.hash.hash_one(&attributes);
        let same = |held: &Interned| held.hash == hash && *held.set == attributes;
        match self.sets.entry(hash, same, |held| held.hash) {
            Entry::Occupied(held) => held.get().set.clone(),
            Entry::Vacant(vacant) => {
                let set = Arc::new(attributes);
                vacant.insert(Interned { hash, set: set.clone() });
                set
            }
        }
    }

    /// Gives a set back. To be called for each set that is let go of, or it stays.
    pub fn release(&mut self, attributes: Arc<Attributes>) {
        // This one and the table's own.
        if Arc::strong_count(&attributes) > 2 {
            return;
        }
        let hash = self.hash.hash_one(&*attributes);
        if let Ok(held) = self.sets.find_entry(hash, |held| Arc::ptr_eq(&held.set, &attributes)) {
            held.remove();
        }
        // The last of a changed set held the one that it was made from, which itself was made from none.
        if let Some(received) = attributes.received.as_ref().map(|received| received.set.clone()) {
            drop(attributes);
            self.release(received);
        }
    }

    pub fn len(&self) -> usize {
        self.sets.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one_and_the_last_release_frees_it() {
        let mut interner = Interner::new(SeededHash::new(1));
        let a = interner.intern(Attributes::own(&[1]));
        let b = interner.intern(Attributes::own(&[1]));
        let c = interner.intern(Attributes::own(&[2]));
        assert!(Arc::ptr_eq(&a, &b) && !Arc::ptr_eq(&a, &c));
        assert_eq!(interner.len(), 2);
        interner.release(a);
        assert_eq!(interner.len(), 2);
        interner.release(b);
        interner.release(c);
        assert_eq!(interner.len(), 0);
    }
}
