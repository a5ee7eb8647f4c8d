//! The order to wait, kept in the state folder: a restart or a power cut does not lift it.
//!
//! - `STATE/paused` is there, or it is not; what it holds does not matter.
//! - In: orders, of the program that has the folder, or of a command where none has it. Out: whether
//!   learning waits.
//! - Invariant: an order is on the disk before anybody hears that it holds; one that the disk refuses
//!   changes nothing.

use sapwood::ports::{Storage, StorageError, StorageResult};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

/// The file whose being there is the order.
pub const FILE: &str = "paused";
/// A file that shows whether the disk takes one.
const TRIED: &str = "order";

/// Why an order is not followed; the device goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The disk does not keep it.
    #[error("{source}; {holds}")]
    Disk {
        /// What the disk said.
        source: StorageError,
        /// What still holds.
        holds: &'static str,
    },
    /// The program is on its way out.
    #[error("the device program is stopping: nothing was done")]
    Stopping,
    /// A generation that cannot come into use again.
    #[error("{why}")]
    Refused {
        /// Why not, and what holds.
        why: String,
        /// Whether it is not there.
        is_missing: bool,
        /// Whether the disk is at fault.
        is_disk: bool,
    },
    /// What is under way did not stop in time.
    #[error("what is under way came to no place where it can stop: nothing was done")]
    Late,
}

/// Whether learning was told to wait.
///
/// # Errors
/// What the disk says, other than that there is no such file.
pub fn is_paused(state: &Path) -> io::Result<bool> {
    state.join(FILE).try_exists()
}

/// Whether learning waits, in step with the disk.
pub struct Paused {
    disk: Arc<dyn Storage>,
    holds: Mutex<bool>,
}

impl fmt::Debug for Paused {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_tuple("Paused").field(&self.is()).finish()
    }
}

impl Paused {
    /// As the disk has it.
    ///
    /// # Errors
    /// [`StorageError`] when that cannot be told.
    pub fn read(disk: Arc<dyn Storage>) -> StorageResult<Self> {
        let holds = Mutex::new(disk.len(FILE)?.is_some());
        Ok(Self { disk, holds })
    }

    /// Whether learning waits.
    pub fn is(&self) -> bool {
        *self.lock()
    }

    /// Has learning wait, or go on; durable when it returns. Whether that is new.
    ///
    /// # Errors
    /// [`OrderError::Disk`]: it stays as it was.
    pub fn set(&self, paused: bool) -> Result<bool, OrderError> {
        let mut holds = self.lock();
        if *holds == paused {
            return Ok(false);
        }
        let put = self.put(paused);
        let is_put = put.is_ok();
        if let Err(source) = put.and_then(|()| self.sync(paused)) {
            // What was put and may not last is taken back.
            let is_back = !is_put || self.put(*holds).and_then(|()| self.sync(*holds)).is_ok();
            return Err(OrderError::Disk { source, holds: kept(*holds, is_back) });
        }
        *holds = paused;
        Ok(true)
    }

    /// Whether the disk takes what an order is followed by: a job writes before it learns.
    ///
    /// # Errors
    /// [`OrderError::Disk`].
    pub fn try_disk(&self) -> Result<(), OrderError> {
        let _one_at_a_time = self.lock();
        let tried = self.disk.write(TRIED, b"").and_then(|()| self.disk.sync(TRIED));
        let tried = tried.and_then(|()| self.disk.remove(TRIED));
        let holds = "no job was begun, and the samples wait on";
        tried.map_err(|source| OrderError::Disk { source, holds })
    }

    /// Makes the file, or removes it; nothing has changed when that fails.
    fn put(&self, paused: bool) -> StorageResult<()> {
        match paused {
            true => self.disk.write(FILE, b""),
            false => match self.disk.remove(FILE) {
                Err(error) if error.is_missing() => Ok(()),
                done => done,
            },
        }
    }

    fn sync(&self, paused: bool) -> StorageResult<()> {
        if paused {
            self.disk.sync(FILE)?;
        }
        self.disk.sync_dir("")
    }

    /// A panic of its holder leaves what the disk had before.
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What holds after an order that the disk refused, and whether the disk is as it was too.
fn kept(paused: bool, is_back: bool) -> &'static str {
    match (paused, is_back) {
        (false, true) => "learning goes on",
        (false, false) => "learning goes on, but a restart may find it paused",
        (true, true) => "learning stays paused",
        (true, false) => "learning stays paused, but a restart may find it going on",
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use sapwood::ports::cut_disk::{CutDisk, Failure, Fault};
    use std::io::ErrorKind;

    #[test]
    fn the_order_stays_until_it_is_lifted() {
        let disk = Arc::new(CutDisk::new());
        let paused = Paused::read(disk.clone()).unwrap();
        assert!(!paused.is());
        for (told, is_new) in [(true, true), (true, false), (false, true), (false, false)] {
            assert_eq!(paused.set(told).unwrap(), is_new);
            // Whatever a power cut takes, it is not the order.
            for luck in 0..16 {
                let found = Paused::read(Arc::new(disk.after_cut(luck))).unwrap();
                assert_eq!((found.is(), paused.is()), (told, told));
            }
        }
        assert!(paused.try_disk().is_ok() && disk.paths().is_empty());
    }

    /// Full of names, read-only after an error, or broken: at every operation of an order.
    #[test]
    fn an_order_that_the_disk_refuses_changes_nothing() {
        let failures = [
            Failure::Kind(ErrorKind::StorageFull),
            Failure::Kind(ErrorKind::ReadOnlyFilesystem),
            Failure::Eio,
        ];
        for (before, failure) in [true, false].into_iter().flat_map(|b| failures.map(|f| (b, f))) {
            for at in 0..if before { 2 } else { 3 } {
                let disk = Arc::new(CutDisk::new());
                let paused = Paused::read(disk.clone()).unwrap();
                paused.set(before).unwrap();
                disk.set(Some(Fault::Once(at, failure)));
                let told = paused.set(!before).unwrap_err().to_string();
                let holds = if before { "learning stays paused" } else { "learning goes on" };
                assert!(told.ends_with(holds), "{told}");
                disk.set(None);
                assert_eq!(paused.is(), before);
                assert_eq!(Paused::read(disk.clone()).unwrap().is(), before, "after a restart");
                disk.set(Some(Fault::From(0, failure)));
                let told = paused.try_disk().unwrap_err().to_string();
                assert!(told.ends_with("the samples wait on"), "{told}");
                let told = paused.set(!before).unwrap_err().to_string();
                assert!(told.ends_with(holds), "nothing was put: {told}");
                disk.set(Some(Fault::From(1, failure)));
                let told = paused.set(!before).unwrap_err().to_string();
                assert!(told.contains("a restart may find it"), "{told}");
            }
        }
    }
}
