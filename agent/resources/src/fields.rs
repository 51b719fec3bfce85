//! The fields of one mapping, read by name and form. Every fault is noted with its place, and reading goes on,
//! so that one look at a document finds all that is wrong with it. A field that nobody asked for is unknown.

use std::{cell::RefCell, collections::BTreeMap, fmt, ops::RangeInclusive};

use crate::{
    Problem, Severity,
    nearest::nearest,
    tree::{Entry, Place, Tree, Value, excerpt},
};

/// Where the problems of one document gather.
#[derive(Debug)]
pub(crate) struct Sink<'f> {
    pub file: &'f str,
    pub subject: Option<String>,
    pub problems: RefCell<Vec<Problem>>,
    /// Fields that are set, valid, and have no effect yet.
    pub without_effect: RefCell<Vec<String>>,
}

impl<'f> Sink<'f> {
    pub(crate) fn new(file: &'f str, subject: Option<String>) -> Sink<'f> {
        Sink { file, subject, problems: RefCell::default(), without_effect: RefCell::default() }
    }

    pub(crate) fn note(&self, severity: Severity, place: Place, field: &str, message: String) {
        self.problems.borrow_mut().push(Problem {
            severity,
            file: self.file.to_owned(),
            place: Some(place),
            subject: self.subject.clone(),
            field: (!field.is_empty()).then(|| field.to_owned()),
            message,
        });
    }

    pub(crate) fn failed(&self) -> bool {
        self.problems.borrow().iter().any(Problem::is_error)
    }
}

/// What a field whose meaning is not needed must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Bool,
    List,
    Mapping,
    Any,
}

#[derive(Debug)]
pub(crate) struct Fields<'t, 's> {
    /// The path of the mapping, empty for the document itself.
    path: String,
    place: Place,
    entries: &'t [Entry],
    known: Vec<&'static str>,
    sink: &'s Sink<'s>,
}

impl<'t, 's> Fields<'t, 's> {
    /// None, and a fault, if the tree is no mapping.
    pub(crate) fn of(tree: &'t Tree, path: &str, sink: &'s Sink<'s>) -> Option<Fields<'t, 's>> {
        let Value::Mapping(entries) = &tree.value else {
            let message = format!("{} stands where a mapping must; write fields below it", tree.describe());
            sink.note(Severity::Error, tree.place, path, message);
            return None;
        };
        Some(Fields { path: path.to_owned(), place: tree.place, entries, known: Vec::new(), sink })
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The place of the field's value, else of the mapping.
    pub(crate) fn place_of(&self, name: &str) -> Place {
        self.entries.iter().find(|entry| entry.key == name).map_or(self.place, |entry| entry.value.place)
    }

    /// Notes that what the field says is wrong.
    pub(crate) fn refuse(&self, name: &str, message: impl Into<String>) {
        self.sink.note(Severity::Error, self.place_of(name), &self.path_of(name), message.into());
    }

    /// Notes that the mapping as a whole is wrong.
    pub(crate) fn refuse_all(&self, message: impl Into<String>) {
        self.sink.note(Severity::Error, self.place, &self.path, message.into());
    }

    pub(crate) fn warn(&self, name: &str, message: impl Into<String>) {
        self.sink.note(Severity::Warning, self.place_of(name), &self.path_of(name), message.into());
    }

    /// The field is there and says something: not null, and not the empty text.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| {
            entry.key == name
                && !entry.value.is_null()
                && !matches!(&entry.value.value, Value::Scalar(scalar) if scalar.text.is_empty())
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The field as written; null is as good as absent.
    pub(crate) fn tree(&mut self, name: &'static str) -> Option<&'t Tree> {
        self.known.push(name);
        self.entries
            .iter()
            .find(|entry| entry.key == name)
            .map(|entry| &entry.value)
            .filter(|tree| !tree.is_null())
    }

    /// Any scalar, by its text; the empty text is as good as absent, as it is in Calico.
    pub(crate) fn parse<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let tree = self.tree(name)?;
        let Value::Scalar(scalar) = &tree.value else {
            self.refuse(name, format!("{} stands where one value must", tree.describe()));
            return None;
        };
        if scalar.text.is_empty() {
            return None;
        }
        match parse(&scalar.text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(name, error.to_string());
                None
            }
        }
    }

    /// Text; a number or a truth value must be in quotes to be text.
    pub(crate) fn text(&mut self, name: &'static str) -> Option<&'t str> {
        let tree = self.tree(name)?;
        let text = self.text_of(tree, &self.path_of(name))?;
        (!text.is_empty()).then_some(text)
    }

    fn text_of(&self, tree: &'t Tree, path: &str) -> Option<&'t str> {
        let message = match &tree.value {
            Value::Scalar(scalar) if scalar.is_text() => return Some(&scalar.text),
            Value::Scalar(scalar) => {
                let text = excerpt(&scalar.text);
                format!("{text} stands where text must; put it in quotes: \"{text}\"")
            }
            _ => format!("{} stands where text must", tree.describe()),
        };
        self.sink.note(Severity::Error, tree.place, path, message);
        None
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let tree = self.tree(name)?;
        let value = match &tree.value {
            Value::Scalar(scalar) => scalar.as_bool(),
            _ => None,
        };
        if value.is_none() {
            self.refuse(name, format!("{} is neither true nor false", tree.describe()));
        }
        value
    }

    pub(crate) fn integer(&mut self, name: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let tree = self.tree(name)?;
        let value = match &tree.value {
            Value::Scalar(scalar) if scalar.plain => scalar.text.parse().ok(),
            _ => None,
        };
        let value = value.filter(|value| range.contains(value));
        if value.is_none() {
            let (from, to) = range.into_inner();
            self.refuse(name, format!("{} is not a number from {from} to {to}", tree.describe()));
        }
        value
    }

    /// One of some words, exactly as written here.
    pub(crate) fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(name)?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.refuse(name, format!("\"{}\" is not one of {}", excerpt(text), words.join(", ")));
        None
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, name: &'static str) -> Vec<&'t str> {
        let items = self.items(name);
        items.into_iter().filter_map(|(path, tree)| self.text_of(tree, &path)).collect()
    }

    /// A list of values, each as in [`Self::parse`]; an empty text is no value here.
    pub(crate) fn parse_each<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for (path, tree) in self.items(name) {
            let parsed = match &tree.value {
                Value::Scalar(scalar) => parse(&scalar.text).map_err(|error| error.to_string()),
                _ => Err(format!("{} stands where one value must", tree.describe())),
            };
            match parsed {
                Ok(value) => values.push(value),
                Err(message) => self.sink.note(Severity::Error, tree.place, &path, message),
            }
        }
        values
    }

    /// A list of mappings.
    pub(crate) fn objects(&mut self, name: &'static str) -> Vec<Fields<'t, 's>> {
        let sink = self.sink;
        let items = self.items(name);
        items.into_iter().filter_map(|(path, tree)| Fields::of(tree, &path, sink)).collect()
    }

    /// How many members the list has; 0 for what is no list.
    pub(crate) fn length_of(&self, name: &str) -> usize {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        entry.map_or(0, |entry| match &entry.value.value {
            Value::Sequence(items) => items.len(),
            _ => 0,
        })
    }

    /// The members of a list, each with its path.
    fn items(&mut self, name: &'static str) -> Vec<(String, &'t Tree)> {
        let Some(tree) = self.tree(name) else { return Vec::new() };
        let Value::Sequence(items) = &tree.value else {
            self.refuse(name, format!("{} stands where a list must", tree.describe()));
            return Vec::new();
        };
        let path = self.path_of(name);
        items.iter().enumerate().map(|(index, tree)| (format!("{path}[{index}]"), tree)).collect()
    }

    /// A mapping of texts, such as labels.
    pub(crate) fn map(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let Some(tree) = self.tree(name) else { return BTreeMap::new() };
        let path = self.path_of(name);
        let Some(fields) = Fields::of(tree, &path, self.sink) else { return BTreeMap::new() };
        let mut map = BTreeMap::new();
        for entry in fields.entries {
            // Kubernetes reads a null as the empty text.
            let text = if entry.value.is_null() {
                Some("")
            } else {
                self.text_of(&entry.value, &format!("{path}[{}]", excerpt(&entry.key)))
            };
            map.extend(text.map(|text| (entry.key.clone(), text.to_owned())));
        }
        map
    }

    /// As [`Fields::map`], of what no message may show. Whoever reads the object sees to its values.
    pub(crate) fn hidden(&mut self, name: &'static str) -> Vec<(String, &'t str)> {
        let Some(tree) = self.tree(name) else { return Vec::new() };
        let Value::Mapping(entries) = &tree.value else {
            self.refuse(name, "is no mapping of keys to values");
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in entries {
            match &entry.value.value {
                Value::Scalar(scalar) if scalar.is_text() => {
                    found.push((entry.key.clone(), scalar.text.as_str()))
                }
                _ => self.refuse(
                    name,
                    format!("the value of {} is no text; put it in quotes", excerpt(&entry.key)),
                ),
            }
        }
        found
    }

    /// The fields of a mapping inside this one.
    pub(crate) fn object(&mut self, name: &'static str) -> Option<Fields<'t, 's>> {
        let tree = self.tree(name)?;
        Fields::of(tree, &self.path_of(name), self.sink)
    }

    /// Accepts fields whose meaning does not matter to Manx; only their form is checked.
    pub(crate) fn accept(&mut self, fields: &[(&'static str, Form)]) {
        for (name, form) in fields {
            self.accept_one(name, *form);
        }
    }

    fn accept_one(&mut self, name: &'static str, form: Form) -> bool {
        let Some(tree) = self.tree(name) else { return false };
        let wanted = match (form, &tree.value) {
            (Form::Any, _) | (Form::List, Value::Sequence(_)) | (Form::Mapping, Value::Mapping(_)) => {
                return true;
            }
            (Form::Text, Value::Scalar(scalar)) if scalar.is_text() => return !scalar.text.is_empty(),
            (Form::Bool, Value::Scalar(scalar)) if scalar.as_bool().is_some() => return true,
            (Form::Text, _) => "text",
            (Form::Bool, _) => "true or false",
            (Form::List, _) => "a list",
            (Form::Mapping, _) => "a mapping",
        };
        self.refuse(name, format!("{} stands where {wanted} must", tree.describe()));
        false
    }

    /// Remembers that this field has no effect yet.
    pub(crate) fn without_effect(&self, name: &str) {
        self.sink.without_effect.borrow_mut().push(self.path_of(name));
    }

    /// Warns of every field that was not asked for.
    pub(crate) fn finish(self) {
        for entry in self.entries.iter().filter(|entry| !self.known.contains(&entry.key.as_str())) {
            let name = excerpt(&entry.key);
            let remedy = match nearest(&entry.key, self.known.iter().copied()) {
                Some(known) => format!("did you mean {known}?"),
                None => "it has no effect".to_owned(),
            };
            let message = format!("unknown field; {remedy}");
            self.sink.note(Severity::Warning, entry.place, &self.path_of(&name), message);
        }
    }
}
