//! What became of links: a link that others detached (`bpftool link detach`) is still pinned and carries nothing, and
//! one that others updated runs another program. No event tells of either, so they are looked at.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// `enum bpf_cmd` of `<linux/bpf.h>`.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

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

/// The members of `union bpf_attr` for `BPF_OBJ_GET`; unused ones are zero.
#[repr(C)]
#[derive(Default)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The same for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct InfoByFd {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `None` if nothing is pinned there.
pub(super) fn look(pin: &Path) -> io::Result<Option<Seen>> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let get = ObjectGet { pathname: path.as_ptr() as u64, ..ObjectGet::default() };
    // SAFETY: the kernel reads the attributes' octets, all of which `get` has, and the path that they name, which
    // outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const get, size_of::<ObjectGet>()) };
    if fd < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    }
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let mut info = Info::default();
    let attributes = InfoByFd {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<Info>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: the kernel writes at most `info_len` octets to `info`, which has so many and outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attributes, size_of::<InfoByFd>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
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
