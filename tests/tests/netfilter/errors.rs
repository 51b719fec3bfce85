//! ICMP errors find the way back through a translation: hops that do not suffice, closed ports, and
//! packets too large for a link further on.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    kernel::Family,
    netns::Netns,
    talk::{Talk, Transport},
    wait::eventually,
};
use nix::{
    errno::Errno,
    sys::socket::{
        setsockopt,
        sockopt::{Ipv4RecvErr, Ipv6RecvErr},
    },
};
use socket2::SockRef;

use crate::{
    lab::{B, FAMILIES, Mode, World, direct_ends, pod_end, service_end, service_ends},
    rules::{ON_A, ON_B, SERVICE_CLOSED_PORT},
};

both_ways! {
    who_sends_with_too_small_a_ttl_hears_of_it_and_goes_on,
    a_closed_port_behind_a_service_is_said_to_be_closed,
    a_link_that_is_too_narrow_behind_a_service_is_found_out,
}

const PATIENCE: Duration = Duration::from_secs(5);

/// A socket for datagrams that hears of errors about its own flow, and of all of them.
fn connected(ns: &Netns, to: SocketAddr) -> Result<UdpSocket> {
    let socket = ns.run(move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        UdpSocket::bind(any)
    })?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvErr, &true)?,
    }
    Ok(socket)
}

fn who_sends_with_too_small_a_ttl_hears_of_it_and_goes_on(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    for (to, server) in FAMILIES.into_iter().flat_map(|f| direct_ends(f).into_iter().chain(service_ends(f))) {
        let socket = connected(&world.a.pods[1], to)?;
        let set_ttl = |ttl| match to {
            SocketAddr::V4(_) => SockRef::from(&socket).set_ttl_v4(ttl),
            SocketAddr::V6(_) => SockRef::from(&socket).set_unicast_hops_v6(ttl),
        };
        let ask = || -> io::Result<usize> {
            socket.send(b"how far is it?")?;
            socket.recv(&mut [0; 128])
        };
        // Node a is one router, and node b another.
        let hops = if server == "b1" { 2 } else { 1 };
        for round in 0..3 {
            set_ttl(64)?;
            for _ in 0..10 {
                ask().with_context(|| format!("round {round} with {to}"))?;
            }
            for ttl in 1..=hops {
                set_ttl(ttl)?;
                let outcome = ask().map_err(|e| e.raw_os_error());
                ensure!(
                    outcome == Err(Some(Errno::EHOSTUNREACH as i32)),
                    "round {round} with {to}, TTL {ttl}: {outcome:?}"
                );
            }
            set_ttl(hops + 1)?;
            ask().with_context(|| format!("round {round} with {to}: as many hops as it takes"))?;
        }
    }
    world.nothing_was_invalid()
}

fn a_closed_port_behind_a_service_is_said_to_be_closed(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let client = &world.a.pods[1];
    for (family, service) in FAMILIES.into_iter().flat_map(|f| [(f, &ON_A), (f, &ON_B)]) {
        let to = SocketAddr::new(service.address(family), SERVICE_CLOSED_PORT);
        for attempt in 0..5 {
            let tcp = Talk::open(client, Transport::Tcp, to).map_err(|e| e.kind());
            ensure!(tcp.as_ref().err() == Some(&ErrorKind::ConnectionRefused), "{attempt}: {to}: {tcp:?}");
            let socket = connected(client, to)?;
            socket.send(b"is anybody there?")?;
            let udp = socket.recv(&mut [0; 64]).map_err(|e| e.kind());
            ensure!(udp == Err(ErrorKind::ConnectionRefused), "{attempt}: {to}: {udp:?}");
        }
    }
    world.nothing_was_invalid()
}

const NARROW: u32 = 1400;

fn a_link_that_is_too_narrow_behind_a_service_is_found_out(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let server = &world.b.pods[0];
    server.sh(&format!("ip link set eth0 mtu {NARROW}"))?;
    world.b.host().sh(&format!("ip link set {} mtu {NARROW}", server.interface()))?;
    // It goes on to ask for segments that fit into 1500 octets.
    server.sh("ip route change default via 169.254.1.1 dev eth0 advmss 1460")?;
    server.sh("ip -6 route change default via fe80::ecee:eeff:feee:eeee dev eth0 advmss 1440")?;
    for family in FAMILIES {
        // Each with a client of its own: what is known of the way is remembered by the pod.
        for (client, to) in
            [(&world.a.pods[1], service_end(&ON_B, family)), (&world.a.pods[0], pod_end(B, family, 0))]
        {
            // The first datagram is lost, the next is cut by its sender.
            let mut talk = Talk::open(client, Transport::Udp, to)?;
            talk.set_patience(Duration::from_millis(300))?;
            eventually("a datagram of 1450 octets is answered", PATIENCE, || Ok(talk.ask(1450)?))
                .with_context(|| format!("{mode:?}: {to}"))?;
            let flag = if family == Family::V4 { "-4" } else { "-6" };
            let route = client.sh(&format!("ip {flag} route get {}", to.ip()))?;
            ensure!(route.contains(&format!("mtu {NARROW}")), "{to}: {route}");
            client.sh(&format!("ip {flag} route flush cache"))?;

            Talk::open(client, Transport::Tcp, to)?
                .stream(1024 * 1024)
                .with_context(|| format!("{mode:?}: a stream to {to}"))?;
            let route = client.sh(&format!("ip {flag} route get {}", to.ip()))?;
            ensure!(route.contains(&format!("mtu {NARROW}")), "{to}: {route}");
        }
    }
    world.nothing_was_invalid()
}
