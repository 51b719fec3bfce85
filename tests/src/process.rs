//! Processes with an end: a command that is bounded in time, and a daemon whose log is a file and which is signalled
//! by its own process id.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::netns::Netns;

/// A command that has run to its end.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The namespace and the line, for messages.
    pub place: String,
    pub line: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Its standard output if it exited with 0; else an error that has the line, the code and what it complained of.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!(
            "{}: `{}` ended with {}\n{}{}",
            self.place,
            self.line,
            self.status,
            self.stdout,
            self.stderr.trim_end()
        )
    }
}

/// Waits for `child`, whose output is piped; kills it when `limit` has passed.
pub fn finish(child: Child, place: &str, line: &str, limit: Duration) -> Result<Finished> {
    let pid = pid_of(&child);
    let (tx, rx) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more if even the kill below did not help.
        let _ = tx.send(child.wait_with_output());
    });
    let output = match rx.recv_timeout(limit) {
        Ok(output) => output?,
        Err(_) => {
            // It may have ended in this very moment.
            let _ = kill(pid, Signal::SIGKILL);
            let said = match rx.recv_timeout(Duration::from_secs(2)) {
                Ok(Ok(o)) => {
                    format!("{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr))
                }
                _ => String::new(),
            };
            bail!("{place}: `{line}` did not end within {limit:?}\n{said}");
        }
    };
    Ok(Finished {
        place: place.to_owned(),
        line: line.to_owned(),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("the kernel's process ids fit 22 bits"))
}

/// A long-running process in a namespace. Dropped, it is killed.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Option<Child>,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` in `ns`; both outputs are appended to `log`.
    pub fn start(ns: &Netns, name: &str, mut command: Command, log: &Path) -> Result<Daemon> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("{}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).process_group(0);
        let child = ns.spawn(command).with_context(|| format!("{}: cannot start {name}", ns.name()))?;
        Ok(Daemon { name: name.to_owned(), child: Some(child), log: log.to_owned() })
    }

    /// Its process id, as the owner sees it.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("it is taken only when the daemon is consumed")
    }

    /// An error with the end of its log if it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        let child = self.child.as_mut().expect("it is taken only when the daemon is consumed");
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended by itself with {status}; its log ends:\n{}", self.name, self.log_end(30))
            }
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(pid_of(self.child()), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(self, limit: Duration) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM, limit)
    }

    /// Sends SIGKILL, which no process can answer, and waits for the end.
    pub fn kill(self) -> Result<ExitStatus> {
        self.end(Signal::SIGKILL, Duration::from_secs(5))
    }

    fn end(mut self, signal: Signal, limit: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        let mut child = self.child.take().expect("it is taken only here");
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!(
                    "{} did not end within {limit:?} of {signal}; its log ends:\n{}",
                    self.name,
                    self.log_end(30)
                );
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything it has logged, over all its starts.
    pub fn log_text(&self) -> io::Result<String> {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub fn log_end(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

/// The last lines of a file, or why it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(e) => format!("({}: {e})", path.display()),
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already, which is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_and_named() {
        let started = Instant::now();
        let child = sh("echo so far; exec sleep 60");
        // On a machine that is busy elsewhere the shell may not have spoken within the limit.
        let name = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&name).unwrap() != "sleep\n" {
            assert!(started.elapsed() < Duration::from_secs(30), "the shell does not get on");
            thread::sleep(Duration::from_millis(1));
        }
        let error = finish(child, "here", "sleep 60", Duration::from_millis(100));
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("here: `sleep 60` did not end within 100ms") && text.contains("so far"),
            "{text}"
        );
        assert!(started.elapsed() < Duration::from_secs(60), "it was waited for");
    }

    #[test]
    fn a_failed_command_says_what_it_complained_of() {
        let finished = finish(sh("echo why >&2; exit 3"), "here", "x", Duration::from_secs(5)).unwrap();
        let text = finished.success().unwrap_err().to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("why"), "{text}");
    }
}
