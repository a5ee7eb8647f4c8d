//! The course of one job: which blocks come when, and one optimiser step after the other.
//!
//! - In: training blocks, the reservoir, both learners. Out: a report of every step.
//! - Order: a fresh permutation each epoch, drawn from the seed, so that seed, epoch and position
//!   say all there is to know about it.
//! - Invariant: a block is offered to the reservoir once, after the step that learned it first.

use super::LearnError;
use super::engines::Engines;
use super::evaluate::tally;
use super::feed::Feed;
use crate::block::Block;
use crate::gate::Tally;
use crate::head::{Distance, EmbeddingLayers, Group, Objective};
use crate::reservoir::{Drawn, Hidden, Reservoir};
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
            let texts = settings.anchor_batch_size;
            anchors.push(if is_anchored { own_texts(anchor, turn, texts)? } else { None });
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
                offer(owned, &own, engines.trunk.origin(), reservoir)?;
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

/// The `texts` of the base's own whose turn it is, one after the other, each at most once; none where there
/// are none.
pub(super) fn own_texts<'a>(
    anchor: &mut Feed<'a>,
    turn: usize,
    texts: usize,
) -> Result<Option<Owned<'a>>, LearnError> {
    let count = anchor.blocks().len();
    if count == 0 {
        return Ok(None);
    }
    let texts = texts.min(count);
    let indices: Vec<usize> = (0..texts).map(|one| (turn * texts + one) % count).collect();
    let (blocks, hidden) = anchor.batch(&indices)?;
    Ok(Some(Owned { blocks, hidden }))
}

/// Drawn blocks with hidden states: those that were stored, where they come from this very trunk, else
/// fresh from it.
pub(super) fn replayed<'d>(
    trunk: &Trunk,
    drawn: &'d [Drawn],
) -> Result<Option<Owned<'d>>, LearnError> {
    if drawn.is_empty() {
        return Ok(None);
    }
    let (d, origin) = (trunk.width(), trunk.origin());
    let stored = |drawn: &'d Drawn| match &drawn.hidden {
        Some(hidden) if hidden.origin == origin => Some(&hidden.states),
        _ => None,
    };
    let blocks: Vec<&Block> = drawn.iter().map(|drawn| &drawn.block).collect();
    let missing = drawn.iter().filter(|&drawn| stored(drawn).is_none());
    let missing: Vec<&[u32]> = missing.map(|drawn| &*drawn.block.tokens).collect();
    let mut computed = trunk.hidden_of(&missing)?.into_iter();
    let longest = blocks.iter().map(|block| block.tokens.len()).max().unwrap_or(0);
    let mut hidden = Array3::zeros((blocks.len(), longest, d));
    for (row, drawn) in drawn.iter().enumerate() {
        let length = drawn.block.tokens.len();
        let mut own = hidden.slice_mut(s![row, ..length, ..]);
        let Some(states) = stored(drawn) else {
            computed.next().iter().for_each(|computed| own.assign(computed));
            continue;
        };
        let view = ArrayView2::from_shape((length, d), states)
            .map_err(|_| LearnError::Hidden { expected: length * d, got: states.len() })?;
        own.assign(&view.mapv(f16::to_f32));
    }
    Ok(Some(Owned { blocks, hidden }))
}

/// Offers blocks to the reservoir, each with its own loss, and hidden states where it keeps them, of
/// which `origin` says what they come from.
fn offer(
    owned: &Owned<'_>,
    losses: &[f32],
    origin: u64,
    reservoir: &mut Reservoir,
) -> Result<(), LearnError> {
    let keeps_hidden = reservoir.geometry().hidden.is_some();
    for (row, (block, &loss)) in owned.blocks.iter().zip(losses).enumerate() {
        let hidden = keeps_hidden.then(|| {
            let own = owned.hidden.slice(s![row, ..block.tokens.len(), ..]);
            let states = own.iter().map(|&number| f16::from_f32(number)).collect();
            Hidden { states, origin }
        });
        reservoir.offer(block, hidden.as_ref(), loss)?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::base::tests::exported;
    use crate::base::{Base, ExportOptions};
    use crate::learner::{Material, adapt};
    use crate::ports::Memory;
    use crate::settings::MatmulPrecision;
    use crate::state::{LearnerRecord, State};
    use ndarray::Axis;
    use std::ops::ControlFlow;
    use std::sync::Arc;

    /// Goal: a stored hidden state is used where it comes from this trunk; another, one of unknown origin
    /// and none are computed as if nothing was stored. Oracle: the trunk.
    #[test]
    fn hidden_states_of_another_origin_are_computed_again() {
        let (out, _) = exported("llama2", ExportOptions::default());
        let trunk = Trunk::load(&Base::open(&out.path().join("model")).unwrap(), 2, 1).unwrap();
        let own = trunk.origin();
        let drawn = |origin: Option<u64>, length: usize| {
            let tokens: Vec<u32> = (0..length as u32).collect();
            let block = Block { tokens, learn: vec![true; length], bytes: 9, domain: 0 };
            let states = vec![f16::from_f32(7.0); length * trunk.width()];
            let hidden = origin.map(|origin| Hidden { states, origin });
            Drawn { block, hidden, loss: 1.0, offer: 1, slot: 0 }
        };
        let kept = [(Some(own), 4), (Some(own ^ 1), 6), (None, 3), (Some(0), 5), (Some(own), 2)];
        let drawn = kept.map(|(origin, length)| drawn(origin, length));
        let owned = replayed(&trunk, &drawn).unwrap().unwrap();
        for (row, (origin, length)) in kept.into_iter().enumerate() {
            let found = owned.hidden.index_axis(Axis(0), row);
            let computed = trunk.hidden_of(&[&drawn[row].block.tokens]).unwrap().remove(0);
            let is_stored = origin == Some(own);
            let expected = if is_stored { computed.mapv(|_| 7.0) } else { computed };
            assert_eq!(found.slice(s![..length, ..]), expected, "{origin:?}");
            assert!(found.slice(s![length.., ..]).iter().all(|&number| number == 0.0));
        }
    }

    /// Goal: batches take texts of the base's own in turns, each once a batch, however many are asked for.
    #[test]
    fn texts_of_its_own_come_in_turns() {
        let (out, _) = exported("llama2", ExportOptions::default());
        let trunk = Trunk::load(&Base::open(&out.path().join("model")).unwrap(), 2, 1).unwrap();
        let text = |id| Block { tokens: vec![id; 3], learn: vec![true; 3], bytes: 0, domain: 0 };
        let texts: Vec<Block> = (0..5).map(text).collect();
        let mut anchor = Feed::new(&trunk, &texts, 1 << 20);
        let mut taken = |turn, texts| -> Vec<u32> {
            let owned = own_texts(&mut anchor, turn, texts).unwrap().unwrap();
            assert_eq!(owned.hidden.dim().0, owned.blocks.len());
            owned.blocks.iter().map(|block| block.tokens[0]).collect()
        };
        assert_eq!([taken(0, 1), taken(6, 1)].concat(), [0, 1]);
        assert_eq!([taken(0, 3), taken(1, 3), taken(2, 3)].concat(), [0, 1, 2, 3, 4, 0, 1, 2, 3]);
        assert_eq!(taken(1, 9), [0, 1, 2, 3, 4]);
        assert!(own_texts(&mut Feed::new(&trunk, &[], 1), 0, 3).unwrap().is_none());
    }

    /// Goal: hidden states that one precision left in a state have no part in a job at another: it learns
    /// what it learns on a state that keeps none. Both jobs are of one step, since what a job stores itself
    /// it replays as f16. Oracle: the state that keeps none.
    #[test]
    fn hidden_states_of_one_precision_are_not_replayed_at_another() {
        let (out, _) = exported("llama2_bf16", ExportOptions::default());
        let of = |replay_hidden, matmul_precision| Settings {
            iters: 1,
            anchor_blocks: 0,
            num_layers: 1,
            max_seq_length: 16,
            replay_blocks: 7,
            learning_rate: 1e-2,
            threads: 1,
            gate_new: -1.0,
            gate_general: 10.0,
            gate_old: 10.0,
            gate_worst: 10.0,
            replay_hidden,
            matmul_precision,
            ..Settings::default()
        };
        let load = |precision| {
            let engines = Engines::load(&out.path().join("model"), &of(false, precision)).unwrap();
            (engines, precision)
        };
        let all = [load(MatmulPrecision::Highest), load(MatmulPrecision::Medium)];
        let block = |from: u32, length: u32| Block {
            tokens: (from..from + length).collect(),
            learn: (0..length).map(|t| t > 0).collect(),
            bytes: length,
            domain: 0,
        };
        let material = Material {
            name: "count".to_owned(),
            key: "count".to_owned(),
            train: (0..5).map(|i| block(7 * i, 4 + i)).collect(),
            valid: vec![block(3, 9)],
            ..Material::default()
        };
        let life = |replay_hidden, order: [usize; 2]| {
            let mut state = State::open(Arc::new(Memory::default())).unwrap();
            for (engines, precision) in order.map(|at| &all[at]) {
                let settings = of(replay_hidden, *precision);
                let mut tell = |_: &_| ControlFlow::Continue(());
                adapt(engines, &mut state, &material, &settings, &mut tell).unwrap();
            }
            let LearnerRecord { fast, slow, step, .. } = state.learner().unwrap().unwrap();
            assert_eq!(step, 2, "both jobs were kept");
            [fast, slow].concat()
        };
        let is_rounded = crate::products::in_bf16();
        for order in [[0, 1], [1, 0]] {
            assert_eq!(life(true, order) == life(false, order), is_rounded, "{order:?}");
        }
        // What comes from the same trunk is replayed, as f16, and that shows; and so does a precision.
        for order in [[0, 0], [1, 1]] {
            assert!(life(true, order) != life(false, order), "{order:?}");
        }
        assert_eq!(life(false, [0, 0]) != life(false, [0, 1]), is_rounded);
    }

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
