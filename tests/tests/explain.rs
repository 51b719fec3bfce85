//! What the operator asks: why a route is as it is, and what became of the sessions.

use anyhow::{Context, Result, bail, ensure};
use manx_api::{Explanation, Happened, History, HistoryEvent, SessionState};
use manx_tests::{
    cluster::{Node, SEED},
    peers::manx::session_changes,
    programs,
    story::{DOCUMENTS, SETTLED, Stage, mesh, settled},
    wait::eventually,
};

fn explain(node: &Node, prefix: &str) -> Result<Explanation> {
    Ok(serde_json::from_str(&node.host.sh(&format!("manxctl explain {prefix} -o json"))?)?)
}

#[test]
fn a_reflected_route_is_explained_on_all_three_nodes_and_each_session_has_its_history() -> Result<()> {
    let cluster = mesh()?;
    DOCUMENTS.iter().try_for_each(|document| cluster.apply(document).map(drop))?;
    settled(&cluster, Stage::Reflector, SETTLED)?;
    let (km01, kw01, kw02) = (cluster.node("km01"), cluster.node("kw01"), cluster.node("kw02"));

    let own = explain(kw02, "172.16.118.64/26")?;
    ensure!(own.paths.len() == 1 && own.paths[0].from.is_none() && own.paths[0].best, "{own:?}");
    ensure!(own.sent.iter().all(|sent| sent.sent), "{own:?}");

    let reflector = explain(km01, "172.16.118.64/26")?;
    let to = |last: u8| {
        reflector.sent.iter().find(|sent| sent.peer == std::net::IpAddr::from([192, 168, 80, last]))
    };
    ensure!(to(124).is_some_and(|sent| sent.sent), "{reflector:?}");
    ensure!(to(125).is_some_and(|sent| !sent.sent && sent.why == "it came from there"), "{reflector:?}");

    let learned = explain(kw01, "172.16.118.70")?;
    ensure!(learned.prefix.to_string() == "172.16.118.64/26", "{learned:?}");
    let path = &learned.paths[0];
    ensure!(path.best && path.originator_id == "192.168.80.125".parse().ok(), "{path:?}");
    ensure!(path.cluster_list == ["224.0.0.1".parse::<std::net::Ipv4Addr>()?], "{path:?}");
    ensure!(learned.route.is_some_and(|route| route.agree && route.fib.is_some() && route.map.is_some()));

    let nothing = kw01.host.output("manxctl explain 8.8.8.8")?;
    ensure!(!nothing.status.success() && nothing.stderr.contains("covers 8.8.8.8"), "{nothing:?}");

    let history: History = serde_json::from_str(&kw01.host.sh("manxctl history 192.168.80.121 -o json")?)?;
    let changes = session_changes(&history);
    let up = changes.iter().filter(|change| change.to == SessionState::Established).count();
    ensure!(up == 2, "once in the mesh and once with the reflector: {changes:?}");
    let down = changes.iter().find(|change| change.from == SessionState::Established);
    ensure!(down.is_some_and(|change| !change.cause.is_empty()), "{changes:?}");
    Ok(())
}

#[test]
fn a_route_that_lacks_only_a_way_to_its_next_hop_is_shown_with_the_reason() -> Result<()> {
    let cluster = mesh()?;
    DOCUMENTS.iter().try_for_each(|document| cluster.apply(document).map(drop))?;
    settled(&cluster, Stage::Reflector, SETTLED)?;
    let kw01 = cluster.node("kw01");
    // The session is the reflector's, and goes on.
    kw01.host.sh("ip route add unreachable 192.168.80.125")?;
    let why =
        "next hop 192.168.80.125 cannot be reached: its route is a blackhole, unreachable or prohibit route";
    eventually("the row stays, with the reason", SETTLED, || {
        let said = kw01.host.sh("manxctl routes")?;
        let row =
            said.lines().find(|line| line.starts_with("172.16.118.64/26")).with_context(|| said.clone())?;
        ensure!(row.contains(&format!("announced, and not used: {why}")), "{row}");
        Ok(())
    })?;
    let path = &explain(kw01, "172.16.118.64/26")?.paths[0];
    ensure!(!path.used && path.standing.ends_with("unreachable or prohibit route"), "{path:?}");
    kw01.host.sh("manxctl dataplane audit")?;
    kw01.host.sh("ip route del unreachable 192.168.80.125")?;
    settled(&cluster, Stage::Reflector, SETTLED)
}

#[test]
fn what_files_would_change_is_told_beside_what_runs() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = &cluster.node("kw01").host;
    let same = kw01.sh("manxctl plan --diff")?;
    ensure!(same == "Node k8s-worker-01 runs what these resources say.\n", "{same}");
    let seed = programs::workspace().join(SEED);
    let seed = seed.display();
    let files = format!("-f {seed}/2.1-bgpconfiguration.yaml");
    let off = kw01.output(&format!("manxctl plan --diff {files}"))?;
    ensure!(off.status.code() == Some(3) && off.stderr.is_empty(), "{off:?}");
    for line in [
        "Node k8s-worker-01 would change:",
        "~ asNumber 64512 -> 61234",
        "- peer 192.168.80.121 AS 64512 by BGPConfiguration/default",
        "- peer 192.168.80.125 AS 64512 by BGPConfiguration/default",
        "Sessions: 0 kept, 0 made anew, 0 added, 2 closed",
        "Warning: without a path would be 172.16.118.64/26, of k8s-worker-02",
    ] {
        ensure!(off.stdout.lines().any(|said| said == line), "{line:?}: {}", off.stdout);
    }
    let all = kw01
        .output(&format!("manxctl plan --diff {files} -f {seed}/2.2-node.yaml -f {seed}/2.3-bgppeer.yaml"))?;
    for line in [
        "Sessions: 0 kept, 1 made anew, 0 added, 1 closed",
        "No block that this node has a path to would be without one.",
    ] {
        ensure!(all.stdout.lines().any(|said| said == line), "{line:?}: {}", all.stdout);
    }
    let elsewhere = kw01.output("manxctl plan --diff --node k8s-worker-02")?;
    ensure!(
        elsewhere.status.code() == Some(1) && elsewhere.stderr.contains("is Node/k8s-worker-01's"),
        "{elsewhere:?}"
    );
    Ok(())
}

#[test]
fn the_log_says_more_from_the_moment_that_it_is_asked_to() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = &cluster.node("kw01").host;
    ensure!(kw01.sh("manxctl log-level")? == "info\n");
    let said = kw01.sh("manxctl log-level info,manxd=debug")?;
    ensure!(said == "The log level is info,manxd=debug until manxd ends; it was info.\n", "{said}");
    ensure!(kw01.sh("manxctl log-level")? == "info,manxd=debug\n");
    let wrong = kw01.output("manxctl log-level loud")?;
    ensure!(wrong.status.code() == Some(1) && wrong.stderr.contains("\"loud\" is no level"), "{wrong:?}");
    ensure!(kw01.sh("manxctl log-level")? == "info,manxd=debug\n", "what was wrong changed nothing");
    Ok(())
}

/// The events of the history of one thing, each with its cause by number.
fn history(node: &Node, of: &str) -> Result<Vec<HistoryEvent>> {
    let text = node.host.sh(&format!("manxctl history {of} -o json"))?;
    Ok(serde_json::from_str::<History>(&text)?.events)
}

#[test]
fn the_history_says_what_led_to_what_and_outlives_a_restart() -> Result<()> {
    const BLOCK: &str = "172.16.118.64/26";
    let mut cluster = mesh()?;
    cluster.keep_nothing()?;
    let kw01 = cluster.node("kw01");
    // The session goes with the Node resource's peering, and with it the path and the route.
    cluster.apply(DOCUMENTS[0])?;
    settled(&cluster, Stage::Off, SETTLED)?;
    let lost = eventually("the end of the path is told with its cause", SETTLED, || {
        let events = history(kw01, &format!("--prefix {BLOCK}"))?;
        let of = |number: Option<u64>| events.iter().find(|event| Some(event.number) == number);
        let route = events
            .iter()
            .rfind(|event| matches!(event.what, Happened::Route { wanted: None, .. }))
            .with_context(|| format!("the route has not gone: {events:#?}"))?;
        let path = of(route.caused_by).context("nothing led to it")?;
        ensure!(matches!(&path.what, Happened::Path { path: None, .. }), "{path:?}");
        let session = of(path.caused_by).with_context(|| format!("nothing led to {path:?}: {events:#?}"))?;
        let Happened::Session { peer, from, ref cause, .. } = session.what else {
            bail!("{session:?}");
        };
        ensure!(peer.to_string() == "192.168.80.125" && from == SessionState::Established, "{session:?}");
        ensure!(cause.starts_with("no longer in the plan"), "{cause}");
        let change = of(session.caused_by).with_context(|| format!("nothing led to {session:?}"))?;
        let Happened::Resources { text } = &change.what else { bail!("{change:?}") };
        ensure!(text.contains("BGPConfiguration/default"), "{text}");
        Ok(route.number)
    })?;
    // What others do to a route is told with who it was.
    let own = kw01.role.block.context("a worker")?.0;
    kw01.host.sh(&format!("ip route del blackhole {own} proto manx"))?;
    eventually("the repair is in the history", SETTLED, || {
        let text = kw01.host.sh(&format!("manxctl history --prefix {own}"))?;
        ensure!(text.contains("route deleted, and put right ") && text.contains("  by "), "{text}");
        Ok(())
    })?;
    let kw01 = cluster.node_mut("kw01");
    kw01.kill()?;
    kw01.start()?;
    let events = history(kw01, "")?;
    ensure!(events.iter().any(|event| event.number == lost), "forgotten: {events:#?}");
    let starts = events.iter().filter(|event| matches!(event.what, Happened::Daemon { .. }));
    ensure!(starts.count() == 2, "{events:#?}");
    ensure!(events.windows(2).all(|two| two[0].number < two[1].number));
    let shown = kw01.host.sh(&format!("manxctl history --prefix {BLOCK}"))?;
    println!("{shown}");
    let since = kw01.host.sh("manxctl history --since 0s")?;
    ensure!(since == "Nothing of that is remembered.\n", "{since}");
    Ok(())
}
