//! What Felix does to the same routes and interfaces, as far as its settings say.

use super::{Findings, Rule};
use crate::{Snapshot, Warning, plan::felix_beside};

pub(super) fn beside(snapshot: &Snapshot, found: &mut Findings) {
    let named = snapshot.felix_configurations().filter_map(|object| object.name().strip_prefix("node."));
    let mut said: Vec<(Warning, Vec<String>)> =
        felix_beside(snapshot, None).into_iter().map(|warning| (warning, Vec::new())).collect();
    // What a node has of its own; what it has of the cluster's is said already.
    for node in named.filter(|node| snapshot.node(node).is_some()) {
        for warning in felix_beside(snapshot, Some(node)) {
            if !said.iter().any(|(known, _)| *known == warning) {
                said.push((warning, vec![node.to_owned()]));
            }
        }
    }
    for (warning, nodes) in said {
        let (rule, key) = match &warning {
            Warning::FelixBpf(key) => (Rule::FelixBpf, key),
            Warning::FelixRoutes(key) => (Rule::FelixRoutes, key),
            Warning::PriorityMismatch { felix, .. } => (Rule::PriorityMismatch, felix),
            _ => continue,
        };
        let key = key.clone();
        let text = warning.to_string();
        // The sentence names its resource, which a finding does by itself, and ends in the remedy.
        let text = text.strip_prefix(&format!("{key} ")).unwrap_or(&text);
        let (message, remedy) = text.rsplit_once("; ").unwrap_or((text, ""));
        found.warn(rule, vec![key], nodes, message.to_owned(), remedy.to_owned());
    }
}
