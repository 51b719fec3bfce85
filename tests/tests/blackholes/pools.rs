//! Pools that are closed: a packet to an address of the pool that lies in no block stays within the cluster.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    cluster::{CLUSTER, Cluster},
    netns::Netns,
    story::{SETTLED, Stage, ping, sessions_are, settled},
    wait::eventually,
};

const SOON: Duration = Duration::from_secs(5);
/// In the pool, in nobody's block.
const NOWHERE: &str = "172.16.200.1";

/// Writes the cluster's pool with these annotations.
fn annotate(cluster: &Cluster, annotations: &str) -> Result<()> {
    let file = cluster.lab.store().join(CLUSTER);
    let text = fs::read_to_string(&file)?;
    let name = "  name: default-ipv4-ippool\n";
    let (before, after) = text.split_once(name).context("the pool's name")?;
    // Up to the spec: annotations of an earlier call.
    let (_, spec) = after.split_once("spec:").context("the pool's spec")?;
    let annotations = format!("  annotations: {{{annotations}}}\n");
    Ok(fs::write(&file, format!("{before}{name}{annotations}spec:{spec}"))?)
}

/// How many packets for [`NOWHERE`] have come to the default routes' end.
fn outside(gateway: &Netns) -> Result<u64> {
    let text = gateway.sh("nft -j list counters")?;
    let found = text.split("\"packets\": ").nth(1).or(text.split("\"packets\":").nth(1));
    let digits: String = found.context(text.clone())?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().context(text)
}

fn closed(fast_path: &'static str) -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    cluster.node_mut("kw01").flags.extend(["--fast-path", fast_path]);
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let gateway = cluster.lab.outside().context("a gateway")?;
    gateway
        .shell(&format!(
            "nft 'add table ip t; add counter ip t leaked; \
         add chain ip t pre {{ type filter hook prerouting priority 0; }}; \
         add rule ip t pre ip daddr {NOWHERE} counter name leaked'"
        ))?
        .success()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let (pod, remote) = (&kw01.pods[0], kw02.pods[0].address());
    let nowhere: IpAddr = NOWHERE.parse()?;
    let try_it = |from: &Netns| from.output(&format!("ping -n -c 2 -i 0.05 -W 1 {NOWHERE}"));
    try_it(pod)?;
    ensure!(outside(gateway)? == 2, "as in Calico, they leave by the default route: {}", outside(gateway)?);

    annotate(&cluster, "manx.dev/unallocatedBlocks: Drop")?;
    eventually("the pool is a blackhole", SOON, || {
        kw01.host.sh("ip route show type blackhole proto manx").and_then(|text| {
            ensure!(text.contains("172.16.0.0/16"), "{text}");
            Ok(())
        })
    })?;
    let before = outside(gateway)?;
    for from in [&**pod, &*kw01.host] {
        let said = try_it(from)?;
        ensure!(!said.status.success() && !said.stdout.contains("nreachable"), "{said:?}");
    }
    // From the wire, too: who sends it here.
    cluster.node("km01").host.sh(&format!("ip route add {NOWHERE} via {}", kw01.role.address))?;
    try_it(&cluster.node("km01").host)?;
    ensure!(outside(gateway)? == before, "{} left", outside(gateway)? - before);
    ping(pod, remote)?;
    ping(&kw02.pods[0], pod.address())?;
    let listed = kw01.host.sh("manxctl blackhole list --all")?;
    ensure!(listed.contains("IPPool/default-ipv4-ippool") && listed.contains("own block"), "{listed}");
    let explained = kw01.host.sh("manxctl explain 172.16.0.0/16")?;
    ensure!(explained.contains("has manx.dev/unallocatedBlocks since"), "{explained}");

    // A pod with an address of another node's block, and one of no block at all, are reached all the same.
    let moved: IpAddr = "172.16.118.100".parse()?;
    let strangers = kw01.host.pod("strangers", &[moved, nowhere])?;
    for address in [moved, nowhere] {
        eventually("a pod that moved in is reached", SOON, || ping(&kw01.pods[1], address))?;
    }
    ping(&cluster.node("km01").host, nowhere)?;
    kw01.host.remove_pod(strangers)?;

    annotate(&cluster, "manx.dev/unallocatedBlocks: Reject, manx.dev/unassignedAddresses: Reject")?;
    for address in [NOWHERE, "172.16.36.250"] {
        eventually("the sender is told", SOON, || {
            let said = pod.output(&format!("ping -n -c 2 -i 0.3 -W 1 {address}"))?;
            ensure!(said.stdout.contains("Destination Host Unreachable"), "{said:?}");
            Ok(())
        })?;
    }
    ensure!(outside(gateway)? == before);

    annotate(&cluster, "")?;
    eventually("as before", SOON, || {
        let leaked = outside(gateway)?;
        try_it(pod)?;
        ensure!(outside(gateway)? == leaked + 2);
        Ok(())
    })?;
    sessions_are(kw01, Stage::Mesh)
}

#[test]
fn packets_to_addresses_in_no_block_do_not_leave_by_the_default_route() -> Result<()> {
    closed("auto")
}

#[test]
fn nor_do_they_where_the_kernels_fib_is_alone() -> Result<()> {
    closed("off")
}

#[test]
fn a_closed_pool_stays_closed_over_a_restart_and_opens_none_while_it_learns() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    annotate(&cluster, "manx.dev/unallocatedBlocks: Drop")?;
    cluster.start()?;
    let shows = |cluster: &Cluster| {
        let text = cluster.node("kw01").host.sh("ip route show type blackhole proto manx")?;
        ensure!(text.contains("172.16.0.0/16"), "{text}");
        Ok(())
    };
    eventually("the pool is closed", SETTLED, || shows(&cluster))?;
    cluster.node_mut("kw01").kill()?;
    shows(&cluster)?;
    cluster.node_mut("kw01").start()?;
    manx_tests::wait::throughout("it stays", Duration::from_secs(3), || shows(&cluster))?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    ping(&kw01.pods[0], kw02.pods[0].address())
}
