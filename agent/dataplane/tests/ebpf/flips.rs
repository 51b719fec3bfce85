//! Whole tables that change while packets are looked up as fast as they can be. Each packet gets what the table before
//! the change says or what the one after it says: the right next hop of those, or the drop, and never another's. While
//! nothing changes it gets exactly what the table says. Who went where is told by the counters of next hops.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::mpsc::{Receiver, Sender, TryRecvError, channel},
    time::{Duration, Instant},
};

use aya::{
    EbpfLoader,
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use manx_abi::{Program, VERDICTS, Verdict, map};
use manx_dataplane::{
    ebpf::{Counters, EbpfSink, Mode, OBJECT, PoolSpec},
    route::{Action, BlackholeKind, NextHop, Route},
};
use manx_net::Prefix;

use crate::{
    frame::udp,
    nodes::{UPLINK, pair, pools},
};

const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;
/// Offset of `ifindex` in `struct __sk_buff`, and that structure's size.
const IFINDEX: usize = 40;
const SKB: usize = 192;
/// How long a table stands before the next.
const STANDS: Duration = Duration::from_millis(4);
/// Addresses of a block.
const BLOCK: u32 = 64;
/// In a block of the last class, this one has a route of its own now and then.
const HOST: u32 = 9;
const OTHER: u32 = 33;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn cover(self) -> Prefix {
        let text = match self {
            Family::V4 => "10.0.0.0/8",
            Family::V6 => "fd10::/32",
        };
        text.parse().unwrap()
    }

    fn address(self, block: u32, last: u32) -> IpAddr {
        let offset = block * BLOCK + last;
        match self {
            Family::V4 => Ipv4Addr::from_bits(0x0a00_0000 + offset).into(),
            Family::V6 => Ipv6Addr::from_bits((0xfd10 << 112) + u128::from(offset)).into(),
        }
    }

    fn block(self, number: u32) -> Prefix {
        let length = if self == Family::V4 { 26 } else { 122 };
        format!("{}/{length}", self.address(number, 0)).parse().unwrap()
    }

    fn gateway(self, last: u8) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(192, 168, 80, last).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, 0x80, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    fn pod(self) -> &'static str {
        match self {
            Family::V4 => "172.16.36.193",
            Family::V6 => "fd00:36::193",
        }
    }
}

/// Blocks go by their numbers into classes; the last class is that of the hosts with routes of their own.
const CLASSES: usize = 5;
const HOSTS: usize = 4;

fn class(block: u32, last: u32) -> usize {
    match (block.is_multiple_of(7), last) {
        (true, HOST) => HOSTS,
        (true, _) => 3,
        (false, _) => (block % 3) as usize,
    }
}

/// Last octets of the class's two gateways. The first two classes share theirs, so that a group loses some of its routes
/// and keeps others; nobody else shares any.
fn gateways(class: usize) -> [u8; 2] {
    let first = 100 + 10 * class.max(1) as u8;
    [first, first + 1]
}

/// Of the route that covers all blocks, where it is no blackhole.
const WIDE: u8 = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Drop,
    First,
    Second,
    Both,
    Wide,
}

impl Way {
    fn gateways(self, class: usize) -> Vec<u8> {
        let [first, second] = gateways(class);
        match self {
            Way::Drop => vec![],
            Way::First => vec![first],
            Way::Second => vec![second],
            Way::Both => vec![first, second],
            Way::Wide => vec![WIDE],
        }
    }
}

/// What the routes say: by class (hosts and blocks may have no route), and where nothing else does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    ways: [Option<Way>; CLASSES],
    cover: Way,
}

impl Table {
    const fn all(way: Way) -> Table {
        Table { ways: [Some(way), Some(way), Some(way), Some(way), None], cover: Way::Drop }
    }

    fn but(mut self, class: usize, way: Option<Way>) -> Table {
        self.ways[class] = way;
        self
    }

    /// A next hop may be of this class or, without its own route, of its block's.
    fn answer(&self, class: usize) -> Answer {
        let own = |class: usize| self.ways[class].map(|way| (way, class));
        let (way, of) =
            own(class).or_else(|| own(if class == HOSTS { 3 } else { class })).unwrap_or((self.cover, class));
        Answer { drops: way == Way::Drop, gateways: way.gateways(of).into_iter().collect() }
    }

    fn routes(&self, family: Family, count: u32, ifindex: u32) -> BTreeMap<Prefix, Action> {
        let action = |way: Way, class| match way {
            Way::Drop => Action::Blackhole(BlackholeKind::Explicit),
            _ => {
                let hop = |last: &u8| NextHop { gateway: family.gateway(*last), ifindex };
                Action::Via(way.gateways(class).iter().map(hop).collect())
            }
        };
        let mut routes = BTreeMap::from([(family.cover(), action(self.cover, 0))]);
        for number in 0..count {
            let of = class(number, OTHER);
            if let Some(way) = self.ways[of] {
                routes.insert(family.block(number), action(way, of));
            }
            if of == 3
                && let Some(way) = self.ways[HOSTS]
            {
                routes.insert(Prefix::host(family.address(number, HOST)), action(way, HOSTS));
            }
        }
        routes
    }
}

/// What a packet may get.
#[derive(Clone, Debug)]
struct Answer {
    drops: bool,
    gateways: BTreeSet<u8>,
}

impl Answer {
    fn or(mut self, other: Answer) -> Answer {
        self.drops |= other.drops;
        self.gateways.extend(other.gateways);
        self
    }
}

/// One after the other; the first follows the last.
fn tables() -> Vec<Table> {
    let first = Table::all(Way::First);
    let wide = Table { ways: [None; CLASSES], cover: Way::Wide };
    vec![
        first,
        // Another next hop, several, and one again: a store for all of a class.
        Table::all(Way::Second),
        Table::all(Way::Both),
        Table::all(Way::Second),
        first,
        // A class its own way, which writes entries and words.
        first.but(0, Some(Way::Second)),
        first.but(0, Some(Way::Drop)),
        first.but(0, Some(Way::Both)),
        first,
        // Pages come and go.
        first.but(HOSTS, Some(Way::First)),
        first.but(HOSTS, Some(Way::Both)),
        first.but(HOSTS, Some(Way::Drop)),
        first,
        // One for all, and each for itself under a blackhole, which goes round what it must not hide.
        wide,
        first,
        first.but(1, None),
        first,
    ]
}

/// What packets of a class got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Got {
    redirected: u64,
    dropped: u64,
    other: u64,
}

type Tally = [Got; CLASSES];

/// What came of the packets of one window of time, and by which gateways they left.
struct Window {
    got: Tally,
    left: BTreeMap<u8, u64>,
}

impl Window {
    /// Everything that is not as one of these tables says.
    fn wrong(&self, tables: &[Table]) -> Vec<String> {
        let answers: Vec<Answer> = (0..CLASSES)
            .map(|class| tables.iter().map(|table| table.answer(class)).reduce(Answer::or).unwrap())
            .collect();
        let mut wrong = Vec::new();
        for (class, (got, answer)) in self.got.iter().zip(&answers).enumerate() {
            if got.other != 0 || (got.dropped != 0 && !answer.drops) {
                wrong.push(format!("class {class} got {got:?}, and should {answer:?}"));
            }
            let room: u64 = answer.gateways.iter().filter_map(|gateway| self.left.get(gateway)).sum();
            if got.redirected > room {
                wrong.push(format!("class {class} got {got:?}; by {:?} left {room}", answer.gateways));
            }
        }
        for (gateway, left) in &self.left {
            let theirs = |(_, answer): &(_, &Answer)| answer.gateways.contains(gateway);
            let most: u64 = self.got.iter().zip(&answers).filter(theirs).map(|(got, _)| got.redirected).sum();
            if *left > most {
                wrong.push(format!("by gateway {gateway} left {left}, of those that may {most}"));
            }
        }
        let (left, redirected) =
            (self.left.values().sum::<u64>(), self.got.iter().map(|got| got.redirected).sum::<u64>());
        if left != redirected {
            wrong.push(format!("{redirected} were redirected, {left} counted by next hop"));
        }
        wrong
    }
}

/// The sink, and packets that run beside it but for the moments in which it is looked at.
struct Flips {
    sink: EbpfSink,
    family: Family,
    asked: Sender<()>,
    tallies: Receiver<Tally>,
    seen: (Tally, BTreeMap<u8, u64>),
}

impl Flips {
    /// What happened since the last look. The packets wait meanwhile: none is half counted.
    fn window(&mut self) -> Window {
        self.asked.send(()).unwrap();
        let tally = self.tallies.recv().unwrap();
        let hops = self.hops();
        self.asked.send(()).unwrap();
        let (before, hops_before) = std::mem::replace(&mut self.seen, (tally, hops.clone()));
        let mut got = tally;
        for (got, before) in got.iter_mut().zip(before) {
            got.redirected -= before.redirected;
            got.dropped -= before.dropped;
            got.other -= before.other;
        }
        let grown = |(last, now): (u8, u64)| (last, now - hops_before.get(&last).copied().unwrap_or(0));
        Window { got, left: hops.into_iter().map(grown).filter(|(_, grown)| *grown != 0).collect() }
    }

    /// Packets by the last octet of the next hop.
    fn hops(&self) -> BTreeMap<u8, u64> {
        let counts = self.sink.next_hop_counts().unwrap();
        let last = |hop: &NextHop| match hop.gateway {
            IpAddr::V4(gateway) => gateway.octets()[3],
            IpAddr::V6(gateway) => gateway.octets()[15],
        };
        let ours = counts.iter().filter(|(hop, _)| hop.gateway.is_ipv4() == (self.family == Family::V4));
        ours.map(|(hop, tally)| (last(hop), tally.packets)).collect()
    }
}

fn setting(name: &str, usual: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn whole_tables_that_flip_leave_no_packet_without_the_old_answer_or_the_new() {
    flip(Family::V4);
}

#[test]
fn nor_tables_of_ipv6_whose_pool_is_an_explicit_blackhole() {
    flip(Family::V6);
}

/// `MANX_FLIP_ROUTES` blocks for `MANX_FLIP_SECONDS`, and one round of all tables at least.
fn flip(family: Family) {
    let (count, seconds) = (setting("MANX_FLIP_ROUTES", 4000), setting("MANX_FLIP_SECONDS", 4));
    let (kw01, kw02) = pair();
    let mut sink = kw01.sink(&kw02);
    let (uplink, ifindex) = (kw01.namespace.ifindex(UPLINK), kw01.namespace.ifindex("cali1"));
    kw01.namespace.run(move || {
        let all =
            PoolSpec { name: "all".into(), prefix: family.cover(), block_len: if family == Family::V4 { 26 } else { 122 }, mode: Mode::Unguarded };
        assert_eq!(sink.set_pools(&[pools(), vec![all]].concat()).unwrap(), []);
        sink.apply(&[anchor(family, uplink)], &[]).unwrap();
        let tables = tables();
        let mut routes = tables[0].routes(family, count, uplink);
        sink.apply(&listed(&routes), &[]).unwrap();
        let before = sink.counters().unwrap();

        let ((asked, question), (answer, tallies)) = (channel(), channel());
        let packets = std::thread::spawn(move || send(family, ifindex, count, &question, &answer));
        let mut flips = Flips { sink, family, asked, tallies, seen: (Tally::default(), BTreeMap::new()) };
        flips.seen.1 = flips.hops();
        let end = Instant::now() + Duration::from_secs(seconds.into());
        let (mut rounds, mut changed, mut during) = (0, 0, 0);
        while rounds == 0 || Instant::now() < end {
            for (n, table) in tables.iter().enumerate() {
                let next = tables[(n + 1) % tables.len()];
                std::thread::sleep(STANDS);
                let window = flips.window();
                assert_eq!(window.wrong(&[*table]), [""; 0], "while {table:?} stood, in round {rounds}");
                let wanted = next.routes(family, count, uplink);
                let (upserts, removals) = difference(&routes, &wanted);
                let applied = flips.sink.apply(&upserts, &removals).unwrap();
                assert_eq!(applied.refused, []);
                changed += upserts.len() + removals.len();
                routes = wanted;
                let window = flips.window();
                during += window.got.iter().map(|got| got.redirected + got.dropped).sum::<u64>();
                assert_eq!(window.wrong(&[*table, next]), [""; 0], "from {table:?} to {next:?}, in round {rounds}");
            }
            rounds += 1;
        }
        drop(flips.asked);
        let runs = packets.join().unwrap();
        println!("{family:?}: {rounds} rounds, {changed} routes changed, {runs} packets, {during} of them meanwhile");
        assert!(during > 1000, "{during} of {runs} packets ran while routes changed");
        let after = flips.sink.counters().unwrap();
        assert_eq!(counted(&before, &after), runs, "every packet is counted once, redirected or dropped");
        assert_eq!(flips.sink.faults().unwrap(), []);
    });
}

/// A route that stays, to all gateways at once, so that each keeps its number and its count. No other route has its group.
fn anchor(family: Family, ifindex: u32) -> Route {
    let prefix = match family {
        Family::V4 => "172.16.200.0/26",
        Family::V6 => "fd00:36:200::/122",
    };
    let all: BTreeSet<u8> = (0..CLASSES).flat_map(gateways).chain([WIDE]).collect();
    let hops = all.into_iter().map(|last| NextHop { gateway: family.gateway(last), ifindex });
    Route { prefix: prefix.parse().unwrap(), action: Action::Via(hops.collect()) }
}

fn listed(routes: &BTreeMap<Prefix, Action>) -> Vec<Route> {
    routes.iter().map(|(prefix, action)| Route { prefix: *prefix, action: action.clone() }).collect()
}

fn difference(
    now: &BTreeMap<Prefix, Action>,
    wanted: &BTreeMap<Prefix, Action>,
) -> (Vec<Route>, Vec<Prefix>) {
    let mut upserts = listed(wanted);
    upserts.retain(|route| now.get(&route.prefix) != Some(&route.action));
    let removals = now.keys().filter(|prefix| !wanted.contains_key(prefix)).copied().collect();
    (upserts, removals)
}

/// Packets of pods by what they may get here; any other verdict is a failure, but for what a pod's kernel says of itself.
fn counted(before: &Counters, after: &Counters) -> u64 {
    let wanted = [Verdict::RedirectedNeigh, Verdict::BlackholeExplicit];
    let own = [Verdict::Scope, Verdict::NotForUs];
    let grown = |verdict: Verdict| after.pod_tc.get(verdict) - before.pod_tc.get(verdict);
    for verdict in VERDICTS.iter().filter(|verdict| !wanted.contains(verdict) && !own.contains(verdict)) {
        assert_eq!(grown(*verdict), 0, "{verdict:?}");
    }
    wanted.into_iter().map(grown).sum()
}

/// Packets of the pod to all blocks in turn, until nobody asks any more. When asked it tells what they got and waits.
fn send(family: Family, ifindex: u32, count: u32, question: &Receiver<()>, answer: &Sender<Tally>) -> u64 {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    for name in map::ALL {
        let pin = format!("/sys/fs/bpf/manx/v{}/{name}", manx_abi::ABI_VERSION);
        loader.map_pin_path(name, std::path::PathBuf::from(pin));
    }
    let mut ebpf = loader.load(OBJECT).unwrap();
    let program = ebpf.program_mut(Program::PodTc.name()).unwrap();
    let program: &mut SchedClassifier = program.try_into().unwrap();
    program.load().unwrap();
    let mut context = vec![0u8; SKB];
    context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
    let frames: Vec<(usize, Vec<u8>)> = (0..count)
        .flat_map(|block| [HOST, OTHER].map(|last| (block, last)))
        .map(|(block, last)| {
            let to = family.address(block, last).to_string();
            let to_mac = [0xee, 0, 0, 0, 36, 193];
            (class(block, last), udp(family.pod(), &to).macs(to_mac, [2, 0, 0, 0, 0, 1]).bytes())
        })
        .collect();
    let (mut tally, mut runs) = (Tally::default(), 0u64);
    loop {
        match question.try_recv() {
            Ok(()) => {
                answer.send(tally).unwrap();
                let _ = question.recv();
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return runs,
        }
        // A prime, so that neighbours in time are none in the table.
        let (class, frame) = &frames[(runs.wrapping_mul(7919) % frames.len() as u64) as usize];
        let options =
            TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        let got = &mut tally[*class];
        match program.test_run(options).unwrap().return_value {
            TC_ACT_REDIRECT => got.redirected += 1,
            TC_ACT_SHOT => got.dropped += 1,
            _ => got.other += 1,
        }
        runs += 1;
    }
}
