//! `manxctl dataplane status|counters`: the programs, where they run, and what they did with packets.

use std::{fmt::Write, path::Path, process::ExitCode};

use manx_api::{Counters, DataplaneStatus, path};

use crate::{client, output, table};

#[derive(clap::Subcommand, Clone, Debug)]
pub enum Command {
    /// Whether the fast path is on and why, programs per interface, fill of the maps
    Status(Args),
    /// Packets by program and verdict since the maps were made
    Counters(CounterArgs),
}

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
}

#[derive(clap::Args, Clone, Debug)]
pub struct CounterArgs {
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
    /// Verdicts that never happened, too
    #[arg(long)]
    pub all: bool,
}

pub fn run(command: &Command, socket: &Path) -> anyhow::Result<ExitCode> {
    let text = match command {
        Command::Status(args) => {
            let status: DataplaneStatus = client::ask(socket, path::DATAPLANE)?;
            match args.output {
                Some(_) => format!("{}\n", serde_json::to_string_pretty(&status)?),
                None => render_status(&status),
            }
        }
        Command::Counters(args) => {
            let counters: Counters = client::ask(socket, path::COUNTERS)?;
            match args.output {
                Some(_) => format!("{}\n", serde_json::to_string_pretty(&counters)?),
                None => render_counters(&counters, args.all),
            }
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn render_status(status: &DataplaneStatus) -> String {
    let fast_path = &status.fast_path;
    let mut out =
        format!("Fast path: {} ({})\n\n", if fast_path.on { "on" } else { "off" }, fast_path.reason);
    let rows: Vec<Vec<String>> = status
        .interfaces
        .iter()
        .map(|interface| {
            let programs =
                if interface.programs.is_empty() { "-".into() } else { interface.programs.join(", ") };
            vec![interface.name.clone(), interface.role.clone(), programs, interface.notes.join("; ")]
        })
        .collect();
    out.push_str(&table::columns(&["INTERFACE", "ROLE", "PROGRAMS", "NOTE"], &rows));
    out.push('\n');
    let rows: Vec<Vec<String>> = status
        .maps
        .iter()
        .map(|map| {
            vec![map.name.clone(), map.entries.to_string(), map.max_entries.to_string(), map.pin.clone()]
        })
        .collect();
    out.push_str(&table::columns(&["MAP", "ENTRIES", "ROOM FOR", "PINNED AT"], &rows));
    if status.repairs > 0 {
        let _ = writeln!(
            out,
            "{} routes or programs were changed by others and put back since manxd started.",
            status.repairs
        );
    }
    for failure in &status.failures {
        let _ = writeln!(out, "Problem: {failure}");
    }
    out
}

fn render_counters(counters: &Counters, all: bool) -> String {
    let rows: Vec<Vec<String>> = counters
        .rows
        .iter()
        .flat_map(|row| {
            row.verdicts.iter().filter(move |verdict| all || verdict.packets > 0).map(|verdict| {
                vec![row.program.clone(), verdict.verdict.clone(), verdict.packets.to_string()]
            })
        })
        .collect();
    if rows.is_empty() {
        return "No packet has met a program yet.\n".into();
    }
    table::columns(&["PROGRAM", "VERDICT", "PACKETS"], &rows)
}

#[cfg(test)]
mod tests {
    use manx_api::{Counter, CounterRow};

    use super::*;

    fn counters() -> Counters {
        let verdict = |verdict: &str, packets| Counter { verdict: verdict.into(), packets };
        Counters {
            node: "kw01".into(),
            rows: vec![CounterRow {
                program: "pod_tc".into(),
                verdicts: vec![verdict("redirected_neigh", 7), verdict("spoofed", 0)],
            }],
        }
    }

    #[test]
    fn verdicts_that_never_happened_are_left_out_unless_asked_for() {
        assert!(!render_counters(&counters(), false).contains("spoofed"));
        assert!(render_counters(&counters(), true).contains("spoofed"));
    }
}
