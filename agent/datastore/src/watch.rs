//! Watching a directory by inotify. Whatever happens in it only says "look again"; what has changed is found by
//! reading. A burst of events is one reading, and a file that is being written is read when it is closed. On a
//! network's file system the kernel tells only of what this machine changes.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use inotify::{EventMask, EventOwned, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{debug, warn};

use crate::{Holds, Kept, Update, directory::Reader};

/// How long nothing must happen before the directory is read.
const QUIET: Duration = Duration::from_millis(40);
/// How long a reading waits at most, also for a file that somebody holds open: an edit takes effect within a second.
const AT_MOST: Duration = Duration::from_millis(500);
/// How often to look where the kernel cannot tell (`fs.inotify.max_user_watches` is used up).
const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}: {source}")]
pub struct WatchError {
    pub path: PathBuf,
    pub source: io::Error,
}

pub(crate) fn watch(path: &Path, kept: Option<Kept>) -> Result<watch::Receiver<Update>, WatchError> {
    let error = |source| WatchError { path: path.to_owned(), source };
    let inotify = Inotify::init().map_err(error)?;
    let watches = inotify.watches();
    let events = inotify.into_event_stream(vec![0; 16 << 10]).map_err(error)?;
    // Watched by an absolute path, so that a later change of the working directory means nothing.
    let path = std::path::absolute(path).map_err(error)?;
    let mut eyes = Eyes { reader: Reader::new(&path), watches, armed: HashMap::new(), blind: false };
    let first = eyes.look();
    let good = !first.problems.iter().any(|problem| problem.is_error());
    let kept = kept.filter(|_| !good);
    let kept_at = kept.as_ref().map(|kept| Arc::from(kept.written_at.as_str()));
    let (sender, receiver) = watch::channel(Update {
        snapshot: Arc::new(kept.map_or(first.snapshot, |kept| kept.snapshot)),
        problems: first.problems.into(),
        holds: Holds::Everything,
        kept_at,
        revision: 1,
    });
    tokio::spawn(run(eyes, events, sender));
    Ok(receiver)
}

async fn run(
    mut eyes: Eyes,
    events: impl Stream<Item = io::Result<EventOwned>>,
    sender: watch::Sender<Update>,
) {
    let mut events = pin!(events);
    loop {
        tokio::select! {
            () = sender.closed() => return,
            event = events.next() => {
                let Some(event) = event else { return };
                if !eyes.concerns(event.as_ref()) {
                    continue;
                }
                settle(&eyes, event, events.as_mut()).await;
            }
            () = sleep_until(Instant::now() + POLL), if eyes.blind => {}
        }
        // Reading blocks, and may take long where the directory is a network's.
        let read = tokio::task::spawn_blocking(move || {
            let collected = eyes.look();
            (eyes, collected)
        });
        let collected;
        (eyes, collected) = match read.await {
            Ok(read) => read,
            // The runtime is shutting down.
            Err(_) => return,
        };
        sender.send_if_modified(|update| {
            let good = !collected.problems.iter().any(|problem| problem.is_error());
            let changed = good && (*update.snapshot != collected.snapshot || update.kept_at.is_some());
            if !changed && *update.problems == *collected.problems {
                return false;
            }
            if changed {
                update.snapshot = Arc::new(collected.snapshot);
                update.kept_at = None;
            }
            update.problems = collected.problems.into();
            update.revision += 1;
            debug!(revision = update.revision, "resources changed");
            true
        });
    }
}

/// Waits until nothing has happened for a while and no file is being written.
async fn settle(
    eyes: &Eyes,
    first: io::Result<EventOwned>,
    mut events: std::pin::Pin<&mut impl Stream<Item = io::Result<EventOwned>>>,
) {
    let deadline = Instant::now() + AT_MOST;
    let mut in_writing: BTreeSet<OsString> = BTreeSet::new();
    let mut next = Some(first);
    loop {
        if let Some(Ok(EventOwned { mask, name: Some(name), .. })) = next {
            // `cp` truncates a file, writes it and closes it; between, the file says less than its author means.
            if mask.contains(EventMask::MODIFY) {
                in_writing.insert(name);
            } else {
                in_writing.remove(&name);
            }
        }
        let until = if in_writing.is_empty() { (Instant::now() + QUIET).min(deadline) } else { deadline };
        loop {
            match timeout_at(until, events.next()).await {
                Ok(Some(event)) if eyes.concerns(event.as_ref()) => {
                    next = Some(event);
                    break;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
        if Instant::now() >= deadline {
            return;
        }
    }
}

/// A directory, and what has to be watched to see it change.
struct Eyes {
    reader: Reader,
    watches: Watches,
    armed: HashMap<WatchDescriptor, Watched>,
    /// Something could not be watched.
    blind: bool,
}

/// Why a directory is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Watched {
    /// For everything in it.
    Inside,
    /// For one name in it: the way to the directory, which may be a link that is swapped, or not exist yet.
    Name(OsString),
}

impl Eyes {
    /// Watches what has to be watched, and then reads.
    fn look(&mut self) -> manx_resources::Collected {
        self.arm();
        loop {
            let collected = self.reader.read();
            // A file may be a link whose target is elsewhere. If that was not watched while it was read, a change
            // may have been missed.
            if !self.arm() {
                return collected;
            }
        }
    }

    /// True if something is watched now that was not before.
    fn arm(&mut self) -> bool {
        let mut armed: HashMap<WatchDescriptor, Watched> = HashMap::new();
        let was_blind = std::mem::take(&mut self.blind);
        for (path, watched) in watch_points(&self.reader) {
            let names = WatchMask::CREATE
                | WatchMask::MOVE
                | WatchMask::DELETE
                | WatchMask::DELETE_SELF
                | WatchMask::MOVE_SELF
                | WatchMask::ONLYDIR;
            let mask = match watched {
                Watched::Inside => names | WatchMask::MODIFY | WatchMask::CLOSE_WRITE | WatchMask::ATTRIB,
                // Adds, since the same directory may be watched for what is in it.
                Watched::Name(_) => names | WatchMask::MASK_ADD,
            };
            // The same directory gives the same descriptor again.
            match self.watches.add(&path, mask) {
                Ok(descriptor) => {
                    // A directory may be on the way to itself (`.`): everything in it counts then.
                    let known = armed.entry(descriptor).or_insert(watched.clone());
                    if watched == Watched::Inside {
                        *known = watched;
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                // The way there may be closed to us; then only a swap of the directory itself is missed.
                Err(error) if matches!(watched, Watched::Name(_)) => {
                    debug!(path = %path.display(), %error, "cannot be watched");
                }
                Err(error) => {
                    if !was_blind {
                        warn!(path = %path.display(), %error, "cannot be watched; looking every second instead");
                    }
                    self.blind = true;
                }
            }
        }
        let before = std::mem::replace(&mut self.armed, armed);
        for descriptor in before.keys() {
            if !self.armed.contains_key(descriptor) {
                // An error means that the directory is gone, and its watch with it.
                let _gone = self.watches.remove(descriptor.clone());
            }
        }
        self.armed.keys().any(|descriptor| !before.contains_key(descriptor))
    }

    /// Whether an event can mean that the resources changed.
    fn concerns(&self, event: Result<&EventOwned, &io::Error>) -> bool {
        // An error or an overflow: something was missed.
        let Ok(event) = event else { return true };
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return true;
        }
        match self.armed.get(&event.wd) {
            Some(Watched::Inside) => true,
            Some(Watched::Name(name)) => event.name.as_ref().is_none_or(|changed| changed == name),
            // The last words of a watch that was removed.
            None => false,
        }
    }
}

/// The directory, the directories of its links' targets, and every directory on the way to it in which a name might
/// change: up to the nearest one that exists.
fn watch_points(reader: &Reader) -> Vec<(PathBuf, Watched)> {
    let path = reader.path();
    let mut points = vec![(path.to_owned(), Watched::Inside)];
    points.extend(reader.targets().into_iter().map(|target| (target, Watched::Inside)));
    for directory in path.ancestors() {
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else { break };
        points.push((parent.to_owned(), Watched::Name(name.to_owned())));
        if parent.is_dir() {
            break;
        }
    }
    points
}
