//! A network namespace without a name: nothing appears in /run/netns, and nothing is left when its owner dies. A
//! thread stands in it and starts processes or opens sockets there on request; beside it a `cat` holds it open and
//! can be named by its process id (`nsenter -t PID -n`). When the owner goes, even by SIGKILL, the pipe on which
//! that `cat` reads closes, it exits, and the kernel takes the namespace down. What stands inside is of [`crate::lab`].

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt,
    },
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{
    process::{Finished, finish},
    wait::slower,
};

/// A command inside a namespace may take this long unless it is told otherwise.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce() + Send>;

/// What a thread does to arrive in its namespaces, before anything else runs on it.
type Entry = Box<dyn FnOnce() -> Result<()> + Send>;

#[derive(Debug)]
pub struct Netns {
    name: String,
    /// Directories searched before the system's, and variables set, for every command that runs here.
    environment: Vec<(String, String)>,
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Taken only when the namespace is dropped.
    holder: Option<Child>,
    /// Closing it ends the holder.
    lifeline: Option<ChildStdin>,
}

impl Netns {
    /// A network namespace that shares everything else with its owner.
    pub fn new(name: &str) -> Result<Netns> {
        Netns::enter(name, Box::new(|| unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")))
    }

    /// A network namespace with mounts, host name and process ids of its own: its processes end with it.
    /// `arrange` runs inside, where mounts are private, before any process does.
    pub fn with_own_system(
        name: &str,
        arrange: impl FnOnce() -> Result<()> + Send + 'static,
    ) -> Result<Netns> {
        let flags = CloneFlags::CLONE_FS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWPID;
        Netns::enter(
            name,
            Box::new(move || {
                unshare(flags).context("namespaces of network, mounts, host name and process ids")?;
                arrange()
            }),
        )
    }

    /// A network namespace of its own in the mounts, host name and process ids of `host`.
    pub fn inside(name: &str, host: &Netns) -> Result<Netns> {
        let of_host = host.proc_path("ns");
        Netns::enter(
            name,
            Box::new(move || {
                // A thread that shares its working directory with others may not change its mounts.
                unshare(CloneFlags::CLONE_FS)?;
                for (kind, flag) in [
                    ("mnt", CloneFlags::CLONE_NEWNS),
                    ("uts", CloneFlags::CLONE_NEWUTS),
                    ("pid", CloneFlags::CLONE_NEWPID),
                ] {
                    let namespace = fs::File::open(of_host.join(kind))?;
                    setns(namespace, flag).with_context(|| format!("the host's {kind} namespace"))?;
                }
                unshare(CloneFlags::CLONE_NEWNET).context("a network namespace")
            }),
        )
    }

    fn enter(name: &str, entry: Entry) -> Result<Netns> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (arrived, arrival) = mpsc::channel();
        let thread = thread::Builder::new().name(format!("ns {name}")).spawn(move || {
            let held = entry().and_then(|()| hold());
            let ready = held.is_ok();
            // The owner waits for this message; had it gone, there would be nothing to stand here for.
            if arrived.send(held).is_err() || !ready {
                return;
            }
            for job in queue {
                job();
            }
        })?;
        let held = arrival.recv().map_err(|_| anyhow!("its thread ended early"));
        let (holder, lifeline) = held.and_then(|held| held).with_context(|| {
            format!("cannot make the namespace {name} (it takes root, or CAP_SYS_ADMIN and CAP_NET_ADMIN)")
        })?;
        Ok(Netns {
            name: name.to_owned(),
            environment: Vec::new(),
            jobs: Some(jobs),
            thread: Some(thread),
            holder: Some(holder),
            lifeline: Some(lifeline),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sets a variable for every command that runs here from now on.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.environment.retain(|(n, _)| n != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// A process id, as the owner sees it, by which `nsenter` and `ip link set … netns` find this namespace.
    pub fn pid(&self) -> u32 {
        self.holder.as_ref().expect("it holds until the namespace is dropped").id()
    }

    /// `/proc/PID/…` of the process that holds the namespace.
    pub fn proc_path(&self, rest: &str) -> PathBuf {
        Path::new("/proc").join(self.pid().to_string()).join(rest)
    }

    /// Runs `job` on the thread that stands in the namespace: a socket that it opens belongs there. It must not
    /// start threads: the kernel refuses them to a thread whose children go to another PID namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (tx, rx) = mpsc::channel();
        let boxed: Job = Box::new(move || {
            // Whoever asked may have gone; then nobody wants the answer.
            let _ = tx.send(catch_unwind(AssertUnwindSafe(job)));
        });
        let jobs = self.jobs.as_ref().expect("the queue is there until the namespace is dropped");
        jobs.send(boxed).expect("the thread takes jobs until the namespace is dropped");
        match rx.recv().expect("a job answers even if it panics") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Starts a process inside.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        self.run(move || command.spawn())
    }

    /// Runs a command line inside to its end, whatever its exit code. Words are split at blanks; there is no shell.
    pub fn output(&self, line: &str) -> Result<Finished> {
        self.output_within(line, COMMAND_LIMIT * slower())
    }

    pub fn output_within(&self, line: &str, limit: Duration) -> Result<Finished> {
        let mut words = line.split_whitespace();
        let program = words.next().with_context(|| format!("{}: an empty command", self.name))?;
        let mut command = Command::new(program);
        command.args(words);
        self.complete(command, line, limit)
    }

    /// The same for a line that a shell has to read.
    pub fn shell(&self, script: &str) -> Result<Finished> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        self.complete(command, script, COMMAND_LIMIT * slower())
    }

    fn complete(&self, mut command: Command, line: &str, limit: Duration) -> Result<Finished> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawn(command).with_context(|| format!("{}: cannot run `{line}`", self.name))?;
        finish(child, &self.name, line, limit)
    }

    /// Runs a command line inside that must succeed, and gives what it wrote to its standard output.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.output(line)?.success()
    }

    /// Writes `net.ipv4.ip_forward` and its like: the kernel looks below /proc/sys/net by the writer's namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let value = value.to_owned();
        self.run(move || fs::write(&path, value).with_context(|| format!("{}", path.display())))
            .with_context(|| format!("{}: sysctl {key}", self.name))
    }

    /// The descriptor that must stay open for the namespace to live on without its owner.
    pub(crate) fn lifeline(&self) -> BorrowedFd<'_> {
        self.lifeline.as_ref().expect("it closes when the namespace is dropped").as_fd()
    }
}

/// A process that does nothing until its standard input ends. In a new PID namespace it is the first one, and with
/// it every other process there ends.
fn hold() -> Result<(Child, ChildStdin)> {
    let mut cat = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // An interrupt at the terminal is for the owner.
        .process_group(0)
        .spawn()
        .context("cannot run cat")?;
    let lifeline = cat.stdin.take().context("cat has no standard input")?;
    Ok((cat, lifeline))
}

impl Drop for Netns {
    fn drop(&mut self) {
        self.lifeline.take();
        self.jobs.take();
        if let Some(mut holder) = self.holder.take() {
            // Without its pipe it ends by itself, if this fails.
            let _ = holder.kill();
            // The first process of a PID namespace is not gone before every other one there is reaped, and theirs is
            // perhaps a `Child` that is dropped after us.
            thread::spawn(move || holder.wait());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_only_its_own_interfaces_and_a_panic_inside_reaches_the_caller() {
        let ns = Netns::new("alone").unwrap();
        let links = ns.sh("ip -o link").unwrap();
        assert_eq!(links.lines().count(), 1, "{links}");
        assert!(catch_unwind(AssertUnwindSafe(|| ns.run(|| panic!("inside")))).is_err());
        assert_eq!(ns.run(|| 2 + 2), 4, "the thread takes jobs after a panic");
    }

    #[test]
    fn processes_end_with_the_namespace_they_were_started_in() {
        let host = Netns::with_own_system("h", || Ok(())).unwrap();
        let pod = Netns::inside("p", &host).unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("1000");
        let mut sleeper = pod.spawn(sleep).unwrap();
        drop(host);
        let ended = sleeper.wait().unwrap();
        assert!(!ended.success());
    }
}
