//! A disk that fails: EIO and ENOSPC at every operation of a life, once and from then on.
//!
//! - A run ends with an error or lives on; what was confirmed holds, at once and after a power cut.
//! - Once the fault is gone the life goes on and ends as if there had been none.

use crate::cuts::{examine, go_on};
use crate::life::live;
use crate::place::Place;
use crate::reference::Reference;
use crate::tally::Tally;
use sapwood::ports::Storage;
use sapwood::ports::cut_disk::{CutDisk, Failure, Fault};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// How a disk fails, by name.
pub const KINDS: [&str; 5] =
    ["EIO once", "EIO from then on", "ENOSPC once", "ENOSPC from then on", "a full disk"];
/// Power cuts after a failed run.
const LUCKS: u64 = 4;

/// The failure of a kind at an operation.
pub(crate) fn fault(kind: usize, at: usize) -> Fault {
    let full = Failure::Kind(ErrorKind::StorageFull);
    match kind {
        0 => Fault::Once(at, Failure::Eio),
        1 => Fault::From(at, Failure::Eio),
        2 => Fault::Once(at, full),
        3 => Fault::From(at, full),
        _ => Fault::Full(at),
    }
}

/// Lets each kind of failure happen at every `stride`-th operation, each kind at others.
pub fn campaign(reference: &Reference, stride: usize, tally: &mut Tally) {
    for kind in 0..KINDS.len() {
        for at in (kind % stride..reference.operations).step_by(stride) {
            if tally.is_full() {
                return;
            }
            one(reference, kind, at, tally);
        }
    }
}

/// One run into a failure.
pub fn one(reference: &Reference, kind: usize, at: usize, tally: &mut Tally) {
    let name = KINDS[kind.min(KINDS.len() - 1)];
    *tally.failures.entry(name).or_default() += 1;
    let place = Place::Error { life: reference.seed, kind, at };
    let disk = Arc::new(CutDisk::new());
    disk.set(Some(fault(kind, at)));
    let storage: Arc<dyn Storage> = disk.clone();
    let mut acts = 0;
    let lived = catch_unwind(AssertUnwindSafe(|| {
        live(&storage, &reference.plan, 0, true, &mut |_, _| acts += 1)
    }));
    disk.set(None);
    let said = match lived {
        Ok(Ok(())) => "no error".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => return tally.violation(place, format!("panics after {name}")),
    };
    if acts >= reference.marks.len() {
        return tally.violation(place, format!("{name} ({said}): another life than planned"));
    }
    // The first mark is before the first act.
    let next = (acts + 1).min(reference.marks.len() - 1);
    let may = [&reference.marks[acts].found, &reference.marks[next].found];
    let act = &reference.marks[next].act;
    let mut check = |disk: CutDisk, when: &str| {
        if let Err(what) = examine(&Arc::new(disk), &may) {
            tally.violation(place, format!("{name} in {act:?} ({said}), {when}: {what}"));
        }
    };
    check(disk.copy(), "then a restart");
    (0..LUCKS).for_each(|luck| check(disk.after_cut(luck), "then a power cut"));
    tally.went_on += 1;
    if let Err(what) = go_on(reference, acts, &Arc::new(disk.copy())) {
        tally.violation(place, format!("{name} in {act:?} ({said}), then a restart: {what}"));
    }
}
