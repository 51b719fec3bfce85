//! A blackhole of an own block or pool never hides a living pod: addresses that moved in or out, pods that appear, and
//! new pods on old addresses, in both families and under traffic, while the agent runs, is stopped or is dead. All of
//! it in a closed pool, so that there is a blackhole behind every route that is missing.

use std::{fs, net::IpAddr, ops::Range, thread, time::Duration};

use anyhow::{Result, ensure};
use manx_api::Counters;
use manx_tests::{
    host::Pod,
    pair::{Pair, addresses},
    story::{counted, ping},
    stream::{Catch, LINGER, Stream},
    wait::eventually,
};
use nix::sys::signal::Signal;

const UP: Duration = Duration::from_secs(20);
/// Between datagrams to each address from each source. The kernel keeps some 270 of them while it looks for a neighbour,
/// which takes a second where a new pod's IPv6 address is not ready for the first question.
const PACE: Duration = Duration::from_millis(16);
/// How long each appearance is under traffic.
const WATCHED: Duration = Duration::from_millis(1200);
/// At least so many of what [`WATCHED`] brings, on a machine with much else to do.
const LEAST: u64 = 40;
/// Longer than the programs trust the maps of an agent that gives no sign of life.
const TRUSTED: Duration = Duration::from_secs(5);
/// Longer than a running agent takes to follow the datastore.
const EDITED: Duration = Duration::from_secs(5);
/// Longer than a running agent takes to hear of a route.
const HEARD: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    Runs,
    Stopped,
    Dead,
}

fn stop(pair: &mut Pair, agent: Agent) -> Result<()> {
    match agent {
        Agent::Runs => return Ok(()),
        Agent::Stopped => pair.here.signal(Signal::SIGSTOP)?,
        Agent::Dead => drop(pair.here.kill()?),
    }
    thread::sleep(TRUSTED);
    Ok(())
}

/// Datagrams to both addresses from the neighbour and from the wire.
fn send_to(pair: &Pair, to: [IpAddr; 2], from_wire: bool) -> Result<Vec<Stream>> {
    let sources = [Some(&pair.neighbour), from_wire.then_some(&pair.far)];
    let pairs = sources.into_iter().flatten().flat_map(|from| to.map(|to| (from, to)));
    pairs.map(|(from, to)| Stream::start(from, to, PACE)).collect()
}

/// From now on every datagram reaches this pod.
fn all_reach(streams: &[Stream], pod: &Pod) -> Result<()> {
    all_reach_while(streams, pod, || Ok(()))
}

/// And while this comes true.
fn all_reach_while(streams: &[Stream], pod: &Pod, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let caught: Vec<(&Stream, Catch)> =
        streams.iter().map(|stream| Ok((stream, Catch::start(pod, stream)?))).collect::<Result<_>>()?;
    let marks = || streams.iter().map(Stream::mark).collect::<Vec<u64>>();
    let begun = marks();
    meanwhile()?;
    thread::sleep(WATCHED);
    let sent: Vec<Range<u64>> = begun.into_iter().zip(marks()).map(|(begun, end)| begun..end).collect();
    thread::sleep(LINGER);
    let outcomes =
        caught.iter().zip(sent).map(|((stream, catch), sent)| stream.all_caught(catch, sent, LEAST));
    // All are told before the first that failed ends the test.
    outcomes.collect::<Vec<_>>().into_iter().collect()
}

fn nothing_hides_the_living(agent: Agent, fast_path: &'static str) -> Result<()> {
    let mut pair = Pair::closed(&["--fast-path", fast_path])?;
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
    let programs = fast_path == "auto";
    if programs {
        let pools = pair.here.dataplane()?.modes.pools;
        ensure!(pools.len() == 2 && pools.iter().all(|pool| pool.mode == "unguarded"), "{pools:?}");
    }
    let before = pair.here.counters()?;
    stop(&mut pair, agent)?;

    println!("a new pod in an own block");
    let new = addresses(10, 20);
    let streams = send_to(&pair, new, true)?;
    thread::sleep(Duration::from_millis(200));
    let pod = pair.here.host.pod("new", &new)?;
    all_reach(&streams, &pod)?;
    drop(streams);
    if programs && agent == Agent::Runs {
        for (program, least) in [("pod_tc", 2 * LEAST), ("uplink_tc", 2 * LEAST)] {
            let carried = grown(&before, &pair.here.counters()?, program, "redirected_peer");
            ensure!(carried >= least, "the stack carried them: of both families {program} had {carried}");
        }
    }

    println!("a new pod on an old address");
    let streams = send_to(&pair, addresses(10, 40), true)?;
    pair.here.host.remove_pod(replaced)?;
    thread::sleep(Duration::from_millis(200));
    let pod = pair.here.host.pod("replacing", &addresses(10, 40))?;
    all_reach(&streams, &pod)?;
    drop(streams);

    println!("an address moves to another pod, and the pod that had it lives on");
    let streams = send_to(&pair, wanderers, true)?;
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
    let streams = send_to(&pair, moved, false)?;
    let pod = pair.here.host.pod("moved", &moved)?;
    thread::sleep(HEARD);
    all_reach(&streams, &pod)?;
    drop(streams);

    println!("an address of no block at all appears");
    let stray = addresses(77, 1);
    let streams = send_to(&pair, stray, false)?;
    let pod = pair.here.host.pod("stray", &stray)?;
    all_reach(&streams, &pod)?;
    drop(streams);

    println!("an address of an own block moves to another node, by a route that somebody else writes");
    let lent = addresses(10, 50);
    let streams = send_to(&pair, lent, false)?;
    let pod = pair.there.host.pod("lent", &lent)?;
    for (address, via) in lent.into_iter().zip(["192.168.80.50", "fd00:80::50"]) {
        let family = if address.is_ipv4() { "-4" } else { "-6" };
        // The other node announces the address: a running agent may have written the route already.
        pair.here.host.sh(&format!("ip {family} route replace {address} via {via} proto static"))?;
    }
    thread::sleep(HEARD);
    all_reach(&streams, &pod)?;
    drop(streams);

    // The programs were asked all the while: what came for a new pod before it was there died in them.
    if programs {
        match agent {
            Agent::Runs => {}
            Agent::Stopped => pair.here.signal(Signal::SIGCONT)?,
            Agent::Dead => pair.here.start_again()?,
        }
        let after = pair.here.counters()?;
        for programs in [&["pod_tc"][..], &["uplink_tc", "uplink_xdp"]] {
            let dropped = programs.iter().map(|program| grown(&before, &after, program, "blackhole_own"));
            ensure!(dropped.sum::<u64>() > 0, "{programs:?} dropped nothing: {after:?}");
        }
    }
    Ok(())
}

fn grown(before: &Counters, after: &Counters, program: &str, verdict: &str) -> u64 {
    counted(after, program, verdict) - counted(before, program, verdict)
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
    let pair = Pair::closed(&[])?;
    let streams = send_to(&pair, address, false)?;
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
        let stands = round % 2 != 0;
        all_reach_while(&streams, &pod, || {
            eventually("the blocks' blackholes are as the datastore says", EDITED, || {
                for (family, block) in [("-4", "172.16.10.0/26"), ("-6", "fd00:172:0:10::/122")] {
                    let routes =
                        pair.here.host.sh(&format!("ip {family} route show type blackhole proto manx"))?;
                    ensure!(routes.contains(block) == stands, "{block}: {stands}: {routes}");
                }
                Ok(())
            })
        })?;
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
