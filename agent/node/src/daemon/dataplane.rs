//! What the local API tells of programs, maps and repairs.

use manx_api as api;
use manx_dataplane::kernel::Role;

use super::Daemon;

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
                notes: link.notes.clone(),
            })
            .collect();
        let maps = match self.fast_path.sink().map(|sink| sink.status()) {
            Some(Ok(status)) => {
                let pin = |name: &str| {
                    let dir = self.args.places.bpf_dir.join(format!("v{}", status.abi));
                    dir.join(name).display().to_string()
                };
                let map = |name: &str, entries: usize, capacity: usize| api::MapStatus {
                    name: name.into(),
                    entries: entries as u64,
                    max_entries: capacity as u64,
                    pin: pin(name),
                };
                vec![
                    map("ROUTES4", status.routes4, status.capacity4),
                    map("ROUTES6", status.routes6, status.capacity6),
                ]
            }
            _ => Vec::new(),
        };
        api::DataplaneStatus {
            fast_path: self.fast_path.state(),
            interfaces,
            maps,
            failures: self
                .fast_path
                .refused()
                .iter()
                .map(|(prefix, reason)| format!("{prefix} is not in the eBPF map: {reason}"))
                .collect(),
            repairs: self.repairs.total(),
            repairs_by_kind: self.repairs.by_kind(),
            last_repairs: self.repairs.last(),
            audit: self.last_audit.clone(),
        }
    }

    pub(super) fn counters(&self) -> Option<api::Counters> {
        let counters = self.fast_path.sink()?.counters().ok()?;
        let rows = manx_abi::Program::ALL
            .iter()
            .map(|program| api::CounterRow {
                program: program.name().into(),
                verdicts: manx_abi::VERDICTS
                    .iter()
                    .map(|verdict| api::Counter {
                        verdict: verdict.name().into(),
                        packets: counters.of(*program).get(*verdict),
                    })
                    .collect(),
            })
            .collect();
        Some(api::Counters { node: self.node.clone(), rows })
    }
}
