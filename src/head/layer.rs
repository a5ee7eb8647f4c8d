//! A decoder layer as the CPU's own kernels have it or as candle's ops do, and RoPE's tables.

use super::HeadError;
use crate::adapter::Target;
use crate::base::{Base, Config};
use crate::products::Frozen;
use crate::settings::HeadWeights;
use crate::weights;
use candle_core::{Device, Result, Tensor, bail};

/// One linear layer of the base as candle holds it.
pub(crate) struct LinearWeight {
    /// `[in, out]`
    pub(crate) weight: Tensor,
    /// `[out]`
    pub(crate) bias: Option<Tensor>,
}

/// A weight for the kernels or for candle.
pub(crate) enum Kept {
    /// For the CPU's own kernels.
    Frozen(Frozen),
    /// For candle's ops.
    Tensor(Tensor),
}

impl Kept {
    /// For the kernels.
    pub(crate) fn frozen(&self) -> Result<&Frozen> {
        match self {
            Self::Frozen(frozen) => Ok(frozen),
            Self::Tensor(_) => bail!("the head was loaded for candle's ops"),
        }
    }

    /// For candle, `[in, out]`; a kept matrix is widened at every call.
    pub(crate) fn tensor(&self) -> Result<Tensor> {
        match self {
            Self::Frozen(frozen) => Tensor::from_vec(frozen.widened(), frozen.fans(), &Device::Cpu),
            Self::Tensor(tensor) => Ok(tensor.clone()),
        }
    }
}

/// One decoder layer of the base.
pub(crate) enum Layer {
    /// For the CPU's own kernels.
    Frozen(Box<weights::Layer>),
    /// For candle's ops.
    Tensors(Box<Tensors>),
}

/// A layer's weights on a device.
pub(crate) struct Tensors {
    /// Gains of the norms before attention and before the MLP, `[D]` each.
    norms: [Tensor; 2],
    /// In the order of [`Target::ALL`].
    linears: [LinearWeight; 7],
}

impl Layer {
    /// Reads layer `index` of the base for the CPU's kernels (`kept`), else for candle.
    pub(crate) fn load(
        base: &Base,
        index: usize,
        device: &Device,
        kept: Option<HeadWeights>,
    ) -> std::result::Result<Self, HeadError> {
        Ok(match kept {
            Some(kept) => Self::Frozen(Box::new(weights::Layer::load(base, index, kept)?)),
            None => Self::Tensors(Box::new(Tensors::load(base, index, device)?)),
        })
    }

    /// For the kernels.
    pub(crate) fn frozen(&self) -> Result<&weights::Layer> {
        match self {
            Self::Frozen(layer) => Ok(layer),
            Self::Tensors(_) => bail!("the head was loaded for candle's ops"),
        }
    }

    /// Gains of the norms before attention and before the MLP, for candle.
    pub(crate) fn norms(&self) -> Result<[Tensor; 2]> {
        let tensor = |gain: &[f32]| Tensor::from_slice(gain, gain.len(), &Device::Cpu);
        Ok(match self {
            Self::Frozen(layer) => [tensor(&layer.input_norm)?, tensor(&layer.post_norm)?],
            Self::Tensors(tensors) => tensors.norms.clone(),
        })
    }

    /// The linear layer that a target names, for candle; a kept one is widened at every call.
    pub(crate) fn linear(&self, target: Target) -> Result<LinearWeight> {
        match self {
            Self::Frozen(layer) => widened(layer, target),
            Self::Tensors(tensors) => {
                let LinearWeight { weight, bias } = &tensors.linears[target as usize];
                Ok(LinearWeight { weight: weight.clone(), bias: bias.clone() })
            }
        }
    }
}

/// One linear layer of a kept layer, for candle.
fn widened(layer: &weights::Layer, target: Target) -> Result<LinearWeight> {
    let Some((all, columns)) = layer.place(target) else {
        bail!("no linear layer {}", target.module())
    };
    let weight = Tensor::from_vec(all.frozen.widened(), all.frozen.fans(), &Device::Cpu)?;
    let weight = weight.narrow(1, columns.start, columns.len())?.contiguous()?;
    let bias = match &all.bias {
        Some(bias) => {
            Some(Tensor::from_slice(&bias[columns.clone()], columns.len(), &Device::Cpu)?)
        }
        None => None,
    };
    Ok(LinearWeight { weight, bias })
}

impl Tensors {
    fn load(base: &Base, index: usize, device: &Device) -> std::result::Result<Self, HeadError> {
        let prefix = format!("model.layers.{index}");
        let norm = |name| tensor(base, &format!("{prefix}.{name}.weight"), device);
        let [q, k, v, o, gate, up, down] =
            Target::ALL.map(|target| LinearWeight::load(base, &prefix, target, device));
        Ok(Self {
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
            linears: [q?, k?, v?, o?, gate?, up?, down?],
        })
    }
}

impl LinearWeight {
    fn load(
        base: &Base,
        prefix: &str,
        target: Target,
        device: &Device,
    ) -> std::result::Result<Self, HeadError> {
        let name = format!("{prefix}.{}", target.module());
        let biased = base.config().qkv_bias && matches!(target, Target::Q | Target::K | Target::V);
        let bias = match biased {
            true => Some(tensor(base, &format!("{name}.bias"), device)?),
            false => None,
        };
        Ok(Self { weight: tensor(base, &format!("{name}.weight"), device)?, bias })
    }
}

/// A weight of the base as an f32 tensor.
pub(crate) fn tensor(
    base: &Base,
    name: &str,
    device: &Device,
) -> std::result::Result<Tensor, HeadError> {
    let weight = base.weight(name)?;
    Ok(Tensor::from_vec(weight.data, weight.shape, device)?)
}

/// A matrix of the base for the CPU's kernels (`kept`), else for candle.
pub(crate) fn matrix(
    base: &Base,
    name: &str,
    device: &Device,
    kept: Option<HeadWeights>,
) -> std::result::Result<Kept, HeadError> {
    let Some(kept) = kept else { return Ok(Kept::Tensor(tensor(base, name, device)?)) };
    let weight = base.weight(name)?;
    let fans = match weight.shape[..] {
        [fan_in, fan_out] => (fan_in, fan_out),
        _ => (0, 0),
    };
    Ok(Kept::Frozen(Frozen::new(weight.data, fans, kept)))
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
    ) -> std::result::Result<Self, HeadError> {
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
