//! A file as it is and as it shall be: documents replaced, taken out and put behind, all at once, and the whole read
//! again before any of it counts. The file is parsed once however many of its documents change.

use std::{collections::BTreeMap, ops::Range, path::PathBuf};

use manx_resources::{Key, Parsed, parse};
use serde_json::Value;

use super::WriteError;

/// One document's change.
struct Change {
    body: Range<usize>,
    /// None takes it out.
    new: Option<String>,
}

pub(crate) struct Draft {
    pub path: PathBuf,
    text: String,
    pub parsed: Parsed,
    changes: Vec<Change>,
    appended: Vec<String>,
    /// What the documents that change shall say.
    expected: BTreeMap<Key, Option<Value>>,
    /// The new text; empty for a file that goes.
    pub new: Option<String>,
}

impl Draft {
    pub fn new(path: PathBuf, text: String) -> Draft {
        let parsed = parse(&path.display().to_string(), &text);
        let (changes, appended, expected) = (Vec::new(), Vec::new(), BTreeMap::new());
        Draft { path, text, parsed, changes, appended, expected, new: None }
    }

    /// A file that is not there yet has no text, and one that is empty may go as well.
    pub fn was_there(&self) -> bool {
        !self.text.is_empty()
    }

    pub fn is_json(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "json")
    }

    pub fn text_of(&self, body: &Range<usize>) -> Option<&str> {
        self.text.get(body.clone())
    }

    pub fn replace(&mut self, key: Key, body: Range<usize>, new: String, says: Value) {
        self.expected.insert(key, Some(says));
        self.changes.push(Change { body, new: Some(new) });
    }

    pub fn remove(&mut self, key: Key, body: Range<usize>) {
        self.expected.insert(key, None);
        self.changes.push(Change { body, new: None });
    }

    /// Behind all others.
    pub fn append(&mut self, key: Key, text: String, says: Value) {
        self.expected.insert(key, Some(says));
        self.appended.push(text);
    }

    /// Makes the new text, which counts only if it says exactly what is expected and is without errors.
    pub fn finish(&mut self) -> Result<(), WriteError> {
        if self.expected.is_empty() {
            return Ok(());
        }
        self.changes.sort_by_key(|change| change.body.start);
        let mut expected = documents(&self.parsed);
        for (key, says) in &self.expected {
            match says {
                Some(says) => drop(expected.insert(key.clone(), says.clone())),
                None => drop(expected.remove(key)),
            }
        }
        let mut wrong = None;
        // With the separators of what goes, or where that would join what stands apart, without.
        for with_separators in [true, false] {
            let Some(text) = self.assemble(with_separators) else { continue };
            let parsed = parse(&self.path.display().to_string(), &text);
            let found = documents(&parsed);
            if !parsed.has_errors() && found == expected && parsed.skipped.len() == self.parsed.skipped.len()
            {
                let emptied = !self.text.is_empty() && says_nothing(&text);
                self.new = Some(if emptied { String::new() } else { text });
                self.parsed = parsed;
                return Ok(());
            }
            wrong = self.expected.keys().find(|key| found.get(*key) != expected.get(*key)).cloned();
        }
        let key = wrong.or_else(|| self.expected.keys().next().cloned());
        // Something is expected.
        let key = key.unwrap_or_else(|| Key::new(manx_resources::Kind::Node, ""));
        Err(WriteError::Entangled { key, file: self.path.clone() })
    }

    fn assemble(&self, with_separators: bool) -> Option<String> {
        let (mut text, mut from) = (String::new(), 0);
        for change in &self.changes {
            let range = match &change.new {
                None if with_separators => self.with_separator(&change.body, from),
                _ => change.body.clone(),
            };
            text.push_str(self.text.get(from..range.start)?);
            // What goes or changes began on the line of its separator ("--- {…}").
            if !self.is_json() && !text.is_empty() && !text.ends_with(['\n', '\u{feff}']) {
                text.push('\n');
            }
            if let Some(new) = &change.new {
                text.push_str(new);
                end_line(&mut text);
            }
            from = range.end;
        }
        text.push_str(self.text.get(from..)?);
        for body in &self.appended {
            if !text.is_empty() {
                end_line(&mut text);
                text.push_str("---\n");
            }
            text.push_str(body);
            end_line(&mut text);
        }
        Some(text)
    }

    /// The body with the separator before it, where nothing stands between.
    fn with_separator(&self, body: &Range<usize>, from: usize) -> Range<usize> {
        let before = self.text.get(from..body.start).unwrap_or_default();
        let trimmed = before.trim_end();
        match trimmed.strip_suffix("---") {
            Some(rest) if rest.is_empty() || rest.ends_with('\n') => from + rest.len()..body.end,
            _ => body.clone(),
        }
    }
}

fn documents(parsed: &Parsed) -> BTreeMap<Key, Value> {
    let documents = parsed.documents.iter();
    documents.map(|document| (document.resource.key(), document.resource.document().clone())).collect()
}

/// Blanks and separators only: a comment is worth keeping.
fn says_nothing(text: &str) -> bool {
    text.lines().all(|line| matches!(line.trim().trim_start_matches('\u{feff}'), "" | "---" | "..."))
}

pub(crate) fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}
