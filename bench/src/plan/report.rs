//! The figures as Markdown, each beside its goal.

use std::fmt::Write;

use super::{Planned, Selected, first::First};
use crate::{report::machine, run::median};

#[derive(Debug)]
pub struct Head {
    pub command: String,
    pub commit: Option<String>,
    pub nodes: usize,
    pub rounds: usize,
}

/// Seconds.
const WHOLE: f64 = 0.05;
const AGAIN: f64 = 0.001;
const FIRST: f64 = 1.0;

pub fn markdown(head: &Head, planned: &[Planned], selectors: &[Selected], first: &[First]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "# Plans of clusters of {} nodes\n\n\
         Made by `{}`{} on {}. Figures are medians of {} rounds (least to most). Each node has an IPv4 and an IPv6 address \
         and a block. Both kinds of plan are compared with each other in every round.\n\n\
         ## A node's plan\n\n\
         | cluster | planned | peers | all of it, ms | goal |\n|---|---|--:|--:|--:|",
        head.nodes,
        head.command,
        head.commit.as_ref().map(|commit| format!(", commit {commit},")).unwrap_or_default(),
        machine(),
        head.rounds,
    );
    for Planned { cluster, what, peers, whole, .. } in planned {
        let _ = writeln!(
            out,
            "| {cluster} | {what} | {peers} | {} | {} |",
            times(whole, 1e3),
            goal(whole, WHOLE, "50")
        );
    }
    let _ = writeln!(
        out,
        "\n## The same after one object has changed\n\n\
         From the new snapshot to the new plan. *All of it* is what the whole plan takes in its place.\n\n\
         | cluster | planned | what changed | again, ms | of all of it | goal |\n|---|---|---|--:|--:|--:|"
    );
    for Planned { cluster, what, whole, again, .. } in planned {
        for (change, took) in again {
            let of = middle(took) / middle(whole);
            let _ = writeln!(
                out,
                "| {cluster} | {what} | {} | {} | {of:.2} | {} |",
                change.title(),
                times(took, 1e3),
                goal(took, AGAIN, "1"),
            );
        }
    }
    let _ = writeln!(
        out,
        "\n## Selectors\n\n| characters | to parse, µs | to ask, against 21 labels, µs |\n|--:|--:|--:|"
    );
    for Selected { characters, parse, matches } in selectors {
        let _ = writeln!(out, "| {characters} | {} | {} |", times(parse, 1e6), times(matches, 1e6));
    }
    let _ = writeln!(out, "\n## The first snapshot\n\n| from | objects | ms | goal |\n|---|--:|--:|--:|");
    for First { what, objects, times: took } in first {
        let _ =
            writeln!(out, "| {what} | {objects} | {} | {} |", times(took, 1e3), goal(took, FIRST, "1000"));
    }
    out
}

fn middle(times: &[f64]) -> f64 {
    median(times.iter().copied()).unwrap_or(f64::NAN)
}

fn times(times: &[f64], unit: f64) -> String {
    let least = times.iter().copied().fold(f64::INFINITY, f64::min);
    let most = times.iter().copied().fold(0.0, f64::max);
    let figure = |seconds: f64| format!("{:.3}", seconds * unit);
    format!("{} ({}–{})", figure(middle(times)), figure(least), figure(most))
}

fn goal(times: &[f64], seconds: f64, text: &str) -> String {
    if middle(times) <= seconds { format!("{text} ✓") } else { format!("**{text} missed**") }
}
