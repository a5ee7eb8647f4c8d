//! The way of an artifact to the devices: whom it is offered, and whether more of them come next.
//!
//! ```text
//! release: active <-> paused -> complete; aborted, replaced        stage: lab, 1, 5, 25, 50, 100 %
//! ```
//! - A candidate is of the lab and stays there. A release begins at 1 % and goes on by what became of it.
//! - Silence is no success. An offer that brings no outcome counts once in `offer_h` hours, five times.
//! - Rolling back is a release of an older artifact under a new sequence, offered to all at once.
//! - Never here: sockets, clocks, chance, keys.

use crate::cohorts::Policy;
use crate::devices::{Device, Offered};
use crate::store::{Book, BookError, Columns, Row, Statement};
use sapwood_protocol::fleet::id::{CohortId, DeviceId, Hash};
use sapwood_protocol::fleet::message::{DeviceState, Outcome, Report};
use sapwood_protocol::fleet::schedule::bucket;
use sapwood_protocol::fleet::statement::{Role, Statement as Offer};

/// Per cent of the devices in each stage; the first is the lab.
pub const STAGES: [u64; 6] = [0, 1, 5, 25, 50, 100];
/// The stage at which a release begins.
pub const FIRST_STAGE: u64 = 1;
/// How often an offer counts.
const OFFERS_MAX: u64 = 5;
/// After so long without an outcome a device is silent.
const SILENT_MS: u64 = 7 * 24 * 3_600_000;
/// Of the outcomes, this part may be other than good, and this part may be reverted.
const BAD_MAX: f64 = 0.1;
const REVERTED_MAX: f64 = 0.02;
/// Of the devices that were asked, this part may be silent.
const SILENT_MAX: f64 = 0.3;
/// Statements of a cohort that are looked at for a device.
const LOOKED_AT: u64 = 8;

/// How far a release is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It is offered.
    Active = 2,
    /// It is not offered further for now.
    Paused = 3,
    /// It was offered to all, and held.
    Complete = 4,
    /// It was taken back.
    Aborted = 5,
    /// Another stands in its place.
    Replaced = 6,
}

impl State {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Replaced => "replaced",
        }
    }
}

/// A release's row, or a candidate's.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// Its cohort.
    pub cohort: CohortId,
    /// Number of its statement.
    pub sequence: u64,
    /// Who speaks.
    pub role: Role,
    /// The artifact, and its bytes.
    pub artifact: Hash,
    /// Its bytes.
    pub bytes: u64,
    /// The statement's bytes.
    pub statement: Vec<u8>,
    /// Its signatures.
    pub signatures: Vec<u8>,
    /// How far it is.
    pub state: State,
    /// Its stage, a place in [`STAGES`].
    pub stage: u64,
    /// Since when it is in that stage.
    pub since_ms: u64,
    /// When its statement expires, seconds since 1970.
    pub expires_s: u64,
    /// The round that it came from.
    pub round: Option<u64>,
    /// Why it was paused or taken back.
    pub reason: Option<String>,
}

macro_rules! release_rows {
    ($rest:literal) => {
        concat!(
            "select cohort, sequence, role, artifact, bytes, statement, signatures, state, stage, since, expires,
            round, reason from release ",
            $rest
        )
    };
}

fn read(row: Row) -> Result<Release, BookError> {
    let mut columns = Columns::of(row);
    let columns = &mut columns;
    let wrong = |expected, got: u64| BookError::Field { expected, got: got.to_string() };
    Ok(Release {
        cohort: CohortId(columns.array()?),
        sequence: columns.number()?,
        role: match columns.number()? {
            1 => Role::Candidate,
            2 => Role::Release,
            got => return Err(wrong("a role", got)),
        },
        artifact: Hash(columns.array()?),
        bytes: columns.number()?,
        statement: columns.bytes()?,
        signatures: columns.bytes()?,
        state: match columns.number()? {
            2 => State::Active,
            3 => State::Paused,
            4 => State::Complete,
            5 => State::Aborted,
            6 => State::Replaced,
            got => return Err(wrong("a release's state", got)),
        },
        stage: columns.number()?,
        since_ms: columns.number()?,
        expires_s: columns.number()?,
        round: columns.maybe_number()?,
        reason: columns.maybe_text()?,
    })
}

/// All statements of a cohort, the newest first.
///
/// # Errors
/// [`BookError`].
pub fn all(book: &dyn Book, cohort: CohortId) -> Result<Vec<Release>, BookError> {
    let rows =
        book.read(release_rows!("where cohort = $1 order by sequence desc"), &[cohort.into()])?;
    rows.into_iter().map(read).collect()
}

/// The statement of a cohort with that sequence.
///
/// # Errors
/// [`BookError`].
pub fn find(
    book: &dyn Book,
    cohort: CohortId,
    sequence: u64,
) -> Result<Option<Release>, BookError> {
    let sql = release_rows!("where cohort = $1 and sequence = $2");
    let rows = book.read(sql, &[cohort.into(), sequence.into()])?;
    rows.into_iter().next().map(read).transpose()
}

/// The statements of a cohort that may be offered, the newest first.
///
/// # Errors
/// [`BookError`].
pub fn offered(book: &dyn Book, cohort: CohortId) -> Result<Vec<Release>, BookError> {
    let sql = release_rows!(
        "where cohort = $1 and state in (2, 4) and sequence > $2 order by sequence desc limit 8"
    );
    // Nothing below the last complete one is ever offered.
    let floor = book.read(
        "select coalesce(max(sequence), 1) - 1 from release where cohort = $1 and state = 4",
        &[cohort.into()],
    )?;
    let floor = Columns::of(floor.into_iter().next().unwrap_or_default()).number()?;
    const _: () = assert!(LOOKED_AT == 8, "as the text says");
    let rows = book.read(sql, &[cohort.into(), floor.into()])?;
    rows.into_iter().map(read).collect()
}

/// Releases that are offered to more and more devices.
///
/// # Errors
/// [`BookError`].
pub fn active(book: &dyn Book) -> Result<Vec<Release>, BookError> {
    let rows =
        book.read(release_rows!("where role = 2 and state = 2 order by cohort, sequence"), &[])?;
    rows.into_iter().map(read).collect()
}

/// The newest release of a cohort that stands: its global adapter.
///
/// # Errors
/// [`BookError`].
pub fn standing(book: &dyn Book, cohort: CohortId) -> Result<Vec<Release>, BookError> {
    let sql = release_rows!(
        "where cohort = $1 and role = 2 and state in (2, 3, 4, 6) order by sequence desc limit 2"
    );
    let rows = book.read(sql, &[cohort.into()])?;
    rows.into_iter().map(read).collect()
}

/// Whether a device is among those that a release is offered to.
fn includes(release: &Release, device: &Device) -> bool {
    let percent = STAGES.get(release.stage as usize).copied().unwrap_or(0);
    let counted = u64::from(bucket(release.sequence, device.id)) < 100 * percent;
    match release.role {
        Role::Candidate => device.lab,
        Role::Release => device.lab || counted,
    }
}

/// What a device is offered, and how that is noted.
///
/// - `releases`: of its cohort, as [`offered`] gives them. `ended`: how the install of a sequence ended
///   on the device, if it did.
/// # Errors
/// Those of `ended`.
pub fn offer<'a, E>(
    device: &Device,
    releases: &'a [Release],
    mut ended: impl FnMut(u64) -> Result<Option<Outcome>, E>,
    policy: &Policy,
    now_ms: u64,
) -> Result<Option<(&'a Release, Offered)>, E> {
    if device.state != DeviceState::Accepted || device.trial {
        return Ok(None);
    }
    let Some(release) = releases.iter().find(|release| includes(release, device)) else {
        return Ok(None);
    };
    let has = device.installed;
    let news = release.sequence > has.sequence && release.artifact != has.artifact;
    if !news || now_ms / 1000 >= release.expires_s {
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
    /// Devices that were offered it for longer than a week and said nothing.
    pub silent: u64,
    /// Accepted devices of the stage that checked in within a week.
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

/// What became of a release, from the book.
///
/// # Errors
/// [`BookError`].
pub fn tally(book: &dyn Book, release: &Release, now_ms: u64) -> Result<Tally, BookError> {
    let (cohort, sequence) = (release.cohort, release.sequence);
    let sql =
        "select outcome, sum(n) from tally where cohort = $1 and sequence = $2 group by outcome";
    let mut tally = Tally::default();
    for row in book.read(sql, &[cohort.into(), sequence.into()])? {
        let mut columns = Columns::of(row);
        let (outcome, count) = (columns.number()?, columns.number()?);
        match outcome {
            1 => tally.confirmed = count,
            2 => tally.reverted = count,
            3 => tally.declined = count,
            _ => tally.failed += count,
        }
    }
    let sql = "select count(*) from device where cohort = $1 and state = 1 and offered = $2 and offered_first < $3
        and not exists(select 1 from install where install.cohort = $1 and install.sequence = $2
        and install.device = device.id)";
    let week_ago = now_ms.saturating_sub(SILENT_MS);
    let rows = book.read(sql, &[cohort.into(), sequence.into(), week_ago.into()])?;
    tally.silent = Columns::of(rows.into_iter().next().unwrap_or_default()).number()?;
    let sql = "select id, lab from device where cohort = $1 and state = 1 and seen > $2";
    for row in book.read(sql, &[cohort.into(), week_ago.into()])? {
        let mut columns = Columns::of(row);
        let (id, lab) = (DeviceId(columns.array()?), columns.number()? == 1);
        let percent = STAGES.get(release.stage as usize).copied().unwrap_or(0);
        let counted = u64::from(bucket(sequence, id)) < 100 * percent;
        tally.members += u64::from(lab || (release.role == Role::Release && counted));
    }
    Ok(tally)
}

/// Moves a release to its next stage.
pub fn advanced(release: &Release, now_ms: u64) -> Statement {
    let sql = "update release set stage = stage + 1, since = $4 where cohort = $1 and sequence = $2
        and state = 2 and stage = $3 and stage < 5";
    let stage = release.stage;
    Statement::one(
        sql,
        [release.cohort.into(), release.sequence.into(), stage.into(), now_ms.into()],
    )
}

/// Moves a release from one state to another.
pub fn moved(release: &Release, to: State, reason: Option<&str>) -> Statement {
    let sql = "update release set state = $4, reason = $5 where cohort = $1 and sequence = $2 and state = $3";
    Statement::one(
        sql,
        [
            release.cohort.into(),
            release.sequence.into(),
            (release.state as u64).into(),
            (to as u64).into(),
            reason.into(),
        ],
    )
}

/// A complete release takes the place of those before it, candidates too.
pub fn replaced(release: &Release) -> Statement {
    let sql =
        "update release set state = 6 where cohort = $1 and sequence < $2 and state in (2, 3, 4)";
    Statement::any(sql, [release.cohort.into(), release.sequence.into()])
}

/// Keeps a signed statement at a stage; its sequence must be the cohort's next.
pub fn published(
    offer: &Offer,
    signatures: &[u8],
    stage: u64,
    round: Option<u64>,
    now_ms: u64,
) -> [Statement; 2] {
    let next = "update cohort set sequence = $2 where id = $1 and sequence = $2 - 1";
    let row = "insert into release(cohort, sequence, role, artifact, bytes, statement, signatures, state, stage,
        since, expires, round) values ($1, $2, $3, $4, $5, $6, $7, 2, $8, $9, $10, $11)";
    [
        Statement::one(next, [offer.cohort.into(), offer.sequence.into()]),
        Statement::one(
            row,
            [
                offer.cohort.into(),
                offer.sequence.into(),
                (offer.role as u64).into(),
                offer.artifact.into(),
                offer.artifact_bytes.into(),
                offer.encode().to_vec().into(),
                signatures.to_vec().into(),
                stage.into(),
                now_ms.into(),
                offer.expires_s.into(),
                round.into(),
            ],
        ),
    ]
}

#[cfg(test)]
mod tests;
