//! A socket for rtnetlink requests. The kernel carries out a request inside `sendmsg`, so calls return when the
//! work is done and need no runtime; several changes travel in one message and each has its own answer.
//! Events arrive on a socket of their own (`kernel::monitor`).

use std::{io, time::Duration};

use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike},
};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
        NetlinkPayload,
    },
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

/// How often an inconsistent dump is repeated. What changed meanwhile comes as events too, so the last is good.
const DUMP_ATTEMPTS: usize = 5;
/// Messages in one send. Their answers have to fit into the receive buffer, which is ten times larger.
const BATCH: usize = 64;
/// A dump's messages are at most 32 KiB (`netlink_recvmsg`); a link with many virtual functions may come near.
pub(crate) const RECEIVE_SIZE: usize = 64 * 1024;
/// The kernel's answer is there when `sendmsg` returns; waiting this long means that it was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const REQUEST_BUFFER: usize = 1024 * 1024;

/// The kernel's refusal of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Positive.
    pub errno: i32,
    /// The kernel's own words where it has some (extended acknowledgement), else the errno's.
    pub text: String,
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> io::Error {
        let kind = io::Error::from_raw_os_error(refusal.errno).kind();
        io::Error::new(kind, refusal.text)
    }
}

pub(crate) struct Requests {
    socket: Socket,
    port: u32,
    sequence: u32,
    received: Vec<u8>,
}

impl std::fmt::Debug for Requests {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Requests").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Requests {
    /// In this thread's network namespace, for good.
    pub fn open() -> io::Result<Requests> {
        Requests::open_at(0)
    }

    /// At a port that must be free; 0 for any.
    pub fn open_at(port: u32) -> io::Result<Requests> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(port, 0))?;
        let mut address = SocketAddr::new(0, 0);
        socket.get_address(&mut address)?;
        let port = address.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        // Refusals name the header only, and say in words what was wrong.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        // Dumps are filtered by the kernel. Before 4.20 they are not, which costs time only: readers filter too.
        let _ = socket.set_netlink_get_strict_chk(true);
        set_receive_buffer(&socket, REQUEST_BUFFER);
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(ANSWER_TIMEOUT.as_millis() as i64),
        )?;
        Ok(Requests { socket, port, sequence: 0, received: Vec::with_capacity(RECEIVE_SIZE) })
    }

    /// The address under which this socket's changes appear in events.
    pub fn port(&self) -> u32 {
        self.port
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn receive(&mut self) -> io::Result<()> {
        self.received.clear();
        loop {
            match self.socket.recv(&mut self.received, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Sends changes and returns the kernel's answer to each, in order. An error of the socket itself leaves open
    /// what became of the changes.
    pub fn transact(
        &mut self,
        changes: Vec<(RouteNetlinkMessage, u16)>,
    ) -> io::Result<Vec<Result<(), Refusal>>> {
        let mut answers = Vec::with_capacity(changes.len());
        let mut changes = changes.into_iter().peekable();
        let mut packet = Vec::new();
        while changes.peek().is_some() {
            packet.clear();
            let first = self.sequence.wrapping_add(1);
            let mut sent: usize = 0;
            for (message, flags) in changes.by_ref().take(BATCH) {
                let sequence = self.next_sequence();
                append(&mut packet, message, flags | NLM_F_REQUEST | NLM_F_ACK, sequence);
                sent += 1;
            }
            self.socket.send(&packet, 0)?;

            let mut batch: Vec<Option<Result<(), Refusal>>> = vec![None; sent];
            let mut missing = sent;
            while missing > 0 {
                self.receive()?;
                for message in messages(&self.received) {
                    let Ok(message) = message else { continue };
                    let NetlinkPayload::Error(error) = message.payload else { continue };
                    let index = message.header.sequence_number.wrapping_sub(first) as usize;
                    // An answer to a request whose wait timed out earlier falls outside.
                    let Some(slot) = batch.get_mut(index) else { continue };
                    if slot.is_none() {
                        missing -= 1;
                    }
                    *slot = Some(match error.code {
                        None => Ok(()),
                        Some(_) => Err(refusal(error.raw_code(), &error.header, message.header.flags)),
                    });
                }
            }
            answers.extend(batch.into_iter().flatten());
        }
        Ok(answers)
    }

    /// One object by its key; `None` if there is none. For links, which answer to their index.
    pub fn get(&mut self, request: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        let sequence = self.next_sequence();
        let mut packet = Vec::new();
        append(&mut packet, request, NLM_F_REQUEST | NLM_F_ACK, sequence);
        self.socket.send(&packet, 0)?;
        let mut found = None;
        loop {
            self.receive()?;
            for message in messages(&self.received) {
                let message = message?;
                if message.header.sequence_number != sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found = Some(inner),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(found),
                    NetlinkPayload::Error(error) if error.raw_code() == -libc::ENODEV => return Ok(None),
                    NetlinkPayload::Error(error) => {
                        return Err(refusal(error.raw_code(), &error.header, message.header.flags).into());
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sends `count` changes as `encode` writes them: the change's place, the message's sequence number, and whether it
    /// asks for an answer. Only the last of a packet does: the kernel takes a packet's messages in turn, answers one
    /// that it refuses whether asked or not (`netlink_rcv_skb`), and goes on with the next. Returns the refused ones
    /// by their place, in order. An error of the socket itself leaves open what became of the changes.
    pub fn submit(
        &mut self,
        count: usize,
        mut encode: impl FnMut(&mut Vec<u8>, usize, u32, bool),
    ) -> io::Result<Vec<(usize, Refusal)>> {
        let mut refused = Vec::new();
        let mut packet = Vec::new();
        for base in (0..count).step_by(BATCH) {
            let end = count.min(base + BATCH);
            packet.clear();
            let first = self.sequence.wrapping_add(1);
            for place in base..end {
                let sequence = self.next_sequence();
                encode(&mut packet, place, sequence, place + 1 == end);
            }
            self.socket.send(&packet, 0)?;
            let mut answered = false;
            while !answered {
                self.receive()?;
                for message in messages(&self.received) {
                    let Ok(message) = message else { continue };
                    let NetlinkPayload::Error(error) = message.payload else { continue };
                    let place = base + message.header.sequence_number.wrapping_sub(first) as usize;
                    // An answer to a request whose wait timed out earlier falls outside.
                    if place >= end {
                        continue;
                    }
                    answered |= place + 1 == end;
                    if error.code.is_some() {
                        let refusal = refusal(error.raw_code(), &error.header, message.header.flags);
                        refused.push((place, refusal));
                    }
                }
            }
        }
        Ok(refused)
    }

    /// All objects that match the request, as far as `convert` has a use for them.
    pub fn dump<T>(
        &mut self,
        request: RouteNetlinkMessage,
        mut convert: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            if self.dump_once(request.clone(), &mut |message| found.extend(convert(message)))? {
                break;
            }
        }
        Ok(found)
    }

    /// False if the kernel's table changed meanwhile.
    fn dump_once(
        &mut self,
        request: RouteNetlinkMessage,
        each: &mut dyn FnMut(RouteNetlinkMessage),
    ) -> io::Result<bool> {
        let sequence = self.next_sequence();
        let mut packet = Vec::new();
        append(&mut packet, request, NLM_F_REQUEST | NLM_F_DUMP, sequence);
        self.socket.send(&packet, 0)?;
        let mut consistent = true;
        loop {
            self.receive()?;
            for message in messages(&self.received) {
                let message = match message {
                    Ok(message) => message,
                    Err(error) => {
                        tracing::warn!(%error, "the kernel's dump has a message that cannot be read; left out");
                        continue;
                    }
                };
                if message.header.sequence_number != sequence {
                    continue;
                }
                consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    NetlinkPayload::Done(done) if done.code != 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_abs()));
                    }
                    NetlinkPayload::Done(_) => return Ok(consistent),
                    NetlinkPayload::Error(error) => {
                        return Err(refusal(error.raw_code(), &error.header, message.header.flags).into());
                    }
                    _ => {}
                }
            }
        }
    }
}

/// As much as asked for with CAP_NET_ADMIN, else as much as `net.core.rmem_max` allows.
pub(crate) fn set_receive_buffer(socket: &Socket, bytes: usize) {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err()
        && let Err(error) = setsockopt(socket, sockopt::RcvBuf, &bytes)
    {
        tracing::warn!(%error, bytes, "the netlink receive buffer keeps its default size");
    }
}

fn append(packet: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let start = packet.len();
    packet.resize(start + message.buffer_len().next_multiple_of(4), 0);
    #[expect(clippy::indexing_slicing, reason = "the packet has just grown by at least this length")]
    message.serialize(&mut packet[start..]);
}

/// The messages in a datagram. One that cannot be parsed is an error of its own; the next ones still come.
pub(crate) fn messages(
    datagram: &[u8],
) -> impl Iterator<Item = io::Result<NetlinkMessage<RouteNetlinkMessage>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*rest.first_chunk()?) as usize;
        if length < 16 || length > rest.len() {
            return None;
        }
        let (this, _) = rest.split_at(length);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::deserialize(this).map_err(|error| io::Error::other(error.to_string())))
    })
}

/// `payload` is what follows the error code: the request's header (16 bytes, the rest capped), then attributes.
fn refusal(code: i32, payload: &[u8], flags: u16) -> Refusal {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let errno = code.saturating_abs();
    let mut text = None;
    if flags & NLM_F_ACK_TLVS != 0 {
        let mut rest = payload.get(16..).unwrap_or_default();
        while let [l0, l1, t0, t1, ..] = *rest {
            let length = usize::from(u16::from_ne_bytes([l0, l1]));
            let Some(value) = rest.get(4..length) else { break };
            if u16::from_ne_bytes([t0, t1]) == NLMSGERR_ATTR_MSG {
                text = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    let text = text.unwrap_or_else(|| nix::errno::Errno::from_raw(errno).desc().to_owned());
    Refusal { errno, text }
}
