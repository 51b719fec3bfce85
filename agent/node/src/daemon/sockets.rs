//! The speaker's connections: which task serves which, whose turn it is to send, and the listener.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use manx_bgp::{ConnId, Speaker, Time};
use manx_transport::{Guard, Guards};
use nix::errno::Errno;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{AbortHandle, JoinHandle},
};

use crate::connection::{self, Command, Event, Listener};

/// What is asked of the speaker for one connection at a time: enough to fill a socket's buffer, little enough
/// that a slow peer's queue stays with the speaker, where new state replaces old.
const BUDGET: usize = 64 << 10;

#[derive(Debug)]
struct Connection {
    stream: Arc<TcpStream>,
    commands: mpsc::UnboundedSender<Command>,
    /// The task still writes what it was given last.
    writing: bool,
    /// The speaker has something to send, and the connection stands in [`Sockets::ready`] unless its task writes.
    waiting: bool,
}

#[derive(Debug)]
pub struct Sockets {
    events: mpsc::Sender<Event>,
    connections: HashMap<ConnId, Connection>,
    /// Those that [`Sockets::flush`] writes to.
    ready: Vec<ConnId>,
    dials: HashMap<ConnId, AbortHandle>,
    guards: Guards,
    listeners: Vec<(Listener, JoinHandle<()>)>,
    /// The addresses, none for every one, and the port.
    listening_on: Option<(Vec<IpAddr>, u16)>,
}

impl Sockets {
    pub fn new(events: mpsc::Sender<Event>) -> Sockets {
        Sockets {
            events,
            connections: HashMap::new(),
            ready: Vec::new(),
            dials: HashMap::new(),
            guards: Guards::default(),
            listeners: Vec::new(),
            listening_on: None,
        }
    }

    /// From now on peers are held to these. Connections that stand keep what they have.
    pub fn guard(&mut self, guards: &Guards) {
        self.guards.clone_from(guards);
        for (listener, _) in &mut self.listeners {
            let Ok(address) = listener.socket.local_addr() else { continue };
            listener.refused = listener.guards.apply(&listener.socket, address.is_ipv4(), &self.guards).err();
        }
    }

    /// What the kernel has refused to put onto the listening sockets. Whom that concerns is not let in.
    pub fn refused(&self) -> Option<String> {
        let refused = self.listeners.iter().find_map(|(listener, _)| listener.refused.as_ref())?;
        Some(format!("some peers cannot dial us, for they cannot be protected: {refused}"))
    }

    /// Holds an accepted connection to what its peer must show. On an error it is to be closed.
    pub fn admit(&self, stream: &TcpStream, local: SocketAddr, remote: SocketAddr) -> io::Result<()> {
        let guard = self.guards.of(remote.ip());
        let of_family = |listener: &Listener| {
            listener.socket.local_addr().is_ok_and(|address| address.is_ipv4() == local.is_ipv4())
        };
        let admitted = self
            .listeners
            .iter()
            .any(|(listener, _)| of_family(listener) && listener.guards.admits(remote.ip(), &guard));
        if !admitted {
            return Err(io::Error::other("it came in unprotected"));
        }
        manx_transport::protect_accepted(stream, remote.ip(), &guard)
    }

    /// Listens on `port`, on `addresses` or, without any, on every address; what was listened on before is closed. Does nothing if
    /// that is so already. On an error nothing is listened on; call again to try again.
    pub fn listen(&mut self, addresses: &[IpAddr], port: u16) -> io::Result<()> {
        if self.listens_on(addresses, port) {
            return Ok(());
        }
        self.stop_listening();
        let every = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let mut listeners = Vec::new();
        for &ip in if addresses.is_empty() { &every } else { addresses } {
            match connection::listen(SocketAddr::new(ip, port), &self.guards) {
                Ok(listener) => listeners.push(listener),
                // A kernel without IPv6, or with IPv6 switched off.
                Err(error)
                    if addresses.is_empty()
                        && ip.is_ipv6()
                        && matches!(
                            error.raw_os_error().map(Errno::from_raw),
                            Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL)
                        ) => {}
                Err(error) => return Err(error),
            }
        }
        self.listeners = listeners
            .into_iter()
            .map(|listener| {
                let accepting = connection::accept(Arc::clone(&listener.socket), self.events.clone());
                (listener, tokio::spawn(accepting))
            })
            .collect();
        self.listening_on = Some((addresses.to_vec(), port));
        Ok(())
    }

    pub fn listens_on(&self, addresses: &[IpAddr], port: u16) -> bool {
        self.listening_on.as_ref().is_some_and(|on| on.0 == addresses && on.1 == port)
    }

    pub fn stop_listening(&mut self) {
        for (_, accepting) in self.listeners.drain(..) {
            accepting.abort();
        }
        self.listening_on = None;
    }

    pub fn dial(&mut self, conn: ConnId, source: Option<IpAddr>, to: SocketAddr) {
        let events = self.events.clone();
        let guard = self.guards.of(to.ip());
        let task = tokio::spawn(async move {
            let outcome = connection::dial(source, to, &guard).await.map_err(|error| hint(error, &guard));
            // The receiver is gone only when the daemon ends.
            let _ = events.send(Event::Dialled { connection: conn.0, outcome }).await;
        });
        self.dials.insert(conn, task.abort_handle());
    }

    /// False if the dial was given up meanwhile.
    pub fn dialled(&mut self, conn: ConnId) -> bool {
        self.dials.remove(&conn).is_some()
    }

    /// Starts to serve an accepted or dialled connection.
    pub fn serve(&mut self, conn: ConnId, stream: TcpStream) {
        let (commands, orders) = mpsc::unbounded_channel();
        let stream = Arc::new(stream);
        tokio::spawn(connection::serve(conn.0, Arc::clone(&stream), orders, self.events.clone()));
        self.connections.insert(conn, Connection { stream, commands, writing: false, waiting: false });
    }

    /// The speaker has something to send; [`Self::flush`] writes it.
    pub fn transmit(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn)
            && !std::mem::replace(&mut connection.waiting, true)
            && !connection.writing
        {
            self.ready.push(conn);
        }
    }

    /// The task has written what it was given.
    pub fn sent(&mut self, conn: ConnId) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.writing = false;
            if connection.waiting {
                self.ready.push(conn);
            }
        }
    }

    /// Writes what the kernel takes at once: a change that goes to hundreds of peers would else wake as many tasks.
    /// To be called when all events that are here have been taken in, so that what they cause leaves together.
    pub fn flush(&mut self, speaker: &mut Speaker, now: Time) {
        for conn in std::mem::take(&mut self.ready) {
            self.pump(conn, speaker, now);
        }
    }

    /// Gives up a dial, or closes a connection after what the speaker still has for it: a NOTIFICATION at most,
    /// behind what is being written already.
    pub fn close(&mut self, conn: ConnId, speaker: &mut Speaker, now: Time) {
        if let Some(dial) = self.dials.remove(&conn) {
            dial.abort();
        }
        if let Some(connection) = self.connections.remove(&conn) {
            let mut rest = Vec::new();
            while speaker.transmit(conn, BUDGET, &mut rest, now) > 0 {}
            // A task that has ended has said so, and the event is on its way.
            let _ = connection.commands.send(Command::Send(VecDeque::from(rest)));
            let _ = connection.commands.send(Command::Close);
        }
    }

    /// The connection is gone.
    pub fn forget(&mut self, conn: ConnId) {
        self.connections.remove(&conn);
    }

    /// What the kernel does not take is the task's, and so is the turn of a peer that takes all and has more coming.
    fn pump(&mut self, conn: ConnId, speaker: &mut Speaker, now: Time) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        let mut messages = Vec::new();
        let octets = speaker.transmit(conn, BUDGET, &mut messages, now);
        connection.waiting = octets >= BUDGET;
        let mut messages = VecDeque::from(messages);
        // The task meets the same error when it reads or writes, and reports it.
        let _ = connection::write(&connection.stream, &mut messages);
        if !messages.is_empty() || connection.waiting {
            connection.writing = true;
            // A task that has ended has said so, and the event is on its way.
            let _ = connection.commands.send(Command::Send(messages));
        }
    }
}

/// Silence is all that one learns of a wrong password or of a TTL that is too low.
fn hint(error: io::Error, guard: &Guard) -> io::Error {
    if error.kind() != io::ErrorKind::TimedOut {
        return error;
    }
    let suspect = match (&guard.password, guard.min_ttl) {
        (Some(_), None) => "is the password the same on both sides?",
        (None, Some(_)) => "is it further away than ttlSecurity allows, or does it send with a lower TTL?",
        (Some(_), Some(_)) => "is the password the same on both sides, and ttlSecurity right?",
        (None, None) => return error,
    };
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer; {suspect}"))
}

/// The kernel's words without the number that Rust appends: "Connection refused".
pub fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
