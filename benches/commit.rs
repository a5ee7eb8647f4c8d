//! The commit and the checkpoint, on a real disk and in memory, beside what their bytes cost.
//!
//! - A commit publishes three adapter files, the learner's record and a manifest, each synced under
//!   a new name, after the reservoir's file: that is what a power cut cannot tear. A checkpoint is
//!   the same learner in one file.
//! - The floor on a disk: one file of a commit's bytes written, synced, renamed, and its folder
//!   synced. In memory: the bytes hashed and copied once.
//! - `cargo bench --bench commit`. Sizes are numbers of the adapter, as in `merge`.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

mod common;

use common::{Size, adapter, block, chance, criterion, folder};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use sapwood::adapter::peft::{self, Meta, Role};
use sapwood::block::Block;
use sapwood::ports::{Disk, Memory, Storage};
use sapwood::reservoir::{Geometry, Reservoir};
use sapwood::state::{Commit, LearnerRecord, State, shapes};
use std::cell::RefCell;
use std::fs::{self, File};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

/// Blocks that a job has staged when it commits.
const STAGED: usize = 16;
/// Blocks of the reservoir; tokens only, T 256.
const GEOMETRY: Geometry =
    Geometry { capacity: 500, tokens_max: 256, vocab: 4096, hidden: None, room: 128 };

/// Numbers of four vectors, as a job hands them over.
fn learner(size: Size) -> LearnerRecord {
    let fast = adapter(size, 1);
    LearnerRecord {
        shapes: shapes(&fast.spec),
        slow: adapter(size, 2).values,
        first_moment: adapter(size, 3).values,
        second_moment: adapter(size, 4).values,
        fast: fast.values,
        ..LearnerRecord::default()
    }
}

fn files(size: Size) -> Vec<(&'static str, Vec<u8>)> {
    let meta = Meta {
        base_hash: [7; 32],
        generation: 1,
        steps: 1,
        role: Role::Slow,
        retain: 0.99,
        global: None,
    };
    peft::write(&adapter(size, 2), &meta, "base").unwrap()
}

/// A state folder and its reservoir, full.
struct Device {
    state: State,
    reservoir: Reservoir,
    block: Block,
}

impl Device {
    fn new(storage: Arc<dyn Storage>) -> Self {
        let mut state = State::open(storage).unwrap();
        let reservoir = state.reservoir(GEOMETRY, [0; 32], None).unwrap();
        let block = block(256, GEOMETRY.vocab, &mut chance(5));
        let mut device = Self { state, reservoir, block };
        device.stage(GEOMETRY.capacity as usize);
        device
    }

    fn stage(&mut self, blocks: usize) {
        for _ in 0..blocks {
            self.reservoir.offer(&self.block, None, 1.0).unwrap();
        }
    }

    fn commit(&mut self, files: &[(&str, &[u8])], learner: &LearnerRecord) {
        let reservoir = Some(&mut self.reservoir);
        self.state
            .commit(Commit { files, learner, reservoir, domain: 1, verdict: "kept" })
            .unwrap();
    }

    fn checkpoint(&mut self, learner: LearnerRecord) {
        self.state.checkpoint(learner, Some(&mut self.reservoir)).unwrap();
    }
}

/// Bytes of the newest generation and its manifest.
fn bytes(storage: &dyn Storage) -> u64 {
    let newest = |folder: &str| {
        let numbers = storage.list(folder).unwrap();
        numbers.iter().filter_map(|name| name.parse::<u64>().ok()).max().unwrap()
    };
    let adapter = format!("adapters/{}", newest("adapters"));
    let files = storage.list(&adapter).unwrap();
    let mut paths: Vec<String> = files.iter().map(|name| format!("{adapter}/{name}")).collect();
    paths.push(format!("learner/{}", newest("learner")));
    paths.push("manifest.a".to_owned());
    paths.iter().map(|path| storage.len(path).unwrap().unwrap()).sum()
}

fn floor_on_disk(folder: &Path, bytes: &[u8]) {
    let (new, path) = (folder.join("floor.new"), folder.join("floor"));
    fs::write(&new, bytes).unwrap();
    File::open(&new).unwrap().sync_all().unwrap();
    fs::rename(&new, &path).unwrap();
    File::open(folder).unwrap().sync_all().unwrap();
}

fn floor_in_memory(bytes: &[u8]) {
    black_box(blake3::hash(bytes));
    black_box(bytes.to_vec());
}

fn measure(
    criterion: &mut Criterion,
    place: &str,
    size: Size,
    storage: &Arc<dyn Storage>,
    floor: impl Fn(&[u8]),
) {
    let (learner, files) = (learner(size), files(size));
    let files: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let device = RefCell::new(Device::new(storage.clone()));
    device.borrow_mut().commit(&files, &learner);
    let (bytes, numbers) = (bytes(&**storage), learner.fast.len());
    let mut group = criterion.benchmark_group(place);
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function(BenchmarkId::new("commit", numbers), |bencher| {
        bencher.iter_batched(
            || device.borrow_mut().stage(STAGED),
            |()| device.borrow_mut().commit(&files, &learner),
            BatchSize::PerIteration,
        );
    });
    group.bench_function(BenchmarkId::new("checkpoint", numbers), |bencher| {
        let staged = || {
            device.borrow_mut().stage(STAGED);
            learner.clone()
        };
        let work = |learner| device.borrow_mut().checkpoint(learner);
        bencher.iter_batched(staged, work, BatchSize::PerIteration);
    });
    let noise = vec![0x5a; bytes as usize];
    group.bench_function(BenchmarkId::new("floor", numbers), |bencher| {
        bencher.iter(|| floor(black_box(&noise)));
    });
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    for size in common::SIZES {
        let folder = folder();
        let disk: Arc<dyn Storage> = Arc::new(Disk::exclusive(folder.path()).unwrap());
        let floor = |bytes: &[u8]| floor_on_disk(folder.path(), bytes);
        measure(&mut criterion, "commit on a disk", size, &disk, floor);
        let memory: Arc<dyn Storage> = Arc::new(Memory::default());
        measure(&mut criterion, "commit in memory", size, &memory, floor_in_memory);
    }
    criterion.final_summary();
}
