//! Where resources live: a directory of YAML and JSON files, or etcd. Gives a consistent [`Snapshot`] now and a new one
//! whenever something changed, and writes resources back. What resources mean is `manx-resources`' business.
//! Other places to keep them become further variants of [`Datastore`].
#![forbid(unsafe_code)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::string_slice)]

mod calicoctl;
mod directory;
mod etcd;
mod kept;
mod version;
mod watch;
mod write;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use manx_resources::{Kind, Problem, Snapshot};

pub use calicoctl::Wrong as WrongConfig;
pub use directory::{ReadError, read_texts};
pub use etcd::Etcd;
pub use kept::Kept;
pub use version::Reading;
pub use watch::WatchError;
pub use write::{Manifest, Refused, Write, WriteError, Written, after, annotated};

/// What the datastore says at one moment.
#[derive(Clone, Debug, Default)]
pub struct Update {
    pub snapshot: Arc<Snapshot>,
    /// What is wrong now. If one of them is an error, `snapshot` is not what the datastore says, but what `holds`
    /// says.
    pub problems: Arc<[Problem]>,
    pub holds: Holds,
    /// The snapshot is of an earlier run, kept on disk, and the datastore has said nothing good since the start: when it was
    /// written, RFC 3339.
    pub kept_at: Option<Arc<str>>,
    /// Grows by one with every update.
    pub revision: u64,
}

/// What a snapshot is where something has errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Holds {
    /// What the datastore said when it was last without errors, all of it: who edits a file edits the whole. If it never
    /// was since the start, the documents that are good. So too while it cannot be asked.
    #[default]
    Everything,
    /// All objects as they are, but those with errors as they were when they were last good: many write there, and nobody
    /// stops the others.
    Objects,
}

impl Update {
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error(
        "datastore \"{0}\" is not known; write dir:PATH, such as dir:/etc/manx, or etcd://HOST:PORT, such as \
         etcd://10.0.0.1:2379,10.0.0.2:2379"
    )]
    Scheme(String),
    #[error(
        "datastore \"{0}\" names no etcd; write hosts and ports, such as etcd://10.0.0.1:2379,10.0.0.2:2379, and etcds:// \
         for TLS; user and certificates are ETCD_USERNAME, ETCD_PASSWORD, ETCD_CA_CERT_FILE, ETCD_CERT_FILE and ETCD_KEY_FILE"
    )]
    Endpoints(String),
    #[error("datastore \"{0}\" names no directory; write dir:PATH, such as dir:/etc/manx")]
    EmptyPath(String),
    #[error("datastore \"{0}\" is a path alone; write dir:{0}")]
    PathAlone(String),
    #[error("{file} {why}")]
    Config { file: String, why: WrongConfig },
}

/// An opened datastore. Opening checks the URL only; nothing is read yet, and nothing need exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datastore {
    Directory(PathBuf),
    Etcd(Etcd),
}

impl Datastore {
    /// Opens `dir:PATH`, `etcd://HOST:PORT,…` or `etcds://HOST:PORT,…`.
    pub fn open(url: &str) -> Result<Datastore, OpenError> {
        match url.split_once(':') {
            Some(("dir", "")) => Err(OpenError::EmptyPath(url.to_owned())),
            Some(("dir", path)) => Ok(Datastore::Directory(PathBuf::from(path))),
            Some((scheme @ ("etcd" | "etcds"), rest)) => {
                Etcd::parse(url, rest, scheme == "etcds").map(Datastore::Etcd)
            }
            _ if url.starts_with(['/', '.']) => Err(OpenError::PathAlone(url.to_owned())),
            _ => Err(OpenError::Scheme(url.to_owned())),
        }
    }

    /// Opens the etcd that a configuration file of calicoctl names (a CalicoAPIConfig).
    pub fn of_calicoctl(file: &Path) -> Result<Datastore, OpenError> {
        let of_file = |why| OpenError::Config { file: file.display().to_string(), why };
        calicoctl::datastore(file).map_err(of_file)
    }

    /// Reads everything once. Blocks on the file system, or on the network for some seconds.
    pub fn read(&self) -> Update {
        match self {
            Datastore::Directory(path) => {
                let collected = directory::Reader::new(path).read();
                Update {
                    snapshot: Arc::new(collected.snapshot),
                    problems: collected.problems.into(),
                    ..Update::default()
                }
            }
            Datastore::Etcd(etcd) => etcd.read(),
        }
    }

    /// Reads everything, then goes on watching in a task of the current tokio runtime (which must have its I/O and
    /// its timers enabled) until every receiver is dropped. The receiver holds the first reading already.
    pub async fn watch(&self) -> Result<tokio::sync::watch::Receiver<Update>, WatchError> {
        self.watch_since(None).await
    }

    /// As [`Datastore::watch`], and keeps in this file what the datastore says. Where the first reading has errors, what
    /// the file says is in force until there is better. It is used by one process at a time.
    pub async fn watch_and_keep(
        &self,
        file: &Path,
    ) -> Result<tokio::sync::watch::Receiver<Update>, WatchError> {
        let name = self.to_string();
        let kept = kept::load(file, &name).unwrap_or_else(|error| {
            tracing::warn!(
                "{}, where an earlier run kept the resources, is not used: {error}",
                file.display()
            );
            None
        });
        let on_disk = kept.as_ref().map(|kept| Arc::new(kept.snapshot.clone()));
        let updates = self.watch_since(kept).await?;
        tokio::spawn(kept::keep(file.to_owned(), name, updates.clone(), on_disk));
        Ok(updates)
    }

    async fn watch_since(
        &self,
        kept: Option<Kept>,
    ) -> Result<tokio::sync::watch::Receiver<Update>, WatchError> {
        match self {
            Datastore::Directory(path) => watch::watch(path, kept),
            Datastore::Etcd(etcd) => Ok(etcd::watch(etcd, kept).await),
        }
    }

    /// As [`Datastore::read`], with the versions of all objects, and in any case with those of these kinds: from etcd
    /// blocks come only where they are asked for.
    pub fn read_versions(&self, kinds: &[Kind]) -> Reading {
        match self {
            Datastore::Directory(_) => {
                let update = self.read();
                let all = Kind::ALL.into_iter().flat_map(|kind| update.snapshot.of_kind(kind));
                let versions =
                    all.map(|resource| (resource.key(), version::of_document(resource.document()))).collect();
                Reading { update, versions, version: None }
            }
            Datastore::Etcd(etcd) => etcd.read_versions(kinds),
        }
    }

    /// Changes objects: all that is given, or nothing, and then all that hinders it. What became of each is in the order
    /// in which they were given. Nothing is written if anything would be wrong afterwards. Blocks on the file system, and
    /// while somebody else writes, or on the network for some seconds.
    pub fn write(&self, writes: &[Write]) -> Result<Vec<Written>, Refused> {
        match self {
            Datastore::Directory(path) => write::files::write(path, writes),
            Datastore::Etcd(etcd) => etcd.write(writes),
        }
    }

    /// Creates or replaces resources, as [`Datastore::write`]; of what hinders it the first.
    pub fn apply(&self, manifests: &[Manifest]) -> Result<(), WriteError> {
        let writes: Vec<Write> = manifests.iter().cloned().map(Write::Apply).collect();
        self.write(&writes).map(drop).map_err(|mut refused| refused.swap_remove(0))
    }
}

/// The URL that opens it.
impl fmt::Display for Datastore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Datastore::Directory(path) => write!(f, "dir:{}", path.display()),
            Datastore::Etcd(etcd) => etcd.fmt(f),
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
            "datastore \"zk://x\" is not known; write dir:PATH, such as dir:/etc/manx, or etcd://HOST:PORT, such as \
             etcd://10.0.0.1:2379,10.0.0.2:2379"
        );
    }

    #[test]
    fn a_url_of_etcd_names_hosts_and_maybe_ports() {
        let opened = |url: &str| Datastore::open(url).unwrap().to_string();
        assert_eq!(opened("etcd://10.0.0.1,10.0.0.2:23790"), "etcd://10.0.0.1:2379,10.0.0.2:23790");
        assert_eq!(
            opened("etcds://[fd00::1],[fd00::2]:4,etcd.lab"),
            "etcds://[fd00::1]:2379,[fd00::2]:4,etcd.lab:2379"
        );
        for wrong in [
            "etcd:",
            "etcd://",
            "etcd:10.0.0.1",
            "etcd://a,",
            "etcd://a:0",
            "etcd://a:b",
            "etcd://u@a",
            "etcds://a/b",
        ] {
            let error = Datastore::open(wrong).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("datastore \"{wrong}\" names no etcd; write hosts")),
                "{error}"
            );
        }
    }
}
