//! A record on disk: the checked header, then an rkyv archive of little-endian numbers.
//!
//! - In: a plain value. Out: bytes that say themselves what they are; and back, as from a stranger.
//! - rkyv's layout depends on its Cargo features, which are pinned: little_endian, pointer_width_32.
//! - Never here: unchecked access; every archive is validated before a number of it is used.

use rkyv::api::high::{HighDeserializer, HighSerializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::RECORD_HEADER_BYTES;
use sapwood_protocol::record::{Header, HeaderError, Kind, UncheckedHeader};

/// Why bytes are not the record they should be.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The header does not hold.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The payload ends early.
    #[error("record is cut short: expected {expected} bytes of payload, got {got}")]
    Length {
        /// What the header says.
        expected: u64,
        /// What there is.
        got: u64,
    },
    /// The payload is not the one that was written.
    #[error("record is damaged: its payload does not have the BLAKE3 digest it was written with")]
    Digest,
    /// The payload is no archive of this type, or the value cannot be archived.
    #[error("record does not hold what its kind says: {0}")]
    Archive(#[from] rancor::Error),
}

impl RecordError {
    /// Whether a later version of this program wrote it.
    pub(crate) fn is_newer(&self) -> bool {
        matches!(self, Self::Header(header) if header.is_newer())
    }
}

/// A value's archive behind its header.
///
/// # Errors
/// [`RecordError::Archive`] when it is larger than rkyv's offsets reach.
pub(crate) fn seal<T>(kind: Kind, generation: u64, value: &T) -> Result<Vec<u8>, RecordError>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    seal_as(kind, kind.version(), generation, value)
}

/// The same of a type that an earlier version of the kind has.
///
/// # Errors
/// As [`seal`].
pub(crate) fn seal_as<T>(
    kind: Kind,
    version: u16,
    generation: u64,
    value: &T,
) -> Result<Vec<u8>, RecordError>
where
    T: for<'a> Serialize<HighSerializer<AlignedVec, ArenaHandle<'a>, rancor::Error>>,
{
    let payload = rkyv::to_bytes::<rancor::Error>(value)?;
    let digest = *blake3::hash(&payload).as_bytes();
    let length = payload.len() as u64;
    let header = Header { kind, version, generation, length, digest };
    let mut bytes = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(&payload);
    Ok(bytes)
}

/// The checked header that `bytes` begin with, if it is of that kind.
///
/// # Errors
/// [`RecordError::Header`] says what does not hold.
pub(crate) fn header(kind: Kind, bytes: &[u8]) -> Result<Header, RecordError> {
    Ok(UncheckedHeader::read(bytes)?.check(kind)?)
}

/// The value in the record behind its header; which type that is goes by the header's version. What
/// follows the record is ignored.
///
/// # Errors
/// [`RecordError`] says what does not hold.
pub(crate) fn open<T>(header: &Header, bytes: &[u8]) -> Result<T, RecordError>
where
    T: Archive,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, rancor::Error>>
        + Deserialize<T, HighDeserializer<rancor::Error>>,
{
    let after = bytes.get(RECORD_HEADER_BYTES..).unwrap_or_default();
    let short = RecordError::Length { expected: header.length, got: after.len() as u64 };
    let length = usize::try_from(header.length).unwrap_or(usize::MAX);
    let payload = after.get(..length).ok_or(short)?;
    if *blake3::hash(payload).as_bytes() != header.digest {
        return Err(RecordError::Digest);
    }
    let mut aligned = AlignedVec::<16>::with_capacity(payload.len());
    aligned.extend_from_slice(payload);
    Ok(rkyv::from_bytes::<T, rancor::Error>(&aligned)?)
}
