//! The head's gradient and nats on the default base, by our kernels and by candle's own ops.
//!
//! - B 8 x T 128, rank 8 on q and v of all layers: plain LoRA, and I-LoRA's step of 8 fresh and 8
//!   replayed blocks. Throughput counts tokens that get a gradient, or a score.
//! - candle's ops and autograd are the peer in the same program; PyTorch stands in BENCHMARKS.md.
//! - `cargo bench --bench step`, on all cores; `RAYON_NUM_THREADS=1` for one.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

mod common;

use common::{Size, adapter, block, chance, criterion, model, number};
use criterion::{BenchmarkId, Criterion, Throughput};
use ndarray::Array3;
use sapwood::base::Base;
use sapwood::block::Block;
use sapwood::head::{Backend, Distance, Group, Head, Keep, Objective};
use sapwood::settings::EmbeddingLayers;

/// Blocks of a group.
const BATCH: usize = 8;
/// Tokens of a block.
const TOKENS: usize = 128;

/// Blocks of noise with hidden states of noise.
struct Owned {
    blocks: Vec<Block>,
    hidden: Array3<f32>,
}

impl Owned {
    fn new(base: &Base, seed: u64) -> Self {
        let (mut chance, config) = (chance(seed), base.config());
        let blocks = (0..BATCH).map(|_| block(TOKENS, config.vocab as u32, &mut chance)).collect();
        let shape = (BATCH, TOKENS, config.hidden);
        Self { blocks, hidden: Array3::from_shape_fn(shape, |_| number(&mut chance)) }
    }
}

fn step(criterion: &mut Criterion) {
    let base = Base::open(&model()).unwrap();
    let (fast, slow) = (adapter(Size::Base, 1), adapter(Size::Base, 2));
    let (fresh, old) = (Owned::new(&base, 3), Owned::new(&base, 4));
    let blocks = [&fresh, &old].map(|owned| owned.blocks.iter().collect::<Vec<_>>());
    let fresh = Group { blocks: &blocks[0], hidden: &fresh.hidden };
    let old = Group { blocks: &blocks[1], hidden: &old.hidden };
    let objective =
        Objective { gamma: 1.0, layers: EmbeddingLayers::Last, distance: Distance::Relative };
    let mut group = criterion.benchmark_group("step");
    group.sample_size(10);
    let cpu = Backend::cpu();
    let ours = Head::load(&base, 0, &cpu, TOKENS, Keep::default()).unwrap();
    let by_candle = Head::load_reference(&base, 0, &cpu, TOKENS).unwrap();
    for (name, head) in [("ours", ours), ("candle", by_candle)] {
        group.throughput(Throughput::Elements((BATCH * TOKENS) as u64));
        group.bench_function(BenchmarkId::new("LoRA gradient", name), |bencher| {
            bencher.iter(|| head.gradient(&fast, &fresh, None, &objective).unwrap());
        });
        group.bench_function(BenchmarkId::new("nats", name), |bencher| {
            bencher.iter(|| head.nats(Some(&fast), &fresh).unwrap());
        });
        group.throughput(Throughput::Elements((2 * BATCH * TOKENS) as u64));
        group.bench_function(BenchmarkId::new("I-LoRA gradient", name), |bencher| {
            let replay = Some((&old, &slow));
            bencher.iter(|| head.gradient(&fast, &fresh, replay, &objective).unwrap());
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    step(&mut criterion);
    criterion.final_summary();
}
