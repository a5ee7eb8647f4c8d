//! lm_head and cross-entropy, some rows at a time: nats of labelled rows, differentiable for the rows.

use super::layer::FrozenLinear;
use candle_core::{D, Result, Tensor};

/// Rows whose logits are made at a time.
const ROWS: usize = 256;

/// The nats of predicting `targets` `[n]` from normed rows `[n, D]` , differentiable
/// for the rows.
pub(super) fn nats(x: &Tensor, lm_head: &Tensor, targets: &[u32]) -> Result<Tensor> {
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

/// The sum of `KL(base || fast)` over normed rows `[n, D]` of both, likewise.
pub(super) fn divergence(fast: &Tensor, base: &Tensor, lm_head: &Tensor) -> Result<Tensor> {
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
