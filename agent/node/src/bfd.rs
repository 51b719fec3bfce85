//! BFD runs in a process of its own, of the same binary, which outlives manxd: while manxd restarts, its neighbours see that
//! the path is there (RFC 5880's C bit). manxd starts it where resources ask for BFD and nobody has; a process of another
//! version is ended, which its neighbours are told, and another takes its place.

use std::{
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context;
use manx_bfd::link::{Key, LONGEST, Order, Report, Told, VERSION, Wanted};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixStream, unix::OwnedReadHalf},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    cli::{BfdArgs, RunArgs},
    logging, unix_socket,
};

/// Between two tries to reach the process.
const AGAIN: Duration = Duration::from_millis(200);
/// From one start of it to the next, and after one that failed.
const START_AGAIN: Duration = Duration::from_secs(3);
/// For the first word, and for an order to be taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// What became of the sessions.
#[derive(Debug)]
pub enum News {
    Sessions(Vec<Told>),
    Gone(Vec<Key>),
    /// The process is there.
    Found {
        pid: u32,
    },
    /// There is none, and why.
    Lost(String),
}

/// `manxd bfd`.
pub fn run(args: &BfdArgs) -> anyhow::Result<()> {
    logging::start(args.log_format, &args.log_level)?;
    // A neighbour takes a late packet for a dead node.
    if let Err(error) = rustix::process::setpriority_process(None, -20) {
        tracing::info!("BFD has no priority over other processes: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let occupied = "another BFD process of this node is running";
        let (listener, place) = unix_socket::Place::listen(&args.bfd_socket, occupied)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "BFD starts");
        let linger = Duration::from_secs(args.linger.into());
        manx_bfd::process::run(listener, || place.is_there(), env!("CARGO_PKG_VERSION"), linger)
            .await
            .context("BFD")
    })
}

/// Ends the process of this node, if one runs. True if one did.
pub fn end(socket: &Path) -> anyhow::Result<bool> {
    let Ok(stream) = std::os::unix::net::UnixStream::connect(socket) else { return Ok(false) };
    let pid = peer(&stream).with_context(|| format!("{}", socket.display()))?;
    kill(pid, Signal::SIGTERM).with_context(|| format!("cannot end the BFD process {pid}"))?;
    Ok(true)
}

/// Who serves the socket.
fn peer(stream: &impl std::os::fd::AsFd) -> nix::Result<Pid> {
    let who = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(Pid::from_raw(who.pid()))
}

/// Keeps the process informed, and this daemon by it, until the daemon ends.
#[derive(Debug)]
pub struct Link {
    socket: PathBuf,
    program: io::Result<PathBuf>,
    log: [String; 2],
    wanted: watch::Receiver<Vec<Wanted>>,
    news: mpsc::Sender<News>,
    child: Option<Child>,
    said: String,
}

impl Link {
    pub fn new(args: &RunArgs, wanted: watch::Receiver<Vec<Wanted>>, news: mpsc::Sender<News>) -> Link {
        Link {
            socket: args.places.bfd_socket.clone(),
            program: std::env::current_exe(),
            log: [
                format!(
                    "--log-format={}",
                    if args.log_format == crate::cli::LogFormat::Json { "json" } else { "text" }
                ),
                format!("--log-level={}", args.log_level),
            ],
            wanted,
            news,
            child: None,
            said: String::new(),
        }
    }

    pub async fn serve(mut self) {
        loop {
            // Nobody asks for BFD: then there need be no process.
            while self.wanted.borrow_and_update().is_empty() {
                self.reap();
                if self.wanted.changed().await.is_err() {
                    return;
                }
            }
            match self.reach().await {
                Ok(stream) => {
                    let said = match self.talk(stream).await {
                        Ok(true) => continue,
                        Ok(false) => return,
                        Err(error) => error.to_string(),
                    };
                    self.lost(format!("the BFD process is gone: {said}")).await;
                }
                Err(error) => {
                    self.lost(format!("the BFD process cannot be started: {error}")).await;
                    sleep(START_AGAIN).await;
                }
            }
        }
    }

    /// Said once.
    async fn lost(&mut self, why: String) {
        if self.said != why {
            tracing::error!("{why}");
            self.said.clone_from(&why);
        }
        // Whoever does not listen has ended.
        let _ = self.news.send(News::Lost(why)).await;
    }

    fn reap(&mut self) {
        if self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None))) {
            self.child = None;
        }
    }

    async fn reach(&mut self) -> io::Result<UnixStream> {
        if let Ok(stream) = UnixStream::connect(&self.socket).await {
            return Ok(stream);
        }
        self.reap();
        if self.child.is_none() {
            let program =
                self.program.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
            let child = Command::new(program)
                .arg("bfd")
                .arg("--bfd-socket")
                .arg(&self.socket)
                .args(&self.log)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn_apart()?;
            self.child = Some(child);
        }
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..PATIENCE.as_millis() / AGAIN.as_millis() {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
            sleep(AGAIN).await;
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                self.child = None;
                return Err(io::Error::other(format!("it has ended with {status}; the log says why")));
            }
        }
        Err(last)
    }

    /// Until the connection ends (an error), nobody asks for BFD any more (true), or this daemon ends (false).
    async fn talk(&mut self, stream: UnixStream) -> io::Result<bool> {
        let pid = peer(&stream)?;
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        let hello = timeout(PATIENCE, next(&mut reader)).await.map_err(io::Error::other)??;
        match hello {
            Report::Hello { version: VERSION, program, pid } => {
                tracing::info!(pid, program, "BFD runs in a process of its own");
            }
            Report::Hello { version, .. } => {
                tracing::info!(%pid, "the BFD process speaks version {version}, not {VERSION}: another takes its place");
                kill(pid, Signal::SIGTERM)?;
                sleep(AGAIN).await;
                return Ok(true);
            }
            other => return Err(io::Error::other(format!("its first word is {other:?}"))),
        }
        self.said.clear();
        let pid = pid.as_raw().unsigned_abs();
        if self.news.send(News::Found { pid }).await.is_err() {
            return Ok(false);
        }
        let (lines_in, mut lines) = mpsc::channel(16);
        let reading = tokio::spawn(async move {
            loop {
                let line = next(&mut reader).await;
                let over = line.is_err();
                if lines_in.send(line).await.is_err() || over {
                    return;
                }
            }
        });
        let outcome = loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let none = wanted.is_empty();
            let mut line = serde_json::to_vec(&Order::Sessions(wanted))?;
            line.push(b'\n');
            timeout(PATIENCE, writer.write_all(&line)).await.map_err(io::Error::other)??;
            if none {
                break true;
            }
            loop {
                tokio::select! {
                    changed = self.wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => {
                            reading.abort();
                            return Ok(false);
                        }
                    },
                    Some(report) = lines.recv() => {
                        let news = match report? {
                            Report::Sessions(told) => News::Sessions(told),
                            Report::Gone(keys) => News::Gone(keys),
                            Report::Hello { .. } => continue,
                        };
                        if self.news.send(news).await.is_err() {
                            reading.abort();
                            return Ok(false);
                        }
                    }
                }
            }
        };
        reading.abort();
        Ok(outcome)
    }
}

async fn next(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Report> {
    let mut line = String::new();
    if reader.take(LONGEST as u64).read_line(&mut line).await? == 0 {
        return Err(io::Error::other("it has closed the connection"));
    }
    Ok(serde_json::from_str(&line)?)
}

trait SpawnApart {
    /// In a process group of its own: what ends manxd from a terminal does not end it.
    fn spawn_apart(&mut self) -> io::Result<Child>;
}

impl SpawnApart for Command {
    fn spawn_apart(&mut self) -> io::Result<Child> {
        use std::os::unix::process::CommandExt;
        self.process_group(0).spawn()
    }
}
