//! Writing resources into a directory. A document that is there already is changed where it stands, and every other
//! byte of its file stays; a new one gets a file of its own. Writers take turns by a lock on the directory; readers
//! see each file whole, old or new, because it is renamed into place. Nothing is written unless all that would be
//! written reads back as what was meant, and all new texts lie on the disk before the first takes its place.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use manx_resources::{Collected, Key, Problem, combine, edit, to_yaml};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::{
    Action, Found, Manifest, Refused, Write, WriteError, Written, check,
    draft::{Draft, end_line},
    keys, not_admitted,
};
use crate::{
    directory::{files, read_file, unreadable},
    version,
};

const LOCK_PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn write(directory: &Path, writes: &[Write]) -> Result<Vec<Written>, Refused> {
    keys(writes)?;
    let one = |error: WriteError| vec![error];
    let lock = lock(directory).map_err(one)?;
    let mut files = Files::read(directory).map_err(one)?;
    let before = files.collect();
    let (mut written, mut refused) = (Vec::new(), Vec::new());
    for write in writes {
        match files.put(write, &before) {
            Ok(became) => written.push(became),
            Err(error) => refused.push(error),
        }
    }
    if refused.is_empty() {
        refused.extend(files.drafts.iter_mut().filter_map(|draft| draft.finish().err()));
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    let known: Vec<&Problem> = errors(&before).collect();
    let after = files.collect();
    if let Some(problem) = errors(&after).find(|problem| !known.contains(problem)) {
        return Err(vec![WriteError::WouldBeWrong(Box::new(problem.clone()))]);
    }
    let changed = writes.iter().zip(&written).filter(|(_, written)| **written != Written::Skipped);
    let place = directory.display().to_string();
    let refused = not_admitted(&place, changed.map(|(write, _)| write), &before.snapshot, &after.snapshot);
    if !refused.is_empty() {
        return Err(refused);
    }
    files.store().map_err(one)?;
    drop(lock);
    Ok(written)
}

fn errors(collected: &Collected) -> impl Iterator<Item = &Problem> {
    collected.problems.iter().filter(|problem| problem.is_error())
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

/// The files of a directory, and where each resource stands in them.
struct Files<'d> {
    directory: &'d Path,
    drafts: Vec<Draft>,
    /// The file and the place among its documents.
    places: BTreeMap<Key, Vec<(usize, usize)>>,
    by_path: BTreeMap<PathBuf, usize>,
}

impl<'d> Files<'d> {
    fn read(directory: &'d Path) -> Result<Files<'d>, WriteError> {
        let io = |path: &Path, source| WriteError::Io { path: path.to_owned(), source };
        let mut all =
            Files { directory, drafts: Vec::new(), places: BTreeMap::new(), by_path: BTreeMap::new() };
        for path in files(directory).map_err(|source| io(directory, source))? {
            let text =
                read_file(&path).map_err(|error| WriteError::Wrong(Box::new(unreadable(&path, &error))))?;
            all.insert(Draft::new(path, text));
        }
        Ok(all)
    }

    fn insert(&mut self, draft: Draft) -> usize {
        let index = self.drafts.len();
        for (document, place) in draft.parsed.documents.iter().zip(0..) {
            self.places.entry(document.resource.key()).or_default().push((index, place));
        }
        self.by_path.insert(draft.path.clone(), index);
        self.drafts.push(draft);
        index
    }

    fn collect(&self) -> Collected {
        let names: Vec<String> = self.drafts.iter().map(|draft| draft.path.display().to_string()).collect();
        combine(names.iter().map(String::as_str).zip(self.drafts.iter().map(|draft| &draft.parsed)))
    }

    fn path_of(&self, index: usize) -> PathBuf {
        self.drafts.get(index).map(|draft| draft.path.clone()).unwrap_or_default()
    }

    /// Puts one change into the draft of the file that holds the resource, or of a new one.
    fn put(&mut self, write: &Write, before: &Collected) -> Result<Written, WriteError> {
        let key = write.key();
        let holders = self.places.get(&key).map(Vec::as_slice).unwrap_or_default();
        if let [(first, _), (second, _), ..] = *holders {
            let (first, second) = (self.path_of(first), self.path_of(second));
            return Err(WriteError::InTwoPlaces { key, first, second });
        }
        let held = holders.first().copied();
        let document = held.and_then(|(file, place)| self.drafts.get(file)?.parsed.documents.get(place));
        let found = held.zip(document).map(|((file, _), document)| Found {
            version: version::of_document(document.resource.document()),
            place: self.path_of(file).display().to_string(),
        });
        let names = |kind| {
            let all = before.snapshot.of_kind(kind);
            all.iter().map(|resource| resource.name().to_owned()).collect()
        };
        let action = check(write, found, version::is_of_directory, names)?;
        let body = document.and_then(|document| document.body.clone());
        let old = document.map(|document| document.resource.document().clone());
        if action == Action::Skip {
            return Ok(Written::Skipped);
        }
        let Some(draft) = held.and_then(|(file, _)| self.drafts.get_mut(file)) else {
            return match write {
                Write::Apply(manifest) | Write::Create { manifest, .. } => self.create(key, manifest),
                // Refused above where there is no such object.
                _ => Ok(Written::Skipped),
            };
        };
        let file = draft.path.clone();
        if let Some(problem) = draft.parsed.problems.iter().find(|problem| problem.is_error()) {
            return Err(WriteError::Wrong(Box::new(problem.clone())));
        }
        let (new, body) = match (write, body) {
            (Write::Delete { .. }, Some(body)) => {
                draft.remove(key, body);
                return Ok(Written::Deleted);
            }
            (Write::Edit { resource, .. }, _) if old.as_ref() == Some(resource.document()) => {
                return Ok(Written::Unchanged);
            }
            (_, None) => return Err(WriteError::InList { key, file }),
            (Write::Edit { resource, .. }, Some(body)) => {
                let says = resource.document().clone();
                let edited = draft.text_of(&body).and_then(|text| edit(text, &says));
                let written = match edited {
                    None if !draft.is_json() => Written::Rewritten,
                    _ => Written::Replaced,
                };
                let text = edited.unwrap_or_else(|| draft_text(draft, None, &says));
                draft.replace(key, body, text, says);
                return Ok(written);
            }
            (
                Write::Apply(manifest) | Write::Create { manifest, .. } | Write::Replace(manifest),
                Some(body),
            ) => (manifest, body),
        };
        if draft.text_of(&body) == Some(new.body.as_str()) {
            return Ok(Written::Unchanged);
        }
        let says = new.resource.document().clone();
        // Neither text has comments that would be lost by not writing it; the file's own may stand around its fields.
        if old.as_ref() == Some(&says) && (draft.is_json() || new.is_printed()) {
            return Ok(Written::Unchanged);
        }
        let text = draft_text(draft, Some(new), &says);
        draft.replace(key, body, text, says);
        Ok(Written::Replaced)
    }

    fn create(&mut self, key: Key, manifest: &Manifest) -> Result<Written, WriteError> {
        let path = self.directory.join(file_name(&key));
        let says = manifest.resource.document().clone();
        // The file may be there and hold something else.
        if let Some(draft) = self.by_path.get(&path).and_then(|index| self.drafts.get_mut(*index)) {
            if let Some(problem) = draft.parsed.problems.iter().find(|problem| problem.is_error()) {
                return Err(WriteError::Wrong(Box::new(problem.clone())));
            }
            draft.append(key, manifest.body.clone(), says);
            return Ok(Written::Created);
        }
        let mut text = manifest.whole.clone().unwrap_or_else(|| manifest.body.clone());
        end_line(&mut text);
        let index = self.insert(Draft::new(path, String::new()));
        if let Some(draft) = self.drafts.get_mut(index) {
            draft.append(key, text, says);
        }
        Ok(Written::Created)
    }

    /// Writes what changed. Where a file cannot take its place, those that have taken theirs are put back.
    fn store(&self) -> Result<(), WriteError> {
        let mut ready = Vec::new();
        for (draft, new) in self.drafts.iter().filter_map(|draft| Some((draft, draft.new.as_deref()?))) {
            let target = fs::canonicalize(&draft.path).unwrap_or_else(|_| draft.path.clone());
            // A link stays, and what it leads to: empty, it says as little as if it were gone.
            let goes = new.is_empty() && draft.was_there() && !draft.path.is_symlink();
            ready.push(if goes { Ready::gone(target)? } else { Ready::written(target, new)? });
        }
        let mut done: Vec<&Ready> = Vec::new();
        for file in &ready {
            if let Err(error) = file.take_place() {
                done.into_iter().for_each(Ready::put_back);
                return Err(error);
            }
            done.push(file);
        }
        let mut parents: Vec<&Path> = ready.iter().filter_map(|file| file.target.parent()).collect();
        parents.sort();
        parents.dedup();
        // A name is on the disk when its directory is.
        for parent in parents {
            let synced = File::open(parent).and_then(|directory| directory.sync_all());
            synced.map_err(|source| WriteError::Io { path: parent.to_owned(), source })?;
        }
        Ok(())
    }
}

/// The new text of a document in its file's form.
fn draft_text(draft: &Draft, manifest: Option<&Manifest>, says: &Value) -> String {
    let json = || serde_json::to_string_pretty(says).unwrap_or_else(|_| says.to_string());
    match manifest {
        _ if draft.is_json() => json(),
        Some(manifest) => manifest.body.clone(),
        None => to_yaml(says),
    }
}

/// `bgppeer.bgppeer-global.yaml`.
fn file_name(key: &Key) -> String {
    format!("{}.{}.yaml", key.kind.name().to_ascii_lowercase(), key.name)
}

/// A file's new text on the disk beside it, or that it goes.
struct Ready {
    target: PathBuf,
    beside: Option<PathBuf>,
    /// As it was; none if it was not there.
    old: Option<Vec<u8>>,
}

impl Ready {
    fn gone(target: PathBuf) -> Result<Ready, WriteError> {
        let old = fs::read(&target).map_err(|source| WriteError::Io { path: target.clone(), source })?;
        Ok(Ready { target, beside: None, old: Some(old) })
    }

    /// Keeps the file's mode and owner.
    fn written(target: PathBuf, text: &str) -> Result<Ready, WriteError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // Hidden, so that no reader takes it for a resource's file.
        let beside = target.with_file_name(format!(".{name}.{}", std::process::id()));
        let old = fs::read(&target).ok();
        // From here on dropping it takes the file away again.
        let ready = Ready { target, beside: Some(beside.clone()), old };
        let write = || -> io::Result<()> {
            let mut file = File::create(&beside)?;
            if let Ok(old) = fs::metadata(&ready.target) {
                file.set_permissions(fs::Permissions::from_mode(old.mode()))?;
                let new = file.metadata()?;
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
                }
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| WriteError::Io { path: ready.target.clone(), source })?;
        Ok(ready)
    }

    fn take_place(&self) -> Result<(), WriteError> {
        let done = match &self.beside {
            Some(beside) => fs::rename(beside, &self.target),
            None => fs::remove_file(&self.target),
        };
        done.map_err(|source| WriteError::Io { path: self.target.clone(), source })
    }

    /// As well as can be: what made another file fail may hinder this, too, and that is what is told.
    fn put_back(&self) {
        let _told = match &self.old {
            Some(old) => {
                let text = String::from_utf8_lossy(old);
                Ready::written(self.target.clone(), &text).and_then(|before| before.take_place())
            }
            None => fs::remove_file(&self.target)
                .map_err(|source| WriteError::Io { path: self.target.clone(), source }),
        };
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // Renamed, as a rule. What cannot be removed is hidden, and tells whoever looks what happened.
            let _left = fs::remove_file(beside);
        }
    }
}
