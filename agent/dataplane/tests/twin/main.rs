//! Two nodes that differ in one thing: the one runs the programs, its twin is the kernel alone. Whatever is sent at
//! both, in whatever order, must come out of both in the same way, octet for octet, ICMP errors included. Needs root.
//!
//! `MANX_PACKETS` says how many random packets each test sends, `MANX_SEED` repeats a run, `MANX_RECORD=1` records the
//! real traffic anew that is replayed.

mod compare;
mod differential;
mod flows;
mod kinds;
mod lab;
mod model;
#[path = "../ebpf/namespace.rs"]
mod namespace;
mod packets;
mod random;
mod record;
mod replay;
mod several;
mod tables;
mod tagged;
mod tracked;
mod wire;
