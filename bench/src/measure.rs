//! What a daemon costs, read from the kernel without the daemon's help: CPU time by its process clock (nanoseconds,
//! all threads, those that have ended included), memory from /proc.

use std::{
    fs,
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike,
    },
    time::ClockId,
    unistd::{Pid, SysconfVar, sysconf},
};

/// A daemon is at rest when it takes less than [`QUIET_CPU`] within this time.
const QUIET: Duration = Duration::from_millis(200);
const QUIET_CPU: f64 = 0.002;
/// Some daemons are never at rest.
const QUIET_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
pub struct Process(Pid);

impl Process {
    pub fn new(pid: u32) -> Result<Process> {
        Ok(Process(Pid::from_raw(i32::try_from(pid)?)))
    }

    /// CPU seconds since its start.
    pub fn cpu(self) -> Result<f64> {
        let clock = ClockId::pid_cpu_clock_id(self.0).context("the daemon's CPU clock")?;
        // Exact up to centuries of CPU time.
        Ok(clock.now()?.num_nanoseconds() as f64 / 1e9)
    }

    /// Waits until it is at rest, and gives the CPU seconds since its start.
    pub fn rest(self) -> Result<f64> {
        let limit = Instant::now() + QUIET_LIMIT;
        let mut before = self.cpu()?;
        loop {
            sleep(QUIET);
            let now = self.cpu()?;
            if now - before < QUIET_CPU || Instant::now() > limit {
                return Ok(now);
            }
            before = now;
        }
    }

    /// Resident memory in bytes: now, and at its highest. From smaps_rollup, which counts pages, where status adds
    /// up per-CPU counters that lag behind.
    pub fn memory(self) -> Result<Memory> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.0))?;
        let status = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        Ok(Memory { now: field(&rollup, "Rss:")?, peak: field(&status, "VmHWM:")? })
    }

    /// Whether somebody listens on port 179 in its network namespace.
    pub fn listens(self) -> Result<bool> {
        let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.0))?
            + &fs::read_to_string(format!("/proc/{}/net/tcp6", self.0)).unwrap_or_default();
        Ok(sockets.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            // 0x0a is TCP_LISTEN.
            words.next().is_some_and(|local| local.ends_with(":00B3")) && words.nth(1) == Some("0A")
        }))
    }
}

/// CPU seconds of this process, or of those children that it has waited for.
pub fn usage(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    // Exact up to centuries of CPU time.
    Ok(micros as f64 / 1e6)
}

/// What the whole machine and what the benchmark had worked at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    at: Instant,
    /// CPU seconds of everybody, and stolen by other machines on the same hardware.
    busy: f64,
    /// CPU seconds of this process and of the runs that are over.
    own: f64,
}

impl Machine {
    pub fn look() -> Result<Machine> {
        let stat = fs::read_to_string("/proc/stat")?;
        let first = stat.lines().next().context("an empty /proc/stat")?;
        let ticks: Vec<u64> = first.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
        // user, nice, system, and after idle, iowait, irq and softirq: steal (proc_stat(5)).
        let busy: u64 = [0, 1, 2, 7].iter().filter_map(|n| ticks.get(*n)).sum();
        let hertz = sysconf(SysconfVar::CLK_TCK)?.context("no CLK_TCK")?;
        let own = usage(UsageWho::RUSAGE_SELF)? + usage(UsageWho::RUSAGE_CHILDREN)?;
        Ok(Machine { at: Instant::now(), busy: busy as f64 / hertz as f64, own })
    }

    /// The share of the machine that others took since then, 0 to 1. It is counted in ticks, so it means something
    /// over seconds.
    pub fn others(self) -> Result<f64> {
        let now = Machine::look()?;
        let cores = thread::available_parallelism()?.get();
        let whole = (now.at - self.at).as_secs_f64() * cores as f64;
        let others = (now.busy - self.busy) - (now.own - self.own);
        Ok((others / whole).clamp(0.0, 1.0))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now: u64,
    pub peak: u64,
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes =
        line.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no {name}"))?;
    Ok(kilobytes.parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_process_runs_while_it_works_and_its_memory_is_that_of_its_pages() {
        let own = Process::new(std::process::id()).unwrap();
        let before = own.cpu().unwrap();
        let page = vec![1_u8; 32 << 20];
        let sum: u64 = page.iter().map(|b| u64::from(*b)).sum();
        assert_eq!(sum, 32 << 20);
        assert!(own.cpu().unwrap() > before);
        let memory = own.memory().unwrap();
        assert!(memory.now > 32 << 20, "{memory:?}");
        assert!(memory.peak + (1 << 20) > memory.now, "{memory:?}");
        drop(page);
    }
}
