//! A blackhole of an own block or pool never hides a living pod: addresses that moved in or out, pods that appear, and
//! new pods on old addresses, in both families and under traffic, while the agent runs, is stopped or is dead. All of
//! it in a closed pool, so that there is a blackhole behind every route that is missing.

use std::{fs, net::IpAddr, thread, time::Duration};

use anyhow::{Result, ensure};
use manx_tests::{
    host::Pod,
    lab::{Lab, UPLINK},
    peers::manx::{BgpPeer, Manx, Node, resources},
    story::ping,
    stream::{Catch, Stream},
    wait::eventually,
};
use nix::sys::signal::Signal;

const AS: u32 = 64_512;
const POOLS: [&str; 2] = ["172.16.0.0/16", "fd00:172::/32"];
const UP: Duration = Duration::from_secs(20);
/// Between datagrams to each address from each source. The kernel keeps some 270 of them while it looks for a neighbour,
/// which takes a second where the first question is lost.
const PACE: Duration = Duration::from_millis(8);
/// How long each appearance is under traffic.
const WATCHED: Duration = Duration::from_millis(1200);
/// At least so many of what [`WATCHED`] brings, on a machine with much else to do.
const LEAST: u64 = 50;
/// Longer than the programs trust the maps of an agent that gives no sign of life.
const TRUSTED: Duration = Duration::from_secs(5);
/// Longer than a running agent takes to hear of a route.
const HEARD: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    Runs,
    Stopped,
    Dead,
}

/// Two nodes with a pod each. What appears, appears on `here`.
struct Pair {
    neighbour: Pod,
    far: Pod,
    here: Manx,
    there: Manx,
    lab: Lab,
}

fn addresses(block: u8, host: u8) -> [IpAddr; 2] {
    let ipv6 = format!("fd00:172:0:{block}::{host:x}");
    [IpAddr::from([172, 16, block, host]), ipv6.parse().expect("digits are groups of IPv6")]
}

fn place(lab: &mut Lab, name: &str, number: u8, flags: &[&'static str]) -> Result<(Node, Manx)> {
    let (ipv4, ipv6) = (std::net::Ipv4Addr::new(192, 168, 80, number), format!("fd00:80::{number}"));
    let host = lab.host(name, ipv4, 24)?;
    host.sh(&format!("ip address add {ipv6}/64 dev {UPLINK} nodad"))?;
    // Without a way to everywhere a host does not answer for its pods' gateway. Nobody is there.
    host.sh(&format!("ip route add default via 192.168.80.2 dev {UPLINK}"))?;
    let node = Node {
        name: name.to_owned(),
        ipv4: (ipv4, 24),
        ipv6: (ipv6.parse()?, 64),
        cluster_id: None,
        blocks: vec![format!("172.16.{number}.0/26"), format!("fd00:172:0:{number}::/122")],
    };
    Ok((node, Manx::idle(host, flags, &lab.logs())?))
}

impl Pair {
    fn new(flags: &[&'static str]) -> Result<Pair> {
        let mut lab = Lab::new()?;
        let (node_here, mut here) = place(&mut lab, "here", 10, flags)?;
        let (node_there, mut there) = place(&mut lab, "there", 50, flags)?;
        let peers: Vec<BgpPeer> = ["192.168.80.10", "192.168.80.50", "fd00:80::10", "fd00:80::50"]
            .into_iter()
            .map(|address| Ok(BgpPeer { address: address.parse()?, as_number: AS, more: "" }))
            .collect::<Result<_>>()?;
        let document = resources(AS, &POOLS, &[node_here, node_there], &peers);
        let document = ["pool-0", "pool-1"].into_iter().fold(document, |document, pool| {
            let closed = format!("name: {pool}\n  annotations: {{manx.dev/unallocatedBlocks: Drop}}\n");
            document.replace(&format!("name: {pool}\n"), &closed)
        });
        fs::write(lab.store().join("cluster.yaml"), document)?;
        here.start_again()?;
        there.start_again()?;
        let neighbour = here.host.pod("neighbour", &addresses(10, 1))?;
        let far = there.host.pod("far", &addresses(50, 1))?;
        let pair = Pair { neighbour, far, here, there, lab };
        for address in addresses(10, 1) {
            eventually("pods reach each other", UP, || ping(&pair.far, address))?;
        }
        for (family, pool) in [("-4", POOLS[0]), ("-6", POOLS[1])] {
            eventually("the pool is closed", UP, || {
                let routes =
                    pair.here.host.sh(&format!("ip {family} route show type blackhole proto manx"))?;
                ensure!(routes.contains(pool), "{routes}");
                Ok(())
            })?;
        }
        Ok(pair)
    }

    fn stop(&mut self, agent: Agent) -> Result<()> {
        match agent {
            Agent::Runs => return Ok(()),
            Agent::Stopped => self.here.signal(Signal::SIGSTOP)?,
            Agent::Dead => drop(self.here.kill()?),
        }
        thread::sleep(TRUSTED);
        Ok(())
    }

    /// Datagrams to both addresses from the neighbour and from the wire.
    fn streams(&self, to: [IpAddr; 2], from_wire: bool) -> Result<Vec<Stream>> {
        let sources = [Some(&self.neighbour), from_wire.then_some(&self.far)];
        let pairs = sources.into_iter().flatten().flat_map(|from| to.map(|to| (from, to)));
        pairs.map(|(from, to)| Stream::start(from, to, PACE)).collect()
    }
}

/// From now on every datagram reaches this pod.
fn all_reach(streams: &[Stream], pod: &Pod) -> Result<()> {
    let caught: Vec<(&Stream, Catch)> =
        streams.iter().map(|stream| Ok((stream, Catch::start(pod, stream)?))).collect::<Result<_>>()?;
    let marks: Vec<u64> = streams.iter().map(Stream::mark).collect();
    thread::sleep(WATCHED);
    let outcomes =
        caught.iter().zip(marks).map(|((stream, catch), from)| stream.all_caught(catch, from, LEAST));
    // All are told before the first that failed ends the test.
    outcomes.collect::<Vec<_>>().into_iter().collect()
}

fn nothing_hides_the_living(agent: Agent, fast_path: &'static str) -> Result<()> {
    let mut pair = Pair::new(&["--fast-path", fast_path])?;
    // Known to the agent before it stops: a pod with two pairs of addresses, and one that will be replaced.
    let wanderers = addresses(10, 30);
    let kept = addresses(10, 31);
    let elder = pair.here.host.pod("elder", &[kept[0], kept[1], wanderers[0], wanderers[1]])?;
    let replaced = pair.here.host.pod("replaced", &addresses(10, 40))?;
    for address in [&wanderers[..], &addresses(10, 40)[..]].concat() {
        eventually("the elders are known", UP, || {
            ping(&pair.far, address)?;
            let row = pair.here.route(&format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }))?;
            ensure!(row.map.as_ref().is_some_and(|map| !map.text.contains("MAC not known")), "{row:?}");
            Ok(())
        })?;
    }
    pair.stop(agent)?;

    println!("a new pod in an own block");
    let new = addresses(10, 20);
    let streams = pair.streams(new, true)?;
    thread::sleep(Duration::from_millis(200));
    let pod = pair.here.host.pod("new", &new)?;
    all_reach(&streams, &pod)?;
    drop(streams);

    println!("a new pod on an old address");
    let streams = pair.streams(addresses(10, 40), true)?;
    pair.here.host.remove_pod(replaced)?;
    thread::sleep(Duration::from_millis(200));
    let pod = pair.here.host.pod("replacing", &addresses(10, 40))?;
    all_reach(&streams, &pod)?;
    drop(streams);

    println!("an address moves to another pod, and the pod that had it lives on");
    let streams = pair.streams(wanderers, true)?;
    for address in wanderers {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        pair.here.host.sh(&format!("ip {family} route del {address} dev {}", elder.interface()))?;
    }
    let pod = pair.here.host.pod("younger", &wanderers)?;
    // Until a running agent has heard of it, the map says what was right a moment ago.
    thread::sleep(HEARD);
    all_reach(&streams, &pod)?;
    drop(streams);

    println!("an address of another node's block moves in");
    let moved = addresses(50, 20);
    let streams = pair.streams(moved, false)?;
    let pod = pair.here.host.pod("moved", &moved)?;
    thread::sleep(HEARD);
    all_reach(&streams, &pod)?;
    drop(streams);

    println!("an address of no block at all appears");
    let stray = addresses(77, 1);
    let streams = pair.streams(stray, false)?;
    let pod = pair.here.host.pod("stray", &stray)?;
    all_reach(&streams, &pod)?;
    drop(streams);

    println!("an address of an own block moves to another node, by a route that somebody else writes");
    let lent = addresses(10, 50);
    let streams = pair.streams(lent, false)?;
    let pod = pair.there.host.pod("lent", &lent)?;
    for (address, via) in lent.into_iter().zip(["192.168.80.50", "fd00:80::50"]) {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        pair.here.host.sh(&format!("ip {family} route add {address} via {via} proto static"))?;
    }
    thread::sleep(HEARD);
    all_reach(&streams, &pod)
}

#[test]
fn nothing_hides_a_living_pod_while_the_agent_runs() -> Result<()> {
    nothing_hides_the_living(Agent::Runs, "auto")
}

#[test]
fn nor_while_it_is_stopped() -> Result<()> {
    nothing_hides_the_living(Agent::Stopped, "auto")
}

#[test]
fn nor_while_it_is_dead() -> Result<()> {
    nothing_hides_the_living(Agent::Dead, "auto")
}

#[test]
fn nor_where_the_fib_is_alone() -> Result<()> {
    nothing_hides_the_living(Agent::Runs, "off")
}

#[test]
fn nor_where_the_fib_is_alone_and_the_agent_dead() -> Result<()> {
    nothing_hides_the_living(Agent::Dead, "off")
}

/// Pods come while their node's block is claimed and given up, and the blackhole with it, again and again.
fn while_the_block_is_written(address: [IpAddr; 2]) -> Result<()> {
    let pair = Pair::new(&[])?;
    let streams = pair.streams(address, false)?;
    let file = pair.lab.store().join("cluster.yaml");
    let text = fs::read_to_string(&file)?;
    let without = text.replace("node: here, cidr", "node: nobody, cidr");
    ensure!(without != text, "{text}");
    for round in 0..6 {
        let edited = if round % 2 == 0 { &without } else { &text };
        let pod = thread::scope(|scope| {
            let pod = scope.spawn(|| pair.here.host.pod("newcomer", &address));
            let written = fs::write(&file, edited);
            let pod = pod.join().map_err(|_| anyhow::anyhow!("whoever made a pod panicked"))?;
            written?;
            pod
        })?;
        all_reach(&streams, &pod)?;
        pair.here.host.remove_pod(pod)?;
    }
    Ok(())
}

#[test]
fn nor_while_the_block_is_written_and_removed() -> Result<()> {
    while_the_block_is_written(addresses(10, 60))
}

#[test]
fn nor_in_no_block_at_all_while_one_is_written_and_removed() -> Result<()> {
    while_the_block_is_written(addresses(77, 9))
}
