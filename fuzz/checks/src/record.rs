//! Records whose header is right, whatever their payload: what a mutation alone never is.

use sapwood_protocol::limits::RECORD_HEADER_BYTES;
use sapwood_protocol::record::{Header, Kind};

/// The payload behind a sound header of the version that is written today.
pub fn seal(kind: Kind, generation: u64, payload: &[u8]) -> Vec<u8> {
    seal_as(kind, kind.version(), generation, payload)
}

/// The same as of another version.
pub fn seal_as(kind: Kind, version: u16, generation: u64, payload: &[u8]) -> Vec<u8> {
    let (length, digest) = (payload.len() as u64, *blake3::hash(payload).as_bytes());
    [&Header { kind, version, generation, length, digest }.encode()[..], payload].concat()
}

/// What follows the header.
pub fn payload(record: &[u8]) -> &[u8] {
    record.get(RECORD_HEADER_BYTES..).unwrap_or_default()
}

/// Puts `to` in the place of every `from` of the same length.
pub fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|window| window == from) {
        bytes[at + found..at + found + to.len()].copy_from_slice(to);
        at += found + to.len();
    }
}
