//! The checkpoint: where an interrupted job goes on, as a commit that nobody uses yet.
//!
//! - One file, replaced whole. It stands on one manifest and one generation: once either changes it
//!   means nothing and is swept away.
//! - Invariant: learner and ledger are from the same optimiser step.

use super::learner::LearnerRecord;
use super::manifest::{Manifest, limit};
use super::{State, StateError, earlier, publish, synced};
use crate::ports::Storage;
use crate::reservoir::record::{self, seal};
use crate::reservoir::{Ledger, RecordError, Reservoir};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::{COUNT_MAX, LEARNER_BYTES_MAX};
use sapwood_protocol::record::Kind;

/// The file's name in the state folder.
pub(crate) const NAME: &str = "checkpoint";

/// A job between two optimiser steps.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Checkpoint {
    pub(super) sequence: u64,
    pub(super) current: u64,
    /// The learner as it stood.
    pub learner: LearnerRecord,
    pub(crate) ledger: Option<Ledger>,
    /// The best slow adapter of the job so far, if any was scored.
    pub best: Option<Best>,
}

/// The slow adapter that was best on new text, of those that a job has scored so far.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub struct Best {
    /// Steps of the job when it was scored.
    pub step: u64,
    /// Steps of the job at the last scoring.
    pub seen: u64,
    /// Scorings since that were no better.
    pub stale: u64,
    /// Its bits per byte on new text.
    pub score: f64,
    /// Its factors.
    pub slow: Vec<f32>,
}

impl Best {
    /// Whether it is an adapter of this learner.
    fn check(&self, learner: &LearnerRecord) -> Result<(), StateError> {
        for count in [self.step, self.seen, self.stale] {
            limit("steps of the best adapter", COUNT_MAX, count)?;
        }
        let (expected, got) = (learner.slow.len(), self.slow.len());
        match expected == got {
            true => Ok(()),
            false => Err(StateError::Learner { what: "the best slow adapter", expected, got }),
        }
    }
}

impl Checkpoint {
    /// Of a job that stands on this manifest.
    pub(crate) fn new(
        manifest: &Manifest,
        learner: LearnerRecord,
        ledger: Option<Ledger>,
        best: Option<Best>,
    ) -> Self {
        Self { sequence: manifest.sequence, current: manifest.current, learner, ledger, best }
    }

    /// The checkpoint on disk, or none when there is none that stands on this manifest.
    pub(crate) fn read(
        storage: &dyn Storage,
        manifest: &Manifest,
    ) -> Result<Option<Self>, StateError> {
        let Some(length) = storage.len(NAME)? else { return Ok(None) };
        limit("bytes of a checkpoint", LEARNER_BYTES_MAX, length)?;
        let record = |source: RecordError| StateError::Record { path: NAME.to_owned(), source };
        let found = Self::parse(&storage.read(NAME)?).map_err(record)?;
        found.learner.check()?;
        if let Some(best) = &found.best {
            best.check(&found.learner)?;
        }
        let stands = (found.sequence, found.current) == (manifest.sequence, manifest.current);
        Ok(stands.then_some(found))
    }

    /// A checkpoint of any version.
    fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let header = record::header(Kind::Checkpoint, bytes)?;
        earlier::checkpoint(&header, bytes)
    }

    /// Makes it the one on disk, durably.
    pub(crate) fn write(&self, storage: &dyn Storage) -> Result<(), StateError> {
        let record = |source: RecordError| StateError::Record { path: NAME.to_owned(), source };
        let bytes = seal(Kind::Checkpoint, self.current, self).map_err(record)?;
        limit("bytes of a checkpoint", LEARNER_BYTES_MAX, bytes.len() as u64)?;
        publish::file(storage, "", NAME, &bytes)
    }
}

impl State {
    /// Where an interrupted job goes on; none when none was, or when opening reported it lost.
    ///
    /// It stays on disk until a commit, a rejection or a newer one takes its place.
    /// # Errors
    /// [`StateError::Record`], [`StateError::Storage`].
    pub fn take_checkpoint(&self) -> Result<Option<Checkpoint>, StateError> {
        match Checkpoint::read(&*self.storage, &self.manifest) {
            Err(error) if error.is_damage() && self.recovery.checkpoint_lost.is_some() => Ok(None),
            read => read,
        }
    }

    /// Makes a job in progress durable, so that a cut costs no more than the steps since.
    ///
    /// # Errors
    /// After every error the checkpoint before is the one to go on from; after [`StateError::Sync`]
    /// it may be either.
    pub fn checkpoint(
        &mut self,
        learner: LearnerRecord,
        reservoir: Option<&mut Reservoir>,
    ) -> Result<(), StateError> {
        self.checkpoint_with(learner, None, reservoir)
    }

    /// [`State::checkpoint`], with the best adapter of the job so far.
    ///
    /// # Errors
    /// As [`State::checkpoint`].
    pub fn checkpoint_with(
        &mut self,
        learner: LearnerRecord,
        best: Option<Best>,
        reservoir: Option<&mut Reservoir>,
    ) -> Result<(), StateError> {
        self.usable()?;
        learner.check()?;
        let result = self.try_checkpoint(learner, best, reservoir);
        self.note(result)
    }

    fn try_checkpoint(
        &self,
        learner: LearnerRecord,
        best: Option<Best>,
        reservoir: Option<&mut Reservoir>,
    ) -> Result<(), StateError> {
        let ledger = reservoir.as_deref().map(synced).transpose()?;
        let checkpoint = Checkpoint::new(&self.manifest, learner, ledger, best);
        checkpoint.write(&*self.storage)?;
        if let Some((reservoir, ledger)) = reservoir.zip(checkpoint.ledger) {
            reservoir.checkpointed(&ledger);
        }
        Ok(())
    }

    /// Removes a checkpoint that means nothing any more; if that fails, the next start does it.
    pub(super) fn forget_checkpoint(&self) {
        let _ = self.storage.remove(NAME);
    }

    /// Removes a checkpoint that still means something: durably, before its places are reused.
    ///
    /// # Errors
    /// [`StateError::Storage`], [`StateError::Sync`].
    pub fn drop_checkpoint(&mut self) -> Result<(), StateError> {
        if self.storage.len(NAME)?.is_none() {
            return Ok(());
        }
        self.storage.remove(NAME)?;
        let result = self.storage.sync_dir("").map_err(StateError::Sync);
        self.note(result)
    }
}
