//! The checkpoint: where an interrupted job goes on, as a commit that nobody uses yet.
//!
//! - One file, replaced whole. It stands on one manifest and one generation: once either changes it
//!   means nothing and is swept away.
//! - Invariant: learner and ledger are from the same optimiser step.

use super::learner::LearnerRecord;
use super::manifest::{Manifest, limit};
use super::{StateError, publish};
use crate::ports::Storage;
use crate::reservoir::record::{seal, unseal};
use crate::reservoir::{Ledger, RecordError};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::LEARNER_BYTES_MAX;
use sapwood_protocol::record::Kind;

/// The file's name in the state folder.
pub(crate) const NAME: &str = "checkpoint";

/// A job between two optimiser steps.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Checkpoint {
    sequence: u64,
    current: u64,
    /// The learner as it stood.
    pub learner: LearnerRecord,
    pub(crate) ledger: Option<Ledger>,
}

impl Checkpoint {
    /// Of a job that stands on this manifest.
    pub(crate) fn new(manifest: &Manifest, learner: LearnerRecord, ledger: Option<Ledger>) -> Self {
        Self { sequence: manifest.sequence, current: manifest.current, learner, ledger }
    }

    /// The checkpoint on disk, or none when there is none that stands on this manifest.
    pub(crate) fn read(
        storage: &dyn Storage,
        manifest: &Manifest,
    ) -> Result<Option<Self>, StateError> {
        let Some(length) = storage.len(NAME)? else { return Ok(None) };
        limit("bytes of a checkpoint", LEARNER_BYTES_MAX, length)?;
        let record = |source: RecordError| StateError::Record { path: NAME.to_owned(), source };
        let (_, found) = unseal::<Self>(Kind::Checkpoint, &storage.read(NAME)?).map_err(record)?;
        found.learner.check()?;
        let stands = (found.sequence, found.current) == (manifest.sequence, manifest.current);
        Ok(stands.then_some(found))
    }

    /// Makes it the one on disk, durably.
    pub(crate) fn write(&self, storage: &dyn Storage) -> Result<(), StateError> {
        let record = |source: RecordError| StateError::Record { path: NAME.to_owned(), source };
        let bytes = seal(Kind::Checkpoint, self.current, self).map_err(record)?;
        limit("bytes of a checkpoint", LEARNER_BYTES_MAX, bytes.len() as u64)?;
        publish::file(storage, "", NAME, &bytes)
    }
}
