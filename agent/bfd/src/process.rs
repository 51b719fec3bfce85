//! The process that has the sessions. manxd says which; they go on while manxd is away, and end some time after it has not
//! come back. Neighbours are told of an end before it comes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{sleep, sleep_until},
};

use crate::{
    link::{self, Key, LONGEST, Neighbour, Order, Report, Told, Wanted},
    packet::{Packet, PacketError, State},
    session::{Change, Session, Time},
    sockets,
};

/// All that manxd asks of status and counters is not older.
const TELL: Duration = Duration::from_secs(5);
/// A socket that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Without any session the process is of no use.
const IDLE: Duration = Duration::from_secs(10);
/// A last word may be lost.
const LAST_WORDS: usize = 3;
const BETWEEN_LAST_WORDS: Duration = Duration::from_millis(20);
/// Packets that are taken in before timers are looked at.
const PACKETS_AT_ONCE: usize = 256;
/// Longer ones are cut, and then are what they say they are.
const LARGEST: usize = 512;

/// What is said of packets that are none.
const REFUSED: &str = "a packet counts for nothing";

/// For which address family and port.
type Place = (bool, bool);

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    session: Session,
    sender: Option<UdpSocket>,
    since: SystemTime,
    by_administrator: bool,
    failures: u64,
    sent: u64,
    received: u64,
    error: Option<String>,
    /// As it stands in the schedule.
    due: Option<Time>,
}

#[derive(Debug)]
struct Process {
    start: Instant,
    random: RandomState,
    next_number: u64,
    next_port: u16,
    entries: BTreeMap<u32, Entry>,
    by_key: HashMap<Key, u32>,
    schedule: BTreeSet<(Time, u32)>,
    receivers: BTreeMap<Place, tokio::net::UdpSocket>,
    refused: BTreeMap<Place, String>,
    /// Of which manxd is to hear.
    changed: BTreeSet<Key>,
    gone: Vec<Key>,
}

enum Event {
    Line(u64, Option<String>),
    Client(UnixStream),
}

/// Until SIGTERM or SIGINT, until nobody has asked for anything for `linger`, or until nobody can: `is_there` is false once the
/// listener's name is gone.
pub async fn run(
    listener: UnixListener,
    is_there: impl Fn() -> bool,
    program: &str,
    linger: Duration,
) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut process = Process::new();
    let (events_in, mut events) = mpsc::channel(16);
    tokio::spawn(accept(listener, events_in.clone()));
    let mut client: Option<(u64, OwnedWriteHalf)> = None;
    let mut clients = 0;
    let mut alone_since = Some(Instant::now());
    let mut idle_since = Some(Instant::now());
    let (mut next_tell, mut next_again) = (Instant::now() + TELL, Instant::now());
    loop {
        let now = Instant::now();
        if process.entries.is_empty() {
            idle_since.get_or_insert(now);
        } else {
            idle_since = None;
        }
        let ends = alone_since.map(|since| since + linger);
        let idle = idle_since.map(|since| since + IDLE);
        if ends.is_some_and(|at| at <= now) {
            tracing::warn!("BFD ends: no manxd has asked for it for {} s", linger.as_secs());
            break;
        }
        if idle.is_some_and(|at| at <= now) && client.is_none() {
            tracing::info!("BFD ends: there is no session");
            break;
        }
        process.advance();
        if now >= next_again {
            next_again = now + AGAIN;
            process.open_sockets();
        }
        if now >= next_tell {
            next_tell = now + TELL;
            process.changed = process.by_key.keys().copied().collect();
            if client.is_none() && !is_there() {
                tracing::warn!("BFD ends: its socket is gone, and no manxd can find it");
                break;
            }
        }
        if let Some((_, writer)) = &mut client {
            for report in process.reports() {
                if write(writer, &report).await.is_err() {
                    // Its reader says so, too.
                    break;
                }
            }
        }
        let wakeup = [process.next_wakeup(), Some(next_tell), Some(next_again), ends]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(next_tell);
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            place = readable(&process.receivers) => process.receive(place),
            Some(event) = events.recv() => match event {
                Event::Client(stream) => {
                    clients += 1;
                    let (reader, mut writer) = stream.into_split();
                    let hello = Report::Hello {
                        version: link::VERSION,
                        program: program.to_owned(),
                        pid: std::process::id(),
                    };
                    if write(&mut writer, &hello).await.is_ok() {
                        // The newest is manxd; whoever was before is on its way out.
                        client = Some((clients, writer));
                        alone_since = None;
                        process.changed = process.by_key.keys().copied().collect();
                        tokio::spawn(read(reader, clients, events_in.clone()));
                    }
                }
                Event::Line(of, line) if client.as_ref().is_some_and(|(number, _)| *number == of) => match line {
                    Some(line) => match serde_json::from_str(&line) {
                        Ok(Order::Sessions(wanted)) => process.follow(wanted),
                        Err(error) => tracing::warn!("BFD: an order that cannot be read: {error}"),
                    },
                    None => {
                        client = None;
                        alone_since = Some(Instant::now());
                    }
                },
                Event::Line(..) => {}
            },
            () = sleep_until(wakeup.into()) => {}
        }
    }
    process.shut_down().await;
    Ok(())
}

async fn accept(listener: UnixListener, events: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if events.send(Event::Client(stream)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!("BFD: {error}");
                sleep(AGAIN).await;
            }
        }
    }
}

async fn read(reader: tokio::net::unix::OwnedReadHalf, number: u64, events: mpsc::Sender<Event>) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        let most = LONGEST as u64;
        let whole = match (&mut reader).take(most).read_line(&mut line).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(line),
        };
        let over = whole.is_none();
        if events.send(Event::Line(number, whole)).await.is_err() || over {
            return;
        }
    }
}

async fn write(writer: &mut OwnedWriteHalf, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    // Who does not read is not waited for.
    match tokio::time::timeout(Duration::from_millis(100), writer.write_all(&line)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// The next socket that has something.
async fn readable(receivers: &BTreeMap<Place, tokio::net::UdpSocket>) -> Place {
    if receivers.is_empty() {
        return std::future::pending().await;
    }
    let mut waiting: Vec<_> =
        receivers.iter().map(|(place, socket)| (*place, Box::pin(socket.readable()))).collect();
    std::future::poll_fn(|context| {
        for (place, socket) in &mut waiting {
            if socket.as_mut().poll(context).is_ready() {
                return std::task::Poll::Ready(*place);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

impl Process {
    fn new() -> Process {
        Process {
            start: Instant::now(),
            random: RandomState::new(),
            next_number: 0,
            next_port: 49152,
            entries: BTreeMap::new(),
            by_key: HashMap::new(),
            schedule: BTreeSet::new(),
            receivers: BTreeMap::new(),
            refused: BTreeMap::new(),
            changed: BTreeSet::new(),
            gone: Vec::new(),
        }
    }

    fn now(&self) -> Time {
        self.start.elapsed()
    }

    fn next_wakeup(&self) -> Option<Instant> {
        self.schedule.first().map(|(at, _)| self.start + *at)
    }

    fn random(&mut self) -> u64 {
        self.next_number += 1;
        self.random.hash_one(self.next_number)
    }

    /// Not 0, and no other session's.
    fn discriminator(&mut self) -> u32 {
        loop {
            let number = self.random() as u32;
            if number != 0 && !self.entries.contains_key(&number) {
                return number;
            }
        }
    }

    fn follow(&mut self, wanted: Vec<Wanted>) {
        let keys: BTreeSet<Key> = wanted.iter().map(|wanted| wanted.key).collect();
        let gone: Vec<Key> = self.by_key.keys().filter(|key| !keys.contains(key)).copied().collect();
        for key in gone {
            self.end(key);
        }
        for wanted in wanted {
            self.want(wanted);
        }
        self.open_sockets();
    }

    fn want(&mut self, wanted: Wanted) {
        let now = self.now();
        if let Some(&discriminator) = self.by_key.get(&wanted.key) {
            if let Some(entry) = self.entries.get_mut(&discriminator) {
                if entry.wanted.local != wanted.local {
                    entry.sender = None;
                }
                entry.session.configure(wanted.config(), now);
                entry.wanted = wanted;
            }
            return self.put(discriminator);
        }
        let discriminator = self.discriminator();
        let seed = self.random();
        let session = Session::new(wanted.config(), discriminator, seed, now);
        self.by_key.insert(wanted.key, discriminator);
        self.changed.insert(wanted.key);
        let entry = Entry {
            wanted,
            session,
            sender: None,
            since: SystemTime::now(),
            by_administrator: false,
            failures: 0,
            sent: 0,
            received: 0,
            error: None,
            due: None,
        };
        self.entries.insert(discriminator, entry);
        self.put(discriminator);
    }

    /// The neighbour is told that nothing is wrong with the path.
    fn end(&mut self, key: Key) {
        let now = self.now();
        let Some(discriminator) = self.by_key.remove(&key) else { return };
        let Some(mut entry) = self.entries.remove(&discriminator) else { return };
        if let Some(due) = entry.due {
            self.schedule.remove(&(due, discriminator));
        }
        let last = entry.session.shut_down(now);
        for _ in 0..LAST_WORDS {
            entry.send(&last);
        }
        self.changed.remove(&key);
        self.gone.push(key);
    }

    /// Those that sessions need, and no others: another daemon may want them.
    fn open_sockets(&mut self) {
        let needed: BTreeSet<Place> =
            self.by_key.keys().map(|key| (key.address.is_ipv4(), key.multihop)).collect();
        self.receivers.retain(|place, _| needed.contains(place));
        self.refused.retain(|place, _| needed.contains(place));
        for place in needed {
            if self.receivers.contains_key(&place) {
                continue;
            }
            let (ipv4, multihop) = place;
            let opened = sockets::receiver(ipv4, multihop).and_then(tokio::net::UdpSocket::from_std);
            match opened {
                Ok(socket) => {
                    self.receivers.insert(place, socket);
                    self.refused.remove(&place);
                }
                Err(error) => {
                    let port = sockets::port(multihop);
                    let taken = error.kind() == io::ErrorKind::AddrInUse;
                    let hint = if taken { ": another BFD daemon runs on this host (bird, bfdd)" } else { "" };
                    let said = format!("cannot receive on UDP port {port}: {error}{hint}");
                    if self.refused.get(&place) != Some(&said) {
                        tracing::error!("BFD: {said}");
                    }
                    self.refused.insert(place, said);
                }
            }
        }
        for entry in self.entries.values_mut() {
            let key = entry.wanted.key;
            let mut error = self.refused.get(&(key.address.is_ipv4(), key.multihop)).cloned();
            if entry.sender.is_none() {
                match sockets::sender(entry.wanted.local, key.address.is_ipv4(), &mut self.next_port) {
                    Ok(socket) => entry.sender = Some(socket),
                    Err(refused) => {
                        let local =
                            entry.wanted.local.map_or_else(String::new, |local| format!(" from {local}"));
                        error.get_or_insert(format!("cannot send{local}: {refused}"));
                    }
                }
            }
            // What sending says changes from packet to packet.
            let was_ours = entry.error.as_ref().is_some_and(|was| was.starts_with("cannot "));
            if error.is_some() || was_ours {
                if entry.error != error {
                    self.changed.insert(key);
                }
                entry.error = error;
            }
        }
    }

    /// Into the schedule, as its timers are now.
    fn put(&mut self, discriminator: u32) {
        let Some(entry) = self.entries.get_mut(&discriminator) else { return };
        let due = entry.session.next_wakeup();
        if due == entry.due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut entry.due, due) {
            self.schedule.remove(&(before, discriminator));
        }
        self.schedule.extend(due.map(|due| (due, discriminator)));
    }

    fn advance(&mut self) {
        let now = self.now();
        while let Some(&(at, discriminator)) = self.schedule.first() {
            if at > now {
                break;
            }
            self.schedule.pop_first();
            let Some(entry) = self.entries.get_mut(&discriminator) else { continue };
            entry.due = None;
            let (change, packet) = entry.session.advance(now);
            if let Some(packet) = packet {
                entry.send(&packet);
            }
            self.note(discriminator, change);
            self.put(discriminator);
        }
    }

    fn note(&mut self, discriminator: u32, change: Option<Change>) {
        let (Some(change), Some(entry)) = (change, self.entries.get_mut(&discriminator)) else { return };
        entry.since = SystemTime::now();
        entry.by_administrator = change.by_administrator;
        if change.from == State::Up {
            entry.failures += 1;
        }
        let key = entry.wanted.key;
        self.changed.insert(key);
        match change.to {
            State::Down if change.from == State::Up => {
                tracing::warn!(neighbour = %key.address, "BFD: down: {}", change.diagnostic);
            }
            State::Up => tracing::info!(neighbour = %key.address, "BFD: up"),
            _ => {}
        }
    }

    fn receive(&mut self, place: Place) {
        let Some(socket) = self.receivers.get(&place) else { return };
        let mut packets: Vec<(SocketAddr, Result<Packet, PacketError>)> = Vec::new();
        let mut buffer = [0; LARGEST];
        while packets.len() < PACKETS_AT_ONCE
            && let Ok((length, from)) = socket.try_recv_from(&mut buffer)
        {
            packets.push((from, Packet::parse(buffer.get(..length).unwrap_or_default())));
        }
        let now = self.now();
        for (from, packet) in packets {
            let key = Key { address: canonical(from.ip()), multihop: place.1 };
            let packet = match packet {
                Ok(packet) => packet,
                Err(error) => {
                    self.refuse(key, &error);
                    continue;
                }
            };
            let Some(&discriminator) = self.by_key.get(&key) else { continue };
            // Of an earlier session, or of nobody's (RFC 5880 §6.8.6).
            if packet.your_discriminator != 0 && packet.your_discriminator != discriminator {
                continue;
            }
            let Some(entry) = self.entries.get_mut(&discriminator) else { continue };
            entry.received += 1;
            if entry.error.as_ref().is_some_and(|error| error.starts_with(REFUSED)) {
                entry.error = None;
            }
            let remote = entry.session.remote().copied();
            let (change, answer) = entry.session.receive(&packet, now);
            if let Some(answer) = answer {
                entry.send(&answer);
            }
            let said = |remote: crate::session::Remote| (remote.state, remote.diagnostic, remote.independent);
            if remote.map(said) != entry.session.remote().copied().map(said) {
                self.changed.insert(key);
            }
            self.note(discriminator, change);
            self.put(discriminator);
        }
    }

    /// Said where somebody looks: a neighbour with a key never comes up otherwise.
    fn refuse(&mut self, key: Key, error: &PacketError) {
        let Some(entry) = self.by_key.get(&key).and_then(|number| self.entries.get_mut(number)) else {
            return;
        };
        let said = format!("{REFUSED}: {error}");
        if entry.error.as_ref() != Some(&said) {
            tracing::warn!(neighbour = %key.address, "BFD: {said}");
            entry.error = Some(said);
            self.changed.insert(key);
        }
    }

    fn reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        if !self.gone.is_empty() {
            reports.push(Report::Gone(std::mem::take(&mut self.gone)));
        }
        if !self.changed.is_empty() {
            let changed = std::mem::take(&mut self.changed);
            let entries = changed.iter().filter_map(|key| self.entries.get(self.by_key.get(key)?));
            reports.push(Report::Sessions(entries.map(Entry::told).collect()));
        }
        reports
    }

    async fn shut_down(&mut self) {
        let now = self.now();
        let last: Vec<(u32, Packet)> =
            self.entries.iter_mut().map(|(number, entry)| (*number, entry.session.shut_down(now))).collect();
        for _ in 0..LAST_WORDS {
            for (number, packet) in &last {
                if let Some(entry) = self.entries.get_mut(number) {
                    entry.send(packet);
                }
            }
            sleep(BETWEEN_LAST_WORDS).await;
        }
    }
}

impl Entry {
    fn send(&mut self, packet: &Packet) {
        let Some(socket) = &self.sender else { return };
        let to = SocketAddr::new(self.wanted.key.address, sockets::port(self.wanted.key.multihop));
        match socket.send_to(&packet.encode(), to) {
            Ok(_) => {
                self.sent += 1;
                if self.error.as_ref().is_some_and(|error| error.starts_with("sending ")) {
                    self.error = None;
                }
            }
            // No route, or an address that is gone for a while.
            Err(error) => self.error = Some(format!("sending fails: {error}")),
        }
    }

    fn told(&self) -> Told {
        let session = &self.session;
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Told {
            key: self.wanted.key,
            state: session.state(),
            diagnostic: session.diagnostic(),
            by_administrator: self.by_administrator,
            since: millis(self.since.duration_since(UNIX_EPOCH).unwrap_or_default()),
            failures: self.failures,
            remote: session.remote().map(|remote| Neighbour {
                state: remote.state,
                diagnostic: remote.diagnostic,
                independent: remote.independent,
            }),
            transmit_interval: session.transmit_interval().map(millis),
            detection_time: session.detection_time().map(millis),
            sent: self.sent,
            received: self.received,
            error: self.error.clone(),
        }
    }
}

/// IPv6 sockets take no IPv4, so this is for link-local scopes alone: the address counts.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
