//! The language of BIRD's control socket, as BIRD 1.6 speaks it and Calico's programs read it: what a command line asks
//! for, and how answers are written. No socket and no router: what there is to show comes in as [`Status`], [`Protocol`]
//! and [`Route`].
//! Moments are shown as BIRD shows them, see [`since`].
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod command;
mod reply;
mod show;

pub use command::{Command, Exported, Pattern, Refusal, Routes, Which, parse};
pub use reply::Reply;
pub use show::{Bgp, Kind, Negotiated, Protocol, Route, Statistics, Status, Way, name_of_session, since};

/// The longest command line, in octets (BIRD's `CLI_RX_BUF_SIZE`).
pub const LONGEST: usize = 4096;
/// All routes are in one table, and it has this name.
pub const TABLE: &str = "master";
