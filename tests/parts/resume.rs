//! A job that is cut anywhere ends bit for bit as the one that was not, and replay is what remembers.
//!
//! The base is noise and the blocks are number games: what is tested is the bookkeeping, not language.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::small::{self, blocks};
use ndarray::{Array3, s};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sapwood::adapter::Adapter;
use sapwood::block::Block;
use sapwood::head::Group;
use sapwood::learner::{
    Bench, Course, Cursor, Domains, Engines, Event, Feed, LearnError, Material, Outcome, Score,
    Stream, Text, Who, adapt, geometry, own_texts, spec,
};
use sapwood::ports::Memory;
use sapwood::reservoir::{Drawn, Reservoir};
use sapwood::settings::{Method, Schedule, Settings};
use sapwood::state::{Generation, LearnerRecord, State};
use sapwood::train::Learners;
use sapwood::trunk::Trunk;
use sapwood_tiny as tiny;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

/// Blocks to learn; with batches of four, twelve steps are two passes over them and a half.
const BLOCKS: usize = 18;
/// Optimiser steps of a job.
const STEPS: u64 = 12;

fn settings() -> Settings {
    Settings {
        iters: STEPS,
        batch_size: 4,
        replay_batch_size: 3,
        replay_blocks: 7,
        anchor_blocks: 3,
        num_layers: 2,
        max_seq_length: 16,
        learning_rate: 1e-2,
        rank: 4,
        threads: 1,
        steps_per_report: 1,
        save_every: 0,
        gate_new: -1.0,
        gate_old: 10.0,
        seed: 11,
        ..Settings::default()
    }
}

/// The one base of all tests; the models they ask for differ in nothing that it depends on.
fn engines() -> &'static Engines {
    static ENGINES: OnceLock<(tempfile::TempDir, Engines)> = OnceLock::new();
    &ENGINES.get_or_init(|| small::engines(&settings())).1
}

fn material(name: &str, from: u32) -> Material {
    Material {
        key: name.to_owned(),
        name: name.to_owned(),
        hash: [from as u8; 32],
        train: blocks(from, BLOCKS),
        valid: blocks(from, 5),
        general: blocks(200, 3),
        start: vec![1],
    }
}

/// Learns until `stop` steps of the job are done, or to the end.
fn learn(
    state: &mut State,
    material: &Material,
    settings: &Settings,
    stop: Option<u64>,
) -> Result<Outcome, LearnError> {
    let mut tell = |event: &Event| match event {
        Event::Step { step, .. } if Some(*step) == stop => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    adapt(engines(), state, material, settings, &mut tell)
}

/// Everything that a device has after a job.
#[derive(Debug, PartialEq)]
struct After {
    generation: Generation,
    learner: LearnerRecord,
    files: Vec<(String, Vec<u8>)>,
    /// Seen, held, and the next draw of all that is held, in the order of chance.
    reservoir: Option<(u64, u32, Vec<Block>)>,
}

fn after(storage: &Arc<Memory>) -> After {
    let state = State::look(storage.clone()).unwrap();
    let generation = state.current().unwrap().clone();
    let reservoir = state.committed_reservoir().unwrap().map(|mut reservoir| {
        let stats = reservoir.stats();
        let drawn = reservoir.draw(stats.held as usize).unwrap();
        (stats.seen, stats.held, drawn.into_iter().map(|drawn| drawn.block).collect())
    });
    After {
        learner: state.learner().unwrap().unwrap(),
        files: state.adapter(generation.number).unwrap(),
        generation,
        reservoir,
    }
}

/// A device that has learned one domain and now learns a second; `cuts` are the steps where power
/// fails, each followed by a new start. Gives what it has at the end, and the verdict's scores.
fn device(settings: &Settings, cuts: &[u64]) -> (After, Outcome) {
    let storage = Arc::new(Memory::default());
    let mut state = State::open(storage.clone()).unwrap();
    learn(&mut state, &material("first", 10), settings, None).unwrap();
    drop(state);
    let second = material("second", 50);
    let mut begun = false;
    for &cut in cuts {
        let mut state = State::open(storage.clone()).unwrap();
        let settings = Settings { resume: begun, ..settings.clone() };
        let outcome = learn(&mut state, &second, &settings, Some(cut)).unwrap();
        assert_eq!(outcome, Outcome::Stopped);
        begun = true;
    }
    let mut state = State::open(storage.clone()).unwrap();
    let settings = Settings { resume: begun, ..settings.clone() };
    let outcome = learn(&mut state, &second, &settings, None).unwrap();
    (after(&storage), outcome)
}

/// Every single cut, and three in one job.
fn every_cut_ends_as_none(settings: &Settings) {
    let whole = device(settings, &[]);
    assert_eq!(device(settings, &[]), whole, "the job itself is not reproducible");
    for step in 1..STEPS {
        assert!(device(settings, &[step]) == whole, "cut after step {step}");
    }
    assert!(device(settings, &[2, 3, 9]) == whole, "three cuts");
}

#[test]
fn a_job_without_replay_resumes_bit_for_bit() {
    every_cut_ends_as_none(&Settings { replay_batch_size: 0, ..settings() });
}

#[test]
fn a_job_with_replay_resumes_bit_for_bit() {
    every_cut_ends_as_none(&settings());
}

#[test]
fn a_job_that_replays_hidden_states_resumes_bit_for_bit() {
    every_cut_ends_as_none(&Settings { replay_hidden: true, ..settings() });
}

#[test]
fn a_job_that_accumulates_gradients_resumes_bit_for_bit() {
    every_cut_ends_as_none(&Settings { grad_accumulation_steps: 2, ..settings() });
}

/// Goal: what is scored on the way, and the best of it, survives a cut like everything else.
#[test]
fn a_job_that_keeps_its_best_adapter_resumes_bit_for_bit() {
    every_cut_ends_as_none(&Settings { steps_per_eval: 2, ..overfitting() });
}

/// Settings under which the second domain gets worse on its held-out text after a few steps.
fn overfitting() -> Settings {
    Settings { learning_rate: 0.2, lr_schedule: Schedule::Constant, ..settings() }
}

/// What a job told of its best adapter and of ending early, and the verdict's score of slow on new text.
fn best(settings: &Settings) -> (Vec<Event>, f64, Vec<f64>) {
    let (mut told, mut seen) = (Vec::new(), Vec::new());
    let storage = Arc::new(Memory::default());
    let mut state = State::open(storage).unwrap();
    let mut tell = |event: &Event| {
        match event {
            Event::Plateau { .. } | Event::Best { .. } => told.push(event.clone()),
            Event::Scores { step, scores } if *step > 0 => seen.extend(new(scores)),
            _ => {}
        }
        ControlFlow::Continue(())
    };
    // What is held out follows another rule, so that learning ends up making it worse.
    let material = Material { valid: blocks(60, 5), ..material("first", 10) };
    let outcome = adapt(engines(), &mut state, &material, settings, &mut tell).unwrap();
    let Outcome::Judged { scores, .. } = outcome else { unreachable!("it was not stopped") };
    (told, new(&scores).unwrap(), seen)
}

/// The score of slow on new text.
fn new(scores: &[Score]) -> Option<f64> {
    let found = scores.iter().find(|score| score.who == Who::Slow && score.text == Text::New);
    found.map(|score| score.bits_per_byte)
}

#[test]
fn the_best_adapter_of_a_job_is_judged_and_a_flat_job_ends_early() {
    let short = Settings { iters: 8, warmup: 0.0, ..overfitting() };
    let (told, judged, seen) = best(&Settings { steps_per_eval: 1, ..short.clone() });
    let least = seen.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(matches!(told[..], [Event::Best { .. }]), "{told:?} {seen:?}");
    assert_eq!(judged, least);
    let (told, judged, seen) = best(&Settings { steps_per_eval: 1, patience: 2, ..short });
    let [Event::Plateau { step, best }, Event::Best { step: again }] = told[..] else {
        unreachable!("{told:?} {seen:?}")
    };
    assert!(step < 8 && best == again && step == best + 2, "{told:?}");
    assert_eq!(judged, seen[best as usize - 1]);
}

#[test]
fn the_tests_of_resuming_see_a_difference_of_one_seed() {
    let other = device(&Settings { seed: 12, ..settings() }, &[]);
    assert!(other != device(&settings(), &[]));
}

#[test]
fn a_cut_between_two_checkpoints_costs_the_steps_since_and_nothing_else() {
    let settings = Settings { save_every: 5, ..settings() };
    let whole = device(&settings, &[]);
    let storage = Arc::new(Memory::default());
    learn(&mut State::open(storage.clone()).unwrap(), &material("first", 10), &settings, None)
        .unwrap();
    let second = material("second", 50);
    // Power fails in step 8: the listener never comes back, the state never hears of it.
    let cut = std::panic::catch_unwind(|| {
        let mut state = State::open(storage.clone()).unwrap();
        let mut tell = |event: &Event| match event {
            Event::Step { step: 8, .. } => std::panic::resume_unwind(Box::new("power")),
            _ => ControlFlow::Continue(()),
        };
        adapt(engines(), &mut state, &second, &settings, &mut tell).map(drop)
    });
    assert!(cut.is_err());
    let mut state = State::open(storage.clone()).unwrap();
    assert_eq!(state.take_checkpoint().unwrap().unwrap().learner.cursor.step, 5);
    let resumed = Settings { resume: true, ..settings };
    let outcome = learn(&mut state, &second, &resumed, None).unwrap();
    assert!((after(&storage), outcome) == whole);
}

#[test]
fn a_job_resumes_with_its_own_data_and_settings_only() {
    let storage = Arc::new(Memory::default());
    let mut state = State::open(storage).unwrap();
    let first = material("first", 10);
    let resumed = Settings { resume: true, ..settings() };
    let none = learn(&mut state, &first, &resumed, None);
    assert!(matches!(none, Err(LearnError::NothingToResume)));
    learn(&mut state, &first, &settings(), Some(3)).unwrap();
    for (material, settings, name) in [
        (material("first", 11), resumed.clone(), "data set"),
        (first.clone(), Settings { gamma: 2.0, ..resumed.clone() }, "--gamma"),
        (first.clone(), Settings { rank: 8, ..resumed.clone() }, "rank 4"),
    ] {
        let error = learn(&mut state, &material, &settings, None).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    assert!(matches!(learn(&mut state, &first, &resumed, None).unwrap(), Outcome::Judged { .. }));
}

/// Bits per byte that the first domain lost while the second was learned, and those it had gained.
fn lost_and_gained(method: Method) -> (f64, f64) {
    let mut domains = Domains::new();
    for (name, from) in [("first", 10), ("second", 50)] {
        domains.push(name.to_owned(), blocks(from, BLOCKS), blocks(from, 6), 100, 100);
    }
    let settings =
        Settings { iters: 60, replay_batch_size: 4, replay_blocks: 64, retain: 0.5, ..settings() };
    let mut stream = Stream::new(engines(), &domains, 1 << 20).unwrap();
    let matrix = stream.run(method, &settings, |_, _| {}).unwrap();
    let (learned, end) = (matrix.rows[0][0], matrix.rows[1][0]);
    (end - learned, matrix.before[0] - learned)
}

#[test]
fn what_was_learned_is_lost_without_replay_and_kept_with_it() {
    let (lost, gained) = lost_and_gained(Method::Sequential);
    assert!(gained > 1.0, "the first domain is learned: {gained} bits per byte");
    assert!(lost > gained / 2.0, "without replay it is lost: {lost} of {gained}");
    for method in [Method::Replay, Method::Ilora] {
        let (kept_lost, gained) = lost_and_gained(method);
        assert!(gained > 1.0, "{method:?} learns the first domain: {gained}");
        assert!(kept_lost < lost / 2.0, "{method:?} keeps it: {kept_lost} of {lost} are lost");
    }
}

/// Goal: a block is offered with what it cost, whatever stood beside it in its step.
/// Oracle: the base's own nats, for the first step meets an adapter that changes nothing yet; 1e-5
/// because sums are of f32, in another order.
#[test]
fn a_block_is_stored_with_its_own_loss_and_none_without_labels() {
    let settings = settings();
    let pair = |token: u32, labels: bool| Block {
        tokens: vec![10, token],
        learn: vec![false, labels],
        bytes: 1,
        domain: 0,
    };
    let nats = |block: &Block| {
        let (blocks, hidden) = ([block], hidden(&engines().trunk, block));
        engines().head.nats(None, &Group { blocks: &blocks, hidden: &hidden }).unwrap()[0] as f32
    };
    let mut pairs: Vec<Block> = (1..tiny::VOCAB as u32).map(|token| pair(token, true)).collect();
    pairs.sort_by(|a, b| nats(a).total_cmp(&nats(b)));
    let blocks = [pairs[0].clone(), pairs[pairs.len() - 1].clone(), pair(10, false)];
    assert!(nats(&blocks[1]) - nats(&blocks[0]) > 0.5, "too much alike to tell apart");
    for (batch_size, grad_accumulation_steps) in [(3, 1), (1, 3)] {
        let settings = Settings { batch_size, grad_accumulation_steps, ..settings.clone() };
        let stored = stored_after_a_step(&blocks, &settings);
        assert_eq!(stored.len(), blocks.len());
        for drawn in stored {
            let own = nats(&drawn.block);
            assert!((drawn.loss - own).abs() < 1e-5, "{:?}: {} {own}", drawn.block, drawn.loss);
        }
    }
}

fn hidden(trunk: &Trunk, block: &Block) -> Array3<f32> {
    Feed::new(trunk, std::slice::from_ref(block), 0).batch(&[0]).unwrap().1
}

/// What the reservoir holds after the first step over `blocks`.
fn stored_after_a_step(blocks: &[Block], settings: &Settings) -> Vec<Drawn> {
    let geometry = geometry(engines().base.config(), settings).unwrap();
    let mut reservoir = Reservoir::create(Arc::new(Memory::default()), geometry, [0; 32]).unwrap();
    let spec = spec(engines().base.config(), settings).unwrap();
    let mut chance = ChaCha8Rng::seed_from_u64(settings.seed);
    let mut learners = Learners::new(Adapter::fresh(spec, &mut chance));
    let mut course = Course::new(0..blocks.len(), settings.seed, Cursor::default());
    let bench = Bench {
        engines: engines(),
        feed: &mut Feed::new(&engines().trunk, blocks, 0),
        learners: &mut learners,
        reservoir: Some(&mut reservoir),
        anchor: &mut Feed::new(&engines().trunk, &[], 0),
        whitening: None,
        still: 0,
    };
    course.step(bench, settings).unwrap();
    reservoir.draw(blocks.len()).unwrap()
}

/// Goal: joint training is measured by what it took: blocks, steps, one schedule, a course.
#[test]
fn joint_training_is_one_run_of_as_many_blocks_and_steps_whose_course_is_scored() {
    let even = |from| -> Vec<Block> {
        let cut = |mut block: Block| {
            block.tokens.truncate(5);
            block.learn.truncate(5);
            block
        };
        blocks(from, BLOCKS).into_iter().map(cut).collect()
    };
    let mut domains = Domains::new();
    for (name, from) in [("first", 10), ("second", 50)] {
        domains.push(name.to_owned(), even(from), blocks(from, 6), 100, 100);
    }
    let settings = Settings { iters: 6, lr_schedule: Schedule::Cosine, ..settings() };
    let mut stream = Stream::new(engines(), &domains, 1 << 20).unwrap();
    let mut run = |method: Method| {
        let (mut tokens, mut rates, mut names) = (Vec::new(), Vec::new(), Vec::new());
        let matrix = stream.run(method, &settings, |name, report| {
            tokens.push(report.tokens);
            rates.push(report.learning_rate);
            names.push(name.to_owned());
        });
        (matrix.unwrap(), tokens, rates, names)
    };
    let (_, replayed, _, names) = run(Method::Replay);
    assert_eq!((&names[0][..], &names[11][..]), ("first", "second"));
    let (most, steps) = (*replayed.iter().max().unwrap(), replayed.len());
    for (method, times) in [(Method::Joint, 1), (Method::JointLong, 3)] {
        let (matrix, tokens, rates, names) = run(method);
        assert_eq!((tokens.len(), tokens[0]), (times * steps, most), "{method:?}");
        assert!(rates[2..].windows(2).all(|pair| pair[1] < pair[0]), "one schedule: {rates:?}");
        assert!(matrix.rows[0] != matrix.rows[1], "a course, not its end twice");
        assert!((0..2).all(|j| matrix.rows[0][j] < matrix.before[j]), "both are learned at once");
        assert!(names.iter().all(|name| name == "all domains"));
    }
}

/// What resuming rests on: a job that goes on meets its blocks in other batches.
#[test]
fn a_block_has_the_same_hidden_state_in_every_batch() {
    let blocks = blocks(10, BLOCKS);
    let feed = || Feed::new(&engines().trunk, &blocks, 0);
    let all: Vec<usize> = (0..BLOCKS).collect();
    let (_, together) = feed().batch(&all).unwrap();
    for &index in &all {
        let (_, alone) = feed().batch(&[index]).unwrap();
        let length = blocks[index].tokens.len();
        assert!(together.slice(s![index, ..length, ..]) == alone.slice(s![0, .., ..]), "{index}");
    }
}

/// A byte less than the estimate is refused, the estimate itself is not.
#[test]
fn a_job_that_cannot_fit_is_refused_with_both_figures() {
    let model = &engines().model;
    let refused = Engines::load_within(model, &settings(), 0, Some(1));
    let Err(LearnError::Memory { needed, available: 1 }) = refused else {
        unreachable!("one byte must not be enough");
    };
    assert!(Engines::load_within(model, &settings(), 0, Some(needed - 1)).is_err());
    assert!(Engines::load_within(model, &settings(), 0, Some(needed)).is_ok());
    // A device that stands on a global adapter learns with its ranks too.
    let Err(LearnError::Memory { needed: over, .. }) =
        Engines::load_within(model, &settings(), 128, Some(needed))
    else {
        unreachable!("128 ranks more take more");
    };
    let own = spec(engines().base.config(), &settings()).unwrap();
    let more = (own.over(128).len() - own.len()) as u64;
    assert!(over - needed > 6 * 4 * more, "{over} over {needed} for {more} numbers more");
}

/// Goal: the base's own texts are the same in every job and never more or longer than asked for.
#[test]
fn the_base_writes_the_same_texts_of_its_own_every_time() {
    let write = |settings: &Settings, start: &[u32]| {
        // Other engines, so that nothing is remembered.
        let fresh = Engines::load(&engines().model, settings).unwrap();
        let texts = own_texts(&fresh, start, settings, None, &mut || Ok(())).unwrap();
        let known = &mut || unreachable!("they are kept");
        let again = own_texts(&fresh, start, settings, None, known).unwrap();
        assert!(Arc::ptr_eq(&texts, &again));
        texts
    };
    let settings = Settings { anchor_blocks: 5, ..settings() };
    let texts = write(&settings, &[1]);
    assert!(!texts.is_empty() && texts.len() <= 5, "{}", texts.len());
    assert!(texts.iter().all(|text| text.tokens.len() <= 16 && text.tokens[0] == 1));
    assert!(texts.iter().all(|text| !text.learn[0] && text.learn[1..].iter().all(|&learn| learn)));
    assert!(texts.windows(2).any(|two| two[0] != two[1]));
    assert_eq!(write(&settings, &[1]), texts);
    assert!(write(&settings, &[]).is_empty());

    // A state has them for other programs: fewer first, then what is missing, and all of them at once.
    let storage = Arc::new(Memory::default());
    let kept = |count: usize, may_write: bool| {
        let fresh = Engines::load(&engines().model, &settings).unwrap();
        let mut state = State::open(storage.clone()).unwrap();
        let settings = Settings { anchor_blocks: count, ..settings.clone() };
        let mut asked = false;
        let pulse = &mut || {
            asked = true;
            Ok(())
        };
        let texts = own_texts(&fresh, &[1], &settings, Some(&mut state), pulse).unwrap();
        assert_eq!(asked, may_write, "{count} texts");
        texts
    };
    for (count, may_write) in [(2, true), (5, true), (5, false), (3, false)] {
        let expected = &texts[..count.min(texts.len())];
        assert_eq!(*kept(count, may_write), *expected);
    }
    let useless = Settings { anchor_weight: 0.0, whitening: 0.0, ..settings.clone() };
    assert!(write(&useless, &[1]).is_empty());
    assert!(write(&Settings { anchor_blocks: 0, ..settings }, &[1]).is_empty());
}
