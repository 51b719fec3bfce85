//! Programs that an earlier manxd left attached, where the next one does not use them: nothing is carried by maps that
//! nobody keeps.

use anyhow::{Context, Result, ensure};
use manx_tests::{
    cluster::{Cluster, Node},
    story::{self, SETTLED, Stage, counted, mesh, ping, settled},
    wait::eventually,
};

const LINKS: &str = "/sys/fs/bpf/manx/links";

/// The mesh after kw01's manxd was killed; its programs go on.
fn left() -> Result<Cluster> {
    let mut cluster = mesh()?;
    cluster.node_mut("kw01").kill()?;
    let kw01 = cluster.node("kw01");
    ensure!(kw01.host.paths_below(LINKS)?.len() > 2, "{:?}", kw01.host.paths_below(LINKS)?);
    Ok(cluster)
}

fn by_the_stack_to_kw02(cluster: &Cluster) -> Result<()> {
    let before = seen(cluster.node("kw01"), "redirected_neigh")?;
    to_kw02(cluster)?;
    let after = seen(cluster.node("kw01"), "redirected_neigh")?;
    ensure!(after == before, "a program carried {}", after - before);
    Ok(())
}

fn to_kw02(cluster: &Cluster) -> Result<()> {
    ping(&cluster.node("kw01").pods[0], cluster.node("kw02").pods[0].address())
}

/// Packets of one verdict at all interfaces, as the pinned map counts them.
fn seen(node: &Node, verdict: &str) -> Result<u64> {
    let pins = node.host.paths_below("/sys/fs/bpf/manx")?;
    let counters = pins.iter().find(|pin| pin.ends_with("COUNTERS")).context("COUNTERS is not pinned")?;
    let dump = node.host.sh(&format!("bpftool -j map dump pinned {}", counters.display()))?;
    let dump: serde_json::Value = serde_json::from_str(&dump)?;
    let elements = dump.as_array().into_iter().flatten();
    let values = elements.flat_map(|element| element["formatted"]["values"].as_array().into_iter().flatten());
    Ok(values.filter_map(|value| value["value"][verdict].as_u64()).sum())
}

/// No program is pinned or attached any more, and the status says what became of them.
fn are_gone(node: &Node, why: &str) -> Result<()> {
    let pins = node.host.paths_below(LINKS)?;
    ensure!(pins.is_empty(), "{pins:?}");
    let reason = node.dataplane()?.fast_path.reason;
    ensure!(reason.contains(why), "{reason}");
    ensure!(reason.contains("took off the programs of an earlier run (pod_tc on cali"), "{reason}");
    ensure!(reason.contains("uplink_tc on ens33"), "{reason}");
    let log = std::fs::read_to_string(node.log())?;
    ensure!(log.contains("took off the programs of an earlier run"), "{log}");
    Ok(())
}

#[test]
fn without_a_dataplane_no_program_of_an_earlier_run_carries_packets() -> Result<()> {
    let mut cluster = left()?;
    cluster.node_mut("kw01").flags = vec!["--dataplane", "off"];
    cluster.node_mut("kw01").start()?;
    are_gone(cluster.node("kw01"), "switched off by --dataplane off")?;
    by_the_stack_to_kw02(&cluster)
}

#[test]
fn where_the_programs_cannot_be_loaded_those_of_an_earlier_run_end_and_the_next_that_can_begins_anew()
-> Result<()> {
    let mut cluster = left()?;
    let pins = cluster.node("kw01").host.paths_below("/sys/fs/bpf/manx")?;
    let map = pins.iter().find(|pin| pin.ends_with("ROUTES4")).map(|pin| pin.display().to_string());
    let map = map.unwrap_or_default();
    // A directory in the place of a map can be neither read nor replaced.
    cluster.node("kw01").host.sh(&format!("rm {map}"))?;
    cluster.node("kw01").host.sh(&format!("mkdir {map}"))?;
    cluster.node_mut("kw01").start()?;
    are_gone(cluster.node("kw01"), "map ROUTES4: reading its layout failed")?;
    eventually("all routes are in the FIB", SETTLED, || {
        story::routes_are(cluster.node("kw01"), Stage::Mesh)
    })?;
    by_the_stack_to_kw02(&cluster)?;

    cluster.node_mut("kw01").terminate()?;
    cluster.node("kw01").host.sh(&format!("rmdir {map}"))?;
    cluster.node_mut("kw01").start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let redirected =
        || Ok::<u64, anyhow::Error>(counted(&cluster.node("kw01").counters()?, "pod_tc", "redirected_neigh"));
    let before = redirected()?;
    to_kw02(&cluster)?;
    ensure!(redirected()? > before, "the ping went by the kernel");
    Ok(())
}

#[test]
fn a_fast_path_that_is_off_at_the_start_is_off_before_there_is_a_plan() -> Result<()> {
    let mut cluster = left()?;
    // Without a Node resource there is no plan.
    cluster.node("kw01").host.sh("mkdir /run/nothing")?;
    cluster.node_mut("kw01").flags = vec!["--fast-path", "off", "--datastore", "dir:/run/nothing"];
    cluster.node_mut("kw01").start()?;
    let kw01 = cluster.node("kw01");
    let passed = seen(kw01, "fast_path_off")?;
    by_the_stack_to_kw02(&cluster)?;
    ensure!(seen(kw01, "fast_path_off")? > passed, "no program saw it");
    Ok(())
}

/// A wrong MANX_SOCKET is no reason to say that nobody keeps the programs.
#[test]
fn where_a_manxd_lives_that_was_asked_at_the_wrong_socket_nothing_is_called_left() -> Result<()> {
    let cluster = mesh()?;
    let asked = cluster.node("kw01").host.output("manxctl --socket /nowhere dataplane status")?;
    ensure!(!asked.status.success() && asked.stderr.contains("But a manxd runs (pid "), "{asked:?}");
    ensure!(!asked.stderr.contains("earlier run"), "{asked:?}");
    Ok(())
}
