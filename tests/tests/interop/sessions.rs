//! Manx between two speakers of one kind, of which the one waits to be dialled and the other dials, as their route
//! reflector or as a router between ASes.

use std::{
    fs,
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

/// GoBGP waits 5 to 10 s before it dials.
pub const UP: Duration = Duration::from_secs(20);
pub const HEARD: Duration = Duration::from_secs(10);
const CLUSTER: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 7);
/// The capability of RFC 6793 §3.
const FOUR_OCTETS: u8 = 65;
/// The capability, and the subtypes around an answer (RFC 7313 §3.2).
pub const ENHANCED_REFRESH: u8 = 70;
const BEGIN_AND_END: [u8; 2] = [1, 2];
/// The subcode of Cease (RFC 4486 §4).
const DECONFIGURED: u8 = 3;
const FAREWELL: &str = "maintenance until noon";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// One AS; Manx is the reflector.
    Clients,
    /// Three ASes.
    Strangers,
    /// Three ASes, and the low place does not offer four octets. The high one's AS goes to it as AS 23456, and
    /// it finds the true one in AS4_PATH.
    OldStranger,
}

impl Relation {
    fn as_number(self, place: Place) -> u32 {
        match self {
            Relation::Clients => AS,
            // Without the capability it could not name Manx's AS otherwise.
            Relation::OldStranger if place != HIGH => 65_000 + place.as_number() % 100,
            Relation::Strangers | Relation::OldStranger => place.as_number(),
        }
    }

    /// A route of `from` as it must arrive on the other side of Manx.
    fn passed_on(self, from: Place, family: usize) -> Learned {
        let mut learned = Learned { marks: from.marks(), ..Learned::default() };
        if self == Relation::Clients {
            // RFC 4456 §8 and §10.
            learned.next_hop = Some(from.addresses()[family]);
            learned.originator_id = Some(from.ipv4());
            learned.cluster_list = vec![CLUSTER];
        } else {
            learned.next_hop = Some(MIDDLE.addresses()[family]);
            learned.as_path = vec![self.as_number(MIDDLE), self.as_number(from)];
        }
        learned
    }

    /// A route of Manx's own.
    fn own(self, family: usize) -> Learned {
        Learned {
            next_hop: Some(MIDDLE.addresses()[family]),
            as_path: if self == Relation::Clients { Vec::new() } else { vec![self.as_number(MIDDLE)] },
            marks: Marks::default(),
            ..Learned::default()
        }
    }
}

/// Manx in the middle, and the other two.
pub struct Trio {
    relation: Relation,
    program: Other,
    pub manx: Manx,
    pub low: Peer,
    pub high: Peer,
    pub lab: Lab,
}

impl Trio {
    pub fn start(program: Other, relation: Relation) -> Result<(Trio, Capture)> {
        let mut lab = Lab::new()?;
        write_resources(&lab, relation, &[LOW, HIGH])?;
        let capture = Capture::start(&lab)?;
        // Whoever dials finds it listening.
        let manx = Manx::start(MIDDLE.host(&mut lab)?, &["--dataplane", "off"], &lab.logs())?;
        let mut other = |place: Place, side| {
            let to_manx = [(MIDDLE, relation.as_number(MIDDLE))];
            let mut speaking = place.speaking(relation.as_number(place), &to_manx);
            speaking.side = side;
            speaking.two_octets = relation == Relation::OldStranger && place == LOW;
            Peer::start(program, place.host(&mut lab)?, speaking, &lab.logs())
        };
        let (low, high) = (other(LOW, Side::Listens)?, other(HIGH, Side::Dials)?);
        Ok((Trio { relation, program, manx, low, high, lab }, capture))
    }

    pub fn account(&self) -> String {
        format!("{}\n{}\n{}", self.manx.account(), self.low.account(), self.high.account())
    }

    /// Every session stands, was established once, and was dialled by the side that should.
    pub fn sessions_stand(&self) -> Result<()> {
        for (place, dialler) in [(LOW, Dialler::Local), (HIGH, Dialler::Remote)] {
            for address in place.addresses() {
                let peer = self.manx.peer(address)?;
                ensure!(peer.state == SessionState::Established, "{address} is {} {}", peer.state, peer.info);
                let times = peer.times_established;
                ensure!(times == 1, "{address}: established {times} times");
                let found = peer.connection.map(|connection| connection.dialled_by);
                ensure!(found == Some(dialler), "{address}: dialled by {found:?}");
            }
        }
        Ok(())
    }

    /// Both have Manx's routes and each other's, with all that belongs to them.
    pub fn routes_have_passed(&self) -> Result<()> {
        for (place, peer, other) in [(LOW, &self.low, HIGH), (HIGH, &self.high, LOW)] {
            for family in [0, 1] {
                for (prefix, expected) in [
                    (&MIDDLE.blocks()[family], self.relation.own(family)),
                    (&other.blocks()[family], self.relation.passed_on(other, family)),
                ] {
                    let found = peer.learned(prefix)?;
                    ensure!(found == expected, "{}: {prefix} is {found:?}, not {expected:?}", place.name);
                }
            }
        }
        Ok(())
    }

    /// The answers are read from the capture.
    fn refresh(&self) -> Result<()> {
        for address in MIDDLE.addresses() {
            self.high.ask_for_refresh(address)?;
        }
        thread::sleep(Duration::from_secs(1));
        self.sessions_stand().context("after the refresh")
    }

    fn farewell(&self) -> Result<()> {
        for address in MIDDLE.addresses() {
            self.high.shut_down(address, FAREWELL)?;
        }
        eventually("Manx logs both farewells", HEARD, || {
            let log = self.manx.log_text()?;
            let farewells = log.lines().filter(|l| l.contains("Shutdown") && l.contains(FAREWELL)).count();
            ensure!(farewells == 2, "{farewells} of 2");
            Ok(())
        })
    }

    /// Takes the low one out of Manx's resources.
    fn forget_low(&self) -> Result<()> {
        write_resources(&self.lab, self.relation, &[HIGH])?;
        eventually("Manx has forgotten the low peers", HEARD, || {
            let peers = self.manx.status()?.peers;
            ensure!(peers.iter().all(|peer| !LOW.addresses().contains(&peer.address)), "{peers:?}");
            Ok(())
        })
    }
}

fn write_resources(lab: &Lab, relation: Relation, others: &[Place]) -> Result<()> {
    let cluster_id = (relation == Relation::Clients).then_some(CLUSTER);
    let peers: Vec<_> = others.iter().flat_map(|p| p.peers(relation.as_number(*p))).collect();
    let document = resources(relation.as_number(MIDDLE), &POOLS, &[MIDDLE.node(cluster_id)], &peers);
    // By rename, so that nobody reads half of it.
    let (new, file) = (lab.store().join("cluster.new"), lab.store().join("cluster.yaml"));
    fs::write(&new, document)?;
    Ok(fs::rename(new, file)?)
}

fn manx_between(program: Other, relation: Relation) -> Result<()> {
    let (trio, capture) = Trio::start(program, relation)?;
    let told = |e: anyhow::Error| e.context(trio.account());
    eventually("all sessions stand", UP, || trio.sessions_stand()).map_err(told)?;
    eventually("all routes have passed", HEARD, || trio.routes_have_passed()).map_err(told)?;
    if program.asks_for_refresh() {
        trio.refresh().map_err(told)?;
    }
    if program.has_shutdown_text() {
        trio.farewell().map_err(told)?;
    }
    trio.forget_low().map_err(told)?;
    let low = LOW.addresses();
    let narrow = if relation == Relation::OldStranger { &low[..] } else { &[] };
    let packets = capture.finish(&trio.lab, narrow)?;
    for family in [0, 1] {
        judge(&packets, &trio, family)?;
    }
    Ok(())
}

/// Everybody said what belongs to a session, and Manx answered what it was asked.
fn judge(packets: &[Packet], trio: &Trio, family: usize) -> Result<()> {
    let said = |from: IpAddr, to: IpAddr| packets.iter().filter(move |p| p.from == from && p.to == to);
    let [low, middle, high] = [LOW, MIDDLE, HIGH].map(|place| place.addresses()[family]);
    for other in [low, high] {
        for (from, to) in [(middle, other), (other, middle)] {
            for kind in [OPEN, UPDATE, KEEPALIVE] {
                let found = said(from, to).any(|packet| packet.messages.contains(&kind));
                ensure!(found, "no message of type {kind} from {from} to {to}");
            }
        }
    }
    if trio.program.asks_for_refresh() {
        let of_both = |p: &&Packet| [p.from, p.to] == [high, middle] || [p.from, p.to] == [middle, high];
        let between: Vec<&Packet> = packets.iter().filter(of_both).collect();
        let asked = between.iter().position(|p| p.from == high && p.messages.contains(&ROUTE_REFRESH));
        let asked = asked.with_context(|| format!("{high} sent no ROUTE-REFRESH"))?;
        let answer: Vec<&Packet> = between[asked..].iter().copied().filter(|p| p.from == middle).collect();
        for place in [LOW, MIDDLE] {
            let prefix = place.networks()[family];
            let again = answer.iter().any(|packet| packet.announced.contains(&prefix));
            ensure!(again, "{prefix} is not in the answer to the ROUTE-REFRESH of {high}");
        }
        if said(high, middle).any(|packet| packet.capabilities.contains(&ENHANCED_REFRESH)) {
            let marks: Vec<u8> = answer.iter().flat_map(|packet| packet.refresh.clone()).collect();
            ensure!(marks == BEGIN_AND_END, "{high} got the marks {marks:?} around the answer");
        }
    }
    if trio.program.has_shutdown_text() {
        let farewell = said(high, middle).any(|packet| packet.text.as_deref() == Some(FAREWELL));
        ensure!(farewell, "{high} sent no shutdown text");
    }
    let four_octets = said(low, middle).any(|packet| packet.capabilities.contains(&FOUR_OCTETS));
    ensure!(
        four_octets == (trio.relation != Relation::OldStranger),
        "{low} offers four octets: {four_octets}"
    );
    let ceased: Vec<_> = said(middle, low).filter(|p| p.messages.contains(&NOTIFICATION)).collect();
    ensure!(ceased.len() == 1 && ceased[0].cease == Some(DECONFIGURED), "the last word to {low}: {ceased:?}");
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

#[test]
fn a_bird_that_offers_two_octets_finds_the_whole_path_again() -> Result<()> {
    manx_between(&Bird, Relation::OldStranger)
}

#[test]
fn an_exabgp_that_offers_two_octets_finds_the_whole_path_again() -> Result<()> {
    manx_between(&ExaBgp, Relation::OldStranger)
}
