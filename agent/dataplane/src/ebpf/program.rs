//! Brings the programs into the kernel: puts maps and globals into their code, and hands each to the verifier with the
//! descriptors of the modules whose functions it calls. aya, which does the rest, has no place for those.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya::maps::MapData;
use aya_obj::{EbpfSectionKind, Function, Object, ProgramSection};

use super::{
    Error,
    syscall::{self, bpf},
};

/// `enum bpf_cmd` of `<linux/bpf.h>`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_BTF_LOAD: libc::c_int = 18;
const BPF_MAP_FREEZE: libc::c_int = 22;

const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// What an XDP program is attached as; a classifier says nothing.
const BPF_XDP: u32 = 37;
/// It reads frames of several buffers, too.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// BPF_LOG_LEVEL1: what the verifier does not like. It keeps the end of what has no room.
const COMPLAINTS: u32 = 1;
const LOG: usize = 64 * 1024;

/// How often a program is handed to a verifier that is disturbed each time.
const ATTEMPTS: u32 = 5;

/// Where in `fd_array` a module stands: a call with offset 0 is to the kernel itself.
pub(super) const MODULE: i16 = 1;

/// The members of `union bpf_attr` for `BPF_PROG_LOAD`, up to those that we give; unused ones are zero.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_prog_fd: u32,
    core_relo_cnt: u32,
    fd_array: u64,
}

/// The same for `BPF_BTF_LOAD`.
#[repr(C)]
#[derive(Default)]
struct TypesLoad {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
}

/// The same for `BPF_MAP_FREEZE`.
#[repr(C)]
#[derive(Default)]
struct Freeze {
    map_fd: u32,
}

/// What is to be loaded.
pub(super) struct Code<'a> {
    pub object: &'a [u8],
    /// Read-only globals by name.
    pub globals: &'a [(&'static str, u32)],
    /// All maps that have names.
    pub maps: &'a [(&'a str, BorrowedFd<'a>)],
    /// The module whose functions are called with offset [`MODULE`].
    pub module: Option<BorrowedFd<'a>>,
}

impl Code<'_> {
    /// Ready for the verifier.
    pub fn prepare(&self) -> Result<Prepared, Error> {
        let mut object = Object::parse(self.object).map_err(unreadable)?;
        let globals: Vec<_> = self.globals.iter().map(|(name, value)| (*name, value.to_ne_bytes())).collect();
        let globals = globals.iter().map(|(name, value)| (*name, (value.as_slice(), true)));
        object.patch_map_data(globals.collect()).map_err(unreadable)?;
        let types = types(&mut object)?;
        let named = std::mem::take(&mut object.maps);
        let mut sections = Vec::new();
        for (name, map) in &named {
            if !self.maps.iter().any(|(known, _)| known == name) {
                sections.push((name.as_str(), section(name, map)?));
            }
        }
        let own = sections.iter().map(|(name, map)| (*name, map.fd().as_fd()));
        let maps = self.maps.iter().copied().chain(own);
        let maps = maps.filter_map(|(name, fd)| Some((name, fd.as_raw_fd(), named.get(name)?)));
        let text = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(maps, &text).map_err(unreadable)?;
        object.relocate_calls(&text).map_err(unreadable)?;
        let module = self.module.map(|fd| fd.try_clone_to_owned()).transpose().map_err(unreadable)?;
        Ok(Prepared { object, types, sections: sections.into_iter().map(|(_, map)| map).collect(), module })
    }
}

/// Code with descriptors in it, which are open as long as it lives. Those of named maps are the caller's.
pub(super) struct Prepared {
    object: Object,
    types: Option<OwnedFd>,
    /// Held only.
    #[expect(dead_code)]
    sections: Vec<MapData>,
    module: Option<OwnedFd>,
}

impl Prepared {
    /// Has the kernel verify one program. If it does not like it, the error has the end of its log.
    pub fn load(&self, name: &'static str) -> Result<OwnedFd, Error> {
        match self.verify(name, 0, &mut []) {
            Err(Refused::ByKernel(error)) if error.raw_os_error() == Some(libc::EPERM) => {
                Err(Error::NotPermitted { source: error })
            }
            Err(Refused::ByKernel(error)) => {
                let mut log = vec![0; LOG];
                // Refused again, or else it was a matter of the moment.
                match self.verify(name, COMPLAINTS, &mut log) {
                    Ok(fd) => Ok(fd),
                    Err(_) => {
                        Err(Error::Program { program: name, reason: format!("{error}: {}", end_of(&log)) })
                    }
                }
            }
            Err(Refused::NotThere) => {
                Err(Error::Load { reason: format!("it has no program {name} of a kind that is known") })
            }
            Ok(fd) => Ok(fd),
        }
    }

    /// With what the verifier says at that level, as far as there is room.
    pub fn verify(&self, name: &str, level: u32, log: &mut [u8]) -> Result<OwnedFd, Refused> {
        let program = self.object.programs.get(name).ok_or(Refused::NotThere)?;
        let code = self.object.functions.get(&program.function_key()).ok_or(Refused::NotThere)?;
        let (prog_type, expected_attach_type, prog_flags) = match program.section {
            ProgramSection::SchedClassifier => (BPF_PROG_TYPE_SCHED_CLS, 0, 0),
            ProgramSection::Xdp { frags: true, .. } => (BPF_PROG_TYPE_XDP, BPF_XDP, BPF_F_XDP_HAS_FRAGS),
            ProgramSection::Xdp { frags: false, .. } => (BPF_PROG_TYPE_XDP, BPF_XDP, 0),
            _ => return Err(Refused::NotThere),
        };
        let Function { instructions, func_info, line_info, .. } = code;
        let (functions, lines) = (func_info.func_info_bytes(), line_info.line_info_bytes());
        // Only that at MODULE is read.
        let modules = [self.module.as_ref().map_or(-1, AsRawFd::as_raw_fd); MODULE as usize + 1];
        let mut load = ProgramLoad {
            prog_type,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: program.license.as_ptr() as u64,
            log_level: level,
            log_size: log.len() as u32,
            log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
            prog_flags,
            prog_name: short(name),
            expected_attach_type,
            fd_array: if self.module.is_some() { modules.as_ptr() as u64 } else { 0 },
            ..ProgramLoad::default()
        };
        if let Some(types) = &self.types {
            load.prog_btf_fd = types.as_raw_fd() as u32;
            load.func_info_rec_size = code.func_info_rec_size as u32;
            load.func_info = functions.as_ptr() as u64;
            load.func_info_cnt = func_info.len() as u32;
            load.line_info_rec_size = code.line_info_rec_size as u32;
            load.line_info = lines.as_ptr() as u64;
            load.line_info_cnt = line_info.len() as u32;
        }
        // SAFETY: instructions, licence, log, descriptors and both tables are as long as is said beside them, the log is
        // ours to be written to, and all live until the call has ended.
        let fd = retried(|| unsafe { bpf(BPF_PROG_LOAD, &mut load) }).map_err(Refused::ByKernel)?;
        // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }
}

/// The verifier gives up with EAGAIN when a signal waits for this thread.
fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..ATTEMPTS {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {}
            done => return done,
        }
    }
    call()
}

#[derive(Debug)]
pub(super) enum Refused {
    /// The object has no such program.
    NotThere,
    ByKernel(io::Error),
}

/// The programs' own types: names of functions and lines, for whoever looks at them in the kernel.
fn types(object: &mut Object) -> Result<Option<OwnedFd>, Error> {
    let Some(features) = aya::features().btf() else { return Ok(None) };
    let Some(types) = object.fixup_and_sanitize_btf(features).map_err(unreadable)? else { return Ok(None) };
    let bytes = types.to_bytes();
    let mut load =
        TypesLoad { btf: bytes.as_ptr() as u64, btf_size: bytes.len() as u32, ..TypesLoad::default() };
    // SAFETY: the types are as long as is said, and live until the call has ended.
    let fd = unsafe { bpf(BPF_BTF_LOAD, &mut load) }.map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => Error::NotPermitted { source: error },
        _ => unreadable(error),
    })?;
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
}

/// The map of a section of globals. What is read-only is frozen, so that the verifier knows it.
fn section(name: &str, map: &aya_obj::Map) -> Result<MapData, Error> {
    let failed = |error: io::Error| Error::Load { reason: format!("section {name}: {error}") };
    let created = MapData::create(map.clone(), name, None);
    let created = created.map_err(|error| Error::Load { reason: format!("section {name}: {error}") })?;
    if !map.data().is_empty() {
        syscall::put(created.fd().as_fd(), 0, map.data()).map_err(failed)?;
    }
    if map.section_kind() == EbpfSectionKind::Rodata {
        let mut freeze = Freeze { map_fd: created.fd().as_fd().as_raw_fd() as u32 };
        // SAFETY: no pointers.
        unsafe { bpf(BPF_MAP_FREEZE, &mut freeze) }.map_err(failed)?;
    }
    Ok(created)
}

/// As much of a name as the kernel keeps, and a zero.
fn short(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    short
}

/// The verifier says at the end what it did not like, and then how much it did.
fn end_of(log: &[u8]) -> String {
    let end = log.iter().position(|octet| *octet == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(log.get(..end).unwrap_or_default());
    let says = |line: &&str| !line.is_empty() && !line.starts_with("processed ");
    let lines: Vec<&str> = text.lines().filter(says).collect();
    lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("; ")
}

fn unreadable(error: impl std::error::Error) -> Error {
    Error::Load { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(number: i32) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(number))
    }

    #[test]
    fn a_disturbed_verifier_is_asked_again_some_times_and_one_that_refuses_is_not() {
        for (disturbed, asked, answer) in [(0, 1, None), (4, 5, None), (9, 5, Some(libc::EAGAIN))] {
            let mut calls = 0;
            let done = retried(|| {
                calls += 1;
                if calls <= disturbed { error(libc::EAGAIN) } else { Ok(()) }
            });
            assert_eq!((calls, done.err().and_then(|error| error.raw_os_error())), (asked, answer));
        }
        let mut calls = 0;
        let refused = retried(|| {
            calls += 1;
            error(libc::EINVAL)
        });
        assert!(refused.is_err() && calls == 1);
    }
}
