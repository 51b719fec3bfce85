//! What it costs to plan a node among thousands: all of it, and again after one object has changed; and how long it takes
//! until all objects are read for the first time.

mod changes;
mod clusters;
mod first;
mod report;

use std::{fs, hint::black_box, path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use manx_resources::{Kind, Planner, Selector, Snapshot, collect, plan};

use changes::Change;
use clusters::{CLUSTERS, Cluster, node_name};

#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Nodes in each cluster
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u16).range(200..=50_000))]
    nodes: u16,
    /// How often each figure is measured
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Where the page goes [default: only to the terminal]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// What the page names as the command that made it
    #[arg(long, value_name = "TEXT", hide = true)]
    made_by: Option<String>,
    /// What the page names as the commit that was built
    #[arg(long, value_name = "TEXT", hide = true)]
    commit: Option<String>,
}

/// Seconds, one of each round.
type Times = Vec<f64>;

/// What planning one node of a cluster costs.
#[derive(Debug)]
struct Planned {
    cluster: &'static str,
    what: &'static str,
    peers: usize,
    whole: Times,
    again: Vec<(Change, Times)>,
}

/// What a selector costs.
#[derive(Debug)]
struct Selected {
    characters: usize,
    parse: Times,
    matches: Times,
}

pub fn run(args: &PlanArgs) -> Result<()> {
    ensure!(nix::unistd::Uid::effective().is_root(), "it makes a network namespace for etcd: run it as root");
    crate::take_precedence();
    let (nodes, rounds) = (usize::from(args.nodes), usize::from(args.rounds));
    let mut planned = Vec::new();
    for cluster in &CLUSTERS {
        println!("{}", cluster.title);
        let snapshot = snapshot(&cluster.documents(nodes))?;
        for (number, what) in cluster.planned {
            planned.push(measure(cluster, what, *number, &snapshot, rounds)?);
        }
    }
    println!("selectors");
    let selectors = selectors(rounds)?;
    println!("first snapshots");
    let first = first::measure(&clusters::RACKS, nodes, rounds.div_ceil(5))?;
    let head = report::Head {
        command: args.made_by.clone().unwrap_or_else(|| std::env::args().collect::<Vec<_>>().join(" ")),
        commit: args.commit.clone(),
        nodes,
        rounds,
    };
    let page = report::markdown(&head, &planned, &selectors, &first);
    match &args.output {
        Some(path) => {
            fs::write(path, page).with_context(|| format!("{}", path.display()))?;
            println!("\nwritten to {}", path.display());
        }
        None => println!("\n{page}"),
    }
    Ok(())
}

fn snapshot(text: &str) -> Result<Snapshot> {
    let collected = collect([("cluster.yaml", text)]);
    if let Some(problem) = collected.problems.first() {
        anyhow::bail!("{problem}");
    }
    Ok(collected.snapshot)
}

/// Puts what the text says into a copy.
fn with(snapshot: &Snapshot, text: &str) -> Result<Snapshot> {
    let said = self::snapshot(text)?;
    let mut copy = snapshot.clone();
    for kind in Kind::ALL {
        said.of_kind(kind).into_iter().for_each(|resource| copy.insert(resource));
    }
    Ok(copy)
}

fn measure(
    cluster: &Cluster,
    what: &'static str,
    number: usize,
    snapshot: &Snapshot,
    rounds: usize,
) -> Result<Planned> {
    let name = node_name(number);
    let mut whole = Times::new();
    let mut peers = 0;
    for _ in 0..rounds {
        let start = Instant::now();
        let planned = plan(snapshot, &name)?;
        whole.push(start.elapsed().as_secs_f64());
        peers = planned.peers.len();
        black_box(planned);
    }
    let mut again = Vec::new();
    for change in cluster.changes() {
        let mut planner = Planner::new(name.clone());
        let before = Arc::new(snapshot.clone());
        planner.plan(&before)?;
        let mut times = Times::new();
        for round in 0..rounds {
            // There and back again, so that each round changes something.
            let now = match round % 2 {
                0 => Arc::new(with(snapshot, &change.text(cluster))?),
                _ => before.clone(),
            };
            let start = Instant::now();
            let planned = planner.plan(&now)?;
            times.push(start.elapsed().as_secs_f64());
            ensure!(*planned == plan(&now, &name)?, "{}: the plan differs", change.title());
        }
        again.push((change, times));
    }
    Ok(Planned { cluster: cluster.title, what, peers, whole, again })
}

/// Parsed and asked as often as makes the clock's own step small.
const OFTEN: u32 = 1_000;

fn selectors(rounds: usize) -> Result<Vec<Selected>> {
    let mut long = String::from("has(rack)");
    while long.len() < 1_000 {
        long.push_str(&format!(" && zone-{} not in {{'a', 'b'}}", long.len()));
    }
    while long.len() < 1_024 {
        long.push(' ');
    }
    let nested = format!("{}has(rack){}", "(".repeat(60), ")".repeat(60));
    let labels = (0..20).map(|number| (format!("label-{number}"), "value".to_owned()));
    let labels = labels.chain([("rack".to_owned(), "1".to_owned())]).collect();
    let mut selected = Vec::new();
    for text in ["rack == '1'".to_owned(), nested, long] {
        let selector = Selector::parse(&text)?;
        let (mut parse, mut matches) = (Times::new(), Times::new());
        for _ in 0..rounds {
            let start = Instant::now();
            for _ in 0..OFTEN {
                black_box(Selector::parse(black_box(&text)))?;
            }
            parse.push(start.elapsed().as_secs_f64() / f64::from(OFTEN));
            let start = Instant::now();
            for _ in 0..OFTEN {
                ensure!(black_box(&selector).matches(black_box(&labels)), "{text} does not match");
            }
            matches.push(start.elapsed().as_secs_f64() / f64::from(OFTEN));
        }
        selected.push(Selected { characters: text.chars().count(), parse, matches });
    }
    Ok(selected)
}
