//! `manxctl dataplane status`.

use std::{fmt::Write, net::IpAddr, path::Path, process::ExitCode};

use manx_api::{DataplaneStatus, InterfaceStatus, MapStatus, Repair, RepairKind, SilentNextHop, path};

use super::{audit, modes, units};
use crate::{client, output, table};

/// Repairs that are shown one by one; with `-o json` come all that are remembered.
const SHOWN: usize = 10;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl dataplane status
  manxctl dataplane status -o json | jq .modes")]
pub struct Args {
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let status: DataplaneStatus = client::ask(socket, path::DATAPLANE)?;
    let text = match args.output {
        Some(_) => format!("{}\n", serde_json::to_string_pretty(&status)?),
        None => render(&status),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn render(status: &DataplaneStatus) -> String {
    let fast_path = &status.fast_path;
    let mut out =
        format!("Fast path: {} ({})\n\n", if fast_path.on { "on" } else { "off" }, fast_path.reason);
    out.push_str(&modes::render(&status.modes));
    let rows: Vec<Vec<String>> = status.interfaces.iter().map(interface).collect();
    out.push_str(&table::trimmed(&["INTERFACE", "ROLE", "PROGRAMS", "SINCE", "NOTE"], &rows));
    out.push('\n');
    let rows: Vec<Vec<String>> = status.maps.iter().map(map).collect();
    out.push_str(&table::trimmed(&["MAP", "ENTRIES", "ROOM FOR", "MEMORY", "PINNED AT"], &rows));
    silent(status, &mut out);
    repairs(status, &mut out);
    match &status.audit {
        Some(last) => {
            let _ = write!(out, "\nLast audit at {}: {}", last.at, audit::summary(last));
            for error in &last.errors {
                let _ = writeln!(out, "Problem: {error}");
            }
        }
        None => out.push_str("\nNo audit yet; `manxctl dataplane audit` makes one now.\n"),
    }
    for failure in &status.failures {
        let _ = writeln!(out, "Problem: {failure}");
    }
    out
}

fn interface(interface: &InterfaceStatus) -> Vec<String> {
    let broken = interface.links.iter().filter(|link| link.state != "attached");
    let broken = broken.map(|link| format!("{} is {}; it is put back within 5 s", link.program, link.state));
    let notes: Vec<String> = broken.chain(interface.notes.iter().cloned()).collect();
    let program = |name: &String| {
        let number = interface.links.iter().find(|link| name.starts_with(&link.program));
        match number.filter(|link| link.program_id != 0) {
            Some(link) => format!("{name} id {}", link.program_id),
            None => name.clone(),
        }
    };
    let programs: Vec<String> = interface.programs.iter().map(program).collect();
    vec![
        interface.name.clone(),
        interface.role.clone(),
        if programs.is_empty() { "-".into() } else { programs.join(", ") },
        interface.since.clone().unwrap_or_else(|| "-".into()),
        notes.join("; "),
    ]
}

fn map(map: &MapStatus) -> Vec<String> {
    let memory = if map.bytes == 0 { "-".into() } else { units::bytes(map.bytes) };
    vec![map.name.clone(), map.entries.to_string(), map.max_entries.to_string(), memory, map.pin.clone()]
}

fn silent(status: &DataplaneStatus, out: &mut String) {
    if status.silent_next_hops.is_empty() {
        return;
    }
    out.push_str("\nThese next hops do not answer. The stack has their packets, and tells the senders:\n");
    let row = |hop: &SilentNextHop| {
        vec![
            hop.address.to_string(),
            hop.interface.clone(),
            hop.since.clone(),
            see(hop.address, &hop.interface),
        ]
    };
    let rows: Vec<Vec<String>> = status.silent_next_hops.iter().map(row).collect();
    out.push_str(&table::trimmed(&["NEXT HOP", "INTERFACE", "SINCE", "WHAT TO LOOK AT"], &rows));
    out.push_str("Each is asked again every 10 s, and is the fast path's as soon as it answers.\n");
}

fn see(address: IpAddr, interface: &str) -> String {
    let question = if address.is_ipv4() { "ARP" } else { "neighbour discovery" };
    format!(
        "is that node up and on this wire, and does {question} pass? ip neigh show {address} dev {interface}"
    )
}

fn repairs(status: &DataplaneStatus, out: &mut String) {
    if status.repairs == 0 {
        return;
    }
    let kinds: Vec<String> = status
        .repairs_by_kind
        .iter()
        .map(|count| format!("{} × {}", count.count, count.kind.text()))
        .collect();
    let is_displaced = status.repairs_by_kind.iter().any(|count| count.kind == RepairKind::RouteDisplaced);
    let _ = writeln!(
        out,
        "\nOthers changed what is ours {} times since manxd started, and it was put right{}: {}. The last:",
        status.repairs,
        // Nobody's route is overwritten.
        if is_displaced { " (a displaced route as soon as the other is gone)" } else { "" },
        kinds.join(", ")
    );
    let row = |repair: &Repair| {
        let by = repair.by.clone().unwrap_or_else(|| "not known".into());
        vec![repair.at.clone(), repair.kind.text().into(), repair.what.clone(), by]
    };
    let rows: Vec<Vec<String>> = status.last_repairs.iter().take(SHOWN).map(row).collect();
    out.push_str(&table::trimmed(&["AT", "REPAIR", "OF", "BY"], &rows));
}

#[cfg(test)]
mod tests {
    use manx_api::{FastPath, ProgramLink, RepairCount};

    use super::*;

    fn status() -> DataplaneStatus {
        DataplaneStatus {
            fast_path: FastPath { mode: "auto".into(), on: true, reason: "nothing tracks".into() },
            modes: Default::default(),
            interfaces: vec![InterfaceStatus {
                name: "ens33".into(),
                ifindex: 2,
                role: "uplink".into(),
                since: Some("2026-01-01T00:00:00.000Z".into()),
                programs: vec!["uplink_tc (TCX ingress)".into()],
                links: vec![ProgramLink {
                    program: "uplink_tc".into(),
                    program_id: 17,
                    link_id: 3,
                    pin: "/sys/fs/bpf/manx/links/uplink_tc-2".into(),
                    state: "detached".into(),
                }],
                notes: vec!["no XDP".into()],
            }],
            maps: vec![MapStatus {
                name: "ROUTES4".into(),
                entries: 3,
                max_entries: 10,
                bytes: 4096,
                pin: "/sys/fs/bpf/manx/v1/ROUTES4".into(),
            }],
            silent_next_hops: vec![SilentNextHop {
                address: "192.168.80.125".parse().unwrap(),
                interface: "ens33".into(),
                since: "2026-01-01T00:00:03.000Z".into(),
            }],
            failures: vec!["10.0.0.0/26 is not in the eBPF map: full".into()],
            repairs: 2,
            repairs_by_kind: vec![RepairCount {
                kind: RepairKind::RouteDeleted,
                count: 2,
                last: "2026-01-01T00:00:05.000Z".into(),
            }],
            last_repairs: vec![Repair {
                at: "2026-01-01T00:00:05.000Z".into(),
                kind: RepairKind::RouteDeleted,
                what: "172.16.118.64/26".into(),
                by: Some("ip: ip route del 172.16.118.64/26 (pid 77)".into()),
            }],
            audit: Some(audit::tests::audit(0)),
        }
    }

    #[test]
    fn the_status_says_what_is_broken_who_did_it_and_when_it_was_looked_at() {
        let text = render(&status());
        for part in [
            "Fast path: on (nothing tracks)",
            "uplink_tc (TCX ingress) id 17",
            "2026-01-01T00:00:00.000Z",
            "uplink_tc is detached; it is put back within 5 s; no XDP",
            "192.168.80.125   ens33       2026-01-01T00:00:03.000Z   is that node up",
            "2 × route deleted",
            "ip: ip route del 172.16.118.64/26 (pid 77)",
            "Last audit at 2026-01-01T00:00:00.000Z: 10 prefixes",
            "Problem: 10.0.0.0/26 is not in the eBPF map: full",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_route_that_others_displaced_is_not_said_to_be_back_before_it_is() {
        assert!(render(&status()).contains("and it was put right: 2 × route deleted"));
        let mut displaced = status();
        displaced.repairs_by_kind[0].kind = RepairKind::RouteDisplaced;
        let text = render(&displaced);
        assert!(text.contains("put right (a displaced route as soon as the other is gone): 2 ×"), "{text}");
    }

    #[test]
    fn where_nothing_was_repaired_nothing_is_said_of_repairs() {
        let text = render(&DataplaneStatus { repairs: 0, audit: None, silent_next_hops: vec![], ..status() });
        assert!(!text.contains("do not answer"), "{text}");
        assert!(!text.contains("put right") && text.contains("No audit yet"), "{text}");
    }
}
