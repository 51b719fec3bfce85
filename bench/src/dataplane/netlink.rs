//! rtnetlink as far as the benchmark needs it, sharing no code with the sink that it measures: routes written as fast
//! as the kernel takes them, and routes counted as they come.

use std::{
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
            setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

/// Messages in one send, as the sink has them.
const BATCH: usize = 64;
/// Room for the events of some hundred thousand routes, which are read in bursts.
const EVENTS: usize = 512 << 20;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const RTM_DELROUTE: u16 = 25;
/// NLM_F_REQUEST, NLM_F_CREATE and NLM_F_EXCL: routes that are not there yet.
pub const CREATE: u16 = 0x1 | 0x400 | 0x200;
/// NLM_F_REQUEST and NLM_F_REPLACE: routes that are there.
pub const REPLACE: u16 = 0x1 | 0x100;
/// NLM_F_ACK.
const ACK: u16 = 0x4;
/// RTNLGRP_IPV4_ROUTE as a bit.
const ROUTES: u32 = 0x40;
const HEADER: usize = 16;

fn open(groups: u32) -> Result<OwnedFd> {
    let fd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    Ok(fd)
}

/// A prefix by `gateway`, which is of the same family, behind `ifindex`; protocol 77, table main.
fn route(out: &mut Vec<u8>, prefix: (IpAddr, u8), gateway: IpAddr, ifindex: u32, flags: u16) {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    // AF_INET, AF_INET6.
    let family = if prefix.0.is_ipv4() { 2 } else { 10 };
    let mut body = vec![family, prefix.1, 0, 0, 254, 77, 0, 1, 0, 0, 0, 0];
    // RTA_DST, RTA_GATEWAY, RTA_OIF.
    let attributes = [(1u16, octets(prefix.0)), (5, octets(gateway)), (4, ifindex.to_ne_bytes().to_vec())];
    for (kind, value) in attributes {
        // At most 20.
        body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
        body.extend_from_slice(&kind.to_ne_bytes());
        body.extend_from_slice(&value);
    }
    // All lengths are multiples of four: no padding is needed.
    out.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend_from_slice(&RTM_NEWROUTE.to_ne_bytes());
    out.extend_from_slice(&flags.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&body);
}

/// Writes routes in this thread's network namespace, packed, with an answer for each packet's last one; how long it took.
pub fn write(prefixes: &[(IpAddr, u8)], gateway: IpAddr, ifindex: u32, how: u16) -> Result<Duration> {
    let fd = open(0)?;
    let start = Instant::now();
    let mut packet = Vec::new();
    let mut answer = vec![0; 64 << 10];
    for batch in prefixes.chunks(BATCH) {
        packet.clear();
        for (place, prefix) in batch.iter().enumerate() {
            let flags = if place + 1 == batch.len() { how | ACK } else { how };
            route(&mut packet, *prefix, gateway, ifindex, flags);
        }
        send(fd.as_raw_fd(), &packet, MsgFlags::empty())?;
        let count = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let answer = answer.get(..count).unwrap_or_default();
        let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
        let code = i32::from_ne_bytes(code.context("an answer without a code")?);
        ensure!(kind(answer) == Some(NLMSG_ERROR) && code == 0, "the kernel refused a route: {code}");
    }
    Ok(start.elapsed())
}

fn kind(message: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?))
}

/// Counts the routes of a protocol that appear.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
    protocol: u8,
}

impl Watch {
    /// In this thread's network namespace.
    pub fn open(protocol: u8) -> Result<Watch> {
        let fd = open(ROUTES)?;
        setsockopt(&fd, sockopt::RcvBufForce, &EVENTS).context("a receive buffer for events")?;
        Ok(Watch { fd, protocol })
    }

    /// When `count` routes have appeared. Looked at in steps, so that nobody is woken for each route.
    pub fn until(&self, count: u32, limit: Duration) -> Result<Instant> {
        const STEP: Duration = Duration::from_millis(4);
        let end = Instant::now() + limit;
        let mut seen = 0;
        loop {
            if let Some(changes) = self.next(MsgFlags::MSG_DONTWAIT)? {
                seen += u32::try_from(changes.iter().filter(|change| change.appeared).count())?;
                if seen >= count {
                    return Ok(Instant::now());
                }
            } else if Instant::now() > end {
                bail!("{seen} of {count} routes after {limit:?}");
            } else {
                thread::sleep(STEP);
            }
        }
    }

    /// Sleeps until the route to `address` has appeared, or gone, and says how many others changed before it.
    pub fn until_one(&self, address: Ipv4Addr, appeared: bool, limit: Duration) -> Result<(Instant, usize)> {
        let end = Instant::now() + limit;
        let mut others = 0;
        loop {
            let changes = self.next(MsgFlags::empty())?.unwrap_or_default();
            let at = Instant::now();
            if let Some(place) = changes.iter().position(|change| *change == Change { appeared, address }) {
                return Ok((at, others + place));
            }
            others += changes.len();
            let what = if appeared { "appeared" } else { "gone" };
            ensure!(at < end, "the route to {address} has not {what} after {limit:?}");
        }
    }

    /// How many routes have changed since the last look.
    pub fn count(&self) -> Result<usize> {
        let mut count = 0;
        while let Some(changes) = self.next(MsgFlags::MSG_DONTWAIT)? {
            count += changes.len();
        }
        Ok(count)
    }

    /// What the next of the kernel's messages says; `None` if there is none, at once or within the socket's time.
    fn next(&self, how: MsgFlags) -> Result<Option<Vec<Change>>> {
        let mut buffer = [0; 16 << 10];
        match recv(self.fd.as_raw_fd(), &mut buffer, how) {
            Ok(length) => Ok(Some(self.changes(buffer.get(..length).unwrap_or_default()))),
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error).context("reading the kernel's events"),
        }
    }

    fn changes(&self, mut messages: &[u8]) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(length) = messages.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            let (Some(this), true) = (messages.get(..length), length >= HEADER) else { break };
            // The protocol is the sixth octet of a route's message.
            let appeared = kind(this) == Some(RTM_NEWROUTE);
            let is_route = appeared || kind(this) == Some(RTM_DELROUTE);
            if is_route && this.get(HEADER + 5) == Some(&self.protocol) {
                changes.push(Change { appeared, address: destination(this) });
            }
            messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        changes
    }
}

/// What became of an IPv4 route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    appeared: bool,
    address: Ipv4Addr,
}

/// RTA_DST of a route's message; a default route has none.
fn destination(message: &[u8]) -> Ipv4Addr {
    // The route's own header is 12 octets.
    let mut attributes = message.get(HEADER + 12..).unwrap_or_default();
    while let Some([low, high, kind, _]) = attributes.first_chunk() {
        if let (1, Some(octets)) = (kind, attributes.get(4..8).and_then(<[u8]>::first_chunk::<4>)) {
            return Ipv4Addr::from(*octets);
        }
        let length = usize::from(u16::from_ne_bytes([*low, *high])).max(4);
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ipv4Addr::UNSPECIFIED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_counted_if_its_protocol_is_asked_for() {
        let fd = open(0);
        let mut messages = Vec::new();
        for n in 0..3 {
            route(&mut messages, ([10, 0, n, 0].into(), 24), [127, 0, 0, 1].into(), 1, CREATE);
        }
        let watch = |protocol| Watch { fd: fd.as_ref().unwrap().try_clone().unwrap(), protocol };
        let address = |n| Ipv4Addr::new(10, 0, n, 0);
        let expected = [0, 1, 2].map(|n| Change { appeared: true, address: address(n) });
        assert_eq!(watch(77).changes(&messages), expected);
        assert_eq!(watch(12).changes(&messages), []);
    }
}
