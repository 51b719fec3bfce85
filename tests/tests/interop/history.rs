//! What an operator reads afterwards of sessions that ended with a BIRD: why, with both sides' NOTIFICATIONs by name, and
//! who had dialled.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::{Dialler, SessionState};
use manx_tests::{
    host::Host,
    lab::Lab,
    peers::manx::{BgpPeer, Manx, SessionChange},
    process::Daemon,
    wait::eventually,
};

use crate::{
    lab::{AS, LOW, MIDDLE},
    protected::{manx, write_resources},
};

const UP: Duration = Duration::from_secs(20);
/// The hold time, three times over.
const SILENT: Duration = Duration::from_secs(12);
const SOON: Duration = Duration::from_secs(10);

/// It does not dial and keeps nothing of a session that is over, so each event has one cause.
fn bird(host: &Host, lab: &Lab) -> Result<Daemon> {
    let config = format!(
        "log stderr all;\nrouter id {low};\nprotocol device {{ }}\nprotocol bgp to_middle {{ local {low} as {AS}; \
         neighbor {middle} as {AS}; direct; passive on; hold time 3; keepalive time 1; graceful restart off; \
         error wait time 1, 1; ipv4 {{ import all; export none; }}; }}\n",
        low = LOW.ipv4(),
        middle = MIDDLE.ipv4()
    );
    host.write_file("/etc/bird/bird.conf", &config)?;
    host.sh("mkdir -p /run/bird")?;
    let mut command = Command::new("bird");
    command.args(["-f", "-c", "/etc/bird/bird.conf"]);
    Daemon::start(host, "bird", command, &lab.logs().join("bird.log"))
}

/// The last event with this cause, and with this NOTIFICATION by number if there is one.
fn told(manx: &Manx, within: Duration, cause: &str, numbers: Option<(u8, u8)>) -> Result<SessionChange> {
    eventually(&format!("the history says {cause:?}"), within, || {
        let history = manx.history(LOW.ipv4().into())?;
        let event = history
            .iter()
            .rev()
            .find(|event| event.cause == cause)
            .with_context(|| format!("{cause:?} is not in {history:#?}"))?;
        let found = event.notification.as_ref().map(|said| (said.code, said.subcode));
        ensure!(found == numbers, "{event:?}");
        ensure!(event.dialled_by == Some(Dialler::Local), "{event:?}");
        Ok(event.clone())
    })
}

/// The same as the end of the session.
fn ended(manx: &Manx, within: Duration, cause: &str, numbers: Option<(u8, u8)>) -> Result<()> {
    let event = told(manx, within, cause, numbers)?;
    ensure!(event.from == SessionState::Established, "{event:?}");
    Ok(())
}

fn stands(manx: &Manx) -> Result<()> {
    eventually("the session stands", UP, || {
        let peer = manx.peer(LOW.ipv4().into())?;
        ensure!(peer.state == SessionState::Established, "{} {}", peer.state, peer.info);
        Ok(())
    })
}

fn peer(as_number: u32) -> BgpPeer {
    BgpPeer { address: LOW.ipv4().into(), as_number, more: "" }
}

#[test]
fn the_history_says_why_each_session_with_a_bird_ended_and_what_both_said() -> Result<()> {
    let mut lab = Lab::new()?;
    write_resources(&lab, &[peer(AS)], "")?;
    let host = LOW.host(&mut lab)?;
    let daemon = bird(&host, &lab)?;
    let manx = manx(&mut lab)?;
    stands(&manx)?;

    // Nothing passes any more, and nobody says so.
    host.sh("nft add table inet cut")?;
    host.sh("nft add chain inet cut in { type filter hook input priority 0 ; }")?;
    host.sh("nft add chain inet cut out { type filter hook output priority 0 ; }")?;
    host.sh("nft add rule inet cut in tcp dport 179 drop")?;
    host.sh("nft add rule inet cut out tcp sport 179 drop")?;
    ended(&manx, SILENT, "NOTIFICATION sent: Hold Timer Expired", Some((4, 0)))?;
    told(&manx, SOON, "dial failed: no answer", None)?;
    host.sh("nft delete table inet cut")?;
    stands(&manx)?;

    host.sh("birdc restart to_middle")?;
    ended(&manx, SOON, "NOTIFICATION received: Cease / Administrative Reset", Some((6, 4)))?;
    stands(&manx)?;

    write_resources(&lab, &[], "")?;
    let removed = "no longer in the plan; NOTIFICATION sent: Cease / Peer De-configured";
    ended(&manx, SOON, removed, Some((6, 3)))?;
    let bird_says = host.sh("birdc show protocols all to_middle")?;
    ensure!(bird_says.contains("Received: Peer de-configured"), "{bird_says}");
    write_resources(&lab, &[peer(AS)], "")?;
    stands(&manx)?;

    let other = AS + 1;
    write_resources(&lab, &[peer(other)], "")?;
    let changed = "its configuration changed; NOTIFICATION sent: Cease / Other Configuration Change";
    ended(&manx, SOON, changed, Some((6, 6)))?;
    let wrong = format!(
        "NOTIFICATION sent: OPEN Message Error / Bad Peer AS (the peer says AS {AS}, configured is {other})"
    );
    told(&manx, SOON, &wrong, Some((2, 2)))?;
    let status = manx.peer(LOW.ipv4().into())?;
    ensure!(status.last_notification_sent.is_some_and(|said| (said.code, said.subcode) == (2, 2)));
    write_resources(&lab, &[peer(AS)], "")?;
    stands(&manx)?;

    // It says goodbye, and then nobody listens.
    host.sh("birdc down")?;
    ended(&manx, SOON, "NOTIFICATION received: Cease / Administrative Shutdown", Some((6, 2)))?;
    drop(daemon);
    told(&manx, SOON, "dial failed: Connection refused", None)?;
    // Nobody listened before the first session either.
    let status = eventually("the status says so, too", SOON, || {
        let status = manx.host.sh("manxctl node status")?;
        ensure!(status.contains("Connection refused"), "{status}");
        Ok(status)
    })?;
    println!("{}", manx.host.sh("manxctl history")?);
    println!("{status}");
    Ok(())
}
