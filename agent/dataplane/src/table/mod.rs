//! The desired table: best paths, own blocks, pools, pods and what the kernel knows better, made into one
//! action per prefix. Which sink takes which action is decided here and nowhere else.

mod delta;
mod inputs;

pub use delta::Delta;
pub use inputs::{Plan, Pool, PoolWrite};
