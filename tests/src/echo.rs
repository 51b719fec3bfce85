//! A server whose answers can be checked: it returns what it was sent, and says who it is and from where it was
//! asked, so that a client knows which backend it reached and what was translated on the way. TCP and UDP of both
//! families on one port, and TCP that speaks first on the next. The client is [`crate::talk`].

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::MsgFlags;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::netns::Netns;

/// Where every server listens.
pub const PORT: u16 = 7000;
/// Where it says its name to whoever connects, before it is asked.
pub const GREETING_PORT: u16 = 7001;

/// In place of a length: from here on every octet comes back as it is, until the client ends its side.
pub(crate) const STREAM: u32 = u32::MAX;
/// In place of a length: from here on every octet is read and forgotten.
pub(crate) const POUR: u32 = u32::MAX - 1;
/// More than a question is ever long, and within a datagram.
pub(crate) const LONGEST: usize = 60_000;

const BACKLOG: i32 = 4096;
/// How soon a thread that waits for datagrams sees that it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// A handler needs little: thousands stand side by side.
const STACK: usize = 128 * 1024;

type Connections = Arc<Mutex<HashMap<u64, TcpStream>>>;

#[derive(Debug)]
pub struct Server {
    over: Arc<AtomicBool>,
    listeners: Vec<Socket>,
    connections: Connections,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Its name is the namespace's.
    pub fn start(ns: &Netns) -> Result<Server> {
        let name = ns.name().to_owned();
        let (plain, greeting, datagrams) = ns
            .run(|| {
                let listen = |port| {
                    let socket = bound(Type::STREAM, Protocol::TCP, port)?;
                    socket.listen(BACKLOG)?;
                    Ok::<_, io::Error>(socket)
                };
                Ok::<_, io::Error>((
                    listen(PORT)?,
                    listen(GREETING_PORT)?,
                    bound(Type::DGRAM, Protocol::UDP, PORT)?,
                ))
            })
            .with_context(|| format!("{name}: a server at port {PORT}"))?;
        let mut server = Server {
            over: Arc::new(AtomicBool::new(false)),
            listeners: Vec::new(),
            connections: Connections::default(),
            threads: Vec::new(),
        };
        for (listener, greets) in [(plain, false), (greeting, true)] {
            server.listeners.push(listener.try_clone()?);
            let (name, connections) = (name.clone(), Arc::clone(&server.connections));
            server.threads.push(thread::spawn(move || accept(&listener, &name, greets, &connections)));
        }
        let over = Arc::clone(&server.over);
        server.threads.push(thread::spawn(move || answer_datagrams(&datagrams.into(), &name, &over)));
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // The thread in accept() returns with an error.
            let _ = listener.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in connections.values() {
            // Its handler ends; the peer may have been faster.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

/// Bound to every address of both families.
fn bound(kind: Type, protocol: Protocol, port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, kind, Some(protocol))?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    Ok(socket)
}

fn accept(listener: &Socket, name: &str, greets: bool, connections: &Connections) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    loop {
        let stream: TcpStream = match listener.accept() {
            Ok((socket, _)) => socket.into(),
            // The client gave up while it waited in the queue.
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
            Err(_) => return,
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let Ok(copy) = stream.try_clone() else { continue };
        connections.lock().unwrap_or_else(PoisonError::into_inner).insert(number, copy);
        let (own_name, connections) = (name.to_owned(), Arc::clone(connections));
        let handler = thread::Builder::new().stack_size(STACK).spawn(move || {
            // A connection that breaks is the client's to report.
            let _ = serve(stream, &own_name, greets);
            connections.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        });
        if let Err(e) = handler {
            // Who connects from here on is refused, which the clients report.
            eprintln!("{name}: no thread for connection {number}: {e}");
            let _ = listener.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn serve(mut stream: TcpStream, name: &str, greets: bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let seen = stream.peer_addr()?;
    if greets {
        stream.write_all(&framed(name, seen, &[]))?;
    }
    let mut question = Vec::new();
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length);
        if length == STREAM {
            return echo_until_its_end(stream);
        }
        if length == POUR {
            return forget_until_its_end(&stream);
        }
        if length as usize > LONGEST {
            return Err(ErrorKind::InvalidData.into());
        }
        question.resize(length as usize, 0);
        stream.read_exact(&mut question)?;
        stream.write_all(&framed(name, seen, &question))?;
    }
}

fn forget_until_its_end(stream: &TcpStream) -> io::Result<()> {
    // tcp(7): with MSG_TRUNC the kernel throws away what would be read, without a copy.
    let mut room = vec![MaybeUninit::uninit(); 4 * 1024 * 1024];
    while SockRef::from(stream).recv_with_flags(&mut room, MsgFlags::MSG_TRUNC.bits())? > 0 {}
    Ok(())
}

fn echo_until_its_end(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(buffer.get(..n).unwrap_or_default())?;
    }
}

fn framed(name: &str, seen: SocketAddr, question: &[u8]) -> Vec<u8> {
    let answer = answer(name, seen, question);
    // The bound on questions bounds answers far below 4 GiB.
    let mut frame = (answer.len() as u32).to_be_bytes().to_vec();
    frame.extend(answer);
    frame
}

/// A line of text, then the question.
fn answer(name: &str, seen: SocketAddr, question: &[u8]) -> Vec<u8> {
    let seen = SocketAddr::new(seen.ip().to_canonical(), seen.port());
    let mut answer = format!("{name} {seen}\n").into_bytes();
    answer.extend(question);
    answer
}

fn answer_datagrams(socket: &std::net::UdpSocket, name: &str, over: &AtomicBool) {
    let mut buffer = vec![0; LONGEST];
    if socket.set_read_timeout(Some(LOOK)).is_err() {
        return;
    }
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // An answer that cannot be sent is missed by the client.
            let _ = socket.send_to(&answer(name, from, buffer.get(..length).unwrap_or_default()), from);
        }
    }
}
