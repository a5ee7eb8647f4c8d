//! The reservoir's file: a head, then equal places, each holding one block behind a checked header.
//!
//! ```text
//! 0     geometry and seed, a record;  2048  the same again, for when the first is damaged
//! 4096  place 0, place 1, ...         each a whole number of sectors: header, rkyv archive, slack
//! ```
//! - All of it is written when it is created, so that a full disk is met then and never later.
//! - Places outnumber blocks: those of the last commit, as many staged ones, and some room. A block
//!   is written once, to a free place; which place belongs to which slot is the ledger's to say.
//! - Invariant: a place is trusted only if its bytes have the digest in the ledger.

use super::record::{self, RecordError, seal, seal_as};
use super::{Geometry, Hidden, ReservoirError, SlotError};
use crate::block::Block;
use crate::ports::{Storage, StorageError};
use half::f16;
use rkyv::{Archive, Deserialize, Serialize};
use sapwood_protocol::limits::{RECORD_HEADER_BYTES, SECTOR_BYTES};
use sapwood_protocol::record::Kind;

/// The file's name in the state folder.
pub(crate) const NAME: &str = "reservoir";
const NEW: &str = "reservoir.new";
const HEAD_BYTES: u64 = 4096;
const HEADS_AT: [u64; 2] = [0, 2048];
/// rkyv's own bytes around a slot's numbers: root, offsets, lengths, alignment.
const ARCHIVE_BYTES: u64 = 128;

/// What the head of the file says.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) geometry: Geometry,
    pub(crate) seed: [u8; 32],
}

/// What the head of version 1 says: it named the only way there is to choose what is kept.
#[derive(Archive, Serialize, Deserialize)]
struct FirstHead {
    geometry: FirstGeometry,
    seed: [u8; 32],
}

#[derive(Archive, Serialize, Deserialize)]
struct FirstGeometry {
    policy: FirstPolicy,
    capacity: u32,
    tokens_max: u32,
    vocab: u32,
    hidden: Option<u32>,
    room: u32,
}

#[derive(Archive, Serialize, Deserialize)]
enum FirstPolicy {
    Reservoir,
}

impl From<FirstHead> for Head {
    fn from(first: FirstHead) -> Self {
        let FirstGeometry { capacity, tokens_max, vocab, hidden, room, .. } = first.geometry;
        Self { geometry: Geometry { capacity, tokens_max, vocab, hidden, room }, seed: first.seed }
    }
}

#[derive(Archive, Serialize, Deserialize)]
enum Tokens {
    Narrow(Vec<u16>),
    Wide(Vec<u32>),
}

/// One slot as archived.
#[derive(Archive, Serialize, Deserialize)]
struct Slot {
    tokens: Tokens,
    learn_bits: Vec<u8>,
    bytes: u32,
    domain: u32,
    offer: u64,
    loss: f32,
    hidden: Option<Vec<u16>>,
    /// What the hidden states come from, by its number.
    origin: u64,
}

/// A slot of version 2, which did not say what its hidden states come from.
#[derive(Archive, Serialize, Deserialize)]
struct SecondSlot {
    tokens: Tokens,
    learn_bits: Vec<u8>,
    bytes: u32,
    domain: u32,
    offer: u64,
    loss: f32,
    hidden: Option<Vec<u16>>,
}

/// A slot of version 1, when a domain's number was a short one.
#[derive(Archive, Serialize, Deserialize)]
struct FirstSlot {
    tokens: Tokens,
    learn_bits: Vec<u8>,
    bytes: u32,
    domain: u16,
    offer: u64,
    loss: f32,
    hidden: Option<Vec<u16>>,
}

impl From<FirstSlot> for SecondSlot {
    fn from(first: FirstSlot) -> Self {
        let FirstSlot { tokens, learn_bits, bytes, domain, offer, loss, hidden } = first;
        Self { tokens, learn_bits, bytes, domain: domain.into(), offer, loss, hidden }
    }
}

impl From<SecondSlot> for Slot {
    fn from(second: SecondSlot) -> Self {
        let SecondSlot { tokens, learn_bits, bytes, domain, offer, loss, hidden } = second;
        Self { tokens, learn_bits, bytes, domain, offer, loss, hidden, origin: 0 }
    }
}

/// What a slot holds: a block and what was known of it when it was offered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content {
    pub(crate) block: Block,
    pub(crate) offer: u64,
    pub(crate) loss: f32,
    pub(crate) hidden: Option<Hidden>,
}

/// Bytes of one place, header included, a whole number of sectors.
pub(crate) fn slot_bytes(geometry: &Geometry) -> u64 {
    let length = u64::from(geometry.tokens_max);
    let token_bytes = if geometry.is_narrow() { 2 } else { 4 };
    let hidden_bytes = 2 * u64::from(geometry.hidden.unwrap_or(0));
    let numbers = length * (token_bytes + hidden_bytes) + length.div_ceil(8);
    (RECORD_HEADER_BYTES as u64 + ARCHIVE_BYTES + numbers).next_multiple_of(SECTOR_BYTES)
}

/// Bytes of the whole file.
pub(crate) fn file_bytes(geometry: &Geometry) -> u64 {
    HEAD_BYTES + u64::from(geometry.places()) * slot_bytes(geometry)
}

/// Writes a new file at its full size, under its name only when it is complete and durable.
pub(crate) fn create(storage: &dyn Storage, head: &Head) -> Result<(), ReservoirError> {
    let record = seal(Kind::Reservoir, 0, head)?;
    let fill = || {
        storage.allocate(NEW, file_bytes(&head.geometry))?;
        HEADS_AT.iter().try_for_each(|at| storage.write_at(NEW, *at, &record))?;
        storage.sync(NEW)?;
        storage.rename(NEW, NAME)?;
        storage.sync_dir("")
    };
    fill().map_err(|error| {
        // On a full disk the part that was written only stands in the way of everything else.
        let _ = storage.remove(NEW);
        error.into()
    })
}

/// The head of the file, from the first of its two copies that holds.
pub(crate) fn open(storage: &dyn Storage) -> Result<Head, ReservoirError> {
    let mut first = None;
    for at in HEADS_AT {
        match head_at(storage, at) {
            Ok(head) => return Ok(head),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or(ReservoirError::Record(RecordError::Digest)))
}

fn head_at(storage: &dyn Storage, at: u64) -> Result<Head, ReservoirError> {
    let mut bytes = [0; (HEADS_AT[1] - HEADS_AT[0]) as usize];
    storage.read_at(NAME, at, &mut bytes)?;
    let header = record::header(Kind::Reservoir, &bytes)?;
    let head: Head = match header.version {
        1 => record::open::<FirstHead>(&header, &bytes)?.into(),
        _ => record::open(&header, &bytes)?,
    };
    head.geometry.check()?;
    Ok(head)
}

/// The bytes of a place, and the digest that proves them.
pub(crate) fn encode(
    geometry: &Geometry,
    generation: u64,
    content: &Content,
) -> Result<(Vec<u8>, [u8; 32]), ReservoirError> {
    let block = &content.block;
    let tokens = if geometry.is_narrow() {
        Tokens::Narrow(block.tokens.iter().map(|token| *token as u16).collect())
    } else {
        Tokens::Wide(block.tokens.clone())
    };
    let hidden = content.hidden.as_ref();
    let plain = SecondSlot {
        tokens,
        learn_bits: pack(&block.learn),
        bytes: block.bytes,
        domain: block.domain,
        offer: content.offer,
        loss: content.loss,
        hidden: hidden.map(|hidden| hidden.states.iter().map(|h| h.to_bits()).collect()),
    };
    let bytes = match hidden {
        Some(hidden) => {
            let slot = Slot { origin: hidden.origin, ..plain.into() };
            seal(Kind::Slot, generation, &slot)?
        }
        // So a program that knows version 2 alone goes on reading what keeps no hidden states.
        None => seal_as(Kind::Slot, 2, generation, &plain)?,
    };
    let digest = record::header(Kind::Slot, &bytes)?.digest;
    let limit = slot_bytes(geometry);
    if bytes.len() as u64 > limit {
        return Err(ReservoirError::Limit {
            what: "bytes of a slot",
            limit,
            got: bytes.len() as u64,
        });
    }
    Ok((bytes, digest))
}

/// Writes a place; it is durable only after a sync of the file.
pub(crate) fn write(
    storage: &dyn Storage,
    geometry: &Geometry,
    place: u32,
    bytes: &[u8],
) -> Result<(), StorageError> {
    storage.write_at(NAME, place_at(geometry, place), bytes)
}

/// What a place holds, if it is what the ledger says.
///
/// # Errors
/// [`SlotError`] inside when the bytes are not to be trusted, [`StorageError`] when the disk refuses.
pub(crate) fn read(
    storage: &dyn Storage,
    geometry: &Geometry,
    place: u32,
    digest: &[u8; 32],
) -> Result<Result<Content, SlotError>, StorageError> {
    match bytes_of(storage, geometry, place) {
        Ok(bytes) => Ok(decode(geometry, digest, &bytes)),
        Err(error) if error.is_damage() => Ok(Err(SlotError::Unreadable)),
        Err(error) => Err(error),
    }
}

/// What a place holds and the digest of it, whatever no ledger says any more; none where no sound
/// block lies.
///
/// # Errors
/// [`StorageError`] when the disk refuses.
pub(crate) fn salvage(
    storage: &dyn Storage,
    geometry: &Geometry,
    place: u32,
) -> Result<Option<(Content, [u8; 32])>, StorageError> {
    let bytes = match bytes_of(storage, geometry, place) {
        Ok(bytes) => bytes,
        Err(error) if error.is_damage() => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(header) = record::header(Kind::Slot, &bytes) else { return Ok(None) };
    Ok(decode(geometry, &header.digest, &bytes).ok().map(|content| (content, header.digest)))
}

/// All bytes of a place. A file that was cut short ends where the last block since was written: what it
/// lacks after that is nothing.
fn bytes_of(
    storage: &dyn Storage,
    geometry: &Geometry,
    place: u32,
) -> Result<Vec<u8>, StorageError> {
    let (at, mut bytes) = (place_at(geometry, place), vec![0; slot_bytes(geometry) as usize]);
    let Err(error) = storage.read_at(NAME, at, &mut bytes) else { return Ok(bytes) };
    let there = storage.len(NAME)?.unwrap_or_default().saturating_sub(at) as usize;
    if !error.is_damage() || there == 0 || there >= bytes.len() {
        return Err(error);
    }
    bytes.fill(0);
    storage.read_at(NAME, at, &mut bytes[..there]).map(|()| bytes)
}

fn place_at(geometry: &Geometry, place: u32) -> u64 {
    HEAD_BYTES + u64::from(place) * slot_bytes(geometry)
}

fn decode(geometry: &Geometry, digest: &[u8; 32], bytes: &[u8]) -> Result<Content, SlotError> {
    let header = record::header(Kind::Slot, bytes)?;
    let slot: Slot = match header.version {
        1 => SecondSlot::from(record::open::<FirstSlot>(&header, bytes)?).into(),
        2 => record::open::<SecondSlot>(&header, bytes)?.into(),
        _ => record::open(&header, bytes)?,
    };
    if header.digest != *digest {
        return Err(SlotError::Other);
    }
    let tokens = match slot.tokens {
        Tokens::Narrow(tokens) => tokens.into_iter().map(u32::from).collect(),
        Tokens::Wide(tokens) => tokens,
    };
    let learn = unpack(&slot.learn_bits, tokens.len());
    let block = Block { tokens, learn, bytes: slot.bytes, domain: slot.domain };
    let hidden = slot.hidden.map(|states| Hidden {
        states: states.into_iter().map(f16::from_bits).collect(),
        origin: slot.origin,
    });
    geometry
        .fits(&block, hidden.as_ref().map(|hidden| &*hidden.states))
        .map_err(|error| SlotError::Content(error.to_string()))?;
    Ok(Content { block, offer: slot.offer, loss: slot.loss, hidden })
}

fn pack(learn: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    learn.chunks(8).map(byte).collect()
}

fn unpack(bits: &[u8], length: usize) -> Vec<bool> {
    (0..length).map(|at| bits.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1)).collect()
}
