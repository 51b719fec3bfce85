//! The history on disk, a line of JSON for each event, so that it outlives a restart. A thread of its own writes, for a disk may
//! be slow; what it cannot take is lost, and the loop waits for nothing. Two files of at most [`MOST`] each: the elder goes
//! when the younger is full.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
};

use manx_api::HistoryEvent;

/// Octets of one file.
const MOST: u64 = 2 << 20;
/// Lines that may wait for the disk.
const WAITING: usize = 4096;
/// Of a line; what is longer is none of ours.
const LONGEST: usize = 64 << 10;
const NAME: &str = "history";
const ELDER: &str = "history.1";

#[derive(Debug)]
pub struct HistoryFile {
    lines: SyncSender<String>,
    /// Events that found no room.
    pub lost: u64,
}

/// What earlier runs have written, oldest first, and the file for what is to come.
pub fn open(directory: &Path) -> (Vec<HistoryEvent>, io::Result<HistoryFile>) {
    let mut events: Vec<HistoryEvent> = Vec::new();
    for name in [ELDER, NAME] {
        // A line that was cut short, or that another version wrote, is passed over: the others are as good as ever.
        let Ok(file) = File::open(directory.join(name)) else { continue };
        for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
            if line.len() <= LONGEST
                && let Ok(event) = serde_json::from_slice::<HistoryEvent>(&line)
                && events.last().is_none_or(|last| last.number < event.number)
            {
                events.push(event);
            }
        }
    }
    (events, start(directory))
}

fn start(directory: &Path) -> io::Result<HistoryFile> {
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut writer =
        Writer { directory: directory.to_owned(), file: append(&directory.join(NAME))?, failed: false };
    let (lines, written) = sync_channel(WAITING);
    thread::Builder::new().name("history".into()).spawn(move || writer.write_all(&written))?;
    Ok(HistoryFile { lines, lost: 0 })
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

impl HistoryFile {
    pub fn keep(&mut self, event: &HistoryEvent) {
        let Ok(line) = serde_json::to_string(event) else { return };
        match self.lines.try_send(line + "\n") {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lost += 1,
        }
    }
}

struct Writer {
    directory: PathBuf,
    file: File,
    failed: bool,
}

impl Writer {
    fn write_all(&mut self, lines: &Receiver<String>) {
        // Ends with the loop.
        while let Ok(mut line) = lines.recv() {
            // In one write, so that a process that is killed leaves whole lines.
            while line.len() < LONGEST
                && let Ok(more) = lines.try_recv()
            {
                line.push_str(&more);
            }
            if let Err(error) = self.write(line.as_bytes()) {
                if !std::mem::replace(&mut self.failed, true) {
                    tracing::warn!(
                        "{} cannot be written: {error}; what happens from here on is forgotten with this process",
                        self.directory.join(NAME).display()
                    );
                }
            } else {
                self.failed = false;
            }
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let path = self.directory.join(NAME);
        // Somebody may have taken it away.
        if self.failed || !path.exists() {
            DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
            self.file = append(&path)?;
        }
        if self.file.metadata()?.len() > MOST {
            fs::rename(&path, self.directory.join(ELDER))?;
            self.file = append(&path)?;
        }
        self.file.write_all(lines)
    }
}

/// Removes both files. True if there was one.
pub fn cleanup(directory: &Path) -> io::Result<bool> {
    let mut any = false;
    for name in [NAME, ELDER] {
        match fs::remove_file(directory.join(name)) {
            Ok(()) => any = true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use manx_api::Happened;

    use super::*;

    fn event(number: u64, text: &str) -> HistoryEvent {
        let what = Happened::Daemon { text: text.into() };
        HistoryEvent { number, at: "2026-11-22T11:01:13.524Z".into(), caused_by: None, what }
    }

    /// Until the thread has written so many lines.
    fn written(directory: &Path, wanted: usize) -> Vec<HistoryEvent> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let (events, _) = open(directory);
            if events.len() == wanted || Instant::now() > until {
                return events;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_is_kept_is_read_again_and_a_line_that_was_cut_short_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (events, file) = open(dir.path());
        assert_eq!(events, []);
        let mut file = file.unwrap();
        file.keep(&event(1, "one"));
        file.keep(&event(2, "two"));
        assert_eq!(written(dir.path(), 2), [event(1, "one"), event(2, "two")]);
        let mut text = fs::read(dir.path().join(NAME)).unwrap();
        text.truncate(text.len() - 5);
        fs::write(dir.path().join(NAME), [&text[..], b"\n\xff\n"].concat()).unwrap();
        let (events, file) = open(dir.path());
        assert_eq!(events, [event(1, "one")]);
        file.unwrap().keep(&event(3, "three"));
        assert_eq!(written(dir.path(), 2), [event(1, "one"), event(3, "three")]);
        assert!(cleanup(dir.path()).unwrap());
        assert!(!cleanup(dir.path()).unwrap());
    }

    #[test]
    fn two_files_are_the_most_and_the_elder_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = open(dir.path()).1.unwrap();
        let long = "x".repeat(60 << 10);
        for number in 1..=150 {
            while {
                file.keep(&event(number, &long));
                std::mem::take(&mut file.lost) > 0
            } {}
            if number % 30 == 0 {
                thread::sleep(Duration::from_millis(50));
            }
        }
        drop(file);
        thread::sleep(Duration::from_millis(200));
        let size = |name: &str| fs::metadata(dir.path().join(name)).map_or(0, |of| of.len());
        assert!(size(ELDER) > MOST / 2, "{}", size(ELDER));
        assert!(size(NAME) + size(ELDER) < 3 * MOST, "{} {}", size(NAME), size(ELDER));
        let (events, _) = open(dir.path());
        assert_eq!(events.last().map(|last| last.number), Some(150));
    }
}
