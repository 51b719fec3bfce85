//! Taking a program off its interface at once. Removing a link's pin does it too, but only when the kernel comes
//! round to it (an RCU grace period and a work queue later), and aya has no call for `BPF_LINK_DETACH`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// `enum bpf_cmd` of `<linux/bpf.h>`.
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// The members of `union bpf_attr` for `BPF_OBJ_GET`; unused ones are zero.
#[repr(C)]
#[derive(Default)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The same for `BPF_LINK_DETACH`.
#[repr(C)]
#[derive(Default)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the link that is pinned at `path`; the pin stays. What is no link (a map) is an error.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjectGet { pathname: path.as_ptr() as u64, ..ObjectGet::default() };
    let fd = bpf(BPF_OBJ_GET, &get)?;
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    let link = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    bpf(BPF_LINK_DETACH, &LinkDetach { link_fd: link.as_raw_fd() as u32 }).map(drop)
}

fn bpf<A>(command: libc::c_int, attributes: &A) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads `size_of::<A>()` octets, which `attributes` has, and takes the rest of the union for
    // zero; a path that it names outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *const A, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
