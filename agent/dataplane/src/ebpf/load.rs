//! Opening the sink: the programs are loaded onto the maps of an earlier run, if those are as this agent would make
//! them, and else onto new ones.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use aya::{EbpfError, EbpfLoader, maps::MapError};
use manx_abi::{global, map};

use super::{
    EbpfSink, Error, Guard, OBJECT, Opened, Options,
    held::Held,
    kfunc::{self, ModuleAsked, Resolved},
    links::Programs,
    maps::{Handles, Maps, errno},
    pins::{Pins, layouts},
    places::Places,
    program::Code,
    settings,
    take_off::Hold,
};

/// TCX: links on the TC hooks, and their update in one step.
const OLDEST_KERNEL: (u32, u32) = (6, 6);

pub(super) fn open(options: &Options) -> Result<(EbpfSink, Opened), Error> {
    open_with(options, kfunc::resolve)
}

fn open_with(options: &Options, resolve: Resolve) -> Result<(EbpfSink, Opened), Error> {
    check_kernel()?;
    let pins = Pins::prepare(&options.bpf_dir)?;
    let hold = Hold::take(&options.bpf_dir);
    let differences = pins.differences(&layouts(options))?;
    let adopted = differences.as_ref().is_some_and(Vec::is_empty);
    if !adopted {
        pins.unpin_maps()?;
    }
    let (older, unknown) = pins.others()?;
    let mut loader = EbpfLoader::new();
    // Of the object it is given the maps only, and these need nothing of the kernel's own types.
    loader.btf(None);
    for layout in layouts(options) {
        loader.map_max_entries(layout.name, layout.entries);
    }
    for name in map::ALL {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(OBJECT).map_err(load_failed)?;
    let handles = pins.handles()?;
    let module = if kfunc::has_conntrack_module() { ModuleAsked::Answered } else { ModuleAsked::NotYet };
    let (programs, guard) = programs(&pins, &handles, resolve)?;
    let maps = Maps::open(&handles)?;
    settings::seed_hash(&maps);
    let held = Held::read(&maps, None, !adopted, Instant::now())?;
    let places = Places::read(&maps);
    let mut sink = EbpfSink {
        pins,
        handles,
        programs,
        maps,
        held,
        places,
        guard,
        module,
        interfaces: BTreeMap::new(),
        neighbours: BTreeMap::new(),
        attachments: BTreeMap::new(),
        not_indexed: Vec::new(),
        hold,
    };
    sink.find_links()?;
    give_back_heap();
    let replaced = differences.unwrap_or_default();
    let unknown = unknown.iter().map(|path| path.display().to_string()).collect();
    Ok((sink, Opened { adopted, replaced, older, unknown }))
}

/// How the object is fitted to the running kernel: [`kfunc::resolve`], and others in tests.
pub(super) type Resolve = fn(&[u8]) -> Result<Resolved, Error>;

/// The programs on these maps, with what the running kernel has for the guard. A kernel may have it and still refuse
/// programs that call it (without JIT it refuses every such call); what needs no guard is then done without it. So it is
/// with what is read of the kernel's own structures.
pub(super) fn programs(pins: &Pins, handles: &Handles, resolve: Resolve) -> Result<(Programs, Guard), Error> {
    let resolved = resolve(OBJECT)?;
    let has_guard = resolved.guard.is_available();
    let load = |generations| {
        let wants = Wants { guard: has_guard, generations };
        verified(pins, handles, &resolved.object, wants, resolved.module())
    };
    if resolved.generations
        && let Ok(programs) = load(true)
    {
        return Ok((programs, resolved.guard));
    }
    match load(false) {
        Ok(programs) => Ok((programs, resolved.guard)),
        Err(refused) if has_guard => {
            // The object as it is built: the kernel refuses calls of what it does not have also where nothing leads to them.
            let bare = verified(pins, handles, OBJECT, Wants { guard: false, generations: false }, None)?;
            Ok((bare, Guard::Absent(why_refused(&refused))))
        }
        Err(refused) => Err(refused),
    }
}

/// What the programs are to ask the kernel for. What they are not the verifier takes out.
#[derive(Clone, Copy)]
struct Wants {
    guard: bool,
    generations: bool,
}

fn verified(
    pins: &Pins,
    handles: &Handles,
    object: &[u8],
    wants: Wants,
    module: Option<BorrowedFd<'_>>,
) -> Result<Programs, Error> {
    let mask = |name: &'static str| -> Result<u32, Error> {
        let map = handles.iter().find(|(known, _)| *known == name);
        let entries = map.and_then(|(_, map)| map.info().ok()).map(|info| info.max_entries());
        // Their sizes are powers of two.
        let entries = entries.and_then(|entries| entries.checked_sub(1));
        entries.ok_or_else(|| Error::Load { reason: format!("map {name} has no size") })
    };
    let maps: Vec<_> = handles.iter().map(|(name, map)| (*name, map.fd().as_fd())).collect();
    let code = Code {
        object,
        globals: &[
            (global::INTERFACE_MASK, mask(map::INTERFACES)?),
            (global::BLOCK6_MASK, mask(map::BLOCKS6)?),
            (global::GUARD, u32::from(wants.guard)),
            (global::GENERATIONS, u32::from(wants.generations)),
        ],
        maps: &maps,
        module,
    };
    Programs::load(pins, &code.prepare()?)
}

fn why_refused(refused: &Error) -> String {
    let refused = refused.to_string();
    // Of the verifier's log; the switch itself is seen only from the first network namespace.
    let remedy = match refused.contains("JIT is required") {
        true => "set net.core.bpf_jit_enable=1 and restart manxd",
        false => "restart manxd to try again",
    };
    format!("the programs that ask conntrack do not load ({refused}); {remedy}")
}

fn check_kernel() -> Result<(), Error> {
    let name = nix::sys::utsname::uname().map_err(|errno| Error::Load { reason: errno.to_string() })?;
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST_KERNEL { Err(Error::KernelTooOld { release }) } else { Ok(()) }
}

fn load_failed(error: EbpfError) -> Error {
    let denied = |source: &std::io::Error| source.kind() == std::io::ErrorKind::PermissionDenied;
    match error {
        EbpfError::MapError(MapError::CreateError { io_error, .. }) if denied(&io_error) => {
            Error::NotPermitted { source: io_error }
        }
        EbpfError::MapError(error) if errno(&error) == Some(libc::EPERM) => {
            Error::NotPermitted { source: std::io::Error::from_raw_os_error(libc::EPERM) }
        }
        error => {
            let mut reason = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                reason = format!("{reason}: {cause}");
                source = cause.source();
            }
            Error::Load { reason }
        }
    }
}

/// Gives free heap back to the kernel; glibc would keep it for good. The loader reads the kernel's whole BTF before it
/// can be told not to, and a large table may come and go.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches nothing but the allocator's own free memory, and is thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests;
