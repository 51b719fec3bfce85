//! What `manxctl dataplane` tells of maps and packets, by a cluster that carries some.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::{Counters, MapAction, MapRoutes, NamedTally, Tallies, Top};
use manx_tests::{
    cluster::{Cluster, Node},
    story::{self, SETTLED, Stage, mesh, ping, settled},
    wait::eventually,
};
use serde::de::DeserializeOwned;

const SOON: Duration = Duration::from_secs(15);
const PINGS: u64 = 20;

fn ask<T: DeserializeOwned>(node: &Node, command: &str) -> Result<T> {
    let text = node.host.sh(&format!("manxctl dataplane {command} -o json"))?;
    serde_json::from_str(&text).with_context(|| text)
}

fn prefixes(found: &MapRoutes) -> Vec<String> {
    found.routes.iter().map(|row| row.prefix.to_string()).collect()
}

#[test]
fn the_maps_are_told_by_prefix_filtered_and_by_pages() -> Result<()> {
    let cluster = mesh()?;
    let kw01 = cluster.node("kw01");
    let all: MapRoutes = ask(kw01, "routes")?;
    let remote = all.routes.iter().find(|row| row.prefix.to_string() == "172.16.118.64/26");
    let remote = remote.with_context(|| format!("{all:?}"))?;
    ensure!(
        remote.action == MapAction::Via && remote.pool.as_deref() == Some("default-ipv4-ippool"),
        "{remote:?}"
    );
    let hops: Vec<_> =
        remote.next_hops.iter().map(|hop| (hop.address.to_string(), hop.interface.clone())).collect();
    assert_eq!(hops, [("192.168.80.125".into(), "ens33".into())]);
    let pod = all.routes.iter().find(|row| row.prefix.to_string() == "172.16.36.193/32");
    let pod = pod.with_context(|| format!("{all:?}"))?;
    let interface = pod.interface.as_ref().context("a pod without interface")?;
    ensure!(pod.action == MapAction::Local && interface.starts_with("cali"), "{pod:?}");

    let inside: MapRoutes = ask(kw01, "routes 172.16.36.192/26")?;
    assert_eq!(prefixes(&inside), ["172.16.36.192/26", "172.16.36.193/32", "172.16.36.194/32"]);
    let covering: MapRoutes = ask(kw01, "routes 172.16.36.193")?;
    let last = prefixes(&covering).pop();
    ensure!(last.as_deref() == Some("172.16.36.193/32") && covering.routes.len() >= 2, "{covering:?}");
    let by_hop: MapRoutes = ask(kw01, "routes --next-hop 192.168.80.125")?;
    assert_eq!(prefixes(&by_hop), ["172.16.118.64/26"]);
    let local: MapRoutes = ask(kw01, "routes --action local")?;
    assert_eq!(prefixes(&local), ["172.16.36.193/32", "172.16.36.194/32"]);

    let mut paged = Vec::new();
    let mut after = String::new();
    loop {
        let page: MapRoutes = ask(kw01, &format!("routes --limit 2 {after}"))?;
        ensure!(page.routes.len() <= 2, "{page:?}");
        paged.extend(prefixes(&page));
        match page.next {
            Some(next) => after = format!("--after {next}"),
            None => break,
        }
    }
    assert_eq!(paged, prefixes(&all));

    let wrong = kw01.host.output("manxctl dataplane routes 172.16.36.193/26")?;
    ensure!(wrong.status.code() == Some(1) && wrong.stderr.contains("172.16.36.19"), "{wrong:?}");
    let none = kw01.host.sh("manxctl dataplane routes 10.99.0.0/16")?;
    assert_eq!(none, "No entry of the eBPF maps is like that.\n");
    Ok(())
}

fn named(rows: &[NamedTally], name: &str) -> u64 {
    rows.iter().find(|row| row.name == name).map_or(0, |row| row.counts.packets)
}

#[test]
fn packets_are_counted_by_reason_interface_prefix_and_next_hop_and_as_rates() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let (from, to) = (&kw01.pods[0], kw02.pods[0].address());
    // The first ones may go by the stack, until the neighbours know each other.
    ping(from, to)?;
    let carried = || -> Result<[u64; 4]> {
        let counters: Counters = ask(kw01, "counters")?;
        let pods = counters.interfaces.iter().filter(|row| row.program == "pod_tc");
        let pods = pods.flat_map(|row| &row.verdicts).filter(|v| v.verdict == "redirected_neigh");
        let prefixes: Tallies = ask(kw01, "counters --by prefix")?;
        let hops: Tallies = ask(kw01, "counters --by nexthop")?;
        Ok([
            story::counted(&counters, "pod_tc", "redirected_neigh"),
            pods.map(|v| v.packets).sum(),
            named(&prefixes.rows, "172.16.118.64/26"),
            named(&hops.rows, "192.168.80.125 dev ens33"),
        ])
    };
    let before = carried()?;
    from.sh(&format!("ping -n -q -c {PINGS} -i 0.02 {to}"))?;
    let after = carried()?;
    for (before, after) in before.iter().zip(after) {
        ensure!(after - before == PINGS, "{before} before, {after} after {PINGS} pings");
    }
    let text = kw01.host.sh("manxctl dataplane counters --by interface")?;
    ensure!(text.contains("cali") && text.contains("ens33"), "{text}");
    let unknown = kw01.host.output("manxctl dataplane counters --interface nothing0")?;
    ensure!(unknown.status.code() == Some(1) && unknown.stderr.contains("nothing0"), "{unknown:?}");

    thread::scope(|scope| -> Result<()> {
        let traffic = scope.spawn(|| from.sh(&format!("ping -n -q -c 300 -i 0.01 {to}")));
        let top = eventually("there is traffic", SOON, || {
            let top: Top = ask(kw01, "top --interval 1")?;
            let rate = top.prefixes.iter().find(|rate| rate.name == "172.16.118.64/26");
            let rate = rate.with_context(|| format!("{top:?}"))?.packets_per_second;
            ensure!((30.0..200.0).contains(&rate), "{rate} packets a second of 100");
            Ok(top)
        })?;
        ensure!(top.reasons.iter().any(|rate| rate.name == "pod_tc redirected_neigh"), "{top:?}");
        ensure!(top.next_hops.iter().any(|rate| rate.name == "192.168.80.125 dev ens33"), "{top:?}");
        ensure!(top.prefixes[0].bits_per_second.is_some_and(|bits| bits > 0.0), "{top:?}");
        traffic.join().map_err(|_| anyhow::anyhow!("the ping panicked"))??;
        Ok(())
    })?;
    // Not a terminal: one sample, without the codes of one.
    let text = kw01.host.sh("manxctl dataplane top --interval 0.2 -n 3")?;
    ensure!(text.contains("k8s-worker-01 at ") && !text.contains('\x1b'), "{text}");
    Ok(())
}

#[test]
fn a_next_hop_that_does_not_answer_is_told_until_it_does() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let to = kw02.pods[0].address();
    ping(&kw01.pods[0], to)?;
    ensure!(kw01.dataplane()?.silent_next_hops.is_empty());
    kw02.host.sh("ip link set ens33 arp off")?;
    kw01.host.sh("ip neigh flush to 192.168.80.125")?;
    eventually("it is told", SOON, || {
        // Somebody has to send there, or nobody asks.
        let _ = kw01.pods[0].output(&format!("ping -n -c 1 -W 1 {to}"))?;
        let silent = kw01.dataplane()?.silent_next_hops;
        let told: Vec<_> =
            silent.iter().map(|hop| (hop.address.to_string(), hop.interface.as_str())).collect();
        ensure!(told == [("192.168.80.125".to_owned(), "ens33")], "{silent:?}");
        Ok(())
    })?;
    let hops: Tallies = ask(kw01, "counters --by nexthop")?;
    let row = hops.rows.iter().find(|row| row.name == "192.168.80.125 dev ens33");
    ensure!(row.is_some_and(|row| row.silent_since.is_some()), "{hops:?}");
    let text = kw01.host.sh("manxctl dataplane status")?;
    ensure!(text.contains("ip neigh show 192.168.80.125 dev ens33"), "{text}");

    kw02.host.sh("ip link set ens33 arp on")?;
    eventually("it answers again", SOON, || {
        let silent = kw01.dataplane()?.silent_next_hops;
        ensure!(silent.is_empty(), "{silent:?}");
        Ok(())
    })?;
    let hops: Tallies = ask(kw01, "counters --by nexthop")?;
    ensure!(hops.rows.iter().all(|row| row.silent_since.is_none()), "{hops:?}");
    Ok(())
}

#[test]
fn a_pod_that_others_shape_is_named_and_the_stacks_until_they_do_no_longer() -> Result<()> {
    let cluster = mesh()?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    let (pod, shaped) = (&kw01.pods[0], kw01.pods[0].interface());
    for (change, is_shaped) in [("add", true), ("del", false)] {
        let options = if is_shaped { "pfifo limit 1000" } else { "" };
        kw01.host.sh(&format!("tc qdisc {change} dev {shaped} root {options}"))?;
        eventually("it is noticed", SOON, || {
            let interfaces = kw01.dataplane()?.interfaces;
            let row = interfaces.iter().find(|row| row.name == shaped).context("no such interface")?;
            ensure!(row.notes.iter().any(|note| note.contains("a qdisc (pfifo)")) == is_shaped, "{row:?}");
            Ok(())
        })?;
        let row: MapRoutes = ask(kw01, &format!("routes {}/32", pod.address()))?;
        ensure!(row.routes.iter().all(|row| row.mac.is_none() == is_shaped), "{row:?}");
        ping(&kw02.pods[0], pod.address())?;
    }
    Ok(())
}

#[test]
fn a_map_that_is_full_is_said_everywhere_and_its_routes_are_the_kernels() -> Result<()> {
    let mut cluster = Cluster::new(&[])?;
    cluster.node_mut("kw01").flags = vec!["--map-size", "routes4=3"];
    cluster.start()?;
    settled(&cluster, Stage::Mesh, SETTLED)?;
    let (kw01, kw02) = (cluster.node("kw01"), cluster.node("kw02"));
    eventually("it is said", SOON, || {
        let status = kw01.dataplane()?;
        ensure!(
            status
                .failures
                .iter()
                .any(|failure| failure
                    .contains("the map ROUTES4 is full; raise its size (--map-size routes4=")),
            "{status:?}"
        );
        let map = status.maps.iter().find(|map| map.name == "ROUTES4").context("no ROUTES4")?;
        ensure!(map.max_entries == 3 && map.entries <= 3 && map.bytes > 0, "{map:?}");
        let warnings = kw01.status()?.warnings;
        ensure!(
            warnings.iter().any(|w| w.contains("not in the eBPF maps") && w.contains("--map-size")),
            "{warnings:?}"
        );
        Ok(())
    })?;
    for (from, to) in [(kw01, kw02), (kw02, kw01)] {
        for (from, to) in from.pods.iter().zip(&to.pods) {
            ping(from, to.address())?;
        }
    }
    // What the map could not take is not anybody's doing.
    let audit = kw01.host.output("manxctl dataplane audit")?;
    ensure!(audit.status.success(), "{audit:?}");
    ensure!(kw01.dataplane()?.repairs == 0);
    Ok(())
}
