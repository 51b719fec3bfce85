//! BGPFilters that ask for an interface: the kernel's own routes say by which one a next hop is reached, and a rule
//! that comes to ask, or asks no more, needs nothing of the peer.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use manx_tests::{
    kernel,
    lab::{Lab, UPLINK},
    peers::{
        Bird, Peer,
        manx::{Manx, resources},
    },
    wait::eventually,
};

use crate::lab::{AS, HIGH, MIDDLE, POOLS};

const UP: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(5);

/// The BGPPeer that leads to the other program, and its filter: what leads out of such an interface stays outside.
fn fabric(interface: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{name: fabric}}\n\
         spec: {{peerIP: {}, asNumber: {AS}, filters: [by-interface]}}\n---\n\
         apiVersion: projectcalico.org/v3\nkind: BGPFilter\nmetadata: {{name: by-interface}}\n\
         spec: {{importV4: [{{interface: '{interface}', action: Reject}}]}}\n",
        HIGH.ipv4()
    )
}

fn has_block(node: &Manx) -> Result<bool> {
    let block = &HIGH.blocks()[0];
    Ok(kernel::routes(&node.host, kernel::Family::V4)?.iter().any(|route| route.dst == *block))
}

#[test]
fn a_filter_by_interface_decides_by_the_way_to_the_next_hop() -> Result<()> {
    let mut lab = Lab::new()?;
    fs::write(lab.store().join("cluster.yaml"), resources(AS, &POOLS, &[MIDDLE.node(None)], &[]))?;
    fs::write(lab.store().join("fabric.yaml"), fabric("eth*"))?;
    let speaking = HIGH.speaking(AS, &[(MIDDLE, AS)]);
    let _high = Peer::start(&Bird, HIGH.host(&mut lab)?, speaking, &lab.logs())?;
    let node = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let is = |there: bool| {
        eventually(&format!("the block is in the kernel: {there}"), UP, || {
            ensure!(has_block(&node)? == there);
            Ok(())
        })
    };
    is(true)?;
    let established = node.peer(HIGH.ipv4().into())?.times_established;

    fs::write(lab.store().join("fabric.yaml"), fabric("ens*"))?;
    is(false)?;
    let explained = node.host.sh(&format!("manxctl explain {}", HIGH.blocks()[0]))?;
    ensure!(explained.contains("BGPFilter/by-interface importV4[0]"), "{explained}");

    // The next hop is reached by another interface from now on.
    node.host.sh("ip link add eth7 type veth peer name eth8")?;
    node.host.sh("ip link set eth7 up")?;
    node.host.sh("ip link set eth8 up")?;
    node.host.sh(&format!("ip route add {} dev eth7", HIGH.ipv4()))?;
    is(true)?;
    node.host.sh("ip link del eth7")?;
    is(false)?;

    fs::write(lab.store().join("fabric.yaml"), fabric("eth*"))?;
    eventually("it came back", SOON, || {
        ensure!(has_block(&node)?);
        Ok(())
    })?;
    let now = node.peer(HIGH.ipv4().into())?.times_established;
    ensure!(now == established, "the session of {UPLINK} began {now} times, {established} before");
    Ok(())
}
