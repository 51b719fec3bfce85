//! Attributes that no message of 4096 octets holds, from a BIRD through Manx to a BIRD (RFC 8654). There is no capture:
//! tshark 4.0 takes every message beyond 4096 octets for malformed, BIRD's as well.

use std::fs;

use anyhow::{Result, ensure};
use manx_tests::{
    lab::Lab,
    peers::{
        Bird, Peer, Side,
        manx::{Manx, resources},
    },
    wait::eventually,
};

use crate::{
    lab::{AS, HIGH, LOW, MIDDLE, POOLS, Place},
    sessions::UP,
};

/// Of twelve octets each.
const COMMUNITIES: u32 = 500;

/// Behaviour 23, with a speaker that is not ours at both ends.
#[test]
fn a_route_with_six_thousand_octets_of_communities_passes_from_a_bird_to_a_bird() -> Result<()> {
    let mut lab = Lab::new()?;
    let peers: Vec<_> = [LOW, HIGH].into_iter().flat_map(|place| place.peers(AS)).collect();
    let cluster = "224.0.0.7".parse()?;
    fs::write(
        lab.store().join("cluster.yaml"),
        resources(AS, &POOLS, &[MIDDLE.node(Some(cluster))], &peers),
    )?;
    let manx = Manx::start(MIDDLE.host(&mut lab)?, &["--dataplane", "off"], &lab.logs())?;
    let large = (0..COMMUNITIES).map(|n| format!("{AS}:{n}:7"));
    let mut bird = |place: Place, side| {
        let mut speaking = place.speaking(AS, &[(MIDDLE, AS)]);
        speaking.side = side;
        for route in &mut speaking.routes {
            route.marks.large = large.clone().collect();
        }
        Peer::start(&Bird, place.host(&mut lab)?, speaking, &lab.logs())
    };
    let (low, high) = (bird(LOW, Side::Listens)?, bird(HIGH, Side::Dials)?);
    for (receiver, sender) in [(&high, LOW), (&low, HIGH)] {
        for prefix in sender.blocks() {
            eventually("the long route has passed", UP, || {
                // BIRD prints the first few of a long list, and counts them all.
                let all = format!("bgp_large_community.len = {COMMUNITIES}");
                let question = format!("birdc 'show route for {prefix} where {all}'");
                let found = receiver.host.shell(&question)?.success()?;
                ensure!(found.contains(&prefix), "{prefix}: {found}");
                Ok(())
            })
            .map_err(|e| e.context(format!("{}\n{}\n{}", manx.account(), low.account(), high.account())))?;
        }
    }
    for prefix in LOW.blocks() {
        let path = manx.explain(&prefix)?.paths.remove(0);
        ensure!(path.large_communities.len() == COMMUNITIES as usize, "{prefix}: {path:?}");
    }
    Ok(())
}
