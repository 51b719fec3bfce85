//! A simulated network: nodes with addresses, TCP connections with a delay, a clock that jumps from event to event.
//! Everything follows from the seed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use manx_net::{Asn, Prefix};

use crate::{
    BestPath, Config, ConnId, Event, NextHop, Output, PartingEvent, PeerConfig, SessionEvent, Speaker, Time,
    session::timers::Jitter,
    view::{PeerView, SessionState},
};

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

pub fn peer(address: &str, remote_as: u32) -> PeerConfig {
    PeerConfig::new(ip(address), asn(remote_as))
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[derive(Debug)]
pub struct Node {
    pub address: IpAddr,
    pub speaker: Option<Speaker>,
    pub best: BTreeMap<Prefix, BestPath>,
    pub history: Vec<SessionEvent>,
    pub parted: Vec<PartingEvent>,
    /// Prefixes that lost their last best path, and when.
    pub lost: Vec<(Time, Prefix)>,
    /// When each prefix got its first best path since the map was last cleared.
    pub learned: HashMap<Prefix, Time>,
    pub settled: bool,
    pub watched: BTreeSet<NextHop>,
    /// What the kernel says of next hops, where it is not metric 0.
    pub metrics: HashMap<IpAddr, Option<u32>>,
    /// Sockets to this peer address take no bytes.
    pub stuck: BTreeSet<IpAddr>,
    asked: BTreeSet<ConnId>,
    sockets: HashMap<ConnId, usize>,
}

#[derive(Debug)]
struct Tcp {
    /// Dialler and listener.
    ends: [(usize, ConnId); 2],
    open: bool,
    /// Something was lost in a cut: nothing after it can arrive.
    broken: bool,
}

#[derive(Debug)]
enum Happening {
    Syn { node: usize, conn: ConnId, from: SocketAddr, to: SocketAddr },
    Connected { tcp: usize, local: SocketAddr, remote: SocketAddr, refused: bool },
    Refused { node: usize, conn: ConnId },
    Data { tcp: usize, side: usize, bytes: Bytes },
    Fin { tcp: usize, side: usize, reason: String },
}

#[derive(Debug)]
pub struct Network {
    pub now: Time,
    pub nodes: Vec<Node>,
    pub latency: Duration,
    /// Pairs of addresses between which nothing passes.
    pub cut: BTreeSet<(IpAddr, IpAddr)>,
    tcp: Vec<Tcp>,
    coming: BTreeMap<(Time, u64), Happening>,
    order: u64,
    jitter: Jitter,
    ports: u16,
}

impl Network {
    pub fn new(seed: u64) -> Network {
        Network {
            now: Time::from_nanos(1_000_000_000),
            nodes: Vec::new(),
            latency: Duration::from_micros(200),
            cut: BTreeSet::new(),
            tcp: Vec::new(),
            coming: BTreeMap::new(),
            order: 0,
            jitter: Jitter::new(seed),
            ports: 40000,
        }
    }

    /// A node without a daemon.
    pub fn add(&mut self, address: &str) -> usize {
        self.nodes.push(Node {
            address: ip(address),
            speaker: None,
            best: BTreeMap::new(),
            history: Vec::new(),
            parted: Vec::new(),
            lost: Vec::new(),
            learned: HashMap::new(),
            settled: false,
            watched: BTreeSet::new(),
            metrics: HashMap::new(),
            stuck: BTreeSet::new(),
            asked: BTreeSet::new(),
            sockets: HashMap::new(),
        });
        self.nodes.len() - 1
    }

    pub fn start(&mut self, node: usize, config: Config) {
        self.nodes[node].speaker = Some(Speaker::new(config, self.now));
        self.drive(node);
    }

    /// Starts the daemon, or gives it a new configuration.
    pub fn configure(&mut self, node: usize, config: Config) {
        let now = self.now;
        match &mut self.nodes[node].speaker {
            Some(speaker) => speaker.configure(config, now),
            None => return self.start(node, config),
        }
        self.drive(node);
    }

    pub fn speaker(&mut self, node: usize) -> &mut Speaker {
        self.nodes[node].speaker.as_mut().unwrap()
    }

    pub fn handle(&mut self, node: usize, event: Event) {
        let now = self.now;
        self.speaker(node).handle(event, now);
        self.drive(node);
    }

    /// The process dies: its kernel closes its connections. Without `told` the machine is gone and nobody is told.
    pub fn kill(&mut self, node: usize, told: bool) {
        self.nodes[node].speaker = None;
        self.nodes[node].settled = false;
        let sockets = std::mem::take(&mut self.nodes[node].sockets);
        for (conn, tcp) in sockets {
            if told {
                self.fin(tcp, node, conn, "Connection reset by peer");
            }
            self.tcp[tcp].open = false;
        }
        self.nodes[node].asked.clear();
    }

    pub fn view(&self, node: usize, of: &str) -> PeerView {
        let speaker = self.nodes[node].speaker.as_ref().unwrap();
        speaker.peers().into_iter().find(|peer| peer.address == ip(of)).unwrap()
    }

    pub fn state(&self, node: usize, of: &str) -> SessionState {
        self.view(node, of).state
    }

    pub fn established(&self, node: usize, of: &str) -> bool {
        self.state(node, of) == SessionState::Established
    }

    /// From where this node has the best path.
    pub fn next_hop(&self, node: usize, of: &str) -> Option<IpAddr> {
        Some(self.nodes[node].best.get(&prefix(of))?.next_hops.first()?.address)
    }

    /// Peers that the node has a session with.
    pub fn sessions(&self, node: usize) -> usize {
        let peers = self.nodes[node].speaker.as_ref().unwrap().peers();
        peers.iter().filter(|peer| peer.state == SessionState::Established).count()
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Until the condition holds; panics after `limit`. How long it took.
    pub fn run_until(&mut self, limit: Duration, condition: impl Fn(&Network) -> bool) -> Duration {
        let (start, end) = (self.now, self.now + limit);
        while !condition(self) {
            if !self.step(end) {
                let states: Vec<_> = (0..self.nodes.len())
                    .filter_map(|n| Some((n, self.nodes[n].speaker.as_ref()?.peers())))
                    .flat_map(|(n, peers)| {
                        peers.into_iter().map(move |p| (n, p.address, p.state, p.last_error))
                    })
                    .collect();
                panic!("not within {limit:?}: {states:#?}");
            }
        }
        self.now - start
    }

    fn step(&mut self, end: Time) -> bool {
        let event = self.coming.first_key_value().map(|(&(at, _), _)| at);
        let wakeups = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(n, node)| Some((node.speaker.as_ref()?.next_wakeup()?.max(self.now), n)));
        let wakeup = wakeups.min();
        match (event, wakeup) {
            (Some(at), _) if at <= end && wakeup.is_none_or(|(wake, _)| at <= wake) => {
                self.now = at;
                if let Some((_, happening)) = self.coming.pop_first() {
                    self.happen(happening);
                }
                true
            }
            (_, Some((at, node))) if at <= end => {
                self.now = at;
                self.speaker(node).advance(at);
                self.drive(node);
                true
            }
            _ => false,
        }
    }

    fn soon(&mut self, happening: Happening) {
        self.order += 1;
        self.coming.insert((self.now + self.latency, self.order), happening);
    }

    fn at(&self, address: IpAddr) -> Option<usize> {
        self.nodes.iter().position(|node| node.address == address)
    }

    fn is_cut(&self, a: IpAddr, b: IpAddr) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Syn { node, conn, from, to } => {
                if self.is_cut(from.ip(), to.ip()) {
                    return;
                }
                // An address without a machine answers nothing.
                let Some(target) = self.at(to.ip()) else { return };
                let now = self.now;
                let Some(speaker) = &mut self.nodes[target].speaker else {
                    return self.soon(Happening::Refused { node, conn });
                };
                let accepted = speaker.accept(to, from, now);
                let tcp = self.tcp.len();
                let theirs = accepted.unwrap_or(ConnId(u64::MAX));
                self.tcp.push(Tcp {
                    ends: [(node, conn), (target, theirs)],
                    open: accepted.is_ok(),
                    broken: false,
                });
                self.soon(Happening::Connected { tcp, local: from, remote: to, refused: accepted.is_err() });
                if accepted.is_ok() {
                    self.nodes[target].sockets.insert(theirs, tcp);
                    self.drive(target);
                }
            }
            Happening::Connected { tcp, local, remote, refused } => {
                let (node, conn) = self.tcp[tcp].ends[0];
                if self.nodes[node].speaker.is_none() {
                    return;
                }
                self.nodes[node].sockets.insert(conn, tcp);
                self.handle(node, Event::Connected { conn, local, remote });
                if refused {
                    self.nodes[node].sockets.remove(&conn);
                    self.handle(node, Event::Closed { conn, reason: "closed by the peer".into() });
                }
            }
            Happening::Refused { node, conn } => {
                if self.nodes[node].speaker.is_some() {
                    self.handle(node, Event::DialFailed { conn, error: "Connection refused".into() });
                }
            }
            Happening::Data { tcp, side, bytes } => {
                let (node, conn) = self.tcp[tcp].ends[side];
                if self.tcp[tcp].open && self.nodes[node].speaker.is_some() {
                    self.handle(node, Event::Received { conn, bytes });
                }
            }
            Happening::Fin { tcp, side, reason } => {
                let (node, conn) = self.tcp[tcp].ends[side];
                self.tcp[tcp].open = false;
                self.nodes[node].sockets.remove(&conn);
                if self.nodes[node].speaker.is_some() {
                    self.handle(node, Event::Closed { conn, reason });
                }
            }
        }
    }

    fn fin(&mut self, tcp: usize, node: usize, conn: ConnId, reason: &str) {
        let ends = self.tcp[tcp].ends;
        let side = usize::from(ends[0] == (node, conn));
        if !self.is_cut(self.nodes[ends[0].0].address, self.nodes[ends[1].0].address) {
            self.soon(Happening::Fin { tcp, side, reason: reason.into() });
        }
    }

    /// Does what the node's speaker wants.
    fn drive(&mut self, node: usize) {
        let now = self.now;
        while let Some(output) = self.speaker(node).poll_output() {
            match output {
                Output::Dial { conn, from, to, .. } => {
                    self.ports += 1;
                    let from = SocketAddr::new(from.unwrap_or(self.nodes[node].address), self.ports);
                    self.soon(Happening::Syn { node, conn, from, to });
                }
                Output::Transmit { conn } => {
                    self.nodes[node].asked.insert(conn);
                }
                Output::Close { conn } => {
                    self.write(node, conn);
                    if let Some(tcp) = self.nodes[node].sockets.remove(&conn) {
                        self.fin(tcp, node, conn, "closed by the peer");
                    }
                    self.nodes[node].asked.remove(&conn);
                }
                Output::Best { prefix, best, .. } => {
                    let node = &mut self.nodes[node];
                    match best {
                        Some(best) => {
                            node.learned.entry(prefix).or_insert(now);
                            node.best.insert(prefix, best);
                        }
                        None => {
                            node.lost.push((now, prefix));
                            node.best.remove(&prefix);
                        }
                    }
                }
                Output::Settled => self.nodes[node].settled = true,
                Output::Session(event) => self.nodes[node].history.push(event),
                Output::Warning(warning) => panic!("{warning:?}"),
                Output::Parting(event) => self.nodes[node].parted.push(event),
                Output::Watch { next_hop } => {
                    let known = &mut self.nodes[node];
                    assert!(known.watched.insert(next_hop), "{next_hop:?} is watched already");
                    let metric = known.metrics.get(&next_hop.address).copied().unwrap_or(Some(0));
                    self.speaker(node).handle(Event::NextHop { next_hop, metric }, now);
                }
                Output::Unwatch { next_hop } => {
                    assert!(self.nodes[node].watched.remove(&next_hop), "{next_hop:?} is not watched");
                }
            }
        }
        for conn in self.nodes[node].asked.clone() {
            let stuck = self.nodes[node].sockets.get(&conn).is_some_and(|&tcp| {
                let far = self.tcp[tcp].ends.iter().find(|end| **end != (node, conn));
                far.is_some_and(|&(far, _)| self.nodes[node].stuck.contains(&self.nodes[far].address))
            });
            if !stuck {
                self.write(node, conn);
                self.nodes[node].asked.remove(&conn);
            }
        }
    }

    fn write(&mut self, node: usize, conn: ConnId) {
        let now = self.now;
        let mut out = Vec::new();
        while self.speaker(node).transmit(conn, 16 * 1024, &mut out, now) > 0 {}
        let Some(&tcp) = self.nodes[node].sockets.get(&conn) else { return };
        let ends = self.tcp[tcp].ends;
        let side = usize::from(ends[0] == (node, conn));
        self.tcp[tcp].broken |= self.is_cut(self.nodes[ends[0].0].address, self.nodes[ends[1].0].address);
        if self.tcp[tcp].broken {
            return;
        }
        let whole: Vec<u8> = out.concat();
        let mut rest = &whole[..];
        while !rest.is_empty() {
            // In pieces of any size: the other side must not care.
            let size =
                self.jitter.between(Duration::from_nanos(1), Duration::from_nanos(9000)).as_nanos() as usize;
            let (piece, after) = rest.split_at(size.min(rest.len()));
            self.soon(Happening::Data { tcp, side, bytes: Bytes::copy_from_slice(piece) });
            rest = after;
        }
    }
}
