//! The interfaces' entries in `INTERFACES`, and what is counted there. An interface stands at the place of its index
//! or at one of the next; a place that was given up rests before another interface gets it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem::offset_of,
    time::Instant,
};

use manx_abi::{self as abi, Counts, INTERFACE_PROBES, Program};

use super::{Error, HookCounts, ids::REST, maps::Maps, settings::InterfaceSettings};

#[derive(Debug)]
pub(super) struct Places {
    /// A power of two.
    size: u32,
    by_interface: BTreeMap<u32, u32>,
    given_up: HashMap<u32, (u32, Instant)>,
    /// What was asked for, whether the interface has a place or not.
    settings: BTreeMap<u32, InterfaceSettings>,
    /// What comes by these is the stack's, whatever was asked for.
    left: BTreeSet<u32>,
    /// Own addresses of those that were entered in this run.
    macs: BTreeMap<u32, [u8; 6]>,
}

const WORDS: usize = abi::Interface::SIZE / 4;

macro_rules! field {
    ($field:ident) => {
        offset_of!(abi::Interface, $field) / 4
    };
}

impl Places {
    /// As an earlier run left them.
    pub fn read(maps: &Maps) -> Places {
        let size = (maps.interfaces.len() / WORDS) as u32;
        let interface = |place: u32| maps.interfaces.load(place as usize * WORDS + field!(ifindex));
        let found =
            (0..size).filter_map(|place| Some((interface(place).filter(|found| *found != 0)?, place)));
        Places {
            size,
            by_interface: found.collect(),
            given_up: HashMap::new(),
            settings: BTreeMap::new(),
            left: BTreeSet::new(),
            macs: BTreeMap::new(),
        }
    }

    pub fn interfaces(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_interface.keys().copied()
    }

    pub fn len(&self) -> usize {
        self.by_interface.len()
    }

    /// Gives the interface a place, if it has none, and writes what is known of it there. Before a program is
    /// attached: without a place it leaves every packet to the stack.
    pub fn enter(&mut self, maps: &Maps, ifindex: u32, mac: [u8; 6], now: Instant) -> Result<(), Error> {
        let place = match self.by_interface.get(&ifindex) {
            Some(place) => *place,
            None => self.find(maps, ifindex, now)?,
        };
        self.by_interface.insert(ifindex, place);
        self.macs.insert(ifindex, mac);
        self.write_again(maps, ifindex);
        Ok(())
    }

    /// What the entry should say, once its interface was entered in this run.
    fn expected(&self, ifindex: u32) -> Option<[u8; abi::Interface::SIZE]> {
        let mac = *self.macs.get(&ifindex)?;
        Some(abi::Interface { ifindex, mac, ..self.entry(ifindex) }.to_bytes())
    }

    pub fn write_again(&self, maps: &Maps, ifindex: u32) {
        let (Some(place), Some(entry)) = (self.by_interface.get(&ifindex), self.expected(ifindex)) else {
            return;
        };
        let at = *place as usize * WORDS;
        for (word, value) in words(entry).into_iter().enumerate().skip(1) {
            maps.interfaces.store(at + word, value);
        }
        // Last: by it the programs know the entry.
        maps.interfaces.store(at + field!(ifindex), ifindex);
    }

    /// Entries that are not as they were written: interface, what was found, what it should be.
    pub fn faults(&self, maps: &Maps) -> Vec<(u32, String, String)> {
        let mut faults = Vec::new();
        for (ifindex, place) in &self.by_interface {
            let Some(expected) = self.expected(*ifindex).map(words) else { continue };
            let at = *place as usize * WORDS;
            let found: [u32; WORDS] =
                std::array::from_fn(|word| maps.interfaces.load(at + word).unwrap_or(0));
            if found != expected {
                faults.push((*ifindex, format!("{found:x?}"), format!("{expected:x?}")));
            }
        }
        faults
    }

    fn find(&self, maps: &Maps, ifindex: u32, now: Instant) -> Result<u32, Error> {
        let probes = (0..INTERFACE_PROBES).map(|probe| ifindex.wrapping_add(probe) & (self.size - 1));
        let taken: Vec<u32> = self.by_interface.values().copied().collect();
        let rests = |place: &u32| {
            self.given_up
                .get(place)
                .is_some_and(|(of, since)| *of != ifindex && now.saturating_duration_since(*since) < REST)
        };
        let place = probes.filter(|place| !taken.contains(place)).find(|place| !rests(place));
        let place = place.ok_or(Error::NoPlace { ifindex, places: self.size })?;
        // What a program on its way out counted since the place was given up.
        self.give_to_gone(maps, place, false)?;
        Ok(place)
    }

    /// From the next packet on. Also before the interface has a place.
    pub fn set(&mut self, maps: &Maps, ifindex: u32, settings: InterfaceSettings) {
        self.settings.insert(ifindex, settings);
        self.store(maps, ifindex);
    }

    /// From the next packet on, also before the interface has a place: what comes by it is the stack's, or no longer.
    pub fn leave_to_stack(&mut self, maps: &Maps, ifindex: u32, is_left: bool) {
        let changed = if is_left { self.left.insert(ifindex) } else { self.left.remove(&ifindex) };
        if changed {
            self.store(maps, ifindex);
        }
    }

    fn store(&self, maps: &Maps, ifindex: u32) {
        if let Some(place) = self.by_interface.get(&ifindex) {
            let (at, entry) = (*place as usize * WORDS, self.entry(ifindex));
            maps.interfaces.store(at + field!(mode), entry.mode as u32);
            maps.interfaces.store(at + field!(source_check), entry.source_check as u32);
            // In one word with the end of the interface's address, which is written when it is entered.
            if let Some(expected) = self.expected(ifindex).map(words) {
                let word = field!(way_back);
                maps.interfaces.store(at + word, expected.get(word).copied().unwrap_or(0));
            }
        }
    }

    pub fn settings(&self, ifindex: u32) -> InterfaceSettings {
        self.settings.get(&ifindex).copied().unwrap_or_default()
    }

    fn entry(&self, ifindex: u32) -> abi::Interface {
        let settings = self.settings(ifindex);
        let own = settings.mode.map_or(abi::Mode::NoSay, |mode| mode.to_abi());
        abi::Interface {
            mode: if self.left.contains(&ifindex) { abi::Mode::Off } else { own },
            source_check: settings.source_check.to_abi(),
            way_back: settings.way_back.to_abi(),
            ..abi::Interface::UNUSED
        }
    }

    /// The programs are off it. What it counted goes to those that are gone.
    pub fn leave(&mut self, maps: &Maps, ifindex: u32, was_pod: bool, now: Instant) -> Result<(), Error> {
        self.settings.remove(&ifindex);
        self.left.remove(&ifindex);
        self.macs.remove(&ifindex);
        let Some(place) = self.by_interface.remove(&ifindex) else { return Ok(()) };
        maps.interfaces.store(place as usize * WORDS + field!(ifindex), 0);
        self.given_up.insert(place, (ifindex, now));
        self.give_to_gone(maps, place, was_pod)
    }

    fn give_to_gone(&self, maps: &Maps, place: u32, was_pod: bool) -> Result<(), Error> {
        let (tc, xdp) = (Program::UplinkTc.hook(), Program::UplinkXdp.hook());
        let others = 2 * self.size;
        maps.move_counts(2 * place + tc, others + if was_pod { GONE_PODS } else { tc })?;
        maps.move_counts(2 * place + xdp, others + xdp)
    }

    /// By interface.
    pub fn counts(&self, maps: &Maps) -> Result<BTreeMap<u32, HookCounts>, Error> {
        let of = |(ifindex, place): (&u32, &u32)| Ok((*ifindex, hooks(maps, *place)?));
        self.by_interface.iter().map(of).collect()
    }

    /// Of uplinks that are gone and of interfaces that have no place, and of pods that are gone.
    pub fn others(&self, maps: &Maps) -> Result<(HookCounts, Counts), Error> {
        Ok((hooks(maps, self.size)?, maps.counts(2 * self.size + GONE_PODS)?))
    }
}

/// Where pods that are gone are counted, after the places.
const GONE_PODS: u32 = 2;

fn hooks(maps: &Maps, place: u32) -> Result<HookCounts, Error> {
    Ok(HookCounts {
        tc: maps.counts(2 * place + Program::UplinkTc.hook())?,
        xdp: maps.counts(2 * place + Program::UplinkXdp.hook())?,
    })
}

#[expect(clippy::indexing_slicing, reason = "`word` is below SIZE / 4")]
fn words(entry: [u8; abi::Interface::SIZE]) -> [u32; WORDS] {
    std::array::from_fn(|word| {
        let at = 4 * word;
        u32::from_ne_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]])
    })
}
