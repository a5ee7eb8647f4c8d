//! The step on the CPU by hand: forward with a tape of what the layers saved, then back along it.
//!
//! - In: plain numbers; candle only holds the weights. Out: losses, gradient, nats, hidden states.
//! - The slow pass runs first and saves nothing, so the fast pass reuses its buffers.
//! - Invariant: a sum whose result anyone sees is taken in one order at any number of threads.
//! - Oracle: the same loss by candle's autograd (`objective.rs`).

use super::attention::Shape;
use super::entropy::Above;
use super::fused::{Entry, FusedLayer};
use super::kernels;
use super::lora::part;
use super::{Gradient, Group, Head, HeadError, Losses, Objective, entropy, objective};
use crate::adapter::Adapter;
use crate::settings::EmbeddingLayers;
use candle_core::Result;

/// A layer of the head by its index, and what it saved for the way back.
type Taped = (usize, Entry);

/// The replayed rows' part of the loss: what fast is compared with, then its gradient.
struct Embedding {
    /// One entry a layer, `[N, D]` of the replayed blocks; empty where nothing is compared.
    distances: Vec<Vec<f32>>,
    /// Which of the N rows are not padding.
    real: Vec<bool>,
    /// Numbers that the mean is over.
    count: f64,
    /// The sum of squares so far.
    squares: f64,
}

impl Head {
    pub(super) fn fused<'a>(
        &'a self,
        index: usize,
        adapter: Option<&'a Adapter>,
        shape: Shape,
    ) -> Result<FusedLayer<'a>> {
        let (modules, factors) = match adapter {
            Some(adapter) => {
                let (modules, span) = part(adapter, self.tap + index);
                (modules, &adapter.values[span])
            }
            None => (&[][..], &[][..]),
        };
        let (layer, rotary, pool) = (self.layers[index].frozen()?, &self.rotary, &self.pool);
        Ok(FusedLayer { layer, rotary, pool, modules, factors, shape })
    }

    pub(super) fn shape(&self, batch: usize, tokens: usize) -> Shape {
        let crate::base::Config { heads, kv_heads, head_dim, .. } = self.config;
        Shape { batch, tokens, heads, kv_heads, head_dim }
    }

    fn above(&self) -> Result<Above<'_>> {
        let (norm, eps) = (&self.norm, self.config.norm_eps);
        let (lm_head, rows) = (self.lm_head.frozen()?, entropy::rows_at_once(self.activations));
        Ok(Above { norm, eps, lm_head, pool: &self.pool, rows })
    }

    /// Hidden states padded to `tokens` rows a sequence, into `x`.
    pub(super) fn fill(&self, group: &Group<'_>, tokens: usize, x: &mut [f32]) {
        let d = self.config.hidden;
        let sequences = x.chunks_exact_mut(tokens * d).zip(group.hidden.outer_iter());
        for (x, hidden) in sequences {
            for (x, hidden) in x.chunks_exact_mut(d).zip(hidden.outer_iter()) {
                x.iter_mut().zip(hidden).for_each(|(x, hidden)| *x = *hidden);
            }
            x[hidden.nrows() * d..].fill(0.0);
        }
    }

    /// The residual stream above a group's hidden states, `[B * T, D]`; `visit` sees each layer's.
    pub(super) fn stream(
        &self,
        adapter: Option<&Adapter>,
        group: &Group<'_>,
        tokens: usize,
        mut visit: impl FnMut(usize, &[f32]),
    ) -> Result<Vec<f32>> {
        let batch = group.hidden.dim().0;
        let mut x = self.pool.take(batch * tokens * self.config.hidden);
        self.fill(group, tokens, &mut x);
        for index in 0..self.layers.len() {
            let layer = self.fused(index, adapter, self.shape(batch, tokens))?;
            let (y, _) = layer.forward(&x, false);
            self.pool.give([std::mem::replace(&mut x, y)]);
            visit(index, &x);
        }
        Ok(x)
    }

    /// The nats of labelled `rows` of a group, no gradient.
    pub(super) fn nats_by_hand(
        &self,
        adapter: Option<&Adapter>,
        group: &Group<'_>,
        rows: &[u32],
        targets: &[u32],
    ) -> std::result::Result<Vec<f32>, HeadError> {
        let out = self.stream(adapter, group, group.hidden.dim().1, |_, _| ())?;
        let mut labelled = self.gather(&out, rows);
        let nats = self.above()?.nats(&mut labelled, targets, None)?;
        self.pool.give([out, labelled]);
        self.pool.settle();
        Ok(nats)
    }

    fn gather(&self, x: &[f32], rows: &[u32]) -> Vec<f32> {
        let d = self.config.hidden;
        let mut picked = self.pool.take(rows.len() * d);
        for (picked, &row) in picked.chunks_exact_mut(d).zip(rows) {
            picked.copy_from_slice(&x[row as usize * d..][..d]);
        }
        picked
    }

    /// [`Head::gradient`] without candle: `tokens` is T of the longer group.
    pub(super) fn gradient_by_hand(
        &self,
        fast: &Adapter,
        fresh: &Group<'_>,
        replay: Option<(&Group<'_>, &Adapter)>,
        objective: &Objective,
        tokens: usize,
    ) -> std::result::Result<Gradient, HeadError> {
        let mut embedding = match replay {
            Some((group, slow)) if objective.gamma != 0.0 => {
                Some(self.slow_side(group, slow, objective, tokens)?)
            }
            _ => None,
        };
        let replay = replay.map(|(group, _)| group);
        let batch = fresh.hidden.dim().0 + replay.map_or(0, |group| group.hidden.dim().0);
        let fresh_len = fresh.hidden.dim().0 * tokens * self.config.hidden;
        let mut x = self.pool.take(batch * tokens * self.config.hidden);
        self.fill(fresh, tokens, &mut x[..fresh_len]);
        if let Some(group) = replay {
            self.fill(group, tokens, &mut x[fresh_len..]);
        }
        let shape = self.shape(batch, tokens);
        let (x, tape) = self.onto_tape(fast, x, shape, |index, x| {
            if let Some(embedding) = &mut embedding {
                self.compare(embedding, index, &x[fresh_len..], objective);
            }
        })?;
        let (mut losses, of_blocks, dy) = self.entropy_by_hand(x, fresh, replay, tokens)?;
        if let Some(embedding) = &embedding {
            let mean = (embedding.squares / embedding.count) as f32;
            losses.embedding = Some(mean);
            losses.total += objective.gamma * mean;
        }
        let values = self.back_along(fast, tape, dy, shape, |index, dy| {
            if let Some(embedding) = &mut embedding {
                let slopes = std::mem::take(&mut embedding.distances[index]);
                dy[fresh_len..].iter_mut().zip(&slopes).for_each(|(dy, slope)| *dy += slope);
                self.pool.give([slopes]);
            }
        })?;
        self.pool.give(embedding.into_iter().flat_map(|embedding| embedding.distances));
        self.pool.settle();
        Ok(Gradient { losses, of_blocks, values })
    }

    /// [`Head::anchor`] without candle.
    pub(super) fn anchor_by_hand(
        &self,
        fast: &Adapter,
        group: &Group<'_>,
        weight: f32,
    ) -> std::result::Result<(f32, Vec<f32>), HeadError> {
        let tokens = group.hidden.dim().1;
        let (rows, _, labels) = objective::labels(group, None, tokens);
        let base = self.stream(None, group, tokens, |_, _| ())?;
        let base_labelled = self.gather(&base, &rows);
        let mut x = base;
        self.fill(group, tokens, &mut x);
        let shape = self.shape(group.hidden.dim().0, tokens);
        let (mut out, tape) = self.onto_tape(fast, x, shape, |_, _| ())?;
        let mut labelled = self.gather(&out, &rows);
        let share = weight / labels.max(1) as f32;
        let sum = self.above()?.divergence(&mut labelled, &base_labelled, share)?;
        self.scatter(&labelled, &rows, &mut out);
        self.pool.give([base_labelled, labelled]);
        let values = self.back_along(fast, tape, out, shape, |_, _| ())?;
        self.pool.settle();
        Ok(((sum / labels.max(1) as f64) as f32, values))
    }

    /// The residual stream after the last layer, and what the layers that learn saved on the way;
    /// `visit` sees the stream after each layer.
    fn onto_tape(
        &self,
        fast: &Adapter,
        mut x: Vec<f32>,
        shape: Shape,
        mut visit: impl FnMut(usize, &[f32]),
    ) -> Result<(Vec<f32>, Vec<Taped>)> {
        let lowest = self.lowest(fast);
        let mut tape = Vec::new();
        for index in 0..self.layers.len() {
            let (y, saved) = self.fused(index, Some(fast), shape)?.forward(&x, index >= lowest);
            let below = std::mem::replace(&mut x, y);
            match saved {
                Some(saved) => {
                    tape.push((index, Entry::new(below, saved, self.activations, &self.pool)));
                }
                None => self.pool.give([below]),
            }
            visit(index, &x);
        }
        Ok((x, tape))
    }

    /// The gradient of fast's values from that of the last residual stream; `visit` may add to the
    /// stream's after each layer.
    fn back_along(
        &self,
        fast: &Adapter,
        mut tape: Vec<Taped>,
        mut dy: Vec<f32>,
        shape: Shape,
        mut visit: impl FnMut(usize, &mut [f32]),
    ) -> Result<Vec<f32>> {
        let lowest = self.lowest(fast);
        let mut gradient = vec![0f32; fast.values.len()];
        while let Some((index, entry)) = tape.pop() {
            visit(index, &mut dy);
            let span = part(fast, self.tap + index).1;
            let layer = self.fused(index, Some(fast), shape)?;
            let (x, saved) = entry.open(&layer)?;
            dy = layer.backward(&x, dy, saved, &mut gradient[span], index > lowest);
            self.pool.give([x]);
        }
        self.pool.give([dy]);
        Ok(gradient)
    }

    /// The lowest layer of the head that learns.
    fn lowest(&self, fast: &Adapter) -> usize {
        fast.spec.modules.first().map_or(self.layers.len(), |module| module.layer - self.tap)
    }

    /// Labelled rows back at their places in `x`, zeros everywhere else.
    fn scatter(&self, labelled: &[f32], rows: &[u32], x: &mut [f32]) {
        x.fill(0.0);
        let d = self.config.hidden;
        for (labelled, &row) in labelled.chunks_exact(d).zip(rows) {
            x[row as usize * d..][..d].copy_from_slice(labelled);
        }
    }

    /// Slow's hidden states on the replayed blocks, where the objective compares them.
    fn slow_side(
        &self,
        group: &Group<'_>,
        slow: &Adapter,
        objective: &Objective,
        tokens: usize,
    ) -> Result<Embedding> {
        let mut distances = vec![Vec::new(); self.layers.len()];
        let last = self.layers.len().saturating_sub(1);
        let out = self.stream(Some(slow), group, tokens, |index, h| {
            if objective.layers == EmbeddingLayers::All || index == last {
                distances[index] = self.pool.copy(h);
            }
        })?;
        self.pool.give([out]);
        let mut real = vec![false; group.hidden.dim().0 * tokens];
        for (block, real) in group.blocks.iter().zip(real.chunks_exact_mut(tokens)) {
            real[..block.tokens.len()].fill(true);
        }
        let positions = real.iter().filter(|&&real| real).count();
        let compared = distances.iter().filter(|distance| !distance.is_empty()).count();
        let count = (positions * self.config.hidden * compared) as f64;
        Ok(Embedding { distances, real, count: count.max(1.0), squares: 0.0 })
    }

    /// Adds a layer's squares to the distance and turns slow's hidden states into fast's gradient.
    fn compare(&self, side: &mut Embedding, index: usize, fast: &[f32], objective: &Objective) {
        let slow = &mut side.distances[index];
        if slow.is_empty() {
            return;
        }
        let mut squares = self.pool.zeros(side.real.len());
        let factor = (f64::from(objective.gamma) / side.count) as f32;
        kernels::distance(slow, fast, &side.real, factor, objective.distance, &mut squares);
        side.squares += squares.iter().copied().map(f64::from).sum::<f64>();
        self.pool.give([squares]);
    }

    /// Cross-entropy of both groups and of each fresh block, and its gradient for the last residual
    /// stream, in its place.
    fn entropy_by_hand(
        &self,
        mut out: Vec<f32>,
        fresh: &Group<'_>,
        replay: Option<&Group<'_>>,
        tokens: usize,
    ) -> Result<(Losses, Vec<f32>, Vec<f32>)> {
        let (rows, targets, fresh_labels) = objective::labels(fresh, replay, tokens);
        let replay_labels = targets.len() - fresh_labels;
        let [new_share, old_share] = objective::shares(fresh, replay);
        let mut shares = vec![new_share / fresh_labels.max(1) as f32; fresh_labels];
        shares.resize(targets.len(), old_share / replay_labels.max(1) as f32);
        let mut labelled = self.gather(&out, &rows);
        let nats = self.above()?.nats(&mut labelled, &targets, Some(&shares))?;
        self.scatter(&labelled, &rows, &mut out);
        self.pool.give([labelled]);
        let mean = |nats: &[f32]| {
            let sum: f64 = nats.iter().copied().map(f64::from).sum();
            (sum / nats.len().max(1) as f64) as f32
        };
        let of_blocks = fresh.means(&nats[..fresh_labels]);
        let (fresh, old) = (mean(&nats[..fresh_labels]), mean(&nats[fresh_labels..]));
        let replay = (replay.is_some() && !targets.is_empty()).then_some(old);
        let total = replay.map_or(fresh, |replay| new_share * fresh + old_share * replay);
        Ok((Losses { fresh, replay, embedding: None, anchor: None, total }, of_blocks, out))
    }
}
