//! How a plan differs from the one that runs: both in their JSON form, entry by entry and field by field.

use std::{collections::BTreeMap, fmt::Write};

use manx_net::Prefix;
use manx_resources::NodeSessions;
use serde::Serialize;
use serde_json::Value;

/// Lists of a plan, with the fields by which an entry is told from the others.
const LISTS: [(&str, &str, &[&str]); 3] =
    [("peers", "peer", &["address", "port"]), ("ranges", "range", &["range"]), ("pools", "pool", &["name"])];

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Such as `peer 10.0.0.1`; null where the field is the node's.
    pub of: Option<String>,
    /// Null where all of it is new, or gone.
    pub field: Option<String>,
    /// As it runs.
    pub runs: Value,
    /// As it would be.
    pub planned: Value,
}

/// How what one node would do differs from what it does.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDifference {
    pub node: String,
    pub differences: Vec<Difference>,
    pub sessions: NodeSessions,
    /// The blocks that this node has a path to, and would have none to any longer, by whose they are.
    pub without_path: BTreeMap<String, Vec<Prefix>>,
}

/// Fields of a peer that OPEN says, or that its socket has.
const ANEW: [&str; 10] = [
    "asNumber",
    "localAsNumber",
    "restartTime",
    "extendedNextHop",
    "localRole",
    "strictRole",
    "addPath",
    "sourceAddress",
    "ttlSecurity",
    "passwordFrom",
];

pub fn sessions(node: &str, runs: &Value, planned: &Value) -> NodeSessions {
    let (name, keys) = ("peers", &["address", "port"]);
    let (old, new) = (entries(runs, name, keys), entries(planned, name, keys));
    let differs = |old: &Value, new: &Value, fields: &[&str]| {
        fields.iter().any(|field| old.get(field) != new.get(field))
    };
    let all = differs(runs, planned, &["asNumber", "routerId"]);
    let mut of = NodeSessions { node: node.to_owned(), ..NodeSessions::default() };
    for (key, now) in &new {
        match old.get(key) {
            None => of.added += 1,
            Some(before) if all || differs(before, now, &ANEW) => of.anew += 1,
            Some(_) => of.kept += 1,
        }
    }
    of.closed = old.keys().filter(|key| !new.contains_key(*key)).count();
    of
}

pub fn differences(runs: &Value, planned: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    fields(None, runs, planned, &mut found, |field| LISTS.iter().any(|(list, ..)| *list == field));
    for (list, name, keys) in LISTS {
        let (old, new) = (entries(runs, list, keys), entries(planned, list, keys));
        let all: BTreeMap<&Vec<String>, ()> = old.keys().chain(new.keys()).map(|key| (key, ())).collect();
        for key in all.into_keys() {
            let of = format!("{name} {}", shown(key));
            match (old.get(key), new.get(key)) {
                (Some(old), Some(new)) => fields(Some(&of), old, new, &mut found, |_| false),
                (old, new) => found.push(Difference {
                    of: Some(of),
                    field: None,
                    runs: old.map(|old| (*old).clone()).unwrap_or_default(),
                    planned: new.map(|new| (*new).clone()).unwrap_or_default(),
                }),
            }
        }
    }
    found
}

fn fields(
    of: Option<&str>,
    runs: &Value,
    planned: &Value,
    found: &mut Vec<Difference>,
    skip: impl Fn(&str) -> bool,
) {
    let empty = serde_json::Map::new();
    let (old, new) = (runs.as_object().unwrap_or(&empty), planned.as_object().unwrap_or(&empty));
    let all: BTreeMap<&String, ()> = old.keys().chain(new.keys()).map(|key| (key, ())).collect();
    for field in all.into_keys().filter(|field| !skip(field)) {
        let (old, new) = (old.get(field).unwrap_or(&Value::Null), new.get(field).unwrap_or(&Value::Null));
        if old != new {
            found.push(Difference {
                of: of.map(str::to_owned),
                field: Some(field.clone()),
                runs: old.clone(),
                planned: new.clone(),
            });
        }
    }
}

fn entries<'p>(plan: &'p Value, list: &str, keys: &[&str]) -> BTreeMap<Vec<String>, &'p Value> {
    let entries = plan.get(list).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let key = |entry: &Value| keys.iter().map(|key| word(entry.get(*key).unwrap_or(&Value::Null))).collect();
    entries.iter().map(|entry| (key(entry), entry)).collect()
}

/// BGP's own port goes without saying.
fn shown(key: &[String]) -> String {
    match key {
        [address, port] if port != "179" => format!("{address} port {port}"),
        [first, ..] => first.clone(),
        [] => String::new(),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(entries) if entries.is_empty() => "none".to_owned(),
        Value::Array(entries) if entries.iter().all(|entry| !entry.is_object()) => {
            entries.iter().map(word).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// A line for each, with a sign in front as diff has it.
pub fn render(found: &NodeDifference) -> String {
    let NodeDifference { node, differences, sessions, without_path } = found;
    if differences.is_empty() {
        return format!("Node {node} runs what these resources say.\n");
    }
    let mut text = format!("Node {node} would change:\n");
    for Difference { of, field, runs, planned } in differences {
        // Writing to a String cannot fail.
        let _ = match (of, field) {
            (Some(of), None) if runs.is_null() => writeln!(text, "+ {of}{}", detail(planned)),
            (Some(of), None) => writeln!(text, "- {of}{}", detail(runs)),
            (of, field) => {
                let of = of.as_ref().map(|of| format!("{of}: ")).unwrap_or_default();
                let field = field.as_deref().unwrap_or_default();
                writeln!(text, "~ {of}{field} {} -> {}", word(runs), word(planned))
            }
        };
    }
    let NodeSessions { kept, anew, added, closed, .. } = sessions;
    let _ = writeln!(text, "Sessions: {kept} kept, {anew} made anew, {added} added, {closed} closed");
    if without_path.is_empty() {
        text.push_str("No block that this node has a path to would be without one.\n");
    }
    for (of, blocks) in without_path {
        let blocks: Vec<String> = blocks.iter().map(Prefix::to_string).collect();
        let _ = writeln!(text, "Warning: without a path would be {}, of {of}", blocks.join(", "));
    }
    text
}

/// What makes an entry recognised: a peer's AS and rule, a pool's prefix.
fn detail(entry: &Value) -> String {
    let entry = entry.get("settings").unwrap_or(entry);
    let mut text = String::new();
    if let Some(number) = entry.get("asNumber") {
        let _ = write!(text, " AS {number}");
    }
    if let Some(cidr) = entry.get("cidr").and_then(Value::as_str) {
        let _ = write!(text, " {cidr}");
    }
    if let Some(rule) = entry.get("resource").and_then(Value::as_str) {
        let _ = write!(text, " by {rule}");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan() -> Value {
        json!({
            "node": "a", "asNumber": 64512, "blocks": ["172.16.8.0/26"],
            "peers": [
                {"address": "10.0.0.2", "port": 179, "asNumber": 64512, "rrClient": false, "resource": "BGPPeer/p"},
                {"address": "10.0.0.3", "port": 1790, "asNumber": 64513, "rrClient": false, "resource": "BGPPeer/q"},
            ],
            "ranges": [], "pools": [{"name": "pods", "cidr": "172.16.0.0/16", "disabled": false}], "warnings": [],
        })
    }

    fn found(new: &Value) -> NodeDifference {
        NodeDifference {
            node: "a".into(),
            differences: differences(&plan(), new),
            sessions: sessions("a", &plan(), new),
            without_path: BTreeMap::new(),
        }
    }

    #[test]
    fn equal_plans_do_not_differ() {
        assert_eq!(differences(&plan(), &plan()), []);
        assert_eq!(render(&found(&plan())), "Node a runs what these resources say.\n");
    }

    #[test]
    fn each_difference_is_a_line() {
        let mut new = plan();
        new["asNumber"] = json!(64513);
        new["blocks"] = json!(["172.16.8.0/26", "172.16.8.64/26"]);
        new["peers"][0]["rrClient"] = json!(true);
        new["peers"][1]["address"] = json!("10.0.0.4");
        new["pools"] = json!([]);
        assert_eq!(
            render(&found(&new)),
            "Node a would change:\n\
             ~ asNumber 64512 -> 64513\n\
             ~ blocks 172.16.8.0/26 -> 172.16.8.0/26, 172.16.8.64/26\n\
             ~ peer 10.0.0.2: rrClient false -> true\n\
             - peer 10.0.0.3 port 1790 AS 64513 by BGPPeer/q\n\
             + peer 10.0.0.4 port 1790 AS 64513 by BGPPeer/q\n\
             - pool pods 172.16.0.0/16\n\
             Sessions: 0 kept, 1 made anew, 1 added, 1 closed\n\
             No block that this node has a path to would be without one.\n"
        );
        new = plan();
        new["peers"][0]["rrClient"] = json!(true);
        let mut found = found(&new);
        assert_eq!((found.sessions.kept, found.sessions.anew), (2, 0));
        found.without_path.insert("b".into(), vec!["172.16.9.0/26".parse().unwrap()]);
        assert!(render(&found).ends_with("\nWarning: without a path would be 172.16.9.0/26, of b\n"));
    }
}
