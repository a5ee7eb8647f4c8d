//! A device's life: intake, learning, checkpoints, commits, rejections, rollbacks, restarts, installs of
//! global adapters with their trials.
//!
//! - In: a disk and a plan. After every act that a restart could see, `done` is called.
//! - A step's numbers depend on the sample, on what was replayed and on every step before.
//! - Invariant: a life that is taken up in the round in which it was cut ends as one that was not.

use crate::plan::{Offer, OfferEnd, Round};
use sapwood::block::Block;
use sapwood::inbox::{Bounds, Found, Inbox, InboxError, Job};
use sapwood::intake::Example;
use sapwood::ports::Storage;
use sapwood::reservoir::{Geometry, Reservoir, ReservoirError};
use sapwood::state::{
    Commit, Global, Install, InstallOutcome, LearnerRecord, Series, Shape, Since, State, StateError,
};
use sapwood_protocol::limits::TRIES_MAX;
use std::sync::Arc;

/// Seed of the reservoir's chance.
pub const SEED: [u8; 32] = [5; 32];
/// Whose global adapters are installed.
const SERIES: Option<Series> = Some(Series { fleet: [3; 16], cohort: [4; 32] });
/// How much may wait in the inbox.
pub const BOUNDS: Bounds = Bounds { bytes: 1 << 20, samples: 1000 };
/// Generations kept.
pub const KEEP: usize = 3;

/// Why a life ended early.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// The state refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// The inbox refused.
    #[error(transparent)]
    Inbox(#[from] InboxError),
    /// The reservoir refused.
    #[error(transparent)]
    Reservoir(#[from] ReservoirError),
    /// Bytes were reported lost: the life cannot be the one that was planned.
    #[error("the disk lost {what}: {reason}")]
    Lost {
        /// What.
        what: &'static str,
        /// As it was reported.
        reason: String,
    },
}

/// The sizes of the reservoir.
pub fn geometry() -> Geometry {
    Geometry { capacity: 3, tokens_max: 8, vocab: 4096, hidden: None, room: 4 }
}

/// The block of a sample.
pub fn block(sample: u64) -> Block {
    let length = 3 + (sample % 5) as usize;
    let tokens: Vec<u32> = (0..length as u32).map(|at| (sample as u32 + at * 7) % 4096).collect();
    let learn = (0..length).map(|at| at > 0).collect();
    Block { tokens, learn, bytes: sample as u32 + 9, domain: (sample % 3) as u32 }
}

/// The line of a sample.
pub fn line(sample: u64) -> String {
    format!("{{\"text\":\"sample {sample}\"}}\n")
}

/// The number of a sample; none when it is not one of ours.
pub fn sample(example: &Example) -> Option<u64> {
    match example {
        Example::Text(text) => text.strip_prefix("sample ")?.parse().ok(),
        _ => None,
    }
}

fn fresh() -> LearnerRecord {
    let shape = Shape { layer: 1, target: 2, rank: 1, scale: 2.0, fan_in: 3, fan_out: 2 };
    let zeros = vec![0.0; 5];
    LearnerRecord {
        fast: vec![0.5; 5],
        slow: vec![0.5; 5],
        first_moment: zeros.clone(),
        second_moment: zeros,
        shapes: vec![shape],
        base: [6; 32],
        settings: vec![("rank".to_owned(), "1".to_owned())],
        ..LearnerRecord::default()
    }
}

/// The process: what it holds in memory.
struct Device {
    storage: Arc<dyn Storage>,
    state: State,
    inbox: Inbox,
    learner: LearnerRecord,
    reservoir: Reservoir,
    /// Whether the learner is a checkpoint's.
    resumed: bool,
    strict: bool,
}

/// What a restart could see done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The folder was opened, what was missing made.
    Start,
    /// These samples were acknowledged.
    Intake(Vec<u64>),
    /// A job was begun for the how-many-th time.
    Begin(u32),
    /// A sample of the job was set aside.
    Aside(u64),
    /// The process was ended and started again.
    Restart,
    /// A checkpoint of this step of the job.
    Checkpoint(u64),
    /// A commit.
    Commit,
    /// A rejection.
    Rejection,
    /// The inbox let go of what the job took.
    Forget,
    /// A rollback.
    Rollback,
    /// An install was begun for the how-many-th time.
    BeginInstall(u32),
    /// A global adapter was installed on trial.
    Install,
    /// A start took a try of the trial, or found none and gave the parent back.
    Try,
    /// The generation on trial was confirmed.
    Confirm,
    /// Its parent returned.
    Revert,
    /// An offer was declined.
    Decline,
}

/// Hears after each act what it was and in which round.
pub type Done<'d> = dyn FnMut(usize, Act) + 'd;

/// Lives the rounds of a plan from number `from` on.
///
/// - `strict`: bytes of the inbox that are passed over end it; a power cut before may cause them.
/// # Errors
/// [`LifeError`], at the first thing that a device would end its job for.
pub fn live(
    storage: &Arc<dyn Storage>,
    plan: &[Round],
    from: usize,
    strict: bool,
    done: &mut Done<'_>,
) -> Result<(), LifeError> {
    let mut device = Device::start(storage.clone(), true, strict)?;
    done(from, Act::Start);
    for (number, round) in plan.iter().enumerate().skip(from) {
        device.round(round, &mut |act| done(number, act))?;
    }
    Ok(())
}

impl Device {
    /// Opens what is there, makes what is not; with `resume` a job goes on from its checkpoint.
    fn start(storage: Arc<dyn Storage>, resume: bool, strict: bool) -> Result<Self, LifeError> {
        let mut state = State::open(storage.clone())?;
        state.set_keep(KEEP);
        let recovery = state.recovery();
        let reason = recovery.fell_back.first().or(recovery.checkpoint_lost.as_ref());
        if let Some(reason) = reason {
            return Err(lost("a generation or a checkpoint", reason.clone()));
        }
        let inbox = Inbox::open(storage.clone(), BOUNDS, state.learned())?;
        let found = inbox.found();
        let Found { passed_over_bytes, damaged_samples, .. } = found;
        let torn = Found { passed_over_bytes, damaged_samples, ..Found::default() };
        if found != torn || (strict && found != Found::default()) {
            return Err(lost("samples", format!("{found:?}")));
        }
        let checkpoint = if resume { state.take_checkpoint()? } else { None };
        let reservoir = state.reservoir(geometry(), SEED, checkpoint.as_ref())?;
        let resumed = checkpoint.is_some();
        let last = match checkpoint {
            Some(checkpoint) => checkpoint.learner,
            None => committed(&state)?,
        };
        Ok(Self { storage, state, inbox, learner: last, reservoir, resumed, strict })
    }

    fn round(&mut self, round: &Round, done: &mut dyn FnMut(Act)) -> Result<(), LifeError> {
        let last = self.inbox.reach(u64::MAX).unwrap_or(0).max(self.state.learned());
        for batch in &round.batches {
            // What was set aside would come in anew; who was acknowledged does not send it again.
            let known = |sample: &u64| round.aside == Some(*sample) && *sample <= last;
            let batch: Vec<u64> = batch.iter().copied().filter(|sample| !known(sample)).collect();
            if batch.is_empty() {
                continue;
            }
            self.offer(&batch)?;
            done(Act::Intake(batch.clone()));
        }
        if self.state.learned() < round.through {
            self.job(round, done)?;
            if !round.ends {
                return Ok(());
            }
            done(if round.generation.is_some() { Act::Commit } else { Act::Rejection });
        }
        self.inbox.forget(round.through)?;
        done(Act::Forget);
        let current = self.state.current().map(|generation| generation.number);
        if round.rolls_back && round.generation.is_some() && current == round.generation {
            self.state.rollback(None)?;
            self.learner = committed(&self.state)?;
            done(Act::Rollback);
        }
        match &round.offer {
            Some(offer) => self.offered(offer, done),
            None => Ok(()),
        }
    }

    /// Installs what is offered, starts under its trial and ends it; what was done before a cut is done once.
    fn offered(&mut self, offer: &Offer, done: &mut dyn FnMut(Act)) -> Result<(), LifeError> {
        if self.state.taken(SERIES) < offer.sequence {
            self.begin_install(offer, done)?;
            if offer.end == OfferEnd::Declined {
                self.state.decline(install(offer, InstallOutcome::Declined))?;
                done(Act::Decline);
                return Ok(());
            }
            self.install(offer)?;
            done(Act::Install);
        }
        while let Some(trial) = self.state.trial() {
            let starts = u64::from(TRIES_MAX - trial.tries_left);
            if starts < offer.starts {
                self.state.take_try()?;
                self.learner = committed(&self.state)?;
                done(Act::Try);
                continue;
            }
            match offer.end {
                OfferEnd::Reverted => drop(self.state.revert("worse at the second look")?),
                OfferEnd::RolledBack => drop(self.state.rollback(None)?),
                _ => self.state.confirm("as good as before", Some(1.5))?,
            }
            self.learner = committed(&self.state)?;
            let confirmed = offer.end == OfferEnd::Confirmed;
            done(if confirmed { Act::Confirm } else { Act::Revert });
        }
        Ok(())
    }

    /// As often as the plan says, and once more where a cut came between.
    fn begin_install(&mut self, offer: &Offer, done: &mut dyn FnMut(Act)) -> Result<(), LifeError> {
        loop {
            let starts = self.state.attempt().map_or(0, |attempt| attempt.starts);
            if u64::from(starts) > offer.begins {
                return Ok(());
            }
            self.state.begin_install(SERIES, offer.sequence)?;
            done(Act::BeginInstall(starts + 1));
        }
    }

    /// Over a global adapter of one rank, with one rank of its own.
    fn install(&mut self, offer: &Offer) -> Result<(), LifeError> {
        let numbers = |of: &[f32]| -> Vec<f32> {
            (0..10).map(|at| of[at % of.len()] + offer.sequence as f32).collect()
        };
        let (artifact, sequence) = ([offer.sequence as u8; 32], offer.sequence);
        let learner = LearnerRecord {
            fast: numbers(&self.learner.fast),
            slow: numbers(&self.learner.slow),
            first_moment: vec![0.0; 10],
            second_moment: vec![0.0; 10],
            shapes: self.learner.shapes.iter().map(|shape| Shape { rank: 2, ..*shape }).collect(),
            global: Some(Global { ranks: 1, artifact, sequence, series: SERIES }),
            since: Since::default(),
            ..self.learner.clone()
        };
        let slow: Vec<u8> = learner.slow.iter().flat_map(|value| value.to_le_bytes()).collect();
        let files = [("adapter_model.safetensors", &slow[..])];
        let verdict = format!("kept over {sequence}");
        let (reservoir, domain, verdict) = (None, 0, verdict.as_str());
        let commit = Commit { files: &files, learner: &learner, reservoir, domain, verdict };
        self.state.install(commit, install(offer, InstallOutcome::Trialled))?;
        self.learner = learner;
        Ok(())
    }

    fn offer(&mut self, samples: &[u64]) -> Result<(), LifeError> {
        let lines: String = samples.iter().map(|sample| line(*sample)).collect();
        self.inbox.offer(&lines)?;
        Ok(())
    }

    /// Learns, from the checkpoint if there is one, until the commit or the rejection.
    fn job(&mut self, round: &Round, done: &mut dyn FnMut(Act)) -> Result<(), LifeError> {
        let mut samples = self.begin(round, done)?;
        let mut restart = round.restart;
        while self.learner.cursor.step < samples.len() as u64 {
            let step = self.learner.cursor.step;
            if let Some((_, late)) = round.late.as_ref().filter(|(at, _)| *at == step) {
                self.offer(late)?;
                done(Act::Intake(late.clone()));
            }
            if restart == Some(step) {
                restart = None;
                *self = Self::start(self.storage.clone(), !round.gives_up, self.strict)?;
                done(Act::Restart);
                samples = self.begin(round, done)?;
                continue;
            }
            self.learn(samples[step as usize])?;
            if (step + 1).is_multiple_of(round.every) || self.reservoir.room() == 0 {
                self.state.checkpoint(self.learner.clone(), Some(&mut self.reservoir))?;
                done(Act::Checkpoint(step + 1));
            }
        }
        if !round.ends {
            return Ok(());
        }
        self.state.set_through(round.through);
        if round.generation.is_some() {
            self.commit()?;
        } else {
            let step = self.learner.step;
            self.state.reject(step, "new text is not better", Some(&mut self.reservoir))?;
            self.learner = committed(&self.state)?;
        }
        Ok(())
    }

    /// Begins the job, or begins it again; the samples that it learns.
    fn begin(&mut self, round: &Round, done: &mut dyn FnMut(Act)) -> Result<Vec<u64>, LifeError> {
        if !std::mem::take(&mut self.resumed) {
            self.learner.cursor.step = 0;
        }
        let before = self.inbox.job();
        let through = before.map_or(round.through, |job| job.through);
        let attempts = before.map_or(1, |job| job.attempts + 1);
        self.inbox.begin(Job { through, attempts, step: self.learner.cursor.step, suspect: 0 })?;
        done(Act::Begin(attempts));
        if let Some(number) = round.aside {
            self.inbox.set_aside(number, "nothing can be learned from it")?;
            done(Act::Aside(number));
        }
        let taken = self.inbox.take(through)?;
        let samples: Vec<u64> =
            taken.samples.iter().filter_map(|(_, example)| sample(example)).collect();
        if samples.len() as u64 != through - self.state.learned() {
            return Err(lost("samples of a job", format!("{samples:?}")));
        }
        Ok(samples)
    }

    /// Stands for an optimiser step.
    fn learn(&mut self, sample: u64) -> Result<(), LifeError> {
        let drawn = self.reservoir.draw(2)?;
        if let Some(gone) = self.reservoir.lost().first() {
            return Err(lost("a block", gone.reason.to_string()));
        }
        let replayed: u32 =
            drawn.iter().map(|drawn| drawn.block.tokens[2] * (drawn.slot + 1)).sum();
        let learner = &mut self.learner;
        learner.step += 1;
        learner.cursor.step += 1;
        learner.since = Since { steps: learner.since.steps + 1, tokens: learner.since.tokens + 7 };
        for (at, fast) in learner.fast.iter_mut().enumerate() {
            *fast = *fast * 0.5 + (replayed + sample as u32) as f32 + at as f32;
            learner.slow[at] = 0.75 * learner.slow[at] + 0.25 * *fast;
            learner.first_moment[at] += *fast;
            learner.second_moment[at] += *fast * *fast;
        }
        let loss = learner.fast[0];
        self.reservoir.offer(&block(sample), None, loss)?;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), LifeError> {
        let learner = &self.learner;
        let slow: Vec<u8> = learner.slow.iter().flat_map(|value| value.to_le_bytes()).collect();
        let config = format!("{{\"step\": {}}}", learner.step);
        let files =
            [("adapter_config.json", config.as_bytes()), ("adapter_model.safetensors", &slow)];
        let verdict = format!("kept after step {}", learner.step);
        let (domain, verdict) = (self.state.next_domain(), verdict.as_str());
        let reservoir = Some(&mut self.reservoir);
        self.state.commit(Commit { files: &files, learner, reservoir, domain, verdict })?;
        Ok(())
    }
}

fn install(offer: &Offer, outcome: InstallOutcome) -> Install {
    let (artifact, sequence) = ([offer.sequence as u8; 32], offer.sequence);
    let reason = format!("offer {sequence}");
    let (series, before, after) = (SERIES, Some(2.0), Some(1.75));
    Install { sequence, series, artifact, outcome, reason, before, after }
}

fn committed(state: &State) -> Result<LearnerRecord, LifeError> {
    Ok(state.learner()?.unwrap_or_else(fresh))
}

fn lost(what: &'static str, reason: String) -> LifeError {
    LifeError::Lost { what, reason }
}
