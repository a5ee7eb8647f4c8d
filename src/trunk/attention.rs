//! Causal attention with grouped key heads as one operator of tract's graph, RoPE included.
//!
//! - In: queries `[B, T, heads * width]`, keys and values `[B, T, kv_heads * width]`. Out:
//!   `[B, T, heads * width]`, ready for the output projection.
//! - No mask, no `[heads, T, T]` tensor, no scores of tokens that lie a tile or more in the future.
//! - Invariant: a sequence's result depends on nothing but that sequence.
//! - Never here: threads; the caller runs blocks side by side.
//!
//! Sources: RoPE arXiv 2104.09864; GQA arXiv 2305.13245; tiles of queries as in arXiv 2205.14135.

use super::kernels::{LANES, Product, Softmax};
use crate::base::Config;
use std::sync::Arc;
use tract_onnx::prelude::*;
use tract_onnx::tract_core::internal::{
    EvalContext, EvalOp, Op, StaticName, TypedOp, bail, ensure,
};
use tract_onnx::tract_core::{as_op, op_as_typed_op, op_out_of_plan};

/// Tokens whose queries are compared with the keys at a time.
const TILE: usize = 64;

/// The attention of every layer of a base.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    heads: usize,
    kv_heads: usize,
    width: usize,
    product: Product,
    /// Cosines and sines, `[positions, width / 2]` each.
    tables: Arc<(Vec<f32>, Vec<f32>)>,
}

// The tables follow from the base, of which a process compares no two layers.
impl PartialEq for Attention {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tables, &other.tables)
    }
}

impl Eq for Attention {}

impl Attention {
    /// The attention of that configuration.
    pub(super) fn new(config: &Config, product: Product) -> Self {
        let Config { heads, kv_heads, head_dim, .. } = *config;
        let tables = Arc::new(config.rope_tables(config.positions()));
        Self { heads, kv_heads, width: head_dim, product, tables }
    }
}

impl Op for Attention {
    fn name(&self) -> StaticName {
        "CausalAttention".into()
    }

    op_as_typed_op!();
}

impl TypedOp for Attention {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let &[query, ..] = inputs else { bail!("attention has no input, expected 3") };
        Ok(tvec!(f32::fact(query.shape.clone())))
    }

    as_op!();
}

impl EvalOp for Attention {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [query, key, value] = &*inputs else { bail!("{} inputs, expected 3", inputs.len()) };
        let &[batch, tokens, _] = query.shape() else { bail!("queries are not [B, T, D]") };
        let positions = self.tables.0.len() / (self.width / 2);
        ensure!((1..=positions).contains(&tokens), "{tokens} tokens, the table has {positions}");
        let (kv, q) = (self.kv_heads * self.width, self.heads * self.width);
        let (query, key) = (query.try_as_plain_ram()?, key.try_as_plain_ram()?);
        let value = value.try_as_plain_ram()?;
        let (query, key) = (query.as_slice::<f32>()?, key.as_slice::<f32>()?);
        let value = value.as_slice::<f32>()?;
        let sizes = [batch * tokens * q, batch * tokens * kv, batch * tokens * kv];
        ensure!([query, key, value].map(<[f32]>::len) == sizes, "q, k and v do not fit together");
        let softmax = Softmax::native()?;
        let mut output = Tensor::zero::<f32>(inputs[0].shape())?;
        let mut plain = output.try_as_plain_ram_mut()?;
        let out = plain.as_slice_mut::<f32>()?;
        let keys = key.chunks_exact(tokens * kv).zip(value.chunks_exact(tokens * kv));
        let rows = query.chunks_exact(tokens * q).zip(out.chunks_exact_mut(tokens * q));
        for ((query, out), (key, value)) in rows.zip(keys) {
            let sequence = Sequence { attention: self, softmax: &softmax, query, key, value };
            for head in 0..self.kv_heads {
                sequence.group(head, out)?;
            }
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

/// One sequence of the batch: `[T, heads * width]` and twice `[T, kv_heads * width]`.
struct Sequence<'a> {
    attention: &'a Attention,
    softmax: &'a Softmax,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
}

impl Sequence<'_> {
    /// Attention of the query heads that share the key head `head`.
    fn group(&self, head: usize, out: &mut [f32]) -> TractResult<()> {
        let Attention { heads, kv_heads, width, ref product, .. } = *self.attention;
        let (stride, group) = (heads * width, heads / kv_heads);
        let tokens = self.query.len() / stride;
        let (keys, values) = self.keys_and_values(head, tokens)?;
        let keys = product.left(&keys, 1)?;
        for start in (0..tokens).step_by(TILE) {
            let rows = TILE.min(tokens - start);
            let seen = (start + rows).next_multiple_of(LANES);
            let queries = product.right(&self.queries(head, start, rows)?)?;
            let mut scores = product.of(&keys, &queries, seen, rows * group)?;
            let mut plain = scores.try_as_plain_ram_mut()?;
            for (row, scores) in plain.as_slice_mut::<f32>()?.chunks_exact_mut(seen).enumerate() {
                self.softmax.causal(scores, start + row / group + 1)?;
            }
            let values = product.left(&values.slice(0, 0, seen)?, 0)?;
            let mixed = product.of(&values, &product.right(&scores)?, width, rows * group)?;
            let plain = mixed.try_as_plain_ram()?;
            for (row, mixed) in plain.as_slice::<f32>()?.chunks_exact(group * width).enumerate() {
                let to = (start + row) * stride + head * group * width;
                out[to..][..group * width].copy_from_slice(mixed);
            }
        }
        Ok(())
    }

    /// The rotated keys and the values of a key head, `[T, width]` each, zeros up to whole lanes.
    fn keys_and_values(&self, head: usize, tokens: usize) -> TractResult<(Tensor, Tensor)> {
        let Attention { kv_heads, width, .. } = *self.attention;
        let shape = [tokens.next_multiple_of(LANES), width];
        let (mut keys, mut values) = (vec![0.0; shape[0] * width], vec![0.0; shape[0] * width]);
        for t in 0..tokens {
            let (from, to) = (t * kv_heads * width + head * width, t * width..(t + 1) * width);
            self.rotate(&self.key[from..][..width], t, 1.0, &mut keys[to.clone()]);
            values[to].copy_from_slice(&self.value[from..][..width]);
        }
        Ok((Tensor::from_shape(&shape, &keys)?, Tensor::from_shape(&shape, &values)?))
    }

    /// The rotated queries of `rows` tokens, `[rows * group, width]`, each token's heads together.
    fn queries(&self, head: usize, start: usize, rows: usize) -> TractResult<Tensor> {
        let Attention { heads, kv_heads, width, .. } = *self.attention;
        let (group, scale) = (heads / kv_heads, (width as f32).sqrt().recip());
        let mut queries = vec![0.0; rows * group * width];
        for (row, to) in queries.chunks_exact_mut(width).enumerate() {
            let (t, member) = (start + row / group, row % group);
            let from = t * heads * width + (head * group + member) * width;
            self.rotate(&self.query[from..][..width], t, scale, to);
        }
        Tensor::from_shape(&[rows * group, width], &queries)
    }

    /// RoPE at position `t`, times `scale`: each pair `(a, b)`, half a head apart, turns by an angle.
    fn rotate(&self, x: &[f32], t: usize, scale: f32, to: &mut [f32]) {
        let half = x.len() / 2;
        let (cosines, sines) = &*self.attention.tables;
        let (cosines, sines) = (&cosines[t * half..][..half], &sines[t * half..][..half]);
        let ((a, b), (low, high)) = (x.split_at(half), to.split_at_mut(half));
        for i in 0..half {
            low[i] = (a[i] * cosines[i] - b[i] * sines[i]) * scale;
            high[i] = (b[i] * cosines[i] + a[i] * sines[i]) * scale;
        }
    }
}
