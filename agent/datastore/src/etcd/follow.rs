//! Follows an etcd for as long as somebody listens: a listing, then a watch from its revision on. A connection that
//! is lost goes on where it was; where etcd has compacted that away, all is read anew.

use std::{pin::pin, time::Duration};

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use manx_resources::stored_prefixes;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    Etcd, FIRST_ANSWER, NO_ANSWER,
    access::{connect, said},
    listing::list,
    store::Store,
};
use crate::{Holds, Kept, Update};

/// After the first change so long is waited for others, so that a burst is one update.
const GATHER: Duration = Duration::from_millis(50);
/// Between attempts.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(5);
/// A listing takes less.
const PATIENCE: Duration = Duration::from_secs(30);

/// The receiver holds what etcd said, if it answered soon enough, else what an earlier run kept.
pub(crate) async fn watch(etcd: &Etcd, kept: Option<Kept>) -> watch::Receiver<Update> {
    let mut nothing = Update { problems: [etcd.away(NO_ANSWER)].into(), ..Update::default() };
    let mut store = Store::default();
    if let Some(kept) = kept {
        store = Store::of_snapshot(kept.snapshot);
        nothing.snapshot = store.update().snapshot;
        nothing.kept_at = Some(kept.written_at.into());
    }
    let (sender, mut receiver) = watch::channel(nothing);
    tokio::spawn(Follower { etcd: etcd.clone(), sender, known: None, store }.run());
    // Whatever comes first: what is there, or why it cannot be read.
    let _ = timeout(FIRST_ANSWER, receiver.changed()).await;
    receiver.mark_changed();
    receiver
}

struct Follower {
    etcd: Etcd,
    sender: watch::Sender<Update>,
    /// Of each prefix the revision that comes next; none before anything was read, or where it has to be read anew.
    known: Option<Vec<i64>>,
    store: Store,
}

/// Why a connection is given up.
enum Lost {
    /// Nobody listens any more.
    Unheard,
    Because(String),
}

/// What came of a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Nothing,
    Changes,
    /// What it was to tell is not there any more.
    Compacted,
}

impl Follower {
    async fn run(mut self) {
        let mut pause = SOON;
        loop {
            let started = Instant::now();
            let lost = {
                let sender = self.sender.clone();
                let mut closed = pin!(sender.closed());
                tokio::select! {
                    () = &mut closed => return,
                    Err(lost) = self.session() => lost,
                }
            };
            let why = match lost {
                Lost::Unheard => return,
                Lost::Because(why) => why,
            };
            if started.elapsed() > LATER {
                pause = SOON;
            }
            warn!("{}: {why}; trying again", self.etcd);
            let away = self.etcd.away(&why);
            self.sender.send_if_modified(|update| {
                if update.problems.contains(&away) {
                    return false;
                }
                let mut problems: Vec<_> = update.problems.to_vec();
                problems.retain(|problem| problem.file != away.file);
                problems.push(away);
                update.problems = problems.into();
                update.holds = Holds::Everything;
                update.revision += 1;
                true
            });
            sleep(pause).await;
            pause = (pause * 2).min(LATER);
        }
    }

    /// One connection, until it is lost.
    async fn session(&mut self) -> Result<std::convert::Infallible, Lost> {
        let mut client = within(connect(&self.etcd)).await?;
        loop {
            let next = match self.known.take() {
                Some(next) => next,
                None => {
                    let listing = within(list(&mut client, stored_prefixes())).await?;
                    let next = listing.revision + 1;
                    self.store.take(listing);
                    self.publish()?;
                    info!("{}: read at revision {}", self.etcd, next - 1);
                    vec![next; stored_prefixes().len()]
                }
            };
            let next = self.known.insert(next).clone();
            let mut stream = within(open(&mut client, &next)).await?;
            // What was told of the last connection is over.
            self.publish()?;
            self.follow(&mut stream).await?;
            debug!("{}: compacted meanwhile; reading all anew", self.etcd);
        }
    }

    /// Until something is wrong, or all has to be read anew.
    async fn follow(&mut self, stream: &mut WatchStream) -> Result<(), Lost> {
        loop {
            let mut taken = self.take(&next(stream).await?)?;
            if taken == Taken::Changes {
                let deadline = Instant::now() + GATHER;
                while taken != Taken::Compacted
                    && let Ok(response) = timeout_at(deadline, next(stream)).await
                {
                    taken = self.take(&response?)?;
                }
                self.publish()?;
            }
            if taken == Taken::Compacted {
                self.known = None;
                return Ok(());
            }
        }
    }

    fn take(&mut self, response: &WatchResponse) -> Result<Taken, Lost> {
        if response.canceled() {
            return match response.compact_revision() {
                0 => Err(Lost::Because(format!("cancelled the watch: {}", response.cancel_reason()))),
                _ => Ok(Taken::Compacted),
            };
        }
        let mut last = None;
        for found in response.events() {
            let Some(object) = found.kv() else { continue };
            last = Some(object.mod_revision());
            let Ok(key) = object.key_str() else { continue };
            match found.event_type() {
                EventType::Put => self.store.put(key, object.value()),
                EventType::Delete => self.store.remove(key),
            }
        }
        let taken = if last.is_some() { Taken::Changes } else { Taken::Nothing };
        // Without events the header says how far this watch is; with some there may be more of its revision to come. The
        // answer to the request itself says neither.
        let reached = last.or_else(|| response.header().map(|header| header.revision()));
        let of = usize::try_from(response.watch_id() - 1).ok();
        let position = self.known.as_mut().zip(of).and_then(|(known, of)| known.get_mut(of));
        if let (Some(position), Some(reached), false) = (position, reached, response.created()) {
            *position = reached + 1;
        }
        Ok(taken)
    }

    fn publish(&self) -> Result<(), Lost> {
        if self.sender.is_closed() {
            return Err(Lost::Unheard);
        }
        let new = self.store.update();
        self.sender.send_if_modified(|update| {
            let same = *update.snapshot == *new.snapshot && update.problems == new.problems;
            if same && (update.holds, &update.kept_at) == (new.holds, &new.kept_at) {
                return false;
            }
            *update = Update { revision: update.revision + 1, ..new };
            true
        });
        Ok(())
    }
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse, Lost> {
    match stream.message().await {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err(Lost::Because("closed the watch".to_owned())),
        Err(error) => Err(Lost::Because(said(&error))),
    }
}

/// One watch for each prefix, on one stream; the identifier is the place of the prefix and one.
async fn open(client: &mut Client, next: &[i64]) -> Result<WatchStream, String> {
    let mut stream: Option<WatchStream> = None;
    for ((prefix, revision), id) in stored_prefixes().into_iter().zip(next).zip(1..) {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(*revision)
            .with_watch_id(id)
            // A quiet prefix, too, is told how far all is, so that it does not fall behind the next compaction.
            .with_progress_notify();
        match &mut stream {
            Some(stream) => stream.watch(prefix, Some(options)).await.map_err(|error| said(&error))?,
            none => *none = Some(client.watch(prefix, Some(options)).await.map_err(|error| said(&error))?),
        }
    }
    stream.ok_or_else(|| "there is nothing to watch".to_owned())
}

async fn within<T>(job: impl Future<Output = Result<T, String>>) -> Result<T, Lost> {
    match timeout(PATIENCE, job).await {
        Ok(answer) => answer.map_err(Lost::Because),
        Err(_) => Err(Lost::Because(NO_ANSWER.to_owned())),
    }
}
