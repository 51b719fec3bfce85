//! The event socket: netlink's multicast groups for links, addresses, routes, rules and neighbours. It only receives;
//! dumps and changes go through `netlink::Requests`.

use std::io;

use rtnetlink::{
    MulticastGroup,
    packet_core::{NLM_F_REPLACE, NetlinkHeader, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use socket2::{SockFilter, SockRef};
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

/// How far [`Monitor::drain`] came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Drained {
    /// Events were lost (ENOBUFS).
    pub lost: bool,
    /// The socket may have more.
    pub more: bool,
}

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

    /// The kernel need not tell what these sockets add and delete: who wrote it knows it. A hundred thousand echoes cost
    /// as much as a tenth of writing the routes. A replacement is told, for it may have hit a foreign route.
    pub fn leave_out(&self, ports: &[u32]) {
        let socket = self.socket.get_ref();
        if let Err(error) = SockRef::from(socket).attach_filter(&own_changes(ports)) {
            tracing::debug!(%error, "the kernel tells us of our own routes too");
        }
    }

    /// Waits until events are there. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        // The guard's readiness stays set: `drain` clears it once the socket is empty.
        self.socket.readable().await.map(drop)
    }

    /// Passes on the events that are there, up to a bound.
    pub fn drain(
        &mut self,
        mut each: impl FnMut(&NetlinkHeader, RouteNetlinkMessage),
    ) -> io::Result<Drained> {
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
                    return Ok(Drained { lost, more: false });
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
        Ok(Drained { lost, more: true })
    }
}

/// A classic BPF program over struct nlmsghdr that drops what the owners of `ports` add and delete, and lets everything
/// else pass. It loads in network order what the header has in the host's.
fn own_changes(ports: &[u32]) -> Vec<SockFilter> {
    const LOAD16: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const LOAD32: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const HAS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const NEW_ROUTE: u16 = 24;
    const DELETE_ROUTE: u16 = 25;
    let half = |value: u16| u32::from(value.to_be());
    let load = |code, offset| SockFilter::new(code, 0, 0, offset);
    let pass = || SockFilter::new(RETURN, 0, 0, u32::MAX);
    let mut program = vec![
        load(LOAD16, 4),
        SockFilter::new(IS, 2, 0, half(NEW_ROUTE)),
        SockFilter::new(IS, 1, 0, half(DELETE_ROUTE)),
        pass(),
        load(LOAD16, 6),
        SockFilter::new(HAS, 0, 1, half(NLM_F_REPLACE)),
        pass(),
        load(LOAD32, 12),
    ];
    for port in ports {
        program.push(SockFilter::new(IS, 0, 1, port.to_be()));
        program.push(SockFilter::new(RETURN, 0, 0, 0));
    }
    program.push(pass());
    program
}
