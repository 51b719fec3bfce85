//! One-way traffic to an address that nobody may have yet: numbered UDP datagrams at a steady rate, and somebody who
//! catches them where the address is now. What was sent from a certain moment on and was not caught was lost.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::Netns;

/// Of the stream that is started next in this process: each has its own, by which it is told from others.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);
/// How long the last datagrams may be on their way: as long as a neighbour may have to be asked twice.
pub const LINGER: Duration = Duration::from_millis(1200);
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Stream {
    next: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
    to: SocketAddr,
    name: String,
}

impl Stream {
    /// Sends a datagram every `interval` until it is dropped.
    pub fn start(from: &Netns, to: IpAddr, interval: Duration) -> Result<Stream> {
        let to = SocketAddr::new(to, NEXT_PORT.fetch_add(1, Ordering::Relaxed));
        let name = format!("{} → {to}", from.name());
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = from.run(move || UdpSocket::bind((any, 0))).with_context(|| name.clone())?;
        let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let sender = {
            let (next, stop) = (Arc::clone(&next), Arc::clone(&stop));
            thread::Builder::new().name("stream".into()).spawn(move || {
                let started = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    // Refused by our own kernel, or told by ICMP of an earlier one: lost like another.
                    let _ = socket.send_to(&number.to_be_bytes(), to);
                    let due = started + interval * u32::try_from(number + 1).unwrap_or(u32::MAX);
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                }
            })?
        };
        Ok(Stream { next, stop, sender: Some(sender), to, name })
    }

    /// The number of the next datagram: what is sent from now on has at least this.
    pub fn mark(&self) -> u64 {
        self.next.load(Ordering::SeqCst)
    }

    /// Fails if any of these numbers is not among what was caught, or if they are fewer than `least`. Give what was sent
    /// last [`LINGER`] to arrive.
    pub fn all_caught(&self, catch: &Catch, sent: Range<u64>, least: u64) -> Result<()> {
        let (caught, count) = (catch.numbers(), sent.end - sent.start);
        let lost: Vec<u64> = sent.filter(|number| !caught.contains(number)).collect();
        println!("{}: {count} sent, {} lost", self.name, lost.len());
        ensure!(count >= least, "{}: only {count} were sent", self.name);
        if let Some(first) = lost.first() {
            bail!("{}: of {count} were lost {}, first number {first}", self.name, lost.len());
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // It only sends: there is nothing to learn from how it ended.
        let _ = self.sender.take().map(JoinHandle::join);
    }
}

/// Catches what arrives of a stream.
#[derive(Debug)]
pub struct Catch {
    over: Arc<AtomicBool>,
    numbers: Arc<std::sync::Mutex<BTreeSet<u64>>>,
    receiver: Option<JoinHandle<()>>,
}

impl Catch {
    /// Where the stream's address is now.
    pub fn start(at: &Netns, stream: &Stream) -> Result<Catch> {
        let to = stream.to;
        let socket = at.run(move || UdpSocket::bind(to)).with_context(|| format!("{}: {to}", at.name()))?;
        socket.set_read_timeout(Some(PAUSE))?;
        let over = Arc::new(AtomicBool::new(false));
        let numbers = Arc::new(std::sync::Mutex::new(BTreeSet::new()));
        let receiver = {
            let (over, numbers) = (Arc::clone(&over), Arc::clone(&numbers));
            thread::Builder::new().name("catch".into()).spawn(move || {
                let mut buffer = [0; 8];
                while !over.load(Ordering::Relaxed) {
                    if let Ok(8) = socket.recv(&mut buffer)
                        && let Ok(mut numbers) = numbers.lock()
                    {
                        numbers.insert(u64::from_be_bytes(buffer));
                    }
                }
            })?
        };
        Ok(Catch { over, numbers, receiver: Some(receiver) })
    }

    pub fn numbers(&self) -> BTreeSet<u64> {
        self.numbers.lock().map(|numbers| numbers.clone()).unwrap_or_default()
    }
}

impl Drop for Catch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // As for a stream.
        let _ = self.receiver.take().map(JoinHandle::join);
    }
}
