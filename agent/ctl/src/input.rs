//! What `-f` names: files, directories, and `-` for standard input.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use manx_datastore::{Datastore, Manifest, OpenError};
use manx_resources::{Collected, Kind, Parsed, Problem, Snapshot, combine, parse};

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
    let collected = Input::read(paths, false)?.collect();
    Ok((collected.snapshot.into(), collected.problems))
}

/// What the datastore would say once these files were applied, what it says, and what is wrong with either.
pub fn applied(
    paths: &[PathBuf],
    datastore: &dyn Fn() -> Result<Datastore, OpenError>,
) -> anyhow::Result<(Arc<Snapshot>, Arc<Snapshot>, Vec<Problem>)> {
    let read = datastore()?.read();
    let mut problems = read.problems.to_vec();
    if paths.is_empty() {
        return Ok((read.snapshot.clone(), read.snapshot, problems));
    }
    let collected = Input::read(paths, false)?.collect();
    problems.extend(collected.problems);
    let mut after = Snapshot::clone(&read.snapshot);
    for kind in Kind::ALL {
        collected.snapshot.of_kind(kind).into_iter().for_each(|resource| after.insert(resource));
    }
    Ok((after.into(), read.snapshot, problems))
}

impl Input {
    /// `recursive`: of directories also the directories inside, but not those that links lead to.
    pub fn read(paths: &[PathBuf], recursive: bool) -> anyhow::Result<Input> {
        let mut texts = Vec::new();
        for path in paths {
            if path == Path::new("-") {
                texts.push(Text::new("stdin".to_owned(), read_stdin()?));
            } else {
                let inside = if recursive { directories(path)? } else { Vec::new() };
                for path in std::iter::once(path).chain(&inside) {
                    for (name, text) in manx_datastore::read_texts(path)? {
                        texts.push(Text::new(name, text));
                    }
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

/// The directories below a path, each before what is in it, by name; hidden ones are none of them.
fn directories(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut inside = Vec::new();
    for entry in path.read_dir().with_context(|| path.display().to_string())? {
        let entry = entry.with_context(|| path.display().to_string())?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.file_type().is_ok_and(|of| of.is_dir()) {
            inside.push(entry.path());
        }
    }
    inside.sort();
    for directory in inside {
        let below = directories(&directory)?;
        found.push(directory);
        found.extend(below);
    }
    Ok(found)
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().take(MAX_INPUT + 1).read_to_string(&mut text).context("cannot read stdin")?;
    anyhow::ensure!(read as u64 <= MAX_INPUT, "stdin holds more than 64 MiB; split it");
    Ok(text)
}
