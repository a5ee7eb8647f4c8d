//! The disk loses what it may lose, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use std::collections::BTreeSet;

#[test]
fn what_was_synced_survives_and_the_rest_may_not() {
    let disk = CutDisk::new();
    disk.write("kept", b"1").unwrap();
    disk.sync("kept").unwrap();
    disk.sync_dir("").unwrap();
    disk.write("lost", b"2").unwrap();
    disk.write_at("kept", 0, b"3").unwrap();
    assert_eq!(disk.read("kept").unwrap(), b"3");
    assert_eq!(disk.after_cut(0).paths(), ["kept"]);
    assert_eq!(disk.after_cut(0).read("kept").unwrap(), b"1");
    assert_eq!(disk.after_cut(1).read("lost").unwrap(), b"2");
}

#[test]
fn a_name_without_its_bytes_and_bytes_without_their_name_both_happen() {
    let disk = CutDisk::new();
    disk.write("a", b"full").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(disk.after_cut(0).read("a").unwrap(), b"");
    let disk = CutDisk::new();
    disk.write("a", b"full").unwrap();
    disk.sync("a").unwrap();
    assert!(disk.after_cut(0).paths().is_empty());
    let found: BTreeSet<u64> =
        (2..200).filter_map(|luck| disk.after_cut(luck).len("a").unwrap()).collect();
    assert_eq!(found, BTreeSet::from([4]), "synced bytes are whole once they have a name");
}

#[test]
fn a_write_can_be_torn_and_a_rename_cannot() {
    let disk = CutDisk::new();
    disk.write("a", b"old").unwrap();
    disk.sync("a").unwrap();
    disk.sync_dir("").unwrap();
    disk.write_at("a", 0, b"new").unwrap();
    let found: BTreeSet<_> = (0..200).map(|luck| disk.after_cut(luck).read("a").unwrap()).collect();
    assert!(found.len() > 2, "{found:?}");
    disk.rename("a", "b").unwrap();
    for luck in 0..200 {
        assert_eq!(disk.after_cut(luck).paths().len(), 1);
    }
}

/// Two sectors written over zeros that are durable, and a third beyond the end: 2,000 seeds.
#[test]
fn sectors_are_lost_alone_and_a_length_comes_without_bytes() {
    let disk = CutDisk::new();
    disk.write("a", &[0; 1024]).unwrap();
    disk.sync("a").unwrap();
    disk.sync_dir("").unwrap();
    disk.write_at("a", 0, &[7; 1536]).unwrap();
    let found: Vec<Vec<u8>> =
        (2..2000).map(|luck| disk.after_cut(luck).read("a").unwrap()).collect();
    let any = |like: &dyn Fn(&[u8]) -> bool| found.iter().any(|bytes| like(bytes));
    assert!(any(&|b| b[..512] == [0; 512] && b[512..1024] == [7; 512]), "later without earlier");
    assert!(any(&|b| b.len() == 1536 && b[1024..] == [0; 512]), "length with zeros");
    assert!(any(&|b| b.len() == 1536 && b[1024..].iter().any(|byte| ![0, 7].contains(byte))));
    assert!(any(&|b| b.len() == 1024 && b[..700] == [7; 700] && b[900..] == [0; 124]), "bytes");
    assert!(found.iter().all(|b| [1024, 1536].contains(&b.len()) || b[..b.len()] == *b));
    assert!(found.iter().all(|b| b[..1024].iter().all(|byte| [0, 7].contains(byte))));
}

#[test]
fn space_that_was_allocated_may_hold_anything_until_it_is_synced() {
    let disk = CutDisk::new();
    disk.allocate("a", 64).unwrap();
    disk.sync_dir("").unwrap();
    let stale = |disk: &CutDisk| {
        (2..50).any(|luck| disk.after_cut(luck).read("a").unwrap().iter().any(|byte| *byte != 0))
    };
    assert!(stale(&disk));
    disk.sync("a").unwrap();
    assert!(!stale(&disk));
}

#[test]
fn a_history_gives_the_disks_of_every_cut() {
    let disk = CutDisk::new().recording();
    let other = CutDisk::new();
    for storage in [&disk, &other] {
        storage.create_dir_all("f").unwrap();
        storage.write("f/a", b"one").unwrap();
        storage.sync("f/a").unwrap();
    }
    let early = disk.steps();
    for storage in [&disk, &other] {
        storage.sync_dir("f").unwrap();
        storage.sync_dir("").unwrap();
        storage.rename("f/a", "f/b").unwrap();
        storage.write("f/c", b"two").unwrap();
    }
    let history = disk.history();
    let last = history.cut(history.len());
    assert_eq!(last.pending(), 3, "a rename, a name and its bytes");
    let lucky = |luck| last.disk(&last.by_chance(luck)).digest();
    assert!((2..40).all(|luck| lucky(luck) == other.after_cut(luck).digest()));
    assert_eq!(last.whole().digest(), disk.copy().digest());
    let subsets: BTreeSet<u128> =
        (0..8).map(|kept| last.disk(&last.subset(kept)).digest()).collect();
    assert_eq!(subsets.len(), 6, "bytes without their name are no state of their own");
    assert!(history.cut(early).disk(&[]).paths().is_empty(), "no name was synced by then");
    assert!(history.cuts(0).all(|(at, cut)| cut.pending() == history.cut(at).pending()));
}

#[test]
fn a_failure_comes_once_or_from_then_on() {
    let disk = CutDisk::new();
    disk.set(Some(Fault::Once(1, Failure::Eio)));
    let failed = |disk: &CutDisk| (0..4).map(|_| disk.write("a", b"x").is_err()).collect();
    let once: Vec<bool> = failed(&disk);
    assert_eq!(once, [false, true, false, false]);
    disk.set(Some(Fault::From(2, Failure::Kind(ErrorKind::StorageFull))));
    let on: Vec<bool> = failed(&disk);
    assert_eq!(on, [false, false, true, true]);
    disk.set(Some(Fault::Once(0, Failure::Eio)));
    assert!(disk.read("a").unwrap_err().is_damage());
}
