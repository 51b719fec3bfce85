//! The index against naive longest-prefix match, over histories of routes and pools, with little room. What is
//! handed out is stored into a model of the maps one by one, and looked up as the programs do it.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use manx_abi::{Action, Route};
use manx_net::{Prefix4, Prefix6};
use proptest::prelude::*;

use super::*;

const WORDS: u32 = 256;
const BLOCKS6: usize = 6;

/// The maps as the programs see them.
#[derive(Default)]
struct Maps {
    words: HashMap<u32, Answer>,
    blocks6: BTreeMap<u128, Answer>,
    pools: Vec<Indexed>,
}

impl Maps {
    /// `None` outside of all pools.
    fn look_up(&self, address: IpAddr) -> Option<Answer> {
        let host = Prefix::host(address);
        let Indexed { cut, at, fallback } = self.pools.iter().find(|pool| pool.cut.prefix.covers(host))?;
        let (found, offset) = match (cut.prefix, host) {
            (Prefix::V4(pool), Prefix::V4(host)) => {
                let shift = 32 - u32::from(cut.block_len);
                let number = (host.bits() - pool.bits()) >> shift;
                (self.word(at + number), host.bits() & !(u32::MAX << shift))
            }
            (_, Prefix::V6(host)) => {
                let inside = !(u128::MAX << (128 - cut.block_len));
                let found = self.blocks6.get(&(host.bits() & !inside)).copied().unwrap_or(*fallback);
                (found, (host.bits() & inside) as u32)
            }
            (Prefix::V6(_), Prefix::V4(_)) => unreachable!("no pool covers another family"),
        };
        Some(page_at(found.word).map_or(found, |page| self.word(page + offset)))
    }

    fn word(&self, position: u32) -> Answer {
        self.words.get(&position).copied().unwrap_or_default()
    }
}

/// What longest-prefix match says.
fn naive(entries: &Entries, address: IpAddr) -> Answer {
    entries.cover(Prefix::host(address)).map_or(NOTHING.answer, |(_, entry)| answer(entry))
}

struct World {
    entries: Entries,
    index: Index,
    maps: Maps,
    now: Instant,
}

impl World {
    fn new() -> World {
        World {
            entries: Entries::default(),
            index: Index::new(WORDS),
            maps: Maps::default(),
            now: Instant::now(),
        }
    }

    fn upsert(&mut self, prefix: Prefix, says: u32) {
        let entry = Route { action: Action::Via, target: says, pool: 0, counter: says + 1000 };
        let is_new = self.entries.insert(prefix, entry).is_none();
        self.index.upsert(&self.entries, prefix, answer(entry), is_new, self.now);
    }

    fn remove(&mut self, prefix: Prefix) {
        if self.entries.remove(prefix).is_some() {
            self.index.remove(&self.entries, prefix, self.now);
        }
    }

    /// Writes what the index hands out; `between` sees the maps after every single store.
    fn flush(&mut self, mut between: impl FnMut(&Maps)) {
        loop {
            let changes = self.index.take_changes(&self.entries, self.now);
            for store in &changes.stores {
                self.maps.words.insert(store.position, store.answer);
                between(&self.maps);
            }
            let mut refused = Vec::new();
            for (block, answer) in &changes.blocks6 {
                let key = u128::from_be_bytes(*block);
                if self.maps.blocks6.len() < BLOCKS6 || self.maps.blocks6.contains_key(&key) {
                    self.maps.blocks6.insert(key, *answer);
                    between(&self.maps);
                } else {
                    refused.push(*block);
                }
            }
            self.index.note_refused(&changes, &refused);
            if let Some(pools) = self.index.take_pools(&self.entries) {
                self.maps.pools = pools;
                between(&self.maps);
            }
            for block in &changes.gone6 {
                self.maps.blocks6.remove(&u128::from_be_bytes(*block));
                between(&self.maps);
            }
            let more = !changes.gone6.is_empty() && self.index.offer_lacking();
            if !more {
                return;
            }
        }
    }
}

fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn cut(number: u32, prefix: &str, block_len: u8) -> Cut {
    Cut { number, prefix: p(prefix), block_len }
}

fn pool(which: usize) -> Cut {
    match which {
        0 => cut(0, "10.0.0.0/25", 28),
        1 => cut(1, "10.0.1.0/26", 29),
        2 => cut(2, "10.0.0.0/25", 27),
        3 => cut(16, "fd00::/120", 124),
        4 => cut(17, "fd00::100/121", 125),
        _ => cut(18, "fd00::/120", 122),
    }
}

/// All that the pools cover, and something beside them.
fn addresses() -> Vec<IpAddr> {
    let v4 = (0..0x180).step_by(3).map(|low| IpAddr::from((0x0a00_0000u32 + low).to_be_bytes()));
    let v6 = (0..0x1a0).step_by(3).map(|low| IpAddr::from(((0xfd00u128 << 112) + low).to_be_bytes()));
    v4.chain(v6).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Upsert(Prefix, u32),
    Remove(Prefix),
    Pools(Vec<usize>),
    /// And then so much time that nothing rests any more.
    Flush {
        wait: bool,
    },
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    // Few of each length, so that they meet.
    let v4 = (0u32..0x180, prop::sample::select(vec![0u8, 20, 24, 25, 26, 27, 28, 29, 30, 32]))
        .prop_map(|(low, length)| Prefix::V4(Prefix4::from_bits(0x0a00_0000 + (low & !7), length).unwrap()));
    let lengths = vec![0u8, 64, 118, 120, 121, 122, 123, 124, 125, 126, 128];
    let v6 = (0u128..0x1a0, prop::sample::select(lengths)).prop_map(|(low, length)| {
        Prefix::V6(Prefix6::from_bits((0xfd00 << 112) + (low & !7), length).unwrap())
    });
    prop_oneof![v4, v6]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (prefixes(), 1u32..8).prop_map(|(prefix, says)| Step::Upsert(prefix, says)),
        5 => prefixes().prop_map(Step::Remove),
        1 => prop::collection::btree_set(0usize..6, 0..5).prop_map(|pools| Step::Pools(pools.into_iter().collect())),
        3 => any::<bool>().prop_map(|wait| Step::Flush { wait }),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 3000 }))]

    #[test]
    fn every_address_has_the_answer_of_its_longest_prefix_and_meanwhile_the_old_or_the_new(steps in steps()) {
        let (mut world, addresses) = (World::new(), addresses());
        let mut old: Vec<Answer> = addresses.iter().map(|address| naive(&world.entries, *address)).collect();
        let mut known: Vec<Prefix> = Vec::new();
        for step in steps.into_iter().chain([Step::Flush { wait: false }]) {
            match step {
                Step::Upsert(prefix, says) => {
                    known.push(prefix);
                    world.upsert(prefix, says);
                }
                Step::Remove(prefix) => {
                    // Mostly one that is there.
                    let prefix = known.pop().filter(|_| prefix.len() % 4 != 0).unwrap_or(prefix);
                    world.remove(prefix);
                }
                Step::Pools(pools) => {
                    let cuts: Vec<Cut> = pools.into_iter().map(pool).collect();
                    let stay = world.index.staying(&cuts);
                    world.index.set_pools(&stay, &world.entries, world.now);
                    world.flush(|_| ());
                    old = addresses.iter().map(|address| naive(&world.entries, *address)).collect();
                    let refused = world.index.set_pools(&cuts, &world.entries, world.now);
                    let all_fit = refused.iter().all(|(_, why)| !matches!(why, NotIndexed::BlockLength { .. }));
                    prop_assert!(all_fit);
                }
                Step::Flush { wait } => {
                    let new: Vec<Answer> =
                        addresses.iter().map(|address| naive(&world.entries, *address)).collect();
                    let mut wrong = None;
                    world.flush(|maps| {
                        for (at, address) in addresses.iter().enumerate().step_by(7) {
                            // The trie and what is outside of the pools answer by other maps.
                            let found = maps.look_up(*address).filter(|found| *found != TRIE);
                            // One store sets the word, another the counter.
                            if found.is_some_and(|found| found.word != old[at].word && found.word != new[at].word) {
                                wrong = Some((*address, found, old[at], new[at]));
                            }
                        }
                    });
                    prop_assert_eq!(wrong, None);
                    for (address, new) in addresses.iter().zip(&new) {
                        let found = world.maps.look_up(*address).filter(|found| *found != TRIE);
                        prop_assert!(found.is_none_or(|found| found == *new), "{} {:?} {:?}", address, found, new);
                        prop_assert_eq!(world.index.look_up(*address), world.maps.look_up(*address));
                    }
                    old = new;
                    if wait {
                        world.now += Duration::from_secs(31);
                    }
                }
            }
        }
        // Another run finds it all where it is, and everything that it would store is there already.
        let known = Known {
            pools: world.index.indexed().collect(),
            pages: pages(&world),
            used: world.maps.words.keys().max().map_or(0, |highest| highest + 1),
        };
        let adopted = Index::adopt(WORDS, known, &world.entries, world.now);
        if world.index.starved().is_empty() && world.index.lacking() == 0 {
            for address in &addresses {
                prop_assert_eq!(adopted.look_up(*address), world.maps.look_up(*address));
            }
            for store in adopted.words() {
                prop_assert_eq!(world.maps.word(store.position), store.answer);
            }
        }
    }
}

fn pages(world: &World) -> HashMap<(u32, u128), u32> {
    let mut pages = HashMap::new();
    for Indexed { cut, at, .. } in &world.maps.pools {
        match cut.prefix {
            Prefix::V4(prefix) => {
                for number in 0..1u32 << (cut.block_len - prefix.len()) {
                    if let Some(page) = page_at(world.maps.word(at + number).word) {
                        let block = prefix.bits() + (number << (32 - cut.block_len));
                        pages.insert((cut.number, block.into()), page);
                    }
                }
            }
            Prefix::V6(prefix) => {
                let blocks = world.maps.blocks6.iter().filter(|(block, _)| prefix.contains((**block).into()));
                for (block, found) in blocks {
                    if let Some(page) = page_at(found.word) {
                        pages.insert((cut.number, *block), page);
                    }
                }
            }
        }
    }
    pages
}

#[test]
fn a_change_stores_only_what_it_changes() {
    let mut world = World::new();
    world.index.set_pools(&[cut(0, "10.0.0.0/25", 28)], &world.entries, world.now);
    world.upsert(p("10.0.0.0/25"), 1);
    world.upsert(p("10.0.0.16/28"), 2);
    world.flush(|_| ());
    let stores = |world: &mut World| {
        let mut stores = 0;
        world.flush(|_| stores += 1);
        stores
    };
    world.upsert(p("10.0.0.32/28"), 3);
    assert_eq!(stores(&mut world), 1, "a block is one word");
    world.upsert(p("10.0.0.33/32"), 4);
    assert_eq!(stores(&mut world), 16 + 1, "its page, and the word that names it");
    world.upsert(p("10.0.0.33/32"), 5);
    assert_eq!(stores(&mut world), 1, "an address in a page is one word");
    world.upsert(p("10.0.0.0/26"), 6);
    assert_eq!(stores(&mut world), 2, "two of its four blocks have something longer");
    world.upsert(p("10.0.0.0/26"), 6);
    assert_eq!(stores(&mut world), 0);
}

#[test]
fn a_block_without_a_page_asks_the_trie_until_there_is_room() {
    let mut world = World::new();
    world.index = Index::new(48);
    world.index.set_pools(&[cut(0, "10.0.0.0/25", 27)], &world.entries, world.now);
    world.upsert(p("10.0.0.1/32"), 1);
    world.upsert(p("10.0.0.33/32"), 2);
    world.flush(|_| ());
    let look_up = |world: &World, text: &str| world.maps.look_up(text.parse().unwrap());
    assert_eq!(look_up(&world, "10.0.0.33"), Some(TRIE));
    assert_eq!(world.index.starved(), [p("10.0.0.32/27")].into());
    world.remove(p("10.0.0.1/32"));
    world.flush(|_| ());
    assert_eq!(look_up(&world, "10.0.0.33"), Some(TRIE), "what was given back rests");
    world.now += Duration::from_secs(31);
    world.flush(|_| ());
    assert_eq!(look_up(&world, "10.0.0.33").map(|found| found.counter), Some(1002));
    assert!(world.index.starved().is_empty());
}

#[test]
fn pools_that_overlap_or_cannot_be_cut_are_named() {
    let mut world = World::new();
    let cuts = [
        cut(0, "10.0.0.0/25", 28),
        cut(1, "10.0.0.64/26", 28),
        cut(2, "10.1.0.0/16", 18),
        cut(3, "10.2.0.0/16", 26),
    ];
    let refused = world.index.set_pools(&cuts, &world.entries, world.now);
    let why: Vec<String> = refused.iter().map(|(cut, why)| format!("{} {why}", cut.number)).collect();
    assert_eq!(
        why,
        [
            "1 it overlaps pool 10.0.0.0/25",
            "2 its blocks would be /18, which is not between /20 and /32",
            "3 its 1024 blocks do not fit the map of words; raise its size (--map-size words=N)",
        ]
    );
    assert_eq!(world.index.set_pools(&cuts[1..2], &world.entries, world.now), []);
}
