//! `manxctl plan`: what a node would do, or all of them, from files or from the datastore, before anybody does it; and how
//! that differs from what runs.

mod all;
mod diff;

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use manx_datastore::{Datastore, OpenError};
use manx_net::Prefix;
use manx_resources::{
    Change, CommunityPlan, Dial, FastPathPlan, ForInterfaces, Multipath, NextHopMode, NodePlan, PeerKind,
    PeerPlan, PoolPlan, PoolWrite, Problem, RangeAs, RangePlan, Reply, Snapshot, SourceCheck, SpeakerPlan,
};

use serde::Serialize;
use serde_json::Value;

use crate::{client, input, output, table};

/// The plan differs from what runs; 1 is that one of them is not to be had, 2 a command line that makes no sense.
const DIFFERS: u8 = 3;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  manxctl plan --node kw01
  manxctl plan --node kw01 -f new/   # what these files would do, before anybody does it
  manxctl plan --diff -f new/        # what would change on this node if these files were applied
  manxctl plan --diff --all -f new/  # which sessions would come and go, and who would be cut off
  manxctl plan --all                 # every node, a line each

Exit code: 0; with --diff 3 where something would change.")]
pub struct Args {
    /// The name of the node's Node resource; without it all nodes
    #[arg(long, env = "MANX_NODE_NAME", hide_env_values = true, value_name = "NAME")]
    node: Option<String>,

    /// All nodes, though MANX_NODE_NAME is set
    #[arg(long)]
    all: bool,

    /// Only what differs from the plan that the manxd of this node runs, with what becomes of its sessions and of the
    /// prefixes that it has a path to; with --all what becomes of the sessions of all nodes
    #[arg(long)]
    diff: bool,

    /// A file, a directory of files, or - for standard input, instead of the datastore; with --diff on top of it, as apply
    /// would have it; may be given several times
    #[arg(short, long = "filename", value_name = "FILE")]
    filename: Vec<PathBuf>,

    /// The plan as JSON, for programs
    #[arg(short, long, value_name = "FORMAT", value_parser = ["json"])]
    output: Option<String>,
}

pub fn run(
    args: &Args,
    datastore: &dyn Fn() -> Result<Datastore, OpenError>,
    socket: &Path,
) -> anyhow::Result<ExitCode> {
    if args.diff {
        let (after, before, problems) = input::applied(&args.filename, datastore)?;
        refuse_errors(&problems)?;
        return if args.all { diff_all(args, &before, &after) } else { diff(args, &after, socket) };
    }
    let (snapshot, problems) = input::snapshot(&args.filename, datastore)?;
    refuse_errors(&problems)?;
    let text = match args.node.as_ref().filter(|_| !args.all) {
        Some(node) => {
            let plan = manx_resources::plan(&snapshot, node)?;
            if args.output.is_some() { json(&plan)? } else { render(&plan) }
        }
        None => {
            let plans = manx_resources::plan_all(&snapshot);
            if args.output.is_some() { json(&plans)? } else { all::render(&plans) }
        }
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(value)?))
}

fn refuse_errors(problems: &[Problem]) -> anyhow::Result<()> {
    output::problems(problems);
    anyhow::ensure!(!problems.iter().any(Problem::is_error), "there is no plan while there are errors");
    Ok(())
}

fn diff(args: &Args, snapshot: &Snapshot, socket: &Path) -> anyhow::Result<ExitCode> {
    let runs: Value = client::ask(socket, manx_api::path::PLAN)?;
    let of = runs.get("node").and_then(Value::as_str).unwrap_or_default();
    if let Some(node) = args.node.as_ref().filter(|node| *node != of) {
        anyhow::bail!(
            "the manxd of this node is Node/{of}'s, not Node/{node}'s; ask on that node, leave --node out, or take --all, \
             which asks no manxd"
        );
    }
    let planned = serde_json::to_value(manx_resources::plan(snapshot, of)?)?;
    let differences = diff::differences(&runs, &planned);
    let routes: manx_api::Routes = client::ask(socket, manx_api::path::ROUTES)?;
    let has = |prefix: &Prefix| {
        routes
            .routes
            .iter()
            .any(|route| route.prefix == *prefix && route.bgp.as_ref().is_some_and(|bgp| !bgp.originated))
    };
    let lost = manx_resources::unreached(snapshot, of).into_iter();
    let lost = lost.map(|(node, blocks)| (node, blocks.into_iter().filter(has).collect::<Vec<_>>()));
    let found = diff::NodeDifference {
        sessions: diff::sessions(of, &runs, &planned),
        without_path: lost.filter(|(_, blocks)| !blocks.is_empty()).collect(),
        node: of.to_owned(),
        differences,
    };
    output::print(&if args.output.is_some() { json(&found)? } else { diff::render(&found) })?;
    Ok(if found.differences.is_empty() { ExitCode::SUCCESS } else { DIFFERS.into() })
}

/// What would become of the sessions of all nodes. No manxd is asked.
fn diff_all(args: &Args, before: &Snapshot, after: &Snapshot) -> anyhow::Result<ExitCode> {
    let change = manx_resources::change(before, after);
    output::print(&if args.output.is_some() { json(&change)? } else { all::render_change(&change) })?;
    Ok(if change == Change::default() { ExitCode::SUCCESS } else { DIFFERS.into() })
}

fn render(plan: &NodePlan) -> String {
    let mut text = format!("Node {}, AS {}, router ID {}", plan.node, plan.as_number, plan.router_id);
    if let Some(cluster_id) = plan.cluster_id {
        // Writing to a String cannot fail; so below.
        let _ = write!(text, ", route reflector of cluster {cluster_id}");
    }
    let _ = write!(text, ", listens on port {}", plan.listen_port);
    if !plan.listen_addresses.is_empty() {
        let addresses: Vec<String> = plan.listen_addresses.iter().map(ToString::to_string).collect();
        let _ = write!(text, " of {}", addresses.join(" and "));
    }
    text.push('\n');
    for line in speaker(&plan.speaker).into_iter().chain(fast_path(plan)) {
        let _ = writeln!(text, "{line}");
    }
    text.push('\n');
    if plan.peers.is_empty() && plan.ranges.is_empty() {
        text.push_str("No peers.\n");
    } else {
        let rows: Vec<_> =
            plan.peers.iter().map(|of| peer(of)).chain(plan.ranges.iter().map(range)).collect();
        text.push_str(&table::trimmed(&["PEER", "AS", "PEER TYPE", "DIALS", "SETTINGS", "RULE"], &rows));
    }
    text.push('\n');
    if plan.blocks.is_empty() {
        text.push_str("No own blocks.\n");
    } else {
        let blocks: Vec<String> = plan.blocks.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "Own blocks: {}", blocks.join(", "));
    }
    for CommunityPlan { cidr, communities } in &plan.communities {
        let communities: Vec<String> = communities.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "Routes within {cidr} get the communities {}", communities.join(", "));
    }
    if !plan.announced_services.is_empty() {
        let services: Vec<String> = plan.announced_services.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "Announced for services: {}", services.join(", "));
    }
    if !plan.pools.is_empty() {
        text.push('\n');
        let rows: Vec<_> = plan.pools.iter().map(pool).collect();
        text.push_str(&table::trimmed(&["POOL", "CIDR", "BLOCKS", "EXPORTED", "ROUTES WRITTEN"], &rows));
        plan.pools.iter().flat_map(blackholes).for_each(|line| text.push_str(&line));
    }
    if !plan.warnings.is_empty() {
        text.push('\n');
        for warning in &plan.warnings {
            let _ = writeln!(text, "Warning: {warning}");
        }
    }
    trim_line_ends(&text)
}

/// What is not as it is for every node, a line each.
fn speaker(speaker: &SpeakerPlan) -> Vec<String> {
    let mut lines = Vec::new();
    if speaker.graceful_shutdown {
        lines.push("Leaving: asks everybody to go another way (GRACEFUL_SHUTDOWN)".to_owned());
    }
    let Multipath { ebgp, ibgp } = speaker.multipath;
    if (ebgp, ibgp) != (1, 1) {
        lines.push(format!("Multipath: up to {ebgp} external and {ibgp} internal paths together"));
    }
    for (family, priority) in
        [("IPv4", speaker.ipv4_normal_route_priority), ("IPv6", speaker.ipv6_normal_route_priority)]
    {
        lines.extend(priority.map(|priority| format!("Own {family} routes have priority {priority}")));
    }
    if let Some(seconds) = speaker.long_lived_restart_time {
        lines.push(format!("Long-lived restart time: {seconds} s"));
    }
    if speaker.restart_after_notification {
        lines.push("Routes outlive a NOTIFICATION (RFC 8538)".to_owned());
    }
    if speaker.ebgp_requires_policy {
        lines.push("Peers of other ASes need filters (RFC 8212)".to_owned());
    }
    if let Some(paths) = speaker.max_paths {
        lines.push(format!("At most {paths} paths of all peers together"));
    }
    if (speaker.close_after, speaker.hold_routes) != (30, 300) {
        lines.push(format!(
            "Sessions that are no longer wanted end after {} s at most, and routes without another way are held for {} s",
            speaker.close_after, speaker.hold_routes
        ));
    }
    if !speaker.client_to_client {
        lines.push("Clients do not hear of one another".to_owned());
    }
    lines
}

/// What the resources say of it, a line each.
fn fast_path(plan: &NodePlan) -> Vec<String> {
    fn list<T>(entries: &[ForInterfaces<T>], name: fn(&T) -> &'static str) -> String {
        let entries = entries.iter().map(|entry| format!("{}={}", entry.pattern, name(&entry.setting)));
        entries.collect::<Vec<_>>().join(", ")
    }
    let FastPathPlan { whole, interfaces, source_check, source_check_interfaces } = &plan.fast_path;
    let mut lines = Vec::new();
    let mut settings: Vec<String> = whole.iter().map(|setting| setting.name().to_owned()).collect();
    let pools = plan.pools.iter().filter_map(|pool| Some((pool, pool.fast_path?)));
    settings.extend(pools.map(|(pool, setting)| format!("pool {} {}", pool.name, setting.name())));
    if !interfaces.is_empty() {
        settings.push(format!("interfaces {}", list(interfaces, |setting| setting.name())));
    }
    if !settings.is_empty() {
        lines.push(format!("Fast path: {}", settings.join("; ")));
    }
    if *source_check != SourceCheck::Strict || !source_check_interfaces.is_empty() {
        let mut line = format!("Source check of pods: {}", source_check.name());
        if !source_check_interfaces.is_empty() {
            let list = list(source_check_interfaces, |setting| setting.name());
            // Writing to a String cannot fail.
            let _ = write!(line, "; interfaces {list}");
        }
        lines.push(line);
    }
    lines
}

/// Peers by range, as one row.
fn range(range: &RangePlan) -> Vec<String> {
    let as_numbers = match &range.as_numbers {
        RangeAs::External => "external".to_owned(),
        RangeAs::OneOf(numbers) => numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    };
    let mut row = peer(&range.settings);
    for (cell, text) in row.iter_mut().zip([format!("{} (up to {})", range.range, range.limit), as_numbers]) {
        *cell = text;
    }
    row
}

fn peer(peer: &PeerPlan) -> Vec<String> {
    let address = match (peer.port, peer.address.is_ipv4()) {
        (179, _) => peer.address.to_string(),
        (port, true) => format!("{}:{port}", peer.address),
        (port, false) => format!("[{}]:{port}", peer.address),
    };
    let kind = match peer.kind {
        PeerKind::Mesh => "node-to-node mesh",
        PeerKind::Global => "global",
        PeerKind::Node => "node specific",
        PeerKind::LocalWorkload => "local workload",
    };
    let dials = match peer.dial {
        Dial::First => "at once",
        Dial::Later => "after 5 s",
        Dial::Never => "never",
    };
    vec![
        address,
        peer.as_number.to_string(),
        kind.to_owned(),
        dials.to_owned(),
        settings(peer),
        peer.resource.to_string(),
    ]
}

/// What is not as it is for every peer.
fn settings(peer: &PeerPlan) -> String {
    let mut words = Vec::new();
    if peer.rr_client {
        words.push("client".to_owned());
    }
    words.extend(peer.local_as_number.map(|asn| format!("local AS {asn}")));
    match peer.next_hop {
        NextHopMode::Auto => {}
        NextHopMode::SelfAddress => words.push("next hop self".to_owned()),
        NextHopMode::Keep => words.push("next hop keep".to_owned()),
    }
    if peer.source_address.is_none() {
        words.push("any source address".to_owned());
    }
    words.extend(peer.reachable_by.map(|router| format!("reached by {router}")));
    words.extend(peer.ttl_security.map(|hops| format!("TTL security {hops}")));
    if peer.password_from.is_some() {
        words.push("password".to_owned());
    }
    words.extend(peer.restart_time.map(|seconds| format!("restart time {seconds} s")));
    words.extend(peer.keepalive_time.map(|seconds| format!("keepalive {seconds} s")));
    if peer.allow_local_as > 0 {
        words.push(format!("own AS allowed {} times", peer.allow_local_as));
    }
    if !peer.filters.is_empty() {
        words.push(format!("filters {}", peer.filters.join(" ")));
    }
    words.extend(extensions(peer));
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn extensions(peer: &PeerPlan) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(max) = peer.max_prefixes {
        let accepted = if max.accepted_only { " accepted" } else { "" };
        words.push(format!("at most {}{accepted} prefixes", max.limit));
    }
    if !peer.blackholes.is_empty() {
        let prefixes: Vec<String> = peer.blackholes.iter().map(ToString::to_string).collect();
        words.push(format!("blackholes in {}", prefixes.join(" ")));
    }
    match (peer.add_path.receive, peer.add_path.send) {
        (false, 0) => {}
        (true, 0) => words.push("takes several paths".to_owned()),
        (false, send) => words.push(format!("sends {send} paths")),
        (true, send) => words.push(format!("takes several paths, sends {send}")),
    }
    if let Some(role) = peer.local_role {
        let strict = if peer.strict_role { " (strict)" } else { "" };
        words.push(format!("role {}{strict}", role.name()));
    }
    if peer.extended_next_hop {
        words.push("IPv6 next hops for IPv4".to_owned());
    }
    if let Some(bfd) = peer.bfd {
        let hops = if bfd.multihop { " over several hops" } else { "" };
        words.push(format!("BFD {} ms x {}{hops}", bfd.interval, bfd.multiplier));
    }
    words
}

fn pool(pool: &PoolPlan) -> Vec<String> {
    let written = match pool.write {
        PoolWrite::Always => "all",
        PoolWrite::OnLinkOnly => "next hop on-link only",
        PoolWrite::Never => "none",
    };
    let exported = if pool.disable_bgp_export { "no" } else { "yes" };
    let blocks = format!("/{}", pool.block_size);
    vec![pool.name.clone(), pool.cidr.to_string(), blocks, exported.to_owned(), written.to_owned()]
}

/// What becomes of packets to the pool's addresses that nobody has, where it is not Calico's way; a line each.
fn blackholes(pool: &PoolPlan) -> Vec<String> {
    let word = |reply| match reply {
        Reply::Drop => "dropped",
        Reply::Reject => "answered with ICMP unreachable",
    };
    let mut lines = Vec::new();
    if let Some(reply) = pool.unallocated_blocks {
        lines.push(format!("{}: packets to addresses in no block are {}\n", pool.name, word(reply)));
    }
    if pool.unassigned_addresses == Reply::Reject {
        let what = "packets to addresses of own blocks that no pod has";
        lines.push(format!("{}: {what} are {}\n", pool.name, word(Reply::Reject)));
    }
    lines
}

fn trim_line_ends(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
