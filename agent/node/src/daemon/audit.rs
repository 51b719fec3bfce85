//! The loop's part of an audit: what was read of the kernel and of the maps is judged by what is wanted now, and put
//! right. See `crate::audit`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use manx_api::{self as api, AuditFinding, Fault, FoundIn, RepairKind};
use manx_bgp::PathSource;
use manx_dataplane::{
    ebpf::{self, Condition, EbpfSink, MapPart},
    fib::Difference,
    resolve::Gateway,
    route::{Action, Route},
};
use manx_net::Prefix;

use super::{Daemon, rows};
use crate::audit::{InMap, Seen, Step};

/// How long prefixes are judged in one turn of the loop.
const JUDGED_FOR: Duration = Duration::from_millis(4);
/// Findings that are kept with the last audit, and those that are a line in the log.
const KEPT: usize = 100;
const LINES: usize = 20;

impl Daemon {
    /// Starts one beside the loop, if none is under way.
    pub(super) fn start_audit(&self) {
        let questions = self.questions.clone();
        tokio::spawn(async move {
            // Without an answer manxd is stopping.
            if let Ok(Some(turn)) = crate::audit::turn(questions).await {
                let _ = turn.take_if_free().await;
            }
        });
    }

    pub(super) fn answer_audit(&mut self, step: Step) {
        // Whoever asked may have gone meanwhile.
        match step {
            Step::Turn(answer) => {
                drop(answer.send(self.writes().then(|| Arc::clone(&self.audit_turn))));
            }
            Step::Look(answer) => {
                self.dataplane.note_changes(true);
                self.fast_path.note_changes(true);
                drop(answer.send(self.sources()));
            }
            Step::Judge { of, answer } => {
                let until = Instant::now() + JUDGED_FOR;
                let (mut rest, mut wrong) = (of.into_iter(), Vec::new());
                for seen in rest.by_ref() {
                    if self.is_wrong(&seen) {
                        wrong.push(seen);
                    }
                    if Instant::now() >= until {
                        break;
                    }
                }
                drop(answer.send((rest.collect(), wrong)));
            }
            Step::Tell { of, repair, answer } => {
                let mut findings = Vec::new();
                for seen in &of {
                    findings.extend(self.findings(seen));
                }
                if repair {
                    self.put_right(&of);
                }
                drop(answer.send(findings));
            }
            Step::Programs { repair, answer } => {
                drop(answer.send(self.audit_programs(repair)));
            }
            Step::Maps { part, repair, answer } => drop(answer.send(self.audit_maps(part, repair))),
            Step::End { audit, answer } => {
                self.dataplane.note_changes(false);
                self.fast_path.note_changes(false);
                log(&audit);
                let mut kept = api::Audit::clone(&audit);
                kept.findings.truncate(KEPT);
                self.last_audit = Some(kept);
                drop(answer.send(*audit));
                manx_dataplane::ebpf::give_back_heap();
            }
        }
    }

    fn is_wrong(&self, seen: &Seen) -> bool {
        self.lost_path(seen.prefix).is_some()
            || self.fib_fault(seen).is_some()
            || self.map_fault(seen).is_some()
    }

    /// The next hops that BGP chose, where the table has others.
    fn lost_path(&self, prefix: Prefix) -> Option<Vec<Gateway>> {
        let speaker = self.speaker.as_ref().filter(|_| self.settled)?;
        let best = speaker.told(prefix)?;
        if self.leftovers.is_held(prefix) {
            return None;
        }
        let chosen = best.filter(|best| best.source != PathSource::Own && !best.blackhole);
        let hops = chosen.iter().flat_map(|best| &best.next_hops);
        let mut gateways: Vec<Gateway> = hops.filter_map(|hop| self.next_hops.get(hop).copied()).collect();
        gateways.sort_unstable();
        gateways.dedup();
        (gateways != self.dataplane.path(prefix)).then_some(gateways)
    }

    fn fib_fault(&self, seen: &Seen) -> Option<Fault> {
        let found = seen.fib.as_ref()?;
        let difference = self.dataplane.compare(seen.prefix, found)?;
        let fault = match difference {
            Difference::Missing => Fault::Missing,
            Difference::Changed => Fault::Changed,
            Difference::Unwanted => Fault::Unwanted,
        };
        (!self.dataplane.has_noted(seen.prefix)).then_some(fault)
    }

    fn map_fault(&self, seen: &Seen) -> Option<Fault> {
        let found = seen.map.as_ref()?;
        // Before that the maps are an earlier run's.
        let sink = self.fast_path.sink().filter(|_| self.settled)?;
        let fault = match (self.expected(sink, seen.prefix), found) {
            (None, InMap::Nothing) => return None,
            (Some(wanted), InMap::Entry(found)) if wanted.action == *found => return None,
            (Some(_), InMap::Nothing) => Fault::Missing,
            (Some(_), InMap::Entry(_) | InMap::Unreadable) => Fault::Changed,
            (None, InMap::Entry(_) | InMap::Unreadable) => Fault::Unwanted,
        };
        let changes = self.dataplane.has_noted(seen.prefix) || self.fast_path.has_noted();
        // What a full map had to give up is told where it is missing, and is not anybody's doing.
        let refused = self.fast_path.refusal(seen.prefix).is_some();
        (!changes && !refused).then_some(fault)
    }

    /// The map's entry, as it should be.
    fn expected(&self, sink: &EbpfSink, prefix: Prefix) -> Option<Route> {
        self.dataplane.map_route(prefix).map(|route| sink.expected(&route))
    }

    fn findings(&self, seen: &Seen) -> Vec<AuditFinding> {
        let prefix = seen.prefix;
        let names = self.interface_names();
        let finding = |found_in, fault, wanted, found| AuditFinding {
            found_in,
            fault,
            what: prefix.to_string(),
            wanted,
            found,
        };
        let hops = |gateways: &[Gateway]| {
            let hops: Vec<_> = gateways.iter().map(|gateway| format!("via {}", gateway.address)).collect();
            (!hops.is_empty()).then(|| hops.join(" nexthop "))
        };
        let mut findings = Vec::new();
        if let Some(gateways) = self.lost_path(prefix) {
            let found = self.dataplane.path(prefix);
            let fault = match (gateways.is_empty(), found.is_empty()) {
                (false, true) => Fault::Missing,
                (true, _) => Fault::Unwanted,
                (false, false) => Fault::Changed,
            };
            findings.push(finding(FoundIn::Table, fault, hops(&gateways), hops(found)));
        }
        if let Some(fault) = self.fib_fault(seen) {
            let wanted = self.dataplane.map_route(prefix).filter(|_| fault != Fault::Unwanted);
            let wanted = wanted.map(|route| rows::action_text(&route.action, &names));
            let found = seen.fib.iter().flatten().map(|route| rows::fib_text(route, &names));
            let found: Vec<_> = found.collect();
            let found = (!found.is_empty()).then(|| found.join("; "));
            findings.push(finding(FoundIn::Fib, fault, wanted, found));
        }
        if let (Some(fault), Some(sink)) = (self.map_fault(seen), self.fast_path.sink()) {
            let text = |action: &Action| rows::action_text(action, &names);
            let wanted = self.expected(sink, prefix).map(|route| text(&route.action));
            let found = match &seen.map {
                None | Some(InMap::Nothing) => None,
                Some(InMap::Entry(action)) => Some(text(action)),
                Some(InMap::Unreadable) => Some(String::from("an entry that cannot be read")),
            };
            findings.push(finding(FoundIn::Map, fault, wanted, found));
        }
        findings
    }

    /// As [`Self::findings`] tells it. The kernel's routes are written by the next steps.
    fn put_right(&mut self, of: &[Seen]) {
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        for seen in of {
            let prefix = seen.prefix;
            if let Some(gateways) = self.lost_path(prefix) {
                self.note_repair(RepairKind::PathLost, prefix.to_string(), None);
                self.dataplane.set_path(prefix, gateways);
            }
            if self.fib_fault(seen).is_some()
                && let Some(found) = &seen.fib
            {
                self.dataplane.take_over(prefix, found);
            }
            let Some(fault) = self.map_fault(seen) else { continue };
            let kind = match fault {
                Fault::Missing => RepairKind::MapEntryMissing,
                Fault::Changed => RepairKind::MapEntryChanged,
                Fault::Unwanted => RepairKind::MapEntryAdded,
            };
            self.note_repair(kind, prefix.to_string(), None);
            match self.dataplane.map_route(prefix) {
                Some(route) => wanted.push(route),
                None => unwanted.push(prefix),
            }
        }
        if !wanted.is_empty() || !unwanted.is_empty() {
            self.fast_path.repair(&wanted, &unwanted);
        }
    }

    /// What stands in the maps beside the routes: words, groups, next hops, endpoints, pools, interfaces. The sink
    /// knows what it wrote there.
    fn audit_maps(&mut self, part: MapPart, repair: bool) -> Vec<AuditFinding> {
        if !self.settled {
            return Vec::new();
        }
        let faults = self.fast_path.faults(part, repair);
        let finding = |fault: ebpf::Fault| AuditFinding {
            found_in: FoundIn::Map,
            fault: Fault::Changed,
            what: format!("{} {}", fault.map, fault.about),
            wanted: Some(fault.expected),
            found: Some(fault.found),
        };
        let findings: Vec<_> = faults.into_iter().map(finding).collect();
        if repair {
            for finding in &findings {
                self.note_repair(RepairKind::MapEntryChanged, finding.what.clone(), None);
            }
        }
        findings
    }

    fn audit_programs(&mut self, repair: bool) -> (u64, Vec<AuditFinding>) {
        let states = self.fast_path.link_states();
        let names = self.interface_names();
        let wrong = states.iter().filter(|link| link.condition != Condition::Attached);
        let findings = wrong.map(|link| {
            let name = names.get(&link.ifindex).cloned().unwrap_or_else(|| format!("if{}", link.ifindex));
            AuditFinding {
                found_in: FoundIn::Programs,
                fault: match link.condition {
                    Condition::Replaced => Fault::Changed,
                    _ => Fault::Missing,
                },
                what: format!("{} on {name}", link.program),
                wanted: Some(String::from("attached")),
                found: Some(match link.condition {
                    Condition::Replaced => format!("replaced by program {}", link.program_id),
                    condition => condition.name().into(),
                }),
            }
        });
        let findings = findings.collect();
        if repair {
            self.restore_programs();
        }
        (states.len() as u64, findings)
    }
}

fn log(audit: &api::Audit) {
    for error in &audit.errors {
        tracing::warn!("audit: {error}");
    }
    if audit.found == 0 {
        tracing::debug!(prefixes = audit.checked.prefixes, ms = audit.took_ms, "audit found nothing");
        return;
    }
    let done = if audit.dry_run { "nothing was repaired, as asked for" } else { "put right" };
    for finding in audit.findings.iter().take(LINES) {
        let none = || String::from("nothing");
        tracing::warn!(
            "audit: {} in the {}: {} is {}, not {}; {done}",
            match finding.fault {
                Fault::Missing => "missing",
                Fault::Changed => "changed",
                Fault::Unwanted => "unwanted",
            },
            match finding.found_in {
                FoundIn::Table => "table",
                FoundIn::Fib => "kernel's routes",
                FoundIn::Map => "eBPF maps",
                FoundIn::Programs => "programs",
            },
            finding.what,
            finding.found.clone().unwrap_or_else(none),
            finding.wanted.clone().unwrap_or_else(none),
        );
    }
    if audit.found > LINES as u64 {
        let more = audit.found - LINES as u64;
        tracing::warn!("audit: {more} more differences; {done}");
    }
}
