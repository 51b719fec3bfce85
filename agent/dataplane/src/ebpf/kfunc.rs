//! What the programs call and read of the kernel that is neither helper nor context: conntrack's lookup. Its numbers
//! differ from kernel to kernel, so the object has others in their place, which are replaced before it is loaded.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Instant,
};

use manx_abi::kernel;

use super::{
    Error,
    btf::{Btf, NotBtf},
    generation,
    module::Module,
    program,
};

/// Whether the programs can ask conntrack for a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    Available,
    /// Why not, and what to do. Where connections are tracked the fast path is then off.
    Absent(String),
}

impl Guard {
    pub fn is_available(&self) -> bool {
        *self == Guard::Available
    }
}

/// What came of conntrack's module as it is loaded now; `NotYet` also while it is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModuleAsked {
    NotYet,
    /// No programs could be loaded, with the guard or without.
    Failed(Instant),
    /// The programs have the guard, or the reason why not is known.
    Answered,
}

pub(super) const KERNEL: &str = "/sys/kernel/btf/vmlinux";
const CONNTRACK: &str = "nf_conntrack";
/// There as long as the module is, also if it came without types.
const LOADED: &str = "/sys/module/nf_conntrack";
/// There for what was loaded, and not for what is built in: "coming", "live" or "going".
const STATE: &str = "/sys/module/nf_conntrack/initstate";
const LOOKUP: &str = "bpf_skb_ct_lookup";
const RELEASE: &str = "bpf_ct_release";

/// What the running kernel has in the places of [`kernel`]'s numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    lookup: u32,
    release: u32,
    /// Where in the list of modules' descriptors the one stands that has the two; 0: the kernel itself has them.
    place: i16,
    status: i16,
    timeout: i16,
}

/// The object for the running kernel.
#[derive(Debug)]
pub struct Resolved {
    pub object: Vec<u8>,
    pub guard: Guard,
    /// Whether the programs can read how often the kernel's routes have changed.
    pub generations: bool,
    module: Option<OwnedFd>,
}

impl Resolved {
    /// Only with a module's descriptor can it be loaded.
    pub fn calls_module(&self) -> bool {
        self.module.is_some()
    }

    /// The module whose functions are called.
    pub(super) fn module(&self) -> Option<BorrowedFd<'_>> {
        self.module.as_ref().map(AsFd::as_fd)
    }
}

/// Without the guard the object is as it was: the programs' global `GUARD` stays 0, and the verifier never comes to what
/// is not resolved.
pub fn resolve(object: &[u8]) -> Result<Resolved, Error> {
    let mut object = object.to_vec();
    let (guard, module) = match of_running_kernel() {
        Ok((numbers, module)) => {
            replace(&mut object, numbers)?;
            (Guard::Available, module)
        }
        Err(reason) => (Guard::Absent(reason), None),
    };
    let generations = generation::resolve(&mut object)?;
    Ok(Resolved { object, guard, generations, module })
}

/// Whether conntrack is a module that can be called now. Where it could not, it pays to [`resolve`] again.
pub(super) fn has_conntrack_module() -> bool {
    fs::read_to_string(STATE).is_ok_and(|state| state.trim() == "live")
}

fn of_running_kernel() -> Result<(Numbers, Option<OwnedFd>), String> {
    let bytes = fs::read(KERNEL).map_err(|error| {
        format!("{KERNEL}: {error}; the kernel must be built with CONFIG_DEBUG_INFO_BTF to be asked for connections")
    })?;
    let unknown = |NotBtf| format!("{KERNEL} holds types that this version does not know");
    let kernel = Btf::parse(&bytes).map_err(unknown)?;
    if let Some(numbers) = numbers(&kernel, None).map_err(unknown)? {
        return Ok((numbers, None));
    }
    let module = Module::find(CONNTRACK).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => format!(
            "{CONNTRACK} is a module here, and the kernel lets only CAP_SYS_ADMIN call what is in modules: give it to \
             manxd"
        ),
        _ => format!("the types of {CONNTRACK} cannot be read: {error}"),
    })?;
    // The kernel refuses programs that call a module whose beginning has not ended.
    let module = module.filter(|_| has_conntrack_module());
    let Some(module) = module else { return Err(why_not_there().to_owned()) };
    let unknown = |NotBtf| format!("{CONNTRACK} has types that this version does not know");
    let types = Btf::parse_module(&module.types, &kernel).map_err(unknown)?;
    match numbers(&kernel, Some(&types)).map_err(unknown)? {
        Some(numbers) => Ok((numbers, Some(module.fd))),
        None => Err(format!("{CONNTRACK} has no {LOOKUP} here; it came with Linux 5.18")),
    }
}

fn why_not_there() -> &'static str {
    if has_conntrack_module() {
        "nf_conntrack came as a module without types: the kernel must be built with CONFIG_DEBUG_INFO_BTF_MODULES, and \
         the module not be stripped of them"
    } else if Path::new(LOADED).exists() && !Path::new(STATE).exists() {
        "this kernel has no bpf_skb_ct_lookup; it came with Linux 5.18"
    } else {
        "nf_conntrack is not loaded; as soon as it is, the programs are loaded anew with what asks it"
    }
}

/// None if one of them is not there. A module's types may leave a structure to the kernel's.
fn numbers(kernel: &Btf<'_>, module: Option<&Btf<'_>>) -> Result<Option<Numbers>, NotBtf> {
    let functions = module.unwrap_or(kernel);
    let (Some(lookup), Some(release)) = (functions.function(LOOKUP)?, functions.function(RELEASE)?) else {
        return Ok(None);
    };
    let offset = |member| -> Result<Option<i16>, NotBtf> {
        let found = match functions.member("nf_conn", member)? {
            None => kernel.member("nf_conn", member)?,
            found => found,
        };
        Ok(found.and_then(|offset| i16::try_from(offset).ok()))
    };
    let (Some(status), Some(timeout)) = (offset("status")?, offset("timeout")?) else {
        return Ok(None);
    };
    let place = if module.is_some() { program::MODULE } else { 0 };
    Ok(Some(Numbers { lookup, release, place, status, timeout }))
}

/// A section header of ELF64: where its fields stand, and what they say of code.
mod elf {
    pub const HEADERS_AT: usize = 0x28;
    pub const HEADER_SIZE: usize = 0x3a;
    pub const HEADER_COUNT: usize = 0x3c;
    pub const TYPE: usize = 0x04;
    pub const FLAGS: usize = 0x08;
    pub const OFFSET: usize = 0x18;
    pub const SIZE: usize = 0x20;
    pub const PROGBITS: u32 = 1;
    pub const EXECUTABLE: u64 = 4;
}

/// Instructions, of `<linux/bpf.h>`: an opcode, two registers of four bits, an offset of 16, a number of 32.
pub(super) mod instruction {
    pub const SIZE: usize = 8;
    pub const CALL: u8 = 0x85;
    /// Source register of a call to a function of the kernel's.
    pub const PSEUDO_KFUNC_CALL: u8 = 2;
    /// Class of loads from memory.
    pub const LDX: u8 = 0x01;
    /// Loads a number of 64 bits, and is as long as two.
    pub const LOAD_64: u8 = 0x18;
}

fn replace(object: &mut [u8], numbers: Numbers) -> Result<(), Error> {
    let mut found = [0u32; 4];
    for (start, end) in code(object).ok_or_else(|| refused("it is no ELF object"))? {
        let section = object.get_mut(start..end).ok_or_else(|| refused("a section ends beyond its file"))?;
        let mut instructions = section.chunks_exact_mut(instruction::SIZE);
        while let Some(instruction) = instructions.next() {
            let [code, registers, o0, o1, n0, n1, n2, n3] = instruction else {
                continue;
            };
            let (offset, number) = (i16::from_le_bytes([*o0, *o1]), u32::from_le_bytes([*n0, *n1, *n2, *n3]));
            let place = match (*code, offset, number) {
                (instruction::LOAD_64, ..) => {
                    instructions.next();
                    continue;
                }
                (instruction::CALL, _, kernel::SKB_CT_LOOKUP) => 0,
                (instruction::CALL, _, kernel::CT_RELEASE) => 1,
                (code, kernel::STATUS, _) if code & 0x07 == instruction::LDX => 2,
                (code, kernel::TIMEOUT, _) if code & 0x07 == instruction::LDX => 3,
                _ => continue,
            };
            match place {
                0 | 1 => {
                    let id = if place == 0 { numbers.lookup } else { numbers.release };
                    *registers = instruction::PSEUDO_KFUNC_CALL << 4;
                    [*o0, *o1] = numbers.place.to_le_bytes();
                    [*n0, *n1, *n2, *n3] = id.to_le_bytes();
                }
                _ => {
                    let offset = if place == 2 { numbers.status } else { numbers.timeout };
                    [*o0, *o1] = offset.to_le_bytes();
                }
            }
            #[expect(clippy::indexing_slicing, reason = "`place` is one of the four above")]
            let times = &mut found[place];
            *times += 1;
        }
    }
    if found != [1; 4] {
        return Err(refused(&format!(
            "the lookup of connections stands {}, {}, {} and {} times in it (call, release, status, timeout), and \
             must stand once",
            found[0], found[1], found[2], found[3]
        )));
    }
    Ok(())
}

pub(super) fn refused(reason: &str) -> Error {
    Error::Load { reason: reason.into() }
}

/// Start and end of the sections that hold code.
pub(super) fn code(object: &[u8]) -> Option<Vec<(usize, usize)>> {
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let headers = usize::try_from(wide(object, elf::HEADERS_AT)?).ok()?;
    let (size, count) = (usize::from(half(object, elf::HEADER_SIZE)?), half(object, elf::HEADER_COUNT)?);
    let mut found = Vec::new();
    for place in 0..usize::from(count) {
        let header = object.get(headers.checked_add(place * size)?..)?;
        let kind = u32::from_le_bytes(header.get(elf::TYPE..elf::TYPE + 4)?.try_into().ok()?);
        if kind == elf::PROGBITS && wide(header, elf::FLAGS)? & elf::EXECUTABLE != 0 {
            let start = usize::try_from(wide(header, elf::OFFSET)?).ok()?;
            found.push((start, start.checked_add(usize::try_from(wide(header, elf::SIZE)?).ok()?)?));
        }
    }
    Some(found)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn wide(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// The object with functions in the guard's place that no kernel has.
#[cfg(test)]
pub(super) fn calling_nobody(object: &[u8]) -> Result<Resolved, Error> {
    let mut object = object.to_vec();
    let nobody = Numbers { lookup: 0x7fff_fff0, release: 0x7fff_fff1, place: 0, status: 0x70, timeout: 0x7c };
    replace(&mut object, nobody)?;
    Ok(Resolved { object, guard: Guard::Available, generations: false, module: None })
}

#[cfg(test)]
mod tests {
    use super::{super::OBJECT, *};

    const NUMBERS: Numbers =
        Numbers { lookup: 0x1234_5678, release: 0x1234_5679, place: 0, status: 0x70, timeout: 0x7c };

    fn differences(a: &[u8], b: &[u8]) -> usize {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).filter(|(a, b)| a != b).count()
    }

    #[test]
    fn the_object_has_each_number_once_and_nothing_else_is_written() {
        let mut object = OBJECT.to_vec();
        replace(&mut object, NUMBERS).unwrap();
        // Twice a register and a number of four octets, twice an offset of two.
        assert!((4..=14).contains(&differences(&object, OBJECT)));
    }

    /// Calls of the kernel's functions in the object: offset and number.
    fn calls(object: &[u8]) -> Vec<(i16, u32)> {
        let sections = code(object).unwrap();
        let instructions = sections.iter().flat_map(|(start, end)| object[*start..*end].chunks_exact(8));
        let calls = instructions.filter(|instruction| instruction[0] == 0x85 && instruction[1] == 0x20);
        calls
            .map(|call| {
                (
                    i16::from_le_bytes([call[2], call[3]]),
                    u32::from_le_bytes([call[4], call[5], call[6], call[7]]),
                )
            })
            .collect()
    }

    #[test]
    fn a_call_into_a_module_has_the_functions_id_and_the_place_of_the_modules_descriptor() {
        for place in [0, 1] {
            let mut object = OBJECT.to_vec();
            assert_eq!(calls(&object), []);
            replace(&mut object, Numbers { place, ..NUMBERS }).unwrap();
            let mut found = calls(&object);
            found.sort_unstable();
            assert_eq!(found, [(place, 0x1234_5678), (place, 0x1234_5679)]);
        }
    }

    #[test]
    fn an_object_without_the_numbers_is_refused() {
        let mut object = OBJECT.to_vec();
        replace(&mut object, NUMBERS).unwrap();
        let error = replace(&mut object, NUMBERS).unwrap_err();
        assert!(error.to_string().contains("0, 0, 0 and 0 times"), "{error}");
        assert!(replace(&mut b"\x7fELF".to_vec(), NUMBERS).is_err());
    }

    #[test]
    fn an_object_that_ends_early_is_refused() {
        for length in [0, 5, 0x30, 0x40, OBJECT.len() / 2] {
            let mut cut = OBJECT[..length].to_vec();
            assert!(replace(&mut cut, NUMBERS).is_err(), "{length}");
        }
    }

    #[test]
    fn the_running_kernel_has_the_guard_or_the_reason_is_said() {
        match of_running_kernel() {
            Ok((numbers, module)) => {
                assert_eq!(numbers.place != 0, module.is_some());
                assert!(numbers.lookup != 0 && numbers.release != 0 && numbers.lookup != numbers.release);
                assert!(numbers.status > 0 && numbers.timeout > 0 && numbers.status != numbers.timeout);
            }
            Err(reason) => assert!(reason.len() > 20, "{reason}"),
        }
    }
}
