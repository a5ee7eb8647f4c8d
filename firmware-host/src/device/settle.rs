//! What an end means: what becomes of the samples, what is served, what comes next.
//!
//! - In: what was prepared and not run, or a run that has ended. Out: an [`End`] for the worker.
//! - Invariant: whatever happens, a report says how a run ended and why, and every sample is learned, waits,
//!   or is set aside.

use super::DeviceError;
use super::prepare::Prepared;
use super::run::Ran;
use super::store::Store;
use super::tools::Tools;
use crate::status::{Board, Ending};
use sapwood::inbox::Job;
use sapwood::learner::{LearnError, Outcome};
use std::time::Duration;

/// Rest after the first failure; it doubles with every one that follows.
const REST: Duration = Duration::from_secs(60);
const REST_MAX: Duration = Duration::from_secs(3_600);

/// What an end means for the worker.
#[derive(Debug)]
pub(super) enum End {
    /// The gate has judged: the order, if there was one, is done.
    Judged,
    /// Samples wait for more of them.
    Waits,
    /// It was told to stop, or samples were passed over: there may be more to do at once.
    GoesOn,
    /// It failed; with what the device does not survive.
    Failed(Option<DeviceError>),
}

/// Samples whose blocks leave nothing to judge by wait for more.
///
/// # Errors
/// [`DeviceError`]: the job stays under way.
pub(super) fn wait_for_more(store: &Store, samples: u64) -> Result<End, DeviceError> {
    store.inbox().cancel()?;
    tracing::warn!(
        samples,
        "no job: the samples give no text beside that to judge by, and wait for more"
    );
    Ok(End::Waits)
}

/// Nothing can be learned from any of the samples.
///
/// # Errors
/// [`DeviceError`]: those that are not set aside yet are still there.
pub(super) fn pass_over(store: &mut Store, prepared: &Prepared) -> Result<End, DeviceError> {
    store.pass_over(prepared.job.through, "nothing can be learned from the samples")?;
    Ok(End::GoesOn)
}

/// An order or a constraint came before the first step.
///
/// # Errors
/// [`DeviceError`]: it counts as an attempt.
pub(super) fn stopped_early(store: &Store, job: Job) -> Result<End, DeviceError> {
    store.inbox().begin(Job { attempts: 0, ..job })?;
    tracing::info!("told to stop before the job began");
    Ok(End::GoesOn)
}

/// Does what the outcome of a run asks for, and reports it.
///
/// # Errors
/// [`DeviceError`]: the next start does what is left.
pub(super) fn settle(
    tools: &Tools,
    store: &mut Store,
    board: &Board,
    ran: Ran,
) -> Result<End, DeviceError> {
    let Ran { job, outcome, stop, mut report } = ran;
    let end = match outcome {
        Ok(Outcome::Judged { verdict, .. }) => {
            store.forget_learned()?;
            report.ending = if verdict.keeps() { Ending::Kept } else { Ending::Dropped };
            report.reason = verdict.to_string();
            tools.serve(&store.state, board)?;
            End::Judged
        }
        Ok(Outcome::Stopped) => {
            (report.ending, report.reason) = (Ending::Stopped, stop);
            // It was told to: that is no failed attempt.
            store.inbox().begin(Job { attempts: 0, step: report.steps[0], ..job })?;
            End::GoesOn
        }
        Err(error) => {
            (report.ending, report.reason) = (Ending::Failed, error.to_string());
            if !matches!(error, LearnError::Train(_)) {
                // A full disk is not the samples' fault.
                store.excuse(job);
            }
            End::Failed(Some(DeviceError::from(error)).filter(DeviceError::is_final))
        }
    };
    report.generation = store.state.current().map(|generation| generation.number);
    store.end_run(board, report);
    Ok(end)
}

/// When the next run may begin: not at once after a failure, or after one that has spent its budget.
#[derive(Debug, Default)]
pub(super) struct Rest {
    until: Duration,
    cause: String,
    failures: u32,
}

impl Rest {
    /// Time that is left of it.
    pub(super) fn left(&self, elapsed: Duration) -> Duration {
        self.until.saturating_sub(elapsed)
    }

    /// What it is a rest from.
    pub(super) fn cause(&self) -> &str {
        &self.cause
    }

    /// A run has spent its budget: otherwise a bound on what is spent at a time would bound nothing.
    pub(super) fn after_spending(&mut self, elapsed: Duration, seconds: f64) {
        self.cause = "a run that spent its budget".to_owned();
        self.until = elapsed + Duration::from_secs_f64(seconds);
    }

    /// A run has failed, or did not begin, and why.
    pub(super) fn after_failure(&mut self, elapsed: Duration, why: String) {
        self.cause = why;
        let rest = REST.saturating_mul(1 << self.failures.min(10)).min(REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.until = elapsed + rest;
    }

    /// A run came through.
    pub(super) fn failed_no_more(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_doubles_with_every_failure_up_to_an_hour_and_begins_anew_after_a_run() {
        let mut rest = Rest::default();
        let fail = |rest: &mut Rest| {
            rest.after_failure(Duration::ZERO, String::new());
            rest.left(Duration::ZERO).as_secs()
        };
        let rests: Vec<u64> = (0..8).map(|_| fail(&mut rest)).collect();
        assert_eq!(rests, [60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
        rest.failed_no_more();
        assert_eq!(fail(&mut rest), 60);
        assert_eq!(rest.left(Duration::from_secs(45)), Duration::from_secs(15));
        assert_eq!(rest.left(Duration::MAX), Duration::ZERO);
    }
}
