//! The reservoir's promises: even chances, nothing lost but what is damaged, fixed sizes.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::ports::cut_disk::{CutDisk, Fault};
use rand_core::{Rng, SeedableRng};
use sapwood_protocol::record::{Kind, crc32c};
use std::collections::BTreeSet;

mod passes;

const SEED: [u8; 32] = [3; 32];

fn geometry(capacity: u32) -> Geometry {
    Geometry { capacity, tokens_max: 8, vocab: 4096, hidden: None, room: 4 }
}

/// The block offered as number `offer`, different from every other.
fn block(offer: u64) -> Block {
    let tokens: Vec<u32> =
        (0..2 + offer as u32 % 7).map(|t| (offer as u32 * 31 + t) % 4096).collect();
    let learn =
        (0..tokens.len()).map(|t| t > 0 && !(t + offer as usize).is_multiple_of(3)).collect();
    Block { tokens, learn, bytes: offer as u32 + 1, domain: offer as u32 % 3 }
}

fn offer(reservoir: &mut Reservoir, offers: std::ops::RangeInclusive<u64>) {
    for number in offers {
        reservoir.offer(&block(number), None, number as f32).unwrap();
    }
}

fn commit(reservoir: &mut Reservoir) -> Ledger {
    let ledger = reservoir.sync().unwrap();
    reservoir.committed(ledger.clone());
    ledger
}

fn offers_held(reservoir: &mut Reservoir) -> Vec<u64> {
    let held = reservoir.stats().held as usize;
    let mut offers: Vec<u64> =
        reservoir.draw(held).unwrap().iter().map(|drawn| drawn.offer).collect();
    offers.sort_unstable();
    offers
}

/// A copy serves what the original would, and neither sees what the other takes in later.
#[test]
fn a_copy_goes_its_own_way() {
    let memory = || Arc::new(crate::ports::Memory::default());
    let mut reservoir = Reservoir::create(memory(), geometry(20), SEED).unwrap();
    offer(&mut reservoir, 1..=4);
    reservoir.settle().unwrap();
    offer(&mut reservoir, 5..=6);
    let mut copy = reservoir.copy(memory()).unwrap();
    assert_eq!(copy.draw(3).unwrap(), reservoir.draw(3).unwrap());
    offer(&mut copy, 7..=8);
    assert_eq!((copy.held(), reservoir.held()), (8, 6));
    assert_eq!(offers_held(&mut reservoir), [1, 2, 3, 4, 5, 6]);
}

/// What is written behind the end of what is left of a file is not lost with it.
#[test]
fn a_file_that_was_cut_short_takes_blocks_again() {
    let disk = Arc::new(CutDisk::new());
    let mut reservoir = Reservoir::create(disk.clone(), geometry(20), SEED).unwrap();
    offer(&mut reservoir, 1..=4);
    let ledger = commit(&mut reservoir);
    let whole = disk.len(file::NAME).unwrap().unwrap();
    disk.damage(file::NAME, |bytes| bytes.truncate(bytes.len() / 2));
    let mut reservoir = Reservoir::open(disk.clone(), Some(&ledger), None).unwrap();
    for first in [5, 9, 13] {
        offer(&mut reservoir, first..=first + 3);
        commit(&mut reservoir);
    }
    let ledger = reservoir.sync().unwrap();
    let mut reservoir = Reservoir::open(disk.clone(), Some(&ledger), None).unwrap();
    let held = reservoir.stats().held;
    assert!(
        disk.len(file::NAME).unwrap().unwrap() < whole,
        "the last block ends before the file did"
    );
    assert_eq!((reservoir.verify().unwrap(), reservoir.lost().len()), (held, 0));
}

/// Inclusion counts of `offers` blocks over 20,000 runs with a reservoir of 5; run r has seed r.
/// With `reopen` the reservoir is committed and opened again after 9 offers.
fn inclusions(offers: u64, reopen: bool) -> Vec<u32> {
    let disk = Arc::new(CutDisk::new());
    let mut counts = vec![0; offers as usize];
    Reservoir::create(disk.clone(), geometry(5), SEED).unwrap();
    for run in 0..20_000_u64 {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&run.to_le_bytes());
        let mut held = Reservoir::open(disk.clone(), Some(&Ledger::empty(seed)), None).unwrap();
        offer(&mut held, 1..=9);
        if reopen {
            let ledger = held.sync().unwrap();
            held = Reservoir::open(disk.clone(), Some(&ledger), None).unwrap();
        }
        offer(&mut held, 10..=offers);
        assert_eq!(held.stats().held, 5);
        held.slots.iter().flatten().for_each(|entry| counts[entry.offer as usize - 1] += 1);
    }
    counts
}

/// Counts of a sample without replacement are not independent: the factor makes the sum of squares
/// chi-square with `n - 1` degrees of freedom.
fn chi_square(counts: &[u32], runs: f64, chance: f64) -> f64 {
    let (n, mean) = (counts.len() as f64, runs * chance);
    let squares: f64 = counts.iter().map(|count| (f64::from(*count) - mean).powi(2)).sum();
    squares / (mean * (1.0 - chance)) * (n - 1.0) / n
}

/// Goal: every block is held with chance 5/15. 14 degrees of freedom: 36.1 is p = 0.001.
#[test]
fn every_block_is_held_with_the_same_chance() {
    let chi = chi_square(&inclusions(15, false), 20_000.0, 5.0 / 15.0);
    assert!(chi < 36.1, "{chi}");
}

#[test]
fn a_commit_and_a_restart_in_the_middle_change_no_chance() {
    let counts = inclusions(15, true);
    assert!(chi_square(&counts, 20_000.0, 5.0 / 15.0) < 36.1);
    assert_eq!(counts, inclusions(15, false), "the same seeds hold the same blocks");
}

#[test]
fn the_statistic_sees_one_block_in_fifty_misplaced() {
    let mut counts = vec![6667_u32; 15];
    (counts[0], counts[1]) = (6667 - 400, 6667 + 400);
    assert!(chi_square(&counts, 20_000.0, 5.0 / 15.0) > 36.1);
}

#[test]
fn held_is_the_smaller_of_seen_and_capacity() {
    let mut held = Reservoir::create(Arc::new(CutDisk::new()), geometry(4), SEED).unwrap();
    assert!(held.draw(3).unwrap().is_empty());
    for number in 1..=20 {
        held.offer(&block(number), None, 0.0).unwrap();
        commit(&mut held);
        let stats = held.stats();
        assert_eq!((u64::from(stats.held), stats.seen), (number.min(4), number));
        assert_eq!(stats.per_domain.values().sum::<u32>(), stats.held);
        assert_eq!(held.draw(200).unwrap().len() as u64, number.min(4));
    }
    assert!(matches!(held.draw(257), Err(ReservoirError::Draw { .. })));
}

#[test]
fn a_block_comes_back_as_it_was_offered() {
    for (vocab, hidden) in [(4096, None), (65_536, Some(3)), (65_537, None), (200_000, Some(3))] {
        let sizes = Geometry { vocab, hidden, ..geometry(4) };
        let mut held = Reservoir::create(Arc::new(CutDisk::new()), sizes, SEED).unwrap();
        let mut offered = block(6);
        offered.tokens[1] = vocab - 1;
        let states: Vec<f16> =
            (0..3 * offered.tokens.len()).map(|n| f16::from_f32(n as f32 / 7.0)).collect();
        let hidden = hidden.map(|_| Hidden { states, origin: u64::MAX });
        assert!(held.offer(&offered, hidden.as_ref(), 2.5).unwrap());
        let drawn = held.draw(1).unwrap().remove(0);
        let expected = Drawn { block: offered, hidden, loss: 2.5, offer: 1, slot: 0 };
        assert_eq!(drawn, expected);
    }
}

#[test]
fn a_block_that_does_not_fit_is_refused_and_nothing_changes() {
    let sizes = Geometry { hidden: Some(2), ..geometry(4) };
    let mut held = Reservoir::create(Arc::new(CutDisk::new()), sizes, SEED).unwrap();
    let fits = Block { tokens: vec![1, 2], learn: vec![false, true], bytes: 1, domain: 0 };
    let states = |count| Hidden { states: vec![f16::ZERO; count], origin: 1 };
    let cases = [
        Block { tokens: vec![1; 9], learn: vec![true; 9], ..fits.clone() },
        Block { tokens: vec![1], learn: vec![true], ..fits.clone() },
        Block { tokens: vec![1, 4096], ..fits.clone() },
        Block { learn: vec![true], ..fits.clone() },
    ];
    for wrong in cases {
        let refused = held.offer(&wrong, Some(&states(4)), 0.0);
        assert!(matches!(refused, Err(ReservoirError::Block { .. })), "{refused:?}");
    }
    assert!(matches!(held.offer(&fits, None, 0.0), Err(ReservoirError::Hidden { .. })));
    assert!(matches!(held.offer(&fits, Some(&states(3)), 0.0), Err(ReservoirError::Hidden { .. })));
    assert_eq!(held.stats().seen, 0);
}

#[test]
fn what_is_staged_is_drawn_at_once_and_gone_without_a_commit() {
    let disk = Arc::new(CutDisk::new());
    let mut held = Reservoir::create(disk.clone(), geometry(4), SEED).unwrap();
    offer(&mut held, 1..=10);
    let ledger = commit(&mut held);
    let before = offers_held(&mut held);
    offer(&mut held, 11..=200);
    assert!(offers_held(&mut held).iter().any(|number| *number > 10));
    assert!(held.stats().staged > 0);
    for luck in 0..50 {
        let found = Arc::new(disk.after_cut(luck));
        let mut found = Reservoir::open(found, Some(&ledger), None).unwrap();
        assert_eq!((offers_held(&mut found), found.stats().corrupt), (before.clone(), 0));
    }
    held.discard();
    assert_eq!((offers_held(&mut held), held.stats().staged), (before, 0));
}

#[test]
fn a_run_resumed_from_a_checkpoint_ends_like_one_that_was_never_cut() {
    let disk = Arc::new(CutDisk::new());
    let mut whole = Reservoir::create(disk.clone(), geometry(4), SEED).unwrap();
    offer(&mut whole, 1..=10);
    let committed = commit(&mut whole);
    offer(&mut whole, 11..=30);
    whole.draw(3).unwrap();
    let staged = whole.sync().unwrap();
    whole.checkpointed(&staged);
    let go_on = |reservoir: &mut Reservoir| -> Vec<Vec<Drawn>> {
        (31..=60)
            .map(|number| {
                reservoir.offer(&block(number), None, number as f32).unwrap();
                let ledger = reservoir.sync().unwrap();
                reservoir.checkpointed(&ledger);
                reservoir.draw(2).unwrap()
            })
            .collect()
    };
    let cut = Arc::new(disk.after_cut(0));
    let expected = go_on(&mut whole);
    let mut resumed = Reservoir::open(cut, Some(&committed), Some(&staged)).unwrap();
    assert_eq!(go_on(&mut resumed), expected);
    assert_eq!(resumed.sync().unwrap(), whole.sync().unwrap());
}

#[test]
fn without_a_checkpoint_the_room_ends_and_with_one_it_comes_back() {
    let disk = Arc::new(CutDisk::new());
    let mut held = Reservoir::create(disk.clone(), geometry(4), SEED).unwrap();
    offer(&mut held, 1..=4);
    let committed = commit(&mut held);
    let (mut number, mut last) = (4, committed.clone());
    for _ in 0..2000 {
        if held.room() == 0 {
            let before = held.stats();
            let error = (0..1000).find_map(|_| held.offer(&block(number), None, 0.0).err());
            assert!(matches!(error, Some(ReservoirError::NoRoom)), "{error:?}");
            assert_eq!(held.stats().held, before.held);
            let mut found = Reservoir::open(disk.clone(), Some(&committed), Some(&last)).unwrap();
            assert_eq!((found.verify().unwrap(), found.lost().len()), (4, 0));
            last = held.sync().unwrap();
            held.checkpointed(&last);
            assert!(held.room() >= held.geometry().room);
        } else {
            number += 1;
            held.offer(&block(number), None, 0.0).unwrap();
        }
    }
}

#[test]
fn a_damaged_block_is_dropped_counted_and_replaced_by_a_later_offer() {
    let disk = Arc::new(CutDisk::new());
    let mut held = Reservoir::create(disk.clone(), geometry(4), SEED).unwrap();
    offer(&mut held, 1..=4);
    let ledger = commit(&mut held);
    let place = u64::from(ledger.entries[2].place);
    let at = (4096 + place * held.geometry().slot_bytes() + 80) as usize;
    disk.damage(file::NAME, |bytes| bytes[at] ^= 4);
    let mut found = Reservoir::open(disk, Some(&ledger), None).unwrap();
    assert_eq!(offers_held(&mut found), [1, 2, 4]);
    let stats = found.stats();
    assert_eq!((stats.held, stats.seen, stats.corrupt), (3, 4, 1));
    assert!(found.lost()[0].reason.to_string().contains("digest"));
    for number in 5..=40 {
        found.offer(&block(number), None, 0.0).unwrap();
        commit(&mut found);
    }
    assert_eq!((found.stats().held, found.stats().corrupt), (4, 1));
}

/// A program that an update took back must not drop what the newer one kept.
#[test]
fn a_block_that_a_later_version_wrote_is_refused_and_kept() {
    let disk = Arc::new(CutDisk::new());
    let mut held = Reservoir::create(disk.clone(), geometry(4), SEED).unwrap();
    offer(&mut held, 1..=4);
    let ledger = commit(&mut held);
    let place = u64::from(ledger.entries[2].place);
    let at = (4096 + place * held.geometry().slot_bytes()) as usize;
    let newest = Kind::Slot.version();
    disk.damage(file::NAME, |bytes| {
        bytes[at + 8] = newest as u8 + 1;
        let sum = crc32c(&bytes[at..at + 60]);
        bytes[at + 60..at + 64].copy_from_slice(&sum.to_le_bytes());
    });
    let mut found = Reservoir::open(disk, Some(&ledger), None).unwrap();
    let said = found.draw(4).unwrap_err().to_string();
    let both = format!("format version {}; this program reads versions 1 to {newest}", newest + 1);
    assert!(said.contains(&both) && said.contains("slot 2"), "{said}");
    assert_eq!((found.stats().held, found.stats().corrupt), (4, 0));
    assert!(found.lost().is_empty());
}

/// 3,000 flipped bits, seed 8: nothing stops the reservoir but a head damaged twice, and what it
/// gives out is what was offered.
#[test]
fn flipped_bits_never_change_a_block() {
    let disk = CutDisk::new();
    let sizes = Geometry { hidden: Some(2), ..geometry(4) };
    let shared = Arc::new(disk.copy());
    let mut held = Reservoir::create(shared.clone(), sizes, SEED).unwrap();
    let states = |number: u64| Hidden {
        states: vec![f16::from_f32(number as f32); 2 * block(number).tokens.len()],
        origin: number,
    };
    for number in 1..=4 {
        held.offer(&block(number), Some(&states(number)), 0.0).unwrap();
    }
    let ledger = commit(&mut held);
    let length = shared.len(file::NAME).unwrap().unwrap();
    let mut chance = rand_chacha::ChaCha8Rng::seed_from_u64(8);
    let mut dropped = 0;
    for _ in 0..3000 {
        let damaged = shared.copy();
        damaged.damage(file::NAME, |bytes| {
            let at = below(&mut chance, length) as usize;
            bytes[at] ^= 1 << (chance.next_u32() % 8);
        });
        let mut found = Reservoir::open(Arc::new(damaged), Some(&ledger), None).unwrap();
        for drawn in found.draw(4).unwrap() {
            assert_eq!(drawn.block, block(drawn.offer));
            assert_eq!(drawn.hidden, Some(states(drawn.offer)));
        }
        assert_eq!(u64::from(found.stats().held) + found.stats().corrupt, 4);
        dropped += found.stats().corrupt;
    }
    assert!(dropped > 0, "some of the bits lie in a block");
}

#[test]
fn a_file_cut_short_loses_blocks_and_not_the_reservoir() {
    let disk = Arc::new(CutDisk::new());
    let mut held = Reservoir::create(disk.clone(), geometry(4), SEED).unwrap();
    offer(&mut held, 1..=4);
    let ledger = commit(&mut held);
    for (length, left) in [(4096 + 2 * 512, 2), (4096, 0)] {
        disk.damage(file::NAME, |bytes| bytes.truncate(length));
        let mut found = Reservoir::open(disk.clone(), Some(&ledger), None).unwrap();
        assert_eq!(found.verify().unwrap(), left);
        assert!(found.draw(2).unwrap().len() as u32 <= left);
    }
    disk.damage(file::NAME, Vec::clear);
    let said = Reservoir::open(disk, Some(&ledger), None).err().unwrap();
    assert!(matches!(said, ReservoirError::Storage(_)), "{said}");
}

#[test]
fn a_ledger_that_lies_is_refused() {
    let disk = Arc::new(CutDisk::new());
    let mut held = Reservoir::create(disk.clone(), geometry(4), SEED).unwrap();
    offer(&mut held, 1..=6);
    let good = held.sync().unwrap();
    let lies: [fn(&mut Ledger); 10] = [
        |ledger| ledger.seen = u64::MAX,
        |ledger| ledger.generation = u64::MAX,
        |ledger| ledger.lost = u64::MAX,
        |ledger| ledger.entries[1].slot = 4,
        |ledger| ledger.entries[1].slot = 0,
        |ledger| ledger.entries[1].place = ledger.entries[0].place,
        |ledger| ledger.entries[1].place = 12,
        |ledger| ledger.entries[1].offer = 7,
        |ledger| ledger.pending = vec![0, 4],
        |ledger| ledger.pending = vec![2, 0, 2],
    ];
    for lie in lies {
        let mut ledger = good.clone();
        lie(&mut ledger);
        let refused = Reservoir::open(disk.clone(), Some(&ledger), None).err().unwrap();
        assert!(matches!(refused, ReservoirError::Ledger { .. }), "{refused}");
    }
}

#[test]
fn the_largest_block_fits_its_place() {
    for (tokens_max, vocab, hidden) in [
        (2, 100, None),
        (256, 49_152, None),
        (255, 128_256, None),
        (64, 4096, Some(288)),
        (7, 70_000, Some(1)),
    ] {
        let sizes = Geometry { tokens_max, vocab, hidden, ..geometry(1) };
        let length = tokens_max as usize;
        let tokens = vec![vocab - 1; length];
        let block = Block { tokens, learn: vec![true; length], bytes: u32::MAX, domain: u32::MAX };
        let states = |width| vec![f16::MAX; length * width as usize];
        let hidden = hidden.map(|width| Hidden { states: states(width), origin: u64::MAX });
        let content = file::Content { block, offer: u64::MAX, loss: f32::NAN, hidden };
        assert!(file::encode(&sizes, u64::MAX, &content).is_ok(), "{sizes:?}");
    }
}

#[test]
fn a_byte_budget_is_used_up_and_not_exceeded() {
    for budget in [100_000, 1 << 20, 123_456_789] {
        let fits = Geometry::for_bytes(budget, 256, 4096, None, 16).unwrap();
        let more = Geometry { capacity: fits.capacity + 1, ..fits };
        assert!(fits.file_bytes() <= budget && more.file_bytes() > budget);
    }
    assert!(matches!(
        Geometry::for_bytes(10_000, 256, 4096, None, 16),
        Err(ReservoirError::Budget { .. })
    ));
    assert!(
        Geometry::for_bytes(u64::MAX, 8192, 1 << 20, None, 16).is_ok(),
        "bounded by the blocks"
    );
    let wide = Geometry::for_bytes(1 << 30, 9000, 4096, None, 16);
    assert!(matches!(wide, Err(ReservoirError::Limit { .. })));
}

#[test]
fn a_disk_too_small_for_it_leaves_nothing_behind() {
    for at in 0..6 {
        let disk = Arc::new(CutDisk::new());
        disk.set(Some(Fault::Full(at)));
        let refused = Reservoir::create(disk.clone(), geometry(4), SEED);
        if let Err(error) = refused {
            assert!(matches!(&error, ReservoirError::Storage(full) if full.is_full()), "{error}");
            assert!(disk.paths().is_empty());
        }
    }
}
