//! The peers of a daemon whose routes change: one that says what it is told to, and one that says nothing and notes
//! how long the daemon was silent towards it.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddrV4, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use manx_tests::netns::Netns;
use socket2::{Domain, Socket, Type};

use super::sinks::START;
use crate::{
    player::Player,
    scenario::{ASN, DAEMON, client},
    session::{Phase, Session},
    table::Table,
    wire::{self, HEADER, Kind},
};

/// How long an idle player does not look for orders.
const IDLE: Duration = Duration::from_millis(1);

/// The one at `client(0)`, once its session stands.
#[derive(Debug)]
pub struct Teller {
    orders: Option<mpsc::Sender<Arc<[u8]>>>,
    sent: mpsc::Receiver<Instant>,
    playing: Option<JoinHandle<Result<()>>>,
}

impl Teller {
    pub fn connect(generator: &Netns) -> Result<Teller> {
        let mut player = generator.run(|| -> Result<Player> {
            let session = Session::new(client(0), ASN, Table::indifferent());
            let mut player = Player::new(DAEMON, vec![session])?;
            player.dial(1);
            // A daemon that has just started may have no first table to end before it has heard ours.
            let stands = |player: &Player| player.sessions.iter().all(|s| s.phase == Phase::Established);
            let ready = player.until(Instant::now() + START, stands)?;
            ensure!(ready.is_some(), "no session: {}", player.progress());
            player.steady = true;
            Ok(player)
        })?;
        let (orders, told) = mpsc::channel::<Arc<[u8]>>();
        let (began, sent) = mpsc::channel();
        // Its socket stays in the namespace where it was opened.
        let playing = thread::Builder::new().name("teller".into()).spawn(move || {
            loop {
                match told.try_recv() {
                    Ok(bytes) => {
                        let now = Instant::now();
                        player.send(0, bytes)?;
                        // Whoever ordered may have given up.
                        let _ = began.send(now);
                    }
                    Err(mpsc::TryRecvError::Empty) => {
                        player.until(Instant::now() + IDLE, |_| false)?;
                    }
                    Err(mpsc::TryRecvError::Disconnected) => return Ok(()),
                }
            }
        })?;
        Ok(Teller { orders: Some(orders), sent, playing: Some(playing) })
    }

    /// Says this; the instant before the first octet.
    pub fn tell(&self, bytes: Vec<u8>) -> Result<Instant> {
        let orders = self.orders.as_ref().context("it has ended")?;
        orders.send(bytes.into()).map_err(|_| anyhow!("the session has ended"))?;
        self.sent.recv().context("the session has ended")
    }

    /// Whatever ended the session before.
    pub fn end(mut self) -> Result<()> {
        drop(self.orders.take());
        let playing = self.playing.take().context("it ends once")?;
        playing.join().map_err(|_| anyhow!("the teller panicked"))?
    }
}

/// Its hold time in seconds, the least that there is (RFC 4271 §4.2): the daemon speaks every second.
const HOLD: u16 = 3;

/// The one at `client(1)`: an error if the daemon is silent for longer than the hold time.
#[derive(Debug)]
pub struct Listener {
    over: Arc<AtomicBool>,
    listening: Option<JoinHandle<Result<Duration>>>,
}

impl Listener {
    pub fn connect(generator: &Netns) -> Result<Listener> {
        let mut stream = generator.run(|| -> Result<TcpStream> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddrV4::new(client(1), 0).into())?;
            socket.connect(&SocketAddrV4::new(DAEMON, 179).into())?;
            Ok(socket.into())
        })?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(&wire::open(ASN, client(1), HOLD))?;
        while message(&mut stream)?.context("the daemon said nothing")? != Kind::Keepalive {
            stream.write_all(&wire::keepalive())?;
        }
        // It has no routes.
        stream.write_all(&wire::end_of_rib())?;
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let listening =
            thread::Builder::new().name("listener".into()).spawn(move || listen(&mut stream, &until))?;
        Ok(Listener { over, listening: Some(listening) })
    }

    /// The longest silence.
    pub fn end(mut self) -> Result<Duration> {
        self.over.store(true, Ordering::Relaxed);
        let listening = self.listening.take().context("it ends once")?;
        listening.join().map_err(|_| anyhow!("the listener panicked"))?
    }
}

fn listen(stream: &mut TcpStream, over: &AtomicBool) -> Result<Duration> {
    let limit = Duration::from_secs(HOLD.into());
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    let (mut heard, mut said) = (Instant::now(), Instant::now());
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        if said.elapsed() > limit / 3 {
            said = Instant::now();
            stream.write_all(&wire::keepalive())?;
        }
        if let Some(kind) = message(stream)? {
            ensure!(kind != Kind::Notification, "the daemon ended the session of {}", client(1));
            longest = longest.max(heard.elapsed());
            heard = Instant::now();
        }
        ensure!(heard.elapsed() < limit, "the daemon was silent towards {} for {limit:?}", client(1));
    }
    Ok(longest.max(heard.elapsed()))
}

/// The kind of the next message, or `None` when the socket's time has passed before it began.
fn message(stream: &mut TcpStream) -> Result<Option<Kind>> {
    let mut head = [0; HEADER];
    match stream.peek(&mut head) {
        Ok(0) => bail!("{}: the daemon closed the connection", client(1)),
        Ok(_) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    // What has begun comes whole within the socket's time.
    stream.read_exact(&mut head)?;
    let (kind, length) = wire::header(&head)?;
    let mut body = vec![0; length - HEADER];
    stream.read_exact(&mut body)?;
    Ok(Some(kind))
}
