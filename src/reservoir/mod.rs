//! The reservoir: a bounded memory of past blocks, replayed so that new learning does not erase old.
//!
//! Every block ever offered is held with the same chance, `capacity / seen` (Vitter 1985, Algorithm R).
//! - In: blocks in order of arrival. Out: the held ones in passes, for replay: each once in an order
//!   drawn evenly, then each once in another.
//! - A block that is accepted is *staged*: written once, to a free place of the file, where `draw`
//!   finds it from then on. The ledger that names it becomes durable with a checkpoint or a commit
//!   (see `state`), and no place that the last commit or the last checkpoint names is written
//!   before. So a cut leaves the reservoir of the last commit without anything to repair.
//! - A block found damaged when it is read is dropped and counted. Its slot is empty until an offer
//!   falls on it; the others keep their chance.
//! - Invariant: `held == min(seen, capacity) - dropped`, dropped being 0 on a sound disk.
//! - Never here: clocks, the network; `file` owns the bytes.

mod chance;
mod error;
mod file;
mod geometry;
mod ledger;
mod pass;
mod places;
pub(crate) mod record;
mod salvage;
#[cfg(test)]
mod tests;

pub use chance::{ChanceState, below};
pub use error::{ReservoirError, SlotError};
pub use geometry::Geometry;
pub use ledger::Ledger;
pub(crate) use ledger::{FirstLedger, SecondLedger};
pub use record::RecordError;

use crate::block::Block;
use crate::ports::Storage;
use chance::slot_for;
use half::f16;
use ledger::Entry;
use pass::Turn;
use places::Places;
use rand_chacha::ChaCha8Rng;
use sapwood_protocol::limits::DRAW_BLOCKS_MAX;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Hidden states of a block at the tap, and what computed them.
#[derive(Clone, Debug, PartialEq)]
pub struct Hidden {
    /// `[T, D]`, row-major.
    pub states: Vec<f16>,
    /// What they come from, by its number; 0 where an earlier version did not say.
    pub origin: u64,
}

/// A block drawn for replay.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The block as it was offered.
    pub block: Block,
    /// Its hidden states, where the reservoir keeps them.
    pub hidden: Option<Hidden>,
    /// Its loss when it was offered, in nats per label.
    pub loss: f32,
    /// The how-many-th block offered it was, from 1.
    pub offer: u64,
    /// Which slot it is in.
    pub slot: u32,
}

/// A held block that was found damaged and dropped.
#[derive(Debug)]
pub struct Lost {
    /// The slot it was in.
    pub slot: u32,
    /// Why it cannot be used.
    pub reason: SlotError,
}

/// What the reservoir holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Most blocks it can hold.
    pub capacity: u32,
    /// Blocks it holds now, staged ones included.
    pub held: u32,
    /// Of these, blocks that no commit has made durable yet.
    pub staged: u32,
    /// Blocks ever offered.
    pub seen: u64,
    /// Blocks ever lost to damage.
    pub corrupt: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Held blocks by domain.
    pub per_domain: BTreeMap<u32, u32>,
}

/// A bounded memory of blocks on a disk.
pub struct Reservoir {
    storage: Arc<dyn Storage>,
    geometry: Geometry,
    committed: Ledger,
    chance: ChaCha8Rng,
    seen: u64,
    lost_ever: u64,
    held: u32,
    slots: Vec<Option<Entry>>,
    pending: Vec<u32>,
    places: Places,
    lost: Vec<Lost>,
}

impl Reservoir {
    /// A new, empty reservoir; its file is written at full size.
    ///
    /// # Errors
    /// [`ReservoirError::Limit`]; [`ReservoirError::Storage`], after which no part of it remains.
    pub fn create(
        storage: Arc<dyn Storage>,
        geometry: Geometry,
        seed: [u8; 32],
    ) -> Result<Self, ReservoirError> {
        geometry.check()?;
        file::create(&*storage, &file::Head { geometry, seed })?;
        Self::open(storage, None, None)
    }

    /// The reservoir of a commit, and what a checkpoint staged on top of it.
    ///
    /// Without a commit nothing was ever offered to it.
    /// # Errors
    /// [`ReservoirError::Record`] when the head of the file is damaged beyond its copy;
    /// [`ReservoirError::Ledger`]; [`ReservoirError::Storage`].
    pub fn open(
        storage: Arc<dyn Storage>,
        committed: Option<&Ledger>,
        staged: Option<&Ledger>,
    ) -> Result<Self, ReservoirError> {
        let head = file::open(&*storage)?;
        let committed = committed.cloned().unwrap_or_else(|| Ledger::empty(head.seed));
        let now = staged.unwrap_or(&committed);
        committed.check(&head.geometry)?;
        now.check(&head.geometry)?;
        let mut places = Places::new(head.geometry.places());
        places.pin(committed.places().chain(now.places()), now.places());
        let mut reservoir = Self {
            storage,
            geometry: head.geometry,
            chance: now.chance.resume(),
            seen: now.seen,
            lost_ever: now.lost,
            held: 0,
            slots: Vec::new(),
            pending: Vec::new(),
            places,
            lost: Vec::new(),
            committed: committed.clone(),
        };
        reservoir.take_slots(now);
        Ok(reservoir)
    }

    /// The same one over another storage, to go its own way from here: for experiments.
    ///
    /// # Errors
    /// As [`Reservoir::open`].
    pub fn copy(&self, to: Arc<dyn Storage>) -> Result<Self, ReservoirError> {
        to.write(file::NAME, &self.storage.read(file::NAME)?)?;
        Self::open(to, Some(&self.committed), Some(&self.sync()?))
    }

    /// Its file in the state folder.
    pub(crate) const FILE: &'static str = file::NAME;

    /// Whether the state folder has a reservoir.
    ///
    /// # Errors
    /// [`ReservoirError::Storage`].
    pub fn exists(storage: &dyn Storage) -> Result<bool, ReservoirError> {
        Ok(storage.len(file::NAME)?.is_some())
    }

    /// Its sizes.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Offers a block once; whether it was accepted.
    ///
    /// - `hidden`: where the geometry keeps hidden states, else none.
    /// - `loss`: in nats per label, as just computed.
    ///
    /// The block can be drawn at once and becomes durable with the next checkpoint or commit.
    /// # Errors
    /// [`ReservoirError::Block`], [`ReservoirError::Hidden`], [`ReservoirError::NoRoom`],
    /// [`ReservoirError::Storage`]; after each the offer was not made.
    pub fn offer(
        &mut self,
        block: &Block,
        hidden: Option<&Hidden>,
        loss: f32,
    ) -> Result<bool, ReservoirError> {
        self.geometry.fits(block, hidden.map(|hidden| &*hidden.states))?;
        let mut chance = self.chance.clone();
        let slot = slot_for(self.seen, self.geometry.capacity, &mut chance);
        if let Some(slot) = slot {
            let (block, hidden) = (block.clone(), hidden.cloned());
            let (is_first, others) = (slot as usize >= self.slots.len(), self.held);
            self.stage(slot, &file::Content { block, offer: self.seen + 1, loss, hidden })?;
            if is_first {
                pass::join(&mut self.pending, slot, others, &mut chance);
            }
        }
        self.chance = chance;
        self.seen += 1;
        Ok(slot.is_some())
    }

    /// Blocks it holds now, staged ones included: what [`Reservoir::stats`] says, at no cost.
    pub fn held(&self) -> u32 {
        self.held
    }

    /// How many more blocks can be accepted before a checkpoint or a commit is needed.
    pub fn room(&self) -> u32 {
        self.places.free()
    }

    /// The next `n` blocks of the pass, all different; all that are held when `n` is more.
    ///
    /// - A pass serves each slot that holds a block when it begins once, in an order drawn for it.
    ///   When it ends the next begins, within the same draw if more is asked for; what the draw has
    ///   already comes first in the next draw then.
    /// - A slot serves what it holds at its turn. One filled for the first time joins the pass at any
    ///   place of it; where that was served already, it waits for the next.
    /// - A damaged block is dropped and the next one served in its stead.
    /// # Errors
    /// [`ReservoirError::Draw`]; [`ReservoirError::Storage`]. After each the draw was not made.
    pub fn draw(&mut self, n: usize) -> Result<Vec<Drawn>, ReservoirError> {
        if n > DRAW_BLOCKS_MAX {
            return Err(ReservoirError::Draw { limit: DRAW_BLOCKS_MAX, got: n });
        }
        let mut turn = Turn::new(std::mem::take(&mut self.pending));
        let drawn = self.serve(n, &mut turn);
        self.pending = match drawn {
            Ok(_) => turn.end(),
            Err(_) => turn.undo(&mut self.chance),
        };
        drawn
    }

    /// What it holds, without reading a block.
    pub fn stats(&self) -> Stats {
        let mut per_domain = BTreeMap::new();
        for entry in self.slots.iter().flatten() {
            *per_domain.entry(entry.domain).or_default() += 1;
        }
        let committed: BTreeMap<u32, &Entry> =
            self.committed.entries.iter().map(|entry| (entry.slot, entry)).collect();
        let is_staged = |entry: &&Entry| committed.get(&entry.slot) != Some(entry);
        Stats {
            capacity: self.geometry.capacity,
            held: self.held,
            staged: self.slots.iter().flatten().filter(is_staged).count() as u32,
            seen: self.seen,
            corrupt: self.lost_ever,
            bytes: self.geometry.file_bytes(),
            per_domain,
        }
    }

    /// Reads every held block and drops the damaged ones; how many are sound.
    ///
    /// # Errors
    /// [`ReservoirError::Storage`].
    pub fn verify(&mut self) -> Result<u32, ReservoirError> {
        for slot in 0..self.slots.len() as u32 {
            self.read(slot)?;
        }
        Ok(self.held)
    }

    /// The blocks found damaged since it was opened.
    pub fn lost(&self) -> &[Lost] {
        &self.lost
    }

    /// Forgets what was staged since the last commit, chance and pass included.
    ///
    /// A checkpoint that names staged blocks must be gone before.
    pub(crate) fn discard(&mut self) {
        let committed = self.committed.clone();
        self.chance = committed.chance.resume();
        (self.seen, self.lost_ever) = (committed.seen, committed.lost);
        self.take_slots(&committed);
        self.places.pin(committed.places(), committed.places());
    }

    /// Makes every staged block durable, and gives the ledger that names them.
    pub(crate) fn sync(&self) -> Result<Ledger, ReservoirError> {
        self.storage.sync(file::NAME)?;
        Ok(Ledger {
            chance: ChanceState::of(&self.chance),
            seen: self.seen,
            generation: self.committed.generation + 1,
            lost: self.lost_ever,
            entries: self.slots.iter().flatten().cloned().collect(),
            pending: self.pending.clone(),
        })
    }

    /// A checkpoint naming `ledger` is durable: its places stay, those of the one before are free.
    pub(crate) fn checkpointed(&mut self, ledger: &Ledger) {
        self.places.pin(self.committed.places().chain(ledger.places()), ledger.places());
    }

    /// Takes what was staged for good, where no state folder keeps commits: for experiments.
    ///
    /// # Errors
    /// [`ReservoirError::Storage`].
    pub fn settle(&mut self) -> Result<(), ReservoirError> {
        let ledger = self.sync()?;
        self.committed(ledger);
        Ok(())
    }

    /// A commit of `ledger` is durable: only its places stay.
    pub(crate) fn committed(&mut self, ledger: Ledger) {
        self.places.pin(ledger.places(), ledger.places());
        self.committed = ledger;
    }

    fn stage(&mut self, slot: u32, content: &file::Content) -> Result<(), ReservoirError> {
        let generation = self.committed.generation + 1;
        let (bytes, digest) = file::encode(&self.geometry, generation, content)?;
        let place = self.places.take().ok_or(ReservoirError::NoRoom)?;
        if let Err(error) = file::write(&*self.storage, &self.geometry, place, &bytes) {
            self.places.release(place);
            return Err(error.into());
        }
        let (domain, offer) = (content.block.domain, content.offer);
        self.put(slot, Some(Entry { slot, place, domain, offer, digest }));
        Ok(())
    }

    fn serve(&mut self, n: usize, turn: &mut Turn) -> Result<Vec<Drawn>, ReservoirError> {
        let mut drawn = Vec::with_capacity(n);
        // Damage shrinks `held` inside the loop, so that it ends even on a ruined file.
        while drawn.len() < n.min(self.held as usize) {
            match turn.next_slot() {
                Some(slot) => drawn.extend(self.read(slot)?),
                None => {
                    let filled = self.slots.iter().flatten().map(|entry| entry.slot);
                    turn.begin(filled, &mut self.chance);
                }
            }
        }
        Ok(drawn)
    }

    /// What a slot holds, or none when it is empty or was just found damaged.
    fn read(&mut self, slot: u32) -> Result<Option<Drawn>, ReservoirError> {
        let Some(Some(entry)) = self.slots.get(slot as usize) else { return Ok(None) };
        match file::read(&*self.storage, &self.geometry, entry.place, &entry.digest)? {
            Ok(file::Content { block, offer, loss, hidden }) => {
                Ok(Some(Drawn { block, hidden, loss, offer, slot }))
            }
            // A later version wrote it: it is sound, and not this one's to drop.
            Err(SlotError::Record(source)) if source.is_newer() => {
                Err(ReservoirError::Newer { slot, source })
            }
            Err(reason) => {
                self.put(slot, None);
                self.lost_ever += 1;
                self.lost.push(Lost { slot, reason });
                Ok(None)
            }
        }
    }

    fn put(&mut self, slot: u32, entry: Option<Entry>) {
        let at = slot as usize;
        if at >= self.slots.len() {
            self.slots.resize(at + 1, None);
        }
        self.held += u32::from(entry.is_some());
        if let Some(old) = std::mem::replace(&mut self.slots[at], entry) {
            self.held -= 1;
            self.places.release(old.place);
        }
    }

    fn take_slots(&mut self, ledger: &Ledger) {
        let used = ledger.seen.min(u64::from(self.geometry.capacity)) as usize;
        self.slots = vec![None; used];
        for entry in &ledger.entries {
            self.slots[entry.slot as usize] = Some(entry.clone());
        }
        self.held = ledger.entries.len() as u32;
        self.pending = ledger.pending.clone();
    }
}
