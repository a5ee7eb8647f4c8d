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

/// Every sound batch with its examples, in order; then how many bytes belong to none.
///
/// `visit` gets each batch; numbers below `from` or not below `until` are another segment's, left by a
/// write that failed.
pub(super) fn scan(
    bytes: &[u8],
    (mut from, until): (u64, u64),
    mut visit: impl FnMut(Batch, &[Example]),
) -> u64 {
    let (mut at, mut passed_over) = (0, 0);
    while at < bytes.len() {
        let found = decode(&bytes[at..]);
        let found = found.filter(|(header, _)| (from..until).contains(&header.generation));
        let Some((header, examples)) = found else {
            let next = next_magic(bytes, at + 1);
            passed_over += (next - at) as u64;
            at = next;
            continue;
        };
        let length = RECORD_HEADER_BYTES + header.length as usize;
        let (first, count) = (header.generation, examples.len() as u64);
        visit(Batch { first, count, at: at as u64, bytes: length as u64 }, &examples);
        (at, from) = (at + length, first + count);
    }
    passed_over
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
        let passed_over = scan(bytes, (1, u64::MAX), |batch, _| firsts.push(batch.first));
        (firsts, passed_over)
    }

    #[test]
    fn batches_come_back_in_order_with_their_numbers() {
        let mut seen = Vec::new();
        let passed_over = scan(&segment(), (1, u64::MAX), |batch, examples| {
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
        scan(&segment(), (1, 4), |batch, _| seen.push(batch.first));
        assert_eq!(seen, [1, 2]);
        let repeated = [segment(), segment()].concat();
        assert_eq!(firsts(&repeated).0, [1, 2, 4], "a number comes once");
        for first in [0, COUNT_MAX + 1, u64::MAX] {
            let bytes = encode(first, LINES[0]);
            assert_eq!(firsts(&bytes), (Vec::new(), bytes.len() as u64), "{first}");
        }
    }
}
