//! A ledger made anew from the blocks that lie in the file, for when every manifest is lost.
//!
//! - In: the reservoir's file. Out: a ledger of at most `capacity` of its sound blocks.
//! - The file also holds blocks that were replaced since, or staged by a job that was cut: which ones,
//!   nobody knows any more. Of all that lie there each is taken with the same chance.
//! - Invariant: as the ledger's own; what finds no place counts as lost to damage.

use super::chance::ChanceState;
use super::ledger::{Entry, Ledger};
use super::{Reservoir, ReservoirError, file};
use crate::ports::Storage;
use sapwood_protocol::limits::COUNT_MAX;
use std::collections::BTreeMap;

impl Reservoir {
    /// Whether the file can be opened with this ledger; single blocks may be damaged.
    ///
    /// # Errors
    /// What opening it would say.
    pub(crate) fn check(storage: &dyn Storage, ledger: &Ledger) -> Result<(), ReservoirError> {
        ledger.check(&file::open(storage)?.geometry)
    }

    /// The ledger of what lies in the file; none when there is no file.
    ///
    /// # Errors
    /// [`ReservoirError::Record`] when the head of the file is damaged; [`ReservoirError::Storage`].
    pub(crate) fn salvage(storage: &dyn Storage) -> Result<Option<Ledger>, ReservoirError> {
        if !Self::exists(storage)? {
            return Ok(None);
        }
        let head = file::open(storage)?;
        // By offer: the same block may lie in two places, once as it was and once staged again.
        let mut found = BTreeMap::new();
        for place in 0..head.geometry.places() {
            if let Some((content, digest)) = file::salvage(storage, &head.geometry, place)?
                && (1..=COUNT_MAX).contains(&content.offer)
            {
                found.insert(content.offer, (digest, place, content.block.domain));
            }
        }
        let seen = found.keys().next_back().copied().unwrap_or_default();
        let mut drawn: Vec<_> = found.into_iter().collect();
        drawn.sort_by_key(|(_, (digest, ..))| *digest);
        let used = seen.min(u64::from(head.geometry.capacity));
        drawn.truncate(used as usize);
        let entry =
            |(slot, (offer, (digest, place, domain)))| Entry { slot, place, domain, offer, digest };
        let entries: Vec<Entry> = (0..).zip(drawn).map(entry).collect();
        let lost = used - entries.len() as u64;
        // Not the stream of the device's first day again.
        let mut seed = blake3::Hasher::new();
        seed.update(&head.seed).update(&seen.to_le_bytes()).update(b"salvaged");
        let chance = ChanceState { seed: *seed.finalize().as_bytes(), word_position: 0 };
        let ledger = Ledger { chance, seen, generation: 0, lost, entries, pending: Vec::new() };
        ledger.check(&head.geometry)?;
        Ok(Some(ledger))
    }
}
