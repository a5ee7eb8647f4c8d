//! The bytes of every version, which every later version must open.

use super::*;
use crate::inbox::{Bounds, Inbox, Job};
use crate::ports::Disk;
use crate::reservoir::Hidden;
use half::f16;
use sapwood_protocol::record::{UncheckedHeader, crc32c};
use std::path::{Path, PathBuf};

const JOB: Job = Job { through: 4, attempts: 1, step: 5, suspect: 5 };
const BOUNDS: Bounds = Bounds { bytes: 1 << 20, samples: 100 };

fn golden(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(version)
}

/// Copies a committed folder, which a test must not change, into a disk in memory.
fn golden_disk(version: &str) -> Arc<CutDisk> {
    let disk = CutDisk::new();
    copy(&golden(version), "", &disk);
    Arc::new(disk.copy())
}

fn copy(root: &Path, folder: &str, disk: &CutDisk) {
    for entry in std::fs::read_dir(root.join(folder)).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if entry.file_type().unwrap().is_file() {
            disk.write(&path, &std::fs::read(entry.path()).unwrap()).unwrap();
        } else {
            disk.create_dir_all(&path).unwrap();
            copy(root, &path, disk);
        }
    }
}

/// A device's life, then samples of which a job has taken the first two, the third was set aside, and a
/// job that was brought down before begins on the fourth.
fn life_with_inbox(storage: Arc<dyn Storage>) {
    live(&format!("{LIFE}IYDbIT"), storage.clone(), || {}).unwrap();
    let mut inbox = Inbox::open(storage.clone(), BOUNDS, 0).unwrap();
    let line = |number| format!("{{\"text\":\"sample {number}\"}}\n");
    inbox.offer(&[line(1), line(2)].concat()).unwrap();
    inbox.begin(Job { through: 2, ..Job::default() }).unwrap();
    inbox.offer(&[line(3), line(4), line(5)].concat()).unwrap();
    let mut state = State::open(storage).unwrap();
    state.set_through(2);
    state.reject(12, "new text is not better", None).unwrap();
    inbox.forget(2).unwrap();
    inbox.set_aside(3, "it gives no text").unwrap();
    state.set_through(3);
    state.reject(12, "nothing can be learned", None).unwrap();
    inbox.forget(3).unwrap();
    inbox.begin(JOB).unwrap();
    let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
    let mut learner = state.learner().unwrap().unwrap();
    learn(&mut learner, &mut reservoir).unwrap();
    // Into the middle of a pass.
    reservoir.draw(1).unwrap();
    let slow = learner.slow.iter().map(|value| 2.0 * value).collect();
    let best = Best { step: 4, seen: 5, stale: 1, score: 1.5, slow };
    state.checkpoint_with(learner, Some(best), Some(&mut reservoir)).unwrap();
}

/// Goal: a state written by version 1 opens in every later version.
/// Oracle: `cargo test -p sapwood --lib write_the_golden_state -- --ignored`, run once by version 1.
#[test]
fn the_state_that_version_1_wrote_still_opens() {
    let seen = look(golden_disk("state_v1")).unwrap();
    assert_eq!((seen.current, seen.kept, seen.rejected), (Some(4), vec![2, 3, 4], 1));
    assert_eq!((seen.held, seen.offered), (vec![8, 10, 12], 16));
    let (learner, (interrupted, staged, _)) = (seen.learner.unwrap(), seen.checkpoint.unwrap());
    assert_eq!((learner.step, interrupted.step), (12, 13));
    assert_eq!((learner.base, &learner.settings), (BASE, &fresh().settings));
    let bits: Vec<u32> = learner.slow.iter().map(|value| value.to_bits()).collect();
    assert_eq!(
        (bits, staged),
        (vec![1113836333, 1114335774, 1114835214, 1115334655, 1115759480], vec![8, 10, 12])
    );
}

/// Goal: a state with an inbox opens in every later version.
/// Oracle: `cargo test --lib write_the_golden_state -- --ignored`, run once by version 2.
#[test]
fn the_state_that_version_2_wrote_still_opens() {
    let disk = golden_disk("state_v2");
    let seen = look(disk.clone()).unwrap();
    assert_eq!((seen.current, seen.kept, seen.rejected), (Some(4), vec![2, 3, 4], 2));
    let state = State::look(disk.clone()).unwrap();
    assert_eq!(state.learned(), 2);
    let mut inbox = Inbox::open(disk, BOUNDS, state.learned()).unwrap();
    let taken = inbox.take(9).unwrap();
    assert_eq!((taken.samples.len(), taken.through, inbox.waiting().samples), (1, 3, 1));
    assert_eq!(inbox.job(), Some(Job { through: 3, attempts: 1, step: 5, suspect: 0 }));
    assert_eq!(inbox.offer("{\"text\":\"sample 1\"}").unwrap().duplicates, 1);
}

/// Goal: a state in the middle of a pass opens in every later version.
/// Oracle: `cargo test --lib write_the_golden_state -- --ignored`, run once by version 3.
#[test]
fn the_state_that_version_3_wrote_still_opens() {
    let disk = golden_disk("state_v3");
    let state = State::look(disk.clone()).unwrap();
    let checkpoint = state.take_checkpoint().unwrap().unwrap();
    let best = checkpoint.best.as_ref().unwrap();
    assert_eq!((best.step, best.seen, best.stale, best.score), (4, 5, 1, 1.5));
    assert_eq!(best.slow.len(), checkpoint.learner.slow.len());
    let ledgers = [state.manifest.ledger, checkpoint.ledger].map(Option::unwrap);
    assert_eq!(ledgers.map(|ledger| ledger.pending), [vec![2, 1], vec![1, 0]]);
    let seen = look(disk).unwrap();
    assert_eq!((seen.current, seen.kept, seen.rejected), (Some(4), vec![2, 3, 4], 2));
    assert_eq!((seen.held, seen.pass), (vec![12, 14, 16], vec![12, 14, 16]));
    assert_eq!(seen.checkpoint.unwrap().2, [16, 12, 14]);
}

/// Goal: a state with samples set aside and under suspicion opens in every later version.
/// Oracle: `cargo test --lib write_the_golden_state -- --ignored`, run once by version 4.
#[test]
fn the_state_that_version_4_wrote_still_opens() {
    let disk = golden_disk("state_v4");
    let seen = look(disk.clone()).unwrap();
    assert_eq!((seen.current, seen.kept, seen.rejected), (Some(4), vec![2, 3, 4], 3));
    let state = State::look(disk.clone()).unwrap();
    let mut inbox = Inbox::open(disk, BOUNDS, state.learned()).unwrap();
    assert_eq!((inbox.job(), inbox.suspect()), (Some(JOB), Some(5)));
    assert_eq!((inbox.waiting().samples, inbox.aside().collect::<Vec<_>>()), (2, vec![3]));
    assert_eq!(inbox.look_aside(3).unwrap().unwrap().reason, "it gives no text");
    assert_eq!(inbox.offer("{\"text\":\"sample 3\"}").unwrap().accepted, 1);
}

/// Goal: a state whose domains have numbers of their own opens in every later version.
/// Oracle: `cargo test --lib write_the_golden_state -- --ignored`, run once by version 5.
#[test]
fn the_state_that_version_5_wrote_still_opens() {
    let disk = golden_disk("state_v5");
    let seen = look(disk.clone()).unwrap();
    assert_eq!((seen.current, seen.kept, seen.rejected), (Some(4), vec![2, 3, 4], 3));
    let state = State::look(disk).unwrap();
    assert_eq!((state.manifest.domain, state.next_domain()), (70_004, 70_005));
    let learner = state.learner().unwrap().unwrap();
    assert_eq!(learner.domains, fresh().domains);
    assert_eq!(learner.held_out[0].domain, 70_001);
    assert_eq!((state.trial(), state.installs(), state.taken(None)), (None, &[][..], 0));
    assert_eq!((learner.global, learner.since), (None, Since { steps: learner.step, tokens: 0 }));
    assert_eq!(state.current().unwrap().since, learner.since);
    let checkpoint = state.take_checkpoint().unwrap().unwrap().learner;
    assert_eq!(checkpoint.since.steps, checkpoint.step);
}

/// Goal: a state with a global adapter on trial opens in every later version.
/// Oracle: `cargo test --lib write_the_golden_state -- --ignored`, run once by version 6.
#[test]
fn the_state_that_version_6_wrote_still_opens() {
    let disk = golden_disk("state_v6");
    let state = State::look(disk.clone()).unwrap();
    let trial = Trial { generation: 6, parent: 5, tries_left: 2 };
    assert_eq!((state.trial(), state.taken(None)), (Some(trial), 3));
    let outcomes: Vec<_> = state.installs().iter().map(|install| install.outcome).collect();
    use InstallOutcome::{Confirmed, Declined, Trialled};
    assert_eq!(outcomes, [Confirmed, Declined, Trialled]);
    let global = Global { ranks: 1, artifact: [3; 32], sequence: 3, series: None };
    let learner = state.learner().unwrap().unwrap();
    assert_eq!((learner.global, learner.since), (Some(global), Since::default()));
    let globals: Vec<_> = state.generations().iter().map(|kept| kept.global).collect();
    assert_eq!(globals.iter().flatten().map(|kept| kept.sequence).collect::<Vec<_>>(), [1, 3]);
    let checkpoint = state.take_checkpoint().unwrap().unwrap().learner;
    assert_eq!((checkpoint.global, checkpoint.since.steps), (Some(global), 1));
    assert_eq!(state.attempt(), None);
    let mut state = State::open(disk).unwrap();
    assert_eq!(state.revert("worse").unwrap(), 5);
}

/// Goal: a state whose sequences say whose they are, with an install that was begun, opens in every later
/// version.
/// Oracle: `cargo test --lib write_the_golden_state -- --ignored`, run once by version 7.
#[test]
fn the_state_that_version_7_wrote_still_opens() {
    let disk = golden_disk("state_v7");
    let state = State::look(disk).unwrap();
    let series = Some(Series { fleet: [7; 16], cohort: [8; 32] });
    assert_eq!((state.taken(series), state.taken(None)), (2, 1));
    assert_eq!(state.attempt(), Some(Attempt { series: None, sequence: 2, starts: 1 }));
    let of: Vec<_> = state.installs().iter().map(|one| (one.series, one.sequence)).collect();
    assert_eq!(of, [(series, 1), (None, 1), (series, 2)]);
    let global = Some(Global { ranks: 1, artifact: [2; 32], sequence: 2, series });
    assert_eq!((state.global(), state.learner().unwrap().unwrap().global), (global, global));
    assert_eq!(state.take_checkpoint().unwrap().unwrap().learner.global, global);
    assert_eq!(state.trial(), Some(Trial { generation: 6, parent: 5, tries_left: 2 }));
}

/// Goal: hidden states of a place of version 2 are there, and nobody knows what they come from; beside them
/// stand those of a place as it is written now.
/// Oracle: `sapwood adapt --replay-hidden` over the shipped base, two steps of one block of at most eight
/// tokens, run once by the last version that wrote such places.
#[test]
fn hidden_states_of_an_earlier_version_are_of_no_known_origin() {
    let disk = golden_disk("state_v7_hidden");
    let mut reservoir = State::look(disk.clone()).unwrap().committed_reservoir().unwrap().unwrap();
    let old = reservoir.draw(2).unwrap();
    assert_eq!(old.len(), 2);
    for drawn in &old {
        let hidden = drawn.hidden.as_ref().unwrap();
        assert_eq!((hidden.origin, hidden.states.len()), (0, 192 * drawn.block.tokens.len()));
        assert!(hidden.states.iter().any(|number| number.to_f32() != 0.0));
    }
    let mut state = State::open(disk).unwrap();
    let mut reservoir = state.reservoir(*reservoir.geometry(), SEED, None).unwrap();
    let hidden = Hidden { states: vec![f16::ONE; 192 * 3], origin: 5 };
    while !reservoir.offer(&block(9), Some(&hidden), 1.0).unwrap() {}
    commit(&mut state, &fresh(), &mut reservoir).unwrap();
    let mut reservoir = state.committed_reservoir().unwrap().unwrap();
    let drawn = reservoir.draw(2).unwrap();
    let of = drawn.iter().filter_map(|drawn| drawn.hidden.as_ref());
    let mut of: Vec<u64> = of.map(|hidden| hidden.origin).collect();
    of.sort_unstable();
    assert_eq!(of, [0, 5]);
}

/// A domain of an earlier version was the place of its name; the blocks of the reservoir say which numbers
/// were given.
#[test]
fn domains_of_an_earlier_version_keep_their_numbers() {
    let disk = golden_disk("state_v4");
    let state = State::look(disk).unwrap();
    assert_eq!((state.manifest.domain, state.next_domain()), (0, 1));
    let bytes = std::fs::read(golden("state_v4/learner/4")).unwrap();
    let learner = LearnerRecord::parse(&bytes).unwrap();
    assert_eq!(Some(&learner), state.learner().unwrap().as_ref());
}

/// What is left of the pass is empty in what earlier versions wrote; the next commit and the next
/// checkpoint are of this one.
#[test]
fn a_state_of_an_earlier_version_goes_on_in_passes() {
    for (version, was) in [("state_v1", 1), ("state_v2", 2)] {
        let disk = golden_disk(version);
        let of = |name, kind| {
            let header = UncheckedHeader::read(&disk.read(name).unwrap()).unwrap();
            header.check(kind).unwrap().version
        };
        assert_eq!([0, 1].map(|at| of(NAMES[at], Kind::Manifest)), [was; 2]);
        let mut state = State::open(disk.clone()).unwrap();
        let checkpoint = state.take_checkpoint().unwrap();
        assert_eq!(checkpoint.is_some(), was == 1);
        let mut reservoir = state.reservoir(geometry(), SEED, checkpoint.as_ref()).unwrap();
        assert!(reservoir.sync().unwrap().pending.is_empty());
        let mut learner = checkpoint.map_or(state.learner().unwrap().unwrap(), |c| c.learner);
        learn(&mut learner, &mut reservoir).unwrap();
        state.checkpoint(learner.clone(), Some(&mut reservoir)).unwrap();
        assert_eq!(of(CHECKPOINT, Kind::Checkpoint), 5);
        commit(&mut state, &learner, &mut reservoir).unwrap();
        let slot = state.slot.unwrap();
        assert_eq!(
            (of(NAMES[slot], Kind::Manifest), of(NAMES[1 - slot], Kind::Manifest)),
            (7, was)
        );
        let found = State::look(disk.clone()).unwrap().manifest.ledger.unwrap();
        assert_eq!(found, Ledger { generation: found.generation, ..reservoir.sync().unwrap() });
        assert_eq!(found.pending.len(), 1);
    }
}

/// One of two is enough: what the other leads to is older.
/// What this program says of a manifest of version 8 is what one of version 6 says of version 7.
#[test]
fn a_later_version_is_refused_by_a_line_with_both() {
    for names in [&NAMES[..], &NAMES[..1], &NAMES[1..], &[CHECKPOINT]] {
        let disk = golden_disk("state_v7");
        for name in names {
            disk.damage(name, |bytes| {
                bytes[8] += 1;
                let sum = crc32c(&bytes[..60]);
                bytes[60..64].copy_from_slice(&sum.to_le_bytes());
            });
        }
        let before = disk.copy();
        let said = State::open(disk.clone()).err().unwrap().to_string();
        assert!(said.contains("format version") && said.contains(names[0]), "{said}");
        assert!(before.paths().iter().all(|path| before.read(path).ok() == disk.read(path).ok()));
    }
}

/// A change of the bytes is a change of the format: it needs a new version and an upgrade path.
#[test]
fn this_version_writes_the_bytes_of_version_7() {
    let (golden, written) = (golden_disk("state_v7"), Arc::new(CutDisk::new()));
    life_with_inbox(written.clone());
    assert_eq!(golden.paths(), written.paths());
    for path in golden.paths() {
        assert!(golden.read(&path).unwrap() == written.read(&path).unwrap(), "{path}");
    }
}

#[test]
#[ignore = "writes tests/golden/state_v7, which only a new format version may do"]
fn write_the_golden_state() {
    let root = golden("state_v7");
    life_with_inbox(Arc::new(Disk::exclusive(&root).unwrap()));
    std::fs::remove_file(root.join("lock")).unwrap();
}
