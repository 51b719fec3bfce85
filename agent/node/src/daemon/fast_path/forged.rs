//! What was dropped because a pod sent it in another's name. The counters have it, but nobody looks at counters of whom he
//! does not suspect, and the pod hears nothing: so it is said, once for each interface and period.

use std::collections::BTreeMap;

use manx_abi::Verdict;
use manx_dataplane::ebpf::Counters;

#[derive(Debug, Default)]
pub struct Forged {
    /// By interface, as counted when it was last looked; None before the first time: counters outlive the agent.
    counted: Option<BTreeMap<u32, Dropped>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Packets with a source that is not the pod's.
    pub sources: u64,
    /// ARP and neighbour discovery for an address that is not the pod's.
    pub neighbours: u64,
}

impl Forged {
    /// What came since the last look, by interface.
    pub fn look(&mut self, counters: &Counters) -> Vec<(u32, Dropped)> {
        let counted = counters.interfaces.iter().map(|(ifindex, counts)| {
            let tc = &counts.hooks.tc;
            let dropped =
                Dropped { sources: tc.get(Verdict::Spoofed), neighbours: tc.get(Verdict::ForgedNeighbour) };
            (*ifindex, dropped)
        });
        let now: BTreeMap<u32, Dropped> = counted.collect();
        let Some(before) = self.counted.replace(now.clone()) else { return Vec::new() };
        let new = now.into_iter().map(|(ifindex, now)| {
            // An index may be another interface's since.
            let before = before.get(&ifindex).copied().unwrap_or_default();
            let new = Dropped {
                sources: now.sources.saturating_sub(before.sources),
                neighbours: now.neighbours.saturating_sub(before.neighbours),
            };
            (ifindex, new)
        });
        new.filter(|(_, new)| *new != Dropped::default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use manx_abi::{Counts, Program};
    use manx_dataplane::ebpf::{HookCounts, InterfaceCounts};

    use super::*;

    #[test]
    fn what_was_dropped_since_the_last_look_is_told_once_and_nothing_of_before_the_first() {
        let counters = |by_interface: &[(u32, u64)]| {
            let interfaces = by_interface.iter().map(|(ifindex, spoofed)| {
                let tc = Counts { spoofed: *spoofed, ..Counts::default() };
                let hooks = HookCounts { tc, ..HookCounts::default() };
                (*ifindex, InterfaceCounts { program: Program::PodTc, hooks })
            });
            Counters { interfaces: interfaces.collect(), ..Counters::default() }
        };
        let mut forged = Forged::default();
        let new = |sources| Dropped { sources, neighbours: 0 };
        assert_eq!(forged.look(&counters(&[(3, 7)])), []);
        assert_eq!(forged.look(&counters(&[(3, 9), (4, 1)])), [(3, new(2)), (4, new(1))]);
        assert_eq!(forged.look(&counters(&[(3, 9), (4, 1)])), []);
    }
}
