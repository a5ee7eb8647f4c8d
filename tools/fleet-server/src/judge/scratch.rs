//! The folder of a judge: where adapters lie for the learner's program, one after the other.
//!
//! - It is held by a lock that ends with its process: what one leaves that was killed, the next removes.

use super::JudgeError;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What such folders begin with, in a fleet's folder.
const PREFIX: &str = "judge-";

/// A folder of one judge; gone with it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Held until the end.
    _lock: File,
}

impl Scratch {
    /// Makes the folder of this process, and removes those of judges that were killed.
    ///
    /// # Errors
    /// [`JudgeError::Disk`].
    pub fn new(folder: &Path) -> Result<Self, JudgeError> {
        clear(folder);
        let path = folder.join(format!("{PREFIX}{}", std::process::id()));
        let disk = |source| JudgeError::Disk { path: path.clone(), source };
        DirBuilder::new().mode(0o700).create(&path).map_err(disk)?;
        let lock = File::open(&path).map_err(disk)?;
        lock.lock().map_err(disk)?;
        Ok(Self { path, _lock: lock })
    }

    /// Where an adapter is put.
    pub fn adapter(&self) -> PathBuf {
        self.path.join("adapter")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: the next judge, or the next server, removes it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what judges left that were killed. What cannot be removed is no harm.
pub fn clear(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_judges = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let is_left = |path: &Path| File::open(path).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_judges && entry.path().is_dir() && is_left(&entry.path()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn what_a_killed_judge_left_is_removed_and_what_another_works_in_is_not() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join("judge-1");
        fs::create_dir_all(left.join("adapter")).unwrap();
        fs::write(left.join("adapter/adapter_config.json"), "{}").unwrap();
        fs::write(place.path().join("judge-notes"), "an operator's").unwrap();
        let scratch = Scratch::new(place.path()).unwrap();
        assert!(!left.exists());
        clear(place.path());
        assert!(scratch.path.is_dir(), "one that works");
        drop(scratch);
        let names = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["judge-notes"]);
    }
}
