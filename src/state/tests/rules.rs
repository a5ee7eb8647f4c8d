//! What a state keeps, gives back and refuses when nothing goes wrong.

use super::*;
use crate::ports::{Disk, StorageError};

#[test]
fn a_rollback_gives_back_adapter_and_learner_and_keeps_the_reservoir() {
    let disk = Arc::new(CutDisk::new());
    let mut state = State::open(disk.clone()).unwrap();
    assert!(matches!(state.rollback(None), Err(StateError::NothingBefore)));
    let (mut learner, mut reservoir) = (fresh(), state.reservoir(geometry(), SEED, None).unwrap());
    let mut learners = vec![learner.clone()];
    for _ in 0..3 {
        learn(&mut learner, &mut reservoir).unwrap();
        commit(&mut state, &learner, &mut reservoir).unwrap();
        learners.push(learner.clone());
    }
    let held = look(disk.clone()).unwrap().held;
    assert_eq!(state.rollback(None).unwrap(), 2);
    assert_eq!(state.rollback(Some(1)).unwrap(), 1);
    assert!(matches!(state.rollback(Some(9)), Err(StateError::Unknown { number: 9, .. })));
    let found = look(disk).unwrap();
    assert_eq!((found.current, found.learner), (Some(1), Some(learners[1].clone())));
    assert_eq!((found.held, found.offered), (held, 3));
    assert_eq!(state.rollback(Some(3)).unwrap(), 3, "a later one that is kept");
    assert_eq!(state.rollback(Some(0)).unwrap(), 0, "the bare base");
    assert_eq!((state.current(), state.learner().unwrap()), (None, None));
    learn(&mut learner, &mut reservoir).unwrap();
    assert_eq!(commit(&mut state, &learner, &mut reservoir).unwrap(), 4);
    assert_eq!(state.current().unwrap().parent, 0);
}

/// A domain's number goes with the blocks in the reservoir, which a rollback leaves as it is.
#[test]
fn a_domain_number_is_never_given_twice_whatever_is_rolled_back_or_damaged() {
    let disk = Arc::new(CutDisk::new());
    let mut state = State::open(disk.clone()).unwrap();
    assert_eq!(state.next_domain(), 1);
    let learner = &fresh();
    for domain in [1, 2, 1] {
        state.commit(Commit { files: &[], learner, reservoir: None, domain, verdict: "" }).unwrap();
    }
    assert_eq!(state.next_domain(), 3);
    state.rollback(Some(1)).unwrap();
    assert_eq!(state.next_domain(), 3);
    state.commit(Commit { files: &[], learner, reservoir: None, domain: 3, verdict: "" }).unwrap();
    let newest = NAMES[state.slot.unwrap()];
    for name in NAMES {
        let damaged = Arc::new(disk.copy());
        damaged.damage("learner/4", |bytes| bytes[70] ^= 1);
        assert_eq!(State::open(damaged.clone()).unwrap().next_domain(), 4);
        damaged.damage(name, |bytes| bytes[70] ^= 1);
        let next = State::open(damaged).map(|state| state.next_domain());
        assert!(matches!(next, Ok(number) if number == if name == newest { 3 } else { 4 }));
    }
}

#[test]
fn a_rejected_job_leaves_its_reason_and_nothing_else() {
    let disk = Arc::new(CutDisk::new());
    let mut state = State::open(disk.clone()).unwrap();
    let (mut learner, mut reservoir) = (fresh(), state.reservoir(geometry(), SEED, None).unwrap());
    learn(&mut learner, &mut reservoir).unwrap();
    commit(&mut state, &learner, &mut reservoir).unwrap();
    let before = look(disk.clone()).unwrap();
    for number in 0..20 {
        learn(&mut learner, &mut reservoir).unwrap();
        state.checkpoint(learner.clone(), Some(&mut reservoir)).unwrap();
        state.reject(learner.step, &format!("reason {number}"), Some(&mut reservoir)).unwrap();
    }
    let found = look(disk).unwrap();
    assert_eq!(Seen { rejected: 0, ..found.clone() }, Seen { rejected: 0, ..before });
    assert_eq!(found.rejected, REJECTIONS_MAX);
    assert_eq!(state.rejections().last().unwrap().reason, "reason 19");
    assert_eq!(reservoir.stats().seen, 1);
}

#[test]
fn only_the_last_generations_are_kept_and_their_files_with_them() {
    let disk = Arc::new(CutDisk::new());
    let mut state = State::open(disk.clone()).unwrap();
    let (mut learner, mut reservoir) = (fresh(), state.reservoir(geometry(), SEED, None).unwrap());
    for _ in 0..9 {
        learn(&mut learner, &mut reservoir).unwrap();
        commit(&mut state, &learner, &mut reservoir).unwrap();
    }
    assert_eq!(disk.list("adapters").unwrap(), ["6", "7", "8", "9"]);
    assert_eq!(disk.list("learner").unwrap(), ["6", "7", "8", "9"]);
    assert!(state.verify(6).is_ok());
    assert!(matches!(state.verify(5), Err(StateError::Unknown { number: 5, .. })));
    assert_eq!(state.generations()[3].verdict, "kept after step 9");
}

/// The manifest before the newest is what a start falls back to, so the generation it has in use is
/// kept beside the new one: however few are kept, and were it the oldest of them.
#[test]
fn the_generation_before_outlives_the_flip_to_the_next() {
    for keep in [1, 2, 3] {
        let disk = Arc::new(CutDisk::new());
        let mut state = State::open(disk.clone()).unwrap();
        state.set_keep(keep);
        let mut learner = fresh();
        let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
        for _ in 0..3 {
            learn(&mut learner, &mut reservoir).unwrap();
            commit(&mut state, &learner, &mut reservoir).unwrap();
        }
        let oldest = state.generations()[0].number;
        state.rollback(Some(oldest)).unwrap();
        let before = look(Arc::new(disk.copy())).unwrap();
        learn(&mut learner, &mut reservoir).unwrap();
        assert_eq!(commit(&mut state, &learner, &mut reservoir).unwrap(), 4);
        let numbers: Vec<u64> = state.generations().iter().map(|kept| kept.number).collect();
        assert!(numbers.contains(&oldest) && numbers.contains(&4), "keep {keep}: {numbers:?}");
        assert!(state.verify(oldest).is_ok(), "keep {keep}");
        let sequence =
            |name: &&str| Manifest::read(&*disk, name).unwrap().map(|manifest| manifest.sequence);
        let newest = NAMES.into_iter().max_by_key(sequence).unwrap();
        disk.write(newest, b"lost").unwrap();
        let found = look(disk).unwrap();
        assert_eq!((found.current, found.adapter), (before.current, before.adapter), "keep {keep}");
        assert_eq!(found.current, Some(oldest));
    }
}

/// No file of a generation goes before the manifest that no longer names it is durable.
#[test]
fn a_cut_in_a_commit_leaves_every_generation_that_is_named_whole() {
    for at in 0.. {
        let disk = Arc::new(CutDisk::new());
        let mut state = State::open(disk.clone()).unwrap();
        state.set_keep(2);
        let mut learner = fresh();
        let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
        for _ in 0..3 {
            learn(&mut learner, &mut reservoir).unwrap();
            commit(&mut state, &learner, &mut reservoir).unwrap();
        }
        disk.set(Some(Fault::Cut(at)));
        let done = commit(&mut state, &learner, &mut reservoir).is_ok() && !disk.is_off();
        for luck in 0..6 {
            let state = State::open(Arc::new(disk.after_cut(luck))).unwrap();
            assert_eq!(state.generations().len(), 2, "cut at {at}, luck {luck}");
            for kept in state.generations() {
                let whole = state.verify(kept.number);
                assert!(whole.is_ok(), "cut at {at}, luck {luck}: {whole:?}");
            }
        }
        if done {
            assert!(at > 10, "a commit is more than {at} operations");
            break;
        }
    }
}

#[test]
fn a_checkpoint_that_is_not_taken_up_is_given_up() {
    let disk = Arc::new(CutDisk::new());
    let mut state = State::open(disk.clone()).unwrap();
    let (mut learner, mut reservoir) = (fresh(), state.reservoir(geometry(), SEED, None).unwrap());
    learn(&mut learner, &mut reservoir).unwrap();
    state.checkpoint(learner, Some(&mut reservoir)).unwrap();
    let mut state = State::open(disk.clone()).unwrap();
    assert_eq!(state.take_checkpoint().unwrap().unwrap().learner.step, 1);
    drop(state.reservoir(geometry(), SEED, None).unwrap());
    assert!(state.take_checkpoint().unwrap().is_none());
    assert_eq!(disk.after_cut(0).len(CHECKPOINT).unwrap(), None);
}

#[test]
fn a_record_of_other_conditions_is_refused_by_name() {
    let record = fresh();
    let settings = [("rank".to_owned(), "1".to_owned()), ("other".to_owned(), "2".to_owned())];
    assert!(record.may_resume(&[0; 32], &settings).is_ok());
    let said = record.may_resume(&[0; 32], &[("rank".to_owned(), "8".to_owned())]).unwrap_err();
    assert!(said.to_string().contains("another rank: expected 1, got 8"), "{said}");
    assert!(record.may_resume(&[1; 32], &settings).unwrap_err().to_string().contains("data set"));
    let spec = crate::adapter::Spec { modules: Vec::new() };
    let said = record.belongs_to(&[7; 32], &spec).unwrap_err();
    assert!(said.to_string().contains("base model"), "{said}");
    let said = record.belongs_to(&BASE, &spec).unwrap_err();
    assert!(said.to_string().contains("adapted layers"), "{said}");
    let short = LearnerRecord { slow: vec![0.0; 4], ..fresh() };
    let said = short.check().unwrap_err().to_string();
    assert_eq!(said, "learner record: expected 5 numbers of slow, got 4");
}

#[test]
fn what_cannot_be_kept_is_refused_before_anything_is_written() {
    let disk = Arc::new(CutDisk::new());
    let mut state = State::open(disk.clone()).unwrap();
    disk.set(None);
    let long = "x".repeat(VERDICT_BYTES_MAX + 1);
    for (name, verdict) in [("../x", ""), ("a/b", ""), ("", ""), (".hidden", ""), ("fine", &long)] {
        let files = [(name, &b""[..])];
        let learner = &fresh();
        let refused =
            state.commit(Commit { files: &files, learner, reservoir: None, domain: 0, verdict });
        assert!(refused.is_err(), "{name:?}");
    }
    assert_eq!((disk.operations(), state.current()), (0, None));
}

#[test]
fn a_count_that_nothing_can_follow_is_damage() {
    for manifest in [
        Manifest { sequence: u64::MAX, ..Manifest::default() },
        Manifest { last: u64::MAX, ..Manifest::default() },
    ] {
        let disk = Arc::new(CutDisk::new());
        disk.write(NAMES[0], &seal(Kind::Manifest, 1, &manifest).unwrap()).unwrap();
        let said = State::open(disk).err().unwrap().to_string();
        assert!(said.contains("expected at most 4611686018427387904, got 18446744"), "{said}");
    }
    let ended = LearnerRecord { step: u64::MAX, ..fresh() };
    assert!(matches!(ended.check(), Err(StateError::Limit { .. })));
}

#[test]
fn other_reservoir_sizes_than_those_of_the_file_are_refused() {
    let mut state = State::open(Arc::new(CutDisk::new())).unwrap();
    drop(state.reservoir(geometry(), SEED, None).unwrap());
    let other = Geometry { capacity: 4, ..geometry() };
    let said = state.reservoir(other, SEED, None).err().unwrap();
    assert!(matches!(said, StateError::Reservoir(ReservoirError::Geometry { .. })), "{said}");
}

#[test]
fn a_real_folder_lives_the_same_life() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("state");
    life(Arc::new(Disk::exclusive(&root).unwrap()), || {}).unwrap();
    let looker = State::look(Arc::new(Disk::look(&root).unwrap())).unwrap();
    assert!(looker.committed_reservoir().unwrap().unwrap().verify().unwrap() > 0);
    let mut looker = looker;
    let refused = looker.rollback(None).err().unwrap();
    assert!(matches!(refused, StateError::Storage(StorageError::Io { .. })), "{refused}");
    let seen = look(Arc::new(Disk::exclusive(&root).unwrap())).unwrap();
    assert_eq!(Some(&seen), reference().0.last());
}

#[test]
fn what_cannot_be_read_for_a_moment_is_there_at_the_next_start() {
    let (seen, _, disk) = reference();
    let mut reported = 0;
    for at in 0..40 {
        let disk = Arc::new(disk.copy());
        disk.set(Some(Fault::Once(at, Failure::Eio)));
        if let Ok(state) = State::open(disk.clone()) {
            let recovery = state.recovery();
            let lost = !recovery.fell_back.is_empty() || recovery.checkpoint_lost.is_some();
            reported += u32::from(lost);
        }
        disk.set(None);
        assert_eq!(Some(&look(disk).unwrap()), seen.last(), "error at {at}");
    }
    assert!(reported > 4, "{reported}");
}

#[test]
fn a_manifest_that_is_gone_is_reported_and_what_it_named_is_not_written_over() {
    let (_, _, disk) = reference();
    let newest = State::look(Arc::new(disk.copy())).unwrap().current().unwrap().number;
    let mut unknown = 0;
    for name in NAMES {
        let disk = Arc::new(disk.copy());
        disk.remove(name).unwrap();
        let state = State::open(disk).unwrap();
        let number = state.current().unwrap().number;
        let told = &state.recovery().fell_back;
        assert_eq!(told[0], format!("{name} is missing"));
        assert!(told[1].starts_with(&format!("generation {number} is in use")), "{told:?}");
        assert!(state.next_generation() > newest);
        unknown += u32::from(number < newest && told[1].contains("in no manifest"));
    }
    assert_eq!(unknown, 1, "one of the two is the newer");
}

/// A best adapter of another learner is damage like any other, and never judged.
#[test]
fn a_checkpoint_whose_best_adapter_fits_no_learner_is_refused() {
    let disk = Arc::new(CutDisk::new());
    life(disk.clone(), || {}).unwrap();
    let mut state = State::open(disk.clone()).unwrap();
    let learner = state.learner().unwrap().unwrap();
    for (slow, fits) in [(learner.slow.clone(), true), (vec![0.5], false)] {
        let best = Best { slow, ..Best::default() };
        state.checkpoint_with(learner.clone(), Some(best), None).unwrap();
        assert_eq!(State::look(disk.clone()).unwrap().take_checkpoint().is_ok(), fits);
    }
}
