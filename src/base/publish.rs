//! Files that appear whole or not at all: written under a temporary name beside their place, then renamed.
//!
//! - Never here: what they hold.

use super::BaseError;
use super::export::{Partial, Sink};
use std::fs;
use std::io;
use std::path::Path;

/// Writes a folder of these files; it must not exist or be empty.
/// # Errors
/// [`BaseError::Occupied`], [`BaseError::Write`]; nothing is left behind.
pub fn folder(path: &Path, files: &[(&str, Vec<u8>)]) -> Result<(), BaseError> {
    let partial = Partial::beside(path)?;
    for (name, bytes) in files {
        let mut file = Sink::create(partial.path.join(name))?;
        file.write(bytes)?;
        file.finish()?;
    }
    partial.publish(path)
}

/// Writes one file; there must be none of that name.
/// # Errors
/// [`BaseError::Write`]; nothing is left behind.
pub fn file(path: &Path, bytes: &[u8]) -> Result<(), BaseError> {
    let failed = |source| BaseError::Write { path: path.to_owned(), source };
    if path.symlink_metadata().is_ok() {
        return Err(failed(io::ErrorKind::AlreadyExists.into()));
    }
    let partial = Partial::beside(path)?;
    let whole = partial.path.join("whole");
    let mut file = Sink::create(whole.clone())?;
    file.write(bytes)?;
    file.finish()?;
    fs::rename(whole, path).map_err(failed)
}
