//! One speaker and several peers that the test plays, each with or without ADD-PATH (RFC 7911). What a peer has been
//! sent is kept as it would keep it: by prefix and name, with the attributes as text.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use bytes::{Bytes, BytesMut};
use manx_net::{Prefix, Prefix6};

use super::{
    network::{asn, ip, peer},
    script::{attribute, config, raw_update, their_open},
};
use crate::{
    BestPath, Config, ConnId, Event, ExportRule, Family, NextHop, Output, Speaker, Time, Warning,
    attr::{
        flag::{OPTIONAL, TRANSITIVE},
        parse::Reading,
    },
    config::{AddPath, PerFamily},
    message::{
        MAX_EXTENDED_LEN, Message, keepalive, next_message,
        open::{AddPathOffer, Open},
        refresh::{RefreshKind, RouteRefresh},
        update::{PathId, Prefixes, Update},
    },
};

/// By prefix and name.
pub type State = BTreeMap<(Prefix, PathId), String>;

pub struct Hub {
    pub speaker: Speaker,
    pub now: Time,
    pub conns: Vec<ConnId>,
    pub states: Vec<State>,
    /// UPDATEs' announcements and withdrawals taken by each peer.
    pub told: Vec<(usize, usize)>,
    /// Of next hops; 0 where there is none, `None` for those that cannot be reached.
    pub metrics: BTreeMap<IpAddr, Option<u32>>,
    pub best: BTreeMap<Prefix, BestPath>,
    pub warnings: Vec<Warning>,
    watched: Vec<NextHop>,
}

/// What a peer announces with a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    pub local_pref: u8,
    pub med: u8,
    /// The last octet of the next hop 10.9.0.x.
    pub next_hop: u8,
    pub community: Option<u32>,
    /// So many octets of an attribute that nobody knows.
    pub ballast: usize,
}

impl Said {
    pub const PLAIN: Said = Said { local_pref: 100, med: 0, next_hop: 1, community: None, ballast: 0 };

    pub fn pref(local_pref: u8) -> Said {
        Said { local_pref, ..Said::PLAIN }
    }

    pub fn by(next_hop: u8) -> Said {
        Said { next_hop, ..Said::PLAIN }
    }

    /// From a peer of this AS, or of another.
    fn attributes(self, number: Option<u32>) -> Vec<u8> {
        let as_path = number.map_or(Vec::new(), |number| [&[2, 1], &number.to_be_bytes()[..]].concat());
        let mut out = vec![
            attribute(TRANSITIVE, 1, &[0]),
            attribute(TRANSITIVE, 2, &as_path),
            attribute(TRANSITIVE, 3, &[10, 9, 0, self.next_hop]),
            attribute(OPTIONAL, 4, &[0, 0, 0, self.med]),
        ];
        if number.is_none() {
            out.push(attribute(TRANSITIVE, 5, &[0, 0, 0, self.local_pref]));
        }
        out.extend(self.community.map(|number| attribute(OPTIONAL | TRANSITIVE, 8, &number.to_be_bytes())));
        if self.ballast > 0 {
            out.push(attribute(OPTIONAL | TRANSITIVE, 99, &vec![7; self.ballast]));
        }
        out.concat()
    }
}

/// AS 64512 and clients of it, 10.0.0.2 and on: each with what it is sent and whether several are taken from it.
pub fn clients(add_paths: &[AddPath]) -> Config {
    let mut config = Config::new(asn(64512), Ipv4Addr::new(10, 0, 0, 1));
    config.export = ExportRule { pools: vec![], transit: true, ..ExportRule::default() };
    for (n, &add_path) in add_paths.iter().enumerate() {
        let mut peer = peer(&format!("10.0.0.{}", n + 2), 64512);
        peer.dial = crate::Dial::Never;
        (peer.rr_client, peer.add_path) = (true, add_path);
        config.peers.push(peer);
    }
    config
}

pub fn add_path(send: u8, receive: bool) -> AddPath {
    AddPath { send, receive }
}

impl Hub {
    /// All sessions are up, and first tables taken.
    pub fn new(config: Config) -> Hub {
        let now = Time::from_nanos(1_000_000_000);
        let peers = config.peers.len();
        let mut hub = Hub {
            speaker: Speaker::new(config, now),
            now,
            conns: vec![ConnId(0); peers],
            states: vec![State::new(); peers],
            told: vec![(0, 0); peers],
            metrics: BTreeMap::new(),
            best: BTreeMap::new(),
            warnings: Vec::new(),
            watched: Vec::new(),
        };
        (0..peers).for_each(|n| hub.join(n));
        (0..peers).for_each(|n| hub.take(n, usize::MAX));
        hub
    }

    pub fn join(&mut self, n: usize) {
        self.join_with(n, |_| ());
    }

    /// A new session, with this change to the peer's OPEN, which otherwise offers ADD-PATH in both directions.
    pub fn join_with(&mut self, n: usize, change: impl FnOnce(&mut Open)) {
        let address = |last: usize| SocketAddr::new(ip(&format!("10.0.0.{last}")), 179);
        let conn = self.speaker.accept(address(1), address(n + 2), self.now).unwrap();
        let mut open = their_open(&config(64512));
        open.identifier = Ipv4Addr::new(10, 0, 0, n as u8 + 2);
        let number = self.speaker.config().peers[n].remote_as;
        open.my_as = number.get() as u16;
        open.capabilities.four_octet_as = Some(number.get());
        let both = |family| AddPathOffer { family, receive: true, send: true };
        open.capabilities.add_path = Family::ALL.map(both).to_vec();
        change(&mut open);
        for bytes in [open.encode(), keepalive()] {
            self.speaker.handle(Event::Received { conn, bytes }, self.now);
            self.drain();
        }
        self.conns[n] = conn;
        self.states[n].clear();
    }

    /// The session is lost, with or without its peer's word.
    pub fn lose(&mut self, n: usize, notification: bool) {
        let conn = self.conns[n];
        let event = if notification {
            let cease = crate::message::notification::Notification::cease(4);
            Event::Received { conn, bytes: cease.encode() }
        } else {
            Event::Closed { conn, reason: "gone".into() }
        };
        self.speaker.handle(event, self.now);
        self.drain();
    }

    pub fn drain(&mut self) {
        loop {
            while let Some(output) = self.speaker.poll_output() {
                match output {
                    Output::Watch { next_hop } => {
                        self.watched.push(next_hop);
                        let metric = self.metrics.get(&next_hop.address).copied().unwrap_or(Some(0));
                        self.speaker.handle(Event::NextHop { next_hop, metric }, self.now);
                    }
                    Output::Unwatch { next_hop } => self.watched.retain(|watched| *watched != next_hop),
                    Output::Best { prefix, best: Some(best), .. } => drop(self.best.insert(prefix, best)),
                    Output::Best { prefix, best: None, .. } => drop(self.best.remove(&prefix)),
                    Output::Warning(warning) => self.warnings.push(warning),
                    Output::Parting(_) => {}
                    _ => {}
                }
            }
            if self.speaker.next_wakeup() != Some(Time::ZERO) {
                break;
            }
            self.speaker.advance(self.now);
        }
    }

    /// What nobody refers to any more is forgotten.
    pub fn tidy(&mut self) {
        self.speaker.advance(self.now);
        self.drain();
    }

    pub fn metric(&mut self, address: &str, metric: Option<u32>) {
        self.metrics.insert(ip(address), metric);
        for next_hop in self.watched.clone().into_iter().filter(|watched| watched.address == ip(address)) {
            self.speaker.handle(Event::NextHop { next_hop, metric }, self.now);
        }
        self.drain();
    }

    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.speaker.config().clone();
        change(&mut config);
        self.speaker.configure(config, self.now);
        self.drain();
    }

    pub fn give(&mut self, from: usize, bytes: Bytes) {
        let conn = self.conns[from];
        self.speaker.handle(Event::Received { conn, bytes }, self.now);
        self.drain();
    }

    /// Does the peer send names?
    fn names_its_paths(&self, n: usize) -> bool {
        self.speaker.config().peers[n].add_path.receive
    }

    fn nlri(&self, from: usize, id: PathId, prefix: &str) -> Vec<u8> {
        let Prefix::V4(prefix) = prefix.parse().unwrap() else { panic!("IPv4 only") };
        let mut out = if self.names_its_paths(from) { id.to_be_bytes().to_vec() } else { Vec::new() };
        out.push(prefix.len());
        out.extend(&prefix.addr().octets()[..usize::from(prefix.len()).div_ceil(8)]);
        out
    }

    pub fn announce(&mut self, from: usize, id: PathId, prefix: &str, said: Said) {
        let number = self.speaker.config().peers[from].remote_as.get();
        let attributes = said.attributes((number != 64512).then_some(number));
        self.give(from, raw_update(&[], &attributes, &self.nlri(from, id, prefix)));
    }

    pub fn withdraw(&mut self, from: usize, id: PathId, prefix: &str) {
        self.give(from, raw_update(&self.nlri(from, id, prefix), &[], &[]));
    }

    pub fn ask_again(&mut self, n: usize) {
        let request = RouteRefresh { family: Family::Ipv4Unicast, kind: RefreshKind::Request };
        self.give(n, request.encode());
    }

    /// The peer reads so many octets, or a message more.
    pub fn take(&mut self, to: usize, budget: usize) {
        let mut out = Vec::new();
        let mut left = budget;
        while left > 0 {
            let octets = self.speaker.transmit(self.conns[to], left.min(4096), &mut out, self.now);
            if octets == 0 {
                break;
            }
            left = left.saturating_sub(octets);
        }
        let mut stream = BytesMut::from(&out.concat()[..]);
        while let Some(message) = next_message(&mut stream, MAX_EXTENDED_LEN).unwrap() {
            self.read(to, &message);
        }
    }

    fn read(&mut self, to: usize, message: &Message) {
        let Message::Update(body) = message else { return };
        let named = self.speaker.peers()[to].negotiated.as_ref().is_some_and(|agreed| {
            agreed.add_path.iter().any(|of| of.family == Family::Ipv4Unicast && of.send)
        });
        let ebgp = self.speaker.config().peers[to].remote_as != asn(64512);
        let reading = Reading {
            families: PerFamily::both(true),
            ebgp,
            four_octet: true,
            add_path: PerFamily::both(named),
            extended_next_hop: false,
        };
        let update = Update::parse(body, reading).unwrap();
        assert_eq!(update.attributes.errors, []);
        let (state, told) = (&mut self.states[to], &mut self.told[to]);
        for (id, prefix) in update.withdrawn {
            told.1 += 1;
            state.remove(&(Prefix::V4(prefix), id));
        }
        if let Some(unreach) = update.attributes.mp_unreach {
            for (id, prefix) in Prefixes::<Prefix6>::parse(unreach.nlri, named).unwrap() {
                told.1 += 1;
                state.remove(&(Prefix::V6(prefix), id));
            }
        }
        let text = |next_hop| format!("{:?}", update.attributes.attributes(next_hop).unwrap());
        for (id, prefix) in update.announced {
            told.0 += 1;
            state.insert((Prefix::V4(prefix), id), text(update.attributes.next_hop.unwrap().into()));
        }
        if let Some(reach) = update.attributes.mp_reach {
            for (id, prefix) in Prefixes::<Prefix6>::parse(reach.nlri, named).unwrap() {
                told.0 += 1;
                state.insert((Prefix::V6(prefix), id), text(reach.next_hop));
            }
        }
    }

    pub fn take_all(&mut self) {
        (0..self.conns.len()).for_each(|n| self.take(n, usize::MAX));
    }

    /// What has been told to a peer since the last time, as announcements and withdrawals.
    pub fn news(&mut self, to: usize) -> (usize, usize) {
        self.take(to, usize::MAX);
        std::mem::take(&mut self.told[to])
    }

    /// The names that a peer has for a prefix.
    pub fn names(&self, of: usize, prefix: &str) -> Vec<PathId> {
        let prefix: Prefix = prefix.parse().unwrap();
        self.states[of].keys().filter(|(held, _)| *held == prefix).map(|&(_, id)| id).collect()
    }

    pub fn next_hops(&self, prefix: &str) -> Vec<String> {
        let best = self.best.get(&prefix.parse().unwrap());
        best.map_or(Vec::new(), |best| best.next_hops.iter().map(|hop| hop.address.to_string()).collect())
    }
}
