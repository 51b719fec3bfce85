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
/// Seconds between the two looks of a sample.
const SHORTEST: f64 = 0.1;
const LONGEST: f64 = 60.0;
/// Rows of each table where nobody says how many, and there is no screen to fill.
const ROWS: u32 = 10;
/// What a name keeps on however narrow a screen.
const SHORTEST_NAME: usize = 8;

#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "\
On a terminal it refreshes until it is interrupted, and shows as many rows as fit; elsewhere, and with --once or \
-o json, it prints one sample.

Examples:
  manxctl dataplane top                    # reasons, next hops and prefixes, every second
  manxctl dataplane top --by prefix -n 50
  manxctl dataplane top --once --interval 10
  manxctl dataplane top -o json | jq '.prefixes[0]'")]
pub struct Args {
    /// Only the rates of these
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// Rows of each [default: 10, on a terminal as many as fit]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rows: Option<u32>,
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
    let again = io::stdout().is_terminal() && !args.once && args.output.is_none();
    loop {
        // It may be made larger or smaller between two samples.
        let screen = if again { Screen::now() } else { None };
        let parts = if args.by.is_some() { 1 } else { 3 };
        let rows = args.rows.unwrap_or_else(|| screen.map_or(ROWS, |screen| screen.rows_of(parts)));
        let question = format!("{}?intervalMs={millis:.0}&limit={rows}", path::TOP);
        let top: Top = client::ask(socket, &question)?;
        let text = match args.output {
            Some(_) => format!("{}\n", serde_json::to_string_pretty(&top)?),
            None => render(&top, args.by, screen),
        };
        if !again {
            output::print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        output::print(&format!("{CLEAR}{text}"))?;
    }
}

/// A terminal, in characters.
#[derive(Clone, Copy, Debug)]
struct Screen {
    columns: u16,
    lines: u16,
}

impl Screen {
    /// `None` where the terminal does not say.
    fn now() -> Option<Screen> {
        let (columns, lines) = terminal_size::terminal_size()?;
        Some(Screen { columns: columns.0, lines: lines.0 })
    }

    /// Rows of each of so many tables: below the first line each has an empty line and a heading, and the cursor stands
    /// in the last line.
    fn rows_of(self, tables: u16) -> u32 {
        let left = self.lines.saturating_sub(2 + 2 * tables);
        u32::from(left / tables).max(1)
    }

    /// Cuts names so that there is room for the figures beside them, which are what is looked for.
    fn shorten(self, rows: &mut [[String; 3]], [_, packets, bits]: [&str; 3]) {
        let mut figures = [packets.len(), bits.len()];
        for [_, packets, bits] in &*rows {
            let [most_packets, most_bits] = figures;
            figures = [most_packets.max(packets.chars().count()), most_bits.max(bits.chars().count())];
        }
        let beside = figures.into_iter().sum::<usize>() + 2 * table::GAP;
        let room = usize::from(self.columns).saturating_sub(beside).max(SHORTEST_NAME);
        for [name, ..] in rows {
            if name.chars().count() > room {
                *name = name.chars().take(room - 1).chain(['…']).collect();
            }
        }
    }
}

fn render(top: &Top, by: Option<By>, screen: Option<Screen>) -> String {
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
            let mut rows: Vec<[String; 3]> = rates.iter().map(row).collect();
            let headings = [heading, "PACKETS/S", "BITS/S"];
            if let Some(screen) = screen {
                screen.shorten(&mut rows, headings);
            }
            let table = table::trimmed(&headings, &rows);
            // On a screen a blank too many is a line too many.
            table.lines().for_each(|line| out.extend([line.trim_end(), "\n"]));
        }
    }
    out
}

fn row(rate: &Rate) -> [String; 3] {
    [
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
        let text = render(&top(), None, None);
        for part in ["pod_tc redirected_neigh", "1.2 k", "9.6 Mbit/s", "NEXT HOP: no packets"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("cali1"), "{text}");
        let text = render(&top(), Some(By::Interface), None);
        assert!(text.contains("cali1") && !text.contains("172.16.118.64"), "{text}");
    }

    #[test]
    fn on_a_narrow_screen_names_are_cut_and_figures_are_not() {
        let mut top = top();
        top.prefixes =
            vec![Rate { name: "2001:db8:1234:5678:9abc::/122".into(), ..top.prefixes.swap_remove(0) }; 6];
        let screen = Screen { columns: 46, lines: 24 };
        let text = render(&top, None, Some(screen));
        assert!(text.contains("2001:db8:1234:5678:9…   1.2 k"), "{text}");
        for line in text.lines().skip(1) {
            assert!(line.chars().count() <= 46 && line.trim_end() == line, "{line:?} in\n{text}");
        }
        // Whatever the size: something is shown.
        let least = render(&top, None, Some(Screen { columns: 0, lines: 0 }));
        assert!(least.contains("2001:db…   1.2 k"), "{least}");
    }

    #[test]
    fn as_many_rows_are_asked_for_as_the_screen_shows() {
        for (lines, tables, rows) in
            [(24, 3, 5), (24, 1, 20), (50, 3, 14), (200, 1, 196), (5, 3, 1), (0, 1, 1)]
        {
            let screen = Screen { columns: 80, lines };
            assert_eq!(screen.rows_of(tables), rows, "{lines} lines");
            // A line, and of each table an empty line, a heading and its rows.
            let taken = 1 + u32::from(tables) * (2 + rows);
            assert!(taken < u32::from(lines) || rows == 1, "{taken} of {lines} lines");
        }
    }

    #[test]
    fn an_interval_is_a_number_of_seconds_within_reason() {
        assert_eq!(interval("0.5"), Ok(0.5));
        for wrong in ["0", "61", "-1", "x", "NaN", "inf"] {
            assert!(interval(wrong).is_err(), "{wrong}");
        }
    }
}
