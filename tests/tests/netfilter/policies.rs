//! Policies in the forward chain: they decide every new connection, and a running one from the moment on that its
//! entry in conntrack is flushed.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    talk::{BOTH, Steady, Talk, Transport, crowd},
    wait::eventually,
};

use crate::{
    lab::{FAMILIES, Mode, Node, World, direct_ends, service_ends},
    rules::TABLE,
    scaled,
};

both_ways! {
    a_policy_decides_every_new_connection,
    a_running_connection_is_decided_anew_when_its_entry_is_flushed,
    an_answer_that_a_policy_refuses_is_refused_each_time,
    one_direction_of_tcp_that_a_policy_refuses_is_refused_after_the_flush_whoever_sends_first,
}

/// A question every so often.
const PACE: Duration = Duration::from_millis(5);
/// An answer that is refused does not come later.
const REFUSED: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(10);
/// Below those that the kernel chooses from: by chance it would take one by which an allowed flow still stands.
const UNUSED: u16 = 20_000;

/// What belongs to pods' servers is rejected: TCP with a reset, UDP with an ICMP error. In both directions, since to
/// conntrack that forgot a flow its next packet is the first, and that may be an answer.
fn reject(node: &Node) -> Result<()> {
    for (protocol, with) in [("tcp", "with tcp reset"), ("udp", "")] {
        for end in ["dport", "sport"] {
            node.host().sh(&format!("nft add rule {TABLE} policies {protocol} {end} 7000 reject {with}"))?;
        }
    }
    Ok(())
}

fn allow(node: &Node) -> Result<()> {
    node.host().sh(&format!("nft flush chain {TABLE} policies")).map(drop)
}

fn a_policy_decides_every_new_connection(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let client = &world.a.pods[1];
    for round in 0..2 {
        for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
            for (to, server) in direct_ends(family).into_iter().chain(service_ends(family)) {
                crowd(client, transport, to, scaled(10))
                    .unbroken()
                    .and_then(|tally| tally.answered_by(&[server]))
                    .with_context(|| format!("round {round}: allowed"))?;
            }
        }
        // As Calico has it, where the server is.
        reject(&world.a)?;
        reject(&world.b)?;
        let before = world.carried()?;
        for (to, _) in FAMILIES.into_iter().flat_map(|f| direct_ends(f).into_iter().chain(service_ends(f))) {
            for attempt in 0..scaled(10) {
                let refused = Talk::open(client, Transport::Tcp, to).map_err(|e| e.kind());
                ensure!(
                    refused.as_ref().err() == Some(&ErrorKind::ConnectionRefused),
                    "round {round}, attempt {attempt} at {to}: {refused:?}"
                );
            }
            let mut talk = Talk::open_from(client, Transport::Udp, UNUSED, to)?;
            talk.set_patience(REFUSED)?;
            let refused = talk.ask(100);
            ensure!(refused.is_err(), "round {round}: {to} answers: {refused:?}");
        }
        ensure!(world.carried()? == before, "a program carried what is rejected");
        allow(&world.a)?;
        allow(&world.b)?;
    }
    world.nothing_was_invalid()
}

/// Conversations of pod a2 with a1 and b1, by their own addresses.
fn running(world: &World) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        for (to, server) in direct_ends(family) {
            let talk = Talk::open(&world.a.pods[1], transport, to)?;
            talk.set_patience(Duration::from_secs(2))?;
            let name = format!("{transport:?} with {to}");
            running.push(Running { name, server, steady: Steady::start(talk, 200, PACE) });
        }
    }
    Ok(running)
}

#[derive(Debug)]
struct Running {
    name: String,
    server: &'static str,
    steady: Steady,
}

/// Each is answered ten times more.
fn go_on<'a>(running: impl IntoIterator<Item = &'a Running>) -> Result<()> {
    let counts: Vec<_> = running.into_iter().map(|r| (r, r.steady.answers() + 10)).collect();
    counts.into_iter().try_for_each(|(r, count)| r.steady.reaches(count).with_context(|| r.name.clone()))
}

/// Makes conntrack forget all flows with pods' servers, one by one.
fn delete_entries(node: &Node) -> Result<()> {
    for (family, protocol) in ["ipv4", "ipv6"].into_iter().flat_map(|f| ["tcp", "udp"].map(|p| (f, p))) {
        node.host().sh(&format!("conntrack -D --family {family} --proto {protocol} --dport 7000"))?;
    }
    Ok(())
}

/// The node whose policy it is decides: the client's, by which all these connections go, and the server's.
fn a_running_connection_is_decided_anew_when_its_entry_is_flushed(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    for (node, servers, flush_all) in [(&world.a, &["a1", "b1"][..], true), (&world.b, &["b1"], false)] {
        let running = running(&world)?;
        go_on(&running)?;
        let before = world.carried()?;
        go_on(&running)?;
        let carried = world.carried()?.since(before);
        ensure!((carried.a > 0 && carried.b > 0) == world.carries, "{carried:?}");
        reject(node)?;
        go_on(&running).context("the policy lets running connections be")?;

        match flush_all {
            true => node.host().sh("conntrack -F").map(drop)?,
            false => delete_entries(node)?,
        }
        let at_flush: Vec<u64> = running.iter().map(|r| r.steady.answers()).collect();
        let decided = |r: &&Running| servers.contains(&r.server);
        for (Running { name, steady, .. }, at_flush) in
            running.iter().zip(at_flush).filter(|(r, _)| decided(r))
        {
            let late = || steady.answers() - at_flush;
            eventually(name, SOON, || {
                ensure!(steady.has_broken(), "it goes on, {} answers after the flush", late());
                Ok(())
            })?;
            // One may have been on its way, and one was counted late.
            ensure!(late() <= 2, "{name}: {} answers after the flush", late());
        }
        go_on(running.iter().filter(|r| !decided(r))).context("not what this policy decides")?;
        allow(node)?;
    }
    Ok(())
}

/// A chain of its own, so that no rule has accepted running connections before: questions pass, answers do not. To
/// conntrack such a flow has been seen in both directions by the second question.
const ANSWERS: &str = "table inet answers {
    chain forward {
        type filter hook forward priority -10;
        udp sport 7000 drop
    }
}";

fn an_answer_that_a_policy_refuses_is_refused_each_time(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    for node in [&world.a, &world.b] {
        node.host().write_file("/etc/answers.nft", ANSWERS)?;
        node.host().sh("nft -f /etc/answers.nft")?;
    }
    if world.carries {
        for node in [&world.a, &world.b] {
            eventually("the rule is found", SOON, || {
                let modes = node.manx.dataplane()?.modes;
                ensure!(modes.pools.iter().all(|pool| pool.mode == "off"), "{:?}", modes.pools);
                let named =
                    modes.found.iter().any(|found| found.contains("table inet answers, chain forward"));
                ensure!(named, "{:?}", modes.found);
                Ok(())
            })?;
        }
    }
    for (to, _) in FAMILIES.into_iter().flat_map(direct_ends) {
        let mut talk = Talk::open(&world.a.pods[1], Transport::Udp, to)?;
        talk.set_patience(REFUSED)?;
        for question in 0..10 {
            let answer = talk.ask(100);
            ensure!(answer.is_err(), "question {question} to {to}: {answer:?}");
        }
    }
    for node in [&world.a, &world.b] {
        node.host().sh("nft delete table inet answers")?;
    }
    world.has_the_fast_path_again()?;
    for (to, server) in FAMILIES.into_iter().flat_map(direct_ends) {
        crowd(&world.a.pods[1], Transport::Udp, to, 10).unbroken()?.answered_by(&[server])?;
    }
    Ok(())
}

/// It stands before "established, accept", and judges every packet that comes to it.
const QUESTIONS: &str = "table inet questions {
    chain forward {
        type filter hook forward priority -10;
        tcp dport 7000 drop
    }
}";

/// To conntrack that forgot the connection the next packet is the first, in the middle or not
/// (`nf_conntrack_tcp_loose`). The server has much to send again, which the policy lets pass, and what the client
/// answers conntrack notes in PREROUTING, before the policy refuses it: an entry that was seen in both directions.
fn one_direction_of_tcp_that_a_policy_refuses_is_refused_after_the_flush_whoever_sends_first(
    mode: Mode,
) -> Result<()> {
    let world = World::new(mode)?;
    for (to, _) in FAMILIES.into_iter().flat_map(direct_ends) {
        let talk = Talk::open(&world.a.pods[1], Transport::Tcp, to)?;
        talk.set_patience(Duration::from_secs(4))?;
        // More than passes in the time of this test; both ends always have something to send.
        let streaming = std::thread::spawn(move || talk.stream(1 << 40));
        let before = world.carried()?;
        eventually("it streams", SOON, || {
            let carried = world.carried()?.since(before);
            ensure!((carried.a > 100) == world.carries, "{carried:?}");
            Ok(())
        })?;
        let host = world.a.host();
        host.write_file("/etc/questions.nft", QUESTIONS)?;
        host.sh("nft -f /etc/questions.nft")?;
        for _ in 0..3 {
            host.sh("conntrack -F")?;
            std::thread::sleep(Duration::from_millis(500));
        }
        // Both ends have sent again several times, each after twice as long as before.
        std::thread::sleep(Duration::from_secs(1));
        let before = world.carried()?;
        std::thread::sleep(Duration::from_secs(1));
        let carried = world.carried()?.since(before);
        ensure!(carried.a == 0, "{to}: {carried:?} past the policy");
        let ended = streaming.join().map_err(|_| anyhow::anyhow!("the stream panicked"))?;
        ensure!(ended.is_err(), "{to}: it goes on");
        host.sh("nft delete table inet questions")?;
        world.has_the_fast_path_again()?;
    }
    Ok(())
}
