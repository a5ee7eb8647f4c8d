//! A decoder layer composed of candle's own ops: any device, and the oracle of the CPU's kernels.
//!
//! - In: x `[B, T, D]`, the layer's factors, an optional cache of past keys and values.
//! - Out: the next residual stream `[B, T, D]`.
//! - The base's linear layers run as [`FrozenLinear`]: candle would compute a gradient for them.

use super::weights::{LinearWeight, Rotary, Weights};
use crate::adapter::{Module, Target};
use crate::base::Config;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, D, Device, Layout, MetalStorage, Result, Shape, Storage,
    Tensor, bail,
};

/// `y = x W` with a frozen W `[in, out]`; x is `[N, in]`.
pub(super) struct FrozenLinear(pub(super) Tensor);

impl FrozenLinear {
    fn sizes(&self, layout: &Layout) -> Result<(usize, usize, usize)> {
        let ((rows, fan_in), (_, fan_out)) = (layout.shape().dims2()?, self.0.dims2()?);
        Ok((rows, fan_in, fan_out))
    }
}

macro_rules! forward_on {
    ($method:ident, $storage:ident, $variant:ident) => {
        fn $method(&self, x: &$storage, layout: &Layout) -> Result<($storage, Shape)> {
            let (m, k, n) = self.sizes(layout)?;
            let (weight, weight_layout) = self.0.storage_and_layout();
            let Storage::$variant(weight) = &*weight else { bail!("weight on another device") };
            let y = x.matmul(weight, (1, m, n, k), layout, weight_layout)?;
            Ok((y, (m, n).into()))
        }
    };
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }
    forward_on!(cpu_fwd, CpuStorage, Cpu);
    forward_on!(cuda_fwd, CudaStorage, Cuda);
    forward_on!(metal_fwd, MetalStorage, Metal);

    fn bwd(&self, _x: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(dy.contiguous()?.matmul(&self.0.t()?)?))
    }
}

/// Keys and values of the tokens that a generation has seen, each `[B, kv_heads, T, head_dim]`.
#[derive(Clone, Default)]
pub(super) struct Cache {
    past: Option<(Tensor, Tensor)>,
}

impl Cache {
    fn extend(&mut self, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor)> {
        let (k, v) = match self.past.take() {
            Some((past_k, past_v)) => {
                (Tensor::cat(&[past_k, k], 2)?, Tensor::cat(&[past_v, v], 2)?)
            }
            None => (k, v),
        };
        self.past = Some((k.clone(), v.clone()));
        Ok((k, v))
    }

    /// The first `tokens` tokens of every text, in memory of their own.
    pub(super) fn beginning(&self, tokens: usize) -> Result<Self> {
        let own = |past: &Tensor| past.narrow(2, 0, tokens)?.contiguous();
        let both = |(k, v): &(Tensor, Tensor)| -> Result<_> { Ok((own(k)?, own(v)?)) };
        Ok(Self { past: self.past.as_ref().map(both).transpose()? })
    }

    /// Bytes that are taken.
    pub(super) fn bytes(&self) -> u64 {
        let past = self.past.iter().flat_map(|(k, v)| [k, v]);
        past.map(|past| (past.elem_count() * past.dtype().size_in_bytes()) as u64).sum()
    }

    /// Lets go of all texts but those at `places`.
    pub(super) fn keep(&mut self, places: &Tensor) -> Result<()> {
        if let Some((k, v)) = &mut self.past {
            (*k, *v) = (k.index_select(places, 0)?, v.index_select(places, 0)?);
        }
        Ok(())
    }
}

/// One decoder layer and what it needs at hand.
pub(super) struct Layer<'a> {
    pub(super) config: &'a Config,
    pub(super) weights: &'a Weights,
    pub(super) rotary: &'a Rotary,
    /// The layer's modules, whose ranges begin at `modules[0].a.start`.
    pub(super) modules: &'a [Module],
    /// The layer's factors, flat.
    pub(super) factors: &'a Tensor,
}

/// What a layer's linear layers read, `[N, in]` each, and the next residual stream, `[B, T, D]`.
pub(super) struct Ran {
    /// Queries, keys and values read it.
    pub(super) normed: Tensor,
    /// The attention's output.
    pub(super) attended: Tensor,
    /// Gate and up read it.
    pub(super) normed_again: Tensor,
    /// Down reads it.
    pub(super) active: Tensor,
    pub(super) out: Tensor,
}

impl Layer<'_> {
    /// The next residual stream; `first` is the position of the first token.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        first: usize,
        cache: Option<&mut Cache>,
    ) -> Result<Tensor> {
        Ok(self.run(x, first, cache)?.out)
    }

    /// [`Layer::forward`] with what was read on the way.
    pub(super) fn run(&self, x: &Tensor, first: usize, cache: Option<&mut Cache>) -> Result<Ran> {
        let (b, t, d) = x.dims3()?;
        let rows = x.reshape((b * t, d))?;
        let ([input_norm, post_norm], eps) = (&self.weights.norms, self.config.norm_eps);
        let normed = rms_norm(&rows, input_norm, eps)?;
        let attended = self.attend(&normed, (b, t), first, cache)?;
        let middle = (rows + self.linear(Target::O, &attended)?)?;
        let normed_again = rms_norm(&middle, post_norm, eps)?;
        let gate = self.linear(Target::Gate, &normed_again)?.silu()?;
        let active = (gate * self.linear(Target::Up, &normed_again)?)?;
        let out = (middle + self.linear(Target::Down, &active)?)?.reshape((b, t, d))?;
        Ok(Ran { normed, attended, normed_again, active, out })
    }

    fn attend(
        &self,
        normed: &Tensor,
        (b, t): (usize, usize),
        first: usize,
        cache: Option<&mut Cache>,
    ) -> Result<Tensor> {
        let Config { heads, kv_heads, head_dim, .. } = *self.config;
        let split = |x: Tensor, heads: usize| {
            x.reshape((b, t, heads, head_dim))?.transpose(1, 2)?.contiguous()
        };
        let mut q = split(self.linear(Target::Q, normed)?, heads)?;
        let mut k = split(self.linear(Target::K, normed)?, kv_heads)?;
        if let Some([of_q, of_k]) = &self.weights.head_norms {
            let eps = self.config.norm_eps;
            (q, k) = (rms_norm(&q, of_q, eps)?, rms_norm(&k, of_k, eps)?);
        }
        let (q, k) = (self.rotate(&q, first)?, self.rotate(&k, first)?);
        let v = split(self.linear(Target::V, normed)?, kv_heads)?;
        let (k, v) = match cache {
            Some(cache) => cache.extend(k, v)?,
            None => (k, v),
        };
        let (group, seen) = (heads / kv_heads, k.dim(2)?);
        // Queries of one key head stand in one matrix, so keys and values need no copies.
        let q = q.reshape((b, kv_heads, group * t, head_dim))?;
        let scores = (q.matmul(&k.t()?)? / (head_dim as f64).sqrt())?;
        let scores = scores.reshape((b, heads, t, seen))?;
        let scores = match t {
            1 => scores,
            _ => scores.broadcast_add(&causal_mask(t, seen, normed.device())?)?,
        };
        let probabilities = softmax(&scores)?.reshape((b, kv_heads, group * t, seen))?;
        let out = probabilities.matmul(&v)?.reshape((b, heads, t, head_dim))?;
        out.transpose(1, 2)?.reshape((b * t, heads * head_dim))
    }

    /// RoPE on `[B, heads, T, head_dim]`: the two halves of a head turn as pairs.
    fn rotate(&self, x: &Tensor, first: usize) -> Result<Tensor> {
        let (t, half) = (x.dim(2)?, self.config.head_dim / 2);
        let cos = self.rotary.cos.narrow(0, first, t)?;
        let sin = self.rotary.sin.narrow(0, first, t)?;
        let (low, high) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let turned_low = (low.broadcast_mul(&cos)? - high.broadcast_mul(&sin)?)?;
        let turned_high = (high.broadcast_mul(&cos)? + low.broadcast_mul(&sin)?)?;
        Tensor::cat(&[turned_low, turned_high], D::Minus1)
    }

    /// `x W + bias + scale (x Aᵀ) Bᵀ` for x `[N, in]`.
    fn linear(&self, target: Target, x: &Tensor) -> Result<Tensor> {
        let LinearWeight { weight, bias } = self.weights.linear(target);
        let mut y = x.contiguous()?.apply_op1(FrozenLinear(weight.clone()))?;
        if let Some(bias) = bias {
            y = y.broadcast_add(bias)?;
        }
        let Some(module) = self.modules.iter().find(|module| module.target == target) else {
            return Ok(y);
        };
        let start = self.modules[0].a.start;
        let part = |range: &std::ops::Range<usize>, shape: (usize, usize)| {
            self.factors.narrow(0, range.start - start, range.len())?.reshape(shape)
        };
        let a = part(&module.a, (module.rank, module.fan_in))?;
        let b = part(&module.b, (module.fan_out, module.rank))?;
        y + (x.matmul(&a.t()?)?.matmul(&b.t()?)? * f64::from(module.scale))?
    }
}

/// `x / rms(x) * gain` over the last dimension.
pub(super) fn rms_norm(x: &Tensor, gain: &Tensor, eps: f32) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + f64::from(eps))?.sqrt()?)?.broadcast_mul(gain)
}

/// Softmax over the last dimension; the subtracted maximum carries no gradient.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let highest = scores.detach().max_keepdim(D::Minus1)?;
    let exp = scores.broadcast_sub(&highest)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

/// What a score gets where a query may not look: its exponential is zero, and a sum with it stays
/// finite, which Metal's fast mathematics takes for granted.
const HIDDEN: f32 = -1e30;

/// `[t, seen]`: zero where a query may look, [`HIDDEN`] where it may not.
fn causal_mask(t: usize, seen: usize, device: &Device) -> Result<Tensor> {
    let past = seen - t;
    let mask: Vec<f32> = (0..t)
        .flat_map(|row| (0..seen).map(move |col| if col > past + row { HIDDEN } else { 0.0 }))
        .collect();
    Tensor::from_vec(mask, (t, seen), device)
}
