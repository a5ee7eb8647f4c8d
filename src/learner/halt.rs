//! A stream between two domains, kept so that it can go on from there after the program has ended.
//!
//! - In: the learners and the reservoir after a domain. Out: a state folder with a checkpoint and no
//!   generation, and the same learners and reservoir again.
//! - Invariant: what goes on from here learns what the uninterrupted stream would have learned, to the bit.
//! - Never here: scores, the matrix R.

use super::LearnError;
use super::engines::Engines;
use super::job::seed_bytes;
use super::start::learners;
use super::{geometry, spec};
use crate::ports::{Memory, Storage};
use crate::reservoir::Reservoir;
use crate::settings::{Method, Settings};
use crate::state::{LearnerRecord, Since, State, shapes};
use crate::train::Learners;
use std::sync::Arc;

/// Where a stream stands between two domains.
#[derive(Clone, Copy)]
pub struct Halt<'h> {
    /// The learners after the last domain.
    pub learners: &'h Learners,
    /// What is replayed from; none without replay.
    pub reservoir: Option<&'h Reservoir>,
}

/// What a stream goes on with.
pub struct Rest {
    pub(super) learners: Learners,
    pub(super) reservoir: Option<Reservoir>,
    /// Domains that were learned.
    pub(super) domains: usize,
}

impl Rest {
    /// How many domains were learned.
    pub fn domains(&self) -> usize {
        self.domains
    }
}

impl Halt<'_> {
    /// Keeps it over an empty storage; durable when it returns. `domains`: how many were learned.
    ///
    /// # Errors
    /// [`LearnError::Reservoir`], [`LearnError::State`]: what was written means nothing.
    pub fn keep(
        &self,
        engines: &Engines,
        domains: usize,
        storage: Arc<dyn Storage>,
    ) -> Result<(), LearnError> {
        let mut state = State::open(storage.clone())?;
        let mut copy = self.reservoir.map(|own| own.copy(storage)).transpose()?;
        let Learners { fast, slow, moments, k } = self.learners;
        let mut record = LearnerRecord {
            fast: fast.values.clone(),
            slow: slow.values.clone(),
            first_moment: moments.first.clone(),
            second_moment: moments.second.clone(),
            step: *k,
            shapes: shapes(&fast.spec),
            base: engines.base.hash(),
            since: Since { steps: *k, tokens: 0 },
            ..LearnerRecord::default()
        };
        record.cursor.position = domains as u64;
        Ok(state.checkpoint(record, copy.as_mut())?)
    }

    /// What was kept; none where nothing was, or nothing whole.
    ///
    /// # Errors
    /// [`LearnError::State`] of what was learned with another base or other shapes;
    /// [`LearnError::Reservoir`].
    pub fn take(
        engines: &Engines,
        method: Method,
        settings: &Settings,
        storage: Arc<dyn Storage>,
    ) -> Result<Option<Rest>, LearnError> {
        let settings = method.apply(settings);
        let spec = spec(engines.base.config(), &settings)?;
        let mut state = State::open(storage)?;
        let Some(checkpoint) = state.take_checkpoint()? else { return Ok(None) };
        checkpoint.learner.belongs_to(&engines.base.hash(), &spec)?;
        let reservoir = match settings.replay_batch_size {
            0 => None,
            _ => {
                let wanted = geometry(engines.base.config(), &settings)?;
                let seed = seed_bytes(settings.seed);
                let kept = state.reservoir(wanted, seed, Some(&checkpoint))?;
                Some(kept.copy(Arc::new(Memory::default()))?)
            }
        };
        let domains = checkpoint.learner.cursor.position as usize;
        Ok(Some(Rest { learners: learners(&spec, &checkpoint.learner), reservoir, domains }))
    }
}
