//! Addresses and numbers that every room of the house shares: prefixes without host bits and AS numbers
//! that cannot be zero. No I/O, no protocol: what a route *is* belongs to `manx-bgp` (paths) and to
//! `manx-dataplane` (actions).
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod asn;
mod prefix;

pub use asn::{Asn, ParseAsnError};
pub use prefix::{ParsePrefixError, Prefix, Prefix4, Prefix6};
