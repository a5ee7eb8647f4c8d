//! The campaign of the gate: as much of it as a gate has time for, and proof that it can fail.

use sapwood::ports::Storage;
use sapwood::ports::cut_disk::CutDisk;
use sapwood_faults::flawed::{Flaw, Flawed};
use sapwood_faults::flips::{OTHER_EVERY, Rich};
use sapwood_faults::plan::plan;
use sapwood_faults::reference::Reference;
use sapwood_faults::tally::Tally;
use sapwood_faults::{cuts, errors};
use std::sync::Arc;

const SEED: u64 = 1;
const ROUNDS: usize = 5;

/// 10,000 distinct disks, from seed 1 on.
#[test]
fn a_power_cut_at_any_step_leaves_what_was_confirmed_or_what_was_in_flight() -> Result<(), String> {
    let mut tally = Tally::default();
    for seed in SEED.. {
        let reference = Reference::new(seed, ROUNDS)?;
        // Not all of one life: the next has other acts.
        cuts::campaign(&reference, tally.distinct() + 2_500, &mut tally);
        if tally.distinct() >= 10_000 || tally.is_full() {
            break;
        }
    }
    assert!(tally.violations.is_empty(), "\n{tally}");
    assert!(tally.recovered > 100 && tally.again > 100 && tally.went_on > 20, "\n{tally}");
    Ok(())
}

/// Every 20th operation of a life, each kind of failure at others.
#[test]
fn a_failing_disk_costs_a_job_and_nothing_that_was_confirmed() -> Result<(), String> {
    let mut tally = Tally::default();
    errors::campaign(&Reference::new(SEED, ROUNDS)?, 20, &mut tally);
    assert!(tally.violations.is_empty(), "\n{tally}");
    assert!(tally.failures.values().sum::<u64>() > 100, "\n{tally}");
    Ok(())
}

/// 100,000 flipped bits and 10,000 other damages, seed 1.
#[test]
fn no_damage_is_taken_for_right() -> Result<(), String> {
    let mut tally = Tally::default();
    let rich = Rich::new(SEED)?;
    for file in ["manifest.a", "manifest.b", "checkpoint", "reservoir", "inbox/seen", "inbox/job"] {
        assert!(rich.paths().iter().any(|path| path == file), "{:?} lacks {file}", rich.paths());
    }
    rich.campaign(0..100_000 + 100_000 / (OTHER_EVERY - 1) + 1, &mut tally);
    assert!(tally.violations.is_empty(), "\n{tally}");
    Ok(())
}

fn finds(flaw: Flaw) -> Result<bool, String> {
    let wrap = |disk: Arc<CutDisk>| -> Arc<dyn Storage> { Arc::new(Flawed { disk, flaw }) };
    let mut tally = Tally::default();
    for seed in SEED..SEED + 3 {
        let reference = Reference::on(seed, plan(seed, 3), wrap)?;
        cuts::campaign(&reference, u64::MAX, &mut tally);
        if !tally.violations.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[test]
fn a_sync_left_out_anywhere_is_found() -> Result<(), String> {
    for flaw in [
        Flaw::NoSync("reservoir"),
        Flaw::NoSync("adapters/"),
        Flaw::NoSync("learner/"),
        Flaw::NoSync("inbox/"),
        Flaw::NoSync("checkpoint.new"),
        Flaw::NoFolderSync(""),
        Flaw::NoFolderSync("adapters"),
        Flaw::NoFolderSync("learner"),
        Flaw::NoFolderSync("inbox"),
        Flaw::RenameInTwo,
        Flaw::WritesInPlace,
    ] {
        assert!(finds(flaw)?, "{flaw:?} is not found");
    }
    Ok(())
}
