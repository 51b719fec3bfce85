//! One speaker and a peer that the test plays, message by message.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use manx_net::{Asn, Prefix};

use super::network::{asn, ip};
use crate::{
    Config, ConnId, Event, ExportRule, Output, PartingEvent, PeerConfig, SessionEvent, Speaker, Time,
    Warning,
    attr::flag,
    message::{
        MAX_EXTENDED_LEN, Message, keepalive, next_message, notification::Notification, open::Open,
        write_message,
    },
    session::negotiation::Ours,
    view::{PeerView, PrefixView, SessionState},
};

pub const US: &str = "10.0.0.1";
pub const THEM: &str = "10.0.0.2";

pub struct Script {
    pub speaker: Speaker,
    pub now: Time,
    pub conn: ConnId,
    pub closed: Vec<ConnId>,
    pub history: Vec<SessionEvent>,
    pub warnings: Vec<Warning>,
    pub parted: Vec<PartingEvent>,
    pub dials: Vec<ConnId>,
    /// Prefixes whose best path was told, as often as it was.
    pub told: Vec<Prefix>,
    /// How often [`Output::Settled`] was said.
    pub settled: usize,
}

/// AS 64512, router id 10.0.0.1, one passive peer 10.0.0.2 of this AS, everything may pass.
pub fn config(remote_as: u32) -> Config {
    let mut config = Config::new(Asn::CALICO_DEFAULT, Ipv4Addr::new(10, 0, 0, 1));
    let mut peer = PeerConfig::new(ip(THEM), asn(remote_as));
    peer.dial = crate::Dial::Never;
    config.peers.push(peer);
    config.export = ExportRule { pools: Vec::new(), transit: true, ..ExportRule::default() };
    config
}

/// What the played peer says of itself: all capabilities, router id 10.0.0.2.
pub fn their_open(config: &Config) -> Open {
    let peer = &config.peers[0];
    let mut theirs = Config::new(peer.remote_as, Ipv4Addr::new(10, 0, 0, 2));
    theirs.hold_time = config.hold_time;
    let mut us = peer.clone();
    us.remote_as = config.local_as;
    us.hold_time = None;
    Ours::new(&theirs, &us).open(false, true)
}

impl Script {
    /// The peer has connected; both OPENs are still to come.
    pub fn connected(config: Config) -> Script {
        let now = Time::from_nanos(1_000_000_000);
        let mut script = Script {
            speaker: Speaker::new(config, now),
            now,
            conn: ConnId(0),
            closed: Vec::new(),
            history: Vec::new(),
            warnings: Vec::new(),
            parted: Vec::new(),
            dials: Vec::new(),
            told: Vec::new(),
            settled: 0,
        };
        script.conn = script.accept();
        script
    }

    /// The session is up.
    pub fn established(config: Config) -> Script {
        let open = their_open(&config);
        Script::established_with(config, &open)
    }

    pub fn established_with(config: Config, open: &Open) -> Script {
        let mut script = Script::connected(config);
        script.give(&open.encode());
        script.give(&keepalive());
        assert_eq!(script.state(), SessionState::Established);
        script.take();
        script
    }

    pub fn accept(&mut self) -> ConnId {
        self.accept_from(THEM)
    }

    pub fn accept_from(&mut self, remote: &str) -> ConnId {
        let (local, remote) = (SocketAddr::new(ip(US), 179), SocketAddr::new(ip(remote), 40000));
        let conn = self.speaker.accept(local, remote, self.now).unwrap();
        self.drain();
        conn
    }

    pub fn give(&mut self, bytes: &[u8]) {
        self.give_on(self.conn, bytes);
    }

    pub fn give_on(&mut self, conn: ConnId, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        self.speaker.handle(Event::Received { conn, bytes }, self.now);
        self.drain();
    }

    pub fn drain(&mut self) {
        loop {
            while let Some(output) = self.speaker.poll_output() {
                match output {
                    Output::Close { conn } => self.closed.push(conn),
                    Output::Session(event) => self.history.push(event),
                    Output::Warning(warning) => self.warnings.push(warning),
                    Output::Parting(event) => self.parted.push(event),
                    Output::Dial { conn, .. } => self.dials.push(conn),
                    Output::Best { prefix, .. } => self.told.push(prefix),
                    Output::Settled => self.settled += 1,
                    Output::Watch { next_hop } => {
                        self.speaker.handle(Event::NextHop { next_hop, metric: Some(0) }, self.now);
                    }
                    _ => {}
                }
            }
            if self.speaker.next_wakeup() != Some(Time::ZERO) {
                break;
            }
            self.speaker.advance(self.now);
        }
    }

    /// Time passes; timers fire when they are due.
    pub fn wait(&mut self, time: std::time::Duration) {
        let end = self.now + time;
        while let Some(at) = self.speaker.next_wakeup().filter(|&at| at <= end) {
            self.now = at.max(self.now);
            self.speaker.advance(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// What the speaker sends on a connection.
    pub fn take_on(&mut self, conn: ConnId) -> Vec<Message> {
        let mut out = Vec::new();
        while self.speaker.transmit(conn, 65536, &mut out, self.now) > 0 {}
        let mut stream = BytesMut::from(&out.concat()[..]);
        let messages = std::iter::from_fn(|| next_message(&mut stream, MAX_EXTENDED_LEN).unwrap()).collect();
        assert!(stream.is_empty());
        messages
    }

    pub fn take(&mut self) -> Vec<Message> {
        self.take_on(self.conn)
    }

    /// The NOTIFICATION with which the speaker closed the connection.
    pub fn notification(&mut self) -> (u8, u8, Vec<u8>) {
        let conn = self.conn;
        self.notification_on(conn)
    }

    pub fn notification_on(&mut self, conn: ConnId) -> (u8, u8, Vec<u8>) {
        let closed = self.closed.iter().filter(|&&closed| closed == conn).count();
        assert_eq!(closed, 1, "closed once");
        let mut messages = self.take_on(conn);
        let last_words = messages.iter().filter(|message| matches!(message, Message::Notification(_)));
        assert_eq!(last_words.count(), 1);
        match messages.pop() {
            Some(Message::Notification(body)) => {
                let Notification { code, subcode, data } = Notification::parse(&body);
                (code, subcode, data.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn view(&self) -> PeerView {
        self.speaker.peers().remove(0)
    }

    pub fn state(&self) -> SessionState {
        self.view().state
    }

    pub fn explain(&self, prefix: &str) -> Option<PrefixView> {
        self.speaker.explain(prefix.parse().unwrap())
    }
}

pub fn attribute(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    crate::attr::encode::put_attribute(&mut out, flags, code, value);
    out
}

/// ORIGIN IGP, an AS_PATH with these numbers, NEXT_HOP 10.0.0.2.
pub fn mandatory(path: &[u32]) -> Vec<Vec<u8>> {
    let mut as_path = Vec::new();
    if !path.is_empty() {
        as_path.put_slice(&[2, path.len() as u8]);
        path.iter().for_each(|n| as_path.put_u32(*n));
    }
    vec![
        attribute(flag::TRANSITIVE, 1, &[0]),
        attribute(flag::TRANSITIVE, 2, &as_path),
        attribute(flag::TRANSITIVE, 3, &[10, 0, 0, 2]),
    ]
}

pub fn with(mut attributes: Vec<Vec<u8>>, more: Vec<u8>) -> Vec<Vec<u8>> {
    attributes.push(more);
    attributes
}

fn put_prefixes(out: &mut Vec<u8>, prefixes: &[&str]) {
    for text in prefixes {
        let Prefix::V4(prefix) = text.parse().unwrap() else { panic!("IPv4 only") };
        out.put_u8(prefix.len());
        out.put_slice(&prefix.addr().octets()[..usize::from(prefix.len()).div_ceil(8)]);
    }
}

/// An UPDATE of these parts.
pub fn update(withdrawn: &[&str], attributes: &[Vec<u8>], announced: &[&str]) -> Bytes {
    let mut gone = Vec::new();
    put_prefixes(&mut gone, withdrawn);
    let mut new = Vec::new();
    put_prefixes(&mut new, announced);
    raw_update(&gone, &attributes.concat(), &new)
}

pub fn raw_update(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    write_message(&mut out, 2, |out| {
        out.put_u16(withdrawn.len() as u16);
        out.put_slice(withdrawn);
        out.put_u16(attributes.len() as u16);
        out.put_slice(attributes);
        out.put_slice(announced);
    });
    out.freeze()
}
