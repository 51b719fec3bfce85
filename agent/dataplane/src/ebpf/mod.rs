//! The eBPF sink: loads the programs, keeps maps and links pinned so that forwarding outlives the agent, and
//! writes the desired routes into the map. It is given routes and interfaces and decides neither. Every call is
//! synchronous and short; the kernel's answers come back as [`Error`] with what to do about it.
//!
//! Layout of the pins: maps under `<bpf-dir>/v<ABI>/`, links under `<bpf-dir>/links/`, so that a link is handed
//! from one ABI's programs to the next's without a packet in between. Pinned maps of this ABI that differ (another
//! size was configured) are made anew, and filled before a link gets the new program.

mod apply;
mod audit;
mod blocks6;
mod btf;
mod buckets;
#[cfg(test)]
mod budget;
mod counter_ids;
mod entries;
mod error;
mod foreign;
mod generation;
mod groups;
mod held;
#[cfg(any(test, fuzzing))]
pub(crate) mod hostile;
mod ids;
mod index;
mod interface;
mod kfunc;
mod link_state;
mod links;
mod load;
mod maps;
mod module;
mod object;
mod options;
mod outside;
mod pin_watch;
mod pins;
mod places;
mod pools;
mod program;
mod reader;
mod settings;
mod sink;
mod status;
mod syscall;
mod take_off;

pub use manx_abi::Tally;

pub use audit::MapPart;
pub use error::Error;
pub use held::held_as;
pub use index::NotIndexed;
pub use kfunc::{Guard, resolve};
pub use link_state::{Condition, LinkState};
pub use load::give_back_heap;
pub use object::OBJECT;
pub use options::{BadSize, Options, Sizes};
pub use pin_watch::{PinWatch, Removal};
pub use pins::{Restored, cleanup};
pub use pools::{PoolNotIndexed, PoolSpec};
pub use reader::{CountedRoutes, Reader};
pub use settings::{InterfaceSettings, KeepAlive, Mode, SourceCheck, WayBack};
pub use sink::{EbpfSink, PULSE_LIMIT};
pub use status::{
    Applied, Attachment, Counters, Fault, HookCounts, InterfaceCounts, MapFill, Opened, Refusal, Refused,
    Status, XdpState,
};
pub use take_off::{TakenOff, take_off};
