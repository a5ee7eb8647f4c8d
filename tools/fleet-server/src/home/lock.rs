//! The lock of a folder: one server, or one order that changes where things are.
//!
//! - It ends with the process that holds it.

use super::HomeError;
use crate::store::give_file;
use std::fs::{File, TryLockError};
use std::path::Path;

/// What only one holds.
const LOCK: &str = "serve.lock";

/// Takes the lock of a folder, until the file is closed.
///
/// # Errors
/// [`HomeError::Taken`]; [`HomeError::Disk`].
pub fn locked(folder: &Path) -> Result<File, HomeError> {
    let path = folder.join(LOCK);
    let failed = |source| HomeError::Disk { path: path.clone(), source };
    // Only a new one is given away: what lies there is somebody's already.
    let file = match File::options().create_new(true).append(true).open(&path) {
        Ok(new) => give_file(&new, folder).map(|()| new).map_err(failed)?,
        Err(_) => File::options().create(true).append(true).open(&path).map_err(failed)?,
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(HomeError::Taken { path: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
