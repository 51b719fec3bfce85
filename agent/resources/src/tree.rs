//! YAML (and so JSON) text into trees whose every node knows its line and column. Bounded in depth and in what
//! aliases may expand to; a key that stands twice, a key that is not text and a merge key are errors. What the
//! trees mean is `read`'s business.

use std::{collections::BTreeMap, ops::Range};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use crate::remedy::with_remedy;

/// No resource nests deeper than a dozen levels. The bound keeps every recursion over a tree within the stack.
const MAX_DEPTH: usize = 64;
/// How many nodes of one text may be kept for aliases and come from aliases: "billion laughs" ends here.
const MAX_REPEATED: usize = 100_000;

/// Line and column, both from 1, the column in characters.
pub(crate) type Place = (usize, usize);

#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub place: Place,
    pub value: Value,
    /// Nodes in this tree, and levels.
    size: usize,
    depth: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Tree>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar {
    pub text: String,
    /// Written without quotes, so that `true`, `7` and `null` are not text.
    pub plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Tree,
}

/// One document of a text.
#[derive(Debug)]
pub(crate) struct Document {
    pub root: Tree,
    /// The bytes of the text from the document's first content to the end of the line of its last; separators and
    /// comments before and after are outside.
    pub body: Range<usize>,
    pub faults: Vec<Fault>,
}

/// Something wrong with the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub place: Place,
    pub message: String,
}

/// All documents of a text. A fault beside the documents ended the reading; what stands after it is unknown.
pub(crate) fn parse(text: &str) -> (Vec<Document>, Option<Fault>) {
    let (skipped, text) = match text.strip_prefix('\u{feff}') {
        Some(rest) => (text.len() - rest.len(), rest),
        None => (0, text),
    };
    let lines = Lines::of(text, skipped);
    let mut loader = Loader::default();
    let mut documents = Vec::new();
    let mut parser: Parser<'_, StrInput<'_>> = Parser::new_from_str(text);
    let mut began = Marker::default();
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let fault = Fault { place: place(*error.marker()), message: with_remedy(error.info()) };
                return (documents, Some(fault));
            }
        };
        match event {
            Event::DocumentStart(_) => {
                loader = Loader { repeated: loader.repeated, ..Loader::default() };
                began = span.end;
            }
            Event::DocumentEnd => {
                if let Some(root) = loader.root.take() {
                    let end = loader.last.unwrap_or(began);
                    let body = lines.body(text, root.place, place(end), loader.keeps_blanks);
                    documents.push(Document { root, body, faults: std::mem::take(&mut loader.faults) });
                }
            }
            event => {
                if let Err(fault) = loader.take(event, span) {
                    return (documents, Some(fault));
                }
            }
        }
    }
    (documents, None)
}

fn place(marker: Marker) -> Place {
    (marker.line(), marker.col() + 1)
}

/// A collection that is still open.
enum Frame {
    Sequence { place: Place, anchor: usize, items: Vec<Tree> },
    Mapping { place: Place, anchor: usize, entries: Vec<Entry>, lines: BTreeMap<String, usize>, key: Key },
}

/// The key whose value comes next.
enum Key {
    Wanted,
    Is(String, Place),
    /// A fault was noted for this key; its value is read and forgotten.
    Refused,
}

#[derive(Default)]
struct Loader {
    open: Vec<Frame>,
    root: Option<Tree>,
    anchors: BTreeMap<usize, Tree>,
    repeated: usize,
    faults: Vec<Fault>,
    /// The end of the last thing that was written out.
    last: Option<Marker>,
    /// That thing is a block scalar whose last blank lines are part of it (`|+`).
    keeps_blanks: bool,
}

impl Loader {
    /// An error means that nothing more can be read.
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let at = place(span.start);
        if !span.is_empty() {
            self.last = Some(span.end);
            self.keeps_blanks = matches!(&event, Event::Scalar(text, ScalarStyle::Literal | ScalarStyle::Folded, ..)
                if text.ends_with("\n\n") || *text == "\n");
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = match self.scalar_tag(tag.as_deref(), at) {
                    Some(plain) => plain,
                    None => style == ScalarStyle::Plain,
                };
                let value = Value::Scalar(Scalar { text: text.into_owned(), plain });
                self.complete(Tree { place: at, value, size: 1, depth: 1 }, anchor)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", at);
                self.push(Frame::Sequence { place: at, anchor, items: Vec::new() }, at)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", at);
                let (entries, lines) = (Vec::new(), BTreeMap::new());
                self.push(Frame::Mapping { place: at, anchor, entries, lines, key: Key::Wanted }, at)?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Frame::Sequence { place, anchor, items }) => {
                    let size = 1 + items.iter().map(|item| item.size).sum::<usize>();
                    let depth = 1 + items.iter().map(|item| item.depth).max().unwrap_or(0);
                    self.complete(Tree { place, value: Value::Sequence(items), size, depth }, anchor)?;
                }
                Some(Frame::Mapping { place, anchor, entries, .. }) => {
                    let size = 1 + entries.iter().map(|entry| entry.value.size).sum::<usize>();
                    let depth = 1 + entries.iter().map(|entry| entry.value.depth).max().unwrap_or(0);
                    self.complete(Tree { place, value: Value::Mapping(entries), size, depth }, anchor)?;
                }
                None => {}
            },
            Event::Alias(anchor) => {
                let Some(tree) = self.anchors.get(&anchor) else {
                    return Err(Fault {
                        place: at,
                        message: "this alias (*) stands inside its own anchor (&), or its anchor is in another document"
                            .to_owned(),
                    });
                };
                if self.open.len() + tree.depth > MAX_DEPTH {
                    return Err(too_deep(at));
                }
                let mut tree = tree.clone();
                self.spend(tree.size, at)?;
                tree.place = at;
                self.complete(tree, 0)?;
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn push(&mut self, frame: Frame, at: Place) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(at));
        }
        self.open.push(frame);
        Ok(())
    }

    /// Puts a finished node where it belongs.
    fn complete(&mut self, tree: Tree, anchor: usize) -> Result<(), Fault> {
        if anchor > 0 {
            self.spend(tree.size, tree.place)?;
            self.anchors.insert(anchor, tree.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(tree),
            Some(Frame::Sequence { items, .. }) => items.push(tree),
            Some(Frame::Mapping { entries, lines, key, .. }) => {
                match std::mem::replace(key, Key::Wanted) {
                    Key::Wanted => *key = accept_key(tree, lines, &mut self.faults),
                    Key::Is(name, place) => entries.push(Entry { key: name, place, value: tree }),
                    Key::Refused => {}
                };
            }
        }
        Ok(())
    }

    /// Counts nodes that exist twice.
    fn spend(&mut self, nodes: usize, at: Place) -> Result<(), Fault> {
        self.repeated += nodes;
        if self.repeated <= MAX_REPEATED {
            return Ok(());
        }
        let message = format!("the anchors (&) and aliases (*) repeat more than {MAX_REPEATED} nodes");
        Err(Fault { place: at, message })
    }

    /// Whether the tag makes the scalar plain or text; None: the style decides.
    fn scalar_tag(&mut self, tag: Option<&Tag>, at: Place) -> Option<bool> {
        let tag = tag?;
        if tag.handle == "!" && tag.suffix.is_empty() {
            return Some(false);
        }
        match (tag.is_yaml_core_schema(), tag.suffix.as_str()) {
            (true, "str") => Some(false),
            (true, "int" | "bool" | "float" | "null") => Some(true),
            _ => {
                self.fault(at, format!("the tag {tag} is not supported; leave it out"));
                None
            }
        }
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, natural: &str, at: Place) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == natural)
        {
            self.fault(at, format!("the tag {tag} is not supported; leave it out"));
        }
    }

    fn fault(&mut self, place: Place, message: String) {
        self.faults.push(Fault { place, message });
    }
}

fn accept_key(tree: Tree, lines: &mut BTreeMap<String, usize>, faults: &mut Vec<Fault>) -> Key {
    let place = tree.place;
    let Value::Scalar(scalar) = tree.value else {
        faults.push(Fault { place, message: "a key must be text, not a list or a mapping".to_owned() });
        return Key::Refused;
    };
    if scalar.plain && scalar.text == "<<" {
        let message = "merge keys (<<) are not supported; write the fields out".to_owned();
        faults.push(Fault { place, message });
        return Key::Refused;
    }
    if let Some(first) = lines.get(&scalar.text) {
        let message =
            format!("the key \"{}\" stands twice; the first is in line {first}", excerpt(&scalar.text));
        faults.push(Fault { place, message });
        return Key::Refused;
    }
    lines.insert(scalar.text.clone(), place.0);
    Key::Is(scalar.text, place)
}

fn too_deep(place: Place) -> Fault {
    Fault { place, message: format!("nested more than {MAX_DEPTH} levels deep; no resource is") }
}

/// Text as an error message may show it: one line, and not too long.
pub(crate) fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    let mut shown: String =
        text.chars().take(MAX_CHARS).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

impl Tree {
    /// What the node is, for an error message.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() => "nothing".to_owned(),
            Value::Scalar(scalar) => format!("\"{}\"", excerpt(&scalar.text)),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// The same content as JSON. Text stays text; a plain scalar is what YAML 1.2 says that it is, except that a
    /// number which JSON would print otherwise (`1.10`) stays the text that it was.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Scalar(scalar) => scalar.to_json(),
            Value::Sequence(items) => items.iter().map(Tree::to_json).collect(),
            Value::Mapping(entries) => {
                let entries = entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json()));
                serde_json::Value::Object(entries.collect())
            }
        }
    }
}

impl Scalar {
    pub(crate) fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// What the plain scalar is in Calico's YAML (version 1.1), where `yes` and `off` are truth values.
    pub(crate) fn as_bool(&self) -> Option<bool> {
        if !self.plain {
            return None;
        }
        match self.text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" => Some(true),
            "false" | "no" | "n" | "off" => Some(false),
            _ => None,
        }
    }

    /// True if YAML reads the plain scalar as something else than text.
    pub(crate) fn is_text(&self) -> bool {
        !self.plain
            || matches!(self.to_json(), serde_json::Value::String(_)) && !looks_like_number(&self.text)
    }

    fn to_json(&self) -> serde_json::Value {
        if self.is_null() {
            return serde_json::Value::Null;
        }
        if !self.plain {
            return self.text.clone().into();
        }
        match self.text.as_str() {
            "true" | "True" | "TRUE" => return true.into(),
            "false" | "False" | "FALSE" => return false.into(),
            _ => {}
        }
        if let Ok(number) = self.text.parse::<i64>()
            && number.to_string() == self.text
        {
            return number.into();
        }
        if let Ok(number) = self.text.parse::<u64>()
            && number.to_string() == self.text
        {
            return number.into();
        }
        if let Ok(number) = self.text.parse::<f64>()
            && number.is_finite()
            && looks_like_number(&self.text)
            && format!("{number:?}") == self.text
        {
            return number.into();
        }
        self.text.clone().into()
    }
}

/// The core schema's form of a number, so that `1.10` is one and `inf`, which Rust would read, is not.
fn looks_like_number(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.contains(|c: char| c.is_ascii_digit())
        && text.parse::<f64>().is_ok()
}

/// Where the lines of a text begin, to turn places into bytes.
struct Lines {
    starts: Vec<usize>,
    skipped: usize,
}

impl Lines {
    fn of(text: &str, skipped: usize) -> Lines {
        let bytes = text.as_bytes();
        let mut starts = vec![0];
        for (index, byte) in bytes.iter().enumerate() {
            // YAML ends a line at LF, CR or CR LF.
            if *byte == b'\n' || *byte == b'\r' && bytes.get(index + 1) != Some(&b'\n') {
                starts.push(index + 1);
            }
        }
        Lines { starts, skipped }
    }

    fn start(&self, text: &str, line: usize) -> usize {
        self.starts.get(line.saturating_sub(1)).copied().unwrap_or(text.len())
    }

    /// From `first` (from the line's beginning, if only blanks stand before it) to the end of the line of `last`.
    fn body(&self, text: &str, first: Place, last: Place, keeps_blanks: bool) -> Range<usize> {
        let line = self.start(text, first.0);
        let rest = text.get(line..).unwrap_or("");
        let before: usize = rest.chars().take(first.1 - 1).map(char::len_utf8).sum();
        let blank = rest.get(..before).is_some_and(|before| before.trim().is_empty());
        let start = if blank { line } else { line + before };
        // A block scalar ends at the beginning of the line after it.
        let mut end_line = if last.1 == 1 && last.0 > first.0 { last.0 } else { last.0 + 1 };
        // Its scanner takes the blank lines after a block scalar for a part of it.
        while !keeps_blanks && end_line > first.0 + 1 {
            let last_line = text.get(self.start(text, end_line - 1)..self.start(text, end_line));
            if !last_line.is_some_and(|line| line.trim().is_empty()) {
                break;
            }
            end_line -= 1;
        }
        let end = self.start(text, end_line).max(start);
        start + self.skipped..end + self.skipped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let (documents, fault) = parse(text);
        let faults = documents.into_iter().flat_map(|document| document.faults).chain(fault);
        faults.map(|fault| format!("{}:{}: {}", fault.place.0, fault.place.1, fault.message)).collect()
    }

    fn json(text: &str) -> String {
        let (documents, fault) = parse(text);
        assert_eq!(fault, None);
        documents[0].root.to_json().to_string()
    }

    #[test]
    fn every_node_knows_its_line_and_column() {
        let (documents, _) = parse("# über\nspec:\n  größe:  7\n");
        let Value::Mapping(root) = &documents[0].root.value else { panic!() };
        let Value::Mapping(spec) = &root[0].value.value else { panic!() };
        assert_eq!(root[0].place, (2, 1));
        assert_eq!(spec[0].place, (3, 3));
        assert_eq!(spec[0].value.place, (3, 11));
    }

    #[test]
    fn json_is_read_as_yaml_is() {
        assert_eq!(
            json("{\"a\": [1, true, null, \"1\"],\n\t\"b\": {\"c\": \"\\u00e9\"}}"),
            r#"{"a":[1,true,null,"1"],"b":{"c":"é"}}"#
        );
    }

    #[test]
    fn a_number_that_json_would_print_otherwise_stays_as_written() {
        assert_eq!(json("[1.10, 1.5, 007, 0x10, 1e3, +1, 18446744073709551616, inf]"), {
            r#"["1.10",1.5,"007","0x10","1e3","+1","18446744073709551616","inf"]"#
        });
    }

    #[test]
    fn a_key_that_stands_twice_is_an_error_that_names_both_lines() {
        assert_eq!(faults("a: 1\nb: 2\na: 3\n"), ["3:1: the key \"a\" stands twice; the first is in line 1"]);
        assert_eq!(
            faults("{\"a\": 1, \"a\": 2}"),
            ["1:10: the key \"a\" stands twice; the first is in line 1"]
        );
    }

    #[test]
    fn keys_that_are_no_text_are_errors() {
        assert_eq!(faults("? [a]\n: b\n"), ["1:3: a key must be text, not a list or a mapping"]);
        assert_eq!(
            faults("x: &x {a: 1}\ny:\n  <<: *x\n"),
            ["3:3: merge keys (<<) are not supported; write the fields out"]
        );
    }

    #[test]
    fn an_alias_repeats_its_anchor() {
        assert_eq!(json("a: &x [1, 2]\nb: *x\n"), r#"{"a":[1,2],"b":[1,2]}"#);
    }

    #[test]
    fn billion_laughs_are_an_error() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let last = format!("*a{}", n - 1);
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", vec![last; 10].join(",")));
        }
        assert_eq!(faults(&bomb), ["5:34: the anchors (&) and aliases (*) repeat more than 100000 nodes"]);
    }

    #[test]
    fn anchors_inside_anchors_are_bounded_too() {
        let text = format!("{}[{}]{}", "&a [".repeat(50), "x,".repeat(5000), "]".repeat(50));
        assert_eq!(faults(&text)[0].split_once(": ").unwrap().1, {
            "the anchors (&) and aliases (*) repeat more than 100000 nodes"
        });
    }

    #[test]
    fn depth_is_bounded_also_through_aliases() {
        assert_eq!(faults(&"[".repeat(100)), ["1:65: nested more than 64 levels deep; no resource is"]);
        let half = format!("{}{}", "[".repeat(40), "]".repeat(40));
        let text = format!("a: &a {half}\nb: {}*a{}\n", "[".repeat(30), "]".repeat(30));
        assert_eq!(faults(&text), ["2:34: nested more than 64 levels deep; no resource is"]);
    }

    #[test]
    fn an_alias_inside_its_own_anchor_is_an_error() {
        assert_eq!(faults("a: &a [*a]\n").len(), 1);
    }

    #[test]
    fn tags_beyond_the_core_are_errors() {
        assert_eq!(json("a: !!str 7\n"), r#"{"a":"7"}"#);
        assert_eq!(faults("a: !secret x\n"), ["1:4: the tag !secret is not supported; leave it out"]);
    }

    #[test]
    fn a_documents_body_leaves_out_separators_and_comments_around_it() {
        let text = "# head\n---\n# first\na: 1 # one\nb: |\n  x\n  y\n\n# after\n---\n{c: 2}\n...\n# tail\n--- {d: 3}\n";
        let (documents, fault) = parse(text);
        assert_eq!(fault, None);
        let bodies: Vec<_> =
            documents.iter().map(|document| text.get(document.body.clone()).unwrap()).collect();
        assert_eq!(bodies, ["a: 1 # one\nb: |\n  x\n  y\n", "{c: 2}\n", "{d: 3}\n"]);
    }

    #[test]
    fn a_byte_order_mark_and_crlf_do_not_shift_bodies() {
        let text = "\u{feff}a: 1\r\n---\r\nb: 2\r\n";
        let (documents, _) = parse(text);
        let bodies: Vec<_> =
            documents.iter().map(|document| text.get(document.body.clone()).unwrap()).collect();
        assert_eq!(bodies, ["a: 1\r\n", "b: 2\r\n"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "\\PC*|[-a:#&*!|>'\"%@`{}\\[\\],?~ \n\t\r0-9.]{0,200}") {
            let (documents, _) = parse(&text);
            for document in documents {
                prop_assert!(text.get(document.body.clone()).is_some());
                document.root.to_json();
            }
        }
    }
}
