//! The way of an artifact to the devices: whom it is offered, and whether more of them come next.
//!
//! ```text
//! release: active <-> paused -> complete; aborted, replaced        stage: lab, 1, 5, 25, 50, 100 %
//! ```
//! - A candidate is of the lab and stays there. A release begins at 1 % and goes on by what became of it.
//! - Silence is no success. An offer that brings no outcome counts once in `offer_h` hours, five times.
//! - Rolling back is a release of an older artifact under a new sequence, offered to all at once, also to who
//!   has on trial what was taken back: such an offer ends the trial.
//! - Never here: sockets, clocks, chance, keys.

mod release;

pub(crate) use release::{COLUMNS, read, release_columns};
pub use release::{
    Release, State, active, advanced, all, find, moved, published, replaced, signed_again,
    standing, unended,
};

use crate::cohorts::Policy;
use crate::devices::{Device, Offered};
use crate::store::{Book, BookError, Columns, Row, Statement};
use sapwood_protocol::fleet::id::{CohortId, DeviceId};
use sapwood_protocol::fleet::message::{DeviceState, Outcome, Report};
use sapwood_protocol::fleet::schedule::bucket;
use sapwood_protocol::fleet::statement::Role;

/// Per cent of the devices in each stage; the first is the lab.
pub const STAGES: [u64; 6] = [0, 1, 5, 25, 50, 100];
/// The stage at which a release begins.
pub const FIRST_STAGE: u64 = 1;
/// How often an offer counts.
const OFFERS_MAX: u64 = 5;
/// After so long without an outcome a device is silent.
pub const SILENT_MS: u64 = 7 * 24 * 3_600_000;
/// Of the outcomes, this part may be other than good, and this part may be reverted.
const BAD_MAX: f64 = 0.1;
const REVERTED_MAX: f64 = 0.02;
/// Of the devices that were asked, this part may be silent.
const SILENT_MAX: f64 = 0.3;

/// Whether a release in its stage reaches a device.
fn reaches(release: &Release, device: DeviceId, lab: bool) -> bool {
    let percent = STAGES.get(release.stage as usize).copied().unwrap_or(0);
    let counted = u64::from(bucket(release.sequence, device)) < 100 * percent;
    lab || (release.role == Role::Release && counted)
}

/// Whether a device takes such a statement at all.
fn takes(device: &Device, release: &Release) -> bool {
    release.role == Role::Release || device.candidates
}

/// Whether it reaches a device that can take it: what it cannot take stands in the way of nothing else.
fn suits(release: &Release, device: &Device, now_ms: u64) -> bool {
    let is_valid = now_ms / 1000 < release.expires_s;
    takes(device, release) && is_valid && reaches(release, device.id, device.lab)
}

/// What a device is offered, and how that is noted.
///
/// - `releases`: of its cohort, that may be offered, the newest first. `withdrawn`: whether what is installed
///   was taken back. `ended`: how the install of a sequence ended on the device, if it did.
/// # Errors
/// Those of `ended`.
pub fn offer<'a, E>(
    device: &Device,
    (releases, withdrawn): (&'a [Release], bool),
    mut ended: impl FnMut(u64) -> Result<Option<Outcome>, E>,
    policy: &Policy,
    now_ms: u64,
) -> Result<Option<(&'a Release, Offered)>, E> {
    // A trial is left alone, unless of what is no longer to be there.
    if device.state != DeviceState::Accepted || (device.trial && !withdrawn) {
        return Ok(None);
    }
    let Some(release) = releases.iter().find(|release| suits(release, device, now_ms)) else {
        return Ok(None);
    };
    let has = device.installed;
    if release.sequence <= has.sequence || release.artifact == has.artifact {
        return Ok(None);
    }
    // Below what it took once nothing is taken any more.
    let was = device.offer.sequence;
    let took = releases.iter().any(|one| one.sequence == was && takes(device, one));
    if took && release.sequence < was {
        return Ok(None);
    }
    // What was confirmed and is not there any more went with the device's disk: it is offered again.
    if ended(release.sequence)?.is_some_and(|outcome| outcome != Outcome::Confirmed) {
        return Ok(None);
    }
    Ok(noted(device.offer, release.sequence, policy, now_ms).map(|offered| (release, offered)))
}

/// An offer as it is noted; none when it counted as often as it may.
fn noted(before: Offered, sequence: u64, policy: &Policy, now_ms: u64) -> Option<Offered> {
    if before.sequence != sequence {
        return Some(Offered { sequence, times: 1, first_ms: now_ms, last_ms: now_ms });
    }
    if now_ms < before.last_ms.saturating_add(policy.offer_h * 3_600_000) {
        return Some(before);
    }
    let again = Offered { times: before.times + 1, last_ms: now_ms, ..before };
    (before.times < OFFERS_MAX).then_some(again)
}

/// The number of an outcome in a row.
pub fn number(outcome: Outcome) -> u64 {
    match outcome {
        Outcome::Confirmed => 1,
        Outcome::Reverted => 2,
        Outcome::Declined => 3,
        Outcome::Failed => 4,
    }
}

/// How the install of a sequence ended on a device, if it did.
///
/// # Errors
/// [`BookError`].
pub fn ended(
    book: &dyn Book,
    cohort: CohortId,
    sequence: u64,
    device: DeviceId,
) -> Result<Option<Outcome>, BookError> {
    let sql = "select outcome from install where cohort = $1 and sequence = $2 and device = $3";
    let rows = book.read(sql, &[cohort.into(), sequence.into(), device.into()])?;
    let Some(row) = rows.into_iter().next() else { return Ok(None) };
    Ok(Some(match Columns::of(row).number()? {
        1 => Outcome::Confirmed,
        2 => Outcome::Reverted,
        3 => Outcome::Declined,
        4 => Outcome::Failed,
        got => return Err(BookError::Field { expected: "an outcome", got: got.to_string() }),
    }))
}

/// Keeps the end of an install, once, and counts it in the stage that the release is in.
pub fn report(release: &Release, device: DeviceId, report: &Report, now_ms: u64) -> [Statement; 2] {
    let row = "insert into install(cohort, sequence, device, outcome, reason, before, after, at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)";
    let count = "insert into tally(cohort, sequence, stage, outcome, shard, n) values ($1, $2, $3, $4, $5, 1)
        on conflict (cohort, sequence, stage, outcome, shard) do update set n = tally.n + 1";
    let outcome = number(report.outcome);
    let shard = u64::from(device.0[0] & 15);
    let (cohort, sequence) = (release.cohort, release.sequence);
    [
        Statement::one(
            row,
            [
                cohort.into(),
                sequence.into(),
                device.into(),
                outcome.into(),
                report.reason.as_str().into(),
                report.before.into(),
                report.after.into(),
                now_ms.into(),
            ],
        ),
        Statement::one(
            count,
            [cohort.into(), sequence.into(), release.stage.into(), outcome.into(), shard.into()],
        ),
    ]
}

/// What became of a release so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// It runs.
    pub confirmed: u64,
    /// It ran, and what was before it came back.
    pub reverted: u64,
    /// The device's gate kept what was there.
    pub declined: u64,
    /// It could not be fetched, read or written.
    pub failed: u64,
    /// Devices that were offered it longer than a week ago and said nothing.
    pub silent: u64,
    /// Devices that say something in this stage, or could.
    pub members: u64,
}

impl Tally {
    /// Devices that said how it ended.
    pub fn outcomes(&self) -> u64 {
        self.confirmed + self.reverted + self.declined + self.failed
    }
}

/// What follows for a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// It stays in its stage, and why.
    Stay(String),
    /// More devices are offered it.
    Advance,
    /// It was offered to all and held.
    Complete,
    /// It is offered no further, and why.
    Pause(String),
}

/// What follows for an active release by what became of it.
pub fn step(release: &Release, tally: &Tally, policy: &Policy, now_ms: u64) -> Step {
    let outcomes = tally.outcomes();
    let needed = policy.outcomes.min(tally.members);
    // Against what the stage needs at least, so that a fault of many is not waited out.
    let most = outcomes.max(needed).max(1) as f64;
    let bad = outcomes - tally.confirmed;
    if tally.reverted as f64 > REVERTED_MAX * most {
        let per_cent = 100.0 * REVERTED_MAX;
        return Step::Pause(format!(
            "{} of {outcomes} devices reverted it, expected at most {per_cent} %",
            tally.reverted
        ));
    }
    if bad as f64 > BAD_MAX * most {
        let per_cent = 100.0 * (1.0 - BAD_MAX);
        return Step::Pause(format!(
            "{} of {outcomes} devices confirmed it, expected at least {per_cent} %",
            tally.confirmed
        ));
    }
    if tally.silent as f64 > SILENT_MAX * (tally.silent + outcomes) as f64 {
        let (all, per_cent) = (tally.silent + outcomes, 100.0 * SILENT_MAX);
        return Step::Pause(format!(
            "{} of {all} devices are silent, expected at most {per_cent} %",
            tally.silent
        ));
    }
    let until_ms = release.since_ms + policy.stage_h * 3_600_000;
    if now_ms < until_ms {
        return Step::Stay(format!(
            "{} min are left of the stage",
            (until_ms - now_ms).div_ceil(60_000)
        ));
    }
    if outcomes < needed {
        return Step::Stay(format!("{outcomes} outcomes came, expected at least {needed}"));
    }
    match release.stage + 1 < STAGES.len() as u64 {
        true => Step::Advance,
        false => Step::Complete,
    }
}

/// What became of a release in its stage, since it is in it, or since an operator had it go on.
///
/// Who could still say something is counted only where too few did: it takes a walk over the cohort.
/// # Errors
/// [`BookError`].
pub fn tally(
    book: &dyn Book,
    release: &Release,
    policy: &Policy,
    now_ms: u64,
) -> Result<Tally, BookError> {
    let (cohort, sequence) = (release.cohort, release.sequence);
    let sql = "select outcome, cast(sum(n) as bigint) from tally where cohort = $1 and sequence = $2 and stage = $3
        group by outcome";
    let rows = book.read(sql, &[cohort.into(), sequence.into(), release.stage.into()])?;
    let mut tally = counted(rows)?;
    let sql = "select count(*) from device where cohort = $1 and state = 1 and offered = $2
        and offered_first >= $3 and offered_first < $4
        and not exists(select 1 from install where install.cohort = $1 and install.sequence = $2
        and install.device = device.id)";
    let week_ago = now_ms.saturating_sub(SILENT_MS);
    let since = release.since_ms;
    let rows = book.read(sql, &[cohort.into(), sequence.into(), since.into(), week_ago.into()])?;
    tally.silent = Columns::of(rows.into_iter().next().unwrap_or_default()).number()?;
    let is_over = now_ms >= since + policy.stage_h * 3_600_000;
    tally.members = match tally.outcomes() < policy.outcomes && is_over {
        true => members(book, release, week_ago)?,
        false => policy.outcomes,
    };
    Ok(tally)
}

/// What became of a release in all of its stages.
///
/// # Errors
/// [`BookError`].
pub fn total(book: &dyn Book, release: &Release) -> Result<Tally, BookError> {
    let sql = "select outcome, cast(sum(n) as bigint) from tally where cohort = $1 and sequence = $2 group by outcome";
    counted(book.read(sql, &[release.cohort.into(), release.sequence.into()])?)
}

fn counted(rows: Vec<Row>) -> Result<Tally, BookError> {
    let mut tally = Tally::default();
    for row in rows {
        let mut columns = Columns::of(row);
        let (outcome, count) = (columns.number()?, columns.number()?);
        match outcome {
            1 => tally.confirmed = count,
            2 => tally.reverted = count,
            3 => tally.declined = count,
            _ => tally.failed += count,
        }
    }
    Ok(tally)
}

/// Devices of the stage that checked in within a week and say something in it, or could: who said it in a
/// stage before, or had the artifact already, does not.
fn members(book: &dyn Book, release: &Release, week_ago: u64) -> Result<u64, BookError> {
    let sql = "select device.id, device.lab from device left join install on install.cohort = $1
        and install.sequence = $2 and install.device = device.id
        where device.cohort = $1 and device.state = 1 and device.seen > $3
        and (install.at >= $4 or (install.at is null and device.artifact <> $5))";
    let values = [
        release.cohort.into(),
        release.sequence.into(),
        week_ago.into(),
        release.since_ms.into(),
        release.artifact.into(),
    ];
    let mut members = 0;
    for row in book.read(sql, &values)? {
        let mut columns = Columns::of(row);
        let (id, lab) = (DeviceId(columns.array()?), columns.number()? == 1);
        members += u64::from(reaches(release, id, lab));
    }
    Ok(members)
}

/// Has a paused release go on: what was counted in its stage is no reason to pause again.
pub fn resumed(release: &Release, now_ms: u64) -> [Statement; 3] {
    let (cohort, sequence) = (release.cohort, release.sequence);
    let set = "update release set state = 2, reason = null, since = $3 where cohort = $1 and sequence = $2
        and state = 3";
    let aside = "insert into tally(cohort, sequence, stage, outcome, shard, n)
        select cohort, sequence, stage + 100, outcome, shard, n from tally
        where cohort = $1 and sequence = $2 and stage = $3
        on conflict (cohort, sequence, stage, outcome, shard) do update set n = tally.n + excluded.n";
    let anew = "delete from tally where cohort = $1 and sequence = $2 and stage = $3";
    let stage = release.stage;
    [
        Statement::one(set, [cohort.into(), sequence.into(), now_ms.into()]),
        Statement::any(aside, [cohort.into(), sequence.into(), stage.into()]),
        Statement::any(anew, [cohort.into(), sequence.into(), stage.into()]),
    ]
}

#[cfg(test)]
mod tests;
