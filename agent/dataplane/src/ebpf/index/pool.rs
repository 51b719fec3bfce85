//! One pool's part of the index: its blocks, and the pages of those that have something more specific inside.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use manx_abi::pool::SHIFT_MAX;
use manx_net::{Prefix, Prefix4, Prefix6};

use super::{
    super::entries::Entries,
    Answer, TRIE,
    memory::{Cell, Memory, Paint, Takes},
    page_at, page_word,
};

/// A pool as the index cuts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ebpf) struct Cut {
    /// 0 to 15 for IPv4, 16 to 31 for IPv6.
    pub number: u32,
    pub prefix: Prefix,
    /// Prefix length of the blocks.
    pub block_len: u8,
}

/// Why a pool's addresses are looked up in the trie.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotIndexed {
    #[error("its blocks would be /{block_len}, which is not between /{shortest} and /{longest}")]
    BlockLength { block_len: u8, shortest: u8, longest: u8 },
    #[error("it overlaps pool {other}")]
    Overlaps { other: Prefix },
    #[error("its {blocks} blocks do not fit the map of words; raise its size (--map-size words=N)")]
    NoRoom { blocks: u64 },
    #[error("16 pools of its family are indexed already")]
    TooMany,
}

#[derive(Debug)]
pub(super) struct Pool {
    pub cut: Cut,
    width: u8,
    /// Addresses as numbers, both included.
    pub first: u128,
    pub last: u128,
    pub blocks: Blocks,
    /// Routes longer than a block, by block.
    inside: HashMap<u128, u32>,
    /// Blocks that should have a page and have none: they ask the trie.
    pub starved: BTreeSet<u128>,
    /// Routes longer than the pool and shorter than a block. Only counted for IPv6.
    between: usize,
    /// IPv6 blocks for which the hash has no room: whatever is not in it asks the trie.
    pub lacking: BTreeSet<u128>,
    /// Pages that an earlier run made, by block.
    pub known_pages: HashMap<u128, u32>,
}

#[derive(Debug)]
pub(super) enum Blocks {
    /// IPv4: a word for each block, from this position of `WORDS` on.
    Dense { at: u32 },
    /// IPv6: blocks that say something of their own; `fallback` is for all others.
    Sparse { words: BTreeMap<u128, Cell>, fallback: Answer },
}

/// First and last address as numbers.
fn span(prefix: Prefix) -> (u128, u128) {
    match prefix {
        Prefix::V4(p) => {
            let hosts = u32::MAX.checked_shr(p.len().into()).unwrap_or(0);
            (p.bits().into(), (p.bits() | hosts).into())
        }
        Prefix::V6(p) => (p.bits(), p.bits() | u128::MAX.checked_shr(p.len().into()).unwrap_or(0)),
    }
}

impl Pool {
    /// Takes room for its blocks (at `at`, if that is known), and gives them what `entries` says.
    pub fn begin(
        cut: Cut,
        at: Option<u32>,
        known_pages: HashMap<u128, u32>,
        memory: &mut Memory,
        entries: &Entries,
        now: Instant,
    ) -> Result<Pool, NotIndexed> {
        let (width, length) = (if cut.prefix.is_v4() { 32 } else { 128 }, cut.prefix.len());
        let shortest = length.max(width - SHIFT_MAX as u8);
        if !(shortest..=width).contains(&cut.block_len) {
            return Err(NotIndexed::BlockLength { block_len: cut.block_len, shortest, longest: width });
        }
        let (first, last) = span(cut.prefix);
        let blocks = if cut.prefix.is_v4() {
            let count = 1u64 << (cut.block_len - length);
            let no_room = NotIndexed::NoRoom { blocks: count };
            let count = u32::try_from(count).map_err(|_| no_room.clone())?;
            let known = at.filter(|at| memory.reserve(*at, count));
            let at = known.or_else(|| memory.take_room(count, now)).ok_or(no_room)?;
            memory.begin_blocks(at, count, cell(entries.cover(cut.prefix)));
            Blocks::Dense { at }
        } else {
            Blocks::Sparse { words: BTreeMap::new(), fallback: Answer::default() }
        };
        let mut pool = Pool {
            cut,
            width,
            first,
            last,
            blocks,
            inside: HashMap::new(),
            starved: BTreeSet::new(),
            between: 0,
            lacking: BTreeSet::new(),
            known_pages,
        };
        for (prefix, entry) in entries.inside(cut.prefix) {
            pool.upsert(memory, entries, prefix, super::answer(entry), true, now);
        }
        pool.known_pages.clear();
        pool.refresh_fallback(entries);
        Ok(pool)
    }

    /// Its words rest; what the hash has of it goes.
    pub fn end(self, memory: &mut Memory, now: Instant) {
        match self.blocks {
            Blocks::Dense { at } => {
                let count = 1 << (self.cut.block_len - self.cut.prefix.len());
                for number in 0..count {
                    if let Some(page) = memory.page(at + number) {
                        memory.give_back(page, page_size(self.width, self.cut.block_len), now);
                    }
                }
                memory.give_back(at, count, now);
            }
            Blocks::Sparse { words, .. } => {
                for (block, cell) in words {
                    if let Some(page) = page_at(cell.answer.word) {
                        memory.give_back(page, page_size(self.width, self.cut.block_len), now);
                    }
                    memory.set_block6(block, None);
                }
            }
        }
    }

    /// A route that overlaps the pool came or changed. `entries` has it already.
    pub fn upsert(
        &mut self,
        memory: &mut Memory,
        entries: &Entries,
        prefix: Prefix,
        answer: Answer,
        is_new: bool,
        now: Instant,
    ) {
        let with = Cell { answer, owner: prefix.len() + 1 };
        let (first, last) = span(prefix);
        let paint = Paint { first, last, takes: Takes::UpTo(with.owner), with };
        if prefix.len() <= self.cut.block_len {
            self.between += usize::from(is_new && self.is_between(prefix));
            self.paint(memory, &paint);
            if prefix.len() == self.cut.block_len
                && let Blocks::Sparse { words, .. } = &mut self.blocks
                && !words.contains_key(&first)
            {
                words.insert(first, with);
                memory.set_block6(first, Some(answer));
            }
            return;
        }
        let block = self.block_of(first);
        if is_new {
            *self.inside.entry(block).or_default() += 1;
        }
        match self.page(memory, block) {
            Some(page) => memory.paint_page(page, self.page_size(), block, &paint),
            None if self.starved.contains(&block) => {}
            None => self.make_page(memory, entries, block, now),
        }
    }

    /// A route that overlaps the pool went. `entries` does not have it any more.
    pub fn remove(&mut self, memory: &mut Memory, entries: &Entries, prefix: Prefix, now: Instant) {
        let (first, last) = span(prefix);
        let with = cell(entries.parent(prefix));
        let paint = Paint { first, last, takes: Takes::Exactly(prefix.len() + 1), with };
        if prefix.len() <= self.cut.block_len {
            self.between -= usize::from(self.is_between(prefix));
            let plain = prefix.len() == self.cut.block_len && !self.inside.contains_key(&first);
            match &mut self.blocks {
                Blocks::Sparse { words, .. } if plain => {
                    words.remove(&first);
                    memory.set_block6(first, None);
                }
                _ => self.paint(memory, &paint),
            }
            return;
        }
        let block = self.block_of(first);
        let Some(inside) = self.inside.get_mut(&block) else { return };
        *inside -= 1;
        if *inside == 0 {
            self.inside.remove(&block);
            self.end_page(memory, entries, block, now);
        } else if let Some(page) = self.page(memory, block) {
            memory.paint_page(page, self.page_size(), block, &paint);
        }
    }

    /// Pages for blocks that had to do without; as many as there is room for.
    pub fn feed(&mut self, memory: &mut Memory, entries: &Entries, now: Instant) {
        while let Some(block) = self.starved.first().copied() {
            self.make_page(memory, entries, block, now);
            if self.starved.contains(&block) {
                return;
            }
        }
    }

    /// True if it changed. Where routes lie between pool and block in length, or blocks have no room, an unknown block
    /// asks the trie.
    pub fn refresh_fallback(&mut self, entries: &Entries) -> bool {
        let Blocks::Sparse { fallback, .. } = &mut self.blocks else { return false };
        let asks = self.between > 0 || !self.lacking.is_empty();
        let cover = cell(entries.cover(self.cut.prefix)).answer;
        let now = if asks { TRIE } else { cover };
        std::mem::replace(fallback, now) != now
    }

    /// What the hash should say of a block.
    pub fn block6(&self, block: u128) -> Option<Answer> {
        match &self.blocks {
            Blocks::Sparse { words, .. } => words.get(&block).map(|cell| cell.answer),
            Blocks::Dense { .. } => None,
        }
    }

    #[cfg(test)]
    pub fn contains(&self, address: u128) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// As a program finds it.
    #[cfg(test)]
    pub fn look_up(&self, memory: &Memory, address: u128) -> Answer {
        let block = self.block_of(address);
        let found = match &self.blocks {
            Blocks::Dense { at } => memory.answer(at + self.number(block)),
            Blocks::Sparse { words, fallback } => {
                let found = words.get(&block).filter(|_| !self.lacking.contains(&block));
                found.map_or(*fallback, |cell| cell.answer)
            }
        };
        match page_at(found.word) {
            Some(page) => memory.answer(page + (address - block) as u32),
            None => found,
        }
    }

    /// What a position of `WORDS` is about, if it is this pool's.
    pub fn prefix_at(&self, memory: &Memory, position: u32) -> Option<Prefix> {
        let page = |(block, page): (u128, u32)| {
            let offset = position.checked_sub(page).filter(|offset| *offset < self.page_size())?;
            self.prefix(block + u128::from(offset), self.width)
        };
        match &self.blocks {
            Blocks::Dense { at } => {
                let count = self.number(self.last) + 1;
                if let Some(number) = position.checked_sub(*at).filter(|number| *number < count) {
                    let block = self.first + (u128::from(number) << self.shift());
                    return self.prefix(block, self.cut.block_len);
                }
                let pages = self.inside.keys().filter_map(|block| Some((*block, self.page(memory, *block)?)));
                pages.into_iter().find_map(page)
            }
            Blocks::Sparse { words, .. } => {
                let pages =
                    words.iter().filter_map(|(block, cell)| Some((*block, page_at(cell.answer.word)?)));
                pages.into_iter().find_map(page)
            }
        }
    }

    /// Runs of `WORDS` that hold something of this pool.
    pub fn runs(&self, memory: &Memory) -> Vec<(u32, u32)> {
        let pages = self.inside.keys().filter_map(|block| self.page(memory, *block));
        let mut runs: Vec<_> = pages.map(|page| (page, self.page_size())).collect();
        if let Blocks::Dense { at } = self.blocks {
            runs.push((at, self.number(self.last) + 1));
        }
        runs
    }

    pub fn prefix(&self, address: u128, length: u8) -> Option<Prefix> {
        match self.cut.prefix {
            Prefix::V4(_) => Prefix4::from_bits(u32::try_from(address).ok()?, length).map(Prefix::V4),
            Prefix::V6(_) => Prefix6::from_bits(address, length).map(Prefix::V6),
        }
    }

    fn paint(&mut self, memory: &mut Memory, paint: &Paint) {
        let (shift, size, base) = (self.shift(), self.page_size(), self.first);
        let (first, last) = (self.block_of(paint.first.max(self.first)), paint.last.min(self.last));
        match &mut self.blocks {
            Blocks::Dense { at } => {
                for number in (first - base) >> shift..=(last - base) >> shift {
                    let (position, block) = (*at + number as u32, base + (number << shift));
                    if let Some(page) = memory.page(position) {
                        memory.paint_page(page, size, block, paint);
                    } else if paint.takes.covers(memory.cell(position).owner)
                        && !self.starved.contains(&block)
                    {
                        memory.set_block(position, paint.with);
                    }
                }
            }
            Blocks::Sparse { words, .. } => {
                for (block, cell) in words.range_mut(first..=last) {
                    if let Some(page) = page_at(cell.answer.word) {
                        memory.paint_page(page, size, *block, paint);
                    } else if paint.takes.covers(cell.owner) && !self.starved.contains(block) {
                        *cell = paint.with;
                        memory.set_block6(*block, Some(cell.answer));
                    }
                }
            }
        }
    }

    fn page(&self, memory: &Memory, block: u128) -> Option<u32> {
        match &self.blocks {
            Blocks::Dense { at } => memory.page(at + self.number(block)),
            Blocks::Sparse { words, .. } => page_at(words.get(&block)?.answer.word),
        }
    }

    /// A page for a block, or, where there is no room, the trie.
    fn make_page(&mut self, memory: &mut Memory, entries: &Entries, block: u128, now: Instant) {
        let size = self.page_size();
        let known = self.known_pages.remove(&block).filter(|at| memory.reserve(*at, size));
        let room = known.or_else(|| memory.take_room(size, now));
        let (Some(at), Some(prefix)) = (room, self.prefix(block, self.cut.block_len)) else {
            if self.starved.insert(block) {
                self.set(memory, block, Cell { answer: TRIE, owner: 0 });
            }
            return;
        };
        memory.begin_page(at, size, cell(entries.cover(prefix)));
        for (inside, entry) in entries.inside(prefix).filter(|(inside, _)| *inside != prefix) {
            let with = Cell { answer: super::answer(entry), owner: inside.len() + 1 };
            let (first, last) = span(inside);
            memory.paint_page(at, size, block, &Paint { first, last, takes: Takes::UpTo(with.owner), with });
        }
        self.starved.remove(&block);
        self.set(memory, block, Cell { answer: page_word(at), owner: 0 });
    }

    /// Nothing more specific is inside any more.
    fn end_page(&mut self, memory: &mut Memory, entries: &Entries, block: u128, now: Instant) {
        if let Some(page) = self.page(memory, block) {
            memory.give_back(page, self.page_size(), now);
        }
        self.starved.remove(&block);
        let Some(prefix) = self.prefix(block, self.cut.block_len) else { return };
        let plain = cell(entries.cover(prefix));
        match &mut self.blocks {
            Blocks::Sparse { words, .. } if plain.owner != self.cut.block_len + 1 => {
                words.remove(&block);
                memory.set_block6(block, None);
            }
            _ => self.set(memory, block, plain),
        }
    }

    fn set(&mut self, memory: &mut Memory, block: u128, cell: Cell) {
        let number = self.number(block);
        match &mut self.blocks {
            Blocks::Dense { at } => memory.set_block(*at + number, cell),
            Blocks::Sparse { words, .. } => {
                words.insert(block, cell);
                memory.set_block6(block, Some(cell.answer));
            }
        }
    }

    fn is_between(&self, prefix: Prefix) -> bool {
        self.cut.prefix.len() < prefix.len() && prefix.len() < self.cut.block_len
    }

    fn shift(&self) -> u32 {
        u32::from(self.width - self.cut.block_len)
    }

    fn block_of(&self, address: u128) -> u128 {
        address >> self.shift() << self.shift()
    }

    /// Of a block in the pool. Of an IPv6 pool it may be cut short, and nobody asks.
    fn number(&self, block: u128) -> u32 {
        ((block - self.first) >> self.shift()) as u32
    }

    fn page_size(&self) -> u32 {
        page_size(self.width, self.cut.block_len)
    }
}

/// One word for each address of a block.
fn page_size(width: u8, block_len: u8) -> u32 {
    1 << (width - block_len)
}

fn cell(found: Option<(Prefix, manx_abi::Route)>) -> Cell {
    found.map_or(super::NOTHING, |(prefix, entry)| Cell {
        answer: super::answer(entry),
        owner: prefix.len() + 1,
    })
}
