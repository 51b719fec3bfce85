//! What `-f` names: files, directories, and `-` for standard input.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use manx_datastore::{Datastore, Manifest, OpenError};
use manx_resources::{Collected, Parsed, Problem, Snapshot, combine, parse};

/// As much as a file of a datastore may hold.
const MAX_INPUT: u64 = 64 << 20;

/// Texts that were read, with what they say.
#[derive(Debug)]
pub struct Input {
    texts: Vec<Text>,
}

#[derive(Debug)]
struct Text {
    name: String,
    text: String,
    parsed: Parsed,
}

/// What these files say, or the datastore where there are none, and what is wrong with it.
pub fn snapshot(
    paths: &[PathBuf],
    datastore: &dyn Fn() -> Result<Datastore, OpenError>,
) -> anyhow::Result<(Arc<Snapshot>, Vec<Problem>)> {
    if paths.is_empty() {
        let read = datastore()?.read();
        return Ok((read.snapshot, read.problems.to_vec()));
    }
    let collected = Input::read(paths)?.collect();
    Ok((collected.snapshot.into(), collected.problems))
}

impl Input {
    pub fn read(paths: &[PathBuf]) -> anyhow::Result<Input> {
        let mut texts = Vec::new();
        for path in paths {
            if path == Path::new("-") {
                texts.push(Text::new("stdin".to_owned(), read_stdin()?));
            } else {
                for (name, text) in manx_datastore::read_texts(path)? {
                    texts.push(Text::new(name, text));
                }
            }
        }
        Ok(Input { texts })
    }

    /// All resources together, with all that is wrong.
    pub fn collect(&self) -> Collected {
        combine(self.texts.iter().map(|text| (text.name.as_str(), &text.parsed)))
    }

    /// The resources in the order in which they were given.
    pub fn manifests(&self) -> Vec<Manifest> {
        self.texts.iter().flat_map(|text| Manifest::of(&text.text, &text.parsed)).collect()
    }
}

impl Text {
    fn new(name: String, text: String) -> Text {
        let parsed = parse(&name, &text);
        Text { name, text, parsed }
    }
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().take(MAX_INPUT + 1).read_to_string(&mut text).context("cannot read stdin")?;
    anyhow::ensure!(read as u64 <= MAX_INPUT, "stdin holds more than 64 MiB; split it");
    Ok(text)
}
