//! `manxctl dataplane top`: rates, as they are now.

use std::{
    io::{self, IsTerminal},
    path::Path,
    process::ExitCode,
};

use clap::ValueEnum;
use manx_api::{Rate, Top, path};

use super::units;
use crate::{client, output, table};

/// Clears the screen and goes to its upper left corner (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J";
/// Milliseconds between the two looks of a sample.
const SHORTEST: f64 = 0.1;
const LONGEST: f64 = 60.0;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
On a terminal it refreshes until it is interrupted; elsewhere, and with --once or -o json, it prints one sample.

  manxctl dataplane top                      # reasons, next hops and prefixes, refreshed every second
  manxctl dataplane top --by prefix -n 50
  manxctl dataplane top --once --interval 10
  manxctl dataplane top -o json | jq '.prefixes[0]'")]
pub struct Args {
    /// Only the rates of these
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// Rows of each
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rows: u32,
    /// Seconds between the two looks that make a rate, 0.1 to 60
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    pub interval: f64,
    /// One sample
    #[arg(long)]
    pub once: bool,
    /// Print what manxd answers to one question
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    pub output: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    Reason,
    Interface,
    Prefix,
    #[value(name = "nexthop")]
    NextHop,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| String::from("not a number of seconds"))?;
    if (SHORTEST..=LONGEST).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(format!("not between {SHORTEST} and {LONGEST} seconds"))
    }
}

pub fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let millis = (args.interval * 1000.0).round();
    let question = format!("{}?intervalMs={millis:.0}&limit={}", path::TOP, args.rows);
    let again = io::stdout().is_terminal() && !args.once && args.output.is_none();
    loop {
        let top: Top = client::ask(socket, &question)?;
        let text = match args.output {
            Some(_) => format!("{}\n", serde_json::to_string_pretty(&top)?),
            None => render(&top, args.by),
        };
        if !again {
            output::print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        output::print(&format!("{CLEAR}{text}"))?;
    }
}

fn render(top: &Top, by: Option<By>) -> String {
    let mut out = format!("{} at {}, over {:.1} s\n", top.node, top.at, top.interval_ms as f64 / 1000.0);
    let parts = [
        (By::Reason, "REASON", &top.reasons),
        (By::Interface, "INTERFACE", &top.interfaces),
        (By::NextHop, "NEXT HOP", &top.next_hops),
        (By::Prefix, "PREFIX", &top.prefixes),
    ];
    for (part, heading, rates) in parts {
        // All four would not fit on a screen.
        let shown = by.map_or(part != By::Interface, |by| by == part);
        if !shown {
            continue;
        }
        out.push('\n');
        if rates.is_empty() {
            out.push_str(&format!("{heading}: no packets\n"));
        } else {
            let rows: Vec<Vec<String>> = rates.iter().map(row).collect();
            out.push_str(&table::columns(&[heading, "PACKETS/S", "BITS/S"], &rows));
        }
    }
    out
}

fn row(rate: &Rate) -> Vec<String> {
    vec![
        rate.name.clone(),
        units::per_second(rate.packets_per_second),
        rate.bits_per_second.map_or_else(|| "-".into(), units::bits_per_second),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top() -> Top {
        let rate =
            |name: &str, bits| Rate { name: name.into(), packets_per_second: 1200.0, bits_per_second: bits };
        Top {
            node: "kw01".into(),
            at: "2026-01-01T00:00:00.000Z".into(),
            interval_ms: 1000,
            reasons: vec![rate("pod_tc redirected_neigh", None)],
            prefixes: vec![rate("172.16.118.64/26", Some(9.6e6))],
            next_hops: Vec::new(),
            interfaces: vec![rate("cali1", None)],
        }
    }

    #[test]
    fn a_sample_shows_what_is_asked_for() {
        let text = render(&top(), None);
        for part in ["pod_tc redirected_neigh", "1.2 k", "9.6 Mbit/s", "NEXT HOP: no packets"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("cali1"), "{text}");
        let text = render(&top(), Some(By::Interface));
        assert!(text.contains("cali1") && !text.contains("172.16.118.64"), "{text}");
    }

    #[test]
    fn an_interval_is_a_number_of_seconds_within_reason() {
        assert_eq!(interval("0.5"), Ok(0.5));
        for wrong in ["0", "61", "-1", "x", "NaN", "inf"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
