//! The worker: owns the state folder, looks at the constraints, runs one job at a time.
//!
//! - [`Worker::tick`] is one look, and a run of a job if one may start; [`Worker::live`] is tick after
//!   tick until it is told to end.
//! - Why it waits is logged when it changes, so that the log explains every job and every pause.

use super::{Current, DeviceError, Handle, Order, Served, World, lock};
use crate::budget::{Meter, Starts};
use crate::clock::Clock;
use crate::config::Config;
use crate::constraints::{Constraints, Look, Situation};
use crate::history::History;
use crate::paused::Paused;
use crate::probe::{Probes, Readings};
use crate::status::{BEAT, Board, InboxStatus, Phase, ReservoirStatus};
use jiff::tz::TimeZone;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sapwood::adapter::Adapter;
use sapwood::base::read_config;
use sapwood::block::Block;
use sapwood::inbox::{Bounds, Inbox, InboxError};
use sapwood::intake;
use sapwood::learner::{self, Engines, LearnError, Memory, Plan, Tokens};
use sapwood::ports::Storage;
use sapwood::settings::Settings;
use sapwood::state::State;
use sapwood::tokenise::{TokeniseError, Tokeniser};
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Free bytes beside what a job is known to write: manifests, history, what file systems round up.
const DISK_SPARE_BYTES: u64 = 8 << 20;

/// What to do after a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Nothing to do for now.
    Wait,
    /// A job has run: look again at once.
    Again,
    /// Told to end.
    End,
}

/// Owns the state folder and learns.
pub struct Worker {
    pub(super) config: Config,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) probes: Box<dyn Probes>,
    pub(super) meter: Arc<Meter>,
    pub(super) state: State,
    pub(super) inbox: Arc<Mutex<Inbox>>,
    pub(super) served: Arc<Served>,
    pub(super) board: Arc<Board>,
    pub(super) orders: Receiver<Order>,
    pub(super) constraints: Constraints,
    pub(super) starts: Starts,
    pub(super) history: History,
    /// General text that no job learns.
    pub(super) general: Vec<Block>,
    /// The threads that learn; they give way to those that serve.
    pub(super) pool: ThreadPool,
    /// Whether learning was told to wait.
    paused: Arc<Paused>,
    /// An operator asked for a job.
    pub(super) ordered: bool,
    ending: bool,
    /// No run before this moment: after a failure, or after one that has spent its budget.
    pub(super) rest_until: Duration,
    pub(super) failures: u32,
    /// Names of the constraints that stood in the way at the last look.
    waited_for: Option<String>,
}

impl Worker {
    /// Recovers the state folder, loads the base, and is ready to look.
    ///
    /// `zone`: where the times of `constraints.windows` are local.
    /// # Errors
    /// [`DeviceError`]; a second program on the same state folder is refused by its disk.
    pub fn open(
        mut config: Config,
        world: World,
        zone: TimeZone,
    ) -> Result<(Self, Handle), DeviceError> {
        let World { storage, clock, mut probes } = world;
        let meter = Arc::new(Meter::new(storage));
        let model = config.model.clone().ok_or(DeviceError::NoModel)?;
        // Opening the state sweeps: what a later version left is refused before that.
        Inbox::refuse_newer(&*meter)?;
        let state = State::open(meter.clone())?;
        tell_recovery(&state);
        if let Some(wishes) = &config.wishes {
            let base = read_config(&model).map_err(LearnError::from)?;
            config.learn = Plan::new(&base, &state, wishes.clone(), false)?.settings().clone();
        }
        let engines = Engines::load_within(&model, &config.learn, probes.read().memory_bytes)?;
        // Texts do not run on the trunk's own threads, only jobs do.
        engines.trunk.on_threads(yield_to_others);
        let tokeniser = Tokeniser::open(&model, engines.base.config().vocab)?;
        let general = general(&config, &tokeniser)?;
        let intake = &config.intake;
        let bounds = Bounds { bytes: intake.inbox_bytes_max, samples: intake.inbox_samples_max };
        let inbox = Inbox::open(meter.clone(), bounds, state.learned())?;
        let served = Arc::new(Served::new(engines, tokeniser, Current::default()));
        let history = History::read(&*meter);
        let (sender, orders) = mpsc::channel();
        let paused = Arc::new(Paused::read(meter.clone())?);
        let mut worker = Self {
            constraints: Constraints::new(&config, zone),
            starts: history.starts(),
            pool: pool(&config.learn)?,
            inbox: Arc::new(Mutex::new(inbox)),
            board: Arc::new(Board::default()),
            config,
            clock,
            probes,
            meter,
            state,
            served,
            orders,
            history,
            general,
            paused,
            ordered: false,
            ending: false,
            rest_until: Duration::ZERO,
            failures: 0,
            waited_for: None,
        };
        worker.serve_current()?;
        worker.first_board(&model);
        let (inbox, board) = (worker.inbox.clone(), worker.board.clone());
        let job_disk_bytes = worker.job_disk_bytes()?;
        let served = worker.served.clone();
        let (orders, paused, disk_is_low) = (sender, worker.paused.clone(), Arc::default());
        let handle = Handle { inbox, orders, paused, board, served, job_disk_bytes, disk_is_low };
        Ok((worker, handle))
    }

    fn first_board(&self, model: &std::path::Path) {
        let found = lock(&self.inbox).found();
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
        let name = model.file_name().map(|name| name.to_string_lossy().into_owned());
        self.board.update(|status| {
            status.version = env!("CARGO_PKG_VERSION");
            status.model = name.unwrap_or_default();
            status.jobs.clone_from(&self.history.jobs);
            status.inbox.bytes_max = self.config.intake.inbox_bytes_max;
            status.inbox.damaged_bytes = found.passed_over_bytes;
        });
        self.show_state();
    }

    /// Tick after tick, until an order ends it.
    ///
    /// # Errors
    /// [`DeviceError`] after which the state folder must be opened again.
    pub fn live(mut self) -> Result<(), DeviceError> {
        yield_to_others();
        let poll = Duration::from_secs_f64(self.config.job.poll_seconds);
        loop {
            match self.tick()? {
                Pace::End => return Ok(()),
                Pace::Again => continue,
                Pace::Wait => {}
            }
            if self.rest(poll).is_break() {
                return Ok(());
            }
        }
    }

    /// Waits for an order or the next look; breaks when nobody is left who could give one. However long
    /// the wait, the watchdog hears that the worker is there.
    fn rest(&mut self, mut wait: Duration) -> ControlFlow<()> {
        while !wait.is_zero() {
            let slice = wait.min(BEAT);
            match self.orders.recv_timeout(slice) {
                Ok(order) => {
                    self.follow(order);
                    break;
                }
                Err(RecvTimeoutError::Timeout) => self.board.beat(),
                Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
            }
            wait -= slice;
        }
        ControlFlow::Continue(())
    }

    /// One look at orders and constraints, and a run of a job if one may start.
    ///
    /// # Errors
    /// [`DeviceError`] after which the state folder must be opened again.
    pub fn tick(&mut self) -> Result<Pace, DeviceError> {
        self.board.beat();
        // A way in met a disk that keeps no promise: only a new start finds what is there.
        if lock(&self.inbox).is_broken() {
            return Err(InboxError::Broken.into());
        }
        while let Ok(order) = self.orders.try_recv() {
            self.follow(order);
        }
        if self.ending {
            self.board.update(|status| status.phase = Phase::Stopping);
            return Ok(Pace::End);
        }
        let readings = self.probes.read();
        let situation = self.situation();
        let look = self.constraints.look(&readings, &situation, &*self.clock);
        self.show(&readings, &look);
        if let Err(why) = self.may_start(&look) {
            self.wait(&look, why);
            return Ok(Pace::Wait);
        }
        self.waited_for = None;
        let ran = match self.run(&readings, situation) {
            Err(error) if !error.is_final() => {
                tracing::warn!(%error, "no job");
                self.fail();
                false
            }
            ran => ran?,
        };
        self.show_state();
        Ok(match (self.ending, ran) {
            (true, _) => Pace::End,
            (false, true) => Pace::Again,
            (false, false) => Pace::Wait,
        })
    }

    fn may_start(&self, look: &Look) -> Result<(), String> {
        look.start.clone()?;
        let left = self.rest_until.saturating_sub(self.clock.elapsed());
        if left.is_zero() || self.ordered {
            return Ok(());
        }
        Err(format!("rests after the last run for {} s", left.as_secs() + 1))
    }

    fn situation(&self) -> Situation {
        let (waiting, job) = {
            let inbox = lock(&self.inbox);
            (inbox.waiting(), inbox.job())
        };
        Situation {
            samples: waiting.samples,
            resumes: job.is_some(),
            ordered: self.ordered,
            paused: self.paused.is(),
            serving: self.board.serving(),
            jobs_today: self.starts.in_a_day(self.clock.now()),
            own_load: 0.0,
            job_bytes: self.job_bytes(waiting.samples),
        }
    }

    /// Bytes of the disk that a job writes before it frees any: a checkpoint twice while one is replaced, the
    /// commit's learner and adapter, and a reservoir that is not there yet.
    fn job_disk_bytes(&self) -> Result<u64, DeviceError> {
        let (config, learn) = (self.served.engines.base.config(), &self.config.learn);
        let numbers = learner::spec(config, learn)?.len() as u64;
        let adapter = numbers * size_of::<f32>() as u64;
        // Fast, slow and the two moments.
        let record = 4 * adapter;
        let blocks = learn.replay_blocks * learn.max_seq_length as u64;
        let reservoir = match self.meter.len("reservoir")? {
            Some(_) => 0,
            None => 2 * blocks * size_of::<u32>() as u64,
        };
        Ok(3 * record + adapter + reservoir + DISK_SPARE_BYTES)
    }

    /// Memory that a job takes beside the resident base.
    fn job_bytes(&self, samples: u64) -> u64 {
        let (engines, settings) = (&self.served.engines, &self.config.learn);
        // Samples are about a block each, and an eighth of them is held out.
        let fresh = samples * settings.max_seq_length as u64;
        let tokens = Tokens { fresh, held_out: fresh / 8 }.with_old();
        let spec = learner::spec(engines.base.config(), settings);
        spec.map_or(0, |spec| Memory::estimate(&engines.base, &spec, settings, tokens).job())
    }

    /// Follows an order that came while no job runs, or that a run has handed on.
    pub(super) fn follow(&mut self, order: Order) {
        match order {
            // An order that would wait for samples could come true at any time.
            Order::JobNow => self.ordered = lock(&self.inbox).reach(1).is_some(),
            Order::Stop => self.ending = true,
            // Whoever gave it has written it down: the next look sees it.
            Order::Pause | Order::Resume => {}
        }
    }

    /// Serves the generation in use.
    pub(super) fn serve_current(&mut self) -> Result<(), DeviceError> {
        let engines = &self.served.engines;
        let spec = learner::spec(engines.base.config(), &self.config.learn)?;
        let current = match (self.state.current(), self.state.learner()?) {
            (Some(generation), Some(record)) => {
                record.belongs_to(&engines.base.hash(), &spec)?;
                let adapter = Adapter { spec, values: record.slow };
                Current { generation: Some(generation.number), adapter: Some(adapter) }
            }
            _ => Current::default(),
        };
        let generation = current.generation;
        self.served.swap(current);
        self.board.update(|status| status.serving.generation = generation);
        Ok(())
    }

    fn show(&mut self, readings: &Readings, look: &Look) {
        let uptime_seconds = self.clock.elapsed().as_secs_f64();
        let resident_bytes = self.probes.resident_bytes();
        self.board.update(|status| {
            status.resident_bytes = resident_bytes;
            status.uptime_seconds = uptime_seconds;
            status.readings = readings.clone();
            status.constraints.clone_from(&look.states);
        });
    }

    /// Inbox and reservoir, after they changed.
    pub(super) fn show_state(&self) {
        let held = InboxStatus::held(&lock(&self.inbox));
        self.board.inbox(held);
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
        self.board.update(|status| status.reservoir = reservoir);
    }

    /// Says why nothing is learned; logged when other constraints stand in the way than before.
    fn wait(&mut self, look: &Look, why: String) {
        let unmet = look.states.iter().filter(|state| !state.met).map(|state| state.name);
        let names = unmet.collect::<Vec<_>>().join(", ");
        if self.waited_for.as_ref() != Some(&names) {
            tracing::info!(reason = why, "waiting");
            self.waited_for = Some(names);
        }
        let phase = if self.paused.is() { Phase::Paused } else { Phase::Waiting };
        self.board.update(|status| (status.phase, status.waiting_for) = (phase, why));
    }
}

fn tell_recovery(state: &State) {
    let recovery = state.recovery();
    for reason in &recovery.fell_back {
        tracing::warn!(reason, "fell back to an earlier generation");
    }
    if let Some(reason) = &recovery.checkpoint_lost {
        tracing::warn!(reason, "the checkpoint of an interrupted job cannot be used");
    }
    for path in &recovery.swept {
        tracing::info!(path, "removed what an interrupted job left");
    }
}

/// Blocks of the text that the gate judges every job by.
fn general(config: &Config, tokeniser: &Tokeniser) -> Result<Vec<Block>, DeviceError> {
    let Some(path) = &config.job.general else { return Ok(Vec::new()) };
    let data = intake::open(path)?;
    let examples = [data.train, data.valid].concat();
    let learn = &config.learn;
    match tokeniser.blocks(&examples, learn.max_seq_length, learn.mask_prompt, 0) {
        Ok(made) => Ok(made.blocks),
        Err(TokeniseError::NothingTrainable { .. }) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// The threads that learn.
fn pool(settings: &Settings) -> Result<ThreadPool, DeviceError> {
    let threads = learner::threads(settings);
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|index| format!("learn-{index}"))
        .start_handler(|_| yield_to_others())
        .build()
        .map_err(|error| DeviceError::Threads { threads, why: error.to_string() })
}

/// Lets every other thread of the machine go first: who waits for a text does not wait for learning.
fn yield_to_others() {
    // Linux takes this for the calling thread alone, as is meant; elsewhere it is the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, 19) {
        tracing::debug!(%error, "learning keeps its priority");
    }
}
