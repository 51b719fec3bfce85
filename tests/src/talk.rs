//! Conversations with an [`crate::echo::Server`]: each answer is compared with what was asked, octet by octet, and
//! has to come in time. One at a time, a crowd of short ones, one that goes on in the background while something
//! happens to it, and a stream of many megabytes both ways at once.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{
    echo::{LONGEST, POUR, STREAM},
    netns::Netns,
    wait::{eventually, slower},
};

/// An answer that takes longer is none. TCP sends again after 200 ms, 400 ms and so on: that must not hide a loss
/// that lasts, and a machine with much else to do must not fail.
const PATIENCE: Duration = Duration::from_secs(5);
/// Coprime to every power of two, so that octets that change places are noticed.
const PATTERN: usize = 65_521;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Tcp,
    Udp,
}

pub const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// What a server says of itself and of who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub server: String,
    /// The client as the server sees it, after every translation.
    pub seen: SocketAddr,
}

#[derive(Debug)]
enum Wire {
    Tcp(TcpStream),
    /// Not connected, so that one socket can talk to several servers.
    Udp(UdpSocket),
}

/// One connection, or one socket for datagrams.
#[derive(Debug)]
pub struct Talk {
    wire: Wire,
    to: SocketAddr,
    /// Makes every question another.
    asked: u64,
}

impl Talk {
    pub fn open(ns: &Netns, transport: Transport, to: SocketAddr) -> io::Result<Talk> {
        Talk::open_from(ns, transport, 0, to)
    }

    /// From this port, which others may use at the same time; 0: any.
    pub fn open_from(ns: &Netns, transport: Transport, port: u16, to: SocketAddr) -> io::Result<Talk> {
        let socket = ns.run(move || socket(transport, port, to.ip()))?;
        let wire = match transport {
            Transport::Tcp => {
                socket.connect_timeout(&to.into(), PATIENCE * slower())?;
                socket.set_tcp_nodelay(true)?;
                Wire::Tcp(socket.into())
            }
            Transport::Udp => Wire::Udp(socket.into()),
        };
        let talk = Talk { wire, to, asked: u64::from(to.port()) };
        talk.set_patience(PATIENCE * slower())?;
        Ok(talk)
    }

    /// How long an answer is awaited.
    pub fn set_patience(&self, limit: Duration) -> io::Result<()> {
        match &self.wire {
            Wire::Tcp(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))
            }
            Wire::Udp(socket) => socket.set_read_timeout(Some(limit)),
        }
    }

    /// Our own end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        match &self.wire {
            Wire::Tcp(stream) => stream.local_addr(),
            Wire::Udp(socket) => socket.local_addr(),
        }
    }

    /// What a server says that speaks first.
    pub fn greeting(&mut self) -> io::Result<Answer> {
        match &mut self.wire {
            Wire::Tcp(stream) => read_answer(stream, &[]),
            Wire::Udp(_) => Err(ErrorKind::Unsupported.into()),
        }
    }

    /// Asks with `length` octets, and again if you like.
    pub fn ask(&mut self, length: usize) -> io::Result<Answer> {
        self.ask_at(self.to, length)
    }

    /// Asks another server by the same socket; TCP cannot.
    pub fn ask_at(&mut self, to: SocketAddr, length: usize) -> io::Result<Answer> {
        self.asked =
            self.asked.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let question = pattern(self.asked, length.min(LONGEST));
        match &mut self.wire {
            Wire::Tcp(stream) => {
                let mut frame = (question.len() as u32).to_be_bytes().to_vec();
                frame.extend(&question);
                stream.write_all(&frame)?;
                read_answer(stream, &question)
            }
            Wire::Udp(socket) => {
                socket.send_to(&question, to)?;
                let mut buffer = vec![0; LONGEST + 256];
                let (n, from) = socket.recv_from(&mut buffer)?;
                if from != to {
                    return Err(wrong(format!("asked {to}, answered by {from}")));
                }
                check(buffer.get(..n).unwrap_or_default(), &question)
            }
        }
    }

    /// Sends `length` octets that nobody wants, and ends the connection by a reset.
    pub fn pour_and_reset(self, length: u64) -> io::Result<()> {
        let Wire::Tcp(mut stream) = self.wire else { return Err(ErrorKind::Unsupported.into()) };
        stream.write_all(&POUR.to_be_bytes())?;
        let octets = vec![0; 1024 * 1024];
        let mut left = length;
        while left > 0 {
            let n = usize::try_from(left).unwrap_or(octets.len()).min(octets.len());
            stream.write_all(octets.get(..n).unwrap_or_default())?;
            left -= n as u64;
        }
        // Closing then sends no FIN but a RST, whatever is still to be sent.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    }

    /// Sends `length` octets and takes them back, both at once, and ends the connection.
    pub fn stream(self, length: u64) -> io::Result<()> {
        let Wire::Tcp(mut reader) = self.wire else { return Err(ErrorKind::Unsupported.into()) };
        let mut writer = reader.try_clone()?;
        let pattern = pattern(length, PATTERN);
        let sender = {
            let pattern = pattern.clone();
            thread::spawn(move || {
                writer.write_all(&STREAM.to_be_bytes())?;
                let mut left = length;
                while left > 0 {
                    let n = usize::try_from(left).unwrap_or(PATTERN).min(PATTERN);
                    writer.write_all(pattern.get(..n).unwrap_or_default())?;
                    left -= n as u64;
                }
                writer.shutdown(Shutdown::Write)
            })
        };
        let received = take_back(&mut reader, &pattern, length);
        if received.is_err() {
            // The sender may wait for room that nobody makes.
            let _ = reader.shutdown(Shutdown::Both);
        }
        let sent = sender.join().map_err(|_| io::Error::other("the sender panicked"))?;
        received.and(sent)
    }
}

fn take_back(reader: &mut TcpStream, pattern: &[u8], length: u64) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let (mut came, mut at) = (0u64, 0usize);
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let mut rest = buffer.get(..n).unwrap_or_default();
        while !rest.is_empty() {
            let want = pattern.get(at..).unwrap_or_default();
            let length = want.len().min(rest.len());
            let (have, later) = rest.split_at(length);
            if have != want.get(..length).unwrap_or_default() {
                return Err(wrong(format!("other octets than were sent, within {n} after {came}")));
            }
            rest = later;
            at = (at + length) % pattern.len();
        }
        came += n as u64;
    }
    if came == length { Ok(()) } else { Err(wrong(format!("{came} octets of {length} came back"))) }
}

fn socket(transport: Transport, port: u16, to: IpAddr) -> io::Result<Socket> {
    let domain = if to.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    let any: SocketAddr = match to {
        IpAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, port).into(),
        IpAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
    };
    if port != 0 {
        socket.set_reuse_address(true)?;
    }
    if port != 0 || transport == Transport::Udp {
        socket.bind(&any.into())?;
    }
    Ok(socket)
}

fn read_answer(stream: &mut TcpStream, question: &[u8]) -> io::Result<Answer> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > LONGEST + 256 {
        return Err(wrong(format!("an answer of {length} octets")));
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    check(&answer, question)
}

fn check(answer: &[u8], question: &[u8]) -> io::Result<Answer> {
    let line =
        answer.iter().position(|octet| *octet == b'\n').ok_or_else(|| wrong("no line in it".into()))?;
    let (line, rest) = answer.split_at(line);
    if rest.get(1..) != Some(question) {
        return Err(wrong(format!("{} octets were asked, others came back", question.len())));
    }
    let text = std::str::from_utf8(line).map_err(|e| wrong(e.to_string()))?;
    let (server, seen) = text.split_once(' ').ok_or_else(|| wrong(text.to_owned()))?;
    let seen = seen.parse().map_err(|_| wrong(text.to_owned()))?;
    Ok(Answer { server: server.to_owned(), seen })
}

fn wrong(text: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

/// Octets that look like chance and are the same for the same seed.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut octets = Vec::with_capacity(length + 8);
    while octets.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        octets.extend(state.to_le_bytes());
    }
    octets.truncate(length);
    octets
}

/// What became of many conversations.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub held: usize,
    /// The first few of those that failed, in words.
    pub failures: Vec<String>,
    pub failed: usize,
    /// Conversations by who answered.
    pub servers: BTreeMap<String, usize>,
    /// The clients' addresses as the servers saw them.
    pub seen: BTreeMap<IpAddr, usize>,
}

impl Tally {
    /// All of them were held.
    pub fn unbroken(&self) -> Result<&Tally> {
        ensure!(
            self.failed == 0 && self.held > 0,
            "{} conversations held, {} broken: {}",
            self.held,
            self.failed,
            self.failures.join("; ")
        );
        Ok(self)
    }

    /// These servers answered, each at least once, and no others.
    pub fn answered_by(&self, servers: &[&str]) -> Result<&Tally> {
        let found: Vec<&str> = self.servers.keys().map(String::as_str).collect();
        ensure!(found == servers, "answers came from {:?}, not from {servers:?}", self.servers);
        Ok(self)
    }

    /// This is the only client that the servers saw.
    pub fn seen_as(&self, client: IpAddr) -> Result<&Tally> {
        ensure!(self.seen.keys().eq([&client]), "the servers saw {:?}, not {client}", self.seen);
        Ok(self)
    }
}

const SHOWN: usize = 5;
const WORKERS: usize = 4;

/// `count` conversations with `to`, a few at a time, of three questions each: a small one, one of some segments (for
/// UDP: of one datagram), and a small one again.
pub fn crowd(ns: &Netns, transport: Transport, to: SocketAddr, count: usize) -> Tally {
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::Relaxed) < count {
                    let outcome = short(ns, transport, to);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    match outcome {
                        Ok(answer) => {
                            tally.held += 1;
                            *tally.servers.entry(answer.server).or_default() += 1;
                            *tally.seen.entry(answer.seen.ip()).or_default() += 1;
                        }
                        Err(e) => {
                            tally.failed += 1;
                            if tally.failures.len() < SHOWN {
                                tally.failures.push(format!("{} {transport:?} {to}: {e}", ns.name()));
                            }
                        }
                    }
                }
            });
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// One conversation; who answers must not change within it.
pub fn short(ns: &Netns, transport: Transport, to: SocketAddr) -> io::Result<Answer> {
    let mut talk = Talk::open(ns, transport, to)?;
    let long = if transport == Transport::Tcp { 20_000 } else { 1_200 };
    let first = talk.ask(32)?;
    for length in [long, 7] {
        let again = talk.ask(length)?;
        if again != first {
            return Err(wrong(format!("answered by {first:?}, then by {again:?}")));
        }
    }
    Ok(first)
}

/// A conversation in the background.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: Option<JoinHandle<io::Result<Answer>>>,
}

impl Steady {
    /// Asks with `length` octets every `interval` until it is stopped or is not answered. Where everything takes
    /// longer it asks less often: a processor that conversations fill has no time for what happens to them.
    pub fn start(mut talk: Talk, length: usize, interval: Duration) -> Steady {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let interval = interval * slower();
        let thread = {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            thread::spawn(move || {
                let first = talk.ask(length)?;
                while !stop.load(Ordering::Relaxed) {
                    let next = Instant::now() + interval;
                    let again = talk.ask(length)?;
                    if again != first {
                        return Err(wrong(format!("answered by {first:?}, then by {again:?}")));
                    }
                    answers.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
                Ok(first)
            })
        };
        Steady { stop, answers, thread: Some(thread) }
    }

    /// How often it was answered.
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// It has ended, since it was not answered.
    pub fn has_broken(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits until it was answered `more` times more.
    pub fn goes_on(&self, more: u64) -> Result<()> {
        self.reaches(self.answers() + more)
    }

    /// Waits until it was answered so often in all.
    pub fn reaches(&self, count: u64) -> Result<()> {
        eventually("the conversation goes on", PATIENCE * 2, || {
            let answers = self.answers();
            ensure!(answers >= count || self.has_broken(), "{answers} answers of {count}");
            Ok(())
        })?;
        ensure!(!self.has_broken(), "the conversation broke off");
        Ok(())
    }

    /// Ends it; the error that ended it before, if one did.
    pub fn stop(mut self) -> io::Result<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(outcome)) => outcome,
            _ => Err(io::Error::other("the conversation panicked")),
        }
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // How it ended is of interest to whoever stops it.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::echo::{GREETING_PORT, PORT, Server};

    fn lo() -> (Netns, Server) {
        let ns = Netns::new("lo").unwrap();
        ns.sh("ip link set lo up").unwrap();
        let server = Server::start(&ns).unwrap();
        (ns, server)
    }

    #[test]
    fn a_server_says_who_it_is_and_who_asks_in_both_families_and_transports() {
        let (ns, _server) = lo();
        for transport in BOTH {
            for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
                let mut talk = Talk::open(&ns, transport, (address, PORT).into()).unwrap();
                let answer = talk.ask(1000).unwrap();
                assert_eq!((answer.server.as_str(), answer.seen.ip()), ("lo", address));
                assert_eq!(answer.seen.port(), talk.local().unwrap().port());
            }
            let tally = crowd(&ns, transport, (Ipv4Addr::LOCALHOST, PORT).into(), 50);
            assert_eq!(tally.unbroken().unwrap().answered_by(&["lo"]).unwrap().held, 50);
        }
        let to = (Ipv4Addr::LOCALHOST, GREETING_PORT).into();
        let mut talk = Talk::open(&ns, Transport::Tcp, to).unwrap();
        assert_eq!(talk.greeting().unwrap(), talk.ask(5).unwrap());
    }

    #[test]
    fn a_stream_comes_back_whole_and_an_octet_that_changes_is_noticed() {
        let (ns, _server) = lo();
        let to = (Ipv4Addr::LOCALHOST, PORT).into();
        Talk::open(&ns, Transport::Tcp, to).unwrap().stream(3_000_001).unwrap();
        assert_eq!(check(b"a 1.2.3.4:5\nxyz", b"xyz").unwrap().server, "a");
        assert_eq!(check(b"a 1.2.3.4:5\nxYz", b"xyz").unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_conversation_that_is_cut_ends_with_an_error() {
        let (ns, server) = lo();
        let talk = Talk::open(&ns, Transport::Tcp, (Ipv4Addr::LOCALHOST, PORT).into()).unwrap();
        let steady = Steady::start(talk, 100, Duration::from_millis(1));
        steady.goes_on(5).unwrap();
        drop(server);
        eventually("it breaks", PATIENCE, || {
            ensure!(steady.has_broken());
            Ok(())
        })
        .unwrap();
        assert!(steady.goes_on(1).is_err() && steady.stop().is_err());
    }
}
