//! Whole clusters of speakers in virtual time: hundreds to thousands of real [`manx_bgp::Speaker`]s over a simulated
//! network in which connections delay, reset, stall and lose touch, and nodes die, freeze and come back. A run
//! follows from its seed alone. At its end a model says which routes exist, and every node must have exactly those.
//!
//! Beside it, for tests and for fuzzing: a peer's messages written by hand, right and wrong ([`wire`]), a speaker
//! among played peers ([`stage`]), and one that does whatever bytes tell it to ([`input`]). All of it uses the speaker's public interface only. Real sockets,
//! kernels and other BGP implementations are for the network-namespace lab.
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used)]

pub mod cluster;
pub mod dice;
pub mod input;
pub mod network;
pub mod stage;
pub mod wire;
