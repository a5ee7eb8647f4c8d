//! Rounds: one collection of updates against one artifact, and which state follows from which.
//!
//! ```text
//! round: open -> closed (quota, deadline) -> merged -> judged -> candidate; or failed
//! upload: invited -> stored -> counted, or dropped
//! ```
//! - Whom a round invites is a hash of round and device below a share of the fleet; nobody is looked for.
//! - A device gives one update an artifact; what is sent twice is counted once.
//! - Never here: sockets, clocks, chance, sums.

mod upload;

pub use upload::{Receive, Sent, Upload, UploadState, given, receive, stored, upload, uploads};
pub(crate) use upload::{UPLOAD_COLUMNS, read_upload, upload_columns};

use crate::cohorts::{Cohort, Policy};
use crate::devices::Device;
use crate::store::{Book, BookError, Columns, Row, Statement};
use sapwood_protocol::fleet::id::{CohortId, DeviceId, Hash};
use sapwood_protocol::fleet::message::{DeviceState, Ready};
use sapwood_protocol::fleet::schedule::{BUCKETS, bucket};

/// Devices are invited for so many times the quota: some will not come.
const MARGIN: f64 = 1.3;
/// Doublings of the share after which everybody is invited in any case.
const DOUBLINGS_MAX: u64 = 30;
/// Below so many uploads a round warns: what one device learned may show.
pub const FEW: u64 = 50;
/// Why the uploads of a failed round are part of none; they may be given again, or the round be merged again.
pub const FREED: &str = "the round came to nothing";
/// The global adapter that is none.
pub const NONE: Hash = Hash([0; 32]);

/// How far a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// It takes uploads.
    Open = 1,
    /// It waits for its merge.
    Closed = 2,
    /// It waits for a verdict.
    Merged = 3,
    /// It was found good.
    Judged = 4,
    /// It is offered to the lab.
    Candidate = 5,
    /// It came to nothing.
    Failed = 6,
}

impl State {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Merged => "merged",
            Self::Judged => "judged",
            Self::Candidate => "candidate",
            Self::Failed => "failed",
        }
    }
}

/// A round's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// Its number.
    pub id: u64,
    /// Its cohort.
    pub cohort: CohortId,
    /// What most updates are against; zeros where there is no global adapter yet.
    pub artifact: Hash,
    /// What updates may be against that are one release behind.
    pub previous: Hash,
    /// How far it is.
    pub state: State,
    /// Uploads at which it closes.
    pub quota: u64,
    /// Devices that were asked.
    pub invited: u64,
    /// Uploads that came.
    pub stored: u64,
    /// When it was opened.
    pub opened_ms: u64,
    /// When it closes with who came.
    pub deadline_ms: u64,
    /// What its sketches are drawn from.
    pub seed: [u8; 32],
    /// The merged adapter, and its bytes.
    pub result: Option<(Hash, u64)>,
    /// What came of it, JSON.
    pub report: Option<String>,
}

/// The columns of a round, for [`read`].
macro_rules! round_columns {
    () => {
        "round.id, round.cohort, round.artifact, round.previous, round.state, round.quota, round.invited,
        round.stored, round.opened, round.deadline, round.seed, round.result, round.bytes, round.report"
    };
}
pub(crate) use round_columns;

/// How many they are.
pub(crate) const COLUMNS: usize = 14;

macro_rules! round_rows {
    ($rest:literal) => {
        concat!("select ", round_columns!(), " from round ", $rest)
    };
}

/// A round in its columns.
///
/// # Errors
/// [`BookError::Field`].
pub(crate) fn read(row: Row) -> Result<Round, BookError> {
    let mut columns = Columns::of(row);
    let columns = &mut columns;
    Ok(Round {
        id: columns.number()?,
        cohort: CohortId(columns.array()?),
        artifact: Hash(columns.array()?),
        previous: Hash(columns.array()?),
        state: match columns.number()? {
            1 => State::Open,
            2 => State::Closed,
            3 => State::Merged,
            4 => State::Judged,
            5 => State::Candidate,
            6 => State::Failed,
            got => {
                return Err(BookError::Field { expected: "a round's state", got: got.to_string() });
            }
        },
        quota: columns.number()?,
        invited: columns.number()?,
        stored: columns.number()?,
        opened_ms: columns.number()?,
        deadline_ms: columns.number()?,
        seed: columns.array()?,
        result: match (columns.maybe_array()?, columns.maybe_number()?) {
            (Some(hash), Some(bytes)) => Some((Hash(hash), bytes)),
            _ => None,
        },
        report: columns.maybe_text()?,
    })
}

/// The round of that number.
///
/// # Errors
/// [`BookError`].
pub fn find(book: &dyn Book, id: u64) -> Result<Option<Round>, BookError> {
    let rows = book.read(round_rows!("where id = $1"), &[id.into()])?;
    rows.into_iter().next().map(read).transpose()
}

/// The open round of a cohort.
///
/// # Errors
/// [`BookError`].
pub fn open_one(book: &dyn Book, cohort: CohortId) -> Result<Option<Round>, BookError> {
    let rows = book.read(round_rows!("where cohort = $1 and state = 1"), &[cohort.into()])?;
    rows.into_iter().next().map(read).transpose()
}

/// Rounds of one state, by number.
///
/// # Errors
/// [`BookError`].
pub fn of_state(book: &dyn Book, state: State) -> Result<Vec<Round>, BookError> {
    let rows = book.read(round_rows!("where state = $1 order by id"), &[(state as u64).into()])?;
    rows.into_iter().map(read).collect()
}

/// Every round, the newest first.
///
/// # Errors
/// [`BookError`].
pub fn all(book: &dyn Book) -> Result<Vec<Round>, BookError> {
    let rows = book.read(round_rows!("order by id desc"), &[])?;
    rows.into_iter().map(read).collect()
}

/// Opens a round; its number is the next one.
///
/// - `artifact`, `previous`: the cohort's global adapter, and the one before it.
pub fn open(
    cohort: &Cohort,
    artifact: Hash,
    previous: Hash,
    seed: [u8; 32],
    now_ms: u64,
) -> Statement {
    let sql = "insert into round(id, cohort, artifact, previous, state, quota, invited, stored, opened, deadline, seed)
        select coalesce(max(id), 0) + 1, $1, $2, $3, 1, $4, 0, 0, $5, $6, $7 from round returning id";
    let policy = &cohort.policy;
    Statement::one(
        sql,
        [
            cohort.id.into(),
            artifact.into(),
            previous.into(),
            policy.quota.into(),
            now_ms.into(),
            (now_ms + policy.deadline_h * 3_600_000).into(),
            seed.to_vec().into(),
        ],
    )
}

/// The part of the fleet that a round invites, in buckets: `1.3 quota` of the devices that checked in
/// within a day, and twice as many each hour.
pub fn share(round: &Round, devices: u64, now_ms: u64) -> u64 {
    let hours = now_ms.saturating_sub(round.opened_ms) / 3_600_000;
    let doubled = (1_u64 << hours.min(DOUBLINGS_MAX)) as f64;
    let part = MARGIN * round.quota as f64 * doubled / devices.max(1) as f64;
    (part.min(1.0) * f64::from(BUCKETS)).ceil() as u64
}

/// Devices that a round asks at most by now; a guarded counter keeps to it.
pub fn invited_max(round: &Round, now_ms: u64) -> u64 {
    let hours = now_ms.saturating_sub(round.opened_ms) / 3_600_000;
    let quota = (MARGIN * round.quota as f64).ceil() as u64;
    quota.saturating_mul(1 << hours.min(DOUBLINGS_MAX))
}

/// Against which artifact a round asks a device for its update now, if it does.
///
/// - `share`: as [`share`] says.
pub fn invites(
    round: &Round,
    device: &Device,
    ready: Option<Ready>,
    share: u64,
    now_ms: u64,
) -> Option<Hash> {
    let artifact = device.installed.artifact;
    let known = artifact == round.artifact || artifact == round.previous;
    let takes =
        round.state == State::Open && round.stored < round.quota && now_ms < round.deadline_ms;
    let may = device.state == DeviceState::Accepted && !device.trial && ready.is_some();
    let first = u64::from(bucket(round.id, device.id)) < share;
    (known && takes && may && first).then_some(artifact)
}

/// Keeps an invitation, below the most that a round asks.
pub fn invitation(round: &Round, device: DeviceId, artifact: Hash, now_ms: u64) -> [Statement; 2] {
    let row = "insert into upload(round, device, artifact, state, at) values ($1, $2, $3, 1, $4)";
    let count =
        "update round set invited = invited + 1 where id = $1 and state = 1 and invited < $2";
    [
        Statement::one(row, [round.id.into(), device.into(), artifact.into(), now_ms.into()]),
        Statement::one(count, [round.id.into(), invited_max(round, now_ms).into()]),
    ]
}

/// What is to be done with a round that takes uploads, or took them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// It closes with who came.
    Close,
    /// Its uploads are to be merged.
    Merge,
    /// It comes to nothing.
    Fail(String),
}

/// What follows for a round at a time.
pub fn step(round: &Round, policy: &Policy, now_ms: u64) -> Step {
    match round.state {
        State::Open if round.stored >= round.quota || now_ms >= round.deadline_ms => Step::Close,
        State::Closed if round.stored < policy.min_devices => Step::Fail(format!(
            "{} uploads came, expected at least {} (min_devices); they may come again",
            round.stored, policy.min_devices
        )),
        State::Closed => Step::Merge,
        _ => Step::Wait,
    }
}

/// Closes an open round.
pub fn close(round: u64) -> Statement {
    Statement::one("update round set state = 2 where id = $1 and state = 1", [round.into()])
}

/// Ends a round that comes to nothing; what was given to it may be given again.
pub fn failed(round: &Round, report: &str) -> [Statement; 2] {
    let end = "update round set state = 6, report = $3 where id = $1 and state = $2";
    let free = "update upload set state = 4, why = $2 where round = $1 and state in (2, 3)";
    [
        Statement::one(end, [round.id.into(), (round.state as u64).into(), report.into()]),
        Statement::any(free, [round.id.into(), FREED.into()]),
    ]
}

#[cfg(test)]
mod tests;
