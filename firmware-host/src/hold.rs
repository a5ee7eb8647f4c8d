//! Whether a program has a state folder: its lock is asked, which ends with the process, however it ends.
//!
//! - In: a state folder. Out: held, or not, at this moment.
//! - Never here: sockets. One that is there may be another's or a dead one's, and a program that
//!   starts has none yet.
//! - Invariant: asking makes no file and changes none, and works on a disk that is read-only.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;

/// The file that whoever opens the folder keeps locked (`sapwood::ports::Disk`).
pub const LOCK: &str = "lock";

/// Whether another process has the folder.
///
/// # Errors
/// What the system says, other than that nobody ever had it.
pub fn is_held(state: &Path) -> io::Result<bool> {
    let lock = match File::open(state.join(LOCK)) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use sapwood::ports::Disk;

    #[test]
    fn a_folder_is_held_for_as_long_as_somebody_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        assert!(!is_held(&state).unwrap() && !state.exists());
        let disk = Disk::exclusive(&state).unwrap();
        assert!(is_held(&state).unwrap());
        drop(disk);
        assert!(!is_held(&state).unwrap());
        assert!(Disk::exclusive(&state).is_ok(), "asking holds nothing");
    }
}
