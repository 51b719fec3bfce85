//! `manxctl dataplane counters`: what became of packets.

use std::{path::Path, process::ExitCode};

use anyhow::bail;
use clap::ValueEnum;
use manx_api::{Counter, Counters, NamedTally, Tallies, path};
use serde::Serialize;

use super::units;
use crate::{client, output, table};

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  manxctl dataplane counters               # by program and verdict, over all interfaces
  manxctl dataplane counters --by interface
  manxctl dataplane counters --interface cali0123456789a --all
  manxctl dataplane counters --by prefix | head -20
  manxctl dataplane counters --by nexthop -o json

Each packet is counted once by each program that it meets: as carried past the stack, as dropped, or as left to the \
stack; --all lists every reason there is, with what it means.")]
pub struct Args {
    /// By what to sum packets
    #[arg(long, value_enum, default_value_t = By::Reason)]
    pub by: By,
    /// Only those of this interface
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Verdicts that never happened, too
    #[arg(long)]
    pub all: bool,
    /// Print what manxd answers
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// By program and verdict
    Reason,
    /// By interface, program and verdict
    Interface,
    /// By the prefix that answered, with bytes
    Prefix,
    /// By the next hop that packets were sent to, with bytes
    #[value(name = "nexthop")]
    NextHop,
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let (tallies, heading) = match args.by {
        By::Prefix => (path::PREFIX_COUNTERS, "PREFIX"),
        By::NextHop => (path::NEXT_HOP_COUNTERS, "NEXT HOP"),
        By::Reason | By::Interface => return by_verdict(args, socket),
    };
    if args.interface.is_some() {
        bail!(
            "--interface goes with --by reason or interface: prefixes and next hops are counted over all of them"
        );
    }
    let tallies: Tallies = client::ask(socket, tallies)?;
    print(args, &tallies, || render_tallies(&tallies.rows, heading))
}

fn by_verdict(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let mut counters: Counters = client::ask(socket, path::COUNTERS)?;
    if let Some(name) = &args.interface {
        counters.interfaces.retain(|row| row.interface == *name);
        if counters.interfaces.is_empty() {
            bail!(
                "no program runs on an interface {name}; `manxctl dataplane status` names those that have one"
            );
        }
    }
    let by_interface = args.by == By::Interface || args.interface.is_some();
    print(args, &counters, || match by_interface {
        true => render_interfaces(&counters, args.all),
        false => render(&counters, args.all),
    })
}

fn print(args: &Args, answer: &impl Serialize, text: impl Fn() -> String) -> anyhow::Result<ExitCode> {
    let text = match args.output {
        Some(_) => format!("{}\n", serde_json::to_string_pretty(answer)?),
        None => text(),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

const NONE_YET: &str = "No packet has met a program yet.\n";

fn verdicts(verdicts: &[Counter], all: bool) -> impl Iterator<Item = [String; 4]> {
    let shown = verdicts.iter().filter(move |verdict| all || verdict.packets > 0);
    shown.map(|verdict| {
        let packets = verdict.packets.to_string();
        [verdict.verdict.clone(), packets, verdict.became.clone(), verdict.meaning.clone()]
    })
}

fn render(counters: &Counters, all: bool) -> String {
    let rows: Vec<Vec<String>> = counters
        .rows
        .iter()
        .flat_map(|row| {
            verdicts(&row.verdicts, all).map(|cells| [vec![row.program.clone()], cells.to_vec()].concat())
        })
        .collect();
    if rows.is_empty() {
        return NONE_YET.into();
    }
    table::trimmed(&["PROGRAM", "VERDICT", "PACKETS", "WENT", "MEANING"], &rows)
}

fn render_interfaces(counters: &Counters, all: bool) -> String {
    let rows: Vec<Vec<String>> = counters
        .interfaces
        .iter()
        .flat_map(|row| {
            verdicts(&row.verdicts, all)
                .map(|cells| [vec![row.interface.clone(), row.program.clone()], cells.to_vec()].concat())
        })
        .collect();
    if rows.is_empty() {
        return NONE_YET.into();
    }
    table::trimmed(&["INTERFACE", "PROGRAM", "VERDICT", "PACKETS", "WENT", "MEANING"], &rows)
}

fn render_tallies(rows: &[NamedTally], heading: &str) -> String {
    let row = |row: &NamedTally| {
        vec![row.name.clone(), row.counts.packets.to_string(), units::bytes(row.counts.bytes)]
    };
    let silent: Vec<Option<&str>> = rows.iter().map(|row| row.silent_since.as_deref()).collect();
    let mut rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    if rows.is_empty() {
        let what = heading.to_lowercase();
        return format!(
            "No packet has been counted for a {what} yet; `manxctl dataplane counters` has all by reason.\n"
        );
    }
    // Prefixes have no state.
    if silent.iter().all(Option::is_none) {
        return table::trimmed(&[heading, "PACKETS", "BYTES"], &rows);
    }
    for (row, since) in rows.iter_mut().zip(silent) {
        row.push(since.map_or_else(|| "-".into(), |since| format!("does not answer since {since}")));
    }
    table::trimmed(&[heading, "PACKETS", "BYTES", "STATE"], &rows)
        + "Packets to what does not answer are the stack's and not counted here; `manxctl dataplane status` says \
           what to look at.\n"
}

#[cfg(test)]
mod tests {
    use manx_api::{CounterRow, InterfaceCounters, Tally};

    use super::*;

    fn counters() -> Counters {
        let verdict = |verdict: &str, packets| Counter {
            verdict: verdict.into(),
            packets,
            became: "carried".into(),
            meaning: "Out of an interface, to a next hop.".into(),
        };
        let verdicts = || vec![verdict("redirected_neigh", 7), verdict("spoofed", 0)];
        Counters {
            node: "kw01".into(),
            rows: vec![CounterRow { program: "pod_tc".into(), verdicts: verdicts() }],
            interfaces: vec![InterfaceCounters {
                interface: "cali1".into(),
                ifindex: 7,
                program: "pod_tc".into(),
                verdicts: verdicts(),
            }],
        }
    }

    #[test]
    fn verdicts_that_never_happened_are_left_out_unless_asked_for() {
        for render in [render, render_interfaces] {
            assert!(!render(&counters(), false).contains("spoofed"));
            assert!(render(&counters(), true).contains("spoofed"));
        }
        assert!(render_interfaces(&counters(), false).contains("cali1"));
    }

    #[test]
    fn a_next_hop_that_does_not_answer_is_told_with_the_time() {
        let row = |name: &str, silent: Option<&str>| NamedTally {
            name: name.into(),
            counts: Tally::default(),
            silent_since: silent.map(Into::into),
        };
        let rows = [row("10.0.0.1 dev ens33", None), row("10.0.0.2 dev ens33", Some("yesterday"))];
        let text = render_tallies(&rows, "NEXT HOP");
        assert!(
            text.contains("10.0.0.2 dev ens33   0         0 B     does not answer since yesterday"),
            "{text}"
        );
        assert!(text.contains("10.0.0.1 dev ens33   0         0 B     -\n"), "{text}");
    }

    #[test]
    fn prefixes_are_told_with_packets_and_bytes() {
        let counts = Tally { packets: 3, bytes: 4500 };
        let row = NamedTally { name: "10.0.0.0/26".into(), counts, silent_since: None };
        let text = render_tallies(&[row], "PREFIX");
        assert!(text.contains("10.0.0.0/26") && text.contains("4.5 kB"), "{text}");
        assert!(!text.contains("STATE"), "{text}");
        // Packets that no prefix has answered may have met programs all the same.
        assert!(render_tallies(&[], "NEXT HOP").starts_with("No packet has been counted for a next hop yet"));
    }
}
