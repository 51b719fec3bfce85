//! RFC 7999 through the whole house: GoBGP, another AS, asks for a pod's address to be a blackhole. Where its BGPPeer
//! allows that, packets for it die in the first program that sees them, and in the kernel; elsewhere, and after it
//! has been taken back, they do not.

use std::{fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::RouteRow;
use manx_tests::{
    kernel,
    lab::Lab,
    peers::{
        GoBgp, Peer,
        manx::{Manx, resources},
    },
    story::{counted, ping},
    wait::eventually,
};

use crate::lab::{AS, HIGH, LOW, MIDDLE, POOLS};

/// GoBGP waits up to 10 s before it dials.
const UP: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(5);
const EXPLICIT: &str = "blackhole (explicit)";

fn host_route(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// The BGPPeers that lead to GoBGP, of which each may ask for blackholes in `within`.
fn fabric(within: Option<[&str; 2]>) -> String {
    let mut out = String::new();
    for (n, address) in HIGH.addresses().into_iter().enumerate() {
        let annotations =
            within.map(|within| format!("annotations: {{manx.dev/blackholes: \"{}\"}}", within[n]));
        out.push_str(&format!(
            "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: fabric-{n}\n  {}\n\
             spec: {{peerIP: \"{address}\", asNumber: {}}}\n",
            annotations.unwrap_or_default(),
            HIGH.as_number()
        ));
    }
    out
}

/// The kernel's route for exactly this prefix is a blackhole of ours.
fn kernel_drops(node: &Manx, prefix: &str) -> Result<bool> {
    let family = if prefix.contains(':') { kernel::Family::V6 } else { kernel::Family::V4 };
    let address = prefix.split('/').next().unwrap_or(prefix);
    Ok(kernel::routes(&node.host, family)?.iter().any(|route| {
        [address, prefix].contains(&&*route.dst)
            && route.kind.as_deref() == Some("blackhole")
            && route.protocol.as_deref() == Some("manx")
    }))
}

fn is_explicit(row: &RouteRow) -> bool {
    row.wanted.as_deref() == Some(EXPLICIT) && row.map.as_ref().is_some_and(|map| map.text == EXPLICIT)
}

#[test]
fn a_blackhole_that_a_peer_asks_for_drops_where_it_may_and_as_long_as_it_asks() -> Result<()> {
    let mut lab = Lab::new()?;
    let peers: Vec<_> = LOW.peers(AS).chain(MIDDLE.peers(AS)).collect();
    let document = resources(AS, &POOLS, &[LOW.node(None), MIDDLE.node(None)], &peers);
    fs::write(lab.store().join("cluster.yaml"), document)?;
    fs::write(lab.store().join("fabric.yaml"), fabric(None))?;
    let mut speaking = HIGH.speaking(HIGH.as_number(), &[(LOW, AS), (MIDDLE, AS)]);
    speaking.routes.clear();
    let high = Peer::start(&GoBgp, HIGH.host(&mut lab)?, speaking, &lab.logs())?;
    let low = Manx::start(LOW.host(&mut lab)?, &[], &lab.logs())?;
    let middle = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let victim = low.host.pod("low-pod", &LOW.pod_addresses())?;
    let other = middle.host.pod("mid-pod", &MIDDLE.pod_addresses())?;
    for (block, via) in LOW.blocks().iter().zip(LOW.addresses()) {
        high.host.sh(&format!("ip route add {block} via {via}"))?;
    }
    for &address in victim.addresses() {
        eventually("pods reach each other", UP, || ping(&other, address))?;
        eventually("and a host without BGP routes reaches it", UP, || ping(&high.host, address))?;
    }
    for node in [&low, &middle] {
        for address in HIGH.addresses() {
            eventually("GoBGP is there", UP, || {
                let peer = node.peer(address)?;
                ensure!(peer.state == manx_api::SessionState::Established, "{peer:?}");
                Ok(())
            })?;
        }
    }

    // Nobody allowed it anything: the community is one like others.
    let rib = |verb: &str, address: IpAddr| {
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let own = HIGH.addresses()[usize::from(address.is_ipv6())];
        let attributes =
            if verb == "add" { format!("nexthop {own} community 65535:666") } else { String::new() };
        let route = host_route(address);
        high.host.sh(&format!("gobgp global rib -a {family} {verb} {route} {attributes}"))
    };
    for &address in victim.addresses() {
        rib("add", address)?;
        let route = host_route(address);
        for node in [&low, &middle] {
            let row = eventually("the route is here", SOON, || {
                node.route(&route).and_then(|row| row.bgp.is_some().then_some(row).context("not by BGP"))
            })?;
            ensure!(!is_explicit(&row) && !kernel_drops(node, &route)?, "{row:?}");
        }
        ping(&high.host, address)?;
    }

    // GoBGP may speak for the pools.
    fs::write(lab.store().join("fabric.yaml"), fabric(Some(POOLS)))?;
    for &address in victim.addresses() {
        let route = host_route(address);
        eventually("both sinks of the other node drop", SOON, || {
            let row = middle.route(&route)?;
            ensure!(is_explicit(&row) && row.agree && kernel_drops(&middle, &route)?, "{row:?}");
            Ok(())
        })?;
        eventually(
            "the pod's own node drops in the map, and leaves the kernel its route to the pod",
            SOON,
            || {
                let row = low.route(&route)?;
                ensure!(is_explicit(&row) && row.agree && !kernel_drops(&low, &route)?, "{row:?}");
                ensure!(row.reason.as_deref().is_some_and(|reason| reason.contains("pod")), "{row:?}");
                Ok(())
            },
        )?;
        let listed = middle.host.sh("manxctl blackhole list")?;
        let asks = format!("peer {} (BLACKHOLE)", HIGH.addresses()[usize::from(address.is_ipv6())]);
        ensure!(listed.contains(&route) && listed.contains(&asks), "{listed}");
        let count = |node: &Manx, program: &str| {
            Ok::<_, anyhow::Error>(counted(&node.counters()?, program, "blackhole_explicit"))
        };
        let before = (count(&low, "uplink_xdp")?, count(&middle, "pod_tc")?);
        ensure!(ping(&high.host, address).is_err(), "the wire still reaches {address}");
        ensure!(ping(&other, address).is_err(), "a pod still reaches {address}");
        ensure!(ping(&middle.host, address).is_err(), "a host still reaches {address}");
        let after = (count(&low, "uplink_xdp")?, count(&middle, "pod_tc")?);
        ensure!(after.0 > before.0 && after.1 > before.1, "{before:?} then {after:?}");
        let packet = if address.is_ipv4() { 84 } else { 104 };
        for (node, who) in [(&low, "what came by the wire"), (&middle, "what a pod sent")] {
            let listed = node.host.sh("manxctl blackhole list -o json")?;
            let listed: manx_api::Blackholes = serde_json::from_str(&listed)?;
            let row = listed.blackholes.iter().find(|row| row.prefix.to_string() == route);
            let row = row.with_context(|| format!("{listed:?}"))?;
            ensure!(row.packets == Some(1) && row.bytes == Some(packet), "{who}: {row:?}");
        }
        // A host route stops nobody else.
        let neighbour = MIDDLE.pod_addresses()[usize::from(address.is_ipv6())];
        ping(&low.host, neighbour)?;
    }

    // Not within what it may speak for any more, and then within it again.
    fs::write(lab.store().join("fabric.yaml"), fabric(Some(["192.0.2.0/24", "2001:db8::/32"])))?;
    for &address in victim.addresses() {
        eventually("the pod is reached again", SOON, || ping(&high.host, address))?;
        ensure!(!is_explicit(&middle.route(&host_route(address))?));
    }
    fs::write(lab.store().join("fabric.yaml"), fabric(Some(POOLS)))?;
    for &address in victim.addresses() {
        eventually("dropped again", SOON, || {
            ensure!(is_explicit(&low.route(&host_route(address))?));
            Ok(())
        })?;
        rib("del", address)?;
    }
    for &address in victim.addresses() {
        eventually("withdrawn: the wire", SOON, || ping(&high.host, address))?;
        eventually("withdrawn: the pods", SOON, || ping(&other, address))?;
        eventually("withdrawn: the hosts", SOON, || ping(&middle.host, address))?;
        ensure!(!kernel_drops(&middle, &host_route(address))?);
    }
    Ok(())
}
