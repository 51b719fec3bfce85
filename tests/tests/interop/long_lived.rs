//! Long-lived graceful restart (RFC 9494) in both roles: the routes of whoever stays away longer than the restart time
//! go on as the last resort, with the community that says so, and end with the long-lived time.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use manx_tests::{
    lab::Lab,
    peers::{
        Bird, Frr, Peer, Side,
        capture::{Capture, OPEN},
        manx::{Manx, resources},
    },
    wait::{eventually, throughout},
};

use crate::lab::{AS, LOW, MIDDLE, Other, POOLS};

const UP: Duration = Duration::from_secs(20);
/// What both sides ask for.
const RESTART_TIME: u16 = 2;
const LONG_LIVED_TIME: u32 = 6;
/// Timers of whole seconds, and a busy machine.
const SLACK: Duration = Duration::from_secs(2);
/// The capability of RFC 9494 §3.
const LONG_LIVED: u8 = 71;
const LLGR_STALE: &str = "llgr-stale";

fn document() -> Result<String> {
    let peers: Vec<_> = LOW.peers(AS).collect();
    let text = resources(AS, &POOLS, &[MIDDLE.node(None)], &peers);
    let annotation = format!("annotations: {{ manx.dev/longLivedRestartTime: {LONG_LIVED_TIME}s }}");
    let text = text.replace("  name: default\n", &format!("  name: default\n  {annotation}\n"));
    let text = text.replace("spec: { peerIP", &format!("spec: {{ maxRestartTime: {RESTART_TIME}s, peerIP"));
    ensure!(text.contains(&annotation) && text.contains("maxRestartTime"), "{text}");
    Ok(text)
}

fn long_lived_with(program: Other) -> Result<()> {
    let restart_time = Duration::from_secs(RESTART_TIME.into());
    let both_times = restart_time + Duration::from_secs(LONG_LIVED_TIME.into());
    let mut lab = Lab::new()?;
    fs::write(lab.store().join("cluster.yaml"), document()?)?;
    let capture = Capture::start(&lab)?;
    let mut speaking = LOW.speaking(AS, &[(MIDDLE, AS)]);
    speaking.side = Side::Listens;
    speaking.long_lived = Some((RESTART_TIME, LONG_LIVED_TIME));
    // NO_LLGR, for one of the two.
    speaking.routes[1].marks.plain = ["65535:7".to_owned()].into();
    let mut other = Peer::start(program, LOW.host(&mut lab)?, speaking, &lab.logs())?;
    let mut manx = Manx::start(MIDDLE.host(&mut lab)?, &["--dataplane", "off"], &lab.logs())?;
    let account = |manx: &Manx, other: &Peer| format!("{}\n{}", manx.account(), other.account());
    let exchanged = |manx: &Manx, other: &Peer| {
        for block in LOW.blocks() {
            let best = manx.explain(&block)?.paths.into_iter().find(|path| path.best);
            ensure!(best.is_some_and(|path| !path.stale), "{block} has not come");
        }
        MIDDLE.blocks().iter().try_for_each(|block| other.learned(block).map(drop))
    };
    eventually("both have the other's routes", UP, || exchanged(&manx, &other))
        .map_err(|e| e.context(account(&manx, &other)))?;

    // The other stays away.
    let marks = |manx: &Manx, block: &str| -> Result<Option<bool>> {
        let explained = match manx.explain(block) {
            Err(error) if format!("{error:#}").contains("nobody has announced") => return Ok(None),
            explained => explained?,
        };
        let best = explained.paths.into_iter().find(|path| path.best);
        Ok(best.map(|path| path.communities.iter().any(|community| community == LLGR_STALE)))
    };
    let [with, without] = LOW.blocks();
    other.kill()?;
    let gone = Instant::now();
    throughout("plain within the restart time", restart_time / 2, || {
        ensure!(marks(&manx, &with)? == Some(false) && marks(&manx, &without)? == Some(false));
        Ok(())
    })?;
    eventually("marked after it", restart_time + SLACK, || {
        ensure!(marks(&manx, &with)? == Some(true), "{with} is not marked");
        ensure!(marks(&manx, &without)?.is_none(), "{without} says NO_LLGR");
        Ok(())
    })
    .map_err(|e| e.context(account(&manx, &other)))?;
    eventually("gone at the end", both_times + SLACK, || {
        ensure!(marks(&manx, &with)?.is_none(), "{with} is still there");
        Ok(())
    })?;
    ensure!(gone.elapsed() >= both_times - Duration::from_secs(1), "after {:?}", gone.elapsed());
    other.start_again()?;
    eventually("both are back", UP, || exchanged(&manx, &other))
        .map_err(|e| e.context(account(&manx, &other)))?;

    // Manx stays away.
    manx.kill()?;
    let gone = Instant::now();
    let block = &MIDDLE.blocks()[0];
    eventually("the other marks Manx's route after the restart time", restart_time + SLACK, || {
        let plain = other.learned(block)?.marks.plain;
        let names = ["65535:6", LLGR_STALE];
        ensure!(plain.iter().any(|mark| names.contains(&mark.as_str())), "{plain:?}");
        Ok(())
    })
    .map_err(|e| e.context(account(&manx, &other)))?;
    eventually("and lets it go at the end", both_times + SLACK, || {
        ensure!(other.learned(block).is_err(), "{block} is still there");
        Ok(())
    })?;
    ensure!(gone.elapsed() >= both_times - Duration::from_secs(1), "after {:?}", gone.elapsed());

    let packets = capture.finish(&lab, &[])?;
    for from in [LOW.ipv4(), MIDDLE.ipv4()] {
        let mut opens = packets.iter().filter(|p| p.from == from && p.messages.contains(&OPEN));
        ensure!(opens.any(|open| open.capabilities.contains(&LONG_LIVED)), "{from} does not offer it");
    }
    Ok(())
}

#[test]
fn a_bird_and_manx_keep_each_others_routes_for_the_long_lived_time() -> Result<()> {
    long_lived_with(&Bird)
}

#[test]
fn an_frr_and_manx_keep_each_others_routes_for_the_long_lived_time() -> Result<()> {
    long_lived_with(&Frr)
}
