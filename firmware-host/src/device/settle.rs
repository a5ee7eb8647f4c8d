//! How a run ended: what becomes of its samples, and the report of it.
//!
//! - Invariant: whatever happens, a report says how the run ended and why, and every sample is learned,
//!   waits, or is set aside.

use super::plan::ALONE_MAX;
use super::prepare::Prepared;
use super::run::set_unfit_aside;
use super::{DeviceError, Order, Worker, lock};
use crate::status::{Ending, JobReport};
use sapwood::inbox::Job;
use sapwood::learner::{LearnError, Outcome};
use std::time::Duration;

/// Rest after the first failure; it doubles with every one that follows.
const REST: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(3_600);

impl Worker {
    /// Nothing was learned: the samples wait on, or nothing can be learned from them.
    pub(super) fn not_run(
        &mut self,
        job: Job,
        prepared: Result<Option<Prepared>, DeviceError>,
        heard: Vec<Order>,
    ) -> Result<bool, DeviceError> {
        for order in heard {
            self.follow(order);
        }
        let again = Job { attempts: 0, ..job };
        match prepared {
            Ok(Some(prepared)) if !prepared.train.is_empty() => {
                lock(&self.inbox).cancel()?;
                self.ordered = false;
                let samples = prepared.samples;
                tracing::warn!(
                    samples,
                    "no job: the samples give no text beside that to judge by, and wait for more"
                );
                Ok(false)
            }
            Ok(Some(prepared)) => {
                if let Err(error) = set_unfit_aside(&self.inbox, &prepared) {
                    let _ = lock(&self.inbox).begin(again);
                    return Err(error.into());
                }
                self.pass_over(prepared.job.through, "nothing can be learned from the samples")?;
                Ok(true)
            }
            Ok(None) => {
                lock(&self.inbox).begin(again)?;
                tracing::info!("told to stop before the job began");
                Ok(true)
            }
            Err(error) => {
                // The disk refuses for now: that is no attempt.
                let _ = lock(&self.inbox).begin(again);
                Err(error)
            }
        }
    }

    /// Does what the outcome of a run asks for, and reports it.
    pub(super) fn settle(
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
                    // A full disk is not the samples' fault.
                    let _ = lock(&self.inbox).begin(Job { attempts: 0, ..job });
                }
                self.fail();
                failed = Some(DeviceError::from(error)).filter(DeviceError::is_final);
            }
        }
        report.generation = self.state.current().map(|generation| generation.number);
        self.report(report);
        failed.map_or(Ok(()), Err)
    }

    /// After a failure the next run waits.
    pub(super) fn fail(&mut self) {
        let rest = REST.saturating_mul(1 << self.failures.min(10)).min(REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.rest_until = self.clock.elapsed() + rest;
        self.ordered = false;
    }

    fn report(&mut self, report: JobReport) {
        let JobReport { number: job, seconds, steps, reason, generation, .. } = &report;
        let ([step, iters], ending) = (steps, report.ending.name());
        if report.ending == Ending::Failed {
            tracing::error!(job, ending, step, iters, seconds, generation, reason, "job ends");
        } else {
            tracing::info!(job, ending, step, iters, seconds, generation, reason, "job ends");
        }
        self.board.job(report.clone());
        self.history.end(&*self.meter, report);
    }

    /// Sets aside a sample that has brought down every job in which it was alone.
    pub(super) fn set_aside_alone(&mut self, number: u64) -> Result<(), DeviceError> {
        let reason =
            format!("brought the program down {ALONE_MAX} times when it was learned alone");
        lock(&self.inbox).set_aside(number, &reason)?;
        self.state.drop_checkpoint()?;
        self.pass_over(number, &reason)
    }

    /// Lets go of samples that were set aside or cannot be read any more, for a reason that is kept.
    fn pass_over(&mut self, through: u64, reason: &str) -> Result<(), DeviceError> {
        tracing::warn!(through, reason, "samples are not learned: see `firmware-host aside list`");
        self.state.set_through(through);
        let step = self.state.current().map_or(0, |generation| generation.step);
        self.state.reject(step, reason, None)?;
        let mut inbox = lock(&self.inbox);
        inbox.forget(self.state.learned())?;
        // An order that nothing is left for must not wait for something.
        self.ordered &= inbox.reach(1).is_some();
        Ok(())
    }
}
