//! What the kernel would not forward the programs do not carry: sources that come by the wrong uplink (`rp_filter`), a node
//! on which forwarding is switched off, packets that IPsec is to transform.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use manx_api::Modes;
use manx_tests::{
    talk::{BOTH, Talk, Transport, crowd},
    wait::eventually,
};

use crate::lab::{A, B, FAMILIES, Mode, Node, World, direct_ends, pod_end};

/// An answer that does not come.
const REFUSED: Duration = Duration::from_millis(100);
const SOON: Duration = Duration::from_secs(10);
/// What the kernel tells of is followed within so much.
const AT_ONCE: Duration = Duration::from_secs(1);

fn modes(node: &Node) -> Result<Modes> {
    Ok(node.manx.dataplane()?.modes)
}

/// Of the pools in the order of [`FAMILIES`].
fn pools_are(node: &Node, expected: [&str; 2], within: Duration) -> Result<()> {
    let begun = Instant::now();
    eventually(&format!("the pools are {expected:?}"), SOON, || {
        let modes = modes(node)?;
        let found: Vec<&str> = modes.pools.iter().map(|pool| pool.mode.as_str()).collect();
        ensure!(found == expected, "{modes:?}");
        Ok(())
    })?;
    ensure!(begun.elapsed() < within, "only after {:?}", begun.elapsed());
    Ok(())
}

#[test]
fn what_comes_by_the_wrong_uplink_is_dropped_where_the_kernel_is_strict() -> Result<()> {
    let mut world = World::without_rules(Mode::Auto)?;
    let (a, b) = (world.a.host(), world.b.host());
    a.sh(&format!("ip link add eth1 type veth peer name eth1 netns {}", b.proc_path("ns/net").display()))?;
    for (host, address) in [(a, "10.9.0.1/24"), (b, "10.9.0.2/24")] {
        host.sh(&format!("ip address add {address} dev eth1"))?;
        host.sh("ip link set eth1 up")?;
    }
    world.start_with_uplinks(2)?;
    // The way to the pod is by the second uplink, and the way back by the first.
    let to = pod_end(A, FAMILIES[0], 0);
    let b = world.b.host();
    b.sh(&format!("ip route add {}/32 via 10.9.0.1 dev eth1", to.ip()))?;
    let ask = || {
        let mut talk = Talk::open(&world.b.pods[1], Transport::Udp, to)?;
        talk.set_patience(REFUSED)?;
        talk.ask(100)
    };
    let before = world.carried()?;
    for _ in 0..10 {
        ask().context("by the wrong uplink, where nobody minds")?;
    }
    ensure!(world.carried()?.since(before).a >= 20, "carried both ways");
    for (all, own, strict) in [("0", "1", true), ("0", "2", false), ("1", "0", true), ("1", "2", false)] {
        let a = world.a.host();
        a.sysctl("net.ipv4.conf.all.rp_filter", all)?;
        a.sysctl("net.ipv4.conf.eth1.rp_filter", own)?;
        eventually("manxd has heard of it", AT_ONCE, || {
            let notes = modes(&world.a)?.notes;
            ensure!(notes.iter().any(|note| note.contains("eth1")) == strict, "{notes:?}");
            Ok(())
        })?;
        for _ in 0..5 {
            let answer = ask();
            ensure!(answer.is_err() == strict, "rp_filter {all} and {own}: {answer:?}");
        }
    }
    Ok(())
}

#[test]
fn where_forwarding_is_switched_off_nothing_is_carried_until_it_is_on_again() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    let usual = if world.carries { "guarded" } else { "off" };
    let ends: Vec<_> = FAMILIES.into_iter().map(|family| direct_ends(family)[0]).collect();
    let keys = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
    for (at, key) in keys.into_iter().enumerate() {
        let mut expected = [usual; 2];
        expected[at] = "off";
        let mut running = Talk::open(&world.a.pods[1], Transport::Udp, ends[at].0)?;
        running.set_patience(REFUSED)?;
        (0..10).try_for_each(|_| running.ask(100).map(drop))?;
        world.a.host().sysctl(key, "0")?;
        pools_are(&world.a, expected, AT_ONCE)?;
        let found = modes(&world.a)?.found;
        ensure!(found.iter().any(|text| text.contains("conf.all.forwarding is 0")), "{found:?}");
        let before = world.carried()?;
        ensure!(running.ask(100).is_err() && running.ask(100).is_err(), "a running flow goes on");
        // The other node's packets too.
        let other = pod_end(A, FAMILIES[at], 0);
        let mut talk = Talk::open(&world.b.pods[1], Transport::Udp, other)?;
        talk.set_patience(REFUSED)?;
        ensure!(talk.ask(100).is_err(), "{other} answers");
        ensure!(world.carried()?.since(before).a == 0, "node a carries");
        world.a.host().sysctl(key, "1")?;
        pools_are(&world.a, [usual; 2], AT_ONCE)?;
        for transport in BOTH {
            crowd(&world.a.pods[1], transport, ends[at].0, 10).unbroken()?.answered_by(&[ends[at].1])?;
        }
    }
    // Of one uplink alone: what comes by it is the stack's, and that drops it.
    let uplink = manx_tests::lab::UPLINK;
    world.a.host().sysctl(&format!("net.ipv4.conf.{uplink}.forwarding"), "0")?;
    eventually("the uplink is off", AT_ONCE, || {
        let modes = modes(&world.a)?;
        let found =
            modes.interfaces.iter().find(|interface| interface.name == uplink).context("no uplink")?;
        ensure!(found.mode.as_deref() == Some("off"), "{found:?}");
        Ok(())
    })
}

#[test]
fn what_ipsec_is_to_transform_does_not_leave_plain() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    let usual = if world.carries { "guarded" } else { "off" };
    let to = direct_ends(FAMILIES[0])[0].0;
    let mut running = Talk::open(&world.a.pods[1], Transport::Udp, to)?;
    running.set_patience(REFUSED)?;
    (0..10).try_for_each(|_| running.ask(100).map(drop))?;
    let host = world.a.host();
    let policy = "src 172.16.10.0/26 dst 172.16.20.0/26 dir out";
    let ends = format!("src {} dst {}", A.address(FAMILIES[0]), B.address(FAMILIES[0]));
    host.sh(&format!("ip xfrm policy add {policy} tmpl {ends} proto esp mode tunnel"))?;
    pools_are(&world.a, ["off", usual], SOON)?;
    let found = modes(&world.a)?.found;
    let named = found.iter().any(|text| text.contains("IPsec policy") && text.contains("172.16.20.0/26"));
    ensure!(named, "{found:?}");
    // There is no key for it.
    ensure!(running.ask(100).is_err(), "the packet left plain");
    host.sh(&format!("ip xfrm policy delete {policy}"))?;
    pools_are(&world.a, [usual; 2], SOON)?;
    running.ask(100)?;
    Ok(())
}

#[test]
fn what_comes_by_an_interface_without_ipv6_is_the_kernels_to_drop() -> Result<()> {
    let world = World::new(Mode::Auto)?;
    let [v4, v6] = FAMILIES.map(|family| pod_end(A, family, 0));
    let mut running = Talk::open(&world.b.pods[1], Transport::Udp, v6)?;
    running.set_patience(REFUSED)?;
    (0..10).try_for_each(|_| running.ask(100).map(drop))?;
    let before = world.carried()?;
    (0..10).try_for_each(|_| running.ask(100).map(drop))?;
    ensure!((world.carried()?.since(before).a > 0) == world.carries, "node a does not carry");
    // What the pod answers comes by its host-side interface.
    let pods: Vec<String> = modes(&world.a)?.interfaces.into_iter().map(|interface| interface.name).collect();
    let pods: Vec<&String> = pods.iter().filter(|name| *name != manx_tests::lab::UPLINK).collect();
    ensure!(pods.len() == 2, "{pods:?}");
    for name in &pods {
        world.a.host().sysctl(&format!("net.ipv6.conf.{name}.disable_ipv6"), "1")?;
    }
    eventually("the interfaces are off", SOON, || {
        let modes = modes(&world.a)?;
        let off = modes.interfaces.iter().filter(|interface| interface.mode.as_deref() == Some("off"));
        ensure!(off.count() == pods.len(), "{modes:?}");
        ensure!(modes.found.iter().any(|text| text.contains("has no IPv6")), "{:?}", modes.found);
        Ok(())
    })?;
    ensure!(running.ask(100).is_err(), "an answer came by an interface without IPv6");
    for transport in BOTH {
        crowd(&world.b.pods[1], transport, v4, 10).unbroken()?.answered_by(&["a1"])?;
    }
    Ok(())
}
