//! Policies in the forward chain: they decide every new connection, and a running one from the moment on that its
//! entry in conntrack is flushed.

use std::{io::ErrorKind, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    kernel::Family,
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
}

/// A question every so often.
const PACE: Duration = Duration::from_millis(5);
/// An answer that is refused does not come later.
const REFUSED: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(10);

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
            let mut talk = Talk::open(client, Transport::Udp, to)?;
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

fn a_running_connection_is_decided_anew_when_its_entry_is_flushed(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let client = &world.a.pods[1];
    for flush in ["conntrack -F", "conntrack -D --proto"] {
        let mut running = Vec::new();
        for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
            for (to, server) in direct_ends(family) {
                let talk = Talk::open(client, transport, to)?;
                talk.set_patience(Duration::from_secs(2))?;
                running.push((family, transport, server, Steady::start(talk, 200, PACE)));
            }
        }
        let go_on = |more| -> Result<()> {
            let counts: Vec<u64> = running.iter().map(|(.., steady)| steady.answers() + more).collect();
            for ((family, transport, server, steady), count) in running.iter().zip(counts) {
                steady.reaches(count).with_context(|| format!("{family:?} {transport:?} with {server}"))?;
            }
            Ok(())
        };
        go_on(10)?;
        let before = world.carried()?;
        go_on(10)?;
        let carried = world.carried()?.since(before);
        ensure!((carried.a > 0 && carried.b > 0) == world.carries, "{carried:?}");
        reject(&world.a)?;
        reject(&world.b)?;
        go_on(10).context("the policy lets running connections be")?;

        for node in [&world.a, &world.b] {
            if flush == "conntrack -F" {
                node.host().sh(flush)?;
                continue;
            }
            for (family, protocol) in
                FAMILIES.into_iter().flat_map(|f| ["tcp", "udp"].map(|protocol| (f, protocol)))
            {
                let family = if family == Family::V4 { "ipv4" } else { "ipv6" };
                node.host().sh(&format!("conntrack -D --family {family} --proto {protocol} --dport 7000"))?;
            }
        }
        for (family, transport, server, steady) in running {
            let at_flush = steady.answers();
            let name = format!("{flush}: {family:?} {transport:?} with {server}");
            eventually(&name, SOON, || {
                ensure!(
                    steady.has_broken(),
                    "it goes on, {} answers after the flush",
                    steady.answers() - at_flush
                );
                Ok(())
            })?;
            // One may have been on its way, and one was counted late.
            let late = steady.answers() - at_flush;
            ensure!(late <= 2, "{name}: {late} answers after the flush");
        }
        allow(&world.a)?;
        allow(&world.b)?;
    }
    Ok(())
}
