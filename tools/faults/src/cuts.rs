//! Power cuts: at every step of a life, with every legal subset of what was not synced; and again
//! while the restart recovers.
//!
//! - Up to `SUBSETS` subsets of a cut are all tried; beyond that, and for torn writes, seeds choose.
//! - A state is opened, compared with what may be found, opened again; some lives go on from it.

use crate::life::live;
use crate::look::{Found, Look, PASSED_OVER, look};
use crate::place::Place;
use crate::reference::{Mark, Reference};
use crate::tally::Tally;
use sapwood::ports::Storage;
use sapwood::ports::cut_disk::{Cut, CutDisk, Fate};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Subsets of one cut that are tried, all if there are no more.
const SUBSETS: u64 = 64;
/// Seeds of torn writes at one cut.
const TEARS: u64 = 24;
/// Disks of a second cut at one step of recovery.
const LUCKS_AGAIN: u64 = 4;
/// One of so many states that recovery changes is cut again at every step of it.
const AGAIN_EVERY: u64 = 8;
/// From one of so many states the life goes on to its end.
const GO_ON_EVERY: u64 = 128;

/// Cuts a life everywhere, until `most` distinct states were seen.
pub fn campaign(reference: &Reference, most: u64, tally: &mut Tally) {
    let mut checked = HashSet::new();
    for (at, cut) in reference.history.cuts(0) {
        tally.cuts += 1;
        for luck in lucks(&cut) {
            if tally.is_full() || tally.distinct() >= most {
                return;
            }
            let disk = cut.disk(&fates(&cut, luck));
            let (digest, (mark, may)) = (disk.digest(), reference.may(at));
            tally.state(digest);
            if checked.insert((digest, mark, may.len())) {
                let place = Place::Cut { life: reference.seed, cut: at, luck, again: None };
                state(reference, place, disk, tally);
            }
        }
    }
}

/// Only that state; whether there is such a one.
pub fn only(reference: &Reference, place: Place, tally: &mut Tally) -> bool {
    let Place::Cut { cut: at, luck, again, .. } = place else { return false };
    if at > reference.history.len() {
        return false;
    }
    let cut = reference.history.cut(at);
    let disk = cut.disk(&fates(&cut, luck));
    match again {
        None => state(reference, place, disk, tally),
        Some(_) => match examine(&Arc::new(disk.copy()), &founds(reference.may(at).1)) {
            Ok(found) => second_cuts(place, disk, &found, tally),
            Err(what) => tally.violation(place, what),
        },
    }
    true
}

/// The numbers of the disks that a cut may leave.
pub(crate) fn lucks(cut: &Cut) -> Vec<u64> {
    let all = 1_u64.checked_shl(cut.pending() as u32).unwrap_or(u64::MAX).min(SUBSETS);
    let torn = if cut.tearable() > 0 { TEARS } else { 0 };
    (0..all).chain(SUBSETS..SUBSETS + torn).collect()
}

/// What becomes of each change of a cut, by such a number.
pub(crate) fn fates(cut: &Cut, luck: u64) -> Vec<Fate> {
    let all = 1_u64.checked_shl(cut.pending() as u32).unwrap_or(u64::MAX);
    match luck {
        luck if luck < SUBSETS && all <= SUBSETS => cut.subset(luck),
        0 => cut.subset(0),
        1 => cut.subset(u64::MAX),
        luck => cut.by_chance(luck),
    }
}

fn founds(may: &[Mark]) -> Vec<&Found> {
    may.iter().map(|mark| &mark.found).collect()
}

/// Checks one state.
fn state(reference: &Reference, place: Place, disk: CutDisk, tally: &mut Tally) {
    let Place::Cut { cut, .. } = place else { return };
    let (mark, may) = reference.may(cut);
    let opened = Arc::new(disk.copy().recording());
    let found = match examine(&opened, &founds(may)) {
        Ok(found) => found,
        Err(what) => {
            let act = may.last().map(|mark| &mark.act);
            return tally.violation(place, format!("{what} (cut in {act:?})"));
        }
    };
    if opened.steps() > 0 {
        tally.recovered += 1;
        let twice = Arc::new(opened.copy().recording());
        if let Err(what) = examine(&twice, &[&found]) {
            tally.violation(place, format!("opened twice: {what}"));
        } else if twice.steps() > 0 && twice.digest() != opened.digest() {
            tally.violation(place, "the second opening changes the disk again".to_owned());
        }
        if tally.recovered.is_multiple_of(AGAIN_EVERY) {
            second_cuts(place, disk.copy(), &found, tally);
        }
    }
    // A plan says which numbers its samples have: with some passed over it is another life.
    let same = || open(&Arc::new(disk.copy())).is_ok_and(|look| !look.skips_numbers);
    if tally.states.is_multiple_of(GO_ON_EVERY) && same() {
        tally.went_on += 1;
        if let Err(what) = go_on(reference, mark, &Arc::new(disk)) {
            tally.violation(place, what);
        }
    }
}

/// Cuts the recovery of a disk at every step; each time the same must be found.
fn second_cuts(place: Place, disk: CutDisk, found: &Found, tally: &mut Tally) {
    let Place::Cut { life, cut, luck, .. } = place else { return };
    let recovering = Arc::new(disk.recording());
    let storage: Arc<dyn Storage> = recovering.clone();
    // What it finds was checked before; here it is only recorded.
    drop(look(&storage));
    for (at, again) in recovering.history().cuts(0) {
        for second in 0..LUCKS_AGAIN {
            let disk = again.disk(&fates(&again, second));
            tally.again += 1;
            tally.state(disk.digest());
            if let Err(what) = examine(&Arc::new(disk), &[found]) {
                let place = Place::Cut { life, cut, luck, again: Some((at, second)) };
                tally.violation(place, format!("cut in recovery: {what}"));
            }
        }
    }
}

/// Opens a disk; what is found must be one of `may`, whole, with nothing left over.
///
/// # Errors
/// What is wrong.
pub fn examine(disk: &Arc<CutDisk>, may: &[&Found]) -> Result<Found, String> {
    let Look { found, reports, .. } = open(disk)?;
    if let Some(report) = reports.iter().find(|report| !report.starts_with(PASSED_OVER)) {
        return Err(format!("reports damage: {report}"));
    }
    let differences: Vec<String> = may.iter().filter_map(|may| found.difference(may)).collect();
    if differences.len() == may.len() {
        return Err(format!("finds what never was: differs in {}", differences.join(" / in ")));
    }
    leftovers(disk, &found)?;
    Ok(found)
}

/// What is found on a disk.
///
/// # Errors
/// What the opening said, or that it panicked.
pub fn open(disk: &Arc<CutDisk>) -> Result<Look, String> {
    let storage: Arc<dyn Storage> = disk.clone();
    match catch_unwind(AssertUnwindSafe(|| look(&storage))) {
        Ok(Ok(look)) => Ok(look),
        Ok(Err(error)) => Err(format!("does not open: {error}")),
        Err(_) => Err("panics".to_owned()),
    }
}

/// Nothing half-written stays, and no more than one generation beyond those kept: the one that only
/// the older manifest names.
fn leftovers(disk: &CutDisk, found: &Found) -> Result<(), String> {
    let paths = disk.paths();
    if let Some(path) = paths.iter().find(|path| path.contains(".new")) {
        return Err(format!("{path} is left over"));
    }
    let kept =
        |number: &String| found.generations.iter().any(|kept| kept.number.to_string() == *number);
    for folder in ["adapters", "learner"] {
        let names = disk.list(folder).map_err(|error| error.to_string())?;
        let spare: Vec<&String> = names.iter().filter(|name| !kept(name)).collect();
        if spare.len() > 1 {
            return Err(format!("{spare:?} of {folder} are left over"));
        }
    }
    let segments = paths.iter().filter_map(|path| path.strip_prefix("inbox/"));
    let segments = segments.filter(|name| name.parse::<u64>().is_ok()).count();
    if found.waiting.is_empty() && segments > 0 {
        return Err("a segment of the inbox is left over".to_owned());
    }
    let has_checkpoint = paths.iter().any(|path| path == "checkpoint");
    if has_checkpoint != found.checkpoint.is_some() {
        return Err("a checkpoint is left over".to_owned());
    }
    Ok(())
}

/// Lives on from a disk on which the act of that mark was done, and compares the end.
///
/// # Errors
/// What is wrong.
pub fn go_on(reference: &Reference, mark: usize, disk: &Arc<CutDisk>) -> Result<(), String> {
    let storage: Arc<dyn Storage> = disk.clone();
    let from = reference.round_after(mark);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        live(&storage, &reference.plan, from, false, &mut |_, _| {})
    }));
    match lived {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(format!("the life does not go on: {error}")),
        Err(_) => return Err("the life panics when it goes on".to_owned()),
    }
    let Look { found, .. } = open(&Arc::new(disk.copy()))?;
    match reference.end().and_then(|end| found.difference(end)) {
        Some(what) => Err(format!("the life that went on ends with another {what}")),
        None => Ok(()),
    }
}
