//! One run of the learner over what was prepared, under the watch.
//!
//! - In: blocks whose job is on disk, the checkpoint of an earlier run. Out: [`Ran`]: how it ended and what
//!   it took.
//! - Never here: what becomes of the samples (`settle`).

use super::DeviceError;
use super::plan;
use super::prepare::Prepared;
use super::store::Store;
use super::tools::Tools;
use super::watch::Watch;
use crate::status::{JobReport, Phase};
use sapwood::inbox::Job;
use sapwood::learner::{self, Event, LearnError, Outcome};
use sapwood::settings::Settings;
use sapwood::state::Checkpoint;

/// A run that has ended.
pub(super) struct Ran {
    pub(super) job: Job,
    pub(super) outcome: Result<Outcome, LearnError>,
    /// Why it was told to stop, where it was.
    pub(super) stop: String,
    /// What it took; what its end means is still to be said.
    pub(super) report: JobReport,
}

/// Learns, from the checkpoint on where it fits.
///
/// # Errors
/// [`DeviceError`]: the run did not begin.
pub(super) fn run(
    tools: &Tools,
    store: &mut Store,
    watch: &mut Watch<'_>,
    prepared: Prepared,
    checkpoint: Option<&Checkpoint>,
) -> Result<Ran, DeviceError> {
    let Prepared { job, samples, hash, .. } = prepared;
    let base = tools.served.engines.base.config();
    let settings = plan::settings(&tools.config, base, prepared.train.len());
    let identity = settings.identity().map_err(LearnError::from)?;
    let resume = store.resumes(checkpoint, &hash, &identity)?;
    let settings = Settings { resume, ..settings };
    let material = tools.material(prepared);
    let started = watch.sight.clock.now();
    let number = store.begin_run(started);
    let iters = settings.iters;
    tracing::info!(job = number, samples, iters, resumed = resume, "job begins");
    watch.sight.board.update(|status| {
        (status.phase, status.waiting_for) = (Phase::Learning, String::new());
    });
    store.state.set_through(job.through);
    let outcome = tools.pool.install(|| {
        let mut tell = |event: &Event| watch.hear(event);
        learner::adapt(&tools.served.engines, &mut store.state, &material, &settings, &mut tell)
    });
    let report = JobReport {
        number,
        started: started.to_string(),
        samples,
        steps: [watch.step, iters],
        ..watch.report()
    };
    Ok(Ran { job, outcome, stop: watch.stop.take().unwrap_or_default(), report })
}
