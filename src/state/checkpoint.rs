//! The checkpoint: where an interrupted job goes on, as a commit that nobody uses yet.
//!
//! - One file, replaced whole. It stands on one manifest and one generation: once either changes it
//!   means nothing and is swept away.
//! - Invariant: learner and ledger are from the same optimiser step.

use super::learner::LearnerRecord;
use super::manifest::{Manifest, limit};
use super::{StateError, earlier, publish};
use crate::ports::Storage;
use crate::reservoir::record::seal;
use crate::reservoir::{Ledger, RecordError};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::{COUNT_MAX, LEARNER_BYTES_MAX};
use sapwood_protocol::record::{Kind, UncheckedHeader};

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
        let header = UncheckedHeader::read(bytes)?.check(Kind::Checkpoint)?;
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
