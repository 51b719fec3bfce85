//! Passwords: the key `K` of the secret `S` is the file `S/K` below one directory, which is the shape of Kubernetes'
//! mounted secrets, and where there is none, what a Secret of the datastore has. Nothing that is read here is printed, logged or served; what is said of a secret is its
//! file's name.

use std::{
    collections::{BTreeSet, HashMap},
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use manx_resources::{SecretKey, Snapshot, spec::Hidden};
use manx_transport::{MAX_PASSWORD, Password};
use nix::fcntl::OFlag;

/// Enough to see that a file is too long, line end included.
const READ_AT_MOST: u64 = MAX_PASSWORD as u64 + 3;

/// A password and which reading of it this is: another number is another password.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'s> {
    pub password: &'s Password,
    pub revision: u64,
}

/// The secrets that somebody asks for, as they were when they were last looked at.
#[derive(Debug)]
pub struct Secrets {
    directory: PathBuf,
    known: HashMap<SecretKey, Known>,
    revisions: u64,
}

#[derive(Debug, Default)]
struct Known {
    password: Option<(Password, u64)>,
    /// Why it could not be read the last time.
    problem: Option<String>,
}

impl Secrets {
    pub fn new(directory: &Path) -> Secrets {
        Secrets { directory: directory.to_owned(), known: HashMap::new(), revisions: 0 }
    }

    /// Reads these secrets, and forgets all others. A password that was read once stays in force while its file cannot
    /// be read: a volume that is mounted anew must not cost the sessions. True: something is other than before.
    pub fn read<'k>(&mut self, snapshot: &Snapshot, wanted: impl Iterator<Item = &'k SecretKey>) -> bool {
        let mut before = std::mem::take(&mut self.known);
        let mut changed = false;
        for key in wanted {
            if self.known.contains_key(key) {
                continue;
            }
            let mut known = before.remove(key).unwrap_or_default();
            let problem = match self.look_for(key, snapshot) {
                Ok(password) => {
                    if known.password.as_ref().is_none_or(|(old, _)| *old != password) {
                        self.revisions += 1;
                        known.password = Some((password, self.revisions));
                        changed = true;
                    }
                    None
                }
                Err(problem) => Some(problem),
            };
            changed |= problem != known.problem;
            known.problem = problem;
            self.known.insert(key.clone(), known);
        }
        changed
    }

    /// The password, or what is wrong with its file.
    pub fn get(&self, key: &SecretKey) -> Result<Reading<'_>, &str> {
        match self.known.get(key) {
            Some(Known { password: Some((password, revision)), .. }) => {
                Ok(Reading { password, revision: *revision })
            }
            Some(Known { problem: Some(problem), .. }) => Err(problem),
            _ => Err("has not been looked at yet"),
        }
    }

    /// Of secrets that cannot be read any more: what is wrong.
    pub fn outlived(&self) -> BTreeSet<String> {
        let known = self.known.values().filter(|known| known.password.is_some());
        let problems = known.filter_map(|known| known.problem.as_ref());
        problems
            .map(|problem| format!("{problem}; the password that was read from it stays in force"))
            .collect()
    }

    /// This host's own file comes first.
    fn look_for(&self, key: &SecretKey, snapshot: &Snapshot) -> Result<Password, String> {
        let is_name = |text: &str| !matches!(text, "" | "." | "..") && !text.contains(['/', '\0']);
        if !is_name(&key.name) || !is_name(&key.key) {
            return Err(format!("secretKeyRef {:?}, {:?} names no file of a secret", key.name, key.key));
        }
        let path = self.directory.join(&key.name).join(&key.key);
        let (content, place) = match content(&path) {
            Ok(content) => (content, path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = snapshot.secret(&key.name);
                let value = secret.and_then(|secret| secret.spec.data.get(&key.key));
                let Some(Hidden(value)) = value else {
                    let lacks = match secret {
                        Some(_) => format!("Secret/{} of the datastore has no key {}", key.name, key.key),
                        None => format!("the datastore has no Secret/{}", key.name),
                    };
                    return Err(format!("{} does not exist, and {lacks}", path.display()));
                };
                (value.clone(), format!("the value of {} in Secret/{}", key.key, key.name))
            }
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        Password::from_file(&content).map_err(|error| format!("{place} {error}"))
    }
}

fn content(path: &Path) -> io::Result<Vec<u8>> {
    // A pipe would keep us waiting for its writer.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut content = Vec::new();
    file.take(READ_AT_MOST).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn key(name: &str, key: &str) -> SecretKey {
        SecretKey { name: name.into(), key: key.into() }
    }

    fn password(text: &str) -> Password {
        Password::from_file(text.as_bytes()).unwrap()
    }

    /// Kubernetes puts a link to a directory in another one's place.
    #[test]
    fn a_secret_that_kubernetes_changes_is_another_revision_and_an_unchanged_one_is_not() {
        let none = Snapshot::default();
        let directory = tempfile::tempdir().unwrap();
        let volume = directory.path().join("bgp");
        for (generation, text) in [("..1", "first"), ("..2", "second")] {
            fs::create_dir_all(volume.join(generation)).unwrap();
            fs::write(volume.join(generation).join("password"), text).unwrap();
        }
        symlink("..1", volume.join("..data")).unwrap();
        symlink("..data/password", volume.join("password")).unwrap();
        let wanted = key("bgp", "password");
        let mut secrets = Secrets::new(directory.path());
        assert!(secrets.read(&none, [&wanted, &wanted].into_iter()));
        let first = secrets.get(&wanted).unwrap();
        assert_eq!((first.password, first.revision), (&password("first"), 1));
        assert!(!secrets.read(&none, [&wanted].into_iter()));
        symlink("..2", volume.join("..new")).unwrap();
        fs::rename(volume.join("..new"), volume.join("..data")).unwrap();
        assert!(secrets.read(&none, [&wanted].into_iter()));
        let second = secrets.get(&wanted).unwrap();
        assert_eq!((second.password, second.revision), (&password("second"), 2));
    }

    #[test]
    fn a_missing_secret_is_named_by_its_file_and_one_that_vanishes_stays_in_force() {
        let none = Snapshot::default();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bgp/password");
        let wanted = key("bgp", "password");
        let mut secrets = Secrets::new(directory.path());
        assert!(secrets.read(&none, [&wanted].into_iter()));
        assert_eq!(
            secrets.get(&wanted).unwrap_err(),
            format!("{} does not exist, and the datastore has no Secret/bgp", file.display())
        );
        assert!(!secrets.read(&none, [&wanted].into_iter()), "the same problem is no news");
        fs::create_dir(directory.path().join("bgp")).unwrap();
        fs::write(&file, "first\n").unwrap();
        assert!(secrets.read(&none, [&wanted].into_iter()));
        assert!(secrets.outlived().is_empty());
        fs::remove_file(&file).unwrap();
        assert!(secrets.read(&none, [&wanted].into_iter()));
        assert_eq!(secrets.get(&wanted).unwrap().revision, 1);
        assert!(secrets.outlived().first().unwrap().contains("stays in force"));
        secrets.read(&none, std::iter::empty());
        assert!(secrets.get(&wanted).is_err(), "nobody asks for it any more");
    }

    #[test]
    fn what_is_no_password_is_said_without_its_content() {
        let none = Snapshot::default();
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("bgp/folder")).unwrap();
        fs::write(directory.path().join("bgp/long"), "x".repeat(100)).unwrap();
        fs::write(directory.path().join("bgp/empty"), "\n").unwrap();
        fs::write(directory.path().join("outside"), "secret").unwrap();
        nix::unistd::mkfifo(&directory.path().join("bgp/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut secrets = Secrets::new(directory.path());
        for (name, file, problem) in [
            ("bgp", "long", "has more than the 80 octets"),
            ("bgp", "empty", "is empty"),
            ("bgp", "folder", "it is not a file"),
            ("bgp", "pipe", "it is not a file"),
            ("bgp", "../outside", "names no file"),
            ("..", "outside", "names no file"),
        ] {
            let wanted = key(name, file);
            secrets.read(&none, [&wanted].into_iter());
            let said = secrets.get(&wanted).unwrap_err();
            assert!(said.contains(problem) && !said.contains("xxx"), "{said}");
        }
    }

    #[test]
    fn what_no_file_has_is_taken_from_the_datastore_and_a_file_comes_first() {
        let collected = manx_resources::collect([(
            "secret.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: bgp, namespace: kube-system}\n\
             data: {password: Zmlyc3QK}\nstringData: {plain: second}\n",
        )]);
        assert_eq!(collected.problems, []);
        let directory = tempfile::tempdir().unwrap();
        let mut secrets = Secrets::new(directory.path());
        let (first, plain, absent) = (key("bgp", "password"), key("bgp", "plain"), key("bgp", "passwort"));
        assert!(secrets.read(&collected.snapshot, [&first, &plain, &absent].into_iter()));
        assert_eq!(secrets.get(&first).unwrap().password, &password("first"));
        assert_eq!(secrets.get(&plain).unwrap().password, &password("second"));
        let said = secrets.get(&absent).unwrap_err();
        assert!(said.ends_with("and Secret/bgp of the datastore has no key passwort"), "{said}");
        fs::create_dir(directory.path().join("bgp")).unwrap();
        fs::write(directory.path().join("bgp/password"), "of this host").unwrap();
        assert!(secrets.read(&collected.snapshot, [&first].into_iter()));
        assert_eq!(secrets.get(&first).unwrap().password, &password("of this host"));
    }
}
