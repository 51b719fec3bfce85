//! Clients that this test plays by the thousand, against manxd's real sockets.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use manx_tests::{host::Host, lab::Lab, peers::manx::Manx, wait::eventually};
use socket2::{Domain, Socket, Type};

use crate::{
    lab::{AS, LOW, MIDDLE},
    protected::{manx, write_resources},
};

const CLIENTS: u32 = 1000;
/// Behaviour 4.
const ALL_UP: Duration = Duration::from_secs(3);
const OPEN: u8 = 1;
pub const KEEPALIVE: u8 = 4;

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    // No body here is longer than an OPEN.
    let len = 19 + body.len() as u16;
    [&[0xff; 16][..], &len.to_be_bytes(), &[kind], body].concat()
}

/// Of AS [`AS`], for the family of the session, with an identifier of its own. `hold`: seconds.
pub fn open(identifier: u32, ipv4: bool, hold: u16) -> Vec<u8> {
    let multiprotocol = [1, 4, 0, if ipv4 { 1 } else { 2 }, 0, 1];
    let four_octets = [&[65, 4][..], &AS.to_be_bytes()].concat();
    let capabilities = [&multiprotocol[..], &four_octets].concat();
    // AS_TRANS.
    let mut body = vec![4];
    body.extend(23456_u16.to_be_bytes());
    body.extend(hold.to_be_bytes());
    body.extend(identifier.to_be_bytes());
    body.extend([capabilities.len() as u8 + 2, 2, capabilities.len() as u8]);
    body.extend(capabilities);
    message(OPEN, &body)
}

struct Client {
    stream: TcpStream,
    open: Option<Vec<u8>>,
    heard: Vec<u8>,
    up: bool,
}

impl Client {
    fn dial(from: IpAddr, to: IpAddr, identifier: u32) -> Result<Client> {
        let to = SocketAddr::new(to, 179);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error.into()),
            _ => {}
        }
        let open = Some(open(identifier, to.is_ipv4(), 90));
        Ok(Client { stream: socket.into(), open, heard: Vec::new(), up: false })
    }

    /// Whether the session is up: each side has the other's OPEN and KEEPALIVE.
    fn go_on(&mut self) -> Result<bool> {
        if let Some(open) = &self.open {
            match self.stream.write(open) {
                Ok(written) => {
                    ensure!(written == open.len(), "half an OPEN");
                    self.open = None;
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut some = [0; 512];
        match self.stream.read(&mut some) {
            Ok(0) => anyhow::bail!("closed after {:?}", self.heard),
            // At most as many as there are.
            Ok(read) => self.heard.extend(&some[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
            Err(error) => return Err(error.into()),
        }
        while !self.up && self.heard.len() >= 19 {
            let len = usize::from(u16::from_be_bytes([self.heard[16], self.heard[17]]));
            if self.heard.len() < len {
                break;
            }
            match self.heard[18] {
                OPEN => self.stream.write_all(&message(KEEPALIVE, &[]))?,
                KEEPALIVE => self.up = true,
                other => anyhow::bail!("a message of type {other}"),
            }
            self.heard.drain(..len);
        }
        Ok(self.up)
    }
}

/// Addresses that nobody has been given one by one, here and on the way back.
pub fn thousand_addresses(client: &Host, server: &Host, ranges: [&str; 2]) -> Result<()> {
    let [v4, v6] = ranges;
    client.sh(&format!("ip route add local {v4} dev lo"))?;
    client.sh(&format!("ip -6 route add local {v6} dev lo"))?;
    client.sysctl("net.ipv6.ip_nonlocal_bind", "1")?;
    server.sh(&format!("ip route add {v4} via {}", LOW.ipv4()))?;
    server.sh(&format!("ip -6 route add {v6} via {}", LOW.ipv6()))?;
    Ok(())
}

fn numbered(base: IpAddr, n: u32) -> IpAddr {
    match base {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() + n).into(),
        IpAddr::V6(base) => std::net::Ipv6Addr::from_bits(base.to_bits() + u128::from(n)).into(),
    }
}

pub fn range_resources() -> String {
    ["10.99.0.0/16", "fd99::/64"]
        .iter()
        .enumerate()
        .map(|(n, range)| {
            format!(
                "---\napiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata:\n  name: range-{n}\n  annotations:\n    \
                 manx.dev/peerRange: \"{range}\"\nspec: {{ asNumber: {AS} }}\n"
            )
        })
        .collect()
}

/// Behaviour 4.
#[test]
fn a_thousand_clients_that_dial_in_one_instant_are_all_up_within_three_seconds() -> Result<()> {
    let mut lab = Lab::new()?;
    write_resources(&lab, &[], &range_resources())?;
    let manx = manx(&mut lab)?;
    let low = LOW.host(&mut lab)?;
    thousand_addresses(&low, &manx.host, ["10.99.0.0/16", "fd99::/64"])?;
    let queues = manx.host.sh("ss -Hltn sport = 179")?;
    let backlogs: Vec<&str> = queues.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    ensure!(backlogs == ["4096", "4096"], "the backlogs are {backlogs:?}");
    for (base, to) in ["10.99.0.1", "fd99::1"].into_iter().zip(MIDDLE.addresses()) {
        let base: IpAddr = base.parse()?;
        // Neighbours resolved: what is measured is the listener.
        low.sh(&format!("ping -c 1 -W 2 {to}"))?;
        let (took, clients) = low.run(move || -> Result<_> {
            let start = Instant::now();
            let dialled = (0..CLIENTS).map(|n| Client::dial(numbered(base, n), to, 0x0a63_0001 + n));
            let mut clients = dialled.collect::<Result<Vec<_>>>()?;
            let mut waiting: Vec<usize> = (0..clients.len()).collect();
            while !waiting.is_empty() {
                ensure!(start.elapsed() < ALL_UP * 5, "{} are not up", waiting.len());
                let mut down = Vec::new();
                for n in waiting {
                    // Numbers of clients.
                    if !clients[n].go_on().with_context(|| format!("client {n}"))? {
                        down.push(n);
                    }
                }
                waiting = down;
                thread::sleep(Duration::from_millis(1));
            }
            Ok((start.elapsed(), clients))
        })?;
        println!("{CLIENTS} clients at {to}: all up after {took:?}");
        ensure!(took < ALL_UP, "all up only after {took:?}");
        let dropped =
            manx.host.shell("nstat -asz TcpExtListenDrops TcpExtTCPReqQFullDrop | tail -n +2")?.success()?;
        let zero = dropped.lines().all(|line| line.split_whitespace().nth(1) == Some("0"));
        ensure!(zero, "the listener has dropped SYNs:\n{dropped}");
        let status = manx.status()?;
        let range = status.ranges.iter().find(|range| range.range.contains(base)).context("no range")?;
        ensure!(range.peers == u64::from(CLIENTS), "{range:?}");
        drop(clients);
        // None of them has asked for its routes to be kept.
        eventually("all are forgotten", Duration::from_secs(10), || {
            let ranges = manx.status()?.ranges;
            ensure!(ranges.iter().all(|range| range.peers == 0), "{ranges:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_backlog_that_the_kernel_caps_is_told() -> Result<()> {
    let mut lab = Lab::new()?;
    write_resources(&lab, &[], &range_resources())?;
    let host = MIDDLE.host(&mut lab)?;
    host.sysctl("net.core.somaxconn", "128")?;
    let manx = Manx::start(host, &["--dataplane", "off"], &lab.logs())?;
    eventually("it is told", Duration::from_secs(5), || {
        ensure!(
            manx.log_text()?.contains("net.core.somaxconn lets only 128 peers connect in one instant"),
            "no"
        );
        Ok(())
    })
}

fn memory(manx: &Manx) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", manx.pid().context("no manxd")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse()?)
}

/// Behaviour 3.
#[test]
fn a_thousand_connections_of_a_stranger_are_closed_without_a_byte_and_cost_nothing_that_stays() -> Result<()>
{
    let mut lab = Lab::new()?;
    write_resources(&lab, &[], &range_resources())?;
    let manx = manx(&mut lab)?;
    let low = LOW.host(&mut lab)?;
    let before = memory(&manx)?;
    let to = SocketAddr::new(MIDDLE.ipv4().into(), 179);
    let said = low.run(move || -> Result<usize> {
        let mut streams = Vec::new();
        for _ in 0..CLIENTS {
            streams.push(TcpStream::connect(to)?);
        }
        let mut said = 0;
        for mut stream in streams {
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            let mut all = Vec::new();
            match stream.read_to_end(&mut all) {
                Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error.into()),
                _ => said += all.len(),
            }
        }
        Ok(said)
    })?;
    ensure!(said == 0, "{said} octets for a stranger");
    let grown = memory(&manx)?.saturating_sub(before);
    ensure!(grown < 2048, "{grown} KiB for a stranger");
    let told = manx.log_text()?.lines().filter(|line| line.contains("dials us")).count();
    ensure!(told == 1, "told {told} times");
    Ok(())
}

/// Behaviour 60: unread octets at a close make the kernel send RST, which takes along what is on its way.
#[test]
fn the_last_word_arrives_though_the_peer_goes_on_sending() -> Result<()> {
    let mut lab = Lab::new()?;
    write_resources(&lab, &[], &range_resources())?;
    let manx = manx(&mut lab)?;
    let low = LOW.host(&mut lab)?;
    thousand_addresses(&low, &manx.host, ["10.99.0.0/16", "fd99::/64"])?;
    for n in 0..50 {
        let from = numbered("10.99.0.1".parse()?, n);
        let heard = low.run(move || -> Result<Vec<u8>> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(from, 0).into())?;
            socket.connect(&SocketAddr::new(MIDDLE.ipv4().into(), 179).into())?;
            let mut stream = TcpStream::from(socket);
            // Its marker is wrong, and much comes after it.
            stream.write_all(&[0; 19])?;
            for _ in 0..20 {
                stream.write_all(&[0; 4096])?;
            }
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard)?;
            Ok(heard)
        })?;
        // Length 21, NOTIFICATION, Message Header Error, Connection Not Synchronized.
        ensure!(heard.ends_with(&[0, 21, 3, 1, 1]), "{from} heard {heard:?}");
    }
    Ok(())
}
