//! The final norm, lm_head and cross-entropy: nats of labelled rows, and the loss over them.
//!
//! - Never more than `LOGITS_MAX` logits alive: rows go through lm_head in chunks.
//! - Only labelled rows get here; a masked position costs nothing.
//! - On the CPU the forward pass leaves the gradient behind, so the backward pass is a copy.

use super::fused::{numbers, with_f32};
use super::gemm::{Into, Threads, View, matmul};
use super::kernels;
use super::reference::FrozenLinear;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use std::sync::{Mutex, PoisonError};

/// Logits alive at a time: 16 MiB of f32.
const LOGITS_MAX: usize = 4 << 20;

/// Rows whose logits are alive at a time.
fn rows_at_once(vocab: usize) -> usize {
    (LOGITS_MAX / vocab).max(1)
}

/// `x / rms(x) * gain` on the CPU, with its own backward pass.
pub(crate) struct FusedNorm {
    gain: Tensor,
    eps: f32,
    inverse: Mutex<Vec<f32>>,
}

impl FusedNorm {
    pub(crate) fn new(gain: &Tensor, eps: f32) -> Self {
        Self { gain: gain.clone(), eps, inverse: Mutex::new(Vec::new()) }
    }
}

impl CustomOp1 for FusedNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = numbers(x, layout)?;
        let mut y = vec![0f32; x.len()];
        let mut inverse = vec![0f32; x.len() / self.gain.elem_count()];
        with_f32(&self.gain, |gain| {
            kernels::rms_norm(x, gain, self.eps, &mut y, &mut inverse);
        })?;
        *self.inverse.lock().unwrap_or_else(PoisonError::into_inner) = inverse;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let dy = dy.contiguous()?;
        let mut dx = vec![0f32; x.elem_count()];
        let inverse = self.inverse.lock().unwrap_or_else(PoisonError::into_inner);
        with_f32(x, |x| {
            with_f32(&dy, |dy| {
                with_f32(&self.gain, |gain| {
                    kernels::rms_norm_backward(dy, x, gain, &inverse, &mut dx);
                })
            })
        })???;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Nats of normed rows `[n, D]` on the CPU; the gradient of each row is ready after the forward.
struct FusedEntropy {
    lm_head: Tensor,
    targets: Vec<u32>,
    /// The gradient of each row's nats for that row of x, `[n, D]`.
    slopes: Mutex<Vec<f32>>,
}

impl CustomOp1 for FusedEntropy {
    fn name(&self) -> &'static str {
        "linear-cross-entropy"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = numbers(x, layout)?;
        let mut slopes = vec![0f32; x.len()];
        let nats = nats_on_cpu(x, &self.lm_head, &self.targets, Some(&mut slopes))?;
        *self.slopes.lock().unwrap_or_else(PoisonError::into_inner) = slopes;
        Ok((CpuStorage::F32(nats), self.targets.len().into()))
    }

    fn bwd(&self, x: &Tensor, _nats: &Tensor, dnats: &Tensor) -> Result<Option<Tensor>> {
        let slopes =
            std::mem::take(&mut *self.slopes.lock().unwrap_or_else(PoisonError::into_inner));
        let slopes = Tensor::from_vec(slopes, x.shape(), x.device())?;
        Ok(Some(slopes.broadcast_mul(&dnats.reshape(((), 1))?)?))
    }
}

/// Nats of each row of x `[n, D]`; `slopes` `[n, D]`, when given, gets each row's gradient.
fn nats_on_cpu(
    x: &[f32],
    lm_head: &Tensor,
    targets: &[u32],
    mut slopes: Option<&mut [f32]>,
) -> Result<Vec<f32>> {
    let (d, vocab) = lm_head.dims2()?;
    let step = rows_at_once(vocab);
    let mut nats = vec![0f32; targets.len()];
    let mut logits = vec![0f32; step.min(targets.len()) * vocab];
    let ones = vec![1f32; step.min(targets.len())];
    with_f32(lm_head, |lm_head| {
        let lm_head = View::dense(lm_head, d, vocab);
        for start in (0..targets.len()).step_by(step) {
            let rows = step.min(targets.len() - start);
            let logits = &mut logits[..rows * vocab];
            let x = View::dense(&x[start * d..], rows, d);
            matmul(logits, vocab, x, lm_head, 1.0, Into::Replace, Threads::All);
            let targets = &targets[start..start + rows];
            let shares = slopes.is_some().then_some(&ones[..rows]);
            let nats = &mut nats[start..start + rows];
            kernels::cross_entropy(logits, vocab, targets, shares, nats);
            if let Some(slopes) = &mut slopes {
                let (logits, back) = (View::dense(logits, rows, vocab), lm_head.transposed());
                let slopes = &mut slopes[start * d..];
                matmul(slopes, d, logits, back, 1.0, Into::Replace, Threads::All);
            }
        }
    })?;
    Ok(nats)
}

/// The nats of predicting `targets` `[n]` from normed rows `[n, D]`, differentiable for the rows.
///
/// `fused`: the CPU kernels; else candle's own ops, on any device.
pub(crate) fn nats(x: &Tensor, lm_head: &Tensor, targets: &[u32], fused: bool) -> Result<Tensor> {
    if fused {
        let slopes = Mutex::new(Vec::new());
        let op = FusedEntropy { lm_head: lm_head.clone(), targets: targets.to_vec(), slopes };
        return x.contiguous()?.apply_op1(op);
    }
    let mut parts = Vec::new();
    let step = rows_at_once(lm_head.dim(1)?);
    for start in (0..targets.len()).step_by(step) {
        let rows = step.min(targets.len() - start);
        let x = x.narrow(0, start, rows)?.contiguous()?;
        let logits = x.apply_op1(FrozenLinear(lm_head.clone()))?;
        let highest = logits.detach().max_keepdim(D::Minus1)?;
        let total = logits.broadcast_sub(&highest)?.exp()?.sum_keepdim(D::Minus1)?;
        let targets = Tensor::from_slice(&targets[start..start + rows], (rows, 1), x.device())?;
        parts.push((total.log()? + highest)?.sub(&logits.gather(&targets, 1)?)?.squeeze(1)?);
    }
    Tensor::cat(&parts, 0)
}

/// The nats alone, without a gradient or its cost.
pub(crate) fn nats_only(x: &Tensor, lm_head: &Tensor, targets: &[u32]) -> Result<Vec<f32>> {
    if x.device().is_cpu() {
        return with_f32(&x.contiguous()?, |x| nats_on_cpu(x, lm_head, targets, None))?;
    }
    nats(x, lm_head, targets, false)?.to_vec1()
}
