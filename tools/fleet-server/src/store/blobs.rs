//! Files named by their BLAKE3: adapters as they came, and as they go out.
//!
//! ```text
//! blobs/ab/<hash>      blobs/tmp/<number>
//! ```
//! - In: bytes on their way, then their hash. Out: a file under its name, whole, on disk.
//! - A file is written under a name of its own, synced, and linked to its place; that it is there
//!   already is success, for it is the same.
//! - Invariant: what lies under a hash has it; nothing is ever changed there.

use sapwood_protocol::fleet::id::Hash;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

const DRAFTS: &str = "tmp";

/// A folder of blobs.
#[derive(Debug)]
pub struct Blobs {
    root: PathBuf,
    drawn: AtomicU64,
}

/// Why a blob was not kept, or not found.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The disk.
    #[error("{path}: {source}; nothing that was kept has changed", path = path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What lies there is something else.
    #[error("blob {name} has BLAKE3 {got}: the disk has changed it, take it from a copy")]
    Damaged {
        /// What it is called.
        name: Hash,
        /// What it is.
        got: Hash,
    },
    /// Nothing lies there.
    #[error("blob {name} is not there, expected it since a row names it")]
    Gone {
        /// What it is called.
        name: Hash,
    },
    /// A folder in which two can have one name.
    #[error("{path}: a second file of one name was not refused, expected a file system that does", path = path.display())]
    Lax {
        /// The folder.
        path: PathBuf,
    },
}

impl BlobError {
    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

fn disk(path: &Path) -> impl Fn(io::Error) -> BlobError + '_ {
    move |source| BlobError::Disk { path: path.to_owned(), source }
}

/// A file that is being written; gone when it is dropped.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
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
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Best effort: the next start of a server clears the folder.
        let _ = fs::remove_file(&self.path);
    }
}

impl Blobs {
    /// The blobs under a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`BlobError::Disk`]; [`BlobError::Lax`].
    pub fn open(root: &Path) -> Result<Self, BlobError> {
        let drafts = root.join(DRAFTS);
        fs::create_dir_all(&drafts).map_err(disk(&drafts))?;
        let blobs = Self { root: root.to_owned(), drawn: AtomicU64::new(0) };
        blobs.refuses_seconds()?;
        Ok(blobs)
    }

    /// Whether two creations of one name conflict here: some look-alikes of a disk do not see to it.
    fn refuses_seconds(&self) -> Result<(), BlobError> {
        let (first, second) = (self.draft()?, self.draft()?);
        let place = first.path.with_extension("linked");
        let linked = fs::hard_link(&first.path, &place).map_err(disk(&place));
        let again = fs::hard_link(&second.path, &place);
        let _ = fs::remove_file(&place);
        linked?;
        match again {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(BlobError::Lax { path: self.root.clone() }),
        }
    }

    /// Removes what a server that died has left half written. Only for one who is alone here.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn clear_drafts(&self) -> Result<(), BlobError> {
        let drafts = self.root.join(DRAFTS);
        for entry in fs::read_dir(&drafts).map_err(disk(&drafts))? {
            let path = entry.map_err(disk(&drafts))?.path();
            fs::remove_file(&path).map_err(disk(&path))?;
        }
        Ok(())
    }

    /// A new file to write.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn draft(&self) -> Result<Draft, BlobError> {
        loop {
            let number = self.drawn.fetch_add(1, Ordering::Relaxed);
            let name = format!("{}-{number}", std::process::id());
            let path = self.root.join(DRAFTS).join(name);
            match File::create_new(&path) {
                Ok(file) => return Ok(Draft { path, file }),
                // A process of the same number left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(disk(&path)(error)),
            }
        }
    }

    /// Keeps what was written under its hash, durably.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn keep(&self, draft: &Draft, hash: Hash) -> Result<(), BlobError> {
        draft.file.sync_all().map_err(disk(&draft.path))?;
        let place = self.place(hash);
        let folder = place.parent().unwrap_or(&self.root);
        let is_new = !folder.is_dir();
        fs::create_dir_all(folder).map_err(disk(folder))?;
        match fs::hard_link(&draft.path, &place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(disk(&place)(error)),
        }
        sync(folder)?;
        if is_new { sync(&self.root) } else { Ok(()) }
    }

    /// Keeps some bytes.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn put(&self, bytes: &[u8]) -> Result<Hash, BlobError> {
        let (hash, mut draft) = (Hash::of(bytes), self.draft()?);
        draft.write(bytes)?;
        self.keep(&draft, hash)?;
        Ok(hash)
    }

    /// A blob's file and its length; none when there is none.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn open_blob(&self, hash: Hash) -> Result<Option<(File, u64)>, BlobError> {
        let place = self.place(hash);
        match File::open(&place) {
            Ok(file) => {
                let bytes = file.metadata().map_err(disk(&place))?.len();
                Ok(Some((file, bytes)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk(&place)(error)),
        }
    }

    /// The bytes of a blob, which are its own.
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn read(&self, name: Hash) -> Result<Vec<u8>, BlobError> {
        let (mut file, _) = self.open_blob(name)?.ok_or(BlobError::Gone { name })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(disk(&self.place(name)))?;
        let got = Hash::of(&bytes);
        if got == name { Ok(bytes) } else { Err(BlobError::Damaged { name, got }) }
    }

    /// Lets go of a blob; that it is not there is success.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn remove(&self, hash: Hash) -> Result<(), BlobError> {
        let place = self.place(hash);
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(&place)(error)),
            _ => Ok(()),
        }
    }

    /// Blobs that were written before a time, ms since 1970, of those whose hash begins with a byte.
    ///
    /// # Errors
    /// [`BlobError::Disk`].
    pub fn older(&self, first: u8, until_ms: u64) -> Result<Vec<Hash>, BlobError> {
        let folder = self.root.join(format!("{first:02x}"));
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(disk(&folder))?,
        };
        let mut older = Vec::new();
        for entry in entries {
            let entry = entry.map_err(disk(&folder))?;
            // What is no blob is somebody else's, and one that is gone is nobody's.
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let (Some(hash), Ok(found)) = (name, entry.metadata()) else { continue };
            let written = found.modified().map_err(disk(&folder))?.duration_since(UNIX_EPOCH);
            let written_ms = written.map_or(0, |written| written.as_millis() as u64);
            if written_ms < until_ms {
                older.push(hash);
            }
        }
        Ok(older)
    }

    /// Lets go of a blob that no row names, unless one does before it is gone.
    ///
    /// # Errors
    /// [`BlobError::Disk`]; those of `is_named`, then the blob is where it was.
    pub fn sweep<E: From<BlobError>>(
        &self,
        hash: Hash,
        is_named: impl Fn() -> Result<bool, E>,
    ) -> Result<(), E> {
        let place = self.place(hash);
        let aside =
            Draft { file: File::open(&place).map_err(disk(&place))?, path: self.aside(hash) };
        fs::rename(&place, &aside.path).map_err(disk(&place))?;
        let stays = is_named();
        if !matches!(stays, Ok(false)) {
            // Another may have brought it again in between.
            self.keep(&aside, hash)?;
        }
        stays.map(drop)
    }

    fn aside(&self, hash: Hash) -> PathBuf {
        self.root.join(DRAFTS).join(format!("{}-{hash}", std::process::id()))
    }

    fn place(&self, hash: Hash) -> PathBuf {
        let name = hash.to_string();
        self.root.join(name.get(..2).unwrap_or_default()).join(&name)
    }
}

fn sync(folder: &Path) -> Result<(), BlobError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(disk(folder))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn what_is_kept_twice_is_there_once_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let hash = blobs.put(b"an adapter").unwrap();
        assert_eq!(blobs.put(b"an adapter").unwrap(), hash);
        assert_eq!(blobs.read(hash).unwrap(), b"an adapter");
        assert_eq!(blobs.open_blob(hash).unwrap().unwrap().1, 10);
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 0);
        let name = hash.to_string();
        fs::write(folder.path().join(&name[..2]).join(&name), "another").unwrap();
        assert!(matches!(blobs.read(hash), Err(BlobError::Damaged { .. })));
        blobs.remove(hash).unwrap();
        blobs.remove(hash).unwrap();
        assert!(matches!(blobs.read(hash), Err(BlobError::Gone { .. })));
        assert!(blobs.open_blob(hash).unwrap().is_none());
    }

    #[test]
    fn what_nobody_names_goes_and_what_somebody_names_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let hash = blobs.put(b"an adapter").unwrap();
        assert_eq!(blobs.older(hash.0[0], u64::MAX).unwrap(), [hash]);
        assert!(blobs.older(hash.0[0], 0).unwrap().is_empty());
        assert!(blobs.older(!hash.0[0], u64::MAX).unwrap().is_empty());
        blobs.sweep(hash, || Ok::<_, BlobError>(true)).unwrap();
        let failed = blobs.sweep(hash, || Err::<bool, _>(BlobError::Gone { name: hash }));
        assert!(failed.is_err() && blobs.read(hash).unwrap() == b"an adapter");
        blobs.sweep(hash, || Ok::<_, BlobError>(false)).unwrap();
        assert!(blobs.open_blob(hash).unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 0);
    }

    #[test]
    fn what_is_dropped_half_written_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let mut draft = blobs.draft().unwrap();
        draft.write(b"half").unwrap();
        drop(draft);
        std::mem::forget(blobs.draft().unwrap());
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 1);
        Blobs::open(folder.path()).unwrap().clear_drafts().unwrap();
        assert_eq!(fs::read_dir(folder.path().join(DRAFTS)).unwrap().count(), 0);
    }
}
