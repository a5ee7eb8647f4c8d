//! Hashes of the last samples, so that one that is sent again is not learned again.
//!
//! - Bounded: the oldest hash goes when there are [`INBOX_HASHES_MAX`].
//! - 64 bits of BLAKE3: two different samples share them with a chance of 2^-64 for each pair.

use sapwood_protocol::limits::{COUNT_MAX, INBOX_HASHES_MAX, RECORD_HEADER_BYTES};
use sapwood_protocol::record::{Header, Kind, UncheckedHeader};
use std::collections::{BTreeSet, VecDeque};

/// A ring of hashes and what is in it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    order: VecDeque<u64>,
    hashes: BTreeSet<u64>,
}

impl Seen {
    /// Whether a hash is among the last.
    pub(super) fn contains(&self, hash: u64) -> bool {
        self.hashes.contains(&hash)
    }

    /// Remembers a hash.
    pub(super) fn insert(&mut self, hash: u64) {
        if !self.hashes.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > INBOX_HASHES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
    }

    /// Knows a hash no more.
    pub(super) fn remove(&mut self, hash: u64) {
        if self.hashes.remove(&hash) {
            self.order.retain(|kept| *kept != hash);
        }
    }

    /// A record of the hashes, oldest first, and of the number that the next sample will have.
    pub(super) fn encode(&self, next: u64) -> Vec<u8> {
        let payload: Vec<u8> = self.order.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        let header = Header {
            kind: Kind::Seen,
            version: Kind::Seen.version(),
            generation: next,
            length: payload.len() as u64,
            digest: *blake3::hash(&payload).as_bytes(),
        };
        [&header.encode()[..], &payload].concat()
    }

    /// The hashes and the next number; none when the record does not hold.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, u64)> {
        let header = UncheckedHeader::read(bytes).ok()?.check(Kind::Seen).ok()?;
        let payload = bytes.get(RECORD_HEADER_BYTES..)?;
        let whole = header.length == payload.len() as u64
            && header.generation <= COUNT_MAX
            && payload.len() <= INBOX_HASHES_MAX * size_of::<u64>()
            && *blake3::hash(payload).as_bytes() == header.digest;
        let mut seen = Self::default();
        for hash in payload.as_chunks::<8>().0 {
            seen.insert(u64::from_le_bytes(*hash));
        }
        whole.then_some((seen, header.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_hash_goes_first_and_a_repeated_one_takes_no_room() {
        let mut seen = Seen::default();
        for hash in 0..INBOX_HASHES_MAX as u64 + 2 {
            seen.insert(hash);
            seen.insert(hash);
        }
        assert!(!seen.contains(0) && !seen.contains(1) && seen.contains(2));
        assert_eq!(seen.order.len(), INBOX_HASHES_MAX);
    }

    #[test]
    fn a_record_gives_back_the_hashes_in_order_and_damage_gives_none() {
        let mut seen = Seen::default();
        [7, 3, 5].into_iter().for_each(|hash| seen.insert(hash));
        let bytes = seen.encode(9);
        let read = Seen::decode(&bytes).map(|(seen, next)| (seen.order, next));
        assert_eq!(read, Some((VecDeque::from([7, 3, 5]), 9)));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Seen::decode(&damaged).is_none(), "{at}");
        }
        assert!(Seen::decode(&bytes[..bytes.len() - 1]).is_none());
        assert!(Seen::decode(&seen.encode(u64::MAX)).is_none(), "no sample could follow");
    }
}
