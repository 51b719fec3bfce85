//! Who removes what is pinned, and when: fanotify(7) on the directories of pins. It tells the process too, which inotify
//! does not. Where the kernel does not allow it on a BPF filesystem, missing pins are found by looking.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::kernel::Author;

/// Octets of events that are read at a time.
const ROOM: usize = 16 * 1024;
/// `struct fanotify_event_metadata` of `<linux/fanotify.h>`.
const METADATA: usize = 24;
/// `struct fanotify_event_info_fid` up to its handle: header, filesystem, then the handle's length and type.
const BEFORE_HANDLE: usize = 4 + 8 + 8;

/// A pin, or a directory of pins, that somebody removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// The last part of its path.
    pub name: String,
    /// `None` if the kernel does not tell: the process is of another process namespace.
    pub by: Option<Author>,
}

#[derive(Debug)]
pub struct PinWatch {
    group: AsyncFd<OwnedFd>,
    root: PathBuf,
}

impl PinWatch {
    /// Watches the pins below `bpf_dir`, which [`super::EbpfSink::open`] has made. Must be called inside a tokio runtime
    /// with I/O enabled.
    pub fn open(bpf_dir: &Path) -> io::Result<PinWatch> {
        let flags =
            libc::FAN_CLASS_NOTIF | libc::FAN_REPORT_DFID_NAME | libc::FAN_NONBLOCK | libc::FAN_CLOEXEC;
        // SAFETY: the call takes numbers only.
        let group = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as libc::c_uint) };
        if group < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
        let group = unsafe { OwnedFd::from_raw_fd(group) };
        // SAFETY: the group owns its descriptor, gives the same one every time, and closes it only when dropped.
        let group = unsafe { AsyncFd::register_with_interest(group, Interest::READABLE) }?;
        let watch = PinWatch { group, root: bpf_dir.to_owned() };
        watch.mark_all()?;
        Ok(watch)
    }

    /// A directory that was removed and made again is another one to the kernel. Those that are watched already stay so.
    pub fn mark_all(&self) -> io::Result<()> {
        self.mark(&self.root)?;
        for entry in fs::read_dir(&self.root)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.mark(&entry.path())?;
            }
        }
        Ok(())
    }

    fn mark(&self, dir: &Path) -> io::Result<()> {
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
        let group = self.group.get_ref().as_raw_fd();
        let what = libc::FAN_DELETE | libc::FAN_MOVED_FROM | libc::FAN_ONDIR;
        let how = libc::FAN_MARK_ADD | libc::FAN_MARK_ONLYDIR;
        // SAFETY: the kernel reads the path, which ends in a zero octet and outlives the call.
        let marked = unsafe { libc::fanotify_mark(group, how, what, libc::AT_FDCWD, path.as_ptr()) };
        if marked < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for somebody else to remove something. Cancel-safe.
    pub async fn removed(&self) -> io::Result<Vec<Removal>> {
        loop {
            let mut ready = self.group.readable().await?;
            let mut buffer = [0; ROOM];
            let read = ready.try_io(|group| Ok(nix::unistd::read(group.get_ref(), &mut buffer)?));
            let Ok(length) = read else { continue };
            let removals = removals(buffer.get(..length?).unwrap_or_default(), std::process::id());
            if !removals.is_empty() {
                return Ok(removals);
            }
        }
    }
}

/// What the events tell, but for what process `own` did.
fn removals(mut events: &[u8], own: u32) -> Vec<Removal> {
    let mut found: Vec<Removal> = Vec::new();
    let mut last: Option<(u32, Author)> = None;
    while let Some(length) = number(events, 0) {
        let length = length as usize;
        let Some((event, rest)) = events.split_at_checked(length).filter(|_| length >= METADATA) else {
            break;
        };
        events = rest;
        let (Some(pid), Some(name)) = (number(event, 20), name(event)) else { continue };
        if pid == own {
            continue;
        }
        if pid != 0 && last.as_ref().is_none_or(|(known, _)| *known != pid) {
            last = Some((pid, Author::of_process(pid)));
        }
        let by = last.as_ref().filter(|_| pid != 0).map(|(_, author)| author.clone());
        found.push(Removal { name, by });
    }
    found
}

/// The name in the record that follows an event's metadata.
fn name(event: &[u8]) -> Option<String> {
    let record = event.get(METADATA..)?;
    let named = *record.first()? == libc::FAN_EVENT_INFO_TYPE_DFID_NAME;
    let handle = number(record, 12)? as usize;
    let name = record.get(BEFORE_HANDLE.checked_add(handle)?..)?;
    let end = name.iter().position(|octet| *octet == 0)?;
    named.then(|| String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned())
}

fn number(octets: &[u8], at: usize) -> Option<u32> {
    octets.get(at..)?.first_chunk().map(|number| u32::from_ne_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kernel 6.18 wrote it for `rm m1` on a BPF filesystem.
    fn event(pid: u32, name: &str) -> Vec<u8> {
        let mut record = vec![libc::FAN_EVENT_INFO_TYPE_DFID_NAME, 0, 0x24, 0];
        record.extend([0x63, 0, 0, 0, 0, 0, 0, 0]);
        record.extend([12, 0, 0, 0, 0x81, 0, 0, 0]);
        record.extend([0x12, 0x48, 0xa3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        record.extend(name.bytes().chain([0, 0]));
        let length = (METADATA + record.len()) as u32;
        let mut event = length.to_ne_bytes().to_vec();
        event.extend([3, 0, 24, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        event.extend(pid.to_ne_bytes());
        event.extend(record);
        event
    }

    #[test]
    fn events_tell_the_name_and_the_process_and_our_own_are_left_out() {
        let mut events = event(0x7fff_fff0, "pod_tc-3");
        events.extend(event(7, "ROUTES4"));
        events.extend(event(0, "links"));
        let found = removals(&events, 7);
        let told: Vec<_> = found.iter().map(|r| (r.name.as_str(), r.by.is_some())).collect();
        assert_eq!(told, [("pod_tc-3", true), ("links", false)]);
    }

    #[test]
    fn what_is_cut_short_ends_the_events_without_harm() {
        let events = event(9, "pod_tc-3");
        for length in 0..events.len() {
            assert!(removals(&events[..length], 7).is_empty(), "{length}");
        }
        assert!(removals(&[0; 64], 7).is_empty());
    }
}
