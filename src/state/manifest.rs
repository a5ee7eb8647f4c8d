//! The manifest: the only mutable truth of a state folder, kept twice.
//!
//! - Names the generation in use, those kept, their files' digests, and the reservoir's ledger.
//! - Written in turns to `manifest.a` and `manifest.b`, each whole or not at all.
//! - Invariant: what the manifest with the higher sequence names was durable before it was.

use super::publish::{self, damaged};
use super::trial::{Attempt, Global, Install, Since, Trial};
use super::{StateError, earlier};
use crate::ports::Storage;
use crate::reservoir::record::{self, seal};
use crate::reservoir::{Ledger, RecordError};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::{
    ADAPTER_FILE_BYTES_MAX, COUNT_MAX, FILE_NAME_BYTES_MAX, FILES_MAX, GENERATIONS_MAX,
    INSTALLS_MAX, LEARNER_BYTES_MAX, MANIFEST_BYTES_MAX, REJECTIONS_MAX, TRIES_MAX,
    VERDICT_BYTES_MAX,
};
use sapwood_protocol::record::Kind;

/// The two names, written in turns.
pub(crate) const NAMES: [&str; 2] = ["manifest.a", "manifest.b"];

/// A committed file.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// Its name in its folder.
    pub name: String,
    /// Its bytes.
    pub length: u64,
    /// BLAKE3 of them.
    pub digest: [u8; 32],
}

impl FileDigest {
    /// Of these bytes.
    pub(crate) fn of(name: &str, bytes: &[u8]) -> Self {
        let digest = *blake3::hash(bytes).as_bytes();
        Self { name: name.to_owned(), length: bytes.len() as u64, digest }
    }

    /// The file's bytes, if they are these.
    pub(crate) fn read(&self, storage: &dyn Storage, folder: &str) -> Result<Vec<u8>, StateError> {
        let path = format!("{folder}/{}", self.name);
        if storage.len(&path)?.is_some_and(|length| length != self.length) {
            return Err(damaged(path, "it has another length"));
        }
        let bytes = storage.read(&path)?;
        if *blake3::hash(&bytes).as_bytes() != self.digest {
            return Err(damaged(path, "it has another BLAKE3 digest"));
        }
        Ok(bytes)
    }
}

/// One commit.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number, never given twice.
    pub number: u64,
    /// The generation it grew from, 0 for the bare base.
    pub parent: u64,
    /// Optimiser steps of the device's life, k.
    pub step: u64,
    /// What the gate said.
    pub verdict: String,
    /// The adapter's files, in `adapters/<number>/`.
    pub files: Vec<FileDigest>,
    /// The learner record, `learner/<number>`.
    pub learner: FileDigest,
    /// The global adapter that it stands on, as its learner record says.
    pub global: Option<Global>,
    /// What was learned since that was installed.
    pub since: Since,
}

impl Generation {
    /// Its adapter's folder, relative to the state folder.
    pub fn folder(&self) -> String {
        format!("adapters/{}", self.number)
    }
}

/// A job whose adapter was not kept.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The generation that stayed in use, 0 for the bare base.
    pub stayed: u64,
    /// Optimiser steps of the device's life at the end of the job.
    pub step: u64,
    /// Why.
    pub reason: String,
}

/// What is current.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
pub(crate) struct Manifest {
    /// One more with every manifest written.
    pub(crate) sequence: u64,
    /// The generation in use, 0 before the first commit.
    pub(crate) current: u64,
    /// The highest number ever given.
    pub(crate) last: u64,
    /// The generations kept, by number.
    pub(crate) generations: Vec<Generation>,
    /// The last jobs whose adapter was not kept, oldest first.
    pub(crate) rejections: Vec<Rejection>,
    /// The reservoir as of the newest commit.
    pub(crate) ledger: Option<Ledger>,
    /// The number of the last sample that a job which ended has taken from the inbox.
    pub(crate) learned: u64,
    /// The highest number ever given to a domain.
    pub(crate) domain: u32,
    /// The generation in use while it is on trial.
    pub(crate) trial: Option<Trial>,
    /// The last installs of a global adapter, oldest first.
    pub(crate) installs: Vec<Install>,
    /// The install that was begun and has not ended.
    pub(crate) attempt: Option<Attempt>,
}

impl Manifest {
    /// The manifest in one of the two files; none when there is no such file.
    pub(crate) fn read(storage: &dyn Storage, name: &str) -> Result<Option<Self>, StateError> {
        let Some(length) = storage.len(name)? else { return Ok(None) };
        limit("bytes of a manifest", MANIFEST_BYTES_MAX, length)?;
        let record = |source: RecordError| StateError::Record { path: name.to_owned(), source };
        let manifest = Self::parse(&storage.read(name)?).map_err(record)?;
        manifest.check()?;
        Ok(Some(manifest))
    }

    /// A manifest of any version.
    fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let header = record::header(Kind::Manifest, bytes)?;
        earlier::manifest(&header, bytes)
    }

    /// Makes it the one in that file, durably.
    pub(crate) fn write(&self, storage: &dyn Storage, name: &str) -> Result<(), StateError> {
        self.check()?;
        let record = |source: RecordError| StateError::Record { path: name.to_owned(), source };
        let bytes = seal(Kind::Manifest, self.sequence, self).map_err(record)?;
        limit("bytes of a manifest", MANIFEST_BYTES_MAX, bytes.len() as u64)?;
        publish::file(storage, "", name, &bytes)
    }

    /// The generation of that number.
    pub(crate) fn generation(&self, number: u64) -> Result<&Generation, StateError> {
        self.generations.iter().find(|generation| generation.number == number).ok_or_else(|| {
            let known = self.generations.iter().map(|generation| generation.number).collect();
            StateError::Unknown { number, known }
        })
    }

    fn check(&self) -> Result<(), StateError> {
        let wrong = |what, got| Err(StateError::Manifest { what, got });
        limit("manifests written", COUNT_MAX, self.sequence)?;
        limit("generations ever", COUNT_MAX, self.last)?;
        limit("generations kept", GENERATIONS_MAX as u64, self.generations.len() as u64)?;
        limit("rejections kept", REJECTIONS_MAX as u64, self.rejections.len() as u64)?;
        let mut before = 0;
        for generation in &self.generations {
            if generation.number <= before || generation.number > self.last {
                return wrong("generations out of order", generation.number);
            }
            before = generation.number;
            generation.check()?;
        }
        for rejection in &self.rejections {
            limit("bytes of a reason", VERDICT_BYTES_MAX as u64, rejection.reason.len() as u64)?;
        }
        limit("installs kept", INSTALLS_MAX as u64, self.installs.len() as u64)?;
        self.installs.iter().try_for_each(Install::check)?;
        self.attempt.as_ref().map_or(Ok(()), Attempt::check)?;
        if let Some(trial) = &self.trial {
            limit("tries of a trial", u64::from(TRIES_MAX), u64::from(trial.tries_left))?;
            if trial.generation != self.current || trial.generation == 0 {
                return wrong("a trial of a generation that is not in use", trial.generation);
            }
        }
        if self.current != 0 && self.generation(self.current).is_err() {
            return wrong("a current generation it does not keep", self.current);
        }
        Ok(())
    }
}

impl Generation {
    fn check(&self) -> Result<(), StateError> {
        limit("bytes of a verdict", VERDICT_BYTES_MAX as u64, self.verdict.len() as u64)?;
        limit("files of an adapter", FILES_MAX as u64, self.files.len() as u64)?;
        limit("bytes of a learner record", LEARNER_BYTES_MAX, self.learner.length)?;
        for file in self.files.iter().chain([&self.learner]) {
            check_name(&file.name)?;
            limit("bytes of a file", ADAPTER_FILE_BYTES_MAX, file.length)?;
        }
        self.global.as_ref().map_or(Ok(()), Global::check)
    }
}

/// Whether a file of that name stays in its folder, on any system.
pub(crate) fn check_name(name: &str) -> Result<(), StateError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let fits = !name.is_empty() && name.len() <= FILE_NAME_BYTES_MAX && !name.starts_with('.');
    if fits && name.bytes().all(plain) {
        Ok(())
    } else {
        Err(StateError::Name { name: name.into() })
    }
}

pub(crate) fn limit(what: &'static str, limit: u64, got: u64) -> Result<(), StateError> {
    if got > limit { Err(StateError::Limit { what, limit, got }) } else { Ok(()) }
}
