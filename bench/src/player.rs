//! All peers of a scenario in one thread: an epoll loop over their sockets that dials, greets, keeps sessions alive
//! and says when something that is waited for has come true. It knows no scenario; [`crate::script`] does.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::{
    session::{Phase, Served, Session},
    wire,
};

/// Large enough that a full receive buffer takes few calls, small enough for the cache.
const SCRATCH: usize = 256 << 10;
/// A third of the shortest hold time that any daemon here asks for is 30 s.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// A client whose connection was refused or broken tries again after this.
const REDIAL: Duration = Duration::from_secs(1);
/// How long the End-of-RIB of a daemon that sends none is waited for after the last session came up.
const NO_END_OF_RIB: Duration = Duration::from_secs(3);

/// How many sessions are how far: asked after every event, so it is not counted anew.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    established: usize,
    end_of_rib: usize,
    complete: usize,
}

impl Tally {
    fn of(session: &Session) -> Tally {
        Tally {
            established: usize::from(session.phase == Phase::Established),
            end_of_rib: usize::from(session.end_of_rib),
            complete: usize::from(session.table.is_complete()),
        }
    }

    fn plus(self, other: Tally) -> Tally {
        Tally {
            established: self.established + other.established,
            end_of_rib: self.end_of_rib + other.end_of_rib,
            complete: self.complete + other.complete,
        }
    }

    fn minus(self, other: Tally) -> Tally {
        Tally {
            established: self.established - other.established,
            end_of_rib: self.end_of_rib - other.end_of_rib,
            complete: self.complete - other.complete,
        }
    }
}

#[derive(Debug)]
pub struct Player {
    pub sessions: Vec<Session>,
    daemon: SocketAddrV4,
    epoll: Epoll,
    events: Vec<EpollEvent>,
    scratch: Vec<u8>,
    /// The flags that epoll has of each session.
    watched: Vec<Option<EpollFlags>>,
    /// When each session that is down dials next.
    dials: Vec<Option<Instant>>,
    /// Connections that are being set up at a time.
    at_once: usize,
    keepalive: Instant,
    last_established: Instant,
    tally: Tally,
    /// Once sessions have to stay up, the loss of one is the end.
    pub steady: bool,
    /// Connections that ended before the scenario did.
    pub lost: u64,
    last_loss: Option<String>,
}

impl Player {
    pub fn new(daemon: Ipv4Addr, sessions: Vec<Session>) -> Result<Player> {
        let count = sessions.len();
        let now = Instant::now();
        let tally = sessions.iter().map(Tally::of).fold(Tally::default(), Tally::plus);
        Ok(Player {
            sessions,
            daemon: SocketAddrV4::new(daemon, 179),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); 1024],
            scratch: vec![0; SCRATCH],
            watched: vec![None; count],
            dials: vec![None; count],
            at_once: 0,
            keepalive: now + KEEPALIVE,
            last_established: now,
            tally,
            steady: false,
            lost: 0,
            last_loss: None,
        })
    }

    /// Begins to dial with every session, `at_once` at a time.
    pub fn dial(&mut self, at_once: usize) {
        self.at_once = at_once;
        self.dials.fill(Some(Instant::now()));
    }

    /// Plays until `reached`, which is asked after every event; the instant at which it was, or `None` after `limit`.
    pub fn until(
        &mut self,
        limit: Instant,
        mut reached: impl FnMut(&Player) -> bool,
    ) -> Result<Option<Instant>> {
        loop {
            let mut now = Instant::now();
            if reached(self) {
                return Ok(Some(now));
            }
            if now >= limit {
                return Ok(None);
            }
            self.dial_next(now)?;
            if now >= self.keepalive {
                self.keepalive = now + KEEPALIVE;
                self.keep_alive()?;
            }
            let pause = limit.min(self.keepalive).saturating_duration_since(now);
            // Dials that wait for their turn or their time are looked at every 10 ms.
            let most = if self.dials.iter().any(Option::is_some) { 10 } else { 100 };
            let pause = u8::try_from(pause.as_millis().saturating_add(1)).unwrap_or(u8::MAX).min(most);
            let mut events = std::mem::take(&mut self.events);
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(pause)) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error).context("epoll_wait"),
            };
            for event in events.iter().take(count) {
                let index = usize::try_from(event.data()).context("epoll's index")?;
                self.serve(index)?;
                if reached(self) {
                    now = Instant::now();
                    self.events = events;
                    return Ok(Some(now));
                }
            }
            self.events = events;
        }
    }

    /// Gives session `index` bytes to send, and sends what the socket takes at once.
    pub fn send(&mut self, index: usize, bytes: Arc<[u8]>) -> Result<()> {
        self.attend(index, |session| {
            session.send(bytes);
            Ok(session.write())
        })
    }

    /// All sessions are up, and every first table has come.
    pub fn is_ready(&self) -> bool {
        let all = self.sessions.len();
        self.tally.established == all
            && (self.tally.end_of_rib == all || self.last_established.elapsed() > NO_END_OF_RIB)
    }

    pub fn is_complete(&self) -> bool {
        self.tally.complete == self.sessions.len()
    }

    /// For a message: how far it has come.
    pub fn progress(&self) -> String {
        let Tally { established, complete, .. } = self.tally;
        let prefixes: u64 = self.sessions.iter().map(|s| u64::from(s.table.have())).sum();
        let loss = self.last_loss.as_deref().unwrap_or("none");
        format!(
            "{established} of {} sessions up, {complete} complete, {prefixes} prefixes in all, {} connections lost \
             (the last: {loss})",
            self.sessions.len(),
            self.lost
        )
    }

    fn session(&mut self, index: usize) -> Result<&mut Session> {
        self.sessions.get_mut(index).context("there is no such session")
    }

    fn dial_next(&mut self, now: Instant) -> Result<()> {
        if self.dials.iter().all(Option::is_none) {
            return Ok(());
        }
        let on_the_way = |s: &&Session| !matches!(s.phase, Phase::Down | Phase::Established);
        let mut free = self.at_once.saturating_sub(self.sessions.iter().filter(on_the_way).count());
        for index in 0..self.dials.len() {
            if free == 0 {
                break;
            }
            let Some(dial) = self.dials.get_mut(index) else { break };
            if dial.is_some_and(|at| at <= now) {
                *dial = None;
                let daemon = self.daemon;
                self.session(index)?.dial(daemon)?;
                self.watch(index)?;
                free -= 1;
            }
        }
        Ok(())
    }

    fn keep_alive(&mut self) -> Result<()> {
        let bytes: Arc<[u8]> = wire::keepalive().into();
        for index in 0..self.sessions.len() {
            if self.session(index)?.phase == Phase::Established {
                self.send(index, Arc::clone(&bytes))?;
            }
        }
        Ok(())
    }

    fn serve(&mut self, index: usize) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let served = self.attend(index, |session| session.serve(&mut scratch));
        self.scratch = scratch;
        served
    }

    /// Lets a session do something, and keeps the tally.
    fn attend(&mut self, index: usize, act: impl FnOnce(&mut Session) -> Result<Served>) -> Result<()> {
        let session = self.session(index)?;
        let before = Tally::of(session);
        let served = act(session)?;
        let after = Tally::of(session);
        if after.established > before.established {
            self.last_established = Instant::now();
        }
        self.tally = self.tally.plus(after).minus(before);
        self.judge(index, served)
    }

    fn judge(&mut self, index: usize, served: Served) -> Result<()> {
        if let Served::Ended(why) = served {
            // The kernel took the closed socket out of the epoll set.
            if let Some(watched) = self.watched.get_mut(index) {
                *watched = None;
            }
            if self.steady {
                bail!("the session of {} ended: {why}", self.session(index)?.address);
            }
            self.lost += 1;
            self.last_loss = Some(why);
            if let Some(dial) = self.dials.get_mut(index) {
                *dial = Some(Instant::now() + REDIAL);
            }
            return Ok(());
        }
        self.watch(index)
    }

    fn watch(&mut self, index: usize) -> Result<()> {
        let (Some(session), Some(watched)) = (self.sessions.get(index), self.watched.get_mut(index)) else {
            bail!("there is no such session");
        };
        let Some(fd) = session.fd() else { return Ok(()) };
        let flags = match (session.phase, session.is_writing()) {
            // An unconnected socket is readable when it has failed; that shows as an error, too.
            (Phase::Connecting, _) => EpollFlags::EPOLLOUT,
            (_, true) => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            (_, false) => EpollFlags::EPOLLIN,
        };
        if *watched == Some(flags) {
            return Ok(());
        }
        let mut event = EpollEvent::new(flags, index.try_into()?);
        match watched {
            Some(_) => self.epoll.modify(fd, &mut event)?,
            None => self.epoll.add(fd, event)?,
        }
        *watched = Some(flags);
        Ok(())
    }
}
