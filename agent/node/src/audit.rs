//! The audit: BGP, table, kernel, maps and programs compared. The kernel and the maps are read in a thread beside the
//! daemon's loop, which then judges what was read piece by piece, so that nothing waits for it.
//!
//! What changed while it was read is not judged: the loop notes it. And what differs is a finding only if a second
//! look finds it too, for a dump of a table that changes may leave out what did not.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use manx_api as api;
use manx_bgp::view::Walk;
use manx_dataplane::{
    ebpf::{self, MapPart},
    fib::FibRoute,
    route::Action,
};
use manx_net::Prefix;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::{
    api::Question,
    clock::stamp,
    gather::{Piece, Sources, Stopping, ask},
};

/// Prefixes that the loop is given at a time. It judges as many of them as it has time for.
const CHUNK: usize = 1024;
/// Between the two looks.
const AGAIN: Duration = Duration::from_millis(50);
/// Findings that are told one by one.
pub const TOLD: usize = 1000;

/// A prefix, and what the kernel and the maps have for it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub prefix: Prefix,
    /// All routes of our protocol, wherever they stand. None if the kernel's routes could not be read.
    pub fib: Option<Vec<FibRoute>>,
    /// None if the maps could not be read, or are not there.
    pub map: Option<InMap>,
}

/// What the map of routes has for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InMap {
    Nothing,
    Entry(Action),
    /// An entry that the programs make nothing of.
    Unreadable,
}

/// What of an audit is the loop's.
#[derive(Debug)]
pub enum Step {
    /// One audit at a time.
    Turn(oneshot::Sender<Option<Arc<Mutex<()>>>>),
    /// From now on changes are noted.
    Look(oneshot::Sender<Sources>),
    /// Those that there was no time for, and of the others those that are not as they should be. At least the first is
    /// judged.
    Judge {
        of: Vec<Seen>,
        answer: oneshot::Sender<(Vec<Seen>, Vec<Seen>)>,
    },
    /// The same in words; put right, too, if asked for.
    Tell {
        of: Vec<Seen>,
        repair: bool,
        answer: oneshot::Sender<Vec<api::AuditFinding>>,
    },
    /// How many programs should be attached, and what is wrong with them.
    Programs {
        repair: bool,
        answer: oneshot::Sender<(u64, Vec<api::AuditFinding>)>,
    },
    /// What is wrong with a part of what stands in the maps beside the routes.
    Maps {
        part: MapPart,
        repair: bool,
        answer: oneshot::Sender<Vec<api::AuditFinding>>,
    },
    End {
        audit: Box<api::Audit>,
        answer: oneshot::Sender<api::Audit>,
    },
}

/// An audit that may begin.
#[derive(Debug)]
pub struct Turn {
    questions: mpsc::Sender<Question>,
    lock: Arc<Mutex<()>>,
}

/// `None` if this daemon writes nothing that could be audited.
pub async fn turn(questions: mpsc::Sender<Question>) -> Result<Option<Turn>, Stopping> {
    let lock = ask(&questions, |answer| Piece::Audit(Step::Turn(answer))).await?;
    Ok(lock.map(|lock| Turn { questions, lock }))
}

impl Turn {
    /// For an operator, after the one that is under way.
    pub async fn take(self, dry_run: bool) -> Result<api::Audit, Stopping> {
        let _turn = self.lock.lock_owned().await;
        run(self.questions, true, dry_run).await
    }

    /// As the time has come, unless one is under way.
    pub async fn take_if_free(self) -> Result<(), Stopping> {
        let Ok(_turn) = self.lock.try_lock_owned() else { return Ok(()) };
        run(self.questions, false, false).await.map(drop)
    }
}

async fn run(
    questions: mpsc::Sender<Question>,
    asked_for: bool,
    dry_run: bool,
) -> Result<api::Audit, Stopping> {
    let step = |step| Piece::Audit(step);
    let (begun, at) = (Instant::now(), stamp(SystemTime::now()));
    let repair = !dry_run;
    let mut first = look(&questions, None).await?;
    let (programs, wrong) = ask(&questions, |answer| step(Step::Programs { repair, answer })).await?;
    let mut findings = wrong;
    for part in MapPart::ALL {
        findings.extend(ask(&questions, |answer| step(Step::Maps { part, repair, answer })).await?);
    }
    if !first.suspects.is_empty() {
        tokio::time::sleep(AGAIN).await;
        let suspects = first.suspects.iter().map(|seen| seen.prefix).collect();
        let second = look(&questions, Some(suspects)).await?;
        first.errors.extend(second.errors);
        let mut rest = second.suspects.into_iter();
        loop {
            let of: Vec<Seen> = rest.by_ref().take(CHUNK).collect();
            if of.is_empty() {
                break;
            }
            findings.extend(ask(&questions, |answer| step(Step::Tell { of, repair, answer })).await?);
        }
    }
    first.errors.sort();
    first.errors.dedup();
    let found = findings.len() as u64;
    findings.truncate(TOLD);
    let audit = Box::new(api::Audit {
        node: first.node,
        at,
        took_ms: begun.elapsed().as_millis() as u64,
        asked_for,
        dry_run,
        checked: api::Audited { programs, ..first.checked },
        found,
        findings,
        errors: first.errors,
    });
    ask(&questions, |answer| step(Step::End { audit, answer })).await
}

#[derive(Debug)]
struct Look {
    node: String,
    checked: api::Audited,
    suspects: Vec<Seen>,
    errors: Vec<String>,
}

/// `only`: of these prefixes; else of all.
async fn look(questions: &mpsc::Sender<Question>, only: Option<BTreeSet<Prefix>>) -> Result<Look, Stopping> {
    let sources = ask(questions, |answer| Piece::Audit(Step::Look(answer))).await?;
    let node = sources.node.clone();
    // What is read after the changes began to be noted is as it was then, or noted.
    let read = tokio::task::spawn_blocking(move || Sinks::read(&sources));
    let sinks = read.await.map_err(|_| Stopping)?;
    let known = match &only {
        Some(_) => Vec::new(),
        None => known(questions).await?,
    };
    let merge = tokio::task::spawn_blocking(move || sinks.merge(known, only));
    let (seen, checked, errors) = merge.await.map_err(|_| Stopping)?;
    let mut suspects = Vec::new();
    let mut rest = seen.into_iter();
    let mut of: Vec<Seen> = rest.by_ref().take(CHUNK).collect();
    while !of.is_empty() {
        let judged = ask(questions, |answer| Piece::Audit(Step::Judge { of, answer })).await?;
        let (unjudged, wrong) = judged;
        suspects.extend(wrong);
        of = unjudged;
        let missing = CHUNK.saturating_sub(of.len());
        of.extend(rest.by_ref().take(missing));
    }
    Ok(Look { node, checked, suspects, errors })
}

/// What BGP and the table know, in pieces and unsorted.
async fn known(questions: &mpsc::Sender<Question>) -> Result<Vec<Prefix>, Stopping> {
    let mut all = Vec::new();
    let mut walk = Some(Walk::default());
    while let Some(from) = walk {
        let (prefixes, next) = ask(questions, |answer| Piece::Bgp { from, answer }).await?;
        all.extend(prefixes);
        walk = next;
    }
    let mut after = None;
    loop {
        let prefixes = ask(questions, |answer| Piece::Wanted { after, answer }).await?;
        match prefixes.last() {
            Some(last) => after = Some(*last),
            None => return Ok(all),
        }
        all.extend(prefixes);
    }
}

#[derive(Debug)]
struct Sinks {
    fib: Option<BTreeMap<Prefix, Vec<FibRoute>>>,
    map: Option<BTreeMap<Prefix, InMap>>,
    checked: api::Audited,
    errors: Vec<String>,
}

impl Sinks {
    fn read(sources: &Sources) -> Sinks {
        let mut sinks = Sinks { fib: None, map: None, checked: api::Audited::default(), errors: Vec::new() };
        match manx_dataplane::read_back(sources.protocol) {
            Ok(routes) => {
                sinks.checked.fib = routes.len() as u64;
                let mut found: BTreeMap<Prefix, Vec<FibRoute>> = BTreeMap::new();
                for route in routes {
                    found.entry(route.prefix).or_default().push(route);
                }
                sinks.fib = Some(found);
            }
            Err(error) => sinks.errors.push(format!("the kernel's routes cannot be read: {error}")),
        }
        match sources.maps.as_ref().map(ebpf::Reader::entries) {
            Some(Ok(entries)) => {
                sinks.checked.map = entries.len() as u64;
                let entry = |(prefix, action): (_, Option<_>)| {
                    (prefix, action.map_or(InMap::Unreadable, InMap::Entry))
                };
                sinks.map = Some(entries.into_iter().map(entry).collect());
            }
            Some(Err(error)) => sinks.errors.push(error.to_string()),
            None => {}
        }
        sinks
    }

    /// Every prefix once, with what was read of it.
    fn merge(
        mut self,
        known: Vec<Prefix>,
        only: Option<BTreeSet<Prefix>>,
    ) -> (Vec<Seen>, api::Audited, Vec<String>) {
        let prefixes = only.unwrap_or_else(|| {
            let fib = self.fib.iter().flat_map(BTreeMap::keys).copied();
            let map = self.map.iter().flat_map(BTreeMap::keys).copied();
            known.into_iter().chain(fib).chain(map).collect()
        });
        self.checked.prefixes = prefixes.len() as u64;
        let seen = prefixes.into_iter().map(|prefix| Seen {
            prefix,
            fib: self.fib.as_mut().map(|fib| fib.get_mut(&prefix).map(mem::take).unwrap_or_default()),
            map: self.map.as_mut().map(|map| map.remove(&prefix).unwrap_or(InMap::Nothing)),
        });
        let seen = seen.collect();
        (seen, self.checked, self.errors)
    }
}
