//! The programs in the kernel, and their links to interfaces. A link is pinned, so a program stays attached when
//! the agent ends; the next agent puts its own program into the same link, and no packet finds the hook empty.

use std::{io, os::fd::AsFd, path::Path};

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TestRun, TestRunOptions, Xdp, XdpMode,
        links::{FdLink, LinkError, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
    sys::SyscallError,
};
use aya_obj::programs::XdpAttachType;
use manx_abi::Program;

use super::{
    Error, XdpState,
    interface::Interface,
    pins::{Pins, remove_link, remove_pin},
    program::Prepared,
    syscall,
};

/// Attached nowhere: what it returns is what it is for.
const JIFFIES: &str = "jiffies";
/// Octets that a test run wants.
const SHORTEST_FRAME: usize = 64;

#[derive(Debug)]
pub(super) struct Programs {
    pod_tc: SchedClassifier,
    uplink_tc: SchedClassifier,
    uplink_xdp: Xdp,
    jiffies: Xdp,
}

impl Programs {
    /// Has the kernel verify them.
    pub fn load(pins: &Pins, code: &Prepared) -> Result<Programs, Error> {
        let classifier =
            |program: Program| hand_over(pins, code, program.name(), |path| SchedClassifier::from_pin(path));
        let xdp = |name| hand_over(pins, code, name, |path| Xdp::from_pin(path, XdpAttachType::Interface));
        Ok(Programs {
            pod_tc: classifier(Program::PodTc)?,
            uplink_tc: classifier(Program::UplinkTc)?,
            uplink_xdp: xdp(Program::UplinkXdp.name())?,
            jiffies: xdp(JIFFIES)?,
        })
    }

    /// The time now, as [`manx_abi::pulse`] makes it of the kernel's jiffies.
    pub fn pulse(&mut self) -> Result<u32, Error> {
        let failed = |error: ProgramError| Error::Program { program: JIFFIES, reason: reason(&error) };
        let frame = [0; SHORTEST_FRAME];
        let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::new() };
        Ok(self.jiffies.test_run(options).map_err(failed)?.return_value)
    }

    /// TCX ingress. Whatever is attached there already stays; ours comes last in the chain.
    pub fn attach_tc(&mut self, pins: &Pins, program: Program, interface: &Interface) -> Result<(), Error> {
        let (path, ifindex) = (pins.link(program, interface.ifindex), interface.ifindex);
        let failed = |reason: String| Error::Attach { program: program.name(), ifindex, reason };
        let classifier = match program {
            Program::PodTc => &mut self.pod_tc,
            Program::UplinkTc => &mut self.uplink_tc,
            Program::UplinkXdp => return Err(failed("it is XDP's".into())),
        };
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
        let xdp = &mut self.uplink_xdp;
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
        match program {
            Program::PodTc => self.pod_tc.info(),
            Program::UplinkTc => self.uplink_tc.info(),
            Program::UplinkXdp => self.uplink_xdp.info(),
        }
        .ok()
        .map(|info| info.id())
    }

    /// True if it was attached.
    pub fn detach(pins: &Pins, program: Program, ifindex: u32) -> Result<bool, Error> {
        remove_link(&pins.link(program, ifindex))
    }
}

/// Loads a program and gives it to aya, which takes one that it has not loaded only from a pin.
fn hand_over<P>(
    pins: &Pins,
    code: &Prepared,
    name: &'static str,
    from_pin: impl FnOnce(&Path) -> Result<P, ProgramError>,
) -> Result<P, Error> {
    let loaded = code.load(name)?;
    let path = pins.loading();
    // Somebody may have been killed here.
    remove_pin(&path)?;
    syscall::pin(loaded.as_fd(), &path).map_err(|source| Error::Pin { path: path.clone(), source })?;
    let taken = from_pin(&path).map_err(|error| Error::Program { program: name, reason: reason(&error) });
    remove_pin(&path)?;
    taken
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
