//! One run: a daemon in its namespace, the generator in the other, the daemon weighed before and after. And the
//! order of runs: of a scenario, each daemon has its turn in every round, in another order each time, so that what
//! the machine does meanwhile hits all alike.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use manx_tests::process::{Daemon, tail};
use serde::{Deserialize, Serialize};

use crate::{
    daemons::Which,
    lab::Lab,
    measure::{Machine, Process},
    scenario::Scenario,
    script::Outcome,
};

/// For a daemon to read its configuration and listen.
const START: Duration = Duration::from_secs(20);
/// For the generator to bring sessions up, and for its own last words.
const SLACK: Duration = Duration::from_secs(70);
/// Shorter than this is repeated more often.
const SHORT: f64 = 0.3;
const SHORT_RUNS: usize = 10;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    #[serde(flatten)]
    pub outcome: Outcome,
    /// CPU seconds of the daemon from the clock's start until it was at rest again.
    pub cpu: f64,
    /// Resident bytes before the clock's start, and at the highest.
    pub memory: (u64, u64),
}

/// All runs of a daemon in a scenario.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub samples: Vec<Sample>,
    /// Why there are no more.
    pub failure: Option<String>,
    /// Why there are none.
    pub skipped: Option<String>,
}

pub type Cells = BTreeMap<Which, Cell>;

/// A scenario with all its runs.
#[derive(Clone, Debug)]
pub struct Played {
    pub scenario: Scenario,
    pub cells: Cells,
    /// The share of the machine that others took meanwhile, 0 to 1: they were not what was to be measured.
    pub others: f64,
}

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub runs: usize,
    /// Repeat what is short more often.
    pub extend: bool,
    /// Also what takes minutes.
    pub full: bool,
}

/// Runs a scenario with all of `daemons`, and says each result as it comes.
pub fn scenario(scenario: &Scenario, daemons: &[Which], plan: Plan) -> Result<Played> {
    let began = Machine::look()?;
    let mut cells: Cells = daemons.iter().map(|which| (*which, Cell::default())).collect();
    if scenario.long_for_gobgp
        && !plan.full
        && let Some(cell) = cells.get_mut(&Which::Gobgp)
    {
        cell.skipped = Some("left out, since it takes minutes; --full runs it".to_owned());
        println!("  {:<6} left out, since it takes minutes; --full runs it", Which::Gobgp.name());
    }
    for round in 0..plan.runs.max(if plan.extend { SHORT_RUNS } else { 0 }) {
        for turn in 0..daemons.len() {
            let Some(which) = daemons.get((turn + round) % daemons.len()) else { continue };
            let Some(cell) = cells.get_mut(which) else { continue };
            if !cell.wants(round, plan) {
                continue;
            }
            match once(scenario, *which) {
                Ok(sample) => {
                    println!("  {:<6} {}", which.name(), line(&sample));
                    cell.samples.push(sample);
                }
                Err(error) => {
                    println!("  {:<6} {error:#}", which.name());
                    cell.failure = Some(format!("{error:#}"));
                }
            }
        }
    }
    let others = began.others()?;
    println!("  other processes took {:.0} % of the machine", others * 100.0);
    Ok(Played { scenario: *scenario, cells, others })
}

impl Cell {
    fn wants(&self, round: usize, plan: Plan) -> bool {
        if self.failure.is_some() || self.skipped.is_some() {
            return false;
        }
        let short =
            || median(self.samples.iter().map(|sample| sample.outcome.wall)).is_some_and(|w| w < SHORT);
        // Ten flaps of a run are ten samples.
        let single = || self.samples.iter().all(|sample| sample.outcome.flaps.is_empty());
        round < plan.runs || plan.extend && round < SHORT_RUNS && short() && single()
    }
}

pub fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    // An even number of at least two: there is one before the middle.
    sorted.get(middle - 1).map(|lower| (lower + upper) / 2.0)
}

fn line(sample: &Sample) -> String {
    let outcome = &sample.outcome;
    let wall = match median(outcome.flaps.iter().map(|flap| flap.0)) {
        Some(withdrawn) => {
            let announced = median(outcome.flaps.iter().map(|flap| flap.1)).unwrap_or_default();
            format!("withdraw {withdrawn:.1} ms, announce {announced:.1} ms")
        }
        None => format!("wall {:.3} s", outcome.wall),
    };
    let (fewest, most) = outcome.updates;
    let updates = if fewest == most { fewest.to_string() } else { format!("{fewest}-{most}") };
    let lost = if outcome.lost > 0 { format!(", {} connections lost", outcome.lost) } else { String::new() };
    format!(
        "{wall}, CPU {:.3} s, RSS {:.0} MB, {updates} UPDATEs; generator: CPU {:.3} s{lost}",
        sample.cpu,
        sample.memory.1 as f64 / 1e6,
        outcome.generator_cpu,
    )
}

fn once(scenario: &Scenario, which: Which) -> Result<Sample> {
    let scratch = tempfile::tempdir()?;
    let lab = Lab::new(scenario.clients(), scratch.path())?;
    let command = which.command(scenario, scratch.path())?;
    let mut daemon = Daemon::start(&lab.daemon, which.name(), command, &scratch.path().join("daemon.log"))?;
    let process = Process::new(daemon.pid())?;
    wait_until_it_listens(&mut daemon, process)?;
    process.rest()?;
    let complaints = scratch.path().join("generator.log");
    let mut generator = Generator::start(&lab, scenario, &complaints)?;
    let sample = weigh(&mut generator, process, scenario);
    let sample = sample.and_then(|sample| daemon.check_running().map(|()| sample));
    drop(generator);
    // Its end is not measured.
    daemon.kill()?;
    sample.map_err(|error| {
        let log = tail(&scratch.path().join("daemon.log"), 3);
        let said = tail(&complaints, 2);
        error.context(format!("{said} {log}").trim().to_owned())
    })
}

fn wait_until_it_listens(daemon: &mut Daemon, process: Process) -> Result<()> {
    let limit = Instant::now() + START;
    while !process.listens()? {
        daemon.check_running()?;
        ensure!(Instant::now() < limit, "does not listen after {START:?}: {}", daemon.log_end(5));
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn weigh(generator: &mut Generator, process: Process, scenario: &Scenario) -> Result<Sample> {
    let said = generator.line(SLACK)?;
    ensure!(said == "ready", "the generator said {said}");
    let cpu = process.rest()?;
    let before = process.memory()?;
    generator.go()?;
    let said = generator.line(Duration::from_secs(scenario.limit) + SLACK)?;
    let outcome: Outcome =
        serde_json::from_str(&said).with_context(|| format!("the generator said {said}"))?;
    Ok(Sample { outcome, cpu: process.rest()? - cpu, memory: (before.now, process.memory()?.peak) })
}

/// This program again, as the player of a scenario. Dropped, it is killed.
struct Generator {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Generator {
    fn start(lab: &Lab, scenario: &Scenario, complaints: &Path) -> Result<Generator> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["play", scenario.name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(complaints)?);
        let mut child = lab.generator.spawn(command).context("cannot start the generator")?;
        let stdout = child.stdout.take().context("the generator has no standard output")?;
        let (tx, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody listens once the run is over.
                let _ = tx.send(line);
            }
        });
        Ok(Generator { child, lines })
    }

    fn line(&self, limit: Duration) -> Result<String> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("the generator was silent for {limit:?}"),
            Err(mpsc::RecvTimeoutError::Disconnected) => bail!("the generator gave up"),
        }
    }

    fn go(&mut self) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("the generator has no standard input")?;
        stdin.write_all(b"go\n").context("the generator has gone")
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middles() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }
}
