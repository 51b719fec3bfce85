//! From what the speaker learned and what this node owns to what it forwards: one table of desired routes
//! ([`route::Route`]) and two sinks, the kernel FIB and the eBPF maps, each reconciled to it. This crate does
//! not know BGP; it is given prefixes and next hops and says which next hops can be reached.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod dataplane;
pub mod ebpf;
pub mod fib;
#[cfg(fuzzing)]
pub mod fuzzing;
#[cfg(test)]
mod isolated;
pub mod kernel;
pub mod netfilter;
mod netlink;
pub mod pods;
pub mod reach;
pub mod resolve;
pub mod route;
mod silent;
pub mod switches;
pub mod table;

pub use dataplane::{
    Config, DEFAULT_PROTOCOL, Dataplane, LinkChange, NotWritten, OpenError, Report, Step, WRITTEN_AT_ONCE,
    cleanup, read_back, relabel,
};
pub use fib::Relabelled;
