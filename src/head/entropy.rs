//! The final norm, lm_head and cross-entropy: nats of labelled rows, and their gradient.
//!
//! - Never more than 256 rows of logits alive: rows go through lm_head in chunks.
//! - Only labelled rows get here; a masked position costs nothing.
//! - On the CPU one pass makes nats and gradient, while a chunk's logits are at hand.

use super::kernels;
use super::reference::FrozenLinear;
use crate::products::gemm::{Into, View};
use crate::products::{Frozen, Pool};
use crate::settings::Activations;
use candle_core::{CpuStorage, D, Result, Storage, Tensor, bail};

/// Rows whose logits are alive at a time: few enough for memory, enough that packing lm_head for a
/// product costs little beside it.
const ROWS: usize = 256;
/// The same where memory counts for more.
const ROWS_LEAN: usize = 128;

/// Rows whose logits are alive at a time.
pub(super) fn rows_at_once(activations: Activations) -> usize {
    match activations {
        Activations::Recompute => ROWS_LEAN,
        Activations::F32 | Activations::Bf16 => ROWS,
    }
}

/// Runs `f` on the numbers of a contiguous f32 CPU tensor.
pub(crate) fn with_f32<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(numbers)), Some((start, end))) => Ok(f(&numbers[start..end])),
        _ => bail!("expected a contiguous f32 tensor on the CPU"),
    }
}

/// What stands above the layers, on the CPU: final norm and lm_head.
pub(crate) struct Above<'a> {
    /// Gain of the norm, `[D]`.
    pub(crate) norm: &'a Tensor,
    /// Epsilon of the norm.
    pub(crate) eps: f32,
    /// `[D, V]`
    pub(crate) lm_head: &'a Frozen,
    pub(crate) pool: &'a Pool,
    /// Rows whose logits are alive at a time.
    pub(crate) rows: usize,
}

impl Above<'_> {
    /// The nats of predicting `targets` `[n]` from `rows` `[n, D]` of the residual stream.
    ///
    /// With `shares` `[n]`, the rows become the gradient of the sum of share times nats.
    pub(crate) fn nats(
        &self,
        rows: &mut [f32],
        targets: &[u32],
        shares: Option<&[f32]>,
    ) -> Result<Vec<f32>> {
        let mut normed = self.pool.take(rows.len());
        let mut inverse = self.pool.take(targets.len());
        let mut nats = vec![0f32; targets.len()];
        with_f32(self.norm, |gain| {
            kernels::rms_norm(rows, gain, self.eps, &mut normed, &mut inverse);
        })?;
        self.through_lm_head(&mut normed, targets, shares, &mut nats);
        if shares.is_some() {
            let x = self.pool.copy(rows);
            rows.fill(0.0);
            with_f32(self.norm, |gain| {
                kernels::rms_norm_backward(&normed, &x, gain, &inverse, rows);
            })?;
            self.pool.give([x]);
        }
        self.pool.give([normed, inverse]);
        Ok(nats)
    }

    /// The sum of `KL(base || fast)` over rows `[n, D]` of both residual streams, in nats; the rows of
    /// fast become the gradient of `share` times it.
    pub(crate) fn divergence(&self, fast: &mut [f32], base: &[f32], share: f32) -> Result<f64> {
        let (d, vocab) = self.lm_head.fans();
        let rows = fast.len() / d;
        let [mut own, mut other] = [fast.len(), base.len()].map(|len| self.pool.take(len));
        let [mut inverse, mut unused] = [rows, rows].map(|len| self.pool.take(len));
        with_f32(self.norm, |gain| {
            kernels::rms_norm(fast, gain, self.eps, &mut own, &mut inverse);
            kernels::rms_norm(base, gain, self.eps, &mut other, &mut unused);
        })?;
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
            sum += kernels::divergence(logits, truth, vocab, share);
            let slopes = View::dense(logits, count, vocab);
            self.lm_head.backward_finely(slopes, &mut own[span], self.pool);
        }
        let x = self.pool.copy(fast);
        fast.fill(0.0);
        with_f32(self.norm, |gain| kernels::rms_norm_backward(&own, &x, gain, &inverse, fast))?;
        self.pool.give([own, other, inverse, unused, logits, truth, x]);
        Ok(sum)
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
            kernels::cross_entropy(logits, vocab, targets, shares, nats);
            if shares.is_some() {
                let slopes = View::dense(logits, rows, vocab);
                self.lm_head.backward_finely(slopes, normed, self.pool);
            }
        }
        self.pool.give([logits]);
    }
}

/// The nats of predicting `targets` `[n]` from normed rows `[n, D]` by candle's own ops, on any
/// device and differentiable for the rows: the oracle of [`Above::nats`].
pub(crate) fn nats(x: &Tensor, lm_head: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let mut parts = Vec::new();
    for start in (0..targets.len()).step_by(ROWS) {
        let rows = ROWS.min(targets.len() - start);
        let x = x.narrow(0, start, rows)?.contiguous()?;
        let logits = x.apply_op1(FrozenLinear(lm_head.clone()))?;
        let highest = logits.detach().max_keepdim(D::Minus1)?;
        let total = logits.broadcast_sub(&highest)?.exp()?.sum_keepdim(D::Minus1)?;
        let targets = Tensor::from_slice(&targets[start..start + rows], (rows, 1), x.device())?;
        parts.push((total.log()? + highest)?.sub(&logits.gather(&targets, 1)?)?.squeeze(1)?);
    }
    Tensor::cat(&parts, 0)
}

/// The sum of `KL(base || fast)` over normed rows `[n, D]` of both, by candle's own ops: the oracle of
/// [`Above::divergence`].
pub(crate) fn divergence(fast: &Tensor, base: &Tensor, lm_head: &Tensor) -> Result<Tensor> {
    let log_softmax = |x: &Tensor| -> Result<Tensor> {
        let logits = x.apply_op1(FrozenLinear(lm_head.clone()))?;
        let logits = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
        let total = logits.exp()?.sum_keepdim(D::Minus1)?.log()?;
        logits.broadcast_sub(&total)
    };
    let mut sum = Tensor::zeros((), fast.dtype(), fast.device())?;
    for start in (0..fast.dim(0)?).step_by(ROWS) {
        let rows = ROWS.min(fast.dim(0)? - start);
        let part = |x: &Tensor| log_softmax(&x.narrow(0, start, rows)?.contiguous()?);
        let (own, truth) = (part(fast)?, part(base)?.detach());
        sum = (sum + truth.exp()?.mul(&(&truth - &own)?)?.sum_all()?)?;
    }
    Ok(sum)
}
