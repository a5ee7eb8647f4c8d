//! The head on the CPU: layers tap..L by the kernels of `decoder`, loss and gradient by hand.
//!
//! - Rows are the tokens of blocks, one block after the other: padding is nowhere.
//! - Never here: candle, other devices.

mod losses;
mod above;
mod step;
mod seen;
mod texts;

pub(super) use above::rows_at_once;
pub(super) use texts::{Seen, Texts};

use super::{Group, HeadError, Keep};
use crate::adapter::Adapter;
use crate::base::{Base, Config};
use crate::decoder::{Context, Layer, Sequences, Shape, Turns, Weights, part};
use crate::products::{Form, Frozen, Pool};
use crate::settings::{Activations, HeadWeights, MatmulPrecision};
use crate::trunk::Trunk;
use above::Above;
use rayon::prelude::*;

/// What a base's stamp says where lm_head is the embedding, number for number.
const ONE: &str = "lm_head is the embedding";

/// Layers tap..L with what stands above them.
pub(super) struct Cpu {
    tap: usize,
    hidden: usize,
    shape: Shape,
    layers: Vec<Weights>,
    norm: Vec<f32>,
    eps: f32,
    lm_head: Frozen,
    turns: Turns,
    activations: Activations,
    pool: Pool,
}

impl Cpu {
    pub(super) fn load(
        base: &Base,
        tap: usize,
        positions: usize,
        (keep, trunk): (Keep, Option<&Trunk>),
    ) -> Result<Self, HeadError> {
        let config = base.config();
        let form = Form { weights: keep.weights, precision: keep.precision };
        let all = (tap..config.layers).into_par_iter();
        let layers = all.map(|index| Weights::load(base, index, form));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self {
            tap,
            hidden: config.hidden,
            shape: Shape::of(config),
            layers,
            norm: base.weight("model.norm.weight")?.data,
            eps: config.norm_eps,
            lm_head: lm_head(base, form, trunk)?,
            turns: Turns::new(config, positions),
            activations: keep.activations,
            pool: Pool::default(),
        })
    }

    /// The same numbers, multiplied otherwise.
    pub(super) fn at(self, precision: MatmulPrecision) -> Self {
        let layers = self.layers.iter().map(|layer| layer.at(precision)).collect();
        Self { layers, lm_head: self.lm_head.at(precision), ..self }
    }

    /// Whether all products with frozen matrices are in bf16, and whether any is.
    pub(super) fn in_bf16(&self) -> [bool; 2] {
        let matrices = self.layers.iter().flat_map(Weights::matrices).chain([&self.lm_head]);
        let are: Vec<bool> = matrices.map(Frozen::is_multiplied_in_bf16).collect();
        [!are.contains(&false), are.contains(&true)]
    }

    /// Most tokens of a sequence.
    pub(super) fn positions(&self) -> usize {
        self.turns.positions
    }

    fn layer<'a>(
        &'a self,
        index: usize,
        adapter: Option<&'a Adapter>,
        sequences: &'a Sequences,
    ) -> Layer<'a> {
        let (modules, factors) = match adapter {
            Some(adapter) => {
                let (modules, span) = part(adapter, self.tap + index);
                (modules, &adapter.values[span])
            }
            None => (&[][..], &[][..]),
        };
        let (weights, turns, pool) = (&self.layers[index], &self.turns, &self.pool);
        Layer { weights, turns, pool, modules, factors, shape: self.shape, sequences }
    }

    fn above(&self) -> Above<'_> {
        let (norm, eps, lm_head, pool) = (&self.norm, self.eps, &self.lm_head, &self.pool);
        Above { norm, eps, lm_head, pool, rows: rows_at_once(self.activations) }
    }

    /// Hidden states of groups at the tap, `[N, D]`, without padding.
    fn rows(&self, groups: &[&Group<'_>], sequences: &Sequences) -> Vec<f32> {
        let mut x = self.pool.take(sequences.rows() * self.hidden);
        let own = groups.iter().flat_map(|group| group.hidden.outer_iter());
        for (rows, hidden) in sequences.iter().zip(own) {
            let rows = &mut x[rows.start * self.hidden..rows.end * self.hidden];
            for (x, hidden) in rows.chunks_exact_mut(self.hidden).zip(hidden.outer_iter()) {
                x.iter_mut().zip(hidden).for_each(|(x, hidden)| *x = *hidden);
            }
        }
        x
    }

    /// The residual stream above hidden states x, of the rows that are `wanted`; `visit` sees each layer's.
    fn stream(
        &self,
        adapter: Option<&Adapter>,
        mut x: Vec<f32>,
        sequences: &Sequences,
        wanted: Option<&[u32]>,
        mut visit: impl FnMut(usize, &[f32]),
    ) -> Vec<f32> {
        for index in 0..self.layers.len() {
            let wanted = self.wanted(index, wanted);
            self.layer(index, adapter, sequences).forward(&mut x, wanted, Context::Whole);
            visit(index, &x);
        }
        x
    }

    /// The rows that are wanted of a layer's output: all but where it is the last.
    fn wanted<'a>(&self, index: usize, wanted: Option<&'a [u32]>) -> Option<&'a [u32]> {
        wanted.filter(|_| index + 1 == self.layers.len())
    }

    /// Logits of every row, `[N, V]`.
    pub(super) fn logits(&self, adapter: Option<&Adapter>, group: &Group<'_>) -> Vec<f32> {
        let sequences = sequences(&[group]);
        let x = self.rows(&[group], &sequences);
        let x = self.stream(adapter, x, &sequences, None, |_, _| ());
        let logits = self.above().logits(&x);
        self.pool.give([x]);
        self.pool.settle();
        logits
    }
}

/// lm_head `[D, V]`: the trunk's embedding where both are one and are to be kept alike.
fn lm_head(base: &Base, form: Form, trunk: Option<&Trunk>) -> Result<Frozen, HeadError> {
    let embedding = trunk.filter(|_| form.weights == HeadWeights::Auto).map(Trunk::embedding);
    let shared = |embedding: &Frozen| embedding.turned().at(form.precision);
    if let Some(embedding) = embedding.filter(|_| base.is_proved(ONE)) {
        return Ok(shared(embedding));
    }
    let Config { hidden, vocab, .. } = *base.config();
    let own = Frozen::new(base.weight("lm_head.weight")?.data, (hidden, vocab), form);
    match embedding {
        Some(embedding) if own.is_turned(embedding) => {
            base.prove(ONE);
            Ok(shared(embedding))
        }
        _ => Ok(own),
    }
}

/// The tokens of groups; all that hidden states were given for, where there are no blocks.
fn sequences(groups: &[&Group<'_>]) -> Sequences {
    let lengths = groups.iter().flat_map(|group| {
        let (batch, tokens, _) = group.hidden.dim();
        let own = group.blocks.iter().map(|block| block.tokens.len().min(tokens));
        match group.blocks.is_empty() {
            true => vec![tokens; batch],
            false => own.collect::<Vec<_>>(),
        }
    });
    Sequences::new(lengths)
}
