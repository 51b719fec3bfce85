//! Connections that are signed (RFC 2385) or held to a TTL (RFC 5082): with each program, dialled by either side, over
//! IPv4 and IPv6; and what those meet who do not sign, sign wrongly or send from too far.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::AsFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use manx_api::{Dialler, SessionState};
use manx_tests::{
    host::Host,
    lab::Lab,
    peers::{
        Bird, ExaBgp, Frr, GoBgp, Peer, Side,
        capture::{Capture, OPEN, UPDATE},
        manx::{BgpPeer, Manx, resources},
    },
    wait::eventually,
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::lab::{AS, HIGH, LOW, MIDDLE, Other, POOLS, Place};

/// GoBGP waits 5 to 10 s before it dials, and a SYN that was dropped is sent again after 1 and 3 s.
const UP: Duration = Duration::from_secs(25);
const PASSWORD: &str = "correct-horse";
const SIGNED: &str = ", password: { secretKeyRef: { name: bgp, key: password } }";
const NEAR: &str = ", ttlSecurity: 1";

/// Segments that are not signed (option 19), and such as come from too far, but for RSTs and what the kernel sends for
/// connections that it has forgotten: it has neither key nor TTL for those.
const UNSIGNED: &str = "tcp&&!(tcp.option_kind==19)&&tcp.flags.reset==0";
const FROM_FAR: &str = "tcp&&(ip.ttl<255||ipv6.hlim<255)&&tcp.flags.reset==0";

pub fn write_resources(lab: &Lab, peers: &[BgpPeer], more: &str) -> Result<()> {
    let document = resources(AS, &POOLS, &[MIDDLE.node(None)], peers) + more;
    let (new, file) = (lab.store().join("cluster.new"), lab.store().join("cluster.yaml"));
    fs::write(&new, document)?;
    Ok(fs::rename(new, file)?)
}

fn write_secret(lab: &Lab, key: &str, text: &str) -> Result<()> {
    let secret = lab.store().join("secrets/bgp");
    fs::create_dir_all(&secret)?;
    Ok(fs::write(secret.join(key), text)?)
}

fn peers_with(places: &[Place], more: &'static str) -> Vec<BgpPeer> {
    places.iter().flat_map(|place| place.peers(AS)).map(|peer| BgpPeer { more, ..peer }).collect()
}

pub fn manx(lab: &mut Lab) -> Result<Manx> {
    Manx::start(MIDDLE.host(lab)?, &["--dataplane", "off"], &lab.logs())
}

fn is_up(manx: &Manx, address: IpAddr) -> Result<()> {
    let peer = manx.peer(address)?;
    ensure!(peer.state == SessionState::Established, "{address} is {} {}", peer.state, peer.info);
    Ok(())
}

/// Manx between two of them: it dials the low one, and the high one dials it.
fn protected(program: Other, password: Option<&'static str>, next_link_only: bool) -> Result<()> {
    let mut lab = Lab::new()?;
    write_secret(&lab, "password", &format!("{PASSWORD}\n"))?;
    let more = if password.is_some() { SIGNED } else { NEAR };
    write_resources(&lab, &peers_with(&[LOW, HIGH], more), "")?;
    let capture = Capture::start(&lab)?;
    let manx = manx(&mut lab)?;
    let mut other = |place: Place, side| {
        let mut speaking = place.speaking(AS, &[(MIDDLE, AS)]);
        (speaking.side, speaking.password, speaking.next_link_only) = (side, password, next_link_only);
        let host = place.host(&mut lab)?;
        // ExaBGP sets the TTL of what it has accepted and not of its listening socket: its SYN-ACKs carry the system's.
        for default in
            ["net.ipv4.ip_default_ttl", "net.ipv6.conf.all.hop_limit", "net.ipv6.conf.ens33.hop_limit"]
        {
            if program.name() == "exabgp" && next_link_only {
                host.sysctl(default, "255")?;
            }
        }
        Peer::start(program, host, speaking, &lab.logs())
    };
    let (low, high) = (other(LOW, Side::Listens)?, other(HIGH, Side::Dials)?);
    let told = |e: anyhow::Error| e.context([manx.account(), low.account(), high.account()].join("\n"));
    eventually("all sessions stand", UP, || {
        for (place, dialler) in [(LOW, Dialler::Local), (HIGH, Dialler::Remote)] {
            for address in place.addresses() {
                is_up(&manx, address)?;
                let found = manx.peer(address)?.connection.map(|connection| connection.dialled_by);
                ensure!(found == Some(dialler), "{address}: dialled by {found:?}");
            }
        }
        Ok(())
    })
    .map_err(told)?;
    for (place, peer) in [(LOW, &low), (HIGH, &high)] {
        for (address, prefix) in place.addresses().into_iter().zip(MIDDLE.blocks()) {
            eventually("both have the other's block", UP, || {
                ensure!(manx.peer(address)?.prefixes_received == 1, "nothing from {address}");
                peer.learned(&prefix)
            })
            .map_err(told)?;
        }
    }
    let filter = if password.is_some() { UNSIGNED } else { FROM_FAR };
    let (packets, stray) = capture.finish_counting(&lab, &[], &[filter])?;
    for address in [LOW.addresses(), HIGH.addresses()].concat() {
        for kind in [OPEN, UPDATE] {
            let from = packets.iter().filter(|packet| packet.from == address);
            ensure!(from.into_iter().any(|packet| packet.messages.contains(&kind)), "{address}: no {kind}");
        }
    }
    ensure!(stray == [0], "{stray:?} packets are {filter}");
    ensure!(!manx.log_text()?.contains(PASSWORD), "the password is in the log");
    Ok(())
}

#[test]
fn signed_sessions_with_bird_stand_whoever_dials() -> Result<()> {
    protected(&Bird, Some(PASSWORD), false)
}

#[test]
fn signed_sessions_with_frr_stand_whoever_dials() -> Result<()> {
    protected(&Frr, Some(PASSWORD), false)
}

#[test]
fn signed_sessions_with_gobgp_stand_whoever_dials() -> Result<()> {
    protected(&GoBgp, Some(PASSWORD), false)
}

#[test]
fn signed_sessions_with_exabgp_stand_whoever_dials() -> Result<()> {
    protected(&ExaBgp, Some(PASSWORD), false)
}

#[test]
fn sessions_over_the_next_link_only_stand_with_bird_whoever_dials() -> Result<()> {
    protected(&Bird, None, true)
}

#[test]
fn sessions_over_the_next_link_only_stand_with_frr_whoever_dials() -> Result<()> {
    protected(&Frr, None, true)
}

#[test]
fn sessions_over_the_next_link_only_stand_with_gobgp_whoever_dials() -> Result<()> {
    protected(&GoBgp, None, true)
}

#[test]
fn sessions_over_the_next_link_only_stand_with_exabgp_whoever_dials() -> Result<()> {
    protected(&ExaBgp, None, true)
}

/// The IPv6 session has a password of its own, so that it can be seen that nothing happens to it.
#[test]
fn a_password_that_is_missing_wrong_or_changed_concerns_its_session_alone_and_is_told() -> Result<()> {
    let mut lab = Lab::new()?;
    let [v4, v6] = LOW.addresses();
    let mut peers = peers_with(&[LOW], SIGNED);
    peers[1].more = ", password: { secretKeyRef: { name: bgp, key: other } }";
    write_resources(&lab, &peers, "")?;
    write_secret(&lab, "other", PASSWORD)?;
    let manx = manx(&mut lab)?;
    let mut speaking = LOW.speaking(AS, &[(MIDDLE, AS)]);
    speaking.password = Some(PASSWORD);
    let low = Peer::start(&Bird, LOW.host(&mut lab)?, speaking, &lab.logs())?;
    let told = |e: anyhow::Error| e.context([manx.account(), low.account()].join("\n"));
    eventually("the IPv6 session stands", UP, || is_up(&manx, v6)).map_err(told)?;
    let info = manx.peer(v4)?.info;
    ensure!(info.contains("/etc/manx/secrets/bgp/password does not exist"), "{info}");

    write_secret(&lab, "password", "mistaken-horse")?;
    eventually("the wrong password is suspected", UP, || {
        let (peer, status) = (manx.peer(v4)?, manx.status()?);
        ensure!(peer.state != SessionState::Established, "a session with the wrong password");
        ensure!(peer.info.contains("is the password the same on both sides?"), "{}", peer.info);
        ensure!(status.warnings.iter().any(|w| w.contains("TCPMD5Failure")), "{:?}", status.warnings);
        Ok(())
    })
    .map_err(told)?;
    let history = manx.host.sh(&format!("manxctl history {v4}"))?;
    ensure!(history.contains("is the password the same"), "{history}");

    write_secret(&lab, "password", PASSWORD)?;
    eventually("the right password is taken", UP, || is_up(&manx, v4)).map_err(told)?;
    // BIRD does not know the new one.
    write_secret(&lab, "password", "later-horse")?;
    eventually("the changed password is taken", UP, || {
        ensure!(manx.peer(v4)?.state != SessionState::Established, "still the old one");
        Ok(())
    })
    .map_err(told)?;
    ensure!(manx.peer(v4)?.stale, "its routes are kept while the other side gets the new password");
    write_secret(&lab, "password", PASSWORD)?;
    eventually("the old password is taken again", UP, || is_up(&manx, v4)).map_err(told)?;
    ensure!(manx.peer(v6)?.times_established == 1, "the other session was disturbed");
    for word in [PASSWORD, "mistaken-horse", "later-horse"] {
        let log = manx.log_text()?;
        let line = log.lines().find(|line| line.contains(word));
        ensure!(line.is_none(), "a password is in the log: {line:?}");
    }
    Ok(())
}

/// From the peer's own address, as one who spoofs it would.
fn dial(host: &Host, from: IpAddr, to: IpAddr, ttl: u32) -> std::io::Result<TcpStream> {
    host.run(move || {
        let socket = Socket::new(Domain::for_address(SocketAddr::new(to, 179)), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        set_ttl(&socket, to, ttl)?;
        socket.connect_timeout(&SocketAddr::new(to, 179).into(), Duration::from_secs(2))?;
        Ok(socket.into())
    })
}

fn set_ttl(socket: &impl AsFd, to: IpAddr, ttl: u32) -> std::io::Result<()> {
    let socket = SockRef::from(socket);
    if to.is_ipv4() { socket.set_ttl_v4(ttl) } else { socket.set_unicast_hops_v6(ttl) }
}

/// Behaviour 15.
#[test]
fn nothing_with_a_ttl_of_254_reaches_a_session_over_the_next_link_only() -> Result<()> {
    nothing_from_beyond(NEAR, 255)
}

/// BIRD's `multihop 2`, and FRR's `ttl-security hops 2`.
#[test]
fn nothing_with_a_ttl_of_253_reaches_a_session_over_two_links() -> Result<()> {
    nothing_from_beyond(", ttlSecurity: 2", 254)
}

fn nothing_from_beyond(security: &'static str, least: u32) -> Result<()> {
    let mut lab = Lab::new()?;
    write_resources(&lab, &peers_with(&[LOW], security), "")?;
    let _manx = manx(&mut lab)?;
    let low = LOW.host(&mut lab)?;
    for (from, to) in LOW.addresses().into_iter().zip(MIDDLE.addresses()) {
        for ttl in [64, least - 1] {
            let outcome = dial(&low, from, to, ttl).map_err(|error| error.kind());
            ensure!(outcome.is_err_and(|kind| kind == ErrorKind::TimedOut), "{from}: answered at TTL {ttl}");
        }
        let mut near = dial(&low, from, to, least).context("from near enough")?;
        near.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut open = [0; 29];
        near.read_exact(&mut open).context("OPEN")?;
        // What would end any session: a message that is none.
        set_ttl(&near, to, least - 1)?;
        near.write_all(&[0; 19])?;
        near.set_read_timeout(Some(Duration::from_millis(700)))?;
        let mut rest = Vec::new();
        let silence = near.read_to_end(&mut rest).map_err(|error| error.kind());
        ensure!(silence == Err(ErrorKind::WouldBlock), "{from}: {silence:?}, {rest:?}");
        // The kernel sends it again, from near enough.
        set_ttl(&near, to, least)?;
        near.set_read_timeout(Some(Duration::from_secs(10)))?;
        let _ = near.read_to_end(&mut rest);
        let notification = rest.windows(3).any(|octets| octets == [3, 1, 1]);
        ensure!(notification, "{from}: no NOTIFICATION 1/1 in {rest:?}");
    }
    Ok(())
}

/// BIRD in the high place signs, and the one in the low place does not.
#[test]
fn who_signs_and_dials_from_the_range_is_a_peer_and_who_does_not_sign_is_not() -> Result<()> {
    let mut lab = Lab::new()?;
    write_secret(&lab, "password", PASSWORD)?;
    let mut more = String::new();
    for (n, range) in ["192.168.80.0/24", "fd00:80::/64"].iter().enumerate() {
        more.push_str(&format!(
            "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: range-{n}\n  annotations:\n    \
             manx.dev/peerRange: \"{range}\"\nspec: {{ asNumber: {AS}, ttlSecurity: 1{SIGNED} }}\n"
        ));
    }
    write_resources(&lab, &[], &more)?;
    let capture = Capture::start(&lab)?;
    let manx = manx(&mut lab)?;
    let mut other = |place: Place, password| {
        let mut speaking = place.speaking(AS, &[(MIDDLE, AS)]);
        (speaking.side, speaking.password, speaking.next_link_only) = (Side::Dials, password, true);
        Peer::start(&Bird, place.host(&mut lab)?, speaking, &lab.logs())
    };
    let (low, mut high) = (other(LOW, None)?, other(HIGH, Some(PASSWORD))?);
    let told =
        |e: anyhow::Error, high: &Peer| e.context([manx.account(), low.account(), high.account()].join("\n"));
    for (address, block) in HIGH.addresses().into_iter().zip(MIDDLE.blocks()) {
        eventually("a peer of the range is up", UP, || is_up(&manx, address)).map_err(|e| told(e, &high))?;
        eventually("it learns", UP, || high.learned(&block)).map_err(|e| told(e, &high))?;
        let peer = manx.peer(address)?;
        let range = peer.range.context("no range")?;
        ensure!(range.contains(address) && peer.resource.starts_with("BGPPeer/range-"), "{peer:?}");
    }
    thread::sleep(Duration::from_secs(3));
    let status = manx.status()?;
    ensure!(status.peers.len() == 2, "{:?}", status.peers);
    ensure!(status.ranges.iter().all(|range| range.peers == 1), "{:?}", status.ranges);
    // BIRD asks for its routes to be kept, and so it is remembered.
    high.kill()?;
    eventually("its routes are kept", UP, || {
        for address in HIGH.addresses() {
            ensure!(manx.peer(address)?.stale, "{address} is not stale");
        }
        Ok(())
    })
    .map_err(|e| told(e, &high))?;
    high.start_again()?;
    for address in HIGH.addresses() {
        eventually("it is back", UP, || is_up(&manx, address)).map_err(|e| told(e, &high))?;
        ensure!(manx.peer(address)?.times_established == 2, "it was forgotten meanwhile");
    }
    capture.finish(&lab, &[])?;
    Ok(())
}

/// Two nodes of the mesh look at their secrets at different times: each changes over while the other has the old one.
#[test]
fn a_new_password_of_the_mesh_costs_no_route_in_the_kernel() -> Result<()> {
    let mut lab = Lab::new()?;
    write_secret(&lab, "password", PASSWORD)?;
    let document = resources(AS, &POOLS, &[MIDDLE.node(None), HIGH.node(None)], &[]);
    let mesh = "nodeMeshPassword: { secretKeyRef: { name: bgp, key: password } }";
    fs::write(lab.store().join("cluster.yaml"), document.replace("nodeToNodeMeshEnabled: false", mesh))?;
    let mut node = |place: Place| -> Result<Manx> {
        let host = place.host(&mut lab)?;
        Manx::start(host, &["--fast-path", "off"], &lab.logs())
    };
    let nodes = [(node(MIDDLE)?, HIGH), (node(HIGH)?, MIDDLE)];
    let told = |e: anyhow::Error| e.context(nodes.each_ref().map(|(manx, _)| manx.account()).join("\n"));
    let routes_stand = || -> Result<()> {
        for (manx, other) in &nodes {
            for block in other.blocks() {
                let family = if block.contains(':') { "-6" } else { "-4" };
                let route = manx.host.sh(&format!("ip {family} route show {block} proto manx"))?;
                ensure!(route.contains("via"), "{}: no route to {block}", manx.host.name());
            }
        }
        Ok(())
    };
    let established = |times: u64| -> Result<()> {
        for (manx, other) in &nodes {
            for address in other.addresses() {
                is_up(manx, address)?;
                let found = manx.peer(address)?.times_established;
                ensure!(found == times, "{address} was established {found} times");
            }
        }
        routes_stand()
    };
    eventually("the mesh stands", UP, || established(1)).map_err(told)?;
    write_secret(&lab, "password", "another")?;
    eventually("the new password is in force", UP, || {
        // Every look is one at the kernel's routes, too.
        routes_stand().expect("a route went while the password changed");
        established(2)
    })
    .map_err(told)?;
    eventually("what was kept is heard again", UP, || {
        for (manx, other) in &nodes {
            for address in other.addresses() {
                ensure!(!manx.peer(address)?.stale, "{address} is stale");
            }
        }
        Ok(())
    })
    .map_err(told)
}

/// In the datastore, as Kubernetes has it; and then nowhere else.
#[test]
fn a_password_of_a_secret_in_the_datastore_protects_a_session_and_is_shown_by_nothing() -> Result<()> {
    const ENCODED: &str = "Y29ycmVjdC1ob3JzZQ==";
    let secret = |value: &str| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: bgp, namespace: kube-system}}\ndata: {{password: {value}}}\n"
        )
    };
    let mut lab = Lab::new()?;
    let peers = peers_with(&[LOW], SIGNED);
    write_resources(&lab, &peers, &secret(ENCODED))?;
    let flags = ["--dataplane", "off", "--log-level", "trace"];
    let manx = Manx::start(MIDDLE.host(&mut lab)?, &flags, &lab.logs())?;
    let mut speaking = LOW.speaking(AS, &[(MIDDLE, AS)]);
    speaking.password = Some(PASSWORD);
    let low = Peer::start(&Bird, LOW.host(&mut lab)?, speaking, &lab.logs())?;
    let told = |e: anyhow::Error| e.context([manx.account(), low.account()].join("\n"));
    let [v4, v6] = LOW.addresses();
    eventually("both sessions stand", UP, || is_up(&manx, v4).and_then(|()| is_up(&manx, v6)))
        .map_err(told)?;
    // Another one, which BIRD does not know, at once and not when files are looked at again; and the first again.
    write_resources(&lab, &peers, &secret("bWlzdGFrZW4taG9yc2U="))?;
    eventually("the changed password is taken", UP, || {
        ensure!(manx.peer(v4)?.state != SessionState::Established, "still the old one");
        Ok(())
    })
    .map_err(told)?;
    // What is wrong is told without its value, also where a value is what is wrong.
    for wrong in ["not-base64!", "1234567890123", "{sentinel: 1}"] {
        write_resources(&lab, &peers, &secret(wrong))?;
        eventually("the mistake is told", UP, || {
            ensure!(!manx.status()?.datastore.problems.is_empty(), "no problem yet");
            Ok(())
        })?;
    }
    write_resources(&lab, &peers, &secret(ENCODED))?;
    eventually("both stand again", UP, || is_up(&manx, v4).and_then(|()| is_up(&manx, v6))).map_err(told)?;
    let mut shown = manx.log_text()?;
    ensure!(shown.contains("DEBUG"), "the log says little");
    for line in [
        "node status",
        "node status -o json",
        "plan -o json",
        "plan --all -o json",
        "history -o json",
        "lint",
        "lint -o json",
        "get secrets",
        "get bgppeers -o yaml",
        "log-level",
    ] {
        let said = manx.host.output(&format!("manxctl {line}"))?;
        shown += &said.stdout;
        shown += &said.stderr;
    }
    shown += &manx.host.sh("manxctl support-dump /tmp/manx/dump.tar.gz")?;
    shown += &manx.host.shell("mkdir -p /tmp/manx/dump && tar -xzf /tmp/manx/dump.tar.gz -C /tmp/manx/dump && grep -rh . /tmp/manx/dump")?.success()?;
    ensure!(shown.contains("Secret"), "the Secret's name is nowhere");
    for sentinel in [
        PASSWORD,
        ENCODED,
        "mistaken-horse",
        "bWlzdGFrZW4taG9yc2U",
        "not-base64!",
        "1234567890123",
        "sentinel",
    ] {
        if let Some(line) = shown.lines().find(|line| line.contains(sentinel)) {
            anyhow::bail!("{sentinel} is shown: {line}");
        }
    }
    // Who may read the datastore may ask for it by its name.
    ensure!(manx.host.sh("manxctl get secret bgp -o yaml")?.contains(ENCODED));
    Ok(())
}
