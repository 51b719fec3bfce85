//! How fast routes reach the sinks: into the kernel by packed netlink alone, into the maps alone, and from a peer's
//! socket to both by the daemon, beside BIRD's kernel protocol and FRR's bgpd with zebra. What a route costs in the
//! maps is what the kernel says of their memory.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use manx_dataplane::{
    ebpf::{EbpfSink, Mode, Options, PoolSpec, Sizes},
    route::{Action, NextHop, Route},
};
use manx_net::Prefix;
use manx_tests::{netns::Netns, process::Daemon};

use super::{
    netlink::{self, Watch},
    node::{self, index},
};
use crate::{
    daemons,
    player::Player,
    scenario::{ASN, DAEMON, client},
    session::Session,
    table::{Range, Table},
    wire::{self, Attributes},
};

/// As pod blocks are: side by side in one pool.
pub(super) const BLOCKS: Range = Range { base: Ipv4Addr::new(16, 0, 0, 0), length: 26, count: 0 };
/// Of the routes of Manx, and of those that the benchmark writes.
const PROTOCOL: u8 = 77;
pub(super) const START: Duration = Duration::from_secs(20);
pub(super) const LIMIT: Duration = Duration::from_secs(60);
/// From so many routes on the maps are to be made larger than they are by default.
const MANY: u32 = 200_000;
/// Room for a million blocks.
const LARGE: &str = "routes4=1100000,words=1100000";

/// The pool that so many blocks lie in.
fn pool(count: u32) -> &'static str {
    if count > MANY { "16.0.0.0/6" } else { "16.0.0.0/8" }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Packed netlink, and nothing else.
    Netlink,
    /// The same, heard by one listener, as whatever a daemon writes is heard by the benchmark.
    Heard,
    /// The eBPF sink, and nothing else.
    Maps,
    Manx,
    Bird,
    Frr,
}

impl Who {
    pub const ALL: [Who; 6] = [Who::Netlink, Who::Heard, Who::Maps, Who::Manx, Who::Bird, Who::Frr];

    pub fn title(self) -> &'static str {
        match self {
            Who::Netlink => "packed netlink alone, into the FIB",
            Who::Heard => "packed netlink alone, until a listener has heard of all routes",
            Who::Maps => "the eBPF sink alone, into the maps",
            Who::Manx => "manxd, from a peer's socket to FIB and maps",
            Who::Bird => "BIRD, from a peer's socket to the FIB",
            Who::Frr => "FRR's bgpd and zebra, from a peer's socket to the FIB",
        }
    }

    /// What its routes' protocol field says.
    pub(super) fn protocol(self) -> u8 {
        match self {
            Who::Bird => 12,
            // RTPROT_BGP.
            Who::Frr => 186,
            _ => PROTOCOL,
        }
    }
}

/// Seconds, one of each round.
pub type Times = BTreeMap<(u32, Who), Vec<f64>>;

#[derive(Debug, Default)]
pub struct Results {
    pub times: Times,
    /// By number of routes: bytes of the maps without any, and with all.
    pub memory: BTreeMap<u32, (u64, u64)>,
}

/// Each number of routes so many times; of the ways those whose title contains one of `ways`, where there are any.
pub fn measure(counts: &[(u32, usize)], ways: &[String]) -> Result<Results> {
    let mut results = Results::default();
    let wanted = |who: Who| ways.is_empty() || ways.iter().any(|way| who.title().contains(way.as_str()));
    for (count, rounds) in counts.iter().copied() {
        for round in 0..rounds {
            for turn in 0..Who::ALL.len() {
                let who = Who::ALL.get((turn + round) % Who::ALL.len()).copied();
                let Some(who) = who.filter(|who| wanted(*who)) else { continue };
                let range = Range { count, ..BLOCKS };
                let took = match who {
                    Who::Netlink => packed(range),
                    Who::Heard => heard(range),
                    Who::Maps => maps(range).map(|(took, memory)| {
                        results.memory.insert(count, memory);
                        took
                    }),
                    daemon => from_a_peer(range, daemon),
                };
                let took = took.with_context(|| format!("{}, {count} routes", who.title()))?;
                results.times.entry((count, who)).or_default().push(took.as_secs_f64());
            }
        }
    }
    Ok(results)
}

/// The daemon's side of a wire to `generator`.
pub(super) fn lab() -> Result<(Netns, Netns)> {
    let daemon = node::host("daemon")?;
    let generator = Netns::with_own_system("generator", || Ok(()))?;
    daemon.sh(&format!(
        "ip link add bench0 type veth peer name bench1 netns {}",
        generator.proc_path("ns/net").display()
    ))?;
    generator.sh("ip link set lo up")?;
    node::batch(&daemon, &format!("addr add {DAEMON}/16 dev bench0\nlink set bench0 up"))?;
    node::batch(&generator, "link set bench1 up")?;
    for address in [client(0), client(1)] {
        node::batch(&generator, &format!("addr add {address}/16 dev bench1"))?;
        // Address resolution is not what is measured.
        daemon.sh(&format!("ping -q -n -c 1 -W 2 {address}"))?;
    }
    Ok((daemon, generator))
}

pub(super) fn prefixes(range: Range) -> Vec<(IpAddr, u8)> {
    (0..range.count)
        .map(|number| range.prefix(number))
        .map(|(address, length)| (address.into(), length))
        .collect()
}

fn packed(range: Range) -> Result<Duration> {
    let (daemon, _generator) = lab()?;
    let ifindex = index(&daemon, "bench0")?;
    let prefixes = prefixes(range);
    daemon.run(move || netlink::write(&prefixes, client(0).into(), ifindex, netlink::CREATE))
}

/// As it would be measured of a daemon.
fn heard(range: Range) -> Result<Duration> {
    let (daemon, _generator) = lab()?;
    let ifindex = index(&daemon, "bench0")?;
    let prefixes = prefixes(range);
    let watch = daemon.run(|| Watch::open(PROTOCOL))?;
    let start = Instant::now();
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            daemon.run(move || netlink::write(&prefixes, client(0).into(), ifindex, netlink::CREATE))
        });
        let heard = watch.until(range.count, LIMIT);
        writing.join().map_err(|_| anyhow!("the writer panicked"))??;
        Ok(heard? - start)
    })
}

fn maps(range: Range) -> Result<(Duration, (u64, u64))> {
    let (daemon, _generator) = lab()?;
    let hop = NextHop { gateway: client(0).into(), ifindex: index(&daemon, "bench0")? };
    let routes: Vec<Route> = prefixes(range)
        .into_iter()
        .filter_map(|(address, length)| {
            let prefix = Prefix::new(address, length)?;
            Some(Route { prefix, action: Action::Via(vec![hop]) })
        })
        .collect();
    let pool = PoolSpec {
        name: "blocks".to_owned(),
        prefix: pool(range.count).parse().map_err(|error| anyhow!("the pool: {error:?}"))?,
        block_len: BLOCKS.length,
        mode: Mode::Unguarded,
    };
    let mut sink = daemon.run(move || -> Result<EbpfSink> {
        let sizes = if range.count > MANY { LARGE.parse()? } else { Sizes::default() };
        let (mut sink, _) = EbpfSink::open(&Options { sizes, ..Options::default() })?;
        let not_indexed = sink.set_pools(&[pool])?;
        ensure!(not_indexed.is_empty(), "the pool is not indexed: {not_indexed:?}");
        Ok(sink)
    })?;
    let before = memory(&daemon)?;
    let took = daemon.run(move || {
        let start = Instant::now();
        let applied = sink.apply(&routes, &[])?;
        let took = start.elapsed();
        ensure!(applied.refused.is_empty() && applied.written == routes.len(), "{} written", applied.written);
        // The maps stay by their pins.
        Ok(took)
    })?;
    Ok((took, (before, memory(&daemon)?)))
}

/// Bytes of all pinned maps, as the kernel accounts for them.
fn memory(ns: &Netns) -> Result<u64> {
    let said = ns.shell(
        "for map in /sys/fs/bpf/manx/v*/*; do [ -d $map ] || bpftool -j map show pinned $map || exit 1; echo; done",
    )?;
    let said = said.success()?;
    let mut bytes = 0;
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        let map: serde_json::Value =
            serde_json::from_str(line).with_context(|| format!("bpftool said {line}"))?;
        bytes += map.get("bytes_memlock").and_then(serde_json::Value::as_u64).unwrap_or(0);
    }
    Ok(bytes)
}

/// From the first byte that a peer sends to the last route in the FIB, and in the maps where there are some.
fn from_a_peer(range: Range, who: Who) -> Result<Duration> {
    let (ns, generator) = lab()?;
    let scratch = tempfile::tempdir()?;
    let mut running = start(&ns, who, range.count, 1, scratch.path())?;
    let socket = scratch.path().join("manxd.sock");
    let protocol = who.protocol();
    let mut feed = Vec::new();
    let attributes = Attributes { next_hop: client(0), as_path: Vec::new(), no_advertise: false };
    wire::announce(&mut feed, &attributes, (0..range.count).map(|number| range.prefix(number)));
    let feed: Arc<[u8]> = feed.into();
    let watch = ns.run(move || Watch::open(protocol))?;
    let outcome = thread::scope(|scope| {
        let (begun, begin) = mpsc::channel();
        let (end, over) = mpsc::channel::<()>();
        let playing = scope.spawn(|| {
            generator.run(move || {
                let session = Session::new(client(0), ASN, Table::indifferent());
                let mut player = Player::new(DAEMON, vec![session])?;
                player.dial(1);
                let ready = player.until(Instant::now() + START, Player::is_ready)?;
                ensure!(ready.is_some(), "no session: {}", player.progress());
                player.steady = true;
                let now = Instant::now();
                player.send(0, feed)?;
                // The harness waits for it.
                let _ = begun.send(now);
                let stop = |_: &Player| over.try_recv() != Err(mpsc::TryRecvError::Empty);
                player.until(now + LIMIT + LIMIT, stop)?;
                Ok(())
            })
        });
        let outcome = match begin.recv_timeout(START + START) {
            Ok(begun) => watch.until(range.count, LIMIT).and_then(|at| {
                let in_maps = if who == Who::Manx { until_in_the_maps(&socket, range.count)? } else { at };
                // The maps may have been done long before they were asked.
                Ok(at.max(in_maps) - begun)
            }),
            Err(_) => Err(anyhow!("no session")),
        };
        drop(end);
        let played: Result<()> = playing.join().map_err(|_| anyhow!("the generator panicked"))?;
        outcome.and_then(|took| played.map(|()| took))
    });
    for daemon in &mut running {
        daemon.check_running()?;
    }
    let outcome = outcome
        .with_context(|| running.iter().map(|daemon| daemon.log_end(3)).collect::<Vec<_>>().join("\n"));
    for daemon in running {
        daemon.kill()?;
    }
    outcome
}

/// The daemons of `who`, for so many routes, and for Manx of so many peers, in `ns`; what they write lies in `dir`.
pub(super) fn start(ns: &Netns, who: Who, count: u32, peers: usize, dir: &Path) -> Result<Vec<Daemon>> {
    let mut running = Vec::new();
    for (name, command) in commands(who, count, peers, dir)? {
        let log = dir.join(format!("{name}.log"));
        running.push(Daemon::start(ns, name, command, &log)?);
        // bgpd looks for zebra's socket when it starts.
        thread::sleep(Duration::from_millis(if running.len() == 1 { 300 } else { 0 }));
    }
    Ok(running)
}

/// When the daemon says that its map of IPv4 routes holds `count`; now if it does so at once.
pub(super) fn until_in_the_maps(socket: &Path, count: u32) -> Result<Instant> {
    let limit = Instant::now() + LIMIT;
    let first = Instant::now();
    loop {
        let status: serde_json::Value = serde_json::from_str(&ask(socket, "/v1/dataplane")?)?;
        let maps = status.get("maps").and_then(serde_json::Value::as_array).context("no maps")?;
        let named = |map: &&serde_json::Value| map.get("name").is_some_and(|name| name == "ROUTES4");
        let map = maps.iter().find(named).context("no ROUTES4")?;
        let entries = map.get("entries").and_then(serde_json::Value::as_u64).context("no entries")?;
        if entries >= u64::from(count) {
            return Ok(first);
        }
        ensure!(Instant::now() < limit, "{entries} of {count} routes in the map after {LIMIT:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What the daemon's local API answers.
pub(super) fn ask(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("the daemon's API")?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: manx\r\nConnection: close\r\n\r\n")?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (head, body) = said.split_once("\r\n\r\n").with_context(|| format!("the API said {said}"))?;
    ensure!(head.contains(" 200 "), "the API said {said}");
    Ok(body.to_owned())
}

/// What runs the daemon in its namespace, in order.
fn commands(who: Who, count: u32, peers: usize, dir: &Path) -> Result<Vec<(&'static str, Command)>> {
    let peer = client(0);
    Ok(match who {
        Who::Manx => vec![("manxd", manx(dir, count, peers)?)],
        Who::Bird => {
            let text = format!(
                "log stderr {{ warning, error, fatal, bug }};\n\
                 router id {DAEMON};\n\
                 protocol device {{}}\n\
                 protocol direct {{ ipv4; }}\n\
                 protocol kernel {{ scan time 3600; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
                 protocol bgp c0 {{ local {DAEMON} as {ASN}; neighbor {peer} as {ASN}; passive; rr client;\n\
                 ipv4 {{ import all; export none; }}; }}\n"
            );
            let config = put(dir, "bird.conf", &text)?;
            let mut command = Command::new("bird");
            command.arg("-f").arg("-c").arg(config).arg("-s").arg(dir.join("bird.ctl"));
            vec![("bird", command)]
        }
        Who::Frr => {
            let text = format!(
                "frr defaults traditional\n\
                 router bgp {ASN}\n \
                 bgp router-id {DAEMON}\n \
                 neighbor {peer} remote-as {ASN}\n \
                 neighbor {peer} passive\n \
                 address-family ipv4 unicast\n  \
                 neighbor {peer} activate\n \
                 exit-address-family\n"
            );
            // They drop to a user of their own, who reads and writes here.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
            let bgpd = frr(dir, "bgpd", &text)?;
            vec![("zebra", frr(dir, "zebra", "frr defaults traditional\n")?), ("bgpd", bgpd)]
        }
        Who::Netlink | Who::Heard | Who::Maps => bail!("no daemon"),
    })
}

fn frr(dir: &Path, name: &str, text: &str) -> Result<Command> {
    let config = put(dir, &format!("{name}.conf"), text)?;
    let mut command = Command::new(format!("/usr/lib/frr/{name}"));
    command.args(["--vty_port", "0", "--log", "stdout", "--log-level", "warn"]);
    command.arg("--config_file").arg(config).arg("--pid_file").arg(dir.join(format!("{name}.pid")));
    command.arg("--vty_socket").arg(dir).arg("--socket").arg(dir.join("zserv.api"));
    Ok(command)
}

fn manx(dir: &Path, count: u32, peers: usize) -> Result<Command> {
    let store = dir.join("resources");
    fs::create_dir_all(&store)?;
    let mut text = format!(
        "apiVersion: projectcalico.org/v3\n\
         kind: BGPConfiguration\n\
         metadata: {{name: default}}\n\
         spec: {{nodeToNodeMeshEnabled: true, asNumber: {ASN}}}\n\
         ---\n\
         apiVersion: projectcalico.org/v3\n\
         kind: IPPool\n\
         metadata: {{name: blocks}}\n\
         spec: {{cidr: {}, blockSize: 26}}\n\
         ---\n\
         apiVersion: projectcalico.org/v3\n\
         kind: Node\n\
         metadata: {{name: here}}\n\
         spec: {{bgp: {{ipv4Address: {DAEMON}/16}}}}\n",
        pool(count),
    );
    for number in 0..peers {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "---\n\
             apiVersion: projectcalico.org/v3\n\
             kind: Node\n\
             metadata: {{name: there{number}}}\n\
             spec: {{bgp: {{ipv4Address: {}/16}}}}\n",
            client(number)
        );
    }
    put(&store, "cluster.yaml", &text)?;
    let mut command = Command::new(daemons::manx::program());
    command.args(["--node-name", "here", "--uplink", "bench0", "--log-level", "warn"]);
    command.arg("--datastore").arg(format!("dir:{}", store.display()));
    command.arg("--api-socket").arg(dir.join("manxd.sock"));
    if count > MANY {
        command.args(["--map-size", LARGE]);
    }
    Ok(command)
}

fn put(dir: &Path, name: &str, text: &str) -> Result<std::path::PathBuf> {
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("{}", path.display()))?;
    Ok(path)
}
