//! One speaker and peers that a test plays: each has a session, and reads when it is let.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use manx_bgp::{
    Config, ConnId, Dial, Event, ExportRule, NextHop, Output, PeerConfig, PeerKey, Speaker, Time, Warning,
};
use manx_net::Asn;

use crate::wire::{self, Follower, Hello, Malformed};

/// The speaker's address and identifier.
pub const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const OUR_AS: u32 = 64512;

/// A speaker without pools, which passes on everything, to these peers; they dial. A client is of our own AS.
pub fn config(peers: &[(Hello, bool)]) -> Config {
    let asn = |number| Asn::new(number).unwrap_or(Asn::CALICO_DEFAULT);
    let mut config = Config::new(asn(OUR_AS), US);
    config.next_hop_v6 = Some(wire::next_hop_v6(US));
    config.export = ExportRule { pools: Vec::new(), transit: true, ..ExportRule::default() };
    for (hello, client) in peers {
        let mut peer = PeerConfig::new(hello.id.into(), asn(hello.asn));
        peer.dial = Dial::Never;
        peer.rr_client = *client;
        config.peers.push(peer);
    }
    config
}

pub fn key(address: Ipv4Addr) -> PeerKey {
    PeerKey { address: address.into(), port: 179 }
}

#[derive(Debug)]
pub struct Stage {
    pub speaker: Speaker,
    pub now: Time,
    pub followers: BTreeMap<ConnId, Follower>,
    pub metrics: BTreeMap<Ipv4Addr, Option<u32>>,
    pub warnings: Vec<Warning>,
    watched: BTreeSet<NextHop>,
}

impl Stage {
    pub fn new(config: Config) -> Stage {
        let now = Time::from_nanos(1_000_000_000);
        Stage {
            speaker: Speaker::new(config, now),
            now,
            followers: BTreeMap::new(),
            metrics: BTreeMap::new(),
            warnings: Vec::new(),
            watched: BTreeSet::new(),
        }
    }

    /// A connection from there, if the speaker takes it.
    pub fn connect(&mut self, from: Ipv4Addr) -> Option<ConnId> {
        let (local, remote) = (SocketAddr::new(US.into(), 179), SocketAddr::new(from.into(), 40_000));
        let conn = self.speaker.accept(local, remote, self.now).ok();
        self.settle();
        conn
    }

    /// A session with a peer.
    pub fn session(&mut self, hello: Hello) -> Option<ConnId> {
        let conn = self.connect(hello.id)?;
        self.give(conn, hello.open());
        self.give(conn, wire::keepalive());
        Some(conn)
    }

    pub fn give(&mut self, conn: ConnId, bytes: Bytes) {
        self.tell(Event::Received { conn, bytes });
    }

    pub fn tell(&mut self, event: Event) {
        self.speaker.handle(event, self.now);
        self.settle();
    }

    /// The peer reads about so many octets.
    pub fn read(&mut self, conn: ConnId, budget: usize) -> Result<usize, Malformed> {
        let mut out = Vec::new();
        let octets = self.speaker.transmit(conn, budget, &mut out, self.now);
        let follower = self.followers.entry(conn).or_default();
        out.iter().try_for_each(|bytes| follower.read(bytes))?;
        Ok(octets)
    }

    pub fn read_all(&mut self, conn: ConnId) -> Result<(), Malformed> {
        while self.read(conn, 16 * 1024)? > 0 {}
        Ok(())
    }

    pub fn set_metric(&mut self, address: Ipv4Addr, metric: Option<u32>) {
        self.metrics.insert(address, metric);
        let hops: Vec<NextHop> = self.watched.iter().filter(|hop| hop.address == address).copied().collect();
        for next_hop in hops {
            self.tell(Event::NextHop { next_hop, metric });
        }
    }

    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.speaker.next_wakeup().filter(|&at| at <= end) {
            self.now = self.now.max(at);
            self.speaker.advance(self.now);
            self.settle();
        }
        self.now = end;
    }

    fn settle(&mut self) {
        self.outputs();
        while self.speaker.next_wakeup() == Some(Time::ZERO) {
            self.speaker.advance(self.now);
            self.outputs();
        }
    }

    fn outputs(&mut self) {
        while let Some(output) = self.speaker.poll_output() {
            match output {
                Output::Watch { next_hop } => {
                    self.watched.insert(next_hop);
                    let metric = match next_hop.address {
                        std::net::IpAddr::V4(address) => {
                            self.metrics.get(&address).copied().unwrap_or(Some(0))
                        }
                        std::net::IpAddr::V6(_) => Some(0),
                    };
                    self.speaker.handle(Event::NextHop { next_hop, metric }, self.now);
                }
                Output::Unwatch { next_hop } => {
                    self.watched.remove(&next_hop);
                }
                Output::Warning(warning) => self.warnings.push(warning),
                Output::Parting(_) => {}
                // The peer of a connection that goes has stopped reading.
                Output::Close { conn } => {
                    let mut unread = Vec::new();
                    while self.speaker.transmit(conn, 4096, &mut unread, self.now) > 0 {}
                }
                _ => {}
            }
        }
    }
}
