//! The results as Markdown: for each part how its figures were made, the goals beside what was reached, and every
//! figure with its spread.

use std::fmt::Write;

use super::{
    Results, changes, ends,
    ground::Ground,
    lookup, packets,
    sinks::{self, Who},
};
use crate::{report::machine, run::median};

#[derive(Debug)]
pub struct Head {
    pub command: String,
    pub commit: Option<String>,
    /// The share of the machine that other processes took.
    pub others: f64,
    pub rounds: usize,
}

pub fn markdown(head: &Head, results: &Results) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "# Dataplane: Manx and the kernel side by side\n\n\
         Made by `{}`{} on {}. Other processes took {:.0} % of the machine meanwhile. What counts are ratios: both \
         sides took turns in each of {} rounds. Figures are medians (least to most); a ratio is the median of the \
         rounds' ratios.",
        head.command,
        head.commit.as_ref().map(|commit| format!(", commit {commit},")).unwrap_or_default(),
        machine(),
        head.others * 100.0,
        head.rounds,
    );
    if let Some(packets) = &results.packets {
        packet_costs(&mut out, packets);
    }
    if let Some(ends) = &results.ends {
        two_ends(&mut out, ends);
    }
    if let Some(lookups) = &results.lookups {
        lookup_costs(&mut out, lookups);
    }
    if let Some(sinks) = &results.sinks {
        sink_rates(&mut out, sinks);
    }
    if let Some(changes) = &results.changes {
        route_changes(&mut out, changes);
    }
    out
}

const PACKETS: &str = "
## The cost of a packet

UDP frames of 80 octets, 256 flows, either between two addresses (the kernel's list processing then takes the route of
the packet before) or each with another block's; made in the kernel (BPF_PROG_TEST_RUN with live frames, 64 at a time). What
comes from the wire is sent by the far end of a veth and received by NAPI, as from a NIC; what comes from a pod is a packet
of the pod's that its veth carries, as from a process. At the way's end a TC program counts and ends them; all of it runs on
one CPU within the time that the kernel measures. Every frame is accounted for: a round in which one is missing fails. The
injector's own cost, which is taken off both sides, is that of frames that an XDP program ends in the receiving driver,
or that a TC program ends at the host's side of a pod's veth. Manx has every check on: source, counters, headers, MTU, and
where netfilter tracks, the guard. A thousand routes to other blocks are in the FIB and in the maps. *Carried* is the share
of frames that Manx's programs redirected or dropped; the stack has the others. *Redirect alone* is a program in the place of
Manx's that knows where everything goes and neither checks nor counts: no fast path by the same helpers costs less.
";

/// The least ratio that is good enough, where there is one.
fn packet_goal(case: &packets::Case) -> Option<f64> {
    use packets::Way;
    Some(match (case.way, case.ground) {
        (
            Way::IntoPod | Way::IntoPodFromMany | Way::OutOfPod | Way::OutOfPodToMany,
            Ground::Rules | Ground::Accepted,
        ) => 0.35,
        (Way::IntoPod | Way::IntoPodFromMany, Ground::Plain) => 0.5,
        (Way::OutOfPod | Way::OutOfPodToMany, Ground::Plain) => 0.65,
        (Way::BlackholeExplicit, Ground::Plain) => 0.1,
        (Way::BlackholeOwn, Ground::Plain) => 0.4,
        _ => return None,
    })
}

fn packet_costs(out: &mut String, results: &packets::Results) {
    out.push_str(PACKETS);
    out.push_str(
        "\n| netfilter | way | injector ns | kernel ns | redirect alone ns | its ratio | Manx ns | ratio | goal | carried |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for (case, costs) in results {
        let ratios = costs.ratios();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} % |",
            case.ground.title(),
            case.title(),
            whole(middle(&costs.injector)),
            spread(&costs.kernel, whole),
            spread(&costs.floor, whole),
            spread(&costs.floor_ratios(), ratio),
            spread(&costs.manx, whole),
            spread(&ratios, ratio),
            goal(packet_goal(case), middle(&ratios), |found, wanted| found <= wanted),
            costs.carried * 100.0,
        );
    }
}

const ENDS: &str = "
## From end to end

Two pods on one node, and two pods on two nodes; IPv4. The generator is `bench/src/dataplane/traffic.rs`: requests and
responses of one octet on one connection, client and server on one CPU; streams and datagrams with the client on
one CPU and the server on the other; what counts is what the server has read. The uplinks are macvlan devices, to which
Manx attaches by TC: native XDP on a veth takes segmentation offload from its peer, which no NIC does. A ratio above 1 is
better for rates, below 1 for times. *The redirect alone* is programs at the same places that know where everything goes:
no fast path does better on this machine.
";

fn end_goal(case: &ends::Case) -> Option<f64> {
    use ends::Figure;
    match case.figure {
        Figure::Responses => Some(1.1),
        Figure::OneStream | Figure::ManyStreams | Figure::Segments => Some(1.15),
        _ => None,
    }
}

fn two_ends(out: &mut String, results: &ends::Results) {
    out.push_str(ENDS);
    out.push_str(
        "\n| netfilter | path | figure | kernel | redirect alone | its ratio | Manx | ratio | goal |\n\
         |---|---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for (case, seen) in results {
        let by_kernel = |values: &[f64]| -> Vec<f64> {
            values.iter().zip(&seen.kernel).map(|(value, kernel)| value / kernel).collect()
        };
        let ratios = by_kernel(&seen.manx);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            case.ground.title(),
            case.path.title(),
            case.figure.title(),
            spread(&seen.kernel, number),
            spread(&seen.floor, number),
            spread(&by_kernel(&seen.floor), ratio),
            spread(&seen.manx, number),
            spread(&ratios, ratio),
            goal(end_goal(case), middle(&ratios), |found, wanted| found >= wanted),
        );
    }
}

const LOOKUPS: &str = "
## The cost of a lookup

32 lookups in one run of a program (BPF_PROG_TEST_RUN), for addresses that a generator makes within the program; its own
cost is taken off. Every lookup has to find a way; where all that lies outside of pools are ways, which nothing is carried by,
the index is not to ask for them. *Index* is the programs' own code: pool, index, and the trie where the
index says so; *trie* asks the LPM trie at once; *FIB* is `bpf_fib_lookup` without the neighbour. Random destinations lie in
all blocks, hot ones in 64. No address depends on an answer, so the processor may overlap lookups: this is cost in a row,
not latency.
";

/// Whether a figure has a goal, which, and whether it was reached.
fn lookup_goal(case: &lookup::Case, costs: &lookup::Costs) -> String {
    use lookup::Table;
    let (index, trie, fib) = (middle(&costs.index), middle(&costs.trie), middle(&costs.fib));
    let said = |text: String, reached: bool| {
        if reached { format!("{text} ✓") } else { format!("**{text} missed**") }
    };
    match (case.table, case.v6) {
        (Table::Blocks, false) if !case.hot => {
            let wanted = if case.blocks <= 1_000 { 20.0 } else { 40.0 };
            said(format!("≤ {wanted} ns"), index <= wanted)
        }
        (Table::Blocks, true) if !case.hot && case.blocks >= 1_000 => {
            said("≤ 0.4 of the trie".to_owned(), index <= 0.4 * trie)
        }
        (Table::Mixed | Table::Outside | Table::Elsewhere | Table::Unheeded, _) => {
            said("≤ FIB".to_owned(), index <= fib)
        }
        _ => String::new(),
    }
}

fn lookup_costs(out: &mut String, results: &lookup::Results) {
    out.push_str(LOOKUPS);
    out.push_str(
        "\n| family | table | blocks | routes | destinations | index ns | trie ns | FIB ns | goal |\n\
         |---|---|--:|--:|---|--:|--:|--:|---|\n",
    );
    for (case, costs) in results {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            if case.v6 { "IPv6" } else { "IPv4" },
            case.table.title(),
            case.blocks,
            costs.routes,
            if case.hot { "hot" } else { "random" },
            spread(&costs.index, number),
            spread(&costs.trie, whole),
            spread(&costs.fib, whole),
            lookup_goal(case, costs),
        );
    }
}

const SINKS: &str = "
## Into the sinks

IPv4 /26 routes, side by side in one pool, by one next hop; each run in a namespace of its own, from an empty table, taking
turns. Packed netlink is 64 messages in a send with an answer for the last, written by the benchmark itself. The daemons
get the routes from one iBGP peer, encoded before the clock starts; it runs from the first byte that the peer sends to
the last route's event from the kernel's FIB (looked at every 4 ms), and for Manx until its map has them all too. For a
million routes the maps are made larger (`--map-size`). Memory is what the kernel accounts for all maps of Manx (`bytes_memlock`).
";

fn sink_rates(out: &mut String, results: &sinks::Results) {
    out.push_str(SINKS);
    out.push_str(
        "\n| routes | what | seconds | thousand routes/s | by packed netlink | goal |\n|--:|---|--:|--:|--:|--:|\n",
    );
    for ((count, who), times) in &results.times {
        let alone = results.times.get(&(*count, Who::Netlink)).map_or(0.0, |times| middle(times));
        let share = middle(times) / alone;
        let wanted = (*who == Who::Manx && *count >= 100_000).then_some(1.4);
        let _ = writeln!(
            out,
            "| {count} | {} | {} | {} | {} | {} |",
            who.title(),
            spread(times, seconds),
            whole(f64::from(*count) / middle(times) / 1e3),
            ratio(share),
            goal(wanted, share, |found, wanted| found <= wanted),
        );
    }
    out.push('\n');
    for (count, (without, with)) in &results.memory {
        let _ = writeln!(
            out,
            "- {count} routes: {} bytes a route in the maps, beside {:.1} MB that they take empty",
            with.saturating_sub(*without) / u64::from((*count).max(1)),
            *without as f64 / 1e6,
        );
    }
}

const CHANGES: &str = "
## When routes change

IPv4 /26 routes from one iBGP peer, as above, all in FIB and map. *One route*: the peer withdraws a route and announces it
again, one after the other, spread over the table; the time is from the peer's write to the event from the FIB, and for
Manx until the pinned map of routes says the same. *All next hops*: the peer announces all routes anew by another next hop;
the time ends when FIB and map have it, beside packed netlink that replaces the same routes. Meanwhile another peer with a
hold time of 3 s notes how long Manx was silent (a keepalive is due every second), and the status that `manxctl node status`
asks for is asked again and again. *A new start*: manxd is killed and started again 1 s later, while a pod sends a datagram
every millisecond to an address behind a route; the peer announces all routes again but one. The time ends when this one has
gone from FIB and map; every other event of the FIB about a route of Manx's would be one too many.
";

fn route_changes(out: &mut String, results: &changes::Results) {
    out.push_str(CHANGES);
    let routes = results.routes;
    let _ = writeln!(
        out,
        "\n| {routes} routes stand | who | sinks | median ms | p99 ms |\n|---|---|---|--:|--:|"
    );
    for (place, what) in ["one route goes", "one route comes"].into_iter().enumerate() {
        for (who, flaps) in &results.flaps {
            let sinks = match who {
                Who::Manx => &[("FIB", &flaps.fib), ("FIB and map", &flaps.both)][..],
                _ => &[("FIB", &flaps.fib)],
            };
            for (sink, times) in sinks {
                let times = times.get(place).map(Vec::as_slice).unwrap_or_default();
                let (name, _) = who.title().split_once(',').unwrap_or((who.title(), ""));
                let _ = writeln!(
                    out,
                    "| {what} | {name} | {sink} | {:.3} | {:.3} |",
                    middle(times),
                    percentile(times, 0.99),
                );
            }
        }
    }
    let _ = writeln!(out, "\n| all next hops | seconds | by packed netlink |\n|---|--:|--:|");
    let alone = results.moves.get(&Who::Netlink).map_or(0.0, |times| middle(times));
    for (who, times) in &results.moves {
        let share = middle(times) / alone;
        let _ = writeln!(out, "| {} | {} | {} |", who.title(), spread(times, seconds), ratio(share));
    }
    let _ = writeln!(
        out,
        "\nMeanwhile Manx was silent towards a peer for {} s at the most, and a status took {} s at the most.",
        spread(&results.silences, seconds),
        spread(&results.answers, seconds),
    );
    let _ = writeln!(
        out,
        "\n| a new start of manxd with {routes} routes | seconds | events of other routes | datagrams sent | lost |\n\
         |---|--:|--:|--:|--:|"
    );
    for (round, restart) in results.restarts.iter().enumerate() {
        let changes::Restart { seconds: took, events, sent, lost } = restart;
        let _ = writeln!(out, "| round {} | {} | {events} | {sent} | {lost} |", round + 1, seconds(*took));
    }
}

/// The value that such a share of all does not exceed.
fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // As many as there are at the most; a share of 0 is the least.
    let rank = (sorted.len() as f64 * share).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn seconds(value: f64) -> String {
    format!("{value:.3}")
}

fn goal(wanted: Option<f64>, found: f64, reached: fn(f64, f64) -> bool) -> String {
    match wanted {
        Some(wanted) if reached(found, wanted) => format!("{wanted} ✓"),
        Some(wanted) => format!("**{wanted} missed**"),
        None => String::new(),
    }
}

fn middle(values: &[f64]) -> f64 {
    median(values.iter().copied()).unwrap_or_default()
}

fn spread(values: &[f64], show: fn(f64) -> String) -> String {
    let least = values.iter().copied().min_by(f64::total_cmp);
    let most = values.iter().copied().max_by(f64::total_cmp);
    match (least, most) {
        (Some(least), Some(most)) if values.len() > 1 => {
            format!("{} ({}–{})", show(middle(values)), show(least), show(most))
        }
        (Some(only), _) => show(only),
        _ => "–".to_owned(),
    }
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

fn number(value: f64) -> String {
    if value >= 100.0 { whole(value) } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::packets::{Case, Costs, Way};

    #[test]
    fn a_percentile_is_a_value_that_was_seen_and_that_few_exceed() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.99), 198.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
    }

    #[test]
    fn a_ratio_takes_the_injector_off_both_sides_and_a_missed_goal_is_said() {
        let case = Case { ground: Ground::Plain, way: Way::IntoPod, v6: false };
        let costs = |manx: f64| Costs {
            injector: vec![100.0, 100.0],
            kernel: vec![1100.0, 1100.0],
            manx: vec![manx, manx],
            floor: vec![300.0, 300.0],
            carried: 1.0,
        };
        let page = |manx| {
            let mut out = String::new();
            packet_costs(&mut out, &[(case, costs(manx))].into());
            out
        };
        assert!(page(500.0).contains("| 0.40 (0.40–0.40) | 0.5 ✓ | 100.0 % |"), "{}", page(500.0));
        assert!(page(500.0).contains("| 300 (300–300) | 0.20 (0.20–0.20) |"), "{}", page(500.0));
        assert!(page(900.0).contains("| **0.5 missed** |"), "{}", page(900.0));
    }
}
