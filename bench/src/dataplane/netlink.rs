//! rtnetlink as far as the benchmark needs it, sharing no code with the sink that it measures: routes written as fast
//! as the kernel takes them, and routes counted as they come.

use std::{
    net::IpAddr,
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
/// NLM_F_REQUEST, NLM_F_CREATE and NLM_F_EXCL; and NLM_F_ACK.
const CREATE: u16 = 0x1 | 0x400 | 0x200;
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
pub fn write(prefixes: &[(IpAddr, u8)], gateway: IpAddr, ifindex: u32) -> Result<Duration> {
    let fd = open(0)?;
    let start = Instant::now();
    let mut packet = Vec::new();
    let mut answer = vec![0; 64 << 10];
    for batch in prefixes.chunks(BATCH) {
        packet.clear();
        for (place, prefix) in batch.iter().enumerate() {
            let flags = if place + 1 == batch.len() { CREATE | ACK } else { CREATE };
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
        let mut buffer = vec![0; 16 << 10];
        let mut seen = 0;
        loop {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    seen += self.routes(buffer.get(..length).unwrap_or_default());
                    if seen >= count {
                        return Ok(Instant::now());
                    }
                }
                Err(Errno::EAGAIN) => {
                    if Instant::now() > end {
                        bail!("{seen} of {count} routes after {limit:?}");
                    }
                    thread::sleep(STEP);
                }
                Err(error) => return Err(error).context("reading the kernel's events"),
            }
        }
    }

    fn routes(&self, mut messages: &[u8]) -> u32 {
        let mut count = 0;
        while let Some(length) = messages.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
            let (Some(this), true) = (messages.get(..length), length >= HEADER) else { break };
            // The protocol is the sixth octet of a route's message.
            let ours = kind(this) == Some(RTM_NEWROUTE) && this.get(HEADER + 5) == Some(&self.protocol);
            count += u32::from(ours);
            messages = messages.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        count
    }
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
        assert_eq!(watch(77).routes(&messages), 3);
        assert_eq!(watch(12).routes(&messages), 0);
    }
}
