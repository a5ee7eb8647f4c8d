//! What the worker owns on disk: the learner's state, the inbox, the runs that are remembered.
//!
//! - Invariant: the samples of a job leave the inbox only after the commit or the rejection that ends it.

use super::plan::{ALONE_MAX, Known};
use super::{DeviceError, lock};
use crate::budget::{Meter, Starts};
use crate::config::Intake;
use crate::history::History;
use crate::status::{
    Board, Ending, GenerationStatus, GlobalStatus, InboxStatus, JobReport, ReservoirStatus,
    TrialStatus,
};
use jiff::Timestamp;
use sapwood::inbox::{Bounds, Inbox, InboxError, Job};
use sapwood::ports::Storage;
use sapwood::state::{Checkpoint, State, Trial};
use std::sync::{Arc, Mutex, MutexGuard};

/// What the worker owns on disk; the inbox it shares with whoever offers samples.
pub(super) struct Store {
    pub(super) meter: Arc<Meter>,
    pub(super) state: State,
    pub(super) inbox: Arc<Mutex<Inbox>>,
    pub(super) history: History,
    pub(super) starts: Starts,
}

/// Opens the state, and says what its recovery did; a generation on trial has one try less then.
///
/// # Errors
/// [`DeviceError::State`]; [`DeviceError::Inbox`] for what a later version left;
/// [`DeviceError::ManifestLost`] before anything is made over what is left of a state.
pub(super) fn recovered(meter: &Arc<Meter>) -> Result<State, DeviceError> {
    // Opening the state sweeps: what a later version left is refused before that.
    Inbox::refuse_newer(&**meter)?;
    let has_manifest = meter.list("")?.iter().any(|name| name.starts_with("manifest."));
    let remembered = History::read(&**meter).jobs.iter().filter_map(|job| job.generation).max();
    if let Some(generation) = remembered.filter(|_| !has_manifest) {
        return Err(DeviceError::ManifestLost { generation });
    }
    let mut state = State::open(meter.clone())?;
    let recovery = state.recovery();
    for reason in &recovery.fell_back {
        tracing::warn!(reason, "the state folder is damaged");
    }
    if let Some(reason) = &recovery.checkpoint_lost {
        tracing::warn!(reason, "the checkpoint of an interrupted job cannot be used");
    }
    for path in &recovery.swept {
        tracing::info!(path, "removed what an interrupted job left");
    }
    // Before anything is loaded: what brings the program down now has had its try.
    if let Some(Trial { generation, .. }) = state.trial() {
        match state.take_try()? {
            Some(Trial { tries_left, .. }) => {
                tracing::info!(generation, tries_left, "this start tries a new global adapter");
            }
            None => {
                let now = state.current().map(|generation| generation.number);
                tracing::warn!(
                    generation,
                    now,
                    "never confirmed: the generation before it is back"
                );
            }
        }
    }
    Ok(state)
}

impl Store {
    /// The rest beside a state that was opened, and what was found in it.
    ///
    /// # Errors
    /// [`DeviceError::Inbox`].
    pub(super) fn open(
        meter: Arc<Meter>,
        state: State,
        intake: &Intake,
    ) -> Result<Self, DeviceError> {
        let bounds = Bounds { bytes: intake.inbox_bytes_max, samples: intake.inbox_samples_max };
        let inbox = Inbox::open(meter.clone(), bounds, state.learned())?;
        tell_found(&inbox);
        let history = History::read(&*meter);
        let (inbox, starts) = (Arc::new(Mutex::new(inbox)), history.starts());
        Ok(Self { meter, state, inbox, history, starts })
    }

    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    /// What the disk says of the samples.
    pub(super) fn known(&self, samples_max: u64, checkpoint: Option<&Checkpoint>) -> Known {
        let inbox = self.inbox();
        Known {
            learned: self.state.learned(),
            reach: inbox.reach(samples_max),
            job: inbox.job(),
            suspect: inbox.suspect(),
            step: checkpoint.map_or(0, |found| found.learner.cursor.step),
        }
    }

    /// The checkpoint of an interrupted job; a damaged one is none.
    pub(super) fn checkpoint(&self) -> Result<Option<Checkpoint>, DeviceError> {
        match self.state.take_checkpoint() {
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "the checkpoint cannot be used: the job begins anew");
                Ok(None)
            }
            found => Ok(found?),
        }
    }

    /// Whether the job goes on from its checkpoint; one that fits samples or settings no more goes, and
    /// only its steps with it.
    pub(super) fn resumes(
        &mut self,
        checkpoint: Option<&Checkpoint>,
        hash: &[u8; 32],
        identity: &[(String, String)],
    ) -> Result<bool, DeviceError> {
        let Some(Checkpoint { learner, .. }) = checkpoint else { return Ok(false) };
        let Err(reason) = learner.may_resume(hash, identity) else { return Ok(true) };
        tracing::warn!(
            step = learner.cursor.step,
            %reason,
            "an interrupted job cannot go on: its samples are learned from the beginning"
        );
        self.state.drop_checkpoint()?;
        Ok(false)
    }

    /// What ended now was told to, or met a disk that refuses for now: that is no attempt of the job. Where
    /// the disk refuses this too, it counts as one.
    pub(super) fn excuse(&self, job: Job) {
        let _ = self.inbox().begin(Job { attempts: 0, ..job });
    }

    /// Keeps samples that nothing can be learned from where no job takes them.
    pub(super) fn set_unfit_aside(&self, unfit: &[(u64, String)]) -> Result<(), InboxError> {
        for (number, reason) in unfit {
            tracing::warn!(number, reason, "a sample is set aside: nothing can be learned from it");
            self.inbox().set_aside(*number, reason)?;
        }
        Ok(())
    }

    /// Sets aside a sample that has brought down every job in which it was alone.
    pub(super) fn set_aside_alone(&mut self, number: u64) -> Result<(), DeviceError> {
        let reason =
            format!("brought the program down {ALONE_MAX} times when it was learned alone");
        self.inbox().set_aside(number, &reason)?;
        self.state.drop_checkpoint()?;
        self.pass_over(number, &reason)
    }

    /// Lets go of samples that were set aside or cannot be read any more, for a reason that is kept.
    pub(super) fn pass_over(&mut self, through: u64, reason: &str) -> Result<(), DeviceError> {
        tracing::warn!(through, reason, "samples are not learned: see `firmware-host aside list`");
        self.state.set_through(through);
        let step = self.state.current().map_or(0, |generation| generation.step);
        self.state.reject(step, reason, None)?;
        Ok(self.forget_learned()?)
    }

    /// Lets go of the samples that a commit or a rejection has taken.
    pub(super) fn forget_learned(&self) -> Result<(), InboxError> {
        self.inbox().forget(self.state.learned())
    }

    /// A run begins: its number. It counts even if it never ends.
    pub(super) fn begin_run(&mut self, now: Timestamp) -> u64 {
        self.starts.record(now);
        self.history.begin(&*self.meter, &self.starts)
    }

    /// A run has ended.
    pub(super) fn end_run(&mut self, board: &Board, report: JobReport) {
        let JobReport { number: job, seconds, steps, reason, generation, .. } = &report;
        let ([step, iters], ending) = (steps, report.ending.name());
        if report.ending == Ending::Failed {
            tracing::error!(job, ending, step, iters, seconds, generation, reason, "job ends");
        } else {
            tracing::info!(job, ending, step, iters, seconds, generation, reason, "job ends");
        }
        board.job(report.clone());
        self.history.end(&*self.meter, report);
    }

    /// Shows inbox and reservoir, after they changed.
    pub(super) fn show(&self, board: &Board) {
        let held = InboxStatus::held(&self.inbox());
        board.inbox(held);
        // A reservoir that cannot be read is the next job's to report.
        let reservoir = self.state.committed_reservoir().ok().flatten();
        let reservoir = reservoir.map(|reservoir| {
            let stats = reservoir.stats();
            ReservoirStatus {
                held: stats.held.into(),
                capacity: stats.capacity.into(),
                seen: stats.seen,
            }
        });
        let (global, trial) = (GlobalStatus::of(&self.state), TrialStatus::of(&self.state));
        let generations = GenerationStatus::all(&self.state);
        board.update(|status| {
            (status.reservoir, status.global, status.trial) = (reservoir, global, trial);
            status.generations = generations;
        });
    }
}

fn tell_found(inbox: &Inbox) {
    let found = inbox.found();
    if found.passed_over_bytes > 0 {
        let (bytes, lost) = (found.passed_over_bytes, found.lost_samples);
        let damaged = found.damaged_samples;
        tracing::warn!(
            bytes,
            lost,
            damaged,
            "the inbox has bytes that are no sample: a write that was cut, or damage"
        );
    }
    if found.memory_lost || found.job_lost {
        let (hashes, job) = (found.memory_lost, found.job_lost);
        tracing::warn!(hashes, job, "the inbox lost what it remembered beside its samples");
    }
}
