//! The kernel's maps as this agent holds them open: values in and out as bytes of `manx-abi`, and the arrays that
//! are memory. What is written when, and in which order, is for others to say.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use aya::{
    maps::{MapData, MapError},
    sys::SyscallError,
};
use manx_abi::{BUCKETS, Counts, Endpoint, NextHop, PoolSet, Route, Tally, VERDICTS, map};
use manx_net::{Prefix, Prefix4, Prefix6};

use super::{
    Error, Refusal,
    blocks6::{Blocks6, Memory},
    buckets::Assignment,
    groups::Write,
    index::{Answer, Store},
    syscall::{self, Words},
};

/// A value of `NEXTHOPS` or `ENDPOINTS` as it stands in the slot.
pub(super) type NextHopSlot = [u8; NextHop::SIZE];
pub(super) type EndpointSlot = [u8; Endpoint::SIZE];

/// Open maps by name.
pub(super) type Handles = Vec<(&'static str, MapData)>;

#[derive(Debug)]
pub(super) struct Maps {
    handles: HashMap<&'static str, MapData>,
    words: Words,
    counter_ids: Words,
    groups: Words,
    buckets: Words,
    pub blocks6: Blocks6<Words>,
    pub interfaces: Words,
    pub settings: Words,
    pub outside: Words,
    /// Values of a per-CPU map: one for each possible CPU.
    cpus: usize,
}

impl Memory for Words {
    fn len(&self) -> usize {
        self.wide_len()
    }

    fn load(&self, at: usize) -> u64 {
        self.load_wide(at).unwrap_or(0)
    }

    fn store(&self, at: usize, value: u64) {
        self.store_wide(at, value);
    }
}

impl Maps {
    /// The same maps once more, by descriptors of their own. Their layouts have been compared.
    pub fn open(handles: &Handles) -> Result<Maps, Error> {
        let mut own = HashMap::new();
        for (name, handle) in handles {
            let fd = handle.fd().as_fd().try_clone_to_owned();
            let opened = fd.map_err(MapError::IoError).and_then(MapData::from_fd);
            own.insert(*name, opened.map_err(|error| failed(name, "opening it once more", &error))?);
        }
        let memory = |name: &'static str| -> Result<Words, Error> {
            let handle = own.get(name).ok_or_else(|| missing(name))?;
            let info = handle.info().map_err(|error| failed(name, "reading its layout", &error))?;
            let octets = info.value_size().next_multiple_of(8) as usize * info.max_entries() as usize;
            Words::map(handle.fd().as_fd(), octets / 4).map_err(|error| broken(name, "mapping it", error))
        };
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| Error::Map {
            map: map::COUNTERS,
            action: "counting the CPUs",
            reason: format!("{file}: {error}"),
        })?;
        Ok(Maps {
            words: memory(map::WORDS)?,
            counter_ids: memory(map::COUNTER_IDS)?,
            groups: memory(map::GROUPS)?,
            buckets: memory(map::BUCKETS)?,
            blocks6: Blocks6::open(memory(map::BLOCKS6)?, Instant::now()),
            interfaces: memory(map::INTERFACES)?,
            settings: memory(map::SETTINGS)?,
            outside: memory(map::OUTSIDE)?,
            handles: own,
            cpus,
        })
    }

    /// How many values a map holds.
    pub fn capacity(&self, name: &'static str) -> Result<u32, Error> {
        let handle = self.handles.get(name).ok_or_else(|| missing(name))?;
        let info = handle.info().map_err(|error| failed(name, "reading its layout", &error))?;
        Ok(info.max_entries())
    }

    /// Octets of kernel memory that a map is charged with now.
    pub fn bytes(&self, name: &'static str) -> Result<u64, Error> {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fdinfo/{}", self.fd(name)?.as_raw_fd());
        let text = std::fs::read_to_string(path).map_err(|error| broken(name, "reading its size", error))?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        Ok(line.and_then(|octets| octets.trim().parse().ok()).unwrap_or(0))
    }

    /// Routes of one family, in order, as far as the map takes them: how many, and why not the next.
    pub fn write_routes(&self, routes: &[(Prefix, Route)]) -> (usize, Option<Refusal>) {
        let values: Vec<_> = routes.iter().map(|(_, route)| route.to_bytes()).collect();
        let is_v4 = routes.first().is_none_or(|(prefix, _)| prefix.is_v4());
        let keys4 = || routes.iter().filter_map(|(prefix, _)| key4(*prefix)).collect::<Vec<_>>();
        let keys6 = || routes.iter().filter_map(|(prefix, _)| key6(*prefix)).collect::<Vec<_>>();
        let name = if is_v4 { map::ROUTES4 } else { map::ROUTES6 };
        let written = self.fd(name).map(|fd| {
            if is_v4 {
                syscall::update(fd, &keys4(), &values)
            } else {
                syscall::update(fd, &keys6(), &values)
            }
        });
        match written {
            Ok((done, error)) => (done, error.map(|error| refusal(name, error))),
            Err(error) => (0, Some(Refusal::Kernel(error.to_string()))),
        }
    }

    /// Of either family, in order. What is not there is as good as removed.
    pub fn remove_routes(&self, prefixes: &[Prefix]) -> Result<(), Error> {
        let keys4: Vec<_> = prefixes.iter().filter_map(|prefix| key4(*prefix)).collect();
        let keys6: Vec<_> = prefixes.iter().filter_map(|prefix| key6(*prefix)).collect();
        let failed = |map| move |error| broken(map, "removing entries", error);
        syscall::delete(self.fd(map::ROUTES4)?, &keys4).map_err(failed(map::ROUTES4))?;
        syscall::delete(self.fd(map::ROUTES6)?, &keys6).map_err(failed(map::ROUTES6))
    }

    /// Everything in the tries; `None` where an entry means nothing to this ABI.
    pub fn routes(&self) -> Result<BTreeMap<Prefix, Option<Route>>, Error> {
        let mut found = BTreeMap::new();
        syscall::read(self.fd(map::ROUTES4)?, |key: [u8; 8], value| {
            let [l0, l1, l2, l3, a, b, c, d] = key;
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as u8;
            if let Some(prefix) = Prefix4::new(Ipv4Addr::new(a, b, c, d), length) {
                found.insert(prefix.into(), Route::from_bytes(value).ok());
            }
        })
        .map_err(|error| broken(map::ROUTES4, "reading", error))?;
        syscall::read(self.fd(map::ROUTES6)?, |key: [u8; 20], value| {
            let [l0, l1, l2, l3, address @ ..] = key;
            let length = u32::from_ne_bytes([l0, l1, l2, l3]) as u8;
            if let Some(prefix) = Prefix6::new(Ipv6Addr::from(address), length) {
                found.insert(prefix.into(), Route::from_bytes(value).ok());
            }
        })
        .map_err(|error| broken(map::ROUTES6, "reading", error))?;
        Ok(found)
    }

    /// In their order.
    pub fn execute(&self, writes: &[Write]) -> Result<(), Error> {
        for write in writes {
            match write {
                Write::NextHop { id, slot } => syscall::put(self.fd(map::NEXTHOPS)?, *id, slot)
                    .map_err(|error| broken(map::NEXTHOPS, "writing", error))?,
                Write::Buckets { id, hops } => {
                    let at = *id as usize * BUCKETS;
                    hops.iter().enumerate().for_each(|(bucket, hop)| self.buckets.store(at + bucket, *hop));
                }
                Write::Group { id, word } => self.groups.store(*id as usize, *word),
            }
        }
        Ok(())
    }

    /// Whether the map says what this write would make it say.
    pub fn reads_as(&self, write: &Write) -> Result<bool, Error> {
        Ok(match write {
            Write::NextHop { id, slot } => {
                let mut found = [0; NextHop::SIZE];
                syscall::look_up(self.fd(map::NEXTHOPS)?, *id, &mut found)
                    .map_err(|error| broken(map::NEXTHOPS, "reading", error))?;
                found == *slot
            }
            Write::Buckets { id, hops } => self.bucket_set(*id) == **hops,
            Write::Group { id, word } => self.groups.load(*id as usize) == Some(*word),
        })
    }

    pub fn write_endpoint(&self, id: u32, slot: EndpointSlot) -> Result<(), Refusal> {
        let fd = self.fd(map::ENDPOINTS).map_err(|error| Refusal::Kernel(error.to_string()))?;
        syscall::put(fd, id, &slot).map_err(|error| Refusal::Kernel(error.to_string()))
    }

    /// Slots that have been written, by id: no content of ours is all zero.
    pub fn next_hops(&self) -> Result<BTreeMap<u32, NextHopSlot>, Error> {
        self.slots(map::NEXTHOPS)
    }

    pub fn endpoints(&self) -> Result<BTreeMap<u32, EndpointSlot>, Error> {
        self.slots(map::ENDPOINTS)
    }

    fn slots<const N: usize>(&self, name: &'static str) -> Result<BTreeMap<u32, [u8; N]>, Error> {
        let mut found = BTreeMap::new();
        syscall::read(self.fd(name)?, |id, slot: [u8; N]| {
            if slot != [0; N] {
                found.insert(u32::from_ne_bytes(id), slot);
            }
        })
        .map_err(|error| broken(name, "reading", error))?;
        Ok(found)
    }

    /// Words that are not zero, by group id.
    pub fn groups(&self) -> BTreeMap<u32, u32> {
        let words = (0..self.groups.len()).filter_map(|id| Some((id as u32, self.groups.load(id)?)));
        words.filter(|(_, word)| *word != 0).collect()
    }

    /// Sets that are not all zero, by id.
    pub fn bucket_sets(&self) -> BTreeMap<u32, Assignment<u32>> {
        let sets = (0..self.buckets.len() / BUCKETS).map(|id| (id as u32, self.bucket_set(id as u32)));
        sets.filter(|(_, set)| *set != [0; BUCKETS]).collect()
    }

    fn bucket_set(&self, id: u32) -> Assignment<u32> {
        let at = id as usize * BUCKETS;
        std::array::from_fn(|bucket| self.buckets.load(at + bucket).unwrap_or(0))
    }

    /// The counter first: a program reads it after the word.
    pub fn store(&self, stores: &[Store]) {
        for Store { position, answer } in stores {
            self.counter_ids.store(*position as usize, answer.counter);
            self.words.store(*position as usize, answer.word);
        }
    }

    pub fn word(&self, position: u32) -> Answer {
        let at = position as usize;
        Answer { word: self.words.load(at).unwrap_or(0), counter: self.counter_ids.load(at).unwrap_or(0) }
    }

    /// All positions that hold anything lie below.
    pub fn words_used(&self) -> u32 {
        let used = |at: &usize| self.words.load(*at) != Some(0) || self.counter_ids.load(*at) != Some(0);
        (0..self.words.len()).rev().find(used).map_or(0, |at| at as u32 + 1)
    }

    pub fn write_pool_set(&self, number: u32, set: &PoolSet) -> Result<(), Error> {
        let written = syscall::put(self.fd(map::POOLS)?, number, &set.to_bytes());
        written.map_err(|error| broken(map::POOLS, "writing", error))
    }

    pub fn pool_set(&self, number: u32) -> Result<[u8; PoolSet::SIZE], Error> {
        let mut bytes = [0; PoolSet::SIZE];
        let read = syscall::look_up(self.fd(map::POOLS)?, number, &mut bytes);
        read.map_err(|error| broken(map::POOLS, "reading", error))?;
        Ok(bytes)
    }

    /// Of a place and hook, over all CPUs.
    pub fn counts(&self, at: u32) -> Result<Counts, Error> {
        Ok(Counts::from_words(self.per_cpu(map::COUNTERS, at)?))
    }

    /// Adds what `from` has counted to `to`, and begins anew there. What is counted meanwhile by a program that is
    /// still on its way may be lost: nothing has this place any more.
    pub fn move_counts(&self, from: u32, to: u32) -> Result<(), Error> {
        const WORDS: usize = VERDICTS.len();
        let moved = self.per_cpu::<WORDS>(map::COUNTERS, from)?;
        if moved == [0; WORDS] {
            return Ok(());
        }
        let mut value = vec![0u8; self.cpus * WORDS * 8];
        let fd = self.fd(map::COUNTERS)?;
        let failed = |error| broken(map::COUNTERS, "adding up", error);
        syscall::look_up(fd, to, &mut value).map_err(failed)?;
        for (word, moved) in value.chunks_exact_mut(8).zip(moved) {
            let was = word.try_into().map(u64::from_ne_bytes).unwrap_or(0);
            word.copy_from_slice(&was.wrapping_add(moved).to_ne_bytes());
        }
        syscall::put(fd, to, &value).map_err(failed)?;
        syscall::put(fd, from, &vec![0; value.len()]).map_err(failed)
    }

    fn per_cpu<const N: usize>(&self, name: &'static str, at: u32) -> Result<[u64; N], Error> {
        let mut value = vec![0u8; self.cpus * N * 8];
        let read = syscall::look_up(self.fd(name)?, at, &mut value);
        read.map_err(|error| broken(name, "reading", error))?;
        Ok(sum(&value))
    }

    /// Tallies that are not zero, by id, over all CPUs.
    pub fn tallies(&self, name: &'static str) -> Result<HashMap<u32, Tally>, Error> {
        let mut found = HashMap::new();
        syscall::read_sized(self.fd(name)?, 4, self.cpus * Tally::SIZE, |id, value| {
            let tally = Tally::from_words(sum(value));
            if let Ok(id) = id.try_into()
                && tally != Tally::default()
            {
                found.insert(u32::from_ne_bytes(id), tally);
            }
        })
        .map_err(|error| broken(name, "reading", error))?;
        Ok(found)
    }

    /// One of them.
    pub fn tally(&self, name: &'static str, id: u32) -> Result<Tally, Error> {
        Ok(Tally::from_words(self.per_cpu(name, id)?))
    }

    pub fn clear_tallies(&self, name: &'static str, ids: &[u32]) -> Result<(), Error> {
        let zero = vec![0; self.cpus * Tally::SIZE];
        for id in ids {
            let cleared = syscall::put(self.fd(name)?, *id, &zero);
            cleared.map_err(|error| broken(name, "clearing", error))?;
        }
        Ok(())
    }

    fn fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, Error> {
        Ok(self.handles.get(name).ok_or_else(|| missing(name))?.fd().as_fd())
    }
}

/// Values of N u64, one for each CPU.
fn sum<const N: usize>(value: &[u8]) -> [u64; N] {
    let mut sum = [0u64; N];
    for cpu in value.chunks_exact(N * 8) {
        for (sum, word) in sum.iter_mut().zip(cpu.chunks_exact(8)) {
            *sum = sum.wrapping_add(word.try_into().map(u64::from_ne_bytes).unwrap_or(0));
        }
    }
    sum
}

/// A trie's key is the length, in the machine's order, and the address.
fn key4(prefix: Prefix) -> Option<[u8; 8]> {
    let Prefix::V4(prefix) = prefix else { return None };
    let ([l0, l1, l2, l3], [a, b, c, d]) = (u32::from(prefix.len()).to_ne_bytes(), prefix.addr().octets());
    Some([l0, l1, l2, l3, a, b, c, d])
}

fn key6(prefix: Prefix) -> Option<[u8; 20]> {
    let Prefix::V6(prefix) = prefix else { return None };
    let mut key = [0; 20];
    let (length, address) = key.split_at_mut(4);
    length.copy_from_slice(&u32::from(prefix.len()).to_ne_bytes());
    address.copy_from_slice(&prefix.addr().octets());
    Some(key)
}

fn refusal(map: &'static str, error: io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::E2BIG) => Refusal::MapFull(map),
        _ => Refusal::Kernel(error.to_string()),
    }
}

pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        MapError::IoError(io_error) => io_error.raw_os_error(),
        MapError::KeyNotFound | MapError::ElementNotFound => Some(libc::ENOENT),
        _ => None,
    }
}

fn missing(map: &'static str) -> Error {
    Error::Load { reason: format!("there is no map {map}") }
}

fn broken(map: &'static str, action: &'static str, error: io::Error) -> Error {
    Error::Map { map, action, reason: error.to_string() }
}

fn failed(map: &'static str, action: &'static str, error: &MapError) -> Error {
    let reason = match errno(error) {
        Some(errno) => io::Error::from_raw_os_error(errno).to_string(),
        None => error.to_string(),
    };
    Error::Map { map, action, reason }
}
