//! For unit tests that need a kernel of their own.

use std::{process::Command, thread};

use nix::sched::{CloneFlags, unshare};

pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// On a thread in a fresh network namespace, which vanishes with it, with one network: `e0` (10.0.0.1/24), up.
pub(crate) fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; run as root");
        ip("link add e0 type veth peer name e1");
        ip("addr add 10.0.0.1/24 dev e0");
        ip("link set e0 up");
        ip("link set e1 up");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
