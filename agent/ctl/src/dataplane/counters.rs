//! `manxctl dataplane counters`: what became of packets.

use std::{path::Path, process::ExitCode};

use manx_api::{Counters, path};

use crate::{client, output, table};

#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
    /// Verdicts that never happened, too
    #[arg(long)]
    pub all: bool,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let counters: Counters = client::ask(socket, path::COUNTERS)?;
    let text = match args.output {
        Some(_) => format!("{}\n", serde_json::to_string_pretty(&counters)?),
        None => render(&counters, args.all),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn render(counters: &Counters, all: bool) -> String {
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
        assert!(!render(&counters(), false).contains("spoofed"));
        assert!(render(&counters(), true).contains("spoofed"));
    }
}
