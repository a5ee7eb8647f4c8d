//! The step: fast follows the batch, slow follows fast.
//!
//! - In: batches of blocks with their hidden states. Out: the losses; fast and slow move.
//! - State of a device's life: fast, slow, AdamW's moments and k; a job borrows it and gives it back.
//! - Never here: the reservoir, files, clocks.
//! - Invariant: a batch with a loss or gradient that is not finite changes nothing.
//!
//! Source: I-LoRA, arXiv 2402.18865, algorithm 1. Anchor and whitening are not in it. Fast that begins
//! again at slow: Reptile, arXiv 1803.02999, with replay MER, arXiv 1810.11910.

mod optimiser;
mod refit;
mod whitening;

pub use optimiser::{AdamW, Moments, clip};
pub use refit::{refit, refit_while};
pub use whitening::Whitening;

use crate::adapter::{Adapter, Spec};
use crate::head::{Group, Head, HeadError, Losses, Objective};
use crate::merge::{self, MergeError};

/// What can go wrong in a step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The head failed.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Fast and slow do not fit each other.
    #[error(transparent)]
    Merge(#[from] MergeError),
    /// The loss or the gradient is not a number.
    #[error(
        "step {k}: loss {loss} and gradient norm {norm} must be finite; the step was not taken \
         (a lower --learning-rate may help)"
    )]
    NotFinite {
        /// Steps taken before plus one.
        k: u64,
        /// The loss.
        loss: f32,
        /// The norm of the gradient before clipping.
        norm: f32,
    },
}

/// The two learners of a device and what AdamW remembers.
#[derive(Clone, Debug, PartialEq)]
pub struct Learners {
    /// Follows the new data.
    pub fast: Adapter,
    /// The exponential average of fast; what users run.
    pub slow: Adapter,
    /// AdamW's moments of fast.
    pub moments: Moments,
    /// Optimiser steps of the device's life.
    pub k: u64,
}

impl Learners {
    /// Both learners start from the same adapter.
    pub fn new(adapter: Adapter) -> Self {
        let moments = Moments::zeros(adapter.values.len());
        Self { slow: adapter.clone(), fast: adapter, moments, k: 0 }
    }

    /// Lets learners that nothing was learned with begin in whitened inputs, but for the first `still` ranks
    /// of every module, which are another's.
    pub fn whiten(&mut self, whitening: &Whitening, still: usize) {
        for Adapter { spec, values } in [&mut self.fast, &mut self.slow] {
            let mut whitened = values.clone();
            whitening.apply(&mut whitened);
            for moving in spec.moving(still) {
                values[moving.clone()].copy_from_slice(&whitened[moving]);
            }
        }
    }
}

/// What slow does after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// It keeps `retain`, less in the first steps of a device's life.
    Always,
    /// It keeps `retain` from the first step on, as in the authors' code.
    AtOnce,
    /// Nothing: fast goes its own way for now.
    Not,
    /// It keeps `retain`, and fast begins again where it is then.
    Back,
}

/// What a step goes by.
#[derive(Clone, Copy)]
pub struct Rules<'w> {
    /// The loss besides cross-entropy.
    pub objective: Objective,
    /// The optimiser.
    pub adamw: AdamW,
    /// Weight of the divergence from the base on the anchor's blocks, in parts of the cross-entropy.
    pub anchor_weight: f32,
    /// What the base's own text looks like to the layers that A reads for; none, and A moves as it is.
    pub whitening: Option<&'w Whitening>,
    /// Bound on the gradient's norm.
    pub max_grad_norm: f32,
    /// Kept of slow at every step, `[0, 1)`; 0 makes slow a copy of fast.
    pub retain: f32,
    /// How slow follows fast.
    pub follow: Follow,
    /// The first ranks of every module that do not move: another's part beside the learners' own.
    pub still: usize,
}

/// One micro-batch: fresh blocks and, once there is something to replay, old ones.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// New blocks.
    pub fresh: Group<'a>,
    /// Blocks drawn from the reservoir.
    pub replay: Option<Group<'a>>,
    /// Text that the base wrote, on which fast is held to it.
    pub anchor: Option<Group<'a>>,
}

/// What one optimiser step did.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The mean losses over its micro-batches.
    pub losses: Losses,
    /// The loss of every fresh block by itself, one micro-batch after the other, in nats a label.
    pub of_blocks: Vec<f32>,
    /// The gradient's norm before clipping.
    pub gradient_norm: f32,
}

/// One optimiser step over the micro-batches: mean gradient, clip, AdamW in whitened inputs, average.
///
/// # Errors
/// [`TrainError::NotFinite`] when the loss or the gradient is not finite: `learners` is unchanged.
pub fn step(
    head: &Head,
    learners: &mut Learners,
    batches: &[Batch<'_>],
    rules: &Rules<'_>,
    learning_rate: f32,
) -> Result<Step, TrainError> {
    let mut gradient = vec![0f32; learners.fast.values.len()];
    let mut losses = Losses { fresh: 0.0, replay: None, embedding: None, anchor: None, total: 0.0 };
    let mut of_blocks = Vec::new();
    let share = 1.0 / batches.len().max(1) as f32;
    for batch in batches {
        let replay = batch.replay.as_ref().map(|group| (group, &learners.slow));
        let mut part = head.gradient(&learners.fast, &batch.fresh, replay, &rules.objective)?;
        if let Some(group) = &batch.anchor {
            let (apart, slopes) = head.anchor(&learners.fast, group, rules.anchor_weight)?;
            part.losses.anchor = Some(apart);
            part.losses.total += rules.anchor_weight * apart;
            part.values.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
        gradient.iter_mut().zip(part.values).for_each(|(sum, slope)| *sum += share * slope);
        add(&mut losses, &part.losses, share);
        of_blocks.extend(part.of_blocks);
    }
    let k = learners.k + 1;
    hold(&learners.fast.spec, rules.still, &mut gradient);
    let gradient_norm = clip(&mut gradient, rules.max_grad_norm);
    if !(losses.total.is_finite() && gradient_norm.is_finite()) {
        return Err(TrainError::NotFinite { k, loss: losses.total, norm: gradient_norm });
    }
    let Learners { fast, slow, moments, .. } = learners;
    rules.whitening.iter().for_each(|whitening| whitening.apply(&mut gradient));
    rules.adamw.moves(&mut gradient, moments, k, learning_rate);
    rules.whitening.iter().for_each(|whitening| whitening.apply(&mut gradient));
    for moving in fast.spec.moving(rules.still) {
        rules.adamw.go(&mut fast.values[moving.clone()], &gradient[moving], learning_rate);
    }
    let mut follow = |retain| merge::ema_beside(slow, fast, retain, rules.still);
    match rules.follow {
        Follow::Always => follow(merge::retain_at(k, rules.retain))?,
        Follow::AtOnce => follow(rules.retain)?,
        Follow::Not => {}
        Follow::Back => {
            follow(rules.retain)?;
            fast.values.copy_from_slice(&slow.values);
        }
    }
    learners.k = k;
    Ok(Step { losses, of_blocks, gradient_norm })
}

/// No slope where nothing moves, so that it neither counts in the norm nor leaves moments.
fn hold(spec: &Spec, still: usize, gradient: &mut [f32]) {
    let mut from = 0;
    for moving in spec.moving(still) {
        gradient[from..moving.start].fill(0.0);
        from = moving.end;
    }
    gradient[from..].fill(0.0);
}

fn add(sum: &mut Losses, part: &Losses, share: f32) {
    let some =
        |sum: Option<f32>, part: Option<f32>| part.map(|p| sum.unwrap_or(0.0) + share * p).or(sum);
    sum.fresh += share * part.fresh;
    sum.replay = some(sum.replay, part.replay);
    sum.embedding = some(sum.embedding, part.embedding);
    sum.anchor = some(sum.anchor, part.anchor);
    sum.total += share * part.total;
}
