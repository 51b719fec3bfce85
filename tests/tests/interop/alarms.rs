//! What is wrong with a peer whose session goes on stands where an operator looks: in the status while it is true, and
//! in the history. The peer is played octet by octet, since none of the programs sends what this one does.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Result, ensure};
use manx_api::SessionState;
use manx_tests::{
    lab::Lab,
    peers::manx::{BgpPeer, Manx, resources},
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

/// Takes 10.`third`.0.0/16 back.
fn withdrawal(third: u8) -> Vec<u8> {
    message(2, &[0, 3, 16, 10, third, 0, 0])
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

#[test]
fn a_rib_that_is_nearly_full_stands_in_the_status_with_who_holds_the_most_and_goes_from_there() -> Result<()>
{
    let mut lab = Lab::new()?;
    let peer = BgpPeer { address: HIGH.ipv4().into(), as_number: u32::from(THEIR_AS), more: "" };
    let document = resources(AS, &POOLS, &[MIDDLE.node(None)], &[peer]);
    let name = "metadata:\n  name: default\n";
    let bounded = document.replacen(name, &format!("{name}  annotations: {{manx.dev/maxPaths: '10'}}\n"), 1);
    fs::write(lab.store().join("cluster.yaml"), bounded)?;
    let high = HIGH.host(&mut lab)?;
    let node = Manx::start(MIDDLE.host(&mut lab)?, &["--dataplane", "off"], &lab.logs())?;
    let at = SocketAddr::new(MIDDLE.ipv4().into(), 179);
    let mut peer = high.run(move || TcpStream::connect_timeout(&at, SOON))?;
    peer.write_all(&[open(), message(4, &[])].concat())?;
    let says = |alarm: Option<&str>| {
        eventually(&format!("the status says {alarm:?}"), SOON, || {
            let text = node.host.sh("manxctl node status")?;
            let received = node.peer(HIGH.ipv4().into())?.prefixes_received;
            let found = alarm.is_none_or(|alarm| text.contains(alarm));
            ensure!(
                found && text.contains("the RIB is nearly full") == alarm.is_some(),
                "{received}: {text}"
            );
            Ok(received)
        })
    };
    peer.write_all(&(1..=8).map(|third| update(third, 0, &[])).collect::<Vec<_>>().concat())?;
    eventually("eight are there", SOON, || {
        ensure!(node.peer(HIGH.ipv4().into())?.prefixes_received == 8);
        Ok(())
    })?;
    ensure!(says(None)? == 8);
    let nearly = "9 paths of the 10 that it may hold; 192.168.80.90 holds 9 (manx.dev/maxPaths)";
    peer.write_all(&update(9, 0, &[]))?;
    says(Some(nearly))?;
    peer.write_all(&withdrawal(9))?;
    says(None)?;
    // The history hears of it when the RIB is looked at, every 64 KiB.
    peer.write_all(&update(9, 0, &[]).repeat(4000))?;
    says(Some(nearly))?;
    peer.write_all(&[update(10, 0, &[]), update(11, 0, &[]).repeat(4000)].concat())?;
    eventually("the session has ended", SOON, || {
        let peer = node.peer(HIGH.ipv4().into())?;
        ensure!(peer.state != SessionState::Established && peer.prefixes_received == 0, "{peer:?}");
        Ok(())
    })?;
    says(None)?;
    let history = node.host.sh("manxctl history")?;
    for line in [
        "Warning: holds 9 of 9 paths in a RIB that may hold 10",
        "Warning: holds 11 of 11 paths in a RIB that may hold 10, more than any other; closing its session",
        "NOTIFICATION sent: Cease / Out of Resources",
    ] {
        ensure!(history.contains(line), "{line}: {history}");
    }
    Ok(())
}
