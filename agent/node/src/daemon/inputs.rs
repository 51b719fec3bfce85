//! What comes from the network: who dials us, what became of our own dials, bytes, and ends. And the port on which
//! peers find us.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
};

use manx_bgp::{ConnId, Event as SpeakerEvent, Refusal, Speaker, Time};
use tokio::net::TcpStream;

use super::{CHECK_PERIOD, Daemon, sockets};
use crate::connection::{Event, capped_backlog};

/// Refused addresses that are remembered as said.
const STRANGERS: usize = 256;

impl Daemon {
    pub(super) fn listen(&mut self) {
        let Some(plan) = &self.plan else { return };
        let port = plan.listen_port;
        // The flag is this host's own word, and comes before the cluster's.
        let addresses = match self.args.listen_address {
            Some(address) => vec![address],
            None => plan.listen_addresses.clone(),
        };
        let anew = !self.sockets.listens_on(&addresses, port);
        let error = self.sockets.listen(&addresses, port).err().map(|error| {
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => "; another BGP daemon runs here",
                io::ErrorKind::PermissionDenied => "; that takes CAP_NET_BIND_SERVICE",
                io::ErrorKind::AddrNotAvailable => "; this node does not have that address",
                _ => "",
            };
            format!(
                "not listening for BGP on port {port}: {}{hint}; peers cannot dial us",
                sockets::reason(&error)
            )
        });
        if anew
            && error.is_none()
            && let Some(bound) = capped_backlog()
        {
            tracing::warn!(
                "net.core.somaxconn lets only {bound} peers connect in one instant; the others wait a second or \
                 more for their next attempt. 4096 is Linux's default"
            );
        }
        if error != self.listen_error {
            match &error {
                Some(error) => tracing::error!("{error}. Trying again every {} s", CHECK_PERIOD.as_secs()),
                None => tracing::info!("listening for BGP on port {port} now"),
            }
            self.listen_error = error;
        }
    }

    pub(super) fn take_event(&mut self, event: Event) {
        let Some(speaker) = &mut self.speaker else { return };
        let now = self.clock.now();
        match event {
            Event::Accepted { stream, local, remote } => return self.take_connection(stream, local, remote),
            Event::Dialled { connection, outcome } => {
                let conn = ConnId(connection);
                if !self.sockets.dialled(conn) {
                    return;
                }
                let ends = outcome.and_then(|stream| Ok((stream.local_addr()?, stream.peer_addr()?, stream)));
                match ends {
                    Ok((local, remote, stream)) => {
                        self.sockets.serve(conn, stream);
                        speaker.handle(SpeakerEvent::Connected { conn, local, remote }, now);
                        on_link(speaker, conn, local, remote, now);
                    }
                    Err(error) => {
                        let error = sockets::reason(&error);
                        speaker.handle(SpeakerEvent::DialFailed { conn, error }, now);
                    }
                }
            }
            Event::Received { connection, bytes } => {
                speaker.handle(SpeakerEvent::Received { conn: ConnId(connection), bytes }, now);
            }
            Event::Sent { connection } => self.sockets.sent(ConnId(connection)),
            Event::Closed { connection, reason } => {
                let conn = ConnId(connection);
                self.sockets.forget(conn);
                let reason = match reason {
                    None => String::from("Connection closed by the peer"),
                    Some(error) => sockets::reason(&error),
                };
                speaker.handle(SpeakerEvent::Closed { conn, reason }, now);
            }
        }
        self.drain_outputs();
    }

    fn take_connection(&mut self, stream: TcpStream, local: SocketAddr, remote: SocketAddr) {
        let Some(speaker) = &mut self.speaker else { return };
        let address = remote.ip();
        if let Some(why) = self.protection.is_closed_to(address) {
            if first_of(&mut self.strangers, address) {
                tracing::warn!("{address} dials us; refused, for its session is {why}; not said again");
            }
            return;
        }
        if let Err(error) = self.sockets.admit(&stream, local, remote) {
            if first_of(&mut self.strangers, address) {
                tracing::warn!("{address} dials us; refused: {error}; not said again");
            }
            return;
        }
        let now = self.clock.now();
        match speaker.accept(local, remote, now) {
            Ok(conn) => {
                self.sockets.serve(conn, stream);
                on_link(speaker, conn, local, remote, now);
            }
            Err(Refusal::UnknownPeer) => {
                if first_of(&mut self.strangers, address) {
                    tracing::warn!(
                        "{address} dials us and is no peer of this node's plan; refused, and not said again"
                    );
                }
            }
            Err(refusal @ Refusal::RangeFull) => {
                if first_of(&mut self.strangers, address) {
                    tracing::warn!("{address} dials us; refused, for {refusal}; not said again");
                }
            }
            Err(refusal) => tracing::debug!(%remote, "connection refused: {refusal}"),
        }
        self.drain_outputs();
    }
}

/// Whether an address that is refused has not been said yet. Beyond the most that are remembered no more are.
fn first_of(strangers: &mut BTreeSet<IpAddr>, address: IpAddr) -> bool {
    strangers.len() < STRANGERS && strangers.insert(address)
}

/// Tells whether the peer is on a link of ours.
fn on_link(speaker: &mut Speaker, conn: ConnId, local: SocketAddr, remote: SocketAddr, now: Time) {
    if let Some(link_local) = crate::process::link_local_towards(local, remote) {
        speaker.handle(SpeakerEvent::OnLink { conn, link_local }, now);
    }
}
