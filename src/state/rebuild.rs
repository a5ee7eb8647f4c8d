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
use crate::reservoir::Reservoir;
use sapwood_protocol::limits::{
    ADAPTER_FILE_BYTES_MAX, COUNT_MAX, FILES_MAX, GENERATIONS_KEPT_MAX,
};
use std::collections::BTreeSet;

/// The ending of what is kept and not used.
const DAMAGED: &str = ".damaged";

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
    /// [`StateError::NotLost`] when a manifest can be read, and the reservoir too;
    /// [`StateError::NoSound`] when no generation is whole; [`StateError::Record`] when a later version
    /// wrote one; [`StateError::Storage`] for a disk that refuses for now. After each but the last nothing
    /// has changed, and after that one it can be tried again.
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
        let names = [storage.list(FOLDERS[0])?, storage.list(FOLDERS[1])?];
        let damaged_before = names.iter().flatten().filter_map(|name| name.split_once(DAMAGED));
        manifest.last =
            numbers_of(damaged_before.map(|(name, _)| name)).last().copied().unwrap_or(0);
        for number in numbers_of(names.iter().flatten().map(String::as_str)) {
            manifest.last = manifest.last.max(number);
            match generation(storage, number, manifest.current, whole)? {
                Ok((generation, domain)) => {
                    (manifest.current, manifest.domain) = (number, manifest.domain.max(domain));
                    manifest.generations.push(generation);
                    rebuilt.generations.push(number);
                }
                Err(reason) => {
                    rebuilt.passed_over.push(format!("generation {number}: {reason}"));
                    let name = number.to_string();
                    let there = FOLDERS.into_iter().zip(&names);
                    let parts = there.filter(|(_, names)| names.contains(&name));
                    spoiled.extend(parts.map(|(folder, _)| format!("{folder}/{name}")));
                }
            }
        }
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
        for path in spoiled.into_iter().chain(damaged.into_iter().map(str::to_owned)) {
            rebuilt.kept.push(keep(storage, &path)?);
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
    let check = manifest.ledger.as_ref().map(|ledger| Reservoir::check(storage, ledger));
    let is_lost = match check {
        Some(Err(error)) if !error.is_lost() => return Err(error.into()),
        other => matches!(other, Some(Err(_))),
    };
    if !is_lost {
        return Err(StateError::NotLost { name });
    }
    let mut rebuilt = Rebuilt { reservoir_only: true, ..Rebuilt::default() };
    if storage.len(Reservoir::FILE)?.is_some() {
        rebuilt.kept.push(keep(storage, Reservoir::FILE)?);
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

/// Where the parts of a generation lie, each under its number.
const FOLDERS: [&str; 2] = ["learner", "adapters"];

/// Every number that a generation of the folder has, or had when it was cut.
pub(super) fn numbers(storage: &dyn Storage) -> Result<BTreeSet<u64>, StateError> {
    let names = [storage.list(FOLDERS[0])?, storage.list(FOLDERS[1])?].concat();
    Ok(numbers_of(names.iter().map(String::as_str)))
}

fn numbers_of<'n>(names: impl Iterator<Item = &'n str>) -> BTreeSet<u64> {
    let numbers = names.filter_map(|name| name.parse().ok());
    numbers.filter(|number| (1..=COUNT_MAX).contains(number)).collect()
}

/// Gives what is not used another name, which nothing else has; that name.
pub(super) fn keep(storage: &dyn Storage, path: &str) -> Result<String, StateError> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let there = storage.list(folder)?;
    let first = format!("{name}{DAMAGED}");
    let next = (2_u64..).map(|number| format!("{first}.{number}"));
    let free = std::iter::once(first.clone()).chain(next).find(|name| !there.contains(name));
    let free = free.unwrap_or(first);
    let kept = if folder.is_empty() { free } else { format!("{folder}/{free}") };
    storage.rename(path, &kept)?;
    Ok(kept)
}

/// A generation as its files say, and the highest domain that its learner has met; or why it is not
/// whole.
fn generation(
    storage: &dyn Storage,
    number: u64,
    parent: u64,
    whole: &Whole<'_>,
) -> Result<Result<(Generation, u32), String>, StateError> {
    let (learner, bytes, files) = match read(storage, number) {
        Ok(read) => read,
        Err(error) if error.is_damage() => return Ok(Err(error.to_string())),
        Err(error) => return Err(error),
    };
    if let Err(reason) = whole(&learner, &files) {
        return Ok(Err(reason));
    }
    let domain = learner.domains.iter().map(|domain| domain.number).max().unwrap_or_default();
    let generation = Generation {
        number,
        parent,
        step: learner.step,
        verdict: "found again without its manifest".to_owned(),
        files: files.iter().map(|(name, bytes)| FileDigest::of(name, bytes)).collect(),
        learner: FileDigest::of(&number.to_string(), &bytes),
        global: learner.global,
        since: learner.since,
    };
    Ok(Ok((generation, domain)))
}

/// A learner, the bytes of its record, and the files of its adapter.
type Parts = (LearnerRecord, Vec<u8>, Vec<(String, Vec<u8>)>);

fn read(storage: &dyn Storage, number: u64) -> Result<Parts, StateError> {
    let path = format!("learner/{number}");
    let bytes = storage.read(&path)?;
    let learner = LearnerRecord::parse(&bytes);
    let learner = learner.map_err(|source| StateError::Record { path, source })?;
    learner.check()?;
    let (folder, mut files) = (format!("adapters/{number}"), Vec::new());
    for file in storage.list(&folder)? {
        let path = format!("{folder}/{file}");
        check_name(&file)?;
        limit("bytes of a file", ADAPTER_FILE_BYTES_MAX, storage.len(&path)?.unwrap_or(0))?;
        limit("files of an adapter", FILES_MAX as u64, files.len() as u64 + 1)?;
        let bytes = storage.read(&path)?;
        files.push((file, bytes));
    }
    Ok((learner, bytes, files))
}

/// The first manifest of a folder in which nothing was committed: from then on one that is missing is lost.
pub(super) fn first(storage: &dyn Storage) -> Result<Manifest, StateError> {
    let manifest = Manifest { sequence: 1, ..Manifest::default() };
    manifest.write(storage, NAMES[0])?;
    Ok(manifest)
}
