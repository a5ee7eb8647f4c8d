//! A disk that fails under a life in a fleet: EIO and ENOSPC at every operation, once and from then on.
//!
//! - What others know of the device is on the disk, at once and after a power cut; and once the fault is
//!   gone the life comes to its end, whether the program goes on or starts again.

use super::life::{Device, Moment};
use super::look;
use super::record::Record;
use crate::errors::{KINDS, fault};
use crate::place::Place;
use crate::tally::Tally;
use sapwood::ports::cut_disk::CutDisk;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Power cuts after a failed run.
const LUCKS: u64 = 3;

/// Lets each kind of failure happen at every `stride`-th operation, each kind at others.
pub fn campaign(record: &Record, stride: usize, tally: &mut Tally) {
    for kind in 0..KINDS.len() {
        for at in (kind % stride..record.operations).step_by(stride) {
            if tally.is_full() {
                return;
            }
            one(record, kind, at, tally);
        }
    }
}

/// One run into a failure.
pub fn one(record: &Record, kind: usize, at: usize, tally: &mut Tally) {
    let name = KINDS[kind.min(KINDS.len() - 1)];
    *tally.failures.entry(name).or_default() += 1;
    let run = catch_unwind(AssertUnwindSafe(|| run(record, kind, at)));
    if let Err(what) = run.unwrap_or_else(|_| Err("panics".to_owned())) {
        let place = Place::FleetError { life: record.seed, kind, at };
        tally.violation(place, format!("{name}: {what}"));
    }
}

fn run(record: &Record, kind: usize, at: usize) -> Result<(), String> {
    let disk = Arc::new(look::furnished()?);
    let mut device = Device::start(disk.clone(), Moment::default(), None)?;
    disk.set(Some(fault(kind, at)));
    device.live(&record.plan, 0);
    disk.set(None);
    device.judge()?;
    let mut after: Vec<CutDisk> = (0..LUCKS).map(|luck| disk.after_cut(luck)).collect();
    after.push(disk.copy());
    for cut in &after {
        look::check(cut, &device.office().desk()).map_err(|what| format!("then a cut: {what}"))?;
    }
    let cut = after.swap_remove(at % after.len());
    let mut other = device.again(Arc::new(cut))?;
    device.settle().map_err(|what| format!("then without a restart: {what}"))?;
    other.settle().map_err(|what| format!("then a restart: {what}"))
}
