//! IPv4 pods over links that have IPv6 alone (RFC 8950): routes and packets, both ways, the fast path included.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_api::{Counters, SessionState};
use manx_tests::{
    host::Host,
    lab::{Lab, UPLINK},
    peers::{
        Bird, Frr, Peer, Side,
        capture::{Capture, OPEN},
        manx::Manx,
    },
    story::{counted, ping},
    traffic::{End, Flow},
    wait::eventually,
};

use crate::lab::{AS, LOW, MIDDLE, Other, POOLS, Place};

const UP: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(10);
/// The capability of RFC 8950 §4.
const EXTENDED_NEXT_HOP: u8 = 5;

/// A host of that place without any IPv4 address.
fn host(place: Place, lab: &mut Lab) -> Result<Host> {
    let host = place.host(lab)?;
    host.sh(&format!("ip -4 address flush dev {UPLINK}"))?;
    // Without a way to everywhere a host does not answer for its pods' gateway. Nobody is there.
    host.sh(&format!("ip -4 route add default via inet6 fd00:80::2 dev {UPLINK} proto static metric 100"))?;
    Ok(host)
}

fn resources() -> String {
    let [pool4, pool6] = POOLS;
    let (block4, block6) = (&MIDDLE.blocks()[0], &MIDDLE.blocks()[1]);
    format!(
        "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {{ name: default }}
spec: {{ nodeToNodeMeshEnabled: false, asNumber: {AS} }}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{ name: pool-4 }}
spec: {{ cidr: {pool4}, blockSize: 26, ipipMode: Never, vxlanMode: Never }}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{ name: pool-6 }}
spec: {{ cidr: \"{pool6}\", blockSize: 122, ipipMode: Never, vxlanMode: Never }}
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: {{ name: middle }}
spec: {{ bgp: {{ ipv6Address: \"{}/64\" }} }}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {{ name: middle-4 }}
spec: {{ state: confirmed, node: middle, cidr: {block4} }}
---
apiVersion: projectcalico.org/v3
kind: BlockAffinity
metadata: {{ name: middle-6 }}
spec: {{ state: confirmed, node: middle, cidr: \"{block6}\" }}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{ name: low, annotations: {{ manx.dev/extendedNextHop: \"true\" }} }}
spec: {{ peerIP: \"{}\", asNumber: {AS} }}
",
        MIDDLE.ipv6(),
        LOW.ipv6(),
    )
}

fn ipv4_crosses_to(program: Other) -> Result<()> {
    let mut lab = Lab::new()?;
    std::fs::write(lab.store().join("cluster.yaml"), resources())?;
    let capture = Capture::start(&lab)?;
    let mut speaking = LOW.speaking(AS, &[(MIDDLE, AS)]);
    speaking.ipv4_by_ipv6 = true;
    speaking.side = Side::Listens;
    speaking.neighbours.retain(|neighbour| neighbour.address.is_ipv6());
    speaking.routes.iter_mut().for_each(|route| route.next_hop = LOW.ipv6().into());
    let other = Peer::start(program, host(LOW, &mut lab)?, speaking, &lab.logs())?;
    let manx = Manx::start(host(MIDDLE, &mut lab)?, &[], &lab.logs())?;
    let near = manx.host.pod("near", &MIDDLE.pod_addresses())?;
    let far = other.host.pod("far", &LOW.pod_addresses())?;
    let told = |e: anyhow::Error| e.context(format!("{}\n{}", manx.account(), other.account()));

    let served = || {
        let peer = manx.peer(LOW.ipv6().into())?;
        ensure!(peer.state == SessionState::Established, "{} {}", peer.state, peer.info);
        for block in LOW.blocks() {
            let route = manx.route(&block)?;
            let next_hop = route.bgp.as_ref().and_then(|bgp| bgp.next_hop);
            ensure!(next_hop == Some(IpAddr::V6(LOW.ipv6())) && route.agree, "{route:?}");
        }
        for block in MIDDLE.blocks() {
            let found = other.learned(&block)?.next_hop;
            ensure!(found == Some(IpAddr::V6(MIDDLE.ipv6())), "{block} is behind {found:?}");
        }
        Ok(())
    };
    eventually("both have both blocks of the other", UP, served).map_err(told)?;
    // By the words of the kernel, too.
    let text = manx.host.sh(&format!("ip -4 route show {}", LOW.blocks()[0]))?;
    ensure!(text.contains(&format!("via inet6 {} dev {UPLINK} proto manx", LOW.ipv6())), "{text}");

    // RFC 2545 §3: both are on one link, and so the next hop has both of Manx's addresses there.
    let link_local = manx.host.sh(&format!("ip -6 -brief address show dev {UPLINK} scope link"))?;
    let link_local = link_local.split_whitespace().find_map(|word| word.strip_suffix("/64"));
    let link_local = link_local.context("Manx has no link-local address")?.to_owned();
    for block in MIDDLE.blocks() {
        let told_by = match program.name() {
            "bird" => format!("birdc show route {block} all"),
            _ if block.contains(':') => format!("vtysh -d bgpd -c 'show bgp ipv6 unicast {block}'"),
            _ => format!("vtysh -d bgpd -c 'show bgp ipv4 unicast {block}'"),
        };
        let answer = other.host.shell(&told_by)?.success()?;
        ensure!(answer.contains(&link_local), "{block}: nothing of {link_local} in {answer}");
    }

    let mut traffic = Vec::new();
    for (&here, &there) in near.addresses().iter().zip(far.addresses()) {
        eventually("pods reach each other", UP, || ping(&near, there)).map_err(told)?;
        let (here, there) = (End { ns: &near, address: here }, End { ns: &far, address: there });
        traffic.push(Flow::start(here, there, PACE)?);
        traffic.push(Flow::start(there, here, PACE)?);
    }
    thread::sleep(Duration::from_secs(2));
    for report in Flow::stop_all(traffic)? {
        ensure!(report.lost.is_empty() && report.sent > 100, "{report}");
    }
    let counters: Counters = manx.counters()?;
    let carried = counted(&counters, "pod_tc", "redirected_neigh");
    // 400 of each family.
    ensure!(carried > 600, "{carried} packets by the fast path");

    let packets = capture.finish(&lab, &[])?;
    for address in [MIDDLE.ipv6(), LOW.ipv6()] {
        let mut opens =
            packets.iter().filter(|p| p.from == IpAddr::V6(address) && p.messages.contains(&OPEN));
        ensure!(opens.any(|open| open.capabilities.contains(&EXTENDED_NEXT_HOP)), "{address}: {packets:?}");
    }
    Ok(())
}

#[test]
fn ipv4_pods_talk_over_ipv6_links_with_an_frr() -> Result<()> {
    ipv4_crosses_to(&Frr)
}

#[test]
fn ipv4_pods_talk_over_ipv6_links_with_a_bird() -> Result<()> {
    ipv4_crosses_to(&Bird)
}
