//! What the sink says about itself.

use manx_abi::{Counts, Program, Verdict};
use manx_net::Prefix;
use serde::Serialize;

/// How a start went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The maps of the last run were found and are used as they are, routes included.
    pub adopted: bool,
    /// Maps of this ABI whose layout or size was another, with the difference. All were made anew; the running
    /// programs keep the old ones until their links are updated.
    pub replaced: Vec<String>,
}

/// What became of the routes of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub written: usize,
    pub removed: usize,
    /// Every route that the maps do not hold after this call because they could not take it, be it of this call or
    /// of an earlier one. Their packets are the stack's, which has the routes.
    pub refused: Vec<Refused>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub prefix: Prefix,
    pub reason: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the map is full; raise its size")]
    MapFull,
    #[error("no free next-hop id")]
    NoNextHopId,
    #[error("no free endpoint id")]
    NoEndpointId,
    #[error("{0}")]
    Kernel(String),
}

/// Whether blackholes die in XDP on an uplink, and if not, why not. TC drops them then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum XdpState {
    Native,
    /// The driver's or the kernel's reason.
    Absent(String),
}

/// The programs on one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    pub ifindex: u32,
    /// `pod_tc`, `uplink_tc`.
    pub program: &'static str,
    /// Only for uplinks.
    pub xdp: Option<XdpState>,
    /// A link of an earlier run, adopted but not asked for again yet.
    pub claimed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub abi: u32,
    pub fast_path: bool,
    pub source_check: bool,
    /// Entries of `ROUTES4` and `ROUTES6` now, and how many they hold.
    pub routes4: usize,
    pub routes6: usize,
    pub capacity4: usize,
    pub capacity6: usize,
    pub next_hops: usize,
    pub endpoints: usize,
    pub attachments: Vec<Attachment>,
}

/// Packets by program and verdict, summed over CPUs, since the maps were made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub pod_tc: Counts,
    pub uplink_tc: Counts,
    pub uplink_xdp: Counts,
}

impl Counters {
    pub fn of(&self, program: Program) -> &Counts {
        match program {
            Program::PodTc => &self.pod_tc,
            Program::UplinkTc => &self.uplink_tc,
            Program::UplinkXdp => &self.uplink_xdp,
        }
    }

    /// Over all programs.
    pub fn total(&self, verdict: Verdict) -> u64 {
        Program::ALL.iter().map(|program| self.of(*program).get(verdict)).sum()
    }
}
