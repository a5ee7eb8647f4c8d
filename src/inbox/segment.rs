//! A segment's bytes: batches one after the other, each behind its header.
//!
//! - In: bytes that may have been torn, cut short or flipped. Out: the sound batches, and how many
//!   bytes are none of them.
//! - A batch's header names the number of its first sample, so that what follows a damaged place is
//!   found again and keeps its numbers.
//! - Never here: the disk.

use crate::intake::{self, Example};
use sapwood_protocol::limits::{COUNT_MAX, RECORD_HEADER_BYTES};
use sapwood_protocol::record::{Header, Kind, MAGIC, UncheckedHeader};

/// Where a batch lies and which samples it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// Number of its first sample.
    pub(super) first: u64,
    /// Samples in it, at least one.
    pub(super) count: u64,
    /// Where its header begins in the segment.
    pub(super) at: u64,
    /// Bytes with the header.
    pub(super) bytes: u64,
}

impl Batch {
    /// Number of its last sample.
    pub(super) fn last(&self) -> u64 {
        self.first + (self.count - 1)
    }
}

/// The number of the segment of that name, which is that of its first sample.
pub(super) fn number(name: &str) -> Option<u64> {
    // `007` and `7` would be one number: only the name that we write is ours.
    let ours = |number: &u64| *number <= COUNT_MAX && number.to_string() == name;
    name.parse().ok().filter(ours)
}

/// The bytes of a batch of JSON lines, the first of which is sample `first`.
pub(super) fn encode(first: u64, lines: &str) -> Vec<u8> {
    let payload = lines.as_bytes();
    let header = Header {
        kind: Kind::Batch,
        version: Kind::Batch.version(),
        generation: first,
        length: payload.len() as u64,
        digest: *blake3::hash(payload).as_bytes(),
    };
    [&header.encode(), payload].concat()
}

/// The batch that `bytes` begin with, if it is sound: header, lines and examples.
pub(super) fn decode(bytes: &[u8]) -> Option<(Header, Vec<Example>)> {
    let header = UncheckedHeader::read(bytes).ok()?.check(Kind::Batch).ok()?;
    let length = usize::try_from(header.length).ok()?;
    let payload = bytes.get(RECORD_HEADER_BYTES..)?.get(..length)?;
    if *blake3::hash(payload).as_bytes() != header.digest {
        return None;
    }
    let lines = std::str::from_utf8(payload).ok()?;
    let examples = intake::lines(lines, "inbox").ok().filter(|examples| !examples.is_empty())?;
    let last = header.generation.checked_sub(1)?.checked_add(examples.len() as u64)?;
    (last <= COUNT_MAX).then_some((header, examples))
}

/// What stands in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece<'e> {
    /// A sound batch.
    Sound(Batch, &'e [Example]),
    /// A batch that was whole once and is not any more.
    Damaged {
        /// Number of its first sample.
        first: u64,
        /// Samples in it, as far as its lines tell.
        count: u64,
    },
}

/// Every batch in order, with its examples where it is sound; then how many bytes belong to none that is.
///
/// `visit` gets each; numbers below `from` or not below `until` are another segment's, left by a
/// write that failed.
pub(super) fn scan(
    bytes: &[u8],
    (mut from, until): (u64, u64),
    mut visit: impl FnMut(Piece<'_>),
) -> u64 {
    let (mut at, mut passed_over) = (0, 0);
    while at < bytes.len() {
        let found = decode(&bytes[at..]);
        let found = found.filter(|(header, _)| (from..until).contains(&header.generation));
        let Some((header, examples)) = found else {
            let next = next_magic(bytes, at + 1);
            if let Some((first, count)) = damaged(&bytes[at..], next - at, from)
                && (from..until).contains(&first)
            {
                visit(Piece::Damaged { first, count });
                from = first.saturating_add(count);
            }
            passed_over += (next - at) as u64;
            at = next;
            continue;
        };
        let length = RECORD_HEADER_BYTES + header.length as usize;
        let (first, count) = (header.generation, examples.len() as u64);
        let batch = Batch { first, count, at: at as u64, bytes: length as u64 };
        visit(Piece::Sound(batch, &examples));
        (at, from) = (at + length, first + count);
    }
    passed_over
}

/// First number and count of a batch that was written whole and is damaged since; none where a write was
/// cut, which leaves bytes that are missing or zero. `reach`: bytes to the next record. `next`: the number
/// that would follow, for a header that does not tell it any more.
fn damaged(bytes: &[u8], reach: usize, next: u64) -> Option<(u64, u64)> {
    let header = UncheckedHeader::read(bytes).ok()?.check(Kind::Batch).ok();
    let (first, payload) = match header {
        Some(header) => {
            let length = usize::try_from(header.length).ok()?;
            let payload = bytes.get(RECORD_HEADER_BYTES..)?.get(..length)?;
            let torn = payload.contains(&0) || *blake3::hash(payload).as_bytes() == header.digest;
            (header.generation, Some(payload).filter(|_| !torn)?)
        }
        // Only the header changed where its digest is still the payload's.
        None => {
            let payload = bytes.get(RECORD_HEADER_BYTES..reach)?;
            let digest = blake3::hash(payload);
            let named = bytes[..RECORD_HEADER_BYTES].windows(32).any(|w| w == digest.as_bytes());
            (next, Some(payload).filter(|payload| named && !payload.is_empty())?)
        }
    };
    Some((first, payload.split_inclusive(|byte| *byte == b'\n').count() as u64))
}

/// Where the next record may begin; the end when none does.
fn next_magic(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(MAGIC.len())
        .position(|window| window == MAGIC)
        .map_or(bytes.len(), |place| from + place)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 3] =
        ["{\"text\":\"a\"}\n", "{\"text\":\"b\"}\n{\"text\":\"c\"}\n", "{\"text\":\"d\"}\n"];

    fn segment() -> Vec<u8> {
        [encode(1, LINES[0]), encode(2, LINES[1]), encode(4, LINES[2])].concat()
    }

    fn firsts(bytes: &[u8]) -> (Vec<u64>, u64) {
        let mut firsts = Vec::new();
        let passed_over = scan(bytes, (1, u64::MAX), |piece| {
            if let Piece::Sound(batch, _) = piece {
                firsts.push(batch.first);
            }
        });
        (firsts, passed_over)
    }

    #[test]
    fn batches_come_back_in_order_with_their_numbers() {
        let mut seen = Vec::new();
        let passed_over = scan(&segment(), (1, u64::MAX), |piece| {
            let Piece::Sound(batch, examples) = piece else { return };
            seen.push((batch.first, batch.last(), examples.len()));
        });
        assert_eq!((seen, passed_over), (vec![(1, 1, 1), (2, 3, 2), (4, 4, 1)], 0));
    }

    #[test]
    fn a_damaged_batch_costs_itself_alone() {
        let whole = segment();
        let second = encode(1, LINES[0]).len();
        for at in second..second + encode(2, LINES[1]).len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            let (firsts, passed_over) = firsts(&bytes);
            assert_eq!(
                (firsts, passed_over),
                (vec![1, 4], encode(2, LINES[1]).len() as u64),
                "{at}"
            );
        }
    }

    /// Whichever bit of it flips, and although it is the last: its numbers are known to be gone.
    #[test]
    fn a_damaged_batch_still_tells_its_numbers_and_a_torn_one_tells_none() {
        let of = |bytes: &[u8]| {
            let mut told = None;
            scan(bytes, (2, u64::MAX), |piece| {
                if let Piece::Damaged { first, count } = piece {
                    told = Some((first, count));
                }
            });
            told
        };
        let whole = encode(2, LINES[1]);
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let told = of(&bytes);
            let line_end = whole[bit / 8] == b'\n';
            // A flip in the digest leaves nothing to know it by, one in a line's end a line fewer.
            let digest = (28..60).contains(&(bit / 8));
            assert!(told == Some((2, 2)) || line_end || digest, "bit {bit}: {told:?}");
        }
        for length in 0..whole.len() {
            let mut bytes = whole[..length].to_vec();
            assert_eq!(of(&bytes), None, "{length}");
            bytes.resize(whole.len(), 0);
            assert_eq!(of(&bytes), None, "{length} and zeros");
        }
    }

    #[test]
    fn a_torn_end_is_passed_over_at_any_length() {
        let whole = segment();
        for length in 0..whole.len() {
            let (firsts, passed_over) = firsts(&whole[..length]);
            let sound: u64 = firsts.iter().map(|first| batch_bytes(*first)).sum();
            assert_eq!(sound + passed_over, length as u64);
        }
    }

    fn batch_bytes(first: u64) -> u64 {
        let lines = match first {
            1 => LINES[0],
            2 => LINES[1],
            _ => LINES[2],
        };
        encode(first, lines).len() as u64
    }

    #[test]
    fn numbers_of_another_segment_are_left_alone() {
        let mut seen = Vec::new();
        scan(&segment(), (1, 4), |piece| {
            if let Piece::Sound(batch, _) = piece {
                seen.push(batch.first);
            }
        });
        assert_eq!(seen, [1, 2]);
        let repeated = [segment(), segment()].concat();
        assert_eq!(firsts(&repeated).0, [1, 2, 4], "a number comes once");
        for first in [0, COUNT_MAX + 1, u64::MAX] {
            let bytes = encode(first, LINES[0]);
            assert_eq!(firsts(&bytes), (Vec::new(), bytes.len() as u64), "{first}");
        }
    }
}
