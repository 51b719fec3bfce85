//! Addresses that netfilter translates: Services, node ports, what leaves the pools, and a pod that talks to itself.

use anyhow::{Context, Result, ensure};
use manx_tests::{
    echo::{GREETING_PORT, PORT},
    kernel::Family,
    talk::{BOTH, Talk, Transport, crowd},
};

use crate::{
    lab::{A, B, Carried, FAMILIES, Mode, OUTSIDE, World, direct_ends, pod_end, service_end, service_ends},
    rules::{EVERYWHERE, ON_A, ON_B, SERVICE_GREETING_PORT},
    scaled,
};

both_ways! {
    pods_talk_to_pods,
    a_service_leads_to_pods_of_this_node_and_of_another,
    a_pod_that_asks_its_own_service_is_answered_by_itself,
    what_leaves_the_pools_is_masqueraded,
    node_ports_lead_from_everywhere_to_pods_of_every_node,
    a_host_is_a_client_of_services,
    a_server_may_speak_first,
    one_source_port_serves_for_a_service_and_for_its_backend,
    large_transfers_arrive_whole,
    datagrams_in_fragments_arrive_whole,
}

#[test]
fn all_but_a_conversations_first_and_last_packets_are_carried() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        for (to, server) in direct_ends(family) {
            let before = world.carried()?;
            let mut talk = Talk::open(&world.a.pods[1], transport, to)?;
            let questions = scaled(500);
            for _ in 0..questions {
                ensure!(talk.ask(100)?.server == server);
            }
            drop(talk);
            let carried = world.carried()?.since(before);
            println!("{transport:?} with {to}: carried {carried:?}");
            if !world.carries {
                ensure!(carried == Carried::default(), "{carried:?}");
                continue;
            }
            // A question and an answer each, by as many nodes as have to do with it, and the first few by the stack.
            let most = 2 * questions as u64 - 20;
            let expected = if server == "a1" { 0 } else { most };
            ensure!(
                carried.a >= most && carried.b >= expected,
                "{transport:?} with {to}: carried {carried:?} of {most}"
            );
        }
    }
    world.nothing_was_invalid()
}

fn pods_talk_to_pods(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let before = world.carried()?;
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        for (place, n, name) in [(A, 1, "a2"), (B, 0, "b1")] {
            let tally = crowd(&world.a.pods[0], transport, pod_end(place, family, n), scaled(100));
            tally.unbroken()?.answered_by(&[name])?.seen_as(A.pod(family, 0))?;
        }
    }
    let carried = world.carried()?.since(before);
    println!("{mode:?}: carried {carried:?}");
    if world.carries {
        // Of five packets or more each way of a conversation, all but the first and the last.
        ensure!(carried.a > 1000 && carried.b > 500, "{carried:?}");
    } else {
        ensure!(carried == Carried::default(), "{carried:?}");
    }
    world.nothing_was_invalid()
}

fn a_service_leads_to_pods_of_this_node_and_of_another(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let client = &world.a.pods[1];
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        let before = world.carried()?;
        let tally = crowd(client, transport, service_end(&ON_A, family), scaled(50));
        tally.unbroken()?.answered_by(&["a1"])?.seen_as(A.pod(family, 1))?;
        ensure!(world.carried()? == before, "a program carried what is translated");

        let tally = crowd(client, transport, service_end(&ON_B, family), scaled(50));
        tally.unbroken()?.answered_by(&["b1"])?.seen_as(A.pod(family, 1))?;
        let carried = world.carried()?.since(before);
        ensure!(carried.a == 0, "node a, where it is translated, carried {carried:?}");
        // On node b nothing is translated any more: pod talks to pod.
        ensure!((carried.b > 0) == world.carries, "{carried:?}");

        let tally = crowd(client, transport, service_end(&EVERYWHERE, family), scaled(50));
        tally.unbroken()?.answered_by(&["a1", "b1"])?;
    }
    world.nothing_was_invalid()
}

fn a_pod_that_asks_its_own_service_is_answered_by_itself(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let before = world.carried()?;
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        let tally = crowd(&world.a.pods[0], transport, service_end(&ON_A, family), scaled(50));
        // By the node's address: else it would answer itself past the translation.
        tally.unbroken()?.answered_by(&["a1"])?.seen_as(A.address(family))?;
    }
    ensure!(world.carried()? == before, "a program carried what is translated");
    world.nothing_was_invalid()
}

fn what_leaves_the_pools_is_masqueraded(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let before = world.carried()?;
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        let to = (OUTSIDE.address(family), PORT).into();
        let tally = crowd(&world.a.pods[0], transport, to, scaled(50));
        tally.unbroken()?.answered_by(&["outside"])?.seen_as(A.address(family))?;
    }
    ensure!(world.carried()? == before, "a program carried what is masqueraded");
    world.nothing_was_invalid()
}

fn node_ports_lead_from_everywhere_to_pods_of_every_node(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let before = world.carried()?;
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        for (service, server) in [(&ON_A, "a1"), (&ON_B, "b1")] {
            // Node a's port from outside, from a pod of its own and from a remote pod.
            let to = (A.address(family), service.node_port()).into();
            for client in [&*world.outside, &*world.a.pods[1], &*world.b.pods[1]] {
                let tally = crowd(client, transport, to, scaled(20));
                tally
                    .unbroken()
                    .and_then(|tally| tally.answered_by(&[server])?.seen_as(A.address(family)))
                    .with_context(|| format!("{} to {} of a", client.name(), service.name))?;
            }
        }
    }
    ensure!(world.carried()? == before, "a program carried what comes from a host's address");
    world.nothing_was_invalid()
}

fn a_host_is_a_client_of_services(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let before = world.carried()?;
    for (family, transport) in FAMILIES.into_iter().flat_map(|f| BOTH.map(|t| (f, t))) {
        let tally = crowd(world.a.host(), transport, service_end(&EVERYWHERE, family), scaled(50));
        tally.unbroken()?.answered_by(&["a1", "b1"])?.seen_as(A.address(family))?;
        // And of a pod, without any translation.
        let tally = crowd(world.a.host(), transport, pod_end(B, family, 1), scaled(20));
        tally.unbroken()?.answered_by(&["b2"])?.seen_as(A.address(family))?;
    }
    ensure!(world.carried()? == before, "a program carried what comes from a host's address");
    world.nothing_was_invalid()
}

fn a_server_may_speak_first(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    for family in FAMILIES {
        let ends = [
            (B.pod(family, 0), GREETING_PORT),
            (A.pod(family, 0), GREETING_PORT),
            (ON_A.address(family), SERVICE_GREETING_PORT),
            (ON_B.address(family), SERVICE_GREETING_PORT),
        ];
        for to in ends.iter().flat_map(|end| std::iter::repeat_n(*end, scaled(20))) {
            let mut talk = Talk::open(&world.a.pods[1], Transport::Tcp, to.into())?;
            let greeting = talk.greeting().with_context(|| format!("greeted by {}", to.0))?;
            ensure!(talk.ask(3000)? == greeting, "another answers than greeted");
        }
    }
    world.nothing_was_invalid()
}

/// Two flows that differ in nothing but what one of them was before its translation: conntrack gives the second
/// another source port.
fn one_source_port_serves_for_a_service_and_for_its_backend(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let client = &world.a.pods[1];
    for (family, service, backend, server) in FAMILIES
        .into_iter()
        .flat_map(|f| [(f, &ON_A, pod_end(A, f, 0), "a1"), (f, &ON_B, pod_end(B, f, 0), "b1")])
    {
        for port in (20_000..).take(scaled(20)) {
            let direct_first = port % 2 == 0;
            let (first, second) = match direct_first {
                true => (backend, service_end(service, family)),
                false => (service_end(service, family), backend),
            };
            let held = || -> Result<()> {
                // At the same time.
                let mut one = Talk::open_from(client, Transport::Tcp, port, first)?;
                ensure!(one.ask(100)?.server == server);
                let mut other = Talk::open_from(client, Transport::Tcp, port, second)?;
                for _ in 0..5 {
                    ensure!(one.ask(3000)?.server == server && other.ask(3000)?.server == server);
                }
                // By one socket, in turns.
                let mut datagrams = Talk::open_from(client, Transport::Udp, port, first)?;
                for _ in 0..5 {
                    ensure!(datagrams.ask_at(first, 500)?.server == server);
                    ensure!(datagrams.ask_at(second, 500)?.server == server);
                }
                Ok(())
            };
            held().with_context(|| format!("{first}, then {second}, from port {port}"))?;
        }
    }
    world.nothing_was_invalid()
}

fn large_transfers_arrive_whole(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let client = &world.a.pods[1];
    let length = scaled(64) as u64 * 1024 * 1024;
    for (to, programs_may) in [
        (pod_end(B, Family::V4, 0), true),
        (pod_end(A, Family::V4, 0), true),
        (pod_end(B, Family::V6, 0), true),
        (service_end(&ON_B, Family::V4), false),
        (service_end(&ON_A, Family::V6), false),
    ] {
        let before = world.carried()?;
        Talk::open(client, Transport::Tcp, to)?.stream(length).with_context(|| format!("to {to}"))?;
        let carried = world.carried()?.since(before);
        println!("{mode:?}: {length} octets there and back with {to}: carried {carried:?}");
        // A GSO packet is one, and has 64 KiB at most.
        let most = 2 * length / 65_536;
        if world.carries && programs_may {
            ensure!(carried.a > most * 9 / 10, "{to}: {carried:?} of {most}");
        } else {
            ensure!(carried.a == 0, "{to}: {carried:?}");
        }
    }
    world.nothing_was_invalid()
}

fn datagrams_in_fragments_arrive_whole(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    for (to, server) in FAMILIES.into_iter().flat_map(|f| direct_ends(f).into_iter().chain(service_ends(f))) {
        let mut talk = Talk::open(&world.a.pods[1], Transport::Udp, to)?;
        for length in [9_000, 100, 5_000, 1_400, 20_000] {
            let answer = talk.ask(length).with_context(|| format!("{length} octets to {to}"))?;
            ensure!(answer.server == server, "{answer:?}");
        }
    }
    world.nothing_was_invalid()
}
