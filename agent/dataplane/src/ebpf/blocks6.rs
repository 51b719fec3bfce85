//! `BLOCKS6` in shared memory: an open-addressed table of the blocks of IPv6 pools. What a block says is one word, so
//! a packet sees the old one or the new one; a block that stays keeps its slot, so no packet misses it while others
//! come and go. A slot that was given up rests, as ids do, before it is another block's. In which order a slot is written
//! and read is said at [`Block6`].

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use manx_abi::{
    Block6,
    pool::{BLOCK6_PROBES, Halves, from_halves, halves, place6},
};

use super::{ids::REST, index::Answer};

/// Memory of u64s, each read and stored as a whole. What was stored before is seen by whoever sees a store.
pub(super) trait Memory {
    /// In u64s.
    fn len(&self) -> usize;
    /// Zero beyond the end.
    fn load(&self, at: usize) -> u64;
    fn store(&self, at: usize, value: u64);
}

/// In u64s: a slot, and the places in it.
const SLOT: usize = Block6::SIZE / 8;
const HIGH: usize = 0;
const LOW: usize = 1;
const ANSWER: usize = 2;

/// "Ask the trie."
const NOTHING: u64 = 0;
/// The low half of no block.
const NOBODY: u64 = 0;

#[derive(Debug)]
pub(super) struct Blocks6<M> {
    memory: M,
    /// A power of two.
    slots: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_use: u32,
    /// Slots that rest, and since when, the oldest first.
    resting: HashSet<u32>,
    since: VecDeque<(Instant, u32)>,
}

impl<M: Memory> Blocks6<M> {
    /// As an earlier run left it, whose last slots may have been given up a moment ago.
    pub fn open(memory: M, now: Instant) -> Blocks6<M> {
        let slots = (memory.len() / SLOT) as u32;
        let blocks = Blocks6 { memory, slots, state: Mutex::default() };
        let mut state = State::default();
        for slot in 0..slots {
            match blocks.high(slot) {
                Block6::FREE => {}
                Block6::GONE => state.rest(slot, now),
                _ => state.in_use += 1,
            }
        }
        *blocks.state() = state;
        blocks
    }

    /// How many blocks it takes: half its slots, so that a block is found after one or two.
    pub fn capacity(&self) -> u32 {
        self.slots / 2
    }

    /// In the order given. Those for which there is no room are in the answer.
    pub fn write(&self, blocks: &[([u8; 16], Answer)], now: Instant) -> Vec<[u8; 16]> {
        let mut state = self.state();
        self.end_rests(&mut state, now);
        let refused = blocks.iter().filter(|(block, answer)| !self.put(&mut state, halves(*block), *answer));
        refused.map(|(block, _)| *block).collect()
    }

    /// What is not there is as good as removed.
    pub fn remove(&self, blocks: &[[u8; 16]], now: Instant) {
        let mut state = self.state();
        self.end_rests(&mut state, now);
        for slot in blocks.iter().filter_map(|block| self.find(halves(*block))) {
            self.give_up(&mut state, slot, now);
        }
    }

    /// Gives up every slot that is not the first of a block of which `stays` is true.
    pub fn sweep(&self, stays: impl Fn(&[u8; 16]) -> bool, now: Instant) {
        let mut state = self.state();
        for (slot, block) in self.slots_in_use() {
            if self.find(block) != Some(slot) || !stays(&from_halves(block)) {
                self.give_up(&mut state, slot, now);
            }
        }
        state.in_use = self.slots_in_use().count() as u32;
    }

    /// What a program finds.
    pub fn look_up(&self, block: [u8; 16]) -> Option<Answer> {
        self.find(halves(block)).map(|slot| self.answer(slot))
    }

    /// All that is in it and what it says, whether a program finds it or not.
    pub fn contents(&self) -> HashMap<[u8; 16], Answer> {
        let found = self.slots_in_use();
        found.map(|(slot, block)| (from_halves(block), self.answer(slot))).collect()
    }

    /// Slots of which a program finds another of the same block, or none.
    pub fn strays(&self) -> usize {
        self.slots_in_use().filter(|(slot, block)| self.find(*block) != Some(*slot)).count()
    }

    fn put(&self, state: &mut State, block: Halves, answer: Answer) -> bool {
        let value = value(answer);
        if let Some(slot) = self.find(block) {
            self.store(slot, ANSWER, value);
            return true;
        }
        if state.in_use >= self.capacity() || !Block6::has_place(block) {
            return false;
        }
        let is_usable = |slot: &u32| match self.high(*slot) {
            Block6::FREE => true,
            Block6::GONE => !state.resting.contains(slot),
            _ => false,
        };
        let mut chain = self.chain(block);
        let Some(slot) = chain.find(is_usable) else { return false };
        let Some([high, low]) = Block6::key(block) else { return false };
        // The half last by which it is found.
        self.store(slot, ANSWER, value);
        self.store(slot, LOW, low);
        self.store(slot, HIGH, high);
        state.in_use += 1;
        true
    }

    fn give_up(&self, state: &mut State, slot: u32, now: Instant) {
        self.store(slot, HIGH, Block6::GONE);
        // For a program that is about to find another block here whose high half is written, and reads the low one too
        // early: it must not find what went.
        self.store(slot, LOW, NOBODY);
        // For a program that has just found the block here.
        self.store(slot, ANSWER, NOTHING);
        state.in_use = state.in_use.saturating_sub(1);
        state.rest(slot, now);
    }

    /// Slots that have rested are free again where no search goes on behind them.
    fn end_rests(&self, state: &mut State, now: Instant) {
        while let Some((since, slot)) = state.since.front().copied() {
            if now.saturating_duration_since(since) < REST {
                return;
            }
            state.since.pop_front();
            state.resting.remove(&slot);
            let mut last = slot;
            while self.high(last) == Block6::GONE
                && !state.resting.contains(&last)
                && self.high(self.after(last)) == Block6::FREE
            {
                self.store(last, HIGH, Block6::FREE);
                last = last.wrapping_sub(1) & (self.slots - 1);
            }
        }
    }

    /// As a program does it.
    fn find(&self, block: Halves) -> Option<u32> {
        let [high, low] = Block6::key(block)?;
        let mut chain = self.chain(block).take_while(|slot| self.high(*slot) != Block6::FREE);
        chain.find(|slot| self.high(*slot) == high && self.memory.load(place(*slot, LOW)) == low)
    }

    /// The slots in which a block may stand.
    fn chain(&self, block: Halves) -> impl Iterator<Item = u32> + use<M> {
        // An empty table has no slots, and no mask.
        let (first, slots) = (place6(block), self.slots);
        let probes = if slots == 0 { 0 } else { BLOCK6_PROBES };
        (0..probes).map(move |probe| first.wrapping_add(probe) & (slots - 1))
    }

    fn slots_in_use(&self) -> impl Iterator<Item = (u32, Halves)> + '_ {
        let of = |slot| [self.high(slot), self.memory.load(place(slot, LOW)).wrapping_sub(1)];
        let found = (0..self.slots).map(move |slot| (slot, of(slot)));
        found.filter(|(_, [high, _])| *high != Block6::FREE && *high != Block6::GONE)
    }

    fn answer(&self, slot: u32) -> Answer {
        let [w0, w1, w2, w3, c0, c1, c2, c3] = self.memory.load(place(slot, ANSWER)).to_ne_bytes();
        Answer { word: u32::from_ne_bytes([w0, w1, w2, w3]), counter: u32::from_ne_bytes([c0, c1, c2, c3]) }
    }

    fn high(&self, slot: u32) -> u64 {
        self.memory.load(place(slot, HIGH))
    }

    fn store(&self, slot: u32, field: usize, value: u64) {
        self.memory.store(place(slot, field), value);
    }

    fn after(&self, slot: u32) -> u32 {
        slot.wrapping_add(1) & (self.slots - 1)
    }

    /// A panic elsewhere leaves nothing in it that the next call could not go on from.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rest(&mut self, slot: u32, now: Instant) {
        if self.resting.insert(slot) {
            self.since.push_back((now, slot));
        }
    }
}

fn place(slot: u32, field: usize) -> usize {
    slot as usize * SLOT + field
}

/// Word and counter as they lie in a slot.
fn value(answer: Answer) -> u64 {
    let [w0, w1, w2, w3] = answer.word.to_ne_bytes();
    let [c0, c1, c2, c3] = answer.counter.to_ne_bytes();
    u64::from_ne_bytes([w0, w1, w2, w3, c0, c1, c2, c3])
}

const _: () = {
    assert!(std::mem::offset_of!(Block6, block) == 8 * HIGH);
    assert!(std::mem::offset_of!(Block6, word) == 8 * ANSWER);
    assert!(std::mem::offset_of!(Block6, counter) == 8 * ANSWER + 4);
};

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        collections::{BTreeMap, BTreeSet},
        time::Duration,
    };

    use proptest::prelude::*;

    use super::*;

    /// After each store what programs find is compared, of which each load may still see what was there before.
    struct Watched {
        words: RefCell<Vec<u64>>,
        /// What was there when the present changes began.
        before: RefCell<Vec<u64>>,
        expected: RefCell<BTreeMap<u64, BTreeSet<Option<u32>>>>,
    }

    impl Memory for &Watched {
        fn len(&self) -> usize {
            self.words.borrow().len()
        }

        fn load(&self, at: usize) -> u64 {
            self.words.borrow()[at]
        }

        fn store(&self, at: usize, value: u64) {
            self.words.borrow_mut()[at] = value;
            for (low, allowed) in &*self.expected.borrow() {
                let found = self.may_find([HIGH_HALF, *low]);
                assert!(found.is_subset(allowed), "{low}: {found:?} instead of {allowed:?}");
            }
        }
    }

    impl Watched {
        /// As `ebpf/src/maps.rs` does it.
        fn look_up(&self, block: Halves) -> Option<u32> {
            let words = self.words.borrow();
            let slots = words.len() / SLOT;
            for probe in 0..BLOCK6_PROBES {
                let at = (place6(block).wrapping_add(probe) as usize & (slots - 1)) * SLOT;
                if words[at] == Block6::FREE {
                    return None;
                }
                if words[at..at + 2] == Block6::key(block).unwrap() {
                    return Some(words[at + 2] as u32);
                }
            }
            None
        }

        /// What it may find if its loads are carried out in any order while the present changes are made.
        fn may_find(&self, block: Halves) -> BTreeSet<Option<u32>> {
            let (words, before) = (self.words.borrow(), self.before.borrow());
            let [high, low] = Block6::key(block).unwrap();
            let mut found = BTreeSet::new();
            for probe in 0..BLOCK6_PROBES {
                let at = (place6(block).wrapping_add(probe) as usize & (words.len() / SLOT - 1)) * SLOT;
                let seen = |field: usize| [before[at + field], words[at + field]];
                if seen(HIGH).contains(&high) && seen(LOW).contains(&low) {
                    found.extend(seen(ANSWER).map(|answer| Some(answer as u32)));
                }
                if seen(HIGH).contains(&Block6::FREE) {
                    found.insert(None);
                }
                let goes_on = seen(HIGH).iter().any(|half| *half != Block6::FREE && *half != high)
                    || seen(HIGH).contains(&high) && seen(LOW).iter().any(|half| *half != low);
                if !goes_on {
                    return found;
                }
            }
            found.insert(None);
            found
        }
    }

    const HIGH_HALF: u64 = 0xfd00 << 48;
    const SLOTS: usize = 16;

    fn watched() -> Watched {
        let words = RefCell::new(vec![0; SLOTS * SLOT]);
        Watched { before: words.clone(), words, expected: RefCell::default() }
    }

    fn bytes(low: u64) -> [u8; 16] {
        from_halves([HIGH_HALF, low])
    }

    proptest! {
        #[test]
        fn after_every_store_each_block_says_what_it_said_or_what_it_will_say(
            steps in prop::collection::vec((0u64..24, prop::option::of(1u32..9), 0u64..20), 1..200),
        ) {
            let memory = watched();
            let mut now = Instant::now();
            let mut table = Blocks6::open(&memory, now);
            let mut model: BTreeMap<u64, u32> = BTreeMap::new();
            for (low, answer, seconds) in steps {
                now += Duration::from_secs(seconds);
                let mut expected = memory.expected.take();
                // What follows at once happens under the same lookup.
                if seconds > 0 || expected.is_empty() {
                    expected = (0..24).map(|low| (low, [model.get(&low).copied()].into())).collect();
                    memory.before.borrow_mut().clone_from(&memory.words.borrow());
                }
                // "Ask the trie" is right at any time.
                expected.entry(low).or_default().extend([model.get(&low).copied(), answer, Some(0)]);
                *memory.expected.borrow_mut() = expected;
                match answer {
                    Some(word) => {
                        let refused = table.write(&[(bytes(low), Answer { word, counter: 7 })], now);
                        if refused.is_empty() {
                            model.insert(low, word);
                        } else {
                            prop_assert!(!model.contains_key(&low), "what is there is not refused");
                        }
                    }
                    None => {
                        table.remove(&[bytes(low)], now);
                        model.remove(&low);
                    }
                }
                for low in 0..24 {
                    prop_assert_eq!(memory.look_up([HIGH_HALF, low]), model.get(&low).copied());
                }
                prop_assert_eq!(table.strays(), 0);
                prop_assert_eq!(table.contents().len(), model.len());
                prop_assert!(model.len() <= table.capacity() as usize);
                if seconds == 19 {
                    table = Blocks6::open(&memory, now);
                }
            }
        }
    }

    #[test]
    fn a_slot_that_was_given_up_rests_before_it_is_anothers() {
        let memory = watched();
        let now = Instant::now();
        let table = Blocks6::open(&memory, now);
        let answer = Answer { word: 3, counter: 4 };
        let all: Vec<_> = (0..8).map(|low| (bytes(low), answer)).collect();
        assert!(table.write(&all, now).is_empty());
        assert_eq!(table.write(&[(bytes(8), answer)], now), [bytes(8)], "half the slots are in use");
        let before = table.find([HIGH_HALF, 3]).unwrap();
        table.remove(&[bytes(3)], now);
        assert!(table.write(&[(bytes(3), answer)], now).is_empty());
        assert_ne!(table.find([HIGH_HALF, 3]), Some(before));
        table.remove(&[bytes(3)], now);
        assert!(table.write(&[(bytes(3), answer)], now + REST).is_empty());
        assert_eq!(table.find([HIGH_HALF, 3]), Some(before));
    }

    #[test]
    fn what_somebody_else_broke_is_found_and_swept() {
        let memory = watched();
        let now = Instant::now();
        let table = Blocks6::open(&memory, now);
        let answer = Answer { word: 3, counter: 4 };
        table.write(&[(bytes(1), answer), (bytes(2), answer)], now);
        let slot = table.find([HIGH_HALF, 1]).unwrap();
        // A copy behind the first, and a stranger.
        let next = (0..4).map(|on| (slot + on) & 15).find(|slot| table.high(*slot) == Block6::FREE).unwrap();
        let mut words = memory.words.borrow_mut();
        words[place(next, HIGH)] = HIGH_HALF;
        words[place(next, LOW)] = 2;
        // And half of one.
        let half = words.chunks(SLOT).position(|slot| slot[HIGH] == Block6::FREE).unwrap();
        words[place(half as u32, HIGH)] = HIGH_HALF;
        drop(words);
        assert_eq!(table.strays(), 2);
        table.sweep(|block| *block == bytes(1), now);
        assert_eq!((table.strays(), table.contents().len()), (0, 1));
        assert_eq!(table.look_up(bytes(1)), Some(answer));
    }

    #[test]
    fn blocks_without_a_place_are_refused() {
        let memory = watched();
        let table = Blocks6::open(&memory, Instant::now());
        for block in [[Block6::FREE, 64], [Block6::GONE, 64], [HIGH_HALF, u64::MAX]] {
            let block = from_halves(block);
            assert_eq!(table.write(&[(block, Answer { word: 3, counter: 4 })], Instant::now()), [block]);
        }
    }
}
