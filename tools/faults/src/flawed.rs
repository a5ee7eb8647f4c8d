//! Disks that break a promise on purpose: what stands on them must be found wanting.

use sapwood::ports::cut_disk::CutDisk;
use sapwood::ports::{Storage, StorageResult};
use std::sync::Arc;

/// What a disk does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A sync of this file, or of those in a folder `x/`, does nothing.
    NoSync(&'static str),
    /// A sync of this folder does nothing.
    NoFolderSync(&'static str),
    /// A rename takes the target away first.
    RenameInTwo,
    /// A file is written under its last name at once, not beside it.
    WritesInPlace,
}

/// A disk with a flaw.
pub struct Flawed {
    /// The disk below.
    pub disk: Arc<CutDisk>,
    /// What is wrong with it.
    pub flaw: Flaw,
}

impl Flawed {
    /// The name under which a file is written.
    fn written<'p>(&self, path: &'p str) -> &'p str {
        let name = path.strip_suffix(".new").filter(|_| self.flaw == Flaw::WritesInPlace);
        name.unwrap_or(path)
    }
}

impl Storage for Flawed {
    fn create_dir_all(&self, path: &str) -> StorageResult<()> {
        self.disk.create_dir_all(path)
    }

    fn read(&self, path: &str) -> StorageResult<Vec<u8>> {
        self.disk.read(path)
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> StorageResult<()> {
        self.disk.read_at(path, offset, into)
    }

    fn write(&self, path: &str, bytes: &[u8]) -> StorageResult<()> {
        self.disk.write(self.written(path), bytes)
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> StorageResult<()> {
        self.disk.write_at(self.written(path), offset, bytes)
    }

    fn allocate(&self, path: &str, length: u64) -> StorageResult<()> {
        self.disk.allocate(self.written(path), length)
    }

    fn sync(&self, path: &str) -> StorageResult<()> {
        match self.flaw {
            Flaw::NoSync(flawed) if path == flawed => Ok(()),
            Flaw::NoSync(folder) if folder.ends_with('/') && path.starts_with(folder) => Ok(()),
            _ => self.disk.sync(self.written(path)),
        }
    }

    fn sync_dir(&self, path: &str) -> StorageResult<()> {
        match self.flaw {
            Flaw::NoFolderSync(flawed) if path == flawed => Ok(()),
            _ => self.disk.sync_dir(path),
        }
    }

    fn rename(&self, from: &str, to: &str) -> StorageResult<()> {
        match self.flaw {
            Flaw::WritesInPlace
                if self.disk.len(from)?.is_none() && self.disk.len(to)?.is_some() =>
            {
                Ok(())
            }
            Flaw::RenameInTwo if self.disk.len(to)?.is_some() => {
                self.disk.remove(to)?;
                self.disk.rename(from, to)
            }
            _ => self.disk.rename(from, to),
        }
    }

    fn remove(&self, path: &str) -> StorageResult<()> {
        self.disk.remove(path)
    }

    fn remove_dir_all(&self, path: &str) -> StorageResult<()> {
        self.disk.remove_dir_all(path)
    }

    fn list(&self, path: &str) -> StorageResult<Vec<String>> {
        self.disk.list(path)
    }

    fn len(&self, path: &str) -> StorageResult<Option<u64>> {
        self.disk.len(path)
    }
}
