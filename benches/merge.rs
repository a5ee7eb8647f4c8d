//! The merge: one step of the slow learner's average, beside a plain loop and candle's tensors.
//!
//! `cargo bench --bench merge`. Sizes are numbers of an adapter: the default base's with rank 8 on
//! q and v, and SmolLM2-135M's with rank 8 on all seven linear layers.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]

mod common;

use candle_core::{Device, Tensor};
use common::{adapter, criterion};
use criterion::{BenchmarkId, Criterion, Throughput};
use sapwood::merge::ema;
use std::hint::black_box;

/// Kept of slow at every step.
const RETAIN: f32 = 0.99;
/// Bytes that move for each number: slow and fast are read, slow is written.
const MOVED: usize = 12;

fn merge(criterion: &mut Criterion) {
    for size in common::SIZES {
        let (mut slow, fast) = (adapter(size, 1), adapter(size, 2));
        let numbers = fast.values.len();
        let mut group = criterion.benchmark_group("merge");
        group.throughput(Throughput::Bytes((numbers * MOVED) as u64));
        group.bench_function(BenchmarkId::new("ema", numbers), |bencher| {
            bencher.iter(|| ema(&mut slow, black_box(&fast), black_box(RETAIN)).unwrap());
        });
        let mut plain = slow.values.clone();
        group.bench_function(BenchmarkId::new("loop", numbers), |bencher| {
            bencher.iter(|| {
                let retain = black_box(RETAIN);
                for (slow, fast) in black_box(&mut plain).iter_mut().zip(&fast.values) {
                    *slow = retain * *slow + (1.0 - retain) * fast;
                }
            });
        });
        let tensor = |numbers: &[f32]| Tensor::from_slice(numbers, numbers.len(), &Device::Cpu);
        let (mut slow, fast) = (tensor(&slow.values).unwrap(), tensor(&fast.values).unwrap());
        let (keep, take) = (f64::from(RETAIN), 1.0 - f64::from(RETAIN));
        group.bench_function(BenchmarkId::new("candle", numbers), |bencher| {
            bencher.iter(|| slow = ((&slow * keep).unwrap() + (&fast * take).unwrap()).unwrap());
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = criterion();
    merge(&mut criterion);
    criterion.final_summary();
}
