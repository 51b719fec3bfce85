//! Resources as YAML text, in the form in which `calicoctl get -o yaml` prints them: block style, keys sorted, list
//! members not indented.

use std::{fmt::Write, net::IpAddr};

use serde_json::Value;

/// The value as a YAML document. What it says is read back as the same value.
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut text, map, 0, false),
        Value::Array(items) if !items.is_empty() => sequence(&mut text, items, 0),
        scalar => {
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
    text
}

/// `inline_first`: the first key goes on the line that a "- " has begun.
fn mapping(text: &mut String, map: &serde_json::Map<String, Value>, indent: usize, inline_first: bool) {
    let mut keys: Vec<&String> = map.keys().collect();
    keys.sort();
    for (index, key) in keys.into_iter().enumerate() {
        if index > 0 || !inline_first {
            text.push_str(&" ".repeat(indent));
        }
        push_key(text, key, indent);
        // The keys are the map's own.
        value(text, map.get(key).unwrap_or(&Value::Null), indent);
    }
}

/// A key and its colon.
pub(crate) fn push_key(text: &mut String, key: &str, indent: usize) {
    let written = scalar_text(key);
    if is_long(&written) {
        text.push_str("? ");
        text.push_str(&written);
        text.push('\n');
        text.push_str(&" ".repeat(indent));
    } else {
        text.push_str(&written);
    }
    text.push(':');
}

/// A key that stands before its colon in one line has 1,024 characters at most (YAML 1.2 §7.4.2); a longer one is said to
/// be one.
fn is_long(key: &str) -> bool {
    key.chars().count() > 1000
}

/// What follows a key.
pub(crate) fn value(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            mapping(text, map, indent + 2, false);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            sequence(text, items, indent);
        }
        scalar => {
            text.push(' ');
            text.push_str(&inline(scalar));
            text.push('\n');
        }
    }
}

fn sequence(text: &mut String, items: &[Value], indent: usize) {
    for item in items {
        text.push_str(&" ".repeat(indent));
        text.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => mapping(text, map, indent + 2, true),
            // A list in a list is rare enough to be written in one line.
            other => {
                text.push_str(&inline(other));
                text.push('\n');
            }
        }
    }
}

pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => scalar_text(text),
        other => flow(other),
    }
}

/// JSON is YAML, but for keys that are too long.
fn flow(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| {
                let key = Value::from(key.as_str()).to_string();
                let mark = if is_long(&key) { "? " } else { "" };
                format!("{mark}{key}: {}", flow(value))
            });
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

/// Plain where a reader of YAML 1.1 or 1.2 would read it as the same text, else in quotes.
pub(crate) fn scalar_text(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    if !text.chars().any(|c| c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Writing to a String cannot fail.
                let _infallible = write!(quoted, "\\U{:08X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn is_plain(text: &str) -> bool {
    let safe = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | ':' | '(' | ')' | '=' | '+')
    };
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c.is_ascii_digit())
        && text.chars().all(safe)
        && !text.ends_with(':')
        && !words.contains(&text.to_ascii_lowercase().trim_start_matches('.'))
        && !reads_as_number(text)
}

/// Also what only YAML 1.1 reads as a number: 0o17, 1:30 (sexagesimal), 1_000, dates.
fn reads_as_number(text: &str) -> bool {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return false;
    }
    // An address or a prefix is no number, and a letter beyond those of numbers makes a word; the rest
    // that begins with a digit is quoted.
    let address = text.parse::<IpAddr>().is_ok() || text.matches('.').count() >= 2 || text.contains('/');
    let word = text.contains(|c: char| {
        c.is_ascii_alphabetic() && !c.is_ascii_hexdigit() && !matches!(c, 'x' | 'o' | 'T' | 'Z')
    });
    !(address || word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::tree;

    fn read_back(text: &str) -> Value {
        let (documents, fault) = tree::parse(text);
        assert_eq!(fault, None, "{text}");
        documents[0].root.to_json()
    }

    #[test]
    fn it_looks_as_calicoctl_prints_it() {
        let value = json!({
            "kind": "BGPPeer",
            "metadata": {"name": "a", "labels": {"b": "", "c": "true"}, "annotations": {}},
            "spec": {"asNumber": 61234, "peerIP": "192.168.80.121", "filters": ["x", {"v": 1, "z": 2}], "ttlSecurity": null},
        });
        assert_eq!(
            to_yaml(&value),
            "\
kind: BGPPeer
metadata:
  annotations: {}
  labels:
    b: ''
    c: 'true'
  name: a
spec:
  asNumber: 61234
  filters:
  - x
  - v: 1
    z: 2
  peerIP: 192.168.80.121
  ttlSecurity: null
"
        );
    }

    #[test]
    fn what_another_reader_would_take_for_something_else_is_quoted() {
        for text in [
            "yes",
            "No",
            "~",
            "1.10",
            "0o17",
            "1:30",
            "2026-11-22",
            "1_000",
            "a: b",
            "a #b",
            "- a",
            "[a]",
            "*a",
            "!a",
            "%a",
            "@a",
            "`a",
            "a:",
            "",
            " a",
            ".inf",
            ".nan",
            "1e3",
            "0x1f",
        ] {
            assert_ne!(scalar_text(text), text, "{text}");
        }
        for text in [
            "a",
            "k8s-worker-01",
            "172.16.36.192/26",
            "2001:db8::1",
            "all()",
            "1m30s",
            "projectcalico.org/v3",
        ] {
            assert_eq!(scalar_text(text), text);
        }
    }

    fn arb_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
            "[-a-z0-9.:#'\" \n\t\\[\\]{},&*!|>%@`?~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(
                    "\\PC{0,8}|[-:#'\" {},~a-z0-9]{0,6}|[a:\\u{7}]{200}|[a-z '?]{1500}",
                    inner,
                    0..4
                )
                .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(value in arb_value()) {
            let text = to_yaml(&value);
            prop_assert_eq!(read_back(&text), value, "{}", text);
        }
    }
}
