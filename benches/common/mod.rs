//! What the benchmarks share: noise to learn, a folder on a real disk, and how long to measure.
#![allow(dead_code, reason = "each benchmark uses its own part")]

use criterion::Criterion;
use half::f16;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::{Config, read_config};
use sapwood::block::Block;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Few samples, because most of what is measured takes milliseconds and writes to a disk.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args()
}

/// A seeded source of noise.
pub(crate) fn chance(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// A full block of `tokens` random ids below `vocab`, all but the first to be learned.
pub(crate) fn block(tokens: usize, vocab: u32, chance: &mut ChaCha8Rng) -> Block {
    let ids = (0..tokens).map(|_| chance.next_u32() % vocab).collect();
    let learn = (0..tokens).map(|t| t > 0).collect();
    Block { tokens: ids, learn, bytes: tokens as u32, domain: 0 }
}

/// `count` random numbers in -1 to 1, as the reservoir keeps hidden states.
pub(crate) fn halves(count: usize, chance: &mut ChaCha8Rng) -> Vec<f16> {
    (0..count).map(|_| f16::from_f32(number(chance))).collect()
}

/// A random number in -1 to 1.
pub(crate) fn number(chance: &mut ChaCha8Rng) -> f32 {
    chance.next_u32() as f32 / u32::MAX as f32 * 2.0 - 1.0
}

/// A folder beside the build's own files: a temporary one could lie in memory.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Which adapter is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    /// The default base, rank 8 on q and v of all layers.
    Base,
    /// SmolLM2-135M's shape, rank 8 on all seven linear layers of all layers.
    Smol,
}

/// Both adapters.
pub(crate) const SIZES: [Size; 2] = [Size::Base, Size::Smol];

/// The default base's folder.
pub(crate) fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/base")
}

/// An adapter of that size full of noise.
pub(crate) fn adapter(size: Size, seed: u64) -> Adapter {
    let base = read_config(&model()).unwrap();
    let (config, targets) = match size {
        Size::Base => (base, &[Target::Q, Target::V][..]),
        Size::Smol => {
            let (hidden, ffn, layers) = (576, 1536, 30);
            let (heads, kv_heads, head_dim) = (9, 3, 64);
            let config = Config { hidden, ffn, layers, heads, kv_heads, head_dim, ..base };
            (config, &Target::ALL[..])
        }
    };
    let strength = Strength { rank: 8, alpha: 16.0 };
    let spec = Spec::uniform(&config, 0..config.layers, targets, strength);
    let mut chance = chance(seed);
    let values = (0..spec.len()).map(|_| number(&mut chance)).collect();
    Adapter { spec, values }
}
