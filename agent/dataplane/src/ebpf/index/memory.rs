//! What the index's part of the maps should read, position by position, and what of it has not been written yet.

#![expect(clippy::indexing_slicing, reason = "positions come out of extents, which lie within the capacity")]

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use super::{Answer, extents::Extents, page_at};

/// What stands at a position, and by whose right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub answer: Answer,
    /// The length of the prefix that answers, plus one; 0 where none does.
    pub owner: u8,
}

/// A change of what a range of addresses says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    /// Addresses as numbers, both included.
    pub first: u128,
    pub last: u128,
    pub takes: Takes,
    pub with: Cell,
}

/// The cells within a range that change.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takes {
    /// Those of owners as long or shorter: a route that comes.
    UpTo(u8),
    /// Those of this owner: a route that goes.
    Exactly(u8),
}

impl Takes {
    pub fn covers(self, owner: u8) -> bool {
        match self {
            Takes::UpTo(longest) => owner <= longest,
            Takes::Exactly(gone) => owner == gone,
        }
    }
}

#[derive(Debug)]
pub(super) struct Memory {
    words: Vec<u32>,
    counters: Vec<u32>,
    owners: Vec<u8>,
    extents: Extents,
    /// Positions that changed since the last [`Self::take_stores`]: of pages, and of blocks, which are written
    /// later, since they may name new pages.
    page_changes: Vec<u32>,
    block_changes: Vec<u32>,
    /// Runs that were given back since then. They are named until what names them is written, so they keep saying
    /// what they have said.
    given_back: BTreeMap<u32, u32>,
    /// IPv6 blocks that changed, by their first address; `None` goes.
    blocks6: HashMap<u128, Option<Answer>>,
}

/// A position with what should stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ebpf) struct Store {
    pub position: u32,
    pub answer: Answer,
}

impl Memory {
    pub fn new(capacity: u32) -> Memory {
        let extents = Extents::new(capacity);
        let length = extents.capacity() as usize;
        Memory {
            words: vec![0; length],
            counters: vec![0; length],
            owners: vec![0; length],
            extents,
            page_changes: Vec::new(),
            block_changes: Vec::new(),
            given_back: BTreeMap::new(),
            blocks6: HashMap::new(),
        }
    }

    pub fn take_room(&mut self, words: u32, now: Instant) -> Option<u32> {
        self.extents.take(words, now)
    }

    /// A run that is known to be in use. False if it is not free.
    pub fn reserve(&mut self, at: u32, words: u32) -> bool {
        self.extents.reserve(at, words)
    }

    pub fn give_back(&mut self, at: u32, words: u32, now: Instant) {
        self.extents.give_back(at, words, now);
        self.given_back.insert(at, words);
    }

    pub fn begin_adoption(&mut self, used: u32) {
        self.extents.begin_adoption(used);
    }

    pub fn end_adoption(&mut self, now: Instant) {
        self.extents.end_adoption(now);
    }

    /// Words in use or at rest, and how many there are.
    pub fn room(&self) -> (u32, u32) {
        (self.extents.used(), self.extents.capacity())
    }

    pub fn word(&self, position: u32) -> u32 {
        self.words[position as usize]
    }

    pub fn cell(&self, position: u32) -> Cell {
        let at = position as usize;
        let answer = Answer { word: self.words[at], counter: self.counters[at] };
        Cell { answer, owner: self.owners[at] }
    }

    pub fn answer(&self, position: u32) -> Answer {
        self.cell(position).answer
    }

    pub fn set_block(&mut self, position: u32, cell: Cell) {
        if self.set(position, cell) {
            self.block_changes.push(position);
        }
    }

    /// Whatever stood there when the position was last in use.
    pub fn begin_blocks(&mut self, at: u32, words: u32, cell: Cell) {
        for position in at..at + words {
            self.set(position, cell);
            self.block_changes.push(position);
        }
    }

    pub fn begin_page(&mut self, at: u32, words: u32, cell: Cell) {
        for position in at..at + words {
            self.set(position, cell);
            self.page_changes.push(position);
        }
    }

    /// `base` is the address of the page's first word.
    pub fn paint_page(&mut self, at: u32, words: u32, base: u128, paint: &Paint) {
        let last = base + u128::from(words - 1);
        if paint.first > last || paint.last < base {
            return;
        }
        // Both lie within the page.
        let from = (paint.first.max(base) - base) as u32;
        let to = (paint.last.min(last) - base) as u32;
        for position in at + from..=at + to {
            if paint.takes.covers(self.owners[position as usize]) && self.set(position, paint.with) {
                self.page_changes.push(position);
            }
        }
    }

    fn set(&mut self, position: u32, cell: Cell) -> bool {
        let at = position as usize;
        let differs = self.words[at] != cell.answer.word || self.counters[at] != cell.answer.counter;
        (self.words[at], self.counters[at]) = (cell.answer.word, cell.answer.counter);
        self.owners[at] = cell.owner;
        differs
    }

    pub fn set_block6(&mut self, block: u128, answer: Option<Answer>) {
        self.blocks6.insert(block, answer);
    }

    /// In the order in which they are to be stored.
    pub fn take_stores(&mut self) -> Vec<Store> {
        let mut positions = std::mem::take(&mut self.page_changes);
        let mut blocks = std::mem::take(&mut self.block_changes);
        let given_back = std::mem::take(&mut self.given_back);
        let stays = |position: &u32| {
            given_back.range(..=position).next_back().is_none_or(|(at, words)| position - at >= *words)
        };
        positions.retain(stays);
        blocks.retain(stays);
        // Each once, however often it changed.
        for positions in [&mut positions, &mut blocks] {
            positions.sort_unstable();
            positions.dedup();
        }
        positions.append(&mut blocks);
        positions.into_iter().map(|position| Store { position, answer: self.answer(position) }).collect()
    }

    pub fn take_blocks6(&mut self) -> HashMap<u128, Option<Answer>> {
        std::mem::take(&mut self.blocks6)
    }

    /// The page that is named at a position.
    pub fn page(&self, position: u32) -> Option<u32> {
        page_at(self.word(position))
    }
}
