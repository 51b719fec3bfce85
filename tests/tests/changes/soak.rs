//! Anything, for as long as one likes: the topology changes, daemons are killed, stopped, paused and cut off from one another,
//! others delete their routes, all under traffic. No packet is lost, and in the end each daemon has as many routes, map entries
//! and descriptors as in the beginning, and about as much memory. `MANX_SOAK_SECONDS` says for how long, `MANX_SEED` what.

use std::{
    env, fs, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use manx_tests::{
    cluster::{Cluster, Node},
    story::{SEED_LINES, SETTLED, Stage, settled},
    wait::eventually,
};
use nix::sys::signal::Signal;

use crate::{
    three::{PACE, REST, pairs, with_control},
    watched::Watched,
};

/// In the quick tier.
const SHORT: Duration = Duration::from_secs(20);
/// A paused daemon's peers wait for it so long and longer.
const PAUSE: Duration = Duration::from_secs(4);
/// What is held, and what is left of a restart, has had its time.
const OVER: Duration = Duration::from_secs(60);
/// kB by which a daemon may have grown: its history is fuller, and an allocator keeps what it had.
const GROWN: u64 = 12 << 10;

fn number(name: &str) -> Result<Option<u64>> {
    let Ok(text) = env::var(name) else { return Ok(None) };
    Ok(Some(text.parse().with_context(|| format!("{name} is a number"))?))
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % most as u64) as usize
    }

    fn within(&mut self, from: Duration, to: Duration) -> Duration {
        let span = to.as_millis() - from.as_millis();
        from + Duration::from_millis(self.below(span as usize) as u64)
    }
}

/// What a daemon has, of that which may leak.
#[derive(Debug)]
struct Has {
    memory: u64,
    descriptors: usize,
    routes: usize,
    entries: Vec<(String, u64)>,
}

impl Has {
    fn of(node: &Node) -> Result<Has> {
        let pid = node.daemon()?.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let memory = memory.trim().trim_end_matches(" kB").parse()?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let routes = node.host.sh("ip route show table all proto manx")?.lines().count();
        // What flows and neighbours leave is not the daemon's.
        let tables = ["ROUTES4", "ROUTES6", "NEXTHOPS", "INTERFACES"];
        let maps = node.dataplane()?.maps.into_iter().filter(|map| tables.contains(&map.name.as_str()));
        Ok(Has { memory, descriptors, routes, entries: maps.map(|map| (map.name, map.entries)).collect() })
    }
}

/// What each daemon says of the time.
fn histories(cluster: &Cluster) -> Result<String> {
    let mut said = String::new();
    for node in &cluster.nodes {
        let history = node.host.sh("manxctl history --since 40s")?;
        said += &format!("{}:\n{history}", node.role.host);
    }
    Ok(said)
}

const TO_REFLECTOR: [usize; 3] = [0, 1, 2];
const TO_MESH: [usize; 4] = [3, 4, 5, 6];

/// The next thing that is done, and what to call it.
fn act(cluster: &mut Cluster, dice: &mut Dice, reflector: &mut bool) -> Result<String> {
    let hosts = ["km01", "kw01", "kw02"];
    let host = hosts[dice.below(hosts.len())];
    Ok(match dice.below(10) {
        0..=2 => {
            let steps: &[usize] = if *reflector { &TO_MESH } else { &TO_REFLECTOR };
            for step in steps {
                cluster.run_in_workspace(&SEED_LINES[*step])?.success()?;
                thread::sleep(dice.within(Duration::ZERO, REST));
            }
            *reflector = !*reflector;
            format!("the topology is {}", if *reflector { "the reflector's" } else { "the mesh" })
        }
        3 | 4 => {
            cluster.node_mut(host).kill()?;
            thread::sleep(dice.within(Duration::ZERO, REST));
            cluster.node_mut(host).start()?;
            format!("{host} was killed and started")
        }
        5 => {
            cluster.node_mut(host).terminate()?;
            thread::sleep(dice.within(Duration::ZERO, REST));
            cluster.node_mut(host).start()?;
            format!("{host} was stopped and started")
        }
        6 => {
            let daemon = cluster.node(host).daemon()?;
            daemon.signal(Signal::SIGSTOP)?;
            thread::sleep(dice.within(Duration::ZERO, PAUSE));
            daemon.signal(Signal::SIGCONT)?;
            format!("{host}'s daemon was paused")
        }
        7 => {
            let ns = &cluster.node(host).host;
            ns.sh("nft add table inet cut")?;
            ns.sh("nft add chain inet cut in { type filter hook input priority 0 ; }")?;
            ns.sh("nft add rule inet cut in tcp dport 179 drop")?;
            ns.sh("nft add rule inet cut in tcp sport 179 drop")?;
            thread::sleep(dice.within(Duration::ZERO, PAUSE));
            ns.sh("nft delete table inet cut")?;
            format!("{host} heard no BGP for a while")
        }
        _ => {
            cluster.node(host).host.sh("ip route flush proto manx")?;
            format!("{host}'s routes were flushed")
        }
    })
}

#[test]
fn whatever_is_done_no_packet_is_lost_and_nothing_grows() -> Result<()> {
    let limit = number("MANX_SOAK_SECONDS")?.map_or(SHORT, Duration::from_secs);
    let seed = match number("MANX_SEED")? {
        Some(seed) => seed,
        None => u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()),
    };
    println!("MANX_SEED={seed}");
    let (mut cluster, control) = with_control(&[])?;
    let before = cluster.nodes.iter().map(Has::of).collect::<Result<Vec<_>>>()?;
    let mut dice = Dice(seed);
    let mut reflector = false;
    let begun = Instant::now();
    let (mut sent, mut acts) = (0, 0);
    while begun.elapsed() < limit {
        // In pieces, so that a loss is told soon.
        let mut watched = Watched::start(&control, &pairs(&cluster), PACE)?;
        let piece = Instant::now();
        while piece.elapsed() < SHORT && begun.elapsed() < limit {
            let what = act(&mut cluster, &mut dice, &mut reflector)?;
            watched.step(&what);
            acts += 1;
            thread::sleep(dice.within(Duration::ZERO, REST));
        }
        let outcome = watched.stop()?;
        sent += outcome.sent;
        if outcome.lost > 0 {
            bail!(
                "MANX_SEED={seed}: {} of {} packets lost\n{}{}{}",
                outcome.lost,
                outcome.sent,
                outcome.told,
                outcome.steps,
                histories(&cluster)?
            );
        }
    }
    if reflector {
        for step in TO_MESH {
            cluster.run_in_workspace(&SEED_LINES[step])?.success()?;
        }
    }
    settled(&cluster, Stage::Mesh, SETTLED)?;
    println!(
        "{acts} things were done in {} s, and none of {sent} packets was lost",
        begun.elapsed().as_secs()
    );
    for (node, before) in cluster.nodes.iter().zip(&before) {
        let host = node.role.host;
        let after = eventually("a daemon has what it had", OVER, || {
            let after = Has::of(node)?;
            ensure!(after.routes == before.routes, "{host}: routes: {after:?}, and before {before:?}");
            ensure!(after.entries == before.entries, "{host}: map entries: {after:?}, and before {before:?}");
            ensure!(
                after.descriptors <= before.descriptors + 2,
                "{host}: descriptors: {after:?}, and before {before:?}"
            );
            Ok(after)
        })?;
        println!("{host}: {} kB, and {} kB before", after.memory, before.memory);
        ensure!(after.memory <= before.memory + GROWN, "{host}: memory: {after:?}, and before {before:?}");
    }
    settled(&cluster, Stage::Mesh, SETTLED)
}
