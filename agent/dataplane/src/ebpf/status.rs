//! What the sink says about itself.

use std::collections::BTreeMap;

use manx_abi::{Counts, Program, VERDICTS, Verdict};
use manx_net::Prefix;
use serde::Serialize;

use super::{Mode, pools::PoolNotIndexed};

/// How a start went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The maps of the last run were found and are used as they are, routes included.
    pub adopted: bool,
    /// Maps of this ABI whose layout or size was another, with the difference. All were made anew; the running
    /// programs keep the old ones until their links are updated.
    pub replaced: Vec<String>,
    /// Maps of older ABIs that the running programs may use; they go with [`super::EbpfSink::detach_unclaimed`].
    pub older: Vec<u32>,
    /// Maps of ABIs that this agent does not know: another's, or a newer agent's. They are left alone.
    pub unknown: Vec<String>,
}

/// What became of the routes of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub written: usize,
    pub removed: usize,
    /// Routes that the maps could not take, and of which that was not so before this call. Their packets are the stack's,
    /// which has the routes. [`super::EbpfSink::refused`] has all.
    pub refused: Vec<Refused>,
    /// What [`super::EbpfSink::reconcile`] found changed beside the routes, and put right.
    pub repaired: Vec<Fault>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub prefix: Prefix,
    pub reason: Refusal,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The map's name.
    #[error("the map {0} is full; raise its size (--map-size {name}=...)", name = .0.to_lowercase())]
    MapFull(&'static str),
    #[error("no free next-hop id")]
    NoNextHopId,
    #[error("no free next-hop group")]
    NoGroupId,
    #[error("no free set of buckets for several next hops")]
    NoBuckets,
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub abi: u32,
    /// Of the node as a whole.
    pub mode: Mode,
    /// Entries of `ROUTES4` and `ROUTES6` now, and how many they hold.
    pub routes4: usize,
    pub routes6: usize,
    pub capacity4: usize,
    pub capacity6: usize,
    pub next_hops: usize,
    pub groups: usize,
    pub endpoints: usize,
    pub attachments: Vec<Attachment>,
    /// Pools whose addresses are looked up in the tries, which is slower, and why.
    pub not_indexed: Vec<PoolNotIndexed>,
    /// Blocks whose addresses are looked up in the tries because `WORDS` has no room for their pages.
    pub without_page: usize,
    /// IPv6 blocks for which `BLOCKS6` has no room; every block that is not there is looked up in the trie.
    pub without_block6: usize,
}

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MapFill {
    pub name: &'static str,
    /// In use, and at most: routes, words, blocks, ids or interfaces, as the map has them.
    pub entries: u64,
    pub capacity: u64,
    /// Octets of kernel memory that it takes now.
    pub bytes: u64,
}

/// Packets on one interface, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounts {
    /// By `pod_tc` or `uplink_tc`.
    pub tc: Counts,
    /// By `uplink_xdp`.
    pub xdp: Counts,
}

/// Packets by verdict since the maps were made: by interface, and by program with what interfaces counted that are
/// gone, so that these never fall.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub pod_tc: Counts,
    pub uplink_tc: Counts,
    pub uplink_xdp: Counts,
    /// By interface index.
    pub interfaces: BTreeMap<u32, InterfaceCounts>,
}

/// Packets on one interface by hook and verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceCounts {
    /// The program on TC: `pod_tc` or `uplink_tc`.
    pub program: Program,
    pub hooks: HookCounts,
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

    pub(super) fn add(&mut self, program: Program, hooks: &HookCounts) {
        let tc = if program == Program::PodTc { &mut self.pod_tc } else { &mut self.uplink_tc };
        for verdict in VERDICTS {
            *tc.get_mut(*verdict) += hooks.tc.get(*verdict);
            *self.uplink_xdp.get_mut(*verdict) += hooks.xdp.get(*verdict);
        }
    }
}

/// Something in the maps that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    pub map: &'static str,
    /// The block, address, pool or id that it is about.
    pub about: String,
    pub found: String,
    pub expected: String,
}
