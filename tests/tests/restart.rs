//! The daemon goes and comes back: by SIGKILL, by SIGTERM, for good.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use manx_tests::{
    cluster::Cluster,
    kernel::{Family, routes},
    story::{DOCUMENTS, SETTLED, SETTLED_WITH_BIRD, Stage, mesh, routes_are, settled},
    traffic::{End, Flow},
    wait::{eventually, throughout},
    watch::{RouteWatch, Traces},
};

/// 200 datagrams a second.
const PACE: Duration = Duration::from_millis(5);

fn reflected(birds: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::new(birds)?;
    for document in DOCUMENTS {
        cluster.apply(document)?;
    }
    cluster.start()?;
    settled(&cluster, Stage::Reflector, SETTLED_WITH_BIRD)?;
    Ok(cluster)
}

/// Both ways between the workers' first pods: an echo crosses both nodes twice, but who starts differs.
fn flows(cluster: &Cluster) -> Result<Vec<Flow>> {
    let (a, b) = (&cluster.node("kw01").pods[0], &cluster.node("kw02").pods[0]);
    let (a, b) = (End { ns: a, address: a.address() }, End { ns: b, address: b.address() });
    Ok(vec![Flow::start(a, b, PACE)?, Flow::start(b, a, PACE)?])
}

fn watches(cluster: &Cluster) -> Result<Vec<RouteWatch>> {
    let logs = cluster.lab.logs();
    cluster
        .nodes
        .iter()
        .map(|n| RouteWatch::start(&n.host, logs.join(format!("{}-routes", n.role.host))))
        .collect()
}

fn nothing_lost(flows: Vec<Flow>) -> Result<()> {
    let reports = Flow::stop_all(flows)?;
    for report in &reports {
        println!("{report}");
    }
    for report in reports {
        ensure!(report.lost.is_empty() && report.sent > 100, "{report}");
    }
    Ok(())
}

fn no_route_was_deleted(watches: &[RouteWatch]) -> Result<()> {
    for watch in watches {
        let deleted = watch.deleted("manx")?;
        ensure!(deleted.is_empty(), "deleted meanwhile:\n{}", deleted.join("\n"));
    }
    Ok(())
}

/// The names of what is pinned on a node: maps and links.
fn pins(cluster: &Cluster, host: &str) -> Result<Vec<std::path::PathBuf>> {
    cluster.node(host).host.paths_below("/sys/fs/bpf/manx")
}

fn programs_on(cluster: &Cluster, host: &str, interface: &str) -> Result<usize> {
    let interface = interface.to_owned();
    let (_, programs) =
        cluster.node(host).host.run(move || SchedClassifier::query_tcx(&interface, TcAttachType::Ingress))?;
    Ok(programs.len())
}

#[test]
fn a_killed_daemon_is_missed_by_no_packet_and_comes_back_by_graceful_restart() -> Result<()> {
    let mut cluster = mesh()?;
    let before = pins(&cluster, "kw02")?;
    ensure!(!before.is_empty(), "nothing is pinned");
    let watches = watches(&cluster)?;
    let flows = flows(&cluster)?;
    for kill in 1..=3 {
        cluster.node_mut("kw02").kill()?;
        throughout("peers and the kernel keep the routes", Duration::from_millis(700), || {
            cluster.nodes.iter().try_for_each(|n| routes_are(n, Stage::Mesh))
        })?;
        let stale = cluster.node("kw01").status()?;
        ensure!(
            stale.peers.iter().any(|p| p.stale),
            "kill {kill}: kw01 does not hold kw02's routes as stale"
        );
        cluster.node_mut("kw02").start()?;
        settled(&cluster, Stage::Mesh, SETTLED)?;
        eventually("kw02's routes are fresh again", SETTLED, || {
            let status = cluster.node("kw01").status()?;
            ensure!(status.peers.iter().all(|p| !p.stale), "one is still stale");
            Ok(())
        })?;
    }
    thread::sleep(Duration::from_millis(500));
    nothing_lost(flows)?;
    no_route_was_deleted(&watches)?;
    assert_eq!(pins(&cluster, "kw02")?, before, "pins after three restarts");
    assert_eq!(programs_on(&cluster, "kw02", "ens33")?, 1);
    Ok(())
}

/// Kills the speaker of `host` under traffic through reflected routes, and starts it again.
fn killed_under_traffic(birds: &[&str], host: &str) -> Result<()> {
    let mut cluster = reflected(birds)?;
    let watches = watches(&cluster)?;
    let flows = flows(&cluster)?;
    cluster.node_mut(host).kill()?;
    throughout("everybody keeps the routes", Duration::from_secs(1), || {
        cluster.nodes.iter().try_for_each(|n| routes_are(n, Stage::Reflector))
    })?;
    cluster.node_mut(host).start()?;
    settled(&cluster, Stage::Reflector, SETTLED_WITH_BIRD)?;
    thread::sleep(Duration::from_millis(500));
    nothing_lost(flows)?;
    no_route_was_deleted(&watches)
}

#[test]
fn a_reflector_killed_under_traffic_loses_no_packet() -> Result<()> {
    killed_under_traffic(&[], "km01")
}

#[test]
fn a_bird_reflector_keeps_the_routes_of_a_killed_manx_worker() -> Result<()> {
    killed_under_traffic(&["km01"], "kw02")
}

#[test]
fn manx_workers_keep_the_routes_of_a_killed_bird_reflector() -> Result<()> {
    killed_under_traffic(&["km01"], "km01")
}

#[test]
fn sigterm_leaves_routes_maps_and_programs_and_packets_flow() -> Result<()> {
    let mut cluster = mesh()?;
    let before = pins(&cluster, "kw01")?;
    let watches = watches(&cluster)?;
    let flows = flows(&cluster)?;
    let status = cluster.node_mut("kw01").terminate()?;
    ensure!(status.success(), "manxd ended with {status}");
    thread::sleep(Duration::from_secs(1));
    routes_are(cluster.node("kw01"), Stage::Mesh)?;
    assert_eq!(pins(&cluster, "kw01")?, before);
    assert_eq!(programs_on(&cluster, "kw01", "ens33")?, 1);
    ensure!(!cluster.node("kw01").host.path_exists("/run/manx/manx.sock"), "its socket is still there");
    cluster.node_mut("kw01").start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    nothing_lost(flows)?;
    no_route_was_deleted(&watches)
}

#[test]
fn cleanup_leaves_no_trace() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    let before = Traces::of(&cluster.node("kw01").host)?;
    let pod_interface = cluster.node("kw01").pods[0].interface().to_owned();
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    assert_eq!(programs_on(&cluster, "kw01", &pod_interface)?, 1);
    assert_eq!(programs_on(&cluster, "kw01", "ens33")?, 1);
    assert_ne!(Traces::of(&cluster.node("kw01").host)?, before);

    cluster.node_mut("kw01").terminate()?;
    let host = &cluster.node("kw01").host;
    host.sh("ip route add blackhole 203.0.113.0/24 proto 99")?;
    host.sh("manxd cleanup")?;
    host.sh("ip route del blackhole 203.0.113.0/24 proto 99")?;
    assert_eq!(Traces::of(host)?, before);
    // A link is gone when the kernel has let go of its last descriptor, which is not at once.
    eventually("no program is attached", Duration::from_secs(5), || {
        for interface in ["ens33", &pod_interface] {
            let count = programs_on(&cluster, "kw01", interface)?;
            ensure!(count == 0, "{interface} has {count}");
        }
        Ok(())
    })?;
    host.sh("manxd cleanup").map(drop)
}

#[test]
fn another_metric_takes_the_place_of_the_one_before_without_a_packet_lost() -> Result<()> {
    let mut cluster = mesh()?;
    let flows = flows(&cluster)?;
    let (way, hole) = ("172.16.118.64/26", "172.16.36.192/26");
    let metrics = |cluster: &Cluster| -> Result<Vec<(String, Option<u32>)>> {
        let all = routes(&cluster.node("kw01").host, Family::V4)?;
        let ours = all.into_iter().filter(|route| route.protocol.as_deref() == Some("manx"));
        Ok(ours.map(|route| (route.dst, route.metric)).collect())
    };
    for (flags, metric) in [(vec!["--metric", "77"], Some(77)), (vec![], None)] {
        let node = cluster.node_mut("kw01");
        node.flags = flags;
        node.terminate()?;
        node.start()?;
        // The new ones first, then the old ones go.
        eventually("kw01's routes have the metric", SETTLED, || {
            let mut found = metrics(&cluster)?;
            found.sort();
            ensure!(found == [(way.to_owned(), metric), (hole.to_owned(), metric)], "{found:?}");
            Ok(())
        })?;
    }
    nothing_lost(flows)
}
