//! Findings, gathered: one for all rules that meet the same packets.

use std::collections::{BTreeMap, HashMap};

use manx_net::Prefix;

use super::{Duty, Finding, Place, Rules, narrow::Packets};
use crate::reach::{Addresses, Reach};

/// Findings of one kind; beyond that one stands for all whose addresses are near to each other, and beyond twice as
/// many one for all others.
const MOST: usize = 256;
/// Addresses with so many leading bits in common are near to each other.
const NEAR_IPV4: u8 = 16;
const NEAR_IPV6: u8 = 32;

/// What was found, once for each kind of packets.
#[derive(Default)]
pub(super) struct Found {
    by_reach: BTreeMap<(Duty, bool, Reach), Finding>,
    counts: HashMap<(Duty, bool), usize>,
}

impl Found {
    pub fn add(&mut self, duty: Duty, place: Place, what: String, packets: Packets) {
        let Packets { mut reach, guard_leaves_them, .. } = packets;
        let nobodys =
            [&reach.from, &reach.to].iter().any(|side| side.any_of.as_ref().is_some_and(Vec::is_empty));
        if nobodys || reach.by.are_none() || reach.out.are_none() {
            return;
        }
        let count = self.counts.entry((duty, guard_leaves_them)).or_default();
        if *count >= 2 * MOST {
            reach = Reach::default();
        } else if *count >= MOST {
            (reach.from, reach.to) = (near(&reach.from), near(&reach.to));
        }
        let finding = Finding { place, what, reach: reach.clone(), more: 0 };
        let place = &finding.place;
        match self.by_reach.get_mut(&(duty, guard_leaves_them, reach.clone())) {
            // One rule may be reached by several ways.
            Some(had) if had.place == *place => {}
            Some(had) => had.more += 1,
            None => {
                *count += 1;
                self.by_reach.insert((duty, guard_leaves_them, reach), finding);
            }
        }
    }

    pub fn into_rules(self) -> Rules {
        let mut rules = Rules::default();
        for ((duty, guard_leaves_them, _), finding) in self.by_reach {
            match (duty, guard_leaves_them) {
                (Duty::EveryPacket, false) => rules.every_packet.push(finding),
                (Duty::EveryPacket, true) => rules.first_packets.push(finding),
                (Duty::Filter, _) => rules.filters.push(finding),
                (Duty::Running, _) => rules.running.push(finding),
                (Duty::Closed, _) => rules.closed.push(finding),
                (Duty::Shut, _) => rules.shut.push(finding),
                (Duty::WayBack, _) => rules.ways_back.push(finding),
                (Duty::Mark, _) => rules.marks.push(finding),
                (Duty::Timeout, _) => rules.timeouts.push(finding),
            }
        }
        rules
    }
}

/// All that are near to these.
fn near(addresses: &Addresses) -> Addresses {
    let wider = |prefix: &Prefix| {
        let most = if prefix.is_v4() { NEAR_IPV4 } else { NEAR_IPV6 };
        // A shorter prefix there always is.
        Prefix::new(prefix.addr(), prefix.len().min(most)).unwrap_or(*prefix)
    };
    let any_of = addresses.any_of.as_ref().map(|any| {
        let mut wide: Vec<Prefix> = any.iter().map(wider).collect();
        wide.sort();
        wide.dedup();
        wide
    });
    Addresses { any_of, none_of: Vec::new() }
}
