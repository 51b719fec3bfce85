//! UDP sockets for control packets: one for each port and family to receive (RFC 5881 §4, RFC 5883 §5), and one for each
//! session to send from.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

pub const SINGLE_HOP: u16 = 3784;
pub const MULTI_HOP: u16 = 4784;
/// RFC 5881 §4: from one of these, always the same, and no other session's.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49152..=65535;
/// CS6, as routing protocols have it.
const TRAFFIC_CLASS: u32 = 0xc0;
/// Of many sessions' packets that come at once.
const RECEIVE_BUFFER: usize = 1 << 20;
const HOPS: u8 = 255;

/// linux/filter.h: offsets from here on count from the network header.
const NETWORK: i32 = -0x10_0000;
const IPV4_TTL: i32 = 8;
const IPV6_HOP_LIMIT: i32 = 7;
/// linux/bpf_common.h.
const LOAD_BYTE: u16 = 0x30;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

pub const fn port(multihop: bool) -> u16 {
    if multihop { MULTI_HOP } else { SINGLE_HOP }
}

fn any(ipv4: bool) -> IpAddr {
    if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn open(ipv4: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        if ipv4 { Domain::IPV4 } else { Domain::IPV6 },
        Type::DGRAM.nonblocking().cloexec(),
        Some(Protocol::UDP),
    )?;
    if !ipv4 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Over one hop the kernel drops what has passed a router (RFC 5881 §5, RFC 5082).
pub fn receiver(ipv4: bool, multihop: bool) -> io::Result<UdpSocket> {
    let socket = open(ipv4)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    if !multihop {
        let offset = NETWORK + if ipv4 { IPV4_TTL } else { IPV6_HOP_LIMIT };
        socket.attach_filter(&[
            SockFilter::new(LOAD_BYTE, 0, 0, offset.cast_unsigned()),
            SockFilter::new(JUMP_IF_EQUAL, 0, 1, HOPS.into()),
            SockFilter::new(RETURN, 0, 0, u32::MAX),
            SockFilter::new(RETURN, 0, 0, 0),
        ])?;
    }
    socket.bind(&SocketAddr::new(any(ipv4), port(multihop)).into())?;
    Ok(socket.into())
}

/// From `local`, and from the next source port that nobody has.
pub fn sender(local: Option<IpAddr>, ipv4: bool, next_port: &mut u16) -> io::Result<UdpSocket> {
    let socket = open(ipv4)?;
    if ipv4 {
        socket.set_ttl_v4(HOPS.into())?;
        socket.set_tos_v4(TRAFFIC_CLASS)?;
    } else {
        socket.set_unicast_hops_v6(HOPS.into())?;
        socket.set_tclass_v6(TRAFFIC_CLASS)?;
    }
    let local = local.unwrap_or(any(ipv4));
    for _ in SOURCE_PORTS {
        let port = if SOURCE_PORTS.contains(next_port) { *next_port } else { *SOURCE_PORTS.start() };
        *next_port = port.checked_add(1).unwrap_or(*SOURCE_PORTS.start());
        match socket.bind(&SocketAddr::new(local, port).into()) {
            Ok(()) => return Ok(socket.into()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}
