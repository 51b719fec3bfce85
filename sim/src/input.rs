//! A speaker that does whatever bytes say: what fuzzing feeds, and what its corpus is replayed through. Some peers are
//! hostile and send anything; two are well-behaved clients of the same group, one of which reads seldom. Whatever
//! happens, these two keep their sessions, end with the same table, and that table is the speaker's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use manx_bgp::{
    Config, ConnId, Dial, DynamicPeers, Event, ExportRule, Family, MaxPrefixes, Multipath, NextHop,
    Originated, Output, PeerConfig, PeerKey, RemoteAs, Role, Speaker, Time,
    policy::{Action, Change, Community, Match, PeerRules, Rule, RuleName, Rules},
    view::{Export, SessionState, Standing},
};
use manx_net::{Asn, Prefix, Prefix4, Prefix6};

use crate::wire::{self, Attributes, Follower, Hello};

const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// A client, an iBGP peer that is none, which we dial, and another AS.
const HOSTILE: [(Ipv4Addr, u32); 3] = [
    (Ipv4Addr::new(10, 0, 0, 2), 64512),
    (Ipv4Addr::new(10, 0, 0, 3), 64512),
    (Ipv4Addr::new(10, 0, 0, 4), 4_200_000_000),
];
/// Whoever dials from here is a peer, too, but no more than two at once.
const RANGE: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 0);
/// Clients, the second of which reads seldom.
const GOOD: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 8), Ipv4Addr::new(10, 0, 0, 9)];
const OUR_AS: u32 = 64512;
/// Well within the hold time.
const BEAT: Duration = Duration::from_secs(20);
const MOST_STEPS: usize = 400;

/// Reads choices off the front of an input; past its end every choice is 0.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let [first, rest @ ..] = self.0 else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, sides: usize) -> usize {
        usize::from(self.byte()) % sides.max(1)
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) + 256 * usize::from(self.byte() & 0x0f);
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap_or(Asn::CALICO_DEFAULT)
}

fn prefix(number: u8) -> Prefix {
    let n = u32::from(number >> 1);
    match number & 1 {
        0 => Prefix4::from_bits(0x0a40_0000 + n * 64, 26).map_or(Prefix4::DEFAULT, |p| p).into(),
        _ => Prefix6::from_bits((0xfd40 << 112) + u128::from(n) * 64, 122)
            .map_or(Prefix6::DEFAULT, |p| p)
            .into(),
    }
}

/// Some routes are refused, the others changed.
fn rules() -> Rules {
    let rule = |name: &'static str, matches, action| Rule { name: RuleName::new(name), matches, action };
    let preferred = Match { local_pref: Some(108), ..Match::default() };
    let marked = [Change::AddCommunity(Community::Standard(0xffff_0007)), Change::SetLocalPref(90)];
    let by_eth = Match { interface: Some("eth*".into()), ..Match::default() };
    Rules::from_iter([
        rule("by interface", by_eth, Action::Reject),
        rule("preferred", preferred, Action::Reject),
        rule("all", Match::default(), Action::Accept(marked.into())),
    ])
}

/// The hostile peers' part may change; the good ones' never does.
fn config(variant: u8) -> Config {
    let mut config = Config::new(asn(OUR_AS), US);
    config.next_hop_v6 = Some(wire::next_hop_v6(US));
    config.graceful_restart.after_notification = true;
    config.graceful_restart.long_lived = Some(100);
    config.export = ExportRule { pools: Vec::new(), transit: true, ..ExportRule::default() };
    config.originated.push(Originated { prefix: prefix(variant & 4), communities: Vec::new() });
    for (n, (address, remote_as)) in HOSTILE.into_iter().enumerate() {
        let mut peer = PeerConfig::new(address.into(), asn(remote_as));
        peer.dial = [Dial::Never, Dial::First, Dial::Never][n];
        peer.rr_client = n == 0 && variant & 1 == 0;
        if n == 1 && variant & 2 != 0 {
            continue;
        }
        if n == 2 && variant & 8 != 0 {
            peer.families = vec![Family::Ipv4Unicast];
            peer.allow_local_as = 1;
        }
        if variant & 0x10 == 0 {
            peer.add_path.receive = true;
            peer.max_prefixes = (n == 1).then(|| MaxPrefixes::new(4));
        }
        if variant & 0x20 != 0 {
            peer.import = PeerRules::both(rules());
            peer.blackholes = vec![prefix(0)];
        }
        if n == 2 && variant & 0x40 != 0 {
            peer.role = Some(Role::Provider);
        }
        config.peers.push(peer);
    }
    config.multipath = Multipath { ebgp: 4, ibgp: if variant & 0x40 != 0 { 4 } else { 1 } };
    config.ebgp_requires_policy = variant & 0x80 != 0;
    config.dynamic_peers.push(DynamicPeers {
        range: Prefix::new(RANGE.into(), 24).unwrap_or(Prefix::host(RANGE.into())),
        remote_as: RemoteAs::OneOf(vec![asn(OUR_AS), asn(HOSTILE[2].1)]),
        template: PeerConfig::new(RANGE.into(), asn(OUR_AS)),
        limit: 2,
    });
    for address in GOOD {
        let mut peer = PeerConfig::new(address.into(), asn(OUR_AS));
        peer.dial = Dial::Never;
        peer.rr_client = true;
        config.peers.push(peer);
    }
    config
}

struct Play {
    speaker: Speaker,
    now: Time,
    conns: Vec<ConnId>,
    good: [ConnId; 2],
    followers: [Follower; 2],
    /// What comes out for hostile peers is BGP, too.
    readers: BTreeMap<ConnId, Follower>,
    /// Those that have said that their routes have path ids.
    with_ids: BTreeSet<ConnId>,
    closed: BTreeSet<ConnId>,
    watched: BTreeSet<NextHop>,
    told: BTreeSet<Prefix>,
}

impl Play {
    fn new() -> Play {
        let now = Time::from_nanos(1_000_000_000);
        let mut play = Play {
            speaker: Speaker::new(config(0), now),
            now,
            conns: vec![ConnId(u64::MAX)],
            good: [ConnId(0); 2],
            followers: Default::default(),
            readers: BTreeMap::new(),
            with_ids: BTreeSet::new(),
            closed: BTreeSet::new(),
            watched: BTreeSet::new(),
            told: BTreeSet::new(),
        };
        for (n, address) in GOOD.into_iter().enumerate() {
            let remote = SocketAddr::new(address.into(), 40_000);
            let local = SocketAddr::new(US.into(), 179);
            let conn = play.speaker.accept(local, remote, now).expect("a configured peer without a session");
            play.good[n] = conn;
            play.give(conn, Hello::new(OUR_AS, address).open());
            play.give(conn, wire::keepalive());
        }
        play
    }

    fn give(&mut self, conn: ConnId, bytes: Bytes) {
        self.speaker.handle(Event::Received { conn, bytes }, self.now);
        self.settle();
    }

    /// Does what the speaker wants, and holds it to what it may want.
    fn settle(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Dial { conn, .. } => {
                    assert!(!self.conns.contains(&conn), "a connection's number was used twice");
                    self.conns.push(conn);
                }
                Output::Close { conn } => {
                    assert!(self.closed.insert(conn), "{conn:?} is closed twice");
                    assert!(!self.good.contains(&conn), "a good peer's session was closed");
                    self.read(conn, usize::MAX);
                }
                Output::Watch { next_hop } => {
                    assert!(self.watched.insert(next_hop), "{next_hop:?} is watched already");
                    self.speaker.handle(Event::NextHop { next_hop, metric: Some(0) }, self.now);
                }
                Output::Unwatch { next_hop } => {
                    assert!(self.watched.remove(&next_hop), "{next_hop:?} is not watched");
                }
                Output::Best { prefix, best, .. } => {
                    match best {
                        Some(_) => self.told.insert(prefix),
                        None => self.told.remove(&prefix),
                    };
                }
                _ => {}
            }
        }
    }

    /// Lets the peer of a connection read.
    fn read(&mut self, conn: ConnId, budget: usize) {
        let mut out = Vec::new();
        if budget == usize::MAX {
            while self.speaker.transmit(conn, 16 * 1024, &mut out, self.now) > 0 {}
        } else {
            self.speaker.transmit(conn, budget, &mut out, self.now);
        }
        let reader = match self.good.iter().position(|&good| good == conn) {
            Some(n) => &mut self.followers[n],
            None => self.readers.entry(conn).or_default(),
        };
        for message in out {
            if let Err(error) = reader.read(&message) {
                panic!("the speaker sent {error}: {message:02x?}");
            }
        }
    }

    /// Time passes, and the good peers say that they live.
    fn pass(&mut self, mut time: Duration) {
        loop {
            let piece = time.min(BEAT);
            time -= piece;
            let end = self.now + piece;
            while let Some(at) = self.speaker.next_wakeup().filter(|&at| at <= end) {
                self.now = self.now.max(at);
                self.speaker.advance(self.now);
                self.settle();
            }
            self.now = end;
            for conn in self.good {
                self.give(conn, wire::keepalive());
                // One message now and then, or the speaker would be right to give up on it (RFC 9687).
                self.read(conn, 1);
            }
            if time.is_zero() {
                return;
            }
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let op = choices.byte();
        let conn = self.conns[choices.below(self.conns.len())];
        let hostile = usize::from(op >> 4) % HOSTILE.len();
        let (address, remote_as) = HOSTILE[hostile];
        let peer = PeerKey { address: address.into(), port: 179 };
        match op & 0x0f {
            0 => {
                let port = choices.byte();
                // Three of four from the peer itself.
                let from = if port < 0xc0 {
                    address
                } else {
                    Ipv4Addr::from_bits(RANGE.to_bits() | u32::from(port & 7))
                };
                let remote = SocketAddr::new(from.into(), 1024 + u16::from(port));
                if let Ok(conn) = self.speaker.accept(SocketAddr::new(US.into(), 179), remote, self.now) {
                    self.conns.push(conn);
                    // Nearly always it opens a session, or nothing would ever get far.
                    if port & 0x38 != 0 {
                        let mut hello = Hello::new(remote_as, from);
                        (hello.restart, hello.outlives) = (Some(30 * u16::from(port & 1)), port & 2 != 0);
                        hello.long_lived = (port & 4 != 0).then_some(200);
                        hello.extended = true;
                        self.readers.entry(conn).or_default().extended = true;
                        self.give(conn, hello.open());
                        self.give(conn, wire::keepalive());
                    }
                }
            }
            1 => self.give(conn, Bytes::copy_from_slice(choices.bytes())),
            2 => {
                let kind = 1 + choices.byte() % 6;
                self.give(conn, wire::frame(kind, choices.bytes()));
            }
            3 => {
                let how = choices.byte();
                let mut hello = Hello::new(remote_as, address);
                hello.four_octet = how & 1 == 0;
                hello.refresh = how & 2 == 0;
                hello.restart = (how & 4 == 0).then_some(u16::from(how));
                hello.hold_time = [90, 3, 0, 30][usize::from(how >> 6)];
                hello.outlives = how & 8 == 0;
                hello.long_lived = (how & 8 == 0).then_some(u32::from(how));
                hello.extended = how & 0x10 == 0;
                hello.sends_paths = how & 0x10 == 0;
                hello.role = (how & 0x20 != 0).then_some(3);
                self.readers.entry(conn).or_default().extended = hello.extended;
                if hello.sends_paths {
                    self.with_ids.insert(conn);
                }
                self.give(conn, hello.open());
                self.give(conn, wire::keepalive());
            }
            4 | 5 => {
                let what = choices.byte();
                let mut attributes = Attributes::new(address);
                attributes.origin = what % 3;
                attributes.four_octet = what & 0x80 == 0;
                attributes.path = match remote_as {
                    OUR_AS => Vec::new(),
                    number => vec![number; 1 + usize::from(what >> 6)],
                };
                attributes.med = (what & 4 != 0).then_some(u32::from(what));
                attributes.local_pref = (remote_as == OUR_AS).then_some(100 + u32::from(what & 8));
                attributes.communities = vec![u32::from(what & 0x30); usize::from(what & 1)];
                let which = choices.byte();
                let id = self.with_ids.contains(&conn).then_some(u32::from(which >> 5));
                self.give(conn, wire::announce_path(&attributes, prefix(which & 0x1f), id));
            }
            6 => {
                let which = choices.byte();
                let id = self.with_ids.contains(&conn).then_some(u32::from(which >> 5));
                self.give(conn, wire::withdraw_path(prefix(which & 0x1f), id));
            }
            7 => {
                let which = choices.byte();
                let family = Family::ALL[usize::from(which & 1)];
                let message = match which >> 1 & 3 {
                    0 => wire::end_of_rib(family),
                    kind => wire::refresh(family, kind - 1),
                };
                self.give(conn, message);
            }
            8 => {
                self.speaker.handle(Event::Closed { conn, reason: "reset".into() }, self.now);
                self.settle();
            }
            9 => {
                let local = SocketAddr::new(US.into(), 5);
                let remote = SocketAddr::new(address.into(), 179);
                self.speaker.handle(Event::Connected { conn, local, remote }, self.now);
            }
            10 => self.speaker.handle(Event::DialFailed { conn, error: "refused".into() }, self.now),
            11 => {
                let what = choices.below(6);
                let there: Vec<NextHop> = self.watched.iter().copied().collect();
                if let Some(&next_hop) = there.get(choices.below(there.len())) {
                    let event = match what {
                        0 => Event::Interface { next_hop, interface: None },
                        1 => Event::Interface { next_hop, interface: Some("eth0".into()) },
                        2 => Event::Interface { next_hop, interface: Some("ens3".into()) },
                        3 => Event::NextHop { next_hop, metric: None },
                        cost => Event::NextHop { next_hop, metric: Some(cost as u32) },
                    };
                    self.speaker.handle(event, self.now);
                }
            }
            12 => {
                let (step, factor) = (choices.byte(), [1, 100, 1000, 2000][choices.below(4)]);
                self.pass(Duration::from_millis(u64::from(step) * factor));
            }
            13 => self.read(conn, usize::from(choices.byte()) * 32),
            14 => {
                let event = match choices.byte() % 4 {
                    0 => Event::Disable { peer, text: "away".into() },
                    1 => Event::Refresh { peer },
                    _ => Event::Enable { peer },
                };
                self.speaker.handle(event, self.now);
            }
            _ => self.speaker.configure(config(choices.byte()), self.now),
        }
        self.settle();
        // The second one's socket is full most of the time.
        self.read(self.good[0], 4096);
    }

    /// Everything comes to rest; what is known then is one thing wherever it is looked up.
    fn check(&mut self) {
        self.pass(Duration::from_secs(1));
        for conn in self.good {
            self.read(conn, usize::MAX);
        }
        let routes: Vec<Prefix> =
            self.speaker.routes(None, usize::MAX).into_iter().map(|route| route.prefix).collect();
        assert!(self.told.iter().eq(&routes), "the dataplane was told {:?}, known are {routes:?}", self.told);
        let keys = GOOD.map(|address| PeerKey { address: IpAddr::V4(address), port: 179 });
        for (n, key) in keys.into_iter().enumerate() {
            let view = self.speaker.peer(key).expect("it is configured");
            assert_eq!((view.state, view.established_count), (SessionState::Established, 1), "{key}");
            assert_eq!(self.followers[n].notification, None);
            assert!(self.followers[n].ends_of_rib >= 2, "{key} never got its End-of-RIB");
            assert_eq!(view.counters.prefixes_sent, self.followers[n].table.len() as u64, "{key}");
        }
        let [first, second] = &self.followers;
        assert_eq!(first.table, second.table, "members of a group were told different things");
        for &prefix in &routes {
            let view = self.speaker.explain(prefix).expect("it has a best path");
            let best = view.paths.iter().filter(|path| path.standing == Standing::Best).count();
            assert!(best == 1 && view.paths[0].standing == Standing::Best, "{view:?}");
            let sent = view.sent.iter().find(|sent| sent.peer == keys[0]).expect("it has a session");
            assert_eq!(sent.export == Export::Sent, first.table.contains_key(&prefix), "{view:?}");
        }
        assert!(
            first.table.keys().all(|prefix| routes.binary_search(prefix).is_ok()),
            "a withdrawn route stayed"
        );
        for view in self.speaker.peers() {
            assert!(view.counters.prefixes_accepted <= view.counters.prefixes_received, "{view:?}");
        }
    }

    /// Nobody peers with us and nothing is ours any more: all memory returns.
    fn dissolve(mut self) {
        self.good = [ConnId(u64::MAX); 2];
        self.speaker.configure(Config::new(asn(OUR_AS), US), self.now);
        self.settle();
        // Each piece of waiting work, and then a look at what is empty.
        let mut pieces = 0;
        while self.speaker.advance(self.now) {
            self.settle();
            pieces += 1;
            assert!(pieces < 10_000, "the work never ends");
        }
        self.settle();
        self.speaker.advance(self.now);
        self.settle();
        assert_eq!(self.speaker.sizes(), (0, 0, 0), "something stayed");
        assert!(self.speaker.peers().is_empty() && self.watched.is_empty() && self.told.is_empty());
    }
}

/// Events and messages of all kinds, in any order. Panics if the speaker does what it must not.
pub fn events(input: &[u8]) {
    let mut play = Play::new();
    let mut choices = Choices(input);
    for _ in 0..MOST_STEPS {
        if choices.0.is_empty() {
            break;
        }
        play.step(&mut choices);
    }
    play.check();
    play.dissolve();
}

/// A session that is up, and a peer that sends these bytes: with the first choice as they are, else as the bodies of
/// messages. In one piece or in many, the speaker must come to the same.
pub fn messages(input: &[u8]) {
    let mut choices = Choices(input);
    let how = choices.byte();
    let (address, remote_as) = HOSTILE[usize::from(how >> 4) % HOSTILE.len()];
    let mut stream = Vec::new();
    if how & 1 == 0 {
        stream.extend(choices.0);
    }
    while how & 1 != 0 && !choices.0.is_empty() {
        let kind = match choices.byte() {
            kind @ 1..=5 => kind,
            _ => wire::UPDATE,
        };
        stream.extend(wire::frame(kind, choices.bytes()));
    }
    let mut hello = Hello::new(remote_as, address);
    hello.four_octet = how & 2 == 0;
    hello.restart = (how & 4 != 0).then_some(60);
    hello.sends_paths = how & 0xc0 == 0x80;
    let piece = if how & 8 == 0 { 1 } else { 1 + stream.len() / 7 };
    let [whole, cut] = [stream.len().max(1), piece].map(|piece| one_session(hello, &stream, piece));
    assert_eq!(whole, cut, "where the stream was cut made a difference");
}

/// What the speaker came to: its view of the peer, what it said, the routes, and what the good ones know.
fn one_session(hello: Hello, stream: &[u8], piece: usize) -> impl PartialEq + std::fmt::Debug {
    let mut play = Play::new();
    let remote = SocketAddr::new(hello.id.into(), 40_000);
    let dialled = play.conns.get(1).copied().filter(|_| hello.id == HOSTILE[1].0);
    let conn = match dialled {
        Some(conn) => {
            let local = SocketAddr::new(US.into(), 5);
            let remote = SocketAddr::new(hello.id.into(), 179);
            play.speaker.handle(Event::Connected { conn, local, remote }, play.now);
            conn
        }
        None => {
            let local = SocketAddr::new(US.into(), 179);
            play.speaker.accept(local, remote, play.now).expect("a configured peer without a session")
        }
    };
    play.give(conn, hello.open());
    play.give(conn, wire::keepalive());
    for bytes in stream.chunks(piece) {
        play.give(conn, Bytes::copy_from_slice(bytes));
    }
    play.read(conn, usize::MAX);
    play.check();
    let view = play.speaker.peer(PeerKey { address: hello.id.into(), port: 179 }).expect("it is configured");
    let said = play.readers.get(&conn).map(|reader| (reader.notification, reader.ends_of_rib));
    let routes: Vec<String> =
        play.speaker.routes(None, usize::MAX).iter().map(|route| format!("{route:?}")).collect();
    let end = (view.state, view.counters, view.last_error, said, routes, play.followers[0].table.clone());
    play.dissolve();
    end
}
