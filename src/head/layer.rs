//! The weights of a decoder layer as tensors, and RoPE's tables.

use super::HeadError;
use crate::adapter::Target;
use crate::base::{Base, Config};
use candle_core::{Device, Tensor};

/// One linear layer of the base.
pub(crate) struct LinearWeight {
    /// `[in, out]`
    pub(crate) weight: Tensor,
    /// `[out]`
    pub(crate) bias: Option<Tensor>,
}

/// One decoder layer of the base.
pub(crate) struct Layer {
    /// Gain of the norm before attention, `[D]`.
    pub(crate) input_norm: Tensor,
    /// Gain of the norm before the MLP, `[D]`.
    pub(crate) post_norm: Tensor,
    /// Epsilon of both.
    pub(crate) eps: f32,
    linears: [LinearWeight; 7],
}

impl Layer {
    /// Reads layer `index` of the base.
    pub(crate) fn load(base: &Base, index: usize, device: &Device) -> Result<Self, HeadError> {
        let prefix = format!("model.layers.{index}");
        let linear = |target: Target| -> Result<LinearWeight, HeadError> {
            let name = format!("{prefix}.{}", target.module());
            let biased =
                base.config().qkv_bias && matches!(target, Target::Q | Target::K | Target::V);
            let bias = match biased {
                true => Some(tensor(base, &format!("{name}.bias"), device)?),
                false => None,
            };
            Ok(LinearWeight { weight: tensor(base, &format!("{name}.weight"), device)?, bias })
        };
        let [q, k, v, o, gate, up, down] = Target::ALL.map(linear);
        Ok(Self {
            input_norm: tensor(base, &format!("{prefix}.input_layernorm.weight"), device)?,
            post_norm: tensor(base, &format!("{prefix}.post_attention_layernorm.weight"), device)?,
            eps: base.config().norm_eps,
            linears: [q?, k?, v?, o?, gate?, up?, down?],
        })
    }

    /// The linear layer that a target names.
    pub(crate) fn linear(&self, target: Target) -> &LinearWeight {
        &self.linears[target as usize]
    }
}

/// A weight of the base as an f32 tensor.
pub(crate) fn tensor(base: &Base, name: &str, device: &Device) -> Result<Tensor, HeadError> {
    let weight = base.weight(name)?;
    Ok(Tensor::from_vec(weight.data, weight.shape, device)?)
}

/// RoPE's cosines and sines, `[positions, head_dim / 2]`, as numbers and as tensors.
pub(crate) struct Rotary {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) cos_table: Tensor,
    pub(crate) sin_table: Tensor,
    pub(crate) positions: usize,
}

impl Rotary {
    pub(crate) fn new(
        config: &Config,
        positions: usize,
        device: &Device,
    ) -> Result<Self, HeadError> {
        let (cos, sin) = config.rope_tables(positions);
        let shape = (positions, config.head_dim / 2);
        Ok(Self {
            cos_table: Tensor::from_slice(&cos, shape, device)?,
            sin_table: Tensor::from_slice(&sin, shape, device)?,
            cos,
            sin,
            positions,
        })
    }
}
