//! A TCP connection as its two ends see it: in order, in pieces of any size, with a window, later rather than never.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use manx_bgp::{ConnId, Time};

/// What one end may have on the way to the other.
pub const WINDOW: usize = 64 * 1024;

/// Numbers are never used twice.
pub type TcpId = u64;

#[derive(Debug)]
pub struct Tcp {
    /// The dialler, then the listener.
    pub ends: [End; 2],
}

#[derive(Debug)]
pub struct End {
    pub node: usize,
    /// Which of the node's lives it belongs to.
    pub life: u64,
    pub conn: ConnId,
    /// Neither closed nor forgotten by a node that died.
    pub open: bool,
    /// The speaker has bytes for it.
    pub asked: bool,
    /// Of what this end sends.
    pub latency: Duration,
    pub last_arrival: Time,
    pub in_flight: usize,
    /// What this end sent and a cut holds up: TCP sends it again until it arrives.
    pub held: VecDeque<Arrival>,
}

impl End {
    pub fn new(node: usize, life: u64, conn: ConnId, latency: Duration) -> End {
        End {
            node,
            life,
            conn,
            open: true,
            asked: false,
            latency,
            last_arrival: Time::ZERO,
            in_flight: 0,
            held: VecDeque::new(),
        }
    }

    /// When something sent now arrives: never before what was sent earlier.
    pub fn arrival(&mut self, now: Time, jitter: Duration) -> Time {
        self.last_arrival = self.last_arrival.max(now + self.latency + jitter);
        self.last_arrival
    }
}

/// What comes out at the other end.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// The answer to a dial. `refused`: and closed at once.
    Accepted {
        refused: bool,
    },
    Segment(Bytes),
    /// FIN or RST.
    End(&'static str),
}
