//! What survives a power cut: generations of the adapter, the learner, and the reservoir's ledger.
//!
//! ```text
//! manifest.a, manifest.b   what is current, in turns; the reservoir's ledger       (the only truth)
//! adapters/<generation>/   the slow adapter's files, given by the caller
//! learner/<generation>     fast, slow, moments, k, cursor
//! checkpoint               a job in progress: learner and ledger of one step
//! reservoir                past blocks, see `reservoir`
//! own-texts                what the bare base wrote, to be held to; no commit names it
//! ```
//! - A commit publishes its files under new names, then a manifest that names them with their
//!   digests: from that moment, and not before, all of it is current at once.
//! - `inbox/` is another stage's. Only the number of the last sample that a job took from it is kept
//!   here, so that it moves with the commit or rejection that ends the job.
//! - A generation that stands on a new global adapter is on trial first: its parent is kept, and returns
//!   where nothing confirms it (`trial`).
//! - A rollback gives back a generation's adapter **and** learner. The reservoir stays as the newest
//!   commit left it: it is data the device has met, not what it made of it.
//! - Falling back because of damaged bytes may find places of the reservoir that a later job
//!   reused; their blocks are dropped and counted, never mixed in.
//! - A sync that fails ends the job: the state refuses everything until it is opened again.
//! - Never here: what an adapter's files mean, whether to keep one.
//! - Invariant: at any cut the old state or the new one is found, never a mixture.

mod checkpoint;
mod earlier;
mod error;
mod learner;
mod manifest;
mod own;
mod publish;
mod rebuild;
mod recover;
mod trial;
mod written;
#[cfg(test)]
mod tests;

pub use checkpoint::{Best, Checkpoint};
pub use error::StateError;
pub use learner::{Domain, HeldOutBlock, JobPosition, LearnerRecord, Shape, shapes};
pub use manifest::{FileDigest, Generation, Rejection};
pub use own::{foreign, is_part};
pub use rebuild::{AdapterFiles, Rebuilt, Whole};
pub use trial::{Attempt, Global, Install, InstallOutcome, Series, Since, Trial};
pub use written::{Asked, OWN_TEXTS, OWN_TEXTS_BYTES_MAX, Written};

use crate::ports::Storage;
use crate::reservoir::record::seal;
use crate::reservoir::{Geometry, Ledger, RecordError, Reservoir, ReservoirError};
use checkpoint::NAME as CHECKPOINT;
use manifest::{Manifest, NAMES, check_name, limit};
use sapwood_protocol::limits::{
    ADAPTER_FILE_BYTES_MAX, FILES_MAX, GENERATIONS_MAX, LEARNER_BYTES_MAX, REJECTIONS_MAX,
    VERDICT_BYTES_MAX,
};
use sapwood_protocol::record::Kind;
use std::sync::Arc;

/// Generations kept when nobody says otherwise.
const KEEP: usize = 4;

/// What a job hands over to become current at once.
pub struct Commit<'a> {
    /// The slow adapter's files: name and bytes.
    pub files: &'a [(&'a str, &'a [u8])],
    /// The learner between two steps.
    pub learner: &'a LearnerRecord,
    /// The reservoir with the job's replacements staged; none where nothing is replayed.
    pub reservoir: Option<&'a mut Reservoir>,
    /// The number of the domain that was learned, from [`State::next_domain`] or given before; 0 where
    /// there is none.
    pub domain: u32,
    /// What the gate said.
    pub verdict: &'a str,
}

/// What opening the state found out of order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Why the newest manifest or generation is not in use, or which manifest cannot be read;
    /// empty when nothing is out of order.
    pub fell_back: Vec<String>,
    /// What an interrupted job left behind and was removed.
    pub swept: Vec<String>,
    /// Why the checkpoint of an interrupted job cannot be used.
    pub checkpoint_lost: Option<String>,
}

/// A state folder.
pub struct State {
    storage: Arc<dyn Storage>,
    manifest: Manifest,
    slot: Option<usize>,
    sequence: u64,
    keep: usize,
    through: Option<u64>,
    broken: bool,
    recovery: Recovery,
}

impl State {
    /// Opens a state folder, recovers what was interrupted, sweeps up what it left.
    ///
    /// An empty folder is a state before its first commit.
    /// # Errors
    /// [`StateError::NoSound`] when no generation is sound; [`StateError::Storage`].
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self, StateError> {
        publish::layout(&*storage)?;
        let (mut state, named) = Self::find(storage)?;
        if state.slot.is_none() {
            state.manifest = rebuild::first(&*state.storage)?;
            (state.slot, state.sequence) = (Some(0), state.manifest.sequence);
        }
        if let Some(named) = &named {
            state.recovery.swept = recover::sweep(&*state.storage, named);
        }
        match Checkpoint::read(&*state.storage, &state.manifest) {
            // After a fallback it may stand on what cannot be read now.
            Ok(None) if state.recovery.fell_back.is_empty() => state.forget_checkpoint(),
            Ok(_) => {}
            Err(error) if error.is_damage() => {
                state.recovery.checkpoint_lost = Some(error.to_string());
                // Bytes that cannot be read now may be read at the next start.
                if !matches!(error, StateError::Storage(_)) {
                    state.forget_checkpoint();
                }
            }
            Err(error) => return Err(error),
        }
        Ok(state)
    }

    /// Opens a state folder to read from it; nothing is changed.
    ///
    /// # Errors
    /// As [`State::open`].
    pub fn look(storage: Arc<dyn Storage>) -> Result<Self, StateError> {
        Ok(Self::find(storage)?.0)
    }

    /// The state, and every generation that a manifest names if all of them can be read.
    fn find(storage: Arc<dyn Storage>) -> Result<(Self, Option<Vec<u64>>), StateError> {
        let found = recover::find(&*storage)?;
        let recovery = Recovery { fell_back: found.fell_back, ..Recovery::default() };
        let (manifest, slot, sequence) = (found.manifest, found.slot, found.sequence);
        let (keep, through, broken) = (KEEP, None, false);
        let state = Self { storage, manifest, slot, sequence, keep, through, broken, recovery };
        Ok((state, found.named))
    }

    /// How many generations to keep from the next commit on: at least the one in use and the one
    /// before it.
    pub fn set_keep(&mut self, generations: usize) {
        self.keep = generations.clamp(2, GENERATIONS_MAX - 2);
    }

    /// Says which samples of the inbox the job to come takes: all up to that number. The commit or
    /// the rejection that ends it makes that durable.
    pub fn set_through(&mut self, number: u64) {
        self.through = Some(number);
    }

    /// The number of the last sample that a job which ended has taken from the inbox.
    pub fn learned(&self) -> u64 {
        self.manifest.learned
    }

    /// The number that the next commit will have.
    pub fn next_generation(&self) -> u64 {
        self.manifest.last + 1
    }

    /// The number for a domain that was not met before: no job of this state has ever had it.
    pub fn next_domain(&self) -> u32 {
        self.manifest.domain.saturating_add(1)
    }

    /// What opening found out of order.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The generation in use, none before the first commit.
    pub fn current(&self) -> Option<&Generation> {
        self.manifest.generation(self.manifest.current).ok()
    }

    /// Whether nothing was ever kept here: no generation, no verdict, no job to go on with.
    pub fn is_unused(&self) -> bool {
        let Manifest { last, rejections, .. } = &self.manifest;
        *last == 0 && rejections.is_empty() && matches!(self.take_checkpoint(), Ok(None))
    }

    /// The generations kept, by number, each with its verdict.
    pub fn generations(&self) -> &[Generation] {
        &self.manifest.generations
    }

    /// The last jobs whose adapter was not kept, oldest first.
    pub fn rejections(&self) -> &[Rejection] {
        &self.manifest.rejections
    }

    /// Whether every file of a kept generation is what was committed.
    ///
    /// # Errors
    /// [`StateError::Damaged`] names the file that is not; [`StateError::Unknown`].
    pub fn verify(&self, number: u64) -> Result<(), StateError> {
        self.manifest.generation(number)?;
        recover::sound(&*self.storage, &self.manifest, number)
    }

    /// The adapter files of a kept generation: name and bytes.
    ///
    /// # Errors
    /// [`StateError::Unknown`], [`StateError::Damaged`], [`StateError::Storage`].
    pub fn adapter(&self, number: u64) -> Result<Vec<(String, Vec<u8>)>, StateError> {
        let generation = self.manifest.generation(number)?;
        let read = |file: &FileDigest| {
            Ok((file.name.clone(), file.read(&*self.storage, &generation.folder())?))
        };
        generation.files.iter().map(read).collect()
    }

    /// The learner of the generation in use, none before the first commit.
    ///
    /// # Errors
    /// As [`State::learner_of`].
    pub fn learner(&self) -> Result<Option<LearnerRecord>, StateError> {
        self.learner_of(self.manifest.current)
    }

    /// The learner of a kept generation, none of the bare base, 0.
    ///
    /// # Errors
    /// [`StateError::Unknown`], [`StateError::Damaged`], [`StateError::Record`], [`StateError::Storage`].
    pub fn learner_of(&self, number: u64) -> Result<Option<LearnerRecord>, StateError> {
        if number == 0 {
            return Ok(None);
        }
        let generation = self.manifest.generation(number)?;
        let bytes = generation.learner.read(&*self.storage, "learner")?;
        let path = format!("learner/{}", generation.number);
        let learner = LearnerRecord::parse(&bytes);
        let learner = learner.map_err(|source| StateError::Record { path, source })?;
        learner.check()?;
        Ok(Some(learner))
    }

    /// The reservoir to learn with: as of the newest commit, and of `checkpoint` if the job goes on
    /// from one; made when there is none. One that exists keeps the room it was made with.
    ///
    /// Without `checkpoint` one that is on disk is given up.
    /// # Errors
    /// [`ReservoirError::Geometry`] when the file has other sizes; [`StateError::Reservoir`].
    pub fn reservoir(
        &mut self,
        geometry: Geometry,
        seed: [u8; 32],
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Reservoir, StateError> {
        self.usable()?;
        if checkpoint.is_none() {
            self.drop_checkpoint()?;
        }
        if !Reservoir::exists(&*self.storage)? && self.manifest.ledger.is_none() {
            Reservoir::create(self.storage.clone(), geometry, seed)?;
        }
        let staged = checkpoint.and_then(|checkpoint| checkpoint.ledger.as_ref());
        let reservoir = self.open_reservoir(staged)?;
        if !reservoir.geometry().serves(&geometry) {
            let (expected, got) = (Box::new(geometry), Box::new(*reservoir.geometry()));
            return Err(ReservoirError::Geometry { expected, got }.into());
        }
        Ok(reservoir)
    }

    /// The reservoir as of the newest commit, to look at; none when there is none.
    ///
    /// # Errors
    /// [`StateError::Reservoir`].
    pub fn committed_reservoir(&self) -> Result<Option<Reservoir>, StateError> {
        if !Reservoir::exists(&*self.storage)? && self.manifest.ledger.is_none() {
            return Ok(None);
        }
        self.open_reservoir(None).map(Some)
    }

    fn open_reservoir(&self, staged: Option<&Ledger>) -> Result<Reservoir, StateError> {
        let ledger = self.manifest.ledger.as_ref();
        let opened = Reservoir::open(self.storage.clone(), ledger, staged);
        opened.map_err(|error| match ledger {
            // A commit names what is not there: the rest of the state is none the worse.
            Some(_) if error.is_lost() => StateError::ReservoirLost(error),
            _ => error.into(),
        })
    }

    /// Makes a job's result current: its adapter, its learner and its reservoir, all or nothing.
    ///
    /// Returns the new generation's number.
    /// # Errors
    /// [`StateError::OnTrial`]. After every error the old generation is current; after
    /// [`StateError::Sync`] the next start may find the new one.
    pub fn commit(&mut self, commit: Commit<'_>) -> Result<u64, StateError> {
        self.usable()?;
        self.may_commit()?;
        let through = self.through.unwrap_or(0);
        let result = self.try_commit(commit, |next| next.learned = through.max(next.learned));
        let number = self.note(result)?;
        self.through = None;
        Ok(number)
    }

    /// Publishes a generation, and with it what `change` makes of the manifest that names it.
    fn try_commit(
        &mut self,
        commit: Commit<'_>,
        change: impl FnOnce(&mut Manifest),
    ) -> Result<u64, StateError> {
        let Commit { files, learner, reservoir, domain, verdict } = commit;
        let number = self.manifest.last + 1;
        let (generation, record) = self.generation(number, files, learner, verdict)?;
        let ledger = reservoir.as_deref().map(synced).transpose()?;
        self.publish(number, files, &record)?;
        let mut next = self.manifest.clone();
        next.current = number;
        next.last = number;
        next.generations.push(generation);
        next.ledger = ledger.clone().or(next.ledger);
        next.domain = domain.max(next.domain);
        change(&mut next);
        self.flip(next)?;
        if let Some((reservoir, ledger)) = reservoir.zip(ledger) {
            reservoir.committed(ledger);
        }
        Ok(number)
    }

    /// The gate said no: the generation in use stays, the reason is kept, the job leaves no trace.
    ///
    /// - `step`: optimiser steps of the device's life at the end of the job.
    /// # Errors
    /// [`StateError::Limit`], [`StateError::Storage`], [`StateError::Sync`].
    pub fn reject(
        &mut self,
        step: u64,
        reason: &str,
        reservoir: Option<&mut Reservoir>,
    ) -> Result<(), StateError> {
        self.usable()?;
        let mut next = self.manifest.clone();
        if next.rejections.len() >= REJECTIONS_MAX {
            next.rejections.remove(0);
        }
        next.rejections.push(Rejection { stayed: next.current, step, reason: reason.to_owned() });
        next.learned = self.through.unwrap_or(0).max(next.learned);
        let result = self.flip(next);
        self.note(result)?;
        self.through = None;
        if let Some(reservoir) = reservoir {
            reservoir.discard();
        }
        Ok(())
    }

    /// Makes an earlier generation current again, or a later one that is still kept; 0 is the bare
    /// base, and without a number it is the one before the one in use, of one on trial its parent. Returns
    /// its number.
    ///
    /// # Errors
    /// [`StateError::NothingBefore`], [`StateError::Unknown`], [`StateError::Damaged`]: the
    /// generation in use stays.
    pub fn rollback(&mut self, to: Option<u64>) -> Result<u64, StateError> {
        self.usable()?;
        let current = self.manifest.current;
        let kept = self.manifest.generations.iter().map(|generation| generation.number);
        let parent = self.manifest.trial.map(|trial| trial.parent);
        let before = parent.or(kept.filter(|number| *number < current).max());
        let number = to.or(before).ok_or(StateError::NothingBefore)?;
        recover::sound(&*self.storage, &self.manifest, number)?;
        let mut next = Manifest { current: number, ..self.manifest.clone() };
        next.leave_trial("rolled back by hand");
        let result = self.flip(next);
        self.note(result)?;
        Ok(number)
    }

    /// What a commit's generation will say, and its learner's bytes; every limit is checked here,
    /// before anything is written.
    fn generation(
        &self,
        number: u64,
        files: &[(&str, &[u8])],
        learner: &LearnerRecord,
        verdict: &str,
    ) -> Result<(Generation, Vec<u8>), StateError> {
        learner.check()?;
        limit("bytes of a verdict", VERDICT_BYTES_MAX as u64, verdict.len() as u64)?;
        limit("files of an adapter", FILES_MAX as u64, files.len() as u64)?;
        for (name, bytes) in files {
            check_name(name)?;
            limit("bytes of a file", ADAPTER_FILE_BYTES_MAX, bytes.len() as u64)?;
        }
        let name = number.to_string();
        let record =
            |source: RecordError| StateError::Record { path: format!("learner/{name}"), source };
        let bytes = seal(Kind::Learner, number, learner).map_err(record)?;
        limit("bytes of a learner record", LEARNER_BYTES_MAX, bytes.len() as u64)?;
        let generation = Generation {
            number,
            parent: self.manifest.current,
            step: learner.step,
            verdict: verdict.to_owned(),
            files: files.iter().map(|(name, bytes)| FileDigest::of(name, bytes)).collect(),
            learner: FileDigest::of(&name, &bytes),
            global: learner.global,
            since: learner.since,
        };
        Ok((generation, bytes))
    }

    /// Writes a generation's files; on an error what was written is removed if that is possible.
    fn publish(
        &self,
        number: u64,
        files: &[(&str, &[u8])],
        record: &[u8],
    ) -> Result<(), StateError> {
        let name = number.to_string();
        publish::folder(&*self.storage, "adapters", &name, files)
            .and_then(|()| publish::file(&*self.storage, "learner", &name, record))
            .inspect_err(|_| {
                let named: Vec<u64> = self.manifest.generations.iter().map(|g| g.number).collect();
                recover::sweep(&*self.storage, &named);
            })
    }

    /// Makes a manifest the current one; the one before stays whole beside it.
    fn flip(&mut self, mut next: Manifest) -> Result<(), StateError> {
        let parent = next.trial.map_or(0, |trial| trial.parent);
        let needed = [self.manifest.current, next.current, parent];
        next.sequence = self.sequence + 1;
        while next.generations.len() > self.keep {
            let oldest = next.generations.iter().position(|g| !needed.contains(&g.number));
            let Some(oldest) = oldest else { break };
            next.generations.remove(oldest);
        }
        let slot = self.slot.map_or(0, |slot| 1 - slot);
        next.write(&*self.storage, NAMES[slot])?;
        (self.sequence, self.slot, self.manifest) = (next.sequence, Some(slot), next);
        self.forget_checkpoint();
        let named: Vec<u64> = self.manifest.generations.iter().map(|g| g.number).collect();
        recover::sweep(&*self.storage, &named);
        Ok(())
    }

    fn usable(&self) -> Result<(), StateError> {
        if self.broken { Err(StateError::Broken) } else { Ok(()) }
    }

    fn note<T>(&mut self, result: Result<T, StateError>) -> Result<T, StateError> {
        self.broken |= matches!(result, Err(StateError::Sync(_)));
        result
    }
}

/// The ledger of a reservoir whose blocks are all durable.
fn synced(reservoir: &Reservoir) -> Result<Ledger, StateError> {
    reservoir.sync().map_err(|error| match error {
        ReservoirError::Storage(error) => StateError::Sync(error),
        other => other.into(),
    })
}
