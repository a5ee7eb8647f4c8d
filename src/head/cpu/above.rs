//! The final norm, lm_head and cross-entropy: nats of labelled rows, and their gradient.
//!
//! - Never more than 256 rows of logits alive: rows go through lm_head in chunks.
//! - Only labelled rows get here; a masked position costs nothing.
//! - One pass makes nats and gradient, while a chunk's logits are at hand.

use super::losses;
use crate::decoder::kernels;
use crate::products::gemm::{Into, View};
use crate::products::{Frozen, Pool};
use crate::settings::Activations;

/// Rows whose logits are alive at a time: few enough for memory, enough that packing lm_head for a
/// product costs little beside it.
const ROWS: usize = 256;
/// The same where memory counts for more.
const ROWS_LEAN: usize = 128;

/// Rows whose logits are alive at a time.
pub(crate) fn rows_at_once(activations: Activations) -> usize {
    match activations {
        Activations::Recompute => ROWS_LEAN,
        Activations::F32 | Activations::Bf16 => ROWS,
    }
}

/// What stands above the layers: final norm and lm_head.
pub(crate) struct Above<'a> {
    /// Gain of the norm, `[D]`.
    pub(crate) norm: &'a [f32],
    /// Epsilon of the norm.
    pub(crate) eps: f32,
    /// `[D, V]`
    pub(crate) lm_head: &'a Frozen,
    pub(crate) pool: &'a Pool,
    /// Rows whose logits are alive at a time.
    pub(crate) rows: usize,
}

impl Above<'_> {
    /// Logits of rows `[n, D]` of the residual stream, `[n, V]`.
    pub(crate) fn logits(&self, rows: &[f32]) -> Vec<f32> {
        let (d, vocab) = self.lm_head.fans();
        let count = rows.len() / d;
        let [mut normed, mut inverse] = [rows.len(), count].map(|len| self.pool.take(len));
        kernels::rms_norm(rows, self.norm, self.eps, &mut normed, &mut inverse);
        let mut logits = vec![0f32; count * vocab];
        let normed_rows = View::dense(&normed, count, d);
        match count {
            1 => self.lm_head.forward_row(&normed, &mut logits, Into::Replace),
            _ => self.lm_head.forward(normed_rows, (&mut logits, vocab, Into::Replace), self.pool),
        }
        self.pool.give([normed, inverse]);
        logits
    }

    /// The nats of predicting `targets` `[n]` from `rows` `[n, D]` of the residual stream.
    ///
    /// With `shares` `[n]`, the rows become the gradient of the sum of share times nats.
    pub(crate) fn nats(
        &self,
        rows: &mut [f32],
        targets: &[u32],
        shares: Option<&[f32]>,
    ) -> Vec<f32> {
        let mut normed = self.pool.take(rows.len());
        let mut inverse = self.pool.take(targets.len());
        let mut nats = vec![0f32; targets.len()];
        kernels::rms_norm(rows, self.norm, self.eps, &mut normed, &mut inverse);
        self.through_lm_head(&mut normed, targets, shares, &mut nats);
        if shares.is_some() {
            let x = self.pool.copy(rows);
            rows.fill(0.0);
            kernels::rms_norm_backward(&normed, &x, self.norm, &inverse, rows);
            self.pool.give([x]);
        }
        self.pool.give([normed, inverse]);
        nats
    }

    /// The sum of `KL(base || fast)` over rows `[n, D]` of both residual streams, in nats; the rows of
    /// fast become the gradient of `share` times it.
    pub(crate) fn divergence(&self, fast: &mut [f32], base: &[f32], share: f32) -> f64 {
        let (d, vocab) = self.lm_head.fans();
        let rows = fast.len() / d;
        let [mut own, mut other] = [fast.len(), base.len()].map(|len| self.pool.take(len));
        let [mut inverse, mut unused] = [rows, rows].map(|len| self.pool.take(len));
        kernels::rms_norm(fast, self.norm, self.eps, &mut own, &mut inverse);
        kernels::rms_norm(base, self.norm, self.eps, &mut other, &mut unused);
        let step = self.rows.min(rows);
        let [mut logits, mut truth] = [step, step].map(|rows| self.pool.take(rows * vocab));
        let mut sum = 0.0;
        for start in (0..rows).step_by(step.max(1)) {
            let count = step.min(rows - start);
            let span = start * d..(start + count) * d;
            let (logits, truth) = (&mut logits[..count * vocab], &mut truth[..count * vocab]);
            for (rows, out) in
                [(&own[span.clone()], &mut *logits), (&other[span.clone()], &mut *truth)]
            {
                let rows = View::dense(rows, count, d);
                self.lm_head.forward(rows, (out, vocab, Into::Replace), self.pool);
            }
            sum += losses::divergence(logits, truth, vocab, share);
            let slopes = View::dense(logits, count, vocab);
            self.lm_head.backward_finely(slopes, &mut own[span], self.pool);
        }
        let x = self.pool.copy(fast);
        fast.fill(0.0);
        kernels::rms_norm_backward(&own, &x, self.norm, &inverse, fast);
        self.pool.give([own, other, inverse, unused, logits, truth, x]);
        sum
    }

    /// As [`Above::nats`], for rows that are normed already; the gradient is that of these.
    fn through_lm_head(
        &self,
        normed: &mut [f32],
        targets: &[u32],
        shares: Option<&[f32]>,
        nats: &mut [f32],
    ) {
        let (d, vocab) = self.lm_head.fans();
        let step = self.rows.min(targets.len());
        let mut logits = self.pool.take(step * vocab);
        for start in (0..targets.len()).step_by(step.max(1)) {
            let span = start..targets.len().min(start + step);
            let rows = span.len();
            let logits = &mut logits[..rows * vocab];
            let normed = &mut normed[start * d..][..rows * d];
            let out = (&mut *logits, vocab, Into::Replace);
            self.lm_head.forward(View::dense(normed, rows, d), out, self.pool);
            let shares = shares.map(|shares| &shares[span.clone()]);
            let (targets, nats) = (&targets[span.clone()], &mut nats[span]);
            losses::cross_entropy(logits, vocab, targets, shares, nats);
            if shares.is_some() {
                let slopes = View::dense(logits, rows, vocab);
                self.lm_head.backward_finely(slopes, normed, self.pool);
            }
        }
        self.pool.give([logits]);
    }
}
