//! Counts the bytes that go to a disk: flash wears out by writing.
//!
//! - In: any [`Storage`]. Out: the same, and [`Meter::written`].
//! - What was tried counts, done or not: a write that failed may have worn the disk too.
//! - Names, folders and removals are not counted; they are small beside what they name.

use sapwood::ports::{Storage, StorageResult};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A disk that counts.
pub struct Meter {
    disk: Arc<dyn Storage>,
    written: AtomicU64,
}

impl Meter {
    /// Counts what is written to `disk` through it, from 0.
    pub fn new(disk: Arc<dyn Storage>) -> Self {
        Self { disk, written: AtomicU64::new(0) }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Storage for Meter {
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
        self.count(bytes.len() as u64);
        self.disk.write(path, bytes)
    }

    fn write_at(&self, path: &str, offset: u64, bytes: &[u8]) -> StorageResult<()> {
        self.count(bytes.len() as u64);
        self.disk.write_at(path, offset, bytes)
    }

    fn allocate(&self, path: &str, length: u64) -> StorageResult<()> {
        self.count(length);
        self.disk.allocate(path, length)
    }

    fn sync(&self, path: &str) -> StorageResult<()> {
        self.disk.sync(path)
    }

    fn sync_dir(&self, path: &str) -> StorageResult<()> {
        self.disk.sync_dir(path)
    }

    fn rename(&self, from: &str, to: &str) -> StorageResult<()> {
        self.disk.rename(from, to)
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;
    use sapwood::ports::Disk;

    #[test]
    fn every_byte_written_is_counted_and_every_call_reaches_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let meter = Meter::new(Arc::new(Disk::exclusive(folder.path()).unwrap()));
        meter.create_dir_all("a").unwrap();
        meter.allocate("a/x", 100).unwrap();
        meter.write_at("a/x", 40, &[7; 10]).unwrap();
        meter.write("a/y", b"12345").unwrap();
        meter.sync("a/y").unwrap();
        meter.rename("a/y", "a/z").unwrap();
        meter.sync_dir("a").unwrap();
        assert_eq!(meter.written(), 115);

        let mut read = [0; 10];
        meter.read_at("a/x", 40, &mut read).unwrap();
        assert_eq!((read, meter.read("a/z").unwrap()), ([7; 10], b"12345".to_vec()));
        assert_eq!((meter.list("a").unwrap().len(), meter.len("a/x").unwrap()), (2, Some(100)));
        meter.remove("a/z").unwrap();
        meter.remove_dir_all("a").unwrap();
        assert!(meter.list("a").unwrap().is_empty());
        assert_eq!(meter.written(), 115, "reading and removing write nothing");

        assert!(meter.write_at("absent", 0, b"x").is_err());
        assert_eq!(meter.written(), 116, "what was tried counts");
    }
}
