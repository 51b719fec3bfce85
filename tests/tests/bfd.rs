//! A dead node is left within a second, and an agent that restarts is not taken for one (RFC 5880, RFC 5882).

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use manx_api::SessionState;
use manx_tests::{
    cluster::{Cluster, Node},
    story::{SETTLED, Stage, mesh, settled},
    traffic::{End, Flow},
    wait::eventually,
};
use nix::sys::signal::Signal;

const MESH: &str = "\
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default, annotations: {manx.dev/nodeMeshBfd: 'true'}}
spec: {asNumber: 64512}
";
const BLOCK: &str = "172.16.118.64/26";
const PACE: Duration = Duration::from_millis(10);
/// 300 ms x 3, and what a machine with other tests on it takes for the rest.
const DETECTED: Duration = Duration::from_secs(2);

/// The mesh, watched, with all paths up.
fn watched() -> Result<Cluster> {
    let cluster = mesh()?;
    cluster.node("km01").host.write_file("/tmp/bfd.yaml", MESH)?;
    cluster.node("km01").host.sh("manxctl apply -f /tmp/bfd.yaml")?;
    eventually("BFD is up everywhere", SETTLED, || cluster.nodes.iter().try_for_each(all_up))?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    Ok(cluster)
}

fn all_up(node: &Node) -> Result<()> {
    for peer in node.status()?.peers {
        let bfd = peer.bfd.with_context(|| format!("{} is not watched", peer.address))?;
        ensure!(bfd.state.as_deref() == Some("Up") && bfd.error.is_none(), "{}: {bfd:?}", peer.address);
        // The interval is agreed on after the session is up.
        ensure!(bfd.detection_time == Some(900), "{}: {bfd:?}", peer.address);
        ensure!(bfd.remote.is_some_and(|remote| remote.control_plane_independent));
    }
    Ok(())
}

fn failures(node: &Node) -> Result<u64> {
    Ok(node.status()?.peers.into_iter().filter_map(|peer| peer.bfd).map(|bfd| bfd.failures).sum())
}

/// From a pod of kw01 to one of kw02.
fn traffic(cluster: &Cluster) -> Result<Flow> {
    let [from, to] = ["kw01", "kw02"].map(|host| cluster.node(host).pods.first().context("no pod"));
    let (from, to) = (from?, to?);
    Flow::start(End { ns: from, address: from.address() }, End { ns: to, address: to.address() }, PACE)
}

fn cut(node: &Node) -> Result<()> {
    for line in [
        "nft add table inet dead",
        "nft add chain inet dead in { type filter hook input priority -300 ; policy drop ; }",
        "nft add chain inet dead out { type filter hook output priority -300 ; policy drop ; }",
    ] {
        node.host.sh(line)?;
    }
    Ok(())
}

#[test]
fn a_dead_node_is_left_within_a_second_and_found_again() -> Result<()> {
    let cluster = watched()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let begun = Instant::now();
    cut(kw02)?;
    let has_route =
        |node: &Node| Ok::<_, anyhow::Error>(node.host.sh("ip route show proto manx")?.contains(BLOCK));
    for host in ["kw01", "km01"] {
        eventually("the dead node's block has no route", SETTLED, || {
            ensure!(!has_route(cluster.node(host))?, "{host} still has it");
            Ok(())
        })?;
        println!("{host} has left it {} ms after its last word at most", begun.elapsed().as_millis());
    }
    ensure!(begun.elapsed() < DETECTED, "it took {:?}", begun.elapsed());
    let said = kw01.host.sh("manxctl node status")?;
    ensure!(
        said.contains("BFD with 192.168.80.125 is Down") && said.contains("Detection Time Expired"),
        "{said}"
    );
    let history = kw01.host.sh("manxctl history --peer 192.168.80.125")?;
    ensure!(history.contains("BFD: Up -> Down") && history.contains("Cease / BFD Down"), "{history}");
    let history = kw01.host.sh(&format!("manxctl history --prefix {BLOCK}"))?;
    ensure!(history.contains("dead, says BFD"), "{history}");
    // The others are as they were.
    for (node, peer) in [("kw01", "192.168.80.121"), ("km01", "192.168.80.124")] {
        let peers = cluster.node(node).status()?.peers;
        let session = peers.iter().find(|one| one.address.to_string() == peer).context("no such peer")?;
        ensure!(session.state == SessionState::Established && session.times_established == 1, "{session:?}");
    }
    kw02.host.sh("nft delete table inet dead")?;
    eventually("BFD is up everywhere", SETTLED, || cluster.nodes.iter().try_for_each(all_up))?;
    settled(&cluster, Stage::Mesh, SETTLED)
}

/// What BFD cannot see: UDP alone is lost.
#[test]
fn a_node_that_bgp_still_hears_comes_back_without_bfd() -> Result<()> {
    let cluster = watched()?;
    let kw02 = cluster.node("kw02");
    for line in [
        "nft add table inet deaf",
        "nft add chain inet deaf in { type filter hook input priority 0 ; }",
        "nft add rule inet deaf in udp dport 3784 drop",
    ] {
        kw02.host.sh(line)?;
    }
    eventually("the session has ended for it", SETTLED, || {
        let history = cluster.node("kw01").host.sh("manxctl history --peer 192.168.80.125")?;
        ensure!(history.contains("Cease / BFD Down"), "{history}");
        Ok(())
    })?;
    eventually("BGP is back without it", SETTLED, || settled(&cluster, Stage::Mesh, Duration::from_secs(1)))?;
    let said = cluster.node("kw01").host.sh("manxctl node status")?;
    ensure!(said.contains("BFD with 192.168.80.125 is"), "{said}");
    Ok(())
}

#[test]
fn an_agent_that_is_killed_is_not_taken_for_a_dead_node() -> Result<()> {
    let mut cluster = watched()?;
    let before = cluster.node("kw02").status()?.bfd_pid.context("no BFD process")?;
    let flow = traffic(&cluster)?;
    cluster.node_mut("kw02").kill()?;
    // Far longer than the detection time.
    thread::sleep(Duration::from_secs(4));
    cluster.node_mut("kw02").start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let report = flow.stop()?;
    ensure!(report.lost.is_empty(), "{report}");
    ensure!(cluster.node("kw02").status()?.bfd_pid == Some(before), "it is another BFD process");
    for node in &cluster.nodes {
        ensure!(failures(node)? == 0, "{}: {:?}", node.role.host, node.status()?.peers);
    }
    // Without resources that ask for it the process has nothing to do, and ends; its neighbours are told.
    cluster.node("km01").host.write_file("/tmp/bfd.yaml", &MESH.replace("'true'", "'false'"))?;
    cluster.node("km01").host.sh("manxctl apply -f /tmp/bfd.yaml")?;
    for node in &cluster.nodes {
        eventually("the BFD process has ended", SETTLED, || {
            let running = node.host.sh("ss -H -l -u -n sport = :3784")?;
            ensure!(running.trim().is_empty(), "{running}");
            Ok(())
        })?;
    }
    settled(&cluster, Stage::Mesh, SETTLED)?;
    for node in &cluster.nodes {
        ensure!(node.status()?.peers.iter().all(|peer| peer.times_established <= 2 && peer.bfd.is_none()));
    }
    Ok(())
}

#[test]
fn a_bfd_process_that_is_killed_is_replaced() -> Result<()> {
    let cluster = watched()?;
    let kw02 = cluster.node("kw02");
    let before = kw02.status()?.bfd_pid.context("no BFD process")?;
    kw02.host.sh(&format!("kill -9 {before}"))?;
    eventually("another one runs", SETTLED, || {
        let now = kw02.status()?.bfd_pid;
        ensure!(now.is_some_and(|pid| pid != before), "{now:?}");
        Ok(())
    })?;
    eventually("BFD is up everywhere", SETTLED, || cluster.nodes.iter().try_for_each(all_up))?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    // In order: nobody takes it for a failure.
    let counted = cluster.nodes.iter().map(failures).collect::<Result<Vec<_>>>()?;
    let before = kw02.status()?.bfd_pid.context("no BFD process")?;
    kw02.host.sh(&format!("kill {before}"))?;
    eventually("another one runs", SETTLED, || {
        ensure!(kw02.status()?.bfd_pid.is_some_and(|pid| pid != before));
        Ok(())
    })?;
    eventually("BFD is up everywhere", SETTLED, || cluster.nodes.iter().try_for_each(all_up))?;
    for (node, counted) in cluster.nodes.iter().zip(counted).filter(|(node, _)| node.role.host != "kw02") {
        let peers = node.status()?.peers;
        let of_kw02 =
            peers.iter().find(|peer| peer.address.to_string() == "192.168.80.125").context("no kw02")?;
        ensure!(of_kw02.state == SessionState::Established, "{of_kw02:?}");
        let times = of_kw02.times_established;
        ensure!(failures(node)? <= counted + 1 && times <= 2, "{}: {times} sessions", node.role.host);
    }
    Ok(())
}

/// As long as graceful restart would keep its sessions.
#[test]
fn an_agent_that_is_paused_for_half_a_minute_loses_no_session_and_no_packet() -> Result<()> {
    let cluster = watched()?;
    let flow = traffic(&cluster)?;
    let daemon = cluster.node("kw02").daemon()?;
    daemon.signal(Signal::SIGSTOP)?;
    thread::sleep(Duration::from_secs(30));
    daemon.signal(Signal::SIGCONT)?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let report = flow.stop()?;
    ensure!(report.lost.is_empty(), "{report}");
    for node in &cluster.nodes {
        for peer in node.status()?.peers {
            ensure!(peer.times_established == 1, "{}: {peer:?}", node.role.host);
        }
        ensure!(failures(node)? == 0, "{}", node.role.host);
    }
    Ok(())
}
