//! What the kernel refuses, and what there is then. The kernel's own verifier answers; only the numbers that it is asked
//! for are chosen here.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::*;
use crate::ebpf::Condition;

/// In a network namespace and with a BPF filesystem that vanish with the thread.
fn apart(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("these tests need root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
        test();
    });
    thread.join().unwrap();
}

/// With programs on an uplink.
fn attach(sink: &mut EbpfSink) {
    let made = Command::new("ip").args("link add up0 type veth peer name wire0".split(' ')).status();
    assert!(made.unwrap().success());
    sink.attach_uplink(nix::net::if_::if_nametoindex("up0").unwrap()).unwrap();
}

/// Of the programs on the uplink, all of which are ours.
fn attached(sink: &EbpfSink) -> Vec<u32> {
    let links = sink.links();
    assert!(links.iter().all(|link| link.condition == Condition::Attached), "{links:?}");
    links.iter().map(|link| link.program_id).collect()
}

fn why(sink: &EbpfSink) -> &str {
    match sink.guard() {
        Guard::Available => "it is there",
        Guard::Absent(why) => why,
    }
}

#[test]
fn where_the_kernel_refuses_the_guard_the_other_programs_are_there_and_its_reason_is_said() {
    apart(|| {
        let (mut sink, _) = open_with(&Options::default(), kfunc::calling_nobody).unwrap();
        println!("{}", why(&sink));
        // The verifier's own words for a function that is none.
        assert!(why(&sink).contains("the kernel refused program pod_tc"), "{}", why(&sink));
        assert!(why(&sink).contains("2147483632 is not a function"), "{}", why(&sink));
        assert!(why(&sink).ends_with("restart manxd to try again"), "{}", why(&sink));
        attach(&mut sink);
        assert_eq!(attached(&sink).len(), 2);
        sink.pulse().unwrap();
    });
}

#[test]
fn the_operator_is_told_to_allow_jit_where_that_is_what_the_guard_wants() {
    let reason = "Unknown error 524 (os error 524): JIT is required for calling kernel function".to_owned();
    let why = why_refused(&Error::Program { program: "pod_tc", reason });
    assert!(why.ends_with("set net.core.bpf_jit_enable=1 and restart manxd"), "{why}");
}

static ASKED: AtomicU32 = AtomicU32::new(0);

fn unable(_: &[u8]) -> Result<Resolved, Error> {
    ASKED.fetch_add(1, Ordering::Relaxed);
    Err(Error::Load { reason: "no memory".into() })
}

#[test]
fn a_guard_that_could_not_be_taken_up_is_tried_again_later_and_one_that_the_kernel_refuses_is_not() {
    apart(|| {
        let (mut sink, _) = open_with(&Options::default(), kfunc::calling_nobody).unwrap();
        attach(&mut sink);
        let (before, now) = (attached(&sink), Instant::now());
        let asked = || ASKED.load(Ordering::Relaxed);
        sink.module = ModuleAsked::NotYet;
        assert!(!sink.take_up(false, unable, now).unwrap());
        assert_eq!(asked(), 0, "there is no module");
        assert!(sink.take_up(true, unable, now).is_err());
        assert!(why(&sink).contains("no memory"), "{}", why(&sink));
        assert!(!sink.take_up(true, unable, now + Duration::from_secs(29)).unwrap());
        assert_eq!(asked(), 1);
        let later = now + Duration::from_secs(30);
        assert!(sink.take_up(true, unable, later).is_err());
        assert_eq!((asked(), attached(&sink)), (2, before.clone()));

        let later = later + Duration::from_secs(30);
        assert!(!sink.take_up(true, kfunc::calling_nobody, later).unwrap());
        assert!(why(&sink).contains("is not a function"), "{}", why(&sink));
        assert!(!sink.take_up(true, unable, later + Duration::from_secs(3600)).unwrap());
        assert_eq!((asked(), attached(&sink)), (2, before.clone()), "the kernel has answered");

        // The module goes and comes again.
        assert!(!sink.take_up(false, unable, later).unwrap());
        let has_guard = kfunc::resolve(OBJECT).unwrap().guard.is_available();
        assert_eq!(sink.take_up(true, kfunc::resolve, later).unwrap(), has_guard);
        assert_eq!(attached(&sink) != before, has_guard);
    });
}
