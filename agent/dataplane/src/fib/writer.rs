//! Who carries changes out. The kernel does so within `sendmsg`, some five microseconds for each: a few are written by
//! whoever calls, many by a thread, so that the loop goes on while the kernel inserts. Batches are taken in the order
//! in which they were given, and each is answered as a whole; dropping the writer waits until all are carried out.

use std::{
    any::Any,
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread::{self, JoinHandle},
};

use manx_net::Prefix;
use tokio::sync::Notify;

use super::{
    Place,
    message::{Head, Mode, delete, write},
    spec::Spec,
};
use crate::{
    kernel::RouteKey,
    netlink::{Refusal, Requests},
};

/// One thing to do to the kernel's table.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { prefix: Prefix, spec: Arc<Spec>, mode: Mode },
    Remove(Prefix),
    RemoveStray(RouteKey),
}

/// What the kernel said to a batch.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// By their place in the batch, in order.
    pub refused: Vec<(usize, Refusal)>,
    /// Something may be there that is neither the old route nor the new one.
    pub doubt: bool,
}

#[derive(Debug)]
pub(super) struct Answer {
    pub batch: Vec<Change>,
    /// After an error of the socket it is open what the kernel did.
    pub outcome: io::Result<Outcome>,
}

impl Change {
    pub fn replaces(&self) -> bool {
        matches!(self, Change::Write { mode: Mode::Replace, .. })
    }
}

/// Carries out a batch, and returns what the kernel refused.
pub(super) fn carry_out(place: Place, batch: &[Change], requests: &mut Requests) -> io::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut position = 0;
    for part in batch.chunk_by(in_any_order) {
        for (within, refusal) in attempt(place, part, requests)? {
            outcome.refused.push((position + within, refusal));
        }
        position += part.len();
    }
    let mut refused = outcome.refused.iter().filter_map(|(position, _)| batch.get(*position));
    outcome.doubt = refused.any(goes_by_legs);
    Ok(outcome)
}

/// What is written once more is written after all of its part. A less specific route, of which a blackhole is one, and
/// a removal have to wait for that; what is removed is not tried again.
fn in_any_order(one: &Change, next: &Change) -> bool {
    match (one, next) {
        (Change::Write { prefix: one, .. }, Change::Write { prefix: next, .. }) => one.len() == next.len(),
        (Change::Write { .. }, _) => false,
        _ => true,
    }
}

/// What the kernel does not take for a neighbour by its own routes (an IPv6 link-local address always is one, a gateway
/// behind an onlink route is not) is written once more as onlink: the resolver knows better.
fn attempt(place: Place, part: &[Change], requests: &mut Requests) -> io::Result<Vec<(usize, Refusal)>> {
    let mut refused = Vec::new();
    let mut again = Vec::new();
    for (position, refusal) in submit(place, part, false, requests)? {
        if part.get(position).is_some_and(|change| gateway_refused(change, &refusal)) {
            again.push(position);
        } else {
            refused.push((position, refusal));
        }
    }
    if !again.is_empty() {
        let onlink: Vec<Change> = again.iter().filter_map(|position| part.get(*position)).cloned().collect();
        for (position, refusal) in submit(place, &onlink, true, requests)? {
            refused.extend(again.get(position).map(|position| (*position, refusal)));
        }
        refused.sort_by_key(|(position, _)| *position);
    }
    Ok(refused)
}

fn submit(
    place: Place,
    batch: &[Change],
    onlink: bool,
    requests: &mut Requests,
) -> io::Result<Vec<(usize, Refusal)>> {
    requests.submit(batch.len(), |packet, position, sequence, answer| {
        let head = Head { sequence, answer };
        match batch.get(position) {
            Some(Change::Write { prefix, spec, mode }) => {
                write(packet, head, (&place.key(*prefix), place.protocol), spec, *mode, onlink);
            }
            Some(Change::Remove(prefix)) => delete(packet, head, &place.key(*prefix), place.protocol),
            Some(Change::RemoveStray(key)) => delete(packet, head, key, place.protocol),
            None => {}
        }
    })
}

/// IPv6 replaces leg by leg: a refusal half-way leaves neither the old route nor the new one.
fn goes_by_legs(change: &Change) -> bool {
    matches!(change, Change::Write { prefix, spec, .. }
        if !prefix.is_v4() && matches!(&**spec, Spec::Via(hops) if hops.len() > 1))
}

/// The kernel's words for a gateway that is no neighbour by its own routes: ENETUNREACH from IPv4, EHOSTUNREACH or
/// EINVAL from IPv6.
fn gateway_refused(change: &Change, refusal: &Refusal) -> bool {
    matches!(change, Change::Write { spec, .. } if spec.gateway().is_some())
        && matches!(refusal.errno, libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL)
}

/// The thread, and the ways to it. How much is under way is for the caller to bound.
#[derive(Debug)]
pub(super) struct Writer {
    /// `None` only while it is dropped.
    orders: Option<Sender<Vec<Change>>>,
    answers: Receiver<Answer>,
    news: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread has of us. The answers' end goes first, so that who is woken finds it gone.
struct Ends {
    answers: Sender<Answer>,
    news: Wake,
}

struct Wake(Arc<Notify>);

impl Drop for Wake {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Writer {
    /// With a socket of its own, in this thread's network namespace. Also returns the socket's port.
    pub fn start(place: Place) -> io::Result<(Writer, u32)> {
        let mut requests = Requests::open()?;
        let port = requests.port();
        let carry_out = move |batch: &[Change]| carry_out(place, batch, &mut requests);
        Ok((Writer::start_with(carry_out)?, port))
    }

    pub(super) fn start_with(
        mut carry_out: impl FnMut(&[Change]) -> io::Result<Outcome> + Send + 'static,
    ) -> io::Result<Writer> {
        let (orders, todo) = mpsc::channel::<Vec<Change>>();
        let (answered, answers) = mpsc::channel();
        let news = Arc::new(Notify::new());
        let ends = Ends { answers: answered, news: Wake(Arc::clone(&news)) };
        let thread = thread::Builder::new().name(String::from("manx-fib")).spawn(move || {
            for batch in todo {
                let outcome = carry_out(&batch);
                // Nobody listens when manxd stops; what was ordered is carried out all the same.
                let _ = ends.answers.send(Answer { batch, outcome });
                ends.news.0.notify_one();
            }
        })?;
        Ok(Writer { orders: Some(orders), answers, news, thread: Some(thread) })
    }

    /// The batch again if the thread has ended.
    pub fn give(&self, batch: Vec<Change>) -> Result<(), Vec<Change>> {
        match &self.orders {
            Some(orders) => orders.send(batch).map_err(|unsent| unsent.0),
            None => Err(batch),
        }
    }

    /// What is answered so far. False: the thread has ended, and nothing more comes.
    pub fn take(&self, into: &mut Vec<Answer>) -> bool {
        loop {
            match self.answers.try_recv() {
                Ok(answer) => into.push(answer),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits for the next answer. `None`: the thread has ended.
    pub fn wait(&self) -> Option<Answer> {
        self.answers.recv().ok()
    }

    /// Waits until something may have been answered. Cancel-safe.
    pub async fn answered(&self) {
        self.news.notified().await;
    }

    /// Why the thread has ended.
    pub fn cause(mut self) -> String {
        self.orders = None;
        let ended = self.thread.take().map(JoinHandle::join);
        match ended {
            Some(Err(panic)) => words(&*panic),
            _ => String::from("for no reason that it told"),
        }
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| String::from("it panicked"))
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic was told of when it was found.
            let _ = thread.join();
        }
    }
}
