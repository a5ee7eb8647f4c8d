//! The checkpoint: where an interrupted job goes on, as a commit that nobody uses yet.
//!
//! - One file, replaced whole. It stands on one manifest and one generation: once either changes it
//!   means nothing and is swept away.
//! - Invariant: learner and ledger are from the same optimiser step.

use super::learner::LearnerRecord;
use super::manifest::{Manifest, limit};
use super::{StateError, publish};
use crate::ports::Storage;
use crate::reservoir::record::{self, seal};
use crate::reservoir::{FirstLedger, Ledger, RecordError};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::LEARNER_BYTES_MAX;
use sapwood_protocol::record::{Kind, UncheckedHeader};

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

/// A checkpoint of version 1, before the reservoir was served in passes.
#[derive(Archive, Serialize, Deserialize)]
struct First {
    sequence: u64,
    current: u64,
    learner: LearnerRecord,
    ledger: Option<FirstLedger>,
}

impl From<First> for Checkpoint {
    fn from(first: First) -> Self {
        let First { sequence, current, learner, ledger } = first;
        Self { sequence, current, learner, ledger: ledger.map(Ledger::from) }
    }
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
        let found = Self::parse(&storage.read(NAME)?).map_err(record)?;
        found.learner.check()?;
        let stands = (found.sequence, found.current) == (manifest.sequence, manifest.current);
        Ok(stands.then_some(found))
    }

    /// A checkpoint of any version.
    fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let header = UncheckedHeader::read(bytes)?.check(Kind::Checkpoint)?;
        match header.version {
            1 => Ok(record::open::<First>(&header, bytes)?.into()),
            _ => record::open(&header, bytes),
        }
    }

    /// Makes it the one on disk, durably.
    pub(crate) fn write(&self, storage: &dyn Storage) -> Result<(), StateError> {
        let record = |source: RecordError| StateError::Record { path: NAME.to_owned(), source };
        let bytes = seal(Kind::Checkpoint, self.current, self).map_err(record)?;
        limit("bytes of a checkpoint", LEARNER_BYTES_MAX, bytes.len() as u64)?;
        publish::file(storage, "", NAME, &bytes)
    }
}
