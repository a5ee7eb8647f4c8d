//! The order to wait, kept in the state folder: a restart or a power cut does not lift it.
//!
//! - `STATE/paused` is there, or it is not; what it holds does not matter.
//! - The program that runs on the folder keeps it in step with orders; where none runs, the command
//!   line changes it, so that the next start finds it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// The file whose being there is the order.
pub const FILE: &str = "paused";

/// Whether learning was told to wait.
///
/// # Errors
/// What the disk says, other than that there is no such file.
pub fn is_paused(state: &Path) -> io::Result<bool> {
    state.join(FILE).try_exists()
}

/// Tells learning in a state folder to wait, or to go on; durable when it returns.
///
/// # Errors
/// What the disk says; `NotFound` when there is no such folder.
pub fn set_paused(state: &Path, paused: bool) -> io::Result<()> {
    let marker = state.join(FILE);
    if paused {
        File::create(marker)?.sync_all()?;
    } else {
        match fs::remove_file(marker) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && state.is_dir() => {}
            done => done?,
        }
    }
    File::open(state)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_stays_until_it_is_lifted() -> io::Result<()> {
        let state = tempfile::tempdir()?;
        assert!(!is_paused(state.path())?);
        for paused in [true, true, false, false] {
            set_paused(state.path(), paused)?;
            assert_eq!(is_paused(state.path())?, paused);
        }
        Ok(())
    }

    #[test]
    fn a_folder_that_is_not_there_takes_no_order() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let missing = folder.path().join("missing");
        assert!(set_paused(&missing, true).is_err() && set_paused(&missing, false).is_err());
        assert!(!missing.exists());
        Ok(())
    }
}
