//! The last runs, as they are remembered across restarts: for people, never for decisions but one.
//!
//! - One JSON file in the state folder, replaced whole. Damaged, it is empty: nothing depends on it
//!   but the number of runs a day.
//! - Bounded: [`JOBS_KEPT`] runs, and the starts of a day.

use crate::budget::Starts;
use crate::status::{JOBS_KEPT, JobReport};
use sapwood::ports::{Storage, StorageResult};
use serde::{Deserialize, Serialize};

/// Its name in the state folder.
pub const FILE: &str = "history.json";
const NEW: &str = "history.json.new";

/// The last runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Runs in the device's life.
    runs: u64,
    /// When the last runs began, seconds since 1970, UTC.
    starts: Vec<i64>,
    /// The last runs, oldest first.
    pub jobs: Vec<JobReport>,
}

impl History {
    /// What was remembered; nothing when that cannot be read.
    pub fn read(storage: &dyn Storage) -> Self {
        let bytes = storage.read(FILE).unwrap_or_default();
        let mut history: Self = serde_json::from_slice(&bytes).unwrap_or_default();
        history.jobs.drain(..history.jobs.len().saturating_sub(JOBS_KEPT));
        history
    }

    /// The starts of the last day.
    pub fn starts(&self) -> Starts {
        Starts::restore(&self.starts)
    }

    /// A run begins: its number. It counts even if it never ends.
    pub fn begin(&mut self, storage: &dyn Storage, starts: &Starts) -> u64 {
        self.runs = self.runs.saturating_add(1);
        self.starts = starts.seconds();
        self.keep(storage);
        self.runs
    }

    /// A run has ended.
    pub fn end(&mut self, storage: &dyn Storage, report: JobReport) {
        if self.jobs.len() >= JOBS_KEPT {
            self.jobs.remove(0);
        }
        self.jobs.push(report);
        self.keep(storage);
    }

    /// Nothing stands on this file: where it cannot be written the log still tells.
    fn keep(&self, storage: &dyn Storage) {
        if let Err(error) = self.write(storage) {
            tracing::warn!(%error, "the history of jobs is not kept");
        }
    }

    fn write(&self, storage: &dyn Storage) -> StorageResult<()> {
        // What it holds is always JSON; nothing is written in the case that cannot be.
        let Ok(bytes) = serde_json::to_vec_pretty(self) else { return Ok(()) };
        storage.write(NEW, &bytes)?;
        storage.sync(NEW)?;
        storage.rename(NEW, FILE)?;
        storage.sync_dir("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use sapwood::ports::Memory;

    #[test]
    fn runs_are_remembered_in_order_and_damage_forgets_them() -> StorageResult<()> {
        let storage = Memory::default();
        let (mut history, mut starts) = (History::read(&storage), Starts::default());
        for number in 1..=JOBS_KEPT as u64 + 2 {
            starts.record(Timestamp::UNIX_EPOCH);
            assert_eq!(history.begin(&storage, &starts), number);
            history.end(&storage, JobReport { number, ..JobReport::default() });
        }
        let mut read = History::read(&storage);
        assert_eq!((read.jobs.len(), read.jobs[0].number), (JOBS_KEPT, 3));
        assert_eq!(read.starts().in_a_day(Timestamp::UNIX_EPOCH), JOBS_KEPT as u32 + 2);
        assert_eq!(read.begin(&storage, &starts), JOBS_KEPT as u64 + 3, "numbers go on");
        storage.write(FILE, b"{\"jobs\": 7}")?;
        assert!(History::read(&storage).jobs.is_empty());
        Ok(())
    }
}
