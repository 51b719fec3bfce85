//! Where resources live: a directory of YAML and JSON files. Gives a consistent [`Snapshot`] now and a new one
//! whenever something changed, and writes resources back. What resources mean is `manx-resources`' business.
//! Other places to keep them become further variants of [`Datastore`].
#![forbid(unsafe_code)]

mod directory;

use std::{path::PathBuf, sync::Arc};

use manx_resources::{Problem, Snapshot};
use tokio::sync::watch;

/// What the datastore says at one moment.
#[derive(Clone, Debug)]
pub struct Update {
    /// The last good snapshot.
    pub snapshot: Arc<Snapshot>,
    /// What is wrong now. If one of them is an error, `snapshot` is older than the files.
    pub problems: Arc<[Problem]>,
    /// Grows by one with every update.
    pub revision: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("datastore \"{0}\": write dir:PATH, such as dir:/etc/manx")]
    Url(String),
    #[error("datastore \"{0}\": the path is missing; write dir:PATH, such as dir:/etc/manx")]
    EmptyPath(String),
}

#[derive(Debug, thiserror::Error)]
#[error("cannot watch {path}: {source}")]
pub struct WatchError {
    pub path: PathBuf,
    pub source: std::io::Error,
}

/// An opened datastore. Opening checks the URL only; nothing is read yet.
#[derive(Clone, Debug)]
pub enum Datastore {
    Directory(PathBuf),
}

impl Datastore {
    /// Opens `dir:PATH`.
    pub fn open(url: &str) -> Result<Datastore, OpenError> {
        match url.split_once(':') {
            Some(("dir", "")) => Err(OpenError::EmptyPath(url.to_owned())),
            Some(("dir", path)) => Ok(Datastore::Directory(PathBuf::from(path))),
            _ => Err(OpenError::Url(url.to_owned())),
        }
    }

    /// Reads everything once. Blocks on the file system.
    pub fn read(&self) -> Update {
        match self {
            Datastore::Directory(path) => directory::read(path),
        }
    }

    /// Reads everything, then goes on watching in a task of the current tokio runtime until every receiver is
    /// dropped. The receiver holds the first reading already.
    pub fn watch(&self) -> Result<watch::Receiver<Update>, WatchError> {
        match self {
            Datastore::Directory(path) => directory::watch(path),
        }
    }
}
