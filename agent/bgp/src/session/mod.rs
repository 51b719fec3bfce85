//! One peer and its connections, without the routes: what is negotiated, who dials and when, which timers run.
//! [`crate::speaker`] puts it together with the RIB.

pub mod connection;
pub mod negotiation;
pub mod peer;
pub mod timers;
