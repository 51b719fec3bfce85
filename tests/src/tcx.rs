//! TC programs of somebody else's, attached by TCX around those of Manx: a few instructions, loaded by `bpf(2)` itself.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use anyhow::{Context, Result};
use nix::{libc, net::if_::if_nametoindex};

use crate::netns::Netns;

/// What the program does with a packet, after it has counted it.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    Nothing,
    /// Drops IPv4 packets without options to this port.
    Drops(u16),
    /// Sends all to the interface of this name.
    Redirects(&'static str),
}

/// Numbers of `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Ingress = 46,
    Egress = 47,
}

/// Beside the programs that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    First,
    Last,
}

/// The name that the kernel knows them by.
pub const NAME: &str = "somebodys";

/// Attached as long as it lives.
#[derive(Debug)]
pub struct Program {
    counter: OwnedFd,
    _link: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kern_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    _hole: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct Element {
    map: u32,
    _hole: u32,
    key: u64,
    value: u64,
    flags: u64,
}

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const ARRAY: u32 = 2;
const SCHED_CLS: u32 = 3;
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;

/// # Safety
/// What `attributes` points to has to be as the command wants it.
unsafe fn bpf<A>(command: libc::c_int, attributes: &mut A) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes as many octets as `attributes` has; for the rest the caller answers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *mut A, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// # Safety
/// As [`bpf`]; the command gives a descriptor.
unsafe fn create<A>(command: libc::c_int, attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: for the first the caller answers; the kernel has just given the descriptor to us, and to nobody else.
    unsafe { Ok(OwnedFd::from_raw_fd(bpf(command, attributes)?)) }
}

/// `struct bpf_insn`: operation, destination and source, offset, number.
fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    let [o0, o1] = offset.to_ne_bytes();
    let [n0, n1, n2, n3] = number.to_ne_bytes();
    u64::from_ne_bytes([code, from << 4 | to, o0, o1, n0, n1, n2, n3])
}

/// The port of the destination behind the headers of Ethernet and IPv4.
const DESTINATION_PORT: i32 = 14 + 20 + 2;
const TCX_NEXT: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const REDIRECT: i32 = 23;

fn instructions(counter: RawFd, does: Does, redirect_to: u32) -> Vec<u64> {
    let set = |register, number| instruction(0xb7, register, 0, 0, number);
    let exit = instruction(0x95, 0, 0, 0, 0);
    let mut all = vec![
        // The context, as the load below wants it.
        instruction(0xbf, 6, 1, 0, 0),
        // The address of the map's value, and one more there.
        instruction(0x18, 1, 2, 0, counter),
        0,
        set(2, 1),
        instruction(0xdb, 1, 2, 0, 0),
    ];
    match does {
        Does::Nothing => {}
        Does::Drops(port) => all.extend([
            instruction(0x28, 0, 0, 0, DESTINATION_PORT),
            instruction(0x55, 0, 0, 2, port.into()),
            set(0, TC_ACT_SHOT),
            exit,
        ]),
        Does::Redirects(_) => {
            all.extend([set(1, redirect_to as i32), set(2, 0), instruction(0x85, 0, 0, 0, REDIRECT), exit]);
            return all;
        }
    }
    all.extend([set(0, TCX_NEXT), exit]);
    all
}

impl Program {
    pub fn attach(ns: &Netns, interface: &str, hook: Hook, place: Place, does: Does) -> Result<Program> {
        let interface = interface.to_owned();
        ns.run(move || Program::attach_here(&interface, hook, place, does))
    }

    fn attach_here(interface: &str, hook: Hook, place: Place, does: Does) -> Result<Program> {
        let ifindex = if_nametoindex(interface).with_context(|| interface.to_owned())?;
        let redirect_to = match does {
            Does::Redirects(to) => if_nametoindex(to)?,
            _ => 0,
        };
        let mut map = MapCreate { kind: ARRAY, key_size: 4, value_size: 8, max_entries: 1, flags: 0 };
        // SAFETY: no pointers.
        let counter = unsafe { create(MAP_CREATE, &mut map) }.context("a map")?;
        let code = instructions(counter.as_raw_fd(), does, redirect_to);
        let mut name = [0; 16];
        name[..NAME.len()].copy_from_slice(NAME.as_bytes());
        let mut load = ProgramLoad {
            kind: SCHED_CLS,
            count: code.len() as u32,
            instructions: code.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            name,
            ..ProgramLoad::default()
        };
        // SAFETY: the instructions are as many as is said, the licence is a C string, and both outlive the call.
        let program = unsafe { create(PROG_LOAD, &mut load) }.context("a program")?;
        let mut link = LinkCreate {
            program: program.as_raw_fd() as u32,
            ifindex,
            attach_type: hook as u32,
            flags: if place == Place::First { BEFORE } else { AFTER },
            ..LinkCreate::default()
        };
        // SAFETY: no pointers.
        let link = unsafe { create(LINK_CREATE, &mut link) }.context("a link")?;
        Ok(Program { counter, _link: link })
    }

    /// Packets that it was given.
    pub fn seen(&self) -> Result<u64> {
        let (key, mut value) = (0u32, 0u64);
        let mut element = Element {
            map: self.counter.as_raw_fd() as u32,
            key: &raw const key as u64,
            value: &raw mut value as u64,
            ..Element::default()
        };
        // SAFETY: key and value have the map's sizes and outlive the call.
        unsafe { bpf(MAP_LOOKUP, &mut element) }?;
        Ok(value)
    }
}
