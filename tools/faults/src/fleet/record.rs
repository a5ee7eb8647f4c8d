//! A life without faults of the disk: what was done to it, and what everybody knew when.
//!
//! - In: a seed. Out: the recorded history, and a moment before each change elsewhere.

use super::life::{Device, Moment, Tape};
use super::look;
use super::plan::{Act, plan};
use sapwood::ports::Storage;
use sapwood::ports::cut_disk::{CutDisk, History};
use std::sync::{Arc, Mutex, PoisonError};

/// A recorded life.
pub struct Record {
    /// Its seed.
    pub seed: u64,
    /// Its plan.
    pub plan: Vec<Act>,
    /// All that was done to the disk.
    pub history: History,
    /// What was known when, in order of time; the last is at the end.
    pub moments: Vec<Moment>,
    /// Operations of the whole life.
    pub operations: usize,
}

impl Record {
    /// The life of this seed.
    ///
    /// # Errors
    /// What is wrong with it even without faults.
    pub fn new(seed: u64, rounds: u64) -> Result<Self, String> {
        Self::on(seed, plan(seed, rounds), |disk| disk)
    }

    /// The life of this plan on a disk that `wrap` stands before.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on(
        seed: u64,
        plan: Vec<Act>,
        wrap: impl Fn(Arc<CutDisk>) -> Arc<dyn Storage>,
    ) -> Result<Self, String> {
        let disk = Arc::new(look::furnished()?.recording());
        let moments: Arc<Mutex<Vec<Moment>>> = Arc::default();
        let (watched, noted) = (disk.clone(), moments.clone());
        let tape: Tape = Arc::new(move |moment| {
            let (steps, book) = (watched.steps(), look::book(&watched));
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.push(Moment { steps, book, ..moment });
        });
        disk.set(None);
        let mut device = Device::start(wrap(disk.clone()), Moment::default(), Some(tape))?;
        device.live(&plan, 0);
        device.settle().map_err(|what| format!("the life without faults: {what}"))?;
        device.record();
        let moments = moments.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Self { seed, plan, history: disk.history(), moments, operations: disk.operations() })
    }

    /// What may be known elsewhere when power is lost after that many steps: at least this, at most
    /// that.
    pub fn known(&self, steps: usize) -> [&Moment; 2] {
        let last = self.moments.len().saturating_sub(1);
        let first = self.moments.partition_point(|moment| moment.steps < steps).min(last);
        let after = self.moments.partition_point(|moment| moment.steps <= steps).min(last);
        [&self.moments[first], &self.moments[after]]
    }

    /// The book that was durable at the latest after that many steps, as far as anybody was told.
    pub fn told(&self, steps: usize) -> (usize, Option<&[u8]>) {
        let passed = self.moments.partition_point(|moment| moment.steps <= steps);
        let moment = passed.checked_sub(1).map(|last| &self.moments[last]);
        (passed, moment.and_then(|moment| moment.book.as_deref()))
    }
}
