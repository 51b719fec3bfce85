//! Connections, rules and programs, whichever is older: neither a start of manxd nor its end, nor new rules, nor
//! thousands of others, nor conntrack's timeouts break a connection that lives.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    kernel::Family,
    talk::{Answer, BOTH, Steady, Talk, Transport, crowd},
    wait::{eventually, slower, throughout},
};

use crate::{
    lab::{B, Carried, FAMILIES, Mode, Node, World, direct_ends, pod_end, service_end, service_ends},
    rules::{EVERYWHERE, TABLE},
    scaled,
};

both_ways! {
    rules_that_are_written_anew_do_not_move_running_connections,
    rules_that_come_late_are_kept_from_then_on,
    a_flow_that_conntrack_forgot_is_learned_again,
    connections_outlive_programs_that_come_and_go,
    a_reset_arrives_however_much_was_sent_before_it,
    idle_connections_live_on_while_thousands_of_others_pass,
    entries_are_kept_alive_under_living_flows,
}

const SOON: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Running {
    name: String,
    server: &'static str,
    steady: Steady,
}

/// A conversation of pod a2 with each of these, by each transport.
fn conversations(
    world: &World,
    ends: impl IntoIterator<Item = (SocketAddr, &'static str)>,
) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for ((to, server), transport) in ends.into_iter().flat_map(|end| BOTH.map(|t| (end, t))) {
        let talk = Talk::open(&world.a.pods[1], transport, to)?;
        let name = format!("{transport:?} with {to}");
        running.push(Running { name, server, steady: Steady::start(talk, 1000, PACE) });
    }
    Ok(running)
}

/// The servers by their own addresses.
fn direct() -> impl Iterator<Item = (SocketAddr, &'static str)> {
    FAMILIES.into_iter().flat_map(direct_ends)
}

/// By their own addresses, and by Services'.
fn all_ways() -> impl Iterator<Item = (SocketAddr, &'static str)> {
    direct().chain(FAMILIES.into_iter().flat_map(service_ends))
}

/// Ends them; each was answered to its end by whom it began with, who is the right one.
fn stop(running: Vec<Running>) -> Result<()> {
    for Running { name, server, steady } in running {
        let answer = steady.stop().with_context(|| name.clone())?;
        ensure!(answer.server == server, "{name}: {answer:?}");
    }
    Ok(())
}

/// Each is answered ten times more.
fn go_on(running: &[Running]) -> Result<()> {
    let counts: Vec<u64> = running.iter().map(|r| r.steady.answers() + 10).collect();
    running
        .iter()
        .zip(counts)
        .try_for_each(|(r, count)| r.steady.reaches(count).with_context(|| r.name.clone()))
}

fn connections_outlive_programs_that_come_and_go(mode: Mode) -> Result<()> {
    let mut world = World::without_manxd(mode)?;
    let running = conversations(&world, all_ways())?;
    go_on(&running).context("before manxd has ever run")?;
    for round in 0..2 {
        world.start()?;
        go_on(&running).with_context(|| format!("round {round}: manxd was started"))?;
        let before = world.carried()?;
        go_on(&running)?;
        let carried = world.carried()?.since(before);
        ensure!((carried.a > 0 && carried.b > 0) == world.carries, "round {round}: {carried:?}");

        for node in [&mut world.a, &mut world.b] {
            node.manx.kill()?;
        }
        go_on(&running).with_context(|| format!("round {round}: manxd is gone, its programs are not"))?;
        for node in [&world.a, &world.b] {
            node.host().sh("manxd cleanup")?;
        }
        go_on(&running).with_context(|| format!("round {round}: the programs are gone"))?;
    }
    stop(running)?;
    world.nothing_was_invalid()
}

/// As kube-proxy does whenever an endpoint comes or goes anywhere.
fn rules_that_are_written_anew_do_not_move_running_connections(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let running = conversations(&world, all_ways())?;
    // Whichever server of the two it draws, it keeps.
    let drawn = FAMILIES.into_iter().map(|family| (service_end(&EVERYWHERE, family), "either"));
    let drawn = conversations(&world, std::iter::repeat_n(drawn, 3).flatten())?;
    for round in 0..scaled(5) {
        go_on(&running).and_then(|()| go_on(&drawn)).with_context(|| format!("round {round}"))?;
        for node in [&world.a, &world.b] {
            node.write_rules()?;
        }
    }
    go_on(&running)?;
    stop(running)?;
    drawn.into_iter().try_for_each(|Running { name, steady, .. }| steady.stop().map(drop).context(name))
}

/// Where nothing tracks, all between the pools is fast; the rules of an hour later hold all the same.
fn rules_that_come_late_are_kept_from_then_on(mode: Mode) -> Result<()> {
    let mut world = World::without_rules(mode)?;
    world.start()?;
    let running = conversations(&world, direct())?;
    go_on(&running)?;
    world.write_rules()?;
    world.has_decided()?;
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        for (to, server) in service_ends(family) {
            crowd(&world.a.pods[1], transport, to, scaled(20)).unbroken()?.answered_by(&[server])?;
        }
    }
    for round in 0..3 {
        // Not in one step, as who begins with `flush ruleset` does it: for a moment nothing tracks again.
        for rules in [false, true] {
            for node in [&world.a, &world.b] {
                if rules { node.write_rules()? } else { node.remove_rules()? }
            }
            go_on(&running).with_context(|| format!("round {round}, rules: {rules}"))?;
        }
    }
    // Nothing is said of invalid packets: conntrack refuses a FIN as the first that it sees of a connection.
    stop(running)
}

fn a_flow_that_conntrack_forgot_is_learned_again(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let running = conversations(&world, direct())?;
    for round in 0..scaled(5) {
        go_on(&running).with_context(|| format!("round {round}"))?;
        for node in [&world.a, &world.b] {
            node.host().sh("conntrack -F")?;
        }
        go_on(&running).with_context(|| format!("round {round}, after the flush"))?;
        let before = world.carried()?;
        go_on(&running)?;
        let carried = world.carried()?.since(before);
        ensure!((carried.a > 0 && carried.b > 0) == world.carries, "round {round}: {carried:?}");
    }
    stop(running)?;
    world.nothing_was_invalid()
}

/// Conntrack judges a reset by the last acknowledgement that it saw, in 32 bits.
fn a_reset_arrives_however_much_was_sent_before_it(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let before = world.carried()?;
    let talk = Talk::open(&world.a.pods[1], Transport::Tcp, pod_end(B, Family::V4, 0))?;
    let port = talk.local()?.port();
    // Beyond half of the numbers there are, where the program may carry so much past conntrack.
    talk.pour_and_reset(if world.carries { 5 << 29 } else { 5 << 24 })?;
    let carried = world.carried()?.since(before);
    ensure!((carried.a > 10_000) == world.carries, "{carried:?}");
    // One that conntrack calls invalid is dropped. Acknowledgements that were under way are answered by further resets, which
    // may be invalid: the connection is closed.
    eventually("the server has heard of the reset", SOON, || {
        let line = format!("ss -Htn state established ( dport = :{port} )");
        let left = world.b.pods[0].sh(&line)?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

fn idle_connections_live_on_while_thousands_of_others_pass(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let mut idle: Vec<(Talk, Answer)> = Vec::new();
    for (to, _) in FAMILIES.into_iter().flat_map(|f| direct_ends(f).into_iter().chain(service_ends(f))) {
        for (n, transport) in std::iter::repeat_n(BOTH, scaled(5)).flatten().enumerate() {
            let mut talk = Talk::open(&world.a.pods[1], transport, to)?;
            let answer = talk.ask(if n % 2 == 0 { 10 } else { 10_000 }).with_context(|| to.to_string())?;
            idle.push((talk, answer));
        }
    }
    let before = world.carried()?;
    // By each way and transport; where everything takes longer, hundreds have to do.
    let others = scaled(250).div_ceil(slower() as usize);
    for (to, server) in direct_ends(Family::V4).into_iter().chain(service_ends(Family::V6)) {
        for transport in BOTH {
            let tally = crowd(&world.a.pods[1], transport, to, others);
            tally.unbroken()?.answered_by(&[server])?;
        }
    }
    println!("{mode:?}: {} idle, {} others", idle.len(), 8 * others);
    for (talk, before) in &mut idle {
        let answer = talk.ask(3000).with_context(|| format!("idle, answered {before:?} before"))?;
        ensure!(answer == *before, "{answer:?}, not {before:?}");
    }
    let carried = world.carried()?.since(before);
    ensure!((carried.a > 4 * others as u64) == world.carries, "{carried:?}");
    world.nothing_was_invalid()
}

/// Seconds until conntrack forgets a flow that it does not see, by what it saw last: a TCP packet that left octets
/// unacknowledged counts for less than one that did not.
const TIMEOUTS: [(&str, u64); 6] = [
    ("tcp_timeout_established", LONGEST),
    ("tcp_timeout_unacknowledged", 2),
    ("tcp_timeout_max_retrans", 2),
    ("tcp_timeout_syn_recv", 2),
    ("udp_timeout_stream", 2),
    ("udp_timeout", 2),
];
const LONGEST: u64 = 3;

/// The entry of a flow from this port of pod a2, with its id and its age's rest in seconds.
fn entry(node: &Node, transport: Transport, port: u16) -> Result<(String, u64)> {
    let protocol = if transport == Transport::Tcp { "tcp" } else { "udp" };
    let line = format!("conntrack -L --family ipv4 --proto {protocol} --orig-port-src {port} -o id");
    let text = node.host().sh(&line)?;
    let id = text.split_whitespace().find(|word| word.starts_with("id="));
    let id = id.with_context(|| format!("no entry of {transport:?} from port {port}: {text:?}"))?;
    let rest = text.split_whitespace().nth(2).and_then(|word| word.parse().ok());
    Ok((id.to_owned(), rest.with_context(|| text.clone())?))
}

fn entries_are_kept_alive_under_living_flows(mode: Mode) -> Result<()> {
    let mut world = World::without_manxd(mode)?;
    for node in [&world.a, &world.b] {
        for (key, seconds) in TIMEOUTS {
            node.host().sysctl(&format!("net.netfilter.nf_conntrack_{key}"), &seconds.to_string())?;
        }
    }
    world.start()?;
    let before = world.carried()?;
    let mut running = Vec::new();
    for transport in BOTH {
        let mut talk = Talk::open(&world.a.pods[1], transport, pod_end(B, Family::V4, 0))?;
        talk.ask(10)?;
        let port = talk.local()?.port();
        running.push((transport, port, Steady::start(talk, 100, PACE)));
    }
    for (_, _, steady) in &running {
        steady.goes_on(20)?;
    }
    // An entry that expires is missed: the next packet would be the first of a new flow.
    for node in [&world.a, &world.b] {
        node.host().sh(&format!("nft add rule {TABLE} policies meta l4proto {{ tcp, udp }} drop"))?;
    }
    let entries = |world: &World| -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for (node, (transport, port, _)) in
            [&world.a, &world.b].into_iter().flat_map(|node| running.iter().map(move |r| (node, r)))
        {
            let (id, rest) = entry(node, *transport, *port)?;
            ensure!(rest <= LONGEST, "{transport:?}: {rest} s are left");
            ids.push(id);
        }
        Ok(ids)
    };
    let ids = entries(&world)?;
    throughout(
        "the entries of living flows live",
        Duration::from_secs(LONGEST * scaled(1) as u64 * 2),
        || {
            let now = entries(&world)?;
            ensure!(now == ids, "{now:?}, not {ids:?}");
            Ok(())
        },
    )?;
    let carried = world.carried()?.since(before);
    let mut answers = 0;
    for (transport, _, steady) in running {
        steady.goes_on(20)?;
        answers += steady.answers();
        steady.stop().with_context(|| format!("{transport:?}"))?;
    }
    println!("{mode:?}: {answers} answers, carried {carried:?}");
    // A question and an answer each, and now and then one that keeps the entry alive.
    if world.carries {
        ensure!(carried.a > answers && carried.b > answers, "{carried:?} of {answers} answers");
    } else {
        ensure!(carried == Carried::default(), "{carried:?}");
    }
    world.nothing_was_invalid()
}
