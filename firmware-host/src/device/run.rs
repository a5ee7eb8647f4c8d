//! One run of a job: which samples, with what settings.
//!
//! - The record of the job is on disk before the first sample is read: what brings the program down is
//!   found by halving (`plan`), and set aside.
//! - A job that a run could not finish keeps its samples and its checkpoint, and goes on at the next
//!   run.

use super::plan::{self, Known, Next};
use super::prepare::{Prepared, Source};
use super::watch::Watch;
use super::{DeviceError, Worker, lock};
use crate::budget::Budget;
use crate::config::Config;
use crate::constraints::Situation;
use crate::probe::Readings;
use crate::status::{Ending, JobReport, Phase};
use sapwood::inbox::{Inbox, InboxError, Job};
use sapwood::learner::{self, Event, LearnError, Material};
use sapwood::settings::Settings;
use sapwood::state::{Checkpoint, State};
use std::sync::Mutex;
use std::time::Duration;

impl Worker {
    /// Runs a job, or does what is to be done instead; false when there is nothing to do.
    ///
    /// # Errors
    /// [`DeviceError`] after which the state folder must be opened again.
    pub(super) fn run(
        &mut self,
        readings: &Readings,
        situation: Situation,
    ) -> Result<bool, DeviceError> {
        let mut checkpoint = self.checkpoint()?;
        let job = match plan::next(&self.known(checkpoint.as_ref())) {
            Next::Run(job) => job,
            Next::Anew(job) => {
                tracing::warn!(
                    through = job.through,
                    of = job.suspect,
                    "the last run was brought down without getting further: now with fewer samples"
                );
                self.state.drop_checkpoint()?;
                checkpoint = None;
                job
            }
            Next::SetAside(number) => {
                self.set_aside_alone(number)?;
                return Ok(true);
            }
            Next::Nothing => {
                self.ordered = false;
                return Ok(false);
            }
        };
        lock(&self.inbox).begin(job)?;
        let is_new = job.suspect == 0 && job.step == 0;
        let least = self.config.job.samples_min;
        let few = |made: &Prepared| is_new && made.judged_by_itself && made.samples < least;
        let elapsed = self.clock.elapsed();
        let threads = learner::threads(&self.config.learn);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let own_load = threads as f32 / cores as f32;
        let mut watch = Watch {
            clock: &*self.clock,
            probes: &mut *self.probes,
            constraints: &mut self.constraints,
            orders: &mut self.orders,
            board: &self.board,
            meter: &self.meter,
            budget: Budget::begin(&self.config.budget, elapsed, readings, self.meter.written()),
            situation: Situation { own_load, job_bytes: 0, ..situation },
            every: Duration::from_secs_f64(self.config.job.poll_seconds),
            looked: elapsed,
            heard: Vec::new(),
            stop: None,
            spent: false,
            step: job.step,
            scores: Vec::new(),
        };
        tracing::debug!(through = job.through, "samples are read");
        let source =
            Source { inbox: &self.inbox, tokeniser: &self.served.tokeniser, config: &self.config };
        let prepared = source.prepare(job, &mut || watch.hear(&Event::Pulse));
        let prepared = match prepared {
            Ok(Some(prepared)) if !prepared.train.is_empty() && !few(&prepared) => prepared,
            other => {
                let heard = std::mem::take(&mut watch.heard);
                return self.not_run(job, other, heard);
            }
        };
        let Prepared { job, samples, .. } = prepared;
        if let Err(error) = set_unfit_aside(&self.inbox, &prepared) {
            // The disk refuses for now: that is no attempt.
            let _ = lock(&self.inbox).begin(Job { attempts: 0, ..job });
            return Err(error.into());
        }
        lock(&self.inbox).begin(job)?;
        let settings = settings(&self.config, prepared.train.len());
        let identity = settings.identity().map_err(LearnError::from)?;
        let resume = resumes(&mut self.state, checkpoint.as_ref(), &prepared.hash, &identity)?;
        let settings = Settings { resume, ..settings };
        // Every job is a domain of its own: the next one is judged on its held-out text too.
        let name = format!("samples to {}", job.through);
        let material = Material {
            key: name.clone(),
            name,
            hash: prepared.hash,
            train: prepared.train,
            valid: prepared.valid,
            general: self.general.clone(),
            start: self.served.tokeniser.opening(),
        };
        let now = self.clock.now();
        self.starts.record(now);
        let number = self.history.begin(&*self.meter, &self.starts);
        let iters = settings.iters;
        tracing::info!(job = number, samples, iters, resumed = resume, "job begins");
        self.board.update(|status| {
            (status.phase, status.waiting_for) = (Phase::Learning, String::new());
        });
        self.state.set_through(job.through);
        let (state, engines) = (&mut self.state, &self.served.engines);
        let outcome = self.pool.install(|| {
            let mut tell = |event: &Event| watch.hear(event);
            learner::adapt(engines, state, &material, &settings, &mut tell)
        });
        let readings = watch.probes.read();
        watch.budget.spend(self.clock.elapsed(), &readings, self.meter.written());
        let report = JobReport {
            number,
            started: now.to_string(),
            seconds: watch.budget.seconds(),
            joules: watch.budget.joules(),
            bytes_written: watch.budget.bytes_written(),
            samples,
            steps: [watch.step, iters],
            ending: Ending::Failed,
            reason: String::new(),
            generation: None,
            changes: watch.changes(),
        };
        let (heard, stop) = (std::mem::take(&mut watch.heard), watch.stop.take());
        if watch.spent {
            // Otherwise a bound on what is spent at a time would bound nothing.
            self.rest_until = self.clock.elapsed() + Duration::from_secs_f64(report.seconds);
        }
        for order in heard {
            self.follow(order);
        }
        self.settle(outcome, job, stop.unwrap_or_default(), report)?;
        Ok(true)
    }

    /// What the disk says of the samples.
    fn known(&self, checkpoint: Option<&Checkpoint>) -> Known {
        let inbox = lock(&self.inbox);
        Known {
            learned: self.state.learned(),
            reach: inbox.reach(self.config.job.samples_max),
            job: inbox.job(),
            suspect: inbox.suspect(),
            step: checkpoint.map_or(0, |found| found.learner.cursor.step),
        }
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>, DeviceError> {
        match self.state.take_checkpoint() {
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "the checkpoint cannot be used: the job begins anew");
                Ok(None)
            }
            found => Ok(found?),
        }
    }
}

/// Whether the job goes on from its checkpoint; one that fits samples or settings no more goes, and
/// only its steps with it.
fn resumes(
    state: &mut State,
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
    state.drop_checkpoint()?;
    Ok(false)
}

/// Keeps samples that nothing can be learned from where no job takes them.
pub(super) fn set_unfit_aside(inbox: &Mutex<Inbox>, prepared: &Prepared) -> Result<(), InboxError> {
    for (number, reason) in &prepared.unfit {
        tracing::warn!(number, reason, "a sample is set aside: nothing can be learned from it");
        lock(inbox).set_aside(*number, reason)?;
    }
    Ok(())
}

/// Steps that make the epochs asked for; after every step the watch looks.
fn settings(config: &Config, blocks: usize) -> Settings {
    let (job, learn) = (&config.job, &config.learn);
    let fresh = f64::from(learn.fresh_blocks().max(1));
    let wanted = (job.epochs * blocks as f64 / fresh).ceil() as u64;
    let iters = wanted.clamp(job.iters_min, job.iters_max.max(job.iters_min));
    let is_open = config.wishes.as_ref().is_some_and(|wishes| wishes.retain.is_none());
    let retain = if is_open { learner::retain_of(learn, iters) } else { learn.retain };
    Settings { iters, retain, steps_per_report: 1, ..learn.clone() }
}
