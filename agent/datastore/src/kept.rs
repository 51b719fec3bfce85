//! What the datastore said last, kept on disk, so that a daemon which starts while nothing can be read has its last
//! word. The first line has the version and a checksum of all behind it; then come the datastore and the time, then a
//! document a line. The file is replaced by rename, and is its owner's alone: it may hold what others must not read.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use manx_resources::{Kind, Snapshot, parse};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use crate::{Holds, Update};

const MAGIC: &str = "manx-snapshot";
const VERSION: u32 = 1;
/// After a change so long is waited for others.
const GATHER: Duration = Duration::from_secs(1);
/// From one writing to the next: a store that changes all day shall not keep the disk busy.
const APART: Duration = Duration::from_secs(10);

/// A snapshot of an earlier run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    pub snapshot: Snapshot,
    /// When it was written, which is soon after the last change that was seen; RFC 3339.
    pub written_at: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeptError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it is no kept snapshot")]
    Foreign,
    #[error("it is of version {0}, and this manxd reads version {VERSION}")]
    Version(u32),
    #[error("it is damaged: what it says has the checksum {is:08x}, and had {was:08x} when it was written")]
    Damaged { is: u32, was: u32 },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    datastore: String,
    written_at: String,
}

/// What is kept of this datastore. None: nothing, or another's.
pub(crate) fn load(path: &Path, datastore: &str) -> Result<Option<Kept>, KeptError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (header, documents) = open(&text)?;
    if header.datastore != datastore {
        info!("{} is of {}, and not used", path.display(), header.datastore);
        return Ok(None);
    }
    let mut kept = Kept { snapshot: Snapshot::default(), written_at: header.written_at };
    for line in documents.lines() {
        let parsed = parse(&path.to_string_lossy(), line);
        for problem in parsed.problems.iter().filter(|problem| problem.is_error()) {
            warn!("{problem}; an earlier version accepted it, and this one leaves it out");
        }
        for document in parsed.documents {
            kept.snapshot.insert(document.resource);
        }
    }
    Ok(Some(kept))
}

/// What stands behind the first two lines, if the first is true.
fn open(text: &[u8]) -> Result<(Header, &str), KeptError> {
    let text = std::str::from_utf8(text);
    // What is no text any more is damaged if its first line still is one; it is not worth telling the two apart.
    let (first, rest) = text.ok().and_then(|text| text.split_once('\n')).ok_or(KeptError::Foreign)?;
    let mut words = first.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(KeptError::Foreign);
    }
    match words.next().and_then(|version| version.parse().ok()) {
        Some(VERSION) => {}
        Some(other) => return Err(KeptError::Version(other)),
        None => return Err(KeptError::Foreign),
    }
    let was = words.next().and_then(|sum| u32::from_str_radix(sum, 16).ok()).ok_or(KeptError::Foreign)?;
    let is = crc32fast::hash(rest.as_bytes());
    if is != was {
        return Err(KeptError::Damaged { is, was });
    }
    let (header, documents) = rest.split_once('\n').ok_or(KeptError::Foreign)?;
    Ok((serde_json::from_str(header).map_err(|_| KeptError::Foreign)?, documents))
}

fn text_of(datastore: &str, written_at: &str, snapshot: &Snapshot) -> Result<String, serde_json::Error> {
    let header = Header { datastore: datastore.to_owned(), written_at: written_at.to_owned() };
    let mut rest = serde_json::to_string(&header)?;
    rest.push('\n');
    for resource in Kind::ALL.into_iter().flat_map(|kind| snapshot.of_kind(kind)) {
        rest.push_str(&serde_json::to_string(resource.document())?);
        rest.push('\n');
    }
    let mut text = String::with_capacity(rest.len() + 64);
    let _ = writeln!(text, "{MAGIC} {VERSION} {:08x}", crc32fast::hash(rest.as_bytes()));
    text.push_str(&rest);
    Ok(text)
}

fn save(path: &Path, text: &str) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let beside = path.with_extension("new");
    // One that was cut short may be there, with another mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    // The name is in the directory, which is a file of its own.
    File::open(directory)?.sync_all()
}

/// Puts on disk what the datastore says, some time after it says it, for as long as it says anything.
pub(crate) async fn keep(
    path: PathBuf,
    datastore: String,
    mut updates: watch::Receiver<Update>,
    mut on_disk: Option<Arc<Snapshot>>,
) {
    let mut again = Instant::now();
    let mut failed = false;
    loop {
        let update = updates.borrow_and_update().clone();
        if !is_the_stores(&update) || on_disk.as_deref() == Some(&*update.snapshot) {
            if updates.changed().await.is_err() {
                return;
            }
            sleep(GATHER).await;
            continue;
        }
        if Instant::now() < again {
            sleep_until(again).await;
            continue;
        }
        again = Instant::now() + APART;
        let written_at = format!("{:.3}", Timestamp::now());
        let (to, of, snapshot) = (path.clone(), datastore.clone(), update.snapshot.clone());
        let written =
            tokio::task::spawn_blocking(move || save(&to, &text_of(&of, &written_at, &snapshot)?)).await;
        match written {
            Ok(Ok(())) => (on_disk, failed) = (Some(update.snapshot), false),
            Ok(Err(error)) => {
                if !std::mem::replace(&mut failed, true) {
                    warn!(
                        "cannot write {}: {error}; trying again. Who starts while {datastore} cannot be read has what the file \
                         said before, or nothing",
                        path.display()
                    );
                }
                if updates.has_changed().is_err() {
                    return;
                }
            }
            // The runtime is shutting down.
            Err(_) => return,
        }
    }
}

/// While the store cannot be read, or is wrong as a whole, the snapshot is an older one, or part of one.
fn is_the_stores(update: &Update) -> bool {
    !update.has_errors() || update.holds == Holds::Objects
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: &str = "etcd://10.0.0.1:2379";
    const NODE: &str = "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: kw01}, spec: {bgp: {ipv4Address: 10.0.0.1/24}, future: [1, null]}}";

    fn snapshot() -> Snapshot {
        let collected = manx_resources::collect([("node.yaml", NODE)]);
        assert_eq!(collected.snapshot.len(), 1);
        collected.snapshot
    }

    fn written() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manx/resources");
        save(&path, &text_of(STORE, "2026-01-01T00:00:00.000Z", &snapshot()).unwrap()).unwrap();
        (directory, path)
    }

    #[test]
    fn what_was_kept_is_read_again_with_all_its_fields_and_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let (_directory, path) = written();
        let kept = load(&path, STORE).unwrap().unwrap();
        assert_eq!(kept, Kept { snapshot: snapshot(), written_at: "2026-01-01T00:00:00.000Z".into() });
        assert_eq!(kept.snapshot.node("kw01").unwrap().document["spec"]["future"][0], 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // And what is written over it is so, too.
        save(&path, "other").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(load(&path, STORE), Err(KeptError::Foreign)));
    }

    #[test]
    fn of_another_datastore_or_never_written_it_is_nothing() {
        let (directory, path) = written();
        assert_eq!(load(&path, "dir:/etc/manx").unwrap(), None);
        assert_eq!(load(&directory.path().join("never"), STORE).unwrap(), None);
    }

    #[test]
    fn of_a_file_that_is_cut_or_changed_anywhere_nothing_is_used() {
        let (_directory, path) = written();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).unwrap();
            assert!(load(&path, STORE).is_err(), "cut at {at}");
            let mut flipped = whole.clone();
            flipped[at] ^= 0x01;
            fs::write(&path, &flipped).unwrap();
            assert!(load(&path, STORE).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        let (_directory, path) = written();
        let text = fs::read_to_string(&path).unwrap();
        let said = |text: &str| {
            fs::write(&path, text).unwrap();
            load(&path, STORE).unwrap_err().to_string()
        };
        assert_eq!(
            said(&text.replacen(" 1 ", " 2 ", 1)),
            "it is of version 2, and this manxd reads version 1"
        );
        assert!(said(&text.replace("10.0.0.1/24", "10.0.0.2/24")).starts_with("it is damaged: "));
        assert_eq!(said("kind: Node\n"), "it is no kept snapshot");
    }

    #[test]
    fn what_is_not_the_stores_word_is_not_kept() {
        let wrong = || {
            let collected = manx_resources::collect([("node.yaml", "kind: Nod")]);
            Update { problems: collected.problems.into(), ..Update::default() }
        };
        assert!(is_the_stores(&Update::default()));
        assert!(!is_the_stores(&wrong()));
        assert!(is_the_stores(&Update { holds: Holds::Objects, ..wrong() }));
    }
}
