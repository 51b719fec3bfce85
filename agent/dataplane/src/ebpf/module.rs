//! The types of a kernel module that is loaded: as bytes, and as the descriptor by which a program that calls one of
//! the module's functions names it. `/sys/kernel/btf` has the bytes alone, and a module may come again between two looks.

use std::{
    io,
    os::fd::{AsFd, FromRawFd, OwnedFd, RawFd},
};

use super::syscall::{bpf, describe};

/// `enum bpf_cmd` of `<linux/bpf.h>`.
const BPF_BTF_GET_FD_BY_ID: libc::c_int = 19;
const BPF_BTF_GET_NEXT_ID: libc::c_int = 23;

/// Longer no module's name is (MODULE_NAME_LEN).
const NAME: usize = 64;
/// Octets of types that a module may have; the largest have a few hundred thousand.
const MOST: u32 = 64 << 20;

/// The members of `union bpf_attr` for commands that go by an id; unused ones are zero.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// `struct bpf_btf_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    btf: u64,
    btf_size: u32,
    id: u32,
    name: u64,
    name_len: u32,
    kernel_btf: u32,
}

#[derive(Debug)]
pub(super) struct Module {
    pub types: Vec<u8>,
    /// While a program is loaded that was given this, the module stays.
    pub fd: OwnedFd,
}

impl Module {
    /// `None` if no such module is loaded, or it came without types. The kernel lets only CAP_SYS_ADMIN look.
    pub fn find(name: &str) -> io::Result<Option<Module>> {
        let mut last = 0;
        while let Some(id) = next(last)? {
            last = id;
            let fd = match open(id) {
                Ok(fd) => fd,
                // It went since.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                Err(error) => return Err(error),
            };
            let mut found = [0u8; NAME];
            let info = look(&fd, &mut [], &mut found)?;
            let end = found.iter().position(|octet| *octet == 0).unwrap_or(NAME);
            if info.kernel_btf == 0 || found.get(..end) != Some(name.as_bytes()) || info.btf_size > MOST {
                continue;
            }
            let mut types = vec![0; info.btf_size as usize];
            look(&fd, &mut types, &mut found)?;
            return Ok(Some(Module { types, fd }));
        }
        Ok(None)
    }
}

/// The next id that is in use.
fn next(after: u32) -> io::Result<Option<u32>> {
    let mut ids = ById { id: after, ..ById::default() };
    // SAFETY: no pointers.
    match unsafe { bpf(BPF_BTF_GET_NEXT_ID, &mut ids) } {
        Ok(_) => Ok(Some(ids.next_id)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { bpf(BPF_BTF_GET_FD_BY_ID, &mut ById { id, ..ById::default() }) }?;
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Types and name, as far as there is room for them.
fn look(fd: &OwnedFd, types: &mut [u8], name: &mut [u8; NAME]) -> io::Result<Info> {
    let mut info = Info {
        btf: types.as_mut_ptr() as u64,
        btf_size: types.len() as u32,
        name: name.as_mut_ptr() as u64,
        name_len: NAME as u32,
        ..Info::default()
    };
    // SAFETY: it is the kernel's structure, and the two buffers that it names with their lengths are ours and outlive the
    // call.
    unsafe { describe(fd.as_fd(), &mut info) }?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_loaded_is_not_found_and_the_kernel_itself_is() {
        assert!(Module::find("no_module_of_this_name").unwrap().is_none());
        // Listed beside the modules under this name; what /sys has of it is what the descriptor gives.
        let kernel = Module::find("vmlinux").unwrap().unwrap();
        assert!(kernel.types == std::fs::read("/sys/kernel/btf/vmlinux").unwrap());
    }
}
