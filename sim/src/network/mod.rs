//! The simulated network: nodes with an address each, and a clock that jumps from event to event. Each direction of a
//! connection has a delay of its own, so sessions overtake each other; a node that freezes reads nothing and its
//! kernel holds what comes; between nodes that are cut off nothing arrives until the cut is healed.

mod drive;
pub mod tcp;

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use manx_bgp::{BestPath, Config, ConnId, NextHop, Speaker, Time};
use manx_net::Prefix;

use crate::dice::Dice;
use tcp::{Arrival, End, Tcp, TcpId};

/// The first moment. Not zero, which means "at once" to a speaker.
const START: Time = Time::from_nanos(1_000_000_000);

/// A machine with one address, and on it a daemon or none.
#[derive(Debug)]
pub struct Node {
    pub address: IpAddr,
    pub speaker: Option<Speaker>,
    /// What its dataplane would forward: it outlives the daemon, as kernel routes do.
    pub best: BTreeMap<Prefix, BestPath>,
    pub settled: bool,
    /// The machine is there, with or without a daemon: a connection to it is refused rather than unanswered.
    pub powered: bool,
    pub frozen: bool,
    /// Next hops whose reachability the speaker wants to know.
    pub watched: BTreeSet<NextHop>,
    /// Metrics of the kernel's routes to these, where they are not 0; `None`: there is no route.
    pub metrics: HashMap<IpAddr, Option<u32>>,
    /// How many daemons have lived here.
    life: u64,
    /// Dials that nobody has answered yet.
    dialling: BTreeSet<ConnId>,
    sockets: BTreeMap<ConnId, TcpId>,
    /// What came while it was frozen.
    waiting: VecDeque<Happening>,
    wake: Option<Time>,
}

#[derive(Clone, Debug)]
enum Happening {
    Syn { node: usize, life: u64, conn: ConnId, from: SocketAddr, to: SocketAddr },
    Refused { node: usize, life: u64, conn: ConnId },
    Arrival { tcp: TcpId, side: usize, what: Arrival },
}

/// In a heap: the earliest is the greatest.
#[derive(Debug)]
struct Coming {
    at: Time,
    order: u64,
    what: Happening,
}

impl Ord for Coming {
    fn cmp(&self, other: &Coming) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Coming {
    fn partial_cmp(&self, other: &Coming) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Coming {
    fn eq(&self, other: &Coming) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Coming {}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub happenings: u64,
    pub connections: u64,
    pub octets: u64,
    /// Changes of best paths, over all nodes.
    pub changes: u64,
    /// Of everything that the speakers wanted, in order: equal runs have equal digests.
    pub digest: u64,
}

#[derive(Debug)]
pub struct Network {
    pub now: Time,
    pub nodes: Vec<Node>,
    pub tally: Tally,
    by_address: HashMap<IpAddr, usize>,
    /// Pairs of nodes, the lower one first.
    cut: BTreeSet<(usize, usize)>,
    tcp: HashMap<TcpId, Tcp>,
    next_tcp: TcpId,
    coming: BinaryHeap<Coming>,
    order: u64,
    wakes: BTreeSet<(Time, usize)>,
    dice: Dice,
    ports: u16,
}

impl Network {
    pub fn new(seed: u64) -> Network {
        Network {
            now: START,
            nodes: Vec::new(),
            tally: Tally::default(),
            by_address: HashMap::new(),
            cut: BTreeSet::new(),
            tcp: HashMap::new(),
            next_tcp: 0,
            coming: BinaryHeap::new(),
            order: 0,
            wakes: BTreeSet::new(),
            dice: Dice::new(seed),
            ports: 0,
        }
    }

    /// A machine without a daemon.
    pub fn add(&mut self, address: IpAddr) -> usize {
        let node = self.nodes.len();
        self.by_address.insert(address, node);
        self.nodes.push(Node {
            address,
            speaker: None,
            best: BTreeMap::new(),
            settled: false,
            powered: true,
            frozen: false,
            watched: BTreeSet::new(),
            metrics: HashMap::new(),
            life: 0,
            dialling: BTreeSet::new(),
            sockets: BTreeMap::new(),
            waiting: VecDeque::new(),
            wake: None,
        });
        node
    }

    pub fn elapsed(&self) -> Duration {
        self.now - START
    }

    /// Starts the daemon, or gives it a new configuration.
    pub fn configure(&mut self, node: usize, config: Config) {
        let now = self.now;
        let there = &mut self.nodes[node];
        match &mut there.speaker {
            Some(speaker) => speaker.configure(config, now),
            None => {
                let was_off = !std::mem::replace(&mut there.powered, true);
                there.life += 1;
                there.speaker = Some(Speaker::new(config, now));
                if was_off {
                    self.release();
                }
            }
        }
        self.drive(node);
    }

    /// The daemon is gone; its kernel closes what was open.
    pub fn kill(&mut self, node: usize) {
        let (sockets, unread) = self.forget_daemon(node);
        for tcp in sockets {
            self.shut(tcp, node, "Connection reset by peer");
        }
        unread.into_iter().for_each(|happening| self.happen(happening));
    }

    /// The machine is gone, and nobody is told. One that starts afresh has no routes.
    pub fn power_off(&mut self, node: usize) {
        let (sockets, unread) = self.forget_daemon(node);
        for tcp in sockets {
            self.close_end(tcp, node);
        }
        self.nodes[node].powered = false;
        self.nodes[node].best.clear();
        unread.into_iter().for_each(|happening| self.happen(happening));
    }

    /// Its connections, and what it has not read of them.
    fn forget_daemon(&mut self, node: usize) -> (Vec<TcpId>, VecDeque<Happening>) {
        let gone = &mut self.nodes[node];
        gone.speaker = None;
        gone.settled = false;
        gone.frozen = false;
        gone.watched.clear();
        gone.dialling.clear();
        let unread = std::mem::take(&mut gone.waiting);
        let sockets = std::mem::take(&mut gone.sockets);
        self.set_wake(node);
        (sockets.into_values().collect(), unread)
    }

    /// The process stops as by SIGSTOP; its kernel goes on.
    pub fn freeze(&mut self, node: usize) {
        self.nodes[node].frozen = self.nodes[node].speaker.is_some();
        self.set_wake(node);
    }

    /// It goes on, and reads before it looks at its timers, as the daemon's loop does.
    pub fn thaw(&mut self, node: usize) {
        if !std::mem::take(&mut self.nodes[node].frozen) {
            return;
        }
        for happening in std::mem::take(&mut self.nodes[node].waiting) {
            self.happen(happening);
        }
        // Windows have opened meanwhile.
        for id in self.nodes[node].sockets.values().copied().collect::<Vec<_>>() {
            if let Some(side) = self.side(id, node) {
                self.write(node, id, side);
            }
        }
        self.drive(node);
    }

    pub fn cut(&mut self, a: usize, b: usize) {
        if a != b {
            self.cut.insert((a.min(b), a.max(b)));
        }
    }

    /// Heals all cuts; what was held up arrives.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.release();
    }

    /// Sends everything again that was held up; what still cannot arrive is held up anew.
    fn release(&mut self) {
        let mut held: Vec<(TcpId, usize)> = Vec::new();
        for (&id, tcp) in &self.tcp {
            held.extend((0..2).filter(|&side| !tcp.ends[side].held.is_empty()).map(|side| (id, side)));
        }
        held.sort_unstable();
        for (id, side) in held {
            let Some(tcp) = self.tcp.get_mut(&id) else { continue };
            for what in std::mem::take(&mut tcp.ends[side].held) {
                self.send(id, side, what);
            }
        }
    }

    /// One of the node's connections breaks, both ends being told.
    pub fn reset_one(&mut self, node: usize, which: usize) {
        let sockets = &self.nodes[node].sockets;
        let Some(&tcp) = sockets.values().nth(which % sockets.len().max(1)) else { return };
        for side in 0..2 {
            self.send(tcp, side, Arrival::End("Connection reset by peer"));
        }
    }

    /// What the node's kernel says of the way to an address.
    pub fn set_metric(&mut self, node: usize, to: IpAddr, metric: Option<u32>) {
        self.nodes[node].metrics.insert(to, metric);
        let hops: Vec<NextHop> =
            self.nodes[node].watched.iter().filter(|hop| hop.address == to).copied().collect();
        for next_hop in hops {
            self.handle(node, manx_bgp::Event::NextHop { next_hop, metric });
        }
    }

    /// Lets `time` pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Wakes every daemon once, as any timer would: routes that have lost their last path go at the next wake-up, which
    /// a speaker without a session may never need.
    pub fn wake_all(&mut self) {
        for node in 0..self.nodes.len() {
            let now = self.now;
            let there = &mut self.nodes[node];
            if let Some(speaker) = &mut there.speaker
                && !there.frozen
            {
                speaker.advance(now);
                self.drive(node);
            }
        }
    }

    fn step(&mut self, end: Time) -> bool {
        let coming = self.coming.peek().map(|next| next.at);
        let wake = self.wakes.first().copied();
        match (coming, wake) {
            // What has arrived is read before timers are judged.
            (Some(at), wake) if at <= end && wake.is_none_or(|(wake, _)| at <= wake) => {
                self.now = self.now.max(at);
                if let Some(next) = self.coming.pop() {
                    self.tally.happenings += 1;
                    self.happen(next.what);
                }
                true
            }
            (_, Some((at, node))) if at <= end => {
                self.now = self.now.max(at);
                let now = self.now;
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    speaker.advance(now);
                }
                self.drive(node);
                true
            }
            _ => false,
        }
    }

    fn schedule(&mut self, at: Time, what: Happening) {
        self.order += 1;
        self.coming.push(Coming { at, order: self.order, what });
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        !self.cut.is_empty() && self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// One way, fixed for a connection: most are near, some are far.
    fn latency(&mut self) -> Duration {
        let far = if self.dice.once_in(16) { 40_000 } else { 1000 };
        self.dice.between(Duration::from_micros(50), Duration::from_micros(far))
    }

    /// Puts something on its way from one end of a connection to the other.
    fn send(&mut self, id: TcpId, from: usize, what: Arrival) {
        let jitter = self.dice.between(Duration::ZERO, Duration::from_micros(100));
        let now = self.now;
        let Some(tcp) = self.tcp.get_mut(&id) else { return };
        let at = tcp.ends[from].arrival(now, jitter);
        self.schedule(at, Happening::Arrival { tcp: id, side: 1 - from, what });
    }

    /// This end of the connection is closed from its own side.
    fn shut(&mut self, id: TcpId, node: usize, reason: &'static str) {
        let Some(side) = self.side(id, node) else { return };
        self.send(id, side, Arrival::End(reason));
        self.close_end(id, node);
    }

    fn close_end(&mut self, id: TcpId, node: usize) {
        let Some(side) = self.side(id, node) else { return };
        let Some(tcp) = self.tcp.get_mut(&id) else { return };
        let end = &mut tcp.ends[side];
        end.open = false;
        let (conn, life) = (end.conn, end.life);
        if self.nodes[node].life == life {
            self.nodes[node].sockets.remove(&conn);
        }
    }

    fn side(&self, id: TcpId, node: usize) -> Option<usize> {
        self.tcp.get(&id)?.ends.iter().position(|end| end.node == node)
    }

    /// Both ends are closed and nothing is on its way that anybody would miss.
    fn tidy(&mut self, id: TcpId) {
        if self.tcp.get(&id).is_some_and(|tcp| tcp.ends.iter().all(|end| !end.open)) {
            self.tcp.remove(&id);
        }
    }

    fn open(&mut self, dialler: End, listener: End) -> TcpId {
        self.next_tcp += 1;
        self.tally.connections += 1;
        self.tcp.insert(self.next_tcp, Tcp { ends: [dialler, listener] });
        self.next_tcp
    }
}
