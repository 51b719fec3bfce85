//! What became of links: a link that others detached (`bpftool link detach`) is still pinned and carries nothing, and
//! one that others updated runs another program. No event tells of either, so they are looked at.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::syscall;

/// A program of ours that is, or should be, on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// `pod_tc`, `uplink_tc`, `uplink_xdp`.
    pub program: &'static str,
    pub ifindex: u32,
    pub pin: PathBuf,
    /// The kernel's numbers; 0 where there is none.
    pub link_id: u32,
    pub program_id: u32,
    pub condition: Condition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Attached,
    /// The pin is gone, and the program with it.
    Unpinned,
    /// The link is pinned and on no interface.
    Detached,
    /// The link runs a program that is not ours.
    Replaced,
}

impl Condition {
    pub fn name(self) -> &'static str {
        match self {
            Condition::Attached => "attached",
            Condition::Unpinned => "unpinned",
            Condition::Detached => "detached",
            Condition::Replaced => "replaced",
        }
    }
}

/// What the kernel says of a pinned link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub link_id: u32,
    pub program_id: u32,
    /// 0 once it is detached.
    pub ifindex: u32,
}

/// The head of `struct bpf_link_info`: its union begins at offset 16, with the interface for XDP and for TCX.
#[repr(C)]
#[derive(Default)]
struct Info {
    kind: u32,
    id: u32,
    prog_id: u32,
    _hole: u32,
    ifindex: u32,
    attach_type: u32,
}

/// `None` if nothing is pinned there.
pub(super) fn look(pin: &Path) -> io::Result<Option<Seen>> {
    let link = match syscall::open(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut info = Info::default();
    // SAFETY: it is the head of the kernel's structure, of numbers, and has no pointers.
    unsafe { syscall::describe(link.as_fd(), &mut info) }?;
    Ok(Some(Seen { link_id: info.id, program_id: info.prog_id, ifindex: info.ifindex }))
}

/// `own`: the number of our program, if it is loaded.
pub(super) fn judge(seen: Option<Seen>, own: Option<u32>) -> Condition {
    match seen {
        None => Condition::Unpinned,
        Some(seen) if seen.ifindex == 0 => Condition::Detached,
        Some(seen) if own.is_some_and(|own| own != seen.program_id) => Condition::Replaced,
        Some(_) => Condition::Attached,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_judged_by_its_interface_and_its_program() {
        let seen = Seen { link_id: 1, program_id: 7, ifindex: 3 };
        assert_eq!(judge(None, Some(7)), Condition::Unpinned);
        assert_eq!(judge(Some(seen), Some(7)), Condition::Attached);
        assert_eq!(judge(Some(seen), Some(8)), Condition::Replaced);
        assert_eq!(judge(Some(Seen { ifindex: 0, ..seen }), Some(7)), Condition::Detached);
    }

    #[test]
    fn what_is_not_pinned_is_not_there() {
        assert_eq!(look(Path::new("/sys/fs/bpf/nothing-of-this-name")).unwrap(), None);
    }
}
