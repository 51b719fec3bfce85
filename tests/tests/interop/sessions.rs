//! Manx between two speakers of one kind, of which the one waits to be dialled and the other dials, as their route
//! reflector or as a router between ASes.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use manx_api::{Dialler, SessionState};
use manx_tests::{
    lab::Lab,
    peers::{
        Bird, ExaBgp, Frr, GoBgp, Learned, Marks, Peer, Side,
        capture::{Capture, KEEPALIVE, NOTIFICATION, OPEN, Packet, ROUTE_REFRESH, UPDATE},
        manx::{Manx, resources},
    },
    wait::eventually,
};

use crate::lab::{AS, HIGH, LOW, MIDDLE, Other, POOLS, Place};

const UP: Duration = Duration::from_secs(20);
const HEARD: Duration = Duration::from_secs(10);
const CLUSTER: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 7);
const FAREWELL: &str = "maintenance until noon";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    /// One AS; Manx is the reflector.
    Clients,
    /// Three ASes.
    Strangers,
}

impl Relation {
    fn as_number(self, place: Place) -> u32 {
        match self {
            Relation::Clients => AS,
            Relation::Strangers => place.as_number(),
        }
    }

    /// A route of `from` as it must arrive on the other side of Manx.
    fn passed_on(self, from: Place, family: usize) -> Learned {
        let mut learned = Learned { marks: from.marks(), ..Learned::default() };
        match self {
            // RFC 4456 §8 and §10.
            Relation::Clients => {
                learned.next_hop = Some(from.addresses()[family]);
                learned.originator_id = Some(from.ipv4());
                learned.cluster_list = vec![CLUSTER];
            }
            Relation::Strangers => {
                learned.next_hop = Some(MIDDLE.addresses()[family]);
                learned.as_path = vec![MIDDLE.as_number(), from.as_number()];
            }
        }
        learned
    }

    /// A route of Manx's own.
    fn own(self, family: usize) -> Learned {
        Learned {
            next_hop: Some(MIDDLE.addresses()[family]),
            as_path: if self == Relation::Strangers { vec![MIDDLE.as_number()] } else { Vec::new() },
            marks: Marks::default(),
            ..Learned::default()
        }
    }
}

fn manx_between(program: Other, relation: Relation) -> Result<()> {
    let mut lab = Lab::new()?;
    let middle_as = relation.as_number(MIDDLE);
    let cluster_id = (relation == Relation::Clients).then_some(CLUSTER);
    let peers: Vec<_> = [LOW, HIGH].into_iter().flat_map(|p| p.peers(relation.as_number(p))).collect();
    let document = resources(middle_as, &POOLS, &[MIDDLE.node(cluster_id)], &peers);
    std::fs::write(lab.store().join("cluster.yaml"), document)?;
    let capture = Capture::start(&lab)?;

    let manx = Manx::start(MIDDLE.host(&mut lab)?, &["--dataplane", "off"], &lab.logs())?;
    let mut started = Vec::new();
    for place in [LOW, HIGH] {
        let mut speaking = place.speaking(relation.as_number(place), &[(MIDDLE, middle_as)]);
        speaking.side = if place == LOW { Side::Listens } else { Side::Dials };
        started.push((place, Peer::start(program, place.host(&mut lab)?, speaking, &lab.logs())?));
    }

    for (place, dialler) in [(LOW, Dialler::Local), (HIGH, Dialler::Remote)] {
        for address in place.addresses() {
            let state = |manx: &Manx| {
                let peer = manx.peer(address)?;
                ensure!(peer.state == SessionState::Established, "{address} is {} {}", peer.state, peer.info);
                Ok(peer)
            };
            let account = || {
                format!(
                    "{}\n{}",
                    manx.account(),
                    started.iter().map(|(_, p)| p.account()).collect::<String>()
                )
            };
            let peer = eventually(&format!("a session with {address}"), UP, || state(&manx))
                .map_err(|e| e.context(account()))?;
            ensure!(peer.times_established == 1, "{address}: established {} times", peer.times_established);
            let found = peer.connection.map(|connection| connection.dialled_by);
            ensure!(found == Some(dialler), "{address}: dialled by {found:?}");
        }
    }
    for (place, peer) in &started {
        let other = if *place == LOW { HIGH } else { LOW };
        for family in [0, 1] {
            for (prefix, expected) in [
                (&MIDDLE.blocks()[family], relation.own(family)),
                (&other.blocks()[family], relation.passed_on(other, family)),
            ] {
                eventually(&format!("{} learns {prefix}", place.name), HEARD, || {
                    let found = peer.learned(prefix)?;
                    ensure!(found == expected, "{prefix} is {found:?}, not {expected:?}");
                    Ok(())
                })
                .map_err(|e| e.context(format!("{}\n{}", manx.account(), peer.account())))?;
            }
        }
    }

    let (_, dialling) = &started[1];
    if program.asks_for_refresh() {
        for address in MIDDLE.addresses() {
            dialling.ask_for_refresh(address)?;
        }
        // The answer is read from the capture; a session that it ended would be established twice.
        thread::sleep(Duration::from_secs(1));
        for address in HIGH.addresses() {
            let peer = manx.peer(address)?;
            let times = peer.times_established;
            ensure!(peer.state == SessionState::Established && times == 1, "{address}: refreshed, {peer:?}");
        }
    }
    if program.has_shutdown_text() {
        for address in MIDDLE.addresses() {
            dialling.shut_down(address, FAREWELL)?;
        }
        eventually("Manx logs both farewells", HEARD, || {
            let log = manx.log_text()?;
            let heard =
                log.lines().filter(|line| line.contains("Shutdown") && line.contains(FAREWELL)).count();
            ensure!(heard == 2, "{heard} of 2");
            Ok(())
        })
        .map_err(|e| e.context(manx.account()))?;
    }
    judge(&capture.finish(&lab)?, program)
}

/// Everybody said what belongs to a session, and Manx answered what it was asked.
fn judge(packets: &[Packet], program: Other) -> Result<()> {
    let said = |from: IpAddr, to: IpAddr| {
        packets.iter().enumerate().filter(move |(_, p)| p.from == from && p.to == to)
    };
    for family in [0, 1] {
        let middle = MIDDLE.addresses()[family];
        for place in [LOW, HIGH] {
            let other = place.addresses()[family];
            for (from, to) in [(middle, other), (other, middle)] {
                for kind in [OPEN, UPDATE, KEEPALIVE] {
                    let found = said(from, to).any(|(_, packet)| packet.messages.contains(&kind));
                    ensure!(found, "no message of type {kind} from {from} to {to}");
                }
            }
        }
        let high = HIGH.addresses()[family];
        if program.asks_for_refresh() {
            let asked = said(high, middle).find(|(_, packet)| packet.messages.contains(&ROUTE_REFRESH));
            let (asked, _) = asked.with_context(|| format!("{high} sent no ROUTE-REFRESH"))?;
            let answered =
                said(middle, high).any(|(n, packet)| n > asked && packet.messages.contains(&UPDATE));
            ensure!(answered, "Manx did not answer the ROUTE-REFRESH of {high}");
        }
        if program.has_shutdown_text() {
            let farewell = said(high, middle).any(|(_, packet)| {
                packet.messages.contains(&NOTIFICATION) && packet.text.as_deref() == Some(FAREWELL)
            });
            ensure!(farewell, "{high} sent no shutdown text");
        }
    }
    Ok(())
}

#[test]
fn manx_reflects_between_birds_which_it_dials_and_which_dial_it() -> Result<()> {
    manx_between(&Bird, Relation::Clients)
}

#[test]
fn manx_reflects_between_frrs_which_it_dials_and_which_dial_it() -> Result<()> {
    manx_between(&Frr, Relation::Clients)
}

#[test]
fn manx_reflects_between_gobgps_which_it_dials_and_which_dial_it() -> Result<()> {
    manx_between(&GoBgp, Relation::Clients)
}

#[test]
fn manx_reflects_between_exabgps_which_it_dials_and_which_dial_it() -> Result<()> {
    manx_between(&ExaBgp, Relation::Clients)
}

#[test]
fn manx_passes_pods_from_a_bird_to_a_bird_of_other_ases() -> Result<()> {
    manx_between(&Bird, Relation::Strangers)
}

#[test]
fn manx_passes_pods_from_an_frr_to_an_frr_of_other_ases() -> Result<()> {
    manx_between(&Frr, Relation::Strangers)
}

#[test]
fn manx_passes_pods_from_a_gobgp_to_a_gobgp_of_other_ases() -> Result<()> {
    manx_between(&GoBgp, Relation::Strangers)
}

#[test]
fn manx_passes_pods_from_an_exabgp_to_an_exabgp_of_other_ases() -> Result<()> {
    manx_between(&ExaBgp, Relation::Strangers)
}
