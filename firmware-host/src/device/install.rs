//! A global adapter that was ordered: read, installed under the watch of a job; and its second look.
//!
//! - In: an offer whose file was checked by whoever gives it, a state between two jobs. Out: what came of
//!   it, in the state's `installs` and as a run in the history.
//! - What can never be installed is remembered as such; what failed for now is tried again, and so is what
//!   brought the program down: in all [`INSTALL_STARTS_MAX`] times, counted on the disk.
//! - Never here: when it may run (`worker`), what a new adapter does to the own ranks (`learner::install`).

use super::DeviceError;
use super::store::Store;
use super::tools::Tools;
use super::watch::Watch;
use crate::status::{Board, Ending, JobKind, JobReport, Phase};
use crate::sync::Offered;
use sapwood::learner::{self, Event, LearnError, Outcome};
use sapwood::state::{Install, InstallOutcome};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::limits::{FLEET_ADAPTER_BYTES_MAX, INSTALL_STARTS_MAX};
use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

/// How long a generation is on trial before its second look.
pub(super) const TRIAL: Duration = Duration::from_secs(600);

/// What an install or a second look means for the worker.
#[derive(Debug)]
pub(super) enum Done {
    /// It is decided.
    Over,
    /// It was told to stop: again later.
    Later,
    /// It failed, and why; with what the device does not survive.
    Failed(String, Option<DeviceError>),
}

/// Why there is no adapter to install.
enum Unread {
    /// The file cannot be read now.
    Disk(io::Error),
    /// It is not what was offered, or no global adapter of this base.
    Other(String),
}

/// Installs what was offered, on trial, or remembers why not.
///
/// # Errors
/// [`DeviceError`]: nothing has changed, or the state must be opened again.
pub(super) fn install(
    tools: &Tools,
    store: &mut Store,
    watch: &mut Watch<'_>,
    offered: &Offered,
) -> Result<Done, DeviceError> {
    // No job is under way: what is left of one has nobody who goes on with it.
    store.state.drop_checkpoint()?;
    let (series, sequence) = (Some(offered.series), offered.sequence);
    if store.state.begin_install(series, sequence)?.is_none() {
        return give_up(store, offered);
    }
    let started = watch.sight.clock.now();
    let number = store.begin_run(started);
    tracing::info!(job = number, sequence, "install of a global adapter begins");
    watch.sight.board.update(|status| {
        (status.phase, status.waiting_for) = (Phase::Learning, String::new());
    });
    let (ending, reason, done) = match read(tools, offered) {
        Err(Unread::Disk(error)) => failed(error.to_string(), None),
        Err(Unread::Other(reason)) => refuse(store, offered, InstallOutcome::Failed, reason)?,
        Ok(global) => put(tools, store, watch, (offered, &global))?,
    };
    let generation = store.state.current().map(|generation| generation.number);
    let (kind, started) = (JobKind::Install, started.to_string());
    let report = JobReport { number, kind, started, ending, reason, generation, ..watch.report() };
    store.end_run(&watch.sight.board, report);
    Ok(done)
}

/// Ends an install that began as often as it may and never came to its end.
fn give_up(store: &mut Store, offered: &Offered) -> Result<Done, DeviceError> {
    let reason =
        format!("its install was begun {INSTALL_STARTS_MAX} times and brought the program down");
    tracing::error!(sequence = offered.sequence, reason, "a global adapter is given up");
    remember(store, offered, InstallOutcome::Declined, &reason)?;
    Ok(Done::Over)
}

type Ended = (Ending, String, Done);

fn failed(reason: String, error: Option<DeviceError>) -> Ended {
    (Ending::Failed, reason.clone(), Done::Failed(reason, error))
}

/// The adapter that lies in the offered file.
fn read(tools: &Tools, offered: &Offered) -> Result<learner::Offered, Unread> {
    let Offered { series, sequence, artifact, path } = offered;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Unread::Disk)?;
    file.take(FLEET_ADAPTER_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(Unread::Disk)?;
    if Hash::of(&bytes) != *artifact {
        let why = "its file has another BLAKE3 than was offered".to_owned();
        return Err(Unread::Other(why));
    }
    let base = tools.served.engines.base.hash();
    learner::Offered::read(&bytes, base, (Some(*series), *sequence))
        .map_err(|error| Unread::Other(error.to_string()))
}

/// Has the learner judge it, and does what follows.
fn put(
    tools: &Tools,
    store: &mut Store,
    watch: &mut Watch<'_>,
    (offered, global): (&Offered, &learner::Offered),
) -> Result<Ended, DeviceError> {
    let (engines, settings) = (&tools.served.engines, &tools.config.learn);
    let outcome = tools.pool.install(|| {
        let mut tell = |event: &Event| watch.hear(event);
        let (state, start) = (&mut store.state, tools.served.tokeniser.opening());
        learner::install(engines, state, global, settings, &tools.general, &start, &mut tell)
    });
    Ok(match outcome {
        Ok(Outcome::Judged { verdict, .. }) => {
            tools.serve(&store.state, &watch.sight.board)?;
            let ending = if verdict.keeps() { Ending::Kept } else { Ending::Dropped };
            (ending, verdict.to_string(), Done::Over)
        }
        Ok(Outcome::Stopped) => {
            // It was told to: that is no start. Where the disk refuses this, it counts as one.
            let _ = store.state.excuse_install();
            (Ending::Stopped, watch.stop.take().unwrap_or_default(), Done::Later)
        }
        Err(LearnError::Installed { .. }) => {
            // Another offer of what is there: nothing is to be tried.
            let reason = "it is installed already".to_owned();
            remember(store, offered, InstallOutcome::Confirmed, &reason)?;
            (Ending::Kept, reason, Done::Over)
        }
        Err(error @ LearnError::Foreign { .. }) => {
            refuse(store, offered, InstallOutcome::Declined, error.to_string())?
        }
        Err(error) => {
            let reason = error.to_string();
            failed(reason, Some(DeviceError::from(error)).filter(DeviceError::is_final))
        }
    })
}

fn refuse(
    store: &mut Store,
    offered: &Offered,
    outcome: InstallOutcome,
    reason: String,
) -> Result<Ended, DeviceError> {
    remember(store, offered, outcome, &reason)?;
    Ok((Ending::Failed, reason, Done::Over))
}

/// Remembers what became of an offer that changed nothing.
///
/// # Errors
/// [`DeviceError::State`].
pub(super) fn remember(
    store: &mut Store,
    offered: &Offered,
    outcome: InstallOutcome,
    reason: &str,
) -> Result<(), DeviceError> {
    let Offered { series, sequence, artifact: Hash(artifact), .. } = *offered;
    let (series, reason) = (Some(series), reason.to_owned());
    let (before, after) = (None, None);
    let install = Install { sequence, series, artifact, outcome, reason, before, after };
    Ok(store.state.decline(install)?)
}

/// Scores the generation on trial once more, and confirms it or gives its parent back.
///
/// # Errors
/// [`DeviceError`]: it is still on trial, or the state must be opened again.
pub(super) fn second_look(
    tools: &Tools,
    store: &mut Store,
    watch: &mut Watch<'_>,
) -> Result<Done, DeviceError> {
    let (engines, settings) = (&tools.served.engines, &tools.config.learn);
    let looked = tools.pool.install(|| {
        let mut tell = |event: &Event| watch.hear(event);
        learner::look_again(engines, &store.state, settings, &tools.general, &mut tell)
    });
    match looked {
        Ok((verdict, [_, after])) if verdict.keeps() => {
            confirm(store, &verdict.to_string(), after)?;
        }
        Err(LearnError::Unjudged) => confirm(store, "it ran; no text for a second look", None)?,
        Ok((verdict, _)) => revert(tools, store, &watch.sight.board, &verdict.to_string())?,
        Err(LearnError::Stopped) => return Ok(Done::Later),
        Err(error) => {
            let reason = format!("no second look: {error}");
            let error = DeviceError::from(error);
            if error.is_final() {
                return Err(error);
            }
            revert(tools, store, &watch.sight.board, &reason)?;
        }
    }
    Ok(Done::Over)
}

/// Gives the parent of the generation on trial back: its fleet has withdrawn it.
///
/// # Errors
/// [`DeviceError`]: it is still on trial, or the state must be opened again.
pub(super) fn recall(tools: &Tools, store: &mut Store, board: &Board) -> Result<(), DeviceError> {
    revert(tools, store, board, "its fleet offered another during the trial")
}

fn confirm(store: &mut Store, reason: &str, after: Option<f64>) -> Result<(), DeviceError> {
    store.state.confirm(reason, after)?;
    tracing::info!(reason, "the generation on trial is confirmed");
    Ok(())
}

fn revert(
    tools: &Tools,
    store: &mut Store,
    board: &Board,
    reason: &str,
) -> Result<(), DeviceError> {
    let generation = store.state.revert(reason)?;
    tracing::warn!(generation, reason, "the generation before the one on trial is back");
    tools.serve(&store.state, board)
}
