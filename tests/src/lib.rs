//! The lab in which Manx runs for real: hosts, pods and a switch as network namespaces on one machine, `manxd` or
//! BIRD 2 on every host, and traffic whose losses are counted. Scenarios stand in `tests/`, and `cargo xtask demo`
//! plays one for an audience. Nothing here knows how Manx works inside: it starts the programs, applies resources
//! and looks at kernels, maps and the local API from outside.
#![warn(clippy::unwrap_used)]

pub mod bird;
pub mod cluster;
pub mod echo;
pub mod etcd;
pub mod host;
pub mod http;
pub mod kernel;
pub mod lab;
pub mod netns;
pub mod pair;
pub mod peers;
pub mod plan;
pub mod process;
pub mod programs;
pub mod story;
pub mod stream;
pub mod talk;
pub mod tcx;
pub mod traffic;
pub mod wait;
pub mod watch;
