//! What manxd and the BFD process say to each other over a unix socket: a JSON document a line. The process speaks first.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    packet::{Diagnostic, State},
    session,
};

/// Another one's process is ended and a new one started.
pub const VERSION: u32 = 1;
/// A line is no longer; 10,000 sessions have room.
pub const LONGEST: usize = 8 << 20;

/// Which session; no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub address: IpAddr,
    /// RFC 5883; false: one hop, whose packets come with a TTL of 255 (RFC 5881 §5).
    pub multihop: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    pub key: Key,
    /// None: the kernel chooses.
    pub local: Option<IpAddr>,
    /// In ms, both ways.
    pub interval: u32,
    pub multiplier: u8,
}

impl Wanted {
    pub fn config(&self) -> session::Config {
        let interval = Duration::from_millis(self.interval.max(1).into());
        session::Config {
            desired_min_tx: interval,
            required_min_rx: interval,
            detect_multiplier: self.multiplier.max(1),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Order {
    /// These, and no others.
    Sessions(Vec<Wanted>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    Hello {
        version: u32,
        /// Of the package.
        program: String,
        pid: u32,
    },
    /// Those that have changed, and now and then all.
    Sessions(Vec<Told>),
    /// These have ended.
    Gone(Vec<Key>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    pub key: Key,
    pub state: State,
    /// Why it was last down.
    pub diagnostic: Diagnostic,
    /// It went down since the neighbour's operator wanted it to.
    pub by_administrator: bool,
    /// In which state since; milliseconds of the wall clock since 1970.
    pub since: u64,
    /// How often it has gone down from Up.
    pub failures: u64,
    pub remote: Option<Neighbour>,
    /// In ms.
    pub transmit_interval: Option<u64>,
    /// In ms.
    pub detection_time: Option<u64>,
    pub sent: u64,
    pub received: u64,
    /// Why nothing can be sent or received.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Neighbour {
    pub state: State,
    pub diagnostic: Diagnostic,
    /// Its BFD outlives a restart of its control plane (the C bit).
    pub independent: bool,
}
