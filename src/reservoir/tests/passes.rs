//! What a pass promises: each held block once, in an even order, across borders, damage and power cuts.

use super::*;
use crate::ports::cut_disk::Failure;
use std::io::ErrorKind;

/// A committed reservoir with its disk, as many blocks offered as `offers`.
fn filled(capacity: u32, offers: u64) -> (Arc<CutDisk>, Reservoir) {
    let disk = Arc::new(CutDisk::new());
    let mut held = Reservoir::create(disk.clone(), geometry(capacity), SEED).unwrap();
    offer(&mut held, 1..=offers);
    commit(&mut held);
    (disk, held)
}

fn slots(drawn: &[Drawn]) -> Vec<u32> {
    drawn.iter().map(|drawn| drawn.slot).collect()
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort_unstable();
    values
}

#[test]
fn a_pass_serves_each_held_block_once_and_a_draw_none_twice() {
    for n in 1..=7 {
        let (_, mut held) = filled(7, 7);
        let mut served = Vec::new();
        for _ in 0..7 * 30 {
            let drawn = slots(&held.draw(n).unwrap());
            assert_eq!(drawn.iter().collect::<BTreeSet<_>>().len(), n);
            served.extend(drawn);
        }
        for pass in served.chunks(7) {
            assert_eq!(sorted(pass.to_vec()), [0, 1, 2, 3, 4, 5, 6], "draws of {n}");
        }
    }
}

#[test]
fn a_draw_of_more_than_is_held_gives_all() {
    let (_, mut held) = filled(7, 5);
    for before in 0..5 {
        held.draw(before).unwrap();
        assert_eq!(sorted(slots(&held.draw(100).unwrap())), [0, 1, 2, 3, 4]);
    }
}

/// Chi-square over the 24 orders of four blocks, 20,000 passes: 23 degrees of freedom, 49.7 is
/// p = 0.001. Over the 576 pairs of an order and the next one, 575 degrees of freedom: 683.6 is
/// p = 0.001.
#[test]
fn every_order_of_a_pass_has_the_same_chance_whatever_came_before() {
    let (_, mut held) = filled(4, 4);
    let (mut orders, mut pairs, mut before) = (vec![0; 256], vec![0; 1 << 16], 0);
    for pass in 0..20_000 {
        let drawn = slots(&held.draw(4).unwrap());
        let order = drawn.iter().fold(0, |order, slot| order * 4 + *slot as usize);
        orders[order] += 1;
        pairs[before * 256 + order] += u32::from(pass > 0);
        before = order;
    }
    orders.retain(|count| *count > 0);
    pairs.retain(|count| *count > 0);
    assert_eq!((orders.len(), pairs.len()), (24, 576));
    let chi = chi_square(&orders, 20_000.0, 1.0 / 24.0);
    assert!(chi < 49.7, "{chi}");
    let chi = chi_square(&pairs, 19_999.0, 1.0 / 576.0);
    assert!(chi < 683.6, "{chi}");
}

#[test]
fn a_slot_replaced_in_the_middle_of_a_pass_serves_its_new_block_at_its_turn() {
    let (_, mut held) = filled(4, 4);
    let first = slots(&held.draw(1).unwrap())[0];
    while held.slots.iter().flatten().any(|entry| entry.offer <= 4) {
        let next = held.stats().seen + 1;
        offer(&mut held, next..=next);
        held.settle().unwrap();
    }
    let now: Vec<u64> = held.slots.iter().flatten().map(|entry| entry.offer).collect();
    let mut served = vec![first];
    for _ in 0..3 {
        let drawn = held.draw(1).unwrap().remove(0);
        assert_eq!(drawn.offer, now[drawn.slot as usize]);
        assert_eq!(drawn.block, block(drawn.offer));
        served.push(drawn.slot);
    }
    assert_eq!(sorted(served), [0, 1, 2, 3]);
}

#[test]
fn a_slot_filled_in_the_middle_of_a_pass_waits_for_the_next() {
    let (_, mut held) = filled(6, 3);
    let mut served = slots(&held.draw(1).unwrap());
    offer(&mut held, 4..=6);
    served.extend(slots(&held.draw(2).unwrap()));
    assert_eq!(sorted(served), [0, 1, 2]);
    let served: Vec<u32> = (0..6).flat_map(|_| slots(&held.draw(1).unwrap())).collect();
    assert_eq!(sorted(served), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_damaged_block_is_passed_over_and_another_served_in_its_stead() {
    let (disk, held) = filled(5, 5);
    let ledger = held.sync().unwrap();
    let place = u64::from(ledger.entries[2].place);
    let at = (4096 + place * held.geometry().slot_bytes() + 80) as usize;
    disk.damage(file::NAME, |bytes| bytes[at] ^= 4);
    let mut found = Reservoir::open(disk, Some(&ledger), None).unwrap();
    let mut served = Vec::new();
    for _ in 0..4 * 5 {
        let drawn = slots(&found.draw(2).unwrap());
        assert_eq!(drawn.len(), 2);
        served.extend(drawn);
    }
    for pass in served.chunks(4) {
        assert_eq!(sorted(pass.to_vec()), [0, 1, 3, 4]);
    }
    assert_eq!((found.stats().held, found.stats().corrupt), (4, 1));
}

/// Draws of 3 from 7 held, an offer after each, the ledger taken at every step.
#[test]
fn a_run_taken_up_in_the_middle_of_a_pass_ends_like_one_that_was_never_cut() {
    let (disk, mut whole) = filled(7, 7);
    let committed = whole.committed.clone();
    let step = |reservoir: &mut Reservoir| {
        let drawn = reservoir.draw(3).unwrap();
        let next = reservoir.stats().seen + 1;
        offer(reservoir, next..=next);
        let ledger = reservoir.sync().unwrap();
        reservoir.checkpointed(&ledger);
        (drawn, ledger)
    };
    let (mut last, mut lengths) = (committed.clone(), BTreeSet::new());
    for _ in 0..40 {
        lengths.insert(last.pending.len());
        let cut = Arc::new(disk.after_cut(0));
        let expected = step(&mut whole);
        let mut resumed = Reservoir::open(cut, Some(&committed), Some(&last)).unwrap();
        assert_eq!(step(&mut resumed), expected);
        last = expected.1;
    }
    assert!(lengths.len() >= 7, "{lengths:?}");
}

#[test]
fn what_is_discarded_goes_back_to_the_pass_of_the_commit() {
    let (disk, mut held) = filled(7, 7);
    held.draw(3).unwrap();
    let ledger = commit(&mut held);
    assert_eq!(ledger.pending.len(), 4);
    let mut again = Reservoir::open(disk, Some(&ledger), None).unwrap();
    for draws in 0..5 {
        (0..draws).for_each(|_| drop(held.draw(2).unwrap()));
        offer(&mut held, 8..=9);
        held.discard();
        assert_eq!(held.sync().unwrap().pending, ledger.pending);
    }
    for _ in 0..9 {
        assert_eq!(held.draw(2).unwrap(), again.draw(2).unwrap());
    }
}

#[test]
fn a_draw_that_the_disk_refuses_was_not_made() {
    let (disk, mut held) = filled(7, 7);
    let mut twin = Reservoir::open(disk.clone(), Some(&held.committed), None).unwrap();
    let mut refused = 0;
    for draw in 0..40 {
        let before = held.sync().unwrap();
        disk.set(Some(Fault::Once(draw % 5, Failure::Kind(ErrorKind::PermissionDenied))));
        let drawn = held.draw(5);
        disk.set(None);
        assert!(matches!(drawn, Err(ReservoirError::Storage(_))), "{drawn:?}");
        assert_eq!(held.sync().unwrap(), before);
        refused += usize::from(before.pending.len() < 5);
        assert_eq!(held.draw(5).unwrap(), twin.draw(5).unwrap());
    }
    assert!(refused > 20, "{refused} of them across a border");
}

#[test]
fn the_ledger_of_most_blocks_fits_its_share_of_a_manifest() {
    use sapwood_protocol::limits::{LEDGER_SLOT_BYTES, RESERVOIR_BLOCKS_MAX};
    use sapwood_protocol::record::Kind;
    let entry = |slot| Entry { slot, place: slot, domain: 0, offer: 1, digest: [0; 32] };
    let slots = 0..RESERVOIR_BLOCKS_MAX;
    let (entries, pending) = (slots.clone().map(entry).collect(), slots.collect());
    let seen = u64::from(RESERVOIR_BLOCKS_MAX);
    let ledger = Ledger { seen, entries, pending, ..Ledger::empty(SEED) };
    assert!(ledger.check(&geometry(RESERVOIR_BLOCKS_MAX)).is_ok());
    let bytes = record::seal(Kind::Manifest, 1, &ledger).unwrap().len() as u64;
    assert!(bytes <= u64::from(RESERVOIR_BLOCKS_MAX) * LEDGER_SLOT_BYTES, "{bytes}");
}
