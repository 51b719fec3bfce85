//! Graceful restart (RFC 4724) while pods talk: a reflector that another program is, or one of its Manx clients, is
//! killed and comes back, and no packet is lost. And ExaBGP, which is nobody's reflector, as Manx's neighbour. The
//! same with BIRD as the reflector is in the tests of the seed's cluster, which is IPv4 alone; here both families
//! cross.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use manx_api::SessionState;
use manx_tests::{
    host::{Host, Pod},
    kernel,
    lab::Lab,
    peers::{
        Bird, ExaBgp, Frr, GoBgp, Peer,
        capture::Capture,
        manx::{Manx, resources},
    },
    story::ping,
    traffic::{End, Flow},
    wait::{eventually, throughout},
};

use crate::lab::{AS, HIGH, LOW, MIDDLE, Other, POOLS, Place};

const CLUSTER: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 7);
/// GoBGP waits up to 10 s before it dials.
const UP: Duration = Duration::from_secs(30);
/// How long the killed one stays away. Far less than any restart time.
const ABSENT: Duration = Duration::from_secs(1);
/// 100 datagrams a second.
const PACE: Duration = Duration::from_millis(10);

/// The kernel of `host` has the other place's blocks from Manx, through that place.
fn has_routes_to(host: &Host, other: Place) -> Result<()> {
    for (family, number) in [(kernel::Family::V4, 0), (kernel::Family::V6, 1)] {
        let (block, gateway) = (&other.blocks()[number], other.addresses()[number].to_string());
        let found = kernel::routes(host, family)?.into_iter().any(|route| {
            route.dst == *block
                && route.protocol.as_deref() == Some("manx")
                && route.gateway.as_ref() == Some(&gateway)
        });
        ensure!(found, "{} has no route to {block} via {gateway}", host.name());
    }
    Ok(())
}

/// Its sessions with `place` stand, and nothing that it has from there is stale.
fn is_at_peace_with(manx: &Manx, place: Place) -> Result<()> {
    for address in place.addresses() {
        let peer = manx.peer(address)?;
        let name = manx.host.name();
        ensure!(peer.state == SessionState::Established, "{name}: {address} is {} {}", peer.state, peer.info);
        ensure!(!peer.stale, "{name}: routes of {address} are stale");
        ensure!(peer.prefixes_received > 0, "{name}: {address} has sent nothing yet");
    }
    Ok(())
}

/// Between two pods, both families, both ways.
fn flows(a: &Pod, b: &Pod) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    for (&near, &far) in a.addresses().iter().zip(b.addresses()) {
        eventually("pods reach each other", UP, || ping(a, far))?;
        let (near, far) = (End { ns: a, address: near }, End { ns: b, address: far });
        flows.push(Flow::start(near, far, PACE)?);
        flows.push(Flow::start(far, near, PACE)?);
    }
    Ok(flows)
}

fn nothing_lost(flows: Vec<Flow>) -> Result<()> {
    for report in Flow::stop_all(flows)? {
        ensure!(report.lost.is_empty() && report.sent > 100, "{report}");
    }
    Ok(())
}

/// Manx dials a reflector in the low place, and is dialled by one in the high place; so both clients are back at the
/// same time.
fn reflected_by(program: Other, reflector_at: Place) -> Result<()> {
    let [here, there] = if reflector_at == LOW { [MIDDLE, HIGH] } else { [LOW, MIDDLE] };
    let mut lab = Lab::new()?;
    let document = resources(
        AS,
        &POOLS,
        &[here.node(None), there.node(None)],
        &reflector_at.peers(AS).collect::<Vec<_>>(),
    );
    std::fs::write(lab.store().join("cluster.yaml"), document)?;
    let capture = Capture::start(&lab)?;
    let mut speaking = reflector_at.speaking(AS, &[(here, AS), (there, AS)]);
    speaking.cluster_id = Some(CLUSTER);
    let mut reflector = Peer::start(program, reflector_at.host(&mut lab)?, speaking, &lab.logs())?;
    let mut workers = Vec::new();
    let mut pods = Vec::new();
    for place in [here, there] {
        let worker = Manx::start(place.host(&mut lab)?, &[], &lab.logs())?;
        pods.push(worker.host.pod(&format!("{}-pod", place.name), &place.pod_addresses())?);
        workers.push(worker);
    }
    let (mut second, first) = (workers.remove(1), workers.remove(0));
    let served = |first: &Manx, second: &Manx| {
        for (worker, other) in [(first, there), (second, here)] {
            is_at_peace_with(worker, reflector_at)?;
            has_routes_to(&worker.host, other)?;
        }
        Ok(())
    };
    let account = |first: &Manx, second: &Manx, reflector: &Peer| {
        format!("{}\n{}\n{}", first.account(), second.account(), reflector.account())
    };
    eventually("both workers are served", UP, || served(&first, &second))
        .map_err(|e| e.context(account(&first, &second, &reflector)))?;
    for (worker, other) in [(&first, there), (&second, here)] {
        for block in other.blocks() {
            let route = worker.route(&block)?;
            let bgp = route.bgp.as_ref();
            let marks = bgp.map(|bgp| (bgp.originator_id, bgp.cluster_list.clone()));
            let expected = (Some(other.ipv4().into()), vec![CLUSTER.into()]);
            ensure!(marks == Some(expected), "{}: {block} was not reflected: {route:?}", worker.host.name());
        }
    }

    let traffic = flows(&pods[0], &pods[1])?;
    reflector.kill()?;
    throughout("both workers keep their routes", ABSENT, || {
        has_routes_to(&first.host, there)?;
        has_routes_to(&second.host, here)
    })?;
    for worker in [&first, &second] {
        for address in reflector_at.addresses() {
            let peer = worker.peer(address)?;
            ensure!(peer.stale, "{}: routes of the killed {address} are not stale", worker.host.name());
        }
    }
    reflector.start_again()?;
    eventually("the reflector is back", UP, || served(&first, &second))
        .map_err(|e| e.context(account(&first, &second, &reflector)))?;
    thread::sleep(Duration::from_millis(500));
    nothing_lost(traffic)?;

    let traffic = flows(&pods[0], &pods[1])?;
    second.kill()?;
    throughout("the reflector keeps the routes of a killed worker", ABSENT, || {
        has_routes_to(&first.host, there)?;
        has_routes_to(&second.host, here)
    })?;
    second.start_again()?;
    eventually("the worker is back", UP, || served(&first, &second))
        .map_err(|e| e.context(account(&first, &second, &reflector)))?;
    thread::sleep(Duration::from_millis(500));
    nothing_lost(traffic)?;
    let senders = capture.finish(&lab, &[])?.iter().map(|packet| packet.from).collect();
    both_are_heard(&senders, [reflector_at, there])
}

/// A capture in which somebody is missing has judged nothing.
fn both_are_heard(senders: &BTreeSet<IpAddr>, places: [Place; 2]) -> Result<()> {
    for address in places.into_iter().flat_map(Place::addresses) {
        ensure!(senders.contains(&address), "the capture has nothing of {address}");
    }
    Ok(())
}

#[test]
fn a_bird_reflector_and_its_manx_client_are_killed_in_turn_and_no_packet_is_lost() -> Result<()> {
    reflected_by(&Bird, LOW)
}

/// FRR dials, for it ends its deferral (RFC 4724 §4.1) with the End-of-RIB of the first client if the second is a second
/// late. For its first two minutes it says in every OPEN that it has just restarted (RFC 4724 §3): the client comes back
/// to a peer for whose routes its choice does not wait.
#[test]
fn an_frr_reflector_and_its_manx_client_are_killed_in_turn_and_no_packet_is_lost() -> Result<()> {
    reflected_by(&Frr, HIGH)
}

#[test]
fn a_gobgp_reflector_and_its_manx_client_are_killed_in_turn_and_no_packet_is_lost() -> Result<()> {
    reflected_by(&GoBgp, LOW)
}

/// ExaBGP says in every OPEN that it has just restarted.
#[test]
fn an_exabgp_and_its_manx_neighbour_are_killed_in_turn_and_no_packet_is_lost() -> Result<()> {
    let mut lab = Lab::new()?;
    let document = resources(AS, &POOLS, &[MIDDLE.node(None)], &HIGH.peers(AS).collect::<Vec<_>>());
    std::fs::write(lab.store().join("cluster.yaml"), document)?;
    let capture = Capture::start(&lab)?;
    let mut manx = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let near = manx.host.pod("near", &MIDDLE.pod_addresses())?;
    let host = HIGH.host(&mut lab)?;
    let far = host.pod("far", &HIGH.pod_addresses())?;
    // It writes no routes: somebody else's lead back.
    for (block, gateway) in MIDDLE.blocks().iter().zip(MIDDLE.addresses()) {
        host.sh(&format!("ip route add {block} via {gateway} proto static"))?;
    }
    let mut other = Peer::start(&ExaBgp, host, HIGH.speaking(AS, &[(MIDDLE, AS)]), &lab.logs())?;
    let served = |manx: &Manx| {
        is_at_peace_with(manx, HIGH)?;
        has_routes_to(&manx.host, HIGH)
    };
    eventually("Manx hears ExaBGP", UP, || served(&manx))
        .map_err(|e| e.context(format!("{}\n{}", manx.account(), other.account())))?;

    let traffic = flows(&near, &far)?;
    other.kill()?;
    throughout("Manx keeps the routes of a killed ExaBGP", ABSENT, || has_routes_to(&manx.host, HIGH))?;
    for address in HIGH.addresses() {
        ensure!(manx.peer(address)?.stale, "routes of the killed {address} are not stale");
    }
    other.start_again()?;
    eventually("ExaBGP is back", UP, || served(&manx))
        .map_err(|e| e.context(format!("{}\n{}", manx.account(), other.account())))?;

    thread::sleep(Duration::from_millis(500));
    nothing_lost(traffic)?;

    let traffic = flows(&near, &far)?;
    manx.kill()?;
    throughout("the kernel keeps the routes of a killed Manx", ABSENT, || has_routes_to(&manx.host, HIGH))?;
    manx.start_again()?;
    eventually("Manx is back", UP, || {
        served(&manx)?;
        for (family, block) in MIDDLE.blocks().iter().enumerate() {
            let found = other.learned(block)?.next_hop;
            ensure!(found == Some(MIDDLE.addresses()[family]), "{block} is behind {found:?}");
        }
        Ok(())
    })
    .map_err(|e| e.context(format!("{}\n{}", manx.account(), other.account())))?;
    thread::sleep(Duration::from_millis(500));
    nothing_lost(traffic)?;
    let senders = capture.finish(&lab, &[])?.iter().map(|packet| packet.from).collect();
    both_are_heard(&senders, [MIDDLE, HIGH])
}

/// FRR listens before its neighbours are ready, and answers an OPEN that comes then with 5/0 (about one in ten). It is
/// no fault for which a peer would be held back: the retry comes at once, and nothing is dropped meanwhile. (FRR itself
/// drops what it has from one session when the other has sent End-of-RIB, and so there is no traffic here.)
#[test]
fn an_frr_that_is_not_ready_yet_is_dialled_again_at_once() -> Result<()> {
    /// Less than the time for which a peer is held back after errors.
    const SOON: Duration = Duration::from_secs(3);
    let mut lab = Lab::new()?;
    let document = resources(AS, &POOLS, &[MIDDLE.node(None)], &LOW.peers(AS).collect::<Vec<_>>());
    std::fs::write(lab.store().join("cluster.yaml"), document)?;
    let manx = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let speaking = LOW.speaking(AS, &[(MIDDLE, AS)]);
    let mut other = Peer::start(&Frr, LOW.host(&mut lab)?, speaking, &lab.logs())?;
    let account = |manx: &Manx, other: &Peer| format!("{}\n{}", manx.account(), other.account());
    let served = || {
        is_at_peace_with(&manx, LOW)?;
        has_routes_to(&manx.host, LOW)
    };
    eventually("Manx hears FRR", UP, served).map_err(|e| e.context(account(&manx, &other)))?;
    for _ in 0..8 {
        other.kill()?;
        other.start_again()?;
        has_routes_to(&manx.host, LOW)?;
        eventually("FRR is back", SOON, || {
            has_routes_to(&manx.host, LOW)?;
            is_at_peace_with(&manx, LOW)
        })
        .map_err(|e| e.context(account(&manx, &other)))?;
    }
    let log = manx.log_text()?;
    let notified = log.lines().filter(|line| line.contains("NOTIFICATION")).collect::<Vec<_>>();
    let unready = ["Finite State Machine Error / Unspecified", "Connection Collision Resolution"];
    let expected = |line: &&str| unready.iter().any(|text| line.contains(text));
    ensure!(notified.iter().all(expected), "{notified:#?}");
    Ok(())
}
