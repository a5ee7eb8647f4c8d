//! Files on their way: on this machine's disk, whatever keeps them in the end.
//!
//! ```text
//! tmp/<process>-<number>      tmp/aside-<hash>
//! ```
//! - A draft is gone when it is dropped, or with the next start of a server.
//! - What a sweep has in hand lies aside, and stays there until it is known that nobody needs it.

use super::error::{BlobError, disk};
use crate::store::{give_file, give_path};
use sapwood_protocol::fleet::id::Hash;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

const ASIDE: &str = "aside-";

/// The folder of drafts.
#[derive(Debug)]
pub(super) struct Drafts {
    folder: PathBuf,
    drawn: AtomicU64,
}

/// A file that is being written; gone when it is dropped.
#[derive(Debug)]
pub struct Draft {
    pub(super) path: PathBuf,
    file: File,
}

impl Draft {
    /// Writes on.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.file.write_all(bytes).map_err(disk(&self.path))
    }

    /// Reads what was written, from the start.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn read(&self) -> Result<Vec<u8>, BlobError> {
        fs::read(&self.path).map_err(disk(&self.path))
    }

    /// Forgets what was written.
    pub(super) fn empty(&mut self) -> Result<(), BlobError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(disk(&self.path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Best effort: the next start of a server clears the folder.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drafts {
    /// The drafts under a folder, which is made if it is not there. Where it cannot be, whoever only reads
    /// needs none.
    pub(super) fn open(folder: PathBuf) -> Result<Self, BlobError> {
        let drafts = Self { folder, drawn: AtomicU64::new(0) };
        match drafts.make() {
            Err(error)
                if [ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied]
                    .contains(&error.kind()) => {}
            made => made.map_err(disk(&drafts.folder))?,
        }
        Ok(drafts)
    }

    fn make(&self) -> io::Result<()> {
        if self.folder.is_dir() {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        self.folder.parent().map_or(Ok(()), |root| give_path(&self.folder, root))
    }

    pub(super) fn new_draft(&self) -> Result<Draft, BlobError> {
        loop {
            let number = self.drawn.fetch_add(1, Ordering::Relaxed);
            let path = self.folder.join(format!("{}-{number}", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => {
                    give_file(&file, &self.folder).map_err(disk(&path))?;
                    return Ok(Draft { path, file });
                }
                // A process of the same number left it.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(disk(&path)(error)),
            }
        }
    }

    /// Removes what was left half written; what lies aside stays.
    pub(super) fn clear(&self) -> Result<(), BlobError> {
        self.make().map_err(disk(&self.folder))?;
        for entry in fs::read_dir(&self.folder).map_err(disk(&self.folder))? {
            let path = entry.map_err(disk(&self.folder))?.path();
            if aside(&path).is_none() {
                fs::remove_file(&path).map_err(disk(&path))?;
            }
        }
        Ok(())
    }

    /// Where a sweep puts a blob that it has in hand.
    pub(super) fn aside(&self, hash: Hash) -> PathBuf {
        self.folder.join(format!("{ASIDE}{hash}"))
    }

    /// What lies aside, and since when, ms since 1970.
    pub(super) fn all_aside(&self) -> Result<Vec<(Hash, u64)>, BlobError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(disk(&self.folder))? {
            let entry = entry.map_err(disk(&self.folder))?;
            // One that is gone by now was settled by another.
            if let (Some(hash), Ok(found)) = (aside(&entry.path()), entry.metadata()) {
                all.push((hash, written_ms(&found).map_err(disk(&self.folder))?));
            }
        }
        all.sort_unstable();
        Ok(all)
    }
}

fn aside(path: &Path) -> Option<Hash> {
    path.file_name()?.to_str()?.strip_prefix(ASIDE)?.parse().ok()
}

/// When a file was written last, ms since 1970.
pub(super) fn written_ms(found: &fs::Metadata) -> io::Result<u64> {
    let written = found.modified()?.duration_since(UNIX_EPOCH);
    Ok(written.map_or(0, |written| written.as_millis() as u64))
}

/// Has a file, or the names in a folder, outlive a cut of power.
pub(super) fn sync(path: &Path) -> Result<(), BlobError> {
    File::open(path).and_then(|opened| opened.sync_all()).map_err(disk(path))
}
