//! Runs a command that may take minutes: its output goes to a file, its age to the terminal. On failure the end of
//! the output is shown.

use std::{
    fs::{self, File},
    io::{IsTerminal, Write},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::tree;

/// How often a line is written where no line can be overwritten.
const PIPE_INTERVAL: Duration = Duration::from_secs(20);
/// Lines of a failed command's output that are shown.
const TAIL: usize = 25;

/// Runs `command` to its end. `label` says what happens, such as "building bpf-linker".
pub fn run(label: &str, command: &mut Command) -> Result<()> {
    run_for(label, command, None)
}

/// As [`run`], but the command is killed, and that is the error, when it takes longer than `limit`.
pub fn run_for(label: &str, command: &mut Command, limit: Option<Duration>) -> Result<()> {
    let log = log_file(label)?;
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let mut line = Line::new(label);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if limit.is_some_and(|limit| started.elapsed() > limit) {
            child.kill()?;
            child.wait()?;
            line.clear();
            bail!(
                "{label}: gave up after {} s; its output is in {}",
                started.elapsed().as_secs(),
                log.display()
            );
        }
        line.age(started.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    };
    line.clear();
    if status.success() {
        println!("    {label}: {:.1} s", started.elapsed().as_secs_f32());
        return Ok(());
    }
    let output = fs::read(&log).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    let lines: Vec<&str> = output.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("    | {line}");
    }
    bail!("{label} failed ({status}); its whole output is in {}", log.display())
}

/// The first line that a command prints, or `None` if it cannot be run or fails.
pub fn first_line(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    if !output.status.success() {
        return None;
    }
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}

fn log_file(label: &str) -> Result<PathBuf> {
    let dir = tree::tools().join("log");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let name: String = label.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(dir.join(format!("{name}.log")))
}

struct Line<'a> {
    label: &'a str,
    terminal: bool,
    shown: Duration,
}

impl<'a> Line<'a> {
    fn new(label: &'a str) -> Line<'a> {
        Line { label, terminal: std::io::stdout().is_terminal(), shown: Duration::ZERO }
    }

    fn age(&mut self, age: Duration) {
        if self.terminal {
            print!("\r    {} … {} s", self.label, age.as_secs());
            // A terminal that cannot be written to is no reason to stop.
            let _ = std::io::stdout().flush();
        } else if age > self.shown + PIPE_INTERVAL {
            self.shown = age;
            println!("    {} … {} s", self.label, age.as_secs());
        }
    }

    fn clear(&self) {
        if self.terminal {
            print!("\r\x1b[K");
        }
    }
}
