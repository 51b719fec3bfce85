//! nfnetlink as far as reading nftables takes it: dumps, attributes, and the group that tells of a new generation. Other
//! protocols of netlink are asked and heard in the same way.

use std::{io, os::fd::AsFd, time::Duration};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};
use rtnetlink::sys::{Socket, SocketAddr};

use crate::netlink::RECEIVE_SIZE;

/// Numbers of `<linux/netlink.h>` and `<linux/netfilter/nfnetlink.h>`.
mod abi {
    pub const NETLINK_NETFILTER: isize = 12;
    pub const NLMSG_ERROR: u16 = 2;
    pub const NLMSG_DONE: u16 = 3;
    pub const NLM_F_REQUEST: u16 = 0x1;
    pub const NLM_F_ACK: u16 = 0x4;
    pub const NLM_F_DUMP: u16 = 0x300;
    pub const NLA_TYPE_MASK: u16 = 0x3fff;
    pub const SUBSYSTEM_NFTABLES: u16 = 10 << 8;
    pub const GROUP_NFTABLES: u32 = 7;
    pub const HEADER: usize = 16;
    /// `struct nfgenmsg`.
    pub const GENERIC: usize = 4;
}

/// The kernel answers inside `sendmsg`; waiting so long means that the answer was lost.
const ANSWER_TIMEOUT: i64 = 5;

/// For requests of nf_tables in the network namespace of the thread that opened it.
pub(crate) struct Requests {
    socket: Socket,
    received: Vec<u8>,
}

/// What a message is about, with its attributes.
pub(crate) struct Message<'a> {
    /// One of `NFPROTO_*`.
    pub family: u8,
    pub attributes: Attributes<'a>,
}

impl Requests {
    pub fn open() -> io::Result<Requests> {
        Requests::open_for(abi::NETLINK_NETFILTER)
    }

    pub fn open_for(protocol: isize) -> io::Result<Requests> {
        let socket = Socket::new(protocol)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT))?;
        Ok(Requests { socket, received: Vec::with_capacity(RECEIVE_SIZE) })
    }

    /// All objects that the request (`NFT_MSG_GET…`) names; `attributes` are encoded. A kernel without nftables has
    /// none of them.
    pub fn dump(
        &mut self,
        get: u16,
        family: u8,
        attributes: &[u8],
        each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        self.ask(get, family, abi::NLM_F_DUMP, attributes, each)
    }

    /// One object.
    pub fn get(&mut self, get: u16, each: impl FnMut(Message<'_>)) -> io::Result<()> {
        self.ask(get, 0, abi::NLM_F_ACK, &[], each)
    }

    fn ask(
        &mut self,
        get: u16,
        family: u8,
        flags: u16,
        attributes: &[u8],
        mut each: impl FnMut(Message<'_>),
    ) -> io::Result<()> {
        let content = [&[family, 0, 0, 0], attributes].concat();
        self.ask_for(abi::SUBSYSTEM_NFTABLES | get, flags, &content, |body| {
            if let (Some(family), Some(attributes)) = (body.first(), body.get(abi::GENERIC..)) {
                each(Message { family: *family, attributes: Attributes(attributes) });
            }
        })
    }

    /// All objects that a request of this kind names, of which `content` follows the header.
    pub fn dump_for(&mut self, kind: u16, content: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.ask_for(kind, abi::NLM_F_DUMP, content, each)
    }

    /// The one object that a request of this kind is for.
    pub fn get_for(&mut self, kind: u16, content: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.ask_for(kind, abi::NLM_F_ACK, content, each)
    }

    fn ask_for(
        &mut self,
        kind: u16,
        flags: u16,
        content: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let length = abi::HEADER + content.len();
        let mut request = Vec::with_capacity(length);
        request.extend((length as u32).to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((abi::NLM_F_REQUEST | flags).to_ne_bytes());
        // Sequence and port.
        request.extend([0; 8]);
        request.extend(content);
        self.socket.send(&request, 0)?;
        loop {
            self.received.clear();
            match self.socket.recv(&mut self.received, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            for (kind, body) in Messages(&self.received) {
                match kind {
                    abi::NLMSG_DONE => return Ok(()),
                    // The acknowledgement of a request for one object ends the answer to it.
                    abi::NLMSG_ERROR => return refused(body),
                    _ => each(body),
                }
            }
        }
    }
}

/// A kernel without nftables has no rules of it, and what went while it was read is not there.
fn refused(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    match code.saturating_abs() {
        0 | libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::ENOENT => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Hears of every change of nftables' rules, or of what else its groups are for.
pub(crate) struct Events(Socket);

impl Events {
    pub fn open() -> io::Result<Events> {
        Events::open_for(abi::NETLINK_NETFILTER, &[abi::GROUP_NFTABLES])
    }

    pub fn open_for(protocol: isize, groups: &[u32]) -> io::Result<Events> {
        let mut socket = Socket::new(protocol)?;
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        socket.bind(&SocketAddr::new(0, mask))?;
        Ok(Events(socket))
    }

    /// Waits for a change, so long at most. What it was is not said: one change may be a thousand messages, of which
    /// some may be lost.
    pub fn wait(&mut self, longest: Duration) -> io::Result<bool> {
        // A timeout of zero would wait for ever.
        let timeout = TimeVal::milliseconds(i64::try_from(longest.as_millis()).unwrap_or(i64::MAX).max(1));
        setsockopt(&self.0, sockopt::ReceiveTimeout, &timeout)?;
        // The first is waited for; what else is there is taken along.
        self.take(0)
    }

    /// Waits for a change of any of these, so long at most, in one sleep.
    pub fn wait_for_any(all: &mut [Events], longest: Duration) -> io::Result<()> {
        let mut sockets: Vec<_> =
            all.iter().map(|events| PollFd::new(events.0.as_fd(), PollFlags::POLLIN)).collect();
        match poll(&mut sockets, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        for events in all {
            events.take(libc::MSG_DONTWAIT)?;
        }
        Ok(())
    }

    fn take(&mut self, mut flags: i32) -> io::Result<bool> {
        let mut buffer = Vec::with_capacity(RECEIVE_SIZE);
        let mut heard = false;
        loop {
            buffer.clear();
            match self.0.recv_from(&mut buffer, flags) {
                // From the kernel only: anybody may send to a netlink socket's address.
                Ok((_, sender)) if sender.port_number() != 0 => continue,
                Ok(_) => heard = true,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => heard = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(heard),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            flags = libc::MSG_DONTWAIT;
        }
    }
}

/// Kinds and bodies of the messages of one datagram. Ends where a length makes no sense.
pub(super) struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let [l0, l1, l2, l3, k0, k1] = *self.0.first_chunk()?;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = self.0.get(abi::HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]), body))
    }
}

/// Attributes by type, without their flags. Ends where a length makes no sense.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let [l0, l1, k0, k1] = *self.0.first_chunk()?;
        let length = u16::from_ne_bytes([l0, l1]) as usize;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & abi::NLA_TYPE_MASK, value))
    }
}

impl<'a> Attributes<'a> {
    pub fn find_kind(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    pub fn text(self, kind: u16) -> String {
        self.find_kind(kind).map(text).unwrap_or_default()
    }

    pub fn number(self, kind: u16) -> Option<u32> {
        self.find_kind(kind).and_then(number)
    }

    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find_kind(kind).unwrap_or_default())
    }
}

pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|octet| *octet == 0).next().unwrap_or_default()).into_owned()
}

/// nftables' numbers are big-endian.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

/// An attribute, as a request carries it.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = ((value.len() + 4) as u16).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_make_no_sense_end_the_reading() {
        for bad in [&[][..], &[0, 0, 1, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 5], &[1]] {
            assert_eq!(Attributes(bad).count(), 0, "{bad:?}");
            assert_eq!(Messages(bad).count(), 0, "{bad:?}");
        }
        let mut message = vec![0u8; 16];
        message[0] = 8;
        assert_eq!(Messages(&message).count(), 0);
    }
}
