//! What settings of the resources are on the wire: as BIRD, which is Calico's speaker, prints them.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use manx_tests::{
    lab::Lab,
    peers::{
        Bird, Peer,
        manx::{BgpPeer, Manx, resources},
    },
    wait::eventually,
};

use crate::lab::{AS, HIGH, LOW, MIDDLE, POOLS};

const UP: Duration = Duration::from_secs(30);
const ROUTER_ID: &str = "10.1.2.3";
/// Each family's block is told apart by it.
const CONFIGURATION: &str = ", ipv4NormalRoutePriority: 1024, ipv6NormalRoutePriority: 2000, \
    communities: [ { name: named, value: \"65000:7\" } ], \
    prefixAdvertisements: [ { cidr: 172.16.0.0/16, communities: [ named, \"65000:8:9\" ] } ]";

#[test]
fn bird_prints_what_the_resources_ask_for() -> Result<()> {
    let mut lab = Lab::new()?;
    let more = ", maxRestartTime: 77s, nextHopMode: Self";
    let peers: Vec<_> = HIGH.peers(AS).map(|peer| BgpPeer { more, ..peer }).collect();
    let plain = resources(AS, &POOLS, &[MIDDLE.node(None)], &peers);
    let global = format!("nodeToNodeMeshEnabled: false, asNumber: {AS}");
    ensure!(plain.contains(&global), "{plain}");
    fs::write(lab.store().join("cluster.yaml"), plain.replace(&global, &format!("{global}{CONFIGURATION}")))?;
    let bird = Peer::start(&Bird, HIGH.host(&mut lab)?, HIGH.speaking(AS, &[(MIDDLE, AS)]), &lab.logs())?;
    let mut host = MIDDLE.host(&mut lab)?;
    // Calico's name for the flag.
    host.set_env("CALICO_ROUTER_ID", ROUTER_ID);
    let node = Manx::start(host, &["--dataplane", "off"], &lab.logs())?;

    // Decision 044: 2147483647 less the priority.
    let wanted = [
        (
            &MIDDLE.blocks()[0],
            &["BGP.local_pref: 2147482623", "(65000,7)", "(65000, 8, 9)", "192.168.80.50"][..],
        ),
        (&MIDDLE.blocks()[1], &["BGP.local_pref: 2147481647", "fd00:80::50"]),
    ];
    for (block, attributes) in wanted {
        eventually(&format!("BIRD has {block} as it is asked for"), UP, || {
            let text = bird.host.sh(&format!("birdc show route {block} all"))?;
            for attribute in attributes {
                ensure!(text.contains(attribute), "{attribute} is missing:\n{text}");
            }
            ensure!(block.contains(':') != text.contains("65000"), "communities are for one family:\n{text}");
            Ok(())
        })?;
    }
    let sessions = bird.host.sh("birdc show protocols all")?;
    for said in ["Neighbor ID:      10.1.2.3", "Restart time: 77"] {
        ensure!(sessions.matches(said).count() == 2, "{said} is not twice in:\n{sessions}");
    }
    ensure!(node.status()?.router_id == Some(ROUTER_ID.parse()?), "{:?}", node.status()?);
    Ok(())
}

const SERVICES: [&str; 2] = ["10.96.0.0/12", "fd00:96::/108"];
const OTHER_AS: u32 = 65_050;
/// Some seconds of a session, in which one with the usual keepalive time says one word at most.
const A_WHILE: Duration = Duration::from_secs(5);
const A_MOMENT: Duration = Duration::from_millis(300);

/// Two nodes of one AS with a BIRD of another AS between them.
struct Between {
    lab: Lab,
    bird: Peer,
    low: Manx,
    high: Manx,
}

impl Between {
    fn new() -> Result<Between> {
        let mut lab = Lab::new()?;
        write(&lab, "", "")?;
        let speaking = MIDDLE.speaking(OTHER_AS, &[(LOW, AS), (HIGH, AS)]);
        let bird = Peer::start(&Bird, MIDDLE.host(&mut lab)?, speaking, &lab.logs())?;
        let low = Manx::start(LOW.host(&mut lab)?, &["--dataplane", "off"], &lab.logs())?;
        let high = Manx::start(HIGH.host(&mut lab)?, &["--dataplane", "off"], &lab.logs())?;
        Ok(Between { lab, bird, low, high })
    }

    /// BIRD's route to what low announces, as high announces it.
    fn routes_of_high(&self, block: &str) -> Result<String> {
        let protocol = if block.contains(':') { "to_fd00_80__90" } else { "to_192_168_80_90" };
        self.bird.host.sh(&format!("birdc show route {block} protocol {protocol} all"))
    }
}

/// `more` of BGPConfiguration and of the BGPPeers.
fn write(lab: &Lab, configuration: &str, more: &'static str) -> Result<()> {
    let peers: Vec<_> = MIDDLE.peers(OTHER_AS).map(|peer| BgpPeer { more, ..peer }).collect();
    let plain = resources(AS, &POOLS, &[LOW.node(None), HIGH.node(None)], &peers);
    let mesh = "nodeToNodeMeshEnabled: false";
    ensure!(plain.contains(mesh), "{plain}");
    let text = if configuration.is_empty() { plain } else { plain.replace(mesh, configuration) };
    Ok(fs::write(lab.store().join("cluster.yaml"), text)?)
}

/// How often each session was heard from in a while: then BIRD winds up its hold timer, to somewhere between three
/// quarters and all of the hold time.
fn keepalives(bird: &Peer) -> Result<Vec<usize>> {
    let began = Instant::now();
    let timers = || -> Result<Vec<f64>> {
        let text = bird.host.sh("birdc show protocols all")?;
        let left = text.lines().filter_map(|line| line.trim().strip_prefix("Hold timer:"));
        let ends = |left: f64| began.elapsed().as_secs_f64() + left;
        left.map(|text| Ok(ends(text.split('/').next().unwrap_or_default().trim().parse()?))).collect()
    };
    let mut before = timers()?;
    let mut heard = vec![0; before.len()];
    while began.elapsed() < A_WHILE {
        sleep(A_MOMENT);
        let now = timers()?;
        for ((heard, before), now) in heard.iter_mut().zip(&before).zip(&now) {
            *heard += usize::from((before - now).abs() > 0.2);
        }
        before = now;
    }
    Ok(heard)
}

#[test]
fn a_bird_of_another_as_between_two_nodes_finds_what_the_resources_ask_for() -> Result<()> {
    let between = Between::new()?;
    let Between { lab, bird, low, high } = &between;
    eventually("BIRD has the blocks of both", UP, || {
        for block in LOW.blocks().iter().chain(&HIGH.blocks()) {
            bird.learned(block)?;
        }
        Ok(())
    })?;
    // What has been in this AS comes no more into it (RFC 4271 §9.1.2), unless it is asked for: numAllowedLocalASNumbers.
    let knows = |expected: bool| {
        eventually(&format!("high knows low's blocks by BIRD: {expected}"), UP, || {
            for block in LOW.blocks() {
                let said = high.host.sh(&format!("manxctl explain {block}"))?;
                let refused = said.contains("refused: our AS is in its AS_PATH");
                ensure!(refused != expected, "{said}");
            }
            Ok(())
        })
    };
    knows(false)?;
    write(lab, "", ", numAllowedLocalASNumbers: 1")?;
    knows(true)?;
    write(lab, "", "")?;
    knows(false)?;

    // keepaliveTime: by the hold time of 90 s it would be 30 s.
    write(lab, "", ", keepaliveTime: 1s")?;
    eventually("the new keepalive time", UP, || {
        let heard = keepalives(bird)?;
        ensure!(heard.len() == 4 && heard.iter().all(|heard| *heard >= 3), "{heard:?}");
        Ok(())
    })?;

    // Prefixes of services come from both, and go when nobody asks for them any more.
    let services = format!(
        "nodeToNodeMeshEnabled: false, serviceClusterIPs: [{{cidr: {}}}, {{cidr: \"{}\"}}]",
        SERVICES[0], SERVICES[1]
    );
    let announced = |expected: usize| {
        eventually(&format!("{expected} nodes announce the services"), UP, || {
            for services in SERVICES {
                let text = bird.host.output(&format!("birdc show route {services}"))?.stdout;
                let found = text.lines().filter(|line| line.contains("AS4200000050i")).count();
                ensure!(found == expected, "{text}");
            }
            Ok(())
        })
    };
    write(lab, &services, "")?;
    announced(2)?;
    write(lab, "", "")?;
    announced(0)?;

    // nextHopMode: what high has from low by the mesh goes out by high itself, or by low.
    for (more, next_hop) in [("", HIGH.addresses()), (", nextHopMode: Keep", LOW.addresses())] {
        write(lab, "nodeToNodeMeshEnabled: true", more)?;
        for (block, next_hop) in LOW.blocks().iter().zip(next_hop) {
            eventually(&format!("{block} by {next_hop}{more}"), UP, || {
                let text = between.routes_of_high(block)?;
                ensure!(text.contains(&format!("BGP.next_hop: {next_hop}")), "{text}");
                Ok(())
            })?;
        }
    }
    for node in [low, high] {
        let lost = node.log_text()?;
        ensure!(!lost.contains("hold timer expired"), "{lost}");
    }
    Ok(())
}
