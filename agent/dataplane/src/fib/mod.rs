//! The kernel FIB sink.

mod error;
mod report;

pub use error::FibError;
pub use report::{AuditReport, FibRoute, FibState, FibStatus};
