//! Writing resources into a directory. A document that is there already is replaced where it stands, and every other
//! byte of its file stays; a new one gets a file of its own. Writers take turns by a lock on the directory; readers
//! see each file whole, old or new, because it is renamed into place. Nothing is written unless all that would be
//! written reads back as what was meant.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use manx_resources::{Document, Key, Parsed, Problem, Resource, combine, parse, to_yaml};
use nix::fcntl::{Flock, FlockArg};

use crate::directory::{files, read_file, unreadable};

const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// A resource, and the text that says it.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub resource: Resource,
    /// The document's own lines.
    body: String,
    /// The whole text that it came from, comments before the document included, if that holds nothing else.
    whole: Option<String>,
}

impl Manifest {
    /// The documents of a text that was parsed.
    pub fn of(text: &str, parsed: &Parsed) -> Vec<Manifest> {
        let only = parsed.documents.len() == 1 && parsed.skipped.is_empty();
        let manifest = |document: &Document| {
            let own = document.body.clone().and_then(|body| text.get(body));
            Manifest {
                resource: document.resource.clone(),
                body: own.map_or_else(|| to_yaml(document.resource.document()), str::to_owned),
                whole: own.filter(|_| only).map(|_| text.to_owned()),
            }
        };
        parsed.documents.iter().map(manifest).collect()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} does not exist; create it with: mkdir -p {0}")]
    NoDirectory(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0}: another program has been writing there for ten seconds; try again")]
    Locked(PathBuf),
    #[error("{0} is given twice")]
    GivenTwice(Key),
    #[error("{given} resources are more than etcd writes at once, which is {most}; apply them in parts")]
    TooMany { given: usize, most: usize },
    #[error("{store}: {why}")]
    Store { store: String, why: String },
    /// The file that holds the resource is wrong as it is.
    #[error("{0}; correct the file first")]
    Wrong(Box<Problem>),
    /// The whole would be wrong afterwards.
    #[error("{0}")]
    WouldBeWrong(Box<Problem>),
    #[error("{key} stands in {first} and in {second}; remove one of them first")]
    InTwoPlaces { key: Key, first: PathBuf, second: PathBuf },
    #[error("{key} is a member of a list in {file}; make it a document of its own there first")]
    InList { key: Key, file: PathBuf },
    #[error(
        "{key} cannot be replaced in {file} without touching what stands around it; edit the file by hand"
    )]
    Entangled { key: Key, file: PathBuf },
}

/// A file as it is, and as it shall be.
struct Draft {
    path: PathBuf,
    text: String,
    parsed: Parsed,
    new: Option<String>,
}

pub(crate) fn apply(directory: &Path, manifests: &[Manifest]) -> Result<(), WriteError> {
    let lock = lock(directory)?;
    let mut drafts = read(directory)?;
    let before = errors(&drafts);
    let mut given = Vec::new();
    for manifest in manifests {
        let key = manifest.resource.key();
        if given.contains(&key) {
            return Err(WriteError::GivenTwice(key));
        }
        put(directory, &mut drafts, manifest)?;
        given.push(key);
    }
    let after = errors(&drafts);
    if let Some(problem) = after.into_iter().find(|problem| !before.contains(problem)) {
        return Err(WriteError::WouldBeWrong(Box::new(problem)));
    }
    for draft in drafts.iter().filter_map(|draft| Some((draft, draft.new.as_deref()?))) {
        replace_file(&draft.0.path, draft.1)?;
    }
    drop(lock);
    Ok(())
}

/// A lock on the directory itself leaves no file behind. It ends with this process, however that ends.
fn lock(directory: &Path) -> Result<Flock<File>, WriteError> {
    let mut file = match File::open(directory) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(WriteError::NoDirectory(directory.to_owned()));
        }
        Err(source) => return Err(WriteError::Io { path: directory.to_owned(), source }),
    };
    let patience = Instant::now() + LOCK_PATIENCE;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR))
                if Instant::now() < patience =>
            {
                file = back;
                sleep(Duration::from_millis(20));
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Err(WriteError::Locked(directory.to_owned())),
            Err((_, errno)) => {
                return Err(WriteError::Io { path: directory.to_owned(), source: errno.into() });
            }
        }
    }
}

fn read(directory: &Path) -> Result<Vec<Draft>, WriteError> {
    let io = |path: &Path, source| WriteError::Io { path: path.to_owned(), source };
    let mut drafts = Vec::new();
    for path in files(directory).map_err(|source| io(directory, source))? {
        let text =
            read_file(&path).map_err(|error| WriteError::Wrong(Box::new(unreadable(&path, &error))))?;
        let parsed = parse(&path.display().to_string(), &text);
        drafts.push(Draft { path, text, parsed, new: None });
    }
    Ok(drafts)
}

fn errors(drafts: &[Draft]) -> Vec<Problem> {
    let files: Vec<String> = drafts.iter().map(|draft| draft.path.display().to_string()).collect();
    let all = combine(files.iter().map(String::as_str).zip(drafts.iter().map(|draft| &draft.parsed)));
    all.problems.into_iter().filter(Problem::is_error).collect()
}

/// Puts one resource into the draft of the file that holds it, or of a new one.
fn put(directory: &Path, drafts: &mut Vec<Draft>, manifest: &Manifest) -> Result<(), WriteError> {
    let key = manifest.resource.key();
    let holders: Vec<usize> =
        (0..).zip(drafts.iter()).flat_map(|(index, draft)| vec![index; draft.count(&key)]).collect();
    let path_of = |index: usize| drafts.get(index).map(|draft| draft.path.clone()).unwrap_or_default();
    if let [first, second, ..] = *holders {
        return Err(WriteError::InTwoPlaces { key, first: path_of(first), second: path_of(second) });
    }
    if let Some(draft) = holders.first().and_then(|index| drafts.get_mut(*index)) {
        let file = draft.path.clone();
        if let Some(problem) = draft.parsed.problems.iter().find(|problem| problem.is_error()) {
            return Err(WriteError::Wrong(Box::new(problem.clone())));
        }
        let at = draft.position(&key).and_then(|index| draft.parsed.documents.get(index));
        let Some(body) = at.and_then(|document| document.body.clone()) else {
            return Err(WriteError::InList { key, file });
        };
        if draft.text.get(body.clone()) == Some(manifest.body.as_str()) {
            return Ok(());
        }
        let text = splice(draft, body, manifest)
            .ok_or_else(|| WriteError::Entangled { key: key.clone(), file: file.clone() })?;
        let mut expected = resources(&draft.parsed);
        expected.insert(key.clone(), manifest.resource.document().clone());
        return draft.accept(text, &expected).ok_or(WriteError::Entangled { key, file });
    }
    let path = directory.join(file_name(&key));
    match drafts.iter_mut().find(|draft| draft.path == path) {
        // The file is there and holds something else.
        Some(draft) => {
            let file = draft.path.clone();
            if let Some(problem) = draft.parsed.problems.iter().find(|problem| problem.is_error()) {
                return Err(WriteError::Wrong(Box::new(problem.clone())));
            }
            let mut text = draft.text.clone();
            if !text.is_empty() {
                end_line(&mut text);
                text.push_str("---\n");
            }
            text.push_str(&manifest.body);
            end_line(&mut text);
            let mut expected = resources(&draft.parsed);
            expected.insert(key.clone(), manifest.resource.document().clone());
            draft.accept(text, &expected).ok_or(WriteError::Entangled { key, file })
        }
        None => {
            let mut draft =
                Draft { path: path.clone(), text: String::new(), parsed: Parsed::default(), new: None };
            let expected = BTreeMap::from([(key.clone(), manifest.resource.document().clone())]);
            let mut text = manifest.whole.clone().unwrap_or_else(|| manifest.body.clone());
            end_line(&mut text);
            draft.accept(text, &expected).ok_or(WriteError::Entangled { key, file: path })?;
            drafts.push(draft);
            Ok(())
        }
    }
}

impl Draft {
    fn count(&self, key: &Key) -> usize {
        self.parsed.documents.iter().filter(|document| document.resource.key() == *key).count()
    }

    fn position(&self, key: &Key) -> Option<usize> {
        self.parsed.documents.iter().position(|document| document.resource.key() == *key)
    }

    /// Takes the new text if it says exactly what is expected, and is without errors.
    fn accept(&mut self, text: String, expected: &BTreeMap<Key, serde_json::Value>) -> Option<()> {
        let parsed = parse(&self.path.display().to_string(), &text);
        if parsed.has_errors() || resources(&parsed) != *expected {
            return None;
        }
        self.new = Some(text.clone());
        self.text = text;
        self.parsed = parsed;
        Some(())
    }
}

fn resources(parsed: &Parsed) -> BTreeMap<Key, serde_json::Value> {
    let documents = parsed.documents.iter();
    documents.map(|document| (document.resource.key(), document.resource.document().clone())).collect()
}

/// The draft's text with the body of one document replaced.
fn splice(draft: &Draft, body: Range<usize>, manifest: &Manifest) -> Option<String> {
    let (before, rest) = (draft.text.get(..body.start)?, draft.text.get(body.end..)?);
    let mut text = before.to_owned();
    if draft.path.extension().is_some_and(|extension| extension == "json") {
        text.push_str(&serde_json::to_string_pretty(manifest.resource.document()).ok()?);
    } else {
        // The old document began on the line of its separator ("--- {…}").
        if !before.is_empty() && !before.ends_with(['\n', '\u{feff}']) {
            text.push('\n');
        }
        text.push_str(&manifest.body);
    }
    end_line(&mut text);
    text.push_str(rest);
    Some(text)
}

fn end_line(text: &mut String) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
}

/// `bgppeer.bgppeer-global.yaml`.
fn file_name(key: &Key) -> String {
    format!("{}.{}.yaml", key.kind.name().to_ascii_lowercase(), key.name)
}

/// Writes beside the file and renames. Keeps the file's mode and owner, and a link that leads to it.
fn replace_file(path: &Path, text: &str) -> Result<(), WriteError> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let error = |source| WriteError::Io { path: target.clone(), source };
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    // Hidden, so that no reader takes it for a resource's file.
    let beside = target.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        if let Ok(old) = fs::metadata(&target) {
            file.set_permissions(fs::Permissions::from_mode(old.mode()))?;
            let new = file.metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, &target)
    };
    write().map_err(|source| {
        // What cannot be removed is hidden, and tells whoever looks what happened.
        let _left = fs::remove_file(&beside);
        error(source)
    })
}
