//! Programs of an earlier run where this one has no sink: they would go on carrying packets, by maps that nobody
//! keeps and past rules that nobody reads. Without them the kernel forwards by its own FIB, which has all routes.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    pins::{is_bpffs, link_of, remove_pin},
    syscall,
};

/// What [`take_off`] found.
#[derive(Debug, Default)]
pub struct TakenOff {
    /// Programs, and the interfaces from which they were taken.
    pub gone: Vec<(&'static str, u32)>,
    /// Pins of programs that may still run, and why they could not be taken off.
    pub left: Vec<(PathBuf, io::Error)>,
}

/// Held by a sink as long as it lives, so that nobody takes its programs off. Shared: a sink that takes over from
/// another one may be opened before the other is gone.
#[derive(Debug)]
pub(super) struct Hold(Flock<File>);

impl Hold {
    /// `None` where the filesystem has no locks; then nothing is protected, and all else goes on.
    pub fn take(bpf_dir: &Path) -> Option<Hold> {
        Flock::lock(File::open(bpf_dir).ok()?, FlockArg::LockSharedNonblock).ok().map(Hold)
    }

    /// What is at this path is not what is held: it was removed, or its filesystem unmounted.
    pub fn has_lost(&self, bpf_dir: &Path) -> bool {
        let number = |found: io::Result<fs::Metadata>| found.map(|found| (found.dev(), found.ino())).ok();
        number(self.0.metadata()) != number(fs::metadata(bpf_dir))
    }

    /// The directory that is held, wherever it is.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes the programs of an earlier run off all interfaces; their maps stay, for the next run. Does nothing where no
/// BPF filesystem is, and leaves alone what a sink of a living process has pinned there.
pub fn take_off(bpf_dir: &Path) -> TakenOff {
    let mut taken = TakenOff::default();
    let links = bpf_dir.join("links");
    let entries = match links.read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return taken,
        Err(error) => {
            taken.left.push((links, error));
            return taken;
        }
        Ok(_) if !is_bpffs(&links) => return taken,
        Ok(entries) => entries,
    };
    let found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| Some((entry.path(), link_of(entry.file_name().to_str()?)?)))
        .collect();
    let lock = File::open(bpf_dir)
        .and_then(|dir| Ok(Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?));
    if lock.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::EWOULDBLOCK as i32)) {
        let busy = || io::Error::other("another process keeps it");
        taken.left.extend(found.into_iter().map(|(pin, _)| (pin, busy())));
        return taken;
    }
    for (pin, (program, ifindex)) in found {
        match remove(&pin) {
            Ok(()) => taken.gone.push((program.name(), ifindex)),
            Err(error) => taken.left.push((pin, error)),
        }
    }
    taken.gone.sort_unstable();
    taken
}

/// A link that cannot be detached goes with its pin, a moment later, unless somebody holds it.
fn remove(pin: &Path) -> io::Result<()> {
    let detached = syscall::detach(pin);
    match remove_pin(pin) {
        Ok(_) => Ok(()),
        // The pin stays, and nothing runs by it.
        Err(_) if detached.is_ok() => Ok(()),
        Err(super::Error::Pin { source, .. }) => Err(source),
        Err(error) => Err(io::Error::other(error)),
    }
}
