//! Bidirectional Forwarding Detection (RFC 5880) over one hop (RFC 5881) and several (RFC 5883): the packet, the session,
//! and the process that has the sockets and tells manxd what it sees.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

pub mod link;
pub mod packet;
pub mod process;
pub mod session;
mod sockets;
