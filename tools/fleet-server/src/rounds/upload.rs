//! Uploads of a round: which is taken, once.
//!
//! ```text
//! invited -> stored -> counted, or dropped
//! ```
//! - A device gives one update an artifact: the book itself sees to it.

use super::{Round, State};
use crate::door::Refused;
use crate::store::{Book, BookError, Columns, Row, Statement, Value};
use sapwood_protocol::fleet::code::Code;
use sapwood_protocol::fleet::id::{DeviceId, Hash};

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

/// The columns of an upload, for [`read_upload`].
macro_rules! upload_columns {
    () => {
        "upload.round, upload.device, upload.artifact, upload.state, upload.why, upload.hash, upload.bytes,
        upload.tokens, upload.rank, upload.norm, upload.shape"
    };
}
pub(crate) use upload_columns;

/// How many they are.
pub(crate) const UPLOAD_COLUMNS: usize = 11;

macro_rules! upload_rows {
    ($rest:literal) => {
        concat!("select ", upload_columns!(), " from upload ", $rest)
    };
}

/// An upload in its columns.
///
/// # Errors
/// [`BookError::Field`].
pub(crate) fn read_upload(row: Row) -> Result<Upload, BookError> {
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
