//! Causal attention with grouped key heads as one operator of tract's graph, RoPE included.
//!
//! - In: queries, keys and values side by side, `[B, T, (heads + 2 kv_heads) * width]`. Out:
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
    EvalContext, EvalOp, Op, StaticName, ToDim, TypedOp, bail, ensure,
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
    pub(super) fn new(
        config: &Config,
        product: Product,
        tables: Arc<(Vec<f32>, Vec<f32>)>,
    ) -> Self {
        let Config { heads, kv_heads, head_dim, .. } = *config;
        Self { heads, kv_heads, width: head_dim, product, tables }
    }

    /// Width of a row of queries, keys and values.
    fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.width
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
        let &[qkv] = inputs else { bail!("attention has {} inputs, expected 1", inputs.len()) };
        let mut shape = qkv.shape.clone();
        shape.set(2, (self.heads * self.width).to_dim());
        Ok(tvec!(f32::fact(shape)))
    }

    as_op!();
}

impl EvalOp for Attention {
    op_out_of_plan!();

    fn eval(&self, _: &EvalContext, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        let [qkv] = &*inputs else { bail!("{} inputs, expected 1", inputs.len()) };
        let &[batch, tokens, stride] = qkv.shape() else { bail!("rows are not [B, T, qkv]") };
        ensure!(stride == self.stride(), "rows of {stride}, expected {}", self.stride());
        let positions = self.tables.0.len() / (self.width / 2);
        ensure!((1..=positions).contains(&tokens), "{tokens} tokens, the table has {positions}");
        let q = self.heads * self.width;
        let softmax = Softmax::native()?;
        let mut output = Tensor::zero::<f32>(&[batch, tokens, q])?;
        let (qkv, mut plain) = (qkv.try_as_plain_ram()?, output.try_as_plain_ram_mut()?);
        let rows = qkv.as_slice::<f32>()?.chunks_exact(tokens * stride);
        for (qkv, out) in rows.zip(plain.as_slice_mut::<f32>()?.chunks_exact_mut(tokens * q)) {
            let sequence = Sequence { attention: self, softmax: &softmax, qkv };
            for head in 0..self.kv_heads {
                sequence.group(head, out)?;
            }
        }
        Ok(tvec!(output.into_tvalue()))
    }
}

/// One sequence of the batch.
struct Sequence<'a> {
    attention: &'a Attention,
    softmax: &'a Softmax,
    /// Queries, keys and values side by side, `[T, (heads + 2 kv_heads) * width]`.
    qkv: &'a [f32],
}

impl Sequence<'_> {
    /// Attention of the query heads that share the key head `head`.
    fn group(&self, head: usize, out: &mut [f32]) -> TractResult<()> {
        let Attention { heads, kv_heads, width, ref product, .. } = *self.attention;
        let (stride, group) = (heads * width, heads / kv_heads);
        let tokens = self.qkv.len() / self.attention.stride();
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
        let Attention { heads, kv_heads, width, .. } = *self.attention;
        let shape = [tokens.next_multiple_of(LANES), width];
        let (mut keys, mut values) = (vec![0.0; shape[0] * width], vec![0.0; shape[0] * width]);
        for t in 0..tokens {
            let key = t * self.attention.stride() + (heads + head) * width;
            let (value, to) = (key + kv_heads * width, t * width..(t + 1) * width);
            self.rotate(&self.qkv[key..][..width], t, 1.0, &mut keys[to.clone()]);
            values[to].copy_from_slice(&self.qkv[value..][..width]);
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
            let from = t * self.attention.stride() + (head * group + member) * width;
            self.rotate(&self.qkv[from..][..width], t, scale, to);
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
