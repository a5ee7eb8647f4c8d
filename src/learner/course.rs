//! The course of one job: which blocks come when, and one optimiser step after the other.
//!
//! - In: training blocks, the reservoir, both learners. Out: a report of every step.
//! - Order: a fresh permutation each epoch, drawn from the seed, so that seed, epoch and position
//!   say all there is to know about it.
//! - Invariant: a block is offered to the reservoir once, after the step that learned it first.

use super::LearnError;
use super::engines::Engines;
use super::evaluate::tally;
use super::feed::{Feed, hidden};
use crate::block::Block;
use crate::gate::Tally;
use crate::head::{Distance, EmbeddingLayers, Group, Objective};
use crate::reservoir::{Drawn, Reservoir};
use crate::settings::{PUBLISHED_GAMMA, PUBLISHED_RETAIN, Settings};
use crate::train::{self, AdamW, Batch, Follow, Learners, Rules, Step, Whitening};
use crate::trunk::Trunk;
use half::f16;
use ndarray::{Array3, ArrayView2, s};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use std::ops::Range;

/// Where a job stands in its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Whole passes over the data.
    pub epoch: u64,
    /// Blocks of this pass that were learned.
    pub position: usize,
    /// Optimiser steps of the job.
    pub step: u64,
}

/// The order of the blocks of `pool` in an epoch: Fisher and Yates, drawn from the seed.
pub(super) fn order(seed: u64, epoch: u64, pool: Range<usize>) -> Vec<usize> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    chance.set_stream(epoch);
    let mut order: Vec<usize> = pool.collect();
    for left in (1..order.len()).rev() {
        // A bias of blocks / 2^64 is none.
        let other = (chance.next_u64() % (left as u64 + 1)) as usize;
        order.swap(left, other);
    }
    order
}

/// The rules of a step that the settings make.
///
/// `step`: which of the job it is, from 1. `still`: how many first ranks do not move.
pub(super) fn rules<'w>(
    settings: &Settings,
    step: u64,
    whitening: Option<&'w Whitening>,
    still: usize,
) -> Rules<'w> {
    let published = settings.as_published;
    Rules {
        objective: Objective {
            gamma: if published { PUBLISHED_GAMMA } else { settings.gamma } as f32,
            layers: if published { EmbeddingLayers::All } else { settings.embedding_layers },
            distance: if published { Distance::OneSided } else { Distance::Relative },
        },
        anchor_weight: settings.anchor_weight as f32,
        whitening,
        adamw: AdamW { weight_decay: settings.weight_decay as f32, ..AdamW::default() },
        max_grad_norm: settings.max_grad_norm as f32,
        retain: if published { PUBLISHED_RETAIN } else { settings.retain } as f32,
        follow: match settings.reptile_steps {
            _ if published => Follow::AtOnce,
            0 => Follow::Always,
            steps if step.is_multiple_of(steps) || step == settings.iters => Follow::Back,
            _ => Follow::Not,
        },
        still,
    }
}

/// What one step did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Losses and gradient.
    pub step: Step,
    /// The rate that was used.
    pub learning_rate: f64,
    /// Tokens that went through the head with a gradient.
    pub tokens: usize,
    /// Those of new text among them.
    pub fresh_tokens: usize,
    /// Replayed blocks among them.
    pub replayed: usize,
    /// Fast's score on the fresh blocks that this step met first, before it learned them.
    pub first_met: Tally,
}

/// Which blocks a job learns, and where it stands.
pub struct Course {
    pool: Range<usize>,
    order: Vec<usize>,
    cursor: Cursor,
}

/// What a step works with.
pub struct Bench<'b, 'a> {
    /// The loaded base.
    pub engines: &'b Engines,
    /// The blocks, those of the course and perhaps others.
    pub feed: &'b mut Feed<'a>,
    /// The learners, which a step moves.
    pub learners: &'b mut Learners,
    /// Where blocks are replayed from and offered to; none without replay.
    pub reservoir: Option<&'b mut Reservoir>,
    /// Texts of the base's own, on which it is held to itself; may be empty.
    pub anchor: &'b mut Feed<'a>,
    /// What such texts say of the inputs of A.
    pub whitening: Option<&'b Whitening>,
    /// The first ranks of every module, which do not move: a global adapter beside the learners' own part.
    pub still: usize,
}

/// Blocks and their hidden states, owned.
pub(super) struct Owned<'b> {
    blocks: Vec<&'b Block>,
    hidden: Array3<f32>,
}

impl Owned<'_> {
    pub(super) fn group(&self) -> Group<'_> {
        Group { blocks: &self.blocks, hidden: &self.hidden }
    }

    fn tokens(&self) -> usize {
        self.blocks.iter().map(|block| block.tokens.len()).sum()
    }
}

impl Course {
    /// A course over the blocks of `pool` that begins, or goes on, at `cursor`.
    pub fn new(pool: Range<usize>, seed: u64, cursor: Cursor) -> Self {
        Self { order: order(seed, cursor.epoch, pool.clone()), pool, cursor }
    }

    /// Where it stands.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// One optimiser step, then the offers of its fresh blocks to the reservoir.
    ///
    /// # Errors
    /// [`LearnError::Train`] when the loss is not finite: learners and reservoir are unchanged.
    pub fn step(
        &mut self,
        bench: Bench<'_, '_>,
        settings: &Settings,
    ) -> Result<StepReport, LearnError> {
        let Bench { engines, feed, learners, mut reservoir, anchor, whitening, still } = bench;
        let (mut fresh, mut drawn, mut unseen) = (Vec::new(), Vec::new(), Vec::new());
        let mut anchors = Vec::new();
        for part in 0..settings.grad_accumulation_steps {
            let turn = learners.k as usize * settings.grad_accumulation_steps + part;
            let is_anchored = settings.anchor_weight > 0.0;
            anchors.push(if is_anchored { own_text(anchor, turn)? } else { None });
            let indices = self.next_indices(settings);
            let (blocks, hidden) = feed.batch(&indices)?;
            fresh.push(Owned { blocks, hidden });
            unseen.push(self.cursor.epoch == 0);
            drawn.push(match &mut reservoir {
                Some(reservoir) => {
                    let held = reservoir.held() as usize;
                    reservoir.draw(settings.replay_batch_size.min(held))?
                }
                None => Vec::new(),
            });
        }
        let replay: Vec<Option<Owned<'_>>> =
            drawn.iter().map(|drawn| replayed(&engines.trunk, drawn)).collect::<Result<_, _>>()?;
        let batches: Vec<Batch<'_>> = fresh
            .iter()
            .zip(&replay)
            .zip(&anchors)
            .map(|((fresh, replay), anchor)| Batch {
                fresh: fresh.group(),
                replay: replay.as_ref().map(Owned::group),
                anchor: anchor.as_ref().map(Owned::group),
            })
            .collect();
        let learning_rate = settings.learning_rate_at(self.cursor.step + 1);
        let rules = rules(settings, self.cursor.step + 1, whitening, still);
        let step = train::step(&engines.head, learners, &batches, &rules, learning_rate as f32)?;
        self.cursor.step += 1;
        let (mut losses, mut first_met) = (step.of_blocks.iter().copied(), Tally::default());
        for (owned, unseen) in fresh.iter().zip(unseen) {
            let own: Vec<f32> = losses.by_ref().take(owned.blocks.len()).collect();
            if !unseen {
                continue;
            }
            for (block, &mean) in owned.blocks.iter().zip(&own) {
                first_met.add(tally(block, f64::from(mean) * block.labels() as f64));
            }
            if let Some(reservoir) = &mut reservoir {
                offer(owned, &own, reservoir)?;
            }
        }
        let replay: Vec<&Owned<'_>> = replay.iter().flatten().collect();
        let learned = fresh.iter().chain(replay.iter().copied()).chain(anchors.iter().flatten());
        Ok(StepReport {
            step,
            learning_rate,
            tokens: learned.map(Owned::tokens).sum(),
            fresh_tokens: fresh.iter().map(Owned::tokens).sum(),
            replayed: replay.iter().map(|owned| owned.blocks.len()).sum(),
            first_met,
        })
    }

    /// The next batch of fresh blocks; it never crosses the end of an epoch.
    fn next_indices(&mut self, settings: &Settings) -> Vec<usize> {
        let len = self.order.len();
        if self.cursor.position >= len {
            self.cursor.epoch += 1;
            self.cursor.position = 0;
            self.order = order(settings.seed, self.cursor.epoch, self.pool.clone());
        }
        let end = len.min(self.cursor.position + settings.batch_size);
        let indices = self.order[self.cursor.position..end].to_vec();
        self.cursor.position = end;
        indices
    }
}

/// The text of the base's own whose turn it is, one after the other; none where there are none.
pub(super) fn own_text<'a>(
    anchor: &mut Feed<'a>,
    turn: usize,
) -> Result<Option<Owned<'a>>, LearnError> {
    let count = anchor.blocks().len();
    if count == 0 {
        return Ok(None);
    }
    let (blocks, hidden) = anchor.batch(&[turn % count])?;
    Ok(Some(Owned { blocks, hidden }))
}

/// Drawn blocks with hidden states: those that were stored, else fresh from the trunk.
pub(super) fn replayed<'d>(
    trunk: &Trunk,
    drawn: &'d [Drawn],
) -> Result<Option<Owned<'d>>, LearnError> {
    if drawn.is_empty() {
        return Ok(None);
    }
    let blocks: Vec<&Block> = drawn.iter().map(|drawn| &drawn.block).collect();
    let stored: Option<Vec<&[f16]>> = drawn.iter().map(|drawn| drawn.hidden.as_deref()).collect();
    let Some(stored) = stored else {
        let hidden = hidden(trunk, &blocks)?;
        return Ok(Some(Owned { blocks, hidden }));
    };
    let d = trunk.width();
    let longest = blocks.iter().map(|block| block.tokens.len()).max().unwrap_or(0);
    let mut hidden = Array3::zeros((blocks.len(), longest, d));
    for (row, (block, stored)) in blocks.iter().zip(stored).enumerate() {
        let length = block.tokens.len();
        let view = ArrayView2::from_shape((length, d), stored)
            .map_err(|_| LearnError::Hidden { expected: length * d, got: stored.len() })?;
        hidden.slice_mut(s![row, ..length, ..]).assign(&view.mapv(f16::to_f32));
    }
    Ok(Some(Owned { blocks, hidden }))
}

/// Offers blocks to the reservoir, each with its own loss, and hidden states where it keeps them.
fn offer(owned: &Owned<'_>, losses: &[f32], reservoir: &mut Reservoir) -> Result<(), LearnError> {
    let keeps_hidden = reservoir.geometry().hidden.is_some();
    for (row, (block, &loss)) in owned.blocks.iter().zip(losses).enumerate() {
        let hidden: Option<Vec<f16>> = keeps_hidden.then(|| {
            let own = owned.hidden.slice(s![row, ..block.tokens.len(), ..]);
            own.iter().map(|&number| f16::from_f32(number)).collect()
        });
        reservoir.offer(block, hidden.as_deref(), loss)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last steps of a job are not lost, however few they are.
    #[test]
    fn slow_moves_every_few_steps_and_with_the_last_one() {
        let settings = Settings { reptile_steps: 3, iters: 8, ..Settings::default() };
        let back = |step: &u64| rules(&settings, *step, None, 0).follow == Follow::Back;
        assert!((1..=8).filter(back).eq([3, 6, 8]));
        assert_eq!(rules(&Settings::default(), 3, None, 0).follow, Follow::Always);
        let published = Settings { as_published: true, ..settings };
        assert_eq!(rules(&published, 3, None, 0).follow, Follow::AtOnce);
    }

    #[test]
    fn every_epoch_visits_every_block_once_in_an_order_of_its_own() {
        let (first, second) = (order(3, 0, 7..57), order(3, 1, 7..57));
        assert_ne!(first, second);
        assert_eq!(first, order(3, 0, 7..57));
        for mut order in [first, second] {
            order.sort_unstable();
            assert!(order.into_iter().eq(7..57));
        }
    }
}
