//! What goes through the programs on real nodes: TCP at full size, IPv6, and where netfilter has the last word.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    cluster::{CLUSTER, Cluster, Node},
    host::Pod,
    kernel::{Family, routes},
    story::{self, SETTLED, Stage, counted, mesh, ping, settled},
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(5);
const TRANSFER: usize = 32 << 20;
/// A transfer whose checksums are wrong stalls; one that is right takes far less.
const TRANSFER_LIMIT: Duration = Duration::from_secs(20);

/// A byte of a stream by its place, so that what is lost, doubled or moved is seen.
fn byte(place: usize) -> u8 {
    let word = (place as u64 / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes()[place % 8]
}

/// Sends a known stream from one pod to another by TCP, and has it checked there.
fn transfer(from: &Pod, to: &Pod, address: IpAddr) -> Result<Duration> {
    let listener = to.run(move || TcpListener::bind(SocketAddr::new(address, 0)))?;
    let target = listener.local_addr()?;
    let receiver = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(TRANSFER_LIMIT))?;
        let mut received = Vec::with_capacity(TRANSFER);
        stream.read_to_end(&mut received)?;
        ensure!(received.len() == TRANSFER, "{} of {TRANSFER} bytes came", received.len());
        let wrong = received.iter().enumerate().find(|(place, got)| **got != byte(*place));
        ensure!(wrong.is_none(), "wrong at {wrong:?}");
        Ok(())
    });
    let started = Instant::now();
    let mut stream = from.run(move || TcpStream::connect_timeout(&target, SOON))?;
    stream.set_write_timeout(Some(TRANSFER_LIMIT))?;
    let sent: Vec<u8> = (0..TRANSFER).map(byte).collect();
    stream.write_all(&sent).context("the stream stalled")?;
    drop(stream);
    receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    Ok(started.elapsed())
}

fn redirected(node: &Node) -> Result<(u64, u64)> {
    let counters = node.counters()?;
    Ok((counted(&counters, "pod_tc", "redirected_neigh"), counted(&counters, "uplink_tc", "redirected_peer")))
}

#[test]
fn a_tcp_stream_between_pods_of_two_nodes_arrives_whole_through_the_programs() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    // The first packets to a pod may go through the stack, until its MAC is known.
    ping(&kw01.pods[0], kw02.pods[0].address())?;
    let (out, into) = (redirected(kw01)?.0, redirected(kw02)?.1);
    let took = transfer(&kw01.pods[0], &kw02.pods[0], kw02.pods[0].address())?;
    let (out, into) = (redirected(kw01)?.0 - out, redirected(kw02)?.1 - into);
    println!("{} MiB in {took:?}; {out} packets out and {into} in through the programs", TRANSFER >> 20);
    // With segmentation left to the end, a packet carries at most 64 KiB.
    ensure!(out >= (TRANSFER >> 16) as u64 && into >= (TRANSFER >> 16) as u64, "{out} out, {into} in");
    Ok(())
}

#[test]
fn a_tcp_stream_between_pods_of_one_node_arrives_whole_through_the_programs() -> Result<()> {
    let cluster = mesh()?;
    let node = cluster.node("kw01");
    ping(&node.pods[0], node.pods[1].address())?;
    let before = counted(&node.counters()?, "pod_tc", "redirected_peer");
    let took = transfer(&node.pods[0], &node.pods[1], node.pods[1].address())?;
    let packets = counted(&node.counters()?, "pod_tc", "redirected_peer") - before;
    println!("{} MiB in {took:?}; {packets} packets through the programs", TRANSFER >> 20);
    ensure!(packets >= (TRANSFER >> 16) as u64, "{packets} packets");
    Ok(())
}

#[test]
fn a_host_and_a_pod_of_another_node_exchange_a_stream_too() -> Result<()> {
    let cluster = mesh()?;
    let pod = &cluster.node("kw02").pods[0];
    let address = pod.address();
    let listener = pod.run(move || TcpListener::bind(SocketAddr::new(address, 0)))?;
    let target = listener.local_addr()?;
    let echo = thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        Ok(stream.write_all(&all)?)
    });
    let mut stream = cluster.node("km01").host.run(move || TcpStream::connect_timeout(&target, SOON))?;
    stream.set_read_timeout(Some(TRANSFER_LIMIT))?;
    let sent: Vec<u8> = (0..1 << 20).map(byte).collect();
    stream.write_all(&sent)?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))??;
    ensure!(back == sent, "{} of {} bytes came back, or others", back.len(), sent.len());
    Ok(())
}

/// The cluster's resources with an IPv6 address for every node, an IPv6 pool, and a block of it on each worker.
fn dual_stack(text: &str) -> String {
    let mut text = text.to_owned();
    for last in ["121", "124", "125"] {
        let v4 = format!("    ipv4Address: 192.168.80.{last}/24\n");
        text = text.replace(&v4, &format!("{v4}    ipv6Address: fd00:80::{last}/64\n"));
    }
    text.push_str(
        "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\n  name: default-ipv6-ippool\nspec:\n  \
         cidr: fd00:10::/48\n  blockSize: 122\n",
    );
    for (worker, block) in [("01", "fd00:10::40/122"), ("02", "fd00:10::80/122")] {
        text.push_str(&format!(
            "---\napiVersion: projectcalico.org/v3\nkind: BlockAffinity\nmetadata:\n  name: k8s-worker-{worker}-v6\nspec:\n  \
             state: confirmed\n  node: k8s-worker-{worker}\n  cidr: {block}\n"
        ));
    }
    text
}

/// IPv6 pods on both workers reach each other by what IPv6 sessions brought; kw01 runs Manx.
fn ipv6_pods_talk(birds: &[&str]) -> Result<()> {
    let mut cluster = Cluster::new(birds)?;
    let file = cluster.lab.store().join(CLUSTER);
    fs::write(&file, dual_stack(&fs::read_to_string(&file)?))?;
    for (host, last) in [("km01", "121"), ("kw01", "124"), ("kw02", "125")] {
        cluster.node(host).host.sh(&format!("ip address add fd00:80::{last}/64 dev ens33 nodad"))?;
    }
    let a = cluster.node("kw01").host.pod("kw01-v6", &["fd00:10::41".parse()?])?;
    let b = cluster.node("kw02").host.pod("kw02-v6", &["fd00:10::81".parse()?])?;
    cluster.start()?;
    for node in &cluster.nodes {
        eventually("four sessions", SETTLED, || {
            let sessions = node.sessions()?;
            ensure!(sessions.len() == 4 && sessions.iter().all(|s| s.established), "{sessions:?}");
            Ok(())
        })?;
    }
    let kw01 = cluster.node("kw01");
    eventually("the kernel has the other's block, and our own as a blackhole", SOON, || {
        let all = routes(&kw01.host, Family::V6)?;
        let ours: Vec<_> = all.iter().filter(|r| r.protocol.as_deref() == Some("manx")).collect();
        ensure!(ours.len() == 2, "{ours:?}");
        let via = ours.iter().find(|r| r.dst == "fd00:10::80/122").context("no route to kw02's block")?;
        ensure!(via.gateway.as_deref() == Some("fd00:80::125"), "{via:?}");
        let hole = ours.iter().find(|r| r.dst == "fd00:10::40/122").context("no route for the own block")?;
        ensure!(hole.kind.as_deref() == Some("blackhole"), "{hole:?}");
        story::sinks_agree(kw01)
    })?;
    eventually("a ping is answered", SOON, || ping(&a, b.address()))?;
    let before = redirected(kw01)?;
    a.sh(&format!("ping -n -c 5 -i 0.05 -W 1 {}", b.address()))?;
    let after = redirected(kw01)?;
    ensure!(after.0 - before.0 >= 5 && after.1 - before.1 >= 5, "{before:?} then {after:?}");
    transfer(&a, &b, b.address()).map(drop)
}

#[test]
fn ipv6_pods_talk_over_ipv6_sessions_through_the_programs() -> Result<()> {
    ipv6_pods_talk(&[])
}

#[test]
fn ipv6_pods_of_a_manx_and_a_bird_node_talk_over_ipv6_sessions() -> Result<()> {
    ipv6_pods_talk(&["kw02"])
}

#[test]
fn where_netfilter_tracks_connections_the_guard_leaves_pings_to_the_kernel_and_manxd_says_why() -> Result<()>
{
    let mut cluster = Cluster::new(&[])?;
    let host = &cluster.node("kw01").host;
    host.shell(
        "nft 'table ip t { chain c { type filter hook forward priority 0; ct state invalid drop; }; }'",
    )?
    .success()?;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let pods = (&cluster.node("kw01").pods[0], cluster.node("kw02").pods[0].address());
    let fast_path = cluster.node("kw01").status()?.fast_path;
    ensure!(fast_path.on && fast_path.mode == "auto", "{fast_path:?}");
    ensure!(fast_path.reason.contains("track"), "{fast_path:?}");
    ensure!(cluster.node("kw02").status()?.fast_path.on);
    ping(pods.0, pods.1)?;
    ensure!(redirected(cluster.node("kw01"))? == (0, 0), "{:?}", cluster.node("kw01").counters()?);

    let kw01 = cluster.node_mut("kw01");
    kw01.flags = vec!["--fast-path", "on"];
    kw01.terminate()?;
    kw01.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    ensure!(cluster.node("kw01").status()?.fast_path.on);
    let (from, to) = (&cluster.node("kw01").pods[0], cluster.node("kw02").pods[0].address());
    ping(from, to)?;
    ensure!(redirected(cluster.node("kw01"))?.0 > 0, "{:?}", cluster.node("kw01").counters()?);
    Ok(())
}
