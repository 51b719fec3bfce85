//! The unix sockets that this process serves: their place in the file system.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tokio::net::UnixListener;

/// Read and written by root and the socket's group.
const MODE: u32 = 0o660;

/// Removes the socket when dropped.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Of the file that we made; another process may make one of the same name.
    inode: Option<u64>,
}

impl Place {
    /// Listens. A socket that nobody serves any more is replaced; `occupied` says what to do about one that somebody does.
    pub fn listen(path: &Path, occupied: &str) -> anyhow::Result<(UnixListener, Place)> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        if UnixStream::connect(path).is_ok() {
            bail!("{} is served already: {occupied}", path.display());
        }
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => bail!("cannot replace {}: {error}", path.display()),
        }
        let listener =
            UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(MODE))
            .with_context(|| format!("cannot set the mode of {}", path.display()))?;
        Ok((listener, Place { path: path.to_owned(), inode: inode(path) }))
    }

    /// False if somebody removed it: then nobody can ask any more.
    pub fn is_there(&self) -> bool {
        self.inode.is_some() && inode(&self.path) == self.inode
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_there() {
            // Somebody may remove it in this very moment, which is what we want.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.ino())
}
