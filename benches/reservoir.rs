//! The reservoir on a disk: offers, draws, opening and verifying, each beside what its bytes cost.
//!
//! - Beside an offer, the floor: the same bytes hashed and written to an open file. Beside a draw
//!   and a verification: the same places read from an open file and hashed. Nothing is synced in an
//!   offer; files are in the page cache, so a disk's own speed is not what is measured.
//! - `cargo bench --bench reservoir`; with `SAPWOOD_BENCH_MIB=1024` a gibibyte of held blocks is
//!   opened and verified instead of 64 MiB.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

mod common;

use common::{block, chance, criterion, folder, halves};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use rand_core::Rng;
use sapwood::block::Block;
use sapwood::ports::Disk;
use sapwood::reservoir::{Geometry, Hidden, Reservoir};
use sapwood::state::{Commit, LearnerRecord, State};
use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

/// Blocks of the tests but the last.
const BLOCKS: u32 = 256;
/// Blocks drawn for one step.
const DRAWN: usize = 8;
/// Bytes of the file before its first place.
const HEAD_BYTES: u64 = 4096;
/// Held blocks that are verified when nobody says otherwise, in MiB.
const MIB: u64 = 64;

/// Sizes of the default base, T 256.
fn geometry(capacity: u32, hidden: bool) -> Geometry {
    let (tokens_max, vocab, room) = (256, 4096, 128);
    let hidden = hidden.then_some(192);
    Geometry { capacity, tokens_max, vocab, hidden, room }
}

/// What a place holds, and the same by name.
const KINDS: [(&str, bool); 2] = [("tokens", false), ("tokens and hidden states", true)];

/// A block that fills its place.
fn content(geometry: &Geometry, seed: u64) -> (Block, Option<Hidden>) {
    let (mut chance, tokens) = (chance(seed), geometry.tokens_max as usize);
    let block = block(tokens, geometry.vocab, &mut chance);
    let width = geometry.hidden.map(|width| width as usize);
    let hidden = |width| Hidden { states: halves(tokens * width, &mut chance), origin: 1 };
    (block, width.map(hidden))
}

/// Offers as many blocks as the reservoir holds, so that each is accepted.
fn fill(reservoir: &mut Reservoir, block: &Block, hidden: Option<&Hidden>) {
    for _ in 0..reservoir.geometry().capacity {
        assert!(reservoir.offer(block, hidden, 1.0).unwrap());
    }
}

/// An open file with a buffer for one place: the least that reading and writing places takes.
struct Floor {
    file: File,
    place: Vec<u8>,
}

impl Floor {
    fn open(folder: &Path, geometry: &Geometry) -> Self {
        let path = folder.join("reservoir");
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        Self { file, place: vec![0; geometry.slot_bytes() as usize] }
    }

    fn seek(&mut self, place: u64) {
        let at = HEAD_BYTES + place * self.place.len() as u64;
        self.file.seek(SeekFrom::Start(at)).unwrap();
    }

    fn read(&mut self, place: u64) {
        self.seek(place);
        self.file.read_exact(&mut self.place).unwrap();
        black_box(blake3::hash(&self.place));
    }

    fn write(&mut self, place: u64) {
        black_box(blake3::hash(&self.place));
        self.seek(place);
        self.file.write_all(&self.place).unwrap();
    }
}

fn offer(criterion: &mut Criterion) {
    for (kind, hidden) in KINDS {
        let (folder, geometry) = (folder(), geometry(BLOCKS, hidden));
        let disk = Arc::new(Disk::exclusive(folder.path()).unwrap());
        Reservoir::create(disk.clone(), geometry, [0; 32]).unwrap();
        let (block, hidden) = content(&geometry, 1);
        let mut group = criterion.benchmark_group(format!("offer, {kind}"));
        group.throughput(Throughput::Bytes(u64::from(BLOCKS) * geometry.slot_bytes()));
        group.bench_function(BenchmarkId::new("reservoir", BLOCKS), |bencher| {
            // Without a ledger the file is empty again.
            let empty = || Reservoir::open(disk.clone(), None, None).unwrap();
            let work = |reservoir: &mut _| fill(reservoir, &block, hidden.as_ref());
            bencher.iter_batched_ref(empty, work, BatchSize::PerIteration);
        });
        let mut floor = Floor::open(folder.path(), &geometry);
        group.bench_function(BenchmarkId::new("floor", BLOCKS), |bencher| {
            bencher.iter(|| (0..u64::from(BLOCKS)).for_each(|place| floor.write(place)));
        });
        group.finish();
    }
}

/// An old device declines nearly every offer.
fn declined(criterion: &mut Criterion) {
    let (folder, geometry) = (folder(), geometry(16, false));
    let disk = Arc::new(Disk::exclusive(folder.path()).unwrap());
    let mut reservoir = Reservoir::create(disk, geometry, [0; 32]).unwrap();
    let (block, hidden) = content(&geometry, 1);
    let mut offer = || {
        if reservoir.room() == 0 {
            reservoir.settle().unwrap();
        }
        reservoir.offer(&block, hidden.as_ref(), 1.0).unwrap()
    };
    for _ in 0..1_000_000 {
        offer();
    }
    let mut group = criterion.benchmark_group("offer after a million");
    group.throughput(Throughput::Elements(1));
    group.bench_function("reservoir", |bencher| bencher.iter(&mut offer));
    group.finish();
}

fn draw(criterion: &mut Criterion) {
    for (kind, hidden) in KINDS {
        let (folder, geometry) = (folder(), geometry(BLOCKS, hidden));
        let disk = Arc::new(Disk::exclusive(folder.path()).unwrap());
        let mut reservoir = Reservoir::create(disk, geometry, [0; 32]).unwrap();
        let (block, hidden) = content(&geometry, 1);
        fill(&mut reservoir, &block, hidden.as_ref());
        let mut group = criterion.benchmark_group(format!("draw, {kind}"));
        group.throughput(Throughput::Bytes(DRAWN as u64 * geometry.slot_bytes()));
        group.bench_function(BenchmarkId::new("reservoir", DRAWN), |bencher| {
            bencher.iter(|| reservoir.draw(DRAWN).unwrap());
        });
        let (mut floor, mut chance) = (Floor::open(folder.path(), &geometry), chance(2));
        group.bench_function(BenchmarkId::new("floor", DRAWN), |bencher| {
            let mut any = || u64::from(chance.next_u32() % BLOCKS);
            bencher.iter(|| (0..DRAWN).for_each(|_| floor.read(any())));
        });
        group.finish();
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark is a program: this is its door")]
fn mib() -> u64 {
    std::env::var("SAPWOOD_BENCH_MIB").map_or(MIB, |mib| mib.parse().unwrap())
}

fn verify(criterion: &mut Criterion) {
    let bytes = mib() << 20;
    let geometry = geometry(1, true);
    let geometry = Geometry { capacity: (bytes / geometry.slot_bytes()).max(1) as u32, ..geometry };
    let folder = folder();
    let disk = Arc::new(Disk::exclusive(folder.path()).unwrap());
    let mut state = State::open(disk.clone()).unwrap();
    let mut reservoir = state.reservoir(geometry, [0; 32], None).unwrap();
    let (block, hidden) = content(&geometry, 1);
    fill(&mut reservoir, &block, hidden.as_ref());
    let learner = LearnerRecord::default();
    let reservoir = Some(&mut reservoir);
    state
        .commit(Commit { files: &[], learner: &learner, reservoir, domain: 1, verdict: "" })
        .unwrap();
    let mut group = criterion.benchmark_group("open and verify");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(u64::from(geometry.capacity) * geometry.slot_bytes()));
    group.bench_function(BenchmarkId::new("reservoir, MiB", bytes >> 20), |bencher| {
        bencher.iter(|| {
            let state = State::look(disk.clone()).unwrap();
            let sound = state.committed_reservoir().unwrap().unwrap().verify().unwrap();
            assert_eq!(sound, geometry.capacity);
        });
    });
    let mut floor = Floor::open(folder.path(), &geometry);
    group.bench_function(BenchmarkId::new("floor, MiB", bytes >> 20), |bencher| {
        bencher.iter(|| (0..u64::from(geometry.capacity)).for_each(|place| floor.read(place)));
    });
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    offer(&mut criterion);
    declined(&mut criterion);
    draw(&mut criterion);
    verify(&mut criterion);
    criterion.final_summary();
}
