//! What became of sessions, for as many events as are remembered.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
};

use manx_bgp::{PeerKey, SessionEvent, Warning, view::SessionState};

/// Session events that are remembered, of all peers together.
const REMEMBERED: usize = 2048;

/// Events have numbers, in their order. Each that is kept costs the same, however many peers there are: a thousand that
/// come up at once are thousands of events.
#[derive(Debug, Default)]
pub struct History {
    events: BTreeMap<u64, Happened>,
    of_peer: HashMap<PeerKey, VecDeque<u64>>,
    /// How many events of a peer there are, and its oldest; so that the last is whoever has the most, and of several the
    /// one whose oldest is the oldest.
    most: BTreeSet<(usize, Reverse<u64>, PeerKey)>,
    next: u64,
    pub forgotten: u64,
}

#[derive(Debug)]
pub enum Happened {
    Session(SessionEvent),
    /// In the state in which the session was and is.
    Warned {
        warning: Warning,
        state: SessionState,
    },
}

impl History {
    pub fn push(&mut self, event: SessionEvent) {
        self.keep(Happened::Session(event));
    }

    /// `state`: the peer's; None if it is gone.
    pub fn warned(&mut self, warning: &Warning, state: Option<SessionState>) {
        let state = state.unwrap_or(SessionState::Idle);
        self.keep(Happened::Warned { warning: warning.clone(), state });
    }

    /// In their order.
    pub fn events(&self) -> impl Iterator<Item = &Happened> {
        self.events.values()
    }

    fn keep(&mut self, event: Happened) {
        if self.events.len() == REMEMBERED {
            self.forget_one();
        }
        let (peer, number) = (event.peer(), self.next);
        self.next += 1;
        self.events.insert(number, event);
        self.change(peer, |numbers| numbers.push_back(number));
    }

    /// The oldest of whoever has the most: a peer that fails every second must not take the others' history along.
    fn forget_one(&mut self) {
        let Some(&(_, Reverse(oldest), peer)) = self.most.last() else { return };
        self.events.remove(&oldest);
        self.change(peer, |numbers| {
            numbers.pop_front();
        });
        self.forgotten += 1;
    }

    fn change(&mut self, peer: PeerKey, change: impl FnOnce(&mut VecDeque<u64>)) {
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

impl Happened {
    pub fn peer(&self) -> PeerKey {
        match self {
            Happened::Session(event) => event.peer,
            Happened::Warned { warning, .. } => warning.peer,
        }
    }
}

#[cfg(test)]
mod tests {
    use manx_bgp::{Time, view::Cause};

    use super::*;

    fn event(peer: u8, at: u64) -> SessionEvent {
        SessionEvent {
            at: Time::from_nanos(at),
            peer: PeerKey { address: [10, 0, 0, peer].into(), port: 179 },
            from: SessionState::Active,
            to: SessionState::OpenSent,
            cause: Cause::Connected,
            sent: None,
            dialled_by: None,
        }
    }

    #[test]
    fn a_peer_that_fails_again_and_again_takes_nobody_elses_history() {
        let mut history = History::default();
        (0..20).for_each(|n| history.push(event(1, n)));
        (20..10_000).for_each(|n| history.push(event(2, n)));
        let of = |peer: u8| history.events().filter(|e| e.peer() == event(peer, 0).peer).count();
        assert_eq!((of(1), of(2)), (20, REMEMBERED - 20));
        assert_eq!(history.forgotten, 10_000 - REMEMBERED as u64);
        assert!(matches!(history.events().last(), Some(Happened::Session(last)) if *last == event(2, 9999)));
    }

    #[test]
    fn of_peers_with_as_many_events_the_oldest_is_forgotten_and_nothing_stays_of_who_has_none() {
        let mut history = History::default();
        for n in 0..10_000_u32 {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into();
            history.push(SessionEvent { peer: PeerKey { address, port: 179 }, ..event(0, u64::from(n)) });
        }
        let at: Vec<u64> = history
            .events()
            .map(|event| match event {
                Happened::Session(event) => event.at.since(Time::ZERO).as_nanos() as u64,
                Happened::Warned { .. } => panic!("nothing has warned"),
            })
            .collect();
        assert_eq!(at, (10_000 - REMEMBERED as u64..10_000).collect::<Vec<_>>());
        assert_eq!((history.of_peer.len(), history.most.len()), (REMEMBERED, REMEMBERED));
    }
}
