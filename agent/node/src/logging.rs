//! Log lines on standard error, as text or JSON. Whoever reads them may end or stop reading, and a disk may be full:
//! then lines are lost, counted, and nothing else. No session waits for a logger, and no daemon ends with it.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write, stderr},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, filter::LevelFilter, fmt, layer::SubscriberExt, reload,
    util::SubscriberInitExt,
};

use crate::cli::LogFormat;

/// What `--log-level` lets through.
pub fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let what = || {
        format!(
            "the log level \"{level}\": write error, warn, info, debug or trace, or directives such as warn,manxd=debug"
        )
    };
    // A word alone that is no level names a module to the filter, and everything else falls silent.
    if let Some(word) = level.split(',').map(str::trim).find(|part| is_unknown(part)) {
        bail!("{}; \"{word}\" is no level", what());
    }
    EnvFilter::builder().parse(level).with_context(what)
}

pub fn start(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    // What goes wrong with writing it would tell on standard error, too, and panic there.
    let lines = fmt::layer().with_writer(Arc::new(Lines::to(stderr()))).log_internal_errors(false);
    let registry = tracing_subscriber::registry();
    let started = match format {
        LogFormat::Text => {
            let lines = lines.with_ansi(stderr().is_terminal()).with_target(false);
            registry.with(lines.with_filter(filter)).try_init()
        }
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_filter(filter)).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start the log: {error}"))?;
    // It starts once.
    let _ = LEVEL.set(Level { handle, text: Mutex::new(level.to_owned()) });
    Ok(())
}

/// What the log lets through now.
pub fn level() -> Option<String> {
    let text = LEVEL.get()?.text.lock().unwrap_or_else(PoisonError::into_inner);
    Some(text.clone())
}

/// The log lets this through from now on, until the daemon ends.
pub fn set_level(level: &str) -> anyhow::Result<()> {
    let filter = filter(level)?;
    let log = LEVEL.get().context("there is no log")?;
    log.handle.reload(filter).context("cannot change the log")?;
    level.clone_into(&mut log.text.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(())
}

struct Level {
    handle: reload::Handle<EnvFilter, Registry>,
    text: Mutex<String>,
}

static LEVEL: OnceLock<Level> = OnceLock::new();

/// Lines that were lost since the last call, since nobody read them or nothing had room for them.
pub fn lost() -> u64 {
    LOST.swap(0, Ordering::Relaxed)
}

static LOST: AtomicU64 = AtomicU64::new(0);

/// The last lines, oldest first.
pub fn last() -> Vec<String> {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.lines.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

static LAST: Mutex<Last> = Mutex::new(Last { lines: VecDeque::new(), size: 0 });

/// Octets of lines that are kept for whoever asks.
const KEPT: usize = 256 << 10;

#[derive(Debug)]
struct Last {
    lines: VecDeque<Box<[u8]>>,
    size: usize,
}

impl Last {
    fn keep(&mut self, line: &[u8]) {
        let line = line.get(..line.len().min(KEPT)).unwrap_or(line);
        self.size += line.len();
        self.lines.push_back(line.into());
        while self.size > KEPT {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.size -= oldest.len();
        }
    }
}

/// Octets that a pipe has room for when it can be written to (`PIPE_BUF`).
const CERTAIN: usize = 4096;
/// How long a reader may take, in milliseconds, before it counts as one that does not read.
const PATIENCE: u8 = 100;

/// A place for lines, one for each call of `write`.
#[derive(Debug)]
struct Lines<F> {
    to: F,
    /// The last line found no room.
    stuck: AtomicBool,
}

impl<F: AsFd> Lines<F> {
    fn to(to: F) -> Lines<F> {
        Lines { to, stuck: AtomicBool::new(false) }
    }

    fn has_room(&self) -> bool {
        let patience = if self.stuck.load(Ordering::Relaxed) { 0 } else { PATIENCE };
        let mut asked = [PollFd::new(self.to.as_fd(), PollFlags::POLLOUT)];
        let has_room = match poll(&mut asked, PollTimeout::from(patience)) {
            Ok(found) => found > 0,
            // A signal; the write will tell.
            Err(_) => true,
        };
        self.stuck.store(!has_room, Ordering::Relaxed);
        has_room
    }

    /// In pieces for each of which there is room for certain, so that none waits.
    fn put(&self, line: &[u8]) -> io::Result<()> {
        for mut piece in line.chunks(CERTAIN) {
            while !piece.is_empty() {
                if !self.has_room() {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let written = match nix::unistd::write(&self.to, piece) {
                    Err(nix::errno::Errno::EINTR) => 0,
                    written => written?,
                };
                piece = piece.get(written..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

impl<F: AsFd> Write for &Lines<F> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LAST.lock().unwrap_or_else(PoisonError::into_inner).keep(line);
        if self.put(line).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_unknown(part: &str) -> bool {
    !part.is_empty() && !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        time::{Duration, Instant},
    };

    use super::*;

    #[test]
    fn a_reader_that_stops_costs_lines_and_no_time_and_one_that_ends_nothing_else() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let lines = Lines::to(writer);
        let line = [b"x".repeat(5000), b"\n".to_vec()].concat();
        let began = Instant::now();
        for _ in 0..10_000 {
            (&lines).write_all(&line).unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let gone = lost();
        assert!((9_900..10_000).contains(&gone), "{gone}");
        // It reads on: a line ends what was cut short, and the next is whole.
        let mut there = vec![0; 1 << 20];
        let length = reader.read(&mut there).unwrap();
        assert!(there.get(..length).is_some_and(|there| there.starts_with(&line)));
        (&lines).write_all(b"and on\n").unwrap();
        assert_eq!(lost(), 0);
        let length = reader.read(&mut there).unwrap();
        assert!(there.get(..length).is_some_and(|there| there.ends_with(b"and on\n")));
        drop(reader);
        (&lines).write_all(b"to nobody\n").unwrap();
        assert_eq!(lost(), 1);
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        (&Lines::to(full)).write_all(b"no room\n").unwrap();
        assert_eq!(lost(), 1);
    }

    #[test]
    fn the_last_lines_are_kept_and_the_oldest_go() {
        let mut last = Last { lines: VecDeque::new(), size: 0 };
        for n in 0..20_000 {
            last.keep(format!("line {n:08}: {}\n", "x".repeat(40)).as_bytes());
        }
        assert!(last.size <= KEPT && last.size > KEPT - 100, "{}", last.size);
        assert!(last.lines.back().unwrap().starts_with(b"line 00019999"));
        last.keep(&vec![b'y'; 2 * KEPT]);
        assert_eq!((last.lines.len(), last.size), (1, KEPT));
    }

    #[test]
    fn a_level_that_does_not_exist_is_no_module_to_be_silent_about() {
        for good in ["info", "WARN", "off", "manxd=debug", "[span]", ""] {
            assert!(!is_unknown(good), "{good}");
        }
        for wrong in ["loud", "manxd", "warning"] {
            assert!(is_unknown(wrong), "{wrong}");
        }
    }
}
