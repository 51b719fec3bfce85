//! Where things are in this repository.

use std::path::{Path, PathBuf};

/// The repository's root: xtask is always run from a checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// What setup brings, and nothing outside it changes.
pub fn tools() -> PathBuf {
    root().join("target/tools")
}
