//! A state folder with fuzzed files: manifests, learner records, the checkpoint, adapters.
//!
//! - In: parts, each a byte that names the file and whether it is sealed again, then its payload.
//! - Promises: looking and opening agree; what is current is whole; after a commit that is what the
//!   next start finds, after a refusal what was current before; opening twice finds the same.

use crate::Seed;
use crate::cursor::{joined, parts};
use crate::record::{payload, replace, seal, seal_as};
use crate::reservoir::{GEOMETRY, block, given_out, hidden};
use sapwood::ports::{Memory, Storage};
use sapwood::state::{
    Commit, Domain, Global, HeldOutBlock, Install, InstallOutcome, LearnerRecord, Series, Shape,
    Since, State,
};
use sapwood_protocol::record::Kind;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

/// Seed of the reservoir's chance.
pub const SEED: [u8; 32] = [5; 32];
/// The adapter's files; what is in them is not this stage's to know.
const FILES: [(&str, &[u8]); 2] =
    [("adapter_config.json", b"{}"), ("adapter_model.safetensors", b"0123456789")];
/// A payload as it is, not sealed.
const RAW: u8 = 128;
/// A payload of the first version.
const FIRST: u8 = 64;
/// A payload of the second version.
const SECOND: u8 = 32;

/// Files by path.
#[derive(Clone, Debug, Default)]
pub struct Folder(BTreeMap<String, Vec<u8>>);

/// A device after a rejection, three commits, an install that was confirmed, one on trial, and a checkpoint.
pub static SOUND: LazyLock<Folder> = LazyLock::new(|| {
    let memory = Arc::new(Memory::default());
    let mut state = State::open(memory.clone()).unwrap();
    let mut reservoir = state.reservoir(GEOMETRY, SEED, None).unwrap();
    let mut learner = fresh();
    for act in 1..=8 {
        let offer = reservoir.stats().seen + 1;
        reservoir.draw(2).unwrap();
        reservoir.offer(&block(offer), Some(&hidden(offer)), 0.5).unwrap();
        learner.step += 1;
        let reservoir = Some(&mut reservoir);
        match act {
            1 => state.reject(1, "not better", reservoir).unwrap(),
            2 | 4 | 6 => {
                let learner = &learner;
                let commit =
                    Commit { files: &FILES, learner, reservoir, domain: 1, verdict: "kept" };
                state.commit(commit).unwrap();
            }
            _ => {}
        }
    }
    for sequence in [1, 2] {
        let artifact = [sequence as u8; 32];
        let series = Some(Series { fleet: [7; 16], cohort: [8; 32] });
        state.begin_install(series, sequence).unwrap();
        learner = over(learner, Global { ranks: 1, artifact, sequence, series });
        let (learner, reservoir, verdict) = (&learner, None, "kept");
        let commit = Commit { files: &FILES, learner, reservoir, domain: 1, verdict };
        let (outcome, reason) = (InstallOutcome::Trialled, "as good".to_owned());
        let (before, after) = (Some(2.0), Some(1.5));
        state
            .install(commit, Install { sequence, series, artifact, outcome, reason, before, after })
            .unwrap();
        if sequence == 1 {
            state.confirm("as good at the second look", None).unwrap();
        }
    }
    state.take_try().unwrap();
    state.checkpoint(learner, Some(&mut reservoir)).unwrap();
    let mut folder = Folder::default();
    folder.collect(&memory, "");
    folder
});

impl Folder {
    fn collect(&mut self, memory: &Memory, folder: &str) {
        for name in memory.list(folder).unwrap() {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            match memory.read(&path) {
                Ok(bytes) => drop(self.0.insert(path, bytes)),
                Err(_) => self.collect(memory, &path),
            }
        }
    }

    /// A file's bytes.
    pub fn file(&self, path: &str) -> &[u8] {
        &self.0[path]
    }

    /// A file's bytes, to be changed.
    pub fn file_mut(&mut self, path: &str) -> &mut Vec<u8> {
        self.0.entry(path.to_owned()).or_default()
    }

    /// The folder with one more file.
    pub fn with(mut self, path: &str, bytes: Vec<u8>) -> Self {
        self.0.insert(path.to_owned(), bytes);
        self
    }

    /// A copy of it in memory.
    pub fn memory(&self) -> Arc<Memory> {
        let memory = Memory::default();
        self.0.iter().for_each(|(path, bytes)| memory.write(path, bytes).unwrap());
        Arc::new(memory)
    }

    /// Puts a file in the place of another, and its digest into both manifests.
    fn recommit(&mut self, path: &str, bytes: Vec<u8>) {
        let described = |bytes: &[u8]| {
            [&(bytes.len() as u64).to_le_bytes()[..], blake3::hash(bytes).as_bytes()].concat()
        };
        let (old, new) = (described(self.file(path)), described(&bytes));
        for name in ["manifest.a", "manifest.b"] {
            let mut manifest = payload(self.file(name)).to_vec();
            replace(&mut manifest, &old, &new);
            *self.file_mut(name) = seal(Kind::Manifest, 1, &manifest);
        }
        *self.file_mut(path) = bytes;
    }
}

fn fresh() -> LearnerRecord {
    let shape = Shape { layer: 1, target: 2, rank: 1, scale: 2.0, fan_in: 2, fan_out: 1 };
    let zeros = vec![0.5; 3];
    LearnerRecord {
        fast: zeros.clone(),
        slow: zeros.clone(),
        first_moment: zeros.clone(),
        second_moment: zeros,
        shapes: vec![shape],
        settings: vec![("rank".to_owned(), "1".to_owned())],
        domains: vec![Domain { number: 1, name: "notes".to_owned(), key: "/srv/notes".to_owned() }],
        held_out: vec![HeldOutBlock::of(&block(3))],
        ..LearnerRecord::default()
    }
}

/// The same over a global adapter, with a rank of its own.
fn over(learner: LearnerRecord, global: Global) -> LearnerRecord {
    let numbers = vec![0.5; 6];
    LearnerRecord {
        fast: numbers.clone(),
        slow: numbers.clone(),
        first_moment: numbers.clone(),
        second_moment: numbers,
        shapes: learner.shapes.iter().map(|shape| Shape { rank: 2, ..*shape }).collect(),
        global: Some(global),
        since: Since::default(),
        ..learner
    }
}

/// Opens, reads and changes a state folder whose files are as the input says.
pub fn check(bytes: &[u8]) {
    let mut folder = SOUND.clone();
    for part in parts::<3>(bytes) {
        let Some((choice, rest)) = part.split_first() else { continue };
        let paths: Vec<&String> = SOUND.0.keys().collect();
        let path = paths[usize::from(choice % SECOND) % paths.len()].clone();
        let kind = match path.split('/').next() {
            Some("manifest.a" | "manifest.b") => Some(Kind::Manifest),
            Some("checkpoint") => Some(Kind::Checkpoint),
            Some("learner") => Some(Kind::Learner),
            _ => None,
        };
        let kind = kind.filter(|_| choice & RAW == 0);
        let version = |kind: Kind| match (choice & FIRST, choice & SECOND) {
            (0, 0) => kind.version(),
            (0, _) => kind.version().min(2),
            (_, 0) => 1,
            _ => kind.version().saturating_sub(1).max(1),
        };
        let bytes =
            kind.map_or_else(|| rest.to_vec(), |kind| seal_as(kind, version(kind), 1, rest));
        if path.contains('/') {
            folder.recommit(&path, bytes);
        } else {
            *folder.file_mut(&path) = bytes;
        }
    }
    live(&folder.memory());
}

fn live(memory: &Arc<Memory>) {
    let looked = State::look(memory.clone());
    let opened = State::open(memory.clone());
    assert_eq!(looked.is_ok(), opened.is_ok(), "looking and opening differ");
    let (Ok(looked), Ok(mut state)) = (looked, opened) else { return };
    let current = state.current().cloned();
    assert_eq!(looked.current(), current.as_ref());
    assert_eq!(State::open(memory.clone()).unwrap().current(), current.as_ref());
    if let Some(current) = &current {
        assert!(state.verify(current.number).is_ok());
        assert_eq!(state.adapter(current.number).unwrap().len(), current.files.len());
    }
    read(&mut state);
    let number = |state: &State| state.current().map_or(0, |generation| generation.number);
    let mut before = number(&state);
    let verdict = "better";
    state.set_through(state.learned().saturating_add(3));
    for act in 0..6 {
        let result = match act {
            0 => state.take_try().map(|trial| match (before, trial) {
                (_, Some(trial)) => trial.generation,
                // Its parent may have returned.
                _ => number(&state),
            }),
            1 if before.is_multiple_of(2) => state.confirm("good", Some(1.0)).map(|()| before),
            1 => state.revert("worse"),
            2 => state.reject(9, "worse", None).map(|()| before),
            3 => state.rollback(None),
            4 => state.rollback(Some(0)),
            _ => {
                let learner = &fresh();
                state.commit(Commit { files: &FILES, learner, reservoir: None, domain: 1, verdict })
            }
        };
        let expected = result.unwrap_or(before);
        assert_eq!(number(&state), expected, "act {act}");
        let found = State::open(memory.clone()).unwrap();
        assert_eq!(number(&found), expected, "act {act}, after a restart");
        before = expected;
    }
}

/// All that can be read of a state.
fn read(state: &mut State) {
    if let Ok(Some(learner)) = state.learner() {
        assert!(learner.check().is_ok());
        learner.shapes.iter().for_each(|shape| assert!(!shape.to_string().is_empty()));
        let masked = |held: &HeldOutBlock| held.block().learn.len() == held.tokens.len();
        assert!(learner.held_out.iter().all(masked));
    }
    for number in state.generations().iter().map(|generation| generation.number) {
        let _ = state.verify(number);
    }
    assert!(state.next_generation() > state.current().map_or(0, |current| current.number));
    if let Ok(Some(mut reservoir)) = state.committed_reservoir() {
        assert!(reservoir.stats().held <= reservoir.geometry().capacity);
        given_out(&mut reservoir, false);
    }
    let Some(checkpoint) = state.take_checkpoint().unwrap() else { return };
    let Ok(mut reservoir) = state.reservoir(GEOMETRY, SEED, Some(&checkpoint)) else { return };
    given_out(&mut reservoir, false);
    let next = reservoir.stats().seen.wrapping_add(1) % 1000;
    let _ = reservoir.offer(&block(next), Some(&hidden(next)), 0.5);
    given_out(&mut reservoir, false);
    let mut learner = checkpoint.learner.clone();
    learner.step = learner.step.saturating_add(1);
    state.checkpoint(learner.clone(), Some(&mut reservoir)).unwrap();
    let found = state.take_checkpoint().unwrap().map(|found| found.learner);
    // As text: a number that is none is not its own equal.
    assert_eq!(format!("{found:?}"), format!("{:?}", Some(learner)));
}

/// Every file of the sound folder by its payload, alone and two together.
pub fn seeds() -> Vec<Seed> {
    let place = |path: &str| SOUND.0.keys().position(|name| name == path).unwrap() as u8;
    let sealed = |path: &str| [&[place(path)], payload(SOUND.file(path))].concat();
    let raw = |path: &str| [&[place(path) | RAW], SOUND.file(path)].concat();
    // What earlier versions wrote, under the bits that say so: `FIRST` and `SECOND` are the version before.
    let golden = |version: &str, file: &str| {
        let path = format!("../../tests/golden/state_{version}/{file}");
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    };
    let old = |path: &str, bits: u8, version: &str, file: &str| {
        [&[place(path) | bits], payload(&golden(version, file))].concat()
    };
    let learner = SOUND.0.keys().rfind(|name| name.starts_with("learner/")).unwrap();
    let adapter = SOUND.0.keys().rfind(|name| name.starts_with("adapters/")).unwrap();
    vec![
        ("manifest_a", sealed("manifest.a")),
        ("manifest_b", sealed("manifest.b")),
        ("manifest_first", old("manifest.a", FIRST, "v1", "manifest.a")),
        ("manifest_second", old("manifest.a", SECOND, "v2", "manifest.a")),
        ("manifest_before", old("manifest.a", FIRST | SECOND, "v6", "manifest.a")),
        ("manifest_raw", raw("manifest.a")),
        ("checkpoint", sealed("checkpoint")),
        ("checkpoint_first", old("checkpoint", FIRST, "v1", "checkpoint")),
        ("checkpoint_before", old("checkpoint", FIRST | SECOND, "v6", "checkpoint")),
        ("learner_before", old(learner, FIRST | SECOND, "v6", "learner/6")),
        ("learner", sealed(learner)),
        ("adapter", raw(adapter)),
        ("both", joined(&[&raw("manifest.b")[..65], &raw("manifest.a")[..65]])),
    ]
}
