//! RMSNorm of each head of queries and keys, before they are rotated, as Qwen3 has it; and back.
//!
//! - In: queries, keys and values side by side, `[N, qkv]`, changed in their place. Values stay.
//! - A backward pass needs the heads as they were: a gain may be zero, so they do not follow from the output.
//! - Never here: which bases have it.
//!
//! Sources: RMSNorm arXiv 1910.07467; query and key norms arXiv 2010.04245; transformers 5,
//! `Qwen3Attention`.

use super::attention::Shape;
use super::kernels::dot;
use crate::products::{rows_per_task, wide};
use rayon::prelude::*;

/// The gains of both norms, `[head_dim]` each.
#[derive(Clone)]
pub(crate) struct HeadNorms {
    pub(crate) query: Vec<f32>,
    pub(crate) key: Vec<f32>,
}

impl HeadNorms {
    /// `head / rms(head) * gain` for every head of queries and keys.
    pub(crate) fn forward(&self, shape: &Shape, eps: f32, qkv: &mut [f32]) {
        let (stride, width) = (shape.qkv(), shape.head_dim);
        let rows = rows_per_task(qkv.len() / stride);
        qkv.par_chunks_mut(rows * stride).for_each(|rows| {
            wide(
                #[inline(always)]
                || {
                    for row in rows.chunks_exact_mut(stride) {
                        for (head, gain) in self.of(shape, row) {
                            let inverse = 1.0 / (dot(head, head) / width as f32 + eps).sqrt();
                            for (number, gain) in head.iter_mut().zip(gain) {
                                *number = *number * inverse * gain;
                            }
                        }
                    }
                },
            );
        });
    }

    /// In place: the gradient of what the norms gave, `[N, qkv]`, becomes that of what they read, `raw`
    /// `[N, q + kv]`.
    pub(crate) fn backward(&self, shape: &Shape, eps: f32, raw: &[f32], dqkv: &mut [f32]) {
        let (stride, width, normed) = (shape.qkv(), shape.head_dim, shape.q() + shape.kv());
        let rows = rows_per_task(dqkv.len() / stride);
        let tasks = dqkv.par_chunks_mut(rows * stride).zip(raw.par_chunks(rows * normed));
        tasks.for_each(|(rows, raw)| {
            wide(
                #[inline(always)]
                || {
                    for (row, raw) in rows.chunks_exact_mut(stride).zip(raw.chunks_exact(normed)) {
                        for ((slope, gain), x) in self.of(shape, row).zip(raw.chunks_exact(width)) {
                            let inverse = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
                            for (slope, gain) in slope.iter_mut().zip(gain) {
                                *slope *= gain;
                            }
                            let cube = inverse * inverse * inverse;
                            let along = dot(x, slope) * cube / width as f32;
                            for (slope, x) in slope.iter_mut().zip(x) {
                                *slope = inverse * *slope - along * x;
                            }
                        }
                    }
                },
            );
        });
    }

    /// The heads of queries and keys in a row, each with its gain.
    #[inline(always)]
    fn of<'a>(
        &'a self,
        shape: &Shape,
        row: &'a mut [f32],
    ) -> impl Iterator<Item = (&'a mut [f32], &'a [f32])> {
        let (queries, rest) = row.split_at_mut(shape.q());
        let (width, of_query, of_key) = (shape.head_dim, &self.query[..], &self.key[..]);
        let queries = queries.chunks_exact_mut(width).map(move |head| (head, of_query));
        let keys = rest[..shape.kv()].chunks_exact_mut(width).map(move |head| (head, of_key));
        queries.chain(keys)
    }
}

/// Queries and keys of rows `[N, qkv]`, before a norm changes them, into `[N, q + kv]`.
pub(crate) fn raw(shape: &Shape, qkv: &[f32], raw: &mut [f32]) {
    let normed = shape.q() + shape.kv();
    for (raw, row) in raw.chunks_exact_mut(normed).zip(qkv.chunks_exact(shape.qkv())) {
        raw.copy_from_slice(&row[..normed]);
    }
}
