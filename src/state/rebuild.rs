//! A manifest made anew from the generations that lie in the folder, for when both are lost.
//!
//! - In: a state folder whose manifests are missing or damaged. Out: manifests that name every whole
//!   generation, the newest in use, and a reservoir of the blocks that lie in its file.
//! - A generation is whole when its learner record is, and whoever knows an adapter's files says that
//!   they belong to it.
//! - Invariant: nothing is removed; a damaged manifest and what is not whole stay under another name.

use super::learner::LearnerRecord;
use super::manifest::{FileDigest, Generation, Manifest, NAMES, check_name, limit};
use super::{State, StateError, recover};
use crate::ports::Storage;
use crate::reservoir::{Reservoir, ReservoirError};
use sapwood_protocol::limits::{
    ADAPTER_FILE_BYTES_MAX, COUNT_MAX, FILES_MAX, GENERATIONS_KEPT_MAX,
};
use std::collections::BTreeSet;

/// The reservoir's file.
const RESERVOIR: &str = "reservoir";

/// The files of an adapter: name and bytes.
pub type AdapterFiles = [(String, Vec<u8>)];

/// Says whether an adapter's files are those of a learner's slow adapter; if not, why.
pub type Whole<'w> = dyn Fn(&LearnerRecord, &AdapterFiles) -> Result<(), String> + 'w;

/// What was found and named again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// The generations that are whole, by number; the last is in use.
    pub generations: Vec<u64>,
    /// Those that are not, each with the reason.
    pub passed_over: Vec<String>,
    /// Whether the manifest could be read, and the reservoir alone was lost.
    pub reservoir_only: bool,
    /// Blocks of the reservoir.
    pub blocks: u64,
    /// What is called otherwise now: damaged manifests, and what is there of generations passed over.
    pub kept: Vec<String>,
}

impl State {
    /// Makes the manifest anew; `learned` is the number of the last sample that no longer waits in the
    /// inbox.
    ///
    /// # Errors
    /// [`StateError::NotLost`] when a manifest can be read, and the reservoir too; [`StateError::NoSound`] when no generation is
    /// whole; [`StateError::Record`] when a later version wrote one. After each nothing has changed.
    pub fn rebuild(
        storage: &dyn Storage,
        learned: u64,
        whole: &Whole<'_>,
    ) -> Result<Rebuilt, StateError> {
        let damaged = match lost(storage) {
            Err(StateError::NotLost { name }) => return without_reservoir(storage, name),
            lost => lost?,
        };
        let (mut rebuilt, mut spoiled) = (Rebuilt::default(), Vec::new());
        let mut manifest = Manifest { sequence: 1, learned, ..Manifest::default() };
        for number in numbers(storage)? {
            manifest.last = manifest.last.max(number);
            match generation(storage, number, manifest.current, whole) {
                Ok((generation, domain)) => {
                    (manifest.current, manifest.domain) = (number, manifest.domain.max(domain));
                    manifest.generations.push(generation);
                    rebuilt.generations.push(number);
                }
                Err(reason) => {
                    rebuilt.passed_over.push(format!("generation {number}: {reason}"));
                    spoiled.extend(parts(storage, number)?);
                }
            }
        }
        manifest.last = manifest.last.max(highest_damaged(storage)?);
        if manifest.generations.is_empty() {
            let reasons = match rebuilt.passed_over.is_empty() {
                true => "the folder holds none".to_owned(),
                false => rebuilt.passed_over.join("; "),
            };
            return Err(StateError::NoSound { reasons });
        }
        let spare = manifest.generations.len().saturating_sub(GENERATIONS_KEPT_MAX);
        manifest.generations.drain(..spare);
        manifest.ledger = Reservoir::salvage(storage)?;
        if let Some(ledger) = &manifest.ledger {
            manifest.domain = manifest.domain.max(ledger.domain_max());
            rebuilt.blocks = ledger.places().count() as u64;
        }
        // Under a number it would be swept away by the next commit.
        for path in &spoiled {
            let kept = format!("{path}.damaged");
            storage.rename(path, &kept)?;
            rebuilt.kept.push(kept);
        }
        for name in damaged {
            let kept = format!("{name}.damaged");
            storage.rename(name, &kept)?;
            rebuilt.kept.push(kept);
        }
        manifest.write(storage, NAMES[0])?;
        Ok(rebuilt)
    }
}

/// Lets go of a reservoir whose file is lost, where a manifest can be read: the generations stay as they
/// are, and a new one begins with the next job.
fn without_reservoir(storage: &dyn Storage, name: &'static str) -> Result<Rebuilt, StateError> {
    let found = recover::find(storage)?;
    let mut manifest = found.manifest;
    let is_lost = match manifest.ledger.as_ref().map(|ledger| Reservoir::check(storage, ledger)) {
        Some(Err(ReservoirError::Storage(error))) => error.is_missing() || error.is_damage(),
        Some(Err(ReservoirError::Record(source))) => !source.is_newer(),
        Some(Err(ReservoirError::Ledger { .. })) => true,
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(())) | None => false,
    };
    if !is_lost {
        return Err(StateError::NotLost { name });
    }
    let mut rebuilt = Rebuilt { reservoir_only: true, ..Rebuilt::default() };
    if storage.len(RESERVOIR)?.is_some() {
        let kept = format!("{RESERVOIR}.damaged");
        storage.rename(RESERVOIR, &kept)?;
        rebuilt.kept.push(kept);
    }
    (manifest.ledger, manifest.sequence) = (None, found.sequence + 1);
    rebuilt.generations = manifest.generations.iter().map(|kept| kept.number).collect();
    let slot = found.slot.map_or(0, |slot| 1 - slot);
    manifest.write(storage, NAMES[slot])?;
    Ok(rebuilt)
}

/// The manifests that are there and cannot be read, if none can be.
fn lost(storage: &dyn Storage) -> Result<Vec<&'static str>, StateError> {
    let mut damaged = Vec::new();
    for name in NAMES {
        match Manifest::read(storage, name) {
            Ok(Some(_)) => return Err(StateError::NotLost { name }),
            Ok(None) => {}
            Err(error) if error.is_damage() => damaged.push(name),
            Err(error) => return Err(error),
        }
    }
    Ok(damaged)
}

/// Every number that a generation of the folder has, or had when it was cut.
pub(super) fn numbers(storage: &dyn Storage) -> Result<BTreeSet<u64>, StateError> {
    let names = [storage.list("learner")?, storage.list("adapters")?].concat();
    let numbers = names.iter().filter_map(|name| name.parse().ok());
    Ok(numbers.filter(|number| (1..=COUNT_MAX).contains(number)).collect())
}

/// The highest number of what an earlier try has put under another name: it is not given again.
fn highest_damaged(storage: &dyn Storage) -> Result<u64, StateError> {
    let names = [storage.list("learner")?, storage.list("adapters")?].concat();
    let numbers = names.iter().filter_map(|name| name.strip_suffix(".damaged")?.parse().ok());
    Ok(numbers.filter(|number| *number <= COUNT_MAX).max().unwrap_or_default())
}

/// What is there of a generation: its learner record, its adapter's folder.
fn parts(storage: &dyn Storage, number: u64) -> Result<Vec<String>, StateError> {
    let mut parts = Vec::new();
    for folder in ["learner", "adapters"] {
        if storage.list(folder)?.contains(&number.to_string()) {
            parts.push(format!("{folder}/{number}"));
        }
    }
    Ok(parts)
}

/// A generation as its files say, and the highest domain that its learner has met.
fn generation(
    storage: &dyn Storage,
    number: u64,
    parent: u64,
    whole: &Whole<'_>,
) -> Result<(Generation, u32), String> {
    let name = number.to_string();
    let bytes = storage.read(&format!("learner/{name}")).map_err(|error| error.to_string())?;
    let learner = LearnerRecord::parse(&bytes).map_err(|error| error.to_string())?;
    learner.check().map_err(|error| error.to_string())?;
    let folder = format!("adapters/{name}");
    let mut files = Vec::new();
    for file in storage.list(&folder).map_err(|error| error.to_string())? {
        let path = format!("{folder}/{file}");
        let length = storage.len(&path).map_err(|error| error.to_string())?.unwrap_or(0);
        let fits = check_name(&file)
            .and_then(|()| limit("bytes of a file", ADAPTER_FILE_BYTES_MAX, length))
            .and_then(|()| limit("files of an adapter", FILES_MAX as u64, files.len() as u64 + 1));
        fits.map_err(|error| error.to_string())?;
        let bytes = storage.read(&path).map_err(|error| error.to_string())?;
        files.push((file, bytes));
    }
    whole(&learner, &files)?;
    let domain = learner.domains.iter().map(|domain| domain.number).max().unwrap_or_default();
    let generation = Generation {
        number,
        parent,
        step: learner.step,
        verdict: "found again without its manifest".to_owned(),
        files: files.iter().map(|(name, bytes)| FileDigest::of(name, bytes)).collect(),
        learner: FileDigest::of(&name, &bytes),
    };
    Ok((generation, domain))
}

/// The first manifest of a folder in which nothing was committed: from then on one that is missing is lost.
pub(super) fn first(storage: &dyn Storage) -> Result<Manifest, StateError> {
    let manifest = Manifest { sequence: 1, ..Manifest::default() };
    manifest.write(storage, NAMES[0])?;
    Ok(manifest)
}
