//! A whole decoder layer as one candle op on the CPU, with a hand-written backward pass.
//!
//! - In: x `[B, T, D]` and the layer's LoRA factors, flat. Out: the next residual stream.
//! - Gradients for x and the factors only: the base's weights are frozen.
//! - Saved between the passes: what the backward needs and cannot cheaply compute again.
//! - Never here: other devices (`reference.rs`), the loss.

use super::gemm::{Into, Threads, View, matmul};
use super::kernels::{self, Shape, Turn};
use super::layer::{Layer, LinearWeight, Rotary};
use crate::adapter::{Slot, Target};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Storage, Tensor, bail};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs `f` on the numbers of a contiguous f32 CPU tensor.
pub(crate) fn with_f32<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(numbers(storage, layout)?)),
        _ => bail!("expected a tensor on the CPU"),
    }
}

/// The numbers of a contiguous f32 storage.
pub(crate) fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&numbers[start..end]),
        _ => bail!("expected contiguous f32"),
    }
}

/// What the forward pass keeps for the backward pass; N = B * T rows.
struct Saved {
    /// 1 / rms before attention, `[N]`.
    inverse_attention: Vec<f32>,
    /// Rotated queries and keys, and values, `[N, qkv]`.
    qkv: Vec<f32>,
    /// Log-sum-exp of each row of scores, `[B, heads, T]`.
    lse: Vec<f32>,
    /// The attention's output, `[N, q]`.
    attended: Vec<f32>,
    /// The residual stream after attention, `[N, D]`.
    middle: Vec<f32>,
    /// 1 / rms before the MLP, `[N]`.
    inverse_mlp: Vec<f32>,
    /// Gate and up side by side, `[N, 2 F]`.
    gate_up: Vec<f32>,
    /// `input Aᵀ` of every slot, `[N, r]` each, in the order of the slots.
    narrow: Vec<Vec<f32>>,
}

/// One decoder layer: `[B, T, D]` and `[n]` flat factors to `[B, T, D]`.
pub(crate) struct FusedLayer {
    layer: Arc<Layer>,
    rotary: Arc<Rotary>,
    slots: Vec<Slot>,
    /// Where the layer's factors start in the adapter.
    start: usize,
    shape: Shape,
    /// Whether anything below this layer needs a gradient.
    input_gradient: bool,
    keep: bool,
    saved: Mutex<Option<Saved>>,
}

impl FusedLayer {
    /// `slots`: those of this layer, whose ranges begin at `start`; `keep`: a backward pass follows.
    pub(crate) fn new(
        layer: &Arc<Layer>,
        rotary: &Arc<Rotary>,
        slots: &[Slot],
        shape: Shape,
        keep: bool,
        input_gradient: bool,
    ) -> Self {
        Self {
            layer: layer.clone(),
            rotary: rotary.clone(),
            start: slots.first().map_or(0, |slot| slot.a.start),
            slots: slots.to_vec(),
            shape,
            input_gradient,
            keep,
            saved: Mutex::new(None),
        }
    }

    fn rows(&self) -> usize {
        self.shape.batch * self.shape.tokens
    }

    /// The slot of a target with its index, and its A and B inside `factors`.
    fn factors<'a>(&self, target: Target, factors: &'a [f32]) -> Option<Factors<'a>> {
        let index = self.slots.iter().position(|slot| slot.target == target)?;
        let slot = &self.slots[index];
        let a = &factors[slot.a.start - self.start..slot.a.end - self.start];
        let b = &factors[slot.b.start - self.start..slot.b.end - self.start];
        Some(Factors { index, rank: slot.rank, scale: slot.scale, a, b })
    }

    /// `out = x W + bias + scale (x Aᵀ) Bᵀ` into columns of `out`, whose rows are `stride` apart.
    fn linear(
        &self,
        target: Target,
        x: &[f32],
        factors: &[f32],
        out: (&mut [f32], usize, Into),
        narrow: &mut [Vec<f32>],
    ) -> Result<()> {
        let (rows, (out, stride, into)) = (self.rows(), out);
        let LinearWeight { weight, bias } = self.layer.linear(target);
        let (fan_in, fan_out) = weight.dims2()?;
        let input = View::dense(x, rows, fan_in);
        with_f32(weight, |weight| {
            let weight = View::dense(weight, fan_in, fan_out);
            matmul(out, stride, input, weight, 1.0, into, Threads::All);
        })?;
        if let Some(bias) = bias {
            with_f32(bias, |bias| {
                for row in out.chunks_mut(stride).take(rows) {
                    row.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
                }
            })?;
        }
        if let Some(lora) = self.factors(target, factors) {
            let mut thin = vec![0f32; rows * lora.rank];
            let a = View::dense(lora.a, lora.rank, fan_in).transposed();
            matmul(&mut thin, lora.rank, input, a, 1.0, Into::Replace, Threads::All);
            let b = View::dense(lora.b, fan_out, lora.rank).transposed();
            let thin_view = View::dense(&thin, rows, lora.rank);
            matmul(out, stride, thin_view, b, lora.scale, Into::Add, Threads::All);
            narrow[lora.index] = thin;
        }
        Ok(())
    }

    /// The gradients of one linear layer: `dx (+)= dy Wᵀ + ...`, and those of A and B.
    fn linear_backward(
        &self,
        target: Target,
        dy: View<'_>,
        pass: &mut Pass<'_>,
        dx: Option<(&mut [f32], Into)>,
        input: impl FnOnce() -> Result<Vec<f32>>,
    ) -> Result<()> {
        let rows = self.rows();
        let weight = &self.layer.linear(target).weight;
        let (fan_in, fan_out) = weight.dims2()?;
        let lora = self.factors(target, pass.factors);
        let mut thin_gradient = Vec::new();
        if let Some(lora) = &lora {
            let slot = &self.slots[lora.index];
            let b = View::dense(lora.b, fan_out, lora.rank);
            thin_gradient = vec![0f32; rows * lora.rank];
            matmul(&mut thin_gradient, lora.rank, dy, b, lora.scale, Into::Replace, Threads::All);
            let thin = View::dense(&pass.narrow[lora.index], rows, lora.rank);
            let db = &mut pass.gradient[slot.b.start - self.start..slot.b.end - self.start];
            matmul(db, lora.rank, dy.transposed(), thin, lora.scale, Into::Replace, Threads::All);
            let input = input()?;
            let da = &mut pass.gradient[slot.a.start - self.start..slot.a.end - self.start];
            let thin = View::dense(&thin_gradient, rows, lora.rank).transposed();
            let input = View::dense(&input, rows, fan_in);
            matmul(da, fan_in, thin, input, 1.0, Into::Replace, Threads::All);
        }
        let Some((dx, into)) = dx else { return Ok(()) };
        with_f32(weight, |weight| {
            let weight = View::dense(weight, fan_in, fan_out).transposed();
            matmul(dx, fan_in, dy, weight, 1.0, into, Threads::All);
        })?;
        if let Some(lora) = lora {
            let a = View::dense(lora.a, lora.rank, fan_in);
            let thin = View::dense(&thin_gradient, rows, lora.rank);
            matmul(dx, fan_in, thin, a, 1.0, Into::Add, Threads::All);
        }
        Ok(())
    }

    fn forward(&self, x: &[f32], factors: &[f32]) -> Result<(Vec<f32>, Saved)> {
        let (rows, shape, eps) = (self.rows(), &self.shape, self.layer.eps);
        let (d, f) = (x.len() / rows, self.layer.linear(Target::Down).weight.dims2()?.0);
        let mut narrow = vec![Vec::new(); self.slots.len()];

        let mut inverse_attention = vec![0f32; rows];
        let mut normed = vec![0f32; rows * d];
        with_f32(&self.layer.input_norm, |gain| {
            kernels::rms_norm(x, gain, eps, &mut normed, &mut inverse_attention);
        })?;
        let stride = shape.qkv();
        let mut qkv = vec![0f32; rows * stride];
        let places = [(Target::Q, 0), (Target::K, shape.q()), (Target::V, shape.q() + shape.kv())];
        for (target, at) in places {
            let out = (&mut qkv[at..], stride, Into::Replace);
            self.linear(target, &normed, factors, out, &mut narrow)?;
        }
        kernels::rope(&mut qkv, shape, &self.rotary.cos, &self.rotary.sin, Turn::Forward);
        let mut attended = vec![0f32; rows * shape.q()];
        let mut lse = vec![0f32; shape.batch * shape.heads * shape.tokens];
        kernels::attention(shape, &qkv, &mut attended, &mut lse);
        let mut middle = x.to_vec();
        self.linear(Target::O, &attended, factors, (&mut middle, d, Into::Add), &mut narrow)?;

        let mut inverse_mlp = vec![0f32; rows];
        with_f32(&self.layer.post_norm, |gain| {
            kernels::rms_norm(&middle, gain, eps, &mut normed, &mut inverse_mlp);
        })?;
        let mut gate_up = vec![0f32; rows * 2 * f];
        for (target, at) in [(Target::Gate, 0), (Target::Up, f)] {
            let out = (&mut gate_up[at..], 2 * f, Into::Replace);
            self.linear(target, &normed, factors, out, &mut narrow)?;
        }
        let mut active = vec![0f32; rows * f];
        kernels::swiglu(&gate_up, &mut active, f);
        let mut y = middle.clone();
        self.linear(Target::Down, &active, factors, (&mut y, d, Into::Add), &mut narrow)?;
        let saved =
            Saved { inverse_attention, qkv, lse, attended, middle, inverse_mlp, gate_up, narrow };
        Ok((y, saved))
    }

    /// The gradients of x (empty when nothing below needs it) and of the factors.
    fn backward(
        &self,
        x: &[f32],
        factors: &[f32],
        dy: &[f32],
        saved: Saved,
    ) -> Result<(Vec<f32>, Vec<f32>)> {
        let (rows, shape) = (self.rows(), &self.shape);
        let (d, f) = (x.len() / rows, self.layer.linear(Target::Down).weight.dims2()?.0);
        let Saved {
            inverse_attention,
            qkv,
            lse,
            attended,
            middle,
            inverse_mlp,
            mut gate_up,
            narrow,
        } = saved;
        let mut gradient = vec![0f32; factors.len()];
        let mut pass = Pass { factors, narrow: &narrow, gradient: &mut gradient };
        let layer = &self.layer;

        let mut dmiddle = dy.to_vec();
        let mut dactive = vec![0f32; rows * f];
        let dx = Some((&mut dactive[..], Into::Replace));
        self.linear_backward(Target::Down, View::dense(dy, rows, d), &mut pass, dx, || {
            let mut active = vec![0f32; rows * f];
            kernels::swiglu(&gate_up, &mut active, f);
            Ok(active)
        })?;
        kernels::swiglu_backward(&mut gate_up, &dactive, f);
        drop(dactive);
        let mut dnormed = vec![0f32; rows * d];
        for (target, at, into) in [(Target::Gate, 0, Into::Replace), (Target::Up, f, Into::Add)] {
            let dy = View::new(&gate_up[at..], rows, f, 2 * f);
            self.linear_backward(target, dy, &mut pass, Some((&mut dnormed, into)), || {
                normed_again(&layer.post_norm, &middle, &inverse_mlp)
            })?;
        }
        drop(gate_up);
        with_f32(&layer.post_norm, |gain| {
            kernels::rms_norm_backward(&dnormed, &middle, gain, &inverse_mlp, &mut dmiddle);
        })?;

        let mut dattended = vec![0f32; rows * shape.q()];
        let dx = Some((&mut dattended[..], Into::Replace));
        let dout = View::dense(&dmiddle, rows, d);
        self.linear_backward(Target::O, dout, &mut pass, dx, || Ok(attended.clone()))?;
        let mut dqkv = vec![0f32; qkv.len()];
        kernels::attention_backward(shape, &qkv, &attended, &lse, &dattended, &mut dqkv);
        drop((qkv, attended, dattended));
        kernels::rope(&mut dqkv, shape, &self.rotary.cos, &self.rotary.sin, Turn::Back);
        let (q, kv, stride) = (shape.q(), shape.kv(), shape.qkv());
        let places = [(Target::Q, 0, q), (Target::K, q, kv), (Target::V, q + kv, kv)];
        for (target, at, width) in places {
            let into = if at == 0 { Into::Replace } else { Into::Add };
            let dx = self.input_gradient.then_some((&mut dnormed[..], into));
            let dy = View::new(&dqkv[at..], rows, width, stride);
            self.linear_backward(target, dy, &mut pass, dx, || {
                normed_again(&layer.input_norm, x, &inverse_attention)
            })?;
        }
        if !self.input_gradient {
            return Ok((Vec::new(), gradient));
        }
        with_f32(&layer.input_norm, |gain| {
            kernels::rms_norm_backward(&dnormed, x, gain, &inverse_attention, &mut dmiddle);
        })?;
        Ok((dmiddle, gradient))
    }
}

/// A and B of one slot during a pass.
struct Factors<'a> {
    index: usize,
    rank: usize,
    scale: f32,
    a: &'a [f32],
    b: &'a [f32],
}

/// What every linear layer of one backward pass shares.
struct Pass<'a> {
    factors: &'a [f32],
    narrow: &'a [Vec<f32>],
    gradient: &'a mut [f32],
}

fn normed_again(gain: &Tensor, x: &[f32], inverse: &[f32]) -> Result<Vec<f32>> {
    let mut normed = vec![0f32; x.len()];
    with_f32(gain, |gain| kernels::rms_norm_again(x, gain, inverse, &mut normed))?;
    Ok(normed)
}

impl CustomOp2 for FusedLayer {
    fn name(&self) -> &'static str {
        "decoder-layer"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        factors: &CpuStorage,
        factors_layout: &Layout,
    ) -> Result<(CpuStorage, candle_core::Shape)> {
        let (y, saved) = self.forward(numbers(x, x_layout)?, numbers(factors, factors_layout)?)?;
        if self.keep {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        }
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        factors: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(saved) = saved else { bail!("the forward pass of this layer kept nothing") };
        let dy = dy.contiguous()?;
        let (dx, gradient) = with_f32(x, |x| {
            with_f32(factors, |factors| with_f32(&dy, |dy| self.backward(x, factors, dy, saved)))
        })????;
        let dx = match dx.is_empty() {
            true => None,
            false => Some(Tensor::from_vec(dx, x.shape(), x.device())?),
        };
        Ok((dx, Some(Tensor::from_vec(gradient, factors.shape(), factors.device())?)))
    }
}
