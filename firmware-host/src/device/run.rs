//! One run of a job: which samples, with what settings, how it ended.
//!
//! - A job that a run could not finish keeps its samples and its checkpoint, and goes on at the next
//!   run. One that does not get further in [`ATTEMPTS_MAX`] runs is given up, so that samples which
//!   bring the program down cannot do so for ever.
//! - Invariant: whatever happens, a report says how the run ended and why.

use super::watch::Watch;
use super::{DeviceError, Worker, lock};
use crate::budget::Budget;
use crate::constraints::Situation;
use crate::probe::Readings;
use crate::status::{Ending, JobReport, Phase};
use sapwood::block::Block;
use sapwood::inbox::Job;
use sapwood::intake::{Dataset, Example};
use sapwood::learner::{self, LearnError, Material, Outcome};
use sapwood::settings::Settings;
use sapwood::state::Checkpoint;
use std::time::Duration;

/// Runs without progress after which a job is given up.
pub(super) const ATTEMPTS_MAX: u32 = 3;
/// Rest after the first failure; it doubles with every one that follows.
const REST: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(3_600);

/// What a run works on.
struct Work {
    job: Job,
    samples: u64,
    material: Material,
    settings: Settings,
}

impl Worker {
    /// Runs a job; false when there is nothing that one could be made of.
    ///
    /// # Errors
    /// [`DeviceError`] after which the state folder must be opened again.
    pub(super) fn run(
        &mut self,
        readings: &Readings,
        situation: Situation,
    ) -> Result<bool, DeviceError> {
        let Some(work) = self.pick()? else {
            self.ordered = false;
            return Ok(false);
        };
        let (elapsed, now) = (self.clock.elapsed(), self.clock.now());
        self.starts.record(now);
        let number = self.history.begin(&*self.meter, &self.starts);
        lock(&self.inbox).begin(work.job)?;
        let (samples, iters) = (work.samples, work.settings.iters);
        tracing::info!(job = number, samples, iters, resumed = work.settings.resume, "job begins");
        self.board.update(|status| {
            (status.phase, status.waiting_for) = (Phase::Learning, String::new());
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = learner::threads(&work.settings);
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
            step: work.job.step,
            scores: Vec::new(),
        };
        self.state.set_through(work.job.through);
        let (state, engines) = (&mut self.state, &self.served.engines);
        let outcome = self.pool.install(|| {
            let mut tell = |event: &learner::Event| watch.hear(event);
            learner::adapt(engines, state, &work.material, &work.settings, &mut tell)
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
            self.follow(order)?;
        }
        self.settle(outcome, work.job, stop.unwrap_or_default(), report)?;
        Ok(true)
    }

    /// Does what the outcome of a run asks for, and reports it.
    fn settle(
        &mut self,
        outcome: Result<Outcome, LearnError>,
        job: Job,
        stop: String,
        mut report: JobReport,
    ) -> Result<(), DeviceError> {
        let mut failed = None;
        match outcome {
            Ok(Outcome::Judged { verdict, .. }) => {
                lock(&self.inbox).forget(self.state.learned())?;
                report.ending = if verdict.keeps() { Ending::Kept } else { Ending::Dropped };
                report.reason = verdict.to_string();
                (self.failures, self.ordered) = (0, false);
                self.serve_current()?;
            }
            Ok(Outcome::Stopped) => {
                (report.ending, report.reason) = (Ending::Stopped, stop);
                // It was told to: that is no failed attempt.
                lock(&self.inbox).begin(Job { attempts: 0, step: report.steps[0], ..job })?;
            }
            Err(error) => {
                report.reason = error.to_string();
                if !matches!(error, LearnError::Train(_)) {
                    // A full disk is not the samples' fault, and no reason to give them up.
                    let _ = lock(&self.inbox).begin(Job { attempts: 0, ..job });
                }
                self.rest();
                failed = Some(DeviceError::from(error)).filter(DeviceError::is_final);
            }
        }
        report.generation = self.state.current().map(|generation| generation.number);
        self.report(report);
        failed.map_or(Ok(()), Err)
    }

    /// After a failure the next run waits.
    pub(super) fn rest(&mut self) {
        let rest = REST.saturating_mul(1 << self.failures.min(10)).min(REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.rest_until = self.clock.elapsed() + rest;
        self.ordered = false;
    }

    fn report(&mut self, report: JobReport) {
        let JobReport { number, seconds, steps, ending, reason, generation, .. } = &report;
        let [step, iters] = steps;
        tracing::info!(
            job = number,
            ?ending,
            step,
            iters,
            seconds,
            ?generation,
            reason,
            "job ends"
        );
        self.board.job(report.clone());
        self.history.end(&*self.meter, report);
    }

    /// The samples of the next run: those of the job under way, else the oldest that wait.
    fn pick(&mut self) -> Result<Option<Work>, DeviceError> {
        let checkpoint = self.checkpoint()?;
        let (begun, job, taken) = {
            let inbox = lock(&self.inbox);
            let begun = inbox.job();
            let (most, through) = match begun {
                Some(job) => (u64::MAX, job.through),
                None => (self.config.job.samples_max, u64::MAX),
            };
            let taken = inbox.take(most, through)?;
            let step = checkpoint.as_ref().map_or(0, |found| found.learner.cursor.step);
            let further = begun.is_none_or(|job| step > job.step);
            let attempts = begun.map_or(0, |job| job.attempts);
            let attempts = if further { 1 } else { attempts.saturating_add(1) };
            (begun, Job { through: taken.through, attempts, step }, taken)
        };
        if job.attempts > ATTEMPTS_MAX {
            let reason = format!("given up: no progress in {ATTEMPTS_MAX} runs");
            self.give_up(job.through, &reason)?;
            return Ok(None);
        }
        if taken.lost > 0 {
            tracing::warn!(samples = taken.lost, "samples of the inbox cannot be read any more");
        }
        let samples = taken.examples.len() as u64;
        let dataset = Dataset::of_examples(taken.examples);
        let [train, valid] = [&dataset.train, &dataset.valid].map(|all| self.blocks(all));
        if train.is_empty() || valid.is_empty() {
            let few = begun.is_none() && samples < self.config.job.samples_min;
            let reason = format!(
                "{samples} samples give {} blocks to learn and {} to judge by, expected at least one of each",
                train.len(),
                valid.len()
            );
            if few {
                tracing::warn!(reason, "no job: the samples wait for more");
            } else {
                self.give_up(job.through, &reason)?;
            }
            return Ok(None);
        }
        let settings = self.settings(train.len());
        let identity = settings.identity().map_err(LearnError::from)?;
        let resume = checkpoint
            .as_ref()
            .is_some_and(|found| found.learner.may_resume(&dataset.hash, &identity).is_ok());
        let material = Material {
            // Every job is a domain of its own: the next one is judged on its held-out text too.
            name: format!("samples to {}", job.through),
            hash: dataset.hash,
            train,
            valid,
            general: self.general.clone(),
            start: self.served.tokeniser.opening(),
        };
        let settings = Settings { resume, ..settings };
        Ok(Some(Work { job, samples, material, settings }))
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

    /// Steps that make the epochs asked for; after every step the watch looks.
    fn settings(&self, blocks: usize) -> Settings {
        let (job, learn) = (&self.config.job, &self.config.learn);
        let fresh = f64::from(learn.fresh_blocks().max(1));
        let wanted = (job.epochs * blocks as f64 / fresh).ceil() as u64;
        let iters = wanted.clamp(job.iters_min, job.iters_max.max(job.iters_min));
        let is_open = self.config.wishes.as_ref().is_some_and(|wishes| wishes.retain.is_none());
        let retain = if is_open { learner::retain_of(learn, iters) } else { learn.retain };
        Settings { iters, retain, steps_per_report: 1, ..learn.clone() }
    }

    /// Blocks of all examples that can be tokenised; the others are named in the log.
    fn blocks(&self, examples: &[Example]) -> Vec<Block> {
        let (tokeniser, learn) = (&self.served.tokeniser, &self.config.learn);
        let made = |examples: &[Example]| {
            tokeniser.blocks(examples, learn.max_seq_length, learn.mask_prompt, 0)
        };
        if let Ok(all) = made(examples) {
            return all.blocks;
        }
        let one = |example: &Example| {
            let blocks = made(std::slice::from_ref(example));
            blocks.map_err(|error| tracing::warn!(%error, "a sample is left out")).ok()
        };
        examples.iter().filter_map(one).flat_map(|made| made.blocks).collect()
    }

    /// Takes samples out of the inbox without learning them, for a reason that is kept.
    fn give_up(&mut self, through: u64, reason: &str) -> Result<(), DeviceError> {
        tracing::warn!(through, reason, "samples are given up");
        self.state.set_through(through);
        let step = self.state.current().map_or(0, |generation| generation.step);
        self.state.reject(step, reason, None)?;
        Ok(lock(&self.inbox).forget(self.state.learned())?)
    }
}
