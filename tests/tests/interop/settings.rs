//! Settings that are annotations take effect on the running session, and end with it still running.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use manx_tests::{
    lab::Lab,
    peers::{
        GoBgp, Peer,
        manx::{Manx, resources},
    },
    wait::eventually,
};

use crate::lab::{AS, HIGH, MIDDLE, POOLS};

/// GoBGP waits up to 10 s before it dials.
const UP: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(5);
const GRACEFUL_SHUTDOWN: &str = "65535:0";

/// The annotations of one resource, whose spec stays as it is.
fn annotated(document: &str, resource: &str, annotation: &str) -> String {
    let name = format!("metadata:\n  name: {resource}\n");
    document.replacen(&name, &format!("{name}  annotations: {{{annotation}}}\n"), 1)
}

#[test]
fn a_node_that_leaves_and_a_policy_that_is_missing_are_heard_by_the_neighbour() -> Result<()> {
    let mut lab = Lab::new()?;
    let peers: Vec<_> = HIGH.peers(HIGH.as_number()).collect();
    let plain = resources(AS, &POOLS, &[MIDDLE.node(None)], &peers);
    let cluster = lab.store().join("cluster.yaml");
    fs::write(&cluster, &plain)?;
    let speaking = HIGH.speaking(HIGH.as_number(), &[(MIDDLE, AS)]);
    let high = Peer::start(&GoBgp, HIGH.host(&mut lab)?, speaking, &lab.logs())?;
    let node = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let leaving = |expected: bool, within| {
        eventually(&format!("GRACEFUL_SHUTDOWN: {expected}"), within, || {
            for block in MIDDLE.blocks() {
                let marks = high.learned(&block)?.marks;
                ensure!(marks.plain.contains(GRACEFUL_SHUTDOWN) == expected, "{marks:?}");
            }
            Ok(())
        })
    };
    leaving(false, UP)?;
    fs::write(&cluster, annotated(&plain, "middle", "manx.dev/gracefulShutdown: 'true'"))?;
    leaving(true, SOON)?;
    let status = node.host.sh("manxctl node status")?;
    ensure!(status.contains("asks everybody to go another way"), "{status}");
    fs::write(&cluster, &plain)?;
    leaving(false, SOON)?;

    // No BGPFilter says anything about this neighbour, who is another AS.
    let block = &HIGH.blocks()[0];
    ensure!(node.route(block)?.bgp.is_some());
    fs::write(&cluster, annotated(&plain, "default", "manx.dev/ebgpRequiresPolicy: 'true'"))?;
    eventually("nothing passes", SOON, || {
        ensure!(high.learned(&MIDDLE.blocks()[0]).is_err() && node.route(block).is_err());
        Ok(())
    })?;
    let explained = node.host.sh(&format!("manxctl explain {block}"))?;
    ensure!(explained.contains("no policy for an eBGP peer (RFC 8212)"), "{explained}");
    let status = node.host.sh("manxctl node status")?;
    ensure!(status.contains("no IPv4 route is taken from 192.168.80.90"), "{status}");
    fs::write(&cluster, &plain)?;
    leaving(false, SOON)?;

    for address in HIGH.addresses() {
        let times = node.peer(address)?.times_established;
        ensure!(times == 1, "the session with {address} began {times} times");
    }
    Ok(())
}
