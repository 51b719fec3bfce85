//! What the local API tells of programs, maps and repairs.

use std::time::SystemTime;

use manx_abi::{Counts, Program};
use manx_api as api;
use manx_dataplane::{
    ebpf::{EbpfSink, MapFill, Refusal},
    kernel::Role,
    route::NextHop,
};

use super::Daemon;
use crate::traffic::{Maps, Request};

/// Routes that a sink could not take, each of its own line.
const NAMED: usize = 20;

fn routes_are(count: usize) -> String {
    if count == 1 { String::from("1 route is") } else { format!("{count} routes are") }
}

impl Daemon {
    pub(super) fn dataplane_status(&self) -> api::DataplaneStatus {
        let states = self.fast_path.link_states();
        let links = |ifindex: u32| {
            let of = states.iter().filter(move |link| link.ifindex == ifindex);
            of.map(|link| api::ProgramLink {
                program: link.program.into(),
                program_id: link.program_id,
                link_id: link.link_id,
                pin: link.pin.display().to_string(),
                state: link.condition.name().into(),
            })
            .collect()
        };
        let interfaces = self
            .fast_path
            .links()
            .iter()
            .map(|(ifindex, link)| api::InterfaceStatus {
                name: link.name.clone(),
                ifindex: *ifindex,
                role: match link.role {
                    Role::Pod => "pod",
                    Role::Uplink => "uplink",
                    Role::Other => "other",
                }
                .into(),
                since: Some(crate::clock::stamp(link.since)),
                programs: link.programs.clone(),
                links: links(*ifindex),
                notes: link.said(),
            })
            .collect();
        let maps = self.fast_path.sink().map(|sink| sink.fill().unwrap_or_default()).unwrap_or_default();
        let dir = self.args.places.bpf_dir.join(format!("v{}", manx_abi::ABI_VERSION));
        let map = |fill: MapFill| api::MapStatus {
            name: fill.name.into(),
            entries: fill.entries,
            max_entries: fill.capacity,
            bytes: fill.bytes,
            pin: dir.join(fill.name).display().to_string(),
        };
        let maps = maps.into_iter().map(map).collect();
        let names = self.interface_names();
        let silent = |(hop, since): (NextHop, SystemTime)| api::SilentNextHop {
            address: hop.gateway,
            interface: names.get(&hop.ifindex).cloned().unwrap_or_else(|| format!("if{}", hop.ifindex)),
            since: crate::clock::stamp(since),
        };
        let mut modes = self.fast_path.modes();
        modes.notes.extend(self.remarks.iter().filter(|remark| is_about_modes(remark)).cloned());
        modes.notes.extend(self.why_not_newer());
        api::DataplaneStatus {
            fast_path: self.fast_path.state(),
            modes,
            interfaces,
            maps,
            failures: self.failures(),
            silent_next_hops: self.fast_path.silent_next_hops().into_iter().map(silent).collect(),
            repairs: self.repairs.total(),
            repairs_by_kind: self.repairs.by_kind(),
            last_repairs: self.repairs.last(),
            audit: self.last_audit.clone(),
        }
    }

    /// Whoever changed a mode and got something wrong looks here first.
    fn why_not_newer(&self) -> Option<String> {
        let first = self.problems.first()?;
        let more = match self.problems.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more that `manxctl node status` names"),
        };
        Some(format!(
            "what was changed last in the resources is not in force, or not all of it: {first}{more}"
        ))
    }

    /// What the sinks could not take, some of it by name.
    fn failures(&self) -> Vec<String> {
        let mut failures = self.sink_alarms();
        let refused = self
            .fast_path
            .refused()
            .map(|(prefix, reason)| format!("{prefix} is not in the eBPF maps: {reason}"));
        failures.extend(refused.take(NAMED));
        let missing = self.dataplane.fib_failures();
        let missing =
            missing.map(|(prefix, error)| format!("{prefix} is not in the kernel's routes: {error}"));
        failures.extend(missing.take(NAMED));
        failures
    }

    /// The same as a sentence for each kind, for the node's status too.
    pub(super) fn sink_alarms(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        // There may be very many routes, of few reasons.
        let mut reasons: Vec<(&Refusal, usize)> = Vec::new();
        for (_, reason) in self.fast_path.refused() {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, count)) => *count += 1,
                None => reasons.push((reason, 1)),
            }
        }
        alarms.extend(reasons.into_iter().map(|(reason, count)| {
            format!(
                "{} not in the eBPF maps, and the kernel forwards to them: {reason} (`manxctl dataplane status` shows \
                 the fill)",
                routes_are(count)
            )
        }));
        let missing = self.dataplane.fib_failures().count();
        if missing > 0 {
            let what = routes_are(missing);
            alarms.push(format!(
                "{what} not in the kernel's table; `manxctl routes` says why, and each is tried again"
            ));
        }
        let Some(Ok(status)) = self.fast_path.sink().map(EbpfSink::status) else { return alarms };
        alarms.extend(status.not_indexed.iter().map(|pool| {
            format!(
                "IPPool/{} ({}) is looked up in the slower tries: {}",
                pool.name, pool.prefix, pool.reason
            )
        }));
        if status.without_page > 0 {
            alarms.push(format!(
                "{} blocks with addresses of their own inside are looked up in the slower trie: WORDS is full \
                 (--map-size words=...)",
                status.without_page
            ));
        }
        if status.without_block6 > 0 {
            alarms.push(format!(
                "{} IPv6 blocks are looked up in the slower trie: BLOCKS6 is full (--map-size blocks6=...)",
                status.without_block6
            ));
        }
        alarms
    }

    pub(super) fn answer_traffic(&self, request: Request) {
        // Whoever asked may have gone meanwhile.
        match request {
            Request::Maps(answer) => drop(answer.send(self.maps())),
            Request::Counters(answer) => drop(answer.send(self.counters())),
        }
    }

    fn maps(&self) -> Result<Maps, String> {
        let reader = self.sink()?.reader().map_err(|error| error.to_string())?;
        let pools = self.plan.iter().flat_map(|plan| &plan.pools);
        Ok(Maps {
            node: self.node.clone(),
            reader,
            interfaces: self.interface_names(),
            silent: self.fast_path.silent_next_hops(),
            pools: pools.map(|pool| (pool.cidr, pool.name.clone())).collect(),
        })
    }

    fn sink(&self) -> Result<&EbpfSink, String> {
        let none = || format!("there are no eBPF maps: {}", self.fast_path.state().reason);
        self.fast_path.sink().ok_or_else(none)
    }

    pub(super) fn counters(&self) -> Result<api::Counters, String> {
        let counters = self.sink()?.counters().map_err(|error| error.to_string())?;
        let names = self.interface_names();
        let verdicts = |counts: &Counts| -> Vec<api::Counter> {
            let all = manx_abi::VERDICTS.iter();
            all.map(|verdict| api::Counter {
                verdict: verdict.name().into(),
                packets: counts.get(*verdict),
                became: verdict.disposition().name().into(),
                meaning: verdict.meaning().into(),
            })
            .collect()
        };
        let row = |program: &Program| api::CounterRow {
            program: program.name().into(),
            verdicts: verdicts(counters.of(*program)),
        };
        let mut interfaces = Vec::new();
        for (ifindex, counts) in &counters.interfaces {
            let interface = names.get(ifindex).cloned().unwrap_or_else(|| format!("if{ifindex}"));
            let mut add = |program: Program, counts: &Counts| {
                interfaces.push(api::InterfaceCounters {
                    interface: interface.clone(),
                    ifindex: *ifindex,
                    program: program.name().into(),
                    verdicts: verdicts(counts),
                });
            };
            add(counts.program, &counts.hooks.tc);
            if counts.program != Program::PodTc {
                add(Program::UplinkXdp, &counts.hooks.xdp);
            }
        }
        Ok(api::Counters {
            node: self.node.clone(),
            rows: Program::ALL.iter().map(row).collect(),
            interfaces,
        })
    }
}

/// Whether a remark about resources is about an annotation that the modes come from: what it asks for is not in force.
fn is_about_modes(remark: &str) -> bool {
    let remark = remark.to_ascii_lowercase();
    ["manx.dev/fastpath", "manx.dev/sourcecheck"].iter().any(|annotation| remark.contains(annotation))
}
