//! Annotations under `manx.dev/`: settings for which Calico's schema has no field. The API server checks none of
//! them, so what is wrong with one is a warning: it counts as not set, and the object and its other annotations
//! stand, as Calico does with the annotations of a Node. All that is wrong is told with its place.

use std::{fmt, ops::RangeInclusive};

use crate::{
    Severity, duration,
    fields::Sink,
    nearest::nearest,
    tree::{Entry, Place, Tree, Value, excerpt},
};

/// What the names of all of them begin with.
pub(crate) const PREFIX: &str = "manx.dev/";

/// The annotations of one document. One that nobody asked for is unknown.
#[derive(Debug)]
pub(crate) struct Annotations<'t, 's> {
    entries: Vec<&'t Entry>,
    known: Vec<&'static str>,
    sink: &'s Sink<'s>,
}

impl<'t, 's> Annotations<'t, 's> {
    /// Those of the document `root`; a document without any has none.
    pub(crate) fn of(root: &'t Tree, sink: &'s Sink<'s>) -> Annotations<'t, 's> {
        let inside = |tree: &'t Tree, name: &str| match &tree.value {
            Value::Mapping(entries) => {
                entries.iter().find(|entry| entry.key == name).map(|entry| &entry.value)
            }
            _ => None,
        };
        let all = inside(root, "metadata").and_then(|metadata| inside(metadata, "annotations"));
        let entries = match all.map(|tree| &tree.value) {
            Some(Value::Mapping(entries)) => {
                entries.iter().filter(|entry| entry.key.starts_with(PREFIX)).collect()
            }
            _ => Vec::new(),
        };
        Annotations { entries, known: Vec::new(), sink }
    }

    fn entry(&self, name: &str) -> Option<&'t Entry> {
        self.entries.iter().copied().find(|entry| entry.key.strip_prefix(PREFIX) == Some(name))
    }

    fn note(&self, place: Place, key: &str, message: String) {
        let field = format!("metadata.annotations[{}]", excerpt(key));
        self.sink.note(Severity::Warning, place, &field, message);
    }

    /// `name` is without the prefix, here and below. The empty text is as good as absent.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        let text =
            |entry: &Entry| matches!(&entry.value.value, Value::Scalar(scalar) if !scalar.text.is_empty());
        self.entry(name).is_some_and(text)
    }

    /// Says something about an annotation that is there.
    pub(crate) fn warn(&self, name: &str, message: impl Into<String>) {
        if let Some(entry) = self.entry(name) {
            self.note(entry.value.place, &entry.key, message.into());
        }
    }

    /// The value, or a warning and None. What is not text has been refused with the rest of `metadata`.
    pub(crate) fn parse<T, E: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.known.push(name);
        let entry = self.entry(name)?;
        let Value::Scalar(scalar) = &entry.value.value else { return None };
        let text = scalar.text.trim();
        if text.is_empty() {
            return None;
        }
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.warn(name, format!("{error}; until then it counts as not set"));
                None
            }
        }
    }

    /// `"true"` or `"false"`.
    pub(crate) fn flag(&mut self, name: &'static str) -> Option<bool> {
        self.parse(name, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(format!("\"{}\" is neither \"true\" nor \"false\"; write one of them", excerpt(text))),
        })
    }

    /// `unit` says what is counted, such as "number of paths".
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u32>,
        unit: &str,
    ) -> Option<u32> {
        self.parse(name, |text| number(text, range, unit))
    }

    /// A duration in whole seconds.
    pub(crate) fn seconds(&mut self, name: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        self.parse(name, |text| {
            let seconds = duration::seconds(text).map_err(|error| error.to_string())?;
            let within = u32::try_from(seconds).ok().filter(|seconds| range.contains(seconds));
            within.ok_or_else(|| {
                format!("{seconds} s is too long or too short; write {}s to {}s", range.start(), range.end())
            })
        })
    }

    /// Warns of every annotation of ours that was not asked for. `elsewhere` says where a name that this kind does
    /// not know belongs.
    pub(crate) fn finish(self, elsewhere: impl Fn(&str) -> Option<String>) {
        for entry in &self.entries {
            let name = entry.key.strip_prefix(PREFIX).unwrap_or(&entry.key);
            if self.known.contains(&name) {
                continue;
            }
            let remedy = match (elsewhere(name), nearest(name, self.known.iter().copied())) {
                (Some(place), _) => place,
                (None, Some(known)) => format!("did you mean {PREFIX}{known}?"),
                (None, None) if self.known.is_empty() => {
                    "no annotation of this kind has an effect".to_owned()
                }
                (None, None) => {
                    let known: Vec<&str> = self.known.to_vec();
                    format!("it has no effect; here there are {}", known.join(", "))
                }
            };
            self.note(entry.place, &entry.key, format!("unknown annotation; {remedy}"));
        }
    }
}

/// A number without sign or leading zeros.
pub(crate) fn number(text: &str, range: RangeInclusive<u32>, unit: &str) -> Result<u32, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|number| digits && range.contains(number)).ok_or_else(|| {
        let (from, to) = range.into_inner();
        format!("\"{}\" is no {unit}; write {from} to {to}", excerpt(text))
    })
}
