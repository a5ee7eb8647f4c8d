//! What the device says of itself: one snapshot that `/v1/status`, the status page and `status` show.
//!
//! - In: what the worker, the inbox and the servers report. Out: [`Status`], as JSON.
//! - Bounded: rings of fixed length, the oldest goes first.
//! - Never here: how it is served.

mod counters;
mod fleet;

pub use counters::Counters;
pub use fleet::FleetStatus;

use crate::constraints::ConstraintState;
use crate::log;
use crate::probe::Readings;
use heapless::HistoryBuf;
use sapwood::inbox::Inbox;
use sapwood::state::{Generation, Global, State, Trial};
use sapwood_protocol::fleet::id::{FleetId, Hash};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Steps whose losses are kept for the curve.
pub const STEPS_KEPT: usize = 512;
/// Longest time without a sign of the worker's while it waits: far below what any watchdog grants.
pub const BEAT: Duration = Duration::from_secs(1);
/// Jobs that are remembered.
pub const JOBS_KEPT: usize = 32;

/// What the worker is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Loading the base.
    #[default]
    Starting,
    /// Waiting for samples or for its constraints.
    Waiting,
    /// In a job.
    Learning,
    /// Told to wait by an operator.
    Paused,
    /// On its way out.
    Stopping,
}

/// One point of the loss curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepPoint {
    /// Optimiser step of the job.
    pub step: u64,
    /// What is minimised.
    pub loss: f32,
    /// Nats a label on fresh blocks.
    pub fresh: f32,
    /// Nats a label on replayed blocks.
    pub replay: Option<f32>,
}

/// Bits per byte of one held-out text, before and after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// `new`, `old` or `general`.
    pub text: String,
    /// With the adapter before the job.
    pub before: f64,
    /// With the slow adapter that the job made.
    pub after: f64,
}

/// How a run of a job ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The gate kept the adapter.
    Kept,
    /// The gate did not.
    Dropped,
    /// A constraint, a budget or an order stopped it; its checkpoint waits.
    Stopped,
    /// Something failed.
    #[default]
    Failed,
}

impl Ending {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Dropped => "dropped",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// It learned samples.
    #[default]
    Learn,
    /// It installed a global adapter.
    Install,
}

/// Runs by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Endings {
    /// The gate kept the adapter.
    pub kept: u64,
    /// The gate did not.
    pub dropped: u64,
    /// Stopped, to go on later.
    pub stopped: u64,
    /// Something failed.
    pub failed: u64,
}

/// One run of a job, as it is remembered across restarts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// Number of the run in the device's life, from 1.
    pub number: u64,
    /// What it did.
    #[serde(default)]
    pub kind: JobKind,
    /// When it began, RFC 3339.
    pub started: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Energy it took, in joules, where that is known.
    pub joules: Option<f64>,
    /// Bytes it wrote to the state folder.
    pub bytes_written: u64,
    /// Samples it learned from.
    pub samples: u64,
    /// Steps of the job at its end, and all of them.
    pub steps: [u64; 2],
    /// How it ended.
    pub ending: Ending,
    /// Why, in one line.
    pub reason: String,
    /// The generation in use afterwards.
    pub generation: Option<u64>,
    /// Bits per byte, before and after.
    pub changes: Vec<Change>,
}

impl JobReport {
    /// Whether it was the run that made this generation.
    pub fn made(&self, generation: u64) -> bool {
        self.ending == Ending::Kept && self.generation == Some(generation)
    }
}

/// What waits in the inbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InboxStatus {
    /// Samples that no job has learned.
    pub samples: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Most bytes there may be.
    pub bytes_max: u64,
    /// Samples ever accepted by this process.
    pub accepted: u64,
    /// Samples dropped because they were there already.
    pub duplicates: u64,
    /// Samples refused: malformed, or no room.
    pub refused: u64,
    /// Frames dropped: damaged, or no room.
    pub frames_dropped: u64,
    /// Samples that no job could take in, kept until an operator decides.
    pub aside: u64,
    /// Samples of those that had to go for others.
    pub aside_dropped: u64,
    /// Damaged bytes of the inbox passed over when it was opened.
    pub damaged_bytes: u64,
}

impl InboxStatus {
    /// What the inbox holds now, to be shown by [`Board::inbox`].
    pub fn held(inbox: &Inbox) -> Self {
        let waiting = inbox.waiting();
        Self {
            samples: waiting.samples,
            bytes: waiting.bytes,
            aside: inbox.aside().count() as u64,
            aside_dropped: inbox.aside_dropped(),
            ..Self::default()
        }
    }
}

/// What the reservoir holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReservoirStatus {
    /// Blocks held.
    pub held: u64,
    /// Blocks it can hold.
    pub capacity: u64,
    /// Blocks ever offered.
    pub seen: u64,
}

/// The global adapter that the generation in use stands on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GlobalStatus {
    /// Of the statement that offered it.
    pub sequence: u64,
    /// The fleet whose statement that is; none by hand.
    pub fleet: Option<String>,
    /// BLAKE3 of its file, in hexadecimal digits.
    pub artifact: String,
    /// Its rank.
    pub ranks: u32,
}

/// A generation that is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GenerationStatus {
    /// Its number, never given twice.
    pub number: u64,
    /// The generation that it grew from, 0 for the bare base.
    pub parent: u64,
    /// Optimiser steps of the device's life.
    pub step: u64,
    /// What the gate said.
    pub verdict: String,
    /// Whether it is the one in use.
    pub in_use: bool,
}

impl GenerationStatus {
    /// Those of a state, by number.
    pub fn all(state: &State) -> Vec<Self> {
        let current = state.current().map(|generation| generation.number);
        let one = |generation: &Generation| Self {
            number: generation.number,
            parent: generation.parent,
            step: generation.step,
            verdict: generation.verdict.clone(),
            in_use: current == Some(generation.number),
        };
        state.generations().iter().map(one).collect()
    }
}

/// The trial of the generation in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrialStatus {
    /// The generation that returns if it is not confirmed, 0 for the bare base.
    pub parent: u64,
    /// Starts that it may still have.
    pub tries_left: u32,
}

impl GlobalStatus {
    /// What the generation in use of a state stands on.
    pub fn of(state: &State) -> Option<Self> {
        let Global { sequence, series, artifact, ranks } = state.global()?;
        let fleet = series.map(|series| FleetId(series.fleet).to_string());
        Some(Self { sequence, fleet, artifact: Hash(artifact).to_string(), ranks })
    }
}

impl TrialStatus {
    /// The trial that it is on.
    pub fn of(state: &State) -> Option<Self> {
        let Trial { parent, tries_left, .. } = state.trial()?;
        Some(Self { parent, tries_left })
    }
}

/// What is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServingStatus {
    /// The generation in use; none for the bare base.
    pub generation: Option<u64>,
    /// Generations of text under way.
    pub active: u64,
    /// Requests for text answered.
    pub requests: u64,
    /// Requests refused for want of room.
    pub refused: u64,
    /// Tokens written.
    pub tokens: u64,
}

/// A snapshot.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// The program's version.
    pub version: &'static str,
    /// Seconds since it started.
    pub uptime_seconds: f64,
    /// Name of the base: its folder's last part.
    pub model: String,
    /// What the worker is doing.
    pub phase: Phase,
    /// Why it is not learning, in one line; empty while it is.
    pub waiting_for: String,
    /// Constraints, in the order of the configuration.
    pub constraints: Vec<ConstraintState>,
    /// The last readings.
    pub readings: Readings,
    /// Inbox.
    pub inbox: InboxStatus,
    /// Reservoir; none before the first job.
    pub reservoir: Option<ReservoirStatus>,
    /// Serving.
    pub serving: ServingStatus,
    /// The global adapter that the generation in use stands on; none without one.
    pub global: Option<GlobalStatus>,
    /// The trial that it is on; none when it is confirmed.
    pub trial: Option<TrialStatus>,
    /// Generations that are kept, by number.
    pub generations: Vec<GenerationStatus>,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: Option<u64>,
    /// What the disk failed at, or which thread broke off, until the program starts again; none while it
    /// is sound.
    pub fault: Option<String>,
    /// Panics of any thread of this process.
    pub panics: u64,
    /// Lines of the log that could not be written.
    pub log_lines_lost: u64,
    /// Optimiser steps made by this process.
    pub steps_made: u64,
    /// Runs that were reported to this process, by how they ended; one that could not begin has failed.
    pub endings: Endings,
    /// Loss curve of the job under way, or of the last one.
    pub steps: Vec<StepPoint>,
    /// The last runs, oldest first.
    pub jobs: Vec<JobReport>,
    /// The device in its fleet; none while it is in none.
    pub fleet: Option<FleetStatus>,
}

/// Where the parts of the program report, and where a snapshot comes from.
#[derive(Default)]
pub struct Board {
    inner: Mutex<Inner>,
    beats: AtomicU64,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct Inner {
    status: Status,
    steps: HistoryBuf<StepPoint, STEPS_KEPT>,
}

impl Board {
    /// The worker went forward: an optimiser step, a batch of held-out text, a look at the constraints.
    /// Nobody else calls this: a busy server must not hide a worker that hangs.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How often something went forward: a watchdog is fed when this has grown, and only then.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// Where the ways in besides HTTP count.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Changes what is shown.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.lock().status);
    }

    /// Shows what the inbox holds. It takes numbers, not the inbox: who holds one lock never asks for the
    /// other.
    pub fn inbox(&self, held: InboxStatus) {
        let InboxStatus { samples, bytes, aside, aside_dropped, .. } = held;
        let shown = &mut self.lock().status.inbox;
        *shown = InboxStatus { samples, bytes, aside, aside_dropped, ..*shown };
    }

    /// Adds a point to the curve; step 1 begins a new one.
    pub fn step(&self, point: StepPoint) {
        let mut inner = self.lock();
        if point.step <= 1 {
            inner.steps.clear();
        }
        inner.status.steps_made += 1;
        inner.steps.write(point);
    }

    /// Remembers a run.
    pub fn job(&self, report: JobReport) {
        let status = &mut self.lock().status;
        let endings = &mut status.endings;
        *match report.ending {
            Ending::Kept => &mut endings.kept,
            Ending::Dropped => &mut endings.dropped,
            Ending::Stopped => &mut endings.stopped,
            Ending::Failed => &mut endings.failed,
        } += 1;
        if status.jobs.len() >= JOBS_KEPT {
            status.jobs.remove(0);
        }
        status.jobs.push(report);
    }

    /// Looks at what is shown, without copying all of it.
    pub fn look<T>(&self, at: impl FnOnce(&Status) -> T) -> T {
        at(&self.lock().status)
    }

    /// Texts that are being generated.
    pub fn serving(&self) -> u64 {
        self.lock().status.serving.active
    }

    /// All of it, as of now.
    pub fn snapshot(&self) -> Status {
        let inner = self.lock();
        let steps = inner.steps.oldest_ordered().copied().collect();
        let mut status = Status { steps, ..inner.status.clone() };
        self.counters.add_to(&mut status.inbox);
        (status.panics, status.log_lines_lost) = (log::panics(), log::lines_lost());
        status
    }

    /// A panic elsewhere leaves numbers that are at worst old.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_keeps_its_newest_points_in_order_and_begins_anew_with_a_job() {
        let board = Board::default();
        let point = |step| StepPoint { step, loss: 1.0, fresh: 1.0, replay: None };
        (1..=STEPS_KEPT as u64 + 3).for_each(|step| board.step(point(step)));
        let steps = board.snapshot().steps;
        assert_eq!((steps.len(), steps[0].step), (STEPS_KEPT, 4));
        assert!(steps.is_sorted_by_key(|point| point.step));
        board.step(point(1));
        assert_eq!(board.snapshot().steps, [point(1)]);
    }
}
