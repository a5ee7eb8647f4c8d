//! Recovery: which manifest and which generation to go on from, and what may be swept away.
//!
//! - The newest manifest whose generation in use is sound, else the other, else the newest older
//!   generation that one of them keeps. Never forward: what no manifest names is not used.
//! - A disk that refuses for now (no permission, too many files) is an error and no reason to fall
//!   back; bytes that are lost or changed are.
//! - A manifest that cannot be read today may be read tomorrow: nothing is swept away then.
//! - Invariant: recovery changes nothing that a sound manifest names, so it can be cut and repeated.

use super::manifest::{Generation, Manifest, NAMES};
use super::publish::NEW;
use super::{CHECKPOINT, StateError, rebuild};
use crate::ports::{Storage, StorageResult};
use std::cmp::Reverse;

/// What was found.
pub(crate) struct Found {
    /// The manifest to go on from, its generation in use a sound one.
    pub(crate) manifest: Manifest,
    /// Which of the two files holds it; none when there is no manifest yet.
    pub(crate) slot: Option<usize>,
    /// The highest sequence of both manifests.
    pub(crate) sequence: u64,
    /// Why it is not the newest.
    pub(crate) fell_back: Vec<String>,
    /// Every generation that a manifest names; none when one of them cannot be read, for then
    /// nobody knows what it names.
    pub(crate) named: Option<Vec<u64>>,
}

/// Reads both manifests and chooses.
pub(crate) fn find(storage: &dyn Storage) -> Result<Found, StateError> {
    let (mut read, mut reasons) = (Vec::new(), Vec::new());
    for (slot, name) in NAMES.into_iter().enumerate() {
        match Manifest::read(storage, name) {
            Ok(Some(manifest)) => read.push((slot, manifest)),
            Ok(None) => {}
            Err(error) if error.is_damage() => {
                let reason = error.to_string();
                let named = reason.starts_with(name);
                reasons.push(if named { reason } else { format!("{name}: {reason}") });
            }
            Err(error) => return Err(error),
        }
    }
    if read.is_empty() && reasons.is_empty() {
        // Each folder has a manifest before its first generation.
        let generations: Vec<u64> = rebuild::numbers(storage)?.into_iter().collect();
        if !generations.is_empty() {
            return Err(StateError::NoManifest { generations });
        }
        let (manifest, named) = (Manifest::default(), Some(Vec::new()));
        return Ok(Found { manifest, slot: None, sequence: 0, fell_back: reasons, named });
    }
    // From the second manifest on there are two.
    if let ([(slot, manifest)], true) = (read.as_slice(), reasons.is_empty())
        && manifest.sequence > 1
    {
        reasons.push(format!("{} is missing", NAMES[1 - slot]));
    }
    read.sort_by_key(|(_, manifest)| Reverse(manifest.sequence));
    choose(storage, &read, reasons)
}

fn choose(
    storage: &dyn Storage,
    read: &[(usize, Manifest)],
    mut reasons: Vec<String>,
) -> Result<Found, StateError> {
    let all_read = reasons.is_empty();
    let mut failed = Vec::new();
    for (slot, manifest, number) in candidates(read) {
        match sound(storage, manifest, number) {
            Ok(()) => {
                let mut manifest = manifest.clone();
                manifest.current = number;
                manifest.leave_trial("its files are damaged");
                manifest.generations.retain(|kept| !failed.contains(&kept.number));
                manifest.last = highest(read, |manifest| manifest.last);
                if !reasons.is_empty() {
                    let numbers = rebuild::numbers(storage)?.into_iter();
                    let beyond: Vec<u64> = numbers.filter(|&on| on > manifest.last).collect();
                    // Whatever they are, nothing is written over them.
                    manifest.last = beyond.last().copied().unwrap_or(manifest.last);
                    reasons.push(in_use(number, &beyond));
                }
                let domains = read.iter().map(|(_, manifest)| manifest.domain);
                manifest.domain = domains.max().unwrap_or_default();
                let sequence = highest(read, |manifest| manifest.sequence);
                let kept = read.iter().flat_map(|(_, manifest)| &manifest.generations);
                let named = all_read.then(|| kept.map(|generation| generation.number).collect());
                return Ok(Found {
                    manifest,
                    slot: Some(slot),
                    sequence,
                    fell_back: reasons,
                    named,
                });
            }
            Err(error) if error.is_damage() => {
                failed.push(number);
                reasons.push(format!("generation {number}: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    if read.is_empty() {
        reasons.push("`firmware-host recover --from-adapters` looks for whole ones".to_owned());
    }
    Err(StateError::NoSound { reasons: reasons.join("; ") })
}

/// What is gone on with after damage, and what else lies there.
fn in_use(number: u64, beyond: &[u64]) -> String {
    let now = match number {
        0 => "the bare base is in use".to_owned(),
        number => format!("generation {number} is in use"),
    };
    match beyond {
        [] => now,
        _ => format!("{now}; {beyond:?} on disk stand in no manifest that can be read"),
    }
}

/// Manifest and generation in the order of trust: those in use, then the older ones, newest first.
fn candidates(read: &[(usize, Manifest)]) -> Vec<(usize, &Manifest, u64)> {
    let in_use = read.iter().map(|(slot, manifest)| (*slot, manifest, manifest.current));
    let older = read.iter().flat_map(|(slot, manifest)| {
        let numbers = manifest.generations.iter().rev().map(|generation| generation.number);
        numbers.filter(|number| *number < manifest.current).map(move |n| (*slot, manifest, n))
    });
    in_use.chain(older).collect()
}

fn highest(read: &[(usize, Manifest)], number: impl Fn(&Manifest) -> u64) -> u64 {
    read.iter().map(|(_, manifest)| number(manifest)).max().unwrap_or_default()
}

/// Whether every file of a generation is what was committed; the bare base, 0, always is.
pub(crate) fn sound(
    storage: &dyn Storage,
    manifest: &Manifest,
    number: u64,
) -> Result<(), StateError> {
    if number == 0 {
        return Ok(());
    }
    let generation: &Generation = manifest.generation(number)?;
    let whole = || {
        generation.learner.read(storage, "learner")?;
        let mut files = generation.files.iter();
        files.try_for_each(|file| file.read(storage, &generation.folder()).map(drop))
    };
    // A disk may refuse once; what is gone is gone the second time too.
    whole().or_else(|_| whole())
}

/// Removes what a cut job left and no manifest names; what was removed.
///
/// What cannot be removed now is no harm and is tried again at the next start.
pub(crate) fn sweep(storage: &dyn Storage, named: &[u64]) -> Vec<String> {
    let mut swept = Vec::new();
    let mut gone = |path: String, result: StorageResult<()>| {
        if result.is_ok() {
            swept.push(path);
        }
    };
    for name in
        NAMES.into_iter().chain([CHECKPOINT, "reservoir"]).map(|name| format!("{name}{NEW}"))
    {
        if storage.len(&name).is_ok_and(|length| length.is_some()) {
            let result = storage.remove(&name);
            gone(name, result);
        }
    }
    // Only a number is a name of ours: what else lies there is another's.
    let spare = |name: &String| {
        let number = name.strip_suffix(NEW).unwrap_or(name).parse::<u64>();
        number.is_ok_and(|number| name.ends_with(NEW) || !named.contains(&number))
    };
    for name in storage.list("adapters").unwrap_or_default().iter().filter(|name| spare(name)) {
        let path = format!("adapters/{name}");
        let result = storage.remove_dir_all(&path);
        gone(path, result);
    }
    for name in storage.list("learner").unwrap_or_default().iter().filter(|name| spare(name)) {
        let path = format!("learner/{name}");
        let result = storage.remove(&path);
        gone(path, result);
    }
    swept
}
