//! The calls of `bpf(2)` that aya has not: whole batches of map entries, arrays as memory, and a link detached at
//! once (removing its pin does that too, but only when the kernel comes round to it, an RCU grace period and a work
//! queue later).

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// `enum bpf_cmd` of `<linux/bpf.h>`.
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;
const BPF_MAP_DELETE_BATCH: libc::c_int = 27;
const BPF_LINK_DETACH: libc::c_int = 34;

/// `path_fd` is the directory from which the path leads on. Since Linux 6.5.
const BPF_F_PATH_FD: u32 = 1 << 14;

/// Entries of one call. The kernel copies one after the other, but gives way to others only between calls.
const BATCH: usize = 4096;

/// The members of `union bpf_attr` for `BPF_OBJ_PIN` and `BPF_OBJ_GET`; unused ones are zero.
#[repr(C)]
#[derive(Default)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
    path_fd: i32,
    _hole: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The same for `BPF_LINK_DETACH`.
#[repr(C)]
#[derive(Default)]
struct LinkDetach {
    link_fd: u32,
}

/// The same for `BPF_MAP_*_ELEM`.
#[repr(C)]
#[derive(Default)]
struct Element {
    map_fd: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The same for `BPF_MAP_*_BATCH`.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Opens what is pinned at `path`.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    open_with(path, ObjectGet::default())
}

/// The same with a path from this directory on, whether or not that can be reached by a path itself.
pub(super) fn open_in(directory: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    open_with(
        path,
        ObjectGet { file_flags: BPF_F_PATH_FD, path_fd: directory.as_raw_fd(), ..ObjectGet::default() },
    )
}

fn open_with(path: &Path, mut get: ObjectGet) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    get.pathname = path.as_ptr() as u64;
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { bpf(BPF_OBJ_GET, &mut get) }?;
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What the kernel tells of an object of its own, as far as there is room.
///
/// # Safety
/// `I` is the head of the kernel's structure for such objects, in which any bits are a value, and what it points to has
/// the lengths that it says.
pub(super) unsafe fn describe<I>(object: BorrowedFd<'_>, info: &mut I) -> io::Result<()> {
    let mut attributes = InfoByFd {
        bpf_fd: object.as_raw_fd() as u32,
        info_len: size_of::<I>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` octets to `info`, which has so many and outlives the call; for what
    // it points to the caller answers.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }.map(drop)
}

/// Detaches the link that is pinned at `path`; the pin stays. What is no link (a map) is an error.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    let link = open(path)?;
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_DETACH, &mut LinkDetach { link_fd: link.as_raw_fd() as u32 }) }.map(drop)
}

/// Pins a program or a link, where nothing is pinned yet.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut pin = ObjectGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: object.as_raw_fd() as u32,
        ..ObjectGet::default()
    };
    // SAFETY: the path is a C string that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut pin) }.map(drop)
}

/// One element of an array, into `value`, which has the size that the kernel gives: of a per-CPU array a value for
/// each possible CPU, in multiples of 8.
pub(super) fn look_up(map: BorrowedFd<'_>, key: u32, value: &mut [u8]) -> io::Result<()> {
    let mut element = Element {
        map_fd: map.as_raw_fd() as u32,
        key: &raw const key as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: key and value live until the call has ended and have the map's sizes.
    unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut element) }.map(drop)
}

/// As [`look_up`], the other way.
pub(super) fn put(map: BorrowedFd<'_>, key: u32, value: &[u8]) -> io::Result<()> {
    let mut element = Element {
        map_fd: map.as_raw_fd() as u32,
        key: &raw const key as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    // SAFETY: as above.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut element) }.map(drop)
}

/// Writes entries in order, as far as it goes: the number of those that were written, and why not the next.
pub(super) fn update<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
    keys: &[[u8; K]],
    values: &[[u8; V]],
) -> (usize, Option<io::Error>) {
    let total = keys.len().min(values.len());
    let mut done = 0;
    #[expect(clippy::indexing_slicing, reason = "`total` is the length of the shorter")]
    for (keys, values) in keys[..total].chunks(BATCH).zip(values[..total].chunks(BATCH)) {
        let mut batch = Batch {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        // SAFETY: both arrays have `count` elements of the map's own key and value size, which its owner has
        // compared with the layout, and live until the call has ended.
        match unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut batch) } {
            Ok(_) => done += keys.len(),
            Err(error) => return (done + reached(&batch, keys.len()), Some(error)),
        }
    }
    (done, None)
}

/// Removes entries in order; those that are not there are as good as removed.
pub(super) fn delete<const K: usize>(map: BorrowedFd<'_>, keys: &[[u8; K]]) -> io::Result<()> {
    let mut rest = keys;
    while !rest.is_empty() {
        #[expect(clippy::indexing_slicing, reason = "cut at its own length")]
        let now = &rest[..rest.len().min(BATCH)];
        let mut batch = Batch {
            keys: now.as_ptr() as u64,
            count: now.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        // SAFETY: as in `update`.
        let done = match unsafe { bpf(BPF_MAP_DELETE_BATCH, &mut batch) } {
            Ok(_) => now.len(),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => reached(&batch, now.len()) + 1,
            Err(error) => return Err(error),
        };
        rest = rest.get(done..).unwrap_or_default();
    }
    Ok(())
}

/// As [`read_sized`].
pub(super) fn read<const K: usize, const V: usize>(
    map: BorrowedFd<'_>,
    mut each: impl FnMut([u8; K], [u8; V]),
) -> io::Result<()> {
    read_sized(map, K, V, |key, value| {
        if let (Ok(key), Ok(value)) = (key.try_into(), value.try_into()) {
            each(key, value);
        }
    })
}

/// All entries of a map that does not change meanwhile; of one that does, at least each entry that stays. Sizes in
/// octets; a per-CPU value is one for each possible CPU, in multiples of 8.
pub(super) fn read_sized(
    map: BorrowedFd<'_>,
    key: usize,
    value: usize,
    mut each: impl FnMut(&[u8], &[u8]),
) -> io::Result<()> {
    let count = (BATCH * 16 / value.max(16)).max(64);
    let (mut keys, mut values) = (vec![0u8; count * key], vec![0u8; count * value]);
    // A hash gives the number of a bucket here, all else a key.
    let (mut from, mut next) = ([0u8; 64], [0u8; 64]);
    let mut first = true;
    loop {
        let mut batch = Batch {
            in_batch: if first { 0 } else { from.as_ptr() as u64 },
            out_batch: next.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: count as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        // SAFETY: both arrays have room for `count` elements of the map's own sizes, and both marks for the longest
        // key that our maps have.
        let ended = match unsafe { bpf(BPF_MAP_LOOKUP_BATCH, &mut batch) } {
            Ok(_) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let found = (batch.count as usize).min(count);
        for (key, value) in keys.chunks_exact(key).zip(values.chunks_exact(value)).take(found) {
            each(key, value);
        }
        if ended {
            return Ok(());
        }
        (first, from) = (false, next);
    }
}

/// How many elements a batch got through before an error. One that was refused as a whole was not counted.
fn reached(batch: &Batch, asked: usize) -> usize {
    let count = batch.count as usize;
    if count < asked { count } else { 0 }
}

/// # Safety
/// What `attributes` points to has to be as the command wants it.
pub(super) unsafe fn bpf<A>(command: libc::c_int, attributes: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<A>()` octets, which `attributes` has, and takes the rest of the
    // union for zero; for what they point to the caller answers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut A, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A mmapable array as memory: u32 after u32, each read and stored as a whole.
#[derive(Debug)]
pub(super) struct Words {
    memory: NonNull<AtomicU32>,
    words: usize,
}

// SAFETY: the memory is the map's, valid in every thread until it is unmapped, and touched by atomics only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// `words` as the map has them; the kernel refuses more.
    pub fn map(map: BorrowedFd<'_>, words: usize) -> io::Result<Words> {
        let (length, access) = (bytes(words), libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at an address that the kernel chooses; it holds the map by itself.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        match NonNull::new(at.cast::<AtomicU32>()) {
            Some(memory) if at != libc::MAP_FAILED => Ok(Words { memory, words }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub fn len(&self) -> usize {
        self.words
    }

    /// `None` beyond the end.
    pub fn load(&self, at: usize) -> Option<u32> {
        self.word(at).map(|word| word.load(Ordering::Acquire))
    }

    /// What was stored before is seen by whoever sees this.
    pub fn store(&self, at: usize, value: u32) {
        if let Some(word) = self.word(at) {
            word.store(value, Ordering::Release);
        }
    }

    /// In u64s.
    pub fn wide_len(&self) -> usize {
        self.words / 2
    }

    /// The u64s of a map of which nothing is stored as u32. `None` beyond the end.
    pub fn load_wide(&self, at: usize) -> Option<u64> {
        self.wide(at).map(|word| word.load(Ordering::Acquire))
    }

    /// As [`Self::store`].
    pub fn store_wide(&self, at: usize, value: u64) {
        if let Some(word) = self.wide(at) {
            word.store(value, Ordering::Release);
        }
    }

    fn wide(&self, at: usize) -> Option<&AtomicU64> {
        // SAFETY: as in `word`; a page is aligned for an AtomicU64 too.
        (at < self.wide_len()).then(|| unsafe { self.memory.cast::<AtomicU64>().add(at).as_ref() })
    }

    fn word(&self, at: usize) -> Option<&AtomicU32> {
        // SAFETY: within the mapping, which is page-aligned and lives as long as `self`; any bits are an AtomicU32.
        (at < self.words).then(|| unsafe { self.memory.add(at).as_ref() })
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: our mapping, as long as it was made; nothing borrows it any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), bytes(self.words)) };
    }
}

/// The length of a mapping, which the kernel rounds up to pages.
fn bytes(words: usize) -> usize {
    words * size_of::<AtomicU32>()
}
