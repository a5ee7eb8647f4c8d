//! What a device does beside the step, over a disk in memory, and a server with what devices lend.

use crate::aggregate::{AggregateError, Clip, Facts, Plan, Source, merge, norm, robust, shares};
use crate::{Path, Work, chance, noise};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;
use sapwood::adapter::peft::{self, Meta, Role};
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::block::Block;
use sapwood::intake;
use sapwood::merge::ema;
use sapwood::ports::Memory;
use sapwood::reservoir::{Geometry, Reservoir};
use sapwood::state::{Commit, LearnerRecord, State, shapes};
use std::hint::black_box;
use std::sync::Arc;

pub(crate) const PATHS: &[Path] = &[
    ("intake-lines", lines),
    ("reservoir-offer", offer),
    ("reservoir-draw", draw),
    ("average", average),
    ("adapter-write", write),
    ("adapter-read", read),
    ("state-commit", commit),
    ("state-open", open),
    ("fleet-merge-exact", || merged(FEW)),
    ("fleet-merge-sketched", || merged(MANY)),
    ("fleet-robust", weighed),
];

/// Hidden width D.
const HIDDEN: usize = 192;
/// LoRA rank r of a device.
const RANK: usize = 4;
/// And of what a fleet merges.
const GLOBAL_RANK: usize = 8;
/// Blocks that are offered or drawn at once.
const BLOCKS: usize = 16;
/// Adapters written or read at once: the seed of a hash table, drawn anew each time, moves the count of one
/// by up to 2 %, of so many by 0.6 %.
const ADAPTERS: usize = 12;
/// Tokens only, T 256.
const GEOMETRY: Geometry =
    Geometry { capacity: 64, tokens_max: 256, vocab: 4096, hidden: None, room: 64 };
/// So few updates that all of their factors are stacked.
const FEW: usize = 6;
/// So many that they are not.
const MANY: usize = 20;

/// q and v of four layers.
fn spec(rank: usize) -> Spec {
    let strength = Strength { rank, alpha: rank as f32 };
    Spec::placed(0..4, |_, target| {
        [Target::Q, Target::V].contains(&target).then_some((strength, (HIDDEN, HIDDEN)))
    })
}

fn adapter(rank: usize, chance: &mut ChaCha8Rng) -> Adapter {
    let spec = spec(rank);
    let values = noise(chance, spec.len());
    Adapter { spec, values }
}

fn block(chance: &mut ChaCha8Rng) -> Block {
    let tokens = (0..GEOMETRY.tokens_max).map(|_| chance.next_u32() % GEOMETRY.vocab).collect();
    let learn = (0..GEOMETRY.tokens_max).map(|token| token > 0).collect();
    Block { tokens, learn, bytes: 1000, domain: 0 }
}

fn lines() -> Work {
    let line =
        |at| format!("{{\"prompt\": \"word {at} of\", \"completion\": \"a line \\u00e9\"}}\n");
    let text: String = (0..200).map(line).collect();
    Box::new(move || {
        black_box(intake::samples(&text, "lines").unwrap());
    })
}

fn reservoir() -> (Reservoir, Block) {
    let reservoir = Reservoir::create(Arc::new(Memory::default()), GEOMETRY, [0; 32]).unwrap();
    (reservoir, block(&mut chance()))
}

/// While it is not full, so that each is accepted.
fn offer() -> Work {
    let (mut reservoir, block) = reservoir();
    Box::new(move || {
        for _ in 0..BLOCKS {
            assert!(reservoir.offer(&block, None, 1.0).unwrap());
        }
    })
}

fn draw() -> Work {
    let (mut reservoir, block) = reservoir();
    (0..GEOMETRY.capacity).for_each(|_| assert!(reservoir.offer(&block, None, 1.0).unwrap()));
    Box::new(move || {
        black_box(reservoir.draw(BLOCKS).unwrap());
    })
}

fn average() -> Work {
    let mut chance = chance();
    let [mut slow, fast] = [0, 1].map(|_| adapter(RANK, &mut chance));
    Box::new(move || ema(&mut slow, &fast, 0.99).unwrap())
}

const META: Meta = Meta {
    base_hash: [7; 32],
    generation: 1,
    steps: 1,
    role: Role::Slow,
    retain: 0.99,
    global: None,
};

fn files() -> Vec<(&'static str, Vec<u8>)> {
    peft::write(&adapter(RANK, &mut chance()), &META, "base").unwrap()
}

fn write() -> Work {
    let adapter = adapter(RANK, &mut chance());
    Box::new(move || {
        for _ in 0..ADAPTERS {
            black_box(peft::write(&adapter, &META, "base").unwrap());
        }
    })
}

fn read() -> Work {
    let files = files();
    Box::new(move || {
        let [(_, config), (_, tensors), (_, meta)] = &files[..] else { unreachable!() };
        for _ in 0..ADAPTERS {
            let files = peft::Files { config, tensors, meta: Some(meta) };
            black_box(peft::read_alone(files, Some(META.base_hash)).unwrap());
        }
    })
}

/// A state whose reservoir is full, and what a job hands over to it.
struct Device {
    storage: Arc<Memory>,
    state: State,
    reservoir: Reservoir,
    learner: LearnerRecord,
    files: Vec<(&'static str, Vec<u8>)>,
}

impl Device {
    fn new() -> Self {
        let (mut chance, storage) = (chance(), Arc::new(Memory::default()));
        let mut state = State::open(storage.clone()).unwrap();
        let mut reservoir = state.reservoir(GEOMETRY, [0; 32], None).unwrap();
        let block = block(&mut chance);
        for _ in 0..GEOMETRY.capacity {
            reservoir.offer(&block, None, 1.0).unwrap();
        }
        let mut numbers = || noise(&mut chance, spec(RANK).len());
        let learner = LearnerRecord {
            shapes: shapes(&spec(RANK)),
            fast: numbers(),
            slow: numbers(),
            first_moment: numbers(),
            second_moment: numbers(),
            ..LearnerRecord::default()
        };
        Self { storage, state, reservoir, learner, files: files() }
    }

    fn commit(&mut self) {
        let files: Vec<(&str, &[u8])> =
            self.files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let (learner, reservoir) = (&self.learner, Some(&mut self.reservoir));
        let commit = Commit { files: &files, learner, reservoir, domain: 1, verdict: "kept" };
        self.state.commit(commit).unwrap();
    }
}

fn commit() -> Work {
    let mut device = Device::new();
    Box::new(move || device.commit())
}

/// A start: the folder is recovered, the learner read.
fn open() -> Work {
    let mut device = Device::new();
    device.commit();
    Box::new(move || {
        let state = State::open(device.storage.clone()).unwrap();
        black_box(state.learner().unwrap());
    })
}

/// What devices lent.
struct Updates(Vec<Adapter>);

impl Source for Updates {
    type Error = AggregateError;

    fn read(&mut self, at: usize) -> Result<&Adapter, AggregateError> {
        Ok(&self.0[at])
    }
}

fn updates(count: usize) -> (Updates, Vec<Facts>) {
    let mut chance = chance();
    let updates: Vec<Adapter> = (0..count).map(|_| adapter(RANK, &mut chance)).collect();
    let fact = |(at, update)| {
        let norm = norm(update).unwrap();
        Facts { at, hash: [at as u8; 32], norm, rank: RANK, weight: 1.0 }
    };
    let facts = updates.iter().enumerate().map(fact).collect();
    (Updates(updates), facts)
}

fn merged(count: usize) -> Work {
    let (mut updates, facts) = updates(count);
    let from = adapter(GLOBAL_RANK, &mut chance());
    let shares = shares(&facts, Clip::Median, 1.0).unwrap();
    Box::new(move || {
        let plan = Plan { spec: &from.spec, from: Some(&from), shares: &shares, seed: [0; 32] };
        assert_eq!(plan.exact(), count == FEW);
        black_box(merge(&mut updates, &plan).unwrap());
    })
}

fn weighed() -> Work {
    let (mut updates, facts) = updates(MANY);
    let spec = spec(GLOBAL_RANK);
    Box::new(move || {
        black_box(robust(&mut updates, &spec, &facts, [0; 32]).unwrap());
    })
}
