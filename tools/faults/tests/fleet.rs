//! The campaign of the gate under lives in a fleet, and proof that it can fail.

use sapwood::ports::Storage;
use sapwood::ports::cut_disk::CutDisk;
use sapwood_faults::flawed::{Flaw, Flawed};
use sapwood_faults::fleet::plan::plan;
use sapwood_faults::fleet::record::Record;
use sapwood_faults::fleet::{cuts, errors};
use sapwood_faults::tally::Tally;
use std::sync::Arc;

const SEED: u64 = 1;
const ROUNDS: u64 = 3;

/// 5,000 distinct disks, from seed 1 on.
#[test]
fn a_power_cut_at_any_step_repeats_nothing_and_loses_nothing() -> Result<(), String> {
    let mut tally = Tally::default();
    for seed in SEED.. {
        let record = Record::new(seed, ROUNDS)?;
        // Not all of one life: the next has other acts.
        cuts::campaign(&record, tally.distinct() + 1_000, &mut tally);
        if tally.distinct() >= 5_000 || tally.is_full() {
            break;
        }
    }
    assert!(tally.violations.is_empty(), "\n{tally}");
    assert!(tally.recovered > 100 && tally.again > 100 && tally.went_on > 200, "\n{tally}");
    Ok(())
}

/// Every 12th operation of a life, each kind of failure at others.
#[test]
fn a_failing_disk_is_got_over_and_repeats_nothing() -> Result<(), String> {
    let mut tally = Tally::default();
    errors::campaign(&Record::new(SEED, ROUNDS)?, 12, &mut tally);
    assert!(tally.violations.is_empty(), "\n{tally}");
    assert!(tally.failures.values().sum::<u64>() > 100, "\n{tally}");
    Ok(())
}

fn finds(flaw: Flaw) -> Result<bool, String> {
    let wrap = |disk: Arc<CutDisk>| -> Arc<dyn Storage> { Arc::new(Flawed { disk, flaw }) };
    let mut tally = Tally::default();
    for seed in SEED..SEED + 4 {
        let record = Record::on(seed, plan(seed, 2), wrap)?;
        cuts::campaign(&record, u64::MAX, &mut tally);
        if !tally.violations.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn a_sync_left_out_anywhere_is_found() -> Result<(), String> {
    for flaw in [
        Flaw::NoSync("book.new"),
        Flaw::NoSync("key.new"),
        Flaw::NoSync("key.next.new"),
        Flaw::NoSync("incoming/"),
        Flaw::NoSync("outgoing/"),
        Flaw::NoFolderSync(""),
        Flaw::NoFolderSync("incoming"),
        Flaw::NoFolderSync("outgoing"),
        Flaw::RenameInTwo,
        Flaw::WritesInPlace,
    ] {
        assert!(finds(flaw)?, "{flaw:?} is not found");
    }
    Ok(())
}
