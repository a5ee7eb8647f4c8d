//! A device's life under power cuts, full disks, errors and flipped bits, at every operation.

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::block::Block;
use crate::ports::cut_disk::{CutDisk, Failure, Fault};
use crate::reservoir::below;
use rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io::ErrorKind;

mod golden;
mod rebuild;
mod rules;
mod trial;

const SEED: [u8; 32] = [5; 32];
const BASE: [u8; 32] = [6; 32];

fn geometry() -> Geometry {
    Geometry { capacity: 3, tokens_max: 8, vocab: 4096, hidden: None, room: 3 }
}

fn block(offer: u64) -> Block {
    let tokens = vec![offer as u32, 1, offer as u32 + 1];
    Block { tokens, learn: vec![false, true, true], bytes: offer as u32 + 9, domain: 0 }
}

fn fresh() -> LearnerRecord {
    let shape = Shape { layer: 1, target: 2, rank: 1, scale: 2.0, fan_in: 3, fan_out: 2 };
    let zeros = vec![0.0; 5];
    LearnerRecord {
        fast: vec![0.5; 5],
        slow: vec![0.5; 5],
        first_moment: zeros.clone(),
        second_moment: zeros,
        shapes: vec![shape],
        base: BASE,
        settings: vec![("rank".to_owned(), "1".to_owned())],
        domains: vec![Domain { number: 70_001, name: "notes".into(), key: "/srv/notes".into() }],
        held_out: vec![HeldOutBlock::of(&Block { domain: 70_001, ..block(1) })],
        ..LearnerRecord::default()
    }
}

/// Stands for an optimiser step: every number depends on what was replayed and on the one before.
fn learn(learner: &mut LearnerRecord, reservoir: &mut Reservoir) -> Result<(), StateError> {
    let replayed: u32 =
        reservoir.draw(2)?.iter().map(|drawn| drawn.block.tokens[2] * (drawn.slot + 1)).sum();
    learner.step += 1;
    learner.cursor.step += 1;
    learner.since = Since { steps: learner.since.steps + 1, tokens: learner.since.tokens + 3 };
    for (at, fast) in learner.fast.iter_mut().enumerate() {
        *fast = *fast * 0.5 + replayed as f32 + at as f32;
        learner.slow[at] = 0.75 * learner.slow[at] + 0.25 * *fast;
        learner.first_moment[at] += *fast;
        learner.second_moment[at] += *fast * *fast;
    }
    reservoir.offer(&block(reservoir.stats().seen + 1), None, learner.fast[0])?;
    Ok(())
}

fn commit(
    state: &mut State,
    learner: &LearnerRecord,
    reservoir: &mut Reservoir,
) -> Result<u64, StateError> {
    let slow: Vec<u8> = learner.slow.iter().flat_map(|value| value.to_le_bytes()).collect();
    let files = [("adapter_config.json", &b"{\"r\": 1}"[..]), ("adapter_model.safetensors", &slow)];
    let verdict = format!("kept after step {}", learner.step);
    let domain = 70_000 + state.next_generation() as u32;
    let (reservoir, verdict) = (Some(reservoir), verdict.as_str());
    state.commit(Commit { files: &files, learner, reservoir, domain, verdict })
}

/// Learning `l`, checkpoints `C`, commits `K`, a rejection `R`, a rollback `<`.
const LIFE: &str = "lllCllKlllCllRlllCllKCllllK<llKlC";

/// A device's life with everything that changes its state; `done` is called after each act.
fn life(storage: Arc<dyn Storage>, done: impl FnMut()) -> Result<(), StateError> {
    live(LIFE, storage, done)
}

fn live(acts: &str, storage: Arc<dyn Storage>, mut done: impl FnMut()) -> Result<(), StateError> {
    let mut state = State::open(storage)?;
    state.set_keep(3);
    done();
    let (mut learner, mut reservoir) = (fresh(), state.reservoir(geometry(), SEED, None)?);
    done();
    for act in acts.chars() {
        match act {
            'l' => learn(&mut learner, &mut reservoir)?,
            'C' => state.checkpoint(learner.clone(), Some(&mut reservoir))?,
            'K' => drop(commit(&mut state, &learner, &mut reservoir)?),
            'R' => {
                state.reject(learner.step, "new text is not better", Some(&mut reservoir))?;
                learner = state.learner()?.unwrap();
            }
            '<' => {
                state.rollback(None)?;
                learner = state.learner()?.unwrap();
            }
            act => learner = trial::act(act, &mut state, &learner)?,
        }
        done();
    }
    Ok(())
}

/// All that a restart finds.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    current: Option<u64>,
    adapter: Vec<(String, Vec<u8>)>,
    learner: Option<LearnerRecord>,
    kept: Vec<u64>,
    globals: Vec<Option<Global>>,
    trial: Option<Trial>,
    installs: Vec<Install>,
    attempt: Option<Attempt>,
    rejected: usize,
    held: Vec<u64>,
    pass: Vec<u64>,
    offered: u64,
    checkpoint: Option<(LearnerRecord, Vec<u64>, Vec<u64>)>,
}

/// The blocks held, by offer and in the order in which they would be served.
fn offers(reservoir: &mut Reservoir) -> (Vec<u64>, Vec<u64>) {
    let mut pass = Vec::new();
    for drawn in reservoir.draw(100).unwrap() {
        assert_eq!(drawn.block, block(drawn.offer));
        pass.push(drawn.offer);
    }
    let mut held = pass.clone();
    held.sort_unstable();
    (held, pass)
}

fn look(storage: Arc<dyn Storage>) -> Result<Seen, StateError> {
    let mut state = State::open(storage)?;
    let (mut held, mut pass, mut offered) = (Vec::new(), Vec::new(), 0);
    if let Some(mut reservoir) = state.committed_reservoir()? {
        (held, pass) = offers(&mut reservoir);
        offered = reservoir.stats().seen;
        assert_eq!(held.len() as u64, offered.min(3) - reservoir.stats().corrupt);
    }
    let checkpoint = match state.take_checkpoint()? {
        None => None,
        Some(checkpoint) => {
            let mut staged = state.reservoir(geometry(), SEED, Some(&checkpoint))?;
            let (held, pass) = offers(&mut staged);
            assert_eq!(staged.stats().corrupt, 0);
            Some((checkpoint.learner, held, pass))
        }
    };
    let current = state.current().map(|generation| generation.number);
    Ok(Seen {
        current,
        adapter: current.map_or(Ok(Vec::new()), |number| state.adapter(number))?,
        learner: state.learner()?,
        kept: state.generations().iter().map(|generation| generation.number).collect(),
        globals: state.generations().iter().map(|generation| generation.global).collect(),
        trial: state.trial(),
        installs: state.installs().to_vec(),
        attempt: state.attempt(),
        rejected: state.rejections().len(),
        held,
        pass,
        offered,
        checkpoint,
    })
}

/// The life without faults: what a restart finds before the first act and after each, how many
/// operations it takes, and its disk.
fn reference() -> (Vec<Seen>, usize, CutDisk) {
    reference_of(LIFE)
}

fn reference_of(acts: &str) -> (Vec<Seen>, usize, CutDisk) {
    let disk = Arc::new(CutDisk::new());
    let mut seen = vec![look(Arc::new(disk.copy())).unwrap()];
    live(acts, disk.clone(), || seen.push(look(Arc::new(disk.copy())).unwrap())).unwrap();
    (seen, disk.operations(), disk.copy())
}

/// Runs the life into a fault; the disk, whether the life ended all the same, and what a restart may
/// find: the state before the act that met the fault, and the state after it.
fn life_until(acts: &str, fault: Fault, seen: &[Seen]) -> (Arc<CutDisk>, bool, [Seen; 2]) {
    let (disk, mut done) = (Arc::new(CutDisk::new()), 0);
    disk.set(Some(fault));
    let ended = live(acts, disk.clone(), || done += 1).is_ok();
    let after = seen.get(done + 1).unwrap_or(&seen[done]).clone();
    (disk, ended, [seen[done].clone(), after])
}

#[test]
fn a_power_cut_anywhere_leaves_the_old_state_or_the_new_one() {
    cut_everywhere(LIFE);
}

/// A power cut at every operation, each with 12 ways for unsynced writes to end.
fn cut_everywhere(acts: &str) {
    let (seen, operations, _) = reference_of(acts);
    let (mut olds, mut news) = (0, 0);
    for at in 0..operations {
        let (disk, ended, may) = life_until(acts, Fault::Cut(at), &seen);
        assert!(disk.is_off() || ended);
        for luck in 0..12 {
            let found = look(Arc::new(disk.after_cut(luck))).unwrap();
            assert!(
                may.contains(&found),
                "cut at {at}, luck {luck}: {found:#?} is not of {may:#?}"
            );
            olds += usize::from(may[0] != may[1] && found == may[0]);
            news += usize::from(may[0] != may[1] && found == may[1]);
        }
    }
    assert!(olds > 0 && news > 0, "both happen: {olds} old, {news} new");
}

#[test]
fn a_power_cut_during_recovery_changes_nothing_either() {
    cut_twice_everywhere(LIFE);
}

fn cut_twice_everywhere(acts: &str) {
    let (seen, operations, _) = reference_of(acts);
    for at in 0..operations {
        let (disk, _, _) = life_until(acts, Fault::Cut(at), &seen);
        for luck in [1, 2, 3] {
            let cut = disk.after_cut(luck);
            let expected = look(Arc::new(cut.copy())).unwrap();
            let whole = Arc::new(cut.copy());
            drop(State::open(whole.clone()).unwrap());
            for again in 0..whole.operations() {
                let recovering = Arc::new(cut.copy());
                recovering.set(Some(Fault::Cut(again)));
                drop(State::open(recovering.clone()));
                let found = look(Arc::new(recovering.after_cut(luck))).unwrap();
                assert_eq!(found, expected, "cut at {at}, again at {again}, luck {luck}");
            }
        }
    }
}

/// A job of 19 steps after a first commit, with a checkpoint every 6: what is left of one is taken up.
fn job(disk: &Arc<CutDisk>) -> Result<(), StateError> {
    let mut state = State::open(disk.clone())?;
    for target in [4, 23] {
        let checkpoint = state.take_checkpoint()?;
        let committed = state.learner()?;
        let mut reservoir = state.reservoir(geometry(), SEED, checkpoint.as_ref())?;
        let last = checkpoint.map(|checkpoint| checkpoint.learner).or(committed);
        let mut learner = last.unwrap_or_else(fresh);
        while learner.step < target {
            learn(&mut learner, &mut reservoir)?;
            if learner.step % 6 == 0 {
                state.checkpoint(learner.clone(), Some(&mut reservoir))?;
            }
        }
        if state.current().is_none_or(|generation| generation.step < target) {
            commit(&mut state, &learner, &mut reservoir)?;
        }
    }
    Ok(())
}

#[test]
fn a_job_cut_anywhere_ends_bit_identical_to_one_that_was_not() {
    let disk = Arc::new(CutDisk::new());
    job(&disk).unwrap();
    let (operations, expected) = (disk.operations(), look(disk).unwrap());
    for at in 0..operations {
        for luck in 0..4 {
            let disk = Arc::new(CutDisk::new());
            disk.set(Some(Fault::Cut(at)));
            let _ = job(&disk);
            let resumed = Arc::new(disk.after_cut(luck));
            job(&resumed).unwrap();
            assert_eq!(look(resumed).unwrap(), expected, "cut at {at}, luck {luck}");
        }
    }
}

#[test]
fn a_full_disk_is_one_clear_error_and_the_old_state() {
    fill_everywhere(LIFE);
}

fn fill_everywhere(acts: &str) {
    let (seen, operations, _) = reference_of(acts);
    let mut ends = 0;
    for at in 0..operations {
        let (disk, ended, [old, _]) = life_until(acts, Fault::Full(at), &seen);
        disk.set(None);
        assert_eq!(look(Arc::new(disk.copy())).unwrap(), old, "full at {at}");
        assert!(disk.paths().iter().all(|path| !path.ends_with(".new")), "{:?}", disk.paths());
        ends += usize::from(ended);
    }
    assert!(ends < operations / 10, "{ends} of {operations} met no full disk");
}

#[test]
fn a_commit_that_met_a_full_disk_can_be_made_again() {
    let mut made = 0;
    for at in 0..40 {
        let disk = Arc::new(CutDisk::new());
        let mut state = State::open(disk.clone()).unwrap();
        let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
        let mut learner = fresh();
        learn(&mut learner, &mut reservoir).unwrap();
        disk.set(Some(Fault::Full(at)));
        let refused = commit(&mut state, &learner, &mut reservoir);
        disk.set(None);
        if let Err(error) = refused {
            assert!(matches!(&error, StateError::Storage(full) if full.is_full()), "{error}");
            assert!(state.current().is_none());
            assert_eq!(commit(&mut state, &learner, &mut reservoir).unwrap(), 1);
            made += 1;
        }
        assert_eq!(look(disk).unwrap().current, Some(1));
    }
    assert!(made > 3);
}

#[test]
fn an_error_at_any_operation_leaves_the_old_state_or_the_new_one() {
    fail_everywhere(LIFE);
}

fn fail_everywhere(acts: &str) {
    let (seen, operations, _) = reference_of(acts);
    for at in 0..operations {
        let fault = Fault::Once(at, Failure::Kind(ErrorKind::Other));
        let (disk, ended, may) = life_until(acts, fault, &seen);
        let found = look(Arc::new(disk.copy())).unwrap();
        let fits = if ended { seen.last() == Some(&found) } else { may.contains(&found) };
        assert!(fits, "error at {at}: {found:#?} is not of {may:#?}");
        for luck in 0..4 {
            let found = look(Arc::new(disk.after_cut(luck))).unwrap();
            let fits = ended || may.contains(&found);
            assert!(fits, "error at {at}, then a cut, luck {luck}: {found:#?}");
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_committed() {
    let disk = Arc::new(CutDisk::new());
    let mut state = State::open(disk.clone()).unwrap();
    let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
    let mut learner = fresh();
    learn(&mut learner, &mut reservoir).unwrap();
    disk.set(Some(Fault::Once(0, Failure::Kind(ErrorKind::Other))));
    let refused = commit(&mut state, &learner, &mut reservoir);
    assert!(matches!(refused, Err(StateError::Sync(_))), "{refused:?}");
    let refused = commit(&mut state, &learner, &mut reservoir);
    assert!(matches!(refused, Err(StateError::Broken)), "{refused:?}");
    assert!(State::open(disk).unwrap().current().is_none());
}

/// 4,000 flipped bits and every file cut short, seed 9: a restart finds a generation that was
/// committed, whole, and a reservoir without a wrong block.
#[test]
fn damage_to_any_one_file_falls_back_to_what_was_committed() {
    let (seen, _, disk) = reference();
    let committed: BTreeMap<u64, Seen> =
        seen.into_iter().filter_map(|seen| Some((seen.current?, seen))).collect();
    let newest = look(Arc::new(disk.copy())).unwrap().current;
    let mut chance = rand_chacha::ChaCha8Rng::seed_from_u64(9);
    let (paths, mut fallbacks) = (disk.paths(), 0);
    for run in 0..4000 {
        let damaged = disk.copy();
        let path = &paths[below(&mut chance, paths.len() as u64) as usize];
        damaged.damage(path, |bytes| {
            let at = below(&mut chance, bytes.len() as u64) as usize;
            if run % 10 == 0 {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1 << (chance.next_u32() % 8);
            }
        });
        let damaged: Arc<CutDisk> = Arc::new(damaged);
        let state = State::open(damaged).unwrap();
        let number = state.current().unwrap().number;
        assert_eq!(state.adapter(number).unwrap(), committed[&number].adapter, "{path}");
        assert_eq!(state.learner().unwrap(), committed[&number].learner, "{path}");
        if let Ok(Some(mut reservoir)) = state.committed_reservoir() {
            offers(&mut reservoir);
        } else {
            assert_eq!(path, "reservoir", "only a file without a head is lost");
        }
        fallbacks += u32::from(Some(number) != newest);
        assert_eq!(Some(number) != newest, !state.recovery().fell_back.is_empty() && number != 4);
    }
    assert!(fallbacks > 100, "{fallbacks}");
}

#[test]
fn a_state_without_any_sound_generation_says_why() {
    let (_, _, disk) = reference();
    for name in NAMES {
        disk.damage(name, |bytes| bytes[70] ^= 1);
    }
    let disk = Arc::new(disk);
    let before = disk.paths();
    let said = State::open(disk.clone()).err().unwrap();
    assert!(matches!(said, StateError::NoSound { .. }), "{said}");
    assert!(said.to_string().contains("manifest.a") && said.to_string().contains("manifest.b"));
    assert_eq!(disk.paths(), before, "nothing is swept away from a state that cannot be read");
}

#[test]
fn a_disk_that_refuses_for_now_is_no_reason_to_fall_back() {
    let (_, _, disk) = reference();
    let disk = Arc::new(disk);
    for at in 1..12 {
        disk.set(Some(Fault::Once(at, Failure::Kind(ErrorKind::PermissionDenied))));
        if let Ok(state) = State::open(disk.clone()) {
            assert!(state.recovery().fell_back.is_empty());
        }
    }
}

#[test]
fn after_a_fallback_numbers_and_sequences_go_on() {
    let (_, _, disk) = reference();
    let disk = Arc::new(disk);
    let newest = State::look(disk.clone()).unwrap().current().unwrap().clone();
    let path = format!("{}/adapter_model.safetensors", newest.folder());
    disk.damage(&path, |bytes| bytes[0] ^= 1);
    let mut state = State::open(disk.clone()).unwrap();
    assert!(state.recovery().fell_back[0].contains(&path), "{:?}", state.recovery());
    assert!(state.current().unwrap().number < newest.number);
    let mut learner = state.learner().unwrap().unwrap();
    let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
    learn(&mut learner, &mut reservoir).unwrap();
    assert_eq!(commit(&mut state, &learner, &mut reservoir).unwrap(), newest.number + 1);
    let found = look(disk).unwrap();
    assert_eq!((found.current, found.learner), (Some(newest.number + 1), Some(learner)));
}
