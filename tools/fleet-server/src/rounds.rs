//! Rounds: one collection of updates against one artifact, and which state follows from which.
//!
//! ```text
//! round: open -> closed (quota, deadline) -> merged -> judged -> candidate; or failed
//! upload: invited -> stored -> counted, or dropped
//! ```
//! - Whom a round invites is a hash of round and device below a share of the fleet; nobody is looked for.
//! - A device gives one update an artifact; what is sent twice is counted once.
//! - Never here: sockets, clocks, chance, sums.

use crate::cohorts::{Cohort, Policy};
use crate::devices::Device;
use crate::door::Refused;
use crate::store::{Book, BookError, Columns, Row, Statement, Value};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{CohortId, DeviceId, Hash};
use sapwood_protocol::fleet::message::{DeviceState, Ready};
use sapwood_protocol::fleet::schedule::{BUCKETS, bucket};

/// Devices are invited for so many times the quota: some will not come.
const MARGIN: f64 = 1.3;
/// Doublings of the share after which everybody is invited in any case.
const DOUBLINGS_MAX: u64 = 30;
/// Below so many uploads a round warns: what one device learned may show.
pub const FEW: u64 = 50;
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

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UploadState {
    /// The device was asked.
    Invited = 1,
    /// It is kept.
    Stored = 2,
    /// It is part of a merge.
    Counted = 3,
    /// It is part of none; `why` says the reason.
    Dropped = 4,
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

macro_rules! round_rows {
    ($rest:literal) => {
        concat!(
            "select id, cohort, artifact, previous, state, quota, invited, stored, opened, deadline, seed,
            result, bytes, report from round ",
            $rest
        )
    };
}

fn read(row: Row) -> Result<Round, BookError> {
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

/// An upload's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    /// Number of the round.
    pub round: u64,
    /// Who sent it.
    pub device: DeviceId,
    /// What it is against.
    pub artifact: Hash,
    /// How far it is.
    pub state: UploadState,
    /// The file, once it came.
    pub file: Option<Sent>,
    /// Why it was dropped.
    pub why: Option<String>,
}

/// A file that came.
#[derive(Clone, Debug, PartialEq)]
pub struct Sent {
    /// Its BLAKE3.
    pub hash: Hash,
    /// Its bytes; 0 once it was let go of.
    pub bytes: u64,
    /// Tokens that it was learned from.
    pub tokens: u64,
    /// Its rank.
    pub rank: u64,
    /// Frobenius norm of its products together.
    pub norm: f64,
    /// Which modules of which widths, as [`shape_bytes`](crate::cohorts::shape_bytes) writes them.
    pub shape: Vec<u8>,
}

macro_rules! upload_rows {
    ($rest:literal) => {
        concat!(
            "select round, device, artifact, state, why, hash, bytes, tokens, rank, norm, shape from upload ",
            $rest
        )
    };
}

fn read_upload(row: Row) -> Result<Upload, BookError> {
    let mut columns = Columns::of(row);
    let columns = &mut columns;
    let (round, device) = (columns.number()?, DeviceId(columns.array()?));
    let artifact = Hash(columns.array()?);
    let state = match columns.number()? {
        1 => UploadState::Invited,
        2 => UploadState::Stored,
        3 => UploadState::Counted,
        4 => UploadState::Dropped,
        got => {
            return Err(BookError::Field { expected: "an upload's state", got: got.to_string() });
        }
    };
    let why = columns.maybe_text()?;
    let file = match columns.maybe_array()? {
        None => None,
        Some(hash) => Some(Sent {
            hash: Hash(hash),
            bytes: columns.maybe_number()?.unwrap_or(0),
            tokens: columns.number()?,
            rank: columns.number()?,
            norm: columns.maybe_real()?.unwrap_or(0.0),
            shape: columns.bytes()?,
        }),
    };
    Ok(Upload { round, device, artifact, state, file, why })
}

/// The upload of a device in a round.
///
/// # Errors
/// [`BookError`].
pub fn upload(book: &dyn Book, round: u64, device: DeviceId) -> Result<Option<Upload>, BookError> {
    let sql = upload_rows!("where round = $1 and device = $2");
    let rows = book.read(sql, &[round.into(), device.into()])?;
    rows.into_iter().next().map(read_upload).transpose()
}

/// The upload of a device against an artifact that is kept or counted, in whatever round.
///
/// # Errors
/// [`BookError`].
pub fn given(
    book: &dyn Book,
    device: DeviceId,
    artifact: Hash,
) -> Result<Option<Upload>, BookError> {
    let sql = upload_rows!("where device = $1 and artifact = $2 and state in (2, 3)");
    let rows = book.read(sql, &[device.into(), artifact.into()])?;
    rows.into_iter().next().map(read_upload).transpose()
}

/// All uploads of a round, by device.
///
/// # Errors
/// [`BookError`].
pub fn uploads(book: &dyn Book, round: u64) -> Result<Vec<Upload>, BookError> {
    let rows = book.read(upload_rows!("where round = $1 order by device"), &[round.into()])?;
    rows.into_iter().map(read_upload).collect()
}

/// What is done with an upload that a device wants to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// The same is there already.
    There,
    /// It is taken, against this artifact.
    Take(Hash),
}

/// Whether a round takes an upload, before any of it has come.
///
/// - `asked`: the device's row in the round. `given`: what it gave against the same artifact, anywhere.
/// # Errors
/// [`Refused`] says why not.
pub fn receive(
    round: &Round,
    asked: Option<&Upload>,
    given: Option<&Upload>,
    hash: Hash,
    now_ms: u64,
) -> Result<Receive, Refused> {
    let id = round.id;
    let Some(asked) = asked else {
        return Err(Refused::new(Code::NotInvited, format!("round {id} did not ask this device")));
    };
    let same = |upload: &&Upload| upload.file.as_ref().is_some_and(|file| file.hash == hash);
    let kept = [Some(asked), given]
        .into_iter()
        .flatten()
        .find(|upload| matches!(upload.state, UploadState::Stored | UploadState::Counted));
    match kept {
        Some(kept) if same(&kept) => return Ok(Receive::There),
        Some(kept) => {
            let message = format!(
                "round {} has another update of this device against {}: one an artifact counts",
                kept.round, kept.artifact
            );
            return Err(Refused::new(Code::AlreadyUploaded, message));
        }
        None => {}
    }
    let takes =
        round.state == State::Open && round.stored < round.quota && now_ms < round.deadline_ms;
    if !takes || asked.state != UploadState::Invited {
        let message = format!("round {id} takes no more; learn on, and wait for another");
        return Err(Refused::new(Code::RoundClosed, message));
    }
    Ok(Receive::Take(asked.artifact))
}

/// Keeps an upload whose file is kept; the last one of the quota closes the round.
pub fn stored(round: u64, device: DeviceId, sent: &Sent, now_ms: u64) -> Vec<Statement> {
    let row =
        "update upload set state = 2, hash = $3, bytes = $4, tokens = $5, rank = $6, norm = $7,
        shape = $8, at = $9 where round = $1 and device = $2 and state = 1
        and exists(select 1 from device where id = $2 and state = 1)";
    let count = "update round set stored = stored + 1
        where id = $1 and state = 1 and stored < quota and deadline > $2";
    let close = "update round set state = 2 where id = $1 and state = 1 and stored >= quota";
    let values: [Value; 9] = [
        round.into(),
        device.into(),
        sent.hash.into(),
        sent.bytes.into(),
        sent.tokens.into(),
        sent.rank.into(),
        sent.norm.into(),
        sent.shape.clone().into(),
        now_ms.into(),
    ];
    vec![
        Statement::one(row, values),
        Statement::one(count, [round.into(), now_ms.into()]),
        Statement::any(close, [round.into()]),
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
    let free = "update upload set state = 4, why = 'the round came to nothing'
        where round = $1 and state in (2, 3)";
    [
        Statement::one(end, [round.id.into(), (round.state as u64).into(), report.into()]),
        Statement::any(free, [round.id.into()]),
    ]
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use sapwood_protocol::fleet::id::PublicKey;
    use sapwood_protocol::fleet::message::{Facts, Installed};

    const HOUR: u64 = 3_600_000;

    fn round() -> Round {
        Round {
            id: 7,
            cohort: CohortId([1; 32]),
            artifact: Hash([5; 32]),
            previous: Hash([4; 32]),
            state: State::Open,
            quota: 100,
            invited: 0,
            stored: 0,
            opened_ms: HOUR,
            deadline_ms: 25 * HOUR,
            seed: [0; 32],
            result: None,
            report: None,
        }
    }

    fn device(n: u32) -> Device {
        Device {
            id: DeviceId(u128::from(n).to_le_bytes()),
            key: PublicKey([3; 32]),
            cohort: Some(CohortId([1; 32])),
            state: DeviceState::Accepted,
            name: "valve".into(),
            agent: String::new(),
            label: Some(String::new()),
            lab: false,
            facts: Facts { base: Hash([2; 32]), first_layer: 1, targets: 5, rank: 8 },
            enrolled_ms: 1,
            seen_ms: 0,
            counter: 7,
            told_ms: 5000,
            installed: Installed { sequence: 3, artifact: Hash([5; 32]) },
            trial: false,
            generation: 0,
            offer: crate::devices::Offered::default(),
        }
    }

    const READY: Option<Ready> = Some(Ready { steps: 1, tokens: 1 });

    /// Goal: about 1.3 quotas of a fleet, never more devices than there are buckets for them.
    #[test]
    fn a_round_invites_a_share_of_the_fleet_and_more_every_hour() {
        let round = round();
        let asked = |now_ms, fleet: u32| {
            let share = share(&round, fleet.into(), now_ms);
            let asks = |n: &u32| invites(&round, &device(*n), READY, share, now_ms).is_some();
            (0..fleet).filter(asks).count()
        };
        let first = asked(HOUR, 20_000);
        // Binomial: 130 expected, five standard deviations are 57.
        assert!((73..187).contains(&first), "{first}");
        assert!(asked(2 * HOUR, 20_000) > first + 50);
        assert_eq!(asked(HOUR, 100), 100, "a small fleet is asked whole");
        assert_eq!(asked(20 * HOUR, 1000), 1000);
        assert_eq!((invited_max(&round, HOUR), invited_max(&round, 3 * HOUR)), (130, 520));
        assert_eq!(share(&round, 0, u64::MAX), u64::from(BUCKETS));
    }

    #[test]
    fn only_who_can_give_something_new_is_asked() {
        let (round, full, now_ms) = (round(), u64::from(BUCKETS), HOUR);
        let asks =
            |device: &Device, round: &Round, ready| invites(round, device, ready, full, now_ms);
        let able = device(1);
        assert_eq!(asks(&able, &round, READY), Some(round.artifact));
        let mut behind = able.clone();
        behind.installed.artifact = round.previous;
        assert_eq!(asks(&behind, &round, READY), Some(round.previous), "one release behind");
        behind.installed.artifact = Hash([9; 32]);
        assert_eq!(asks(&behind, &round, READY), None);
        assert_eq!(asks(&able, &round, None), None);
        assert_eq!(asks(&Device { trial: true, ..able.clone() }, &round, READY), None);
        let suspended = Device { state: DeviceState::Suspended, ..able.clone() };
        assert_eq!(asks(&suspended, &round, READY), None);
        let full = Round { stored: 100, ..round.clone() };
        let closed = Round { state: State::Closed, ..round.clone() };
        let late = Round { deadline_ms: now_ms, ..round.clone() };
        assert!([full, closed, late].iter().all(|round| asks(&able, round, READY).is_none()));
        assert_eq!(invites(&round, &able, READY, 0, now_ms), None);
    }

    #[test]
    fn one_update_an_artifact_is_taken_once_and_the_same_again_is_thanked_for() {
        let hash = Hash([8; 32]);
        let asked = Upload {
            round: 7,
            device: DeviceId([1; 16]),
            artifact: Hash([5; 32]),
            state: UploadState::Invited,
            file: None,
            why: None,
        };
        let file = Sent { hash, bytes: 1, tokens: 1, rank: 1, norm: 1.0, shape: vec![] };
        let kept = Upload { state: UploadState::Stored, file: Some(file), ..asked.clone() };
        let code = |asked: Option<&Upload>, given: Option<&Upload>, hash, round: &Round| {
            receive(round, asked, given, hash, HOUR).map_err(|refused| refused.code())
        };
        let (open, other) = (round(), Hash([9; 32]));
        assert_eq!(code(None, None, hash, &open), Err(Code::NotInvited));
        assert_eq!(code(Some(&asked), None, hash, &open), Ok(Receive::Take(asked.artifact)));
        assert_eq!(code(Some(&kept), Some(&kept), hash, &open), Ok(Receive::There));
        let closed = Round { state: State::Merged, ..open.clone() };
        assert_eq!(code(Some(&kept), None, hash, &closed), Ok(Receive::There), "also later");
        assert_eq!(code(Some(&kept), None, other, &open), Err(Code::AlreadyUploaded));
        assert_eq!(code(Some(&asked), Some(&kept), other, &open), Err(Code::AlreadyUploaded));
        assert_eq!(code(Some(&asked), Some(&kept), hash, &open), Ok(Receive::There));
        assert_eq!(code(Some(&asked), None, hash, &closed), Err(Code::RoundClosed));
        let dropped = Upload { state: UploadState::Dropped, ..kept.clone() };
        assert_eq!(code(Some(&dropped), None, hash, &open), Err(Code::RoundClosed));
    }

    #[test]
    fn a_round_closes_at_its_quota_or_with_who_came_and_fails_with_too_few() {
        let (open, policy) = (round(), Policy::default());
        assert_eq!(step(&open, &policy, 25 * HOUR - 1), Step::Wait);
        assert_eq!(step(&open, &policy, 25 * HOUR), Step::Close);
        assert_eq!(step(&Round { stored: 100, ..open.clone() }, &policy, HOUR), Step::Close);
        let closed = |stored| Round { state: State::Closed, stored, ..round() };
        assert_eq!(step(&closed(10), &policy, HOUR), Step::Merge);
        assert!(matches!(step(&closed(9), &policy, HOUR), Step::Fail(_)));
        for state in [State::Merged, State::Judged, State::Candidate, State::Failed] {
            assert_eq!(step(&Round { state, ..round() }, &policy, u64::MAX), Step::Wait);
        }
    }
}
