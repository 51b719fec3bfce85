//! BGP's TCP connections: the listener's socket, a dial, and one task per connection that moves bytes both
//! ways. What the bytes mean is `manx-bgp`'s business; who may connect is the speaker's answer to
//! [`Event::Accepted`].

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use manx_transport::{Guard, Guards, ListenerError, ListenerGuards};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// A thousand clients that dial in one instant must not meet a full queue. The kernel caps it by
/// net.core.somaxconn, 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;
/// Longer than a SYN and two retransmissions. A little shorter than the speaker's own patience, so that whoever knows
/// what the packets must carry says why there may be no answer.
const DIAL_TIMEOUT: Duration = Duration::from_millis(4_800);
const READ_SIZE: usize = 64 << 10;
/// How long a closed connection may take to drain. A socket that is closed with unread bytes sends RST, which
/// could overtake the NOTIFICATION; and a peer that is busy reads late.
const LINGER: Duration = Duration::from_secs(3);
/// What goes wrong ten times a second is not said as often.
const SAY_AGAIN: Duration = Duration::from_secs(60);
/// IPTOS_PREC_INTERNETCONTROL, as RFC 4271 appendix E advises.
const INTERNETWORK_CONTROL: u32 = 0xc0;

/// Names one connection for as long as the daemon runs.
pub type ConnectionId = u64;

#[derive(Debug)]
pub enum Event {
    Accepted {
        stream: TcpStream,
        local: SocketAddr,
        remote: SocketAddr,
    },
    Dialled {
        connection: ConnectionId,
        outcome: io::Result<TcpStream>,
    },
    Received {
        connection: ConnectionId,
        bytes: Bytes,
    },
    /// All that was given to [`Command::Send`] is with the kernel.
    Sent {
        connection: ConnectionId,
    },
    /// The other side closed, or the connection broke. Not sent after [`Command::Close`].
    Closed {
        connection: ConnectionId,
        reason: Option<io::Error>,
    },
}

#[derive(Debug)]
pub enum Command {
    /// Write this behind what was given before. With nothing to write, [`Event::Sent`] comes at once.
    Send(VecDeque<Bytes>),
    /// Flush what was given, for a bounded time, then close.
    Close,
}

/// A listening socket, and what it has been given for the peers.
#[derive(Debug)]
pub struct Listener {
    pub socket: Arc<TcpListener>,
    pub guards: ListenerGuards,
    /// What the kernel has refused to give it.
    pub refused: Option<ListenerError>,
}

/// Binds, protects and listens, in this order: no SYN finds the socket unprotected. Non-blocking, IPv6 sockets for
/// IPv6 only.
pub fn listen(address: SocketAddr, guards: &Guards) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let mut given = ListenerGuards::default();
    let refused = given.apply(&socket, address.is_ipv4(), guards).err();
    socket.listen(BACKLOG)?;
    let socket = Arc::new(TcpListener::from_std(socket.into())?);
    Ok(Listener { socket, guards: given, refused })
}

/// What of [`BACKLOG`] the kernel's net.core.somaxconn takes away: the number that is left.
pub fn capped_backlog() -> Option<i32> {
    let text = std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok()?;
    text.trim().parse().ok().filter(|bound| *bound < BACKLOG)
}

/// Accepts until the task is aborted.
pub async fn accept(listener: Arc<TcpListener>, events: mpsc::Sender<Event>) {
    let mut said: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let Ok(local) = stream.local_addr() else { continue };
                if events.send(Event::Accepted { stream, local, remote }).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, or a connection that was reset while it waited: the next may go well.
            Err(error) => {
                if said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
                    tracing::warn!(%error, "accepting a BGP connection failed; trying again");
                    said = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Opens a connection from `source` (the kernel chooses if `None`) to `to`.
pub async fn dial(source: Option<IpAddr>, to: SocketAddr, guard: &Guard) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    manx_transport::protect_dial(&socket, to.ip(), guard)?;
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    tokio::time::timeout(DIAL_TIMEOUT, socket.connect(to))
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer")))
}

/// Moves bytes until the connection ends or is told to. The reader is not read from while the daemon is behind:
/// `events` is bounded, and TCP then slows the peer.
pub async fn serve(
    connection: ConnectionId,
    stream: Arc<TcpStream>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
) {
    prepare(&stream);
    let mut queue: VecDeque<Bytes> = VecDeque::new();
    let mut buffer = BytesMut::new();
    let reason = loop {
        let interest =
            if queue.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Send(bytes)) => {
                    queue.extend(bytes);
                    if queue.is_empty() && events.send(Event::Sent { connection }).await.is_err() {
                        return;
                    }
                }
                Some(Command::Close) | None => return finish(stream, queue).await,
            },
            ready = stream.ready(interest) => match ready {
                Err(error) => break Some(error),
                Ok(ready) => {
                    if ready.is_writable() && !queue.is_empty() {
                        match write(&stream, &mut queue) {
                            Ok(()) if queue.is_empty() => {
                                if events.send(Event::Sent { connection }).await.is_err() {
                                    return;
                                }
                            }
                            Ok(()) => {}
                            Err(error) => break Some(error),
                        }
                    }
                    if ready.is_readable() || ready.is_read_closed() {
                        buffer.reserve(READ_SIZE);
                        match stream.try_read_buf(&mut buffer) {
                            Ok(0) => break None,
                            Ok(_) => {
                                let bytes = buffer.split().freeze();
                                if events.send(Event::Received { connection, bytes }).await.is_err() {
                                    return;
                                }
                            }
                            // An idle connection keeps no buffer.
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = BytesMut::new(),
                            Err(error) => break Some(error),
                        }
                    }
                }
            },
        }
    };
    // The daemon ends first when it stops; then nobody listens.
    let _ = events.send(Event::Closed { connection, reason }).await;
}

fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let marked = match stream.local_addr() {
        Ok(SocketAddr::V4(_)) => socket.set_tos_v4(INTERNETWORK_CONTROL),
        Ok(SocketAddr::V6(_)) => socket.set_tclass_v6(INTERNETWORK_CONTROL),
        Err(error) => Err(error),
    };
    // Both only make a session quicker; it works without them.
    if let Err(error) = marked.and_then(|()| stream.set_nodelay(true)) {
        tracing::debug!(%error, "cannot set socket options");
    }
}

/// Gives the kernel what it takes without waiting; the rest stays in the queue.
pub fn write(stream: &TcpStream, queue: &mut VecDeque<Bytes>) -> io::Result<()> {
    while let Some(first) = queue.front() {
        let outcome = if queue.len() == 1 {
            stream.try_write(first)
        } else {
            let slices: Vec<IoSlice<'_>> = queue.iter().take(64).map(|b| IoSlice::new(b)).collect();
            stream.try_write_vectored(&slices)
        };
        let mut written = match outcome {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        while let Some(front) = queue.front_mut() {
            if written < front.len() {
                front.advance(written);
                break;
            }
            written -= front.len();
            queue.pop_front();
        }
    }
    Ok(())
}

/// Writes what is left, sends FIN, and reads and forgets until the peer has closed too. A peer that does not read gets
/// RST when its time is over: nothing of the connection stays, here or in the kernel.
async fn finish(stream: Arc<TcpStream>, mut queue: VecDeque<Bytes>) {
    let deadline = Instant::now() + LINGER;
    while !queue.is_empty() {
        let Ok(Ok(())) = timeout_at(deadline, stream.writable()).await else { return abort(&stream) };
        if write(&stream, &mut queue).is_err() {
            return;
        }
    }
    if SockRef::from(&stream).shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    let mut sink = [0; 4096];
    while let Ok(Ok(())) = timeout_at(deadline, stream.readable()).await {
        match stream.try_read(&mut sink) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
    abort(&stream);
}

/// The socket's drop then sends RST.
fn abort(stream: &TcpStream) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "cannot set SO_LINGER");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap(), &Guards::default()).unwrap().socket;
        let to = listener.local_addr().unwrap();
        let dialled = dial(Some("127.0.0.1".parse().unwrap()), to, &Guard::default()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_a_close_is_reported() {
        let (ours, mut theirs) = pair().await;
        let (events, mut incoming) = mpsc::channel(8);
        let (commands, orders) = mpsc::unbounded_channel();
        tokio::spawn(serve(7, Arc::new(ours), orders, events));
        theirs.write_all(b"open").await.unwrap();
        assert!(
            matches!(incoming.recv().await, Some(Event::Received { connection: 7, bytes }) if bytes == "open")
        );
        commands.send(Command::Send(["ke".into(), "ep".into()].into())).unwrap();
        let mut got = [0; 4];
        theirs.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"keep");
        assert!(matches!(incoming.recv().await, Some(Event::Sent { connection: 7 })));
        drop(theirs);
        assert!(matches!(incoming.recv().await, Some(Event::Closed { connection: 7, .. })));
    }

    #[tokio::test]
    async fn what_was_sent_before_a_close_arrives_though_the_peer_keeps_sending() {
        let (ours, mut theirs) = pair().await;
        let (events, mut incoming) = mpsc::channel(8);
        let (commands, orders) = mpsc::unbounded_channel();
        let task = tokio::spawn(serve(7, Arc::new(ours), orders, events));
        theirs.write_all(&[0; 1000]).await.unwrap();
        incoming.recv().await.unwrap();
        commands.send(Command::Send([Bytes::from_static(b"notification")].into())).unwrap();
        commands.send(Command::Close).unwrap();
        // Unread bytes at close would make the kernel send RST and throw the NOTIFICATION away.
        theirs.write_all(&[0; 1000]).await.unwrap();
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"notification");
        drop(theirs);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_never_reads_costs_a_close_no_more_than_its_time() {
        let (ours, theirs) = pair().await;
        let (events, _incoming) = mpsc::channel(8);
        let (commands, orders) = mpsc::unbounded_channel();
        let task = tokio::spawn(serve(7, Arc::new(ours), orders, events));
        // Far more than both buffers hold.
        let flood = Bytes::from(vec![0; 32 << 20]);
        commands.send(Command::Send([flood].into())).unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        commands.send(Command::Send([Bytes::from_static(b"notification")].into())).unwrap();
        commands.send(Command::Close).unwrap();
        tokio::time::timeout(LINGER * 5, task).await.expect("the task ends by itself").unwrap();
        // RST: the kernel keeps nothing either.
        let mut sink = vec![0; 1 << 20];
        let ended = loop {
            theirs.readable().await.unwrap();
            match theirs.try_read(&mut sink) {
                Ok(0) => break io::ErrorKind::UnexpectedEof,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => break error.kind(),
            }
        };
        assert_eq!(ended, io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_refused_dial_says_so() {
        let listener = listen("127.0.0.1:0".parse().unwrap(), &Guards::default()).unwrap().socket;
        let to = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(
            dial(None, to, &Guard::default()).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
