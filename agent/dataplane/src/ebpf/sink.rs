//! The sink as the daemon drives it.

use std::path::{Path, PathBuf};

use manx_net::Prefix;

use super::{Applied, Attachment, Counters, Error, Opened, Status};
use crate::route::Route;

#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a BPF filesystem for all that is pinned; made if it is not there.
    pub bpf_dir: PathBuf,
    /// Entries of the IPv4 and the IPv6 map.
    pub max_routes4: u32,
    pub max_routes6: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options { bpf_dir: "/sys/fs/bpf/manx".into(), max_routes4: 1 << 18, max_routes6: 1 << 18 }
    }
}

#[derive(Debug)]
pub struct EbpfSink {}

#[allow(unused_variables)]
impl EbpfSink {
    /// Loads the programs and takes over what an earlier run pinned. Nothing is attached anew and no link changes
    /// its program before [`Self::attach_pod`] and [`Self::attach_uplink`], so a map that had to be made anew can
    /// be filled first. Heavy (some 60 ms, and a transient heap): call it before threads start.
    pub fn open(options: &Options) -> Result<(EbpfSink, Opened), Error> {
        unimplemented_yet()
    }

    /// The host side of a pod's veth. Call it again when the interface changed (MAC address); it is idempotent.
    pub fn attach_pod(&mut self, ifindex: u32) -> Result<(), Error> {
        unimplemented_yet()
    }

    /// An uplink: `uplink_tc`, and `uplink_xdp` where the driver has native XDP; the attachment says why not.
    /// Idempotent; call it again when the interface changed.
    pub fn attach_uplink(&mut self, ifindex: u32) -> Result<Attachment, Error> {
        unimplemented_yet()
    }

    /// Takes the programs off an interface, or forgets one that is gone. Not attached is not an error.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), Error> {
        unimplemented_yet()
    }

    /// Detaches every interface of an earlier run that was not attached again since [`Self::open`].
    pub fn detach_unclaimed(&mut self) -> Result<Vec<u32>, Error> {
        unimplemented_yet()
    }

    /// Writes and removes; the order within is the sink's business: the more specific goes in before, and leaves
    /// after, what surrounds it. An error means that the kernel failed as a whole; single routes are in
    /// [`Applied::refused`].
    pub fn apply(&mut self, upserts: &[Route], removals: &[Prefix]) -> Result<Applied, Error> {
        unimplemented_yet()
    }

    /// Makes the map hold exactly these routes. What is right already is not written.
    pub fn reconcile(&mut self, desired: &[Route]) -> Result<Applied, Error> {
        unimplemented_yet()
    }

    /// What the kernel's maps hold, read back. A route with several next hops is held as [`crate::route::Action::Pass`]:
    /// compare with [`held_as`].
    pub fn dump(&self) -> Result<Vec<Route>, Error> {
        unimplemented_yet()
    }

    /// Redirect, or leave everything to the stack. With the next packet.
    pub fn set_fast_path(&mut self, on: bool) -> Result<(), Error> {
        unimplemented_yet()
    }

    /// Drop what a pod sends from a source that is not its own. On unless switched off.
    pub fn set_source_check(&mut self, on: bool) -> Result<(), Error> {
        unimplemented_yet()
    }

    pub fn counters(&self) -> Result<Counters, Error> {
        unimplemented_yet()
    }

    pub fn status(&self) -> Result<Status, Error> {
        unimplemented_yet()
    }
}

/// The route as the map can hold it.
pub fn held_as(route: &Route) -> Route {
    route.clone()
}

/// Removes every pin of any version under `bpf_dir`, and the directory. Programs are detached by that, and the maps
/// go with them. Returns how many pins there were; 0 if the directory does not exist.
pub fn cleanup(bpf_dir: &Path) -> Result<usize, Error> {
    let _ = bpf_dir;
    unimplemented_yet()
}

fn unimplemented_yet<T>() -> Result<T, Error> {
    Err(Error::Load { reason: "not built".into() })
}
