//! Which interfaces are uplinks: by Calico's default pattern and by an operator's, as they come, go and change their
//! names, with packets that take each.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    lab::UPLINK,
    pair::{FIRST, Pair, SECOND, addresses},
    story::{counted, ping},
    wait::{eventually, throughout},
};

const SOON: Duration = Duration::from_secs(10);
/// In which nothing more comes.
const QUIET: Duration = Duration::from_secs(1);

/// Interfaces with programs for uplinks.
fn uplinks(pair: &Pair) -> Result<BTreeSet<String>> {
    let interfaces = pair.here.dataplane()?.interfaces;
    let uplinks =
        interfaces.iter().filter(|of| of.programs.iter().any(|program| program.starts_with("uplink_tc")));
    Ok(uplinks.map(|interface| interface.name.clone()).collect())
}

fn uplinks_are(pair: &Pair, wanted: &[&str]) -> Result<()> {
    let wanted: BTreeSet<String> = wanted.iter().map(ToString::to_string).collect();
    let are = || {
        let found = uplinks(pair)?;
        ensure!(found == wanted, "{found:?}, not {wanted:?}");
        Ok(())
    };
    eventually("the uplinks are these", SOON, are)?;
    throughout("they stay", QUIET, are)
}

/// Three pings of the other node's pod, which come by these gateways, are carried into the pod.
fn pods_are_reached_by(pair: &Pair, gateways: [&str; 2]) -> Result<()> {
    for (gateway, pod) in gateways.into_iter().zip(addresses(10, 1)) {
        pair.there.host.sh(&format!("ip route replace {pod} via {gateway} dev {UPLINK} onlink"))?;
        let before = counted(&pair.here.counters()?, "uplink_tc", "redirected_peer");
        for _ in 0..3 {
            ping(&pair.far, pod)?;
        }
        let carried = counted(&pair.here.counters()?, "uplink_tc", "redirected_peer") - before;
        pair.there.host.sh(&format!("ip route del {pod}"))?;
        ensure!(carried == 3, "by {gateway} the program carried {carried}");
    }
    Ok(())
}

#[test]
fn uplinks_by_calicos_default_pattern_come_and_go_and_others_are_left_alone() -> Result<()> {
    let pair = Pair::open(&[])?;
    let host = &pair.here.host;
    uplinks_are(&pair, &[UPLINK])?;
    pods_are_reached_by(&pair, FIRST)?;

    // What looks like an uplink, of whatever kind it is, and what does not.
    for name in ["enp3s0", "eno1", "wlan0", "wwan0", "ibs4", "slx0"] {
        host.sh(&format!("ip link add {name} type veth peer name p-{name}"))?;
        host.sh(&format!("ip link set {name} up"))?;
    }
    host.sh("ip link add bond1 type bridge")?;
    host.sh("ip link set bond1 up")?;
    for (name, kind) in [
        ("docker0", "bridge"),
        ("kube-ipvs0", "bridge"),
        ("vxlan.calico", "vxlan id 4096 dstport 4789 local 192.168.80.10"),
        ("veth7", "veth peer name p-veth7"),
        ("eth9", "veth peer name p-eth9"),
        ("enc0", "veth peer name p-enc0"),
    ] {
        host.sh(&format!("ip link add {name} type {kind}"))?;
        host.sh(&format!("ip link set {name} up"))?;
    }
    // A port is its bridge's.
    host.sh("ip link set eth9 master docker0")?;
    let mut usual = vec![UPLINK, "enp3s0", "eno1", "wlan0", "wwan0", "ibs4", "slx0", "bond1"];
    uplinks_are(&pair, &usual)?;
    pods_are_reached_by(&pair, FIRST)?;

    // One that carries packets comes, goes, and is another with the same name.
    for _ in 0..2 {
        pair.second_uplink("eth1")?;
        uplinks_are(&pair, &[&usual[..], &["eth1"]].concat())?;
        pods_are_reached_by(&pair, SECOND)?;
        pods_are_reached_by(&pair, FIRST)?;
        host.sh("ip link del eth1")?;
        uplinks_are(&pair, &usual)?;
        pods_are_reached_by(&pair, FIRST)?;
    }

    // A port that is let go, a new name, and a name that is none.
    host.sh("ip link set eth9 nomaster")?;
    usual.push("eth9");
    uplinks_are(&pair, &usual)?;
    for (from, to) in [("veth7", "ens7"), ("wlan0", "air0")] {
        host.sh(&format!("ip link set {from} down"))?;
        host.sh(&format!("ip link set {from} name {to}"))?;
        host.sh(&format!("ip link set {to} up"))?;
    }
    usual.retain(|name| *name != "wlan0");
    usual.push("ens7");
    uplinks_are(&pair, &usual)?;
    pods_are_reached_by(&pair, FIRST)
}

#[test]
fn an_operators_pattern_stands_in_the_place_of_calicos() -> Result<()> {
    let pair = Pair::open(&["--uplink", "^(ens33|lan[0-9]+)$"])?;
    for name in ["lan0", "lan1x", "eth5"] {
        pair.here.host.sh(&format!("ip link add {name} type veth peer name p-{name}"))?;
        pair.here.host.sh(&format!("ip link set {name} up"))?;
    }
    uplinks_are(&pair, &[UPLINK, "lan0"])?;
    pair.second_uplink("lan77")?;
    uplinks_are(&pair, &[UPLINK, "lan0", "lan77"])?;
    pods_are_reached_by(&pair, SECOND)
}

#[test]
fn an_uplink_that_nothing_leaves_by_is_said_with_its_time_until_it_is_up() -> Result<()> {
    let pair = Pair::open(&[])?;
    let host = &pair.here.host;
    uplinks_are(&pair, &[UPLINK])?;
    let notes = || -> Result<Vec<String>> {
        let interfaces = pair.here.dataplane()?.interfaces;
        let uplink = interfaces.into_iter().find(|interface| interface.name == UPLINK);
        Ok(uplink.map(|uplink| uplink.notes).unwrap_or_default())
    };
    let is_down = |note: &String| note.starts_with("down or without carrier since ");
    ensure!(!notes()?.iter().any(is_down), "{:?}", notes()?);
    host.sh(&format!("ip link set {UPLINK} down"))?;
    let said = || notes()?.into_iter().find(is_down).context("nothing is said");
    eventually("it is said", SOON, || said().map(drop))?;
    let first = said()?;
    throughout("by the time at which it went", QUIET, || {
        ensure!(said()? == first, "{} after {first}", said()?);
        Ok(())
    })?;
    ensure!(first.contains(&format!("see `ip link show {UPLINK}`")), "{first}");
    host.sh(&format!("ip link set {UPLINK} up"))?;
    eventually("nothing is said any more", SOON, || {
        ensure!(!notes()?.iter().any(is_down), "{:?}", notes()?);
        Ok(())
    })
}
