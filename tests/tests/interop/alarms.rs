//! What is wrong with a peer whose session goes on stands where an operator looks: in the status while it is true, and
//! in the history. The peer is played octet by octet, since none of the programs sends what this one does.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use manx_tests::{
    lab::Lab,
    peers::manx::{Manx, resources},
    wait::eventually,
};

use crate::lab::{AS, HIGH, MIDDLE, POOLS};

const SOON: Duration = Duration::from_secs(5);
const THEIR_AS: u16 = 65001;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0xff; 16];
    // The tests' messages are short.
    out.extend(((19 + body.len()) as u16).to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

/// Version 4, hold time 90 s, no capabilities: IPv4 and AS numbers of two octets.
fn open() -> Vec<u8> {
    let mut body = vec![4];
    body.extend(THEIR_AS.to_be_bytes());
    body.extend(90u16.to_be_bytes());
    body.extend(HIGH.ipv4().octets());
    body.push(0);
    message(1, &body)
}

/// Announces 10.`third`.0.0/16 with this ORIGIN, and whatever else.
fn update(third: u8, origin: u8, more: &[u8]) -> Vec<u8> {
    let mut attributes = vec![0x40, 1, 1, origin];
    attributes.extend([0x40, 2, 4, 2, 1]);
    attributes.extend(THEIR_AS.to_be_bytes());
    attributes.extend([0x40, 3, 4]);
    attributes.extend(HIGH.ipv4().octets());
    attributes.extend(more);
    let mut body = vec![0, 0];
    body.extend((attributes.len() as u16).to_be_bytes());
    body.extend(attributes);
    body.extend([16, 10, third]);
    message(2, &body)
}

#[test]
fn faults_and_limits_of_a_peer_stand_in_the_status_and_in_the_history() -> Result<()> {
    let mut lab = Lab::new()?;
    fs::write(lab.store().join("cluster.yaml"), resources(AS, &POOLS, &[MIDDLE.node(None)], &[]))?;
    fs::write(
        lab.store().join("edge.yaml"),
        format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: edge\n  annotations:\n    \
             manx.dev/maxPrefixes: '4'\n    manx.dev/maxPrefixs: '4'\nspec: {{peerIP: {}, asNumber: {THEIR_AS}}}\n",
            HIGH.ipv4()
        ),
    )?;
    let high = HIGH.host(&mut lab)?;
    let node = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let at = SocketAddr::new(MIDDLE.ipv4().into(), 179);
    let mut peer = high.run(move || TcpStream::connect_timeout(&at, SOON))?;
    peer.write_all(&[open(), message(4, &[])].concat())?;
    // Two are fine; ORIGIN has no value 9 (treated as withdrawn), AGGREGATOR has no three octets (discarded).
    let sent =
        [update(1, 0, &[]), update(2, 0, &[]), update(9, 9, &[]), update(3, 0, &[0xc0, 7, 3, 1, 2, 3])];
    peer.write_all(&sent.concat())?;

    let status = || node.host.sh("manxctl node status");
    eventually("the status says both", SOON, || {
        let text = status()?;
        let near = "announces 3 IPv4 prefixes of the 4 that it may; beyond them its session ends";
        let faulty =
            "sends malformed UPDATEs: treated as withdrawn 1, attributes discarded 1 (RFC 7606); the last at";
        ensure!(text.contains(near) && text.contains(faulty), "{text}");
        ensure!(text.contains("| up    |") && text.contains("Established"), "{text}");
        Ok(())
    })?;
    let text = status()?;
    ensure!(
        text.contains("manx.dev/maxPrefixs]: unknown annotation; did you mean manx.dev/maxPrefixes?"),
        "{text}"
    );
    ensure!(!text.contains("newer ones have problems"), "{text}");
    let history = node.host.sh("manxctl history")?;
    for line in ["Warning: sent a malformed UPDATE (ORIGIN", "Warning: announces 3 IPv4 prefixes of the 4"] {
        ensure!(history.contains(line), "{history}");
    }

    peer.write_all(&[update(4, 0, &[]), update(5, 0, &[])].concat())?;
    eventually("the session has ended, and the status says why", SOON, || {
        let text = status()?;
        ensure!(text.contains("Maximum Number of Prefixes Reached") && !text.contains("of the 4"), "{text}");
        Ok(())
    })?;
    let history = node.host.sh("manxctl history")?;
    ensure!(history.contains("announced more than the 4 IPv4 prefixes that it may"), "{history}");
    Ok(())
}
