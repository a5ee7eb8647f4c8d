//! The frozen weights of the head on a device: one tensor a linear layer, and RoPE's tables.

use super::HeadError;
use crate::adapter::Target;
use crate::base::{Base, Config};
use candle_core::{Device, Tensor};

/// One linear layer of the base.
pub(super) struct LinearWeight {
    /// `[in, out]`
    pub(super) weight: Tensor,
    /// `[out]`
    pub(super) bias: Option<Tensor>,
}

/// A decoder layer of the base.
pub(super) struct Weights {
    /// Gains of the norms before attention and before the MLP, `[D]` each.
    pub(super) norms: [Tensor; 2],
    /// Gains of the norms of queries and keys, `[head_dim]` each, if the base has them.
    pub(super) head_norms: Option<[Tensor; 2]>,
    /// In the order of [`Target::ALL`].
    linears: [LinearWeight; 7],
}

impl Weights {
    /// Reads layer `index` of the base to a device.
    pub(super) fn load(base: &Base, index: usize, device: &Device) -> Result<Self, HeadError> {
        let prefix = format!("model.layers.{index}");
        let norm = |name| tensor(base, &format!("{prefix}.{name}.weight"), device);
        let [q, k, v, o, gate, up, down] =
            Target::ALL.map(|target| LinearWeight::load(base, &prefix, target, device));
        Ok(Self {
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
            head_norms: match base.config().qk_norm {
                true => Some([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?]),
                false => None,
            },
            linears: [q?, k?, v?, o?, gate?, up?, down?],
        })
    }

    /// The linear layer that a target names.
    pub(super) fn linear(&self, target: Target) -> &LinearWeight {
        &self.linears[target as usize]
    }
}

impl LinearWeight {
    fn load(base: &Base, prefix: &str, target: Target, device: &Device) -> Result<Self, HeadError> {
        let name = format!("{prefix}.{}", target.module());
        let bias = match target.is_biased(base.config()) {
            true => Some(tensor(base, &format!("{name}.bias"), device)?),
            false => None,
        };
        Ok(Self { weight: tensor(base, &format!("{name}.weight"), device)?, bias })
    }
}

/// A weight of the base as an f32 tensor.
pub(super) fn tensor(base: &Base, name: &str, device: &Device) -> Result<Tensor, HeadError> {
    let weight = base.weight(name)?;
    Ok(Tensor::from_vec(weight.data, weight.shape, device)?)
}

/// RoPE's cosines and sines, `[positions, head_dim / 2]`.
pub(super) struct Rotary {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
    pub(super) positions: usize,
}

impl Rotary {
    pub(super) fn new(
        config: &Config,
        positions: usize,
        device: &Device,
    ) -> Result<Self, HeadError> {
        let (cos, sin) = config.rope_tables(positions);
        let shape = (positions, config.head_dim / 2);
        let table = |numbers: &[f32]| Tensor::from_slice(numbers, shape, device);
        Ok(Self { cos: table(&cos)?, sin: table(&sin)?, positions })
    }
}
