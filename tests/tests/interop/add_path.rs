//! Several paths for a prefix (RFC 7911), from one speaker to Manx and from Manx to another, and what Manx does with
//! them itself: both next hops in the kernel.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use manx_api::{AddPath, Explanation, Family, SessionState};
use manx_tests::{
    host::Host,
    lab::{Lab, UPLINK},
    peers::{
        Announced, Bird, ExaBgp, Frr, GoBgp, Marks, Peer, Side,
        capture::{Capture, OPEN},
        manx::Manx,
    },
    wait::eventually,
};

use crate::lab::{AS, FAR, HIGH, LOW, MIDDLE, Other, POOLS, Place};

const UP: Duration = Duration::from_secs(30);
const HEARD: Duration = Duration::from_secs(10);
/// The capability of RFC 7911 §4.
const ADD_PATH: u8 = 69;

/// What the high place announces twice.
const SHARED: [&str; 2] = ["172.16.200.0/26", "fd00:172:0:200::/122"];

/// Its two ways there, by family: two more addresses of the high place.
fn ways() -> [[IpAddr; 2]; 2] {
    [["192.168.80.201", "192.168.80.202"], ["fd00:80::201", "fd00:80::202"]].map(|texts| {
        // As written here.
        texts.map(|text| text.parse().expect("an address"))
    })
}

/// Manx in the middle, in one AS with these.
fn resources(places: &[Place]) -> String {
    let peers: String = places
        .iter()
        .copied()
        .flat_map(Place::addresses)
        .enumerate()
        .map(|(n, address)| {
            format!(
                "---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {{ name: peer-{n}, annotations: {{ manx.dev/addPath: both=4 }} }}
spec: {{ peerIP: \"{address}\", asNumber: {AS} }}
"
            )
        })
        .collect();
    let [pool4, pool6] = POOLS;
    let (ipv4, ipv6) = (MIDDLE.ipv4(), MIDDLE.ipv6());
    format!(
        "apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {{ name: default, annotations: {{ manx.dev/multipath: \"4\" }} }}
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
spec: {{ bgp: {{ ipv4Address: {ipv4}/24, ipv6Address: \"{ipv6}/64\", routeReflectorClusterID: 224.0.0.7 }} }}
{peers}"
    )
}

/// The kernel's next hops for a prefix.
fn in_kernel(manx: &Manx, prefix: &str) -> Result<Vec<IpAddr>> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let text = manx.host.sh(&format!("ip {family} route show {prefix} proto manx"))?;
    let mut hops = after_via(&text)?;
    ensure!(text.matches(UPLINK).count() == hops.len(), "{text}");
    hops.sort_unstable();
    Ok(hops)
}

fn after_via(text: &str) -> Result<Vec<IpAddr>> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let hops = words.windows(2).filter(|pair| pair[0] == "via").map(|pair| pair[1].parse());
    Ok(hops.collect::<Result<_, _>>()?)
}

/// Manx, its kernel and its map use these next hops. Returns what Manx says of them.
fn used(manx: &Manx, prefix: &str, expected: &[IpAddr]) -> Result<Explanation> {
    let explained = manx.explain(prefix)?;
    let mut used: Vec<IpAddr> =
        explained.paths.iter().filter(|path| path.used).filter_map(|path| path.next_hop).collect();
    used.sort_unstable();
    ensure!(used == expected, "{prefix}: Manx uses {used:?}: {explained:?}");
    let kernel = in_kernel(manx, prefix)?;
    ensure!(kernel == expected, "{prefix}: the kernel has {kernel:?}");
    let route = manx.route(prefix)?;
    ensure!(route.agree, "{prefix}: {route:?}");
    let map = route.map.as_ref().map(|map| map.text.clone()).unwrap_or_default();
    let mut hops = after_via(&map)?;
    hops.sort_unstable();
    ensure!(hops == expected, "{prefix}: the map has \"{map}\"");
    Ok(explained)
}

/// Two routes of each family.
fn shared() -> Vec<Announced> {
    let all = (0..2).flat_map(|way| [0, 1].map(|family| (family, ways()[family][way])));
    let announced = |(family, next_hop): (usize, IpAddr)| Announced {
        prefix: SHARED[family].to_owned(),
        next_hop,
        marks: Marks::default(),
    };
    all.map(announced).collect()
}

/// The host of a place to which [`ways`] lead.
fn host_with_ways(place: Place, lab: &mut Lab) -> Result<Host> {
    let host = place.host(lab)?;
    for address in ways().concat() {
        let length = if address.is_ipv4() { 24 } else { 64 };
        host.sh(&format!("ip address add {address}/{length} dev {UPLINK} nodad"))?;
    }
    Ok(host)
}

fn stands(manx: &Manx, place: Place) -> Result<()> {
    for address in place.addresses() {
        let peer = manx.peer(address)?;
        ensure!(peer.state == SessionState::Established, "{address} is {} {}", peer.state, peer.info);
        let family = if address.is_ipv4() { Family::Ipv4Unicast } else { Family::Ipv6Unicast };
        let both = AddPath { family, send: true, receive: true };
        ensure!(peer.add_path == [both], "{address}: {:?}", peer.add_path);
    }
    Ok(())
}

fn from_to(source: Other, sink: Other) -> Result<()> {
    let mut lab = Lab::new()?;
    std::fs::write(lab.store().join("cluster.yaml"), resources(&[LOW, HIGH]))?;
    let capture = Capture::start(&lab)?;
    let manx = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let mut start = |program: Other, place: Place, side| {
        let mut speaking = place.speaking(AS, &[(MIDDLE, AS)]);
        (speaking.add_path, speaking.side) = (true, side);
        let host = if place == HIGH {
            speaking.routes = shared();
            host_with_ways(place, &mut lab)?
        } else {
            place.host(&mut lab)?
        };
        Peer::start(program, host, speaking, &lab.logs())
    };
    let (low, high) = (start(sink, LOW, Side::Listens)?, start(source, HIGH, Side::Dials)?);
    let told =
        |e: anyhow::Error| e.context(format!("{}\n{}\n{}", manx.account(), low.account(), high.account()));
    eventually("all sessions stand", UP, || stands(&manx, LOW).and_then(|()| stands(&manx, HIGH)))
        .map_err(told)?;

    let everybody_has = |expected: [Vec<IpAddr>; 2]| {
        eventually("everybody has the paths that there are", HEARD, || {
            for (prefix, expected) in SHARED.iter().zip(&expected) {
                let explained = used(&manx, prefix, expected)?;
                let heard = low.next_hops(prefix)?;
                ensure!(heard == *expected, "{prefix}: the other side has {heard:?}");
                let to_low = explained.sent.iter().find(|sent| LOW.addresses().contains(&sent.peer));
                let sent = to_low.map_or(0, |sent| sent.paths.iter().filter(|path| path.sent).count());
                ensure!(sent == expected.len(), "{prefix}: {sent} paths sent: {to_low:?}");
            }
            Ok(())
        })
        .map_err(told)
    };
    everybody_has(ways().map(|both| both.to_vec()))?;
    // One path of each goes, by its name; the other stays.
    high.withdraw(0)?;
    high.withdraw(1)?;
    everybody_has(ways().map(|both| vec![both[1]]))?;

    let packets = capture.finish(&lab, &[])?;
    for address in [LOW, MIDDLE, HIGH].into_iter().flat_map(Place::addresses) {
        let mut opens = packets.iter().filter(|p| p.from == address && p.messages.contains(&OPEN));
        ensure!(opens.any(|open| open.capabilities.contains(&ADD_PATH)), "{address} offers no paths");
    }
    Ok(())
}

#[test]
fn several_paths_pass_from_a_bird_through_manx_to_a_bird() -> Result<()> {
    from_to(&Bird, &Bird)
}

#[test]
fn several_paths_pass_from_an_exabgp_through_manx_to_an_frr() -> Result<()> {
    from_to(&ExaBgp, &Frr)
}

#[test]
fn several_paths_pass_from_a_gobgp_through_manx_to_a_gobgp() -> Result<()> {
    from_to(&GoBgp, &GoBgp)
}

#[test]
fn several_paths_pass_from_a_bird_through_manx_to_an_exabgp() -> Result<()> {
    from_to(&Bird, &ExaBgp)
}

/// FRR has no two routes of its own for a prefix; what it reflects it passes on by names of its own.
#[test]
fn several_paths_that_an_frr_reflects_come_to_manx() -> Result<()> {
    let mut lab = Lab::new()?;
    std::fs::write(lab.store().join("cluster.yaml"), resources(&[HIGH]))?;
    let capture = Capture::start(&lab)?;
    let manx = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let mut reflecting = HIGH.speaking(AS, &[(MIDDLE, AS), (FAR, AS)]);
    (reflecting.add_path, reflecting.cluster_id) = (true, Some(HIGH.ipv4()));
    let reflector = Peer::start(&Frr, HIGH.host(&mut lab)?, reflecting, &lab.logs())?;
    let mut speaking = FAR.speaking(AS, &[(HIGH, AS)]);
    (speaking.add_path, speaking.side, speaking.routes) = (true, Side::Dials, shared());
    let source = Peer::start(&ExaBgp, host_with_ways(FAR, &mut lab)?, speaking, &lab.logs())?;
    let told = |e: anyhow::Error| {
        e.context(format!("{}\n{}\n{}", manx.account(), reflector.account(), source.account()))
    };
    eventually("the sessions with FRR stand", UP, || stands(&manx, HIGH)).map_err(told)?;
    let manx_has = |expected: [Vec<IpAddr>; 2]| {
        eventually("Manx has the paths that there are", UP, || {
            for (prefix, expected) in SHARED.iter().zip(&expected) {
                let explained = used(&manx, prefix, expected)?;
                let mut names: Vec<Option<u32>> = explained.paths.iter().map(|path| path.path_id).collect();
                names.sort_unstable();
                names.dedup();
                ensure!(names.len() == expected.len() && names[0].is_some(), "{prefix}: {explained:?}");
                let reflected = explained
                    .paths
                    .iter()
                    .all(|path| path.originator_id == Some(FAR.ipv4()) && path.cluster_list == [HIGH.ipv4()]);
                ensure!(reflected, "{prefix}: {explained:?}");
            }
            Ok(())
        })
        .map_err(told)
    };
    manx_has(ways().map(|both| both.to_vec()))?;
    source.withdraw(0)?;
    source.withdraw(1)?;
    manx_has(ways().map(|both| vec![both[1]]))?;
    capture.finish(&lab, &[]).map(drop)
}
