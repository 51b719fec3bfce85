//! A small generator for two ends in two namespaces: pings, requests and responses, streams, and datagrams. Threads
//! are pinned, buffers are made before the clock starts, and what counts is what the receiver has.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use manx_tests::netns::Netns;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use socket2::{Domain, SockRef, Socket, Type};

/// Nothing is waited for longer.
const LIMIT: Duration = Duration::from_secs(5);
/// Before a stream is counted: slow start is over then.
const WARM_UP: Duration = Duration::from_millis(100);
/// Linux's own default. What a machine is set to may be another: BBR sends at a rate that it guesses, which on a path
/// without a bottleneck differs from round to round by more than two paths do.
const CONGESTION: &[u8] = b"cubic";
const CHUNK: usize = 256 << 10;
/// Of a datagram, so that the frame has 64 octets with its checksum: 14 + 20 + 8 + 18 + 4.
const DATAGRAM: usize = 18;

#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    pub client: &'a Netns,
    pub server: &'a Netns,
    pub address: IpAddr,
    /// CPUs of client and server.
    pub cpus: (usize, usize),
}

/// Requests and responses of one octet, one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Responses {
    /// In a second.
    pub rate: f64,
    /// Microseconds from request to response.
    pub p50: f64,
    pub p99: f64,
}

/// Which algorithm a connection has is said before there is one: BBR leaves its pacing behind.
fn dial(to: SocketAddr) -> Result<TcpStream> {
    let client = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    client.set_tcp_congestion(CONGESTION).context("cubic congestion control")?;
    client.connect_timeout(&to.into(), LIMIT).with_context(|| format!("connecting to {to}"))?;
    Ok(client.into())
}

fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pinning a thread")
}

/// On a thread of its own with a CPU of its own.
fn on<T: Send + 'static>(
    cpu: usize,
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> thread::JoinHandle<Result<T>> {
    thread::spawn(move || {
        pin(cpu)?;
        job()
    })
}

fn join<T>(thread: thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread of the generator panicked"))?
}

impl Ends<'_> {
    /// Mean time of a ping in microseconds.
    pub fn ping(&self, count: u32) -> Result<f64> {
        let (cpu, to) = (self.cpus.0, self.address);
        let said = self.client.sh(&format!("taskset -c {cpu} ping -q -n -f -c {count} {to}"))?;
        ensure!(said.contains(" 0% packet loss"), "pings were lost: {said}");
        let mean = said.rsplit("mdev = ").next().and_then(|numbers| numbers.split('/').nth(1));
        let mean: f64 = mean.with_context(|| format!("ping said {said}"))?.parse()?;
        Ok(mean * 1e3)
    }

    fn connect(&self, listener: &TcpListener) -> Result<(TcpStream, TcpStream)> {
        let to = listener.local_addr()?;
        let client = self.client.run(move || dial(to))?;
        let (server, _) = listener.accept()?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.set_write_timeout(Some(LIMIT))?;
        }
        Ok((client, server))
    }

    fn listen(&self) -> Result<TcpListener> {
        let at = SocketAddr::new(self.address, 0);
        let listener =
            self.server.run(move || TcpListener::bind(at)).with_context(|| format!("listening on {at}"))?;
        // Connections that it accepts have it too.
        SockRef::from(&listener).set_tcp_congestion(CONGESTION).context("cubic congestion control")?;
        Ok(listener)
    }

    pub fn responses(&self, during: Duration) -> Result<Responses> {
        let (mut client, mut server) = self.connect(&self.listen()?)?;
        let serving = on(self.cpus.1, move || {
            let mut octet = [0];
            // Until the client closes.
            while server.read(&mut octet)? == 1 {
                server.write_all(&octet)?;
            }
            Ok(())
        });
        let asking = on(self.cpus.0, move || {
            let mut octet = [7];
            let mut times = Vec::with_capacity(1 << 20);
            let warm = Instant::now();
            while warm.elapsed() < during / 10 {
                client.write_all(&octet)?;
                client.read_exact(&mut octet)?;
            }
            let start = Instant::now();
            let mut last = start;
            while last - start < during {
                client.write_all(&octet)?;
                client.read_exact(&mut octet)?;
                let now = Instant::now();
                times.push((now - last).as_nanos() as f64 / 1e3);
                last = now;
            }
            times.sort_by(f64::total_cmp);
            let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
            Ok(Responses {
                rate: times.len() as f64 / (last - start).as_secs_f64(),
                p50: at(50),
                p99: at(99),
            })
        });
        let responses = join(asking)?;
        join(serving)?;
        Ok(responses)
    }

    /// Bits in a second that the server reads from all streams.
    pub fn streams(&self, count: usize, during: Duration) -> Result<f64> {
        let listener = self.listen()?;
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for _ in 0..count {
            let (mut client, mut server) = self.connect(&listener)?;
            let stopped = Arc::clone(&stop);
            threads.push(on(self.cpus.0, move || {
                let chunk = vec![0x5a; CHUNK];
                while !stopped.load(Ordering::Relaxed) {
                    client.write_all(&chunk)?;
                }
                Ok(())
            }));
            let counted = Arc::clone(&read);
            threads.push(on(self.cpus.1, move || {
                let mut chunk = vec![0; CHUNK];
                loop {
                    match server.read(&mut chunk)? {
                        0 => return Ok(()),
                        count => counted.fetch_add(count as u64, Ordering::Relaxed),
                    };
                }
            }));
        }
        thread::sleep(WARM_UP);
        let (before, start) = (read.load(Ordering::Relaxed), Instant::now());
        thread::sleep(during);
        let (after, took) = (read.load(Ordering::Relaxed), start.elapsed());
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(join)?;
        Ok((after - before) as f64 * 8.0 / took.as_secs_f64())
    }

    /// Datagrams of 64-octet frames in a second that the server reads, while the client sends as fast as it can.
    pub fn datagrams(&self, during: Duration) -> Result<f64> {
        let at = SocketAddr::new(self.address, 0);
        let server = self.server.run(move || UdpSocket::bind(at))?;
        let to = server.local_addr()?;
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
        let client = self.client.run(move || {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(to)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        // Conntrack takes a flow for known when it has seen both directions.
        client.send(&[0; DATAGRAM])?;
        server.set_read_timeout(Some(LIMIT))?;
        let mut buffer = [0; 2048];
        let (_, from) = server.recv_from(&mut buffer)?;
        server.send_to(&[0; DATAGRAM], from)?;
        client.set_read_timeout(Some(LIMIT))?;
        client.recv(&mut buffer)?;

        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        server.set_read_timeout(Some(WARM_UP))?;
        let (counted, stopped) = (Arc::clone(&read), Arc::clone(&stop));
        let receiving = on(self.cpus.1, move || {
            let mut buffer = [0; 2048];
            loop {
                if server.recv(&mut buffer).is_ok() {
                    counted.fetch_add(1, Ordering::Relaxed);
                } else if stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        });
        let stopped = Arc::clone(&stop);
        let sending = on(self.cpus.0, move || {
            while !stopped.load(Ordering::Relaxed) {
                // A full queue on the way is a datagram that does not count.
                let _ = client.send(&[0; DATAGRAM]);
            }
            Ok(())
        });
        thread::sleep(WARM_UP);
        let (before, start) = (read.load(Ordering::Relaxed), Instant::now());
        thread::sleep(during);
        let (after, took) = (read.load(Ordering::Relaxed), start.elapsed());
        stop.store(true, Ordering::Relaxed);
        join(sending)?;
        join(receiving)?;
        Ok((after - before) as f64 / took.as_secs_f64())
    }
}
