//! All nodes' plans, a line each: whom they peer with is told by the rules that make it so.

use std::{collections::BTreeMap, fmt::Write};

use manx_resources::{Change, NodePlan, Warning};

use crate::table;

pub fn render(plans: &[NodePlan]) -> String {
    let rows: Vec<_> = plans.iter().map(row).collect();
    let mut text = table::columns(&["NODE", "AS", "REFLECTOR OF", "PEERS", "BY", "BLOCKS"], &rows);
    let mut warnings: BTreeMap<&Warning, Vec<&str>> = BTreeMap::new();
    for plan in plans {
        for warning in &plan.warnings {
            warnings.entry(warning).or_default().push(&plan.node);
        }
    }
    if !warnings.is_empty() {
        text.push('\n');
    }
    for (warning, nodes) in warnings {
        let of = match nodes.as_slice() {
            [node] => (*node).to_owned(),
            many if many.len() == plans.len() => "all nodes".to_owned(),
            many => format!("{} nodes", many.len()),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Warning ({of}): {warning}");
    }
    text.push_str(
        "\nOne node's peers: manxctl plan --node NAME. What is wrong with all together: manxctl lint.\n",
    );
    text
}

/// The sessions that would come and go, and who would be cut off.
pub fn render_change(change: &Change) -> String {
    if *change == Change::default() {
        return "No session would change.\n".to_owned();
    }
    let row = |of: &manx_resources::NodeSessions| {
        let counts = [of.kept, of.anew, of.added, of.closed].map(|count| count.to_string());
        std::iter::once(of.node.clone()).chain(counts).collect()
    };
    let rows: Vec<Vec<String>> = change.sessions.iter().map(row).collect();
    let mut text = table::columns(&["NODE", "KEPT", "MADE ANEW", "ADDED", "CLOSED"], &rows);
    text.push('\n');
    if change.cut.is_empty() {
        text.push_str("No node would be without a path to another that it has a path to now.\n");
    }
    for cut in &change.cut {
        let _ = writeln!(text, "Warning: {cut}");
    }
    text
}

fn row(plan: &NodePlan) -> Vec<String> {
    let mut rules: BTreeMap<String, usize> = BTreeMap::new();
    for peer in plan.every_peer() {
        *rules.entry(peer.resource.to_string()).or_default() += 1;
    }
    let rules: Vec<String> = rules.into_iter().map(|(rule, count)| format!("{count} {rule}")).collect();
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    vec![
        plan.node.clone(),
        plan.as_number.to_string(),
        plan.cluster_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        (plan.peers.len() + plan.ranges.len()).to_string(),
        or_none(rules.join(", ")),
        plan.blocks.len().to_string(),
    ]
}
