//! What settings of the resources are on the wire: as BIRD, which is Calico's speaker, prints them.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use manx_tests::{
    lab::Lab,
    peers::{
        Bird, Peer,
        manx::{BgpPeer, Manx, resources},
    },
    wait::eventually,
};

use crate::lab::{AS, HIGH, MIDDLE, POOLS};

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
