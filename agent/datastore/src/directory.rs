//! A directory of files: which of them count, and what they say. Files named `*.yaml`, `*.yml` and `*.json` count,
//! in the order of their names; hidden files, and what editors leave beside a file, do not. Directories inside are
//! not entered. Links are followed, so that a mounted Kubernetes ConfigMap works.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use manx_resources::{Collected, Parsed, Problem, Severity, combine, parse};

/// Ten thousand objects are some three megabytes.
const MAX_FILE: u64 = 64 << 20;

/// Reads a directory again and again; a file that did not change is not parsed again.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    known: BTreeMap<PathBuf, Known>,
}

#[derive(Debug)]
struct Known {
    hash: u64,
    parsed: Arc<Parsed>,
}

impl Reader {
    pub(crate) fn new(path: &Path) -> Reader {
        Reader { path: path.to_owned(), known: BTreeMap::new() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn read(&mut self) -> Collected {
        let paths = match files(&self.path) {
            Ok(paths) => paths,
            Err(error) => {
                let mut problem = unreadable(&self.path, &error);
                if error.kind() == io::ErrorKind::NotFound {
                    problem.message.push_str("; create the directory, or name another as the datastore");
                }
                return Collected { problems: vec![problem], ..Collected::default() };
            }
        };
        let mut problems = Vec::new();
        let mut known = BTreeMap::new();
        let mut parsed: Vec<(String, Arc<Parsed>)> = Vec::new();
        for path in paths {
            let text = match read_file(&path) {
                Ok(text) => text,
                // Gone since the directory was listed: an event is on its way.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => continue,
                Err(error) => {
                    problems.push(unreadable(&path, &error));
                    continue;
                }
            };
            let file = path.display().to_string();
            let hash = hash(&text);
            let kept = self.known.remove(&path).filter(|known| known.hash == hash);
            let entry = kept.unwrap_or_else(|| Known { hash, parsed: Arc::new(parse(&file, &text)) });
            parsed.push((file, Arc::clone(&entry.parsed)));
            known.insert(path, entry);
        }
        self.known = known;
        let mut collected = combine(parsed.iter().map(|(file, parsed)| (file.as_str(), parsed.as_ref())));
        collected.problems.append(&mut problems);
        collected
    }

    /// The directories outside this one in which files of the last reading really lie.
    pub(crate) fn targets(&self) -> Vec<PathBuf> {
        let links = self.known.keys().filter(|path| path.is_symlink());
        let real = links.filter_map(|path| fs::canonicalize(path).ok());
        let mut targets: Vec<PathBuf> = real.filter_map(|path| path.parent().map(Path::to_owned)).collect();
        targets.sort();
        targets.dedup();
        targets
    }
}

/// A path that cannot be read, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(Box<Problem>);

/// The texts of one file, or of the files of a directory that count, each with its name.
pub fn read_texts(path: &Path) -> Result<Vec<(String, String)>, ReadError> {
    let error = |path: &Path, error: io::Error| ReadError(Box::new(unreadable(path, &error)));
    let paths = if path.is_dir() {
        files(path).map_err(|source| error(path, source))?
    } else {
        vec![path.to_owned()]
    };
    let read = |path: PathBuf| match read_input(&path) {
        Ok(text) => Ok((path.display().to_string(), text)),
        Err(source) => Err(error(&path, source)),
    };
    paths.into_iter().map(read).collect()
}

/// The files of a directory that count, by name.
pub(crate) fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        if path.file_name().is_some_and(counts) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a file of this name counts.
pub(crate) fn counts(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().first().is_some_and(|first| matches!(first, b'.' | b'#'));
    let extension = Path::new(name).extension();
    !hidden && ["yaml", "yml", "json"].iter().any(|wanted| extension == Some(OsStr::new(wanted)))
}

/// A file of a datastore: anything but a regular file would make the reader wait.
pub(crate) fn read_file(path: &Path) -> io::Result<String> {
    // Without O_NONBLOCK the open itself would wait for a pipe's writer.
    let file = OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    read_text(file)
}

/// A file that a user names, which may be a pipe (`-f <(…)`).
fn read_input(path: &Path) -> io::Result<String> {
    read_text(fs::File::open(path)?)
}

fn read_text(file: fs::File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 64 MiB; split it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        #[expect(clippy::indexing_slicing, reason = "what is valid lies within the bytes")]
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8 text"))
    })
}

pub(crate) fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let message = match error.kind() {
        io::ErrorKind::NotFound if path.is_symlink() => "cannot be read: the link leads nowhere".to_owned(),
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        _ => format!("cannot be read: {error}"),
    };
    let file = path.display().to_string();
    Problem { severity: Severity::Error, file, place: None, subject: None, field: None, message }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_and_what_editors_leave_do_not_count() {
        for name in ["a.yaml", "a.yml", "a.json", "bgppeer.a.b.yaml"] {
            assert!(counts(OsStr::new(name)), "{name}");
        }
        for name in [
            ".a.yaml",
            "..data",
            "a.yaml~",
            "#a.yaml#",
            ".#a.yaml",
            "a.yaml.swp",
            "a.yaml.bak",
            "4913",
            "yaml",
            ".yaml",
        ] {
            assert!(!counts(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_pipe_or_a_link_to_nowhere_is_a_problem_and_not_a_wait() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("link.yaml")).unwrap();
        fs::write(dir.path().join("latin1.yaml"), b"a: 1\nb: \xe9\n").unwrap();
        fs::create_dir(dir.path().join("sub.yaml")).unwrap();
        let collected = Reader::new(dir.path()).read();
        let problems: Vec<String> = collected
            .problems
            .iter()
            .map(|problem| problem.to_string().replace(&dir.path().display().to_string(), "DIR"))
            .collect();
        assert_eq!(
            problems,
            [
                "DIR/latin1.yaml: cannot be read: line 2 is not UTF-8 text",
                "DIR/link.yaml: cannot be read: the link leads nowhere",
                "DIR/pipe.yaml: cannot be read: it is not a regular file",
            ]
        );
    }

    #[test]
    fn the_same_resource_in_two_files_is_an_error_that_names_both() {
        let dir = tempfile::tempdir().unwrap();
        let text = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: a\n";
        fs::write(dir.path().join("1.yaml"), format!("---\n{text}")).unwrap();
        fs::write(dir.path().join("2.yaml"), text).unwrap();
        let collected = Reader::new(dir.path()).read();
        assert_eq!(collected.problems.len(), 1);
        assert_eq!(
            collected.problems[0].to_string().replace(&dir.path().display().to_string(), "DIR"),
            "DIR/2.yaml:1:1: Node \"a\": the same resource stands in DIR/1.yaml:2:1; keep one of them"
        );
    }

    #[test]
    fn a_file_that_did_not_change_is_not_parsed_again() {
        let dir = tempfile::tempdir().unwrap();
        let text = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata:\n  name: a\n";
        fs::write(dir.path().join("1.yaml"), text).unwrap();
        let mut reader = Reader::new(dir.path());
        let first = reader.read().snapshot;
        fs::write(dir.path().join("2.yaml"), text.replace("name: a", "name: b")).unwrap();
        let second = reader.read().snapshot;
        assert!(std::ptr::eq(first.node("a").unwrap(), second.node("a").unwrap()));
        assert!(second.node("b").is_some());
    }
}
