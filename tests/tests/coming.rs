//! Coming from Calico, and going back: the routes of BIRD are taken over and handed back under traffic, and no packet is
//! lost.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    cluster::Cluster,
    kernel::{Family, routes},
    story::{SETTLED, Stage, routes_are, settled},
    traffic::{End, Flow, Report},
    wait::eventually,
};

/// 200 datagrams a second.
const PACE: Duration = Duration::from_millis(5);

fn flows(cluster: &Cluster) -> Result<Vec<Flow>> {
    let (a, b) = (&cluster.node("kw01").pods[0], &cluster.node("kw02").pods[0]);
    let (a, b) = (End { ns: a, address: a.address() }, End { ns: b, address: b.address() });
    Ok(vec![Flow::start(a, b, PACE)?, Flow::start(b, a, PACE)?])
}

fn none_lost(flows: Vec<Flow>) -> Result<()> {
    for report in Flow::stop_all(flows)? {
        let report: Report = report;
        ensure!(report.lost.is_empty() && report.sent > 200, "{report}");
    }
    Ok(())
}

/// The prefixes of a protocol's routes.
fn of_protocol(cluster: &Cluster, host: &str, protocol: &str) -> Result<Vec<String>> {
    let all = routes(&cluster.node(host).host, Family::V4)?;
    let own = all.into_iter().filter(|route| route.protocol.as_deref() == Some(protocol));
    Ok(own.map(|route| route.dst).collect())
}

#[test]
fn birds_routes_are_taken_over_and_handed_back_under_traffic_and_none_is_lost() -> Result<()> {
    let mut cluster = Cluster::new(&["kw01"])?;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let flows_there = flows(&cluster)?;
    thread::sleep(Duration::from_millis(500));
    cluster.node_mut("kw01").kill()?;
    // One that lies in no pool is not ours to have; one that nobody announces any more is swept when all have been heard.
    cluster.node("kw01").host.sh("ip route add 198.51.100.0/24 via 192.168.80.2 proto bird")?;
    cluster.node("kw01").host.sh("ip route add 172.16.200.0/26 via 192.168.80.125 proto bird")?;
    ensure!(of_protocol(&cluster, "kw01", "bird")?.contains(&"172.16.118.64/26".to_owned()));
    cluster.node_mut("kw01").set_bird(false);
    cluster.node_mut("kw01").flags = vec!["--adopt-protocol", "bird", "--audit-interval", "1"];
    cluster.node_mut("kw01").start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let kw01 = cluster.node("kw01");
    eventually("what nobody claims is swept", SETTLED, || {
        let left = of_protocol(&cluster, "kw01", "manx")?;
        ensure!(!left.contains(&"172.16.200.0/26".to_owned()), "{left:?}");
        Ok(())
    })?;
    ensure!(of_protocol(&cluster, "kw01", "bird")? == ["198.51.100.0/24"]);
    thread::sleep(Duration::from_millis(500));
    none_lost(flows_there)?;
    let log = fs::read_to_string(kw01.log())?;
    ensure!(log.contains("took over 3 routes of protocol 12 (bird)"), "{log}");
    ensure!(log.contains("are left as they are: 198.51.100.0/24;"), "{log}");
    // Who writes on is named.
    kw01.host.sh("ip route add 172.16.201.0/26 via 192.168.80.125 proto bird")?;
    eventually("it is said", Duration::from_secs(5), || {
        let warnings = kw01.status()?.warnings;
        let said = warnings
            .iter()
            .find(|warning| warning.contains("somebody still writes routes of protocol 12 (bird)"));
        ensure!(said.is_some_and(|said| said.contains("172.16.201.0/26; stop that daemon")), "{warnings:?}");
        Ok(())
    })?;
    kw01.host.sh("ip route del 172.16.201.0/26 proto bird")?;

    // And back, but for what an operator has ordered.
    kw01.host.sh("manxctl blackhole add 172.16.202.0/26")?;
    let flows_back = flows(&cluster)?;
    thread::sleep(Duration::from_millis(500));
    cluster.node_mut("kw01").terminate()?;
    let said = cluster.node("kw01").host.sh("manxd cleanup --hand-back")?;
    ensure!(said.contains("handed 2 routes of protocol 77 on, as of protocol 12 (bird)"), "{said}");
    ensure!(said.contains("removed 1 routes that were operators' blackholes"), "{said}");
    ensure!(of_protocol(&cluster, "kw01", "manx")?.is_empty());
    cluster.node_mut("kw01").set_bird(true);
    cluster.node_mut("kw01").start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    thread::sleep(Duration::from_secs(1));
    none_lost(flows_back)
}

#[test]
fn without_the_flag_birds_routes_stand_in_the_way_and_that_is_said() -> Result<()> {
    let mut cluster = Cluster::new(&["kw01"])?;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    cluster.node_mut("kw01").kill()?;
    cluster.node_mut("kw01").set_bird(false);
    cluster.node_mut("kw01").start()?;
    eventually("the holder is named with what to do", SETTLED, || {
        let said = cluster.node("kw01").host.sh("manxctl routes")?;
        let row = said.lines().find(|line| line.starts_with("172.16.118.64/26")).context(said.clone())?;
        ensure!(row.contains("protocol 12 (bird)") && row.contains("--adopt-protocol"), "{row}");
        Ok(())
    })?;
    ensure!(routes_are(cluster.node("kw01"), Stage::Mesh).is_err());
    Ok(())
}
