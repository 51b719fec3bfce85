//! Roles between ASes (RFC 9234) with those who speak them: what goes to a customer is marked, what comes from a
//! provider is, and roles that do not fit end in a NOTIFICATION.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::SessionState;
use manx_tests::{
    lab::Lab,
    peers::{
        Bird, Frr, Peer, Side,
        capture::{Capture, OPEN},
        manx::{Manx, resources},
    },
    wait::eventually,
};

use crate::lab::{LOW, MIDDLE, Other, POOLS};

const UP: Duration = Duration::from_secs(20);
/// The capability of RFC 9234 §4.1.
const ROLE: u8 = 9;

/// Manx, and what it is to the other; strictly.
fn write_resources(lab: &Lab, role: &str) -> Result<()> {
    let peers: Vec<_> = LOW.peers(LOW.as_number()).collect();
    let document = resources(MIDDLE.as_number(), &POOLS, &[MIDDLE.node(None)], &peers);
    let annotations = format!("{{ manx.dev/localRole: {role}, manx.dev/strictRole: \"true\" }}");
    let annotated =
        document.replace("name: peer-0\n", &format!("name: peer-0\n  annotations: {annotations}\n"));
    ensure!(annotated != document, "no peer to annotate in {document}");
    let (new, file) = (lab.store().join("cluster.new"), lab.store().join("cluster.yaml"));
    fs::write(&new, annotated)?;
    Ok(fs::rename(new, file)?)
}

fn roles_with(program: Other) -> Result<()> {
    let mut lab = Lab::new()?;
    write_resources(&lab, "provider")?;
    let capture = Capture::start(&lab)?;
    let mut speaking = LOW.speaking(LOW.as_number(), &[(MIDDLE, MIDDLE.as_number())]);
    speaking.side = Side::Listens;
    speaking.role = Some("customer");
    let other = Peer::start(program, LOW.host(&mut lab)?, speaking, &lab.logs())?;
    let manx = Manx::start(MIDDLE.host(&mut lab)?, &["--dataplane", "off"], &lab.logs())?;
    let told = |e: anyhow::Error| e.context(format!("{}\n{}", manx.account(), other.account()));

    // IPv4 alone has the role; the IPv6 session is without one on Manx's side, which nobody minds.
    let address = LOW.ipv4().into();
    let block = &MIDDLE.blocks()[0];
    eventually("Manx's route arrives, marked by Manx", UP, || {
        other.learned(block)?;
        let marked = other.only_to_customers(block)?;
        ensure!(marked == Some(MIDDLE.as_number()), "{block}: {marked:?}");
        let route = manx.route(&LOW.blocks()[0])?;
        ensure!(route.bgp.is_some(), "what the customer announces is no leak: {route:?}");
        Ok(())
    })
    .map_err(told)?;

    write_resources(&lab, "peer")?;
    eventually("a peer is no provider", UP, || {
        let peer = manx.peer(address)?;
        ensure!(peer.state != SessionState::Established, "{} {}", peer.state, peer.info);
        let log = manx.log_text()?;
        log.lines().find(|line| line.contains("Role Mismatch")).map(drop).context("nobody has said why")
    })
    .map_err(told)?;

    let packets = capture.finish(&lab, &[])?;
    for from in [LOW.ipv4(), MIDDLE.ipv4()] {
        let mut opens = packets.iter().filter(|p| p.from == from && p.messages.contains(&OPEN));
        ensure!(opens.any(|open| open.capabilities.contains(&ROLE)), "{from} has not said its role");
    }
    Ok(())
}

#[test]
fn a_bird_customer_gets_marked_routes_and_a_wrong_role_no_session() -> Result<()> {
    roles_with(&Bird)
}

#[test]
fn an_frr_customer_gets_marked_routes_and_a_wrong_role_no_session() -> Result<()> {
    roles_with(&Frr)
}
