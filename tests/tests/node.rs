//! A node in its daily life: files with mistakes, pods that come and go, routes of others.

use std::{fs, net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::RouteRow;
use manx_tests::{
    cluster::{CLUSTER, Cluster, Node},
    kernel::{Family, routes},
    story::{self, SETTLED, Stage, Way, counted, mesh, ping, settled},
    wait::{eventually, throughout},
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(5);

fn row(node: &Node, prefix: &str) -> Result<Option<RouteRow>> {
    let prefix = prefix.parse().map_err(|e| anyhow::anyhow!("{prefix}: {e}"))?;
    Ok(node.bgp_routes()?.routes.into_iter().find(|row| row.prefix == prefix))
}

#[test]
fn a_bad_file_changes_nothing_and_is_named_with_line_and_column_until_it_is_mended() -> Result<()> {
    let cluster = mesh()?;
    let bad = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata:\n  name: default\nspec:\n  \
               nodeToNodeMeshEnabled: false\n  asNumber: 61234x\n";
    let file = cluster.lab.store().join("bad.yaml");
    fs::write(&file, bad)?;
    for node in &cluster.nodes {
        let problems = eventually("the mistake is reported", SOON, || {
            let problems = node.status()?.datastore.problems;
            ensure!(!problems.is_empty(), "{}: no problem yet", node.role.host);
            Ok(problems)
        })?;
        let text = problems.join("\n");
        ensure!(text.contains("bad.yaml:7:13") && text.contains("spec.asNumber"), "{text}");
    }
    throughout("the mesh stays", Duration::from_secs(1), || {
        cluster.nodes.iter().try_for_each(|node| story::sessions_are(node, Stage::Mesh))
    })?;

    let km01 = cluster.node("km01");
    let elsewhere = cluster.lab.dir().join("refused.yaml");
    fs::write(&elsewhere, bad)?;
    let refused = km01.host.output(&format!("manxctl apply -f {}", elsewhere.display()))?;
    ensure!(!refused.status.success() && refused.stderr.contains("refused.yaml:7:13"), "{refused:?}");

    fs::write(&file, bad.replace("61234x", "61234"))?;
    settled(&cluster, Stage::Kept, SETTLED)?;
    ensure!(km01.status()?.datastore.problems.is_empty());
    Ok(())
}

#[test]
fn an_edit_takes_effect_within_a_second() -> Result<()> {
    let cluster = mesh()?;
    let text = "{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"BGPConfiguration\", \
                \"metadata\": {\"name\": \"default\"}, \"spec\": {\"nodeToNodeMeshEnabled\": false}}";
    fs::write(cluster.lab.store().join("off.json"), text)?;
    let written = std::time::Instant::now();
    for node in &cluster.nodes {
        eventually("the sessions are gone", Duration::from_secs(10), || {
            story::sessions_are(node, Stage::Off)
        })?;
    }
    let took = written.elapsed();
    println!("from the edit until no node had a peer: {} ms", took.as_millis());
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    fs::remove_file(cluster.lab.store().join("off.json"))?;
    settled(&cluster, Stage::Mesh, SETTLED)
}

#[test]
fn a_pod_that_comes_is_reached_through_the_map_and_one_that_goes_is_blackholed() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let address: IpAddr = "172.16.36.200".parse()?;
    let from = &kw02.pods[0];
    ensure!(ping(from, address).is_err(), "somebody answers for {address} already");
    ensure!(row(kw01, "172.16.36.200/32")?.is_none());

    let pod = kw01.host.pod("kw01-late", &[address])?;
    eventually("the new pod answers", SOON, || ping(from, address))?;
    eventually("the map has the pod", SOON, || {
        let row = row(kw01, "172.16.36.200/32")?.context("there is no row for it")?;
        ensure!(row.agree && row.map.is_some(), "{row:?}");
        Ok(())
    })?;
    let before = counted(&kw01.counters()?, "uplink_tc", "redirected_peer");
    from.sh(&format!("ping -n -c 5 -i 0.05 -W 1 {address}"))?;
    let after = counted(&kw01.counters()?, "uplink_tc", "redirected_peer");
    ensure!(after - before >= 5, "{} of 5 went into the pod through eBPF", after - before);

    kw01.host.remove_pod(pod)?;
    eventually("the map forgets the pod", SOON, || {
        let row = row(kw01, "172.16.36.200/32")?;
        ensure!(row.is_none(), "{row:?}");
        Ok(())
    })?;
    let dropped = counted(&kw01.counters()?, "uplink_xdp", "blackhole_own")
        + counted(&kw01.counters()?, "uplink_tc", "blackhole_own");
    ensure!(ping(from, address).is_err());
    let now = counted(&kw01.counters()?, "uplink_xdp", "blackhole_own")
        + counted(&kw01.counters()?, "uplink_tc", "blackhole_own");
    ensure!(now > dropped, "the programs dropped nothing: {:?}", kw01.counters()?);
    story::routes_are(kw01, Stage::Mesh)
}

#[test]
fn a_foreign_route_is_left_alone_and_named_and_ours_follows_when_it_goes() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    let host = &cluster.node("kw01").host;
    host.sh("ip route add 172.16.118.64/26 via 192.168.80.121 dev ens33 proto static")?;
    host.sh("ip route add 172.16.118.70 via 192.168.80.121 dev ens33 proto static")?;
    let foreign = |cluster: &Cluster| -> Result<Vec<String>> {
        let all = routes(&cluster.node("kw01").host, Family::V4)?;
        let theirs = all.into_iter().filter(|r| r.protocol.as_deref() == Some("static"));
        Ok(theirs.map(|r| r.dst).filter(|dst| dst != "default").collect())
    };
    let before = foreign(&cluster)?;
    assert_eq!(before.len(), 2);
    cluster.start()?;
    let kw01 = cluster.node("kw01");
    for node in &cluster.nodes {
        eventually("the mesh is up", SETTLED, || story::sessions_are(node, Stage::Mesh))?;
    }
    let reason = eventually("the holder is named", SOON, || {
        let row = row(kw01, "172.16.118.64/26")?.context("there is no row for it")?;
        row.reason.clone().with_context(|| format!("no reason in {row:?}"))
    })?;
    // RTPROT_STATIC, linux/rtnetlink.h.
    ensure!(reason.contains("protocol 4"), "{reason}");
    // What the kernel has is shown, though it is not ours, and also where nothing of ours was to be.
    let theirs = "via 192.168.80.121 dev ens33 (not ours)";
    let shown = kw01.host.sh("manxctl routes")?;
    for prefix in ["172.16.118.64/26", "172.16.118.70/32"] {
        let line = shown.lines().find(|line| line.starts_with(prefix)).with_context(|| shown.clone())?;
        ensure!(line.contains(theirs), "{line}");
    }
    let shown = kw01.host.sh("manxctl explain 172.16.118.64/26")?;
    ensure!(shown.contains(&format!("Kernel:   {theirs}")), "{shown}");
    assert_eq!(foreign(&cluster)?, before);

    kw01.host.sh("ip route del 172.16.118.64/26 proto static")?;
    eventually("our own route follows", SOON, || story::routes_are(kw01, Stage::Mesh))?;
    eventually("nothing is amiss any more", SOON, || story::sinks_agree(kw01))?;
    assert_eq!(foreign(&cluster)?, ["172.16.118.70"]);
    Ok(())
}

/// A line of /proc/PID/status.
fn proc_status(pid: u32, key: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with(key)).with_context(|| format!("no {key}"))?;
    line.split_whitespace().nth(1).context("no number")?.parse().context("no number")
}

fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("status"))?;
        for line in text.lines().filter(|line| line.contains("ctxt_switches")) {
            sum += line.split_whitespace().nth(1).context("no number")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

#[test]
fn an_idle_daemon_is_small_and_wakes_for_nothing_but_its_timers() -> Result<()> {
    let cluster = mesh()?;
    // The neighbour entries of the mesh's first seconds grow old, and the kernel says so.
    thread::sleep(Duration::from_secs(2));
    let before: Vec<u64> =
        cluster.nodes.iter().map(|n| switches(n.daemon()?.pid())).collect::<Result<_>>()?;
    thread::sleep(IDLE);
    for (node, before) in cluster.nodes.iter().zip(before) {
        let pid = node.daemon()?.pid();
        let woken = switches(pid)? - before;
        // Not the program's text, of which a debug build has much, nor the pages of the eBPF maps that it has mapped: those
        // are the kernel's, and `dataplane status` tells of them.
        let own = proc_status(pid, "RssAnon:")?;
        println!("{}: {own} KiB of its own, {woken} switches in {IDLE:?}", node.role.host);
        ensure!(own < 12 << 10, "{}: {own} KiB of its own", node.role.host);
        ensure!(woken < 25, "{}: {woken} switches in {IDLE:?}", node.role.host);
    }
    Ok(())
}

/// Gives the cluster's pool this `ipipMode`, in its file.
fn set_ipip_mode(cluster: &Cluster, from: &str, to: &str) -> Result<()> {
    let file = cluster.lab.store().join(CLUSTER);
    let text = fs::read_to_string(&file)?;
    let changed = text.replace(&format!("ipipMode: {from}"), &format!("ipipMode: {to}"));
    ensure!(changed != text, "{text}");
    Ok(fs::write(&file, changed)?)
}

#[test]
fn routes_of_an_encapsulated_pool_are_written_only_where_the_packet_would_go_plain() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    set_ipip_mode(&cluster, "Never", "Always")?;
    eventually("what would have to be encapsulated is not written", SOON, || {
        let found = story::written(kw01)?;
        ensure!(!found.iter().any(|(_, way)| matches!(way, Way::Via(_))), "{found:?}");
        let warnings = kw01.status()?.warnings;
        ensure!(warnings.iter().any(|w| w.contains("default-ipv4-ippool")), "{warnings:?}");
        Ok(())
    })?;
    story::sessions_are(kw01, Stage::Mesh)?;

    set_ipip_mode(&cluster, "Always", "CrossSubnet")?;
    eventually("next hops on the same network are written", SOON, || story::routes_are(kw01, Stage::Mesh))
}

#[test]
fn a_route_that_somebody_deletes_comes_back() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    kw01.host.sh("ip route del 172.16.118.64/26 proto manx")?;
    kw01.host.sh("ip route del blackhole 172.16.36.192/26 proto manx")?;
    eventually("both are back", SOON, || story::routes_are(kw01, Stage::Mesh))?;
    let repairs = kw01.dataplane()?.repairs;
    ensure!(repairs >= 2, "{repairs} repairs counted");
    Ok(())
}

/// By habit: `systemctl reload`, logrotate, a terminal that closes.
#[test]
fn signals_by_which_other_daemons_read_their_files_again_end_nothing() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    for signal in [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2] {
        kw01.daemon()?.signal(signal)?;
        eventually("it is said", SOON, || {
            let log = fs::read_to_string(kw01.log())?;
            ensure!(log.contains(&format!("{signal}: there is nothing to do")), "{log}");
            Ok(())
        })?;
    }
    story::sessions_are(kw01, Stage::Mesh)
}

#[test]
fn the_local_socket_is_for_root_and_its_group() -> Result<()> {
    let cluster = mesh()?;
    let mode = cluster.node("kw01").host.sh("stat --format=%a:%F /run/manx/manx.sock")?;
    assert_eq!(mode.trim(), "660:socket");
    Ok(())
}
