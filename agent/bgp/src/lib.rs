//! A BGP speaker and route reflector without I/O: no sockets, no clock, no threads, no async. A driver owns
//! those and tells the [`Speaker`] what happened and when; the speaker answers with what to dial, what to
//! write, and which best paths changed. Tests drive many speakers over a simulated network in virtual time.
//!
//! The driver's loop:
//! 1. something happened: [`Speaker::accept`] for a new connection, [`Speaker::handle`] for all else;
//! 2. drain [`Speaker::poll_output`];
//! 3. for each connection that was named by [`Output::Transmit`] and whose socket is writable, call
//!    [`Speaker::transmit`] until it returns less than it was asked for;
//! 4. if [`Speaker::next_wakeup`] is due (or is [`Time::ZERO`], which is: work is waiting), call
//!    [`Speaker::advance`] after the sockets have been read, then start over; else sleep until then.
//!
//! Inside, bytes go one way: `message` and `attr` (the wire, with RFC 7606's outcomes as types), `session` (one
//! peer and its connections), `rib` (paths, the choice, update groups), and `speaker`, which puts them together.
//! What the RFCs leave open, and what was chosen, stands where it is decided.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod attr;
mod config;
mod event;
mod message;
pub mod policy;
mod rib;
mod session;
mod speaker;
#[cfg(test)]
mod tests;
mod time;
pub mod view;

pub use attr::parse::{AttributeError, Outcome};
pub use config::{
    AddPath, Config, Dial, DynamicPeers, ExportRule, Family, GracefulRestart, HoldTime, MaxPrefixes,
    Multipath, NextHopMode, NormalPriority, Originated, OwnHost, Parting, PeerConfig, PeerKey, PoolRule,
    RemoteAs, Role, WellKnown,
};
pub use event::{
    About, BestCause, BestChange, BestPath, ConnId, Event, NextHop, Output, Parted, PartingEvent, PathSource,
    Refusal, SessionEvent, Warning,
};
pub use speaker::Speaker;
pub use time::Time;
