//! Where things are pinned, and whether what is pinned there may be adopted.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use aya::{
    maps::{MapData, MapError, MapType},
    sys::SyscallError,
};
use manx_abi::{
    ABI_VERSION, BUCKETS, Block6, Counts, Endpoint, Interface, NextHop, PACKED, PoolSet, Program, Room,
    Route, Settings, Tally, Vacancy, capacity, map, outside, pool::POOL_SETS,
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Error, Options, maps::Handles, syscall, take_off::Hold};

const MOUNT_POINT: &str = "/sys/fs/bpf";

#[derive(Clone, Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

/// What [`Pins::restore`] found, and put right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Pins that were gone.
    pub removed: Vec<PathBuf>,
    /// Pins in whose place something else was pinned.
    pub replaced: Vec<PathBuf>,
    /// The BPF filesystem was unmounted, and all of it is pinned in the one that is there now; the directory.
    pub moved: Option<PathBuf>,
}

enum Pinned {
    Ours,
    Nothing,
    Other,
}

/// A map as this agent would make it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layout {
    pub name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    pub entries: u32,
}

impl Pins {
    /// Makes the directories, and mounts a BPF filesystem where one belongs and none is.
    pub fn prepare(root: &Path) -> Result<Pins, Error> {
        let pins = Pins { root: root.to_owned() };
        let existing = root.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
        if !is_bpffs(existing) {
            if !root.starts_with(MOUNT_POINT) {
                return Err(no_bpffs(root, io::Error::other("another filesystem")));
            }
            mount().map_err(|source| no_bpffs(root, source))?;
            tracing::info!(
                "mounted a BPF filesystem at {MOUNT_POINT}, where none was; what is pinned there lasts as long as \
                 this process's mount namespace"
            );
        }
        pins.make_directories()?;
        Ok(pins)
    }

    fn make_directories(&self) -> Result<(), Error> {
        for dir in [self.maps(), self.links()] {
            fs::create_dir_all(&dir).map_err(|source| match source.kind() {
                io::ErrorKind::PermissionDenied => Error::NotPermitted { source },
                _ => Error::Pin { path: dir, source },
            })?;
        }
        Ok(())
    }

    /// Pins in the filesystem that is at the path now those links that are pinned in an earlier one, which was unmounted and
    /// lasts as long as `hold`. True if there were any.
    pub fn move_links(&self, hold: &Hold, links: &[(Program, u32)]) -> Result<bool, Error> {
        let mut any = false;
        for (program, ifindex) in links {
            let path = self.link(*program, *ifindex);
            let inside = path.strip_prefix(&self.root).unwrap_or(&path);
            // What is in no filesystem any more is attached anew.
            let Ok(link) = syscall::open_in(hold.directory(), inside) else { continue };
            match syscall::pin(link.as_fd(), &path) {
                Ok(()) => any = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Pin { path, source }),
            }
        }
        Ok(any)
    }

    /// The maps that are pinned now, for [`Self::restore`].
    pub fn handles(&self) -> Result<Handles, Error> {
        map::ALL
            .into_iter()
            .map(|name| {
                let handle = MapData::from_pin(self.map(name)).map_err(|error| Error::Map {
                    map: name,
                    action: "opening its pin",
                    reason: error.to_string(),
                })?;
                Ok((name, handle))
            })
            .collect()
    }

    /// Pins again what somebody has unpinned, also where something else was pinned in its place, and says what it was.
    pub fn restore(&self, handles: &Handles) -> Result<Restored, Error> {
        let mut restored = Restored::default();
        let mut lost = Vec::new();
        for (name, handle) in handles {
            let path = self.map(name);
            match self.pinned(name, handle)? {
                Pinned::Ours => continue,
                Pinned::Nothing => restored.removed.push(path),
                Pinned::Other => {
                    remove_pin(&path)?;
                    restored.replaced.push(path);
                }
            }
            lost.push((name, handle));
        }
        if lost.is_empty() && self.links().exists() {
            return Ok(restored);
        }
        self.make_directories()?;
        for (name, handle) in lost {
            handle.pin(self.map(name)).map_err(|error| Error::Map {
                map: name,
                action: "pinning it again",
                reason: error.to_string(),
            })?;
        }
        Ok(restored)
    }

    /// What stands where this map is pinned.
    fn pinned(&self, name: &'static str, handle: &MapData) -> Result<Pinned, Error> {
        let failed = |error: MapError| Error::Map {
            map: name,
            action: "looking at its pin",
            reason: error.to_string(),
        };
        let ours = handle.info().map_err(failed)?.id();
        let error = match MapData::from_pin(self.map(name)).and_then(|found| found.info()) {
            Ok(found) if found.id() == ours => return Ok(Pinned::Ours),
            Ok(_) => return Ok(Pinned::Other),
            Err(error) => error,
        };
        let number = match &error {
            MapError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
            _ => None,
        };
        match number {
            Some(libc::ENOENT) => Ok(Pinned::Nothing),
            // That says nothing about the pin.
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Err(failed(error)),
            // Something that is no map.
            _ => Ok(Pinned::Other),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn maps(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where a program is pinned for the moment in which it changes hands.
    pub fn loading(&self) -> PathBuf {
        self.maps().join("loading")
    }

    pub fn link(&self, program: Program, ifindex: u32) -> PathBuf {
        // A BPF filesystem takes no names with a dot.
        self.links().join(format!("{}-{ifindex}", program.name()))
    }

    /// Links that an earlier run left, by interface index.
    pub fn found_links(&self) -> Result<Vec<(Program, u32)>, Error> {
        let dir = self.links();
        let entries = fs::read_dir(&dir).map_err(|source| Error::Pin { path: dir, source })?;
        let mut found: Vec<_> =
            entries.flatten().filter_map(|entry| link_of(entry.file_name().to_str()?)).collect();
        found.sort_unstable();
        Ok(found)
    }

    /// What differs between the maps that are pinned and those that this agent would make. Empty if all are there
    /// and alike; `None` if none is there.
    pub fn differences(&self, layouts: &[Layout]) -> Result<Option<Vec<String>>, Error> {
        let (mut differences, mut present) = (Vec::new(), 0);
        for layout in layouts {
            match found_layout(&self.map(layout.name), layout.name)? {
                None => differences.push(format!("{} is missing", layout.name)),
                Some(found) => {
                    present += 1;
                    if found != *layout {
                        differences.push(format!("{found} instead of {layout}"));
                    }
                }
            }
        }
        Ok((present > 0).then_some(differences))
    }

    /// Programs that run keep what they use of these maps.
    pub fn unpin_maps(&self) -> Result<(), Error> {
        for name in map::ALL {
            remove_pin(&self.map(name))?;
        }
        Ok(())
    }

    /// ABIs before this one of which maps are pinned, and what else is pinned beside them: of a newer agent, or of
    /// nobody that we know.
    pub fn others(&self) -> Result<(Vec<u32>, Vec<PathBuf>), Error> {
        let failed = |source| Error::Pin { path: self.root.clone(), source };
        let (mut older, mut unknown) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path == self.maps() || path == self.links() {
                continue;
            }
            let version = path.file_name().and_then(|name| name.to_str()?.strip_prefix('v')?.parse().ok());
            match version {
                Some(version) if version < ABI_VERSION => older.push(version),
                _ => unknown.push(path),
            }
        }
        older.sort_unstable();
        unknown.sort_unstable();
        Ok((older, unknown))
    }

    /// Maps of older ABIs, which no program of ours uses any more. Those of newer ones stay.
    pub fn remove_older(&self) -> Result<Vec<u32>, Error> {
        let (older, _) = self.others()?;
        for version in &older {
            remove_tree(&self.root.join(format!("v{version}")), &remove_pin)?;
        }
        Ok(older)
    }
}

pub(super) fn layouts(options: &Options) -> [Layout; map::ALL.len()] {
    let layout = |name, kind, key, value: usize, entries: usize| Layout {
        name,
        kind,
        key,
        value: value as u32,
        entries: entries as u32,
    };
    let (words, packed) = (capacity::packed(options.sizes.words as usize), PACKED * 4);
    let interfaces = options.sizes.interfaces as usize;
    // The key of a trie is its prefix length and the address.
    [
        layout(map::ROUTES4, MapType::LpmTrie, 8, Route::SIZE, options.sizes.routes4 as usize),
        layout(map::ROUTES6, MapType::LpmTrie, 20, Route::SIZE, options.sizes.routes6 as usize),
        layout(map::WORDS, MapType::Array, 4, packed, words),
        layout(map::COUNTER_IDS, MapType::Array, 4, packed, words),
        layout(map::BLOCKS6, MapType::Array, 4, Block6::SIZE, options.sizes.block6_slots()),
        layout(map::POOLS, MapType::Array, 4, PoolSet::SIZE, POOL_SETS),
        layout(map::GROUPS, MapType::Array, 4, packed, capacity::packed(capacity::GROUPS)),
        layout(map::BUCKETS, MapType::Array, 4, BUCKETS * 4, capacity::BUCKET_SETS),
        layout(map::NEXTHOPS, MapType::Array, 4, NextHop::SIZE, capacity::NEXTHOPS),
        layout(map::ENDPOINTS, MapType::Array, 4, Endpoint::SIZE, capacity::ENDPOINTS),
        layout(map::INTERFACES, MapType::Array, 4, Interface::SIZE, interfaces),
        layout(map::SETTINGS, MapType::Array, 4, Settings::SIZE, 1),
        layout(map::COUNTERS, MapType::PerCpuArray, 4, size_of::<Counts>(), capacity::counters(interfaces)),
        layout(map::PREFIX_COUNTS, MapType::PerCpuArray, 4, Tally::SIZE, options.sizes.counters as usize),
        layout(map::HOP_COUNTS, MapType::PerCpuArray, 4, Tally::SIZE, capacity::NEXTHOPS),
        layout(map::VACANCIES, MapType::PerCpuArray, 4, Vacancy::SIZE, capacity::VACANCIES),
        layout(map::ROOMS, MapType::PerCpuArray, 4, Room::SIZE, capacity::ROOMS),
        layout(map::OUTSIDE, MapType::Array, 4, packed, capacity::packed(outside::WORDS)),
    ]
}

impl std::fmt::Display for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Layout { name, kind, key, value, entries } = self;
        write!(f, "{name} ({kind:?}, key {key}, value {value}, {entries} entries)")
    }
}

fn found_layout(path: &Path, name: &'static str) -> Result<Option<Layout>, Error> {
    let failed =
        |error: MapError| Error::Map { map: name, action: "reading its layout", reason: error.to_string() };
    let found = match MapData::from_pin(path) {
        Ok(found) => found.info().map_err(failed)?,
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    Ok(Some(Layout {
        name,
        kind: found.map_type().map_err(failed)?,
        key: found.key_size(),
        value: found.value_size(),
        entries: found.max_entries(),
    }))
}

pub(super) fn link_of(name: &str) -> Option<(Program, u32)> {
    let (program, ifindex) = name.rsplit_once('-')?;
    let program = Program::ALL.into_iter().find(|known| known.name() == program)?;
    Some((program, ifindex.parse().ok()?))
}

/// Takes the program off its interface and removes the pin. True if it was there.
pub(super) fn remove_link(path: &Path) -> Result<bool, Error> {
    match syscall::detach(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        // The link of an interface that is gone has nothing to detach; the pin goes either way.
        Ok(()) | Err(_) => {}
    }
    remove_pin(path)
}

pub(super) fn remove_pin(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Pin { path: path.to_owned(), source }),
    }
}

pub(super) fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

fn mount() -> io::Result<()> {
    let flags = nix::mount::MsFlags::empty();
    Ok(nix::mount::mount(Some("bpf"), MOUNT_POINT, Some("bpf"), flags, Some("mode=0700"))?)
}

fn no_bpffs(path: &Path, source: io::Error) -> Error {
    Error::NoBpfFs { path: path.to_owned(), source }
}

/// Removes every pin of any version under `bpf_dir`, and the directory. Programs are detached by that, and the maps
/// go with them. Returns how many pins there were; 0 if the directory does not exist.
pub fn cleanup(bpf_dir: &Path) -> Result<usize, Error> {
    if !bpf_dir.exists() {
        return Ok(0);
    }
    if !is_bpffs(bpf_dir) {
        return Err(no_bpffs(bpf_dir, io::Error::other("nothing is removed from another filesystem")));
    }
    // Links first, so that no program runs on maps that are half gone.
    Ok(remove_tree(&bpf_dir.join("links"), &remove_link)? + remove_tree(bpf_dir, &remove_pin)?)
}

fn remove_tree(dir: &Path, remove: &dyn Fn(&Path) -> Result<bool, Error>) -> Result<usize, Error> {
    let failed = |source| Error::Pin { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(failed)?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            removed += remove_tree(&entry.path(), remove)?;
        } else {
            removed += usize::from(remove(&entry.path())?);
        }
    }
    fs::remove_dir(dir).map_err(failed)?;
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_the_pins_where_they_are() {
        let readme = include_str!("../../../../README.md");
        let versions: Vec<&str> = readme
            .split("/sys/fs/bpf/manx/v")
            .skip(1)
            .map(|rest| rest.split('/').next().unwrap_or_default())
            .collect();
        assert!(!versions.is_empty());
        assert!(versions.iter().all(|version| *version == ABI_VERSION.to_string()), "{versions:?}");
    }

    #[test]
    fn a_links_name_is_read_back() {
        let pins = Pins { root: "/x".into() };
        for program in Program::ALL {
            let path = pins.link(program, 4_000_000_000);
            let name = path.file_name().and_then(|name| name.to_str());
            assert_eq!(name.and_then(link_of), Some((program, 4_000_000_000)));
        }
        for foreign in ["", "pod_tc", "pod_tc-", "pod_tc-x", "other-1", "pod_tc--1"] {
            assert_eq!(link_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn every_map_has_a_layout() {
        let names = layouts(&Options::default()).map(|layout| layout.name);
        assert_eq!(names, map::ALL);
    }

    #[test]
    fn nothing_is_removed_where_no_bpffs_is() {
        let dir = std::env::temp_dir();
        assert!(matches!(cleanup(&dir), Err(Error::NoBpfFs { .. })));
        assert_eq!(cleanup(Path::new("/nonexistent/manx")).unwrap(), 0);
    }
}
