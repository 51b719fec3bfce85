//! How a plan differs from the one that runs: both in their JSON form, entry by entry and field by field.

use std::{collections::BTreeMap, fmt::Write};

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
pub fn render(node: &str, differences: &[Difference]) -> String {
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

    #[test]
    fn equal_plans_do_not_differ() {
        assert_eq!(differences(&plan(), &plan()), []);
        assert_eq!(render("a", &[]), "Node a runs what these resources say.\n");
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
            render("a", &differences(&plan(), &new)),
            "Node a would change:\n\
             ~ asNumber 64512 -> 64513\n\
             ~ blocks 172.16.8.0/26 -> 172.16.8.0/26, 172.16.8.64/26\n\
             ~ peer 10.0.0.2: rrClient false -> true\n\
             - peer 10.0.0.3 port 1790 AS 64513 by BGPPeer/q\n\
             + peer 10.0.0.4 port 1790 AS 64513 by BGPPeer/q\n\
             - pool pods 172.16.0.0/16\n"
        );
    }
}
