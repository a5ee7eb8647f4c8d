//! A learner that does what it is told, and looks at what it is given.
//!
//! - In: files of the sync. Out: what it holds, which outlives the program, and what was wrong.
//! - What it was given and has not begun is forgotten when the program ends, as the worker forgets it.

use super::life::ROOT;
use firmware_host::clock::Clock;
use firmware_host::sync::memory::{Wound, files};
use firmware_host::sync::{Learner, Offered, Part, View};
use sapwood::ports::Storage;
use sapwood::state::{Global, Install, InstallOutcome, Series};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::message::{Outcome, Ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Installs that a learner tells of.
const INSTALLS_MAX: usize = 16;
/// The learner is not given the same file twice within this.
const AGAIN: Duration = Duration::from_secs(600);

/// What is in the state folder, as far as the sync asks.
#[derive(Clone, Debug)]
pub struct Learned {
    /// What it tells.
    pub view: View,
    /// What was installed before what is on trial.
    before: Option<Global>,
}

impl Default for Learned {
    fn default() -> Self {
        let view = View {
            facts: files::FACTS,
            generation: 1,
            global: None,
            trial: false,
            ready: Some(Ready { steps: 3, tokens: 300 }),
            installs: Vec::new(),
        };
        Self { view, before: None }
    }
}

/// Hears what is known before anything changes.
pub type Hook = Box<dyn Fn(Learned) + Send + Sync>;

/// The learner of one start of the program.
pub struct Pupil {
    disk: Arc<dyn Storage>,
    clock: Arc<Wound>,
    learned: Mutex<Learned>,
    given: Mutex<Vec<((Series, u64), Duration)>>,
    waits: Mutex<Option<Offered>>,
    wrong: Arc<Mutex<Vec<String>>>,
    hook: Hook,
}

fn open<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pupil {
    /// One that has learned this; what is wrong goes to `wrong`.
    pub fn new(
        disk: Arc<dyn Storage>,
        clock: Arc<Wound>,
        learned: Learned,
        wrong: Arc<Mutex<Vec<String>>>,
        hook: Hook,
    ) -> Self {
        let learned = Mutex::new(learned);
        Self { disk, clock, learned, given: Mutex::default(), waits: Mutex::default(), wrong, hook }
    }

    /// What it has learned.
    pub fn learned(&self) -> Learned {
        open(&self.learned).clone()
    }

    /// It forgets what it was given, not what it holds.
    pub fn forget(&self) {
        open(&self.given).clear();
    }

    /// It commits.
    pub fn commit(&self) {
        open(&self.learned).view.generation += 1;
    }

    /// It installs what it was given, on trial.
    pub fn try_it(&self) {
        let mut learned = open(&self.learned);
        let Some(offered) = open(&self.waits).take() else { return };
        learned.before = learned.view.global;
        learned.view.global = Some(global(&offered));
        learned.view.trial = true;
        learned.tell(&offered, InstallOutcome::Trialled);
    }

    /// A trial ends so; or what was given is not taken, or is at once.
    pub fn end(&self, outcome: Outcome) {
        let mut learned = open(&self.learned);
        if learned.view.trial {
            let outcome = match outcome {
                Outcome::Confirmed => InstallOutcome::Confirmed,
                _ => InstallOutcome::Reverted,
            };
            if outcome == InstallOutcome::Reverted {
                learned.view.global = learned.before;
            }
            learned.view.trial = false;
            learned.view.generation += 1;
            let last = learned.view.installs.last_mut();
            last.into_iter().for_each(|install| install.outcome = outcome);
        } else if let Some(offered) = open(&self.waits).take() {
            if outcome == Outcome::Confirmed {
                learned.view.global = Some(global(&offered));
            }
            let outcome = match outcome {
                Outcome::Confirmed => InstallOutcome::Confirmed,
                Outcome::Reverted => InstallOutcome::Reverted,
                Outcome::Declined => InstallOutcome::Declined,
                Outcome::Failed => InstallOutcome::Failed,
            };
            learned.tell(&offered, outcome);
        }
    }
}

/// What is stood on once this is installed.
fn global(offered: &Offered) -> Global {
    let Offered { series, sequence, artifact, .. } = *offered;
    Global { ranks: 2, artifact: artifact.0, sequence, series: Some(series) }
}

impl Learned {
    fn tell(&mut self, offered: &Offered, outcome: InstallOutcome) {
        let Global { artifact, sequence, series, .. } = global(offered);
        let reason = "it was tried".to_owned();
        let (before, after) = (Some(1.5), Some(1.25));
        self.view.generation += 1;
        let installs = &mut self.view.installs;
        installs.push(Install { sequence, series, artifact, outcome, reason, before, after });
        installs.drain(..installs.len().saturating_sub(INSTALLS_MAX));
    }

    fn has_told(&self, series: Series, sequence: u64) -> bool {
        let is_told = |install: &Install| {
            let is_this = (install.series, install.sequence) == (Some(series), sequence);
            is_this && install.outcome != InstallOutcome::Trialled
        };
        self.view.installs.iter().any(is_told)
    }
}

impl Learner for Pupil {
    fn view(&self) -> Option<View> {
        Some(self.learned().view)
    }

    fn own_part(&self, _: CohortId) -> Result<Option<Part>, String> {
        let view = self.learned().view;
        let from = view.installed().map_or(Hash([0; 32]), |installed| installed.artifact);
        let bytes = files::adapter("sapwood-update/1", from, view.generation);
        Ok(Some(Part { from, rank: 2, bytes }))
    }

    fn install(&self, offered: Offered) {
        (self.hook)(self.learned());
        let wrong = |what: String| open(&self.wrong).push(what);
        let name = offered.path.strip_prefix(ROOT).ok().and_then(|name| name.to_str());
        let Some(name) = name else {
            return wrong(format!("{} is given to the learner", offered.path.display()));
        };
        // What cannot be read now is given again.
        let Ok(bytes) = self.disk.read(name) else { return };
        if Hash::of(&bytes) != offered.artifact {
            wrong(format!("half of {name} is given to the learner"));
        }
        let (series, sequence) = (offered.series, offered.sequence);
        let is_this = |one: &Install| (one.series, one.sequence) == (Some(series), sequence);
        if self.learned().has_told(series, sequence) {
            wrong(format!("{sequence} is given after its end was told"));
        }
        let now = self.clock.elapsed();
        let mut given = open(&self.given);
        let is_early =
            |(one, at): &((Series, u64), Duration)| *one == (series, sequence) && now < *at + AGAIN;
        if given.iter().any(is_early) {
            wrong(format!("{sequence} is given twice within ten minutes"));
        }
        given.push(((series, sequence), now));
        let trial = self.learned().view.installs.iter().any(is_this);
        if !trial {
            *open(&self.waits) = Some(offered);
        }
    }

    fn withdraw(&self) {
        *open(&self.waits) = None;
    }

    fn recall(&self, artifact: Hash) {
        (self.hook)(self.learned());
        let view = self.learned().view;
        if view.trial && view.installed().is_some_and(|on| on.artifact == artifact) {
            self.end(Outcome::Reverted);
        }
    }
}
