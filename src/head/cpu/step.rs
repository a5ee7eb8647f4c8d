//! The step by hand: forward with a tape of what the layers saved, then back along it.
//!
//! - In: plain numbers. Out: losses, gradient, nats.
//! - The slow pass runs first and saves nothing, so the fast pass reuses its buffers.
//! - Of the last layer only those rows are computed whose prediction or distance counts.
//! - Invariant: a sum whose result anyone sees is taken in one order at any number of threads.
//! - Oracle: the same loss by candle's autograd (`head/candle/step.rs`).

use super::super::objective::{Gradient, Group, Losses, Objective, shares};
use super::{Cpu, losses, sequences};
use crate::adapter::Adapter;
use crate::decoder::{Sequences, Tape, part, picked};
use crate::settings::EmbeddingLayers;

/// Both groups of a batch, row after row.
struct Batch {
    sequences: Sequences,
    /// Rows of the fresh blocks.
    fresh_rows: usize,
    /// The rows of the last layer that count, in order; those of fresh blocks first.
    wanted: Vec<u32>,
    /// How many of these are fresh.
    fresh_wanted: usize,
    /// Which of the wanted rows predict a label, and the labels; those of fresh blocks first.
    labelled: Vec<u32>,
    targets: Vec<u32>,
    fresh_labels: usize,
}

/// The replayed rows' part of the loss: what fast is compared with, then its gradient.
struct Embedding {
    /// One entry a layer, `[n, D]` of the replayed blocks; empty where nothing is compared.
    distances: Vec<Vec<f32>>,
    /// Numbers that the mean is over.
    count: f64,
    /// The sum of squares so far.
    squares: f64,
}

impl Batch {
    /// `compares`: whether all replayed rows of the last layer count.
    fn new(fresh: &Group<'_>, replay: Option<&Group<'_>>, compares: bool) -> Self {
        let groups: Vec<&Group<'_>> = std::iter::once(fresh).chain(replay).collect();
        let sequences = sequences(&groups);
        let starts: Vec<usize> = sequences.iter().map(|rows| rows.start).collect();
        let of_fresh = fresh.hidden.dim().0;
        let fresh_rows = starts.get(of_fresh).copied().unwrap_or(sequences.rows());
        let (mut wanted, mut targets) = fresh.predictions(starts.iter().copied());
        let fresh_labels = targets.len();
        let mut labelled: Vec<u32> = (0..fresh_labels as u32).collect();
        if let Some(group) = replay {
            let (rows, more) = group.predictions(starts[of_fresh..].iter().copied());
            if compares {
                let first = (fresh_rows - fresh_labels) as u32;
                labelled.extend(rows.iter().map(|row| row - first));
                wanted.extend(fresh_rows as u32..sequences.rows() as u32);
            } else {
                labelled.extend(fresh_labels as u32..(fresh_labels + rows.len()) as u32);
                wanted.extend(rows);
            }
            targets.extend(more);
        }
        let fresh_wanted = fresh_labels;
        Self { sequences, fresh_rows, wanted, fresh_wanted, labelled, targets, fresh_labels }
    }
}

impl Cpu {
    /// [`super::super::Head::gradient`].
    pub(in crate::head) fn gradient(
        &self,
        fast: &Adapter,
        fresh: &Group<'_>,
        replay: Option<(&Group<'_>, &Adapter)>,
        objective: &Objective,
    ) -> Gradient {
        let compared = replay.filter(|_| objective.gamma != 0.0);
        let mut embedding = compared.map(|(group, slow)| self.slow_side(group, slow, objective));
        let replay = replay.map(|(group, _)| group);
        let batch = Batch::new(fresh, replay, embedding.is_some());
        let groups: Vec<&Group<'_>> = std::iter::once(fresh).chain(replay).collect();
        let x = self.rows(&groups, &batch.sequences);
        let d = self.hidden;
        let last = self.layers.len().saturating_sub(1);
        let replayed = |index| if index == last { batch.fresh_wanted } else { batch.fresh_rows };
        let (x, tape) = self.onto_tape(fast, x, &batch.sequences, &batch.wanted, |index, x| {
            if let Some(embedding) = &mut embedding {
                self.compare(embedding, index, &x[replayed(index) * d..], objective);
            }
        });
        let (mut losses, of_blocks, dy) = self.entropy(x, &batch, fresh, replay);
        if let Some(embedding) = &embedding {
            let mean = (embedding.squares / embedding.count) as f32;
            losses.embedding = Some(mean);
            losses.total += objective.gamma * mean;
        }
        let (sequences, wanted) = (&batch.sequences, &batch.wanted);
        let values = self.back_along(fast, tape, dy, sequences, wanted, |index, dy| {
            if let Some(embedding) = &mut embedding {
                let slopes = std::mem::take(&mut embedding.distances[index]);
                let dy = &mut dy[replayed(index) * d..];
                dy.iter_mut().zip(&slopes).for_each(|(dy, slope)| *dy += slope);
                self.pool.give([slopes]);
            }
        });
        self.pool.give(embedding.into_iter().flat_map(|embedding| embedding.distances));
        self.pool.settle();
        Gradient { losses, of_blocks, values }
    }

    /// [`super::super::Head::anchor`].
    pub(in crate::head) fn anchor(
        &self,
        fast: &Adapter,
        group: &Group<'_>,
        weight: f32,
    ) -> (f32, Vec<f32>) {
        let Batch { sequences, wanted, .. } = Batch::new(group, None, false);
        let labels = wanted.len();
        let x = self.rows(&[group], &sequences);
        let base = self.stream(None, x, &sequences, Some(&wanted), |_, _| ());
        let x = self.rows(&[group], &sequences);
        let (mut out, tape) = self.onto_tape(fast, x, &sequences, &wanted, |_, _| ());
        let share = weight / labels.max(1) as f32;
        let sum = self.above().divergence(&mut out, &base, share);
        self.pool.give([base]);
        let values = self.back_along(fast, tape, out, &sequences, &wanted, |_, _| ());
        self.pool.settle();
        ((sum / labels.max(1) as f64) as f32, values)
    }

    /// The nats of every label of a group, no gradient.
    pub(in crate::head) fn nats(&self, adapter: Option<&Adapter>, group: &Group<'_>) -> Vec<f32> {
        let Batch { sequences, wanted, targets, .. } = Batch::new(group, None, false);
        let x = self.rows(&[group], &sequences);
        let mut out = self.stream(adapter, x, &sequences, Some(&wanted), |_, _| ());
        let nats = self.above().nats(&mut out, &targets, None);
        self.pool.give([out]);
        self.pool.settle();
        nats
    }

    /// The wanted rows of the last residual stream, and what the layers that learn saved on the way;
    /// `visit` sees the stream after each layer.
    fn onto_tape(
        &self,
        fast: &Adapter,
        mut x: Vec<f32>,
        sequences: &Sequences,
        wanted: &[u32],
        mut visit: impl FnMut(usize, &[f32]),
    ) -> (Vec<f32>, Vec<(usize, Tape)>) {
        let lowest = self.lowest(fast);
        let mut tape = Vec::new();
        for index in 0..self.layers.len() {
            let layer = self.layer(index, Some(fast), sequences);
            let wanted = self.wanted(index, Some(wanted));
            if index >= lowest {
                tape.push((index, layer.onto_tape(&mut x, wanted, self.activations)));
            } else {
                layer.forward(&mut x, wanted, super::Context::Whole);
            }
            visit(index, &x);
        }
        (x, tape)
    }

    /// The gradient of fast's values from that of the wanted rows of the last residual stream; `visit`
    /// may add to the stream's after each layer.
    fn back_along(
        &self,
        fast: &Adapter,
        mut tape: Vec<(usize, Tape)>,
        mut dy: Vec<f32>,
        sequences: &Sequences,
        wanted: &[u32],
        mut visit: impl FnMut(usize, &mut [f32]),
    ) -> Vec<f32> {
        let lowest = self.lowest(fast);
        let mut gradient = vec![0f32; fast.values.len()];
        while let Some((index, tape)) = tape.pop() {
            visit(index, &mut dy);
            let span = part(fast, self.tap + index).1;
            let layer = self.layer(index, Some(fast), sequences);
            let wanted = self.wanted(index, Some(wanted));
            dy = layer.backward(tape, wanted, dy, &mut gradient[span], index > lowest);
        }
        self.pool.give([dy]);
        gradient
    }

    /// The lowest layer of the head that learns.
    fn lowest(&self, fast: &Adapter) -> usize {
        fast.spec.modules.first().map_or(self.layers.len(), |module| module.layer - self.tap)
    }

    /// Slow's hidden states on the replayed blocks, where the objective compares them.
    fn slow_side(&self, group: &Group<'_>, slow: &Adapter, objective: &Objective) -> Embedding {
        let mut distances = vec![Vec::new(); self.layers.len()];
        let last = self.layers.len().saturating_sub(1);
        let sequences = sequences(&[group]);
        let x = self.rows(&[group], &sequences);
        let out = self.stream(Some(slow), x, &sequences, None, |index, h| {
            if objective.layers == EmbeddingLayers::All || index == last {
                distances[index] = self.pool.copy(h);
            }
        });
        self.pool.give([out]);
        let compared = distances.iter().filter(|distance| !distance.is_empty()).count();
        let count = (sequences.rows() * self.hidden * compared) as f64;
        Embedding { distances, count: count.max(1.0), squares: 0.0 }
    }

    /// Adds a layer's squares to the distance and turns slow's hidden states into fast's gradient.
    fn compare(&self, side: &mut Embedding, index: usize, fast: &[f32], objective: &Objective) {
        let slow = &mut side.distances[index];
        if slow.is_empty() {
            return;
        }
        let mut squares = self.pool.zeros(slow.len() / self.hidden);
        let factor = (f64::from(objective.gamma) / side.count) as f32;
        losses::distance(slow, fast, factor, objective.distance, &mut squares);
        side.squares += squares.iter().copied().map(f64::from).sum::<f64>();
        self.pool.give([squares]);
    }

    /// Cross-entropy of both groups and of each fresh block, and its gradient for the wanted rows of the
    /// last residual stream, in their place.
    fn entropy(
        &self,
        mut out: Vec<f32>,
        batch: &Batch,
        fresh: &Group<'_>,
        replay: Option<&Group<'_>>,
    ) -> (Losses, Vec<f32>, Vec<f32>) {
        let Batch { labelled, targets, fresh_labels, .. } = batch;
        let (d, replay_labels) = (self.hidden, targets.len() - fresh_labels);
        let [new_share, old_share] = shares(fresh, replay);
        let mut of_rows = vec![new_share / (*fresh_labels).max(1) as f32; *fresh_labels];
        of_rows.resize(targets.len(), old_share / replay_labels.max(1) as f32);
        let mut rows = picked(&out, labelled, d, &self.pool);
        let nats = self.above().nats(&mut rows, targets, Some(&of_rows));
        out.fill(0.0);
        for (own, &row) in rows.chunks_exact(d).zip(labelled) {
            out[row as usize * d..][..d].copy_from_slice(own);
        }
        self.pool.give([rows]);
        let mean = |nats: &[f32]| {
            let sum: f64 = nats.iter().copied().map(f64::from).sum();
            (sum / nats.len().max(1) as f64) as f32
        };
        let of_blocks = fresh.means(&nats[..*fresh_labels]);
        let (fresh, old) = (mean(&nats[..*fresh_labels]), mean(&nats[*fresh_labels..]));
        let replay = (replay.is_some() && !targets.is_empty()).then_some(old);
        let total = replay.map_or(fresh, |replay| new_share * fresh + old_share * replay);
        (Losses { fresh, replay, embedding: None, anchor: None, total }, of_blocks, out)
    }
}
