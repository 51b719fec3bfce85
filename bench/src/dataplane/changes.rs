//! What a change costs when many routes stand: one route that comes and goes, the next hop of all routes at once, and
//! a new start of the daemon. The FIB is watched by its events; the map is read by its pin, as bpftool would.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{
    Array, Map, MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use manx_tests::{
    netns::Netns,
    process::Daemon,
    stream::{Catch, LINGER, Stream},
};
use tempfile::TempDir;

use super::{
    netlink::{self, Watch},
    node::{self, Pod},
    peer::{Listener, Teller},
    sinks::{self, BLOCKS, LIMIT, Who},
};
use crate::{
    measure::Process,
    scenario::{DAEMON, client},
    table::Range,
    wire::{self, Attributes},
};

/// Between two looks at the map.
const LOOK: Duration = Duration::from_micros(20);
/// Between two changes of one route, and two questions to the daemon.
const REST: Duration = Duration::from_millis(5);
/// Routes that are looked at in the map while all change, spread over them.
const SAMPLES: u32 = 64;
/// Without a word from the kernel for so long nothing more is to come.
const SILENCE: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_millis(1);
/// A pod of this node, and an address behind the first route.
const POD: &str = "16.255.255.1";
const FAR: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 1);

#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub routes: u32,
    pub flaps: usize,
    pub rounds: usize,
}

#[derive(Debug, Default)]
pub struct Results {
    pub routes: u32,
    pub flaps: BTreeMap<Who, Flaps>,
    /// Seconds until the next hop of all routes had moved, one of each round.
    pub moves: BTreeMap<Who, Vec<f64>>,
    /// Seconds meanwhile: the daemon's longest silence towards a peer, and its slowest answer to a status.
    pub silences: Vec<f64>,
    pub answers: Vec<f64>,
    pub restarts: Vec<Restart>,
}

/// Milliseconds of all rounds, when a route went and when it came.
#[derive(Debug, Default)]
pub struct Flaps {
    pub fib: [Vec<f64>; 2],
    /// FIB and map, where there is one.
    pub both: [Vec<f64>; 2],
}

#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// From the new start to the end of a route that nobody announces any more.
    pub seconds: f64,
    /// Events of the FIB about other routes of the daemon's.
    pub events: usize,
    pub sent: u64,
    pub lost: u64,
}

pub fn measure(plan: Plan) -> Result<Results> {
    let mut results = Results { routes: plan.routes, ..Results::default() };
    let range = Range { count: plan.routes, ..BLOCKS };
    for round in 0..plan.rounds {
        let mut turns = [Who::Netlink, Who::Manx, Who::Bird];
        turns.rotate_left(round % 3);
        for who in turns {
            of(who, range, plan, &mut results).with_context(|| format!("changes, {}", who.title()))?;
        }
        let restart = restart(range).context("a new start of manxd")?;
        results.restarts.push(restart);
    }
    Ok(results)
}

fn of(who: Who, range: Range, plan: Plan, results: &mut Results) -> Result<()> {
    if who == Who::Netlink {
        let took = replaced(range)?;
        results.moves.entry(who).or_default().push(took.as_secs_f64());
        return Ok(());
    }
    let mut scene = Scene::new(who, range)?;
    scene.flap(plan.flaps, results.flaps.entry(who).or_default())?;
    let moved = scene.move_all()?;
    results.moves.entry(who).or_default().push(moved.took.as_secs_f64());
    if let Some((silence, answer)) = moved.meanwhile {
        results.silences.push(silence.as_secs_f64());
        results.answers.push(answer.as_secs_f64());
    }
    scene.end()
}

/// Packed netlink alone.
fn replaced(range: Range) -> Result<Duration> {
    let (daemon, _generator) = sinks::lab()?;
    let ifindex = node::index(&daemon, "bench0")?;
    let prefixes = sinks::prefixes(range);
    daemon.run(move || {
        netlink::write(&prefixes, client(0).into(), ifindex, netlink::CREATE)?;
        netlink::write(&prefixes, client(1).into(), ifindex, netlink::REPLACE)
    })
}

/// A daemon with a peer, whose routes are all in its sinks.
struct Scene {
    who: Who,
    range: Range,
    ns: Netns,
    generator: Netns,
    scratch: TempDir,
    running: Vec<Daemon>,
    teller: Teller,
    /// Of Manx only.
    listener: Option<Listener>,
    routes: Option<Routes>,
    watch: Watch,
}

struct Moved {
    took: Duration,
    meanwhile: Option<(Duration, Duration)>,
}

impl Scene {
    fn new(who: Who, range: Range) -> Result<Scene> {
        let (ns, generator) = sinks::lab()?;
        Scene::in_lab(who, range, ns, generator)
    }

    fn in_lab(who: Who, range: Range, ns: Netns, generator: Netns) -> Result<Scene> {
        let scratch = tempfile::tempdir()?;
        let running = sinks::start(&ns, who, range.count, 2, scratch.path())?;
        let protocol = who.protocol();
        let watch = ns.run(move || Watch::open(protocol))?;
        let (teller, listener) = connect(who, &running, &generator)?;
        teller.tell(announced(range, client(0)))?;
        watch.until(range.count, LIMIT)?;
        let routes = if who == Who::Manx {
            sinks::until_in_the_maps(&scratch.path().join("manxd.sock"), range.count)?;
            Some(ns.run(Routes::open)?)
        } else {
            None
        };
        Ok(Scene { who, range, ns, generator, scratch, running, teller, listener, routes, watch })
    }

    fn flap(&self, times: usize, flaps: &mut Flaps) -> Result<()> {
        for number in (0..self.range.count).step_by(self.range.count as usize / times.max(1)).take(times) {
            let (address, length) = self.range.prefix(number);
            for (place, appeared) in [false, true].into_iter().enumerate() {
                thread::sleep(REST);
                let mut bytes = Vec::new();
                if appeared {
                    let one = [(address, length)].into_iter();
                    wire::announce(&mut bytes, &attributes(client(0)), one);
                } else {
                    wire::withdraw(&mut bytes, [(address, length)].into_iter());
                }
                let begun = self.teller.tell(bytes)?;
                let (fib, others) = self.watch.until_one(address, appeared, LIMIT)?;
                ensure!(others == 0, "{others} other routes changed");
                let mut both = fib;
                if let Some(routes) = &self.routes {
                    let there = |way: Option<u32>| way.is_some() == appeared;
                    both = both.max(routes.until(address, there)?);
                }
                let milliseconds = |at: Instant| (at - begun).as_secs_f64() * 1e3;
                if let (Some(fibs), Some(boths)) = (flaps.fib.get_mut(place), flaps.both.get_mut(place)) {
                    fibs.push(milliseconds(fib));
                    boths.push(milliseconds(both));
                }
            }
        }
        Ok(())
    }

    /// Moves the next hop of all routes.
    fn move_all(&mut self) -> Result<Moved> {
        let step = (self.range.count / SAMPLES).max(1) as usize;
        let last = self.range.count.saturating_sub(1);
        let samples = (0..self.range.count).step_by(step).chain([last]);
        let samples: Vec<Ipv4Addr> = samples.map(|number| self.range.prefix(number).0).collect();
        let mut before = Vec::new();
        if let Some(routes) = &self.routes {
            for address in samples {
                before.push((address, routes.way(address)?.context("a route is not in the map")?));
            }
        }
        let socket = self.scratch.path().join("manxd.sock");
        let over = AtomicBool::new(false);
        let bytes = announced(self.range, client(1));
        let (took, answer) = thread::scope(|scope| -> Result<_> {
            let is_manx = self.routes.is_some();
            let over = &over;
            let asking = scope.spawn(move || -> Result<Duration> {
                let mut slowest = Duration::ZERO;
                while is_manx && !over.load(Ordering::Relaxed) {
                    let asked = Instant::now();
                    sinks::ask(&socket, "/v1/status")?;
                    slowest = slowest.max(asked.elapsed());
                    thread::sleep(REST);
                }
                Ok(slowest)
            });
            let moved = (|| -> Result<Duration> {
                let begun = self.teller.tell(bytes)?;
                let mut end = self.watch.until(self.range.count, LIMIT)?;
                if let Some(routes) = &self.routes {
                    for (address, before) in before {
                        end = end.max(routes.until(address, |way| way.is_some_and(|way| way != before))?);
                    }
                }
                Ok(end - begun)
            })();
            over.store(true, Ordering::Relaxed);
            let answer = asking.join().map_err(|_| anyhow!("the one who asks panicked"))?;
            Ok((moved?, answer?))
        })?;
        let silence = self.listener.take().map(Listener::end).transpose()?;
        Ok(Moved { took, meanwhile: silence.map(|silence| (silence, answer)) })
    }

    fn end(self) -> Result<()> {
        if let Some(listener) = self.listener {
            listener.end()?;
        }
        self.teller.end()?;
        for mut daemon in self.running {
            daemon.check_running().with_context(|| self.who.title())?;
            daemon.kill()?;
        }
        Ok(())
    }
}

/// The daemon's peers, as soon as it listens.
fn connect(who: Who, running: &[Daemon], generator: &Netns) -> Result<(Teller, Option<Listener>)> {
    let daemon = Process::new(running.first().context("no daemon")?.pid())?;
    let limit = Instant::now() + sinks::START;
    while !daemon.listens()? {
        ensure!(Instant::now() < limit, "the daemon does not listen");
        thread::sleep(Duration::from_millis(1));
    }
    let listener = if who == Who::Manx { Some(Listener::connect(generator)?) } else { None };
    Ok((Teller::connect(generator)?, listener))
}

fn attributes(next_hop: Ipv4Addr) -> Attributes {
    Attributes { next_hop, as_path: Vec::new(), no_advertise: false }
}

fn announced(range: Range, next_hop: Ipv4Addr) -> Vec<u8> {
    let mut bytes = Vec::new();
    let prefixes = (0..range.count).map(|number| range.prefix(number));
    wire::announce(&mut bytes, &attributes(next_hop), prefixes);
    bytes.extend(wire::end_of_rib());
    bytes
}

/// Kills manxd and starts it again while a pod sends to an address behind one of the routes. The peer announces all
/// routes again but the last, which has to go.
fn restart(range: Range) -> Result<Restart> {
    let (ns, generator) = sinks::lab()?;
    let pod = pod(&ns)?;
    node::batch(&generator, &format!("addr add {FAR}/32 dev lo\nroute add {POD}/32 via {DAEMON}"))?;
    let mut scene = Scene::in_lab(Who::Manx, Range { count: range.count + 1, ..range }, ns, generator)?;
    let stream = Stream::start(&pod.ns, IpAddr::V4(FAR), INTERVAL)?;
    let catch = Catch::start(&scene.generator, &stream)?;
    // The first ones wait for the neighbour.
    thread::sleep(SILENCE);
    let first = stream.mark();
    for daemon in scene.running.drain(..) {
        daemon.kill()?;
    }
    // Both have lost their sessions.
    drop((scene.teller, scene.listener.take()));
    thread::sleep(SILENCE);
    scene.watch.count()?;
    let begun = Instant::now();
    let running = sinks::start(&scene.ns, Who::Manx, range.count, 2, scene.scratch.path())?;
    let (teller, listener) = connect(Who::Manx, &running, &scene.generator)?;
    teller.tell(announced(range, client(0)))?;
    let gone = range.prefix(range.count).0;
    let (fib, mut events) = scene.watch.until_one(gone, false, LIMIT)?;
    let routes = scene.ns.run(Routes::open)?;
    let end = fib.max(routes.until(gone, |way| way.is_none())?);
    // What it might do too much it might do later.
    thread::sleep(SILENCE);
    events += scene.watch.count()?;
    let last = stream.mark();
    thread::sleep(LINGER);
    let lost = last - first - catch.numbers().range(first..last).count() as u64;
    if let Some(listener) = listener {
        listener.end()?;
    }
    teller.end()?;
    for mut daemon in running {
        daemon.check_running()?;
        daemon.kill()?;
    }
    Ok(Restart { seconds: (end - begun).as_secs_f64(), events, sent: last - first, lost })
}

fn pod(ns: &Netns) -> Result<Pod> {
    let pod = Pod {
        ns: Netns::inside("pod", ns)?,
        host_side: "cali1".to_owned(),
        mac: [0x0a, 0, 0, 0, 0, 1],
        host_mac: [0xee, 0, 0, 0, 0, 1],
        v4: POD.to_owned(),
        v6: "fd00:255::1".to_owned(),
    };
    node::wire_pod(ns, &pod)?;
    Ok(pod)
}

/// Octets of an element of the pinned map of groups.
const GROUPS: usize = 4096;

/// The pinned maps that say where IPv4 packets go.
struct Routes {
    routes: LpmTrie<MapData, [u8; 4], [u8; 16]>,
    groups: Array<MapData, [u8; GROUPS]>,
}

impl Routes {
    /// In this thread's mount namespace.
    fn open() -> Result<Routes> {
        let pinned = |name: &str| {
            let pin = format!("/sys/fs/bpf/manx/v{}/{name}", manx_abi::ABI_VERSION);
            MapData::from_pin(&pin).with_context(|| pin)
        };
        Ok(Routes {
            routes: LpmTrie::try_from(Map::LpmTrie(pinned("ROUTES4")?))?,
            groups: Array::try_from(Map::Array(pinned("GROUPS")?))?,
        })
    }

    /// The number of the next hop of packets to `address`, if there is one. A route's group may stay when all of its
    /// routes move at once.
    fn way(&self, address: Ipv4Addr) -> Result<Option<u32>> {
        let value = match self.routes.get(&Key::new(32, address.octets()), 0) {
            Ok(value) => value,
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(error).context("the map of routes"),
        };
        // Its first two words are action and target (manx_abi::Route).
        let (Some(action), Some(group)) = (word(&value, 0), word(&value, 1)) else { return Ok(None) };
        if action != manx_abi::Action::Via as u32 {
            return Ok(None);
        }
        let groups = self.groups.get(&(group >> 10), 0).context("the map of groups")?;
        Ok(word(&groups, group as usize & 1023))
    }

    /// When the way to `address` is as wanted; now if it is so at once.
    fn until(&self, address: Ipv4Addr, wanted: impl Fn(Option<u32>) -> bool) -> Result<Instant> {
        let limit = Instant::now() + LIMIT;
        loop {
            // Before the look: it may have been so for long.
            let now = Instant::now();
            if wanted(self.way(address)?) {
                return Ok(now);
            }
            ensure!(now < limit, "{address} is not as it should be in the map after {LIMIT:?}");
            thread::sleep(LOOK);
        }
    }
}

fn word(bytes: &[u8], number: usize) -> Option<u32> {
    let bytes = bytes.get(number * 4..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}
