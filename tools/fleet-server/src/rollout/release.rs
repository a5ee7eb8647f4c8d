//! Releases and candidates as rows, and the statements that move them.
//!
//! - A statement's bytes and signatures are kept as they were signed, and stored before they are offered.

use crate::store::{Book, BookError, Columns, Row, Statement};
use sapwood_protocol::fleet::id::{CohortId, Hash};
use sapwood_protocol::fleet::statement::{Role, Statement as Offer};

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

    /// Whether devices are offered it, or may be again.
    pub fn is_offered(self) -> bool {
        matches!(self, Self::Active | Self::Paused | Self::Complete)
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
    /// Its stage, a place in [`STAGES`](super::STAGES).
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

/// The columns of a release, for [`read`].
macro_rules! release_columns {
    () => {
        "release.cohort, release.sequence, release.role, release.artifact, release.bytes, release.statement,
        release.signatures, release.state, release.stage, release.since, release.expires, release.round,
        release.reason"
    };
}
pub(crate) use release_columns;

/// How many they are.
pub(crate) const COLUMNS: usize = 13;

macro_rules! release_rows {
    ($rest:literal) => {
        concat!("select ", release_columns!(), " from release ", $rest)
    };
}

/// A release in its columns.
///
/// # Errors
/// [`BookError::Field`].
pub(crate) fn read(row: Row) -> Result<Release, BookError> {
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

/// Releases that are offered to more and more devices.
///
/// # Errors
/// [`BookError`].
pub fn active(book: &dyn Book) -> Result<Vec<Release>, BookError> {
    let rows =
        book.read(release_rows!("where role = 2 and state = 2 order by cohort, sequence"), &[])?;
    rows.into_iter().map(read).collect()
}

/// Statements of all cohorts that are offered, or may be again.
///
/// # Errors
/// [`BookError`].
pub fn unended(book: &dyn Book) -> Result<Vec<Release>, BookError> {
    let rows =
        book.read(release_rows!("where state in (2, 3, 4) order by cohort, sequence"), &[])?;
    rows.into_iter().map(read).collect()
}

/// Keeps other signatures of a statement.
pub fn signed_again(release: &Release, signatures: &[u8]) -> Statement {
    let sql = "update release set signatures = $4 where cohort = $1 and sequence = $2 and signatures = $3";
    Statement::one(
        sql,
        [
            release.cohort.into(),
            release.sequence.into(),
            release.signatures.clone().into(),
            signatures.to_vec().into(),
        ],
    )
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
