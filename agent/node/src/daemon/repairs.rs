//! What others did to what is ours, and was put right: how often by kind, and the last of it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::SystemTime,
};

use manx_api::{Repair, RepairCount, RepairKind};
use manx_dataplane::{Report, fib::Tampering};

use crate::clock::stamp;

/// Repairs that are remembered one by one.
const REMEMBERED: usize = 100;

#[derive(Debug, Default)]
pub struct Repairs {
    counts: BTreeMap<RepairKind, (u64, SystemTime)>,
    last: VecDeque<Repair>,
}

impl Repairs {
    pub fn note(&mut self, kind: RepairKind, what: impl Into<String>, by: Option<String>) -> Repair {
        let at = SystemTime::now();
        let (count, last) = self.counts.entry(kind).or_insert((0, at));
        (*count, *last) = (*count + 1, at);
        if self.last.len() == REMEMBERED {
            self.last.pop_back();
        }
        let repair = Repair { at: stamp(at), kind, what: what.into(), by };
        self.last.push_front(repair.clone());
        repair
    }

    /// Takes in what the dataplane noticed by itself.
    pub fn take(&mut self, reports: &[Report]) -> Vec<Repair> {
        let mut noted = Vec::new();
        for report in reports {
            if let Report::Tampered { prefix, how, by } = report {
                let by = by.as_ref().map(ToString::to_string);
                noted.push(self.note(kind_of(*how), prefix.to_string(), by));
            }
        }
        noted
    }

    pub fn total(&self) -> u64 {
        self.counts.values().map(|(count, _)| count).sum()
    }

    pub fn by_kind(&self) -> Vec<RepairCount> {
        let counts = self.counts.iter();
        counts
            .map(|(kind, (count, last))| RepairCount { kind: *kind, count: *count, last: stamp(*last) })
            .collect()
    }

    /// The newest first.
    pub fn last(&self) -> Vec<Repair> {
        self.last.iter().cloned().collect()
    }
}

fn kind_of(how: Tampering) -> RepairKind {
    match how {
        Tampering::Deleted => RepairKind::RouteDeleted,
        Tampering::Changed => RepairKind::RouteChanged,
        Tampering::Displaced => RepairKind::RouteDisplaced,
        Tampering::Added => RepairKind::RouteAdded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_repairs_are_counted_and_the_last_hundred_are_remembered_newest_first() {
        let mut repairs = Repairs::default();
        for n in 0..150 {
            repairs.note(RepairKind::RouteDeleted, format!("10.0.{n}.0/24"), None);
        }
        repairs.note(RepairKind::PinRemoved, "/sys/fs/bpf/manx/v3/WORDS", Some(String::from("rm (pid 7)")));
        assert_eq!(repairs.total(), 151);
        let counts: Vec<_> = repairs.by_kind().into_iter().map(|count| (count.kind, count.count)).collect();
        assert_eq!(counts, [(RepairKind::RouteDeleted, 150), (RepairKind::PinRemoved, 1)]);
        let last = repairs.last();
        assert_eq!(last.len(), REMEMBERED);
        assert_eq!(last.first().map(|repair| repair.kind), Some(RepairKind::PinRemoved));
        assert_eq!(last.get(1).map(|repair| repair.what.as_str()), Some("10.0.149.0/24"));
    }
}
