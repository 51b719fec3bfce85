//! The programs in the kernel, and their links to interfaces. A link is pinned, so a program stays attached when
//! the agent ends; the next agent puts its own program into the same link, and no packet finds the hook empty.

use std::{fmt, io, path::Path};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use manx_abi::Program;

use super::{
    Error, XdpState,
    interface::Interface,
    pins::{Pins, remove_link, remove_pin},
};

/// Attached nowhere: what it returns is what it is for.
const JIFFIES: &str = "jiffies";
/// Octets that a test run wants.
const SHORTEST_FRAME: usize = 64;

pub(super) struct Programs {
    /// Keeps the programs loaded; its maps have been taken out.
    ebpf: Ebpf,
}

impl fmt::Debug for Programs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Programs").finish_non_exhaustive()
    }
}

impl Programs {
    /// Has the kernel verify them.
    pub fn load(mut ebpf: Ebpf) -> Result<Programs, Error> {
        for program in [Program::PodTc, Program::UplinkTc] {
            classifier(&mut ebpf, program)?.load().map_err(|error| refused(program.name(), error))?;
        }
        xdp(&mut ebpf, Program::UplinkXdp.name())?
            .load()
            .map_err(|error| refused(Program::UplinkXdp.name(), error))?;
        xdp(&mut ebpf, JIFFIES)?.load().map_err(|error| refused(JIFFIES, error))?;
        Ok(Programs { ebpf })
    }

    /// The kernel's jiffies now, their low 32 bits.
    pub fn jiffies(&mut self) -> Result<u32, Error> {
        let failed = |error: ProgramError| Error::Program { program: JIFFIES, reason: reason(&error) };
        let frame = [0; SHORTEST_FRAME];
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
        Ok(xdp(&mut self.ebpf, JIFFIES)?.test_run(options).map_err(failed)?.return_value)
    }

    /// TCX ingress. Whatever is attached there already stays; ours comes last in the chain.
    pub fn attach_tc(&mut self, pins: &Pins, program: Program, interface: &Interface) -> Result<(), Error> {
        let (path, ifindex) = (pins.link(program, interface.ifindex), interface.ifindex);
        let failed = |reason: String| Error::Attach { program: program.name(), ifindex, reason };
        let classifier = classifier(&mut self.ebpf, program)?;
        if let Some(pinned) = pinned(pins, program, ifindex)? {
            let link = SchedClassifierLink::try_from(pinned).map_err(|error| failed(chain(&error)))?;
            match classifier.attach_to_link(link) {
                // Only this process's hold on the link ends here; the pin keeps it.
                Ok(id) => return classifier.take_link(id).map(drop).map_err(|error| failed(reason(&error))),
                Err(error) if errno(&error) == Some(libc::ENOLINK) => {}
                Err(error) => return Err(failed(reason(&error))),
            }
            // The link's interface is gone; this one has its number.
            remove_pin(&path)?;
        }
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let id = classifier
            .attach_with_options(&interface.name, TcAttachType::Ingress, options)
            .map_err(|error| failed(reason(&error)))?;
        let link = classifier.take_link(id).map_err(|error| failed(reason(&error)))?;
        let link = FdLink::try_from(link).map_err(|error| failed(chain(&error)))?;
        link.pin(&path).map(drop).map_err(|error| failed(cannot_pin(&path, &error)))
    }

    /// XDP in the driver. One program may be on a device, so another's is left alone; and attaching resets real
    /// NICs, which is why a link that is there is updated and never made anew.
    pub fn attach_xdp(&mut self, pins: &Pins, interface: &Interface) -> Result<XdpState, Error> {
        let ifindex = interface.ifindex;
        let path = pins.link(Program::UplinkXdp, ifindex);
        let failed = |reason: String| Error::Attach { program: Program::UplinkXdp.name(), ifindex, reason };
        let xdp = xdp(&mut self.ebpf, Program::UplinkXdp.name())?;
        if let Some(pinned) = pinned(pins, Program::UplinkXdp, ifindex)? {
            let link = XdpLink::try_from(pinned).map_err(|error| failed(chain(&error)))?;
            match xdp.attach_to_link(link) {
                Ok(id) => {
                    xdp.take_link(id).map(drop).map_err(|error| failed(reason(&error)))?;
                    return Ok(XdpState::Native);
                }
                Err(error) if errno(&error) == Some(libc::ENOLINK) => {}
                Err(error) => return Err(failed(reason(&error))),
            }
            remove_pin(&path)?;
        }
        let id = match xdp.attach_to_if_index(ifindex, XdpMode::Driver) {
            Ok(id) => id,
            Err(error) => return Ok(XdpState::Absent(why_no_xdp(&error))),
        };
        let link = xdp.take_link(id).map_err(|error| failed(reason(&error)))?;
        // What is not an fd link cannot be pinned; dropping it detaches it.
        let Ok(link) = FdLink::try_from(link) else {
            return Ok(XdpState::Absent("the kernel gives no XDP link on this interface".into()));
        };
        link.pin(&path).map(drop).map_err(|error| failed(cannot_pin(&path, &error)))?;
        Ok(XdpState::Native)
    }

    /// The kernel's number of the loaded program.
    pub fn id(&self, program: Program) -> Option<u32> {
        match self.ebpf.program(program.name())? {
            aya::programs::Program::SchedClassifier(loaded) => loaded.info().ok(),
            aya::programs::Program::Xdp(loaded) => loaded.info().ok(),
            _ => None,
        }
        .map(|info| info.id())
    }

    /// True if it was attached.
    pub fn detach(pins: &Pins, program: Program, ifindex: u32) -> Result<bool, Error> {
        remove_link(&pins.link(program, ifindex))
    }
}

fn pinned(pins: &Pins, program: Program, ifindex: u32) -> Result<Option<FdLink>, Error> {
    let path = pins.link(program, ifindex);
    match PinnedLink::from_pin(&path) {
        Ok(pinned) => Ok(Some(FdLink::from(pinned))),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(LinkError::SyscallError(SyscallError { io_error, .. })) => {
            Err(Error::Pin { path, source: io_error })
        }
        Err(error) => Err(Error::Pin { path, source: io::Error::other(error) }),
    }
}

fn cannot_pin(path: &Path, error: &dyn std::error::Error) -> String {
    format!("pinning {}: {}", path.display(), chain(error))
}

/// An error with its causes: the number is often in the last one.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = cause.source();
    }
    text
}

fn classifier(ebpf: &mut Ebpf, program: Program) -> Result<&mut SchedClassifier, Error> {
    named(ebpf, program.name())?.try_into().map_err(|_| wrong_object(program.name()))
}

fn xdp<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut Xdp, Error> {
    named(ebpf, program)?.try_into().map_err(|_| wrong_object(program))
}

fn named<'a>(ebpf: &'a mut Ebpf, program: &str) -> Result<&'a mut aya::programs::Program, Error> {
    ebpf.program_mut(program).ok_or_else(|| wrong_object(program))
}

fn wrong_object(program: &str) -> Error {
    Error::Load { reason: format!("it has no program {program} of its kind") }
}

fn refused(program: &'static str, error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            Error::NotPermitted { source: io_error }
        }
        ProgramError::LoadError { io_error, verifier_log } => {
            // The verifier says at the end what it did not like.
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
            let (_, end) = lines.split_at(lines.len().saturating_sub(3));
            let end = end.join("; ");
            Error::Program { program, reason: format!("{io_error}: {end}") }
        }
        error => Error::Program { program, reason: reason(&error) },
    }
}

fn why_no_xdp(error: &ProgramError) -> String {
    match errno(error) {
        Some(libc::EOPNOTSUPP) => "the driver has no native XDP".into(),
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is on this interface".into(),
        _ => reason(error),
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => io_error.raw_os_error(),
        _ => None,
    }
}

fn reason(error: &ProgramError) -> String {
    match error {
        ProgramError::SyscallError(SyscallError { call, io_error }) => format!("{call}: {io_error}"),
        error => error.to_string(),
    }
}
