//! Paths as a configuration means them: two that lead to the same place are the same.

use std::path::{Component, Path, PathBuf};

/// A path as the system resolves it where it is there, else by its words.
pub(super) fn real(path: &Path) -> PathBuf {
    path.canonicalize().or_else(|_| plain(path)).unwrap_or_else(|_| path.to_path_buf())
}

/// An absolute path without `..`, which no mount of a service may have: as the system resolves it where it
/// is there, else by its words.
///
/// # Errors
/// An empty path.
pub fn plain(path: &Path) -> std::io::Result<PathBuf> {
    // By its parts: no doubled and no last slash.
    let path: PathBuf = std::path::absolute(path)?.components().collect();
    if !path.components().any(|part| part == Component::ParentDir) {
        return Ok(path);
    }
    Ok(path.canonicalize().unwrap_or_else(|_| {
        path.components().fold(PathBuf::new(), |mut plain, part| {
            match part {
                Component::ParentDir => drop(plain.pop()),
                part => plain.push(part),
            }
            plain
        })
    }))
}
