//! Where files go when they are done with, and how many of them stay.
//!
//! - Bounded: of each shelf the newest 1024 files and 256 MiB are kept, by when they were put there.
//! - Never overwrites: a second `a.txt` becomes `a.txt.2`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Files whose samples are all durable.
pub(super) const TAKEN: &str = "taken";
/// Files that were refused, or lines of them.
pub(super) const REFUSED: &str = "refused";

const FILES_KEPT: usize = 1024;
const BYTES_KEPT: u64 = 256 << 20;
const NAMESAKES_MAX: usize = 10_000;

/// Moves a file of the folder to one of its shelves, with the reason beside it where there is one.
pub(super) fn put(folder: &Path, name: &OsStr, shelf: &str, why: Option<&str>) -> io::Result<()> {
    let shelf = folder.join(shelf);
    fs::create_dir_all(&shelf)?;
    let target = free(&shelf, name)?;
    fs::rename(folder.join(name), &target)?;
    if let Some(why) = why {
        let mut beside = target.into_os_string();
        beside.push(".why");
        if let Err(error) = fs::write(&beside, format!("{why}\n")) {
            tracing::warn!(file = %beside.display(), %error, "cannot write why a file was refused");
        }
    }
    if let Err(error) = clear(&shelf, FILES_KEPT, BYTES_KEPT) {
        tracing::warn!(shelf = %shelf.display(), %error, "cannot remove the oldest files");
    }
    Ok(())
}

/// The first of `name`, `name.2`, `name.3` that is not there.
fn free(shelf: &Path, name: &OsStr) -> io::Result<PathBuf> {
    for number in 1..=NAMESAKES_MAX {
        let mut next = OsString::from(name);
        if number > 1 {
            next.push(format!(".{number}"));
        }
        let path = shelf.join(next);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

/// Removes the oldest files beyond the bounds; the newest stays, however large.
fn clear(shelf: &Path, files: usize, bytes: u64) -> io::Result<()> {
    let mut found = Vec::new();
    for entry in fs::read_dir(shelf)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if !metadata.is_dir() {
            // A move changes this time and leaves the file's own as it was.
            found.push(((metadata.ctime(), metadata.ctime_nsec()), path, metadata.len()));
        }
    }
    found.sort();
    let mut kept = 0_u64;
    for (index, (_, path, length)) in found.iter().rev().enumerate() {
        kept = kept.saturating_add(*length);
        if index > 0 && (index >= files || kept > bytes) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn namesakes_stand_side_by_side_and_the_oldest_go_first() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path();
        for round in 0..3 {
            fs::write(folder.join("a.txt"), vec![b'x'; 100 + round]).unwrap();
            put(folder, OsStr::new("a.txt"), TAKEN, None).unwrap();
            // File systems count time in steps of a few milliseconds.
            std::thread::park_timeout(std::time::Duration::from_millis(20));
        }
        let shelf = folder.join(TAKEN);
        let names = || {
            let entries = fs::read_dir(&shelf).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(), ["a.txt", "a.txt.2", "a.txt.3"]);
        clear(&shelf, 2, 1000).unwrap();
        assert_eq!(names(), ["a.txt.2", "a.txt.3"]);
        clear(&shelf, 2, 50).unwrap();
        assert_eq!(names(), ["a.txt.3"]);
    }
}
