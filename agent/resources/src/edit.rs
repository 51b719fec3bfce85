//! Changes one YAML document's text so that it says something else, and touches only the keys whose values differ:
//! comments, order and style of all others stay. What cannot be done so (anchors, tags, flow style, a document that
//! would read back as anything but what was meant) is not done at all; the caller then writes the document anew.

use std::ops::Range;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput};
use serde_json::Value;

use crate::{emit, tree};

/// The text of one document, without separators, changed so that it says `new`. None if that takes a new text.
pub fn edit(text: &str, new: &Value) -> Option<String> {
    let old = read(text)?;
    if old == *new {
        return Some(text.to_owned());
    }
    let mut editor = Editor { text, edits: Vec::new() };
    let root = nodes(text)?;
    if !editor.change(&root, &old, new, false) {
        return None;
    }
    let edited = editor.finish()?;
    (read(&edited)? == *new).then_some(edited)
}

/// What the only document of a text says.
fn read(text: &str) -> Option<Value> {
    let (documents, fault) = tree::parse(text);
    match documents.as_slice() {
        [document] if fault.is_none() && document.faults.is_empty() => Some(document.root.to_json()),
        _ => None,
    }
}

/// A node, and the bytes that it takes.
struct Node {
    at: Range<usize>,
    form: Form,
}

enum Form {
    Scalar,
    /// Lines below a `|` or a `>`, which is no part of its span: only all behind its key can be replaced.
    Block,
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

struct Entry {
    key: String,
    at: Range<usize>,
    value: Node,
}

enum Open {
    Sequence(usize, Vec<Node>),
    Mapping(usize, Vec<Entry>, Option<(String, Range<usize>)>),
}

/// The nodes of a text that holds one document. None where it has anchors, aliases or tags: what is changed here would
/// change elsewhere, too.
fn nodes(text: &str) -> Option<Node> {
    let lines: Vec<usize> =
        std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let byte = |marker: Marker| {
        let start = *lines.get(marker.line().checked_sub(1)?)?;
        let line = text.get(start..)?;
        let within = line.char_indices().nth(marker.col()).map_or(line.len(), |(at, _)| at);
        Some(start + within)
    };
    let (mut open, mut root): (Vec<Open>, _) = (Vec::new(), None);
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.ok()?;
        let at = byte(span.start)?..byte(span.end)?;
        let done = match event {
            Event::Scalar(scalar, style, 0, None) => {
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                if let Some(Open::Mapping(_, _, key @ None)) = open.last_mut() {
                    *key = Some((scalar.into_owned(), at));
                    continue;
                }
                // The span of a block scalar has the line ends behind it, too.
                let said = text.get(at.clone())?;
                let end = if is_block { at.start + said.trim_end().len() } else { at.end };
                let form = if is_block { Form::Block } else { Form::Scalar };
                Node { at: at.start..end, form }
            }
            Event::SequenceStart(0, None) => {
                open.push(Open::Sequence(at.start, Vec::new()));
                continue;
            }
            Event::MappingStart(0, None) => {
                open.push(Open::Mapping(at.start, Vec::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop()? {
                Open::Sequence(start, items) => {
                    let inner = items.last().map_or(start, |item| item.at.end);
                    // The end of a block takes no bytes and stands where the next thing begins.
                    let end = if at.is_empty() { inner } else { at.end };
                    Node { at: start..end, form: Form::Sequence(items) }
                }
                Open::Mapping(start, entries, _) => {
                    let inner =
                        entries.last().map_or(start, |entry| entry.value.at.end.max(entry.at.end + 1));
                    let end = if at.is_empty() { inner } else { at.end };
                    Node { at: start..end, form: Form::Mapping(entries) }
                }
            },
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => continue,
            _ => return None,
        };
        match open.last_mut() {
            None => root = Some(done),
            Some(Open::Sequence(_, items)) => items.push(done),
            Some(Open::Mapping(_, entries, key)) => {
                let (key, at) = key.take()?;
                entries.push(Entry { key, at, value: done });
            }
        }
    }
    root
}

struct Editor<'t> {
    text: &'t str,
    /// Bytes, and what comes in their place; they do not overlap.
    edits: Vec<(Range<usize>, String)>,
}

impl Editor<'_> {
    /// Makes a node say something else, or notes nothing and says false. `flow`: it stands in `{…}` or `[…]`.
    fn change(&mut self, node: &Node, old: &Value, new: &Value, flow: bool) -> bool {
        let noted = self.edits.len();
        let flow = flow || self.text.get(node.at.start..).is_some_and(|text| text.starts_with(['{', '[']));
        let changed = match (&node.form, old, new) {
            (Form::Mapping(entries), Value::Object(old), Value::Object(new))
                if !new.is_empty() && !old.is_empty() =>
            {
                self.mapping(entries, old, new, flow)
            }
            (Form::Sequence(items), Value::Array(old), Value::Array(new)) if old.len() == new.len() => items
                .iter()
                .zip(old.iter().zip(new))
                .all(|(item, (old, new))| old == new || self.change(item, old, new, flow)),
            (Form::Scalar, _, new) if !node.at.is_empty() && is_scalar(new) => {
                let text = self.scalar(node, new);
                self.edits.push((node.at.clone(), text));
                true
            }
            _ => false,
        };
        if !changed {
            self.edits.truncate(noted);
        }
        changed
    }

    fn mapping(
        &mut self,
        entries: &[Entry],
        old: &serde_json::Map<String, Value>,
        new: &serde_json::Map<String, Value>,
        flow: bool,
    ) -> bool {
        for (place, entry) in entries.iter().enumerate() {
            let Some(before) = old.get(&entry.key) else { return false };
            let done = match new.get(&entry.key) {
                Some(now) if now == before => true,
                Some(now) => {
                    self.change(&entry.value, before, now, flow) || (!flow && self.put(entry, now).is_some())
                }
                None => !flow && self.remove(entry, entries.get(place + 1)).is_some(),
            };
            if !done {
                return false;
            }
        }
        let mut added = new.iter().filter(|(key, _)| !old.contains_key(*key)).peekable();
        if added.peek().is_none() {
            return true;
        }
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return false };
        !flow && self.add(first, last, added).is_some()
    }

    /// The scalar's new text, in the quotes of the old where both are text.
    fn scalar(&self, node: &Node, new: &Value) -> String {
        let old = self.text.get(node.at.clone()).unwrap_or_default();
        match new {
            Value::String(text) if old.starts_with('"') => Value::String(text.clone()).to_string(),
            Value::String(text) if old.starts_with('\'') && !text.contains(char::is_control) => {
                format!("'{}'", text.replace('\'', "''"))
            }
            new => emit::inline(new),
        }
    }

    /// The place behind the colon of a key.
    fn behind_colon(&self, entry: &Entry) -> Option<usize> {
        let rest = self.text.get(entry.at.end..)?;
        let colon =
            rest.find(':').filter(|colon| rest.get(..*colon).is_some_and(|gap| gap.trim().is_empty()))?;
        Some(entry.at.end + colon + 1)
    }

    /// Another value for a key, whatever the old one is.
    fn put(&mut self, entry: &Entry, new: &Value) -> Option<()> {
        let from = self.behind_colon(entry)?;
        let mut text = String::new();
        emit::value(&mut text, new, self.column(entry)?);
        self.edits.push((from..entry.value.at.end.max(from), text.trim_end_matches('\n').to_owned()));
        Some(())
    }

    /// Takes a key and its value out, with their lines.
    fn remove(&mut self, entry: &Entry, next: Option<&Entry>) -> Option<()> {
        let line = self.line_start(entry.at.start)?;
        let lead = self.text.get(line..entry.at.start)?;
        let end = self.line_end(entry.value.at.end.max(self.behind_colon(entry)?));
        let range = if lead.trim().is_empty() {
            line..end
        } else {
            // Behind the "- " of a list's member the next key takes its place.
            entry.at.start..next?.at.start
        };
        self.edits.push((range, String::new()));
        Some(())
    }

    /// Puts keys behind the last one of a mapping.
    fn add<'v>(
        &mut self,
        first: &Entry,
        last: &Entry,
        added: impl Iterator<Item = (&'v String, &'v Value)>,
    ) -> Option<()> {
        let column = self.column(first)?;
        let at = self.line_end(last.value.at.end.max(self.behind_colon(last)?));
        let mut text = String::new();
        if !self.text.get(..at)?.ends_with('\n') {
            text.push('\n');
        }
        for (key, value) in added {
            text.push_str(&" ".repeat(column));
            emit::push_key(&mut text, key, column);
            emit::value(&mut text, value, column);
        }
        self.edits.push((at..at, text));
        Some(())
    }

    fn column(&self, entry: &Entry) -> Option<usize> {
        let line = self.line_start(entry.at.start)?;
        Some(self.text.get(line..entry.at.start)?.chars().count())
    }

    fn line_start(&self, at: usize) -> Option<usize> {
        Some(self.text.get(..at)?.rfind('\n').map_or(0, |end| end + 1))
    }

    /// Behind the line end that comes next.
    fn line_end(&self, at: usize) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        rest.find('\n').map_or(self.text.len(), |end| at + end + 1)
    }

    fn finish(mut self) -> Option<String> {
        // What is put in at the end of something that goes comes after it.
        self.edits.sort_by_key(|(range, _)| (range.start, range.end));
        let ends = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let (mut edited, mut from) = (String::new(), 0);
        for (range, new) in &self.edits {
            edited.push_str(self.text.get(from..range.start)?);
            edited.push_str(&new.replace('\n', ends));
            from = range.end;
        }
        edited.push_str(self.text.get(from..)?);
        Some(edited)
    }
}

fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const PEER: &str = "\
# who: the network team
apiVersion: projectcalico.org/v3
kind: BGPPeer   # a reflector
metadata:
  name: to-rr
  labels:
    # which rack
    rack: 'seven'
spec:
  asNumber: 64512  # of all nodes
  # the reflector's
  peerIP: \"10.0.0.1\"
  filters:
  - first  # before all
  - second
";

    fn changed(change: impl FnOnce(&mut Value)) -> String {
        let mut new = read(PEER).unwrap();
        change(&mut new);
        edit(PEER, &new).unwrap()
    }

    #[test]
    fn a_changed_value_takes_the_place_of_the_old_one_in_its_quotes() {
        let edited = changed(|new| {
            new["spec"]["asNumber"] = json!(65000);
            new["spec"]["peerIP"] = json!("10.0.0.2");
            new["metadata"]["labels"]["rack"] = json!("eight");
            new["spec"]["filters"][1] = json!("third");
        });
        let expected = PEER
            .replace("64512", "65000")
            .replace("10.0.0.1", "10.0.0.2")
            .replace("seven", "eight")
            .replace("second", "third");
        assert_eq!(edited, expected);
    }

    #[test]
    fn a_new_key_stands_behind_the_others_of_its_mapping() {
        let edited = changed(|new| {
            new["metadata"]["labels"]["route"] = json!("true");
            new["metadata"]["annotations"] = json!({ "a/b": "c" });
        });
        let expected = PEER.replace(
            "    rack: 'seven'\n",
            "    rack: 'seven'\n    route: 'true'\n  annotations:\n    a/b: c\n",
        );
        assert_eq!(edited, expected);
    }

    #[test]
    fn a_key_that_goes_takes_its_lines_along() {
        let edited = changed(|new| {
            new["spec"].as_object_mut().unwrap().remove("filters");
            new["spec"].as_object_mut().unwrap().remove("asNumber");
        });
        let expected = PEER
            .replace("  filters:\n  - first  # before all\n  - second\n", "")
            .replace("  asNumber: 64512  # of all nodes\n", "");
        assert_eq!(edited, expected);
        // The last one leaves an empty mapping.
        let edited = changed(|new| {
            new["metadata"]["labels"] = json!({});
        });
        assert_eq!(edited, PEER.replace("labels:\n    # which rack\n    rack: 'seven'", "labels: {}"));
    }

    #[test]
    fn what_has_anchors_tags_or_no_block_is_not_edited() {
        for text in ["a: &x 1\nb: *x\n", "a: !!str 1\n", "{a: 1, c: [1]}\n"] {
            let mut new = read(text).unwrap();
            new["b"] = json!([7]);
            assert_eq!(edit(text, &new), None, "{text}");
        }
        assert_eq!(
            edit("{a: 1, b: [1, 2]}\n", &json!({"a": 1, "b": [1, 3]})).unwrap(),
            "{a: 1, b: [1, 3]}\n"
        );
    }

    #[test]
    fn texts_of_several_lines_are_changed_left_alone_and_taken_out() {
        let text = |note: &str, spec: &str| format!("a:\n  note: {note}{spec}b: 1 # last\n");
        for (style, says) in
            [("|", "one\n\ntwo\n"), ("|-", "one\n\ntwo"), (">", "one\ntwo\n"), ("|+", "one\n\ntwo\n\n")]
        {
            let tail = if style == "|+" { "\n" } else { "" };
            let note = format!("{style}\n    one\n\n    two\n{tail}");
            let before = text(&note, "");
            assert_eq!(read(&before).unwrap(), json!({"a": {"note": says}, "b": 1}), "{before:?}");
            assert_eq!(
                edit(&before, &json!({"a": {"note": says}, "b": 2})).unwrap(),
                text(&note, "").replace("1 #", "2 #")
            );
            let edited = edit(&before, &json!({"a": {"note": "x"}, "b": 1}));
            assert!(
                edited.as_deref().is_none_or(|edited| edited.starts_with("a:\n  note: x\n")),
                "{edited:?}"
            );
            let edited = edit(&before, &json!({"a": {"note": says, "z": 1}, "b": 1}));
            assert!(edited.as_deref().is_none_or(|edited| edited.contains("b: 1 # last")), "{edited:?}");
            assert!(edited.is_some() || style == "|+", "{style}");
            let edited = edit(&before, &json!({"b": 1})).unwrap();
            assert_eq!(edited.trim_start(), "b: 1 # last\n");
        }
    }

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ -~é\n]{0,12}".prop_map(Value::from),
            Just(json!("1.10")),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        leaf().prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn mapping() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-e]", value(), 1..5)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    /// With a comment in each line that can bear one, and one before it.
    fn commented(text: &str) -> String {
        let line = |(number, line): (usize, &str)| {
            let indent = line.len() - line.trim_start().len();
            format!("{}# above {number}\n{line} # beside {number}\n", " ".repeat(indent))
        };
        text.lines().enumerate().map(line).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_edit_reads_back_as_meant_or_is_not_made(old in mapping(), new in mapping()) {
            let text = commented(&emit::to_yaml(&old));
            prop_assert_eq!(read(&text).unwrap(), old);
            if let Some(edited) = edit(&text, &new) {
                prop_assert_eq!(read(&edited).unwrap(), new);
            }
        }

        #[test]
        fn one_key_more_leaves_every_line_as_it_was(old in mapping(), new in leaf()) {
            let text = commented(&emit::to_yaml(&old));
            let mut wanted = old;
            wanted["z"] = new;
            let edited = edit(&text, &wanted).unwrap();
            prop_assert!(edited.starts_with(&text), "{edited}");
        }

        #[test]
        fn no_text_makes_the_editor_panic(text in "\\PC*|[-a:#&*!|>'\"%@`{}\\[\\],?~ \n\t\r0-9.]{0,100}", new in value()) {
            let _edited = edit(&text, &new);
        }
    }
}
