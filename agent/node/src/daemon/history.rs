//! What became of sessions, paths, routes and repairs, for as many events as are remembered, and what led to each. It
//! outlives a restart ([`crate::history_file`]).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use manx_api::{Happened, HistoryEvent, HistoryPath, MoreOf, Repair};
use manx_bgp::{
    BestCause, BestChange, BestPath, PathSource, PeerKey, SessionEvent, Time, Warning,
    view::{Cause, SessionState},
};
use manx_net::Prefix;

use super::{answers, log};
use crate::{
    clock::Clock,
    history_file::{self, HistoryFile},
};

/// Session events that are remembered, of all peers together.
const SESSIONS: usize = 2048;
/// Events of paths and routes.
const ROUTES: usize = 8192;
/// All others.
const OTHERS: usize = 1024;
/// Within this time ...
const BURST: Duration = Duration::from_secs(1);
/// ... so many changes with the same cause are kept one by one.
const OF_A_BURST: u64 = 64;
/// Prefixes whose last change of path is known as the cause of what their routes do.
const CAUSES: usize = 4096;

#[derive(Debug)]
pub struct History {
    clock: Clock,
    sessions: Sessions,
    routes: VecDeque<HistoryEvent>,
    others: VecDeque<HistoryEvent>,
    /// The number of the next event.
    next: u64,
    pub forgotten: u64,
    file: Option<HistoryFile>,
    paths: Burst<BestCause>,
    /// By the event that led to them.
    sinks: Burst<Option<u64>>,
    /// The last of each, as the cause of others.
    resources: Option<u64>,
    next_hop: Option<u64>,
    started: Option<u64>,
    of_prefix: HashMap<Prefix, u64>,
}

/// Many changes at once with one cause: a whole table that comes must not take the history of everything else along.
#[derive(Debug)]
struct Burst<K> {
    since: Option<(K, Time)>,
    told: u64,
    untold: u64,
}

impl<K> Default for Burst<K> {
    fn default() -> Burst<K> {
        Burst { since: None, told: 0, untold: 0 }
    }
}

impl<K: PartialEq + Copy> Burst<K> {
    /// Is this one told? And what of the burst before remains to be said.
    fn take(&mut self, cause: K, now: Time) -> (bool, Option<(K, u64)>) {
        let goes_on = self.since.is_some_and(|(key, since)| key == cause && now.since(since) < BURST);
        let rest = if goes_on { None } else { self.end() };
        if !goes_on {
            *self = Burst { since: Some((cause, now)), told: 0, untold: 0 };
        }
        let told = self.told < OF_A_BURST;
        if told {
            self.told += 1;
        } else {
            self.untold += 1;
        }
        (told, rest)
    }

    fn end(&mut self) -> Option<(K, u64)> {
        let untold = std::mem::take(&mut self.untold);
        self.since.filter(|_| untold > 0).map(|(key, _)| (key, untold))
    }

    fn is_over(&self, now: Time) -> bool {
        self.untold > 0 && self.since.is_some_and(|(_, since)| now.since(since) >= BURST)
    }
}

impl History {
    pub fn open(clock: Clock, state_dir: &Path) -> History {
        let (events, file) = history_file::open(state_dir);
        let file = file
            .inspect_err(|error| {
                tracing::warn!(
                    "the history is forgotten with this process: {}: {error}",
                    state_dir.display()
                );
            })
            .ok();
        let mut history = History { file: None, ..History::new(clock) };
        for event in events {
            history.next = event.number + 1;
            history.store(event);
        }
        history.forgotten = 0;
        history.file = file;
        history
    }

    fn new(clock: Clock) -> History {
        History {
            clock,
            sessions: Sessions::default(),
            routes: VecDeque::new(),
            others: VecDeque::new(),
            next: 1,
            forgotten: 0,
            file: None,
            paths: Burst::default(),
            sinks: Burst::default(),
            resources: None,
            next_hop: None,
            started: None,
            of_prefix: HashMap::new(),
        }
    }

    pub fn started(&mut self, text: String) {
        self.started = Some(self.push(self.clock.now(), None, Happened::Daemon { text }));
    }

    /// What manxd does as a whole.
    pub fn daemon(&mut self, text: String) {
        self.push(self.clock.now(), None, Happened::Daemon { text });
    }

    pub fn stopped(&mut self) {
        self.push(self.clock.now(), None, Happened::Daemon { text: "manxd stops".into() });
    }

    pub fn resources(&mut self, text: String) {
        self.resources = Some(self.push(self.clock.now(), None, Happened::Resources { text }));
    }

    pub fn session(&mut self, event: &SessionEvent) {
        let own = matches!(event.cause, Cause::Configured | Cause::Removed | Cause::ConfigurationChanged);
        let caused_by = self.resources.filter(|_| own);
        let what = Happened::Session {
            peer: event.peer.address,
            port: event.peer.port,
            from: answers::state(event.from),
            to: answers::state(event.to),
            cause: log::cause(event),
            notification: match &event.cause {
                Cause::NotificationSent(n) | Cause::NotificationReceived(n) => {
                    Some(answers::notification(n, &self.clock))
                }
                _ => event.sent.as_ref().map(|n| answers::notification(n, &self.clock)),
            },
            dialled_by: event.dialled_by.map(answers::dialler),
        };
        self.push(event.at, caused_by, what);
    }

    /// `state`: the peer's; None if it is gone.
    pub fn warned(&mut self, warning: &Warning, state: Option<SessionState>) {
        let what = Happened::Warning {
            peer: warning.peer.address,
            port: warning.peer.port,
            state: answers::state(state.unwrap_or(SessionState::Idle)),
            text: warning.about.to_string(),
        };
        self.push(warning.at, None, what);
    }

    pub fn parting(&mut self, at: Time, peer: PeerKey, text: String) {
        let what = Happened::Parting { peer: peer.address, port: peer.port, text };
        self.push(at, self.resources, what);
    }

    pub fn bfd(&mut self, peer: PeerKey, from: Option<String>, to: String, cause: String) {
        let what = Happened::Bfd { peer: peer.address, port: peer.port, from, to, cause };
        self.push(self.clock.now(), None, what);
    }

    pub fn next_hop(&mut self, address: IpAddr, reachable: bool, text: String) {
        let what = Happened::NextHop { address, reachable, text };
        self.next_hop = Some(self.push(self.clock.now(), None, what));
    }

    pub fn path(&mut self, prefix: Prefix, best: Option<&BestPath>, cause: BestCause) {
        let now = self.clock.now();
        let (told, rest) = self.paths.take(cause, now);
        self.more_paths(rest, now);
        if !told {
            if !self.of_prefix.is_empty() {
                self.of_prefix.remove(&prefix);
            }
            return;
        }
        let path = best.map(|best| HistoryPath {
            from: match best.source {
                PathSource::Own => None,
                PathSource::Peer(peer) => Some(peer.address),
            },
            next_hops: best.next_hops.iter().map(|hop| hop.address).collect(),
            blackhole: best.blackhole,
        });
        let caused_by = match cause.what {
            BestChange::Dropped => cause.peer.and_then(|peer| self.sessions.last_of(peer)),
            BestChange::NextHop => self.next_hop,
            BestChange::Configured => self.resources,
            BestChange::FirstChoice => self.started,
            BestChange::Announced | BestChange::Withdrawn | BestChange::Replaced => None,
        };
        let peer = cause.peer.map(|peer| peer.address);
        let number = self.push(now, caused_by, Happened::Path { prefix, path, peer, cause: text(cause) });
        if self.of_prefix.len() >= CAUSES {
            self.of_prefix.clear();
        }
        self.of_prefix.insert(prefix, number);
    }

    /// What the kernel and the map are to have; `wanted` makes the text.
    pub fn route(&mut self, prefix: Prefix, wanted: impl FnOnce() -> Option<String>) {
        let now = self.clock.now();
        let path = self.of_prefix.remove(&prefix);
        // Of a burst of paths all have the same cause.
        let (told, rest) = self.sinks.take(None, now);
        self.more_routes(rest, now);
        if told {
            self.push(now, path, Happened::Route { prefix, wanted: wanted() });
        }
    }

    pub fn refused(&mut self, prefix: Prefix, error: Option<String>) {
        self.push(self.clock.now(), None, Happened::Refused { prefix, error });
    }

    pub fn repair(&mut self, repair: &Repair) {
        let Repair { kind, what, by, .. } = repair;
        let what = Happened::Repair { repair: *kind, of: what.clone(), by: by.clone() };
        self.push(self.clock.now(), None, what);
    }

    /// Bursts that are over are counted.
    pub fn settle(&mut self) {
        let now = self.clock.now();
        if self.paths.is_over(now) {
            let rest = self.paths.end();
            self.more_paths(rest, now);
        }
        if self.sinks.is_over(now) {
            let rest = self.sinks.end();
            self.more_routes(rest, now);
        }
    }

    fn more_paths(&mut self, rest: Option<(BestCause, u64)>, now: Time) {
        if let Some((cause, count)) = rest {
            self.push(now, None, Happened::More { of: MoreOf::Paths, count, cause: text(cause) });
        }
    }

    fn more_routes(&mut self, rest: Option<(Option<u64>, u64)>, now: Time) {
        if let Some((_, count)) = rest {
            self.push(now, None, Happened::More { of: MoreOf::Routes, count, cause: String::new() });
        }
    }

    /// In their order.
    pub fn events(&self) -> Vec<&HistoryEvent> {
        let mut events: Vec<&HistoryEvent> =
            self.sessions.events.values().chain(&self.routes).chain(&self.others).collect();
        events.sort_unstable_by_key(|event| event.number);
        events
    }

    /// Events that the disk was too slow for, since this was asked last.
    pub fn take_lost(&mut self) -> u64 {
        self.file.as_mut().map_or(0, |file| std::mem::take(&mut file.lost))
    }

    fn push(&mut self, at: Time, caused_by: Option<u64>, what: Happened) -> u64 {
        let number = self.next;
        self.next += 1;
        let event = HistoryEvent { number, at: self.clock.rfc3339(at), caused_by, what };
        if let Some(file) = &mut self.file {
            file.keep(&event);
        }
        self.store(event);
        number
    }

    fn store(&mut self, event: HistoryEvent) {
        let (ring, most) = match &event.what {
            what if what.peer().is_some() => {
                self.forgotten += self.sessions.keep(event);
                return;
            }
            Happened::Path { .. }
            | Happened::Route { .. }
            | Happened::Refused { .. }
            | Happened::More { .. } => (&mut self.routes, ROUTES),
            _ => (&mut self.others, OTHERS),
        };
        if ring.len() == most {
            ring.pop_front();
            self.forgotten += 1;
        }
        ring.push_back(event);
    }
}

/// A sentence's end.
fn text(cause: BestCause) -> String {
    let peer = cause.peer.map_or_else(|| "a peer that is gone".to_owned(), |peer| peer.to_string());
    match cause.what {
        BestChange::Announced => format!("announced by {peer}"),
        BestChange::Withdrawn => format!("withdrawn by {peer}"),
        BestChange::Dropped => format!("what {peer} had announced is not kept any longer"),
        BestChange::NextHop => "a next hop is reached otherwise".to_owned(),
        BestChange::Configured => "the configuration is another".to_owned(),
        BestChange::FirstChoice => "the first choice after the start".to_owned(),
        BestChange::Replaced => "another way has come".to_owned(),
    }
}

/// Each event that is kept costs the same, however many peers there are: a thousand that come up at once are thousands of
/// events.
#[derive(Debug, Default)]
struct Sessions {
    events: BTreeMap<u64, HistoryEvent>,
    of_peer: HashMap<Peer, VecDeque<u64>>,
    /// How many events of a peer there are, and its oldest; so that the last is whoever has the most, and of several the
    /// one whose oldest is the oldest.
    most: BTreeSet<(usize, Reverse<u64>, Peer)>,
}

type Peer = (IpAddr, u16);

impl Sessions {
    fn last_of(&self, peer: PeerKey) -> Option<u64> {
        self.of_peer.get(&(peer.address, peer.port))?.back().copied()
    }

    /// How many were forgotten for it.
    fn keep(&mut self, event: HistoryEvent) -> u64 {
        let Some(peer) = event.what.peer() else { return 0 };
        let forgotten = if self.events.len() == SESSIONS { self.forget_one() } else { 0 };
        let number = event.number;
        self.events.insert(number, event);
        self.change(peer, |numbers| numbers.push_back(number));
        forgotten
    }

    /// The oldest of whoever has the most: a peer that fails every second must not take the others' history along.
    fn forget_one(&mut self) -> u64 {
        let Some(&(_, Reverse(oldest), peer)) = self.most.last() else { return 0 };
        self.events.remove(&oldest);
        self.change(peer, |numbers| {
            numbers.pop_front();
        });
        1
    }

    fn change(&mut self, peer: Peer, change: impl FnOnce(&mut VecDeque<u64>)) {
        let place = |numbers: &VecDeque<u64>| Some((numbers.len(), Reverse(*numbers.front()?), peer));
        let numbers = self.of_peer.entry(peer).or_default();
        if let Some(before) = place(numbers) {
            self.most.remove(&before);
        }
        change(numbers);
        match place(numbers) {
            Some(now) => {
                self.most.insert(now);
            }
            None => {
                self.of_peer.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        History::new(Clock::start())
    }

    fn event(peer: std::net::Ipv4Addr) -> SessionEvent {
        SessionEvent {
            at: Time::from_nanos(2_000_000_000),
            peer: PeerKey { address: peer.into(), port: 179 },
            from: SessionState::Active,
            to: SessionState::OpenSent,
            cause: Cause::Connected,
            sent: None,
            dialled_by: None,
        }
    }

    #[test]
    fn a_peer_that_fails_again_and_again_takes_nobody_elses_history() {
        let mut history = history();
        let peers = [1, 2].map(|n| std::net::Ipv4Addr::new(10, 0, 0, n));
        (0..20).for_each(|_| history.session(&event(peers[0])));
        (20..10_000).for_each(|_| history.session(&event(peers[1])));
        let of = |peer: usize| {
            let own = Some((IpAddr::V4(peers[peer]), 179));
            history.events().iter().filter(|event| event.what.peer() == own).count()
        };
        assert_eq!((of(0), of(1)), (20, SESSIONS - 20));
        assert_eq!(history.forgotten, 10_000 - SESSIONS as u64);
        assert_eq!(history.events().last().map(|last| last.number), Some(10_000));
    }

    #[test]
    fn of_peers_with_as_many_events_the_oldest_is_forgotten_and_nothing_stays_of_who_has_none() {
        let mut history = history();
        for n in 0..10_000_u32 {
            history.session(&event(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n)));
        }
        let numbers: Vec<u64> = history.events().iter().map(|event| event.number).collect();
        assert_eq!(numbers, (10_001 - SESSIONS as u64..=10_000).collect::<Vec<_>>());
        let sessions = &history.sessions;
        assert_eq!((sessions.of_peer.len(), sessions.most.len()), (SESSIONS, SESSIONS));
    }

    #[test]
    fn what_led_to_a_change_is_told_with_it() {
        let mut history = history();
        let peer = std::net::Ipv4Addr::new(10, 0, 0, 1);
        let prefix: Prefix = "172.16.8.0/26".parse().unwrap();
        history.session(&event(peer));
        let key = event(peer).peer;
        history.path(prefix, None, BestCause { what: BestChange::Dropped, peer: Some(key) });
        history.route(prefix, || None);
        let caused: Vec<_> = history.events().iter().map(|event| (event.number, event.caused_by)).collect();
        assert_eq!(caused, [(1, None), (2, Some(1)), (3, Some(2))]);
    }

    #[test]
    fn a_whole_table_is_told_by_its_number() {
        let mut history = history();
        history.session(&event(std::net::Ipv4Addr::new(10, 0, 0, 1)));
        let cause = BestCause { what: BestChange::Announced, peer: None };
        for n in 0..100_000_u32 {
            let prefix = Prefix::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n * 64).into(), 26).unwrap();
            history.path(prefix, None, cause);
        }
        history.path(
            "10.0.0.0/8".parse().unwrap(),
            None,
            BestCause { what: BestChange::Withdrawn, peer: None },
        );
        let events = history.events();
        let more: u64 = events
            .iter()
            .map(|event| match event.what {
                Happened::More { count, .. } => count,
                Happened::Path { .. } => 1,
                _ => 0,
            })
            .sum();
        assert_eq!(more, 100_001);
        assert!(events.len() < 2000, "{}", events.len());
        assert!(matches!(events[0].what, Happened::Session { .. }));
    }
}
