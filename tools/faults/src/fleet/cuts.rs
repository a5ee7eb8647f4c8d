//! Power cuts at every step of a life in a fleet, with every legal subset of what was not synced.
//!
//! - Each disk is compared with what the server knows, and with the books that may be found; the
//!   program starts on it; from some of them the life goes on to its end, cut once more on the way.

use super::life::Device;
use super::look;
use super::record::Record;
use crate::cuts::{fates, lucks};
use crate::place::Place;
use crate::tally::Tally;
use sapwood::ports::cut_disk::{CutDisk, Fault};
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// From one of so many disks the life goes on to its end.
const GO_ON_EVERY: u64 = 12;
/// One of so many of those is cut once more.
const AGAIN_EVERY: u64 = 2;
/// Operations among which the second cut falls.
const AGAIN_WITHIN: u64 = 90;

/// A life, and what of its books may be found where it is being cut.
struct May<'r> {
    record: &'r Record,
    /// Moments passed.
    passed: usize,
    books: Vec<Option<Vec<u8>>>,
}

impl May<'_> {
    /// Goes on to a cut, on whose disk, with all changes kept, this book is found.
    fn pass(&mut self, at: usize, kept: Option<Vec<u8>>) {
        let (passed, told) = self.record.told(at);
        if passed != self.passed {
            (self.passed, self.books) = (passed, vec![told.map(<[u8]>::to_vec)]);
        }
        if !self.books.contains(&kept) {
            self.books.push(kept);
        }
    }
}

/// Cuts a life everywhere, until `most` distinct states were seen.
pub fn campaign(record: &Record, most: u64, tally: &mut Tally) {
    let mut may = May { record, passed: usize::MAX, books: Vec::new() };
    let mut checked = HashSet::new();
    for (at, cut) in record.history.cuts(0) {
        may.pass(at, look::book(&cut.whole()));
        tally.cuts += 1;
        for luck in lucks(&cut) {
            if tally.is_full() || tally.distinct() >= most {
                return;
            }
            let disk = cut.disk(&fates(&cut, luck));
            let digest = disk.digest();
            tally.state(digest);
            if checked.insert((digest, may.passed, may.books.len())) {
                state(&may, (at, luck), &disk, tally);
            }
        }
    }
}

/// Only that state; whether there is such a one.
pub fn only(record: &Record, (wanted, luck): (usize, u64), tally: &mut Tally) -> bool {
    let mut may = May { record, passed: usize::MAX, books: Vec::new() };
    for (at, cut) in record.history.cuts(0).take_while(|(at, _)| *at <= wanted) {
        may.pass(at, look::book(&cut.whole()));
        if at == wanted {
            let disk = cut.disk(&fates(&cut, luck));
            state(&may, (at, luck), &disk, tally);
            goes_on(&may, (at, luck), &disk, tally);
            return true;
        }
    }
    false
}

/// Checks one state.
fn state(may: &May<'_>, (at, luck): (usize, u64), disk: &CutDisk, tally: &mut Tally) {
    let (life, record) = (may.record.seed, may.record);
    let place = Place::Fleet { life, cut: at, luck };
    let [least, most] = record.known(at);
    let act = |moment: usize| format!("{:?}", record.plan.get(moment));
    let looked = catch_unwind(AssertUnwindSafe(|| {
        if !may.books.contains(&look::book(disk)) {
            return Err("the book is none that was kept last or is being kept".to_owned());
        }
        look::check(disk, &most.desk)?;
        look::open(disk, most)
    }));
    match looked.unwrap_or_else(|_| Err("panics".to_owned())) {
        Ok(changed) => tally.recovered += u64::from(changed),
        Err(what) => return tally.violation(place, format!("{what} (cut in {})", act(least.act))),
    }
    if tally.states.is_multiple_of(GO_ON_EVERY) {
        goes_on(may, (at, luck), disk, tally);
    }
}

/// Lives on from a state to the end.
fn goes_on(may: &May<'_>, (at, luck): (usize, u64), disk: &CutDisk, tally: &mut Tally) {
    let place = Place::Fleet { life: may.record.seed, cut: at, luck };
    let again = (at as u64 + luck).is_multiple_of(AGAIN_EVERY);
    let second = again.then_some((at as u64 * 31 + luck * 7) % AGAIN_WITHIN);
    tally.went_on += 1;
    tally.again += u64::from(again);
    let lived = catch_unwind(AssertUnwindSafe(|| {
        go_on(may.record, (at, luck), disk.copy(), second.map(|at| at as usize))
    }));
    if let Err(what) = lived.unwrap_or_else(|_| Err("panics".to_owned())) {
        tally.violation(place, format!("the life that went on: {what}"));
    }
}

/// Lives on with the act that was cut or the one after it, as the others know least or most of it.
///
/// # Errors
/// What is wrong.
fn go_on(
    record: &Record,
    (at, luck): (usize, u64),
    disk: CutDisk,
    second: Option<usize>,
) -> Result<(), String> {
    let moment = record.known(at)[(luck / 2 % 2) as usize];
    let from = moment.act + (luck % 2) as usize;
    let disk = Arc::new(disk);
    disk.set(second.map(Fault::Cut));
    let mut device = Device::start(disk.clone(), moment.clone(), None)?;
    device.live(&record.plan, from);
    if disk.is_off() {
        device.judge()?;
        let after = Arc::new(disk.after_cut(luck));
        look::check(&after, &device.office().desk())?;
        device = device.again(after)?;
    }
    disk.set(None);
    device.settle()
}
