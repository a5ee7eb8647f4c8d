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
use crate::state::{Checkpoint, LearnerRecord, State};
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
    /// Whether nothing was learned before: the learners are made anew.
    pub(super) is_first: bool,
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
        let is_first = record.is_none();
        let learners = match record {
            Some(record) => learners(spec, record),
            None => {
                let mut chance = ChaCha8Rng::seed_from_u64(settings.seed);
                Learners::new(Adapter::fresh(spec.clone(), &mut chance))
            }
        };
        Ok(Self { learners, heritage, cursor, before, checkpoint, is_first })
    }
}

fn adapter(spec: &Spec, values: &[f32]) -> Adapter {
    Adapter { spec: spec.clone(), values: values.to_vec() }
}

fn learners(spec: &Spec, record: &LearnerRecord) -> Learners {
    Learners {
        fast: adapter(spec, &record.fast),
        slow: adapter(spec, &record.slow),
        moments: Moments {
            first: record.first_moment.clone(),
            second: record.second_moment.clone(),
        },
        k: record.step,
    }
}
