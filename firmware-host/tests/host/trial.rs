//! A global adapter on a device in a simulated world: installed, tried, confirmed, taken back.
//!
//! - The real worker, state and learner over a base of seeded noise; time, weather and disk are played.
//! - Held after every cut: the old generation or the new one is found, an order that is given again ends
//!   the install as if nothing had been cut, and every sample that waited is learned once.

use crate::place::{Device, LEARNED, SERIES, TARGETS, WAITING, outcome, place};
use crate::world::{BOUNDS, DAY_MINUTES, MINUTE_MS};
use firmware_host::config::Config;
use firmware_host::device::Order;
use firmware_host::status::{Ending, JobKind};
use firmware_host::sync::{Learner as _, Offered, View};
use sapwood::base::read_config;
use sapwood::inbox::Inbox;
use sapwood::ports::cut_disk::{CutDisk, Fault};
use sapwood::state::{InstallOutcome, Series, State};
use sapwood_protocol::fleet::id::Hash;
use sapwood_protocol::fleet::message::{Facts, Installed};
use sapwood_protocol::fleet::update::Header;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Goal: from the order to the confirmation, what the device says of itself is what is committed.
#[test]
fn an_install_is_on_trial_for_ten_minutes_and_then_confirmed() {
    let (place, mut device) = (place(), place().device());
    let offered = place.offered(1, 7, &TARGETS);
    let view = device.view();
    let Facts { first_layer, targets, rank, .. } = view.facts;
    let top = read_config(&place.model).unwrap().layers as u16 - 2;
    assert_eq!((first_layer, targets, rank, view.installed()), (top, 0b101, 2, None));
    let (own, Header { meta, .. }) = device.own_part().unwrap();
    assert_eq!(
        (own.from, own.rank, meta.generation, Some(meta.steps)),
        (Hash([0; 32]), 2, 1, view.ready.map(|r| r.steps))
    );
    device.order(&offered);
    device.until(|view| view.trial);
    let artifact = offered.artifact;
    let view = device.view();
    assert_eq!(view.installed(), Some(Installed { sequence: 7, artifact }));
    assert_eq!((view.generation, view.ready), (2, None));
    assert_eq!((device.own_part(), outcome(&view, 7)), (None, Some(InstallOutcome::Trialled)));
    let status = device.handle.status();
    assert_eq!(
        (status.serving.generation, status.trial.map(|trial| trial.tries_left)),
        (Some(2), Some(3))
    );
    assert_eq!(
        (status.global.map(|global| global.ranks), status.inbox.samples),
        (Some(3), WAITING)
    );
    assert!(device.tick());
    let why = device.handle.status().waiting_for;
    assert!(why.starts_with("a new global adapter is on trial for another 5"), "{why}");
    let samples = device.handle.status().constraints.into_iter().find(|one| one.name == "samples");
    assert_eq!(samples.unwrap().why, "a trial asks for none");
    let begun = device.sky.milliseconds();
    device.until(|view| !view.trial);
    let lived = device.sky.milliseconds() - begun;
    assert!((8 * MINUTE_MS..12 * MINUTE_MS).contains(&lived), "{lived} ms");
    let install = device.view().installs[0].clone();
    assert_eq!(install.outcome, InstallOutcome::Confirmed);
    assert!(install.before.is_some() && install.after.is_some());
    device.until(|view| view.generation == 3);
    let learned = (JobKind::Learn, Ending::Kept);
    assert_eq!(device.kinds(), [learned, (JobKind::Install, Ending::Kept), learned]);
    let (own, Header { meta, .. }) = device.own_part().unwrap();
    assert_eq!((own.from, own.rank, meta.generation), (offered.artifact, 2, 3));
    let ready = device.view().ready.unwrap();
    assert_eq!((meta.steps, meta.tokens), (ready.steps, ready.tokens));
    assert!(meta.tokens > meta.steps, "{meta:?}");
}

/// The job under way ends first, however little it may spend at a time.
#[test]
fn a_job_under_way_when_the_order_comes_is_finished_first() {
    let (place, mut config) = (place(), place().config());
    config.budget.seconds = Some(1.0);
    let mut device = Device::open(&place.disk(), config);
    assert!(device.tick());
    assert_eq!(device.kinds().last(), Some(&(JobKind::Learn, Ending::Stopped)));
    device.order(&place.offered(1, 7, &TARGETS));
    device.until(|view| view.trial);
    let kinds = device.kinds();
    let install = kinds.iter().position(|(kind, _)| *kind == JobKind::Install).unwrap();
    assert_eq!(kinds[install - 1], (JobKind::Learn, Ending::Kept), "{kinds:?}");
    assert_eq!((kinds.len(), device.view().generation), (install + 1, 3));
}

/// A program that never lives ten minutes, whatever ends it.
#[test]
fn a_generation_that_is_never_confirmed_is_taken_back_before_anything_is_loaded() {
    let place = place();
    let disk = place.disk();
    let mut device = Device::open(&disk, place.config());
    device.order(&place.offered(1, 7, &TARGETS));
    device.until(|view| view.trial);
    drop(device);
    for left in [2, 1, 0] {
        let mut device = Device::open(&disk, place.config());
        assert_eq!(device.handle.status().trial.map(|trial| trial.tries_left), Some(left));
        assert!(device.tick() && device.view().trial);
    }
    // Without a model nothing can be loaded, and still the parent is back.
    let config = Config { model: Some(place.folder.path().join("none")), ..place.config() };
    assert!(Device::try_open(&disk, config).is_none());
    assert_eq!(State::look(disk.clone()).unwrap().current().unwrap().number, 1);
    let mut device = Device::open(&disk, place.config());
    let view = device.view();
    assert_eq!((view.generation, view.installed(), view.trial), (1, None, false));
    assert_eq!(outcome(&view, 7), Some(InstallOutcome::Reverted));
    // It is not tried again, and learning goes on.
    device.order(&place.offered(1, 7, &TARGETS));
    device.until(|view| view.generation == 3);
    assert_eq!(device.kinds().last(), Some(&(JobKind::Learn, Ending::Kept)));
}

/// What is worse at the second look goes, by whatever limits the configuration names then; cut anywhere on
/// the way, it goes all the same.
#[test]
fn a_worse_second_look_gives_the_parent_back_wherever_it_is_cut() {
    let place = place();
    let begun = place.disk();
    let mut device = Device::open(&begun, place.config());
    device.order(&place.offered(1, 7, &TARGETS));
    device.until(|view| view.trial);
    drop(device);
    let mut strict = place.config();
    strict.learn.gate_old = -0.9;
    let looked = |disk: &Arc<CutDisk>| {
        let mut device = Device::open(disk, strict.clone());
        device.until(|view| !view.trial);
        let (view, status) = (device.view(), device.handle.status());
        assert_eq!((view.generation, status.serving.generation, status.trial), (1, Some(1), None));
        assert_eq!((view.installs.len(), view.installs[0].outcome), (1, InstallOutcome::Reverted));
        let reason = &view.installs[0].reason;
        assert!(reason.starts_with("dropped, old text lost more"), "{reason}");
    };
    let whole = Arc::new(begun.copy());
    looked(&whole);
    for at in 0..whole.operations() {
        let disk = Arc::new(begun.copy());
        disk.set(Some(Fault::Cut(at)));
        if let Some(mut device) = Device::try_open(&disk, strict.clone()) {
            // What met the cut may be tried again for ever.
            while device.view().trial && !disk.is_off() && device.tick() {}
        }
        let disk = Arc::new(disk.after_cut(at as u64));
        check(&disk, &format!("cut at {at}"));
        let is_over = State::look(disk.clone()).unwrap().trial().is_none();
        assert!(is_over || State::look(disk.clone()).unwrap().trial().unwrap().tries_left >= 2);
        looked(&disk);
    }
}

/// Every install ends: what can never be one is remembered, what fails for now is tried again.
#[test]
fn an_offer_that_is_none_ends_with_its_reason() {
    let (place, mut device) = (place(), place().device());
    device.order(&place.offered(1, 1, &TARGETS[..1]));
    device.until(|view| outcome(view, 1) == Some(InstallOutcome::Declined));
    let other = Offered {
        sequence: 2,
        artifact: Hash([9; 32]),
        ..(*place.offered(1, 2, &TARGETS)).clone()
    };
    device.order(&Arc::new(other));
    device.until(|view| outcome(view, 2) == Some(InstallOutcome::Failed));
    let path = place.folder.path().join("gone");
    let gone = Offered { series: SERIES, sequence: 3, artifact: Hash([9; 32]), path };
    device.order(&Arc::new(gone));
    device.until(|view| outcome(view, 3) == Some(InstallOutcome::Failed));
    let reasons: Vec<String> =
        device.view().installs.into_iter().map(|install| install.reason).collect();
    for (reason, word) in reasons.iter().zip(["another's", "BLAKE3", "No such file"]) {
        assert!(reason.contains(word), "{reasons:?}");
    }
    // The same adapter under a later statement is what is there; an older statement is nothing.
    device.order(&place.offered(1, 4, &TARGETS));
    device.until(|view| outcome(view, 4) == Some(InstallOutcome::Confirmed));
    device.order(&place.offered(1, 6, &TARGETS));
    device.order(&place.offered(2, 5, &TARGETS));
    device.until(|view| outcome(view, 6) == Some(InstallOutcome::Confirmed));
    assert_eq!(outcome(&device.view(), 5), None);
}

/// Its fleet offers another: nothing of heat or of a pause keeps what was taken back in use.
#[test]
fn a_trial_that_is_recalled_ends_at_once_and_the_next_install_follows() {
    let (place, mut device) = (place(), place().device());
    let offered = place.offered(1, 7, &TARGETS);
    device.order(&offered);
    device.until(|view| view.trial);
    device.handle.recall(Hash([9; 32]));
    assert!(device.tick() && device.view().trial, "another artifact is none of it");
    device.handle.order(Order::Pause).unwrap();
    assert!(device.tick() && device.view().trial);
    device.handle.recall(offered.artifact);
    assert!(device.tick());
    let view = device.view();
    assert_eq!((view.generation, view.trial, view.installed()), (1, false, None));
    let install = &view.installs[0];
    assert_eq!(install.outcome, InstallOutcome::Reverted);
    assert_eq!(install.reason, "its fleet offered another during the trial");
    assert_eq!(device.handle.status().serving.generation, Some(1));
    device.handle.order(Order::Resume).unwrap();
    // What is no longer on trial is left alone.
    device.handle.recall(offered.artifact);
    device.order(&place.offered(2, 8, &TARGETS));
    device.until(|view| outcome(view, 8) == Some(InstallOutcome::Confirmed));
    device.handle.recall(device.view().global.map(|global| Hash(global.artifact)).unwrap());
    assert!(device.tick());
    assert_eq!(outcome(&device.view(), 8), Some(InstallOutcome::Confirmed));
}

/// As its fleet gives them, again until it is so: the trial of release 7 ends, and release 8 is installed.
fn recalls(device: &mut Device, [old, new]: [&Arc<Offered>; 2]) -> bool {
    for _ in 0..120 {
        let view = device.view();
        if outcome(&view, new.sequence) == Some(InstallOutcome::Confirmed) {
            return true;
        }
        if view.trial && view.installed().is_some_and(|on| on.artifact == old.artifact) {
            device.handle.recall(old.artifact);
        }
        device.order(new);
        if !device.tick() {
            return false;
        }
    }
    false
}

/// Power fails at every operation from the recall to the confirmation of what comes instead.
#[test]
fn a_power_cut_at_any_operation_of_a_recall_ends_as_none() {
    let place = place();
    let [old, new] = [(1, 7), (2, 8)].map(|(number, seq)| place.offered(number, seq, &TARGETS));
    let begun = place.disk();
    let mut device = Device::open(&begun, place.config());
    device.order(&old);
    device.until(|view| view.trial);
    drop(device);
    let whole = Arc::new(begun.copy());
    assert!(recalls(&mut Device::open(&whole, place.config()), [&old, &new]));
    let (mut olds, mut parents, mut news) = (0, 0, 0);
    for at in 0..whole.operations() {
        let when = format!("cut at {at}");
        let disk = Arc::new(begun.copy());
        disk.set(Some(Fault::Cut(at)));
        if let Some(mut device) = Device::try_open(&disk, place.config()) {
            recalls(&mut device, [&old, &new]);
        }
        let disk = Arc::new(disk.after_cut(at as u64));
        match check(&disk, &when).0 {
            Some(1) => parents += 1,
            Some(2) => olds += 1,
            _ => news += 1,
        }
        assert!(recalls(&mut Device::open(&disk, place.config()), [&old, &new]), "{when}");
        check(&disk, &when);
        let state = State::look(disk).unwrap();
        let outcomes: Vec<_> = state.installs().iter().map(|install| install.outcome).collect();
        let expected = [InstallOutcome::Reverted, InstallOutcome::Confirmed];
        assert_eq!(outcomes, expected, "{when}");
    }
    assert!(olds > 3 && parents > 3 && news > 3, "{olds} old, {parents} parents, {news} new");
}

/// Another fleet counts from 1 again; the adapter that is there is there, whoever releases it.
#[test]
fn release_1_of_another_fleet_is_new_whatever_the_last_one_numbered() {
    let (place, mut device) = (place(), place().device());
    device.order(&place.offered(1, 7, &TARGETS));
    device.until(|view| outcome(view, 7) == Some(InstallOutcome::Confirmed));
    let moved = |number, series| {
        let offered = (*place.offered(number, 1, &TARGETS)).clone();
        Arc::new(Offered { series, ..offered })
    };
    let other = Series { fleet: [5; 16], ..SERIES };
    device.order(&moved(2, other));
    device.until(|view| view.trial);
    let of = |view: &View| view.global.map(|global| (global.series, global.sequence));
    assert_eq!(of(&device.view()), Some((Some(other), 1)));
    device.until(|view| outcome(view, 1) == Some(InstallOutcome::Confirmed));
    device.order(&moved(2, Series { cohort: [9; 32], ..other }));
    device.until(|view| view.installs.len() == 3);
    let last = device.view().installs[2].clone();
    assert_eq!(
        (last.outcome, last.reason.as_str()),
        (InstallOutcome::Confirmed, "it is installed already")
    );
    // An order of a fleet that was left goes with it.
    device.order(&moved(3, Series { fleet: [6; 16], ..SERIES }));
    device.handle.withdraw();
    assert!(device.tick() && device.view().installs.len() == 3);
}

/// What a fleet gives a device that has learned nothing waits until there is text to judge it by.
#[test]
fn without_any_text_to_judge_by_an_install_waits_for_the_first_job() {
    let place = place();
    let mut device = Device::open(&Arc::new(CutDisk::new()), place.config());
    let view = device.view();
    assert_eq!((view.facts.rank, view.generation, view.ready), (2, 0, None));
    assert!(device.own_part().is_none());
    device.order(&place.offered(1, 1, &TARGETS));
    assert!(device.tick());
    assert!(device.view().installs.is_empty() && device.kinds().is_empty());
    (0..LEARNED).for_each(|number| device.offer(number));
    device.until(|view| view.trial);
    assert_eq!(device.view().generation, 2);
}

/// From the order to the last sample: an hour of a device that is told the same order until it has ended.
/// Whether it came to its end; a cut ends it early.
fn hour(device: &mut Device, offered: &Arc<Offered>) -> bool {
    for _ in 0..120 {
        device.order(offered);
        let view = device.view();
        let is_over = matches!(
            outcome(&view, offered.sequence),
            Some(InstallOutcome::Confirmed | InstallOutcome::Reverted)
        );
        if is_over && device.handle.status().inbox.samples == 0 {
            return true;
        }
        if !device.tick() {
            return false;
        }
    }
    false
}

/// What is found on a disk is one of the generations of the hour, whole; no sample is lost or doubled. Its
/// number, samples that wait, and whether a job is under way.
fn check(disk: &Arc<CutDisk>, when: &str) -> (Option<u64>, u64, bool) {
    let state = State::look(disk.clone()).unwrap();
    let number = state.current().map(|generation| generation.number);
    assert!(state.recovery().fell_back.is_empty(), "{when}: {:?}", state.recovery());
    assert!(state.verify(number.unwrap()).is_ok(), "{when}");
    let trial = state.trial().map(|trial| (Some(trial.generation), trial.parent));
    assert!(trial.is_none_or(|trial| trial == (number, 1)), "{when}: {trial:?}");
    assert!(state.verify(1).is_ok() || state.trial().is_none(), "{when}: the parent is gone");
    let inbox = Inbox::open(Arc::new(disk.copy()), BOUNDS, state.learned()).unwrap();
    let waiting = inbox.take(u64::MAX).unwrap().samples.len() as u64;
    assert_eq!(state.learned() + waiting, LEARNED + WAITING, "{when}");
    (number, waiting, inbox.job().is_some())
}

/// Power fails at every operation of the hour: of install, trial, second look, confirmation, and the job
/// after it. Each is one cut and one way for unsynced writes to end; then the device lives on to the end.
#[test]
fn a_power_cut_at_any_operation_of_an_install_ends_as_none() {
    let place = place();
    let offered = place.offered(1, 7, &TARGETS);
    // What a job that was brought down leaves for the next is little.
    let mut config = place.config();
    config.job.samples_min = 1;
    let whole = place.disk();
    assert!(hour(&mut Device::open(&whole, config.clone()), &offered));
    let operations = whole.operations();
    let expected = State::look(whole).unwrap().learner().unwrap().unwrap();
    let (mut olds, mut trials) = (0, 0);
    for at in 0..operations {
        let when = format!("cut at {at}");
        let disk = place.disk();
        disk.set(Some(Fault::Cut(at)));
        if let Some(mut device) = Device::try_open(&disk, config.clone()) {
            hour(&mut device, &offered);
        }
        let disk = Arc::new(disk.after_cut(at as u64));
        let (number, _, is_in_job) = check(&disk, &when);
        (olds, trials) =
            (olds + u32::from(number == Some(1)), trials + u32::from(number == Some(2)));
        assert!(hour(&mut Device::open(&disk, config.clone()), &offered), "{when}");
        let (_, waiting, _) = check(&disk, &when);
        let state = State::look(disk).unwrap();
        assert_eq!((waiting, state.trial()), (0, None), "{when}");
        let outcomes: Vec<_> = state.installs().iter().map(|install| install.outcome).collect();
        assert_eq!(outcomes, [InstallOutcome::Confirmed], "{when}");
        let learner = state.learner().unwrap().unwrap();
        assert_eq!(learner.global, expected.global, "{when}");
        // A job that was brought down may begin again with half of its samples.
        let same = (learner.step, &learner.slow) == (expected.step, &expected.slow);
        assert!(same || is_in_job, "{when}: what was learned is the same to the bit");
    }
    assert!(olds > 10 && trials > 10, "both are found: {olds} old, {trials} on trial");
}

/// An install that every start dies of, wherever that is: after three starts it is given up, its fleet can
/// be told so, and the samples that waited are learned.
#[test]
fn an_install_that_brings_every_start_down_is_given_up_and_learning_goes_on() {
    let place = place();
    let offered = place.offered(1, 7, &TARGETS);
    let tried = |disk: &Arc<CutDisk>, fault: Option<Fault>| {
        let mut device = Device::open(disk, place.config());
        disk.set(fault);
        device.order(&offered);
        while !disk.is_off() && outcome(&device.view(), 7).is_none() && device.tick() {}
        device
    };
    let whole = place.disk();
    drop(tried(&whole, None));
    let (mut given_up, mut others) = (0, 0);
    for at in (0..whole.operations()).step_by(2) {
        let mut disk = place.disk();
        for start in 0..3 {
            drop(tried(&disk, Some(Fault::Cut(at))));
            disk = Arc::new(disk.after_cut((at + start) as u64));
        }
        let mut device = tried(&disk, None);
        let install = device.view().installs[0].clone();
        if install.outcome != InstallOutcome::Declined {
            others += 1;
            continue;
        }
        given_up += 1;
        assert!(install.reason.contains("brought the program down"), "cut at {at}: {install:?}");
        assert_eq!((install.series, device.view().generation), (Some(SERIES), 1), "cut at {at}");
        device.until(|view| view.generation == 2);
        assert_eq!(device.handle.status().inbox.samples, 0, "cut at {at}");
        // Given again, it has ended.
        device.order(&offered);
        assert!(device.tick() && device.view().installs.len() == 1, "cut at {at}");
    }
    assert!(given_up > 5 && others > 1, "{given_up} given up, {others} not");
}

/// What it is told to stop for is no fault of an install.
#[test]
fn an_install_that_is_told_to_stop_keeps_its_starts() {
    let place = place();
    let (offered, disk) = (place.offered(1, 7, &TARGETS), place.disk());
    let mut stopped = 0;
    for looks in 1..20 {
        let mut device = Device::open(&disk, place.config());
        device.order(&offered);
        // So many looks before noon, when it becomes too hot.
        let noon = DAY_MINUTES / 2 * MINUTE_MS;
        device.sky.0.store(noon - 3_000 * looks, Ordering::Relaxed);
        assert!(device.tick());
        if device.view().trial {
            break;
        }
        stopped += u32::from(device.kinds().last() == Some(&(JobKind::Install, Ending::Stopped)));
        drop(device);
        assert_eq!(State::look(disk.clone()).unwrap().attempt(), None, "{looks} looks");
    }
    assert!(stopped > 3, "{stopped} stopped");
    let mut device = Device::open(&disk, place.config());
    if !device.view().trial {
        device.order(&offered);
        device.until(|view| view.trial);
    }
}

/// The same where every start but the last is cut down: the parent returns once, and for good.
#[test]
fn a_power_cut_at_any_operation_of_a_start_under_trial_takes_a_try_or_none() {
    let place = place();
    let begun = place.disk();
    let mut device = Device::open(&begun, place.config());
    device.order(&place.offered(1, 7, &TARGETS));
    device.until(|view| view.trial);
    drop(device);
    for tries in 0..=3_u32 {
        let disk = Arc::new(begun.copy());
        (0..tries).for_each(|_| drop(State::open(disk.clone()).unwrap().take_try()));
        let left =
            |disk: &Arc<CutDisk>| State::look(disk.clone()).unwrap().trial().map(|t| t.tries_left);
        let before = left(&disk);
        let started = Arc::new(disk.copy());
        let _ = State::open(started.clone()).unwrap().take_try().unwrap();
        let after = left(&started);
        for at in 0..started.operations() {
            let cut = Arc::new(disk.copy());
            cut.set(Some(Fault::Cut(at)));
            drop(Device::try_open(&cut, place.config()));
            for luck in 0..4 {
                let found = Arc::new(cut.after_cut(luck));
                check(&found, &format!("{tries} tries, cut at {at}, luck {luck}"));
                assert!([before, after].contains(&left(&found)), "{tries} tries, cut at {at}");
            }
        }
    }
}
