//! BIRD's control sockets, for programs that know no other: calicoctl, calico-node's probes, bird_exporter, birdc. Each
//! client has a task; what only the daemon's loop knows is asked of it in pieces.

use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

use manx_bgp::view::Walk;
use manx_birdctl::{
    Command, LONGEST, Pattern, Protocol, Refusal, Reply, Route, Routes, Status, Which, parse,
};
use manx_net::Prefix;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    api::Question,
    gather::{Piece, Stopping, ask},
    unix_socket::Place,
};

/// Clients at a time.
const CLIENTS: usize = 32;
/// How long a client may take to read what it asked for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Prefixes that are asked for at a time.
const CHUNK: usize = 256;

/// What of a table, of one family, the loop is asked.
#[derive(Debug)]
pub enum Look {
    Status {
        ipv4: bool,
        answer: oneshot::Sender<Status>,
    },
    Protocols {
        ipv4: bool,
        answer: oneshot::Sender<Vec<Protocol>>,
    },
    /// Prefixes to which others have routes, in order, after this one; none are left if there are none.
    Others {
        after: Option<Prefix>,
        answer: oneshot::Sender<Vec<Prefix>>,
    },
    Longest {
        of: Prefix,
        answer: oneshot::Sender<Option<Prefix>>,
    },
    /// Of each prefix its routes, those in use first; of as many as there is time for, and of one at least.
    Routes {
        of: Vec<Prefix>,
        query: Arc<Routes>,
        answer: oneshot::Sender<Vec<Vec<Route>>>,
    },
}

/// Ends with it.
#[derive(Debug)]
pub struct Served {
    _place: Place,
    accepting: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Serves one family at a socket, as each of BIRD 1.6's two daemons does.
pub fn serve(path: &Path, ipv4: bool, questions: mpsc::Sender<Question>) -> anyhow::Result<Served> {
    let occupied = "stop BIRD (or calico-node), or leave --bird-socket and --bird6-socket out";
    let (listener, place) = Place::listen(path, occupied)?;
    let free = Arc::new(Semaphore::new(CLIENTS));
    let accepting = tokio::spawn(async move {
        loop {
            // Where there are no descriptors left, the next may find one.
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(turn) = Arc::clone(&free).try_acquire_owned() else { continue };
            let client = Client { stream, ipv4, questions: questions.clone() };
            tokio::spawn(async move {
                // Whoever asked has gone, or does not read.
                let _ = client.serve().await;
                drop(turn);
            });
        }
    });
    Ok(Served { _place: place, accepting })
}

struct Client {
    stream: UnixStream,
    ipv4: bool,
    questions: mpsc::Sender<Question>,
}

type Ended = std::io::Result<()>;

impl Client {
    async fn serve(mut self) -> Ended {
        self.say(&Reply::greeting(VERSION)).await?;
        let mut read = Vec::new();
        // The rest of a line that was too long.
        let mut skipping = false;
        loop {
            while let Some(end) = read.iter().position(|octet| *octet == b'\n') {
                let line: Vec<u8> = read.drain(..=end).collect();
                if !std::mem::take(&mut skipping) {
                    self.answer(&String::from_utf8_lossy(&line)).await?;
                }
            }
            if read.len() > LONGEST {
                read.clear();
                if !std::mem::replace(&mut skipping, true) {
                    self.refuse(&Refusal::TooLong).await?;
                }
            }
            if self.stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn say(&mut self, text: &str) -> Ended {
        timeout(PATIENCE, self.stream.write_all(text.as_bytes())).await?
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Ended {
        self.say(&Reply::new().end(refusal.code(), &refusal.text())).await
    }

    async fn answer(&mut self, line: &str) -> Ended {
        let ipv4 = self.ipv4;
        match parse(line) {
            Err(refusal) => self.refuse(&refusal).await,
            Ok(Command::Nothing) => self.say(&Reply::new().end(0, "")).await,
            Ok(Command::Restrict) => self.say(&Reply::new().end(16, "Access restricted")).await,
            Ok(Command::Memory) => self.say(&memory()).await,
            Ok(Command::Status) => {
                let status = self.look(|answer| Look::Status { ipv4, answer }).await?;
                self.say(&status.show()).await
            }
            Ok(Command::Protocols { all, of }) => {
                let protocols = self.protocols(&of).await?;
                self.say(&Protocol::show(&protocols, all)).await
            }
            Ok(Command::Routes(query)) => self.routes(query).await,
        }
    }

    async fn protocols(&self, of: &Pattern) -> std::io::Result<Vec<Protocol>> {
        let ipv4 = self.ipv4;
        let mut all = self.look(|answer| Look::Protocols { ipv4, answer }).await?;
        all.retain(|protocol| of.matches(&protocol.name));
        Ok(all)
    }

    async fn routes(&mut self, query: Routes) -> Ended {
        let named = [query.protocol.as_ref(), query.exported.as_ref().map(|(_, name)| name)];
        for name in named.into_iter().flatten() {
            if self.protocols(&Pattern::Name(name.clone())).await?.is_empty() {
                return self.refuse(&Refusal::Unknown(format!("{name} is not a protocol"))).await;
            }
        }
        let prefixes = match query.which {
            Which::All => self.prefixes().await?,
            Which::Exact(prefix) => vec![prefix],
            Which::For(of) => self.look(|answer| Look::Longest { of, answer }).await?.into_iter().collect(),
        };
        let query = Arc::new(query);
        let mut reply = Reply::new();
        let (mut shown, mut networks) = (0, 0);
        let mut rest = prefixes.as_slice();
        while !rest.is_empty() {
            let of: Vec<Prefix> = rest.iter().take(CHUNK).copied().collect();
            let query = Arc::clone(&query);
            let asked = Arc::clone(&query);
            let found = self.look(|answer| Look::Routes { of, query: asked, answer }).await?;
            if found.is_empty() {
                return Err(Stopping.into());
            }
            rest = rest.get(found.len()..).unwrap_or_default();
            for routes in found {
                networks += usize::from(!routes.is_empty());
                for (number, route) in routes.iter().enumerate() {
                    shown += 1;
                    if !query.count {
                        route.show(&mut reply, number == 0, query.all);
                    }
                }
            }
            self.say(&reply.take()).await?;
        }
        let end = match (query.count, shown, query.which) {
            (true, ..) => reply.end(14, &format!("{shown} of {shown} routes for {networks} networks")),
            (false, 0, Which::Exact(_) | Which::For(_)) => reply.end(8001, "Network not in table"),
            _ => reply.end(0, ""),
        };
        self.say(&end).await
    }

    /// Of this socket's family, in order.
    async fn prefixes(&self) -> std::io::Result<Vec<Prefix>> {
        let mut all = BTreeSet::new();
        let mut walk = Some(Walk::default());
        while let Some(from) = walk {
            let (prefixes, next) = ask(&self.questions, |answer| Piece::Bgp { from, answer }).await?;
            all.extend(prefixes);
            walk = next;
        }
        let mut after = None;
        loop {
            let prefixes = self.look(|answer| Look::Others { after, answer }).await?;
            after = prefixes.last().copied();
            if after.is_none() {
                break;
            }
            all.extend(prefixes);
        }
        all.retain(|prefix| prefix.is_v4() == self.ipv4);
        Ok(all.into_iter().collect())
    }

    async fn look<T>(&self, look: impl FnOnce(oneshot::Sender<T>) -> Look) -> Result<T, Stopping> {
        ask(&self.questions, |answer| Piece::Bird(look(answer))).await
    }
}

/// As clients show it. Calico's take what begins with a v.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"), "+manx");

/// In kB, as much of it as the kernel says (proc(5)).
fn memory() -> String {
    let mut reply = Reply::new();
    reply.line(1018, "BIRD memory usage");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, field) in [("Own pages:", "RssAnon:"), ("Total:", "VmRSS:")] {
        let value = status.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
        let kilobytes = value.and_then(|value| value.split(' ').next()).unwrap_or("?");
        reply.line(1018, &format!("{name:<17} {kilobytes:>4} kB"));
    }
    reply.end(0, "")
}
