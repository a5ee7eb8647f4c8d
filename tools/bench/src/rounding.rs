//! What the ways of keeping weights and activations cost in exactness, on real text.
//!
//! - In: a model folder and a text. Out: a Markdown table: how far loss and gradient of every way are
//!   from those of weights and activations in f32, before the first step and after forty, and how
//!   long they take beside them.
//! - The forty steps are taken exactly, so that every way is judged at the same place.
//! - A step: I-LoRA, 4 + 4 blocks of 128 tokens, rank 8 on all linear layers of the top four.

use anyhow::{Context, Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use sapwood::adapter::{Adapter, Spec, Strength, Target};
use sapwood::base::Base;
use sapwood::block::Block;
use sapwood::head::{Backend, Group, Head, Keep};
use sapwood::learner::Feed;
use sapwood::settings::{Activations, HeadWeights, MatmulPrecision};
use sapwood::tokenise::Tokeniser;
use sapwood::train::{self, Batch, Learners};
use sapwood::trunk::Trunk;
use std::fmt::Write;
use std::path::Path;

use crate::measure::timed;
use crate::ours::RULES;

/// Fresh blocks of a step, and replayed ones.
const BLOCKS: usize = 4;
/// Tokens of a block.
const TOKENS: usize = 128;
/// Layers that learn.
const LAYERS: usize = 4;
/// Steps until the second look.
const STEPS: usize = 40;
/// As in `tools/bench/stream.sh`.
const LEARNING_RATE: f32 = 5e-3;
/// Gradients of every way that are timed; the fastest counts.
const TIMED: usize = 5;

/// What every way is compared with.
const EXACT: Keep = Keep {
    weights: HeadWeights::F32,
    precision: MatmulPrecision::Highest,
    activations: Activations::F32,
};
const DEFAULT: Keep = Keep { weights: HeadWeights::Auto, ..EXACT };
const BF16: Keep = Keep { weights: HeadWeights::Bf16, ..EXACT };

/// Every way beside f32 for both, with its name.
const WAYS: [(&str, Keep); 7] = [
    ("weights as narrow as loses nothing (default)", DEFAULT),
    ("activations computed again", Keep { activations: Activations::Recompute, ..EXACT }),
    ("activations in bf16", Keep { activations: Activations::Bf16, ..EXACT }),
    ("weights as narrow, medium precision", Keep { precision: MatmulPrecision::Medium, ..DEFAULT }),
    ("weights in bf16", BF16),
    ("weights in bf16, medium precision", Keep { precision: MatmulPrecision::Medium, ..BF16 }),
    ("weights in int8", Keep { weights: HeadWeights::Int8, ..EXACT }),
];

/// The table for a model and a text.
///
/// # Errors
/// What the library says of the files, or a text too short for a step.
pub(crate) fn table(model: &Path, data: &Path) -> Result<String> {
    let base = Base::open(model)?;
    let config = base.config().clone();
    let text = sapwood::intake::open(data)?;
    let tokeniser = Tokeniser::open(model, config.vocab)?;
    let blocks: Vec<Block> = tokeniser.blocks(&text.train, TOKENS, false, 0)?.blocks;
    ensure!(blocks.len() >= 2 * BLOCKS, "{} blocks, expected at least 8", blocks.len());
    let tap = config.layers.checked_sub(LAYERS).context("the model has fewer than four layers")?;
    let trunk = Trunk::load(&base, tap, 1)?;
    let mut feed = Feed::new(&trunk, &blocks, usize::MAX);
    let head = |keep| Head::load(&base, tap, &Backend::cpu(), TOKENS, keep);
    let exact = head(EXACT)?;
    let heads: Result<Vec<Head>, _> = WAYS.iter().map(|way| head(way.1)).collect();
    let heads = heads?;

    let strength = Strength { rank: 8, alpha: 16.0 };
    let spec = Spec::uniform(&config, tap..config.layers, &Target::ALL, strength);
    let mut learners = Learners::new(Adapter::fresh(spec, &mut ChaCha8Rng::seed_from_u64(0)));
    let (mut looks, mut times) = (Vec::new(), Vec::new());
    for step in 0..=STEPS {
        let place = |row: usize| (step * BLOCKS + row) % blocks.len();
        let (new, hidden) = feed.batch(&(0..BLOCKS).map(place).collect::<Vec<_>>())?;
        let old: Vec<usize> = (0..BLOCKS).map(|row| (step * 7 + row * 3) % blocks.len()).collect();
        let (old, stored) = feed.batch(&old)?;
        let batch = Batch {
            fresh: Group { blocks: &new, hidden: &hidden },
            replay: Some(Group { blocks: &old, hidden: &stored }),
            anchor: None,
        };
        if step == 0 || step == STEPS {
            let expected = gradient(&exact, &learners, &batch)?;
            let found: Result<Vec<_>> = heads
                .iter()
                .map(|head| Ok(off(&gradient(head, &learners, &batch)?, &expected)))
                .collect();
            looks.push(found?);
        }
        if step == 0 {
            let all: Vec<&Head> = std::iter::once(&exact).chain(&heads).collect();
            times = fastest_ms(&all, &learners, &batch)?;
        }
        train::step(&exact, &mut learners, &[batch], &RULES, LEARNING_RATE)?;
    }
    rows(&looks, &times)
}

type Gradient = (f32, Vec<f32>);

fn gradient(head: &Head, learners: &Learners, batch: &Batch<'_>) -> Result<Gradient> {
    let replay = batch.replay.as_ref().map(|group| (group, &learners.slow));
    let found = head.gradient(&learners.fast, &batch.fresh, replay, &RULES.objective)?;
    Ok((found.losses.total, found.values))
}

/// The fastest gradient of every head; they take turns, so that a busy minute meets all.
fn fastest_ms(heads: &[&Head], learners: &Learners, batch: &Batch<'_>) -> Result<Vec<f64>> {
    let mut fastest = vec![f64::MAX; heads.len()];
    for _ in 0..TIMED {
        for (head, fastest) in heads.iter().zip(&mut fastest) {
            let (found, ms) = timed(|| gradient(head, learners, batch));
            found?;
            *fastest = fastest.min(ms);
        }
    }
    Ok(fastest)
}

/// How far a loss and a gradient are from the exact ones: relative, and the gradients' cosine.
fn off((loss, slopes): &Gradient, (exact_loss, exact): &Gradient) -> [f64; 3] {
    let sum = |terms: &mut dyn Iterator<Item = f64>| terms.sum::<f64>();
    let pairs = || slopes.iter().zip(exact).map(|(&a, &b)| (f64::from(a), f64::from(b)));
    let apart = sum(&mut pairs().map(|(a, b)| (a - b).powi(2)));
    let (own, size) =
        (sum(&mut pairs().map(|(a, _)| a * a)), sum(&mut pairs().map(|(_, b)| b * b)));
    let along = sum(&mut pairs().map(|(a, b)| a * b));
    let loss = f64::from((loss - exact_loss).abs() / exact_loss.abs());
    [loss, (apart / size).sqrt(), along / (own * size).sqrt()]
}

/// `times`: of the exact way, then of the others.
fn rows(looks: &[Vec<[f64; 3]>], times: &[f64]) -> Result<String> {
    let mut text = String::from(
        "| kept | loss off by | gradient off by | cosine | after 40 steps: loss | gradient | cosine | time |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for (index, (name, ..)) in WAYS.iter().enumerate() {
        write!(text, "| {name} |")?;
        for [loss, gradient, cosine] in looks.iter().map(|look| look[index]) {
            write!(text, " {loss:.0e} | {gradient:.0e} | {cosine:.5} |")?;
        }
        writeln!(text, " {:.2} |", times[index + 1] / times[0])?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::off;

    #[test]
    fn a_gradient_is_off_by_its_distance_over_the_length_of_the_exact_one() {
        let [loss, gradient, cosine] = off(&(2.2, vec![3.0, 0.0]), &(2.0, vec![3.0, 4.0]));
        assert!((loss - 0.1).abs() < 1e-6 && (gradient - 0.8).abs() < 1e-12, "{loss} {gradient}");
        assert!((cosine - 0.6).abs() < 1e-12, "{cosine}");
    }
}
