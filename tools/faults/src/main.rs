//! `sapwood-faults`: the fault campaign by hand, as long as one likes.

use anyhow::bail;
use clap::Parser;
use sapwood_faults::cuts;
use sapwood_faults::errors;
use sapwood_faults::fleet::record::Record;
use sapwood_faults::fleet::{cuts as fleet_cuts, errors as fleet_errors};
use sapwood_faults::flips::{OTHER_EVERY, Rich};
use sapwood_faults::place::Place;
use sapwood_faults::reference::Reference;
use sapwood_faults::tally::Tally;
use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

/// Rounds of a life.
const ROUNDS: usize = 5;
/// Rounds of a life in a fleet.
const FLEET_ROUNDS: u64 = 3;
/// Damages between two lines of progress.
const FLIPS_A_LINE: u64 = 10_000;

/// Cuts the power, fails the disk and flips bits under a device's life; exit code 1 when a state
/// breaks a promise, with the line that makes it again.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Distinct disks that power cuts leave.
    #[arg(long, default_value_t = 100_000)]
    states: u64,
    /// Flipped bits; a tenth as many other damages come with them.
    #[arg(long, default_value_t = 100_000)]
    flips: u64,
    /// Runs on a disk that fails.
    #[arg(long, default_value_t = 20_000)]
    failures: u64,
    /// Distinct disks that power cuts leave of lives in a fleet.
    #[arg(long, default_value_t = 20_000)]
    fleet_states: u64,
    /// Runs of lives in a fleet on a disk that fails.
    #[arg(long, default_value_t = 2_000)]
    fleet_failures: u64,
    /// Seed of the first life; the next has the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this state, as a violation names it.
    #[arg(long)]
    only: Option<Place>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    #[expect(clippy::disallowed_methods, reason = "says how long the campaign took")]
    let began = Instant::now();
    let mut tally = Tally::default();
    match arguments.only {
        Some(place) => only(place, &mut tally)?,
        None => campaign(&arguments, &mut tally, &began)?,
    }
    let mut fleet = Tally::default();
    if arguments.only.is_none() {
        in_a_fleet(&arguments, &mut fleet, &began)?;
    }
    let (seconds, mut out) = (began.elapsed().as_secs(), std::io::stdout().lock());
    if arguments.only.is_some() || tally.states > 0 || !tally.failures.is_empty() {
        write!(out, "{tally}")?;
    }
    if fleet.states > 0 || !fleet.failures.is_empty() {
        write!(out, "in a fleet\n{fleet}")?;
    }
    writeln!(out, "{:<48}{seconds:>12}", "seconds")?;
    let is_well = tally.violations.is_empty() && fleet.violations.is_empty();
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fleet_life(seed: u64) -> anyhow::Result<Record> {
    Record::new(seed, FLEET_ROUNDS).map_err(|what| anyhow::anyhow!("fleet {seed}: {what}"))
}

/// The same under lives in a fleet.
fn in_a_fleet(arguments: &Arguments, tally: &mut Tally, began: &Instant) -> anyhow::Result<()> {
    let Arguments { fleet_states: states, fleet_failures: failures, seed, .. } = *arguments;
    let mut next = seed;
    while tally.distinct() < states && !tally.is_full() {
        fleet_cuts::campaign(&fleet_life(next)?, states, tally);
        (tally.lives, next) = (tally.lives + 1, next + 1);
        let (distinct, seconds) = (tally.distinct(), began.elapsed().as_secs());
        eprintln!("{distinct} of {states} states after {} lives, {seconds} s", tally.lives);
    }
    next = seed;
    while tally.failures.values().sum::<u64>() < failures && !tally.is_full() {
        let record = fleet_life(next)?;
        let left = failures - tally.failures.values().sum::<u64>();
        let all = (record.operations * errors::KINDS.len()) as u64;
        fleet_errors::campaign(&record, all.div_ceil(left).max(1) as usize, tally);
        next += 1;
        eprintln!("{} of {failures} failures", tally.failures.values().sum::<u64>());
    }
    Ok(())
}

fn life(seed: u64) -> anyhow::Result<Reference> {
    Reference::new(seed, ROUNDS).map_err(|what| anyhow::anyhow!("life {seed}: {what}"))
}

fn rich(seed: u64) -> anyhow::Result<Rich> {
    Rich::new(seed).map_err(|what| anyhow::anyhow!("life {seed}: {what}"))
}

fn campaign(arguments: &Arguments, tally: &mut Tally, began: &Instant) -> anyhow::Result<()> {
    let Arguments { states, flips, failures, seed, .. } = *arguments;
    let mut next = seed;
    while tally.distinct() < states && !tally.is_full() {
        cuts::campaign(&life(next)?, states, tally);
        (tally.lives, next) = (tally.lives + 1, next + 1);
        let (distinct, seconds) = (tally.distinct(), began.elapsed().as_secs());
        eprintln!("{distinct} of {states} states after {} lives, {seconds} s", tally.lives);
    }
    next = seed;
    while tally.failures.values().sum::<u64>() < failures && !tally.is_full() {
        let reference = life(next)?;
        let left = failures - tally.failures.values().sum::<u64>();
        let all = (reference.operations * errors::KINDS.len()) as u64;
        errors::campaign(&reference, all.div_ceil(left).max(1) as usize, tally);
        next += 1;
        eprintln!("{} of {failures} failures", tally.failures.values().sum::<u64>());
    }
    let (rich, all) = (rich(seed)?, flips + flips.div_ceil(OTHER_EVERY - 1) + 1);
    for first in (0..if flips == 0 { 0 } else { all }).step_by(FLIPS_A_LINE as usize) {
        rich.campaign(first..all.min(first + FLIPS_A_LINE), tally);
        eprintln!("{} of {all} damages", all.min(first + FLIPS_A_LINE));
    }
    Ok(())
}

fn only(place: Place, tally: &mut Tally) -> anyhow::Result<()> {
    let there = match place {
        Place::Cut { life: seed, .. } => cuts::only(&life(seed)?, place, tally),
        Place::Error { life: seed, kind, at } => {
            errors::one(&life(seed)?, kind, at, tally);
            true
        }
        Place::Fleet { life: seed, cut, luck } => {
            fleet_cuts::only(&fleet_life(seed)?, (cut, luck), tally)
        }
        Place::FleetError { life: seed, kind, at } => {
            fleet_errors::one(&fleet_life(seed)?, kind, at, tally);
            true
        }
        Place::Flip { life: seed, flip } => {
            rich(seed)?.one(flip, tally);
            true
        }
    };
    if !there {
        bail!("{place}: the life has no such step");
    }
    Ok(())
}
