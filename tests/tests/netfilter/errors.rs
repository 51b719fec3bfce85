//! ICMP errors find the way back through a translation: closed ports, and packets too large for a link further on.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use manx_tests::{
    kernel::Family,
    talk::{Talk, Transport},
    wait::eventually,
};

use crate::{
    lab::{B, FAMILIES, Mode, World, pod_end, service_end},
    rules::{ON_A, ON_B, SERVICE_CLOSED_PORT},
};

both_ways! {
    a_closed_port_behind_a_service_is_said_to_be_closed,
    a_link_that_is_too_narrow_behind_a_service_is_found_out,
}

const PATIENCE: Duration = Duration::from_secs(5);

fn a_closed_port_behind_a_service_is_said_to_be_closed(mode: Mode) -> Result<()> {
    let world = World::new(mode)?;
    let client = &world.a.pods[1];
    for (family, service) in FAMILIES.into_iter().flat_map(|f| [(f, &ON_A), (f, &ON_B)]) {
        let to = SocketAddr::new(service.address(family), SERVICE_CLOSED_PORT);
        for attempt in 0..5 {
            let tcp = Talk::open(client, Transport::Tcp, to).map_err(|e| e.kind());
            ensure!(tcp.as_ref().err() == Some(&ErrorKind::ConnectionRefused), "{attempt}: {to}: {tcp:?}");
            // A socket that is connected hears of errors about its own flow only.
            let socket = client.run(move || {
                let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                std::net::UdpSocket::bind(any)
            })?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
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
