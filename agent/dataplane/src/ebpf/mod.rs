//! The eBPF sink: loads the programs, keeps maps and links pinned so that forwarding outlives the agent, and
//! writes the desired routes into the map. It is given routes and interfaces and decides neither. Every call is
//! synchronous and short; the kernel's answers come back as [`Error`] with what to do about it.
//!
//! Layout of the pins: maps under `<bpf-dir>/v<ABI>/`, links under `<bpf-dir>/links/`, so that a link is handed
//! from one ABI's programs to the next's without a packet in between. Pinned maps of this ABI that differ (another
//! size was configured) are made anew, and filled before a link gets the new program.

mod detach;
mod error;
mod held;
mod ids;
mod interface;
mod link_state;
mod links;
mod maps;
pub mod netfilter;
mod object;
mod pin_watch;
mod pins;
mod sink;
mod status;

pub use error::Error;
pub use held::held_as;
pub use link_state::{Condition, LinkState};
pub use object::OBJECT;
pub use pin_watch::{PinWatch, Removal};
pub use pins::cleanup;
pub use sink::{EbpfSink, Options, Reader, give_back_heap};
pub use status::{Applied, Attachment, Counters, Opened, Refusal, Refused, Status, XdpState};
