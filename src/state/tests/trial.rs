//! A global adapter that is installed, tried, confirmed, taken back or declined, under every fault.

use super::*;
use sapwood_protocol::limits::{INSTALL_STARTS_MAX, INSTALLS_MAX, TRIES_MAX};

/// Besides the acts of `LIFE`: begun installs `B` and one by hand `b`, starts given back `E`, installs `I`,
/// tries `T`, confirmations `Y`, reversions `V`, offers by hand that are declined `D`. The first is on the
/// bare base; one is tried until its tries are spent, one is rolled back.
const INSTALLS: &str = "BITVlllCllKBEBBITYllClKbDlRbITTTTlKIV<IYBBBB";

/// A fleet's cohort.
const SERIES: Option<Series> = Some(Series { fleet: [7; 16], cohort: [8; 32] });

/// An act of an install; the learner to go on with.
pub(super) fn act(
    act: char,
    state: &mut State,
    learner: &LearnerRecord,
) -> Result<LearnerRecord, StateError> {
    match act {
        'I' => return install(state, learner, state.taken(SERIES) + 1),
        'B' => drop(state.begin_install(SERIES, state.taken(SERIES) + 1)?),
        'b' => drop(state.begin_install(None, state.taken(None) + 1)?),
        'E' => state.excuse_install()?,
        'T' => drop(state.take_try()?),
        'Y' => state.confirm("as good as before", Some(1.5))?,
        'V' => drop(state.revert("it was worse at the second look")?),
        _ => {
            let declined = offer(state.taken(None) + 1, InstallOutcome::Declined);
            state.decline(Install { series: None, ..declined })?;
        }
    }
    Ok(state.learner()?.unwrap_or_else(fresh))
}

fn offer(sequence: u64, outcome: InstallOutcome) -> Install {
    let (artifact, reason) = ([sequence as u8; 32], format!("offer {sequence}"));
    Install { sequence, series: SERIES, artifact, outcome, reason, before: Some(2.0), after: None }
}

/// Over a global adapter of one rank, with one of its own.
fn over(learner: &LearnerRecord, sequence: u64) -> LearnerRecord {
    let ranks = 1;
    let shape = Shape { rank: 2, ..learner.shapes[0] };
    let numbers = |one: f32| vec![one + sequence as f32; 10];
    LearnerRecord {
        fast: numbers(learner.fast[0]),
        slow: numbers(learner.slow[0]),
        first_moment: vec![0.0; 10],
        second_moment: vec![0.0; 10],
        shapes: vec![shape],
        global: Some(Global { ranks, artifact: [sequence as u8; 32], sequence, series: SERIES }),
        since: Since::default(),
        ..learner.clone()
    }
}

fn install(
    state: &mut State,
    learner: &LearnerRecord,
    sequence: u64,
) -> Result<LearnerRecord, StateError> {
    let learner = over(learner, sequence);
    let slow: Vec<u8> = learner.slow.iter().flat_map(|value| value.to_le_bytes()).collect();
    let files = [("adapter_model.safetensors", &slow[..])];
    let (reservoir, domain, verdict) = (None, 0, "kept over the new one");
    let commit = Commit { files: &files, learner: &learner, reservoir, domain, verdict };
    state.install(commit, offer(sequence, InstallOutcome::Trialled))?;
    Ok(learner)
}

#[test]
fn a_power_cut_at_any_step_of_an_install_leaves_the_old_state_or_the_new_one() {
    cut_everywhere(INSTALLS);
}

#[test]
fn a_power_cut_during_the_recovery_of_an_install_changes_nothing_either() {
    cut_twice_everywhere("lKBITYlKBITV");
}

#[test]
fn an_install_that_meets_a_full_disk_is_one_clear_error_and_the_old_state() {
    fill_everywhere(INSTALLS);
}

#[test]
fn an_error_at_any_step_of_an_install_leaves_the_old_state_or_the_new_one() {
    fail_everywhere(INSTALLS);
}

/// A state after a commit, with an install on top that is on trial.
fn on_trial(keep: usize) -> (Arc<CutDisk>, State) {
    let disk = Arc::new(CutDisk::new());
    live("lKlK", disk.clone(), || {}).unwrap();
    let mut state = State::open(disk.clone()).unwrap();
    state.set_keep(keep);
    let learner = state.learner().unwrap().unwrap();
    install(&mut state, &learner, 7).unwrap();
    (disk, state)
}

fn number(state: &State) -> u64 {
    state.current().map_or(0, |generation| generation.number)
}

fn last(state: &State) -> (InstallOutcome, &str) {
    let install = state.installs().last().unwrap();
    (install.outcome, install.reason.as_str())
}

#[test]
fn a_generation_on_trial_has_its_tries_and_then_its_parent_returns() {
    let (disk, state) = on_trial(2);
    assert_eq!((number(&state), state.trial().unwrap().parent), (3, 2));
    drop(state);
    for left in (0..TRIES_MAX).rev() {
        let mut state = State::open(disk.clone()).unwrap();
        assert_eq!(state.take_try().unwrap().map(|trial| trial.tries_left), Some(left));
        assert_eq!((number(&state), last(&state).0), (3, InstallOutcome::Trialled));
        // The parent outlives every manifest of the trial.
        assert!(state.verify(2).is_ok());
    }
    let mut state = State::open(disk.clone()).unwrap();
    assert_eq!(state.take_try().unwrap(), None);
    assert_eq!((number(&state), state.trial()), (2, None));
    let (outcome, reason) = last(&state);
    assert!(outcome == InstallOutcome::Reverted && reason.contains("3 times"), "{reason}");
    assert_eq!(State::open(disk).unwrap().take_try().unwrap(), None);
}

/// Were it the oldest of all, and fewer kept from now on.
#[test]
fn the_parent_is_kept_however_few_generations_are() {
    let disk = Arc::new(CutDisk::new());
    live("lKlKlK", disk.clone(), || {}).unwrap();
    let mut state = State::open(disk.clone()).unwrap();
    state.rollback(Some(1)).unwrap();
    let learner = state.learner().unwrap().unwrap();
    install(&mut state, &learner, 1).unwrap();
    for _ in 0..TRIES_MAX {
        let mut state = State::open(disk.clone()).unwrap();
        state.set_keep(2);
        state.take_try().unwrap();
        assert!(state.verify(1).is_ok());
    }
    let mut state = State::open(disk).unwrap();
    assert_eq!((state.take_try().unwrap(), number(&state)), (None, 1));
}

#[test]
fn nothing_is_committed_or_installed_on_top_of_a_trial() {
    let (disk, mut state) = on_trial(4);
    let before = look(disk.clone()).unwrap();
    let learner = state.learner().unwrap().unwrap();
    let again = install(&mut state, &learner, 8).map(drop);
    let declined = state.decline(offer(8, InstallOutcome::Declined));
    let commit = Commit { files: &[], learner: &learner, reservoir: None, domain: 1, verdict: "" };
    for refused in [again, declined, state.commit(commit).map(drop)] {
        let said = refused.unwrap_err().to_string();
        assert!(said.starts_with("generation 3 is on trial"), "{said}");
    }
    assert_eq!(look(disk).unwrap(), before);
    state.confirm("as good as before", Some(1.25)).unwrap();
    assert_eq!(
        (last(&state).0, state.installs()[0].after),
        (InstallOutcome::Confirmed, Some(1.25))
    );
    for refused in [state.confirm("", None), state.revert("").map(drop)] {
        assert!(matches!(refused, Err(StateError::NoTrial)));
    }
    for sequence in [6, 7] {
        let said = install(&mut state, &learner, sequence).unwrap_err().to_string();
        assert!(said.contains("is not new: expected one above 7"), "{said}");
    }
    let commit = Commit { files: &[], learner: &learner, reservoir: None, domain: 1, verdict: "" };
    assert_eq!(state.commit(commit).unwrap(), 4);
    assert_eq!(state.current().unwrap().global, learner.global);
}

/// A rollback by hand ends a trial, and what is damaged is no parent to return to.
#[test]
fn whatever_takes_a_generation_on_trial_out_of_use_ends_its_trial() {
    let (_, mut state) = on_trial(4);
    assert_eq!(state.rollback(None).unwrap(), 2);
    assert_eq!((state.trial(), last(&state).0), (None, InstallOutcome::Reverted));

    let (disk, mut state) = on_trial(4);
    // From the first try on, both manifests have it in use.
    state.take_try().unwrap();
    disk.damage("learner/3", |bytes| bytes[70] ^= 1);
    let state = State::open(disk).unwrap();
    assert_eq!((number(&state), state.trial()), (2, None));
    assert_eq!(last(&state), (InstallOutcome::Reverted, "its files are damaged"));

    let (disk, mut state) = on_trial(4);
    disk.damage("learner/2", |bytes| bytes[70] ^= 1);
    assert_eq!(state.revert("worse").unwrap(), 1);
    let (disk, mut state) = on_trial(4);
    for path in ["learner/1", "learner/2"] {
        disk.damage(path, |bytes| bytes[70] ^= 1);
    }
    assert_eq!((state.revert("worse").unwrap(), number(&state)), (0, 0));
}

/// Only what is damaged is passed over on the way back, not what a disk refused once.
#[test]
fn a_disk_that_fails_once_gives_the_parent_back_or_an_error() {
    let (disk, mut state) = on_trial(4);
    disk.set(None);
    assert_eq!(state.revert("worse").unwrap(), 2);
    let mut reverted = 0;
    for at in 0..disk.operations() {
        let (disk, mut state) = on_trial(4);
        disk.set(Some(Fault::Once(at, Failure::Eio)));
        match state.revert("worse") {
            Ok(number) => assert_eq!(number, 2, "EIO at {at}"),
            Err(_) => continue,
        }
        reverted += 1;
    }
    assert!(reverted > 3, "{reverted} came back");
}

/// An install takes no sample with it, whatever a job before it was to take.
#[test]
fn an_install_takes_nothing_from_the_inbox() {
    let disk = Arc::new(CutDisk::new());
    live("lK", disk.clone(), || {}).unwrap();
    let mut state = State::open(disk).unwrap();
    state.set_through(9);
    let learner = state.learner().unwrap().unwrap();
    install(&mut state, &learner, 1).unwrap();
    state.confirm("", None).unwrap();
    assert_eq!(state.learned(), 0);
    let commit = Commit { files: &[], learner: &learner, reservoir: None, domain: 1, verdict: "" };
    state.commit(commit).unwrap();
    assert_eq!(state.learned(), 9);
}

#[test]
fn as_many_installs_are_remembered_as_one_check_in_reports() {
    let mut state = State::open(Arc::new(CutDisk::new())).unwrap();
    for sequence in 1..=20 {
        let reason = "ä".repeat(200);
        let declined = offer(sequence, InstallOutcome::Declined);
        state.decline(Install { reason, ..declined }).unwrap();
    }
    let installs = state.installs();
    assert_eq!((installs.len(), installs[0].sequence), (INSTALLS_MAX, 5));
    assert!(installs.iter().all(|install| install.reason.len() == 256));
}

/// What one fleet numbered says nothing of another, nor of another cohort, nor of what a hand did.
#[test]
fn a_sequence_is_taken_in_its_own_series_only() {
    let (_, mut state) = on_trial(4);
    state.confirm("as good as before", None).unwrap();
    let Series { fleet, cohort } = SERIES.unwrap();
    let others =
        [Some(Series { fleet: [1; 16], cohort }), Some(Series { fleet, cohort: [1; 32] }), None];
    for series in others {
        assert_eq!(state.taken(series), 0);
        state.decline(Install { series, ..offer(1, InstallOutcome::Declined) }).unwrap();
        let said = state.may_install(series, 1).unwrap_err().to_string();
        assert!(said.contains("expected one above 1"), "{said}");
    }
    assert_eq!((state.taken(SERIES), state.installs().len()), (7, 4));
    assert!(state.may_install(SERIES, 7).is_err() && state.may_install(SERIES, 8).is_ok());
}

/// Each start is on the disk before the install begins; the one after the last is refused.
#[test]
fn an_install_has_its_starts_and_none_more() {
    let (disk, mut state) = on_trial(4);
    state.confirm("as good as before", None).unwrap();
    for starts in 1..=INSTALL_STARTS_MAX {
        let mut state = State::open(disk.clone()).unwrap();
        assert_eq!(state.begin_install(SERIES, 8).unwrap(), Some(starts));
    }
    let before = look(disk.clone()).unwrap();
    let mut state = State::open(disk.clone()).unwrap();
    assert_eq!(state.begin_install(SERIES, 8).unwrap(), None);
    assert_eq!(look(disk).unwrap(), before);
    // A start that was told to end is given back; another offer has its own.
    state.excuse_install().unwrap();
    assert_eq!(state.begin_install(SERIES, 8).unwrap(), Some(INSTALL_STARTS_MAX));
    assert_eq!(state.begin_install(None, 8).unwrap(), Some(1));
    state.excuse_install().unwrap();
    assert_eq!(state.attempt(), None);
    state.excuse_install().unwrap();
    state.begin_install(SERIES, 8).unwrap();
    state.decline(offer(8, InstallOutcome::Declined)).unwrap();
    assert_eq!(state.attempt(), None);
    assert!(matches!(state.begin_install(SERIES, 8), Err(StateError::Taken { .. })));
}

/// Without its manifest a generation still says what it stands on.
#[test]
fn what_a_generation_stands_on_outlives_the_manifest() {
    let (disk, state) = on_trial(4);
    let global = state.current().unwrap().global;
    drop(state);
    NAMES.iter().for_each(|name| disk.remove(name).unwrap());
    State::rebuild(&*disk, 0, &|_, _| Ok(())).unwrap();
    let state = State::open(disk).unwrap();
    assert_eq!((state.current().unwrap().global, state.taken(SERIES)), (global, 7));
}

#[test]
fn a_record_whose_layers_are_all_the_global_adapters_is_damage() {
    let global = Some(Global { ranks: 1, artifact: [0; 32], sequence: 1, series: None });
    let said = LearnerRecord { global, ..fresh() }.check().unwrap_err();
    assert!(
        said.is_damage() && said.to_string().contains("layer 1 has 1 ranks, 1 of them"),
        "{said}"
    );
    let since = Since { steps: 1, tokens: 0 };
    assert!(LearnerRecord { since, ..fresh() }.check().unwrap_err().is_damage());
}
