//! The worker: owns the state folder, looks at the constraints, runs one job at a time.
//!
//! ```text
//! tick: orders -> look -> step: plan -> prepare -> run -> settle
//!                     |-> install, second look
//! ```
//! - [`Worker::tick`] is one look, and a step if one may be made; [`Worker::live`] is tick after tick until
//!   it is told to end.
//! - Why it waits is logged when it changes, so that the log explains every job and every pause.
//! - Never here: what a step decides (`plan`, `settle`), what it does (`prepare`, `run`).

use super::fleet;
use super::install::{self, Done, TRIAL};
use super::plan::{self, Next, Stand, Turn, Worth};
use super::prepare::Source;
use super::rollback::roll_back;
use super::run::run;
use super::settle::{self, End, Rest};
use super::sight::Sight;
use super::store::{self, Store};
use super::threads;
use super::told::Told;
use super::tools::Tools;
use super::watch::Watch;
use super::{DeviceError, Handle, World};
use crate::budget::Meter;
use crate::config::Config;
use crate::constraints::{Constraints, Look, Situation};
use crate::paused::Paused;
use crate::probe::Readings;
use crate::status::{BEAT, Board, Phase};
use crate::sync::View;
use jiff::tz::TimeZone;
use sapwood::inbox::{InboxError, Job};
use sapwood::learner::Event;
use sapwood::state::{Checkpoint, InstallOutcome};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::limits::INSTALL_STARTS_MAX;
use std::mem::take;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
    /// What it learns with.
    tools: Tools,
    /// What it owns on disk.
    store: Store,
    /// What it looks at.
    sight: Sight,
    /// What it was told.
    told: Told,
    /// When it may run again.
    rest: Rest,
    /// What a fleet may know.
    view: Arc<Mutex<View>>,
    /// Bytes of the disk that a job takes.
    disk_bytes: Arc<AtomicU64>,
    /// When the generation on trial began to live, in this process.
    trial_since: Duration,
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
        config: Config,
        world: World,
        zone: TimeZone,
    ) -> Result<(Self, Handle), DeviceError> {
        let World { storage, clock, mut probes } = world;
        let meter = Arc::new(Meter::new(storage));
        let model = config.model.clone().ok_or(DeviceError::NoModel)?;
        let state = store::recovered(&meter)?;
        let tools = Tools::load(config, &model, &state, probes.read().memory_bytes)?;
        let store = Store::open(meter, state, &tools.config.intake)?;
        let constraints = Constraints::new(&tools.config, zone);
        let sight = Sight { clock, probes, constraints, board: Arc::new(Board::default()) };
        let (sender, orders) = mpsc::channel();
        let paused = Arc::new(Paused::read(store.meter.clone())?);
        let (ordered, ending) = (false, false);
        let (install, rollbacks, recalled) = (None, Vec::new(), None);
        let paused_too = paused.clone();
        let told =
            Told { orders, paused: paused_too, ordered, ending, install, rollbacks, recalled };
        tools.serve(&store.state, &sight.board)?;
        let facts = fleet::facts(tools.served.engines.base.hash(), &tools.spec()?);
        let view = Arc::new(Mutex::new(fleet::view(facts, &store.state)));
        let disk_bytes = tools.job_disk_bytes(&store.meter, store.state.ranks())?;
        let disk_bytes = Arc::new(AtomicU64::new(disk_bytes));
        let handle = Handle {
            disk: store.meter.clone(),
            inbox: store.inbox.clone(),
            orders: sender,
            paused,
            board: sight.board.clone(),
            served: tools.served.clone(),
            sync: Arc::default(),
            fleet: view.clone(),
            job_disk_bytes: disk_bytes.clone(),
            disk_is_low: Arc::default(),
        };
        let (rest, waited_for) = (Rest::default(), None);
        let trial_since = sight.clock.elapsed();
        let worker =
            Self { tools, store, sight, told, rest, view, disk_bytes, trial_since, waited_for };
        worker.first_board(&model);
        Ok((worker, handle))
    }

    fn first_board(&self, model: &Path) {
        let damaged_bytes = self.store.inbox().found().passed_over_bytes;
        let name = model.file_name().map(|name| name.to_string_lossy().into_owned());
        self.sight.board.update(|status| {
            status.version = env!("CARGO_PKG_VERSION");
            status.model = name.unwrap_or_default();
            status.jobs.clone_from(&self.store.history.jobs);
            status.inbox.bytes_max = self.tools.config.intake.inbox_bytes_max;
            status.inbox.damaged_bytes = damaged_bytes;
        });
        self.store.show(&self.sight.board);
    }

    /// Tick after tick, until an order ends it.
    ///
    /// # Errors
    /// [`DeviceError`] after which the state folder must be opened again.
    pub fn live(mut self) -> Result<(), DeviceError> {
        threads::yield_to_others();
        let poll = Duration::from_secs_f64(self.tools.config.job.poll_seconds);
        loop {
            match self.tick()? {
                Pace::End => return Ok(()),
                Pace::Again => continue,
                Pace::Wait => {}
            }
            if self.idle(poll).is_break() {
                return Ok(());
            }
        }
    }

    /// Waits for an order or the next look; breaks when nobody is left who could give one. However long
    /// the wait, the watchdog hears that the worker is there.
    fn idle(&mut self, mut wait: Duration) -> ControlFlow<()> {
        while !wait.is_zero() {
            let slice = wait.min(BEAT);
            match self.told.wait(slice) {
                Ok(()) => break,
                Err(RecvTimeoutError::Timeout) => self.sight.board.beat(),
                Err(RecvTimeoutError::Disconnected) => return ControlFlow::Break(()),
            }
            wait -= slice;
        }
        ControlFlow::Continue(())
    }

    /// One look at orders and constraints, and a step if one may be made.
    ///
    /// # Errors
    /// [`DeviceError`] after which the state folder must be opened again.
    pub fn tick(&mut self) -> Result<Pace, DeviceError> {
        self.sight.board.beat();
        // A way in met a disk that keeps no promise: only a new start finds what is there.
        if self.store.inbox().is_broken() {
            return Err(InboxError::Broken.into());
        }
        while self.told.next().is_some() {}
        if self.told.ending {
            self.sight.board.update(|status| status.phase = Phase::Stopping);
            // Which refuses them.
            self.told.rollbacks.clear();
            return Ok(Pace::End);
        }
        self.recall()?;
        self.roll_back()?;
        // An order that would wait for samples could come true at any time.
        self.told.ordered &= self.store.inbox().reach(1).is_some();
        let state = &self.store.state;
        self.told.install.take_if(|one| one.sequence <= state.taken(Some(one.series)));
        let elapsed = self.sight.clock.elapsed();
        let turn = plan::turn(self.stand(elapsed), TRIAL);
        let situation = self.situation(turn);
        let (readings, look) = self.sight.look(elapsed, &situation);
        if let Err(why) = self.may_start(&look, turn) {
            self.wait(&look, why);
            return Ok(Pace::Wait);
        }
        self.waited_for = None;
        let made = match turn {
            Turn::Install => self.install(&readings, situation),
            Turn::Look => self.second_look(&readings, situation),
            Turn::Job | Turn::Trial(_) => self.step(&readings, situation),
        };
        let again = match made {
            Err(error) if !error.is_final() => {
                tracing::error!(%error, "no job could begin");
                self.sight.board.update(|status| status.endings.failed += 1);
                self.fail(error.to_string());
                false
            }
            made => made?,
        };
        self.show();
        Ok(match (self.told.ending, again) {
            (true, _) => Pace::End,
            (false, true) => Pace::Again,
            (false, false) => Pace::Wait,
        })
    }

    /// Ends the trial of what its fleet took back; it is one write, and needs no constraint.
    fn recall(&mut self) -> Result<(), DeviceError> {
        let Self { tools, store, sight, told, .. } = self;
        let Some(Hash(artifact)) = told.recalled.take() else { return Ok(()) };
        let is_it = store.state.global().is_some_and(|global| global.artifact == artifact);
        if store.state.trial().is_none() || !is_it {
            return Ok(());
        }
        let done = install::recall(tools, store, &sight.board);
        self.show();
        match done {
            // Its fleet tells it again.
            Err(error) if !error.is_final() => tracing::error!(%error, "the trial goes on"),
            done => done?,
        }
        Ok(())
    }

    /// Uses earlier generations again; each is one write, and needs no constraint.
    fn roll_back(&mut self) -> Result<(), DeviceError> {
        for sent in take(&mut self.told.rollbacks) {
            let done = roll_back(&self.tools, &mut self.store, &self.sight.board, sent.wish());
            self.show();
            done?;
        }
        Ok(())
    }

    /// Shows what is there after it changed: to people, and to a fleet.
    fn show(&self) {
        self.store.show(&self.sight.board);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        *view = fleet::view(view.facts, &self.store.state);
        // What cannot be told keeps the number of before.
        if let Ok(bytes) = self.tools.job_disk_bytes(&self.store.meter, self.store.state.ranks()) {
            self.disk_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    fn stand(&self, elapsed: Duration) -> Stand {
        let Store { state, .. } = &self.store;
        // A device that has learned nothing has text to judge by after its first job.
        let is_judged = !self.tools.general.is_empty() || state.current().is_some();
        Stand {
            trial: state.trial().map(|_| elapsed.saturating_sub(self.trial_since)),
            is_in_job: self.store.inbox().job().is_some(),
            is_offered: self.told.install.is_some() && is_judged,
        }
    }

    fn situation(&self, turn: Turn) -> Situation {
        let ranks = self.store.state.ranks();
        let (waiting, job) = {
            let inbox = self.store.inbox();
            (inbox.waiting(), inbox.job())
        };
        Situation {
            samples: waiting.samples,
            sampled: match turn {
                Turn::Job => job.map(|_| "a stopped job waits to go on"),
                Turn::Install => Some("an install asks for none"),
                Turn::Look | Turn::Trial(_) => Some("a trial asks for none"),
            },
            ordered: self.told.ordered || turn != Turn::Job || self.is_in_the_way(job.is_some()),
            paused: self.told.paused.is(),
            serving: self.sight.board.serving(),
            jobs_today: self.store.starts.in_a_day(self.sight.clock.now()),
            own_load: 0.0,
            job_bytes: match self.told.install.as_deref().filter(|_| turn == Turn::Install) {
                Some(offered) => self.tools.install_bytes(offered, ranks),
                None => self.tools.job_bytes(waiting.samples, ranks),
            },
        }
    }

    /// Whether a job under way keeps an install waiting: then it is learned to its end as if it was ordered.
    fn is_in_the_way(&self, is_in_job: bool) -> bool {
        is_in_job && self.told.install.is_some()
    }

    fn may_start(&self, look: &Look, turn: Turn) -> Result<(), String> {
        look.start.clone()?;
        if let Turn::Trial(left) = turn {
            return Err(format!(
                "a new global adapter is on trial for another {} s",
                left.as_secs() + 1
            ));
        }
        let left = self.rest.left(self.sight.clock.elapsed());
        if left.is_zero() || self.told.ordered {
            return Ok(());
        }
        Err(format!("rests for {} s after {}", left.as_secs() + 1, self.rest.cause()))
    }

    /// Says why nothing is learned; logged when other constraints stand in the way than before.
    fn wait(&mut self, look: &Look, why: String) {
        let unmet = look.states.iter().filter(|state| !state.met).map(|state| state.name);
        let names = unmet.collect::<Vec<_>>().join(", ");
        if self.waited_for.as_ref() != Some(&names) {
            tracing::info!(reason = why, "waiting");
            self.waited_for = Some(names);
        }
        let phase = if self.told.paused.is() { Phase::Paused } else { Phase::Waiting };
        self.sight.board.update(|status| (status.phase, status.waiting_for) = (phase, why));
    }

    /// Runs a job, or does what is to be done instead; false when there is nothing to do.
    fn step(&mut self, readings: &Readings, situation: Situation) -> Result<bool, DeviceError> {
        let mut checkpoint = self.store.checkpoint()?;
        let samples_max = self.tools.config.job.samples_max;
        let job = match plan::next(&self.store.known(samples_max, checkpoint.as_ref())) {
            Next::Run(job) => job,
            Next::Anew(job) => {
                tracing::warn!(
                    through = job.through,
                    of = job.suspect,
                    "the last run was brought down without getting further: now with fewer samples"
                );
                self.store.state.drop_checkpoint()?;
                checkpoint = None;
                job
            }
            Next::SetAside(number) => {
                self.store.set_aside_alone(number)?;
                return Ok(true);
            }
            Next::Nothing => {
                self.told.ordered = false;
                return Ok(false);
            }
        };
        let situation = Situation { own_load: self.tools.own_load(), job_bytes: 0, ..situation };
        let end = self.learn(job, checkpoint.as_ref(), readings, situation)?;
        self.go_on(end)
    }

    /// Installs the global adapter that waits; false when nothing is to be done at once.
    fn install(&mut self, readings: &Readings, situation: Situation) -> Result<bool, DeviceError> {
        let Self { tools, store, sight, told, .. } = self;
        let Some(offered) = told.install.clone() else { return Ok(false) };
        let situation = Situation { own_load: tools.own_load(), job_bytes: 0, ..situation };
        let (meter, config) = (store.meter.clone(), &tools.config);
        let mut watch = Watch::begin((&mut *sight, told), meter, config, readings, situation, 0);
        let done = install::install(tools, store, &mut watch, &offered)?;
        self.trial_since = self.sight.clock.elapsed();
        match done {
            Done::Later => return Ok(true),
            Done::Over => {}
            Done::Failed(_, Some(error)) => return Err(error),
            Done::Failed(why, None) => {
                self.rest.after_failure(self.sight.clock.elapsed(), why.clone());
                let attempt = self.store.state.attempt();
                if attempt.is_none_or(|attempt| attempt.starts < INSTALL_STARTS_MAX) {
                    return Ok(false);
                }
                // Whoever offers it must hear of an end.
                install::remember(&mut self.store, &offered, InstallOutcome::Failed, &why)?;
            }
        }
        // One that came in the meantime waits for the next look.
        self.told.install.take_if(|newest| *newest == offered);
        Ok(true)
    }

    /// Looks at the generation on trial once more; false when nothing is to be done at once.
    fn second_look(
        &mut self,
        readings: &Readings,
        situation: Situation,
    ) -> Result<bool, DeviceError> {
        let Self { tools, store, sight, told, .. } = self;
        let situation = Situation { own_load: tools.own_load(), job_bytes: 0, ..situation };
        let (meter, config) = (store.meter.clone(), &tools.config);
        let mut watch = Watch::begin((&mut *sight, told), meter, config, readings, situation, 0);
        install::second_look(tools, store, &mut watch)?;
        Ok(true)
    }

    /// Reads the samples of a job, learns them, and settles what came of it.
    fn learn(
        &mut self,
        job: Job,
        checkpoint: Option<&Checkpoint>,
        readings: &Readings,
        situation: Situation,
    ) -> Result<End, DeviceError> {
        let Self { tools, store, sight, told, rest, .. } = self;
        store.inbox().begin(job)?;
        let (meter, config) = (store.meter.clone(), &tools.config);
        let mut watch =
            Watch::begin((&mut *sight, told), meter, config, readings, situation, job.step);
        tracing::debug!(through = job.through, "samples are read");
        let source = Source { inbox: &store.inbox, tokeniser: &tools.served.tokeniser, config };
        let prepared = match source.prepare(job, &mut || watch.hear(&Event::Pulse)) {
            Ok(Some(prepared)) => prepared,
            Ok(None) => return settle::stopped_early(store, job),
            Err(error) => {
                store.excuse(job);
                return Err(error);
            }
        };
        let worth = plan::worth(&job, prepared.made(), config.job.samples_min);
        if worth == Worth::Waiting {
            return settle::wait_for_more(store, prepared.samples);
        }
        let job = prepared.job;
        if let Err(error) = store.set_unfit_aside(&prepared.unfit) {
            store.excuse(job);
            return Err(error.into());
        }
        if worth == Worth::Nothing {
            return settle::pass_over(store, &prepared);
        }
        store.inbox().begin(job)?;
        let ran = run(tools, store, &mut watch, prepared, checkpoint)?;
        if watch.spent {
            rest.after_spending(sight.clock.elapsed(), ran.report.seconds);
        }
        settle::settle(tools, store, &sight.board, ran)
    }

    /// What comes next after an end.
    fn go_on(&mut self, end: End) -> Result<bool, DeviceError> {
        match end {
            End::Judged => {
                self.rest.failed_no_more();
                self.told.ordered = false;
            }
            End::GoesOn => {}
            End::Waits => self.told.ordered = false,
            End::Failed(is_final) => {
                self.fail("a run that failed".to_owned());
                return is_final.map_or(Ok(true), Err);
            }
        }
        Ok(!matches!(end, End::Waits))
    }

    fn fail(&mut self, why: String) {
        self.rest.after_failure(self.sight.clock.elapsed(), why);
        self.told.ordered = false;
    }
}
