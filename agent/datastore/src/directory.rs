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
                let problem = unreadable(&self.path, &error);
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

/// Reads one file, or a directory as a datastore does.
pub fn read_path(path: &Path) -> Collected {
    if path.is_dir() {
        return Reader::new(path).read();
    }
    match read_file(path) {
        Ok(text) => {
            let file = path.display().to_string();
            combine([(file.as_str(), &parse(&file, &text))])
        }
        Err(error) => Collected { problems: vec![unreadable(path, &error)], ..Collected::default() },
    }
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

pub(crate) fn read_file(path: &Path) -> io::Result<String> {
    // Without O_NONBLOCK the open itself would wait for a pipe's writer.
    let file = OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 64 MiB; split it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()] // The index is within the bytes.
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
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
        let collected = read_path(dir.path());
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
        let collected = read_path(dir.path());
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
