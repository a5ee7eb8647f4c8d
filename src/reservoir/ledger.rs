//! The ledger: which block is in which slot, where chance stands, what is left of the pass. Small,
//! and durable at once.
//!
//! - In and out: one value inside the manifest (what is committed) and inside a checkpoint.
//! - Invariant: `held + dropped == min(seen, capacity)`; no two slots share a place; no slot is
//!   pending twice.
//! - Never here: the blocks themselves.

use super::chance::ChanceState;
use super::{Geometry, ReservoirError};
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::COUNT_MAX;

/// One held block.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Which slot of Algorithm R.
    pub(crate) slot: u32,
    /// Which place of the file.
    pub(crate) place: u32,
    /// The block's domain, so that counting reads no block.
    pub(crate) domain: u32,
    /// The how-many-th block offered it was, from 1.
    pub(crate) offer: u64,
    /// BLAKE3 of the place's payload.
    pub(crate) digest: [u8; 32],
}

/// The reservoir but for its blocks: what a commit or a checkpoint makes durable.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Where the sampler's chance stands.
    pub(crate) chance: ChanceState,
    /// How many blocks were ever offered.
    pub(crate) seen: u64,
    /// How often the reservoir was committed.
    pub(crate) generation: u64,
    /// How many held blocks were ever lost to damage.
    pub(crate) lost: u64,
    /// The held blocks, by slot.
    pub(crate) entries: Vec<Entry>,
    /// The slots that the pass has still to serve, the next one last.
    pub(crate) pending: Vec<u32>,
}

/// An entry from when a domain's number was a short one.
#[derive(Archive, Serialize, Deserialize)]
struct FirstEntry {
    slot: u32,
    place: u32,
    domain: u16,
    offer: u64,
    digest: [u8; 32],
}

/// A ledger from before there were passes: of manifests of versions 1 and 2, of checkpoints of
/// version 1.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct FirstLedger {
    chance: ChanceState,
    seen: u64,
    generation: u64,
    lost: u64,
    entries: Vec<FirstEntry>,
}

/// A ledger with short numbers of domains: of manifests of versions 3 and 4, of checkpoints of
/// version 2.
#[derive(Archive, Serialize, Deserialize)]
pub(crate) struct SecondLedger {
    chance: ChanceState,
    seen: u64,
    generation: u64,
    lost: u64,
    entries: Vec<FirstEntry>,
    pending: Vec<u32>,
}

impl From<FirstEntry> for Entry {
    fn from(first: FirstEntry) -> Self {
        let FirstEntry { slot, place, domain, offer, digest } = first;
        Self { slot, place, domain: domain.into(), offer, digest }
    }
}

impl From<FirstLedger> for SecondLedger {
    fn from(first: FirstLedger) -> Self {
        let FirstLedger { chance, seen, generation, lost, entries } = first;
        Self { chance, seen, generation, lost, entries, pending: Vec::new() }
    }
}

impl From<SecondLedger> for Ledger {
    fn from(second: SecondLedger) -> Self {
        let SecondLedger { chance, seen, generation, lost, entries, pending } = second;
        let entries = entries.into_iter().map(Entry::from).collect();
        Self { chance, seen, generation, lost, entries, pending }
    }
}

impl From<FirstLedger> for Ledger {
    fn from(first: FirstLedger) -> Self {
        SecondLedger::from(first).into()
    }
}

impl Ledger {
    /// Nothing offered yet.
    pub(crate) fn empty(seed: [u8; 32]) -> Self {
        let chance = ChanceState { seed, word_position: 0 };
        Self { chance, seen: 0, generation: 0, lost: 0, entries: Vec::new(), pending: Vec::new() }
    }

    /// Whether every number lies where this geometry allows.
    pub(crate) fn check(&self, geometry: &Geometry) -> Result<(), ReservoirError> {
        let used = self.seen.min(u64::from(geometry.capacity));
        let wrong = |what, got| Err(ReservoirError::Ledger { what, got });
        if let Some(count) =
            [self.seen, self.generation, self.lost].into_iter().find(|count| *count > COUNT_MAX)
        {
            return wrong("a count that no device reaches", count);
        }
        let (mut next, mut places) = (0, vec![false; geometry.places() as usize]);
        for entry in &self.entries {
            if entry.slot < next || u64::from(entry.slot) >= used {
                return wrong("a slot out of order or never filled", u64::from(entry.slot));
            }
            next = entry.slot + 1;
            if entry.offer == 0 || entry.offer > self.seen {
                return wrong("an offer that was never made", entry.offer);
            }
            match places.get_mut(entry.place as usize) {
                Some(taken) if !*taken => *taken = true,
                _ => return wrong("a place twice or outside the file", u64::from(entry.place)),
            }
        }
        let mut pending = vec![false; used as usize];
        for &slot in &self.pending {
            match pending.get_mut(slot as usize) {
                Some(twice) if !*twice => *twice = true,
                _ => return wrong("a slot to serve twice or never filled", u64::from(slot)),
            }
        }
        Ok(())
    }

    /// The highest number of a domain that it names, 0 where it names none.
    pub(crate) fn domain_max(&self) -> u32 {
        self.entries.iter().map(|entry| entry.domain).max().unwrap_or_default()
    }

    /// The places it names.
    pub(crate) fn places(&self) -> impl Iterator<Item = u32> {
        self.entries.iter().map(|entry| entry.place)
    }
}
