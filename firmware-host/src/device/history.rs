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
pub(super) struct History {
    /// Runs in the device's life.
    runs: u64,
    /// When the last runs began, seconds since 1970, UTC.
    starts: Vec<i64>,
    /// The last runs, oldest first.
    pub(super) jobs: Vec<JobReport>,
}

impl History {
    /// What was remembered; nothing when that cannot be read.
    pub(super) fn read(storage: &dyn Storage) -> Self {
        let bytes = storage.read(FILE).unwrap_or_default();
        let mut history: Self = serde_json::from_slice(&bytes).unwrap_or_default();
        history.jobs.drain(..history.jobs.len().saturating_sub(JOBS_KEPT));
        history
    }

    /// The starts of the last day.
    pub(super) fn starts(&self) -> Starts {
        Starts::restore(&self.starts)
    }

    /// A run begins: its number. It counts even if it never ends.
    pub(super) fn begin(&mut self, storage: &dyn Storage, starts: &Starts) -> u64 {
        self.runs = self.runs.saturating_add(1);
        self.starts = starts.seconds();
        self.keep(storage);
        self.runs
    }

    /// A run has ended.
    pub(super) fn end(&mut self, storage: &dyn Storage, report: JobReport) {
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
