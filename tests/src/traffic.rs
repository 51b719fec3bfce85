//! Traffic whose losses are counted: numbered UDP datagrams from one namespace to another and back, at a steady rate,
//! without a process of their own. A datagram that has not come back when all is over was lost, on whichever way.

use std::{
    collections::BTreeSet,
    fmt,
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// How long the last datagrams may be on their way.
const LINGER: Duration = Duration::from_secs(1);
const ECHO_PAUSE: Duration = Duration::from_millis(50);

/// One end of a flow: where the socket is opened, and its address.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub ns: &'a Netns,
    pub address: IpAddr,
}

#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    /// Nothing is on its way any more.
    over: Arc<AtomicBool>,
    sender: Option<JoinHandle<Report>>,
    echo: Option<JoinHandle<BTreeSet<usize>>>,
    name: String,
}

/// What became of a flow's datagrams.
#[derive(Clone, Debug)]
pub struct Report {
    pub flow: String,
    pub sent: usize,
    /// The numbers of those that did not come back, ascending.
    pub lost: Vec<usize>,
    /// Of these, those that did not even arrive.
    pub lost_there: BTreeSet<usize>,
    pub started: Instant,
    pub interval: Duration,
}

impl Report {
    /// When each that was lost was sent, and whether it was lost on the way there.
    pub fn losses(&self) -> impl Iterator<Item = (Instant, bool)> {
        self.lost.iter().map(|number| {
            let after = self.interval * u32::try_from(*number).unwrap_or(u32::MAX);
            (self.started + after, self.lost_there.contains(number))
        })
    }

    /// The longest run of datagrams lost in a row, as time.
    pub fn longest_outage(&self) -> Duration {
        let (mut longest, mut run, mut previous) = (0u32, 0u32, None);
        for &n in &self.lost {
            run = if previous.is_some_and(|p| p + 1 == n) { run + 1 } else { 1 };
            longest = longest.max(run);
            previous = Some(n);
        }
        self.interval * longest
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} sent, {} lost", self.flow, self.sent, self.lost.len())?;
        if let Some(first) = self.lost.first() {
            let at = self.interval * u32::try_from(*first).unwrap_or(u32::MAX);
            let there = self.lost_there.len();
            write!(
                f,
                " ({there} on the way there), the first after {at:?}, longest outage {:?}",
                self.longest_outage()
            )?;
        }
        Ok(())
    }
}

impl Flow {
    /// Sends a datagram every `interval` until it is stopped.
    pub fn start(from: End<'_>, to: End<'_>, interval: Duration) -> Result<Flow> {
        let name = format!("{} {} → {} {}", from.ns.name(), from.address, to.ns.name(), to.address);
        let there = open(to).with_context(|| name.clone())?;
        let here = open(from).with_context(|| name.clone())?;
        let target = there.local_addr()?;
        let (stop, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let echo = {
            let over = Arc::clone(&over);
            thread::Builder::new().name("echo".into()).spawn(move || echo(&there, &over))?
        };
        let sender = {
            let (stop, name) = (Arc::clone(&stop), name.clone());
            thread::Builder::new()
                .name("sender".into())
                .spawn(move || send(&here, target, interval, &stop, name))?
        };
        Ok(Flow { stop, over, sender: Some(sender), echo: Some(echo), name })
    }

    /// Stops sending, waits for what is still on its way, and counts.
    pub fn stop(mut self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let sender = self.sender.take().context("a flow is stopped once")?;
        let report = sender.join().map_err(|_| anyhow::anyhow!("{}: its sender panicked", self.name))?;
        self.over.store(true, Ordering::Relaxed);
        let echo = self.echo.take().context("a flow is stopped once")?;
        let arrived = echo.join().map_err(|_| anyhow::anyhow!("{}: its echo panicked", self.name))?;
        let lost_there = report.lost.iter().filter(|number| !arrived.contains(number)).copied().collect();
        Ok(Report { lost_there, ..report })
    }

    /// Stops several flows at once.
    pub fn stop_all(flows: Vec<Flow>) -> Result<Vec<Report>> {
        for flow in &flows {
            flow.stop.store(true, Ordering::Relaxed);
        }
        flows.into_iter().map(Flow::stop).collect()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // A panic of the sender has been seen by whoever stopped the flow.
        let _ = self.sender.take().map(JoinHandle::join);
        self.over.store(true, Ordering::Relaxed);
        let _ = self.echo.take().map(JoinHandle::join);
    }
}

fn open(end: End<'_>) -> Result<UdpSocket> {
    let address = SocketAddr::new(end.address, 0);
    end.ns.run(move || UdpSocket::bind(address)).with_context(|| format!("a socket at {address}"))
}

/// Gives the numbers of what arrived.
fn echo(socket: &UdpSocket, over: &AtomicBool) -> BTreeSet<usize> {
    let mut arrived = BTreeSet::new();
    let mut buffer = [0; 8];
    if socket.set_read_timeout(Some(ECHO_PAUSE)).is_err() {
        return arrived;
    }
    while !over.load(Ordering::Relaxed) {
        // An answer that cannot be sent is a loss, and the sender counts it.
        if let Ok((8, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer, from);
            arrived.extend(usize::try_from(u64::from_be_bytes(buffer)));
        }
    }
    arrived
}

fn send(
    socket: &UdpSocket,
    target: SocketAddr,
    interval: Duration,
    stop: &AtomicBool,
    flow: String,
) -> Report {
    let mut answered: Vec<bool> = Vec::new();
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let number = answered.len();
        answered.push(false);
        // Refused by our own kernel, for want of a route perhaps: a loss like another.
        let _ = socket.send_to(&(number as u64).to_be_bytes(), target);
        let next = started + interval * u32::try_from(answered.len()).unwrap_or(u32::MAX);
        receive_until(socket, next, &mut answered);
    }
    let end = Instant::now() + LINGER;
    while answered.contains(&false) && Instant::now() < end {
        receive_until(socket, (Instant::now() + ECHO_PAUSE).min(end), &mut answered);
    }
    let lost = answered.iter().enumerate().filter(|(_, came)| !**came).map(|(n, _)| n).collect();
    Report { flow, sent: answered.len(), lost, lost_there: BTreeSet::new(), started, interval }
}

fn receive_until(socket: &UdpSocket, deadline: Instant, answered: &mut [bool]) {
    let mut buffer = [0; 8];
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        // Zero would mean no timeout at all.
        if rest.is_zero() || socket.set_read_timeout(Some(rest)).is_err() {
            return;
        }
        match socket.recv(&mut buffer) {
            Ok(8) => {
                if let Ok(number) = usize::try_from(u64::from_be_bytes(buffer))
                    && let Some(came) = answered.get_mut(number)
                {
                    *came = true;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
            // What comes by ICMP concerns one datagram: the rest are still to be heard.
            Ok(_) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn what_is_cut_is_counted_and_the_longest_outage_is_measured() {
        let ns = Netns::new("loop").unwrap();
        ns.sh("ip link set lo up").unwrap();
        let end = End { ns: &ns, address: Ipv4Addr::LOCALHOST.into() };
        let flow = Flow::start(end, end, Duration::from_millis(2)).unwrap();
        thread::sleep(Duration::from_millis(100));
        ns.sh("ip link set lo down").unwrap();
        thread::sleep(Duration::from_millis(100));
        ns.sh("ip link set lo up").unwrap();
        thread::sleep(Duration::from_millis(100));
        let report = flow.stop().unwrap();
        assert!(report.sent > 100, "{report}");
        assert!(report.lost.len() > 20 && report.lost.len() < report.sent - 50, "{report}");
        assert!(report.longest_outage() > Duration::from_millis(50), "{report}");
        assert_eq!(report.lost_there.len(), report.lost.len(), "{report}");
    }

    #[test]
    fn nothing_is_lost_where_nothing_is_cut() {
        let ns = Netns::new("loop").unwrap();
        ns.sh("ip link set lo up").unwrap();
        let end = End { ns: &ns, address: Ipv4Addr::LOCALHOST.into() };
        let flow = Flow::start(end, end, Duration::from_millis(1)).unwrap();
        thread::sleep(Duration::from_millis(200));
        let report = flow.stop().unwrap();
        assert!(report.lost.is_empty() && report.sent > 100, "{report}");
    }
}
