//! A peer says more than the kernel is told in seconds, and a session with a short hold time stands meanwhile.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use manx_tests::{lab::Lab, peers::manx::Manx};
use socket2::{Domain, Socket, Type};

use crate::{
    clients::{KEEPALIVE, message, open, range_resources, thousand_addresses},
    lab::{LOW, MIDDLE},
    protected::write_resources,
};

const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
/// Half as many again as the map of IPv4 routes has room for.
const ROUTES: u32 = 400_000;
/// Seconds; the least that there is (RFC 4271 §4.2).
const HOLD: u16 = 3;
const ALL_WRITTEN: Duration = Duration::from_secs(120);

/// A session that is up.
fn session(last: u8, hold: u16) -> Result<TcpStream> {
    let to = SocketAddr::new(MIDDLE.ipv4().into(), 179);
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::from([10, 99, 0, last]), 0).into())?;
    socket.connect(&to.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&open(0x0a63_0000 + u32::from(last), true, hold))?;
    loop {
        let mut header = [0; 19];
        stream.read_exact(&mut header).context("the handshake")?;
        let [.., high, low, kind] = header;
        let mut body = vec![0; usize::from(u16::from_be_bytes([high, low])) - header.len()];
        stream.read_exact(&mut body)?;
        match kind {
            KEEPALIVE => return Ok(stream),
            NOTIFICATION => bail!("refused: {body:?}"),
            _ => stream.write_all(&message(KEEPALIVE, &[]))?,
        }
    }
}

/// All routes by the low place, in messages of nearly 4096 octets.
fn feed() -> Vec<u8> {
    // ORIGIN IGP, an empty AS_PATH, NEXT_HOP and LOCAL_PREF 100.
    let mut attributes = vec![0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4];
    attributes.extend(LOW.ipv4().octets());
    attributes.extend([0x40, 5, 4, 0, 0, 0, 100]);
    let mut out = Vec::new();
    let routes: Vec<u32> = (0..ROUTES).collect();
    for some in routes.chunks(800) {
        let mut body = vec![0, 0];
        body.extend((attributes.len() as u16).to_be_bytes());
        body.extend(&attributes);
        for n in some {
            body.push(26);
            body.extend(Ipv4Addr::from_bits((11 << 24) + (n << 6)).octets());
        }
        out.extend(message(UPDATE, &body));
    }
    out
}

/// Goes on talking, in pieces that are read one by one: what others say stands in the same queue behind them.
fn chatter(mut stream: TcpStream, over: &AtomicBool) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&feed())?;
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&message(KEEPALIVE, &[]))?;
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// Keeps the session until all is written.
fn keep(mut stream: TcpStream, over: &AtomicBool) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut said: Option<Instant> = None;
    let mut some = [0; 4096];
    while !over.load(Ordering::Relaxed) {
        if said.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            said = Some(Instant::now());
            stream.write_all(&message(KEEPALIVE, &[]))?;
        }
        match stream.read(&mut some) {
            Ok(0) => bail!("closed"),
            Ok(read) => {
                let heard = some.get(..read).unwrap_or_default();
                // Routes are not sent to it, so that it hears whole short messages.
                ensure!(heard.get(18) != Some(&NOTIFICATION), "a NOTIFICATION: {heard:?}");
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[test]
fn a_keepalive_counts_in_time_while_more_is_written_than_the_map_has_room_for() -> Result<()> {
    let mut lab = Lab::new()?;
    write_resources(&lab, &[], &range_resources())?;
    let manx = Manx::start(MIDDLE.host(&mut lab)?, &[], &lab.logs())?;
    let low = LOW.host(&mut lab)?;
    thousand_addresses(&low, &manx.host, ["10.99.0.0/16", "fd99::/64"])?;
    low.sh(&format!("ping -c 1 -W 2 {}", MIDDLE.ipv4()))?;
    let over = AtomicBool::new(false);
    let (took, slowest) = thread::scope(|scope| -> Result<_> {
        let quiet = low.run(|| session(1, HOLD))?;
        let loud = low.run(|| session(2, 90))?;
        let over = &over;
        let kept = scope.spawn(move || keep(quiet, over));
        let begun = Instant::now();
        let talked = scope.spawn(move || chatter(loud, over));
        let mut slowest = Duration::ZERO;
        let written = loop {
            let asked = Instant::now();
            let maps = manx.dataplane()?.maps;
            slowest = slowest.max(asked.elapsed());
            let map = maps.into_iter().find(|map| map.name == "ROUTES4").context("no ROUTES4")?;
            let all =
                map.entries >= u64::from(ROUTES).min(map.max_entries) && in_the_kernel(&manx)? >= ROUTES;
            if all || kept.is_finished() || begun.elapsed() > ALL_WRITTEN {
                break if all { ROUTES } else { in_the_kernel(&manx)? };
            }
            thread::sleep(Duration::from_millis(500));
        };
        over.store(true, Ordering::Relaxed);
        let took = begun.elapsed();
        kept.join()
            .map_err(|_| anyhow::anyhow!("the session panicked"))?
            .with_context(|| format!("the quiet session, after {took:?} and {written} routes"))?;
        talked.join().map_err(|_| anyhow::anyhow!("the other session panicked"))??;
        ensure!(written >= ROUTES, "{written} routes after {took:?}");
        Ok((took, slowest))
    })?;
    println!("{ROUTES} routes in {took:?}; meanwhile a status took {slowest:?} at most");
    Ok(())
}

/// How many routes of Manx's.
fn in_the_kernel(manx: &Manx) -> Result<u32> {
    let said = manx.host.shell("ip -4 route show proto 77 | wc -l")?.success()?;
    said.trim().parse().with_context(|| format!("wc said {said}"))
}
