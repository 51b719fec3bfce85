//! What others do to a running manxd's belongings, and what it does then.

use std::time::Duration;

use anyhow::{Result, ensure};
use manx_tests::{
    cluster::{Cluster, Node},
    story::{self, SETTLED, Stage, counted, mesh, ping, settled},
    wait::eventually,
};

/// Longer than the daemon takes to look after its pins and its port.
const LOOKED: Duration = Duration::from_secs(15);

fn log(node: &Node) -> Result<String> {
    Ok(std::fs::read_to_string(node.log())?)
}

#[test]
fn programs_and_maps_that_somebody_unpins_are_put_back_and_said() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let (from, to) = (&kw01.pods[0], kw02.pods[0].address());
    let pins = kw01.host.paths_below("/sys/fs/bpf/manx")?;
    ensure!(pins.len() > 7, "{pins:?}");
    kw01.host.output("rm -rf /sys/fs/bpf/manx")?;
    eventually("all pins are there again", LOOKED, || {
        let now = kw01.host.paths_below("/sys/fs/bpf/manx")?;
        ensure!(now == pins, "{now:?}");
        Ok(())
    })?;
    let redirected = || Ok::<u64, anyhow::Error>(counted(&kw01.counters()?, "pod_tc", "redirected_neigh"));
    let before = redirected()?;
    ping(from, to)?;
    ensure!(redirected()? > before, "the ping went by the kernel");
    ensure!(log(kw01)?.contains("somebody removed what was pinned; put back: "), "{}", log(kw01)?);
    // What the uplink lost with its programs it must also get again when the link itself goes and comes.
    kw01.host.output("ip link set ens33 down")?;
    kw01.host.output("ip link set ens33 up")?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let uplink = kw01.dataplane()?.interfaces.into_iter().find(|i| i.name == "ens33");
    ensure!(uplink.is_some_and(|i| i.programs.len() == 2), "{:?}", kw01.dataplane()?.interfaces);
    Ok(())
}

#[test]
fn a_second_daemon_and_a_cleanup_are_refused_while_one_runs_even_without_its_socket() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    let second = kw01.host.output("manxd --node-name k8s-worker-01 --api-socket /tmp/second.sock")?;
    ensure!(
        !second.status.success() && second.stderr.contains("another manxd with protocol 77"),
        "{second:?}"
    );
    kw01.host.output("rm /run/manx/manx.sock")?;
    let cleanup = kw01.host.output("manxd cleanup")?;
    ensure!(
        !cleanup.status.success() && cleanup.stderr.contains("is running here; stop it first"),
        "{cleanup:?}"
    );
    eventually("the local API is served again", LOOKED, || kw01.status().map(drop))?;
    story::sessions_are(kw01, Stage::Mesh)
}

#[test]
fn a_port_that_is_taken_is_said_once_stands_in_the_status_and_is_used_when_free() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    // In km01's namespace, without BGP: a listener is enough to keep the port.
    let listener = cluster.node("km01").host.run(|| std::net::TcpListener::bind("0.0.0.0:179"))?;
    cluster.start()?;
    let km01 = cluster.node("km01");
    eventually("the status says so", LOOKED, || {
        let warnings = km01.status()?.warnings;
        ensure!(warnings.iter().any(|w| w.contains("not listening for BGP on port 179")), "{warnings:?}");
        Ok(())
    })?;
    drop(listener);
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let log = log(km01)?;
    ensure!(log.matches("not listening for BGP on port 179: Address already in use").count() == 1, "{log}");
    eventually("it is said that the port is ours now", LOOKED, || {
        ensure!(crate::log(km01)?.contains("listening for BGP on port 179 now"));
        Ok(())
    })
}

#[test]
fn the_log_is_json_where_json_is_asked_for() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    for node in &mut cluster.nodes {
        node.host.set_env("MANX_LOG_FORMAT", "json");
    }
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    for line in log(cluster.node("kw01"))?.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        ensure!(line["message"].is_string() && line["level"].is_string(), "{line}");
    }
    Ok(())
}
