//! Answers that are as long as the table. The kernel's routes and the eBPF maps are read here, beside the daemon's loop
//! and in a thread of their own; what only the loop knows is asked of it in pieces, each of which takes it a
//! bounded time, so that no keepalive waits for an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    num::NonZeroUsize,
    time::Duration,
};

use axum::body::{Body, Bytes};
use manx_api as api;
use manx_bgp::view::Walk;
use manx_dataplane::{ebpf, fib::FibRoute, route::Route};
use manx_net::Prefix;
use tokio::sync::{mpsc, oneshot};

use crate::{api::Question, audit::Step, bird, traffic};

/// Rows that are asked for at a time. The loop gives as many of them as it has time for.
const CHUNK: usize = 256;
/// After this the kernel and the maps are read again where they differ from what is wanted: it was written meanwhile.
const WRITTEN: Duration = Duration::from_millis(50);

/// What of a table the daemon's loop is asked.
#[derive(Debug)]
pub enum Piece {
    Sources(oneshot::Sender<Sources>),
    Audit(Step),
    Traffic(traffic::Request),
    Bird(bird::Look),
    Bgp {
        from: Walk,
        answer: oneshot::Sender<(Vec<Prefix>, Option<Walk>)>,
    },
    /// In order, after `after`; none are left if there are none.
    Wanted {
        after: Option<Prefix>,
        answer: oneshot::Sender<Vec<Prefix>>,
    },
    /// Those of operators and peers, or all.
    Blackholes {
        all: bool,
        answer: oneshot::Sender<Vec<Prefix>>,
    },
    /// At least the first, and as many in their order as there is time for.
    Rows {
        of: Vec<Found>,
        answer: oneshot::Sender<Vec<api::RouteRow>>,
    },
}

/// From where the sinks are to be read.
#[derive(Debug)]
pub struct Sources {
    pub node: String,
    pub protocol: u8,
    pub table: u32,
    pub maps: Option<ebpf::Reader>,
}

/// A prefix, and what the sinks have for it.
#[derive(Clone, Debug)]
pub struct Found {
    pub prefix: Prefix,
    pub fib: Option<FibRoute>,
    pub map: Option<Route>,
}

/// What the sinks had when they were read.
#[derive(Debug)]
struct Sinks {
    fib: BTreeMap<Prefix, FibRoute>,
    map: BTreeMap<Prefix, Route>,
}

impl Sinks {
    fn read(sources: &Sources) -> Sinks {
        Sinks { fib: read_fib(sources), map: read_maps(sources) }
    }

    fn find(&self, prefix: Prefix) -> Found {
        Found { prefix, fib: self.fib.get(&prefix).cloned(), map: self.map.get(&prefix).cloned() }
    }
}

/// manxd is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("manxd is stopping")]
pub struct Stopping;

impl From<Stopping> for io::Error {
    fn from(error: Stopping) -> io::Error {
        io::Error::other(error)
    }
}

#[derive(Debug)]
pub struct Gather {
    questions: mpsc::Sender<Question>,
    /// None while a thread reads from them, and after one that failed.
    sources: Option<Sources>,
    node: String,
}

impl Gather {
    pub async fn begin(questions: mpsc::Sender<Question>) -> Result<Gather, Stopping> {
        let sources = ask(&questions, Piece::Sources).await?;
        Ok(Gather { questions, node: sources.node.clone(), sources: Some(sources) })
    }

    /// One prefix with what the sinks have for it.
    pub async fn find(&mut self, prefix: Prefix) -> Result<Found, Stopping> {
        self.read(move |sinks| sinks.find(prefix)).await
    }

    /// Each blackhole with what the sinks have for it.
    pub async fn blackholes(&mut self, all: bool) -> Result<Vec<Found>, Stopping> {
        let prefixes = ask(&self.questions, |answer| Piece::Blackholes { all, answer }).await?;
        self.read(move |sinks| prefixes.iter().map(|prefix| sinks.find(*prefix)).collect()).await
    }

    /// The table as a JSON document, written as it is gathered: prefixes after `after`, at most `limit`.
    pub async fn routes(mut self, after: Option<Prefix>, limit: NonZeroUsize) -> Result<Body, Stopping> {
        let mut pieces = Vec::new();
        let mut walk = Some(Walk::default());
        while let Some(from) = walk {
            let (prefixes, next) = ask(&self.questions, |answer| Piece::Bgp { from, answer }).await?;
            pieces.push(prefixes);
            walk = next;
        }
        let mut last = None;
        loop {
            let prefixes = ask(&self.questions, |answer| Piece::Wanted { after: last, answer }).await?;
            last = prefixes.last().copied();
            if last.is_none() {
                break;
            }
            pieces.push(prefixes);
        }
        let merge = move |sinks: &Sinks| {
            let held = sinks.fib.keys().chain(sinks.map.keys());
            let all: BTreeSet<Prefix> = pieces.iter().flatten().chain(held).copied().collect();
            let mut rest = all.into_iter().filter(|prefix| after.is_none_or(|after| *prefix > after));
            let found: Vec<Found> =
                rest.by_ref().take(limit.get()).map(|prefix| sinks.find(prefix)).collect();
            let next = found.last().map(|found| found.prefix).filter(|_| rest.next().is_some());
            (found, next)
        };
        let (found, next) = self.read(merge).await?;
        let writer =
            Writer { gather: self, found: found.into_iter(), next, read_again: false, at: At::Start };
        Ok(Body::from_stream(futures_util::stream::try_unfold(writer, Writer::write)))
    }

    /// Reads the sinks, and makes something of them, in a thread where it may take its time.
    async fn read<T: Send + 'static>(
        &mut self,
        make: impl FnOnce(&Sinks) -> T + Send + 'static,
    ) -> Result<T, Stopping> {
        let sources = self.sources.take().ok_or(Stopping)?;
        let read = move || (make(&Sinks::read(&sources)), sources);
        let (made, sources) = tokio::task::spawn_blocking(read).await.map_err(|_| Stopping)?;
        self.sources = Some(sources);
        Ok(made)
    }

    async fn rows(&self, of: &[Found]) -> Result<Vec<api::RouteRow>, Stopping> {
        let mut rows = Vec::with_capacity(of.len());
        while rows.len() < of.len() {
            #[expect(clippy::indexing_slicing, reason = "no more rows come than were asked for")]
            let rest = of[rows.len()..].to_vec();
            let some = ask(&self.questions, |answer| Piece::Rows { of: rest, answer }).await?;
            if some.is_empty() {
                return Err(Stopping);
            }
            rows.extend(some);
        }
        Ok(rows)
    }
}

/// How far a table has been written.
#[derive(Debug)]
enum At {
    Start,
    Rows,
    End,
}

#[derive(Debug)]
struct Writer {
    gather: Gather,
    found: std::vec::IntoIter<Found>,
    next: Option<Prefix>,
    read_again: bool,
    at: At,
}

impl Writer {
    /// The next part of the document, and what writes the rest.
    async fn write(mut self) -> io::Result<Option<(Bytes, Writer)>> {
        let mut text = Vec::new();
        match self.at {
            At::End => return Ok(None),
            At::Start => {
                text.extend_from_slice(b"{\"node\":");
                serde_json::to_writer(&mut text, &self.gather.node)?;
                text.extend_from_slice(b",\"next\":");
                serde_json::to_writer(&mut text, &self.next)?;
                text.extend_from_slice(b",\"routes\":[");
            }
            At::Rows => text.push(b','),
        }
        for (n, row) in self.chunk().await?.iter().enumerate() {
            if n > 0 {
                text.push(b',');
            }
            serde_json::to_writer(&mut text, row)?;
        }
        self.at = if self.found.len() > 0 {
            At::Rows
        } else {
            text.extend_from_slice(b"]}");
            At::End
        };
        Ok(Some((text.into(), self)))
    }

    async fn chunk(&mut self) -> Result<Vec<api::RouteRow>, Stopping> {
        let chunk: Vec<Found> = self.found.by_ref().take(CHUNK).collect();
        let rows = self.gather.rows(&chunk).await?;
        if self.read_again || rows.iter().all(|row| row.agree) {
            return Ok(rows);
        }
        self.read_again = true;
        tokio::time::sleep(WRITTEN).await;
        let rest = mem::take(&mut self.found);
        let again = move |sinks: &Sinks| {
            let find = |found: Found| sinks.find(found.prefix);
            (chunk.into_iter().map(find).collect::<Vec<_>>(), rest.map(find).collect::<Vec<_>>())
        };
        let (chunk, rest) = self.gather.read(again).await?;
        self.found = rest.into_iter();
        self.gather.rows(&chunk).await
    }
}

/// Asks the loop for a piece.
pub async fn ask<T>(
    questions: &mpsc::Sender<Question>,
    piece: impl FnOnce(oneshot::Sender<T>) -> Piece,
) -> Result<T, Stopping> {
    let (answer, answered) = oneshot::channel();
    questions.send(Question::Piece(piece(answer))).await.map_err(|_| Stopping)?;
    answered.await.map_err(|_| Stopping)
}

fn read_fib(sources: &Sources) -> BTreeMap<Prefix, FibRoute> {
    match manx_dataplane::read_back(sources.protocol) {
        Ok(routes) => {
            let ours = routes.into_iter().filter(|route| route.table == sources.table);
            ours.map(|route| (route.prefix, route)).collect()
        }
        Err(error) => {
            tracing::warn!("reading the kernel's routes failed: {error}");
            BTreeMap::new()
        }
    }
}

fn read_maps(sources: &Sources) -> BTreeMap<Prefix, Route> {
    match sources.maps.as_ref().map(ebpf::Reader::dump) {
        Some(Ok(routes)) => routes.into_iter().map(|route| (route.prefix, route)).collect(),
        Some(Err(error)) => {
            tracing::warn!("{error}");
            BTreeMap::new()
        }
        None => BTreeMap::new(),
    }
}
