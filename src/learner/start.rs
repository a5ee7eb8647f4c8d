//! Where a job begins: at the state's last generation, at its interrupted job, or with nothing.
//!
//! - In: the state folder, the material and the settings of the job. Out: learners, what was learned
//!   before, and the place in the data.
//! - Never here: a step, a score, a write.

use super::LearnError;
use super::course::Cursor;
use super::engines::Engines;
use super::events::Event;
use super::heritage::Heritage;
use super::job::{Listener, Material};
use crate::adapter::{Adapter, Spec};
use crate::settings::Settings;
use crate::state::{Checkpoint, Global, LearnerRecord, Since, State};
use crate::train::{Learners, Moments};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// Where a job begins.
pub(super) struct Start {
    pub(super) learners: Learners,
    pub(super) heritage: Heritage,
    pub(super) cursor: Cursor,
    /// The adapter in use, none for the bare base.
    pub(super) before: Option<Adapter>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// Whether nothing was learned before: the own ranks are made anew.
    pub(super) is_first: bool,
    pub(super) ground: Ground,
}

/// What learners stand on: the global adapter, and the life before it was installed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ground {
    pub(super) global: Option<Global>,
    /// Optimiser steps of the life before.
    pub(super) earlier: u64,
    /// Tokens of text learned since.
    pub(super) tokens: u64,
}

impl Ground {
    /// As a record says.
    pub(super) fn of(record: &LearnerRecord) -> Self {
        let Since { steps, tokens } = record.since;
        Self { global: record.global, earlier: record.step.saturating_sub(steps), tokens }
    }

    /// What was learned since, in so many steps.
    pub(super) fn since(&self, steps: u64) -> Since {
        Since { steps, tokens: self.tokens }
    }

    /// The first ranks of every module, which never move.
    pub(super) fn still(&self) -> usize {
        self.global.map_or(0, |global| global.ranks as usize)
    }
}

impl Start {
    pub(super) fn find(
        engines: &Engines,
        state: &State,
        material: &Material,
        settings: &Settings,
        spec: &Spec,
        tell: &mut Listener<'_>,
    ) -> Result<Self, LearnError> {
        let base = engines.base.hash();
        let committed = state.learner()?;
        if let Some(record) = &committed {
            record.belongs_to(&base, spec)?;
        }
        let before = committed.as_ref().map(|record| adapter(spec, &record.slow));
        let checkpoint = state.take_checkpoint()?;
        match (&checkpoint, settings.resume) {
            (None, true) => return Err(LearnError::NothingToResume),
            (Some(checkpoint), false) => {
                let step = checkpoint.learner.cursor.step;
                let message = format!(
                    "a job that was interrupted at its step {step} is given up; --resume would have gone on with it"
                );
                let _ = tell(&Event::Warning { message });
            }
            _ => {}
        }
        let checkpoint = checkpoint.filter(|_| settings.resume);
        if let Some(Checkpoint { learner, .. }) = &checkpoint {
            learner.belongs_to(&base, spec)?;
            learner.may_resume(&material.hash, &settings.identity()?)?;
        }
        let record =
            checkpoint.as_ref().map(|checkpoint| &checkpoint.learner).or(committed.as_ref());
        let heritage = record.map_or_else(Heritage::default, Heritage::of);
        let cursor = checkpoint.as_ref().map_or_else(Cursor::default, |checkpoint| {
            let cursor = &checkpoint.learner.cursor;
            Cursor { epoch: cursor.epoch, position: cursor.position as usize, step: cursor.step }
        });
        let ground = record.map_or_else(Ground::default, Ground::of);
        let learners = match record {
            Some(record) => learners(spec, record),
            None => {
                let mut chance = ChaCha8Rng::seed_from_u64(settings.seed);
                Learners::new(Adapter::fresh(spec.clone(), &mut chance))
            }
        };
        let is_begun = checkpoint.is_some() || learners.k > 0;
        let is_first = !is_begun && is_fresh(&learners.slow, ground.still());
        Ok(Self { learners, heritage, cursor, before, checkpoint, is_first, ground })
    }
}

/// Whether the ranks from `still` on change nothing yet.
fn is_fresh(adapter: &Adapter, still: usize) -> bool {
    adapter.spec.modules.iter().all(|module| {
        let rows = adapter.b(module).chunks_exact(module.rank);
        rows.flat_map(|row| &row[still.min(row.len())..]).all(|number| *number == 0.0)
    })
}

pub(super) fn adapter(spec: &Spec, values: &[f32]) -> Adapter {
    Adapter { spec: spec.clone(), values: values.to_vec() }
}

pub(super) fn learners(spec: &Spec, record: &LearnerRecord) -> Learners {
    Learners {
        fast: adapter(spec, &record.fast),
        slow: adapter(spec, &record.slow),
        moments: Moments {
            first: record.first_moment.clone(),
            second: record.second_moment.clone(),
        },
        // AdamW counts from the install on: its moments began again with it.
        k: record.since.steps,
    }
}
