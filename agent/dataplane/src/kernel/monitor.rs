//! The event socket: netlink's multicast groups for links, addresses, routes, rules and neighbours. It only receives;
//! dumps and changes go through `netlink::Requests`.

use std::io;

use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkHeader, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::netlink::{RECEIVE_SIZE, messages, set_receive_buffer};

/// Datagrams taken in at one go, so that a flood of events delays nothing else for long.
const DATAGRAMS: usize = 4096;

const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

pub(crate) struct Monitor {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Monitor").finish_non_exhaustive()
    }
}

impl Monitor {
    /// Subscribes, in this thread's network namespace, for good.
    pub fn open(receive_buffer: usize) -> io::Result<Monitor> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
        set_receive_buffer(&socket, receive_buffer);
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, groups))?;
        // SAFETY: the socket owns its descriptor, gives the same one every time, and closes it only when dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Monitor { socket, buffer: Vec::with_capacity(RECEIVE_SIZE) })
    }

    /// Waits until events are there. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        // The guard's readiness stays set: `drain` clears it once the socket is empty.
        self.socket.readable().await.map(drop)
    }

    /// Passes on the events that are there, up to a bound. True if some were lost (ENOBUFS).
    pub fn drain(&mut self, mut each: impl FnMut(&NetlinkHeader, RouteNetlinkMessage)) -> io::Result<bool> {
        let mut lost = false;
        for _ in 0..DATAGRAMS {
            self.buffer.clear();
            // Not by way of the readiness: what the reactor has not seen yet is welcome too.
            let socket = self.socket.get_ref();
            match socket.recv_from(&mut self.buffer, libc::MSG_TRUNC | libc::MSG_DONTWAIT) {
                // Multicast from the kernel only: anybody may send to a netlink socket's address.
                Ok((_, sender)) if sender.port_number() != 0 => continue,
                Ok((length, _)) => lost |= length > self.buffer.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Clears the readiness; what arrives from here on sets it again.
                    let empty = |_: &Socket| Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _ = self.socket.try_io(Interest::READABLE, empty);
                    break;
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost = true;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            for message in messages(&self.buffer) {
                match message {
                    Ok(message) => {
                        if let NetlinkPayload::InnerMessage(inner) = message.payload {
                            each(&message.header, inner);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a kernel event cannot be read; reading everything anew");
                        lost = true;
                    }
                }
            }
        }
        Ok(lost)
    }
}
