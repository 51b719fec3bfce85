//! One peer as the generator plays it: a non-blocking socket from an address of its own, the few states that a
//! session has on this side, and what it has received.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    table::Table,
    wire::{self, HEADER, Kind},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Down,
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

/// What came of serving a session once.
#[derive(Debug)]
pub enum Served {
    Well,
    /// Why it is down now.
    Ended(String),
}

#[derive(Debug)]
pub struct Session {
    pub address: Ipv4Addr,
    pub phase: Phase,
    pub table: Table,
    pub updates: u64,
    pub end_of_rib: bool,
    /// What it announces as soon as it is up, and again after every fall.
    pub greeting: Option<Arc<[u8]>>,
    asn: u32,
    socket: Option<TcpStream>,
    /// The beginning of a message whose end has not arrived.
    rest: Vec<u8>,
    out: VecDeque<(Arc<[u8]>, usize)>,
}

impl Session {
    pub fn new(address: Ipv4Addr, asn: u32, table: Table) -> Session {
        Session {
            address,
            phase: Phase::Down,
            table,
            updates: 0,
            end_of_rib: false,
            greeting: None,
            asn,
            socket: None,
            rest: Vec::new(),
            out: VecDeque::new(),
        }
    }

    pub fn dial(&mut self, to: SocketAddrV4) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddrV4::new(self.address, 0).into())?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(nix::libc::EINPROGRESS) => {}
            Err(error) => return Err(error).context("connect"),
        }
        self.socket = Some(socket.into());
        self.phase = Phase::Connecting;
        Ok(())
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd)
    }

    pub fn send(&mut self, bytes: Arc<[u8]>) {
        self.out.push_back((bytes, 0));
    }

    /// It waits for the socket to take more.
    pub fn is_writing(&self) -> bool {
        self.phase == Phase::Connecting || !self.out.is_empty()
    }

    pub fn is_sending(&self) -> bool {
        !self.out.is_empty()
    }

    /// Reads and writes what the socket has and takes. An error is one of the other side's BGP.
    pub fn serve(&mut self, scratch: &mut [u8]) -> Result<Served> {
        if self.phase == Phase::Connecting {
            match self.socket.as_ref().map(TcpStream::take_error) {
                Some(Ok(None)) => {}
                Some(Ok(Some(error)) | Err(error)) => return Ok(self.end(error.to_string())),
                None => return Ok(Served::Well),
            }
            self.phase = Phase::OpenSent;
            self.send(wire::open(self.asn, self.address, wire::HOLD_TIME).into());
        }
        match self.read(scratch)? {
            Served::Well => Ok(self.write()),
            ended => Ok(ended),
        }
    }

    pub fn write(&mut self) -> Served {
        while let Some((bytes, at)) = self.out.front_mut() {
            let Some(socket) = &mut self.socket else { return Served::Well };
            match socket.write(bytes.get(*at..).unwrap_or_default()) {
                Ok(count) => {
                    *at += count;
                    if *at >= bytes.len() {
                        self.out.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return self.end(error.to_string()),
            }
        }
        Served::Well
    }

    /// Once: the socket is looked at again if there is more, after the others had their turn.
    fn read(&mut self, scratch: &mut [u8]) -> Result<Served> {
        let Some(socket) = &mut self.socket else { return Ok(Served::Well) };
        let held = self.rest.len();
        scratch[..held].copy_from_slice(&self.rest);
        let count = match socket.read(&mut scratch[held..]) {
            Ok(0) => return Ok(self.end("closed by the daemon".to_owned())),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Served::Well),
            Err(error) => return Ok(self.end(error.to_string())),
        };
        let mut bytes = &scratch[..held + count];
        while let Some(head) = bytes.first_chunk::<HEADER>() {
            let (kind, length) = wire::header(head)?;
            let Some((message, after)) = bytes.split_at_checked(length) else { break };
            if let Served::Ended(why) = self.take(kind, &message[HEADER..])? {
                return Ok(self.end(why));
            }
            bytes = after;
        }
        self.rest.clear();
        self.rest.extend_from_slice(bytes);
        Ok(Served::Well)
    }

    fn take(&mut self, kind: Kind, body: &[u8]) -> Result<Served> {
        match (kind, self.phase) {
            (Kind::Update, Phase::Established) => {
                self.updates += 1;
                self.end_of_rib |= wire::update(body, |change| self.table.take(change))?;
            }
            (Kind::Keepalive, Phase::Established) | (Kind::RouteRefresh, _) => {}
            (Kind::Open, Phase::OpenSent) => {
                self.send(wire::keepalive().into());
                self.phase = Phase::OpenConfirm;
            }
            (Kind::Keepalive, Phase::OpenConfirm) => {
                self.phase = Phase::Established;
                if let Some(greeting) = &self.greeting {
                    let greeting = Arc::clone(greeting);
                    self.send(greeting);
                }
            }
            (Kind::Notification, _) => {
                let code = (body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0));
                return Ok(Served::Ended(format!("NOTIFICATION {}/{}", code.0, code.1)));
            }
            (kind, phase) => bail!("{}: {kind:?} in {phase:?}", self.address),
        }
        Ok(Served::Well)
    }

    fn end(&mut self, why: String) -> Served {
        self.socket = None;
        self.phase = Phase::Down;
        self.rest.clear();
        self.out.clear();
        self.table.forget();
        self.end_of_rib = false;
        Served::Ended(why)
    }
}
