//! The results as Markdown: Manx against the best peer of each column, then every daemon in full.

use std::{collections::BTreeMap, fmt::Write, fs, thread};

use crate::{
    daemons::Which,
    run::{Cell, Cells, Played, Sample, median},
    scenario::Play,
};

/// What was run, for the page's head.
#[derive(Debug)]
pub struct Head {
    pub command: String,
    /// What was built.
    pub commit: Option<String>,
    pub versions: BTreeMap<Which, String>,
}

/// Fewer routes say nothing about the memory of one.
const MANY: usize = 100_000;

/// When others take more of the machine than this, the page says so.
const NOISY: f64 = 0.05;

/// A scenario's time: its name, unit, and where it stands in a sample.
struct Time {
    suffix: &'static str,
    unit: &'static str,
    of: fn(&Sample) -> Vec<f64>,
}

fn times(play: Play) -> &'static [Time] {
    match play {
        Play::Flap { .. } => &[
            Time { suffix: ": withdraw", unit: "ms", of: |s| s.outcome.flaps.iter().map(|f| f.0).collect() },
            Time { suffix: ": announce", unit: "ms", of: |s| s.outcome.flaps.iter().map(|f| f.1).collect() },
        ],
        _ => &[Time { suffix: "", unit: "s", of: |s| vec![s.outcome.wall] }],
    }
}

pub fn markdown(head: &Head, results: &[Played]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "# BGP: Manx and its peers side by side\n\n\
         Made by `{}`{} on {}.\n",
        head.command,
        head.commit.as_ref().map(|commit| format!(", commit {commit},")).unwrap_or_default(),
        machine()
    );
    for (which, version) in &head.versions {
        let _ = writeln!(out, "- {}: {version}", which.name());
    }
    out.push_str(METHOD);
    against_the_best(&mut out, results);
    in_full(&mut out, results);
    out
}

const METHOD: &str = "
iBGP, every peer a passive client of one reflector, IPv4, over a veth between two network namespaces; no kernel FIB, no
eBPF. One generator plays all clients in one thread, sends UPDATEs that were encoded before the clock starts, and
counts distinct prefixes at every receiver. Daemons take turns within each scenario, at the same raised priority;
figures are medians (least to most). Wall: from the first byte (or SYN) to the last prefix at the last receiver. CPU:
the daemon's process clock, all threads, from the same start until it is at rest again with all sessions up. Memory:
the highest resident size; a route's share is what was added since the start of the clock. Where routes only go into
the RIB, they carry NO_ADVERTISE, and the clock stops when one last route without it has reached a second client: that
is the same measure for every daemon. What bounds a flap stands in `docs/decisions/007-writes-from-the-loop.md`.
";

pub fn machine() -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let model =
        model.and_then(|line| line.split_once(':')).map_or("unknown processor", |(_, name)| name.trim());
    format!("{cores} cores ({model}), Linux {}", kernel.trim())
}

fn against_the_best(out: &mut String, results: &[Played]) {
    out.push_str(
        "\n## Against the best\n\n\
         | scenario | Manx | best peer | ratio | Manx CPU s | best peer | ratio |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    for Played { scenario, cells, .. } in results {
        for (number, time) in times(scenario.play).iter().enumerate() {
            let walls = compare(cells, |cell| middle(cell, time.of));
            // The CPU time of a run is that of all its flaps.
            let cpus = match number {
                0 => compare(cells, |cell| middle(cell, |s| vec![s.cpu])),
                _ => [String::new(), String::new(), String::new()],
            };
            let _ = writeln!(
                out,
                "| {}{} ({}) | {} | {} |",
                scenario.title,
                time.suffix,
                time.unit,
                walls.join(" | "),
                cpus.join(" | ")
            );
        }
    }
}

/// Manx's figure, the best other and whose it is, and the ratio.
fn compare(cells: &Cells, figure: impl Fn(&Cell) -> Option<f64>) -> [String; 3] {
    let own = cells.get(&Which::Manx).and_then(&figure);
    let others = cells.iter().filter(|(which, _)| **which != Which::Manx);
    let best = others
        .filter_map(|(which, cell)| Some((*which, figure(cell)?)))
        .min_by(|(_, one), (_, other)| one.total_cmp(other));
    let ratio = match (own, best) {
        (Some(own), Some((_, best))) => format!("{:.2}", own / best),
        _ => "–".to_owned(),
    };
    [
        own.map_or("–".to_owned(), number),
        best.map_or("–".to_owned(), |(which, value)| format!("{} {}", which.name(), number(value))),
        ratio,
    ]
}

fn in_full(out: &mut String, results: &[Played]) {
    out.push_str(
        "\n## In full\n\n\
         | scenario | daemon | n | wall | CPU s | peak RSS MB | bytes a route | UPDATEs per receiver | generator CPU s | connections lost |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut remarks = String::new();
    for Played { scenario, cells, others } in results {
        if *others > NOISY {
            let _ = writeln!(
                remarks,
                "- {}: other processes took {:.0} % of the machine",
                scenario.title,
                others * 100.0
            );
        }
        for (which, cell) in cells {
            if let Some(why) = cell.skipped.as_ref().or(cell.failure.as_ref()) {
                let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
                let _ = writeln!(remarks, "- {}, {}: {why}", scenario.title, which.name());
            }
            if cell.samples.is_empty() {
                let word = if cell.skipped.is_some() { "left out" } else { "not finished" };
                let _ = writeln!(out, "| {} | {} | 0 | {word} | | | | | | |", scenario.title, which.name());
                continue;
            }
            let walls: Vec<String> = times(scenario.play)
                .iter()
                .map(|time| format!("{} {}", spread(cell.samples.iter().flat_map(time.of)), time.unit))
                .collect();
            let memory = |pick: fn(&Sample) -> f64| median(cell.samples.iter().map(pick)).unwrap_or_default();
            let per_route = if scenario.routes() >= MANY {
                let added = memory(|s| s.memory.1.saturating_sub(s.memory.0) as f64);
                format!("{:.0}", added / scenario.routes() as f64)
            } else {
                String::new()
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} | {} | {:.1} | {per_route} | {} | {} | {} |",
                scenario.title,
                which.name(),
                cell.samples.len(),
                walls.join("; "),
                spread(cell.samples.iter().map(|s| s.cpu)),
                memory(|s| s.memory.1 as f64) / 1e6,
                updates(cell),
                number(memory(|s| s.outcome.generator_cpu)),
                memory(|s| s.outcome.lost as f64),
            );
        }
    }
    if !remarks.is_empty() {
        let _ = write!(out, "\n{remarks}");
    }
}

fn updates(cell: &Cell) -> String {
    let fewest = cell.samples.iter().map(|s| s.outcome.updates.0).min().unwrap_or_default();
    let most = cell.samples.iter().map(|s| s.outcome.updates.1).max().unwrap_or_default();
    if fewest == most { fewest.to_string() } else { format!("{fewest}–{most}") }
}

fn middle(cell: &Cell, of: fn(&Sample) -> Vec<f64>) -> Option<f64> {
    median(cell.samples.iter().flat_map(of))
}

fn spread(values: impl Iterator<Item = f64>) -> String {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.last(), median(sorted.iter().copied())) {
        (Some(least), Some(most), Some(middle)) if sorted.len() > 1 => {
            format!("{} ({}–{})", number(middle), number(*least), number(*most))
        }
        (_, _, Some(only)) => number(only),
        _ => "–".to_owned(),
    }
}

/// Three significant digits are more than the machine's noise leaves.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::Outcome;

    fn cell(walls: &[f64], cpu: f64) -> Cell {
        let sample = |wall: &f64| Sample {
            outcome: Outcome { wall: *wall, updates: (100, 101), ..Outcome::default() },
            cpu,
            memory: (10_000_000, 20_000_000),
        };
        Cell { samples: walls.iter().map(sample).collect(), ..Cell::default() }
    }

    #[test]
    fn each_column_is_compared_with_its_own_best_peer() {
        let cells: Cells = [
            (Which::Manx, cell(&[0.4, 0.6, 0.5], 0.2)),
            (Which::Bird, cell(&[1.0], 0.1)),
            (Which::Frr, cell(&[2.0], 0.05)),
        ]
        .into();
        let [own, best, ratio] = compare(&cells, |c| middle(c, |s| vec![s.outcome.wall]));
        assert_eq!((own.as_str(), best.as_str(), ratio.as_str()), ("0.500", "BIRD 1.00", "0.50"));
        let [_, best, ratio] = compare(&cells, |c| middle(c, |s| vec![s.cpu]));
        assert_eq!((best.as_str(), ratio.as_str()), ("FRR 0.050", "4.00"));
    }

    #[test]
    fn a_daemon_that_did_not_finish_is_in_the_table_and_says_why() {
        let scenario = crate::scenario::SCENARIOS[1];
        let failed = Cell { failure: Some("not complete in time".to_owned()), ..Cell::default() };
        let cells = [(Which::Manx, cell(&[1.0], 1.0)), (Which::Bird, failed)].into();
        let results = [Played { scenario, cells, others: 0.2 }];
        let head = Head {
            command: "bench".to_owned(),
            commit: Some("0123abc".to_owned()),
            versions: BTreeMap::new(),
        };
        let page = markdown(&head, &results);
        assert!(page.contains("Made by `bench`, commit 0123abc, on "), "{page}");
        assert!(page.contains("| BIRD | 0 | not finished |"), "{page}");
        assert!(page.contains("BIRD: not complete in time"), "{page}");
        assert!(page.contains("other processes took 20 % of the machine"), "{page}");
        assert!(page.contains("| Manx | 1 | 1.00 s | 1.00 | 20.0 | 10 | 100–101 |"), "{page}");
    }
}
