//! Whether the maps still say what was written, beside the routes themselves (which [`EbpfSink::dump`] reads back):
//! words, blocks, pools, groups, next hops, endpoints and interfaces. And how full they are.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv6Addr,
    time::Instant,
};

use manx_abi::{self as abi, Action, Kind, PoolSet, Word, capacity, map};

use manx_net::Prefix;

use super::{
    EbpfSink, Error, Fault, MapFill,
    groups::Write,
    held::{Held, hop_of},
    index::{Answer, Changes, Store},
    maps::Maps,
    pools, settings,
};
use crate::route::{self, BlackholeKind, Mac, NextHop, Route};

/// Faults of one map that are named; the others are counted. Somebody may have emptied a map of 100,000 entries.
const NAMED: usize = 100;

/// A part of the maps that is compared, and put right, in one go: the daemon does other things between two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapPart {
    /// Next hops, sets of buckets, groups and endpoints.
    Slots,
    Words,
    Blocks6,
    /// Pools, interfaces and settings.
    Switches,
}

impl MapPart {
    /// In the order in which they are put right: slots before what names them.
    pub const ALL: [MapPart; 4] = [MapPart::Slots, MapPart::Words, MapPart::Blocks6, MapPart::Switches];
}

/// What has to be written again.
#[derive(Debug, Default)]
struct Damage {
    faults: Vec<Fault>,
    /// How many there are, by map.
    count: BTreeMap<&'static str, usize>,
    stores: Vec<Store>,
    blocks6: Vec<([u8; 16], Answer)>,
    strangers6: bool,
    pools: bool,
    writes: Vec<Write>,
    endpoints: Vec<(u32, [u8; abi::Endpoint::SIZE])>,
    outside: bool,
    interfaces: Vec<u32>,
}

impl EbpfSink {
    /// What somebody else changed in the maps beside the routes, with the place and what it should say. Takes
    /// milliseconds, and with IPv6 pools some more for each ten thousand blocks.
    pub fn faults(&self) -> Result<Vec<Fault>, Error> {
        Ok(self.damage(&MapPart::ALL)?.faults)
    }

    /// The same of a part.
    pub fn faults_of(&self, part: MapPart) -> Result<Vec<Fault>, Error> {
        Ok(self.damage(&[part])?.faults)
    }

    /// Puts right what [`Self::faults`] finds, and says what it was.
    pub fn repair(&mut self) -> Result<Vec<Fault>, Error> {
        self.put_right(&MapPart::ALL)
    }

    /// The same of a part.
    pub fn repair_of(&mut self, part: MapPart) -> Result<Vec<Fault>, Error> {
        self.put_right(&[part])
    }

    fn put_right(&mut self, parts: &[MapPart]) -> Result<Vec<Fault>, Error> {
        let damage = self.damage(parts)?;
        let faults = damage.faults.clone();
        if !faults.is_empty() {
            self.mend(damage)?;
        }
        if parts.contains(&MapPart::Blocks6) && self.held.index.offer_lacking() {
            // Slots that rested when the table had no room may have ended their rest.
            self.held.flush(&self.maps, Instant::now())?;
        }
        Ok(faults)
    }

    fn mend(&mut self, damage: Damage) -> Result<(), Error> {
        let now = Instant::now();
        // Slots before what names them.
        for (id, slot) in &damage.endpoints {
            let written = self.maps.write_endpoint(*id, *slot);
            written.map_err(|refusal| Error::Map {
                map: map::ENDPOINTS,
                action: "repairing",
                reason: refusal.to_string(),
            })?;
        }
        self.maps.execute(&damage.writes)?;
        self.maps.store(&damage.stores);
        if damage.strangers6 || !damage.blocks6.is_empty() {
            // Before what is written again, which needs the room; and what is in use is counted anew.
            let blocks = self.held.index.blocks6();
            self.maps.blocks6.sweep(|block| blocks.contains_key(block), now);
        }
        let again = Changes { blocks6: damage.blocks6, ..Changes::default() };
        let refused = self.maps.blocks6.write(&again.blocks6, now);
        self.held.index.note_refused(&again, &refused);
        // Where a block was refused its pool says from now on that the trie is to be asked.
        let changed = self.held.index.take_pools(&self.held.entries);
        if damage.pools || changed.is_some() {
            let indexed: Vec<_> = self.held.index.indexed().collect();
            pools::write_set(&self.maps, &indexed)?;
        }
        if damage.outside {
            self.held.outside.write_all(&self.maps);
        }
        for ifindex in damage.interfaces {
            self.places.write_again(&self.maps, ifindex);
        }
        Ok(())
    }

    /// Writes the tries' entries for these prefixes again, or removes them, as they were written last. Reads nothing, so
    /// that it takes no longer for a large table.
    pub fn write_again(&mut self, prefixes: &[Prefix]) -> Result<(), Error> {
        let entries = &self.held.entries;
        let strangers: Vec<Prefix> =
            prefixes.iter().copied().filter(|prefix| entries.get(*prefix).is_none()).collect();
        self.maps.remove_routes(&strangers)?;
        let own = prefixes.iter().filter_map(|prefix| Some((*prefix, entries.get(*prefix)?)));
        let (v4, v6): (Vec<_>, Vec<_>) = own.partition(|(prefix, _)| prefix.is_v4());
        for (name, routes) in [(map::ROUTES4, v4), (map::ROUTES6, v6)] {
            if let (_, Some(refusal)) = self.maps.write_routes(&routes) {
                return Err(Error::Map { map: name, action: "repairing", reason: refusal.to_string() });
            }
        }
        Ok(())
    }

    fn damage(&self, parts: &[MapPart]) -> Result<Damage, Error> {
        let mut damage = Damage::default();
        for part in parts {
            match part {
                MapPart::Slots => self.damaged_slots(&mut damage)?,
                MapPart::Words => self.damaged_words(&mut damage),
                MapPart::Blocks6 => self.damaged_blocks6(&mut damage),
                MapPart::Switches => self.damaged_switches(&mut damage)?,
            }
        }
        damage.count_unnamed();
        Ok(damage)
    }

    fn damaged_switches(&self, damage: &mut Damage) -> Result<(), Error> {
        self.damaged_pools(damage)?;
        let [outside4, outside6] = self.held.outside.flags();
        for (field, at, expected) in [
            ("outside4", settings::place!(outside4), outside4),
            ("outside6", settings::place!(outside6), outside6),
        ] {
            let found = self.maps.settings.load(at).unwrap_or(0);
            if found != expected {
                damage.outside = true;
                damage.say(map::SETTINGS, || [field.into(), found.to_string(), expected.to_string()]);
            }
        }
        for (at, found, expected) in self.held.outside.faults(&self.maps) {
            damage.outside = true;
            damage.say(map::OUTSIDE, || {
                [format!("word {at}"), format!("{found:#x}"), format!("{expected:#x}")]
            });
        }
        for (ifindex, found, expected) in self.places.faults(&self.maps) {
            damage.interfaces.push(ifindex);
            damage.say(map::INTERFACES, || [format!("interface {ifindex}"), found, expected]);
        }
        Ok(())
    }

    fn damaged_slots(&self, damage: &mut Damage) -> Result<(), Error> {
        for write in self.held.groups.expected() {
            if !self.maps.reads_as(&write)? {
                let map = match &write {
                    Write::NextHop { .. } => map::NEXTHOPS,
                    Write::Buckets { .. } => map::BUCKETS,
                    Write::Group { .. } => map::GROUPS,
                };
                damage.say(map, || {
                    let [about, expected] = self.slot_text(&write);
                    [about, "something else".into(), expected]
                });
                damage.writes.push(write);
            }
        }
        let found = self.maps.endpoints()?;
        for (id, slot) in self.held.endpoints.live() {
            if found.get(&id) != Some(&slot) {
                let ifindex = abi::Endpoint::from_bytes(slot).ifindex;
                damage.say(map::ENDPOINTS, || {
                    [format!("endpoint {id}"), "something else".into(), format!("interface {ifindex}")]
                });
                damage.endpoints.push((id, slot));
            }
        }
        Ok(())
    }

    /// What a slot is called, and what it should say.
    fn slot_text(&self, write: &Write) -> [String; 2] {
        match write {
            Write::NextHop { id, slot } => {
                [format!("next hop {id}"), hop_of(*slot).map(|hop| hop_text(&hop)).unwrap_or_default()]
            }
            Write::Buckets { id, hops } => [format!("set {id}"), format!("{hops:?}")],
            Write::Group { id, word } => {
                let hops = self.held.groups.hops(*id).map(|hops| hops.to_vec()).unwrap_or_default();
                let hops: Vec<String> = hops.iter().map(hop_text).collect();
                [format!("group {id}"), format!("{word:#x} ({})", hops.join(", "))]
            }
        }
    }

    fn damaged_words(&self, damage: &mut Damage) {
        let index = &self.held.index;
        for store in index.words() {
            let found = self.maps.word(store.position);
            if found != store.answer {
                let map = if found.word == store.answer.word { map::COUNTER_IDS } else { map::WORDS };
                // To name it takes a walk through the pages of its pool.
                damage.say(map, || {
                    let about = index.prefix_at(store.position).map(|prefix| prefix.to_string());
                    let about = about.unwrap_or_else(|| format!("position {}", store.position));
                    [about, answer_text(found), answer_text(store.answer)]
                });
                damage.stores.push(store);
            }
        }
    }

    fn damaged_pools(&self, damage: &mut Damage) -> Result<(), Error> {
        let indexed: Vec<_> = self.held.index.indexed().collect();
        let number = self.maps.settings.load(settings::place!(pool_set)).unwrap_or(0);
        let found = if (number as usize) < abi::pool::POOL_SETS {
            PoolSet::from_bytes(&self.maps.pool_set(number)?)
        } else {
            PoolSet::EMPTY
        };
        let expected = pools::set_of(&indexed);
        // Of maps that are new nothing is set, which says the same as a set of no pools.
        if found.count4 + found.count6 + expected.count4 + expected.count6 > 0 && found != expected {
            damage.pools = true;
            damage.say(map::POOLS, || {
                [format!("set {number}"), "other pools".into(), "the pools of this node".into()]
            });
        }
        Ok(())
    }

    fn damaged_blocks6(&self, damage: &mut Damage) {
        let table = &self.maps.blocks6;
        let expected = self.held.index.blocks6();
        for (block, answer) in &expected {
            let found = table.look_up(*block);
            if found != Some(*answer) {
                damage.say(map::BLOCKS6, || {
                    let found = found.map_or("nothing".into(), answer_text);
                    [Ipv6Addr::from(*block).to_string(), found, answer_text(*answer)]
                });
                damage.blocks6.push((*block, *answer));
            }
        }
        for (block, answer) in table.contents().into_iter().filter(|(block, _)| !expected.contains_key(block))
        {
            damage.say(map::BLOCKS6, || {
                [Ipv6Addr::from(block).to_string(), answer_text(answer), "nothing".into()]
            });
            damage.strangers6 = true;
        }
        let strays = table.strays();
        if strays > 0 {
            damage.say(map::BLOCKS6, || {
                ["slots that no program comes to".into(), strays.to_string(), "0".into()]
            });
            damage.strangers6 = true;
        }
    }

    /// How full each map is, and what it takes.
    pub fn fill(&self) -> Result<Vec<MapFill>, Error> {
        let (routes4, routes6) = self.held.entries.counts();
        let (next_hops, sets, groups) = self.held.groups.counts();
        let (used, words) = self.held.index.room();
        let fill = |name: &'static str, entries: usize, capacity: u64| -> Result<MapFill, Error> {
            Ok(MapFill { name, entries: entries as u64, capacity, bytes: self.maps.bytes(name)? })
        };
        let of = |name: &'static str| self.maps.capacity(name).map(u64::from);
        let blocks6 = self.held.index.blocks6().len();
        let pools = self.held.index.indexed().count();
        let (places, counters) = (self.places.len(), self.held.counters.len());
        Ok(vec![
            fill(map::ROUTES4, routes4, of(map::ROUTES4)?)?,
            fill(map::ROUTES6, routes6, of(map::ROUTES6)?)?,
            fill(map::WORDS, used as usize, words.into())?,
            fill(map::COUNTER_IDS, used as usize, words.into())?,
            fill(map::BLOCKS6, blocks6, self.maps.blocks6.capacity().into())?,
            fill(map::POOLS, pools, abi::pool::POOL_NUMBERS as u64)?,
            fill(map::GROUPS, groups, capacity::GROUPS as u64 - 1)?,
            fill(map::BUCKETS, sets, of(map::BUCKETS)? - 1)?,
            fill(map::NEXTHOPS, next_hops, of(map::NEXTHOPS)? - 1)?,
            fill(map::ENDPOINTS, self.held.endpoints.len(), of(map::ENDPOINTS)? - 1)?,
            fill(map::INTERFACES, places, of(map::INTERFACES)?)?,
            fill(map::SETTINGS, 1, 1)?,
            fill(map::COUNTERS, places, of(map::INTERFACES)?)?,
            fill(map::PREFIX_COUNTS, counters, of(map::PREFIX_COUNTS)? - 1)?,
            fill(map::HOP_COUNTS, next_hops, of(map::HOP_COUNTS)? - 1)?,
        ])
    }
}

impl Damage {
    /// `text`: what it is about, what was found, and what should be there.
    fn say(&mut self, map: &'static str, text: impl FnOnce() -> [String; 3]) {
        let count = self.count.entry(map).or_default();
        *count += 1;
        if *count <= NAMED {
            let [about, found, expected] = text();
            self.faults.push(Fault { map, about, found, expected });
        }
    }

    fn count_unnamed(&mut self) {
        for (map, count) in &self.count {
            if let Some(others @ 1..) = count.checked_sub(NAMED) {
                self.faults.push(Fault {
                    map,
                    about: format!("{others} more entries"),
                    found: "something else".into(),
                    expected: "what this agent wrote".into(),
                });
            }
        }
    }
}

impl Held {
    /// The routes as the maps alone tell them. What leads nowhere is the stack's.
    pub fn dump(maps: &Maps) -> Result<Vec<Route>, Error> {
        Ok(Held::dump_with_counters(maps)?.into_iter().map(|(route, _)| route).collect())
    }

    /// The same, each with the number of its counter; 0 if it has none.
    pub fn dump_with_counters(maps: &Maps) -> Result<Vec<(Route, u32)>, Error> {
        let route = |(prefix, action, counter): (_, Option<_>, _)| {
            (Route { prefix, action: action.unwrap_or(route::Action::Pass) }, counter)
        };
        Ok(Held::dump_entries(maps)?.into_iter().map(route).collect())
    }

    /// Every entry, with no action where it cannot be read or leads nowhere.
    pub fn dump_entries(maps: &Maps) -> Result<Vec<(Prefix, Option<route::Action>, u32)>, Error> {
        let next_hops: HashMap<u32, NextHop> =
            maps.next_hops()?.into_iter().filter_map(|(id, slot)| Some((id, hop_of(slot)?))).collect();
        let (groups, sets, endpoints) = (maps.groups(), maps.bucket_sets(), maps.endpoints()?);
        let mut hops_of: HashMap<u32, Option<Vec<NextHop>>> = HashMap::new();
        let mut read = |group: u32| {
            let hops = || match abi::Group(*groups.get(&group)?).target() {
                Ok(id) => Some(vec![*next_hops.get(&id)?]),
                Err(set) => {
                    let hops = sets.get(&set)?.iter().map(|id| next_hops.get(id).copied());
                    let mut hops: Vec<NextHop> = hops.collect::<Option<_>>()?;
                    hops.sort_unstable();
                    hops.dedup();
                    Some(hops)
                }
            };
            hops_of.entry(group).or_insert_with(hops).clone()
        };
        let mut action = |entry: abi::Route| {
            Some(match entry.action {
                Action::Pass => route::Action::Pass,
                Action::Unreachable => route::Action::Unreachable,
                Action::BlackholeOwn => route::Action::Blackhole(BlackholeKind::Own),
                Action::BlackholeExplicit => route::Action::Blackhole(BlackholeKind::Explicit),
                Action::Via => route::Action::Via(read(entry.target)?),
                Action::Local => {
                    let endpoint = abi::Endpoint::from_bytes(*endpoints.get(&entry.target)?);
                    let mac = (endpoint.pod_mac != [0; 6]).then_some(Mac(endpoint.pod_mac));
                    route::Action::Local { ifindex: endpoint.ifindex, mac }
                }
            })
        };
        let routes = maps.routes()?.into_iter();
        let route = |(prefix, entry): (_, Option<abi::Route>)| {
            (prefix, entry.and_then(&mut action), entry.map_or(0, |entry| entry.counter))
        };
        Ok(routes.map(route).collect())
    }
}

fn hop_text(hop: &NextHop) -> String {
    format!("via {} dev {}", hop.gateway, hop.ifindex)
}

fn answer_text(answer: Answer) -> String {
    let word = Word(answer.word);
    let kind = match Kind::try_from(word.kind()) {
        Ok(Kind::Trie) => "ask the trie".into(),
        Ok(Kind::NoRoute) => "no route".into(),
        Ok(Kind::Pass) => "pass".into(),
        Ok(Kind::Via) => format!("group {}", word.target()),
        Ok(Kind::Local) => format!("endpoint {}", word.target()),
        Ok(Kind::BlackholeOwn) => "blackhole".into(),
        Ok(Kind::BlackholeExplicit) => "blackhole (explicit)".into(),
        Ok(Kind::Unreachable) => "unreachable".into(),
        Ok(Kind::Page) => format!("page at {}", word.target()),
        Err(_) => format!("{:#010x}", answer.word),
    };
    format!("{kind}, counter {}", answer.counter)
}
