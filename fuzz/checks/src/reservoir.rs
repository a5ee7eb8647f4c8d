//! The reservoir's file with anything in it: damaged, cut, forged, with a sound ledger and with none.
//!
//! - Promises: under a sound ledger only blocks that were offered come out, whatever the file holds;
//!   what a forged place gives out still fits the geometry; opening again finds the same; whatever is
//!   left of a pass, no draw has a block twice and two passes have every one.

use crate::Seed;
use crate::cursor::{Cursor, edit};
use crate::manifest::{Folder, SEED, SOUND};
use crate::record::{payload, replace, seal};
use half::f16;
use sapwood::block::Block;
use sapwood::reservoir::{Geometry, Hidden, Reservoir, ReservoirError};
use sapwood::state::State;
use sapwood_protocol::limits::DRAW_BLOCKS_MAX;
use sapwood_protocol::record::{Kind, UncheckedHeader};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The file's name in a state folder.
const NAME: &str = "reservoir";
const HEAD_BYTES: usize = 4096;
const SECOND_HEAD_AT: usize = 2048;
/// The longest file that edits make.
const FILE_BYTES_MAX: usize = 1 << 16;

/// A small reservoir with hidden states.
pub const GEOMETRY: Geometry =
    Geometry { capacity: 3, tokens_max: 8, vocab: 4096, hidden: Some(2), room: 3 };

/// The block offered as number `offer`, different from every other.
pub fn block(offer: u64) -> Block {
    let length = 2 + offer as usize % 6;
    let tokens = (0..length).map(|t| (offer as u32 * 31 + t as u32) % 4096).collect();
    let learn = (0..length).map(|t| t > 0 && !(t + offer as usize).is_multiple_of(3)).collect();
    Block { tokens, learn, bytes: offer as u32 + 1, domain: offer as u32 % 3 }
}

/// Its hidden states.
pub fn hidden(offer: u64) -> Hidden {
    let states = vec![f16::from_f32(offer as f32); 2 * block(offer).tokens.len()];
    Hidden { states, origin: 1 + offer % 2 }
}

/// The first byte says what is damaged: any place, the whole file, its head, or one place's record.
pub fn check(bytes: &[u8]) {
    let mut cursor = Cursor(bytes);
    match cursor.byte() % 4 {
        0 => {
            let mut folder = SOUND.clone();
            edit(folder.file_mut(NAME), &mut cursor, FILE_BYTES_MAX);
            under_a_ledger(&folder, true);
        }
        1 => alone(cursor.0.to_vec()),
        2 => {
            let mut file = seal(Kind::Reservoir, 0, cursor.0);
            file.resize(file.len().max(FILE_BYTES_MAX), 0);
            alone(file);
        }
        _ => forged(&mut cursor),
    }
}

/// A file that no commit speaks of: nothing is held, and it can be used.
fn alone(file: Vec<u8>) {
    let folder = Folder::default().with(NAME, file);
    let Ok(mut reservoir) = Reservoir::open(folder.storage(), None, None) else { return };
    let geometry = *reservoir.geometry();
    assert!(geometry.check().is_ok() && reservoir.held() == 0);
    assert!(reservoir.draw(2).unwrap().is_empty());
    let width = geometry.hidden.map_or(0, |width| width as usize);
    let states = Hidden { states: vec![f16::ONE; 2 * width], origin: 1 };
    let states = geometry.hidden.map(|_| &states);
    for offer in 1..=6 {
        let tokens = vec![0, geometry.vocab - 1];
        let block = Block { tokens, learn: vec![false, true], bytes: offer, domain: 0 };
        let accepted = reservoir.offer(&block, states, 1.0).unwrap_or_default();
        assert!(reservoir.held() <= offer.min(geometry.capacity));
        if accepted {
            let drawn = reservoir.draw(1).unwrap();
            assert!(drawn.iter().all(|drawn| drawn.block.bytes <= offer));
        }
    }
}

/// The committed reservoir, and the one of the checkpoint.
fn under_a_ledger(folder: &Folder, honest: bool) {
    let mut state = State::open(folder.storage()).unwrap();
    let Ok(Some(mut reservoir)) = state.committed_reservoir() else { return };
    let seen = reservoir.stats().seen;
    let held = reservoir.held();
    given_out(&mut reservoir, honest);
    assert!(reservoir.held() <= held && reservoir.stats().seen == seen);
    let again = state.committed_reservoir().unwrap().unwrap().verify().unwrap();
    assert_eq!(again, reservoir.verify().unwrap(), "opening again finds other blocks");
    let Some(checkpoint) = state.take_checkpoint().unwrap() else { return };
    let geometry = *reservoir.geometry();
    let Ok(mut staged) = state.reservoir(geometry, SEED, Some(&checkpoint)) else { return };
    given_out(&mut staged, honest);
    for _ in 0..8 {
        let offer = staged.stats().seen + 1;
        match staged.offer(&block(offer), Some(&hidden(offer)), 0.5) {
            Ok(_) | Err(ReservoirError::NoRoom | ReservoirError::Storage(_)) => {}
            Err(other) => assert!(geometry != GEOMETRY, "{other}"),
        }
    }
    given_out(&mut staged, honest);
}

/// Draws; without forgery every block is one that was offered, with its own hidden states.
pub fn given_out(reservoir: &mut Reservoir, honest: bool) {
    let geometry = *reservoir.geometry();
    let Ok(drawn) = reservoir.draw(DRAW_BLOCKS_MAX) else { return };
    assert!(drawn.len() <= geometry.capacity as usize);
    let slots: BTreeSet<u32> = drawn.iter().map(|drawn| drawn.slot).collect();
    assert_eq!(slots.len(), drawn.len(), "a block twice in a draw");
    passes(reservoir, &slots);
    for drawn in drawn {
        let states = drawn.hidden.as_ref().map(|hidden| &*hidden.states);
        assert!(geometry.fits(&drawn.block, states).is_ok());
        if honest {
            assert_eq!(drawn.block, block(drawn.offer));
            assert_eq!(drawn.hidden, Some(hidden(drawn.offer)));
        }
    }
}

/// Draws of one: what is left of a pass and the next one have every block that the file has.
fn passes(reservoir: &mut Reservoir, slots: &BTreeSet<u32>) {
    let mut served = BTreeSet::new();
    for _ in 0..2 * slots.len() {
        let Ok(drawn) = reservoir.draw(1) else { return };
        served.extend(drawn.iter().map(|drawn| drawn.slot));
    }
    assert_eq!(served, *slots);
}

/// A place's record is another's, and the ledger names it.
fn forged(cursor: &mut Cursor<'_>) {
    let mut folder = SOUND.clone();
    let place = usize::from(cursor.byte()) % 9;
    let at = HEAD_BYTES + place * GEOMETRY.slot_bytes() as usize;
    let old = UncheckedHeader::read(&SOUND.file(NAME)[at..]).and_then(|old| old.check(Kind::Slot));
    let Ok(old) = old else { return };
    let new = seal(Kind::Slot, old.generation, cursor.0);
    let digest = *blake3::hash(cursor.0).as_bytes();
    let file = folder.file_mut(NAME);
    let end = (at + new.len()).min(file.len());
    file[at..end].copy_from_slice(&new[..end - at]);
    for (name, kind) in [
        ("manifest.a", Kind::Manifest),
        ("manifest.b", Kind::Manifest),
        ("checkpoint", Kind::Checkpoint),
    ] {
        let mut ledger = payload(SOUND.file(name)).to_vec();
        replace(&mut ledger, &old.digest, &digest);
        *folder.file_mut(name) = seal(kind, 1, &ledger);
    }
    under_a_ledger(&folder, false);
}

/// The sound file whole, its head, one place, and some edits.
pub fn seeds() -> Vec<Seed> {
    let file = SOUND.file(NAME);
    let head = |at: usize| UncheckedHeader::read(&file[at..]).unwrap();
    let body = |at: usize, kind| {
        let length = head(at).check(kind).unwrap().length as usize;
        &payload(&file[at..])[..length]
    };
    let geometry = body(0, Kind::Reservoir);
    let block = body(HEAD_BYTES, Kind::Slot);
    let (first, places) = (seal(Kind::Reservoir, 0, geometry), vec![0; 1024]);
    let gap = vec![0; SECOND_HEAD_AT - first.len()];
    vec![
        ("edits", vec![0, 0, 0, 20, 0, 0, 1, 1, 80, 16, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("cut", vec![0, 3, 0, 18, 0, 0]),
        ("copy", vec![0, 2, 0, 16, 0, 0, 0, 18, 255, 2, 0, 17, 0, 0, 0, 18, 255]),
        ("file", [&[1][..], &first, &gap, &first, &gap, &places].concat()),
        ("head", [&[2], geometry].concat()),
        ("place", [&[3, 0], block].concat()),
    ]
}

impl Folder {
    /// The folder behind the port.
    pub fn storage(&self) -> Arc<dyn sapwood::ports::Storage> {
        self.memory()
    }
}
