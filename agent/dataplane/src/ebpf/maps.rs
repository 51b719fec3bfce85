//! The kernel's maps as this agent holds them open: values in and out as bytes of `manx-abi`.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key},
    sys::SyscallError,
};
use manx_abi::{Counts, Endpoint, NextHop, Program, Route, Settings, VERDICTS, capacity, map};
use manx_net::{Prefix, Prefix4, Prefix6};

use super::{Counters, Error, Refusal};

/// A value of `NEXTHOPS` or `ENDPOINTS` as it stands in the slot.
pub(super) type NextHopSlot = [u8; NextHop::SIZE];
pub(super) type EndpointSlot = [u8; Endpoint::SIZE];

pub(super) struct Maps {
    routes4: LpmTrie<MapData, [u8; 4], [u8; Route::SIZE]>,
    routes6: LpmTrie<MapData, [u8; 16], [u8; Route::SIZE]>,
    next_hops: Array<MapData, NextHopSlot>,
    endpoints: Array<MapData, EndpointSlot>,
    uplinks: HashMap<MapData, u32, [u8; 6]>,
    settings: Array<MapData, [u8; Settings::SIZE]>,
    counters: PerCpuArray<MapData, [u64; VERDICTS.len()]>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

impl Maps {
    pub fn take(ebpf: &mut Ebpf) -> Result<Maps, Error> {
        Ok(Maps {
            routes4: take(ebpf, map::ROUTES4)?,
            routes6: take(ebpf, map::ROUTES6)?,
            next_hops: take(ebpf, map::NEXTHOPS)?,
            endpoints: take(ebpf, map::ENDPOINTS)?,
            uplinks: take(ebpf, map::UPLINKS)?,
            settings: take(ebpf, map::SETTINGS)?,
            counters: take(ebpf, map::COUNTERS)?,
        })
    }

    /// The same maps once more, from other descriptors of theirs.
    pub fn duplicate(handles: &[(&'static str, MapData)]) -> Result<Maps, Error> {
        let open = |name| -> Result<MapData, Error> {
            let handle = handles.iter().find(|(of, _)| *of == name).map(|(_, handle)| handle);
            let handle = handle.ok_or_else(|| Error::Load { reason: format!("there is no map {name}") })?;
            let fd = handle.fd().as_fd().try_clone_to_owned();
            let opened = fd.map_err(MapError::IoError).and_then(MapData::from_fd);
            opened.map_err(|error| failed(name, "opening it once more", &error))
        };
        Ok(Maps {
            routes4: typed(map::ROUTES4, Map::LpmTrie(open(map::ROUTES4)?))?,
            routes6: typed(map::ROUTES6, Map::LpmTrie(open(map::ROUTES6)?))?,
            next_hops: typed(map::NEXTHOPS, Map::Array(open(map::NEXTHOPS)?))?,
            endpoints: typed(map::ENDPOINTS, Map::Array(open(map::ENDPOINTS)?))?,
            uplinks: typed(map::UPLINKS, Map::HashMap(open(map::UPLINKS)?))?,
            settings: typed(map::SETTINGS, Map::Array(open(map::SETTINGS)?))?,
            counters: typed(map::COUNTERS, Map::PerCpuArray(open(map::COUNTERS)?))?,
        })
    }

    pub fn write_route(&mut self, prefix: Prefix, route: Route) -> Result<(), Refusal> {
        let (length, value) = (u32::from(prefix.len()), route.to_bytes());
        let written = match prefix {
            Prefix::V4(prefix) => self.routes4.insert(&Key::new(length, prefix.addr().octets()), value, 0),
            Prefix::V6(prefix) => self.routes6.insert(&Key::new(length, prefix.addr().octets()), value, 0),
        };
        written.map_err(|error| match errno(&error) {
            Some(libc::ENOSPC | libc::E2BIG) => Refusal::MapFull,
            _ => Refusal::Kernel(error.to_string()),
        })
    }

    /// What is not there is as good as removed.
    pub fn remove_route(&mut self, prefix: Prefix) -> Result<(), Error> {
        let length = u32::from(prefix.len());
        let (map, removed) = match prefix {
            Prefix::V4(prefix) => {
                (map::ROUTES4, self.routes4.remove(&Key::new(length, prefix.addr().octets())))
            }
            Prefix::V6(prefix) => {
                (map::ROUTES6, self.routes6.remove(&Key::new(length, prefix.addr().octets())))
            }
        };
        match removed {
            Err(error) if errno(&error) != Some(libc::ENOENT) => {
                Err(failed(map, "removing an entry", &error))
            }
            _ => Ok(()),
        }
    }

    /// Everything in the route maps, as far as this ABI understands it.
    pub fn routes(&self) -> Result<BTreeMap<Prefix, Route>, Error> {
        let mut found = BTreeMap::new();
        for entry in self.routes4.iter() {
            let (key, value) = entry.map_err(|error| failed(map::ROUTES4, "reading", &error))?;
            let prefix = Prefix4::new(Ipv4Addr::from(key.data()), key.prefix_len() as u8);
            if let (Some(prefix), Ok(route)) = (prefix, Route::from_bytes(value)) {
                found.insert(prefix.into(), route);
            }
        }
        for entry in self.routes6.iter() {
            let (key, value) = entry.map_err(|error| failed(map::ROUTES6, "reading", &error))?;
            let prefix = Prefix6::new(Ipv6Addr::from(key.data()), key.prefix_len() as u8);
            if let (Some(prefix), Ok(route)) = (prefix, Route::from_bytes(value)) {
                found.insert(prefix.into(), route);
            }
        }
        Ok(found)
    }

    pub fn write_next_hop(&mut self, id: u32, slot: NextHopSlot) -> Result<(), Refusal> {
        self.next_hops.set(id, slot, 0).map_err(|error| Refusal::Kernel(error.to_string()))
    }

    pub fn write_endpoint(&mut self, id: u32, slot: EndpointSlot) -> Result<(), Refusal> {
        self.endpoints.set(id, slot, 0).map_err(|error| Refusal::Kernel(error.to_string()))
    }

    /// Slots that have been written, by id.
    pub fn next_hops(&self) -> Result<BTreeMap<u32, NextHopSlot>, Error> {
        slots(&self.next_hops, capacity::NEXTHOPS).map_err(|error| failed(map::NEXTHOPS, "reading", &error))
    }

    pub fn endpoints(&self) -> Result<BTreeMap<u32, EndpointSlot>, Error> {
        slots(&self.endpoints, capacity::ENDPOINTS).map_err(|error| failed(map::ENDPOINTS, "reading", &error))
    }

    pub fn write_uplink(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<(), Error> {
        self.uplinks.insert(ifindex, mac, 0).map_err(|error| failed(map::UPLINKS, "writing", &error))
    }

    pub fn remove_uplink(&mut self, ifindex: u32) -> Result<(), Error> {
        match self.uplinks.remove(&ifindex) {
            Err(error) if errno(&error) != Some(libc::ENOENT) => {
                Err(failed(map::UPLINKS, "removing an entry", &error))
            }
            _ => Ok(()),
        }
    }

    pub fn settings(&self) -> Result<Settings, Error> {
        let value = self.settings.get(&0, 0).map_err(|error| failed(map::SETTINGS, "reading", &error))?;
        Ok(Settings::from_bytes(value))
    }

    pub fn write_settings(&mut self, settings: Settings) -> Result<(), Error> {
        let written = self.settings.set(0, settings.to_bytes(), 0);
        written.map_err(|error| failed(map::SETTINGS, "writing", &error))
    }

    pub fn counters(&self) -> Result<Counters, Error> {
        Ok(Counters {
            pod_tc: self.counts(Program::PodTc)?,
            uplink_tc: self.counts(Program::UplinkTc)?,
            uplink_xdp: self.counts(Program::UplinkXdp)?,
        })
    }

    fn counts(&self, program: Program) -> Result<Counts, Error> {
        let cpus = self.counters.get(&(program as u32), 0);
        let cpus = cpus.map_err(|error| failed(map::COUNTERS, "reading", &error))?;
        let mut sum = [0u64; VERDICTS.len()];
        for cpu in cpus.iter() {
            for (sum, packets) in sum.iter_mut().zip(cpu) {
                *sum = sum.wrapping_add(*packets);
            }
        }
        Ok(Counts::from_words(sum))
    }
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| Error::Load { reason: format!("it has no map {name}") })?;
    typed(name, map)
}

fn typed<M>(name: &'static str, map: Map) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    M::try_from(map).map_err(|error| failed(name, "opening", &error))
}

/// All but those that were never written: no content of ours is all zero.
fn slots<const N: usize>(
    array: &Array<MapData, [u8; N]>,
    capacity: usize,
) -> Result<BTreeMap<u32, [u8; N]>, MapError>
where
    [u8; N]: Pod,
{
    let mut found = BTreeMap::new();
    for id in 0..capacity as u32 {
        let slot = array.get(&id, 0)?;
        if slot != [0; N] {
            found.insert(id, slot);
        }
    }
    Ok(found)
}

pub(super) fn errno(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        MapError::IoError(io_error) => io_error.raw_os_error(),
        MapError::KeyNotFound | MapError::ElementNotFound => Some(libc::ENOENT),
        _ => None,
    }
}

fn failed(map: &'static str, action: &'static str, error: &MapError) -> Error {
    let reason = match errno(error) {
        Some(errno) => io::Error::from_raw_os_error(errno).to_string(),
        None => error.to_string(),
    };
    Error::Map { map, action, reason }
}
