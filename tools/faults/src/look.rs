//! What a restart finds: everything that can be read from a disk, and what was reported about it.
//!
//! - Invariant: two disks on which the same is found are the same to a device.

use crate::life::{BOUNDS, LifeError, SEED, geometry, sample};
use sapwood::block::Block;
use sapwood::inbox::{Inbox, Job};
use sapwood::ports::Storage;
use sapwood::reservoir::Reservoir;
use sapwood::state::{Attempt, Global, Install, LearnerRecord, Since, State, StateError, Trial};
use std::sync::Arc;

/// How the report begins that a power cut may cause: of a batch that was not acknowledged.
pub const PASSED_OVER: &str = "inbox: passed over ";

/// A kept generation; its adapter is none when its files are reported damaged.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// Its number.
    pub number: u64,
    /// Optimiser steps of the device's life.
    pub step: u64,
    /// What the gate said.
    pub verdict: String,
    /// Name and bytes of its files.
    pub adapter: Option<Vec<(String, Vec<u8>)>>,
    /// The global adapter that it stands on, and what was learned since.
    pub ground: (Option<Global>, Since),
}

/// A block of the reservoir with its offer number and its loss in bits.
pub type Held = (u64, u32, Block);

/// The blocks held, by offer, and their offers in the order in which they would be served.
pub type Served = (Vec<Held>, Vec<u64>);

/// All that a restart finds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The generation in use.
    pub current: Option<u64>,
    /// Those kept.
    pub generations: Vec<Kept>,
    /// The learner of the one in use.
    pub learner: Option<LearnerRecord>,
    /// Reasons of rejected jobs, with their step.
    pub rejections: Vec<(u64, String)>,
    /// The trial of the generation in use.
    pub trial: Option<Trial>,
    /// What became of installs.
    pub installs: Vec<Install>,
    /// The install that was begun.
    pub attempt: Option<Attempt>,
    /// Blocks ever offered, as of the last commit.
    pub seen: u64,
    /// The committed reservoir, by offer.
    pub held: Vec<Held>,
    /// What it would serve, by offer: what is left of its pass first, then the next one.
    pub pass: Vec<u64>,
    /// The number of the last sample that a job which ended has taken.
    pub learned: u64,
    /// The number that the next new domain will have.
    pub next_domain: u32,
    /// The samples that wait, in order.
    pub waiting: Vec<u64>,
    /// The samples that were set aside, with the line that each came as.
    pub aside: Vec<(u64, String)>,
    /// The job that was begun.
    pub job: Option<Job>,
    /// The job in progress: its learner, and its reservoir.
    pub checkpoint: Option<(LearnerRecord, Served)>,
}

/// What was found, and what was reported as lost or damaged on the way.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// What was found.
    pub found: Found,
    /// The reports.
    pub reports: Vec<String>,
    /// Whether numbers of samples are passed over: a batch that was cut looks like one that was damaged.
    pub skips_numbers: bool,
}

/// Starts a device on this disk and reads everything.
///
/// # Errors
/// [`LifeError`] when it cannot start.
pub fn look(storage: &Arc<dyn Storage>) -> Result<Look, LifeError> {
    let mut state = State::open(storage.clone())?;
    let mut reports = state.recovery().fell_back.clone();
    reports.extend(state.recovery().checkpoint_lost.clone());
    let inbox = Inbox::open(storage.clone(), BOUNDS, state.learned())?;
    let taken = inbox.take(u64::MAX)?;
    let waiting: Vec<u64> =
        taken.samples.iter().filter_map(|(_, example)| sample(example)).collect();
    let found = inbox.found();
    let skips_numbers = found.damaged_samples > 0;
    if found.passed_over_bytes > 0 {
        reports.push(format!("{PASSED_OVER}{} bytes", found.passed_over_bytes));
    }
    if found.lost_samples > 0 {
        reports.push(format!("inbox: lost {} samples", found.lost_samples));
    }
    if found.aside_lost > 0 {
        reports.push(format!("inbox: {} samples set aside cannot be read", found.aside_lost));
    }
    if found.memory_lost || found.job_lost {
        reports.push(format!("inbox: {found:?}"));
    }
    if waiting.len() as u64 != inbox.waiting().samples {
        let counted = inbox.waiting().samples;
        reports.push(format!("inbox: {counted} samples are counted, {} are read", waiting.len()));
    }
    let mut found = Found {
        current: state.current().map(|generation| generation.number),
        generations: generations(&state, &mut reports)?,
        learner: state.learner()?,
        rejections: state.rejections().iter().map(|r| (r.step, r.reason.clone())).collect(),
        trial: state.trial(),
        installs: state.installs().to_vec(),
        attempt: state.attempt(),
        learned: state.learned(),
        next_domain: state.next_domain(),
        waiting,
        aside: aside(&inbox)?,
        job: inbox.job(),
        ..Found::default()
    };
    if let Some(mut reservoir) = state.committed_reservoir()? {
        (found.held, found.pass) = served(&mut reservoir, &mut reports)?;
        found.seen = reservoir.stats().seen;
    }
    if let Some(checkpoint) = state.take_checkpoint()? {
        let mut staged = state.reservoir(geometry(), SEED, Some(&checkpoint))?;
        found.checkpoint = Some((checkpoint.learner, served(&mut staged, &mut reports)?));
    }
    Ok(Look { found, reports, skips_numbers })
}

fn aside(inbox: &Inbox) -> Result<Vec<(u64, String)>, LifeError> {
    let all = inbox.aside().filter_map(|number| inbox.look_aside(number).transpose());
    all.map(|found| Ok(found.map(|found| (found.number, found.line))?)).collect()
}

impl Found {
    /// Which parts differ from another's; none when none does.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let same = [
            ("generation in use", self.current == other.current),
            ("generations", self.generations == other.generations),
            ("learner", self.learner == other.learner),
            ("rejections", self.rejections == other.rejections),
            ("trial", self.trial == other.trial),
            ("installs", self.installs == other.installs),
            ("install under way", self.attempt == other.attempt),
            ("blocks offered", self.seen == other.seen),
            ("reservoir", self.held == other.held),
            ("pass", self.pass == other.pass),
            ("samples learned", self.learned == other.learned),
            ("samples that wait", self.waiting == other.waiting),
            ("samples set aside", self.aside == other.aside),
            ("job", self.job == other.job),
            ("checkpoint", self.checkpoint == other.checkpoint),
        ];
        let differ: Vec<&str> =
            same.into_iter().filter(|(_, same)| !same).map(|(what, _)| what).collect();
        (self != other).then(|| differ.join(", "))
    }
}

fn generations(state: &State, reports: &mut Vec<String>) -> Result<Vec<Kept>, LifeError> {
    let mut kept = Vec::new();
    for generation in state.generations() {
        // The learner too, which is else read of the generation in use only.
        let number = generation.number;
        let adapter = match state.verify(number).and_then(|()| state.adapter(number)) {
            Ok(files) => Some(files),
            Err(error @ (StateError::Damaged { .. } | StateError::Storage(_))) => {
                reports.push(error.to_string());
                None
            }
            Err(error) => return Err(error.into()),
        };
        kept.push(Kept {
            number: generation.number,
            step: generation.step,
            verdict: generation.verdict.clone(),
            adapter,
            ground: (generation.global, generation.since),
        });
    }
    Ok(kept)
}

fn served(reservoir: &mut Reservoir, reports: &mut Vec<String>) -> Result<Served, LifeError> {
    let all = reservoir.geometry().capacity as usize;
    let mut held: Vec<Held> = reservoir
        .draw(all)?
        .into_iter()
        .map(|drawn| (drawn.offer, drawn.loss.to_bits(), drawn.block))
        .collect();
    let pass = held.iter().map(|(offer, ..)| *offer).collect();
    held.sort_by_key(|(offer, ..)| *offer);
    let lost = reservoir.lost().iter();
    reports.extend(lost.map(|lost| format!("reservoir: slot {}: {}", lost.slot, lost.reason)));
    let (seen, corrupt) = (reservoir.stats().seen, reservoir.stats().corrupt);
    let counted = seen.min(all as u64).saturating_sub(corrupt);
    if held.len() as u64 != counted {
        reports.push(format!("reservoir: {counted} blocks are counted, {} are drawn", held.len()));
    }
    Ok((held, pass))
}
