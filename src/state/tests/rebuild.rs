//! A state folder whose manifests are lost is refused as it is, and found again when that is asked for.

use super::*;
use crate::state::rebuild::keep;
use sapwood_protocol::record::crc32c;

/// Says that an adapter belongs to its learner when its tensors are the bytes of slow.
fn whole(learner: &LearnerRecord, files: &AdapterFiles) -> Result<(), String> {
    let slow: Vec<u8> = learner.slow.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensors = files.iter().find(|(name, _)| name == "adapter_model.safetensors");
    match tensors {
        Some((_, bytes)) if *bytes == slow => Ok(()),
        _ => Err("its tensors are not those of the learner".to_owned()),
    }
}

/// A disk after a life, its manifests gone.
fn without_manifests() -> (Seen, Arc<CutDisk>) {
    let (seen, _, disk) = reference();
    NAMES.iter().for_each(|name| disk.remove(name).unwrap());
    (seen.last().unwrap().clone(), Arc::new(disk))
}

fn files(disk: &CutDisk) -> Vec<(String, Vec<u8>)> {
    disk.paths().into_iter().map(|path| (path.clone(), disk.read(&path).unwrap())).collect()
}

#[test]
fn generations_without_a_manifest_are_refused_and_not_swept_away() {
    let (_, disk) = without_manifests();
    let before = files(&disk);
    let said = State::open(disk.clone()).err().unwrap();
    assert!(matches!(&said, StateError::NoManifest { generations } if generations.contains(&4)));
    assert!(said.to_string().contains("firmware-host recover --from-adapters"), "{said}");
    assert!(files(&disk) == before, "nothing may change");
}

#[test]
fn a_state_is_found_again_from_its_generations_and_blocks() {
    let (last, disk) = without_manifests();
    let rebuilt = State::rebuild(&*disk, 17, &whole).unwrap();
    assert_eq!((&rebuilt.generations, rebuilt.passed_over.len()), (&last.kept, 0));
    let mut state = State::open(disk).unwrap();
    let number = state.current().unwrap().number;
    assert_eq!((Some(number), state.learned()), (last.kept.last().copied(), 17));
    assert_eq!((state.next_generation(), state.next_domain()), (number + 1, 70_002));
    let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
    let stats = reservoir.stats();
    assert_eq!((stats.held, u64::from(stats.held)), (3, rebuilt.blocks));
    // Blocks as they were offered, and a reservoir that goes on; `offers` checks each.
    offers(&mut reservoir);
    let mut learner = state.learner().unwrap().unwrap();
    learn(&mut learner, &mut reservoir).unwrap();
    assert_eq!(commit(&mut state, &learner, &mut reservoir).unwrap(), number + 1);
}

#[test]
fn what_is_not_whole_is_passed_over_and_damaged_manifests_are_kept() {
    let (seen, _, disk) = reference();
    let (last, disk) = (seen.last().unwrap(), Arc::new(disk));
    let newest = last.kept.last().unwrap();
    disk.damage(&format!("adapters/{newest}/adapter_model.safetensors"), |bytes| bytes[0] ^= 1);
    for name in NAMES {
        disk.damage(name, |bytes| bytes[70] ^= 1);
    }
    let said = State::open(disk.clone()).err().unwrap().to_string();
    assert!(said.contains("recover --from-adapters"), "{said}");
    let rebuilt = State::rebuild(&*disk, 0, &whole).unwrap();
    assert_eq!(rebuilt.generations, last.kept[..last.kept.len() - 1]);
    assert!(rebuilt.passed_over[0].contains("not those of the learner"), "{rebuilt:?}");
    let manifests = ["manifest.a.damaged", "manifest.b.damaged"].map(str::to_owned);
    let parts = ["learner", "adapters"].map(|folder| format!("{folder}/{newest}.damaged"));
    assert_eq!(rebuilt.kept, [parts, manifests].concat());
    let state = State::open(disk.clone()).unwrap();
    assert_eq!(state.next_generation(), newest + 1, "no number is given twice");
    // Not even the next start and a commit sweep it away.
    let mut state = State::open(disk.clone()).unwrap();
    let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
    commit(&mut state, &fresh(), &mut reservoir).unwrap();
    let is_there = |name: &String| disk.paths().iter().any(|path| path.starts_with(name.as_str()));
    assert!(rebuilt.kept.iter().all(is_there), "{:?}", disk.paths());
}

/// A cut between the renaming and the manifest: the number of what was renamed is not given again.
#[test]
fn a_number_that_was_passed_over_stays_given_whenever_the_recovery_is_cut() {
    let (last, disk) = without_manifests();
    let newest = *last.kept.last().unwrap();
    disk.damage(&format!("learner/{newest}"), |bytes| bytes[70] ^= 1);
    for at in 0..12 {
        let cut = Arc::new(disk.copy());
        cut.set(Some(Fault::Cut(at)));
        let _ = State::rebuild(&*cut, 0, &whole);
        let found = Arc::new(cut.after_cut(1));
        if State::open(found.clone()).is_err() {
            State::rebuild(&*found, 0, &whole).unwrap();
        }
        assert_eq!(State::open(found).unwrap().next_generation(), newest + 1, "cut at {at}");
    }
}

/// Passed over and put under another name is what is lost, not what cannot be read for now, nor what a
/// later version wrote.
#[test]
fn what_cannot_be_read_for_now_or_is_newer_is_refused_and_stays() {
    let (last, disk) = without_manifests();
    let before = files(&disk);
    let mut met = 0;
    for at in 0..200 {
        let refusing = disk.copy();
        refusing.set(Some(Fault::Once(at, Failure::Kind(ErrorKind::PermissionDenied))));
        let Err(error) = State::rebuild(&refusing, 0, &whole) else { break };
        refusing.set(None);
        match error {
            // Whether the manifest is there, only the next start knows.
            StateError::Sync(_) => {}
            StateError::Storage(_) | StateError::Reservoir(ReservoirError::Storage(_)) => {
                assert!(files(&refusing) == before, "operation {at}");
            }
            other => unreachable!("operation {at}: {other}"),
        }
        met += 1;
    }
    assert!(met > 20, "{met}");
    let newest = format!("learner/{}", last.kept.last().unwrap());
    disk.damage(&newest, |bytes| {
        bytes[8] += 1;
        let sum = crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&sum.to_le_bytes());
    });
    let said = State::rebuild(&*disk, 0, &whole).unwrap_err().to_string();
    assert!(said.contains(&newest) && said.contains("format version"), "{said}");
}

#[test]
fn what_is_kept_takes_the_place_of_nothing_that_was_kept_before() {
    let (_, _, disk) = reference();
    for (round, kept) in ["reservoir.damaged", "reservoir.damaged.2"].into_iter().enumerate() {
        let text = format!("torn {round}");
        disk.write("reservoir", text.as_bytes()).unwrap();
        let said = State::look(Arc::new(disk.copy())).unwrap().committed_reservoir().err();
        if round == 0 {
            let said = said.unwrap().to_string();
            assert!(said.contains("recover --from-adapters"), "{said}");
        }
        // As a commit of the first round's new reservoir would leave it.
        let rebuilt = match round {
            0 => State::rebuild(&disk, 0, &whole).unwrap().kept,
            _ => vec![keep(&disk, "reservoir").unwrap()],
        };
        assert_eq!((rebuilt, disk.read(kept).unwrap()), (vec![kept.to_owned()], text.into_bytes()));
    }
}

/// What was learned stays; what was to be replayed is gone, and its file is kept.
#[test]
fn a_reservoir_that_is_lost_is_let_go_of_and_the_generations_stay() {
    let (seen, _, disk) = reference();
    let last = seen.last().unwrap();
    for is_there in [false, true] {
        let disk = Arc::new(disk.copy());
        match is_there {
            true => assert!(disk.damage("reservoir", |bytes| bytes.truncate(1_000))),
            false => disk.remove("reservoir").unwrap(),
        }
        let rebuilt = State::rebuild(&*disk, 0, &whole).unwrap();
        assert_eq!((&rebuilt.generations, rebuilt.kept.len()), (&last.kept, usize::from(is_there)));
        let mut state = State::open(disk.clone()).unwrap();
        assert_eq!(state.current().map(|generation| generation.number), last.current);
        assert_eq!(state.next_domain(), 70_000 + *last.kept.last().unwrap() as u32 + 1);
        let mut reservoir = state.reservoir(geometry(), SEED, None).unwrap();
        let mut learner = state.learner().unwrap().unwrap();
        learn(&mut learner, &mut reservoir).unwrap();
        commit(&mut state, &learner, &mut reservoir).unwrap();
        assert_eq!(disk.len("reservoir.damaged").unwrap().is_some(), is_there);
    }
}

#[test]
fn a_state_that_can_be_read_or_holds_nothing_whole_is_left_alone() {
    let (_, _, disk) = reference();
    let before = files(&disk);
    let said = State::rebuild(&disk, 0, &whole).unwrap_err().to_string();
    assert!(said.contains("can be read") && said.contains("nothing was changed"), "{said}");
    assert!(files(&disk) == before);
    let (_, disk) = without_manifests();
    let said = State::rebuild(&*disk, 0, &|_, _| Err("no".into())).unwrap_err();
    assert!(matches!(said, StateError::NoSound { .. }), "{said}");
    assert!(matches!(State::open(disk), Err(StateError::NoManifest { .. })));
    let empty = CutDisk::new();
    assert!(State::rebuild(&empty, 0, &whole).unwrap_err().to_string().contains("holds none"));
}

/// A cut while the manifest is made anew leaves a folder that is refused as before, or the new state.
#[test]
fn a_cut_of_the_recovery_can_be_repeated() {
    let (_, disk) = without_manifests();
    for at in 0..12 {
        let cut = Arc::new(disk.copy());
        cut.set(Some(Fault::Cut(at)));
        let _ = State::rebuild(&*cut, 0, &whole);
        for luck in 0..4 {
            let found = Arc::new(cut.after_cut(luck));
            match State::open(found.clone()) {
                Ok(state) => assert_eq!(state.current().unwrap().number, 4),
                Err(error) => {
                    assert!(matches!(error, StateError::NoManifest { .. }), "{error}");
                    State::rebuild(&*found, 0, &whole).unwrap();
                }
            }
        }
    }
}
