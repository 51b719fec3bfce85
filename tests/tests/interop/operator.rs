//! What an operator asks of Manx and orders, with speakers by others at the other end: a refresh in Manx's own words, a
//! session that is ended with a text and opened again, and what is told of both afterwards.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::SessionState;
use manx_tests::{
    peers::{
        Bird, ExaBgp, Frr, GoBgp, Marks,
        capture::{NOTIFICATION, Packet, ROUTE_REFRESH},
    },
    wait::eventually,
};

use crate::{
    lab::{HIGH, LOW, MIDDLE, Other},
    sessions::{ENHANCED_REFRESH, HEARD, Relation, Trio, UP},
};

/// The quotation mark and the ampersand are what a command line or a query could lose.
const FAREWELL: &str = "new cables & \"coffee\" until 14:00";
const SHUTDOWN: u8 = 2;

/// The routes of both carry what they were sent with, as `manxctl explain -o json` tells it.
fn marks_are_explained(trio: &Trio) -> Result<()> {
    for place in [LOW, HIGH] {
        for prefix in place.blocks() {
            let explanation = trio.manx.explain(&prefix)?;
            let path = explanation.paths.first().with_context(|| format!("{prefix} has no path"))?;
            let set = |texts: &[String]| texts.iter().cloned().collect::<BTreeSet<_>>();
            let found = Marks {
                plain: set(&path.communities),
                extended: set(&path.extended_communities),
                large: set(&path.large_communities),
            };
            ensure!(found == place.marks(), "{prefix}: {found:?}, not {:?}", place.marks());
        }
    }
    Ok(())
}

fn refresh(trio: &Trio) -> Result<()> {
    for address in [LOW, HIGH].into_iter().flat_map(|place| place.addresses()) {
        trio.manx.order(&format!("refresh {address}"))?;
    }
    thread::sleep(Duration::from_secs(1));
    trio.sessions_stand().context("after the refresh")?;
    trio.routes_have_passed().context("after the refresh")
}

/// The last change of the session with the dialling side, whoever wanted it, says this.
fn history_tells(trio: &Trio, way: &str, text: &str) -> Result<()> {
    for address in HIGH.addresses() {
        let history = trio.manx.history(address)?;
        let last = history
            .iter()
            .rev()
            .find(|event| event.from == SessionState::Established)
            .with_context(|| format!("{address} never left Established: {history:?}"))?;
        let said = last.notification.as_ref().with_context(|| format!("no NOTIFICATION in {last:?}"))?;
        ensure!((said.code, said.subcode) == (6, SHUTDOWN), "{last:?}");
        ensure!(said.text.as_deref() == Some(text), "{last:?}");
        let sentence = format!("NOTIFICATION {way}: Cease / Administrative Shutdown ({text})");
        ensure!(last.cause == sentence, "{:?}, not {sentence:?}", last.cause);
        let peer = trio.manx.peer(address)?;
        let status =
            if way == "sent" { peer.last_notification_sent } else { peer.last_notification_received };
        ensure!(status.is_some_and(|n| n.text.as_deref() == Some(text)), "{address}: not in the status");
    }
    Ok(())
}

fn disable_and_enable(trio: &Trio) -> Result<()> {
    for address in HIGH.addresses() {
        trio.manx.order(&format!("disable {address} --text '{FAREWELL}'"))?;
    }
    history_tells(trio, "sent", FAREWELL)?;
    // It dials every few seconds, and is refused.
    thread::sleep(Duration::from_secs(3));
    for address in HIGH.addresses() {
        let peer = trio.manx.peer(address)?;
        ensure!(peer.state == SessionState::Idle && peer.info == "disabled", "{peer:?}");
        ensure!(peer.prefixes_received == 0, "{peer:?}");
        trio.manx.order(&format!("enable {address}"))?;
    }
    // FRR and GoBGP wait long after a shutdown by the other side.
    eventually("the sessions are back", Duration::from_secs(60), || {
        for address in HIGH.addresses() {
            let peer = trio.manx.peer(address)?;
            ensure!(peer.state == SessionState::Established, "{address} is {} {}", peer.state, peer.info);
        }
        Ok(())
    })?;
    eventually("the routes are back", HEARD, || trio.routes_have_passed())
}

fn judge(packets: &[Packet], refreshed: bool, family: usize) -> Result<()> {
    let [low, middle, high] = [LOW, MIDDLE, HIGH].map(|place| place.addresses()[family]);
    for (place, other) in [(LOW, low), (HIGH, high)].into_iter().filter(|_| refreshed) {
        let between: Vec<&Packet> = packets
            .iter()
            .filter(|p| [p.from, p.to] == [other, middle] || [p.from, p.to] == [middle, other])
            .collect();
        let asked = between
            .iter()
            .position(|p| p.from == middle && p.messages.contains(&ROUTE_REFRESH) && p.refresh.contains(&0))
            .with_context(|| format!("Manx sent {other} no ROUTE-REFRESH"))?;
        let prefix = place.networks()[family];
        let answered = between[asked..].iter().any(|p| p.from == other && p.announced.contains(&prefix));
        ensure!(answered, "{prefix} is not in the answer of {other}");
        let enhanced = between.iter().any(|p| p.from == other && p.capabilities.contains(&ENHANCED_REFRESH));
        let marks: Vec<u8> =
            between[asked..].iter().filter(|p| p.from == other).flat_map(|p| p.refresh.clone()).collect();
        ensure!(!enhanced || marks == [1, 2], "{other} put the marks {marks:?} around its answer");
    }
    let farewell = packets
        .iter()
        .find(|p| p.from == middle && p.to == high && p.messages.contains(&NOTIFICATION))
        .with_context(|| format!("no NOTIFICATION to {high}"))?;
    ensure!(farewell.cease == Some(SHUTDOWN) && farewell.text.as_deref() == Some(FAREWELL), "{farewell:?}");
    Ok(())
}

/// Behaviours 55 and 60, between speakers who know nothing of each other's inside.
fn an_operator_at_work_beside(program: Other) -> Result<()> {
    let (trio, capture) = Trio::start(program, Relation::Clients)?;
    let told = |e: anyhow::Error| e.context(trio.account());
    eventually("all sessions stand", UP, || trio.sessions_stand()).map_err(told)?;
    eventually("all routes have passed", HEARD, || trio.routes_have_passed()).map_err(told)?;
    marks_are_explained(&trio).map_err(told)?;
    if program.answers_refresh() {
        refresh(&trio).map_err(told)?;
    }
    disable_and_enable(&trio).map_err(told)?;
    if program.has_shutdown_text() {
        const TEXT: &str = "moving house";
        for address in MIDDLE.addresses() {
            trio.high.shut_down(address, TEXT).map_err(told)?;
        }
        eventually("the history tells of it", HEARD, || history_tells(&trio, "received", TEXT))
            .map_err(told)?;
    }
    let packets = capture.finish(&trio.lab, &[])?;
    [0, 1].into_iter().try_for_each(|family| judge(&packets, program.answers_refresh(), family))
}

#[test]
fn an_operator_asks_birds_again_and_sends_one_away_with_a_text() -> Result<()> {
    an_operator_at_work_beside(&Bird)
}

#[test]
fn an_operator_asks_frrs_again_and_sends_one_away_with_a_text() -> Result<()> {
    an_operator_at_work_beside(&Frr)
}

#[test]
fn an_operator_asks_gobgps_again_and_sends_one_away_with_a_text() -> Result<()> {
    an_operator_at_work_beside(&GoBgp)
}

#[test]
fn an_operator_asks_exabgps_again_and_sends_one_away_with_a_text() -> Result<()> {
    an_operator_at_work_beside(&ExaBgp)
}
