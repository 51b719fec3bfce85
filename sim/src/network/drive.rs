//! What happens to a node, and the node's driver: the part that the daemon's loop has in a real node.

use std::net::SocketAddr;

use bytes::Bytes;
use manx_bgp::{ConnId, Event, Output};

use super::{
    Happening, Network,
    tcp::{Arrival, End, TcpId, WINDOW},
};

/// A speaker is asked for so much at a time.
const BUDGET: usize = 16 * 1024;

impl Network {
    pub fn handle(&mut self, node: usize, event: Event) {
        let now = self.now;
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.handle(event, now);
            self.drive(node);
        }
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        let reader = match &happening {
            Happening::Syn { to, .. } => self.by_address.get(&to.ip()).copied(),
            Happening::Refused { node, .. } => Some(*node),
            Happening::Arrival { tcp, side, .. } => self.tcp.get(tcp).map(|tcp| tcp.ends[*side].node),
        };
        let Some(reader) = reader else { return };
        if self.nodes[reader].frozen {
            return self.nodes[reader].waiting.push_back(happening);
        }
        match happening {
            Happening::Syn { node, life, conn, from, to } => self.syn(reader, (node, life, conn), from, to),
            Happening::Refused { node, life, conn } => {
                if self.nodes[node].life == life && self.nodes[node].dialling.remove(&conn) {
                    self.handle(node, Event::DialFailed { conn, error: "Connection refused".into() });
                }
            }
            Happening::Arrival { tcp, side, what } => self.arrive(tcp, side, what),
        }
    }

    /// A dial reaches `target`. Unanswered ones end by the speaker's own patience.
    fn syn(&mut self, target: usize, dialler: (usize, u64, ConnId), from: SocketAddr, to: SocketAddr) {
        let (node, life, conn) = dialler;
        if self.is_cut(node, target) || !self.nodes[target].powered || self.nodes[node].life != life {
            return;
        }
        let now = self.now;
        let there = &mut self.nodes[target];
        let target_life = there.life;
        let Some(speaker) = &mut there.speaker else {
            let back = self.latency();
            return self.schedule(now + back, Happening::Refused { node, life, conn });
        };
        let accepted = speaker.accept(to, from, now);
        let latencies = [self.latency(), self.latency()];
        // A refused one has no number on this side; it is closed at once.
        let theirs = accepted.unwrap_or(ConnId(u64::MAX));
        let id = self.open(
            End::new(node, life, conn, latencies[0]),
            End::new(target, target_life, theirs, latencies[1]),
        );
        self.send(id, 1, Arrival::Accepted { refused: accepted.is_err() });
        match accepted {
            Ok(_) => {
                self.nodes[target].sockets.insert(theirs, id);
            }
            Err(_) => self.close_end(id, target),
        }
        self.drive(target);
    }

    fn arrive(&mut self, id: TcpId, side: usize, what: Arrival) {
        let Some(tcp) = self.tcp.get(&id) else { return };
        let (near, far) = (tcp.ends[side].node, tcp.ends[1 - side].node);
        if self.is_cut(near, far) || !self.nodes[near].powered {
            if let Some(tcp) = self.tcp.get_mut(&id) {
                tcp.ends[1 - side].held.push_back(what);
            }
            return;
        }
        let Some(tcp) = self.tcp.get_mut(&id) else { return };
        if let Arrival::Segment(bytes) = &what {
            tcp.ends[1 - side].in_flight -= bytes.len();
        }
        let (conn, open, life) = (tcp.ends[side].conn, tcp.ends[side].open, tcp.ends[side].life);
        if !open || self.nodes[near].life != life {
            // Nobody has this connection here: RST.
            let missed = !matches!(what, Arrival::End(_)) && tcp.ends[1 - side].open;
            tcp.ends[side].open = false;
            if missed {
                self.send(id, side, Arrival::End("Connection reset by peer"));
            }
            return self.tidy(id);
        }
        match what {
            Arrival::Accepted { refused } => {
                if !self.nodes[near].dialling.remove(&conn) {
                    // Given up meanwhile.
                    return self.shut(id, near, "Connection reset by peer");
                }
                let (local, remote) = (self.local_of(id, side), self.local_of(id, 1 - side));
                self.nodes[near].sockets.insert(conn, id);
                self.handle(near, Event::Connected { conn, local, remote });
                if refused {
                    self.close_end(id, near);
                    self.handle(near, Event::Closed { conn, reason: "closed by the peer".into() });
                    self.tidy(id);
                }
            }
            Arrival::Segment(bytes) => {
                self.handle(near, Event::Received { conn, bytes });
                // The window has opened for the other side.
                if !self.nodes[far].frozen {
                    self.write(far, id, 1 - side);
                    self.set_wake(far);
                }
            }
            Arrival::End(reason) => {
                self.close_end(id, near);
                self.handle(near, Event::Closed { conn, reason: reason.into() });
                self.tidy(id);
            }
        }
    }

    fn local_of(&self, id: TcpId, side: usize) -> SocketAddr {
        let node = self.tcp.get(&id).map_or(0, |tcp| tcp.ends[side].node);
        // The dialler's port says nothing to anybody; the listener's is BGP's.
        SocketAddr::new(self.nodes[node].address, if side == 0 { 40_000 } else { 179 })
    }

    /// Does what the node's speaker wants.
    pub(super) fn drive(&mut self, node: usize) {
        let now = self.now;
        while let Some(output) = self.nodes[node].speaker.as_mut().and_then(|speaker| speaker.poll_output()) {
            self.note(node, &output);
            match output {
                Output::Dial { conn, from, to, .. } => {
                    self.nodes[node].dialling.insert(conn);
                    self.ports = self.ports.wrapping_add(1);
                    let port = 1024 + self.ports % 60_000;
                    let from = SocketAddr::new(from.unwrap_or(self.nodes[node].address), port);
                    let (life, latency) = (self.nodes[node].life, self.latency());
                    self.schedule(now + latency, Happening::Syn { node, life, conn, from, to });
                }
                Output::Transmit { conn } => {
                    if let Some(&id) = self.nodes[node].sockets.get(&conn)
                        && let Some(side) = self.side(id, node)
                        && let Some(tcp) = self.tcp.get_mut(&id)
                    {
                        tcp.ends[side].asked = true;
                        self.write(node, id, side);
                    }
                }
                Output::Close { conn } => self.close(node, conn),
                Output::Best { prefix, best, .. } => {
                    self.tally.changes += 1;
                    match best {
                        Some(best) => drop(self.nodes[node].best.insert(prefix, best)),
                        None => drop(self.nodes[node].best.remove(&prefix)),
                    }
                }
                Output::Settled => self.settled(node),
                Output::Watch { next_hop } => {
                    let there = &mut self.nodes[node];
                    assert!(there.watched.insert(next_hop), "{next_hop:?} is watched already");
                    let metric = there.metrics.get(&next_hop.address).copied().unwrap_or(Some(0));
                    if let Some(speaker) = &mut there.speaker {
                        speaker.handle(Event::NextHop { next_hop, metric }, now);
                    }
                }
                Output::Unwatch { next_hop } => {
                    assert!(self.nodes[node].watched.remove(&next_hop), "{next_hop:?} is not watched");
                }
                // What is only told.
                _ => {}
            }
        }
        self.set_wake(node);
    }

    /// Forwarding state of an earlier daemon that no best path claims goes now.
    fn settled(&mut self, node: usize) {
        let there = &mut self.nodes[node];
        there.settled = true;
        if let Some(speaker) = &there.speaker {
            there.best.retain(|&prefix, _| speaker.best(prefix).is_some());
        }
    }

    /// The last words, then FIN.
    fn close(&mut self, node: usize, conn: ConnId) {
        match self.nodes[node].sockets.get(&conn).copied() {
            Some(id) => {
                if let Some(side) = self.side(id, node) {
                    self.drain(node, id, side, usize::MAX);
                }
                self.shut(id, node, "closed by the peer");
                self.tidy(id);
            }
            None => {
                self.nodes[node].dialling.remove(&conn);
                let now = self.now;
                if let Some(speaker) = &mut self.nodes[node].speaker {
                    while speaker.transmit(conn, BUDGET, &mut Vec::new(), now) > 0 {}
                }
            }
        }
    }

    pub(super) fn write(&mut self, node: usize, id: TcpId, side: usize) {
        let wanted = self.tcp.get(&id).is_some_and(|tcp| tcp.ends[side].asked && tcp.ends[side].open);
        let same_life = self.tcp.get(&id).is_some_and(|tcp| tcp.ends[side].life == self.nodes[node].life);
        if wanted && same_life {
            self.drain(node, id, side, WINDOW);
        }
    }

    /// Takes from the speaker until it has nothing more or the window is full.
    fn drain(&mut self, node: usize, id: TcpId, side: usize, window: usize) {
        let now = self.now;
        loop {
            let Some(tcp) = self.tcp.get_mut(&id) else { return };
            let end = &mut tcp.ends[side];
            if end.in_flight >= window {
                return;
            }
            let Some(speaker) = &mut self.nodes[node].speaker else { return };
            let mut out = Vec::new();
            let octets = speaker.transmit(end.conn, BUDGET, &mut out, now);
            if octets == 0 {
                end.asked = false;
                return;
            }
            end.in_flight += octets;
            self.tally.octets += octets as u64;
            self.segments(id, side, &out);
        }
    }

    /// Messages lie across segments as they like: the other side must not care.
    fn segments(&mut self, id: TcpId, side: usize, messages: &[Bytes]) {
        let whole = match messages {
            [one] => one.clone(),
            many => Bytes::from(many.concat()),
        };
        let mut rest = whole;
        while !rest.is_empty() {
            let size = if self.dice.once_in(8) { 1 + self.dice.roll(1500) } else { 9000 };
            let piece = rest.split_to(size.min(rest.len()));
            self.send(id, side, Arrival::Segment(piece));
        }
    }

    pub(super) fn set_wake(&mut self, node: usize) {
        let there = &mut self.nodes[node];
        let wanted = match &there.speaker {
            Some(speaker) if !there.frozen => speaker.next_wakeup().map(|at| at.max(self.now)),
            _ => None,
        };
        if wanted == there.wake {
            return;
        }
        if let Some(before) = std::mem::replace(&mut there.wake, wanted) {
            self.wakes.remove(&(before, node));
        }
        if let Some(at) = wanted {
            self.wakes.insert((at, node));
        }
    }

    /// Into the digest: what, when and where, by shape and not by address in memory.
    fn note(&mut self, node: usize, output: &Output) {
        let (kind, number) = match output {
            Output::Dial { conn, .. } => (1, conn.0),
            Output::Transmit { conn } => (2, conn.0),
            Output::Close { conn } => (3, conn.0),
            Output::Best { prefix, best, .. } => {
                (4, u64::from(prefix.len()) << 1 | u64::from(best.is_some()))
            }
            Output::Settled => (5, 0),
            Output::Session(event) => (6, event.to as u64),
            Output::Watch { .. } => (7, 0),
            Output::Unwatch { .. } => (8, 0),
            _ => (9, 0),
        };
        for word in [self.now.as_nanos(), node as u64, kind, number] {
            let mixed = self.tally.digest.rotate_left(5) ^ word;
            self.tally.digest = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
}
