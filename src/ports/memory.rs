//! A folder in memory: for experiments that outlive nothing, behind the same port as a disk.

use super::{Storage, StorageError, StorageResult};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files by name; folders are only the parts of names.
#[derive(Debug, Default)]
pub struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
}

fn failed(operation: &'static str, path: &str, kind: ErrorKind) -> StorageError {
    StorageError::Io { operation, path: path.to_owned(), source: io::Error::from(kind) }
}

/// Where `length` bytes from `offset` lie in a file of `len` bytes.
fn span(offset: u64, length: usize, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(length)?;
    (end <= len).then_some(start..end)
}

impl Memory {
    fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for Memory {
    fn create_dir_all(&self, _path: &str) -> StorageResult<()> {
        Ok(())
    }

    fn read(&self, path: &str) -> StorageResult<Vec<u8>> {
        self.files().get(path).cloned().ok_or_else(|| failed("read", path, ErrorKind::NotFound))
    }

    fn read_at(&self, path: &str, offset: u64, into: &mut [u8]) -> StorageResult<()> {
        let files = self.files();
        let file = files.get(path).ok_or_else(|| failed("read", path, ErrorKind::NotFound))?;
        let span = span(offset, into.len(), file.len())
            .ok_or_else(|| failed("read", path, ErrorKind::UnexpectedEof))?;
        into.copy_from_slice(&file[span]);
        Ok(())
    }

    fn write(&self, path: &str, bytes: &[u8]) -> StorageResult<()> {
        self.files().insert(path.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> StorageResult<()> {
        let mut files = self.files();
        let file = files.get_mut(path).ok_or_else(|| failed("write", path, ErrorKind::NotFound))?;
        let refused = || failed("write", path, ErrorKind::InvalidInput);
        let start = usize::try_from(offset).map_err(|_| refused())?;
        let end = start.checked_add(bytes.len()).ok_or_else(refused)?;
        // A disk keeps no bytes for a hole; here it would cost as many as it is long.
        if start > file.len() {
            return Err(refused());
        }
        file.resize(end.max(file.len()), 0);
        file[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn allocate(&self, path: &str, length: u64) -> StorageResult<()> {
        let length = usize::try_from(length)
            .map_err(|_| failed("reserve space for", path, ErrorKind::OutOfMemory))?;
        self.files().insert(path.to_owned(), vec![0; length]);
        Ok(())
    }

    fn sync(&self, _path: &str) -> StorageResult<()> {
        Ok(())
    }

    fn sync_dir(&self, _path: &str) -> StorageResult<()> {
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> StorageResult<()> {
        let mut files = self.files();
        let inside = format!("{from}/");
        let moved: Vec<String> = files
            .keys()
            .filter(|name| *name == from || name.starts_with(&inside))
            .cloned()
            .collect();
        if moved.is_empty() {
            return Err(failed("rename", from, ErrorKind::NotFound));
        }
        for name in moved {
            if let Some(bytes) = files.remove(&name) {
                files.insert(format!("{to}{}", &name[from.len()..]), bytes);
            }
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> StorageResult<()> {
        let removed = self.files().remove(path);
        removed.map(|_| ()).ok_or_else(|| failed("remove", path, ErrorKind::NotFound))
    }

    fn remove_dir_all(&self, path: &str) -> StorageResult<()> {
        let inside = format!("{path}/");
        self.files().retain(|name, _| !name.starts_with(&inside));
        Ok(())
    }

    fn list(&self, path: &str) -> StorageResult<Vec<String>> {
        let inside = if path.is_empty() { String::new() } else { format!("{path}/") };
        let files = self.files();
        let names = files.keys().filter_map(|name| name.strip_prefix(&inside));
        let mut names: Vec<String> =
            names.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn len(&self, path: &str) -> StorageResult<Option<u64>> {
        Ok(self.files().get(path).map(|file| file.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_behind_the_end_make_a_file_longer_as_on_a_disk() -> StorageResult<()> {
        let memory = Memory::default();
        memory.write("a", b"one")?;
        memory.write_at("a", 3, b" two")?;
        memory.write_at("a", 4, b"Two, three")?;
        assert_eq!(memory.read("a")?, b"one Two, three");
        assert!(memory.write_at("a", 15, b"x").is_err(), "a hole is refused");
        assert!(memory.write_at("a", u64::MAX, b"x").is_err());
        Ok(())
    }
}
