//! `manxctl blackhole`: what an operator orders is dropped until it is over, and outlives the daemon.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use manx_api::{AskedBy, BlackholeRow, Blackholes};
use manx_tests::{
    cluster::{CLUSTER, Cluster, Node},
    host::Host,
    pair::{Pair, addresses},
    story::{SETTLED, Stage, counted, mesh, ping, settled},
    wait::{eventually, throughout},
};

const SOON: Duration = Duration::from_secs(5);

fn list(node: &Node, more: &str) -> Result<Vec<BlackholeRow>> {
    list_of(&node.host, more)
}

pub fn list_of(host: &Host, more: &str) -> Result<Vec<BlackholeRow>> {
    let text = host.sh(&format!("manxctl blackhole list {more} -o json"))?;
    let answer: Blackholes = serde_json::from_str(&text).context(text)?;
    ensure!(answer.warnings.is_empty(), "{:?}", answer.warnings);
    Ok(answer.blackholes)
}

fn in_force(node: &Node, prefix: &str) -> Result<BlackholeRow> {
    let row = list(node, "")?.into_iter().find(|row| row.prefix.to_string() == prefix);
    let row = row.with_context(|| format!("{prefix} is no blackhole"))?;
    ensure!(row.in_map == Some(true), "{row:?}");
    Ok(row)
}

/// The cluster with this `--fast-path` on kw01.
fn cluster(fast_path: &'static str) -> Result<Cluster> {
    let mut cluster = Cluster::new(&[])?;
    cluster.node_mut("kw01").flags.extend(["--fast-path", fast_path]);
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    Ok(cluster)
}

fn drops_until_it_is_deleted(fast_path: &'static str) -> Result<()> {
    let cluster = cluster(fast_path)?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let near = &kw01.pods[0];
    let (remote, other) = (kw02.pods[0].address(), kw02.pods[1].address());
    ping(near, remote)?;
    let said = kw01
        .host
        .shell(&format!("manxctl blackhole add {remote} 198.51.100.0/24 --comment 'too loud'"))?
        .success()?;
    ensure!(said.contains(&format!("{remote}/32 is a blackhole on k8s-worker-01.")), "{said}");
    let row = eventually("both sinks drop", SOON, || {
        let row = in_force(kw01, &format!("{remote}/32"))?;
        ensure!(row.in_kernel, "{row:?}");
        Ok(row)
    })?;
    assert_eq!((row.cause.asked_by, row.cause.comment.as_deref()), (AskedBy::Operator, Some("too loud")));
    ensure!(row.cause.who.contains("uid 0"), "{row:?}");
    ensure!(in_force(kw01, "198.51.100.0/24")?.in_kernel);
    ensure!(ping(near, remote).is_err(), "a pod still reaches {remote}");
    ensure!(ping(&kw01.host, remote).is_err(), "the host still reaches {remote}");
    // Pings before the order are not in it, and those of the host are the kernel's.
    let counted = in_force(kw01, &format!("{remote}/32"))?;
    ensure!(counted.packets == Some(1) && counted.bytes == Some(84), "{counted:?}");
    ping(near, other)?;
    let routes = kw01.host.sh("manxctl routes")?;
    ensure!(routes.contains("ordered by") && routes.contains("(too loud)"), "{routes}");
    let explained = kw01.host.sh(&format!("manxctl explain {remote}/32"))?;
    ensure!(explained.contains("Asked by: ordered by"), "{explained}");

    kw01.host.sh(&format!("manxctl blackhole delete {remote} 198.51.100.0/24"))?;
    eventually("it is reached again", SOON, || ping(near, remote))?;
    ensure!(list(kw01, "")?.is_empty());
    let again = kw01.host.output(&format!("manxctl blackhole delete {remote}"))?;
    ensure!(!again.status.success() && again.stderr.contains("is no blackhole"), "{again:?}");
    Ok(())
}

#[test]
fn what_an_operator_orders_is_dropped_until_it_is_deleted() -> Result<()> {
    drops_until_it_is_deleted("auto")
}

#[test]
fn what_an_operator_orders_is_dropped_without_the_fast_path_too() -> Result<()> {
    drops_until_it_is_deleted("off")
}

#[test]
fn an_order_stands_over_a_pod_of_the_node_and_of_a_block_only_where_no_pod_is() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let (victim, neighbour) = (kw01.pods[0].address(), kw01.pods[1].address());
    let far = &kw02.pods[0];
    // Its reply cannot be the kernel's, which has a route to the pod.
    let order = format!("manxctl blackhole add {victim} --reply unreachable");
    let warned = format!("Note: {victim}/32 is a pod of this node");
    let said = kw01.host.sh(&order)?;
    ensure!(said.contains(&warned), "{said}");
    let row = eventually("the map drops", SOON, || in_force(kw01, &format!("{victim}/32")))?;
    let said = kw01.host.sh(&order)?;
    ensure!(said.contains(&warned), "an order that is renewed: {said}");
    ensure!(!row.in_kernel && row.reason.as_deref().is_some_and(|reason| reason.contains("pod")), "{row:?}");
    let by_wire = || Ok::<_, anyhow::Error>(counted(&kw01.counters()?, "uplink_xdp", "blackhole_explicit"));
    let before = by_wire()?;
    ensure!(ping(far, victim).is_err() && ping(&kw01.pods[1], victim).is_err());
    ensure!(by_wire()? > before, "what came by the wire did not die in XDP");
    kw01.host.sh(&format!("manxctl blackhole delete {victim}"))?;
    eventually("the pod is reached again", SOON, || ping(far, victim))?;

    // What a peer announces is not cut off without a word.
    let said = kw01.host.sh("manxctl blackhole add 172.16.118.64/26")?;
    let warned =
        "172.16.118.64/26 is a route that 192.168.80.125 announces, by way of 192.168.80.125: as long as";
    ensure!(said.contains(warned), "{said}");
    kw01.host.sh("manxctl blackhole delete 172.16.118.64/26")?;

    let said = kw01.host.sh("manxctl blackhole add 172.16.36.192/26")?;
    ensure!(
        said.contains("what has a longer route is reached still") && said.contains(&victim.to_string()),
        "{said}"
    );
    eventually("the block is explicit", SOON, || in_force(kw01, "172.16.36.192/26"))?;
    ping(far, victim)?;
    ping(far, neighbour)?;
    let said = kw01.host.sh("manxctl blackhole delete 172.16.36.192/26")?;
    ensure!(said.contains("stays one where no pod is"), "{said}");
    let all = list(kw01, "--all")?;
    ensure!(all.iter().any(|row| row.cause.asked_by == AskedBy::OwnBlock && row.in_kernel), "{all:?}");
    Ok(())
}

#[test]
fn an_order_of_either_family_drops_or_lets_the_kernel_answer() -> Result<()> {
    let pair = Pair::closed(&[])?;
    for (address, told) in addresses(50, 1).into_iter().zip(["Host Unreachable", "unreachable: No route"]) {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let order = |words: &str| pair.here.host.sh(&format!("manxctl blackhole {words}"));
        let try_it = || pair.neighbour.output(&format!("ping -n -c 3 -i 0.3 -W 1 {address}"));
        order(&format!("add {address} --reply unreachable"))?;
        eventually("the sender is told", SOON, || {
            let said = try_it()?;
            ensure!(!said.status.success() && said.stdout.contains(told), "{said:?}");
            Ok(())
        })?;
        let listed = list_of(&pair.here.host, "")?;
        ensure!(listed[0].packets.is_some_and(|packets| packets > 0), "{listed:?}");
        order(&format!("add {address} --reply drop"))?;
        eventually("it hears nothing", SOON, || {
            let said = try_it()?;
            ensure!(!said.status.success() && !said.stdout.contains("nreachable"), "{said:?}");
            Ok(())
        })?;
        let row = pair.here.route(&format!("{address}/{length}"))?;
        ensure!(row.agree && row.blackhole.is_some(), "{row:?}");
        order(&format!("delete {address}"))?;
        eventually("it is reached again", SOON, || ping(&pair.neighbour, address))?;
    }
    Ok(())
}

#[test]
fn an_order_outlives_the_daemon_and_ends_when_it_is_over() -> Result<()> {
    let mut cluster = mesh()?;
    let remote = cluster.node("kw02").pods[0].address();
    let prefix = format!("{remote}/32");
    let blocked = |cluster: &Cluster| {
        ensure!(ping(&cluster.node("kw01").pods[0], remote).is_err(), "{remote} is reached");
        Ok(())
    };
    cluster.node("kw01").host.sh(&format!("manxctl blackhole add {remote} --for 1h"))?;
    eventually("it drops", SOON, || in_force(cluster.node("kw01"), &prefix))?;
    cluster.node_mut("kw01").kill()?;
    blocked(&cluster)?;
    cluster.node_mut("kw01").start()?;
    settled_but_for(&cluster, &prefix)?;
    let row = in_force(cluster.node("kw01"), &prefix)?;
    ensure!(row.seconds_left.is_some_and(|left| left > 3500 && left <= 3600), "{row:?}");
    blocked(&cluster)?;

    // While it runs.
    cluster.node("kw01").host.sh(&format!("manxctl blackhole add {remote} --for 2s"))?;
    eventually("it is over", SOON, || ping(&cluster.node("kw01").pods[0], remote))?;
    ensure!(list(cluster.node("kw01"), "")?.is_empty());
    // Nothing else wakes the daemon at that moment: its pulse, the next that would, is half a second away on average.
    let mut late = Duration::ZERO;
    for _ in 0..5 {
        let host = &cluster.node("kw01").host;
        host.sh(&format!("manxctl blackhole add {remote} --for 1s"))?;
        let ordered = Instant::now();
        eventually("the kernel's route is gone", SOON, || {
            ensure!(host.sh(&format!("ip route show {prefix}"))?.is_empty());
            Ok(())
        })?;
        late += ordered.elapsed().saturating_sub(Duration::from_secs(1));
    }
    ensure!(late < Duration::from_secs(1), "five orders ended {late:?} late, all together");

    // While it is dead: nobody can end it, and the next start does, without waiting for any peer.
    cluster.node("kw01").host.sh(&format!("manxctl blackhole add {remote} --for 3s"))?;
    eventually("it drops", SOON, || in_force(cluster.node("kw01"), &prefix))?;
    cluster.node_mut("kw01").kill()?;
    throughout("nobody ends it", Duration::from_secs(4), || {
        thread::sleep(Duration::from_millis(500));
        blocked(&cluster)
    })?;
    cluster.node_mut("kw01").start()?;
    eventually("the start ends it", SOON, || ping(&cluster.node("kw01").pods[0], remote))?;
    ensure!(list(cluster.node("kw01"), "")?.is_empty());
    settled(&cluster, Stage::Mesh, SETTLED)
}

/// The mesh is up again, and beside its routes there is this one.
fn settled_but_for(cluster: &Cluster, prefix: &str) -> Result<()> {
    eventually("kw01 is settled", SETTLED, || {
        let status = cluster.node("kw01").status()?;
        ensure!(!status.restarting, "still restarting");
        in_force(cluster.node("kw01"), prefix).map(drop)
    })
}

#[test]
fn what_would_cut_the_node_off_or_cannot_be_is_refused_with_the_reason() -> Result<()> {
    let cluster = Cluster::new(&[])?;
    let services = "---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\n\
                    spec: {serviceClusterIPs: [{cidr: 10.96.0.0/12}]}\n";
    std::fs::write(cluster.lab.store().join("services.yaml"), services)?;
    let mut cluster = cluster;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let host = &cluster.node("kw01").host;
    for (line, reason) in [
        ("0.0.0.0/0", "the default route is no blackhole"),
        ("192.168.80.124", "192.168.80.124, an address of this node"),
        ("192.168.80.125", "192.168.80.125, a BGP peer"),
        ("192.168.0.0/16", "order it with --yes"),
        ("192.168.80.2", "a gateway of the kernel's routes"),
        ("10.96.0.10", "the service prefix 10.96.0.0/12 overlaps it"),
        ("10.0.0.0/8 --yes", "the programs act before netfilter translates"),
        ("127.0.0.1", "loopback"),
        ("::ffff:198.51.100.1", "write the address as IPv4's"),
        ("172.16.36.193/26", "the network is 172.16.36.192/26"),
        ("198.51.100.1 --for 0s", "a second at least"),
        ("198.51.100.1 192.168.80.125", "192.168.80.125, a BGP peer"),
    ] {
        let refused = host.output(&format!("manxctl blackhole add {line}"))?;
        ensure!(!refused.status.success() && refused.stderr.contains(reason), "{line}: {refused:?}");
    }
    let from = "SSH_CONNECTION='203.0.113.5 40000 192.168.80.124 22' manxctl blackhole add 203.0.113.0/24";
    let refused = host.shell(from)?;
    ensure!(refused.stderr.contains("the address from which you are logged in"), "{refused:?}");
    ensure!(list(cluster.node("kw01"), "")?.is_empty(), "something was ordered nevertheless");

    // An operator who insists has it, over the host's own address too: what comes by the wire dies.
    let address: IpAddr = "192.168.80.124".parse()?;
    host.sh("ip address add 198.51.100.7/32 dev lo")?;
    let host7: IpAddr = "198.51.100.7".parse()?;
    cluster.node("kw02").host.sh(&format!("ip route add 198.51.100.7 via {address}"))?;
    ping(&cluster.node("kw02").host, host7)?;
    host.sh("manxctl blackhole add 198.51.100.7 --yes")?;
    eventually("the map drops", SOON, || in_force(cluster.node("kw01"), "198.51.100.7/32"))?;
    ensure!(ping(&cluster.node("kw02").host, host7).is_err());
    Ok(())
}

#[test]
fn a_state_that_cannot_be_read_is_set_aside_and_named_and_the_daemon_runs() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    cluster.node("kw01").host.write_file("/var/lib/manx/blackholes.json", "{\"version\": 1, \"black")?;
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let kw01 = cluster.node("kw01");
    let warnings = kw01.status()?.warnings;
    let named = warnings.iter().any(|text| text.contains("/var/lib/manx/blackholes.json cannot be read"));
    ensure!(named, "{warnings:?}");
    let mut kept = kw01.host.paths_below("/var/lib/manx")?;
    kept.retain(|path| path.to_string_lossy().contains("blackholes"));
    ensure!(kept.len() == 1 && kept[0].to_string_lossy().contains("blackholes.bad-"), "{kept:?}");
    Ok(())
}

#[test]
fn cleanup_removes_what_operators_ordered() -> Result<()> {
    let mut cluster = mesh()?;
    cluster.node("kw01").host.sh("manxctl blackhole add 198.51.100.0/24")?;
    ensure!(cluster.node("kw01").host.path_exists("/var/lib/manx/blackholes.json"));
    cluster.node_mut("kw01").terminate()?;
    let host = &cluster.node("kw01").host;
    host.sh("manxd cleanup")?;
    ensure!(!host.path_exists("/var/lib/manx"), "{:?}", host.paths_below("/var/lib/manx")?);
    let left = host.sh("ip route show proto manx")?;
    ensure!(left.trim().is_empty(), "{left}");
    Ok(())
}

/// Calico's pool stays as it is: `CLUSTER` is only read.
#[test]
fn an_order_inside_services_that_come_later_is_kept_and_not_in_force() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    ensure!(cluster.lab.store().join(CLUSTER).exists());
    kw01.host.sh("manxctl blackhole add 10.96.0.10")?;
    eventually("it drops", SOON, || in_force(kw01, "10.96.0.10/32"))?;
    let services = "---\napiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\n\
                    spec: {serviceClusterIPs: [{cidr: 10.96.0.0/12}]}\n";
    std::fs::write(cluster.lab.store().join("services.yaml"), services)?;
    eventually("it is withheld, and says why", SOON, || {
        let rows = list(kw01, "")?;
        let row = rows.first().context("it is gone")?;
        ensure!(!row.in_kernel && row.in_map == Some(false), "{row:?}");
        ensure!(row.reason.as_deref().is_some_and(|reason| reason.contains("10.96.0.0/12")), "{row:?}");
        Ok(())
    })?;
    std::fs::remove_file(cluster.lab.store().join("services.yaml"))?;
    eventually("it drops again", SOON, || in_force(kw01, "10.96.0.10/32")).map(drop)
}
