//! Unnamed network namespaces, each entered by one thread that carries out what it is given. They vanish with it.

use std::{
    fs,
    process::Command,
    sync::mpsc::{Sender, channel},
    thread::JoinHandle,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

type Job = Box<dyn FnOnce() + Send>;

pub struct Namespace {
    thread_id: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// With `lo` up, forwarding on, and a BPF filesystem of its own at the usual place.
    pub fn new() -> Namespace {
        let (jobs, inbox) = channel::<Job>();
        let (ready, is_ready) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("these tests need root");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
            for (setting, value) in [
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/conf/default/accept_dad", "0"),
            ] {
                fs::write(format!("/proc/sys/net/{setting}"), value).unwrap();
            }
            ip("link set lo up");
            ready.send(gettid().as_raw()).unwrap();
            for job in inbox {
                job();
            }
        });
        let thread_id = is_ready.recv().expect("the namespace was made");
        Namespace { thread_id, jobs: Some(jobs), thread: Some(thread) }
    }

    /// Runs `job` in the namespace and waits for it. A panic in it is the caller's.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done) = channel();
        let job = Box::new(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            // The caller waits for it, so it is there.
            let _ = done.send(result);
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        match is_done.recv().unwrap() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// `ip …` in the namespace.
    pub fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments));
    }

    /// For `ip link … netns`.
    pub fn id(&self) -> i32 {
        self.thread_id
    }

    /// A veth from `here` in this namespace to `there` in another, both up.
    pub fn veth(&self, here: &str, other: &Namespace, there: &str) {
        self.ip(&format!("link add {here} type veth peer name {there} netns {}", other.id()));
        self.ip(&format!("link set {here} up"));
        other.ip(&format!("link set {there} up"));
    }

    pub fn ifindex(&self, name: &str) -> u32 {
        let name = name.to_owned();
        self.run(move || nix::net::if_::if_nametoindex(name.as_str()).unwrap())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// `ip …` in the namespace of this thread.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Its output; a failure is a panic with what it said.
pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; cargo xtask setup brings it"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments}: {out}{err}");
    out.into_owned()
}
