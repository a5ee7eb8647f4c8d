//! A global adapter under what a device has learned: what is kept, what never moves, what is refused.
//!
//! The base is noise and the blocks are number games: what is tested is the bookkeeping, not language.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::small::{self, blocks};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::adapter::stacked::part;
use sapwood::adapter::{Adapter, Module, Spec, Strength, Target, peft};
use sapwood::block::Block;
use sapwood::learner::{
    Engines, Event, LearnError, Material, Offered, Outcome, Who, adapt, install, look_again, spec,
};
use sapwood::ports::{Memory, Storage};
use sapwood::settings::{REFIT_RIDGES, REHEARSED_STEPS, Settings};
use sapwood::state::{Global, InstallOutcome, LearnerRecord, Since, State};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

/// Ranks of the global adapter, and own ones.
const RANKS: usize = 3;
const OWN: usize = 4;
/// How texts of the base's own begin.
const START: [u32; 1] = [1];
/// Optimiser steps of a job.
const STEPS: u64 = 8;

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
        rank: OWN,
        threads: 1,
        steps_per_report: 1,
        save_every: 0,
        whitening: 30.0,
        gate_new: -1.0,
        gate_old: 10.0,
        gate_worst: 10.0,
        gate_general: 10.0,
        seed: 11,
        ..Settings::default()
    }
}

/// The one base of all tests.
fn engines() -> &'static Engines {
    static ENGINES: OnceLock<(tempfile::TempDir, Engines)> = OnceLock::new();
    &ENGINES.get_or_init(|| small::engines(&settings())).1
}

fn general() -> Vec<Block> {
    blocks(200, 3)
}

fn material(name: &str, from: u32) -> Material {
    Material {
        key: name.to_owned(),
        name: name.to_owned(),
        hash: [from as u8; 32],
        train: blocks(from, 18),
        valid: blocks(from, 5),
        general: general(),
        start: START.to_vec(),
    }
}

/// A global adapter of small noise.
fn offered(sequence: u64, size: f32) -> Offered {
    let config = engines().base.config();
    let strength = Strength { rank: RANKS, alpha: RANKS as f32 };
    let spec = Spec::uniform(config, config.layers - 2..config.layers, &Target::ALL, strength);
    let mut chance = ChaCha8Rng::seed_from_u64(sequence);
    let mut global = Adapter::fresh(spec, &mut chance);
    for module in global.spec.modules.clone() {
        for number in &mut global.values[module.b] {
            *number = size * (chance.next_u32() as f32 / u32::MAX as f32 - 0.5);
        }
    }
    Offered { sequence, series: None, artifact: [sequence as u8; 32], global }
}

fn go_on(_: &Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
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

fn put(state: &mut State, offered: &Offered, settings: &Settings) -> Result<Outcome, LearnError> {
    install(engines(), state, offered, settings, &general(), &START, &mut go_on)
}

/// A device that has learned one domain.
fn learned() -> Arc<Memory> {
    let storage = Arc::new(Memory::default());
    let mut state = State::open(storage.clone()).unwrap();
    learn(&mut state, &material("first", 10), &settings(), None).unwrap();
    storage
}

/// The same with a global adapter on trial.
fn on_trial() -> (Arc<Memory>, State) {
    let storage = learned();
    let mut state = State::open(storage.clone()).unwrap();
    put(&mut state, &offered(4, 0.02), &settings()).unwrap();
    (storage, state)
}

fn files(storage: &Memory) -> BTreeMap<String, Vec<u8>> {
    fn walk(storage: &Memory, folder: &str, into: &mut BTreeMap<String, Vec<u8>>) {
        for name in storage.list(folder).unwrap() {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match storage.read(&path) {
                Ok(bytes) => drop(into.insert(path, bytes)),
                Err(_) => walk(storage, &path, into),
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(storage, "", &mut all);
    all
}

/// The adapters of a record: fast, then slow.
fn both(record: &LearnerRecord) -> [Adapter; 2] {
    let ranks = record.global.map_or(0, |global| global.ranks as usize);
    let spec = spec(engines().base.config(), &settings()).unwrap().over(ranks);
    [&record.fast, &record.slow]
        .map(|values| Adapter { spec: spec.clone(), values: values.clone() })
}

/// Goal: what is installed is the offered adapter, the rest of the device's life is as it was.
#[test]
fn an_install_is_on_trial_and_leaves_reservoir_and_life_as_they_were() {
    let storage = learned();
    let mut state = State::open(storage.clone()).unwrap();
    let before = state.learner().unwrap().unwrap();
    let reservoir = storage.read("reservoir").unwrap();
    let global = offered(4, 0.02);
    let outcome = put(&mut state, &global, &settings()).unwrap();
    let Outcome::Judged { verdict, generation: Some(2), scores } = outcome else {
        unreachable!("{outcome:?}")
    };
    assert!(verdict.keeps() && verdict.to_string().starts_with("kept: old "), "{verdict}");
    assert!(scores.iter().any(|score| score.who == Who::Slow));
    assert_eq!(state.trial().map(|trial| (trial.generation, trial.parent)), Some((2, 1)));
    let after = state.learner().unwrap().unwrap();
    let named = Global { ranks: RANKS as u32, artifact: [4; 32], sequence: 4, series: None };
    assert_eq!(
        (after.global, state.global(), after.since),
        (Some(named), Some(named), Since::default())
    );
    assert_eq!(
        (after.step, &after.domains, &after.held_out),
        (STEPS, &before.domains, &before.held_out)
    );
    assert!(after.first_moment.iter().chain(&after.second_moment).all(|number| *number == 0.0));
    for learner in both(&after) {
        // Scale 1 over a power of two: the quotients are exact.
        let first = part(&learner, &(0..RANKS));
        for (module, from) in first.spec.modules.iter().zip(&global.global.spec.modules) {
            assert_eq!(first.a(module), global.global.a(from));
            let own: Vec<f32> = global.global.b(from).iter().map(|b| b / module.scale).collect();
            assert_eq!(first.b(module), own);
        }
        assert!(part(&learner, &(RANKS..RANKS + OWN)).values.iter().any(|number| *number != 0.0));
    }
    assert!(storage.read("reservoir").unwrap() == reservoir, "no block has moved");
    let meta = state.adapter(2).unwrap().into_iter().find(|(name, _)| name == peft::META_FILE);
    let meta = peft::Meta::parse(&meta.unwrap().1).unwrap();
    assert_eq!(meta.global.map(|global| (global.ranks, global.sequence)), Some((3, 4)));
    let install = state.installs().last().unwrap();
    assert_eq!((install.outcome, install.sequence), (InstallOutcome::Trialled, 4));
    assert!(
        install.before.is_some()
            && install.after.is_some()
            && install.reason == verdict.to_string()
    );
}

/// Goal: a job on top moves own ranks alone, counts what it learned, and resumes bit for bit.
#[test]
fn a_job_after_an_install_moves_own_ranks_alone_wherever_it_is_cut() {
    let (_, state) = on_trial();
    let installed = both(&state.learner().unwrap().unwrap());
    let run = |cuts: &[u64]| {
        let (storage, mut state) = on_trial();
        state.confirm("as good as before", None).unwrap();
        let (mut begun, second) = (false, material("second", 50));
        for &cut in cuts {
            let settings = Settings { resume: begun, ..settings() };
            let outcome = learn(&mut state, &second, &settings, Some(cut)).unwrap();
            assert_eq!(outcome, Outcome::Stopped);
            (state, begun) = (State::open(storage.clone()).unwrap(), true);
        }
        learn(&mut state, &second, &Settings { resume: begun, ..settings() }, None).unwrap();
        state.learner().unwrap().unwrap()
    };
    let whole = run(&[]);
    for cuts in [&[1][..], &[5], &[2, 3, 7]] {
        assert!(run(cuts) == whole, "cuts after {cuts:?}");
    }
    for (learner, installed) in both(&whole).iter().zip(&installed) {
        assert!(part(learner, &(0..RANKS)) == part(installed, &(0..RANKS)), "to the bit");
        assert!(part(learner, &(RANKS..9)) != part(installed, &(RANKS..9)), "the own part learns");
    }
    assert_eq!((whole.step, whole.since.steps), (2 * STEPS, STEPS));
    // Twelve steps of four blocks of 5 to 15 tokens.
    assert!((160..480).contains(&whole.since.tokens), "{:?}", whole.since);
}

/// What the first job on a device over a global adapter begins with is what any first job does.
#[test]
fn a_device_that_has_learned_nothing_takes_the_global_adapter_alone() {
    let storage = Arc::new(Memory::default());
    let mut state = State::open(storage).unwrap();
    let unjudged =
        install(engines(), &mut state, &offered(1, 0.02), &settings(), &[], &START, &mut go_on);
    assert!(matches!(unjudged, Err(LearnError::Unjudged)));
    let outcome = put(&mut state, &offered(1, 0.02), &settings()).unwrap();
    let Outcome::Judged { verdict, .. } = outcome else { unreachable!() };
    assert!(verdict.to_string().starts_with("kept: general "), "{verdict}");
    let record = state.learner().unwrap().unwrap();
    let [fast, slow] = both(&record);
    assert!(fast == slow && record.step == 0);
    let own = part(&slow, &(RANKS..RANKS + OWN));
    assert!(own.spec.modules.iter().all(|module| own.b(module).iter().all(|b| *b == 0.0)));
    assert_eq!(state.revert("no").unwrap(), 0);
    put(&mut state, &offered(2, 0.02), &settings()).unwrap();
    state.confirm("", None).unwrap();
    let [installed, _] = both(&state.learner().unwrap().unwrap());
    assert!(part(&installed, &(0..RANKS)) != part(&slow, &(0..RANKS)), "another global adapter");
    learn(&mut state, &material("first", 10), &settings(), None).unwrap();
    let [fast, _] = both(&state.learner().unwrap().unwrap());
    assert!(part(&fast, &(0..RANKS)) == part(&installed, &(0..RANKS)), "only own ranks begin anew");
}

/// Goal: fresh ranks over a global adapter begin as those of any first job do, in whitened inputs.
/// Oracle: a device without one, after a step that moves nothing to speak of.
#[test]
fn the_first_job_over_a_global_adapter_begins_as_any_first_job() {
    let step = Settings { iters: 1, learning_rate: 1e-9, warmup: 0.0, ..settings() };
    let plain = Settings { whitening: 0.0, ..step.clone() };
    let begun = |settings: &Settings, over: bool| {
        let mut state = State::open(Arc::new(Memory::default())).unwrap();
        if over {
            put(&mut state, &offered(2, 0.02), settings).unwrap();
            state.confirm("", None).unwrap();
        }
        learn(&mut state, &material("first", 10), settings, None).unwrap();
        let [fast, _] = both(&state.learner().unwrap().unwrap());
        let still = state.ranks();
        part(&fast, &(still..still + OWN)).values
    };
    let apart = |one: &[f32], other: &[f32]| {
        one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(apart(&begun(&step, true), &begun(&step, false)) < 1e-6);
    assert!(apart(&begun(&step, true), &begun(&plain, true)) > 1e-3, "whitening is seen");
}

/// The gate that keeps none of them has seen every ridge, and nothing but the reason remains.
#[test]
fn a_declined_install_leaves_its_reason_and_nothing_else() {
    let storage = learned();
    let mut state = State::open(storage.clone()).unwrap();
    let before = files(&storage);
    let strict = Settings { gate_general: -0.9, ..settings() };
    let (mut ridges, mut verdicts) = (Vec::new(), 0);
    let mut tell = |event: &Event| {
        match event {
            Event::Refitted { ridge, steps: 0 } => ridges.push(*ridge),
            Event::Verdict { kept: false, generation: Some(1), .. } => verdicts += 1,
            _ => {}
        }
        ControlFlow::Continue(())
    };
    let outcome =
        install(engines(), &mut state, &offered(4, 0.02), &strict, &general(), &START, &mut tell)
            .unwrap();
    assert_eq!((ridges, verdicts), (REFIT_RIDGES.to_vec(), 1));
    let Outcome::Judged { verdict, generation: Some(1), .. } = outcome else { unreachable!() };
    assert!(verdict.to_string().starts_with("dropped, general text lost more"), "{verdict}");
    let (install, now) = (state.installs().last().unwrap(), files(&storage));
    assert_eq!(
        (install.outcome, &install.reason),
        (InstallOutcome::Declined, &verdict.to_string())
    );
    let same =
        |(path, bytes): (&String, &Vec<u8>)| path.starts_with("manifest") || now[path] == *bytes;
    assert!(before.len() == now.len() && before.iter().all(same));
    // A sequence that was declined is not taken again.
    let again = put(&mut state, &offered(4, 0.02), &settings()).unwrap_err().to_string();
    assert!(again.contains("sequence 4 is not new"), "{again}");
}

/// Goal: a global adapter that costs the own text what no fit gives back is lived with after some steps on
/// the reservoir, which has not noticed; a stop among them changes nothing.
#[test]
fn what_a_fit_cannot_give_back_is_rehearsed() {
    let storage = learned();
    let mut state = State::open(storage.clone()).unwrap();
    let before = files(&storage);
    let tried = |state: &mut State, gate_old: f64, stop: Option<u64>| {
        let (mut tried, strict) = (Vec::new(), Settings { gate_old, ..settings() });
        let mut tell = |event: &Event| match event {
            Event::Refitted { ridge, steps } => {
                tried.push((*ridge, *steps));
                if stop == Some(*steps) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            }
            Event::Pulse if tried.len() > 1 && stop.is_some() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        let (global, general) = (offered(4, 0.4), general());
        let outcome = install(engines(), state, &global, &strict, &general, &START, &mut tell);
        (outcome.unwrap(), tried)
    };
    let (outcome, _) = tried(&mut state, 0.02, Some(REHEARSED_STEPS[0]));
    assert!(outcome == Outcome::Stopped && files(&storage) == before);
    let (outcome, ways) = tried(&mut state, 0.02, None);
    let steps: Vec<u64> = [0].into_iter().chain(REHEARSED_STEPS).take(ways.len()).collect();
    assert!(
        ways.len() > 1 && ways.iter().copied().eq(steps.into_iter().map(|n| (REFIT_RIDGES[0], n)))
    );
    assert!(matches!(outcome, Outcome::Judged { generation: Some(2), .. }), "{outcome:?}");
    let after = state.learner().unwrap().unwrap();
    assert_eq!((after.step, after.since), (STEPS, Since::default()));
    assert!(after.first_moment.iter().chain(&after.second_moment).all(|number| *number == 0.0));
    assert!(files(&storage)["reservoir"] == before["reservoir"], "no block has moved");
    let named = part(&both(&after)[1], &(0..RANKS));
    let global = offered(4, 0.4).global;
    let same = |(own, from): (&Module, &Module)| named.a(own) == global.a(from);
    assert!(named.spec.modules.iter().zip(&global.spec.modules).all(same), "it does not move");
    // A gate that nothing pleases has seen all of them.
    let mut state = State::open(learned()).unwrap();
    let (_, ways) = tried(&mut state, -1.9, None);
    let steps = || [0].into_iter().chain(REHEARSED_STEPS);
    let all = REFIT_RIDGES.into_iter().flat_map(|ridge| steps().map(move |steps| (ridge, steps)));
    assert!(ways.iter().copied().eq(all), "{ways:?}");
}

/// Wherever the listener stops it, nothing has changed, and it can be begun again.
#[test]
fn an_install_that_is_stopped_anywhere_has_changed_nothing() {
    let storage = learned();
    let mut state = State::open(storage.clone()).unwrap();
    let before = files(&storage);
    for stop in 0.. {
        let mut heard = 0;
        let mut tell = |event: &Event| {
            heard += 1;
            match event {
                Event::Verdict { .. } => ControlFlow::Continue(()),
                _ if heard > stop => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        let outcome = install(
            engines(),
            &mut state,
            &offered(4, 0.02),
            &settings(),
            &general(),
            &START,
            &mut tell,
        );
        if outcome.unwrap() != Outcome::Stopped {
            assert!(stop > 12, "it asks often: {stop}");
            break;
        }
        assert!(files(&storage) == before, "stopped at {stop}");
    }
    assert_eq!(state.current().unwrap().number, 2);
}

#[test]
fn what_cannot_be_installed_is_refused_by_a_line() {
    let (_, mut state) = on_trial();
    let said = |result: Result<Outcome, LearnError>| result.unwrap_err().to_string();
    let trial = said(put(&mut state, &offered(5, 0.02), &settings()));
    assert!(trial.contains("generation 2 is on trial"), "{trial}");
    let job = said(learn(&mut state, &material("second", 50), &settings(), None));
    assert!(job.contains("generation 2 is on trial"), "{job}");
    let mut never = |event: &Event| unreachable!("it was begun: {event:?}");
    let second = material("second", 50);
    assert!(adapt(engines(), &mut state, &second, &settings(), &mut never).is_err());
    state.confirm("", None).unwrap();
    let again = Offered { sequence: 9, ..offered(4, 0.02) };
    let again = said(put(&mut state, &again, &settings()));
    assert!(again.contains("installed already, as sequence 4"), "{again}");
    let old = said(put(&mut state, &offered(3, 0.02), &settings()));
    assert!(old.contains("sequence 3 is not new: expected one above 4"), "{old}");
    let mut foreign = offered(5, 0.02);
    foreign.global = part(&foreign.global, &(0..RANKS));
    foreign.global.spec.modules.remove(3);
    let foreign = said(put(&mut state, &foreign, &settings()));
    assert!(foreign.contains("is another's: expected o_proj of layer"), "{foreign}");
    let other = said(put(&mut state, &offered(5, 0.02), &Settings { rank: 5, ..settings() }));
    assert!(
        other.contains("rank 4") && other.contains("rank 5"),
        "own ranks are compared: {other}"
    );
    learn(&mut state, &material("second", 50), &settings(), Some(2)).unwrap();
    let begun = said(put(&mut state, &offered(5, 0.02), &settings()));
    assert!(begun.contains("interrupted at its step 2"), "{begun}");
}

/// Oracle: the same texts under the same adapters, scored at the install.
#[test]
fn a_second_look_sees_what_the_first_saw_and_what_has_got_worse_since() {
    let (_, mut state) = on_trial();
    let install = state.installs()[0].clone();
    let look = |state: &State, settings: &Settings, general: &[Block]| {
        look_again(engines(), state, settings, general, &mut go_on)
    };
    let (verdict, _) = look(&state, &settings(), &general()).unwrap();
    assert!(verdict.keeps(), "{verdict}");
    let old = verdict.scores().old.unwrap();
    assert_eq!((Some(old.before), Some(old.after)), (install.before, install.after));
    let strict = Settings { gate_general: -0.9, ..settings() };
    assert!(!look(&state, &strict, &general()).unwrap().0.keeps());
    state.confirm("", None).unwrap();
    assert!(look(&state, &settings(), &general()).is_err());
}
