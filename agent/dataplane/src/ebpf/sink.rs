//! The sink as the daemon drives it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Instant,
};

use aya::{
    EbpfError, EbpfLoader, VerifierLogLevel,
    maps::{MapData, MapError},
};
use manx_abi::{ABI_VERSION, Program, Settings, capacity, map};
use manx_net::Prefix;

use super::{
    Applied, Attachment, Counters, Error, OBJECT, Opened, Status, XdpState,
    held::Held,
    interface::{self, Interface},
    link_state::{self, LinkState},
    links::Programs,
    maps::{Maps, errno},
    pins::{Pins, layouts},
};
use crate::route::{Action, Mac, Route};

/// TCX: links on the TC hooks, and their update in one step.
const OLDEST_KERNEL: (u32, u32) = (6, 6);

#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a BPF filesystem for all that is pinned; made if it is not there. One for each network
    /// namespace that an agent runs in.
    pub bpf_dir: PathBuf,
    /// Entries of the IPv4 and of the IPv6 map. Memory is taken as routes come.
    pub max_routes4: u32,
    pub max_routes6: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            bpf_dir: "/sys/fs/bpf/manx".into(),
            max_routes4: capacity::ROUTES4 as u32,
            max_routes6: capacity::ROUTES6 as u32,
        }
    }
}

#[derive(Debug)]
pub struct EbpfSink {
    pins: Pins,
    /// A second hold on the pinned maps, to pin them again.
    handles: Vec<(&'static str, MapData)>,
    programs: Programs,
    maps: Maps,
    held: Held,
    options: Options,
    interfaces: BTreeMap<u32, Interface>,
    attachments: BTreeMap<(u32, &'static str), Attachment>,
}

impl EbpfSink {
    /// Loads the programs and takes over what an earlier run pinned, in this thread's network namespace. No link
    /// gets the new program before [`Self::attach_pod`] and [`Self::attach_uplink`], so maps that had to be made
    /// anew can be filled first; until then the old programs run on the old maps. Heavy (some 60 ms, and a
    /// transient heap of tens of MB, which is given back): call it before threads start.
    pub fn open(options: &Options) -> Result<(EbpfSink, Opened), Error> {
        check_kernel()?;
        let pins = Pins::prepare(&options.bpf_dir)?;
        let differences = pins.differences(&layouts(options))?;
        let adopted = differences.as_ref().is_some_and(Vec::is_empty);
        if !adopted {
            pins.unpin_maps()?;
        }
        let mut loader = EbpfLoader::new();
        // The programs need nothing of the kernel's own types.
        loader.btf(None).verifier_log_level(VerifierLogLevel::DEBUG);
        loader.map_max_entries(map::ROUTES4, options.max_routes4);
        loader.map_max_entries(map::ROUTES6, options.max_routes6);
        for name in map::ALL {
            loader.map_pin_path(name, pins.map(name));
        }
        let mut ebpf = loader.load(OBJECT).map_err(load_failed)?;
        drop(loader);
        let mut maps = Maps::take(&mut ebpf)?;
        let programs = Programs::load(ebpf)?;
        if !adopted {
            maps.write_settings(Settings { fast_path: 0, source_check: 1 })?;
        }
        let held = Held::read(&maps, Instant::now())?;
        let handles = pins.handles()?;
        let mut sink = EbpfSink {
            pins,
            handles,
            programs,
            maps,
            held,
            options: options.clone(),
            interfaces: BTreeMap::new(),
            attachments: BTreeMap::new(),
        };
        sink.find_links()?;
        give_back_heap();
        Ok((sink, Opened { adopted, replaced: differences.unwrap_or_default() }))
    }

    /// The host side of a pod's veth. Idempotent: call it again when the interface changed (MAC, up, its peer
    /// moved), or to make sure that the program is still there.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), Error> {
        let interface = self.look_at(ifindex)?;
        self.programs.attach_tc(&self.pins, Program::PodTc, &interface)?;
        self.note(ifindex, Program::PodTc, None);
        Ok(())
    }

    /// An uplink: `uplink_tc`, and `uplink_xdp` where the driver has native XDP; the attachment says why not.
    /// Idempotent, as [`Self::attach_pod`].
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<Attachment, Error> {
        let interface = self.look_at(ifindex)?;
        let Some(Mac(mac)) = interface.mac else { return Err(Error::NotEthernet { ifindex }) };
        // Without its own MAC in the map the program takes every frame for another's.
        self.maps.write_uplink(ifindex, mac)?;
        // TC drops what XDP does not; its failure must not cost both.
        let xdp = self
            .programs
            .attach_xdp(&self.pins, &interface)
            .unwrap_or_else(|error| XdpState::Absent(error.to_string()));
        if xdp != XdpState::Native {
            self.maps.remove_uplink(ifindex)?;
        }
        self.programs.attach_tc(&self.pins, Program::UplinkTc, &interface)?;
        Ok(self.note(ifindex, Program::UplinkTc, Some(xdp)))
    }

    /// What an earlier call pinned and somebody has removed since. Maps are pinned again; links are not, for they
    /// went with their pins: attach to those interfaces again.
    pub fn restore_pins(&mut self) -> Result<Vec<PathBuf>, Error> {
        let mut missing = self.pins.restore(&self.handles)?;
        for ((ifindex, _), attachment) in &self.attachments {
            let programs = match &attachment.xdp {
                None => &[Program::PodTc][..],
                Some(XdpState::Native) => &[Program::UplinkTc, Program::UplinkXdp],
                Some(XdpState::Absent(_)) => &[Program::UplinkTc],
            };
            let paths = programs.iter().map(|program| self.pins.link(*program, *ifindex));
            missing.extend(paths.filter(|path| !path.exists()));
        }
        Ok(missing)
    }

    /// Every link that should be there, as the kernel has it now. A few system calls for each.
    pub fn links(&self) -> Vec<LinkState> {
        let mut found = Vec::new();
        for ((ifindex, _), attachment) in self.attachments.iter().filter(|(_, found)| found.claimed) {
            let programs = match &attachment.xdp {
                None => &[Program::PodTc][..],
                Some(XdpState::Native) => &[Program::UplinkTc, Program::UplinkXdp],
                Some(XdpState::Absent(_)) => &[Program::UplinkTc],
            };
            for program in programs {
                let pin = self.pins.link(*program, *ifindex);
                let seen = match link_state::look(&pin) {
                    Ok(seen) => seen,
                    Err(error) => {
                        tracing::warn!("cannot look at {}: {error}", pin.display());
                        continue;
                    }
                };
                found.push(LinkState {
                    program: program.name(),
                    ifindex: *ifindex,
                    pin,
                    link_id: seen.map_or(0, |seen| seen.link_id),
                    program_id: seen.map_or(0, |seen| seen.program_id),
                    condition: link_state::judge(seen, self.programs.id(*program)),
                });
            }
        }
        found
    }

    /// Takes the programs off an interface, or forgets one that is gone. Not attached is not an error.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        for program in Program::ALL {
            Programs::detach(&self.pins, program, ifindex)?;
        }
        self.maps.remove_uplink(ifindex)?;
        self.interfaces.remove(&ifindex);
        self.attachments.retain(|(attached, _), _| *attached != ifindex);
        Ok(())
    }

    /// Detaches every interface of an earlier run that was not attached again since [`Self::open`].
    pub fn detach_unclaimed(&mut self) -> Result<Vec<u32>, Error> {
        let unclaimed = self.attachments.iter().filter(|(_, attachment)| !attachment.claimed);
        let unclaimed: Vec<(u32, &'static str)> = unclaimed.map(|(key, _)| *key).collect();
        for (ifindex, name) in &unclaimed {
            // An interface may have been a pod's and be an uplink now: only what was not asked for goes.
            for program in Program::ALL {
                let goes = match program {
                    Program::UplinkXdp => *name == Program::UplinkTc.name(),
                    program => program.name() == *name,
                };
                if goes {
                    Programs::detach(&self.pins, program, *ifindex)?;
                }
            }
            if *name == Program::UplinkTc.name() {
                self.maps.remove_uplink(*ifindex)?;
            }
            self.attachments.remove(&(*ifindex, *name));
        }
        let interfaces: BTreeSet<u32> = unclaimed.into_iter().map(|(ifindex, _)| ifindex).collect();
        Ok(interfaces.into_iter().collect())
    }

    /// Writes, then removes; the order within is the sink's business: the more specific goes in before, and leaves
    /// after, what surrounds it. Single routes that the map cannot take are in [`Applied::refused`], and their
    /// packets go through the stack.
    pub fn apply(&mut self, upserts: &[Route], removals: &[Prefix]) -> Result<Applied, Error> {
        let interfaces = &mut self.interfaces;
        let mut interface = |ifindex| known(interfaces, ifindex);
        self.held.apply(&mut self.maps, upserts, removals.iter().copied(), &mut interface)
    }

    /// Makes the map hold exactly these routes, whatever somebody else did to it: it is read back first, and what
    /// is right already is not written. What was written or removed is in the answer.
    pub fn reconcile(&mut self, desired: &[Route]) -> Result<Applied, Error> {
        self.held = Held::read(&self.maps, Instant::now())?;
        let wanted: BTreeSet<Prefix> = desired.iter().map(|route| route.prefix).collect();
        let removals: Vec<Prefix> = self.held.prefixes().filter(|prefix| !wanted.contains(prefix)).collect();
        self.apply(desired, &removals)
    }

    /// What the kernel's maps hold, read back. Compare with [`Self::expected`].
    pub fn dump(&self) -> Result<Vec<Route>, Error> {
        Ok(Held::read(&self.maps, Instant::now())?.routes())
    }

    /// Reads the maps beside this sink, from whatever thread.
    pub fn reader(&self) -> Result<Reader, Error> {
        Ok(Reader { maps: Maps::duplicate(&self.handles)? })
    }

    /// A desired route as [`Self::dump`] should show it: as [`super::held_as`] says; without a pod's MAC where its
    /// interface is gone or no veth into another namespace; and `Pass` where it, or a more specific route, could
    /// not be written (then the next [`Self::apply`] that makes room writes it). A refused route without an older
    /// entry is not in the dump at all.
    pub fn expected(&self, route: &Route) -> Route {
        let interface = match route.action {
            Action::Local { ifindex, .. } => self.interfaces.get(&ifindex),
            _ => None,
        };
        self.held.expected(route, interface)
    }

    /// Redirect, or leave everything to the stack, from the next packet on. Off when the maps are new; else as the
    /// last run left it.
    pub fn set_fast_path(&mut self, on: bool) -> Result<(), Error> {
        let settings = self.maps.settings()?;
        self.maps.write_settings(Settings { fast_path: u32::from(on), ..settings })
    }

    /// Drop what a pod sends from a source that is not its own. On when the maps are new.
    pub fn set_source_check(&mut self, on: bool) -> Result<(), Error> {
        let settings = self.maps.settings()?;
        self.maps.write_settings(Settings { source_check: u32::from(on), ..settings })
    }

    pub fn counters(&self) -> Result<Counters, Error> {
        self.maps.counters()
    }

    pub fn status(&self) -> Result<Status, Error> {
        let settings = self.maps.settings()?;
        let (routes4, routes6) = self.held.counts();
        Ok(Status {
            abi: ABI_VERSION,
            fast_path: settings.fast_path != 0,
            source_check: settings.source_check != 0,
            routes4,
            routes6,
            capacity4: self.options.max_routes4 as usize,
            capacity6: self.options.max_routes6 as usize,
            next_hops: self.held.next_hops(),
            endpoints: self.held.endpoints(),
            attachments: self.attachments.values().cloned().collect(),
        })
    }

    /// Reads the interface anew, and moves its pods' entries to what is so now.
    fn look_at(&mut self, ifindex: u32) -> Result<Interface, Error> {
        let found = interface::find(ifindex).map_err(|source| Error::Interfaces { source })?;
        let found = found.ok_or(Error::NoInterface { ifindex })?;
        if !found.is_ethernet {
            return Err(Error::NotEthernet { ifindex });
        }
        let before = self.interfaces.insert(ifindex, found.clone());
        if before.is_some_and(|before| before != found) {
            let routes = self.held.routes_to(ifindex);
            self.apply(&routes, &[])?;
        }
        Ok(found)
    }

    fn note(&mut self, ifindex: u32, program: Program, xdp: Option<XdpState>) -> Attachment {
        let attachment = Attachment { ifindex, program: program.name(), xdp, claimed: true };
        self.attachments.insert((ifindex, program.name()), attachment.clone());
        attachment
    }

    fn find_links(&mut self) -> Result<(), Error> {
        let found = self.pins.found_links()?;
        let has_xdp = |ifindex| found.contains(&(Program::UplinkXdp, ifindex));
        for (program, ifindex) in found.iter().copied() {
            let (program, xdp) = match program {
                Program::PodTc => (program, None),
                Program::UplinkTc if !has_xdp(ifindex) => {
                    (program, Some(XdpState::Absent("not tried yet in this run".into())))
                }
                // A link that only XDP has is listed with the uplink's, so that it is found and removed too.
                Program::UplinkTc | Program::UplinkXdp => (Program::UplinkTc, Some(XdpState::Native)),
            };
            let attachment = Attachment { ifindex, program: program.name(), xdp, claimed: false };
            self.attachments.insert((ifindex, program.name()), attachment);
        }
        Ok(())
    }
}

/// The kernel's maps for reading. A large table takes seconds to read, which the sink's owner may not have.
#[derive(Debug)]
pub struct Reader {
    maps: Maps,
}

impl Reader {
    /// As [`EbpfSink::dump`].
    pub fn dump(&self) -> Result<Vec<Route>, Error> {
        Ok(Held::read(&self.maps, Instant::now())?.routes())
    }
}

/// What is known of a pod's interface; asked of the kernel the first time. What cannot be read is as good as gone.
fn known(interfaces: &mut BTreeMap<u32, Interface>, ifindex: u32) -> Option<Interface> {
    if let Some(known) = interfaces.get(&ifindex) {
        return Some(known.clone());
    }
    let found = interface::find(ifindex).ok().flatten()?;
    interfaces.insert(ifindex, found.clone());
    Some(found)
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
