//! Where resources live: a directory of YAML and JSON files. Gives a consistent [`Snapshot`] now and a new one
//! whenever something changed, and writes resources back. What resources mean is `manx-resources`' business.
//! Other places to keep them become further variants of [`Datastore`].
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod directory;
mod watch;
mod write;

use std::{fmt, path::PathBuf, sync::Arc};

use manx_resources::{Problem, Snapshot};

pub use directory::{ReadError, read_texts};
pub use watch::WatchError;
pub use write::{Manifest, WriteError};

/// What the datastore says at one moment.
#[derive(Clone, Debug)]
pub struct Update {
    /// The last good snapshot: what the datastore said when it was last without errors. If it never was since the
    /// start, the documents that are good.
    pub snapshot: Arc<Snapshot>,
    /// What is wrong now. If one of them is an error, `snapshot` is not what the datastore says.
    pub problems: Arc<[Problem]>,
    /// Grows by one with every update.
    pub revision: u64,
}

impl Update {
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("datastore \"{0}\" is not known; write dir:PATH, such as dir:/etc/manx")]
    Scheme(String),
    #[error("datastore \"{0}\" names no directory; write dir:PATH, such as dir:/etc/manx")]
    EmptyPath(String),
    #[error("datastore \"{0}\" is a path alone; write dir:{0}")]
    PathAlone(String),
}

/// An opened datastore. Opening checks the URL only; nothing is read yet, and nothing need exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datastore {
    Directory(PathBuf),
}

impl Datastore {
    /// Opens `dir:PATH`.
    pub fn open(url: &str) -> Result<Datastore, OpenError> {
        match url.split_once(':') {
            Some(("dir", "")) => Err(OpenError::EmptyPath(url.to_owned())),
            Some(("dir", path)) => Ok(Datastore::Directory(PathBuf::from(path))),
            _ if url.starts_with(['/', '.']) => Err(OpenError::PathAlone(url.to_owned())),
            _ => Err(OpenError::Scheme(url.to_owned())),
        }
    }

    /// Reads everything once. Blocks on the file system.
    pub fn read(&self) -> Update {
        match self {
            Datastore::Directory(path) => {
                let collected = directory::Reader::new(path).read();
                Update {
                    snapshot: Arc::new(collected.snapshot),
                    problems: collected.problems.into(),
                    revision: 0,
                }
            }
        }
    }

    /// Reads everything, then goes on watching in a task of the current tokio runtime (which must have its I/O and
    /// its timers enabled) until every receiver is dropped. The receiver holds the first reading already.
    pub fn watch(&self) -> Result<tokio::sync::watch::Receiver<Update>, WatchError> {
        match self {
            Datastore::Directory(path) => watch::watch(path),
        }
    }

    /// Creates or replaces resources. Nothing is written if anything would be wrong afterwards. Blocks on the file
    /// system, and while somebody else writes.
    pub fn apply(&self, manifests: &[Manifest]) -> Result<(), WriteError> {
        match self {
            Datastore::Directory(path) => write::apply(path, manifests),
        }
    }
}

/// The URL that opens it.
impl fmt::Display for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Datastore::Directory(path) => write!(f, "dir:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_dir_and_a_path() {
        assert_eq!(Datastore::open("dir:/etc/manx").unwrap().to_string(), "dir:/etc/manx");
        let error = |url: &str| Datastore::open(url).unwrap_err().to_string();
        assert_eq!(
            error("dir:"),
            "datastore \"dir:\" names no directory; write dir:PATH, such as dir:/etc/manx"
        );
        assert_eq!(error("/etc/manx"), "datastore \"/etc/manx\" is a path alone; write dir:/etc/manx");
        assert_eq!(
            error("zk://x"),
            "datastore \"zk://x\" is not known; write dir:PATH, such as dir:/etc/manx"
        );
    }
}
